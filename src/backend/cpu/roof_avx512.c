/* Roofs by avx512 instructions. */
#include "backend/roof.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { CHAINS = 24, LANES = 16 }; /* enough independent chains to hide the latency on any current core */

double fs_roof_fma_avx512(int64_t rounds) {
    __m512 sum[CHAINS];
    const __m512 a = _mm512_set1_ps(0.999f), b = _mm512_set1_ps(1e-3f);
#pragma GCC unroll 32
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_set1_ps((float)i);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 32
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm512_fmadd_ps(sum[i], a, b);
    }
    __m512 all = sum[0];
#pragma GCC unroll 32
    for (int i = 1; i < CHAINS; i++) all = _mm512_add_ps(all, sum[i]);
    float out[LANES];
    _mm512_storeu_ps(out, all);
    __asm__ volatile("" ::"r"(out) : "memory"); /* the sums are wanted */
    return 2.0 * LANES * CHAINS * (double)rounds;
}

double fs_roof_read_avx512(const void *p, size_t bytes) {
    __m512i s0 = _mm512_setzero_si512(), s1 = s0, s2 = s0, s3 = s0;
    const __m512i *v = p;
    const size_t n = bytes / sizeof *v;
    for (size_t i = 0; i + 4 <= n; i += 4) {
        _mm_prefetch((const char *)(v + i) + 4096, _MM_HINT_T0);
        _mm_prefetch((const char *)(v + i + 2) + 4096, _MM_HINT_T0);
        s0 = _mm512_add_epi64(s0, _mm512_loadu_si512(v + i));
        s1 = _mm512_add_epi64(s1, _mm512_loadu_si512(v + i + 1));
        s2 = _mm512_add_epi64(s2, _mm512_loadu_si512(v + i + 2));
        s3 = _mm512_add_epi64(s3, _mm512_loadu_si512(v + i + 3));
    }
    uint64_t out[sizeof(s0) / 8];
    _mm512_storeu_si512((void *)out, _mm512_add_epi64(_mm512_add_epi64(s0, s1), _mm512_add_epi64(s2, s3)));
    return (double)out[0];
}
#endif
