/* Packed weights times quantized activations for Advanced SIMD without extensions, as on Cortex-A53 and A72: products of bytes are added in
 * 16 bits as long as they fit (codes of 8 bits twice: 2 x 128 x 127 = 32512; of 4 bits eight times: 8 x 15 x 127 = 15240), then by pairs to 32
 * bits. Empty where the build does not target 64-bit Arm. */
#ifdef __aarch64__
#define FS_Q_KERNEL(name) name##_neon
#define FS_Q_VECTORS(n) 1
#define FS_Q_TILE_OF_8 0
enum { TILE = 4 };
#include "backend/cpu/q_body_neon.h"

FS_Q_INLINE void dots(const fs_dtype type, const int n, const int vectors, weights w, const int8_t *x, const int32_t *first,
                      int32x4_t dot[TILE][4]) {
    (void)vectors;
    const int at_once = type == FS_DTYPE_Q8_0X16 ? 2 : 8;
    int8x16_t u[8];
    FS_Q_UNROLL for (int z = 0; z < 8; z++) u[z] = codes_at(type, w, z, 0);
    FS_Q_UNROLL for (int t = 0; t < n; t++) {
        int32x4_t lo = vdupq_n_s32(0), hi = lo; /* two sums for each of rows 0, 1 and 2, 3 */
        FS_Q_UNROLL for (int z0 = 0; z0 < 8; z0 += at_once) {
            int16x8_t a = vdupq_n_s16(0), b = a;
            FS_Q_UNROLL for (int z = z0; z < z0 + at_once; z++) {
                const int8x16_t q = vreinterpretq_s8_s32(vld1q_dup_s32((const int32_t *)(const void *)(x + t * GROUP + 4 * z)));
                a = z == z0 ? vmull_s8(vget_low_s8(u[z]), vget_low_s8(q)) : vmlal_s8(a, vget_low_s8(u[z]), vget_low_s8(q));
                b = z == z0 ? vmull_high_s8(u[z], q) : vmlal_high_s8(b, u[z], q);
            }
            lo = vpadalq_s16(lo, a);
            hi = vpadalq_s16(hi, b);
        }
        dot[t][0] = vpaddq_s32(lo, hi);
        if (first) dot[t][0] = vaddq_s32(dot[t][0], vdupq_n_s32(first[t]));
    }
}
#else
typedef int fs_no_q_neon;
#endif
