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

/* n values, or none (x NULL: a group that only pads). Returns s; *sum of q. */
static float quantize_group(const float *x, int n, int8_t *q, int32_t *sum) {
    uint32_t top = 0; /* largest |x|, as bits: these are in the order of the values, NaN on top */
    for (int i = 0; x && i < n; i++)
        if ((bits_of(x[i]) & 0x7FFFFFFFu) > top) top = bits_of(x[i]) & 0x7FFFFFFFu;
    *sum = 0;
    memset(q, 0, (size_t)n);
    if (top >= 0x7F800000u) return NAN;
    float most;
    memcpy(&most, &top, sizeof most);
    if (!x || most < FS_Q_TINY) return 0.0f;
    const float inverse = 127.0f / most;
    for (int i = 0; i < n; i++) {
        q[i] = (int8_t)lrintf(x[i] * inverse);
        *sum += q[i];
    }
    return most / 127.0f;
}

void fs_q_quantize_ref(fs_dtype packed, const float *x, int64_t ldx, int n, int64_t cols, int64_t groups, uint8_t *out) {
    for (int64_t g = 0; g < groups; g++, out += n * FS_Q_BYTES)
        for (int t = 0; t < n; t++) {
            int32_t sum;
            const float s = quantize_group(g * GROUP < cols ? x + t * ldx + g * GROUP : NULL, GROUP, (int8_t *)out + t * GROUP, &sum);
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

/* ---- longer groups ---- */

enum { LONG = FS_Q_LONG };

static uint32_t magnitude(float f) { return bits_of(f) & 0x7FFFFFFFu; }

/* The long group of `parts` of row r, as the header of q_kernels.h defines it. */
static void expand_row(const group parts[FS_Q_LONG_GROUPS], bool mins, int r, uint8_t *out) {
    uint32_t top_bits = 0;
    float m[FS_Q_LONG_GROUPS], top, scale = NAN;
    for (int g = 0; g < FS_Q_LONG_GROUPS; g++) {
        m[g] = mins ? parts[g].m[r] : 8.0f * parts[g].d[r];
        const uint32_t low = magnitude(m[g]), high = magnitude(fmaf(15.0f, parts[g].d[r], -m[g])), more = low > high ? low : high;
        if (more > top_bits) top_bits = more;
    }
    memcpy(&top, &top_bits, sizeof top);
    const bool some = top_bits != 0 && top_bits < 0x7F800000u;
    if (top_bits < 0x7F800000u) scale = top / 127.0f;
    memcpy(out + 4 * r, &scale, 4);
    for (int g = 0; g < FS_Q_LONG_GROUPS; g++) {
        const float inverse = some ? 32512.0f / top : 0.0f;
        const int ratio = some ? (int)lrintf(parts[g].d[r] * inverse) : 0, shift = some ? (int)lrintf(m[g] * inverse) : 0;
        for (int i = 0; i < GROUP; i++)
            out[64 + 64 * (8 * g + i / 4) + 4 * r + i % 4] = (uint8_t)((uint32_t)(parts[g].u[i / 4][r][i % 4] * ratio - shift + 128 + 32768) >> 8);
    }
}

void fs_q_expand_ref(fs_dtype packed, const uint8_t *w, int64_t groups, uint8_t *out) {
    for (int64_t at = 0; at < groups; at++, out += FS_Q_STRIP_CHUNK) {
        group parts[FS_Q_LONG_GROUPS];
        for (int g = 0; g < FS_Q_LONG_GROUPS; g++) unpack(packed, w, at * FS_Q_LONG_GROUPS + g, &parts[g]);
        for (int r = 0; r < ROWS; r++) expand_row(parts, packed == FS_DTYPE_Q4_KX16, r, out);
    }
}

void fs_q_quantize_long_ref(const float *x, int64_t ldx, int n, int64_t groups, uint8_t *out) {
    for (int64_t g = 0; g < groups; g++, out += n * FS_Q_LONG_BYTES)
        for (int t = 0; t < n; t++) {
            int32_t sum;
            const float s = quantize_group(x + t * ldx + g * LONG, LONG, (int8_t *)out + t * LONG, &sum);
            const int32_t offset = -128 * sum;
            memcpy(out + n * LONG + 4 * t, &s, 4);
            memcpy(out + n * (LONG + 4) + 4 * t, &offset, 4);
        }
}

void fs_q_strip_ref(const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows) {
    for (int t = 0; t < n && !more; t++)
        for (int r = 0; r < rows; r++) y[t * ldy + r] = 0.0f;
    for (int64_t g = 0; g < groups; g++, x += n * FS_Q_LONG_BYTES)
        for (int t = 0; t < n; t++) {
            const int8_t *q = (const int8_t *)x + t * LONG;
            float s;
            int32_t offset;
            memcpy(&s, x + n * LONG + 4 * t, 4);
            memcpy(&offset, x + n * (LONG + 4) + 4 * t, 4);
            for (int r = 0; r < rows; r++) {
                const uint8_t *chunk = (r < ROWS ? w0 : w1) + (size_t)g * FS_Q_STRIP_CHUNK, *u = chunk + 64 + 4 * (r % ROWS);
                float scale;
                int32_t dot = offset;
                memcpy(&scale, chunk + 4 * (r % ROWS), 4);
                for (int i = 0; i < LONG; i++) dot += u[64 * (i / 4) + i % 4] * q[i];
                y[t * ldy + r] = fmaf((float)dot * s, scale, y[t * ldy + r]);
            }
        }
}
