/* The key/value cache's memory: growing and copying. What is computed with it is in op_attention_cached.c. */
#include "tensor/kv_cache.h"

#include <stdlib.h>
#include <string.h>

int64_t fs_kv_token_bytes(fs_dtype dtype, int64_t layers, int64_t heads, int64_t d) {
    return 2 * layers * heads * (int64_t)fs_kv_row_bytes(dtype, d);
}

fs_kv_cache fs_kv_empty(fs_dtype dtype, int64_t layers, int64_t heads, int64_t d) {
    return (fs_kv_cache){.dtype = dtype, .layers = layers, .heads = heads, .d = d};
}

fs_status fs_kv_reserve(fs_kv_cache *s, int64_t capacity, fs_error *err) {
    const int64_t have = s->capacity / FS_KV_BLOCK, token = fs_kv_token_bytes(s->dtype, s->layers, s->heads, s->d);
    if (capacity <= s->capacity) return FS_OK;
    if (capacity > INT64_MAX / 2 / fs_max_i64(token, 1) - FS_KV_BLOCK)
        return fs_fail(err, FS_E_LIMIT, "a key/value cache of %lld tokens", (long long)capacity);
    const int64_t want = (capacity + FS_KV_BLOCK - 1) / FS_KV_BLOCK;
    void **blocks = realloc(s->blocks, (size_t)want * sizeof *blocks);
    if (blocks) s->blocks = blocks;
    for (int64_t i = have; blocks && i < want; i++) {
        if (!(blocks[i] = fs_alloc(FS_KV_BLOCK, (size_t)token))) break;
        s->capacity = (i + 1) * FS_KV_BLOCK;
    }
    if (s->capacity >= capacity) return FS_OK;
    return fs_fail(err, FS_E_NO_MEMORY, "no memory for a key/value cache of %lld tokens (%lld MiB); use a smaller --max-new-tokens or --batch",
                   (long long)capacity, (long long)(token * capacity >> 20));
}

fs_status fs_kv_copy(fs_kv_cache *to, const fs_kv_cache *from, int64_t length, fs_error *err) {
    const fs_status status = fs_kv_reserve(to, length, err);
    const size_t row = fs_kv_row_bytes(from->dtype, from->d), runs = 2 * (size_t)(from->layers * from->heads);
    for (int64_t done = 0; done < length && !status; done += FS_KV_BLOCK) {
        const int64_t rows = from->dtype == FS_DTYPE_Q8_0 ? FS_KV_BLOCK : fs_min_i64(FS_KV_BLOCK, length - done); /* scales stand apart: all of it */
        char *out = to->blocks[done / FS_KV_BLOCK];
        const char *in = from->blocks[done / FS_KV_BLOCK];
        for (size_t i = 0; i < runs; i++) memcpy(out + i * FS_KV_BLOCK * row, in + i * FS_KV_BLOCK * row, (size_t)rows * row);
    }
    if (!status) to->length = length;
    return status;
}

void fs_kv_free(fs_kv_cache *s) {
    for (int64_t i = 0; i < s->capacity / FS_KV_BLOCK; i++) free(s->blocks[i]);
    free(s->blocks);
    *s = (fs_kv_cache){0};
}
