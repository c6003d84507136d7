/* One vector of f32 under common names, so that the bodies of the kernels (*_body.h) are written once: Advanced SIMD of 64-bit Arm. A vector
 * here is two registers of the machine: a load of eight 16-bit values is then one register, and what waits for a sum has two to take turns. */
#ifndef FS_SIMD_H
#define FS_SIMD_H

#include <arm_neon.h>
#include <string.h>

#include "backend/cpu/kernels.h"

#define FS_KERNEL(name) name##_neon
enum { LANES = 8, TILE_ROWS = FS_NEON_TILE_ROWS, TILE_COLS = FS_NEON_TILE_COLS };

typedef struct vf { float32x4_t lo, hi; } vf;
typedef struct vd { float64x2_t part[4]; } vd; /* LANES sums in f64 */

static inline uint16x8_t v_load_16_part(const uint16_t *p, int64_t n) {
    uint16_t h[LANES] = {0};
    for (int64_t i = 0; i < n; i++) h[i] = p[i];
    return vld1q_u16(h);
}

static inline vf v_load(const float *p) { return (vf){vld1q_f32(p), vld1q_f32(p + 4)}; }
static inline vf v_load_part(const float *p, int64_t n) { /* the other lanes 0 */
    float f[LANES] = {0};
    for (int64_t i = 0; i < n; i++) f[i] = p[i];
    return v_load(f);
}
static inline void v_store(float *p, vf a) {
    vst1q_f32(p, a.lo);
    vst1q_f32(p + 4, a.hi);
}
static inline void v_store_part(float *p, vf a, int64_t n) {
    float f[LANES];
    v_store(f, a);
    for (int64_t i = 0; i < n; i++) p[i] = f[i];
}
static inline vf v_from_f16(uint16x8_t h) {
    const float16x8_t f = vreinterpretq_f16_u16(h);
    return (vf){vcvt_f32_f16(vget_low_f16(f)), vcvt_high_f32_f16(f)};
}
static inline vf v_from_bf16(uint16x8_t h) {
    return (vf){vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(h), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(h, 16))};
}
static inline vf v_load_f16(const uint16_t *p) { return v_from_f16(vld1q_u16(p)); }
static inline vf v_load_f16_part(const uint16_t *p, int64_t n) { return v_from_f16(v_load_16_part(p, n)); }
static inline vf v_load_bf16(const uint16_t *p) { return v_from_bf16(vld1q_u16(p)); }
static inline vf v_load_bf16_part(const uint16_t *p, int64_t n) { return v_from_bf16(v_load_16_part(p, n)); }

static inline vf v_load_i8(const int8_t *p) {
    const int16x8_t h = vmovl_s8(vld1_s8(p));
    return (vf){vcvtq_f32_s32(vmovl_s16(vget_low_s16(h))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(h)))};
}

static inline vf v_set(float f) { return (vf){vdupq_n_f32(f), vdupq_n_f32(f)}; }
static inline vf v_add(vf a, vf b) { return (vf){vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)}; }
static inline vf v_sub(vf a, vf b) { return (vf){vsubq_f32(a.lo, b.lo), vsubq_f32(a.hi, b.hi)}; }
static inline vf v_mul(vf a, vf b) { return (vf){vmulq_f32(a.lo, b.lo), vmulq_f32(a.hi, b.hi)}; }
static inline vf v_div(vf a, vf b) { return (vf){vdivq_f32(a.lo, b.lo), vdivq_f32(a.hi, b.hi)}; }
static inline vf v_fma(vf a, vf b, vf c) { return (vf){vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)}; }  /* a b + c */
static inline vf v_fnma(vf a, vf b, vf c) { return (vf){vfmsq_f32(c.lo, a.lo, b.lo), vfmsq_f32(c.hi, a.hi, b.hi)}; } /* c - a b */
static inline float32x4_t larger(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
static inline float32x4_t smaller(float32x4_t a, float32x4_t b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
static inline vf v_max(vf a, vf b) { return (vf){larger(a.lo, b.lo), larger(a.hi, b.hi)}; } /* b if either is NaN, unlike vmaxq_f32 */
static inline vf v_min(vf a, vf b) { return (vf){smaller(a.lo, b.lo), smaller(a.hi, b.hi)}; } /* likewise */
static inline vf v_abs(vf a) { return (vf){vabsq_f32(a.lo), vabsq_f32(a.hi)}; }
static inline uint32x4_t negative(float32x4_t a) { return vcltzq_s32(vreinterpretq_s32_f32(a)); }
/* lanes where x is negative: a, else b */
static inline vf v_pick_negative(vf x, vf a, vf b) {
    return (vf){vbslq_f32(negative(x.lo), a.lo, b.lo), vbslq_f32(negative(x.hi), a.hi, b.hi)};
}
static inline vf v_nearest(vf a) { return (vf){vrndnq_f32(a.lo), vrndnq_f32(a.hi)}; }
/* a 2^n, n whole and in -252 .. 254: two factors, because one alone leaves the exponent's range where the product is subnormal */
static inline float32x4_t ldexp4(float32x4_t a, float32x4_t n) {
    const int32x4_t whole = vcvtq_s32_f32(n), first = vshrq_n_s32(whole, 1), bias = vdupq_n_s32(127);
    const int32x4_t p = vshlq_n_s32(vaddq_s32(first, bias), 23), q = vshlq_n_s32(vaddq_s32(vsubq_s32(whole, first), bias), 23);
    return vmulq_f32(vmulq_f32(a, vreinterpretq_f32_s32(p)), vreinterpretq_f32_s32(q));
}
static inline vf v_ldexp(vf a, vf n) { return (vf){ldexp4(a.lo, n.lo), ldexp4(a.hi, n.hi)}; }

static inline uint16x8_t v_to_f16(vf a) { return vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(a.lo), a.hi)); }
static inline vf v_round_f16(vf a) { return v_from_f16(v_to_f16(a)); }
static inline uint32x4_t round_bf16(float32x4_t a) { /* in the upper half of each lane; the lower is left over */
    const uint32x4_t u = vreinterpretq_u32_f32(a), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    const uint32x4_t up = vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
    const uint32x4_t quiet = vorrq_u32(u, vdupq_n_u32(0x400000)); /* NaN keeps its sign and upper bits */
    return vbslq_u32(vceqq_f32(a, a), up, quiet);
}
static inline uint16x8_t v_to_bf16(vf a) { return vshrn_high_n_u32(vshrn_n_u32(round_bf16(a.lo), 16), round_bf16(a.hi), 16); }
static inline vf v_round_bf16(vf a) {
    const uint32x4_t upper = vdupq_n_u32(0xFFFF0000u);
    return (vf){vreinterpretq_f32_u32(vandq_u32(round_bf16(a.lo), upper)), vreinterpretq_f32_u32(vandq_u32(round_bf16(a.hi), upper))};
}
static inline void v_store_f16(uint16_t *p, vf a) { vst1q_u16(p, v_to_f16(a)); }
static inline void v_store_bf16(uint16_t *p, vf a) { vst1q_u16(p, v_to_bf16(a)); }

static inline vd v_wide_zero(void) {
    const float64x2_t zero = vdupq_n_f64(0);
    return (vd){{zero, zero, zero, zero}};
}
static inline vd v_wide_add(vd s, vf a) {
    s.part[0] = vaddq_f64(s.part[0], vcvt_f64_f32(vget_low_f32(a.lo)));
    s.part[1] = vaddq_f64(s.part[1], vcvt_high_f64_f32(a.lo));
    s.part[2] = vaddq_f64(s.part[2], vcvt_f64_f32(vget_low_f32(a.hi)));
    s.part[3] = vaddq_f64(s.part[3], vcvt_high_f64_f32(a.hi));
    return s;
}
static inline vd v_wide_add_square(vd s, vf a) {
    const float64x2_t d[4] = {vcvt_f64_f32(vget_low_f32(a.lo)), vcvt_high_f64_f32(a.lo), vcvt_f64_f32(vget_low_f32(a.hi)),
                              vcvt_high_f64_f32(a.hi)};
    for (int i = 0; i < 4; i++) s.part[i] = vfmaq_f64(s.part[i], d[i], d[i]);
    return s;
}
static inline double v_wide_sum(vd s) {
    return vaddvq_f64(vaddq_f64(vaddq_f64(s.part[0], s.part[2]), vaddq_f64(s.part[1], s.part[3])));
}
static inline float v_sum(vf a) { return vaddvq_f32(vaddq_f32(a.lo, a.hi)); }
static inline float v_largest(vf a) {
    float f[LANES], m;
    v_store(f, a);
    m = f[0];
    for (int i = 1; i < LANES; i++) m = f[i] > m ? f[i] : m;
    return m;
}

/* A block of 4 x 4, turned. */
static inline __attribute__((always_inline)) void transpose4(float32x4_t r[4]) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1])), b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
    const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3])), d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
    r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
}
/* Turns LANES rows into LANES columns. */
static inline __attribute__((always_inline)) void v_transpose(vf r[LANES]) {
    float32x4_t block[2][2][4]; /* [upper or lower rows][left or right columns] */
    for (int i = 0; i < 4; i++) {
        block[0][0][i] = r[i].lo, block[0][1][i] = r[i].hi;
        block[1][0][i] = r[4 + i].lo, block[1][1][i] = r[4 + i].hi;
    }
    for (int i = 0; i < 4; i++) transpose4(block[i / 2][i % 2]);
    for (int i = 0; i < 4; i++) {
        r[i] = (vf){block[0][0][i], block[1][0][i]};
        r[4 + i] = (vf){block[0][1][i], block[1][1][i]};
    }
}

#endif
