/* Reading maps and masks. A picture's grey level is Pillow's "L" (ITU-R 601, rounded as Pillow does), since that is how other programs of
 * the field read masks that were saved in colour. */
#include "eval/map.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "format/npy.h"
#include "image/image.h"

fs_map_options fs_map_options_defaults(void) {
    return (fs_map_options){.max_pixels = 178956970};
}

static bool is_npy(const char *path) {
    const char *dot = strrchr(fs_path_base(path), '.');
    return dot && strcasecmp(dot, ".npy") == 0;
}

bool fs_map_name(const char *name) {
    return is_npy(name) || fs_image_name_is_picture(name);
}

void fs_map_free(fs_map *m) {
    free(m->score);
    *m = (fs_map){0};
}

static uint8_t grey(const uint8_t *rgb) {
    return (uint8_t)((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
}

/* ---- maps ---- */

static fs_status from_npy(const char *path, const fs_map_options *opt, fs_map *out, fs_error *err) {
    fs_npy a;
    fs_status status = fs_npy_read(path, &a, err);
    if (status) return status;
    float low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < a.rows * a.columns; i++) {
        float *v = &a.data[i];
        if (isnan(*v)) {
            status = fs_fail(err, FS_E_NUMERIC, "%s: the score at column %lld, row %lld is no number (NaN)", path,
                             (long long)(i % a.columns), (long long)(i / a.columns));
            fs_npy_free(&a);
            return status;
        }
        if (opt->logits) *v = 1 / (1 + expf(-*v));
        low = fminf(low, *v);
        high = fmaxf(high, *v);
    }
    bool whole = low >= 0 && high > 1 && high <= 255;
    for (int64_t i = 0; whole && i < a.rows * a.columns; i++) whole = a.data[i] == floorf(a.data[i]);
    for (int64_t i = 0; whole && i < a.rows * a.columns; i++) a.data[i] /= 255;
    if (!whole && (low < 0 || high > 1))
        status = fs_fail(err, FS_E_NUMERIC, "%s: scores from %g to %g; expected 0 to 1, or whole numbers up to 255 (logits: --logits)",
                         path, (double)low, (double)high);
    if (status)
        fs_npy_free(&a);
    else
        *out = (fs_map){a.columns, a.rows, a.data};
    return status;
}

static fs_status from_grey16(const char *path, const uint8_t *data, size_t size, const fs_map_options *opt, fs_map *out, fs_error *err) {
    uint16_t *v = NULL;
    int64_t w, h;
    fs_status status = fs_png_read_grey16(path, data, size, opt->max_pixels, &v, &w, &h, err);
    if (status) return status;
    float *score = fs_alloc((size_t)w * (size_t)h, sizeof *score);
    if (!score) status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for %lld x %lld pixels", path, (long long)w, (long long)h);
    for (int64_t i = 0; score && i < w * h; i++) score[i] = (float)v[i] / 65535;
    free(v);
    if (!status) *out = (fs_map){w, h, score};
    return status;
}

fs_status fs_map_read(const char *path, const fs_map_options *opt, fs_map *out, fs_error *err) {
    *out = (fs_map){0};
    if (is_npy(path)) return from_npy(path, opt, out, err);
    fs_decode_options decode = fs_decode_options_defaults(FS_DECODE_PIL);
    decode.max_pixels = opt->max_pixels;
    fs_image *im = NULL;
    uint8_t *data = NULL;
    size_t size = 0;
    fs_status status = fs_read_file(path, decode.max_file_bytes, &data, &size, err);
    if (!status && fs_png_is_grey16(data, size)) {
        status = from_grey16(path, data, size, opt, out, err);
        goto done;
    }
    if (!status) status = fs_image_decode(path, data, size, &decode, &im, NULL, err);
    if (status) goto done;
    *out = (fs_map){im->width, im->height, fs_alloc((size_t)im->width * (size_t)im->height, sizeof *out->score)};
    if (!out->score) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for %lld x %lld pixels", path, (long long)im->width, (long long)im->height);
        goto done;
    }
    for (int64_t i = 0; i < im->width * im->height; i++) out->score[i] = (float)grey(im->data + i * 3) / 255;
done:
    free(data);
    fs_image_free(im);
    if (status) fs_map_free(out);
    return status;
}

fs_status fs_map_resize(fs_map *m, int64_t width, int64_t height, fs_error *err) {
    float *v = fs_alloc((size_t)width * (size_t)height, sizeof *v);
    if (!v) return fs_fail(err, FS_E_NO_MEMORY, "no memory for a map of %lld x %lld pixels", (long long)width, (long long)height);
    for (int64_t y = 0; y < height; y++) {
        const int64_t from = (2 * y + 1) * m->height / (2 * height);
        for (int64_t x = 0; x < width; x++) v[y * width + x] = m->score[from * m->width + (2 * x + 1) * m->width / (2 * width)];
    }
    free(m->score);
    *m = (fs_map){width, height, v};
    return FS_OK;
}

/* ---- truth ---- */

fs_status fs_truth_read(const char *path, bool inverted, uint8_t **out, int64_t *width, int64_t *height, char sha256[65], fs_error *err) {
    const fs_decode_options decode = fs_decode_options_defaults(FS_DECODE_PIL);
    fs_image *im = NULL;
    uint8_t *data = NULL;
    size_t size = 0;
    *out = NULL;
    fs_status status = fs_read_file(path, decode.max_file_bytes, &data, &size, err);
    if (!status) status = fs_image_decode(path, data, size, &decode, &im, NULL, err);
    if (status) goto done;
    if (sha256) fs_sha256_hex(data, size, sha256);
    *width = im->width;
    *height = im->height;
    *out = fs_alloc((size_t)im->width * (size_t)im->height, 1);
    if (!*out) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for %lld x %lld pixels", path, (long long)im->width, (long long)im->height);
        goto done;
    }
    for (int64_t i = 0; i < im->width * im->height; i++) (*out)[i] = (grey(im->data + i * 3) > 127) != inverted ? 255 : 0;
done:
    free(data);
    fs_image_free(im);
    return status;
}
