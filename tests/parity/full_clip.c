/* CLIP ViT-L/14 at 336 pixels and the 13B's projector at their real sizes, weights by formula. */
#include "full.h"

static const double TOLERANCE = 1e-5; /* f32 sums in another order; measured at most 2e-6 */

/* The tower with its linear layers stored as `type`: its time (the best of three; in the first run weights are packed) and its error. */
static void vit_l_14_stored(formula_weights *w, const fs_clip_config *config, fs_dtype type, const fs_tensor *pixels, const fs_tensor *expected,
                            double tolerance) {
    stored_weights stored;
    fs_tensor_source inner, source = stored_source(&stored, &inner, w, type);
    fs_clip m;
    fs_error err = {0};
    char what[64];
    if (fs_clip_bind(&m, config, &source, "vision_model.", &err)) fail_msg("%s", err.message);
    fs_exec c = start(FS_DTYPE_F32, 0);
    double best = 1e9;
    fs_tensor *selected = NULL;
    for (int run = 0; run < 3; run++) {
        const fs_arena_mark mark = fs_arena_get_mark(c.arena);
        const double t = fs_now();
        selected = fs_clip_forward(&c, &m, pixels, -2, NULL);
        best = fmin(best, fs_now() - t);
        assert_ok(&c);
        if (run < 2) fs_arena_release(c.arena, mark);
    }
    snprintf(what, sizeof what, "CLIP ViT-L/14, linear layers in %s", fs_dtype_name(type));
    print_cost(what, &c, best);
    const double error = rms_error(selected, expected);
    print_message("  patch states: relative error %.2e (root mean square)\n", error);
    assert_true(error <= tolerance);
    fs_exec_end(&c);
    fs_clip_unbind(&m);
    free_stored(&stored);
}

static void vit_l_14(void **state) {
    (void)state;
    formula_weights w = {0};
    char name[96];
    add_1d(&w, 1024, "vision_model.embeddings.class_embedding");
    add_4d(&w, 1024, 3, 14, 14, "vision_model.embeddings.patch_embedding.weight");
    add_2d(&w, 577, 1024, "vision_model.embeddings.position_embedding.weight");
    add_norm(&w, 1024, "vision_model.pre_layrnorm");
    static const struct { const char *name; int64_t out, in; } parts[] = {
        {"layer_norm1", 1024, 0},           {"self_attn.q_proj", 1024, 1024}, {"self_attn.k_proj", 1024, 1024},
        {"self_attn.v_proj", 1024, 1024},   {"self_attn.out_proj", 1024, 1024}, {"layer_norm2", 1024, 0},
        {"mlp.fc1", 4096, 1024},            {"mlp.fc2", 1024, 4096},
    };
    for (int i = 0; i < 24; i++)
        for (size_t k = 0; k < sizeof parts / sizeof parts[0]; k++) {
            snprintf(name, sizeof name, "vision_model.encoder.layers.%d.%s", i, parts[k].name);
            if (parts[k].in) add_linear(&w, parts[k].out, parts[k].in, name);
            else add_norm(&w, parts[k].out, name);
        }

    fs_archive *g = open_golden("full_clip.safetensors");
    fs_tensor_source source = formula_source(&w);
    const fs_clip_config config = {.hidden = 1024, .intermediate = 4096, .layers = 24, .heads = 16, .image_size = 336, .patch_size = 14,
                                   .eps = 1e-5f, .activation = FS_ACT_QUICK_GELU};
    fs_clip m;
    fs_error err = {0};
    if (fs_clip_bind(&m, &config, &source, "vision_model.", &err)) fail_msg("%s", err.message);
    fs_exec c = start(FS_DTYPE_F32, 0);
    fs_tensor *pixels = formula_3d(&c, "input", 3, 336, 336);
    double t = fs_now();
    fs_tensor *selected = fs_clip_forward(&c, &m, pixels, -2, NULL);
    print_cost("CLIP ViT-L/14, 336x336", &c, fs_now() - t);
    assert_ok(&c);
    assert_sampled(selected, g, "selected", TOLERANCE);
    vit_l_14_stored(&w, &config, FS_DTYPE_F32, pixels, selected, 0);
    vit_l_14_stored(&w, &config, FS_DTYPE_F16, pixels, selected, 1e-3);
    vit_l_14_stored(&w, &config, FS_DTYPE_Q8_0, pixels, selected, 5e-2);
    fs_exec_end(&c);
    fs_clip_unbind(&m);
    free_weights(&w);
    fs_archive_free(g);
}

static void projector(void **state) {
    (void)state;
    formula_weights w = {0};
    add_linear(&w, 5120, 1024, "model.mm_projector.0");
    add_linear(&w, 5120, 5120, "model.mm_projector.2");
    fs_archive *g = open_golden("full_projector.safetensors");
    fs_tensor_source source = formula_source(&w);
    fs_projector m;
    fs_error err = {0};
    if (fs_projector_bind(&m, 1024, 5120, &source, "model.mm_projector.", &err)) fail_msg("%s", err.message);
    fs_exec c = start(FS_DTYPE_F32, 0);
    fs_tensor *x = formula_2d(&c, "input", 576, 1024);
    double t = fs_now();
    fs_tensor *y = fs_projector_forward(&c, &m, x);
    print_cost("projector 1024 -> 5120, 576 rows", &c, fs_now() - t);
    assert_ok(&c);
    assert_sampled(y, g, "out", TOLERANCE);
    fs_exec_end(&c);
    free_weights(&w);
    fs_archive_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(vit_l_14), cmocka_unit_test(projector)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
