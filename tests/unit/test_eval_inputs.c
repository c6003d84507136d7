/* What an evaluation reads: .npy of every kind and order, 16-bit PNG, masks, names that lead from pictures to maps and records; sweeps that
 * repeat; the paper's table against figures that are in its text. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <png.h>

#include "eval/lookup.h"
#include "eval/map.h"
#include "eval/published.h"
#include "eval/sweep.h"
#include "format/npy.h"
#include "image/image.h"

static char folder[] = "/tmp/fs-eval-in-XXXXXX";

static char *path_of(const char *name) {
    return fs_path_join(folder, name);
}

static void write_text(const char *name, const char *text, size_t n) {
    char *path = path_of(name);
    fs_error err = {0};
    assert_int_equal(fs_write_file(path, text, n, &err), FS_OK);
    free(path);
}

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}
static int remove_folder(void **state) {
    (void)state;
    char *command = fs_format("rm -rf '%s'", folder);
    const int code = system(command);
    free(command);
    return code;
}

/* ---- .npy ---- */

static size_t npy(uint8_t *out, int version, const char *dictionary, const void *data, size_t size) {
    const size_t n = strlen(dictionary), lead = version == 1 ? 10 : 12;
    memcpy(out, "\x93NUMPY", 6);
    out[6] = (uint8_t)version, out[7] = 0, out[8] = (uint8_t)n, out[9] = (uint8_t)(n >> 8);
    if (version > 1) out[10] = out[11] = 0;
    memcpy(out + lead, dictionary, n);
    memcpy(out + lead + n, data, size);
    return lead + n + size;
}

static void expect_numbers(const char *dictionary, const void *data, size_t size, int64_t rows, int64_t columns, const float *expected) {
    uint8_t bytes[512];
    for (int version = 1; version <= 3; version++) {
        const size_t n = npy(bytes, version, dictionary, data, size);
        fs_npy a;
        fs_error err = {0};
        if (fs_npy_parse("x", bytes, n, &a, &err)) fail_msg("%s: %s", dictionary, err.message);
        assert_int_equal(a.rows, rows);
        assert_int_equal(a.columns, columns);
        for (int64_t i = 0; i < rows * columns; i++) assert_true(a.data[i] == expected[i]);
        fs_npy_free(&a);
        assert_int_equal(fs_npy_parse("x", bytes, n - 1, &a, &err), FS_E_FORMAT); /* cut off */
    }
}

static void test_npy(void **state) {
    (void)state;
    const float f[6] = {0, 0.25f, -1, 3, 0.5f, 1}, by_columns[6] = {0, -1, 0.5f, 0.25f, 3, 1};
    const double d[6] = {0, 0.25, -1, 3, 0.5, 1};
    const uint8_t u[4] = {0, 1, 128, 255}, h[4] = {0x00, 0x3C, 0x00, 0xB8}, swapped[4] = {0x3F, 0x80, 0x00, 0x00};
    const float levels[4] = {0, 1, 128, 255}, halves[2] = {1, -0.5f}, one[1] = {1}, bits[4] = {0, 1, 1, 1};
    expect_numbers("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }   \n", f, sizeof f, 2, 3, f);
    expect_numbers("{'descr': '<f4', 'fortran_order': True, 'shape': (3, 2), }\n", by_columns, sizeof by_columns, 3, 2, f);
    expect_numbers("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2, 3), }\n", d, sizeof d, 2, 3, f);
    expect_numbers("{'descr': '|u1', 'fortran_order': False, 'shape': (2, 2)}", u, sizeof u, 2, 2, levels);
    expect_numbers("{'descr': '|b1', 'fortran_order': False, 'shape': (4,)}", u, sizeof u, 1, 4, bits);
    expect_numbers("{'descr': '<f2', 'fortran_order': False, 'shape': (2, 1)}", h, sizeof h, 2, 1, halves);
    expect_numbers("{'descr': '>f4', 'fortran_order': False, 'shape': ()}", swapped, sizeof swapped, 1, 1, one);

    static const struct {
        const char *dictionary;
        fs_status status;
    } bad[] = {{"{'descr': '<c8', 'fortran_order': False, 'shape': (1, 1)}", FS_E_UNSUPPORTED},
               {"{'descr': '<f4', 'shape': (2, 2, 2)}", FS_E_UNSUPPORTED},
               {"{'descr': [('a', '<f4')], 'shape': (1, 1)}", FS_E_UNSUPPORTED},
               {"{'descr': '<f4'}", FS_E_FORMAT},
               {"{'descr': '<f4', 'shape': (99999999999999999999, 2)}", FS_E_FORMAT},
               {"{'descr': '<f4', 'shape': (-1, 2)}", FS_E_FORMAT},
               {"{'descr': '<f4', 'shape': (4611686018427387904, 4)}", FS_E_FORMAT},
               {"{'descr': '<f4', 'shape': (x, 4)}", FS_E_FORMAT},
               {"{'descr': '<f4', 'shape': (9000000000000000000, 0)}", FS_E_FORMAT},
               {"", FS_E_UNSUPPORTED}};
    uint8_t bytes[512];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fs_npy a;
        fs_error err = {0};
        const size_t n = npy(bytes, 1, bad[i].dictionary, f, sizeof f);
        if (fs_npy_parse("x", bytes, n, &a, &err) != bad[i].status) fail_msg("%s: %s", bad[i].dictionary, err.message);
    }
}

/* ---- maps ---- */

static void write_png16(const char *name, const uint16_t *v, int w, int h) {
    char *path = path_of(name);
    FILE *f = fopen(path, "wb");
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, NULL, NULL, NULL);
    png_infop info = png_create_info_struct(png);
    png_init_io(png, f);
    png_set_IHDR(png, info, (png_uint_32)w, (png_uint_32)h, 16, PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_ADAM7, PNG_COMPRESSION_TYPE_DEFAULT,
                 PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    png_set_swap(png);
    for (int pass = png_set_interlace_handling(png); pass > 0; pass--)
        for (int y = 0; y < h; y++) png_write_row(png, (png_const_bytep)(v + y * w));
    png_write_end(png, NULL);
    png_destroy_write_struct(&png, &info);
    fclose(f);
    free(path);
}

static void test_maps(void **state) {
    (void)state;
    const uint16_t v[6] = {0, 1, 32767, 32768, 65534, 65535};
    const fs_map_options how = fs_map_options_defaults();
    fs_map m;
    fs_error err = {0};
    write_png16("a.png", v, 3, 2);
    char *path = path_of("a.png");
    assert_int_equal(fs_map_read(path, &how, &m, &err), FS_OK);
    assert_true(m.width == 3 && m.height == 2);
    for (int i = 0; i < 6; i++) assert_true(m.score[i] == (float)v[i] / 65535);
    assert_true(m.score[2] < 0.5f && m.score[3] > 0.5f);
    assert_int_equal(fs_map_resize(&m, 6, 2, &err), FS_OK); /* each pixel twice */
    for (int i = 0; i < 12; i++) assert_true(m.score[i] == (float)v[i / 2] / 65535);
    fs_map_free(&m);
    fs_map_options few = how;
    few.max_pixels = 5;
    assert_int_equal(fs_map_read(path, &few, &m, &err), FS_E_LIMIT);
    free(path);

    uint8_t bytes[256];
    path = path_of("b.npy");
    const float scores[4] = {0, 0.5f, 0.75f, 1}, outside[4] = {0, -3, 2, 0.5f}, broken[4] = {0, 1, NAN, 1}, whole[4] = {0, 255, 51, 102};
    static const char f4[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}";
    write_text("b.npy", (char *)bytes, npy(bytes, 1, f4, scores, sizeof scores));
    assert_int_equal(fs_map_read(path, &how, &m, &err), FS_OK);
    assert_memory_equal(m.score, scores, sizeof scores);
    fs_map_free(&m);
    write_text("b.npy", (char *)bytes, npy(bytes, 1, f4, outside, sizeof outside));
    assert_int_equal(fs_map_read(path, &how, &m, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "-3 to 2"));
    fs_map_options logits = how;
    logits.logits = true;
    assert_int_equal(fs_map_read(path, &logits, &m, &err), FS_OK);
    assert_true(m.score[0] == 0.5f && fabsf(m.score[1] - 0.0474259f) < 1e-6f);
    fs_map_free(&m);
    write_text("b.npy", (char *)bytes, npy(bytes, 1, f4, broken, sizeof broken));
    assert_int_equal(fs_map_read(path, &how, &m, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "column 0, row 1"));
    write_text("b.npy", (char *)bytes, npy(bytes, 1, f4, whole, sizeof whole));
    assert_int_equal(fs_map_read(path, &how, &m, &err), FS_OK);
    assert_true(m.score[1] == 1 && m.score[2] == 0.2f);
    fs_map_free(&m);
    free(path);
}

static void test_truth(void **state) {
    (void)state;
    const uint8_t rgb[12] = {127, 127, 127, 128, 128, 128, 255, 0, 0, 0, 255, 0}; /* red is 76, green 150 as grey */
    uint8_t *mask = NULL;
    int64_t w, h;
    char sha[65];
    fs_error err = {0};
    char *path = path_of("t.png");
    assert_int_equal(fs_png_write(path, rgb, 4, 1, 3, &err), FS_OK);
    for (int inverted = 0; inverted < 2; inverted++) {
        assert_int_equal(fs_truth_read(path, inverted, &mask, &w, &h, sha, &err), FS_OK);
        const uint8_t expected[4] = {0, 255, 0, 255};
        for (int i = 0; i < 4; i++) assert_int_equal(mask[i], inverted ? 255 - expected[i] : expected[i]);
        free(mask);
    }
    assert_int_equal(strlen(sha), 64);
    free(path);
}

/* ---- names ---- */

static const char *found(const fs_map_folder *f, const char *name) {
    static char base[64];
    char *path = NULL;
    fs_error err = {0};
    assert_int_equal(fs_map_folder_find(f, name, &path, &err), FS_OK);
    snprintf(base, sizeof base, "%s", path ? fs_path_base(path) : "");
    free(path);
    return base;
}

static void test_folder(void **state) {
    (void)state;
    static const char *const names[] = {"maps/a.png",     "maps/b_mask.png",   "maps/c_gt.npy",      "maps/d.jpg.png",
                                        "maps/e.txt",     "maps/f_pred.png",   "maps/f.npy",         "maps/twice.npy",
                                        "maps/twice.png", "maps/CASIA1/g.png", "maps/ps/Korus/h.png"};
    fs_error err = {0};
    char *dir = path_of("maps/ps/Korus"), *casia = path_of("maps/CASIA1"), *root = path_of("maps");
    fs_make_dirs(dir, &err);
    fs_make_dirs(casia, &err);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) write_text(names[i], "x", 1);
    fs_map_folder f;
    assert_int_equal(fs_map_folder_open(root, "ps/Columbia", &f, &err), FS_OK);
    assert_string_equal(found(&f, "a.png"), "a.png");
    assert_string_equal(found(&f, "a.jpg"), "a.png");
    assert_string_equal(found(&f, "b.tif"), "b_mask.png");
    assert_string_equal(found(&f, "c.jpg"), "c_gt.npy");
    assert_string_equal(found(&f, "d.jpg"), "d.jpg.png");
    assert_string_equal(found(&f, "e.jpg"), "");
    assert_string_equal(found(&f, "f.jpg"), "f.npy"); /* the plainer name */
    char *path = NULL;
    assert_int_equal(fs_map_folder_find(&f, "twice.jpg", &path, &err), FS_E_FORMAT);
    fs_map_folder_free(&f);
    assert_int_equal(fs_map_folder_open(root, "photoshop/CASIA1", &f, &err), FS_OK);
    assert_string_equal(found(&f, "g.jpg"), "g.png");
    assert_string_equal(found(&f, "a.jpg"), ""); /* another set's */
    fs_map_folder_free(&f);
    assert_int_equal(fs_map_folder_open(root, "ps/Korus", &f, &err), FS_OK);
    assert_string_equal(found(&f, "h.jpg"), "h.png");
    fs_map_folder_free(&f);
    free(dir), free(casia), free(root);
}

static void test_lines(void **state) {
    (void)state;
    static const char text[] =
        "{\"image\": \"/a/Columbia/image/1.jpg\", \"outputs\": \"columbia one\"}\n\n"
        "{\"image\": \"/a/DSO/image/1.jpg\", \"outputs\": \"dso one\"}\r\n"
        "{\"image\": \"2.jpg\", \"outputs\": \"two\"}\n{\"image\": \"2.jpg\", \"outputs\": \"two\"}\n{\"image\": \"x/3.jpg\"}";
    static const char *const keys[] = {"outputs", NULL};
    write_text("l.jsonl", text, sizeof text - 1);
    char *path = path_of("l.jsonl");
    fs_lines l;
    fs_error err = {0};
    const fs_lines_entry *e = NULL;
    assert_int_equal(fs_lines_read(path, keys, &l, &err), FS_OK);
    assert_int_equal(l.count, 5);
    assert_int_equal(fs_lines_find(&l, "data/ps/DSO/image/1.jpg", &e, &err), FS_OK);
    assert_string_equal(e->text, "dso one");
    assert_int_equal(fs_lines_find(&l, "data/ps/Columbia/image/1.jpg", &e, &err), FS_OK);
    assert_string_equal(e->text, "columbia one");
    assert_int_equal(fs_lines_find(&l, "1.jpg", &e, &err), FS_E_FORMAT); /* both fit */
    assert_int_equal(fs_lines_find(&l, "y/2.jpg", &e, &err), FS_OK);     /* twice the same is no question */
    assert_string_equal(e->text, "two");
    assert_int_equal(fs_lines_find(&l, "3.jpg", &e, &err), FS_OK);
    assert_string_equal(e->text, "");
    assert_int_equal(fs_lines_find(&l, "data/13.jpg", &e, &err), FS_OK);
    assert_null(e);
    fs_lines_free(&l);
    free(path);
}

/* ---- sweeps ---- */

static void test_sweep(void **state) {
    (void)state;
    fs_sweep s;
    fs_error err = {0};
    assert_int_equal(fs_sweep_parse("jpeg=90,50  resize=0.5 blur=1.5 noise=4", &s, &err), FS_OK);
    assert_int_equal(s.count, 6);
    assert_string_equal(s.steps[0].name, "");
    assert_string_equal(s.steps[2].name, "jpeg=50");
    uint8_t rgb[40 * 30 * 3];
    for (int i = 0; i < 40 * 30 * 3; i++) rgb[i] = (uint8_t)(i * 7 % 251);
    char *in = path_of("in.png"), *out = path_of("out.png"), *again = path_of("again.png");
    assert_int_equal(fs_png_write(in, rgb, 40, 30, 3, &err), FS_OK);
    for (size_t k = 1; k < s.count; k++) {
        fs_image *a = NULL, *b = NULL;
        assert_int_equal(fs_sweep_write(&s.steps[k], in, "in.png", 3, out, &err), FS_OK);
        assert_int_equal(fs_sweep_write(&s.steps[k], in, "in.png", 3, again, &err), FS_OK);
        assert_int_equal(fs_image_load(out, NULL, &a, NULL, &err), FS_OK);
        assert_int_equal(fs_image_load(again, NULL, &b, NULL, &err), FS_OK);
        const bool half = s.steps[k].kind == FS_SWEEP_RESIZE;
        assert_true(a->width == (half ? 20 : 40) && a->height == (half ? 15 : 30));
        assert_memory_equal(a->data, b->data, (size_t)(a->width * a->height * 3));
        double sum = 0, square = 0;
        for (int i = 0; !half && i < 40 * 30 * 3; i++) sum += a->data[i] - rgb[i], square += (a->data[i] - rgb[i]) * (a->data[i] - rgb[i]);
        if (s.steps[k].kind ==
            FS_SWEEP_NOISE) { /* 3600 values of deviation 4, a few cut at 0 and 255: mean within 4 standard errors, deviation within 6 % */
            assert_true(fabs(sum / 3600) < 4 * 4 / 60.0);
            assert_true(fabs(sqrt(square / 3600) - 4) < 0.25);
        }
        fs_image_free(a);
        fs_image_free(b);
    }
    fs_sweep_free(&s);
    static const char *const bad[] = {"jpeg",    "jpeg=",     "jpeg=0",           "jpeg=50.5", "jpeg=90,",
                                      "blur=-1", "sharpen=1", "jpeg=50;resize=2", "resize=nan"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        if (fs_sweep_parse(bad[i], &s, &err) != FS_E_USAGE) fail_msg("\"%s\" was taken", bad[i]);
    for (int k = 0; k < 5; k++) {
        fs_sweep_kind back;
        assert_true(fs_sweep_kind_from_name(fs_sweep_kind_name((fs_sweep_kind)k), &back));
        assert_int_equal(back, k);
    }
    free(in), free(out), free(again);
}

/* The table is typed in: what the paper says elsewhere of its columns must hold. */
static void test_published(void **state) {
    (void)state;
    size_t n;
    const fs_paper_row *d = fs_paper_rows(FS_PAPER_DETECTION, &n);
    assert_int_equal(n, 7);
    for (int set = 0; set < FS_PAPER_SETS; set++)
        for (size_t i = 0; fs_paper_forged_only(set) && i < n;
             i++) /* forged pictures alone: F1 = 2 ACC / (1 + ACC), up to rounding of both */
            assert_true(fabs(d[i].second[set] - 2 * d[i].first[set] / (1 + d[i].first[set])) < 0.011);
    fs_paper_rows(FS_PAPER_LOCALIZATION, &n);
    assert_int_equal(n, 8);
    const fs_paper_row *l = fs_paper_rows(FS_PAPER_LOCALIZATION, &n);
    for (size_t i = 0; i < n; i++)
        for (int set = 0; set < FS_PAPER_SETS; set++)
            if (fs_paper_has(FS_PAPER_LOCALIZATION, set))
                assert_true(l[i].first[set] >= 0 && l[i].first[set] <= l[i].second[set]); /* IoU <= F1 */
    assert_true(l[n - 1].first[0] == 0.54 && l[n - 1].second[8] == 0.24 && !fs_paper_has(FS_PAPER_LOCALIZATION, 3) &&
                !fs_paper_has(FS_PAPER_DETECTION, 4));
    assert_int_equal(fs_paper_set_of("CASIA1+"), 0);
    assert_int_equal(fs_paper_set_of("casia_v1"), 0);
    assert_int_equal(fs_paper_set_of("DSO-1"), fs_paper_set_of("dso"));
    assert_int_equal(fs_paper_set_of("CASIA2"), -1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_npy),      cmocka_unit_test(test_maps),  cmocka_unit_test(test_truth),
                                       cmocka_unit_test(test_folder),   cmocka_unit_test(test_lines), cmocka_unit_test(test_sweep),
                                       cmocka_unit_test(test_published)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
