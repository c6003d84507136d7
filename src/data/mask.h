/* Masks as the original's training reads them: 8-bit grey of OpenCV, positive where the value is exactly 255. */
#ifndef FS_DATA_MASK_H
#define FS_DATA_MASK_H

#include "base/base.h"
#include "image/image.h"

typedef struct fs_mask {
    int64_t width, height;
    uint8_t *data; /* [height][width] grey, owned */
    bool coloured; /* some pixel has channels that differ */
} fs_mask;
void fs_mask_clear(fs_mask *m);
/* cv2.imread(path, IMREAD_GRAYSCALE): EXIF applied, 16 bits divided by 256, (4899 R + 9617 G + 1868 B + 8192) >> 14. */
fs_status fs_mask_load(const char *path, fs_mask *out, fs_error *err);
fs_status fs_mask_decode(const char *name, const uint8_t *data, size_t size, fs_mask *out, fs_error *err);

/* What the values mean. */
typedef struct fs_mask_values {
    int64_t pixels, white;        /* white: of value 255, which counts in training */
    int64_t nonzero, upper;       /* upper: above 127, which counts in evaluation */
    int64_t border, border_upper; /* pixels of the outermost rows and columns */
    int max;
} fs_mask_values;
fs_mask_values fs_mask_count(const fs_mask *m);
/* Share of the marked pixels (not 0) that training does not see because they are not 255; 0 for an empty mask. */
double fs_mask_lost(const fs_mask_values *v);
/* More than half of the picture and three quarters of its border are marked: as a mask whose black means tampered. */
bool fs_mask_looks_inverted(const fs_mask_values *v);

#endif
