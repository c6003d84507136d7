/* The figures of src/eval against scikit-learn, scipy and numpy (tests/golden/metrics.json, made by tools/reference/make_metric_goldens.py)
 * and against cases worked out by hand. TOLERANCE: both sides compute in double; what remains is the order of summation. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "eval/metrics.h"

#define TOLERANCE 1e-9

static json_t *golden(void **state) {
    return *state;
}

static int open_golden(void **state) {
    json_error_t why;
    *state = json_load_file(FS_GOLDEN_DIR "/metrics.json", 0, &why);
    return *state ? 0 : -1;
}
static int close_golden(void **state) {
    json_decref(*state);
    return 0;
}

static double number(const json_t *v) {
    return json_is_number(v) ? json_number_value(v) : NAN;
}
static double item(const json_t *list, size_t i) {
    return number(json_array_get(list, i));
}

/* NaN equals NaN. */
static void same(double got, double expected, const char *case_name, const char *figure) {
    if ((isnan(got) && isnan(expected)) || fabs(got - expected) <= TOLERANCE) return;
    fail_msg("%s: %s is %.15g, expected %.15g", case_name, figure, got, expected);
}

static double *numbers(const json_t *list, size_t *n) {
    *n = json_array_size(list);
    double *v = malloc((*n + 1) * sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < *n; i++) v[i] = item(list, i);
    return v;
}

/* ---- detection ---- */

static void compare_curve(const fs_ranking *r, const json_t *curve, const char *name) {
    fs_curve_point *points = NULL;
    size_t n = 0;
    fs_error err;
    assert_int_equal(fs_ranking_curve(r, &points, &n, &err), FS_OK);
    assert_int_equal(n, json_array_size(json_object_get(curve, "recall")));
    for (size_t i = 0; i < n; i++) {
        same(points[i].recall, item(json_object_get(curve, "recall"), i), name, "curve's recall");
        same(points[i].false_rate, item(json_object_get(curve, "false_rate"), i), name, "curve's false rate");
        /* scikit-learn keeps all thresholds of the two curves alike, with (0, 1) for the one at infinity */
        same(points[i].precision, item(json_object_get(curve, "precision"), i), name, "curve's precision");
        if (i) same(points[i].threshold, item(json_object_get(curve, "threshold"), i - 1), name, "curve's threshold");
    }
    assert_true(isinf(points[0].threshold));
    free(points);
}

static void test_detection(void **state) {
    const json_t *cases = json_object_get(golden(state), "detection"), *c;
    size_t index;
    assert_true(json_array_size(cases) >= 10);
    json_array_foreach(cases, index, c) {
        const char *name = json_string_value(json_object_get(c, "name"));
        size_t n;
        double *score = numbers(json_object_get(c, "score"), &n);
        bool *positive = malloc(n * sizeof *positive);
        fs_confusion counts = {0};
        for (size_t i = 0; i < n; i++) {
            positive[i] = item(json_object_get(c, "label"), i) > 0;
            fs_confusion_add(&counts, positive[i], item(json_object_get(c, "said"), i) > 0, 1);
        }
        const fs_rates r = fs_confusion_rates(&counts);
        same(r.accuracy, number(json_object_get(c, "accuracy")), name, "accuracy");
        same(r.f1, number(json_object_get(c, "f1")), name, "f1");
        same(r.precision, number(json_object_get(c, "precision")), name, "precision");
        same(r.recall, number(json_object_get(c, "recall")), name, "recall");
        same(r.specificity, number(json_object_get(c, "specificity")), name, "specificity");
        same(r.balanced, number(json_object_get(c, "balanced")), name, "balanced accuracy");
        same(r.iou, number(json_object_get(c, "iou")), name, "iou");
        fs_ranking ranking;
        fs_error err;
        assert_int_equal(fs_ranking_create(score, positive, n, NULL, &ranking, &err), FS_OK);
        same(fs_ranking_auc(&ranking, NULL), number(json_object_get(c, "auc")), name, "auc");
        same(fs_ranking_average_precision(&ranking, NULL), number(json_object_get(c, "ap")), name, "average precision");
        if (json_object_get(c, "curve")) compare_curve(&ranking, json_object_get(c, "curve"), name);
        fs_ranking_free(&ranking);
        free(score);
        free(positive);
    }
}

/* By hand: 3 forged, 2 real. Scores .9 .6 .6 | .6 .1: of 6 pairs 3 + 2 ties of a half for the .6 = .9 beats both (2), each .6 beats .1 (2)
 * and ties with .6 (1): 5 of 6. */
static void test_by_hand(void **state) {
    (void)state;
    const double score[] = {0.9, 0.6, 0.6, 0.6, 0.1};
    const bool positive[] = {true, true, true, false, false};
    fs_ranking r;
    fs_error err;
    assert_int_equal(fs_ranking_create(score, positive, 5, NULL, &r, &err), FS_OK);
    same(fs_ranking_auc(&r, NULL), 5.0 / 6, "by hand", "auc");
    same(fs_ranking_average_precision(&r, NULL), 1.0 / 3 * 1 + 2.0 / 3 * 0.75, "by hand", "ap");
    const double weight[] = {1, 0, 2, 1, 3}; /* as if the third were there twice and the last three times */
    same(fs_ranking_auc(&r, weight), (4 + 2 * (3 + 0.5)) / 12, "by hand", "weighted auc");
    fs_ranking_free(&r);

    fs_confusion c = fs_baseline_counts(FS_BASELINE_TAMPERED, 2010, 414); /* IMD2020: the figures published for it */
    same(fs_confusion_rates(&c).accuracy, 2010.0 / 2424, "IMD2020", "always tampered");
    same(fs_confusion_rates(&c).f1, 4020.0 / 4434, "IMD2020", "always tampered, f1");
    same(fs_confusion_rates(&c).balanced, 0.5, "IMD2020", "always tampered, balanced");
    c = fs_baseline_counts(FS_BASELINE_AUTHENTIC, 3, 1);
    same(fs_confusion_rates(&c).accuracy, 0.25, "baseline", "always authentic");
    same(fs_confusion_rates(&c).f1, 0, "baseline", "always authentic, f1");
    assert_true(isnan(fs_confusion_rates(&c).precision));
    c = fs_baseline_counts(FS_BASELINE_COIN, 3, 1);
    same(fs_confusion_rates(&c).f1, 3.0 / (3 + 1.5 + 0.5), "baseline", "coin, f1");
    for (int b = 0; b < FS_BASELINES; b++) {
        fs_baseline back;
        assert_true(fs_baseline_from_name(fs_baseline_name((fs_baseline)b), &back));
        assert_int_equal(back, b);
    }
}

static void test_nan_is_named(void **state) {
    (void)state;
    const double score[] = {0.9, NAN, 0.1};
    const bool positive[] = {true, true, false};
    const char *const names[] = {"a.jpg", "b.jpg", "c.jpg"};
    fs_ranking r;
    fs_error err = {0};
    assert_int_equal(fs_ranking_create(score, positive, 3, names, &r, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "b.jpg"));
    assert_int_equal(fs_ranking_create(score, positive, 3, NULL, &r, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "number 1"));
    assert_int_equal(fs_ranking_create(score, positive, 0, NULL, &r, &err), FS_OK);
    assert_true(isnan(fs_ranking_auc(&r, NULL)) && isnan(fs_ranking_average_precision(&r, NULL)));
    fs_ranking_free(&r);
}

/* ---- pixels ---- */

static void test_pixels(void **state) {
    const json_t *cases = json_object_get(golden(state), "pixel"), *c;
    size_t index;
    assert_true(json_array_size(cases) >= 15);
    json_array_foreach(cases, index, c) {
        const char *name = json_string_value(json_object_get(c, "name")), *bits = json_string_value(json_object_get(c, "truth"));
        const int64_t w = json_integer_value(json_object_get(c, "width")), h = json_integer_value(json_object_get(c, "height"));
        const float top = (float)number(json_object_get(c, "top"));
        const size_t n = (size_t)(w * h);
        float *score = malloc(n * sizeof *score);
        uint8_t *truth = malloc(n);
        for (size_t i = 0; i < n; i++) {
            score[i] = (float)item(json_object_get(c, "level"), i) / top;
            truth[i] = bits[i] == '1' ? 255 : 0;
        }
        fs_pixel_scores s;
        fs_error err = {0};
        assert_int_equal(fs_pixel_score(score, truth, w, h, &s, &err), FS_OK);
        const json_t *fixed = json_object_get(c, "fixed");
        const double got[] = {s.fixed.tp, s.fixed.fp, s.fixed.fn, s.fixed.tn};
        for (size_t k = 0; k < 4; k++) same(got[k], item(fixed, k), name, "a count at 0.5");
        same(s.iou, number(json_object_get(c, "iou")), name, "iou");
        same(s.f1, number(json_object_get(c, "f1")), name, "f1");
        same(s.auc, number(json_object_get(c, "auc")), name, "auc");
        same(s.best_f1, number(json_object_get(c, "best_f1")), name, "best f1");
        same(s.best_iou, number(json_object_get(c, "best_iou")), name, "best iou");
        same(s.permuted_f1, number(json_object_get(c, "permuted_f1")), name, "permuted f1");
        same(s.permuted_iou, number(json_object_get(c, "permuted_iou")), name, "permuted iou");
        same(s.permuted_best_f1, number(json_object_get(c, "permuted_best_f1")), name, "permuted best f1");
        double sum = 0;
        for (int k = 0; k < FS_MAP_BINS; k++) sum += s.tampered[k] + s.authentic[k];
        assert_true(sum == (double)n);
        if (top == 255)
            same(fs_histogram_auc(s.tampered, s.authentic, FS_MAP_BINS), s.auc, name, "auc of 8-bit levels from the histograms");
        free(score);
        free(truth);
    }
}

/* 4 x 4, the upper left quarter tampered; marked: the upper two rows. tp 4, fp 4: IoU 1/2, F1 2/3. */
static void test_pixels_by_hand(void **state) {
    (void)state;
    float score[16];
    uint8_t truth[16];
    for (int i = 0; i < 16; i++) score[i] = i < 8 ? 1 : 0, truth[i] = i < 8 && i % 4 < 2;
    fs_pixel_scores s, none;
    fs_error err = {0};
    assert_int_equal(fs_pixel_score(score, truth, 4, 4, &s, &err), FS_OK);
    same(s.iou, 0.5, "by hand", "iou");
    same(s.f1, 2.0 / 3, "by hand", "f1");
    same(s.auc, (1 + (1 - 1.0 / 3)) / 2, "by hand", "auc");
    assert_true(s.binary);
    fs_pixel_score_nothing(truth, 4, 4, &none);
    same(none.iou, 0, "called authentic", "iou");
    same(none.best_f1, 0, "called authentic", "best f1");
    same(none.auc, 0.5, "called authentic", "auc");
    assert_true(none.fixed.fn == 4 && none.fixed.tn == 12);
    memset(truth, 0, sizeof truth);
    fs_pixel_score_nothing(truth, 4, 4, &none);
    same(none.iou, 1, "empty mask, nothing marked", "iou");
    same(none.f1, 1, "empty mask, nothing marked", "f1");

    score[6] = NAN;
    assert_int_equal(fs_pixel_score(score, truth, 4, 4, &s, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "column 2, row 1"));
    score[6] = 1.5f;
    assert_int_equal(fs_pixel_score(score, truth, 4, 4, &s, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "1.5"));
}

/* ---- how sure ---- */

typedef struct sample {
    size_t n;
    double *score, *value;
    bool *positive;
    fs_ranking ranking;
} sample;

static void figures(void *user, const double *weight, double *out) {
    const sample *s = user;
    fs_confusion c = {0};
    double sum = 0, count = 0;
    for (size_t i = 0; i < s->n; i++) {
        fs_confusion_add(&c, s->positive[i], s->score[i] > 0.5, weight[i]);
        if (!isnan(s->value[i])) sum += weight[i] * s->value[i], count += weight[i];
    }
    out[0] = fs_confusion_rates(&c).accuracy;
    out[1] = fs_confusion_rates(&c).f1;
    out[2] = fs_ranking_auc(&s->ranking, weight);
    out[3] = fs_ranking_average_precision(&s->ranking, weight);
    out[4] = sum / count;
}

static void test_bootstrap(void **state) {
    const json_t *b = json_object_get(golden(state), "bootstrap"), *cases = json_object_get(b, "cases"), *c;
    sample s = {0};
    size_t index, n;
    fs_error err = {0};
    s.score = numbers(json_object_get(b, "score"), &s.n);
    s.value = numbers(json_object_get(b, "value"), &n);
    s.positive = malloc(s.n * sizeof *s.positive);
    uint8_t *stratum = malloc(s.n);
    for (size_t i = 0; i < s.n; i++) {
        s.positive[i] = item(json_object_get(b, "label"), i) > 0;
        stratum[i] = s.positive[i];
    }
    assert_int_equal(fs_ranking_create(s.score, s.positive, s.n, NULL, &s.ranking, &err), FS_OK);
    json_array_foreach(cases, index, c) {
        const bool stratified = json_is_true(json_object_get(c, "stratified"));
        fs_interval got[5];
        assert_int_equal(fs_bootstrap(s.n, stratified ? stratum : NULL, (int)json_integer_value(json_object_get(b, "resamples")), 0.95,
                                      (uint64_t)json_integer_value(json_object_get(b, "seed")), figures, &s, 5, got, NULL, &err),
                         FS_OK);
        for (size_t k = 0; k < 5; k++) {
            const char *figure = json_string_value(json_array_get(json_object_get(b, "figures"), k));
            same(got[k].low, item(json_object_get(c, "low"), k), stratified ? "stratified" : "plain", figure);
            same(got[k].high, item(json_object_get(c, "high"), k), stratified ? "stratified" : "plain", figure);
        }
    }
    fs_ranking_free(&s.ranking);
    free(s.score), free(s.value), free(s.positive), free(stratum);
}

static void test_percentile(void **state) {
    const json_t *p = json_object_get(golden(state), "percentile");
    for (size_t i = 0; i < json_array_size(json_object_get(p, "q")); i++) {
        size_t n;
        double *v = numbers(json_object_get(p, "values"), &n);
        v[n] = NAN; /* is left out */
        same(fs_percentile(v, n + 1, item(json_object_get(p, "q"), i)), item(json_object_get(p, "out"), i), "percentile", "value");
        free(v);
    }
    double none[] = {NAN};
    assert_true(isnan(fs_percentile(none, 1, 0.5)) && isnan(fs_percentile(none, 0, 0.5)));
}

static void test_paired(void **state) {
    const json_t *cases = json_object_get(golden(state), "mcnemar"), *c;
    size_t index;
    json_array_foreach(cases, index, c)
        same(fs_mcnemar_exact(json_integer_value(json_object_get(c, "a")), json_integer_value(json_object_get(c, "b"))),
             number(json_object_get(c, "p")), "mcnemar", "p");
    same(fs_mcnemar_exact(0, 3), 0.25, "by hand", "mcnemar's p"); /* 2 / 2^3 */
    json_array_foreach(json_object_get(golden(state), "wilcoxon"), index, c) {
        const char *name = json_string_value(json_object_get(c, "name"));
        size_t n;
        double *a = numbers(json_object_get(c, "a"), &n), *b = numbers(json_object_get(c, "b"), &n);
        fs_wilcoxon_result r;
        fs_error err = {0};
        assert_int_equal(fs_wilcoxon(a, b, n, &r, &err), FS_OK);
        assert_int_equal(r.n, json_integer_value(json_object_get(c, "n")));
        assert_int_equal(r.exact, json_is_true(json_object_get(c, "exact")));
        same(r.statistic, number(json_object_get(c, "statistic")), name, "statistic");
        same(r.p, number(json_object_get(c, "p")), name, "p");
        free(a), free(b);
    }
    const double equal[] = {1, 2, 3};
    fs_wilcoxon_result r;
    fs_paired_mean m;
    fs_error err = {0};
    assert_int_equal(fs_wilcoxon(equal, equal, 3, &r, &err), FS_OK);
    assert_true(isnan(r.p) && r.zeros == 3);
    const double more[] = {1.5, 2.5, 3.5};
    assert_int_equal(fs_paired_bootstrap(equal, more, 3, 500, 0.95, 1, &m, &err), FS_OK);
    same(m.mean, 0.5, "paired", "mean");
    same(m.range.low, 0.5, "paired", "low");
    same(m.p, 0, "paired", "p");
    assert_int_equal(fs_paired_bootstrap(equal, equal, 3, 500, 0.95, 1, &m, &err), FS_OK);
    same(m.p, 1, "no difference", "p");
    assert_int_equal(fs_paired_bootstrap(equal, equal, 0, 500, 0.95, 1, &m, &err), FS_OK);
    assert_true(isnan(m.mean));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_detection),      cmocka_unit_test(test_by_hand),
                                       cmocka_unit_test(test_nan_is_named),   cmocka_unit_test(test_pixels),
                                       cmocka_unit_test(test_pixels_by_hand), cmocka_unit_test(test_bootstrap),
                                       cmocka_unit_test(test_percentile),     cmocka_unit_test(test_paired)};
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
