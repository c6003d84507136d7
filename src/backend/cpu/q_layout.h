/* The order in which the kernels q_*.c read a packed weight (tensor/packed.h says how it comes to be).
 *
 * A matrix [rows, cols] is a sequence of tiles of 16 rows, a tile a sequence of chunks along k, each whole cache lines:
 *     Q8_0x16   64 k  f16 d[2][16];            u8 q[2 groups][8][16][4]   value + 128
 *     Q4_0x16   64 k  f16 d[2][16];            u8 q[2 groups][4][16][4]   word v: values 4v.. in the low, 16 + 4v.. in the high nibbles
 *     Q4_Kx16  256 k  f16 d[16], dmin[16];
 *                     u8 sc[4 pairs][3][16];   u8 q[4 pairs][8][16][4]    even group of the pair in the low, odd one in the high nibbles
 * A group is 32 values. sc: [0] and [1] hold the low four bits of scale (low nibble) and min (high nibble) of the even and the odd group, [2]
 * the upper two bits of all four: scale and min of the even, scale and min of the odd group, from the lowest bit up. Prompts have
 * strips of the 4-bit types expanded to 8 bits as they pass (q_kernels.h: longer groups); nothing stored changes. */
#ifndef FS_Q_LAYOUT_H
#define FS_Q_LAYOUT_H

#include "tensor/tensor.h"

enum {
    FS_PACKED_ROWS = 16,  /* rows of a tile */
    FS_PACKED_GROUP = 32, /* values that share a scale */
    FS_Q8_CHUNK = 1088, FS_Q4_CHUNK = 576, FS_Q4K_CHUNK = 2304 /* bytes */
};

bool fs_dtype_is_packed(fs_dtype t);
/* Groups of a packed row (padding included), bytes of a tile, bytes of a matrix. False if the type is not packed, cols is no whole number
 * of blocks, or the size does not fit. */
bool fs_packed_groups(fs_dtype packed, int64_t cols, int64_t *groups);
bool fs_packed_bytes(fs_dtype packed, int64_t rows, int64_t cols, size_t *tile_bytes, size_t *bytes);

#endif
