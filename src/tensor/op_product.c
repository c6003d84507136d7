/* Matrix products: linear layers, plain products, and the gathering of embedding rows. Many rows go through the blocked product, few (a
 * token at a time) through dot products that read the weights once as they stream by (src/backend/gemm.c). */
#include <inttypes.h>
#include <string.h>

#include "tensor/op_quant.h"

_Static_assert((int)FS_FEW_ROWS == (int)FS_GEMM_FEW_ROWS, "what ops.h promises is what the kernels do");

/* x: [..., in] -> the number of rows */
static int64_t rows_of(const fs_tensor *x) {
    int64_t n = 1;
    for (int d = 0; d + 1 < x->ndim; d++) n *= x->shape[d];
    return n;
}

static bool run(const fs_op *op, const fs_gemm *g, bool few_rows) {
    const int threads = fs_op_threads(op, g->m * g->n / 8 * g->k / 8); /* a multiply-add is much less than a nanosecond */
    const bool ok =
        few_rows ? fs_gemm_few_rows(op->c->backend, g, threads, op->c->arena) : fs_gemm_run(op->c->backend, g, threads, op->c->arena);
    if (!ok) fs_exec_fail(op->c, FS_E_NO_MEMORY, "%s: out of memory for the packed operands", op->name);
    return ok;
}

/* y = x w^T finished by b, act and residual. */
static fs_tensor *linear(const fs_op *op, fs_act act, bool act_last) {
    fs_exec *c = op->c;
    const fs_tensor *x = op->in[0], *w = op->in[1], *b = op->in[2], *residual = op->in[3];
    if (!fs_op_ready(op, 2) || !fs_op_needs_f32(op, 0)) return NULL;
    if (w->ndim != 2 || !(fs_is_float(w->dtype) || fs_op_quantized(w)) || x->ndim < 1 || w->shape[1] < 1 ||
        x->shape[x->ndim - 1] != w->shape[1])
        return fs_op_misuse(op, "x %s does not end in the inputs of the weight %s", fs_op_describe(x).text, fs_op_describe(w).text);
    if (!fs_op_needs_vector(op, b, w->shape[0], "bias")) return NULL;
    const int64_t rows = rows_of(x), n = w->shape[0], k = w->shape[1];
    if (residual && (residual->dtype != FS_DTYPE_F32 || residual->ndim < 1 || residual->shape[residual->ndim - 1] != n || rows_of(residual) != rows))
        return fs_op_misuse(op, "%s is not F32 [%" PRId64 ",%" PRId64 "], to be added", fs_op_describe(residual).text, rows, n);
    int64_t shape[FS_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = n;
    fs_tensor *y = fs_op_result(op, x->ndim, shape);
    if (!y) return NULL;

    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const float *bias = b ? fs_op_values(op, b) : NULL;
    const fs_finish finish = {.bias = bias, .act = act, .act_last = act_last, .residual = residual ? fs_f32(residual) : NULL, .residual_ld = n,
                              .round = c->precision};
    bool ok = bias || !b;
    if (ok && fs_op_quantized(w)) {
        ok = fs_op_linear_quantized(op, rows, x, w, &finish, y) != NULL;
    } else if (ok) {
        const fs_tensor *matrix = fs_op_matrix(op, w);
        const fs_gemm g = {.m = rows, .n = n, .k = k, .a = x->data, .a_type = FS_DTYPE_F32, .a_round = FS_DTYPE_F32, .a_row = k, .a_col = 1,
                           .pack = fs_gemm_pack_nk, .b = matrix ? matrix->data : NULL, .b_type = matrix ? matrix->dtype : FS_DTYPE_F32,
                           .b_round = c->precision, .b_ld = k, .c = fs_f32(y), .ldc = n, .finish = finish};
        ok = matrix && run(op, &g, rows <= FS_GEMM_FEW_ROWS);
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

fs_tensor *fs_linear(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b) {
    return linear(&(fs_op){c, "linear", {x, w, b}}, FS_ACTIVATE_NONE, false);
}

fs_tensor *fs_linear_gelu(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b) {
    return linear(&(fs_op){c, "linear_gelu", {x, w, b}}, FS_ACTIVATE_GELU, false);
}

fs_tensor *fs_linear_quick_gelu(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b) {
    return linear(&(fs_op){c, "linear_quick_gelu", {x, w, b}}, FS_ACTIVATE_QUICK_GELU, false);
}

fs_tensor *fs_linear_add(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, const fs_tensor *residual) {
    const fs_op op = {c, "linear_add", {x, w, b, residual}};
    if (!residual) { /* the result of an operator that failed: input 4 may not be missing here */
        if (!c->error.status) fs_exec_fail(c, FS_E_INTERNAL, "linear_add: input 4 is missing");
        return NULL;
    }
    return linear(&op, FS_ACTIVATE_NONE, false);
}

fs_tensor *fs_matmul(fs_exec *c, const fs_tensor *a, const fs_tensor *b) {
    const fs_op op = {c, "matmul", {a, b}};
    if (!fs_op_ready(&op, 2) || !fs_op_needs_f32(&op, 0) || !fs_op_needs_f32(&op, 1)) return NULL;
    if (a->ndim != 2 || b->ndim != 2 || a->shape[1] != b->shape[0] || a->shape[1] < 1)
        return fs_op_misuse(&op, "%s and %s cannot be multiplied", fs_op_describe(a).text, fs_op_describe(b).text);
    const int64_t m = a->shape[0], k = a->shape[1], n = b->shape[1];
    fs_tensor *y = fs_op_result(&op, 2, (const int64_t[]){m, n});
    if (!y) return NULL;
    const fs_gemm g = {.m = m, .n = n, .k = k, .a = a->data, .a_type = FS_DTYPE_F32, .a_round = FS_DTYPE_F32, .a_row = k, .a_col = 1,
                       .pack = fs_gemm_pack_kn, .b = b->data, .b_type = FS_DTYPE_F32, .b_round = FS_DTYPE_F32, .b_ld = n, .c = fs_f32(y),
                       .ldc = n, .finish.round = c->precision};
    return run(&op, &g, false) ? y : NULL;
}

fs_tensor *fs_embedding(fs_exec *c, const int32_t *ids, int64_t n, const fs_tensor *table) {
    const fs_op op = {c, "embedding", {table}};
    if (!fs_op_ready(&op, 1)) return NULL;
    if (table->ndim != 2 || !(fs_is_float(table->dtype) || fs_op_quantized(table)))
        return fs_op_misuse(&op, "expected a table [rows,width], found %s", fs_op_describe(table).text);
    const int64_t rows = table->shape[0], width = table->shape[1];
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= rows)
            return fs_op_misuse(&op, "id %" PRId32 " at position %" PRId64 " is not in %s", ids[i], i, fs_op_describe(table).text);
    fs_tensor *y = fs_op_result(&op, 2, (const int64_t[]){n, width});
    if (!y) return NULL;
    const size_t size = fs_dtype_size(table->dtype);
    for (int64_t i = 0; i < n; i++) {
        const char *row = (const char *)table->data + (size_t)(ids[i] * width) * size;
        float *out = fs_f32(y) + i * width;
        if (fs_op_quantized(table))
            fs_op_quantized_row(table, ids[i], out);
        else if (table->dtype == FS_DTYPE_F64)
            for (int64_t j = 0; j < width; j++) out[j] = (float)((const double *)(const void *)row)[j];
        else
            c->backend->to_f32(row, table->dtype, out, width);
        if (table->dtype != c->precision) c->backend->round(out, width, c->precision);
    }
    return y;
}
