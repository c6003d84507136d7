/* HEIF, HEIC and AVIF through libheif, where it is there at build time: the primary picture, turned and cropped as the file asks, as 8-bit
 * RGB. The original reads no such files (neither Pillow nor OpenCV does without plug-ins), so both styles are the same here. */
#include "image/codec.h"

#include <string.h>

#ifdef FS_HAVE_HEIF
#include <libheif/heif.h>

static fs_status fail_heif(const fs_codec_job *job, struct heif_error e) {
    bool feature = e.code == heif_error_Unsupported_feature || e.code == heif_error_Unsupported_filetype;
    return fs_fail(job->err, feature ? FS_E_UNSUPPORTED : FS_E_FORMAT, "%s: the HEIF picture cannot be decoded (%s); %s", job->name,
                   e.message ? e.message : "libheif gives no reason", feature ? "save it as JPEG or PNG" : "get the file again");
}

fs_status fs_codec_heif(const fs_codec_job *job, fs_image **out) {
    fs_status status = fs_heif_check_references(job);
    if (status) return status;
    struct heif_context *ctx = heif_context_alloc();
    struct heif_image_handle *handle = NULL;
    struct heif_image *pic = NULL;
    struct heif_decoding_options *options = NULL;
    struct heif_error e;
    fs_image *im = NULL;
    snprintf(job->info->format, sizeof job->info->format, "HEIF");
    if (!ctx) return fs_fail(job->err, FS_E_NO_MEMORY, "%s: no memory for the HEIF decoder", job->name);
    /* libheif's limit is on a side: the square of it is the area it allows */
    int side = job->opt->max_pixels < 0 ? 65536 : 1; /* below 0: only the header is wanted (fs_image_probe), whatever it says */
    while (side < 65535 && (int64_t)side * side < job->opt->max_pixels) side *= 2;
    heif_context_set_maximum_image_size_limit(ctx, side > 65535 ? 65535 : side);
    heif_context_set_max_decoding_threads(ctx, 0);
    e = heif_context_read_from_memory_without_copy(ctx, job->data, job->size, NULL);
    if (e.code == heif_error_Ok) e = heif_context_get_primary_image_handle(ctx, &handle);
    if (e.code != heif_error_Ok) {
        status = fail_heif(job, e);
        goto done;
    }
    int width = heif_image_handle_get_width(handle), height = heif_image_handle_get_height(handle);
    status = fs_codec_check_size(job, "HEIF", heif_image_handle_has_alpha_channel(handle) ? "RGBA" : "RGB", width, height);
    if (status) goto done;
    options = heif_decoding_options_alloc();
    if (options && options->version >= 2) options->convert_hdr_to_8bit = 1;
    if (options && options->version >= 3) options->strict_decoding = 1;
    /* for AVIF, where it is there: on broken files libheif's dav1d way prints to stderr and loses memory (found by fuzzing) */
    if (options && options->version >= 4) options->decoder_id = "aom";
    e = heif_decode_image(handle, &pic, heif_colorspace_RGB, heif_chroma_interleaved_RGB, options);
    if (e.code != heif_error_Ok) {
        status = fail_heif(job, e);
        goto done;
    }
    int stride = 0;
    const uint8_t *pixels = heif_image_get_plane_readonly(pic, heif_channel_interleaved, &stride);
    width = heif_image_get_width(pic, heif_channel_interleaved); /* after turning and cropping */
    height = heif_image_get_height(pic, heif_channel_interleaved);
    status = fs_codec_check_size(job, "HEIF", job->info->mode, width, height);
    if (status) goto done;
    if (!pixels || stride < 3 * width) {
        status = fs_fail(job->err, FS_E_FORMAT, "%s: libheif gives no pixels for this picture; save it as JPEG or PNG", job->name);
        goto done;
    }
    status = fs_image_create(width, height, &im, job->err);
    if (status) {
        fs_error_prefix(job->err, "%s", job->name);
        goto done;
    }
    for (int y = 0; y < height; y++)
        memcpy(im->data + (size_t)y * (size_t)width * 3, pixels + (size_t)y * (size_t)stride, (size_t)width * 3);
    *out = im;
done:
    heif_decoding_options_free(options);
    if (pic) heif_image_release(pic);
    if (handle) heif_image_handle_release(handle);
    heif_context_free(ctx);
    return status;
}

#else

fs_status fs_codec_heif(const fs_codec_job *job, fs_image **out) {
    (void)out;
    return fs_fail(job->err, FS_E_UNSUPPORTED,
                   "%s: a HEIF or AVIF picture, and this build has no libheif; install libheif-dev and build "
                   "again, or save it as JPEG or PNG",
                   job->name);
}

#endif
