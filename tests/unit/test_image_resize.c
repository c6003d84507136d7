/* Pillow's resize to the byte, the window and canvas forms of it against the plain one, orientation, cropping. */
#include "test_image_picture.h"

#include <omp.h>

#include "image/resample.h"

static void test_goldens(void **state) {
    (void)state;
    FILE *f = test_open("resize.txt");
    char line[256], want[80], got[65];
    int cases = 0;
    while (test_line(f, line, sizeof line)) {
        int kind, filter;
        long w, h, ow, oh;
        assert_int_equal(sscanf(line, "%d %ld %ld %ld %ld %d %79s", &kind, &w, &h, &ow, &oh, &filter, want), 7);
        fs_image *im = test_picture(kind, w, h), *out = NULL;
        fs_error err = {0};
        assert_int_equal(fs_image_resize(im, ow, oh, (fs_filter)filter, &out, &err), FS_OK);
        assert_int_equal(out->width, ow);
        assert_int_equal(out->height, oh);
        test_hash(out, got);
        if (strcmp(got, want) != 0) print_error("case: %s", line);
        assert_string_equal(got, want);
        fs_image_free(im);
        fs_image_free(out);
        cases++;
    }
    fclose(f);
    assert_true(cases >= 50);
}

static void test_threads_and_errors(void **state) {
    (void)state;
    fs_image *im = test_picture(1, 400, 300), *a = NULL, *b = NULL;
    fs_error err = {0};
    char ha[65], hb[65];
    int before = omp_get_max_threads();
    omp_set_num_threads(1);
    assert_int_equal(fs_image_resize(im, 333, 555, FS_FILTER_BICUBIC, &a, &err), FS_OK);
    omp_set_num_threads(4);
    assert_int_equal(fs_image_resize(im, 333, 555, FS_FILTER_BICUBIC, &b, &err), FS_OK);
    omp_set_num_threads(before);
    test_hash(a, ha);
    test_hash(b, hb);
    assert_string_equal(ha, hb);
    fs_image_free(a);
    fs_image_free(b);
    assert_int_equal(fs_image_resize(im, 0, 5, FS_FILTER_BICUBIC, &a, &err), FS_E_USAGE);
    assert_null(a);
    assert_int_equal(fs_image_resize(im, 5, -1, FS_FILTER_BICUBIC, &a, &err), FS_E_USAGE);
    assert_int_equal(fs_image_create(0, 4, &a, &err), FS_E_USAGE);
    assert_int_equal(fs_image_create(INT64_MAX, INT64_MAX, &a, &err), FS_E_LIMIT);
    fs_image_free(im);
}

/* A window of a picture on a canvas must hold the very bytes of: paint the canvas, resize it, cut the window out. */
static void test_window_and_canvas(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(7);
    for (int n = 0; n < 200; n++) {
        int64_t cw = 1 + test_random(&r, 60), ch = 1 + test_random(&r, 60), w = 1 + test_random(&r, cw), h = 1 + test_random(&r, ch);
        int64_t left = test_random(&r, cw - w + 1), top = test_random(&r, ch - h + 1);
        int64_t ow = n % 5 == 0 ? cw : 1 + test_random(&r, 90), oh = n % 7 == 0 ? ch : 1 + test_random(&r, 90);
        fs_window win = {test_random(&r, ow), test_random(&r, oh), 0, 0};
        win.width = 1 + test_random(&r, ow - win.x);
        win.height = 1 + test_random(&r, oh - win.y);
        fs_filter filter = n % 2 ? FS_FILTER_BICUBIC : FS_FILTER_BILINEAR;
        fs_image *im = test_picture(n % 3, w, h), *full = NULL, *resized = NULL, *want = NULL, *got = NULL;
        fs_error err = {0};
        fs_canvas canvas = {im, left, top, cw, ch, {122, 116, (uint8_t)n}};
        assert_int_equal(fs_image_create(cw, ch, &full, &err), FS_OK);
        for (int64_t y = 0; y < ch; y++)
            for (int64_t x = 0; x < cw; x++) {
                bool in = x >= left && x < left + w && y >= top && y < top + h;
                memcpy(full->data + (y * cw + x) * 3, in ? im->data + ((y - top) * w + x - left) * 3 : canvas.fill, 3);
            }
        assert_int_equal(fs_image_resize(full, ow, oh, filter, &resized, &err), FS_OK);
        assert_int_equal(fs_image_crop(resized, win.x, win.y, win.width, win.height, &want, &err), FS_OK);
        assert_int_equal(fs_resample(&canvas, ow, oh, filter, win, &got, &err), FS_OK);
        assert_memory_equal(got->data, want->data, (size_t)(win.width * win.height * 3));
        fs_image_free(im);
        fs_image_free(full);
        fs_image_free(resized);
        fs_image_free(want);
        fs_image_free(got);
    }
}

/* Where pixel (x, y) of the stored picture lies after turning by `o`, from the EXIF text: 6 = "row 0 is the right side, column 0 the top".
 */
static void place(int o, int64_t w, int64_t h, int64_t x, int64_t y, int64_t *px, int64_t *py) {
    switch (o) {
    case 1:
        *px = x, *py = y;
        break;
    case 2:
        *px = w - 1 - x, *py = y;
        break;
    case 3:
        *px = w - 1 - x, *py = h - 1 - y;
        break;
    case 4:
        *px = x, *py = h - 1 - y;
        break;
    case 5:
        *px = y, *py = x;
        break;
    case 6:
        *px = h - 1 - y, *py = x;
        break;
    case 7:
        *px = h - 1 - y, *py = w - 1 - x;
        break;
    default:
        *px = y, *py = w - 1 - x;
        break;
    }
}

static void test_orient(void **state) {
    (void)state;
    const int64_t sizes[][2] = {{5, 3}, {1, 1}, {33, 70}, {320, 240}};
    for (size_t s = 0; s < 4; s++)
        for (int o = 1; o <= 8; o++) {
            int64_t w = sizes[s][0], h = sizes[s][1];
            fs_image *im = test_picture(1, w, h), *out = NULL;
            fs_error err = {0};
            assert_int_equal(fs_image_orient(im, o, &out, &err), FS_OK);
            assert_int_equal(out->width, o >= 5 ? h : w);
            assert_int_equal(out->height, o >= 5 ? w : h);
            for (int64_t y = 0; y < h; y++)
                for (int64_t x = 0; x < w; x++) {
                    int64_t px, py;
                    place(o, w, h, x, y, &px, &py);
                    assert_memory_equal(out->data + (py * out->width + px) * 3, im->data + (y * w + x) * 3, 3);
                }
            fs_image_free(im);
            fs_image_free(out);
        }
    fs_image *im = test_picture(1, 2, 2), *out = NULL;
    fs_error err = {0};
    assert_int_equal(fs_image_orient(im, 0, &out, &err), FS_E_USAGE);
    assert_int_equal(fs_image_orient(im, 9, &out, &err), FS_E_USAGE);
    assert_null(out);
    fs_image_free(im);
}

static void test_crop(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(3);
    fs_image *im = test_picture(1, 13, 9);
    for (int n = 0; n < 300; n++) {
        int64_t x = test_random(&r, 50) - 25, y = test_random(&r, 50) - 25, w = 1 + test_random(&r, 30), h = 1 + test_random(&r, 30);
        fs_image *out = NULL;
        fs_error err = {0};
        assert_int_equal(fs_image_crop(im, x, y, w, h, &out, &err), FS_OK);
        for (int64_t j = 0; j < h; j++)
            for (int64_t i = 0; i < w; i++)
                for (int64_t c = 0; c < 3; c++) {
                    int64_t sx = x + i, sy = y + j;
                    bool in = sx >= 0 && sx < 13 && sy >= 0 && sy < 9;
                    assert_int_equal(out->data[(j * w + i) * 3 + c], in ? im->data[(sy * 13 + sx) * 3 + c] : 0);
                }
        fs_image_free(out);
    }
    fs_image *out = NULL;
    fs_error err = {0};
    assert_int_equal(fs_image_crop(im, INT64_MAX, 0, 4, 4, &out, &err), FS_OK); /* wholly outside, no wrap-around */
    for (int i = 0; i < 48; i++) assert_int_equal(out->data[i], 0);
    fs_image_free(out);
    assert_int_equal(fs_image_crop(im, 0, 0, 0, 4, &out, &err), FS_E_USAGE);
    fs_image_free(im);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),
        cmocka_unit_test(test_threads_and_errors),
        cmocka_unit_test(test_window_and_canvas),
        cmocka_unit_test(test_orient),
        cmocka_unit_test(test_crop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
