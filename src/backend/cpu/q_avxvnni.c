/* Packed weights times quantized activations for AVX-VNNI: vpdpbusd on 256-bit vectors, for processors that have it without AVX-512. Empty
 * where the build does not target x86. */
#ifdef __AVXVNNI__
#include <immintrin.h>
#include <stdint.h>

#define FS_Q_KERNEL(name) name##_avxvnni

static inline __attribute__((always_inline)) void dot_q4(__m256i u[8][2], const int8_t *q, int32_t offset, __m256i dot[2]) {
    dot[0] = dot[1] = _mm256_set1_epi32(offset);
    for (int z = 0; z < 8; z++) {
        const __m256i x = _mm256_set1_epi32(*(const int32_t *)(const void *)(q + 4 * z));
        for (int h = 0; h < 2; h++) dot[h] = _mm256_dpbusd_avx_epi32(dot[h], u[z][h], x);
    }
}

static inline __attribute__((always_inline)) void dot_q8(__m256i u[8][2], const int8_t *q, int32_t offset, __m256i dot[2]) {
    dot_q4(u, q, offset, dot);
}

#include "backend/cpu/q_body_256.h"
#else
typedef int fs_no_avxvnni;
#endif
