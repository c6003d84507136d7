/* Typed reading of config files: values, defaults, and the line for each thing that can be wrong. */
#include "unit/format_support.h"

#include "format/json.h"

static const char text[] = "{\"layers\": 32, \"eps\": 1e-05, \"whole\": 2, \"tied\": false, \"act\": \"silu\", \"none\": null,\n"
                           " \"vision\": {\"width\": \"wide\", \"deep\": {\"n\": 1}}, \"list\": [1]}";

static fs_json open_text(void) {
    fs_json j;
    assert_ok(fs_json_parse("config.json", text, sizeof text - 1, &j, err));
    return j;
}

static void test_values(void **state) {
    (void)state;
    fs_json j = open_text();
    int64_t n = 7;
    double x = 0.5;
    bool b = true;
    const char *s = "default";
    assert_ok(fs_json_int(&j, "layers", FS_JSON_REQUIRED, 1, 100, &n, err));
    assert_int_equal(n, 32);
    assert_ok(fs_json_float(&j, "eps", FS_JSON_REQUIRED, 0, 1, &x, err));
    assert_true(x == 1e-05);
    assert_ok(fs_json_float(&j, "whole", FS_JSON_REQUIRED, 0, 5, &x, err));
    assert_true(x == 2);
    assert_ok(fs_json_bool(&j, "tied", FS_JSON_REQUIRED, &b, err));
    assert_false(b);
    assert_ok(fs_json_string(&j, "act", FS_JSON_REQUIRED, &s, err));
    assert_string_equal(s, "silu");
    assert_true(fs_json_has(&j, "list"));
    assert_false(fs_json_has(&j, "none"));
    assert_false(fs_json_has(&j, "absent"));
    fs_json_close(&j);
    fs_json_close(&j); /* again does no harm */
}

static void test_defaults(void **state) {
    (void)state;
    static const char *const keys[] = {"absent", "none"};
    fs_json j = open_text();
    for (int i = 0; i < 2; i++) {
        int64_t n = 7;
        double x = 0.5;
        bool b = true;
        const char *s = "default";
        fs_json inner = {.path = NULL};
        assert_ok(fs_json_int(&j, keys[i], FS_JSON_OPTIONAL, 1, 2, &n, err));
        assert_ok(fs_json_float(&j, keys[i], FS_JSON_OPTIONAL, 1, 2, &x, err));
        assert_ok(fs_json_bool(&j, keys[i], FS_JSON_OPTIONAL, &b, err));
        assert_ok(fs_json_string(&j, keys[i], FS_JSON_OPTIONAL, &s, err));
        assert_ok(fs_json_object(&j, keys[i], FS_JSON_OPTIONAL, &inner, err));
        assert_true(n == 7 && x == 0.5 && b);
        assert_string_equal(s, "default");
        assert_null(inner.root);
    }
    fs_json_close(&j);
}

static void check(fs_status found, fs_status expected, const fs_error *err, const char *message) {
    assert_int_equal(found, expected);
    assert_string_equal(err->message, message);
}

static void test_errors(void **state) {
    (void)state;
    fs_json j = open_text(), vision, deep;
    fs_error e = {0};
    int64_t n = 7;
    double x = 0.5;
    bool b = true;
    const char *s = "default";
    check(fs_json_int(&j, "absent", FS_JSON_REQUIRED, 0, 9, &n, &e), FS_E_NOT_FOUND, &e, "config.json: field absent: expected a whole number, found none");
    check(fs_json_int(&j, "none", FS_JSON_REQUIRED, 0, 9, &n, &e), FS_E_MISMATCH, &e, "config.json: field none: expected a whole number, found null");
    check(fs_json_int(&j, "layers", FS_JSON_REQUIRED, 33, 99, &n, &e), FS_E_MISMATCH, &e,
          "config.json: field layers: expected a whole number from 33 to 99, found 32");
    check(fs_json_int(&j, "eps", FS_JSON_OPTIONAL, 0, 9, &n, &e), FS_E_MISMATCH, &e,
          "config.json: field eps: expected a whole number, found a number with a fraction");
    check(fs_json_float(&j, "eps", FS_JSON_REQUIRED, 0.5, 1, &x, &e), FS_E_MISMATCH, &e, "config.json: field eps: expected a number from 0.5 to 1, found 1e-05");
    check(fs_json_float(&j, "act", FS_JSON_REQUIRED, 0.5, 1, &x, &e), FS_E_MISMATCH, &e, "config.json: field act: expected a number, found a string");
    check(fs_json_bool(&j, "layers", FS_JSON_REQUIRED, &b, &e), FS_E_MISMATCH, &e, "config.json: field layers: expected true or false, found a whole number");
    check(fs_json_string(&j, "tied", FS_JSON_REQUIRED, &s, &e), FS_E_MISMATCH, &e, "config.json: field tied: expected a string, found true or false");
    check(fs_json_object(&j, "list", FS_JSON_REQUIRED, &vision, &e), FS_E_MISMATCH, &e, "config.json: field list: expected an object, found a list");
    assert_true(n == 7 && x == 0.5 && b);
    assert_ok(fs_json_object(&j, "vision", FS_JSON_REQUIRED, &vision, err));
    assert_ok(fs_json_object(&vision, "deep", FS_JSON_REQUIRED, &deep, err));
    fs_json_close(&j); /* what was taken from it lives on */
    check(fs_json_int(&vision, "width", FS_JSON_REQUIRED, 0, 9, &n, &e), FS_E_MISMATCH, &e,
          "config.json: field vision.width: expected a whole number, found a string");
    check(fs_json_int(&deep, "m", FS_JSON_REQUIRED, 0, 9, &n, &e), FS_E_NOT_FOUND, &e,
          "config.json: field vision.deep.m: expected a whole number, found none");
    fs_json_close(&vision);
    fs_json_close(&deep);
}

static void test_documents(void **state) {
    (void)state;
    static const struct { const char *text; fs_status status; const char *part; } cases[] = {
        {"", FS_E_FORMAT, "config.json: is empty (0 bytes): download it again"},
        {"[1]", FS_E_FORMAT, "config.json: expected a JSON object { ... }, found a list"},
        {"{\"a\": }", FS_E_FORMAT, "config.json: line 1, column 7: no valid JSON"},
        {"{\"a\":\n NaN}", FS_E_FORMAT, "config.json: line 2"},
        {"{\"a\": 1, \"a\": 2}", FS_E_FORMAT, "duplicate"},
        {"{\"a\": 1} x", FS_E_FORMAT, "no valid JSON"},
        {"{\"a\": \"\xFF\"}", FS_E_FORMAT, "no valid JSON"},
        {"{\"a\": 99999999999999999999}", FS_E_FORMAT, "no valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_error e = {0};
        fs_json j;
        assert_int_equal(fs_json_parse("config.json", cases[i].text, strlen(cases[i].text), &j, &e), cases[i].status);
        assert_message(&e, cases[i].part);
        assert_null(j.root);
    }
    fs_json j;
    assert_ok(fs_json_parse("config.json", "\xEF\xBB\xBF{\"a\": 1}", 11, &j, err)); /* a byte order mark */
    assert_true(fs_json_has(&j, "a"));
    fs_json_close(&j);
}

static void test_files(void **state) {
    (void)state;
    char dir[64];
    fs_error e = {0};
    fs_json j;
    make_directory(dir);
    write_text(dir, "config.json", text, sizeof text - 1);
    char *path = fs_path_join(dir, "config.json"), *none = fs_path_join(dir, "none.json");
    assert_ok(fs_json_open(path, &j, err));
    assert_true(fs_json_has(&j, "layers"));
    fs_json_close(&j);
    assert_int_equal(fs_json_open(none, &j, &e), FS_E_NOT_FOUND);
    assert_message(&e, none);
    remove_file(dir, "config.json");
    rmdir(dir);
    free(path);
    free(none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),    cmocka_unit_test(test_defaults), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_documents), cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
