/* Losses: one number each, in f64 where it is summed. Cross entropy as transformers' LLaMA has it (mean over the targets that count), binary
 * cross entropy and dice as LISA and GLaMM have them (Lai et al. 2024; model/GLaMM.py of the original). */
#include <math.h>

#include "tensor/op.h"

enum { CHUNK = 2048 };

/* sum of exp(row - most), a chunk at a time; the exponentials are not kept. */
static double exp_sum(const fs_backend *be, const float *row, float most, int64_t n) {
    float part[CHUNK];
    double sum = 0;
    for (int64_t j = 0; j < n; j += CHUNK) sum += be->exp_sum(row + j, most, part, fs_min_i64(CHUNK, n - j));
    return sum;
}

/* Per row: softmax minus the target's one, over the number of targets. params: the targets */
static void cross_entropy_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "cross_entropy"};
    const fs_backend *be = c->backend;
    const fs_tensor *logits = node->in[0];
    const int64_t rows = logits->shape[0], n = logits->shape[1];
    const int32_t *target = node->params;
    float *dx = fs_grad(c, logits);
    int64_t count = 0;
    for (int64_t i = 0; i < rows; i++) count += target[i] != FS_IGNORE;
    const double factor = (double)node->grad[0] / (double)count;
    const int threads = fs_op_threads(&op, rows * n * 8);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t i = 0; i < (dx ? rows : 0); i++) {
        if (target[i] == FS_IGNORE) continue;
        const float *row = fs_f32(logits) + i * n, most = be->max(row, n), share = (float)(factor / exp_sum(be, row, most, n));
        for (int64_t j = 0; j < n; j += CHUNK) {
            float part[CHUNK], *to = dx + i * n + j;
            const int64_t some = fs_min_i64(CHUNK, n - j);
            be->exp_sum(row + j, most, part, some);
            for (int64_t k = 0; k < some; k++) to[k] += share * part[k];
        }
        dx[i * n + target[i]] -= (float)factor;
    }
}

fs_tensor *fs_cross_entropy(fs_exec *c, const fs_tensor *logits, const int32_t *target) {
    const fs_op op = {.c = c, .name = "cross_entropy", .in = {logits}, .backward = cross_entropy_backward, .params = target,
                      .params_size = logits && logits->ndim ? (size_t)logits->shape[0] * sizeof *target : 0};
    if (!fs_op_ready(&op, 1) || !fs_op_needs_f32(&op, 0)) return NULL;
    if (logits->ndim != 2) return fs_op_misuse(&op, "expected [rows,classes], found %s", fs_op_describe(logits).text);
    const int64_t rows = logits->shape[0], n = logits->shape[1];
    int64_t count = 0;
    for (int64_t i = 0; i < rows; i++) {
        if (target[i] != FS_IGNORE && (target[i] < 0 || target[i] >= n))
            return fs_op_misuse(&op, "target %d of row %lld is no class of %s", (int)target[i], (long long)i, fs_op_describe(logits).text);
        count += target[i] != FS_IGNORE;
    }
    if (count == 0) return fs_op_misuse(&op, "no target counts; there is nothing to learn from");
    fs_tensor *y = fs_op_result(&op, 1, (const int64_t[]){1});
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    double *each = fs_op_scratch(&op, rows, sizeof *each), sum = 0;
    if (!y || !each) return NULL;
    const int threads = fs_op_threads(&op, rows * n * 8);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t i = 0; i < rows; i++) {
        const float *row = fs_f32(logits) + i * n, most = target[i] == FS_IGNORE ? 0.0f : c->backend->max(row, n);
        each[i] = target[i] == FS_IGNORE ? 0.0 : (double)most - (double)row[target[i]] + log(exp_sum(c->backend, row, most, n));
    }
    for (int64_t i = 0; i < rows; i++) sum += each[i]; /* in order, whatever the threads */
    fs_f32(y)[0] = (float)(sum / (double)count);
    fs_arena_release(c->arena, mark);
    return y;
}

/* ---- masks: x [n] logits, target [n] 0 or 1. Sums are over chunks, each by one thread, which are then added in order. ---- */

/* The logistic function of n values and of their negatives, which is what is missing to 1 without cancellation. */
typedef struct logistics { float s[CHUNK], rest[CHUNK]; } logistics;
static void logistic(const fs_backend *be, const float *x, int64_t n, logistics *l) {
    be->sigmoid(x, l->s, n);
    be->scale(x, -1.0f, l->rest, n);
    be->sigmoid(l->rest, l->rest, n);
}

static void bce_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "bce_with_logits"};
    const float *x = fs_f32(node->in[0]), *target = fs_f32(node->in[1]);
    const int64_t n = fs_tensor_count(node->in[0]), chunks = (n + CHUNK - 1) / CHUNK;
    const float factor = (float)((double)node->grad[0] / (double)n);
    float *dx = fs_grad(c, node->in[0]);
    const int threads = fs_op_threads(&op, 4 * n);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t k = 0; k < (dx ? chunks : 0); k++) {
        const float *t = target + k * CHUNK;
        const int64_t some = fs_min_i64(CHUNK, n - k * CHUNK);
        logistics l;
        logistic(c->backend, x + k * CHUNK, some, &l);
        for (int64_t i = 0; i < some; i++) dx[k * CHUNK + i] += factor * (l.s[i] * (1.0f - t[i]) - l.rest[i] * t[i]);
    }
}

/* Sum of log(1 + exp(x)) - x t = max(x, 0) - x t + log(1 + exp(-|x|)); of the last, the logarithm of 32 factors at once, none above 2. */
static double bce_chunk(const fs_backend *be, const float *x, const float *t, int64_t n) {
    float e[CHUNK] = {0};
    double sum = 0, product = 1;
    for (int64_t i = 0; i < n; i++) e[i] = -fabsf(x[i]);
    be->exp_sum(e, 0.0f, e, n);
    for (int64_t i = 0; i < n; i++) {
        sum += (double)(x[i] < 0.0f ? 0.0f : x[i]) - (double)x[i] * (double)t[i];
        product *= 1.0 + (double)e[i];
        if (i % 32 == 31 || i + 1 == n) sum += log(product), product = 1;
    }
    return sum;
}

fs_tensor *fs_bce_with_logits(fs_exec *c, const fs_tensor *x, const fs_tensor *target) {
    const fs_op op = {.c = c, .name = "bce_with_logits", .in = {x, target}, .backward = bce_backward};
    if (!fs_op_ready(&op, 2) || !fs_op_needs_f32(&op, 0) || !fs_op_needs_f32(&op, 1)) return NULL;
    const int64_t n = fs_tensor_count(x);
    if (n < 1 || fs_tensor_count(target) != n)
        return fs_op_misuse(&op, "%s and target %s differ", fs_op_describe(x).text, fs_op_describe(target).text);
    fs_tensor *y = fs_op_result(&op, 1, (const int64_t[]){1});
    if (!y) return NULL;
    const int64_t chunks = (n + CHUNK - 1) / CHUNK;
    const int threads = fs_op_threads(&op, 32 * n);
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    double *each = fs_op_scratch(&op, chunks, sizeof *each), sum = 0;
    if (!each) return NULL;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < chunks; i++)
        each[i] = bce_chunk(c->backend, fs_f32(x) + i * CHUNK, fs_f32(target) + i * CHUNK, fs_min_i64(CHUNK, n - i * CHUNK));
    for (int64_t i = 0; i < chunks; i++) sum += each[i];
    fs_arena_release(c->arena, mark);
    fs_f32(y)[0] = (float)(sum / (double)n);
    return y;
}

/* 1 - (2 sum(s t) / K + e) / (sum(s) / K + sum(t) / K + e), s = logistic(x) */
enum { DICE_SCALE = 1000 };
static const double dice_eps = 1e-6;

typedef struct dice_sums { double both, s, t; } dice_sums;
static dice_sums dice_chunk(const fs_backend *be, const float *x, const float *target, int64_t n) {
    float s[CHUNK];
    double both = 0;
    be->sigmoid(x, s, n);
    for (int64_t i = 0; i < n; i++) both += (double)s[i] * (double)target[i];
    return (dice_sums){both / DICE_SCALE, be->sum(s, n) / DICE_SCALE, be->sum(target, n) / DICE_SCALE};
}

static dice_sums add_up(const fs_op *op, const fs_tensor *x, const fs_tensor *target) {
    const int64_t n = fs_tensor_count(x), chunks = (n + CHUNK - 1) / CHUNK;
    const int threads = fs_op_threads(op, 32 * n);
    const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
    dice_sums *each = fs_op_scratch(op, chunks, sizeof *each), d = {0, 0, 0};
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < (each ? chunks : 0); i++)
        each[i] = dice_chunk(op->c->backend, fs_f32(x) + i * CHUNK, fs_f32(target) + i * CHUNK, fs_min_i64(CHUNK, n - i * CHUNK));
    for (int64_t i = 0; each && i < chunks; i++) d.both += each[i].both, d.s += each[i].s, d.t += each[i].t;
    fs_arena_release(op->c->arena, mark);
    return d;
}

static void dice_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "dice_loss"};
    const fs_tensor *x = node->in[0], *target = node->in[1];
    float *dx = fs_grad(c, x);
    const dice_sums d = add_up(&op, x, target);
    const double above = 2 * d.both + dice_eps, below = d.s + d.t + dice_eps;
    const float on = (float)((double)node->grad[0] * (2 * below - above) / (below * below) / DICE_SCALE),
                off = (float)((double)node->grad[0] * -above / (below * below) / DICE_SCALE); /* of a pixel whose target is 1, or 0 */
    const int64_t n = fs_tensor_count(x), chunks = (n + CHUNK - 1) / CHUNK;
    const int threads = fs_op_threads(&op, 4 * n);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t k = 0; k < (dx ? chunks : 0); k++) {
        const float *t = fs_f32(target) + k * CHUNK;
        const int64_t some = fs_min_i64(CHUNK, n - k * CHUNK);
        logistics l;
        logistic(c->backend, fs_f32(x) + k * CHUNK, some, &l);
        for (int64_t i = 0; i < some; i++) dx[k * CHUNK + i] -= l.s[i] * l.rest[i] * (on * t[i] + off * (1.0f - t[i]));
    }
}

fs_tensor *fs_dice_loss(fs_exec *c, const fs_tensor *x, const fs_tensor *target) {
    const fs_op op = {.c = c, .name = "dice_loss", .in = {x, target}, .backward = dice_backward};
    if (!fs_op_ready(&op, 2) || !fs_op_needs_f32(&op, 0) || !fs_op_needs_f32(&op, 1)) return NULL;
    if (fs_tensor_count(target) != fs_tensor_count(x))
        return fs_op_misuse(&op, "%s and target %s differ", fs_op_describe(x).text, fs_op_describe(target).text);
    fs_tensor *y = fs_op_result(&op, 1, (const int64_t[]){1});
    if (!y) return NULL;
    const dice_sums d = add_up(&op, x, target);
    fs_f32(y)[0] = (float)(1 - (2 * d.both + dice_eps) / (d.s + d.t + dice_eps));
    return y;
}
