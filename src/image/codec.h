/* What the picture codecs of this folder share: one job, one function per format. Private to src/image. */
#ifndef FS_IMAGE_CODEC_H
#define FS_IMAGE_CODEC_H

#include "image/image.h"

/* One picture to decode. `info` is never NULL here; a codec sets its format, mode, stored size and orientation. */
typedef struct fs_codec_job {
    const char *name; /* for error lines */
    const uint8_t *data;
    size_t size;
    const fs_decode_options *opt;
    fs_image_info *info;
    fs_error *err;
} fs_codec_job;

fs_status fs_codec_jpeg(const fs_codec_job *job, fs_image **out);
fs_status fs_codec_png(const fs_codec_job *job, fs_image **out);
fs_status fs_codec_webp(const fs_codec_job *job, fs_image **out);
fs_status fs_codec_tiff(const fs_codec_job *job, fs_image **out);
fs_status fs_codec_bmp(const fs_codec_job *job, fs_image **out);
fs_status fs_codec_heif(const fs_codec_job *job, fs_image **out); /* "not built in" without libheif */
/* Before libheif sees a file: FS_E_FORMAT if its items refer to each other in a circle. */
fs_status fs_heif_check_references(const fs_codec_job *job);

/* Notes format, mode and size in job->info and refuses sizes of 0 or over the limit. To be called before anything of the picture's size
 * is allocated. */
fs_status fs_codec_check_size(const fs_codec_job *job, const char *format, const char *mode, int64_t width, int64_t height);

/* The EXIF orientation (1..8; 1 if absent or senseless) in a TIFF structure of `size` bytes, a leading "Exif\0\0" allowed. */
int fs_exif_orientation(const uint8_t *data, size_t size);

/* Pillow's conversion of one pixel; c, m, y, k as ink amounts (255 = full). */
void fs_cmyk_to_rgb(uint8_t c, uint8_t m, uint8_t y, uint8_t k, uint8_t rgb[3]);

#endif
