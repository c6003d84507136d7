/* Superpixels, to have regions whose outlines follow the picture's edges where no object masks are known: SLIC (Achanta et al., "SLIC
 * superpixels compared to state-of-the-art superpixel methods", 2012) on a reduced picture, then neighbours of like colour are joined from
 * a random one on until the wanted size is reached, and the outline is scaled up smoothly. */
#include <stdlib.h>
#include <string.h>

#include "data/forge_work.h"

enum { SIDE = 144, STEP = 9, ROUNDS = 5, MAX_CELLS = 1024 };

typedef struct cell {
    double x, y, c[3]; /* center and colour */
    int64_t pixels;
} cell;

typedef struct slic {
    int64_t w, h, n;
    double (*color)[3]; /* [h][w]: lightness and two opponent axes */
    int16_t *label;
    double *distance;
    cell cells[MAX_CELLS], old[MAX_CELLS];
    uint8_t near[MAX_CELLS][MAX_CELLS / 8]; /* who touches whom */
} slic;

static void to_opponent(const uint8_t *p, double out[3]) {
    out[0] = 0.3 * p[0] + 0.59 * p[1] + 0.11 * p[2];
    out[1] = 0.7 * (p[0] - p[1]);
    out[2] = 0.7 * (0.5 * (p[0] + p[1]) - p[2]);
}

static void assign(slic *s) {
    const double weight = 20.0 * 20.0 / (STEP * STEP); /* how much a pixel of distance counts against a level of colour */
    for (int64_t i = 0; i < s->w * s->h; i++) s->distance[i] = 1e30;
    for (int64_t k = 0; k < s->n; k++) {
        const cell *q = &s->cells[k];
        int64_t x0 = fs_max_i64((int64_t)q->x - STEP, 0), x1 = fs_min_i64((int64_t)q->x + STEP + 1, s->w);
        int64_t y0 = fs_max_i64((int64_t)q->y - STEP, 0), y1 = fs_min_i64((int64_t)q->y + STEP + 1, s->h);
        for (int64_t y = y0; y < y1; y++)
            for (int64_t x = x0; x < x1; x++) {
                const double *c = s->color[y * s->w + x];
                double dx = (double)x - q->x, dy = (double)y - q->y, a = c[0] - q->c[0], b = c[1] - q->c[1], e = c[2] - q->c[2];
                double d = a * a + b * b + e * e + weight * (dx * dx + dy * dy);
                if (d < s->distance[y * s->w + x]) {
                    s->distance[y * s->w + x] = d;
                    s->label[y * s->w + x] = (int16_t)k;
                }
            }
    }
}

/* Each cell moves to the middle of its pixels; one that has none stays. */
static void update(slic *s) {
    cell *old = s->old;
    memcpy(old, s->cells, (size_t)s->n * sizeof *old);
    memset(s->cells, 0, (size_t)s->n * sizeof *old);
    for (int64_t i = 0; i < s->w * s->h; i++) {
        cell *q = &s->cells[s->label[i]];
        q->x += (double)(i % s->w);
        q->y += (double)(i / s->w);
        for (int c = 0; c < 3; c++) q->c[c] += s->color[i][c];
        q->pixels++;
    }
    for (int64_t k = 0; k < s->n; k++) {
        cell *q = &s->cells[k];
        if (!q->pixels) {
            *q = old[k];
            q->pixels = 0;
            continue;
        }
        double n = (double)q->pixels;
        q->x /= n;
        q->y /= n;
        for (int c = 0; c < 3; c++) q->c[c] /= n;
    }
}

static void touch(slic *s, int64_t a, int64_t b) {
    if (a == b) return;
    s->near[a][b >> 3] |= (uint8_t)(1 << (b & 7));
    s->near[b][a >> 3] |= (uint8_t)(1 << (a & 7));
}

static void segment(slic *s, const fs_image *im) {
    for (int64_t i = 0; i < s->w * s->h; i++) to_opponent(im->data + i * 3, s->color[i]);
    int64_t nx = fs_max_i64(s->w / STEP, 1), ny = fs_max_i64(s->h / STEP, 1);
    s->n = fs_min_i64(nx * ny, MAX_CELLS);
    for (int64_t k = 0; k < s->n; k++) {
        int64_t x = (2 * (k % nx) + 1) * s->w / (2 * nx), y = (2 * (k / nx) + 1) * s->h / (2 * ny);
        s->cells[k] = (cell){.x = (double)x, .y = (double)y};
        memcpy(s->cells[k].c, s->color[y * s->w + x], sizeof s->cells[k].c);
    }
    for (int round = 0; round < ROUNDS; round++) {
        assign(s);
        update(s);
    }
    for (int64_t y = 0; y < s->h; y++)
        for (int64_t x = 0; x < s->w; x++) {
            int64_t at = y * s->w + x;
            if (x + 1 < s->w) touch(s, s->label[at], s->label[at + 1]);
            if (y + 1 < s->h) touch(s, s->label[at], s->label[at + s->w]);
        }
}

/* Joins cells until `pixels` are reached: always the neighbour whose colour is nearest to the mean, a little luck included. */
static void grow(const slic *s, int64_t pixels, fs_rng *rng, bool in[MAX_CELLS]) {
    int64_t at = fs_dice_below(rng, s->n), have = 0;
    double mean[3] = {0}, cx = 0, cy = 0, luck = fs_dice(rng, 0.5, 3);
    for (int64_t joined = 0; at >= 0; joined++) {
        const cell *q = &s->cells[at];
        in[at] = true;
        have += q->pixels;
        double share = 1.0 / (double)(joined + 1);
        for (int c = 0; c < 3; c++) mean[c] += (q->c[c] - mean[c]) * share;
        cx += (q->x - cx) * share;
        cy += (q->y - cy) * share;
        if (have >= pixels) return;
        at = -1;
        double best = 1e30;
        for (int64_t k = 0; k < s->n; k++) {
            if (in[k] || !s->cells[k].pixels) continue;
            bool beside = false;
            for (int64_t m = 0; m < s->n && !beside; m++) beside = in[m] && (s->near[k][m >> 3] >> (m & 7) & 1);
            if (!beside) continue;
            double d = 0, dx = s->cells[k].x - cx, dy = s->cells[k].y - cy;
            for (int c = 0; c < 3; c++) d += (s->cells[k].c[c] - mean[c]) * (s->cells[k].c[c] - mean[c]);
            d = d + 0.3 * (dx * dx + dy * dy) + luck * 100 * fs_rng_uniform(rng);
            if (d < best) best = d, at = k;
        }
    }
}

fs_status fs_pick_superpixels(const fs_image *im, double share, fs_rng *rng, fs_pick *out, fs_error *err) {
    *out = (fs_pick){.kind = FS_REGION_SUPERPIXELS};
    fs_image *small = NULL;
    fs_plane mask = {0};
    bool in[MAX_CELLS] = {false};
    slic *s = calloc(1, sizeof *s);
    double scale = fmin(1, (double)SIDE / (double)fs_max_i64(im->width, im->height));
    int64_t w = fs_max_i64(lrint((double)im->width * scale), 1), h = fs_max_i64(lrint((double)im->height * scale), 1);
    fs_status status =
        s ? fs_image_resize(im, w, h, FS_FILTER_BILINEAR, &small, err) : fs_fail(err, FS_E_NO_MEMORY, "no memory for superpixels");
    if (!status) status = fs_plane_create(w, h, &mask, err);
    if (status) goto done;
    s->w = w;
    s->h = h;
    s->color = fs_alloc((size_t)(w * h), sizeof *s->color);
    s->label = fs_alloc_zero((size_t)(w * h), sizeof *s->label);
    s->distance = fs_alloc((size_t)(w * h), sizeof *s->distance);
    if (!s->color || !s->label || !s->distance) {
        status = fs_fail(err, FS_E_NO_MEMORY, "no memory for superpixels");
        goto done;
    }
    segment(s, small);
    grow(s, lrint(share * (double)(w * h)), rng, in);
    for (int64_t i = 0; i < w * h; i++) mask.data[i] = in[s->label[i]] ? 255 : 0;
    status = fs_plane_resize(&mask, im->width, im->height, &out->mask, err);
    if (!status) fs_plane_threshold(&out->mask, 128);
    if (!status) status = fs_tidy_outline(&out->mask, err);
done:
    if (s) free(s->color), free(s->label), free(s->distance);
    free(s);
    fs_image_free(small);
    fs_plane_free(&mask);
    return status;
}
