/* Reading data sets: which mask and which text belongs to which picture, in what order, and the line for each thing that can be wrong. */
#include "unit/data_support.h"

#include "data/tree.h"

static void touch(const char *dir, const char *name) {
    put_text(dir, name, "x");
} /* the reader looks at names only */

static const char *below(const char *dir, const char *path) {
    if (!path) return "(none)";
    const size_t n = strlen(dir);
    assert_true(strncmp(path, dir, n) == 0 && path[n] == '/');
    return path + n + 1;
}

static void assert_record(const char *dir, const fs_dataset *d, size_t i, const char *image, const char *mask, fs_verdict label) {
    assert_true(i < d->count);
    assert_string_equal(below(dir, d->records[i].image), image);
    assert_string_equal(below(dir, d->records[i].mask), mask);
    assert_int_equal(d->records[i].label, label);
}

static void make_tree(const char *dir) {
    touch(dir, "ps/CASIA2/image/b.jpg");
    touch(dir, "ps/CASIA2/image/a.JPG");
    touch(dir, "ps/CASIA2/image/a-b.tif");
    touch(dir, "ps/CASIA2/image/c_gt.png");
    touch(dir, "ps/CASIA2/image/Thumbs.db");
    touch(dir, "ps/CASIA2/image/.hidden.jpg");
    touch(dir, "ps/CASIA2/mask/a.png");
    touch(dir, "ps/CASIA2/mask/a-b_MASK.PNG");
    touch(dir, "ps/CASIA2/mask/b_gt.png");
    touch(dir, "ps/CASIA2/mask/c_gt.png");
    touch(dir, "ps/CASIA2_Au/image/z.webp");
    touch(dir, "aigc_inpaint/SD/image/1.png");
    touch(dir, "aigc_inpaint/SD/mask/1-gt.png");
    touch(dir, "notes/readme.txt");
}

static void test_tree(void **state) {
    const char *dir = *state;
    const fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    make_tree(dir);
    assert_ok(fs_dataset_open(dir, &opt, &d, err));
    assert_int_equal(d.count, 6);
    assert_int_equal(d.n_sets, 3);
    assert_int_equal(d.n_problems, 0);
    assert_record(dir, &d, 0, "aigc_inpaint/SD/image/1.png", "aigc_inpaint/SD/mask/1-gt.png", FS_VERDICT_TAMPERED);
    assert_record(dir, &d, 1, "ps/CASIA2/image/a-b.tif", "ps/CASIA2/mask/a-b_MASK.PNG", FS_VERDICT_TAMPERED);
    assert_record(dir, &d, 2, "ps/CASIA2/image/a.JPG", "ps/CASIA2/mask/a.png", FS_VERDICT_TAMPERED);
    assert_record(dir, &d, 3, "ps/CASIA2/image/b.jpg", "ps/CASIA2/mask/b_gt.png", FS_VERDICT_TAMPERED);
    assert_record(dir, &d, 4, "ps/CASIA2/image/c_gt.png", "ps/CASIA2/mask/c_gt.png", FS_VERDICT_TAMPERED); /* the whole name goes first */
    assert_record(dir, &d, 5, "ps/CASIA2_Au/image/z.webp", "(none)", FS_VERDICT_AUTHENTIC);
    assert_int_equal(d.records[0].domain, FS_DOMAIN_AIGC);
    assert_int_equal(d.records[5].domain, FS_DOMAIN_PHOTOSHOP);
    assert_string_equal(d.sets[d.records[5].set].name, "CASIA2_Au");
    assert_string_equal(d.sets[1].type, "ps");
    assert_int_equal(d.sets[1].other_files, 1);
    fs_dataset_free(&d);
}

/* From the root, a type and a set, with and without a slash at the end: the same names and domains. */
static void test_levels(void **state) {
    const char *dir = *state;
    const fs_data_options opt = fs_data_options_defaults();
    static const struct {
        const char *start;
        size_t count, sets;
    } cases[] = {{"ps", 5, 2}, {"ps/", 5, 2}, {"ps/CASIA2", 4, 1}, {"ps/CASIA2/../CASIA2/", 4, 1}};
    fs_dataset d;
    make_tree(dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *start = fs_path_join(dir, cases[i].start);
        assert_ok(fs_dataset_open(start, &opt, &d, err));
        assert_int_equal(d.count, cases[i].count);
        assert_int_equal(d.n_sets, cases[i].sets);
        assert_string_equal(d.sets[0].name, "CASIA2");
        assert_string_equal(d.sets[0].type, "ps");
        assert_true(d.sets[0].domain_known);
        fs_dataset_free(&d);
        free(start);
    }
}

static void test_spec(void **state) {
    const char *dir = *state;
    const fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    fs_error e = {0};
    make_tree(dir);
    assert_ok(fs_dataset_open_spec(dir, "ps|CASIA2_Au,CASIA2;aigc_inpaint|SD", &opt, &d, err));
    assert_int_equal(d.count, 6);
    assert_string_equal(d.sets[0].name, "CASIA2_Au"); /* as asked for, not sorted */
    assert_string_equal(d.sets[2].name, "SD");
    fs_dataset_free(&d);
    static const char *const wrong[] = {"", "ps", "ps|", "|CASIA2", "ps|CASIA2,", "ps|CASIA2;", "ps|CASIA2;aigc", "ps|a|b"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(fs_dataset_open_spec(dir, wrong[i], &opt, &d, &e), FS_E_USAGE);
        assert_message(&e, "expected TYPE|SET,SET");
        assert_null(d.records);
    }
    assert_int_equal(fs_dataset_open_spec(dir, "ps|CASIA1", &opt, &d, &e), FS_E_NOT_FOUND);
    assert_message(&e, "ps/CASIA1: no folder image/ here");
}

static void expect_problem(const char *dir, fs_data_problem_kind kind, const char *path, const char *part) {
    fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    fs_error e = {0};
    assert_int_equal(fs_dataset_open(dir, &opt, &d, &e), FS_E_MISMATCH);
    assert_message(&e, path);
    assert_message(&e, part);
    opt.keep_problems = true;
    assert_ok(fs_dataset_open(dir, &opt, &d, err));
    size_t found = 0;
    for (size_t i = 0; i < d.n_problems; i++)
        found += d.problems[i].kind == kind && strcmp(below(dir, d.problems[i].path), path) == 0 && strstr(d.problems[i].message, part);
    assert_int_equal(found, 1);
    fs_dataset_free(&d);
}

static void test_unpaired(void **state) {
    const char *dir = *state;
    touch(dir, "ps/S/image/a.jpg");
    touch(dir, "ps/S/mask/a.png");
    touch(dir, "ps/S/image/lonely.jpg");
    expect_problem(dir, FS_DATA_IMAGE_ALONE, "ps/S/image/lonely.jpg", "no mask lonely.*");
    touch(dir, "ps/S/mask/lonely.png");
    touch(dir, "ps/S/mask/nobody_gt.png");
    expect_problem(dir, FS_DATA_MASK_ALONE, "ps/S/mask/nobody_gt.png", "no picture nobody.*");
    touch(dir, "ps/S/image/nobody.png");
    touch(dir, "ps/S/mask/a_gt.png");
    expect_problem(dir, FS_DATA_AMBIGUOUS, "ps/S/mask/a_gt.png", "second mask for a.jpg, which has a.png");
}

/* Of several masks for a picture the one of exactly its name is kept, wherever it stands in the order. */
static void test_second_mask(void **state) {
    const char *dir = *state;
    fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    touch(dir, "ps/S/image/a.jpg");
    touch(dir, "ps/S/mask/a-gt.png");
    touch(dir, "ps/S/mask/a.png");
    touch(dir, "ps/S/mask/a_mask.png");
    opt.keep_problems = true;
    assert_ok(fs_dataset_open(dir, &opt, &d, err));
    assert_int_equal(d.n_problems, 2);
    assert_record(dir, &d, 0, "ps/S/image/a.jpg", "ps/S/mask/a.png", FS_VERDICT_TAMPERED);
    fs_dataset_free(&d);
}

/* Upstream would pair these in order of position, and every mask would be another picture's. */
static void test_not_by_position(void **state) {
    const char *dir = *state;
    fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    touch(dir, "ps/S/image/1.jpg");
    touch(dir, "ps/S/image/2.jpg");
    touch(dir, "ps/S/image/3.jpg");
    touch(dir, "ps/S/mask/2.png");
    touch(dir, "ps/S/mask/3.png");
    touch(dir, "ps/S/mask/4.png");
    opt.keep_problems = true;
    assert_ok(fs_dataset_open(dir, &opt, &d, err));
    assert_int_equal(d.count, 2);
    assert_record(dir, &d, 0, "ps/S/image/2.jpg", "ps/S/mask/2.png", FS_VERDICT_TAMPERED);
    assert_int_equal(d.n_problems, 2);
    fs_dataset_free(&d);
}

static void test_twins(void **state) {
    const char *dir = *state;
    const fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    touch(dir, "ps/S/image/a.jpg");
    touch(dir, "ps/S/image/a.png");
    assert_ok(fs_dataset_open(dir, &opt, &d, err)); /* without masks nothing is ambiguous */
    assert_int_equal(d.count, 2);
    fs_dataset_free(&d);
    touch(dir, "ps/S/mask/a.png");
    expect_problem(dir, FS_DATA_AMBIGUOUS, "ps/S/image/a.png", "same name as a.jpg");
}

static void test_nothing(void **state) {
    const char *dir = *state;
    const fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    fs_error e = {0};
    assert_int_equal(fs_dataset_open(dir, &opt, &d, &e), FS_E_NOT_FOUND);
    assert_message(&e, "no folder image/ here or up to two levels below; expected <type>/<set>/image/");
    touch(dir, "a.jpg");
    assert_int_equal(fs_dataset_open(dir, &opt, &d, &e), FS_E_NOT_FOUND);
    assert_message(&e, "has pictures, but no folder image/");
    char *file = fs_path_join(dir, "a.jpg"), *none = fs_path_join(dir, "none");
    assert_int_equal(fs_dataset_open(file, &opt, &d, &e), FS_E_NOT_FOUND);
    assert_message(&e, "is a file");
    assert_int_equal(fs_dataset_open(none, &opt, &d, &e), FS_E_NOT_FOUND);
    assert_message(&e, "no such folder");
    free(file), free(none);
    touch(dir, "ps/S/image/readme.txt");
    assert_int_equal(fs_dataset_open(dir, &opt, &d, &e), FS_E_NOT_FOUND);
    assert_message(&e, "no picture in any image/");
}

static void test_texts(void **state) {
    const char *dir = *state;
    fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    fs_error e = {0};
    touch(dir, "ps/S/image/a.jpg");
    touch(dir, "ps/S/image/b.jpg");
    touch(dir, "ps/S/mask/a.png");
    touch(dir, "ps/S/mask/b.png");
    put_text(dir, "ps/S/lisa_train_output.json",
             "[{\"image\": \"b.jpg\", \"query\": \"q\", \"outputs\": \"first\"}, {\"image\": \"x/b.jpg\", \"outputs\": \"B out\"},\n"
             " {\"image\": \"a.jpg\", \"query\": null, \"outputs\": \"A out\"}, {\"image\": \"gone.jpg\", \"outputs\": \"?\"}]");
    put_text(dir, "ps/S/lisa_train_gt.json", "[{\"image\": \"a.jpg\", \"query\": \"\", \"outputs\": \"A gt\"}]");
    assert_ok(fs_dataset_open(dir, &opt, &d, err));
    assert_string_equal(d.records[0].text, "A gt");
    assert_string_equal(d.records[1].text, "B out");
    assert_int_equal(d.n_problems, 2);
    assert_int_equal(d.problems[0].kind, FS_DATA_TEXT_ALONE);
    assert_string_equal(d.problems[0].message, "[3]: a text for \"gone.jpg\", which is not in image/");
    assert_int_equal(d.problems[1].kind, FS_DATA_TEXT_TWICE);
    assert_true(d.sets[0].texts[FS_TEXTS_TRAIN_GT] && d.sets[0].texts[FS_TEXTS_TRAIN_OUTPUT] && !d.sets[0].texts[FS_TEXTS_VAL_GT]);
    fs_dataset_free(&d);
    opt.texts = FS_TEXTS_TRAIN_OUTPUT;
    assert_ok(fs_dataset_open(dir, &opt, &d, err));
    assert_string_equal(d.records[0].text, "A out");
    fs_dataset_free(&d);
    opt.texts = FS_TEXTS_NONE;
    assert_ok(fs_dataset_open(dir, &opt, &d, err));
    assert_null(d.records[0].text);
    fs_dataset_free(&d);
    opt.texts = FS_TEXTS_VAL_GT;
    assert_int_equal(fs_dataset_open(dir, &opt, &d, &e), FS_E_NOT_FOUND);
    assert_message(&e, "ps/S/lisa_val_gt.json: not there");
    opt.texts = FS_TEXTS_ANY;
    static const struct {
        const char *json, *part;
    } wrong[] = {
        {"{}", "expected a JSON list"},
        {"[1]", "[0]: expected an object, found a whole number"},
        {"[{\"image\": \"a.jpg\"}]", "field [0].outputs: expected a string, found none"},
        {"[{\"image\": 1, \"outputs\": \"x\"}]", "field [0].image: expected a string, found a whole number"},
        {"[", "no valid JSON"},
        {"", "is empty"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        put_text(dir, "ps/S/lisa_train_gt.json", wrong[i].json);
        assert_int_not_equal(fs_dataset_open(dir, &opt, &d, &e), FS_OK);
        assert_message(&e, wrong[i].part);
        assert_message(&e, "lisa_train_gt.json");
        opt.keep_problems = true;
        assert_ok(fs_dataset_open(dir, &opt, &d, err));
        assert_int_equal(d.problems[0].kind, FS_DATA_TEXTS_BROKEN);
        assert_string_equal(d.records[0].text, "A out"); /* of the next file */
        fs_dataset_free(&d);
        opt.keep_problems = false;
    }
}

static const char mmtd[] = "[{\"id\": 1, \"image\": \"photoshop/A_Tp/image/t.jpg\", \"conversations\": [{\"from\": \"human\", \"value\": "
                           "\"<image>\\nIs it real?\"}, {\"from\": \"gpt\","
                           " \"value\": \"1. Whether the picture has been tampered with / Description of the tampered area: The picture "
                           "has been tampered with, at the left."
                           "\\n\\n2. Judgment basis: Edges.\"}]},\n"
                           " {\"image\": \"deepfake/B/image/u.png\", \"conversations\": [{\"from\": \"gpt\", \"value\": \"dropped\"}, "
                           "{\"from\": \"human\", \"value\": \"<image>\\nThis is a picture"
                           " that is suspected to have been tampered with by AIGC inpainting. Is it?\"}, {\"from\": \"gpt\", \"value\": "
                           "\"The picture has not been tampered with.\"}]},\n"
                           " {\"conversations\": [{\"from\": \"human\", \"value\": \"Hello\"}]}]";

static void test_conversations(void **state) {
    const char *dir = *state;
    const fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    touch(dir, "photoshop/A_Tp/image/t.jpg");
    touch(dir, "photoshop/A_Tp/mask/t_gt.png");
    touch(dir, "deepfake/B/image/u.png");
    put_text(dir, "MMTD-Set.json", mmtd);
    char *file = fs_path_join(dir, "MMTD-Set.json");
    assert_ok(fs_dataset_open_conversations(file, dir, &opt, &d, err));
    assert_int_equal(d.count, 3);
    assert_string_equal(d.sets[0].name, "MMTD-Set");
    assert_record(dir, &d, 0, "photoshop/A_Tp/image/t.jpg", "photoshop/A_Tp/mask/t_gt.png", FS_VERDICT_TAMPERED);
    assert_int_equal(d.records[0].domain, FS_DOMAIN_PHOTOSHOP);
    assert_int_equal(d.records[0].n_turns, 2);
    assert_true(d.records[0].turns[0].human && !d.records[0].turns[1].human);
    assert_string_equal(d.records[0].turns[1].value, d.records[0].text);
    assert_record(dir, &d, 1, "deepfake/B/image/u.png", "(none)", FS_VERDICT_AUTHENTIC);
    assert_int_equal(d.records[1].domain, FS_DOMAIN_AIGC); /* the domain sentence goes before the folder */
    assert_int_equal(d.records[1].n_turns, 2);
    assert_null(d.records[2].image);
    assert_null(d.records[2].text);
    assert_int_equal(d.records[2].label, FS_VERDICT_UNDETERMINED);
    fs_dataset_free(&d);
    free(file);
}

static void test_conversations_missing(void **state) {
    const char *dir = *state;
    fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    fs_error e = {0};
    touch(dir, "deepfake/B/image/u.png");
    assert_int_equal(fs_dataset_parse_conversations("m.json", mmtd, sizeof mmtd - 1, dir, &opt, &d, &e), FS_E_NOT_FOUND);
    assert_message(&e, "photoshop/A_Tp/image/t.jpg: no such file, which record [0]. of m.json names");
    opt.keep_problems = true;
    assert_ok(fs_dataset_parse_conversations("m.json", mmtd, sizeof mmtd - 1, dir, &opt, &d, err));
    assert_int_equal(d.count, 2);
    assert_int_equal(d.problems[0].kind, FS_DATA_IMAGE_MISSING);
    fs_dataset_free(&d);
}

static void test_conversations_wrong(void **state) {
    (void)state;
    const fs_data_options opt = fs_data_options_defaults();
    static const struct {
        const char *json, *part;
    } wrong[] = {
        {"{\"a\": 1}", "expected a JSON list"},
        {"[]", "without any record"},
        {"[{\"image\": \"a.jpg\"}]", "field [0].conversations: expected a list, found none"},
        {"[{\"image\": \"a.jpg\", \"conversations\": []}]", "no turn from \"human\""},
        {"[{\"image\": \"a.jpg\", \"conversations\": [7]}]", "[0].conversations[0]: expected an object"},
        {"[{\"image\": \"../a.jpg\", \"conversations\": [{\"from\": \"human\", \"value\": \"\"}]}]", "below the folder of pictures"},
        {"[{\"image\": \"a/..\", \"conversations\": [{\"from\": \"human\", \"value\": \"\"}]}]", "below the folder of pictures"},
        {"[{\"image\": \"a/../../b.jpg\", \"conversations\": [{\"from\": \"human\", \"value\": \"\"}]}]", "below the folder of pictures"},
        {"[{\"conversations\": [{\"from\": \"system\", \"value\": \"\"}]}]",
         "field [0].conversations[0].from: expected \"human\" or \"gpt\", found \"system\""},
        {"[{\"conversations\": [{\"from\": \"human\", \"value\": \"\"}, {\"from\": \"human\", \"value\": \"\"}]}]", "turns must alternate"},
        {"[{\"conversations\": [{\"from\": \"human\"}]}]", "field [0].conversations[0].value: expected a string, found none"},
        {"[{\"image\": 3, \"conversations\": []}]", "field [0].image: expected a string"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        fs_dataset d;
        fs_error e = {0};
        assert_int_not_equal(fs_dataset_parse_conversations("m.json", wrong[i].json, strlen(wrong[i].json), NULL, &opt, &d, &e), FS_OK);
        assert_message(&e, wrong[i].part);
        assert_null(d.records);
    }
    fs_dataset d;
    static const char dots[] = "[{\"image\": \"a..b/..c/d...jpg\", \"conversations\": [{\"from\": \"human\", \"value\": \"\"}]}]";
    assert_ok(fs_dataset_parse_conversations("m.json", dots, sizeof dots - 1, NULL, &opt, &d, err));
    fs_dataset_free(&d);
}

static void test_names(void **state) {
    (void)state;
    fs_data_texts t;
    fs_data_problem_kind k;
    fs_domain domain;
    for (int i = 0; i < 6; i++) assert_true(fs_data_texts_from_name(fs_data_texts_name((fs_data_texts)i), &t) && (int)t == i);
    for (int i = 0; i < 8; i++)
        assert_true(fs_data_problem_kind_from_name(fs_data_problem_kind_name((fs_data_problem_kind)i), &k) && (int)k == i);
    assert_false(fs_data_texts_from_name("gt", &t));
    assert_int_equal(fs_data_stem("a_gt.png", false), 4);
    assert_int_equal(fs_data_stem("a_gt.png", true), 1);
    assert_int_equal(fs_data_stem("_gt.png", true), 3); /* nothing would be left */
    assert_int_equal(fs_data_stem("a.b-Mask", true), 1);
    assert_true(fs_data_domain_of_folder("Photoshop", &domain) && domain == FS_DOMAIN_PHOTOSHOP);
    assert_true(fs_data_domain_of_folder("DeepFake_val", &domain) && domain == FS_DOMAIN_DEEPFAKE);
    assert_false(fs_data_domain_of_folder("psych", &domain));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_tree, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_levels, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_spec, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_unpaired, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_second_mask, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_not_by_position, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_twins, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_nothing, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_texts, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_conversations, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_conversations_missing, setup_folder, remove_folder),
        cmocka_unit_test(test_conversations_wrong),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
