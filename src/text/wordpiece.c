/* WordPiece, in the steps of BertTokenizerFast:
 *   special tokens that stand in the text are taken out first;
 *   control characters go, every white space becomes a blank, CJK characters get blanks around them, accents go (canonical decomposition,
 * then marks without width), letters become small; words are split at blanks and at punctuation, which is a word by itself; of each word
 * the longest piece of the vocabulary is taken from the front again and again ("##" marks a piece inside); a word that cannot be made up
 * so, or of more than 100 characters, is [UNK]. Small letters are those of single characters, so a capital sigma at a word's end becomes
 * the ordinary small one. Character properties come from utf8proc. */
#include "text/wordpiece.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "text/utf8.h"

enum { VOCAB_MAX_BYTES = 64 << 20, WORD_MAX = 100, SPECIALS = 5 };

typedef struct piece {
    const char *text;
    size_t n;
    int32_t id;
} piece;

struct fs_wordpiece {
    char *data;    /* vocab.txt */
    piece *pieces; /* sorted by text */
    size_t count;
    fs_wordpiece_options opt;
    struct {
        const char *text;
        int32_t id;
    } special[SPECIALS]; /* id -1: not in the vocabulary */
};
enum { UNK, CLS, SEP, PAD, MASK };
static const char *const special_names[SPECIALS] = {"[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"};

fs_wordpiece_options fs_wordpiece_options_defaults(void) {
    return (fs_wordpiece_options){.lower_case = true, .strip_accents = -1, .chinese_chars = true};
}

/* ---- vocabulary ---- */

static int compare(const char *a, size_t n, const char *b, size_t m) {
    const int order = memcmp(a, b, n < m ? n : m);
    return order ? order : (n > m) - (n < m);
}

static int by_text(const void *a, const void *b) {
    const piece *x = a, *y = b;
    const int order = compare(x->text, x->n, y->text, y->n);
    return order ? order : (x->id > y->id) - (x->id < y->id);
}

/* -1: not there. Of a token that is there twice the later line counts, as in Python's dictionary. */
static int32_t find(const fs_wordpiece *w, const char *text, size_t n) {
    size_t low = 0, high = w->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (compare(w->pieces[middle].text, w->pieces[middle].n, text, n) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low && compare(w->pieces[low - 1].text, w->pieces[low - 1].n, text, n) == 0 ? w->pieces[low - 1].id : -1;
}

static fs_status read_vocabulary(fs_wordpiece *w, const char *name, size_t size, fs_error *err) {
    size_t lines = 0;
    for (size_t i = 0; i < size; i++) lines += w->data[i] == '\n';
    if (lines >= INT32_MAX) return fs_fail(err, FS_E_LIMIT, "%s: %zu lines are no vocabulary", name, lines);
    w->pieces = fs_alloc(lines + 1, sizeof *w->pieces);
    if (!w->pieces) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for %zu tokens", name, lines);
    for (size_t at = 0; at < size;) {
        const char *end = memchr(w->data + at, '\n', size - at);
        const size_t n = end ? (size_t)(end - w->data) - at : size - at;
        const size_t kept = n && w->data[at + n - 1] == '\r' ? n - 1 : n;
        w->pieces[w->count] = (piece){w->data + at, kept, (int32_t)w->count};
        w->count++;
        at += n + 1;
    }
    qsort(w->pieces, w->count, sizeof *w->pieces, by_text);
    for (int i = 0; i < SPECIALS; i++) {
        w->special[i].text = special_names[i];
        w->special[i].id = find(w, special_names[i], strlen(special_names[i]));
        if (i <= SEP && w->special[i].id < 0)
            return fs_fail(err, FS_E_FORMAT, "%s: no token %s in it; expected BERT's vocab.txt, a token a line", name, special_names[i]);
    }
    return FS_OK;
}

fs_status fs_wordpiece_create(const char *name, const void *data, size_t size, const fs_wordpiece_options *opt, fs_wordpiece **out,
                              fs_error *err) {
    *out = NULL;
    if (size > VOCAB_MAX_BYTES)
        return fs_fail(err, FS_E_LIMIT, "%s: %zu bytes, the limit for a vocabulary is %d", name, size, (int)VOCAB_MAX_BYTES);
    fs_wordpiece *w = calloc(1, sizeof *w);
    if (!w || !(w->data = fs_alloc(size + 1, 1))) {
        free(w);
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", name);
    }
    memcpy(w->data, data, size);
    w->opt = opt ? *opt : fs_wordpiece_options_defaults();
    fs_status status = read_vocabulary(w, name, size, err);
    if (status)
        fs_wordpiece_free(w);
    else
        *out = w;
    return status;
}

fs_status fs_wordpiece_open(const char *path, const fs_wordpiece_options *opt, fs_wordpiece **out, fs_error *err) {
    uint8_t *data = NULL;
    size_t size = 0;
    *out = NULL;
    fs_status status = fs_read_file(path, VOCAB_MAX_BYTES, &data, &size, err);
    if (!status) status = fs_wordpiece_create(path, data ? data : (uint8_t *)"", size, opt, out, err);
    free(data);
    return status;
}

void fs_wordpiece_free(fs_wordpiece *w) {
    if (!w) return;
    free(w->data);
    free(w->pieces);
    free(w);
}

int32_t fs_wordpiece_size(const fs_wordpiece *w) {
    return (int32_t)w->count;
}

/* ---- characters ---- */

static bool is_control(uint32_t c) {
    if (c == '\t' || c == '\n' || c == '\r') return false;
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_CN || k == UTF8PROC_CATEGORY_CO ||
           k == UTF8PROC_CATEGORY_CS;
}

static bool is_blank(uint32_t c) {
    if (c == '\t' || c == '\n' || c == '\r' || c == ' ') return true;
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_ZS || k == UTF8PROC_CATEGORY_ZL || k == UTF8PROC_CATEGORY_ZP;
}

static bool is_chinese(uint32_t c) {
    static const uint32_t ranges[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF}, {0x2A700, 0x2B73F},
                                         {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
        if (c >= ranges[i][0] && c <= ranges[i][1]) return true;
    return false;
}

static bool is_punctuation(uint32_t c) {
    if (c < 128) return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) || (c >= 123 && c <= 126);
    const utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k >= UTF8PROC_CATEGORY_PC && k <= UTF8PROC_CATEGORY_PO;
}

static void put_code(fs_buffer *b, uint32_t c) {
    utf8proc_uint8_t bytes[4];
    const utf8proc_ssize_t n = utf8proc_encode_char((utf8proc_int32_t)c, bytes);
    if (n > 0) fs_buffer_add(b, bytes, (size_t)n);
}

/* Canonical decomposition of a whole text without its nonspacing marks. */
static void strip_accents(fs_buffer *text) {
    utf8proc_uint8_t *plain = NULL;
    if (!text->size || text->failed) return;
    const utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text->data, (utf8proc_ssize_t)text->size, &plain, UTF8PROC_STABLE | UTF8PROC_DECOMPOSE);
    if (n < 0) {
        text->failed = true;
        return;
    }
    fs_buffer out = {0};
    for (size_t i = 0; i < (size_t)n;) {
        uint32_t c = 0;
        const size_t step = fs_utf8_char((const char *)plain + i, (size_t)n - i, &c);
        if (!step) break; /* utf8proc writes well-formed text */
        if (utf8proc_category((utf8proc_int32_t)c) != UTF8PROC_CATEGORY_MN) fs_buffer_add(&out, plain + i, step);
        i += step;
    }
    free(plain);
    fs_buffer_free(text);
    *text = out;
}

/* What BertNormalizer makes of a piece of text. */
static void normalize(const fs_wordpiece *w, const char *p, size_t n, fs_buffer *out) {
    fs_buffer clean = {0};
    const bool strip = w->opt.strip_accents < 0 ? w->opt.lower_case : w->opt.strip_accents > 0;
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        size_t step = fs_utf8_char(p + i, n - i, &c);
        if (!step) c = 0xFFFD, step = fs_utf8_broken(p + i, n - i, NULL);
        i += step;
        if (c == 0 || c == 0xFFFD || is_control(c)) continue;
        const bool apart = w->opt.chinese_chars && is_chinese(c);
        if (apart) fs_buffer_puts(&clean, " ");
        put_code(&clean, is_blank(c) ? ' ' : c);
        if (apart) fs_buffer_puts(&clean, " ");
    }
    if (strip) strip_accents(&clean);
    for (size_t i = 0; i < clean.size;) {
        uint32_t c = 0;
        const size_t step = fs_utf8_char(clean.data + i, clean.size - i, &c);
        if (!step) break;
        i += step;
        if (w->opt.lower_case && c == 0x130)
            put_code(out, 'i'), put_code(out, 0x307); /* the one character with two small ones */
        else
            put_code(out, w->opt.lower_case ? (uint32_t)utf8proc_tolower((utf8proc_int32_t)c) : c);
    }
    out->failed |= clean.failed;
    fs_buffer_free(&clean);
}

/* ---- words and pieces ---- */

static fs_status add_word(const fs_wordpiece *w, const char *p, size_t n, fs_ids *ids, fs_error *err) {
    size_t characters = 0;
    const size_t before = ids->count;
    for (size_t i = 0; i < n; i++) characters += ((unsigned char)p[i] & 0xC0) != 0x80;
    if (characters > WORD_MAX) return fs_ids_push(ids, w->special[UNK].id, err);
    char inside[2 + 4 * WORD_MAX + 1] = "##";
    for (size_t at = 0; at < n;) {
        int32_t id = -1;
        size_t end = n;
        for (; end > at; end--) {
            if (end < n && ((unsigned char)p[end] & 0xC0) == 0x80) continue; /* in the middle of a character */
            memcpy(inside + 2, p + at, end - at);
            id = at ? find(w, inside, end - at + 2) : find(w, p, end);
            if (id >= 0) break;
        }
        if (id < 0) { /* all or nothing */
            ids->count = before;
            return fs_ids_push(ids, w->special[UNK].id, err);
        }
        fs_status status = fs_ids_push(ids, id, err);
        if (status) return status;
        at = end;
    }
    return FS_OK;
}

static fs_status add_text(const fs_wordpiece *w, const char *p, size_t n, fs_ids *ids, fs_error *err) {
    fs_buffer text = {0};
    fs_status status = FS_OK;
    normalize(w, p, n, &text);
    size_t begin = 0, i = 0;
    while (i < text.size && !text.failed && !status) {
        uint32_t c = 0;
        const size_t step = fs_utf8_char(text.data + i, text.size - i, &c);
        const bool blank = !step || is_blank(c), mark = step && is_punctuation(c);
        if (blank || mark) {
            if (i > begin) status = add_word(w, text.data + begin, i - begin, ids, err);
            if (mark && !status) status = add_word(w, text.data + i, step, ids, err);
            begin = i + (step ? step : 1);
        }
        i += step ? step : 1;
    }
    if (!status && text.size > begin) status = add_word(w, text.data + begin, text.size - begin, ids, err);
    if (text.failed) status = fs_fail(err, FS_E_NO_MEMORY, "no memory to split a text of %zu bytes", n);
    fs_buffer_free(&text);
    return status;
}

/* The next special token in [p, end): where it begins; NULL if there is none. */
static const char *next_special(const fs_wordpiece *w, const char *p, const char *end, int *which) {
    for (; p < end; p++)
        for (int i = 0; *p == '[' && i < SPECIALS; i++) {
            const size_t n = strlen(w->special[i].text);
            if (w->special[i].id >= 0 && (size_t)(end - p) >= n && memcmp(p, w->special[i].text, n) == 0) return *which = i, p;
        }
    return NULL;
}

fs_status fs_wordpiece_encode(const fs_wordpiece *w, const char *text, size_t max_length, fs_ids *ids, fs_error *err) {
    const char *p = text, *end = text + strlen(text);
    const size_t first = ids->count;
    fs_status status = fs_ids_push(ids, w->special[CLS].id, err);
    while (!status && p < end) {
        int which = 0;
        const char *special = next_special(w, p, end, &which);
        status = add_text(w, p, (size_t)((special ? special : end) - p), ids, err);
        if (!status && special) status = fs_ids_push(ids, w->special[which].id, err);
        p = special ? special + strlen(w->special[which].text) : end;
    }
    if (!status && max_length > 1 && ids->count - first > max_length - 1) ids->count = first + max_length - 1;
    return status ? status : fs_ids_push(ids, w->special[SEP].id, err);
}
