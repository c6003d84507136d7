/* Rows of stored weights to f32 and back: plain half types here, the way back to block types in block_quantize.c. Layouts are in block.h.
 *
 * ggml's reference works in f32 with one rounding per operation; the order of operations below is the same, so the results are equal
 * bit for bit (checked against the gguf Python package). The formats are ggml's; the facts come from its documentation and that package. */
#include "tensor/block_layout.h"

#include <string.h>
#include <strings.h>

static float half_at(const uint8_t *p) { return fs_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

/* ---- 32 values to a block ---- */

static void q8_0(const uint8_t *b, float *y) {
    const float d = half_at(b);
    for (int i = 0; i < 32; i++) y[i] = (float)(int8_t)b[2 + i] * d;
}

static void q4_0(const uint8_t *b, float *y) {
    const float d = half_at(b);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((b[2 + i] & 15) - 8);
        y[i + 16] = d * (float)((b[2 + i] >> 4) - 8);
    }
}

static void q4_1(const uint8_t *b, float *y) {
    const float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(b[4 + i] & 15) + m;
        y[i + 16] = d * (float)(b[4 + i] >> 4) + m;
    }
}

/* The fifth bits of values i and i + 16, in place. */
static int fifth(const uint8_t *h, int i) { return (h[i / 8] >> (i % 8) & 1) << 4; }

static void q5_0(const uint8_t *b, float *y) {
    const float d = half_at(b);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)(((b[6 + i] & 15) | fifth(b + 2, i)) - 16);
        y[i + 16] = d * (float)((b[6 + i] >> 4 | fifth(b + 2, i + 16)) - 16);
    }
}

static void q5_1(const uint8_t *b, float *y) {
    const float d = half_at(b), m = half_at(b + 2);
    for (int i = 0; i < 16; i++) {
        y[i] = d * (float)((b[8 + i] & 15) | fifth(b + 4, i)) + m;
        y[i + 16] = d * (float)(b[8 + i] >> 4 | fifth(b + 4, i + 16)) + m;
    }
}

/* ---- 256 values to a block ---- */

void fs_k_scales_unpack(const uint8_t *packed, uint8_t sc[8], uint8_t mn[8]) {
    for (int j = 0; j < 4; j++) {
        sc[j] = packed[j] & 63;
        mn[j] = packed[j + 4] & 63;
        sc[j + 4] = (uint8_t)((packed[j + 8] & 15) | packed[j] >> 6 << 4);
        mn[j + 4] = (uint8_t)(packed[j + 8] >> 4 | packed[j + 4] >> 6 << 4);
    }
}

/* high: 32 bytes, bit j of byte i is the fifth bit of value i of group j; NULL for Q4_K. */
static void q45_k(const uint8_t *b, const uint8_t *high, const uint8_t *low, float *y) {
    const float d = half_at(b), dmin = half_at(b + 2);
    uint8_t sc[8], mn[8];
    fs_k_scales_unpack(b + 4, sc, mn);
    for (int j = 0; j < 8; j++) {
        const float s = d * (float)sc[j], m = dmin * (float)mn[j];
        const uint8_t *q = low + 32 * (j / 2);
        for (int i = 0; i < 32; i++) {
            const int top = high ? (high[i] >> j & 1) << 4 : 0;
            y[32 * j + i] = s * (float)((j % 2 ? q[i] >> 4 : q[i] & 15) | top) - m;
        }
    }
}

static void q4_k(const uint8_t *b, float *y) { q45_k(b, NULL, b + 16, y); }
static void q5_k(const uint8_t *b, float *y) { q45_k(b, b + 16, b + 48, y); }

/* Each half of 128 values has 64 bytes of low nibbles (first all low, then all high halves of them) and 32 bytes of bit pairs. */
static void q6_k(const uint8_t *b, float *y) {
    const float d = half_at(b + 208);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, r = i % 128;
        const int low = b[64 * half + r % 64] >> (r < 64 ? 0 : 4) & 15;
        const int high = b[128 + 32 * half + r % 32] >> (2 * (r / 32)) & 3;
        const float s = d * (float)(int8_t)b[192 + i / 16];
        y[i] = s * (float)((low | high << 4) - 32);
    }
}

/* ---- rows ---- */

static bool plain_to_f32(fs_dtype type, const uint8_t *src, int64_t n, float *dst) {
    switch (type) {
    case FS_DTYPE_F32:
        if (n > 0) memcpy(dst, src, (size_t)n * sizeof *dst);
        return true;
    case FS_DTYPE_F16:
        for (int64_t i = 0; i < n; i++) dst[i] = half_at(src + 2 * i);
        return true;
    case FS_DTYPE_BF16:
        for (int64_t i = 0; i < n; i++) dst[i] = fs_bf16_to_f32((uint16_t)(src[2 * i] | src[2 * i + 1] << 8));
        return true;
    case FS_DTYPE_F64:
        for (int64_t i = 0; i < n; i++) {
            double v;
            memcpy(&v, src + 8 * i, sizeof v);
            dst[i] = (float)v;
        }
        return true;
    default: return false;
    }
}

bool fs_row_to_f32(fs_dtype type, const void *src, int64_t n, float *dst) {
    const uint8_t *b = src;
    size_t bytes;
    void (*one)(const uint8_t *, float *) = NULL;
    if (!fs_dtype_row_bytes(type, n, &bytes)) return false;
    switch (type) {
    case FS_DTYPE_Q8_0: one = q8_0; break;
    case FS_DTYPE_Q4_0: one = q4_0; break;
    case FS_DTYPE_Q4_1: one = q4_1; break;
    case FS_DTYPE_Q5_0: one = q5_0; break;
    case FS_DTYPE_Q5_1: one = q5_1; break;
    case FS_DTYPE_Q4_K: one = q4_k; break;
    case FS_DTYPE_Q5_K: one = q5_k; break;
    case FS_DTYPE_Q6_K: one = q6_k; break;
    default: return plain_to_f32(type, b, n, dst);
    }
    const int64_t block = fs_dtype_block(type), blocks = n / block;
    const size_t step = blocks > 0 ? bytes / (size_t)blocks : 0;
    for (int64_t i = 0; i < blocks; i++) one(b + (size_t)i * step, dst + i * block);
    return true;
}

static bool f16_from_f32(const float *x, int64_t n, uint8_t *out) {
    for (int64_t i = 0; i < n; i++) {
        const uint16_t h = fs_f32_to_f16(x[i]);
        if ((h & 0x7FFF) == 0x7C00 && x[i] - x[i] == 0) return false; /* finite in, infinite out */
        out[2 * i] = (uint8_t)h;
        out[2 * i + 1] = (uint8_t)(h >> 8);
    }
    return true;
}

bool fs_row_from_f32(fs_dtype type, const float *src, int64_t n, void *dst) {
    uint8_t *out = dst;
    size_t bytes;
    if (!fs_dtype_row_bytes(type, n, &bytes)) return false;
    switch (type) {
    case FS_DTYPE_F32:
        if (n > 0) memcpy(out, src, bytes);
        return true;
    case FS_DTYPE_F16: return f16_from_f32(src, n, out);
    case FS_DTYPE_BF16:
        for (int64_t i = 0; i < n; i++) {
            const uint16_t h = fs_f32_to_bf16(src[i]);
            out[2 * i] = (uint8_t)h;
            out[2 * i + 1] = (uint8_t)(h >> 8);
        }
        return true;
    case FS_DTYPE_Q8_0:
    case FS_DTYPE_Q4_0:
    case FS_DTYPE_Q4_K:
    case FS_DTYPE_Q6_K: return fs_blocks_quantize(type, src, n / fs_dtype_block(type), out);
    default: return false;
    }
}

bool fs_storage_from_name(const char *name, fs_dtype *out) {
    static const fs_dtype types[] = {FS_DTYPE_F32, FS_DTYPE_F16, FS_DTYPE_BF16, FS_DTYPE_Q8_0, FS_DTYPE_Q4_0, FS_DTYPE_Q4_K, FS_DTYPE_Q6_K};
    for (size_t i = 0; name && i < sizeof types / sizeof types[0]; i++)
        if (strcasecmp(name, fs_dtype_name(types[i])) == 0) {
            *out = types[i];
            return true;
        }
    return false;
}
