/* Linear layers and rows of embeddings whose weights are quantized: what op_product.c hands over. Private to op_*.c. */
#ifndef FS_OP_QUANT_H
#define FS_OP_QUANT_H

#include "tensor/op.h"

/* A block type or a packed one, and rows of w are whole blocks of it. */
bool fs_op_quantized(const fs_tensor *w);
/* Fills y [..., out] with x w^T, finished (the bias and what else follows); inputs are checked already. Weights of block types are widened to f32,
 * exactly, and multiplied with x as it is. Packed weights meet activations of 8 bits (backend/cpu/q_kernels.h says what that rounds). The
 * numbers of a quantized weight are not rounded to the precision. Returns y, or NULL and the context's error when out of memory. */
fs_tensor *fs_op_linear_quantized(const fs_op *op, int64_t rows, const fs_tensor *x, const fs_tensor *w, const fs_finish *finish, fs_tensor *y);
/* Row i of w as f32, not rounded. out: [shape[1]] */
void fs_op_quantized_row(const fs_tensor *w, int64_t i, float *out);

#endif
