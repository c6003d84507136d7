/* Convolution with 3 x 3 kernels at stride 1 and padding 1 by Winograd's method: op_winograd.c. Private to op_conv.c. */
#ifndef FS_OP_WINOGRAD_H
#define FS_OP_WINOGRAD_H

#include "tensor/op.h"

typedef struct fs_winograd {
    int m;
    int64_t in, out, h, w;
} fs_winograd; /* results in squares of m x m; channels; the picture's size */

/* The m that takes the fewest multiplications, 0 if the convolution itself does; whether this picture can be done with the plan's m (0:
 * never). */
int fs_winograd_choose(const fs_backend *be, const fs_winograd *p);
bool fs_winograd_fits(const fs_backend *be, const fs_winograd *p);
int64_t fs_winograd_floats(const fs_winograd *p); /* of a transformed kernel */
void fs_winograd_kernel(const fs_op *op, const fs_winograd *p, const fs_tensor *w, float *u);
/* y [out, h, w] = kernel x picture [in, h, w], finished. False (and the context's error) when out of memory. */
bool fs_winograd_run(const fs_op *op, const fs_winograd *p, const float *u, const float *x, const fs_finish *finish, float *y);

#endif
