/* Normalisations over the channels of maps: SAM's LayerNorm2d, group norm, batch norm in inference and in training. Means and variances are
 * summed in f64, the rest is f32 and rounded where the original rounds: group and batch norm are single operations there (one rounding),
 * LayerNorm2d is written out in Python (one rounding a step). GroupNorm: Wu and He 2018; BatchNorm: Ioffe and Szegedy 2015, with PyTorch's
 * running statistics.
 *
 * Backward, with h = (x - mean) r the normalised value, r = 1/sqrt(variance + eps), g = dy w, means over what was normalised together:
 *     dx = r (g - mean(g) - h mean(g h)),   dw = sum of dy h,   db = sum of dy
 * where given statistics (inference) leave dx = r g. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tensor/op.h"

enum { STRIP = 256 }; /* pixels normalised at once */

typedef struct channel_norm {
    const fs_backend *be;
    fs_dtype precision;
    int64_t channels, pixels; /* of a picture */
    const float *x, *w, *b;
    float eps;
    float *y;
} channel_norm;

/* x is [C,H,W], or [N,C,H,W] if `batches`; w and b are [C]. */
static bool check_channels(const fs_op *op, bool batches, const fs_tensor *w, const fs_tensor *b) {
    const fs_tensor *x = op->in[0];
    if (!fs_op_needs_f32(op, 0)) return false;
    if ((x->ndim != 3 && !(batches && x->ndim == 4)) || fs_tensor_count(x) < 1) {
        fs_op_misuse(op, "expected x as %s[C,H,W], found %s", batches ? "[N,C,H,W] or " : "", fs_op_describe(x).text);
        return false;
    }
    const int64_t channels = x->shape[x->ndim - 3];
    return fs_op_needs_vector(op, w, channels, "weight") && fs_op_needs_vector(op, b, channels, "bias");
}

/* Sizes and inputs; the values of w and b are in scratch unless the weights are what the precision asks for. False when out of memory. */
static bool open_norm(const fs_op *op, float eps, const fs_tensor *y, channel_norm *j) {
    const fs_tensor *x = op->in[0];
    *j = (channel_norm){.be = op->c->backend, .precision = op->c->precision, .channels = x->shape[x->ndim - 3],
                        .pixels = x->shape[x->ndim - 2] * x->shape[x->ndim - 1], .x = fs_f32(x), .w = fs_op_values(op, op->in[1]),
                        .b = fs_op_values(op, op->in[2]), .eps = eps, .y = fs_f32(y)};
    return j->w && j->b;
}

/* ---- LayerNorm2d: each pixel over its channels ---- */

/* Pixels [p0, p0 + n) of every channel. Each Python operation of the original is one step here, rounded. */
static void layer_norm_strip(const channel_norm *j, int64_t p0, int64_t n) {
    double sum[STRIP] = {0};
    float mean[STRIP], root[STRIP], square[STRIP];
    const double count = (double)j->channels;
    for (int64_t ch = 0; ch < j->channels; ch++)
        for (int64_t p = 0; p < n; p++) sum[p] += (double)j->x[ch * j->pixels + p0 + p];
    for (int64_t p = 0; p < n; p++) mean[p] = (float)(sum[p] / count);
    j->be->round(mean, n, j->precision);
    memset(sum, 0, sizeof sum);
    for (int64_t ch = 0; ch < j->channels; ch++) { /* differences are kept in y */
        const float *x = j->x + ch * j->pixels + p0;
        float *y = j->y + ch * j->pixels + p0;
        for (int64_t p = 0; p < n; p++) y[p] = x[p] - mean[p];
        j->be->round(y, n, j->precision);
        j->be->mul(y, y, square, n);
        j->be->round(square, n, j->precision);
        for (int64_t p = 0; p < n; p++) sum[p] += (double)square[p];
    }
    for (int64_t p = 0; p < n; p++) root[p] = (float)(sum[p] / count);
    j->be->round(root, n, j->precision);
    j->be->affine(root, 1.0f, j->eps, root, n);
    j->be->round(root, n, j->precision);
    for (int64_t p = 0; p < n; p++) root[p] = sqrtf(root[p]);
    j->be->round(root, n, j->precision);
    for (int64_t ch = 0; ch < j->channels; ch++) {
        float *y = j->y + ch * j->pixels + p0;
        for (int64_t p = 0; p < n; p++) y[p] /= root[p];
        j->be->round(y, n, j->precision);
        j->be->scale(y, j->w[ch], y, n);
        j->be->round(y, n, j->precision);
        j->be->affine(y, 1.0f, j->b[ch], y, n);
        j->be->round(y, n, j->precision);
    }
}

/* Mean and r of pixels [p0, p0 + n). */
static void strip_statistics(const channel_norm *j, int64_t p0, int64_t n, float *mean, float *r) {
    double sum[STRIP] = {0};
    for (int64_t ch = 0; ch < j->channels; ch++)
        for (int64_t p = 0; p < n; p++) sum[p] += (double)j->x[ch * j->pixels + p0 + p];
    for (int64_t p = 0; p < n; p++) mean[p] = (float)(sum[p] / (double)j->channels);
    memset(sum, 0, sizeof sum);
    for (int64_t ch = 0; ch < j->channels; ch++)
        for (int64_t p = 0; p < n; p++) {
            const float off = j->x[ch * j->pixels + p0 + p] - mean[p];
            sum[p] += (double)(off * off);
        }
    for (int64_t p = 0; p < n; p++) r[p] = (float)(1.0 / sqrt(sum[p] / (double)j->channels + (double)j->eps));
}

/* dx of the same pixels. */
static void layer_norm_strip_back(const channel_norm *j, int64_t p0, int64_t n, const float *dy, const float *mean, const float *r, float *dx) {
    double sum[STRIP] = {0}, with_h[STRIP] = {0};
    float average[STRIP], slope[STRIP];
    for (int64_t ch = 0; ch < j->channels; ch++)
        for (int64_t p = 0; p < n; p++) {
            const float g = dy[ch * j->pixels + p0 + p] * j->w[ch];
            sum[p] += (double)g;
            with_h[p] += (double)(g * ((j->x[ch * j->pixels + p0 + p] - mean[p]) * r[p]));
        }
    for (int64_t p = 0; p < n; p++) {
        average[p] = (float)(sum[p] / (double)j->channels);
        slope[p] = (float)(with_h[p] / (double)j->channels);
    }
    for (int64_t ch = 0; ch < j->channels; ch++)
        for (int64_t p = 0; p < n; p++) {
            const int64_t at = ch * j->pixels + p0 + p;
            dx[at] += r[p] * (dy[at] * j->w[ch] - average[p] - (j->x[at] - mean[p]) * r[p] * slope[p]);
        }
}

/* Threads divide pixels for dx and channels for dw and db. params: eps */
static void layer_norm_2d_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "layer_norm_2d's backward", .in = {node->in[0], node->in[1], node->in[2]}};
    float *dx = fs_grad(c, node->in[0]), *dw = fs_grad(c, node->in[1]), *db = fs_grad(c, node->in[2]);
    channel_norm j;
    if (!open_norm(&op, *(const float *)node->params, node->out, &j)) return;
    float *mean = fs_op_scratch(&op, 2 * j.pixels, sizeof *mean), *r = mean + j.pixels;
    if (!mean) return;
    const int64_t strips = (j.pixels + STRIP - 1) / STRIP;
    const int threads = fs_op_threads(&op, 4 * j.channels * j.pixels);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t s = 0; s < strips; s++) {
        const int64_t p0 = s * STRIP, n = fs_min_i64(STRIP, j.pixels - p0);
        strip_statistics(&j, p0, n, mean + p0, r + p0);
        if (dx) layer_norm_strip_back(&j, p0, n, node->grad, mean + p0, r + p0, dx);
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t ch = 0; ch < (dw || db ? j.channels : 0); ch++) {
        const float *dy = node->grad + ch * j.pixels, *x = j.x + ch * j.pixels;
        double sum = 0;
        for (int64_t p0 = 0; p0 < j.pixels; p0 += STRIP) {
            const int64_t n = fs_min_i64(STRIP, j.pixels - p0);
            float part[STRIP];
            for (int64_t p = 0; p < n; p++) part[p] = dy[p0 + p] * ((x[p0 + p] - mean[p0 + p]) * r[p0 + p]);
            sum += j.be->sum(part, n);
        }
        if (dw) dw[ch] += (float)sum;
        if (db) db[ch] += (float)j.be->sum(dy, j.pixels);
    }
}

fs_tensor *fs_layer_norm_2d(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, float eps) {
    const fs_op op = {.c = c, .name = "layer_norm_2d", .in = {x, w, b}, .backward = layer_norm_2d_backward, .params = &eps, .params_size = sizeof eps};
    if (!fs_op_ready(&op, 3) || !check_channels(&op, false, w, b)) return NULL;
    fs_tensor *y = fs_op_result(&op, 3, x->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    channel_norm j;
    const bool ok = open_norm(&op, eps, y, &j);
    if (ok) {
        const int64_t strips = (j.pixels + STRIP - 1) / STRIP;
        const int threads = fs_op_threads(&op, j.channels * j.pixels);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t s = 0; s < strips; s++) layer_norm_strip(&j, s * STRIP, fs_min_i64(STRIP, j.pixels - s * STRIP));
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

/* ---- group and batch norm: planes of one mean and one r each ---- */

typedef struct moments { double mean, r; } moments;

/* Plane p (picture by picture, channel by channel): y = (x - mean) r w + b, as x a + s with one rounding. */
static void affine_plane(const channel_norm *j, int64_t p, moments m) {
    const int64_t ch = p % j->channels;
    const double a = m.r * (double)j->w[ch];
    float *y = j->y + p * j->pixels;
    j->be->affine(j->x + p * j->pixels, (float)a, (float)((double)j->b[ch] - m.mean * a), y, j->pixels);
    j->be->round(y, j->pixels, j->precision);
}

/* Over a plane: *sum += dy, *with_h += dy h. */
static void plane_sums(const channel_norm *j, int64_t p, const float *dy, moments m, double *sum, double *with_h) {
    const float *x = j->x + p * j->pixels;
    float part[STRIP];
    dy += p * j->pixels;
    double total = 0;
    for (int64_t i = 0; i < j->pixels; i += STRIP) {
        const int64_t n = fs_min_i64(STRIP, j->pixels - i);
        j->be->affine(x + i, 1.0f, (float)-m.mean, part, n);
        j->be->mul(part, dy + i, part, n);
        total += j->be->sum(part, n);
    }
    *sum += j->be->sum(dy, j->pixels);
    *with_h += total * m.r;
}

/* dx += r (dy w - average - h slope) */
static void plane_back(const channel_norm *j, int64_t p, const float *dy, moments m, double average, double slope, float *dx) {
    const float a = (float)(m.r * (double)j->w[p % j->channels]), by_x = (float)(-m.r * m.r * slope), shift = (float)(-m.r * average), mean = (float)m.mean;
    const float *x = j->x + p * j->pixels;
    dy += p * j->pixels;
    dx += p * j->pixels;
    for (int64_t i = 0; i < j->pixels; i++) dx[i] += a * dy[i] + (by_x * (x[i] - mean) + shift);
}

/* Of n values at x, in one piece. */
static moments measure(const channel_norm *j, const float *x, int64_t n) {
    const double mean = j->be->sum(x, n) / (double)n, off = mean - (double)(float)mean;
    const double variance = j->be->sum_squares(x, (float)mean, n) / (double)n - off * off;
    return (moments){mean, 1.0 / sqrt(fmax(variance, 0.0) + (double)j->eps)};
}

typedef struct group_params { int groups; float eps; } group_params;

/* Threads divide groups: all that a group's gradients add up lies in it. */
static void group_norm_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "group_norm's backward", .in = {node->in[0], node->in[1], node->in[2]}};
    const group_params *p = node->params;
    float *dx = fs_grad(c, node->in[0]), *dw = fs_grad(c, node->in[1]), *db = fs_grad(c, node->in[2]);
    channel_norm j;
    if (!open_norm(&op, p->eps, node->out, &j)) return;
    const int64_t each = j.channels / p->groups, n = each * j.pixels;
    const int threads = fs_op_threads(&op, 4 * j.channels * j.pixels);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int g = 0; g < p->groups; g++) {
        const moments m = measure(&j, j.x + g * n, n);
        double average = 0, slope = 0;
        for (int64_t ch = g * each; ch < (g + 1) * each; ch++) {
            double sum = 0, with_h = 0;
            plane_sums(&j, ch, node->grad, m, &sum, &with_h);
            average += sum * (double)j.w[ch] / (double)n;
            slope += with_h * (double)j.w[ch] / (double)n;
            if (dw) dw[ch] += (float)with_h;
            if (db) db[ch] += (float)sum;
        }
        for (int64_t ch = g * each; dx && ch < (g + 1) * each; ch++) plane_back(&j, ch, node->grad, m, average, slope, dx);
    }
}

fs_tensor *fs_group_norm(fs_exec *c, const fs_tensor *x, int groups, const fs_tensor *w, const fs_tensor *b, float eps) {
    const group_params p = {groups, eps};
    const fs_op op = {.c = c, .name = "group_norm", .in = {x, w, b}, .backward = group_norm_backward, .params = &p, .params_size = sizeof p};
    if (!fs_op_ready(&op, 3) || !check_channels(&op, false, w, b)) return NULL;
    if (groups < 1 || x->shape[0] % groups)
        return fs_op_misuse(&op, "%d groups do not divide the channels of %s", groups, fs_op_describe(x).text);
    fs_tensor *y = fs_op_result(&op, 3, x->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    channel_norm j;
    const bool ok = open_norm(&op, eps, y, &j);
    if (ok) {
        const int64_t each = j.channels / groups, n = each * j.pixels;
        const int threads = fs_op_threads(&op, j.channels * j.pixels);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int g = 0; g < groups; g++) {
            const moments m = measure(&j, j.x + g * n, n);
            for (int64_t ch = g * each; ch < (g + 1) * each; ch++) affine_plane(&j, ch, m);
        }
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

bool fs_op_batch_affine(const fs_op *op, const fs_batch *norm, int64_t n, float *factor, float *shift) {
    const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
    const float *w = fs_op_values(op, norm->w), *b = fs_op_values(op, norm->b), *mean = fs_op_values(op, norm->mean),
                *var = fs_op_values(op, norm->var);
    const bool ok = w && b && mean && var;
    for (int64_t i = 0; ok && i < n; i++) { /* as affine_plane */
        const double a = 1.0 / sqrt((double)var[i] + (double)norm->eps) * (double)w[i];
        factor[i] = (float)a;
        shift[i] = (float)((double)b[i] - (double)mean[i] * a);
    }
    fs_arena_release(op->c->arena, mark);
    return ok;
}

/* Batch norm's backward; `fixed`: the statistics were given and are constants. Threads divide channels. */
static void batch_backward(fs_exec *c, const fs_tape_node *node, const channel_norm *j, const moments *m, bool fixed) {
    const fs_op op = {.c = c, .name = "batch_norm's backward"};
    float *dx = fs_grad(c, node->in[0]), *dw = fs_grad(c, node->in[1]), *db = fs_grad(c, node->in[2]);
    const int64_t planes = node->count / j->pixels, n = planes / j->channels * j->pixels;
    const int threads = fs_op_threads(&op, 3 * node->count);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t ch = 0; ch < j->channels; ch++) {
        double sum = 0, with_h = 0;
        for (int64_t p = ch; p < planes && (dw || db || !fixed); p += j->channels) plane_sums(j, p, node->grad, m[ch], &sum, &with_h);
        if (dw) dw[ch] += (float)with_h;
        if (db) db[ch] += (float)sum;
        const double w = fixed ? 0.0 : (double)j->w[ch] / (double)n;
        for (int64_t p = ch; dx && p < planes; p += j->channels) plane_back(j, p, node->grad, m[ch], sum * w, with_h * w, dx);
    }
}

/* params: eps */
static void batch_norm_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "batch_norm's backward", .in = {node->in[0], node->in[1], node->in[2]}};
    const float *mean = fs_op_values(&op, node->in[3]), *var = fs_op_values(&op, node->in[4]);
    channel_norm j;
    if (!mean || !var || !open_norm(&op, *(const float *)node->params, node->out, &j)) return;
    moments *m = fs_op_scratch(&op, j.channels, sizeof *m);
    if (!m) return;
    for (int64_t ch = 0; ch < j.channels; ch++) m[ch] = (moments){(double)mean[ch], 1.0 / sqrt((double)var[ch] + (double)j.eps)};
    batch_backward(c, node, &j, m, true);
}

fs_tensor *fs_batch_norm(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, const fs_tensor *mean,
                         const fs_tensor *var, float eps) {
    const fs_op op = {.c = c, .name = "batch_norm", .in = {x, w, b, mean, var}, .backward = batch_norm_backward, .params = &eps, .params_size = sizeof eps};
    if (!fs_op_ready(&op, 5) || !check_channels(&op, true, w, b) || !fs_op_needs_vector(&op, mean, fs_tensor_count(w), "mean") ||
        !fs_op_needs_vector(&op, var, fs_tensor_count(w), "variance"))
        return NULL;
    fs_tensor *y = fs_op_result(&op, x->ndim, x->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const float *m = fs_op_values(&op, mean), *v = fs_op_values(&op, var);
    channel_norm j;
    const bool ok = m && v && open_norm(&op, eps, y, &j);
    if (ok) {
        const int64_t planes = fs_tensor_count(x) / j.pixels;
        const int threads = fs_op_threads(&op, planes * j.pixels);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t p = 0; p < planes; p++)
            affine_plane(&j, p, (moments){(double)m[p % j.channels], 1.0 / sqrt((double)v[p % j.channels] + (double)eps)});
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

typedef struct train_params { float eps; moments *of_channel; } train_params; /* the batch's, kept from the forward pass */

static void batch_norm_train_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "batch_norm_train's backward", .in = {node->in[0], node->in[1], node->in[2]}};
    const train_params *p = node->params;
    channel_norm j;
    if (open_norm(&op, p->eps, node->out, &j)) batch_backward(c, node, &j, p->of_channel, false);
}

/* Moments of channel ch over all pictures, and the running ones brought on. */
static moments measure_batch(const channel_norm *j, int64_t ch, int64_t planes, float momentum, float *running_mean, float *running_var) {
    const int64_t n = planes / j->channels * j->pixels;
    double sum = 0, squares = 0;
    for (int64_t p = ch; p < planes; p += j->channels) sum += j->be->sum(j->x + p * j->pixels, j->pixels);
    const double mean = sum / (double)n, off = mean - (double)(float)mean;
    for (int64_t p = ch; p < planes; p += j->channels) squares += j->be->sum_squares(j->x + p * j->pixels, (float)mean, j->pixels);
    squares = fmax(squares - (double)n * off * off, 0.0);
    if (running_mean) running_mean[ch] = (float)((1.0 - (double)momentum) * (double)running_mean[ch] + (double)momentum * mean);
    if (running_var) running_var[ch] = (float)((1.0 - (double)momentum) * (double)running_var[ch] + (double)momentum * squares / (double)(n - 1));
    return (moments){mean, 1.0 / sqrt(squares / (double)n + (double)j->eps)};
}

fs_tensor *fs_batch_norm_train(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, float *running_mean, float *running_var,
                               float momentum, float eps) {
    fs_op op = {.c = c, .name = "batch_norm_train", .in = {x, w, b}, .backward = batch_norm_train_backward};
    if (!fs_op_ready(&op, 3) || !check_channels(&op, true, w, b)) return NULL;
    const int64_t channels = fs_tensor_count(w), count = fs_tensor_count(x);
    if (count / channels < 2) return fs_op_misuse(&op, "one value a channel has no variance: %s", fs_op_describe(x).text);
    const train_params p = {eps, fs_op_scratch(&op, channels, sizeof *p.of_channel)}; /* below the result: it goes when that goes */
    op.params = &p;
    op.params_size = sizeof p;
    fs_tensor *y = p.of_channel ? fs_op_result(&op, x->ndim, x->shape) : NULL;
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    channel_norm j;
    const bool ok = open_norm(&op, eps, y, &j);
    if (ok) {
        const int64_t planes = count / j.pixels;
        const int threads = fs_op_threads(&op, 3 * count);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t ch = 0; ch < channels; ch++) {
            p.of_channel[ch] = measure_batch(&j, ch, planes, momentum, running_mean, running_var);
            for (int64_t i = ch; i < planes; i += channels) affine_plane(&j, i, p.of_channel[ch]);
        }
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}
