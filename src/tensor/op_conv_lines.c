/* Convolutions whose product is small beside the cutting of patches, as those of few channels on large pictures are: nothing is cut up. The picture is copied
 * once, with its padding, its columns and rows sorted by their remainder to the stride:
 *
 *     values [channels][remainders of rows][remainders of columns][lines][width]
 *
 * There a kernel place meets neighbouring values at neighbouring points of a line of the grid, whatever the stride, so the product's tiles read them where they
 * lie: forward as the right operand (fs_gemm's `at`), and for the kernel's gradient as the left one, the gradient of the result being turned into panels. Sums
 * are taken in the order of the products over packed patches: the same bits. */
#include <omp.h>
#include <string.h>

#include "tensor/op_conv_lines.h"

enum { MOST_FLOATS = 16 << 20, MOST_OUT = 256, MOST_TERMS = 1 << 16 };

static int64_t floats_of(const fs_conv_grid *g, int64_t channels) {
    const int64_t lines = g->grid_h + (g->kh - 1) / g->stride, width = g->grid_w + (g->kw - 1) / g->stride;
    return channels * fs_min_i64(g->stride, g->kh) * fs_min_i64(g->stride, g->kw) * lines * width;
}

bool fs_conv_lines_pay_back(const fs_conv_grid *g, int64_t channels, int64_t out) {
    return out <= MOST_OUT && channels * g->kh * g->kw <= MOST_TERMS && floats_of(g, channels) <= MOST_FLOATS;
}

/* Tiles must not go over the end of a line. */
bool fs_conv_lines_pay(const fs_op *op, const fs_conv_grid *g, int64_t channels, int64_t out) {
    return out <= 64 && g->grid_w % op->c->backend->tile_cols == 0 && fs_conv_lines_pay_back(g, channels, out);
}

/* One line: what kernel columns with remainder `across` meet on row iy of the picture's plane, zeros beyond it. */
static void fill_line(const fs_conv_grid *g, const float *plane, int64_t iy, int64_t across, int64_t width, float *out) {
    const int64_t step = g->stride, shift = g->pad - across; /* picture column = x * step - shift */
    const int64_t lo = shift > 0 ? (shift + step - 1) / step : 0, end = g->w + shift;
    const int64_t x0 = fs_min_i64(width, lo), x1 = iy < 0 || iy >= g->h || end <= 0 ? x0 : fs_max_i64(x0, fs_min_i64(width, (end - 1) / step + 1));
    for (int64_t x = 0; x < x0; x++) out[x] = 0.0f;
    if (x1 > x0) {
        const float *from = plane + iy * g->w + x0 * step - shift;
        const int64_t n = x1 - x0;
        if (step == 1) memcpy(out + x0, from, (size_t)n * sizeof *out);
        else if (step == 2)
            for (int64_t x = 0; x < n; x++) out[x0 + x] = from[2 * x];
        else
            for (int64_t x = 0; x < n; x++) out[x0 + x] = from[x * step];
    }
    for (int64_t x = x1; x < width; x++) out[x] = 0.0f;
}

bool fs_conv_lines_fill(const fs_op *op, const fs_conv_grid *g, int64_t channels, const float *x, fs_conv_lines *out) {
    fs_conv_lines s = {.g = g, .channels = channels, .across = fs_min_i64(g->stride, g->kw), .down = fs_min_i64(g->stride, g->kh),
                       .lines = g->grid_h + (g->kh - 1) / g->stride, .width = g->grid_w + (g->kw - 1) / g->stride};
    const int64_t floats = floats_of(g, channels), rows = channels * s.lines, plane = s.lines * s.width;
    s.values = fs_op_scratch(op, floats + FS_GEMM_MAX_COLS, sizeof *s.values);
    s.at = fs_op_scratch(op, channels * g->kh * g->kw, sizeof *s.at);
    if (!s.values || !s.at) return false;
    const int threads = fs_op_threads(op, floats);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t p = 0; p < s.down * s.across; p++) {
            const int64_t channel = r / s.lines, line = r % s.lines, iy = line * g->stride + p / s.across - g->pad;
            fill_line(g, x + channel * g->h * g->w, iy, p % s.across, s.width, s.values + (channel * s.down * s.across + p) * plane + line * s.width);
        }
    memset(s.values + floats, 0, FS_GEMM_MAX_COLS * sizeof *s.values);
    for (int64_t c = 0, i = 0; c < channels; c++)
        for (int64_t ky = 0; ky < g->kh; ky++)
            for (int64_t kx = 0; kx < g->kw; kx++, i++)
                s.at[i] = ((c * s.down + ky % g->stride) * s.across + kx % g->stride) * plane + ky / g->stride * s.width + kx / g->stride;
    *out = s;
    return true;
}

/* Kernel places [t0, t1) of the gradient, turned: sums [places][ld] += patches x rows^T. panels: room for a block of rows, [ld / tile_cols][KC][tile_cols] */
static void gradient_places(const fs_backend *be, const fs_conv_lines *s, int64_t m, const float *rows, int64_t t0, int64_t t1, float *panels, float *sums,
                            int64_t ld) {
    const int64_t tc = be->tile_cols, tr = fs_min_i64(be->tile_rows, FS_WALK_ROWS), grid_w = s->g->grid_w, points = s->g->grid_h * grid_w;
    for (int64_t p = 0; p < points; p += FS_GEMM_KC) {
        const int64_t k = fs_min_i64(FS_GEMM_KC, points - p);
        const float *from = s->values + p / grid_w * s->width + p % grid_w;
        for (int64_t o = 0; o < m; o += tc)
            be->pack_rows(rows + o * points + p, FS_DTYPE_F32, points, fs_min_i64(tc, m - o), k, FS_DTYPE_F32, panels + o * FS_GEMM_KC);
        for (int64_t t = t0; t < t1; t += tr)
            for (int64_t o = 0; o < m; o += tc)
                be->gemm_tile_walk(fs_min_i64(tr, t1 - t), fs_min_i64(tc, m - o), k, grid_w - p % grid_w, grid_w, s->width - grid_w, from, s->at + t,
                                   panels + o * FS_GEMM_KC, sums + t * ld + o, ld, true);
    }
}

bool fs_conv_lines_gradient(const fs_op *op, const fs_conv_lines *s, int64_t m, const float *rows, float *dw) {
    const fs_backend *be = op->c->backend;
    const int64_t terms = s->channels * s->g->kh * s->g->kw, tc = be->tile_cols, ld = (m + tc - 1) / tc * tc;
    const int threads = fs_op_threads(op, m * terms / 8 * (s->g->grid_h * s->g->grid_w) / 8);
    const int64_t share = ((terms + threads - 1) / threads + FS_WALK_ROWS - 1) / FS_WALK_ROWS * FS_WALK_ROWS;
    float *sums = fs_op_scratch(op, terms * ld, sizeof *sums), *panels = fs_op_scratch(op, threads * ld * FS_GEMM_KC, sizeof *panels);
    if (!sums || !panels) return false;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int t = 0; t < threads; t++) {
        const int64_t t0 = fs_min_i64(terms, t * share), t1 = fs_min_i64(terms, t0 + share);
        for (int64_t i = t0; i < t1; i++)
            for (int64_t o = 0; o < m; o++) sums[i * ld + o] = dw[o * terms + i];
        gradient_places(be, s, m, rows, t0, t1, panels + t * ld * FS_GEMM_KC, sums, ld);
        for (int64_t o = 0; o < m; o++)
            for (int64_t i = t0; i < t1; i++) dw[o * terms + i] = sums[i * ld + o];
    }
    return true;
}

/* ---- the other way round ---- */

/* Pixel stride * u + r of a line meets kernel place k where the grid's number u + (r + pad - k) / stride, if that is whole; so pixels of one remainder are a
 * convolution of the grid with every stride-th place of the kernel. The grid is copied with zeros around it: `before` lines and columns, and what follows. */
typedef struct spreading {
    const fs_conv_grid *g;
    int64_t m, channels, rows, cols; /* of one remainder */
    int64_t before_y, before_x, height, width;
    float *padded, *left; /* [m][height][width]; the kernel, [kh kw][channels][KC] */
    int64_t *at;          /* of each of the m planes */
} spreading;

bool fs_conv_lines_pay_spread(const fs_conv_grid *g, int64_t channels, int64_t m) {
    return m <= FS_GEMM_KC && m >= 16 && channels <= 64 && g->grid_w >= 32 && g->stride <= 4 && g->pad < g->kh && g->pad < g->kw && g->kh >= g->stride &&
           g->kw >= g->stride && m * (g->grid_h + 8) * (g->grid_w + 8) <= MOST_FLOATS;
}

static bool spreading_of(const fs_op *op, const fs_conv_grid *g, int64_t m, int64_t channels, const float *kernel, const float *dy, spreading *s) {
    const int64_t step = g->stride, places = g->kh * g->kw, after = (step - 1 + g->pad) / step;
    *s = (spreading){.g = g, .m = m, .channels = channels, .rows = (g->h + step - 1) / step, .cols = (g->w + step - 1) / step,
                     .before_y = (g->kh - 1 - g->pad + step - 1) / step, .before_x = (g->kw - 1 - g->pad + step - 1) / step};
    s->height = s->before_y + fs_max_i64(s->rows + after, g->grid_h);
    s->width = s->before_x + fs_max_i64(s->cols + after, g->grid_w);
    const int64_t plane = s->height * s->width;
    s->padded = fs_op_scratch(op, m * plane + FS_GEMM_MAX_COLS, sizeof *s->padded);
    s->left = fs_op_scratch(op, places * channels * FS_GEMM_KC, sizeof *s->left);
    s->at = fs_op_scratch(op, m, sizeof *s->at);
    if (!s->padded || !s->left || !s->at) return false;
    memset(s->padded + m * plane, 0, FS_GEMM_MAX_COLS * sizeof *s->padded);
    for (int64_t o = 0; o < m; o++) {
        float *out = s->padded + o * plane;
        s->at[o] = o * plane;
        memset(out, 0, (size_t)plane * sizeof *out);
        for (int64_t y = 0; y < g->grid_h; y++)
            memcpy(out + (s->before_y + y) * s->width + s->before_x, dy + (o * g->grid_h + y) * g->grid_w, (size_t)g->grid_w * sizeof *out);
        for (int64_t i = 0; i < channels * places; i++)
            s->left[(i % places * channels + i / places) * FS_GEMM_KC + o] = kernel[o * channels * places + i];
    }
    return true;
}

/* Pixels of remainders (ry, rx) on line `u` of those: sums [channels][cols] */
static void spread_line(const fs_backend *be, const spreading *s, int64_t u, int64_t ry, int64_t rx, float *sums) {
    const fs_conv_grid *g = s->g;
    const int64_t step = g->stride, tiles = (s->channels + be->tile_rows - 1) / be->tile_rows, tr = (s->channels + tiles - 1) / tiles;
    for (int64_t n = 0; n < s->cols; n += be->tile_cols) {
        bool add = false;
        for (int64_t ky = (ry + g->pad) % step; ky < g->kh; ky += step)
            for (int64_t kx = (rx + g->pad) % step; kx < g->kw; kx += step, add = true) {
                const int64_t y = s->before_y + u + (ry + g->pad - ky) / step, x = s->before_x + n + (rx + g->pad - kx) / step;
                for (int64_t c = 0; c < s->channels; c += tr)
                    be->gemm_tile_at(fs_min_i64(tr, s->channels - c), fs_min_i64(be->tile_cols, s->cols - n), s->m,
                                     s->left + ((ky * g->kw + kx) * s->channels + c) * FS_GEMM_KC, s->padded + y * s->width + x, s->at, sums + c * s->cols + n,
                                     s->cols, add);
            }
    }
}

/* The remainders' sums of a line of pixels, [step][channels][cols], added where they belong. */
static void add_line(const spreading *s, int64_t y, const float *sums, float *dx) {
    const int64_t step = s->g->stride, w = s->g->w, apart = s->channels * s->cols;
    for (int64_t c = 0; c < s->channels; c++) {
        float *restrict out = dx + (c * s->g->h + y) * w;
        const float *restrict from = sums + c * s->cols;
        if (step == 2 && w % 2 == 0)
            for (int64_t v = 0; v < s->cols; v++) {
                out[2 * v] += from[v];
                out[2 * v + 1] += from[apart + v];
            }
        else
            for (int64_t x = 0; x < w; x++) out[x] += from[x % step * apart + x / step];
    }
}

bool fs_conv_lines_spread(const fs_op *op, const fs_conv_grid *g, int64_t m, int64_t channels, const float *kernel, const float *dy, float *dx) {
    const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
    const int threads = fs_op_threads(op, m * channels / 8 * (g->grid_h * g->grid_w) / 8 * g->kh * g->kw);
    spreading s;
    bool ok = spreading_of(op, g, m, channels, kernel, dy, &s);
    const int64_t each = ok ? g->stride * channels * s.cols : 0;
    float *sums = ok ? fs_op_scratch(op, threads * each, sizeof *sums) : NULL;
    ok = sums != NULL;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t y = 0; y < (ok ? g->h : 0); y++) {
        float *own = sums + omp_get_thread_num() * each;
        for (int64_t rx = 0; rx < g->stride; rx++) spread_line(op->c->backend, &s, y / g->stride, y % g->stride, rx, own + rx * channels * s.cols);
        add_line(&s, y, own, dx);
    }
    fs_arena_release(op->c->arena, mark);
    return ok;
}
