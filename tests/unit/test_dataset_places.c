/* Where edits lie (src/data/places.c): the mean of masks of any size against sums done by hand, what is said when there are none. That eval takes the
 * picture as the answer for all is in tests/cli/test_eval.sh. */
#include "unit/data_support.h"

/* The left half; the top half, in another size; 127, which is not marked; one pixel of four in every corner. */
static void make_masks(const char *dir) {
    static const uint8_t left[] = {255, 255, 0, 0, 128, 255, 0, 0}, top[] = {255, 255, 0, 0}, none[] = {127};
    static const uint8_t corners[] = {255, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 255};
    put_png(dir, "ps/train/mask/a.png", left, 4, 2, 1);
    put_png(dir, "ps/train/mask/b.png", top, 2, 2, 1);
    put_png(dir, "ps/train/mask/c.png", none, 1, 1, 1);
    put_png(dir, "ps/other/mask/d.png", corners, 4, 4, 1);
    put_text(dir, "ps/train/image/a.png", "x");
    put_text(dir, "ps/train/image/b.png", "x");
    put_text(dir, "ps/train/image/c.png", "x");
    put_text(dir, "ps/other/image/d.png", "x");
    put_text(dir, "ps/plain/image/e.png", "x");
}

static void expect_map(const char *path, int side, const uint8_t *wanted) {
    const fs_decode_options how = fs_decode_options_defaults(FS_DECODE_PIL);
    uint8_t *data;
    size_t size;
    fs_image *im;
    assert_ok(fs_read_file(path, 1 << 20, &data, &size, err));
    assert_ok(fs_image_decode(path, data, size, &how, &im, NULL, err));
    assert_int_equal(im->width, side);
    assert_int_equal(im->height, side);
    for (int i = 0; i < side * side; i++) assert_int_equal(im->data[3 * i], wanted[i]);
    fs_image_free(im);
    free(data);
}

static void test_mean(void **state) {
    const char *dir = *state;
    char out[256];
    size_t count = 0;
    double most = 0;
    fs_dataset_places_options opt = fs_dataset_places_options_defaults();
    assert_int_equal(opt.side, 128);
    make_masks(dir);
    snprintf(out, sizeof out, "%s/places.png", dir);
    opt.side = 2;
    opt.count = &count;
    opt.most = &most;
    opt.sets = "ps|train";
    assert_ok(fs_dataset_places(dir, out, &opt, err));
    assert_int_equal(count, 3);
    assert_true(most > 0.6666 && most < 0.6667);
    expect_map(out, 2, (const uint8_t[]){255, 128, 128, 0});
    opt.sets = NULL; /* with the corners: 2.25, 1.25, 1.25, 0.25 */
    assert_ok(fs_dataset_places(dir, out, &opt, err));
    assert_int_equal(count, 4);
    expect_map(out, 2, (const uint8_t[]){255, 142, 142, 28});
    opt.sets = "ps|other";
    opt.side = 4;
    assert_ok(fs_dataset_places(dir, out, &opt, err));
    expect_map(out, 4, (const uint8_t[]){255, 0, 0, 255, 0, 0, 0, 0, 0, 0, 0, 0, 255, 0, 0, 255});
    opt.invert_masks = true;
    assert_ok(fs_dataset_places(dir, out, &opt, err));
    expect_map(out, 4, (const uint8_t[]){0, 255, 255, 0, 255, 255, 255, 255, 255, 255, 255, 255, 0, 255, 255, 0});
    opt.invert_masks = false;
    opt.sets = "ps|train";
    opt.side = 8; /* finer than the masks */
    assert_ok(fs_dataset_places(dir, out, &opt, err));
    remove(out);
}

static void test_nothing(void **state) {
    const char *dir = *state;
    char out[256];
    fs_error why = {0}, *err = &why;
    fs_dataset_places_options opt = fs_dataset_places_options_defaults();
    make_masks(dir);
    snprintf(out, sizeof out, "%s/places.png", dir);
    opt.sets = "ps|plain";
    assert_int_equal(fs_dataset_places(dir, out, &opt, err), FS_E_FORMAT);
    assert_non_null(strstr(err->message, "0 masks"));
    opt.sets = NULL;
    opt.side = 0;
    assert_int_equal(fs_dataset_places(dir, out, &opt, err), FS_E_USAGE);
    opt.side = 4;
    put_text(dir, "ps/train/mask/b.png", "no picture");
    assert_true(fs_dataset_places(dir, out, &opt, err) != FS_OK);
    assert_non_null(strstr(err->message, "b.png"));
    assert_false(fs_path_exists(out));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_mean, setup_folder, remove_folder),
                                       cmocka_unit_test_setup_teardown(test_nothing, setup_folder, remove_folder)};
    return cmocka_run_group_tests_name("dataset places", tests, NULL, NULL);
}
