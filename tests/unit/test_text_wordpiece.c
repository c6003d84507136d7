/* WordPiece against BertTokenizerFast of transformers 4.37.2 (tests/golden/bert, made by tools/reference/make_bert_goldens.py): accents,
 * CJK, control characters, special tokens in the text, long words; and vocabularies that are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "text/wordpiece.h"

#define DIR FS_GOLDEN_DIR "/bert"

static void compare(const fs_wordpiece *w, const char *text, size_t limit, const json_t *expected, const char *what) {
    fs_ids ids = {0};
    fs_error err = {0};
    assert_int_equal(fs_wordpiece_encode(w, text, limit, &ids, &err), FS_OK);
    size_t n = json_array_size(expected);
    for (size_t i = 0; i < n && i < ids.count; i++)
        if (ids.data[i] != json_integer_value(json_array_get(expected, i)))
            fail_msg("%s \"%s\": token %zu is %d, expected %d", what, text, i, ids.data[i],
                     (int)json_integer_value(json_array_get(expected, i)));
    if (ids.count != n) fail_msg("%s \"%s\": %zu tokens, expected %zu", what, text, ids.count, n);
    fs_ids_free(&ids);
}

static void test_golden(void **state) {
    (void)state;
    fs_wordpiece *small = NULL, *cased = NULL;
    fs_wordpiece_options opt = fs_wordpiece_options_defaults();
    fs_error err = {0};
    assert_int_equal(fs_wordpiece_open(DIR "/vocab.txt", NULL, &small, &err), FS_OK);
    opt.lower_case = false;
    assert_int_equal(fs_wordpiece_open(DIR "/vocab.txt", &opt, &cased, &err), FS_OK);
    json_t *golden = json_load_file(DIR "/expected.json", JSON_ALLOW_NUL, NULL), *c;
    assert_non_null(golden);
    const json_t *cases = json_object_get(golden, "cases");
    size_t i;
    assert_true(json_array_size(cases) >= 40);
    json_array_foreach(cases, i, c) {
        const json_t *value = json_object_get(c, "text");
        const char *text = json_string_value(value);
        if (strlen(text) != json_string_length(value)) continue; /* a C string ends at U+0000 */
        compare(small, text, 0, json_object_get(c, "ids"), "small letters");
        compare(small, text, 24, json_object_get(c, "cut"), "at most 24");
        compare(cased, text, 0, json_object_get(c, "cased"), "as written");
    }
    json_decref(golden);
    fs_wordpiece_free(small);
    fs_wordpiece_free(cased);
}

static void test_bad(void **state) {
    (void)state;
    fs_wordpiece *w = NULL;
    fs_error err = {0};
    static const char no_sep[] = "[PAD]\n[UNK]\n[CLS]\nthe\n";
    assert_int_equal(fs_wordpiece_create("v", no_sep, sizeof no_sep - 1, NULL, &w, &err), FS_E_FORMAT);
    assert_null(w);
    assert_non_null(strstr(err.message, "[SEP]"));
    assert_int_equal(fs_wordpiece_create("v", "", 0, NULL, &w, &err), FS_E_FORMAT);
    assert_int_equal(fs_wordpiece_open("/nowhere/vocab.txt", NULL, &w, &err), FS_E_NOT_FOUND);
    static const char windows[] = "[UNK]\r\n[CLS]\r\n[SEP]\r\nthe\r\n##x"; /* line ends of another system, none at the end */
    assert_int_equal(fs_wordpiece_create("v", windows, sizeof windows - 1, NULL, &w, &err), FS_OK);
    assert_int_equal(fs_wordpiece_size(w), 5);
    fs_ids ids = {0};
    assert_int_equal(fs_wordpiece_encode(w, "The thex \xff the", 0, &ids, &err), FS_OK);
    const int32_t expected[] = {1, 3, 3, 4, 3, 2};
    assert_int_equal(ids.count, 6);
    assert_memory_equal(ids.data, expected, sizeof expected);
    ids.count = 0;
    assert_int_equal(fs_wordpiece_encode(w, "the the the", 4, &ids, &err), FS_OK);
    assert_int_equal(ids.count, 4);
    assert_int_equal(ids.data[3], 2);
    fs_ids_free(&ids);
    fs_wordpiece_free(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden), cmocka_unit_test(test_bad)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
