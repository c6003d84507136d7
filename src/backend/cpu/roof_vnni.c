/* The roofs for packed weights: independent vpdpbusd in registers, 64 multiply-adds each; and reading memory with every line fetched to the
 * level-2 cache 16 KiB ahead, a little faster than what processors make of a plain read by themselves. */
#if defined(__x86_64__)
#include <immintrin.h>

#include "backend/roof.h"

enum { CHAINS = 16 };

double fs_roof_dot_vnni(int64_t rounds) {
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

double fs_roof_stream_vnni(const void *p, size_t bytes) {
    const char *at = p;
    __m512i sum[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) sum[i] = _mm512_setzero_si512();
    for (size_t k = 0; k + 512 <= bytes; k += 512)
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++) {
            _mm_prefetch(at + k + 64 * i + 16384, _MM_HINT_T1);
            sum[i] = _mm512_add_epi64(sum[i], _mm512_loadu_si512((const void *)(at + k + 64 * i)));
        }
#pragma GCC unroll 8
    for (int i = 1; i < 8; i++) sum[0] = _mm512_add_epi64(sum[0], sum[i]);
    return (double)_mm512_reduce_add_epi64(sum[0]);
}
#endif
