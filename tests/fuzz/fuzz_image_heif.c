/* Hostile HEIF and AVIF files through the public entry, which first checks the brand. Without libheif this only tests the refusal. */
#include "image/image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 12 || data[4] != 'f' || data[5] != 't' || data[6] != 'y' || data[7] != 'p') return 0;
    fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_PIL);
    opt.max_pixels = 1 << 18;
    fs_error err;
    fs_image *im = NULL;
    fs_status status = fs_image_decode("fuzz", data, size, &opt, &im, NULL, &err);
    if ((status == FS_OK) != (im != NULL)) __builtin_trap();
    fs_image_free(im);
    return 0;
}
