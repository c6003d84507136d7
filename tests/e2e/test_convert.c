/* The tiny checkpoint into bundles of every type, and back through the GGUF reader: every tensor against its source, the metadata other programs
 * need, checksums, refusals. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "format/gguf.h"
#include "tensor/block.h"

#define assert_ok(call)                                                       \
    do {                                                                      \
        fs_error assert_ok_error = {0}, *err = &assert_ok_error;              \
        if ((call) != FS_OK) fail_msg("%s", assert_ok_error.message);         \
    } while (0)

static void make_directory(char path[64]) {
    strcpy(path, "/tmp/fs-convert-XXXXXX");
    assert_non_null(mkdtemp(path));
}

static void remove_directory(const char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char *path = fs_path_join(dir, e->d_name);
        if (e->d_name[0] != '.') unlink(path);
        free(path);
    }
    if (d) closedir(d);
    assert_int_equal(rmdir(dir), 0);
}

static fs_archive *open_in(const char *dir, const char *name) {
    fs_archive *a = NULL;
    char *path = fs_path_join(dir, name);
    assert_ok(fs_archive_open(path, &a, err));
    free(path);
    return a;
}

static void convert(const char *dir, const char *type, int threads) {
    fs_options opt = fs_options_defaults();
    opt.threads = threads;
    assert_ok(fs_convert(FS_TINY_DIR, dir, type, &opt, err));
}

static float *values_of(const fs_tensor *t) {
    const int64_t n = fs_tensor_count(t);
    float *x = fs_alloc((size_t)n, sizeof *x);
    assert_true(fs_row_to_f32(t->dtype, t->data, n, x));
    return x;
}

/* Relative root mean square difference; heads > 0: rows of `t` are those of `source` interleaved head by head as llama.cpp's converter does,
 * [heads, 2, width/2, columns] with the two middle axes exchanged. */
static double difference(const fs_tensor *t, const fs_tensor *source, int64_t heads) {
    assert_int_equal(t->ndim, source->ndim);
    for (int d = 0; d < t->ndim; d++) assert_int_equal(t->shape[d], source->shape[d]);
    float *x = values_of(t), *y = values_of(source);
    const int64_t n = fs_tensor_count(t), columns = t->ndim ? t->shape[t->ndim - 1] : 1;
    double e = 0, p = 0;
    for (int64_t i = 0; i < n; i++) {
        int64_t to = i;
        if (heads) {
            const int64_t half = t->shape[0] / heads / 2, column = i % columns, row = i / columns;
            const int64_t h = row / (2 * half), j = row / half % 2, k = row % half;
            to = ((h * half + k) * 2 + j) * columns + column;
        }
        e += ((double)x[to] - (double)y[i]) * ((double)x[to] - (double)y[i]);
        p += (double)y[i] * (double)y[i];
    }
    free(x);
    free(y);
    return p > 0 ? sqrt(e / p) : sqrt(e);
}

typedef struct pair { const char *bundle, *upstream; int heads; } pair;
static const pair language[] = {
    {"token_embd.weight", "model.embed_tokens.weight", 0},
    {"output_norm.weight", "model.norm.weight", 0},
    {"output.weight", "lm_head.weight", 0},
    {"blk.1.attn_norm.weight", "model.layers.1.input_layernorm.weight", 0},
    {"blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", 4},
    {"blk.1.attn_k.weight", "model.layers.1.self_attn.k_proj.weight", 4},
    {"blk.1.attn_v.weight", "model.layers.1.self_attn.v_proj.weight", 0},
    {"blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight", 0},
    {"blk.1.ffn_norm.weight", "model.layers.1.post_attention_layernorm.weight", 0},
    {"blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight", 0},
    {"blk.1.ffn_up.weight", "model.layers.1.mlp.up_proj.weight", 0},
    {"blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", 0},
};
static const pair vision_mflm[] = {
    {"mflm.mm_projector.0.weight", "model.mm_projector.0.weight", 0},
    {"mflm.text_hidden_fcs.0.2.bias", "model.text_hidden_fcs.0.2.bias", 0},
    {"sam.enc.blocks.1.attn.qkv.weight", "model.grounding_encoder.image_encoder.blocks.1.attn.qkv.weight", 0},
    {"sam.enc.blocks.2.mlp.lin1.weight", "model.grounding_encoder.image_encoder.blocks.2.mlp.lin1.weight", 0},
    {"sam.enc.pos_embed", "model.grounding_encoder.image_encoder.pos_embed", 0},
    {"sam.prompt.pe_layer.positional_encoding_gaussian_matrix", "model.grounding_encoder.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", 0},
    {"sam.dec.tr.layers.0.cross_attn_token_to_image.out_proj.weight",
     "model.grounding_encoder.mask_decoder.transformer.layers.0.cross_attn_token_to_image.out_proj.weight", 0},
    {"sam.dec.output_upscaling.0.weight", "model.grounding_encoder.mask_decoder.output_upscaling.0.weight", 0},
};

static double worst(fs_archive *bundle, fs_archive *source, const pair *pairs, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        const fs_tensor *t = fs_archive_find(bundle, pairs[i].bundle), *s = fs_archive_find(source, pairs[i].upstream);
        if (!t || !s) fail_msg("%s or %s is missing", pairs[i].bundle, pairs[i].upstream);
        most = fmax(most, difference(t, s, pairs[i].heads));
        if (t->ndim < 2 && t->dtype != FS_DTYPE_F32) fail_msg("%s is not F32", pairs[i].bundle);
    }
    return most;
}

/* Everything a model binds in the source has its place in the bundle. */
static void nothing_is_lost(const char *dir) {
    fs_archive *dte = open_in(FS_TINY_DIR, "DTE-FDM"), *mflm = open_in(FS_TINY_DIR, "MFLM"), *dtg = open_in(FS_TINY_DIR, "DTG.pth");
    fs_archive *clip = open_in(FS_TINY_DIR, "clip-vit-tiny"), *sources[] = {dte, mflm, dtg, clip};
    size_t expected = 0, found = 0;
    for (int s = 0; s < 4; s++) {
        for (size_t i = 0; i < fs_archive_count(sources[s]); i++) {
            const char *name = fs_archive_get(sources[s], i).name;
            const bool unused = strstr(name, "inv_freq") || strstr(name, "position_ids") || strstr(name, "num_batches_tracked") ||
                                strstr(name, "pixel_mean") || strstr(name, "pixel_std") || strstr(name, "vision_tower") ||
                                (s == 3 && strncmp(name, "vision_model.", 13) != 0); /* CLIP's text half */
            expected += !unused;
        }
        fs_archive_free(sources[s]);
    }
    static const char *const files[] = {"dte-fdm.gguf", "mflm.gguf", "vision.gguf"};
    for (int f = 0; f < 3; f++) {
        fs_archive *a = open_in(dir, files[f]);
        found += fs_archive_count(a);
        fs_archive_free(a);
    }
    assert_int_equal(found, expected);
}

static void check_type(const char *type, double language_most, double vision_most, fs_dtype gate) {
    char dir[64];
    make_directory(dir);
    convert(dir, type, 2);
    assert_ok(fs_verify(dir, NULL, err));
    fs_archive *dte = open_in(dir, "dte-fdm.gguf"), *mflm = open_in(dir, "mflm.gguf"), *vision = open_in(dir, "vision.gguf");
    fs_archive *dte_source = open_in(FS_TINY_DIR, "DTE-FDM"), *mflm_source = open_in(FS_TINY_DIR, "MFLM");
    const size_t n = sizeof language / sizeof language[0];
    const double a = worst(dte, dte_source, language, n), b = worst(mflm, mflm_source, language, n);
    const double c = worst(vision, mflm_source, vision_mflm, sizeof vision_mflm / sizeof vision_mflm[0]);
    if (a > language_most || b > language_most || c > vision_most) fail_msg("%s: relative errors %g, %g and %g", type, a, b, c);
    assert_int_equal(fs_archive_find(dte, "blk.0.ffn_gate.weight")->dtype, gate);
    assert_int_equal(fs_archive_find(vision, "sam.dec.output_upscaling.0.weight")->dtype, FS_DTYPE_F32);
    assert_int_equal(fs_archive_find(vision, "dtg.conv1.weight")->dtype, FS_DTYPE_F32);
    /* the linear layers whose 8 bits were found to do no harm, and their neighbours that stay finer */
    const bool blocks = fs_dtype_block(fs_archive_find(dte, "blk.0.ffn_gate.weight")->dtype) > 1;
    const fs_dtype fine = blocks ? FS_DTYPE_F16 : gate, coarse = blocks ? FS_DTYPE_Q8_0 : gate;
    assert_int_equal(fs_archive_find(vision, "clip.encoder.layers.3.mlp.fc2.weight")->dtype, coarse);
    assert_int_equal(fs_archive_find(vision, "dte.mm_projector.2.weight")->dtype, coarse);
    assert_int_equal(fs_archive_find(vision, "sam.enc.blocks.2.mlp.lin1.weight")->dtype, coarse);
    assert_int_equal(fs_archive_find(vision, "sam.enc.blocks.2.attn.qkv.weight")->dtype, fine);
    assert_int_equal(fs_archive_find(vision, "mflm.text_hidden_fcs.0.0.weight")->dtype, fine);
    assert_int_equal(fs_archive_find(vision, "clip.embeddings.patch_embedding.weight")->dtype, fine);
    fs_archive_free(dte), fs_archive_free(mflm), fs_archive_free(vision), fs_archive_free(dte_source), fs_archive_free(mflm_source);
    nothing_is_lost(dir);
    remove_directory(dir);
}

static void every_type_holds_the_numbers(void **state) {
    (void)state;
    check_type("f32", 0, 0, FS_DTYPE_F32);
    check_type("f16", 1e-5, 1e-5, FS_DTYPE_F16); /* the sources are f16 and bf16: only bf16's smallest numbers change */
    check_type("bf16", 0.002, 0, FS_DTYPE_BF16); /* f16 to bf16: 8 bits, 2^-9 uniform at most */
    check_type("q8_0", 0.01, 0.01, FS_DTYPE_Q8_0); /* normal numbers: 0.0053 */
    check_type("q4_0", 0.13, 0.01, FS_DTYPE_Q4_0); /* normal numbers: 0.086, trained ones have longer tails */
    check_type("q4_k", 0.01, 0.01, FS_DTYPE_Q8_0); /* rows of 64 are no whole number of 256: stored finer */
    check_type("mixed", 0.01, 0.01, FS_DTYPE_Q8_0);
}

static int64_t number(const fs_gguf *g, const char *key) {
    int64_t v = -1;
    assert_ok(fs_gguf_int(g, key, true, 0, INT32_MAX, &v, err));
    return v;
}

static void metadata_is_complete(void **state) {
    (void)state;
    char dir[64];
    make_directory(dir);
    convert(dir, "q8_0", 1);
    fs_archive *a = open_in(dir, "mflm.gguf");
    const fs_gguf *g = fs_archive_gguf(a);
    fs_gguf_text s = {0};
    assert_ok(fs_gguf_string(g, "general.architecture", true, &s, err));
    assert_true(fs_gguf_text_is(s, "llama"));
    assert_int_equal(number(g, "llama.block_count"), 2);
    assert_int_equal(number(g, "llama.embedding_length"), 64);
    assert_int_equal(number(g, "llama.feed_forward_length"), 176);
    assert_int_equal(number(g, "llama.attention.head_count"), 4);
    assert_int_equal(number(g, "llama.attention.head_count_kv"), 4);
    assert_int_equal(number(g, "llama.rope.dimension_count"), 16);
    assert_int_equal(number(g, "llama.vocab_size"), 647);
    assert_int_equal(number(g, "general.file_type"), 7);
    assert_int_equal(number(g, "tokenizer.ggml.bos_token_id"), 1);
    assert_int_equal(number(g, "tokenizer.ggml.eos_token_id"), 2);
    fs_gguf_array tokens = {0}, kinds = {0};
    assert_ok(fs_gguf_array_of(g, "tokenizer.ggml.tokens", true, FS_GGUF_STRING, &tokens, err));
    assert_ok(fs_gguf_array_of(g, "tokenizer.ggml.token_type", true, FS_GGUF_I32, &kinds, err));
    assert_int_equal(tokens.count, 647);
    assert_int_equal(kinds.count, 647);
    static const int expected_kind[] = {2, 3, 3, 6}; /* <unk> unknown, <s> and </s> control, then bytes */
    for (int i = 0; i < 647; i++) {
        assert_true(fs_gguf_next(&tokens, &s));
        int32_t kind;
        memcpy(&kind, kinds.data + 4 * i, 4);
        if (i < 4) assert_int_equal(kind, expected_kind[i]);
        if (i == 0) assert_true(fs_gguf_text_is(s, "<unk>"));
        if (i == 3) assert_true(fs_gguf_text_is(s, "<0x00>"));
        if (i == 644) assert_true(fs_gguf_text_is(s, "[SEG]") && kind == 4);
    }
    fs_gguf_array file = {0};
    uint8_t *original = NULL;
    size_t size;
    assert_ok(fs_gguf_array_of(g, "fakeshield.file.tokenizer.model", true, FS_GGUF_U8, &file, err));
    assert_ok(fs_read_file(FS_TINY_DIR "/MFLM/tokenizer.model", 1 << 24, &original, &size, err));
    assert_int_equal(file.size, size);
    assert_memory_equal(file.data, original, size);
    free(original);
    assert_true(fs_gguf_has(g, "fakeshield.file.config.json") && fs_gguf_has(g, "fakeshield.file.added_tokens.json"));
    assert_false(fs_gguf_has(g, "fakeshield.file.generation_config.json")); /* MFLM has none */
    fs_archive_free(a);
    remove_directory(dir);
}

static void bytes_do_not_depend_on_threads(void **state) {
    (void)state;
    char one[64], three[64];
    make_directory(one), make_directory(three);
    convert(one, "q4_0", 1), convert(three, "q4_0", 3);
    convert(three, "q4_0", 2); /* over what is there already */
    static const char *const files[] = {"dte-fdm.gguf", "mflm.gguf", "vision.gguf"};
    for (int f = 0; f < 3; f++) {
        uint8_t *a = NULL, *b = NULL;
        size_t n, m;
        char *p = fs_path_join(one, files[f]), *q = fs_path_join(three, files[f]);
        assert_ok(fs_read_file(p, 1 << 28, &a, &n, err));
        assert_ok(fs_read_file(q, 1 << 28, &b, &m, err));
        assert_true(n == m && memcmp(a, b, n) == 0);
        free(a), free(b), free(p), free(q);
    }
    remove_directory(one), remove_directory(three);
}

static void damage_is_found(void **state) {
    (void)state;
    char dir[64], other[64];
    fs_error e = {0};
    make_directory(dir);
    assert_int_equal(fs_verify(dir, NULL, &e), FS_E_NOT_FOUND);
    convert(dir, "f16", 2);
    char *path = fs_path_join(dir, "vision.gguf");
    assert_ok(fs_verify(path, NULL, err));
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -4096, SEEK_END);
    const int byte = fgetc(f);
    fseek(f, -4096, SEEK_END);
    fputc(byte ^ 16, f);
    fclose(f);
    assert_int_equal(fs_verify(dir, NULL, &e), FS_E_FORMAT);
    assert_non_null(strstr(e.message, "vision.gguf: tensor "));
    /* a part of another checkpoint: here one without stage 2 */
    make_directory(other);
    char *link_from = fs_path_join(other, "DTE-FDM"), *clip = fs_path_join(other, "clip-vit-tiny"), *out = fs_path_join(other, "out");
    assert_int_equal(symlink(FS_TINY_DIR "/DTE-FDM", link_from), 0);
    assert_int_equal(symlink(FS_TINY_DIR "/clip-vit-tiny", clip), 0);
    fs_options opt = fs_options_defaults();
    assert_ok(fs_convert(other, out, "f16", &opt, err));
    char *stray = fs_path_join(out, "vision.gguf");
    assert_int_equal(rename(stray, path), 0);
    assert_int_equal(fs_verify(dir, NULL, &e), FS_E_MISMATCH);
    assert_non_null(strstr(e.message, "another checkpoint"));
    assert_int_equal(fs_verify(FS_TINY_DIR "/DTG.pth", NULL, &e), FS_E_UNSUPPORTED);
    remove_directory(out), unlink(link_from), unlink(clip), remove_directory(other), remove_directory(dir);
    free(path), free(link_from), free(clip), free(out), free(stray);
}

static bool stop_at_once(void *user) { return (void)user, true; }

static void refusals_leave_nothing(void **state) {
    (void)state;
    char dir[64];
    fs_error e = {0};
    fs_options opt = fs_options_defaults();
    make_directory(dir);
    assert_int_equal(fs_convert(FS_TINY_DIR, dir, "q3_k", &opt, &e), FS_E_USAGE);
    assert_non_null(strstr(e.message, "none of f32, f16"));
    assert_int_equal(fs_convert(dir, dir, "f16", &opt, &e), FS_E_NOT_FOUND);
    opt.callbacks.cancel = stop_at_once;
    assert_int_equal(fs_convert(FS_TINY_DIR, dir, "f16", &opt, &e), FS_E_CANCELLED);
    assert_int_equal(rmdir(dir), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_holds_the_numbers), cmocka_unit_test(metadata_is_complete), cmocka_unit_test(bytes_do_not_depend_on_threads),
        cmocka_unit_test(damage_is_found),              cmocka_unit_test(refusals_leave_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
