/* Stage 1 on a LLaVA 1.5 in llama.cpp's two files. The files' heads come from the official gguf package (tools/reference/make_llava_gguf.py);
 * here the numbers of models/tiny are put behind them and the whole compared with the package's by SHA-256. Then: the same tokens and the same
 * greedy text as from the checkpoint, and what is not a LLaVA 1.5 is refused in one line. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "pipeline/llava_gguf.h"
#include "tensor/block.h"

#define HEADS FS_GOLDEN_DIR "/gguf/"
#define PICTURE FS_GOLDEN_DIR "/e2e_tall.png"
#define DTG FS_TINY_DIR "/DTG.pth"

#define assert_ok(call)                                                       \
    do {                                                                      \
        fs_error assert_ok_error = {0}, *err = &assert_ok_error;              \
        if ((call) != FS_OK) fail_msg("%s", assert_ok_error.message);         \
    } while (0)

static char folder[] = "/tmp/fs-llava-XXXXXX";

static char *in_folder(const char *name) {
    char *path = fs_path_join(folder, name);
    assert_non_null(path);
    return path;
}

/* ---- the files ---- */

typedef struct rename_rule { const char *theirs, *ours; } rename_rule;

/* "blk.2.ffn_up.weight" -> "model.layers.2.mlp.up_proj.weight", by a table of the middle part. */
static char *layer_name(const char *name, const char *begin, const char *out, const rename_rule *rules) {
    const size_t n = strlen(begin);
    if (strncmp(name, begin, n) != 0) return NULL;
    const int layer = atoi(name + n);
    const char *part = strchr(name + n, '.') + 1, *kind = strrchr(name, '.');
    for (; rules->theirs; rules++)
        if (strlen(rules->theirs) == (size_t)(kind - part) && strncmp(part, rules->theirs, (size_t)(kind - part)) == 0)
            return fs_format("%s%d.%s%s", out, layer, rules->ours, kind);
    return NULL;
}

static char *upstream_name(const char *name) {
    static const rename_rule language[] = {{"attn_norm", "input_layernorm"}, {"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"},
                                           {"attn_v", "self_attn.v_proj"}, {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
                                           {"ffn_gate", "mlp.gate_proj"}, {"ffn_up", "mlp.up_proj"}, {"ffn_down", "mlp.down_proj"}, {NULL, NULL}};
    static const rename_rule vision[] = {{"attn_q", "self_attn.q_proj"}, {"attn_k", "self_attn.k_proj"}, {"attn_v", "self_attn.v_proj"},
                                         {"attn_out", "self_attn.out_proj"}, {"ln1", "layer_norm1"}, {"ln2", "layer_norm2"},
                                         {"ffn_down", "mlp.fc1"}, {"ffn_up", "mlp.fc2"}, {NULL, NULL}};
    static const rename_rule whole[] = {{"token_embd.weight", "model.embed_tokens.weight"}, {"output_norm.weight", "model.norm.weight"},
                                        {"output.weight", "lm_head.weight"}, {"v.class_embd", "vision_model.embeddings.class_embedding"},
                                        {"v.patch_embd.weight", "vision_model.embeddings.patch_embedding.weight"},
                                        {"v.position_embd.weight", "vision_model.embeddings.position_embedding.weight"},
                                        {"v.pre_ln.weight", "vision_model.pre_layrnorm.weight"}, {"v.pre_ln.bias", "vision_model.pre_layrnorm.bias"}, {NULL, NULL}};
    for (const rename_rule *r = whole; r->theirs; r++)
        if (strcmp(name, r->theirs) == 0) return fs_strdup(r->ours);
    if (strncmp(name, "mm.", 3) == 0) return fs_format("model.mm_projector.%s", name + 3);
    char *out = layer_name(name, "blk.", "model.layers.", language);
    return out ? out : layer_name(name, "v.blk.", "vision_model.encoder.layers.", vision);
}

/* The checkpoint's numbers in the type the file has; heads > 0: rows of each head with its halves alternating. */
static void fill(uint8_t *to, const fs_tensor *t, const fs_tensor *source, int64_t heads) {
    const int64_t n = fs_tensor_count(t), row = t->ndim > 1 ? t->shape[t->ndim - 1] : n, rows = n / row;
    size_t in, out;
    float *x = fs_alloc((size_t)row, sizeof *x);
    assert_int_equal(fs_tensor_count(source), n);
    assert_true(fs_dtype_row_bytes(source->dtype, row, &in) && fs_dtype_row_bytes(t->dtype, row, &out));
    for (int64_t r = 0; r < rows; r++) {
        int64_t from = r;
        if (heads) {
            const int64_t width = rows / heads, in_head = r % width;
            from = r - in_head + in_head % 2 * (width / 2) + in_head / 2;
        }
        assert_true(fs_row_to_f32(source->dtype, (const uint8_t *)source->data + (size_t)from * in, row, x));
        assert_true(fs_row_from_f32(t->dtype, x, row, to + (size_t)r * out));
    }
    free(x);
}

static void build(const char *name) {
    json_error_t why;
    json_t *sums = json_load_file(HEADS "llava.json", 0, &why);
    assert_non_null(sums);
    const json_t *sum = json_object_get(sums, name);
    const size_t size = (size_t)json_integer_value(json_object_get(sum, "bytes"));
    char *head = fs_format(HEADS "%s.head", name), *file = fs_format("%s/%s.gguf", folder, name), hex[65];
    uint8_t *begin = NULL, *bytes = fs_alloc_zero(size, 1);
    size_t n = 0;
    fs_archive *a = NULL, *dte = NULL, *clip = NULL;
    assert_ok(fs_read_file(head, 1 << 20, &begin, &n, err));
    memcpy(bytes, begin, n);
    assert_ok(fs_gguf_read(name, bytes, size, &a, err));
    assert_ok(fs_archive_open(FS_TINY_DIR "/DTE-FDM", &dte, err));
    assert_ok(fs_archive_open(FS_TINY_DIR "/clip-vit-tiny", &clip, err));
    for (size_t i = 0; i < fs_archive_count(a); i++) {
        const fs_archive_entry e = fs_archive_get(a, i);
        char *upstream = upstream_name(e.name);
        const fs_tensor *source = upstream ? fs_archive_find(strncmp(upstream, "vision_model", 12) == 0 ? clip : dte, upstream) : NULL;
        if (!source) fail_msg("%s is %s", e.name, upstream ? upstream : "unknown");
        const bool turned = strstr(e.name, "v.") != e.name && (strstr(e.name, "attn_q") || strstr(e.name, "attn_k"));
        fill((uint8_t *)e.tensor->data, e.tensor, source, turned ? 4 : 0);
        free(upstream);
    }
    fs_sha256_hex(bytes, size, hex);
    assert_string_equal(hex, json_string_value(json_object_get(sum, "sha256"))); /* the official package's file */
    assert_ok(fs_write_file(file, bytes, size, err));
    fs_archive_free(a), fs_archive_free(dte), fs_archive_free(clip);
    free(begin), free(bytes), free(head), free(file);
    json_decref(sums);
}

/* ---- running ---- */

static fs_options quiet(void) {
    fs_options o = fs_options_defaults();
    o.threads = 2;
    return o;
}

static fs_result *explain(const char *model, const fs_options *opt) {
    fs_detector *d = NULL;
    fs_result *r = NULL;
    assert_ok(fs_detector_create(model, opt, &d, err));
    assert_ok(fs_explain(d, PICTURE, &r, err));
    fs_detector_free(d);
    return r;
}

static void same_text_as_the_checkpoint(void **state) {
    (void)state;
    fs_options opt = quiet();
    char *lm = in_folder("llava_lm.gguf"), *mmproj = in_folder("llava_mmproj.gguf");
    fs_result *whole = explain(FS_TINY_DIR, &opt);
    opt.dtg_file = DTG;
    fs_result *r = explain(folder, &opt);
    assert_string_equal(fs_result_text(r), fs_result_text(whole));
    assert_memory_equal(fs_result_domain_probabilities(r), fs_result_domain_probabilities(whole), 3 * sizeof(float));
    assert_true(fs_result_score(r) > fs_result_score(whole) - 0.01 && fs_result_score(r) < fs_result_score(whole) + 0.01);
    fs_result_free(r);
    r = explain(lm, &opt); /* the file alone: the other is beside it */
    assert_string_equal(fs_result_text(r), fs_result_text(whole));
    fs_result_free(r);
    opt.dtg_file = NULL;
    opt.lm_file = lm;
    opt.mmproj_file = mmproj;
    opt.domain_given = true;
    opt.domain = fs_result_domain(whole);
    r = explain(NULL, &opt);
    assert_string_equal(fs_result_text(r), fs_result_text(whole));
    assert_true(fs_result_domain_probabilities(r)[opt.domain] == 1.0f && fs_result_warning_count(r) == 1);
    fs_result_free(r);
    fs_result_free(whole);
    free(lm), free(mmproj);
}

static void same_tokens_as_the_directory(void **state) {
    (void)state;
    static const char *const texts[] = {"", "The picture has been tampered with", "  two  spaces\n\n2. x", "A <s> in </s> it", "caf\xC3\xA9 \xF0\x9F\x91\x8D \xE2\x96\x81",
                                        "USER: <image>\nWas it? ASSISTANT:"};
    char *path = in_folder("llava_lm.gguf");
    fs_archive *a = NULL;
    fs_tokenizer *one = NULL, *two = NULL;
    assert_ok(fs_archive_open(path, &a, err));
    assert_ok(fs_llava_tokenizer(a, &one, err));
    assert_ok(fs_tokenizer_open(FS_TINY_DIR "/DTE-FDM", FS_RULES_437, &two, err));
    assert_int_equal(fs_tokenizer_size(one), fs_tokenizer_size(two));
    assert_int_equal(fs_tokenizer_bos(one), fs_tokenizer_bos(two));
    assert_int_equal(fs_tokenizer_eos(one), fs_tokenizer_eos(two));
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        fs_ids x = {0}, y = {0};
        char *p = NULL, *q = NULL;
        assert_ok(fs_tokenizer_encode_image(one, texts[i], &x, err));
        assert_ok(fs_tokenizer_encode_image(two, texts[i], &y, err));
        assert_int_equal(x.count, y.count);
        assert_memory_equal(x.data, y.data, x.count * sizeof *x.data);
        for (size_t k = 0; k < x.count; k++)
            if (x.data[k] == FS_IMAGE_TOKEN) x.data[k] = 5;
        assert_ok(fs_tokenizer_decode(one, x.data, x.count, true, &p, err));
        assert_ok(fs_tokenizer_decode(two, x.data, x.count, true, &q, err));
        assert_string_equal(p, q);
        fs_ids_free(&x), fs_ids_free(&y), free(p), free(q);
    }
    fs_tokenizer_free(one), fs_tokenizer_free(two), fs_archive_free(a), free(path);
}

/* ---- variants and refusals ---- */

static void put_nothing(fs_gguf_writer *w) { (void)w; }

/* The file `from` once more as `to`, without the field `key` and with what `put` puts. */
static void variant(const char *from, const char *to, const char *key, void (*put)(fs_gguf_writer *w)) {
    char *source = in_folder(from), *path = in_folder(to);
    fs_archive *a = NULL;
    fs_gguf_writer *w = NULL;
    assert_ok(fs_archive_open(source, &a, err));
    const fs_gguf *g = fs_archive_gguf(a);
    assert_ok(fs_gguf_writer_create(path, &w, err));
    for (size_t i = 0; i < fs_gguf_count(g); i++)
        if (!fs_gguf_text_is(fs_gguf_at(g, i).key, key)) fs_gguf_put_copy(w, g, i);
    put(w);
    for (size_t i = 0; i < fs_gguf_tensor_count(g); i++) {
        const fs_tensor *t = fs_archive_find(a, fs_gguf_tensor_name(g, i));
        fs_gguf_put_tensor(w, t->name, t->dtype, t->ndim, t->shape);
    }
    assert_ok(fs_gguf_writer_begin(w, err));
    for (size_t i = 0; i < fs_gguf_tensor_count(g); i++) {
        const fs_tensor *t = fs_archive_find(a, fs_gguf_tensor_name(g, i));
        size_t bytes;
        assert_true(fs_dtype_bytes(t->dtype, t->ndim, t->shape, &bytes));
        assert_ok(fs_gguf_writer_add(w, t->data, bytes, err));
    }
    assert_ok(fs_gguf_writer_finish(w, err));
    fs_gguf_writer_free(w), fs_archive_free(a), free(source), free(path);
}

static void expect_refused(const char *lm, const char *mmproj, fs_status status, const char *words) {
    fs_options opt = quiet();
    fs_detector *d = NULL;
    fs_error e = {0};
    char *one = in_folder(lm), *two = in_folder(mmproj);
    opt.lm_file = one, opt.mmproj_file = two;
    opt.dtg_file = DTG;
    fs_status s = fs_detector_create(folder, &opt, &d, &e);
    if (!s) s = fs_detector_check(d, 1, &e);
    if (s != status || !strstr(e.message, words) || strchr(e.message, '\n')) fail_msg("%s %s: %d \"%s\", expected %d \"%s\"", lm, mmproj, (int)s, e.message, (int)status, words);
    fs_detector_free(d);
    free(one), free(two);
}

static void put_other_projector(fs_gguf_writer *w) { fs_gguf_put_text(w, "clip.projector_type", "ldp"); }
static void put_silu(fs_gguf_writer *w) { fs_gguf_put_bool(w, "clip.use_silu", true); }
static void put_mean(fs_gguf_writer *w) { fs_gguf_put_array(w, "clip.vision.image_mean", FS_GGUF_F32, 3, (const float[]){0.5f, 0.5f, 0.5f}); }
static void put_deep_state(fs_gguf_writer *w) { fs_gguf_put_array(w, "clip.vision.feature_layer", FS_GGUF_I32, 1, (const int32_t[]){40}); }
static void put_bpe(fs_gguf_writer *w) { fs_gguf_put_text(w, "tokenizer.ggml.model", "gpt2"); }
static void put_scaling(fs_gguf_writer *w) {
    fs_gguf_put_text(w, "llama.rope.scaling.type", "linear");
    fs_gguf_put_f32(w, "llama.rope.scaling.factor", 4);
}
static void put_bos(fs_gguf_writer *w) { fs_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 4000); }
static void put_kinds(fs_gguf_writer *w) { fs_gguf_put_array(w, "tokenizer.ggml.token_type", FS_GGUF_I32, 2, (const int32_t[]){1, 1}); }

static void what_is_no_llava_is_refused(void **state) {
    (void)state;
    static const struct { const char *file, *key; void (*put)(fs_gguf_writer *w); fs_status status; const char *words; } cases[] = {
        {"mmproj", "clip.projector_type", put_other_projector, FS_E_UNSUPPORTED, "expected \"mlp\""},
        {"mmproj", "-", put_silu, FS_E_UNSUPPORTED, "activation"},
        {"mmproj", "clip.vision.image_mean", put_mean, FS_E_UNSUPPORTED, "normalised"},
        {"mmproj", "clip.vision.feature_layer", put_deep_state, FS_E_UNSUPPORTED, "no such layer"},
        {"mmproj", "clip.vision.patch_size", put_nothing, FS_E_NOT_FOUND, "clip.vision.patch_size"},
        {"lm", "tokenizer.ggml.model", put_bpe, FS_E_UNSUPPORTED, "gpt2"},
        {"lm", "-", put_scaling, FS_E_UNSUPPORTED, "scaled"},
        {"lm", "tokenizer.ggml.bos_token_id", put_bos, FS_E_FORMAT, "bos_token_id"},
        {"lm", "tokenizer.ggml.token_type", put_kinds, FS_E_FORMAT, "as many of each"},
        {"lm", "tokenizer.ggml.scores", put_nothing, FS_E_NOT_FOUND, "tokenizer.ggml.scores"},
        {"lm", "llama.attention.head_count", put_nothing, FS_E_NOT_FOUND, "head_count"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const bool lm = strcmp(cases[i].file, "lm") == 0;
        char *path = in_folder("variant");
        variant(lm ? "llava_lm.gguf" : "llava_mmproj.gguf", "variant", cases[i].key, cases[i].put);
        expect_refused(lm ? "variant" : "llava_lm.gguf", lm ? "llava_mmproj.gguf" : "variant", cases[i].status, cases[i].words);
        unlink(path);
        free(path);
    }
    expect_refused("llava_mmproj.gguf", "llava_lm.gguf", FS_E_MISMATCH, "expected general.architecture");
    expect_refused("llava_lm.gguf", "nothing", FS_E_NOT_FOUND, "nothing");
}

static void folders(void **state) {
    (void)state;
    fs_options opt = quiet();
    fs_detector *d = NULL;
    fs_error e = {0};
    assert_ok(fs_detector_create(folder, &opt, &d, err));
    assert_int_equal(fs_detector_check(d, 1, &e), FS_E_NOT_FOUND);
    assert_non_null(strstr(e.message, "--dtg DTG.pth"));
    assert_int_equal(fs_detector_check(d, 2, &e), FS_E_NOT_FOUND);
    fs_detector_free(d);
    variant("llava_lm.gguf", "second.gguf", "-", put_nothing);
    assert_int_equal(fs_detector_create(folder, &opt, &d, &e), FS_E_USAGE);
    assert_non_null(strstr(e.message, "two language models"));
    char *path = in_folder("second.gguf");
    unlink(path);
    free(path);
    opt.mmproj_file = "x.gguf";
    assert_int_equal(fs_detector_create(folder, &opt, &d, &e), FS_E_USAGE);
}

static void info_knows_them(void **state) {
    (void)state;
    char *text = NULL;
    assert_ok(fs_describe(folder, false, false, &text, err));
    static const char *const parts[] = {"LLaVA in GGUF files", "config: layers 3, hidden_size 64, heads 4", "CLIP vision tower", "projector", "  stage 1 "};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (!strstr(text, parts[i])) fail_msg("\"%s\" is not in:\n%s", parts[i], text);
    assert_null(strstr(text, "problems"));
    assert_null(strstr(text, "stage 2"));
    fs_string_free(text);
}

static uint32_t blocks;
static void put_blocks(fs_gguf_writer *w) { fs_gguf_put_u32(w, "clip.vision.block_count", blocks); }

/* Without feature_layer: a tower whose last layer was left out has an odd number of them; of a whole one the last is not read. */
static void which_state_is_read(void **state) {
    (void)state;
    static const struct { uint32_t count; int64_t layers; } cases[] = {{23, 24}, {24, 24}, {31, 32}, {32, 32}};
    variant("llava_mmproj.gguf", "plain", "clip.vision.feature_layer", put_nothing);
    char *path = in_folder("variant"), *plain = in_folder("plain");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_archive *a = NULL;
        fs_clip_config c;
        bool swapped = false;
        blocks = cases[i].count;
        variant("plain", "variant", "clip.vision.block_count", put_blocks);
        assert_ok(fs_archive_open(path, &a, err));
        assert_ok(fs_llava_clip_config(a, &c, &swapped, err));
        assert_int_equal(c.layers, cases[i].layers);
        assert_true(swapped);
        fs_archive_free(a);
    }
    unlink(path), unlink(plain);
    free(path), free(plain);
    char name[FS_LLAVA_NAME];
    assert_true(fs_llava_mmproj_name("vision_model.encoder.layers.12.mlp.fc1.bias", true, name));
    assert_string_equal(name, "v.blk.12.ffn_down.bias");
    assert_true(fs_llava_mmproj_name("vision_model.encoder.layers.12.mlp.fc1.bias", false, name));
    assert_string_equal(name, "v.blk.12.ffn_up.bias");
    assert_false(fs_llava_mmproj_name("vision_model.post_layernorm.weight", true, name));
    assert_false(fs_llava_mmproj_name("vision_model.encoder.layers.12", true, name));
    assert_false(fs_llava_mmproj_name("model.region_encoder.x", true, name));
}

static int make_files(void **state) {
    (void)state;
    if (!mkdtemp(folder)) return 1;
    build("llava_lm");
    build("llava_mmproj");
    return 0;
}

static int remove_files(void **state) {
    (void)state;
    DIR *d = opendir(folder);
    for (struct dirent *e; d && (e = readdir(d));) {
        char *path = fs_path_join(folder, e->d_name);
        if (e->d_name[0] != '.') unlink(path);
        free(path);
    }
    if (d) closedir(d);
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_tokens_as_the_directory), cmocka_unit_test(same_text_as_the_checkpoint), cmocka_unit_test(what_is_no_llava_is_refused),
        cmocka_unit_test(folders),                      cmocka_unit_test(which_state_is_read), cmocka_unit_test(info_knows_them),
    };
    return cmocka_run_group_tests(tests, make_files, remove_files);
}
