/* SAM ViT-H at 1024 pixels, weights by formula (2.5 GB of them). */
#include "full.h"

static const double TOLERANCE = 1e-5; /* f32 sums in another order; measured at most 2e-6 */

/* The encoder with its linear layers stored as `type`: its time, and the error of its result against f32. The second run counts: in the
 * first one the weights are packed. */
static void vit_h_stored(formula_weights *w, fs_dtype type, const fs_tensor *pixels, const fs_tensor *expected, double tolerance) {
    stored_weights stored;
    fs_tensor_source inner, source = stored_source(&stored, &inner, w, type);
    fs_sam_encoder m;
    fs_error err = {0};
    char what[64];
    if (fs_sam_encoder_bind(&m, &source, "image_encoder.", &err)) fail_msg("%s", err.message);
    fs_exec c = start(FS_DTYPE_F32, 0);
    double t = 0;
    fs_tensor *neck = NULL;
    for (int run = 0; run < 2; run++) {
        const fs_arena_mark mark = fs_arena_get_mark(c.arena);
        t = fs_now();
        neck = fs_sam_encoder_forward(&c, &m, pixels, NULL);
        t = fs_now() - t;
        assert_ok(&c);
        if (run == 0) fs_arena_release(c.arena, mark);
    }
    snprintf(what, sizeof what, "SAM ViT-H, linear layers in %s", fs_dtype_name(type));
    print_cost(what, &c, t);
    const double error = rms_error(neck, expected);
    print_message("  embedding: relative error %.2e (root mean square), largest difference %.2e of the largest value\n", error, max_error(neck, expected));
    assert_true(error <= tolerance);
    fs_exec_end(&c);
    fs_sam_encoder_unbind(&m);
    free_stored(&stored);
}

static void vit_h(void **state) {
    (void)state;
    formula_weights w = {0};
    char name[96];
    add_4d(&w, 1280, 3, 16, 16, "image_encoder.patch_embed.proj.weight");
    add_1d(&w, 1280, "image_encoder.patch_embed.proj.bias");
    add_4d(&w, 1, 64, 64, 1280, "image_encoder.pos_embed");
    for (int i = 0; i < 32; i++) {
        static const struct { const char *name; int64_t out, in; } parts[] = {
            {"norm1", 1280, 0}, {"attn.qkv", 3840, 1280}, {"attn.proj", 1280, 1280},
            {"norm2", 1280, 0}, {"mlp.lin1", 5120, 1280}, {"mlp.lin2", 1280, 5120},
        };
        for (size_t k = 0; k < sizeof parts / sizeof parts[0]; k++) {
            snprintf(name, sizeof name, "image_encoder.blocks.%d.%s", i, parts[k].name);
            if (parts[k].in) add_linear(&w, parts[k].out, parts[k].in, name);
            else add_norm(&w, parts[k].out, name);
        }
        const int64_t rows = i % 8 == 7 ? 127 : 27;
        add_2d(&w, rows, 80, "image_encoder.blocks.%d.attn.rel_pos_h", i);
        add_2d(&w, rows, 80, "image_encoder.blocks.%d.attn.rel_pos_w", i);
    }
    add_4d(&w, 256, 1280, 1, 1, "image_encoder.neck.0.weight");
    add_norm(&w, 256, "image_encoder.neck.1");
    add_4d(&w, 256, 256, 3, 3, "image_encoder.neck.2.weight");
    add_norm(&w, 256, "image_encoder.neck.3");

    fs_archive *g = open_golden("full_sam_encoder.safetensors");
    fs_tensor_source source = formula_source(&w);
    fs_sam_encoder m;
    fs_error err = {0};
    if (fs_sam_encoder_bind(&m, &source, "image_encoder.", &err)) fail_msg("%s", err.message);
    assert_int_equal(m.window, 14);
    assert_int_equal(m.heads, 16);
    assert_int_equal(m.image_size, 1024);

    fs_exec c = start(FS_DTYPE_F32, 0);
    fs_tensor *taps[33], *pixels = formula_3d(&c, "input", 3, 1024, 1024);
    double t = fs_now();
    fs_tensor *neck = fs_sam_encoder_forward(&c, &m, pixels, taps);
    print_cost("SAM ViT-H, 1024x1024", &c, fs_now() - t);
    print_message("  of the activations, %.0f MB are blocks kept for this comparison\n", 32 * 4096 * 1280 * 4 / 1e6);
    assert_ok(&c);
    assert_sampled(taps[0], g, "embed", TOLERANCE);
    assert_sampled(taps[1], g, "block_0", TOLERANCE);
    assert_sampled(taps[8], g, "block_7", TOLERANCE);
    assert_sampled(taps[32], g, "block_31", TOLERANCE);
    assert_sampled(neck, g, "neck", TOLERANCE);
    if (!getenv("FS_ONLY_F32")) {
        /* measured: 5.9e-4 and 1.45e-2 */
        vit_h_stored(&w, FS_DTYPE_F16, pixels, neck, 1e-3);
        vit_h_stored(&w, FS_DTYPE_Q8_0, pixels, neck, 2e-2);
    }
    fs_exec_end(&c);
    fs_sam_encoder_unbind(&m);
    free_weights(&w);
    fs_archive_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(vit_h)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
