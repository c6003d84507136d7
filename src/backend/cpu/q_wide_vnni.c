/* Packed weights times many rows of quantized activations for AVX-512 VNNI: 32 weight rows (two tiles side by side) by six activation rows.
 * The tile of q_vnni.c, 16 by 12, broadcasts one value from memory for every vpdpbusd and so is bound by the loads; here a broadcast value
 * and a vector of weights serve two to six products, 78 loads for 96 products. The sums of a group, the sums over groups and the operands
 * fill 28 of the 32 registers. Same rules and the same bits as q_vnni.c. Empty where the build does not target x86. */
#ifdef __AVX512VNNI__
#include "backend/cpu/q_vnni.h"

enum { ROWS = FS_PACKED_ROWS, GROUP = FS_PACKED_GROUP, TILE = FS_Q_WIDE_TILE };

/* Quad z of the values of a group, of the weight tile whose chunk (Q4_K: whose pair's codes) starts at p. */
static inline __attribute__((always_inline)) __m512i codes(const fs_dtype type, const uint8_t *p, const int half, const int z) {
    const __m512i low = _mm512_set1_epi8(15);
    if (type == FS_DTYPE_Q8_0X16) return load(p + 64 + 512 * half + 64 * z);
    if (type == FS_DTYPE_Q4_0X16) {
        const __m512i both = load(p + 64 + 256 * half + 64 * (z % 4));
        return _mm512_and_si512(z < 4 ? both : _mm512_srli_epi16(both, 4), low);
    }
    const __m512i both = load(p + 64 * z);
    return _mm512_and_si512(half ? _mm512_srli_epi16(both, 4) : both, low);
}

/* One group into the sums. w: the chunks of the two tiles; pair: of Q4_K's groups. */
static inline __attribute__((always_inline)) void add_group(const fs_dtype type, const int n, const uint8_t *const w[2], const int pair,
                                                            const int half, const uint8_t *x, __m512 sum[2][TILE]) {
    const bool mins = type == FS_DTYPE_Q4_KX16;
    const int8_t *q = (const int8_t *)x;
    const float *s = (const float *)(const void *)(x + n * GROUP), *scaled = s + n;
    const int32_t *offset = (const int32_t *)(const void *)scaled;
    __m512i dot[2][TILE];
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) dot[0][t] = dot[1][t] = mins ? _mm512_setzero_si512() : _mm512_set1_epi32(offset[t]);
#pragma GCC unroll 8
    for (int z = 0; z < 8; z++) {
        const __m512i u0 = codes(type, mins ? w[0] + 256 + 512 * pair : w[0], half, z);
        const __m512i u1 = codes(type, mins ? w[1] + 256 + 512 * pair : w[1], half, z);
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const __m512i four = _mm512_set1_epi32(*(const int32_t *)(const void *)(q + t * GROUP + 4 * z));
            dot[0][t] = dot4(dot[0][t], u0, four);
            dot[1][t] = dot4(dot[1][t], u1, four);
        }
    }
#pragma GCC unroll 2
    for (int h = 0; h < 2; h++) {
        group_scales k;
        if (mins) k = scales_q4k(w[h] + 64 + 48 * pair, half, load_f16(w[h]), load_f16(w[h] + 32));
        else k = (group_scales){load_f16(w[h] + 32 * half), _mm512_setzero_ps()};
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            sum[h][t] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot[h][t]), _mm512_set1_ps(s[t])), k.d, sum[h][t]);
            if (mins) sum[h][t] = _mm512_fnmadd_ps(k.m, _mm512_set1_ps(scaled[t]), sum[h][t]);
        }
    }
}

static inline __attribute__((always_inline)) void multiply(const fs_dtype type, const int n, const uint8_t *w0, const uint8_t *w1, const uint8_t *x,
                                                           int64_t groups, bool more, float *y, int64_t ldy, int rows) {
    __m512 sum[2][TILE];
    const uint8_t *w[2] = {w0, w1};
    const size_t step = (size_t)(n * FS_Q_BYTES);
    const __mmask16 mask = (__mmask16)((1u << (rows - ROWS)) - 1u); /* of the second tile */
    for (int t = 0; t < 2 * n; t++) /* this tile's and the next one's: stores wait their turn, and each would wait for memory */
        for (int i = 0; i < 2 * ROWS; i += ROWS) _mm_prefetch((const char *)y + (t * ldy + i) * 4, _MM_HINT_T0);
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        sum[0][t] = _mm512_maskz_loadu_ps(more ? 0xFFFF : 0, y + t * ldy);
        sum[1][t] = _mm512_maskz_loadu_ps(more ? mask : 0, y + t * ldy + ROWS);
    }
    if (type == FS_DTYPE_Q4_KX16) {
        for (int64_t g = 0; g < groups; g += 8, w[0] += FS_Q4K_CHUNK, w[1] += FS_Q4K_CHUNK)
            for (int p = 0; p < 4; p++, x += 2 * step) {
                add_group(type, n, w, p, 0, x, sum);
                add_group(type, n, w, p, 1, x + step, sum);
            }
    } else {
        const int chunk = type == FS_DTYPE_Q8_0X16 ? FS_Q8_CHUNK : FS_Q4_CHUNK;
        for (int64_t g = 0; g < groups; g += 2, w[0] += chunk, w[1] += chunk, x += 2 * step) {
            add_group(type, n, w, 0, 0, x, sum);
            add_group(type, n, w, 0, 1, x + step, sum);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        _mm512_storeu_ps(y + t * ldy, sum[0][t]);
        _mm512_mask_storeu_ps(y + t * ldy + ROWS, mask, sum[1][t]);
    }
}

#define CASE(n)                                                                                                                            \
    case n: multiply(type, n, w0, w1, x, groups, more, y, ldy, rows); break

static inline __attribute__((always_inline)) void multiply_type(const fs_dtype type, const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n,
                                                                int64_t groups, bool more, float *y, int64_t ldy, int rows) {
    switch (n) {
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
    }
}

static void multiply_q8(const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows) {
    multiply_type(FS_DTYPE_Q8_0X16, w0, w1, x, n, groups, more, y, ldy, rows);
}
static void multiply_q4(const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows) {
    multiply_type(FS_DTYPE_Q4_0X16, w0, w1, x, n, groups, more, y, ldy, rows);
}
static void multiply_q4k(const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows) {
    multiply_type(FS_DTYPE_Q4_KX16, w0, w1, x, n, groups, more, y, ldy, rows);
}

void fs_q_wide_vnni(fs_dtype packed, const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy,
                    int rows) {
    if (packed == FS_DTYPE_Q8_0X16)
        multiply_q8(w0, w1, x, n, groups, more, y, ldy, rows);
    else if (packed == FS_DTYPE_Q4_0X16)
        multiply_q4(w0, w1, x, n, groups, more, y, ldy, rows);
    else
        multiply_q4k(w0, w1, x, n, groups, more, y, ldy, rows);
}
#else
typedef int fs_no_q_wide_vnni;
#endif
