/* BERT's encoder: word + position + type embeddings, layer norm, then layers of self-attention and a GELU pair, each with residual and a
 * layer norm behind it (post-norm). Scores are scaled by 1/sqrt(d). Texts are run one at a time, so there is no padding and no mask. */
#include "model/bert.h"

#include <math.h>
#include <stdlib.h>

#include "model/parts.h"

static fs_status check_config(const fs_bert_config *g, fs_error *err) {
    if (g->hidden < 1 || g->intermediate < 1 || g->heads < 1 || g->layers < 1 || g->vocab < 1 || g->positions < 1 || g->types < 1 ||
        g->hidden % g->heads)
        return fs_fail(
            err, FS_E_MISMATCH,
            "BERT config: hidden %lld, intermediate %lld, heads %lld, layers %lld, vocabulary %lld, positions %lld, types %lld: all "
            "must be positive, and the hidden size a multiple of the heads",
            (long long)g->hidden, (long long)g->intermediate, (long long)g->heads, (long long)g->layers, (long long)g->vocab,
            (long long)g->positions, (long long)g->types);
    if (g->layers > 4096) return fs_fail(err, FS_E_LIMIT, "BERT config: %lld layers are beyond reason", (long long)g->layers);
    return FS_OK;
}

fs_status fs_bert_bind(fs_bert *m, const fs_bert_config *config, const fs_tensor_source *source, const char *prefix, fs_error *err) {
    *m = (fs_bert){0};
    fs_status status = check_config(config, err);
    if (status) return status;
    m->config = *config;
    const int64_t C = config->hidden, I = config->intermediate;
    fs_binder b = {.source = source, .prefix = prefix, .err = err};
    m->words = fs_bind_2d(&b, config->vocab, C, "embeddings.word_embeddings.weight");
    m->positions = fs_bind_2d(&b, config->positions, C, "embeddings.position_embeddings.weight");
    m->types = fs_bind_2d(&b, config->types, C, "embeddings.token_type_embeddings.weight");
    m->norm = fs_bind_norm(&b, C, "embeddings.LayerNorm");
    m->layers = fs_alloc_zero((size_t)config->layers, sizeof *m->layers);
    if (!m->layers) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for BERT's weight table");
    for (int64_t i = 0; i < config->layers && !b.status; i++) {
        fs_bert_layer *l = &m->layers[i];
        char at[64];
        snprintf(at, sizeof at, "encoder.layer.%lld", (long long)i);
        l->q = fs_bind_affine(&b, C, C, "%s.attention.self.query", at);
        l->k = fs_bind_affine(&b, C, C, "%s.attention.self.key", at);
        l->v = fs_bind_affine(&b, C, C, "%s.attention.self.value", at);
        l->out = fs_bind_affine(&b, C, C, "%s.attention.output.dense", at);
        l->norm1 = fs_bind_norm(&b, C, "%s.attention.output.LayerNorm", at);
        l->fc1 = fs_bind_affine(&b, I, C, "%s.intermediate.dense", at);
        l->fc2 = fs_bind_affine(&b, C, I, "%s.output.dense", at);
        l->norm2 = fs_bind_norm(&b, C, "%s.output.LayerNorm", at);
    }
    if (b.status) fs_bert_unbind(m);
    return b.status;
}

void fs_bert_unbind(fs_bert *m) {
    if (!m) return;
    free(m->layers);
    *m = (fs_bert){0};
}

/* ids: [n] -> [n, C] */
static fs_tensor *embed(fs_exec *c, const fs_bert *m, const int32_t *ids, int64_t n) {
    int32_t *numbers = fs_alloc((size_t)n, sizeof *numbers);
    if (!numbers) {
        fs_exec_fail(c, FS_E_NO_MEMORY, "no memory for a text of %lld tokens", (long long)n);
        return NULL;
    }
    for (int64_t i = 0; i < n; i++) numbers[i] = (int32_t)i;
    fs_tensor *x = fs_embedding(c, ids, n, m->words), *p = fs_embedding(c, numbers, n, m->positions);
    for (int64_t i = 0; i < n; i++) numbers[i] = 0; /* everything is of the first segment */
    fs_tensor *t = fs_embedding(c, numbers, n, m->types);
    free(numbers);
    return fs_layer_norm(c, fs_add(c, fs_add(c, x, t), p), m->norm.w, m->norm.b, m->config.eps);
}

/* x: [n, C] -> [n, C] */
static fs_tensor *layer_forward(fs_exec *c, const fs_bert *m, const fs_bert_layer *l, const fs_tensor *x, int64_t n) {
    const int64_t C = m->config.hidden, heads = m->config.heads, d = C / heads;
    fs_tensor *q = fs_reshape_3d(c, fs_affine_linear(c, x, &l->q), n, heads, d);
    fs_tensor *k = fs_reshape_3d(c, fs_affine_linear(c, x, &l->k), n, heads, d);
    fs_tensor *v = fs_reshape_3d(c, fs_affine_linear(c, x, &l->v), n, heads, d);
    fs_tensor *o = fs_attention(c, q, k, v, 1.0f / sqrtf((float)d), false); /* [n, heads, d] */
    fs_tensor *h = fs_affine_add(c, fs_reshape_2d(c, o, n, C), &l->out, x);
    h = fs_layer_norm(c, h, l->norm1.w, l->norm1.b, m->config.eps);
    fs_tensor *f = fs_affine_add(c, fs_affine_gelu(c, h, &l->fc1), &l->fc2, h); /* [n, I] between */
    return fs_layer_norm(c, f, l->norm2.w, l->norm2.b, m->config.eps);
}

fs_tensor *fs_bert_forward(fs_exec *c, const fs_bert *m, const int32_t *ids, int64_t n) {
    if (n < 1 || n > m->config.positions) {
        fs_exec_fail(c, FS_E_LIMIT, "BERT: a text of %lld tokens; 1 to %lld are possible", (long long)n, (long long)m->config.positions);
        return NULL;
    }
    fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_tensor *x = fs_scope_end(c, mark, embed(c, m, ids, n));
    for (int64_t i = 0; i < m->config.layers && x; i++) x = fs_scope_end(c, mark, layer_forward(c, m, &m->layers[i], x, n));
    return fs_check_finite(c, x, "sentence encoder") ? x : NULL;
}
