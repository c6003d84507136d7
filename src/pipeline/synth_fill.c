/* Random weights straight in the form they are stored in: for block types random codes and fixed scales, so that nothing is quantized.
 * Codes are spread evenly; plain types get the sum of four random bytes, which is nearly normally distributed and the same on every machine.
 * Types whose codes are not centred on 0 get block scales of random sign or a min that centres them: a common offset, however small, would
 * be multiplied from layer to layer. */
#include "pipeline/synth.h"

#include <math.h>
#include <string.h>

static uint64_t mix(uint64_t a, uint64_t b) { /* splitmix64's last steps */
    uint64_t z = a + 0x9E3779B97F4A7C15u * (b + 1);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* ---- plain types: a table of what the sum of four bytes stands for ---- */

enum { SUMS = 4 * 255 + 1, MIDDLE = 2 * 255 };
#define SUM_DEVIATION 147.7994587 /* of the sum: sqrt(4 (256^2 - 1) / 12) */

static void fill_plain(fs_dtype type, double deviation, fs_rng *rng, int64_t n, uint8_t *out) {
    float values[SUMS];
    uint16_t half[SUMS];
    for (int i = 0; i < SUMS; i++) {
        values[i] = (float)((i - MIDDLE) * (deviation / SUM_DEVIATION));
        half[i] = type == FS_DTYPE_BF16 ? fs_f32_to_bf16(values[i]) : fs_f32_to_f16(values[i]);
    }
    for (int64_t i = 0; i < n; i += 2) {
        const uint64_t r = fs_rng_next(rng), even = 0x00FF00FF00FF00FFu;
        uint64_t s = (r & even) + (r >> 8 & even); /* four sums of two bytes */
        s = (s & 0x0000FFFF0000FFFFu) + (s >> 16 & 0x0000FFFF0000FFFFu);
        const uint32_t pick[2] = {(uint32_t)s & 2047, (uint32_t)(s >> 32) & 2047};
        for (int64_t k = 0; k < 2 && i + k < n; k++)
            if (type == FS_DTYPE_F32) memcpy(out + 4 * (i + k), &values[pick[k]], 4);
            else memcpy(out + 2 * (i + k), &half[pick[k]], 2);
    }
}

/* ---- block types ---- */

/* deviation of evenly spread codes: sqrt((n^2 - 1) / 12) for n of them */
static double spread(int codes) { return sqrt(((double)codes * codes - 1) / 12); }

static void put_half(uint8_t *at, double x, uint64_t sign) {
    const uint16_t h = fs_f32_to_f16((float)(sign & 1 ? -x : x));
    memcpy(at, &h, 2);
}

/* Eight scales of 32..63, each also the min of its group (block_layout.h has the packing). */
static void put_k_scales(uint8_t out[12], uint64_t r) {
    for (int j = 0; j < 4; j++) {
        const unsigned low = 32 + (unsigned)(r >> 5 * j & 31), high = 32 + (unsigned)(r >> (20 + 5 * j) & 31);
        out[j] = out[j + 4] = (uint8_t)(low | high >> 4 << 6);
        out[j + 8] = (uint8_t)((high & 15) | (high & 15) << 4);
    }
}
#define K_SCALE 48.4 /* root mean square of 32..63 */
#define SIX_SCALE 97 /* of 64..127 */

/* Writes the scales of a block whose other bytes are random already. */
static bool put_scales(fs_dtype type, double deviation, uint64_t r, uint8_t *b) {
    double d;
    switch (type) {
    case FS_DTYPE_Q8_0:
        for (int i = 2; i < 34; i++) b[i] = b[i] == 128 ? 129 : b[i]; /* -128 is no code of ggml's */
        put_half(b, deviation / spread(255), 0);
        return true;
    case FS_DTYPE_Q4_0: put_half(b, deviation / spread(16), r); return true;
    case FS_DTYPE_Q5_0: put_half(b, deviation / spread(32), r); return true;
    case FS_DTYPE_Q4_1:
    case FS_DTYPE_Q5_1:
        d = deviation / spread(type == FS_DTYPE_Q4_1 ? 16 : 32);
        put_half(b, d, 0);
        put_half(b + 2, d * (type == FS_DTYPE_Q4_1 ? 7.5 : 15.5), 1);
        return true;
    case FS_DTYPE_Q4_K:
    case FS_DTYPE_Q5_K:
        d = deviation / spread(type == FS_DTYPE_Q4_K ? 16 : 32) / K_SCALE;
        put_half(b, d, 0);
        put_half(b + 2, d * (type == FS_DTYPE_Q4_K ? 7.5 : 15.5), 0);
        put_k_scales(b + 4, r);
        return true;
    case FS_DTYPE_Q6_K:
        for (int i = 192; i < 208; i++) { /* scales of 64..127 with random sign */
            const int v = 64 + (b[i] & 63);
            b[i] = (uint8_t)(b[i] & 64 ? -v : v);
        }
        put_half(b + 208, deviation / spread(64) / SIX_SCALE, 0);
        return true;
    default: return false;
    }
}

bool fs_synth_fill(fs_dtype type, double deviation, uint64_t seed, int64_t chunk, int64_t n, uint8_t *out) {
    fs_rng rng = fs_rng_seed(mix(seed, (uint64_t)chunk));
    size_t bytes, block;
    if (type == FS_DTYPE_F32 || type == FS_DTYPE_F16 || type == FS_DTYPE_BF16) {
        fill_plain(type, deviation, &rng, n, out);
        return true;
    }
    if (!fs_dtype_row_bytes(type, n, &bytes) || !fs_dtype_row_bytes(type, fs_dtype_block(type), &block)) return false;
    for (size_t i = 0; i < bytes; i += 8) {
        const uint64_t r = fs_rng_next(&rng);
        memcpy(out + i, &r, bytes - i < 8 ? bytes - i : 8);
    }
    for (size_t i = 0; i < bytes; i += block)
        if (!put_scales(type, deviation, fs_rng_next(&rng), out + i)) return false;
    return true;
}
