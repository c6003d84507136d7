/* Adapters over the tiny checkpoint: one that peft wrote gives peft's logits, under every name its tensors go by; what we write is the same
 * adapter; a bundle of F32 with the adapter beside its weights gives what the checkpoint gives, though it keeps rows in another order; and
 * merged and unmerged agree, as a checkpoint and as a bundle (spec Appendix A, 8). */
#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "pipeline/adapter.h"
#include "pipeline/merge.h"
#include "tensor/block.h"
#include "train/artefacts.h"
#include "train/lora.h"

#define PEFT FS_GOLDEN_DIR "/train/peft_dte"
#define assert_ok(call)                                                                                                                    \
    do {                                                                                                                                   \
        fs_error assert_ok_error = {0}, *err = &assert_ok_error;                                                                           \
        if ((call) != FS_OK) fail_msg("%s", assert_ok_error.message);                                                                      \
    } while (0)

/* ---- folders ---- */

static char *make_folder(void) {
    char *dir = strdup("/tmp/fs-adapter-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return dir;
}

static void remove_folder(char *dir) {
    char *command = fs_format("rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
    free(command);
    free(dir);
}

static void copy_file(const char *from_dir, const char *from, const char *to_dir, const char *to) {
    uint8_t *data = NULL;
    size_t size = 0;
    char *source = fs_path_join(from_dir, from), *target = fs_path_join(to_dir, to);
    assert_ok(fs_read_file(source, (size_t)1 << 26, &data, &size, err));
    assert_ok(fs_write_file(target, data, size, err));
    free(data);
    free(source);
    free(target);
}

/* The tensors of an archive, widened to F32, under names that `rename` gives (NULL: its own; a NULL name: not this one). */
static void write_widened(const char *from, const char *to, char *(*rename)(const char *name)) {
    fs_archive *a = NULL;
    assert_ok(fs_archive_open(from, &a, err));
    const size_t n = fs_archive_count(a);
    fs_tensor *tensors = calloc(n, sizeof *tensors);
    const fs_tensor **pointers = calloc(n, sizeof *pointers);
    char **names = calloc(n, sizeof *names);
    assert_true(tensors && pointers && names);
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        const fs_archive_entry e = fs_archive_get(a, i);
        if (!(names[count] = rename ? rename(e.name) : fs_strdup(e.name))) continue;
        const int64_t values = fs_tensor_count(e.tensor);
        tensors[count] = *e.tensor;
        if (fs_row_to_f32(e.tensor->dtype, e.tensor->data, 0, NULL)) {
            tensors[count].dtype = FS_DTYPE_F32;
            tensors[count].data = fs_alloc((size_t)values + 1, sizeof(float));
            assert_true(fs_row_to_f32(e.tensor->dtype, e.tensor->data, values, tensors[count].data));
        } else {
            tensors[count].data = memcpy(fs_alloc((size_t)values + 1, 8), e.tensor->data, (size_t)values * fs_dtype_size(e.tensor->dtype));
        }
        pointers[count] = &tensors[count];
        count++;
    }
    assert_ok(fs_safetensors_write(to, pointers, (const char *const *)names, count, "{\"format\":\"pt\"}", err));
    for (size_t i = 0; i < count; i++) {
        free(names[i]);
        free(tensors[i].data);
    }
    free(names);
    free(tensors);
    free(pointers);
    fs_archive_free(a);
}

/* The tiny checkpoint with F32 weights, so that merging rounds (almost) nothing. */
static char *make_f32_checkpoint(void) {
    static const char *const stages[] = {"DTE-FDM", "MFLM"};
    static const char *const files[] = {"config.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                                        "added_tokens.json"};
    char *root = make_folder();
    for (int i = 0; i < 2; i++) {
        char *from = fs_path_join(FS_TINY_DIR, stages[i]), *to = fs_path_join(root, stages[i]),
             *weights = fs_path_join(to, "model.safetensors");
        assert_int_equal(mkdir(to, 0777), 0);
        write_widened(from, weights, NULL);
        for (size_t k = 0; k < sizeof files / sizeof files[0]; k++)
            if (k < 4 || i == 1) copy_file(from, files[k], to, files[k]);
        free(from);
        free(to);
        free(weights);
    }
    copy_file(FS_TINY_DIR, "DTG.pth", root, "DTG.pth");
    return root;
}

/* ---- the golden run: logits with peft's adapter ---- */

static fs_options f32_options(void) {
    fs_options opt = fs_options_defaults();
    opt.threads = 2;
    opt.clip_dir = FS_TINY_DIR "/clip-vit-tiny";
    return opt;
}

/* Stage 1 of `model` with the adapter over it (NULL: none): the largest difference of its logits from the golden ones, which lie within
 * +-20. */
static double run_golden(const char *model, const char *adapter, float *all) {
    fs_options opt = f32_options();
    fs_layout layout;
    fs_adapter *adapters[2] = {NULL, NULL};
    fs_archive *golden = NULL;
    fs_dte_fdm *stage = NULL;
    double worst = 0;
    opt.adapters = &adapter;
    opt.n_adapters = adapter ? 1 : 0;
    assert_ok(fs_layout_find(model, &opt, &layout, err));
    assert_ok(fs_adapters_open(&layout, &opt, adapters, err));
    assert_null(adapters[1]);
    const fs_overlay overlay = adapters[0] ? fs_adapter_overlay(adapters[0]) : (fs_overlay){0};
    assert_ok(fs_dte_fdm_open(&layout, &opt, adapters[0] ? &overlay : NULL, &stage, err));
    assert_ok(fs_archive_open(FS_GOLDEN_DIR "/train/dte.safetensors", &golden, err));
    const fs_stage_parts parts = fs_dte_fdm_parts(stage);
    fs_exec *c = parts.exec;
    const fs_tensor *features = fs_archive_find(golden, "features");
    for (int i = 0; i < 2; i++) {
        char name[3][32];
        static const char *const fields[] = {"ids", "positions", "logits"};
        for (int k = 0; k < 3; k++) snprintf(name[k], sizeof name[k], "sample%d.%s", i, fields[k]);
        const fs_tensor *ids = fs_archive_find(golden, name[0]), *positions = fs_archive_find(golden, name[1]),
                        *logits = fs_archive_find(golden, name[2]);
        assert_true(features && ids && positions && logits);
        int32_t *words = calloc((size_t)ids->shape[0], sizeof *words);
        for (int64_t k = 0; k < ids->shape[0]; k++) words[k] = (int32_t)((int64_t *)ids->data)[k];
        const int64_t patches = features->shape[1], width = features->shape[2];
        fs_tensor *seen = fs_wrap(c, FS_DTYPE_F32, 2, (const int64_t[]){patches, width}, fs_f32(features) + i * patches * width);
        fs_tensor *image = fs_projector_forward(c, parts.projector, seen);
        fs_tensor *x = fs_prompt_embed(c, parts.llama, words, (size_t)ids->shape[0], image, -1, NULL);
        const int64_t length = x->shape[0];
        fs_tensor *h = fs_llama_forward_batch(c, parts.llama, &(fs_llama_batch){.lengths = &length, .n = 1}, x);
        fs_tensor *y = fs_llama_logits(c, parts.llama, h);
        assert_ok(fs_exec_status(c, err));
        for (int64_t p = 0; p < positions->shape[0]; p++)
            for (int64_t k = 0; k < logits->shape[1]; k++) {
                const float mine = fs_f32(y)[((int64_t *)positions->data)[p] * y->shape[1] + k];
                worst = fmax(worst, fabs((double)(mine - fs_f32(logits)[p * logits->shape[1] + k])));
                if (all) *all++ = mine;
            }
        free(words);
    }
    fs_archive_free(golden);
    fs_dte_fdm_close(stage);
    fs_adapter_free(adapters[0]);
    fs_layout_free(&layout);
    return worst;
}

/* peft's sums run in another order; logits are about 10 in size. The brief's bound is 1e-4. */
static const double peft_bound = 1e-4;

static void test_peft(void **state) {
    (void)state;
    assert_true(run_golden(FS_TINY_DIR, PEFT, NULL) < peft_bound);
    assert_true(run_golden(FS_TINY_DIR, NULL, NULL) > 0.01); /* and the adapter does something */
}

static char *with_default(const char *name) {
    char *out = fs_strdup(name), *at = strstr(out, ".weight");
    char *result = fs_format("%.*s.default%s", (int)(at - out), out, at);
    free(out);
    return result;
}
static char *without_prefix(const char *name) {
    char *full = with_default(name), *result = fs_strdup(full + strlen("base_model.model."));
    free(full);
    return result;
}
static char *model_model(const char *name) {
    return fs_strdup(name + strlen("base_model."));
}
static char *in_module(const char *name) {
    return fs_format("module.%s", name);
}

static void test_names(void **state) {
    (void)state;
    static const struct {
        char *(*lora)(const char *), *(*other)(const char *);
        bool bin;
    } cases[] = {{with_default, NULL, false}, {without_prefix, model_model, false}, {in_module, in_module, false}, {NULL, NULL, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char *dir = make_folder(), *lora = fs_path_join(dir, "adapter_model.safetensors"),
             *other = fs_path_join(dir, "non_lora_trainables.safetensors");
        copy_file(PEFT, "adapter_config.json", dir, "adapter_config.json");
        if (cases[i].bin)
            copy_file(PEFT, "adapter_model.bin", dir, "adapter_model.bin");
        else
            write_widened(PEFT "/adapter_model.safetensors", lora, cases[i].lora);
        write_widened(PEFT "/non_lora_trainables.bin", other, cases[i].other);
        assert_true(run_golden(FS_TINY_DIR, dir, NULL) < peft_bound);
        free(lora);
        free(other);
        remove_folder(dir);
    }
}

/* Trained tensors with an adapter's values. */
static void take(fs_params *p, const char *dir) {
    fs_adapter *a = NULL;
    fs_archive *lora = NULL;
    char *file = fs_path_join(dir, "adapter_model.safetensors");
    const char *name;
    const fs_tensor *t;
    assert_ok(fs_adapter_open(dir, NULL, &a, err));
    assert_ok(fs_archive_open(file, &lora, err));
    for (size_t i = 0; i < fs_archive_count(lora); i++) {
        const fs_archive_entry e = fs_archive_get(lora, i);
        assert_ok(fs_params_add(p, e.name, e.tensor->ndim, e.tensor->shape, e.tensor, 0, NULL, err));
    }
    for (size_t i = 0; fs_adapter_other(a, i, &name, &t); i++) assert_ok(fs_params_add(p, name, t->ndim, t->shape, t, 0, NULL, err));
    fs_archive_free(lora);
    fs_adapter_free(a);
    free(file);
}

static void test_written(void **state) {
    (void)state;
    char *root = make_folder(), *dir = fs_path_join(root, "adapter");
    fs_params p = {0};
    fs_adapter_info info = fs_adapter_info_defaults();
    take(&p, PEFT);
    assert_int_equal(p.count, 3 * 7 * 2 + 4);
    info.base = FS_TINY_DIR "/DTE-FDM";
    assert_ok(fs_adapter_write(dir, &p, &info, err));
    assert_true(run_golden(FS_TINY_DIR, dir, NULL) < peft_bound);
    fs_params_free(&p);
    free(dir);
    remove_folder(root);
}

/* ---- bundles and merging ---- */

enum { LOGITS = 2 * 16 * 640 };

static double difference(const float *x, const float *y, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)(x[i] - y[i])));
    return worst;
}

static void merge(const char *model, const char *const *adapters, size_t n, const char *type, const char *out) {
    fs_options opt = f32_options();
    opt.adapters = adapters;
    opt.n_adapters = n;
    assert_ok(fs_merge(model, out, type, &opt, err));
}

static void test_stage1_everywhere(void **state) {
    (void)state;
    static float unmerged[LOGITS], other[LOGITS];
    const char *adapter = PEFT;
    char *model = make_f32_checkpoint(), *work = make_folder();
    char *bundle = fs_path_join(work, "bundle"), *q8 = fs_path_join(work, "q8"), *merged = fs_path_join(work, "merged"),
         *both = fs_path_join(work, "both");
    fs_options opt = f32_options();
    assert_true(run_golden(model, PEFT, unmerged) < peft_bound);
    assert_ok(fs_convert(model, bundle, "f32", &opt, err));
    assert_ok(fs_convert(model, q8, "q8_0", &opt, err));
    /* the same numbers in another order of rows: nothing but the order of sums differs */
    run_golden(bundle, PEFT, other);
    assert_true(difference(unmerged, other, LOGITS) < 2e-5);
    /* 8 bits: an error of some 0.4 % of each weight comes in, but the adapter is there: without it logits are further away */
    run_golden(q8, PEFT, other);
    const double with = difference(unmerged, other, LOGITS);
    run_golden(q8, NULL, other);
    assert_true(with < 0.5 * difference(unmerged, other, LOGITS));
    /* merged: W + s B A is rounded once to f32, instead of two sums */
    merge(model, &adapter, 1, NULL, merged);
    run_golden(merged, NULL, other);
    assert_true(difference(unmerged, other, LOGITS) < 5e-5);
    merge(model, &adapter, 1, "f32", both);
    run_golden(both, NULL, other);
    assert_true(difference(unmerged, other, LOGITS) < 5e-5);
    free(bundle);
    free(q8);
    free(merged);
    free(both);
    remove_folder(work);
    remove_folder(model);
}

static fs_archive *open_in(const char *dir, const char *name) {
    fs_archive *a = NULL;
    char *path = fs_path_join(dir, name);
    assert_ok(fs_archive_open(path, &a, err));
    free(path);
    return a;
}

/* In the base's own F16: each weight is what the plain sum rounds to, but for the last bit where the product's order of sums decides. */
static void test_merged_f16(void **state) {
    (void)state;
    const char *adapter = PEFT;
    char *work = make_folder(), *out = fs_path_join(work, "merged");
    merge(FS_TINY_DIR, &adapter, 1, NULL, out);
    fs_archive *base = open_in(FS_TINY_DIR, "DTE-FDM"), *merged = open_in(out, "DTE-FDM"),
               *lora = open_in(PEFT, "adapter_model.safetensors");
    fs_archive *other = open_in(PEFT, "non_lora_trainables.bin");
    assert_int_equal(fs_archive_count(base), fs_archive_count(merged));
    size_t changed = 0, off = 0, all = 0;
    for (size_t i = 0; i < fs_archive_count(base); i++) {
        const fs_archive_entry e = fs_archive_get(base, i);
        const fs_tensor *m = fs_archive_find(merged, e.name);
        assert_non_null(m);
        assert_int_equal(m->dtype, e.tensor->dtype);
        char name[3][160];
        const int n = (int)strlen(e.name) - 7;
        for (int k = 0; k < 2; k++) snprintf(name[k], sizeof name[k], "base_model.model.%.*s.lora_%c.weight", n, e.name, k ? 'B' : 'A');
        snprintf(name[2], sizeof name[2], "base_model.model.%s", e.name);
        const fs_tensor *a = fs_archive_find(lora, name[0]), *b = fs_archive_find(lora, name[1]), *whole = fs_archive_find(other, name[2]);
        const int64_t count = fs_tensor_count(m);
        const uint16_t *w = e.tensor->data, *v = m->data;
        changed += a != NULL;
        for (int64_t k = 0; k < count; k++) {
            if (whole) {
                assert_int_equal(v[k], fs_f32_to_f16(fs_f32(whole)[k]));
            } else if (!a) {
                assert_int_equal(v[k], w[k]);
            } else {
                const int64_t row = k / m->shape[1], column = k % m->shape[1];
                float sum = 0;
                for (int64_t r = 0; r < 8; r++) sum += fs_f32(b)[row * 8 + r] * fs_f32(a)[r * a->shape[1] + column];
                const uint16_t expected = fs_f32_to_f16(fs_f16_to_f32(w[k]) + sum * 2.0F);
                assert_true(abs((int)v[k] - (int)expected) <= 1 ||
                            (fabsf(fs_f16_to_f32(v[k])) < 1e-6F && fabsf(fs_f16_to_f32(expected)) < 1e-6F));
                off += v[k] != expected;
                all++;
            }
        }
    }
    assert_int_equal(changed, 3 * 7);
    assert_true(off * 200 < all); /* ties and near ties of the rounding are rare */
    fs_archive_free(base);
    fs_archive_free(merged);
    fs_archive_free(lora);
    fs_archive_free(other);
    free(out);
    remove_folder(work);
}

/* ---- stage 2 ---- */

/* q and v of both layers, and a share of what MFLM trains beside, all a little moved. */
static char *make_mflm_adapter(const char *root) {
    static const char *const others[] = {"lm_head.weight",
                                         "model.embed_tokens.weight",
                                         "model.text_hidden_fcs.0.0.weight",
                                         "model.text_hidden_fcs.0.2.bias",
                                         "model.grounding_encoder.mask_decoder.iou_token.weight",
                                         "model.grounding_encoder.mask_decoder.transformer.layers.0.self_attn.q_proj.weight"};
    char *dir = fs_path_join(root, "adapter2");
    fs_params p = {0};
    fs_lm_config config;
    fs_archive *base = open_in(FS_TINY_DIR, "MFLM");
    fs_adapter_info info = fs_adapter_info_defaults();
    fs_rng r = fs_rng_seed(7);
    assert_ok(fs_lm_config_read(FS_TINY_DIR "/MFLM", &config, err));
    assert_ok(fs_lora_add_params(&p, &config.llama, FS_LORA_QV, 4, 3, 0, err));
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        const fs_tensor *t = fs_archive_find(base, others[i]);
        assert_non_null(t);
        assert_ok(fs_params_add(&p, others[i], t->ndim, t->shape, t, 0, NULL, err));
    }
    for (size_t i = 0; i < p.count; i++)
        for (int64_t k = 0; k < p.list[i]->count; k++)
            if (!strstr(p.list[i]->name, "lora_A")) p.list[i]->data[k] += (float)(0.02 * (fs_rng_uniform(&r) - 0.5));
    info.stage = 2;
    info.base = FS_TINY_DIR "/MFLM";
    assert_ok(fs_adapter_write(dir, &p, &info, err));
    fs_params_free(&p);
    fs_lm_config_free(&config);
    fs_archive_free(base);
    return dir;
}

/* The mask's logits for a picture and a text; malloc'ed. */
static float *localize(const char *model, const char *adapter, size_t *n) {
    fs_options opt = f32_options();
    fs_detector *d = NULL;
    fs_result *r = NULL;
    opt.adapters = &adapter;
    opt.n_adapters = adapter ? 1 : 0;
    assert_ok(fs_detector_create(model, &opt, &d, err));
    assert_ok(fs_localize_text(d, FS_GOLDEN_DIR "/e2e_wide.png", "The picture has been tampered with, and the tampered area is the sky.",
                               NULL, 0, &r, err));
    assert_int_equal(fs_result_mask_status(r), FS_MASK_PRESENT);
    *n = (size_t)(fs_result_width(r) * fs_result_height(r));
    float *logits = malloc(*n * sizeof *logits);
    assert_non_null(logits);
    memcpy(logits, fs_result_mask_logits(r), *n * sizeof *logits);
    if (adapter)
        assert_string_equal(fs_result_adapter(r, 2), fs_path_base(adapter));
    else
        assert_null(fs_result_adapter(r, 2));
    assert_null(fs_result_adapter(r, 1));
    fs_result_free(r);
    fs_detector_free(d);
    return logits;
}

static void test_stage2_everywhere(void **state) {
    (void)state;
    char *model = make_f32_checkpoint(), *work = make_folder(), *adapter = make_mflm_adapter(work);
    char *bundle = fs_path_join(work, "bundle"), *merged = fs_path_join(work, "merged"), *both = fs_path_join(work, "both");
    const char *list[2] = {adapter, PEFT};
    fs_options opt = f32_options();
    size_t n, m;
    float *plain = localize(model, NULL, &n), *unmerged = localize(model, adapter, &m);
    assert_int_equal(n, m);
    const double effect = difference(plain, unmerged, n);
    assert_true(effect > 0.05); /* logits are about 10 in size */
    assert_ok(fs_convert(model, bundle, "f32", &opt, err));
    merge(model, list, 2, NULL, merged); /* both stages at once */
    merge(model, list, 2, "f32", both);
    const struct { const char *model, *adapter; } cases[] = {{bundle, adapter}, {merged, NULL}, {both, NULL}};
    for (int i = 0; i < 3; i++) {
        float *other = localize(cases[i].model, cases[i].adapter, &m);
        assert_int_equal(n, m);
        assert_true(difference(unmerged, other, n) < 5e-4 &&
                    difference(unmerged, other, n) < effect / 100); /* sums in another order, through SAM */
        free(other);
    }
    fs_archive *a = open_in(merged, "MFLM");
    for (size_t i = 0; i < fs_archive_count(a); i++) assert_null(strstr(fs_archive_get(a, i).name, "vision_tower"));
    fs_archive_free(a);
    free(plain);
    free(unmerged);
    free(bundle);
    free(merged);
    free(both);
    free(adapter);
    remove_folder(work);
    remove_folder(model);
}

/* The bundle merged into directly holds the bytes that converting the merged checkpoint gives. */
static void test_same_bundle(void **state) {
    (void)state;
    static const char *const files[] = {"dte-fdm.gguf", "mflm.gguf", "vision.gguf"};
    char *work = make_folder(), *adapter = make_mflm_adapter(work);
    char *merged = fs_path_join(work, "merged"), *one = fs_path_join(work, "one"), *two = fs_path_join(work, "two");
    const char *list[2] = {PEFT, adapter};
    fs_options opt = f32_options();
    merge(FS_TINY_DIR, list, 2, NULL, merged);
    merge(FS_TINY_DIR, list, 2, "mixed", one);
    assert_ok(fs_convert(merged, two, "mixed", &opt, err));
    for (int f = 0; f < 3; f++) {
        fs_archive *x = open_in(one, files[f]), *y = open_in(two, files[f]);
        assert_int_equal(fs_archive_count(x), fs_archive_count(y));
        for (size_t i = 0; i < fs_archive_count(x); i++) {
            const fs_archive_entry e = fs_archive_get(x, i), g = fs_archive_get(y, i);
            size_t bytes;
            assert_string_equal(e.name, g.name);
            assert_true(fs_dtype_bytes(e.tensor->dtype, e.tensor->ndim, e.tensor->shape, &bytes));
            if (memcmp(e.tensor->data, g.tensor->data, bytes) != 0) fail_msg("%s: %s differs", files[f], e.name);
        }
        fs_archive_free(x);
        fs_archive_free(y);
    }
    assert_ok(fs_verify(one, NULL, err));
    free(merged);
    free(one);
    free(two);
    free(adapter);
    remove_folder(work);
}

/* zero_to_fp32's file: no prefix, ".default.", and frozen tensors that are not taken. */
static char *state_dict_name(const char *name) {
    if (!strstr(name, "lora_")) return fs_strdup(name + strlen("base_model.model."));
    return without_prefix(name);
}

static void test_state_dict(void **state) {
    (void)state;
    char *work = make_folder(), *adapter = make_mflm_adapter(work), *dir = fs_path_join(work, "dict"),
         *file = fs_path_join(dir, "pytorch_model.bin");
    char *lora = fs_path_join(adapter, "adapter_model.safetensors");
    size_t n, m;
    fs_archive *a = open_in(adapter, "adapter_model.safetensors"), *b = open_in(adapter, "non_lora_trainables.safetensors"),
               *base = open_in(FS_TINY_DIR, "MFLM");
    const fs_tensor *tensors[64];
    char *names[64];
    size_t count = 0;
    for (size_t i = 0; i < fs_archive_count(a); i++, count++)
        tensors[count] = fs_archive_get(a, i).tensor, names[count] = state_dict_name(fs_archive_get(a, i).name);
    for (size_t i = 0; i < fs_archive_count(b); i++, count++)
        tensors[count] = fs_archive_get(b, i).tensor, names[count] = state_dict_name(fs_archive_get(b, i).name);
    tensors[count] =
        fs_archive_find(base, "model.layers.0.self_attn.q_proj.weight"); /* frozen, and here of another module: must not be taken */
    names[count++] = fs_strdup("model.layers.1.self_attn.k_proj.weight");
    assert_int_equal(mkdir(dir, 0777), 0);
    assert_ok(fs_torch_write(file, tensors, (const char *const *)names, count, NULL, NULL, err));
    float *first = localize(FS_TINY_DIR, adapter, &n);
    float *second = localize(FS_TINY_DIR, dir, &m);
    assert_int_equal(n, m);
    assert_true(difference(first, second, n) == 0);
    free(second);
    second = localize(FS_TINY_DIR, file, &m); /* the file itself */
    assert_true(difference(first, second, n) == 0);
    for (size_t i = 0; i < count; i++) free(names[i]);
    fs_archive_free(a);
    fs_archive_free(b);
    fs_archive_free(base);
    free(first);
    free(second);
    free(lora);
    free(file);
    free(dir);
    free(adapter);
    remove_folder(work);
}

/* A result with an adapter is not one without. */
static void test_resume(void **state) {
    (void)state;
    const char *picture = FS_GOLDEN_DIR "/e2e_wide.png", *adapter = PEFT;
    fs_options opt = f32_options();
    fs_detector *plain = NULL, *adapted = NULL;
    fs_result *r = NULL, *back = NULL;
    char *json = NULL;
    opt.verdict_only = true;
    assert_ok(fs_detector_create(FS_TINY_DIR, &opt, &plain, err));
    opt.adapters = &adapter;
    opt.n_adapters = 1;
    assert_ok(fs_detector_create(FS_TINY_DIR, &opt, &adapted, err));
    assert_ok(fs_explain(adapted, picture, &r, err));
    assert_ok(fs_result_to_json(r, NULL, NULL, false, true, &json, err));
    assert_non_null(strstr(json, "\"stage1\": \"peft_dte\""));
    assert_ok(fs_detector_resume(plain, json, picture, &back, err));
    assert_null(back);
    assert_ok(fs_detector_resume(adapted, json, picture, &back, err));
    assert_non_null(back);
    assert_string_equal(fs_result_adapter(back, 1), "peft_dte");
    fs_result_free(back);
    fs_result_free(r);
    fs_string_free(json);
    fs_detector_free(plain);
    fs_detector_free(adapted);
}

/* For tools/reference/check_adapter.py, which loads in peft what we wrote: FS_ADAPTER_OUT names a folder to be made, with an adapter for
 * each stage and the logits that this program computes with it. */
static void leave(const char *model, const char *dir, int stage) {
    enum { N = 40 };
    fs_options opt = f32_options();
    fs_layout layout;
    fs_adapter *a = NULL;
    fs_dte_fdm *one = NULL;
    fs_mflm *two = NULL;
    int64_t ids[N], length = N;
    int32_t words[N];
    for (int i = 0; i < N; i++) ids[i] = words[i] = i ? 3 + (i * 37) % 600 : 1;
    assert_ok(fs_layout_find(model, &opt, &layout, err));
    assert_ok(fs_adapter_open(dir, NULL, &a, err));
    const fs_overlay overlay = fs_adapter_overlay(a);
    if (stage == 1)
        assert_ok(fs_dte_fdm_open(&layout, &opt, &overlay, &one, err));
    else
        assert_ok(fs_mflm_open(&layout, &opt, &overlay, &two, err));
    const fs_stage_parts parts = one ? fs_dte_fdm_parts(one) : fs_mflm_parts(two);
    fs_exec *c = parts.exec;
    fs_tensor *h =
        fs_llama_forward_batch(c, parts.llama, &(fs_llama_batch){.lengths = &length, .n = 1}, fs_llama_embed(c, parts.llama, words, N));
    const fs_tensor *y = fs_llama_logits(c, parts.llama, h), *told = fs_wrap(c, FS_DTYPE_I64, 1, &length, ids);
    assert_ok(fs_exec_status(c, err));
    char *file = fs_path_join(dir, "logits.safetensors");
    assert_ok(fs_safetensors_write(file, (const fs_tensor *const[]){told, y}, (const char *const[]){"ids", "logits"}, 2, NULL, err));
    free(file);
    fs_dte_fdm_close(one);
    fs_mflm_close(two);
    fs_adapter_free(a);
    fs_layout_free(&layout);
}

static void test_leave(void **state) {
    (void)state;
    const char *out = getenv("FS_ADAPTER_OUT");
    if (!out) skip();
    fs_params p = {0};
    fs_adapter_info info = fs_adapter_info_defaults();
    assert_ok(fs_make_dirs(out, err));
    char *dir = fs_path_join(out, "adapter1"), *dir2 = make_mflm_adapter(out);
    take(&p, PEFT);
    assert_ok(fs_adapter_write(dir, &p, &info, err));
    leave(FS_TINY_DIR, dir, 1);
    leave(FS_TINY_DIR, dir2, 2);
    fs_params_free(&p);
    free(dir);
    free(dir2);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_peft),        cmocka_unit_test(test_names),
                                       cmocka_unit_test(test_written),     cmocka_unit_test(test_stage1_everywhere),
                                       cmocka_unit_test(test_merged_f16),  cmocka_unit_test(test_stage2_everywhere),
                                       cmocka_unit_test(test_same_bundle), cmocka_unit_test(test_state_dict),
                                       cmocka_unit_test(test_resume),      cmocka_unit_test(test_leave)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
