/* Post-processing as pictures meet it in the wild: saved again, sent through a messenger, made smaller, sharpened, noisy. The chain is
 * drawn before it is known what was done to the picture, from one distribution for tampered and authentic ones, so that a compressor's
 * traces do not tell the class. */
#include <stdlib.h>
#include <string.h>

#include "data/forge_filter.h"

const char *fs_chain_kind_name(fs_chain_kind k) {
    static const char *const names[] = {"resize", "crop", "noise", "sharpen", "soften", "tone", "jpeg", "turn", "tint"};
    return (int)k >= 0 && (int)k < (int)(sizeof names / sizeof *names) ? names[k] : "unknown";
}

static void add(fs_chain *c, fs_chain_kind kind, double a, double b) {
    if (c->n >= FS_CHAIN_STEPS) return;
    c->step[c->n].kind = kind;
    c->step[c->n].a = a;
    c->step[c->n++].b = b;
}

static void add_jpeg(fs_chain *c, fs_rng *rng, double low, double high, double p_full) {
    double quality = floor(fs_dice(rng, low, high + 1));
    add(c, FS_CHAIN_JPEG, quality, fs_dice_chance(rng, p_full));
}

/* A messenger or network: smaller, a little sharper, quality 70 to 88, halved chroma. */
static void add_social(fs_chain *c, fs_rng *rng) {
    double scale = fs_dice(rng, 0.5, 0.95), amount = fs_dice(rng, 0.15, 0.6);
    add(c, FS_CHAIN_RESIZE, scale, 0);
    if (fs_dice_chance(rng, 0.5)) add(c, FS_CHAIN_SHARPEN, amount, 0.8);
    add_jpeg(c, rng, 70, 88, 0);
}

static void draw_chain(fs_chain *c, fs_rng *rng) {
    double kind = fs_rng_uniform(rng), x = floor(fs_dice(rng, 0, 8)), y = floor(fs_dice(rng, 0, 8));
    if (fs_dice_chance(rng, 0.15)) {
        double gamma = fs_dice_log(rng, 0.8, 1.25), contrast = fs_dice(rng, 0.85, 1.15);
        add(c, FS_CHAIN_TONE, gamma, contrast);
    }
    if (kind < 0.3) {
        c->name = "export";
        add_jpeg(c, rng, 72, 98, 0.3);
    } else if (kind < 0.45) {
        c->name = "double";
        add_jpeg(c, rng, 60, 95, 0.3);
        if (fs_dice_chance(rng, 0.6)) add(c, FS_CHAIN_CROP, x, y);
        add_jpeg(c, rng, 65, 96, 0.3);
    } else if (kind < 0.65) {
        c->name = "social";
        add_social(c, rng);
    } else if (kind < 0.73) {
        c->name = "social-twice";
        add_social(c, rng);
        if (fs_dice_chance(rng, 0.5)) add(c, FS_CHAIN_CROP, x, y);
        add_jpeg(c, rng, 65, 88, 0);
    } else if (kind < 0.81) {
        c->name = "resize";
        add(c, FS_CHAIN_RESIZE, fs_dice_log(rng, 0.6, 1.35), 0);
        add_jpeg(c, rng, 75, 97, 0.3);
    } else if (kind < 0.88) {
        c->name = "noise";
        add(c, FS_CHAIN_NOISE, fs_dice_log(rng, 1, 6), fs_dice_chance(rng, 0.5));
        add_jpeg(c, rng, 72, 97, 0.3);
    } else if (kind < 0.93) {
        c->name = "sharpen";
        double amount = fs_dice(rng, 0.3, 1.2);
        add(c, FS_CHAIN_SHARPEN, amount, fs_dice(rng, 0.6, 1.5));
        add_jpeg(c, rng, 72, 97, 0.3);
    } else if (kind < 0.96) {
        c->name = "soften";
        add(c, FS_CHAIN_SOFTEN, fs_dice(rng, 0.4, 1.1), 0);
        add_jpeg(c, rng, 72, 97, 0.3);
    } else {
        c->name = "clean";
        add_jpeg(c, rng, 95, 100, 0.7);
    }
}

void fs_chain_draw(fs_rng *rng, fs_forge_format format, fs_chain *out) {
    *out = (fs_chain){.name = "none"};
    draw_chain(out, rng);
    bool drop = fs_dice_chance(rng, 0.35);
    if (format == FS_FORGE_PNG && drop && out->step[out->n - 1].kind == FS_CHAIN_JPEG) out->n--; /* some were never compressed in the end */
}

void fs_chain_vary(fs_rng *rng, fs_chain *c) {
    fs_chain varied = {.name = c->name};
    add(&varied, FS_CHAIN_TURN, 1 + (double)fs_dice_below(rng, 8), 0);
    const bool any = fs_dice_chance(rng, 0.3);
    const double hue = fs_dice(rng, -1, 1) * (any ? M_PI : 0.35), saturation = fs_dice_log(rng, 0.4, 1.6);
    add(&varied, FS_CHAIN_TINT, hue, saturation);
    const double gamma = fs_dice_log(rng, 0.7, 1.4), contrast = fs_dice(rng, 0.75, 1.15);
    add(&varied, FS_CHAIN_TONE, gamma, contrast);
    for (int i = 0; i < c->n; i++) add(&varied, c->step[i].kind, c->step[i].a, c->step[i].b);
    *c = varied;
}

/* Sizes before each step and after the last: size[i] before step i. */
static void sizes_of(const fs_chain *c, int64_t width, int64_t height, int64_t w[FS_CHAIN_STEPS + 1], int64_t h[FS_CHAIN_STEPS + 1]) {
    w[c->n] = width;
    h[c->n] = height;
    for (int i = c->n - 1; i >= 0; i--) {
        w[i] = w[i + 1];
        h[i] = h[i + 1];
        if (c->step[i].kind == FS_CHAIN_RESIZE) {
            w[i] = fs_max_i64(lrint((double)w[i] / c->step[i].a), 8);
            h[i] = fs_max_i64(lrint((double)h[i] / c->step[i].a), 8);
        } else if (c->step[i].kind == FS_CHAIN_CROP) {
            w[i] += (int64_t)c->step[i].a;
            h[i] += (int64_t)c->step[i].b;
        } else if (c->step[i].kind == FS_CHAIN_TURN && c->step[i].a >= 5) {
            w[i] = h[i + 1];
            h[i] = w[i + 1];
        }
    }
}

void fs_chain_base_size(const fs_chain *c, int64_t width, int64_t height, int64_t *base_width, int64_t *base_height) {
    int64_t w[FS_CHAIN_STEPS + 1], h[FS_CHAIN_STEPS + 1];
    sizes_of(c, width, height, w, h);
    *base_width = w[0];
    *base_height = h[0];
}

static fs_status resize_both(fs_image **im, fs_plane *mask, int64_t w, int64_t h, fs_error *err) {
    fs_image *resized = NULL;
    fs_plane plane = {0};
    fs_status status = fs_image_resize(*im, w, h, FS_FILTER_BICUBIC, &resized, err);
    if (!status) status = fs_plane_resize(mask, w, h, &plane, err);
    if (status) {
        fs_image_free(resized);
        return status;
    }
    fs_plane_threshold(&plane, 128);
    fs_image_free(*im);
    fs_plane_free(mask);
    *im = resized;
    *mask = plane;
    return FS_OK;
}

static fs_status crop_both(fs_image **im, fs_plane *mask, int64_t x, int64_t y, int64_t w, int64_t h, fs_error *err) {
    fs_image *part = NULL;
    fs_plane plane = {0};
    fs_status status = fs_image_crop(*im, x, y, w, h, &part, err);
    if (!status) status = fs_plane_crop(mask, (fs_rect){x, y, x + w, y + h}, &plane, err);
    if (status) {
        fs_image_free(part);
        return status;
    }
    fs_image_free(*im);
    fs_plane_free(mask);
    *im = part;
    *mask = plane;
    return FS_OK;
}

static fs_status turn_both(fs_image **im, fs_plane *mask, int orientation, fs_error *err) {
    fs_image *turned = NULL;
    fs_plane plane = {0};
    fs_status status = fs_image_orient(*im, orientation, &turned, err);
    if (!status) status = fs_plane_create(turned->width, turned->height, &plane, err);
    if (status) {
        fs_image_free(turned);
        return status;
    }
    fs_orient_bytes(mask->data, mask->width, mask->height, 1, orientation, plane.data);
    fs_image_free(*im);
    fs_plane_free(mask);
    *im = turned;
    *mask = plane;
    return FS_OK;
}

fs_status fs_chain_run(const fs_chain *c, int64_t width, int64_t height, fs_rng *rng, fs_image **im, fs_plane *mask, fs_error *err) {
    int64_t w[FS_CHAIN_STEPS + 1], h[FS_CHAIN_STEPS + 1];
    sizes_of(c, width, height, w, h);
    fs_status status = FS_OK;
    for (int i = 0; i < c->n && !status; i++) {
        double a = c->step[i].a, b = c->step[i].b;
        switch (c->step[i].kind) {
        case FS_CHAIN_RESIZE:
            status = resize_both(im, mask, w[i + 1], h[i + 1], err);
            break;
        case FS_CHAIN_CROP:
            status = crop_both(im, mask, (int64_t)a, (int64_t)b, w[i + 1], h[i + 1], err);
            break;
        case FS_CHAIN_NOISE:
            fs_filter_noise(*im, a, b > 0, rng);
            break;
        case FS_CHAIN_SHARPEN:
            status = fs_filter_sharpen(*im, a, b, err);
            break;
        case FS_CHAIN_SOFTEN:
            status = fs_filter_gauss(*im, a, err);
            break;
        case FS_CHAIN_TONE:
            fs_filter_tone(*im, a, b);
            break;
        case FS_CHAIN_JPEG:
            if (i < c->n - 1) status = fs_through_jpeg(*im, (int)a, b > 0, err);
            break;
        case FS_CHAIN_TURN:
            status = turn_both(im, mask, (int)a, err);
            break;
        case FS_CHAIN_TINT:
            fs_filter_tint(*im, a, b);
            break;
        }
    }
    return status;
}
