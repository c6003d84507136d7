/* Test pictures by formula (the same integers as tools/reference/make_image_goldens.py computes) and small helpers of the image tests. */
#ifndef TEST_IMAGE_PICTURE_H
#define TEST_IMAGE_PICTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image/image.h"

/* kind 0: ramps with some noise; 1: noise; 2: hard stripes. */
static inline uint8_t test_sample(int kind, int64_t x, int64_t y, int64_t c) {
    uint64_t n = ((uint64_t)x * 73856093u ^ (uint64_t)y * 19349663u ^ (uint64_t)c * 83492791u) & 0xFFFFFFFFu;
    n = (n ^ n >> 13) * 1274126177u & 0xFFFFFFFFu;
    n = (n ^ n >> 16) & 255;
    if (kind == 1) return (uint8_t)n;
    if (kind == 2) return (x / 3 + y / 2 + c) & 1 ? 255 : (uint8_t)(n / 64);
    int64_t t = (x * (3 + c) + y * (5 - c) + (x * y >> 5)) % 510;
    return (uint8_t)(((t > 255 ? 510 - t : t) * 7 + (int64_t)n) / 8);
}

static inline fs_image *test_picture(int kind, int64_t w, int64_t h) {
    fs_image *im = NULL;
    fs_error err;
    assert_int_equal(fs_image_create(w, h, &im, &err), FS_OK);
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++)
            for (int64_t c = 0; c < 3; c++) im->data[(y * w + x) * 3 + c] = test_sample(kind, x, y, c);
    return im;
}

/* Pseudo-random numbers for made-up cases. */
static inline int64_t test_random(fs_rng *r, int64_t below) {
    return (int64_t)(fs_rng_next(r) % (uint64_t)below);
}

static inline void test_hash(const fs_image *im, char out[65]) {
    fs_sha256_hex(im->data, (size_t)(im->width * im->height * 3), out);
}

/* The golden file `name`: its next line that is no comment into `line`; false at the end. */
static inline FILE *test_open(const char *name) {
    char path[1024];
    snprintf(path, sizeof path, "%s/image/%s", FS_GOLDEN_DIR, name);
    FILE *f = fopen(path, "r");
    if (!f) print_error("cannot open %s\n", path);
    assert_non_null(f);
    return f;
}

static inline bool test_line(FILE *f, char *line, size_t room) {
    while (fgets(line, (int)room, f))
        if (line[0] != '#') return true;
    return false;
}

#endif
