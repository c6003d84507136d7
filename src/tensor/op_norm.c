/* Normalisations and softmax. Means and variances are summed in f64, the rest is f32 and rounded where the original rounds: layer, group
 * and batch norm are single operations there (one rounding), RMSNorm and SAM's LayerNorm2d are written out in Python (one rounding a step).
 * LayerNorm: Ba et al. 2016; RMSNorm: Zhang and Sennrich 2019 as in LLaMA; GroupNorm: Wu and He 2018. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tensor/op.h"

static int64_t width_of(const fs_tensor *x) { return x->ndim ? x->shape[x->ndim - 1] : 0; }

/* x is [..., width >= 1] in F32 and w, b have that width. */
static bool check_rows(const fs_op *op, const fs_tensor *w, const fs_tensor *b) {
    if (!fs_op_needs_f32(op, 0)) return false;
    const int64_t width = width_of(op->in[0]);
    if (width < 1) {
        fs_op_misuse(op, "expected rows of one value or more, found %s", fs_op_describe(op->in[0]).text);
        return false;
    }
    return fs_op_needs_vector(op, w, width, "weight") && fs_op_needs_vector(op, b, width, "bias");
}

/* Backward of both row norms. With h = (x - mean) r the normalised row (mean 0 for RMSNorm), r = 1/sqrt(variance + eps) and g = dy w:
 *     dx = r (g - mean(g) - h mean(g h)),   dw = sum of dy h over rows,   db = sum of dy over rows
 * where RMSNorm has no mean(g). Threads divide rows for dx and columns for dw and db. */
typedef struct norm_params { float eps; bool centred; } norm_params;

static void norm_row_back(const float *x, const float *dy, const float *w, int64_t n, float mean, double r, bool centred, float *dx) {
    double sum = 0, with_h = 0;
    for (int64_t j = 0; j < n; j++) {
        const double g = (double)dy[j] * (double)w[j];
        sum += centred ? g : 0.0;
        with_h += g * ((double)x[j] - (double)mean) * r;
    }
    sum /= (double)n, with_h /= (double)n;
    for (int64_t j = 0; j < n; j++) {
        const double h = ((double)x[j] - (double)mean) * r;
        dx[j] += (float)(r * ((double)dy[j] * (double)w[j] - sum - h * with_h));
    }
}

static void norm_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = node->name};
    const norm_params *p = node->params;
    const fs_backend *be = c->backend;
    const fs_tensor *x = node->in[0];
    float *dx = fs_grad(c, x), *dw = fs_grad(c, node->in[1]), *db = fs_grad(c, node->in[2]);
    const int64_t n = width_of(x), rows = fs_tensor_count(x) / n;
    const float *w = fs_op_values(&op, node->in[1]);
    float *mean = fs_op_scratch(&op, rows, sizeof *mean);
    double *r = fs_op_scratch(&op, rows, sizeof *r);
    if (!w || !mean || !r) return;
    const int threads = fs_op_threads(&op, rows * n * 4);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < rows; i++) {
        const float *in = fs_f32(x) + i * n;
        mean[i] = p->centred ? (float)(be->sum(in, n) / (double)n) : 0.0f;
        r[i] = 1.0 / sqrt(be->sum_squares(in, mean[i], n) / (double)n + (double)p->eps);
        if (dx) norm_row_back(in, node->grad + i * n, w, n, mean[i], r[i], p->centred, dx + i * n);
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t j = 0; j < n; j++) {
        double sum = 0, plain = 0;
        for (int64_t i = 0; i < rows && (dw || db); i++) {
            const double dy = (double)node->grad[i * n + j];
            sum += dy * ((double)fs_f32(x)[i * n + j] - (double)mean[i]) * r[i];
            plain += dy;
        }
        if (dw) dw[j] += (float)sum;
        if (db) db[j] += (float)plain;
    }
}

fs_tensor *fs_layer_norm(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, float eps) {
    const norm_params p = {.eps = eps, .centred = true};
    const fs_op op = {.c = c, .name = "layer_norm", .in = {x, w, b}, .backward = norm_backward, .params = &p, .params_size = sizeof p};
    if (!fs_op_ready(&op, 3) || !check_rows(&op, w, b)) return NULL;
    fs_tensor *y = fs_op_result(&op, x->ndim, x->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const float *weight = fs_op_values(&op, w), *bias = fs_op_values(&op, b);
    const bool ok = weight && bias;
    if (ok) {
        const fs_backend *be = c->backend;
        const int64_t n = width_of(x), rows = fs_tensor_count(x) / n;
        const int threads = fs_op_threads(&op, rows * n);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t i = 0; i < rows; i++) {
            const float *in = fs_f32(x) + i * n;
            float *out = fs_f32(y) + i * n;
            const float mean = (float)(be->sum(in, n) / (double)n);
            const double variance = be->sum_squares(in, mean, n) / (double)n;
            be->normalize(in, mean, (float)(1.0 / sqrt(variance + (double)eps)), weight, bias, out, n);
            be->round(out, n, c->precision);
        }
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

fs_tensor *fs_rms_norm(fs_exec *c, const fs_tensor *x, const fs_tensor *w, float eps) {
    const norm_params p = {.eps = eps};
    const fs_op op = {.c = c, .name = "rms_norm", .in = {x, w}, .backward = norm_backward, .params = &p, .params_size = sizeof p};
    if (!fs_op_ready(&op, 2) || !check_rows(&op, w, NULL)) return NULL;
    fs_tensor *y = fs_op_result(&op, x->ndim, x->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const float *weight = fs_op_values(&op, w);
    if (weight) {
        const fs_backend *be = c->backend;
        const int64_t n = width_of(x), rows = fs_tensor_count(x) / n;
        const int threads = fs_op_threads(&op, rows * n);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t i = 0; i < rows; i++) {
            const float *in = fs_f32(x) + i * n;
            float *out = fs_f32(y) + i * n;
            const double mean_square = be->sum_squares(in, 0.0f, n) / (double)n;
            be->scale(in, (float)(1.0 / sqrt(mean_square + (double)eps)), out, n);
            be->round(out, n, c->precision);
            be->mul(out, weight, out, n);
            be->round(out, n, c->precision);
        }
    }
    fs_arena_release(c->arena, mark);
    return weight ? y : NULL;
}

/* ---- over channels: x: [C, H, W] ---- */

enum { STRIP = 256 }; /* pixels normalised at once */

typedef struct channel_norm {
    const fs_backend *be;
    fs_dtype precision;
    int64_t channels, pixels;
    const float *x, *w, *b;
    float eps;
    float *y;
} channel_norm;

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

static bool check_channels(const fs_op *op, const fs_tensor *w, const fs_tensor *b) {
    const fs_tensor *x = op->in[0];
    if (!fs_op_needs_f32(op, 0)) return false;
    if (x->ndim != 3 || fs_tensor_count(x) < 1) {
        fs_op_misuse(op, "expected x as [C,H,W], found %s", fs_op_describe(x).text);
        return false;
    }
    return fs_op_needs_vector(op, w, x->shape[0], "weight") && fs_op_needs_vector(op, b, x->shape[0], "bias");
}

fs_tensor *fs_layer_norm_2d(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, float eps) {
    const fs_op op = {.c = c, .name = "layer_norm_2d", .in = {x, w, b}};
    if (!fs_op_ready(&op, 3) || !check_channels(&op, w, b)) return NULL;
    fs_tensor *y = fs_op_result(&op, 3, x->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const channel_norm j = {.be = c->backend, .precision = c->precision, .channels = x->shape[0], .pixels = x->shape[1] * x->shape[2],
                            .x = fs_f32(x), .w = fs_op_values(&op, w), .b = fs_op_values(&op, b), .eps = eps, .y = fs_f32(y)};
    const bool ok = j.w && j.b;
    if (ok) {
        const int64_t strips = (j.pixels + STRIP - 1) / STRIP;
        const int threads = fs_op_threads(&op, j.channels * j.pixels);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t s = 0; s < strips; s++) layer_norm_strip(&j, s * STRIP, fs_min_i64(STRIP, j.pixels - s * STRIP));
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

/* Channel ch: y = (x - mean) rstd w + b, as x a + s with one rounding. */
static void affine_channel(const channel_norm *j, int64_t ch, double mean, double rstd) {
    const double a = rstd * (double)j->w[ch];
    float *y = j->y + ch * j->pixels;
    j->be->affine(j->x + ch * j->pixels, (float)a, (float)((double)j->b[ch] - mean * a), y, j->pixels);
    j->be->round(y, j->pixels, j->precision);
}

bool fs_op_batch_affine(const fs_op *op, const fs_batch *norm, int64_t n, float *factor, float *shift) {
    const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
    const float *w = fs_op_values(op, norm->w), *b = fs_op_values(op, norm->b), *mean = fs_op_values(op, norm->mean),
                *var = fs_op_values(op, norm->var);
    const bool ok = w && b && mean && var;
    for (int64_t i = 0; ok && i < n; i++) { /* as affine_channel */
        const double a = 1.0 / sqrt((double)var[i] + (double)norm->eps) * (double)w[i];
        factor[i] = (float)a;
        shift[i] = (float)((double)b[i] - (double)mean[i] * a);
    }
    fs_arena_release(op->c->arena, mark);
    return ok;
}

fs_tensor *fs_group_norm(fs_exec *c, const fs_tensor *x, int groups, const fs_tensor *w, const fs_tensor *b, float eps) {
    const fs_op op = {.c = c, .name = "group_norm", .in = {x, w, b}};
    if (!fs_op_ready(&op, 3) || !check_channels(&op, w, b)) return NULL;
    if (groups < 1 || x->shape[0] % groups)
        return fs_op_misuse(&op, "%d groups do not divide the channels of %s", groups, fs_op_describe(x).text);
    fs_tensor *y = fs_op_result(&op, 3, x->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const channel_norm j = {.be = c->backend, .precision = c->precision, .channels = x->shape[0], .pixels = x->shape[1] * x->shape[2],
                            .x = fs_f32(x), .w = fs_op_values(&op, w), .b = fs_op_values(&op, b), .eps = eps, .y = fs_f32(y)};
    const bool ok = j.w && j.b;
    if (ok) {
        const int64_t each = j.channels / groups, n = each * j.pixels;
        const int threads = fs_op_threads(&op, j.channels * j.pixels);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int g = 0; g < groups; g++) {
            const double mean = j.be->sum(j.x + g * n, n) / (double)n, off = mean - (double)(float)mean;
            const double variance = j.be->sum_squares(j.x + g * n, (float)mean, n) / (double)n - off * off;
            for (int64_t ch = g * each; ch < (g + 1) * each; ch++)
                affine_channel(&j, ch, mean, 1.0 / sqrt(fmax(variance, 0.0) + (double)eps));
        }
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

fs_tensor *fs_batch_norm(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, const fs_tensor *mean,
                         const fs_tensor *var, float eps) {
    const fs_op op = {.c = c, .name = "batch_norm", .in = {x, w, b, mean, var}};
    if (!fs_op_ready(&op, 5) || !check_channels(&op, w, b) || !fs_op_needs_vector(&op, mean, x->shape[0], "mean") ||
        !fs_op_needs_vector(&op, var, x->shape[0], "variance"))
        return NULL;
    fs_tensor *y = fs_op_result(&op, 3, x->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const channel_norm j = {.be = c->backend, .precision = c->precision, .channels = x->shape[0], .pixels = x->shape[1] * x->shape[2],
                            .x = fs_f32(x), .w = fs_op_values(&op, w), .b = fs_op_values(&op, b), .eps = eps, .y = fs_f32(y)};
    const float *m = fs_op_values(&op, mean), *v = fs_op_values(&op, var);
    const bool ok = j.w && j.b && m && v;
    if (ok) {
        const int threads = fs_op_threads(&op, j.channels * j.pixels);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t ch = 0; ch < j.channels; ch++) affine_channel(&j, ch, (double)m[ch], 1.0 / sqrt((double)v[ch] + (double)eps));
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

/* dx = y (dy - sum of dy y) */
static void softmax_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "softmax"};
    const int64_t n = width_of(node->out), rows = node->count / n;
    float *dx = fs_grad(c, node->in[0]);
    const int threads = fs_op_threads(&op, 2 * node->count);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < (dx ? rows : 0); i++) {
        const float *y = fs_f32(node->out) + i * n, *dy = node->grad + i * n;
        double sum = 0;
        for (int64_t j = 0; j < n; j++) sum += (double)dy[j] * (double)y[j];
        for (int64_t j = 0; j < n; j++) dx[i * n + j] += y[j] * (dy[j] - (float)sum);
    }
}

fs_tensor *fs_softmax(fs_exec *c, const fs_tensor *x) {
    const fs_op op = {.c = c, .name = "softmax", .in = {x}, .backward = softmax_backward};
    if (!fs_op_ready(&op, 1) || !check_rows(&op, NULL, NULL)) return NULL;
    fs_tensor *y = fs_op_result(&op, x->ndim, x->shape);
    if (!y) return NULL;
    const fs_backend *be = c->backend;
    const int64_t n = width_of(x), rows = fs_tensor_count(x) / n;
    const int threads = fs_op_threads(&op, rows * n);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < rows; i++) {
        const float *in = fs_f32(x) + i * n;
        float *out = fs_f32(y) + i * n;
        const double sum = be->exp_sum(in, be->max(in, n), out, n);
        be->scale(out, (float)(1.0 / sum), out, n);
        be->round(out, n, c->precision);
    }
    return y;
}
