/* Drawing a token: the kept ids and their probabilities against transformers 4.37.2's warpers (tests/golden/text/sampling.json), the draw's
 * distribution with a fixed seed, greedy's ties, and numbers that are none. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "text/sample_internal.h"

static void keeps_what_transformers_keeps(void **state) {
    (void)state;
    json_error_t e;
    json_t *golden = json_load_file(FS_GOLDEN_DIR "/text/sampling.json", 0, &e), *c;
    size_t i;
    if (!golden) fail_msg("%s", e.text);
    assert_true(json_array_size(golden) >= 14);
    json_array_foreach(golden, i, c) {
        json_t *logits = json_object_get(c, "logits"), *kept = json_object_get(c, "probabilities");
        int32_t n = (int32_t)json_array_size(logits);
        float *v = fs_alloc((size_t)n, sizeof *v);
        fs_error err;
        fs_sampling s = {.temperature = (float)json_number_value(json_object_get(c, "temperature")),
                         .top_k = (int)json_integer_value(json_object_get(c, "top_k")),
                         .top_p = (float)json_number_value(json_object_get(c, "top_p"))};
        for (int32_t k = 0; k < n; k++) v[k] = (float)json_number_value(json_array_get(logits, (size_t)k));
        assert_int_equal(fs_sample_distribution(v, n, &s, &err), FS_OK);
        size_t positive = 0;
        for (int32_t k = 0; k < n; k++) positive += v[k] > 0;
        /* ids whose probability is 0 in float although they stay cannot be drawn either way */
        for (size_t k = 0; k < json_array_size(kept); k++) {
            int32_t id = (int32_t)json_integer_value(json_array_get(json_array_get(kept, k), 0));
            double want = json_number_value(json_array_get(json_array_get(kept, k), 1));
            /* torch sums 300 floats, this sums doubles: some units of 2^-24 apart */
            if (fabs((double)v[id] - want) > 2e-6 * want + 1e-12)
                fail_msg("case %zu: id %d has probability %.9g, expected %.9g", i, id, (double)v[id], want);
            positive -= v[id] > 0;
        }
        if (positive) fail_msg("case %zu: %zu ids stay that transformers removes", i, positive);
        free(v);
    }
    json_decref(golden);
}

/* 20,000 draws from six ids whose probabilities are known: Pearson's statistic stays under the 99.9 % point of chi-square with 5 degrees
 * of freedom (20.5). The seed is fixed, so this either always holds or never. */
static void draws_by_probability(void **state) {
    (void)state;
    static const float logits[6] = {0.0f, 1.0f, 2.0f, -1.0f, 0.5f, 1.5f};
    const fs_sampling s = {.temperature = 0.8f, .top_k = 0, .top_p = 1.0f};
    enum { DRAWS = 20000 };
    fs_rng rng = fs_rng_seed(11);
    fs_error err;
    double p[6], total = 0, chi2 = 0;
    int seen[6] = {0};
    for (int i = 0; i < 6; i++) total += p[i] = exp((double)logits[i] / 0.8);
    for (int d = 0; d < DRAWS; d++) {
        float v[6];
        int32_t id;
        memcpy(v, logits, sizeof v);
        assert_int_equal(fs_draw_token(v, 6, &s, &rng, &id, &err), FS_OK);
        assert_in_range(id, 0, 5);
        seen[id]++;
    }
    for (int i = 0; i < 6; i++) {
        double expected = DRAWS * p[i] / total;
        chi2 += (seen[i] - expected) * (seen[i] - expected) / expected;
    }
    if (!(chi2 < 20.5)) fail_msg("chi-square is %g", chi2);
}

static void a_seed_repeats(void **state) {
    (void)state;
    const fs_sampling s = {.temperature = 1.0f, .top_k = 50, .top_p = 0.9f};
    int32_t first[64], id;
    int different = 0;
    fs_error err;
    for (int round = 0; round < 3; round++) {
        fs_rng rng = fs_rng_seed(round == 2 ? 2 : 1);
        for (int i = 0; i < 64; i++) {
            float v[1000];
            for (int k = 0; k < 1000; k++) v[k] = (float)((k * 7919 + i * 104729) % 1000) / 250.0f;
            assert_int_equal(fs_draw_token(v, 1000, &s, &rng, &id, &err), FS_OK);
            if (round == 0) first[i] = id;
            if (round == 1) assert_int_equal(id, first[i]);
            if (round == 2) different += id != first[i];
        }
    }
    assert_true(different > 32);
}

static int32_t greedy(const float *v, int32_t n) {
    fs_sampling s = {.temperature = 0, .top_k = 50, .top_p = 0.1f};
    fs_rng rng = fs_rng_seed(1);
    fs_error err;
    float copy[8];
    int32_t id = -1;
    memcpy(copy, v, (size_t)n * sizeof *v);
    assert_int_equal(fs_draw_token(copy, n, &s, &rng, &id, &err), FS_OK);
    return id;
}

static void greedy_takes_the_first_largest(void **state) {
    (void)state;
    assert_int_equal(greedy((const float[]){1, 3, 2, 3}, 4), 1);
    assert_int_equal(greedy((const float[]){-5, -5}, 2), 0);
    assert_int_equal(greedy((const float[]){-INFINITY, -2, -INFINITY}, 3), 1);
    assert_int_equal(greedy((const float[]){0}, 1), 0);
}

static void ties_at_the_limit_stay(void **state) {
    (void)state;
    fs_error err;
    float v[6] = {1, 2, 2, 2, 0, 3};
    const fs_sampling s = {.temperature = 1.0f, .top_k = 2, .top_p = 1.0f};
    assert_int_equal(fs_sample_distribution(v, 6, &s, &err), FS_OK);
    assert_true(v[1] > 0 && v[2] > 0 && v[3] > 0 && v[5] > v[1] && v[0] == 0 && v[4] == 0);
    /* top-p among equals removes the lower ids first, and the last id stays whatever p is */
    float w[4] = {1, 1, 1, 1};
    const fs_sampling p = {.temperature = 1.0f, .top_k = 0, .top_p = 0.5f}, zero = {.temperature = 1.0f, .top_p = 0};
    assert_int_equal(fs_sample_distribution(w, 4, &p, &err), FS_OK);
    assert_true(w[0] == 0 && w[1] == 0 && w[2] == 0.5f && w[3] == 0.5f);
    float x[3] = {5, 5, 1};
    assert_int_equal(fs_sample_distribution(x, 3, &zero, &err), FS_OK);
    assert_true(x[0] == 0 && x[1] == 1 && x[2] == 0);
}

static fs_status status_of(float a, float b, fs_sampling s, const char *says) {
    float v[2] = {a, b};
    fs_rng rng = fs_rng_seed(1);
    fs_error err = {0};
    int32_t id;
    fs_status st = fs_draw_token(v, 2, &s, &rng, &id, &err);
    if (!strstr(err.message, says)) fail_msg("\"%s\" lacks \"%s\"", err.message, says);
    return st;
}

static void refuses_what_is_no_number(void **state) {
    (void)state;
    fs_sampling s = {.temperature = 1.0f, .top_k = 0, .top_p = 1.0f}, g = {.temperature = 0, .top_p = 1.0f};
    assert_int_equal(status_of(NAN, 1, s, "token 0"), FS_E_NUMERIC);
    assert_int_equal(status_of(1, NAN, g, "token 1"), FS_E_NUMERIC);
    assert_int_equal(status_of(1, INFINITY, s, "token 1"), FS_E_NUMERIC);
    assert_int_equal(status_of(-INFINITY, -INFINITY, g, "every token"), FS_E_NUMERIC);
    s.temperature = -1;
    assert_int_equal(status_of(1, 2, s, "temperature"), FS_E_USAGE);
    s.temperature = NAN;
    assert_int_equal(status_of(1, 2, s, "temperature"), FS_E_USAGE);
    s.temperature = 1e-45f;
    assert_int_equal(status_of(1, 2, s, "too small"), FS_E_USAGE);
    assert_int_equal(status_of(-1, -2, s, "too small"), FS_E_USAGE);
    s = (fs_sampling){.temperature = 1, .top_p = 1.5f};
    assert_int_equal(status_of(1, 2, s, "top_p"), FS_E_USAGE);
    s = (fs_sampling){.temperature = 1, .top_p = 1, .top_k = -1};
    assert_int_equal(status_of(1, 2, s, "top_k"), FS_E_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keeps_what_transformers_keeps),
        cmocka_unit_test(draws_by_probability),
        cmocka_unit_test(a_seed_repeats),
        cmocka_unit_test(greedy_takes_the_first_largest),
        cmocka_unit_test(ties_at_the_limit_stay),
        cmocka_unit_test(refuses_what_is_no_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
