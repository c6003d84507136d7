/* Normalisations of rows, and softmax. Means and variances are summed in f64, the rest is f32 and rounded where the original rounds: layer norm
 * is a single operation there (one rounding), RMSNorm is written out in Python (one rounding a step). LayerNorm: Ba et al. 2016; RMSNorm:
 * Zhang and Sennrich 2019 as in LLaMA. Those over channels of a map stand in op_norm_map.c. */
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
enum { PIECE = 1024 }; /* of a row, or columns, at a time */

/* One row. mean: 0 for RMSNorm */
static void norm_row_back(const fs_backend *be, const float *x, const float *dy, const float *w, int64_t n, float mean, double r, bool centred, float *dx) {
    float g[PIECE], off[PIECE];
    double sum = 0, with_h = 0;
    for (int64_t j = 0; j < n; j += PIECE) {
        const int64_t some = fs_min_i64(PIECE, n - j);
        be->mul(dy + j, w + j, g, some);
        if (centred) sum += be->sum(g, some);
        be->affine(x + j, 1.0f, -mean, off, some);
        be->mul(g, off, g, some);
        with_h += be->sum(g, some);
    }
    const float root = (float)r, average = (float)(sum / (double)n), slope = (float)(with_h * r * r / (double)n);
    for (int64_t j = 0; j < n; j++) dx[j] += root * (dy[j] * w[j] - average - (x[j] - mean) * slope);
}

/* dw and db (NULL: not wanted) of columns [j0, j0 + some), over all rows of width n. */
static void norm_columns_back(const float *x, const float *dy, int64_t rows, int64_t n, int64_t j0, int64_t some, const float *mean, const double *r, float *dw,
                              float *db) {
    double sum[PIECE] = {0}, plain[PIECE] = {0};
    for (int64_t i = 0; i < rows; i++) {
        const float *row = x + i * n + j0, *grad = dy + i * n + j0, root = (float)r[i];
        for (int64_t j = 0; j < some; j++) {
            sum[j] += (double)(grad[j] * ((row[j] - mean[i]) * root));
            plain[j] += (double)grad[j];
        }
    }
    for (int64_t j = 0; j < some; j++) {
        if (dw) dw[j0 + j] += (float)sum[j];
        if (db) db[j0 + j] += (float)plain[j];
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
        if (dx) norm_row_back(be, in, node->grad + i * n, w, n, mean[i], r[i], p->centred, dx + i * n);
    }
    const int64_t piece = fs_min_i64(PIECE, fs_max_i64(16, n / threads / 16 * 16)), pieces = dw || db ? (n + piece - 1) / piece : 0;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t k = 0; k < pieces; k++)
        norm_columns_back(fs_f32(x), node->grad, rows, n, k * piece, fs_min_i64(piece, n - k * piece), mean, r, dw, db);
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

/* dx = y (dy - sum of dy y) */
static void softmax_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "softmax"};
    const int64_t n = width_of(node->out), rows = node->count / n;
    float *dx = fs_grad(c, node->in[0]);
    const int threads = fs_op_threads(&op, 2 * node->count);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < (dx ? rows : 0); i++) {
        const float *y = fs_f32(node->out) + i * n, *dy = node->grad + i * n;
        float part[PIECE];
        double sum = 0;
        for (int64_t j = 0; j < n; j += PIECE) {
            const int64_t some = fs_min_i64(PIECE, n - j);
            c->backend->mul(dy + j, y + j, part, some);
            sum += c->backend->sum(part, some);
        }
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
