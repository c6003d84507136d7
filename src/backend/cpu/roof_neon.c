/* Roofs by Advanced SIMD of 64-bit Arm. */
#include "backend/roof.h"

#if defined(__aarch64__)
#include <arm_neon.h>

enum { CHAINS = 24, LANES = 4 }; /* enough independent chains to hide the latency on any current core */

double fs_roof_fma_neon(int64_t rounds) {
    float32x4_t sum[CHAINS];
    const float32x4_t a = vdupq_n_f32(0.999f), b = vdupq_n_f32(1e-3f);
#pragma GCC unroll 32
    for (int i = 0; i < CHAINS; i++) sum[i] = vdupq_n_f32((float)i);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 32
        for (int i = 0; i < CHAINS; i++) sum[i] = vfmaq_f32(sum[i], a, b);
    }
    float32x4_t all = sum[0];
#pragma GCC unroll 32
    for (int i = 1; i < CHAINS; i++) all = vaddq_f32(all, sum[i]);
    float out[LANES];
    vst1q_f32(out, all);
    __asm__ volatile("" ::"r"(out) : "memory"); /* the sums are wanted */
    return 2.0 * LANES * CHAINS * (double)rounds;
}

/* 8-bit products without extensions: two to 16 bits, pairs of those added to 32. */
double fs_roof_dot_neon(int64_t rounds) {
    enum { SUMS = 12 };
    int32x4_t sum[SUMS];
    int8x16_t a = vdupq_n_s8(3);
    const int8x16_t b = vdupq_n_s8(5);
#pragma GCC unroll 16
    for (int i = 0; i < SUMS; i++) sum[i] = vdupq_n_s32(i);
    for (int64_t r = 0; r < rounds; r++) {
#pragma GCC unroll 16
        for (int i = 0; i < SUMS; i++) {
            __asm__ volatile("" : "+w"(a)); /* or the products would be made once for all */
            sum[i] = vpadalq_s16(sum[i], vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b));
        }
    }
    for (int i = 1; i < SUMS; i++) sum[0] = vaddq_s32(sum[0], sum[i]);
    int32_t out[4];
    vst1q_s32(out, sum[0]);
    __asm__ volatile("" ::"r"(out) : "memory");
    return 2.0 * 16 * SUMS * (double)rounds;
}

double fs_roof_read_neon(const void *p, size_t bytes) {
    uint64x2_t s[4] = {vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0), vdupq_n_u64(0)};
    const uint8_t *at = p;
    for (size_t i = 0; i + 64 <= bytes; i += 64, at += 64) {
        __builtin_prefetch(at + 4096);
#pragma GCC unroll 4
        for (int k = 0; k < 4; k++) s[k] = vaddq_u64(s[k], vreinterpretq_u64_u8(vld1q_u8(at + 16 * k)));
    }
    const uint64x2_t all = vaddq_u64(vaddq_u64(s[0], s[1]), vaddq_u64(s[2], s[3]));
    return (double)(vgetq_lane_u64(all, 0) + vgetq_lane_u64(all, 1));
}
#else
typedef int fs_no_roof_neon;
#endif
