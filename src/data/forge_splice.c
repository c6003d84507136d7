/* Splicing: something of another photo of the same split is put into this one. Objects whose outline is known are preferred; they stand
 * where such things stand (what was cut off at the lower edge stays there). Else a region of the other photo, where it fits best. */
#include <stdlib.h>
#include <string.h>

#include "data/forge_work.h"

typedef struct choice {
    const fs_source *source;
    const fs_segment *segment;
} choice;

/* A segment that can be cut out whole: a thing, neither tiny nor most of its photo, not cut off but at the lower edge. */
static bool usable(const fs_source *s, const fs_segment *g) {
    int64_t w = g->box.x1 - g->box.x0, h = g->box.y1 - g->box.y0;
    double share = (double)g->pixels / ((double)s->width * (double)s->height);
    if (g->pixels * 10 < w * h * 3 || w > 3 * h || h > 4 * w) return false; /* frames, rods and scattered bits are not what one cuts out */
    return g->thing && share > 0.006 && share < 0.5 && g->box.x0 > 1 && g->box.y0 > 1 && g->box.x1 < s->width - 1 && w > 20 && h > 20;
}

/* A random photo other than the scene's (the scene's own if there is no other: still another part of it). */
static const fs_source *other_photo(const fs_workshop *w) {
    size_t n = fs_sources_count(w->sources, w->split);
    const fs_source *s = NULL;
    for (int i = 0; i < 8 && (!s || s == w->scene->source); i++)
        s = fs_sources_get(w->sources, w->split, (size_t)fs_dice_below(w->rng, (int64_t)n));
    return s;
}

static choice choose_object(const fs_workshop *w) {
    for (int i = 0; i < 24; i++) {
        const fs_source *s = other_photo(w);
        size_t n = 0;
        for (size_t k = 0; k < s->n_segments; k++) n += usable(s, &s->segments[k]);
        if (!n || s == w->scene->source) continue;
        size_t pick = (size_t)fs_dice_below(w->rng, (int64_t)n);
        for (size_t k = 0; k < s->n_segments; k++)
            if (usable(s, &s->segments[k]) && pick-- == 0) return (choice){s, &s->segments[k]};
    }
    return (choice){0};
}

/* The object with its outline, a margin around. */
static fs_status cut_object(const fs_source_pixels *pixels, const fs_segment *g, uint16_t label, fs_piece *out, fs_rect *at,
                            fs_error *err) {
    enum { MARGIN = 6 };
    fs_rect r = {fs_max_i64(g->box.x0 - MARGIN, 0), fs_max_i64(g->box.y0 - MARGIN, 0), fs_min_i64(g->box.x1 + MARGIN, pixels->im->width),
                 fs_min_i64(g->box.y1 + MARGIN, pixels->im->height)};
    *out = (fs_piece){0};
    *at = r;
    fs_status status = fs_image_crop(pixels->im, r.x0, r.y0, r.x1 - r.x0, r.y1 - r.y0, &out->im, err);
    if (!status) status = fs_plane_create(r.x1 - r.x0, r.y1 - r.y0, &out->alpha, err);
    for (int64_t y = r.y0; !status && y < r.y1; y++)
        for (int64_t x = r.x0; x < r.x1; x++)
            if (pixels->labels[y * pixels->im->width + x] == label) out->alpha.data[(y - r.y0) * out->alpha.width + x - r.x0] = 255;
    if (!status) status = fs_tidy_outline(&out->alpha, err);
    if (!status && fs_plane_count(&out->alpha) > 3000)
        status = fs_plane_grow(&out->alpha, -1, err); /* outlines are drawn a little too wide */
    if (status) fs_piece_free(out);
    return status;
}

/* A region of a photo without known objects, from a window of about the scene's size. */
static fs_status cut_region(fs_workshop *w, const fs_image *im, fs_edit *e, fs_piece *out, fs_rect *at, fs_error *err) {
    const fs_image *host = w->after;
    fs_image *window = NULL;
    fs_pick pick = {0};
    double scale = fs_dice_log(w->rng, 0.7, 1.8), share = fs_dice_log(w->rng, 0.015, 0.16);
    int64_t ww = fs_min_i64(lrint((double)host->width * scale), im->width),
            wh = fs_min_i64(lrint((double)host->height * scale), im->height);
    int64_t x = fs_dice_below(w->rng, im->width - ww + 1), y = fs_dice_below(w->rng, im->height - wh + 1);
    bool superpixels = fs_dice_chance(w->rng, 0.7);
    fs_status status = fs_image_crop(im, x, y, ww, wh, &window, err);
    if (!status && superpixels)
        status = fs_pick_superpixels(window, share, w->rng, &pick, err);
    else if (!status)
        status = fs_pick_shape(ww, wh, share, w->rng, &pick, err);
    e->kind = pick.kind;
    if (!status) status = fs_piece_cut(window, &pick.mask, 6, out, at, err);
    *at = (fs_rect){at->x0 + x, at->y0 + y, at->x1 + x, at->y1 + y};
    fs_image_free(window);
    fs_plane_free(&pick.mask);
    return status;
}

static void draw_turn(fs_workshop *w, fs_edit *e, const fs_piece *piece, bool object, bool on_ground) {
    const fs_image *host = w->after;
    double area = (double)fs_plane_count(&piece->alpha), size = fs_dice_log(w->rng, 0.015, 0.25);
    double scale = sqrt(size * (double)host->width * (double)host->height / fmax(area, 1));
    double room = 0.95 * fmin((double)host->width / (double)piece->im->width, (double)host->height / (double)piece->im->height);
    double angle = fs_dice(w->rng, -0.25, 0.25);
    bool turned = fs_dice_chance(w->rng, object ? 0.15 : 0.3) && !on_ground, kept = fs_dice_chance(w->rng, 0.3);
    e->turn.mirror = fs_dice_chance(w->rng, 0.5);
    e->turn.scale = fmin(fmin(fmax(scale, 0.15), 1.5), room);
    if (!object || (kept && scale > 0.75 && scale < 1.3)) e->turn.scale = fmin(1, room); /* as it is, not resampled */
    e->turn.angle = turned ? angle : 0;
    if (room < 1 && turned) e->turn.scale *= 0.85;
}

/* Where the scene has things of its own, which a forger would not paste over. */
static fs_status things_of(const fs_scene *s, fs_plane *out, fs_error *err) {
    fs_status status = fs_plane_create(s->im->width, s->im->height, out, err);
    for (int64_t i = 0; !status && s->labels && i < out->width * out->height; i++)
        if (s->labels[i] && s->source->segments[s->labels[i] - 1].thing) out->data[i] = 255;
    return status;
}

static bool find_place(fs_workshop *w, const fs_piece *p, const fs_plane *things, bool object, bool on_ground, int64_t *x, int64_t *y,
                       double *misfit) {
    const fs_image *host = w->after;
    int64_t free_x = host->width - p->im->width, free_y = host->height - p->im->height;
    if (free_x < 0 || free_y < 0) return false;
    fs_place_rule rule = {.x_low = 0, .x_high = free_x, .y_low = 0, .y_high = free_y, .tries = object ? 24 : 120};
    if (object) rule.avoid = things;
    if (on_ground)
        rule.y_low = rule.y_high = free_y;
    else if (object)
        rule.y_low = free_y * 2 / 5;
    return fs_place_find(host, p, &rule, w->rng, x, y, misfit) &&
           (object || *misfit < 40); /* a region must be able to pass for what is there */
}

static fs_blend draw_blend(fs_workshop *w, bool object, double *feather) {
    double kind = fs_rng_uniform(w->rng), width = fs_dice_log(w->rng, 0.7, object ? 2.5 : 6);
    *feather = 0;
    if (kind < 0.15) return FS_BLEND_HARD;
    if (object && kind < 0.6) return FS_BLEND_MATTE;
    if (kind > (object ? 0.93 : 0.6)) return FS_BLEND_POISSON;
    *feather = width;
    return FS_BLEND_FEATHER;
}

fs_status fs_edit_splice(fs_workshop *w, fs_edit *e, fs_error *err) {
    fs_piece cut = {0}, piece = {0};
    fs_plane things = {0};
    const fs_source_pixels *pixels = NULL;
    bool want_object = fs_dice_chance(w->rng, 0.8);
    choice c = want_object ? choose_object(w) : (choice){0};
    bool object = c.segment != NULL, on_ground;
    e->donor = object ? c.source : other_photo(w);
    fs_status status = fs_sources_hold(w->sources, e->donor, &pixels, err);
    if (status) return status;
    if (object) {
        e->kind = FS_REGION_OBJECT;
        e->what = c.segment->what;
        status = cut_object(pixels, c.segment, (uint16_t)(c.segment - c.source->segments + 1), &cut, &e->from, err);
    } else {
        status = cut_region(w, pixels->im, e, &cut, &e->from, err);
    }
    if (status) goto done;
    on_ground = object && c.segment->box.y1 >= c.source->height - 2;
    bool compress = fs_dice_chance(w->rng, 0.55);
    int quality = (int)fs_dice(w->rng, 62, 98);
    if (compress) {
        e->donor_quality = quality;
        status = fs_through_jpeg(cut.im, quality, false, err);
    }
    draw_turn(w, e, &cut, object, on_ground);
    if (!status) status = fs_piece_turn(&cut, e->turn, &piece, err);
    int64_t x, y;
    double misfit;
    e->blend = draw_blend(w, object, &e->feather);
    double match = fs_dice(w->rng, 0, object ? 0.5 : 0.8);
    bool light_only = fs_dice_chance(w->rng, 0.5);
    int refine = 2 + (int)fs_dice_below(w->rng, 4);
    if (!status) status = things_of(w->scene, &things, err);
    if (status || !find_place(w, &piece, &things, object, on_ground, &x, &y, &misfit)) goto done;
    if (e->blend == FS_BLEND_POISSON && misfit > 30) { /* between unlike grounds gradients make ghosts */
        e->blend = FS_BLEND_FEATHER;
        e->feather = 1.5;
    }
    fs_blend_match(&piece, w->after, x, y, match, light_only);
    if (!status && e->blend == FS_BLEND_MATTE) status = fs_piece_refine(&piece, refine, err);
    if (e->feather > 0) {
        fs_plane_threshold(&piece.alpha, 128);
        status = fs_plane_feather(&piece.alpha, e->feather, err);
    }
    if (!status) status = fs_blend_paste(w->after, &piece, x, y, e->blend, &e->mask, err);
done:
    fs_sources_release(w->sources, e->donor);
    fs_piece_free(&cut);
    fs_piece_free(&piece);
    fs_plane_free(&things);
    return status;
}
