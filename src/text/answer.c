/* Reading stage 1's answer, which is free text of a trained shape:
 *     1. Whether the picture has been tampered with / Description of the tampered area: <area>
 *     2. Judgment basis: <basis>
 * The model keeps to it most of the time; what it varies are line breaks, the numbers' style, "judgement", Markdown stars, and how the
 * basis is laid out (sentences, dashes, "(1) ...; (2) ..."). Reading never fails: what is not recognised stays in the area. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "text/text.h"
#include "text/utf8.h"

typedef struct span {
    const char *p, *end;
} span;

static bool blank(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}
static bool digit(char c) {
    return c >= '0' && c <= '9';
}

static bool begins(const char *p, const char *end, const char *word) {
    size_t n = strlen(word);
    return (size_t)(end - p) >= n && strncasecmp(p, word, n) == 0;
}

/* The first place of `word`, letter case aside; NULL if there is none. */
static const char *find(const char *p, const char *end, const char *word) {
    for (; p < end; p++)
        if (begins(p, end, word)) return p;
    return NULL;
}

static const char *skip(const char *p, const char *end, const char *set) {
    while (p < end && strchr(set, *p) && *p) p++;
    return p;
}

/* Takes white space (Unicode's too) and stray Markdown from both ends. Stars at the end stay if "**" earlier on is their partner. */
static span trim(span s) {
    for (int round = 0; round < 4; round++) {
        span before = s;
        fs_utf8_strip(&s.p, &s.end, true, true);
        while (s.p < s.end && (*s.p == '*' || *s.p == '#') && (s.p + 1 == s.end || s.p[1] == *s.p || blank(s.p[1]))) s.p++;
        const char *stars = s.end;
        while (stars > s.p && stars[-1] == '*') stars--;
        bool stray = s.end - stars > 1 || (stars < s.end && stars > s.p && blank(stars[-1]));
        if (stray && !find(s.p, stars, "**")) s.end = stars;
        if (s.p == before.p && s.end == before.end) break;
    }
    return s;
}

/* ':' or the wide one; the place behind it, or NULL. */
static const char *colon(const char *p, const char *end) {
    if (p < end && *p == ':') return p + 1;
    return begins(p, end, "\xEF\xBC\x9A") ? p + 3 : NULL;
}

/* A list number: "2." "2)" "(2)" "(b)" "b)" and so on. The place behind it, or NULL; *number is 1, 2, ... */
static const char *list_number(const char *p, const char *end, int *number) {
    bool open = p < end && *p == '(';
    if (open) p++;
    if (p >= end) return NULL;
    bool letter = *p >= 'a' && *p <= 'z';
    *number = letter ? *p - 'a' + 1 : 0;
    const char *q = letter ? p + 1 : p;
    while (!letter && q < end && digit(*q) && q - p < 2) *number = 10 * *number + (*q++ - '0');
    if (q == p || q >= end || *number == 0) return NULL;
    if (*q == ')') return q + 1;
    if (open || letter) return NULL;
    if (*q == '.' && (q + 1 == end || !digit(q[1]))) return q + 1;
    return NULL;
}

/* ---- the two items ---- */

/* Goes back from the second heading over Markdown and its number to where the item begins. */
static const char *item_start(const char *begin, const char *heading, bool *numbered) {
    const char *p = heading;
    while (p > begin && strchr(" \t*#_\"", p[-1])) p--;
    *numbered = false;
    for (const char *q = p > begin + 4 ? p - 4 : begin; q < p; q++) {
        int number;
        if (q > begin && !blank(q[-1]) && !strchr("*#", q[-1])) continue;
        if (list_number(q, p, &number) != p || number != 2) continue;
        *numbered = true;
        while (q > begin && strchr("*#_", q[-1])) q--;
        return q;
    }
    return p;
}

/* Finds the second item: where it starts and where its text starts. */
static bool find_basis(span text, const char **start, const char **body) {
    static const char *const headings[] = {"judgment basis",         "judgement basis",         "basis for judgment",
                                           "basis for judgement",    "basis of judgment",       "basis of judgement",
                                           "basis for the judgment", "basis for the judgement", "basis of the judgment"};
    for (const char *p = text.p; p < text.end; p++) {
        for (size_t i = 0; i < sizeof headings / sizeof headings[0]; i++) {
            if (!begins(p, text.end, headings[i])) continue;
            bool numbered;
            const char *from = item_start(text.p, p, &numbered);
            const char *behind = skip(p + strlen(headings[i]), text.end, " \t*_\"");
            const char *after = colon(behind, text.end);
            bool own_line = after || behind == text.end || *behind == '\n' || *behind == '-';
            bool boundary = from == text.p || from[-1] == '\n' || strchr(".!?;", from[-1]) ||
                            (from[-1] == ' ' && from - text.p > 1 && strchr(".!?;", from[-2]));
            if (!numbered && !(own_line && boundary)) continue;
            *start = from;
            *body = skip(after ? after : behind, text.end, " \t*_\"");
            return true;
        }
    }
    /* no heading: a line that is number 2 of a list that begins the text */
    int number;
    const char *first = skip(text.p, text.end, "*# ");
    if (!list_number(first, text.end, &number) || number != 1) return false;
    for (const char *p = text.p; (p = memchr(p, '\n', (size_t)(text.end - p)));) {
        p++;
        const char *q = skip(p, text.end, " \t*#"), *behind = list_number(q, text.end, &number);
        if (!behind || number != 2) continue;
        *start = p;
        *body = skip(behind, text.end, " \t*");
        return true;
    }
    return false;
}

/* The first item without its number and heading. */
static span first_item(span text) {
    const char *start, *body;
    int number;
    if (find_basis(text, &start, &body)) text.end = start;
    span s = trim(text);
    const char *p = skip(s.p, s.end, "*#_ "), *behind = list_number(p, s.end, &number);
    if (behind && number == 1) s.p = skip(behind, s.end, " \t*#_");
    p = skip(s.p, s.end, "*#_\"");
    if (begins(p, s.end, "whether") || begins(p, s.end, "description")) {
        const char *limit = s.end - p > 200 ? p + 200 : s.end;
        for (const char *q = p; q < limit; q++) {
            if ((*q == '.' || *q == '!' || *q == '?') && (q + 1 == limit || blank(q[1]))) break;
            const char *after = colon(q, s.end);
            if (!after) continue;
            s.p = skip(after, s.end, " \t\n\r*_\"");
            break;
        }
    }
    return trim(s);
}

/* ---- the basis: points or sentences ---- */

typedef struct points {
    char **list;
    size_t count, room;
    bool failed;
} points;

static void add_point(points *out, const char *p, const char *end) {
    span s = trim((span){p, end});
    while (s.p < s.end && s.end[-1] == ';') s.end--;
    s = trim(s);
    if (s.p >= s.end || out->failed) return;
    if (out->count == out->room) {
        size_t room = out->room ? 2 * out->room : 8;
        char **more = realloc(out->list, room * sizeof *more);
        if (!more) {
            out->failed = true;
            return;
        }
        out->list = more, out->room = room;
    }
    char *copy = strndup(s.p, (size_t)(s.end - s.p));
    if (copy)
        out->list[out->count++] = copy;
    else
        out->failed = true;
}

/* A dash or dot that opens a point; the place behind it, or NULL. */
static const char *bullet(const char *p, const char *end, bool line_start) {
    static const char *const dots[] = {"\xE2\x80\xA2", "\xE2\x97\x8F", "\xC2\xB7"};      /* bullet, black circle, middle dot */
    static const char *const dashes[] = {"-", "*", "+", "\xE2\x80\x93", "\xE2\x80\x94"}; /* the last two: en and em dash */
    for (size_t i = 0; i < sizeof dots / sizeof dots[0]; i++)
        if (begins(p, end, dots[i])) return p + strlen(dots[i]);
    for (size_t i = 0; i < sizeof dashes / sizeof dashes[0]; i++) {
        if (!begins(p, end, dashes[i])) continue;
        const char *q = p + strlen(dashes[i]);
        if (q < end && blank(*q)) return q;
        return line_start && *p == '-' && q < end && *q != '-' && !digit(*q) ? q : NULL;
    }
    return NULL;
}

/* A point's mark at p: where its text begins, or NULL. Numbers inside a line must go on counting (*expected), dashes must stand behind the
 * end of a sentence: "in row 2. They", "a 2.5 cm edge" and "left - and right" open nothing. */
static const char *point_mark(span body, const char *p, int *expected) {
    const char *back = p;
    while (back > body.p && p - back < 64 && (back[-1] == ' ' || back[-1] == '\t' || back[-1] == '*' || back[-1] == '#')) back--;
    bool line_start = back == body.p || back[-1] == '\n';
    bool spaced = back < p && (p[-1] == ' ' || p[-1] == '\t'), stop = !line_start && strchr(".;:!?", back[-1]) != NULL;
    int number;
    const char *q = list_number(p, body.end, &number);
    bool closed = q && q[-1] == ')';
    bool inside = closed ? spaced || stop : spaced && stop; /* "2)" after a space will do, "2." must follow the end of a sentence */
    if (q && !line_start && (number != *expected || !inside || (number == 1 && !stop))) q = NULL;
    if (q) return *expected = number + 1, q;
    if (!line_start && !(spaced && stop)) return NULL;
    return bullet(p, body.end, line_start);
}

static size_t split_points(span body, points *out) {
    size_t marks = 0;
    int expected = 1;
    const char *from = body.p;
    for (const char *p = body.p; p < body.end;) {
        const char *text = point_mark(body, p, &expected);
        if (!text) {
            p++;
            continue;
        }
        if (marks || trim((span){from, p}).p < trim((span){from, p}).end) add_point(out, from, p);
        marks++;
        from = p = text;
    }
    if (marks) add_point(out, from, body.end);
    return marks;
}

/* Does a sentence end with the stop at p? Not in "e.g. ", "3. 5" or "J. Doe". */
static bool sentence_ends(span body, const char *p) {
    static const char *const short_forms[] = {"e.g", "i.e", "vs", "cf", "fig", "approx", "no", "st", "dr", "mr"};
    const char *q = p + 1;
    while (q < body.end && (*q == '"' || *q == '\'' || *q == ')' || *q == ']' || *q == '*')) q++;
    if (q == body.end) return true;
    if (!blank(*q)) return false;
    if (*p != '.') return true;
    const char *next = skip(q, body.end, " \t\n\r\"'(*");
    if (next == body.end || islower((unsigned char)*next)) return next == body.end;
    const char *word = p;
    while (word > body.p && !blank(word[-1]) && word[-1] != '(') word--;
    size_t n = (size_t)(p - word);
    if (n == 1) return false;
    for (size_t i = 0; i < sizeof short_forms / sizeof short_forms[0]; i++)
        if (n == strlen(short_forms[i]) && strncasecmp(word, short_forms[i], n) == 0) return false;
    return true;
}

static void split_sentences(span body, points *out) {
    const char *from = body.p;
    for (const char *p = body.p; p < body.end; p++) {
        bool stop = (*p == '.' || *p == '!' || *p == '?') && sentence_ends(body, p);
        if (!stop && *p != '\n' && !begins(p, body.end, "\xE3\x80\x82")) continue; /* the last: ideographic full stop */
        const char *end = *p == '\xE3' ? p + 3 : p + 1;
        while (stop && end < body.end && strchr("\"')]*", *end) && *end) end++;
        add_point(out, from, end);
        from = end;
        p = end - 1;
    }
    add_point(out, from, body.end);
}

/* ---- what the room gives out ---- */

bool fs_answer_says_authentic(const char *text) {
    return strstr(text, "has not been tampered with") != NULL;
}

/* What stands in front of p in its clause: "whether"/"if" make it no statement, "not"/"no" turn it round. */
static void clause(const char *begin, const char *p, bool *open, bool *negated) {
    const char *from = p;
    while (from > begin && p - from < 100 && !strchr(".,;:!?\n", from[-1])) from--;
    *open = find(from, p, "whether ") || find(from, p, " if ") || begins(from, p, "if ");
    *negated = find(from, p, "not ") || find(from, p, "n't ") || find(from, p, " no ") || begins(from, p, "no ") ||
               find(from, p, "never ") || find(from, p, "without ");
}

fs_verdict fs_answer_verdict(const char *text) {
    static const char *const phrases[][2] = {
        /* phrase, "t" = says tampered, "a" = says authentic */
        {"been tampered", "t"},   {"is tampered", "t"},     {"was tampered", "t"},       {"were tampered", "t"},
        {"not tampered", "a"},    {"of tampering", "t"},    {"genuine photograph", "a"}, {"appears authentic", "a"},
        {"appears genuine", "a"}, {"to be authentic", "a"}, {"to be genuine", "a"},      {"is authentic", "a"},
    };
    span item = first_item((span){text, text + strlen(text)});
    for (const char *p = item.p; p < item.end; p++) {
        for (size_t i = 0; i < sizeof phrases / sizeof phrases[0]; i++) {
            if (!begins(p, item.end, phrases[i][0])) continue;
            bool open, negated;
            clause(item.p, p, &open, &negated);
            if (open) continue;
            return (phrases[i][1][0] == 't') != negated ? FS_VERDICT_TAMPERED : FS_VERDICT_AUTHENTIC;
        }
    }
    return FS_VERDICT_UNDETERMINED;
}

fs_status fs_answer_parse(const char *text, fs_answer *out, fs_error *err) {
    fs_buffer clean = {0};
    points basis = {0};
    const char *start, *body;
    *out = (fs_answer){0};
    fs_utf8_clean(&clean, text, strlen(text));
    fs_status st = clean.failed ? fs_fail(err, FS_E_NO_MEMORY, "out of memory while reading the answer") : FS_OK;
    if (st) goto done;
    span all = {clean.data, clean.data + clean.size}, area = first_item(all);
    out->area = strndup(area.p, (size_t)(area.end - area.p));
    if (find_basis(all, &start, &body)) {
        span b = trim((span){body, all.end});
        if (split_points(b, &basis) == 0) split_sentences(b, &basis);
    }
    out->basis = basis.list, out->n_basis = basis.count;
    if (!out->area || basis.failed) st = fs_fail(err, FS_E_NO_MEMORY, "out of memory while reading the answer");
    if (st) fs_answer_free(out);
done:
    fs_buffer_free(&clean);
    return st;
}

void fs_answer_free(fs_answer *a) {
    if (!a) return;
    for (size_t i = 0; i < a->n_basis; i++) free(a->basis[i]);
    free(a->basis);
    free(a->area);
    *a = (fs_answer){0};
}
