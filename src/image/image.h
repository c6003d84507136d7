/* Pictures: decode untrusted bytes, orient, resample exactly as Pillow, normalise for the four consumers, and draw results. */
#ifndef FS_IMAGE_H
#define FS_IMAGE_H

#include "base/base.h"

typedef struct fs_image {
    int64_t width, height;
    uint8_t *data; /* [height][width][3], RGB, owned */
} fs_image;
void fs_image_free(fs_image *im); /* frees data and the struct; takes NULL */
fs_status fs_image_create(int64_t width, int64_t height, fs_image **out, fs_error *err); /* uninitialised pixels */

/* Which of the original's two decoders to follow where they differ (spec 3.1). PIL: 16-bit grey clipped to 255, CMYK by Pillow's
 * formula, EXIF ignored. CV2: 16-bit divided by 256, CMYK by OpenCV's formula, EXIF orientation applied. */
typedef enum fs_decode_style { FS_DECODE_PIL = 0, FS_DECODE_CV2 = 1 } fs_decode_style;

typedef struct fs_decode_options {
    fs_decode_style style;
    bool apply_exif;       /* rotate by the EXIF orientation; set by _defaults(style) to style == CV2 */
    int64_t max_pixels;    /* default 178956970 */
    size_t max_file_bytes; /* default 1 GiB */
} fs_decode_options;
fs_decode_options fs_decode_options_defaults(fs_decode_style style);

typedef struct fs_image_info {
    char format[16];     /* "JPEG", "PNG", "WebP", "TIFF", "BMP", "HEIF" */
    int64_t width, height; /* as stored, before orientation */
    int orientation;     /* EXIF 1..8, 1 = none */
    char mode[16];       /* as Pillow names it: "RGB", "L", "P", "RGBA", "LA", "I;16", "CMYK", ... */
} fs_image_info;

/* From bytes in memory. `name` is for error lines only. info may be NULL. A truncated or broken picture is an error. */
fs_status fs_image_decode(const char *name, const uint8_t *data, size_t size, const fs_decode_options *opt, fs_image **out,
                          fs_image_info *info, fs_error *err);
fs_status fs_image_load(const char *path, const fs_decode_options *opt, fs_image **out, fs_image_info *info, fs_error *err);
/* What the header says, without decoding; width and height as the decoded picture has them, orientation applied where the style's decoder
 * does. A file whose pixels are broken passes. */
fs_status fs_image_probe(const char *path, const fs_decode_options *opt, fs_image_info *info, fs_error *err);
/* Is this a file name we try when walking a folder? By extension, case-insensitive. */
bool fs_image_name_is_picture(const char *name);

/* Pillow's Image.resize, 8-bit, bit-exact (spec 3.2). */
typedef enum fs_filter { FS_FILTER_BILINEAR = 2, FS_FILTER_BICUBIC = 3 } fs_filter;
fs_status fs_image_resize(const fs_image *in, int64_t width, int64_t height, fs_filter filter, fs_image **out, fs_error *err);
/* Rotates/mirrors by EXIF orientation 1..8. */
fs_status fs_image_orient(const fs_image *in, int orientation, fs_image **out, fs_error *err);
/* The same for w x h pixels of `channels` bytes (1 or 3) into `out`, which is another array of that size; 5 to 8 make it h x w. */
void fs_orient_bytes(const uint8_t *in, int64_t w, int64_t h, int channels, int orientation, uint8_t *out);
/* The w x h rectangle at (x, y); parts outside are black (torchvision pads with 0). */
fs_status fs_image_crop(const fs_image *in, int64_t x, int64_t y, int64_t w, int64_t h, fs_image **out, fs_error *err);

/* The four consumers. Each returns malloc'ed float32 [3][size][size], channel-major. Before any cast to bf16/f16. */
fs_status fs_preprocess_dtg(const fs_image *im, float **out, fs_error *err);                                  /* spec 3.3: 224 */
/* The values alone, of a picture that is 224 x 224 already (one that was augmented). */
fs_status fs_preprocess_dtg_values(const fs_image *im, float **out, fs_error *err);
fs_status fs_preprocess_clip_padded(const fs_image *im, int64_t size, float **out, fs_error *err);            /* spec 3.4 */
fs_status fs_preprocess_clip_cropped(const fs_image *im, int64_t size, float **out, fs_error *err);           /* spec 3.5 */
/* spec 3.6: longest side to `size`, padded with zeros; in_h, in_w: the resized height and width. */
fs_status fs_preprocess_sam(const fs_image *im, int64_t size, float **out, int64_t *in_h, int64_t *in_w, fs_error *err);

/* PNG encoding into memory. pixels: [h][w][channels], channels 1 or 3. Deterministic bytes. */
fs_status fs_png_encode(const uint8_t *pixels, int64_t w, int64_t h, int channels, uint8_t **out, size_t *size, fs_error *err);
fs_status fs_png_write(const char *path, const uint8_t *pixels, int64_t w, int64_t h, int channels, fs_error *err);

/* 16-bit grey PNG as numbers 0..65535, [h][w], malloc'ed; other PNGs are FS_E_UNSUPPORTED. `name` is for error lines. */
bool fs_png_is_grey16(const uint8_t *data, size_t size);
fs_status fs_png_read_grey16(const char *name, const uint8_t *data, size_t size, int64_t max_pixels, uint16_t **out, int64_t *width, int64_t *height,
                             fs_error *err);

/* JPEG with Pillow's defaults (quality 75, 4:2:0), for masks in the original's naming. channels 1 or 3. */
fs_status fs_jpeg_encode(const uint8_t *pixels, int64_t w, int64_t h, int channels, uint8_t **out, size_t *size, fs_error *err);
/* quality 1..100 as libjpeg means it; full_chroma: 4:4:4 in place of 4:2:0. *out: free(). */
fs_status fs_jpeg_encode_quality(const uint8_t *pixels, int64_t w, int64_t h, int channels, int quality, bool full_chroma, uint8_t **out,
                                 size_t *size, fs_error *err);

/* The picture with mask (255/0, same size) tinted and its outline drawn, for people. */
fs_status fs_draw_overlay(const fs_image *im, const uint8_t *mask, fs_image **out, fs_error *err);

/* Words, drawn with a round pen from x on, standing on the line y = base; parts outside of the picture are left out. ASCII; anything else is an empty
 * box. Returns where the next word would begin. */
typedef struct fs_pen {
    double height, width; /* of capitals, of the stroke, in pixels */
    uint8_t color[3];
} fs_pen;
double fs_draw_words(fs_image *im, double x, double base, const char *text, const fs_pen *pen);
double fs_words_width(const char *text, double height);

/* Connected regions of a 255/0 mask (8-connected), largest first, at most max_regions; *n_out = how many were written and *total = how
 * many there are. */
typedef struct fs_region { int64_t x0, y0, x1, y1; /* x1, y1 exclusive */ int64_t pixels; } fs_region;
fs_status fs_mask_regions(const uint8_t *mask, int64_t w, int64_t h, fs_region *out, size_t max_regions, size_t *n_out, size_t *total,
                          fs_error *err);

#endif
