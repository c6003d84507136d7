/* Pooling and sampling of [C, H, W] maps: max pooling and global mean (ResNet), bilinear resizing as F.interpolate computes it, RoIAlign
 * (He et al. 2017) as torchvision and mmcv do with aligned = true. Threads take channels. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tensor/op.h"

static bool check_map(const fs_op *op) {
    const fs_tensor *x = op->in[0];
    if (!fs_op_needs_f32(op, 0)) return false;
    if (x->ndim == 3 && fs_tensor_count(x) > 0) return true;
    fs_op_misuse(op, "expected [C,H,W], found %s", fs_op_describe(x).text);
    return false;
}

/* The larger of two; NaN if there is one. */
static inline float larger(float m, float x) { return x > m || x != x ? x : m; }

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
        for (int64_t o = o0; o < o1; o++) {
            const int64_t begin = fs_max_i64(0, o * stride - pad), end = fs_min_i64(w, o * stride - pad + kernel);
            float m = -INFINITY;
            for (int64_t y = at_once ? y1 - 1 : y0; y < y1; y++)
                for (int64_t x = begin; x < end; x++) m = larger(m, at_once ? column[x - x0] : map[y * w + x]);
            out[o] = m;
        }
    }
}

fs_tensor *fs_max_pool2d(fs_exec *c, const fs_tensor *x, int kernel, int stride, int pad) {
    const fs_op op = {.c = c, .name = "max_pool2d", .in = {x}};
    if (!fs_op_ready(&op, 1) || !check_map(&op)) return NULL;
    const int64_t h = x->shape[1], w = x->shape[2];
    if (kernel < 1 || stride < 1 || pad < 0 || pad > kernel / 2 || h + 2 * pad < kernel || w + 2 * pad < kernel)
        return fs_op_misuse(&op, "kernel %d, stride %d, padding %d do not fit %s", kernel, stride, pad, fs_op_describe(x).text);
    const int64_t out_h = (h + 2 * pad - kernel) / stride + 1, out_w = (w + 2 * pad - kernel) / stride + 1;
    fs_tensor *y = fs_op_result(&op, 3, (const int64_t[]){x->shape[0], out_h, out_w});
    if (!y) return NULL;
    const int64_t rows = x->shape[0] * out_h;
    const int threads = fs_op_threads(&op, rows * out_w * kernel * kernel);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const float *map = fs_f32(x) + r / out_h * h * w;
        const int64_t y0 = r % out_h * stride - pad;
        pool_row(map, w, fs_max_i64(y0, 0), fs_min_i64(y0 + kernel, h), kernel, stride, pad, out_w, fs_f32(y) + r * out_w);
    }
    return y;
}

fs_tensor *fs_mean_hw(fs_exec *c, const fs_tensor *x) {
    const fs_op op = {.c = c, .name = "mean_hw", .in = {x}};
    if (!fs_op_ready(&op, 1) || !check_map(&op)) return NULL;
    fs_tensor *y = fs_op_result(&op, 1, (const int64_t[]){x->shape[0]});
    if (!y) return NULL;
    const int64_t n = x->shape[1] * x->shape[2];
    for (int64_t ch = 0; ch < x->shape[0]; ch++) fs_f32(y)[ch] = (float)(c->backend->sum(fs_f32(x) + ch * n, n) / (double)n);
    c->backend->round(fs_f32(y), x->shape[0], c->precision);
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

fs_tensor *fs_resize_bilinear(fs_exec *c, const fs_tensor *x, int64_t h, int64_t w, bool align_corners, bool round) {
    const fs_op op = {.c = c, .name = "resize_bilinear", .in = {x}};
    if (!fs_op_ready(&op, 1) || !check_map(&op)) return NULL;
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

/* The map at (y, x), bilinear; 0 outside [-1, size], clamped inside. */
static float sample(const float *map, int64_t h, int64_t w, float y, float x) {
    if (!(y >= -1.0f && y <= (float)h && x >= -1.0f && x <= (float)w)) return 0.0f;
    y = fmaxf(y, 0.0f);
    x = fmaxf(x, 0.0f);
    int64_t y0 = (int64_t)y, x0 = (int64_t)x, y1 = y0 + 1, x1 = x0 + 1;
    if (y0 >= h - 1) y = (float)(y0 = y1 = h - 1);
    if (x0 >= w - 1) x = (float)(x0 = x1 = w - 1);
    const float ly = y - (float)y0, lx = x - (float)x0, hy = 1.0f - ly, hx = 1.0f - lx;
    return hy * hx * map[y0 * w + x0] + hy * lx * map[y0 * w + x1] + ly * hx * map[y1 * w + x0] + ly * lx * map[y1 * w + x1];
}

typedef struct roi { float y, x, bin_h, bin_w; int64_t grid_h, grid_w; } roi;

/* One channel: out x out bins, each the mean of a grid of samples. */
static void roi_channel(const float *map, int64_t h, int64_t w, const roi *r, int out, float *y) {
    const float count = (float)fs_max_i64(1, r->grid_h * r->grid_w);
    for (int py = 0; py < out; py++)
        for (int px = 0; px < out; px++) {
            float sum = 0;
            for (int64_t iy = 0; iy < r->grid_h; iy++)
                for (int64_t ix = 0; ix < r->grid_w; ix++)
                    sum += sample(map, h, w, r->y + (float)py * r->bin_h + ((float)iy + 0.5f) * r->bin_h / (float)r->grid_h,
                                  r->x + (float)px * r->bin_w + ((float)ix + 0.5f) * r->bin_w / (float)r->grid_w);
            y[py * out + px] = sum / count;
        }
}

fs_tensor *fs_roi_align(fs_exec *c, const fs_tensor *x, const float *boxes, int64_t n, float spatial_scale, int out, int sampling_ratio) {
    const fs_op op = {.c = c, .name = "roi_align", .in = {x}};
    if (!fs_op_ready(&op, 1) || !check_map(&op)) return NULL;
    if (n < 0 || out < 1 || sampling_ratio < 0)
        return fs_op_misuse(&op, "%" PRId64 " boxes, output %d, sampling ratio %d make no sense", n, out, sampling_ratio);
    for (int64_t i = 0; i < 4 * n; i++) /* also keeps the number of samples of the automatic ratio bounded */
        if (!(fabsf(boxes[i] * spatial_scale) <= 1e6f))
            return fs_op_misuse(&op, "box %" PRId64 " has the coordinate %g", i / 4, (double)boxes[i]);
    const int64_t channels = x->shape[0], h = x->shape[1], w = x->shape[2];
    fs_tensor *y = fs_op_result(&op, 4, (const int64_t[]){n, channels, out, out});
    if (!y) return NULL;
    const int threads = fs_op_threads(&op, fs_tensor_count(y) * 16);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < n * channels; i++) {
        const float *box = boxes + i / channels * 4;
        roi r = {.x = box[0] * spatial_scale - 0.5f, .y = box[1] * spatial_scale - 0.5f};
        const float roi_w = box[2] * spatial_scale - 0.5f - r.x, roi_h = box[3] * spatial_scale - 0.5f - r.y;
        r.bin_h = roi_h / (float)out;
        r.bin_w = roi_w / (float)out;
        r.grid_h = sampling_ratio ? sampling_ratio : (int64_t)ceilf(r.bin_h);
        r.grid_w = sampling_ratio ? sampling_ratio : (int64_t)ceilf(r.bin_w);
        float *bins = fs_f32(y) + i * out * out;
        roi_channel(fs_f32(x) + i % channels * h * w, h, w, &r, out, bins);
        c->backend->round(bins, (int64_t)out * out, c->precision);
    }
    return y;
}
