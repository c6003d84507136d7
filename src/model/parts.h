/* What the networks share: binding a linear layer or a norm, and running a linear layer. Private to this room. */
#ifndef FS_MODEL_PARTS_H
#define FS_MODEL_PARTS_H

#include "model/model.h"

/* NAME.weight [out, in] and NAME.bias [out]; -1 = any (read it from w->shape). After the first failure in `b` both are NULL. */
fs_affine fs_bind_affine(fs_binder *b, int64_t out, int64_t in, const char *name_format, ...) __attribute__((format(printf, 4, 5)));
/* NAME.weight and NAME.bias, both [channels]: the affine part of a norm. */
fs_affine fs_bind_norm(fs_binder *b, int64_t channels, const char *name_format, ...) __attribute__((format(printf, 3, 4)));
/* NAME.weight [out, in, kernel, kernel] and NAME.bias [out]. */
fs_affine fs_bind_conv(fs_binder *b, int64_t out, int64_t in, int64_t kernel, const char *name_format, ...)
    __attribute__((format(printf, 5, 6)));
/* NAME.weight alone. */
const fs_tensor *fs_bind_kernel(fs_binder *b, int64_t out, int64_t in, int64_t kernel, const char *name_format, ...)
    __attribute__((format(printf, 5, 6)));
/* How many of prefix + format(0), format(1), ... there are; format holds one %d. */
int fs_bind_count(const fs_binder *b, const char *before, const char *after);
/* PREFIX.0 and so on, if the patch embedding behind it has other than 3 channels; none otherwise. */
fs_stem fs_bind_stem(fs_binder *b, int64_t channels, const char *prefix);
/* pixels [3, S, S], normed -> what the patches are made of: the same without a stem, else [channels, S/8, S/8] or half of that. */
fs_tensor *fs_stem_forward(fs_exec *c, const fs_stem *m, fs_tensor *pixels);
/* How many pixels a side of the stem's result stands for. */
int64_t fs_stem_step(const fs_stem *m);
/* Fails the binder (if it has not failed yet) with a line about prefix + name. */
void fs_bind_fail(fs_binder *b, const char *name, const char *format, ...) __attribute__((format(printf, 3, 4)));
/* Dimension d of a bound tensor, 0 if binding failed. */
static inline int64_t fs_dim(const fs_tensor *t, int d) { return t ? t->shape[d] : 0; }

static inline fs_tensor *fs_affine_linear(fs_exec *c, const fs_tensor *x, const fs_affine *a) { return fs_linear(c, x, a->w, a->b); }
/* And what follows it, in one pass: the activation; residual + the layer's result. A tape is given an activation as a step of its own. */
static inline fs_tensor *fs_affine_gelu(fs_exec *c, const fs_tensor *x, const fs_affine *a) {
    return c->tape ? fs_gelu(c, fs_affine_linear(c, x, a)) : fs_linear_gelu(c, x, a->w, a->b);
}
static inline fs_tensor *fs_affine_quick_gelu(fs_exec *c, const fs_tensor *x, const fs_affine *a) {
    return c->tape ? fs_quick_gelu(c, fs_affine_linear(c, x, a)) : fs_linear_quick_gelu(c, x, a->w, a->b);
}
static inline fs_tensor *fs_affine_add(fs_exec *c, const fs_tensor *x, const fs_affine *a, const fs_tensor *residual) {
    return fs_linear_add(c, x, a->w, a->b, residual);
}
/* The linear layer where PyTorch 1.13, on which the original runs, does not add the bias in the product itself: inputs of more than three dimensions
 * (SAM's grids) and transposed views. A 16-bit network then rounds the product once and the sum once more. */
static inline fs_tensor *fs_affine_apart(fs_exec *c, const fs_tensor *x, const fs_affine *a) {
    if (c->precision == FS_DTYPE_F32) return fs_linear(c, x, a->w, a->b);
    return fs_add(c, fs_linear(c, x, a->w, NULL), a->b);
}

/* And what follows that. */
static inline fs_tensor *fs_affine_apart_gelu(fs_exec *c, const fs_tensor *x, const fs_affine *a) {
    if (c->precision == FS_DTYPE_F32) return fs_affine_gelu(c, x, a);
    return fs_gelu(c, fs_affine_apart(c, x, a));
}
static inline fs_tensor *fs_affine_apart_add(fs_exec *c, const fs_tensor *x, const fs_affine *a, const fs_tensor *residual) {
    if (c->precision == FS_DTYPE_F32) return fs_affine_add(c, x, a, residual);
    return fs_add(c, residual, fs_affine_apart(c, x, a));
}

/* Sets the context's error and returns false unless x is there and has this shape (-1 = any). what: "CLIP's pixels". */
bool fs_expect_shape(fs_exec *c, const fs_tensor *x, int ndim, const int64_t *shape, const char *what);
#define fs_expect_3d(c, x, a, b, d, what) fs_expect_shape((c), (x), 3, (const int64_t[]){(a), (b), (d)}, (what))
#define fs_expect_2d(c, x, a, b, what) fs_expect_shape((c), (x), 2, (const int64_t[]){(a), (b)}, (what))

#endif
