/* The execution context, and what all operators share: the first error is kept, results and scratch come from the arena, every result is
 * created in one place so that a tape can be told of it. */
#include <inttypes.h>
#include <omp.h>
#include <string.h>

#include "tensor/op.h"

fs_status fs_exec_init(fs_exec *x, fs_dtype precision, int threads, const fs_callbacks *callbacks, fs_error *err) {
    *x = (fs_exec){0};
    if (precision != FS_DTYPE_F32 && precision != FS_DTYPE_BF16 && precision != FS_DTYPE_F16)
        return fs_fail(err, FS_E_USAGE, "no precision of activations: %s (F32, BF16 and F16 are)", fs_dtype_name(precision));
    if (threads < 0) return fs_fail(err, FS_E_USAGE, "number of threads: expected 0 (all cores) or more, found %d", threads);
    x->arena = fs_arena_create(0);
    if (!x->arena) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for an execution context");
    x->precision = precision;
    x->threads = threads ? threads : omp_get_num_procs();
    x->callbacks = callbacks;
    x->backend = fs_backend_best();
    return FS_OK;
}

void fs_exec_end(fs_exec *x) {
    if (!x) return;
    fs_arena_free(x->arena);
    x->arena = NULL;
    fs_grads_free(x);
}

fs_status fs_exec_status(fs_exec *x, fs_error *err) {
    if (!x->error.status && fs_cancelled(x->callbacks)) fs_exec_fail(x, FS_E_CANCELLED, "cancelled");
    if (x->error.status && err) *err = x->error;
    return x->error.status;
}

void fs_exec_fail(fs_exec *x, fs_status status, const char *format, ...) {
    if (x->error.status) return;
    va_list args;
    va_start(args, format);
    fs_vfail(&x->error, status, format, args);
    va_end(args);
}

/* ---- tensors ---- */

fs_tensor *fs_wrap(fs_exec *x, fs_dtype dtype, int ndim, const int64_t *shape, void *data) {
    int64_t count;
    if (x->error.status) return NULL;
    if (!fs_shape_count(ndim, shape, &count)) {
        fs_exec_fail(x, FS_E_LIMIT, "a tensor of %d dimensions with a negative or too large size", ndim);
        return NULL;
    }
    fs_tensor *t = fs_arena_alloc(x->arena, sizeof *t);
    if (!t) {
        fs_exec_fail(x, FS_E_NO_MEMORY, "out of memory for a tensor");
        return NULL;
    }
    *t = (fs_tensor){.dtype = dtype, .ndim = ndim, .data = data};
    for (int d = 0; d < FS_MAX_DIMS; d++) t->shape[d] = d < ndim ? shape[d] : 1;
    return t;
}

fs_tensor *fs_new(fs_exec *x, int ndim, const int64_t *shape) {
    fs_tensor *t = fs_wrap(x, FS_DTYPE_F32, ndim, shape, NULL);
    if (!t) return NULL;
    const size_t bytes = (size_t)fs_tensor_count(t) * sizeof(float); /* checked by fs_shape_count */
    t->data = fs_arena_alloc(x->arena, bytes);
    if (t->data) return t;
    fs_exec_fail(x, FS_E_NO_MEMORY, "out of memory for %zu bytes of activations", bytes);
    return NULL;
}

/* ---- for operators (op.h) ---- */

bool fs_is_float(fs_dtype t) { return t == FS_DTYPE_F32 || t == FS_DTYPE_F16 || t == FS_DTYPE_BF16 || t == FS_DTYPE_F64; }

bool fs_op_ready(const fs_op *op, int required) {
    if (op->c->error.status) return false;
    for (int i = 0; i < required; i++) {
        if (op->in[i]) continue;
        fs_exec_fail(op->c, FS_E_INTERNAL, "%s: input %d is missing", op->name, i + 1);
        return false;
    }
    for (size_t i = 0; i < sizeof op->in / sizeof op->in[0]; i++) fs_tensor_prepare(op->in[i]);
    return true;
}

void *fs_op_misuse(const fs_op *op, const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fs_exec_fail(op->c, FS_E_MISMATCH, "%s: %s", op->name, line);
    return NULL;
}

fs_op_text fs_op_describe(const fs_tensor *t) {
    fs_op_text out;
    char shape[96];
    fs_shape_text(t, shape, sizeof shape);
    snprintf(out.text, sizeof out.text, "%.30s%s%s %s", t->name ? t->name : "", t->name ? " " : "", fs_dtype_name(t->dtype), shape);
    return out;
}

bool fs_op_needs_f32(const fs_op *op, int i) {
    if (op->in[i]->dtype == FS_DTYPE_F32) return true;
    fs_op_misuse(op, "input %d must be F32, found %s", i + 1, fs_op_describe(op->in[i]).text);
    return false;
}

bool fs_op_needs_vector(const fs_op *op, const fs_tensor *t, int64_t count, const char *what) {
    if (!t || (fs_is_float(t->dtype) && fs_tensor_count(t) == count)) return true;
    fs_op_misuse(op, "%s: expected %" PRId64 " float values, found %s", what, count, fs_op_describe(t).text);
    return false;
}

fs_tensor *fs_op_result(const fs_op *op, int ndim, const int64_t *shape) {
    fs_tensor *t = fs_new(op->c, ndim, shape);
    fs_tape_record(op, t, false);
    return t;
}

fs_tensor *fs_op_view(const fs_op *op, int ndim, const int64_t *shape, void *data) {
    fs_tensor *t = fs_wrap(op->c, op->in[0]->dtype, ndim, shape, data);
    if (!t) return NULL;
    t->name = op->in[0]->name;
    fs_tape_record(op, t, false);
    return t;
}

void *fs_op_scratch(const fs_op *op, int64_t count, size_t size) {
    size_t bytes;
    void *p = NULL;
    if (op->c->error.status) return NULL;
    if (count >= 0 && fs_mul_size((size_t)count, size, &bytes)) p = fs_arena_alloc(op->c->arena, bytes);
    if (!p) fs_exec_fail(op->c, FS_E_NO_MEMORY, "%s: out of memory for %" PRId64 " scratch values", op->name, count);
    return p;
}

static void widen(const fs_op *op, const fs_tensor *t, float *out, int64_t n) {
    if (t->dtype == FS_DTYPE_F64) {
        const double *x = t->data;
        for (int64_t i = 0; i < n; i++) out[i] = (float)x[i];
    } else {
        op->c->backend->to_f32(t->data, t->dtype, out, n);
    }
    if (t->dtype != op->c->precision) op->c->backend->round(out, n, op->c->precision);
}

const float *fs_op_values(const fs_op *op, const fs_tensor *t) {
    if (t->dtype == FS_DTYPE_F32 && op->c->precision == FS_DTYPE_F32) return t->data;
    const int64_t n = fs_tensor_count(t);
    float *copy = fs_op_scratch(op, n, sizeof *copy);
    if (copy) widen(op, t, copy, n);
    return copy;
}

const fs_tensor *fs_op_matrix(const fs_op *op, const fs_tensor *w) {
    if (w->dtype != FS_DTYPE_F64) return w;
    const float *copy = fs_op_values(op, w);
    return copy ? fs_wrap(op->c, FS_DTYPE_F32, w->ndim, w->shape, (void *)(uintptr_t)copy) : NULL;
}

void fs_copy_bytes(void *to, const void *from, size_t bytes, int threads) {
    const size_t piece = (size_t)512 << 10, pieces = bytes / piece;
    if (threads < 2 || pieces < 4) {
        memcpy(to, from, bytes);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (size_t i = 0; i < pieces; i++)
        memcpy((char *)to + i * piece, (const char *)from + i * piece, i + 1 < pieces ? piece : bytes - i * piece);
}

int fs_op_threads(const fs_op *op, int64_t work) {
    const int64_t a_thread = 16384; /* waking one costs some microseconds */
    return (int)fs_max_i64(1, fs_min_i64(op->c->threads, work / a_thread));
}
