/* Every golden file in both styles, and everything that must be refused in one line: empty, cut off, foreign, over the limits. */
#include "test_image_picture.h"

#include <unistd.h>

static uint8_t *read_golden(const char *name, size_t *size) {
    char path[1024];
    uint8_t *data = NULL;
    fs_error err = {0};
    snprintf(path, sizeof path, "%s/image/%s", FS_GOLDEN_DIR, name);
    if (fs_read_file(path, 1 << 24, &data, size, &err)) print_error("%s\n", err.message);
    assert_non_null(data);
    return data;
}

static void check_style(const char *name, fs_decode_style style, const char *mode, long w, long h, int orientation, long ow, long oh,
                        const char *want) {
    size_t size;
    uint8_t *data = read_golden(name, &size);
    fs_decode_options opt = fs_decode_options_defaults(style);
    fs_image *im = NULL;
    fs_image_info info;
    fs_error err = {0};
    char got[65];
    fs_status status = fs_image_decode(name, data, size, &opt, &im, &info, &err);
    if (status) print_error("%s\n", err.message);
    assert_int_equal(status, FS_OK);
    if (strcmp(mode, "-") != 0) { /* Pillow opened it */
        assert_string_equal(info.mode, mode);
        assert_int_equal(info.width, w);
        assert_int_equal(info.height, h);
        assert_int_equal(info.orientation, orientation);
    }
    if (strcmp(want, "-") != 0) { /* a library that refuses a file we read says nothing about its pixels */
        assert_int_equal(im->width, ow);
        assert_int_equal(im->height, oh);
        test_hash(im, got);
        if (strcmp(got, want) != 0) print_error("%s, style %d\n", name, (int)style);
        assert_string_equal(got, want);
    }
    fs_image_free(im);
    free(data);
}

static void test_goldens(void **state) {
    (void)state;
    FILE *f = test_open("decode.txt");
    char line[512];
    int cases = 0;
    while (test_line(f, line, sizeof line)) {
        char name[64], mode[16], pil[80], cv[80];
        long w, h, pw, ph, cw, ch;
        int o;
        assert_int_equal(
            sscanf(line, "%63s %15s %ld %ld %d %ld %ld %79s %ld %ld %79s", name, mode, &w, &h, &o, &pw, &ph, pil, &cw, &ch, cv), 11);
        check_style(name, FS_DECODE_PIL, mode, w, h, o, pw, ph, pil);
        check_style(name, FS_DECODE_CV2, mode, w, h, o, cw, ch, cv);
        cases++;
    }
    fclose(f);
    assert_true(cases >= 125);
}

/* With apply_exif the first style sees a turned photo exactly as the second does. */
static void test_exif_in_both(void **state) {
    (void)state;
    static const char *const names[] = {"exif3.jpg", "exif6.jpg", "exif8.jpg", "exif.png", "exif.webp", "orient6.tif"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size;
        uint8_t *data = read_golden(names[i], &size);
        fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_PIL), cv = fs_decode_options_defaults(FS_DECODE_CV2);
        fs_image *a = NULL, *b = NULL;
        fs_error err = {0};
        opt.apply_exif = true;
        assert_int_equal(fs_image_decode(names[i], data, size, &opt, &a, NULL, &err), FS_OK);
        assert_int_equal(fs_image_decode(names[i], data, size, &cv, &b, NULL, &err), FS_OK);
        assert_int_equal(a->width, b->width);
        assert_memory_equal(a->data, b->data, (size_t)(a->width * a->height * 3));
        fs_image_free(a);
        fs_image_free(b);
        free(data);
    }
}

/* A refusal is one line that begins with the name, and leaves nothing behind. */
static void expect_refusal(const char *name, const uint8_t *data, size_t size, const fs_decode_options *opt, fs_status want) {
    fs_image *im = NULL;
    fs_error err = {0};
    uint8_t *exact = malloc(size ? size : 1); /* so that a sanitizer sees a byte read too far */
    assert_non_null(exact);
    if (size) memcpy(exact, data, size);
    fs_status status = fs_image_decode(name, exact, size, opt, &im, NULL, &err);
    free(exact);
    if (status != want) print_error("%s (%zu bytes): got %d %s\n", name, size, (int)status, err.message);
    assert_int_equal(status, want);
    assert_int_equal(err.status, want);
    assert_null(im);
    assert_int_equal(strncmp(err.message, name, strlen(name)), 0);
    assert_null(strchr(err.message, '\n'));
}

static void test_foreign(void **state) {
    (void)state;
    expect_refusal("empty", NULL, 0, NULL, FS_E_FORMAT);
    expect_refusal("text", (const uint8_t *)"hello, this is no picture", 25, NULL, FS_E_UNSUPPORTED);
    expect_refusal("one byte", (const uint8_t *)"\xff", 1, NULL, FS_E_UNSUPPORTED);
    expect_refusal("a.gif", (const uint8_t *)"GIF89a\1\0\1\0\0\0\0", 13, NULL, FS_E_UNSUPPORTED);
    expect_refusal("a.bmp", (const uint8_t *)"BM", 2, NULL, FS_E_FORMAT);
    expect_refusal("a.jpg", (const uint8_t *)"\xff\xd8\xff", 3, NULL, FS_E_FORMAT);
    expect_refusal("a.png", (const uint8_t *)"\x89PNG\r\n\x1a\n", 8, NULL, FS_E_FORMAT);
    expect_refusal("a.webp", (const uint8_t *)"RIFF\4\0\0\0WEBP", 12, NULL, FS_E_FORMAT);
    expect_refusal("a.tif", (const uint8_t *)"II*\0\0\0\0\0", 8, NULL, FS_E_FORMAT);
    fs_error err = {0};
    fs_image *im = NULL;
    assert_int_equal(fs_image_load("no/such/file.jpg", NULL, &im, NULL, &err), FS_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "no/such/file.jpg"));
    assert_null(im);
}

/* Any strict beginning of a file is refused, or (where only an end note is missing) gives the same pixels: never others. */
static void check_beginnings(const char *name, bool all_refused) {
    size_t size;
    uint8_t *data = read_golden(name, &size);
    fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_PIL);
    fs_image *whole = NULL;
    fs_error err = {0};
    assert_int_equal(fs_image_decode(name, data, size, &opt, &whole, NULL, &err), FS_OK);
    size_t step = size / 150 + 1;
    for (size_t n = 0; n<size; n += n + 40> size ? 1 : step) {
        uint8_t *part = malloc(n ? n : 1);
        assert_non_null(part);
        memcpy(part, data, n);
        fs_image *im = NULL;
        memset(&err, 0, sizeof err);
        if (fs_image_decode(name, part, n, &opt, &im, NULL, &err) == FS_OK) {
            if (all_refused) print_error("%s: %zu of %zu bytes are taken\n", name, n, size);
            assert_false(all_refused);
            assert_int_equal(im->width, whole->width);
            assert_int_equal(im->height, whole->height);
            assert_memory_equal(im->data, whole->data, (size_t)(im->width * im->height * 3));
        } else {
            assert_null(im);
            assert_int_equal(strncmp(err.message, name, strlen(name)), 0);
        }
        fs_image_free(im);
        free(part);
    }
    fs_image_free(whole);
    free(data);
}

static void test_cut_off(void **state) {
    (void)state;
    static const char *const refused[] = {"420.jpg",  "progressive.jpg", "cmyk.jpg",     "restart.jpg", "gray.jpg",     "exif6.jpg",
                                          "rgb8.png", "pal4.png",        "gray16_i.png", "rgba8_i.png", "exif_late.png"};
    static const char *const others[] = {"rgb24.bmp", "pal8.bmp",   "rgb565.bmp",     "lossy.webp", "lossless.webp", "lossy_alpha.webp",
                                         "exif.webp", "rgb8.tif",   "rgb8_tiled.tif", "lzw.tif",    "deflate.tif",   "packbits.tif",
                                         "jpeg.tif",  "group4.tif", "rgb16.tif",      "pal8.tif",   "rgb8_big.tif",  "bilevel.tif"};
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) check_beginnings(refused[i], true);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) check_beginnings(others[i], false);
}

/* Single bytes changed all over: any answer is fine but a crash; the sanitizers watch. */
static void test_damaged(void **state) {
    (void)state;
    static const char *const names[] = {"420.jpg",      "progressive.jpg",  "ycck.jpg",        "pal8_trns.png",
                                        "gray16_i.png", "lossy_alpha.webp", "lzw.tif",         "rgb8_tiled_planar.tif",
                                        "rgba16.tif",   "pal4_short.bmp",   "rgba32_swap.bmp", "exif8.jpg"};
    fs_rng r = fs_rng_seed(11);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size;
        uint8_t *data = read_golden(names[i], &size);
        for (int n = 0; n < 150; n++) {
            size_t at = (size_t)test_random(&r, n % 2 ? (int64_t)size : fs_min_i64((int64_t)size, 120));
            uint8_t old = data[at];
            fs_decode_options opt = fs_decode_options_defaults(n % 3 ? FS_DECODE_PIL : FS_DECODE_CV2);
            opt.max_pixels = 1 << 18;
            data[at] = (uint8_t)(n % 4 == 0 ? 255 : old ^ (1 << test_random(&r, 8)));
            fs_image *im = NULL;
            fs_error err = {0};
            fs_status status = fs_image_decode(names[i], data, size, &opt, &im, NULL, &err);
            assert_true((status == FS_OK) == (im != NULL));
            fs_image_free(im);
            data[at] = old;
        }
        free(data);
    }
}

static void test_limits(void **state) {
    (void)state;
    static const char *const names[] = {"420.jpg", "rgb8.png", "lossy.webp", "rgb8.tif", "rgb24.bmp"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        size_t size;
        uint8_t *data = read_golden(names[i], &size);
        fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_PIL);
        opt.max_pixels = 100;
        expect_refusal(names[i], data, size, &opt, FS_E_LIMIT);
        opt = fs_decode_options_defaults(FS_DECODE_PIL);
        opt.max_file_bytes = size - 1;
        expect_refusal(names[i], data, size, &opt, FS_E_LIMIT);
        free(data);
    }
    fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_CV2);
    assert_true(opt.apply_exif);
    assert_int_equal(opt.max_pixels, 178956970);
    assert_false(fs_decode_options_defaults(FS_DECODE_PIL).apply_exif);
}

/* Headers that promise a huge or an empty picture, over a body of nothing. */
static void test_bombs(void **state) {
    (void)state;
    size_t size;
    uint8_t *png = read_golden("rgb8.png", &size);
    memcpy(png + 16, "\0\0\x32\0\0\0\x32\0", 8); /* 12800 x 12800, within the limit; the checksum of the header no longer fits */
    expect_refusal("bomb.png", png, size, NULL, FS_E_FORMAT);
    free(png);
    uint8_t *bmp = read_golden("rgb24.bmp", &size);
    memcpy(bmp + 18, "\0\x32\0\0\0\x32\0\0", 8);
    expect_refusal("bomb.bmp", bmp, size, NULL, FS_E_FORMAT);
    memcpy(bmp + 18, "\xff\xff\xff\x7f\0\0\0\x80", 8); /* 2^31-1 wide, -2^31 high */
    expect_refusal("bomb.bmp", bmp, size, NULL, FS_E_LIMIT);
    memcpy(bmp + 18, "\0\0\0\0\1\0\0\0", 8);
    expect_refusal("zero.bmp", bmp, size, NULL, FS_E_FORMAT);
    memcpy(bmp + 18, "\xff\xff\xff\xff\1\0\0\0", 8);
    expect_refusal("negative.bmp", bmp, size, NULL, FS_E_FORMAT);
    free(bmp);
    uint8_t *jpeg = read_golden("444.jpg", &size);
    size_t sof = 2;
    while (sof + 9 < size && jpeg[sof + 1] != 0xC0) sof += 2 + (size_t)jpeg[sof + 2] * 256 + jpeg[sof + 3];
    assert_int_equal(jpeg[sof + 1], 0xC0);
    memcpy(jpeg + sof + 5, "\x27\x10\x27\x10", 4); /* 10000 x 10000 */
    expect_refusal("bomb.jpg", jpeg, size, NULL, FS_E_FORMAT);
    memcpy(jpeg + sof + 5, "\xff\xdc\xff\xdc", 4); /* 65500 x 65500 */
    expect_refusal("bomb.jpg", jpeg, size, NULL, FS_E_LIMIT);
    memcpy(jpeg + sof + 5, "\0\0\0\x10", 4);
    expect_refusal("zero.jpg", jpeg, size, NULL, FS_E_FORMAT);
    free(jpeg);
}

static void test_unsupported(void **state) {
    (void)state;
    size_t size;
    uint8_t *bmp = read_golden("pal8.bmp", &size);
    bmp[30] = 1;
    expect_refusal("rle.bmp", bmp, size, NULL, FS_E_UNSUPPORTED);
    bmp[30] = 0, bmp[28] = 2;
    expect_refusal("two_bits.bmp", bmp, size, NULL, FS_E_UNSUPPORTED);
    free(bmp);
    static const uint8_t animated[] = "RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0\7\0\0\7\0\0";
    expect_refusal("animated.webp", animated, sizeof animated - 1, NULL, FS_E_UNSUPPORTED);
}

/* A long, low picture goes through every step: encode, decode, resize. */
static void test_long_picture(void **state) {
    (void)state;
    fs_image *im = test_picture(0, 30000, 20), *back = NULL, *small = NULL;
    fs_error err = {0};
    uint8_t *png = NULL;
    size_t size = 0;
    assert_int_equal(fs_png_encode(im->data, 30000, 20, 3, &png, &size, &err), FS_OK);
    assert_int_equal(fs_image_decode("long.png", png, size, NULL, &back, NULL, &err), FS_OK);
    assert_memory_equal(back->data, im->data, 30000 * 20 * 3);
    assert_int_equal(fs_image_resize(back, 1024, 1, FS_FILTER_BILINEAR, &small, &err), FS_OK);
    free(png);
    fs_image_free(im);
    fs_image_free(back);
    fs_image_free(small);
}

/* Lossy with halved chroma, so compared coarsely with the picture that was encoded: within 9 of 255 on average (measured: 5.7 and 6.3; the
 * picture carries noise of 32, swapped channels give over 30). */
static void test_heif(void **state) {
    (void)state;
    static const char *const names[] = {"hevc.heic", "av1.avif"};
    for (int i = 0; i < 2; i++) {
        size_t size;
        uint8_t *data = read_golden(names[i], &size);
        fs_image *im = NULL;
        fs_image_info info;
        fs_error err = {0};
        fs_status status = fs_image_decode(names[i], data, size, NULL, &im, &info, &err);
        if (status == FS_E_UNSUPPORTED && strstr(err.message, "no libheif")) {
            free(data);
            skip();
        }
        if (status) print_error("%s\n", err.message);
        assert_int_equal(status, FS_OK);
        assert_string_equal(info.format, "HEIF");
        assert_int_equal(im->width, 64);
        assert_int_equal(im->height, 48);
        int64_t sum = 0;
        for (int64_t y = 0; y < 48; y++)
            for (int64_t x = 0; x < 64; x++)
                for (int64_t c = 0; c < 3; c++) sum += labs((long)im->data[(y * 64 + x) * 3 + c] - test_sample(0, x, y, c));
        assert_true(sum < (int64_t)64 * 48 * 3 * 9);
        fs_image_free(im);
        for (size_t n = 12; n < size; n += size / 60 + 1) { /* a beginning may decode only if nothing of the picture is missing */
            im = NULL;
            if (fs_image_decode(names[i], data, n, NULL, &im, NULL, &err) == FS_OK)
                assert_non_null(im);
            else
                assert_null(im);
            fs_image_free(im);
        }
        fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_PIL);
        opt.max_pixels = 100;
        fs_status refusal = fs_image_decode(names[i], data, size, &opt, &im, NULL, &err);
        assert_true(refusal == FS_E_LIMIT || refusal == FS_E_FORMAT); /* ours or libheif's own check, whichever comes first */
        free(data);
    }
}

static void test_names(void **state) {
    (void)state;
    assert_true(fs_image_name_is_picture("a/b/photo.JPG"));
    assert_true(fs_image_name_is_picture("x.jpeg"));
    assert_true(fs_image_name_is_picture("x.y.tiff"));
    assert_true(fs_image_name_is_picture("x.webp"));
    assert_true(fs_image_name_is_picture("x.Bmp"));
    assert_false(fs_image_name_is_picture("x.json"));
    assert_false(fs_image_name_is_picture("jpg"));
    assert_false(fs_image_name_is_picture(".jpg"));
    assert_false(fs_image_name_is_picture("dir.jpg/file"));
    assert_false(fs_image_name_is_picture("x.jpgx"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens), cmocka_unit_test(test_exif_in_both), cmocka_unit_test(test_foreign),
        cmocka_unit_test(test_cut_off), cmocka_unit_test(test_damaged),      cmocka_unit_test(test_limits),
        cmocka_unit_test(test_bombs),   cmocka_unit_test(test_unsupported),  cmocka_unit_test(test_long_picture),
        cmocka_unit_test(test_names),   cmocka_unit_test(test_heif),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
