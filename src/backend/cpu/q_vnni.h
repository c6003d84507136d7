/* What the AVX-512 VNNI kernels share: loads, Q4_K's scales, rounding activations. Only for files that are empty where the build does not target x86. */
#ifndef FS_Q_VNNI_H
#define FS_Q_VNNI_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/q_kernels.h"

#define FS_VNNI_INLINE static inline __attribute__((always_inline))

FS_VNNI_INLINE __m512i load(const uint8_t *p) { return _mm512_loadu_si512((const void *)p); }
FS_VNNI_INLINE __m512 load_f16(const uint8_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
FS_VNNI_INLINE __m512i load_u8(const uint8_t *p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)); }

/* sum += the products of four codes u and four activations q, of each row. As assembly because GCC 12 copies the sum before the intrinsic. */
FS_VNNI_INLINE __m512i dot4(__m512i sum, __m512i u, __m512i q) {
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(u), "v"(q));
    return sum;
}

/* Scale and min of one group of 16 rows. */
typedef struct group_scales { __m512 d, m; } group_scales;

/* Q4_K's: packed: of a pair of groups; half: the even or the odd one; d, dmin: of the chunk. */
FS_VNNI_INLINE group_scales scales_q4k(const uint8_t *packed, const int half, __m512 d, __m512 dmin) {
    const __m512i low = load_u8(packed + 16 * half), high = load_u8(packed + 32), nibble = _mm512_set1_epi32(15), top = _mm512_set1_epi32(48);
    const __m512i sc = _mm512_or_si512(_mm512_and_si512(low, nibble), _mm512_and_si512(half ? high : _mm512_slli_epi32(high, 4), top));
    const __m512i mn = _mm512_or_si512(_mm512_srli_epi32(low, 4),
                                       _mm512_and_si512(half ? _mm512_srli_epi32(high, 2) : _mm512_slli_epi32(high, 2), top));
    return (group_scales){_mm512_mul_ps(d, _mm512_cvtepi32_ps(sc)), _mm512_mul_ps(dmin, _mm512_cvtepi32_ps(mn))};
}

/* n values, a constant multiple of 16 up to FS_Q_LONG, to q; returns s and the sum of q. */
FS_VNNI_INLINE float quantize_group(const float *x, const int n, int8_t *q, int32_t *sum) {
    __m512 v[FS_Q_LONG / 16];
    __m512i most_bits = _mm512_setzero_si512(), total = _mm512_setzero_si512();
    const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
#pragma GCC unroll 16
    for (int i = 0; i < n / 16; i++) {
        v[i] = _mm512_loadu_ps(x + 16 * i);
        most_bits = _mm512_max_epu32(most_bits, _mm512_and_si512(_mm512_castps_si512(v[i]), magnitude));
    }
    const uint32_t top = _mm512_reduce_max_epu32(most_bits);
    float most;
    memcpy(&most, &top, sizeof most);
    if (top >= 0x7F800000u || most < FS_Q_TINY) {
        memset(q, 0, (size_t)n);
        *sum = 0;
        return top >= 0x7F800000u ? NAN : 0.0f;
    }
    const __m512 inverse = _mm512_set1_ps(127.0f / most);
#pragma GCC unroll 16
    for (int i = 0; i < n / 16; i++) {
        const __m512i a = _mm512_cvtps_epi32(_mm512_mul_ps(v[i], inverse));
        _mm_storeu_si128((__m128i *)(void *)(q + 16 * i), _mm512_cvtepi32_epi8(a));
        total = _mm512_add_epi32(total, a);
    }
    *sum = _mm512_reduce_add_epi32(total);
    return most / 127.0f;
}

#endif
