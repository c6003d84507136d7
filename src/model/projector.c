/* LLaVA 1.5's projector between CLIP and LLaMA (multimodal_projector/builder.py, "mlp2x_gelu"): Linear, exact GELU, Linear. */
#include "model/parts.h"

fs_status fs_projector_bind(fs_projector *m, int64_t in, int64_t out, const fs_tensor_source *source, const char *prefix, fs_error *err) {
    *m = (fs_projector){0};
    fs_binder b = {.source = source, .prefix = prefix, .err = err};
    m->fc1 = fs_bind_affine(&b, out, in, "0");
    m->fc2 = fs_bind_affine(&b, out, out, "2"); /* 1 is the GELU */
    return b.status;
}

fs_tensor *fs_projector_forward(fs_exec *c, const fs_projector *m, const fs_tensor *x) {
    if (!fs_expect_2d(c, x, -1, fs_dim(m->fc1.w, 1), "projector's input")) return NULL;
    fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_tensor *h = fs_gelu(c, fs_affine_linear(c, x, &m->fc1));    /* [n, out] */
    h = fs_scope_end(c, mark, fs_affine_linear(c, h, &m->fc2));    /* [n, out] */
    return fs_check_finite(c, h, "projector") ? h : NULL;
}
