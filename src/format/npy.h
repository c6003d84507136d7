/* NumPy's .npy: one array of numbers in a file, versions 1 to 3 (numpy/lib/format.py). */
#ifndef FS_NPY_H
#define FS_NPY_H

#include "base/base.h"

typedef struct fs_npy {
    int64_t rows, columns; /* a vector is one row; dimensions of 1 are left out */
    float *data;           /* [rows][columns], row-major, owned */
} fs_npy;

/* Arrays of one or two dimensions (others must be 1): f2, f4, f8, i1, u1, i2, u2, i4, u4, i8, u8 and bool, either byte order, C or Fortran
 * order. Whole numbers are read as they are: 255 is 255. `name` is for error lines. */
fs_status fs_npy_parse(const char *name, const uint8_t *data, size_t size, fs_npy *out, fs_error *err);
fs_status fs_npy_read(const char *path, fs_npy *out, fs_error *err);
void fs_npy_free(fs_npy *a);

#endif
