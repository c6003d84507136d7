/* A bundle's calibration: read, written, applied (calibration.h; src/eval/calibrate.c fits it). */
#include "pipeline/calibration.h"

#include <math.h>
#include <stdlib.h>

#include "format/archive.h"
#include "pipeline/bundle.h"

/* One that is not known here would need other numbers than slope and offset. */
static fs_status read_method(const fs_archive *a, fs_calibration_method *out, fs_error *err) {
    fs_gguf_text text = {0};
    fs_status status = fs_gguf_string(fs_archive_gguf(a), FS_CALIBRATION_PREFIX "method", false, &text, err);
    if (status || !text.data) return status;
    char *name = fs_format("%.*s", (int)(text.size < 64 ? text.size : 64), text.data);
    if (!name)
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    else if (!fs_calibration_method_from_name(name, out) || !*out)
        status = fs_fail(err, FS_E_UNSUPPORTED, "%s: " FS_CALIBRATION_PREFIX "method is \"%s\"; this version knows \"%s\", use the one that wrote it",
                         fs_archive_path(a), name, fs_calibration_method_name(FS_CALIBRATION_PLATT));
    free(name);
    return status;
}

fs_status fs_calibration_read(const fs_archive *a, fs_calibration *out, fs_error *err) {
    const fs_gguf *g = a ? fs_archive_gguf(a) : NULL;
    fs_calibration c = {.on = true, .low = 0.5, .high = 0.5, .ece_before = NAN, .ece_after = NAN};
    *out = (fs_calibration){.slope = 1, .low = 0.5, .high = 0.5, .ece_before = NAN, .ece_after = NAN};
    if (!g || !(fs_gguf_has(g, FS_CALIBRATION_PREFIX "slope") || fs_gguf_has(g, FS_CALIBRATION_PREFIX "method"))) return FS_OK;
    fs_status status = read_method(a, &c.method, err);
    const struct {
        const char *key;
        double min, max, *target;
    } fields[] = {{FS_CALIBRATION_PREFIX "slope", 1e-6, 1e6, &c.slope},
                  {FS_CALIBRATION_PREFIX "offset", -1e6, 1e6, &c.offset},
                  {FS_CALIBRATION_PREFIX "low", 0, 0.5, &c.low},
                  {FS_CALIBRATION_PREFIX "high", 0.5, 1, &c.high},
                  {FS_CALIBRATION_PREFIX "ece_before", 0, 1, &c.ece_before},
                  {FS_CALIBRATION_PREFIX "ece_after", 0, 1, &c.ece_after}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields && !status; i++)
        status = fs_gguf_float(g, fields[i].key, i < 2, fields[i].min, fields[i].max, fields[i].target, err);
    if (!status) status = fs_gguf_int(g, FS_CALIBRATION_PREFIX "records", false, 0, INT64_MAX, &c.records, err);
    if (!status) *out = c;
    return status;
}

void fs_calibration_put(fs_gguf_writer *w, const fs_calibration *c) {
    if (c->method) fs_gguf_put_text(w, FS_CALIBRATION_PREFIX "method", fs_calibration_method_name(c->method));
    fs_gguf_put_f32(w, FS_CALIBRATION_PREFIX "slope", (float)c->slope);
    fs_gguf_put_f32(w, FS_CALIBRATION_PREFIX "offset", (float)c->offset);
    fs_gguf_put_f32(w, FS_CALIBRATION_PREFIX "low", (float)c->low);
    fs_gguf_put_f32(w, FS_CALIBRATION_PREFIX "high", (float)c->high);
    if (c->records) fs_gguf_put_u64(w, FS_CALIBRATION_PREFIX "records", (uint64_t)c->records);
    if (!isnan(c->ece_before)) fs_gguf_put_f32(w, FS_CALIBRATION_PREFIX "ece_before", (float)c->ece_before);
    if (!isnan(c->ece_after)) fs_gguf_put_f32(w, FS_CALIBRATION_PREFIX "ece_after", (float)c->ece_after);
}

double fs_calibration_apply(const fs_calibration *c, double log_odds) {
    const double x = c->on ? c->slope * log_odds + c->offset : log_odds;
    return 1 / (1 + exp(-x));
}

bool fs_calibration_open_verdict(const fs_calibration *c, double score) {
    return c->on && score > c->low && score < c->high;
}

fs_status fs_bundle_calibration(const char *dir, fs_calibration *out, fs_error *err) {
    fs_archive *a = NULL;
    char *path = fs_path_join(dir, FS_BUNDLE_DTE);
    fs_status status = path ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    if (!status && !fs_path_exists(path))
        status = fs_fail(
            err, FS_E_NOT_FOUND,
            "%s: no " FS_BUNDLE_DTE " in it; only a bundle with stage 1 has scores to calibrate (make one: fakeshield convert)", dir);
    if (!status) status = fs_archive_open(path, &a, err);
    if (!status) status = fs_calibration_read(a, out, err);
    fs_archive_free(a);
    free(path);
    return status;
}
