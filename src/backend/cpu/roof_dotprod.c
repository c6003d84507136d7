/* The roof of sdot. */
#include "backend/roof.h"

#if defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>

double fs_roof_dot_dotprod(int64_t rounds) {
    enum { SUMS = 24 }; /* enough independent chains to hide the latency on any current core */
    int32x4_t sum[SUMS];
    const int8x16_t a = vdupq_n_s8(3), b = vdupq_n_s8(5);
#pragma GCC unroll 32
    for (int i = 0; i < SUMS; i++) sum[i] = vdupq_n_s32(i);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 32
        for (int i = 0; i < SUMS; i++) sum[i] = vdotq_s32(sum[i], a, b);
    }
#pragma GCC unroll 32
    for (int i = 1; i < SUMS; i++) sum[0] = vaddq_s32(sum[0], sum[i]);
    int32_t out[4];
    vst1q_s32(out, sum[0]);
    __asm__ volatile("" ::"r"(out) : "memory"); /* the sums are wanted */
    return 2.0 * 16 * SUMS * (double)rounds;
}
#else
typedef int fs_no_roof_dotprod;
#endif
