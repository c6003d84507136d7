/* The resampler behind fs_image_resize and the four preprocessings: it computes only the window of the result that is wanted, and it can
 * take a picture as lying on a larger canvas of one colour without that canvas ever being in memory. Private to src/image. */
#ifndef FS_IMAGE_RESAMPLE_H
#define FS_IMAGE_RESAMPLE_H

#include "image/image.h"

/* width x height pixels of colour `fill` with the picture's upper left corner at (left, top); the picture lies wholly inside. */
typedef struct fs_canvas {
    const fs_image *im;
    int64_t left, top, width, height;
    uint8_t fill[3];
} fs_canvas;

typedef struct fs_window {
    int64_t x, y, width, height;
} fs_window;

/* The pixels of `window` of the canvas resized to width x height. Same bytes as resizing the whole canvas and cutting the window out. */
fs_status fs_resample(const fs_canvas *in, int64_t width, int64_t height, fs_filter filter, fs_window window, fs_image **out,
                      fs_error *err);

#endif
