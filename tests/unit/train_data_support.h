/* What the tests of training data share: a log that is kept, pictures in a folder, comparison with the golden ids. */
#ifndef TRAIN_DATA_SUPPORT_H
#define TRAIN_DATA_SUPPORT_H

#include "data_support.h"

#include <jansson.h>

#include "image/image.h"
#include "train/data.h"

typedef struct kept_log {
    fs_buffer text;
    int lines;
    bool stop;
} kept_log;

static inline void keep_line(void *user, fs_log_level level, const char *message) {
    kept_log *k = user;
    (void)level;
    fs_buffer_puts(&k->text, message);
    fs_buffer_puts(&k->text, "\n");
    k->lines++;
}
static inline bool asks_stop(void *user) { return ((kept_log *)user)->stop; }
static inline fs_callbacks callbacks_of(kept_log *k) { return (fs_callbacks){.user_data = k, .log = keep_line, .cancel = asks_stop}; }

static inline void expect_log(kept_log *k, int lines, const char *part) {
    if (k->lines != lines || (part && (!k->text.data || !strstr(k->text.data, part))))
        fail_msg("expected %d lines, one with \"%s\"; got %d:\n%s", lines, part ? part : "", k->lines, k->text.data ? k->text.data : "");
    fs_buffer_free(&k->text);
    k->lines = 0;
}

static inline json_t *golden(const char *file) {
    char path[1024];
    json_error_t why;
    snprintf(path, sizeof path, "%s/train_data/%s", FS_GOLDEN_DIR, file);
    json_t *v = json_load_file(path, 0, &why);
    if (!v) fail_msg("%s: %s", path, why.text);
    return v;
}

static inline int64_t number(json_t *v, const char *key) { return (int64_t)json_integer_value(json_object_get(v, key)); }

static inline void expect_ints(const char *what, json_t *want, const int32_t *got, size_t n) {
    if (json_array_size(want) != n) fail_msg("%s: %zu numbers expected, %zu found", what, json_array_size(want), n);
    for (size_t i = 0; i < n; i++)
        if (json_integer_value(json_array_get(want, i)) != got[i])
            fail_msg("%s: number %zu should be %lld, is %d", what, i, (long long)json_integer_value(json_array_get(want, i)), got[i]);
}

/* dir/name: a picture of w x h whose pixels follow from `seed`. */
static inline void draw_picture(const char *dir, const char *name, int64_t w, int64_t h, uint64_t seed) {
    char *path = place(dir, name);
    fs_rng r = fs_rng_seed(seed);
    uint8_t *pixels = fs_alloc((size_t)(w * h), 3);
    assert_non_null(pixels);
    for (int64_t i = 0; i < w * h * 3; i++) pixels[i] = (uint8_t)(fs_rng_next(&r) & 255);
    assert_ok(fs_png_write(path, pixels, w, h, 3, err));
    free(pixels);
    free(path);
}

static inline void write_text(const char *dir, const char *name, const char *text) {
    char *path = place(dir, name);
    assert_ok(fs_write_file(path, text, strlen(text), err));
    free(path);
}

#endif
