/* Rows in memory and as JSON. Numbers are written with 17 digits, so that reading them back gives the same double. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/mask_words.h"
#include "eval/words.h"
#include "format/json.h"
#include "text/utf8.h"

fs_eval_row fs_eval_row_empty(void) {
    return (fs_eval_row){.score = NAN, .css = NAN, .css_other = NAN, .truth_words = {-1, -1}, .said_words = {-1, -1}};
}

fs_eval_row *fs_eval_rows_add(fs_eval_rows *rows) {
    if (rows->count == rows->room) {
        size_t room = rows->room ? rows->room * 2 : 64, bytes;
        fs_eval_row *items = fs_mul_size(room, sizeof *items, &bytes) ? realloc(rows->items, bytes) : NULL;
        if (!items) return NULL;
        rows->items = items;
        rows->room = room;
    }
    fs_eval_row *r = &rows->items[rows->count++];
    *r = fs_eval_row_empty();
    return r;
}

void fs_eval_row_free(fs_eval_row *r) {
    free(r->condition);
    free(r->set);
    free(r->group);
    free(r->name);
    free(r->image);
    free(r->mask);
    free(r->map);
    free(r->text);
    free(r->reference);
    free(r->other);
    *r = (fs_eval_row){0};
}

void fs_eval_rows_free(fs_eval_rows *rows) {
    for (size_t i = 0; i < rows->count; i++) fs_eval_row_free(&rows->items[i]);
    free(rows->items);
    *rows = (fs_eval_rows){0};
}

static int by_index(const void *a, const void *b) {
    const fs_eval_row *x = a, *y = b;
    if (x->step != y->step) return x->step < y->step ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

void fs_eval_rows_sort(fs_eval_rows *rows) {
    if (rows->count) qsort(rows->items, rows->count, sizeof *rows->items, by_index);
}

char *fs_eval_copy_text(const char *s) {
    fs_buffer b = {0};
    if (!s) return NULL;
    fs_utf8_clean(&b, s, strlen(s));
    if (!b.data && !b.failed) return fs_strdup("");
    if (b.failed) fs_buffer_free(&b);
    return b.data;
}

/* ---- to JSON ---- */

static json_t *text_value(const char *s) { /* s is valid UTF-8 where it came through fs_eval_copy_text; else it is made so */
    char *clean = fs_eval_copy_text(s);
    json_t *v = !s ? json_null() : clean ? json_string(clean) : NULL;
    free(clean);
    return v;
}

static json_t *number(double v) {
    return isnan(v) ? json_null() : json_real(v);
}

static json_t *histogram_json(const double *h) {
    json_t *list = json_array();
    for (int k = 0; k < FS_MAP_BINS; k++)
        if (h[k] > 0) json_array_append_new(list, json_pack("[i, I]", k, (json_int_t)h[k]));
    return list;
}

static json_t *pixels_json(const fs_eval_row *r) {
    const fs_pixel_scores *p = &r->pixels;
    return json_pack("{s:b, s:[I,I], s:[I,I,I,I], s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:o, s:o}", "silent", (int)r->silent,
                     "size", (json_int_t)r->width, (json_int_t)r->height, "tp_fp_fn_tn", (json_int_t)p->fixed.tp, (json_int_t)p->fixed.fp,
                     (json_int_t)p->fixed.fn, (json_int_t)p->fixed.tn, "iou", number(p->iou), "f1", number(p->f1), "best_iou",
                     number(p->best_iou), "best_f1", number(p->best_f1), "best_threshold", number(p->best_threshold), "auc", number(p->auc),
                     "permuted_f1", number(p->permuted_f1), "permuted_iou", number(p->permuted_iou), "permuted_best_f1",
                     number(p->permuted_best_f1), "binary", (int)p->binary, "tampered", histogram_json(p->tampered), "authentic",
                     histogram_json(p->authentic));
}

static json_t *words_json(fs_eval_words w) { /* those of the text follow from it */
    if (w.position < 0) return json_null();
    return json_pack("{s:s, s:s}", "position", fs_mask_position_word(w.position), "size", fs_mask_size_word(w.size));
}

json_t *fs_eval_row_to_json(const fs_eval_row *r) {
    const char *score = !r->has_score ? "none" : isnan(r->score) ? "nan" : NULL;
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:s, s:s, s:b, s:o, s:o, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "index",
                     (json_int_t)r->index, "step", (json_int_t)r->step, "condition", text_value(r->condition), "set", text_value(r->set),
                     "group", text_value(r->group), "name", text_value(r->name), "image", text_value(r->image), "mask", text_value(r->mask),
                     "map", text_value(r->map), "sha256", r->sha256, "mask_sha256", r->mask_sha256, "tampered", (int)r->tampered, "literal",
                     r->answered ? json_string(fs_verdict_name(r->literal)) : json_null(), "tolerant",
                     r->answered ? json_string(fs_verdict_name(r->tolerant)) : json_null(), "undetermined", (int)r->undetermined, "score",
                     score ? json_string(score) : json_real(r->score), "css", number(r->css), "css_other", number(r->css_other), "pixels",
                     r->located ? pixels_json(r) : json_null(), "true_words", words_json(r->truth_words), "text", text_value(r->text),
                     "reference", text_value(r->reference));
}

/* ---- from JSON ---- */

static fs_status take_text(const fs_json *j, const char *key, char **out, fs_error *err) {
    const char *s = NULL;
    fs_status status = fs_json_string(j, key, FS_JSON_OPTIONAL, &s, err);
    if (!status && s && !(*out = fs_strdup(s))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    return status;
}

static fs_status take_number(const fs_json *j, const char *key, double low, double high, double *out, fs_error *err) {
    *out = NAN;
    return fs_json_float(j, key, FS_JSON_OPTIONAL, low, high, out, err);
}

static fs_status take_hash(const fs_json *j, const char *key, char out[65], fs_error *err) {
    const char *s = "";
    fs_status status = fs_json_string(j, key, FS_JSON_REQUIRED, &s, err);
    if (!status && (strlen(s) > 64 || strspn(s, "0123456789abcdef") != strlen(s)))
        status = fs_fail(err, FS_E_FORMAT, "%s: field %s is no SHA-256", j->path, key);
    if (!status) snprintf(out, 65, "%s", s);
    return status;
}

static fs_status take_verdict(const fs_json *j, const char *key, fs_verdict *out, bool *there, fs_error *err) {
    const char *s = NULL;
    fs_status status = fs_json_string(j, key, FS_JSON_OPTIONAL, &s, err);
    *there = s != NULL;
    if (!status && s && !fs_verdict_from_name(s, out))
        status = fs_fail(err, FS_E_FORMAT, "%s: field %s: \"%s\" is no verdict", j->path, key, s);
    return status;
}

static fs_status take_histogram(const fs_json *j, const char *key, double out[FS_MAP_BINS], fs_error *err) {
    const json_t *list = json_object_get(j->root, key), *pair;
    size_t i;
    json_array_foreach(list, i, pair) {
        const json_int_t k = json_integer_value(json_array_get(pair, 0)), n = json_integer_value(json_array_get(pair, 1));
        if (json_array_size(pair) != 2 || k < 0 || k >= FS_MAP_BINS || n < 0)
            return fs_fail(err, FS_E_FORMAT, "%s: field %s%s: entry %zu is no [level, count]", j->path, j->within, key, i);
        out[k] = (double)n;
    }
    return FS_OK;
}

static fs_status take_pixels(const fs_json *j, fs_eval_row *r, fs_error *err) {
    fs_pixel_scores *p = &r->pixels;
    json_int_t n[4], size[2];
    if (json_unpack(j->root, "{s:[I,I], s:[I,I,I,I]}", "size", &size[0], &size[1], "tp_fp_fn_tn", &n[0], &n[1], &n[2], &n[3]) != 0 ||
        n[0] < 0 || n[1] < 0 || n[2] < 0 || n[3] < 0)
        return fs_fail(err, FS_E_FORMAT, "%s: pixels.size or pixels.tp_fp_fn_tn is missing or broken", j->path);
    r->width = size[0];
    r->height = size[1];
    p->fixed = (fs_confusion){(double)n[0], (double)n[1], (double)n[2], (double)n[3]};
    const struct {
        const char *key;
        double *out;
    } numbers[] = {{"iou", &p->iou},
                   {"f1", &p->f1},
                   {"best_iou", &p->best_iou},
                   {"best_f1", &p->best_f1},
                   {"best_threshold", &p->best_threshold},
                   {"auc", &p->auc},
                   {"permuted_f1", &p->permuted_f1},
                   {"permuted_iou", &p->permuted_iou},
                   {"permuted_best_f1", &p->permuted_best_f1}};
    fs_status s = FS_OK;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers && !s; i++) s = take_number(j, numbers[i].key, 0, 1, numbers[i].out, err);
    if (!s) s = fs_json_bool(j, "silent", FS_JSON_REQUIRED, &r->silent, err);
    if (!s) s = fs_json_bool(j, "binary", FS_JSON_REQUIRED, &p->binary, err);
    if (!s) s = take_histogram(j, "tampered", p->tampered, err);
    if (!s) s = take_histogram(j, "authentic", p->authentic, err);
    return s;
}

static fs_status take_score(const fs_json *j, fs_eval_row *r, fs_error *err) {
    const json_t *v = json_object_get(j->root, "score");
    const char *s = json_string_value(v);
    r->score = NAN;
    r->has_score = json_is_number(v) || (s && strcmp(s, "nan") == 0);
    if (json_is_number(v)) r->score = json_number_value(v);
    if (!json_is_number(v) && !s) return fs_fail(err, FS_E_FORMAT, "%s: field score: expected a number, \"nan\" or \"none\"", j->path);
    return FS_OK;
}

static fs_status take_words(const fs_json *j, const char *key, fs_eval_words *out, fs_error *err) {
    fs_json words = {0};
    const char *position = "", *size = "";
    fs_status s = fs_json_object(j, key, FS_JSON_OPTIONAL, &words, err);
    if (s || !words.root) return s; /* rows of earlier versions have none */
    s = fs_json_string(&words, "position", FS_JSON_REQUIRED, &position, err);
    if (!s) s = fs_json_string(&words, "size", FS_JSON_REQUIRED, &size, err);
    for (int i = 0; i < FS_MASK_POSITIONS && !s; i++)
        if (strcmp(position, fs_mask_position_word(i)) == 0) out->position = i;
    for (int i = 0; i < FS_MASK_SIZES && !s; i++)
        if (strcmp(size, fs_mask_size_word(i)) == 0) out->size = i;
    if (!s && (out->position < 0 || out->size < 0))
        s = fs_fail(err, FS_E_FORMAT, "%s: field %s: \"%s\", \"%s\" are no position and size", j->path, key, position, size);
    fs_json_close(&words);
    return s;
}

fs_status fs_eval_row_from_json(const char *where, const json_t *root, fs_eval_row *out, fs_error *err) {
    fs_json j = {.root = (json_t *)(uintptr_t)root, .path = (char *)(uintptr_t)where, .within = (char *)(uintptr_t) ""}, pixels = {0};
    bool there = false;
    *out = fs_eval_row_empty();
    if (!json_is_object(root)) return fs_fail(err, FS_E_FORMAT, "%s: expected a JSON object", where);
    const struct {
        const char *key;
        char **out;
    } texts[] = {{"condition", &out->condition}, {"set", &out->set},   {"group", &out->group}, {"name", &out->name},
                 {"image", &out->image},         {"mask", &out->mask}, {"map", &out->map},     {"text", &out->text},
                 {"reference", &out->reference}};
    fs_status s = fs_json_int(&j, "index", FS_JSON_REQUIRED, 0, INT64_MAX / 2, &out->index, err);
    if (!s) s = fs_json_int(&j, "step", FS_JSON_REQUIRED, 0, 1000, &out->step, err);
    for (size_t i = 0; i < sizeof texts / sizeof *texts && !s; i++) s = take_text(&j, texts[i].key, texts[i].out, err);
    if (!s && (!out->condition || !out->set || !out->group || !out->name || !out->image))
        s = fs_fail(err, FS_E_FORMAT, "%s: one of the fields condition, set, group, name, image is missing", where);
    if (!s) s = take_hash(&j, "sha256", out->sha256, err);
    if (!s) s = take_hash(&j, "mask_sha256", out->mask_sha256, err);
    if (!s) s = fs_json_bool(&j, "tampered", FS_JSON_REQUIRED, &out->tampered, err);
    if (!s) s = take_verdict(&j, "literal", &out->literal, &out->answered, err);
    if (!s && out->answered) s = take_verdict(&j, "tolerant", &out->tolerant, &there, err);
    if (!s) s = fs_json_bool(&j, "undetermined", FS_JSON_OPTIONAL, &out->undetermined, err);
    if (!s) s = take_score(&j, out, err);
    if (!s) s = take_number(&j, "css", -1.000001, 1.000001, &out->css, err);
    if (!s) s = take_number(&j, "css_other", -1.000001, 1.000001, &out->css_other, err);
    if (!s) s = fs_json_object(&j, "pixels", FS_JSON_OPTIONAL, &pixels, err);
    if (!s && pixels.root && !(s = take_pixels(&pixels, out, err))) out->located = true;
    if (!s) s = take_words(&j, "true_words", &out->truth_words, err);
    if (!s && out->text) s = fs_eval_words_read(out->text, &out->said_words, err);
    fs_json_close(&pixels);
    if (s) fs_eval_row_free(out);
    return s;
}
