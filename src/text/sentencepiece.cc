/* libsentencepiece (Kudo and Richardson, 2018) behind four C functions. The model has been checked before it comes here (spm_model.c);
 * what the library still refuses is a message, and what it throws ends here. */
#include "text/sentencepiece.h"

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include <sentencepiece_processor.h>

struct fs_sentencepiece {
    sentencepiece::SentencePieceProcessor processor;
};

static void say(char *message, size_t room, const char *text) {
    std::snprintf(message, room, "%s", text);
}

extern "C" fs_sentencepiece *fs_sentencepiece_create(const void *proto, size_t size, char *message, size_t room) {
    fs_sentencepiece *s = nullptr;
    try {
        s = new fs_sentencepiece;
        const auto status = s->processor.LoadFromSerializedProto(std::string_view(static_cast<const char *>(proto), size));
        if (status.ok()) return s;
        say(message, room, status.error_message());
    } catch (const std::bad_alloc &) {
        say(message, room, "out of memory");
    } catch (const std::exception &e) {
        say(message, room, e.what());
    } catch (...) {
        say(message, room, "unknown failure");
    }
    delete s;
    return nullptr;
}

extern "C" void fs_sentencepiece_free(fs_sentencepiece *s) {
    delete s;
}

extern "C" int fs_sentencepiece_find(const fs_sentencepiece *s, const char *piece, size_t n) {
    try {
        return s->processor.PieceToId(std::string_view(piece, n));
    } catch (...) {
        return s->processor.unk_id();
    }
}

extern "C" bool fs_sentencepiece_encode(const fs_sentencepiece *s, const char *text, size_t n, bool (*emit)(void *, const char *, size_t),
                                        void *user_data, char *message, size_t room) {
    try {
        std::vector<std::string> pieces;
        const auto status = s->processor.Encode(std::string_view(text, n), &pieces);
        if (!status.ok()) {
            say(message, room, status.error_message());
            return false;
        }
        for (const auto &piece : pieces) {
            if (!emit(user_data, piece.data(), piece.size())) {
                say(message, room, "out of memory");
                return false;
            }
        }
        return true;
    } catch (const std::bad_alloc &) {
        say(message, room, "out of memory");
    } catch (const std::exception &e) {
        say(message, room, e.what());
    } catch (...) {
        say(message, room, "unknown failure");
    }
    return false;
}
