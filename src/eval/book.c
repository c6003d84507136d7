/* A run's output folder as far as it decides on the tables: run.json says how, images.jsonl has one row a picture. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "eval/eval.h"
#include "format/json.h"

enum { VERSION = 1, LINE_MAX_BYTES = 64 << 20 };

void fs_eval_warn(fs_eval_info *i, const char *format, ...) {
    fs_error line = {0};
    va_list args;
    va_start(args, format);
    fs_vfail(&line, FS_OK, format, args);
    va_end(args);
    if (!i->warnings) i->warnings = json_array();
    json_array_append_new(i->warnings, json_string(line.message));
}

void fs_eval_info_free(fs_eval_info *i) {
    free(i->name);
    free(i->source);
    free(i->model);
    free(i->encoder);
    json_decref(i->settings);
    json_decref(i->warnings);
    *i = (fs_eval_info){0};
}

void fs_eval_book_free(fs_eval_book *b) {
    fs_eval_info_free(&b->info);
    fs_eval_rows_free(&b->rows);
}

static json_t *info_json(const fs_eval_book *b) {
    const fs_eval_info *i = &b->info;
    return json_pack("{s:i, s:{s:s, s:s}, s:s, s:s, s:s, s:s, s:o*, s:O, s:o, s:I, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:O}", "eval",
                     VERSION, "program", "name", "fakeshield", "version", fs_version(), "name", i->name, "source", i->source, "model",
                     i->model, "fingerprint", i->fingerprint, "calibration", fs_eval_calibration_json(i), "settings", i->settings,
                     "encoder", i->encoder ? json_string(i->encoder) : json_null(), "records", (json_int_t)i->records, "shard", i->shard,
                     "shards", i->shards, "rows", (json_int_t)b->rows.count, "missing", (json_int_t)i->missing, "nan_scores",
                     (json_int_t)i->nan_scores, "resized", (json_int_t)i->resized, "texts_without_reference",
                     (json_int_t)i->texts_without_reference, "warnings", i->warnings);
}

fs_status fs_eval_book_write(const fs_eval_book *b, const char *dir, fs_error *err) {
    char *run = fs_path_join(dir, "run.json"), *images = fs_path_join(dir, "images.jsonl"), *text = NULL;
    fs_buffer lines = {0};
    json_t *info = info_json(b);
    fs_status status = FS_OK;
    for (size_t i = 0; i < b->rows.count && !lines.failed; i++) {
        json_t *j = fs_eval_row_to_json(&b->rows.items[i]);
        char *line = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
        json_decref(j);
        if (!line)
            lines.failed = true;
        else
            fs_buffer_puts(&lines, line), fs_buffer_puts(&lines, "\n");
        free(line);
    }
    if (info) text = json_dumps(info, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    if (!run || !images || !text || lines.failed) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory to write the rows", dir);
        goto done;
    }
    status = fs_write_file(images, lines.data ? lines.data : "", lines.size, err);
    if (!status) status = fs_write_file(run, text, strlen(text), err); /* last: where it is, the rows are */
done:
    json_decref(info);
    fs_buffer_free(&lines);
    free(run);
    free(images);
    free(text);
    return status;
}

/* ---- reading ---- */

static fs_status read_info(const char *path, fs_eval_info *i, int64_t *rows, fs_error *err) {
    fs_json j = {0};
    fs_eval_calibration calibration = {0};
    const char *name = "", *source = "", *model = "", *fingerprint = "", *encoder = NULL;
    int64_t version = 0, shard = 1, shards = 1, counts[4] = {0};
    fs_status s = fs_json_open(path, &j, err);
    if (s) return s;
    s = fs_json_int(&j, "eval", FS_JSON_REQUIRED, 1, INT32_MAX, &version, err);
    if (!s && version != VERSION)
        s = fs_fail(err, FS_E_UNSUPPORTED, "%s: layout %" PRId64 ", this program reads %d", path, version, VERSION);
    if (!s) s = fs_json_string(&j, "name", FS_JSON_REQUIRED, &name, err);
    if (!s) s = fs_json_string(&j, "source", FS_JSON_REQUIRED, &source, err);
    if (!s) s = fs_json_string(&j, "model", FS_JSON_REQUIRED, &model, err);
    if (!s) s = fs_json_string(&j, "fingerprint", FS_JSON_REQUIRED, &fingerprint, err);
    if (!s) s = fs_json_string(&j, "encoder", FS_JSON_OPTIONAL, &encoder, err);
    if (!s) s = fs_json_int(&j, "records", FS_JSON_REQUIRED, 0, INT64_MAX / 2, &i->records, err);
    if (!s) s = fs_json_int(&j, "rows", FS_JSON_REQUIRED, 0, INT64_MAX / 2, rows, err);
    if (!s) s = fs_json_int(&j, "shard", FS_JSON_REQUIRED, 1, INT32_MAX, &shard, err);
    if (!s) s = fs_json_int(&j, "shards", FS_JSON_REQUIRED, 1, INT32_MAX, &shards, err);
    if (!s) s = fs_eval_calibration_read(&j, &calibration, err);
    static const char *const keys[] = {"missing", "nan_scores", "resized", "texts_without_reference"};
    for (size_t k = 0; k < 4 && !s; k++) s = fs_json_int(&j, keys[k], FS_JSON_REQUIRED, 0, INT64_MAX / 2, &counts[k], err);
    if (!s) {
        *i = (fs_eval_info){.name = fs_strdup(name),
                            .source = fs_strdup(source),
                            .model = fs_strdup(model),
                            .encoder = fs_strdup(encoder),
                            .calibration = calibration,
                            .records = i->records,
                            .shard = (int)shard,
                            .shards = (int)shards,
                            .missing = (size_t)counts[0],
                            .nan_scores = (size_t)counts[1],
                            .resized = (size_t)counts[2],
                            .texts_without_reference = (size_t)counts[3]};
        snprintf(i->fingerprint, sizeof i->fingerprint, "%s", fingerprint);
        json_t *settings = json_object_get(j.root, "settings"), *warnings = json_object_get(j.root, "warnings");
        i->settings = settings ? json_incref(settings) : json_object();
        i->warnings = warnings ? json_incref(warnings) : json_array();
        if (!i->name || !i->source || !i->model || !i->settings || !i->warnings)
            s = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    }
    fs_json_close(&j);
    return s;
}

static fs_status read_rows(const char *path, fs_eval_rows *rows, fs_error *err) {
    fs_mapping m;
    fs_status s = fs_map_file(path, &m, err);
    if (s) return s;
    size_t number = 0;
    for (size_t at = 0; at < m.size && !s; number++) {
        const uint8_t *end = memchr(m.data + at, '\n', m.size - at);
        const size_t n = end ? (size_t)(end - m.data) - at : m.size - at;
        char *where = fs_format("%s:%zu", path, number + 1);
        json_error_t why;
        json_t *j = n && n < LINE_MAX_BYTES ? json_loadb((const char *)m.data + at, n, JSON_REJECT_DUPLICATES, &why) : NULL;
        fs_eval_row *row = where && j ? fs_eval_rows_add(rows) : NULL;
        if (!where)
            s = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
        else if (!j)
            s = fs_fail(err, FS_E_FORMAT, "%s: no valid JSON; was the file cut off? Run the evaluation again", where);
        else if (!row)
            s = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
        else
            s = fs_eval_row_from_json(where, j, row, err);
        json_decref(j);
        free(where);
        at += n + 1;
    }
    fs_unmap(&m);
    return s;
}

fs_status fs_eval_book_read(const char *dir, fs_eval_book *out, fs_error *err) {
    char *run = fs_path_join(dir, "run.json"), *images = fs_path_join(dir, "images.jsonl");
    int64_t rows = 0;
    *out = (fs_eval_book){0};
    fs_status status = FS_OK;
    if (!run || !images)
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    else if (fs_path_is_dir(dir) && !fs_path_exists(run))
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: no run.json in it; give the folder that `fakeshield eval -o` wrote", dir);
    if (!status) status = read_info(run, &out->info, &rows, err);
    if (!status) status = read_rows(images, &out->rows, err);
    if (!status && (int64_t)out->rows.count != rows)
        status =
            fs_fail(err, FS_E_FORMAT, "%s: %zu rows, run.json says %" PRId64 "; run the evaluation again", images, out->rows.count, rows);
    free(run);
    free(images);
    if (status) fs_eval_book_free(out);
    return status;
}
