/* Writing PNG, drawing overlays, finding regions. */
#include "test_image_picture.h"

#include <unistd.h>

static void test_png_round_trip(void **state) {
    (void)state;
    const int64_t sizes[][2] = {{1, 1}, {7, 5}, {64, 33}, {500, 3}};
    for (size_t i = 0; i < 4; i++)
        for (int channels = 1; channels <= 3; channels += 2) {
            int64_t w = sizes[i][0], h = sizes[i][1];
            fs_image *im = test_picture(channels == 1 ? 2 : 0, w, h), *back = NULL;
            fs_image_info info;
            fs_error err = {0};
            uint8_t *a = NULL, *b = NULL;
            size_t na = 0, nb = 0;
            assert_int_equal(fs_png_encode(im->data, w, h, channels, &a, &na, &err), FS_OK);
            assert_int_equal(fs_png_encode(im->data, w, h, channels, &b, &nb, &err), FS_OK);
            assert_int_equal(na, nb);
            assert_memory_equal(a, b, na);
            assert_int_equal(fs_image_decode("x.png", a, na, NULL, &back, &info, &err), FS_OK);
            assert_string_equal(info.mode, channels == 1 ? "L" : "RGB");
            assert_int_equal(back->width, w);
            assert_int_equal(back->height, h);
            for (int64_t p = 0; p < w * h; p++)
                for (int64_t c = 0; c < 3; c++) assert_int_equal(back->data[p * 3 + c], im->data[channels == 1 ? p : p * 3 + c]);
            free(a);
            free(b);
            fs_image_free(im);
            fs_image_free(back);
        }
}

static void test_png_refusals(void **state) {
    (void)state;
    uint8_t px[4] = {0}, *out = NULL;
    size_t n = 0;
    fs_error err = {0};
    assert_int_equal(fs_png_encode(px, 1, 1, 4, &out, &n, &err), FS_E_USAGE);
    assert_int_equal(fs_png_encode(px, 0, 1, 1, &out, &n, &err), FS_E_USAGE);
    assert_null(out);
    assert_int_not_equal(fs_png_write("no/such/dir/x.png", px, 2, 2, 1, &err), FS_OK);
    assert_non_null(strstr(err.message, "no/such/dir/x.png"));
}

static void test_png_file(void **state) {
    (void)state;
    char path[64];
    snprintf(path, sizeof path, "test_image_draw-%ld.png", (long)getpid());
    fs_image *im = test_picture(0, 20, 10), *back = NULL;
    fs_error err = {0};
    assert_int_equal(fs_png_write(path, im->data, 20, 10, 3, &err), FS_OK);
    assert_int_equal(fs_image_load(path, NULL, &back, NULL, &err), FS_OK);
    assert_memory_equal(back->data, im->data, 600);
    unlink(path);
    fs_image_free(im);
    fs_image_free(back);
}

/* ---- overlay ---- */

static int64_t changed(const fs_image *a, const fs_image *b, int64_t x, int64_t y) {
    int64_t sum = 0;
    for (int64_t c = 0; c < 3; c++) sum += labs((long)a->data[(y * a->width + x) * 3 + c] - b->data[(y * a->width + x) * 3 + c]);
    return sum;
}

static void test_overlay(void **state) {
    (void)state;
    fs_error err = {0};
    const int64_t w = 200, h = 150;
    uint8_t *mask = calloc((size_t)(w * h), 1);
    assert_non_null(mask);
    for (int ground = 0; ground < 4; ground++) {
        fs_image *im = test_picture(0, w, h), *out = NULL;
        if (ground) memset(im->data, ground == 1 ? 0 : ground == 2 ? 255 : 128, (size_t)(w * h * 3));
        memset(mask, 0, (size_t)(w * h));
        assert_int_equal(fs_draw_overlay(im, mask, &out, &err), FS_OK); /* an empty mask changes nothing */
        assert_memory_equal(out->data, im->data, (size_t)(w * h * 3));
        fs_image_free(out);
        for (int64_t y = 40; y < 100; y++) memset(mask + y * w + 60, 255, 80);
        assert_int_equal(fs_draw_overlay(im, mask, &out, &err), FS_OK);
        assert_int_equal(out->width, w);
        assert_int_equal(out->height, h);
        assert_true(changed(im, out, 100, 70) > 20); /* tinted inside */
        assert_true(changed(im, out, 59, 70) > 120); /* the line, just outside, on any ground */
        assert_true(changed(im, out, 100, 39) > 120);
        assert_int_equal(changed(im, out, 5, 5), 0); /* untouched far away */
        assert_int_equal(changed(im, out, 40, 70), 0);
        fs_image_free(im);
        fs_image_free(out);
    }
    memset(mask, 255, (size_t)(w * h)); /* everything marked: tint only */
    fs_image *im = test_picture(1, w, h), *out = NULL;
    assert_int_equal(fs_draw_overlay(im, mask, &out, &err), FS_OK);
    assert_int_not_equal(changed(im, out, 0, 0) + changed(im, out, 100, 75), 0);
    fs_image_free(im);
    fs_image_free(out);
    im = test_picture(1, 1, 1);
    assert_int_equal(fs_draw_overlay(im, mask, &out, &err), FS_OK);
    assert_int_equal(out->width * out->height, 1);
    fs_image_free(im);
    fs_image_free(out);
    free(mask);
}

/* ---- regions ---- */

/* Slow and plain: spread labels until nothing changes. label = 1 + index of the region's first pixel. */
static size_t brute_force(const uint8_t *mask, int64_t w, int64_t h, fs_region *out) {
    int64_t *label = calloc((size_t)(w * h), sizeof *label);
    assert_non_null(label);
    for (int64_t i = 0; i < w * h; i++) label[i] = mask[i] ? i + 1 : 0;
    for (bool again = true; again;) {
        again = false;
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++)
                for (int64_t dy = -1; dy <= 1; dy++)
                    for (int64_t dx = -1; dx <= 1; dx++) {
                        int64_t nx = x + dx, ny = y + dy, a = y * w + x, b = ny * w + nx;
                        if (nx < 0 || ny < 0 || nx >= w || ny >= h || !label[a] || !label[b] || label[b] >= label[a]) continue;
                        label[a] = label[b];
                        again = true;
                    }
    }
    size_t n = 0;
    for (int64_t root = 1; root <= w * h; root++) {
        fs_region r = {w, h, 0, 0, 0};
        for (int64_t i = 0; i < w * h; i++) {
            if (label[i] != root) continue;
            int64_t x = i % w, y = i / w;
            r = (fs_region){fs_min_i64(r.x0, x), fs_min_i64(r.y0, y), fs_max_i64(r.x1, x + 1), fs_max_i64(r.y1, y + 1), r.pixels + 1};
        }
        if (r.pixels) out[n++] = r;
    }
    free(label);
    for (size_t i = 1; i < n; i++) /* stable, largest first */
        for (size_t j = i; j > 0 && out[j].pixels > out[j - 1].pixels; j--) {
            fs_region t = out[j];
            out[j] = out[j - 1];
            out[j - 1] = t;
        }
    return n;
}

static void test_regions_against_brute_force(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(5);
    fs_region want[400], got[400];
    uint8_t mask[400];
    for (int n = 0; n < 600; n++) {
        int64_t w = 1 + test_random(&r, 20), h = 1 + test_random(&r, 20), density = 1 + test_random(&r, 9);
        for (int64_t i = 0; i < w * h; i++) mask[i] = test_random(&r, 10) < density ? 255 : 0;
        size_t count = brute_force(mask, w, h, want), n_got = 99, total = 99;
        fs_error err = {0};
        assert_int_equal(fs_mask_regions(mask, w, h, got, 400, &n_got, &total, &err), FS_OK);
        assert_int_equal(total, count);
        assert_int_equal(n_got, count);
        for (size_t i = 0; i < count; i++) assert_memory_equal(&got[i], &want[i], sizeof got[i]);
        assert_int_equal(fs_mask_regions(mask, w, h, got, 2, &n_got, &total, &err), FS_OK);
        assert_int_equal(total, count);
        assert_int_equal(n_got, count < 2 ? count : 2);
        for (size_t i = 0; i < n_got; i++) assert_memory_equal(&got[i], &want[i], sizeof got[i]);
    }
}

/* A comb and a chequerboard of a million pixels: many joins and very many regions must stay quick (quadratic would hang the suite). */
static void test_regions_large(void **state) {
    (void)state;
    const int64_t w = 1200, h = 1000;
    uint8_t *mask = calloc((size_t)(w * h), 1);
    fs_region got[3];
    size_t n = 0, total = 0;
    fs_error err = {0};
    assert_non_null(mask);
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) mask[y * w + x] = x % 2 == 0 || y == h - 1 ? 255 : 0;
    assert_int_equal(fs_mask_regions(mask, w, h, got, 3, &n, &total, &err), FS_OK);
    assert_int_equal(total, 1);
    assert_int_equal(got[0].pixels, w / 2 * h + w / 2);
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) mask[y * w + x] = x % 2 == 0 && y % 2 == 0 ? 255 : 0;
    assert_int_equal(fs_mask_regions(mask, w, h, got, 3, &n, &total, &err), FS_OK);
    assert_int_equal(total, w / 2 * h / 2);
    assert_int_equal(n, 3);
    assert_int_equal(got[1].x0, 2); /* of equals the first met comes first */
    memset(mask, 0, (size_t)(w * h));
    assert_int_equal(fs_mask_regions(mask, w, h, got, 3, &n, &total, &err), FS_OK);
    assert_int_equal(n + total, 0);
    assert_int_equal(fs_mask_regions(mask, 0, h, got, 3, &n, &total, &err), FS_E_USAGE);
    free(mask);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_png_round_trip),
        cmocka_unit_test(test_png_refusals),
        cmocka_unit_test(test_png_file),
        cmocka_unit_test(test_overlay),
        cmocka_unit_test(test_regions_against_brute_force),
        cmocka_unit_test(test_regions_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
