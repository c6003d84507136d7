/* Source photos for forge's tests, made by formula: textured grounds with a few shapes, as PNG, with object masks in the three forms that
 * sets have. And a folder to work in. */
#ifndef FORGE_SUPPORT_H
#define FORGE_SUPPORT_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "data/forge_work.h"

static fs_error err;
#define ok(call)                                                                                                                           \
    do {                                                                                                                                   \
        fs_status status_ = (call);                                                                                                        \
        if (status_) fail_msg("%s: %s", fs_status_name(status_), err.message);                                                             \
    } while (0)

static inline char *join(const char *a, const char *b) {
    char *path = fs_format("%s/%s", a, b);
    assert_non_null(path);
    return path;
}

static inline char *work_folder(void) {
    char *dir = fs_strdup("/tmp/fs-forge-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return dir;
}

static inline void remove_folder(char *dir) {
    char *command = fs_format("rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
    free(command);
    free(dir);
}

static inline void put_text(const char *dir, const char *name, const char *text) {
    char *path = join(dir, name);
    ok(fs_write_file(path, text, strlen(text), &err));
    free(path);
}

/* A ground of waves and grain with a disc and a box on it; ids: where the disc (7) and the box (300) are. */
static inline void draw_scene(int number, int64_t w, int64_t h, uint8_t *rgb, uint8_t *ids) {
    fs_rng rng = fs_rng_seed((uint64_t)number + 1);
    double fx = fs_dice(&rng, 0.02, 0.15), fy = fs_dice(&rng, 0.02, 0.15), tint[3], dx = (double)w * fs_dice(&rng, 0.3, 0.45),
           dy = (double)h * fs_dice(&rng, 0.3, 0.45);
    for (int c = 0; c < 3; c++) tint[c] = fs_dice(&rng, 70, 180);
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            double wave = 28 * sin(fx * (double)x + 2 * sin(fy * (double)y)) + 6 * fs_dice_normal(&rng),
                   r = hypot((double)x - dx, (double)y - dy);
            bool disc = r<(double)h * 0.17, box = x> w * 6 / 10 && x < w * 85 / 100 && y > h * 55 / 100 && y < h * 8 / 10;
            for (int c = 0; c < 3; c++) {
                double v = tint[c] + wave;
                if (disc) v = 230 - tint[c] + 20 * sin(0.4 * (double)x);
                if (box) v = 40 + 60 * c + ((x / 6 + y / 6) % 2 ? 30 : 0) + 4 * fs_dice_normal(&rng);
                rgb[(y * w + x) * 3 + c] = fs_clip8(v);
            }
            uint32_t id = disc ? 7 : box ? 300 : 0;
            ids[(y * w + x) * 3] = (uint8_t)id, ids[(y * w + x) * 3 + 1] = (uint8_t)(id >> 8), ids[(y * w + x) * 3 + 2] = 0;
        }
}

enum { PHOTOS = 9 };

/* dir/a: three photos with objects/ and segments.csv; dir/b/images with masks/; dir/c: NAME_mask.png; dir/d: without objects. */
static inline void make_sources(const char *dir) {
    static const char *const folders[] = {"a", "a/objects", "b/images", "b/masks", "c", "d"};
    static const char *const names[PHOTOS] = {"a/one.png", "a/two.png",   "a/three.png", "b/images/four.png", "b/images/five.png",
                                              "c/six.png", "c/seven.png", "d/eight.png", "d/nine.png"};
    char segments[1024] = "image,segment_id,category,isthing,area\n";
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        char *path = join(dir, folders[i]);
        ok(fs_make_dirs(path, &err));
        free(path);
    }
    for (int i = 0; i < PHOTOS; i++) {
        int64_t w = 300 + 20 * i, h = 260 + 16 * (PHOTOS - i);
        uint8_t *rgb = malloc((size_t)(w * h) * 3), *ids = malloc((size_t)(w * h) * 3), *one = malloc((size_t)(w * h));
        draw_scene(i, w, h, rgb, ids);
        for (int64_t k = 0; k < w * h; k++) one[k] = ids[k * 3] == 7 ? 255 : 0;
        char *path = join(dir, names[i]);
        ok(fs_png_write(path, rgb, w, h, 3, &err));
        free(path);
        const char *base = fs_path_base(names[i]);
        if (i < 3) {
            char *objects = fs_format("%s/a/objects/%s", dir, base);
            ok(fs_png_write(objects, ids, w, h, 3, &err));
            free(objects);
            size_t n = strlen(segments);
            snprintf(segments + n, sizeof segments - n, "%s,7,\"ball\",1,9\n%s,300,wall-brick,%d,9\n", base, base, i == 0);
        } else if (i < 5) {
            char *mask = fs_format("%s/b/masks/%s", dir, base);
            ok(fs_png_write(mask, one, w, h, 1, &err));
            free(mask);
        } else if (i < 7) {
            char *mask = fs_format("%s/c/%.*s_mask.png", dir, (int)strcspn(base, "."), base);
            ok(fs_png_write(mask, one, w, h, 1, &err));
            free(mask);
        }
        free(rgb), free(ids), free(one);
    }
    char *a = join(dir, "a");
    put_text(a, "segments.csv", segments);
    free(a);
}

/* Log lines, one after the other. */
typedef struct log_lines {
    char text[8192];
} log_lines;
static inline void keep_log(void *user, fs_log_level level, const char *line) {
    log_lines *l = user;
    (void)level;
    size_t n = strlen(l->text);
    snprintf(l->text + n, sizeof l->text - n, "%s\n", line);
}

#endif
