/* Block types: rows of weights as ggml stores them, a few hundred bits for 32 or 256 values that share a scale. The bit layout is ggml's, so
 * that any GGUF reader gets the same numbers from our files and we from theirs. Bytes are little-endian; d, m and dmin are f16.
 *
 *     type  values  bytes  fields in order                                      value i
 *     Q8_0    32      34   d, q[32] int8                                        d q
 *     Q4_0    32      18   d, q[16]: value i low, i+16 high nibble              d (q - 8)
 *     Q4_1    32      20   d, m, q[16]                                          d q + m
 *     Q5_0    32      22   d, h[4] (bit i: fifth bit of value i), q[16]         d (q - 16)
 *     Q5_1    32      24   d, m, h[4], q[16]                                    d q + m
 *     Q4_K   256     144   d, dmin, scales[12], q[128]                          d sc q - dmin mn, sc and mn of its 32 values
 *     Q5_K   256     176   d, dmin, scales[12], h[32], q[128]                   likewise
 *     Q6_K   256     210   l[128], h[64], sc[16] int8, d                        d sc (q - 32), sc of its 16 values
 *
 * Quantizing takes what a row can be refused for seriously: NaN and infinity have no code, and neither has a scale beyond f16. */
#ifndef FS_BLOCK_H
#define FS_BLOCK_H

#include "tensor/tensor.h"

/* Is this a type weights may be stored in: F32, F16, BF16 or one that fs_row_from_f32 can make? By name in any case ("q4_k", "F16"). */
bool fs_storage_from_name(const char *name, fs_dtype *out);

/* n values of a row to f32, exactly as ggml's reference does it. F32, F16, BF16, F64 (rounded to nearest) and every block type. n must be a
 * whole number of blocks; false if it is not or the type is no number. src needs no alignment. */
bool fs_row_to_f32(fs_dtype type, const void *src, int64_t n, float *dst);

/* n values to `type`: F32, F16, BF16, Q8_0, Q4_0 (as ggml's reference rounds), Q4_K, Q6_K (a search for the least squared error of ours).
 * The bytes depend on the values alone, not on compiler or processor. False if n is no whole number of blocks, the type is none of these, or
 * the row cannot be stored: for block types a NaN, an infinity or a scale beyond f16; for F16 a finite value beyond its range. */
bool fs_row_from_f32(fs_dtype type, const float *src, int64_t n, void *dst);

#endif
