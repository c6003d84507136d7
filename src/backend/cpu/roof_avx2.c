/* Roofs by avx2 instructions. */
#include "backend/roof.h"

#if defined(__x86_64__)
#include <immintrin.h>

enum { CHAINS = 12, LANES = 8 }; /* enough independent chains to hide the latency on any current core */

double fs_roof_fma_avx2(int64_t rounds) {
    __m256 sum[CHAINS];
    const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
#pragma GCC unroll 32
    for (int i = 0; i < CHAINS; i++) sum[i] = _mm256_set1_ps((float)i);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 32
        for (int i = 0; i < CHAINS; i++) sum[i] = _mm256_fmadd_ps(sum[i], a, b);
    }
    __m256 all = sum[0];
#pragma GCC unroll 32
    for (int i = 1; i < CHAINS; i++) all = _mm256_add_ps(all, sum[i]);
    float out[LANES];
    _mm256_storeu_ps(out, all);
    __asm__ volatile("" ::"r"(out) : "memory"); /* the sums are wanted */
    return 2.0 * LANES * CHAINS * (double)rounds;
}

/* 8-bit products as processors without VNNI make them: pairs to 16 bits, pairs of those to 32, added up. */
double fs_roof_dot_avx2(int64_t rounds) {
    enum { SUMS = 8 };
    __m256i sum[SUMS];
    const __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++) sum[i] = _mm256_set1_epi32(i);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < SUMS; i++) {
            __m256i t;
            __asm__ volatile("vpmaddubsw %2, %1, %0" : "=x"(t) : "x"(a), "x"(b)); /* or it would be done once for all */
            sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(t, ones));
        }
    }
    for (int i = 1; i < SUMS; i++) sum[0] = _mm256_add_epi32(sum[0], sum[i]);
    int32_t out[8];
    _mm256_storeu_si256((void *)out, sum[0]);
    __asm__ volatile("" ::"r"(out) : "memory");
    return 2.0 * 32 * SUMS * (double)rounds;
}

double fs_roof_read_avx2(const void *p, size_t bytes) {
    __m256i s0 = _mm256_setzero_si256(), s1 = s0, s2 = s0, s3 = s0;
    const __m256i *v = p;
    const size_t n = bytes / sizeof *v;
    for (size_t i = 0; i + 4 <= n; i += 4) {
        _mm_prefetch((const char *)(v + i) + 4096, _MM_HINT_T0);
        _mm_prefetch((const char *)(v + i + 2) + 4096, _MM_HINT_T0);
        s0 = _mm256_add_epi64(s0, _mm256_loadu_si256(v + i));
        s1 = _mm256_add_epi64(s1, _mm256_loadu_si256(v + i + 1));
        s2 = _mm256_add_epi64(s2, _mm256_loadu_si256(v + i + 2));
        s3 = _mm256_add_epi64(s3, _mm256_loadu_si256(v + i + 3));
    }
    uint64_t out[sizeof(s0) / 8];
    _mm256_storeu_si256((void *)out, _mm256_add_epi64(_mm256_add_epi64(s0, s1), _mm256_add_epi64(s2, s3)));
    return (double)out[0];
}
#endif
