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

/* ---- guessing ahead (prompt lookup, after Saxena 2023 and Leviathan et al. 2023) ----
 * Decoding one token reads every weight once, and so does decoding four. If what was just written stood before, what followed it there is
 * a good guess for what comes now: the guesses run along in the same pass, each is kept only if the model itself would have chosen it, and the
 * rest is forgotten. Few rows are computed with the same bits as one (tensor/ops.h), so the text is the same with and without guessing. */

enum { MAX_GUESSES = 3, LONGEST_MATCH = 4 };

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

fs_status fs_generate(fs_exec *c, const fs_llama *m, fs_llama_state *state, const float *last, const fs_generation *g, fs_ids *out,
                      fs_error *err) {
    const int64_t hidden = m->config.hidden, vocab = m->config.vocab;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_rng rng = fs_rng_seed(g->sampling.seed);
    fs_status status = FS_OK;
    int32_t batch[1 + MAX_GUESSES];
    size_t guesses = 0; /* batch[1..guesses] are guesses for what follows batch[0] */
    /* rows[i] is the state behind batch[i]; it predicts what batch[i + 1] guesses. At first there is only `last`. */
    const float *rows = last;
    fs_tensor *logits = fs_llama_logits(c, m, fs_wrap(c, FS_DTYPE_F32, 2, (const int64_t[]){1, hidden}, (void *)(uintptr_t)last));
    for (int written = 0;;) {
        if ((status = fs_exec_status(c, err))) break;
        size_t row = 0;
        bool done = false;
        for (;; row++) { /* as long as the guesses come true */
            int32_t id = 0;
            const float *h = rows + (int64_t)row * hidden;
            if ((status = fs_sample(fs_f32(logits) + (int64_t)row * vocab, (int32_t)vocab, &g->sampling, &rng, &id, err))) break;
            if ((size_t)written < g->n_script) id = g->script[written];
            if ((status = fs_ids_push(out, id, err))) break;
            if (g->on_token && (status = g->on_token(g->user, id, h, err))) break;
            fs_progress(c->callbacks, g->step, ++written, g->max_new_tokens);
            done = id == g->eos || written >= g->max_new_tokens;
            if (done || row == guesses || id != batch[row + 1]) break;
        }
        if (g->accepted) *g->accepted += (int64_t)row;
        state->length -= (int64_t)(guesses - row); /* forget what came out otherwise */
        if (status || done) break;
        fs_arena_release(c->arena, mark);
        batch[0] = out->data[out->count - 1];
        const int room = g->max_new_tokens - written - 1;
        guesses = g->n_context && room > 0 ? guess(g, out, (size_t)fs_min_i64(room, MAX_GUESSES), batch + 1) : 0;
        fs_tensor *h = fs_llama_forward(c, m, state, fs_llama_embed(c, m, batch, 1 + (int64_t)guesses), NULL);
        logits = fs_llama_logits(c, m, h);
        if ((status = fs_exec_status(c, err))) break;
        rows = fs_f32(h);
    }
    fs_arena_release(c->arena, mark);
    return status;
}

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
