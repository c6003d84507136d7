/* Kernels that multiply packed weights (q_layout.h) with activations quantized to 8 bits.
 *
 * Activations are quantized in groups of 32: s = max |x| / 127, q = x / s to the nearest even. A group that holds a NaN or an infinity
 * gets s = NaN, so that it shows in the result; one whose largest value is below FS_Q_TINY counts as zeros. For output row r and
 * activations t
 *     y = 0; for every group g in order:  y = fma((float)dot * s, d, y)  and for Q4_K also  y = fma(-m, (float)sum * s, y)
 * where dot = sum of weight codes times q is exact in integers (codes are 0 .. 15 for Q4_K and centred for the others), d is the weights'
 * scale, m their min, sum the sum of q, and every operation of f32 is rounded once. All tables do exactly this: the bits of a result are the
 * same on every instruction set, for any number of activation rows at once and any number of threads. */
#ifndef FS_Q_KERNELS_H
#define FS_Q_KERNELS_H

#include "backend/backend.h"
#include "backend/cpu/q_layout.h"

#define FS_Q_TINY 1e-30f

/* Quantized activations: tiles of at most `tile` rows; a tile of n rows is a sequence of groups of n * FS_Q_BYTES bytes:
 *     int8 q[n][32];  f32 s[n];  c[n]: for Q8_0 and Q4_0 int32, minus offset times sum of q; for Q4_K f32, s times sum of q */
enum { FS_Q_BYTES = 40, FS_Q_MAX_TILE = 16, FS_Q_WIDE_TILE = 6 };

typedef struct fs_quant {
    const char *name;
    int tile; /* activation rows a call takes at most */
    /* n <= tile rows of `cols` values at stride ldx to one tile of `groups` groups; what is missing from cols to groups * 32 becomes 0. */
    void (*quantize)(fs_dtype packed, const float *x, int64_t ldx, int n, int64_t cols, int64_t groups, uint8_t *out);
    /* y[t * ldy + r] for t < n rows of the activation tile x and r < rows <= FS_PACKED_ROWS of the weight tile w. With `more` the groups
     * come after others that y holds the sum of; cutting k so does not change a bit. groups is a whole number of the weights' chunks. */
    void (*multiply)(fs_dtype packed, const uint8_t *w, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows);
    /* The same for two weight tiles side by side, FS_PACKED_ROWS < rows <= twice that, and n <= FS_Q_WIDE_TILE; faster with many activation
     * rows. NULL if the table has none. */
    void (*wide)(fs_dtype packed, const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy,
                 int rows);
} fs_quant;

/* "ref", "avx2", "avxvnni", "vnni" (AVX-512 VNNI), "neon", "dotprod" or "i8mm"; NULL if there is none of that name or the processor cannot run it. */
const fs_quant *fs_quant_by_name(const char *name);
/* The kernels that go with a table: the fastest of this processor with its best table, else those of the table's instruction set. */
const fs_quant *fs_quant_for(const fs_backend *be);

/* y[m, n] = x[m, k] w^T, finished (backend.h). w: packed [n, k]. */
typedef struct fs_quant_product {
    const float *x;
    int64_t m;
    const fs_tensor *w;
    float *y;
    fs_finish finish;
} fs_quant_product;
/* False when there is no memory for the quantized activations. */
bool fs_quant_run(const fs_quant *q, const fs_backend *be, const fs_quant_product *p, int threads, fs_arena *arena);

#if defined(__x86_64__)
#define FS_Q_X86 1
#elif defined(__aarch64__) && defined(__linux__)
#define FS_Q_ARM 1
#endif
#define FS_Q_DECLARE(isa)                                                                                                                  \
    void fs_q_quantize_##isa(fs_dtype packed, const float *x, int64_t ldx, int n, int64_t cols, int64_t groups, uint8_t *out);             \
    void fs_q_multiply_##isa(fs_dtype packed, const uint8_t *w, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, \
                             int rows);
FS_Q_DECLARE(ref)
#ifdef FS_Q_X86
FS_Q_DECLARE(avx2)
FS_Q_DECLARE(avxvnni)
FS_Q_DECLARE(vnni)
void fs_q_wide_vnni(fs_dtype packed, const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy,
                    int rows);
#endif
#ifdef FS_Q_ARM
FS_Q_DECLARE(neon)
FS_Q_DECLARE(dotprod)
FS_Q_DECLARE(i8mm)
#endif

#endif
