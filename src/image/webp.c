/* WebP (lossy, lossless, with or without alpha) through libwebp. Alpha is dropped without compositing: the colours under it are given
 * as stored. Animated files are refused by name. EXIF is looked up in the RIFF chunks for fs_image_info only: neither Pillow nor OpenCV
 * turns a WebP picture. */
#include "image/codec.h"

#include <string.h>

#include <webp/decode.h>

static uint32_t read_le32(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static int orientation_of(const uint8_t *data, size_t size) {
    size_t at = 12;
    while (size - at >= 8) {
        size_t n = read_le32(data + at + 4);
        if (n > size - at - 8) return 1;
        if (memcmp(data + at, "EXIF", 4) == 0) return fs_exif_orientation(data + at + 8, n);
        at += 8 + n;
        if (n % 2 && at < size) at++;
    }
    return 1;
}

static const char *reason(VP8StatusCode code) {
    switch (code) {
    case VP8_STATUS_NOT_ENOUGH_DATA:
    case VP8_STATUS_SUSPENDED:
        return "it ends early";
    case VP8_STATUS_BITSTREAM_ERROR:
        return "bad bit stream";
    case VP8_STATUS_UNSUPPORTED_FEATURE:
        return "a feature libwebp does not know";
    default:
        return "libwebp refuses it";
    }
}

fs_status fs_codec_webp(const fs_codec_job *job, fs_image **out) {
    WebPDecoderConfig config;
    if (!WebPInitDecoderConfig(&config))
        return fs_fail(job->err, FS_E_INTERNAL, "%s: libwebp has another version than at build", job->name);
    VP8StatusCode code = WebPGetFeatures(job->data, job->size, &config.input);
    if (code != VP8_STATUS_OK)
        return fs_fail(job->err, FS_E_FORMAT, "%s: the WebP header is broken or cut off (%s); get the file again", job->name, reason(code));
    fs_status status = fs_codec_check_size(job, "WebP", config.input.has_alpha ? "RGBA" : "RGB", config.input.width, config.input.height);
    if (status) return status;
    if (config.input.has_animation)
        return fs_fail(job->err, FS_E_UNSUPPORTED, "%s: an animated WebP; save the frame you mean as a still picture", job->name);
    job->info->orientation = orientation_of(job->data, job->size);
    fs_image *im = NULL;
    status = fs_image_create(config.input.width, config.input.height, &im, job->err);
    if (status) return fs_error_prefix(job->err, "%s", job->name);
    config.output.colorspace = MODE_RGB;
    config.output.is_external_memory = 1;
    config.output.u.RGBA.rgba = im->data;
    config.output.u.RGBA.stride = config.input.width * 3; /* WebP sides are at most 16384 */
    config.output.u.RGBA.size = (size_t)im->width * 3 * (size_t)im->height;
    code = WebPDecode(job->data, job->size, &config);
    WebPFreeDecBuffer(&config.output);
    if (code == VP8_STATUS_OK) {
        *out = im;
        return FS_OK;
    }
    fs_image_free(im);
    if (code == VP8_STATUS_OUT_OF_MEMORY) return fs_fail(job->err, FS_E_NO_MEMORY, "%s: no memory to decode the WebP picture", job->name);
    return fs_fail(job->err, FS_E_FORMAT, "%s: the WebP data is broken or cut off (%s); get the file again", job->name, reason(code));
}
