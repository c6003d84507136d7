/* fs_image_probe says of every golden picture what decoding it says, for both decoders, and keeps to the limits. */
#include "data_support.h"

#include <dirent.h>

static void check_one(const char *path, fs_decode_style style, int *sound) {
    const fs_decode_options o = fs_decode_options_defaults(style);
    fs_image *im = NULL;
    fs_image_info decoded, probed;
    fs_error e = {0}, e2 = {0};
    const fs_status whole = fs_image_load(path, &o, &im, &decoded, &e), header = fs_image_probe(path, &o, &probed, &e2);
    if (whole == FS_OK && header != FS_OK) fail_msg("%s: decoded, but not probed: %s", path, e2.message);
    if (header != FS_OK && (e2.status != header || e2.message[0] == '\0')) fail_msg("%s: an error without a line", path);
    if (whole == FS_OK && (probed.width != im->width || probed.height != im->height || strcmp(probed.format, decoded.format) != 0))
        fail_msg("%s: %s of %lld x %lld by its header, %s of %lld x %lld decoded", path, probed.format, (long long)probed.width, (long long)probed.height,
                 decoded.format, (long long)im->width, (long long)im->height);
    if (whole == FS_OK) {
        fs_decode_options tight = o;
        tight.max_pixels = im->width * im->height;
        assert_ok(fs_image_probe(path, &tight, &probed, err));
        tight.max_pixels--;
        assert_int_equal(fs_image_probe(path, &tight, &probed, &e2), FS_E_LIMIT);
        assert_message(&e2, "raise the limit");
        ++*sound;
    }
    fs_image_free(im);
}

static void test_all(void **state) {
    (void)state;
    int sound = 0;
    DIR *d = opendir(FS_GOLDEN_DIR "/image");
    assert_non_null(d);
    for (const struct dirent *one; (one = readdir(d));) {
        char *path = fs_path_join(FS_GOLDEN_DIR "/image", one->d_name);
        for (int style = 0; style < 2 && fs_image_name_is_picture(one->d_name); style++) check_one(path, (fs_decode_style)style, &sound);
        free(path);
    }
    closedir(d);
    assert_true(sound > 180); /* about a hundred files, both ways */
}

static void test_none(void **state) {
    fs_image_info info;
    fs_error e = {0};
    char *text = place(*state, "x.png"), *empty = place(*state, "y.png"), *none = place(*state, "z.png");
    assert_ok(fs_write_file(text, "text", 4, err));
    assert_ok(fs_write_file(empty, "", 0, err));
    assert_int_equal(fs_image_probe(text, NULL, &info, &e), FS_E_UNSUPPORTED);
    assert_int_equal(fs_image_probe(empty, NULL, &info, &e), FS_E_FORMAT);
    assert_int_equal(fs_image_probe(none, NULL, &info, &e), FS_E_NOT_FOUND);
    assert_int_equal(fs_image_probe(*state, NULL, &info, &e), FS_E_USAGE);
    free(text);
    free(empty);
    free(none);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all), cmocka_unit_test_setup_teardown(test_none, setup_folder, remove_folder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
