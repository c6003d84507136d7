/* SAM's mask decoder (segment_anything/modeling/mask_decoder.py and transformer.py): a few tokens and the image look at each other twice,
 * then the mask token's vector, through a small MLP, weighs the channels of the upscaled image.
 *
 * Tokens are [IoU, mask 0..3, text]; only mask 0 is read out, as upstream does without multimask output, and the IoU head is not run.
 * Norms have eps 1e-5 here except the channel-wise one of the upscaling (1e-6). Scores are divided by the root of the head's width after
 * the product, unlike in the image encoder. */
#include "model/parts.h"

#include <math.h>
#include <stdlib.h>

enum { HEADS = 8 }; /* a constant of the original: nothing in the tensors' shapes tells it */
static const float EPS = 1e-5f, EPS_2D = 1e-6f;

static fs_sam_attention bind_attention(fs_binder *b, int64_t channels, const char *name) {
    fs_sam_attention a;
    a.q = fs_bind_affine(b, -1, channels, "%s.q_proj", name);
    const int64_t inner = fs_dim(a.q.w, 0);
    a.k = fs_bind_affine(b, inner, channels, "%s.k_proj", name);
    a.v = fs_bind_affine(b, inner, channels, "%s.v_proj", name);
    a.out = fs_bind_affine(b, channels, inner, "%s.out_proj", name);
    if (!b->status && inner % HEADS) {
        char full[128];
        snprintf(full, sizeof full, "%s.q_proj.weight", name);
        fs_bind_fail(b, full, "expected a multiple of %d rows (heads), found %lld", HEADS, (long long)inner);
    }
    return a;
}

static void bind_layer(fs_binder *b, fs_sam_decoder_layer *l, int64_t C, int index) {
    char at[48], name[96];
    snprintf(at, sizeof at, "transformer.layers.%d", index);
    snprintf(name, sizeof name, "%s.self_attn", at);
    l->self = bind_attention(b, C, name);
    snprintf(name, sizeof name, "%s.cross_attn_token_to_image", at);
    l->t2i = bind_attention(b, C, name);
    snprintf(name, sizeof name, "%s.cross_attn_image_to_token", at);
    l->i2t = bind_attention(b, C, name);
    l->norm1 = fs_bind_norm(b, C, "%s.norm1", at);
    l->norm2 = fs_bind_norm(b, C, "%s.norm2", at);
    l->norm3 = fs_bind_norm(b, C, "%s.norm3", at);
    l->norm4 = fs_bind_norm(b, C, "%s.norm4", at);
    l->lin1 = fs_bind_affine(b, -1, C, "%s.mlp.lin1", at);
    l->lin2 = fs_bind_affine(b, C, fs_dim(l->lin1.w, 0), "%s.mlp.lin2", at);
}

/* Weight of a transposed convolution [in, out, 2, 2] and its bias [out]. */
static fs_affine bind_upscaling(fs_binder *b, int64_t in, const char *name) {
    fs_affine a = {0};
    a.w = fs_bind(b, 4, (const int64_t[]){in, -1, 2, 2}, "%s.weight", name);
    a.b = fs_bind_1d(b, fs_dim(a.w, 1), "%s.bias", name);
    return a;
}

fs_status fs_sam_decoder_bind(fs_sam_decoder *m, const fs_tensor_source *source, const char *prefix, fs_error *err) {
    *m = (fs_sam_decoder){.heads = HEADS};
    fs_binder b = {.source = source, .prefix = prefix, .err = err};
    m->iou_token = fs_bind_2d(&b, 1, -1, "iou_token.weight");
    const int64_t C = m->channels = fs_dim(m->iou_token, 1);
    m->mask_tokens = fs_bind_2d(&b, -1, C, "mask_tokens.weight");
    m->n_masks = fs_dim(m->mask_tokens, 0);
    if (!b.status && (m->n_masks < 1 || C < 1))
        fs_bind_fail(&b, "mask_tokens.weight", "expected at least one mask token, found [%lld,%lld]", (long long)m->n_masks, (long long)C);
    if (b.status) return b.status;

    const int depth = fs_bind_count(&b, "transformer.layers.", ".norm1.weight");
    m->depth = depth ? depth : 1;
    m->layers = fs_alloc_zero((size_t)m->depth, sizeof *m->layers);
    if (!m->layers) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for the weight table of SAM's mask decoder");
    for (int i = 0; i < m->depth && !b.status; i++) bind_layer(&b, &m->layers[i], C, i);
    m->final_t2i = bind_attention(&b, C, "transformer.final_attn_token_to_image");
    m->norm_final = fs_bind_norm(&b, C, "transformer.norm_final_attn");

    m->up1 = bind_upscaling(&b, C, "output_upscaling.0");
    m->up_norm = fs_bind_norm(&b, fs_dim(m->up1.w, 1), "output_upscaling.1");
    m->up2 = bind_upscaling(&b, fs_dim(m->up1.w, 1), "output_upscaling.3"); /* 2 and 4 are GELUs */
    m->hyper[0] = fs_bind_affine(&b, -1, C, "output_hypernetworks_mlps.0.layers.0");
    m->hyper[1] = fs_bind_affine(&b, -1, fs_dim(m->hyper[0].w, 0), "output_hypernetworks_mlps.0.layers.1");
    m->hyper[2] = fs_bind_affine(&b, fs_dim(m->up2.w, 1), fs_dim(m->hyper[1].w, 0), "output_hypernetworks_mlps.0.layers.2");
    if (b.status) fs_sam_decoder_unbind(m);
    return b.status;
}

void fs_sam_decoder_unbind(fs_sam_decoder *m) {
    if (!m) return;
    free(m->layers);
    *m = (fs_sam_decoder){0};
}

/* A projection; `view` where upstream's input is the image still in its [C, cells] layout, seen transposed. */
static fs_tensor *project(fs_exec *c, const fs_tensor *x, const fs_affine *a, bool view) {
    return view ? fs_affine_apart(c, x, a) : fs_affine_linear(c, x, a);
}

/* Queries [nq, C], keys and values [nk, C] -> [nq, C]; inside, the width is that of the projections (C, or C/2 in cross attention). */
typedef struct side { const fs_tensor *x; int64_t n; bool view; } side;
static fs_tensor *attend(fs_exec *c, const fs_sam_decoder *m, const fs_sam_attention *a, side q, side k, const fs_tensor *v) {
    const int64_t inner = a->q.w->shape[0], d = inner / m->heads;
    fs_tensor *qh = fs_reshape_3d(c, project(c, q.x, &a->q, q.view), q.n, m->heads, d);
    fs_tensor *kh = fs_reshape_3d(c, project(c, k.x, &a->k, k.view), k.n, m->heads, d);
    fs_tensor *vh = fs_reshape_3d(c, project(c, v, &a->v, k.view), k.n, m->heads, d);
    fs_tensor *o = fs_attention(c, qh, kh, vh, 1.0f / sqrtf((float)d), false);
    return fs_affine_linear(c, fs_reshape_2d(c, o, q.n, inner), &a->out);
}

static fs_tensor *norm(fs_exec *c, const fs_tensor *x, const fs_affine *a) { return fs_layer_norm(c, x, a->w, a->b, EPS); }

/* *queries: [nq, C] tokens, *keys: [nk, C] the image; both replaced. P, pos: their positional encodings (P: the first tokens). */
static void two_way_layer(fs_exec *c, const fs_sam_decoder *m, const fs_sam_decoder_layer *l, bool first, fs_tensor **queries, int64_t nq,
                          const fs_tensor *P, fs_tensor **keys, int64_t nk, const fs_tensor *pos) {
    fs_tensor *Q = *queries, *K = *keys;
    if (first) { /* the tokens are their own encoding still: no encoding, no residual */
        Q = attend(c, m, &l->self, (side){Q, nq, false}, (side){Q, nq, false}, Q);
    } else {
        const side q = {fs_add(c, Q, P), nq, false};
        Q = fs_add(c, Q, attend(c, m, &l->self, q, q, Q));
    }
    Q = norm(c, Q, &l->norm1);

    const side image = {fs_add(c, K, pos), nk, first};                                    /* tokens look at the image */
    Q = norm(c, fs_add(c, Q, attend(c, m, &l->t2i, (side){fs_add(c, Q, P), nq, false}, image, K)), &l->norm2);

    fs_tensor *f = fs_affine_linear(c, fs_relu(c, fs_affine_linear(c, Q, &l->lin1)), &l->lin2);
    Q = norm(c, fs_add(c, Q, f), &l->norm3);

    K = norm(c, fs_add(c, K, attend(c, m, &l->i2t, image, (side){fs_add(c, Q, P), nq, false}, Q)), &l->norm4); /* and the image at them */
    *queries = Q;
    *keys = K;
}

/* One mask. src, pos: [g*g, C], text: [1, C] -> [1, 16*g*g] */
static fs_tensor *decode_one(fs_exec *c, const fs_sam_decoder *m, const fs_tensor *src, const fs_tensor *pos, int64_t g, const fs_tensor *text) {
    const int64_t nq = 1 + m->n_masks + 1, nk = g * g, C = m->channels;
    const fs_tensor *parts[3] = {fs_to_f32(c, m->iou_token), fs_to_f32(c, m->mask_tokens), text};
    const fs_tensor *P = fs_concat_rows(c, parts, 3);                                      /* [nq, C] */
    fs_tensor *Q = fs_to_f32(c, P), *K = fs_to_f32(c, src);
    for (int64_t i = 0; i < m->depth; i++) two_way_layer(c, m, &m->layers[i], i == 0, &Q, nq, P, &K, nk, pos);
    const side image = {fs_add(c, K, pos), nk, false};
    Q = norm(c, fs_add(c, Q, attend(c, m, &m->final_t2i, (side){fs_add(c, Q, P), nq, false}, image, K)), &m->norm_final);

    fs_tensor *u = fs_reshape_3d(c, fs_transpose(c, K), C, g, g);                          /* [C, g, g] */
    u = fs_conv_transpose2d(c, u, m->up1.w, m->up1.b, 2);                                  /* [C/4, 2g, 2g] */
    u = fs_gelu(c, fs_layer_norm_2d(c, u, m->up_norm.w, m->up_norm.b, EPS_2D));
    u = fs_gelu(c, fs_conv_transpose2d(c, u, m->up2.w, m->up2.b, 2));                      /* [C/8, 4g, 4g] */

    fs_tensor *h = fs_rows(c, Q, 1, 2);                                                    /* mask token 0: [1, C] */
    h = fs_relu(c, fs_affine_linear(c, h, &m->hyper[0]));
    h = fs_relu(c, fs_affine_linear(c, h, &m->hyper[1]));
    h = fs_affine_linear(c, h, &m->hyper[2]);                                              /* [1, C/8] */
    return fs_matmul(c, h, fs_reshape_2d(c, u, m->up2.w->shape[1], 16 * nk));
}

fs_tensor *fs_sam_decoder_forward(fs_exec *c, const fs_sam_decoder *m, const fs_tensor *image, const fs_tensor *pe, const fs_tensor *no_mask,
                                  const fs_tensor *text) {
    const int64_t C = m->channels, g = image ? image->shape[1] : -1;
    if (!fs_expect_3d(c, image, C, g, g, "SAM decoder's image embedding") || !fs_expect_3d(c, pe, C, g, g, "SAM decoder's positions") ||
        !fs_expect_2d(c, text, -1, C, "SAM decoder's text embedding"))
        return NULL;
    const int64_t n = text->shape[0];
    fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const fs_tensor **masks = n > 0 ? fs_arena_alloc(c->arena, (size_t)n * sizeof *masks) : NULL;
    if (!masks) {
        fs_exec_fail(c, n > 0 ? FS_E_NO_MEMORY : FS_E_MISMATCH, n > 0 ? "out of memory for %lld masks" : "SAM decoder: %lld text embeddings",
                     (long long)n);
        return NULL;
    }
    const fs_tensor *pos = fs_transpose(c, pe);                                            /* [g*g, C] */
    const fs_tensor *src = fs_transpose(c, image);                                         /* [g*g, C] */
    src = fs_add(c, src, fs_reshape(c, fs_to_f32(c, no_mask), 1, &C));                     /* "no mask" in every cell */
    for (int64_t i = 0; i < n; i++) {
        fs_arena_mark inner = fs_arena_get_mark(c->arena);
        masks[i] = fs_scope_end(c, inner, decode_one(c, m, src, pos, g, fs_rows(c, text, i, i + 1)));
    }
    fs_tensor *low = fs_reshape_3d(c, fs_concat_rows(c, masks, (size_t)n), n, 4 * g, 4 * g);
    low = fs_scope_end(c, mark, low);                                                      /* [n, 4g, 4g] */
    return fs_check_finite(c, low, "SAM mask decoder") ? low : NULL;
}
