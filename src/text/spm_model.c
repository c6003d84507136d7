/* Reading a tokenizer.model: a protocol buffer (ModelProto of sentencepiece_model.proto) with the pieces, their scores and kinds, and the
 * normalizer's switches. libsentencepiece trusts the bytes it is given (a broken one can end the process), so every field that matters is
 * checked here, and the library is handed a new ModelProto written from the checked values. That also makes switching the dummy prefix
 * off (transformers' `legacy: false`) a plain field.
 *
 * Accepted is what LLaMA's tokenizers are: BPE, no normalization table, no user-defined pieces. */
#include "text/spm_model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/utf8.h"

enum { MAX_PIECES = 1 << 20, MAX_PIECE_BYTES = 512, MODEL_BPE = 2 };

/* Field numbers of sentencepiece_model.proto. */
enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3, MODEL_DENORMALIZER = 5 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_KIND = 3 };
enum { TRAINER_MODEL_TYPE = 3, TRAINER_SPACE_AS_SUFFIX = 24, TRAINER_BYTE_FALLBACK = 35, TRAINER_UNK_SURFACE = 44 };
enum { NORMALIZER_TABLE = 2, NORMALIZER_DUMMY_PREFIX = 3, NORMALIZER_EXTRA_SPACES = 4, NORMALIZER_ESCAPE = 5 };
enum { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

/* ---- protocol buffers, the few lines of them needed ---- */

typedef struct reader {
    const uint8_t *p, *end;
} reader;
typedef struct field {
    uint32_t number;
    uint32_t wire;
    uint64_t value;
    const uint8_t *data;
    size_t size;
} field;

static bool read_varint(reader *r, uint64_t *out) {
    uint64_t v = 0;
    for (unsigned shift = 0; shift < 64 && r->p < r->end; shift += 7) {
        uint8_t b = *r->p++;
        v |= (uint64_t)(b & 0x7F) << shift;
        if (!(b & 0x80)) return *out = v, true;
    }
    return false;
}

/* The next field; false at a broken one. Call while r->p < r->end. */
static bool read_field(reader *r, field *f) {
    uint64_t tag;
    memset(f, 0, sizeof *f);
    if (!read_varint(r, &tag) || tag >> 32) return false;
    f->number = (uint32_t)(tag >> 3), f->wire = (uint32_t)(tag & 7);
    if (f->number == 0) return false;
    if (f->wire == WIRE_VARINT) return read_varint(r, &f->value);
    uint64_t n;
    if (f->wire == WIRE_BYTES) {
        if (!read_varint(r, &n)) return false;
    } else if (f->wire == WIRE_64 || f->wire == WIRE_32) {
        n = f->wire == WIRE_64 ? 8 : 4;
    } else {
        return false; /* groups are not in use since 2008 */
    }
    if (n > (uint64_t)(r->end - r->p)) return false;
    f->data = r->p, f->size = (size_t)n;
    r->p += n;
    return true;
}

static void put_varint(fs_buffer *b, uint64_t v) {
    uint8_t bytes[10];
    size_t n = 0;
    do {
        bytes[n++] = (uint8_t)((v & 0x7F) | (v > 0x7F ? 0x80 : 0));
        v >>= 7;
    } while (v);
    fs_buffer_add(b, bytes, n);
}

static void put_number(fs_buffer *b, uint32_t number, uint64_t v) {
    put_varint(b, number << 3 | WIRE_VARINT);
    put_varint(b, v);
}

static void put_bytes(fs_buffer *b, uint32_t number, const void *data, size_t n) {
    put_varint(b, number << 3 | WIRE_BYTES);
    put_varint(b, n);
    fs_buffer_add(b, data, n);
}

/* ---- reading ---- */

/* "<0x0A>" -> 10, else -1. */
static int byte_of(const uint8_t *p, size_t n) {
    static const char digits[] = "0123456789ABCDEF";
    if (n != 6 || memcmp(p, "<0x", 3) != 0 || p[5] != '>' || p[3] == 0 || p[4] == 0) return -1;
    const char *high = strchr(digits, p[3]), *low = strchr(digits, p[4]);
    return high && low ? (int)((high - digits) * 16 + (low - digits)) : -1;
}

static fs_status broken(fs_error *err, const char *where, const char *what) {
    return fs_fail(err, FS_E_FORMAT, "%s: not a whole SentencePiece model (%s); download tokenizer.model again", where, what);
}

static fs_status read_piece(const field *message, const char *where, fs_spm_model *m, size_t *text_used, fs_error *err) {
    reader r = {message->data, message->data + message->size};
    field f, text = {0};
    fs_piece piece = {.kind = FS_PIECE_NORMAL};
    int32_t id = m->count;
    while (r.p < r.end) {
        if (!read_field(&r, &f)) return broken(err, where, "a piece is cut short");
        if (f.number == PIECE_TEXT && f.wire == WIRE_BYTES) text = f;
        if (f.number == PIECE_SCORE && f.wire == WIRE_32) memcpy(&piece.score, f.data, 4);
        if (f.number == PIECE_KIND && f.wire == WIRE_VARINT) piece.kind = f.value > FS_PIECE_BYTE ? 0 : (uint8_t)f.value;
    }
    if (text.size == 0 || text.size > MAX_PIECE_BYTES || memchr(text.data, 0, text.size) ||
        !fs_utf8_valid((const char *)text.data, text.size))
        return fs_fail(err, FS_E_FORMAT, "%s: piece %d is no text of 1 to %d bytes; download tokenizer.model again", where, id,
                       MAX_PIECE_BYTES);
    if (!isfinite(piece.score)) return fs_fail(err, FS_E_FORMAT, "%s: piece %d has a score that is no number", where, id);
    if (piece.kind < FS_PIECE_NORMAL || piece.kind == FS_PIECE_USER)
        return fs_fail(err, FS_E_UNSUPPORTED,
                       "%s: piece %d is of a kind that LLaMA's tokenizers do not have (user-defined or unknown to this version)", where,
                       id);
    if (piece.kind == FS_PIECE_BYTE) {
        int byte = byte_of(text.data, text.size);
        if (byte < 0) return fs_fail(err, FS_E_FORMAT, "%s: piece %d is marked as a byte, but is not written as <0xNN>", where, id);
        piece.byte = (uint8_t)byte;
    }
    if (piece.kind == FS_PIECE_UNKNOWN) {
        if (m->unknown >= 0) return fs_fail(err, FS_E_FORMAT, "%s: pieces %d and %d are both the unknown piece", where, m->unknown, id);
        m->unknown = id;
    }
    piece.offset = (uint32_t)*text_used, piece.length = (uint16_t)text.size;
    memcpy(m->text + *text_used, text.data, text.size);
    m->text[*text_used + text.size] = '\0';
    *text_used += text.size + 1;
    m->pieces[m->count++] = piece;
    return FS_OK;
}

static fs_status read_trainer(const field *message, const char *where, fs_spm_model *m, bool *bpe, fs_error *err) {
    reader r = {message->data, message->data + message->size};
    field f;
    while (r.p < r.end) {
        if (!read_field(&r, &f)) return broken(err, where, "its training settings are cut short");
        if (f.number == TRAINER_MODEL_TYPE && f.wire == WIRE_VARINT) *bpe = f.value == MODEL_BPE;
        if (f.number == TRAINER_BYTE_FALLBACK && f.wire == WIRE_VARINT) m->byte_fallback = f.value != 0;
        if (f.number == TRAINER_SPACE_AS_SUFFIX && f.wire == WIRE_VARINT && f.value)
            return fs_fail(err, FS_E_UNSUPPORTED, "%s: marks spaces behind words; LLaMA's tokenizers mark them in front", where);
        if (f.number == TRAINER_UNK_SURFACE && f.wire == WIRE_BYTES) {
            if (f.size >= sizeof m->unknown_surface || memchr(f.data, 0, f.size) || !fs_utf8_valid((const char *)f.data, f.size))
                return broken(err, where, "unk_surface is no short text");
            memcpy(m->unknown_surface, f.data, f.size);
            m->unknown_surface[f.size] = '\0';
        }
    }
    return FS_OK;
}

static fs_status read_normalizer(const field *message, const char *where, bool denormalizer, fs_spm_model *m, fs_error *err) {
    reader r = {message->data, message->data + message->size};
    field f;
    while (r.p < r.end) {
        if (!read_field(&r, &f)) return broken(err, where, "its normalizer settings are cut short");
        if (f.number == NORMALIZER_TABLE && f.wire == WIRE_BYTES && f.size > 0)
            return fs_fail(err, FS_E_UNSUPPORTED, "%s: has a table of character replacements; LLaMA's tokenizers have none (\"identity\")",
                           where);
        if (denormalizer || f.wire != WIRE_VARINT) continue;
        if (f.number == NORMALIZER_DUMMY_PREFIX) m->dummy_prefix = f.value != 0;
        if (f.number == NORMALIZER_EXTRA_SPACES) m->remove_extra_spaces = f.value != 0;
        if (f.number == NORMALIZER_ESCAPE && !f.value)
            return fs_fail(err, FS_E_UNSUPPORTED, "%s: leaves spaces unmarked; LLaMA's tokenizers mark them with U+2581", where);
    }
    return FS_OK;
}

static fs_status check_bytes(const fs_spm_model *m, const char *where, fs_error *err) {
    bool seen[256] = {false};
    int found = 0;
    for (int32_t i = 0; i < m->count; i++) {
        if (m->pieces[i].kind != FS_PIECE_BYTE) continue;
        found += !seen[m->pieces[i].byte];
        seen[m->pieces[i].byte] = true;
    }
    if (found != (m->byte_fallback ? 256 : 0))
        return fs_fail(err, FS_E_FORMAT, "%s: holds %d byte pieces, %s expected; download tokenizer.model again", where, found,
                       m->byte_fallback ? "256" : "none");
    return FS_OK;
}

fs_status fs_spm_read(const void *bytes, size_t size, const char *where, fs_spm_model *out, fs_error *err) {
    static const char lfs[] = "version https://git-lfs";
    fs_status st = FS_OK;
    bool bpe = false, trainer = false, normalizer = false;
    size_t count = 0, room = 0, used = 0;
    fs_spm_model m = {.unknown = -1, .dummy_prefix = true, .remove_extra_spaces = true, .unknown_surface = " \xE2\x81\x87 "};
    memset(out, 0, sizeof *out);
    if (size == 0) return fs_fail(err, FS_E_FORMAT, "%s: the file is empty; download tokenizer.model again", where);
    if (size > sizeof lfs && memcmp(bytes, lfs, sizeof lfs - 1) == 0)
        return fs_fail(err, FS_E_FORMAT, "%s: this is a Git LFS pointer, not the file itself; run \"git lfs pull\"", where);

    field f;
    for (reader r = {bytes, (const uint8_t *)bytes + size}; r.p < r.end;) { /* first pass: sizes */
        if (!read_field(&r, &f)) return broken(err, where, "it is cut short or something else");
        if (f.wire != WIRE_BYTES) continue;
        if (f.number == MODEL_PIECES) count++, room += f.size + 1;
        trainer |= f.number == MODEL_TRAINER, normalizer |= f.number == MODEL_NORMALIZER;
    }
    if (count == 0) return broken(err, where, "it holds no pieces");
    if (!trainer || !normalizer) return broken(err, where, "its settings are missing");
    if (count > MAX_PIECES || room > UINT32_MAX)
        return fs_fail(err, FS_E_LIMIT, "%s: holds %zu pieces, at most %d are taken", where, count, MAX_PIECES);
    m.pieces = fs_alloc(count, sizeof *m.pieces);
    m.text = fs_alloc(room, 1);
    if (!m.pieces || !m.text) {
        st = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory for %zu pieces", where, count);
        goto done;
    }
    for (reader r = {bytes, (const uint8_t *)bytes + size}; r.p < r.end && st == FS_OK;) {
        if (!read_field(&r, &f))
            st = broken(err, where, "it is cut short");
        else if (f.wire != WIRE_BYTES)
            continue;
        else if (f.number == MODEL_PIECES)
            st = read_piece(&f, where, &m, &used, err);
        else if (f.number == MODEL_TRAINER)
            st = read_trainer(&f, where, &m, &bpe, err);
        else if (f.number == MODEL_NORMALIZER)
            st = read_normalizer(&f, where, false, &m, err);
        else if (f.number == MODEL_DENORMALIZER)
            st = read_normalizer(&f, where, true, &m, err);
    }
    if (st) goto done;
    if (!bpe)
        st = fs_fail(err, FS_E_UNSUPPORTED, "%s: is not a BPE model; FakeShield's language models use LLaMA's BPE tokenizer", where);
    else if (m.unknown < 0)
        st = broken(err, where, "it has no unknown piece");
    else
        st = check_bytes(&m, where, err);
done:
    if (st)
        fs_spm_free(&m);
    else
        *out = m;
    return st;
}

void fs_spm_free(fs_spm_model *m) {
    if (!m) return;
    free(m->pieces);
    free(m->text);
    memset(m, 0, sizeof *m);
}

fs_status fs_spm_write(const fs_spm_model *m, bool dummy_prefix, fs_buffer *out, fs_error *err) {
    fs_buffer b = {0};
    for (int32_t i = 0; i < m->count; i++) {
        const fs_piece *p = &m->pieces[i];
        b.size = 0;
        put_bytes(&b, PIECE_TEXT, fs_spm_text(m, i), p->length);
        put_varint(&b, PIECE_SCORE << 3 | WIRE_32);
        fs_buffer_add(&b, &p->score, 4);
        put_number(&b, PIECE_KIND, p->kind);
        put_bytes(out, MODEL_PIECES, b.data, b.size);
    }
    b.size = 0;
    put_number(&b, TRAINER_MODEL_TYPE, MODEL_BPE);
    put_number(&b, TRAINER_BYTE_FALLBACK, m->byte_fallback);
    put_bytes(out, MODEL_TRAINER, b.data, b.size);
    b.size = 0;
    put_number(&b, NORMALIZER_DUMMY_PREFIX, dummy_prefix);
    put_number(&b, NORMALIZER_EXTRA_SPACES, m->remove_extra_spaces);
    put_number(&b, NORMALIZER_ESCAPE, 1);
    put_bytes(out, MODEL_NORMALIZER, b.data, b.size);
    bool failed = b.failed || out->failed;
    fs_buffer_free(&b);
    return failed ? fs_fail(err, FS_E_NO_MEMORY, "out of memory for the tokenizer") : FS_OK;
}
