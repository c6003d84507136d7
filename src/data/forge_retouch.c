/* Retouching in place: colour, blur, resampling. The region is worked over on a copy, which is then laid over the picture through a soft
 * edge, so that the mask is what changed. */
#include <stdlib.h>
#include <string.h>

#include "data/forge_filter.h"

/* A region for retouching: things and, where it makes sense, ground and sky too. */
static fs_status pick_region(fs_workshop *w, fs_edit *e, double low, double high, bool things, fs_error *err) {
    fs_pick pick = {0};
    fs_status status = fs_pick_any(w->scene, low, high, 0.8, things, w->rng, &pick, err);
    e->kind = pick.kind;
    e->what = pick.what;
    fs_plane_free(&e->mask);
    e->mask = pick.mask;
    return status;
}

/* after := worked where the mask is, softly at its border; the mask keeps what was painted. */
static fs_status lay_over(fs_workshop *w, fs_edit *e, const fs_image *worked, double feather, fs_error *err) {
    enum { FAINT = 16 };
    fs_plane alpha = {0};
    fs_status status = fs_plane_copy(&e->mask, &alpha, err);
    if (!status) status = fs_plane_feather(&alpha, feather, err);
    for (int64_t i = 0; !status && i < alpha.width * alpha.height; i++) {
        int a = alpha.data[i];
        e->mask.data[i] = a >= FAINT ? 255 : 0;
        if (a < FAINT) continue;
        for (int c = 0; c < 3; c++) {
            uint8_t *p = &w->after->data[i * 3 + c];
            *p = (uint8_t)((a * worked->data[i * 3 + c] + (255 - a) * *p + 127) / 255);
        }
    }
    fs_plane_free(&alpha);
    return status;
}

static fs_status copy_of(const fs_image *im, fs_image **out, fs_error *err) {
    return fs_image_crop(im, 0, 0, im->width, im->height, out, err);
}

/* ---- colour ---- */

typedef struct tint {
    double turn[3][3]; /* rotation of the hue, and saturation */
    double light, contrast, middle;
} tint;

static tint make_tint(double hue, double saturation, double light, double contrast, double middle) {
    tint t = {.light = light, .contrast = contrast, .middle = middle};
    fs_tint_matrix(hue, saturation, t.turn);
    return t;
}

static void apply_tint(fs_image *im, const fs_plane *mask, const tint *t) {
    for (int64_t i = 0; i < im->width * im->height; i++) {
        if (!mask->data[i]) continue;
        uint8_t *p = im->data + i * 3;
        const double v[3] = {p[0], p[1], p[2]};
        for (int c = 0; c < 3; c++) {
            double x = t->turn[c][0] * v[0] + t->turn[c][1] * v[1] + t->turn[c][2] * v[2];
            p[c] = fs_clip8(((x - t->middle) * t->contrast + t->middle) * t->light);
        }
    }
}

static double mean_light(const fs_image *im, const fs_plane *mask) {
    double sum = 0, n = 0;
    for (int64_t i = 0; i < im->width * im->height; i++)
        if (mask->data[i]) sum += 0.299 * im->data[i * 3] + 0.587 * im->data[i * 3 + 1] + 0.114 * im->data[i * 3 + 2], n++;
    return n > 0 ? sum / n : 128;
}

fs_status fs_edit_color(fs_workshop *w, fs_edit *e, fs_error *err) {
    fs_image *worked = NULL;
    fs_status status = pick_region(w, e, 0.015, 0.3, false, err);
    if (!status) status = copy_of(w->after, &worked, err);
    if (status) goto done;
    bool up = fs_dice_chance(w->rng, 0.5);
    double kind = fs_rng_uniform(w->rng), hue = fs_dice_log(w->rng, 0.3, 2.6), feather = fs_dice_log(w->rng, 0.7, 5);
    double amount = fs_dice(w->rng, 0, 1), middle = mean_light(worked, &e->mask);
    tint t;
    if (kind < 0.45) {
        e->detail = "hue";
        e->strength = up ? hue : -hue;
        t = make_tint(e->strength, 1, 1, 1, middle);
    } else if (kind < 0.65) {
        e->detail = "saturation";
        e->strength = up ? 1.7 + amount : 0.3 * amount;
        t = make_tint(0, e->strength, 1, 1, middle);
    } else if (kind < 0.85) {
        e->detail = "brightness";
        e->strength = up ? 1.3 + 0.3 * amount : 0.75 - 0.25 * amount;
        t = make_tint(0, 1, e->strength, 1, middle);
    } else {
        e->detail = "contrast";
        e->strength = up ? 1.4 + 0.5 * amount : 0.65 - 0.25 * amount;
        t = make_tint(0, 1, 1, e->strength, middle);
    }
    apply_tint(worked, &e->mask, &t);
    status = lay_over(w, e, worked, feather, err);
done:
    fs_image_free(worked);
    return status;
}

/* ---- blur ---- */

static void pixelate(fs_image *im, int64_t block) {
    for (int64_t y0 = 0; y0 < im->height; y0 += block)
        for (int64_t x0 = 0; x0 < im->width; x0 += block) {
            int64_t y1 = fs_min_i64(y0 + block, im->height), x1 = fs_min_i64(x0 + block, im->width), n = (y1 - y0) * (x1 - x0),
                    sum[3] = {0};
            for (int64_t y = y0; y < y1; y++)
                for (int64_t x = x0; x < x1; x++)
                    for (int c = 0; c < 3; c++) sum[c] += im->data[(y * im->width + x) * 3 + c];
            for (int64_t y = y0; y < y1; y++)
                for (int64_t x = x0; x < x1; x++)
                    for (int c = 0; c < 3; c++) im->data[(y * im->width + x) * 3 + c] = (uint8_t)(sum[c] / n);
        }
}

/* The part of the picture around the mask, as blurring all of a large picture would be for nothing. */
static fs_status around(const fs_image *im, const fs_plane *mask, int64_t margin, fs_rect *r, fs_image **out, fs_error *err) {
    *r = fs_plane_box(mask);
    *r = (fs_rect){fs_max_i64(r->x0 - margin, 0), fs_max_i64(r->y0 - margin, 0), fs_min_i64(r->x1 + margin, im->width),
                   fs_min_i64(r->y1 + margin, im->height)};
    return fs_image_crop(im, r->x0, r->y0, r->x1 - r->x0, r->y1 - r->y0, out, err);
}

static void put_back(fs_image *im, const fs_image *part, fs_rect r) {
    for (int64_t y = r.y0; y < r.y1; y++)
        memcpy(im->data + (y * im->width + r.x0) * 3, part->data + (y - r.y0) * part->width * 3, (size_t)part->width * 3);
}

fs_status fs_edit_blur(fs_workshop *w, fs_edit *e, fs_error *err) {
    fs_image *worked = NULL, *part = NULL;
    fs_rect r;
    fs_status status = pick_region(w, e, 0.012, 0.2, true, err);
    if (status || !fs_plane_count(&e->mask)) return status;
    double kind = fs_rng_uniform(w->rng), amount = fs_rng_uniform(w->rng), feather = fs_dice_log(w->rng, 0.7, 4),
           size = sqrt((double)fs_plane_count(&e->mask));
    status = copy_of(w->after, &worked, err);
    if (!status) status = around(worked, &e->mask, 24, &r, &part, err);
    if (status) goto done;
    if (kind < 0.5) {
        e->detail = "blurred";
        e->strength = fmin(1.2 + amount * size / 20, 12);
        status = fs_filter_gauss(part, e->strength, err);
    } else if (kind < 0.8) {
        e->detail = "smoothed";
        e->strength = size > 150 ? 4 : 2 + (amount > 0.5);
        fs_plane where = {0};
        status = fs_plane_crop(&e->mask, r, &where, err);
        if (!status) status = fs_filter_median(part, (int)e->strength, where.data, err);
        fs_plane_free(&where);
    } else {
        e->detail = "pixelated";
        e->strength = fmin(fmax(floor(size * (0.06 + 0.08 * amount)), 4), 24);
        feather = 0;
        pixelate(part, (int64_t)e->strength);
    }
    if (!status) put_back(worked, part, r);
    if (!status) status = lay_over(w, e, worked, feather, err);
done:
    fs_image_free(worked);
    fs_image_free(part);
    return status;
}

/* ---- resampling ---- */

static void bilinear(const fs_image *im, double x, double y, uint8_t out[3]) {
    x = fmin(fmax(x, 0), (double)im->width - 1.001);
    y = fmin(fmax(y, 0), (double)im->height - 1.001);
    int64_t x0 = (int64_t)x, y0 = (int64_t)y;
    double fx = x - (double)x0, fy = y - (double)y0;
    const uint8_t *p = im->data + (y0 * im->width + x0) * 3, *q = p + im->width * 3;
    for (int c = 0; c < 3; c++) out[c] = fs_clip8((p[c] * (1 - fx) + p[c + 3] * fx) * (1 - fy) + (q[c] * (1 - fx) + q[c + 3] * fx) * fy);
}

/* A push, or a bulge, that fades out toward a circle's border, as a liquify brush does. */
static fs_status warp(fs_workshop *w, fs_edit *e, fs_error *err) {
    fs_image *from = NULL;
    const fs_image *im = w->scene->im;
    double side = (double)fs_min_i64(im->width, im->height), radius = side * fs_dice(w->rng, 0.1, 0.24);
    double cx = fs_dice(w->rng, radius, (double)im->width - radius), cy = fs_dice(w->rng, radius, (double)im->height - radius);
    double angle = fs_dice(w->rng, 0, 2 * M_PI), push = radius * fs_dice(w->rng, 0.2, 0.4), bulge = fs_dice(w->rng, 0.25, 0.6);
    bool pushes = fs_dice_chance(w->rng, 0.5), inward = fs_dice_chance(w->rng, 0.5);
    e->detail = "warped";
    e->strength = pushes ? push : bulge;
    e->kind = FS_REGION_SHAPE;
    if (inward) bulge = -bulge;
    fs_status status = copy_of(im, &from, err);
    for (int64_t y = 0; !status && y < im->height; y++)
        for (int64_t x = 0; x < im->width; x++) {
            double dx = (double)x - cx, dy = (double)y - cy, t = sqrt(dx * dx + dy * dy) / radius;
            if (t >= 1) continue;
            double fade = (1 - t * t) * (1 - t * t), u = (double)x, v = (double)y;
            if (pushes)
                u -= push * fade * cos(angle), v -= push * fade * sin(angle);
            else
                u = cx + dx * (1 - bulge * fade), v = cy + dy * (1 - bulge * fade);
            if ((u - (double)x) * (u - (double)x) + (v - (double)y) * (v - (double)y) < 0.25)
                continue; /* moved by less than half a pixel: left alone */
            int64_t at = y * im->width + x;
            bilinear(from, u, v, w->after->data + at * 3);
            e->mask.data[at] = 255;
        }
    fs_image_free(from);
    return status;
}

/* The region is enlarged about its middle and covers its old self. */
static fs_status enlarge(fs_workshop *w, fs_edit *e, fs_error *err) {
    fs_piece cut = {0}, piece = {0};
    fs_plane region = {0};
    fs_rect at;
    fs_status status = pick_region(w, e, 0.012, 0.16, true, err);
    double feather = fs_dice_log(w->rng, 0.7, 2.5);
    e->detail = "enlarged";
    e->strength = e->turn.scale = fs_dice(w->rng, 1.12, 1.45);
    e->blend = FS_BLEND_FEATHER;
    e->feather = feather;
    region = e->mask;
    e->mask = (fs_plane){0};
    if (!status) status = fs_plane_create(w->after->width, w->after->height, &e->mask, err);
    if (status || !fs_plane_count(&region)) goto done;
    status = fs_piece_cut(w->scene->im, &region, 3, &cut, &at, err);
    if (!status) status = fs_piece_turn(&cut, e->turn, &piece, err);
    if (!status) fs_plane_threshold(&piece.alpha, 128);
    if (!status) status = fs_plane_feather(&piece.alpha, feather, err);
    if (status) goto done;
    int64_t x = (at.x0 + at.x1 - piece.im->width) / 2, y = at.y1 - piece.im->height; /* it keeps standing where it stands */
    status = fs_blend_paste(w->after, &piece, x, y, FS_BLEND_FEATHER, &e->mask, err);
    e->from = at;
done:
    fs_plane_free(&region);
    fs_piece_free(&cut);
    fs_piece_free(&piece);
    return status;
}

/* The region's resolution is lowered: made small and large again. */
static fs_status coarsen(fs_workshop *w, fs_edit *e, fs_error *err) {
    fs_image *worked = NULL, *part = NULL, *small = NULL, *back = NULL;
    fs_rect r;
    fs_status status = pick_region(w, e, 0.012, 0.2, true, err);
    if (status || !fs_plane_count(&e->mask)) return status;
    double feather = fs_dice_log(w->rng, 0.5, 2.5);
    e->detail = "coarse";
    e->strength = fs_dice(w->rng, 0.25, 0.6);
    status = copy_of(w->after, &worked, err);
    if (!status) status = around(worked, &e->mask, 16, &r, &part, err);
    if (status) goto done;
    int64_t sw = fs_max_i64(lrint((double)part->width * e->strength), 2), sh = fs_max_i64(lrint((double)part->height * e->strength), 2);
    status = fs_image_resize(part, sw, sh, FS_FILTER_BICUBIC, &small, err);
    if (!status) status = fs_image_resize(small, part->width, part->height, FS_FILTER_BICUBIC, &back, err);
    if (!status) put_back(worked, back, r);
    if (!status) status = lay_over(w, e, worked, feather, err);
done:
    fs_image_free(worked);
    fs_image_free(part);
    fs_image_free(small);
    fs_image_free(back);
    return status;
}

fs_status fs_edit_resample(fs_workshop *w, fs_edit *e, fs_error *err) {
    double kind = fs_rng_uniform(w->rng);
    if (kind < 0.4) return enlarge(w, e, err);
    return kind < 0.75 ? warp(w, e, err) : coarsen(w, e, err);
}
