/* The sentence encoder from its files against transformers 4.37.2: mean of the last states. TOLERANCE: f32 sums in another order, states of
 * size about 1. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "eval/encoder.h"

#define DIR FS_GOLDEN_DIR "/bert"
#define TOLERANCE 1e-5

static void test_embeddings(void **state) {
    (void)state;
    fs_encoder *e = NULL;
    fs_error err = {0};
    assert_int_equal(fs_encoder_open(DIR, 0, 2, NULL, &e, &err), FS_OK);
    assert_int_equal(fs_encoder_width(e), 32);
    assert_string_equal(fs_encoder_describe(e), "bert, 2 layers, 32 wide, mean of at most 24 tokens");
    json_t *golden = json_load_file(DIR "/expected.json", JSON_ALLOW_NUL, NULL), *c;
    float *second = NULL, *third = NULL;
    size_t i;
    json_array_foreach(json_object_get(golden, "cases"), i, c) {
        const json_t *text = json_object_get(c, "text"), *expected = json_object_get(c, "embedding");
        float *v = NULL;
        bool cut = false;
        if (strlen(json_string_value(text)) != json_string_length(text)) continue;
        assert_int_equal(fs_encoder_run(e, json_string_value(text), &v, &cut, &err), FS_OK);
        assert_int_equal(cut, json_array_size(json_object_get(c, "cut")) == 24);
        for (size_t k = 0; k < 32; k++)
            if (!(fabs((double)v[k] - json_number_value(json_array_get(expected, k))) <= TOLERANCE))
                fail_msg("\"%s\": entry %zu is %g, expected %g", json_string_value(text), k, (double)v[k],
                         json_number_value(json_array_get(expected, k)));
        if (i == 2)
            second = v;
        else if (i == 3)
            third = v;
        else
            free(v);
    }
    assert_true(fabs(fs_cosine(second, third, 32) - json_number_value(json_object_get(golden, "cosine_2_3"))) < TOLERANCE);
    const float zero[2] = {0, 0}, one[2] = {1, 0}, other[2] = {0, -3};
    assert_true(isnan(fs_cosine(zero, one, 2)) && fs_cosine(one, other, 2) == 0 && fs_cosine(one, one, 2) == 1);
    free(second);
    free(third);
    json_decref(golden);
    fs_encoder_free(e);
}

static void test_refused(void **state) {
    (void)state;
    fs_encoder *e = NULL;
    fs_error err = {0};
    assert_int_equal(fs_encoder_open("/nowhere", 0, 1, NULL, &e, &err), FS_E_NOT_FOUND);
    assert_int_equal(fs_encoder_open(DIR, 2, 1, NULL, &e, &err), FS_E_USAGE); /* [CLS] and [SEP] alone */
    assert_null(e);
    assert_int_not_equal(fs_encoder_open(FS_TINY_DIR "/DTE-FDM", 0, 1, NULL, &e, &err), FS_OK); /* a LLaMA */
    assert_non_null(strstr(err.message, "BERT"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_embeddings), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
