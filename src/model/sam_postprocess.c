/* From the decoder's low-resolution logits to the picture's size (segment_anything/modeling/sam.py, postprocess_masks): enlarge to SAM's
 * square input, cut off the padding at the right and bottom, resize to the picture. Bilinear, half-pixel centres, in f32 even
 * behind a bf16 network. */
#include "model/parts.h"

fs_tensor *fs_sam_postprocess(fs_exec *c, const fs_tensor *low, int64_t size, int64_t in_h, int64_t in_w, int64_t h, int64_t w) {
    if (!fs_expect_3d(c, low, -1, -1, -1, "mask logits")) return NULL;
    if (in_h < 1 || in_w < 1 || in_h > size || in_w > size || h < 1 || w < 1) {
        fs_exec_fail(c, FS_E_MISMATCH, "mask post-processing: a resized picture of %lldx%lld in a square of %lld, wanted as %lldx%lld",
                     (long long)in_w, (long long)in_h, (long long)size, (long long)w, (long long)h);
        return NULL;
    }
    const int64_t n = low->shape[0];
    fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const fs_tensor **masks = n > 0 ? fs_arena_alloc(c->arena, (size_t)n * sizeof *masks) : NULL;
    if (!masks) {
        fs_exec_fail(c, n > 0 ? FS_E_NO_MEMORY : FS_E_MISMATCH, n > 0 ? "out of memory for %lld masks" : "mask post-processing: %lld masks",
                     (long long)n);
        return NULL;
    }
    for (int64_t i = 0; i < n; i++) {
        fs_arena_mark inner = fs_arena_get_mark(c->arena);
        fs_tensor *x = fs_resize_bilinear(c, fs_rows(c, low, i, i + 1), size, size, false, false); /* [1, size, size] */
        x = fs_rows(c, fs_reshape_2d(c, x, size, size), 0, in_h);                                  /* [in_h, size] */
        x = fs_reshape_3d(c, fs_columns(c, x, 0, in_w), 1, in_h, in_w);
        masks[i] = fs_scope_end(c, inner, fs_resize_bilinear(c, x, h, w, false, false));           /* [1, h, w] */
    }
    return fs_scope_end(c, mark, fs_concat_rows(c, masks, (size_t)n));                             /* [n, h, w] */
}
