/* Many rows of 4-bit weights for AVX-512 VNNI (q_kernels.h: longer groups). A strip of 32 weight rows is expanded to 8 bits in the level-1 cache, once
 * for all activations that pass it; then 32 weight rows meet six activation rows in FS_Q_LONG / 4 steps of twelve vpdpbusd with nothing in between.
 * 90 % of what the instruction can give, where a scale for every 32 values leaves room for 75 %. Empty where the build does not target x86. */
#ifdef __AVX512VNNI__
#include "backend/cpu/q_vnni.h"

enum { ROWS = FS_PACKED_ROWS, LONG = FS_Q_LONG, PARTS = FS_Q_LONG_GROUPS, TILE = FS_Q_WIDE_TILE, STEP = 8 };

/* ---- expanding ---- */

static inline __attribute__((always_inline)) group_scales scales_q4(const uint8_t *chunk, const int half) {
    const __m512 d = load_f16(chunk + 32 * half);
    return (group_scales){d, _mm512_mul_ps(d, _mm512_set1_ps(8.0f))};
}

/* R and 128 + 32768 - C of a group, twice in every row's 32 bits. */
typedef struct ratios { __m512i r, c; } ratios;

static inline __attribute__((always_inline)) __m512i twice(__m512i v) { /* the low 16 bits */
    return _mm512_or_si512(_mm512_and_si512(v, _mm512_set1_epi32(0xFFFF)), _mm512_slli_epi32(v, 16));
}

/* The ratios of a long group; D to out. */
static inline __attribute__((always_inline)) void find_ratios(const group_scales s[PARTS], ratios out[PARTS], uint8_t *scale) {
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF), infinite = _mm512_set1_epi32(0x7F800000);
    __m512i bits = _mm512_setzero_si512();
#pragma GCC unroll 8
    for (int g = 0; g < PARTS; g++) {
        const __m512 high = _mm512_fmsub_ps(_mm512_set1_ps(15.0f), s[g].d, s[g].m);
        bits = _mm512_max_epu32(bits, _mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(s[g].m), magnitude),
                                                       _mm512_and_si512(_mm512_castps_si512(high), magnitude)));
    }
    const __mmask16 finite = _mm512_cmplt_epu32_mask(bits, infinite), some = finite & _mm512_test_epi32_mask(bits, bits);
    const __m512 top = _mm512_castsi512_ps(bits), inverse = _mm512_maskz_div_ps(some, _mm512_set1_ps(32512.0f), top);
    _mm512_storeu_ps(scale, _mm512_mask_div_ps(_mm512_set1_ps(NAN), finite, top, _mm512_set1_ps(127.0f)));
#pragma GCC unroll 8
    for (int g = 0; g < PARTS; g++) {
        out[g].r = twice(_mm512_maskz_cvtps_epi32(some, _mm512_mul_ps(s[g].d, inverse)));
        out[g].c = twice(_mm512_sub_epi32(_mm512_set1_epi32(128 + 32768), _mm512_maskz_cvtps_epi32(some, _mm512_mul_ps(s[g].m, inverse))));
    }
}

/* 64 codes 0 .. 15, one in each byte's low or high nibble, to 64 U. */
static inline __attribute__((always_inline)) __m512i widen(__m512i both, const int high, ratios k) {
    const __m512i nibble = _mm512_set1_epi16(15), upper = _mm512_set1_epi16((short)0xFF00);
    __m512i even = high ? _mm512_srli_epi16(both, 4) : both, odd = high ? _mm512_srli_epi16(both, 12) : _mm512_srli_epi16(both, 8);
    even = _mm512_add_epi16(_mm512_mullo_epi16(_mm512_and_si512(even, nibble), k.r), k.c);
    odd = _mm512_add_epi16(_mm512_mullo_epi16(high ? odd : _mm512_and_si512(odd, nibble), k.r), k.c);
    return _mm512_ternarylogic_epi32(_mm512_srli_epi16(even, 8), odd, upper, 0xF8); /* a | (b & c) */
}

static void expand_q4(const uint8_t *w, int64_t groups, uint8_t *out) {
    for (int64_t at = 0; at < groups; at++, w += FS_Q4_CHUNK * PARTS / 2, out += FS_Q_STRIP_CHUNK) {
        group_scales s[PARTS];
        ratios k[PARTS];
#pragma GCC unroll 8
        for (int g = 0; g < PARTS; g++) s[g] = scales_q4(w + FS_Q4_CHUNK * (g / 2), g % 2);
        find_ratios(s, k, out);
#pragma GCC unroll 8
        for (int g = 0; g < PARTS; g++)
#pragma GCC unroll 4
            for (int v = 0; v < 4; v++) {
                const __m512i both = load(w + FS_Q4_CHUNK * (g / 2) + 64 + 256 * (g % 2) + 64 * v);
                uint8_t *to = out + 64 + 64 * (8 * g + v);
                _mm512_storeu_si512(to, widen(both, 0, k[g]));
                _mm512_storeu_si512(to + 256, widen(both, 1, k[g]));
            }
    }
}

/* Part `part` of the long groups of a chunk. */
static inline __attribute__((always_inline)) void expand_q4k_part(const uint8_t *w, const int part, uint8_t *out) {
    group_scales s[PARTS];
    ratios k[PARTS];
    const int first = part * PARTS / 2; /* pair */
#pragma GCC unroll 8
    for (int g = 0; g < PARTS; g++) s[g] = scales_q4k(w + 64 + 48 * (first + g / 2), g % 2, load_f16(w), load_f16(w + 32));
    find_ratios(s, k, out);
#pragma GCC unroll 4
    for (int p = 0; p < PARTS / 2; p++)
#pragma GCC unroll 8
        for (int z = 0; z < 8; z++) {
            const __m512i both = load(w + 256 + 512 * (first + p) + 64 * z);
            uint8_t *to = out + 64 + 64 * (16 * p + z);
            _mm512_storeu_si512(to, widen(both, 0, k[2 * p]));
            _mm512_storeu_si512(to + 512, widen(both, 1, k[2 * p + 1]));
        }
}

static void expand_q4k(const uint8_t *w, int64_t groups, uint8_t *out) {
    enum { A_CHUNK = 8 / PARTS }; /* long groups */
    for (int64_t at = 0; at < groups; at++, out += FS_Q_STRIP_CHUNK) {
        const uint8_t *chunk = w + (size_t)(at / A_CHUNK) * FS_Q4K_CHUNK;
        if (at % A_CHUNK == 0) expand_q4k_part(chunk, 0, out);
        else expand_q4k_part(chunk, 1, out);
    }
}

void fs_q_expand_vnni(fs_dtype packed, const uint8_t *w, int64_t groups, uint8_t *out) {
    if (packed == FS_DTYPE_Q4_KX16) expand_q4k(w, groups, out);
    else expand_q4(w, groups, out);
}

/* ---- activations ---- */

void fs_q_quantize_long_vnni(const float *x, int64_t ldx, int n, int64_t groups, uint8_t *out) {
    for (int64_t g = 0; g < groups; g++, out += n * FS_Q_LONG_BYTES) {
        float *s = (float *)(void *)(out + n * LONG);
        int32_t *offsets = (int32_t *)(void *)(s + n);
        for (int t = 0; t < n; t++) {
            int32_t sum;
            s[t] = quantize_group(x + t * ldx + g * LONG, LONG, (int8_t *)out + t * LONG, &sum);
            offsets[t] = -128 * sum;
        }
    }
}

/* ---- products ---- */

static inline __attribute__((always_inline)) void multiply(const int n, const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int64_t groups, bool more,
                                                           float *y, int64_t ldy, int rows) {
    __m512 sum[2][TILE];
    const __mmask16 mask[2] = {(__mmask16)(rows < ROWS ? (1u << rows) - 1u : 0xFFFFu), (__mmask16)(rows > ROWS ? (1u << (rows - ROWS)) - 1u : 0)};
    for (int t = 0; t < 2 * n; t++) /* this tile's and the next one's: stores wait their turn, and each would wait for memory */
        for (int i = 0; i < 2 * ROWS; i += ROWS) _mm_prefetch((const char *)y + (t * ldy + i) * 4, _MM_HINT_T0);
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        sum[0][t] = _mm512_maskz_loadu_ps(more ? mask[0] : 0, y + t * ldy);
        sum[1][t] = _mm512_maskz_loadu_ps(more ? mask[1] : 0, y + t * ldy + ROWS);
    }
    for (int64_t g = 0; g < groups; g++, w0 += FS_Q_STRIP_CHUNK, w1 += FS_Q_STRIP_CHUNK, x += n * FS_Q_LONG_BYTES) {
        const int8_t *q = (const int8_t *)x;
        const float *s = (const float *)(const void *)(x + n * LONG);
        const int32_t *offset = (const int32_t *)(const void *)(s + n);
        __m512i dot[2][TILE];
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) dot[0][t] = dot[1][t] = _mm512_set1_epi32(offset[t]);
#pragma GCC unroll 1
        for (int at = 0; at < LONG / 4; at += STEP) {
#pragma GCC unroll 8
            for (int z = 0; z < STEP; z++) {
                const __m512i u0 = load(w0 + 64 + 64 * (at + z)), u1 = load(w1 + 64 + 64 * (at + z));
#pragma GCC unroll 8
                for (int t = 0; t < n; t++) {
                    const __m512i four = _mm512_set1_epi32(*(const int32_t *)(const void *)(q + t * LONG + 4 * (at + z)));
                    dot[0][t] = dot4(dot[0][t], u0, four);
                    dot[1][t] = dot4(dot[1][t], u1, four);
                }
            }
        }
        const __m512 scale0 = _mm512_loadu_ps(w0), scale1 = _mm512_loadu_ps(w1);
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const __m512 a = _mm512_set1_ps(s[t]);
            sum[0][t] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot[0][t]), a), scale0, sum[0][t]);
            sum[1][t] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot[1][t]), a), scale1, sum[1][t]);
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
        _mm512_mask_storeu_ps(y + t * ldy, mask[0], sum[0][t]);
        _mm512_mask_storeu_ps(y + t * ldy + ROWS, mask[1], sum[1][t]);
    }
}

#define CASE(n)                                                        \
    case n: multiply(n, w0, w1, x, groups, more, y, ldy, rows); break

void fs_q_strip_vnni(const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows) {
    if (rows <= ROWS) w1 = w0;
    switch (n) {
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
    }
}
#else
typedef int fs_no_q_long_vnni;
#endif
