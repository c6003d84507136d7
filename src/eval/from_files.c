/* Rows from what is on disk already: results of `detect`, upstream's JSON Lines with its folder of masks, or any program's maps. */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/eval.h"
#include "eval/lookup.h"
#include "format/json.h"

fs_status fs_eval_missing(const fs_eval_options *opt, fs_eval_info *info, const char *image, fs_error *why) {
    if (opt->missing == FS_EVAL_ERROR) {
        if (!strstr(why->message, image)) fs_error_prefix(why, "%s", image);
        return why->status;
    }
    if (info->missing++ < 20) fs_eval_warn(info, "left out: %s", why->message);
    return FS_OK;
}

static fs_status take_map(const fs_eval_options *opt, fs_eval_info *info, fs_eval_row *row, const char *path, fs_error *err) {
    fs_map_options how = fs_map_options_defaults();
    how.logits = opt->logits;
    fs_map map = {0};
    fs_status status = fs_map_read(path, &how, &map, err);
    if (status) return status;
    free(row->map);
    row->map = fs_strdup(path);
    if (opt->source == FS_EVAL_MAPS && !opt->scores && opt->image_score != FS_IMAGE_SCORE_NONE) {
        double most = 0, sum = 0;
        for (int64_t i = 0; i < map.width * map.height; i++) most = fmax(most, (double)map.score[i]), sum += (double)map.score[i];
        row->has_score = true;
        row->score = opt->image_score == FS_IMAGE_SCORE_MAX ? most : sum / (double)(map.width * map.height);
    }
    status = fs_eval_row_locate(opt, info, row, &map, err);
    fs_map_free(&map);
    return status;
}

/* ---- results of detect ---- */

fs_status fs_eval_row_from_result(const fs_eval_options *opt, fs_eval_info *info, fs_eval_row *row, const char *json, const char *where,
                                  const char *soft, const char *mask, fs_error *err) {
    fs_result *r = NULL;
    fs_status status = fs_result_from_json(json, &r, err);
    if (status) return fs_error_prefix(err, "%s", where);
    const fs_mask_status m = fs_result_mask_status(r);
    row->has_score = !isnan(fs_result_score(r));
    row->score = fs_result_score(r);
    row->undetermined = !opt->text && fs_result_verdict(r) == FS_VERDICT_UNDETERMINED;
    fs_eval_note_calibration(info, r);
    if (opt->text) { /* what the run itself gave is no answer */
    } else if (*fs_result_text(r)) {
        status = fs_eval_row_take_text(row, fs_result_text(r), err);
    } else if (fs_result_verdict(r) != FS_VERDICT_UNDETERMINED) { /* verdict only */
        row->answered = true;
        row->literal = row->tolerant = fs_result_verdict(r);
    }
    if (!status && m == FS_MASK_AUTHENTIC) {
        status = fs_eval_row_locate(opt, info, row, NULL, err);
    } else if (!status && (m == FS_MASK_PRESENT || m == FS_MASK_NO_SEG)) {
        const char *path = soft && fs_path_exists(soft) ? soft : mask;
        if (path && fs_path_exists(path))
            status = take_map(opt, info, row, path, err);
        else
            status = fs_fail(err, FS_E_NOT_FOUND, "%s: its mask %s is not there", where, mask ? mask : "");
    }
    if (!status) status = fs_eval_row_true_words(opt, row, err);
    fs_result_free(r);
    return status;
}

typedef struct answer {
    char sha256[65];
    char *name, *where, *json, *soft, *mask; /* name: base name of the picture as the result has it */
} answer;
typedef struct answers {
    answer *items;
    size_t count, room;
    const fs_eval_options *opt;
    fs_eval_info *info;
    const char *path;
} answers;

static void answers_free(answers *a) {
    for (size_t i = 0; i < a->count; i++)
        free(a->items[i].name), free(a->items[i].where), free(a->items[i].json), free(a->items[i].soft), free(a->items[i].mask);
    free(a->items);
    a->items = NULL;
    a->count = 0;
}

/* "x_mask.png" -> "x_soft.png" */
static char *soft_beside(const char *mask) {
    static const char ending[] = "_mask.png";
    const size_t n = strlen(mask), m = sizeof ending - 1;
    return n > m && strcmp(mask + n - m, ending) == 0 ? fs_format("%.*s_soft.png", (int)(n - m), mask) : NULL;
}

/* The model's name and settings, from the first result; others must agree. */
static void note_model(fs_eval_info *info, const fs_json *j) {
    fs_json model = {0};
    const char *name = NULL, *fingerprint = NULL;
    json_t *settings = json_object_get(j->root, "settings");
    if (fs_json_object(j, "model", FS_JSON_OPTIONAL, &model, NULL) == FS_OK && model.root) {
        fs_json_string(&model, "name", FS_JSON_OPTIONAL, &name, NULL);
        fs_json_string(&model, "fingerprint", FS_JSON_OPTIONAL, &fingerprint, NULL);
    }
    if (!*info->fingerprint && fingerprint) {
        free(info->model);
        info->model = fs_strdup(name ? name : "");
        snprintf(info->fingerprint, sizeof info->fingerprint, "%s", fingerprint);
        if (settings) json_object_set(info->settings, "detector", settings);
    } else if (fingerprint && strcmp(info->fingerprint, fingerprint) != 0) {
        if (!json_object_get(info->settings, "mixed_models")) fs_eval_warn(info, "the results are of more than one checkpoint or setting");
        json_object_set_new(info->settings, "mixed_models", json_true());
    }
    fs_json_close(&model);
}

/* One result. folder: where its files are if its paths are bare; base: path of the .json without ".json", or NULL for a line. */
static fs_status add_answer(answers *a, const char *where, const char *text, size_t n, const char *base, fs_error *err) {
    fs_json j = {0}, mask = {0};
    const char *sha = "", *image = "", *path = NULL;
    answer x = {0};
    fs_status status = fs_json_parse(where, text, n, &j, err);
    if (!status) status = fs_json_string(&j, "sha256", FS_JSON_REQUIRED, &sha, err);
    if (!status) status = fs_json_string(&j, "image", FS_JSON_REQUIRED, &image, err);
    if (!status) status = fs_json_object(&j, "mask", FS_JSON_OPTIONAL, &mask, err);
    if (!status && mask.root) status = fs_json_string(&mask, "path", FS_JSON_OPTIONAL, &path, err);
    if (status) goto done;
    note_model(a->info, &j);
    snprintf(x.sha256, sizeof x.sha256, "%s", sha);
    x.name = fs_strdup(fs_path_base(image));
    x.where = fs_strdup(where);
    x.json = fs_format("%.*s", (int)n, text);
    if (a->opt->masks && path)
        x.mask = fs_path_join(a->opt->masks, fs_path_base(path));
    else if (base)
        x.mask = fs_format("%s_mask.png", base);
    else if (path)
        x.mask = fs_strdup(path);
    if (x.mask) x.soft = soft_beside(x.mask);
    if (a->count == a->room) {
        size_t room = a->room ? a->room * 2 : 64, bytes;
        answer *items = fs_mul_size(room, sizeof *items, &bytes) ? realloc(a->items, bytes) : NULL;
        if (items) a->items = items, a->room = room;
    }
    if (!x.name || !x.where || !x.json || a->count == a->room) {
        free(x.name), free(x.where), free(x.json), free(x.mask), free(x.soft);
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", where);
        goto done;
    }
    a->items[a->count++] = x;
done:
    fs_json_close(&mask);
    fs_json_close(&j);
    if (status == FS_E_NOT_FOUND || status == FS_E_MISMATCH) {
        status = FS_E_FORMAT;
        if (err) err->status = status;
    }
    return status;
}

static fs_status add_line(void *user, size_t number, const char *line, size_t n, fs_error *err) {
    answers *a = user;
    char *where = fs_format("%s:%zu", a->path, number);
    fs_status status = where ? add_answer(a, where, line, n, NULL, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(where);
    return status;
}

static fs_status add_folder(answers *a, const char *dir, int depth, fs_error *err) {
    fs_names files = {0}, folders = {0};
    fs_status status = fs_names_read(dir, 'f', &files, NULL, err);
    if (!status) status = fs_names_read(dir, 'd', &folders, NULL, err);
    for (size_t i = 0; i < files.count && !status; i++) {
        const size_t n = strlen(files.items[i]);
        uint8_t *data = NULL;
        size_t size = 0;
        if (n < 6 || strcmp(files.items[i] + n - 5, ".json") != 0) continue;
        char *path = fs_path_join(dir, files.items[i]), *base = fs_format("%s/%.*s", dir, (int)n - 5, files.items[i]);
        status = path && base ? fs_read_file(path, 64 << 20, &data, &size, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        if (!status) status = add_answer(a, path, (const char *)data, size, base, err);
        free(data);
        free(path);
        free(base);
    }
    for (size_t i = 0; i < folders.count && !status && depth < 16; i++) {
        char *path = fs_path_join(dir, folders.items[i]);
        status = path ? add_folder(a, path, depth + 1, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        free(path);
    }
    fs_names_free(&files);
    fs_names_free(&folders);
    return status;
}

static int by_picture(const void *a, const void *b) {
    const answer *x = a, *y = b;
    const int order = strcmp(x->sha256, y->sha256);
    return order ? order : strcmp(x->name, y->name);
}

/* The result about a picture of these bytes, of that name if there are several. */
static const answer *find_answer(const answers *a, const char *sha256, const char *name) {
    size_t low = 0, high = a->count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if (strcmp(a->items[middle].sha256, sha256) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    const answer *first = low < a->count && strcmp(a->items[low].sha256, sha256) == 0 ? &a->items[low] : NULL;
    for (; low < a->count && strcmp(a->items[low].sha256, sha256) == 0; low++)
        if (strcmp(a->items[low].name, name) == 0) return &a->items[low];
    return first;
}

/* ---- scores of other programs ---- */

typedef struct score_list {
    fs_names names;
    double *score;
    size_t room;
    const char *path;
} score_list;

static fs_status add_score(void *user, size_t number, const char *line, size_t n, fs_error *err) {
    score_list *l = user;
    char *copy = fs_format("%.*s", (int)n, line), *comma = copy ? strrchr(copy, ',') : NULL, *end = NULL;
    fs_status status = FS_OK;
    if (!comma) {
        status = fs_fail(err, FS_E_FORMAT, "%s:%zu: expected NAME,SCORE", l->path, number);
        goto done;
    }
    *comma = 0;
    const double v = strtod(comma + 1, &end); /* "nan" is a number here and is dealt with by policy */
    const bool number_there = end && end != comma + 1;
    while (number_there && (*end == ' ' || *end == '\r')) end++;
    if (!number_there || *end) {
        if (number != 1) status = fs_fail(err, FS_E_FORMAT, "%s:%zu: \"%s\" is no number", l->path, number, comma + 1);
        goto done; /* the first line may be a heading */
    }
    if (l->names.count == l->room) {
        size_t room = l->room ? l->room * 2 : 64, bytes;
        double *score = fs_mul_size(room, sizeof *score, &bytes) ? realloc(l->score, bytes) : NULL;
        if (score) l->score = score, l->room = room;
    }
    if (l->names.count == l->room || !fs_names_add(&l->names, copy))
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", l->path);
    else
        l->score[l->names.count - 1] = v;
done:
    free(copy);
    return status;
}

/* By "set/name", name, or name without extension. */
static bool find_score(const score_list *l, const fs_eval_row *row, double *out) {
    const size_t stem = fs_data_stem(row->name, false);
    for (size_t i = 0; i < l->names.count; i++) {
        const char *name = l->names.items[i], *base = fs_path_base(name);
        const size_t n = strlen(name), m = strlen(row->image);
        const bool whole = n <= m && strcmp(row->image + m - n, name) == 0 && (n == m || row->image[m - n - 1] == '/');
        if (whole || (base == name && strlen(name) == stem && strncmp(name, row->name, stem) == 0)) return *out = l->score[i], true;
    }
    return false;
}

/* ---- all pictures ---- */

typedef struct sources {
    answers answers;
    fs_lines lines;
    score_list scores;
    fs_map_folder folder;
    const char *folder_set; /* whose folder is open */
    bool one_map;           /* opt->masks is a file: the answer for every picture */
} sources;

static fs_status from_upstream(const fs_eval_options *opt, fs_eval_info *info, sources *s, fs_eval_row *row, fs_error *err) {
    const fs_lines_entry *line = NULL;
    char *path = NULL;
    fs_status status = fs_lines_find(&s->lines, row->image, &line, err);
    if (status) return status;
    if (!line) return fs_fail(err, FS_E_NOT_FOUND, "%s: %s has no record of it", row->image, opt->results);
    if ((status = fs_eval_row_take_text(row, line->text, err))) return status;
    if (!opt->masks) return fs_eval_row_true_words(opt, row, err);
    if (row->literal == FS_VERDICT_AUTHENTIC) return fs_eval_row_locate(opt, info, row, NULL, err); /* upstream writes no file then */
    status = fs_map_folder_find(&s->folder, row->name, &path, err);
    if (!status && !path) status = fs_fail(err, FS_E_NOT_FOUND, "%s: no mask of it in %s", row->image, s->folder.dir);
    if (!status) status = take_map(opt, info, row, path, err);
    free(path);
    return status;
}

static fs_status from_maps(const fs_eval_options *opt, fs_eval_info *info, sources *s, fs_eval_row *row, fs_error *err) {
    char *path = NULL;
    fs_status status = FS_OK;
    if (opt->scores) {
        row->has_score = find_score(&s->scores, row, &row->score);
        if (!row->has_score) return fs_fail(err, FS_E_NOT_FOUND, "%s: %s has no score of it", row->image, opt->scores);
    }
    if (!opt->masks) return FS_OK;
    if (s->one_map) return take_map(opt, info, row, opt->masks, err);
    status = fs_map_folder_find(&s->folder, row->name, &path, err);
    /* authentic pictures need no map: programs are often run on the forged ones alone */
    if (!status && !path && row->tampered) status = fs_fail(err, FS_E_NOT_FOUND, "%s: no map of it in %s", row->image, s->folder.dir);
    if (!status && path) status = take_map(opt, info, row, path, err);
    free(path);
    return status;
}

static fs_status one_row(const fs_eval_options *opt, fs_eval_info *info, sources *s, fs_eval_row *row, fs_error *err) {
    if (opt->masks && !s->one_map && opt->source != FS_EVAL_RESULTS && (!s->folder_set || strcmp(s->folder_set, row->set) != 0)) {
        fs_map_folder_free(&s->folder);
        fs_status status = fs_map_folder_open(opt->masks, row->set, &s->folder, err);
        if (status) return status;
    }
    if (opt->source == FS_EVAL_UPSTREAM) return from_upstream(opt, info, s, row, err);
    if (opt->source == FS_EVAL_MAPS) return from_maps(opt, info, s, row, err);
    const answer *a = find_answer(&s->answers, row->sha256, row->name);
    if (!a)
        return fs_fail(err, FS_E_NOT_FOUND, "%s: no result about this picture in %s (compared by the bytes' SHA-256)", row->image,
                       opt->results);
    return fs_eval_row_from_result(opt, info, row, a->json, a->where, a->soft, a->mask, err);
}

static fs_status open_sources(const fs_eval_options *opt, fs_eval_info *info, sources *s, fs_error *err) {
    static const char *const keys[] = {"outputs", NULL};
    fs_status status = FS_OK;
    s->answers = (answers){.opt = opt, .info = info, .path = opt->results};
    s->scores.path = opt->scores;
    if (opt->source == FS_EVAL_MAPS) {
        if (!opt->masks && !opt->scores) return fs_fail(err, FS_E_USAGE, "a folder of maps or a file of scores is needed");
        return opt->scores ? fs_each_line(opt->scores, add_score, &s->scores, err) : FS_OK;
    }
    if (!opt->results) return fs_fail(err, FS_E_USAGE, "no results given: a folder or JSON Lines");
    if (opt->source == FS_EVAL_UPSTREAM) return fs_lines_read(opt->results, keys, &s->lines, err);
    if (fs_path_is_dir(opt->results))
        status = add_folder(&s->answers, opt->results, 0, err);
    else
        status = fs_each_line(opt->results, add_line, &s->answers, err);
    if (!status && !s->answers.count) status = fs_fail(err, FS_E_NOT_FOUND, "%s: no result in it", opt->results);
    if (s->answers.count) qsort(s->answers.items, s->answers.count, sizeof *s->answers.items, by_picture);
    return status;
}

fs_status fs_eval_from_files(const fs_eval_options *options, const fs_eval_data *d, fs_eval_book *book, fs_error *err) {
    fs_eval_options with_one_map = *options, *opt = &with_one_map;
    sources s = {.one_map = options->source == FS_EVAL_MAPS && options->masks && !fs_path_is_dir(options->masks)};
    fs_error why = {0};
    opt->resize_mask = opt->resize_mask || s.one_map; /* no picture's own, so none has its size but by chance */
    fs_status status = open_sources(opt, &book->info, &s, err);
    for (size_t i = 0; i < d->set.count && !status; i++) {
        if (!fs_eval_in_shard(opt, i)) continue;
        fs_progress(&opt->callbacks, "comparing", (int64_t)i, (int64_t)d->set.count);
        if (fs_cancelled(&opt->callbacks)) {
            status = fs_fail(err, FS_E_CANCELLED, "stopped");
            break;
        }
        fs_eval_row *row = fs_eval_rows_add(&book->rows);
        if (!row) {
            status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
            break;
        }
        status = fs_eval_row_begin(d, i, "", row, &why);
        if (!status) status = one_row(opt, &book->info, &s, row, &why);
        s.folder_set = d->set_names[d->set.records[i].set];
        if (status == FS_E_NOT_FOUND) {
            const fs_status policy = fs_eval_missing(opt, &book->info, row->image ? row->image : "", &why);
            if (!policy) fs_eval_row_free(row), book->rows.count--;
            status = policy;
        }
        if (status && err) *err = why;
    }
    answers_free(&s.answers);
    fs_lines_free(&s.lines);
    fs_map_folder_free(&s.folder);
    fs_names_free(&s.scores.names);
    free(s.scores.score);
    return status;
}
