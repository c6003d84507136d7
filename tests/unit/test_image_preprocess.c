/* The four consumers' inputs, bit for bit, against torchvision, transformers 4.37/4.28 and segment-anything. */
#include "test_image_picture.h"

typedef struct golden {
    char consumer[16], hash[80];
    int kind;
    long w, h, size, in_h, in_w;
    unsigned values[4];
} golden;

static void check(const golden *g, const char *line) {
    fs_image *im = test_picture(g->kind, g->w, g->h);
    fs_error err = {0};
    float *v = NULL;
    int64_t in_h = 0, in_w = 0;
    char got[65];
    fs_status status = FS_E_INTERNAL;
    if (strcmp(g->consumer, "dtg") == 0)
        status = fs_preprocess_dtg(im, &v, &err);
    else if (strcmp(g->consumer, "padded") == 0)
        status = fs_preprocess_clip_padded(im, g->size, &v, &err);
    else if (strcmp(g->consumer, "cropped") == 0)
        status = fs_preprocess_clip_cropped(im, g->size, &v, &err);
    else if (strcmp(g->consumer, "sam") == 0)
        status = fs_preprocess_sam(im, g->size, &v, &in_h, &in_w, &err);
    assert_int_equal(status, FS_OK);
    size_t n = (size_t)(3 * g->size * g->size);
    const size_t pick[4] = {0, n / 3, n / 2, n - 1};
    for (int i = 0; i < 4; i++) {
        unsigned bits;
        memcpy(&bits, &v[pick[i]], 4);
        if (bits != g->values[i]) print_error("value %zu is %a, case: %s", pick[i], (double)v[pick[i]], line);
        assert_int_equal(bits, g->values[i]);
    }
    fs_sha256_hex(v, n * sizeof *v, got); /* the golden bytes are little-endian, as every machine this builds on */
    if (strcmp(got, g->hash) != 0) print_error("case: %s", line);
    assert_string_equal(got, g->hash);
    assert_int_equal(in_h, g->in_h);
    assert_int_equal(in_w, g->in_w);
    free(v);
    fs_image_free(im);
}

static int check_file(const char *name) {
    FILE *f = test_open(name);
    char line[256];
    int cases = 0;
    while (test_line(f, line, sizeof line)) {
        golden g = {0};
        int n = sscanf(line, "%15s %d %ld %ld %ld %79s %x %x %x %x %ld %ld", g.consumer, &g.kind, &g.w, &g.h, &g.size, g.hash, &g.values[0],
                       &g.values[1], &g.values[2], &g.values[3], &g.in_h, &g.in_w);
        assert_int_equal(n, strcmp(g.consumer, "sam") == 0 ? 12 : 10);
        check(&g, line);
        cases++;
    }
    fclose(f);
    return cases;
}

static void test_stage1(void **state) {
    (void)state;
    assert_true(check_file("preprocess_dte.txt") >= 60);
}

static void test_stage2(void **state) {
    (void)state;
    assert_true(check_file("preprocess_mflm.txt") >= 70);
}

/* Extreme shapes: no crash, no absurd memory; where the original fails (a side of 0 after scaling) one row is kept. */
static void test_extremes(void **state) {
    (void)state;
    const int64_t sizes[][2] = {{1, 1}, {30000, 20}, {20, 30000}, {30000, 1}, {1, 30000}, {100000, 2}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        fs_image *im = test_picture(0, sizes[i][0], sizes[i][1]);
        fs_error err = {0};
        float *v = NULL;
        int64_t in_h, in_w;
        assert_int_equal(fs_preprocess_dtg(im, &v, &err), FS_OK);
        free(v);
        assert_int_equal(fs_preprocess_clip_padded(im, 336, &v, &err), FS_OK);
        free(v);
        assert_int_equal(fs_preprocess_clip_cropped(im, 336, &v, &err), FS_OK);
        free(v);
        assert_int_equal(fs_preprocess_sam(im, 1024, &v, &in_h, &in_w, &err), FS_OK);
        assert_true(in_h >= 1 && in_w >= 1 && in_h <= 1024 && in_w <= 1024);
        free(v);
        fs_image_free(im);
    }
}

static void test_bad_size(void **state) {
    (void)state;
    fs_image *im = test_picture(0, 4, 4);
    fs_error err = {0};
    float *v = NULL;
    int64_t in_h, in_w;
    assert_int_equal(fs_preprocess_clip_padded(im, 0, &v, &err), FS_E_USAGE);
    assert_int_equal(fs_preprocess_clip_cropped(im, -3, &v, &err), FS_E_USAGE);
    assert_int_equal(fs_preprocess_sam(im, 1 << 20, &v, &in_h, &in_w, &err), FS_E_USAGE);
    assert_null(v);
    fs_image_free(im);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stage1),
        cmocka_unit_test(test_stage2),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_bad_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
