/* DTG's training samples: domains by folder, the inference transform in validation, augmentation that follows from (seed, record, draw). */
#include "train_data_support.h"

#include <math.h>

static void draw_tree(const char *dir) {
    draw_picture(dir, "t/aigc/x.png", 300, 280, 1);
    draw_picture(dir, "t/deepfake/FaceApp/image/a.png", 260, 400, 2);
    draw_picture(dir, "t/deepfake/FaceApp/mask/a.png", 260, 400, 2);
    draw_picture(dir, "t/photoshop/CASIAv2/Tp/image/b.png", 500, 240, 3);
    draw_picture(dir, "t/photoshop/CASIAv2/Au/image/c.png", 230, 231, 4);
    write_text(dir, "t/photoshop/readme.txt", "no picture");
}

static void test_folders(void **state) {
    kept_log log = {0};
    const fs_callbacks cb = callbacks_of(&log);
    fs_samples *s;
    fs_sample sample;
    fs_error e = {0};
    static const struct {
        const char *name;
        int domain;
    } want[4] = {{"aigc/x.png", 0}, {"deepfake/FaceApp/image/a.png", 1}, {"photoshop/CASIAv2/Au/image/c.png", 2}, {"photoshop/CASIAv2/Tp/image/b.png", 2}};
    draw_tree(*state);
    char *root = fs_path_join(*state, "t"), *sub = fs_path_join(*state, "t/deepfake"), *none = fs_path_join(*state, "empty");
    fs_domain_options o = fs_domain_options_defaults();
    o.callbacks = &cb;
    o.train = false;
    assert_ok(fs_samples_open_domains(root, &o, &s, err));
    assert_int_equal(s->count, 4);
    for (int i = 0; i < 4; i++) {
        fs_image *im;
        float *pixels;
        assert_non_null(strstr(s->name(s, i), want[i].name));
        assert_ok(s->load(s, i, 5, &sample, err));
        assert_int_equal(sample.domain, want[i].domain);
        assert_int_equal(sample.index, i);
        assert_ok(fs_image_load(s->name(s, i), NULL, &im, NULL, err));
        assert_ok(fs_preprocess_dtg(im, &pixels, err));
        assert_memory_equal(sample.dtg, pixels, 3 * 224 * 224 * sizeof *pixels);
        free(pixels);
        fs_image_free(im);
        fs_sample_free(&sample);
    }
    expect_log(&log, 0, NULL);
    fs_samples_close(s);
    /* one domain's folder as the root: the others are missing */
    assert_ok(fs_samples_open_domains(sub, &o, &s, err));
    assert_int_equal(s->count, 1);
    expect_log(&log, 2, "no picture of domain");
    fs_samples_close(s);
    assert_ok(fs_make_dirs(none, err));
    assert_int_equal(fs_samples_open_domains(none, &o, &s, &e), FS_E_NOT_FOUND);
    assert_int_equal(fs_samples_open_domains("/nowhere", &o, &s, &e), FS_E_NOT_FOUND);
    o.augment.crop_min = 0;
    assert_int_equal(fs_samples_open_domains(root, &o, &s, &e), FS_E_USAGE);
    o = fs_domain_options_defaults();
    o.callbacks = &cb;
    draw_picture(*state, "t/other/x.png", 10, 10, 1);
    assert_int_equal(fs_samples_open_domains(root, &o, &s, &e), FS_E_MISMATCH);
    assert_message(&e, "t/other: 1 pictures whose folders name no domain");
    o.bad = FS_BAD_SKIP;
    assert_ok(fs_samples_open_domains(root, &o, &s, err));
    assert_int_equal(s->count, 4);
    expect_log(&log, 1, "left out");
    /* a broken header is found by the check, a broken picture on loading */
    char *broken = place(*state, "t/photoshop/CASIAv2/Au/image/c.png");
    assert_ok(fs_write_file(broken, "no", 2, err));
    int64_t dropped;
    assert_ok(fs_samples_check(s, FS_BAD_SKIP, &cb, &dropped, err));
    assert_int_equal(dropped, 1);
    expect_log(&log, 1, "record 2");
    assert_ok(fs_write_file(broken, "no", 2, err));
    free(broken);
    broken = place(*state, "t/photoshop/CASIAv2/Tp/image/b.png");
    assert_ok(fs_write_file(broken, "no", 2, err));
    assert_int_not_equal(s->load(s, 2, 0, &sample, &e), FS_OK);
    assert_message(&e, "record 3");
    assert_message(&e, "b.png");
    fs_samples_close(s);
    free(broken);
    free(root);
    free(sub);
    free(none);
}

/* A picture whose red is x, green y, blue constant, so that what a crop took can be read from the result. */
static fs_image *ramp(int64_t w, int64_t h) {
    fs_image *im;
    assert_ok(fs_image_create(w, h, &im, err));
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            uint8_t *p = im->data + (y * w + x) * 3;
            p[0] = (uint8_t)(x * 255 / (w - 1)), p[1] = (uint8_t)(y * 255 / (h - 1)), p[2] = 100;
        }
    return im;
}

/* From the normalised value back to 0..255. */
static double level(const float *v, int c, int y, int x) {
    static const double mean[3] = {0.485, 0.456, 0.406}, deviation[3] = {0.229, 0.224, 0.225};
    return (v[(c * 224 + y) * 224 + x] * deviation[c] + mean[c]) * 255;
}

static void test_augmentation(void **state) {
    (void)state;
    fs_image *im = ramp(512, 384);
    fs_augment a = {.crop_min = 0.25, .crop_max = 1, .flip = 0.5, .resize_min = 0.5, .jpeg_min = 50, .jpeg_max = 95};
    int mirrored = 0;
    double smallest = 1e9, largest = 0;
    enum { N = 100 };
    for (int i = 0; i < N; i++) {
        fs_rng r = fs_sample_rng(7, 1, i, 0);
        float *v;
        assert_ok(fs_augment_picture(im, &a, &r, &v, err));
        /* 222 pixels of the crop, as parts of the picture's width and height */
        const double across = (level(v, 0, 100, 223) - level(v, 0, 100, 0)) / 255 * 224 / 223, down = (level(v, 1, 223, 100) - level(v, 1, 0, 100)) / 255 * 224 / 223;
        const double area = fabs(across) * down, aspect = fabs(across) * 512 / (down * 384);
        mirrored += across < 0;
        smallest = area < smallest ? area : smallest, largest = area > largest ? area : largest;
        assert_true(aspect > 0.72 && aspect < 1.39); /* 3:4 to 4:3, and 8-bit steps at both ends */
        assert_true(area > 0.24 && area < 1.02);
        for (int k = 0; k < 224; k += 50) assert_true(fabs(level(v, 2, k, k) - 100) < 0.01);
        free(v);
    }
    assert_in_range(mirrored, 30, 70); /* of 100 with one half each: outside with probability 2e-5, and the seed is fixed */
    assert_true(smallest < 0.35 && largest > 0.8);
    fs_image_free(im);
}

/* What each step changes by itself, and that the same numbers come again. */
static void test_steps(void **state) {
    (void)state;
    fs_image *im;
    assert_ok(fs_image_create(224, 224, &im, err));
    fs_rng noise = fs_rng_seed(1);
    for (int i = 0; i < 224 * 224 * 3; i++) im->data[i] = (uint8_t)(fs_rng_next(&noise) & 255);
    float *whole, *v, *again;
    const fs_augment none = {.crop_min = 1, .crop_max = 1, .resize_min = 1, .jpeg_min = 90, .jpeg_max = 90};
    fs_augment one[3] = {none, none, none};
    one[0].flip = 1, one[1].jpeg = 1, one[2].resize = 1, one[2].resize_min = 0.5;
    assert_ok(fs_preprocess_dtg_values(im, &whole, err));
    fs_rng r = fs_rng_seed(2);
    assert_ok(fs_augment_picture(im, &none, &r, &v, err));
    assert_memory_equal(v, whole, 3 * 224 * 224 * sizeof *v); /* the only part of all of its area and of an allowed aspect is all of it */
    free(v);
    for (int k = 0; k < 3; k++) {
        double difference = 0;
        r = fs_rng_seed(3);
        assert_ok(fs_augment_picture(im, &one[k], &r, &v, err));
        r = fs_rng_seed(3);
        assert_ok(fs_augment_picture(im, &one[k], &r, &again, err));
        assert_memory_equal(v, again, 3 * 224 * 224 * sizeof *v);
        for (int i = 0; i < 3 * 224 * 224; i++) difference += fabs((double)v[i] - (double)whole[i]);
        assert_true(difference / (3 * 224 * 224) > 0.01);
        if (k == 0)
            for (int i = 0; i < 3 * 224; i++)
                for (int x = 0; x < 224; x++) assert_true(v[i * 224 + x] == whole[i * 224 + 223 - x]);
        free(v);
        free(again);
    }
    free(whole);
    fs_image_free(im);
    /* pictures of one pixel or of one row survive all of it */
    const fs_augment all = {.crop_min = 0.01, .crop_max = 0.02, .flip = 1, .resize = 1, .resize_min = 0.01, .jpeg = 1, .jpeg_min = 1, .jpeg_max = 1};
    static const int64_t sizes[][2] = {{1, 1}, {1, 3000}, {3000, 1}, {2, 2}};
    for (size_t k = 0; k < 4; k++) {
        assert_ok(fs_image_create(sizes[k][0], sizes[k][1], &im, err));
        memset(im->data, 77, (size_t)(sizes[k][0] * sizes[k][1]) * 3);
        assert_ok(fs_augment_picture(im, &all, &r, &v, err));
        free(v);
        fs_image_free(im);
    }
}

/* Two openings give the same samples, another draw or seed gives others. */
static void test_repeats(void **state) {
    fs_samples *s[2];
    fs_sample a, b, c;
    draw_picture(*state, "r/aigc/x.png", 300, 280, 1);
    char *root = fs_path_join(*state, "r");
    fs_domain_options o = fs_domain_options_defaults();
    o.seed = 11;
    for (int i = 0; i < 2; i++) assert_ok(fs_samples_open_domains(root, &o, &s[i], err));
    assert_ok(s[0]->load(s[0], 0, 4, &a, err));
    assert_ok(s[1]->load(s[1], 0, 4, &b, err));
    assert_ok(s[1]->load(s[1], 0, 5, &c, err));
    assert_memory_equal(a.dtg, b.dtg, 3 * 224 * 224 * sizeof *a.dtg);
    assert_memory_not_equal(a.dtg, c.dtg, 3 * 224 * 224 * sizeof *a.dtg);
    fs_sample_free(&a);
    fs_sample_free(&b);
    fs_sample_free(&c);
    for (int i = 0; i < 2; i++) fs_samples_close(s[i]);
    free(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_folders, setup_folder, remove_folder), cmocka_unit_test(test_augmentation),
                                       cmocka_unit_test(test_steps), cmocka_unit_test_setup_teardown(test_repeats, setup_folder, remove_folder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
