/* Where a piece goes: of a number of random places, the one where the colours along its outline differ least from the picture's there. That
 * is what a forger's eye does, and what makes grass go on grass. */
#include <stdlib.h>
#include <string.h>

#include "data/forge_work.h"

enum { OUTLINE = 240, INSIDE = 160 };

typedef struct spot {
    int64_t x, y;
    uint8_t color[3];
} spot;

static bool is_edge(const fs_plane *a, int64_t x, int64_t y) {
    if (a->data[y * a->width + x] < 128) return false;
    return x == 0 || y == 0 || x == a->width - 1 || y == a->height - 1 || a->data[y * a->width + x - 1] < 128 ||
           a->data[y * a->width + x + 1] < 128 || a->data[(y - 1) * a->width + x] < 128 || a->data[(y + 1) * a->width + x] < 128;
}

/* Every k-th pixel of the outline, and of the inside. */
static void sample(const fs_piece *p, spot *outline, int *n_outline, spot *inside, int *n_inside) {
    int64_t edges = 0, pixels = 0;
    for (int pass = 0; pass < 2; pass++) {
        int64_t edge_step = edges / OUTLINE + 1, pixel_step = pixels / INSIDE + 1, e = 0, n = 0;
        for (int64_t y = 0; y < p->im->height; y++)
            for (int64_t x = 0; x < p->im->width; x++) {
                int64_t at = y * p->im->width + x;
                if (p->alpha.data[at] < 128) continue;
                bool edge = is_edge(&p->alpha, x, y);
                if (!pass) {
                    edges += edge;
                    pixels++;
                    continue;
                }
                spot s = {x, y, {p->im->data[at * 3], p->im->data[at * 3 + 1], p->im->data[at * 3 + 2]}};
                if (edge && e++ % edge_step == 0 && *n_outline < OUTLINE) outline[(*n_outline)++] = s;
                if (n++ % pixel_step == 0 && *n_inside < INSIDE) inside[(*n_inside)++] = s;
            }
    }
}

static double misfit_at(const fs_image *im, const spot *s, int n, int64_t x0, int64_t y0) {
    int64_t sum = 0, count = 0;
    for (int i = 0; i < n; i++) {
        int64_t x = s[i].x + x0, y = s[i].y + y0;
        if (x < 0 || y < 0 || x >= im->width || y >= im->height) continue;
        const uint8_t *p = im->data + (y * im->width + x) * 3;
        sum += abs(p[0] - s[i].color[0]) + abs(p[1] - s[i].color[1]) + abs(p[2] - s[i].color[2]);
        count += 3;
    }
    return count ? (double)sum / (double)count : 255;
}

static bool allowed(const fs_plane *avoid, const spot *s, int n, int64_t x0, int64_t y0) {
    int hit = 0;
    for (int i = 0; avoid && i < n; i++) {
        int64_t x = s[i].x + x0, y = s[i].y + y0;
        if (x >= 0 && y >= 0 && x < avoid->width && y < avoid->height) hit += avoid->data[y * avoid->width + x] >= 128;
    }
    return hit * 10 <= n;
}

bool fs_place_find(const fs_image *im, const fs_piece *piece, const fs_place_rule *rule, fs_rng *rng, int64_t *x, int64_t *y,
                   double *misfit) {
    spot outline[OUTLINE], inside[INSIDE];
    int n_outline = 0, n_inside = 0;
    bool found = false;
    sample(piece, outline, &n_outline, inside, &n_inside);
    *misfit = 256;
    for (int i = 0; i < rule->tries; i++) {
        int64_t tx = rule->x_low + fs_dice_below(rng, rule->x_high - rule->x_low + 1),
                ty = rule->y_low + fs_dice_below(rng, rule->y_high - rule->y_low + 1);
        if (!allowed(rule->avoid, inside, n_inside, tx, ty)) continue;
        double m = misfit_at(im, outline, n_outline, tx, ty);
        if (m >= *misfit) continue;
        *misfit = m;
        *x = tx;
        *y = ty;
        found = true;
    }
    return found;
}
