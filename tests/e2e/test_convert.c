/* The tiny checkpoint into bundles of every type, and back through the GGUF reader: every tensor against its source, the metadata other programs
 * need, checksums, refusals. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "format/gguf.h"
#include "tensor/block.h"

#define assert_ok(call)                                                       \
    do {                                                                      \
        fs_error assert_ok_error = {0}, *err = &assert_ok_error;              \
        if ((call) != FS_OK) fail_msg("%s", assert_ok_error.message);         \
    } while (0)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { FS_SANITIZED = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
enum { FS_SANITIZED = 1 };
#else
enum { FS_SANITIZED = 0 };
#endif
#else
enum { FS_SANITIZED = 0 };
#endif

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

/* ---- another type of a bundle ---- */

static const char *const bundle_files[] = {"dte-fdm.gguf", "mflm.gguf", "vision.gguf"};

static bool same_bytes(const char *dir, const char *other, const char *name) {
    uint8_t *a = NULL, *b = NULL;
    size_t n, m;
    char *p = fs_path_join(dir, name), *q = fs_path_join(other, name);
    assert_ok(fs_read_file(p, 1 << 28, &a, &n, err));
    assert_ok(fs_read_file(q, 1 << 28, &b, &m, err));
    const bool same = n == m && memcmp(a, b, n) == 0;
    free(a), free(b), free(p), free(q);
    return same;
}

static void count_warnings(void *user, fs_log_level level, const char *line) {
    (void)line;
    *(int *)user += level == FS_LOG_WARNING;
}

static void requantized_is_converted(void **state) {
    (void)state;
    static const char *const types[] = {"f16", "q8_0", "q4_0", "mixed"};
    char whole[64], direct[64], again[64];
    int warnings = 0;
    make_directory(whole), make_directory(direct), make_directory(again);
    fs_options opt = fs_options_defaults();
    opt.threads = 2;
    opt.callbacks = (fs_callbacks){.user_data = &warnings, .log = count_warnings};
    convert(whole, "f32", 2);
    for (int i = 0; i < 4; i++) {
        convert(direct, types[i], 1);
        assert_ok(fs_requantize(whole, again, types[i], &opt, err));
        assert_ok(fs_verify(again, NULL, err));
        for (int f = 0; f < 3; f++)
            if (!same_bytes(direct, again, bundle_files[f])) fail_msg("%s: %s differs", types[i], bundle_files[f]);
    }
    assert_int_equal(warnings, 0);
    convert(direct, "q8_0", 2); /* rounded once already: possible, and said */
    assert_ok(fs_requantize(direct, again, "q4_0", &opt, err));
    assert_int_equal(warnings, 1);
    remove_directory(whole), remove_directory(direct), remove_directory(again);
}

static void expect_refused(const char *from, const char *to, const char *type, fs_status status, const char *words) {
    fs_options opt = fs_options_defaults();
    fs_error e = {0};
    assert_int_equal(fs_requantize(from, to, type, &opt, &e), status);
    if (!strstr(e.message, words)) fail_msg("\"%s\" lacks \"%s\"", e.message, words);
}

static void requantize_refuses(void **state) {
    (void)state;
    char from[64], to[64];
    make_directory(from), make_directory(to);
    expect_refused(from, to, "q8_0", FS_E_NOT_FOUND, "holds none of");
    convert(from, "q8_0", 2);
    expect_refused(from, to, "f16", FS_E_USAGE, "lost stays lost");
    expect_refused(from, to, "q8_0", FS_E_USAGE, "already");
    expect_refused(from, from, "q4_0", FS_E_USAGE, "another folder");
    expect_refused(from, to, "q3_k", FS_E_USAGE, "none of f32");
    expect_refused("/nonexistent", to, "q4_0", FS_E_NOT_FOUND, "no such folder");
    /* a byte of a tensor is not what it was: nothing with a good checksum may come of it */
    char *path = fs_path_join(from, "mflm.gguf");
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, -3000, SEEK_END);
    const int byte = fgetc(f);
    fseek(f, -3000, SEEK_END);
    fputc(byte ^ 1, f);
    fclose(f);
    expect_refused(from, to, "q4_0", FS_E_FORMAT, "mflm.gguf: tensor ");
    free(path);
    path = fs_path_join(to, "mflm.gguf");
    assert_false(fs_path_exists(path));
    free(path);
    convert(from, "q4_0", 2);
    expect_refused(from, to, "q4_k", FS_E_USAGE, "from f32, f16, bf16 or q8_0");
    remove_directory(from), remove_directory(to);
}

/* ---- killed, and run again ---- */

static ino_t file_of(const char *dir, const char *name) {
    struct stat st;
    char *path = fs_path_join(dir, name);
    assert_int_equal(stat(path, &st), 0);
    free(path);
    return st.st_ino;
}

/* Ends the process without a word in the middle of the second file. */
static void die_in_second(void *user, const char *step, int64_t done, int64_t total) {
    (void)user, (void)done, (void)total;
    if (strcmp(step, "mflm.gguf") == 0) kill(getpid(), SIGKILL);
}

static void a_killed_run_is_taken_up(void **state) {
    (void)state;
    char dir[64], clean[64];
    make_directory(dir), make_directory(clean);
    convert(clean, "q8_0", 2);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fs_options opt = fs_options_defaults();
        opt.threads = 1;
        opt.callbacks.progress = die_in_second;
        fs_convert(FS_TINY_DIR, dir, "q8_0", &opt, NULL);
        _exit(1);
    }
    int how = 0;
    assert_int_equal(waitpid(child, &how, 0), child);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    char *partial = fs_path_join(dir, "mflm.gguf.partial"), *second = fs_path_join(dir, "mflm.gguf");
    assert_true(fs_path_exists(partial) && !fs_path_exists(second));
    const ino_t first = file_of(dir, "dte-fdm.gguf");
    convert(dir, "q8_0", 2);
    assert_true(!fs_path_exists(partial));
    assert_true(file_of(dir, "dte-fdm.gguf") == first); /* kept */
    for (int f = 0; f < 3; f++) assert_true(same_bytes(dir, clean, bundle_files[f]));

    /* all finished: all kept; a damaged one is made anew; so is everything when asked, or when the type is another */
    const ino_t vision = file_of(dir, "vision.gguf"), mflm = file_of(dir, "mflm.gguf");
    FILE *f = fopen(second, "r+b");
    assert_non_null(f);
    fseek(f, -3000, SEEK_END);
    const int byte = fgetc(f);
    fseek(f, -3000, SEEK_END);
    fputc(byte ^ 1, f);
    fclose(f);
    convert(dir, "q8_0", 1);
    assert_true(file_of(dir, "dte-fdm.gguf") == first && file_of(dir, "vision.gguf") == vision && file_of(dir, "mflm.gguf") != mflm);
    assert_true(same_bytes(dir, clean, "mflm.gguf"));
    fs_options opt = fs_options_defaults();
    opt.overwrite = true;
    assert_ok(fs_convert(FS_TINY_DIR, dir, "q8_0", &opt, err));
    assert_true(file_of(dir, "dte-fdm.gguf") != first);
    convert(dir, "q4_0", 2);
    assert_false(same_bytes(dir, clean, "dte-fdm.gguf"));
    free(partial), free(second);
    remove_directory(dir), remove_directory(clean);
}

/* ---- memory: a model of one layer with 13B's largest matrices, mostly holes on disk ---- */

enum { WIDTH = 5120, INNER = 13824, KV = 128, VOCAB = 640 };

static void write_text(const char *dir, const char *name, const char *text) {
    char *path = fs_path_join(dir, name);
    assert_ok(fs_write_file(path, text, strlen(text), err));
    free(path);
}

static void write_large_checkpoint(const char *dir) {
    static const struct { const char *name; int64_t rows, cols; } tensors[] = {
        {"lm_head.weight", VOCAB, WIDTH}, {"model.embed_tokens.weight", VOCAB, WIDTH}, {"model.norm.weight", 0, WIDTH},
        {"model.layers.0.input_layernorm.weight", 0, WIDTH}, {"model.layers.0.post_attention_layernorm.weight", 0, WIDTH},
        {"model.layers.0.self_attn.q_proj.weight", WIDTH, WIDTH}, {"model.layers.0.self_attn.k_proj.weight", KV, WIDTH},
        {"model.layers.0.self_attn.v_proj.weight", KV, WIDTH}, {"model.layers.0.self_attn.o_proj.weight", WIDTH, WIDTH},
        {"model.layers.0.mlp.gate_proj.weight", INNER, WIDTH}, {"model.layers.0.mlp.up_proj.weight", INNER, WIDTH},
        {"model.layers.0.mlp.down_proj.weight", WIDTH, INNER},
    };
    fs_buffer head = {0};
    int64_t at = 0;
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        const int64_t n = (tensors[i].rows ? tensors[i].rows : 1) * tensors[i].cols;
        fs_buffer_printf(&head, "%s\"%s\":{\"dtype\":\"F32\",\"shape\":[", i ? "," : "{", tensors[i].name);
        if (tensors[i].rows) fs_buffer_printf(&head, "%lld,", (long long)tensors[i].rows);
        fs_buffer_printf(&head, "%lld],\"data_offsets\":[%lld,%lld]}", (long long)tensors[i].cols, (long long)at, (long long)(at + 4 * n));
        at += 4 * n;
    }
    fs_buffer_puts(&head, "}");
    while (head.size % 8) fs_buffer_puts(&head, " ");
    char *lm = fs_path_join(dir, "DTE-FDM"), *path = fs_path_join(lm, "model.safetensors");
    assert_ok(fs_make_dirs(lm, err));
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    const uint64_t size = head.size;
    assert_int_equal(fwrite(&size, 8, 1, f), 1);
    assert_int_equal(fwrite(head.data, 1, head.size, f), head.size);
    assert_int_equal(fflush(f), 0);
    assert_int_equal(ftruncate(fileno(f), (off_t)(8 + head.size) + (off_t)at), 0);
    fclose(f);
    write_text(lm, "config.json", "{\"hidden_act\":\"silu\",\"hidden_size\":5120,\"intermediate_size\":13824,\"num_hidden_layers\":1,\"num_attention_heads\":40,"
               "\"num_key_value_heads\":1,\"vocab_size\":640,\"rms_norm_eps\":1e-5,\"mm_hidden_size\":64}");
    uint8_t *model = NULL;
    size_t n;
    char *to = fs_path_join(lm, "tokenizer.model");
    assert_ok(fs_read_file(FS_TINY_DIR "/DTE-FDM/tokenizer.model", 1 << 24, &model, &n, err));
    assert_ok(fs_write_file(to, model, n, err));
    fs_buffer_free(&head);
    free(model), free(to), free(path), free(lm);
}

static void memory_is_bounded(void **state) {
    (void)state;
    char dir[64];
    make_directory(dir);
    write_large_checkpoint(dir);
    char *out = fs_path_join(dir, "out"), *lm = fs_path_join(dir, "DTE-FDM");
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fs_options opt = fs_options_defaults();
        fs_error e = {0};
        opt.threads = 1; /* OpenMP's other threads do not live on in a forked process */
        const fs_status status = fs_convert(dir, out, "q8_0", &opt, &e);
        if (status) fprintf(stderr, "%s\n", e.message);
        _exit((int)status);
    }
    int how = 0;
    struct rusage use;
    assert_int_equal(wait4(child, &how, 0, &use), child);
    assert_true(WIFEXITED(how) && WEXITSTATUS(how) == 0);
    print_message("peak memory %.0f MB\n", (double)use.ru_maxrss / 1e3);
    /* The weights are 1.08 GB, the largest matrix 283 MB: it, the embedding in front of it, buffers and the program. A conversion that keeps
     * what it has read is above 1 GB. Sanitizers keep several times what they are asked for. */
    assert_true(use.ru_maxrss < (FS_SANITIZED ? 2000000 : 500000));
    remove_directory(out), remove_directory(lm), remove_directory(dir);
    free(out), free(lm);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_holds_the_numbers), cmocka_unit_test(metadata_is_complete), cmocka_unit_test(bytes_do_not_depend_on_threads),
        cmocka_unit_test(damage_is_found),              cmocka_unit_test(refusals_leave_nothing),  cmocka_unit_test(requantized_is_converted),
        cmocka_unit_test(requantize_refuses),           cmocka_unit_test(a_killed_run_is_taken_up), cmocka_unit_test(memory_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
