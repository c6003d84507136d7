/* Ids to text, whole or as they come: SentencePiece's decoding rules (0.1.99, sentencepiece_processor.cc) inside those of the slow
 * LlamaTokenizer of transformers 4.28.0 and 4.37.2 (convert_tokens_to_string and _decode).
 *
 * Added tokens stand apart, between single spaces; the pieces between two of them are a run. In a run, special tokens are written as
 * they are, and the pieces between two of those are a segment: one call of SentencePiece's decoder, which drops the space mark of the
 * first piece if encoding put one there. Byte pieces in a row are read as UTF-8, each byte that fits nowhere becoming U+FFFD. U+0000, which
 * a C string cannot hold, becomes U+FFFD too. */
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_internal.h"
#include "text/utf8.h"

typedef struct decoder {
    const fs_tokenizer *t;
    bool skip_special;
    fs_buffer text; /* finished */
    bool any_part;  /* something (if empty) is already in text: the next part comes behind a space */
    /* the run */
    fs_buffer run;
    bool in_run, run_begun; /* tokens have come; some of it is already in text */
    size_t run_index;
    bool after_special;
    /* the segment, at the end of `run` */
    fs_buffer segment;
    bool segment_begun; /* it has given text, even if that was moved on */
    bool at_start;      /* the next piece may lose its mark */
    bool mark_dropped;
    char bytes[8]; /* byte pieces that are not yet a character */
    size_t n_bytes;
} decoder;

/* ---- a segment: SentencePiece's Decode ---- */

static void segment_reset(decoder *d) {
    d->segment.size = 0;
    d->segment_begun = d->mark_dropped = false;
    d->at_start = true;
    d->n_bytes = 0;
}

static void segment_add(decoder *d, const char *p, size_t n) {
    fs_buffer_add(&d->segment, p, n);
    if (n > 0) d->segment_begun = true;
}

/* Moves whole characters out of the waiting bytes; at the end of a row of bytes, everything. */
static void settle_bytes(decoder *d, bool end) {
    size_t done = 0;
    while (done < d->n_bytes) {
        const char *p = d->bytes + done;
        size_t left = d->n_bytes - done, n = fs_utf8_char(p, left, NULL);
        bool incomplete = false;
        if (n == 0) fs_utf8_broken(p, left, &incomplete);
        if (n == 0 && incomplete && !end) break;
        if (n == 0 || *p == '\0')
            segment_add(d, FS_UTF8_REPLACEMENT, strlen(FS_UTF8_REPLACEMENT));
        else
            segment_add(d, p, n);
        done += n ? n : 1; /* SentencePiece goes on one byte at a time */
    }
    memmove(d->bytes, d->bytes + done, d->n_bytes - done);
    d->n_bytes -= done;
}

static void segment_piece(decoder *d, const char *piece, size_t n) {
    const fs_spm_model *m = &d->t->model;
    int32_t id = fs_sentencepiece_find(d->t->sentencepiece, piece, n);
    fs_piece_kind kind = (fs_piece_kind)m->pieces[id].kind;
    if (kind == FS_PIECE_BYTE) {
        d->bytes[d->n_bytes++] = (char)m->pieces[id].byte; /* at most 3 wait, so there is room */
        settle_bytes(d, false);
        return;
    }
    settle_bytes(d, true);
    if (d->mark_dropped || d->segment_begun) d->at_start = false;
    d->mark_dropped = false;
    if (kind == FS_PIECE_CONTROL) return;
    if (kind == FS_PIECE_UNKNOWN) {
        bool itself = n == m->pieces[id].length && memcmp(piece, fs_spm_text(m, id), n) == 0;
        segment_add(d, itself ? m->unknown_surface : piece, itself ? strlen(m->unknown_surface) : n);
        return;
    }
    size_t i = 0;
    bool mark_first = n >= FS_SPACE_MARK_SIZE && memcmp(piece, FS_SPACE_MARK, FS_SPACE_MARK_SIZE) == 0;
    if (d->at_start && mark_first && (m->dummy_prefix || m->remove_extra_spaces)) {
        i = FS_SPACE_MARK_SIZE;
        d->mark_dropped = !m->remove_extra_spaces; /* then every mark at the start goes */
    }
    while (i < n) {
        bool mark = n - i >= FS_SPACE_MARK_SIZE && memcmp(piece + i, FS_SPACE_MARK, FS_SPACE_MARK_SIZE) == 0;
        segment_add(d, mark ? " " : piece + i, 1);
        i += mark ? FS_SPACE_MARK_SIZE : 1;
    }
}

/* ---- runs and parts: transformers' _decode ---- */

static void part_begin(decoder *d) {
    if (d->any_part) fs_buffer_puts(&d->text, " ");
    d->any_part = true;
}

static void segment_end(decoder *d) {
    settle_bytes(d, true);
    fs_buffer_add(&d->run, d->segment.data, d->segment.size);
    segment_reset(d);
}

/* What the run has so far goes into the text. Only valid where no later token can put something in front of it. */
static void run_move(decoder *d) {
    if (d->run.size == 0) return;
    if (!d->run_begun) part_begin(d);
    d->run_begun = true;
    fs_buffer_add(&d->text, d->run.data, d->run.size);
    d->run.size = 0;
}

static void run_end(decoder *d, bool last) {
    if (!d->in_run) return;
    segment_end(d);
    run_move(d);
    /* an empty run is still a part, except that 4.37 leaves it out in front of an added token */
    if (!d->run_begun && (last || d->t->rules == FS_RULES_428)) part_begin(d);
    d->in_run = d->run_begun = d->after_special = false;
    d->run_index = 0;
}

static void run_token(decoder *d, const char *token, size_t n) {
    const fs_tokenizer *t = d->t;
    bool new_rules = t->rules == FS_RULES_437;
    d->in_run = true;
    if (new_rules && d->run_index == 0 && n >= FS_SPACE_MARK_SIZE && memcmp(token, FS_SPACE_MARK, FS_SPACE_MARK_SIZE) == 0)
        token += FS_SPACE_MARK_SIZE, n -= FS_SPACE_MARK_SIZE;
    const fs_added_token *a = fs_tokenizer_added(t, token, n);
    if (a && a->special) {
        /* the space really comes in front of the segment, not of the token: so it is upstream */
        if (!d->after_special && d->run_index != 0 && t->legacy) fs_buffer_puts(&d->run, " ");
        segment_end(d);
        fs_buffer_add(&d->run, token, n);
    } else {
        segment_piece(d, token, n);
    }
    d->after_special = a && a->special;
    d->run_index++;
    if (d->skip_special) { /* no special token can follow: what is there is final */
        fs_buffer_add(&d->run, d->segment.data, d->segment.size);
        d->segment.size = 0;
        run_move(d);
    }
}

/* transformers compares ids, so that an id whose text is special by another id stays. */
static bool is_special_id(const fs_tokenizer *t, int32_t id) {
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].special && t->added[i].id == id) return true;
    return false;
}

static fs_status decoder_push(decoder *d, int32_t id, fs_error *err) {
    const fs_tokenizer *t = d->t;
    const fs_added_token *a = fs_tokenizer_added_id(t, id);
    if (id < 0 || (!a && id >= t->model.count))
        return fs_fail(err, FS_E_MISMATCH, "token id %d has no text: the tokenizer has ids 0 to %d; does it belong to this model?", id,
                       t->size - 1);
    if (d->skip_special && is_special_id(t, id)) return FS_OK;
    if (a && a->apart) {
        run_end(d, false);
        part_begin(d);
        fs_buffer_add(&d->text, a->text, a->length);
    } else if (a) {
        run_token(d, a->text, a->length);
    } else {
        run_token(d, fs_spm_text(&t->model, id), t->model.pieces[id].length);
    }
    if (d->text.failed || d->run.failed || d->segment.failed) return fs_fail(err, FS_E_NO_MEMORY, "out of memory while decoding tokens");
    return FS_OK;
}

static void decoder_free(decoder *d) {
    fs_buffer_free(&d->text);
    fs_buffer_free(&d->run);
    fs_buffer_free(&d->segment);
}

/* transformers' clean_up_tokenization: English spaces in front of punctuation and contractions, one rule after the other. */
static fs_status clean_up(fs_buffer *text, fs_error *err) {
    static const char *const rules[][2] = {{" .", "."},     {" ?", "?"},   {" !", "!"},   {" ,", ","},     {" ' ", "'"},
                                           {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t r = 0; r < sizeof rules / sizeof rules[0]; r++) {
        fs_buffer out = {0};
        const char *p = text->data, *hit;
        for (; p && (hit = strstr(p, rules[r][0])); p = hit + strlen(rules[r][0])) {
            fs_buffer_add(&out, p, (size_t)(hit - p));
            fs_buffer_puts(&out, rules[r][1]);
        }
        fs_buffer_puts(&out, p ? p : "");
        bool failed = out.failed;
        fs_buffer_free(text);
        *text = out;
        if (failed) return fs_fail(err, FS_E_NO_MEMORY, "out of memory while decoding tokens");
    }
    return FS_OK;
}

fs_status fs_tokenizer_decode(const fs_tokenizer *t, const int32_t *ids, size_t n, bool skip_special, char **text, fs_error *err) {
    decoder d = {.t = t, .skip_special = skip_special, .at_start = true};
    fs_status st = FS_OK;
    *text = NULL;
    for (size_t i = 0; i < n && st == FS_OK; i++) st = decoder_push(&d, ids[i], err);
    if (st == FS_OK) run_end(&d, true);
    fs_buffer_add(&d.text, "", 0);
    if (st == FS_OK && t->clean_up) st = clean_up(&d.text, err);
    if (st == FS_OK && !(*text = fs_strdup(d.text.data ? d.text.data : "")))
        st = fs_fail(err, FS_E_NO_MEMORY, "out of memory while decoding tokens");
    if (d.text.failed || d.run.failed || d.segment.failed) {
        free(*text);
        *text = NULL;
        st = fs_fail(err, FS_E_NO_MEMORY, "out of memory while decoding tokens");
    }
    decoder_free(&d);
    return st;
}

/* ---- streaming ---- */

struct fs_text_stream {
    decoder d;
};

fs_status fs_text_stream_create(const fs_tokenizer *t, fs_text_stream **out, fs_error *err) {
    *out = calloc(1, sizeof **out);
    if (!*out) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for the text stream");
    (*out)->d = (decoder){.t = t, .skip_special = true, .at_start = true};
    return FS_OK;
}

void fs_text_stream_free(fs_text_stream *s) {
    if (!s) return;
    decoder_free(&s->d);
    free(s);
}

fs_status fs_text_stream_push(fs_text_stream *s, int32_t id, const char **piece, fs_error *err) {
    fs_status st = FS_OK;
    *piece = "";
    s->d.text.size = 0;
    if (s->d.text.data) s->d.text.data[0] = '\0';
    if (id == FS_TEXT_STREAM_END) {
        run_end(&s->d, true);
        s->d.any_part = false;
    } else {
        st = decoder_push(&s->d, id, err);
    }
    if (s->d.text.failed) st = fs_fail(err, FS_E_NO_MEMORY, "out of memory while decoding tokens");
    if (st == FS_OK && s->d.text.size > 0) *piece = s->d.text.data;
    return st;
}
