/* Element types and shapes: names as safetensors writes them, sizes, element counts, shapes as text.
 *
 * A shape may come from an untrusted file, so the count is checked: dimensions are not negative and the product, taken times
 * the largest element (8 bytes), still fits a pointer difference. A dimension of 0 makes the count 0 whatever the others are. */
#include "tensor/tensor.h"

#include <inttypes.h>
#include <string.h>

typedef struct dtype_info { const char *name; size_t size; } dtype_info;

static const dtype_info dtypes[] = {
    [FS_DTYPE_F32] = {"F32", 4}, [FS_DTYPE_F16] = {"F16", 2}, [FS_DTYPE_BF16] = {"BF16", 2}, [FS_DTYPE_F64] = {"F64", 8},
    [FS_DTYPE_I64] = {"I64", 8}, [FS_DTYPE_I32] = {"I32", 4}, [FS_DTYPE_I16] = {"I16", 2},   [FS_DTYPE_I8] = {"I8", 1},
    [FS_DTYPE_U8] = {"U8", 1},   [FS_DTYPE_BOOL] = {"BOOL", 1},
};
enum { DTYPE_COUNT = (int)(sizeof dtypes / sizeof dtypes[0]) };

const char *fs_dtype_name(fs_dtype t) { return (int)t >= 0 && (int)t < DTYPE_COUNT ? dtypes[t].name : "unknown"; }

bool fs_dtype_from_name(const char *name, fs_dtype *out) {
    for (int i = 0; name && i < DTYPE_COUNT; i++)
        if (strcmp(name, dtypes[i].name) == 0) {
            *out = (fs_dtype)i;
            return true;
        }
    return false;
}

size_t fs_dtype_size(fs_dtype t) { return (int)t >= 0 && (int)t < DTYPE_COUNT ? dtypes[t].size : 0; }

bool fs_shape_count(int ndim, const int64_t *shape, int64_t *count) {
    const int64_t most = PTRDIFF_MAX / 8;
    int64_t n = 1;
    bool empty = false;
    if (ndim < 0 || ndim > FS_MAX_DIMS) return false;
    for (int d = 0; d < ndim; d++) {
        if (shape[d] < 0) return false;
        if (shape[d] == 0) empty = true;
    }
    for (int d = 0; d < ndim && !empty; d++)
        if (!fs_mul_i64(n, shape[d], &n) || n > most) return false;
    *count = empty ? 0 : n;
    return true;
}

int64_t fs_tensor_count(const fs_tensor *t) {
    int64_t n = 1;
    for (int d = 0; d < t->ndim; d++) n *= t->shape[d]; /* every tensor was checked by fs_shape_count when it was made */
    return n;
}

void fs_shape_text(const fs_tensor *t, char *out, size_t size) {
    if (size == 0) return;
    size_t used = 0;
    out[0] = '\0';
    for (int d = 0; d <= t->ndim; d++) {
        char piece[32];
        if (d == t->ndim)
            snprintf(piece, sizeof piece, "%s]", d == 0 ? "[" : "");
        else
            snprintf(piece, sizeof piece, "%s%" PRId64, d == 0 ? "[" : ",", t->shape[d]);
        for (const char *p = piece; *p && used + 1 < size; p++) out[used++] = *p;
    }
    out[used] = '\0';
}
