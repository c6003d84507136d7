/* Packed weights times quantized activations for AVX-VNNI: vpdpbusd on 256-bit vectors, for processors that have it without AVX-512. Empty
 * where the build does not target x86. */
#ifdef __AVXVNNI__
#include <immintrin.h>
#include <stdint.h>

#define FS_Q_KERNEL(name) name##_avxvnni

enum { FS_Q_TILE = 4 };

/* As assembly because GCC 12 copies the sum before the intrinsic. */
static inline __attribute__((always_inline)) __m256i dot4(__m256i sum, __m256i u, __m256i q) {
    __asm__("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(u), "x"(q));
    return sum;
}

static inline __attribute__((always_inline)) void dots_q4(const int n, const uint8_t *codes, const int8_t *q, const int32_t *offset,
                                                          __m256i dot[FS_Q_TILE][2]) {
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) dot[t][0] = dot[t][1] = offset ? _mm256_set1_epi32(offset[t]) : _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int z = 0; z < 8; z++) {
        const __m256i u0 = _mm256_loadu_si256((const __m256i *)(const void *)(codes + 64 * z));
        const __m256i u1 = _mm256_loadu_si256((const __m256i *)(const void *)(codes + 64 * z + 32));
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const __m256i x = _mm256_set1_epi32(*(const int32_t *)(const void *)(q + 32 * t + 4 * z));
            dot[t][0] = dot4(dot[t][0], u0, x);
            dot[t][1] = dot4(dot[t][1], u1, x);
        }
    }
}

static inline __attribute__((always_inline)) void dots_q8(const int n, const uint8_t *codes, const int8_t *q, const int32_t *offset,
                                                          __m256i dot[FS_Q_TILE][2]) {
    dots_q4(n, codes, q, offset, dot);
}

#include "backend/cpu/q_body_256.h"
#else
typedef int fs_no_avxvnni;
#endif
