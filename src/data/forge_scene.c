/* The picture a record is made of: a part of a photo, at its own pixels or made smaller, as photos in the wild are; then perhaps compressed
 * once, as a camera or an earlier save would have. Drawn before it is known what will be done to it, so both classes have the same. */
#include <stdlib.h>
#include <string.h>

#include "data/forge_work.h"

void fs_scene_free(fs_scene *s) {
    fs_image_free(s->im);
    free(s->labels);
    *s = (fs_scene){0};
}

fs_status fs_through_jpeg(fs_image *im, int quality, bool full_chroma, fs_error *err) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    fs_image *back = NULL;
    fs_status status = fs_jpeg_encode_quality(im->data, im->width, im->height, 3, quality, full_chroma, &bytes, &size, err);
    if (!status) status = fs_image_decode("a picture just encoded", bytes, size, NULL, &back, NULL, err);
    if (!status) {
        uint8_t *data = im->data;
        im->data = back->data;
        back->data = data;
    }
    free(bytes);
    fs_image_free(back);
    return status;
}

/* How many source pixels one pixel of the scene is: often exactly one, which leaves the sensor's and the first compression's traces whole.
 */
static double draw_zoom(fs_rng *rng, double most) {
    double kind = fs_rng_uniform(rng), at = fs_rng_uniform(rng);
    if (most <= 1) return most;
    if (kind < 0.35) return 1;
    if (kind < 0.6) return most;
    return exp(at * log(most));
}

static void mirror_rows(fs_image *im) {
    for (int64_t y = 0; y < im->height; y++) {
        uint8_t *row = im->data + y * im->width * 3;
        for (int64_t i = 0, j = im->width - 1; i < j; i++, j--)
            for (int c = 0; c < 3; c++) {
                const uint8_t t = row[3 * i + c];
                row[3 * i + c] = row[3 * j + c];
                row[3 * j + c] = t;
            }
    }
}

fs_status fs_scene_make(const fs_source *source, const fs_source_pixels *pixels, int64_t width, int64_t height, bool mirror, fs_rng *rng, fs_scene *out,
                        fs_error *err) {
    const fs_image *im = pixels->im;
    fs_image *part = NULL;
    fs_status status;
    *out = (fs_scene){.source = source, .mirrored = mirror};
    double most = fmin((double)im->width / (double)width, (double)im->height / (double)height), zoom = draw_zoom(rng, most);
    int64_t w = fs_min_i64(fs_max_i64(lrint((double)width * zoom), 1), im->width),
            h = fs_min_i64(fs_max_i64(lrint((double)height * zoom), 1), im->height);
    int64_t x = fs_dice_below(rng, im->width - w + 1), y = fs_dice_below(rng, im->height - h + 1);
    if (fs_dice_chance(rng, 0.5)) x &= ~(int64_t)7, y &= ~(int64_t)7; /* on the 8x8 grid of the source */
    fs_filter filter = fs_dice_chance(rng, 0.7) ? FS_FILTER_BICUBIC : FS_FILTER_BILINEAR;
    bool compress = fs_dice_chance(rng, 0.55);
    double quality = fs_dice(rng, 62, 98);
    bool full = fs_dice_chance(rng, 0.25);
    out->rect = (fs_rect){x, y, x + w, y + h};
    status = fs_image_crop(im, x, y, w, h, &part, err);
    if (status) goto done;
    if (mirror) mirror_rows(part);
    if (w == width && h == height) {
        out->im = part;
        part = NULL;
    } else {
        status = fs_image_resize(part, width, height, filter, &out->im, err);
    }
    if (!status && compress) {
        out->first_quality = (int)quality;
        out->first_full_chroma = full;
        status = fs_through_jpeg(out->im, out->first_quality, full, err);
    }
    if (status || !pixels->labels) goto done;
    out->labels = fs_alloc((size_t)(width * height), sizeof *out->labels);
    if (!out->labels) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its objects", source->path);
        goto done;
    }
    for (int64_t j = 0; j < height; j++)
        for (int64_t i = 0; i < width; i++)
            out->labels[j * width + (mirror ? width - 1 - i : i)] =
                pixels->labels[(y + (2 * j + 1) * h / (2 * height)) * im->width + x + (2 * i + 1) * w / (2 * width)];
done:
    fs_image_free(part);
    if (status) fs_scene_free(out);
    return status;
}
