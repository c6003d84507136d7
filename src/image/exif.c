/* The one thing this program wants from EXIF: the orientation, tag 0x0112 of the first directory (EXIF 2.3, TIFF 6.0 section 2).
 * The bytes come from strangers: every offset is checked against the block, nothing is followed but that one directory, and anything
 * odd means "no orientation". */
#include "image/codec.h"

#include <string.h>

typedef struct reader {
    const uint8_t *data;
    size_t size;
    bool big;
} reader;

static bool read_u16(const reader *r, size_t at, uint32_t *out) {
    if (at > r->size || r->size - at < 2) return false;
    const uint8_t *p = r->data + at;
    *out = r->big ? (uint32_t)(p[0] << 8 | p[1]) : (uint32_t)(p[1] << 8 | p[0]);
    return true;
}

static bool read_u32(const reader *r, size_t at, uint32_t *out) {
    uint32_t a, b;
    if (at > SIZE_MAX - 2 || !read_u16(r, at, &a) || !read_u16(r, at + 2, &b)) return false;
    *out = r->big ? a << 16 | b : b << 16 | a;
    return true;
}

int fs_exif_orientation(const uint8_t *data, size_t size) {
    enum { TAG_ORIENTATION = 0x0112, TYPE_SHORT = 3, TYPE_LONG = 4 };
    if (size >= 6 && memcmp(data, "Exif\0\0", 6) == 0) {
        data += 6;
        size -= 6;
    }
    reader r = {data, size, false};
    uint32_t magic, offset, count;
    if (size < 8) return 1;
    if (memcmp(data, "MM", 2) == 0)
        r.big = true;
    else if (memcmp(data, "II", 2) != 0)
        return 1;
    if (!read_u16(&r, 2, &magic) || magic != 42 || !read_u32(&r, 4, &offset) || !read_u16(&r, offset, &count)) return 1;
    for (uint32_t i = 0; i < count; i++) {
        size_t at = (size_t)offset + 2 + 12 * (size_t)i;
        uint32_t tag, type, n, value;
        if (!read_u16(&r, at, &tag) || !read_u16(&r, at + 2, &type) || !read_u32(&r, at + 4, &n)) return 1;
        if (tag != TAG_ORIENTATION) continue;
        if (n != 1) return 1;
        bool ok = type == TYPE_SHORT ? read_u16(&r, at + 8, &value) : type == TYPE_LONG && read_u32(&r, at + 8, &value);
        return ok && value >= 1 && value <= 8 ? (int)value : 1;
    }
    return 1;
}
