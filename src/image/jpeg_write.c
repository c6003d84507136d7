/* JPEG encoding into memory, without metadata: with Pillow's defaults (quality 75, 4:2:0) for masks that must look as the original saves
 * them, and with a chosen quality and subsampling for data that is to look as pictures do in the wild. */
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>

#include <stdio.h>

#include <jpeglib.h>

#include "image/image.h"

/* On the heap: what changes between setjmp and longjmp must not live in registers. */
struct encoder {
    struct jpeg_error_mgr manager;
    struct jpeg_compress_struct compress;
    jmp_buf escape;
    unsigned char *bytes;
    unsigned long size;
    char message[JMSG_LENGTH_MAX];
};

static void on_error(j_common_ptr c) {
    struct encoder *e = (struct encoder *)c->err;
    c->err->format_message(c, e->message);
    longjmp(e->escape, 1);
}

static void on_message(j_common_ptr c) { (void)c; }

static void encode(struct encoder *e, const uint8_t *pixels, JDIMENSION w, JDIMENSION h, int channels, int quality, bool full_chroma) {
    struct jpeg_compress_struct *c = &e->compress;
    c->err = jpeg_std_error(&e->manager);
    e->manager.error_exit = on_error;
    e->manager.output_message = on_message;
    jpeg_create_compress(c);
    jpeg_mem_dest(c, &e->bytes, &e->size);
    c->image_width = w;
    c->image_height = h;
    c->input_components = channels;
    c->in_color_space = channels == 3 ? JCS_RGB : JCS_GRAYSCALE;
    jpeg_set_defaults(c);
    jpeg_set_quality(c, quality, TRUE);
    if (full_chroma) c->comp_info[0].h_samp_factor = c->comp_info[0].v_samp_factor = 1;
    jpeg_start_compress(c, TRUE);
    while (c->next_scanline < h) {
        JSAMPROW row = (JSAMPROW)(uintptr_t)(pixels + (size_t)c->next_scanline * w * (size_t)channels);
        jpeg_write_scanlines(c, &row, 1);
    }
    jpeg_finish_compress(c);
}

fs_status fs_jpeg_encode(const uint8_t *pixels, int64_t w, int64_t h, int channels, uint8_t **out, size_t *size, fs_error *err) {
    return fs_jpeg_encode_quality(pixels, w, h, channels, 75, false, out, size, err);
}

fs_status fs_jpeg_encode_quality(const uint8_t *pixels, int64_t w, int64_t h, int channels, int quality, bool full_chroma, uint8_t **out,
                                 size_t *size, fs_error *err) {
    *out = NULL;
    *size = 0;
    if (w < 1 || h < 1 || w > JPEG_MAX_DIMENSION || h > JPEG_MAX_DIMENSION)
        return fs_fail(err, FS_E_LIMIT, "a JPEG of %lldx%lld pixels is not possible (at most %ld a side); write PNG", (long long)w, (long long)h,
                       (long)JPEG_MAX_DIMENSION);
    struct encoder *e = calloc(1, sizeof *e);
    if (!e) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    fs_status status = FS_OK;
    if (setjmp(e->escape) == 0) {
        encode(e, pixels, (JDIMENSION)w, (JDIMENSION)h, channels, quality, full_chroma);
        *out = e->bytes;
        *size = e->size;
        e->bytes = NULL;
    } else {
        status = fs_fail(err, FS_E_NO_MEMORY, "JPEG encoder: %s", e->message);
    }
    jpeg_destroy_compress(&e->compress);
    free(e->bytes);
    free(e);
    return status;
}
