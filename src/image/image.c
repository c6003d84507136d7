/* The RGB picture itself: making, freeing, cutting out a rectangle. */
#include "image/image.h"

#include <stdlib.h>
#include <string.h>

fs_status fs_image_create(int64_t width, int64_t height, fs_image **out, fs_error *err) {
    size_t bytes;
    *out = NULL;
    if (width <= 0 || height <= 0)
        return fs_fail(err, FS_E_USAGE, "a picture of %lld x %lld pixels cannot be made: both sides must be at least 1", (long long)width,
                       (long long)height);
    if (!fs_mul_size((size_t)width, 3, &bytes) || !fs_mul_size(bytes, (size_t)height, &bytes) || bytes > PTRDIFF_MAX)
        return fs_fail(err, FS_E_LIMIT, "a picture of %lld x %lld pixels does not fit into memory", (long long)width, (long long)height);
    fs_image *im = malloc(sizeof *im);
    uint8_t *data = fs_alloc(bytes, 1);
    if (!im || !data) {
        free(im);
        free(data);
        return fs_fail(err, FS_E_NO_MEMORY, "no memory for a picture of %lld x %lld pixels (%zu bytes)", (long long)width,
                       (long long)height, bytes);
    }
    *im = (fs_image){width, height, data};
    *out = im;
    return FS_OK;
}

void fs_image_free(fs_image *im) {
    if (!im) return;
    free(im->data);
    free(im);
}

fs_status fs_image_crop(const fs_image *in, int64_t x, int64_t y, int64_t w, int64_t h, fs_image **out, fs_error *err) {
    fs_status status = fs_image_create(w, h, out, err);
    if (status) return status;
    int64_t right, bottom;
    if (__builtin_add_overflow(x, w, &right) || __builtin_add_overflow(y, h, &bottom)) right = bottom = INT64_MIN; /* all outside */
    int64_t x0 = fs_max_i64(x, 0), x1 = fs_min_i64(right, in->width);
    int64_t y0 = fs_max_i64(y, 0), y1 = fs_min_i64(bottom, in->height);
    bool inside = x0 < x1 && y0 < y1;
    if (!inside || x1 - x0 < w || y1 - y0 < h) memset((*out)->data, 0, (size_t)w * 3 * (size_t)h);
    if (!inside) return FS_OK;
    for (int64_t row = y0; row < y1; row++)
        memcpy((*out)->data + ((row - y) * w + (x0 - x)) * 3, in->data + (row * in->width + x0) * 3, (size_t)(x1 - x0) * 3);
    return FS_OK;
}
