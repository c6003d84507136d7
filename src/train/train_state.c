/* Where a training run stands (snapshot.h), as a JSON file, and whether settings are those it was begun with.
 *
 * Everything comes back to the bit: numbers of 64 bits without sign are written as hexadecimal strings, since JSON readers take integers to
 * be signed or doubles; doubles have 17 digits, and those that JSON has no way to write are strings. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "train/snapshot.h"

enum { STATE_FORMAT = 1 };

void fs_train_state_free(fs_train_state *s) {
    free(s->settings);
    *s = (fs_train_state){0};
}

void fs_train_state_add_loss(fs_train_state *s, double loss) {
    if (s->loss_count == FS_LOSS_TAIL) {
        memmove(s->losses, s->losses + 1, (FS_LOSS_TAIL - 1) * sizeof *s->losses);
        s->loss_count--;
    }
    s->losses[s->loss_count++] = loss;
}

/* A JSON object from text, or NULL. */
static json_t *parse_object(const char *text) {
    json_t *o = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_object(o)) return o;
    json_decref(o);
    return NULL;
}

fs_status fs_train_state_settings(fs_train_state *s, const char *json, fs_error *err) {
    json_t *o = parse_object(json);
    if (!o) return fs_fail(err, FS_E_INTERNAL, "the settings to keep with a checkpoint are no JSON object");
    json_decref(o);
    char *copy = fs_strdup(json);
    if (!copy) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for the settings");
    free(s->settings);
    s->settings = copy;
    return FS_OK;
}

/* ---- are these the same settings? --------------------------------------------------------------------------------------- */

static bool listed(const char *const *names, const char *name) {
    for (; names && *names; names++)
        if (strcmp(*names, name) == 0) return true;
    return false;
}

static bool same_value(const json_t *a, const json_t *b) {
    if (json_is_number(a) && json_is_number(b)) return json_number_value(a) == json_number_value(b);
    return json_equal(a, b);
}

/* The value as it would stand in the file, short enough for a line; to be freed. */
static char *shown(const json_t *v) {
    if (!v) return fs_strdup("not set");
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
    if (text && strlen(text) > 80) memcpy(text + 77, "...", 4);
    return text;
}

static fs_status differs(const char *within, const char *key, const json_t *was, const json_t *is, fs_error *err) {
    char *old = shown(was), *now = shown(is);
    const fs_status status = fs_fail(err, FS_E_MISMATCH,
                                     "%s%s is %s, but the checkpoint was trained with %s; resume with the same settings, or "
                                     "train into another folder",
                                     within, key, now ? now : "?", old ? old : "?");
    free(old);
    free(now);
    return status;
}

static fs_status compare(const char *within, const json_t *was, const json_t *is, const char *const *ignore, int depth, fs_error *err) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)is, key, value) {
        char name[256];
        const json_t *old = json_object_get(was, key);
        snprintf(name, sizeof name, "%s%s", within, key);
        if (listed(ignore, name)) continue;
        if (json_is_object(old) && json_is_object(value) && depth < 8) {
            snprintf(name, sizeof name, "%s%s.", within, key);
            const fs_status status = compare(name, old, value, ignore, depth + 1, err);
            if (status) return status;
        } else if (!old || !same_value(old, value)) {
            return differs(within, key, old, value, err);
        }
    }
    json_object_foreach((json_t *)(uintptr_t)was, key, value) {
        char name[256];
        snprintf(name, sizeof name, "%s%s", within, key);
        if (!listed(ignore, name) && !json_object_get(is, key)) return differs(within, key, value, NULL, err);
    }
    return FS_OK;
}

fs_status fs_train_state_check(const fs_train_state *s, const char *settings, const char *const *ignore, fs_error *err) {
    json_t *was = s->settings ? parse_object(s->settings) : json_object(), *is = parse_object(settings);
    const fs_status status =
        was && is ? compare("", was, is, ignore, 0, err) : fs_fail(err, FS_E_INTERNAL, "the settings are no JSON object");
    json_decref(was);
    json_decref(is);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------------------------ */

static json_t *from_double(double x) {
    return isfinite(x) ? json_real(x) : json_string(isnan(x) ? "nan" : x > 0 ? "inf" : "-inf");
}
static json_t *from_bits(uint64_t x) {
    return json_sprintf("0x%016llx", (unsigned long long)x);
}

fs_status fs_train_state_write(const char *path, const fs_train_state *s, fs_error *err) {
    json_t *root = json_object(), *losses = json_array(), *rng = json_array();
    json_t *settings = s->settings ? parse_object(s->settings) : NULL;
    char *text = NULL;
    /* json_object_set_new and json_array_append_new take NULL as an error, so that one look at the end is enough */
    int bad = !root || !losses || !rng || (s->settings && !settings);
    if (!bad) {
        for (int i = 0; i < 4; i++) bad |= json_array_append_new(rng, from_bits(s->rng.s[i]));
        for (int i = 0; i < s->loss_count; i++) bad |= json_array_append_new(losses, from_double(s->losses[i]));
        bad |= json_object_set_new(root, "format", json_integer(STATE_FORMAT));
        bad |= json_object_set_new(root, "step", json_integer(s->step));
        bad |= json_object_set_new(root, "epoch", json_integer(s->epoch));
        bad |= json_object_set_new(root, "position", json_integer(s->position));
        bad |= json_object_set_new(root, "samples", json_integer(s->samples));
        bad |= json_object_set_new(root, "tokens", json_integer(s->tokens));
        bad |= json_object_set_new(root, "seconds", from_double(s->seconds));
        bad |= json_object_set_new(root, "seed", from_bits(s->seed));
        bad |= json_object_set(root, "rng", rng);
        if (s->has_best) {
            bad |= json_object_set_new(root, "best", from_double(s->best));
            bad |= json_object_set_new(root, "best_step", json_integer(s->best_step));
        }
        if (settings) bad |= json_object_set(root, "settings", settings);
        bad |= json_object_set(root, "losses", losses);
        text = bad ? NULL : json_dumps(root, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    }
    const fs_status status = text ? fs_write_file(path, text, strlen(text), err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    free(text);
    json_decref(settings);
    json_decref(rng);
    json_decref(losses);
    json_decref(root);
    return status;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------ */

static bool to_double(const json_t *v, double *out) {
    const char *s = json_string_value(v);
    if (json_is_number(v)) return *out = json_number_value(v), true;
    if (!s) return false;
    if (strcmp(s, "nan") == 0) return *out = (double)NAN, true;
    if (strcmp(s, "inf") == 0) return *out = (double)INFINITY, true;
    if (strcmp(s, "-inf") == 0) return *out = -(double)INFINITY, true;
    return false;
}

static bool to_bits(const json_t *v, uint64_t *out) {
    const char *s = json_string_value(v);
    char *end;
    if (!s || strlen(s) != 18 || strncmp(s, "0x", 2) != 0) return false;
    *out = strtoull(s + 2, &end, 16);
    return *end == '\0' && s[2] != '-' && s[2] != '+';
}

static fs_status wrong(const char *path, const char *field, fs_error *err) {
    return fs_fail(err, FS_E_FORMAT, "%s: field \"%s\" is missing or not what a checkpoint's has", path, field);
}

static fs_status read_numbers(const fs_json *j, fs_train_state *s, fs_error *err) {
    int64_t format = 0;
    fs_status status = fs_json_int(j, "format", FS_JSON_REQUIRED, 1, INT64_MAX, &format, err);
    if (!status && format != STATE_FORMAT)
        status = fs_fail(err, FS_E_UNSUPPORTED, "%s: written in format %lld, this program knows %d; use the version that wrote it", j->path,
                         (long long)format, STATE_FORMAT);
    const struct {
        const char *key;
        int64_t *out;
    } counts[] = {{"step", &s->step}, {"epoch", &s->epoch}, {"position", &s->position}, {"samples", &s->samples}, {"tokens", &s->tokens}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts && !status; i++)
        status = fs_json_int(j, counts[i].key, FS_JSON_REQUIRED, 0, INT64_MAX, counts[i].out, err);
    if (!status && !to_double(json_object_get(j->root, "seconds"), &s->seconds)) status = wrong(j->path, "seconds", err);
    if (!status && !to_bits(json_object_get(j->root, "seed"), &s->seed)) status = wrong(j->path, "seed", err);
    s->has_best = fs_json_has(j, "best");
    if (!status && s->has_best) {
        if (!to_double(json_object_get(j->root, "best"), &s->best))
            status = wrong(j->path, "best", err);
        else
            status = fs_json_int(j, "best_step", FS_JSON_REQUIRED, 0, INT64_MAX, &s->best_step, err);
    }
    return status;
}

fs_status fs_train_state_read(const char *path, fs_train_state *out, fs_error *err) {
    fs_json j = {0};
    fs_train_state s = {0};
    fs_status status = fs_json_open(path, &j, err);
    if (!status) status = read_numbers(&j, &s, err);
    if (status) goto done;
    const json_t *rng = json_object_get(j.root, "rng"), *losses = json_object_get(j.root, "losses"),
                 *settings = json_object_get(j.root, "settings");
    for (size_t i = 0; i < 4 && !status; i++)
        if (json_array_size(rng) != 4 || !to_bits(json_array_get(rng, i), &s.rng.s[i])) status = wrong(path, "rng", err);
    if (!status && (!json_is_array(losses) || json_array_size(losses) > FS_LOSS_TAIL)) status = wrong(path, "losses", err);
    for (; !status && (size_t)s.loss_count < json_array_size(losses); s.loss_count++)
        if (!to_double(json_array_get(losses, (size_t)s.loss_count), &s.losses[s.loss_count])) status = wrong(path, "losses", err);
    if (!status && settings) {
        if (!json_is_object(settings))
            status = wrong(path, "settings", err);
        else if (!(s.settings = json_dumps(settings, JSON_COMPACT | JSON_REAL_PRECISION(17))))
            status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    }
done:
    fs_json_close(&j);
    if (status)
        fs_train_state_free(&s);
    else
        *out = s;
    return status;
}
