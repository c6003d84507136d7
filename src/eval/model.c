/* Running a checkpoint over the data. Results are kept as `detect --soft-mask` writes them, under OUT/results/<type>/<set>/, so that a run
 * goes on where it ended and the answers can be looked at; the rows are then made from these files as from any others, which is why a
 * resumed run, a run in shards and an evaluation of the kept results give the same figures. Stage 1 runs over all pictures first (several
 * in flight), then stage 2: each is loaded once. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/eval.h"
#include "eval/sweep.h"

typedef struct job {
    size_t record;
    char *picture, *json, *mask, *soft; /* the file that is examined, and where its results go */
    fs_result *result;
    fs_status status; /* what became of it; its row says so */
    fs_error error;
    bool complete;
} job;

typedef struct model_run {
    const fs_eval_options *opt;
    fs_detector *detector;
    job *jobs;
    size_t n;
    size_t *pending; /* jobs that need stage 1 */
    fs_explain_job *explain;
    fs_status status; /* of writing */
    fs_error error;
} model_run;

/* ---- files ---- */

static fs_status write_json(const job *j, fs_error *err) {
    char *text = NULL;
    const fs_mask_status m = fs_result_mask_status(j->result);
    const bool has = m == FS_MASK_PRESENT || m == FS_MASK_NO_SEG;
    fs_status status = fs_result_to_json(j->result, has ? fs_path_base(j->mask) : NULL, NULL, false, true, &text, err);
    if (!status) status = fs_write_file(j->json, text, strlen(text), err);
    fs_string_free(text);
    return status;
}

static bool wants_stage2(const model_run *run, const fs_result *r) {
    return !run->opt->detector.verdict_only && fs_result_mask_status(r) == FS_MASK_NONE;
}

/* Did the earlier run ask as this one does: both stages, or stage 2 alone (which has no score) with the same text? */
static bool asked_alike(const fs_eval_options *opt, const fs_result *r) {
    const bool alone = isnan(fs_result_score(r));
    return opt->text ? alone && strcmp(opt->text, fs_result_text(r)) == 0 : !alone;
}

/* An earlier result of this picture that fits, with its masks. */
static fs_result *take_up(const model_run *run, const job *j) {
    uint8_t *data = NULL;
    size_t size = 0;
    fs_result *r = NULL;
    fs_error ignored = {0};
    if (!run->opt->resume || !fs_path_exists(j->json) || fs_read_file(j->json, 64 << 20, &data, &size, &ignored)) return NULL;
    if (fs_detector_resume(run->detector, (const char *)data, j->picture, &r, &ignored)) r = NULL; /* unreadable: done anew */
    free(data);
    if (!r) return NULL;
    const fs_mask_status m = fs_result_mask_status(r);
    const bool masks = fs_path_exists(j->mask) && fs_path_exists(j->soft);
    if (!asked_alike(run->opt, r) || ((m == FS_MASK_PRESENT || m == FS_MASK_NO_SEG) && !masks)) fs_result_free(r), r = NULL;
    return r;
}

/* ---- stages ---- */

static void explained(void *user, size_t index) {
    model_run *run = user;
    job *j = &run->jobs[run->pending[index]];
    fs_explain_job *e = &run->explain[index];
    j->status = e->status;
    j->error = e->error;
    j->result = e->result;
    e->result = NULL;
    if (!j->result) return;
    j->complete = !wants_stage2(run, j->result);
    if (!run->status) run->status = write_json(j, &run->error); /* nothing that took long is lost */
    if (j->complete) fs_result_free(j->result), j->result = NULL;
}

static fs_status stage1(model_run *run, fs_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < run->n; i++) {
        job *j = &run->jobs[i];
        if (j->status) continue;
        j->result = take_up(run, j);
        j->complete = j->result && !wants_stage2(run, j->result);
        if (j->complete) fs_result_free(j->result), j->result = NULL;
        if (j->complete || j->result || run->opt->text) continue;
        run->explain[n].image_path = j->picture;
        run->pending[n++] = i;
    }
    if (!n) return FS_OK;
    fs_status status = fs_detector_load(run->detector, 1, err);
    if (!status) status = fs_explain_many(run->detector, run->explain, n, NULL, explained, run, err);
    if (!status && run->status) {
        if (err) *err = run->error;
        status = run->status;
    }
    return status;
}

static fs_status localize(model_run *run, job *j, fs_error *err) {
    fs_error why = {0};
    fs_status status = run->opt->text ? fs_localize_text(run->detector, j->picture, run->opt->text, NULL, 0, &j->result, &why)
                                      : fs_localize(run->detector, j->result, &why);
    if (status) {
        j->status = status;
        j->error = why;
        if (status != FS_E_CANCELLED) return FS_OK;
        if (err) *err = why;
        return status;
    }
    const fs_mask_status m = fs_result_mask_status(j->result);
    if (m == FS_MASK_PRESENT || m == FS_MASK_NO_SEG) {
        status = fs_result_write_mask(j->result, j->mask, err);
        if (!status) status = fs_result_write_soft_mask(j->result, j->soft, err);
    }
    return status ? status : write_json(j, err); /* last: when it says that there is a mask, the mask is there */
}

/* Is stage 2 to look at it? */
static bool is_open(const model_run *run, const job *j) {
    return j->result || (run->opt->text && !j->status && !j->complete);
}

static fs_status stage2(model_run *run, fs_error *err) {
    size_t wanted = 0, done = 0;
    for (size_t i = 0; i < run->n; i++) wanted += is_open(run, &run->jobs[i]);
    fs_status status = wanted ? fs_detector_load(run->detector, 2, err) : FS_OK;
    for (size_t i = 0; i < run->n && !status; i++) {
        job *j = &run->jobs[i];
        if (!is_open(run, j)) continue;
        fs_progress(&run->opt->callbacks, "stage 2: masks", (int64_t)done++, (int64_t)wanted);
        status = localize(run, j, err);
        j->complete = !status && !j->status;
        fs_result_free(j->result), j->result = NULL; /* masks are large */
    }
    return status;
}

/* ---- one condition ---- */

static void jobs_free(model_run *run) {
    for (size_t i = 0; i < run->n && run->jobs; i++) {
        job *j = &run->jobs[i];
        free(j->picture), free(j->json), free(j->mask), free(j->soft);
        fs_result_free(j->result);
    }
    for (size_t i = 0; i < run->n && run->explain; i++) fs_result_free(run->explain[i].result);
    free(run->jobs);
    free(run->pending);
    free(run->explain);
    run->jobs = NULL, run->pending = NULL, run->explain = NULL;
    run->n = 0;
}

/* base: OUT/results/type/set/stem or OUT/sweep/<condition>/type/set/stem. */
static fs_status plan_job(const fs_eval_options *opt, const fs_eval_data *d, size_t record, const fs_sweep_step *step, job *j,
                          fs_error *err) {
    const fs_data_record *r = &d->set.records[record];
    const char *set = d->set_names[r->set], *name = fs_path_base(r->image);
    char *dir = *step->name ? fs_format("%s/sweep/%s/%s", opt->out, step->name, set) : fs_format("%s/results/%s", opt->out, set);
    char *base = dir ? fs_format("%s/%.*s", dir, (int)fs_data_stem(name, false), name) : NULL;
    fs_status status = base ? fs_make_dirs(dir, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    j->record = record;
    if (!status) {
        j->picture = *step->name ? fs_format("%s%s", base, fs_sweep_extension(step)) : fs_strdup(r->image);
        j->json = fs_format("%s.json", base);
        j->mask = fs_format("%s_mask.png", base);
        j->soft = fs_format("%s_soft.png", base);
        if (!j->picture || !j->json || !j->mask || !j->soft) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    }
    free(dir);
    free(base);
    if (!status && *step->name) { /* a broken picture is that picture's failure */
        j->status = fs_sweep_write(step, r->image, name, opt->seed, j->picture, &j->error);
        if (j->status == FS_E_NO_MEMORY) status = j->status, *err = j->error;
    }
    return status;
}

static fs_status make_rows(const model_run *run, const fs_eval_data *d, const fs_sweep_step *step, int64_t number, fs_eval_book *book,
                           fs_error *err) {
    fs_status status = FS_OK;
    for (size_t i = 0; i < run->n && !status; i++) {
        const job *j = &run->jobs[i];
        uint8_t *data = NULL;
        size_t size = 0;
        fs_error why = {0};
        fs_progress(&run->opt->callbacks, "comparing", (int64_t)i, (int64_t)run->n);
        if (j->status) {
            why = j->error;
            if ((status = fs_eval_missing(run->opt, &book->info, d->set.records[j->record].image, &why)) && err) *err = why;
            continue;
        }
        fs_eval_row *row = fs_eval_rows_add(&book->rows);
        if (!row) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        row->step = number;
        status = fs_eval_row_begin(d, j->record, step->name, row, err);
        if (!status) status = fs_read_file(j->json, 64 << 20, &data, &size, err);
        if (!status) status = fs_eval_row_from_result(run->opt, &book->info, row, (const char *)data, j->json, j->soft, j->mask, err);
        free(data);
    }
    return status;
}

static fs_status run_condition(model_run *run, const fs_eval_data *d, const fs_sweep_step *step, int64_t number, fs_eval_book *book,
                               fs_error *err) {
    fs_status status = FS_OK;
    run->jobs = fs_alloc_zero(d->set.count, sizeof *run->jobs);
    run->pending = fs_alloc_zero(d->set.count, sizeof *run->pending);
    run->explain = fs_alloc_zero(d->set.count, sizeof *run->explain);
    if (!run->jobs || !run->pending || !run->explain) status = fs_eval_no_memory(err, "the pictures of a run");
    for (size_t i = 0; i < d->set.count && !status; i++)
        if (fs_eval_in_shard(run->opt, i)) status = plan_job(run->opt, d, i, step, &run->jobs[run->n++], err);
    if (!status) status = stage1(run, err);
    if (!status) status = stage2(run, err);
    if (!status) status = make_rows(run, d, step, number, book, err);
    if (run->n == 0) free(run->jobs), free(run->pending), free(run->explain), run->jobs = NULL, run->pending = NULL, run->explain = NULL;
    jobs_free(run);
    return status;
}

/* What the results say of the checkpoint and how it was asked. */
static void note_model(const fs_eval_options *opt, const char *path, fs_eval_info *info) {
    uint8_t *data = NULL;
    size_t size = 0;
    fs_error ignored = {0};
    if (fs_read_file(path, 64 << 20, &data, &size, &ignored)) return;
    json_t *j = json_loadb((const char *)data, size, 0, NULL), *model = json_object_get(j, "model"),
           *settings = json_object_get(j, "settings");
    const char *name = json_string_value(json_object_get(model, "name")),
               *fingerprint = json_string_value(json_object_get(model, "fingerprint"));
    free(info->model);
    info->model = fs_strdup(name ? name : fs_path_base(opt->model_dir));
    snprintf(info->fingerprint, sizeof info->fingerprint, "%s", fingerprint ? fingerprint : "");
    if (settings) json_object_set(info->settings, "detector", settings);
    json_decref(j);
    free(data);
}

fs_status fs_eval_from_model(const fs_eval_options *opt, const fs_eval_data *d, fs_eval_book *book, fs_error *err) {
    fs_sweep sweep = {0};
    model_run run = {.opt = opt};
    fs_status status = fs_sweep_parse(opt->sweep, &sweep, err);
    if (!status && !opt->model_dir) status = fs_fail(err, FS_E_USAGE, "no checkpoint given");
    if (!status) status = fs_detector_create(opt->model_dir, &opt->detector, &run.detector, err);
    /* what stage 2 lacks is said now and not after hours of stage 1 */
    if (!status && !opt->text) status = fs_detector_check(run.detector, 1, err);
    if (!status && !opt->detector.verdict_only) status = fs_detector_check(run.detector, 2, err);
    for (size_t k = 0; k < sweep.count && !status; k++) {
        status = run_condition(&run, d, &sweep.steps[k], (int64_t)k, book, err);
        if (status || k || !book->rows.count) continue;
        const fs_eval_row *first = &book->rows.items[0];
        char *json = fs_format("%s/results/%s/%.*s.json", opt->out, first->set, (int)fs_data_stem(first->name, false), first->name);
        if (json) note_model(opt, json, &book->info);
        free(json);
    }
    fs_detector_free(run.detector);
    fs_sweep_free(&sweep);
    return status;
}
