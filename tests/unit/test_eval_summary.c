/* The tables that follow from rows, against numpy and scikit-learn (tests/golden/metrics.json, "set"): means over forged pictures, pooled
 * pixels, the original's gIoU and cIoU, the best threshold of a set; pictures that were called authentic, empty masks, authentic pictures
 * among them. TOLERANCE: both sides compute in double. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eval/eval.h"

#define TOLERANCE 1e-9

static double number(const json_t *v) {
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static fs_eval_row *add(fs_eval_book *b, const char *group, bool tampered, double score, fs_verdict literal, fs_verdict tolerant) {
    fs_eval_row *r = fs_eval_rows_add(&b->rows);
    assert_non_null(r);
    r->index = (int64_t)b->rows.count;
    r->condition = fs_strdup("");
    r->set = fs_strdup(group);
    r->group = fs_strdup(group);
    r->name = fs_format("p%zu", b->rows.count);
    r->image = fs_strdup("p");
    r->tampered = tampered;
    r->has_score = true;
    r->score = score;
    r->answered = literal != FS_VERDICT_UNDETERMINED;
    r->literal = literal;
    r->tolerant = tolerant;
    return r;
}

static void test_set(void **state) {
    (void)state;
    json_t *golden = json_load_file(FS_GOLDEN_DIR "/metrics.json", 0, NULL), *set = json_object_get(golden, "set"), *p;
    const int64_t w = json_integer_value(json_object_get(set, "width")), h = json_integer_value(json_object_get(set, "height"));
    fs_eval_book book = {0};
    fs_eval_options opt = fs_eval_options_defaults();
    fs_eval_summary s;
    fs_error err = {0};
    size_t i;
    float score[1024];
    uint8_t truth[1024];
    assert_true(w * h <= 1024);
    json_array_foreach(json_object_get(set, "pictures"), i, p) {
        const char *bits = json_string_value(json_object_get(p, "truth"));
        for (int64_t k = 0; k < w * h; k++) {
            score[k] = (float)json_integer_value(json_array_get(json_object_get(p, "level"), (size_t)k)) / 255;
            truth[k] = bits[k] == '1';
        }
        fs_eval_row *r = add(&book, "X", json_is_true(json_object_get(p, "tampered")), 0.5, FS_VERDICT_TAMPERED, FS_VERDICT_TAMPERED);
        r->located = true;
        r->silent = json_is_true(json_object_get(p, "silent"));
        if (r->silent)
            fs_pixel_score_nothing(truth, w, h, &r->pixels);
        else
            assert_int_equal(fs_pixel_score(score, truth, w, h, &r->pixels, &err), FS_OK);
    }
    opt.resamples = 200;
    assert_int_equal(fs_eval_summarize(&book, &opt, &s, &err), FS_OK);
    assert_int_equal(s.count, 1);
    const fs_eval_table *t = &s.tables[0];
    const char *key;
    json_t *value;
    size_t seen = 0;
    json_object_foreach(json_object_get(set, "figures"), key, value) for (int f = 0; f < FS_FIGURES; f++) {
        if (strcmp(fs_figure_key((fs_figure)f), key) != 0) continue;
        seen++;
        if (!(fabs(t->value[f] - number(value)) <= TOLERANCE)) fail_msg("%s is %.15g, expected %.15g", key, t->value[f], number(value));
        if (!(t->range[f].low <= t->value[f] + 1e-12 && t->value[f] <= t->range[f].high + 1e-12))
            fail_msg("%s: %g is outside of %g to %g", key, t->value[f], t->range[f].low, t->range[f].high);
    }
    assert_int_equal(seen, json_object_size(json_object_get(set, "figures")));
    assert_true(t->threshold_iou == number(json_object_get(set, "threshold_iou")) &&
                t->threshold_f1 == number(json_object_get(set, "threshold_f1")));
    assert_true(t->located == 7 && t->located_authentic == 2 && t->silent == 1 && t->empty_masks == 1 && !t->binary);
    fs_eval_summary_free(&s);
    fs_eval_book_free(&book);
    json_decref(golden);
}

/* Two sets and what is common to both; the three readings differ; a NaN score by both policies. */
static void test_readings(void **state) {
    (void)state;
    const fs_verdict U = FS_VERDICT_UNDETERMINED, A = FS_VERDICT_AUTHENTIC, T = FS_VERDICT_TAMPERED;
    fs_eval_book book = {0};
    fs_eval_options opt = fs_eval_options_defaults();
    fs_eval_summary s;
    fs_error err = {0};
    opt.resamples = 0;
    add(&book, "one", true, 0.9, T, T);
    add(&book, "one", true, 0.4, A, A);
    add(&book, "one", false, 0.6, T, A); /* authentic in other words than the original's */
    add(&book, "one", false, 0.1, A, U); /* no statement: read literally */
    add(&book, "two", true, 0.7, U, U);  /* no text at all */
    add(&book, "two", true, NAN, T, T);
    assert_int_equal(fs_eval_summarize(&book, &opt, &s, &err), FS_E_NUMERIC);
    opt.nan = FS_EVAL_EXCLUDE;
    assert_int_equal(fs_eval_summarize(&book, &opt, &s, &err), FS_OK);
    assert_int_equal(s.count, 3);
    const fs_eval_table *one = &s.tables[0], *two = &s.tables[1], *all = &s.tables[2];
    assert_string_equal(one->group, "one");
    assert_string_equal(all->group, "all");
    const double accuracy[3] = {0.5, 0.75, 0.5};
    for (int k = 0; k < 3; k++) assert_true(fabs(one->value[FS_FIG_DETECTION + FS_RATES * k] - accuracy[k]) < TOLERANCE);
    assert_true(fabs(one->value[FS_FIG_AUC] - 0.75) < TOLERANCE && one->undetermined == 1);
    assert_true(two->answered[0] == 1 && two->answered[2] == 1 && two->ranked == 1 && isnan(two->value[FS_FIG_AUC]) &&
                isnan(two->value[FS_FIG_DETECTION + 5]));
    assert_true(all->pictures == 6 && all->answered[0] == 5 && all->ranked == 5);
    assert_true(fabs(all->value[FS_FIG_AUC] - 5.0 / 6) < TOLERANCE); /* .9 .4 .7 against .6 .1 */
    assert_true(isnan(all->value[FS_FIG_LOCAL]) && isnan(all->value[FS_FIG_CSS]) && isnan(all->range[FS_FIG_AUC].low));
    assert_int_equal(strlen(s.data_hash), 64);
    fs_eval_summary_free(&s);
    fs_eval_book_free(&book);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_set), cmocka_unit_test(test_readings)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
