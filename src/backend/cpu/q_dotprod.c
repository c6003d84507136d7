/* Packed weights times quantized activations for Arm's dot product instructions: one sdot multiplies four values of 4 weight rows by four
 * activations, which it picks from a register. Empty where the build does not target them. */
#ifdef __ARM_FEATURE_DOTPROD
#define FS_Q_KERNEL(name) name##_dotprod
#define FS_Q_VECTORS(n) ((n) <= 4 ? 4 : 2) /* 16 registers of sums */
#define FS_Q_TILE_OF_8 1
enum { TILE = 8 };
#include "backend/cpu/q_body_neon.h"

FS_Q_INLINE void dots(const fs_dtype type, const int n, const int vectors, weights w, const int8_t *x, const int32_t *first,
                      int32x4_t dot[TILE][4]) {
    dots_quads(type, n, vectors, w, x, first, dot);
}
#else
typedef int fs_no_dotprod;
#endif
