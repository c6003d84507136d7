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

/* The numbers of a linear layer's result. */
static bool fill(const fs_op *op, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, const fs_tensor *residual, fs_act act, bool act_last,
                 fs_tensor *y) {
    fs_exec *c = op->c;
    const int64_t rows = rows_of(x), n = w->shape[0], k = w->shape[1];
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
    return ok;
}

/* y = x w^T finished by b, act and residual. */
static fs_tensor *linear(const fs_op *op, fs_act act, bool act_last) {
    const fs_tensor *x = op->in[0], *w = op->in[1], *b = op->in[2], *residual = op->in[3];
    if (!fs_op_ready(op, 2) || !fs_op_needs_f32(op, 0)) return NULL;
    if (w->ndim != 2 || !(fs_is_float(w->dtype) || fs_op_quantized(w)) || x->ndim < 1 || w->shape[1] < 1 ||
        x->shape[x->ndim - 1] != w->shape[1])
        return fs_op_misuse(op, "x %s does not end in the inputs of the weight %s", fs_op_describe(x).text, fs_op_describe(w).text);
    if (!fs_op_needs_vector(op, b, w->shape[0], "bias")) return NULL;
    const int64_t rows = rows_of(x), n = w->shape[0];
    if (residual && (residual->dtype != FS_DTYPE_F32 || residual->ndim < 1 || residual->shape[residual->ndim - 1] != n || rows_of(residual) != rows))
        return fs_op_misuse(op, "%s is not F32 [%" PRId64 ",%" PRId64 "], to be added", fs_op_describe(residual).text, rows, n);
    int64_t shape[FS_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = n;
    fs_tensor *y = fs_op_result(op, x->ndim, shape);
    if (!y) return NULL;

    return fill(op, x, w, b, residual, act, act_last, y) ? y : NULL;
}

/* ---- backward ---- */

enum { SLAB_VALUES = 8 << 20 }; /* of a weight that is widened at a time: 32 MB */

/* out[m, n] += (or, where out is fresh, =) a[m, k] b[k, n]; a at the strides given, b F32 rows at stride n. */
static void add_product(const fs_op *op, int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_col, const float *b, bool fresh,
                        float *out) {
    const fs_gemm g = {.m = m, .n = n, .k = k, .a = a, .a_type = FS_DTYPE_F32, .a_round = FS_DTYPE_F32, .a_row = a_row, .a_col = a_col,
                       .pack = fs_gemm_pack_kn, .b = b, .b_type = FS_DTYPE_F32, .b_round = FS_DTYPE_F32, .b_ld = n, .c = out, .ldc = n, .add = !fresh,
                       .finish.round = FS_DTYPE_F32};
    if (m && n && k) run(op, &g, false);
}

/* Rows [begin, begin + count) of a weight of any type as f32, rounded as the forward pass sees them. */
static void widen_rows(const fs_op *op, const fs_tensor *w, int64_t begin, int64_t count, float *out) {
    const int64_t k = w->shape[1];
    const int threads = fs_op_threads(op, count * k);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; i++) {
        const size_t at = (size_t)((begin + i) * k);
        if (fs_op_quantized(w)) {
            fs_op_quantized_row(w, begin + i, out + i * k);
            continue;
        }
        if (w->dtype == FS_DTYPE_F64)
            for (int64_t j = 0; j < k; j++) out[i * k + j] = (float)((const double *)w->data)[at + (size_t)j];
        else
            op->c->backend->to_f32((const char *)w->data + at * fs_dtype_size(w->dtype), w->dtype, out + i * k, k);
        op->c->backend->round(out + i * k, k, op->c->precision);
    }
}

/* dx += (fresh: =) dy [rows, n] w. A frozen w may be of any type, quantized ones too: the gradient flows through its numbers (QLoRA, Dettmers et
 * al. 2023). */
static void through_weight(const fs_op *op, int64_t rows, const float *dy, const fs_tensor *w, bool fresh, float *dx) {
    const int64_t n = w->shape[0], k = w->shape[1], slab = fs_max_i64(1, fs_min_i64(n, SLAB_VALUES / k));
    if (w->dtype == FS_DTYPE_F32 && op->c->precision == FS_DTYPE_F32) {
        add_product(op, rows, k, n, dy, n, 1, fs_f32(w), fresh, dx);
        return;
    }
    const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
    float *wide = fs_op_scratch(op, slab * k, sizeof *wide);
    for (int64_t begin = 0; wide && begin < n; begin += slab) {
        const int64_t count = fs_min_i64(slab, n - begin);
        widen_rows(op, w, begin, count, wide);
        add_product(op, rows, k, count, dy + begin, n, 1, wide, fresh && begin == 0, dx);
    }
    fs_arena_release(op->c->arena, mark);
}

/* db [n] += the sums over dy's rows; threads divide the columns. */
static void sum_rows(const fs_op *op, const float *dy, int64_t rows, int64_t n, float *db) {
    const int threads = fs_op_threads(op, rows * n);
    const int64_t share = ((n + threads - 1) / threads + 15) / 16 * 16;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int t = 0; t < threads; t++) {
        const int64_t at = t * share, cols = fs_min_i64(share, n - at);
        for (int64_t i = 0; cols > 0 && i < rows; i++) op->c->backend->add(db + at, dy + i * n + at, db + at, cols);
    }
}

/* y = x w^T + b: dx = dy w, dw = dy^T x, db = the sum of dy over rows. */
static void linear_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "linear's backward"};
    const fs_tensor *x = node->in[0], *w = node->in[1];
    bool fresh;
    float *dx = fs_grad_into(c, x, &fresh), *dw = fs_grad(c, w), *db = fs_grad(c, node->in[2]);
    const int64_t rows = rows_of(x), n = w->shape[0], k = w->shape[1];
    if (dx) through_weight(&op, rows, node->grad, w, fresh, dx);
    if (dw) add_product(&op, n, k, rows, node->grad, 1, n, fs_f32(x), false, dw);
    if (db) sum_rows(&op, node->grad, rows, n, db);
    fs_grad_pass(c, node, node->in[3]); /* what was added to it, if anything */
}

fs_tensor *fs_linear(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b) {
    return linear(&(fs_op){.c = c, .name = "linear", .in = {x, w, b}, .backward = linear_backward}, FS_ACTIVATE_NONE, false);
}

fs_tensor *fs_linear_gelu(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b) {
    return linear(&(fs_op){.c = c, .name = "linear_gelu", .in = {x, w, b}}, FS_ACTIVATE_GELU, false);
}

fs_tensor *fs_linear_quick_gelu(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b) {
    return linear(&(fs_op){.c = c, .name = "linear_quick_gelu", .in = {x, w, b}}, FS_ACTIVATE_QUICK_GELU, false);
}

fs_tensor *fs_linear_add(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, const fs_tensor *residual) {
    const fs_op op = {.c = c, .name = "linear_add", .in = {x, w, b, residual}, .backward = linear_backward};
    if (!residual) { /* the result of an operator that failed: input 4 may not be missing here */
        if (!c->error.status) fs_exec_fail(c, FS_E_INTERNAL, "linear_add: input 4 is missing");
        return NULL;
    }
    return linear(&op, FS_ACTIVATE_NONE, false);
}

/* ---- a linear layer with a low-rank adapter: y = residual + x w^T + (scale xd a^T) b^T. Of what lies between, only the few columns of
 * low = scale xd a^T are kept. ---- */

enum { LORA_X, LORA_W, LORA_RESIDUAL, LORA_XD, LORA_A, LORA_B }; /* inputs */
typedef struct lora_params { float *low; float scale; } lora_params;

static void lora_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "linear_lora's backward"};
    const lora_params *p = node->params;
    const fs_tensor *w = node->in[LORA_W], *xd = node->in[LORA_XD], *a = node->in[LORA_A], *b = node->in[LORA_B];
    const int64_t rows = rows_of(xd), n = b->shape[0], k = a->shape[1], rank = a->shape[0];
    float *dlow = fs_op_scratch(&op, rows * rank, sizeof *dlow), *da = fs_grad(c, a), *db = fs_grad(c, b);
    bool fresh;
    float *dw = fs_grad(c, w), *dx = w ? fs_grad_into(c, node->in[LORA_X], &fresh) : NULL;
    if (!dlow) return;
    if (dw) add_product(&op, n, w->shape[1], rows, node->grad, 1, n, fs_f32(node->in[LORA_X]), false, dw);
    if (dx) through_weight(&op, rows, node->grad, w, fresh, dx);
    if (db) add_product(&op, n, rank, rows, node->grad, 1, n, p->low, false, db);
    float *dxd = fs_grad_into(c, xd, &fresh);
    if (dxd || da) {
        through_weight(&op, rows, node->grad, b, true, dlow);
        c->backend->scale(dlow, p->scale, dlow, rows * rank);
    }
    if (da) add_product(&op, rank, k, rows, dlow, 1, rank, fs_f32(xd), false, da);
    if (dxd) through_weight(&op, rows, dlow, a, fresh, dxd);
    fs_grad_pass(c, node, node->in[LORA_RESIDUAL]);
}

/* low [rows, rank], and y += low b^T */
static bool adapt(const fs_op *op, float scale, float *low, fs_tensor *y) {
    const fs_tensor *xd = op->in[LORA_XD], *a = op->in[LORA_A], *b = op->in[LORA_B];
    const int64_t rows = rows_of(xd), n = b->shape[0], rank = a->shape[0];
    fs_tensor result = {.dtype = FS_DTYPE_F32, .ndim = 2, .shape = {rows, rank, 1, 1, 1, 1}, .data = low};
    if (!fill(op, xd, a, NULL, NULL, FS_ACTIVATE_NONE, false, &result)) return false;
    op->c->backend->scale(low, scale, low, rows * rank);
    const fs_gemm g = {.m = rows, .n = n, .k = rank, .a = low, .a_type = FS_DTYPE_F32, .a_round = FS_DTYPE_F32, .a_row = rank, .a_col = 1,
                       .pack = fs_gemm_pack_nk, .b = b->data, .b_type = b->dtype, .b_round = FS_DTYPE_F32, .b_ld = rank, .c = fs_f32(y), .ldc = n,
                       .add = true, .finish.round = FS_DTYPE_F32};
    return run(op, &g, false);
}

fs_tensor *fs_linear_lora(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *residual, const fs_tensor *xd, const fs_tensor *a,
                          const fs_tensor *b, float scale) {
    lora_params p = {.scale = scale};
    const fs_op op = {.c = c, .name = "linear_lora", .in = {x, w, residual, xd, a, b}, .backward = lora_backward, .params = &p, .params_size = sizeof p};
    const fs_op parts = {.c = c, .name = op.name, .in = {xd, a, b, w ? x : xd, w ? w : a, residual ? residual : xd}};
    if (c->precision != FS_DTYPE_F32 || !fs_op_ready(&parts, FS_OP_INPUTS)) {
        if (!c->error.status) fs_op_misuse(&op, "activations of F32 only");
        return NULL;
    }
    const bool fits = fs_op_needs_f32(&parts, 0) && fs_op_needs_f32(&parts, 3) && fs_op_needs_f32(&parts, 5) && a->ndim == 2 && b->ndim == 2 &&
                      a->shape[0] == b->shape[1] && a->shape[0] > 0 && (a->dtype == FS_DTYPE_F32 || a->dtype == FS_DTYPE_F16 || a->dtype == FS_DTYPE_BF16) &&
                      (b->dtype == FS_DTYPE_F32 || b->dtype == FS_DTYPE_F16 || b->dtype == FS_DTYPE_BF16) && xd->shape[xd->ndim - 1] == a->shape[1] &&
                      (!w || (w->ndim == 2 && w->shape[0] == b->shape[0] && x->shape[x->ndim - 1] == w->shape[1] && rows_of(x) == rows_of(xd) &&
                              (fs_is_float(w->dtype) || fs_op_quantized(w)))) &&
                      (!residual || fs_tensor_count(residual) == rows_of(xd) * b->shape[0]) && (w || residual);
    if (!fits) {
        if (!c->error.status) fs_op_misuse(&op, "x %s and the adapter %s, %s do not fit", fs_op_describe(xd).text, fs_op_describe(a).text, fs_op_describe(b).text);
        return NULL;
    }
    p.low = fs_op_scratch(&op, rows_of(xd) * a->shape[0], sizeof *p.low); /* stays with the result */
    fs_tensor *y = p.low ? fs_op_result(&op, 2, (const int64_t[]){rows_of(xd), b->shape[0]}) : NULL;
    if (!y) return NULL;
    if (w ? !fill(&op, x, w, NULL, residual, FS_ACTIVATE_NONE, false, y) : false) return NULL;
    if (!w) memcpy(y->data, residual->data, (size_t)fs_tensor_count(y) * sizeof(float));
    return adapt(&op, scale, p.low, y) ? y : NULL;
}

/* da = dy b^T, db = a^T dy */
static void matmul_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "matmul's backward"};
    const fs_tensor *a = node->in[0], *b = node->in[1];
    const int64_t m = a->shape[0], k = a->shape[1], n = b->shape[1];
    float *da = fs_grad(c, a), *db = fs_grad(c, b);
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    if (da) {
        const fs_tensor *turned = fs_transpose(c, b); /* [n, k] */
        if (turned) add_product(&op, m, k, n, node->grad, n, 1, fs_f32(turned), false, da);
    }
    fs_arena_release(c->arena, mark);
    if (db) add_product(&op, k, n, m, fs_f32(a), 1, k, node->grad, false, db);
}

fs_tensor *fs_matmul(fs_exec *c, const fs_tensor *a, const fs_tensor *b) {
    const fs_op op = {.c = c, .name = "matmul", .in = {a, b}, .backward = matmul_backward};
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

/* Rows that were taken several times add up. params: the ids */
static void embedding_backward(fs_exec *c, const fs_tape_node *node) {
    const int32_t *ids = node->params;
    const int64_t width = node->out->shape[1];
    float *dt = fs_grad(c, node->in[0]);
    for (int64_t i = 0; dt && i < node->out->shape[0]; i++)
        c->backend->add(dt + ids[i] * width, node->grad + i * width, dt + ids[i] * width, width);
}

fs_tensor *fs_embedding(fs_exec *c, const int32_t *ids, int64_t n, const fs_tensor *table) {
    const fs_op op = {.c = c, .name = "embedding", .in = {table}, .backward = embedding_backward, .params = ids, .params_size = (size_t)n * sizeof *ids};
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
