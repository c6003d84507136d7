/* NIST16 (Nimble Challenge 2016): what is what stands in a list, reference/manipulation/NC2016-manipulation-ref.csv. Its fields are parted
 * by '|'; the first line names them: IsTarget (Y: tampered), ProbeFileName and ProbeMaskFileName, paths from the folder that holds
 * reference/. In the masks black is tampered. Some copies of the set have the folders in another case, so paths are looked up without
 * regard to case. */
#include "data/convert.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { LIST_MAX = 64 << 20, FIELDS = 256 };

typedef struct columns {
    size_t target, probe, mask;
    char mark;
} columns;

static bool is_list(const convert_file *f) {
    const size_t n = strlen(f->name);
    return n > 7 && strcasecmp(f->name + n - 7, "ref.csv") == 0 && strcasestr(f->name, "manipulation");
}

/* Cuts a line into fields in place, without blanks and quotes around them; returns how many. */
static size_t cut(char *line, char mark, char **fields) {
    size_t n = 0;
    for (char *p = line; n < FIELDS;) {
        char *end = strchr(p, mark), *tail;
        if (end) *end = 0;
        while (*p == ' ' || *p == '"') p++;
        for (tail = p + strlen(p); tail > p && (tail[-1] == ' ' || tail[-1] == '"' || tail[-1] == '\r');) *--tail = 0;
        fields[n++] = p;
        if (!end) break;
        p = end + 1;
    }
    return n;
}

static fs_status read_head(const char *path, char *line, columns *c, fs_error *err) {
    char *fields[FIELDS];
    c->mark = strchr(line, '|') ? '|' : ',';
    c->target = c->probe = c->mask = FIELDS;
    const size_t n = cut(line, c->mark, fields);
    for (size_t i = 0; i < n; i++) {
        if (strcasecmp(fields[i], "IsTarget") == 0) c->target = i;
        if (strcasecmp(fields[i], "ProbeFileName") == 0) c->probe = i;
        if (strcasecmp(fields[i], "ProbeMaskFileName") == 0) c->mask = i;
    }
    if (c->target < FIELDS && c->probe < FIELDS && c->mask < FIELDS) return FS_OK;
    return fs_fail(err, FS_E_FORMAT, "%s: line 1: expected the fields IsTarget, ProbeFileName and ProbeMaskFileName, found another head",
                   path);
}

/* "/probe/x.jpg" or "probe\x.jpg", below `above` (bytes of the list's own rel in front of "reference/"): the file, or NULL. */
static const convert_file *find_file(const convert_state *s, const convert_file *list, size_t above, const char *path) {
    while (*path == '/' || *path == '\\') path++;
    for (size_t i = 0; *path && i < s->n_files; i++) {
        const char *rel = s->files[i].rel, *p = path;
        if (strncmp(rel, list->rel, above) != 0) continue;
        for (rel += above; *rel && *p; rel++, p++)
            if (!(*rel == '/' && *p == '\\') && strncasecmp(rel, p, 1) != 0) break;
        if (!*rel && !*p) return &s->files[i];
    }
    return NULL;
}

static bool seen_before(const convert_state *s, const convert_file *image) {
    for (size_t i = s->n_items; i-- > 0;)
        if (s->items[i].image == image) return true;
    return false;
}

static fs_status take_line(convert_state *s, const convert_file *list, size_t above, const columns *c, char *line, size_t number,
                           fs_error *err) {
    char *fields[FIELDS];
    const size_t n = cut(line, c->mark, fields);
    if (n == 1 && !*fields[0]) return FS_OK;
    if (c->target >= n || c->probe >= n || c->mask >= n)
        return fs_fail(err, FS_E_FORMAT, "%s: line %zu: %zu fields, fewer than the first line names", list->path, number, n);
    const bool tampered = strcasecmp(fields[c->target], "Y") == 0 || strcasecmp(fields[c->target], "True") == 0;
    const convert_file *image = find_file(s, list, above, fields[c->probe]);
    const convert_file *mask = tampered ? find_file(s, list, above, fields[c->mask]) : NULL;
    if (!image)
        return convert_add_note(s, CONVERT_NO_PICTURE, list->path, fs_format("line %zu: %s is not there", number, fields[c->probe]), err);
    if (seen_before(s, image)) return FS_OK;
    if (tampered && !mask)
        return convert_add_note(s, CONVERT_NO_MASK, image->path,
                                fs_format("line %zu of the list: %s is not there", number, *fields[c->mask] ? fields[c->mask] : "a mask"),
                                err);
    return convert_add_item(s, image, mask, 0, err);
}

static fs_status read_list(convert_state *s, const convert_file *list, fs_error *err) {
    uint8_t *data = NULL;
    size_t size = 0, number = 1, above = 0;
    columns c;
    fs_status status = fs_read_file(list->path, LIST_MAX, &data, &size, err);
    if (status) return status;
    for (const char *p = list->rel; p < list->name; p++) /* what stands in front of the last "reference/" */
        if ((p == list->rel || p[-1] == '/') && strncasecmp(p, "reference/", 10) == 0) above = (size_t)(p - list->rel);
    char *line = (char *)data, *next;
    if (size >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) line += 3;
    for (bool head = true; !status && line; line = next, head = false, number++) {
        next = strchr(line, '\n');
        if (next) *next++ = 0;
        status = head ? read_head(list->path, line, &c, err) : take_line(s, list, above, &c, line, number, err);
    }
    free(data);
    return status;
}

fs_status convert_nist(convert_state *s, fs_error *err) {
    fs_status status = FS_OK;
    size_t lists = 0;
    for (size_t i = 0; i < s->n_files && !status; i++)
        if (is_list(&s->files[i])) status = read_list(s, &s->files[i], err), lists++;
    if (!status && !lists)
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: no list *manipulation-ref.csv here or below; expected %s", s->src,
                         convert_layout(FS_FORM_NIST16));
    return status;
}
