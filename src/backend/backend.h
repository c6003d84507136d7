/* The table of kernels operators call, and the blocked matrix product built on it.
 *
 * One table per instruction set; all entries work on plain pointers, know no tensor and no thread. Pointers may be unaligned. Results
 * of a kernel depend on the values alone, never on alignment, on where in a row a value stands or on how many rows are done at once;
 * so operators may cut work between threads anywhere and still give the same bits. Tables differ among each other in the last bits. */
#ifndef FS_BACKEND_H
#define FS_BACKEND_H

#include "tensor/tensor.h"

enum {
    FS_GEMM_KC = 256,      /* terms summed before the sum is added to the result; also the row stride of a tile's left operand */
    FS_GEMM_MAX_COLS = 32, /* no table's tile is wider */
    FS_WALK_ROWS = 8,      /* and no tile of gemm_tile_walk, nor of tile_rows, has more rows */
    FS_DROP_RUN = 64,      /* values that 16 blocks of Philox are for */
    FS_DOT_MAX_ROWS = 4,   /* left rows that dot_rows takes at once */
    FS_GEMM_FEW_ROWS = 12  /* up to here fs_gemm_few_rows is faster than packing */
};

typedef struct fs_backend {
    const char *name;
    int tile_rows, tile_cols; /* largest tile of gemm_tile */

    /* c[rows, cols] = or += a b, summed over k in order, one fused or separate multiply-add a step. a: [rows] at stride FS_GEMM_KC,
     * k <= FS_GEMM_KC of each used; b: [k][tile_cols]. Columns from `cols` on are neither written nor used. next: what a later tile reads, NULL: nothing;
     * k cache lines from there on are fetched meanwhile, one a step (all at once would hold up the loads of the tile). */
    void (*gemm_tile)(int64_t rows, int64_t cols, int64_t k, const float *a, const float *b, float *c, int64_t ldc, bool add, const float *next);
    /* The same with row p of b at b + at[p], where tile_cols values can be read. */
    void (*gemm_tile_at)(int64_t rows, int64_t cols, int64_t k, const float *a, const float *b, const int64_t *at, float *c, int64_t ldc, bool add);
    /* The same with row i of a, at most FS_WALK_ROWS of them, at a + at[i], its terms in lines: `first` of them, then `line` at a time, `gap` values left out
     * between lines. */
    void (*gemm_tile_walk)(int64_t rows, int64_t cols, int64_t k, int64_t first, int64_t line, int64_t gap, const float *a, const int64_t *at, const float *b,
                           float *c, int64_t ldc, bool add);
    /* out: [k][tile_cols] from w: n <= tile_cols rows of k values at stride ld (in elements); columns from n on become 0. Values are
     * rounded to `round` on the way. */
    void (*pack_rows)(const void *w, fs_dtype type, int64_t ld, int64_t n, int64_t k, fs_dtype round, float *out);
    /* y[i*ldy + j] = x_i . w_j for m <= FS_DOT_MAX_ROWS rows of x and n rows of w (F32, F16 or BF16), k terms each. */
    void (*dot_rows)(const float *x, int64_t ldx, int64_t m, const void *w, fs_dtype type, int64_t ldw, int64_t n, int64_t k, float *y,
                     int64_t ldy);
    /* y[0..d) = sum over j < n of p[j] v[j*ldv ..] */
    void (*weighted_rows)(const float *p, const float *v, int64_t ldv, int64_t n, int64_t d, float *y);

    /* A head of the key/value cache (F32, F16 or BF16), rows of d values: scores[j] = q . keys[j]; y[0..d) = or += sum over j < n of p[j] values[j].
     * A score depends on its key alone. */
    void (*kv_dots)(const float *q, const void *keys, fs_dtype type, int64_t n, int64_t d, float *scores);
    void (*kv_mix)(const float *p, const void *values, fs_dtype type, int64_t n, int64_t d, float *y, bool add);
    /* The same for values of 8 bits with a scale for every 32 of them: x = scales[j * d / 32 + e / 32] * q. d is a multiple of 32. */
    void (*kv_dots_q8)(const float *q, const int8_t *keys, const float *scales, int64_t n, int64_t d, float *scores);
    void (*kv_mix_q8)(const float *p, const int8_t *values, const float *scales, int64_t n, int64_t d, float *y, bool add);

    /* Around the products of Winograd's 3 x 3 convolution with results in squares of m x m (2 or 4), for the squares of some lines of them (all squares of
     * a line, at most tile_cols together; the picture has h x w values): in: from the picture to point i of (m + 2)^2 of square t at v[i*step + t], the
     * first line of squares being number `line`; out: from products of n squares at p[i*step + t] to m rows of m values of each square, one square
     * behind the other, at stride ld. */
    void (*winograd_in)(int m, const float *x, int64_t h, int64_t w, int64_t line, int64_t lines, float *v, int64_t step);
    void (*winograd_out)(int m, const float *p, int64_t step, int64_t n, float *y, int64_t ld);

    void (*to_f32)(const void *x, fs_dtype type, float *y, int64_t n); /* from F32, F16 or BF16, exact */
    void (*from_f32)(const float *x, fs_dtype type, void *y, int64_t n); /* to F32, F16 or BF16, to nearest even */
    void (*round)(float *x, int64_t n, fs_dtype precision);            /* in place, to nearest even; F32 changes nothing */

    /* Elementwise; y may be an input. */
    void (*add)(const float *a, const float *b, float *y, int64_t n);
    void (*mul)(const float *a, const float *b, float *y, int64_t n);
    void (*scale)(const float *x, float f, float *y, int64_t n);
    void (*affine)(const float *x, float a, float b, float *y, int64_t n);                  /* x a + b */
    /* What mostly follows a product, in one pass: row i of x times factor[i * each] plus shift[i * each] (both NULL: as it is), + residual (NULL: none),
     * and with `relu` 0 for what is negative. The same bits as affine, add and a comparison one after the other. y may be x. */
    void (*finish)(const float *x, int64_t ldx, int64_t rows, int64_t cols, const float *factor, const float *shift, int64_t each, const float *residual,
                   int64_t ldr, bool relu, float *y, int64_t ldy);
    void (*outer_sum)(const float *up, int64_t h, const float *across, int64_t w, float *y); /* y[i*w + j] = up[i] + across[j] */
    /* (x - mean) rstd w + b */
    void (*normalize)(const float *x, float mean, float rstd, const float *w, const float *b, float *y, int64_t n);
    void (*gelu)(const float *x, float *y, int64_t n);                                      /* x * normal cdf of x */
    void (*gelu_back)(const float *x, const float *dy, float *dx, int64_t n);               /* dx += dy times gelu's derivative at x */
    void (*silu)(const float *x, float *y, int64_t n);                                      /* x / (1 + exp -x) */
    void (*sigmoid)(const float *x, float *y, int64_t n);

    /* Dropout of values at .. at + n of a tensor (at: a multiple of FS_DROP_RUN), y = or += x factor, or 0 where the value's number is under `below`.
     * Number i is word i/16 % 4 of Philox under `key` at counter i/64*16 + i%16. The same in every table. */
    void (*drop)(const float *x, int64_t at, int64_t n, uint64_t key, uint32_t below, float factor, bool add, float *y);

    /* Reductions of one row. */
    double (*sum)(const float *x, int64_t n);
    double (*sum_squares)(const float *x, float mean, int64_t n); /* of x - mean */
    float (*max)(const float *x, int64_t n);                      /* -inf for n = 0; NaN is passed over (exp_sum shows it) */
    double (*exp_sum)(const float *x, float max, float *y, int64_t n); /* y = exp(x - max), returns its sum; y may be x */
} fs_backend;

/* The fastest table this processor runs. */
const fs_backend *fs_backend_best(void);
/* "ref", "avx2", "avx512" or "neon"; NULL if there is none of that name or the processor cannot run it. */
const fs_backend *fs_backend_by_name(const char *name);

/* ---- what follows a product, done to a block of results while it is in a cache ------------------------------------------------------ */

typedef enum fs_act { FS_ACTIVATE_NONE = 0, FS_ACTIVATE_RELU, FS_ACTIVATE_GELU, FS_ACTIVATE_QUICK_GELU } fs_act;
/* In this order, each step rounded to `round` as the operators of its own would: + bias; rows times factor plus shift (a batch norm);
 * the activation, unless it is after the sum; + residual; the activation, if it is. */
typedef struct fs_finish {
    const float *bias; /* [n], or [m] if bias_by_row; NULL for none */
    bool bias_by_row;
    const float *factor, *shift; /* [m], for rows of the result; NULL for none */
    fs_act act;
    bool act_last;
    const float *residual; /* [m, n] at stride residual_ld; NULL for none. */
    int64_t residual_ld;
    fs_dtype round;
} fs_finish;
/* c: columns [n0, n0 + cols) of row i of the result. */
void fs_finish_row(const fs_backend *be, const fs_finish *f, int64_t i, int64_t n0, int64_t cols, float *c);
/* The same for rows [i, i + rows), at stride ldc. */
void fs_finish_rows(const fs_backend *be, const fs_finish *f, int64_t i, int64_t rows, int64_t n0, int64_t cols, float *c, int64_t ldc);
/* Row i in pieces of `cols` columns that lie `apart` from each other, the first at n0, from x (at stride ldx) to c, its first piece's. */
void fs_finish_pieces(const fs_backend *be, const fs_finish *f, int64_t i, int64_t n0, int64_t pieces, int64_t cols, int64_t apart, const float *x, int64_t ldx,
                      float *c);

/* ---- matrix product: c[m, n] = a[m, k] b, finished --------------------------------------------------------------------------- */

typedef struct fs_gemm fs_gemm;
/* Writes the panel [terms][tile_cols] of b that holds terms [k0, k0 + terms) of columns [n0, n0 + cols); other columns become 0. */
typedef void (*fs_gemm_pack)(const fs_gemm *g, const fs_backend *be, int64_t k0, int64_t terms, int64_t n0, int64_t cols, float *out);

struct fs_gemm {
    int64_t m, n, k;
    /* a(i, p) = a[i*a_row + p*a_col], strides in elements; F32, F16 or BF16 */
    const void *a;
    fs_dtype a_type, a_round;
    int64_t a_row, a_col;
    /* b through one of the packers below, or the caller's own with `user` */
    fs_gemm_pack pack;
    const void *b;
    fs_dtype b_type, b_round;
    int64_t b_ld;
    const void *user;
    /* result */
    float *c;
    int64_t ldc;
    /* In place of pack: row p of b lies at b + at[p], in lines of b_line columns (a multiple of tile_cols), the next line b_ld values on; behind the last
     * column tile_cols values more can be read. */
    const int64_t *at;
    int64_t b_line;
    const float *left; /* the left operand packed before by fs_gemm_pack_left; NULL: packed here */
    bool add; /* to what c holds, instead of over it; by fs_gemm_run, and without anything to finish */
    fs_finish finish;
};
/* b: [n, k] of any type above; b: [k, n], F32 */
void fs_gemm_pack_nk(const fs_gemm *g, const fs_backend *be, int64_t k0, int64_t terms, int64_t n0, int64_t cols, float *out);
void fs_gemm_pack_kn(const fs_gemm *g, const fs_backend *be, int64_t k0, int64_t terms, int64_t n0, int64_t cols, float *out);

/* The left operand's panel, [blocks of k][m][FS_GEMM_KC], for products that share it. fs_gemm_left_floats: how large. */
int64_t fs_gemm_left_floats(const fs_gemm *g);
void fs_gemm_pack_left(const fs_backend *be, const fs_gemm *g, int threads, float *left);

/* False when there is no memory for the packed blocks. Each result is a sum over blocks of FS_GEMM_KC terms in order, whatever m, n and
 * the number of threads are: a row has the same bits alone or among others. */
bool fs_gemm_run(const fs_backend *be, const fs_gemm *g, int threads, fs_arena *arena);

/* The same for few rows (any m, meant for m <= FS_GEMM_FEW_ROWS), b: [n, k] read from memory once as it streams by, a F32 with a_col 1. The
 * bits of a row do not depend on m, n or the threads either, but differ from fs_gemm_run's (other order of summation). */
bool fs_gemm_few_rows(const fs_backend *be, const fs_gemm *g, int threads, fs_arena *arena);

#endif
