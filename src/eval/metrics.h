/* The figures of an evaluation, from numbers in memory: counts of pictures or pixels, rankings, maps against masks, and how sure one can be
 * of them. Nothing here knows a file or a data set. NaN means that a figure is not defined (a quotient 0/0, a ranking with one class only),
 * and the reports then show a dash. Formulas and protocols: docs/evaluation.md. */
#ifndef FS_EVAL_METRICS_H
#define FS_EVAL_METRICS_H

#include "base/base.h"

/* ---- counts: tampered is positive ----------------------------------------------------------------------------------- */

typedef struct fs_confusion {
    double tp, fp, fn, tn; /* whole numbers up to 2^53; doubles because resamples weigh them */
} fs_confusion;
typedef struct fs_rates {
    double accuracy, f1, precision, recall, specificity, balanced; /* balanced = (recall + specificity) / 2, NaN with one class only */
    double iou;
} fs_rates;
void fs_confusion_add(fs_confusion *c, bool truth, bool said, double weight);
fs_rates fs_confusion_rates(const fs_confusion *c);
/* What a program gets that does not look: always "tampered", always "authentic", a fair coin (expected counts). */
typedef enum fs_baseline { FS_BASELINE_TAMPERED = 0, FS_BASELINE_AUTHENTIC = 1, FS_BASELINE_COIN = 2 } fs_baseline;
enum { FS_BASELINES = 3 };
const char *fs_baseline_name(fs_baseline b); /* "always tampered", "always authentic", "fair coin" */
bool fs_baseline_from_name(const char *name, fs_baseline *out);
fs_confusion fs_baseline_counts(fs_baseline b, double positives, double negatives);

/* ---- rankings -------------------------------------------------------------------------------------------------------- */

/* Scores in order, highest first, kept so that resamples need no second sort. */
typedef struct fs_ranking {
    size_t n;
    size_t *order;  /* [n] indices into the scores as given */
    double *score;  /* [n] in that order */
    bool *positive; /* [n] in that order */
} fs_ranking;
/* A score that is NaN is FS_E_NUMERIC and named: by names[i] if names is given. */
fs_status fs_ranking_create(const double *score, const bool *positive, size_t n, const char *const *names, fs_ranking *out, fs_error *err);
void fs_ranking_free(fs_ranking *r);
/* weight: [n] by the indices as given, NULL = 1 each. Equal scores count half (trapezoids). */
double fs_ranking_auc(const fs_ranking *r, const double *weight);
/* Sum over thresholds of (R_k - R_{k-1}) P_k, without interpolation. */
double fs_ranking_average_precision(const fs_ranking *r, const double *weight);
typedef struct fs_curve_point {
    double threshold, false_rate, recall, precision;
} fs_curve_point;
/* One point for each different score, highest first, after a first one at infinity (0, 0, 1). malloc'ed. */
fs_status fs_ranking_curve(const fs_ranking *r, fs_curve_point **out, size_t *n, fs_error *err);

/* ---- a map against a mask -------------------------------------------------------------------------------------------- */

enum { FS_MAP_BINS = 256 };
typedef struct fs_pixel_scores {
    fs_confusion fixed;       /* score > 0.5 */
    double iou, f1;           /* of fixed; 1 where nothing is tampered and nothing marked */
    double best_iou, best_f1; /* over all thresholds (score >= t) of this picture: an oracle's */
    double best_threshold;    /* that of best_f1 */
    double auc;               /* NaN if the mask is all one class */
    /* TruFor's: pixels near the mask's edge are left out, and the better of map and inverse counts. NaN where its program gives none. */
    double permuted_f1, permuted_iou, permuted_best_f1;
    double tampered[FS_MAP_BINS], authentic[FS_MAP_BINS]; /* pixels by floor(256 score), for figures over a whole set */
    bool binary;                                          /* the map has no values but 0 and 1: thresholds mean nothing */
} fs_pixel_scores;
/* score: [h][w] in 0..1, truth: [h][w], not 0 = tampered. A score that is no number or outside 0..1 is FS_E_NUMERIC, with its place. */
fs_status fs_pixel_score(const float *score, const uint8_t *truth, int64_t w, int64_t h, fs_pixel_scores *out, fs_error *err);
/* The same for a picture that was called authentic and has no map: nothing is marked at any threshold. */
void fs_pixel_score_nothing(const uint8_t *truth, int64_t w, int64_t h, fs_pixel_scores *out);
double fs_pixel_iou(const fs_confusion *c); /* tp / (tp + fp + fn); 1 for 0/0 */
double fs_pixel_f1(const fs_confusion *c);  /* 2 tp / (2 tp + fp + fn); 1 for 0/0 */
/* Area under the curve of two histograms of scores (bins in rising order). NaN if one is empty. */
double fs_histogram_auc(const double *positive, const double *negative, size_t bins);
/* out[i] = 1 where every pixel within `reach` rows and columns has truth != 0, else 0 (pixels outside the picture do not count). */
fs_status fs_mask_erode(const uint8_t *truth, int64_t w, int64_t h, int64_t reach, bool value, uint8_t *out, fs_error *err);

/* ---- how sure -------------------------------------------------------------------------------------------------------- */

/* numpy's percentile, linear: q in 0..1; NaNs are left out; NaN if nothing is left. Sorts v. */
double fs_percentile(double *v, size_t n, double q);

typedef struct fs_interval {
    double low, high;
} fs_interval;
/* Figures of one resample: weight[i] = how often record i was drawn. */
typedef void (*fs_figures_fn)(void *user, const double *weight, double *out);
/* Percentile bootstrap. stratum: [n] (each stratum is drawn from by itself and keeps its size) or NULL. out: [figures]. The draws come from
 * fs_rng_seed(seed): strata by rising number, in each k = floor(u * size) as often as it has members. Resamples where a figure is NaN do
 * not count for that figure. */
fs_status fs_bootstrap(size_t n, const uint8_t *stratum, int resamples, double level, uint64_t seed, fs_figures_fn figures, void *user,
                       size_t n_figures, fs_interval *out, const fs_callbacks *callbacks, fs_error *err);

/* McNemar's exact test, two-sided: of the pictures on which two programs differ, `a` are right with the first only, `b` with the second. */
double fs_mcnemar_exact(int64_t a, int64_t b);

typedef struct fs_wilcoxon_result {
    size_t n, zeros;     /* differences other than 0, and those left out */
    double statistic, p; /* the smaller rank sum; two-sided */
    bool exact; /* at most 50 differences (zeros dropped) and no ties: exact; else the normal approximation with correction for ties */
} fs_wilcoxon_result;
/* Signed-rank test on pairs a[i], b[i]; zeros are dropped (Wilcoxon's own rule). p is NaN without a difference. */
fs_status fs_wilcoxon(const double *a, const double *b, size_t n, fs_wilcoxon_result *out, fs_error *err);

typedef struct fs_paired_mean {
    double mean;       /* of b - a */
    fs_interval range; /* percentile bootstrap over pairs */
    double p;          /* twice the smaller share of resamples on either side of 0, at most 1 */
} fs_paired_mean;
fs_status fs_paired_bootstrap(const double *a, const double *b, size_t n, int resamples, double level, uint64_t seed, fs_paired_mean *out,
                              fs_error *err);

#endif
