/* Any bytes as a 16-bit grey PNG of at most a million pixels. */
#include <stdlib.h>

#include "image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint16_t *v = NULL;
    int64_t w = 0, h = 0;
    fs_error err = {0};
    if (fs_png_read_grey16("fuzz.png", data, size, 1000000, &v, &w, &h, &err) != FS_OK) {
        if (v || err.status == FS_OK || err.message[0] == '\0') abort();
        return 0;
    }
    volatile unsigned sum = 0;
    if (w < 1 || h < 1 || w * h > 1000000) abort();
    for (int64_t i = 0; i < w * h; i++) sum += v[i];
    (void)sum;
    free(v);
    return 0;
}
