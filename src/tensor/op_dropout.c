/* Dropout (Srivastava et al. 2014), inverted: what stays is made larger, so inference does nothing. The mask is never stored: value i of a call
 * is kept or not by a number that Philox gives for i under the call's key, in the forward pass, in the backward pass and in a segment that is
 * computed again. */
#include "tensor/op.h"

enum { CHUNK = 2048 };
_Static_assert(CHUNK % FS_DROP_RUN == 0, "a chunk begins with a run of random numbers");

typedef struct dropout_params { uint64_t key; uint32_t below; float factor; } dropout_params; /* dropped are numbers under `below` */

static void drop_all(const fs_op *op, const dropout_params *p, const float *x, int64_t count, bool add, float *y) {
    const int64_t chunks = (count + CHUNK - 1) / CHUNK;
    const int threads = fs_op_threads(op, 4 * count);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < chunks; i++) {
        const int64_t n = fs_min_i64(CHUNK, count - i * CHUNK);
        op->c->backend->drop(x + i * CHUNK, i * CHUNK, n, p->key, p->below, p->factor, add, y + i * CHUNK);
        if (!add) op->c->backend->round(y + i * CHUNK, n, op->c->precision);
    }
}

static void dropout_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "dropout"};
    float *dx = fs_grad(c, node->in[0]);
    if (dx) drop_all(&op, node->params, node->grad, node->count, true, dx);
}

fs_tensor *fs_dropout(fs_exec *c, const fs_tensor *x, float p, uint64_t key) {
    const bool valid = p >= 0.0f && p < 1.0f;
    const dropout_params params = {.key = key, .below = valid ? (uint32_t)((double)p * 0x1p32) : 0, .factor = valid ? 1.0f / (1.0f - p) : 0.0f};
    const fs_op op = {.c = c, .name = "dropout", .in = {x}, .backward = dropout_backward, .params = &params, .params_size = sizeof params};
    if (!fs_op_ready(&op, 1) || !fs_op_needs_f32(&op, 0)) return NULL;
    if (!valid) return fs_op_misuse(&op, "a probability of %g to be dropped is not in [0, 1)", (double)p);
    if (p == 0.0f) return (fs_tensor *)(uintptr_t)x;
    fs_tensor *y = fs_op_result(&op, x->ndim, x->shape);
    if (y) drop_all(&op, &params, fs_f32(x), fs_tensor_count(x), false, fs_f32(y));
    return y;
}
