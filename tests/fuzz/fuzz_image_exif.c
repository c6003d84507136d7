/* Hostile EXIF blocks. */
#include "image/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    int orientation = fs_exif_orientation(data, size);
    if (orientation < 1 || orientation > 8) __builtin_trap();
    return 0;
}
