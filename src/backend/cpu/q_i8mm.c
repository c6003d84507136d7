/* Packed weights times quantized activations for Arm's 8-bit matrix instructions: one smmla multiplies eight values of 2 weight rows by those of
 * 2 activation rows, twice the work of an sdot. The packed order has four values of 4 rows in a vector; two such vectors zipped are two
 * operands. One activation row alone has nothing to gain and takes sdot. Empty where the build does not target them. */
#ifdef __ARM_FEATURE_MATMUL_INT8
#define FS_Q_KERNEL(name) name##_i8mm
#define FS_Q_VECTORS(n) ((n) <= 4 ? 4 : 2) /* 16 registers of sums */
#define FS_Q_TILE_OF_8 1
enum { TILE = 8 };
#include "backend/cpu/q_body_neon.h"

FS_Q_INLINE int8x16_t zip(int8x16_t a, int8x16_t b, const bool upper) {
    const int32x4_t x = vreinterpretq_s32_s8(a), y = vreinterpretq_s32_s8(b);
    return vreinterpretq_s8_s32(upper ? vzip2q_s32(x, y) : vzip1q_s32(x, y));
}

FS_Q_INLINE void dots(const fs_dtype type, const int n, const int vectors, weights w, const int8_t *x, const int32_t *first,
                      int32x4_t dot[TILE][4]) {
    if (n == 1) {
        dots_quads(type, n, vectors, w, x, first, dot);
        return;
    }
    const int pairs = (n + 1) / 2;
    int32x4_t sum[TILE / 2][8]; /* [pair of activation rows t, u][pair of weight rows r, s]: rt, ru, st, su */
    FS_Q_UNROLL for (int p = 0; p < pairs; p++) {
        const int t = 2 * p, u = t + 1 < n ? t + 1 : t; /* a last row without partner is its own */
        const int32x2_t start = first ? vset_lane_s32(first[u], vdup_n_s32(first[t]), 1) : vdup_n_s32(0);
        FS_Q_UNROLL for (int r = 0; r < 2 * vectors; r++) sum[p][r] = vcombine_s32(start, start);
    }
    FS_Q_UNROLL for (int half = 0; half < 2; half++) {
        int8x16_t q[TILE / 2][2]; /* 16 values of each row as two operands */
        FS_Q_UNROLL for (int p = 0; p < pairs; p++) {
            const int t = 2 * p, u = t + 1 < n ? t + 1 : t;
            const int64x2_t a = vreinterpretq_s64_s8(vld1q_s8(x + t * GROUP + 16 * half)), b = vreinterpretq_s64_s8(vld1q_s8(x + u * GROUP + 16 * half));
            q[p][0] = vreinterpretq_s8_s64(vzip1q_s64(a, b));
            q[p][1] = vreinterpretq_s8_s64(vzip2q_s64(a, b));
        }
        FS_Q_UNROLL for (int step = 0; step < 2; step++)
            FS_Q_UNROLL for (int v = 0; v < vectors; v++) {
                const int8x16_t a = codes_at(type, w, 4 * half + 2 * step, v), b = codes_at(type, w, 4 * half + 2 * step + 1, v);
                FS_Q_UNROLL for (int upper = 0; upper < 2; upper++) {
                    const int8x16_t rows = zip(a, b, upper);
                    FS_Q_UNROLL for (int p = 0; p < pairs; p++) sum[p][2 * v + upper] = vmmlaq_s32(sum[p][2 * v + upper], rows, q[p][step]);
                }
            }
        __asm__("" : "+r"(w.codes)); /* load the other nibbles again, instead of keeping 16 vectors */
    }
    FS_Q_UNROLL for (int t = 0; t < n; t++)
        FS_Q_UNROLL for (int v = 0; v < vectors; v++) {
            const int32x4_t a = sum[t / 2][2 * v], b = sum[t / 2][2 * v + 1];
            dot[t][v] = t % 2 ? vuzp2q_s32(a, b) : vuzp1q_s32(a, b);
        }
}
#else
typedef int fs_no_i8mm;
#endif
