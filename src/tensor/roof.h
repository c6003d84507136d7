/* What this machine can do at most, measured: see backend/roof.h. */
#ifndef FS_TENSOR_ROOF_H
#define FS_TENSOR_ROOF_H

#include "tensor/tensor.h"

typedef struct fs_roofs {
    double read;             /* bytes a second, of all threads together */
    double f32, int8;        /* operations a second; 0 where it cannot be measured */
    const char *fma, *dot;   /* by which instructions */
    const char *backend, *quant; /* the kernels in use */
} fs_roofs;

/* Measures with the threads and kernels of `x`, for about two seconds. Raises what is in *roofs already (zero-initialise): measured once more later,
 * the best of both counts, as befits a roof. */
fs_status fs_roofs_measure(const fs_exec *x, fs_roofs *roofs, fs_error *err);

/* Bytes a second, reading these very spans. Memory is not the same everywhere (here: 45 or 80 GB/s, by where the system has put it), so the roof for
 * reading weights is taken on the weights. 0 if it cannot be measured. */
typedef struct fs_roof_span { const void *data; size_t bytes; } fs_roof_span;
double fs_roof_read_weights(const fs_exec *x, const fs_roof_span *spans, size_t n);

#endif
