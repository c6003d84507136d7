/* The product of a convolution whose result has few points, as ResNet's last stage with 7 x 7: columns of a tile are multiplied in whole vectors,
 * 49 of them as 64. So points become the tile's rows, which it takes in any number, and output channels its columns; results are turned back
 * while they are finished. The kernel is packed once, in the order in which it is read:
 *
 *     kernel   [panels of tile_cols channels][terms][tile_cols]
 *     patches  [blocks of KC terms][points][KC]             of at most MOST_POINTS points at a time
 *
 * Every result is the sum over blocks of KC terms in order, as fs_gemm_run's: the same bits. Threads share panels. */
#include <omp.h>
#include <string.h>

#include "backend/share.h"
#include "tensor/op_conv_few.h"

enum { MOST_POINTS = 112, FILL = 16 /* columns are multiplied in such groups */ };

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

bool fs_conv_few_pays(const fs_backend *be, const fs_conv_few *p) {
    return p->points <= MOST_POINTS && p->out % be->tile_cols == 0 && p->terms >= 64 && ceil_div(p->points, FILL) * FILL * 7 >= p->points * 8;
}

int64_t fs_conv_few_floats(const fs_conv_few *p) { return p->out * p->terms; }

void fs_conv_few_kernel(const fs_op *op, const fs_conv_few *p, const fs_tensor *kernel, float *panels) {
    const fs_backend *be = op->c->backend;
    const int64_t tc = be->tile_cols, size = (int64_t)fs_dtype_size(kernel->dtype);
    const int threads = fs_op_threads(op, p->out * p->terms);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t o = 0; o < p->out; o += tc)
        for (int64_t k = 0; k < p->terms; k += FS_GEMM_KC)
            be->pack_rows((const char *)kernel->data + (o * p->terms + k) * size, kernel->dtype, p->terms, tc, fs_min_i64(FS_GEMM_KC, p->terms - k),
                          FS_DTYPE_F32, panels + o * p->terms + k * tc);
}

/* Terms [k, k + tile_cols) of points [at, at + n), turned. */
static void take_terms(const fs_backend *be, const fs_conv_few *p, int64_t k, int64_t at, int64_t n, float *patches) {
    float rows[FS_GEMM_MAX_COLS * MOST_POINTS], turned[MOST_POINTS * FS_GEMM_MAX_COLS];
    const int64_t tc = be->tile_cols, terms = fs_min_i64(tc, p->terms - k);
    for (int64_t r = 0; r < terms; r++) memcpy(rows + r * MOST_POINTS, p->row(p->user, k + r) + at, (size_t)n * sizeof *rows);
    be->pack_rows(rows, FS_DTYPE_F32, MOST_POINTS, terms, n, FS_DTYPE_F32, turned);
    float *out = patches + k / FS_GEMM_KC * n * FS_GEMM_KC + k % FS_GEMM_KC;
    for (int64_t i = 0; i < n; i++) memcpy(out + i * FS_GEMM_KC, turned + i * tc, (size_t)tc * sizeof *out);
}

/* Output channels [o, o + tile_cols) of these points. */
static void give_panel(const fs_backend *be, const fs_conv_few *p, const float *panels, const float *patches, int64_t o, int64_t at, int64_t n,
                       const fs_finish *finish, float *y) {
    float results[MOST_POINTS * FS_GEMM_MAX_COLS], turned[FS_GEMM_MAX_COLS * FS_GEMM_MAX_COLS];
    const int64_t tc = be->tile_cols, tr = be->tile_rows;
    for (int64_t k = 0; k < p->terms; k += FS_GEMM_KC) {
        const int64_t terms = fs_min_i64(FS_GEMM_KC, p->terms - k);
        const float *panel = panels + o * p->terms + k * tc, *next = panel + terms * tc, *end = panels + p->out * p->terms;
        for (int64_t i = 0; i < n; i += tr, next += terms * 16) /* the next block of the kernel comes from memory */
            be->gemm_tile(fs_min_i64(tr, n - i), tc, terms, patches + (k / FS_GEMM_KC * n + i) * FS_GEMM_KC, panel, results + i * tc, tc, k > 0,
                          next + terms * 16 <= end ? next : NULL);
    }
    for (int64_t i = 0; i < n; i += tc) {
        const int64_t points = fs_min_i64(tc, n - i);
        be->pack_rows(results + i * tc, FS_DTYPE_F32, tc, points, tc, FS_DTYPE_F32, turned);
        for (int64_t r = 0; r < tc; r++) memcpy(y + (o + r) * p->points + at + i, turned + r * tc, (size_t)points * sizeof *y);
    }
    fs_finish_rows(be, finish, o, tc, at, n, y + o * p->points + at, p->points);
}

bool fs_conv_few_run(const fs_op *op, const fs_conv_few *p, const float *panels, const fs_finish *finish, float *y) {
    const fs_backend *be = op->c->backend;
    const int64_t tc = be->tile_cols, most = fs_min_i64(p->points, MOST_POINTS);
    const int threads = fs_op_threads(op, p->out * most / 8 * p->terms / 8);
    const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
    float *patches = fs_op_scratch(op, ceil_div(p->terms, FS_GEMM_KC) * FS_GEMM_KC * most, sizeof *patches);
    for (int64_t at = 0; at < (patches ? p->points : 0); at += MOST_POINTS) {
        const int64_t n = fs_min_i64(MOST_POINTS, p->points - at);
        fs_shares tasks;
        fs_shares_begin(&tasks, p->out / tc, threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
#pragma omp for schedule(static)
            for (int64_t k = 0; k < p->terms; k += tc) take_terms(be, p, k, at, n, patches);
            int helped = 0;
            for (int64_t t; (t = fs_shares_next(&tasks, omp_get_thread_num(), &helped)) >= 0;) give_panel(be, p, panels, patches, t * tc, at, n, finish, y);
        }
    }
    fs_arena_release(op->c->arena, mark);
    return patches != NULL;
}
