/* dataset check: every kind of finding is found where it was put, and nowhere else. */
#include "unit/data_support.h"

#include <jansson.h>

#include "data/fingerprint.h"
#include "data/mask.h"

static const char *dir;

static int setup(void **state) {
    if (setup_folder(state)) return -1;
    dir = *state;
    return 0;
}

static json_t *check(const fs_dataset_check_options *options, size_t *errors) {
    char *json = NULL, *text = NULL;
    assert_ok(fs_dataset_check(dir, options, &json, &text, errors, err));
    json_t *root = json_loads(json, 0, NULL);
    assert_non_null(root);
    assert_int_equal(json_integer_value(json_object_get(root, "errors")), *errors);
    assert_true(strlen(text) > 100);
    free(json), free(text);
    return root;
}

/* How many findings of this kind, with this in the path and this in the message. */
static size_t count(const json_t *root, const char *kind, const char *path, const char *part) {
    size_t i, n = 0;
    json_t *f;
    json_array_foreach(json_object_get(root, "findings"), i, f) {
        n += strcmp(json_string_value(json_object_get(f, "kind")), kind) == 0 &&
             strstr(json_string_value(json_object_get(f, "path")), path) && strstr(json_string_value(json_object_get(f, "message")), part);
    }
    return n;
}

static void put_pair(const char *set, const char *name, uint64_t seed) {
    char path[128];
    snprintf(path, sizeof path, "%s/image/%s.png", set, name);
    put_picture(dir, path, 64, 48, seed);
    snprintf(path, sizeof path, "%s/mask/%s.png", set, name);
    put_mask(dir, path, 64, 48, 255, 0);
}

static void test_good(void **state) {
    (void)state;
    size_t errors = 9;
    put_pair("ps/A_Tp", "a", 1), put_pair("ps/A_Tp", "b", 2);
    put_picture(dir, "ps/A_Au/image/c.png", 50, 40, 3);
    json_t *root = check(NULL, &errors);
    assert_int_equal(errors, 0);
    assert_int_equal(json_array_size(json_object_get(root, "findings")), 0);
    const json_t *set = json_array_get(json_object_get(root, "sets"), 1);
    assert_string_equal(json_string_value(json_object_get(set, "name")), "A_Tp");
    assert_int_equal(json_integer_value(json_object_get(set, "tampered")), 2);
    assert_true(json_real_value(json_object_get(set, "marked_share")) == 0.25); /* a quarter of each mask */
    assert_true(json_real_value(json_object_get(set, "lost_share")) == 0);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(set, "largest"), 0)), 64);
    json_decref(root);
}

static void test_unpaired_and_unreadable(void **state) {
    (void)state;
    size_t errors;
    put_pair("ps/A", "a", 1), put_pair("ps/A", "b", 2), put_pair("ps/A", "c", 3);
    put_picture(dir, "ps/A/image/alone.png", 20, 20, 4);
    put_mask(dir, "ps/A/mask/nobody.png", 20, 20, 255, 0);
    put_text(dir, "ps/A/image/b.png", "no picture");
    put_text(dir, "ps/A/mask/c.png", "");
    put_text(dir, "ps/A/image/broken.png", "unpaired and unreadable");
    put_text(dir, "ps/A/lisa_train_gt.json", "[{");
    json_t *root = check(NULL, &errors);
    assert_int_equal(errors, 7);
    assert_int_equal(count(root, "image-without-mask", "/image/alone.png", "no mask alone.*"), 1);
    assert_int_equal(count(root, "image-without-mask", "/image/broken.png", ""), 1);
    assert_int_equal(count(root, "mask-without-image", "/mask/nobody.png", "no picture nobody.*"), 1);
    assert_int_equal(count(root, "image-unreadable", "/image/b.png", ""), 1);
    assert_int_equal(count(root, "image-unreadable", "/image/broken.png", ""), 1);
    assert_int_equal(count(root, "mask-unreadable", "/mask/c.png", ""), 1);
    assert_int_equal(count(root, "texts-unreadable", "lisa_train_gt.json", "no valid JSON"), 1);
    json_decref(root);
    fs_dataset_check_options opt = fs_dataset_check_options_defaults();
    opt.names_only = true;
    root = check(&opt, &errors);
    assert_int_equal(errors, 4);
    json_decref(root);
}

static void test_masks(void **state) {
    (void)state;
    size_t errors;
    for (int i = 0; i < 8; i++) {
        char name[8] = {(char)('a' + i), 0};
        put_pair("ps/A", name, (uint64_t)i);
    }
    put_mask(dir, "ps/A/mask/a.png", 63, 48, 255, 0); /* size */
    put_mask(dir, "ps/A/mask/b.png", 64, 48, 0, 0);   /* black */
    put_mask(dir, "ps/A/mask/c.png", 64, 48, 1, 0);   /* 0 and 1 */
    put_mask(dir, "ps/A/mask/d.png", 64, 48, 254, 0); /* nearly */
    put_mask(dir, "ps/A/mask/e.png", 64, 48, 0, 255); /* inverted */
    uint8_t *p = calloc(64 * 48, 3);
    for (int i = 0; i < 100; i++) p[i] = i < 75 ? 255 : 128; /* 25 of 100 marked pixels are lost */
    put_png(dir, "ps/A/mask/f.png", p, 64, 48, 1);
    memset(p, 0, 64 * 48);
    p[3000] = 200;
    put_png(dir, "ps/A/mask/g.png", p, 64, 48, 3);
    free(p);
    json_t *root = check(NULL, &errors);
    assert_int_equal(errors, 5);
    assert_int_equal(count(root, "size-mismatch", "/mask/a.png", "63 x 48, but its picture a.png is 64 x 48"), 1);
    assert_int_equal(count(root, "empty-mask", "/mask/b.png", "black all over"), 1);
    assert_int_equal(
        count(root, "empty-mask", "/mask/c.png", "largest value is 1, and only 255 counts: training sees nothing (0 and 1 should be"), 1);
    assert_int_equal(count(root, "empty-mask", "/mask/d.png", "largest value is 254"), 1);
    assert_int_equal(count(root, "empty-mask", "/mask/g.png", "largest value is 60"), 1); /* 200 * 4899 / 2^14 */
    assert_int_equal(count(root, "inverted-mask", "/mask/e.png", "75 % of it is marked"), 1);
    assert_int_equal(count(root, "mask-values", "/mask/f.png", "25.00 % of the marked pixels"), 1);
    assert_int_equal(count(root, "coloured-mask", "/mask/g.png", ""), 1);
    assert_int_equal(json_array_size(json_object_get(root, "findings")), 8);
    json_decref(root);
}

static void test_twins(void **state) {
    (void)state;
    size_t errors;
    fs_dataset_check_options opt = fs_dataset_check_options_defaults();
    put_pair("ps/Train", "a", 1), put_pair("ps/Train", "b", 2), put_pair("ps/Train", "c", 3);
    put_pair("ps/Other", "x", 2);                           /* b again, byte for byte */
    put_picture(dir, "ps/Other_Au/image/y.png", 64, 48, 3); /* c, said to be authentic */
    uint8_t *p = picture_pixels(64, 48, 1);
    char *bmp = place(dir, "ps/Other/image/z.jpg"); /* a once more, as JPEG: looks the same, is not */
    uint8_t *jpeg = NULL;
    size_t size;
    assert_ok(fs_jpeg_encode(p, 64, 48, 3, &jpeg, &size, err));
    assert_ok(fs_write_file(bmp, jpeg, size, err));
    put_mask(dir, "ps/Other/mask/z.png", 64, 48, 255, 0);
    free(jpeg), free(bmp), free(p);
    json_t *root = check(NULL, &errors); /* Other is neither for training nor for testing */
    assert_int_equal(errors, 1);
    assert_int_equal(count(root, "duplicate-file", "ps/Other/image/x.png", "is the same file as"), 1);
    assert_int_equal(count(root, "label-conflict", "ps/Other_Au/image/y.png", "ps/Train/image/c.png"), 1);
    assert_int_equal(count(root, "near-duplicate", "ps/Other/image/z.jpg", "looks the same as"), 1);
    json_decref(root);
    opt.test_sets = "Other,Other_Au";
    root = check(&opt, &errors);
    assert_int_equal(errors, 3);
    assert_int_equal(count(root, "leak", "ps/Other/image/x.png", "ps/Train/image/b.png"), 1);
    assert_int_equal(count(root, "leak", "ps/Other_Au/image/y.png", "ps/Train/image/c.png"), 1);
    assert_int_equal(count(root, "leak-near", "ps/Other/image/z.jpg", "ps/Train/image/a.png"), 1);
    json_decref(root);
    opt.near_bits = -1;
    opt.threads = 1;
    root = check(&opt, &errors);
    assert_int_equal(count(root, "leak-near", "", ""), 0);
    json_decref(root);
    opt.test_sets = "Othe";
    fs_error e = {0};
    assert_int_equal(fs_dataset_check(dir, &opt, NULL, NULL, &errors, &e), FS_E_NOT_FOUND);
    assert_message(&e, "no set \"Othe\" here");
}

static void test_against(void **state) {
    (void)state;
    size_t errors;
    fs_dataset_check_options opt = fs_dataset_check_options_defaults();
    put_pair("one/ps/A", "a", 1), put_pair("one/ps/A", "b", 2);
    put_pair("two/ps/B", "p", 2), put_pair("two/ps/B", "q", 5), put_pair("two/ps/B", "r", 5); /* q and r are two's own matter */
    char *one = fs_path_join(dir, "one"), *two = fs_path_join(dir, "two");
    char *json = NULL;
    opt.against = two;
    assert_ok(fs_dataset_check(one, &opt, &json, NULL, &errors, err));
    json_t *root = json_loads(json, 0, NULL);
    assert_int_equal(errors, 1);
    assert_int_equal(count(root, "leak", "one/ps/A/image/b.png", "two/ps/B/image/p.png"), 1);
    assert_int_equal(json_array_size(json_object_get(root, "findings")), 1);
    json_decref(root);
    free(json), free(one), free(two);
}

static void test_texts(void **state) {
    (void)state;
    size_t errors;
    put_pair("mine/A", "a", 1), put_pair("mine/A", "b", 2);
    put_text(
        dir, "mine/A/lisa_val_gt.json",
        "[{\"image\": \"a.png\", \"outputs\": \"The picture has not been tampered with.\"}, {\"image\": \"n.png\", \"outputs\": \"\"}]");
    json_t *root = check(NULL, &errors);
    assert_int_equal(errors, 0);
    assert_int_equal(count(root, "text-missing", "mine/A", "1 of 2 pictures have no text, first b.png"), 1);
    assert_int_equal(count(root, "text-verdict", "/image/a.png", "is tampered by its set"), 1);
    assert_int_equal(count(root, "text-without-picture", "lisa_val_gt.json", "n.png"), 1);
    assert_int_equal(count(root, "domain-unknown", "mine/A", "\"mine\""), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(json_object_get(root, "sets"), 0), "role")), "test");
    json_decref(root);
}

static bool stop_at_once(void *user) {
    return *(int *)user > 0;
}
static void count_progress(void *user, const char *step, int64_t done, int64_t total) {
    (void)step;
    *(int *)user += done >= total / 2;
}

static void test_cancel(void **state) {
    (void)state;
    fs_dataset_check_options opt = fs_dataset_check_options_defaults();
    fs_error e = {0};
    int seen = 0;
    size_t errors;
    char *json = (char *)1;
    put_pair("ps/A", "a", 1), put_pair("ps/A", "b", 2);
    opt.threads = 1;
    opt.callbacks = (fs_callbacks){.user_data = &seen, .progress = count_progress, .cancel = stop_at_once};
    assert_int_equal(fs_dataset_check(dir, &opt, &json, NULL, &errors, &e), FS_E_CANCELLED);
    assert_null(json);
}

/* The hash stays with size, compression and brightness, and differs between pictures. */
static void test_dhash(void **state) {
    (void)state;
    bool flat;
    uint64_t hashes[16];
    for (uint64_t seed = 0; seed < 16; seed++) {
        fs_image im = {64, 48, picture_pixels(64, 48, seed)}, *large = NULL, *again = NULL;
        hashes[seed] = fs_dhash(&im, &flat);
        assert_false(flat);
        assert_ok(fs_image_resize(&im, 200, 150, FS_FILTER_BICUBIC, &large, err));
        assert_true(fs_hamming(hashes[seed], fs_dhash(large, &flat)) <= 3);
        uint8_t *jpeg = NULL;
        size_t size;
        assert_ok(fs_jpeg_encode(im.data, 64, 48, 3, &jpeg, &size, err));
        assert_ok(
            fs_image_decode("jpeg", jpeg, size, &(fs_decode_options){.max_pixels = 1 << 20, .max_file_bytes = 1 << 20}, &again, NULL, err));
        assert_true(fs_hamming(hashes[seed], fs_dhash(again, &flat)) <= 3);
        free(jpeg), free(im.data), fs_image_free(large), fs_image_free(again);
        for (uint64_t other = 0; other < seed; other++) assert_true(fs_hamming(hashes[seed], hashes[other]) > 10);
    }
    uint8_t sky[30 * 20 * 3];
    memset(sky, 180, sizeof sky);
    fs_image plain = {30, 20, sky}, dot = {1, 1, sky};
    assert_int_equal(fs_dhash(&plain, &flat), 0);
    assert_true(flat);
    fs_dhash(&dot, &flat); /* smaller than the grid */
    assert_true(flat);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_good, setup, remove_folder),
        cmocka_unit_test_setup_teardown(test_unpaired_and_unreadable, setup, remove_folder),
        cmocka_unit_test_setup_teardown(test_masks, setup, remove_folder),
        cmocka_unit_test_setup_teardown(test_twins, setup, remove_folder),
        cmocka_unit_test_setup_teardown(test_against, setup, remove_folder),
        cmocka_unit_test_setup_teardown(test_texts, setup, remove_folder),
        cmocka_unit_test_setup_teardown(test_cancel, setup, remove_folder),
        cmocka_unit_test(test_dhash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
