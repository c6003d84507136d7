/* One decoder layer of LLaMA 13B at a prompt's length (710 tokens) against transformers, weights by formula. */
#include "parity/full.h"

static void layer(void **state) {
    (void)state;
    const fs_llama_config config = {.hidden = 5120, .intermediate = 13824, .layers = 1, .heads = 40, .kv_heads = 40, .vocab = 8, .eps = 1e-5f, .rope_theta = 10000};
    formula_weights w = {0};
    static const char *const square[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
    for (int i = 0; i < 4; i++) add_2d(&w, config.hidden, config.hidden, "model.layers.0.self_attn.%s.weight", square[i]);
    add_2d(&w, config.intermediate, config.hidden, "model.layers.0.mlp.gate_proj.weight");
    add_2d(&w, config.intermediate, config.hidden, "model.layers.0.mlp.up_proj.weight");
    add_2d(&w, config.hidden, config.intermediate, "model.layers.0.mlp.down_proj.weight");
    add_1d(&w, config.hidden, "model.layers.0.input_layernorm.weight");
    add_1d(&w, config.hidden, "model.layers.0.post_attention_layernorm.weight");
    add_1d(&w, config.hidden, "model.norm.weight");
    add_2d(&w, config.vocab, config.hidden, "model.embed_tokens.weight");
    add_2d(&w, config.vocab, config.hidden, "lm_head.weight");
    fs_tensor_source source = formula_source(&w);
    fs_llama m = {0};
    fs_error err = {0};
    if (fs_llama_bind(&m, &config, &source, "", &err)) fail_msg("%s", err.message);
    fs_archive *g = open_golden("full_llama_layer.safetensors");
    fs_exec c = start(FS_DTYPE_F32, 2);
    fs_tensor *taps[1] = {0};
    fs_tensor *x = formula_2d(&c, "input", 710, config.hidden);
    const double t = fs_now();
    fs_tensor *h = fs_llama_forward(&c, &m, NULL, x, taps);
    assert_ok(&c);
    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    print_message("one 13B layer, 710 tokens: %.2f s, %.0f MB peak with weights\n", fs_now() - t, (double)use.ru_maxrss / 1024);
    /* f32 sums of up to 13824 terms in another order than PyTorch's */
    assert_sampled(taps[0], g, "out", 1e-5);
    assert_sampled(h, g, "final", 1e-5);
    fs_exec_end(&c);
    fs_archive_free(g);
    fs_llama_unbind(&m);
    free_weights(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(layer)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
