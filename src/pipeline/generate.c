/* Prompt embeddings with the image in place, next-token generation with the key/value cache, and likelihoods of given continuations. */
#include "pipeline/pipeline.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

fs_tensor *fs_prompt_embed(fs_exec *c, const fs_llama *m, const int32_t *ids, size_t n, const fs_tensor *image, int32_t bbox_id,
                           const fs_tensor *regions) {
    /* parts alternate: tokens, image, tokens, region, tokens, ... */
    const fs_tensor **parts = fs_alloc(2 * n + 1, sizeof *parts);
    fs_tensor *out = NULL;
    size_t count = 0, begin = 0;
    int64_t region = 0;
    if (!parts) {
        fs_exec_fail(c, FS_E_NO_MEMORY, "out of memory for a prompt of %zu tokens", n);
        return NULL;
    }
    for (size_t i = 0; i <= n; i++) {
        const bool is_image = i < n && ids[i] == FS_IMAGE_TOKEN, is_box = i < n && regions && ids[i] == bbox_id;
        if (i < n && !is_image && !is_box) continue;
        if (i > begin) parts[count++] = fs_llama_embed(c, m, ids + begin, (int64_t)(i - begin));
        begin = i + 1;
        if (is_image) parts[count++] = image;
        if (!is_box) continue;
        if (region >= regions->shape[0]) {
            fs_exec_fail(c, FS_E_USAGE, "the text holds more <bbox> than the %lld boxes given; give one --box for each",
                         (long long)regions->shape[0]);
            goto done;
        }
        parts[count++] = fs_rows(c, regions, region, region + 1);
        region++;
    }
    out = fs_concat_rows(c, parts, count);
done:
    free(parts);
    return out;
}

/* 16 bits lose nothing where the network itself rounds to them, and little beside weights of 4 or 8 bits; with weights as they were trained and
 * in f32, nothing is to be lost. */
fs_dtype fs_kv_type(const fs_exec *c, const fs_llama *m, const fs_options *opt) {
    if (c->precision != FS_DTYPE_F32) return c->precision;
    const bool in_groups = m->config.heads > 0 && m->config.hidden / m->config.heads % 32 == 0; /* of 32 */
    if (opt->kv_cache == FS_KV_F32) return FS_DTYPE_F32;
    if (opt->kv_cache == FS_KV_F16) return FS_DTYPE_F16;
    if (opt->kv_cache == FS_KV_Q8_0) return in_groups ? FS_DTYPE_Q8_0 : FS_DTYPE_F16;
    return m->layers && fs_dtype_size(m->layers[0].gate->dtype) == 0 ? FS_DTYPE_F16 : FS_DTYPE_F32; /* block types have no size of an element */
}

/* ---- guessing ahead (prompt lookup, after Saxena 2023 and Leviathan et al. 2023) ----
 * Decoding one token reads every weight once, and so does decoding four. If what was just written stood before, what followed it there is
 * a good guess for what comes now: the guesses run along in the same pass, each is kept only if the model itself would have chosen it, and the
 * rest is forgotten. Few rows are computed with the same bits as one (tensor/ops.h), so the text is the same with and without guessing. */

enum { LONGEST_MATCH = 4 };

/* The token at position i of context followed by text. */
static int32_t at(const fs_generation *g, const fs_ids *text, size_t i) {
    return i < g->n_context ? g->context[i] : text->data[i - g->n_context];
}

/* Up to `most` tokens that followed the latest earlier place with the longest run equal to the end of the text. */
static size_t guess(const fs_generation *g, const fs_ids *text, size_t most, int32_t *out) {
    const size_t n = g->n_context + text->count;
    size_t best = 0, from = 0;
    for (size_t end = n - 1; end-- > 0 && best < LONGEST_MATCH;) { /* end: last token of an earlier run */
        size_t run = 0;
        while (run < LONGEST_MATCH && run <= end && at(g, text, end - run) == at(g, text, n - 1 - run)) run++;
        if (run > best) best = run, from = end + 1;
    }
    size_t count = 0;
    if (best >= 2) /* one equal token says too little */
        for (; count < most && from + count < n && at(g, text, from + count) >= 0; count++) out[count] = at(g, text, from + count);
    return count;
}

/* ---- writing an answer ---- */

static void fail(fs_writer *w, fs_status status) {
    w->status = status;
    w->done = true;
}

/* Chooses tokens as long as the guesses come true. states: [1 + guesses, hidden], the states behind w->batch, each of which predicts what the
 * next of the batch guesses; logits: theirs. */
static void choose(fs_exec *c, fs_writer *w, const float *states, float *logits, int64_t hidden, int64_t vocab) {
    const fs_generation *g = &w->g;
    size_t row = 0;
    fs_status status;
    for (;; row++) {
        int32_t id = 0;
        status = fs_draw_token(logits + (int64_t)row * vocab, (int32_t)vocab, &g->sampling, &w->rng, &id, &w->error);
        if ((size_t)w->written < g->n_script) id = g->script[w->written];
        if (status || (status = fs_ids_push(w->out, id, &w->error)) ||
            (g->on_token && (status = g->on_token(g->user, id, states + (int64_t)row * hidden, &w->error)))) {
            fail(w, status);
            break;
        }
        w->written++;
        if (g->step) fs_progress(c->callbacks, g->step, w->written, g->max_new_tokens);
        w->done = id == g->eos || w->written >= g->max_new_tokens;
        if (w->done || row == w->guesses || id != w->batch[row + 1]) break;
    }
    if (g->accepted) *g->accepted += (int64_t)row;
    w->state->length -= (int64_t)(w->guesses - row); /* forget what came out otherwise */
    w->guesses = 0;
}

fs_status fs_writer_begin(fs_exec *c, const fs_llama *m, const fs_generation *g, fs_llama_state *state, const float *last, fs_ids *out,
                          fs_writer *w, fs_error *err) {
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    *w = (fs_writer){.g = *g, .state = state, .out = out, .rng = fs_rng_seed(g->sampling.seed)};
    const fs_tensor *logits = fs_llama_logits(c, m, fs_wrap(c, FS_DTYPE_F32, 2, (const int64_t[]){1, m->config.hidden}, (void *)(uintptr_t)last));
    const fs_status status = fs_exec_status(c, err);
    if (!status) choose(c, w, last, fs_f32(logits), m->config.hidden, m->config.vocab);
    fs_arena_release(c->arena, mark);
    return status;
}

fs_status fs_writers_step(fs_exec *c, const fs_llama *m, fs_writer *const *writers, size_t n, fs_error *err) {
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_kv_part parts[FS_MAX_WRITERS];
    fs_writer *active[FS_MAX_WRITERS];
    int32_t ids[FS_MAX_WRITERS + FS_MAX_GUESSES];
    size_t count = 0, rows = 0;
    for (size_t i = 0; i < n && count < FS_MAX_WRITERS; i++)
        if (!writers[i]->done) active[count++] = writers[i];
    /* A pass of up to four rows costs little more than one of one row; beyond, answers make better use of rows than guesses. */
    size_t spare = count < 1 + FS_MAX_GUESSES ? 1 + FS_MAX_GUESSES - count : 0;
    for (size_t i = 0; i < count; i++) {
        fs_writer *w = active[i];
        w->batch[0] = w->out->data[w->out->count - 1];
        const int room = w->g.max_new_tokens - w->written - 1;
        w->guesses = w->g.n_context && room > 0 ? guess(&w->g, w->out, (size_t)fs_min_i64(room, (int64_t)spare), w->batch + 1) : 0;
        spare -= w->guesses;
        memcpy(ids + rows, w->batch, (1 + w->guesses) * sizeof *ids);
        rows += 1 + w->guesses;
        parts[i] = (fs_kv_part){.cache = w->state, .rows = 1 + (int64_t)w->guesses};
    }
    if (!count) return FS_OK;
    const fs_tensor *h = fs_llama_forward_parts(c, m, parts, count, fs_llama_embed(c, m, ids, (int64_t)rows), NULL);
    const fs_tensor *logits = fs_llama_logits(c, m, h);
    const fs_status status = fs_exec_status(c, err);
    for (size_t i = 0, row = 0; i < count && !status; i++) {
        const size_t mine = 1 + active[i]->guesses;
        choose(c, active[i], fs_f32(h) + (int64_t)row * m->config.hidden, fs_f32(logits) + (int64_t)row * m->config.vocab, m->config.hidden,
               m->config.vocab);
        row += mine;
    }
    fs_arena_release(c->arena, mark);
    return status;
}

fs_status fs_generate(fs_exec *c, const fs_llama *m, fs_llama_state *state, const float *last, const fs_generation *g, fs_ids *out,
                      fs_error *err) {
    fs_writer w, *one = &w;
    fs_status status = fs_writer_begin(c, m, g, state, last, out, &w, err);
    while (!status && !w.done) status = fs_writers_step(c, m, &one, 1, err);
    if (!status && w.status) {
        status = w.status;
        if (err) *err = w.error;
    }
    return status;
}

/* ---- likelihoods ---- */

/* log softmax(row)[id] in double. */
static double log_probability(const float *row, int64_t n, int32_t id) {
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        if (row[i] > largest) largest = row[i];
    for (int64_t i = 0; i < n; i++) sum += exp((double)row[i] - largest);
    return (double)row[id] - largest - log(sum);
}

fs_status fs_log_likelihood(fs_exec *c, const fs_llama *m, fs_llama_state *state, const float *last, const int32_t *ids, size_t n,
                            double *out, fs_error *err) {
    if (n == 0) return FS_OK;
    const int64_t hidden = m->config.hidden, vocab = m->config.vocab, length = state->length;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_tensor *row = fs_wrap(c, FS_DTYPE_F32, 2, (const int64_t[]){1, hidden}, (void *)(uintptr_t)last);
    fs_tensor *logits = fs_llama_logits(c, m, row);
    fs_status status = fs_exec_status(c, err);
    if (!status) out[0] = log_probability(fs_f32(logits), vocab, ids[0]);
    if (!status && n > 1) {
        fs_tensor *h = fs_llama_forward(c, m, state, fs_llama_embed(c, m, ids, (int64_t)n - 1), NULL);
        logits = fs_llama_logits(c, m, h);
        status = fs_exec_status(c, err);
        for (size_t i = 1; !status && i < n; i++) out[i] = log_probability(fs_f32(logits) + (int64_t)(i - 1) * vocab, vocab, ids[i]);
    }
    state->length = length;
    fs_arena_release(c->arena, mark);
    return status;
}
