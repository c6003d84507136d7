/* Writing safetensors, in the order of the reference implementation: tensors sorted by size of element, largest first, then by name, so
 * that every tensor is aligned; the header is padded with spaces to a multiple of 8. The same tensors give the same bytes as
 * Python's safetensors gives. Written beside the target, synced, then renamed: the target is whole or untouched. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "format/archive.h"

typedef struct item { const fs_tensor *tensor; const char *name; size_t bytes, index; } item;

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

static fs_status write_items(const char *path, const char *header, size_t header_size, const item *items, size_t n, fs_tensor_bytes_fn bytes, void *user,
                             fs_error *err) {
    uint8_t length[8];
    fs_output o;
    for (int i = 0; i < 8; i++) length[i] = (uint8_t)(header_size >> (8 * i));
    fs_status status = fs_output_open(path, &o, err);
    if (!status) status = fs_output_put(&o, length, sizeof length, err);
    if (!status) status = fs_output_put(&o, header, header_size, err);
    for (size_t i = 0; i < n && !status; i++) {
        const void *data = items[i].tensor->data;
        if (bytes) status = bytes(user, items[i].index, &data, err);
        if (!status) status = fs_output_put(&o, data, items[i].bytes, err);
    }
    if (!status) status = fs_output_commit(&o, err);
    fs_output_drop(&o);
    return status;
}

fs_status fs_safetensors_write(const char *path, const fs_tensor *const *tensors, const char *const *names, size_t n, const char *metadata_json,
                               fs_error *err) {
    return fs_safetensors_write_from(path, tensors, names, n, metadata_json, NULL, NULL, err);
}

fs_status fs_safetensors_write_from(const char *path, const fs_tensor *const *tensors, const char *const *names, size_t n, const char *metadata_json,
                                    fs_tensor_bytes_fn bytes_of, void *user, fs_error *err) {
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
        items[i] = (item){tensors[i], names[i], bytes, i};
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
    status = write_items(path, padded, size, items, n, bytes_of, user, err);
done:
    free(padded);
    free(text);
    free(items);
    json_decref(metadata);
    json_decref(header);
    return status;
}
