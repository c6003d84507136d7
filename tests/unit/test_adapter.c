/* Adapters that are damaged, of another kind or of another model: one clear line each, and nothing is applied. And what adapter_config.json
 * may ask for beside r and lora_alpha. */
#include <math.h>
#include <sys/stat.h>

#include "pipeline/adapter.h"
#include "pipeline/adapter_read.h"
#include "unit/format_support.h"

#define CONFIG "{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":4,\"target_modules\":[\"q_proj\",\"v_proj\"]}"
#define Q "base_model.model.model.layers.0.self_attn.q_proj."

enum { HIDDEN = 64, MAX_TENSORS = 8 };
typedef struct named {
    const char *name;
    int64_t rows, columns;
    float value;
} named;

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

static void put_tensors(const char *dir, const char *file, const named *list) {
    static float values[1 << 16];
    fs_tensor tensors[MAX_TENSORS];
    const fs_tensor *pointers[MAX_TENSORS];
    const char *names[MAX_TENSORS];
    size_t n = 0;
    float *at = values;
    for (; list[n].name; n++) {
        tensors[n] = (fs_tensor){.dtype = FS_DTYPE_F32, .ndim = 2, .shape = {list[n].rows, list[n].columns}, .data = at};
        for (int64_t k = 0; k < list[n].rows * list[n].columns; k++) *at++ = list[n].value;
        pointers[n] = &tensors[n];
        names[n] = list[n].name;
    }
    char *path = fs_path_join(dir, file);
    assert_ok(fs_safetensors_write(path, pointers, names, n, NULL, err));
    free(path);
}

static char *make_adapter(const char *config, const named *list) {
    char *dir = make_folder();
    if (config) write_text(dir, "adapter_config.json", config, strlen(config));
    if (list) put_tensors(dir, "adapter_model.safetensors", list);
    return dir;
}

static const named good[] = {{Q "lora_A.weight", 2, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 2, 1}, {NULL, 0, 0, 0}};

static void test_config_refusals(void **state) {
    (void)state;
    static const struct {
        const char *config;
        fs_status status;
        const char *part;
    } cases[] = {
        {"{\"peft_type\":\"IA3\"}", FS_E_UNSUPPORTED, "peft_type is \"IA3\"; only LORA adapters can be applied"},
        {"{\"r\":2}", FS_E_NOT_FOUND, "peft_type"},
        {"{\"peft_type\":7,\"r\":2}", FS_E_MISMATCH, "peft_type"},
        {"{\"peft_type\":\"LORA\",\"r\":0}", FS_E_MISMATCH, "field r"},
        {"{\"peft_type\":\"LORA\",\"r\":-3}", FS_E_MISMATCH, "field r"},
        {"{\"peft_type\":\"LORA\",\"r\":2000000000}", FS_E_MISMATCH, "field r"},
        {"{\"peft_type\":\"LORA\",\"r\":\"8\"}", FS_E_MISMATCH, "field r"},
        {"{\"peft_type\":\"LORA\"}", FS_E_NOT_FOUND, "field r"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":0}", FS_E_MISMATCH, "lora_alpha"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"lora_alpha\":1e300}", FS_E_MISMATCH, "lora_alpha"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"use_dora\":true}", FS_E_UNSUPPORTED, "use_dora is set"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"lora_bias\":true}", FS_E_UNSUPPORTED, "lora_bias is set"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"layer_replication\":[[0,2]]}", FS_E_UNSUPPORTED, "layer_replication is set"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"init_lora_weights\":\"pissa_niter_16\"}", FS_E_UNSUPPORTED,
         "init_lora_weights is \"pissa_niter_16\""},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"bias\":\"some\"}", FS_E_FORMAT, "bias is \"some\""},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"target_modules\":7}", FS_E_FORMAT, "target_modules: expected a list or a text"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"target_modules\":[\"q_proj\",3]}", FS_E_FORMAT, "target_modules[1]"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"rank_pattern\":[1]}", FS_E_FORMAT, "rank_pattern: expected an object"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"rank_pattern\":{\"q_proj\":0}}", FS_E_FORMAT, "rank_pattern.q_proj: expected a number from 1"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"alpha_pattern\":{\"q_proj\":\"x\"}}", FS_E_FORMAT, "alpha_pattern.q_proj"},
        {"{\"peft_type\":\"LORA\",\"r\":2,\"rank_pattern\":{\".*q_proj\":4}}", FS_E_UNSUPPORTED, "\".*q_proj\" is a regular expression"},
        {"{\"peft_type\":\"LORA\",\"r\":2", FS_E_FORMAT, "adapter_config.json"},
        {"[]", FS_E_FORMAT, "adapter_config.json"},
        {"", FS_E_FORMAT, "adapter_config.json"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_adapter *a = NULL;
        fs_error err = {0};
        char *dir = make_adapter(cases[i].config, good);
        const fs_status status = fs_adapter_open(dir, NULL, &a, &err);
        if (status != cases[i].status)
            fail_msg("%s: status %d, expected %d: %s", cases[i].config, (int)status, (int)cases[i].status, err.message);
        assert_message(&err, cases[i].part);
        assert_null(a);
        remove_folder(dir);
    }
}

static void test_tensor_refusals(void **state) {
    (void)state;
    static const struct {
        named list[4];
        fs_status status;
        const char *part;
    } cases[] = {
        {{{Q "lora_A.weight", 2, HIDDEN, 1}}, FS_E_FORMAT, "q_proj.lora_A.weight has no lora_B beside it"},
        {{{Q "lora_B.weight", HIDDEN, 2, 1}}, FS_E_FORMAT, "q_proj.lora_B.weight has no lora_A beside it"},
        {{{Q "lora_A.weight", 2, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 3, 1}},
         FS_E_MISMATCH,
         "[2,64] and lora_B [64,3] do not go together"},
        {{{Q "lora_A.weight", 0, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 0, 1}}, FS_E_MISMATCH, "of rank 1 or more"},
        {{{Q "lora_A.weight", 4, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 4, 1}},
         FS_E_MISMATCH,
         "expected rank 2 (adapter_config.json), found [4,64]"},
        {{{"base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight", 2, HIDDEN, 1},
          {"base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight", HIDDEN, 2, 1}},
         FS_E_MISMATCH,
         "target_modules of adapter_config.json does not name this layer"},
        {{{"base_model.model.model.mm_projector.0.lora_A.weight", 2, HIDDEN, 1}},
         FS_E_UNSUPPORTED,
         "the seven linear layers of LLaMA alone"},
        {{{"base_model.model.model.layers.99999999999999999999.self_attn.q_proj.lora_A.weight", 2, HIDDEN, 1}},
         FS_E_UNSUPPORTED,
         "the seven linear layers"},
        {{{"base_model.model.model.layers.-1.self_attn.q_proj.lora_A.weight", 2, HIDDEN, 1}}, FS_E_UNSUPPORTED, "the seven linear layers"},
        {{{Q "lora_magnitude_vector", 1, HIDDEN, 1}}, FS_E_UNSUPPORTED, "the seven linear layers"},
        {{{Q "lora_A.weight", 2, HIDDEN, 1}, {Q "lora_A.default.weight", 2, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 2, 1}},
         FS_E_FORMAT,
         "are the same one"},
        {{{"base_model.model.model.mm_projector.0.weight", 2, HIDDEN, 1}}, FS_E_FORMAT, "holds no adapter"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_adapter *a = NULL;
        fs_error err = {0};
        char *dir = make_adapter(CONFIG, cases[i].list);
        const fs_status status = fs_adapter_open(dir, NULL, &a, &err);
        if (status != cases[i].status) fail_msg("case %zu: status %d, expected %d: %s", i, (int)status, (int)cases[i].status, err.message);
        assert_message(&err, cases[i].part);
        remove_folder(dir);
    }
}

static void test_files(void **state) {
    (void)state;
    fs_adapter *a = NULL;
    fs_error err = {0};
    char *dir = make_adapter(CONFIG, NULL);
    assert_int_equal(fs_adapter_open(dir, NULL, &a, &err), FS_E_NOT_FOUND);
    assert_message(&err, "holds adapter_config.json, but no adapter_model.safetensors");
    remove_folder(dir);
    dir = make_adapter(NULL, good);
    assert_int_equal(fs_adapter_open(dir, NULL, &a, &err), FS_E_NOT_FOUND);
    assert_message(&err, "holds adapter_model.safetensors, but no adapter_config.json");
    remove_folder(dir);
    dir = make_folder();
    assert_int_equal(fs_adapter_open(dir, NULL, &a, &err), FS_E_NOT_FOUND);
    assert_message(&err, "no adapter as peft writes one");
    remove_folder(dir);
    assert_int_equal(fs_adapter_open("/nonexistent/adapter", NULL, &a, &err), FS_E_NOT_FOUND);
    dir = make_adapter(CONFIG, good);
    write_text(dir, "fakeshield.json", "{\"stage\": \"dtg\"}", 16);
    assert_int_equal(fs_adapter_open(dir, NULL, &a, &err), FS_E_FORMAT);
    assert_message(&err, "stage is \"dtg\", expected dte-fdm or mflm");
    write_text(dir, "adapter_model.safetensors", "\x08\0\0\0\0\0\0\0{}      ", 16);
    remove_file(dir, "fakeshield.json");
    assert_int_equal(fs_adapter_open(dir, NULL, &a, &err), FS_E_FORMAT);
    remove_folder(dir);
}

static double scale_of(const fs_adapter *a, const char *module) {
    char name[2][160];
    for (int i = 0; i < 2; i++)
        snprintf(name[i], sizeof name[i], "base_model.model.model.layers.0.self_attn.%s.lora_%c.weight", module, i ? 'B' : 'A');
    const fs_tensor *x = fs_adapter_find(a, name[0]), *y = fs_adapter_find(a, name[1]);
    assert_true(x && y);
    /* what a y of ones is multiplied with: alpha / rank, times what B was multiplied with already */
    return fs_adapter_facts_of(a).alpha / (double)x->shape[0] * (double)fs_f32(y)[0];
}

/* peft: alpha / r, alpha / sqrt(r) with use_rslora, r and alpha by pattern */
static void test_scales(void **state) {
    (void)state;
    static const named list[] = {{Q "lora_A.weight", 2, HIDDEN, 1},
                                 {Q "lora_B.weight", HIDDEN, 2, 1},
                                 {"base_model.model.model.layers.0.self_attn.v_proj.lora_A.weight", 4, HIDDEN, 1},
                                 {"base_model.model.model.layers.0.self_attn.v_proj.lora_B.weight", HIDDEN, 4, 1},
                                 {NULL, 0, 0, 0}};
    static const struct {
        const char *more;
        double q, v;
    } cases[] = {
        {"\"lora_alpha\":6", 3, 1.5},
        {"\"lora_alpha\":6,\"use_rslora\":true", 4.242640687, 3},
        {"\"lora_alpha\":6,\"alpha_pattern\":{\"layers.0.self_attn.v_proj\":10}", 3, 2.5},
        {"\"lora_alpha\":6,\"alpha_pattern\":{\"proj\":10}", 3, 1.5},                   /* no end of a name as peft splits it */
        {"\"bias\":\"all\",\"fan_in_fan_out\":true,\"layers_to_transform\":[0]", 4, 2}, /* lora_alpha 8 */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_adapter *a = NULL;
        char *config =
            fs_format("{\"peft_type\":\"LORA\",\"r\":2,\"target_modules\":\".*proj\",\"rank_pattern\":{\"v_proj\":4},%s}", cases[i].more);
        char *dir = make_adapter(config, list);
        assert_ok(fs_adapter_open(dir, NULL, &a, err));
        assert_true(fabs(scale_of(a, "q_proj") - cases[i].q) < 1e-6);
        assert_true(fabs(scale_of(a, "v_proj") - cases[i].v) < 1e-6);
        fs_adapter_free(a);
        free(config);
        remove_folder(dir);
    }
}

/* The same tensor in both files: peft's own goes before LLaVA's. */
static void test_twice(void **state) {
    (void)state;
    static const named list[] = {{Q "lora_A.weight", 2, HIDDEN, 1},
                                 {Q "lora_B.weight", HIDDEN, 2, 1},
                                 {"base_model.model.lm_head.weight", 5, 3, 1},
                                 {NULL, 0, 0, 0}};
    static const named others[] = {
        {"base_model.model.lm_head.weight", 5, 3, 2}, {"base_model.model.model.norm.weight", 1, HIDDEN, 2}, {NULL, 0, 0, 0}};
    fs_adapter *a = NULL;
    char *dir = make_adapter(CONFIG, list);
    put_tensors(dir, "non_lora_trainables.safetensors", others);
    assert_ok(fs_adapter_open(dir, NULL, &a, err));
    assert_int_equal(fs_adapter_facts_of(a).others, 2);
    assert_true(fs_f32(fs_adapter_find(a, "lm_head.weight"))[0] == 1);
    assert_true(fs_f32(fs_adapter_find(a, "model.norm.weight"))[0] == 2);
    fs_adapter_free(a);
    remove_folder(dir);
}

/* ---- against the tiny checkpoint ---- */

static fs_status create(const char *const *adapters, size_t n, fs_error *err) {
    fs_options opt = fs_options_defaults();
    fs_detector *d = NULL;
    opt.threads = 1;
    opt.adapters = adapters;
    opt.n_adapters = n;
    fs_status status = fs_detector_create(FS_TINY_DIR, &opt, &d, err);
    for (int stage = 1; stage <= 2 && !status; stage++) status = fs_detector_check(d, stage, err);
    fs_detector_free(d);
    return status;
}

static void test_fit(void **state) {
    (void)state;
    static const struct {
        named list[6];
        const char *stage;
        fs_status status;
        const char *part;
    } cases[] = {
        {{{Q "lora_A.weight", 2, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 2, 1}}, NULL, FS_E_MISMATCH, "fits both stages of"},
        {{{Q "lora_A.weight", 2, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 2, 1}}, "dte-fdm", FS_OK, NULL},
        {{{Q "lora_A.weight", 2, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 2, 1}}, "mflm", FS_OK, NULL},
        {{{Q "lora_A.weight", 2, 32, 1}, {Q "lora_B.weight", HIDDEN, 2, 1}},
         "mflm",
         FS_E_MISMATCH,
         "q_proj.lora_A.weight: expected shape [rank,64] for stage 2 (MFLM), found [2,32]"},
        {{{Q "lora_A.weight", 2, HIDDEN, 1}, {Q "lora_B.weight", 65, 2, 1}},
         "dte-fdm",
         FS_E_MISMATCH,
         "q_proj.lora_B.weight: expected shape [64,rank] for stage 1 (DTE-FDM), found [65,2]"},
        {{{Q "lora_A.weight", 2, 32, 1}, {Q "lora_B.weight", HIDDEN, 2, 1}}, NULL, FS_E_MISMATCH, "fits no stage of"},
        {{{"model.layers.3.self_attn.q_proj.lora_A.weight", 2, HIDDEN, 1}, {"model.layers.3.self_attn.q_proj.lora_B.weight", HIDDEN, 2, 1}},
         "dte-fdm",
         FS_E_MISMATCH,
         "expected a layer below 3 for stage 1 (DTE-FDM), found layer 3"},
        {{{Q "lora_A.weight", 2, HIDDEN, NAN}, {Q "lora_B.weight", HIDDEN, 2, 1}},
         "dte-fdm",
         FS_E_NUMERIC,
         "q_proj.lora_A.weight: value 0 is NaN or infinite"},
        {{{Q "lora_A.weight", 2, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 2, INFINITY}},
         "mflm",
         FS_E_NUMERIC,
         "q_proj.lora_B.weight: value 0 is NaN or infinite"},
        {{{Q "lora_A.weight", 2, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 2, 1}, {"base_model.model.lm_head.weight", 647, HIDDEN, 1}},
         NULL,
         FS_OK,
         NULL}, /* the vocabulary tells */
        {{{Q "lora_A.weight", 2, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 2, 1}, {"base_model.model.lm_head.weight", 600, HIDDEN, 1}},
         "dte-fdm",
         FS_E_MISMATCH,
         "lm_head.weight: expected shape [640,64] for stage 1 (DTE-FDM), found [600,64]"},
        {{{Q "lora_A.weight", 2, HIDDEN, 1},
          {Q "lora_B.weight", HIDDEN, 2, 1},
          {"base_model.model.model.mm_projector.0.weight", 64, 65, 1}},
         "dte-fdm",
         FS_E_MISMATCH,
         "mm_projector.0.weight: expected shape [64,64] as in"},
        {{{Q "lora_A.weight", 2, HIDDEN, 1},
          {Q "lora_B.weight", HIDDEN, 2, 1},
          {"base_model.model.model.text_hidden_fcs.0.0.weight", 64, 64, 1}},
         "dte-fdm",
         FS_E_MISMATCH,
         "the adapter is of stage 2 (MFLM)"},
        {{{Q "lora_A.weight", 2, HIDDEN, 1}, {Q "lora_B.weight", HIDDEN, 2, 1}, {"base_model.model.model.unheard_of.weight", 1, 1, 1}},
         "dte-fdm",
         FS_OK,
         NULL}, /* told in the log */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_error err = {0};
        char *dir = make_adapter(CONFIG, cases[i].list), *about = cases[i].stage ? fs_format("{\"stage\": \"%s\"}", cases[i].stage) : NULL;
        if (about) write_text(dir, "fakeshield.json", about, strlen(about));
        const char *list[1] = {dir};
        const fs_status status = create(list, 1, &err);
        if (status != cases[i].status) fail_msg("case %zu: status %d, expected %d: %s", i, (int)status, (int)cases[i].status, err.message);
        if (cases[i].part) assert_message(&err, cases[i].part);
        free(about);
        remove_folder(dir);
    }
}

static void count_warning(void *user, fs_log_level level, const char *line) {
    if (level == FS_LOG_WARNING && strstr(line, "unheard_of.weight: the model has no such part; it was left out")) ++*(int *)user;
}

static void test_told(void **state) {
    (void)state;
    static const named list[] = {{Q "lora_A.weight", 2, HIDDEN, 1},
                                 {Q "lora_B.weight", HIDDEN, 2, 1},
                                 {"base_model.model.model.unheard_of.weight", 1, 1, 1},
                                 {NULL, 0, 0, 0}};
    fs_options opt = fs_options_defaults();
    fs_detector *d = NULL;
    fs_error error = {0};
    int told = 0;
    char *dir = make_adapter(CONFIG, list), *twin = make_adapter(CONFIG, list);
    write_text(dir, "fakeshield.json", "{\"stage\": \"dte-fdm\"}", 20);
    write_text(twin, "config.json", "{\"model_type\": \"llava_llama\"}", 29); /* LLaVA's trainer leaves the base's */
    const char *adapters[2] = {dir, twin};
    opt.adapters = adapters;
    opt.n_adapters = 1;
    opt.threads = 1;
    opt.callbacks = (fs_callbacks){.user_data = &told, .log = count_warning};
    assert_ok(fs_detector_create(FS_TINY_DIR, &opt, &d, err));
    assert_ok(fs_detector_load(d, 1, err));
    assert_int_equal(told, 1);
    fs_detector_free(d);
    assert_int_equal(create(adapters, 2, &error), FS_E_USAGE);
    assert_message(&error, "are both for stage 1 (DTE-FDM); give one adapter for each stage");
    remove_folder(dir);
    remove_folder(twin);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_config_refusals),
                                       cmocka_unit_test(test_tensor_refusals),
                                       cmocka_unit_test(test_files),
                                       cmocka_unit_test(test_scales),
                                       cmocka_unit_test(test_twice),
                                       cmocka_unit_test(test_fit),
                                       cmocka_unit_test(test_told)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
