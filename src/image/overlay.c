/* The overlay for people: the marked region lightly tinted, so that what lies under it can still be judged, and a line around it in the
 * colour that stands out most from the picture there, set off by a dark seam so that it shows on any ground. The line lies outside the
 * region (it hides no evidence) and grows with the picture, so that a 12-megapixel photo scaled to a screen still shows it.
 * The distance of every pixel to the mask's edge comes from a two-pass chamfer transform with weights 5 and 7 (Borgefors 1986). */
#include "image/image.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT = 5, DIAGONAL = 7, FAR = 60000 };

/* d[y][x]: chamfer distance (UNIT per pixel) from the pixel to the nearest one on the other side of the mask's edge. On the way there
 * all pixels are on one side, so both sides share one field. */
static void edge_distance(const uint8_t *mask, int64_t w, int64_t h, uint16_t *d) {
    for (int64_t i = 0; i < w * h; i++) d[i] = FAR;
    for (int pass = 0; pass < 2; pass++) {
        int64_t step = pass ? -1 : 1;
        for (int64_t n = 0; n < h; n++) {
            int64_t y = pass ? h - 1 - n : n;
            for (int64_t m = 0; m < w; m++) {
                int64_t x = pass ? w - 1 - m : m, at = y * w + x;
                const int64_t dx[4] = {-step, -step, 0, step}, dy[4] = {0, -step, -step, -step};
                unsigned best = d[at];
                for (int k = 0; k < 4; k++) {
                    int64_t nx = x + dx[k], ny = y + dy[k];
                    if (nx < 0 || nx >= w || ny < 0 || ny >= h) continue;
                    int64_t there = ny * w + nx;
                    unsigned cost = dx[k] && dy[k] ? DIAGONAL : UNIT;
                    unsigned far = !mask[at] == !mask[there] ? d[there] + cost : cost;
                    if (far < best) best = far;
                }
                d[at] = (uint16_t)best;
            }
        }
    }
}

/* Of a few strong colours, the one that the pixels around the edge come near least: red unless another is clearly better. */
static const uint8_t *choose_color(const fs_image *im, const uint16_t *d, unsigned reach) {
    static const uint8_t colors[][3] = {{255, 40, 80}, {255, 50, 240}, {0, 225, 255}, {255, 225, 0}, {70, 255, 80}};
    enum { N = sizeof colors / sizeof *colors };
    double near[N] = {0};
    for (int64_t i = 0; i < im->width * im->height; i++) {
        if (d[i] > reach) continue;
        for (size_t k = 0; k < N; k++) {
            double r = colors[k][0] - im->data[i * 3], g = colors[k][1] - im->data[i * 3 + 1], b = colors[k][2] - im->data[i * 3 + 2];
            double red_green = r - g, yellow_blue = 0.5 * (r + g) - b, light = 0.3 * r + 0.6 * g + 0.1 * b;
            near[k] += 1 / (20 + sqrt(red_green * red_green + yellow_blue * yellow_blue + 0.25 * light * light)); /* hue tells most */
        }
    }
    size_t best = 0;
    for (size_t k = 1; k < N; k++)
        if (near[k] < near[best] * 0.75) best = k;
    return colors[best];
}

static void blend(uint8_t *p, const uint8_t color[3], double share) {
    for (int c = 0; c < 3; c++) p[c] = (uint8_t)(p[c] + (color[c] - p[c]) * share + 0.5);
}

/* How much of a pixel `distance` away (in pixels) lies within `width` of the edge, softened over one pixel. */
static double cover(double distance, double width) {
    double v = width + 1.0 - distance;
    return v < 0 ? 0 : v > 1 ? 1 : v;
}

fs_status fs_draw_overlay(const fs_image *im, const uint8_t *mask, fs_image **out, fs_error *err) {
    static const uint8_t dark[3] = {10, 10, 14};
    int64_t w = im->width, h = im->height;
    fs_image *result = NULL;
    *out = NULL;
    fs_status status = fs_image_create(w, h, &result, err);
    if (status) return status;
    uint16_t *d = fs_alloc((size_t)w * (size_t)h, sizeof *d);
    if (!d) {
        fs_image_free(result);
        return fs_fail(err, FS_E_NO_MEMORY, "no memory to draw on a picture of %lld x %lld pixels", (long long)w, (long long)h);
    }
    memcpy(result->data, im->data, (size_t)w * 3 * (size_t)h);
    edge_distance(mask, w, h, d);
    double line = fmax(1.0, 0.0035 * sqrt((double)w * (double)h)), seam = fmax(1.0, line * 0.45);
    const uint8_t *color = choose_color(im, d, (unsigned)fmin(FAR - 1, (line * 8 + 8) * UNIT));
#pragma omp parallel for schedule(static) if (w * h > 65536)
    for (int64_t i = 0; i < w * h; i++) {
        double far = d[i] / (double)UNIT;
        uint8_t *p = result->data + i * 3;
        if (mask[i]) {
            blend(p, color, 0.33);
            if (d[i] < FAR) blend(p, dark, 0.55 * cover(far, seam * 0.5));
        } else if (far < line + seam + 1) {
            blend(p, dark, 0.65 * cover(far, line + seam));
            blend(p, color, cover(far, line));
        }
    }
    free(d);
    *out = result;
    return FS_OK;
}
