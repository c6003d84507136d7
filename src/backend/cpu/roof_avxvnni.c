/* The roof of integer products by AVX-VNNI: independent vpdpbusd in registers. */
#include "backend/roof.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { CHAINS = 12 };

double fs_roof_dot_avxvnni(int64_t rounds) {
    __m256i sum[CHAINS];
    const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm256_set1_epi32(i);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) __asm__ volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum[i]) : "x"(a), "x"(b));
    }
    return 2.0 * 32 * CHAINS * (double)rounds;
}
#endif
