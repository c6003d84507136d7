/* The stages that bench times, each with numbers of its own in place of a picture's: what an operator does does not depend on values. The first
 * call of a stage is not counted, since weights are made ready and memory is taken then. */
#include "pipeline/bench.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DECODE_TOKENS = 32, TOGETHER = 8, DTG_SIDE = 224 };

static fs_status skip(fs_bench_row *row, const char *why) {
    snprintf(row->skipped, sizeof row->skipped, "%s", why);
    return FS_OK;
}

/* `stage` done `runs` times behind `warm` uncounted ones. */
typedef struct job { const fs_stage_parts *p; fs_exec *c; int64_t tokens, before; fs_llama_state *states; fs_tensor *x; } job;
typedef void (*work_fn)(const job *j);

/* How fast this language model's weights can be read, in pieces as large as a product's share of a matrix; 0 without memory. */
static double weights_roof(const fs_exec *c, const fs_llama *m) {
    const size_t piece = 10 << 20;
    fs_roof_span *spans = NULL;
    size_t n = 0;
    double roof = 0;
    for (int count = 1; count >= 0; count--) { /* first how many, then which */
        if (!count && !(spans = fs_alloc(n, sizeof *spans))) return 0;
        n = 0;
        for (int64_t i = 0; i <= 7 * m->config.layers; i++) {
            const fs_llama_layer *l = &m->layers[i < 7 * m->config.layers ? i / 7 : 0];
            const fs_tensor *const matrices[] = {l->q, l->k, l->v, l->o, l->gate, l->up, l->down}, *w = i < 7 * m->config.layers ? matrices[i % 7] : m->lm_head;
            const size_t bytes = w->data ? (size_t)fs_bench_bytes(w) : 0;
            for (size_t at = 0; at < bytes; at += piece, n++)
                if (!count) spans[n] = (fs_roof_span){(const char *)w->data + at, bytes - at < piece ? bytes - at : piece};
        }
    }
    if (n) roof = fs_roof_read_weights(c, spans, n);
    free(spans);
    return roof;
}

static fs_status measure(fs_bench_run *b, const char *name, fs_bench_row *row, work_fn work, const job *j, int warm, fs_error *err) {
    for (int i = -warm; i < b->o->runs; i++) {
        const fs_arena_mark mark = fs_arena_get_mark(j->c->arena);
        double roof = row->roof == FS_BENCH_READ && i >= 0 ? weights_roof(j->c, j->p->llama) : 0;
        const double start = fs_now();
        work(j);
        const double seconds = fs_now() - start;
        if (roof > 0) roof = (roof + weights_roof(j->c, j->p->llama)) / 2; /* before and after: the run is seconds long */
        fs_arena_release(j->c->arena, mark);
        fs_status status = fs_exec_status(j->c, err);
        if (!status && j->p->vision != j->c) status = fs_exec_status(j->p->vision, err);
        if (!status && fs_cancelled(&b->opt.callbacks)) status = fs_fail(err, FS_E_CANCELLED, "stopped");
        if (status) return status;
        if (i >= 0) {
            row->shares[row->runs] = roof > 0 ? row->bytes / seconds / roof : 0;
            row->seconds[row->runs++] = seconds;
        }
        fs_progress(&b->opt.callbacks, name, fs_max_i64(0, i + 1), b->o->runs);
    }
    return FS_OK;
}

/* Even numbers in -1..1, in the arena. */
static fs_tensor *noise(fs_exec *c, int ndim, const int64_t *shape) {
    fs_tensor *t = fs_new(c, ndim, shape);
    fs_rng rng = fs_rng_seed(1);
    for (int64_t i = 0; t && i < fs_tensor_count(t); i++) fs_f32(t)[i] = (float)(2 * fs_rng_uniform(&rng) - 1);
    return t;
}
#define NOISE(c, ...) noise((c), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

static fs_bench_roof by_weights(const fs_tensor *w) { return fs_bench_is_block(w) ? FS_BENCH_INT8 : FS_BENCH_F32; }

/* The stage that has a language model and CLIP: the first one, or, in a bundle of stage 2 alone, the second. */
static fs_status open_any(fs_bench_run *b, fs_stage_parts *p, fs_error *err) {
    const fs_status status = fs_bench_open(b, b->layout.dte_fdm ? 1 : 2, err);
    if (!status) *p = b->stage1 ? fs_dte_fdm_parts(b->stage1) : fs_mflm_parts(b->stage2);
    return status;
}

static const char *model_name(const fs_bench_run *b) { return b->stage1 ? "stage 1's language model" : "stage 2's language model"; }

/* ---- vision ---- */

static void run_dtg(const job *j) { fs_resnet_forward(j->c, j->p->dtg, j->x, NULL); }

fs_status fs_bench_dtg(fs_bench_run *b, fs_bench_row *row, fs_error *err) {
    if (!b->layout.dte_fdm) return skip(row, "this model has no stage 1, to which the domain tag generator belongs");
    fs_status status = fs_bench_open(b, 1, err);
    if (status) return status;
    const fs_stage_parts p = fs_dte_fdm_parts(b->stage1);
    const fs_arena_mark mark = fs_arena_get_mark(p.vision->arena);
    const job j = {.p = &p, .c = p.vision, .x = NOISE(p.vision, 3, DTG_SIDE, DTG_SIDE)};
    snprintf(row->what, sizeof row->what, "ResNet, one picture of %d x %d", DTG_SIDE, DTG_SIDE);
    row->ops = fs_bench_resnet_ops(p.dtg, DTG_SIDE);
    row->roof = FS_BENCH_F32;
    status = measure(b, "dtg", row, run_dtg, &j, 1, err);
    fs_arena_release(p.vision->arena, mark);
    return status;
}

static void run_clip(const job *j) {
    const fs_tensor *features = fs_clip_forward(j->c, j->p->clip, j->x, j->p->config->select_layer, NULL);
    if (j->p->exec == j->c) {
        fs_projector_forward(j->c, j->p->projector, features);
        return;
    }
    const fs_arena_mark mark = fs_arena_get_mark(j->p->exec->arena);
    fs_projector_forward(j->p->exec, j->p->projector, features ? fs_to_f32(j->p->exec, features) : NULL);
    fs_arena_release(j->p->exec->arena, mark);
}

fs_status fs_bench_clip(fs_bench_run *b, fs_bench_row *row, fs_error *err) {
    fs_stage_parts p;
    fs_status status = open_any(b, &p, err);
    if (status) return status;
    const int64_t size = p.clip->config.image_size, side = size / p.clip->config.patch_size;
    const fs_arena_mark mark = fs_arena_get_mark(p.vision->arena);
    const job j = {.p = &p, .c = p.vision, .x = NOISE(p.vision, 3, size, size)};
    snprintf(row->what, sizeof row->what, "CLIP and projector, one picture of %" PRId64 " x %" PRId64, size, size);
    row->ops = fs_bench_clip_ops(p.clip, p.config->select_layer) + 2 * (double)(side * side) * (double)(fs_tensor_count(p.projector->fc1.w) + fs_tensor_count(p.projector->fc2.w));
    row->roof = by_weights(p.clip->layers[0].fc1.w);
    status = measure(b, "clip", row, run_clip, &j, 1, err);
    fs_arena_release(p.vision->arena, mark);
    return status;
}

static void run_sam(const job *j) { fs_sam_encoder_forward(j->c, j->p->sam, j->x, NULL); }

fs_status fs_bench_sam(fs_bench_run *b, fs_bench_row *row, fs_error *err) {
    if (!b->layout.mflm) return skip(row, "this model has no stage 2, to which SAM belongs");
    fs_status status = fs_bench_open(b, 2, err);
    if (status) return status;
    const fs_stage_parts p = fs_mflm_parts(b->stage2);
    const int64_t size = p.sam->image_size;
    const fs_arena_mark mark = fs_arena_get_mark(p.exec->arena);
    const job j = {.p = &p, .c = p.exec, .x = NOISE(p.exec, 3, size, size)};
    snprintf(row->what, sizeof row->what, "SAM's image encoder, one picture of %" PRId64 " x %" PRId64, size, size);
    row->ops = fs_bench_sam_ops(p.sam);
    row->roof = by_weights(p.sam->blocks[0].lin1.w);
    status = measure(b, "sam", row, run_sam, &j, 1, err);
    fs_arena_release(p.exec->arena, mark);
    return status;
}

/* Everything behind the image encoder, for a picture of 4:3. */
static void run_mask(const job *j) {
    const fs_stage_parts *p = j->p;
    const int64_t size = p->sam->image_size;
    fs_tensor *text = fs_seg_head_forward(j->c, p->seg_head, NOISE(j->c, 1, p->config->llama.hidden));
    fs_tensor *pe = fs_sam_dense_pe(j->c, p->sam_prompt, p->sam->grid, false);
    fs_tensor *low = fs_sam_decoder_forward(j->c, p->sam_decoder, j->x, pe, p->sam_prompt->no_mask, text);
    fs_sam_postprocess(j->c, low, size, size * 3 / 4, size, size * 3 / 4, size);
}

fs_status fs_bench_mask(fs_bench_run *b, fs_bench_row *row, fs_error *err) {
    if (!b->layout.mflm) return skip(row, "this model has no stage 2, which makes the mask");
    fs_status status = fs_bench_open(b, 2, err);
    if (status) return status;
    const fs_stage_parts p = fs_mflm_parts(b->stage2);
    const fs_arena_mark mark = fs_arena_get_mark(p.exec->arena);
    const job j = {.p = &p, .c = p.exec, .x = NOISE(p.exec, p.sam->out_channels, p.sam->grid, p.sam->grid)};
    snprintf(row->what, sizeof row->what, "[SEG] projection, SAM's mask decoder, mask of %" PRId64 " x %" PRId64, p.sam->image_size, p.sam->image_size * 3 / 4);
    status = measure(b, "mask", row, run_mask, &j, 1, err);
    fs_arena_release(p.exec->arena, mark);
    return status;
}

/* ---- language model ---- */

/* A cache of `length` tokens that were never computed: zeros, which are read as fast as anything else. */
static fs_status blank_state(fs_bench_run *b, const fs_stage_parts *p, int64_t length, int64_t room, fs_llama_state *out, fs_error *err) {
    fs_status status = fs_llama_state_create(p->llama, fs_kv_type(p->exec, p->llama, &b->opt), length + room, out, err);
    if (!status) status = fs_kv_reserve(out, length + room, err);
    const size_t block = FS_KV_BLOCK * (size_t)fs_kv_token_bytes(out->dtype, out->layers, out->heads, out->d);
    for (int64_t i = 0; !status && i < out->capacity / FS_KV_BLOCK; i++) memset(out->blocks[i], 0, block);
    if (!status) out->length = length;
    return status;
}

/* One token for each of the sequences, `tokens` times. */
static void run_decode_many(const job *j, int sequences) {
    const fs_llama *m = j->p->llama;
    fs_rng rng = fs_rng_seed(3);
    fs_kv_part parts[TOGETHER];
    int32_t ids[TOGETHER];
    for (int k = 0; k < sequences; k++) parts[k] = (fs_kv_part){.cache = &j->states[k], .rows = 1};
    for (int64_t t = 0; t < j->tokens; t++) {
        const fs_arena_mark mark = fs_arena_get_mark(j->c->arena);
        for (int k = 0; k < sequences; k++) ids[k] = (int32_t)(fs_rng_next(&rng) % (uint64_t)m->config.vocab);
        fs_llama_logits(j->c, m, fs_llama_forward_parts(j->c, m, parts, (size_t)sequences, fs_llama_embed(j->c, m, ids, sequences), NULL));
        fs_arena_release(j->c->arena, mark);
    }
    for (int k = 0; k < sequences; k++) j->states[k].length = j->before;
}
static void run_decode(const job *j) { run_decode_many(j, 1); }
static void run_decode8(const job *j) { run_decode_many(j, TOGETHER); }

static fs_status decode(fs_bench_run *b, fs_bench_row *row, int sequences, fs_error *err) {
    fs_stage_parts p;
    fs_llama_state states[TOGETHER] = {{0}};
    fs_status status = open_any(b, &p, err);
    if (status) return status;
    const int64_t steps = fs_min_i64(b->o->tokens, DECODE_TOKENS), before = b->o->prompt_tokens;
    const fs_llama_config *g = &p.llama->config;
    const double weights = fs_bench_llama_bytes(p.llama);
    const double token = (double)fs_kv_token_bytes(fs_kv_type(p.exec, p.llama, &b->opt), g->layers, g->kv_heads, g->hidden / g->heads);
    const double cache = (double)(sequences * (before + steps)) * token;
    const int64_t room = fs_memory_available();
    const double have = (double)fs_bench_resident(), missing = cache + (weights > have ? weights - have : 0); /* an earlier stage may have read them */
    if (sequences > 1 && room >= 0 && missing > (double)room) {
        snprintf(row->skipped, sizeof row->skipped,
                 "%d sequences of %" PRId64 " tokens take %.1f GB beside weights of %.1f GB, %.1f GB more than now, and %.1f GB are free; try fewer --prompt-tokens",
                 sequences, before + steps, cache / 1e9, weights / 1e9, missing / 1e9, (double)room / 1e9);
        return FS_OK;
    }
    for (int k = 0; k < sequences && !status; k++) status = blank_state(b, &p, before, steps, &states[k], err);
    snprintf(row->what, sizeof row->what, "%s, %" PRId64 " tokens behind %" PRId64 "%s", model_name(b), steps, before, sequences > 1 ? ", of each of eight answers" : "");
    row->tokens = (double)(steps * sequences);
    row->bytes = (double)steps * (weights + (double)sequences * token * ((double)before + (double)(steps + 1) / 2));
    row->ops = fs_bench_llama_ops(p.llama, steps, before, steps) * sequences;
    row->roof = FS_BENCH_READ;
    const job first = {.p = &p, .c = p.exec, .tokens = 1, .before = before, .states = states};
    const job j = {.p = &p, .c = p.exec, .tokens = steps, .before = before, .states = states};
    if (!status) { /* makes the weights ready */
        run_decode_many(&first, sequences);
        status = fs_exec_status(p.exec, err);
    }
    if (!status) status = measure(b, sequences > 1 ? "decode8" : "decode", row, sequences > 1 ? run_decode8 : run_decode, &j, 0, err);
    for (int k = 0; k < sequences; k++) fs_llama_state_free(&states[k]);
    return status;
}

fs_status fs_bench_decode(fs_bench_run *b, fs_bench_row *row, fs_error *err) { return decode(b, row, 1, err); }
fs_status fs_bench_decode8(fs_bench_run *b, fs_bench_row *row, fs_error *err) { return decode(b, row, TOGETHER, err); }

static void run_prefill(const job *j) {
    const fs_llama *m = j->p->llama;
    const fs_tensor *h = fs_llama_forward(j->c, m, j->states, j->x, NULL);
    if (h) fs_llama_logits(j->c, m, fs_rows(j->c, h, h->shape[0] - 1, h->shape[0]));
    j->states->length = 0;
}

fs_status fs_bench_prefill(fs_bench_run *b, fs_bench_row *row, fs_error *err) {
    fs_stage_parts p;
    fs_llama_state state = {0};
    fs_status status = open_any(b, &p, err);
    if (status) return status;
    const int64_t n = b->o->prompt_tokens;
    const fs_arena_mark mark = fs_arena_get_mark(p.exec->arena);
    status = blank_state(b, &p, 0, n, &state, err);
    const job first = {.p = &p, .c = p.exec, .tokens = 1, .states = &state};
    const job j = {.p = &p, .c = p.exec, .states = &state, .x = NOISE(p.exec, n, p.llama->config.hidden)};
    snprintf(row->what, sizeof row->what, "%s, a prompt of %" PRId64 " tokens", model_name(b), n);
    row->tokens = (double)n;
    row->bytes = fs_bench_llama_bytes(p.llama);
    row->ops = fs_bench_llama_ops(p.llama, n, 0, 1);
    row->roof = by_weights(p.llama->layers[0].gate);
    if (!status) { /* makes the weights ready at a token's cost instead of a prompt's, and takes the memory of a prompt, which is the same for every layer */
        fs_llama shallow = *p.llama;
        fs_stage_parts q = p;
        shallow.config.layers = fs_min_i64(1, shallow.config.layers);
        q.llama = &shallow;
        const job warm = {.p = &q, .c = p.exec, .states = &state, .x = j.x};
        run_decode(&first);
        const fs_arena_mark before = fs_arena_get_mark(p.exec->arena);
        run_prefill(&warm);
        fs_arena_release(p.exec->arena, before);
        status = measure(b, "prefill", row, run_prefill, &j, 0, err);
    }
    fs_llama_state_free(&state);
    fs_arena_release(p.exec->arena, mark);
    return status;
}

/* As stage 1 reads its score: the common beginning of two sentences, then the end of each (src/pipeline/dte_fdm.c). */
enum { SCORE_COMMON = 24, SCORE_END = 6 };
static void run_score(const job *j) {
    const fs_llama *m = j->p->llama;
    int32_t ids[SCORE_COMMON + SCORE_END];
    double logp[SCORE_END];
    fs_error err = {0};
    for (int i = 0; i < SCORE_COMMON + SCORE_END; i++) ids[i] = (int32_t)((7 * i + 3) % m->config.vocab);
    const fs_tensor *h = fs_llama_forward(j->c, m, j->states, fs_llama_embed(j->c, m, ids, SCORE_COMMON), NULL);
    const float *last = h ? fs_f32(h) + (SCORE_COMMON - 1) * m->config.hidden : NULL;
    for (int i = 0; h && i < 2; i++)
        if (fs_log_likelihood(j->c, m, j->states, last, ids + SCORE_COMMON, SCORE_END, logp, &err) && !j->c->error.status)
            fs_exec_fail(j->c, err.status, "%s", err.message);
    j->states->length = j->before;
}

fs_status fs_bench_score(fs_bench_run *b, fs_bench_row *row, fs_error *err) {
    fs_stage_parts p;
    fs_llama_state state = {0};
    fs_status status = open_any(b, &p, err);
    if (status) return status;
    const int64_t before = b->o->prompt_tokens;
    status = blank_state(b, &p, before, SCORE_COMMON + SCORE_END, &state, err);
    const job j = {.p = &p, .c = p.exec, .before = before, .states = &state};
    snprintf(row->what, sizeof row->what, "%s, two sentences of %d tokens behind %" PRId64, model_name(b), SCORE_COMMON + SCORE_END, before);
    row->tokens = SCORE_COMMON + 2 * SCORE_END;
    row->bytes = 3 * fs_bench_llama_bytes(p.llama);
    row->ops = fs_bench_llama_ops(p.llama, SCORE_COMMON, before, 0) + 2 * fs_bench_llama_ops(p.llama, SCORE_END - 1, before + SCORE_COMMON, SCORE_END);
    row->roof = FS_BENCH_READ;
    if (!status) status = measure(b, "score", row, run_score, &j, 1, err);
    fs_llama_state_free(&state);
    return status;
}

/* ---- a whole picture ---- */

/* An answer as the released model words them (docs/model.md), of about 350 tokens, so that guessing ahead finds what it would find. */
static const char explanation[] =
    "1. Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with, and the tampered area "
    "is the person who stands on the left side of the road, from the shoulders down to the feet, together with the strip of ground in front of "
    "the wall. It covers about one eighth of the image and touches the lower border.\n\n"
    "2. Judgment basis: The edges of the person are much sharper than those of other objects at the same distance, and along the right arm a thin "
    "bright line follows the outline, as it is left behind when an object is cut out of another picture. The light in the scene comes from the upper "
    "right, which the trees and the parked car show clearly, while the face and the coat are lit from the left. No shadow falls on the ground where "
    "the feet meet the road, although every other object has one. The texture of the coat is smooth and without the noise that covers the rest of "
    "the photo, so the two parts were most likely taken with different cameras or saved with different quality. The person is also too large for "
    "the place at which it stands: by the lines of the road and the height of the door the body would be more than two meters high. In the strip "
    "of ground the same pattern of stones comes back three times in a row, which is typical of a region that was filled by copying. Taken together, "
    "the missing shadow, the direction of the light, the change of texture and the wrong perspective do not agree with a photo that comes directly "
    "from a camera.";

/* A picture with edges and some noise, as a file; *path is malloc'ed. */
static fs_status random_picture(char **path, fs_error *err) {
    enum { WIDTH = 1024, HEIGHT = 768, CELL = 64 };
    const char *folder = getenv("TMPDIR");
    uint8_t *pixels = fs_alloc((size_t)3 * WIDTH * HEIGHT, 1);
    fs_rng rng = fs_rng_seed(5);
    uint8_t level[HEIGHT / CELL][WIDTH / CELL];
    fs_status status = FS_OK;
    *path = fs_format("%s/fakeshield-bench-XXXXXX", folder && *folder ? folder : "/tmp");
    const int fd = *path ? mkstemp(*path) : -1;
    if (fd < 0 || !pixels) {
        status = fs_fail(err, pixels && *path ? FS_E_IO : FS_E_NO_MEMORY, "no temporary picture can be made in %s", folder && *folder ? folder : "/tmp");
        goto done;
    }
    for (int i = 0; i < HEIGHT / CELL; i++)
        for (int k = 0; k < WIDTH / CELL; k++) level[i][k] = (uint8_t)(fs_rng_next(&rng) % 200);
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++)
            for (int c = 0; c < 3; c++) pixels[(y * WIDTH + x) * 3 + c] = (uint8_t)(level[y / CELL][x / CELL] + fs_rng_next(&rng) % 40 + (uint64_t)c * 5);
    status = fs_png_write(*path, pixels, WIDTH, HEIGHT, 3, err);
done:
    if (fd >= 0) close(fd);
    if (status && fd >= 0) unlink(*path);
    free(pixels);
    return status;
}

static json_t *parts_of(const fs_result *r, double load1, double load2, double total) {
    const fs_times *a = &r->times1, *b = &r->times2;
    return json_pack("{s:f, s:{s:f, s:f, s:f, s:f, s:f, s:f}, s:{s:f, s:f, s:f, s:f, s:f}, s:I, s:I, s:I, s:s}", "seconds", total, "stage1", "load", load1, "domain",
                     a->domain, "vision", a->vision, "prefill", a->prefill, "score", a->score, "writing", a->generate, "stage2", "load", load2, "vision", b->vision,
                     "prefill", b->prefill, "pointing", b->generate, "sam_and_mask", b->sam, "prompt_tokens", (json_int_t)r->prompt_tokens, "new_tokens",
                     (json_int_t)r->new_tokens, "guessed_tokens", (json_int_t)r->guessed_tokens, "mask", fs_mask_status_name(r->mask_status));
}

/* From opening the model to the mask. */
static fs_status one_picture(fs_bench_run *b, const char *image, const fs_force *force, double *seconds, json_t **parts, fs_error *err) {
    fs_detector *d = NULL;
    fs_result *r = NULL;
    double loads[2] = {0, 0};
    const double start = fs_now();
    fs_status status = fs_detector_create(b->model_dir, &b->opt, &d, err);
    if (status) return status;
    fs_detector_force(d, force);
    double t = fs_now();
    if ((status = fs_detector_load(d, 1, err))) goto done;
    loads[0] = fs_now() - t;
    if ((status = fs_explain(d, image, &r, err))) goto done;
    t = fs_now();
    if ((status = fs_detector_load(d, 2, err))) goto done;
    loads[1] = fs_now() - t;
    if ((status = fs_localize(d, r, err))) goto done;
    *seconds = fs_now() - start;
    json_decref(*parts);
    *parts = parts_of(r, loads[0], loads[1], *seconds);
done:
    fs_result_free(r);
    fs_detector_free(d);
    return status;
}

fs_status fs_bench_picture(fs_bench_run *b, fs_bench_row *row, fs_error *err) {
    if (!b->layout.dte_fdm || !b->layout.mflm) return skip(row, "this model has one stage only; a picture needs both");
    const fs_force force = {.explanation = explanation, .segmentation = "It is [SEG].", .tokens = b->o->tokens};
    char *made = NULL;
    fs_bench_open(b, 0, err);
    fs_status status = b->o->image ? FS_OK : random_picture(&made, err);
    const char *image = b->o->image ? b->o->image : made;
    snprintf(row->what, sizeof row->what, "from opening the model to the mask, with an explanation of %d tokens", b->o->tokens);
    for (int i = 0; i < b->o->runs && !status; i++) {
        status = one_picture(b, image, &force, &row->seconds[i], &row->parts, err);
        if (!status) row->runs++;
    }
    if (made) unlink(made);
    free(made);
    return status;
}
