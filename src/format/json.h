/* Reading typed fields from a JSON file (config.json, generation_config.json, ...), with errors that name file, field, expected and found.
 *
 *     fs_json j;
 *     int64_t layers = 0;
 *     double eps = 1e-5;
 *     fs_status s = fs_json_open(path, &j, err);
 *     if (!s) s = fs_json_int(&j, "num_hidden_layers", FS_JSON_REQUIRED, 1, 1000, &layers, err);
 *     if (!s) s = fs_json_float(&j, "rms_norm_eps", FS_JSON_OPTIONAL, 0, 1, &eps, err);
 *     fs_json_close(&j);
 *
 * An optional field that is absent or null leaves *out as it was: set it to the default first. */
#ifndef FS_JSON_H
#define FS_JSON_H

#include <jansson.h>

#include "base/base.h"

typedef enum fs_json_need { FS_JSON_OPTIONAL = 0, FS_JSON_REQUIRED = 1 } fs_json_need;

typedef struct fs_json {
    json_t *root;  /* an object; for maps with free keys and for lists, go on with Jansson from here */
    char *path;    /* for error lines */
    char *within;  /* dotted path of this object in the file, "" at the top */
} fs_json;

/* Reads a file of at most 64 MiB whose outermost value is an object. A byte order mark is skipped. */
fs_status fs_json_open(const char *path, fs_json *out, fs_error *err);
/* The same from memory; `name` is used in error lines. */
fs_status fs_json_parse(const char *name, const void *data, size_t size, fs_json *out, fs_error *err);
void fs_json_close(fs_json *j); /* takes a zeroed or closed one too */

bool fs_json_has(const fs_json *j, const char *key); /* there and not null */
fs_status fs_json_int(const fs_json *j, const char *key, fs_json_need need, int64_t min, int64_t max, int64_t *out, fs_error *err);
/* Takes whole numbers too. min <= value <= max. */
fs_status fs_json_float(const fs_json *j, const char *key, fs_json_need need, double min, double max, double *out, fs_error *err);
fs_status fs_json_bool(const fs_json *j, const char *key, fs_json_need need, bool *out, fs_error *err);
/* *out points into the document and lives until fs_json_close. */
fs_status fs_json_string(const fs_json *j, const char *key, fs_json_need need, const char **out, fs_error *err);
/* An object within; *out is to be closed by the caller, and is zeroed when the optional field is absent. */
fs_status fs_json_object(const fs_json *j, const char *key, fs_json_need need, fs_json *out, fs_error *err);

/* Lists of objects, as data sets are. The outermost value is a list here; a file may have max_bytes. */
fs_status fs_json_open_list(const char *path, size_t max_bytes, fs_json *out, fs_error *err);
fs_status fs_json_parse_list(const char *name, const void *data, size_t size, fs_json *out, fs_error *err);
/* A list within an object; *out as of fs_json_object. */
fs_status fs_json_list(const fs_json *j, const char *key, fs_json_need need, fs_json *out, fs_error *err);
size_t fs_json_length(const fs_json *list);
/* The object at `index` of a list; error lines then say "[17].image". *out is to be closed by the caller. */
fs_status fs_json_item(const fs_json *list, size_t index, fs_json *out, fs_error *err);

#endif
