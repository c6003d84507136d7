/* Half-precision conversions, the random generator (xoshiro256** of Blackman and Vigna, seeded by splitmix64) and SHA-256. */
#include "base/base.h"

#include <string.h>

static uint32_t bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

static float float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, 4);
    return f;
}

float fs_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3FFu;
    if (exponent == 31) return float_of(sign | 0x7F800000u | mantissa << 13);
    if (exponent > 0) return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
    return float_of(sign | bits_of((float)mantissa * 0x1p-24f)); /* subnormal: exact in f32 */
}

uint16_t fs_f32_to_f16(float f) {
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000u, a = u & 0x7FFFFFFFu;
    if (a > 0x7F800000u) return (uint16_t)(sign | 0x7E00u | (a >> 13 & 0x1FFu)); /* NaN, made quiet */
    if (a >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u);                     /* 65520 and above round to infinity */
    if (a < 0x38800000u) {                                                       /* below 2^-14: the f32 adder rounds for us */
        float shifted = float_of(a) + 0.5f;                                      /* ulp of 0.5 is 2^-24, f16's smallest step */
        return (uint16_t)(sign | (bits_of(shifted) - 0x3F000000u));
    }
    uint32_t odd = a >> 13 & 1;
    return (uint16_t)(sign | (a - (112u << 23) + 0xFFFu + odd) >> 13);
}

uint16_t fs_f32_to_bf16(float f) {
    uint32_t u = bits_of(f);
    if ((u & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(u >> 16 | 0x40u);
    return (uint16_t)((u + 0x7FFFu + (u >> 16 & 1)) >> 16);
}

/* ---- random numbers ---- */

static uint64_t rotl(uint64_t v, int n) { return v << n | v >> (64 - n); }

fs_rng fs_rng_seed(uint64_t seed) {
    fs_rng r;
    for (int i = 0; i < 4; i++) {
        uint64_t z = seed += 0x9E3779B97F4A7C15u;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
        z = (z ^ z >> 27) * 0x94D049BB133111EBu;
        r.s[i] = z ^ z >> 31;
    }
    return r;
}

uint64_t fs_rng_next(fs_rng *r) {
    uint64_t *s = r->s, result = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return result;
}

double fs_rng_uniform(fs_rng *r) { return (double)(fs_rng_next(r) >> 11) * 0x1p-53; }

/* ---- SHA-256 (FIPS 180-4) ---- */

/* First 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t round_constant[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotr(uint32_t v, int n) { return v >> n | v << (32 - n); }

static void sha256_block(uint32_t h[8], const uint8_t *p) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t a = w[i - 15], b = w[i - 2];
        w[i] = w[i - 16] + (rotr(a, 7) ^ rotr(a, 18) ^ a >> 3) + w[i - 7] + (rotr(b, 17) ^ rotr(b, 19) ^ b >> 10);
    }
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i++) {
        uint32_t e = v[4], a = v[0];
        uint32_t t1 = v[7] + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & v[5]) ^ (~e & v[6])) + round_constant[i] + w[i];
        uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += t1;
        v[0] = t1 + t2;
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
}

void fs_sha256_begin(fs_sha256 *s) {
    *s = (fs_sha256){.h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void fs_sha256_add(fs_sha256 *s, const void *data, size_t size) {
    const uint8_t *p = data;
    size_t filled = (size_t)(s->size % 64);
    s->size += size;
    if (filled > 0) {
        size_t some = size < 64 - filled ? size : 64 - filled;
        if (some) memcpy(s->tail + filled, p, some);
        p += some;
        size -= some;
        if (filled + some < 64) return;
        sha256_block(s->h, s->tail);
    }
    for (; size >= 64; size -= 64, p += 64) sha256_block(s->h, p);
    if (size) memcpy(s->tail, p, size);
}

void fs_sha256_end(const fs_sha256 *s, char out[65]) {
    uint32_t h[8];
    uint8_t tail[128] = {0};
    const size_t left = (size_t)(s->size % 64), end = left < 56 ? 64 : 128;
    memcpy(h, s->h, sizeof h);
    memcpy(tail, s->tail, left);
    tail[left] = 0x80;
    for (int i = 0; i < 8; i++) tail[end - 1 - (size_t)i] = (uint8_t)(s->size * 8 >> 8 * i);
    for (size_t at = 0; at < end; at += 64) sha256_block(h, tail + at);
    for (int i = 0; i < 8; i++) snprintf(out + 8 * i, 9, "%08x", h[i]);
}

void fs_sha256_hex(const void *data, size_t size, char out[65]) {
    fs_sha256 s;
    fs_sha256_begin(&s);
    fs_sha256_add(&s, data, size);
    fs_sha256_end(&s, out);
}
