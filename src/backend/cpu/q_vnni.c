/* Packed weights times quantized activations for AVX-512 VNNI: one vpdpbusd multiplies four values of 16 weight rows by four activations that
 * it broadcasts from memory itself. Rules and layouts are in q_kernels.h. Empty where the build does not target x86. */
#ifdef __AVX512VNNI__
#include "backend/cpu/q_vnni.h"

enum { ROWS = FS_PACKED_ROWS, GROUP = FS_PACKED_GROUP, TILE = 12,
       AT_ONCE = 4,  /* activation rows whose products take turns: each waits for the one before it */
       NEAR = 4096, FAR = 8192 /* bytes of weights to fetch early */ };

/* How weights are fetched ahead, which no bit of a result depends on (measurements: docs/speed.md). Zen 5, and what is
 * not known better: one row of Q8_0 or Q4_0 from NEAR by into the
 * level-2 cache, what does more with them from FAR into the nearest. Zen 4: one row not at all, where asking only holds up what the processor fetches by
 * itself; more rows from FAR by into the level-2 cache: lines asked for in its level 1 keep the loads waiting. */
typedef enum habit { ZEN5, ZEN4 } habit;

/* dot4 of activations in memory. As assembly because GCC 12 makes of the intrinsic a load of the broadcast value and a copy of the sum, and spills the sums of a tile. */
static inline __attribute__((always_inline)) __m512i dot4_at(__m512i sum, __m512i u, const int8_t *q) {
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(u), "m"(*(const int32_t *)(const void *)q));
    return sum;
}

/* One group of a weight tile in registers: codes of eight quads of values, scale and min of each row. */
typedef struct group { __m512i u[8]; __m512 d, m; } group;

static inline __attribute__((always_inline)) group unpack_q8(const uint8_t *chunk, const int half) {
    group a;
    a.m = _mm512_setzero_ps();
    a.d = load_f16(chunk + 32 * half);
#pragma GCC unroll 8
    for (int z = 0; z < 8; z++) a.u[z] = load(chunk + 64 + 512 * half + 64 * z);
    return a;
}

static inline __attribute__((always_inline)) group unpack_q4(const uint8_t *chunk, const int half) {
    group a;
    const __m512i low = _mm512_set1_epi8(15);
    a.m = _mm512_setzero_ps();
    a.d = load_f16(chunk + 32 * half);
#pragma GCC unroll 4
    for (int v = 0; v < 4; v++) {
        const __m512i both = load(chunk + 64 + 256 * half + 64 * v);
        a.u[v] = _mm512_and_si512(both, low);
        a.u[v + 4] = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
    }
    return a;
}

/* half: even or odd group of the pair; d, dmin: of the chunk */
static inline __attribute__((always_inline)) group unpack_q4k(const uint8_t *scales, const uint8_t *q, const int half, __m512 d, __m512 dmin) {
    group a;
    const group_scales s = scales_q4k(scales, half, d, dmin);
    a.d = s.d;
    a.m = s.m;
    const __m512i mask = _mm512_set1_epi8(15);
#pragma GCC unroll 8
    for (int z = 0; z < 8; z++) {
        const __m512i both = load(q + 64 * z);
        a.u[z] = _mm512_and_si512(half ? _mm512_srli_epi16(both, 4) : both, mask);
    }
    return a;
}

/* One group into the sums of n activation rows. */
static inline __attribute__((always_inline)) void add_group(const bool mins, const int n, const group *a, const uint8_t *x, __m512 sum[TILE]) {
    const int8_t *q = (const int8_t *)x;
    const float *s = (const float *)(const void *)(x + n * GROUP), *scaled = s + n;
    const int32_t *offset = (const int32_t *)(const void *)scaled;
#pragma GCC unroll 16
    for (int t0 = 0; t0 < n; t0 += AT_ONCE) {
        __m512i dot[AT_ONCE];
        const int rows = n - t0 < AT_ONCE ? n - t0 : AT_ONCE;
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) dot[i] = mins ? _mm512_setzero_si512() : _mm512_set1_epi32(offset[t0 + i]);
#pragma GCC unroll 16
        for (int z = 0; z < 8; z++)
#pragma GCC unroll 16
            for (int i = 0; i < rows; i++) dot[i] = dot4_at(dot[i], a->u[z], q + (t0 + i) * GROUP + 4 * z);
#pragma GCC unroll 16
        for (int i = 0; i < rows; i++) {
            const int t = t0 + i;
            sum[t] = _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(dot[i]), _mm512_set1_ps(s[t])), a->d, sum[t]);
            if (mins) sum[t] = _mm512_fnmadd_ps(a->m, _mm512_set1_ps(scaled[t]), sum[t]);
        }
    }
}

/* bytes of weights at p are multiplied by n rows soon. */
static inline __attribute__((always_inline)) void fetch(const habit h, const bool light, const int n, const uint8_t *p, const int bytes) {
    if (n >= TILE || (h == ZEN4 && n == 1)) return;
    for (int i = 0; i < bytes; i += 64)
        if (h == ZEN4) _mm_prefetch((const char *)p + FAR + i, _MM_HINT_T1);
        else if (light && n == 1) _mm_prefetch((const char *)p + NEAR + i, _MM_HINT_T1);
        else _mm_prefetch((const char *)p + FAR + i, _MM_HINT_T0);
}

static inline __attribute__((always_inline)) void multiply(const habit h, const fs_dtype type, const int n, const uint8_t *w, const uint8_t *x,
                                                           int64_t groups, bool more, float *y, int64_t ldy, int rows) {
    __m512 sum[TILE];
    const size_t step = (size_t)(n * FS_Q_BYTES);
    const __mmask16 mask = (__mmask16)((1u << rows) - 1u), before = more ? mask : 0;
#pragma GCC unroll 16
    for (int t = 0; t < n; t++) sum[t] = _mm512_maskz_loadu_ps(before, y + t * ldy);
    if (type == FS_DTYPE_Q4_KX16) {
        for (int64_t g = 0; g < groups; g += 8, w += FS_Q4K_CHUNK) {
            const __m512 d = load_f16(w), dmin = load_f16(w + 32);
            fetch(h, false, n, w, 256);
            for (int p = 0; p < 4; p++, x += 2 * step) {
                fetch(h, false, n, w + 256 + 512 * p, 512);
                const group even = unpack_q4k(w + 64 + 48 * p, w + 256 + 512 * p, 0, d, dmin);
                add_group(true, n, &even, x, sum);
                const group odd = unpack_q4k(w + 64 + 48 * p, w + 256 + 512 * p, 1, d, dmin);
                add_group(true, n, &odd, x + step, sum);
            }
        }
    } else {
        const bool bytes = type == FS_DTYPE_Q8_0X16;
        const int chunk = bytes ? FS_Q8_CHUNK : FS_Q4_CHUNK;
        for (int64_t g = 0; g < groups; g += 2, w += chunk, x += 2 * step) {
            fetch(h, true, n, w, chunk);
            const group even = bytes ? unpack_q8(w, 0) : unpack_q4(w, 0);
            add_group(false, n, &even, x, sum);
            const group odd = bytes ? unpack_q8(w, 1) : unpack_q4(w, 1);
            add_group(false, n, &odd, x + step, sum);
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < n; t++) _mm512_mask_storeu_ps(y + t * ldy, mask, sum[t]);
}

#define CASE(n)                                                                                                                            \
    case n: multiply(h, type, n, w, x, groups, more, y, ldy, rows); break

static inline __attribute__((always_inline)) void multiply_type(const habit h, const fs_dtype type, const uint8_t *w, const uint8_t *x, int n, int64_t groups,
                                                                bool more, float *y, int64_t ldy, int rows) {
    switch (n) {
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
        CASE(5);
        CASE(6);
        CASE(7);
        CASE(8);
        CASE(9);
        CASE(10);
        CASE(11);
        CASE(12);
    }
}

#define MULTIPLY(name, h, type)                                                                                                            \
    static void name(const uint8_t *w, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows) {              \
        multiply_type(h, type, w, x, n, groups, more, y, ldy, rows);                                                                       \
    }
MULTIPLY(multiply_q8, ZEN5, FS_DTYPE_Q8_0X16)
MULTIPLY(multiply_q4, ZEN5, FS_DTYPE_Q4_0X16)
MULTIPLY(multiply_q4k, ZEN5, FS_DTYPE_Q4_KX16)
MULTIPLY(multiply_q8_zen4, ZEN4, FS_DTYPE_Q8_0X16)
MULTIPLY(multiply_q4_zen4, ZEN4, FS_DTYPE_Q4_0X16)
MULTIPLY(multiply_q4k_zen4, ZEN4, FS_DTYPE_Q4_KX16)

void fs_q_multiply_vnni(fs_dtype packed, const uint8_t *w, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows) {
    (packed == FS_DTYPE_Q8_0X16 ? multiply_q8 : packed == FS_DTYPE_Q4_0X16 ? multiply_q4 : multiply_q4k)(w, x, n, groups, more, y, ldy, rows);
}

void fs_q_multiply_vnni_zen4(fs_dtype packed, const uint8_t *w, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows) {
    (packed == FS_DTYPE_Q8_0X16 ? multiply_q8_zen4 : packed == FS_DTYPE_Q4_0X16 ? multiply_q4_zen4 : multiply_q4k_zen4)(w, x, n, groups, more, y, ldy, rows);
}

void fs_q_quantize_vnni(fs_dtype packed, const float *x, int64_t ldx, int n, int64_t cols, int64_t groups, uint8_t *out) {
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
            s[t] = quantize_group(x + t * ldx + g * GROUP, GROUP, (int8_t *)out + t * GROUP, &sum);
            if (packed == FS_DTYPE_Q4_KX16)
                scaled[t] = s[t] * (float)sum;
            else
                offsets[t] = -sum * offset;
        }
    }
}
#else
typedef int fs_no_vnni;
#endif
