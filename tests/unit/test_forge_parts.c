/* The tools of forging, one by one: planes, turning, placing, blending, filling holes, superpixels, the chain's sizes, position and size
 * words, and the texts' grammar. */
#include "forge_support.h"

#include "data/forge_filter.h"
#include "data/forge_texts.h"
#include "data/mask_words.h"

static fs_plane plane_of(int64_t w, int64_t h, fs_rect r) {
    fs_plane p;
    ok(fs_plane_create(w, h, &p, &err));
    for (int64_t y = r.y0; y < r.y1; y++)
        for (int64_t x = r.x0; x < r.x1; x++) p.data[y * w + x] = 255;
    return p;
}

static fs_image *image_of(int64_t w, int64_t h, uint8_t (*value)(int64_t x, int64_t y, int c)) {
    fs_image *im;
    ok(fs_image_create(w, h, &im, &err));
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++)
            for (int c = 0; c < 3; c++) im->data[(y * w + x) * 3 + c] = value(x, y, c);
    return im;
}

/* ---- planes ---- */

static void planes(void **state) {
    (void)state;
    fs_plane p = plane_of(40, 30, (fs_rect){10, 8, 20, 18}), q;
    assert_int_equal(fs_plane_count(&p), 100);
    ok(fs_plane_grow(&p, 2, &err));
    fs_rect r = fs_plane_box(&p);
    assert_true(r.x0 == 8 && r.y0 == 6 && r.x1 == 22 && r.y1 == 20);
    assert_int_equal(p.data[6 * 40 + 8], 0); /* a corner is sqrt(8) away */
    ok(fs_plane_grow(&p, -2, &err));
    r = fs_plane_box(&p);
    assert_true(r.x0 == 10 && r.y0 == 8 && r.x1 == 20 && r.y1 == 18);
    /* feathering goes inward only, and rises */
    ok(fs_plane_copy(&p, &q, &err));
    ok(fs_plane_feather(&q, 3, &err));
    for (int64_t i = 0; i < 40 * 30; i++) assert_true(p.data[i] || !q.data[i]);
    for (int64_t x = 10; x < 14; x++) assert_true(q.data[13 * 40 + x] < q.data[13 * 40 + x + 1] || q.data[13 * 40 + x] == 255);
    assert_int_equal(q.data[13 * 40 + 14], 255);
    fs_plane_free(&q);
    /* a hole of 4 pixels is filled, one at the edge is none */
    p.data[12 * 40 + 12] = p.data[12 * 40 + 13] = p.data[13 * 40 + 12] = p.data[13 * 40 + 13] = 0;
    int64_t before = fs_plane_count(&p);
    ok(fs_plane_fill_holes(&p, 4, &err));
    assert_int_equal(fs_plane_count(&p), before);
    ok(fs_plane_fill_holes(&p, 5, &err));
    assert_int_equal(fs_plane_count(&p), before + 4);
    /* the larger of two */
    p.data[0] = p.data[1] = 255;
    ok(fs_plane_keep_largest(&p, &err));
    assert_int_equal(p.data[0], 0);
    assert_int_equal(fs_plane_count(&p), before + 4);
    /* halving averages, doubling keeps the share */
    ok(fs_plane_resize(&p, 20, 15, &q, &err));
    assert_int_equal(fs_plane_count(&q), 25);
    assert_int_equal(q.data[6 * 20 + 6], 255);
    fs_plane_free(&q);
    fs_plane_free(&p);
}

/* The same by the definitions, pixel by pixel. */
static int64_t seen_from(const fs_plane *p, int64_t at, uint8_t *seen, bool *edge) {
    const int64_t w = p->width, h = p->height, x = at % w, y = at / w;
    int64_t n = 1;
    seen[at] = 1;
    *edge |= x == 0 || y == 0 || x == w - 1 || y == h - 1;
    for (int64_t j = y - 1; j <= y + 1; j++)
        for (int64_t i = x - 1; i <= x + 1; i++)
            if (i >= 0 && j >= 0 && i < w && j < h && !seen[j * w + i] && p->data[j * w + i] == p->data[at]) n += seen_from(p, j * w + i, seen, edge);
    return n;
}

static fs_plane holes_filled(const fs_plane *p, int64_t pixels) {
    fs_plane out;
    uint8_t seen[40 * 40] = {0};
    ok(fs_plane_copy(p, &out, &err));
    for (int64_t i = 0; i < p->width * p->height; i++) {
        bool edge = false;
        uint8_t region[40 * 40] = {0};
        if (seen[i] || p->data[i]) continue;
        const int64_t n = seen_from(p, i, region, &edge);
        for (int64_t k = 0; k < p->width * p->height; k++) {
            seen[k] |= region[k];
            if (region[k] && !edge && n < pixels) out.data[k] = 255;
        }
    }
    return out;
}

static fs_plane largest_kept(const fs_plane *p) {
    fs_plane out;
    uint8_t seen[40 * 40] = {0};
    int64_t most = 0;
    ok(fs_plane_create(p->width, p->height, &out, &err));
    for (int64_t i = 0; i < p->width * p->height; i++) {
        bool edge;
        uint8_t region[40 * 40] = {0};
        if (seen[i] || !p->data[i]) continue;
        const int64_t n = seen_from(p, i, region, &edge);
        for (int64_t k = 0; k < p->width * p->height; k++) {
            seen[k] |= region[k];
            if (n > most) out.data[k] = region[k] ? 255 : 0;
        }
        most = n > most ? n : most;
    }
    return out;
}

/* 5 for a step, 7 for one across, from every pixel that is not asked about: repeated until nothing changes. */
static void distances(const fs_plane *p, bool inside, bool outside_counts, uint16_t *d) {
    const int64_t w = p->width, h = p->height;
    for (int64_t i = 0; i < w * h; i++) d[i] = (p->data[i] >= 128) == inside ? 60000 : 0;
    for (bool changed = true; changed;) {
        changed = false;
        for (int64_t i = 0; i < w * h; i++)
            for (int64_t k = 0; k < 9; k++) {
                const int64_t x = i % w + k % 3 - 1, y = i / w + k / 3 - 1, cost = k == 4 ? 0 : k % 2 ? 5 : 7;
                const bool out = x < 0 || y < 0 || x >= w || y >= h;
                const int64_t far = out ? (outside_counts ? cost : 60000) : d[y * w + x] + cost;
                if (far < d[i]) d[i] = (uint16_t)far, changed = true;
            }
    }
}

static fs_plane blurred(const fs_plane *p, int64_t radius, int passes) {
    fs_plane out;
    const int64_t w = p->width, h = p->height, n = 2 * radius + 1;
    ok(fs_plane_copy(p, &out, &err));
    for (int pass = 0; pass < 2 * passes; pass++) {
        fs_plane from;
        ok(fs_plane_copy(&out, &from, &err));
        for (int64_t i = 0; i < w * h; i++) {
            int64_t sum = 0, x = i % w, y = i / w;
            for (int64_t k = -radius; k <= radius; k++) {
                const int64_t xx = pass % 2 ? x : fs_min_i64(fs_max_i64(x + k, 0), w - 1), yy = pass % 2 ? fs_min_i64(fs_max_i64(y + k, 0), h - 1) : y;
                sum += from.data[yy * w + xx];
            }
            out.data[i] = (uint8_t)((sum + n / 2) / n);
        }
        fs_plane_free(&from);
    }
    return out;
}

static void same_plane(fs_plane *a, fs_plane *b) {
    assert_true(a->width == b->width && a->height == b->height);
    assert_memory_equal(a->data, b->data, (size_t)(a->width * a->height));
    fs_plane_free(a);
    fs_plane_free(b);
}

static void planes_by_definition(void **state) {
    (void)state;
    fs_rng rng = fs_rng_seed(5);
    uint16_t got[40 * 40], want[40 * 40];
    for (int round = 0; round < 200; round++) {
        const int64_t w = 1 + fs_dice_below(&rng, 40), h = 1 + fs_dice_below(&rng, 40), coarse = 1 + fs_dice_below(&rng, 5);
        fs_plane p, a, b;
        ok(fs_plane_create(w, h, &p, &err));
        uint8_t blocks[40 * 40];
        for (int i = 0; i < 40 * 40; i++) blocks[i] = (uint8_t)(fs_dice_below(&rng, 2) ? 0 : round % 3 ? 255 : 100 * fs_dice_below(&rng, 3));
        for (int64_t i = 0; i < w * h; i++) p.data[i] = blocks[i / w / coarse * 40 + i % w / coarse];
        for (int kind = 0; kind < 4; kind++) {
            fs_plane_distance(&p, kind & 1, kind & 2, got);
            distances(&p, kind & 1, kind & 2, want);
            assert_memory_equal(got, want, (size_t)(w * h) * sizeof *got);
        }
        ok(fs_plane_copy(&p, &a, &err));
        ok(fs_plane_fill_holes(&a, 6, &err));
        b = holes_filled(&p, 6);
        same_plane(&a, &b);
        ok(fs_plane_copy(&p, &a, &err));
        ok(fs_plane_keep_largest(&a, &err));
        b = largest_kept(&p);
        same_plane(&a, &b);
        const int64_t radius = 1 + fs_dice_below(&rng, 6);
        ok(fs_plane_copy(&p, &a, &err));
        ok(fs_plane_blur(&a, (int)radius, &err));
        b = blurred(&p, radius, 2);
        same_plane(&a, &b);
        fs_plane_free(&p);
    }
}

/* A side more for the picture of one, doubled and halved: each pixel the mean of what it covers, or between its two neighbours. */
static void planes_are_resized(void **state) {
    (void)state;
    fs_rng rng = fs_rng_seed(6);
    for (int round = 0; round < 100; round++) {
        const int64_t w = 1 + fs_dice_below(&rng, 30), h = 1 + fs_dice_below(&rng, 30);
        fs_plane p, large, back;
        ok(fs_plane_create(3 * w, 2 * h, &p, &err));
        for (int64_t i = 0; i < 6 * w * h; i++) p.data[i] = (uint8_t)(fs_dice_below(&rng, 3) ? 0 : fs_dice_below(&rng, 256));
        ok(fs_plane_resize(&p, w, h, &back, &err));
        for (int64_t i = 0; i < w * h; i++) {
            double sum = 0;
            for (int64_t j = 0; j < 2; j++) {
                const uint8_t *from = p.data + (i / w * 2 + j) * 3 * w + i % w * 3;
                sum += nearbyint((from[0] + from[1] + from[2]) / 3.0);
            }
            assert_int_equal(back.data[i], (int)nearbyint(sum / 2));
        }
        ok(fs_plane_resize(&back, 2 * w, h, &large, &err));
        for (int64_t i = 0; i < 2 * w * h; i++) {
            const int64_t x = i % (2 * w) / 2, beside = fs_min_i64(fs_max_i64(x + (i % (2 * w) % 2 ? 1 : -1), 0), w - 1);
            const uint8_t *line = back.data + i / (2 * w) * w;
            assert_int_equal(large.data[i], (int)nearbyint(0.75 * line[x] + 0.25 * line[beside]));
        }
        fs_plane_free(&p);
        fs_plane_free(&large);
        fs_plane_free(&back);
    }
}

/* ---- turning ---- */

static uint8_t ramp(int64_t x, int64_t y, int c) {
    return (uint8_t)(c == 0 ? 4 * x : c == 1 ? 4 * y : 100);
}

static fs_piece piece_of(int64_t w, int64_t h) {
    fs_piece p = {image_of(w, h, ramp), plane_of(w, h, (fs_rect){4, 4, w - 4, h - 4})};
    return p;
}

static void turning(void **state) {
    (void)state;
    fs_piece p = piece_of(40, 30), q, r;
    ok(fs_piece_turn(&p, (fs_turn){1, 0, false}, &q, &err));
    assert_memory_equal(p.im->data, q.im->data, 40 * 30 * 3);
    fs_piece_free(&q);
    ok(fs_piece_turn(&p, (fs_turn){1, 0, true}, &q, &err));
    ok(fs_piece_turn(&q, (fs_turn){1, 0, true}, &r, &err));
    assert_memory_equal(p.im->data, r.im->data, 40 * 30 * 3);
    assert_int_equal(q.im->data[0], 4 * 39);
    fs_piece_free(&q);
    fs_piece_free(&r);
    /* a quarter turn is exact: x goes to y */
    ok(fs_piece_turn(&p, (fs_turn){1, M_PI / 2, false}, &q, &err));
    assert_int_equal(q.im->width, 30);
    assert_int_equal(q.im->height, 40);
    for (int64_t y = 5; y < 35; y++)
        for (int64_t x = 5; x < 25; x++) {
            assert_int_equal(q.im->data[(y * 30 + x) * 3], 4 * y);
            assert_int_equal(q.im->data[(y * 30 + x) * 3 + 1], 4 * (29 - x));
        }
    assert_int_equal(fs_plane_count(&q.alpha), fs_plane_count(&p.alpha));
    fs_piece_free(&q);
    /* the area goes with the square of the scale, turned or not; 6 % for the border's pixels */
    for (int i = 0; i < 6; i++) {
        double scale = 0.5 + 0.3 * (i / 2), angle = i % 2 ? 0.4 : 0, want = scale * scale * (double)fs_plane_count(&p.alpha);
        ok(fs_piece_turn(&p, (fs_turn){scale, angle, false}, &q, &err));
        assert_true(fabs((double)fs_plane_count(&q.alpha) - want) < 0.06 * want);
        fs_piece_free(&q);
    }
    fs_piece_free(&p);
}

/* ---- placing and blending ---- */

static uint8_t stripes(int64_t x, int64_t y, int c) {
    (void)c;
    return (uint8_t)(120 + 60 * sin(0.2 * (double)x) + 40 * sin(0.31 * (double)y) + (double)(x % 3));
}

/* A piece cut from the picture fits best where it was, and not where it may not go. */
static void places(void **state) {
    (void)state;
    fs_image *im = image_of(120, 90, stripes);
    fs_plane mask = plane_of(120, 90, (fs_rect){50, 40, 70, 60}), here;
    fs_piece p;
    fs_rect at;
    ok(fs_piece_cut(im, &mask, 3, &p, &at, &err));
    assert_true(at.x0 == 47 && at.y0 == 37 && at.x1 == 73 && at.y1 == 63);
    fs_place_rule rule = {.x_low = 30, .x_high = 60, .y_low = 20, .y_high = 50, .tries = 6000};
    fs_rng rng = fs_rng_seed(5);
    int64_t x, y;
    double misfit;
    assert_true(fs_place_find(im, &p, &rule, &rng, &x, &y, &misfit));
    assert_true(x == 47 && y == 37 && misfit == 0);
    here = plane_of(120, 90, (fs_rect){30, 20, 90, 80});
    rule.avoid = &here;
    rule.x_low = 0;
    rule.x_high = 94;
    rule.y_low = 0;
    rule.y_high = 64;
    rule.tries = 500;
    assert_true(fs_place_find(im, &p, &rule, &rng, &x, &y, &misfit));
    int64_t hit = 0;
    for (int64_t j = 0; j < p.im->height; j++)
        for (int64_t i = 0; i < p.im->width; i++) hit += p.alpha.data[j * p.im->width + i] && here.data[(y + j) * 120 + x + i];
    assert_true(hit <= 80); /* a tenth of 400, twice that for the sampling */
    rule.x_low = rule.x_high = 50;
    rule.y_low = rule.y_high = 40;
    assert_false(fs_place_find(im, &p, &rule, &rng, &x, &y, &misfit));
    fs_plane_free(&mask), fs_plane_free(&here), fs_piece_free(&p), fs_image_free(im);
}

/* Gradients: the same piece, 40 levels brighter, disappears where it came from. Rounding is 1 level; the membrane of a constant is that
 * constant. */
static void poisson_takes_off_a_constant(void **state) {
    (void)state;
    fs_image *im = image_of(120, 90, stripes), *before = image_of(120, 90, stripes);
    fs_plane mask = plane_of(120, 90, (fs_rect){30, 20, 90, 75}), painted;
    fs_piece p;
    fs_rect at;
    ok(fs_piece_cut(im, &mask, 2, &p, &at, &err));
    for (int64_t i = 0; i < p.im->width * p.im->height * 3; i++) p.im->data[i] = (uint8_t)(p.im->data[i] + 20);
    ok(fs_plane_create(120, 90, &painted, &err));
    ok(fs_blend_paste(im, &p, at.x0, at.y0, FS_BLEND_POISSON, &painted, &err));
    for (int64_t i = 0; i < 120 * 90 * 3; i++) assert_true(abs(im->data[i] - before->data[i]) <= 1);
    assert_int_equal(fs_plane_count(&painted), 58 * 53); /* all but the outermost pixels */
    /* and on a ramp the seam closes: what is added at the border is what the ground differs by there */
    fs_plane_free(&painted), fs_plane_free(&mask), fs_piece_free(&p), fs_image_free(im), fs_image_free(before);
}

static void pasting_is_cut_at_the_edges(void **state) {
    (void)state;
    fs_image *im = image_of(60, 50, stripes);
    fs_piece p = piece_of(40, 30);
    fs_plane painted;
    for (int blend = FS_BLEND_HARD; blend <= FS_BLEND_POISSON; blend++)
        for (int k = 0; k < 4; k++) {
            ok(fs_plane_create(60, 50, &painted, &err));
            int64_t x = k % 2 ? -20 : 40, y = k / 2 ? -15 : 35;
            ok(fs_blend_paste(im, &p, x, y, (fs_blend)blend, &painted, &err));
            fs_rect r = fs_plane_box(&painted);
            assert_true(r.x1 > r.x0 && (k % 2 ? r.x0 == 0 : r.x1 == 60) && (k / 2 ? r.y0 == 0 : r.y1 == 50));
            fs_plane_free(&painted);
        }
    fs_piece_free(&p), fs_image_free(im);
}

/* Matching with full strength gives the mean of the ground. */
static uint8_t level_80(int64_t x, int64_t y, int c) {
    (void)c;
    return (uint8_t)(80 + (x + y) % 2);
}
static void matching(void **state) {
    (void)state;
    fs_image *im = image_of(100, 100, level_80);
    fs_piece p = piece_of(20, 20);
    fs_blend_match(&p, im, 40, 40, 1, false);
    for (int c = 0; c < 3; c++) {
        double sum = 0;
        for (int64_t i = 0; i < 400; i++)
            if (p.alpha.data[i]) sum += p.im->data[i * 3 + c];
        assert_true(fabs(sum / (double)fs_plane_count(&p.alpha) - 80.5) < 1);
    }
    fs_piece_free(&p), fs_image_free(im);
}

/* A ragged outline snaps to the edge that is there: a box whose mask is up to 3 pixels off on each line. Hard: nine pixels in ten at the
 * border are right. */
static uint8_t box_20_60(int64_t x, int64_t y, int c) {
    (void)c;
    return (uint8_t)((x >= 20 && x < 60 && y >= 20 && y < 60 ? 190 : 60) + (x * 7 + y * 13) % 5);
}
static void outlines_are_refined(void **state) {
    (void)state;
    fs_piece p = {image_of(80, 80, box_20_60), plane_of(80, 80, (fs_rect){0})};
    for (int64_t y = 20; y < 60; y++)
        for (int64_t x = 20 + (y * 5) % 7 - 3; x < 60 - (y * 3) % 7 + 3; x++) p.alpha.data[y * 80 + x] = 255;
    int64_t before = 0, after = 0;
    for (int64_t i = 0; i < 80 * 80; i++) before += (p.alpha.data[i] >= 128) != (p.im->data[i * 3] > 128);
    ok(fs_piece_refine(&p, 4, &err));
    for (int64_t i = 0; i < 80 * 80; i++) after += (p.alpha.data[i] >= 128) != (p.im->data[i * 3] > 128);
    assert_true(before > 100 && after * 10 < before);
    assert_int_equal(p.alpha.data[40 * 80 + 40], 255);
    assert_int_equal(p.alpha.data[10 * 80 + 40], 0);
    fs_piece_free(&p);
}

/* ---- cues ---- */

static bool has_cue(const fs_facts *f, const char *cue) {
    for (int i = 0; i < f->n_cues; i++)
        if (strcmp(f->cues[i], cue) == 0) return true;
    return false;
}

/* A patch that differs from its ground in one way only: that is named (the number of cues is drawn, so any of several draws will do), its
 * opposite never. */
static void cues_are_what_is_there(void **state) {
    (void)state;
    static const struct {
        const char *cue, *opposite;
        double light, color, grain;
    } cases[] = {
        {"light-brighter", "light-darker", 60, 0, 1},  {"light-darker", "light-brighter", -60, 0, 1},
        {"color-foreign", "light-brighter", 0, 40, 1}, {"grain-more", "grain-less", 0, 0, 3},
        {"grain-less", "grain-more", 0, 0, 0.2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fs_rng rng = fs_rng_seed(i);
        fs_image *im = image_of(120, 120, level_80);
        fs_plane mask = plane_of(120, 120, (fs_rect){40, 40, 80, 80});
        for (int64_t k = 0; k < 120 * 120; k++)
            for (int c = 0; c < 3; c++) {
                double v = 120 + fs_dice_normal(&rng) * 5 * (mask.data[k] ? cases[i].grain : 1);
                if (mask.data[k]) v += cases[i].light + (c == 0 ? cases[i].color : c == 2 ? -cases[i].color : 0);
                im->data[k * 3 + c] = fs_clip8(v);
            }
        fs_edit e = {.turn = {.scale = 1}, .kind = FS_REGION_OBJECT, .blend = FS_BLEND_FEATHER};
        int found = 0;
        for (int draw = 0; draw < 20; draw++) {
            fs_facts f = {0};
            fs_facts_cues(&f, FS_FORGE_SPLICE, &e, im, &mask, &rng);
            assert_in_range(f.n_cues, 2, 4);
            found += has_cue(&f, cases[i].cue);
            assert_false(has_cue(&f, cases[i].opposite));
        }
        assert_true(found >= 5);
        fs_plane_free(&mask), fs_image_free(im);
    }
}

/* ---- filling ---- */

static uint8_t tiles(int64_t x, int64_t y, int c) {
    return (uint8_t)((x / 5 + y / 5) % 2 ? 200 - 30 * c : 60 + 20 * c);
}
static uint8_t two_grounds(int64_t x, int64_t y, int c) {
    (void)c;
    return (uint8_t)(x < 64 ? 50 + (x * 7 + y * 13) % 9 : 190 + (x * 5 + y * 11) % 9);
}

/* A board of tiles has only one continuation: nearly all pixels come back exactly. */
static void fills_a_pattern(void **state) {
    (void)state;
    fs_image *im = image_of(128, 128, tiles), *whole = image_of(128, 128, tiles);
    fs_plane hole = plane_of(128, 128, (fs_rect){44, 50, 84, 82});
    for (int64_t i = 0; i < 128 * 128; i++)
        if (hole.data[i]) memset(im->data + i * 3, 128, 3);
    fs_rng rng = fs_rng_seed(1);
    ok(fs_inpaint(im, &hole, &rng, &err));
    int64_t right = 0;
    for (int64_t i = 0; i < 128 * 128; i++) {
        if (!hole.data[i])
            assert_memory_equal(im->data + i * 3, whole->data + i * 3, 3);
        else
            right += memcmp(im->data + i * 3, whole->data + i * 3, 3) == 0;
    }
    assert_true(right > 40 * 32 * 9 / 10);
    fs_plane_free(&hole), fs_image_free(im), fs_image_free(whole);
}

/* An edge through the hole is carried on: no pixel of a third kind, and left stays left but for a band of 6 pixels. */
static void fills_along_an_edge(void **state) {
    (void)state;
    fs_image *im = image_of(128, 128, two_grounds);
    fs_plane hole = plane_of(128, 128, (fs_rect){50, 50, 78, 78});
    for (int64_t i = 0; i < 128 * 128; i++)
        if (hole.data[i]) memset(im->data + i * 3, 0, 3);
    fs_rng rng = fs_rng_seed(2);
    ok(fs_inpaint(im, &hole, &rng, &err));
    for (int64_t y = 50; y < 78; y++)
        for (int64_t x = 50; x < 78; x++) {
            int v = im->data[(y * 128 + x) * 3];
            if (x < 58) assert_in_range(v, 50, 58);
            if (x >= 70) assert_in_range(v, 190, 198);
        }
    fs_plane_free(&hole), fs_image_free(im);
}

/* Holes at corners, over nearly everything, of one pixel; small pictures: filled or left, never out of bounds. */
static void fills_odd_holes(void **state) {
    (void)state;
    static const fs_rect holes[] = {{0, 0, 30, 30}, {60, 40, 90, 70}, {2, 2, 88, 68}, {0, 0, 90, 70}, {45, 35, 46, 36}, {0, 30, 90, 40}};
    for (size_t i = 0; i < sizeof holes / sizeof *holes; i++) {
        fs_image *im = image_of(90, 70, stripes);
        fs_plane hole = plane_of(90, 70, holes[i]);
        fs_rng rng = fs_rng_seed(i);
        ok(fs_inpaint(im, &hole, &rng, &err));
        fs_plane_free(&hole), fs_image_free(im);
    }
    fs_image *im = image_of(5, 9, stripes);
    fs_plane hole = plane_of(5, 9, (fs_rect){2, 2, 4, 4});
    fs_rng rng = fs_rng_seed(0);
    ok(fs_inpaint(im, &hole, &rng, &err));
    fs_plane_free(&hole), fs_image_free(im);
}

/* ---- superpixels ---- */

static uint8_t halves(int64_t x, int64_t y, int c) {
    (void)y;
    return (uint8_t)(x < 100 ? 40 + c : 200 - c);
}

/* A group of a sixth of the picture stays on one side of the edge between two colours. */
static void superpixels_follow_edges(void **state) {
    (void)state;
    fs_image *im = image_of(200, 150, halves);
    for (uint64_t seed = 0; seed < 8; seed++) {
        fs_pick pick;
        fs_rng rng = fs_rng_seed(seed);
        ok(fs_pick_superpixels(im, 0.16, &rng, &pick, &err));
        int64_t left = 0, n = fs_plane_count(&pick.mask);
        for (int64_t i = 0; i < 200 * 150; i++) left += pick.mask.data[i] && i % 200 < 100;
        assert_true((double)n > 0.1 * 30000 && (double)n < 0.25 * 30000);
        assert_true((double)fs_min_i64(left, n - left) < 0.04 * (double)n);
        fs_plane_free(&pick.mask);
    }
    fs_image_free(im);
}

/* ---- the chain ---- */

static void chains_end_at_their_size(void **state) {
    (void)state;
    int jpeg = 0, png = 0, ways[9] = {0};
    for (uint64_t seed = 0; seed < 120; seed++) {
        fs_chain c;
        fs_rng rng = fs_rng_seed(seed);
        fs_chain_draw(&rng, seed % 2 ? FS_FORGE_PNG : FS_FORGE_JPEG, &c);
        if (seed >= 60) {
            const fs_chain plain = c;
            fs_chain_vary(&rng, &c);
            assert_int_equal(c.step[0].kind, FS_CHAIN_TURN);
            assert_memory_equal(c.step + 3, plain.step, (size_t)plain.n * sizeof *plain.step); /* behind it, the steps as they were */
            ways[(int)c.step[0].a]++;
        }
        bool last = c.n && c.step[c.n - 1].kind == FS_CHAIN_JPEG;
        if (seed % 2)
            png += !last;
        else
            jpeg += last;
        int64_t w, h;
        fs_chain_base_size(&c, 97, 61, &w, &h);
        fs_image *im = image_of(w, h, stripes);
        fs_plane mask = plane_of(w, h, (fs_rect){w / 3, h / 3, w / 2, h / 2});
        for (int64_t i = 0; i < w * h; i++) memset(im->data + i * 3, mask.data[i] ? 225 : 30, 3);
        ok(fs_chain_run(&c, 97, 61, &rng, &im, &mask, &err));
        assert_true(im->width == 97 && im->height == 61 && mask.width == 97 && mask.height == 61);
        /* the mask lies where the picture is bright: but for half of the border's 52 pixels, which resizing may round either way */
        int64_t differ = 0;
        for (int64_t i = 0; i < 97 * 61; i++) differ += (mask.data[i] > 0) != (im->data[i * 3 + 1] > 128);
        assert_true(differ <= 26);
        fs_plane_free(&mask), fs_image_free(im);
    }
    assert_int_equal(jpeg, 60); /* every JPEG picture ends as one */
    assert_true(png >= 8 && png <= 40);
    for (int way = 1; way <= 8; way++) assert_true(ways[way] > 0); /* of 60; the seeds are fixed */
}

/* Hue and saturation: grey stays grey, no saturation is grey, a third of a turn takes red to green to blue. */
static void tints(void **state) {
    (void)state;
    fs_image *im;
    ok(fs_image_create(3, 1, &im, &err));
    static const uint8_t before[9] = {90, 90, 90, 200, 100, 100, 10, 120, 70};
    memcpy(im->data, before, 9);
    fs_filter_tint(im, 0, 1);
    assert_memory_equal(im->data, before, 9);
    fs_filter_tint(im, 2 * M_PI / 3, 1);
    assert_memory_equal(im->data, before, 3);
    assert_true(im->data[4] > im->data[3] + 90 && abs(im->data[3] - im->data[5]) <= 1); /* light keeps to itself: not just 100, 200, 100 */
    memcpy(im->data, before, 9);
    fs_filter_tint(im, 1, 0);
    for (int i = 0; i < 9; i++) assert_in_range(im->data[i], i < 3 ? 90 : i < 6 ? 129 : 81, i < 3 ? 90 : i < 6 ? 130 : 82); /* luma */
    fs_image_free(im);
}

static int by_value(const void *a, const void *b) { return *(const uint8_t *)a - *(const uint8_t *)b; }

static void medians(void **state) {
    (void)state;
    fs_rng rng = fs_rng_seed(8);
    for (int round = 0; round < 40; round++) {
        const int64_t w = 1 + fs_dice_below(&rng, 24), h = 1 + fs_dice_below(&rng, 24), r = 1 + fs_dice_below(&rng, 4);
        fs_image *im = image_of(w, h, ramp), *got;
        uint8_t where[24 * 24];
        for (int64_t i = 0; i < w * h * 3; i++) im->data[i] = (uint8_t)fs_dice_below(&rng, round % 2 ? 256 : 7);
        for (int64_t i = 0; i < w * h; i++) where[i] = fs_dice_below(&rng, 3) > 0;
        ok(fs_image_crop(im, 0, 0, w, h, &got, &err));
        ok(fs_filter_median(got, (int)r, where, &err));
        for (int64_t i = 0; i < w * h * 3; i++) {
            uint8_t v[81];
            size_t n = 0;
            const int64_t x = i / 3 % w, y = i / 3 / w;
            for (int64_t j = fs_max_i64(y - r, 0); j <= fs_min_i64(y + r, h - 1); j++)
                for (int64_t k = fs_max_i64(x - r, 0); k <= fs_min_i64(x + r, w - 1); k++) v[n++] = im->data[(j * w + k) * 3 + i % 3];
            qsort(v, n, 1, by_value);
            assert_int_equal(got->data[i], where[i / 3] ? v[n / 2] : im->data[i]);
        }
        fs_image_free(im);
        fs_image_free(got);
    }
}

static void filters(void **state) {
    (void)state;
    fs_image *im = image_of(64, 64, level_80), *wide = image_of(64, 64, ramp);
    ok(fs_filter_gauss(im, 2, &err));
    for (int64_t i = 0; i < 64 * 64 * 3; i++) assert_in_range(im->data[i], 80, 81);
    fs_rng rng = fs_rng_seed(3);
    fs_filter_noise(im, 4, true, &rng);
    double sum = 0, square = 0;
    for (int64_t i = 0; i < 64 * 64; i++) {
        assert_int_equal(im->data[i * 3], im->data[i * 3 + 1] - 0);
        sum += im->data[i * 3] - 80.5, square += (im->data[i * 3] - 80.5) * (im->data[i * 3] - 80.5);
    }
    assert_true(fabs(sum / 4096) < 0.7 && fabs(sqrt(square / 4096) - 4) < 0.4); /* six standard errors, and a level of rounding */
    uint8_t where[64 * 64];
    memset(where, 1, sizeof where);
    wide->data[(30 * 64 + 30) * 3 + 2] = 255; /* a speck on a constant channel */
    ok(fs_filter_median(wide, 1, where, &err));
    assert_int_equal(wide->data[(30 * 64 + 30) * 3 + 2], 100);
    ok(fs_filter_sharpen(wide, 1, 1, &err));
    assert_int_equal(wide->data[(30 * 64 + 30) * 3 + 2], 100);
    fs_image_free(im), fs_image_free(wide);
}

/* ---- words ---- */

static void words_of_a_mask(void **state) {
    (void)state;
    for (int row = 0; row < 3; row++)
        for (int column = 0; column < 3; column++) {
            fs_plane p = plane_of(90, 60, (fs_rect){30 * column + 5, 20 * row + 5, 30 * column + 25, 20 * row + 15});
            fs_mask_words w = fs_mask_words_of(p.data, 90, 60);
            assert_int_equal(w.position, row * 3 + column);
            assert_string_equal(w.position_word, fs_mask_position_word(w.position));
            assert_string_equal(w.size_word, "small"); /* 200 of 5400 */
            fs_plane_free(&p);
        }
    for (int x = 0; x < 90; x++) { /* where the thirds end, pixel by pixel */
        fs_plane p = plane_of(90, 90, (fs_rect){x, 89 - x, x + 1, 90 - x});
        assert_int_equal(fs_mask_words_of(p.data, 90, 90).position, (89 - x) / 30 * 3 + x / 30);
        fs_plane_free(&p);
    }
    static const struct {
        int pixels;
        const char *word;
    } sizes[] = {{99, "tiny"},    {100, "small"},  {399, "small"},       {400, "medium-sized"}, {1199, "medium-sized"},
                 {1200, "large"}, {2999, "large"}, {3000, "very large"}, {10000, "very large"}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fs_plane p = plane_of(100, 100, (fs_rect){0});
        for (int k = 0; k < sizes[i].pixels; k++) p.data[k] = 255;
        assert_string_equal(fs_mask_words_of(p.data, 100, 100).size_word, sizes[i].word);
        fs_plane_free(&p);
    }
    fs_plane none = plane_of(10, 10, (fs_rect){0});
    fs_mask_words w = fs_mask_words_of(none.data, 10, 10);
    assert_true(w.position == -1 && w.size == -1 && !*w.position_word && !*w.size_word);
    fs_plane_free(&none);
    /* the mean on a border belongs to the lower and right third: pixels 0..5 of 9, mean 3.0 */
    fs_plane p = plane_of(9, 9, (fs_rect){0, 0, 6, 6});
    assert_int_equal(fs_mask_words_of(p.data, 9, 9).position, 4);
    fs_plane_free(&p);
}

static void words_are_read(void **state) {
    (void)state;
    static const struct {
        const char *text;
        int position, size;
    } cases[] = {
        {"a very large dog in the upper left of the picture", 0, 4},
        {"A Medium-Sized thing at the Center of it", 4, 2},
        {"It is small and lies in the lower middle, not in the upper right", 7, 1},
        {"largely smaller, centered, uppermost left", -1, -1},
        {"middle right.", 5, -1},
        {"", -1, -1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int position, size;
        fs_mask_words_read(cases[i].text, &position, &size);
        assert_int_equal(position, cases[i].position);
        assert_int_equal(size, cases[i].size);
    }
    for (int i = 0; i < FS_MASK_POSITIONS; i++)
        for (int k = 0; k < FS_MASK_SIZES; k++) {
            char *text = fs_format("the %s region, %s of the image", fs_mask_size_word(k), fs_mask_position_word(i));
            int position, size;
            fs_mask_words_read(text, &position, &size);
            assert_true(position == i && size == k);
            free(text);
        }
}

/* ---- the grammar ---- */

static fs_status open_texts(const char *json, fs_texts **out) {
    char *dir = work_folder(), *path = join(dir, "texts.json");
    put_text(dir, "texts.json", json);
    fs_status status = fs_texts_open(path, out, &err);
    free(path);
    remove_folder(dir);
    return status;
}

static void expands_rules(void **state) {
    (void)state;
    fs_texts *t;
    ok(open_texts(
        "{\"rules\": {\"tampered\": [\"[what/{region}], {size}. it is {a_what} at {percent}. [cues]\"], \"authentic\": [\"fine\"],"
        "\"what/object\": [\"a [thing]\"], \"thing\": [\"{what}\"], \"cue/one\": [\"one.\"], \"cue/two\": [\"two: {type}.\"]}}",
        &t));
    fs_facts f = {.type = "splice",
                  .what = "owl",
                  .region = "object",
                  .words = {.position_word = "center", .size_word = "small", .area = 0.034},
                  .cues = {"one", "two"},
                  .n_cues = 2};
    fs_rng rng = fs_rng_seed(0);
    char *text = NULL;
    ok(fs_texts_answer(t, &f, true, &rng, &text, &err));
    assert_string_equal(text, "A owl, small. It is an owl at 3. One. Two: splice.");
    free(text);
    f.region = "area"; /* the name of a rule with a fact in it can only be looked up now */
    assert_int_equal(fs_texts_answer(t, &f, true, &rng, &text, &err), FS_E_FORMAT);
    assert_non_null(strstr(err.message, "what/area"));
    fs_texts_close(t);
}

static void refuses_bad_grammars(void **state) {
    (void)state;
    static const struct {
        const char *json, *words;
    } cases[] = {
        {"{", "JSON"},
        {"{}", "\"rules\" is missing"},
        {"{\"rules\": {\"tampered\": [\"x\"]}}", "\"authentic\" is missing"},
        {"{\"rules\": {\"tampered\": [], \"authentic\": [\"x\"]}}", "not a list of alternatives"},
        {"{\"rules\": {\"tampered\": [1], \"authentic\": [\"x\"]}}", "not text"},
        {"{\"rules\": {\"tampered\": [\"[nowhere]\"], \"authentic\": [\"x\"]}}", "[nowhere]"},
        {"{\"rules\": {\"tampered\": [\"[open\"], \"authentic\": [\"x\"]}}", "not closed"},
        {"{\"rules\": {\"tampered\": [\"close}\"], \"authentic\": [\"x\"]}}", "closing"},
        {"{\"rules\": {\"tampered\": [\"{color}\"], \"authentic\": [\"x\"]}}", "{color} is no fact"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fs_texts *t = NULL;
        err.message[0] = '\0';
        assert_int_equal(open_texts(cases[i].json, &t), FS_E_FORMAT);
        assert_null(t);
        if (!strstr(err.message, cases[i].words)) fail_msg("\"%s\" lacks \"%s\"", err.message, cases[i].words);
    }
    /* a rule that names itself ends with an error, and so does one that grows without bound, with text or without */
    static const char *const endless[] = {
        "{\"rules\": {\"tampered\": [\"[tampered]\"], \"authentic\": [\"x\"]}}",
        "{\"rules\": {\"tampered\": [\"[a][a][a][a]\"], \"authentic\": [\"x\"], \"a\": [\"[b][b][b][b]\"], \"b\": [\"[c][c][c][c][c][c]\"],"
        "\"c\": [\"[d][d][d][d][d][d][d]\"], \"d\": [\"many words stand here, and more of them, again and again\"]}}",
        "{\"rules\": {\"tampered\": [\"[a][a][a][a][a][a][a][a]\"], \"authentic\": [\"x\"], \"a\": [\"[b][b][b][b][b][b][b][b]\"],"
        "\"b\": [\"[c][c][c][c][c][c][c][c]\"], \"c\": [\"[d][d][d][d][d][d][d][d]\"], \"d\": [\"[e][e][e][e]\"], \"e\": [\"\"]}}"};
    for (int i = 0; i < 3; i++) {
        fs_texts *t = NULL;
        char *text = NULL;
        fs_facts f = {.type = "splice", .region = "region", .words = {.position_word = "", .size_word = ""}};
        fs_rng rng = fs_rng_seed(0);
        ok(open_texts(endless[i], &t));
        assert_int_equal(fs_texts_answer(t, &f, true, &rng, &text, &err), FS_E_LIMIT);
        fs_texts_close(t);
    }
}

/* Every cue that the code can name has a rule in the built-in texts, and every type an area. */
static void built_in_texts_are_whole(void **state) {
    (void)state;
    static const char *const cues[] = {
        "edge-hard",        "edge-soft",        "edge-any",  "light-brighter", "light-darker", "color-foreign",
        "grain-more",       "grain-less",       "resampled", "perspective",    "duplicate",    "duplicate-mirrored",
        "duplicate-turned", "duplicate-scaled", "fill",      "fill-soft",      "fill-repeat",  "hue",
        "saturation",       "brightness",       "contrast",  "color-border",   "blurred",      "smoothed",
        "pixelated",        "enlarged",         "warped",    "coarse",         "retouched",    "texture-any",
        "statistics"};
    fs_texts *t;
    fs_rng rng = fs_rng_seed(0);
    ok(fs_texts_open(NULL, &t, &err));
    for (int type = 1; type < FS_FORGE_TYPES; type++)
        for (size_t i = 0; i < sizeof cues / sizeof *cues; i++) {
            fs_facts f = {.type = fs_forge_type_name((fs_forge_type)type),
                          .region = "region",
                          .words = {.position_word = "center", .size_word = "small"},
                          .cues = {cues[i]},
                          .n_cues = 1};
            char *text = NULL;
            ok(fs_texts_answer(t, &f, true, &rng, &text, &err));
            assert_null(strstr(text, "has not been tampered with"));
            free(text);
        }
    fs_texts_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planes),
        cmocka_unit_test(planes_by_definition),
        cmocka_unit_test(planes_are_resized),
        cmocka_unit_test(turning),
        cmocka_unit_test(places),
        cmocka_unit_test(poisson_takes_off_a_constant),
        cmocka_unit_test(pasting_is_cut_at_the_edges),
        cmocka_unit_test(matching),
        cmocka_unit_test(outlines_are_refined),
        cmocka_unit_test(cues_are_what_is_there),
        cmocka_unit_test(fills_a_pattern),
        cmocka_unit_test(fills_along_an_edge),
        cmocka_unit_test(fills_odd_holes),
        cmocka_unit_test(superpixels_follow_edges),
        cmocka_unit_test(chains_end_at_their_size),
        cmocka_unit_test(tints),
        cmocka_unit_test(filters),
        cmocka_unit_test(medians),
        cmocka_unit_test(words_of_a_mask),
        cmocka_unit_test(words_are_read),
        cmocka_unit_test(expands_rules),
        cmocka_unit_test(refuses_bad_grammars),
        cmocka_unit_test(built_in_texts_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
