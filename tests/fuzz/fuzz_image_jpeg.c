/* Hostile JPEG files. */
#include "image_codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) { return fuzz_image_codec(fs_codec_jpeg, data, size); }
