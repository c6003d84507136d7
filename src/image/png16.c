/* 16-bit grey PNG as numbers, for maps of scores: fs_image_load would keep 8 bits. Anything else is left to it. */
#include "image/image.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

typedef struct source {
    const uint8_t *data;
    size_t left;
    char text[128];
} source;

static _Noreturn void on_error(png_structp png, png_const_charp text) {
    source *s = png_get_error_ptr(png);
    snprintf(s->text, sizeof s->text, "%s", text ? text : "unknown");
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp text) {
    (void)png, (void)text;
}

static void read_bytes(png_structp png, png_bytep out, size_t n) {
    source *s = png_get_io_ptr(png);
    if (n > s->left) png_error(png, "the file ends early");
    memcpy(out, s->data, n);
    s->data += n;
    s->left -= n;
}

static uint32_t big(const uint8_t *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

bool fs_png_is_grey16(const uint8_t *data, size_t size) {
    return size >= 33 && memcmp(data, "\x89PNG\r\n\x1a\n", 8) == 0 && memcmp(data + 12, "IHDR", 4) == 0 && data[24] == 16 && data[25] == 0;
}

/* All that may jump. */
static bool read_guarded(png_structp png, png_infop info, source *s, uint8_t *raw, png_bytep *rows, int64_t w, int64_t h) {
    if (setjmp(png_jmpbuf(png))) return false;
    png_set_read_fn(png, s, read_bytes);
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
    png_read_info(png, info);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) != (size_t)w * 2) png_error(png, "the header contradicts itself");
    for (int64_t y = 0; y < h; y++) rows[y] = raw + (size_t)y * (size_t)w * 2;
    png_read_image(png, rows);
    png_read_end(png, NULL);
    return true;
}

fs_status fs_png_read_grey16(const char *name, const uint8_t *data, size_t size, int64_t max_pixels, uint16_t **out, int64_t *width,
                             int64_t *height, fs_error *err) {
    source s = {.data = data, .left = size};
    *out = NULL;
    if (!fs_png_is_grey16(data, size)) return fs_fail(err, FS_E_UNSUPPORTED, "%s: is no 16-bit grey PNG", name);
    const int64_t w = big(data + 16), h = big(data + 20);
    int64_t pixels;
    if (w < 1 || h < 1 || w > INT32_MAX || h > INT32_MAX || !fs_mul_i64(w, h, &pixels) || pixels > max_pixels)
        return fs_fail(err, FS_E_LIMIT, "%s: %lld x %lld pixels, the limit is %lld pixels", name, (long long)w, (long long)h,
                       (long long)max_pixels);
    if ((uint64_t)pixels * 2 / 1032 > size) /* deflate packs at most 1032 to 1 */
        return fs_fail(err, FS_E_FORMAT, "%s: the PNG header promises %lld x %lld pixels but the file has only %zu bytes", name,
                       (long long)w, (long long)h, size);
    fs_status status = FS_OK;
    uint8_t *raw = fs_alloc((size_t)pixels, 2);
    uint16_t *v = fs_alloc((size_t)pixels, sizeof *v);
    png_bytep *rows = fs_alloc((size_t)h, sizeof *rows);
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    if (!raw || !v || !rows || !info) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for %lld x %lld pixels", name, (long long)w, (long long)h);
        goto done;
    }
    if (!read_guarded(png, info, &s, raw, rows, w, h)) {
        status = fs_fail(err, FS_E_FORMAT, "%s: the PNG data is broken or cut off (%s); get the file again", name, s.text);
        goto done;
    }
    for (int64_t i = 0; i < pixels; i++) v[i] = (uint16_t)(raw[2 * i] << 8 | raw[2 * i + 1]);
    *out = v;
    v = NULL;
    *width = w;
    *height = h;
done:
    if (png) png_destroy_read_struct(&png, &info, NULL);
    free(raw);
    free(v);
    free(rows);
    return status;
}
