/* Typed reading of JSON objects through Jansson. Names that occur twice are refused, since two programs would read them differently;
 * NaN and Infinity, which Python writes but JSON does not know, are refused by the parser. */
#include "format/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { FILE_MAX = 64 << 20 };

static const char *kind_name(const json_t *v) {
    switch (v ? json_typeof(v) : JSON_NULL) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "a list";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "a whole number";
    case JSON_REAL: return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE: return "true or false";
    case JSON_NULL: return "null";
    }
    return "nothing";
}

static fs_status parse(const char *name, const void *data, size_t size, bool list, fs_json *out, fs_error *err) {
    json_error_t why;
    const char *text = data;
    *out = (fs_json){0};
    if (size == 0) return fs_fail(err, FS_E_FORMAT, "%s: is empty (0 bytes): download it again", name);
    if (size >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) text += 3, size -= 3;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    if (!root) return fs_fail(err, FS_E_FORMAT, "%s: line %d, column %d: no valid JSON: %s", name, why.line, why.column, why.text);
    if (list ? !json_is_array(root) : !json_is_object(root)) {
        fs_status status = fs_fail(err, FS_E_FORMAT, "%s: expected a JSON %s, found %s", name, list ? "list [ ... ]" : "object { ... }",
                                   kind_name(root));
        json_decref(root);
        return status;
    }
    *out = (fs_json){root, fs_strdup(name), fs_strdup("")};
    if (out->path && out->within) return FS_OK;
    fs_json_close(out);
    return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", name);
}

static fs_status open_file(const char *path, size_t max_bytes, bool list, fs_json *out, fs_error *err) {
    uint8_t *data;
    size_t size;
    *out = (fs_json){0};
    fs_status status = fs_read_file(path, max_bytes, &data, &size, err);
    if (status) return status;
    status = parse(path, data, size, list, out, err);
    free(data);
    return status;
}

fs_status fs_json_parse(const char *name, const void *data, size_t size, fs_json *out, fs_error *err) {
    *out = (fs_json){0};
    if (size > FILE_MAX) return fs_fail(err, FS_E_LIMIT, "%s: %zu bytes of JSON, the limit is %d", name, size, (int)FILE_MAX);
    return parse(name, data, size, false, out, err);
}

fs_status fs_json_open(const char *path, fs_json *out, fs_error *err) { return open_file(path, FILE_MAX, false, out, err); }

fs_status fs_json_open_list(const char *path, size_t max_bytes, fs_json *out, fs_error *err) {
    return open_file(path, max_bytes, true, out, err);
}

fs_status fs_json_parse_list(const char *name, const void *data, size_t size, fs_json *out, fs_error *err) {
    return parse(name, data, size, true, out, err);
}

void fs_json_close(fs_json *j) {
    json_decref(j->root);
    free(j->path);
    free(j->within);
    *j = (fs_json){0};
}

bool fs_json_has(const fs_json *j, const char *key) {
    const json_t *v = json_object_get(j->root, key);
    return v && !json_is_null(v);
}

/* *out: the value, or NULL when an optional field is absent. */
static fs_status get(const fs_json *j, const char *key, fs_json_need need, const char *expected, const json_t **out, fs_error *err) {
    const json_t *v = json_object_get(j->root, key);
    *out = v && !json_is_null(v) ? v : NULL;
    if (*out || need == FS_JSON_OPTIONAL) return FS_OK;
    return fs_fail(err, v ? FS_E_MISMATCH : FS_E_NOT_FOUND, "%s: field %s%s: expected %s, found %s", j->path, j->within, key, expected,
                   v ? "null" : "none");
}

static fs_status fail_kind(const fs_json *j, const char *key, const char *expected, const json_t *v, fs_error *err) {
    return fs_fail(err, FS_E_MISMATCH, "%s: field %s%s: expected %s, found %s", j->path, j->within, key, expected, kind_name(v));
}

fs_status fs_json_int(const fs_json *j, const char *key, fs_json_need need, int64_t min, int64_t max, int64_t *out, fs_error *err) {
    const json_t *v;
    fs_status status = get(j, key, need, "a whole number", &v, err);
    if (status || !v) return status;
    if (!json_is_integer(v)) return fail_kind(j, key, "a whole number", v, err);
    int64_t n = json_integer_value(v);
    if (n < min || n > max)
        return fs_fail(err, FS_E_MISMATCH, "%s: field %s%s: expected a whole number from %" PRId64 " to %" PRId64 ", found %" PRId64,
                       j->path, j->within, key, min, max, n);
    *out = n;
    return FS_OK;
}

fs_status fs_json_float(const fs_json *j, const char *key, fs_json_need need, double min, double max, double *out, fs_error *err) {
    const json_t *v;
    fs_status status = get(j, key, need, "a number", &v, err);
    if (status || !v) return status;
    if (!json_is_number(v)) return fail_kind(j, key, "a number", v, err);
    double x = json_number_value(v);
    if (!(x >= min && x <= max))
        return fs_fail(err, FS_E_MISMATCH, "%s: field %s%s: expected a number from %g to %g, found %g", j->path, j->within, key, min, max,
                       x);
    *out = x;
    return FS_OK;
}

fs_status fs_json_bool(const fs_json *j, const char *key, fs_json_need need, bool *out, fs_error *err) {
    const json_t *v;
    fs_status status = get(j, key, need, "true or false", &v, err);
    if (status || !v) return status;
    if (!json_is_boolean(v)) return fail_kind(j, key, "true or false", v, err);
    *out = json_is_true(v);
    return FS_OK;
}

fs_status fs_json_string(const fs_json *j, const char *key, fs_json_need need, const char **out, fs_error *err) {
    const json_t *v;
    fs_status status = get(j, key, need, "a string", &v, err);
    if (status || !v) return status;
    if (!json_is_string(v)) return fail_kind(j, key, "a string", v, err);
    *out = json_string_value(v);
    return FS_OK;
}

fs_status fs_json_object(const fs_json *j, const char *key, fs_json_need need, fs_json *out, fs_error *err) {
    const json_t *v;
    *out = (fs_json){0};
    fs_status status = get(j, key, need, "an object", &v, err);
    if (status || !v) return status;
    if (!json_is_object(v)) return fail_kind(j, key, "an object", v, err);
    *out = (fs_json){json_incref((json_t *)(uintptr_t)v), fs_strdup(j->path), fs_format("%s%s.", j->within, key)};
    if (out->path && out->within) return FS_OK;
    fs_json_close(out);
    return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", j->path);
}

fs_status fs_json_list(const fs_json *j, const char *key, fs_json_need need, fs_json *out, fs_error *err) {
    const json_t *v;
    *out = (fs_json){0};
    fs_status status = get(j, key, need, "a list", &v, err);
    if (status || !v) return status;
    if (!json_is_array(v)) return fail_kind(j, key, "a list", v, err);
    *out = (fs_json){json_incref((json_t *)(uintptr_t)v), fs_strdup(j->path), fs_format("%s%s", j->within, key)};
    if (out->path && out->within) return FS_OK;
    fs_json_close(out);
    return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", j->path);
}

size_t fs_json_length(const fs_json *list) { return json_array_size(list->root); }

fs_status fs_json_item(const fs_json *list, size_t index, fs_json *out, fs_error *err) {
    json_t *v = json_array_get(list->root, index);
    *out = (fs_json){0};
    if (!json_is_object(v))
        return fs_fail(err, FS_E_MISMATCH, "%s: %s[%zu]: expected an object, found %s", list->path, list->within, index, kind_name(v));
    *out = (fs_json){json_incref(v), fs_strdup(list->path), fs_format("%s[%zu].", list->within, index)};
    if (out->path && out->within) return FS_OK;
    fs_json_close(out);
    return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", list->path);
}
