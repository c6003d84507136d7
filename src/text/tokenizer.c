/* The LLaMA tokenizer: text is cut at added tokens (the leftmost, then the longest), what lies between goes through SentencePiece's BPE.
 * Follows the slow LlamaTokenizer of transformers 4.28.0 and 4.37.2 (models/llama/tokenization_llama.py, tokenization_utils.py), whose
 * differences are: 4.28 strips white space around tokens without options; 4.37 has `legacy: false`, where only the whole text gets a
 * space mark in front and SentencePiece adds none of its own.
 *
 * Text that is no valid UTF-8 is repaired first (U+FFFD for each broken part), since Python could not hold it. */
#include "text/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

#include "text/utf8.h"

enum { MAX_MODEL_BYTES = 64 << 20, MAX_JSON_BYTES = 16 << 20, MAX_TEXT_BYTES = 16 << 20 };

/* ---- lists of ids ---- */

fs_status fs_ids_push(fs_ids *ids, int32_t id, fs_error *err) {
    if (ids->count == ids->capacity) {
        size_t capacity = ids->capacity ? 2 * ids->capacity : 64, bytes;
        int32_t *more = fs_mul_size(capacity, sizeof *more, &bytes) ? realloc(ids->data, bytes) : NULL;
        if (!more) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for %zu token ids", capacity);
        ids->data = more, ids->capacity = capacity;
    }
    ids->data[ids->count++] = id;
    return FS_OK;
}

void fs_ids_free(fs_ids *ids) {
    if (!ids) return;
    free(ids->data);
    *ids = (fs_ids){0};
}

/* ---- opening ---- */

/* How many pieces the unknown piece's spelling takes: what `legacy: false` puts in front of a text and takes away again. */
static bool count_piece(void *user_data, const char *piece, size_t n) {
    (void)piece, (void)n;
    ++*(size_t *)user_data;
    return true;
}

static fs_status start_library(fs_tokenizer *t, bool dummy_prefix, const char *where, fs_error *err) {
    fs_buffer proto = {0};
    char why[256] = "";
    fs_sentencepiece_free(t->sentencepiece);
    t->sentencepiece = NULL;
    fs_status st = fs_spm_write(&t->model, dummy_prefix, &proto, err);
    if (st == FS_OK && !(t->sentencepiece = fs_sentencepiece_create(proto.data, proto.size, why, sizeof why)))
        st = fs_fail(err, FS_E_FORMAT, "%s/tokenizer.model: SentencePiece does not accept it: %s", where, why);
    fs_buffer_free(&proto);
    return st;
}

fs_status fs_tokenizer_create(const fs_tokenizer_files *files, fs_tokenizer_rules rules, fs_tokenizer **out, fs_error *err) {
    char name[512], why[256] = "";
    *out = NULL;
    fs_tokenizer *t = calloc(1, sizeof *t);
    if (!t) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for the tokenizer");
    t->rules = rules;
    snprintf(name, sizeof name, "%s/tokenizer.model", files->where);
    fs_status st = fs_spm_read(files->model.data, files->model.size, name, &t->model, err);
    if (st == FS_OK) st = start_library(t, t->model.dummy_prefix, files->where, err);
    if (st == FS_OK) st = fs_tokenizer_read_settings(t, files, err);
    if (st == FS_OK && !t->legacy) {
        t->model.dummy_prefix = false;
        st = start_library(t, false, files->where, err);
        if (st == FS_OK && !fs_sentencepiece_encode(t->sentencepiece, t->unknown_text, strlen(t->unknown_text), count_piece,
                                                    &t->unknown_pieces, why, sizeof why))
            st = fs_fail(err, FS_E_FORMAT, "%s: SentencePiece: %s", name, why);
    }
    if (st)
        fs_tokenizer_free(t);
    else
        *out = t;
    return st;
}

static fs_status read_part(const char *dir, const char *name, size_t max, bool needed, fs_bytes *out, fs_error *err) {
    uint8_t *data = NULL;
    char *path = fs_path_join(dir, name);
    if (!path) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    fs_status st = FS_OK;
    if (needed || fs_path_exists(path)) {
        st = fs_read_file(path, max, &data, &out->size, err);
        out->data = data;
    }
    free(path);
    return st;
}

fs_status fs_tokenizer_open(const char *dir, fs_tokenizer_rules rules, fs_tokenizer **out, fs_error *err) {
    fs_tokenizer_files files = {.where = dir};
    *out = NULL;
    fs_status st = read_part(dir, "tokenizer.model", MAX_MODEL_BYTES, true, &files.model, err);
    if (st == FS_OK) st = read_part(dir, "tokenizer_config.json", MAX_JSON_BYTES, false, &files.config, err);
    if (st == FS_OK) st = read_part(dir, "special_tokens_map.json", MAX_JSON_BYTES, false, &files.special_map, err);
    if (st == FS_OK) st = read_part(dir, "added_tokens.json", MAX_JSON_BYTES, false, &files.added, err);
    if (st == FS_OK) st = fs_tokenizer_create(&files, rules, out, err);
    free((void *)files.model.data);
    free((void *)files.config.data);
    free((void *)files.special_map.data);
    free((void *)files.added.data);
    return st;
}

void fs_tokenizer_free(fs_tokenizer *t) {
    if (!t) return;
    for (size_t i = 0; i < t->n_added; i++) free(t->added[i].text);
    free(t->added);
    free(t->unknown_text);
    fs_sentencepiece_free(t->sentencepiece);
    fs_spm_free(&t->model);
    free(t);
}

/* ---- looking up ---- */

int32_t fs_tokenizer_size(const fs_tokenizer *t) {
    return t->size;
}
int32_t fs_tokenizer_bos(const fs_tokenizer *t) {
    return t->bos;
}
int32_t fs_tokenizer_eos(const fs_tokenizer *t) {
    return t->eos;
}
bool fs_tokenizer_legacy(const fs_tokenizer *t) {
    return t->legacy;
}

fs_added_token *fs_tokenizer_added(const fs_tokenizer *t, const char *text, size_t n) {
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].length == n && memcmp(t->added[i].text, text, n) == 0) return &t->added[i];
    return NULL;
}

const fs_added_token *fs_tokenizer_added_id(const fs_tokenizer *t, int32_t id) {
    for (size_t i = t->n_added; i-- > 0;) /* the last one added wins */
        if (t->added[i].id == id && t->added[i].listed) return &t->added[i];
    return NULL;
}

int32_t fs_tokenizer_token_id(const fs_tokenizer *t, const char *text, size_t n) {
    const fs_added_token *a = fs_tokenizer_added(t, text, n);
    return a ? a->id : fs_sentencepiece_find(t->sentencepiece, text, n);
}

int32_t fs_tokenizer_id(const fs_tokenizer *t, const char *token) {
    size_t n = strlen(token);
    int32_t id = fs_tokenizer_token_id(t, token, n);
    if (id == t->model.unknown && !fs_tokenizer_added(t, token, n) && strcmp(token, fs_spm_text(&t->model, id)) != 0) return -1;
    return id;
}

/* ---- encoding ---- */

/* Where ids go: the end of the caller's list, past the first `skip` pieces. */
typedef struct sink {
    const fs_tokenizer *t;
    fs_ids *ids;
    size_t start;        /* ids->count before the text */
    size_t skip;         /* pieces still to be dropped */
    bool first_is_mark;  /* the first token is a lone space mark */
    bool second_special; /* the second one is a special token */
    fs_status status;
    fs_error *err;
} sink;

static bool put_token(void *user_data, const char *token, size_t n) {
    sink *s = user_data;
    if (s->skip) return s->skip--, true;
    const fs_added_token *a = fs_tokenizer_added(s->t, token, n);
    size_t index = s->ids->count - s->start;
    if (index == 0) s->first_is_mark = n == FS_SPACE_MARK_SIZE && memcmp(token, FS_SPACE_MARK, n) == 0;
    if (index == 1) s->second_special = a && a->special;
    s->status = fs_ids_push(s->ids, a ? a->id : fs_sentencepiece_find(s->t->sentencepiece, token, n), s->err);
    return s->status == FS_OK;
}

static bool starts_with(const char *p, size_t n, const char *prefix) {
    size_t m = strlen(prefix);
    return n >= m && memcmp(p, prefix, m) == 0;
}

/* A stretch of text without added tokens. With `legacy: false` one that starts with a space is encoded behind the unknown piece's
 * spelling, because SentencePiece would otherwise drop that space; the spelling's pieces are taken away again. */
static fs_status encode_plain(sink *s, const char *p, size_t n) {
    const fs_tokenizer *t = s->t;
    char why[256] = "";
    fs_buffer joined = {0};
    if (!t->legacy && (p[0] == ' ' || starts_with(p, n, FS_SPACE_MARK))) {
        fs_buffer_puts(&joined, t->unknown_text);
        fs_buffer_add(&joined, p, n);
        if (joined.failed) {
            fs_buffer_free(&joined);
            return fs_fail(s->err, FS_E_NO_MEMORY, "out of memory while encoding text");
        }
        p = joined.data, n = joined.size;
        s->skip = t->unknown_pieces;
    }
    bool ok = fs_sentencepiece_encode(t->sentencepiece, p, n, put_token, s, why, sizeof why);
    fs_buffer_free(&joined);
    s->skip = 0;
    if (ok) return FS_OK;
    return s->status ? s->status : fs_fail(s->err, FS_E_INTERNAL, "SentencePiece cannot encode the text: %s", why);
}

/* The longest token to cut at that starts here. */
static const fs_added_token *token_at(const fs_tokenizer *t, const char *p, const char *end) {
    const fs_added_token *best = NULL;
    if (!t->first_byte[(unsigned char)*p]) return NULL;
    for (size_t i = 0; i < t->n_added; i++) {
        const fs_added_token *a = &t->added[i];
        if (a->split && a->length <= (size_t)(end - p) && (!best || a->length > best->length) && memcmp(p, a->text, a->length) == 0)
            best = a;
    }
    return best;
}

/* Text, then the token behind it (NULL at the end), then on: the token's options strip the text on both sides of it. */
static fs_status encode_split(sink *s, const char *p, const char *end) {
    bool strip_left = false; /* by the token in front */
    for (;;) {
        const char *cut = p;
        const fs_added_token *a = NULL;
        while (cut < end && !(a = token_at(s->t, cut, end))) cut++;
        const char *from = p, *to = cut;
        fs_utf8_strip(&from, &to, strip_left, a && a->lstrip);
        if (from < to) {
            fs_status st = encode_plain(s, from, (size_t)(to - from));
            if (st) return st;
        }
        if (!a) return FS_OK;
        if (!put_token(s, a->text, a->length)) return s->status;
        strip_left = a->rstrip;
        p = cut + a->length;
    }
}

/* `legacy: false`: a space mark in front, and every mark in the text itself becomes a space. */
static void mark_front(fs_buffer *out, const char *p, size_t n) {
    fs_buffer_puts(out, FS_SPACE_MARK);
    for (size_t i = 0; i < n;) {
        bool mark = starts_with(p + i, n - i, FS_SPACE_MARK);
        fs_buffer_add(out, mark ? " " : p + i, 1);
        i += mark ? FS_SPACE_MARK_SIZE : 1;
    }
}

/* As tokenizer(text).input_ids of a text that may hold NULs. */
static fs_status encode(const fs_tokenizer *t, const char *text, size_t n, fs_ids *out, fs_error *err) {
    fs_status st = FS_OK;
    fs_buffer clean = {0}, marked = {0};
    if (n > MAX_TEXT_BYTES) return fs_fail(err, FS_E_LIMIT, "a text of %zu bytes is too long, at most %d are encoded", n, MAX_TEXT_BYTES);
    fs_utf8_clean(&clean, text, n);
    if (!t->legacy && n > 0) mark_front(&marked, clean.data, clean.size);
    if (clean.failed || marked.failed) {
        st = fs_fail(err, FS_E_NO_MEMORY, "out of memory while encoding text");
        goto done;
    }
    if (t->add_bos && (st = fs_ids_push(out, t->bos, err))) goto done;
    sink s = {.t = t, .ids = out, .start = out->count, .err = err};
    const fs_buffer *b = t->legacy ? &clean : &marked;
    if (b->size > 0 && (st = encode_split(&s, b->data, b->data + b->size))) goto done;
    if (!t->legacy && s.first_is_mark && s.second_special) { /* a text that begins with a special token gets no mark */
        memmove(out->data + s.start, out->data + s.start + 1, (out->count - s.start - 1) * sizeof *out->data);
        out->count--;
    }
    if (t->add_eos) st = fs_ids_push(out, t->eos, err);
done:
    fs_buffer_free(&clean);
    fs_buffer_free(&marked);
    return st;
}

fs_status fs_tokenizer_encode(const fs_tokenizer *t, const char *text, fs_ids *out, fs_error *err) {
    return encode(t, text, strlen(text), out, err);
}

fs_status fs_tokenizer_encode_image(const fs_tokenizer *t, const char *text, fs_ids *out, fs_error *err) {
    static const char placeholder[] = "<image>";
    fs_ids chunk = {0};
    fs_status st = FS_OK;
    bool drop_bos = false;
    for (bool first = true;; first = false) {
        const char *cut = strstr(text, placeholder);
        chunk.count = 0;
        if ((st = encode(t, text, cut ? (size_t)(cut - text) : strlen(text), &chunk, err))) break;
        /* LLaVA looks at the first chunk only to decide whether chunks begin with BOS */
        if (first)
            drop_bos = chunk.count > 0 && chunk.data[0] == t->bos;
        else
            st = fs_ids_push(out, FS_IMAGE_TOKEN, err);
        for (size_t i = !first && drop_bos; st == FS_OK && i < chunk.count; i++) st = fs_ids_push(out, chunk.data[i], err);
        if (st || !cut) break;
        text = cut + sizeof placeholder - 1;
    }
    fs_ids_free(&chunk);
    return st;
}
