/* A result as JSON (docs/result-schema.json) and back, and upstream's records. Keys keep the schema's order and numbers are rounded to six
 * decimals, so that the same picture, model and settings give the same bytes on every run. */
#include "pipeline/pipeline.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "text/utf8.h"

enum { SCHEMA = 1 };

/* ---- writing ---- */

static json_t *text_value(const char *s) {
    if (!s) return json_null();
    fs_buffer clean = {0};
    fs_utf8_clean(&clean, s, strlen(s));
    json_t *v = clean.failed ? NULL : json_stringn(clean.data ? clean.data : "", clean.size);
    fs_buffer_free(&clean);
    return v;
}

static json_t *number(double v) { return json_real(round(v * 1e6) / 1e6); }

static json_t *domain_json(const fs_result *r) {
    if (!r->explained) return json_null();
    json_t *p = json_object();
    for (int i = 0; i < 3; i++) json_object_set_new(p, fs_domain_name((fs_domain)i), number((double)r->domain_probability[i]));
    return json_pack("{s:s, s:o}", "label", fs_domain_name(r->domain), "probabilities", p);
}

static json_t *explanation_json(const fs_result *r) {
    if (!r->text) return json_null();
    json_t *basis = json_array();
    for (size_t i = 0; i < r->answer.n_basis; i++) json_array_append_new(basis, text_value(r->answer.basis[i]));
    return json_pack("{s:o, s:o, s:o, s:b}", "text", text_value(r->text), "area", text_value(fs_result_area(r)), "basis", basis, "truncated",
                     (int)r->truncated);
}

static json_t *mask_json(const fs_result *r, const char *mask_path, const char *overlay_path) {
    const bool has = r->mask_status == FS_MASK_PRESENT || r->mask_status == FS_MASK_NO_SEG;
    json_t *regions = json_array();
    for (size_t i = 0; i < r->n_regions; i++) {
        int64_t b[4];
        double fraction;
        fs_result_region(r, i, b, &fraction);
        json_array_append_new(regions, json_pack("{s:[I,I,I,I], s:o}", "box", (json_int_t)b[0], (json_int_t)b[1], (json_int_t)b[2],
                                                 (json_int_t)b[3], "area_fraction", number(fraction)));
    }
    return json_pack("{s:s, s:o, s:o, s:o, s:I, s:o}", "status", fs_mask_status_name(r->mask_status), "path", text_value(mask_path),
                     "overlay_path", text_value(overlay_path), "area_fraction", has ? number(r->mask_area) : json_null(), "region_count",
                     (json_int_t)r->n_regions_total, "regions", regions);
}

/* {name, fingerprint}, and the adapters where there are any. */
static json_t *model_json(const fs_result *r) {
    static const char *const keys[] = {"stage1", "stage2"};
    json_t *m = json_pack("{s:o, s:s}", "name", text_value(r->model ? r->model : ""), "fingerprint", r->fingerprint);
    json_t *list = r->adapters[0] || r->adapters[1] ? json_object() : NULL;
    for (int i = 0; i < 2 && list; i++)
        if (r->adapters[i]) json_object_set_new(list, keys[i], text_value(r->adapters[i]));
    if (list) json_object_set_new(m, "adapters", list);
    return m;
}

static json_t *settings_json(const fs_result *r) {
    const fs_sampling *s = &r->sampling;
    return json_pack("{s:s, s:s, s:o, s:i, s:o, s:I, s:i, s:s, s:i, s:b, s:b, s:o}", "precision", fs_precision_name(r->precision), "kv_cache",
                     fs_kv_cache_type_name(r->kv_cache), "temperature",
                     number((double)s->temperature), "top_k", s->top_k, "top_p", number((double)s->top_p), "seed", (json_int_t)s->seed,
                     "max_new_tokens", r->max_new_tokens, "prompt_style", fs_prompt_style_name(r->prompt_style), "question_index",
                     r->question_index, "exif_both", (int)r->exif_both, "verdict_only", (int)r->verdict_only, "question",
                     text_value(r->question));
}

static json_t *number_or_null(double v) { return isnan(v) ? json_null() : number(v); }

/* null: the bundle does not say, or the result was written before it was noted */
static json_t *calibration_json(const fs_result *r) {
    const fs_calibration *c = &r->calibration;
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "raw_score", number(r->raw_score), "undetermined_from", number(c->low),
                     "undetermined_to", number(c->high), "method", text_value(c->method ? fs_calibration_method_name(c->method) : NULL),
                     "pictures", c->records ? json_integer(c->records) : json_null(), "ece_before", number_or_null(c->ece_before),
                     "ece_after", number_or_null(c->ece_after));
}

static json_t *times_json(const fs_result *r) {
    json_t *t = json_pack("{s:i}", "threads", r->threads);
    const struct { const char *name; double seconds; } steps[] = {
        {"stage1_decode", r->times1.decode}, {"stage1_domain", r->times1.domain}, {"stage1_vision", r->times1.vision},
        {"stage1_prefill", r->times1.prefill}, {"stage1_score", r->times1.score}, {"stage1_generate", r->times1.generate},
        {"stage2_decode", r->times2.decode}, {"stage2_vision", r->times2.vision}, {"stage2_prefill", r->times2.prefill},
        {"stage2_generate", r->times2.generate}, {"stage2_sam", r->times2.sam}};
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
        if (steps[i].seconds > 0) json_object_set_new(t, steps[i].name, number(steps[i].seconds));
    return t;
}

fs_status fs_result_to_json(const fs_result *r, const char *mask_path, const char *overlay_path, bool with_times, bool pretty, char **out,
                            fs_error *err) {
    *out = NULL;
    json_t *warnings = json_array();
    for (size_t i = 0; i < r->n_warnings; i++) json_array_append_new(warnings, text_value(r->warnings[i]));
    /* json_pack returns NULL if any part could not be made, and releases the others */
    json_t *j = json_pack("{s:i, s:o, s:o, s:s, s:I, s:I, s:o, s:s, s:o, s:o, s:o, s:o, s:o, s:o}", "schema", SCHEMA, "program",
                          json_pack("{s:s, s:s}", "name", "fakeshield", "version", fs_version()), "image", text_value(r->image), "sha256",
                          r->sha256, "width", (json_int_t)r->width, "height", (json_int_t)r->height, "domain", domain_json(r), "verdict",
                          fs_verdict_name(r->verdict), "score", r->has_score ? number(r->score) : json_null(), "explanation",
                          explanation_json(r), "mask", mask_json(r, mask_path, overlay_path), "model",
                          model_json(r), "settings",
                          settings_json(r), "warnings", warnings);
    if (j && r->calibration.on && r->has_score) json_object_set_new(j, "calibration", calibration_json(r));
    if (j && with_times) json_object_set_new(j, "times", times_json(r));
    if (j) *out = json_dumps(j, (pretty ? JSON_INDENT(2) : JSON_COMPACT) | JSON_REAL_PRECISION(12));
    json_decref(j);
    return *out ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its JSON", r->image);
}

fs_status fs_result_to_record(const fs_result *r, char **out, fs_error *err) {
    *out = fs_record_json(r->image, fs_result_text(r));
    return *out ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its record", r->image);
}

/* ---- reading back ---- */

/* Copies a string field that may be null. */
static fs_status copy_string(const fs_json *j, const char *key, fs_json_need need, char **out, fs_error *err) {
    const char *s = NULL;
    fs_status status = fs_json_string(j, key, need, &s, err);
    if (status || !s) return status;
    free(*out);
    *out = fs_strdup(s);
    return *out ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
}

/* A field that names a value of an enumeration. */
#define READ_NAME(j, key, from_name, out, err)                                                                                             \
    do {                                                                                                                                   \
        const char *name_ = "";                                                                                                            \
        fs_status status_ = fs_json_string((j), (key), FS_JSON_REQUIRED, &name_, (err));                                                   \
        if (status_) return status_;                                                                                                       \
        if (!from_name(name_, (out))) return fs_fail((err), FS_E_FORMAT, "%s: field %s is \"%s\", which is no known value", (j)->path, (key), name_); \
    } while (0)

static fs_status read_domain(const fs_json *j, fs_result *r, fs_error *err) {
    fs_json d = {0}, p = {0};
    fs_status s = fs_json_object(j, "domain", FS_JSON_OPTIONAL, &d, err);
    if (s || !d.root) return s;
    const char *label = "";
    if (!(s = fs_json_string(&d, "label", FS_JSON_REQUIRED, &label, err)) && !fs_domain_from_name(label, &r->domain))
        s = fs_fail(err, FS_E_FORMAT, "%s: field domain.label is \"%s\", which is no known value", j->path, label);
    if (!s) s = fs_json_object(&d, "probabilities", FS_JSON_REQUIRED, &p, err);
    for (int i = 0; i < 3 && !s; i++) {
        double v = 0;
        s = fs_json_float(&p, fs_domain_name((fs_domain)i), FS_JSON_REQUIRED, 0, 1, &v, err);
        r->domain_probability[i] = (float)v;
    }
    r->explained = !s;
    fs_json_close(&p);
    fs_json_close(&d);
    return s;
}

static fs_status read_explanation(const fs_json *j, fs_result *r, fs_error *err) {
    fs_json e = {0};
    fs_status s = fs_json_object(j, "explanation", FS_JSON_OPTIONAL, &e, err);
    if (s || !e.root) return s;
    s = copy_string(&e, "text", FS_JSON_REQUIRED, &r->text, err);
    if (!s) s = fs_json_bool(&e, "truncated", FS_JSON_OPTIONAL, &r->truncated, err);
    if (!s) s = fs_answer_parse(r->text, &r->answer, err); /* area and basis follow from the text */
    fs_json_close(&e);
    return s;
}

static fs_status read_mask_fields(const fs_json *m, fs_result *r, fs_error *err) {
    fs_status s;
    int64_t total = 0;
    READ_NAME(m, "status", fs_mask_status_from_name, &r->mask_status, err);
    if ((s = fs_json_float(m, "area_fraction", FS_JSON_OPTIONAL, 0, 1, &r->mask_area, err))) return s;
    if ((s = fs_json_int(m, "region_count", FS_JSON_OPTIONAL, 0, INT64_MAX / 2, &total, err))) return s;
    r->n_regions_total = (size_t)total;
    const json_t *list = json_object_get(m->root, "regions");
    const size_t n = json_array_size(list);
    if (n > FS_MAX_REGIONS) return fs_fail(err, FS_E_FORMAT, "%s: %zu regions, at most %d are written", m->path, n, FS_MAX_REGIONS);
    if (n && !(r->regions = fs_alloc_zero(n, sizeof *r->regions))) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) {
        json_int_t b[4];
        double fraction;
        if (json_unpack(json_array_get(list, i), "{s:[I,I,I,I], s:F}", "box", &b[0], &b[1], &b[2], &b[3], "area_fraction", &fraction) != 0)
            return fs_fail(err, FS_E_FORMAT, "%s: mask.regions[%zu] is no {box, area_fraction}", m->path, i);
        const double pixels = round(fraction * (double)r->width * (double)r->height);
        if (!(pixels >= 0 && pixels <= (double)r->width * (double)r->height))
            return fs_fail(err, FS_E_FORMAT, "%s: mask.regions[%zu].area_fraction is %g, expected 0 to 1", m->path, i, fraction);
        r->regions[i] = (fs_region){b[0], b[1], b[2], b[3], (int64_t)pixels};
    }
    r->n_regions = n;
    return FS_OK;
}

static fs_status read_settings_fields(const fs_json *t, fs_result *r, fs_error *err) {
    fs_status s;
    double temperature = 0, top_p = 1;
    int64_t top_k = 0, seed = 0, tokens = 0, question = 0;
    READ_NAME(t, "precision", fs_precision_from_name, &r->precision, err);
    const char *cache = "auto"; /* results written before there was a choice have none */
    if ((s = fs_json_string(t, "kv_cache", FS_JSON_OPTIONAL, &cache, err))) return s;
    if (!fs_kv_cache_type_from_name(cache, &r->kv_cache))
        return fs_fail(err, FS_E_FORMAT, "%s: field kv_cache is \"%s\", which is no known value", t->path, cache);
    READ_NAME(t, "prompt_style", fs_prompt_style_from_name, &r->prompt_style, err);
    if ((s = fs_json_float(t, "temperature", FS_JSON_REQUIRED, 0, 1e6, &temperature, err))) return s;
    if ((s = fs_json_float(t, "top_p", FS_JSON_REQUIRED, 0, 1, &top_p, err))) return s;
    if ((s = fs_json_int(t, "top_k", FS_JSON_REQUIRED, 0, INT32_MAX, &top_k, err))) return s;
    if ((s = fs_json_int(t, "seed", FS_JSON_REQUIRED, INT64_MIN, INT64_MAX, &seed, err))) return s;
    if ((s = fs_json_int(t, "max_new_tokens", FS_JSON_REQUIRED, 1, INT32_MAX, &tokens, err))) return s;
    if ((s = fs_json_int(t, "question_index", FS_JSON_REQUIRED, -1, 2, &question, err))) return s;
    if ((s = fs_json_bool(t, "exif_both", FS_JSON_REQUIRED, &r->exif_both, err))) return s;
    if ((s = fs_json_bool(t, "verdict_only", FS_JSON_REQUIRED, &r->verdict_only, err))) return s;
    r->sampling = (fs_sampling){(float)temperature, (int)top_k, (float)top_p, (uint64_t)seed};
    r->max_new_tokens = (int)tokens;
    r->question_index = (int)question;
    return copy_string(t, "question", FS_JSON_OPTIONAL, &r->question, err);
}

static fs_status read_part(const fs_json *j, const char *key, fs_status (*read)(const fs_json *, fs_result *, fs_error *), fs_result *r,
                           fs_error *err) {
    fs_json part = {0};
    fs_status s = fs_json_object(j, key, FS_JSON_REQUIRED, &part, err);
    if (!s) s = read(&part, r, err);
    fs_json_close(&part);
    return s;
}

static fs_status read_model_fields(const fs_json *m, fs_result *r, fs_error *err) {
    const char *fingerprint = "";
    fs_status s = copy_string(m, "name", FS_JSON_REQUIRED, &r->model, err);
    if (!s) s = fs_json_string(m, "fingerprint", FS_JSON_REQUIRED, &fingerprint, err);
    snprintf(r->fingerprint, sizeof r->fingerprint, "%s", fingerprint);
    fs_json list = {0};
    if (!s) s = fs_json_object(m, "adapters", FS_JSON_OPTIONAL, &list, err);
    if (!s && list.root) s = copy_string(&list, "stage1", FS_JSON_OPTIONAL, &r->adapters[0], err);
    if (!s && list.root) s = copy_string(&list, "stage2", FS_JSON_OPTIONAL, &r->adapters[1], err);
    fs_json_close(&list);
    return s;
}

static fs_status read_calibration_fields(const fs_json *c, fs_result *r, fs_error *err) {
    fs_status s = fs_json_float(c, "raw_score", FS_JSON_REQUIRED, 0, 1, &r->raw_score, err);
    if (!s) s = fs_json_float(c, "undetermined_from", FS_JSON_REQUIRED, 0, 0.5, &r->calibration.low, err);
    if (!s) s = fs_json_float(c, "undetermined_to", FS_JSON_REQUIRED, 0.5, 1, &r->calibration.high, err);
    const char *method = NULL;
    r->calibration.ece_before = r->calibration.ece_after = NAN;
    if (!s) s = fs_json_string(c, "method", FS_JSON_OPTIONAL, &method, err);
    if (!s && method && !fs_calibration_method_from_name(method, &r->calibration.method))
        s = fs_fail(err, FS_E_FORMAT, "%s: field method is \"%s\", which is no known value", c->path, method);
    if (!s) s = fs_json_int(c, "pictures", FS_JSON_OPTIONAL, 0, INT64_MAX / 2, &r->calibration.records, err);
    if (!s) s = fs_json_float(c, "ece_before", FS_JSON_OPTIONAL, 0, 1, &r->calibration.ece_before, err);
    if (!s) s = fs_json_float(c, "ece_after", FS_JSON_OPTIONAL, 0, 1, &r->calibration.ece_after, err);
    r->calibration.on = !s;
    return s;
}

static fs_status read_result(const fs_json *j, fs_result *r, fs_error *err) {
    fs_status s;
    int64_t schema = 0;
    const char *sha256 = "";
    if ((s = fs_json_int(j, "schema", FS_JSON_REQUIRED, 1, INT32_MAX, &schema, err))) return s;
    if (schema != SCHEMA) return fs_fail(err, FS_E_UNSUPPORTED, "%s: schema %lld, this program reads %d", j->path, (long long)schema, SCHEMA);
    if ((s = copy_string(j, "image", FS_JSON_REQUIRED, &r->image, err))) return s;
    if ((s = fs_json_string(j, "sha256", FS_JSON_REQUIRED, &sha256, err))) return s;
    snprintf(r->sha256, sizeof r->sha256, "%s", sha256);
    if ((s = fs_json_int(j, "width", FS_JSON_REQUIRED, 1, INT32_MAX, &r->width, err))) return s;
    if ((s = fs_json_int(j, "height", FS_JSON_REQUIRED, 1, INT32_MAX, &r->height, err))) return s;
    READ_NAME(j, "verdict", fs_verdict_from_name, &r->verdict, err);
    r->has_score = fs_json_has(j, "score");
    if ((s = fs_json_float(j, "score", FS_JSON_OPTIONAL, 0, 1, &r->score, err))) return s;
    if (fs_json_has(j, "calibration") && (s = read_part(j, "calibration", read_calibration_fields, r, err))) return s;
    if ((s = read_domain(j, r, err)) || (s = read_explanation(j, r, err))) return s;
    if ((s = read_part(j, "mask", read_mask_fields, r, err)) || (s = read_part(j, "model", read_model_fields, r, err))) return s;
    if ((s = read_part(j, "settings", read_settings_fields, r, err))) return s;
    const json_t *warnings = json_object_get(j->root, "warnings");
    for (size_t i = 0; i < json_array_size(warnings); i++) {
        const char *line = json_string_value(json_array_get(warnings, i));
        if (line) fs_result_warn(r, "%s", line);
    }
    return FS_OK;
}

fs_status fs_result_from_json(const char *json, fs_result **out, fs_error *err) {
    fs_json j = {0};
    *out = NULL;
    fs_result *r = fs_result_create("");
    if (!r) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    fs_status s = fs_json_parse("result", json, strlen(json), &j, err);
    if (!s) s = read_result(&j, r, err);
    fs_json_close(&j);
    if (s == FS_E_NOT_FOUND || s == FS_E_MISMATCH) { /* a field that is missing or of another kind: this is no result */
        s = FS_E_FORMAT;
        if (err) err->status = s;
    }
    if (s) fs_result_free(r);
    else *out = r;
    return s;
}

fs_status fs_record_parse(const char *line, const char *key, char **image, char **text, fs_error *err) {
    fs_json j = {0};
    *image = *text = NULL;
    fs_status s = fs_json_parse("record", line, strlen(line), &j, err);
    if (!s) s = copy_string(&j, "image", FS_JSON_OPTIONAL, image, err);
    if (!s) s = copy_string(&j, key, FS_JSON_OPTIONAL, text, err);
    if (!s && !*image) *image = fs_strdup("");
    if (!s && !*text) *text = fs_strdup("");
    if (!s && (!*image || !*text)) s = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (s) {
        free(*image);
        free(*text);
        *image = *text = NULL;
    }
    fs_json_close(&j);
    return s;
}
