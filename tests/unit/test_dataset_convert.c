/* dataset convert: a miniature set in each of the forms, with the faults that the real ones have. */
#include "unit/data_support.h"

#include <sys/stat.h>

#include "data/mask.h"
#include "data/tree.h"

enum { W = 24, H = 16 };

static void picture(const char *dir, const char *name, uint64_t seed) {
    put_picture(dir, name, W, H, seed);
}

typedef struct outcome {
    size_t tampered, authentic, left_out;
    char *text;
} outcome;

static outcome convert_with(const char *dir, fs_dataset_form form, fs_dataset_convert_options opt) {
    outcome o = {0};
    char *src = fs_path_join(dir, "src"), *out = fs_path_join(dir, "out");
    opt.tampered = &o.tampered, opt.authentic = &o.authentic, opt.left_out = &o.left_out;
    assert_ok(fs_dataset_convert(form, src, out, &opt, &o.text, err));
    free(src), free(out);
    return o;
}

static outcome convert(const char *dir, fs_dataset_form form) {
    return convert_with(dir, form, fs_dataset_convert_options_defaults());
}

static void expect(outcome o, size_t tampered, size_t authentic, size_t left_out) {
    if (o.tampered != tampered || o.authentic != authentic || o.left_out != left_out)
        fail_msg("%zu, %zu, %zu in place of %zu, %zu, %zu:\n%s", o.tampered, o.authentic, o.left_out, tampered, authentic, left_out,
                 o.text);
    free(o.text);
}

static void expect_part(const outcome *o, const char *part) {
    if (!strstr(o->text, part)) fail_msg("the report lacks \"%s\":\n%s", part, o->text);
}

/* The upper left quarter is marked, with 255 and 0 alone, in a one-channel PNG. */
static void expect_quarter(const char *dir, const char *name) {
    fs_image_info info;
    fs_image *im = NULL;
    char *path = fs_path_join(dir, name);
    assert_ok(fs_image_load(path, NULL, &im, &info, err));
    assert_string_equal(info.mode, "L");
    assert_int_equal(im->width, W);
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++) assert_int_equal(im->data[(y * W + x) * 3], x < W / 2 && y < H / 2 ? 255 : 0);
    fs_image_free(im);
    free(path);
}

static void expect_same_file(const char *dir, const char *a, const char *b, bool linked) {
    struct stat s, t;
    char *x = fs_path_join(dir, a), *y = fs_path_join(dir, b);
    uint8_t *p = NULL, *q = NULL;
    size_t m, n;
    assert_ok(fs_read_file(x, 1 << 24, &p, &m, err));
    assert_ok(fs_read_file(y, 1 << 24, &q, &n, err));
    assert_int_equal(m, n);
    assert_memory_equal(p, q, m);
    assert_int_equal(stat(x, &s), 0);
    assert_int_equal(stat(y, &t), 0);
    assert_int_equal(s.st_ino == t.st_ino, linked);
    free(x), free(y), free(p), free(q);
}

/* The result is a tree that the reader takes without a complaint. */
static void expect_tree(const char *dir, size_t records) {
    const fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    char *out = fs_path_join(dir, "out");
    assert_ok(fs_dataset_open(out, &opt, &d, err));
    assert_int_equal(d.count, records);
    fs_dataset_free(&d);
    free(out);
}

static void test_casia2(void **state) {
    const char *dir = *state;
    picture(dir, "src/Au/Au_ani_00001.png", 1);
    picture(dir, "src/Tp/Tp_D_CRN_S_N_cha00063_art00014_11818.png", 2);
    put_mask(dir, "src/CASIA 2 Groundtruth/Tp_D_CRN_S_N_cha00063_art00014_11818_gt.png", W, H, 255, 0);
    picture(dir, "src/Tp/Tp_D_CNN_M_N_ind00091_10647.png", 3); /* the mask has another name, but the number */
    put_mask(dir, "src/CASIA 2 Groundtruth/Tp_S_CNN_M_N_ind00091_ind00091_10647_gt.png", W, H, 255, 0);
    picture(dir, "src/Tp/Tp_D_NRD_S_N_cha10002_cha10001_20094.png", 4);
    put_mask(dir, "src/CASIA 2 Groundtruth/Tp_D_NRD_S_N_cha10002_cha10001_20094_gt3.png", W, H, 255, 0);
    picture(dir, "src/Tp/Tp_S_NND_S_N_sec20064_sec20064_01654.png", 5); /* mask of another size */
    put_mask(dir, "src/CASIA 2 Groundtruth/Tp_S_NND_S_N_sec20064_sec20064_01654_gt.png", W, H - 2, 255, 0);
    picture(dir, "src/Tp/Tp_S_x_00001.png", 6);                                 /* no mask */
    put_mask(dir, "src/CASIA 2 Groundtruth/Tp_D_y_00002_gt.png", W, H, 255, 0); /* no picture */
    picture(dir, "src/Tp/Tp_S_z_00003.png", 7);
    put_mask(dir, "src/CASIA 2 Groundtruth/Tp_S_z_00003_gt.png", W, H, 0, 0); /* marks nothing */
    put_text(dir, "src/Tp/Tp_S_w_00004.png", "broken");
    put_mask(dir, "src/CASIA 2 Groundtruth/Tp_S_w_00004_gt.png", W, H, 255, 0);
    picture(dir, "src/stray.png", 8);
    put_text(dir, "src/Tp/_list.txt", "x");
    outcome o = convert(dir, FS_FORM_CASIA);
    expect_part(&o, "Tp_D_CNN_M_N_ind00091_10647.png: has the mask Tp_S_CNN_M_N_ind00091_ind00091_10647_gt.png by its number");
    expect_part(&o, "24 x 16, but its mask CASIA 2 Groundtruth/Tp_S_NND_S_N_sec20064_sec20064_01654_gt.png is 24 x 14");
    expect_part(&o, "stray.png");
    expect(o, 3, 1, 6);
    expect_quarter(dir, "out/photoshop/CASIAv2_Tp/mask/Tp_D_CNN_M_N_ind00091_10647.png");
    expect_same_file(dir, "src/Tp/Tp_D_CNN_M_N_ind00091_10647.png", "out/photoshop/CASIAv2_Tp/image/Tp_D_CNN_M_N_ind00091_10647.png", true);
    assert_true(is_there(dir, "out/photoshop/CASIAv2_Au/image/Au_ani_00001.png"));
    assert_false(is_there(dir, "out/photoshop/CASIAv2_Au/mask"));
    expect_tree(dir, 4);
    expect(convert(dir, FS_FORM_CASIA), 3, 1, 6); /* once more: what is there stays */
}

static void test_casia_both(void **state) {
    const char *dir = *state;
    fs_error e = {0};
    picture(dir, "src/v1/Tp/CM/Sp_S_CND_A_pla0016_pla0016_0196.png", 1);
    put_mask(dir, "src/v1/CASIA 1.0 groundtruth/CM/Sp_S_CND_A_pla0016_pla0016_0196_gt.png", W, H, 255, 0);
    picture(dir, "src/v1/Au/Au_ani_0001.png", 2);
    picture(dir, "src/v2/Tp/Tp_S_NRN_S_O_sec00036_sec00036_00764.png", 3);
    put_mask(dir, "src/v2/gt/Tp_S_NRN_S_O_sec00036_sec00036_00764.png", W, H, 255, 0); /* without _gt, told by the folder */
    picture(dir, "src/v2/Au/Au_ani_00001.png", 4);
    fs_dataset_convert_options opt = fs_dataset_convert_options_defaults();
    opt.name = "CASIA";
    char *src = fs_path_join(dir, "src"), *out = fs_path_join(dir, "out");
    assert_int_equal(fs_dataset_convert(FS_FORM_CASIA, src, out, &opt, NULL, &e), FS_E_USAGE);
    assert_message(&e, "both versions");
    assert_false(is_there(dir, "out"));
    free(src), free(out);
    expect(convert(dir, FS_FORM_CASIA), 2, 2, 0);
    assert_true(is_there(dir, "out/photoshop/CASIAv1_Tp/mask/Sp_S_CND_A_pla0016_pla0016_0196.png"));
    assert_true(is_there(dir, "out/photoshop/CASIAv1_Au/image/Au_ani_0001.png"));
    assert_true(is_there(dir, "out/photoshop/CASIAv2_Tp/mask/Tp_S_NRN_S_O_sec00036_sec00036_00764.png"));
    assert_true(is_there(dir, "out/photoshop/CASIAv2_Au/image/Au_ani_00001.png"));
}

/* Red and green, bright near the border between both; green is the part from the second camera. */
static void test_columbia(void **state) {
    const char *dir = *state;
    uint8_t p[H * W * 3] = {0};
    for (int i = 0; i < W * H; i++) {
        const bool spliced = i % W < W / 2 && i / W < H / 2;
        p[3 * i + spliced] = i % 3 ? 255 : 200;
    }
    picture(dir, "src/4cam_auth/canong3_02_sub_01.png", 1);
    put_png(dir, "src/4cam_auth/edgemask/canong3_02_sub_01_edgemask.png", p, W, H, 3);
    picture(dir, "src/4cam_splc/canong3_canonxt_sub_01.png", 2);
    put_png(dir, "src/4cam_splc/edgemask/canong3_canonxt_sub_01_edgemask.png", p, W, H, 3);
    put_png(dir, "src/4cam_splc/edgemask/canong3_canonxt_sub_01_edgemask_3.png", p, W, H, 3);
    expect(convert(dir, FS_FORM_COLUMBIA), 1, 1, 0);
    expect_quarter(dir, "out/photoshop/Columbia_Tp/mask/canong3_canonxt_sub_01.png");
    expect_tree(dir, 2);
}

static void test_coverage(void **state) {
    const char *dir = *state;
    picture(dir, "src/image/1.png", 1);
    picture(dir, "src/image/1t.png", 2);
    picture(dir, "src/image/10.png", 3);
    picture(dir, "src/image/10t.png", 4);
    put_mask(dir, "src/mask/1forged.png", W, H, 255, 0);
    put_mask(dir, "src/mask/1copy.png", W, H, 0, 255);
    put_mask(dir, "src/mask/1paste.png", W, H, 0, 255);
    put_mask(dir, "src/mask/10forged.png", W * 2, H * 2, 200, 3);
    put_text(dir, "src/label/1.mat", "x");
    outcome o = convert(dir, FS_FORM_COVERAGE);
    expect_part(&o, "--resize-masks takes them");
    expect(o, 1, 2, 1);
    expect_quarter(dir, "out/photoshop/coverage_Tp/mask/1t.png");
    fs_dataset_convert_options opt = fs_dataset_convert_options_defaults();
    opt.resize_masks = true;
    o = convert_with(dir, FS_FORM_COVERAGE, opt);
    expect_part(&o, "note: masks brought to the picture's size: 1");
    expect(o, 2, 2, 0);
    expect_quarter(dir, "out/photoshop/coverage_Tp/mask/10t.png");
    expect_tree(dir, 4);
}

static void test_nist16(void **state) {
    const char *dir = *state;
    picture(dir, "src/NC2016_Test0613/probe/NC2016_0001.png", 1);
    picture(dir, "src/NC2016_Test0613/probe/NC2016_0002.png", 2);
    picture(dir, "src/NC2016_Test0613/probe/NC2016_0003.png", 3);
    put_mask(dir, "src/NC2016_Test0613/reference/manipulation/mask/NC2016_0001_gt.png", W, H, 0, 255); /* black is tampered */
    put_text(dir, "src/NC2016_Test0613/reference/manipulation/NC2016-manipulation-ref.csv",
             "TaskID|ProbeFileID|ProbeFileName|ProbeMaskFileName|IsTarget|BaseFileName\r\n"
             "manipulation|1|probe/NC2016_0001.png|reference/manipulation/mask/NC2016_0001_gt.png|Y|x\r\n"
             "manipulation|1|probe/NC2016_0001.png|reference/manipulation/mask/NC2016_0001_gt.png|Y|again\r\n"
             "manipulation|2|/Probe/nc2016_0002.PNG||N|x\r\n"
             "manipulation|3|\"probe\\NC2016_0003.png\"|reference/manipulation/mask/none.png|Y|x\r\n"
             "manipulation|4|probe/../../../../../etc/passwd.png||N|x\r\n"
             "\r\n");
    outcome o = convert(dir, FS_FORM_NIST16);
    expect_part(&o, "line 5 of the list: reference/manipulation/mask/none.png is not there");
    expect_part(&o, "line 6: probe/../../../../../etc/passwd.png is not there");
    expect(o, 1, 1, 2);
    expect_quarter(dir, "out/photoshop/NIST16_Tp/mask/NC2016_0001.png");
    expect_tree(dir, 2);
    static const struct {
        const char *csv, *part;
    } wrong[] = {
        {"A|B\n", "line 1: expected the fields IsTarget"},
        {"IsTarget|ProbeFileName|ProbeMaskFileName\nY|probe/NC2016_0001.png\n", "line 2: 2 fields, fewer than"},
        {"", "line 1: expected the fields"},
    };
    char *src = fs_path_join(dir, "src"), *out = fs_path_join(dir, "out");
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        fs_error e = {0};
        put_text(dir, "src/NC2016_Test0613/reference/manipulation/NC2016-manipulation-ref.csv", wrong[i].csv);
        assert_int_equal(fs_dataset_convert(FS_FORM_NIST16, src, out, NULL, NULL, &e), FS_E_FORMAT);
        assert_message(&e, wrong[i].part);
    }
    free(src), free(out);
}

static void test_imd2020(void **state) {
    const char *dir = *state;
    picture(dir, "src/1a1ogs/1a1ogs_orig.jpg.png", 9); /* a name with two dots and no role: orig is not its end */
    picture(dir, "src/1a1ogs/1a1ogs_orig.png", 1);
    picture(dir, "src/1a1ogs/c8tf5mq_0.png", 2);
    put_mask(dir, "src/1a1ogs/c8tf5mq_0_mask.png", W, H, 255, 0);
    picture(dir, "src/1a3oag/c8tf5mq_0.png", 3); /* the same name in another folder */
    put_mask(dir, "src/1a3oag/c8tf5mq_0_mask.png", W, H, 255, 0);
    outcome o = convert(dir, FS_FORM_IMD2020);
    expect_part(&o, "1a1ogs_orig.jpg.png: no mask of its name");
    expect(o, 2, 1, 1);
    expect_same_file(dir, "src/1a3oag/c8tf5mq_0.png", "out/photoshop/IMD2020_Tp/image/1a3oag_c8tf5mq_0.png", true);
    expect_quarter(dir, "out/photoshop/IMD2020_Tp/mask/1a3oag_c8tf5mq_0.png");
    expect_tree(dir, 3);
}

static void test_dso1(void **state) {
    const char *dir = *state;
    picture(dir, "src/DSO-1/normal-01.png", 1);
    picture(dir, "src/DSO-1/splicing-01.png", 2);
    put_mask(dir, "src/DSO-1-Fake-Images-Masks/splicing-01.png", W, H, 0, 255); /* inverted */
    picture(dir, "src/DSI-1/splicing_1.png", 3);
    put_text(dir, "src/__MACOSX/DSO-1/splicing-01.png", "not a picture");
    expect(convert(dir, FS_FORM_DSO1), 1, 1, 0);
    expect_quarter(dir, "out/photoshop/DSO_Tp/mask/splicing-01.png");
    put_mask(dir, "src/DSO-1-Fake-Images-Masks/splicing-01.png", W, H, 255, 0); /* a copy with corrected masks */
    outcome o = convert(dir, FS_FORM_DSO1);
    expect_part(&o, "--no-invert");
    expect(o, 1, 1, 0);
    fs_dataset_convert_options opt = fs_dataset_convert_options_defaults();
    opt.no_invert = true;
    o = convert_with(dir, FS_FORM_DSO1, opt);
    assert_null(strstr(o.text, "inverted"));
    expect(o, 1, 1, 0);
    expect_quarter(dir, "out/photoshop/DSO_Tp/mask/splicing-01.png");
}

static void test_korus(void **state) {
    const char *dir = *state;
    uint8_t p[H * W] = {0};
    for (int i = 0; i < W * H; i++) p[i] = i % W < W / 2 && i / W < H / 2 ? (i % 2 ? 255 : 128) : 5; /* white, and grey for side effects */
    picture(dir, "src/Canon_60D/pristine/r1.png", 1);
    picture(dir, "src/Canon_60D/tampered-realistic/r1.png", 2);
    put_png(dir, "src/Canon_60D/ground-truth/r1.PNG", p, W, H, 1);
    picture(dir, "src/Nikon_D90/tampered-realistic/r1.png", 3);
    put_png(dir, "src/Nikon_D90/ground-truth/r1.png", p, W, H, 1);
    expect(convert(dir, FS_FORM_KORUS), 2, 1, 0);
    expect_quarter(dir, "out/photoshop/Korus_Tp/mask/r1.png");
    expect_same_file(dir, "src/Nikon_D90/tampered-realistic/r1.png", "out/photoshop/Korus_Tp/image/Nikon_D90_tampered-realistic_r1.png",
                     true);
    expect_tree(dir, 3);
}

static void test_options(void **state) {
    const char *dir = *state;
    fs_dataset_convert_options opt = fs_dataset_convert_options_defaults();
    picture(dir, "src/image/1.png", 1);
    picture(dir, "src/image/1t.png", 2);
    put_mask(dir, "src/mask/1forged.png", W, H, 255, 0);
    opt.dry_run = true;
    opt.name = "Mine";
    outcome o = convert_with(dir, FS_FORM_COVERAGE, opt);
    expect_part(&o, "would go to");
    expect(o, 1, 1, 0);
    assert_false(is_there(dir, "out"));
    opt.dry_run = false;
    opt.copy = true;
    expect(convert_with(dir, FS_FORM_COVERAGE, opt), 1, 1, 0);
    expect_same_file(dir, "src/image/1t.png", "out/photoshop/Mine_Tp/image/1t.png", false);
    char *src = fs_path_join(dir, "src"), *inside = fs_path_join(dir, "src/a/b"), *out = fs_path_join(dir, "out");
    fs_error e = {0};
    assert_int_equal(fs_dataset_convert(FS_FORM_COVERAGE, src, inside, NULL, NULL, &e), FS_E_USAGE);
    assert_message(&e, "lies in the folder that is converted");
    assert_int_equal(fs_dataset_convert(FS_FORM_COVERAGE, src, src, NULL, NULL, &e), FS_E_USAGE);
    assert_int_equal(fs_dataset_convert(FS_FORM_KORUS, src, out, NULL, NULL, &e), FS_E_NOT_FOUND);
    assert_message(&e, "nothing of korus here; expected CAMERA/pristine/");
    assert_int_equal(fs_dataset_convert(FS_FORM_NIST16, src, out, NULL, NULL, &e), FS_E_NOT_FOUND);
    assert_message(&e, "manipulation-ref.csv");
    put_picture(dir, "out/photoshop/Mine_Tp/image/1t.png", W, H, 77);
    assert_int_equal(fs_dataset_convert(FS_FORM_COVERAGE, src, out, &opt, NULL, &e), FS_E_USAGE);
    assert_message(&e, "is there already, and another picture");
    static const char *const names[] = {"", "a/b", "..", ".x"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        opt.name = names[i];
        assert_int_equal(fs_dataset_convert(FS_FORM_COVERAGE, src, out, &opt, NULL, &e), FS_E_USAGE);
        assert_message(&e, "cannot be the name of a set");
    }
    free(src), free(inside), free(out);
}

static void test_names(void **state) {
    (void)state;
    fs_dataset_form f;
    for (int i = 0; i < FS_FORMS; i++) assert_true(fs_dataset_form_from_name(fs_dataset_form_name((fs_dataset_form)i), &f) && (int)f == i);
    assert_false(fs_dataset_form_from_name("casia2", &f));
    assert_false(fs_dataset_form_from_name(NULL, &f));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_casia2, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_casia_both, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_columbia, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_coverage, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_nist16, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_imd2020, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_dso1, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_korus, setup_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_options, setup_folder, remove_folder),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
