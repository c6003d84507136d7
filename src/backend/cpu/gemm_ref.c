/* Plain C kernels of the matrix product: a small register tile, the packing of its right operand, and the streaming dot products for few
 * rows. They define what the other instruction sets must compute and run where there is none of those. */
#include <string.h>

#include "backend/cpu/kernels.h"

enum { ROWS = FS_REF_TILE_ROWS, COLS = FS_REF_TILE_COLS, LANES = 16 };

/* Adds k terms of one row of a to a row of sums; written so that the compiler keeps `sum` in registers. */
static inline void tile_row(int64_t k, const float *a, const float *b, float *sum) {
    float s[COLS] = {0};
    for (int64_t p = 0; p < k; p++)
        for (int j = 0; j < COLS; j++) s[j] += a[p] * b[p * COLS + j];
    memcpy(sum, s, sizeof s);
}

void fs_gemm_tile_ref(int64_t rows, int64_t cols, int64_t k, const float *a, const float *b, float *c, int64_t ldc, bool add, const float *next) {
    (void)next;
    for (int64_t i = 0; i < rows; i++) {
        float sum[COLS];
        tile_row(k, a + i * FS_GEMM_KC, b, sum);
        for (int64_t j = 0; j < cols; j++) c[i * ldc + j] = add ? c[i * ldc + j] + sum[j] : sum[j];
    }
}

void fs_gemm_tile_at_ref(int64_t rows, int64_t cols, int64_t k, const float *a, const float *b, const int64_t *at, float *c, int64_t ldc, bool add) {
    for (int64_t i = 0; i < rows; i++) {
        float sum[COLS] = {0};
        for (int64_t p = 0; p < k; p++)
            for (int j = 0; j < COLS; j++) sum[j] += a[i * FS_GEMM_KC + p] * b[at[p] + j];
        for (int64_t j = 0; j < cols; j++) c[i * ldc + j] = add ? c[i * ldc + j] + sum[j] : sum[j];
    }
}

void fs_gemm_tile_walk_ref(int64_t rows, int64_t cols, int64_t k, int64_t first, int64_t line, int64_t gap, const float *a, const int64_t *at, const float *b,
                           float *c, int64_t ldc, bool add) {
    for (int64_t i = 0; i < rows; i++) {
        float sum[COLS] = {0};
        const float *x = a + at[i];
        for (int64_t p = 0, end = first; p < k; p++) {
            if (p == end) {
                end += line;
                x += gap;
            }
            for (int j = 0; j < COLS; j++) sum[j] += x[p] * b[p * COLS + j];
        }
        for (int64_t j = 0; j < cols; j++) c[i * ldc + j] = add ? c[i * ldc + j] + sum[j] : sum[j];
    }
}

void fs_pack_rows_ref(const void *w, fs_dtype type, int64_t ld, int64_t n, int64_t k, fs_dtype round, float *out) {
    const size_t size = fs_dtype_size(type);
    for (int64_t j = 0; j < COLS; j++)
        for (int64_t p0 = 0; p0 < k; p0 += 64) {
            float piece[64] = {0};
            const int64_t terms = fs_min_i64(64, k - p0);
            if (j < n) {
                fs_to_f32_ref((const char *)w + (size_t)(j * ld + p0) * size, type, piece, terms);
                if (round != type) fs_round_ref(piece, terms, round);
            }
            for (int64_t p = 0; p < terms; p++) out[(p0 + p) * COLS + j] = piece[p];
        }
}

/* x . w with LANES partial sums, added in a fixed order. */
static float dot(const float *x, const char *w, fs_dtype type, int64_t k) {
    float sum[LANES] = {0}, piece[256];
    const size_t size = fs_dtype_size(type);
    for (int64_t p0 = 0; p0 < k; p0 += 256) {
        const int64_t terms = fs_min_i64(256, k - p0);
        fs_to_f32_ref(w + (size_t)p0 * size, type, piece, terms);
        int64_t p = 0;
        for (; p + LANES <= terms; p += LANES)
            for (int l = 0; l < LANES; l++) sum[l] += x[p0 + p + l] * piece[p + l];
        for (int l = 0; p < terms; p++, l++) sum[l] += x[p0 + p] * piece[p];
    }
    for (int half = LANES / 2; half; half /= 2)
        for (int l = 0; l < half; l++) sum[l] += sum[l + half];
    return sum[0];
}

void fs_dot_rows_ref(const float *x, int64_t ldx, int64_t m, const void *w, fs_dtype type, int64_t ldw, int64_t n, int64_t k, float *y,
                     int64_t ldy) {
    const size_t size = fs_dtype_size(type);
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < m; i++) y[i * ldy + j] = dot(x + i * ldx, (const char *)w + (size_t)(j * ldw) * size, type, k);
}

static float element(const void *x, fs_dtype type, int64_t i) {
    float f;
    fs_to_f32_ref((const char *)x + (size_t)i * (type == FS_DTYPE_F32 ? 4 : 2), type, &f, 1);
    return f;
}
void fs_kv_dots_ref(const float *q, const void *keys, fs_dtype type, int64_t n, int64_t d, float *scores) {
    for (int64_t j = 0; j < n; j++) {
        float sum = 0;
        for (int64_t e = 0; e < d; e++) sum += q[e] * element(keys, type, j * d + e);
        scores[j] = sum;
    }
}
void fs_kv_mix_ref(const float *p, const void *values, fs_dtype type, int64_t n, int64_t d, float *y, bool add) {
    for (int64_t e = 0; e < d; e++) {
        float sum = add ? y[e] : 0;
        for (int64_t j = 0; j < n; j++) sum += p[j] * element(values, type, j * d + e);
        y[e] = sum;
    }
}

void fs_kv_dots_q8_ref(const float *q, const int8_t *keys, const float *scales, int64_t n, int64_t d, float *scores) {
    for (int64_t j = 0; j < n; j++) {
        float sum = 0;
        for (int64_t e = 0; e < d; e++) sum += q[e] * (scales[j * (d / 32) + e / 32] * (float)keys[j * d + e]);
        scores[j] = sum;
    }
}
void fs_kv_mix_q8_ref(const float *p, const int8_t *values, const float *scales, int64_t n, int64_t d, float *y, bool add) {
    for (int64_t e = 0; e < d; e++) {
        float sum = add ? y[e] : 0;
        for (int64_t j = 0; j < n; j++) sum += p[j] * (scales[j * (d / 32) + e / 32] * (float)values[j * d + e]);
        y[e] = sum;
    }
}

void fs_weighted_rows_ref(const float *p, const float *v, int64_t ldv, int64_t n, int64_t d, float *y) {
    for (int64_t e0 = 0; e0 < d; e0 += LANES) {
        const int64_t lanes = fs_min_i64(LANES, d - e0);
        float total[LANES] = {0};
        for (int64_t j0 = 0; j0 < n; j0 += FS_GEMM_KC) { /* in blocks, so that the error does not grow with n */
            float sum[LANES] = {0};
            for (int64_t j = j0; j < fs_min_i64(n, j0 + FS_GEMM_KC); j++)
                for (int64_t l = 0; l < lanes; l++) sum[l] += p[j] * v[j * ldv + e0 + l];
            for (int64_t l = 0; l < lanes; l++) total[l] += sum[l];
        }
        for (int64_t l = 0; l < lanes; l++) y[e0 + l] = total[l];
    }
}
