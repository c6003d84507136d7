/* The tape: what was computed, in order, so that gradients can flow back through it (reverse-mode differentiation). Operators record themselves
 * when the context has a tape and one of their inputs has a node; what follows from frozen weights and data alone records nothing. A
 * gradient has the shape of its tensor and is F32.
 *
 *     fs_tape tape = {0};
 *     float *dw = zeroed, as large as w;
 *     fs_tensor leaf = fs_tape_leaf(&tape, w, dw);           a trainable weight
 *     c->tape = &tape;
 *     loss = ... operators on &leaf ...
 *     fs_tape_backward(c, loss, NULL);                       adds to dw
 *     fs_tape_reset(&tape); fs_arena_release(c->arena, mark);
 */
#ifndef FS_TAPE_H
#define FS_TAPE_H

#include "tensor/tensor.h"

enum { FS_OP_INPUTS = 6 };

typedef struct fs_tape_node fs_tape_node;
/* Adds to the gradients of the inputs that want one (fs_grad), from the gradient of the output, n->grad. Runs without a tape, so it may call
 * operators; everything it takes from the arena is given back after it. Errors go to the context. */
typedef void (*fs_backward_fn)(fs_exec *c, const fs_tape_node *n);

struct fs_tape_node {
    const char *name;        /* of the operator */
    fs_backward_fn backward; /* NULL: a leaf */
    const fs_tensor *in[FS_OP_INPUTS];
    const fs_tensor *out;
    const void *params;      /* what else the operator was told, as it recorded it */
    float *grad;             /* NULL as long as nothing has flowed back to here */
    int64_t count;           /* elements of out and grad */
    size_t room;             /* bytes of memory behind grad, if the tape has it */
    bool own_grad;           /* freed by the tape; a leaf's is the caller's */
    fs_tape_node *before;    /* recorded before this one */
};

struct fs_tape {
    fs_tape_node *last; /* nodes live in the arena of the context that records; leaves do not stand in this list */
};

/* A tensor over weight's bytes whose gradient is added to grad [count], which is the caller's. *node is the caller's memory too; both must live as
 * long as the tape is used. weight: F32. */
fs_tensor fs_tape_leaf(fs_tape_node *node, const fs_tensor *weight, float *grad);

/* The gradient of `t` to add to, zeroed at first; NULL if t wants none (or memory is out: the context's error). For backward functions. */
float *fs_grad(fs_exec *c, const fs_tensor *t);
/* The same without zeros: where *fresh, the values are undefined and all of them must be written rather than added to. */
float *fs_grad_into(fs_exec *c, const fs_tensor *t, bool *fresh);
/* The gradient of an output goes to an input as it is, t having as many elements: handed over if it is the first to come there, else added. For the
 * last thing a backward function does with n->grad. */
void fs_grad_pass(fs_exec *c, const fs_tape_node *n, const fs_tensor *t);
static inline bool fs_wants_grad(const fs_tensor *t) { return t && t->node; }

/* Gives back the memory that a context keeps for gradients from one use to the next; fs_exec_end does it. */
void fs_grads_free(fs_exec *c);

/* Flows back from `y` to every leaf it depends on. seed: the gradient of y [count], NULL for a loss of one element: 1. Frees the
 * gradients in between as it goes; the nodes are used up. */
void fs_tape_backward(fs_exec *c, const fs_tensor *y, const float *seed);
/* Forgets everything recorded, gradients in between included; for a step that ended early. */
void fs_tape_reset(fs_tape *t);

/* A part of the network that is computed again in the backward pass instead of remembered (gradient checkpointing, Chen et al. 2016): only x and
 * the result stay. fn must compute the same both times; user is copied (user_size bytes). Without a tape it is fn itself. */
typedef fs_tensor *(*fs_segment_fn)(fs_exec *c, const void *user, const fs_tensor *x);
fs_tensor *fs_checkpoint(fs_exec *c, fs_segment_fn fn, const void *user, size_t user_size, const fs_tensor *x);

/* The end of a network whose result is one number, its share of the total loss being known before: the segment's backward pass runs at once, so
 * nothing of it stays but its result and the gradient of x, and nothing is computed twice. seed: the gradient that will flow back to the result;
 * trained tensors inside get their gradients now, times seed. Without a tape it is fn itself. */
fs_tensor *fs_loss_now(fs_exec *c, fs_segment_fn fn, const void *user, const fs_tensor *x, float seed);

#endif
