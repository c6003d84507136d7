/* The projectors of both stages and the [SEG] head. */
#include "parity.h"

static const double TOLERANCE = 1e-5; /* two f32 products of 64 terms, summed in another order */

static void projectors(void **state) {
    (void)state;
    static const struct { const char *dir, *name; } parts[2] = {{FS_TINY_DIR "/DTE-FDM", "dte"}, {FS_TINY_DIR "/MFLM", "mflm"}};
    fs_archive *g = open_golden("projector.safetensors");
    for (int i = 0; i < 2; i++) {
        fs_archive *weights = open_archive(parts[i].dir);
        fs_tensor_source source = fs_archive_source(weights);
        fs_projector m;
        fs_error err = {0};
        if (fs_projector_bind(&m, 64, 64, &source, "model.mm_projector.", &err)) fail_msg("%s", err.message);
        fs_exec c = start(FS_DTYPE_F32, 2);
        fs_tensor *y = fs_projector_forward(&c, &m, formula_2d(&c, "input", 64, 64));
        assert_ok(&c);
        assert_close(y, golden(g, parts[i].name), TOLERANCE, parts[i].name);
        fs_exec_end(&c);
        fs_archive_free(weights);
    }
    fs_archive_free(g);
}

/* The final state of the teacher-forced sequence -> the vector SAM is given. `relu` cannot be seen from outside; the vector depends on it. */
static void seg_head(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("MFLM"), *g = open_golden("seg.safetensors"), *g16 = open_golden("seg_bf16.safetensors");
    fs_tensor_source source = fs_archive_source(weights);
    fs_seg_head m;
    fs_error err = {0};
    if (fs_seg_head_bind(&m, 64, &source, "model.text_hidden_fcs.0.", &err)) fail_msg("%s", err.message);
    fs_exec c = start(FS_DTYPE_F32, 1);
    fs_tensor *vector = fs_seg_head_forward(&c, &m, fs_reshape_2d(&c, golden(g, "state"), 1, 64));
    assert_ok(&c);
    assert_close(vector, golden(g, "vector"), TOLERANCE, "vector");
    fs_exec_end(&c);

    c = start(FS_DTYPE_BF16, 1);
    vector = fs_seg_head_forward(&c, &m, fs_reshape_2d(&c, golden(g16, "state"), 1, 64));
    assert_ok(&c);
    /* Two products; only a sum that lies on a rounding boundary may fall on the other side. */
    assert_in_steps(vector, golden(g16, "vector"), 8, 2, 0.99, "vector (bf16)");
    fs_exec_end(&c);
    fs_archive_free(weights), fs_archive_free(g), fs_archive_free(g16);
}

static void bad_weights_are_named(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("MFLM");
    spoilt s;
    fs_error err = {0};
    fs_projector m;
    fs_tensor_source source = spoilt_source(&s, fs_archive_source(weights), "model.mm_projector.2.bias", SPOIL_MISSING);
    assert_int_equal(fs_projector_bind(&m, 64, 64, &source, "model.mm_projector.", &err), FS_E_NOT_FOUND);
    assert_string_equal(err.message, "weights.bin: tensor model.mm_projector.2.bias: expected shape [64], found no tensor of that name; the "
                                     "file is incomplete or belongs to another model");
    /* A projector of another CLIP width. */
    source = fs_archive_source(weights);
    assert_int_equal(fs_projector_bind(&m, 128, 64, &source, "model.mm_projector.", &err), FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "tensor model.mm_projector.0.weight: expected shape [64,128], found [64,64]"));
    fs_seg_head head;
    source = spoilt_source(&s, fs_archive_source(weights), "model.text_hidden_fcs.0.2.weight", SPOIL_SHAPE);
    assert_int_equal(fs_seg_head_bind(&head, 64, &source, "model.text_hidden_fcs.0.", &err), FS_E_MISMATCH);
    assert_string_equal(err.message, "weights.bin: tensor model.text_hidden_fcs.0.2.weight: expected shape [any,64], found [32,65]; the "
                                     "weights and config.json do not belong together");
    fs_archive_free(weights);
}

static void nan_weights_are_noticed(void **state) {
    (void)state;
    fs_archive *weights = open_tiny("MFLM");
    spoilt s;
    fs_error err = {0};
    fs_tensor_source source = spoilt_source(&s, fs_archive_source(weights), "model.mm_projector.0.bias", SPOIL_NAN);
    fs_projector m;
    assert_int_equal(fs_projector_bind(&m, 64, 64, &source, "model.mm_projector.", &err), FS_OK);
    fs_exec c = start(FS_DTYPE_F32, 1);
    assert_null(fs_projector_forward(&c, &m, formula_2d(&c, "input", 64, 64)));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "projector"));
    fs_exec_end(&c);
    free(s.values);
    fs_archive_free(weights);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(projectors),
        cmocka_unit_test(seg_head),
        cmocka_unit_test(bad_weights_are_named),
        cmocka_unit_test(nan_weights_are_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
