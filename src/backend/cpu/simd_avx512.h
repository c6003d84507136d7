/* One vector of f32 under common names, so that the bodies of the kernels (*_body.h) are written once: AVX-512. */
#ifndef FS_SIMD_H
#define FS_SIMD_H

#include <immintrin.h>

#include "backend/cpu/kernels.h"

#define FS_KERNEL(name) name##_avx512
enum { LANES = 16, TILE_ROWS = FS_AVX512_TILE_ROWS, TILE_COLS = FS_AVX512_TILE_COLS };

/* Without optimisation some intrinsics are macros whose casts of mask constants draw warnings here. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsign-conversion"

typedef __m512 vf;
typedef struct vd { __m512d lo, hi; } vd; /* LANES sums in f64 */

static inline __mmask16 v_mask(int64_t n) { return (__mmask16)((1u << n) - 1u); } /* n < LANES */

static inline vf v_load(const float *p) { return _mm512_loadu_ps(p); }
static inline vf v_load_part(const float *p, int64_t n) { return _mm512_maskz_loadu_ps(v_mask(n), p); } /* the other lanes 0 */
static inline void v_store(float *p, vf a) { _mm512_storeu_ps(p, a); }
static inline void v_store_part(float *p, vf a, int64_t n) { _mm512_mask_storeu_ps(p, v_mask(n), a); }
static inline vf v_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
static inline vf v_load_f16_part(const uint16_t *p, int64_t n) { return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(v_mask(n), p)); }
static inline vf v_from_bf16(__m256i h) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16)); }
static inline vf v_load_bf16(const uint16_t *p) { return v_from_bf16(_mm256_loadu_si256((const __m256i *)(const void *)p)); }
static inline vf v_load_bf16_part(const uint16_t *p, int64_t n) { return v_from_bf16(_mm256_maskz_loadu_epi16(v_mask(n), p)); }

static inline vf v_load_i8(const int8_t *p) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p))); }

static inline vf v_set(float f) { return _mm512_set1_ps(f); }
static inline vf v_add(vf a, vf b) { return _mm512_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm512_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm512_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm512_div_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }   /* a b + c */
static inline vf v_fnma(vf a, vf b, vf c) { return _mm512_fnmadd_ps(a, b, c); } /* c - a b */
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); } /* b if either is NaN */
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); } /* likewise */
static inline vf v_abs(vf a) { return _mm512_abs_ps(a); }
/* lanes where x is negative: a, else b */
static inline vf v_pick_negative(vf x, vf a, vf b) { return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(x)), b, a); }
static inline vf v_nearest(vf a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
static inline vf v_ldexp(vf a, vf n) { return _mm512_scalef_ps(a, n); } /* a 2^n, n whole */

static inline vf v_round_f16(vf a) {
    return _mm512_cvtph_ps(_mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline vf v_round_bf16(vf a) {
    const __m512i u = _mm512_castps_si512(a), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i up = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
    const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000)); /* NaN keeps its sign and upper bits */
    const __m512i kept = _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), up, quiet);
    return _mm512_castsi512_ps(_mm512_and_si512(kept, _mm512_set1_epi32((int)0xFFFF0000u)));
}

static inline void v_store_f16(uint16_t *p, vf a) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void v_store_bf16(uint16_t *p, vf a) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_castps_si512(v_round_bf16(a)), 16)));
}

static inline vd v_wide_zero(void) { return (vd){_mm512_setzero_pd(), _mm512_setzero_pd()}; }
static inline vd v_wide_add(vd s, vf a) {
    s.lo = _mm512_add_pd(s.lo, _mm512_cvtps_pd(_mm512_castps512_ps256(a)));
    s.hi = _mm512_add_pd(s.hi, _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1)));
    return s;
}
static inline vd v_wide_add_square(vd s, vf a) {
    const __m512d lo = _mm512_cvtps_pd(_mm512_castps512_ps256(a)), hi = _mm512_cvtps_pd(_mm512_extractf32x8_ps(a, 1));
    s.lo = _mm512_fmadd_pd(lo, lo, s.lo);
    s.hi = _mm512_fmadd_pd(hi, hi, s.hi);
    return s;
}
static inline double v_wide_sum(vd s) { return _mm512_reduce_add_pd(_mm512_add_pd(s.lo, s.hi)); }
static inline float v_sum(vf a) { return _mm512_reduce_add_ps(a); }
static inline float v_largest(vf a) { return _mm512_reduce_max_ps(a); }

/* Turns LANES rows into LANES columns. */
static inline __attribute__((always_inline)) void v_transpose(vf r[LANES]) {
    vf t[LANES];
    for (int i = 0; i < LANES; i += 4) { /* 4 x 4 blocks within quarters */
        const vf a = _mm512_unpacklo_ps(r[i], r[i + 1]), b = _mm512_unpackhi_ps(r[i], r[i + 1]);
        const vf c = _mm512_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm512_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm512_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm512_shuffle_ps(a, c, 0xEE);
        t[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm512_shuffle_ps(b, d, 0xEE);
    }
    for (int j = 0; j < 4; j++) { /* the quarters themselves */
        const vf a = _mm512_shuffle_f32x4(t[j], t[4 + j], 0x88), b = _mm512_shuffle_f32x4(t[j], t[4 + j], 0xDD);
        const vf c = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0x88), d = _mm512_shuffle_f32x4(t[8 + j], t[12 + j], 0xDD);
        r[j] = _mm512_shuffle_f32x4(a, c, 0x88);
        r[8 + j] = _mm512_shuffle_f32x4(a, c, 0xDD);
        r[4 + j] = _mm512_shuffle_f32x4(b, d, 0x88);
        r[12 + j] = _mm512_shuffle_f32x4(b, d, 0xDD);
    }
}

/* Values m * t + j of a row to lane t of vector j, and back, m = 2 or 4. */
#define FS_SIMD_SPLIT 1
static inline void v_split2(const float *in, vf out[2]) {
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const vf a = v_load(in), b = v_load(in + LANES);
    out[0] = _mm512_permutex2var_ps(a, even, b);
    out[1] = _mm512_permutex2var_ps(a, _mm512_add_epi32(even, _mm512_set1_epi32(1)), b);
}
static inline void v_join2(const vf in[2], float *out) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    v_store(out, _mm512_permutex2var_ps(in[0], low, in[1]));
    v_store(out + LANES, _mm512_permutex2var_ps(in[0], _mm512_add_epi32(low, _mm512_set1_epi32(8)), in[1]));
}
static inline void v_split4(const float *in, vf out[4]) {
    const __m512i first = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29), third = _mm512_add_epi32(first, _mm512_set1_epi32(2));
    const vf a = v_load(in), b = v_load(in + LANES), c = v_load(in + 2 * LANES), d = v_load(in + 3 * LANES);
    const vf ab = _mm512_permutex2var_ps(a, first, b), cd = _mm512_permutex2var_ps(c, first, d);
    const vf ab2 = _mm512_permutex2var_ps(a, third, b), cd2 = _mm512_permutex2var_ps(c, third, d);
    out[0] = _mm512_shuffle_f32x4(ab, cd, 0x44);
    out[1] = _mm512_shuffle_f32x4(ab, cd, 0xEE);
    out[2] = _mm512_shuffle_f32x4(ab2, cd2, 0x44);
    out[3] = _mm512_shuffle_f32x4(ab2, cd2, 0xEE);
}
static inline void v_join4(const vf in[4], float *out) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
    const __m512i pairs = _mm512_setr_epi32(0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23), upper = _mm512_add_epi32(pairs, _mm512_set1_epi32(8));
    const vf a = _mm512_permutex2var_ps(in[0], low, in[1]), b = _mm512_permutex2var_ps(in[2], low, in[3]);
    const vf c = _mm512_permutex2var_ps(in[0], high, in[1]), d = _mm512_permutex2var_ps(in[2], high, in[3]);
    v_store(out, _mm512_permutex2var_ps(a, pairs, b));
    v_store(out + LANES, _mm512_permutex2var_ps(a, upper, b));
    v_store(out + 2 * LANES, _mm512_permutex2var_ps(c, pairs, d));
    v_store(out + 3 * LANES, _mm512_permutex2var_ps(c, upper, d));
}

#pragma GCC diagnostic pop

#endif
