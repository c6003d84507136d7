/* SHA-256 (FIPS 180-4), piece by piece. Where the processor has instructions for it (x86 SHA extensions), they are used: tens of gigabytes
 * are summed up when weights are downloaded, converted and verified, and plain C would take longer than reading them. */
#include "base/base.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

/* First 32 bits of the fractional parts of the cube roots of the first 64 primes. */
static const uint32_t round_constant[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotr(uint32_t v, int n) {
    return v >> n | v << (32 - n);
}

/* h: the eight words of state, changed; p: `count` blocks of 64 bytes. */
static void blocks_plain(uint32_t h[8], const uint8_t *p, size_t count) {
    for (; count > 0; count--, p += 64) {
        uint32_t w[64], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], k = h[7];
        for (int i = 0; i < 16; i++)
            w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
        for (int i = 16; i < 64; i++) {
            uint32_t x = w[i - 15], y = w[i - 2];
            w[i] = w[i - 16] + (rotr(x, 7) ^ rotr(x, 18) ^ x >> 3) + w[i - 7] + (rotr(y, 17) ^ rotr(y, 19) ^ y >> 10);
        }
        for (int i = 0; i < 64; i++) {
            uint32_t t1 = k + (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + ((e & f) ^ (~e & g)) + round_constant[i] + w[i];
            uint32_t t2 = (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
            k = g;
            g = f;
            f = e;
            e = d + t1;
            d = c;
            c = b;
            b = a;
            a = t1 + t2;
        }
        h[0] += a;
        h[1] += b;
        h[2] += c;
        h[3] += d;
        h[4] += e;
        h[5] += f;
        h[6] += g;
        h[7] += k;
    }
}

#if defined(__x86_64__)
#define FS_SHA_TARGET __attribute__((target("sha,sse4.1,ssse3")))

/* Rounds t .. t+3. abef, cdgh: the state as the instruction wants it, first letter in the highest lane. It does two rounds and gives the
 * new abef; the old abef is then the new cdgh, so the two change places. */
FS_SHA_TARGET static inline void four_rounds(__m128i *abef, __m128i *cdgh, __m128i w, const uint32_t *k) {
    __m128i sum = _mm_add_epi32(w, _mm_loadu_si128((const __m128i *)(const void *)k));
    *cdgh = _mm_sha256rnds2_epu32(*cdgh, *abef, sum);
    *abef = _mm_sha256rnds2_epu32(*abef, *cdgh, _mm_shuffle_epi32(sum, 0x0e));
}

/* w[t .. t+3] from the sixteen before: w0 = w[t-16 .. t-13], w1, w2, w3. */
FS_SHA_TARGET static inline __m128i next_words(__m128i w0, __m128i w1, __m128i w2, __m128i w3) {
    return _mm_sha256msg2_epu32(_mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8(w3, w2, 4)), w3);
}

FS_SHA_TARGET static void blocks_x86(uint32_t h[8], const uint8_t *p, size_t count) {
    const __m128i big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    __m128i abef = _mm_set_epi32((int)h[0], (int)h[1], (int)h[4], (int)h[5]);
    __m128i cdgh = _mm_set_epi32((int)h[2], (int)h[3], (int)h[6], (int)h[7]);
    for (; count > 0; count--, p += 64) {
        const __m128i *in = (const __m128i *)(const void *)p, abef_before = abef, cdgh_before = cdgh;
        __m128i w0 = _mm_shuffle_epi8(_mm_loadu_si128(in), big_endian), w1 = _mm_shuffle_epi8(_mm_loadu_si128(in + 1), big_endian);
        __m128i w2 = _mm_shuffle_epi8(_mm_loadu_si128(in + 2), big_endian), w3 = _mm_shuffle_epi8(_mm_loadu_si128(in + 3), big_endian);
        for (const uint32_t *k = round_constant;; k += 16) {
            four_rounds(&abef, &cdgh, w0, k);
            four_rounds(&abef, &cdgh, w1, k + 4);
            four_rounds(&abef, &cdgh, w2, k + 8);
            four_rounds(&abef, &cdgh, w3, k + 12);
            if (k == round_constant + 48) break;
            w0 = next_words(w0, w1, w2, w3);
            w1 = next_words(w1, w2, w3, w0);
            w2 = next_words(w2, w3, w0, w1);
            w3 = next_words(w3, w0, w1, w2);
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    h[0] = (uint32_t)_mm_extract_epi32(abef, 3);
    h[1] = (uint32_t)_mm_extract_epi32(abef, 2);
    h[4] = (uint32_t)_mm_extract_epi32(abef, 1);
    h[5] = (uint32_t)_mm_extract_epi32(abef, 0);
    h[2] = (uint32_t)_mm_extract_epi32(cdgh, 3);
    h[3] = (uint32_t)_mm_extract_epi32(cdgh, 2);
    h[6] = (uint32_t)_mm_extract_epi32(cdgh, 1);
    h[7] = (uint32_t)_mm_extract_epi32(cdgh, 0);
}

static bool has_instructions(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSE4_1) || !(c & bit_SSSE3)) return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}
#endif

void fs_sha256_begin_plain(fs_sha256 *s) {
    *s = (fs_sha256){.h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19},
                     .blocks = blocks_plain};
}

void fs_sha256_begin(fs_sha256 *s) {
    fs_sha256_begin_plain(s);
#if defined(__x86_64__)
    if (has_instructions()) s->blocks = blocks_x86;
#endif
}

void fs_sha256_add(fs_sha256 *s, const void *data, size_t size) {
    const uint8_t *p = data;
    size_t filled = (size_t)(s->size % 64);
    if (size == 0) return;
    s->size += size;
    if (filled > 0) {
        size_t some = size < 64 - filled ? size : 64 - filled;
        memcpy(s->tail + filled, p, some);
        p += some;
        size -= some;
        if (filled + some < 64) return;
        s->blocks(s->h, s->tail, 1);
    }
    s->blocks(s->h, p, size / 64);
    p += size / 64 * 64;
    if (size % 64) memcpy(s->tail, p, size % 64);
}

void fs_sha256_end(const fs_sha256 *s, char out[65]) {
    uint32_t h[8];
    uint8_t tail[128] = {0};
    const size_t left = (size_t)(s->size % 64), end = left < 56 ? 64 : 128;
    memcpy(h, s->h, sizeof h);
    memcpy(tail, s->tail, left);
    tail[left] = 0x80;
    for (int i = 0; i < 8; i++) tail[end - 1 - (size_t)i] = (uint8_t)(s->size * 8 >> 8 * i);
    s->blocks(h, tail, end / 64);
    for (int i = 0; i < 8; i++) snprintf(out + 8 * i, 9, "%08x", h[i]);
}

void fs_sha256_hex(const void *data, size_t size, char out[65]) {
    fs_sha256 s;
    fs_sha256_begin(&s);
    fs_sha256_add(&s, data, size);
    fs_sha256_end(&s, out);
}
