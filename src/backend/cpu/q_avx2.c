/* Packed weights times quantized activations for AVX2, with vpmaddubsw, whose sums of two products saturate at 16 bits. Codes of 4 bits
 * stay far below that: eight such sums fit. Codes of 8 bits would not, so their sign moves to the activation: |w| <= 128 times 127 twice
 * is 32512. Empty where the build does not target x86. */
#ifdef __AVX2__
#include <immintrin.h>
#include <stdint.h>

#define FS_Q_KERNEL(name) name##_avx2

enum { FS_Q_TILE = 4 };

static inline __m256i quad(const int8_t *q) { return _mm256_set1_epi32(*(const int32_t *)(const void *)q); }
static inline __m256i codes_at(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }

/* The products' offset is already out of the codes here: nothing to correct. */
static inline __attribute__((always_inline)) void dots_q8(const int n, const uint8_t *codes, const int8_t *q, const int32_t *offset,
                                                          __m256i dot[FS_Q_TILE][2]) {
    (void)offset;
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8((char)0x80);
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) dot[t][0] = dot[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int z = 0; z < 8; z++) {
        const __m256i w0 = _mm256_xor_si256(codes_at(codes + 64 * z), flip), w1 = _mm256_xor_si256(codes_at(codes + 64 * z + 32), flip);
        const __m256i size0 = _mm256_abs_epi8(w0), size1 = _mm256_abs_epi8(w1); /* signed again, and without the sign */
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const __m256i x = quad(q + 32 * t + 4 * z);
            dot[t][0] = _mm256_add_epi32(dot[t][0], _mm256_madd_epi16(_mm256_maddubs_epi16(size0, _mm256_sign_epi8(x, w0)), ones));
            dot[t][1] = _mm256_add_epi32(dot[t][1], _mm256_madd_epi16(_mm256_maddubs_epi16(size1, _mm256_sign_epi8(x, w1)), ones));
        }
    }
}

static inline __attribute__((always_inline)) void dots_q4(const int n, const uint8_t *codes, const int8_t *q, const int32_t *offset,
                                                          __m256i dot[FS_Q_TILE][2]) {
    __m256i pairs[FS_Q_TILE][2]; /* at most 8 x 2 x 15 x 127 = 30480 */
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) pairs[t][0] = pairs[t][1] = _mm256_setzero_si256();
#pragma GCC unroll 8
    for (int z = 0; z < 8; z++) {
        const __m256i u0 = codes_at(codes + 64 * z), u1 = codes_at(codes + 64 * z + 32);
#pragma GCC unroll 8
        for (int t = 0; t < n; t++) {
            const __m256i x = quad(q + 32 * t + 4 * z);
            pairs[t][0] = _mm256_add_epi16(pairs[t][0], _mm256_maddubs_epi16(u0, x));
            pairs[t][1] = _mm256_add_epi16(pairs[t][1], _mm256_maddubs_epi16(u1, x));
        }
    }
#pragma GCC unroll 8
    for (int t = 0; t < n; t++)
        for (int h = 0; h < 2; h++) {
            dot[t][h] = _mm256_madd_epi16(pairs[t][h], _mm256_set1_epi16(1));
            if (offset) dot[t][h] = _mm256_add_epi32(dot[t][h], _mm256_set1_epi32(offset[t]));
        }
}

#include "backend/cpu/q_body_256.h"
#else
typedef int fs_no_q_avx2;
#endif
