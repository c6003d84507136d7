/* Stage 1 over the pictures of a run, several at a time where the library does so. Results are handed over twice: as soon as they are there,
 * in any order, to be saved; and in the order of the pictures, to be printed. A single picture's explanation is shown as it is written. */
#include "cli.h"

#include <stdlib.h>

typedef struct stage1_run {
    const cli_stage1 *s;
    fs_explain_job *jobs;
    size_t *inputs; /* of each job, the number of its picture */
    fs_result **results;
    char *state;    /* per input: WAITING until its turn has come, then one of the others */
    size_t shown;   /* pictures before it are printed */
    fs_status status;
} stage1_run;
enum { WAITING, DONE, FAILED, SKIPPED };

/* The heading and, unless it was streamed, the explanation. */
static void present(const stage1_run *run, size_t i, bool streamed) {
    cli_term *t = run->s->term;
    const char *text = fs_result_text(run->results[i]);
    if (!run->s->report) return;
    if (!streamed) cli_report_head_later(t, run->s->inputs->items[i].path, i + 1, run->s->inputs->count);
    cli_report_head_now(t);
    if (!*text) return;
    printf("\n");
    if (streamed) return;
    while (*text == ' ' || *text == '\n') text++;
    cli_stream(t, text);
    cli_stream_end(t);
    printf("\n");
}

/* Prints what has its turn. */
static void show(stage1_run *run, bool streamed) {
    for (; run->shown < run->s->inputs->count && run->state[run->shown] != WAITING; run->shown++) {
        const size_t i = run->shown;
        if (run->state[i] != DONE || run->status) continue; /* freed at the end */
        cli_term_clear(run->s->term);
        present(run, i, streamed);
        run->status = run->s->shown(run->s->user, i, run->results[i]);
        if (!run->s->arrived) fs_result_free(run->results[i]), run->results[i] = NULL;
    }
}

/* A picture's result or failure. */
static void take(stage1_run *run, size_t i, fs_result *r, fs_status status, const fs_error *err, bool streamed) {
    cli_term *t = run->s->term;
    cli_term_clear(t);
    if (status) {
        cli_report_head_later(t, NULL, 0, 0);
        cli_report_failure(t, run->s->inputs->items[i].path, err);
        run->state[i] = FAILED;
        run->s->failed(run->s->user, i, status);
    } else {
        run->state[i] = DONE;
        run->results[i] = r;
        if (run->s->arrived && !run->status) run->status = run->s->arrived(run->s->user, i, r);
        else if (run->s->arrived) fs_result_free(r); /* the run is over: nobody takes it */
    }
    show(run, streamed);
    if (run->status) t->stop = true;
}

static void on_started(void *user, size_t job) {
    stage1_run *run = user;
    run->s->term->in_flight++;
    cli_term_picture(run->s->term, run->jobs[job].image_path);
}

static void on_finished(void *user, size_t job) {
    stage1_run *run = user;
    fs_explain_job *j = &run->jobs[job];
    run->s->term->in_flight--;
    take(run, run->inputs[job], j->result, j->status, &j->error, false);
}

/* One picture after the other, each explanation shown as it is written. */
static fs_status one_by_one(stage1_run *run, size_t n) {
    const cli_stage1 *s = run->s;
    for (size_t k = 0; k < n && !run->status; k++) {
        fs_result *r = NULL;
        fs_error err = {0};
        if (cli_signal()) return FS_E_CANCELLED;
        cli_term_picture(s->term, run->jobs[k].image_path);
        if (s->report) cli_report_head_later(s->term, run->jobs[k].image_path, run->inputs[k] + 1, s->inputs->count);
        const fs_status status = fs_explain_question(s->detector, run->jobs[k].image_path, run->jobs[k].question, &r, &err);
        if (s->report) cli_stream_end(s->term);
        if (status == FS_E_CANCELLED || (status && cli_signal())) return FS_E_CANCELLED;
        take(run, run->inputs[k], r, status, &err, true);
    }
    return run->status;
}

fs_status cli_stage1_run(const cli_stage1 *s) {
    const size_t all = s->inputs->count;
    stage1_run run = {.s = s, .jobs = cli_alloc(all, sizeof *run.jobs), .inputs = cli_alloc(all, sizeof *run.inputs),
                      .results = cli_alloc(all, sizeof *run.results), .state = cli_alloc(all, 1)};
    size_t n = 0;
    fs_error err = {0};
    for (size_t i = 0; i < all; i++) {
        if (s->skip && s->skip(s->user, i)) {
            run.state[i] = SKIPPED;
            continue;
        }
        run.jobs[n].image_path = s->inputs->items[i].path;
        run.jobs[n].question = s->questions ? s->questions->items[i] : NULL;
        run.inputs[n++] = i;
    }
    cli_term_clear(s->term);
    s->term->stop = false;
    fs_status status = n ? fs_detector_load(s->detector, 1, &err) : FS_OK;
    if (status && !cli_signal()) {
        cli_report_failure(s->term, NULL, &err);
        s->failed(s->user, all, status);
    } else if (!status) {
        if (n == 1 || s->batch == 1) {
            status = one_by_one(&run, n);
        } else if ((status = fs_explain_many(s->detector, run.jobs, n, on_started, on_finished, &run, &err)) && !run.status && !cli_signal()) {
            cli_term_clear(s->term);
            cli_report_failure(s->term, NULL, &err);
            s->failed(s->user, all, status);
        }
    }
    for (size_t i = run.shown; i < all && !run.status; i++) /* the run ended early: what is finished is not lost */
        if (run.state[i] == WAITING) run.state[i] = SKIPPED;
    show(&run, false);
    if (run.status) status = run.status;
    if (cli_signal()) status = FS_E_CANCELLED;
    cli_term_clear(s->term);
    for (size_t i = 0; i < all && !s->arrived; i++) fs_result_free(run.results[i]);
    s->term->stop = false;
    free(run.jobs), free(run.inputs), free(run.results), free(run.state);
    return status;
}
