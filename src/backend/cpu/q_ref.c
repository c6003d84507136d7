/* Packed weights times quantized activations in plain C: defines, operation by operation, what every other instruction set must give (the
 * rules stand in q_kernels.h), and runs where there is none of those. */
#include <math.h>
#include <string.h>

#include "backend/cpu/q_kernels.h"

enum { ROWS = FS_PACKED_ROWS, GROUP = FS_PACKED_GROUP };

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* 32 values, or none (x NULL: a group that only pads). Returns s; *sum of q. */
static float quantize_group(const float *x, int8_t *q, int32_t *sum) {
    uint32_t top = 0; /* largest |x|, as bits: these are in the order of the values, NaN on top */
    for (int i = 0; x && i < GROUP; i++)
        if ((bits_of(x[i]) & 0x7FFFFFFFu) > top) top = bits_of(x[i]) & 0x7FFFFFFFu;
    *sum = 0;
    memset(q, 0, GROUP);
    if (top >= 0x7F800000u) return NAN;
    float most;
    memcpy(&most, &top, sizeof most);
    if (most < FS_Q_TINY) return 0.0f;
    const float inverse = 127.0f / most;
    for (int i = 0; i < GROUP; i++) {
        q[i] = (int8_t)lrintf(x[i] * inverse);
        *sum += q[i];
    }
    return most / 127.0f;
}

void fs_q_quantize_ref(fs_dtype packed, const float *x, int64_t ldx, int n, int64_t cols, int64_t groups, uint8_t *out) {
    for (int64_t g = 0; g < groups; g++, out += n * FS_Q_BYTES)
        for (int t = 0; t < n; t++) {
            int32_t sum;
            const float s = quantize_group(g * GROUP < cols ? x + t * ldx + g * GROUP : NULL, (int8_t *)out + t * GROUP, &sum);
            const float scaled = s * (float)sum;
            const int32_t offset = -sum * (packed == FS_DTYPE_Q8_0X16 ? 128 : 8);
            memcpy(out + n * GROUP + 4 * t, &s, 4);
            if (packed == FS_DTYPE_Q4_KX16)
                memcpy(out + n * (GROUP + 4) + 4 * t, &scaled, 4);
            else
                memcpy(out + n * (GROUP + 4) + 4 * t, &offset, 4);
        }
}

/* One group of a weight tile, taken apart: codes u [quad of values][row][4], scale d and min m of each row. */
typedef struct group { uint8_t u[8][ROWS][4]; float d[ROWS], m[ROWS]; } group;

static float half_at(const uint8_t *p) { return fs_f16_to_f32((uint16_t)(p[0] | p[1] << 8)); }

static void unpack(fs_dtype packed, const uint8_t *w, int64_t g, group *out) {
    if (packed == FS_DTYPE_Q4_KX16) {
        const uint8_t *chunk = w + (size_t)(g / 8) * FS_Q4K_CHUNK, *q = chunk + 256 + 512 * (g % 8 / 2), *sc = chunk + 64 + 48 * (g % 8 / 2);
        const int odd = (int)(g % 2);
        for (int r = 0; r < ROWS; r++) {
            const int low = sc[16 * odd + r], high = sc[32 + r] >> (4 * odd);
            out->d[r] = half_at(chunk + 2 * r) * (float)((low & 15) | (high & 3) << 4);
            out->m[r] = half_at(chunk + 32 + 2 * r) * (float)(low >> 4 | (high >> 2 & 3) << 4);
        }
        for (int i = 0; i < 512; i++) (&out->u[0][0][0])[i] = q[i] >> (4 * odd) & 15;
        return;
    }
    const bool bytes = packed == FS_DTYPE_Q8_0X16;
    const uint8_t *chunk = w + (size_t)(g / 2) * (bytes ? FS_Q8_CHUNK : FS_Q4_CHUNK), *q = chunk + 64 + (bytes ? 512 : 256) * (g % 2);
    for (int r = 0; r < ROWS; r++) out->d[r] = half_at(chunk + 32 * (g % 2) + 2 * r);
    for (int i = 0; i < 512; i++) (&out->u[0][0][0])[i] = (uint8_t)(bytes ? q[i] : q[i % 256] >> (i / 256 * 4) & 15);
}

void fs_q_multiply_ref(fs_dtype packed, const uint8_t *w, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy,
                       int rows) {
    const bool mins = packed == FS_DTYPE_Q4_KX16;
    for (int t = 0; t < n && !more; t++)
        for (int r = 0; r < rows; r++) y[t * ldy + r] = 0.0f;
    for (int64_t g = 0; g < groups; g++, x += n * FS_Q_BYTES) {
        group a;
        unpack(packed, w, g, &a);
        for (int t = 0; t < n; t++) {
            const int8_t *q = (const int8_t *)x + t * GROUP;
            float s, scaled = 0.0f;
            int32_t offset = 0;
            memcpy(&s, x + n * GROUP + 4 * t, 4);
            memcpy(mins ? (void *)&scaled : (void *)&offset, x + n * (GROUP + 4) + 4 * t, 4);
            for (int r = 0; r < rows; r++) {
                int32_t dot = offset;
                for (int i = 0; i < GROUP; i++) dot += a.u[i / 4][r][i % 4] * q[i];
                float *sum = &y[t * ldy + r];
                *sum = fmaf((float)dot * s, a.d[r], *sum);
                if (mins) *sum = fmaf(-a.m[r], scaled, *sum);
            }
        }
    }
}
