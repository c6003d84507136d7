/* Packed weights times quantized activations for AVX2, with vpmaddubsw, whose sums of two products saturate at 16 bits. Codes of 4 bits
 * stay far below that: eight such sums fit. Codes of 8 bits would not, so their sign moves to the activation: |w| <= 128 times 127 twice
 * is 32512. Empty where the build does not target x86. */
#ifdef __AVX2__
#include <immintrin.h>
#include <stdint.h>

#define FS_Q_KERNEL(name) name##_avx2

static inline __m256i quad(const int8_t *q) { return _mm256_set1_epi32(*(const int32_t *)(const void *)q); }

/* The products' offset is already out of the codes here: nothing to correct. */
static inline __attribute__((always_inline)) void dot_q8(__m256i u[8][2], const int8_t *q, int32_t offset, __m256i dot[2]) {
    (void)offset;
    const __m256i ones = _mm256_set1_epi16(1), flip = _mm256_set1_epi8((char)0x80);
    dot[0] = dot[1] = _mm256_setzero_si256();
    for (int z = 0; z < 8; z++) {
        const __m256i x = quad(q + 4 * z);
        for (int h = 0; h < 2; h++) {
            const __m256i w = _mm256_xor_si256(u[z][h], flip); /* signed again */
            const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
            dot[h] = _mm256_add_epi32(dot[h], _mm256_madd_epi16(pairs, ones));
        }
    }
}

static inline __attribute__((always_inline)) void dot_q4(__m256i u[8][2], const int8_t *q, int32_t offset, __m256i dot[2]) {
    __m256i pairs[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()}; /* at most 8 x 2 x 15 x 127 = 30480 */
    for (int z = 0; z < 8; z++) {
        const __m256i x = quad(q + 4 * z);
        for (int h = 0; h < 2; h++) pairs[h] = _mm256_add_epi16(pairs[h], _mm256_maddubs_epi16(u[z][h], x));
    }
    for (int h = 0; h < 2; h++)
        dot[h] = _mm256_add_epi32(_mm256_madd_epi16(pairs[h], _mm256_set1_epi16(1)), _mm256_set1_epi32(offset));
}

#include "backend/cpu/q_body_256.h"
#else
typedef int fs_no_q_avx2;
#endif
