/* An evaluation from the options to the files, and joining the parts of one that was split over machines. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "eval/report.h"

/* ---- checks ---- */

static fs_status check_statistics(const fs_eval_options *o, fs_error *err) {
    if (o->resamples < 0 || o->resamples > 1000000)
        return fs_fail(err, FS_E_USAGE, "%d resamples; expected 0 (none) to 1000000", o->resamples);
    if (!(o->level > 0 && o->level < 1))
        return fs_fail(err, FS_E_USAGE, "a confidence level of %g; expected between 0 and 1, e.g. 0.95", o->level);
    if (o->gallery < 0 || o->gallery > 100) return fs_fail(err, FS_E_USAGE, "a gallery of %d; expected 0 to 100", o->gallery);
    if (o->sheet < 0 || o->sheet > 100) return fs_fail(err, FS_E_USAGE, "a contact sheet of %d pictures; expected 0 (none) to 100", o->sheet);
    return FS_OK;
}

static fs_status check(const fs_eval_options *o, fs_error *err) {
    if (!o->out || !*o->out) return fs_fail(err, FS_E_USAGE, "no folder given for what an evaluation writes");
    if (o->shards < 1 || o->shards > 100000 || o->shard < 1 || o->shard > o->shards)
        return fs_fail(err, FS_E_USAGE, "part %d of %d; expected 1/N to N/N", o->shard, o->shards);
    if (o->sweep && *o->sweep && o->source != FS_EVAL_MODEL)
        return fs_fail(err, FS_E_USAGE,
                       "a sweep changes the pictures and must run a checkpoint on them; results that are there already cannot be swept");
    if (o->text && (o->source != FS_EVAL_MODEL || o->detector.verdict_only))
        return fs_fail(err, FS_E_USAGE, "a text for stage 2 is given, but %s",
                       o->source == FS_EVAL_MODEL ? "masks are not asked for (verdict only)" : "no checkpoint is run");
    if (o->text && !*o->text) return fs_fail(err, FS_E_USAGE, "the text for stage 2 is empty");
    if ((o->embeddings != NULL) != (o->reference_embeddings != NULL))
        return fs_fail(err, FS_E_USAGE, "embeddings of %s are given but not of the other; both are needed",
                       o->embeddings ? "the explanations" : "the references");
    return check_statistics(o, err);
}

/* ---- what a run says about itself ---- */

/* All that decides on a row, whatever the machine. */
static json_t *settings_json(const fs_eval_options *o) {
    return json_pack("{s:s?, s:s?, s:s?, s:s*, s:b, s:b, s:b, s:s, s:s, s:s, s:b, s:i}", "sets", o->sets, "join", o->join, "sweep",
                     o->sweep, "text", o->text, "logits", (int)o->logits, "resize_mask", (int)o->resize_mask, "invert_truth",
                     (int)o->invert_truth, "image_score", o->scores ? "file" : fs_eval_image_score_name(o->image_score), "nan",
                     fs_eval_policy_name(o->nan), "missing", fs_eval_policy_name(o->missing), "css", (int)(o->encoder || o->embeddings),
                     "encoder_tokens", o->encoder_tokens);
}

static fs_status info_begin(const fs_eval_options *o, const fs_eval_data *d, fs_eval_info *i, fs_error *err) {
    const char *from = o->source == FS_EVAL_MODEL ? o->model_dir : o->results ? o->results : o->masks ? o->masks : o->scores;
    char *name = fs_eval_copy_text(o->name ? o->name : "this run");
    *i = (fs_eval_info){.name = name,
                        .source = fs_strdup(fs_eval_source_name(o->source)),
                        .model = fs_eval_copy_text(from ? fs_path_base(from) : ""),
                        .settings = settings_json(o),
                        .warnings = json_array(),
                        .records = (int64_t)d->set.count,
                        .shard = o->shard,
                        .shards = o->shards};
    return i->name && i->source && i->model && i->settings && i->warnings ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
}

/* NaN scores by policy, and what a reader should be told. */
static fs_status look_over(const fs_eval_options *o, fs_eval_book *b, fs_error *err) {
    if (!b->rows.count && o->shards == 1)
        return fs_fail(err, FS_E_NOT_FOUND, "no picture is left to evaluate: %zu of %" PRId64 " have no answer", b->info.missing,
                       b->info.records);
    for (size_t i = 0; i < b->rows.count; i++) {
        const fs_eval_row *r = &b->rows.items[i];
        if (!r->has_score || !isnan(r->score)) continue;
        if (o->nan == FS_EVAL_ERROR)
            return fs_fail(err, FS_E_NUMERIC,
                           "%s: its score is no number (NaN); --nan exclude leaves such pictures out of the ranking and counts them",
                           r->image);
        b->info.nan_scores++;
    }
    return FS_OK;
}

/* ---- finishing ---- */

static fs_status write_json(const json_t *j, const char *path, fs_error *err) {
    char *text = j ? json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) : NULL;
    fs_status status = text ? fs_write_file(path, text, strlen(text), err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    free(text);
    return status;
}

fs_status fs_eval_finish(const fs_eval_book *b, const fs_eval_options *opt, char **text, fs_error *err) {
    fs_eval_summary s = {0};
    json_t *j = NULL;
    char *csv = fs_path_join(opt->out, "images.csv"), *summary = fs_path_join(opt->out, "summary.json"),
         *html = fs_path_join(opt->out, "report.html"), *sheet = fs_path_join(opt->out, "sheet.png");
    fs_status status = csv && summary && html && sheet ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status) status = fs_eval_book_write(b, opt->out, err);
    if (!status) status = fs_eval_write_csv(b, csv, err);
    if (!status) status = fs_eval_summarize(b, opt, &s, err);
    if (!status) {
        j = fs_eval_summary_json(b, &s, opt);
        status = write_json(j, summary, err);
    }
    if (!status && opt->html) status = fs_eval_write_html(b, &s, opt, html, err);
    if (!status && opt->sheet > 0) status = fs_eval_write_sheet(b, opt, sheet, err);
    if (!status && text && !(*text = fs_eval_summary_text(b, &s, opt))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    json_decref(j);
    fs_eval_summary_free(&s);
    free(csv);
    free(summary);
    free(html);
    free(sheet);
    return status;
}

fs_status fs_eval_run_part(const fs_eval_options *options, char **text, fs_error *err) {
    fs_eval_data d = {0};
    fs_eval_book book = {0};
    if (text) *text = NULL;
    fs_status status = check(options, err);
    bool ours = false; /* the folder */
    if (!status) status = fs_eval_data_open(options, &d, err);
    if (!status) status = info_begin(options, &d, &book.info, err);
    if (!status) {
        ours = access(options->out, F_OK) != 0;
        status = fs_make_dirs(options->out, err);
    }
    if (!status)
        status =
            options->source == FS_EVAL_MODEL ? fs_eval_from_model(options, &d, &book, err) : fs_eval_from_files(options, &d, &book, err);
    if (!status) status = look_over(options, &book, err);
    if (!status) status = fs_eval_css(options, &book, err);
    if (!status) status = fs_eval_finish(&book, options, text, err);
    if (status && ours) rmdir(options->out); /* if nothing came to lie in it */
    fs_eval_data_free(&d);
    fs_eval_book_free(&book);
    return status;
}

/* ---- joining ---- */

static fs_status same_run(const char *dir, const fs_eval_info *a, const fs_eval_info *b, fs_error *err) {
    const char *what = a->records != b->records            ? "the number of pictures in the data"
                       : a->shards != b->shards            ? "the number of parts"
                       : strcmp(a->source, b->source) != 0 ? "the source"
                       : strcmp(a->model, b->model) != 0 || strcmp(a->fingerprint, b->fingerprint) != 0 ? "the checkpoint"
                       : !json_equal(a->settings, b->settings)                                          ? "the settings"
                                                                                                        : NULL;
    return what ? fs_fail(err, FS_E_MISMATCH, "%s: %s differs from that of the first part; join parts of one run", dir, what) : FS_OK;
}

/* Takes the rows and counts of `from` into `to`. */
static fs_status take_rows(fs_eval_book *to, fs_eval_book *from, fs_error *err) {
    for (size_t i = 0; i < from->rows.count; i++) {
        fs_eval_row *r = fs_eval_rows_add(&to->rows);
        if (!r) return fs_fail(err, FS_E_NO_MEMORY, "no memory to join %zu rows", from->rows.count);
        *r = from->rows.items[i];
        from->rows.items[i] = (fs_eval_row){0};
    }
    to->info.missing += from->info.missing;
    to->info.nan_scores += from->info.nan_scores;
    to->info.resized += from->info.resized;
    to->info.texts_without_reference += from->info.texts_without_reference;
    json_array_extend(to->info.warnings, from->info.warnings);
    return FS_OK;
}

static fs_status check_parts(const fs_eval_book *b, const bool *seen, fs_error *err) {
    for (int k = 0; k < b->info.shards; k++)
        if (!seen[k]) return fs_fail(err, FS_E_NOT_FOUND, "part %d of %d is not among the folders given", k + 1, b->info.shards);
    for (size_t i = 1; i < b->rows.count; i++)
        if (b->rows.items[i].index == b->rows.items[i - 1].index && b->rows.items[i].step == b->rows.items[i - 1].step)
            return fs_fail(err, FS_E_MISMATCH, "%s: is in two parts", b->rows.items[i].image);
    return FS_OK;
}

fs_status fs_eval_merge(const char *const *dirs, size_t n, const fs_eval_options *options, char **text, fs_error *err) {
    fs_eval_book all = {0}, part = {0};
    fs_eval_options opt = *options;
    bool *seen = NULL;
    if (text) *text = NULL;
    fs_status status = check_statistics(&opt, err);
    if (!n || !opt.out) return fs_fail(err, FS_E_USAGE, "folders to join and one for the result are needed");
    for (size_t i = 0; i < n && !status; i++) {
        status = fs_eval_book_read(dirs[i], &part, err);
        if (!status && i) status = same_run(dirs[i], &all.info, &part.info, err);
        if (!status && !i && !(seen = fs_alloc_zero((size_t)part.info.shards, 1))) status = fs_eval_no_memory(err, "the parts");
        if (!status && (part.info.shard > part.info.shards || seen[part.info.shard - 1]))
            status = fs_fail(err, FS_E_MISMATCH, "%s: part %d of %d is there twice", dirs[i], part.info.shard, part.info.shards);
        if (!status) seen[part.info.shard - 1] = true;
        if (!status && i) status = take_rows(&all, &part, err);
        if (!status && !i) all = part, part = (fs_eval_book){0};
        fs_eval_book_free(&part);
    }
    if (!status) {
        fs_eval_rows_sort(&all.rows);
        status = check_parts(&all, seen, err);
    }
    if (!status && !all.rows.count) status = fs_fail(err, FS_E_NOT_FOUND, "the parts have no pictures");
    if (!status && options->name) {
        free(all.info.name);
        if (!(all.info.name = fs_eval_copy_text(options->name))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    }
    if (!status) {
        all.info.shard = all.info.shards = 1;
        const char *nan = json_string_value(json_object_get(all.info.settings, "nan"));
        if (nan) fs_eval_policy_from_name(nan, &opt.nan); /* as the run was asked to */
        status = fs_make_dirs(opt.out, err);
    }
    if (!status) status = fs_eval_finish(&all, &opt, text, err);
    free(seen);
    fs_eval_book_free(&all);
    return status;
}
