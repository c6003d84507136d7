/* safetensors: 8 bytes header length (little-endian), a JSON header, then the tensors' bytes, mapped in place.
 *
 * The rules are those of the reference implementation (github.com/huggingface/safetensors, format description and its validation): the
 * header is at most 100 MB and starts with '{', no name occurs twice, offsets are relative to the end of the header, cover the rest of the
 * file without hole or overlap, and each range is exactly shape x dtype. Old writers did not pad the header, so data may be
 * misaligned; such tensors are copied. */
#include "format/archive_build.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER_MAX = 100000000 };

typedef struct entry { const char *name; fs_dtype dtype; int ndim; int64_t shape[FS_MAX_DIMS]; size_t begin, end; } entry;

static uint64_t read_u64(const uint8_t *p) {
    uint64_t v = 0;
    for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

static bool get_size(const json_t *j, size_t *out) {
    if (!json_is_integer(j) || json_integer_value(j) < 0) return false;
    *out = (size_t)json_integer_value(j);
    return true;
}

static fs_status parse_shape(const char *file, const char *name, const json_t *shape, entry *e, fs_error *err) {
    if (!json_is_array(shape))
        return fs_fail(err, FS_E_FORMAT, "%s: tensor %s: expected a list as its shape; the header is damaged", file, name);
    if (json_array_size(shape) > FS_MAX_DIMS)
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: tensor %s: expected at most %d dimensions, found %zu", file, name, (int)FS_MAX_DIMS,
                       json_array_size(shape));
    e->ndim = (int)json_array_size(shape);
    for (int d = 0; d < e->ndim; d++) {
        const json_t *n = json_array_get(shape, (size_t)d);
        if (!json_is_integer(n) || json_integer_value(n) < 0)
            return fs_fail(err, FS_E_FORMAT, "%s: tensor %s: expected whole numbers as its shape; the header is damaged", file, name);
        e->shape[d] = json_integer_value(n);
    }
    return FS_OK;
}

static fs_status parse_entry(const char *file, const char *name, const json_t *j, entry *e, fs_error *err) {
    const json_t *offsets = json_object_get(j, "data_offsets");
    const char *dtype = json_string_value(json_object_get(j, "dtype"));
    int64_t count;
    size_t bytes;
    *e = (entry){.name = name};
    if (!dtype) return fs_fail(err, FS_E_FORMAT, "%s: tensor %s: its dtype is missing; the header is damaged", file, name);
    if (!fs_dtype_from_name(dtype, &e->dtype))
        return fs_fail(err, FS_E_UNSUPPORTED,
                       "%s: tensor %s: expected dtype F32, F16, BF16, F64, I64, I32, I16, I8, U8 or BOOL, found %s; convert the file first",
                       file, name, dtype);
    fs_status status = parse_shape(file, name, json_object_get(j, "shape"), e, err);
    if (status) return status;
    if (json_array_size(offsets) != 2 || !get_size(json_array_get(offsets, 0), &e->begin) ||
        !get_size(json_array_get(offsets, 1), &e->end) || e->end < e->begin)
        return fs_fail(err, FS_E_FORMAT, "%s: tensor %s: its data_offsets are no range of bytes; the header is damaged", file, name);
    if (!fs_shape_count(e->ndim, e->shape, &count) || !fs_mul_size((size_t)count, fs_dtype_size(e->dtype), &bytes))
        return fs_fail(err, FS_E_FORMAT, "%s: tensor %s: its shape is impossible", file, name);
    if (bytes != e->end - e->begin) {
        fs_tensor t = {.ndim = e->ndim};
        char text[160];
        memcpy(t.shape, e->shape, sizeof t.shape);
        fs_shape_text(&t, text, sizeof text);
        return fs_fail(err, FS_E_FORMAT, "%s: tensor %s: expected %zu bytes for %s %s, found %zu; the header is damaged", file, name, bytes,
                       dtype, text, e->end - e->begin);
    }
    return FS_OK;
}

static int by_offset(const void *x, const void *y) {
    const entry *a = x, *b = y;
    if (a->begin != b->begin) return a->begin < b->begin ? -1 : 1;
    return a->end < b->end ? -1 : a->end > b->end;
}

static fs_status check_metadata(const char *file, const json_t *meta, fs_error *err) {
    const char *key;
    json_t *value;
    bool good = json_is_object(meta);
    json_object_foreach((json_t *)(uintptr_t)meta, key, value) good = good && json_is_string(value);
    return good ? FS_OK : fs_fail(err, FS_E_FORMAT, "%s: expected names and strings as __metadata__; the header is damaged", file);
}

/* Header object -> entries sorted by offset, free of holes and overlaps. *total: end of the last. */
static fs_status parse_entries(const char *file, json_t *header, entry *entries, size_t *count, size_t *total, fs_error *err) {
    const char *name;
    json_t *value;
    fs_status status = FS_OK;
    *count = 0;
    *total = 0;
    json_object_foreach(header, name, value) {
        status = strcmp(name, "__metadata__") == 0 ? check_metadata(file, value, err)
                                                   : parse_entry(file, name, value, &entries[(*count)++], err);
        if (status) return status;
    }
    qsort(entries, *count, sizeof *entries, by_offset);
    for (size_t i = 0; i < *count; i++) {
        if (entries[i].begin != *total)
            return fs_fail(err, FS_E_FORMAT,
                           "%s: tensor %s: expected its data at byte %zu, found %zu (%s another tensor); the header is damaged", file,
                           entries[i].name, *total, entries[i].begin, entries[i].begin < *total ? "it overlaps" : "a hole behind");
        *total = entries[i].end;
    }
    return FS_OK;
}

static fs_status parse_header(const char *file, const uint8_t *data, size_t size, json_t **header, size_t *start, fs_error *err) {
    json_error_t why;
    if (size < 8) return fs_fail(err, FS_E_FORMAT, "%s: %zu bytes are too few for a safetensors file: download it again", file, size);
    uint64_t length = read_u64(data);
    if (length > HEADER_MAX)
        return fs_fail(err, FS_E_FORMAT,
                       "%s: expected a header of at most %d bytes, found a length of %" PRIu64
                       "; this is no safetensors file or it is damaged",
                       file, (int)HEADER_MAX, length);
    if (length > size - 8)
        return fs_fail(err, FS_E_FORMAT, "%s: the file is %" PRIu64 " bytes short of the end of its header: download it again", file,
                       length - (uint64_t)(size - 8));
    *start = 8 + (size_t)length;
    if (length == 0 || data[8] != '{')
        return fs_fail(err, FS_E_FORMAT, "%s: its header does not start with '{'; this is no safetensors file or it is damaged", file);
    *header = json_loadb((const char *)data + 8, (size_t)length, JSON_REJECT_DUPLICATES, &why);
    if (!*header && json_error_code(&why) == json_error_duplicate_key)
        return fs_fail(err, FS_E_FORMAT, "%s: a name is there twice in its header (%s); the file is damaged", file, why.text);
    if (!*header)
        return fs_fail(err, FS_E_FORMAT, "%s: its header is no JSON (%s at byte %d): download it again", file, why.text, why.position);
    return FS_OK;
}

fs_status fs_safetensors_add(fs_archive *a, const char *file, const uint8_t *data, size_t size, fs_error *err) {
    json_t *header = NULL;
    entry *entries = NULL;
    size_t start = 0, count = 0, total = 0;
    fs_status status = parse_header(file, data, size, &header, &start, err);
    if (status) return status;
    entries = fs_alloc(json_object_size(header) + 1, sizeof *entries);
    if (!entries) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its table of tensors", file);
        goto done;
    }
    status = parse_entries(file, header, entries, &count, &total, err);
    if (status) goto done;
    if (total > size - start) {
        status = fs_fail(err, FS_E_FORMAT, "%s: the file is %zu bytes short (expected %zu, found %zu): download it again", file,
                         total - (size - start), start + total, size);
        goto done;
    }
    if (total < size - start) {
        status = fs_fail(err, FS_E_FORMAT, "%s: %zu bytes follow the last tensor (expected %zu bytes, found %zu): download it again", file,
                         size - start - total, start + total, size);
        goto done;
    }
    for (size_t i = 0; i < count && !status; i++) {
        const entry *e = &entries[i];
        const void *bytes;
        status = fs_archive_align(a, file, data + start + e->begin, e->end - e->begin, fs_dtype_size(e->dtype), &bytes, err);
        if (!status) status = fs_archive_put(a, file, e->name, strlen(e->name), e->dtype, e->ndim, e->shape, bytes, err);
    }
    if (!status && !a->kind) a->kind = "safetensors";
done:
    free(entries);
    json_decref(header);
    return status;
}
