/* Checks an operator's backward pass: against finite differences along random directions, and against PyTorch's goldens. Fixed seeds.
 *
 * The first: for a random direction u of one input and random weights r of the output, (L(x + e u) - L(x - e u)) / 2e with L = <r, y> summed in
 * f64 must be <dL/dx, u>. y is computed in f32, so L is known to about 1e-7 of its terms; with e = 2e-3 that leaves about 1e-4 of the slope. */
#ifndef FS_TEST_GRADCHECK_H
#define FS_TEST_GRADCHECK_H

#include "format/archive.h"
#include "tensor/ops.h"
#include "tensor/tape.h"

enum { FS_GRAD_INPUTS = 6 };

typedef struct fs_grad_input { int ndim; int64_t shape[FS_MAX_DIMS]; double around, spread; } fs_grad_input;
typedef struct fs_grad_case {
    const char *name, *golden; /* golden: its name in the file of goldens; NULL: none */
    fs_tensor *(*run)(fs_exec *c, fs_tensor *const *in);
    fs_grad_input in[FS_GRAD_INPUTS]; /* ndim 0 ends them */
} fs_grad_case;
#define FS_GRAD_RUN(name, expression)                                                                                                      \
    static fs_tensor *name(fs_exec *c, fs_tensor *const *x) { return expression; }
/* An input of values in -1..1. */
#define FS_GRAD_IN(...) {sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), {__VA_ARGS__}, 0, 1}

fs_exec fs_grad_start(int threads); /* a context in F32; fails the test if there is none */
/* Every input wants a gradient, and gets the right one. */
void fs_grad_check(const fs_grad_case *t, int threads);
/* The gradients are those of goldens `golden`.d0, .d1, ... for inputs and a seed by formula (tools/reference/make_grad_goldens.py). */
void fs_grad_compare(const fs_grad_case *t, fs_archive *goldens);
/* Runs the case with 1 and with `threads` threads: the same bits. */
void fs_grad_same_bits(const fs_grad_case *t, int threads);

#endif
