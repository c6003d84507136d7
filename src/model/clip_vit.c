/* CLIP's vision transformer (Radford et al. 2021; transformers' modeling_clip.py), ViT-L/14 at 336 pixels in FakeShield.
 *
 * LLaVA reads the patch tokens after all layers but the last, without the final layer norm, so neither of those is bound. The region
 * encoder reads four earlier states on the way. Pre-norm layers with biases everywhere; q is scaled after its bias and before the
 * product with k, which is what decides the rounding in 16-bit networks. */
#include "model/parts.h"

#include <math.h>
#include <stdlib.h>

static fs_status check_config(const fs_clip_config *g, fs_error *err) {
    if (g->hidden < 1 || g->intermediate < 1 || g->heads < 1 || g->layers < 1 || g->patch_size < 1 || g->image_size < g->patch_size)
        return fs_fail(err, FS_E_MISMATCH,
                       "CLIP config: hidden %lld, intermediate %lld, heads %lld, layers %lld, image %lld, patch %lld: all must be positive "
                       "and a patch no larger than the image",
                       (long long)g->hidden, (long long)g->intermediate, (long long)g->heads, (long long)g->layers,
                       (long long)g->image_size, (long long)g->patch_size);
    if (g->hidden % g->heads)
        return fs_fail(err, FS_E_MISMATCH, "CLIP config: hidden size %lld is no multiple of the %lld heads", (long long)g->hidden,
                       (long long)g->heads);
    if (g->image_size > 65536 || g->layers > 4096)
        return fs_fail(err, FS_E_LIMIT, "CLIP config: image size %lld or %lld layers are beyond reason", (long long)g->image_size,
                       (long long)g->layers);
    return FS_OK;
}

/* The stem, if there is one, and whether the patches have the config's size. */
static void bind_patches(fs_binder *b, fs_clip *m) {
    const int64_t *shape = m->patch_embedding->shape, size = m->config.patch_size;
    m->stem = fs_bind_stem(b, shape[1], "embeddings.stem");
    const int64_t step = fs_stem_step(&m->stem);
    if (shape[2] * step != size || shape[3] * step != size)
        fs_bind_fail(b, "embeddings.patch_embedding.weight", "expected square patches of %lld pixels, found %lld x %lld", (long long)size,
                     (long long)(shape[2] * step), (long long)(shape[3] * step));
}

fs_status fs_clip_bind(fs_clip *m, const fs_clip_config *config, const fs_tensor_source *source, const char *prefix, fs_error *err) {
    *m = (fs_clip){0};
    fs_status status = check_config(config, err);
    if (status) return status;
    m->config = *config;
    const int64_t C = config->hidden, I = config->intermediate, side = config->image_size / config->patch_size;
    fs_binder b = {.source = source, .prefix = prefix, .err = err};

    m->class_embedding = fs_bind_1d(&b, C, "embeddings.class_embedding");
    m->patch_embedding = fs_bind_kernel(&b, C, -1, -1, "embeddings.patch_embedding");
    if (m->patch_embedding) bind_patches(&b, m);
    m->position_embedding = fs_bind_2d(&b, side * side + 1, C, "embeddings.position_embedding.weight");
    m->pre_norm = fs_bind_norm(&b, C, "pre_layrnorm"); /* so spelt in every checkpoint */

    m->n_layers = config->layers - 1;
    m->layers = fs_alloc_zero((size_t)fs_max_i64(m->n_layers, 1), sizeof *m->layers);
    if (!m->layers) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for CLIP's weight table");
    for (int64_t i = 0; i < m->n_layers && !b.status; i++) {
        fs_clip_layer *l = &m->layers[i];
        char at[64];
        snprintf(at, sizeof at, "encoder.layers.%lld", (long long)i);
        l->norm1 = fs_bind_norm(&b, C, "%s.layer_norm1", at);
        l->q = fs_bind_affine(&b, C, C, "%s.self_attn.q_proj", at);
        l->k = fs_bind_affine(&b, C, C, "%s.self_attn.k_proj", at);
        l->v = fs_bind_affine(&b, C, C, "%s.self_attn.v_proj", at);
        l->out = fs_bind_affine(&b, C, C, "%s.self_attn.out_proj", at);
        l->norm2 = fs_bind_norm(&b, C, "%s.layer_norm2", at);
        l->fc1 = fs_bind_affine(&b, I, C, "%s.mlp.fc1", at);
        l->fc2 = fs_bind_affine(&b, C, I, "%s.mlp.fc2", at);
    }
    if (b.status) fs_clip_unbind(m);
    return b.status;
}

void fs_clip_unbind(fs_clip *m) {
    if (!m) return;
    free(m->layers);
    *m = (fs_clip){0};
}

/* x: normed [n, C], added to residual [n, C] */
static fs_tensor *self_attention(fs_exec *c, const fs_clip *m, const fs_clip_layer *l, const fs_tensor *x, const fs_tensor *residual, int64_t n) {
    const int64_t C = m->config.hidden, heads = m->config.heads, d = C / heads;
    fs_tensor *q = fs_scale(c, fs_affine_linear(c, x, &l->q), 1.0f / sqrtf((float)d));
    fs_tensor *k = fs_affine_linear(c, x, &l->k);
    fs_tensor *v = fs_affine_linear(c, x, &l->v);
    fs_tensor *o = fs_attention(c, fs_reshape_3d(c, q, n, heads, d), fs_reshape_3d(c, k, n, heads, d), fs_reshape_3d(c, v, n, heads, d),
                                1.0f, false);                       /* [n, heads, d] */
    return fs_affine_add(c, fs_reshape_2d(c, o, n, C), &l->out, residual);
}

/* x: [n, C] -> [n, C] */
static fs_tensor *layer_forward(fs_exec *c, const fs_clip *m, const fs_clip_layer *l, const fs_tensor *x, int64_t n) {
    fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_tensor *h = fs_layer_norm(c, x, l->norm1.w, l->norm1.b, m->config.eps);
    h = fs_scope_end(c, mark, self_attention(c, m, l, h, x, n));
    fs_tensor *f = fs_layer_norm(c, h, l->norm2.w, l->norm2.b, m->config.eps);
    f = m->config.activation == FS_ACT_GELU ? fs_affine_gelu(c, f, &l->fc1) : fs_affine_quick_gelu(c, f, &l->fc1); /* [n, I] */
    return fs_affine_add(c, f, &l->fc2, h);
}

/* pixels: [3, S, S] -> [patches + 1, C], the class token first */
static fs_tensor *embed(fs_exec *c, const fs_clip *m, const fs_tensor *pixels) {
    fs_tensor *x = fs_to_f32(c, pixels); /* rounded as the network's input is */
    x = fs_conv2d(c, fs_stem_forward(c, &m->stem, x), m->patch_embedding, NULL, (int)(m->config.patch_size / fs_stem_step(&m->stem)), 0);
    x = fs_transpose(c, x); /* [C, g, g] -> [g*g, C] */
    const fs_tensor *tokens[2] = {fs_reshape_2d(c, fs_to_f32(c, m->class_embedding), 1, m->config.hidden), x};
    x = fs_add(c, fs_concat_rows(c, tokens, 2), m->position_embedding);
    return fs_layer_norm(c, x, m->pre_norm.w, m->pre_norm.b, m->config.eps);
}

fs_tensor *fs_clip_forward(fs_exec *c, const fs_clip *m, const fs_tensor *pixels, int select_layer, fs_tensor *levels[4]) {
    const int64_t S = m->config.image_size, side = S / m->config.patch_size, n = side * side + 1;
    if (!fs_expect_3d(c, pixels, 3, S, S, "CLIP's pixels")) return NULL;
    /* Hidden state number k is the one after k layers; upstream's list has layers + 1 of them and is indexed from its end. */
    const int64_t last = select_layer < 0 ? m->config.layers + 1 + select_layer : select_layer;
    if (last < 0 || last > m->n_layers || (levels && m->n_layers < 9)) {
        fs_exec_fail(c, FS_E_UNSUPPORTED, "CLIP: select_layer %d%s needs hidden state %lld, but states 0 to %lld are computed", select_layer,
                     levels ? " with region features" : "", (long long)(levels && m->n_layers < 9 ? m->n_layers - 9 : last),
                     (long long)m->n_layers);
        return NULL;
    }
    fs_tensor *selected = NULL;
    const int64_t stop = levels ? fs_max_i64(last, m->n_layers) : last;
    fs_arena_mark mark = fs_arena_get_mark(c->arena);

    fs_tensor *x = fs_scope_end(c, mark, embed(c, m, pixels)); /* hidden state 0: [n, C] */
    for (int64_t k = 0;; k++) {                                /* x is hidden state k */
        bool keep = k == last;
        if (keep) selected = fs_rows(c, x, 1, n);              /* without the class token: [n-1, C] */
        if (levels && (m->n_layers - k) % 3 == 0 && m->n_layers - k <= 9) {
            levels[3 - (m->n_layers - k) / 3] = fs_rows(c, x, 1, n); /* every third backwards from layers - 1, the last four */
            keep = true;
        }
        if (k == stop || c->error.status) break;
        if (keep) mark = fs_arena_get_mark(c->arena);          /* what was kept stays below the mark */
        x = fs_scope_end(c, mark, layer_forward(c, m, &m->layers[k], x, n));
    }
    return fs_check_finite(c, selected, "CLIP vision tower") ? selected : NULL;
}
