/* The hub's list of files. Every byte of it may be hostile: a path must stay inside the folder it is written to and be safe to print, a
 * size must be possible, a checksum must be there, no two entries may want the same place. What breaks a rule is refused, with the whole
 * listing: a list that lies once is not used in part. */
#include "net/net.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_JSON_BYTES = 64 << 20 };

const char fs_net_partial_suffix[] = ".part", fs_net_state_suffix[] = ".part.json", fs_net_new_suffix[] = ".part.new";

/* NULL if the path is fine, else what is wrong with it. */
static const char *path_fault(const char *path, size_t n) {
    if (n == 0) return "is empty";
    if (n > FS_NET_MAX_PATH || strlen(path) != n) return "is too long or holds a zero byte";
    if (path[0] == '/') return "is absolute";
    for (const unsigned char *p = (const unsigned char *)path; *p; p++) {
        if (*p < 0x20 || *p == 0x7f || (p[0] == 0xc2 && p[1] >= 0x80 && p[1] < 0xa0)) return "holds control characters";
        if (*p == '\\') return "holds a backslash";
    }
    for (const char *name = path;; name++) {
        size_t length = strcspn(name, "/");
        if (length == 0) return "holds an empty name";
        if (length > FS_NET_MAX_NAME) return "holds a name that is too long";
        if (name[0] == '.' && (length == 1 || (length == 2 && name[1] == '.'))) return "leads out of the folder";
        name += length;
        if (!*name) break;
    }
    static const char saved[] = ".pull.json";
    const char *const own[] = {fs_net_partial_suffix, fs_net_state_suffix, fs_net_new_suffix, saved};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (n >= strlen(own[i]) && strcmp(path + n - strlen(own[i]), own[i]) == 0) return "has a name that unfinished downloads use";
    return NULL;
}

static bool copy_hash(const json_t *value, size_t digits, char out[65]) {
    const char *s = json_string_value(value);
    if (!s || json_string_length(value) != digits) return false;
    for (size_t i = 0; i < digits; i++) {
        char c = s[i];
        if (c >= 'A' && c <= 'F') c = (char)(c - 'A' + 'a');
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) return false;
        out[i] = c;
    }
    out[digits] = 0;
    return true;
}

static fs_status add_file(fs_net_listing *l, const char *where, const json_t *o, fs_error *err) {
    const json_t *name = json_object_get(o, "path"), *size = json_object_get(o, "size"), *lfs = json_object_get(o, "lfs");
    const char *path = json_string_value(name);
    if (!path) return fs_fail(err, FS_E_FORMAT, "%s: file %zu of the listing has no path; nothing is downloaded", where, l->count);
    const char *fault = path_fault(path, json_string_length(name));
    if (fault) return fs_fail(err, FS_E_FORMAT, "%s: the listing's path \"%.100s\" %s; nothing is downloaded", where, path, fault);
    if (!json_is_integer(size) || json_integer_value(size) < 0 || json_integer_value(size) > FS_NET_MAX_BYTES)
        return fs_fail(err, FS_E_FORMAT, "%s: the listing gives %.200s no size from 0 to 1 TiB; nothing is downloaded", where, path);
    fs_net_entry e = {.size = json_integer_value(size)};
    if (lfs && !json_is_null(lfs)) {
        const json_t *stored = json_object_get(lfs, "size");
        if (stored && (!json_is_integer(stored) || json_integer_value(stored) != e.size))
            return fs_fail(err, FS_E_FORMAT, "%s: the listing gives %.200s two different sizes; nothing is downloaded", where, path);
        if (!copy_hash(json_object_get(lfs, "oid"), 64, e.hash))
            return fs_fail(err, FS_E_FORMAT, "%s: the listing gives %.200s no SHA-256 (64 hex digits); nothing is downloaded", where, path);
    } else {
        e.git = true;
        if (!copy_hash(json_object_get(o, "oid"), 40, e.hash))
            return fs_fail(err, FS_E_FORMAT, "%s: the listing gives %.200s no checksum (40 hex digits); nothing is downloaded", where,
                           path);
    }
    if (l->count == FS_NET_MAX_FILES)
        return fs_fail(err, FS_E_LIMIT, "%s: more than %d files; nothing is downloaded", where, (int)FS_NET_MAX_FILES);
    if (l->count == l->room) {
        size_t room = l->room ? 2 * l->room : 64;
        fs_net_entry *items = realloc(l->items, room * sizeof *items);
        if (!items) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its files", where);
        l->items = items;
        l->room = room;
    }
    e.path = fs_strdup(path);
    if (!e.path) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its files", where);
    l->items[l->count++] = e;
    l->total += e.size;
    return FS_OK;
}

fs_status fs_net_listing_add_array(fs_net_listing *l, const char *where, const json_t *files, fs_error *err) {
    if (!json_is_array(files))
        return fs_fail(err, FS_E_FORMAT, "%s: expected a JSON list of files; is this a model hub's address (--mirror)?", where);
    size_t i;
    const json_t *o;
    json_array_foreach(files, i, o) {
        const char *type = json_string_value(json_object_get(o, "type"));
        if (!type) return fs_fail(err, FS_E_FORMAT, "%s: entry %zu of the listing has no type; nothing is downloaded", where, i);
        if (strcmp(type, "file") != 0) continue;
        fs_status status = add_file(l, where, o, err);
        if (status) return status;
    }
    return FS_OK;
}

fs_status fs_net_listing_add(fs_net_listing *l, const char *where, const void *json, size_t size, fs_error *err) {
    json_error_t why;
    if (size > MAX_JSON_BYTES)
        return fs_fail(err, FS_E_LIMIT, "%s: a listing of %zu bytes, the limit is %d", where, size, (int)MAX_JSON_BYTES);
    json_t *root = json_loadb(size ? json : "", size, JSON_REJECT_DUPLICATES, &why);
    if (!root)
        return fs_fail(err, FS_E_FORMAT,
                       "%s: line %d, column %d of the listing: no valid JSON: %s; is this a model hub's address (--mirror)?", where,
                       why.line, why.column, why.text);
    fs_status status = fs_net_listing_add_array(l, where, root, err);
    json_decref(root);
    return status;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const fs_net_entry *)a)->path, ((const fs_net_entry *)b)->path);
}

fs_status fs_net_listing_finish(fs_net_listing *l, const char *where, fs_error *err) {
    if (l->count == 0) return fs_fail(err, FS_E_NOT_FOUND, "%s: holds no files", where);
    qsort(l->items, l->count, sizeof *l->items, by_path);
    for (size_t i = 0; i < l->count; i++) {
        const char *path = l->items[i].path;
        if (i && strcmp(path, l->items[i - 1].path) == 0)
            return fs_fail(err, FS_E_FORMAT, "%s: the listing names %.200s twice; nothing is downloaded", where, path);
        for (const char *slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
            char folder[FS_NET_MAX_PATH + 1];
            snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
            const fs_net_entry key = {.path = folder};
            if (bsearch(&key, l->items, l->count, sizeof *l->items, by_path))
                return fs_fail(err, FS_E_FORMAT, "%s: the listing calls %.200s both a file and a folder; nothing is downloaded", where,
                               folder);
        }
    }
    return FS_OK;
}

void fs_net_listing_trim(fs_net_listing *l) {
    static const char *const endings[] = {".h5", ".msgpack", ".ot", ".gitattributes", ".gitignore"};
    size_t kept = 0;
    l->total = 0;
    for (size_t i = 0; i < l->count; i++) {
        fs_net_entry *e = &l->items[i];
        bool drop = false;
        for (size_t k = 0; k < sizeof endings / sizeof *endings; k++) {
            size_t n = strlen(e->path), m = strlen(endings[k]);
            drop |= n >= m && strcmp(e->path + n - m, endings[k]) == 0;
        }
        if (drop) {
            free(e->path);
            continue;
        }
        l->total += e->size;
        l->items[kept++] = *e;
    }
    l->count = kept;
}

void fs_net_listing_free(fs_net_listing *l) {
    for (size_t i = 0; i < l->count; i++) free(l->items[i].path);
    free(l->items);
    *l = (fs_net_listing){0};
}

json_t *fs_net_listing_array(const fs_net_listing *l) {
    json_t *a = json_array();
    for (size_t i = 0; a && i < l->count; i++) {
        const fs_net_entry *e = &l->items[i];
        json_t *o = e->git ? json_pack("{s:s, s:s, s:I, s:s}", "type", "file", "path", e->path, "size", (json_int_t)e->size, "oid", e->hash)
                           : json_pack("{s:s, s:s, s:I, s:{s:s}}", "type", "file", "path", e->path, "size", (json_int_t)e->size, "lfs",
                                       "oid", e->hash);
        if (!o || json_array_append_new(a, o) != 0) {
            json_decref(a);
            return NULL;
        }
    }
    return a;
}

/* Link: <address>; rel="next", <address>; rel="last" */
char *fs_net_link_next(const char *value) {
    while (value && (value = strchr(value, '<'))) {
        const char *begin = value + 1, *end = strchr(begin, '>');
        if (!end) return NULL;
        const char *next = strchr(end, '<'), *rel = strstr(end, "rel=");
        if (rel && (!next || rel < next) && (strncmp(rel + 4, "\"next\"", 6) == 0 || strncmp(rel + 4, "next", 4) == 0)) {
            size_t n = (size_t)(end - begin);
            return n > 0 && n <= 8192 ? fs_format("%.*s", (int)n, begin) : NULL;
        }
        value = next;
    }
    return NULL;
}

char *fs_net_next_page(const char *base, const char *link) {
    static const char hub[] = "https://huggingface.co";
    for (const unsigned char *p = (const unsigned char *)link; *p; p++)
        if (*p <= 0x20 || *p >= 0x7f) return NULL;
    const char *const roots[] = {base, hub};
    for (size_t i = 0; i < 2; i++) {
        size_t n = strlen(roots[i]);
        if (strncmp(link, roots[i], n) == 0 && link[n] == '/') return fs_format("%s%s", base, link + n);
    }
    if (link[0] != '/' || link[1] == '/') return NULL;
    const char *host = strstr(base, "://"), *slash = host ? strchr(host + 3, '/') : NULL;
    return fs_format("%.*s%s", slash ? (int)(slash - base) : (int)strlen(base), base, link);
}
