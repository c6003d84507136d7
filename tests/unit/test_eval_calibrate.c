/* Calibration: the fit against scores whose true probability is known, classes of unequal size, data without information; reading what a
 * bundle says. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "eval/calibrate.h"
#include "pipeline/calibration.h"

static fs_error err;

static double normal(fs_rng *r) {
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += fs_rng_uniform(r);
    return sum;
}

/* Log-odds of two normal classes, means -1 and 1 and deviation 1: the true log-odds at even odds are 2 x. Then spoilt: (x - 3) * 4. */
static size_t draw(fs_scored *s, size_t tampered, size_t authentic) {
    fs_rng r = fs_rng_seed(7);
    for (size_t i = 0; i < tampered + authentic; i++) {
        const bool t = i < tampered;
        const double x = (t ? 1 : -1) + normal(&r);
        s[i] = (fs_scored){4 * (2 * x - 3), t};
    }
    return tampered + authentic;
}

static void test_fit(void **state) {
    (void)state;
    static fs_scored s[9000];
    const size_t mixtures[2][2] = {{4000, 4000}, {1000, 8000}};
    for (int k = 0; k < 2; k++) {
        double slope, offset;
        const size_t n = draw(s, mixtures[k][0], mixtures[k][1]);
        assert_int_equal(fs_calibration_fit(s, n, &slope, &offset, &err), FS_OK);
        /* 4 deviations of the estimate at 1000 pictures are some 12 %; the class sizes do not matter */
        assert_true(fabs(slope - 0.25) < 0.03);
        assert_true(fabs(offset - 3) < 0.4);
        assert_true(fs_calibration_error(s, n, 1, 0) > 0.2);
        assert_true(fs_calibration_error(s, n, slope, offset) < 0.03);
    }
}

static void test_separated(void **state) {
    (void)state;
    fs_scored s[40];
    double slope, offset;
    for (int i = 0; i < 40; i++) s[i] = (fs_scored){i < 20 ? -1 : 1, i >= 20};
    assert_int_equal(fs_calibration_fit(s, 40, &slope, &offset, &err), FS_OK);
    /* the smoothed targets are 21/22 and 1/22: log-odds of log(21) at 1 */
    assert_true(fabs(slope - log(21)) < 1e-6 && fabs(offset) < 1e-6);
}

static void test_useless(void **state) {
    (void)state;
    fs_scored s[40];
    double slope, offset;
    for (int i = 0; i < 40; i++) s[i] = (fs_scored){i % 2 ? -1.0 : 1.0, i % 2 == 1}; /* the wrong way round */
    assert_int_equal(fs_calibration_fit(s, 40, &slope, &offset, &err), FS_E_FAILED);
    assert_non_null(strstr(err.message, "rank"));
    for (int i = 0; i < 40; i++) s[i] = (fs_scored){i, i < 5};
    assert_int_equal(fs_calibration_fit(s, 40, &slope, &offset, &err), FS_E_USAGE);
    assert_true(isfinite(fs_log_odds(0)) && isfinite(fs_log_odds(1)) && fs_log_odds(0.5) == 0);
}

static void test_apply(void **state) {
    (void)state;
    const fs_calibration none = {0}, c = {.on = true, .slope = 0.5, .offset = 1, .low = 0.4, .high = 0.6};
    assert_true(fs_calibration_apply(&none, 0) == 0.5);
    assert_true(fabs(fs_calibration_apply(&c, -2) - 0.5) < 1e-12);
    assert_true(fabs(fs_calibration_apply(&c, 0) - 1 / (1 + exp(-1))) < 1e-12);
    assert_true(fs_calibration_open_verdict(&c, 0.5) && !fs_calibration_open_verdict(&c, 0.4) && !fs_calibration_open_verdict(&c, 0.7));
    assert_false(fs_calibration_open_verdict(&none, 0.5));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_fit), cmocka_unit_test(test_separated), cmocka_unit_test(test_useless),
                                       cmocka_unit_test(test_apply)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
