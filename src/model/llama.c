/* LLaMA (Touvron et al., 2023), the decoder of both stages: RMSNorm, rotary attention, SwiGLU, as transformers' LlamaModel computes it.
 * Tokens enter as embeddings, because image features take the place of some of them; what leaves is the state after the last RMSNorm,
 * which both lm_head and the [SEG] head read. The keys (with rotary position) and values of earlier tokens are kept in a state, so one
 * forward function serves the prompt and every single token after it. */
#include "model/model.h"

#include <stdlib.h>

fs_status fs_llama_bind(fs_llama *m, const fs_llama_config *config, const fs_tensor_source *source, const char *prefix, fs_error *err) {
    const fs_llama_config g = *config;
    *m = (fs_llama){.config = g};
    if (g.heads < 1 || g.kv_heads < 1 || g.hidden % g.heads || g.heads % g.kv_heads || g.hidden / g.heads % 2)
        return fs_fail(err, FS_E_MISMATCH,
                       "config.json: hidden_size %lld, num_attention_heads %lld, num_key_value_heads %lld do not fit each other "
                       "(heads must divide the hidden size into even widths)",
                       (long long)g.hidden, (long long)g.heads, (long long)g.kv_heads);
    const int64_t kv = g.hidden / g.heads * g.kv_heads;
    m->layers = fs_alloc_zero((size_t)g.layers, sizeof *m->layers);
    if (!m->layers) return fs_fail(err, FS_E_NO_MEMORY, "no memory for the table of %lld layers", (long long)g.layers);

    fs_binder b = {.source = source, .prefix = prefix, .err = err};
    m->embed = fs_bind_2d(&b, g.vocab, g.hidden, "model.embed_tokens.weight");
    m->norm = fs_bind_1d(&b, g.hidden, "model.norm.weight");
    m->lm_head = fs_bind_2d(&b, g.vocab, g.hidden, "lm_head.weight");
    for (int64_t i = 0; i < g.layers && !b.status; i++) {
        fs_llama_layer *l = &m->layers[i];
        const long long n = i;
        l->norm1 = fs_bind_1d(&b, g.hidden, "model.layers.%lld.input_layernorm.weight", n);
        l->q = fs_bind_2d(&b, g.hidden, g.hidden, "model.layers.%lld.self_attn.q_proj.weight", n);
        l->k = fs_bind_2d(&b, kv, g.hidden, "model.layers.%lld.self_attn.k_proj.weight", n);
        l->v = fs_bind_2d(&b, kv, g.hidden, "model.layers.%lld.self_attn.v_proj.weight", n);
        l->o = fs_bind_2d(&b, g.hidden, g.hidden, "model.layers.%lld.self_attn.o_proj.weight", n);
        l->norm2 = fs_bind_1d(&b, g.hidden, "model.layers.%lld.post_attention_layernorm.weight", n);
        l->gate = fs_bind_2d(&b, g.intermediate, g.hidden, "model.layers.%lld.mlp.gate_proj.weight", n);
        l->up = fs_bind_2d(&b, g.intermediate, g.hidden, "model.layers.%lld.mlp.up_proj.weight", n);
        l->down = fs_bind_2d(&b, g.hidden, g.intermediate, "model.layers.%lld.mlp.down_proj.weight", n);
        /* rotary_emb.inv_freq may be stored; upstream never reads it, neither do we. Asking marks it as known. */
        fs_bind_optional(&b, 1, (const int64_t[]){-1}, "model.layers.%lld.self_attn.rotary_emb.inv_freq", n);
    }
    if (b.status) fs_llama_unbind(m);
    return b.status;
}

void fs_llama_unbind(fs_llama *m) {
    free(m->layers);
    *m = (fs_llama){0};
}

/* ---- state ---- */

fs_status fs_llama_state_create(const fs_llama *m, fs_dtype dtype, int64_t capacity, fs_llama_state *out, fs_error *err) {
    const fs_llama_config *g = &m->config;
    *out = fs_kv_empty(dtype, g->layers, g->kv_heads, g->hidden / g->heads);
    const fs_status status = fs_kv_reserve(out, capacity, err);
    if (status) fs_kv_free(out);
    return status;
}

void fs_llama_state_free(fs_llama_state *s) { fs_kv_free(s); }

/* ---- forward ---- */

fs_tensor *fs_llama_embed(fs_exec *c, const fs_llama *m, const int32_t *ids, int64_t n) { return fs_embedding(c, ids, n, m->embed); }

/* What the layers of one pass share. */
typedef struct pass {
    const fs_llama *m;
    const fs_kv_part *parts; /* NULL: one sequence from position 0 on, nothing kept */
    size_t n_parts;
    const int64_t *positions; /* [n] */
} pass;

static fs_tensor *attention(fs_exec *c, const pass *p, int64_t index, const fs_tensor *x) {
    if (!x) return NULL; /* an operator before it failed, or the user said stop */
    const fs_llama_config *g = &p->m->config;
    const fs_llama_layer *l = &p->m->layers[index];
    const int64_t n = x->shape[0], d = g->hidden / g->heads;
    fs_tensor *q = fs_reshape_3d(c, fs_linear(c, x, l->q, NULL), n, g->heads, d);
    fs_tensor *k = fs_reshape_3d(c, fs_linear(c, x, l->k, NULL), n, g->kv_heads, d);
    fs_tensor *v = fs_reshape_3d(c, fs_linear(c, x, l->v, NULL), n, g->kv_heads, d);
    if (g->rope_pairs) { /* back to the order of transformers: everything after is the same to the bit */
        q = fs_halves_from_pairs(c, q);
        k = fs_halves_from_pairs(c, k);
    }
    q = fs_rope(c, q, p->positions, g->rope_theta);
    k = fs_rope(c, k, p->positions, g->rope_theta);
    /* upstream divides the scores by sqrt(d); the product with its reciprocal differs by at most one unit in the last place */
    const float scale = 1.0f / __builtin_sqrtf((float)d);
    fs_tensor *a = p->parts ? fs_attention_cached(c, q, k, v, p->parts, p->n_parts, index, scale) : fs_attention(c, q, k, v, scale, true);
    return fs_linear(c, fs_reshape_2d(c, a, n, g->hidden), l->o, NULL);
}

/* Room in every cache, and the positions of all rows (in the arena). */
static const int64_t *prepare(fs_exec *c, const fs_kv_part *parts, size_t n_parts, int64_t n) {
    fs_error err = {0};
    int64_t rows = 0;
    int64_t *positions = fs_arena_alloc(c->arena, (size_t)n * sizeof *positions);
    if (!positions) fs_exec_fail(c, FS_E_NO_MEMORY, "out of memory for %lld tokens", (long long)n);
    for (size_t i = 0; i < n_parts && positions; i++) {
        fs_kv_cache *s = parts[i].cache;
        if (parts[i].rows < 1 || parts[i].rows > n - rows) break;
        if (fs_kv_reserve(s, s->length + parts[i].rows, &err)) {
            fs_exec_fail(c, err.status, "%s", err.message);
            return NULL;
        }
        for (int64_t k = 0; k < parts[i].rows; k++) positions[rows++] = s->length + k;
    }
    for (; !parts && rows < n && positions; rows++) positions[rows] = rows;
    if (positions && rows != n) fs_exec_fail(c, FS_E_INTERNAL, "LLaMA: the sequences' rows do not add up to %lld", (long long)n);
    return rows == n ? positions : NULL;
}

fs_tensor *fs_llama_forward_parts(fs_exec *c, const fs_llama *m, const fs_kv_part *parts, size_t n_parts, const fs_tensor *x, fs_tensor **taps) {
    const fs_llama_config *g = &m->config;
    if (!x || c->error.status) return NULL;
    if (x->ndim != 2 || x->shape[1] != g->hidden) {
        fs_exec_fail(c, FS_E_INTERNAL, "LLaMA: input of width %lld, expected %lld", (long long)x->shape[x->ndim - 1], (long long)g->hidden);
        return NULL;
    }
    const int64_t n = x->shape[0];
    const pass p = {.m = m, .parts = parts, .n_parts = n_parts, .positions = prepare(c, parts, n_parts, n)};
    if (!p.positions) return NULL;
    fs_tensor *h = (fs_tensor *)(uintptr_t)x;
    fs_arena_mark mark = fs_arena_get_mark(c->arena); /* every layer's result moves down to here, over its input */
    for (int64_t i = 0; i < g->layers && h; i++) {
        const fs_llama_layer *l = &m->layers[i];
        if (taps) mark = fs_arena_get_mark(c->arena);
        h = fs_add(c, h, attention(c, &p, i, fs_rms_norm(c, h, l->norm1, g->eps)));
        if (!h) break;
        fs_tensor *y = fs_rms_norm(c, h, l->norm2, g->eps);
        y = fs_silu_mul(c, fs_linear(c, y, l->gate, NULL), fs_linear(c, y, l->up, NULL));
        h = fs_add(c, h, fs_linear(c, y, l->down, NULL));
        h = fs_scope_end(c, mark, h);
        if (taps) taps[i] = h;
        if (n > FS_FEW_ROWS) fs_progress(c->callbacks, "language model", i + 1, g->layers);
        if (fs_cancelled(c->callbacks)) fs_exec_fail(c, FS_E_CANCELLED, "stopped on request");
    }
    h = fs_rms_norm(c, h, m->norm, g->eps);
    for (size_t i = 0; i < n_parts && h; i++) parts[i].cache->length += parts[i].rows;
    return h;
}

fs_tensor *fs_llama_forward(fs_exec *c, const fs_llama *m, fs_llama_state *state, const fs_tensor *x, fs_tensor **taps) {
    const fs_kv_part part = {.cache = state, .rows = x ? x->shape[0] : 0};
    return fs_llama_forward_parts(c, m, state ? &part : NULL, state ? 1 : 0, x, taps);
}

fs_tensor *fs_llama_logits(fs_exec *c, const fs_llama *m, const fs_tensor *h) { return fs_linear(c, h, m->lm_head, NULL); }
