/* Names of the enumerations and of the figures, and the defaults. */
#include <string.h>

#include "eval/eval.h"

static const char *const sources[] = {"model", "results", "upstream", "maps"};
static const char *const protocols[] = {"fixed", "pooled", "upstream", "best-set", "best-image", "permuted", "permuted-best"};
static const char *const readings[] = {"literal", "tolerant", "score"};
static const char *const policies[] = {"error", "exclude"};
static const char *const image_scores[] = {"none", "max", "mean"};

#define COUNT(list) (sizeof(list) / sizeof *(list))

static const char *name_at(const char *const *list, size_t n, int value) {
    return value >= 0 && (size_t)value < n ? list[value] : "unknown";
}

static bool value_of(const char *const *list, size_t n, const char *name, int *value) {
    for (size_t i = 0; i < n; i++)
        if (strcmp(list[i], name) == 0) return *value = (int)i, true;
    return false;
}

const char *fs_eval_source_name(fs_eval_source s) {
    return name_at(sources, COUNT(sources), (int)s);
}
const char *fs_eval_protocol_name(fs_eval_protocol p) {
    return name_at(protocols, COUNT(protocols), (int)p);
}
const char *fs_eval_reading_name(fs_eval_reading r) {
    return name_at(readings, COUNT(readings), (int)r);
}
const char *fs_eval_policy_name(fs_eval_policy p) {
    return name_at(policies, COUNT(policies), (int)p);
}
const char *fs_eval_image_score_name(fs_eval_image_score s) {
    return name_at(image_scores, COUNT(image_scores), (int)s);
}

bool fs_eval_source_from_name(const char *name, fs_eval_source *out) {
    int v;
    return value_of(sources, COUNT(sources), name, &v) && (*out = (fs_eval_source)v, true);
}
bool fs_eval_protocol_from_name(const char *name, fs_eval_protocol *out) {
    int v;
    return value_of(protocols, COUNT(protocols), name, &v) && (*out = (fs_eval_protocol)v, true);
}
bool fs_eval_reading_from_name(const char *name, fs_eval_reading *out) {
    int v;
    return value_of(readings, COUNT(readings), name, &v) && (*out = (fs_eval_reading)v, true);
}
bool fs_eval_policy_from_name(const char *name, fs_eval_policy *out) {
    int v;
    return value_of(policies, COUNT(policies), name, &v) && (*out = (fs_eval_policy)v, true);
}
bool fs_eval_image_score_from_name(const char *name, fs_eval_image_score *out) {
    int v;
    return value_of(image_scores, COUNT(image_scores), name, &v) && (*out = (fs_eval_image_score)v, true);
}

const char *fs_figure_key(fs_figure f) {
    static const char *const keys[] = {"detection.literal.accuracy",
                                       "detection.literal.f1",
                                       "detection.literal.precision",
                                       "detection.literal.recall",
                                       "detection.literal.specificity",
                                       "detection.literal.balanced_accuracy",
                                       "detection.tolerant.accuracy",
                                       "detection.tolerant.f1",
                                       "detection.tolerant.precision",
                                       "detection.tolerant.recall",
                                       "detection.tolerant.specificity",
                                       "detection.tolerant.balanced_accuracy",
                                       "detection.score.accuracy",
                                       "detection.score.f1",
                                       "detection.score.precision",
                                       "detection.score.recall",
                                       "detection.score.specificity",
                                       "detection.score.balanced_accuracy",
                                       "detection.auc",
                                       "detection.average_precision",
                                       "localization.fixed.iou",
                                       "localization.fixed.f1",
                                       "localization.pooled.iou",
                                       "localization.pooled.f1",
                                       "localization.upstream.giou",
                                       "localization.upstream.ciou",
                                       "localization.best-set.iou",
                                       "localization.best-set.f1",
                                       "localization.best-image.iou",
                                       "localization.best-image.f1",
                                       "localization.permuted.iou",
                                       "localization.permuted.f1",
                                       "localization.permuted-best.iou",
                                       "localization.permuted-best.f1",
                                       "localization.pixel_auc",
                                       "localization.pooled_pixel_auc",
                                       "localization.pixel_precision",
                                       "localization.pixel_recall",
                                       "localization.false_alarm_area",
                                       "explanation.css",
                                       "explanation.css_of_other_pictures",
                                       "explanation.words.both",
                                       "explanation.words.both_near",
                                       "explanation.words.position",
                                       "explanation.words.position_near",
                                       "explanation.words.size",
                                       "explanation.words.size_near"};
    _Static_assert(COUNT(keys) == FS_FIGURES, "one key for each figure");
    return name_at(keys, COUNT(keys), (int)f);
}

fs_eval_options fs_eval_options_defaults(void) {
    return (fs_eval_options){.detector = fs_options_defaults(),
                             .resamples = 1000,
                             .level = 0.95,
                             .stratified = true,
                             .shard = 1,
                             .shards = 1,
                             .html = true,
                             .gallery = 6};
}
