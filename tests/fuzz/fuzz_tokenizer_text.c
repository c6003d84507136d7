/* Settings and text from a stranger over a good, tiny model. The input is a byte of switches, then tokenizer_config.json,
 * special_tokens_map.json, added_tokens.json and a text, with NULs between them; an empty part is an absent file. Held to: ids decode to
 * valid UTF-8, and the streamed text is the whole text. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/text.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put_piece(fs_buffer *b, const char *text, float score, int kind) {
    uint8_t head[2] = {0x0A, (uint8_t)strlen(text)}, tail[7] = {0x15, 0, 0, 0, 0, 0x18, (uint8_t)kind};
    uint8_t outer[2] = {0x0A, (uint8_t)(2 + strlen(text) + 7)};
    memcpy(tail + 1, &score, 4);
    fs_buffer_add(b, outer, 2);
    fs_buffer_add(b, head, 2);
    fs_buffer_puts(b, text);
    fs_buffer_add(b, tail, 7);
}

static void tiny_model(fs_buffer *b) {
    static const char *const normal[] = {"\xE2\x96\x81\xE2\x96\x81",
                                         "\xE2\x96\x81t",
                                         "he",
                                         "\xE2\x96\x81the",
                                         "<s",
                                         "unk",
                                         "[S",
                                         "EG",
                                         "\xE2\x96\x81",
                                         "a",
                                         "t",
                                         "h",
                                         "e",
                                         "s",
                                         "<",
                                         ">",
                                         "/",
                                         "[",
                                         "]",
                                         "u",
                                         "n",
                                         "k",
                                         "S",
                                         "E",
                                         "G",
                                         ".",
                                         "\xC3\xA9"};
    put_piece(b, "<unk>", 0, 2);
    put_piece(b, "<s>", 0, 3);
    put_piece(b, "</s>", 0, 3);
    for (int i = 0; i < 256; i++) {
        char text[8];
        snprintf(text, sizeof text, "<0x%02X>", i);
        put_piece(b, text, 0, 6);
    }
    for (size_t i = 0; i < sizeof normal / sizeof normal[0]; i++) put_piece(b, normal[i], -(float)i, 1);
    fs_buffer_add(b, "\x12\x05\x18\x02\x98\x02\x01", 7); /* BPE, byte fallback */
    fs_buffer_add(b, "\x1A\x02\x20\x00", 4);             /* spaces are kept */
}

static void check_text(const fs_tokenizer *t, const fs_ids *ids, bool cleans) {
    fs_error err;
    fs_text_stream *s;
    fs_buffer all = {0};
    for (int skip = 0; skip < 2; skip++) {
        char *text;
        if (fs_tokenizer_decode(t, ids->data, ids->count, skip, &text, &err)) abort();
        if (!fs_utf8_valid(text, strlen(text))) abort();
        if (skip && !cleans) {
            if (fs_text_stream_create(t, &s, &err)) abort();
            for (size_t i = 0; i <= ids->count; i++) {
                const char *piece;
                if (fs_text_stream_push(s, i < ids->count ? ids->data[i] : FS_TEXT_STREAM_END, &piece, &err)) abort();
                if (!fs_utf8_valid(piece, strlen(piece))) abort();
                fs_buffer_puts(&all, piece);
            }
            fs_text_stream_free(s);
            if (strcmp(all.data ? all.data : "", text) != 0) abort();
        }
        free(text);
    }
    fs_buffer_free(&all);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) return 0;
    char *copy = malloc(size); /* the switches' byte makes room for a NUL at the end */
    if (!copy) return 0;
    memcpy(copy, data + 1, size - 1);
    copy[size - 1] = '\0';
    const char *part[4] = {"", "", "", ""}, *p = copy, *end = copy + size - 1;
    for (int i = 0; i < 4; i++) {
        part[i] = p;
        p += strlen(p);
        if (p < end && i < 3) p++;
    }
    fs_buffer model = {0};
    tiny_model(&model);
    fs_tokenizer_files files = {.where = "fuzz", .model = {model.data, model.size}};
    fs_bytes *file[3] = {&files.config, &files.special_map, &files.added};
    for (int i = 0; i < 3; i++)
        if (*part[i]) *file[i] = (fs_bytes){part[i], strlen(part[i])};
    fs_tokenizer *t;
    fs_error err;
    if (fs_tokenizer_create(&files, data[0] & 1 ? FS_RULES_437 : FS_RULES_428, &t, &err) == FS_OK) {
        fs_ids ids = {0}, images = {0}, odd = {0};
        bool cleans = strstr(part[0], "clean_up") != NULL;
        if (fs_tokenizer_encode(t, part[3], &ids, &err)) abort();
        if (fs_tokenizer_encode_image(t, part[3], &images, &err)) abort();
        /* the text's bytes as ids, too: runs that no encoder would give */
        for (const char *q = part[3]; *q; q++) {
            int32_t id = (unsigned char)*q + (data[0] & 2 ? 3 : fs_tokenizer_size(t) - 128);
            char *one;
            if (fs_tokenizer_decode(t, &id, 1, false, &one, &err) == FS_OK) fs_ids_push(&odd, id, NULL), free(one);
        }
        check_text(t, &ids, cleans);
        check_text(t, &odd, cleans);
        fs_ids_free(&ids);
        fs_ids_free(&images);
        fs_ids_free(&odd);
        fs_tokenizer_free(t);
    }
    fs_buffer_free(&model);
    free(copy);
    return 0;
}
