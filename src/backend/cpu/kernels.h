/* The kernels of each instruction set, by the family and suffix their source file has; backend.c makes tables of them.
 * What each does is said at fs_backend. */
#ifndef FS_CPU_KERNELS_H
#define FS_CPU_KERNELS_H

#include "backend/backend.h"

#if defined(__x86_64__)
#define FS_CPU_X86 1
#elif defined(__aarch64__) && defined(__linux__)
#define FS_CPU_ARM 1
#endif

#define FS_CPU_DECLARE(isa)                                                                                                                \
    void fs_gemm_tile_##isa(int64_t rows, int64_t cols, int64_t k, const float *a, const float *b, float *c, int64_t ldc, bool add,        \
                            const float *next);                                                                                            \
    void fs_gemm_tile_at_##isa(int64_t rows, int64_t cols, int64_t k, const float *a, const float *b, const int64_t *at, float *c, int64_t ldc, \
                               bool add);                                                                                                  \
    void fs_gemm_tile_walk_##isa(int64_t rows, int64_t cols, int64_t k, int64_t first, int64_t line, int64_t gap, const float *a,          \
                                 const int64_t *at, const float *b, float *c, int64_t ldc, bool add);                                      \
    void fs_pack_rows_##isa(const void *w, fs_dtype type, int64_t ld, int64_t n, int64_t k, fs_dtype round, float *out);                   \
    void fs_dot_rows_##isa(const float *x, int64_t ldx, int64_t m, const void *w, fs_dtype type, int64_t ldw, int64_t n, int64_t k,        \
                           float *y, int64_t ldy);                                                                                         \
    void fs_weighted_rows_##isa(const float *p, const float *v, int64_t ldv, int64_t n, int64_t d, float *y);                              \
    void fs_kv_dots_##isa(const float *q, const void *keys, fs_dtype type, int64_t n, int64_t d, float *scores);                            \
    void fs_kv_mix_##isa(const float *p, const void *values, fs_dtype type, int64_t n, int64_t d, float *y, bool add);                     \
    void fs_kv_dots_q8_##isa(const float *q, const int8_t *keys, const float *scales, int64_t n, int64_t d, float *scores);                \
    void fs_kv_mix_q8_##isa(const float *p, const int8_t *values, const float *scales, int64_t n, int64_t d, float *y, bool add);          \
    void fs_winograd_in_##isa(int m, const float *x, int64_t h, int64_t w, int64_t line, int64_t lines, float *v, int64_t step);            \
    void fs_winograd_out_##isa(int m, const float *p, int64_t step, int64_t tiles, float *y, int64_t ld);                                  \
    void fs_to_f32_##isa(const void *x, fs_dtype type, float *y, int64_t n);                                                               \
    void fs_from_f32_##isa(const float *x, fs_dtype type, void *y, int64_t n);                                                             \
    void fs_round_##isa(float *x, int64_t n, fs_dtype precision);                                                                          \
    void fs_add_##isa(const float *a, const float *b, float *y, int64_t n);                                                                \
    void fs_mul_##isa(const float *a, const float *b, float *y, int64_t n);                                                                \
    void fs_scale_##isa(const float *x, float f, float *y, int64_t n);                                                                     \
    void fs_affine_##isa(const float *x, float a, float b, float *y, int64_t n);                                                           \
    void fs_finish_##isa(const float *x, int64_t ldx, int64_t rows, int64_t cols, const float *factor, const float *shift, int64_t each,    \
                         const float *residual, int64_t ldr, bool relu, float *y, int64_t ldy);                                            \
    void fs_outer_sum_##isa(const float *up, int64_t h, const float *across, int64_t w, float *y);                                         \
    void fs_normalize_##isa(const float *x, float mean, float rstd, const float *w, const float *b, float *y, int64_t n);                  \
    void fs_gelu_##isa(const float *x, float *y, int64_t n);                                                                               \
    void fs_gelu_back_##isa(const float *x, const float *dy, float *dx, int64_t n);                                                        \
    void fs_silu_##isa(const float *x, float *y, int64_t n);                                                                               \
    void fs_sigmoid_##isa(const float *x, float *y, int64_t n);                                                                            \
    void fs_drop_##isa(const float *x, int64_t at, int64_t n, uint64_t key, uint32_t below, float factor, bool add, float *y);             \
    double fs_sum_##isa(const float *x, int64_t n);                                                                                        \
    double fs_sum_squares_##isa(const float *x, float mean, int64_t n);                                                                    \
    float fs_max_##isa(const float *x, int64_t n);                                                                                         \
    double fs_exp_sum_##isa(const float *x, float max, float *y, int64_t n);

FS_CPU_DECLARE(ref)
#ifdef FS_CPU_X86
FS_CPU_DECLARE(avx2)
FS_CPU_DECLARE(avx512)
#endif
#ifdef FS_CPU_ARM
FS_CPU_DECLARE(neon)
#endif

enum { FS_REF_TILE_ROWS = 4, FS_REF_TILE_COLS = 8, FS_AVX2_TILE_ROWS = 6, FS_AVX2_TILE_COLS = 16, FS_AVX512_TILE_ROWS = 14,
       FS_AVX512_TILE_COLS = 32, FS_NEON_TILE_ROWS = 6, FS_NEON_TILE_COLS = 16 };

#endif
