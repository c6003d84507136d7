/* What the harnesses of the picture codecs share: one codec, called in both styles with small limits. */
#ifndef FS_FUZZ_IMAGE_CODEC_H
#define FS_FUZZ_IMAGE_CODEC_H

#include "image/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline int fuzz_image_codec(fs_status (*decode)(const fs_codec_job *, fs_image **), const uint8_t *data, size_t size) {
    for (int style = 0; style < 2 && size > 0; style++) {
        fs_decode_options opt = fs_decode_options_defaults((fs_decode_style)style);
        opt.max_pixels = 1 << 18;
        fs_image_info info = {.orientation = 1};
        fs_error err;
        fs_image *im = NULL;
        const fs_codec_job job = {"fuzz", data, size, &opt, &info, &err};
        fs_status status = decode(&job, &im);
        if ((status == FS_OK) != (im != NULL) || info.orientation < 1 || info.orientation > 8) __builtin_trap();
        fs_image_free(im);
    }
    return 0;
}

#endif
