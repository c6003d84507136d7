/* What the data set tests share: a folder that goes away, small pictures of known pixels, files read and written. */
#ifndef DATA_SUPPORT_H
#define DATA_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <ftw.h>

#include "base/base.h"
#include "image/image.h"

#define assert_ok(call)                                                                                                                    \
    do {                                                                                                                                   \
        fs_error assert_ok_error = {0};                                                                                                    \
        fs_error *err = &assert_ok_error;                                                                                                  \
        if ((call) != FS_OK) fail_msg("%s", assert_ok_error.message);                                                                      \
    } while (0)

static inline void assert_message(const fs_error *err, const char *part) {
    if (!strstr(err->message, part)) fail_msg("expected an error with \"%s\", got \"%s\"", part, err->message);
}

static inline int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw) {
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

static inline void remove_all(const char *dir) {
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* A folder of this test alone, as the test's state. */
static inline int setup_folder(void **state) {
    char *dir = fs_strdup("/tmp/fs-data-XXXXXX");
    if (!dir || !mkdtemp(dir)) return -1;
    *state = dir;
    return 0;
}

static inline int remove_folder(void **state) {
    remove_all(*state);
    free(*state);
    return 0;
}

/* dir/name, and the folders above it. */
static inline char *place(const char *dir, const char *name) {
    char *path = fs_path_join(dir, name), *slash = path ? strrchr(path, '/') : NULL;
    assert_non_null(slash);
    *slash = 0;
    assert_ok(fs_make_dirs(path, err));
    *slash = '/';
    return path;
}

static inline void put_bytes(const char *dir, const char *name, const void *data, size_t size) {
    char *path = place(dir, name);
    assert_ok(fs_write_file(path, data, size, err));
    free(path);
}

static inline void put_text(const char *dir, const char *name, const char *text) {
    put_bytes(dir, name, text, strlen(text));
}

/* An RGB picture whose pixels depend on `seed`: soft blobs, so that different seeds look different to a perceptual hash too. */
static inline uint8_t *picture_pixels(int w, int h, uint64_t seed) {
    fs_rng rng = fs_rng_seed(seed);
    int grid[9][9][3];
    for (int y = 0; y < 9; y++)
        for (int x = 0; x < 9; x++)
            for (int c = 0; c < 3; c++) grid[y][x][c] = (int)(fs_rng_next(&rng) >> 56);
    uint8_t *p = malloc((size_t)w * (size_t)h * 3);
    assert_non_null(p);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++) {
                const double gx = 8.0 * x / w, gy = 8.0 * y / h, fx = gx - (int)gx, fy = gy - (int)gy;
                const int i = (int)gx, j = (int)gy;
                const double top = grid[j][i][c] * (1 - fx) + grid[j][i + 1][c] * fx,
                             bottom = grid[j + 1][i][c] * (1 - fx) + grid[j + 1][i + 1][c] * fx;
                p[((size_t)y * (size_t)w + (size_t)x) * 3 + (size_t)c] = (uint8_t)(top * (1 - fy) + bottom * fy);
            }
    return p;
}

static inline void put_png(const char *dir, const char *name, const uint8_t *pixels, int w, int h, int channels) {
    char *path = place(dir, name);
    assert_ok(fs_png_write(path, pixels, w, h, channels, err));
    free(path);
}

static inline void put_picture(const char *dir, const char *name, int w, int h, uint64_t seed) {
    uint8_t *p = picture_pixels(w, h, seed);
    put_png(dir, name, p, w, h, 3);
    free(p);
}

/* A grey mask: `inside` in the upper left quarter, `outside` elsewhere. */
static inline void put_mask(const char *dir, const char *name, int w, int h, uint8_t inside, uint8_t outside) {
    uint8_t *p = malloc((size_t)w * (size_t)h);
    assert_non_null(p);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++) p[y * w + x] = x < w / 2 && y < h / 2 ? inside : outside;
    put_png(dir, name, p, w, h, 1);
    free(p);
}

static inline char *read_text(const char *dir, const char *name) {
    char *path = fs_path_join(dir, name);
    uint8_t *data = NULL;
    size_t size;
    assert_ok(fs_read_file(path, (size_t)1 << 26, &data, &size, err));
    free(path);
    return (char *)data;
}

static inline bool is_there(const char *dir, const char *name) {
    char *path = fs_path_join(dir, name);
    const bool there = fs_path_exists(path);
    free(path);
    return there;
}

#endif
