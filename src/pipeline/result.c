/* What is known about one picture: creation, accessors, warnings. JSON is in result_json.c, files in result_files.c. */
#include "pipeline/pipeline.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

fs_result *fs_result_create(const char *image) {
    fs_result *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->image = fs_strdup(image);
    r->orientation = 1;
    if (!r->image) {
        free(r);
        return NULL;
    }
    return r;
}

void fs_result_free(fs_result *r) {
    if (!r) return;
    free(r->image);
    free(r->text);
    fs_answer_free(&r->answer);
    free(r->mask);
    free(r->logits);
    free(r->regions);
    free(r->segmentation_text);
    for (size_t i = 0; i < r->n_warnings; i++) free(r->warnings[i]);
    free(r->warnings);
    free(r->model);
    free(r->question);
    free(r->adapters[0]);
    free(r->adapters[1]);
    free(r);
}

/* A warning that finds no memory is lost; nothing depends on it. */
void fs_result_warn(fs_result *r, const char *format, ...) {
    fs_error line = {0};
    va_list args;
    va_start(args, format);
    fs_vfail(&line, FS_OK, format, args); /* one clean line, whatever the names in it hold */
    va_end(args);
    char **grown = realloc(r->warnings, (r->n_warnings + 1) * sizeof *grown);
    if (!grown) return;
    r->warnings = grown;
    if ((r->warnings[r->n_warnings] = fs_strdup(line.message))) r->n_warnings++;
}

const char *fs_result_image(const fs_result *r) { return r->image; }
const char *fs_result_sha256(const fs_result *r) { return r->sha256; }
fs_verdict fs_result_verdict(const fs_result *r) { return r->verdict; }
double fs_result_score(const fs_result *r) { return r->has_score ? r->score : NAN; }
bool fs_result_calibration(const fs_result *r, fs_calibration_info *out) {
    const fs_calibration *c = &r->calibration;
    *out = (fs_calibration_info){NAN, NAN, NAN, FS_CALIBRATION_UNRECORDED, 0, NAN, NAN};
    if (!c->on || !r->has_score) return false;
    *out = (fs_calibration_info){r->raw_score, c->low, c->high, c->method, c->records, c->ece_before, c->ece_after};
    return true;
}
fs_domain fs_result_domain(const fs_result *r) { return r->domain; }
const float *fs_result_domain_probabilities(const fs_result *r) { return r->domain_probability; }
const char *fs_result_text(const fs_result *r) { return r->text ? r->text : ""; }
const char *fs_result_area(const fs_result *r) { return r->answer.area ? r->answer.area : ""; }
size_t fs_result_basis_count(const fs_result *r) { return r->answer.n_basis; }
const char *fs_result_basis(const fs_result *r, size_t i) { return i < r->answer.n_basis ? r->answer.basis[i] : ""; }
fs_mask_status fs_result_mask_status(const fs_result *r) { return r->mask_status; }
int64_t fs_result_width(const fs_result *r) { return r->width; }
int64_t fs_result_height(const fs_result *r) { return r->height; }
const uint8_t *fs_result_mask(const fs_result *r) { return r->mask; }
const float *fs_result_mask_logits(const fs_result *r) { return r->logits; }
double fs_result_mask_area(const fs_result *r) { return r->mask_area; }
size_t fs_result_region_count(const fs_result *r) { return r->n_regions; }
size_t fs_result_region_total(const fs_result *r) { return r->n_regions_total; }
const char *fs_result_adapter(const fs_result *r, int stage) { return stage == 1 || stage == 2 ? r->adapters[stage - 1] : NULL; }
size_t fs_result_warning_count(const fs_result *r) { return r->n_warnings; }
const char *fs_result_warning(const fs_result *r, size_t i) { return i < r->n_warnings ? r->warnings[i] : ""; }

void fs_result_region(const fs_result *r, size_t i, int64_t box[4], double *area_fraction) {
    const fs_region region = i < r->n_regions ? r->regions[i] : (fs_region){0};
    box[0] = region.x0, box[1] = region.y0, box[2] = region.x1, box[3] = region.y1;
    const double pixels = (double)r->width * (double)r->height;
    *area_fraction = pixels > 0 ? (double)region.pixels / pixels : 0;
}

bool fs_is_picture_name(const char *name) { return fs_image_name_is_picture(name); }
