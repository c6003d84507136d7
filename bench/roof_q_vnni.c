/* The roof of integer products: independent vpdpbusd in registers, 64 multiply-adds each. */
#include <immintrin.h>

#include "roof.h"

enum { CHAINS = 16 };

double roof_dot_vnni(int64_t rounds) {
    __m512i sum[CHAINS];
    const __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_set1_epi32(i);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; i++) __asm__ volatile("vpdpbusd %2, %1, %0" : "+v"(sum[i]) : "v"(a), "v"(b));
    }
    return 2.0 * 64 * CHAINS * (double)rounds;
}
