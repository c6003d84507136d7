/* Linear layers over quantized weights. Block types as they lie in a file go the exact way: a piece is widened to f32 where the blocked
 * product packs its right operand, or, for few rows, right before its dot products; this serves every block type and is the reference for
 * the fast kernels, which take packed weights (tensor/packed.h). */
#include <omp.h>
#include <string.h>

#include "backend/cpu/q_kernels.h"
#include "tensor/block.h"
#include "tensor/op_quant.h"
#include "tensor/packed.h"

bool fs_op_quantized(const fs_tensor *w) {
    return (fs_dtype_is_block(w->dtype) || fs_dtype_is_packed(w->dtype)) && w->ndim == 2 && w->shape[1] % fs_dtype_block(w->dtype) == 0;
}

/* Where row i, value k (the first of a block) lies. */
static const char *block_at(const void *data, fs_dtype type, int64_t ld, int64_t i, int64_t k) {
    size_t row = 0, before = 0;
    (void)(fs_dtype_row_bytes(type, ld, &row) && fs_dtype_row_bytes(type, k, &before)); /* the tensor was checked when it was made */
    return (const char *)data + (size_t)i * row + before;
}

void fs_op_quantized_row(const fs_tensor *w, int64_t i, float *out) {
    if (fs_dtype_is_packed(w->dtype))
        fs_packed_row(w, i, out);
    else
        fs_row_to_f32(w->dtype, block_at(w->data, w->dtype, w->shape[1], i, 0), w->shape[1], out);
}

/* ---- block types, many rows: fs_gemm's blocks of k are whole blocks of every type ---- */

_Static_assert(FS_GEMM_KC % 256 == 0, "a block of k must not cut a block of weights");

static void pack_blocks(const fs_gemm *g, const fs_backend *be, int64_t k0, int64_t terms, int64_t n0, int64_t cols, float *out) {
    float wide[FS_GEMM_MAX_COLS * FS_GEMM_KC];
    for (int64_t j = 0; j < cols; j++)
        fs_row_to_f32(g->b_type, block_at(g->b, g->b_type, g->b_ld, n0 + j, k0), terms, wide + j * FS_GEMM_KC);
    be->pack_rows(wide, FS_DTYPE_F32, FS_GEMM_KC, cols, terms, FS_DTYPE_F32, out);
}

/* ---- block types, few rows ---- */

enum { STREAM_ROWS = 16 }; /* weight rows of one task */

static bool few_rows(const fs_op *op, const fs_gemm *g, int threads) {
    const fs_backend *be = op->c->backend;
    float *scratch = fs_op_scratch(op, STREAM_ROWS * threads, (size_t)g->k * sizeof *scratch);
    if (!scratch) return false;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t n0 = 0; n0 < g->n; n0 += STREAM_ROWS) {
        float *wide = scratch + omp_get_thread_num() * STREAM_ROWS * g->k;
        const int64_t cols = fs_min_i64(STREAM_ROWS, g->n - n0);
        for (int64_t j = 0; j < cols; j++) fs_row_to_f32(g->b_type, block_at(g->b, g->b_type, g->b_ld, n0 + j, 0), g->k, wide + j * g->k);
        for (int64_t i = 0; i < g->m; i += FS_DOT_MAX_ROWS)
            be->dot_rows((const float *)g->a + i * g->a_row, g->a_row, fs_min_i64(FS_DOT_MAX_ROWS, g->m - i), wide, FS_DTYPE_F32, g->k, cols,
                         g->k, g->c + i * g->ldc + n0, g->ldc);
        for (int64_t i = 0; i < g->m; i++) {
            float *c = g->c + i * g->ldc + n0;
            fs_finish_row(be, &g->finish, i, n0, cols, c);
        }
    }
    return true;
}

static bool multiply_blocks(const fs_op *op, const fs_gemm *g, int threads) {
    return g->m <= FS_GEMM_FEW_ROWS ? few_rows(op, g, threads) : fs_gemm_run(op->c->backend, g, threads, op->c->arena);
}

/* Asked for once: what the processor can do is an instruction that virtual machines trap, 16 microseconds a product. */
static const fs_quant *kernels_of(fs_exec *c) {
    if (c->quant_of != c->backend) {
        c->quant = fs_quant_for(c->backend);
        c->quant_of = c->backend;
    }
    return c->quant;
}

fs_tensor *fs_op_linear_quantized(const fs_op *op, int64_t rows, const fs_tensor *x, const fs_tensor *w, const fs_finish *finish, fs_tensor *y) {
    fs_exec *c = op->c;
    const int64_t n = w->shape[0], k = w->shape[1];
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const int threads = fs_op_threads(op, rows * n / 16 * k / 16); /* a product of codes takes less than one of floats */
    bool ok;
    if (fs_dtype_is_packed(w->dtype)) {
        const fs_quant_product p = {.x = fs_f32(x), .m = rows, .w = w, .y = fs_f32(y), .finish = *finish};
        ok = fs_quant_run(kernels_of(c), c->backend, &p, threads, c->arena);
    } else {
        const fs_gemm g = {.m = rows,
                           .n = n,
                           .k = k,
                           .a = x->data,
                           .a_type = FS_DTYPE_F32,
                           .a_round = FS_DTYPE_F32,
                           .a_row = k,
                           .a_col = 1,
                           .pack = pack_blocks,
                           .b = w->data,
                           .b_type = w->dtype,
                           .b_round = FS_DTYPE_F32,
                           .b_ld = k,
                           .c = fs_f32(y),
                           .ldc = n,
                           .finish = *finish};
        ok = multiply_blocks(op, &g, threads);
    }
    if (!ok) fs_exec_fail(c, FS_E_NO_MEMORY, "%s: out of memory for the operands", op->name);
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}
