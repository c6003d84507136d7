/* LLaMA (Touvron et al., 2023), the decoder of both stages: RMSNorm, rotary attention, SwiGLU, as transformers' LlamaModel computes it.
 * Tokens enter as embeddings, because image features take the place of some of them; what leaves is the state after the last RMSNorm,
 * which both lm_head and the [SEG] head read. The keys (with rotary position) and values of earlier tokens are kept in a state, so one
 * forward function serves the prompt and every single token after it. */
#include "model/model.h"

#include <stdlib.h>

#include "tensor/tape.h"

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
    free(m->lora);
    *m = (fs_llama){0};
}

/* ---- adapters ---- */

const char *const fs_lora_place_names[FS_LORA_PLACES] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                                                         "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

void fs_lora_shape(const fs_llama_config *g, fs_lora_place place, int64_t *in, int64_t *out) {
    const int64_t kv = g->hidden / g->heads * g->kv_heads;
    *in = place == FS_LORA_DOWN ? g->intermediate : g->hidden;
    *out = place == FS_LORA_GATE || place == FS_LORA_UP ? g->intermediate : place == FS_LORA_K || place == FS_LORA_V ? kv : g->hidden;
}

fs_status fs_llama_bind_lora(fs_llama *m, const fs_tensor_source *source, const char *prefix, double alpha, fs_error *err) {
    fs_binder b = {.source = source, .prefix = prefix, .err = err};
    int64_t found = 0;
    free(m->lora);
    m->lora = fs_alloc_zero((size_t)m->config.layers, sizeof *m->lora);
    if (!m->lora) return fs_fail(err, FS_E_NO_MEMORY, "no memory for the adapters of %lld layers", (long long)m->config.layers);
    for (int64_t i = 0; i < m->config.layers; i++) {
        for (int k = 0; k < FS_LORA_PLACES && !b.status; k++) {
            int64_t in, out;
            fs_lora_shape(&m->config, (fs_lora_place)k, &in, &out);
            fs_lora_pair *l = &m->lora[i].at[k];
            if (!fs_binder_has(&b, "model.layers.%lld.%s.lora_A.weight", (long long)i, fs_lora_place_names[k])) continue;
            l->a = fs_bind_2d(&b, -1, in, "model.layers.%lld.%s.lora_A.weight", (long long)i, fs_lora_place_names[k]);
            l->b = l->a ? fs_bind_2d(&b, out, l->a->shape[0], "model.layers.%lld.%s.lora_B.weight", (long long)i, fs_lora_place_names[k]) : NULL;
            if (!b.status && l->a->shape[0] < 1) return fs_fail(err, FS_E_MISMATCH, "an adapter of layer %lld has rank 0", (long long)i);
            l->scale = b.status ? 0 : (float)(alpha / (double)l->a->shape[0]);
            found++;
        }
    }
    if (!b.status && !found)
        b.status = fs_fail(err, FS_E_MISMATCH, "%s: no adapter fits this model of %lld layers (expected names like %smodel.layers.0.self_attn.q_proj.lora_A.weight)",
                           source->origin(source->user, "lora_A"), (long long)m->config.layers, prefix);
    return b.status;
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
    const fs_kv_part *parts; /* NULL: whole sequences from position 0 on, nothing kept */
    size_t n_parts;
    fs_llama_batch batch;     /* without parts: those sequences; n 0 = all rows are one */
    const int64_t *positions; /* [n] */
} pass;

/* What the adapter at a place sees of x. */
static const fs_tensor *dropped(fs_exec *c, const pass *p, int64_t index, fs_lora_place place, const fs_tensor *x) {
    return p->batch.dropout > 0 ? fs_dropout(c, x, p->batch.dropout, p->batch.key + (uint64_t)(index * FS_LORA_PLACES + (int)place)) : x;
}

/* y, and what the adapter at this place makes of x, W's input. Scaling the few values in between saves two passes over the many. */
static fs_tensor *adapt(fs_exec *c, const pass *p, int64_t index, fs_lora_place place, const fs_tensor *x, fs_tensor *y) {
    if (!p->m->lora || !x || !y) return y;
    const fs_lora_pair *l = &p->m->lora[index].at[place];
    if (!l->a) return y;
    x = dropped(c, p, index, place, x);
    if (p->batch.n) return fs_linear_lora(c, NULL, NULL, y, x, l->a, l->b, l->scale);
    return fs_linear_add(c, fs_scale(c, fs_linear(c, x, l->a, NULL), l->scale), l->b, NULL, y);
}

/* W x with its adapter, and residual (NULL: none) */
static fs_tensor *linear(fs_exec *c, const pass *p, int64_t index, fs_lora_place place, const fs_tensor *x, const fs_tensor *w, const fs_tensor *residual) {
    const fs_lora_pair *l = p->m->lora ? &p->m->lora[index].at[place] : NULL;
    if (p->batch.n && l && l->a) return fs_linear_lora(c, x, w, residual, dropped(c, p, index, place, x), l->a, l->b, l->scale);
    if (residual && !(l && l->a)) return fs_linear_add(c, x, w, NULL, residual);
    fs_tensor *y = adapt(c, p, index, place, x, fs_linear(c, x, w, NULL));
    return residual ? fs_add(c, residual, y) : y;
}

/* Rows of q or k in the order of transformers, [n, heads, d]: everything after is the same to the bit whatever the file's order was. */
static fs_tensor *heads_of(fs_exec *c, const pass *p, int64_t index, fs_lora_place place, const fs_tensor *x, const fs_tensor *w, int64_t heads) {
    const int64_t n = x->shape[0], d = p->m->config.hidden / p->m->config.heads;
    if (!p->m->config.rope_pairs || place > FS_LORA_K) return fs_reshape_3d(c, linear(c, p, index, place, x, w, NULL), n, heads, d);
    fs_tensor *y = fs_linear(c, x, w, NULL);
    y = fs_reshape_2d(c, fs_halves_from_pairs(c, fs_reshape_3d(c, y, n, heads, d)), n, heads * d);
    return fs_reshape_3d(c, adapt(c, p, index, place, x, y), n, heads, d);
}

/* Each sequence attends to itself. */
static fs_tensor *attend_apart(fs_exec *c, const pass *p, const fs_tensor *q, const fs_tensor *k, const fs_tensor *v, float scale) {
    return p->batch.n < 2 ? fs_attention(c, q, k, v, scale, true) : fs_attention_apart(c, q, k, v, p->batch.lengths, p->batch.n, scale);
}

/* x: the layer's input, normed; its output is residual and what attention makes of x */
static fs_tensor *attention(fs_exec *c, const pass *p, int64_t index, const fs_tensor *x, const fs_tensor *residual) {
    if (!x) return NULL; /* an operator before it failed, or the user said stop */
    const fs_llama_config *g = &p->m->config;
    const fs_llama_layer *l = &p->m->layers[index];
    const int64_t n = x->shape[0], d = g->hidden / g->heads;
    fs_tensor *q = heads_of(c, p, index, FS_LORA_Q, x, l->q, g->heads);
    fs_tensor *k = heads_of(c, p, index, FS_LORA_K, x, l->k, g->kv_heads);
    fs_tensor *v = heads_of(c, p, index, FS_LORA_V, x, l->v, g->kv_heads);
    q = fs_rope(c, q, p->positions, g->rope_theta);
    k = fs_rope(c, k, p->positions, g->rope_theta);
    /* upstream divides the scores by sqrt(d); the product with its reciprocal differs by at most one unit in the last place */
    const float scale = 1.0f / __builtin_sqrtf((float)d);
    fs_tensor *a = p->parts ? fs_attention_cached(c, q, k, v, p->parts, p->n_parts, index, scale) : attend_apart(c, p, q, k, v, scale);
    return linear(c, p, index, FS_LORA_O, fs_reshape_2d(c, a, n, g->hidden), l->o, residual);
}

static fs_tensor *layer(fs_exec *c, const pass *p, int64_t index, const fs_tensor *x) {
    const fs_llama_config *g = &p->m->config;
    const fs_llama_layer *l = &p->m->layers[index];
    const fs_arena_mark mark = fs_arena_get_mark(c->arena); /* a prompt's q, k, v and what is made of them are given back before the MLP's three wide matrices */
    const fs_tensor *h = fs_scope_end(c, mark, attention(c, p, index, fs_rms_norm(c, x, l->norm1, g->eps), x));
    const fs_tensor *y = fs_rms_norm(c, h, l->norm2, g->eps);
    y = fs_silu_mul(c, linear(c, p, index, FS_LORA_GATE, y, l->gate, NULL), linear(c, p, index, FS_LORA_UP, y, l->up, NULL));
    return linear(c, p, index, FS_LORA_DOWN, y, l->down, h);
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

static bool fits(fs_exec *c, const fs_llama *m, const fs_tensor *x) {
    if (!x || c->error.status) return false;
    if (x->ndim == 2 && x->shape[1] == m->config.hidden) return true;
    fs_exec_fail(c, FS_E_INTERNAL, "LLaMA: input of width %lld, expected %lld", (long long)x->shape[x->ndim - 1], (long long)m->config.hidden);
    return false;
}

fs_tensor *fs_llama_forward_parts(fs_exec *c, const fs_llama *m, const fs_kv_part *parts, size_t n_parts, const fs_tensor *x, fs_tensor **taps) {
    const fs_llama_config *g = &m->config;
    if (!fits(c, m, x)) return NULL;
    const int64_t n = x->shape[0];
    const pass p = {.m = m, .parts = parts, .n_parts = n_parts, .positions = prepare(c, parts, n_parts, n)};
    if (!p.positions) return NULL;
    fs_tensor *h = (fs_tensor *)(uintptr_t)x;
    fs_arena_mark mark = fs_arena_get_mark(c->arena); /* every layer's result moves down to here, over its input */
    for (int64_t i = 0; i < g->layers && h; i++) {
        if (taps) mark = fs_arena_get_mark(c->arena);
        h = fs_scope_end(c, mark, layer(c, &p, i, h));
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

/* ---- several sequences, for training ---- */

typedef struct one_layer { const pass *p; int64_t index; } one_layer;

static fs_tensor *layer_segment(fs_exec *c, const void *user, const fs_tensor *x) {
    const one_layer *s = user;
    return layer(c, s->p, s->index, x);
}

fs_tensor *fs_llama_forward_batch(fs_exec *c, const fs_llama *m, const fs_llama_batch *batch, const fs_tensor *x) {
    if (!fits(c, m, x)) return NULL;
    /* in the arena, because layers that are computed again ask for it in the backward pass */
    pass *p = fs_arena_alloc(c->arena, sizeof *p);
    int64_t *lengths = fs_arena_alloc(c->arena, batch->n * sizeof *lengths), *positions = fs_arena_alloc(c->arena, (size_t)x->shape[0] * sizeof *positions);
    if (!p || !lengths || !positions) {
        fs_exec_fail(c, FS_E_NO_MEMORY, "out of memory for a batch of %zu", batch->n);
        return NULL;
    }
    int64_t rows = 0;
    for (size_t i = 0; i < batch->n; i++) {
        lengths[i] = batch->lengths[i];
        for (int64_t k = 0; k < lengths[i] && rows < x->shape[0]; k++) positions[rows++] = k;
    }
    if (rows != x->shape[0]) {
        fs_exec_fail(c, FS_E_INTERNAL, "LLaMA: the sequences' rows do not add up to %lld", (long long)x->shape[0]);
        return NULL;
    }
    *p = (pass){.m = m, .batch = *batch, .positions = positions};
    p->batch.lengths = lengths;
    const fs_tensor *h = x;
    for (int64_t i = 0; i < m->config.layers && h; i++) {
        const one_layer s = {p, i};
        if (batch->recompute) h = fs_checkpoint(c, layer_segment, &s, sizeof s, h);
        else h = layer(c, p, i, h);
        if (fs_cancelled(c->callbacks)) fs_exec_fail(c, FS_E_CANCELLED, "stopped on request");
    }
    return fs_rms_norm(c, h, m->norm, m->config.eps);
}

fs_tensor *fs_llama_logits(fs_exec *c, const fs_llama *m, const fs_tensor *h) { return fs_linear(c, h, m->lm_head, NULL); }

enum { LOGIT_ROWS = 160 }; /* at a time: with 32000 words 20 MB, and as much for their gradient */

typedef struct word_loss { const fs_llama *m; const int32_t *targets; float share; } word_loss;

static fs_tensor *word_loss_of(fs_exec *c, const void *user, const fs_tensor *h) {
    const word_loss *w = user;
    return fs_scale(c, fs_cross_entropy(c, fs_llama_logits(c, w->m, h), w->targets), w->share);
}

fs_tensor *fs_llama_loss(fs_exec *c, const fs_llama *m, const fs_tensor *h, const int64_t *rows, const int32_t *targets, int64_t n, float seed) {
    fs_tensor *sum = NULL;
    const int64_t parts = (n + LOGIT_ROWS - 1) / LOGIT_ROWS, step = parts ? (n + parts - 1) / parts : 0; /* of like size */
    for (int64_t at = 0; at < n; at += step) {
        const int64_t count = fs_min_i64(step, n - at);
        const word_loss w = {m, targets + at, (float)count / (float)n};
        const fs_arena_mark mark = fs_arena_get_mark(c->arena);
        const fs_tensor *some = fs_gather_rows(c, h, rows + at, count);
        fs_tensor *part = fs_scope_end(c, mark, fs_loss_now(c, word_loss_of, &w, some, seed));
        sum = sum ? fs_add(c, sum, part) : part;
    }
    return sum;
}
