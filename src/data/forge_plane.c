/* Planes: masks and alphas. Growing and feathering go by distance (two-pass chamfer transform, Borgefors 1986), so that outlines keep their
 * form. */
#include "data/forge_plane.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { UNIT = 5, DIAGONAL = 7, FAR = 60000 };

fs_status fs_plane_create(int64_t width, int64_t height, fs_plane *out, fs_error *err) {
    size_t bytes;
    *out = (fs_plane){0};
    if (width < 1 || height < 1 || !fs_mul_size((size_t)width, (size_t)height, &bytes))
        return fs_fail(err, FS_E_INTERNAL, "a mask of %lld x %lld pixels cannot be made", (long long)width, (long long)height);
    uint8_t *data = fs_alloc_zero(bytes, 1);
    if (!data) return fs_fail(err, FS_E_NO_MEMORY, "no memory for a mask of %lld x %lld pixels", (long long)width, (long long)height);
    *out = (fs_plane){width, height, data};
    return FS_OK;
}

void fs_plane_free(fs_plane *p) {
    free(p->data);
    *p = (fs_plane){0};
}

fs_status fs_plane_copy(const fs_plane *in, fs_plane *out, fs_error *err) {
    fs_status status = fs_plane_create(in->width, in->height, out, err);
    if (!status) memcpy(out->data, in->data, (size_t)(in->width * in->height));
    return status;
}

fs_status fs_plane_crop(const fs_plane *in, fs_rect r, fs_plane *out, fs_error *err) {
    fs_status status = fs_plane_create(r.x1 - r.x0, r.y1 - r.y0, out, err);
    for (int64_t y = r.y0; !status && y < r.y1; y++)
        memcpy(out->data + (y - r.y0) * out->width, in->data + y * in->width + r.x0, (size_t)out->width);
    return status;
}

int64_t fs_plane_count(const fs_plane *p) {
    int64_t n = 0;
    for (int64_t i = 0; i < p->width * p->height; i++) n += p->data[i] >= 128;
    return n;
}

fs_rect fs_plane_box(const fs_plane *p) {
    fs_rect r = {p->width, p->height, 0, 0};
    for (int64_t y = 0; y < p->height; y++) {
        const uint8_t *line = p->data + y * p->width;
        uint8_t any = 0;
        int64_t first = 0, end = p->width;
        for (int64_t x = 0; x < p->width; x++) any |= line[x];
        if (!any) continue;
        while (!line[first]) first++;
        while (!line[end - 1]) end--;
        r.x0 = fs_min_i64(r.x0, first);
        r.x1 = fs_max_i64(r.x1, end);
        r.y0 = fs_min_i64(r.y0, y);
        r.y1 = y + 1;
    }
    return r.x1 > r.x0 ? r : (fs_rect){0};
}

void fs_plane_threshold(fs_plane *p, int level) {
    for (int64_t i = 0; i < p->width * p->height; i++) p->data[i] = p->data[i] >= level ? 255 : 0;
}

/* One line of a pass: what the line gone through before says (NULL: there is none), and `beyond` for all that lies outside the plane. */
static void meet_line(const uint16_t *restrict before, uint16_t beyond, int64_t w, uint16_t *restrict d) {
    if (!before) {
        for (int64_t x = 0; x < w; x++) d[x] = d[x] < beyond + UNIT ? d[x] : (uint16_t)(beyond + UNIT);
        return;
    }
    const uint16_t left = d[0], right = d[w - 1];
    for (int64_t x = 1; x < w - 1; x++) { /* made into vectors by compilers */
        const uint16_t a = (uint16_t)(before[x] + UNIT), b = before[x - 1] < before[x + 1] ? before[x - 1] : before[x + 1], c = (uint16_t)(b + DIAGONAL);
        const uint16_t near = a < c ? a : c;
        d[x] = d[x] < near ? d[x] : near;
    }
    const int64_t last = w - 1;
    unsigned l = left, r = right;
    const unsigned l_near[3] = {before[0] + UNIT, beyond + DIAGONAL, w > 1 ? before[1] + DIAGONAL : FAR};
    const unsigned r_near[3] = {before[last] + UNIT, beyond + DIAGONAL, w > 1 ? before[last - 1] + DIAGONAL : FAR};
    for (int k = 0; k < 3; k++) {
        l = l_near[k] < l ? l_near[k] : l;
        r = r_near[k] < r ? r_near[k] : r;
    }
    d[last] = (uint16_t)r;
    d[0] = (uint16_t)(w > 1 || l < r ? l : r);
}

/* The distance is 0 on pixels that are not asked about, so a minimum never changes them. */
void fs_plane_distance(const fs_plane *p, bool inside, bool outside_counts, uint16_t *d) {
    const int64_t w = p->width, h = p->height;
    const uint16_t beyond = outside_counts ? 0 : FAR, low = inside ? 0 : FAR, high = inside ? FAR : 0;
    for (int64_t i = 0; i < w * h; i++) d[i] = p->data[i] >= 128 ? high : low;
    for (int64_t y = 0; y < h; y++) {
        uint16_t *line = d + y * w;
        meet_line(y ? line - w : NULL, beyond, w, line);
        unsigned near = beyond;
        for (int64_t x = 0; x < w; x++) {
            near = near + UNIT < line[x] ? near + UNIT : line[x];
            line[x] = (uint16_t)near;
        }
    }
    for (int64_t y = h - 1; y >= 0; y--) {
        uint16_t *line = d + y * w;
        meet_line(y + 1 < h ? line + w : NULL, beyond, w, line);
        unsigned near = beyond;
        for (int64_t x = w - 1; x >= 0; x--) {
            near = near + UNIT < line[x] ? near + UNIT : line[x];
            line[x] = (uint16_t)near;
        }
    }
}

static fs_status distance_of(const fs_plane *p, bool inside, uint16_t **out, fs_error *err) {
    uint16_t *d = fs_alloc((size_t)(p->width * p->height), sizeof *d);
    if (!d) return fs_fail(err, FS_E_NO_MEMORY, "no memory for a mask of %lld x %lld pixels", (long long)p->width, (long long)p->height);
    fs_plane_distance(p, inside, false, d);
    *out = d;
    return FS_OK;
}

fs_status fs_plane_grow(fs_plane *p, double pixels, fs_error *err) {
    uint16_t *d = NULL;
    bool outward = pixels > 0;
    fs_status status = distance_of(p, !outward, &d, err);
    if (status) return status;
    const unsigned limit = (unsigned)fmin(fabs(pixels) * UNIT, UINT16_MAX);
    const uint8_t value = outward ? 255 : 0;
    for (int64_t i = 0; i < p->width * p->height; i++) p->data[i] = d[i] && d[i] <= limit ? value : p->data[i];
    free(d);
    return FS_OK;
}

fs_status fs_plane_feather(fs_plane *p, double pixels, fs_error *err) {
    uint16_t *d = NULL;
    fs_status status = distance_of(p, true, &d, err);
    if (status) return status;
    const double solid = UNIT * (pixels + 1) + 1; /* 1 from `pixels` inside on */
    for (int64_t i = 0; i < p->width * p->height; i++) {
        double t = 1;
        if (d[i] < solid) t = d[i] / (double)UNIT / (pixels + 1);
        if (t > 1) t = 1;
        p->data[i] = !d[i] ? 0 : t < 1 ? (uint8_t)lrint(255 * t * t * (3 - 2 * t)) : 255;
    }
    free(d);
    return FS_OK;
}

/* Averages over 2 radius + 1 pixels, the ends repeated, rounded: n / width as (n * inverse) >> 32, which is exact while n * width < 2^32. */
typedef struct box_mean { int64_t radius; uint64_t width, inverse; } box_mean;
enum { MAX_BOX = 4095 };

static uint8_t mean_of(const box_mean *b, uint32_t sum) { return (uint8_t)((sum + b->width / 2) * b->inverse >> 32); }

static void blur_row(const box_mean *b, const uint8_t *line, int64_t n, uint8_t *out) {
    uint32_t sum = 0;
    for (int64_t i = -b->radius; i <= b->radius; i++) sum += line[fs_min_i64(fs_max_i64(i, 0), n - 1)];
    for (int64_t i = 0; i < n; i++) {
        out[i] = mean_of(b, sum);
        sum = sum + line[fs_min_i64(i + b->radius + 1, n - 1)] - line[fs_max_i64(i - b->radius, 0)];
    }
}

/* All columns side by side. sum: scratch of one line */
static void blur_columns(const box_mean *b, const uint8_t *in, int64_t w, int64_t h, uint32_t *restrict sum, uint8_t *restrict out) {
    memset(sum, 0, (size_t)w * sizeof *sum);
    for (int64_t i = -b->radius; i <= b->radius; i++) {
        const uint8_t *line = in + fs_min_i64(fs_max_i64(i, 0), h - 1) * w;
        for (int64_t x = 0; x < w; x++) sum[x] += line[x];
    }
    for (int64_t y = 0; y < h; y++) {
        const uint8_t *next = in + fs_min_i64(y + b->radius + 1, h - 1) * w, *gone = in + fs_max_i64(y - b->radius, 0) * w;
        for (int64_t x = 0; x < w; x++) out[y * w + x] = mean_of(b, sum[x]);
        for (int64_t x = 0; x < w; x++) sum[x] += (uint32_t)(next[x] - gone[x]);
    }
}

fs_status fs_plane_blur(fs_plane *p, int radius, fs_error *err) {
    if (radius < 1) return FS_OK;
    const int64_t w = p->width, h = p->height, r = fs_min_i64(radius, (MAX_BOX - 1) / 2);
    const box_mean b = {r, (uint64_t)(2 * r + 1), ((uint64_t)1 << 32) / (uint64_t)(2 * r + 1) + 1};
    uint8_t *rows = fs_alloc((size_t)(w * h), 1);
    uint32_t *sum = fs_alloc((size_t)w, sizeof *sum);
    for (int pass = 0; rows && sum && pass < 2; pass++) {
        for (int64_t y = 0; y < h; y++) blur_row(&b, p->data + y * w, w, rows + y * w);
        blur_columns(&b, rows, w, h, sum, p->data);
    }
    const bool ok = rows && sum;
    free(rows);
    free(sum);
    return ok ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "no memory to blur a mask");
}

/* ---- regions: pixels of one value that touch, corners included ---- */

/* Pixels [x0, x1) of a line. parent: of the region's runs one that comes before it, the first of them being its own; of the first one count and whether
 * the region reaches the plane's edge. */
typedef struct run { int32_t x0, x1, y, parent; int64_t count; uint8_t value; bool edge; } run;
typedef struct regions { run *runs; int32_t n, room; } regions;

static int32_t first_of(run *runs, int32_t i) {
    while (runs[i].parent != i) i = runs[i].parent = runs[runs[i].parent].parent;
    return i;
}

/* Runs a and b are of one region. */
static void join(run *runs, int32_t a, int32_t b) {
    a = first_of(runs, a);
    b = first_of(runs, b);
    if (a == b) return;
    const int32_t first = a < b ? a : b, second = a < b ? b : a;
    runs[second].parent = first;
    runs[first].count += runs[second].count;
    runs[first].edge |= runs[second].edge;
}

/* The next run of a line from x on, of zeros or of anything but zeros. */
static bool next_run(const uint8_t *line, int64_t w, bool zeros, int64_t *x, int64_t *end) {
    while (*x < w && (line[*x] == 0) != zeros) ++*x;
    for (*end = *x; *end < w && line[*end] == line[*x]; ++*end) {}
    return *x < w;
}

static bool add_run(regions *r, run one) {
    if (r->n == r->room) {
        if (r->room > INT32_MAX / 2) return false;
        run *more = realloc(r->runs, (size_t)(r->room ? 2 * r->room : 1024) * sizeof *more);
        if (!more) return false;
        r->runs = more;
        r->room = r->room ? 2 * r->room : 1024;
    }
    one.parent = r->n;
    r->runs[r->n++] = one;
    return true;
}

/* The regions of zeros, or of each other value. Freed by the caller, also after a failure. */
static fs_status find_regions(const fs_plane *p, bool zeros, regions *out, fs_error *err) {
    const int64_t w = p->width, h = p->height;
    bool ok = w < INT32_MAX && h < INT32_MAX;
    *out = (regions){0};
    for (int64_t y = 0, above = 0; ok && y < h; y++) {
        const int32_t begin = out->n;
        int32_t meets = (int32_t)above; /* of the line above the first run that can touch this one */
        for (int64_t x = 0, end; ok && next_run(p->data + y * w, w, zeros, &x, &end); x = end) {
            const bool edge = x == 0 || y == 0 || end == w || y == h - 1;
            ok = add_run(out, (run){.x0 = (int32_t)x, .x1 = (int32_t)end, .y = (int32_t)y, .count = end - x, .value = p->data[y * w + x], .edge = edge});
            if (!ok) break;
            while (meets < begin && out->runs[meets].x1 < x) meets++;
            for (int32_t k = meets; k < begin && out->runs[k].x0 <= end; k++)
                if (out->runs[k].value == p->data[y * w + x]) join(out->runs, k, out->n - 1);
        }
        above = begin;
    }
    return ok ? FS_OK
              : fs_fail(err, FS_E_NO_MEMORY, "no memory for the regions of a mask of %lld x %lld pixels", (long long)w, (long long)h);
}

static void paint(fs_plane *p, const run *r) { memset(p->data + r->y * p->width + r->x0, 255, (size_t)(r->x1 - r->x0)); }

fs_status fs_plane_fill_holes(fs_plane *p, int64_t pixels, fs_error *err) {
    regions r;
    fs_status status = find_regions(p, true, &r, err);
    for (int32_t i = 0; !status && i < r.n; i++) {
        const run *first = &r.runs[first_of(r.runs, i)];
        if (!first->edge && first->count < pixels) paint(p, &r.runs[i]);
    }
    free(r.runs);
    return status;
}

fs_status fs_plane_keep_largest(fs_plane *p, fs_error *err) {
    regions r;
    fs_status status = find_regions(p, false, &r, err);
    int32_t best = -1;
    for (int32_t i = 0; !status && i < r.n; i++)
        if (r.runs[i].parent == i && (best < 0 || r.runs[i].count > r.runs[best].count)) best = i;
    if (best >= 0) {
        memset(p->data, 0, (size_t)(p->width * p->height));
        for (int32_t i = best; i < r.n; i++)
            if (first_of(r.runs, i) == best) paint(p, &r.runs[i]);
    }
    free(r.runs);
    return status;
}

/* One axis of a resize: out sample i sees in samples of [center - half, center + half), triangle weights when growing, box when shrinking: the sum of
 * weight[i * room + k] times sample first[i] + k * step[i] over k < n[i], divided by total[i]. */
typedef struct axis { int64_t room; int64_t *first, *step, *n; double *weight, *total; } axis;

static void axis_free(axis *a) {
    free(a->first);
    free(a->weight);
    *a = (axis){0};
}

static void axis_sample(const axis *a, int64_t n, double scale, int64_t i) {
    const double center = ((double)i + 0.5) * scale;
    double *weight = a->weight + i * a->room, sum = 0;
    if (scale <= 1) {
        const double x = center - 0.5, f = x - floor(x);
        a->first[i] = fs_max_i64((int64_t)floor(x), 0);
        a->step[i] = fs_min_i64((int64_t)floor(x) + 1, n - 1) - a->first[i];
        a->n[i] = 2;
        a->total[i] = 1;
        weight[0] = 1 - f;
        weight[1] = f;
        return;
    }
    const double lo = center - scale / 2, hi = center + scale / 2;
    const int64_t from = fs_max_i64((int64_t)floor(lo), 0), to = fs_min_i64((int64_t)ceil(hi), n);
    for (int64_t j = from; j < to; j++) {
        const double part = fmin(hi, (double)j + 1) - fmax(lo, (double)j);
        weight[j - from] = part;
        sum += part;
    }
    a->first[i] = from;
    a->step[i] = 1;
    a->n[i] = sum > 0 ? to - from : 0;
    a->total[i] = sum > 0 ? sum : 1;
}

static bool axis_create(axis *a, int64_t n, int64_t out) {
    const double scale = (double)n / (double)out;
    *a = (axis){.room = (int64_t)ceil(scale) + 2};
    a->first = fs_alloc((size_t)out, 3 * sizeof *a->first);
    a->weight = fs_alloc((size_t)(out * (a->room + 1)), sizeof *a->weight);
    if (!a->first || !a->weight) return false;
    a->step = a->first + out;
    a->n = a->step + out;
    a->total = a->weight + out * a->room;
    for (int64_t i = 0; i < out; i++) axis_sample(a, n, scale, i);
    return true;
}

/* What is 0 gives 0, and most of a mask is: samples [from, to) of the result see something of `in`'s [lo, hi). */
static void axis_range(const axis *a, int64_t out, int64_t lo, int64_t hi, int64_t *from, int64_t *to) {
    *from = 0;
    *to = out;
    while (*from < out && (!a->n[*from] || a->first[*from] + (a->n[*from] - 1) * a->step[*from] < lo)) ++*from;
    while (*to > *from && a->first[*to - 1] >= hi) --*to;
}

/* The resize of the box that is not 0: rows into half [height of in][width], then columns. sum: scratch of a line */
static void resize_box(const fs_plane *in, fs_rect box, const axis *across, const axis *down, int64_t width, int64_t height, double *restrict sum,
                       uint8_t *half, uint8_t *out) {
    int64_t x0, x1, y0, y1;
    axis_range(across, width, box.x0, box.x1, &x0, &x1);
    axis_range(down, height, box.y0, box.y1, &y0, &y1);
    for (int64_t y = box.y0; y < box.y1; y++)
        for (int64_t x = x0; x < x1; x++) {
            const uint8_t *row = in->data + y * in->width + across->first[x];
            double value = 0;
            for (int64_t k = 0; k < across->n[x]; k++) value += across->weight[x * across->room + k] * row[k * across->step[x]];
            half[y * width + x] = (uint8_t)lrint(value / across->total[x]);
        }
    for (int64_t y = y0; y < y1; y++) {
        for (int64_t x = x0; x < x1; x++) sum[x] = 0;
        for (int64_t k = 0; k < down->n[y]; k++) {
            const uint8_t *line = half + (down->first[y] + k * down->step[y]) * width;
            const double weight = down->weight[y * down->room + k];
            for (int64_t x = x0; x < x1; x++) sum[x] += weight * line[x];
        }
        for (int64_t x = x0; x < x1; x++) out[y * width + x] = (uint8_t)lrint(sum[x] / down->total[y]);
    }
}

fs_status fs_plane_resize(const fs_plane *in, int64_t width, int64_t height, fs_plane *out, fs_error *err) {
    fs_plane half = {0};
    axis across = {0}, down = {0};
    double *sum = NULL;
    fs_status status = fs_plane_create(width, in->height, &half, err);
    if (!status) status = fs_plane_create(width, height, out, err);
    if (status) goto done;
    sum = fs_alloc((size_t)width, sizeof *sum);
    if (sum && axis_create(&across, in->width, width) && axis_create(&down, in->height, height))
        resize_box(in, fs_plane_box(in), &across, &down, width, height, sum, half.data, out->data);
    else
        status = fs_fail(err, FS_E_NO_MEMORY, "no memory to resize a mask");
done:
    free(sum);
    axis_free(&across);
    axis_free(&down);
    fs_plane_free(&half);
    return status;
}
