/* Checksums of a hub's files: SHA-256 for those in large-file storage, and for small ones the SHA-1 that git gives a blob, which is taken
 * over "blob <size>\0" and then the bytes. SHA-1 (FIPS 180-4) is no protection against somebody who can make collisions; it finds damage,
 * and is what the hub publishes for these files (configs and texts; weights are in large-file storage). */
#include "net/net.h"

#include <string.h>

static uint32_t rotl(uint32_t x, int n) {
    return x << n | x >> (32 - n);
}

static void sha1_block(uint32_t h[5], const uint8_t *p) {
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)p[4 * i] << 24 | (uint32_t)p[4 * i + 1] << 16 | (uint32_t)p[4 * i + 2] << 8 | p[4 * i + 3];
    for (int i = 16; i < 80; i++) w[i] = rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? (b & c) | (~b & d) : i < 40 ? b ^ c ^ d : i < 60 ? (b & c) | (b & d) | (c & d) : b ^ c ^ d;
        uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
        uint32_t t = rotl(a, 5) + f + e + k + w[i];
        e = d;
        d = c;
        c = rotl(b, 30);
        b = a;
        a = t;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

static void sha1_add(fs_net_sha1 *s, const void *data, size_t size) {
    const uint8_t *p = data;
    size_t filled = (size_t)(s->size % 64);
    s->size += size;
    if (filled > 0) {
        size_t some = size < 64 - filled ? size : 64 - filled;
        memcpy(s->tail + filled, p, some);
        p += some;
        size -= some;
        if (filled + some < 64) return;
        sha1_block(s->h, s->tail);
    }
    for (; size >= 64; size -= 64, p += 64) sha1_block(s->h, p);
    if (size) memcpy(s->tail, p, size);
}

static void sha1_end(fs_net_sha1 *s, char out[65]) {
    uint8_t tail[128] = {0};
    const size_t left = (size_t)(s->size % 64), end = left < 56 ? 64 : 128;
    memcpy(tail, s->tail, left);
    tail[left] = 0x80;
    for (int i = 0; i < 8; i++) tail[end - 1 - (size_t)i] = (uint8_t)(s->size * 8 >> 8 * i);
    for (size_t at = 0; at < end; at += 64) sha1_block(s->h, tail + at);
    for (int i = 0; i < 5; i++) snprintf(out + 8 * i, 9, "%08x", s->h[i]);
}

void fs_net_digest_begin(fs_net_digest *d, const fs_net_entry *e) {
    *d = (fs_net_digest){.git = e->git};
    if (!e->git) {
        fs_sha256_begin(&d->sha256);
        return;
    }
    char head[40];
    int n = snprintf(head, sizeof head, "blob %lld", (long long)e->size);
    d->sha1 = (fs_net_sha1){.h = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}};
    sha1_add(&d->sha1, head, (size_t)n + 1); /* the zero byte too */
}

void fs_net_digest_add(fs_net_digest *d, const void *data, size_t size) {
    if (!size) return;
    if (d->git)
        sha1_add(&d->sha1, data, size);
    else
        fs_sha256_add(&d->sha256, data, size);
}

void fs_net_digest_end(fs_net_digest *d, char out[65]) {
    if (d->git)
        sha1_end(&d->sha1, out);
    else
        fs_sha256_end(&d->sha256, out);
}
