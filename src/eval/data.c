/* The data of a run, and what each row begins with: names, label, hashes, and the truth against a map. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "eval/words.h"
#include "image/image.h"
#include "text/text.h"

/* ---- names of sets in the tables ---- */

/* "CASIA1_Tp" -> length of "CASIA1": sets of tampered and authentic pictures are told apart by such endings. */
static size_t plain_length(const char *name) {
    static const char *const endings[] = {"tp", "au", "tampered", "authentic", "forged", "fake", "real", "original"};
    const size_t n = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        const size_t m = strlen(endings[i]);
        if (n > m + 1 && strchr("_-", name[n - m - 1]) && strcasecmp(name + n - m, endings[i]) == 0) return n - m - 1;
    }
    return n;
}

/* Is `name` one of the comma-separated words in [p, end)? */
static bool listed(const char *p, const char *end, const char *name) {
    while (p < end) {
        const char *comma = memchr(p, ',', (size_t)(end - p));
        const char *stop = comma ? comma : end;
        if ((size_t)(stop - p) == strlen(name) && memcmp(p, name, (size_t)(stop - p)) == 0) return true;
        p = stop + 1;
    }
    return false;
}

/* The name that "CASIA1+=CASIA1_Tp,CASIA1_Au;..." gives a set, or NULL. malloc'ed. */
static char *joined_name(const char *join, const char *name) {
    for (const char *p = join; *p;) {
        const char *end = strchrnul(p, ';'), *equals = memchr(p, '=', (size_t)(end - p));
        if (equals && listed(equals + 1, end, name)) return fs_format("%.*s", (int)(equals - p), p);
        p = *end ? end + 1 : end;
    }
    return NULL;
}

static fs_status check_join(const char *join, fs_error *err) {
    for (const char *p = join; p && *p;) {
        const char *end = strchrnul(p, ';'), *equals = memchr(p, '=', (size_t)(end - p));
        if (!equals || equals == p || equals + 1 == end)
            return fs_fail(err, FS_E_USAGE, "join: \"%s\": expected NAME=SET,SET[;NAME=SET,...], e.g. CASIA1+=CASIA1_Tp,CASIA1_Au", join);
        p = *end ? end + 1 : end;
    }
    return FS_OK;
}

static fs_status name_sets(const fs_eval_options *opt, fs_eval_data *d, fs_error *err) {
    const fs_dataset *s = &d->set;
    d->set_names = fs_alloc_zero(s->n_sets, sizeof *d->set_names);
    d->groups = fs_alloc_zero(s->n_sets, sizeof *d->groups);
    bool memory = d->set_names && d->groups;
    for (size_t i = 0; i < s->n_sets && memory; i++) {
        d->set_names[i] = fs_format("%s/%s", s->sets[i].type, s->sets[i].name);
        d->groups[i] = opt->join ? joined_name(opt->join, s->sets[i].name) : NULL;
        if (!d->groups[i])
            d->groups[i] = fs_format("%.*s", (int)(opt->join ? strlen(s->sets[i].name) : plain_length(s->sets[i].name)), s->sets[i].name);
        memory = d->set_names[i] && d->groups[i];
    }
    for (size_t i = 0; i < s->n_sets && memory && !opt->join; i++) { /* "test" of two types is not one set */
        bool shared = false;
        for (size_t k = 0; k < s->n_sets; k++)
            shared |= strcmp(s->sets[i].type, s->sets[k].type) != 0 && plain_length(s->sets[i].name) == plain_length(s->sets[k].name) &&
                      strncmp(s->sets[i].name, s->sets[k].name, plain_length(s->sets[i].name)) == 0;
        if (!shared) continue;
        free(d->groups[i]);
        d->groups[i] = fs_format("%s/%.*s", s->sets[i].type, (int)plain_length(s->sets[i].name), s->sets[i].name);
        memory = d->groups[i] != NULL;
    }
    return memory ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "no memory for the names of %zu sets", s->n_sets);
}

/* ---- opening ---- */

fs_status fs_eval_data_open(const fs_eval_options *opt, fs_eval_data *out, fs_error *err) {
    *out = (fs_eval_data){0};
    fs_data_options how = fs_data_options_defaults();
    how.texts = FS_TEXTS_NONE;
    if (!opt->data || !*opt->data) return fs_fail(err, FS_E_USAGE, "no data given; an evaluation needs the folder of pictures and masks");
    fs_status status = check_join(opt->join, err);
    if (!status)
        status =
            opt->sets ? fs_dataset_open_spec(opt->data, opt->sets, &how, &out->set, err) : fs_dataset_open(opt->data, &how, &out->set, err);
    if (!status) status = name_sets(opt, out, err);
    if (status) fs_eval_data_free(out);
    return status;
}

void fs_eval_data_free(fs_eval_data *d) {
    for (size_t i = 0; i < d->set.n_sets; i++) {
        if (d->set_names) free(d->set_names[i]);
        if (d->groups) free(d->groups[i]);
    }
    free(d->set_names);
    free(d->groups);
    fs_dataset_free(&d->set);
    *d = (fs_eval_data){0};
}

bool fs_eval_in_shard(const fs_eval_options *opt, size_t index) {
    return opt->shards < 2 || index % (size_t)opt->shards == (size_t)opt->shard - 1;
}

/* ---- rows ---- */

static fs_status hash_file(const char *path, char out[65], fs_error *err) {
    fs_mapping m;
    fs_status status = fs_map_file(path, &m, err);
    if (status) return status;
    fs_sha256_hex(m.data, m.size, out);
    fs_unmap(&m);
    return FS_OK;
}

fs_status fs_eval_row_begin(const fs_eval_data *d, size_t index, const char *condition, fs_eval_row *out, fs_error *err) {
    const fs_data_record *r = &d->set.records[index];
    out->index = (int64_t)index;
    out->condition = fs_strdup(condition);
    out->set = fs_eval_copy_text(d->set_names[r->set]);
    out->group = fs_eval_copy_text(d->groups[r->set]);
    out->name = fs_eval_copy_text(fs_path_base(r->image));
    out->image = fs_strdup(r->image);
    out->mask = fs_strdup(r->mask);
    out->tampered = r->label == FS_VERDICT_TAMPERED;
    if (!out->condition || !out->set || !out->group || !out->name || !out->image || (r->mask && !out->mask))
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", r->image);
    fs_status status = hash_file(r->image, out->sha256, err);
    return !status && r->mask ? hash_file(r->mask, out->mask_sha256, err) : status;
}

/* What a mask without a file would be: all authentic, at the map's size. */
static fs_status truth_of(const fs_eval_options *opt, const fs_eval_row *row, const fs_map *map, uint8_t **truth, int64_t *w, int64_t *h,
                          fs_error *err) {
    if (row->mask) return fs_truth_read(row->mask, opt->invert_truth, truth, w, h, NULL, err);
    *w = map->width;
    *h = map->height;
    *truth = fs_alloc_zero((size_t)*w * (size_t)*h, 1);
    return *truth ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its mask", row->image);
}

fs_status fs_eval_row_locate(const fs_eval_options *opt, fs_eval_info *info, fs_eval_row *row, fs_map *map, fs_error *err) {
    uint8_t *truth = NULL;
    int64_t w = 0, h = 0;
    row->silent = !map;
    if (!map && !row->mask) { /* an authentic picture that was called so */
        row->located = true;
        row->pixels = (fs_pixel_scores){.iou = 1, .f1 = 1, .best_iou = 1, .best_f1 = 1, .best_threshold = NAN, .auc = NAN, .binary = true};
        return FS_OK;
    }
    fs_status status = truth_of(opt, row, map, &truth, &w, &h, err);
    if (status) goto done;
    row->width = w;
    row->height = h;
    if (row->tampered) row->truth_words = fs_eval_words_of(truth, w, h);
    if (!map) {
        fs_pixel_score_nothing(truth, w, h, &row->pixels);
    } else {
        if (map->width != w || map->height != h) {
            if (!opt->resize_mask && !row->step) {
                status = fs_fail(err, FS_E_MISMATCH,
                                 "%s: the map is %lld x %lld pixels, the mask %s %lld x %lld; they must agree, or give --resize-mask",
                                 row->map ? row->map : row->image, (long long)map->width, (long long)map->height, row->mask, (long long)w,
                                 (long long)h);
                goto done;
            }
            if ((status = fs_map_resize(map, w, h, err))) goto done;
            info->resized++;
        }
        if ((status = fs_pixel_score(map->score, truth, w, h, &row->pixels, err))) {
            fs_error_prefix(err, "%s", row->map ? row->map : row->image);
            goto done;
        }
    }
    row->located = true;
done:
    free(truth);
    return status;
}

fs_status fs_eval_row_take_text(fs_eval_row *row, const char *text, fs_error *err) {
    row->answered = true;
    row->literal = fs_answer_says_authentic(text) ? FS_VERDICT_AUTHENTIC : FS_VERDICT_TAMPERED;
    row->tolerant = fs_answer_verdict(text);
    row->text = fs_eval_copy_text(text);
    return row->text ? fs_eval_words_read(row->text, &row->said_words, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", row->image);
}

fs_status fs_eval_row_true_words(const fs_eval_options *opt, fs_eval_row *row, fs_error *err) {
    uint8_t *truth = NULL;
    int64_t w = 0, h = 0;
    if (row->located || !row->tampered || !row->text || !row->mask) return FS_OK;
    fs_status status = fs_truth_read(row->mask, opt->invert_truth, &truth, &w, &h, NULL, err);
    if (!status) row->truth_words = fs_eval_words_of(truth, w, h);
    free(truth);
    return status;
}
