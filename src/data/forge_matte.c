/* A rough outline becomes an alpha that follows the picture's own edges, as the "refine edge" of picture editors does: the guided filter
 * (He, Sun, Tang, "Guided image filtering", 2013) of the mask with the lightness as guide. In every window alpha is a linear function of
 * the lightness; the functions of all windows over a pixel are averaged. */
#include <stdlib.h>
#include <string.h>

#include "data/forge_work.h"

/* Mean over (2 radius + 1)^2, windows cut at the borders; running sums, first along rows, then along columns. `count` of a line is taken
 * along. */
static void box_mean(float *v, int64_t w, int64_t h, int64_t radius, float *line) {
    for (int pass = 0; pass < 2; pass++) {
        int64_t lines = pass ? w : h, n = pass ? h : w, step = pass ? w : 1;
        for (int64_t k = 0; k < lines; k++) {
            float *from = v + (pass ? k : k * w);
            double sum = 0;
            for (int64_t i = 0; i < n; i++) line[i] = from[i * step];
            for (int64_t i = 0; i < fs_min_i64(radius, n); i++) sum += line[i];
            for (int64_t i = 0; i < n; i++) {
                if (i + radius < n) sum += line[i + radius];
                if (i - radius - 1 >= 0) sum -= line[i - radius - 1];
                int64_t count = fs_min_i64(i + radius, n - 1) - fs_max_i64(i - radius, 0) + 1;
                from[i * step] = (float)(sum / (double)count);
            }
        }
    }
}

fs_status fs_piece_refine(fs_piece *p, int radius, fs_error *err) {
    const double epsilon = 8.0 * 8.0; /* edges of less than some 8 levels do not count */
    int64_t w = p->im->width, h = p->im->height, n = w * h;
    float *buffer = fs_alloc((size_t)n, 4 * sizeof *buffer), *line = fs_alloc((size_t)fs_max_i64(w, h), sizeof *line);
    if (!buffer || !line) {
        free(buffer);
        free(line);
        return fs_fail(err, FS_E_NO_MEMORY, "no memory to refine an outline");
    }
    float *guide = buffer, *alpha = guide + n, *product = alpha + n, *square = product + n;
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *c = p->im->data + i * 3;
        float l = 0.299f * c[0] + 0.587f * c[1] + 0.114f * c[2], a = p->alpha.data[i];
        guide[i] = l;
        alpha[i] = a;
        product[i] = l * a;
        square[i] = l * l;
    }
    box_mean(guide, w, h, radius, line);
    box_mean(alpha, w, h, radius, line);
    box_mean(product, w, h, radius, line);
    box_mean(square, w, h, radius, line);
    for (int64_t i = 0; i < n; i++) { /* slope into product, offset into alpha */
        double slope = ((double)product[i] - (double)guide[i] * (double)alpha[i]) /
                       ((double)square[i] - (double)guide[i] * (double)guide[i] + epsilon);
        alpha[i] = (float)((double)alpha[i] - slope * (double)guide[i]);
        product[i] = (float)slope;
    }
    box_mean(product, w, h, radius, line);
    box_mean(alpha, w, h, radius, line);
    for (int64_t i = 0; i < n; i++) {
        const uint8_t *c = p->im->data + i * 3;
        double l = 0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2], a = ((double)product[i] * l + (double)alpha[i]) / 255;
        a = fmin(fmax((a - 0.2) / 0.65, 0), 1); /* faint rests off, the inside solid, and a little inward */
        p->alpha.data[i] = fs_clip8(255 * a * a * (3 - 2 * a));
    }
    free(buffer);
    free(line);
    return FS_OK;
}
