/* What one picture of an evaluation looks like, for the report's gallery and for the contact sheet: the picture, the mask of truth, the
 * program's map, and what the map marks drawn over the picture, all fitted into one box; and the facts that stand beside them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report.h"

void fs_panel_fit(const fs_panel_box *box, int64_t w, int64_t h, int64_t *tw, int64_t *th) {
    const double fitting = fmin((double)box->width / (double)w, (double)box->height / (double)h);
    const double scale = box->enlarge ? fitting : fmin(1, fitting);
    *tw = fs_max_i64(1, (int64_t)((double)w * scale + 0.5));
    *th = fs_max_i64(1, (int64_t)((double)h * scale + 0.5));
}

/* Dark blue over orange to pale yellow: what a program is sure of is light. */
void fs_panel_ramp(double v, uint8_t rgb[3]) {
    static const double stops[5][3] = {{13, 16, 48}, {80, 25, 105}, {190, 55, 75}, {247, 140, 40}, {252, 246, 180}};
    const double at = fmax(0, fmin(1, v)) * 4;
    const int i = at >= 4 ? 3 : (int)at;
    for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)(stops[i][c] + (stops[i + 1][c] - stops[i][c]) * (at - i) + 0.5);
}

/* A picture of a map, or of a mask (plain: black and white). */
static fs_status paint(const fs_map *m, bool plain, const fs_panel_box *box, fs_image **out, fs_error *err) {
    fs_image *im = NULL, *small = NULL;
    int64_t w, h;
    fs_panel_fit(box, m->width, m->height, &w, &h);
    fs_status status = fs_image_create(m->width, m->height, &im, err);
    for (int64_t i = 0; !status && i < m->width * m->height; i++) {
        if (plain)
            memset(im->data + 3 * i, m->score[i] > 0.5f ? 255 : 0, 3);
        else
            fs_panel_ramp((double)m->score[i], im->data + 3 * i);
    }
    if (!status) status = fs_image_resize(im, w, h, FS_FILTER_BILINEAR, &small, err);
    fs_image_free(im);
    *out = small;
    return status;
}

/* The picture with what the map marks tinted. */
static fs_status overlay(const fs_image *picture, const fs_map *map, fs_image **out, fs_error *err) {
    const int64_t n = picture->width * picture->height;
    uint8_t *mask = fs_alloc((size_t)n, 1);
    fs_map small = {map->width, map->height, fs_alloc((size_t)map->width * (size_t)map->height, sizeof(float))};
    fs_status status = mask && small.score ? FS_OK : fs_eval_no_memory(err, "the report");
    if (!status) {
        memcpy(small.score, map->score, (size_t)map->width * (size_t)map->height * sizeof(float));
        status = fs_map_resize(&small, picture->width, picture->height, err);
    }
    for (int64_t i = 0; !status && i < n; i++) mask[i] = small.score[i] > 0.5f ? 255 : 0;
    if (!status) status = fs_draw_overlay(picture, mask, out, err);
    free(mask);
    fs_map_free(&small);
    return status;
}

static bool setting(const fs_eval_info *info, const char *key) {
    return json_is_true(json_object_get(info->settings, key));
}

fs_status fs_panels_make(const fs_eval_info *info, const fs_eval_row *r, const fs_panel_box *box, fs_panels *out, fs_error *err) {
    const fs_decode_options how = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_map_options maps = fs_map_options_defaults();
    maps.logits = setting(info, "logits");
    fs_image *im = NULL;
    fs_map map = {0}, truth = {0};
    uint8_t *mask = NULL;
    fs_error ignored;
    int64_t w, h;
    fs_status status = FS_OK;
    *out = (fs_panels){0};
    if (fs_image_load(r->image, &how, &im, NULL, &ignored)) return FS_OK; /* not there any more, or another file by now */
    fs_panel_fit(box, im->width, im->height, &w, &h);
    const fs_panel_box inner = {w, h, box->enlarge}; /* a map of other proportions than its picture is no larger */
    if ((status = fs_image_resize(im, w, h, FS_FILTER_BICUBIC, &out->picture, err))) goto done;
    if (r->mask && !fs_truth_read(r->mask, setting(info, "invert_truth"), &mask, &truth.width, &truth.height, NULL, &ignored)) {
        truth.score = fs_alloc((size_t)truth.width * (size_t)truth.height, sizeof(float));
        if (!truth.score) status = fs_eval_no_memory(err, "the report");
        for (int64_t i = 0; !status && i < truth.width * truth.height; i++) truth.score[i] = mask[i] ? 1 : 0;
        if (!status) status = paint(&truth, true, &inner, &out->truth, err);
    }
    if (!status && r->map && !fs_map_read(r->map, &maps, &map, &ignored)) {
        status = paint(&map, r->pixels.binary, &inner, &out->map, err);
        if (!status) status = overlay(out->picture, &map, &out->marked, err);
    }
done:
    free(mask);
    fs_map_free(&map);
    fs_map_free(&truth);
    fs_image_free(im);
    if (status) fs_panels_free(out);
    return status;
}

void fs_panels_free(fs_panels *p) {
    fs_image_free(p->picture);
    fs_image_free(p->truth);
    fs_image_free(p->map);
    fs_image_free(p->marked);
    *p = (fs_panels){0};
}

const char *fs_row_called(const fs_eval_row *r, fs_row_judgement *how) {
    const bool tampered = r->answered ? r->literal == FS_VERDICT_TAMPERED : r->score > 0.5;
    *how = r->undetermined ? FS_ROW_OPEN : tampered == r->tampered ? FS_ROW_RIGHT : FS_ROW_WRONG;
    if (r->undetermined) return fs_verdict_name(FS_VERDICT_UNDETERMINED);
    if (!r->answered && (!r->has_score || isnan(r->score))) return NULL;
    return fs_verdict_name(tampered ? FS_VERDICT_TAMPERED : FS_VERDICT_AUTHENTIC);
}

size_t fs_row_facts(const fs_eval_row *r, fs_row_fact out[FS_ROW_FACTS]) {
    const double marked = r->pixels.fixed.fp / (r->pixels.fixed.fp + r->pixels.fixed.tn);
    const bool forged = r->located && r->tampered;
    const fs_row_fact all[FS_ROW_FACTS] = {{"score", r->has_score ? r->score : NAN},
                                           {"IoU", forged ? r->pixels.iou : NAN},
                                           {"F1", forged ? r->pixels.f1 : NAN},
                                           {"pixel AUC", forged ? r->pixels.auc : NAN},
                                           {"share marked", r->located && !r->tampered && !r->silent ? marked : NAN},
                                           {"CSS", r->css}};
    size_t n = 0;
    for (size_t i = 0; i < FS_ROW_FACTS; i++)
        if (!isnan(all[i].value)) out[n++] = all[i];
    return n;
}
