/* Packed weights: a matrix of block type Q8_0, Q4_0 or Q4_K put into the order the kernels of src/backend/cpu/q_*.c read it in. 16 rows
 * are interleaved by words of four values along k, so that one vector instruction multiplies 16 rows by the same four activations.
 *
 * Nothing is lost: every bit of the blocks is kept, only the order (and an offset that makes bytes unsigned) changes, and a packed
 * matrix is as large as its source but for padding: rows to a multiple of 16, and k of Q8_0 and Q4_0 to a multiple of 64, with zeros.
 * The layout is in backend/cpu/q_layout.h. */
#ifndef FS_PACKED_H
#define FS_PACKED_H

#include "backend/cpu/q_layout.h"

/* Is this one of ggml's block types (stored row by row)? */
bool fs_dtype_is_block(fs_dtype t);
/* The packed form of a block type; false if it has none. */
bool fs_packed_type(fs_dtype block_type, fs_dtype *packed);

/* A packed matrix that owns its memory. `tensor` has the source's shape and name (which must live as long) and is what fs_linear and
 * fs_embedding take. */
typedef struct fs_packed { fs_tensor tensor; size_t bytes; } fs_packed;
/* w: [rows, cols] of a block type that has a packed form. FS_E_UNSUPPORTED for others. The result does not depend on the threads. */
fs_status fs_pack_weight(const fs_tensor *w, int threads, fs_packed **out, fs_error *err);
void fs_packed_free(fs_packed *p);

/* Row `row` of a packed matrix as f32, the same numbers fs_row_to_f32 gives for the source. out: [cols] */
void fs_packed_row(const fs_tensor *w, int64_t row, float *out);

/* A source of tensors that hands out packed forms: a matrix with a packed form is packed when an operator first uses it (fs_tensor_prepare),
 * any other tensor is passed on as it is. So a model is bound as from any other source, opening costs nothing, what is never used is never
 * read, and memory grows by one tensor at a time: with `mapped`, which says that the tensors' bytes are pages of a mapped file, the source's
 * pages are given back to the system as soon as a tensor is packed. `inner` must outlive it. Not for use by several threads at once. */
typedef struct fs_packed_source fs_packed_source;
fs_status fs_packed_source_create(const fs_tensor_source *inner, bool mapped, int threads, fs_packed_source **out, fs_error *err);
void fs_packed_source_free(fs_packed_source *s); /* and every tensor it packed */
const fs_tensor_source *fs_packed_source_tensors(fs_packed_source *s);
/* From now on, matrices of block types that have no packed form are packed as Q8_0: 8 bits a value in place of 4.5 to 6.6, at an error far
 * below the one they have already. For files of other programs, which hold such types. */
void fs_packed_source_widen(fs_packed_source *s);
/* From now on, bytes are locked in memory: packed ones when they are made, passed-on ones when they are asked for. What the system refuses is
 * counted and goes on unlocked. */
void fs_packed_source_lock(fs_packed_source *s);
/* A tensor that could not be packed (no memory) is used unpacked, which is slower but right. How many of each so far, bytes packed, and bytes
 * that could not be locked. */
typedef struct fs_packed_counts { size_t packed, failed, bytes, unlocked; } fs_packed_counts;
fs_packed_counts fs_packed_source_counts(const fs_packed_source *s);

#endif
