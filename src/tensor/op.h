/* What every operator does the same way: check its inputs, create its result, take scratch, say what is wrong. Private to op_*.c. */
#ifndef FS_OP_H
#define FS_OP_H

#include "backend/backend.h"
#include "tensor/ops.h"
#include "tensor/tape.h"

/* One call as a tape wants it: the inputs (optional ones may be NULL), the backward pass, and what that needs beside inputs and output, which
 * is copied when the result is made. */
typedef struct fs_op {
    fs_exec *c;
    const char *name;
    const fs_tensor *in[FS_OP_INPUTS];
    fs_backward_fn backward;
    const void *params;
    size_t params_size;
} fs_op;

/* True if the operator may run: the context has no error and the first `required` inputs are there (a NULL input is the result of an
 * operator that failed, or a weight that was not found: whoever made it has said so). */
bool fs_op_ready(const fs_op *op, int required);
/* Misuse: sets the context's error to "NAME: message". Returns NULL for `return fs_op_misuse(...)`. */
void *fs_op_misuse(const fs_op *op, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* True if in[i] is F32, else misuse. */
bool fs_op_needs_f32(const fs_op *op, int i);
/* True if t is NULL or holds count elements of a float type, else misuse; `what` names it. */
bool fs_op_needs_vector(const fs_op *op, const fs_tensor *t, int64_t count, const char *what);

/* Every result is created here, so a tape has one place to record: a new F32 tensor, or another view of in[0]'s data. */
fs_tensor *fs_op_result(const fs_op *op, int ndim, const int64_t *shape);
fs_tensor *fs_op_view(const fs_op *op, int ndim, const int64_t *shape, void *data);

/* Records `out` if there is a tape and an input wants a gradient (or `always`). fs_op_result and fs_op_view do it. */
void fs_tape_record(const fs_op *op, fs_tensor *out, bool always);

/* Scratch for the rest of the call; the operator takes the arena's mark after its result and releases to it at the end. NULL (and the
 * error set) when out of memory. */
void *fs_op_scratch(const fs_op *op, int64_t count, size_t size);
/* The values of a float tensor as f32, rounded to the precision: t's own bytes if they are that already, else a copy in scratch. */
const float *fs_op_values(const fs_op *op, const fs_tensor *t);
/* A weight matrix in a type the kernels read (F32, F16, BF16): itself, or for F64 a wrapped f32 copy in scratch. */
const fs_tensor *fs_op_matrix(const fs_op *op, const fs_tensor *w);

/* A batch norm over n channels as y = x factor + shift; false and the context's error when out of memory. */
bool fs_op_batch_affine(const fs_op *op, const fs_batch *norm, int64_t n, float *factor, float *shift);

bool fs_is_float(fs_dtype t);
/* to += from, or = where to is fresh; by all threads. */
void fs_add_to(fs_exec *c, float *to, const float *from, int64_t n, bool fresh);
/* Threads worth starting for `work` simple operations (about one a nanosecond). */
int fs_op_threads(const fs_op *op, int64_t work);
/* Bytes that do not overlap, by all threads where they are many. */
void fs_copy_bytes(void *to, const void *from, size_t bytes, int threads);
/* "w NAME [2,3]" or "[2,3]", for error lines. */
typedef struct fs_op_text { char text[128]; } fs_op_text;
fs_op_text fs_op_describe(const fs_tensor *t);

#endif
