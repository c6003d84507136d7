/* A tensor in PyTorch is a window on a storage: offset, sizes and strides in elements. Contiguous windows are used in place; others
 * (transposed, sliced, expanded) are copied row by row into contiguous memory of the archive. The window is checked against the
 * storage before anything is read. */
#include "format/torch_tensors.h"

#include <inttypes.h>
#include <string.h>

bool fs_torch_storage_bytes(const fs_pickle_storage *s, size_t *out) { return fs_mul_size((size_t)s->count, fs_dtype_size(s->dtype), out); }

static bool has_tensors(const fs_pickle_value *v) {
    if (v->kind != FS_PICKLE_DICT) return false;
    for (size_t i = 0; i + 1 < v->as.list.count; i += 2)
        if (v->as.list.items[i]->kind == FS_PICKLE_STRING && v->as.list.items[i + 1]->kind == FS_PICKLE_TENSOR) return true;
    return false;
}

const fs_pickle_value *fs_torch_state_dict(const fs_pickle_value *root) {
    static const char *const wrappers[] = {"state_dict", "model_state_dict", "model", "module"};
    const fs_pickle_value *found = has_tensors(root) ? root : NULL;
    for (int depth = 0; depth < 3 && root; depth++) {
        const fs_pickle_value *inner = NULL;
        for (size_t w = 0; w < sizeof wrappers / sizeof wrappers[0] && !inner; w++) {
            inner = fs_pickle_dict_get(root, wrappers[w]);
            if (inner && inner->kind != FS_PICKLE_DICT) inner = NULL;
        }
        root = inner;
        if (root && has_tensors(root)) found = root;
    }
    return found;
}

static fs_status fail_tensor(const char *file, const char *name, const char *why, fs_error *err) {
    return fs_fail(err, FS_E_FORMAT, "%s: tensor %s: %s; the file is damaged: download it again", file, name, why);
}

/* Elements from the first to behind the last one that the window touches; false on overflow. count > 0. */
static bool window_span(const fs_pickle_tensor *t, int64_t *span) {
    int64_t last = 0, step;
    for (int d = 0; d < t->ndim; d++)
        if (!fs_mul_i64(t->shape[d] - 1, t->stride[d], &step) || __builtin_add_overflow(last, step, &last)) return false;
    return !__builtin_add_overflow(last, 1, span);
}

static bool is_contiguous(const fs_pickle_tensor *t) {
    int64_t expected = 1;
    for (int d = t->ndim - 1; d >= 0; d--) {
        if (t->shape[d] != 1 && t->stride[d] != expected) return false;
        expected *= t->shape[d];
    }
    return true;
}

static void copy_row(uint8_t *to, const uint8_t *from, size_t n, size_t stride, size_t element) {
    switch (element) {
    case 1: for (size_t i = 0; i < n; i++) to[i] = from[i * stride]; return;
    case 2: for (size_t i = 0; i < n; i++) memcpy(to + 2 * i, from + 2 * i * stride, 2); return;
    case 4: for (size_t i = 0; i < n; i++) memcpy(to + 4 * i, from + 4 * i * stride, 4); return;
    default: for (size_t i = 0; i < n; i++) memcpy(to + 8 * i, from + 8 * i * stride, 8); return;
    }
}

/* The window in row-major order. All indices are within the storage: the caller checked. count > 0. */
static void gather(const fs_pickle_tensor *t, const uint8_t *from, uint8_t *to, int64_t count) {
    size_t element = fs_dtype_size(t->dtype);
    int64_t index[FS_MAX_DIMS] = {0}, row = t->ndim ? t->shape[t->ndim - 1] : 1, stride = t->ndim ? t->stride[t->ndim - 1] : 1, at = 0;
    for (int64_t done = 0; done < count; done += row) {
        copy_row(to + (size_t)done * element, from + (size_t)at * element, (size_t)row, (size_t)stride, element);
        for (int d = t->ndim - 2; d >= 0; d--) {
            at += t->stride[d];
            if (++index[d] < t->shape[d]) break;
            at -= t->stride[d] * t->shape[d];
            index[d] = 0;
        }
    }
}

static fs_status add_tensor(fs_archive *a, const char *file, const fs_pickle_value *key, const fs_pickle_tensor *t,
                            fs_torch_resolve *resolve, void *user, fs_error *err) {
    const fs_pickle_storage *s = t->storage;
    size_t element = fs_dtype_size(t->dtype), bytes, storage_bytes;
    char name[300];
    int64_t count, span = 0, begin;
    fs_torch_storage stored;
    snprintf(name, sizeof name, "%.*s", (int)(key->as.text.size < sizeof name ? key->as.text.size : sizeof name - 1), key->as.text.data);
    if (!fs_shape_count(t->ndim, t->shape, &count) || !fs_mul_size((size_t)count, element, &bytes) ||
        !fs_torch_storage_bytes(s, &storage_bytes))
        return fail_tensor(file, name, "its shape is impossible", err);
    if (!s->untyped && s->dtype != t->dtype) return fail_tensor(file, name, "its storage has another type of elements", err);
    fs_status status = resolve(user, s, name, &stored, err);
    if (status) return status;

    /* the part of the storage that the tensor may touch, in bytes */
    size_t view_begin = (size_t)s->view_offset * fs_dtype_size(s->dtype), view_bytes = (size_t)s->view_count * fs_dtype_size(s->dtype);
    if (stored.bytes != storage_bytes || view_begin > stored.bytes || view_bytes > stored.bytes - view_begin)
        return fail_tensor(file, name, "its storage has another size than it should", err);
    int64_t available = (int64_t)(view_bytes / element);
    if (count > 0 && (!window_span(t, &span) || t->offset > available || span > available - t->offset))
        return fs_fail(err, FS_E_FORMAT,
                       "%s: tensor %s: reaches beyond its storage of %" PRId64 " elements; the file is damaged: download it again", file,
                       name, available);
    begin = count > 0 ? t->offset : 0;
    const uint8_t *first = stored.data + view_begin + (size_t)begin * element;
    const void *data = first;
    if (count > 0 && !is_contiguous(t)) {
        void *copy = NULL;
        status = fs_archive_own(a, file, bytes, &copy, err);
        if (status) return status;
        gather(t, first, copy, count);
        data = copy;
    } else {
        status = fs_archive_align(a, file, first, bytes, element, &data, err);
        if (status) return status;
    }
    return fs_archive_put(a, file, key->as.text.data, key->as.text.size, t->dtype, t->ndim, t->shape, data, err);
}

fs_status fs_torch_add_tensors(fs_archive *a, const char *file, const fs_pickle_value *dict, fs_torch_resolve *resolve, void *user,
                               fs_error *err) {
    for (size_t i = 0; i + 1 < dict->as.list.count; i += 2) {
        const fs_pickle_value *key = dict->as.list.items[i], *value = dict->as.list.items[i + 1];
        if (key->kind != FS_PICKLE_STRING || value->kind != FS_PICKLE_TENSOR) continue;
        fs_status status = add_tensor(a, file, key, value->as.tensor, resolve, user, err);
        if (status) return status;
    }
    return FS_OK;
}
