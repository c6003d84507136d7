/* Names that lead from a picture to what a program said about it. Programs write full paths, bare names, or names without extension, and
 * test sets share base names (0001.jpg is in many), so a record is chosen by how many path components agree from the end. */
#include "eval/lookup.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "data/tree.h"
#include "eval/map.h"
#include "format/json.h"

/* ---- lines ---- */

fs_status fs_each_line(const char *path, fs_status (*take)(void *user, size_t number, const char *line, size_t n, fs_error *err),
                       void *user, fs_error *err) {
    fs_mapping m;
    fs_status status = fs_map_file(path, &m, err);
    size_t number = 0;
    for (size_t at = 0; !status && at < m.size;) {
        const uint8_t *end = memchr(m.data + at, '\n', m.size - at);
        size_t n = end ? (size_t)(end - m.data) - at : m.size - at;
        const char *line = (const char *)m.data + at;
        at += n + 1;
        number++;
        if (n && line[n - 1] == '\r') n--;
        size_t blank = 0;
        while (blank < n && (line[blank] == ' ' || line[blank] == '\t')) blank++;
        if (blank < n) status = take(user, number, line, n, err);
    }
    fs_unmap(&m);
    return status;
}

typedef struct reading {
    fs_lines *out;
    const char *const *keys;
} reading;

static fs_status take_line(void *user, size_t number, const char *line, size_t n, fs_error *err) {
    const reading *r = user;
    fs_lines *l = r->out;
    fs_json j = {0};
    const char *image = NULL, *text = NULL;
    char *where = fs_format("%s:%zu", l->path, number);
    fs_status status = where ? fs_json_parse(where, line, n, &j, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", l->path);
    if (!status) status = fs_json_string(&j, "image", FS_JSON_REQUIRED, &image, err);
    for (size_t k = 0; !status && !text && r->keys[k]; k++) status = fs_json_string(&j, r->keys[k], FS_JSON_OPTIONAL, &text, err);
    if (!status && l->count == l->room) {
        size_t room = l->room ? l->room * 2 : 64, bytes;
        fs_lines_entry *items = fs_mul_size(room, sizeof *items, &bytes) ? realloc(l->items, bytes) : NULL;
        if (items)
            l->items = items, l->room = room;
        else
            status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", l->path);
    }
    if (!status) {
        l->items[l->count] = (fs_lines_entry){fs_strdup(image), fs_strdup(text ? text : ""), number};
        if (!l->items[l->count].image || !l->items[l->count].text) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", l->path);
        l->count++;
    }
    fs_json_close(&j);
    free(where);
    if (status != FS_E_NOT_FOUND && status != FS_E_MISMATCH) return status;
    if (err) err->status = FS_E_FORMAT; /* a record without its fields is no record */
    return FS_E_FORMAT;
}

static int by_base(const void *a, const void *b) {
    const fs_lines_entry *x = a, *y = b;
    const int order = strcmp(fs_path_base(x->image), fs_path_base(y->image));
    return order ? order : (x->number > y->number) - (x->number < y->number);
}

fs_status fs_lines_read(const char *path, const char *const *keys, fs_lines *out, fs_error *err) {
    *out = (fs_lines){.path = fs_strdup(path)};
    reading r = {out, keys};
    fs_status status = out->path ? fs_each_line(path, take_line, &r, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status && !out->count) status = fs_fail(err, FS_E_FORMAT, "%s: has no record", path);
    if (status)
        fs_lines_free(out);
    else
        qsort(out->items, out->count, sizeof *out->items, by_base);
    return status;
}

void fs_lines_free(fs_lines *l) {
    for (size_t i = 0; i < l->count; i++) free(l->items[i].image), free(l->items[i].text);
    free(l->items);
    free(l->path);
    *l = (fs_lines){0};
}

/* How many components of two paths agree, from the end. */
static size_t agreement(const char *a, const char *b) {
    const char *x = a + strlen(a), *y = b + strlen(b);
    size_t n = 0;
    for (;; x--, y--) {
        const bool x_end = x == a || x[-1] == '/', y_end = y == b || y[-1] == '/';
        if (x_end && y_end) {
            n++;
            if (x == a || y == b) return n;
        } else if (x_end || y_end || x[-1] != y[-1]) {
            return n;
        }
    }
}

fs_status fs_lines_find(const fs_lines *l, const char *image, const fs_lines_entry **out, fs_error *err) {
    size_t low = 0, high = l->count, best = 0;
    const fs_lines_entry *other = NULL;
    *out = NULL;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (strcmp(fs_path_base(l->items[middle].image), fs_path_base(image)) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < l->count && strcmp(fs_path_base(l->items[low].image), fs_path_base(image)) == 0; low++) {
        const fs_lines_entry *e = &l->items[low];
        const size_t n = agreement(e->image, image);
        if (n > best)
            *out = e, other = NULL, best = n;
        else if (*out && n == best && strcmp((*out)->text, e->text) != 0)
            other = e;
    }
    if (!other || !*out) return FS_OK;
    return fs_fail(err, FS_E_FORMAT, "%s: lines %zu and %zu fit %s equally well and differ; give fuller paths in the file", l->path,
                   (*out)->number, other->number, image);
}

/* ---- folders ---- */

fs_status fs_map_folder_open(const char *root, const char *set, fs_map_folder *out, fs_error *err) {
    fs_names names = {0};
    *out = (fs_map_folder){0};
    char *full = fs_path_join(root, set), *last = fs_path_join(root, fs_path_base(set));
    const char *dir = full && fs_path_is_dir(full) ? full : last && fs_path_is_dir(last) ? last : root;
    fs_status status = full && last ? fs_names_read(dir, 'f', &names, NULL, err) : fs_eval_no_memory(err, "a folder of maps");
    if (!status) {
        out->dir = fs_strdup(dir);
        out->names = names.items;
        out->count = names.count;
        if (!out->dir) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", root);
    }
    free(full);
    free(last);
    return status;
}

void fs_map_folder_free(fs_map_folder *f) {
    for (size_t i = 0; i < f->count; i++) free(f->names[i]);
    free(f->names);
    free(f->dir);
    *f = (fs_map_folder){0};
}

static size_t map_stem(const char *name) {
    static const char *const suffixes[] = {"_pred", "-pred", "_soft", "-soft", "_map", "-map"};
    const size_t n = fs_data_stem(name, true), whole = fs_data_stem(name, false);
    if (n != whole) return n;
    for (size_t i = 0; i < sizeof suffixes / sizeof *suffixes; i++) {
        const size_t m = strlen(suffixes[i]);
        if (n > m && strncasecmp(name + n - m, suffixes[i], m) == 0) return n - m;
    }
    return n;
}

/* 3 the very name, 2 another extension, 1 a suffix, 0 another picture's. "a.jpg.png" is also taken for a.jpg's. */
static int fit(const char *file, const char *name) {
    const size_t stem = fs_data_stem(name, false), own = fs_data_stem(file, false), bare = map_stem(file);
    if (strcmp(file, name) == 0) return 3;
    if (own == stem && strncmp(file, name, stem) == 0) return 2;
    if (own == strlen(name) && strncmp(file, name, own) == 0) return 2;
    return bare == stem && strncmp(file, name, stem) == 0 ? 1 : 0;
}

fs_status fs_map_folder_find(const fs_map_folder *f, const char *name, char **path, fs_error *err) {
    const char *best = NULL, *rival = NULL;
    int rank = 0;
    *path = NULL;
    for (size_t i = 0; i < f->count; i++) {
        const int r = fs_map_name(f->names[i]) ? fit(f->names[i], name) : 0;
        if (r > rank)
            best = f->names[i], rival = NULL, rank = r;
        else if (r && r == rank)
            rival = f->names[i];
    }
    if (rival) return fs_fail(err, FS_E_FORMAT, "%s: %s and %s both fit %s; leave one of them", f->dir, best, rival, name);
    if (best && !(*path = fs_path_join(f->dir, best))) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", f->dir);
    return FS_OK;
}
