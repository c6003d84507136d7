/* The two recipes' forward passes with loss (spec 6 and 7), over the same networks that answer: pictures through CLIP and the projector into the
 * language model, cross entropy on the answer's tokens, and for MFLM the states that predict [SEG] through SAM's mask decoder to BCE and dice at the
 * picture's own size. Follows llava/train/train.py, MFLM/train_ft.py and model/GLaMM.py of the original. What is frozen records nothing. A
 * micro-batch's records go through the language model as one batch without padding, which changes none of the numbers. */
#include "train/trainee.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/lora.h"

/* ---- what is trained ---- */

enum { GROUP_MAIN = 0, GROUP_PROJECTOR = 1 };

/* Is `part` in the list of what stays as it is ("clip,sam")? */
static bool listed(const char *list, const char *part) {
    const size_t n = strlen(part);
    for (const char *p = list ? list : ""; *p;) {
        const size_t k = strcspn(p, ",");
        if (k == n && memcmp(p, part, n) == 0) return true;
        p += k + (p[k] == ',');
    }
    return false;
}

static bool frozen_by_user(const fs_train_options *o, const char *name) {
    if (strncmp(name, "vision_model.", 13) == 0) return listed(o->freeze, "clip");
    if (strstr(name, "grounding_encoder.image_encoder.")) return listed(o->freeze, "sam");
    if (strncmp(name, "model.layers.", 13) == 0 || strncmp(name, "model.embed_tokens.", 19) == 0 || strncmp(name, "model.norm.", 11) == 0 ||
        strncmp(name, "lm_head.", 8) == 0)
        return listed(o->freeze, "lm");
    return false;
}

/* Everything the recipe trains beside adapters. The region encoder, which the original lists too, never gets a gradient in this data. */
static bool chosen(void *user, const char *name, int *group) {
    const fs_train_options *o = user;
    const bool projector = strncmp(name, "model.mm_projector.", 19) == 0;
    *group = projector ? GROUP_PROJECTOR : GROUP_MAIN;
    if (frozen_by_user(o, name)) return false;
    if (o->all_weights) return !strstr(name, "inv_freq") && !strstr(name, "positional_encoding_gaussian_matrix") && !strstr(name, "region_encoder");
    if (o->recipe == FS_RECIPE_DTE_FDM) return projector;
    return strstr(name, "lm_head") || strstr(name, "embed_tokens") || strstr(name, "mask_decoder") || strstr(name, "text_hidden_fcs");
}

/* "q_proj,v_proj" -> places */
static fs_status lora_places(const char *targets, unsigned *places, fs_error *err) {
    *places = 0;
    for (const char *p = targets; *p;) {
        const size_t n = strcspn(p, ",");
        int found = -1;
        for (int k = 0; k < FS_LORA_PLACES; k++) {
            const char *leaf = strchr(fs_lora_place_names[k], '.') + 1;
            if (strlen(leaf) == n && memcmp(leaf, p, n) == 0) found = k;
        }
        if (found < 0)
            return fs_fail(err, FS_E_USAGE, "adapters for \"%.*s\": expected a list out of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj", (int)n, p);
        *places |= 1u << found;
        p += n + (p[n] == ',');
    }
    return FS_OK;
}

static fs_status wrap(void *user, fs_overlay_part part, const fs_lm_config *config, fs_tensor_source *source, double *alpha, fs_error *err) {
    fs_trainee *t = user;
    const fs_train_options *o = t->options;
    fs_params_view *v = &t->views[part];
    if (part == FS_OVERLAY_LM && o->lora_rank > 0 && !o->all_weights) {
        unsigned places = o->recipe == FS_RECIPE_MFLM ? FS_LORA_QV : FS_LORA_ALL_PLACES;
        fs_status status = o->lora_targets ? lora_places(o->lora_targets, &places, err) : FS_OK;
        if (!status && places) status = fs_lora_add_params(&t->params, &config->llama, places, o->lora_rank, o->seed, GROUP_MAIN, err);
        if (status) return status;
        if (places) *alpha = o->lora_alpha;
    }
    *v = (fs_params_view){.params = &t->params, .base = *source, .select = chosen, .user = (void *)(uintptr_t)o};
    *source = fs_params_source(v);
    return FS_OK;
}

/* Dense supervision of CLIP: what becomes of it, words or a verdict, is a weak teacher for a tower that starts from nothing; where the picture was
 * changed is a strong one. Every patch says it of DENSE_SIDE x DENSE_SIDE cells through one linear layer, which begins with zeros. */
enum { DENSE_SIDE = 2, DENSE_CELLS = DENSE_SIDE * DENSE_SIDE };

static fs_status add_dense(fs_trainee *t, fs_error *err) {
    const fs_clip_config *g = &t->parts.clip->config;
    fs_param *w = NULL, *b = NULL;
    if (g->patch_size % DENSE_SIDE)
        return fs_fail(err, FS_E_UNSUPPORTED, "training: dense supervision divides each patch into %d x %d; CLIP's are %lld pixels wide", DENSE_SIDE, DENSE_SIDE,
                       (long long)g->patch_size);
    fs_status status = fs_params_add(&t->params, "dense_head.weight", 2, (const int64_t[]){DENSE_CELLS, g->hidden}, NULL, GROUP_MAIN, &w, err);
    if (!status) status = fs_params_add(&t->params, "dense_head.bias", 1, (const int64_t[]){DENSE_CELLS}, NULL, GROUP_MAIN, &b, err);
    if (!status) t->dense = (fs_affine){&w->tensor, &b->tensor};
    return status;
}

fs_status fs_trainee_open(fs_trainee *t, const fs_train_options *options, fs_error *err) {
    *t = (fs_trainee){.options = options, .seg_id = -1};
    t->overlay = (fs_overlay){.user = t, .wrap = wrap};
    const double rate = options->rate, projector = options->projector_rate > 0 ? options->projector_rate : rate;
    t->params.groups[GROUP_MAIN] = (fs_param_group){rate, options->weight_decay};
    t->params.groups[GROUP_PROJECTOR] = (fs_param_group){projector, options->weight_decay};
    fs_options base = options->base;
    base.precision = FS_PRECISION_F32;
    base.domain_given = true; /* the domain tag generator has no part in this */
    const bool dtg = options->recipe == FS_RECIPE_DTG;
    fs_status status = dtg ? fs_trainee_open_dtg(t, err) : fs_layout_find(options->model_dir, &base, &t->layout, err);
    if (!status && options->recipe == FS_RECIPE_DTE_FDM) status = fs_dte_fdm_open(&t->layout, &base, &t->overlay, &t->dte, err);
    if (!status && options->recipe == FS_RECIPE_MFLM) status = fs_mflm_open(&t->layout, &base, &t->overlay, &t->mflm, err);
    for (int i = 0; i < 2 && !status; i++)
        if (t->views[i].status) status = fs_fail(err, t->views[i].status, "%s", t->views[i].error.message);
    if (!status) {
        if (!dtg) t->parts = t->dte ? fs_dte_fdm_parts(t->dte) : fs_mflm_parts(t->mflm);
        status = fs_exec_init(&t->exec, FS_DTYPE_F32, options->base.threads, &options->base.callbacks, err);
    }
    if (!status && options->dense_weight > 0) status = add_dense(t, err);
    if (!status && options->begin_with) status = fs_trainee_begin_with(t, err);
    if (!status && options->sam_from_clip) status = fs_trainee_sam_from_clip(t, err);
    if (!status && t->mflm) {
        t->seg_id = fs_tokenizer_id(t->parts.tokenizer, "[SEG]");
        t->pe = fs_sam_dense_pe(&t->exec, t->parts.sam_prompt, t->parts.sam->grid, t->parts.config->stored == FS_DTYPE_BF16);
        status = fs_exec_status(&t->exec, err);
    }
    if (!status) t->start = fs_arena_get_mark(t->exec.arena);
    if (status) fs_trainee_close(t);
    return status;
}

void fs_trainee_close(fs_trainee *t) {
    fs_tape_reset(&t->tape);
    fs_exec_end(&t->exec);
    fs_dte_fdm_close(t->dte);
    fs_mflm_close(t->mflm);
    fs_resnet_unbind(&t->resnet);
    fs_archive_free(t->dtg_file);
    fs_bundle_close(t->bundle);
    fs_params_free(&t->params);
    fs_layout_free(&t->layout);
    *t = (fs_trainee){0};
}

/* ---- forward ---- */

/* One pass over a micro-batch. */
typedef struct pass {
    fs_trainee *t;
    fs_exec *c;
    const fs_sample *samples;
    size_t n;
    uint64_t key;
    double seed;       /* what the loss's gradient is multiplied with */
    int64_t *lengths;  /* [n] rows of each sample in the language model */
    int64_t *rows;     /* whose state predicts a target */
    int32_t *targets;
    int64_t n_rows;
    fs_losses losses;
    fs_tensor *dense;  /* sum of the samples' dense losses; NULL: none yet */
    float *logits;     /* where the first sample's mask is wanted; NULL: nowhere */
    bool found;
} pass;

/* What a frozen network makes of data is data. Results are kept, all else is given back. */
static fs_tape *freeze(fs_exec *c, bool frozen) {
    fs_tape *tape = c->tape;
    if (frozen) c->tape = NULL;
    return tape;
}

/* Does the language model have a part in the loss? */
static bool words(const pass *p) {
    const fs_train_options *o = p->t->options;
    return o->ce_weight > 0 || (p->t->mflm && !o->all_weights); /* adapters learn from the masks too */
}

/* How much of each cell is masked, in the order of the dense layer's result: [patches, DENSE_CELLS]. *any: is there a mask at all? */
static fs_tensor *dense_target(fs_exec *c, const fs_clip_config *g, const uint8_t *mask, bool *any) {
    const int64_t S = g->image_size, side = S / g->patch_size, cell = g->patch_size / DENSE_SIDE;
    fs_tensor *t = fs_new_2d(c, side * side, DENSE_CELLS);
    *any = false;
    for (int64_t i = 0; t && i < side * side * DENSE_CELLS; i++) {
        const int64_t patch = i / DENSE_CELLS, k = i % DENSE_CELLS;
        const int64_t y = patch / side * g->patch_size + k / DENSE_SIDE * cell, x = patch % side * g->patch_size + k % DENSE_SIDE * cell;
        int64_t sum = 0;
        for (int64_t j = 0; j < cell * cell; j++) sum += mask[(y + j / cell) * S + x + j % cell];
        fs_f32(t)[i] = (float)sum / (float)(cell * cell);
        *any = *any || sum;
    }
    return t;
}

/* Adds the loss of what the patches say of their cells. features: [patches, hidden] */
static void supervise(pass *p, const fs_sample *s, const fs_tensor *features) {
    const fs_train_options *o = p->t->options;
    const double share = o->dense_weight / (double)p->n;
    fs_exec *c = p->c;
    bool any = false;
    if (!p->t->dense.w || !s->clip_mask || !features) return;
    const fs_tensor *x = fs_linear(c, features, p->t->dense.w, p->t->dense.b), *target = dense_target(c, &p->t->parts.clip->config, s->clip_mask, &any);
    fs_tensor *loss = x && target ? fs_scale(c, fs_bce_with_logits(c, x, target), (float)(share * o->bce_weight)) : NULL;
    if (loss) p->losses.bce += (double)fs_f32(loss)[0];
    if (loss && any) { /* of nothing there is no overlap */
        fs_tensor *dice = fs_scale(c, fs_dice_loss(c, x, target), (float)(share * o->dice_weight));
        if (dice) p->losses.dice += (double)fs_f32(dice)[0];
        loss = fs_add(c, loss, dice);
    }
    if (loss) p->dense = p->dense ? fs_add(c, p->dense, loss) : loss;
}

static fs_tensor *see(pass *p, const fs_sample *s) {
    fs_exec *c = p->c;
    const fs_stage_parts *m = &p->t->parts;
    const int64_t size = m->clip->config.image_size;
    if (!s->clip) return NULL;
    fs_tape *tape = freeze(c, !p->t->options->all_weights || listed(p->t->options->freeze, "clip"));
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_tensor *x = fs_wrap(c, FS_DTYPE_F32, 3, (const int64_t[]){3, size, size}, s->clip);
    fs_tensor *features = fs_scope_end(c, mark, fs_clip_forward(c, m->clip, x, m->config->select_layer, NULL));
    c->tape = tape;
    supervise(p, s, features);
    return words(p) ? fs_projector_forward(c, m->projector, features) : features;
}

/* The sample's rows, and which of them predict a target. at: its first row in the batch. */
static fs_tensor *embed(pass *p, size_t i, int64_t at) {
    const fs_sample *s = &p->samples[i];
    const fs_tensor *image = see(p, s);
    fs_tensor *x = fs_prompt_embed(p->c, p->t->parts.llama, s->ids.data, s->ids.count, image, -1, NULL);
    if (!x) return NULL;
    /* LLaVA cuts once more when the picture's rows are in (spec 6.5); MFLM's ids were cut with room for them */
    const int64_t most = p->t->options->max_length;
    if (p->t->dte && most > 0 && x->shape[0] > most) x = fs_rows(p->c, x, 0, most);
    if (!x) return NULL;
    p->lengths[i] = x->shape[0];
    int64_t row = at - 1; /* the one before id k */
    for (size_t k = 0; k < s->ids.count && row + 1 < at + p->lengths[i]; k++) {
        for (int n = s->times ? s->times[k] : 1; n > 0 && row >= at && s->labels[k] != FS_IGNORE; n--) {
            p->rows[p->n_rows] = row;
            p->targets[p->n_rows++] = s->labels[k];
        }
        row += s->ids.data[k] == FS_IMAGE_TOKEN ? (image ? image->shape[0] : 0) : 1;
    }
    return x;
}

static fs_tensor *picture(pass *p, const fs_sample *s) {
    fs_exec *c = p->c;
    const fs_sam_encoder *sam = p->t->parts.sam;
    fs_tape *tape = freeze(c, !p->t->options->all_weights || listed(p->t->options->freeze, "sam"));
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_tensor *x = fs_wrap(c, FS_DTYPE_F32, 3, (const int64_t[]){3, sam->image_size, sam->image_size}, s->sam);
    fs_tensor *y = fs_scope_end(c, mark, fs_sam_encoder_forward(c, sam, x, NULL));
    c->tape = tape;
    return y;
}

/* The row of h whose state draws the sample's mask, its first [SEG]'s; -1 if there is none. at: the sample's first row. */
static int64_t seg_row(const pass *p, size_t i, int64_t at) {
    const fs_sample *s = &p->samples[i];
    const int64_t patches = p->lengths[i] - (int64_t)s->ids.count + 1; /* rows of a picture in place of one id */
    int64_t row = at - 1;
    if (!words(p)) return s->sam ? 0 : -1;
    for (size_t k = 0; s->sam && k < s->ids.count; k++) {
        if (s->ids.data[k] == p->t->seg_id && row >= at) return row;
        row += s->ids.data[k] == FS_IMAGE_TOKEN ? patches : 1;
    }
    return -1;
}

typedef struct one_mask { pass *p; const fs_sample *s; double bce, dice; } one_mask; /* weights of the two losses */

/* state: [1, hidden] -> the mask's part of the loss; NULL if there is nothing to compare it with. */
static fs_tensor *one_mask_loss(fs_exec *c, const void *user, const fs_tensor *state) {
    const one_mask *w = user;
    pass *p = w->p;
    const fs_sample *s = w->s;
    const fs_stage_parts *m = &p->t->parts;
    const fs_tensor *text = fs_seg_head_forward(c, m->seg_head, state);
    const fs_tensor *low = fs_sam_decoder_forward(c, m->sam_decoder, picture(p, s), p->t->pe, m->sam_prompt->no_mask, text);
    const fs_tensor *x = fs_sam_postprocess(c, low, m->sam->image_size, s->sam_h, s->sam_w, s->height, s->width);
    if (x && p->logits && !p->found) memcpy(p->logits, fs_f32(x), (size_t)fs_tensor_count(x) * sizeof *p->logits);
    p->found = p->found || x;
    if (!x || !s->mask) return NULL;
    fs_tensor *g = fs_new_3d(c, 1, s->height, s->width);
    if (!g) return NULL;
    for (int64_t k = 0; k < s->height * s->width; k++) fs_f32(g)[k] = s->mask[k];
    const fs_tensor *bce = fs_scale(c, fs_bce_with_logits(c, x, g), (float)w->bce), *dice = fs_scale(c, fs_dice_loss(c, x, g), (float)w->dice);
    if (bce && dice) p->losses.bce += (double)fs_f32(bce)[0], p->losses.dice += (double)fs_f32(dice)[0];
    return fs_add(c, bce, dice);
}

/* BCE and dice over the masks of the micro-batch (spec 7.4), weighted; NULL without any. What draws one mask is computed, gone back through and
 * forgotten before the next. */
static fs_tensor *mask_loss(pass *p, const fs_tensor *h) {
    const fs_train_options *o = p->t->options;
    fs_exec *c = p->c;
    fs_tensor *sum = NULL;
    int64_t at = 0;
    for (size_t i = 0; i < p->n; at += p->lengths[i], i++) p->losses.masks += p->samples[i].mask && seg_row(p, i, at) >= 0;
    const double masks = (double)p->losses.masks + 1e-8, inner = 1 / (1 + 1e-8); /* upstream's guards against no mask */
    at = 0;
    for (size_t i = 0; i < p->n; at += p->lengths[i], i++) {
        const int64_t row = seg_row(p, i, at);
        if (row < 0) continue;
        const one_mask w = {p, &p->samples[i], o->bce_weight * inner / masks, o->dice_weight * inner / masks};
        const fs_arena_mark mark = fs_arena_get_mark(c->arena);
        fs_tensor *part = fs_scope_end(c, mark, fs_loss_now(c, one_mask_loss, &w, fs_gather_rows(c, h, &row, 1), (float)p->seed));
        if (part) sum = sum ? fs_add(c, sum, part) : part;
    }
    return sum;
}

static bool take_memory(pass *p) {
    size_t ids = 0;
    for (size_t i = 0; i < p->n; i++)
        for (size_t k = 0; k < p->samples[i].ids.count; k++) ids += p->samples[i].times ? p->samples[i].times[k] : 1;
    p->lengths = fs_arena_alloc(p->c->arena, p->n * sizeof *p->lengths);
    p->rows = fs_arena_alloc(p->c->arena, (ids + 1) * sizeof *p->rows);
    p->targets = fs_arena_alloc(p->c->arena, (ids + 1) * sizeof *p->targets);
    if (p->lengths && p->rows && p->targets) return true;
    fs_exec_fail(p->c, FS_E_NO_MEMORY, "out of memory for a batch of %zu records", p->n);
    return false;
}

/* Without the language model: CLIP's dense supervision alone; the mask branch alone, asked with a state of zeros, which the layers behind it make a
 * prompt of their own. */
static fs_tensor *look(pass *p) {
    if (p->t->mflm) {
        fs_tensor *state = fs_new_2d(p->c, 1, p->t->parts.llama->config.hidden);
        for (int64_t i = 0; state && i < fs_tensor_count(state); i++) fs_f32(state)[i] = 0;
        for (size_t i = 0; i < p->n; i++) p->lengths[i] = 0, p->losses.tokens += p->t->parts.sam->grid * p->t->parts.sam->grid;
        return state ? mask_loss(p, state) : NULL;
    }
    for (size_t i = 0; i < p->n && !p->c->error.status; i++) {
        const fs_tensor *features = see(p, &p->samples[i]);
        if (features) p->losses.tokens += features->shape[0];
    }
    return p->c->error.status ? NULL : p->dense;
}

/* The weighted sum of losses; NULL on error, or if nothing in the micro-batch has a loss. */
static fs_tensor *forward(pass *p) {
    const fs_train_options *o = p->t->options;
    fs_exec *c = p->c;
    if (!take_memory(p)) return NULL;
    const fs_tensor **parts = fs_arena_alloc(c->arena, p->n * sizeof *parts);
    int64_t at = 0;
    if (!words(p)) return look(p);
    for (size_t i = 0; i < p->n && parts; i++) {
        parts[i] = embed(p, i, at);
        if (!parts[i]) return NULL;
        at += p->lengths[i];
    }
    p->losses.tokens = at;
    p->losses.targets = p->n_rows;
    const fs_llama_batch batch = {.lengths = p->lengths, .n = p->n, .recompute = o->recompute && c->tape, .key = p->key,
                                  .dropout = c->tape && !o->all_weights ? (float)o->lora_dropout : 0};
    const fs_tensor *h = fs_llama_forward_batch(c, p->t->parts.llama, &batch, parts ? fs_concat_rows(c, parts, p->n) : NULL);
    fs_tensor *ce = h ? fs_llama_loss(c, p->t->parts.llama, h, p->rows, p->targets, p->n_rows, (float)(p->seed * o->ce_weight)) : NULL;
    if (ce) ce = fs_scale(c, ce, (float)o->ce_weight);
    if (ce) p->losses.ce = (double)fs_f32(ce)[0];
    fs_tensor *masks = h && p->t->mflm ? mask_loss(p, h) : NULL;
    if (c->error.status) return NULL;
    fs_tensor *sum = ce && masks ? fs_add(c, ce, masks) : ce ? ce : masks;
    return sum && p->dense ? fs_add(c, sum, p->dense) : sum ? sum : p->dense;
}

static fs_status run(pass *p, fs_losses *out, fs_error *err) {
    const double seed = p->seed;
    fs_trainee *t = p->t;
    fs_exec *c = p->c = &t->exec;
    c->error = (fs_error){0};
    c->tape = seed > 0 ? &t->tape : NULL;
    const bool dtg = t->options->recipe == FS_RECIPE_DTG;
    fs_tensor *loss = dtg ? fs_trainee_dtg_loss(t, p->samples, p->n, seed > 0, &p->losses) : forward(p);
    if (loss) p->losses.total = (double)fs_f32(loss)[0];
    if (loss && !isfinite(p->losses.total)) fs_exec_fail(c, FS_E_NUMERIC, "the loss is no finite number; a smaller learning rate may help");
    const float weight = (float)seed;
    if (loss && seed > 0) fs_tape_backward(c, loss, &weight);
    const fs_status status = fs_exec_status(c, err);
    c->tape = NULL;
    fs_tape_reset(&t->tape);
    fs_arena_release(c->arena, t->start);
    if (!status) *out = p->losses;
    return status;
}

fs_status fs_trainee_step(fs_trainee *t, const fs_sample *samples, size_t n, double seed, uint64_t key, fs_losses *out, fs_error *err) {
    pass p = {.t = t, .samples = samples, .n = n, .key = key, .seed = seed};
    return run(&p, out, err);
}

fs_status fs_trainee_mask(fs_trainee *t, const fs_sample *sample, float *logits, bool *found, fs_losses *losses, fs_error *err) {
    pass p = {.t = t, .samples = sample, .n = 1, .logits = logits};
    const fs_status status = run(&p, losses, err);
    *found = p.found;
    return status;
}
