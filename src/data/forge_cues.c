/* What an edit left that can be seen, so that the text says nothing that is not there: around the mask's border in the finished picture,
 * how light, colour, fine grain and sharpness differ between the inside and what lies next to it, and how hard the border itself is. */
#include <stdlib.h>
#include <string.h>

#include "data/forge_texts.h"

typedef struct band { /* one side of the border */
    double n, light, a, b, grain, detail;
} band;

static double light_of(const uint8_t *p) {
    return 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
}

static void add_pixel(band *s, const fs_image *im, int64_t x, int64_t y) {
    const uint8_t *p = im->data + (y * im->width + x) * 3, *left = p - 3, *right = p + 3, *up = p - im->width * 3,
                  *down = p + im->width * 3;
    double l = light_of(p);
    s->n++;
    s->light += l;
    s->a += p[0] - p[1];
    s->b += 0.5 * (p[0] + p[1]) - p[2];
    s->grain += fabs(4 * l - light_of(left) - light_of(right) - light_of(up) - light_of(down)); /* Laplacian: noise and fine texture */
    s->detail += fabs(light_of(right) - light_of(left)) + fabs(light_of(down) - light_of(up));
}

static void end_band(band *s) {
    if (s->n < 1) return;
    s->light /= s->n, s->a /= s->n, s->b /= s->n, s->grain /= s->n, s->detail /= s->n;
}

/* inside, outside: within a few pixels of the border; edge: contrast across it against that beside it. */
static bool measure(const fs_image *im, const fs_plane *mask, band *inside, band *outside, double *edge) {
    enum { UNIT = 5 };
    int64_t w = im->width, h = im->height;
    /* Farther away nothing counts: a pixel's distance is UNIT at least. */
    const double reach = fmax(6, sqrt((double)fs_plane_count(mask)) / 4) * UNIT;
    const int64_t margin = (int64_t)(reach / UNIT) + 3;
    fs_rect r = fs_plane_box(mask);
    if (r.x1 == r.x0) return false;
    r = (fs_rect){fs_max_i64(r.x0 - margin, 0), fs_max_i64(r.y0 - margin, 0), fs_min_i64(r.x1 + margin, w), fs_min_i64(r.y1 + margin, h)};
    const int64_t pw = r.x1 - r.x0, ph = r.y1 - r.y0;
    fs_plane part = {0};
    uint16_t *in = fs_alloc((size_t)(pw * ph), sizeof *in), *out = fs_alloc((size_t)(pw * ph), sizeof *out);
    bool ok = in && out && !fs_plane_crop(mask, r, &part, NULL);
    if (ok) {
        double across = 0, n = 0;
        fs_plane_distance(&part, true, false, in);
        fs_plane_distance(&part, false, false, out);
        for (int64_t py = r.y0 == 0; py < ph - 1; py++)
            for (int64_t px = r.x0 == 0; px < pw - 1; px++) {
                const int64_t at = py * pw + px, x = px + r.x0, y = py + r.y0;
                if (in[at] > 2 * UNIT && in[at] < reach) add_pixel(inside, im, x, y);
                if (out[at] > 2 * UNIT && out[at] < reach) add_pixel(outside, im, x, y);
                const uint8_t *p = im->data + (y * w + x) * 3;
                if ((in[at] > 0) != (in[at + 1] > 0)) across += 2 * fabs(light_of(p + 3) - light_of(p)), n++;
                if ((in[at] > 0) != (in[at + pw] > 0)) across += 2 * fabs(light_of(p + w * 3) - light_of(p)), n++;
            }
        end_band(inside);
        end_band(outside);
        *edge = n > 0 ? across / n : 0;
    }
    free(in);
    free(out);
    fs_plane_free(&part);
    return ok && inside->n > 0 && outside->n > 0;
}

static void add_cue(fs_facts *f, const char *cue, int limit) {
    if (f->n_cues < limit) f->cues[f->n_cues++] = cue;
}

/* What the kind of edit itself leaves. */
static void own_cues(fs_facts *f, fs_forge_type type, const fs_edit *e) {
    bool turned = e->turn.angle != 0, scaled = fabs(e->turn.scale - 1) > 0.04;
    if (type == FS_FORGE_COPY_MOVE)
        add_cue(f, e->turn.mirror ? "duplicate-mirrored" : turned ? "duplicate-turned" : scaled ? "duplicate-scaled" : "duplicate", 1);
    if (type == FS_FORGE_REMOVAL) add_cue(f, "fill", 1);
    if (type == FS_FORGE_COLOR || type == FS_FORGE_BLUR || type == FS_FORGE_RESAMPLE) add_cue(f, e->detail ? e->detail : "retouched", 1);
}

void fs_facts_cues(fs_facts *f, fs_forge_type type, const fs_edit *e, const fs_image *im, const fs_plane *mask, fs_rng *rng) {
    band in = {0}, out = {0};
    double edge = 0;
    int limit = 2 + (int)fs_dice_below(rng, 3);
    bool foreign = type == FS_FORGE_SPLICE || type == FS_FORGE_COPY_MOVE;
    f->n_cues = 0;
    own_cues(f, type, e);
    if (measure(im, mask, &in, &out, &edge)) {
        double beside = fmax(0.5 * (in.detail + out.detail), 1), grain = (in.grain + 1) / (out.grain + 1);
        double color = sqrt((in.a - out.a) * (in.a - out.a) + (in.b - out.b) * (in.b - out.b)), light = in.light - out.light;
        if (foreign && edge > 2.2 * beside) add_cue(f, "edge-hard", limit);
        if (e->blend == FS_BLEND_FEATHER && e->feather > 1.5 && edge < 1.6 * beside) add_cue(f, "edge-soft", limit);
        if (grain > 1.35) add_cue(f, "grain-more", limit);
        if (grain < 0.74) add_cue(f, type == FS_FORGE_REMOVAL ? "fill-soft" : "grain-less", limit);
        if (type == FS_FORGE_SPLICE && fabs(light) > 25) add_cue(f, light > 0 ? "light-brighter" : "light-darker", limit);
        if (type == FS_FORGE_SPLICE && color > 18) add_cue(f, "color-foreign", limit);
        if (type == FS_FORGE_COLOR && edge > 1.8 * beside) add_cue(f, "color-border", limit);
    }
    if (type == FS_FORGE_SPLICE && f->n_cues < limit) {
        if (e->turn.scale < 0.85 || e->turn.scale > 1.15)
            add_cue(f, "resampled", limit);
        else if (e->kind == FS_REGION_OBJECT)
            add_cue(f, "perspective", limit);
    }
    if (!f->n_cues) add_cue(f, foreign ? "edge-any" : "texture-any", limit);
    if (f->n_cues < 2 && type == FS_FORGE_REMOVAL)
        add_cue(f, "fill-repeat", 2);
    else if (f->n_cues < 2)
        add_cue(f, foreign && strcmp(f->cues[0], "edge-any") != 0 ? "edge-any" : "statistics", 2);
}
