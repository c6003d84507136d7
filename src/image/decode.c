/* From bytes to an RGB picture: recognises the format by its first bytes, holds the limits, hands over to the codec, turns the result.
 * Two of the original's decoders are followed where they differ (Pillow 9.4 for DTG and DTE-FDM, OpenCV 4.8's imread for MFLM).
 * Measured on both (tests/golden/image): for 8-bit JPEG, PNG, WebP, BMP and TIFF without alpha they give the same pixels; 16-bit grey,
 * CMYK, TIFF alpha and 16-bit colour, 16-bit BMP and palette indices past the palette differ.
 * Orientation: OpenCV applies EXIF to JPEG and PNG, not to WebP; both apply the tag of a TIFF; libheif turns HEIF by itself. So with
 * apply_exif JPEG and PNG are turned here, whatever the style, and both stages can be made to see the same picture. */
#include "image/codec.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

fs_decode_options fs_decode_options_defaults(fs_decode_style style) {
    return (fs_decode_options){
        .style = style, .apply_exif = style == FS_DECODE_CV2, .max_pixels = 178956970, .max_file_bytes = (size_t)1 << 30};
}

fs_status fs_codec_check_size(const fs_codec_job *job, const char *format, const char *mode, int64_t width, int64_t height) {
    fs_image_info *info = job->info;
    snprintf(info->format, sizeof info->format, "%s", format);
    snprintf(info->mode, sizeof info->mode, "%s", mode);
    info->width = width;
    info->height = height;
    if (width <= 0 || height <= 0)
        return fs_fail(job->err, FS_E_FORMAT, "%s: the %s header says %lld x %lld pixels; a picture needs at least 1 x 1", job->name,
                       format, (long long)width, (long long)height);
    int64_t pixels;
    if (!fs_mul_i64(width, height, &pixels) || pixels > job->opt->max_pixels)
        return fs_fail(job->err, FS_E_LIMIT, "%s: %lld x %lld pixels, the limit is %lld pixels; scale it down or raise the limit",
                       job->name, (long long)width, (long long)height, (long long)job->opt->max_pixels);
    return FS_OK;
}

void fs_cmyk_to_rgb(uint8_t c, uint8_t m, uint8_t y, uint8_t k, uint8_t rgb[3]) {
    const unsigned white = 255u - k;
    const uint8_t ink[3] = {c, m, y};
    for (int i = 0; i < 3; i++) {
        unsigned t = ink[i] * white + 128;
        rgb[i] = (uint8_t)(white - (((t >> 8) + t) >> 8)); /* white - round(ink * white / 255) */
    }
}

static bool starts(const fs_codec_job *job, size_t at, const char *magic, size_t n) {
    return job->size >= at + n && memcmp(job->data + at, magic, n) == 0;
}

static bool is_tiff(const fs_codec_job *job) {
    return starts(job, 0, "II*\0", 4) || starts(job, 0, "MM\0*", 4) || starts(job, 0, "II+\0", 4) || starts(job, 0, "MM\0+", 4);
}

static bool is_heif(const fs_codec_job *job) {
    static const char brands[][5] = {"heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1", "avif", "avis"};
    if (!starts(job, 4, "ftyp", 4)) return false;
    for (size_t i = 0; i < sizeof brands / sizeof *brands; i++)
        if (starts(job, 8, brands[i], 4)) return true;
    return false;
}

static fs_status fail_unknown(const fs_codec_job *job) {
    static const struct {
        size_t at, n;
        const char *magic, *what;
    } others[] = {
        {0, 4, "GIF8", "a GIF"},
        {0, 4, "%PDF", "a PDF"},
        {0, 4, "8BPS", "a Photoshop document"},
        {4, 4, "jP  ", "a JPEG 2000 picture"},
        {0, 4, "\xff\x4f\xff\x51", "a JPEG 2000 picture"},
        {0, 2, "\xff\x0a", "a JPEG XL picture"},
        {4, 4, "JXL ", "a JPEG XL picture"},
        {4, 4, "ftyp", "a video"},
        {0, 5, "<?xml", "an XML text"},
        {0, 4, "<svg", "an SVG drawing"},
        {0, 3, "\xff\xd8", "a JPEG cut off after its first bytes"},
    };
    const char *what = "no picture format known here";
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (starts(job, others[i].at, others[i].magic, others[i].n)) {
            what = others[i].what;
            break;
        }
    return fs_fail(job->err, FS_E_UNSUPPORTED, "%s: this is %s; give a JPEG, PNG, WebP, TIFF, BMP or HEIF picture", job->name, what);
}

fs_status fs_image_decode(const char *name, const uint8_t *data, size_t size, const fs_decode_options *opt, fs_image **out,
                          fs_image_info *info, fs_error *err) {
    fs_image_info local;
    if (!info) info = &local;
    *info = (fs_image_info){.orientation = 1};
    *out = NULL;
    fs_decode_options defaults = fs_decode_options_defaults(FS_DECODE_PIL);
    const fs_codec_job job = {name, data, size, opt ? opt : &defaults, info, err};
    if (size == 0) return fs_fail(err, FS_E_FORMAT, "%s: the file is empty; give a picture", name);
    if (size > job.opt->max_file_bytes)
        return fs_fail(err, FS_E_LIMIT, "%s: %zu bytes, the limit for a picture file is %zu", name, size, job.opt->max_file_bytes);
    fs_image *im = NULL;
    fs_status status;
    if (starts(&job, 0, "\xff\xd8\xff", 3))
        status = fs_codec_jpeg(&job, &im);
    else if (starts(&job, 0, "\x89PNG\r\n\x1a\n", 8))
        status = fs_codec_png(&job, &im);
    else if (starts(&job, 0, "RIFF", 4) && starts(&job, 8, "WEBP", 4))
        status = fs_codec_webp(&job, &im);
    else if (is_tiff(&job))
        status = fs_codec_tiff(&job, &im);
    else if (starts(&job, 0, "BM", 2))
        status = fs_codec_bmp(&job, &im);
    else if (is_heif(&job))
        status = fs_codec_heif(&job, &im);
    else
        status = fail_unknown(&job);
    bool jpeg_or_png = strcmp(info->format, "JPEG") == 0 || strcmp(info->format, "PNG") == 0;
    bool turn = strcmp(info->format, "TIFF") == 0 || (job.opt->apply_exif && jpeg_or_png);
    if (!status && turn && info->orientation != 1) {
        fs_image *turned = NULL;
        status = fs_image_orient(im, info->orientation, &turned, err);
        fs_image_free(im);
        im = turned;
    }
    if (status) {
        fs_image_free(im);
        return status;
    }
    *out = im;
    return FS_OK;
}

fs_status fs_image_load(const char *path, const fs_decode_options *opt, fs_image **out, fs_image_info *info, fs_error *err) {
    fs_decode_options defaults = fs_decode_options_defaults(FS_DECODE_PIL);
    if (!opt) opt = &defaults;
    uint8_t *data = NULL;
    size_t size = 0;
    *out = NULL;
    fs_status status = fs_read_file(path, opt->max_file_bytes, &data, &size, err);
    if (!status) status = fs_image_decode(path, data, size, opt, out, info, err);
    free(data);
    return status;
}

fs_status fs_image_probe(const char *path, const fs_decode_options *opt, fs_image_info *info, fs_error *err) {
    fs_decode_options limits = opt ? *opt : fs_decode_options_defaults(FS_DECODE_PIL), header = limits;
    fs_image_info local;
    fs_mapping file = {0};
    fs_image *im = NULL;
    fs_error why = {0};
    if (!info) info = &local;
    fs_status status = fs_map_file(path, &file, err);
    if (status) return status;
    header.max_pixels = -1; /* every codec asks whether the size is allowed once it has read the header: with this, it stops there */
    status = fs_image_decode(path, file.data, file.size, &header, &im, info, &why);
    fs_image_free(im);
    if (status == FS_E_LIMIT && info->width > 0) {
        const fs_codec_job job = {path, file.data, file.size, &limits, info, err};
        const fs_image_info found = *info; /* the check writes its arguments into the same struct */
        status = fs_codec_check_size(&job, found.format, found.mode, found.width, found.height);
    } else if (status && err) {
        *err = why;
    }
    fs_unmap(&file);
    const bool turned = strcmp(info->format, "TIFF") == 0 || (limits.apply_exif && (strcmp(info->format, "JPEG") == 0 || strcmp(info->format, "PNG") == 0));
    if (!status && turned && info->orientation >= 5) {
        const int64_t width = info->width;
        info->width = info->height;
        info->height = width;
    }
    return status;
}

bool fs_image_name_is_picture(const char *name) {
    static const char *const endings[] = {
        "jpg",  "jpeg", "jpe", "jfif", "png", "webp", "tif", "tiff", "bmp", "dib",
#ifdef FS_HAVE_HEIF
        "heic", "heif", "hif", "avif",
#endif
    };
    const char *dot = strrchr(fs_path_base(name), '.');
    if (!dot || dot == fs_path_base(name)) return false;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (strcasecmp(dot + 1, endings[i]) == 0) return true;
    return false;
}
