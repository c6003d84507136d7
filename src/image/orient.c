/* Turning and mirroring by the EXIF orientation: value 1..8 says where row 0 and column 0 of the stored picture belong.
 * 2 mirror left-right, 3 half turn, 4 mirror top-bottom, 5 transpose, 6 quarter turn right, 7 transpose along the other diagonal,
 * 8 quarter turn left: the same pixels as Pillow's transpose and OpenCV's orientation step. */
#include "image/image.h"

#include <string.h>

/* The block keeps both the read and the written lines in cache when rows become columns. */
enum { BLOCK = 32 };

static bool swaps(int orientation) {
    return orientation >= 5;
}

void fs_orient_bytes(const uint8_t *in, int64_t w, int64_t h, int channels, int orientation, uint8_t *out) {
    if (orientation == 1) {
        memcpy(out, in, (size_t)w * (size_t)channels * (size_t)h);
        return;
    }
    /* stored pixel (x, y) goes to base + x*dx + y*dy (in pixels) of the result, whose rows are `ow` wide */
    const bool swap = swaps(orientation);
    const int64_t ow = swap ? h : w, oh = swap ? w : h;
    const bool flip_x = orientation == 2 || orientation == 3 || orientation == 6 || orientation == 7;
    const bool flip_y = orientation == 3 || orientation == 4 || orientation == 7 || orientation == 8;
    const int64_t step_x = flip_x ? -1 : 1, step_y = flip_y ? -ow : ow; /* along the result's own columns and rows */
    const int64_t base = (flip_x ? ow - 1 : 0) + (flip_y ? (oh - 1) * ow : 0);
    const int64_t dx = swap ? step_y : step_x, dy = swap ? step_x : step_y;
#pragma omp parallel for schedule(static) if (w * h > 65536)
    for (int64_t by = 0; by < h; by += BLOCK)
        for (int64_t bx = 0; bx < w; bx += BLOCK)
            for (int64_t y = by; y < fs_min_i64(by + BLOCK, h); y++)
                for (int64_t x = bx; x < fs_min_i64(bx + BLOCK, w); x++) {
                    const uint8_t *p = in + (y * w + x) * channels;
                    uint8_t *q = out + (base + x * dx + y * dy) * channels;
                    for (int c = 0; c < channels; c++) q[c] = p[c];
                }
}

fs_status fs_image_orient(const fs_image *in, int orientation, fs_image **out, fs_error *err) {
    *out = NULL;
    if (orientation < 1 || orientation > 8)
        return fs_fail(err, FS_E_USAGE, "orientation %d does not exist: EXIF knows 1 to 8", orientation);
    const int64_t w = in->width, h = in->height;
    fs_status status = fs_image_create(swaps(orientation) ? h : w, swaps(orientation) ? w : h, out, err);
    if (!status) fs_orient_bytes(in->data, w, h, 3, orientation, (*out)->data);
    return status;
}
