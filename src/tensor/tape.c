/* The tape's own part of the backward pass: leaves, the walk from the last node to the first, gradients in between, and segments that are
 * computed again (see tape.h). What each operator does with a gradient stands beside its forward. */
#include "tensor/tape.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/op.h"

fs_tensor fs_tape_leaf(fs_tape_node *node, const fs_tensor *weight, float *grad) {
    fs_tensor leaf = *weight;
    *node = (fs_tape_node){.name = "leaf", .grad = grad, .count = fs_tensor_count(weight)};
    leaf.node = node;
    return leaf;
}

/* ---- memory of gradients: what one node gives back the next one takes, for memory that is new costs a page fault for every page, which took
 * longer than the products ---- */

enum { KEPT = 64, SLACK = 4 << 20 };
typedef struct spare { float *p; size_t room; } spare;
struct fs_spare_grads {
    spare list[KEPT]; /* oldest first */
    size_t count, bytes, live, peak; /* bytes: of the kept ones; live: of those in use; peak: the most that ever were */
};

static void forget(struct fs_spare_grads *p, size_t i) {
    p->bytes -= p->list[i].room;
    memmove(p->list + i, p->list + i + 1, (--p->count - i) * sizeof *p->list);
}

static void give_up_oldest(struct fs_spare_grads *p) {
    fs_pages_free(p->list[0].p, p->list[0].room);
    forget(p, 0);
}

/* At least `bytes`; *room: how many there are. The smallest kept piece that fits without waste; else a new one, for which old ones go where memory
 * would grow beyond what was once in use at the same time, and some. */
static float *take(fs_exec *c, size_t bytes, size_t *room) {
    struct fs_spare_grads *p = c->spare ? c->spare : (c->spare = fs_alloc_zero(1, sizeof *c->spare));
    if (!p) return NULL;
    size_t best = KEPT;
    for (size_t i = 0; i < p->count; i++)
        if (p->list[i].room >= bytes && p->list[i].room <= bytes + bytes / 2 + 4096 && (best == KEPT || p->list[i].room < p->list[best].room)) best = i;
    float *memory = NULL;
    if (best < KEPT) {
        memory = p->list[best].p;
        *room = p->list[best].room;
        forget(p, best);
    } else {
        while (p->count && p->live + p->bytes + bytes > p->peak + p->peak / 8 + SLACK) give_up_oldest(p);
        memory = fs_pages_alloc(bytes);
        *room = bytes;
    }
    if (memory) p->live += *room;
    if (p->live > p->peak) p->peak = p->live;
    return memory;
}

static void give_back(fs_exec *c, float *memory, size_t room) {
    struct fs_spare_grads *p = c->spare;
    if (!memory) return;
    p->live -= p->live < room ? p->live : room;
    if (p->count == KEPT) give_up_oldest(p);
    p->list[p->count++] = (spare){memory, room};
    p->bytes += room;
}

void fs_grads_free(fs_exec *c) {
    while (c->spare && c->spare->count) give_up_oldest(c->spare);
    free(c->spare);
    c->spare = NULL;
}

/* ---- gradients ---- */

float *fs_grad_into(fs_exec *c, const fs_tensor *t, bool *fresh) {
    fs_tape_node *n = t ? t->node : NULL;
    *fresh = false;
    if (!n || c->error.status) return NULL;
    if (n->grad) return n->grad;
    n->grad = take(c, (size_t)n->count * sizeof *n->grad, &n->room);
    n->own_grad = true;
    *fresh = n->grad != NULL;
    if (!n->grad) fs_exec_fail(c, FS_E_NO_MEMORY, "out of memory for the gradient of %s", n->name);
    return n->grad;
}

float *fs_grad(fs_exec *c, const fs_tensor *t) {
    bool fresh;
    float *grad = fs_grad_into(c, t, &fresh);
    if (fresh) memset(grad, 0, (size_t)t->node->count * sizeof *grad);
    return grad;
}

void fs_grad_pass(fs_exec *c, const fs_tape_node *n, const fs_tensor *t) {
    fs_tape_node *to = t ? t->node : NULL, *from = (fs_tape_node *)(uintptr_t)n;
    if (!to || c->error.status) return;
    if (!to->grad && n->own_grad) {
        to->grad = n->grad;
        to->room = n->room;
        to->own_grad = true;
        from->grad = NULL;
        return;
    }
    bool fresh;
    float *dx = fs_grad_into(c, t, &fresh);
    if (dx) fs_add_to(c, dx, n->grad, n->count, fresh);
}

static void drop_grad(fs_exec *c, fs_tape_node *n) {
    if (n->own_grad) give_back(c, n->grad, n->room);
    n->grad = NULL;
}

void fs_tape_reset(fs_tape *t) {
    for (fs_tape_node *n = t->last; n; n = n->before) {
        if (n->own_grad) fs_pages_free(n->grad, n->room);
        n->grad = NULL;
    }
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

/* From the last node to the first. Leaves the context without a tape. */
static void walk(fs_exec *c, fs_tape *tape) {
    c->tape = NULL;
    for (fs_tape_node *n = tape->last; n; n = n->before) {
        const fs_arena_mark mark = fs_arena_get_mark(c->arena);
        if (n->grad && !c->error.status) n->backward(c, n);
        fs_arena_release(c->arena, mark);
        drop_grad(c, n);
    }
    tape->last = NULL;
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
    if (dy && seed) fs_add_to(c, dy, seed, fs_tensor_count(y), false);
    else if (dy) dy[0] += 1.0f;
    walk(c, tape);
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
    if (y && y->node) {
        fs_grad_pass(c, n, y);
        walk(c, &inner);
    }
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

/* ---- a loss whose gradient is taken at once ---- */

typedef struct loss_now { float seed; float *dx; /* [count of x], the gradient for a seed as promised; NULL: x wants none */ } loss_now;

static void backward_loss_now(fs_exec *c, const fs_tape_node *n) {
    const loss_now *l = n->params;
    bool fresh;
    float *dx = l->dx && fs_wants_grad(n->in[0]) ? fs_grad_into(c, n->in[0], &fresh) : NULL;
    if (n->grad[0] != l->seed && !(fabsf(n->grad[0] - l->seed) <= 1e-5f * fabsf(l->seed)))
        fs_exec_fail(c, FS_E_INTERNAL, "a loss was promised a gradient of %g and gets %g", (double)l->seed, (double)n->grad[0]);
    else if (dx) fs_add_to(c, dx, l->dx, fs_tensor_count(n->in[0]), fresh);
}

fs_tensor *fs_loss_now(fs_exec *c, fs_segment_fn fn, const void *user, const fs_tensor *x, float seed) {
    fs_tape *tape = c->tape;
    if (!tape) return fn(c, user, x);
    if (!x || c->error.status) return NULL;
    loss_now l = {.seed = seed};
    const int64_t count = fs_tensor_count(x);
    fs_tape inner = {0};
    fs_tape_node node;
    fs_tensor leaf = *x;
    if (fs_wants_grad(x)) {
        l.dx = fs_arena_alloc(c->arena, (size_t)count * sizeof *l.dx);
        if (!l.dx) {
            fs_exec_fail(c, FS_E_NO_MEMORY, "out of memory for the gradient of %lld values", (long long)count);
            return NULL;
        }
        memset(l.dx, 0, (size_t)count * sizeof *l.dx);
        leaf = fs_tape_leaf(&node, x, l.dx);
    }
    const fs_op op = {.c = c, .name = "loss_now", .in = {x}, .backward = backward_loss_now, .params = &l, .params_size = sizeof l};
    fs_tensor *y = fs_new(c, 1, (const int64_t[]){1});
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    c->tape = &inner;
    const fs_tensor *loss = fn(c, user, &leaf);
    if (loss && y) fs_f32(y)[0] = fs_f32(loss)[0];
    if (loss && loss->node) fs_tape_backward(c, loss, &seed);
    fs_tape_reset(&inner);
    c->tape = tape;
    fs_arena_release(c->arena, mark);
    if (!loss || c->error.status) return NULL;
    fs_tape_record(&op, y, true);
    return y;
}
