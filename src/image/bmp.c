/* Windows and OS/2 bitmaps: 1, 4 and 8 bits with palette, 16 bits (5-5-5 and 5-6-5), 24 and 32 bits, bottom-up or top-down, headers of 12,
 * 40, 52, 56, 64, 108 and 124 bytes. Run-length coded and embedded JPEG/PNG ones are refused by name. 5- and 6-bit values become v*255/31
 * (or /63) as in Pillow or v<<3 (or <<2) as in OpenCV; an index past the palette is (i,i,i) in Pillow and black in OpenCV. */
#include "image/codec.h"

#include <string.h>

typedef struct bitmap {
    int64_t width, height;
    bool top_down;
    uint32_t bits, compression, header;
    uint32_t mask[3]; /* red, green, blue */
    size_t pixels_at, stride;
    uint8_t palette[256][3];
} bitmap;

static uint32_t le16(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8;
}
static uint32_t le32(const uint8_t *p) {
    return le16(p) | le16(p + 2) << 16;
}

static fs_status fail_broken(const fs_codec_job *job, const char *what) {
    return fs_fail(job->err, FS_E_FORMAT, "%s: the BMP file is broken or cut off (%s); get the file again", job->name, what);
}

static fs_status read_header(const fs_codec_job *job, bitmap *b) {
    const uint8_t *d = job->data;
    if (job->size < 14 + 12) return fail_broken(job, "no room for its header");
    b->pixels_at = le32(d + 10);
    b->header = le32(d + 14);
    uint32_t n = b->header;
    if (n != 12 && n != 40 && n != 52 && n != 56 && n != 64 && n != 108 && n != 124)
        return fs_fail(job->err, FS_E_UNSUPPORTED, "%s: a BMP with a header of %u bytes; save it as PNG", job->name, n);
    if (job->size < 14 + (size_t)n) return fail_broken(job, "no room for its header");
    if (n == 12) {
        b->width = le16(d + 18);
        b->height = le16(d + 20);
        b->bits = le16(d + 24);
        return FS_OK;
    }
    b->width = (int32_t)le32(d + 18);
    b->height = (int32_t)le32(d + 22);
    b->top_down = b->height < 0;
    if (b->top_down) b->height = -b->height;
    b->bits = le16(d + 28);
    b->compression = le32(d + 30);
    return FS_OK;
}

static fs_status check_coding(const fs_codec_job *job, bitmap *b) {
    static const char *const names[] = {"", "run-length coding", "run-length coding", "", "an embedded JPEG", "an embedded PNG"};
    enum { RGB = 0, BITFIELDS = 3, ALPHA_BITFIELDS = 6 };
    if (b->bits != 1 && b->bits != 4 && b->bits != 8 && b->bits != 16 && b->bits != 24 && b->bits != 32)
        return fs_fail(job->err, FS_E_UNSUPPORTED, "%s: a BMP with %u bits per pixel; 1, 4, 8, 16, 24 or 32 are read. Save it as PNG",
                       job->name, b->bits);
    bool fields = (b->compression == BITFIELDS || b->compression == ALPHA_BITFIELDS) && b->header != 64;
    if (b->compression != RGB && !fields)
        return fs_fail(job->err, FS_E_UNSUPPORTED, "%s: a BMP with %s (compression %u) is not supported; save it as PNG", job->name,
                       b->compression < 6 && names[b->compression][0] ? names[b->compression] : "an unknown coding", b->compression);
    if (b->bits == 16)
        memcpy(b->mask, (uint32_t[3]){0x7C00, 0x03E0, 0x001F}, sizeof b->mask);
    else
        memcpy(b->mask, (uint32_t[3]){0xFF0000, 0xFF00, 0xFF}, sizeof b->mask);
    if (!fields || b->bits <= 8) return FS_OK;
    if (job->size < 14 + 40 + 12) return fail_broken(job, "no room for its colour masks");
    uint32_t mask[3];
    for (size_t i = 0; i < 3; i++) mask[i] = le32(job->data + 54 + 4 * i);
    if (mask[0] | mask[1] | mask[2]) memcpy(b->mask, mask, sizeof mask);
    bool ok = true;
    if (b->bits == 16) {
        ok = b->mask[2] == 0x1F && ((b->mask[0] == 0x7C00 && b->mask[1] == 0x3E0) || (b->mask[0] == 0xF800 && b->mask[1] == 0x7E0));
    } else {
        uint32_t whole = b->bits == 24 ? 0xFFFFFF : 0xFFFFFFFF;
        for (int i = 0; i < 3; i++) {
            uint32_t m = b->mask[i] & whole;
            ok = ok && (m == 0xFF || m == 0xFF00 || m == 0xFF0000 || m == 0xFF000000);
        }
    }
    if (ok) return FS_OK;
    return fs_fail(job->err, FS_E_UNSUPPORTED, "%s: a BMP with colour masks %08X %08X %08X is not supported; save it as PNG", job->name,
                   b->mask[0], b->mask[1], b->mask[2]);
}

static fs_status read_palette(const fs_codec_job *job, bitmap *b, uint32_t *n_colors) {
    uint32_t room = 1u << b->bits, entry = b->header == 12 ? 3 : 4;
    uint32_t colors = b->header == 12 ? 0 : le32(job->data + 46);
    size_t at = 14 + (size_t)b->header;
    if (colors == 0) colors = room;
    if (colors > 65536) return fail_broken(job, "an absurd palette size");
    if (b->pixels_at == at || b->pixels_at == 0) b->pixels_at = at + (size_t)entry * colors; /* some writers forget the palette here */
    if (colors > room) colors = room;
    *n_colors = colors;
    if (job->size - at < (size_t)entry * colors) return fail_broken(job, "no room for its palette");
    for (uint32_t i = 0; i < 256; i++) {
        const uint8_t *p = job->data + at + (size_t)entry * i;
        uint8_t rest = job->opt->style == FS_DECODE_PIL ? (uint8_t)i : 0;
        for (int c = 0; c < 3; c++) b->palette[i][c] = i < colors ? p[2 - c] : rest;
    }
    return FS_OK;
}

/* Pillow's name: palettes that are the plain grey ramp count as grey, 32 bits as RGBA where a mask names alpha. */
static const char *mode_name(const fs_codec_job *job, const bitmap *b, uint32_t colors) {
    if (b->bits > 8) {
        bool fields = b->bits == 32 && b->compression != 0;
        bool none = fields && (le32(job->data + 54) | le32(job->data + 58) | le32(job->data + 62)) == 0;
        return none || (fields && b->header >= 56 && le32(job->data + 66) != 0) ? "RGBA" : "RGB";
    }
    for (uint32_t i = 0; i < colors; i++) {
        uint8_t gray = colors == 2 ? (uint8_t)(255 * i) : (uint8_t)i;
        for (int c = 0; c < 3; c++)
            if (b->palette[i][c] != gray) return "P";
    }
    return colors == 2 ? "1" : "L";
}

static uint8_t widen(uint32_t v, uint32_t bits, fs_decode_style style) {
    if (style == FS_DECODE_PIL) return (uint8_t)(v * 255 / ((1u << bits) - 1));
    return (uint8_t)(v << (8 - bits));
}

static void convert_row(const bitmap *b, const uint8_t *in, fs_decode_style style, uint8_t *out) {
    for (int64_t x = 0; x < b->width; x++, out += 3) {
        if (b->bits <= 8) {
            uint32_t bit = (uint32_t)(x * b->bits % 8), byte = in[x * b->bits / 8];
            memcpy(out, b->palette[byte >> (8 - b->bits - bit) & ((1u << b->bits) - 1)], 3);
        } else if (b->bits == 16) {
            uint32_t v = le16(in + 2 * x), green = b->mask[1] == 0x7E0 ? 6 : 5;
            out[0] = widen(v >> (5 + green) & 31, 5, style);
            out[1] = widen(v >> 5 & ((1u << green) - 1), green, style);
            out[2] = widen(v & 31, 5, style);
        } else {
            const uint8_t *p = in + x * (b->bits / 8);
            uint32_t v = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (b->bits == 32 ? (uint32_t)p[3] << 24 : 0);
            for (int c = 0; c < 3; c++) out[c] = (uint8_t)((v & b->mask[c]) >> __builtin_ctz(b->mask[c]));
        }
    }
}

fs_status fs_codec_bmp(const fs_codec_job *job, fs_image **out) {
    bitmap b = {0};
    snprintf(job->info->format, sizeof job->info->format, "BMP");
    fs_status status = read_header(job, &b);
    uint32_t colors = 0;
    if (!status) status = fs_codec_check_size(job, "BMP", "", b.width, b.height);
    if (!status) status = check_coding(job, &b);
    if (!status && b.bits <= 8) status = read_palette(job, &b, &colors);
    if (status) return status;
    snprintf(job->info->mode, sizeof job->info->mode, "%s", mode_name(job, &b, colors));
    if (b.pixels_at == 0) b.pixels_at = 14 + (size_t)b.header;
    b.stride = (size_t)(b.width * b.bits + 31) / 32 * 4; /* width is at most the pixel limit, and int32 */
    size_t needed = (size_t)(b.height - 1) * b.stride + (size_t)(b.width * b.bits + 7) / 8;
    if (b.pixels_at > job->size || job->size - b.pixels_at < needed) {
        char what[96];
        snprintf(what, sizeof what, "%zu bytes of pixels expected at %zu, the file ends at %zu", needed, b.pixels_at, job->size);
        return fail_broken(job, what);
    }
    fs_image *im = NULL;
    status = fs_image_create(b.width, b.height, &im, job->err);
    if (status) return fs_error_prefix(job->err, "%s", job->name);
    for (int64_t y = 0; y < b.height; y++) {
        int64_t stored = b.top_down ? y : b.height - 1 - y;
        convert_row(&b, job->data + b.pixels_at + (size_t)stored * b.stride, job->opt->style, im->data + y * b.width * 3);
    }
    *out = im;
    return FS_OK;
}
