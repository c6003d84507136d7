/* Maps of scores and masks of truth as files, whatever program wrote them. */
#ifndef FS_EVAL_MAP_H
#define FS_EVAL_MAP_H

#include "base/base.h"

typedef struct fs_map {
    int64_t width, height;
    float *score; /* [h][w], 0..1, owned */
} fs_map;

typedef struct fs_map_options {
    bool logits;        /* .npy: numbers are logits; their logistic counts */
    int64_t max_pixels; /* default 178956970 */
} fs_map_options;
fs_map_options fs_map_options_defaults(void);

/* FS_E_NO_MEMORY with "no memory for WHAT"; what follows it in a function is then known not to run. */
static inline fs_status fs_eval_no_memory(fs_error *err, const char *what) {
    fs_fail(err, FS_E_NO_MEMORY, "no memory for %s", what);
    return FS_E_NO_MEMORY;
}

/* .npy: floats in 0..1, or whole numbers 0..255 (uint8) divided by 255; anything outside is FS_E_NUMERIC. Pictures: 16-bit grey PNG /
 * 65535, others their grey level / 255 (Pillow's "L"). A NaN is FS_E_NUMERIC naming file and place. */
fs_status fs_map_read(const char *path, const fs_map_options *opt, fs_map *out, fs_error *err);
/* Is this a name we read? ".npy" or a picture's. */
bool fs_map_name(const char *name);
/* The pixel nearest to each new pixel's centre. */
fs_status fs_map_resize(fs_map *m, int64_t width, int64_t height, fs_error *err);
void fs_map_free(fs_map *m);

/* A mask of truth: grey level > 127 is tampered (255), or < 128 if inverted. malloc'ed [h][w]. sha256 (may be NULL) is of the file's bytes.
 */
fs_status fs_truth_read(const char *path, bool inverted, uint8_t **out, int64_t *width, int64_t *height, char sha256[65], fs_error *err);

#endif
