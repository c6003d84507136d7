/* TIFF and BigTIFF, first picture only, through libtiff. OpenCV takes every file through libtiff's own RGBA conversion, so its style is
 * that conversion. Pillow unpacks by itself; where that differs (16-bit samples, alpha, CMYK) `read_direct` follows it: grey clipped at
 * 255, the high byte of 16-bit colours, alpha dropped (undone first where the colours were multiplied with it), CMYK by Pillow's formula.
 * Everything else (palette, bilevel, YCbCr, Lab, ...) goes the RGBA way in both styles.
 * Errors come through handlers of this one handle; libtiff's global ones are not touched. */
#include "image/codec.h"

#include <stdlib.h>
#include <string.h>

#include <tiffio.h>

typedef struct session {
    const fs_codec_job *job;
    TIFF *tif;
    uint64_t at;
    char text[256]; /* libtiff's first complaint */
    bool damaged;   /* a warning that means lost picture data */
    /* the file's fields */
    uint32_t width, height;
    uint16_t bits, samples, photometric, planar, format, extra;
    fs_image *im;
} session;

static int on_error(TIFF *tif, void *user, const char *module, const char *format, va_list args) {
    session *s = user;
    (void)tif, (void)module;
    if (!s->text[0]) vsnprintf(s->text, sizeof s->text, format, args);
    return 1;
}

static int on_warning(TIFF *tif, void *user, const char *module, const char *format, va_list args) {
    session *s = user;
    char text[sizeof s->text];
    (void)tif, (void)module;
    vsnprintf(text, sizeof text, format, args);
    /* "Premature end of JPEG file" and its kin: libtiff goes on with grey; a palette that cannot be read: it takes indices for greys */
    if (strstr(text, "remature ") || strstr(text, "ColorMap")) {
        s->damaged = true;
        if (!s->text[0]) memcpy(s->text, text, sizeof s->text);
    }
    return 1;
}

static tmsize_t on_read(thandle_t user, void *out, tmsize_t n) {
    session *s = user;
    if (n < 0 || s->at > s->job->size) return 0;
    uint64_t left = s->job->size - s->at, take = (uint64_t)n < left ? (uint64_t)n : left;
    memcpy(out, s->job->data + s->at, take);
    s->at += take;
    return (tmsize_t)take;
}

static tmsize_t on_write(thandle_t user, void *data, tmsize_t n) {
    (void)user, (void)data, (void)n;
    return 0;
}

static toff_t on_seek(thandle_t user, toff_t offset, int whence) {
    session *s = user;
    s->at = whence == SEEK_SET ? offset : whence == SEEK_CUR ? s->at + offset : s->job->size + offset;
    return s->at;
}

static int on_close(thandle_t user) {
    (void)user;
    return 0;
}
static toff_t on_size(thandle_t user) {
    return ((session *)user)->job->size;
}

static fs_status fail_data(const session *s) {
    return fs_fail(s->job->err, FS_E_FORMAT, "%s: the TIFF data is broken or cut off (%s); get the file again", s->job->name,
                   s->text[0] ? s->text : "libtiff gives no reason");
}

/* The file is in memory already. libtiff then reads straight from it, within these bounds, and writes nothing into it. (Without a map,
 * libtiff 4.5 refuses uncompressed tiles whose size is no multiple of 1024: it compares with its rounded buffer.) */
static int on_map(thandle_t user, void **base, toff_t *size) {
    session *s = user;
    *base = (void *)(uintptr_t)s->job->data;
    *size = s->job->size;
    return 1;
}

static void on_unmap(thandle_t user, void *base, toff_t size) {
    (void)user, (void)base, (void)size;
}

static bool open_tiff(session *s) {
    TIFFOpenOptions *opts = TIFFOpenOptionsAlloc();
    if (!opts) return false;
    int64_t largest = s->job->opt->max_pixels > INT64_MAX / 32 ? INT64_MAX / 2 : s->job->opt->max_pixels * 16;
    TIFFOpenOptionsSetMaxSingleMemAlloc(opts, (tmsize_t)fs_max_i64(largest, 64 << 20));
    TIFFOpenOptionsSetErrorHandlerExtR(opts, on_error, s);
    TIFFOpenOptionsSetWarningHandlerExtR(opts, on_warning, s);
    s->tif = TIFFClientOpenExt("picture", "r", s, on_read, on_write, on_seek, on_close, on_size, on_map, on_unmap, opts);
    TIFFOpenOptionsFree(opts);
    return s->tif != NULL;
}

static const char *mode_name(const session *s) {
    switch (s->photometric) {
    case PHOTOMETRIC_MINISWHITE:
    case PHOTOMETRIC_MINISBLACK:
        if (s->bits == 16) return TIFFIsBigEndian(s->tif) ? "I;16B" : "I;16";
        return s->bits == 1 ? "1" : s->bits == 32 ? "F" : s->samples == 2 ? "LA" : "L";
    case PHOTOMETRIC_PALETTE:
        return "P";
    case PHOTOMETRIC_SEPARATED:
        return "CMYK";
    case PHOTOMETRIC_CIELAB:
        return "LAB";
    case PHOTOMETRIC_RGB:
        return s->samples == 3 ? "RGB" : s->extra == EXTRASAMPLE_UNSPECIFIED ? "RGBX" : "RGBA";
    default:
        return "RGB";
    }
}

static fs_status read_fields(session *s) {
    uint16_t orientation = 1, n_extra = 0, *extra = NULL;
    TIFFGetField(s->tif, TIFFTAG_IMAGEWIDTH, &s->width);
    TIFFGetField(s->tif, TIFFTAG_IMAGELENGTH, &s->height);
    TIFFGetFieldDefaulted(s->tif, TIFFTAG_BITSPERSAMPLE, &s->bits);
    TIFFGetFieldDefaulted(s->tif, TIFFTAG_SAMPLESPERPIXEL, &s->samples);
    TIFFGetFieldDefaulted(s->tif, TIFFTAG_PLANARCONFIG, &s->planar);
    TIFFGetFieldDefaulted(s->tif, TIFFTAG_SAMPLEFORMAT, &s->format);
    TIFFGetFieldDefaulted(s->tif, TIFFTAG_ORIENTATION, &orientation);
    if (!TIFFGetField(s->tif, TIFFTAG_PHOTOMETRIC, &s->photometric))
        s->photometric = s->samples >= 3 ? PHOTOMETRIC_RGB : PHOTOMETRIC_MINISBLACK;
    s->extra = EXTRASAMPLE_UNASSALPHA;
    if (TIFFGetField(s->tif, TIFFTAG_EXTRASAMPLES, &n_extra, &extra) && n_extra > 0) s->extra = extra[0];
    s->job->info->orientation = orientation >= 1 && orientation <= 8 ? orientation : 1;
    return fs_codec_check_size(s->job, "TIFF", mode_name(s), s->width, s->height);
}

/* Does Pillow's own unpacking differ from libtiff's RGBA conversion here? */
static bool wants_direct(const session *s) {
    if (s->job->opt->style != FS_DECODE_PIL || s->format != SAMPLEFORMAT_UINT || (s->bits != 8 && s->bits != 16)) return false;
    switch (s->photometric) {
    case PHOTOMETRIC_MINISWHITE:
    case PHOTOMETRIC_MINISBLACK:
        return s->bits == 16;
    case PHOTOMETRIC_RGB:
        return s->samples >= 3;
    case PHOTOMETRIC_SEPARATED:
        return s->samples >= 4;
    default:
        return false;
    }
}

static unsigned sample(const uint8_t *p, size_t bytes) {
    uint16_t v = *p;
    if (bytes == 2) memcpy(&v, p, 2); /* libtiff gives the machine's byte order */
    return v;
}

/* One row of `n` pixels. plane[c] points at the first pixel's component c, `step` bytes from pixel to pixel. */
static void convert_row(const session *s, const uint8_t *const plane[4], size_t step, int64_t n, uint8_t *out) {
    size_t bytes = s->bits / 8;
    int shift = s->bits - 8;
    bool cmyk = s->photometric == PHOTOMETRIC_SEPARATED, gray = !cmyk && s->photometric != PHOTOMETRIC_RGB;
    bool multiplied = !cmyk && s->samples >= 4 && s->extra == EXTRASAMPLE_ASSOCALPHA;
    for (int64_t x = 0; x < n; x++, out += 3) {
        size_t at = (size_t)x * step;
        unsigned v[4] = {0, 0, 0, 255};
        for (int c = 0; c < 4 && plane[c]; c++) v[c] = sample(plane[c] + at, bytes) >> (gray ? 0 : shift);
        if (gray) {
            out[0] = out[1] = out[2] = (uint8_t)(v[0] > 255 ? 255 : v[0]);
        } else if (cmyk) {
            fs_cmyk_to_rgb((uint8_t)v[0], (uint8_t)v[1], (uint8_t)v[2], (uint8_t)v[3], out);
        } else {
            for (int c = 0; c < 3; c++) {
                if (multiplied) v[c] = v[3] == 0 ? 0 : v[3] == 255 ? v[c] : v[c] * 255 / v[3];
                out[c] = (uint8_t)(v[c] > 255 ? 255 : v[c]);
            }
        }
    }
}

/* Reads strip or tile (x, y) of `planes` planes into `block`, one after the other. */
static bool read_block(session *s, uint32_t x, uint32_t y, int planes, size_t block_bytes, size_t needed, uint8_t *block) {
    for (int p = 0; p < planes; p++) {
        uint8_t *to = block + (size_t)p * block_bytes;
        tmsize_t got;
        if (TIFFIsTiled(s->tif))
            got = TIFFReadEncodedTile(s->tif, TIFFComputeTile(s->tif, x, y, 0, (uint16_t)p), to, (tmsize_t)block_bytes);
        else
            got = TIFFReadEncodedStrip(s->tif, TIFFComputeStrip(s->tif, y, (uint16_t)p), to, (tmsize_t)block_bytes);
        if (got < 0 || (size_t)got < needed) return false;
    }
    return true;
}

static fs_status read_direct(session *s) {
    const fs_codec_job *job = s->job;
    bool tiled = TIFFIsTiled(s->tif), separate = s->planar == PLANARCONFIG_SEPARATE;
    uint32_t bw = s->width, bh = 0;
    if (tiled) {
        TIFFGetField(s->tif, TIFFTAG_TILEWIDTH, &bw);
        TIFFGetField(s->tif, TIFFTAG_TILELENGTH, &bh);
    } else {
        TIFFGetFieldDefaulted(s->tif, TIFFTAG_ROWSPERSTRIP, &bh);
        if (bh > s->height) bh = s->height;
    }
    tmsize_t size = tiled ? TIFFTileSize(s->tif) : TIFFStripSize(s->tif);
    int used = s->photometric == PHOTOMETRIC_RGB ? (s->samples >= 4 ? 4 : 3) : s->photometric == PHOTOMETRIC_SEPARATED ? 4 : 1;
    int planes = separate ? used : 1;
    size_t step = s->bits / 8u * (separate ? 1u : s->samples), row_bytes, expected;
    if (size <= 0 || bw == 0 || bh == 0 || !fs_mul_size(bw, step, &row_bytes) || !fs_mul_size(row_bytes, bh, &expected) ||
        (size_t)size != expected)
        return fail_data(s);
    if (size / 64 > fs_max_i64(job->opt->max_pixels, 1 << 20))
        return fs_fail(job->err, FS_E_LIMIT,
                       "%s: TIFF strips or tiles of %lld bytes are larger than any picture within the limit of %lld "
                       "pixels",
                       job->name, (long long)size, (long long)job->opt->max_pixels);
    uint8_t *block = fs_alloc((size_t)size, (size_t)planes);
    if (!block) return fs_fail(job->err, FS_E_NO_MEMORY, "%s: no memory for a TIFF strip of %lld bytes", job->name, (long long)size);
    fs_status status = FS_OK;
    for (uint32_t y = 0; y < s->height && !status; y += bh) {
        uint32_t rows = s->height - y < bh ? s->height - y : bh;
        for (uint32_t x = 0; x < s->width; x += bw) {
            uint32_t columns = s->width - x < bw ? s->width - x : bw;
            if (!read_block(s, x, y, planes, (size_t)size, row_bytes * (tiled ? bh : rows), block)) {
                status = fail_data(s);
                break;
            }
            for (uint32_t r = 0; r < rows; r++) {
                const uint8_t *plane[4] = {NULL, NULL, NULL, NULL};
                for (int c = 0; c < used; c++)
                    plane[c] = block + r * row_bytes + (separate ? (size_t)c * (size_t)size : (size_t)c * (s->bits / 8u));
                convert_row(s, plane, step, columns, s->im->data + (((size_t)y + r) * s->width + x) * 3);
            }
            if (s->width - x <= bw) break; /* x + bw might wrap */
        }
        if (s->height - y <= bh) break;
    }
    free(block);
    return status;
}

/* libtiff's conversion to 32-bit ABGR, some strips at a time. */
static fs_status read_rgba(session *s) {
    const fs_codec_job *job = s->job;
    char reason[1024] = "";
    if (!TIFFRGBAImageOK(s->tif, reason))
        return fs_fail(job->err, FS_E_UNSUPPORTED, "%s: this kind of TIFF is not supported (%s); save it as 8-bit RGB", job->name, reason);
    TIFFRGBAImage conv;
    if (!TIFFRGBAImageBegin(&conv, s->tif, 1, reason))
        return fs_fail(job->err, FS_E_UNSUPPORTED, "%s: libtiff cannot convert this TIFF (%s); save it as 8-bit RGB", job->name, reason);
    conv.req_orientation = conv.orientation; /* as stored; turning is done once, in decode.c */
    fs_status status = FS_OK;
    uint32_t unit = s->height;
    if (TIFFIsTiled(s->tif))
        TIFFGetField(s->tif, TIFFTAG_TILELENGTH, &unit);
    else
        TIFFGetFieldDefaulted(s->tif, TIFFTAG_ROWSPERSTRIP, &unit);
    if (unit == 0 || unit > s->height) unit = s->height;
    uint32_t step = unit >= 64 ? unit : unit * (64 / unit); /* whole strips, at least about 64 rows */
    if (step > s->height) step = s->height;
    uint32_t *raster = fs_alloc((size_t)step * s->width, sizeof *raster);
    if (!raster) status = fs_fail(job->err, FS_E_NO_MEMORY, "%s: no memory for %u rows of the picture", job->name, step);
    for (uint32_t y = 0; y < s->height && !status; y += step) {
        uint32_t rows = s->height - y < step ? s->height - y : step;
        conv.row_offset = (int)y;
        conv.col_offset = 0;
        if (!TIFFRGBAImageGet(&conv, raster, s->width, rows)) {
            status = fail_data(s);
            break;
        }
        uint8_t *out = s->im->data + (size_t)y * s->width * 3;
        for (size_t i = 0; i < (size_t)rows * s->width; i++, out += 3) {
            out[0] = (uint8_t)TIFFGetR(raster[i]);
            out[1] = (uint8_t)TIFFGetG(raster[i]);
            out[2] = (uint8_t)TIFFGetB(raster[i]);
        }
        if (s->height - y <= step) break;
    }
    free(raster);
    TIFFRGBAImageEnd(&conv);
    return status;
}

fs_status fs_codec_tiff(const fs_codec_job *job, fs_image **out) {
    session s = {.job = job, .format = SAMPLEFORMAT_UINT};
    fs_status status;
    if (!open_tiff(&s)) return fail_data(&s);
    status = read_fields(&s);
    if (status) goto done;
    if (s.format != SAMPLEFORMAT_UINT && s.format != SAMPLEFORMAT_VOID) {
        status = fs_fail(job->err, FS_E_UNSUPPORTED, "%s: a TIFF with signed or floating-point samples; save it as 8-bit RGB", job->name);
        goto done;
    }
    status = fs_image_create(s.width, s.height, &s.im, job->err);
    if (status) {
        fs_error_prefix(job->err, "%s", job->name);
        goto done;
    }
    status = wants_direct(&s) ? read_direct(&s) : read_rgba(&s);
    if (!status && s.damaged) status = fail_data(&s);
done:
    TIFFClose(s.tif);
    if (status)
        fs_image_free(s.im);
    else
        *out = s.im;
    return status;
}
