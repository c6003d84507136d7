/* What block.c and block_quantize.c share. Private to the two. */
#ifndef FS_BLOCK_LAYOUT_H
#define FS_BLOCK_LAYOUT_H

#include "tensor/block.h"

/* Eight scales and eight mins of 6 bits each in 12 bytes: the low six bits of bytes 0-3 and 4-7 are scales and mins 0-3; bytes 8-11 hold the
 * low nibbles of scales 4-7 (low half) and mins 4-7 (high half), whose upper two bits are the top bits of bytes 0-3 and 4-7. */
void fs_k_scales_unpack(const uint8_t *packed, uint8_t sc[8], uint8_t mn[8]);

/* `blocks` blocks of Q8_0, Q4_0, Q4_K or Q6_K; false as fs_row_from_f32 says. */
bool fs_blocks_quantize(fs_dtype type, const float *x, int64_t blocks, uint8_t *out);

#endif
