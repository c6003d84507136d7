/* Reading masks and counting their values (MFLM/dataset/Tamper_PS_Segm_ds.py: imread as grey, / 255, == 1). */
#include "data/mask.h"

#include <stdlib.h>

void fs_mask_clear(fs_mask *m) {
    free(m->data);
    *m = (fs_mask){0};
}

fs_status fs_mask_decode(const char *name, const uint8_t *data, size_t size, fs_mask *out, fs_error *err) {
    const fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_image *im = NULL;
    *out = (fs_mask){0};
    fs_status status = fs_image_decode(name, data, size, &opt, &im, NULL, err);
    if (status) return status;
    const size_t n = (size_t)im->width * (size_t)im->height; /* the decoder has three bytes for each */
    uint8_t *grey = im->data;                                /* in place: a value is written where it was read, or before */
    bool coloured = false;
    for (size_t i = 0; i < n; i++) {
        const unsigned r = im->data[3 * i], g = im->data[3 * i + 1], b = im->data[3 * i + 2];
        coloured |= r != g || g != b;
        grey[i] = (uint8_t)((4899 * r + 9617 * g + 1868 * b + 8192) >> 14);
    }
    uint8_t *smaller = realloc(grey, n ? n : 1);
    *out = (fs_mask){im->width, im->height, smaller ? smaller : grey, coloured};
    im->data = NULL;
    fs_image_free(im);
    return FS_OK;
}

fs_status fs_mask_load(const char *path, fs_mask *out, fs_error *err) {
    const fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_CV2);
    uint8_t *data = NULL;
    size_t size = 0;
    *out = (fs_mask){0};
    fs_status status = fs_read_file(path, opt.max_file_bytes, &data, &size, err);
    if (!status) status = fs_mask_decode(path, data, size, out, err);
    free(data);
    return status;
}

fs_mask_values fs_mask_count(const fs_mask *m) {
    fs_mask_values v = {.pixels = m->width * m->height};
    for (int64_t y = 0; y < m->height; y++) {
        const uint8_t *row = m->data + y * m->width;
        const bool edge = y == 0 || y == m->height - 1;
        for (int64_t x = 0; x < m->width; x++) {
            v.white += row[x] == 255;
            v.nonzero += row[x] != 0;
            v.upper += row[x] > 127;
            if (row[x] > v.max) v.max = row[x];
            if (edge || x == 0 || x == m->width - 1) v.border++, v.border_upper += row[x] > 127;
        }
    }
    return v;
}

double fs_mask_lost(const fs_mask_values *v) {
    return v->nonzero ? (double)(v->nonzero - v->white) / (double)v->nonzero : 0;
}

bool fs_mask_looks_inverted(const fs_mask_values *v) {
    return 2 * v->upper > v->pixels && 4 * v->border_upper >= 3 * v->border;
}
