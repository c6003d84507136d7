/* Rotary position embedding (Su et al. 2021) in LLaMA's half-rotation form: entries j and j + d/2 of a head turn by the angle
 * pos * theta^(-2j/d). Frequencies and angles are f32 as in transformers (modeling_llama.py), so large positions get its angles. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "tensor/op.h"

typedef struct job { const fs_op *op; const float *x, *inv_freq; const int64_t *positions; int64_t heads, half; float *y; } job;

/* All heads of one token. table: [5][half] of scratch */
static void rotate_token(const job *j, int64_t token, int64_t pos, float *table) {
    const fs_backend *be = j->op->c->backend;
    const fs_dtype precision = j->op->c->precision;
    const int64_t half = j->half;
    float *cosine = table, *sine = table + half, *minus = table + 2 * half, *t = table + 3 * half;
    for (int64_t i = 0; i < half; i++) {
        const float angle = (float)pos * j->inv_freq[i];
        cosine[i] = (float)cos((double)angle);
        sine[i] = (float)sin((double)angle);
    }
    be->round(cosine, half, precision);
    be->round(sine, half, precision);
    for (int64_t i = 0; i < half; i++) minus[i] = -sine[i];
    for (int64_t h = 0; h < j->heads; h++) {
        const float *x1 = j->x + (token * j->heads + h) * 2 * half, *x2 = x1 + half;
        float *y1 = j->y + (token * j->heads + h) * 2 * half, *y2 = y1 + half;
        be->mul(x1, cosine, y1, half);
        be->mul(x2, cosine, y2, half);
        be->mul(x2, minus, t, half);
        be->mul(x1, sine, t + half, half);
        be->round(y1, 2 * half, precision);
        be->round(t, 2 * half, precision);
        be->add(y1, t, y1, 2 * half);
        be->round(y1, 2 * half, precision);
    }
}

/* Turned back: the transpose of a rotation. */
typedef struct rope_params { float theta; int64_t positions[]; } rope_params;
static void rope_backward(fs_exec *c, const fs_tape_node *n) {
    const rope_params *p = n->params;
    const int64_t tokens = n->out->shape[0], heads = n->out->shape[1], half = n->out->shape[2] / 2;
    float *dx = fs_grad(c, n->in[0]);
    for (int64_t t = 0; dx && t < tokens; t++)
        for (int64_t i = 0; i < half; i++) {
            const float inv_freq = 1.0f / powf(p->theta, (float)(2 * i) / (float)(2 * half)), angle = (float)p->positions[t] * inv_freq;
            const float cosine = (float)cos((double)angle), sine = (float)sin((double)angle);
            for (int64_t h = 0; h < heads; h++) {
                const int64_t at = (t * heads + h) * 2 * half + i;
                dx[at] += n->grad[at] * cosine + n->grad[at + half] * sine;
                dx[at + half] += n->grad[at + half] * cosine - n->grad[at] * sine;
            }
        }
}

fs_tensor *fs_rope(fs_exec *c, const fs_tensor *x, const int64_t *positions, float theta) {
    fs_op op = {.c = c, .name = "rope", .in = {x}, .backward = rope_backward};
    if (!fs_op_ready(&op, 1) || !fs_op_needs_f32(&op, 0)) return NULL;
    if (x->ndim != 3 || x->shape[2] < 2 || x->shape[2] % 2 || !(theta > 0.0f))
        return fs_op_misuse(&op, "expected [n,heads,even width], found %s", fs_op_describe(x).text);
    for (int64_t i = 0; i < x->shape[0]; i++)
        if (positions[i] < 0) return fs_op_misuse(&op, "position %" PRId64 " of row %" PRId64 " is below 0", positions[i], i);
    if (c->tape && fs_wants_grad(x)) {
        op.params_size = sizeof(rope_params) + (size_t)x->shape[0] * sizeof *positions;
        rope_params *p = fs_op_scratch(&op, (int64_t)op.params_size, 1);
        if (!p) return NULL;
        p->theta = theta;
        memcpy(p->positions, positions, (size_t)x->shape[0] * sizeof *positions);
        op.params = p;
    }
    fs_tensor *y = fs_op_result(&op, 3, x->shape);
    if (!y) return NULL;
    const int64_t tokens = x->shape[0], d = x->shape[2], half = d / 2;
    const int threads = fs_op_threads(&op, fs_tensor_count(x) * 4);
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    float *inv_freq = fs_op_scratch(&op, half, sizeof *inv_freq), *tables = fs_op_scratch(&op, threads * 5 * half, sizeof *tables);
    const bool ok = inv_freq && tables;
    if (ok) {
        for (int64_t i = 0; i < half; i++) inv_freq[i] = 1.0f / powf(theta, (float)(2 * i) / (float)d);
        const job j = {.op = &op, .x = fs_f32(x), .inv_freq = inv_freq, .positions = positions, .heads = x->shape[1], .half = half, .y = fs_f32(y)};
        const int64_t share = (tokens + threads - 1) / threads;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
        for (int part = 0; part < threads; part++)
            for (int64_t t = part * share; t < fs_min_i64(tokens, (part + 1) * share); t++)
                rotate_token(&j, t, j.positions[t], tables + part * 5 * half);
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

static void halves_backward(fs_exec *c, const fs_tape_node *n) {
    const int64_t half = n->out->shape[2] / 2;
    float *dx = fs_grad(c, n->in[0]);
    for (int64_t r = 0; dx && r < n->count / (2 * half); r++)
        for (int64_t i = 0; i < half; i++) {
            dx[r * 2 * half + 2 * i] += n->grad[r * 2 * half + i];
            dx[r * 2 * half + 2 * i + 1] += n->grad[r * 2 * half + half + i];
        }
}

fs_tensor *fs_halves_from_pairs(fs_exec *c, const fs_tensor *x) {
    const fs_op op = {.c = c, .name = "halves_from_pairs", .in = {x}, .backward = halves_backward};
    if (!fs_op_ready(&op, 1) || !fs_op_needs_f32(&op, 0)) return NULL;
    if (x->ndim != 3 || x->shape[2] % 2) return fs_op_misuse(&op, "expected [n,heads,even width], found %s", fs_op_describe(x).text);
    fs_tensor *y = fs_op_result(&op, 3, x->shape);
    if (!y) return NULL;
    const int64_t rows = x->shape[0] * x->shape[1], half = x->shape[2] / 2;
    const int threads = fs_op_threads(&op, fs_tensor_count(x));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++) {
        const float *from = fs_f32(x) + r * 2 * half;
        float *to = fs_f32(y) + r * 2 * half;
        for (int64_t i = 0; i < half; i++) {
            to[i] = from[2 * i];
            to[half + i] = from[2 * i + 1];
        }
    }
    return y;
}
