/* A picture as each of the four networks wants it, exact in float32:
 *   DTG    torchvision: shorter side to 256 bilinear, centre crop 224 (offset rounded half to even), ImageNet mean and deviation
 *   DTE    LLaVA's padding to a square in the mean colour, then CLIP: bicubic to size x size
 *   MFLM   CLIP without padding: shorter side to size, bicubic, centre crop (offset rounded down)
 *   SAM    longer side to size, bilinear, its own mean and deviation on 0..255, zeros to the right and below
 * All resizing is Pillow's. Only the pixels that survive a crop are computed and a padded square never exists in memory, so a picture
 * 30,000 pixels wide costs what its own pixels cost. The value of a sample depends on its byte alone: a table of 256 floats per channel
 * holds the originals' arithmetic in its order. */
#include "image/image.h"
#include "image/resample.h"

#include <string.h>

typedef struct value_table {
    float of[3][256];
} value_table;

/* torchvision: byte / 255 in float32, then (v - mean) / deviation in float32. */
static void table_imagenet(value_table *t) {
    static const float mean[3] = {0.485F, 0.456F, 0.406F}, deviation[3] = {0.229F, 0.224F, 0.225F};
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 256; i++) {
            float v = (float)i / 255.0F;
            v = v - mean[c];
            t->of[c][i] = v / deviation[c];
        }
}

/* transformers: byte * (1/255) in double, rounded to float32, then (v - mean) / deviation in float32. */
static void table_clip(value_table *t) {
    static const float mean[3] = {0.48145466F, 0.4578275F, 0.40821073F}, deviation[3] = {0.26862954F, 0.26130258F, 0.27577711F};
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 256; i++) {
            float v = (float)(i * (1.0 / 255.0));
            v = v - mean[c];
            t->of[c][i] = v / deviation[c];
        }
}

static void table_sam(value_table *t) {
    static const float mean[3] = {123.675F, 116.28F, 103.53F}, deviation[3] = {58.395F, 57.12F, 57.375F};
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < 256; i++) {
            float v = (float)i - mean[c];
            t->of[c][i] = v / deviation[c];
        }
}

/* [3][size][size] with the picture in the upper left corner, zeros elsewhere. Frees `im`. */
static fs_status to_planes(fs_image *im, const value_table *t, int64_t size, float **out, fs_error *err) {
    size_t side = (size_t)size, plane;
    fs_status status = FS_OK;
    float *values = fs_mul_size(side, side, &plane) && plane <= SIZE_MAX / 16 ? fs_alloc(3 * plane, sizeof *values) : NULL;
    if (!values) {
        status = fs_fail(err, FS_E_NO_MEMORY, "no memory for %lld x %lld input values", (long long)size, (long long)size);
        goto done;
    }
    if (im->width < size || im->height < size) memset(values, 0, 3 * plane * sizeof *values);
    for (int64_t y = 0; y < im->height; y++) {
        const uint8_t *p = im->data + y * im->width * 3;
        float *red = values + (size_t)y * side, *green = red + plane, *blue = green + plane;
        for (int64_t x = 0; x < im->width; x++, p += 3) { /* all three at once: no better by channel, where compilers gather bytes into vectors */
            red[x] = t->of[0][p[0]];
            green[x] = t->of[1][p[1]];
            blue[x] = t->of[2][p[2]];
        }
    }
    *out = values;
done:
    fs_image_free(im);
    return status;
}

static fs_status check(const fs_image *im, int64_t size, fs_error *err) {
    enum { LARGEST = 16384 };
    if (size < 1 || size > LARGEST)
        return fs_fail(err, FS_E_USAGE, "the network's picture size is %lld; 1 to %d is possible", (long long)size, LARGEST);
    if (im->width < 1 || im->height < 1)
        return fs_fail(err, FS_E_USAGE, "an empty picture (%lld x %lld) cannot be prepared", (long long)im->width, (long long)im->height);
    return FS_OK;
}

/* The longer side when the shorter one becomes `target`: cut off, not rounded. */
static int64_t long_side(int64_t target, int64_t longer, int64_t shorter) {
    return (int64_t)((double)(target * longer) / (double)shorter);
}

static fs_canvas bare(const fs_image *im) {
    return (fs_canvas){.im = im, .width = im->width, .height = im->height};
}

static int64_t half_even(int64_t n) {
    return n / 2 + (n % 2 && n / 2 % 2);
} /* n >= 0 */

fs_status fs_preprocess_dtg(const fs_image *im, float **out, fs_error *err) {
    enum { SHORT = 256, CROP = 224 };
    *out = NULL;
    fs_status status = check(im, CROP, err);
    if (status) return status;
    bool upright = im->width <= im->height;
    int64_t w = upright ? SHORT : long_side(SHORT, im->width, im->height);
    int64_t h = upright ? long_side(SHORT, im->height, im->width) : SHORT;
    fs_canvas canvas = bare(im);
    fs_image *small = NULL;
    status = fs_resample(&canvas, w, h, FS_FILTER_BILINEAR, (fs_window){half_even(w - CROP), half_even(h - CROP), CROP, CROP}, &small, err);
    if (status) return status;
    value_table t;
    table_imagenet(&t);
    return to_planes(small, &t, CROP, out, err);
}

fs_status fs_preprocess_dtg_values(const fs_image *im, float **out, fs_error *err) {
    enum { SIDE = 224 };
    fs_image *copy;
    *out = NULL;
    if (im->width != SIDE || im->height != SIDE)
        return fs_fail(err, FS_E_USAGE, "a picture of %lld x %lld pixels, %d x %d expected", (long long)im->width, (long long)im->height, (int)SIDE, (int)SIDE);
    fs_status status = fs_image_crop(im, 0, 0, SIDE, SIDE, &copy, err);
    if (status) return status;
    value_table t;
    table_imagenet(&t);
    return to_planes(copy, &t, SIDE, out, err);
}

fs_status fs_preprocess_clip_padded(const fs_image *im, int64_t size, float **out, fs_error *err) {
    *out = NULL;
    fs_status status = check(im, size, err);
    if (status) return status;
    int64_t side = fs_max_i64(im->width, im->height);
    fs_canvas canvas = {.im = im,
                        .left = (side - im->width) / 2,
                        .top = (side - im->height) / 2,
                        .width = side,
                        .height = side,
                        .fill = {122, 116, 104}}; /* 255 times CLIP's mean, cut off */
    fs_image *small = NULL;
    status = fs_resample(&canvas, size, size, FS_FILTER_BICUBIC, (fs_window){0, 0, size, size}, &small, err);
    if (status) return status;
    value_table t;
    table_clip(&t);
    return to_planes(small, &t, size, out, err);
}

fs_status fs_preprocess_clip_cropped(const fs_image *im, int64_t size, float **out, fs_error *err) {
    *out = NULL;
    fs_status status = check(im, size, err);
    if (status) return status;
    bool upright = im->width <= im->height;
    int64_t w = upright ? size : long_side(size, im->width, im->height);
    int64_t h = upright ? long_side(size, im->height, im->width) : size;
    fs_canvas canvas = bare(im);
    fs_image *small = NULL;
    status = fs_resample(&canvas, w, h, FS_FILTER_BICUBIC, (fs_window){(w - size) / 2, (h - size) / 2, size, size}, &small, err);
    if (status) return status;
    value_table t;
    table_clip(&t);
    return to_planes(small, &t, size, out, err);
}

fs_status fs_preprocess_sam(const fs_image *im, int64_t size, float **out, int64_t *in_h, int64_t *in_w, fs_error *err) {
    *out = NULL;
    fs_status status = check(im, size, err);
    if (status) return status;
    double scale = (double)size * 1.0 / (double)fs_max_i64(im->width, im->height);
    /* a picture 2049 times longer than wide would lose its short side, and the original fails on it: one row is kept */
    int64_t w = fs_max_i64((int64_t)((double)im->width * scale + 0.5), 1), h = fs_max_i64((int64_t)((double)im->height * scale + 0.5), 1);
    fs_canvas canvas = bare(im);
    fs_image *small = NULL;
    status = fs_resample(&canvas, w, h, FS_FILTER_BILINEAR, (fs_window){0, 0, w, h}, &small, err);
    if (status) return status;
    value_table t;
    table_sam(&t);
    *in_h = h;
    *in_w = w;
    return to_planes(small, &t, size, out, err);
}
