/* Masks and overlays on disk. */
#include "pipeline/pipeline.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static fs_status need_mask(const fs_result *r, fs_error *err) {
    return r->mask ? FS_OK : fs_fail(err, FS_E_USAGE, "%s: no mask to write (mask status: %s)", r->image, fs_mask_status_name(r->mask_status));
}

fs_status fs_result_write_mask(const fs_result *r, const char *path, fs_error *err) {
    fs_status s = need_mask(r, err);
    return s ? s : fs_png_write(path, r->mask, r->mask_width, r->mask_height, 1, err);
}

fs_status fs_result_write_soft_mask(const fs_result *r, const char *path, fs_error *err) {
    fs_status s = need_mask(r, err);
    if (s) return s;
    const size_t n = (size_t)r->mask_width * (size_t)r->mask_height;
    uint8_t *grey = fs_alloc_zero(n, 1);
    if (!grey) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    for (size_t i = 0; r->logits && i < n; i++) grey[i] = (uint8_t)lround(255 / (1 + exp(-(double)r->logits[i])));
    s = fs_png_write(path, grey, r->mask_width, r->mask_height, 1, err);
    free(grey);
    return s;
}

fs_status fs_result_write_upstream_mask(const fs_result *r, const char *path, bool rgb, fs_error *err) {
    fs_status s = need_mask(r, err);
    if (s) return s;
    const char *dot = strrchr(fs_path_base(path), '.');
    const bool png = dot && strcasecmp(dot, ".png") == 0, jpeg = dot && (strcasecmp(dot, ".jpg") == 0 || strcasecmp(dot, ".jpeg") == 0);
    if (!png && !jpeg)
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: masks under the original's names are written as .png, .jpg or .jpeg, not \"%s\"; leave out --upstream-names for PNG",
                       path, dot ? dot : "");
    const size_t n = (size_t)r->mask_width * (size_t)r->mask_height;
    uint8_t *colour = NULL, *bytes = NULL;
    size_t size = 0;
    if (rgb) {
        colour = fs_alloc(n, 3);
        if (!colour) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
        for (size_t i = 0; i < 3 * n; i++) colour[i] = r->mask[i / 3];
    }
    const uint8_t *pixels = rgb ? colour : r->mask;
    s = (png ? fs_png_encode : fs_jpeg_encode)(pixels, r->mask_width, r->mask_height, rgb ? 3 : 1, &bytes, &size, err);
    if (!s) s = fs_write_file(path, bytes, size, err);
    free(bytes);
    free(colour);
    return s;
}

fs_status fs_result_write_overlay(const fs_result *r, const char *path, fs_error *err) {
    fs_status s = need_mask(r, err);
    if (s) return s;
    const fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_image *im = NULL, *drawn = NULL;
    if ((s = fs_image_load(r->image, &opt, &im, NULL, err))) return s;
    if (im->width != r->mask_width || im->height != r->mask_height)
        s = fs_fail(err, FS_E_MISMATCH, "%s: is now %lldx%lld pixels, its mask %lldx%lld; the picture changed meanwhile", r->image,
                    (long long)im->width, (long long)im->height, (long long)r->mask_width, (long long)r->mask_height);
    if (!s) s = fs_draw_overlay(im, r->mask, &drawn, err);
    if (!s) s = fs_png_write(path, drawn->data, drawn->width, drawn->height, 3, err);
    fs_image_free(drawn);
    fs_image_free(im);
    return s;
}
