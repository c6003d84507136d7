/* Packed weights times quantized activations with 256-bit vectors, common to AVX2 and AVX-VNNI: a vector holds four values of 8 weight
 * rows, so a tile is two of them. A group's codes of 4 bits are unpacked once into a small buffer that stays in the level-1 cache; a vector of
 * codes is then loaded once for all activation rows of the tile. The file that includes this defines FS_Q_KERNEL and dots_q8, dots_q4: the
 * exact integer products of one group with n <= FS_Q_TILE activation rows of 32 values, each row's sum started from its offset. */
#include <math.h>
#include <string.h>

#include "backend/cpu/q_kernels.h"

enum { ROWS = FS_PACKED_ROWS, GROUP = FS_PACKED_GROUP, TILE = FS_Q_TILE,
       AHEAD = 8192 /* bytes of weights to fetch early */ };

static inline __m256i load(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
static inline __m256 load_f16(const uint8_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p)); }
static inline __m256i load_u8(const uint8_t *p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)); }

/* Codes of eight quads of values of rows 0-7 and 8-15, where they are; scale and min of each row. */
typedef struct group { const uint8_t *codes; __m256 d[2], m[2]; __m256i unpacked[8][2]; } group;

static inline __attribute__((always_inline)) void unpack_q8(const uint8_t *chunk, const int half, group *a) {
    for (int h = 0; h < 2; h++) a->d[h] = load_f16(chunk + 32 * half + 16 * h);
    a->codes = chunk + 64 + 512 * half;
}

static inline __attribute__((always_inline)) void unpack_q4(const uint8_t *chunk, const int half, group *a) {
    const __m256i low = _mm256_set1_epi8(15);
    for (int h = 0; h < 2; h++) {
        a->d[h] = load_f16(chunk + 32 * half + 16 * h);
        for (int v = 0; v < 4; v++) {
            const __m256i both = load(chunk + 64 + 256 * half + 64 * v + 32 * h);
            a->unpacked[v][h] = _mm256_and_si256(both, low);
            a->unpacked[v + 4][h] = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
        }
    }
    a->codes = (const uint8_t *)a->unpacked;
}

static inline __attribute__((always_inline)) void unpack_q4k(const uint8_t *chunk, const int pair, const int half, group *a) {
    const uint8_t *scales = chunk + 64 + 48 * pair, *q = chunk + 256 + 512 * pair;
    const __m256i nibble = _mm256_set1_epi32(15), top = _mm256_set1_epi32(48), mask = _mm256_set1_epi8(15);
    for (int h = 0; h < 2; h++) {
        const __m256i low = load_u8(scales + 16 * half + 8 * h), high = load_u8(scales + 32 + 8 * h);
        const __m256i sc = _mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_and_si256(half ? high : _mm256_slli_epi32(high, 4), top));
        const __m256i mn = _mm256_or_si256(_mm256_srli_epi32(low, 4),
                                           _mm256_and_si256(half ? _mm256_srli_epi32(high, 2) : _mm256_slli_epi32(high, 2), top));
        a->d[h] = _mm256_mul_ps(load_f16(chunk + 16 * h), _mm256_cvtepi32_ps(sc));
        a->m[h] = _mm256_mul_ps(load_f16(chunk + 32 + 16 * h), _mm256_cvtepi32_ps(mn));
        for (int z = 0; z < 8; z++) {
            const __m256i both = load(q + 64 * z + 32 * h);
            a->unpacked[z][h] = _mm256_and_si256(half ? _mm256_srli_epi16(both, 4) : both, mask);
        }
    }
    a->codes = (const uint8_t *)a->unpacked;
}

static inline __attribute__((always_inline)) void add_group(const fs_dtype type, const int n, group *a, const uint8_t *x, __m256 sum[TILE][2]) {
    const int8_t *q = (const int8_t *)x;
    const float *s = (const float *)(const void *)(x + n * GROUP), *scaled = s + n;
    const int32_t *offset = (const int32_t *)(const void *)scaled;
    __m256i dot[TILE][2];
    /* With 16 registers, either these sums or the sums over groups are in them; compilers left alone move both to and fro. */
    if (n > 1) __asm__ volatile("" ::: "memory");
    if (type == FS_DTYPE_Q8_0X16)
        dots_q8(n, a->codes, q, offset, dot);
    else
        dots_q4(n, a->codes, q, type == FS_DTYPE_Q4_KX16 ? NULL : offset, dot);
#pragma GCC unroll 8
    for (int t = 0; t < n; t++) {
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            sum[t][h] = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot[t][h]), _mm256_set1_ps(s[t])), a->d[h], sum[t][h]);
            if (type == FS_DTYPE_Q4_KX16) sum[t][h] = _mm256_fnmadd_ps(a->m[h], _mm256_set1_ps(scaled[t]), sum[t][h]);
        }
    }
}

/* Weights of 4 bits for one row, into the level-2 cache: asked for in the level-1 cache they keep the loads waiting. One row of Q8_0 is so light that the
 * processor's own fetching is enough, and asking only holds that up. (Zen 4; docs/speed.md.) */
static inline __attribute__((always_inline)) void fetch(const uint8_t *p, const int bytes) {
    for (int i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + AHEAD + i, _MM_HINT_T1);
}

static inline __attribute__((always_inline)) void store(float *y, __m256 lo, __m256 hi, int rows) {
    float part[ROWS];
    float *to = rows == ROWS ? y : part;
    _mm256_storeu_ps(to, lo);
    _mm256_storeu_ps(to + 8, hi);
    if (rows < ROWS) memcpy(y, part, (size_t)rows * sizeof *y);
}

static inline __attribute__((always_inline)) void load_sums(const float *y, int rows, __m256 sum[2]) {
    float part[ROWS] = {0};
    if (rows < ROWS) memcpy(part, y, (size_t)rows * sizeof *y);
    const float *from = rows == ROWS ? y : part;
    sum[0] = _mm256_loadu_ps(from);
    sum[1] = _mm256_loadu_ps(from + 8);
}

static inline __attribute__((always_inline)) void multiply(const fs_dtype type, const int n, const uint8_t *w, const uint8_t *x, int64_t groups,
                                                           bool more, float *y, int64_t ldy, int rows) {
    __m256 sum[TILE][2];
    const size_t step = (size_t)(n * FS_Q_BYTES);
    group a;
    for (int t = 0; t < 2 * n && n == TILE; t++) _mm_prefetch((const char *)y + t * ldy * 4, _MM_HINT_T0); /* this tile's results and the next one's */
    for (int t = 0; t < n; t++) {
        sum[t][0] = sum[t][1] = _mm256_setzero_ps();
        if (more) load_sums(y + t * ldy, rows, sum[t]);
    }
    if (type == FS_DTYPE_Q4_KX16) {
        for (int64_t g = 0; g < groups; g += 8, w += FS_Q4K_CHUNK) {
            for (int p = 0; p < 4; p++, x += 2 * step) {
                if (n == 1) fetch(w + FS_Q4K_CHUNK / 4 * p, FS_Q4K_CHUNK / 4);
                unpack_q4k(w, p, 0, &a);
                add_group(type, n, &a, x, sum);
                unpack_q4k(w, p, 1, &a);
                add_group(type, n, &a, x + step, sum);
            }
        }
    } else {
        const int chunk = type == FS_DTYPE_Q8_0X16 ? FS_Q8_CHUNK : FS_Q4_CHUNK;
        for (int64_t g = 0; g < groups; g += 2, w += chunk)
            for (int half = 0; half < 2; half++, x += step) {
                if (n == 1 && type != FS_DTYPE_Q8_0X16) fetch(w + chunk / 2 * half, chunk / 2);
                if (type == FS_DTYPE_Q8_0X16)
                    unpack_q8(w, half, &a);
                else
                    unpack_q4(w, half, &a);
                add_group(type, n, &a, x, sum);
            }
    }
    for (int t = 0; t < n; t++) store(y + t * ldy, sum[t][0], sum[t][1], rows);
}

#define CASE(n)                                                                                                                            \
    case n: multiply(type, n, w, x, groups, more, y, ldy, rows); break

static inline __attribute__((always_inline)) void multiply_type(const fs_dtype type, const uint8_t *w, const uint8_t *x, int n, int64_t groups,
                                                                bool more, float *y, int64_t ldy, int rows) {
    switch (n) {
        CASE(1);
        CASE(2);
        CASE(3);
        CASE(4);
    }
}

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

static inline __m256i magnitude(__m256 v) { return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7FFFFFFF)); }

/* 32 values to q; returns s and the sum of q. */
static inline __attribute__((always_inline)) float quantize_group(const float *x, int8_t *q, int32_t *sum) {
    __m256 v[4];
    for (int i = 0; i < 4; i++) v[i] = _mm256_loadu_ps(x + 8 * i);
    const __m256i most8 = _mm256_max_epu32(_mm256_max_epu32(magnitude(v[0]), magnitude(v[1])), _mm256_max_epu32(magnitude(v[2]), magnitude(v[3])));
    __m128i top4 = _mm_max_epu32(_mm256_castsi256_si128(most8), _mm256_extracti128_si256(most8, 1));
    top4 = _mm_max_epu32(top4, _mm_shuffle_epi32(top4, 0x4E));
    top4 = _mm_max_epu32(top4, _mm_shuffle_epi32(top4, 0xB1));
    const uint32_t top = (uint32_t)_mm_cvtsi128_si32(top4);
    float most;
    memcpy(&most, &top, sizeof most);
    if (top >= 0x7F800000u || most < FS_Q_TINY) {
        memset(q, 0, GROUP);
        *sum = 0;
        return top >= 0x7F800000u ? NAN : 0.0f;
    }
    const __m256 inverse = _mm256_set1_ps(127.0f / most);
    __m256i c[4];
    for (int i = 0; i < 4; i++) c[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], inverse));
    const __m256i sum8 = _mm256_add_epi32(_mm256_add_epi32(c[0], c[1]), _mm256_add_epi32(c[2], c[3]));
    __m128i sum4 = _mm_add_epi32(_mm256_castsi256_si128(sum8), _mm256_extracti128_si256(sum8, 1));
    sum4 = _mm_add_epi32(sum4, _mm_shuffle_epi32(sum4, 0x4E));
    sum4 = _mm_add_epi32(sum4, _mm_shuffle_epi32(sum4, 0xB1));
    *sum = _mm_cvtsi128_si32(sum4);
    /* the two packs leave pieces of four in the order 0 2 4 6 1 3 5 7 */
    const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(c[0], c[1]), _mm256_packs_epi32(c[2], c[3]));
    _mm256_storeu_si256((__m256i *)(void *)q, _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
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
