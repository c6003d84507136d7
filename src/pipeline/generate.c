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

static fs_status draw(const fs_exec *c, const fs_tensor *logits, const fs_sampling *s, fs_rng *rng, int32_t *id, fs_error *err) {
    (void)c;
    return fs_sample(fs_f32(logits), (int32_t)fs_tensor_count(logits), s, rng, id, err);
}

fs_status fs_generate(fs_exec *c, const fs_llama *m, fs_llama_state *state, const float *last, const fs_generation *g, fs_ids *out,
                      fs_error *err) {
    const int64_t hidden = m->config.hidden;
    fs_rng rng = fs_rng_seed(g->sampling.seed);
    fs_status status = FS_OK;
    float *h = fs_alloc((size_t)hidden, sizeof *h);
    if (!h) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    memcpy(h, last, (size_t)hidden * sizeof *h);
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    for (int step = 0; step < g->max_new_tokens; step++) {
        int32_t id = 0;
        fs_tensor *row = fs_wrap(c, FS_DTYPE_F32, 2, (const int64_t[]){1, hidden}, h);
        fs_tensor *logits = fs_llama_logits(c, m, row);
        if ((status = fs_exec_status(c, err)) || (status = draw(c, logits, &g->sampling, &rng, &id, err))) break;
        if ((status = fs_ids_push(out, id, err))) break;
        if (g->on_token && (status = g->on_token(g->user, id, h, err))) break;
        fs_progress(c->callbacks, g->step, step + 1, g->max_new_tokens);
        if (id == g->eos || step + 1 == g->max_new_tokens) break;
        fs_tensor *next = fs_llama_forward(c, m, state, fs_llama_embed(c, m, &id, 1), NULL);
        if ((status = fs_exec_status(c, err))) break;
        memcpy(h, next->data, (size_t)hidden * sizeof *h);
        fs_arena_release(c->arena, mark);
    }
    fs_arena_release(c->arena, mark);
    free(h);
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
