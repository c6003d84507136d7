/* What the format tests share: reading files whole, temporary directories, and touching every byte of every tensor. */
#ifndef FORMAT_SUPPORT_H
#define FORMAT_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "format/archive.h"

#define GOLDEN(name) FS_GOLDEN_DIR "/format/" name

#define assert_ok(call)                                                                                                  \
    do {                                                                                                                 \
        fs_error assert_ok_error = {0};                                                                                  \
        fs_error *err = &assert_ok_error;                                                                                \
        if ((call) != FS_OK) fail_msg("%s", assert_ok_error.message);                                                    \
    } while (0)

static inline void assert_message(const fs_error *err, const char *part) {
    if (!strstr(err->message, part)) fail_msg("expected an error with \"%s\", got \"%s\"", part, err->message);
}

static inline uint8_t *read_whole(const char *path, size_t *size) {
    uint8_t *data = NULL;
    assert_ok(fs_read_file(path, (size_t)1 << 26, &data, size, err));
    return data;
}

/* A copy of exactly `size` bytes, so that a sanitizer sees the first byte read too far. */
static inline uint8_t *exact_copy(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    if (size) memcpy(copy, data, size);
    return copy;
}

static inline const char *make_directory(char path[64]) {
    strcpy(path, "/tmp/fs-format-XXXXXX");
    assert_non_null(mkdtemp(path));
    return path;
}

static inline void write_text(const char *dir, const char *name, const void *data, size_t size) {
    char *path = fs_path_join(dir, name);
    assert_ok(fs_write_file(path, data, size, err));
    free(path);
}

static inline void remove_file(const char *dir, const char *name) {
    char *path = fs_path_join(dir, name);
    unlink(path);
    free(path);
}

/* Reads every byte of every tensor and checks the promises of the header: sorted names, aligned data. */
static inline unsigned touch_all(const fs_archive *a) {
    unsigned sum = 0;
    for (size_t i = 0; i < fs_archive_count(a); i++) {
        fs_archive_entry e = fs_archive_get(a, i);
        size_t element = fs_dtype_size(e.tensor->dtype), bytes = (size_t)fs_tensor_count(e.tensor) * element;
        assert_int_equal((uintptr_t)e.tensor->data % element, 0);
        assert_ptr_equal(e.name, e.tensor->name);
        if (i > 0) assert_true(strcmp(fs_archive_get(a, i - 1).name, e.name) < 0);
        const uint8_t *p = e.tensor->data;
        for (size_t k = 0; k < bytes; k++) sum += p[k];
    }
    return sum;
}

#endif
