/* PNG through libpng. Rows are taken as libpng unpacks them to 1 byte (grey, palette index), 2 bytes (16-bit grey) or 3 bytes (colour)
 * per pixel; alpha and tRNS are dropped without compositing. 16-bit grey becomes min(v, 255) as in Pillow (its "I" mode clipped) or v/256
 * as in OpenCV; 16-bit colour becomes its high byte in both. An index past the palette is (i,i,i) in Pillow and black in OpenCV.
 * No gamma or profile is applied. */
#include "image/codec.h"

#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <png.h>

typedef struct session {
    png_structp png;
    png_infop info;
    const uint8_t *data;
    size_t left;
    char text[192];
    fs_status status;
    fs_image *im;
    uint8_t *raw; /* [h][w * bytes] for 1 and 2 bytes per pixel */
    png_bytep *rows;
    int bytes; /* per pixel as read */
} session;

static _Noreturn void on_error(png_structp png, png_const_charp text) {
    session *s = png_get_error_ptr(png);
    snprintf(s->text, sizeof s->text, "%s", text ? text : "unknown");
    longjmp(png_jmpbuf(png), 1);
}

static void on_warning(png_structp png, png_const_charp text) {
    (void)png, (void)text;
}

static void read_bytes(png_structp png, png_bytep out, size_t n) {
    session *s = png_get_io_ptr(png);
    if (n > s->left) png_error(png, "the file ends early");
    memcpy(out, s->data, n);
    s->data += n;
    s->left -= n;
}

static const char *mode_name(int color, int depth) {
    switch (color) {
    case PNG_COLOR_TYPE_GRAY:
        return depth == 1 ? "1" : depth == 16 ? "I" : "L";
    case PNG_COLOR_TYPE_PALETTE:
        return "P";
    case PNG_COLOR_TYPE_GRAY_ALPHA:
        return depth == 16 ? "RGBA" : "LA";
    case PNG_COLOR_TYPE_RGB_ALPHA:
        return "RGBA";
    default:
        return "RGB";
    }
}

/* Deflate packs at most 1032 to 1, so a header that promises more rows than the file could hold is caught before memory is taken. */
static fs_status check_plausible(const fs_codec_job *job, int64_t w, int64_t h, int depth, int color) {
    int64_t samples = color & PNG_COLOR_MASK_COLOR && !(color & PNG_COLOR_MASK_PALETTE) ? 3 : 1;
    if (color & PNG_COLOR_MASK_ALPHA) samples++;
    int64_t needed = (w * samples * depth + 7) / 8 * h; /* w*h is within the pixel limit and a row has at most 64 bits per pixel */
    if ((uint64_t)needed / 1032 > job->size)
        return fs_fail(job->err, FS_E_FORMAT,
                       "%s: the PNG header promises %lld x %lld pixels but the file has only %zu bytes; get the "
                       "file again",
                       job->name, (long long)w, (long long)h, job->size);
    return FS_OK;
}

static void set_transforms(session *s, fs_decode_style style, int depth, int color) {
    png_structp png = s->png;
    bool gray = color == PNG_COLOR_TYPE_GRAY;
    s->bytes = color & PNG_COLOR_MASK_COLOR && color != PNG_COLOR_TYPE_PALETTE ? 3 : 1;
    if (gray && depth == 16 && style == FS_DECODE_PIL)
        s->bytes = 2;
    else if (depth == 16)
        png_set_strip_16(png);
    if (color == PNG_COLOR_TYPE_PALETTE && depth < 8) png_set_packing(png);
    if (gray && depth < 8) png_set_expand_gray_1_2_4_to_8(png);
    if (color & PNG_COLOR_MASK_ALPHA) png_set_strip_alpha(png);
    png_set_interlace_handling(png);
}

static void to_rgb(const session *s, fs_decode_style style, bool palette) {
    int64_t n = s->im->width * s->im->height;
    const uint8_t *in = s->raw;
    uint8_t *out = s->im->data, table[256][3];
    png_colorp colors = NULL;
    int count = 0;
    if (palette) png_get_PLTE(s->png, s->info, &colors, &count);
    for (int i = 0; i < 256; i++) {
        bool known = i < count;
        uint8_t rest = palette && style == FS_DECODE_CV2 ? 0 : (uint8_t)i;
        table[i][0] = known ? colors[i].red : rest;
        table[i][1] = known ? colors[i].green : rest;
        table[i][2] = known ? colors[i].blue : rest;
    }
    for (int64_t i = 0; i < n; i++, in += s->bytes, out += 3)
        memcpy(out, table[s->bytes == 2 && in[0] ? 255 : in[s->bytes - 1]], 3); /* 16 bits are big-endian: high byte set = over 255 */
}

/* The chunks are walked here instead of asking libpng, which would take as much memory for eXIf as the chunk claims to have. */
static int orientation_of(const fs_codec_job *job) {
    size_t at = 8;
    while (job->size - at >= 12) {
        const uint8_t *p = job->data + at;
        size_t n = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
        if (n > job->size - at - 12) return 1;
        if (memcmp(p + 4, "eXIf", 4) == 0) return fs_exif_orientation(p + 8, n);
        at += 12 + n;
    }
    return 1;
}

/* Everything that may jump. */
static fs_status decode_guarded(session *s, const fs_codec_job *job) {
    if (setjmp(png_jmpbuf(s->png)))
        return fs_fail(job->err, s->status, "%s: the PNG data is broken or cut off (%s); get the file again", job->name, s->text);
    png_set_read_fn(s->png, s, read_bytes);
    png_set_user_limits(s->png, 0x7fffffff, 0x7fffffff);
    png_set_keep_unknown_chunks(s->png, PNG_HANDLE_CHUNK_NEVER, NULL, -1); /* all but the picture itself is skipped unread */
    png_read_info(s->png, s->info);
    int64_t w = png_get_image_width(s->png, s->info), h = png_get_image_height(s->png, s->info);
    int depth = png_get_bit_depth(s->png, s->info), color = png_get_color_type(s->png, s->info);
    job->info->orientation = orientation_of(job);
    fs_status status = fs_codec_check_size(job, "PNG", mode_name(color, depth), w, h);
    if (!status) status = check_plausible(job, w, h, depth, color);
    if (status) return status;
    set_transforms(s, job->opt->style, depth, color);
    png_read_update_info(s->png, s->info);
    size_t row_bytes = (size_t)w * (size_t)s->bytes;
    if (png_get_rowbytes(s->png, s->info) != row_bytes)
        return fs_fail(job->err, FS_E_INTERNAL, "%s: libpng gives %zu bytes a row, %zu were expected; please report this file", job->name,
                       (size_t)png_get_rowbytes(s->png, s->info), row_bytes);
    status = fs_image_create(w, h, &s->im, job->err);
    if (status) return fs_error_prefix(job->err, "%s", job->name);
    if (s->bytes != 3) s->raw = fs_alloc((size_t)h, row_bytes);
    s->rows = fs_alloc((size_t)h, sizeof *s->rows);
    if (!s->rows || (s->bytes != 3 && !s->raw))
        return fs_fail(job->err, FS_E_NO_MEMORY, "%s: no memory for %lld x %lld pixels", job->name, (long long)w, (long long)h);
    for (int64_t y = 0; y < h; y++) s->rows[y] = (s->raw ? s->raw : s->im->data) + (size_t)y * row_bytes;
    png_read_image(s->png, s->rows);
    png_read_end(s->png, NULL);
    if (s->raw) to_rgb(s, job->opt->style, color == PNG_COLOR_TYPE_PALETTE);
    return FS_OK;
}

fs_status fs_codec_png(const fs_codec_job *job, fs_image **out) {
    session s = {.data = job->data, .left = job->size, .status = FS_E_FORMAT};
    fs_status status;
    s.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &s, on_error, on_warning);
    if (s.png) s.info = png_create_info_struct(s.png);
    if (s.info)
        status = decode_guarded(&s, job);
    else
        status = fs_fail(job->err, FS_E_NO_MEMORY, "%s: no memory for the PNG decoder", job->name);
    if (s.png) png_destroy_read_struct(&s.png, &s.info, NULL);
    free(s.raw);
    free(s.rows);
    if (status)
        fs_image_free(s.im);
    else
        *out = s.im;
    return status;
}
