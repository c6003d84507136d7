/* dataset describe: asks a vision model for the text of every picture, as MMTD-Set was made of real forgeries and GPT-4o (the paper,
 * section 3): the model is shown picture and mask and told the form. Several requests are under way at a time, no more a minute than
 * allowed; what may pass is tried again with growing pauses, an answer that cannot be used is asked for once more, and every good one is on
 * the disk before the next. */
#include "data/describe.h"
#include "text/utf8.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FAILURES_IN_A_ROW = 10, LONGEST_PAUSE = 60 };

static const char *const view_names[] = {"mask", "overlay"};
const char *fs_describe_view_name(fs_describe_view v) {
    return (unsigned)v < 2 ? view_names[v] : "unknown";
}
bool fs_describe_view_from_name(const char *name, fs_describe_view *out) {
    for (int i = 0; name && i < 2; i++)
        if (strcmp(view_names[i], name) == 0) return *out = (fs_describe_view)i, true;
    return false;
}

fs_dataset_describe_options fs_dataset_describe_options_defaults(void) {
    return (fs_dataset_describe_options){.max_side = 1024,
                                         .max_tokens = 600,
                                         .temperature = 0.2,
                                         .rpm = 60,
                                         .jobs = 4,
                                         .retries = 5,
                                         .retry_delay = 2,
                                         .timeout_seconds = 120,
                                         .price_in = -1,
                                         .price_out = -1};
}

typedef struct describing {
    const fs_dataset_describe_options *opt;
    const char *root; /* the data set's folder */
    fs_dataset data;
    describe_instructions words;
    describe_question *q;
    size_t n, kept, to_ask;
    char *kept_path;
    int kept_fd;
    fs_chat chat;
    /* while asking */
    atomic_size_t next, done, in_a_row;
    atomic_bool stop, cancelled;
    double free_at;                /* when the next request may begin; guarded by critical(fs_describe_pace) */
    int64_t tokens_in, tokens_out; /* these and the next two: critical(fs_describe_result) */
    fs_status fatal;
    fs_error why;
} describing;

typedef struct worker {
    describing *d;
    bool master; /* callbacks belong to the caller's thread */
} worker;

static bool should_stop(void *user) {
    const worker *w = user;
    if (w->master && fs_cancelled(&w->d->opt->callbacks)) {
        atomic_store(&w->d->cancelled, true);
        atomic_store(&w->d->stop, true);
    }
    return atomic_load(&w->d->stop);
}

/* False when the run is to stop. */
static bool pause_until(worker *w, double when) {
    for (double left; (left = when - fs_now()) > 0;) {
        if (should_stop(w)) return false;
        if (left > 0.05) left = 0.05;
        nanosleep(&(struct timespec){.tv_nsec = (long)(left * 1e9)}, NULL);
    }
    return !should_stop(w);
}

/* Requests begin no closer than 60 / rpm seconds. */
static bool take_turn(worker *w) {
    describing *d = w->d;
    double when;
#pragma omp critical(fs_describe_pace)
    {
        const double now = fs_now();
        when = d->free_at > now ? d->free_at : now;
        d->free_at = when + (d->opt->rpm > 0 ? 60 / d->opt->rpm : 0);
    }
    return pause_until(w, when);
}

/* What the service asks one to wait, all wait. */
static void hold_back(describing *d, double seconds) {
#pragma omp critical(fs_describe_pace)
    {
        const double when = fs_now() + seconds;
        if (when > d->free_at) d->free_at = when;
    }
}

static void end_run(describing *d, fs_status status, const fs_error *why) {
#pragma omp critical(fs_describe_result)
    {
        if (!d->fatal) d->fatal = status, d->why = *why;
    }
    atomic_store(&d->stop, true);
}

/* One request, again and again while that may help. FS_E_CANCELLED: the run stops. */
static fs_status post(worker *w, const char *body, fs_buffer *reply, fs_error *err) {
    describing *d = w->d;
    double delay = d->opt->retry_delay;
    for (int failures = 0;;) {
        fs_chat chat = d->chat;
        fs_chat_trouble trouble;
        int wait;
        chat.stop = should_stop, chat.user_data = w;
        if (!take_turn(w)) return fs_fail(err, FS_E_CANCELLED, "stopped");
        fs_status status = fs_chat_post(&chat, body, strlen(body), reply, &trouble, &wait, err);
        if (!status || status == FS_E_CANCELLED || trouble == FS_CHAT_THIS) return status;
        if (trouble == FS_CHAT_ALL) {
            end_run(d, status, err);
            return status;
        }
        if (++failures > d->opt->retries) return status;
        if (wait) hold_back(d, wait);
        if (!pause_until(w, fs_now() + delay)) return fs_fail(err, FS_E_CANCELLED, "stopped");
        delay = delay * 2 < LONGEST_PAUSE ? delay * 2 : LONGEST_PAUSE;
    }
}

/* Asks, and once more if the answer cannot be used. q->text is set, or *err tells why not. */
static fs_status ask(worker *w, describe_question *q, describe_reply *used, fs_error *err) {
    describing *d = w->d;
    char problem[200] = "", *previous = NULL;
    fs_status status = FS_OK;
    *used = (describe_reply){0};
    for (int round = 0; round < 2 && !q->text; round++) {
        fs_buffer reply = {0};
        describe_reply r = {0};
        char *body = NULL;
        status = describe_request(d->opt, &d->words, q, previous, problem, false, &body, err);
        if (!status) status = post(w, body, &reply, err);
        free(body);
        if (status) {
            fs_buffer_free(&reply);
            break;
        }
        status = describe_reply_parse(reply.data, reply.size, &r, err);
        fs_buffer_free(&reply);
        if (!status) {
            used->tokens_in += r.tokens_in, used->tokens_out += r.tokens_out;
            if (r.cut)
                snprintf(problem, sizeof problem, "it is longer than there is room for, and was cut off");
            else
                status = describe_answer_check(&d->words, r.text, q->record->label, &q->text, problem, err);
            if (!status && !q->text) status = fs_fail(err, FS_E_FORMAT, "the answer cannot be used: %s", problem);
        }
        free(previous);
        previous = r.text;
        if (status && status != FS_E_FORMAT) break;
    }
    free(previous);
    return status;
}

static void answer(worker *w, describe_question *q) {
    describing *d = w->d;
    describe_reply used;
    fs_error why = {0};
    fs_status status = ask(w, q, &used, &why);
    if (!status) {
#pragma omp critical(fs_describe_result)
        status = describe_kept_add(d->kept_fd, d->kept_path, q, d->opt->model, &used, &why);
        if (status) end_run(d, status, &why); /* asking on would be paid for nothing */
    }
#pragma omp critical(fs_describe_result)
    d->tokens_in += used.tokens_in, d->tokens_out += used.tokens_out;
    if (status == FS_E_CANCELLED) return;
    if (!status) {
        atomic_store(&d->in_a_row, 0);
        return;
    }
    q->problem = fs_strdup(why.message);
    if (status == FS_E_NO_MEMORY) end_run(d, status, &why);
    if (atomic_fetch_add(&d->in_a_row, 1) + 1 >= FAILURES_IN_A_ROW) {
        fs_error many;
        fs_fail(&many, status, "%d pictures one after another without an answer, the last: %s", (int)FAILURES_IN_A_ROW, why.message);
        end_run(d, status, &many);
    }
}

static void ask_all(describing *d) {
    size_t *order = fs_alloc_zero(d->to_ask + 1, sizeof *order), count = 0;
    for (size_t i = 0; order && i < d->n && count < d->to_ask; i++)
        if (!d->q[i].text) order[count++] = i;
    if (!order) end_run(d, FS_E_NO_MEMORY, &(fs_error){FS_E_NO_MEMORY, "out of memory"});
#pragma omp parallel num_threads(d->opt->jobs)
    {
        worker w = {d, omp_get_thread_num() == 0};
        for (size_t i; !should_stop(&w) && (i = atomic_fetch_add(&d->next, 1)) < count;) {
            answer(&w, &d->q[order[i]]);
            const size_t finished = atomic_fetch_add(&d->done, 1) + 1;
            if (w.master) fs_progress(&d->opt->callbacks, "asking", (int64_t)finished, (int64_t)d->to_ask);
        }
        /* The caller's thread stays to hear of a cancel while the others finish. */
        while (w.master && !should_stop(&w) && atomic_load(&d->done) < count) pause_until(&w, fs_now() + 0.05);
    }
    free(order);
}

/* ---- before and after ---------------------------------------------------------------------------------------------- */

static fs_status check_options(const fs_dataset_describe_options *o, fs_error *err) {
    if (!o->model || !*o->model) return fs_fail(err, FS_E_USAGE, "no model: give the service's name for it");
    if (!fs_utf8_valid(o->model, strlen(o->model))) return fs_fail(err, FS_E_USAGE, "the model's name is not UTF-8");
    if (o->jobs < 1 || o->jobs > 32) return fs_fail(err, FS_E_USAGE, "%d requests at a time; expected 1 to 32", o->jobs);
    if (o->max_side < 64 || o->max_side > 4096)
        return fs_fail(err, FS_E_USAGE, "pictures of at most %d pixels; expected 64 to 4096", o->max_side);
    if (o->max_tokens < 16 || o->max_tokens > 100000)
        return fs_fail(err, FS_E_USAGE, "answers of %d tokens; expected 16 to 100000", o->max_tokens);
    if (o->timeout_seconds < 1) return fs_fail(err, FS_E_USAGE, "a time limit of %d seconds; expected 1 or more", o->timeout_seconds);
    if (!(o->rpm >= 0) || !(o->retry_delay >= 0) || o->retries < 0)
        return fs_fail(err, FS_E_USAGE, "a rate, a pause or a number of attempts below zero");
    return FS_OK;
}

static fs_status list_questions(describing *d, fs_error *err) {
    d->q = fs_alloc_zero(d->data.count + 1, sizeof *d->q);
    if (!d->q) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", d->root);
    for (size_t i = 0; i < d->data.count; i++) {
        const fs_data_record *r = &d->data.records[i];
        const fs_data_set *set = &d->data.sets[r->set];
        describe_question *q = &d->q[d->n++];
        const char *rel = r->image + strlen(d->root);
        while (*rel == '/') rel++;
        *q = (describe_question){
            .record = r, .id = fs_format("%s/%s/%s", set->type, set->name, fs_path_base(r->image)), .rel = fs_strdup(rel)};
        if (!q->id || !q->rel) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", d->root);
        if (!fs_utf8_valid(q->id, strlen(q->id)) || !fs_utf8_valid(rel, strlen(rel)))
            return fs_fail(err, FS_E_UNSUPPORTED, "%s: this name is not UTF-8, and JSON cannot hold it; rename the file", r->image);
    }
    return FS_OK;
}

static fs_status show_request(const describing *d, const char *estimate, char **text, fs_error *err) {
    const describe_question *q = NULL;
    char *body = NULL, *address = fs_chat_address(&d->chat);
    for (size_t i = 0; i < d->n && !q; i++)
        if (!d->q[i].text) q = &d->q[i];
    fs_status status = q ? describe_request(d->opt, &d->words, q, NULL, NULL, true, &body, err) : FS_OK;
    if (!status)
        *text = q ? fs_format("%s\n\nThe first request, about %s:\n\nPOST %s\n%sContent-Type: application/json\n\n%s\n", estimate,
                              q->record->image, address, d->chat.key ? "Authorization: Bearer (the key, not shown)\n" : "", body)
                  : fs_format("%s\n", estimate);
    if (!status && !*text) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for a request");
    free(body), free(address);
    return status;
}

static fs_status prepare(describing *d, fs_error *err) {
    fs_data_options read = fs_data_options_defaults();
    const char *out = d->opt->out_dir ? d->opt->out_dir : d->root;
    read.texts = FS_TEXTS_NONE;
    fs_status status = check_options(d->opt, err);
    d->chat = (fs_chat){.url = d->opt->url ? d->opt->url : "", .key = d->opt->key, .timeout_seconds = d->opt->timeout_seconds};
    if (!status) status = fs_chat_check(&d->chat, err);
    if (!status) status = describe_instructions_open(d->opt->instructions_file, &d->words, err);
    if (!status) status = fs_dataset_open(d->root, &read, &d->data, err);
    if (!status) status = list_questions(d, err);
    d->kept_path = fs_path_join(out, "answers.jsonl");
    if (!status && !d->kept_path) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", out);
    if (!status) status = describe_guard(d->opt, &d->data, d->root, d->kept_path, err);
    if (!status) status = describe_kept_read(d->kept_path, d->q, d->n, &d->kept, err);
    d->to_ask = d->n - d->kept;
    if (d->opt->limit > 0 && d->to_ask > (size_t)d->opt->limit) d->to_ask = (size_t)d->opt->limit;
    return status;
}

static fs_status run(describing *d, size_t *asked, size_t *failed, fs_error *err) {
    const char *out = d->opt->out_dir ? d->opt->out_dir : d->root;
    fs_error late = {0};
    fs_status status = fs_make_dirs(out, err);
    if (!status && d->to_ask) status = describe_kept_open(d->kept_path, &d->kept_fd, err);
    if (status) return status;
    if (d->to_ask) ask_all(d);
    for (size_t i = 0; i < d->n; i++) {
        if (!d->q[i].problem) continue;
        ++*failed;
        fs_log(&d->opt->callbacks, FS_LOG_WARNING, "%s: no answer: %s", d->q[i].record->image, d->q[i].problem);
    }
    size_t answered = 0;
    for (size_t i = 0; i < d->n; i++) answered += d->q[i].text != NULL;
    *asked = answered - d->kept;
    if (answered) status = describe_write(d->opt, &d->data, d->root, d->q, d->n, &late); /* also of a run that ends early */
    if (d->fatal) {
        if (err) *err = d->why;
        return d->fatal;
    }
    if (atomic_load(&d->cancelled))
        return fs_fail(err, FS_E_CANCELLED, "stopped; the answers so far are kept, and the same command goes on");
    if (status && err) *err = late;
    if (!status && *failed)
        status = fs_fail(err, FS_E_FAILED, "%zu of %zu pictures have no answer; the same command asks for them again", *failed, d->to_ask);
    return status;
}

static void clear(describing *d) {
    for (size_t i = 0; i < d->n; i++) free(d->q[i].id), free(d->q[i].rel), free(d->q[i].text), free(d->q[i].problem);
    free(d->q), free(d->kept_path);
    if (d->kept_fd >= 0) close(d->kept_fd);
    describe_instructions_close(&d->words);
    fs_dataset_free(&d->data);
}

fs_status fs_dataset_describe(const char *dir, const fs_dataset_describe_options *options, char **text, fs_error *err) {
    describing d = {.opt = options, .root = dir, .kept_fd = -1};
    describe_estimate cost;
    size_t asked = 0, failed = 0;
    char *estimate = NULL;
    if (text) *text = NULL;
    if (!options) return fs_fail(err, FS_E_USAGE, "no options: an address and a model are needed");
    fs_status status = prepare(&d, err);
    if (!status) status = describe_estimate_cost(options, &d.words, d.q, d.n, d.to_ask, &cost, err);
    if (!status && !(estimate = describe_estimate_text(&cost, d.kept))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status && options->price_limit > 0 && !options->dry_run && !options->estimate_only) {
        if (!cost.priced)
            status = fs_fail(err, FS_E_USAGE, "a limit of the cost needs both prices");
        else if (cost.price > options->price_limit)
            status = fs_fail(err, FS_E_LIMIT, "this may cost about %.2f, and the limit is %.2f; ask about fewer with --limit", cost.price,
                             options->price_limit);
    }
    if (!status && (options->dry_run || options->estimate_only)) {
        if (text && options->dry_run)
            status = show_request(&d, estimate, text, err);
        else if (text)
            *text = fs_strdup(estimate);
    } else if (!status) {
        status = run(&d, &asked, &failed, err);
        if (text)
            *text = fs_format("%zu answers came, %zu were there already, %zu did not come; %lld tokens sent, %lld received", asked, d.kept,
                              failed, (long long)d.tokens_in, (long long)d.tokens_out);
    }
    if (options->asked) *options->asked = asked;
    if (options->kept) *options->kept = d.kept;
    if (options->failed) *options->failed = failed;
    free(estimate);
    clear(&d);
    return status;
}
