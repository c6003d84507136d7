/* The region encoder against its reference (torchvision's RoIAlign, torch's group norm and resizing). */
#include "parity.h"

static const double TOLERANCE = 1e-5; /* f32 sums in another order; the longest has 12544 terms */
#define PREFIX "model.region_encoder."

static void load_levels(fs_exec *c, fs_tensor *levels[4]) {
    for (int l = 0; l < 4; l++) {
        char name[32];
        snprintf(name, sizeof name, "input.level%d", l);
        levels[l] = formula_2d(c, name, 64, 64);
    }
}

static fs_region_encoder bind(fs_archive *weights) {
    fs_region_encoder m;
    fs_error err = {0};
    fs_tensor_source source = fs_archive_source(weights);
    if (fs_region_encoder_bind(&m, 8, &source, PREFIX, &err)) fail_msg("%s", err.message);
    return m;
}

static void boxes_become_embeddings(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("MFLM"), *g = open_golden("region.safetensors");
    fs_region_encoder m = bind(weights);
    const float *boxes = fs_f32(golden(g, "boxes"));
    fs_exec c = start(FS_DTYPE_F32, 2);
    fs_tensor *levels[4];
    load_levels(&c, levels);
    fs_tensor *both = fs_region_encoder_forward(&c, &m, levels, boxes, 2);
    assert_ok(&c);
    assert_close(both, golden(g, "out"), TOLERANCE, "out");
    /* One box alone gives the same row. */
    fs_tensor *second = fs_region_encoder_forward(&c, &m, levels, boxes + 4, 1);
    assert_ok(&c);
    assert_close(second, fs_rows(&c, golden(g, "out"), 1, 2), TOLERANCE, "out[1]");
    fs_exec_end(&c);
    fs_archive_free(weights), fs_archive_free(g);
}

static void threads_do_not_matter(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("MFLM"), *g = open_golden("region.safetensors");
    fs_region_encoder m = bind(weights);
    float first[2 * 64];
    for (int threads = 1; threads <= 4; threads++) {
        fs_exec c = start(FS_DTYPE_BF16, threads);
        fs_tensor *levels[4];
        load_levels(&c, levels);
        fs_tensor *y = fs_region_encoder_forward(&c, &m, levels, fs_f32(golden(g, "boxes")), 2);
        assert_ok(&c);
        if (threads == 1) memcpy(first, fs_f32(y), sizeof first);
        assert_memory_equal(first, fs_f32(y), sizeof first);
        fs_exec_end(&c);
    }
    fs_archive_free(weights), fs_archive_free(g);
}

/* A bf16 network sees a box of 0.3001 and one of 0.3 as the same (steps of 1/512 there), an f32 one does not. */
static void boxes_are_rounded_like_the_network(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("MFLM");
    fs_region_encoder m = bind(weights);
    static const float boxes[2][4] = {{0.1f, 0.1f, 0.3f, 0.4f}, {0.1f, 0.1f, 0.3001f, 0.4f}};
    static const fs_dtype precisions[3] = {FS_DTYPE_F32, FS_DTYPE_BF16, FS_DTYPE_F16};
    for (int p = 0; p < 3; p++) {
        fs_exec c = start(precisions[p], 1);
        fs_tensor *levels[4];
        load_levels(&c, levels);
        fs_tensor *y = fs_region_encoder_forward(&c, &m, levels, boxes[0], 2);
        assert_ok(&c);
        assert_int_equal(memcmp(fs_f32(y), fs_f32(y) + 64, 64 * sizeof(float)) == 0, p > 0);
        fs_exec_end(&c);
    }
    fs_archive_free(weights);
}

static void bad_weights_and_calls_are_refused(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("MFLM");
    static const struct { const char *name; spoil_kind kind; fs_status status; const char *message; } cases[] = {
        {PREFIX "mlvl_fuse.input_conv.3.weight", SPOIL_MISSING, FS_E_NOT_FOUND,
         "weights.bin: tensor model.region_encoder.mlvl_fuse.input_conv.3.weight: expected shape [64,66,1,1], found no tensor of that name; the "
         "file is incomplete or belongs to another model"},
        {PREFIX "mlvl_fuse.fuse_convs.4.gn.bias", SPOIL_SHAPE, FS_E_MISMATCH,
         "weights.bin: tensor model.region_encoder.mlvl_fuse.fuse_convs.4.gn.bias: expected shape [64], found [65]; the weights and config.json "
         "do not belong together"},
        {PREFIX "roi_align.flatten_linear.weight", SPOIL_SHAPE, FS_E_MISMATCH,
         "weights.bin: tensor model.region_encoder.roi_align.flatten_linear.weight: expected shape [64,12544], found [64,12545]; the weights and "
         "config.json do not belong together"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        spoilt s;
        fs_tensor_source source = spoilt_source(&s, fs_archive_source(weights), cases[i].name, cases[i].kind);
        fs_region_encoder m;
        fs_error err = {0};
        assert_int_equal(fs_region_encoder_bind(&m, 8, &source, PREFIX, &err), cases[i].status);
        assert_string_equal(err.message, cases[i].message);
    }
    fs_region_encoder m = bind(weights);
    fs_error err = {0};
    fs_exec c = start(FS_DTYPE_F32, 1);
    fs_tensor *levels[4];
    load_levels(&c, levels);
    levels[2] = formula_2d(&c, "input", 49, 64);
    const float box[4] = {0, 0, 1, 1};
    assert_null(fs_region_encoder_forward(&c, &m, levels, box, 1));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_MISMATCH);
    assert_string_equal(err.message, "region encoder's CLIP level: expected F32 [64,64], found F32 [49,64]");
    fs_exec_end(&c);

    spoilt s;
    fs_tensor_source source = spoilt_source(&s, fs_archive_source(weights), PREFIX "roi_align.pconvs.3.bias", SPOIL_NAN);
    assert_int_equal(fs_region_encoder_bind(&m, 8, &source, PREFIX, &err), FS_OK);
    c = start(FS_DTYPE_F32, 1);
    load_levels(&c, levels);
    assert_null(fs_region_encoder_forward(&c, &m, levels, box, 1));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "region encoder"));
    fs_exec_end(&c);
    free(s.values);
    fs_archive_free(weights);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(boxes_become_embeddings),
        cmocka_unit_test(threads_do_not_matter),
        cmocka_unit_test(boxes_are_rounded_like_the_network),
        cmocka_unit_test(bad_weights_and_calls_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
