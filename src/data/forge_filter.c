/* Filters over whole pictures: Gaussian, unsharp mask, noise, tone curve, median. */
#include "data/forge_filter.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_RADIUS = 64 };

fs_status fs_filter_gauss(fs_image *im, double sigma, fs_error *err) {
    float k[2 * MAX_RADIUS + 1];
    int64_t w = im->width, h = im->height, line = w * 3;
    int64_t radius = fs_min_i64((int64_t)ceil(2.5 * sigma), MAX_RADIUS);
    if (sigma < 0.15) return FS_OK;
    double sum = 0;
    for (int64_t i = -radius; i <= radius; i++) sum += exp(-0.5 * (double)(i * i) / (sigma * sigma));
    for (int64_t i = -radius; i <= radius; i++) k[i + radius] = (float)(exp(-0.5 * (double)(i * i) / (sigma * sigma)) / sum);
    float *half = fs_alloc((size_t)(line * h), sizeof *half), *row = fs_alloc((size_t)((w + 2 * radius) * 3), sizeof *row);
    if (!half || !row) {
        free(half);
        free(row);
        return fs_fail(err, FS_E_NO_MEMORY, "no memory to blur a picture of %lld x %lld pixels", (long long)w, (long long)h);
    }
    for (int64_t y = 0; y < h; y++) {
        for (int64_t x = -radius; x < w + radius; x++)
            for (int c = 0; c < 3; c++) row[(x + radius) * 3 + c] = im->data[(y * w + fs_min_i64(fs_max_i64(x, 0), w - 1)) * 3 + c];
        float *to = half + y * line;
        memset(to, 0, (size_t)line * sizeof *to);
        for (int64_t i = 0; i <= 2 * radius; i++)
            for (int64_t x = 0; x < line; x++) to[x] += k[i] * row[x + i * 3];
    }
    free(row);
    float *out = fs_alloc((size_t)line, sizeof *out);
    for (int64_t y = 0; out && y < h; y++) {
        for (int64_t x = 0; x < line; x++) out[x] = 0.5f;
        for (int64_t i = -radius; i <= radius; i++) {
            const float *from = half + fs_min_i64(fs_max_i64(y + i, 0), h - 1) * line;
            float weight = k[i + radius];
            for (int64_t x = 0; x < line; x++) out[x] += weight * from[x];
        }
        for (int64_t x = 0; x < line; x++) im->data[y * line + x] = (uint8_t)(out[x] < 255 ? out[x] : 255);
    }
    fs_status status = out ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "no memory to blur a picture");
    free(out);
    free(half);
    return status;
}

fs_status fs_filter_sharpen(fs_image *im, double amount, double sigma, fs_error *err) {
    fs_image *soft = NULL;
    size_t n = (size_t)(im->width * im->height) * 3;
    fs_status status = fs_image_crop(im, 0, 0, im->width, im->height, &soft, err);
    if (!status) status = fs_filter_gauss(soft, sigma, err);
    for (size_t i = 0; !status && i < n; i++) im->data[i] = fs_clip8(im->data[i] + amount * (im->data[i] - soft->data[i]));
    fs_image_free(soft);
    return status;
}

void fs_filter_noise(fs_image *im, double deviation, bool grey, fs_rng *rng) {
    for (int64_t i = 0; i < im->width * im->height; i++) {
        double same = grey ? deviation * fs_dice_normal(rng) : 0;
        for (int c = 0; c < 3; c++) {
            double d = grey ? same : deviation * fs_dice_normal(rng);
            im->data[i * 3 + c] = fs_clip8(im->data[i * 3 + c] + d);
        }
    }
}

void fs_filter_tone(fs_image *im, double gamma, double contrast) {
    uint8_t curve[256];
    for (int v = 0; v < 256; v++) {
        double t = pow(v / 255.0, gamma);
        curve[v] = fs_clip8(255 * (0.5 + contrast * (t - 0.5)));
    }
    for (size_t i = 0; i < (size_t)(im->width * im->height) * 3; i++) im->data[i] = curve[im->data[i]];
}

void fs_tint_matrix(double hue, double saturation, double m[3][3]) {
    static const double grey[3] = {0.299, 0.587, 0.114};
    double c = cos(hue), s = sin(hue), third = (1 - c) / 3, root = s / sqrt(3);
    const double turn[3][3] = {
        {c + third, third - root, third + root}, {third + root, c + third, third - root}, {third - root, third + root, c + third}};
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            double chroma = 0;
            for (int k = 0; k < 3; k++) chroma += turn[i][k] * ((k == j) - grey[j]);
            m[i][j] = grey[j] + saturation * chroma;
        }
}

void fs_filter_tint(fs_image *im, double hue, double saturation) {
    double m[3][3];
    fs_tint_matrix(hue, saturation, m);
    for (int64_t i = 0; i < im->width * im->height; i++) {
        uint8_t *p = im->data + i * 3;
        const double v[3] = {p[0], p[1], p[2]};
        for (int c = 0; c < 3; c++) p[c] = fs_clip8(m[c][0] * v[0] + m[c][1] * v[1] + m[c][2] * v[2]);
    }
}

/* The values of a window that moves along a line, counted; `below` of them are less than `at` (Huang, Yang, Tang, "A fast two-dimensional median filtering
 * algorithm", 1979). */
typedef struct window { uint16_t count[256]; int at, below, n; } window;

/* Column x of rows [y0, y1) comes in (by = 1) or goes (-1). */
static void count_column(window *v, const fs_image *im, int64_t x, int64_t y0, int64_t y1, int c, int by) {
    for (int64_t y = y0; y < y1; y++) {
        const uint8_t value = im->data[(y * im->width + x) * 3 + c];
        v->count[value] = (uint16_t)(v->count[value] + by);
        v->below += value < v->at ? by : 0;
        v->n += by;
    }
}

/* The value in the middle. */
static uint8_t middle(window *v) {
    const int k = v->n / 2;
    while (v->below > k) v->below -= v->count[--v->at];
    while (v->below + v->count[v->at] <= k) v->below += v->count[v->at++];
    return (uint8_t)v->at;
}

fs_status fs_filter_median(fs_image *im, int radius, const uint8_t *where, fs_error *err) {
    fs_image *from = NULL;
    const int64_t w = im->width, h = im->height, r = radius > 8 ? 8 : radius;
    fs_status status = fs_image_crop(im, 0, 0, w, h, &from, err);
    for (int64_t y = 0; !status && y < h; y++) {
        const int64_t y0 = fs_max_i64(y - r, 0), y1 = fs_min_i64(y + r + 1, h);
        int64_t first = 0, end = w;
        while (first < w && !where[y * w + first]) first++;
        while (end > first && !where[y * w + end - 1]) end--;
        for (int c = 0; c < 3 && first < end; c++) {
            window v = {0};
            for (int64_t x = fs_max_i64(first - r, 0); x < fs_min_i64(first + r, w); x++) count_column(&v, from, x, y0, y1, c, 1);
            for (int64_t x = first; x < end; x++) {
                if (x + r < w) count_column(&v, from, x + r, y0, y1, c, 1);
                if (where[y * w + x]) im->data[(y * w + x) * 3 + c] = middle(&v);
                if (x - r >= 0) count_column(&v, from, x - r, y0, y1, c, -1);
            }
        }
    }
    fs_image_free(from);
    return status;
}
