/* The public detector: one checkpoint, two stages, one of them in memory at a time unless asked otherwise. */
#include "pipeline/adapter.h"
#include "pipeline/prefetch.h"

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#ifdef _OPENMP
#include <omp.h>
#endif

struct fs_detector {
    fs_options options; /* strings owned */
    fs_layout layout;
    fs_adapter *adapters[2]; /* over each stage; NULL = none */
    fs_dte_fdm *stage1;
    fs_mflm *stage2;
    char *name;
    char fingerprint[65];
    int64_t batch;         /* answers written at a time, once stage 1 is loaded */
    bool synthetic;        /* a bundle of random weights */
    const fs_force *force; /* see fs_detector_force */
    fs_prefetch *prefetch; /* NULL: none under way */
};

/* ---- opening ---- */

static fs_status check_options(const fs_options *o, fs_error *err) {
    if (o->max_new_tokens < 1) return fs_fail(err, FS_E_USAGE, "max_new_tokens is %d, expected 1 or more", o->max_new_tokens);
    if (o->batch < 0 || o->batch > FS_MAX_WRITERS) return fs_fail(err, FS_E_USAGE, "batch is %d, expected 0 (as memory allows) to %d", o->batch, FS_MAX_WRITERS);
    if (o->question_index < -1 || o->question_index > 2) return fs_fail(err, FS_E_USAGE, "question_index is %d, expected -1 to 2", o->question_index);
    if (!(o->sampling.temperature >= 0) || isinf(o->sampling.temperature)) return fs_fail(err, FS_E_USAGE, "temperature is %g, expected 0 or more", (double)o->sampling.temperature);
    if (!(o->sampling.top_p <= 1)) return fs_fail(err, FS_E_USAGE, "top_p is %g, expected at most 1", (double)o->sampling.top_p);
    if (o->threads < 0 || o->threads > 1024) return fs_fail(err, FS_E_USAGE, "threads is %d, expected 0 (all cores) to 1024", o->threads);
    if (o->domain_given && (unsigned)o->domain > FS_DOMAIN_PHOTOSHOP) return fs_fail(err, FS_E_USAGE, "domain is %d, expected 0 to 2", (int)o->domain);
    if (o->max_pixels < 1 || o->max_file_bytes < 1) return fs_fail(err, FS_E_USAGE, "max_pixels and max_file_bytes must be at least 1");
    return FS_OK;
}

/* A bundle of so few bytes has products so short that threads mostly wait for one another, and where another program uses a core they wait ten times as
 * long as they work (docs/speed.md). */
enum { SMALL_BUNDLE = 64 << 20 };
static bool is_small(const fs_layout *l) {
    const char *const files[] = {l->dte_fdm, l->mflm, l->vision};
    int64_t bytes = 0;
    struct stat st;
    for (int i = 0; i < 3 && l->bundle; i++) bytes += files[i] && stat(files[i], &st) == 0 ? st.st_size : 0;
    return l->bundle && bytes < SMALL_BUNDLE;
}

static int available_threads(int asked, const fs_layout *l) {
    if (asked > 0) return asked;
    if (is_small(l)) return 1;
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

/* Likewise of the list of adapters, which is NULL-terminated in the copy. */
static bool own_list(fs_options *o) {
    char **list = o->n_adapters ? fs_alloc_zero(o->n_adapters + 1, sizeof *list) : NULL;
    bool copied = list != NULL || !o->n_adapters;
    for (size_t i = 0; i < o->n_adapters && copied; i++) copied = (list[i] = fs_strdup(o->adapters[i])) != NULL;
    o->adapters = (const char *const *)list;
    if (!list) o->n_adapters = 0;
    return copied;
}

/* Makes the options' strings the detector's own. */
static bool own_strings(fs_options *o) {
    const char **const fields[] = {&o->clip_dir, &o->sam_file, &o->dtg_file, &o->question, &o->lm_file, &o->mmproj_file};
    bool copied = true;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) { /* all of them, even after a failure: freeing must not meet the caller's */
        if (!*fields[i]) continue;
        *fields[i] = fs_strdup(*fields[i]);
        if (!*fields[i]) copied = false;
    }
    return copied;
}

/* The last component of the directory's real path, so that "." has a name too. */
static char *directory_name(const char *dir) {
    char *real = realpath(dir, NULL);
    char *name = fs_strdup(fs_path_base(real ? real : dir));
    free(real);
    return name;
}

fs_status fs_detector_create(const char *model_dir, const fs_options *options, fs_detector **out, fs_error *err) {
    *out = NULL;
    fs_options o = options ? *options : fs_options_defaults();
    fs_status s = check_options(&o, err);
    if (s) return s;
    fs_detector *d = calloc(1, sizeof *d);
    if (!d) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    bool copied = own_strings(&o);
    copied = own_list(&o) && copied; /* both, whatever the first gave */
    d->options = o;
    d->name = directory_name(o.lm_file ? o.lm_file : model_dir);
    if (!copied || !d->name) {
        s = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    if ((s = fs_layout_find(model_dir, &d->options, &d->layout, err))) goto done;
    d->options.threads = available_threads(o.threads, &d->layout);
    if (!d->layout.dte_fdm && !d->layout.mflm) {
        s = fs_fail(err, FS_E_NOT_FOUND,
                    "%s: holds neither DTE-FDM nor MFLM, so it is no FakeShield checkpoint; download huggingface.co/zhipeixu/fakeshield-v1-22b and give its directory",
                    model_dir);
        goto done;
    }
    if (d->layout.dte_fdm && (d->options.sampling.top_k < 0 || d->options.sampling.top_p < 0)) { /* say in results what will be used */
        fs_lm_config config;
        if ((s = fs_lm_config_read(d->layout.dte_fdm, &config, err))) goto done;
        if (d->options.sampling.top_k < 0) d->options.sampling.top_k = config.generation_top_k;
        if (d->options.sampling.top_p < 0) d->options.sampling.top_p = config.generation_top_p;
        fs_lm_config_free(&config);
    }
    if (d->options.sampling.top_p < 0) d->options.sampling.top_p = 1;
    if (d->options.sampling.top_k < 0) d->options.sampling.top_k = 50;
    if ((s = fs_adapters_open(&d->layout, &d->options, d->adapters, err))) goto done;
    if ((s = fs_fingerprint(&d->layout, &d->options, d->fingerprint, err))) goto done;
    if ((s = fs_adapters_fingerprint(d->adapters, d->fingerprint, err))) goto done;
    s = fs_bundle_is_synthetic(&d->layout, &d->synthetic, err);
done:
    if (s) fs_detector_free(d);
    else *out = d;
    return s;
}

void fs_detector_unload(fs_detector *d) {
    fs_dte_fdm_close(d->stage1);
    fs_mflm_close(d->stage2);
    d->stage1 = NULL;
    d->stage2 = NULL;
}

void fs_detector_free(fs_detector *d) {
    if (!d) return;
    fs_prefetch_stop(d->prefetch);
    fs_detector_unload(d);
    for (int i = 0; i < 2; i++) fs_adapter_free(d->adapters[i]);
    for (size_t i = 0; i < d->options.n_adapters; i++) free((void *)(uintptr_t)d->options.adapters[i]);
    free((void *)(uintptr_t)d->options.adapters);
    fs_layout_free(&d->layout);
    free((void *)(uintptr_t)d->options.clip_dir);
    free((void *)(uintptr_t)d->options.sam_file);
    free((void *)(uintptr_t)d->options.dtg_file);
    free((void *)(uintptr_t)d->options.question);
    free((void *)(uintptr_t)d->options.lm_file);
    free((void *)(uintptr_t)d->options.mmproj_file);
    free(d->name);
    free(d);
}

/* ---- fingerprint ---- */

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* "name size sha(first 64 KiB)" of a file; nothing if it is not there. */
static void fingerprint_file(const char *path, const char *name, fs_buffer *out) {
    enum { HEAD = 65536 };
    fs_mapping m = {0};
    char hash[65];
    if (!path || fs_map_file(path, &m, NULL) != FS_OK) return;
    fs_sha256_hex(m.data, m.size < HEAD ? m.size : HEAD, hash);
    fs_buffer_printf(out, "%s %zu %s\n", name, m.size, hash);
    fs_unmap(&m);
}

/* Adds "name size sha(first 64 KiB)" of every file of `dir`, in order of names. */
static fs_status fingerprint_dir(const char *dir, fs_buffer *out, fs_error *err) {
    char **names = NULL;
    size_t n = 0;
    fs_status s = FS_OK;
    DIR *handle = dir ? opendir(dir) : NULL;
    if (!handle) return FS_OK;
    for (struct dirent *e; (e = readdir(handle));) {
        if (e->d_name[0] == '.') continue;
        char **grown = realloc(names, (n + 1) * sizeof *grown);
        if (!grown || (names = grown, !(names[n] = fs_strdup(e->d_name)))) {
            s = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
            goto done;
        }
        n++;
    }
    if (n) qsort(names, n, sizeof *names, by_name);
    for (size_t i = 0; i < n; i++) {
        char *path = fs_path_join(dir, names[i]);
        if (path && !fs_path_is_dir(path)) fingerprint_file(path, names[i], out);
        free(path);
    }
done:
    for (size_t i = 0; i < n; i++) free(names[i]);
    free(names);
    closedir(handle);
    return s;
}

fs_status fs_fingerprint(const fs_layout *l, const fs_options *opt, char out[65], fs_error *err) {
    fs_buffer text = {0};
    fs_status s = FS_OK;
    if (l->pair) {
        fingerprint_file(l->dte_fdm, "lm", &text);
        fingerprint_file(l->vision, "mmproj", &text);
    } else {
        s = fingerprint_dir(l->bundle ? l->root : l->dte_fdm, &text, err);
        if (!s && !l->bundle) s = fingerprint_dir(l->mflm, &text, err);
    }
    fingerprint_file(l->dtg, "DTG", &text);
    if (opt->domain_given) fs_buffer_printf(&text, "domain %d\n", (int)opt->domain);
    if (!s && text.failed) s = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!s) fs_sha256_hex(text.data, text.size, out);
    fs_buffer_free(&text);
    return s;
}

/* ---- stages ---- */

/* Answers written at a time. Each needs its key/value cache: as many as fit in the memory there is beside the weights; if these do not fit
 * anyway, every pass reads them from disk, and sharing it is worth more than what is left of them in memory. */
static int64_t batch_size(const fs_detector *d) {
    enum { AUTOMATIC = 8, TOKENS = 1024 };
    if (d->options.batch > 0) return d->options.batch;
    const int64_t each = fs_dte_fdm_token_bytes(d->stage1, &d->options) * TOKENS, weights = fs_path_bytes(d->layout.dte_fdm), all = fs_memory_available();
    const int64_t room = weights < all ? all - weights : all / 2;
    return each <= 0 || room <= 0 ? 1 : fs_min_i64(AUTOMATIC, fs_max_i64(1, room / 4 * 3 / each));
}

fs_status fs_detector_load(fs_detector *d, int stage, fs_error *err) {
    if (stage != 1 && stage != 2) return fs_fail(err, FS_E_USAGE, "stage %d; there are stages 1 and 2", stage);
    if (stage == 1 ? d->stage1 != NULL : d->stage2 != NULL) return FS_OK;
    if (!d->options.keep_stages) fs_detector_unload(d);
    fs_progress(&d->options.callbacks, stage == 1 ? "stage 1: loading" : "stage 2: loading", 0, 0);
    if (d->options.prefetch) {
        fs_prefetch_stop(d->prefetch);
        d->prefetch = fs_prefetch_start(&d->layout, stage);
    }
    if (d->options.lock_memory) fs_warn_unlockable(&d->layout, stage, &d->options.callbacks);
    fs_adapter *adapter = d->adapters[stage - 1];
    const fs_overlay overlay = adapter ? fs_adapter_overlay(adapter) : (fs_overlay){0};
    if (stage == 2) return fs_mflm_open(&d->layout, &d->options, adapter ? &overlay : NULL, &d->stage2, err);
    const fs_status s = fs_dte_fdm_open(&d->layout, &d->options, adapter ? &overlay : NULL, &d->stage1, err);
    if (!s) d->batch = batch_size(d);
    return s;
}

/* Opening reads configs, headers and shapes and maps the rest, so it is its own best check. */
fs_status fs_detector_check(fs_detector *d, int stage, fs_error *err) {
    if (stage != 1 && stage != 2) return fs_fail(err, FS_E_USAGE, "stage %d; there are stages 1 and 2", stage);
    if (stage == 1 ? d->stage1 != NULL : d->stage2 != NULL) return FS_OK;
    fs_options quiet = d->options;
    quiet.callbacks = (fs_callbacks){0};
    fs_dte_fdm *one = NULL;
    fs_mflm *two = NULL;
    const fs_overlay over = d->adapters[stage - 1] ? fs_adapter_overlay(d->adapters[stage - 1]) : (fs_overlay){0}, *overlay = over.wrap ? &over : NULL;
    fs_status s = stage == 1 ? fs_dte_fdm_open(&d->layout, &quiet, overlay, &one, err) : fs_mflm_open(&d->layout, &quiet, overlay, &two, err);
    fs_dte_fdm_close(one);
    fs_mflm_close(two);
    return s;
}

/* ---- pictures ---- */

static void stamp(const fs_detector *d, fs_result *r) {
    const fs_options *o = &d->options;
    free(r->model);
    r->model = fs_strdup(d->name);
    memcpy(r->fingerprint, d->fingerprint, sizeof r->fingerprint);
    r->precision = o->precision;
    r->sampling = o->sampling;
    r->max_new_tokens = o->max_new_tokens;
    r->prompt_style = o->prompt_style;
    r->kv_cache = o->kv_cache;
    r->question_index = o->question_index;
    r->exif_both = o->exif_both;
    r->verdict_only = o->verdict_only;
    for (int i = 0; i < 2; i++) {
        free(r->adapters[i]);
        r->adapters[i] = d->adapters[i] ? directory_name(fs_adapter_path(d->adapters[i])) : NULL;
    }
    r->threads = o->threads;
    r->force = d->force;
    if (d->synthetic) fs_result_warn(r, "the weights of %s are random (made by synth): everything said here is meaningless", d->name ? d->name : "this bundle");
}

void fs_detector_force(fs_detector *d, const fs_force *force) { d->force = force; }

/* Reads the file once: its hash, its size as stage 2 sees it, and its pixels in one of the two styles. */
static fs_status open_picture(const fs_detector *d, const char *path, fs_decode_style style, fs_result *r, fs_image **im, fs_error *err) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    char sha256[65];
    fs_image_info info = {0};
    fs_decode_options o = fs_decode_options_defaults(style);
    o.max_pixels = d->options.max_pixels;
    o.max_file_bytes = (size_t)d->options.max_file_bytes;
    if (style == FS_DECODE_PIL) o.apply_exif = d->options.exif_both;
    fs_status s = fs_read_file(path, o.max_file_bytes, &bytes, &size, err);
    if (s) return s;
    fs_sha256_hex(bytes, size, sha256);
    s = fs_image_decode(path, bytes, size, &o, im, &info, err);
    free(bytes);
    if (s) return s;
    if (r->sha256[0] && strcmp(r->sha256, sha256) != 0) {
        fs_image_free(*im);
        *im = NULL;
        return fs_fail(err, FS_E_MISMATCH, "%s: the file changed since stage 1 read it; run detect on it again", path);
    }
    memcpy(r->sha256, sha256, sizeof sha256);
    memcpy(r->format, info.format, sizeof r->format);
    r->orientation = info.orientation;
    const bool turned = info.orientation >= 5;
    r->width = turned ? info.height : info.width;
    r->height = turned ? info.width : info.height;
    if (style == FS_DECODE_CV2) r->width = (*im)->width, r->height = (*im)->height;
    return FS_OK;
}

fs_status fs_explain(fs_detector *d, const char *image_path, fs_result **out, fs_error *err) {
    return fs_explain_question(d, image_path, NULL, out, err);
}

/* A picture on its way through stage 1. */
typedef struct explained {
    fs_image *im;
    fs_result *result;
    fs_dte_answer *answer;
    size_t job;
} explained;

/* Up to the first token of the answer. */
static fs_status begin_explaining(fs_detector *d, const char *image_path, const char *question, bool silent, explained *e, fs_error *err) {
    *e = (explained){.result = fs_result_create(image_path)};
    fs_result *r = e->result;
    if (!r) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", image_path);
    if (!question) question = d->options.question;
    stamp(d, r);
    if (question && strcmp(question, fs_prompt_detection_question) != 0) r->question = fs_strdup(question);
    const double t = fs_now();
    fs_status s = open_picture(d, image_path, FS_DECODE_PIL, r, &e->im, err);
    if (s) return s;
    r->times1.decode = fs_now() - t;
    if (r->orientation != 1 && !d->options.exif_both)
        fs_result_warn(r, "the picture is stored turned (EXIF orientation %d): as in the original, stage 1 describes it as stored and the mask is for the upright picture; --exif-both turns it for both",
                       r->orientation);
    s = fs_dte_fdm_begin(d->stage1, e->im, question, &d->options, silent, r, &e->answer, err);
    if (s) fs_error_prefix(err, "%s", image_path);
    fs_image_free(e->im); /* the model has seen it */
    e->im = NULL;
    return s;
}

/* The answer is written: *out is the result. Frees the rest. */
static fs_status end_explaining(explained *e, fs_result **out, fs_error *err) {
    fs_result *r = e->result;
    const fs_status s = fs_dte_fdm_end(e->answer, err);
    e->answer = NULL;
    if (s) {
        fs_error_prefix(err, "%s", r->image);
    } else {
        if (r->text && fs_answer_says_authentic(r->text)) r->mask_status = FS_MASK_AUTHENTIC;
        *out = r;
        e->result = NULL;
    }
    return s;
}

static void drop(explained *e) {
    fs_image_free(e->im);
    fs_result_free(e->result);
    fs_dte_answer_free(e->answer);
    *e = (explained){0};
}

fs_status fs_explain_question(fs_detector *d, const char *image_path, const char *question, fs_result **out, fs_error *err) {
    *out = NULL;
    explained e = {0};
    fs_status s = fs_detector_load(d, 1, err);
    if (s) return s;
    s = begin_explaining(d, image_path, question, false, &e, err);
    while (!s && !fs_dte_answer_done(e.answer))
        if ((s = fs_dte_fdm_step(d->stage1, &e.answer, 1, err))) fs_error_prefix(err, "%s", image_path);
    if (!s) s = end_explaining(&e, out, err);
    drop(&e);
    return s;
}

/* The state of a run over many pictures. */
typedef struct many {
    fs_detector *d;
    fs_explain_job *jobs;
    size_t n, next, count; /* next: the first job not begun; count: those in flight */
    explained flying[FS_MAX_WRITERS];
    void (*finished)(void *user_data, size_t index);
    void *user_data;
} many;

/* Statuses that mean more than one picture's failure. */
static bool ends_run(fs_status s) { return s == FS_E_CANCELLED; }

static void close_job(many *m, explained *e, fs_status s) {
    fs_explain_job *job = &m->jobs[e->job];
    job->status = s;
    if (!s) job->status = end_explaining(e, &job->result, &job->error);
    const size_t index = e->job;
    drop(e);
    if (m->finished) m->finished(m->user_data, index);
}

/* Begins the next picture. */
static fs_status take_next(many *m, bool alone, void (*started)(void *user_data, size_t index), fs_error *err) {
    fs_explain_job *job = &m->jobs[m->next];
    explained *e = &m->flying[m->count];
    if (started) started(m->user_data, m->next);
    const fs_status s = begin_explaining(m->d, job->image_path, job->question, !alone, e, &job->error);
    e->job = m->next;
    if (ends_run(s)) {
        drop(e);
        if (err) *err = job->error;
        return s;
    }
    m->next++;
    if (s) close_job(m, e, s);
    else m->count++;
    return FS_OK;
}

fs_status fs_explain_many(fs_detector *d, fs_explain_job *jobs, size_t n, void (*started)(void *user_data, size_t index),
                          void (*finished)(void *user_data, size_t index), void *user_data, fs_error *err) {
    many m = {.d = d, .jobs = jobs, .n = n, .finished = finished, .user_data = user_data};
    for (size_t i = 0; i < n; i++) {
        jobs[i].result = NULL;
        jobs[i].error = (fs_error){0};
        jobs[i].status = fs_fail(&jobs[i].error, FS_E_CANCELLED, "%s: not examined, the run ended before", jobs[i].image_path);
    }
    if (n == 0) return FS_OK;
    fs_status s = fs_detector_load(d, 1, err);
    if (s) return s;
    const size_t batch = (size_t)fs_min_i64(d->batch, (int64_t)n);
    while (!s && (m.next < n || m.count)) {
        while (!s && m.next < n && m.count < batch) s = take_next(&m, batch == 1, started, err);
        fs_dte_answer *answers[FS_MAX_WRITERS];
        for (size_t i = 0; i < m.count; i++) answers[i] = m.flying[i].answer;
        if (!s && m.count) s = fs_dte_fdm_step(d->stage1, answers, m.count, err);
        if (batch > 1 && m.count) fs_progress(&d->options.callbacks, "writing", (int64_t)(m.next - m.count), (int64_t)n);
        for (size_t i = 0; i < m.count && !s;) {
            if (!fs_dte_answer_done(m.flying[i].answer)) {
                i++;
                continue;
            }
            explained e = m.flying[i];
            m.count--;
            for (size_t k = i; k < m.count; k++) m.flying[k] = m.flying[k + 1]; /* the others keep their order */
            m.flying[m.count] = (explained){0};
            close_job(&m, &e, FS_OK);
        }
    }
    for (size_t i = 0; i < m.count; i++) drop(&m.flying[i]);
    return s;
}

static fs_status localize(fs_detector *d, fs_result *r, const char *text, const float *boxes, size_t n_boxes, fs_error *err) {
    fs_image *im = NULL;
    fs_status s = fs_detector_load(d, 2, err);
    if (s) return s;
    const double t = fs_now();
    if ((s = open_picture(d, r->image, FS_DECODE_CV2, r, &im, err))) return s;
    r->times2.decode = fs_now() - t;
    s = fs_mflm_run(d->stage2, im, text, boxes, n_boxes, &d->options, r, err);
    if (s) fs_error_prefix(err, "%s", r->image);
    fs_image_free(im);
    return s;
}

fs_status fs_localize(fs_detector *d, fs_result *r, fs_error *err) {
    if (r->mask_status == FS_MASK_AUTHENTIC || r->mask_status == FS_MASK_PRESENT || r->mask_status == FS_MASK_NO_SEG) return FS_OK;
    if (!r->text) return fs_fail(err, FS_E_USAGE, "%s: no explanation to localize from; run stage 1 without verdict_only first", r->image);
    r->threads = d->options.threads;
    /* the original's demo hands its text over with the space in front that its command line leaves there (spec 4.7) */
    char *spaced = d->options.prompt_style == FS_PROMPT_DEMO && r->text[0] != ' ' ? fs_format(" %s", r->text) : NULL;
    fs_status s = localize(d, r, spaced ? spaced : r->text, NULL, 0, err);
    free(spaced);
    return s;
}

fs_status fs_localize_text(fs_detector *d, const char *image_path, const char *text, const float *boxes, size_t n_boxes, fs_result **out,
                           fs_error *err) {
    *out = NULL;
    fs_result *r = fs_result_create(image_path);
    if (!r) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", image_path);
    stamp(d, r);
    fs_status s = FS_OK;
    for (size_t i = 0; i < n_boxes && !s; i++) {
        const float *b = boxes + 4 * i;
        if (!(b[0] >= 0 && b[1] >= 0 && b[2] > b[0] && b[3] > b[1] && isfinite(b[2]) && isfinite(b[3])))
            s = fs_fail(err, FS_E_USAGE, "box %zu is %g,%g,%g,%g; expected x0,y0,x1,y1 in pixels with x0 < x1 and y0 < y1", i + 1, (double)b[0],
                        (double)b[1], (double)b[2], (double)b[3]);
    }
    if (!s && !(r->text = fs_strdup(text))) s = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", image_path);
    if (!s) s = fs_answer_parse(text, &r->answer, err);
    if (!s) r->verdict = fs_answer_says_authentic(text) ? FS_VERDICT_AUTHENTIC : fs_answer_verdict(text);
    if (!s && fs_answer_says_authentic(text)) {
        fs_image *im = NULL;
        r->mask_status = FS_MASK_AUTHENTIC;
        s = open_picture(d, image_path, FS_DECODE_CV2, r, &im, err);
        fs_image_free(im);
    } else if (!s) {
        s = localize(d, r, text, boxes, n_boxes, err);
    }
    if (s) fs_result_free(r);
    else *out = r;
    return s;
}

fs_status fs_detect(fs_detector *d, const char *image_path, fs_result **out, fs_error *err) {
    *out = NULL;
    fs_result *r = NULL;
    fs_status s = fs_explain(d, image_path, &r, err);
    if (!s && !d->options.verdict_only) s = fs_localize(d, r, err);
    if (s) fs_result_free(r);
    else *out = r;
    return s;
}

/* ---- going on with an earlier run ---- */

static bool same_text(const char *a, const char *b) { return a == b || (a && b && strcmp(a, b) == 0); }

/* Six decimals are what the JSON keeps. */
static bool same_number(float a, float b) { return fabsf(a - b) < 1e-6f; }

fs_status fs_detector_resume(fs_detector *d, const char *json, const char *image_path, fs_result **out, fs_error *err) {
    *out = NULL;
    fs_result *r = NULL;
    const fs_options *o = &d->options;
    uint8_t *bytes = NULL;
    size_t size = 0;
    char sha256[65];
    fs_status s = fs_result_from_json(json, &r, err);
    if (s) return s;
    if ((s = fs_read_file(image_path, (size_t)o->max_file_bytes, &bytes, &size, err))) goto done;
    fs_sha256_hex(bytes, size, sha256);
    free(bytes);
    const char *question = o->question && strcmp(o->question, fs_prompt_detection_question) != 0 ? o->question : NULL;
    const bool same = strcmp(sha256, r->sha256) == 0 && strcmp(r->fingerprint, d->fingerprint) == 0 && r->precision == o->precision &&
                      same_number(r->sampling.temperature, o->sampling.temperature) && r->sampling.top_k == o->sampling.top_k &&
                      same_number(r->sampling.top_p, o->sampling.top_p) && r->sampling.seed == o->sampling.seed &&
                      r->max_new_tokens == o->max_new_tokens && r->prompt_style == o->prompt_style && r->kv_cache == o->kv_cache &&
                      (r->question_index == o->question_index || o->question_index < 0) && r->exif_both == o->exif_both &&
                      r->verdict_only == o->verdict_only && same_text(r->question, question);
    if (!same) goto done;
    char *path = fs_strdup(image_path);
    if (!path) {
        s = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    free(r->image);
    r->image = path;
    r->threads = o->threads;
    *out = r;
    r = NULL;
done:
    fs_result_free(r);
    return s;
}
