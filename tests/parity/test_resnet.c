/* The domain tag generator against torchvision: a ResNet-50 of width 4, every stage and the logits. */
#include "parity.h"

/* f32 sums in another order than PyTorch's; 54 layers deep. */
static const double TOLERANCE = 1e-5;

static fs_resnet bind(fs_archive *weights) {
    fs_resnet m;
    fs_error err = {0};
    fs_tensor_source source = fs_archive_source(weights);
    if (fs_resnet_bind(&m, &source, "", &err)) fail_msg("%s", err.message);
    return m;
}

static void stages_and_logits(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("DTG.pth"), *g = open_golden("dtg.safetensors");
    fs_resnet m = bind(weights);
    assert_int_equal(m.n_blocks[0], 3);
    assert_int_equal(m.n_blocks[1], 4);
    assert_int_equal(m.n_blocks[2], 6);
    assert_int_equal(m.n_blocks[3], 3);
    assert_int_equal(m.classes, 3);
    fs_exec c = start(FS_DTYPE_F32, 2);
    fs_tensor *taps[5];
    fs_tensor *logits = fs_resnet_forward(&c, &m, formula_3d(&c, "input", 3, 64, 96), taps);
    assert_ok(&c);
    static const char *const names[5] = {"stem", "stage1", "stage2", "stage3", "stage4"};
    for (int i = 0; i < 5; i++) assert_close(taps[i], golden(g, names[i]), TOLERANCE, names[i]);
    assert_close(logits, golden(g, "logits"), TOLERANCE, "logits");

    logits = fs_resnet_forward(&c, &m, formula_3d(&c, "input", 3, 224, 224), NULL);
    assert_ok(&c);
    assert_close(logits, golden(g, "logits_224"), TOLERANCE, "logits_224");
    fs_exec_end(&c);
    fs_resnet_unbind(&m);
    fs_archive_free(weights), fs_archive_free(g);
}

/* Bit for bit the same on 1 to 4 threads, with and without taps, and no arena growth from one run to the next. */
static void threads_do_not_matter(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("DTG.pth");
    fs_resnet m = bind(weights);
    float first[3] = {0};
    for (int threads = 1; threads <= 4; threads++) {
        fs_exec c = start(FS_DTYPE_F32, threads);
        fs_tensor *taps[5];
        fs_tensor *logits = fs_resnet_forward(&c, &m, formula_3d(&c, "input", 3, 64, 96), threads % 2 ? taps : NULL);
        assert_ok(&c);
        if (threads == 1) memcpy(first, fs_f32(logits), sizeof first);
        assert_memory_equal(first, fs_f32(logits), sizeof first);
        fs_exec_end(&c);
    }
    fs_resnet_unbind(&m);
    fs_archive_free(weights);
}

static void bad_weights_are_named(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("DTG.pth");
    static const struct { const char *name; spoil_kind kind; fs_status status; const char *message; } cases[] = {
        {"layer3.5.conv2.weight", SPOIL_MISSING, FS_E_NOT_FOUND,
         "weights.bin: tensor layer3.5.conv2.weight: expected shape [16,16,3,3], found no tensor of that name; the file is incomplete or "
         "belongs to another model"},
        {"layer2.0.conv1.weight", SPOIL_MISSING, FS_E_NOT_FOUND,
         "weights.bin: tensor layer2.0.conv1.weight: expected shape [any,16,1,1], found no tensor of that name; the file is incomplete or "
         "belongs to another model"},
        {"bn1.running_var", SPOIL_SHAPE, FS_E_MISMATCH,
         "weights.bin: tensor bn1.running_var: expected shape [4], found [5]; the weights and config.json do not belong together"},
        {"layer4.0.downsample.0.weight", SPOIL_MISSING, FS_E_NOT_FOUND,
         "weights.bin: tensor layer4.0.downsample.0.weight: expected shape [128,64,1,1], found no tensor of that name; the file is "
         "incomplete or belongs to another model"},
        {"fc.weight", SPOIL_SHAPE, FS_E_MISMATCH,
         "weights.bin: tensor fc.weight: expected shape [any,128], found [3,129]; the weights and config.json do not belong together"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        spoilt s;
        fs_tensor_source source = spoilt_source(&s, fs_archive_source(weights), cases[i].name, cases[i].kind);
        fs_resnet m;
        fs_error err = {0};
        assert_int_equal(fs_resnet_bind(&m, &source, "", &err), cases[i].status);
        assert_string_equal(err.message, cases[i].message);
        assert_null(m.blocks); /* nothing left behind */
    }
    fs_archive_free(weights);
}

static void nan_weights_are_noticed(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("DTG.pth");
    spoilt s;
    fs_tensor_source source = spoilt_source(&s, fs_archive_source(weights), "layer4.2.bn3.bias", SPOIL_NAN);
    fs_resnet m;
    fs_error err = {0};
    assert_int_equal(fs_resnet_bind(&m, &source, "", &err), FS_OK);
    fs_exec c = start(FS_DTYPE_F32, 1);
    assert_null(fs_resnet_forward(&c, &m, formula_3d(&c, "input", 3, 64, 96), NULL));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "ResNet"));
    fs_exec_end(&c);
    free(s.values);
    fs_resnet_unbind(&m);
    fs_archive_free(weights);
}

static void wrong_pixels_are_refused(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("DTG.pth");
    fs_resnet m = bind(weights);
    fs_error err = {0};
    fs_exec c = start(FS_DTYPE_F32, 1);
    assert_null(fs_resnet_forward(&c, &m, formula_3d(&c, "input", 1, 64, 96), NULL));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_MISMATCH);
    assert_string_equal(err.message, "ResNet's pixels: expected F32 [3,any,any], found F32 [1,64,96]");
    fs_exec_end(&c);
    fs_resnet_unbind(&m);
    fs_archive_free(weights);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_and_logits),       cmocka_unit_test(threads_do_not_matter),    cmocka_unit_test(bad_weights_are_named),
        cmocka_unit_test(nan_weights_are_noticed), cmocka_unit_test(wrong_pixels_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
