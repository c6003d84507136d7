/* Filling a hole from elsewhere in the picture, as "content-aware fill" does: the hole is filled so that each small patch in it is found
 * outside (Wexler, Shechtman, Irani, "Space-time completion of video", 2007), the nearest patches are searched by PatchMatch (Barnes et al.
 * 2009), from a coarse picture to the full one. Colours are weighted means of what the overlapping patches say, patches near the hole's
 * border counting more (Newson et al., "Video inpainting of complex scenes", 2014), and in the last step what the best patch says alone,
 * which keeps the grain.
 *
 * A library's inpainting was no choice: Debian's OpenCV has Telea's and Navier-Stokes methods, which smear what is wider than a few pixels.
 */
#include <stdlib.h>
#include <string.h>

#include "data/forge_work.h"

enum { R = 3, PATCH = 2 * R + 1, MAX_LEVELS = 8, WINDOW_MARGIN = 72 };

/* One resolution. Targets are the patches that touch the hole, candidates those that do not. */
typedef struct level {
    int64_t w, h;
    uint8_t *rgb;
    uint8_t *hole;   /* 1 = to be filled */
    uint8_t *target; /* 1: the patch around this pixel touches the hole */
    uint8_t *source; /* 1: it lies in the picture and does not */
    uint16_t *depth; /* of hole pixels: distance to the border, times 5 */
    int32_t *match;  /* of targets: index of the best source's center */
    uint32_t *cost;  /* and its squared difference */
    int64_t *targets, n_targets, *sources, n_sources;
    float *known; /* of what is no hole: colours and 1 */
} level;

static void level_free(level *l) {
    free(l->rgb), free(l->hole), free(l->target), free(l->source), free(l->depth), free(l->match), free(l->cost), free(l->targets),
        free(l->sources), free(l->known);
    *l = (level){0};
}

static bool level_create(level *l, int64_t w, int64_t h) {
    size_t n = (size_t)(w * h);
    *l = (level){.w = w,
                 .h = h,
                 .rgb = fs_alloc_zero(n, 3),
                 .hole = fs_alloc_zero(n, 1),
                 .target = fs_alloc_zero(n, 1),
                 .source = fs_alloc_zero(n, 1),
                 .depth = fs_alloc_zero(n, 2),
                 .match = fs_alloc_zero(n, 4),
                 .cost = fs_alloc_zero(n, 4),
                 .targets = fs_alloc(n, 8),
                 .sources = fs_alloc(n, 8)};
    return l->rgb && l->hole && l->target && l->source && l->depth && l->match && l->cost && l->targets && l->sources;
}

/* Which patches touch the hole: a box sum in two passes would be faster, but holes are small. */
static void classify(level *l) {
    for (int64_t y = 0; y < l->h; y++)
        for (int64_t x = 0; x < l->w; x++) {
            if (!l->hole[y * l->w + x]) continue;
            for (int64_t j = fs_max_i64(y - R, R); j <= fs_min_i64(y + R, l->h - 1 - R); j++)
                for (int64_t i = fs_max_i64(x - R, R); i <= fs_min_i64(x + R, l->w - 1 - R); i++) l->target[j * l->w + i] = 1;
        }
    l->n_targets = l->n_sources = 0;
    for (int64_t y = R; y < l->h - R; y++)
        for (int64_t x = R; x < l->w - R; x++) {
            int64_t at = y * l->w + x;
            if (l->target[at])
                l->targets[l->n_targets++] = at;
            else
                l->source[at] = 1, l->sources[l->n_sources++] = at;
        }
    for (int64_t i = 0; i < l->w * l->h; i++) l->hole[i] = l->hole[i] ? 255 : 0;
    fs_plane view = {l->w, l->h, l->hole};
    fs_plane_distance(&view, true, false, l->depth);
    for (int64_t i = 0; i < l->w * l->h; i++) l->hole[i] = l->hole[i] != 0;
}

/* Half the size: known pixels are averaged; a pixel is hole if any of its four is. */
static bool coarser(const level *f, level *c) {
    if (!level_create(c, (f->w + 1) / 2, (f->h + 1) / 2)) return false;
    for (int64_t y = 0; y < c->h; y++)
        for (int64_t x = 0; x < c->w; x++) {
            unsigned sum[3] = {0}, n = 0, to = (unsigned)(y * c->w + x);
            for (int64_t j = 2 * y; j < fs_min_i64(2 * y + 2, f->h); j++)
                for (int64_t i = 2 * x; i < fs_min_i64(2 * x + 2, f->w); i++) {
                    int64_t at = j * f->w + i;
                    if (f->hole[at]) {
                        c->hole[to] = 1;
                        continue;
                    }
                    n++;
                    for (int k = 0; k < 3; k++) sum[k] += f->rgb[at * 3 + k];
                }
            for (int k = 0; n && k < 3; k++) c->rgb[to * 3 + (unsigned)k] = (uint8_t)((sum[k] + n / 2) / n);
        }
    classify(c);
    return true;
}

/* Vectors of what every processor has, by the compilers' own extension. */
typedef uint16_t halves8 __attribute__((vector_size(16)));
typedef uint32_t words4 __attribute__((vector_size(16)));

/* Squares of eight differences, added two by two: each is at most 65025. */
static inline words4 squared(halves8 d) {
    const words4 pairs = (words4)(d * d);
    return (pairs & 0xFFFF) + (pairs >> 16);
}

/* Squared differences of 16 bytes, those left out whose byte of `counts` is 0. */
static inline words4 squares(const uint8_t *a, const uint8_t *b, halves8 counts) {
    halves8 x, y;
    memcpy(&x, a, sizeof x);
    memcpy(&y, b, sizeof y);
    x &= counts;
    y &= counts;
    return squared((x & 0xFF) - (y & 0xFF)) + squared((x >> 8) - (y >> 8));
}

/* Exact if it is less than `limit`; else something that is not less. */
static inline uint32_t patch_cost(const level *l, int64_t target, int64_t source, uint32_t limit) {
    static const uint8_t last[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255}; /* a row has 21 bytes */
    const uint8_t *a = l->rgb + (target - R * l->w - R) * 3, *b = l->rgb + (source - R * l->w - R) * 3;
    halves8 rest, all = {0};
    words4 sum = {0};
    memcpy(&rest, last, sizeof rest);
    all = ~all;
    for (int j = 0; j < PATCH; j++, a += l->w * 3, b += l->w * 3) {
        sum += squares(a, b, all) + squares(a + 5, b + 5, rest);
        if (sum[0] + sum[1] + sum[2] + sum[3] >= limit) break;
    }
    return sum[0] + sum[1] + sum[2] + sum[3];
}

/* Is (x, y) a better match? */
static bool offer(level *l, int64_t target, int64_t x, int64_t y) {
    if (x < R || y < R || x >= l->w - R || y >= l->h - R) return false;
    const int64_t source = y * l->w + x;
    if (!l->source[source] || source == l->match[target]) return false;
    const uint32_t cost = patch_cost(l, target, source, l->cost[target]);
    if (cost >= l->cost[target]) return false;
    l->cost[target] = cost;
    l->match[target] = (int32_t)source;
    return true;
}

/* One sweep: what the neighbours found, shifted; and random places around the best so far, ever nearer. Numbers fit in 32 bits, whose divisions are
 * faster. */
static void sweep(level *l, bool backward, int64_t reach, fs_rng *rng) {
    const int64_t step = backward ? -1 : 1;
    const uint32_t w = (uint32_t)l->w;
    for (int64_t n = 0; n < l->n_targets; n++) {
        const int64_t at = l->targets[backward ? l->n_targets - 1 - n : n];
        const int64_t beside[2] = {at - step, at - step * l->w};
        for (int k = 0; k < 2; k++) {
            if (beside[k] < 0 || beside[k] >= l->w * l->h || !l->target[beside[k]]) continue;
            const uint32_t found = (uint32_t)(l->match[beside[k]] + (at - beside[k]));
            offer(l, at, found % w, found / w);
        }
        int64_t x = (uint32_t)l->match[at] % w, y = (uint32_t)l->match[at] / w;
        for (uint32_t r = (uint32_t)reach; r >= 1; r /= 2) {
            const uint64_t v = fs_rng_next(rng);
            const int64_t tx = x + (uint32_t)v % (2 * r + 1) - r, ty = y + (uint32_t)(v >> 32) % (2 * r + 1) - r;
            if (offer(l, at, tx, ty)) x = tx, y = ty;
        }
    }
}

static void recost(level *l) {
    for (int64_t n = 0; n < l->n_targets; n++) l->cost[l->targets[n]] = patch_cost(l, l->targets[n], l->match[l->targets[n]], UINT32_MAX);
}

/* The cost that three quarters of the patches stay below, from a sample. */
static double typical_cost(const level *l) {
    uint32_t sample[256];
    int n = 0;
    int64_t step = l->n_targets / 256 + 1;
    for (int64_t i = 0; i < l->n_targets && n < 256; i += step) {
        uint32_t c = l->cost[l->targets[i]];
        int k = n++;
        for (; k > 0 && sample[k - 1] > c; k--) sample[k] = sample[k - 1];
        sample[k] = c;
    }
    return n ? fmax(sample[n * 3 / 4], 50) : 50;
}

/* How much a patch counts for its depth: known ground counts more, 1.3 per pixel, the patch's center standing for it. */
static double depth_weight(uint16_t depth) { return pow(1.3, -(double)depth / 5.0); }

/* The same of every depth there is below `room`. */
static void depth_weights(const level *l, int room, double *out) {
    int deepest = 0;
    for (int64_t n = 0; n < l->n_targets; n++)
        if (l->depth[l->targets[n]] > deepest) deepest = l->depth[l->targets[n]];
    for (int i = 0; i < room && i <= deepest; i++) out[i] = depth_weight((uint16_t)i);
}

/* The patch that a target was matched with says what the pixels of its own are: sum [pixels][4] += weight times colours and 1. What is said of pixels that are
 * known is not listened to. */
static void say_all(const level *l, int64_t at, int64_t from, float weight, float *sum) {
    for (int64_t j = -R; j <= R; j++) {
        float *restrict to = sum + (at + j * l->w - R) * 4;
        const float *restrict p = l->known + (from + j * l->w - R) * 4;
        for (int i = 0; i < PATCH * 4; i++) to[i] += weight * p[i];
    }
}

/* The same, but the surest word alone is kept. */
static void say_best(const level *l, int64_t at, int64_t from, float weight, float *sum) {
    for (int64_t j = -R; j <= R; j++)
        for (int64_t i = -R; i <= R; i++) {
            const int64_t to = at + j * l->w + i;
            if (!l->hole[to]) continue;
            const uint8_t *p = l->rgb + (from + j * l->w + i) * 3;
            const float w = weight / (float)(1 + i * i + j * j); /* the center of a patch is its surest pixel */
            float *s = sum + to * 4;
            if (w > s[3]) s[0] = p[0], s[1] = p[1], s[2] = p[2], s[3] = w;
        }
}

/* New colours of the hole from the patches over each pixel. best_only: what the likeliest says. */
static bool vote(level *l, bool best_only) {
    enum { TABLE = 2048 };
    double by_depth[TABLE];
    float *sum = fs_alloc_zero((size_t)(l->w * l->h), 4 * sizeof *sum);
    if (!sum) return false;
    const double typical = typical_cost(l);
    depth_weights(l, TABLE, by_depth);
    for (int64_t n = 0; n < l->n_targets; n++) {
        const int64_t at = l->targets[n], from = l->match[at];
        const double deep = l->depth[at] < TABLE ? by_depth[l->depth[at]] : depth_weight(l->depth[at]);
        const float weight = (float)(exp(-(double)l->cost[at] / (2 * typical)) * deep) + 1e-20f;
        if (best_only) say_best(l, at, from, weight, sum);
        else say_all(l, at, from, weight, sum);
    }
    for (int64_t i = 0; i < l->w * l->h; i++) {
        const float *s = sum + i * 4;
        if (!l->hole[i] || s[3] <= 0) continue;
        for (int c = 0; c < 3; c++) l->rgb[i * 3 + c] = fs_clip8(best_only ? s[c] : s[c] / s[3]);
    }
    free(sum);
    return true;
}

/* A first filling: from the border inward, each pixel the mean of its known neighbours. */
static bool peel(level *l) {
    size_t n = (size_t)(l->w * l->h);
    uint8_t *open = fs_alloc(n, 1), *ring = fs_alloc(n, 1);
    bool ok = open && ring, more = ok;
    if (ok) memcpy(open, l->hole, n);
    while (more) {
        more = false;
        memset(ring, 0, n);
        for (int64_t y = 0; y < l->h; y++)
            for (int64_t x = 0; x < l->w; x++) {
                if (!open[y * l->w + x]) continue;
                unsigned sum[3] = {0}, count = 0;
                for (int64_t j = fs_max_i64(y - 1, 0); j <= fs_min_i64(y + 1, l->h - 1); j++)
                    for (int64_t i = fs_max_i64(x - 1, 0); i <= fs_min_i64(x + 1, l->w - 1); i++) {
                        if (open[j * l->w + i]) continue;
                        count++;
                        for (int c = 0; c < 3; c++) sum[c] += l->rgb[(j * l->w + i) * 3 + c];
                    }
                if (!count) continue;
                for (int c = 0; c < 3; c++) l->rgb[(y * l->w + x) * 3 + c] = (uint8_t)((sum[c] + count / 2) / count);
                ring[y * l->w + x] = 1;
                more = true;
            }
        for (size_t i = 0; i < n; i++)
            if (ring[i]) open[i] = 0;
    }
    free(open);
    free(ring);
    return ok;
}

/* Matches of the coarser level, twice as large; where they do not fit, a random source. */
static void match_from(level *l, const level *coarse, fs_rng *rng) {
    for (int64_t n = 0; n < l->n_targets; n++) {
        int64_t at = l->targets[n], x = at % l->w, y = at / l->w, found = -1;
        if (coarse) {
            int64_t cx = fs_min_i64(fs_max_i64(x / 2, R), coarse->w - 1 - R), cy = fs_min_i64(fs_max_i64(y / 2, R), coarse->h - 1 - R),
                    from = cy * coarse->w + cx;
            if (coarse->target[from]) {
                int64_t sx = coarse->match[from] % coarse->w * 2 + x - 2 * cx, sy = coarse->match[from] / coarse->w * 2 + y - 2 * cy;
                if (sx >= R && sy >= R && sx < l->w - R && sy < l->h - R && l->source[sy * l->w + sx]) found = sy * l->w + sx;
            }
        }
        if (found < 0) found = l->sources[fs_dice_below(rng, l->n_sources)];
        l->match[at] = (int32_t)found;
    }
}

static bool run_level(level *l, const level *coarse, bool finest, fs_rng *rng) {
    int rounds = coarse ? (l->n_targets > 60000 ? 2 : 3) : 8;
    int64_t reach = coarse ? 24 : fs_max_i64(l->w, l->h);
    bool ok = true;
    l->known = fs_alloc((size_t)(l->w * l->h), 4 * sizeof *l->known);
    if (!l->known) return false;
    for (int64_t i = 0; i < l->w * l->h; i++)
        for (int c = 0; c < 4; c++) l->known[i * 4 + c] = c < 3 ? l->rgb[i * 3 + c] : 1;
    match_from(l, coarse, rng);
    if (!coarse)
        ok = peel(l);
    else
        ok = vote(l, false); /* costs are 0 yet: all patches count alike */
    for (int i = 0; ok && i < rounds; i++) {
        recost(l);
        sweep(l, false, reach, rng);
        sweep(l, true, reach, rng);
        ok = vote(l, finest && i == rounds - 1);
    }
    return ok;
}

static bool solve(level *l, int depth, bool finest, fs_rng *rng) {
    level c = {0};
    uint16_t deepest = 0;
    for (int64_t i = 0; i < l->w * l->h; i++)
        if (l->hole[i] && l->depth[i] < 60000 && l->depth[i] > deepest) deepest = l->depth[i];
    bool deeper = deepest > 5 * R && depth < MAX_LEVELS && fs_min_i64(l->w, l->h) >= 12 * R, ok = true;
    if (deeper) {
        ok = coarser(l, &c);
        deeper = ok && c.n_sources > 40 && c.n_targets > 0;
        if (deeper) ok = solve(&c, depth + 1, false, rng);
    }
    if (ok) ok = run_level(l, deeper ? &c : NULL, finest, rng);
    level_free(&c);
    return ok;
}

fs_status fs_inpaint(fs_image *im, const fs_plane *hole, fs_rng *rng, fs_error *err) {
    fs_rect r = fs_plane_box(hole);
    if (r.x1 == r.x0) return FS_OK;
    int64_t margin = fs_max_i64(WINDOW_MARGIN, fs_max_i64(r.x1 - r.x0, r.y1 - r.y0));
    r = (fs_rect){fs_max_i64(r.x0 - margin, 0), fs_max_i64(r.y0 - margin, 0), fs_min_i64(r.x1 + margin, im->width),
                  fs_min_i64(r.y1 + margin, im->height)};
    level l;
    bool ok = level_create(&l, r.x1 - r.x0, r.y1 - r.y0) && l.w * l.h < INT32_MAX;
    for (int64_t y = 0; ok && y < l.h; y++)
        for (int64_t x = 0; x < l.w; x++) {
            int64_t from = (y + r.y0) * im->width + x + r.x0;
            memcpy(l.rgb + (y * l.w + x) * 3, im->data + from * 3, 3);
            l.hole[y * l.w + x] = hole->data[from] >= 128;
        }
    if (ok) classify(&l);
    if (ok && l.n_targets && l.n_sources > 40) {
        ok = solve(&l, 0, true, rng);
        for (int64_t y = 0; ok && y < l.h; y++)
            for (int64_t x = 0; x < l.w; x++)
                if (l.hole[y * l.w + x]) memcpy(im->data + ((y + r.y0) * im->width + x + r.x0) * 3, l.rgb + (y * l.w + x) * 3, 3);
    }
    level_free(&l);
    return ok ? FS_OK
              : fs_fail(err, FS_E_NO_MEMORY, "no memory to fill a hole in a picture of %lld x %lld pixels", (long long)im->width,
                        (long long)im->height);
}
