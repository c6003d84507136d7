/* What a run knows of how its scores were calibrated: in run.json and summary.json, and in words. The fit is in calibrate.c. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/eval.h"
#include "format/json.h"

void fs_eval_note_calibration(fs_eval_info *i, const fs_result *r) {
    if (isnan(fs_result_score(r)) || i->calibration.on) return;
    i->calibration.known = true;
    i->calibration.on = fs_result_calibration(r, &i->calibration.how);
}

json_t *fs_eval_calibration_json(const fs_eval_info *i) {
    const fs_calibration_info *c = &i->calibration.how;
    if (!i->calibration.known) return NULL;
    if (!i->calibration.on) return json_null();
    return json_pack("{s:o, s:o, s:o, s:o, s:f, s:f}", "method",
                     c->method ? json_string(fs_calibration_method_name(c->method)) : json_null(), "pictures",
                     c->pictures ? json_integer(c->pictures) : json_null(), "ece_before",
                     isnan(c->ece_before) ? json_null() : json_real(c->ece_before), "ece_after",
                     isnan(c->ece_after) ? json_null() : json_real(c->ece_after), "undetermined_from", c->low, "undetermined_to", c->high);
}

fs_status fs_eval_calibration_read(const fs_json *run, fs_eval_calibration *out, fs_error *err) {
    fs_json j = {0};
    fs_calibration_info c = {.raw_score = NAN, .ece_before = NAN, .ece_after = NAN};
    const char *method = NULL;
    *out = (fs_eval_calibration){.known = json_object_get(run->root, "calibration") != NULL};
    fs_status s = fs_json_object(run, "calibration", FS_JSON_OPTIONAL, &j, err);
    if (s || !j.root) return s;
    s = fs_json_string(&j, "method", FS_JSON_OPTIONAL, &method, err);
    if (!s && method && !fs_calibration_method_from_name(method, &c.method))
        s = fs_fail(err, FS_E_FORMAT, "%s: field calibration.method: \"%s\" is no known method", run->path, method);
    if (!s) s = fs_json_int(&j, "pictures", FS_JSON_OPTIONAL, 0, INT64_MAX / 2, &c.pictures, err);
    if (!s) s = fs_json_float(&j, "ece_before", FS_JSON_OPTIONAL, 0, 1, &c.ece_before, err);
    if (!s) s = fs_json_float(&j, "ece_after", FS_JSON_OPTIONAL, 0, 1, &c.ece_after, err);
    if (!s) s = fs_json_float(&j, "undetermined_from", FS_JSON_REQUIRED, 0, 0.5, &c.low, err);
    if (!s) s = fs_json_float(&j, "undetermined_to", FS_JSON_REQUIRED, 0.5, 1, &c.high, err);
    out->on = !s;
    out->how = c;
    fs_json_close(&j);
    return s;
}

void fs_eval_calibration_put(fs_buffer *b, const fs_eval_info *i) {
    const fs_calibration_info *c = &i->calibration.how;
    if (!i->calibration.known) return;
    if (!i->calibration.on) {
        fs_buffer_puts(b, "not calibrated: the likelihood ratio of the two verdict sentences");
        return;
    }
    fs_buffer_puts(b, "calibrated, ");
    if (c->method)
        fs_buffer_printf(b, "method %s", fs_calibration_method_name(c->method));
    else
        fs_buffer_puts(b, "method not recorded");
    if (c->pictures) fs_buffer_printf(b, ", on %" PRId64 " pictures", c->pictures);
    if (!isnan(c->ece_before) && !isnan(c->ece_after))
        fs_buffer_printf(b, "; expected calibration error there %.4f before, %.4f after", c->ece_before, c->ece_after);
    fs_buffer_printf(b, "; undetermined between %.2f and %.2f", c->low, c->high);
}
