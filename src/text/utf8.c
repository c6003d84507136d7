/* UTF-8: RFC 3629's table of well-formed sequences; replacement of broken ones as Unicode chapter 3.9 recommends and Python does. */
#include "text/utf8.h"

/* Number of bytes a lead byte announces and the range of the byte behind it; 0 for a byte that leads nothing. */
static size_t lead(unsigned char c, unsigned char *low, unsigned char *high) {
    *low = 0x80, *high = 0xBF;
    if (c < 0x80) return 1;
    if (c < 0xC2) return 0;
    if (c < 0xE0) return 2;
    if (c < 0xF0) {
        if (c == 0xE0) *low = 0xA0;
        if (c == 0xED) *high = 0x9F; /* surrogates */
        return 3;
    }
    if (c == 0xF0) *low = 0x90;
    if (c == 0xF4) *high = 0x8F;
    return c <= 0xF4 ? 4 : 0;
}

/* How many of the announced bytes are there and right; *want: how many are announced. */
static size_t matching(const char *p, size_t n, size_t *want) {
    unsigned char low, high;
    *want = lead((unsigned char)p[0], &low, &high);
    if (*want == 0) return 0;
    size_t i = 1;
    for (; i < *want && i < n; i++) {
        unsigned char c = (unsigned char)p[i];
        if (c < low || c > high) break;
        low = 0x80, high = 0xBF;
    }
    return i;
}

size_t fs_utf8_char(const char *p, size_t n, uint32_t *code) {
    static const uint8_t mask[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    size_t want;
    if (matching(p, n, &want) != want || want == 0) return 0;
    uint32_t c = (unsigned char)p[0] & mask[want];
    for (size_t i = 1; i < want; i++) c = c << 6 | ((unsigned char)p[i] & 0x3F);
    if (code) *code = c;
    return want;
}

size_t fs_utf8_broken(const char *p, size_t n, bool *incomplete) {
    size_t want, have = matching(p, n, &want);
    if (incomplete) *incomplete = have == n && have < want;
    return have ? have : 1;
}

bool fs_utf8_valid(const char *p, size_t n) {
    for (size_t i = 0; i < n;) {
        size_t step = fs_utf8_char(p + i, n - i, NULL);
        if (step == 0) return false;
        i += step;
    }
    return true;
}

void fs_utf8_clean(fs_buffer *out, const char *p, size_t n) {
    size_t done = 0;
    for (size_t i = 0; i < n;) {
        size_t step = fs_utf8_char(p + i, n - i, NULL);
        if (step) {
            i += step;
            continue;
        }
        fs_buffer_add(out, p + done, i - done);
        fs_buffer_puts(out, FS_UTF8_REPLACEMENT);
        i += fs_utf8_broken(p + i, n - i, NULL);
        done = i;
    }
    fs_buffer_add(out, p + done, n - done);
}

bool fs_utf8_is_space(uint32_t c) {
    if (c <= 0x20) return c == 0x20 || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F);
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
           c == 0x205F || c == 0x3000;
}

void fs_utf8_strip(const char **begin, const char **end, bool left, bool right) {
    uint32_t c = 0;
    while (left && *begin < *end) {
        size_t step = fs_utf8_char(*begin, (size_t)(*end - *begin), &c);
        if (step == 0 || !fs_utf8_is_space(c)) break;
        *begin += step;
    }
    while (right && *begin < *end) {
        const char *p = *end - 1;
        while (p > *begin && ((unsigned char)*p & 0xC0) == 0x80) p--;
        if (fs_utf8_char(p, (size_t)(*end - p), &c) != (size_t)(*end - p) || !fs_utf8_is_space(c)) break;
        *end = p;
    }
}
