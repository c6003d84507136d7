/* SAM's prompt encoder and mask decoder at their real sizes, weights by formula; post-processing of a 1024x768 picture. */
#include "full.h"

static const double TOLERANCE = 1e-5; /* f32 sums in another order; measured at most 2e-6 */

static void add_attention(formula_weights *w, int64_t inner, const char *prefix) {
    static const char *const parts[4] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    for (int i = 0; i < 4; i++) {
        char name[96];
        snprintf(name, sizeof name, "mask_decoder.transformer.%s.%s", prefix, parts[i]);
        if (i < 3) add_linear(w, inner, 256, name);
        else add_linear(w, 256, inner, name);
    }
}

static void prompt_and_decoder(void **state) {
    (void)state;
    formula_weights w = {0};
    char name[96];
    add_2d(&w, 2, 128, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix");
    add_2d(&w, 1, 256, "prompt_encoder.no_mask_embed.weight");
    add_2d(&w, 1, 256, "mask_decoder.iou_token.weight");
    add_2d(&w, 4, 256, "mask_decoder.mask_tokens.weight");
    for (int i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "layers.%d.self_attn", i);
        add_attention(&w, 256, name);
        snprintf(name, sizeof name, "layers.%d.cross_attn_token_to_image", i);
        add_attention(&w, 128, name);
        snprintf(name, sizeof name, "layers.%d.cross_attn_image_to_token", i);
        add_attention(&w, 128, name);
        for (int k = 1; k <= 4; k++) {
            snprintf(name, sizeof name, "mask_decoder.transformer.layers.%d.norm%d", i, k);
            add_norm(&w, 256, name);
        }
        snprintf(name, sizeof name, "mask_decoder.transformer.layers.%d.mlp.lin1", i);
        add_linear(&w, 2048, 256, name);
        snprintf(name, sizeof name, "mask_decoder.transformer.layers.%d.mlp.lin2", i);
        add_linear(&w, 256, 2048, name);
    }
    add_attention(&w, 128, "final_attn_token_to_image");
    add_norm(&w, 256, "mask_decoder.transformer.norm_final_attn");
    add_4d(&w, 256, 64, 2, 2, "mask_decoder.output_upscaling.0.weight");
    add_1d(&w, 64, "mask_decoder.output_upscaling.0.bias");
    add_norm(&w, 64, "mask_decoder.output_upscaling.1");
    add_4d(&w, 64, 32, 2, 2, "mask_decoder.output_upscaling.3.weight");
    add_1d(&w, 32, "mask_decoder.output_upscaling.3.bias");
    add_linear(&w, 256, 256, "mask_decoder.output_hypernetworks_mlps.0.layers.0");
    add_linear(&w, 256, 256, "mask_decoder.output_hypernetworks_mlps.0.layers.1");
    add_linear(&w, 32, 256, "mask_decoder.output_hypernetworks_mlps.0.layers.2");

    fs_archive *g = open_golden("full_mask_decoder.safetensors");
    fs_tensor_source source = formula_source(&w);
    fs_sam_prompt prompt;
    fs_sam_decoder m;
    fs_error err = {0};
    if (fs_sam_prompt_bind(&prompt, &source, "prompt_encoder.", &err) || fs_sam_decoder_bind(&m, &source, "mask_decoder.", &err))
        fail_msg("%s", err.message);
    fs_exec c = start(FS_DTYPE_F32, 0);
    fs_tensor *image = formula_3d(&c, "input", 256, 64, 64), *text = formula_2d(&c, "input.text", 1, 256);
    double t = fs_now();
    fs_tensor *pe = fs_sam_dense_pe(&c, &prompt, 64, false);
    fs_tensor *low = fs_sam_decoder_forward(&c, &m, image, pe, prompt.no_mask, text);
    fs_tensor *post = fs_sam_postprocess(&c, low, 1024, 768, 1024, 768, 1024);
    print_cost("SAM mask decoder, one [SEG]", &c, fs_now() - t);
    assert_ok(&c);
    assert_sampled(pe, g, "pe_f32", TOLERANCE);
    assert_sampled(fs_sam_dense_pe(&c, &prompt, 64, true), g, "pe_bf16", 1.0 / 256); /* one step of bf16 at 1 */
    assert_sampled(low, g, "low_res", TOLERANCE);
    assert_sampled(post, g, "post", TOLERANCE);
    fs_exec_end(&c);
    fs_sam_decoder_unbind(&m);
    free_weights(&w);
    fs_archive_free(g);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(prompt_and_decoder)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
