/* CLIP's vision tower against transformers: hidden states in f32, and with the rounding of a bf16 network. */
#include "parity.h"

static const double TOLERANCE = 1e-5; /* f32 sums in another order, ten layers deep */
static const fs_clip_config CONFIG = {.hidden = 64, .intermediate = 64, .layers = 11, .heads = 4, .image_size = 112, .patch_size = 14,
                                      .eps = 1e-5f, .activation = FS_ACT_QUICK_GELU};
#define PREFIX "vision_model."

static fs_clip bind(fs_archive *weights) {
    fs_clip m;
    fs_error err = {0};
    fs_tensor_source source = fs_archive_source(weights);
    if (fs_clip_bind(&m, &CONFIG, &source, PREFIX, &err)) fail_msg("%s", err.message);
    return m;
}

/* Hidden state k without its class token. */
static fs_tensor *state(fs_exec *c, fs_archive *g, const char *name) { return fs_rows(c, golden(g, name), 1, 65); }

static void hidden_states(void **unused) {
    (void)unused;
    fs_archive *weights = open_tiny("clip-vit-tiny"), *g = open_golden("clip.safetensors");
    fs_clip m = bind(weights);
    fs_exec c = start(FS_DTYPE_F32, 2);
    fs_tensor *pixels = formula_3d(&c, "input", 3, 112, 112), *levels[4];
    fs_tensor *selected = fs_clip_forward(&c, &m, pixels, -2, levels);
    assert_ok(&c);
    assert_close(selected, golden(g, "selected"), TOLERANCE, "selected");
    assert_close(levels[0], state(&c, g, "hidden_1"), TOLERANCE, "hidden_1");
    assert_close(levels[1], state(&c, g, "hidden_4"), TOLERANCE, "hidden_4");
    assert_close(levels[2], state(&c, g, "hidden_7"), TOLERANCE, "hidden_7");
    assert_close(levels[3], state(&c, g, "hidden_10"), TOLERANCE, "hidden_10");

    /* The same without levels, where every layer's result takes the place of the one before. */
    fs_tensor *again = fs_clip_forward(&c, &m, pixels, -2, NULL);
    assert_ok(&c);
    assert_memory_equal(fs_f32(again), fs_f32(selected), 64 * 64 * sizeof(float));
    /* An earlier layer, counted from either end. */
    assert_close(fs_clip_forward(&c, &m, pixels, 0, NULL), state(&c, g, "hidden_0"), TOLERANCE, "hidden_0");
    assert_close(fs_clip_forward(&c, &m, pixels, -8, NULL), state(&c, g, "hidden_4"), TOLERANCE, "hidden_4 (-8)");
    assert_ok(&c);
    fs_exec_end(&c);
    fs_clip_unbind(&m);
    fs_archive_free(weights), fs_archive_free(g);
}

/* Embedding and one layer agree to 2 steps for 99 %. Deeper, flips on rounding boundaries have spread everywhere: see assert_noise. */
static void bf16(void **unused) {
    (void)unused;
    fs_archive *weights = open_tiny("clip-vit-tiny"), *g = open_golden("clip_bf16.safetensors"), *plain = open_golden("clip.safetensors");
    fs_clip m = bind(weights);
    fs_exec c = start(FS_DTYPE_BF16, 2);
    fs_tensor *levels[4], *pixels = formula_3d(&c, "input", 3, 112, 112);
    fs_tensor *first = fs_clip_forward(&c, &m, pixels, 0, NULL);
    fs_tensor *selected = fs_clip_forward(&c, &m, pixels, -2, levels);
    assert_ok(&c);
    assert_in_steps(first, state(&c, g, "hidden_0"), 8, 2, 0.99, "hidden_0");
    assert_in_steps(levels[0], state(&c, g, "hidden_1"), 8, 2, 0.99, "hidden_1");
    assert_noise(levels[1], state(&c, g, "hidden_4"), state(&c, plain, "hidden_4"), "hidden_4");
    assert_noise(levels[2], state(&c, g, "hidden_7"), state(&c, plain, "hidden_7"), "hidden_7");
    assert_noise(selected, golden(g, "selected"), golden(plain, "selected"), "selected");
    fs_exec_end(&c);
    fs_clip_unbind(&m);
    fs_archive_free(weights), fs_archive_free(g), fs_archive_free(plain);
}

static void threads_do_not_matter(void **unused) {
    (void)unused;
    fs_archive *weights = open_tiny("clip-vit-tiny");
    fs_clip m = bind(weights);
    static const fs_dtype precisions[2] = {FS_DTYPE_F32, FS_DTYPE_BF16};
    for (int p = 0; p < 2; p++) {
        static float first[64 * 64];
        for (int threads = 1; threads <= 4; threads++) {
            fs_exec c = start(precisions[p], threads);
            fs_tensor *y = fs_clip_forward(&c, &m, formula_3d(&c, "input", 3, 112, 112), -2, NULL);
            assert_ok(&c);
            if (threads == 1) memcpy(first, fs_f32(y), sizeof first);
            assert_memory_equal(first, fs_f32(y), sizeof first);
            fs_exec_end(&c);
        }
    }
    fs_clip_unbind(&m);
    fs_archive_free(weights);
}

/* Without scopes ten layers would need ten times a layer's memory. */
static void memory_is_one_layer(void **unused) {
    (void)unused;
    fs_archive *weights = open_tiny("clip-vit-tiny");
    fs_clip m = bind(weights);
    size_t peak[2];
    for (int i = 0; i < 2; i++) {
        fs_exec c = start(FS_DTYPE_F32, 1);
        assert_non_null(fs_clip_forward(&c, &m, formula_3d(&c, "input", 3, 112, 112), i ? -2 : 2, NULL));
        peak[i] = fs_arena_peak(c.arena);
        fs_exec_end(&c);
    }
    assert_true(peak[1] <= peak[0] + 65 * 64 * sizeof(float)); /* ten layers need what two need */
    fs_clip_unbind(&m);
    fs_archive_free(weights);
}

static void bad_weights_are_named(void **unused) {
    (void)unused;
    fs_archive *weights = open_tiny("clip-vit-tiny");
    static const struct { const char *name; spoil_kind kind; fs_status status; const char *message; } cases[] = {
        {PREFIX "embeddings.class_embedding", SPOIL_MISSING, FS_E_NOT_FOUND,
         "weights.bin: tensor vision_model.embeddings.class_embedding: expected shape [64], found no tensor of that name; the file is "
         "incomplete or belongs to another model"},
        {PREFIX "embeddings.position_embedding.weight", SPOIL_SHAPE, FS_E_MISMATCH,
         "weights.bin: tensor vision_model.embeddings.position_embedding.weight: expected shape [65,64], found [65,65]; the weights and "
         "config.json do not belong together"},
        {PREFIX "encoder.layers.9.self_attn.q_proj.bias", SPOIL_MISSING, FS_E_NOT_FOUND,
         "weights.bin: tensor vision_model.encoder.layers.9.self_attn.q_proj.bias: expected shape [64], found no tensor of that name; the "
         "file is incomplete or belongs to another model"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        spoilt s;
        fs_tensor_source source = spoilt_source(&s, fs_archive_source(weights), cases[i].name, cases[i].kind);
        fs_clip m;
        fs_error err = {0};
        assert_int_equal(fs_clip_bind(&m, &CONFIG, &source, PREFIX, &err), cases[i].status);
        assert_string_equal(err.message, cases[i].message);
        assert_null(m.layers);
    }
    /* The last layer and the final norm are never read, so their absence is no error. */
    spoilt s;
    fs_clip m;
    fs_error err = {0};
    fs_tensor_source source =
        spoilt_source(&s, fs_archive_source(weights), PREFIX "encoder.layers.10.self_attn.q_proj.weight", SPOIL_MISSING);
    assert_int_equal(fs_clip_bind(&m, &CONFIG, &source, PREFIX, &err), FS_OK);
    fs_clip_unbind(&m);
    fs_clip_config odd = CONFIG;
    odd.heads = 5;
    assert_int_equal(fs_clip_bind(&m, &odd, &source, PREFIX, &err), FS_E_MISMATCH);
    assert_string_equal(err.message, "CLIP config: hidden size 64 is no multiple of the 5 heads");
    fs_archive_free(weights);
}

static void bad_calls_and_nan_are_refused(void **unused) {
    (void)unused;
    fs_archive *weights = open_tiny("clip-vit-tiny");
    fs_clip m = bind(weights);
    fs_error err = {0};
    fs_exec c = start(FS_DTYPE_F32, 1);
    assert_null(fs_clip_forward(&c, &m, formula_3d(&c, "input", 3, 112, 111), -2, NULL));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_MISMATCH);
    assert_string_equal(err.message, "CLIP's pixels: expected F32 [3,112,112], found F32 [3,112,111]");
    fs_exec_end(&c);
    c = start(FS_DTYPE_F32, 1);
    assert_null(fs_clip_forward(&c, &m, formula_3d(&c, "input", 3, 112, 112), -1, NULL)); /* would need the last layer */
    assert_int_equal(fs_exec_status(&c, &err), FS_E_UNSUPPORTED);
    fs_exec_end(&c);
    fs_clip_unbind(&m);

    spoilt s;
    fs_tensor_source source = spoilt_source(&s, fs_archive_source(weights), PREFIX "encoder.layers.3.mlp.fc1.bias", SPOIL_NAN);
    assert_int_equal(fs_clip_bind(&m, &CONFIG, &source, PREFIX, &err), FS_OK);
    c = start(FS_DTYPE_F32, 1);
    assert_null(fs_clip_forward(&c, &m, formula_3d(&c, "input", 3, 112, 112), -2, NULL));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_NUMERIC);
    assert_non_null(strstr(err.message, "CLIP"));
    fs_exec_end(&c);
    free(s.values);
    fs_clip_unbind(&m);
    fs_archive_free(weights);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(hidden_states),       cmocka_unit_test(bf16),
        cmocka_unit_test(threads_do_not_matter), cmocka_unit_test(memory_is_one_layer),
        cmocka_unit_test(bad_weights_are_named), cmocka_unit_test(bad_calls_and_nan_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
