/* Several pictures explained together: every result is the one the picture gets alone, whatever stands beside it and however many are in
 * flight; a picture that fails or is stopped takes no other with it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pipeline/pipeline.h"

static const char *const pictures[] = {FS_GOLDEN_DIR "/e2e_wide.png", FS_GOLDEN_DIR "/e2e_tall.png", FS_GOLDEN_DIR "/e2e_square.png",
                                       FS_GOLDEN_DIR "/e2e_large.png"};
enum { PICTURES = 4, JOBS = 15 };

static fs_detector *open_detector(const fs_options *opt) {
    fs_detector *d = NULL;
    fs_error err = {0};
    if (fs_detector_create(FS_TINY_DIR, opt, &d, &err)) fail_msg("%s", err.message);
    return d;
}

static char *json_of(const fs_result *r) {
    char *json = NULL;
    fs_error err = {0};
    if (fs_result_to_json(r, NULL, NULL, false, true, &json, &err)) fail_msg("%s", err.message);
    return json;
}

struct order { size_t begun[JOBS], ended[JOBS], n_begun, n_ended; };
static void on_started(void *user, size_t i) {
    struct order *o = user;
    o->begun[o->n_begun++] = i;
}
static void on_finished(void *user, size_t i) {
    struct order *o = user;
    o->ended[o->n_ended++] = i;
}

/* batches: ends with -1 */
static void compare_with_alone(fs_options opt, const char *question, const int *batches) {
    char *alone[PICTURES];
    fs_error err = {0};
    fs_detector *d = open_detector(&opt);
    for (int p = 0; p < PICTURES; p++) {
        fs_result *r = NULL;
        if (fs_explain_question(d, pictures[p], question, &r, &err)) fail_msg("%s", err.message);
        alone[p] = json_of(r);
        fs_result_free(r);
    }
    fs_detector_free(d);
    for (size_t b = 0; batches[b] >= 0; b++) {
        opt.batch = batches[b];
        opt.threads = 1 + (int)b % 3;
        d = open_detector(&opt);
        fs_explain_job jobs[JOBS] = {0};
        struct order order = {0};
        for (int i = 0; i < JOBS; i++) jobs[i] = (fs_explain_job){.image_path = pictures[i * 7 % PICTURES], .question = question};
        jobs[2].image_path = "/nowhere/at-all.png";
        jobs[9].image_path = FS_TINY_DIR "/README.md"; /* no picture */
        if (fs_explain_many(d, jobs, JOBS, on_started, on_finished, &order, &err)) fail_msg("%s", err.message);
        for (int i = 0; i < JOBS; i++) {
            if (i == 2 || i == 9) {
                assert_null(jobs[i].result);
                assert_int_equal(jobs[i].status, i == 2 ? FS_E_NOT_FOUND : FS_E_UNSUPPORTED);
                assert_non_null(strstr(jobs[i].error.message, jobs[i].image_path));
                continue;
            }
            if (jobs[i].status) fail_msg("%s", jobs[i].error.message);
            char *together = json_of(jobs[i].result);
            assert_string_equal(together, alone[i * 7 % PICTURES]);
            fs_string_free(together);
            fs_result_free(jobs[i].result);
        }
        assert_int_equal(order.n_begun, JOBS);
        assert_int_equal(order.n_ended, JOBS);
        for (size_t i = 0; i < JOBS; i++) assert_int_equal(order.begun[i], i);
        bool seen[JOBS] = {0};
        for (size_t i = 0; i < JOBS; i++) {
            assert_false(seen[order.ended[i]]);
            seen[order.ended[i]] = true;
        }
        fs_detector_free(d);
    }
    for (int p = 0; p < PICTURES; p++) fs_string_free(alone[p]);
}

static void same_as_alone(void **state) { (void)state, compare_with_alone(fs_options_defaults(), NULL, (const int[]){1, 3, 8, 12, 0, -1}); }

static void same_as_alone_sampled(void **state) {
    (void)state;
    fs_options opt = fs_options_defaults();
    opt.sampling = (fs_sampling){.temperature = 1.5f, .top_k = 0, .top_p = 1, .seed = 7};
    opt.max_new_tokens = 60;
    compare_with_alone(opt, "Is this picture real?", (const int[]){2, 8, -1});
}

static void same_as_alone_in_16_bits(void **state) {
    (void)state;
    fs_options opt = fs_options_defaults();
    opt.precision = FS_PRECISION_UPSTREAM;
    compare_with_alone(opt, NULL, (const int[]){5, -1});
}

/* A cache in 16 bits beside a network in f32: the same words on these pictures, and nearly the same score. */
static void cache_in_16_bits(void **state) {
    (void)state;
    fs_options opt = fs_options_defaults();
    fs_detector *wide = open_detector(&opt);
    opt.kv_cache = FS_KV_F16;
    fs_detector *narrow = open_detector(&opt);
    fs_error err = {0};
    double worst = 0;
    for (int p = 0; p < PICTURES; p++) {
        fs_result *a = NULL, *b = NULL;
        if (fs_explain(wide, pictures[p], &a, &err) || fs_explain(narrow, pictures[p], &b, &err)) fail_msg("%s", err.message);
        assert_string_equal(fs_result_text(a), fs_result_text(b));
        const double difference = fs_result_score(a) - fs_result_score(b);
        worst = difference > worst ? difference : -difference > worst ? -difference : worst;
        char *json = json_of(b);
        assert_non_null(strstr(json, "\"kv_cache\": \"f16\""));
        fs_string_free(json);
        fs_result_free(a), fs_result_free(b);
    }
    print_message("largest difference of a score: %.1e\n", worst);
    assert_true(worst > 0); /* it is another cache */
    assert_true(worst < 1e-3); /* keys and values are rounded to 11 bits, 5e-4 each; the score is a mean of many */
    fs_detector_free(wide), fs_detector_free(narrow);
}

/* ---- stopping ---- */

struct stop { int calls, after; };
static bool stop_after(void *user) {
    struct stop *s = user;
    return ++s->calls > s->after;
}

static void stopped_in_between(void **state) {
    (void)state;
    bool some = false;
    struct stop stop = {.after = 1 << 30};
    for (int tenth = 10; tenth >= 0; tenth -= 2) { /* once to the end, which counts the calls; then stopped at 8/10 of them, 6/10, ... */
        const int calls = stop.calls;
        if (tenth < 10) stop = (struct stop){.after = calls / (tenth + 2) * tenth};
        fs_options opt = fs_options_defaults();
        opt.batch = 2;
        opt.callbacks = (fs_callbacks){.user_data = &stop, .cancel = stop_after};
        fs_detector *d = open_detector(&opt);
        fs_explain_job jobs[PICTURES] = {0};
        fs_error err = {0};
        size_t done = 0;
        for (int i = 0; i < PICTURES; i++) jobs[i].image_path = pictures[i];
        const fs_status status = fs_explain_many(d, jobs, PICTURES, NULL, NULL, NULL, &err);
        for (int i = 0; i < PICTURES; i++) {
            assert_true(jobs[i].status == FS_OK ? jobs[i].result != NULL : jobs[i].status == FS_E_CANCELLED && !jobs[i].result);
            done += jobs[i].result != NULL;
            fs_result_free(jobs[i].result);
        }
        assert_int_equal(status, tenth == 10 ? FS_OK : FS_E_CANCELLED);
        assert_int_equal(tenth == 10 ? PICTURES : done, done);
        some = some || (done > 0 && done < PICTURES);
        fs_detector_free(d);
    }
    assert_true(some); /* one of the stops fell between the ends of pictures */
}

static void misuse(void **state) {
    (void)state;
    fs_options opt = fs_options_defaults();
    fs_detector *d = NULL;
    fs_error err = {0};
    opt.batch = 13;
    assert_int_equal(fs_detector_create(FS_TINY_DIR, &opt, &d, &err), FS_E_USAGE);
    assert_non_null(strstr(err.message, "batch is 13"));
    opt.batch = 0;
    d = open_detector(&opt);
    assert_int_equal(fs_explain_many(d, NULL, 0, NULL, NULL, NULL, &err), FS_OK);
    fs_detector_free(d);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(same_as_alone),     cmocka_unit_test(same_as_alone_sampled),
                                       cmocka_unit_test(same_as_alone_in_16_bits), cmocka_unit_test(cache_in_16_bits),
                                       cmocka_unit_test(stopped_in_between), cmocka_unit_test(misuse)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
