/* Place and size in words against values worked out by hand: what counts, what is beside what, texts that name nothing, what a constant
 * answer gets, and that a row keeps its words in a file. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eval/words.h"

#define TOLERANCE 1e-12 /* sums of a few small fractions */

static void row(fs_eval_book *b, bool tampered, int position, int size, const char *text) {
    fs_eval_row *r = fs_eval_rows_add(&b->rows);
    fs_error err = {0};
    assert_non_null(r);
    r->index = (int64_t)b->rows.count;
    r->condition = fs_strdup(""), r->set = fs_strdup("X"), r->group = fs_strdup("X"), r->name = fs_strdup("p"), r->image = fs_strdup("p");
    r->tampered = tampered;
    r->truth_words = (fs_eval_words){position, size};
    if (text) assert_int_equal(fs_eval_row_take_text(r, text, &err), FS_OK);
}

#define YES "1. Whether the picture has been tampered with: The picture has been tampered with. "
#define NO "The picture has not been tampered with. "

static void test_figures(void **state) {
    (void)state;
    fs_eval_book book = {0};
    fs_eval_options opt = fs_eval_options_defaults();
    fs_eval_summary s;
    fs_error err = {0};
    opt.resamples = 200;
    /* positions 0 1 2 / 3 4 5 / 6 7 8; sizes 0 tiny to 4 very large */
    row(&book, true, 0, 1, YES "A small area in the upper left.");
    row(&book, true, 4, 1, YES "A medium-sized area in the center."); /* the class beside it */
    row(&book, true, 4, 1, YES "A small area, upper middle.");        /* the cell beside it */
    row(&book, true, 4, 1, YES "A small area in the upper left.");    /* over the corner is not beside */
    row(&book, true, 4, 3, YES "It is the Center.");                  /* no size */
    row(&book, true, 8, 0, YES "An area at the bottom right.");       /* other words: nothing is named */
    row(&book, true, 2, 4, YES "A very large area, middle left.");    /* 2 and 3 are not beside one another */
    const size_t counted = book.rows.count;
    row(&book, true, 4, 1, NO "A small area in the center."); /* not detected */
    row(&book, false, -1, -1, YES "A small area in the center.");
    row(&book, true, -1, -1, YES "A small area in the center."); /* an empty mask */
    row(&book, true, 4, 1, NULL);                                /* no text */
    assert_int_equal(fs_eval_summarize(&book, &opt, &s, &err), FS_OK);
    const fs_eval_table *t = &s.tables[0];
    assert_int_equal(t->words.n, counted);
    assert_int_equal(t->words.no_position, 1);
    assert_int_equal(t->words.no_size, 2);
    /* both, both near, position, position near, size, size near; of 7 */
    const double right[FS_WORD_FIGURES] = {1, 3, 3, 4, 4, 5};
    /* always (4, small); (1, medium-sized): 0, three times 4 small, 4 large; 4; 1: 0, 2, four times 4; small; small */
    const double constant[FS_WORD_FIGURES] = {3, 5, 4, 6, 4, 5};
    for (int k = 0; k < FS_WORD_FIGURES; k++) {
        const int f = FS_FIG_WORDS + k;
        if (!(fabs(t->value[f] - right[k] / 7) < TOLERANCE)) fail_msg("%s: %g", fs_figure_key((fs_figure)f), t->value[f]);
        if (!(fabs(t->words.constant[k] - constant[k] / 7) < TOLERANCE))
            fail_msg("%s, constant: %g", fs_figure_key((fs_figure)f), t->words.constant[k]);
        assert_true(t->range[f].low < t->value[f] && t->value[f] < t->range[f].high); /* 200 resamples of 7 reach both sides */
    }
    assert_int_equal(t->words.frequent.position, 4);
    assert_int_equal(t->words.frequent.size, 1);
    assert_string_equal(fs_figure_key((fs_figure)(FS_FIG_WORDS + FS_WORDS_SIZE + 1)), "explanation.words.size_near");
    fs_eval_summary_free(&s);
    fs_eval_book_free(&book);
}

/* No forgery was called so: no figure, no constant. */
static void test_nothing_detected(void **state) {
    (void)state;
    fs_eval_book book = {0};
    fs_eval_options opt = fs_eval_options_defaults();
    fs_eval_summary s;
    fs_error err = {0};
    opt.resamples = 20;
    row(&book, true, 4, 1, NO);
    row(&book, false, -1, -1, NO);
    assert_int_equal(fs_eval_summarize(&book, &opt, &s, &err), FS_OK);
    assert_true(s.tables[0].words.n == 0 && s.tables[0].words.frequent.position == -1);
    for (int k = 0; k < FS_WORD_FIGURES; k++)
        assert_true(isnan(s.tables[0].value[FS_FIG_WORDS + k]) && isnan(s.tables[0].range[FS_FIG_WORDS + k].low));
    fs_eval_summary_free(&s);
    fs_eval_book_free(&book);
}

static void test_reading(void **state) {
    (void)state;
    static const struct {
        const char *text;
        fs_eval_words words;
    } cases[] = {
        {YES "The tampered area is a small cat in the lower middle.\n2. Judgment basis: - a large shadow in the upper left", {7, 1}},
        {YES "The cat.\n2. Judgment basis: - a large shadow in the upper left", {-1, -1}}, /* what the area is not */
        {"It is large, MIDDLE RIGHT.", {5, 3}},                                            /* no shape at all: all of it */
        {"", {-1, -1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fs_eval_words w;
        fs_error err = {0};
        assert_int_equal(fs_eval_words_read(cases[i].text, &w, &err), FS_OK);
        if (w.position != cases[i].words.position || w.size != cases[i].words.size) fail_msg("%zu: %d, %d", i, w.position, w.size);
    }
    uint8_t truth[30 * 30] = {0};
    for (int y = 20; y < 24; y++) /* 24 pixels of 900 at the lower left: 2.7 % */
        for (int x = 0; x < 6; x++) truth[30 * y + x] = 255;
    const fs_eval_words w = fs_eval_words_of(truth, 30, 30);
    assert_true(w.position == 6 && w.size == 1);
}

static void test_file(void **state) {
    (void)state;
    fs_eval_book book = {0};
    fs_eval_row back;
    fs_error err = {0};
    row(&book, true, 6, 2, YES "Large, lower left.");
    row(&book, false, -1, -1, NULL);
    for (size_t i = 0; i < 2; i++) {
        json_t *j = fs_eval_row_to_json(&book.rows.items[i]);
        assert_non_null(j);
        assert_int_equal(fs_eval_row_from_json("row", j, &back, &err), FS_OK);
        assert_memory_equal(&back.truth_words, &book.rows.items[i].truth_words, sizeof back.truth_words);
        assert_memory_equal(&back.said_words, &book.rows.items[i].said_words, sizeof back.said_words);
        fs_eval_row_free(&back);
        if (i == 0) {
            json_object_del(j, "true_words"); /* as earlier versions wrote it */
            assert_int_equal(fs_eval_row_from_json("row", j, &back, &err), FS_OK);
            assert_int_equal(back.truth_words.position, -1);
            fs_eval_row_free(&back);
            json_object_set_new(j, "true_words", json_pack("{s:s, s:s}", "position", "lower left", "size", "huge"));
            assert_int_equal(fs_eval_row_from_json("row", j, &back, &err), FS_E_FORMAT);
            assert_non_null(strstr(err.message, "huge"));
        }
        json_decref(j);
    }
    fs_eval_book_free(&book);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_figures), cmocka_unit_test(test_nothing_detected),
                                       cmocka_unit_test(test_reading), cmocka_unit_test(test_file)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
