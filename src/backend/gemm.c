/* The blocked matrix product: how the tile kernel of a table is fed. After Goto and van de Geijn, "Anatomy of high-performance matrix
 * multiplication" (2008), and BLIS (Van Zee, van de Geijn 2015), with these differences: the left operand is only copied into rows of
 * FS_GEMM_KC terms (the kernel broadcasts single values, so it needs no interleaving), the right one is packed by each thread for its own
 * columns, where 16-bit weights are widened; and a block of the result stays in cache while all blocks of k are added to it.
 *
 *     left panel   [k blocks][m][KC]                  shared, in last-level cache
 *     right panel  [group of columns / tile][KC][tile]  one a thread, in its level-2 cache
 *
 * Threads share (group of columns, group of rows) pairs (share.h); k is never divided, so the bits do not depend on their number. */
#include <omp.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/share.h"

enum {
    LEFT_ROWS = 16,       /* of the left operand that are turned at once: a cache line */
    GROUP_COLS = 256,     /* columns a thread packs at once: 256 x KC floats are 256 KiB */
    LEFT_BYTES = 48 << 20 /* largest left panel; longer products are cut by rows */
};

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void fs_gemm_pack_nk(const fs_gemm *g, const fs_backend *be, int64_t k0, int64_t terms, int64_t n0, int64_t cols, float *out) {
    const size_t at = (size_t)(n0 * g->b_ld + k0) * fs_dtype_size(g->b_type);
    be->pack_rows((const char *)g->b + at, g->b_type, g->b_ld, cols, terms, g->b_round, out);
}

void fs_gemm_pack_kn(const fs_gemm *g, const fs_backend *be, int64_t k0, int64_t terms, int64_t n0, int64_t cols, float *out) {
    const float *b = (const float *)g->b + k0 * g->b_ld + n0;
    if (cols == FS_GEMM_MAX_COLS && be->tile_cols == FS_GEMM_MAX_COLS) { /* a size that compilers turn into moves */
        for (int64_t p = 0; p < terms; p++) memcpy(out + p * FS_GEMM_MAX_COLS, b + p * g->b_ld, FS_GEMM_MAX_COLS * sizeof *out);
        return;
    }
    for (int64_t p = 0; p < terms; p++) {
        float *row = out + p * be->tile_cols;
        memcpy(row, b + p * g->b_ld, (size_t)cols * sizeof *row);
        if (cols < be->tile_cols) memset(row + cols, 0, (size_t)(be->tile_cols - cols) * sizeof *row);
    }
}

/* Row i of the left operand, all blocks of k. left: [k blocks][rows][KC] */
static void pack_left(const fs_gemm *g, const fs_backend *be, int64_t i, int64_t row, int64_t rows, float *left) {
    const size_t size = fs_dtype_size(g->a_type);
    for (int64_t k0 = 0, block = 0; k0 < g->k; k0 += FS_GEMM_KC, block++) {
        float *out = left + (block * rows + row) * FS_GEMM_KC;
        const int64_t terms = fs_min_i64(FS_GEMM_KC, g->k - k0);
        const char *from = (const char *)g->a + (size_t)(i * g->a_row + k0 * g->a_col) * size;
        if (g->a_col == 1)
            be->to_f32(from, g->a_type, out, terms);
        else
            for (int64_t p = 0; p < terms; p++) be->to_f32(from + (size_t)(p * g->a_col) * size, g->a_type, out + p, 1);
        if (g->a_round != g->a_type) be->round(out, terms, g->a_round);
    }
}

/* The same for n <= LEFT_ROWS rows from i on that lie side by side (a_row 1), as the left operand of a gradient's product does: its columns are
 * read as they lie in memory and turned a tile's width of them at a time. */
static void pack_left_turned(const fs_gemm *g, const fs_backend *be, int64_t i, int64_t n, int64_t row, int64_t rows, float *left) {
    const size_t size = fs_dtype_size(g->a_type);
    const int64_t tc = be->tile_cols;
    float turned[LEFT_ROWS * FS_GEMM_MAX_COLS];
    for (int64_t k = 0; k < g->k; k += tc) {
        const int64_t terms = fs_min_i64(tc, g->k - k);
        be->pack_rows((const char *)g->a + (size_t)(i + k * g->a_col) * size, g->a_type, g->a_col, terms, n, g->a_round, turned);
        float *out = left + (k / FS_GEMM_KC * rows + row) * FS_GEMM_KC + k % FS_GEMM_KC;
        for (int64_t r = 0; r < n; r++) memcpy(out + r * FS_GEMM_KC, turned + r * tc, (size_t)terms * sizeof *out);
    }
}

/* What is to be added to a tile is on its way while the tile is multiplied. */
static void fetch_residual(const fs_finish *f, int64_t i, int64_t rows, int64_t n, int64_t cols) {
    for (int64_t r = i; r < i + rows; r++)
        for (int64_t j = 0; j < cols; j += 16) __builtin_prefetch(f->residual + r * f->residual_ld + n + j);
}

/* run_block over rows of b that lie as they are (g->at): nothing is packed, and what is read of b for a tile's columns serves all rows. */
static void run_block_at(const fs_gemm *g, const fs_backend *be, const float *left, int64_t m0, int64_t chunk, int64_t i0, int64_t i1, int64_t n0, int64_t n1) {
    const int64_t tc = be->tile_cols, tiles = ceil_div(i1 - i0, be->tile_rows), tr = ceil_div(i1 - i0, tiles); /* rows in equal tiles */
    for (int64_t n = n0; n < n1; n += tc) {
        const float *b = (const float *)g->b + n / g->b_line * g->b_ld + n % g->b_line;
        for (int64_t k0 = 0, block = 0; k0 < g->k; k0 += FS_GEMM_KC, block++)
            for (int64_t i = i0; i < i1; i += tr)
                be->gemm_tile_at(fs_min_i64(tr, i1 - i), fs_min_i64(tc, n1 - n), fs_min_i64(FS_GEMM_KC, g->k - k0), left + (block * chunk + i) * FS_GEMM_KC,
                                 b, g->at + k0, g->c + (m0 + i) * g->ldc + n, g->ldc, block > 0 || g->add);
    }
    fs_finish_rows(be, &g->finish, m0 + i0, i1 - i0, n0, n1 - n0, g->c + (m0 + i0) * g->ldc + n0, g->ldc);
}

/* One block of the result: rows [i0, i1) (of the chunk that starts at m0), columns [n0, n1), all of k. */
static void run_block(const fs_gemm *g, const fs_backend *be, const float *left, int64_t m0, int64_t chunk, int64_t i0, int64_t i1,
                      int64_t n0, int64_t n1, float *right) {
    const int64_t tr = be->tile_rows, tc = be->tile_cols;
    for (int64_t k0 = 0, block = 0; k0 < g->k; k0 += FS_GEMM_KC, block++) {
        const int64_t terms = fs_min_i64(FS_GEMM_KC, g->k - k0);
        for (int64_t n = n0; n < n1; n += tc) g->pack(g, be, k0, terms, n, fs_min_i64(tc, n1 - n), right + (n - n0) * FS_GEMM_KC);
        const bool last = k0 + terms == g->k;
        for (int64_t i = i0; i < i1; i += tr) {
            const int64_t rows = fs_min_i64(tr, i1 - i);
            const float *a = left + (block * chunk + i) * FS_GEMM_KC;
            float *c = g->c + (m0 + i) * g->ldc;
            const float *next = i + tr < i1 ? a + tr * FS_GEMM_KC : NULL;
            for (int64_t n = n0; n < n1; n += tc) {
                if (last && g->finish.residual) fetch_residual(&g->finish, m0 + i, rows, n, fs_min_i64(tc, n1 - n));
                be->gemm_tile(rows, fs_min_i64(tc, n1 - n), terms, a, right + (n - n0) * FS_GEMM_KC, c + n, g->ldc, block > 0 || g->add,
                              n == n0 ? next : NULL);
            }
            if (last) fs_finish_rows(be, &g->finish, m0 + i, rows, n0, n1 - n0, c + n0, g->ldc); /* in the level-1 cache yet */
        }
    }
}

/* How many columns and rows one task takes: whole groups while there are enough of them for all threads, else smaller ones, columns
 * first (cutting rows means packing the same columns again). */
static void choose_tasks(const fs_backend *be, int64_t rows, int64_t n, int threads, int64_t *cols_a_task, int64_t *rows_a_task) {
    const int64_t tc = be->tile_cols, tr = be->tile_rows, want = threads == 1 ? 1 : 4 * threads;
    int64_t panels = GROUP_COLS / tc;
    if (threads > 1 && n <= GROUP_COLS && rows >= 4 * threads * tr) { /* few columns, as of ResNet's 14 x 14: equal cuts by rows alone */
        *cols_a_task = ceil_div(n, tc) * tc;
        *rows_a_task = ceil_div(ceil_div(rows, rows > 64 * tr ? 2 * threads : threads), tr) * tr; /* each packs all columns: not often */
        return;
    }
    panels = fs_min_i64(panels, fs_max_i64(1, ceil_div(ceil_div(n, tc), want)));
    if (threads > 1) panels = fs_max_i64(panels, fs_min_i64(4, ceil_div(ceil_div(n, tc), threads)));
    else panels = GROUP_COLS / tc;
    *cols_a_task = panels * tc;
    const int64_t groups = ceil_div(n, *cols_a_task);
    int64_t cuts = groups >= want ? 1 : ceil_div(want, groups);
    cuts = fs_max_i64(1, fs_min_i64(cuts, rows / (8 * tr)));
    *rows_a_task = ceil_div(ceil_div(rows, cuts), tr) * tr;
}

bool fs_gemm_run(const fs_backend *be, const fs_gemm *g, int threads, fs_arena *arena) {
    if (g->m == 0 || g->n == 0) return true;
    const int64_t blocks = ceil_div(g->k, FS_GEMM_KC);
    int64_t chunk = LEFT_BYTES / (blocks * FS_GEMM_KC * (int64_t)sizeof(float)) / be->tile_rows * be->tile_rows;
    chunk = g->left ? g->m : fs_min_i64(g->m, fs_max_i64(chunk, be->tile_rows));
    int64_t cols_a_task, rows_a_task;
    choose_tasks(be, chunk, g->n, threads, &cols_a_task, &rows_a_task);
    const int64_t right_floats = cols_a_task * FS_GEMM_KC, left_rows = g->a_row == 1 && g->a_col != 1 ? LEFT_ROWS : 1;

    const fs_arena_mark mark = fs_arena_get_mark(arena);
    float *own = g->left ? NULL : fs_arena_alloc(arena, (size_t)(blocks * chunk * FS_GEMM_KC) * sizeof *own);
    const float *left = g->left ? g->left : own;
    float *right = fs_arena_alloc(arena, (size_t)(right_floats * threads) * sizeof *right);
    for (int64_t m0 = 0; left && right && m0 < g->m; m0 += chunk) {
        const int64_t rows = fs_min_i64(chunk, g->m - m0), row_tasks = ceil_div(rows, rows_a_task);
        fs_shares tasks;
        fs_shares_begin(&tasks, row_tasks * ceil_div(g->n, cols_a_task), threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < (g->left ? 0 : rows); i += left_rows) {
                if (left_rows > 1) pack_left_turned(g, be, m0 + i, fs_min_i64(left_rows, rows - i), i, chunk, own);
                else pack_left(g, be, m0 + i, i, chunk, own);
            }
            const int thread = omp_get_thread_num();
            int helped = 0;
            for (int64_t t; (t = fs_shares_next(&tasks, thread, &helped)) >= 0;) {
                const int64_t i0 = t % row_tasks * rows_a_task, n0 = t / row_tasks * cols_a_task;
                if (g->at) run_block_at(g, be, left, m0, chunk, i0, fs_min_i64(rows, i0 + rows_a_task), n0, fs_min_i64(g->n, n0 + cols_a_task));
                else
                    run_block(g, be, left, m0, chunk, i0, fs_min_i64(rows, i0 + rows_a_task), n0, fs_min_i64(g->n, n0 + cols_a_task),
                          right + right_floats * thread);
            }
        }
    }
    fs_arena_release(arena, mark);
    return left && right;
}

int64_t fs_gemm_left_floats(const fs_gemm *g) { return ceil_div(g->k, FS_GEMM_KC) * FS_GEMM_KC * g->m; }

void fs_gemm_pack_left(const fs_backend *be, const fs_gemm *g, int threads, float *left) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < g->m; i++) pack_left(g, be, i, i, g->m, left);
}

enum { STREAM_ROWS = 8 }; /* weight rows of one task: a multiple of what any dot kernel takes at once, and they stay in level-2 cache */

/* Rows [n0, n0 + rows) of b against all rows of a, a few of those at a time. wide: room for STREAM_ROWS rounded rows, if they must be
 * rounded. */
static void stream_rows(const fs_gemm *g, const fs_backend *be, int64_t n0, int64_t rows, float *wide) {
    const size_t size = fs_dtype_size(g->b_type);
    const void *b = (const char *)g->b + (size_t)(n0 * g->b_ld) * size;
    fs_dtype type = g->b_type;
    int64_t ld = g->b_ld;
    if (wide) {
        for (int64_t j = 0; j < rows; j++) {
            be->to_f32((const char *)b + (size_t)(j * ld) * size, type, wide + j * g->k, g->k);
            be->round(wide + j * g->k, g->k, g->b_round);
        }
        b = wide;
        type = FS_DTYPE_F32;
        ld = g->k;
    }
    for (int64_t i = 0; i < g->m; i += FS_DOT_MAX_ROWS)
        be->dot_rows((const float *)g->a + i * g->a_row, g->a_row, fs_min_i64(FS_DOT_MAX_ROWS, g->m - i), b, type, ld, rows, g->k,
                     g->c + i * g->ldc + n0, g->ldc);
    for (int64_t i = 0; i < g->m; i++) fs_finish_row(be, &g->finish, i, n0, rows, g->c + i * g->ldc + n0);
}

bool fs_gemm_few_rows(const fs_backend *be, const fs_gemm *g, int threads, fs_arena *arena) {
    if (g->m == 0 || g->n == 0) return true;
    const fs_arena_mark mark = fs_arena_get_mark(arena);
    const bool must_round = g->b_round != FS_DTYPE_F32 && g->b_round != g->b_type;
    const int64_t wide_floats = STREAM_ROWS * g->k, tasks = ceil_div(g->n, STREAM_ROWS);
    float *wide = must_round ? fs_arena_alloc(arena, (size_t)(wide_floats * threads) * sizeof *wide) : NULL;
    if (!must_round || wide) {
        /* One contiguous run of rows a thread: each streams from its own part of memory. */
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t t = 0; t < tasks; t++)
            stream_rows(g, be, t * STREAM_ROWS, fs_min_i64(STREAM_ROWS, g->n - t * STREAM_ROWS),
                        wide ? wide + wide_floats * omp_get_thread_num() : NULL);
    }
    fs_arena_release(arena, mark);
    return !must_round || wide;
}
