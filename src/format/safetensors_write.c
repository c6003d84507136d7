/* Writing safetensors, in the order of the reference implementation: tensors sorted by size of element, largest first, then by name, so
 * that every tensor is aligned; the header is padded with spaces to a multiple of 8. The same tensors give the same bytes as
 * Python's safetensors gives. Written beside the target, synced, then renamed: the target is whole or untouched. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/archive.h"

typedef struct item { const fs_tensor *tensor; const char *name; size_t bytes; } item;

/* The reference implementation's order of dtypes, the last first. */
static int rank(fs_dtype t) {
    static const fs_dtype order[] = {FS_DTYPE_I64, FS_DTYPE_F64, FS_DTYPE_F32, FS_DTYPE_I32, FS_DTYPE_BF16, FS_DTYPE_F16, FS_DTYPE_I16, FS_DTYPE_I8, FS_DTYPE_U8};
    int i = 0;
    while (i < (int)(sizeof order / sizeof order[0]) && order[i] != t) i++;
    return i;
}

static int by_dtype_and_name(const void *x, const void *y) {
    const item *a = x, *b = y;
    int difference = rank(a->tensor->dtype) - rank(b->tensor->dtype);
    return difference ? difference : strcmp(a->name, b->name);
}

static fs_status fail_write(const char *path, const char *doing, fs_error *err) {
    int e = errno;
    return fs_fail(err, e == ENOENT || e == ENOTDIR ? FS_E_NOT_FOUND : FS_E_IO, "%s: cannot %s: %s%s", path, doing, strerror(e),
                   e == ENOSPC || e == EDQUOT ? "; free some space and run again" : "");
}

/* {"name": {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}, ...} */
static fs_status describe(const char *path, const item *items, size_t n, json_t *header, fs_error *err) {
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const fs_tensor *t = items[i].tensor;
        json_t *shape = json_array();
        for (int d = 0; d < t->ndim; d++) json_array_append_new(shape, json_integer(t->shape[d]));
        json_t *entry = json_pack("{s:s, s:o, s:[I,I]}", "dtype", fs_dtype_name(t->dtype), "shape", shape, "data_offsets", (json_int_t)at,
                                  (json_int_t)(at + items[i].bytes));
        if (json_object_get(header, items[i].name)) {
            json_decref(entry);
            return fs_fail(err, FS_E_USAGE, "%s: tensor %s is given twice", path, items[i].name);
        }
        if (!entry || json_object_set_new(header, items[i].name, entry) != 0)
            return fs_fail(err, FS_E_USAGE, "%s: tensor %s: its name is no UTF-8 text, or memory is short", path, items[i].name);
        at += items[i].bytes;
    }
    return FS_OK;
}

static fs_status write_all(int fd, const char *path, const void *data, size_t size, fs_error *err) {
    for (size_t at = 0; at < size;) {
        size_t some = size - at < ((size_t)1 << 30) ? size - at : (size_t)1 << 30;
        ssize_t w = write(fd, (const char *)data + at, some);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return fail_write(path, "write it", err);
        at += (size_t)w;
    }
    return FS_OK;
}

static fs_status write_items(const char *path, const char *header, size_t header_size, const item *items, size_t n, fs_error *err) {
    uint8_t length[8];
    fs_status status;
    struct stat st;
    mode_t mode = stat(path, &st) == 0 ? st.st_mode & 0777 : 0666;
    char *temp = fs_format("%s.tmp-%ld", path, (long)getpid());
    int fd = -1;
    if (!temp) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)(header_size >> (8 * i));
    fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0) {
        status = fail_write(path, "write it", err);
        goto done;
    }
    status = write_all(fd, path, length, sizeof length, err);
    if (!status) status = write_all(fd, path, header, header_size, err);
    for (size_t i = 0; i < n && !status; i++) status = write_all(fd, path, items[i].tensor->data, items[i].bytes, err);
    if (!status && fsync(fd) != 0 && errno != EINVAL) status = fail_write(path, "write it", err);
    int closed = close(fd);
    fd = -1;
    if (!status && (closed != 0 || rename(temp, path) != 0)) status = fail_write(path, "write it", err);
    if (status) unlink(temp);
done:
    free(temp);
    return status;
}

fs_status fs_safetensors_write(const char *path, const fs_tensor *const *tensors, const char *const *names, size_t n, const char *metadata_json,
                               fs_error *err) {
    json_t *header = json_object(), *metadata = NULL;
    item *items = fs_alloc(n + 1, sizeof *items);
    char *text = NULL, *padded = NULL;
    size_t total = 0, size;
    fs_status status = FS_OK;
    if (!header || !items) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        size_t bytes;
        const bool plain = fs_dtype_size(tensors[i]->dtype) > 0; /* the format knows no block types */
        if (!plain || !fs_dtype_bytes(tensors[i]->dtype, tensors[i]->ndim, tensors[i]->shape, &bytes) || !fs_add_size(total, bytes, &total) ||
            strcmp(names[i], "__metadata__") == 0) {
            status = fs_fail(err, FS_E_USAGE, "%s: tensor %s: its name, type or shape cannot be written", path, names[i]);
            goto done;
        }
        items[i] = (item){tensors[i], names[i], bytes};
    }
    if (metadata_json) {
        metadata = json_loads(metadata_json, JSON_REJECT_DUPLICATES, NULL);
        if (!json_is_object(metadata)) {
            status = fs_fail(err, FS_E_USAGE, "%s: the metadata to write is no JSON object", path);
            goto done;
        }
        json_object_set(header, "__metadata__", metadata);
    }
    qsort(items, n, sizeof *items, by_dtype_and_name);
    status = describe(path, items, n, header, err);
    if (status) goto done;
    text = json_dumps(header, JSON_COMPACT);
    size = text ? (strlen(text) + 7) / 8 * 8 : 0;
    padded = text ? fs_format("%-*s", (int)size, text) : NULL;
    if (!padded) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
        goto done;
    }
    status = write_items(path, padded, size, items, n, err);
done:
    free(padded);
    free(text);
    free(items);
    json_decref(metadata);
    json_decref(header);
    return status;
}
