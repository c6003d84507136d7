/* Packed weights times quantized activations with Advanced SIMD of 64-bit Arm, common to its extensions: a vector holds four values of 4 weight
 * rows, so a tile is four of them. Codes are taken apart as they are used, signed; each is used once for all activation rows.
 *
 * The file that includes this defines FS_Q_KERNEL, TILE (activation rows), FS_Q_VECTORS(n) (vectors of weight rows at once with n activation
 * rows, so that their products fit the registers) and
 *     void dots(fs_dtype type, int n, int vectors, weights w, const int8_t *x, const int32_t *first, int32x4_t dot[TILE][4]);
 * dot[t][v] = first[t] (0 where NULL) + the exact integer products of one group: 4 rows v of w, activation row t at x + t * GROUP. */
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "backend/cpu/q_kernels.h"

#if defined(__OPTIMIZE__)
#define FS_Q_INLINE static inline __attribute__((always_inline))
#define FS_Q_UNROLL _Pragma("GCC unroll 8")
#else
#define FS_Q_INLINE static inline
#define FS_Q_UNROLL
#endif

enum { ROWS = FS_PACKED_ROWS, GROUP = FS_PACKED_GROUP, AHEAD = 4096 /* bytes of weights to fetch early */ };

/* Where the codes of a group are; `odd`: of Q4_K, the odd group of its pair. */
typedef struct weights { const uint8_t *codes; bool odd; } weights;

/* Codes of quad z of values (0 .. 7) of the rows of vector v. */
FS_Q_INLINE int8x16_t codes_at(const fs_dtype type, const weights w, const int z, const int v) {
    if (type == FS_DTYPE_Q8_0X16) return vreinterpretq_s8_u8(veorq_u8(vld1q_u8(w.codes + 64 * z + 16 * v), vdupq_n_u8(0x80)));
    const uint8x16_t both = vld1q_u8(w.codes + 64 * (type == FS_DTYPE_Q4_0X16 ? z % 4 : z) + 16 * v);
    const bool high = type == FS_DTYPE_Q4_0X16 ? z >= 4 : w.odd;
    return vreinterpretq_s8_u8(high ? vshrq_n_u8(both, 4) : vandq_u8(both, vdupq_n_u8(15)));
}

#ifdef __ARM_FEATURE_DOTPROD
/* sdot takes one quad of the activations by number, which must be a constant: so this is no loop. */
#define QUAD(i)                                                                                                                            \
    do {                                                                                                                                   \
        int8x16_t u[4];                                                                                                                    \
        FS_Q_UNROLL for (int v = 0; v < vectors; v++) u[v] = codes_at(type, w, 4 * half + (i), v);                                         \
        FS_Q_UNROLL for (int t = 0; t < n; t++)                                                                                            \
            FS_Q_UNROLL for (int v = 0; v < vectors; v++) dot[t][v] = vdotq_laneq_s32(dot[t][v], u[v], q[t], i);                           \
    } while (0)

FS_Q_INLINE void dots_quads(const fs_dtype type, const int n, const int vectors, weights w, const int8_t *x, const int32_t *first,
                            int32x4_t dot[TILE][4]) {
    FS_Q_UNROLL for (int t = 0; t < n; t++)
        FS_Q_UNROLL for (int v = 0; v < vectors; v++) dot[t][v] = vdupq_n_s32(first ? first[t] : 0);
    FS_Q_UNROLL for (int half = 0; half < 2; half++) {
        int8x16_t q[TILE];
        FS_Q_UNROLL for (int t = 0; t < n; t++) q[t] = vld1q_s8(x + t * GROUP + 16 * half);
        QUAD(0);
        QUAD(1);
        QUAD(2);
        QUAD(3);
        __asm__("" : "+r"(w.codes)); /* load the other nibbles again, instead of keeping 16 vectors */
    }
}
#undef QUAD
#endif

FS_Q_INLINE void dots(const fs_dtype type, const int n, const int vectors, weights w, const int8_t *x, const int32_t *first, int32x4_t dot[TILE][4]);

/* Scale and min of each row of a group. */
typedef struct scales { float32x4_t d[4], m[4]; } scales;

FS_Q_INLINE float32x4_t load_f16(const uint8_t *p) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p))); }

FS_Q_INLINE scales plain_scales(const uint8_t *f16) {
    scales a;
    FS_Q_UNROLL for (int v = 0; v < 4; v++) {
        a.d[v] = load_f16(f16 + 8 * v);
        a.m[v] = vdupq_n_f32(0.0f);
    }
    return a;
}

FS_Q_INLINE void widen_u8(uint8x16_t b, float32x4_t out[4]) {
    const uint16x8_t lo = vmovl_u8(vget_low_u8(b)), hi = vmovl_high_u8(b);
    out[0] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(lo)));
    out[1] = vcvtq_f32_u32(vmovl_high_u16(lo));
    out[2] = vcvtq_f32_u32(vmovl_u16(vget_low_u16(hi)));
    out[3] = vcvtq_f32_u32(vmovl_high_u16(hi));
}

/* sc: of the pair; f16: d and dmin of the chunk */
FS_Q_INLINE scales k_scales(const uint8_t *f16, const uint8_t *sc, const bool odd) {
    scales a;
    const uint8x16_t low = vld1q_u8(sc + 16 * odd), nibble = vdupq_n_u8(15), two = vdupq_n_u8(3);
    const uint8x16_t high = odd ? vshrq_n_u8(vld1q_u8(sc + 32), 4) : vld1q_u8(sc + 32);
    widen_u8(vorrq_u8(vandq_u8(low, nibble), vshlq_n_u8(vandq_u8(high, two), 4)), a.d);
    widen_u8(vorrq_u8(vshrq_n_u8(low, 4), vshlq_n_u8(vandq_u8(vshrq_n_u8(high, 2), two), 4)), a.m);
    FS_Q_UNROLL for (int v = 0; v < 4; v++) {
        a.d[v] = vmulq_f32(load_f16(f16 + 8 * v), a.d[v]);
        a.m[v] = vmulq_f32(load_f16(f16 + 32 + 8 * v), a.m[v]);
    }
    return a;
}

/* One group into the sums of n activation rows. */
FS_Q_INLINE void add_group(const fs_dtype type, const int n, weights w, const scales a, const uint8_t *x, float32x4_t sum[TILE][4]) {
    const int vectors = FS_Q_VECTORS(n);
    const int8_t *q = (const int8_t *)x;
    const float *s = (const float *)(const void *)(x + n * GROUP), *scaled = s + n;
    /* codes of Q8_0 are signed here already, those of Q4_K are not centred: only Q4_0 has something to correct */
    const int32_t *first = type == FS_DTYPE_Q4_0X16 ? (const int32_t *)(const void *)scaled : NULL;
    FS_Q_UNROLL for (int v0 = 0; v0 < 4; v0 += vectors) {
        int32x4_t dot[TILE][4];
        dots(type, n, vectors, (weights){w.codes + 16 * v0, w.odd}, q, first, dot);
        FS_Q_UNROLL for (int t = 0; t < n; t++)
            FS_Q_UNROLL for (int v = 0; v < vectors; v++) {
                float32x4_t y = sum[t][v0 + v];
                y = vfmaq_f32(y, vmulq_f32(vcvtq_f32_s32(dot[t][v]), vdupq_n_f32(s[t])), a.d[v0 + v]);
                if (type == FS_DTYPE_Q4_KX16) y = vfmsq_f32(y, a.m[v0 + v], vdupq_n_f32(scaled[t]));
                sum[t][v0 + v] = y;
            }
    }
}

FS_Q_INLINE void fetch(const uint8_t *p, const int bytes) {
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(p + AHEAD + i, 0, 2);
}

FS_Q_INLINE void load_sums(const float *y, int rows, float32x4_t sum[4]) {
    float part[ROWS] = {0};
    if (rows < ROWS) memcpy(part, y, (size_t)rows * sizeof *y);
    for (int v = 0; v < 4; v++) sum[v] = vld1q_f32((rows < ROWS ? part : y) + 4 * v);
}

FS_Q_INLINE void store_sums(float *y, int rows, const float32x4_t sum[4]) {
    float part[ROWS];
    for (int v = 0; v < 4; v++) vst1q_f32((rows < ROWS ? part : y) + 4 * v, sum[v]);
    if (rows < ROWS) memcpy(y, part, (size_t)rows * sizeof *y);
}

FS_Q_INLINE void multiply(const fs_dtype type, const int n, const uint8_t *w, const uint8_t *x, int64_t groups, bool more, float *y, int64_t ldy,
                          int rows) {
    float32x4_t sum[TILE][4];
    const size_t step = (size_t)(n * FS_Q_BYTES);
    FS_Q_UNROLL for (int t = 0; t < n; t++) {
        if (more)
            load_sums(y + t * ldy, rows, sum[t]);
        else
            FS_Q_UNROLL for (int v = 0; v < 4; v++) sum[t][v] = vdupq_n_f32(0.0f);
    }
    if (type == FS_DTYPE_Q4_KX16) {
        for (int64_t g = 0; g < groups; g += 8, w += FS_Q4K_CHUNK) {
            if (n < TILE) fetch(w, FS_Q4K_CHUNK);
            for (int p = 0; p < 4; p++, x += 2 * step) {
                const uint8_t *sc = w + 64 + 48 * p, *codes = w + 256 + 512 * p;
                add_group(type, n, (weights){codes, false}, k_scales(w, sc, false), x, sum);
                add_group(type, n, (weights){codes, true}, k_scales(w, sc, true), x + step, sum);
            }
        }
    } else {
        const int chunk = type == FS_DTYPE_Q8_0X16 ? FS_Q8_CHUNK : FS_Q4_CHUNK, codes = (chunk - 64) / 2;
        for (int64_t g = 0; g < groups; g += 2, w += chunk) {
            if (n < TILE) fetch(w, chunk);
            for (int half = 0; half < 2; half++, x += step)
                add_group(type, n, (weights){w + 64 + codes * half, false}, plain_scales(w + 32 * half), x, sum);
        }
    }
    FS_Q_UNROLL for (int t = 0; t < n; t++) store_sums(y + t * ldy, rows, sum[t]);
}

#define CASE(n)                                                                                                                            \
    case n: multiply(type, n, w, x, groups, more, y, ldy, rows); break

FS_Q_INLINE void multiply_type(const fs_dtype type, const uint8_t *w, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy,
                               int rows) {
    switch (n) {
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
#if FS_Q_TILE_OF_8
        CASE(5);
        CASE(6);
        CASE(7);
        CASE(8);
#endif
    }
}
#undef CASE

void FS_Q_KERNEL(fs_q_multiply)(fs_dtype packed, const uint8_t *w, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy,
                                int rows) {
    if (packed == FS_DTYPE_Q8_0X16)
        multiply_type(FS_DTYPE_Q8_0X16, w, x, n, groups, more, y, ldy, rows);
    else if (packed == FS_DTYPE_Q4_0X16)
        multiply_type(FS_DTYPE_Q4_0X16, w, x, n, groups, more, y, ldy, rows);
    else
        multiply_type(FS_DTYPE_Q4_KX16, w, x, n, groups, more, y, ldy, rows);
}

/* ---- activations ---- */

/* 32 values to q; returns s and the sum of q. */
FS_Q_INLINE float quantize_group(const float *x, int8_t *q, int32_t *sum) {
    float32x4_t v[8];
    int32x4_t c[8], total = vdupq_n_s32(0);
    uint32x4_t top4 = vdupq_n_u32(0); /* |x| as bits: these are in the order of the values, NaN on top */
    FS_Q_UNROLL for (int i = 0; i < 8; i++) {
        v[i] = vld1q_f32(x + 4 * i);
        top4 = vmaxq_u32(top4, vreinterpretq_u32_f32(vabsq_f32(v[i])));
    }
    const uint32_t top = vmaxvq_u32(top4);
    float most;
    memcpy(&most, &top, sizeof most);
    if (top >= 0x7F800000u || most < FS_Q_TINY) {
        memset(q, 0, GROUP);
        *sum = 0;
        return top >= 0x7F800000u ? NAN : 0.0f;
    }
    const float32x4_t inverse = vdupq_n_f32(127.0f / most);
    FS_Q_UNROLL for (int i = 0; i < 8; i++) {
        c[i] = vcvtnq_s32_f32(vmulq_f32(v[i], inverse));
        total = vaddq_s32(total, c[i]);
    }
    FS_Q_UNROLL for (int i = 0; i < 8; i += 4) {
        const int16x8_t a = vcombine_s16(vmovn_s32(c[i]), vmovn_s32(c[i + 1])), b = vcombine_s16(vmovn_s32(c[i + 2]), vmovn_s32(c[i + 3]));
        vst1q_s8(q + 4 * i, vcombine_s8(vmovn_s16(a), vmovn_s16(b)));
    }
    *sum = vaddvq_s32(total);
    return most / 127.0f;
}

void FS_Q_KERNEL(fs_q_quantize)(fs_dtype packed, const float *x, int64_t ldx, int n, int64_t cols, int64_t groups, uint8_t *out) {
    const int32_t offset = packed == FS_DTYPE_Q8_0X16 ? 128 : 8;
    for (int64_t g = 0; g < groups; g++, out += n * FS_Q_BYTES) {
        if (g * GROUP >= cols) {
            memset(out, 0, (size_t)(n * FS_Q_BYTES));
            continue;
        }
        float *s = (float *)(void *)(out + n * GROUP), *scaled = s + n;
        int32_t *offsets = (int32_t *)(void *)scaled;
        for (int t = 0; t < n; t++) {
            int32_t sum;
            s[t] = quantize_group(x + t * ldx + g * GROUP, (int8_t *)out + t * GROUP, &sum);
            if (packed == FS_DTYPE_Q4_KX16)
                scaled[t] = s[t] * (float)sum;
            else
                offsets[t] = -sum * offset;
        }
    }
}
