/* Elementwise operators. Work goes in chunks that stay in the first-level cache, so an operator made of several steps (each rounded to
 * the precision where the original rounds, as quick GELU and SiLU * up are) costs one pass over memory. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tensor/op.h"

enum { CHUNK = 2048 };

typedef struct job {
    const fs_backend *be;
    fs_dtype precision;
    const float *a, *b; /* b repeats after b_count values */
    int64_t b_count;
    float factor;
    float *y;
} job;

typedef void (*chunk_fn)(const job *j, int64_t at, int64_t n);

static void for_chunks(const fs_op *op, const job *j, int64_t count, chunk_fn fn) {
    const int64_t chunks = (count + CHUNK - 1) / CHUNK;
    const int threads = fs_op_threads(op, count);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < chunks; i++) fn(j, i * CHUNK, fs_min_i64(CHUNK, count - i * CHUNK));
}

static fs_tensor *unary(const fs_op *op, float factor, chunk_fn fn) {
    if (!fs_op_ready(op, 1) || !fs_op_needs_f32(op, 0)) return NULL;
    const fs_tensor *x = op->in[0];
    fs_tensor *y = fs_op_result(op, x->ndim, x->shape);
    if (!y) return NULL;
    const job j = {.be = op->c->backend, .precision = op->c->precision, .a = fs_f32(x), .factor = factor, .y = fs_f32(y)};
    for_chunks(op, &j, fs_tensor_count(x), fn);
    return y;
}

/* Is b's shape, leading ones aside, the end of a's? */
static bool broadcasts(const fs_tensor *a, const fs_tensor *b) {
    int skip = 0;
    while (skip < b->ndim && b->shape[skip] == 1) skip++;
    const int dims = b->ndim - skip;
    if (dims > a->ndim) return false;
    for (int d = 0; d < dims; d++)
        if (b->shape[skip + d] != a->shape[a->ndim - dims + d]) return false;
    return true;
}

static fs_tensor *binary(const fs_op *op, chunk_fn fn) {
    if (!fs_op_ready(op, 2) || !fs_op_needs_f32(op, 0)) return NULL;
    const fs_tensor *a = op->in[0], *b = op->in[1];
    if (!fs_is_float(b->dtype) || !broadcasts(a, b))
        return fs_op_misuse(op, "%s does not fit the end of %s", fs_op_describe(b).text, fs_op_describe(a).text);
    fs_tensor *y = fs_op_result(op, a->ndim, a->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
    const float *values = fs_op_values(op, b);
    const job j = {.be = op->c->backend, .precision = op->c->precision, .a = fs_f32(a), .b = values, .b_count = fs_tensor_count(b),
                   .y = fs_f32(y)};
    if (values) for_chunks(op, &j, fs_tensor_count(a), fn);
    fs_arena_release(op->c->arena, mark);
    return values ? y : NULL;
}

/* b's values for [at, at + n), piece by piece where b repeats. */
static void with_b(const job *j, int64_t at, int64_t n, void (*kernel)(const float *a, const float *b, float *y, int64_t n)) {
    for (int64_t done = 0; done < n;) {
        const int64_t from = (at + done) % j->b_count, piece = fs_min_i64(n - done, j->b_count - from);
        kernel(j->a + at + done, j->b + from, j->y + at + done, piece);
        done += piece;
    }
    j->be->round(j->y + at, n, j->precision);
}

static void add_chunk(const job *j, int64_t at, int64_t n) { with_b(j, at, n, j->be->add); }
static void mul_chunk(const job *j, int64_t at, int64_t n) { with_b(j, at, n, j->be->mul); }

static void scale_chunk(const job *j, int64_t at, int64_t n) {
    j->be->scale(j->a + at, j->factor, j->y + at, n);
    j->be->round(j->y + at, n, j->precision);
}

static void relu_chunk(const job *j, int64_t at, int64_t n) {
    for (int64_t i = at; i < at + n; i++) j->y[i] = j->a[i] < 0.0f ? 0.0f : j->a[i]; /* NaN stays NaN */
}

static void gelu_chunk(const job *j, int64_t at, int64_t n) {
    j->be->gelu(j->a + at, j->y + at, n);
    j->be->round(j->y + at, n, j->precision);
}

static void silu_chunk(const job *j, int64_t at, int64_t n) {
    j->be->silu(j->a + at, j->y + at, n);
    j->be->round(j->y + at, n, j->precision);
}

/* x * sigmoid(1.702 x) is three operations in the original, each rounded. */
static void quick_gelu_chunk(const job *j, int64_t at, int64_t n) {
    float *y = j->y + at;
    j->be->scale(j->a + at, 1.702f, y, n);
    j->be->round(y, n, j->precision);
    j->be->sigmoid(y, y, n);
    j->be->round(y, n, j->precision);
    j->be->mul(j->a + at, y, y, n);
    j->be->round(y, n, j->precision);
}

static void silu_mul_chunk(const job *j, int64_t at, int64_t n) {
    float *y = j->y + at;
    j->be->silu(j->a + at, y, n);
    j->be->round(y, n, j->precision);
    j->be->mul(y, j->b + at, y, n);
    j->be->round(y, n, j->precision);
}

/* ---- backward: y's gradient times the derivative, which is taken at the input ---- */

typedef struct back {
    const fs_backend *be;
    bool fresh;              /* dx holds nothing yet: it is zeroed a chunk at a time, which costs no pass over memory */
    const float *dy, *x, *other; /* x: the operator's first input; other: the second */
    float *dx;
    float factor;
} back;

/* dx += the chain rule of one input of the operator's own shape, all threads. */
static void back_chunks(fs_exec *c, const back *b, int64_t count, void (*fn)(const back *b, int64_t at, int64_t n)) {
    const fs_op op = {.c = c, .name = "backward"};
    const int64_t chunks = (count + CHUNK - 1) / CHUNK;
    const int threads = fs_op_threads(&op, 4 * count);
    back with = *b;
    with.be = c->backend;
    if (!b->dx) return;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < chunks; i++) {
        const int64_t n = fs_min_i64(CHUNK, count - i * CHUNK);
        if (b->fresh) memset(b->dx + i * CHUNK, 0, (size_t)n * sizeof *b->dx);
        fn(&with, i * CHUNK, n);
    }
}

static void pass_back(const back *b, int64_t at, int64_t n) { b->be->add(b->dx + at, b->dy + at, b->dx + at, n); }

void fs_add_to(fs_exec *c, float *to, const float *from, int64_t n, bool fresh) { back_chunks(c, &(back){.dy = from, .dx = to, .fresh = fresh}, n, pass_back); }

/* Pointers of their own tell the compiler that they do not overlap, so it makes vectors of these loops. */
static void scale_back(const back *b, int64_t at, int64_t n) {
    const float *restrict dy = b->dy + at, factor = b->factor;
    float *restrict dx = b->dx + at;
    for (int64_t i = 0; i < n; i++) dx[i] += dy[i] * factor;
}
static void times_back(const back *b, int64_t at, int64_t n) {
    const float *restrict dy = b->dy + at, *restrict other = b->other + at;
    float *restrict dx = b->dx + at;
    for (int64_t i = 0; i < n; i++) dx[i] += dy[i] * other[i];
}
static void relu_back(const back *b, int64_t at, int64_t n) {
    const float *restrict dy = b->dy + at, *restrict x = b->x + at;
    float *restrict dx = b->dx + at;
    for (int64_t i = 0; i < n; i++) {
        const float d = dy[i];
        dx[i] += x[i] > 0.0f ? d : 0.0f;
    }
}
static void gelu_back(const back *b, int64_t at, int64_t n) { b->be->gelu_back(b->x + at, b->dy + at, b->dx + at, n); }
/* x s(a x), s the logistic function: s + a x s (1 - s). a = 1: SiLU; 1.702: quick GELU */
static void logistic_back(const back *b, int64_t at, int64_t n) {
    float ax[CHUNK], s[CHUNK];
    b->be->scale(b->x + at, b->factor, ax, n);
    b->be->sigmoid(ax, s, n);
    for (int64_t i = 0; i < n; i++) b->dx[at + i] += b->dy[at + i] * (s[i] + ax[i] * s[i] * (1.0f - s[i]));
}

/* Into `to`, whose values repeat along dy: sums over the repeats, weighted with `by` [count] if that is there. Threads divide the columns. */
static void sum_repeats(fs_exec *c, const float *dy, const float *by, int64_t count, float *to, int64_t repeat) {
    const fs_op op = {.c = c, .name = "backward"};
    const int threads = fs_op_threads(&op, count);
    const int64_t share = (repeat + threads - 1) / threads;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int t = 0; t < threads; t++)
        for (int64_t row = 0; row < count; row += repeat)
            for (int64_t j = t * share; j < fs_min_i64(repeat, (t + 1) * share); j++) to[j] += dy[row + j] * (by ? by[row + j] : 1.0f);
}

static void add_backward(fs_exec *c, const fs_tape_node *n) {
    const fs_tensor *b = n->in[1];
    bool fresh = false;
    if (fs_wants_grad(b) && fs_tensor_count(b) == n->count) {
        float *db = fs_grad_into(c, b, &fresh);
        if (db) fs_add_to(c, db, n->grad, n->count, fresh);
    } else if (fs_wants_grad(b)) {
        float *db = fs_grad(c, b);
        if (db) sum_repeats(c, n->grad, NULL, n->count, db, fs_tensor_count(b));
    }
    fs_grad_pass(c, n, n->in[0]);
}
static void mul_backward(fs_exec *c, const fs_tape_node *n) {
    const fs_op op = {.c = c, .name = "mul"};
    float *da = fs_grad(c, n->in[0]), *db = fs_grad(c, n->in[1]);
    const int64_t repeat = fs_tensor_count(n->in[1]);
    const float *b = da ? fs_op_values(&op, n->in[1]) : NULL;
    for (int64_t row = 0; b && row < n->count; row += repeat) back_chunks(c, &(back){.dy = n->grad + row, .other = b, .dx = da + row}, repeat, times_back);
    if (db) sum_repeats(c, n->grad, fs_f32(n->in[0]), n->count, db, repeat);
}
static void back_unary(fs_exec *c, const fs_tape_node *n, float factor, void (*fn)(const back *b, int64_t at, int64_t n)) {
    back b = {.dy = n->grad, .x = fs_f32(n->in[0]), .factor = factor};
    b.dx = fs_grad_into(c, n->in[0], &b.fresh);
    back_chunks(c, &b, n->count, fn);
}
static void scale_backward(fs_exec *c, const fs_tape_node *n) {
    back_unary(c, n, *(const float *)n->params, scale_back);
}
static void relu_backward(fs_exec *c, const fs_tape_node *n) {
    back_unary(c, n, 0, relu_back);
}
static void gelu_backward(fs_exec *c, const fs_tape_node *n) {
    back_unary(c, n, 0, gelu_back);
}
static void silu_backward(fs_exec *c, const fs_tape_node *n) {
    back_unary(c, n, 1.0f, logistic_back);
}
static void quick_gelu_backward(fs_exec *c, const fs_tape_node *n) {
    back_unary(c, n, 1.702f, logistic_back);
}

#define OP(title, ...) &(fs_op){.c = c, .name = #title, .in = {__VA_ARGS__}, .backward = title##_backward}
fs_tensor *fs_add(fs_exec *c, const fs_tensor *a, const fs_tensor *b) { return binary(OP(add, a, b), add_chunk); }
fs_tensor *fs_mul(fs_exec *c, const fs_tensor *a, const fs_tensor *b) { return binary(OP(mul, a, b), mul_chunk); }
fs_tensor *fs_relu(fs_exec *c, const fs_tensor *x) { return unary(OP(relu, x), 0, relu_chunk); }
fs_tensor *fs_gelu(fs_exec *c, const fs_tensor *x) { return unary(OP(gelu, x), 0, gelu_chunk); }
fs_tensor *fs_silu(fs_exec *c, const fs_tensor *x) { return unary(OP(silu, x), 0, silu_chunk); }
fs_tensor *fs_quick_gelu(fs_exec *c, const fs_tensor *x) { return unary(OP(quick_gelu, x), 0, quick_gelu_chunk); }
fs_tensor *fs_scale(fs_exec *c, const fs_tensor *x, float factor) {
    return unary(&(fs_op){.c = c, .name = "scale", .in = {x}, .backward = scale_backward, .params = &factor, .params_size = sizeof factor}, factor,
                 scale_chunk);
}

/* silu(gate) up */
static void gate_back(const back *b, int64_t at, int64_t n) {
    const float *x = b->x + at;
    float s[CHUNK];
    b->be->sigmoid(x, s, n);
    for (int64_t i = 0; i < n; i++) b->dx[at + i] += b->dy[at + i] * b->other[at + i] * (s[i] + x[i] * s[i] * (1.0f - s[i]));
}
static void up_back(const back *b, int64_t at, int64_t n) {
    float s[CHUNK];
    b->be->silu(b->x + at, s, n);
    for (int64_t i = 0; i < n; i++) b->dx[at + i] += b->dy[at + i] * s[i];
}
static void silu_mul_backward(fs_exec *c, const fs_tape_node *n) {
    back b = {.dy = n->grad, .x = fs_f32(n->in[0]), .other = fs_f32(n->in[1])};
    if ((b.dx = fs_grad_into(c, n->in[0], &b.fresh))) back_chunks(c, &b, n->count, gate_back);
    if ((b.dx = fs_grad_into(c, n->in[1], &b.fresh))) back_chunks(c, &b, n->count, up_back);
}

fs_tensor *fs_silu_mul(fs_exec *c, const fs_tensor *gate, const fs_tensor *up) {
    const fs_op op = {.c = c, .name = "silu_mul", .in = {gate, up}, .backward = silu_mul_backward};
    if (!fs_op_ready(&op, 2) || !fs_op_needs_f32(&op, 0) || !fs_op_needs_f32(&op, 1)) return NULL;
    if (fs_tensor_count(gate) != fs_tensor_count(up) || !broadcasts(gate, up))
        return fs_op_misuse(&op, "gate %s and up %s differ", fs_op_describe(gate).text, fs_op_describe(up).text);
    fs_tensor *y = fs_op_result(&op, gate->ndim, gate->shape);
    if (!y) return NULL;
    const job j = {.be = c->backend, .precision = c->precision, .a = fs_f32(gate), .b = fs_f32(up), .y = fs_f32(y)};
    for_chunks(&op, &j, fs_tensor_count(gate), silu_mul_chunk);
    return y;
}

/* ---- guard ---- */

static int64_t first_bad(const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!__builtin_isfinite(x[i])) return i;
    return -1;
}

bool fs_check_finite(fs_exec *c, const fs_tensor *x, const char *what) {
    const fs_op op = {.c = c, .name = "check_finite", .in = {x}};
    if (!fs_op_ready(&op, 1) || !fs_op_needs_f32(&op, 0)) return false;
    const int64_t n = fs_tensor_count(x), chunks = (n + CHUNK - 1) / CHUNK;
    const float *values = fs_f32(x);
    int64_t bad = 0;
    const int threads = fs_op_threads(&op, n);
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : bad)
    for (int64_t i = 0; i < chunks; i++)
        bad += first_bad(values + i * CHUNK, fs_min_i64(CHUNK, n - i * CHUNK)) >= 0;
    if (!bad) return true;
    const int64_t at = first_bad(values, n);
    fs_exec_fail(c, FS_E_NUMERIC,
                 "%s: value %" PRId64 " of %s is %s; the weights or the input hold numbers that are not finite, or overflow", what, at,
                 fs_op_describe(x).text, values[at] != values[at] ? "not a number" : "infinite");
    return false;
}
