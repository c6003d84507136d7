/* Ending a scope of the arena with one result kept (see tensor.h). */
#include "tensor/op.h"

#include <string.h>

fs_tensor *fs_scope_end(fs_exec *x, fs_arena_mark mark, const fs_tensor *result) {
    if (!result || x->error.status) return NULL;
    if (x->tape) return (fs_tensor *)(uintptr_t)result;
    fs_tensor kept = *result; /* the descriptor lies in the arena too and may be overwritten */
    const void *from = result->data;
    size_t bytes = (size_t)fs_tensor_count(result) * fs_dtype_size(result->dtype);
    fs_arena_release(x->arena, mark);
    /* The old bytes are still there: releasing gives back no block, and the allocation below drops blocks only if none fits, and the one
     * that holds them does. New and old may overlap. */
    kept.data = fs_arena_alloc(x->arena, bytes);
    if (!kept.data) {
        fs_exec_fail(x, FS_E_NO_MEMORY, "out of memory for %zu bytes of activations", bytes);
        return NULL;
    }
    const size_t apart = (size_t)((uintptr_t)kept.data > (uintptr_t)from ? (uintptr_t)kept.data - (uintptr_t)from : (uintptr_t)from - (uintptr_t)kept.data);
    if (apart >= bytes) fs_copy_bytes(kept.data, from, bytes, x->threads);
    else memmove(kept.data, from, bytes);
    fs_tensor *out = fs_wrap(x, kept.dtype, kept.ndim, kept.shape, kept.data);
    if (out) out->name = kept.name;
    return out;
}
