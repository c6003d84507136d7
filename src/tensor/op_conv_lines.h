/* Convolutions that read the picture where it lies, of few channels above all: see op_conv_lines.c. */
#ifndef FS_OP_CONV_LINES_H
#define FS_OP_CONV_LINES_H

#include "tensor/op.h"

/* A kernel that goes over a picture [channels, h, w] in steps; the grid of its places is grid_h x grid_w. */
typedef struct fs_conv_grid { int64_t h, w, kh, kw, grid_h, grid_w, stride, pad; } fs_conv_grid;

/* The picture in lines that a kernel place walks along. Freed with the arena. */
typedef struct fs_conv_lines {
    const fs_conv_grid *g;
    int64_t channels, across, down; /* remainders of a kernel place to the stride, in both directions */
    int64_t lines, width;           /* of each remainder */
    float *values;
    int64_t *at; /* where kernel place (channel, ky, kx) finds the grid's first point, [channels kh kw] */
} fs_conv_lines;

/* Is a convolution to `out` channels, or the gradient of its kernel, faster so? */
bool fs_conv_lines_pay(const fs_op *op, const fs_conv_grid *g, int64_t channels, int64_t out);
bool fs_conv_lines_pay_back(const fs_conv_grid *g, int64_t channels, int64_t out);

bool fs_conv_lines_fill(const fs_op *op, const fs_conv_grid *g, int64_t channels, const float *x, fs_conv_lines *out);

/* dw [m, channels kh kw] += rows [m, points] x patches^T; the bits of fs_gemm_run. */
bool fs_conv_lines_gradient(const fs_op *op, const fs_conv_lines *s, int64_t m, const float *rows, float *dw);

/* dx [channels, h, w] += what dy [m, grid] spreads through kernel [m, channels kh kw] (F32), the gradient of a convolution's input; and whether that is faster
 * than a product of all contributions. The same sums, in the same order where dx held 0. */
bool fs_conv_lines_pay_spread(const fs_conv_grid *g, int64_t channels, int64_t m);
bool fs_conv_lines_spread(const fs_op *op, const fs_conv_grid *g, int64_t m, int64_t channels, const float *kernel, const float *dy, float *dx);

#endif
