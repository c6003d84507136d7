/* Pooling and sampling of [C, H, W] maps: max pooling and global mean (ResNet), bilinear resizing as F.interpolate computes it, RoIAlign
 * (He et al. 2017) as torchvision and mmcv do with aligned = true. Threads take channels, or rows of them. */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "tensor/op.h"

static bool check_map(const fs_op *op, bool batches) {
    const fs_tensor *x = op->in[0];
    if (!fs_op_needs_f32(op, 0)) return false;
    if ((x->ndim == 3 || (batches && x->ndim == 4)) && fs_tensor_count(x) > 0) return true;
    fs_op_misuse(op, "expected %s[C,H,W], found %s", batches ? "[N,C,H,W] or " : "", fs_op_describe(x).text);
    return false;
}

/* The larger of two; NaN if there is one. */
static inline float larger(float m, float x) { return x > m || x != x ? x : m; }

/* out[o] = the largest of column[o * stride ..] up to the kernel's width. */
static void whole_windows(const float *restrict column, int kernel, int stride, int64_t n, float *restrict out) {
    if (kernel == 3 && stride == 2) { /* ResNet's; constants let the compiler use vectors */
        for (int64_t o = 0; o < n; o++) out[o] = larger(larger(column[2 * o], column[2 * o + 1]), column[2 * o + 2]);
        return;
    }
    for (int64_t o = 0; o < n; o++) {
        float m = column[o * stride];
        for (int k = 1; k < kernel; k++) m = larger(m, column[o * stride + k]);
        out[o] = m;
    }
}

/* One row of results: the largest value of each column of lines [y0, y1), a piece of the row at a time, then of each window. */
static void pool_row(const float *map, int64_t w, int64_t y0, int64_t y1, int kernel, int stride, int pad, int64_t out_w, float *out) {
    enum { PIECE = 512 };
    float column[PIECE];
    const int64_t at_once = kernel > PIECE ? 0 : (PIECE - kernel) / stride + 1; /* windows */
    for (int64_t o0 = 0; o0 < out_w; o0 += fs_max_i64(1, at_once)) {
        const int64_t o1 = fs_min_i64(out_w, o0 + fs_max_i64(1, at_once));
        const int64_t x0 = fs_max_i64(0, o0 * stride - pad), x1 = fs_min_i64(w, (o1 - 1) * stride - pad + kernel);
        if (at_once) {
            memcpy(column, map + y0 * w + x0, (size_t)(x1 - x0) * sizeof *column);
            for (int64_t y = y0 + 1; y < y1; y++)
                for (int64_t x = 0; x < x1 - x0; x++) column[x] = larger(column[x], map[y * w + x0 + x]);
        }
        int64_t inner0 = o1, inner1 = o1; /* windows that are whole */
        if (at_once) {
            inner0 = fs_min_i64(o1, fs_max_i64(o0, (pad + stride - 1) / stride));
            inner1 = w + pad < kernel ? inner0 : fs_max_i64(inner0, fs_min_i64(o1, (w + pad - kernel) / stride + 1));
            whole_windows(column + inner0 * stride - pad - x0, kernel, stride, inner1 - inner0, out + inner0);
        }
        for (int64_t o = o0; o < o1; o++) {
            if (o == inner0 && inner1 > inner0) {
                o = inner1 - 1;
                continue;
            }
            const int64_t begin = fs_max_i64(0, o * stride - pad), end = fs_min_i64(w, o * stride - pad + kernel);
            float m = -INFINITY;
            for (int64_t y = at_once ? y1 - 1 : y0; y < y1; y++)
                for (int64_t x = begin; x < end; x++) m = larger(m, at_once ? column[x - x0] : map[y * w + x]);
            out[o] = m;
        }
    }
}

typedef struct pool_params { int kernel, stride, pad; } pool_params;

/* The first of a window's largest values (or its last NaN) gets the gradient, as in PyTorch. Threads divide planes. */
static void max_pool2d_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "max_pool2d"};
    const pool_params *p = node->params;
    const fs_tensor *x = node->in[0];
    const int64_t h = x->shape[x->ndim - 2], w = x->shape[x->ndim - 1], out_h = node->out->shape[x->ndim - 2], out_w = node->out->shape[x->ndim - 1];
    float *dx = fs_grad(c, x);
    const int threads = fs_op_threads(&op, node->count * p->kernel * p->kernel);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t plane = 0; plane < (dx ? fs_tensor_count(x) / (h * w) : 0); plane++) {
        const float *map = fs_f32(x) + plane * h * w, *dy = node->grad + plane * out_h * out_w;
        for (int64_t o = 0; o < out_h * out_w; o++) {
            const int64_t top = o / out_w * p->stride - p->pad, left = o % out_w * p->stride - p->pad;
            const int64_t y1 = fs_min_i64(h, top + p->kernel), x0 = fs_max_i64(0, left), x1 = fs_min_i64(w, left + p->kernel);
            int64_t best = fs_max_i64(0, top) * w + x0;
            for (int64_t i = fs_max_i64(0, top); i < y1; i++)
                for (int64_t k = x0; k < x1; k++)
                    if (map[i * w + k] > map[best] || map[i * w + k] != map[i * w + k]) best = i * w + k;
            dx[plane * h * w + best] += dy[o];
        }
    }
}

fs_tensor *fs_max_pool2d(fs_exec *c, const fs_tensor *x, int kernel, int stride, int pad) {
    const pool_params p = {kernel, stride, pad};
    const fs_op op = {.c = c, .name = "max_pool2d", .in = {x}, .backward = max_pool2d_backward, .params = &p, .params_size = sizeof p};
    if (!fs_op_ready(&op, 1) || !check_map(&op, true)) return NULL;
    const int64_t h = x->shape[x->ndim - 2], w = x->shape[x->ndim - 1];
    if (kernel < 1 || stride < 1 || pad < 0 || pad > kernel / 2 || h + 2 * pad < kernel || w + 2 * pad < kernel)
        return fs_op_misuse(&op, "kernel %d, stride %d, padding %d do not fit %s", kernel, stride, pad, fs_op_describe(x).text);
    const int64_t out_h = (h + 2 * pad - kernel) / stride + 1, out_w = (w + 2 * pad - kernel) / stride + 1;
    int64_t shape[FS_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 2] = out_h;
    shape[x->ndim - 1] = out_w;
    fs_tensor *y = fs_op_result(&op, x->ndim, shape);
    if (!y) return NULL;
    const int64_t rows = fs_tensor_count(y) / out_w;
    const int threads = fs_op_threads(&op, rows * out_w * kernel * kernel);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const float *map = fs_f32(x) + r / out_h * h * w;
        const int64_t y0 = r % out_h * stride - pad;
        pool_row(map, w, fs_max_i64(y0, 0), fs_min_i64(y0 + kernel, h), kernel, stride, pad, out_w, fs_f32(y) + r * out_w);
    }
    return y;
}

static void mean_hw_backward(fs_exec *c, const fs_tape_node *node) {
    const int64_t n = fs_tensor_count(node->in[0]) / node->count;
    float *dx = fs_grad(c, node->in[0]);
    for (int64_t ch = 0; dx && ch < node->count; ch++) c->backend->affine(dx + ch * n, 1.0f, node->grad[ch] / (float)n, dx + ch * n, n);
}

fs_tensor *fs_mean_hw(fs_exec *c, const fs_tensor *x) {
    const fs_op op = {.c = c, .name = "mean_hw", .in = {x}, .backward = mean_hw_backward};
    if (!fs_op_ready(&op, 1) || !check_map(&op, true)) return NULL;
    fs_tensor *y = fs_op_result(&op, x->ndim - 2, x->shape);
    if (!y) return NULL;
    const int64_t n = x->shape[x->ndim - 2] * x->shape[x->ndim - 1], planes = fs_tensor_count(y);
    for (int64_t ch = 0; ch < planes; ch++) fs_f32(y)[ch] = (float)(c->backend->sum(fs_f32(x) + ch * n, n) / (double)n);
    c->backend->round(fs_f32(y), planes, c->precision);
    return y;
}

/* ---- bilinear ---- */

typedef struct tap { int64_t i0, i1; float w0, w1; } tap;

/* Where output index `at` of `out` samples an axis of `in` values. f32 arithmetic as in PyTorch. */
static tap axis_tap(int64_t at, int64_t in, int64_t out, bool align_corners) {
    float source;
    if (align_corners) {
        source = out > 1 ? (float)at * ((float)(in - 1) / (float)(out - 1)) : 0.0f;
    } else {
        const float scale = (float)in / (float)out;
        source = scale * ((float)at + 0.5f) - 0.5f;
        if (source < 0.0f) source = 0.0f;
    }
    tap t = {.i0 = fs_min_i64((int64_t)source, in - 1)};
    t.i1 = fs_min_i64(t.i0 + 1, in - 1);
    t.w1 = fminf(fmaxf(source - (float)t.i0, 0.0f), 1.0f);
    t.w0 = 1.0f - t.w1;
    return t;
}

/* Row iy of a channel's gradient: the rows of the result that sample it, weighted, then each value to the two columns that it comes from.
 * first[j]: the first row whose upper sample is j or lies below it. sum: [w]. */
static void resize_row_back(const fs_tape_node *node, int64_t channel, int64_t iy, const tap *down, const int64_t *first, const tap *across, float *sum,
                            float *dx) {
    const int64_t in_h = node->in[0]->shape[1], in_w = node->in[0]->shape[2], h = node->out->shape[1], w = node->out->shape[2];
    const int64_t begin = first[fs_max_i64(iy - 1, 0)], end = first[iy + 1];
    float *to = dx + (channel * in_h + iy) * in_w;
    if (begin == end) return;
    memset(sum, 0, (size_t)w * sizeof *sum);
    for (int64_t y = begin; y < end; y++) {
        const float *dy = node->grad + (channel * h + y) * w, weight = (down[y].i0 == iy ? down[y].w0 : 0.0f) + (down[y].i1 == iy ? down[y].w1 : 0.0f);
        for (int64_t i = 0; i < w && weight != 0.0f; i++) sum[i] += weight * dy[i];
    }
    for (int64_t i = 0; i < w; i++) {
        to[across[i].i0] += across[i].w0 * sum[i];
        to[across[i].i1] += across[i].w1 * sum[i];
    }
}

/* Threads divide the input's rows. params: align_corners */
static void resize_bilinear_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "resize_bilinear's backward"};
    const bool align_corners = *(const bool *)node->params;
    const fs_tensor *x = node->in[0];
    const int64_t in_h = x->shape[1], in_w = x->shape[2], h = node->out->shape[1], w = node->out->shape[2], rows = x->shape[0] * in_h;
    float *dx = fs_grad(c, x);
    const int threads = fs_op_threads(&op, rows * w + 2 * node->count);
    tap *down = fs_op_scratch(&op, h, sizeof *down), *across = fs_op_scratch(&op, w, sizeof *across);
    int64_t *first = fs_op_scratch(&op, in_h + 1, sizeof *first), y = 0;
    float *sum = fs_op_scratch(&op, threads * w, sizeof *sum);
    if (!dx || !down || !across || !first || !sum) return;
    for (int64_t i = 0; i < h; i++) down[i] = axis_tap(i, in_h, h, align_corners);
    for (int64_t i = 0; i < w; i++) across[i] = axis_tap(i, in_w, w, align_corners);
    for (int64_t j = 0; j <= in_h; j++) {
        while (y < h && down[y].i0 < j) y++;
        first[j] = y;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) resize_row_back(node, r / in_h, r % in_h, down, first, across, sum + omp_get_thread_num() * w, dx);
}

fs_tensor *fs_resize_bilinear(fs_exec *c, const fs_tensor *x, int64_t h, int64_t w, bool align_corners, bool round) {
    const fs_op op = {.c = c, .name = "resize_bilinear", .in = {x}, .backward = resize_bilinear_backward, .params = &align_corners,
                      .params_size = sizeof align_corners};
    if (!fs_op_ready(&op, 1) || !check_map(&op, false)) return NULL;
    if (h < 1 || w < 1) return fs_op_misuse(&op, "cannot resize to %" PRId64 " x %" PRId64, h, w);
    fs_tensor *y = fs_op_result(&op, 3, (const int64_t[]){x->shape[0], h, w});
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    tap *across = fs_op_scratch(&op, w, sizeof *across);
    if (across) {
        const int64_t in_h = x->shape[1], in_w = x->shape[2], rows = x->shape[0] * h;
        for (int64_t i = 0; i < w; i++) across[i] = axis_tap(i, in_w, w, align_corners);
        const int threads = fs_op_threads(&op, rows * w * 2);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t r = 0; r < rows; r++) {
            const tap down = axis_tap(r % h, in_h, h, align_corners);
            const float *top = fs_f32(x) + (r / h * in_h + down.i0) * in_w, *bottom = fs_f32(x) + (r / h * in_h + down.i1) * in_w;
            float *out = fs_f32(y) + r * w;
            for (int64_t i = 0; i < w; i++) {
                const tap t = across[i];
                out[i] = down.w0 * (t.w0 * top[t.i0] + t.w1 * top[t.i1]) + down.w1 * (t.w0 * bottom[t.i0] + t.w1 * bottom[t.i1]);
            }
            if (round) c->backend->round(out, w, c->precision);
        }
    }
    fs_arena_release(c->arena, mark);
    return across ? y : NULL;
}

/* ---- RoIAlign ---- */

/* The four values that a sample of a map at (y, x) mixes, and their shares; clamped inside of [-1, size], none (-1) outside. */
typedef struct corners { int64_t at[4]; float share[4]; } corners;
static corners corners_of(int64_t h, int64_t w, float y, float x) {
    if (!(y >= -1.0f && y <= (float)h && x >= -1.0f && x <= (float)w)) return (corners){{-1, -1, -1, -1}, {0}};
    y = fmaxf(y, 0.0f);
    x = fmaxf(x, 0.0f);
    int64_t y0 = (int64_t)y, x0 = (int64_t)x, y1 = y0 + 1, x1 = x0 + 1;
    if (y0 >= h - 1) y = (float)(y0 = y1 = h - 1);
    if (x0 >= w - 1) x = (float)(x0 = x1 = w - 1);
    const float ly = y - (float)y0, lx = x - (float)x0, hy = 1.0f - ly, hx = 1.0f - lx;
    return (corners){{y0 * w + x0, y0 * w + x1, y1 * w + x0, y1 * w + x1}, {hy * hx, hy * lx, ly * hx, ly * lx}};
}

typedef struct roi { float y, x, bin_h, bin_w; int64_t grid_h, grid_w; } roi;

static roi roi_of(const float *box, float spatial_scale, int out, int sampling_ratio) {
    roi r = {.x = box[0] * spatial_scale - 0.5f, .y = box[1] * spatial_scale - 0.5f};
    const float roi_w = box[2] * spatial_scale - 0.5f - r.x, roi_h = box[3] * spatial_scale - 0.5f - r.y;
    r.bin_h = roi_h / (float)out;
    r.bin_w = roi_w / (float)out;
    r.grid_h = sampling_ratio ? sampling_ratio : (int64_t)ceilf(r.bin_h);
    r.grid_w = sampling_ratio ? sampling_ratio : (int64_t)ceilf(r.bin_w);
    return r;
}

/* Sample (iy, ix) of bin (py, px). */
static corners roi_sample(const roi *r, int64_t h, int64_t w, int py, int px, int64_t iy, int64_t ix) {
    return corners_of(h, w, r->y + (float)py * r->bin_h + ((float)iy + 0.5f) * r->bin_h / (float)r->grid_h,
                      r->x + (float)px * r->bin_w + ((float)ix + 0.5f) * r->bin_w / (float)r->grid_w);
}

/* One channel: out x out bins, each the mean of a grid of samples. */
static void roi_channel(const float *map, int64_t h, int64_t w, const roi *r, int out, float *y) {
    const float count = (float)fs_max_i64(1, r->grid_h * r->grid_w);
    for (int py = 0; py < out; py++)
        for (int px = 0; px < out; px++) {
            float sum = 0;
            for (int64_t iy = 0; iy < r->grid_h; iy++)
                for (int64_t ix = 0; ix < r->grid_w; ix++) {
                    const corners k = roi_sample(r, h, w, py, px, iy, ix);
                    if (k.at[0] >= 0) sum += k.share[0] * map[k.at[0]] + k.share[1] * map[k.at[1]] + k.share[2] * map[k.at[2]] + k.share[3] * map[k.at[3]];
                }
            y[py * out + px] = sum / count;
        }
}

static void roi_channel_back(const float *dy, int64_t h, int64_t w, const roi *r, int out, float *dx) {
    const float count = (float)fs_max_i64(1, r->grid_h * r->grid_w);
    for (int py = 0; py < out; py++)
        for (int px = 0; px < out; px++)
            for (int64_t iy = 0; iy < r->grid_h; iy++)
                for (int64_t ix = 0; ix < r->grid_w; ix++) {
                    const corners k = roi_sample(r, h, w, py, px, iy, ix);
                    for (int i = 0; i < 4 && k.at[0] >= 0; i++) dx[k.at[i]] += k.share[i] * dy[py * out + px] / count;
                }
}

typedef struct roi_params { float spatial_scale; int sampling_ratio; const float *boxes; } roi_params;

/* Boxes overlap, so threads divide channels. */
static void roi_align_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "roi_align"};
    const roi_params *p = node->params;
    const int64_t channels = node->in[0]->shape[0], h = node->in[0]->shape[1], w = node->in[0]->shape[2], n = node->out->shape[0];
    const int out = (int)node->out->shape[2];
    float *dx = fs_grad(c, node->in[0]);
    const int threads = fs_op_threads(&op, node->count * 32);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t ch = 0; ch < (dx ? channels : 0); ch++)
        for (int64_t i = 0; i < n; i++) {
            const roi r = roi_of(p->boxes + 4 * i, p->spatial_scale, out, p->sampling_ratio);
            roi_channel_back(node->grad + (i * channels + ch) * out * out, h, w, &r, out, dx + ch * h * w);
        }
}

fs_tensor *fs_roi_align(fs_exec *c, const fs_tensor *x, const float *boxes, int64_t n, float spatial_scale, int out, int sampling_ratio) {
    roi_params p = {spatial_scale, sampling_ratio, boxes};
    const fs_op op = {.c = c, .name = "roi_align", .in = {x}, .backward = roi_align_backward, .params = &p, .params_size = sizeof p};
    if (!fs_op_ready(&op, 1) || !check_map(&op, false)) return NULL;
    if (n < 0 || out < 1 || sampling_ratio < 0)
        return fs_op_misuse(&op, "%" PRId64 " boxes, output %d, sampling ratio %d make no sense", n, out, sampling_ratio);
    for (int64_t i = 0; i < 4 * n; i++) /* also keeps the number of samples of the automatic ratio bounded */
        if (!(fabsf(boxes[i] * spatial_scale) <= 1e6f))
            return fs_op_misuse(&op, "box %" PRId64 " has the coordinate %g", i / 4, (double)boxes[i]);
    const int64_t channels = x->shape[0], h = x->shape[1], w = x->shape[2];
    if (c->tape) { /* which may outlive the caller's boxes */
        float *kept = fs_op_scratch(&op, 4 * n, sizeof *kept);
        if (kept && n) memcpy(kept, boxes, (size_t)(4 * n) * sizeof *kept);
        p.boxes = kept;
        if (!kept) return NULL;
    }
    fs_tensor *y = fs_op_result(&op, 4, (const int64_t[]){n, channels, out, out});
    if (!y) return NULL;
    const int threads = fs_op_threads(&op, fs_tensor_count(y) * 16);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n * channels; i++) {
        const roi r = roi_of(boxes + i / channels * 4, spatial_scale, out, sampling_ratio);
        float *bins = fs_f32(y) + i * out * out;
        roi_channel(fs_f32(x) + i % channels * h * w, h, w, &r, out, bins);
        c->backend->round(bins, (int64_t)out * out, c->precision);
    }
    return y;
}
