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
    for (int64_t y = 0; y < p->height; y++)
        for (int64_t x = 0; x < p->width; x++)
            if (p->data[y * p->width + x]) {
                r.x0 = fs_min_i64(r.x0, x);
                r.x1 = fs_max_i64(r.x1, x + 1);
                r.y0 = fs_min_i64(r.y0, y);
                r.y1 = y + 1;
            }
    return r.x1 > r.x0 ? r : (fs_rect){0};
}

void fs_plane_threshold(fs_plane *p, int level) {
    for (int64_t i = 0; i < p->width * p->height; i++) p->data[i] = p->data[i] >= level ? 255 : 0;
}

void fs_plane_distance(const fs_plane *p, bool inside, bool outside_counts, uint16_t *d) {
    int64_t w = p->width, h = p->height;
    for (int64_t i = 0; i < w * h; i++) d[i] = (p->data[i] >= 128) == inside ? FAR : 0;
    for (int pass = 0; pass < 2; pass++) {
        int64_t step = pass ? -1 : 1;
        for (int64_t n = 0; n < h; n++) {
            int64_t y = pass ? h - 1 - n : n;
            for (int64_t m = 0; m < w; m++) {
                int64_t x = pass ? w - 1 - m : m, at = y * w + x;
                if (!d[at]) continue;
                const int64_t dx[4] = {-step, -step, 0, step}, dy[4] = {0, -step, -step, -step};
                unsigned best = d[at];
                for (int k = 0; k < 4; k++) {
                    int64_t nx = x + dx[k], ny = y + dy[k];
                    unsigned cost = dx[k] && dy[k] ? DIAGONAL : UNIT, far = FAR;
                    if (nx >= 0 && nx < w && ny >= 0 && ny < h)
                        far = d[ny * w + nx] + cost;
                    else if (outside_counts)
                        far = cost;
                    if (far < best) best = far;
                }
                d[at] = (uint16_t)best;
            }
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
    double limit = fabs(pixels) * UNIT;
    for (int64_t i = 0; i < p->width * p->height; i++)
        if (d[i] && d[i] <= limit) p->data[i] = outward ? 255 : 0;
    free(d);
    return FS_OK;
}

fs_status fs_plane_feather(fs_plane *p, double pixels, fs_error *err) {
    uint16_t *d = NULL;
    fs_status status = distance_of(p, true, &d, err);
    if (status) return status;
    for (int64_t i = 0; i < p->width * p->height; i++) {
        double t = d[i] / (double)UNIT / (pixels + 1); /* 1 from `pixels` inside on */
        if (t > 1) t = 1;
        p->data[i] = (uint8_t)lrint(255 * t * t * (3 - 2 * t));
    }
    free(d);
    return FS_OK;
}

/* One line of n bytes with a step between them, averaged over 2 radius + 1, the ends repeated. */
static void box_line(uint8_t *data, int64_t n, int64_t step, int64_t radius, uint8_t *line) {
    for (int64_t i = 0; i < n; i++) line[i] = data[i * step];
    int64_t width = 2 * radius + 1, sum = 0;
    for (int64_t i = -radius; i <= radius; i++) sum += line[fs_min_i64(fs_max_i64(i, 0), n - 1)];
    for (int64_t i = 0; i < n; i++) {
        data[i * step] = (uint8_t)((sum + width / 2) / width);
        sum += line[fs_min_i64(i + radius + 1, n - 1)] - line[fs_max_i64(i - radius, 0)];
    }
}

fs_status fs_plane_blur(fs_plane *p, int radius, fs_error *err) {
    if (radius < 1) return FS_OK;
    uint8_t *line = fs_alloc((size_t)fs_max_i64(p->width, p->height), 1);
    if (!line) return fs_fail(err, FS_E_NO_MEMORY, "no memory to blur a mask");
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t y = 0; y < p->height; y++) box_line(p->data + y * p->width, p->width, 1, radius, line);
        for (int64_t x = 0; x < p->width; x++) box_line(p->data + x, p->height, p->width, radius, line);
    }
    free(line);
    return FS_OK;
}

/* Sets the pixels of all but the chosen regions of `value` (255 or 0): see the two users below. list: scratch of the plane's size */
static int64_t flood(fs_plane *p, uint8_t *seen, int32_t *list, int64_t start, bool *touches_edge) {
    int64_t w = p->width, h = p->height, n = 0, head = 0;
    uint8_t value = p->data[start];
    list[n++] = (int32_t)start;
    seen[start] = 1;
    *touches_edge = false;
    while (head < n) {
        int64_t at = list[head++], x = at % w, y = at / w;
        if (x == 0 || y == 0 || x == w - 1 || y == h - 1) *touches_edge = true;
        for (int64_t dy = -1; dy <= 1; dy++)
            for (int64_t dx = -1; dx <= 1; dx++) {
                int64_t nx = x + dx, ny = y + dy;
                if (nx < 0 || ny < 0 || nx >= w || ny >= h) continue;
                int64_t there = ny * w + nx;
                if (seen[there] || p->data[there] != value) continue;
                seen[there] = 1;
                list[n++] = (int32_t)there;
            }
    }
    return n;
}

static fs_status flood_scratch(const fs_plane *p, uint8_t **seen, int32_t **list, fs_error *err) {
    size_t n = (size_t)(p->width * p->height);
    *seen = fs_alloc_zero(n, 1);
    *list = n <= INT32_MAX ? fs_alloc(n, sizeof **list) : NULL;
    if (*seen && *list) return FS_OK;
    free(*seen);
    free(*list);
    return fs_fail(err, FS_E_NO_MEMORY, "no memory for the regions of a mask of %lld x %lld pixels", (long long)p->width,
                   (long long)p->height);
}

fs_status fs_plane_fill_holes(fs_plane *p, int64_t pixels, fs_error *err) {
    uint8_t *seen;
    int32_t *list;
    fs_status status = flood_scratch(p, &seen, &list, err);
    if (status) return status;
    for (int64_t i = 0; i < p->width * p->height; i++) {
        if (seen[i] || p->data[i]) continue;
        bool edge;
        int64_t n = flood(p, seen, list, i, &edge);
        for (int64_t k = 0; !edge && n < pixels && k < n; k++) p->data[list[k]] = 255;
    }
    free(seen);
    free(list);
    return FS_OK;
}

fs_status fs_plane_keep_largest(fs_plane *p, fs_error *err) {
    uint8_t *seen;
    int32_t *list;
    fs_status status = flood_scratch(p, &seen, &list, err);
    if (status) return status;
    int64_t best = -1, best_n = 0, total = p->width * p->height;
    bool edge;
    for (int64_t i = 0; i < total; i++) {
        if (seen[i] || !p->data[i]) continue;
        int64_t n = flood(p, seen, list, i, &edge);
        if (n > best_n) best_n = n, best = i;
    }
    if (best >= 0) {
        memset(seen, 0, (size_t)total);
        int64_t n = flood(p, seen, list, best, &edge);
        memset(p->data, 0, (size_t)total);
        for (int64_t k = 0; k < n; k++) p->data[list[k]] = 255;
    }
    free(seen);
    free(list);
    return FS_OK;
}

/* One axis of a resize: out sample i sees in samples of [center - half, center + half), triangle weights when growing, box when shrinking.
 */
static double axis_value(const uint8_t *row, int64_t n, int64_t step, double scale, int64_t i) {
    double center = ((double)i + 0.5) * scale;
    if (scale <= 1) {
        double x = center - 0.5, f = x - floor(x);
        int64_t a = fs_max_i64((int64_t)floor(x), 0), b = fs_min_i64((int64_t)floor(x) + 1, n - 1);
        return row[a * step] * (1 - f) + row[b * step] * f;
    }
    double lo = center - scale / 2, hi = center + scale / 2, sum = 0, weight = 0;
    for (int64_t j = fs_max_i64((int64_t)floor(lo), 0); j < fs_min_i64((int64_t)ceil(hi), n); j++) {
        double part = fmin(hi, (double)j + 1) - fmax(lo, (double)j);
        sum += part * row[j * step];
        weight += part;
    }
    return weight > 0 ? sum / weight : 0;
}

fs_status fs_plane_resize(const fs_plane *in, int64_t width, int64_t height, fs_plane *out, fs_error *err) {
    fs_plane half = {0};
    fs_status status = fs_plane_create(width, in->height, &half, err);
    if (!status) status = fs_plane_create(width, height, out, err);
    if (!status) {
        double sx = (double)in->width / (double)width, sy = (double)in->height / (double)height;
        for (int64_t y = 0; y < in->height; y++)
            for (int64_t x = 0; x < width; x++)
                half.data[y * width + x] = (uint8_t)lrint(axis_value(in->data + y * in->width, in->width, 1, sx, x));
        for (int64_t y = 0; y < height; y++)
            for (int64_t x = 0; x < width; x++)
                out->data[y * width + x] = (uint8_t)lrint(axis_value(half.data + x, half.height, width, sy, y));
    }
    fs_plane_free(&half);
    return status;
}
