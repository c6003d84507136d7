/* The tape's own part of the backward pass: leaves, the walk from the last node to the first, gradients in between, and segments that are
 * computed again (see tape.h). What each operator does with a gradient stands beside its forward. */
#include "tensor/tape.h"

#include <stdlib.h>
#include <string.h>

#include "tensor/op.h"

fs_tensor fs_tape_leaf(fs_tape_node *node, const fs_tensor *weight, float *grad) {
    fs_tensor leaf = *weight;
    *node = (fs_tape_node){.name = "leaf", .grad = grad, .count = fs_tensor_count(weight)};
    leaf.node = node;
    return leaf;
}

/* ---- gradients in between ----
 * Many of some megabytes come and go in each step; without memory that stays, the system would clear pages for each of them, which takes longer
 * than many an operator. So all but the smallest and the largest are kept for the next that fits. A block serves what needs at least half of
 * it, and one that is too small goes when a larger one is made, so what is kept follows the largest step and not the number of steps. */

enum { SPARE_BLOCKS = 64, SPARE_LEAST = 1 << 14, SPARE_MOST = 1 << 27 }; /* floats: 64 KiB to 512 MiB */
struct fs_spare_grads { int n; struct { float *p; int64_t room; } block[SPARE_BLOCKS]; };

static float *take_block(struct fs_spare_grads *s, int i) {
    float *p = s->block[i].p;
    s->block[i] = s->block[--s->n];
    return p;
}

/* At least count floats, as many as *room says, not cleared. */
static float *take_memory(fs_exec *c, int64_t count, int64_t *room) {
    struct fs_spare_grads *s = c->spare;
    int fits = -1, small = -1;
    for (int i = 0; s && i < s->n; i++) {
        const int64_t has = s->block[i].room;
        if (has >= count && has <= 2 * count && (fits < 0 || has < s->block[fits].room)) fits = i;
        if (has < count && (small < 0 || has > s->block[small].room)) small = i;
    }
    if (fits >= 0) {
        *room = s->block[fits].room;
        return take_block(s, fits);
    }
    if (small >= 0 && count <= SPARE_MOST && 2 * s->block[small].room > count) free(take_block(s, small));
    *room = count;
    return fs_alloc((size_t)count, sizeof(float));
}

static void give_back(fs_exec *c, float *p, int64_t room) {
    if (!c->spare && room >= SPARE_LEAST) c->spare = fs_alloc_zero(1, sizeof *c->spare);
    if (p && c->spare && c->spare->n < SPARE_BLOCKS && room >= SPARE_LEAST && room <= SPARE_MOST) {
        c->spare->block[c->spare->n].p = p;
        c->spare->block[c->spare->n++].room = room;
    } else {
        free(p);
    }
}

void fs_grads_free(fs_exec *c) {
    while (c->spare && c->spare->n > 0) free(take_block(c->spare, 0));
    free(c->spare);
    c->spare = NULL;
}

float *fs_grad(fs_exec *c, const fs_tensor *t) {
    fs_tape_node *n = t ? t->node : NULL;
    if (!n || c->error.status) return NULL;
    if (n->grad) return n->grad;
    n->grad = take_memory(c, n->count, &n->room);
    n->own_grad = true;
    if (n->grad) memset(n->grad, 0, (size_t)n->count * sizeof *n->grad);
    if (!n->grad) fs_exec_fail(c, FS_E_NO_MEMORY, "out of memory for the gradient of %s", n->name);
    return n->grad;
}

/* c: whose the memory will be; NULL: nobody's */
static void drop_grad(fs_exec *c, fs_tape_node *n) {
    if (n->own_grad && c) give_back(c, n->grad, n->room);
    else if (n->own_grad) free(n->grad);
    n->grad = NULL;
}

void fs_tape_reset(fs_tape *t) {
    for (fs_tape_node *n = t->last; n; n = n->before) drop_grad(NULL, n);
    t->last = NULL;
}

void fs_tape_record(const fs_op *op, fs_tensor *out, bool always) {
    fs_exec *c = op->c;
    bool wanted = always;
    for (int i = 0; i < FS_OP_INPUTS && c->tape; i++) wanted = wanted || fs_wants_grad(op->in[i]);
    if (!c->tape || !wanted || !out) return;
    if (!op->backward) {
        fs_exec_fail(c, FS_E_UNSUPPORTED, "%s: there is no backward pass of this operator", op->name);
        return;
    }
    fs_tape_node *n = fs_arena_alloc(c->arena, sizeof *n);
    void *params = op->params_size ? fs_arena_alloc(c->arena, op->params_size) : NULL;
    if (!n || (op->params_size && !params)) {
        fs_exec_fail(c, FS_E_NO_MEMORY, "%s: out of memory for the tape", op->name);
        return;
    }
    if (params) memcpy(params, op->params, op->params_size);
    *n = (fs_tape_node){.name = op->name, .backward = op->backward, .out = out, .params = params, .count = fs_tensor_count(out), .before = c->tape->last};
    memcpy(n->in, op->in, sizeof n->in);
    c->tape->last = n;
    out->node = n;
}

void fs_tape_backward(fs_exec *c, const fs_tensor *y, const float *seed) {
    fs_tape *tape = c->tape;
    if (!y || c->error.status) return;
    if (!tape || !y->node) {
        fs_exec_fail(c, FS_E_INTERNAL, "backward: nothing that can be trained leads to this result");
        return;
    }
    if (!seed && fs_tensor_count(y) != 1) {
        fs_exec_fail(c, FS_E_INTERNAL, "backward: a loss is one number, this has %lld", (long long)fs_tensor_count(y));
        return;
    }
    float *dy = fs_grad(c, y);
    for (int64_t i = 0; dy && i < fs_tensor_count(y); i++) dy[i] += seed ? seed[i] : 1.0f;
    c->tape = NULL;
    for (fs_tape_node *n = tape->last; n; n = n->before) {
        const fs_arena_mark mark = fs_arena_get_mark(c->arena);
        if (n->grad && !c->error.status) n->backward(c, n);
        fs_arena_release(c->arena, mark);
        drop_grad(c, n);
    }
    tape->last = NULL;
    c->tape = tape;
}

/* ---- segments ---- */

typedef struct segment {
    fs_segment_fn fn;
    const void *user;
} segment;

/* Once more with a tape of its own, and back through it. */
static void backward_segment(fs_exec *c, const fs_tape_node *n) {
    const segment *s = n->params;
    fs_tape inner = {0};
    c->tape = &inner;
    const fs_tensor *y = s->fn(c, s->user, n->in[0]); /* whose node is the outer tape's: what flows back to it waits there */
    if (y && y->node) fs_tape_backward(c, y, n->grad);
    fs_tape_reset(&inner);
    c->tape = NULL;
}

fs_tensor *fs_checkpoint(fs_exec *c, fs_segment_fn fn, const void *user, size_t user_size, const fs_tensor *x) {
    fs_tape *tape = c->tape;
    if (!tape) return fn(c, user, x);
    if (!x || c->error.status) return NULL;
    void *kept = fs_arena_alloc(c->arena, user_size ? user_size : 1);
    if (!kept) {
        fs_exec_fail(c, FS_E_NO_MEMORY, "out of memory for the tape");
        return NULL;
    }
    memcpy(kept, user, user_size);
    const segment s = {fn, kept};
    const fs_op op = {.c = c, .name = "checkpoint", .in = {x}, .backward = backward_segment, .params = &s, .params_size = sizeof s};
    c->tape = NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_tensor *y = fs_scope_end(c, mark, fn(c, kept, x));
    c->tape = tape;
    fs_tape_record(&op, y, true); /* weights inside may be trained even if x is data */
    return y;
}
