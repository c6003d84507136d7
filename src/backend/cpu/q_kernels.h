/* Kernels that multiply packed weights (q_layout.h) with activations quantized to 8 bits.
 *
 * Activations are quantized in groups of 32: s = max |x| / 127, q = x / s to the nearest even. A group that holds a NaN or an infinity
 * gets s = NaN, so that it shows in the result; one whose largest value is below FS_Q_TINY counts as zeros. For output row r and
 * activations t
 *     y = 0; for every group g in order:  y = fma((float)dot * s, d, y)  and for Q4_K also  y = fma(-m, (float)sum * s, y)
 * where dot = sum of weight codes times q is exact in integers (codes are 0 .. 15 for Q4_K and centred for the others), d is the weights'
 * scale, m their min, sum the sum of q, and every operation of f32 is rounded once. All tables do exactly this: the bits of a result are the
 * same on every instruction set, for any number of activation rows at once and any number of threads. Many rows of 4-bit weights are an exception
 * on tables that have longer groups (below). */
#ifndef FS_Q_KERNELS_H
#define FS_Q_KERNELS_H

#include "backend/backend.h"
#include "backend/cpu/q_layout.h"

#define FS_Q_TINY 1e-30f

/* Quantized activations: tiles of at most `tile` rows; a tile of n rows is a sequence of groups of n * FS_Q_BYTES bytes:
 *     int8 q[n][32];  f32 s[n];  c[n]: for Q8_0 and Q4_0 int32, minus offset times sum of q; for Q4_K f32, s times sum of q */
enum { FS_Q_BYTES = 40, FS_Q_MAX_TILE = 16, FS_Q_WIDE_TILE = 6 };

/* Many rows (prompts) of 4-bit weights: a table may multiply them in longer groups of FS_Q_LONG values, so that whole numbers are summed over more
 * of k before a scale meets them. Weights are expanded to 8 bits for that, a strip at a time: of row r and a long group, whose groups g have
 * scale d_g and min m_g (Q4_0: m = 8 d),
 *     top = max over g of |m_g|, |fma(15, d_g, -m_g)|      D = top / 127      R_g = rint(d_g * (32512 / top))      C_g = rint(m_g * (32512 / top))
 * and code u becomes U = (u * R_g - C_g + 128 + 32768) >> 8, modulo 2^16, which is D's multiple plus 128; all 0 with D = NaN if top is not finite, with
 * D = 0 if it is 0. A weight so moves by at most 0.54 D. Activations are quantized as above with s and q for FS_Q_LONG values, and
 *     y = 0; for every long group in order:  y = fma((float)(sum of U q - 128 sum of q) * s, D, y)
 * All tables that have this do exactly this, for FS_Q_MANY_ROWS rows and more of Q4_0 and Q4_K where k is a whole number of long groups. Fewer rows, and
 * tables without it, keep to the rule above. */
enum {
    FS_Q_LONG = 128,
    FS_Q_LONG_GROUPS = FS_Q_LONG / FS_PACKED_GROUP,
    FS_Q_LONG_BYTES = FS_Q_LONG + 8,                        /* of a row and long group: int8 q[n][FS_Q_LONG]; f32 s[n]; int32 c[n], -128 times sum of q */
    FS_Q_STRIP_CHUNK = 64 + FS_PACKED_ROWS * FS_Q_LONG,     /* of an expanded tile and long group: f32 D[16]; u8 U[FS_Q_LONG / 4][16][4] */
    FS_Q_MANY_ROWS = 48
};

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
    /* Longer groups, all three or none; counts are of long groups. expand: groups [0, groups) of the weight tile w. quantize_long as quantize. strip as
     * wide, of expanded tiles, 0 < rows <= 2 FS_PACKED_ROWS; of 16 rows or less w1 is not looked at. */
    void (*expand)(fs_dtype packed, const uint8_t *w, int64_t groups, uint8_t *out);
    void (*quantize_long)(const float *x, int64_t ldx, int n, int64_t groups, uint8_t *out);
    void (*strip)(const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows);
} fs_quant;

/* "ref", "avx2", "avxvnni", "vnni" (AVX-512 VNNI, as it suits the processor; "vnni-zen4" and "vnni-zen5" fetch as it suits these), "neon", "dotprod" or "i8mm"; NULL if
 * there is none of that name or the processor cannot run it. */
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
#define FS_Q_DECLARE_LONG(isa)                                                                                                             \
    void fs_q_expand_##isa(fs_dtype packed, const uint8_t *w, int64_t groups, uint8_t *out);                                               \
    void fs_q_quantize_long_##isa(const float *x, int64_t ldx, int n, int64_t groups, uint8_t *out);                                       \
    void fs_q_strip_##isa(const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows);
FS_Q_DECLARE(ref)
FS_Q_DECLARE_LONG(ref)
#ifdef FS_Q_X86
FS_Q_DECLARE(avx2)
FS_Q_DECLARE(avxvnni)
FS_Q_DECLARE(vnni)
void fs_q_multiply_vnni_zen4(fs_dtype packed, const uint8_t *w, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy, int rows); /* same bits */
void fs_q_wide_vnni(fs_dtype packed, const uint8_t *w0, const uint8_t *w1, const uint8_t *x, int n, int64_t groups, bool more, float *y, int64_t ldy,
                    int rows);
FS_Q_DECLARE_LONG(vnni)
#endif
#ifdef FS_Q_ARM
FS_Q_DECLARE(neon)
FS_Q_DECLARE(dotprod)
FS_Q_DECLARE(i8mm)
#endif

#endif
