/* Writing PNG: 8-bit grey (masks) or RGB (overlays), with every choice of the encoder pinned, so that the same pixels give the same bytes
 * with the same libpng and zlib. Masks compress best unfiltered, photos with the Paeth predictor. */
#include "image/image.h"

#include <setjmp.h>
#include <stdlib.h>

#include <png.h>
#include <zlib.h>

typedef struct sink {
    fs_buffer bytes;
    char text[160];
} sink;

static _Noreturn void on_error(png_structp png, png_const_charp text) {
    sink *s = png_get_error_ptr(png);
    snprintf(s->text, sizeof s->text, "%s", text ? text : "unknown");
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp text) {
    (void)png, (void)text;
}

static void write_bytes(png_structp png, png_bytep data, size_t n) {
    sink *s = png_get_io_ptr(png);
    fs_buffer_add(&s->bytes, data, n);
    if (s->bytes.failed) png_error(png, "out of memory");
}

static void flush_bytes(png_structp png) {
    (void)png;
}

static bool encode_guarded(sink *s, png_structp png, png_infop info, const uint8_t *pixels, int64_t w, int64_t h, int channels) {
    if (setjmp(png_jmpbuf(png))) return false;
    png_set_write_fn(png, s, write_bytes, flush_bytes);
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff);
    png_set_compression_level(png, 6);
    png_set_compression_mem_level(png, 8);
    png_set_compression_strategy(png, channels == 1 ? Z_DEFAULT_STRATEGY : Z_FILTERED);
    png_set_compression_window_bits(png, 15);
    png_set_filter(png, PNG_FILTER_TYPE_BASE, channels == 1 ? PNG_FILTER_NONE : PNG_FILTER_PAETH);
    png_set_IHDR(png, info, (png_uint_32)w, (png_uint_32)h, 8, channels == 1 ? PNG_COLOR_TYPE_GRAY : PNG_COLOR_TYPE_RGB, PNG_INTERLACE_NONE,
                 PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (int64_t y = 0; y < h; y++) png_write_row(png, pixels + y * w * channels);
    png_write_end(png, info);
    return true;
}

fs_status fs_png_encode(const uint8_t *pixels, int64_t w, int64_t h, int channels, uint8_t **out, size_t *size, fs_error *err) {
    *out = NULL;
    *size = 0;
    if ((channels != 1 && channels != 3) || w < 1 || h < 1 || w > 0x7fffffff || h > 0x7fffffff)
        return fs_fail(err, FS_E_USAGE,
                       "a PNG of %lld x %lld pixels with %d channels cannot be written: sides of 1 to 2147483647 and 1 or 3 "
                       "channels are possible",
                       (long long)w, (long long)h, channels);
    sink s = {0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    bool ok = info && encode_guarded(&s, png, info, pixels, w, h, channels);
    png_destroy_write_struct(&png, &info);
    if (!ok) {
        fs_buffer_free(&s.bytes);
        return fs_fail(err, FS_E_NO_MEMORY, "cannot encode a PNG of %lld x %lld pixels (%s)", (long long)w, (long long)h,
                       s.text[0] ? s.text : "out of memory");
    }
    *out = (uint8_t *)s.bytes.data;
    *size = s.bytes.size;
    return FS_OK;
}

fs_status fs_png_write(const char *path, const uint8_t *pixels, int64_t w, int64_t h, int channels, fs_error *err) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    fs_status status = fs_png_encode(pixels, w, h, channels, &bytes, &size, err);
    if (status) return err ? fs_error_prefix(err, "%s", path) : status;
    status = fs_write_file(path, bytes, size, err);
    free(bytes);
    return status;
}
