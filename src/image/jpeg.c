/* JPEG through libjpeg-turbo with the settings Pillow and OpenCV both leave at their defaults: accurate integer DCT, smooth chroma
 * upsampling, block smoothing. Grey is replicated. CMYK and YCCK are taken as Adobe stores them (inverted), as both do, then converted by
 * Pillow's or OpenCV's formula.
 * libjpeg reports fatal errors by a callback that must not return: it jumps back to decode_guarded. Warnings that mean lost picture data
 * (early end, bad codes, lost restart markers) are made errors; harmless ones (bytes between segments) are not. */
#include "image/codec.h"

#include <setjmp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#include <jerror.h> /* wants jpeglib.h before it */

/* A progressive file may repeat scans without end at no cost to its author; real encoders write about ten. */
enum { MAX_SCANS = 200 };

typedef struct session {
    struct jpeg_error_mgr mgr;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    fs_status status;
    char text[JMSG_LENGTH_MAX + 64];
    struct jpeg_decompress_struct dec;
    fs_image *im;
    uint8_t *row; /* one row of CMYK */
} session;

static _Noreturn void give_up(session *s, fs_status status, const char *text) {
    s->status = status;
    snprintf(s->text, sizeof s->text, "%s", text);
    longjmp(s->escape, 1);
}

static _Noreturn void on_error(j_common_ptr info) {
    session *s = (session *)info->err;
    char text[JMSG_LENGTH_MAX];
    info->err->format_message(info, text);
    give_up(s, info->err->msg_code == JERR_OUT_OF_MEMORY ? FS_E_NO_MEMORY : FS_E_FORMAT, text);
}

static void on_message(j_common_ptr info, int level) {
    if (level >= 0) return; /* tracing */
    switch (info->err->msg_code) {
    case JWRN_JPEG_EOF:
    case JWRN_HIT_MARKER:
    case JWRN_HUFF_BAD_CODE:
    case JWRN_ARITH_BAD_CODE:
    case JWRN_MUST_RESYNC:
        on_error(info);
    default:
        return;
    }
}

static void no_output(j_common_ptr info) {
    (void)info;
}

static void on_progress(j_common_ptr info) {
    session *s = (session *)info->err;
    if (s->dec.input_scan_number > MAX_SCANS) give_up(s, FS_E_LIMIT, "more than 200 scans");
}

/* The whole file is in memory: being asked for more means it ends early. */
static void source_init(j_decompress_ptr dec) {
    (void)dec;
}
static boolean source_fill(j_decompress_ptr dec) {
    dec->err->msg_code = JWRN_JPEG_EOF;
    on_error((j_common_ptr)dec);
}
static void source_skip(j_decompress_ptr dec, long n) {
    if (n <= 0) return;
    if ((size_t)n > dec->src->bytes_in_buffer) source_fill(dec);
    dec->src->next_input_byte += n;
    dec->src->bytes_in_buffer -= (size_t)n;
}
static void source_term(j_decompress_ptr dec) {
    (void)dec;
}

static int orientation_of(const struct jpeg_decompress_struct *dec) {
    for (jpeg_saved_marker_ptr m = dec->marker_list; m; m = m->next)
        if (m->marker == JPEG_APP0 + 1 && m->data_length >= 6 && memcmp(m->data, "Exif\0", 5) == 0)
            return fs_exif_orientation(m->data, m->data_length);
    return 1;
}

static void convert_cmyk(const uint8_t *in, int64_t n, fs_decode_style style, uint8_t *out) {
    for (int64_t x = 0; x < n; x++, in += 4, out += 3) {
        if (style == FS_DECODE_PIL) {
            fs_cmyk_to_rgb((uint8_t)(255 - in[0]), (uint8_t)(255 - in[1]), (uint8_t)(255 - in[2]), (uint8_t)(255 - in[3]), out);
        } else { /* OpenCV: k - (255 - c) * k / 256, rounded down */
            for (int c = 0; c < 3; c++) out[c] = (uint8_t)(in[3] - ((255 - in[c]) * in[3] >> 8));
        }
    }
}

/* Everything that may jump. Returns FS_OK, or a status whose line is already written; jumps for libjpeg's own errors. */
static fs_status decode_guarded(session *s, const fs_codec_job *job, struct jpeg_source_mgr *src) {
    struct jpeg_decompress_struct *dec = &s->dec;
    if (setjmp(s->escape))
        return fs_fail(job->err, s->status, "%s: the JPEG data is broken or cut off (%s); get the file again", job->name, s->text);
    jpeg_create_decompress(dec);
    dec->progress = &s->progress;
    dec->src = src;
    jpeg_save_markers(dec, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(dec, TRUE);
    int parts = dec->num_components;
    const char *mode = parts == 1 ? "L" : parts == 3 ? "RGB" : "CMYK";
    job->info->orientation = orientation_of(dec);
    fs_status status = fs_codec_check_size(job, "JPEG", mode, dec->image_width, dec->image_height);
    if (status) return status;
    if (parts != 1 && parts != 3 && parts != 4)
        return fs_fail(job->err, FS_E_UNSUPPORTED, "%s: a JPEG with %d components; grey, colour or CMYK is expected", job->name, parts);
    dec->out_color_space = parts == 4 ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(dec);
    status = fs_image_create(dec->output_width, dec->output_height, &s->im, job->err);
    if (status) return fs_error_prefix(job->err, "%s", job->name);
    if (parts == 4 && !(s->row = fs_alloc(dec->output_width, 4)))
        return fs_fail(job->err, FS_E_NO_MEMORY, "%s: no memory for one row of the picture", job->name);
    while (dec->output_scanline < dec->output_height) {
        uint8_t *to = s->im->data + (size_t)dec->output_scanline * (size_t)s->im->width * 3;
        JSAMPROW row = s->row ? s->row : to;
        if (jpeg_read_scanlines(dec, &row, 1) == 1 && s->row) convert_cmyk(s->row, s->im->width, job->opt->style, to);
    }
    jpeg_finish_decompress(dec);
    return FS_OK;
}

fs_status fs_codec_jpeg(const fs_codec_job *job, fs_image **out) {
    session *s = calloc(1, sizeof *s);
    if (!s) return fs_fail(job->err, FS_E_NO_MEMORY, "%s: no memory for the JPEG decoder", job->name);
    struct jpeg_source_mgr src = {.next_input_byte = job->data,
                                  .bytes_in_buffer = job->size,
                                  .init_source = source_init,
                                  .fill_input_buffer = source_fill,
                                  .skip_input_data = source_skip,
                                  .resync_to_restart = jpeg_resync_to_restart,
                                  .term_source = source_term};
    s->dec.err = jpeg_std_error(&s->mgr);
    s->mgr.error_exit = on_error;
    s->mgr.emit_message = on_message;
    s->mgr.output_message = no_output;
    s->progress.progress_monitor = on_progress;
    fs_status status = decode_guarded(s, job, &src);
    jpeg_destroy_decompress(&s->dec);
    free(s->row);
    if (status)
        fs_image_free(s->im);
    else
        *out = s->im;
    free(s);
    return status;
}
