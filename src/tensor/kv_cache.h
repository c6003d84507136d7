/* The key/value cache of one sequence: what attention needs of the tokens that came before. It grows by blocks of tokens, so that nothing
 * is ever moved; within a block the keys of one head lie in a row and are read as fast as memory gives them. */
#ifndef FS_KV_CACHE_H
#define FS_KV_CACHE_H

#include "tensor/tensor.h"

enum { FS_KV_BLOCK = 128 }; /* tokens */

/* Q8_0 here is 8 bits with one f32 scale for 32 values of a head (which must divide its width), values and scales apart; not ggml's blocks. */
typedef struct fs_kv_cache {
    fs_dtype dtype;           /* F32, F16, BF16 or Q8_0 */
    int64_t layers, heads, d; /* heads: of keys and values */
    int64_t length, capacity; /* tokens; capacity is a multiple of FS_KV_BLOCK */
    void **blocks;            /* [capacity / FS_KV_BLOCK] of [layers][keys, values][heads][FS_KV_BLOCK][d], Q8_0: and [FS_KV_BLOCK][d / 32] scales */
} fs_kv_cache;

/* Bytes of one head's row, scales included. */
static inline size_t fs_kv_row_bytes(fs_dtype dtype, int64_t d) {
    return dtype == FS_DTYPE_Q8_0 ? (size_t)(d + d / 32 * (int64_t)sizeof(float)) : (size_t)d * fs_dtype_size(dtype);
}
static inline void *fs_kv_rows(const fs_kv_cache *s, int64_t layer, bool values, int64_t head, int64_t block) {
    return (char *)s->blocks[block] + (size_t)(((layer * 2 + values) * s->heads + head) * FS_KV_BLOCK) * fs_kv_row_bytes(s->dtype, s->d);
}
/* Behind the rows of Q8_0. */
static inline float *fs_kv_scales(const fs_kv_cache *s, const void *rows) { return (float *)(void *)((char *)(uintptr_t)rows + FS_KV_BLOCK * s->d); }

/* An empty one; takes no memory until it is reserved. */
fs_kv_cache fs_kv_empty(fs_dtype dtype, int64_t layers, int64_t heads, int64_t d);
/* Room for at least `capacity` tokens; what is there stays, also when it fails. */
fs_status fs_kv_reserve(fs_kv_cache *s, int64_t capacity, fs_error *err);
/* `to`, which must be of the same kind, becomes the first `length` tokens of `from`. */
fs_status fs_kv_copy(fs_kv_cache *to, const fs_kv_cache *from, int64_t length, fs_error *err);
void fs_kv_free(fs_kv_cache *s); /* also of a zeroed struct */
/* Bytes that one token takes over all layers. */
int64_t fs_kv_token_bytes(fs_dtype dtype, int64_t layers, int64_t heads, int64_t d);

/* Rows of one sequence in a step that several sequences take together. */
typedef struct fs_kv_part {
    fs_kv_cache *cache;
    int64_t rows; /* new tokens, at positions cache->length on; room for them is there */
} fs_kv_part;

/* Causal attention of new tokens over all tokens of their own sequence. q: [n, heads, d], k, v: [n, heads_kv, d] with rotary position, the
 * parts' rows one after the other. Stores k and v in layer `layer` of the caches behind `length` (which the caller moves on after the last
 * layer) and reads them back from there, so that a result does not depend on how the tokens were divided into steps but for what tensor/ops.h
 * says of few rows. -> [n, heads, d] */
fs_tensor *fs_attention_cached(fs_exec *c, const fs_tensor *q, const fs_tensor *k, const fs_tensor *v, const fs_kv_part *parts, size_t n_parts,
                               int64_t layer, float scale);

#endif
