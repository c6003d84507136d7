/* Pillow's resampling of 8-bit pictures (Pillow 9.4, libImaging/Resample.c), bit for bit: separable convolution with a filter stretched by
 * the scale when shrinking, weights in double turned into fixed point with 22 fractional bits, the horizontal pass first and rounded to
 * 8 bits, then the vertical pass.
 * Every output pixel depends on its own weights only, so computing a window, in blocks and by several threads, changes no byte. Sums are
 * made modulo 2^32 (as unsigned), where their order does not matter; they fit into 32 signed bits for any sensible picture.
 * A canvas's fill needs no pixels: the weights that fall on it are added up and multiplied once. */
#include "image/resample.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FRACTION_BITS = 32 - 8 - 2, ROUNDING = 1 << (FRACTION_BITS - 1), CHUNK = 768, MAX_BLOCK_WEIGHTS = 1 << 21 };

static double bilinear(double x) {
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

static double bicubic(double x) {
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

/* One axis: `in` samples become `out`. */
typedef struct axis {
    int64_t in, out;
    double scale, filter_scale, support;
    double (*filter)(double);
    int64_t room; /* most weights an output can have */
} axis;

static axis axis_of(int64_t in, int64_t out, fs_filter filter) {
    axis a = {.in = in, .out = out, .scale = (double)in / (double)out};
    a.filter_scale = a.scale < 1.0 ? 1.0 : a.scale;
    a.filter = filter == FS_FILTER_BICUBIC ? bicubic : bilinear;
    a.support = (filter == FS_FILTER_BICUBIC ? 2.0 : 1.0) * a.filter_scale;
    a.room = fs_min_i64((int64_t)ceil(a.support) * 2 + 1, in);
    return a;
}

/* The input samples [*lo, *hi) that output i sees. */
static void taps_of(const axis *a, int64_t i, int64_t *lo, int64_t *hi) {
    double center = ((double)i + 0.5) * a->scale;
    *lo = fs_max_i64((int64_t)(center - a->support + 0.5), 0);
    *hi = fs_min_i64((int64_t)(center + a->support + 0.5), a->in);
}

/* Weights of outputs [first, first + count): output i's stand at k + (i - first) * room, for samples lo[i - first] .. hi[i - first] - 1.
 * Those within [from, to) (the picture on its canvas) are kept; the sum of the others goes to rest[]. */
typedef struct weights {
    int64_t *lo, *hi;
    int32_t *k;
    uint32_t *rest;
    double *scratch;
} weights;

static bool weights_create(weights *w, const axis *a, int64_t count) {
    size_t n = (size_t)count, room = (size_t)a->room, total;
    w->lo = fs_alloc(n, sizeof *w->lo);
    w->hi = fs_alloc(n, sizeof *w->hi);
    w->rest = fs_alloc(n, sizeof *w->rest);
    w->scratch = fs_alloc(room, sizeof *w->scratch);
    w->k = fs_mul_size(n, room, &total) ? fs_alloc(total, sizeof *w->k) : NULL;
    return w->lo && w->hi && w->rest && w->scratch && w->k;
}

static void weights_free(weights *w) {
    free(w->lo);
    free(w->hi);
    free(w->rest);
    free(w->scratch);
    free(w->k);
}

static void weights_fill(weights *w, const axis *a, int64_t first, int64_t count, int64_t from, int64_t to) {
    double inverse = 1.0 / a->filter_scale;
    for (int64_t i = 0; i < count; i++) {
        int64_t lo, hi;
        taps_of(a, first + i, &lo, &hi);
        double center = ((double)(first + i) + 0.5) * a->scale, sum = 0.0;
        for (int64_t j = lo; j < hi; j++) {
            double v = a->filter(((double)j - center + 0.5) * inverse);
            w->scratch[j - lo] = v;
            sum += v;
        }
        int64_t keep_lo = fs_min_i64(fs_max_i64(lo, from), to), keep_hi = fs_max_i64(fs_min_i64(hi, to), keep_lo);
        int32_t *k = w->k + i * a->room;
        uint32_t rest = 0;
        for (int64_t j = lo; j < hi; j++) {
            double v = sum != 0.0 ? w->scratch[j - lo] / sum : w->scratch[j - lo];
            v *= 1 << FRACTION_BITS;
            int32_t fixed = (int32_t)(v < 0 ? v - 0.5 : v + 0.5);
            if (j >= keep_lo && j < keep_hi)
                k[j - keep_lo] = fixed;
            else
                rest += (uint32_t)fixed;
        }
        w->lo[i] = keep_lo;
        w->hi[i] = keep_hi;
        w->rest[i] = rest;
    }
}

static uint8_t clip8(uint32_t sum) {
    int32_t v = (int32_t)sum >> FRACTION_BITS;
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* How many outputs' weights are held at once: all of a sane picture's, few of one that is a million wide. */
static int64_t block_of(const axis *a, int64_t count) {
    return fs_min_i64(count, fs_max_i64(MAX_BLOCK_WEIGHTS / a->room, 1));
}

/* The horizontal pass over canvas rows [row0, row1) of the picture (canvas coordinates), columns of `window`, into out[row1-row0][w][3];
 * and what a row of pure fill becomes, into fill_row[w][3]. */
static bool pass_horizontal(const fs_canvas *in, int64_t width, fs_filter filter, fs_window window, int64_t row0, int64_t row1,
                            uint8_t *out, uint8_t *fill_row) {
    axis a = axis_of(in->width, width, filter);
    int64_t block = block_of(&a, window.width), line = in->im->width * 3;
    weights w = {0};
    bool ok = weights_create(&w, &a, block);
    for (int64_t first = 0; ok && first < window.width; first += block) {
        int64_t count = fs_min_i64(block, window.width - first);
        weights_fill(&w, &a, window.x + first, count, in->left, in->left + in->im->width);
        for (int64_t i = 0; i < count; i++) {
            uint32_t sum = w.rest[i];
            for (int64_t j = 0; j < w.hi[i] - w.lo[i]; j++) sum += (uint32_t)w.k[i * a.room + j];
            for (int c = 0; c < 3; c++) fill_row[(first + i) * 3 + c] = clip8(ROUNDING + sum * in->fill[c]);
        }
#pragma omp parallel for schedule(static) if ((row1 - row0) * count > 4096)
        for (int64_t y = row0; y < row1; y++) {
            const uint8_t *row = in->im->data + (y - in->top) * line;
            uint8_t *to = out + ((y - row0) * window.width + first) * 3;
            for (int64_t i = 0; i < count; i++, to += 3) {
                const int32_t *k = w.k + i * a.room;
                const uint8_t *p = row + (w.lo[i] - in->left) * 3;
                int64_t n = w.hi[i] - w.lo[i];
                uint32_t r = ROUNDING + w.rest[i] * in->fill[0], g = ROUNDING + w.rest[i] * in->fill[1],
                         b = ROUNDING + w.rest[i] * in->fill[2];
                for (int64_t j = 0; j < n; j++, p += 3) {
                    uint32_t kj = (uint32_t)k[j];
                    r += kj * p[0];
                    g += kj * p[1];
                    b += kj * p[2];
                }
                to[0] = clip8(r);
                to[1] = clip8(g);
                to[2] = clip8(b);
            }
        }
    }
    weights_free(&w);
    return ok;
}

/* Without a horizontal pass the rows are those of the canvas. */
static void copy_rows(const fs_canvas *in, fs_window window, int64_t row0, int64_t row1, uint8_t *out, uint8_t *fill_row) {
    for (int64_t x = 0; x < window.width; x++) memcpy(fill_row + x * 3, in->fill, 3);
    int64_t from = fs_max_i64(window.x, in->left), to = fs_min_i64(window.x + window.width, in->left + in->im->width);
    for (int64_t y = row0; y < row1; y++, out += window.width * 3) {
        if (to - from < window.width) memcpy(out, fill_row, (size_t)window.width * 3);
        if (from < to)
            memcpy(out + (from - window.x) * 3, in->im->data + ((y - in->top) * in->im->width + from - in->left) * 3,
                   (size_t)(to - from) * 3);
    }
}

/* One output row of n bytes from rows[hi-lo][n] with weights k, the fill row standing for `rest`. */
static void combine_rows(const uint8_t *rows, int64_t count, const int32_t *k, uint32_t rest, const uint8_t *fill_row, int64_t n,
                         uint8_t *out) {
    uint32_t sum[CHUNK];
    for (int64_t x = 0; x < n; x += CHUNK) {
        int64_t m = fs_min_i64(CHUNK, n - x);
        for (int64_t i = 0; i < m; i++) sum[i] = ROUNDING + rest * fill_row[x + i];
        for (int64_t j = 0; j < count; j++) {
            const uint8_t *row = rows + j * n + x;
            uint32_t kj = (uint32_t)k[j];
            for (int64_t i = 0; i < m; i++) sum[i] += kj * row[i];
        }
        for (int64_t i = 0; i < m; i++) out[x + i] = clip8(sum[i]);
    }
}

/* rows: the picture's canvas rows [row0, row1) after the horizontal pass. */
static bool pass_vertical(const fs_canvas *in, int64_t height, fs_filter filter, fs_window window, int64_t row0, int64_t row1,
                          const uint8_t *rows, const uint8_t *fill_row, uint8_t *out) {
    axis a = axis_of(in->height, height, filter);
    int64_t block = block_of(&a, window.height), line = window.width * 3;
    weights w = {0};
    bool ok = weights_create(&w, &a, block);
    for (int64_t first = 0; ok && first < window.height; first += block) {
        int64_t count = fs_min_i64(block, window.height - first);
        weights_fill(&w, &a, window.y + first, count, row0, row1);
#pragma omp parallel for schedule(static) if (count * line > 16384)
        for (int64_t i = 0; i < count; i++)
            combine_rows(rows + (w.lo[i] - row0) * line, w.hi[i] - w.lo[i], w.k + i * a.room, w.rest[i], fill_row, line,
                         out + (first + i) * line);
    }
    weights_free(&w);
    return ok;
}

fs_status fs_resample(const fs_canvas *in, int64_t width, int64_t height, fs_filter filter, fs_window window, fs_image **out,
                      fs_error *err) {
    *out = NULL;
    if (width <= 0 || height <= 0)
        return fs_fail(err, FS_E_USAGE, "cannot resize a picture to %lld x %lld pixels: both sides must be at least 1", (long long)width,
                       (long long)height);
    fs_image *result = NULL;
    uint8_t *rows = NULL, *fill_row = NULL;
    bool ok = true;
    fs_status status = fs_image_create(window.width, window.height, &result, err);
    if (status) return status;
    /* which rows of the canvas the window looks at, and which of them are the picture's */
    int64_t row0 = window.y, row1 = window.y + window.height, unused;
    bool vertical = height != in->height;
    if (vertical) {
        axis a = axis_of(in->height, height, filter);
        taps_of(&a, window.y, &row0, &unused);
        taps_of(&a, window.y + window.height - 1, &unused, &row1);
    }
    int64_t bottom = in->top + in->im->height;
    row0 = fs_min_i64(fs_max_i64(row0, in->top), bottom);
    row1 = fs_max_i64(fs_min_i64(row1, bottom), row0);
    rows = fs_alloc((size_t)fs_max_i64(row1 - row0, 1), (size_t)window.width * 3);
    fill_row = fs_alloc((size_t)window.width, 3);
    if (!rows || !fill_row) {
        ok = false;
        goto done;
    }
    if (width != in->width)
        ok = pass_horizontal(in, width, filter, window, row0, row1, rows, fill_row);
    else
        copy_rows(in, window, row0, row1, rows, fill_row);
    size_t line = (size_t)window.width * 3;
    if (ok && vertical) {
        ok = pass_vertical(in, height, filter, window, row0, row1, rows, fill_row, result->data);
    } else if (ok) {
        for (int64_t y = window.y; y < window.y + window.height; y++)
            memcpy(result->data + (size_t)(y - window.y) * line, y >= row0 && y < row1 ? rows + (size_t)(y - row0) * line : fill_row, line);
    }
done:
    free(rows);
    free(fill_row);
    if (!ok) {
        fs_image_free(result);
        return fs_fail(err, FS_E_NO_MEMORY, "no memory to resize a picture of %lld x %lld pixels to %lld x %lld", (long long)in->width,
                       (long long)in->height, (long long)width, (long long)height);
    }
    *out = result;
    return FS_OK;
}

fs_status fs_image_resize(const fs_image *in, int64_t width, int64_t height, fs_filter filter, fs_image **out, fs_error *err) {
    fs_canvas canvas = {.im = in, .width = in->width, .height = in->height};
    return fs_resample(&canvas, width, height, filter, (fs_window){0, 0, width, height}, out, err);
}
