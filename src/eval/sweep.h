/* What happens to pictures on their way through the world, made the same every time: the robustness sweeps. Private to src/eval. */
#ifndef FS_EVAL_SWEEP_H
#define FS_EVAL_SWEEP_H

#include "base/base.h"

typedef enum fs_sweep_kind {
    FS_SWEEP_NONE = 0,
    FS_SWEEP_JPEG = 1,
    FS_SWEEP_RESIZE = 2,
    FS_SWEEP_BLUR = 3,
    FS_SWEEP_NOISE = 4
} fs_sweep_kind;
const char *fs_sweep_kind_name(fs_sweep_kind k); /* "none", "jpeg", "resize", "blur", "noise" */
bool fs_sweep_kind_from_name(const char *name, fs_sweep_kind *out);

typedef struct fs_sweep_step {
    fs_sweep_kind kind;
    double amount; /* quality 1..100; factor 0.05..4; standard deviation in pixels 0.1..20; standard deviation in levels 0.1..100 */
    char name[32]; /* "jpeg=70"; "" for none */
} fs_sweep_step;
typedef struct fs_sweep {
    fs_sweep_step *steps;
    size_t count;
} fs_sweep; /* the first is always NONE */
/* "jpeg=90,70 resize=0.5"; text NULL or "": NONE alone. */
fs_status fs_sweep_parse(const char *text, fs_sweep *out, fs_error *err);
void fs_sweep_free(fs_sweep *s);
const char *fs_sweep_extension(const fs_sweep_step *step); /* ".jpg" or ".png" */
/* image as the step leaves it, written to path. JPEG: as the file, 4:2:0; resize: bicubic as Pillow; blur: Gaussian; noise: Gaussian,
 * independent for each value, from seed and name. EXIF orientation is applied. */
fs_status fs_sweep_write(const fs_sweep_step *step, const char *image, const char *name, uint64_t seed, const char *path, fs_error *err);

#endif
