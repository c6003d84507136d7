/* Regions to edit: objects that the source names, superpixels, drawn shapes. */
#include <stdlib.h>
#include <string.h>

#include "data/forge_work.h"

const char *fs_region_kind_name(fs_region_kind k) {
    static const char *const names[] = {"object", "superpixels", "shape"};
    return (int)k >= 0 && (int)k < 3 ? names[k] : "unknown";
}

fs_status fs_tidy_outline(fs_plane *mask, fs_error *err) {
    int64_t pixels = fs_plane_count(mask);
    int radius = (int)fmin(fmax(sqrt((double)pixels) / 50, 1), 5);
    fs_status status = fs_plane_blur(mask, radius, err);
    if (status) return status;
    fs_plane_threshold(mask, 132);
    status = fs_plane_keep_largest(mask, err);
    return status ? status : fs_plane_fill_holes(mask, pixels / 50, err);
}

typedef struct visible {
    int64_t pixels;
    fs_rect box;
} visible;

/* What of each segment is seen in the scene. */
static visible *look(const fs_scene *s) {
    visible *v = fs_alloc_zero(s->source->n_segments + 1, sizeof *v);
    int64_t w = s->im->width, h = s->im->height;
    for (int64_t i = 0; v && i < w * h; i++) {
        uint16_t label = s->labels[i];
        if (!label) continue;
        visible *o = &v[label];
        int64_t x = i % w, y = i / w;
        if (!o->pixels++) o->box = (fs_rect){x, y, x + 1, y + 1};
        o->box.x0 = fs_min_i64(o->box.x0, x);
        o->box.x1 = fs_max_i64(o->box.x1, x + 1);
        o->box.y1 = y + 1;
    }
    return v;
}

static bool fits(const fs_scene *s, const visible *o, double low, double high, bool whole) {
    double share = (double)o->pixels / (double)(s->im->width * s->im->height);
    if (share < low || share > high || o->box.x1 - o->box.x0 < 10 || o->box.y1 - o->box.y0 < 10) return false;
    return !whole || (o->box.x0 > 0 && o->box.y0 > 0 && o->box.x1 < s->im->width);
}

fs_status fs_pick_object(const fs_scene *scene, double low, double high, bool things, bool whole, fs_rng *rng, fs_pick *out,
                         fs_error *err) {
    *out = (fs_pick){.kind = FS_REGION_OBJECT};
    if (!scene->labels) return FS_OK;
    visible *v = look(scene);
    if (!v) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its objects", scene->source->path);
    int64_t n = 0, chosen = -1;
    for (int pass = 0; pass < 2; pass++) {
        if (pass) chosen = fs_dice_below(rng, n), n = 0;
        for (size_t k = 1; k <= scene->source->n_segments; k++) {
            const fs_segment *g = &scene->source->segments[k - 1];
            if ((things && !g->thing) || !fits(scene, &v[k], low, high, whole)) continue;
            if (pass && n == chosen) {
                fs_status status = fs_plane_create(scene->im->width, scene->im->height, &out->mask, err);
                for (int64_t i = 0; !status && i < scene->im->width * scene->im->height; i++)
                    if (scene->labels[i] == k) out->mask.data[i] = 255;
                if (!status) status = fs_tidy_outline(&out->mask, err);
                out->what = g->what;
                free(v);
                return status;
            }
            n++;
        }
        if (!n) break;
    }
    free(v);
    return FS_OK;
}

/* A blob: radius as a function of the angle, with a few low frequencies; drawn pixel by pixel. */
static void draw_blob(fs_plane *p, double cx, double cy, double rx, double ry, double turn, fs_rng *rng) {
    double a[5], phase[5];
    for (int k = 0; k < 5; k++) {
        a[k] = fs_dice(rng, 0, 0.28) / (k + 1);
        phase[k] = fs_dice(rng, 0, 2 * M_PI);
    }
    double c = cos(turn), s = sin(turn);
    for (int64_t y = 0; y < p->height; y++)
        for (int64_t x = 0; x < p->width; x++) {
            double dx = (double)x - cx, dy = (double)y - cy;
            double u = (c * dx + s * dy) / rx, v = (-s * dx + c * dy) / ry, r = u * u + v * v;
            if (r > 4) continue;
            double angle = atan2(v, u), edge = 1;
            for (int k = 0; k < 5; k++) edge += a[k] * cos((k + 2) * angle + phase[k]);
            if (r < edge * edge) p->data[y * p->width + x] = 255;
        }
}

static void draw_box(fs_plane *p, double cx, double cy, double rx, double ry, double round) {
    double corner = round * fmin(rx, ry);
    for (int64_t y = 0; y < p->height; y++)
        for (int64_t x = 0; x < p->width; x++) {
            double dx = fabs((double)x - cx) - rx + corner, dy = fabs((double)y - cy) - ry + corner;
            bool in = dx <= 0 || dy <= 0 ? dx <= corner && dy <= corner : dx * dx + dy * dy <= corner * corner;
            if (in) p->data[y * p->width + x] = 255;
        }
}

fs_status fs_pick_shape(int64_t width, int64_t height, double share, fs_rng *rng, fs_pick *out, fs_error *err) {
    *out = (fs_pick){.kind = FS_REGION_SHAPE};
    fs_status status = fs_plane_create(width, height, &out->mask, err);
    if (status) return status;
    double area = share * (double)width * (double)height, aspect = fs_dice_log(rng, 0.5, 2), kind = fs_rng_uniform(rng);
    double rx = sqrt(area / M_PI * aspect), ry = sqrt(area / M_PI / aspect);
    double cx = fs_dice(rng, fmin(rx, (double)width / 2), fmax((double)width - rx, (double)width / 2));
    double cy = fs_dice(rng, fmin(ry, (double)height / 2), fmax((double)height - ry, (double)height / 2));
    double turn = fs_dice(rng, 0, M_PI), round = fs_dice(rng, 0.05, 0.6);
    if (kind < 0.2)
        draw_box(&out->mask, cx, cy, rx * 0.89, ry * 0.89, round);
    else
        draw_blob(&out->mask, cx, cy, rx, ry, turn, rng);
    return FS_OK;
}

fs_status fs_pick_any(const fs_scene *scene, double low, double high, double p_object, bool things, fs_rng *rng, fs_pick *out,
                      fs_error *err) {
    bool object = fs_dice_chance(rng, p_object), superpixels = fs_dice_chance(rng, 0.6);
    double share = fs_dice_log(rng, low, high);
    fs_status status = FS_OK;
    *out = (fs_pick){0};
    if (object) status = fs_pick_object(scene, low, high, things, false, rng, out, err);
    if (status || out->mask.data) return status;
    if (superpixels) return fs_pick_superpixels(scene->im, share, rng, out, err);
    return fs_pick_shape(scene->im->width, scene->im->height, share, rng, out, err);
}

void fs_edit_clear(fs_edit *e) {
    fs_plane_free(&e->mask);
    *e = (fs_edit){.turn = {.scale = 1}};
}
