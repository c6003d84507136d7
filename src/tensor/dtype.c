/* Element types and shapes: names as safetensors and ggml write them, sizes, element counts, shapes as text.
 *
 * A shape may come from an untrusted file, so the count is checked: dimensions are not negative and the product, taken times
 * the largest element (8 bytes), still fits a pointer difference. A dimension of 0 makes the count 0 whatever the others are. */
#include "tensor/tensor.h"

#include <inttypes.h>
#include <string.h>

typedef struct dtype_info { const char *name; int64_t block; size_t bytes; } dtype_info; /* bytes: of a block; 0 where rows are interleaved */

static const dtype_info dtypes[] = {
    [FS_DTYPE_F32] = {"F32", 1, 4},      [FS_DTYPE_F16] = {"F16", 1, 2},      [FS_DTYPE_BF16] = {"BF16", 1, 2},
    [FS_DTYPE_F64] = {"F64", 1, 8},      [FS_DTYPE_I64] = {"I64", 1, 8},      [FS_DTYPE_I32] = {"I32", 1, 4},
    [FS_DTYPE_I16] = {"I16", 1, 2},      [FS_DTYPE_I8] = {"I8", 1, 1},        [FS_DTYPE_U8] = {"U8", 1, 1},
    [FS_DTYPE_BOOL] = {"BOOL", 1, 1},    [FS_DTYPE_Q8_0] = {"Q8_0", 32, 34},  [FS_DTYPE_Q4_0] = {"Q4_0", 32, 18},
    [FS_DTYPE_Q4_K] = {"Q4_K", 256, 144}, [FS_DTYPE_Q6_K] = {"Q6_K", 256, 210}, [FS_DTYPE_Q4_1] = {"Q4_1", 32, 20},
    [FS_DTYPE_Q5_0] = {"Q5_0", 32, 22},  [FS_DTYPE_Q5_1] = {"Q5_1", 32, 24},  [FS_DTYPE_Q5_K] = {"Q5_K", 256, 176},
    [FS_DTYPE_Q8_0X16] = {"Q8_0x16", 32, 0}, [FS_DTYPE_Q4_0X16] = {"Q4_0x16", 32, 0}, [FS_DTYPE_Q4_KX16] = {"Q4_Kx16", 256, 0},
};
enum { DTYPE_COUNT = (int)(sizeof dtypes / sizeof dtypes[0]) };

static bool known(fs_dtype t) { return (int)t >= 0 && (int)t < DTYPE_COUNT; }

const char *fs_dtype_name(fs_dtype t) { return known(t) ? dtypes[t].name : "unknown"; }

bool fs_dtype_from_name(const char *name, fs_dtype *out) {
    for (int i = 0; name && i < DTYPE_COUNT; i++)
        if (dtypes[i].block == 1 && strcmp(name, dtypes[i].name) == 0) {
            *out = (fs_dtype)i;
            return true;
        }
    return false;
}

size_t fs_dtype_size(fs_dtype t) { return known(t) && dtypes[t].block == 1 ? dtypes[t].bytes : 0; }

int64_t fs_dtype_block(fs_dtype t) { return known(t) ? dtypes[t].block : 0; }

bool fs_dtype_row_bytes(fs_dtype t, int64_t n, size_t *bytes) {
    if (!known(t) || dtypes[t].bytes == 0 || n < 0 || n % dtypes[t].block != 0) return false;
    return fs_mul_size((size_t)(n / dtypes[t].block), dtypes[t].bytes, bytes);
}

bool fs_dtype_bytes(fs_dtype t, int ndim, const int64_t *shape, size_t *bytes) {
    int64_t count;
    if (!known(t) || !fs_shape_count(ndim, shape, &count)) return false;
    if ((ndim > 0 ? shape[ndim - 1] : 1) % dtypes[t].block != 0) return false;
    return fs_dtype_row_bytes(t, count, bytes);
}

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
    for (int d = 0; d < t->ndim; d++)
        if (t->shape[d] == 0) return 0; /* the others may be so large that their product has no number */
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
