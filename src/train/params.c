/* The list of trained tensors (params.h). Lookup is by a linear table of names at binding time only: a few thousand names, once. */
#include "train/params.h"

#include <stdlib.h>
#include <string.h>

#include "tensor/block.h"
#include "tensor/packed.h"

static void param_free(fs_param *p) {
    if (!p) return;
    free(p->name);
    free(p->data);
    free(p->grad);
    free(p->m);
    free(p->v);
    free(p);
}

static fs_status fill(fs_param *p, const fs_tensor *from, fs_error *err) {
    if (!from) return FS_OK;
    if (from->ndim != p->tensor.ndim || memcmp(from->shape, p->tensor.shape, (size_t)from->ndim * sizeof *from->shape))
        return fs_fail(err, FS_E_MISMATCH, "tensor %s: the checkpoint's has another shape than the one that is trained", p->name);
    const int64_t width = from->ndim ? from->shape[from->ndim - 1] : 1;
    const bool packed = fs_dtype_block(from->dtype) > 1 && !fs_dtype_is_block(from->dtype);
    fs_tensor_prepare(from);
    size_t row = 0;
    bool ok = packed || fs_dtype_row_bytes(from->dtype, width, &row);
    for (int64_t i = 0; ok && i < p->count / width; i++) {
        float *out = p->data + i * width;
        if (packed) fs_packed_row(from, i, out);
        else ok = fs_row_to_f32(from->dtype, (const char *)from->data + (size_t)i * row, width, out);
    }
    if (!ok) return fs_fail(err, FS_E_UNSUPPORTED, "tensor %s: type %s holds no numbers that could be trained", p->name, fs_dtype_name(from->dtype));
    return FS_OK;
}

fs_status fs_params_add(fs_params *p, const char *name, int ndim, const int64_t *shape, const fs_tensor *from, int group, fs_param **out, fs_error *err) {
    if (fs_params_find(p, name)) return fs_fail(err, FS_E_INTERNAL, "tensor %s is in the list of trained tensors already", name);
    if (p->count == p->capacity) {
        const size_t capacity = p->capacity ? 2 * p->capacity : 64;
        fs_param **list = realloc(p->list, capacity * sizeof(fs_param *));
        if (!list) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for the list of trained tensors");
        p->list = list;
        p->capacity = capacity;
    }
    fs_param *q = calloc(1, sizeof *q);
    if (!q) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for %s", name);
    q->count = 1;
    for (int d = 0; d < ndim; d++) {
        if (shape[d] < 1 || !fs_mul_i64(q->count, shape[d], &q->count)) {
            param_free(q);
            return fs_fail(err, FS_E_INTERNAL, "tensor %s: dimension %d is %lld", name, d, (long long)shape[d]);
        }
    }
    const size_t n = (size_t)q->count;
    q->name = fs_strdup(name);
    q->data = fs_alloc_zero(n, sizeof(float));
    q->grad = fs_alloc_zero(n, sizeof(float));
    q->m = fs_alloc_zero(n, sizeof(float));
    q->v = fs_alloc_zero(n, sizeof(float));
    q->group = group;
    fs_status status = q->name && q->data && q->grad && q->m && q->v
                           ? FS_OK
                           : fs_fail(err, FS_E_NO_MEMORY, "out of memory for %s: %lld values with gradient and moments", name, (long long)q->count);
    if (!status) {
        fs_tensor plain = {.dtype = FS_DTYPE_F32, .ndim = ndim, .data = q->data};
        memcpy(plain.shape, shape, (size_t)ndim * sizeof *shape);
        q->tensor = fs_tape_leaf(&q->node, &plain, q->grad);
        status = fill(q, from, err);
    }
    if (status) {
        param_free(q);
        return status;
    }
    p->list[p->count++] = q;
    if (out) *out = q;
    return FS_OK;
}

fs_param *fs_params_find(const fs_params *p, const char *name) {
    for (size_t i = 0; i < p->count; i++)
        if (strcmp(p->list[i]->name, name) == 0) return p->list[i];
    return NULL;
}

static const fs_tensor *find(void *user, const char *name) {
    fs_params_view *v = user;
    const fs_tensor *behind = v->base.find ? v->base.find(v->base.user, name) : NULL; /* asked in any case: it counts as used */
    fs_param *mine = fs_params_find(v->params, name);
    int group = 0;
    if (!mine && behind && v->select && !v->status && v->select(v->user, name, &group))
        v->status = fs_params_add(v->params, name, behind->ndim, behind->shape, behind, group, &mine, &v->error);
    return mine ? &mine->tensor : behind;
}

static const char *origin(void *user, const char *name) {
    const fs_params_view *v = user;
    return v->base.origin && !fs_params_find(v->params, name) ? v->base.origin(v->base.user, name) : "the trained tensors";
}

fs_tensor_source fs_params_source(fs_params_view *view) { return (fs_tensor_source){.user = view, .find = find, .origin = origin}; }

void fs_params_zero_grad(fs_params *p) {
    for (size_t i = 0; i < p->count; i++) memset(p->list[i]->grad, 0, (size_t)p->list[i]->count * sizeof(float));
}

int64_t fs_params_total(const fs_params *p) {
    int64_t n = 0;
    for (size_t i = 0; i < p->count; i++) n += p->list[i]->count;
    return n;
}

void fs_params_free(fs_params *p) {
    for (size_t i = 0; i < p->count; i++) param_free(p->list[i]);
    free(p->list);
    *p = (fs_params){0};
}
