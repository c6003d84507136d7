/* Fingerprints of pictures. The difference hash is the well-known one (N. Krawetz, "Kind of Like That", 2013), here over exact cell
 * averages. */
#include "data/fingerprint.h"

enum { COLUMNS = 9, ROWS = 8, LEAST_STEP = 2, LEAST_STEPS = 12 };

/* How much of pixel `at` lies in cell `cell` of `cells` over `size` pixels, in units of 1/cells pixel: exact for any size, one pixel too.
 */
static int64_t share(int64_t at, int64_t cell, int64_t cells, int64_t size) {
    const int64_t begin = fs_max_i64(at * cells, cell * size), end = fs_min_i64((at + 1) * cells, (cell + 1) * size);
    return end - begin;
}

static double cell_mean(const fs_image *im, int64_t cx, int64_t cy) {
    const int64_t x0 = cx * im->width / COLUMNS, y0 = cy * im->height / ROWS;
    const int64_t x1 = ((cx + 1) * im->width + COLUMNS - 1) / COLUMNS, y1 = ((cy + 1) * im->height + ROWS - 1) / ROWS;
    int64_t sum = 0; /* of 299 R + 587 G + 114 B times the shares; at most 255000 * width * height: fits for any picture that decodes */
    for (int64_t y = y0; y < y1; y++) {
        const uint8_t *p = im->data + (y * im->width + x0) * 3;
        int64_t row = 0;
        for (int64_t x = x0; x < x1; x++, p += 3) row += share(x, cx, COLUMNS, im->width) * (299 * p[0] + 587 * p[1] + 114 * p[2]);
        sum += row * share(y, cy, ROWS, im->height);
    }
    return (double)sum / (1000.0 * (double)im->width * (double)im->height); /* a cell's area is width * height in those units */
}

uint64_t fs_dhash(const fs_image *im, bool *flat) {
    uint64_t hash = 0;
    int steps = 0;
    for (int64_t y = 0; y < ROWS; y++) {
        double left = cell_mean(im, 0, y);
        for (int64_t x = 1; x < COLUMNS; x++) {
            const double here = cell_mean(im, x, y), step = here - left;
            hash = hash << 1 | (step > 0);
            steps += step > LEAST_STEP || step < -LEAST_STEP;
            left = here;
        }
    }
    *flat = steps < LEAST_STEPS;
    return hash;
}

void fs_pixels_sha256(const fs_image *im, char out[65]) {
    const int64_t head[2] = {im->width, im->height};
    fs_sha256 s;
    fs_sha256_begin(&s);
    fs_sha256_add(&s, head, sizeof head);
    fs_sha256_add(&s, im->data, (size_t)im->width * (size_t)im->height * 3);
    fs_sha256_end(&s, out);
}
