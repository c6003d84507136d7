/* Convolutions of pictures with few points: op_conv_few.c. Private to op_conv.c. */
#ifndef FS_OP_CONV_FEW_H
#define FS_OP_CONV_FEW_H

#include "tensor/op.h"

/* y [out, points] = kernel [out, terms] x patches [terms, points], finished. row(user, p): the points of kernel place p. */
typedef struct fs_conv_few {
    int64_t out, terms, points;
    const float *(*row)(const void *user, int64_t place);
    const void *user;
} fs_conv_few;

/* Is this the faster way to multiply them? */
bool fs_conv_few_pays(const fs_backend *be, const fs_conv_few *p);
/* The kernel as fs_conv_few_run reads it: how many values, and making them from [out, terms] of F32, F16 or BF16. */
int64_t fs_conv_few_floats(const fs_conv_few *p);
void fs_conv_few_kernel(const fs_op *op, const fs_conv_few *p, const fs_tensor *kernel, float *panels);
/* The bits of the product the other way round. For any number of points. False (and the context's error) when out of memory. */
bool fs_conv_few_run(const fs_op *op, const fs_conv_few *p, const float *panels, const fs_finish *finish, float *y);

#endif
