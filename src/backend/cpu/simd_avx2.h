/* One vector of f32 under common names, so that the bodies of the kernels (*_body.h) are written once: AVX2 with FMA and F16C. */
#ifndef FS_SIMD_H
#define FS_SIMD_H

#include <immintrin.h>
#include <string.h>

#include "backend/cpu/kernels.h"

#define FS_KERNEL(name) name##_avx2
enum { LANES = 8, TILE_ROWS = FS_AVX2_TILE_ROWS, TILE_COLS = FS_AVX2_TILE_COLS };

typedef __m256 vf;
typedef struct vd { __m256d lo, hi; } vd; /* LANES sums in f64 */

static inline __m256i v_mask(int64_t n) { /* n < LANES */
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
static inline __m128i v_load_16_part(const uint16_t *p, int64_t n) {
    uint16_t h[LANES] = {0};
    memcpy(h, p, (size_t)n * sizeof *h);
    return _mm_loadu_si128((const __m128i *)(const void *)h);
}

static inline vf v_load(const float *p) { return _mm256_loadu_ps(p); }
static inline vf v_load_part(const float *p, int64_t n) { return _mm256_maskload_ps(p, v_mask(n)); } /* the other lanes 0 */
static inline void v_store(float *p, vf a) { _mm256_storeu_ps(p, a); }
static inline void v_store_part(float *p, vf a, int64_t n) { _mm256_maskstore_ps(p, v_mask(n), a); }
static inline vf v_load_f16(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)); }
static inline vf v_load_f16_part(const uint16_t *p, int64_t n) { return _mm256_cvtph_ps(v_load_16_part(p, n)); }
static inline vf v_from_bf16(__m128i h) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16)); }
static inline vf v_load_bf16(const uint16_t *p) { return v_from_bf16(_mm_loadu_si128((const __m128i *)(const void *)p)); }
static inline vf v_load_bf16_part(const uint16_t *p, int64_t n) { return v_from_bf16(v_load_16_part(p, n)); }

static inline vf v_load_i8(const int8_t *p) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p))); }

static inline vf v_set(float f) { return _mm256_set1_ps(f); }
static inline vf v_add(vf a, vf b) { return _mm256_add_ps(a, b); }
static inline vf v_sub(vf a, vf b) { return _mm256_sub_ps(a, b); }
static inline vf v_mul(vf a, vf b) { return _mm256_mul_ps(a, b); }
static inline vf v_div(vf a, vf b) { return _mm256_div_ps(a, b); }
static inline vf v_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }   /* a b + c */
static inline vf v_fnma(vf a, vf b, vf c) { return _mm256_fnmadd_ps(a, b, c); } /* c - a b */
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); } /* b if either is NaN */
static inline vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); } /* likewise */
static inline vf v_abs(vf a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
/* lanes where x is negative: a, else b */
static inline vf v_pick_negative(vf x, vf a, vf b) { return _mm256_blendv_ps(b, a, x); }
static inline vf v_nearest(vf a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
/* a 2^n, n whole and in -252 .. 254: two factors, because one alone leaves the exponent's range where the product is subnormal */
static inline vf v_ldexp(vf a, vf n) {
    const __m256i whole = _mm256_cvtps_epi32(n), first = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
    const __m256i p = _mm256_slli_epi32(_mm256_add_epi32(first, bias), 23);
    const __m256i q = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, first), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(a, _mm256_castsi256_ps(p)), _mm256_castsi256_ps(q));
}

static inline vf v_round_f16(vf a) {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline vf v_round_bf16(vf a) {
    const __m256i u = _mm256_castps_si256(a), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000)); /* NaN keeps its sign and upper bits */
    const __m256 kept = _mm256_blendv_ps(_mm256_castsi256_ps(up), _mm256_castsi256_ps(quiet), _mm256_cmp_ps(a, a, _CMP_UNORD_Q));
    return _mm256_and_ps(kept, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xFFFF0000u)));
}

static inline void v_store_f16(uint16_t *p, vf a) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void v_store_bf16(uint16_t *p, vf a) {
    const __m256i u = _mm256_srli_epi32(_mm256_castps_si256(v_round_bf16(a)), 16);
    _mm_storeu_si128((__m128i *)(void *)p, _mm_packus_epi32(_mm256_castsi256_si128(u), _mm256_extracti128_si256(u, 1)));
}

static inline vd v_wide_zero(void) { return (vd){_mm256_setzero_pd(), _mm256_setzero_pd()}; }
static inline vd v_wide_add(vd s, vf a) {
    s.lo = _mm256_add_pd(s.lo, _mm256_cvtps_pd(_mm256_castps256_ps128(a)));
    s.hi = _mm256_add_pd(s.hi, _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1)));
    return s;
}
static inline vd v_wide_add_square(vd s, vf a) {
    const __m256d lo = _mm256_cvtps_pd(_mm256_castps256_ps128(a)), hi = _mm256_cvtps_pd(_mm256_extractf128_ps(a, 1));
    s.lo = _mm256_fmadd_pd(lo, lo, s.lo);
    s.hi = _mm256_fmadd_pd(hi, hi, s.hi);
    return s;
}
static inline double v_wide_sum(vd s) {
    double d[4];
    _mm256_storeu_pd(d, _mm256_add_pd(s.lo, s.hi));
    return (d[0] + d[2]) + (d[1] + d[3]);
}
static inline float v_sum(vf a) {
    float f[4];
    _mm_storeu_ps(f, _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1)));
    return (f[0] + f[2]) + (f[1] + f[3]);
}
static inline float v_largest(vf a) {
    float f[LANES], m;
    _mm256_storeu_ps(f, a);
    m = f[0];
    for (int i = 1; i < LANES; i++) m = f[i] > m ? f[i] : m;
    return m;
}

/* Turns LANES rows into LANES columns. */
static inline __attribute__((always_inline)) void v_transpose(vf r[LANES]) {
    vf t[LANES];
    for (int i = 0; i < LANES; i += 4) { /* 4 x 4 blocks within halves */
        const vf a = _mm256_unpacklo_ps(r[i], r[i + 1]), b = _mm256_unpackhi_ps(r[i], r[i + 1]);
        const vf c = _mm256_unpacklo_ps(r[i + 2], r[i + 3]), d = _mm256_unpackhi_ps(r[i + 2], r[i + 3]);
        t[i] = _mm256_shuffle_ps(a, c, 0x44);
        t[i + 1] = _mm256_shuffle_ps(a, c, 0xEE);
        t[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        t[i + 3] = _mm256_shuffle_ps(b, d, 0xEE);
    }
    for (int j = 0; j < 4; j++) { /* the halves themselves */
        r[j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x20);
        r[4 + j] = _mm256_permute2f128_ps(t[j], t[4 + j], 0x31);
    }
}

#endif
