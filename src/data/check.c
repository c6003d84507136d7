/* dataset check: reads every picture and mask of a tree on all cores, then hands over to check_findings.c and check_report.c. */
#include "data/check.h"

#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

fs_dataset_check_options fs_dataset_check_options_defaults(void) {
    return (fs_dataset_check_options){.near_bits = 3};
}

/* ---- what each set is for ------------------------------------------------------------------------------------------ */

/* Is `name` one of the comma-separated `list`? */
static bool is_listed(const char *list, const char *name) {
    const size_t n = strlen(name);
    for (const char *p = list; *p; p += *p == ',') {
        const size_t m = strcspn(p, ",");
        if (m == n && strncmp(p, name, n) == 0) return true;
        p += m;
    }
    return false;
}

static fs_status check_test_sets(const check_state *s, fs_error *err) {
    for (const char *p = s->opt->test_sets; p && *p; p += *p == ',') {
        const size_t n = strcspn(p, ",");
        bool found = false;
        for (size_t i = 0; i < s->tree.n_sets && !found; i++)
            found = strlen(s->tree.sets[i].name) == n && strncmp(s->tree.sets[i].name, p, n) == 0;
        if (!found) return fs_fail(err, FS_E_NOT_FOUND, "%s: no set \"%.*s\" here, which is named as a test set", s->dir, (int)n, p);
        p += n;
    }
    return FS_OK;
}

static check_role role_of(const fs_data_set *set, const fs_dataset_check_options *opt) {
    if (opt->test_sets) return is_listed(opt->test_sets, set->name) ? CHECK_TEST : CHECK_TRAIN;
    if (opt->against) return CHECK_TRAIN;
    const bool train = set->texts[FS_TEXTS_TRAIN_OUTPUT] || set->texts[FS_TEXTS_TRAIN_GT];
    const bool val = set->texts[FS_TEXTS_VAL_OUTPUT] || set->texts[FS_TEXTS_VAL_GT];
    if (strcasestr(set->name, "train")) return CHECK_TRAIN;
    if (strcasestr(set->name, "test") || strcasestr(set->name, "val")) return CHECK_TEST;
    return train == val ? CHECK_UNKNOWN : train ? CHECK_TRAIN : CHECK_TEST;
}

/* ---- the list of files --------------------------------------------------------------------------------------------- */

static void list_record(check_state *s, const fs_data_record *r, bool second) {
    const check_role role = second ? CHECK_TEST : s->roles[r->set];
    s->files[s->n_files++] = (check_file){.path = r->image, .record = r, .set = r->set, .second = second, .role = role};
    if (r->mask && !second) s->files[s->n_files++] = (check_file){.path = r->mask, .record = r, .set = r->set, .mask = true, .role = role};
}

static fs_status list_files(check_state *s, fs_error *err) {
    size_t most = 2 * s->tree.count + s->tree.n_problems + s->against.count + 1;
    s->files = fs_alloc_zero(most, sizeof *s->files);
    s->roles = fs_alloc_zero(s->tree.n_sets + 1, sizeof *s->roles);
    if (!s->files || !s->roles) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory for a list of %zu files", s->dir, most);
    for (size_t i = 0; i < s->tree.n_sets; i++) s->roles[i] = role_of(&s->tree.sets[i], s->opt);
    for (size_t i = 0; i < s->tree.count; i++) list_record(s, &s->tree.records[i], false);
    for (size_t i = 0; i < s->tree.n_problems; i++) { /* without a partner, but a file to read */
        const fs_data_problem *p = &s->tree.problems[i];
        if (p->kind != FS_DATA_IMAGE_ALONE && p->kind != FS_DATA_MASK_ALONE) continue;
        s->files[s->n_files++] =
            (check_file){.path = p->path, .set = p->set, .mask = p->kind == FS_DATA_MASK_ALONE, .role = s->roles[p->set]};
    }
    for (size_t i = 0; i < s->against.count; i++) list_record(s, &s->against.records[i], true);
    return FS_OK;
}

/* ---- reading them -------------------------------------------------------------------------------------------------- */

static fs_status scan_picture(check_file *f, const uint8_t *data, size_t size, fs_error *err) {
    const fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_CV2); /* stage 2's view, which the mask must fit */
    fs_image *im = NULL;
    fs_status status = fs_image_decode(f->path, data, size, &opt, &im, NULL, err);
    if (status) return status;
    f->width = im->width, f->height = im->height;
    fs_sha256_hex(data, size, f->print.file);
    fs_pixels_sha256(im, f->print.pixels);
    f->print.look = fs_dhash(im, &f->print.flat);
    fs_image_free(im);
    return FS_OK;
}

static fs_status scan_mask(check_file *f, const uint8_t *data, size_t size, fs_error *err) {
    fs_mask m;
    fs_status status = fs_mask_decode(f->path, data, size, &m, err);
    if (status) return status;
    f->width = m.width, f->height = m.height, f->coloured = m.coloured;
    f->values = fs_mask_count(&m);
    fs_mask_clear(&m);
    return FS_OK;
}

static void scan_file(check_file *f) {
    const fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_error why = {0};
    uint8_t *data = NULL;
    size_t size = 0;
    f->status = fs_read_file(f->path, opt.max_file_bytes, &data, &size, &why);
    if (!f->status) f->status = f->mask ? scan_mask(f, data, size, &why) : scan_picture(f, data, size, &why);
    if (f->status) f->error = fs_strdup(why.message);
    free(data);
}

int check_threads(const check_state *s) {
    return s->opt->threads > 0 ? s->opt->threads : omp_get_max_threads();
}

static fs_status scan(check_state *s, fs_error *err) {
    const fs_callbacks *cb = &s->opt->callbacks;
    atomic_size_t next = 0, done = 0;
    atomic_bool stop = false;
#pragma omp parallel num_threads(check_threads(s))
    {
        for (size_t i; !atomic_load(&stop) && (i = atomic_fetch_add(&next, 1)) < s->n_files;) {
            scan_file(&s->files[i]);
            const size_t finished = atomic_fetch_add(&done, 1) + 1;
            if (omp_get_thread_num() != 0) continue; /* callbacks belong to the caller's thread */
            fs_progress(cb, "reading pictures and masks", (int64_t)finished, (int64_t)s->n_files);
            if (fs_cancelled(cb)) atomic_store(&stop, true);
        }
    }
    if (atomic_load(&stop) || fs_cancelled(cb)) return fs_fail(err, FS_E_CANCELLED, "stopped");
    for (size_t i = 0; i < s->n_files; i++)
        if (s->files[i].status == FS_E_NO_MEMORY)
            return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory; fewer threads need less", s->files[i].path);
    return FS_OK;
}

/* ---- the public call ----------------------------------------------------------------------------------------------- */

static void clear(check_state *s) {
    for (size_t i = 0; i < s->n_files; i++) free(s->files[i].error);
    for (size_t i = 0; i < s->n_findings; i++) free(s->findings[i].path), free(s->findings[i].message);
    free(s->files), free(s->roles), free(s->findings);
    fs_dataset_free(&s->tree), fs_dataset_free(&s->against);
}

fs_status fs_dataset_check(const char *dir, const fs_dataset_check_options *options, char **json, char **text, size_t *errors,
                           fs_error *err) {
    const fs_dataset_check_options defaults = fs_dataset_check_options_defaults();
    fs_data_options read = fs_data_options_defaults();
    check_state s = {.opt = options ? options : &defaults, .dir = dir};
    if (json) *json = NULL;
    if (text) *text = NULL;
    if (errors) *errors = 0;
    read.keep_problems = true;
    if (s.opt->near_bits > 16)
        return fs_fail(err, FS_E_USAGE, "%d bits may differ of near duplicates; expected 0 to 16, or -1", s.opt->near_bits);
    fs_status status = fs_dataset_open(dir, &read, &s.tree, err);
    if (!status) status = check_test_sets(&s, err);
    if (!status && s.opt->against) {
        read.texts = FS_TEXTS_NONE;
        status = fs_dataset_open(s.opt->against, &read, &s.against, err);
    }
    if (!status) status = list_files(&s, err);
    if (!status && !s.opt->names_only) status = scan(&s, err);
    if (!status) status = check_judge(&s, err);
    if (!status && json && !(*json = check_json(&s))) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory for the report", dir);
    if (!status && text && !(*text = check_text(&s))) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory for the report", dir);
    if (!status && errors) *errors = check_errors(&s);
    if (status && json) free(*json), *json = NULL;
    clear(&s);
    return status;
}
