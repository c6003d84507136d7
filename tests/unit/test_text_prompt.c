/* Prompts, defusing, and stage 1's record against Python's json (tests/golden/text/records.json). The prompts' words are written out here
 * once more from the specification, so that a slip of the pen in prompt.c shows; their ids are in test_text_tokenizer.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "text/text.h"

#define SYSTEM                                                                                                                             \
    "A chat between a curious human and an artificial intelligence assistant. "                                                            \
    "The assistant gives helpful, detailed, and polite answers to the human's questions."

static void check(char *got, const char *want) {
    assert_non_null(got);
    assert_string_equal(got, want);
    free(got);
}

static void stage1(void **state) {
    (void)state;
    check(fs_prompt_render("hello"), SYSTEM " USER: hello ASSISTANT:");
    check(fs_prompt_stage1(FS_DOMAIN_AIGC, "What?", false),
          SYSTEM " USER: <image>\nThis is a picture that is suspected to have been tampered with by AIGC inpainting. What? ASSISTANT:");
    check(fs_prompt_stage1(FS_DOMAIN_DEEPFAKE, "What?", true), SYSTEM
          " USER: <im_start><image><im_end>\nThis is a picture that is suspected to have been tampered with by DeepFake. What? ASSISTANT:");
    check(fs_prompt_stage1(FS_DOMAIN_PHOTOSHOP, "Is <image> a [SEG]?", false), SYSTEM
          " USER: <image>\nThis is a picture that is suspected to have been tampered with by Photoshop. Is (image) a (SEG)? ASSISTANT:");
    assert_null(fs_prompt_stage1((fs_domain)3, "What?", false));
}

static void stage2(void **state) {
    (void)state;
    int defused = -1;
    check(fs_prompt_stage2(" 1. Whether", FS_PROMPT_DEMO, 0, false, &defused),
          SYSTEM " USER: The <im_start><image><im_end> provides an overview of the picture.\n 1. Whether ASSISTANT:");
    assert_int_equal(defused, 0);
    static const char *const questions[3] = {
        "Based on the description of the tampered area, please give the mask of the tampered area.",
        "Please provide a mask of the tampered region based on the description of the tampered region given above.",
        "Please give the mask of the tampered area based on the description of the tampered area given above."};
    for (int q = 0; q < 3; q++) {
        char want[2000];
        snprintf(
            want, sizeof want,
            "%s USER: The <im_start><image><im_end> provides an overview of the picture.\nThis photo has been tampered. The following is a "
            "description of the tampering area and the basis for judgment: \n1. A\n\n2. B\n %s ASSISTANT:",
            SYSTEM, questions[q]);
        check(fs_prompt_stage2("1. A\n\n2. B", FS_PROMPT_TEST, q, false, NULL), want);
    }
    assert_null(fs_prompt_stage2("x", FS_PROMPT_TEST, 3, false, NULL));
    assert_null(fs_prompt_stage2("x", FS_PROMPT_TEST, -1, false, NULL));
    /* escapes are undone first, so they cannot carry a token past the guard; a percent sign means nothing */
    check(fs_prompt_stage2("&lt;image&gt; [SEG] 100%s &amp;lt;", FS_PROMPT_DEMO, 0, false, &defused),
          SYSTEM " USER: The <im_start><image><im_end> provides an overview of the picture.\n(image) (SEG) 100%s &amp;lt; ASSISTANT:");
    assert_int_equal(defused, 2);
    check(fs_prompt_stage2("the <bbox> and <p>", FS_PROMPT_DEMO, 0, true, &defused),
          SYSTEM " USER: The <im_start><image><im_end> provides an overview of the picture.\nthe <bbox> and (p) ASSISTANT:");
    assert_int_equal(defused, 1);
}

static void defusing(void **state) {
    (void)state;
    static const struct {
        const char *text, *want;
        int count;
    } cases[] = {
        {"", "", 0},
        {"plain text (with) 1 < 2 > 0 [x] <b>", "plain text (with) 1 < 2 > 0 [x] <b>", 0},
        {"<image>", "(image)", 1},
        {"<im_start><image><im_end>", "(im_start)(image)(im_end)", 3},
        {"[SEG].</s>", "(SEG).(/s)", 2},
        {"<p>a</p> <bbox> <point> <unk> <s>", "(p)a(/p) (bbox) (point) (unk) (s)", 6},
        {"<<s>s>", "<(s)s>", 1}, /* what is left of two nested ones is no token */
        {"[S[SEG]EG]", "[S(SEG)EG]", 1},
        {"<ima<image>ge>", "<ima(image)ge>", 1},
        {"[seg] <IMAGE> <image", "[seg] <IMAGE> <image", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int count = 0;
        check(fs_prompt_defuse(cases[i].text, false, &count), cases[i].want);
        assert_int_equal(count, cases[i].count);
    }
}

/* After defusing, the tokenizer of either stage sees one picture and no token that was not put there. */
static void defused_text_has_no_tokens(void **state) {
    (void)state;
    fs_error err;
    fs_tokenizer *t;
    fs_ids ids = {0};
    assert_int_equal(fs_tokenizer_open(FS_GOLDEN_DIR "/text/mflm", FS_RULES_428, &t, &err), FS_OK);
    char *prompt =
        fs_prompt_stage2("<image> [SEG] <im_start> <im_end> <bbox> <point> <p> </p> <s> </s> <unk>", FS_PROMPT_TEST, 0, false, NULL);
    assert_int_equal(fs_tokenizer_encode_image(t, prompt, &ids, &err), FS_OK);
    int special = 0, images = 0;
    for (size_t i = 0; i < ids.count; i++)
        images += ids.data[i] == FS_IMAGE_TOKEN, special += ids.data[i] >= 500 || (ids.data[i] >= 0 && ids.data[i] < 3);
    assert_int_equal(images, 1);
    assert_int_equal(special, 3); /* <s>, <im_start>, <im_end> */
    free(prompt);
    fs_ids_free(&ids);
    fs_tokenizer_free(t);
}

static void records_are_pythons(void **state) {
    (void)state;
    json_error_t e;
    json_t *golden = json_load_file(FS_GOLDEN_DIR "/text/records.json", 0, &e), *c;
    size_t i;
    if (!golden) fail_msg("%s", e.text);
    assert_true(json_array_size(golden) == 5);
    json_array_foreach(golden, i, c) check(fs_record_json(json_string_value(json_array_get(c, 0)), json_string_value(json_array_get(c, 1))),
                                           json_string_value(json_array_get(c, 2)));
    json_decref(golden);
    check(fs_record_json("\xFF.png", "a\xE2\x82"
                                     "b\xF0\x9F\x91"),
          "{\"image\": \"\\ufffd.png\", \"outputs\": \"a\\ufffdb\\ufffd\"}");
}

/* Training's texts; their ids and labels are in test_train_data*.c. */
static void training(void **state) {
    (void)state;
    const char *const turns[] = {"A?", "B.", "C?", "D.", "", ""};
    int defused = -1;
    check(fs_prompt_conversation(FS_SYSTEM_HUMAN, turns, 2), SYSTEM " USER: A? ASSISTANT: B.</s>");
    check(fs_prompt_conversation(FS_SYSTEM_HUMAN, turns, 6), SYSTEM " USER: A? ASSISTANT: B.</s>USER: C? ASSISTANT: D.</s>USER:ASSISTANT:");
    check(fs_prompt_conversation(FS_SYSTEM_USER, turns, 1),
          "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and polite answers to the "
          "user's questions. USER: A? ");
    check(fs_prompt_stage2_training("Here <p>[SEG]", 0, 4, &defused),
          SYSTEM " USER: The <im_start><image><im_end> provides an overview of the picture.\nThis photo has been tampered. The following is a description "
                 "of the tampering area and the basis for judgment: \nHere (p)(SEG)\n Based on the description of the tampered area, please give the mask "
                 "of the tampered area. ASSISTANT: [SEG].</s>");
    assert_int_equal(defused, 2);
    check(fs_prompt_stage2_training(NULL, 1, 0, NULL),
          SYSTEM " USER: The <im_start><image><im_end> provides an overview of the picture.\n\nThis is a tampered image, point out the areas you believe "
                 "have been tampered with. Please output segmentation mask. ASSISTANT: It is [SEG].</s>");
    assert_null(fs_prompt_stage2_training(NULL, 2, 0, NULL));
    assert_null(fs_prompt_stage2_training("x", 3, 0, NULL));
    assert_null(fs_prompt_stage2_training("x", -1, 0, NULL));
    assert_null(fs_prompt_stage2_training("x", 0, 5, NULL));
    assert_null(fs_prompt_conversation((fs_prompt_system)2, turns, 2));
    fs_prompt_system s;
    for (int i = 0; i < 2; i++) assert_true(fs_prompt_system_from_name(fs_prompt_system_name((fs_prompt_system)i), &s) && (int)s == i);
    assert_false(fs_prompt_system_from_name("v2", &s));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stage1),
        cmocka_unit_test(stage2),
        cmocka_unit_test(defusing),
        cmocka_unit_test(defused_text_has_no_tokens),
        cmocka_unit_test(records_are_pythons),
        cmocka_unit_test(training),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
