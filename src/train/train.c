/* The training loop: micro-batches in an order that is the same for any number of processes, gradients added up, one optimizer step, and around it
 * what makes a long run bearable: checkpoints from which it goes on as if it had never stopped, validation, logs, an adapter beside each of them.
 *
 * A step is `accumulation` micro-batches of `batch` records; process r of W takes those with number r, r + W, ... and all gradients are summed, so
 * W processes do what one process does, but for the rounding of sums. */
#include "train/run.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pipeline/scratch.h"
#include "train/artefacts.h"

typedef struct run {
    const fs_train_options *o;
    const fs_callbacks *cb;
    fs_comm *comm;
    int rank, size;
    fs_trainee trainee;
    fs_samples *train, *val;
    fs_schedule schedule;
    fs_adamw adamw;
    fs_train_state state;
    fs_trainlog *log;
    fs_loader *loader;
    int64_t *order;           /* of this pass: the records of this process, micro-batch after micro-batch */
    int64_t order_count, steps, epoch_steps, skipped;
    fs_validation validation; /* the last one */
    bool has_validation;
    double started, logged_at;
    int64_t tokens;           /* of this process's steps since logged_at */
} run;

/* ---- data ---- */

static fs_conversation_options conversation_options(const run *r) {
    const fs_stage_parts *m = &r->trainee.parts;
    fs_conversation_options c = fs_conversation_options_defaults();
    c.tokenizer = m->tokenizer;
    c.system = r->o->inference_prompt ? FS_SYSTEM_HUMAN : FS_SYSTEM_USER;
    c.im_start_end = m->config->im_start_end;
    c.clip_pad = m->config->pad_image;
    c.clip_size = m->clip->config.image_size;
    c.max_length = r->o->max_length;
    c.focus = r->o->focus;
    c.clip_mask = r->o->dense_weight > 0;
    c.bad = r->o->skip_bad ? FS_BAD_SKIP : FS_BAD_FATAL;
    c.callbacks = r->cb;
    return c;
}

static fs_segm_options segm_options(const run *r, bool train) {
    const fs_stage_parts *m = &r->trainee.parts;
    fs_segm_options s = fs_segm_options_defaults();
    s.tokenizer = m->tokenizer;
    s.train = train;
    s.texts = train ? r->o->gt_train ? FS_TEXTS_TRAIN_GT : FS_TEXTS_TRAIN_OUTPUT : r->o->gt_val ? FS_TEXTS_VAL_GT : FS_TEXTS_VAL_OUTPUT;
    s.clip_size = m->clip->config.image_size;
    s.image_tokens = m->clip->config.image_size / m->clip->config.patch_size * (m->clip->config.image_size / m->clip->config.patch_size);
    s.sam_size = m->sam->image_size;
    s.max_length = r->o->max_length;
    s.seed = r->o->seed;
    s.text_dropout = r->o->text_dropout;
    s.bad = r->o->skip_bad ? FS_BAD_SKIP : FS_BAD_FATAL;
    s.callbacks = r->cb;
    return s;
}

static fs_domain_options domain_options(const run *r, bool train) {
    fs_domain_options d = fs_domain_options_defaults();
    d.train = train;
    d.seed = r->o->seed;
    d.bad = r->o->skip_bad ? FS_BAD_SKIP : FS_BAD_FATAL;
    d.callbacks = r->cb;
    return d;
}

static fs_status open_one(run *r, bool train, fs_samples **out, fs_error *err) {
    const fs_train_options *o = r->o;
    const char *data = train || o->recipe == FS_RECIPE_MFLM ? o->data : o->val_data;
    const fs_domain_options d = domain_options(r, train);
    if (o->recipe == FS_RECIPE_DTE_FDM) {
        const fs_conversation_options c = conversation_options(r);
        return fs_samples_open_conversations(data, o->image_folder, &c, out, err);
    }
    if (o->recipe == FS_RECIPE_MFLM) {
        const fs_segm_options s = segm_options(r, train);
        return fs_samples_open_segm(data, train ? o->train_sets : o->val_sets, &s, out, err);
    }
    return fs_samples_open_domains(data, &d, out, err);
}

static fs_status open_forged(run *r, bool train, fs_samples **out, fs_error *err) {
    const fs_train_options *o = r->o;
    const fs_conversation_options c = o->recipe == FS_RECIPE_DTE_FDM ? conversation_options(r) : fs_conversation_options_defaults();
    const fs_segm_options s = o->recipe == FS_RECIPE_MFLM ? segm_options(r, train) : fs_segm_options_defaults();
    const fs_domain_options d = domain_options(r, train);
    fs_forged_options f = fs_forged_options_defaults();
    f.photos = o->forge;
    f.forge.seed = o->seed;
    f.forge.size_min = o->forge_size_min, f.forge.size_max = o->forge_size_max;
    f.forge.square = o->forge_square;
    f.forge.pairs = o->forge_pairs, f.forge.mirror = o->forge_mirror, f.forge.vary = o->forge_vary, f.forge.clean = (float)o->forge_clean;
    if (train && !r->rank) f.forge.callbacks.user_data = r->cb->user_data, f.forge.callbacks.log = r->cb->log; /* photos that cannot be used are told once */
    f.split = train ? FS_FORGE_TRAIN : FS_FORGE_VAL;
    f.count = train ? o->forge_count : o->forge_val;
    const fs_status status = o->forge_types ? fs_forge_types_parse(o->forge_types, f.forge.weight, err) : FS_OK;
    if (status) return status;
    return o->recipe == FS_RECIPE_DTE_FDM ? fs_samples_forge_conversations(&f, &c, out, err)
           : o->recipe == FS_RECIPE_MFLM  ? fs_samples_forge_segm(&f, &s, out, err)
                                          : fs_samples_forge_domains(&f, &d, out, err);
}

static fs_status open_data(run *r, fs_error *err) {
    const fs_train_options *o = r->o;
    const bool validate = o->forge ? o->forge_val > 0 : o->recipe == FS_RECIPE_MFLM ? o->val_sets != NULL : o->val_data != NULL;
    fs_status (*open)(run *, bool, fs_samples **, fs_error *) = o->forge ? open_forged : open_one;
    const fs_bad_record bad = o->skip_bad ? FS_BAD_SKIP : FS_BAD_FATAL;
    fs_status status = open(r, true, &r->train, err);
    if (!status && validate) status = open(r, false, &r->val, err);
    if (!status) status = fs_samples_check(r->train, bad, r->rank ? NULL : r->cb, &r->skipped, err);
    if (!status && r->val) status = fs_samples_check(r->val, bad, r->rank ? NULL : r->cb, NULL, err);
    return status;
}

/* Steps of an epoch and of the whole run. What is left of a pass behind its last whole step comes in another pass, whose order is another. */
static fs_status plan(run *r, fs_schedule_kind kind, fs_error *err) {
    const fs_train_options *o = r->o;
    const int64_t micro = (r->train->count + o->batch - 1) / o->batch;
    r->epoch_steps = o->steps_per_epoch > 0 ? o->steps_per_epoch : fs_max_i64(1, micro / o->accumulation);
    r->steps = (int64_t)ceil(o->epochs * (double)r->epoch_steps);
    if (o->max_steps > 0 && (r->steps > o->max_steps || o->epochs <= 0)) r->steps = o->max_steps;
    if (r->steps < 1) return fs_fail(err, FS_E_USAGE, "training: %g epochs of %lld records make no step", o->epochs, (long long)r->train->count);
    if (o->accumulation % r->size)
        return fs_fail(err, FS_E_USAGE, "training: %d micro-batches a step (accumulation) cannot be divided among %d processes; choose a multiple", o->accumulation, r->size);
    r->schedule = (fs_schedule){.kind = kind, .total = r->steps, .warmup = o->warmup_steps > 0 ? o->warmup_steps : fs_schedule_warmup(r->steps, o->warmup_ratio)};
    return FS_OK;
}

/* All records of pass `epoch` in the order of all processes together. */
static fs_status pass_order(const run *r, int64_t epoch, int64_t *all, fs_error *err) {
    const int64_t n = r->train->count;
    const uint64_t pass = r->o->upstream_order ? 0 : (uint64_t)epoch;
    fs_permuter_state state;
    const fs_permuter p = fs_permuter_seeded(&state, r->o->seed, pass);
    if (r->train->pairs) {
        fs_order_pairs(n, &p, all);
        return FS_OK;
    }
    if (!r->o->group_by_length || !r->train->length) {
        p.permute(p.user, n, all);
        return FS_OK;
    }
    int64_t *lengths = fs_alloc((size_t)n, sizeof *lengths);
    if (!lengths) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for %lld lengths", (long long)n);
    for (int64_t i = 0; i < n; i++) lengths[i] = r->train->length(r->train, i);
    const fs_status status = fs_order_by_length(lengths, n, r->o->batch, 1, &p, all, err);
    free(lengths);
    return status;
}

/* The records of this process in pass `epoch`, from step `first` of it on; a pass shorter than its steps begins again. */
static fs_status begin_pass(run *r, int64_t epoch, int64_t first, fs_error *err) {
    const int64_t n = r->train->count, batch = r->o->batch, per_step = r->o->accumulation / r->size;
    size_t count;
    int64_t *all = fs_alloc((size_t)n, sizeof *all);
    fs_loader_close(r->loader);
    r->loader = NULL;
    free(r->order);
    r->order = NULL;
    r->order_count = 0;
    if (fs_mul_size((size_t)r->epoch_steps, (size_t)(per_step * batch), &count)) r->order = fs_alloc(count, sizeof *r->order);
    fs_status status = all && r->order ? pass_order(r, epoch, all, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory for the order of %lld records", (long long)n);
    for (int64_t s = 0; s < r->epoch_steps && !status; s++)
        for (int64_t j = 0; j < per_step; j++) {
            const int64_t micro = s * r->o->accumulation + r->rank + j * r->size;
            for (int64_t k = 0; k < batch; k++) r->order[r->order_count++] = all[(micro * batch + k) % n];
        }
    free(all);
    if (status) return status;
    fs_loader_options lo = fs_loader_options_defaults();
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    lo.workers = r->o->workers > 0 ? r->o->workers : (int)fs_max_i64(1, fs_min_i64(4, cores));
    lo.ahead = fs_max_i64(2, fs_min_i64(2 * batch, 32));
    lo.first = first * per_step * batch;
    lo.draw = (uint64_t)epoch;
    lo.bad = r->o->skip_bad ? FS_BAD_SKIP : FS_BAD_FATAL;
    lo.callbacks = r->cb;
    return fs_loader_open(r->train, r->order, r->order_count, &lo, &r->loader, err);
}

/* ---- one step ---- */

static uint64_t dropout_key(uint64_t seed, int64_t step, int64_t micro) {
    fs_rng rng = fs_rng_seed(seed ^ (uint64_t)step * 0x9E3779B97F4A7C15u ^ (uint64_t)micro << 48);
    return fs_rng_next(&rng);
}

static void add_losses(fs_losses *sum, const fs_losses *x, double share) {
    sum->total += share * x->total, sum->ce += share * x->ce, sum->bce += share * x->bce, sum->dice += share * x->dice;
    sum->tokens += x->tokens, sum->targets += x->targets, sum->masks += x->masks, sum->right += x->right;
}

static fs_status micro_batch(run *r, int64_t micro, fs_sample *samples, fs_losses *sum, fs_error *err) {
    const size_t batch = (size_t)r->o->batch;
    const double share = 1.0 / r->o->accumulation;
    fs_losses l;
    fs_status status = FS_OK;
    size_t n = 0;
    bool have = true;
    while (n < batch && have && !status) {
        status = fs_loader_next(r->loader, &samples[n], &have, err);
        if (!status && have) n++;
    }
    if (!status && n < batch) status = fs_fail(err, FS_E_INTERNAL, "training: the pass ended inside a micro-batch");
    if (!status) status = fs_trainee_step(&r->trainee, samples, n, share, dropout_key(r->o->seed, r->state.step, micro), &l, err);
    if (!status) add_losses(sum, &l, share);
    for (size_t i = 0; i < n; i++) fs_sample_free(&samples[i]);
    return status;
}

/* Losses and gradients over all processes. */
static fs_status join(run *r, fs_losses *l, fs_error *err) {
    enum { N = 7 };
    if (r->size == 1) return FS_OK;
    const double mine[N] = {l->total, l->ce, l->bce, l->dice, (double)l->tokens, (double)l->targets, (double)l->masks};
    double *all = fs_alloc((size_t)r->size * N, sizeof *all);
    fs_status status = all ? fs_comm_gather(r->comm, mine, N, all, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status) {
        *l = (fs_losses){0};
        for (int p = 0; p < r->size; p++) {
            const double *x = all + (size_t)p * N;
            l->total += x[0], l->ce += x[1], l->bce += x[2], l->dice += x[3];
            l->tokens += (int64_t)x[4], l->targets += (int64_t)x[5], l->masks += (int64_t)x[6];
        }
    }
    free(all);
    for (size_t i = 0; i < r->trainee.params.count && !status; i++)
        status = fs_comm_all_reduce(r->comm, r->trainee.params.list[i]->grad, r->trainee.params.list[i]->count, err);
    return status;
}

static fs_status step(run *r, fs_losses *losses, double *norm, fs_error *err) {
    fs_params *p = &r->trainee.params;
    const int threads = r->trainee.exec.threads;
    fs_sample *samples = fs_alloc_zero((size_t)r->o->batch, sizeof *samples);
    fs_status status = samples ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    *losses = (fs_losses){0};
    fs_params_zero_grad(p);
    for (int64_t j = r->rank; j < r->o->accumulation && !status; j += r->size) status = micro_batch(r, j, samples, losses, err);
    free(samples);
    if (!status) status = join(r, losses, err);
    if (status) return status;
    fs_params_clip(p, r->o->clip, threads, norm);
    if (!isfinite(*norm))
        return fs_fail(err, FS_E_NUMERIC, "training: the gradient of step %lld is no finite number; a smaller learning rate or a longer warm-up may help",
                       (long long)r->state.step + 1);
    fs_adamw_step(p, &r->adamw, r->state.step + 1, fs_schedule_factor(&r->schedule, r->state.step), threads);
    r->state.step++;
    r->state.samples += r->o->batch * r->o->accumulation;
    r->state.tokens += losses->tokens;
    fs_train_state_add_loss(&r->state, losses->total);
    return FS_OK;
}

/* ---- what is kept and shown ---- */

static int64_t resident_bytes(void) {
    long long total = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && fscanf(f, "%lld %lld", &total, &resident) != 2) resident = 0;
    if (f) fclose(f);
    return resident * sysconf(_SC_PAGESIZE);
}

/* Are there losses of masks? */
static bool has_masks(const run *r) { return r->o->recipe == FS_RECIPE_MFLM || r->o->dense_weight > 0; }

static fs_status log_step(run *r, const fs_losses *l, double norm, double rate, fs_error *err) {
    const double now = fs_now(), seconds = now - r->logged_at, speed = (double)l->tokens / fmax(seconds, 1e-9);
    const int64_t memory = resident_bytes();
    r->state.seconds += seconds;
    r->logged_at = now;
    if (r->o->step) {
        const fs_train_progress p = {.step = r->state.step, .steps = r->steps, .epoch = (double)r->state.step / (double)r->epoch_steps,
                                     .loss = l->total, .rate = rate, .grad_norm = norm, .tokens_per_second = speed,
                                     .seconds_left = r->state.seconds / (double)r->state.step * (double)(r->steps - r->state.step),
                                     .memory_bytes = memory, .skipped = r->skipped + r->train->skipped,
                                     .metric = r->has_validation ? fabs(r->validation.metric) : NAN, .best = r->state.has_best ? fabs(r->state.best) : NAN};
        if (r->rank == 0) r->o->step(r->cb->user_data, &p);
    }
    if (!r->log) return FS_OK;
    const char *const names[] = {FS_LOG_LOSS, "loss/ce", "loss/bce", "loss/dice", FS_LOG_RATE, FS_LOG_GRAD_NORM, FS_LOG_TOKENS_PER_SECOND, FS_LOG_MEMORY};
    const double values[] = {l->total, l->ce, l->bce, l->dice, rate, norm, speed, (double)memory};
    /* without masks there are no mask losses to draw */
    size_t n = 0;
    const char *some[8];
    double their[8];
    for (size_t i = 0; i < 8; i++)
        if (has_masks(r) || (i != 1 && i != 2 && i != 3)) some[n] = names[i], their[n++] = values[i];
    return fs_trainlog_scalars(r->log, r->state.step, some, their, n, err);
}

static fs_status open_log(run *r, const char *settings, int64_t resumed_at, fs_error *err) {
    const char *columns[16] = {FS_LOG_LOSS, FS_LOG_RATE, FS_LOG_GRAD_NORM, FS_LOG_TOKENS_PER_SECOND, FS_LOG_MEMORY};
    size_t n = 5;
    if (has_masks(r)) {
        const char *const more[] = {"loss/ce", "loss/bce", "loss/dice"};
        for (int i = 0; i < 3; i++) columns[n++] = more[i];
    }
    if (r->val) columns[n++] = FS_LOG_VAL_LOSS;
    if (r->val && r->o->recipe == FS_RECIPE_MFLM) columns[n++] = FS_LOG_GIOU, columns[n++] = FS_LOG_CIOU;
    if (r->val && r->o->recipe == FS_RECIPE_DTG) columns[n++] = FS_LOG_ACCURACY;
    return r->rank ? FS_OK : fs_trainlog_open(r->o->output_dir, columns, n, settings, resumed_at, &r->log, err);
}

/* Is the result a model and no adapter? */
static bool whole_model(const run *r) { return r->o->all_weights || (r->o->recipe == FS_RECIPE_DTG && r->trainee.layout.bundle); }

static const char *result_name(const run *r) { return whole_model(r) ? "model" : r->o->recipe == FS_RECIPE_DTG ? "dtg" : "adapter"; }

/* The trained tensors as others read them, in `dir`. */
static fs_status write_artefact(const run *r, const char *dir, fs_error *err) {
    if (whole_model(r)) return fs_trainee_write_bundle(&r->trainee, dir, err);
    if (r->o->recipe == FS_RECIPE_DTG) return fs_trainee_write_dtg(&r->trainee, dir, err);
    json_t *training = json_pack("{s:s, s:I, s:I, s:I, s:I, s:f}", "recipe", fs_recipe_name(r->o->recipe), "steps", (json_int_t)r->state.step, "of_steps",
                                 (json_int_t)r->steps, "records", (json_int_t)r->train->count, "samples", (json_int_t)r->state.samples, "seconds", r->state.seconds);
    if (training && r->has_validation) json_object_set_new(training, "validation", json_real(fabs(r->validation.metric)));
    char *text = training ? json_dumps(training, JSON_COMPACT) : NULL;
    fs_adapter_info info = fs_adapter_info_defaults();
    info.stage = r->o->recipe == FS_RECIPE_MFLM ? 2 : 1;
    info.alpha = r->o->lora_alpha;
    info.dropout = r->o->lora_dropout;
    info.base = info.stage == 2 ? r->trainee.layout.mflm : r->trainee.layout.dte_fdm;
    info.training_json = text;
    const fs_status status = text ? fs_adapter_write(dir, &r->trainee.params, &info, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(text);
    json_decref(training);
    return status;
}

static fs_status save(run *r, bool best, fs_error *err) {
    if (r->rank) return FS_OK;
    fs_snapshot_options so = fs_snapshot_options_defaults();
    so.keep_last = r->o->keep;
    so.callbacks = r->cb;
    fs_status status = fs_snapshot_write(r->o->output_dir, &r->trainee.params, &r->state, &so, err);
    const char *name = result_name(r);
    char *dir = fs_path_join(r->o->output_dir, name), *best_dir = fs_format("%s/%s-best", r->o->output_dir, name);
    if (!status && (!dir || !best_dir)) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status) status = write_artefact(r, dir, err);
    if (!status && best) status = write_artefact(r, best_dir, err);
    free(dir);
    free(best_dir);
    return status;
}

/* Runs it, notes it; *best: it is the best so far. */
static fs_status validate(run *r, bool *best, fs_error *err) {
    *best = false;
    if (!r->val) return FS_OK;
    const bool masks = r->o->recipe == FS_RECIPE_MFLM;
    char *dir = masks ? fs_format("%s/results/step_%lld", r->o->output_dir, (long long)r->state.step) : NULL;
    fs_status status = masks && !dir ? fs_fail(err, FS_E_NO_MEMORY, "out of memory") : FS_OK;
    if (!status) status = fs_validate(&r->trainee, r->val, r->comm, 1, dir, &r->validation, err);
    free(dir);
    if (status) return status;
    r->has_validation = true;
    r->logged_at = fs_now(); /* not part of a step's speed */
    *best = !r->state.has_best || r->validation.metric > r->state.best;
    if (r->state.step == 0) *best = false; /* what was there before training is no result of it */
    if (*best) r->state.best = r->validation.metric, r->state.best_step = r->state.step, r->state.has_best = true;
    if (masks)
        fs_log(r->cb, FS_LOG_INFO, "step %lld: gIoU %.4f, cIoU %.4f, loss %.4f over %lld records%s", (long long)r->state.step, r->validation.giou,
               r->validation.ciou, r->validation.loss, (long long)r->validation.records, *best ? "; the best so far" : "");
    else
        fs_log(r->cb, FS_LOG_INFO, "step %lld: validation loss %.4f over %lld records%s", (long long)r->state.step, r->validation.loss,
               (long long)r->validation.records, *best ? "; the best so far" : "");
    if (!r->log) return FS_OK;
    const char *const names[] = {FS_LOG_VAL_LOSS, masks ? FS_LOG_GIOU : FS_LOG_ACCURACY, FS_LOG_CIOU};
    const double values[] = {r->validation.loss, masks ? r->validation.giou : r->validation.accuracy, r->validation.ciou};
    return fs_trainlog_scalars(r->log, r->state.step, names, values, masks ? 3 : r->o->recipe == FS_RECIPE_DTG ? 2 : 1, err);
}

/* ---- the run ---- */

/* OUT/init, made once: what training starts from. */
static fs_status begin_from_scratch(const run *r, fs_train_options *o, char **init, fs_error *err) {
    fs_status status = FS_OK;
    *init = fs_path_join(o->output_dir, "init");
    char *last = fs_path_join(o->output_dir, "last");
    if (!*init || !last) {
        free(last);
        return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    }
    const bool begun = fs_path_exists(*init) && fs_path_exists(last); /* what no checkpoint followed may be of another config */
    free(last);
    if (r->rank == 0 && (o->fresh || !begun)) {
        static const char *const ours[] = {"*.gguf", NULL};
        fs_folder folder = {0};
        if ((status = fs_make_dirs(o->output_dir, err))) return status;
        status = fs_folder_begin(*init, ours, &folder, err);
        if (!status) status = fs_scratch_create(o->from_scratch, folder.temp, o->seed, &o->base, err);
        if (!status) status = fs_folder_commit(&folder, err);
        fs_folder_drop(&folder);
    }
    o->model_dir = *init;
    o->all_weights = true;
    return status ? status : fs_comm_barrier(r->comm, err);
}

static const char *const may_differ[] = {"data", "model", NULL}; /* places move; what is in them is counted */

/* The checkpoint to go on from, NULL if there is none: the first process looks, since looking also clears away what a kill has left. */
static fs_status find_checkpoint(const run *r, char **path, fs_error *err) {
    uint64_t length = 0;
    *path = NULL;
    fs_status status = r->rank == 0 ? fs_snapshot_find(r->o->output_dir, r->cb, path, err) : FS_OK;
    if (!status && *path) length = strlen(*path) + 1;
    if (!status) status = fs_comm_broadcast(r->comm, &length, sizeof length, 0, err);
    if (status || !length) return status;
    if (r->rank && !(*path = malloc(length))) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    return fs_comm_broadcast(r->comm, *path, length, 0, err);
}

static fs_status resume(run *r, const char *settings, int64_t *resumed_at, fs_error *err) {
    char *path = NULL;
    *resumed_at = -1;
    if (r->o->fresh) return r->rank ? FS_OK : fs_snapshot_discard(r->o->output_dir, err);
    fs_status status = find_checkpoint(r, &path, err);
    if (status || !path) return status;
    fs_train_state said = {0}; /* settings first: they say why the tensors would not fit */
    status = fs_snapshot_read_state(path, &said, err);
    if (!status) status = fs_train_state_check(&said, settings, may_differ, err);
    fs_train_state_free(&said);
    if (!status) status = fs_snapshot_read(path, &r->trainee.params, &r->state, NULL, err);
    if (status) fs_error_prefix(err, "%s (a run with other settings needs another folder, or --fresh)", path);
    else {
        *resumed_at = r->state.step;
        fs_log(r->cb, FS_LOG_INFO, "going on behind step %lld of %lld (%s)", (long long)r->state.step, (long long)r->steps, path);
    }
    free(path);
    return status;
}

/* All processes stop together: what the first one's user says is what counts. */
static fs_status ask_to_stop(run *r, bool *stop, fs_error *err) {
    uint8_t said = fs_cancelled(r->cb);
    const fs_status status = fs_comm_broadcast(r->comm, &said, 1, 0, err);
    *stop = said != 0;
    return status;
}

static fs_status loop(run *r, fs_error *err) {
    const fs_train_options *o = r->o;
    fs_status status = FS_OK;
    bool stop = false, best = false;
    int64_t saved = r->state.step;
    if (r->val && r->state.step == 0 && o->recipe == FS_RECIPE_MFLM && (status = validate(r, &best, err))) return status; /* as upstream, before the first step */
    r->logged_at = fs_now();
    while (r->state.step < r->steps && !stop) {
        const int64_t epoch = r->state.step / r->epoch_steps, at = r->state.step % r->epoch_steps;
        if (!r->loader || at == 0)
            if ((status = begin_pass(r, epoch, at, err))) return status;
        r->state.epoch = epoch;
        r->state.position = at;
        const double rate = o->rate * fs_schedule_factor(&r->schedule, r->state.step);
        fs_losses losses;
        double norm;
        if ((status = step(r, &losses, &norm, err)) == FS_E_CANCELLED) break; /* mid-step: what was before it is kept */
        if (status || (status = log_step(r, &losses, norm, rate, err))) return status;
        const bool last = r->state.step == r->steps, epoch_end = at + 1 == r->epoch_steps;
        const bool want_validation = r->val && (last || (o->val_every ? r->state.step % o->val_every == 0 : epoch_end));
        if ((status = ask_to_stop(r, &stop, err))) return status;
        best = false;
        if (want_validation && !stop && (status = validate(r, &best, err))) return status;
        if (last || stop || best || (o->save_every ? r->state.step % o->save_every == 0 : epoch_end)) {
            if ((status = save(r, best, err)) || (status = fs_comm_barrier(r->comm, err))) return status;
            saved = r->state.step;
            r->logged_at = fs_now();
        }
    }
    if (status == FS_E_CANCELLED) {
        /* The step that was broken off has changed nothing but gradients. With others this process cannot save: they are elsewhere in the step. */
        if (r->size > 1) return status;
        stop = true;
        if (saved != r->state.step && (status = save(r, false, err))) return status;
    }
    return stop && r->state.step < r->steps ? fs_fail(err, FS_E_CANCELLED, "stopped on request behind step %lld; the same command goes on from there", (long long)r->state.step) : FS_OK;
}

static char *summarize(const run *r) {
    json_t *j = json_pack("{s:s, s:I, s:I, s:I, s:I, s:f, s:s}", "recipe", fs_recipe_name(r->o->recipe), "steps", (json_int_t)r->state.step, "samples",
                          (json_int_t)r->state.samples, "tokens", (json_int_t)r->state.tokens, "trained_numbers",
                          (json_int_t)fs_params_total(&r->trainee.params), "seconds", r->state.seconds, "output", r->o->output_dir);
    if (j && r->state.loss_count) json_object_set_new(j, "loss", json_real(r->state.losses[r->state.loss_count - 1]));
    if (j && r->has_validation && r->o->recipe == FS_RECIPE_MFLM) {
        json_object_set_new(j, "giou", json_real(r->validation.giou));
        json_object_set_new(j, "ciou", json_real(r->validation.ciou));
    }
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text;
}

static void close_run(run *r) {
    fs_loader_close(r->loader);
    free(r->order);
    fs_samples_close(r->train);
    fs_samples_close(r->val);
    fs_trainlog_close(r->log);
    fs_train_state_free(&r->state);
    fs_trainee_close(&r->trainee);
    fs_comm_free(r->comm);
}

fs_status fs_train(const fs_train_options *options, char **summary, fs_error *err) {
    fs_train_options o = *options;
    char *init = NULL;
    run r = {.o = &o, .cb = &o.base.callbacks, .adamw = {o.beta1, o.beta2, o.eps}};
    fs_schedule_kind kind;
    char *settings = NULL;
    int64_t resumed_at;
    if (summary) *summary = NULL;
    fs_status status = fs_train_options_check(&o, &kind, err);
    if (status) return status;
    fs_comm_options co = fs_comm_options_defaults();
    co.callbacks = r.cb;
    if ((status = fs_comm_create(&co, &r.comm, err))) return status;
    r.rank = fs_comm_rank(r.comm), r.size = fs_comm_size(r.comm);
    if (r.rank) o.base.callbacks.log = NULL, o.base.callbacks.progress = NULL; /* what all would say is said once */
    if (o.from_scratch && (status = begin_from_scratch(&r, &o, &init, err))) goto done;
    if ((status = fs_trainee_open(&r.trainee, &o, err))) goto done;
    if (o.all_weights && !r.trainee.layout.bundle) {
        status = fs_fail(err, FS_E_USAGE, "%s: all weights are trained from a bundle; make one: fakeshield convert %s --type f32 -o BUNDLE", o.model_dir, o.model_dir);
        goto done;
    }
    if ((status = open_data(&r, err)) || (status = plan(&r, kind, err))) goto done;
    settings = fs_train_settings(&o, r.train->count, r.steps);
    if (!settings) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    r.state.seed = o.seed;
    if ((status = fs_make_dirs(o.output_dir, err)) || (status = fs_train_state_settings(&r.state, settings, err))) goto done;
    if ((status = resume(&r, settings, &resumed_at, err)) || (status = open_log(&r, settings, resumed_at, err))) goto done;
    fs_log(r.cb, FS_LOG_INFO, "%lld records, %lld steps of %d x %d, %.1f million numbers are trained", (long long)r.train->count, (long long)r.steps,
           o.accumulation, o.batch, (double)fs_params_total(&r.trainee.params) / 1e6);
    status = loop(&r, err);
    if (!status) fs_log(r.cb, FS_LOG_INFO, "the result is %s/%s", o.output_dir, result_name(&r));
    if (!status && summary && !(*summary = summarize(&r))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
done:
    if (status && r.size > 1 && err) fs_comm_abort(r.comm, err->message);
    free(settings);
    close_run(&r);
    free(init);
    return status;
}
