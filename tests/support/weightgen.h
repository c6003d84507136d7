/* Weights by formula for tests: a tensor's name and shape give its values, the same as
 * tools/reference/weightgen.py computes, so networks of any size can be compared with PyTorch without
 * weight files. The formula and the table of scales are described there. */
#ifndef FS_TEST_WEIGHTGEN_H
#define FS_TEST_WEIGHTGEN_H

#include <stddef.h>
#include <stdint.h>

/* Writes the prod(shape) values of tensor `name` to `out` (row-major float32). The caller owns `out`. */
void fs_test_weight(const char *name, size_t ndim, const int64_t *shape, float *out);

#endif
