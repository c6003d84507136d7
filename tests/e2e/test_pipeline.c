/* Both stages on the tiny checkpoint through the public interface, against the original's programs run in PyTorch: prompts, tokens, texts,
 * score, mask logits and masks, on one to four threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "format/json.h"
#include "pipeline/pipeline.h"

static const char *const pictures[] = {"wide", "tall", "square", "large"};
enum { PICTURES = 4 };
static bool is_authentic(const char *p) { return strcmp(p, "square") == 0; } /* by rote (tests/golden/README.md) */
/* How many of demo, test0, test1, test2 there are goldens of. */
static int styles_of(const char *p) { return is_authentic(p) ? 0 : strcmp(p, "large") == 0 ? 2 : 4; }

static char *golden_path(const char *format, ...) {
    char name[128];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return fs_path_join(FS_GOLDEN_DIR, name);
}

static fs_archive *open_archive(char *path) {
    fs_archive *a = NULL;
    fs_error err = {0};
    if (fs_archive_open(path, &a, &err)) fail_msg("%s", err.message);
    free(path);
    return a;
}

static fs_json open_json(char *path) {
    fs_json j;
    fs_error err = {0};
    if (fs_json_open(path, &j, &err)) fail_msg("%s", err.message);
    free(path);
    return j;
}

static const char *text_of(const fs_json *j, const char *key) {
    const char *s = NULL;
    fs_error err = {0};
    if (fs_json_string(j, key, FS_JSON_REQUIRED, &s, &err)) fail_msg("%s", err.message);
    return s;
}

static const fs_tensor *golden(fs_archive *a, const char *format, const char *style) {
    char name[64];
    snprintf(name, sizeof name, "%s%s", style, format);
    const fs_tensor *t = fs_archive_find(a, name);
    if (!t) fail_msg("%s holds no tensor %s", fs_archive_path(a), name);
    return t;
}

static fs_detector *open_detector(const fs_options *opt) {
    fs_detector *d = NULL;
    fs_error err = {0};
    if (fs_detector_create(FS_TINY_DIR, opt, &d, &err)) fail_msg("%s", err.message);
    return d;
}

/* ---- prompts become the original's ids ---- */

static void assert_ids(const fs_ids *found, const fs_tensor *expected) {
    assert_int_equal(found->count, fs_tensor_count(expected));
    for (size_t i = 0; i < found->count; i++) assert_int_equal(found->data[i], ((const int64_t *)expected->data)[i]);
}

static void prompts_become_ids(void **state) {
    (void)state;
    fs_error err = {0};
    fs_tokenizer *one = NULL, *two = NULL;
    if (fs_tokenizer_open(FS_TINY_DIR "/DTE-FDM", FS_RULES_437, &one, &err)) fail_msg("%s", err.message);
    if (fs_tokenizer_open(FS_TINY_DIR "/MFLM", FS_RULES_428, &two, &err)) fail_msg("%s", err.message);
    for (int p = 0; p < PICTURES; p++) {
        fs_archive *a = open_archive(golden_path("e2e_%s_dte.safetensors", pictures[p]));
        fs_json j = open_json(golden_path("e2e_%s_dte.json", pictures[p]));
        int64_t label = 0;
        assert_int_equal(fs_json_int(&j, "label", FS_JSON_REQUIRED, 0, 2, &label, &err), FS_OK);
        char *prompt = fs_prompt_stage1((fs_domain)label, fs_prompt_detection_question, false);
        assert_string_equal(prompt, text_of(&j, "prompt"));
        fs_ids ids = {0};
        assert_int_equal(fs_tokenizer_encode_image(one, prompt, &ids, &err), FS_OK);
        assert_ids(&ids, golden(a, "prompt_ids", ""));
        fs_ids_free(&ids);
        free(prompt);
        fs_archive_free(a);
        static const char *const styles[] = {"demo", "test0", "test1", "test2"};
        for (int s = 0; s < styles_of(pictures[p]); s++) {
            a = open_archive(golden_path("e2e_%s_mflm.safetensors", pictures[p]));
            const char *text = text_of(&j, s ? "outputs_test" : "outputs_cli");
            int defused = 0;
            prompt = fs_prompt_stage2(text, s ? FS_PROMPT_TEST : FS_PROMPT_DEMO, s ? s - 1 : 0, false, &defused);
            assert_int_equal(defused, 0);
            assert_int_equal(fs_tokenizer_encode_image(two, prompt, &ids, &err), FS_OK);
            assert_ids(&ids, golden(a, ".prompt_ids", styles[s]));
            fs_ids_free(&ids);
            free(prompt);
            fs_archive_free(a);
        }
        fs_json_close(&j);
    }
    fs_tokenizer_free(one);
    fs_tokenizer_free(two);
}

/* ---- stage 1 ---- */

static double sum_from(const fs_tensor *t, size_t begin) {
    double sum = 0;
    for (size_t i = begin; i < (size_t)fs_tensor_count(t); i++) sum += (double)fs_f32(t)[i];
    return sum;
}

static void stage1(void **state) {
    (void)state;
    fs_options opt = fs_options_defaults();
    fs_detector *d = open_detector(&opt);
    fs_error err = {0};
    for (int p = 0; p < PICTURES; p++) {
        char *path = golden_path("e2e_%s.png", pictures[p]);
        fs_archive *a = open_archive(golden_path("e2e_%s_dte.safetensors", pictures[p]));
        fs_json j = open_json(golden_path("e2e_%s_dte.json", pictures[p]));
        fs_result *r = NULL;
        if (fs_explain(d, path, &r, &err)) fail_msg("%s", err.message);
        /* domain: label and probabilities */
        const float *logits = fs_f32(golden(a, "dtg_logits", ""));
        double sum = 0;
        for (int i = 0; i < 3; i++) sum += exp((double)logits[i] - (double)logits[0]);
        for (int i = 0; i < 3; i++)
            assert_true(fabs((double)fs_result_domain_probabilities(r)[i] - exp((double)logits[i] - (double)logits[0]) / sum) < 1e-5);
        int64_t label = -1;
        fs_json_int(&j, "label", FS_JSON_REQUIRED, 0, 2, &label, &err);
        assert_int_equal(fs_result_domain(r), label);
        /* text, byte for byte: the greedy tokens are the original's */
        assert_string_equal(fs_result_text(r), text_of(&j, "outputs_test"));
        assert_int_equal(r->new_tokens, fs_tensor_count(golden(a, "ids", "")));
        assert_int_equal(r->prompt_tokens, fs_tensor_count(golden(a, "prompt_ids", "")) + 63);
        /* score, from the golden's token likelihoods behind the place where the two sentences part */
        const fs_tensor *ti = golden(a, "score.tampered_ids", ""), *ai = golden(a, "score.authentic_ids", "");
        size_t same = 0;
        while (((const int64_t *)ti->data)[same] == ((const int64_t *)ai->data)[same]) same++;
        const double lt = sum_from(golden(a, "score.tampered_logprobs", ""), same), la = sum_from(golden(a, "score.authentic_logprobs", ""), same);
        assert_true(fabs(fs_result_score(r) - 1 / (1 + exp(la - lt))) < 1e-5);
        assert_int_equal(fs_result_verdict(r), is_authentic(pictures[p]) ? FS_VERDICT_AUTHENTIC : FS_VERDICT_TAMPERED);
        assert_int_equal(fs_result_mask_status(r), is_authentic(pictures[p]) ? FS_MASK_AUTHENTIC : FS_MASK_NONE);
        if (!is_authentic(pictures[p])) assert_true(fs_result_basis_count(r) > 0 && strlen(fs_result_area(r)) > 10);
        fs_result_free(r);
        fs_json_close(&j);
        fs_archive_free(a);
        free(path);
    }
    fs_detector_free(d);
}

static void cli_text_has_the_space(void **state) {
    (void)state;
    fs_options opt = fs_options_defaults();
    opt.trim_text = false;
    fs_detector *d = open_detector(&opt);
    fs_error err = {0};
    fs_json j = open_json(golden_path("e2e_wide_dte.json"));
    char *path = golden_path("e2e_wide.png"), *record = NULL;
    fs_result *r = NULL;
    if (fs_explain(d, path, &r, &err)) fail_msg("%s", err.message);
    assert_string_equal(fs_result_text(r), text_of(&j, "outputs_cli"));
    assert_int_equal(fs_result_to_record(r, &record, &err), FS_OK);
    char *back_image = NULL, *back_text = NULL;
    assert_int_equal(fs_record_parse(record, "outputs", &back_image, &back_text, &err), FS_OK);
    assert_string_equal(back_image, path);
    assert_string_equal(back_text, fs_result_text(r));
    free(back_image), free(back_text), free(record), free(path);
    fs_result_free(r);
    fs_json_close(&j);
    fs_detector_free(d);
}

/* ---- stage 2 ---- */

static void assert_mask_file(const fs_result *r, char *path) {
    const fs_decode_options o = fs_decode_options_defaults(FS_DECODE_PIL);
    fs_image *im = NULL;
    fs_error err = {0};
    if (fs_image_load(path, &o, &im, NULL, &err)) fail_msg("%s", err.message);
    free(path);
    assert_int_equal(im->width, fs_result_width(r));
    assert_int_equal(im->height, fs_result_height(r));
    int64_t inside = 0;
    for (int64_t i = 0; i < im->width * im->height; i++) {
        assert_int_equal(fs_result_mask(r)[i], im->data[3 * i]);
        inside += im->data[3 * i] != 0;
    }
    assert_true(inside > 0 && inside < im->width * im->height); /* a mask that says something */
    assert_true(fabs(fs_result_mask_area(r) - (double)inside / (double)(im->width * im->height)) < 1e-12);
    fs_image_free(im);
}

static void stage2(void **state) {
    (void)state;
    fs_error err = {0};
    static const char *const styles[] = {"demo", "test0", "test1", "test2"};
    for (int s = 0; s < 4; s++) {
        fs_options opt = fs_options_defaults();
        opt.prompt_style = s ? FS_PROMPT_TEST : FS_PROMPT_DEMO;
        opt.question_index = s ? s - 1 : 0;
        fs_detector *d = open_detector(&opt);
        for (int p = 0; p < PICTURES; p++) {
            if (s >= styles_of(pictures[p])) continue;
            char *path = golden_path("e2e_%s.png", pictures[p]);
            fs_json j = open_json(golden_path("e2e_%s_dte.json", pictures[p]));
            fs_archive *a = open_archive(golden_path("e2e_%s_mflm.safetensors", pictures[p]));
            fs_result *r = NULL;
            if (fs_localize_text(d, path, text_of(&j, s ? "outputs_test" : "outputs_cli"), NULL, 0, &r, &err)) fail_msg("%s", err.message);
            assert_int_equal(fs_result_mask_status(r), FS_MASK_PRESENT);
            assert_mask_file(r, golden_path("e2e_%s_%s_mask.png", pictures[p], styles[s]));
            if (s < 2) { /* logits at the picture's size: within 1e-3, the bound; measured far below */
                const fs_tensor *expected = golden(a, ".logits", styles[s]);
                double worst = 0;
                for (int64_t i = 0; i < fs_tensor_count(expected); i++)
                    worst = fmax(worst, fabs((double)fs_result_mask_logits(r)[i] - (double)fs_f32(expected)[i]));
                print_message("%s %s: largest difference of a mask logit %.1e\n", pictures[p], styles[s], worst);
                assert_true(worst < 1e-3);
            }
            fs_result_free(r);
            fs_archive_free(a);
            fs_json_close(&j);
            free(path);
        }
        fs_detector_free(d);
    }
}

/* ---- the whole, and what must not change it ---- */

static char *detect_json(const fs_options *opt, const char *picture) {
    fs_detector *d = open_detector(opt);
    char *path = golden_path("e2e_%s.png", picture), *json = NULL;
    fs_result *r = NULL;
    fs_error err = {0};
    if (fs_detect(d, path, &r, &err)) fail_msg("%s", err.message);
    assert_int_equal(fs_result_to_json(r, "m.png", NULL, false, true, &json, &err), FS_OK);
    fs_result_free(r);
    fs_detector_free(d);
    free(path);
    return json;
}

static void threads_change_nothing(void **state) {
    (void)state;
    for (int p = 0; p < 3; p++) {
        fs_options opt = fs_options_defaults();
        opt.threads = 1;
        char *first = detect_json(&opt, pictures[p]);
        for (opt.threads = 2; opt.threads <= 4; opt.threads++) {
            char *other = detect_json(&opt, pictures[p]);
            assert_string_equal(first, other);
            fs_string_free(other);
        }
        fs_string_free(first);
    }
}

static void sampling_is_seeded_and_leaves_the_score(void **state) {
    (void)state;
    fs_options greedy = fs_options_defaults(), hot = fs_options_defaults();
    hot.sampling = (fs_sampling){.temperature = 1.5f, .top_k = 0, .top_p = 1, .seed = 7};
    hot.max_new_tokens = 40;
    greedy.max_new_tokens = 40;
    fs_detector *a = open_detector(&greedy), *b = open_detector(&hot);
    char *path = golden_path("e2e_wide.png");
    fs_result *r[4] = {0};
    fs_error err = {0};
    assert_int_equal(fs_explain(a, path, &r[0], &err), FS_OK);
    assert_int_equal(fs_explain(b, path, &r[1], &err), FS_OK);
    assert_int_equal(fs_explain(b, path, &r[2], &err), FS_OK);
    hot.sampling.seed = 8;
    fs_detector *c = open_detector(&hot);
    assert_int_equal(fs_explain(c, path, &r[3], &err), FS_OK);
    assert_string_equal(fs_result_text(r[1]), fs_result_text(r[2]));
    assert_true(fs_result_score(r[0]) == fs_result_score(r[1]) && fs_result_score(r[1]) == fs_result_score(r[3]));
    assert_true(fs_result_warning_count(r[0]) > 0 && strstr(fs_result_warning(r[0], 0), "40 tokens")); /* cut, and said */
    for (int i = 0; i < 4; i++) fs_result_free(r[i]);
    fs_detector_free(a), fs_detector_free(b), fs_detector_free(c);
    free(path);
}

static void verdict_only_agrees(void **state) {
    (void)state;
    fs_options opt = fs_options_defaults();
    opt.verdict_only = true;
    fs_detector *d = open_detector(&opt);
    fs_error err = {0};
    for (int p = 0; p < PICTURES; p++) {
        char *path = golden_path("e2e_%s.png", pictures[p]);
        fs_result *r = NULL;
        if (fs_detect(d, path, &r, &err)) fail_msg("%s", err.message);
        assert_int_equal(fs_result_verdict(r), is_authentic(pictures[p]) ? FS_VERDICT_AUTHENTIC : FS_VERDICT_TAMPERED);
        assert_string_equal(fs_result_text(r), "");
        assert_int_equal(fs_result_mask_status(r), FS_MASK_NONE);
        fs_result_free(r);
        free(path);
    }
    fs_detector_free(d);
}

static void json_comes_back(void **state) {
    (void)state;
    const fs_options opt = fs_options_defaults();
    fs_error err = {0};
    for (int p = 0; p < 3; p++) {
        char *json = detect_json(&opt, pictures[p]), *again = NULL;
        fs_result *r = NULL;
        if (fs_result_from_json(json, &r, &err)) fail_msg("%s", err.message);
        assert_int_equal(fs_result_to_json(r, "m.png", NULL, false, true, &again, &err), FS_OK);
        assert_string_equal(json, again);
        fs_string_free(again);
        fs_result_free(r);
        /* resume: same picture and settings, then another picture, then other settings */
        fs_detector *d = open_detector(&opt);
        char *path = golden_path("e2e_%s.png", pictures[p]), *other = golden_path("e2e_%s.png", pictures[(p + 1) % 3]);
        assert_int_equal(fs_detector_resume(d, json, path, &r, &err), FS_OK);
        assert_non_null(r);
        fs_result_free(r);
        assert_int_equal(fs_detector_resume(d, json, other, &r, &err), FS_OK);
        assert_null(r);
        fs_options changed = opt;
        changed.max_new_tokens = 77;
        fs_detector *d2 = open_detector(&changed);
        assert_int_equal(fs_detector_resume(d2, json, path, &r, &err), FS_OK);
        assert_null(r);
        assert_int_equal(fs_detector_resume(d, "{\"schema\":1}", path, &r, &err), FS_E_FORMAT);
        fs_detector_free(d), fs_detector_free(d2);
        free(path), free(other);
        fs_string_free(json);
    }
}

static void boxes_reach_the_region_encoder(void **state) {
    (void)state;
    fs_options opt = fs_options_defaults();
    fs_detector *d = open_detector(&opt);
    fs_error err = {0};
    char *path = golden_path("e2e_wide.png");
    fs_result *plain = NULL, *left = NULL, *right = NULL;
    const float a[4] = {0, 0, 30, 30}, b[4] = {60, 40, 120, 80};
    const char *text = "1. The area <bbox> has been tampered with.";
    assert_int_equal(fs_localize_text(d, path, text, a, 1, &left, &err), FS_OK);
    assert_int_equal(fs_localize_text(d, path, text, b, 1, &right, &err), FS_OK);
    assert_int_equal(fs_localize_text(d, path, "no box here", a, 1, &plain, &err), FS_E_USAGE);
    assert_non_null(strstr(err.message, "<bbox>"));
    if (fs_result_mask_logits(left) && fs_result_mask_logits(right))
        assert_memory_not_equal(fs_result_mask_logits(left), fs_result_mask_logits(right), 131 * 90 * sizeof(float));
    else
        fail_msg("no [SEG] with boxes");
    const float bad[4] = {30, 30, 10, 40};
    assert_int_equal(fs_localize_text(d, path, text, bad, 1, &plain, &err), FS_E_USAGE);
    fs_result_free(left), fs_result_free(right);
    fs_detector_free(d);
    free(path);
}

static bool stop_at_once(void *user) { return ++*(int *)user > 3; }

static void cancel_stops(void **state) {
    (void)state;
    int calls = 0;
    fs_options opt = fs_options_defaults();
    opt.callbacks = (fs_callbacks){.user_data = &calls, .cancel = stop_at_once};
    fs_detector *d = open_detector(&opt);
    fs_error err = {0};
    fs_result *r = NULL;
    char *path = golden_path("e2e_wide.png");
    assert_int_equal(fs_detect(d, path, &r, &err), FS_E_CANCELLED);
    assert_null(r);
    fs_detector_free(d);
    free(path);
}

struct streamed { fs_buffer text; };
static void collect(void *user, const char *piece) { fs_buffer_puts(&((struct streamed *)user)->text, piece); }

static void stream_is_the_text(void **state) {
    (void)state;
    struct streamed s = {0};
    fs_options opt = fs_options_defaults();
    opt.callbacks = (fs_callbacks){.user_data = &s, .text = collect};
    fs_detector *d = open_detector(&opt);
    fs_error err = {0};
    fs_result *r = NULL;
    char *path = golden_path("e2e_tall.png");
    if (fs_explain(d, path, &r, &err)) fail_msg("%s", err.message);
    assert_string_equal(s.text.data, fs_result_text(r));
    fs_buffer_free(&s.text);
    fs_result_free(r);
    fs_detector_free(d);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_become_ids), cmocka_unit_test(stage1), cmocka_unit_test(cli_text_has_the_space), cmocka_unit_test(stage2),
        cmocka_unit_test(threads_change_nothing), cmocka_unit_test(sampling_is_seeded_and_leaves_the_score),
        cmocka_unit_test(verdict_only_agrees), cmocka_unit_test(json_comes_back), cmocka_unit_test(boxes_reach_the_region_encoder),
        cmocka_unit_test(cancel_stops), cmocka_unit_test(stream_is_the_text)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
