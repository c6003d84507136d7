/* The archive: named tensors of one or several mapped files, found by name, with a record of which were asked for. What kind a
 * file is is told by its bytes; a directory is searched the way Hugging Face's loaders do, safetensors first. */
#include "format/archive_build.h"
#include "format/gguf_build.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- building ---- */

fs_status fs_archive_begin(const char *path, fs_archive **out, fs_error *err) {
    *out = NULL;
    fs_archive *a = calloc(1, sizeof *a);
    if (a) a->path = fs_strdup(path);
    if (a) a->arena = fs_arena_create((size_t)64 << 10);
    if (!a || !a->path || !a->arena) {
        fs_archive_free(a);
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    }
    *out = a;
    return FS_OK;
}

void fs_archive_free(fs_archive *a) {
    if (!a) return;
    for (size_t i = 0; i < a->map_count; i++) fs_unmap(&a->maps[i]);
    for (size_t i = 0; i < a->owned_count; i++) free(a->owned[i]);
    free(a->maps);
    free(a->owned);
    free(a->items);
    fs_strmap_free(&a->names);
    fs_gguf_free(a->gguf);
    fs_arena_free(a->arena);
    free(a->path);
    free(a);
}

bool fs_is_utf8(const char *text, size_t length) {
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0; i < length;) {
        unsigned c = s[i++], more = c < 0x80 ? 0 : c >= 0xC2 && c < 0xE0 ? 1 : c >= 0xE0 && c < 0xF0 ? 2 : c >= 0xF0 && c < 0xF5 ? 3 : 9;
        if (c == 0 || more > 3 || length - i < more) return false;
        unsigned code = more == 0 ? c : c & (0x3Fu >> more);
        for (unsigned k = 0; k < more; k++, i++) {
            if ((s[i] & 0xC0) != 0x80) return false;
            code = code << 6 | (s[i] & 0x3Fu);
        }
        if ((more == 2 && code < 0x800) || (more == 3 && (code < 0x10000 || code > 0x10FFFF)) || (code >= 0xD800 && code < 0xE000)) return false;
    }
    return true;
}

const char *fs_archive_string(fs_archive *a, const char *s, size_t length) {
    char *copy = length < SIZE_MAX ? fs_arena_alloc(a->arena, length + 1) : NULL;
    if (!copy) return NULL;
    if (length) memcpy(copy, s, length);
    copy[length] = '\0';
    return copy;
}

fs_status fs_archive_own(fs_archive *a, const char *file, size_t bytes, void **out, fs_error *err) {
    size_t limit = a->source_bytes > (SIZE_MAX >> 3) ? SIZE_MAX : 4 * a->source_bytes + ((size_t)1 << 20);
    if (bytes > limit - a->copied_bytes)
        return fs_fail(err, FS_E_LIMIT, "%s: its overlapping or repeated tensors would take more than four times the file's size in memory; "
                       "save them as contiguous tensors", file);
    void **grown = realloc(a->owned, (a->owned_count + 1) * sizeof *grown);
    if (grown) a->owned = grown;
    void *p = grown ? fs_alloc(bytes, 1) : NULL;
    if (!p) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for a copy of %zu bytes", file, bytes);
    a->owned[a->owned_count++] = p;
    a->copied_bytes += bytes;
    *out = p;
    return FS_OK;
}

fs_status fs_archive_align(fs_archive *a, const char *file, const uint8_t *data, size_t bytes, size_t element, const void **out, fs_error *err) {
    *out = data;
    if (data && (uintptr_t)data % element == 0) return FS_OK;
    void *copy = NULL;
    fs_status status = fs_archive_own(a, file, bytes, &copy, err);
    if (status) return status;
    if (bytes) memcpy(copy, data, bytes);
    *out = copy;
    return FS_OK;
}

fs_status fs_archive_put(fs_archive *a, const char *file, const char *name, size_t name_length, fs_dtype dtype, int ndim,
                         const int64_t *shape, const void *data, fs_error *err) {
    size_t bytes;
    bool added;
    if (name_length == 0 || !fs_is_utf8(name, name_length))
        return fs_fail(err, FS_E_FORMAT, "%s: a tensor's name is empty or no UTF-8 text; the file is damaged", file);
    if (!fs_dtype_bytes(dtype, ndim, shape, &bytes))
        return fs_fail(err, FS_E_FORMAT, "%s: tensor %.*s: its shape is impossible", file, (int)(name_length < 300 ? name_length : 300), name);
    if (a->count == a->capacity) {
        size_t capacity = a->capacity ? 2 * a->capacity : 256;
        fs_archive_item *items = realloc(a->items, capacity * sizeof *items);
        if (!items) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its table of tensors", file);
        a->items = items;
        a->capacity = capacity;
    }
    const char *own_name = fs_archive_string(a, name, name_length);
    size_t *at = own_name ? fs_strmap_put(&a->names, own_name, name_length, a->count, &added) : NULL;
    if (!at) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its table of tensors", file);
    if (!added)
        return fs_fail(err, FS_E_FORMAT, "%s: tensor %s is there twice (also in %s): expected each name once; the files are damaged or mixed up",
                       file, own_name, a->items[*at].file);
    fs_archive_item *item = &a->items[a->count++];
    *item = (fs_archive_item){.file = file};
    item->tensor = (fs_tensor){.dtype = dtype, .ndim = ndim, .data = (void *)(uintptr_t)data, .name = own_name};
    for (int d = 0; d < FS_MAX_DIMS; d++) item->tensor.shape[d] = d < ndim ? shape[d] : 1;
    a->bytes += bytes;
    return FS_OK;
}

static int by_name(const void *x, const void *y) {
    return strcmp(((const fs_archive_item *)x)->tensor.name, ((const fs_archive_item *)y)->tensor.name);
}

/* DataParallel puts "module." in front of every name. It is dropped when every tensor has it. */
static void drop_module_prefix(fs_archive *a) {
    static const char prefix[] = "module.";
    const size_t n = sizeof prefix - 1;
    for (size_t i = 0; i < a->count; i++)
        if (strncmp(a->items[i].tensor.name, prefix, n) != 0 || a->items[i].tensor.name[n] == '\0') return;
    for (size_t i = 0; i < a->count; i++) a->items[i].tensor.name += n;
}

fs_status fs_archive_finish(fs_archive *a, fs_error *err) {
    if (a->count == 0) return fs_fail(err, FS_E_FORMAT, "%s: holds no tensors; this is no weight file of a model", a->path);
    drop_module_prefix(a);
    qsort(a->items, a->count, sizeof *a->items, by_name);
    fs_strmap_free(&a->names);
    for (size_t i = 0; i < a->count; i++) {
        bool added;
        if (!fs_strmap_put(&a->names, a->items[i].tensor.name, strlen(a->items[i].tensor.name), i, &added))
            return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its table of tensors", a->path);
    }
    return FS_OK;
}

/* ---- opening ---- */

/* What stands where a weight file should be, for files that are none. */
static fs_status fail_unknown(const char *file, const uint8_t *d, size_t n, fs_error *err) {
    size_t i = 0;
    while (i < n && i < 64 && (d[i] == ' ' || d[i] == '\t' || d[i] == '\r' || d[i] == '\n')) i++;
    if (n == 0) return fs_fail(err, FS_E_FORMAT, "%s: is empty (0 bytes): download it again", file);
    if (n >= 23 && memcmp(d, "version https://git-lfs", 23) == 0)
        return fs_fail(err, FS_E_FORMAT, "%s: is a Git LFS pointer of %zu bytes, not the weights themselves: run 'git lfs pull' or download the file itself",
                       file, n);
    if (i < n && d[i] == '<') return fs_fail(err, FS_E_FORMAT, "%s: is a web page, not weights: the download went wrong, download it again", file);
    if (n >= 263 && memcmp(d + 257, "ustar", 5) == 0)
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: is a tar archive: unpack it first, or save the weights again with a PyTorch of 0.4 or newer", file);
    if (n >= 2 && d[0] == 0x1f && d[1] == 0x8b) return fs_fail(err, FS_E_UNSUPPORTED, "%s: is compressed with gzip: unpack it first", file);
    if (n >= 2 && d[0] == 0x80 && d[1] >= 1 && d[1] <= 5)
        return fs_fail(err, FS_E_FORMAT, "%s: is a Python pickle, but not one that torch.save wrote: save the state_dict with torch.save", file);
    if (n < 9) return fs_fail(err, FS_E_FORMAT, "%s: is too short (%zu bytes) for a weight file: download it again", file, n);
    return fs_fail(err, FS_E_FORMAT, "%s: expected safetensors, a PyTorch file or GGUF, found none of them; check that it is a weight file and download it again", file);
}

static bool looks_like_safetensors(const uint8_t *d, size_t n) {
    return n >= 9 && d[8] == '{' && d[4] == 0 && d[5] == 0 && d[6] == 0 && d[7] == 0;
}
static bool looks_like_zip(const uint8_t *d, size_t n) { return n >= 4 && d[0] == 'P' && d[1] == 'K' && d[2] < 9 && d[3] == d[2] + 1; }

static fs_status add_bytes(fs_archive *a, const char *file, const uint8_t *data, size_t size, fs_error *err) {
    a->source_bytes += size;
    if (looks_like_zip(data, size)) return fs_torch_zip_add(a, file, data, size, err);
    if (looks_like_safetensors(data, size)) return fs_safetensors_add(a, file, data, size, err);
    if (fs_gguf_sniff(data, size)) return fs_gguf_add(a, file, data, size, err);
    if (fs_torch_legacy_sniff(data, size)) return fs_torch_legacy_add(a, file, data, size, err);
    return fail_unknown(file, data, size, err);
}

static fs_status map_file(fs_archive *a, const char *path, const char **file, fs_mapping *map, fs_error *err) {
    *file = fs_archive_string(a, path, strlen(path));
    fs_mapping *maps = realloc(a->maps, (a->map_count + 1) * sizeof *maps);
    if (maps) a->maps = maps;
    if (!*file || !maps) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    fs_status status = fs_map_file(path, map, err);
    if (status) return status;
    a->maps[a->map_count++] = *map;
    return FS_OK;
}

fs_status fs_archive_add_file(fs_archive *a, const char *path, const char **file, fs_error *err) {
    fs_mapping map;
    fs_status status = map_file(a, path, file, &map, err);
    return status ? status : add_bytes(a, *file, map.data, map.size, err);
}

/* Is this JSON text (an index) rather than weights? */
static bool looks_like_json(const uint8_t *d, size_t n) {
    size_t i = n >= 3 && memcmp(d, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    while (i < n && i < 4096 && (d[i] == ' ' || d[i] == '\t' || d[i] == '\r' || d[i] == '\n')) i++;
    return i < n && d[i] == '{';
}

static fs_status add_path(fs_archive *a, const char *path, fs_error *err) {
    const char *file;
    fs_mapping map;
    fs_status status = map_file(a, path, &file, &map, err);
    if (status) return status;
    if (looks_like_json(map.data, map.size) && !looks_like_safetensors(map.data, map.size)) return fs_index_add(a, path, err);
    return add_bytes(a, file, map.data, map.size, err);
}

static fs_status add_directory(fs_archive *a, const char *dir, fs_error *err) {
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *path = fs_path_join(dir, names[i]);
        if (!path) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
        bool there = fs_path_exists(path);
        fs_status status = there ? add_path(a, path, err) : FS_OK;
        free(path);
        if (there) return status;
    }
    return fs_fail(err, FS_E_NOT_FOUND, "%s: expected model.safetensors, pytorch_model.bin or one of them with .index.json, found none; "
                   "check the path or download the missing files", dir);
}

fs_status fs_archive_open(const char *path, fs_archive **out, fs_error *err) {
    fs_archive *a;
    *out = NULL;
    fs_status status = fs_archive_begin(path, &a, err);
    if (status) return status;
    status = fs_path_is_dir(path) ? add_directory(a, path, err) : add_path(a, path, err);
    if (!status) status = fs_archive_finish(a, err);
    if (status) fs_archive_free(a);
    else *out = a;
    return status;
}

typedef fs_status reader(fs_archive *a, const char *file, const uint8_t *data, size_t size, fs_error *err);

static fs_status read_one(reader *add, const char *name, const uint8_t *data, size_t size, fs_archive **out, fs_error *err) {
    fs_archive *a;
    *out = NULL;
    fs_status status = fs_archive_begin(name, &a, err);
    if (status) return status;
    a->source_bytes = size;
    status = add(a, a->path, data, size, err);
    if (!status) status = fs_archive_finish(a, err);
    if (status) fs_archive_free(a);
    else *out = a;
    return status;
}

fs_status fs_safetensors_read(const char *name, const uint8_t *data, size_t size, fs_archive **out, fs_error *err) {
    return read_one(fs_safetensors_add, name, data, size, out, err);
}

fs_status fs_gguf_read(const char *name, const uint8_t *data, size_t size, fs_archive **out, fs_error *err) {
    return read_one(fs_gguf_add, name, data, size, out, err);
}

fs_status fs_torch_read(const char *name, const uint8_t *data, size_t size, fs_archive **out, fs_error *err) {
    return read_one(looks_like_zip(data, size) ? fs_torch_zip_add : fs_torch_legacy_add, name, data, size, out, err);
}

/* ---- asking ---- */

size_t fs_archive_count(const fs_archive *a) { return a->count; }

fs_archive_entry fs_archive_get(const fs_archive *a, size_t i) {
    if (i >= a->count) return (fs_archive_entry){0};
    const fs_archive_item *item = &a->items[i];
    return (fs_archive_entry){&item->tensor, item->tensor.name, item->file, item->used};
}

static fs_archive_item *find(const fs_archive *a, const char *name) {
    const size_t *i = fs_strmap_get(&a->names, name, strlen(name));
    return i ? &a->items[*i] : NULL;
}

const fs_tensor *fs_archive_find(fs_archive *a, const char *name) {
    fs_archive_item *item = find(a, name);
    if (!item) return NULL;
    item->used = true;
    return &item->tensor;
}

const char *fs_archive_path(const fs_archive *a) { return a->path; }
const char *fs_archive_kind(const fs_archive *a) { return a->kind ? a->kind : "none"; }
size_t fs_archive_bytes(const fs_archive *a) { return a->bytes; }

void fs_archive_release(const fs_archive *a, const fs_tensor *t) {
    size_t bytes;
    const long page = sysconf(_SC_PAGESIZE);
    const uintptr_t from = (uintptr_t)t->data;
    if (page <= 0 || !fs_dtype_bytes(t->dtype, t->ndim, t->shape, &bytes)) return;
    for (size_t i = 0; i < a->map_count; i++) {
        const uintptr_t begin = (uintptr_t)a->maps[i].data, end = begin + a->maps[i].size;
        if (from < begin || from + bytes > end) continue; /* a copy: its pages are not the file's */
        const uintptr_t first = from & ~((uintptr_t)page - 1); /* neighbours' ends may go too: all of it can be read again */
        madvise((void *)first, from + bytes - first, MADV_DONTNEED); /* advice; refusing it is no error */
        return;
    }
}

void fs_archive_lock(const fs_archive *a) {
    for (size_t i = 0; a && i < a->map_count; i++) (void)fs_lock_pages(a->maps[i].data, a->maps[i].size);
}

static const fs_tensor *source_find(void *user, const char *name) { return fs_archive_find(user, name); }

static const char *source_origin(void *user, const char *name) {
    const fs_archive_item *item = find(user, name);
    return item ? item->file : fs_archive_path(user);
}

fs_tensor_source fs_archive_source(fs_archive *a) { return (fs_tensor_source){a, source_find, source_origin}; }

/* ---- several archives, one behind the other ---- */

enum { NAME_SIZE = 1024 };

/* The name to ask this layer for; false when the layer does not cover `name`. */
static bool rewrite(const fs_archive_layer *layer, const char *name, char out[NAME_SIZE]) {
    const char *from = layer->from ? layer->from : "", *to = layer->to ? layer->to : "";
    size_t n = strlen(from);
    if (!layer->archive || strncmp(name, from, n) != 0) return false;
    int m = snprintf(out, NAME_SIZE, "%s%s", to, name + n);
    return m >= 0 && m < NAME_SIZE;
}

static const fs_tensor *stack_find(void *user, const char *name) {
    const fs_archive_stack *s = user;
    char asked[NAME_SIZE];
    for (size_t i = 0; i < s->count; i++) {
        const fs_tensor *t = rewrite(&s->layers[i], name, asked) ? fs_archive_find(s->layers[i].archive, asked) : NULL;
        if (t) return t;
    }
    return NULL;
}

static const char *stack_origin(void *user, const char *name) {
    const fs_archive_stack *s = user;
    const char *expected = NULL;
    char asked[NAME_SIZE];
    for (size_t i = 0; i < s->count; i++) {
        if (!rewrite(&s->layers[i], name, asked)) continue;
        const fs_archive_item *item = find(s->layers[i].archive, asked);
        if (item) return item->file;
        if (!expected) expected = s->layers[i].archive->path;
    }
    if (!expected && s->count > 0 && s->layers[0].archive) expected = s->layers[0].archive->path;
    return expected ? expected : "(no weight file)";
}

fs_tensor_source fs_archive_stack_source(fs_archive_stack *s) { return (fs_tensor_source){s, stack_find, stack_origin}; }
