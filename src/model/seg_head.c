/* The [SEG] head (GLaMM's text_hidden_fcs): LLaMA's final state where [SEG] is predicted -> SAM's text prompt. Linear, ReLU, Linear;
 * the dropout behind them has rate 0. */
#include "model/parts.h"

fs_status fs_seg_head_bind(fs_seg_head *m, int64_t hidden, const fs_tensor_source *source, const char *prefix, fs_error *err) {
    *m = (fs_seg_head){0};
    fs_binder b = {.source = source, .prefix = prefix, .err = err};
    m->fc1 = fs_bind_affine(&b, hidden, hidden, "0");
    m->fc2 = fs_bind_affine(&b, -1, hidden, "2"); /* 1 is the ReLU */
    return b.status;
}

fs_tensor *fs_seg_head_forward(fs_exec *c, const fs_seg_head *m, const fs_tensor *h) {
    if (!fs_expect_2d(c, h, -1, fs_dim(m->fc1.w, 1), "[SEG] head's input")) return NULL;
    fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_tensor *x = fs_relu(c, fs_affine_linear(c, h, &m->fc1));    /* [n, hidden] */
    x = fs_scope_end(c, mark, fs_affine_linear(c, x, &m->fc2));    /* [n, C] */
    return fs_check_finite(c, x, "[SEG] head") ? x : NULL;
}
