/* New adapters and the directory that training leaves: the start is peft's (A within +-1/sqrt(in), B zero, a function of the seed), the
 * files say what was given, a folder is replaced as a whole or left alone. That peft and torch.load take them:
 * tools/reference/check_adapter.py. */
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/archive.h"
#include "train/artefacts.h"
#include "train/lora.h"
#include "unit/format_support.h"

static const fs_llama_config config = {.hidden = 64, .intermediate = 176, .layers = 3, .heads = 4, .kv_heads = 2, .vocab = 640};

static char *make_folder(void) {
    char *dir = strdup("/tmp/fs-adapter-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return dir;
}

static bool there(const char *dir, const char *name) {
    char *path = fs_path_join(dir, name);
    const bool is = fs_path_exists(path);
    free(path);
    return is;
}

static void remove_all(char *dir) {
    char *command = fs_format("rm -rf '%s'", dir);
    assert_int_equal(system(command), 0);
    free(command);
    free(dir);
}

static void test_start(void **state) {
    (void)state;
    fs_params p = {0}, again = {0}, other = {0}, few = {0};
    fs_error err = {0};
    assert_int_equal(fs_lora_add_params(&p, &config, FS_LORA_ALL_PLACES, 8, 5, 1, &err), FS_OK);
    assert_int_equal(fs_lora_add_params(&again, &config, FS_LORA_ALL_PLACES, 8, 5, 1, &err), FS_OK);
    assert_int_equal(fs_lora_add_params(&other, &config, FS_LORA_ALL_PLACES, 8, 6, 1, &err), FS_OK);
    assert_int_equal(fs_lora_add_params(&few, &config, FS_LORA_QV, 8, 5, 2, &err), FS_OK);
    assert_int_equal(p.count, 3 * 7 * 2);
    assert_int_equal(few.count, 3 * 2 * 2);
    assert_string_equal(p.list[0]->name, "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight");
    assert_string_equal(p.list[1]->name, "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight");
    assert_string_equal(p.list[41]->name, "base_model.model.model.layers.2.mlp.down_proj.lora_B.weight");
    assert_int_equal(p.list[3]->tensor.shape[0], 32); /* k's B: two of four heads */
    assert_int_equal(p.list[40]->tensor.shape[1], 176);
    assert_int_equal(few.list[0]->group, 2);
    for (size_t i = 0; i < p.count; i++) {
        const fs_param *q = p.list[i];
        double sum = 0, square = 0;
        const double bound = 1 / sqrt((double)q->tensor.shape[1]);
        for (int64_t k = 0; k < q->count; k++) {
            sum += (double)q->data[k];
            square += (double)q->data[k] * (double)q->data[k];
            assert_true(fabs((double)q->data[k]) <= bound);
        }
        if (i % 2) {
            assert_true(square == 0);
            continue;
        }
        /* uniform: variance bound^2 / 3; of 512 values its estimate has a relative deviation of sqrt(0.8 / 512) = 0.04, the mean one of
         * bound / sqrt(3 * 512) */
        assert_true(fabs(square / (double)q->count * 3 / (bound * bound) - 1) < 0.2);
        assert_true(fabs(sum / (double)q->count) < 5 * bound / sqrt(3 * (double)q->count));
        assert_memory_equal(q->data, again.list[i]->data, (size_t)q->count * sizeof(float));
        assert_memory_not_equal(q->data, other.list[i]->data, (size_t)q->count * sizeof(float));
        if (i) assert_memory_not_equal(q->data, p.list[0]->data, 512 * sizeof(float));
    }
    /* the values do not depend on what else is adapted */
    assert_memory_equal(few.list[2]->data, fs_params_find(&p, few.list[2]->name)->data, 512 * sizeof(float));
    assert_int_equal(fs_lora_add_params(&few, &config, FS_LORA_QV, 0, 5, 2, &err), FS_E_USAGE);
    assert_int_equal(fs_lora_add_params(&few, &config, 0, 8, 5, 2, &err), FS_E_USAGE);
    fs_params_free(&p);
    fs_params_free(&again);
    fs_params_free(&other);
    fs_params_free(&few);
}

static void make_params(fs_params *p) {
    fs_param *q;
    assert_int_equal(fs_lora_add_params(p, &config, FS_LORA_QV, 4, 1, 0, NULL), FS_OK);
    for (size_t i = 1; i < p->count; i += 2)
        for (int64_t k = 0; k < p->list[i]->count; k++) p->list[i]->data[k] = (float)(k % 13 - 6) / 16;
    assert_int_equal(fs_params_add(p, "model.mm_projector.0.weight", 2, (const int64_t[]){5, 3}, NULL, 1, &q, NULL), FS_OK);
    for (int k = 0; k < 15; k++) q->data[k] = (float)k + 0.1F;
    assert_int_equal(fs_params_add(p, "model.mm_projector.0.bias", 1, (const int64_t[]){7}, NULL, 1, &q, NULL), FS_OK);
    for (int k = 0; k < 7; k++) q->data[k] = -(float)k;
}

/* The archive holds exactly these tensors of p, to the given type's rounding. */
static void compare(const char *dir, const char *file, const fs_params *p, bool lora, fs_dtype dtype) {
    char *path = fs_path_join(dir, file);
    fs_archive *a = NULL;
    fs_error err = {0};
    size_t found = 0;
    if (fs_archive_open(path, &a, &err)) fail_msg("%s", err.message);
    for (size_t i = 0; i < p->count; i++) {
        const fs_param *q = p->list[i];
        if ((strstr(q->name, "lora_") != NULL) != lora) continue;
        char *name = lora ? fs_strdup(q->name) : fs_format("base_model.model.%s", q->name);
        const fs_tensor *t = fs_archive_find(a, name);
        assert_non_null(t);
        assert_int_equal(t->dtype, dtype);
        assert_int_equal(t->ndim, q->tensor.ndim);
        for (int d = 0; d < t->ndim; d++) assert_int_equal(t->shape[d], q->tensor.shape[d]);
        for (int64_t k = 0; k < q->count; k++) {
            const float v = dtype == FS_DTYPE_F32 ? ((float *)t->data)[k] : fs_bf16_to_f32(((uint16_t *)t->data)[k]);
            const float expected = dtype == FS_DTYPE_F32 ? q->data[k] : fs_bf16_to_f32(fs_f32_to_bf16(q->data[k]));
            assert_true(v == expected);
        }
        found++;
        free(name);
    }
    assert_int_equal(fs_archive_count(a), found);
    fs_archive_free(a);
    free(path);
}

static json_t *read_json(const char *dir, const char *file) {
    char *path = fs_path_join(dir, file);
    json_t *j = json_load_file(path, 0, NULL);
    assert_non_null(j);
    free(path);
    return j;
}

static void test_directory(void **state) {
    (void)state;
    char *root = make_folder(), *dir = fs_path_join(root, "out/adapter"); /* neither is there */
    fs_params p = {0};
    fs_error err = {0};
    fs_adapter_info info = fs_adapter_info_defaults();
    make_params(&p);
    info.stage = 2;
    info.base = FS_TINY_DIR "/MFLM";
    info.fingerprint = "f00d";
    info.training_json = "{\"steps\": 3}";
    if (fs_adapter_write(dir, &p, &info, &err)) fail_msg("%s", err.message);
    compare(dir, "adapter_model.safetensors", &p, true, FS_DTYPE_F32);
    compare(dir, "non_lora_trainables.safetensors", &p, false, FS_DTYPE_F32);
    compare(dir, "non_lora_trainables.bin", &p, false, FS_DTYPE_F32);
    json_t *j = read_json(dir, "adapter_config.json");
    assert_int_equal(json_object_size(j), 16); /* as many as peft 0.5 writes */
    assert_int_equal(json_integer_value(json_object_get(j, "r")), 4);
    assert_true(json_is_integer(json_object_get(j, "lora_alpha")));
    assert_int_equal(json_integer_value(json_object_get(j, "lora_alpha")), 16);
    assert_true(json_real_value(json_object_get(j, "lora_dropout")) == 0.05);
    assert_int_equal(json_array_size(json_object_get(j, "target_modules")), 6);
    assert_string_equal(json_string_value(json_array_get(json_object_get(j, "target_modules"), 1)), "model.layers.0.self_attn.v_proj");
    json_decref(j);
    j = read_json(dir, "fakeshield.json");
    assert_string_equal(json_string_value(json_object_get(j, "stage")), "mflm");
    assert_string_equal(json_string_value(json_object_get(json_object_get(j, "base"), "fingerprint")), "f00d");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(j, "training"), "steps")), 3);
    json_decref(j);
    j = read_json(dir, "config.json");
    assert_int_equal(json_integer_value(json_object_get(j, "mm_hidden_size")), 64);
    json_decref(j);

    /* once more into the same folder: other type, no other tensors; nothing of the old one stays */
    info.stage = 1;
    info.dtype = FS_DTYPE_BF16;
    info.base = NULL;
    info.alpha = 2.5;
    fs_params few = {0};
    assert_int_equal(fs_lora_add_params(&few, &config, FS_LORA_QV, 4, 9, 0, NULL), FS_OK);
    if (fs_adapter_write(dir, &few, &info, &err)) fail_msg("%s", err.message);
    compare(dir, "adapter_model.safetensors", &few, true, FS_DTYPE_BF16);
    assert_false(there(dir, "non_lora_trainables.bin"));
    assert_false(there(dir, "config.json"));
    j = read_json(dir, "adapter_config.json");
    assert_int_equal(json_array_size(json_object_get(j, "target_modules")), 2);
    assert_string_equal(json_string_value(json_array_get(json_object_get(j, "target_modules"), 0)), "q_proj");
    assert_true(json_real_value(json_object_get(j, "lora_alpha")) == 2.5);
    json_decref(j);
    char *out = fs_path_join(root, "out"), *part = fs_path_join(out, ".adapter.part");
    assert_false(fs_path_exists(part)); /* nothing left beside it */

    /* what a killed run left is no hindrance */
    assert_int_equal(mkdir(part, 0777), 0);
    write_text(part, "adapter_model.safetensors.tmp-1", "half", 4);
    if (fs_adapter_write(dir, &few, &info, &err)) fail_msg("%s", err.message);
    assert_false(fs_path_exists(part));

    fs_params_free(&few);
    fs_params_free(&p);
    free(part);
    free(out);
    free(dir);
    remove_all(root);
}

/* The folder holds one version whole: every value of every tensor is the same number. */
static void check_version(const char *dir) {
    static const char *const names[] = {"adapter_model.safetensors", "non_lora_trainables.safetensors", "non_lora_trainables.bin"};
    double version = 0;
    for (int f = 0; f < 3; f++) {
        char *path = fs_path_join(dir, names[f]);
        fs_archive *a = NULL;
        assert_ok(fs_archive_open(path, &a, err));
        for (size_t i = 0; i < fs_archive_count(a); i++) {
            const fs_tensor *t = fs_archive_get(a, i).tensor;
            for (int64_t k = 0; k < fs_tensor_count(t); k++) {
                if (version == 0) version = (double)fs_f32(t)[k];
                assert_true((double)fs_f32(t)[k] == version);
            }
        }
        fs_archive_free(a);
        free(path);
    }
    json_decref(read_json(dir, "adapter_config.json"));
    json_decref(read_json(dir, "fakeshield.json"));
}

/* Killed at any moment, the last good adapter is there, or the new one. */
static void test_kills(void **state) {
    (void)state;
    char *root = make_folder(), *dir = fs_path_join(root, "adapter");
    fs_params p = {0};
    fs_adapter_info info = fs_adapter_info_defaults();
    fs_rng r = fs_rng_seed(11);
    int killed = 0;
    if (getenv("FS_TEST_EMULATED")) skip();
    make_params(&p);
    for (int version = 1; version <= 30; version++) {
        for (size_t i = 0; i < p.count; i++)
            for (int64_t k = 0; k < p.list[i]->count; k++) p.list[i]->data[k] = (float)version;
        if (version == 1) {
            assert_ok(fs_adapter_write(dir, &p, &info, err));
            continue;
        }
        const pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            for (;;) /* until killed */
                if (fs_adapter_write(dir, &p, &info, NULL)) _exit(1);
        }
        usleep((useconds_t)(fs_rng_uniform(&r) * 20000));
        kill(child, SIGKILL);
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        killed += WIFSIGNALED(how);
        check_version(dir);
    }
    assert_int_equal(killed, 29);
    assert_ok(fs_adapter_write(dir, &p, &info, err)); /* and what was left beside it goes */
    assert_false(there(root, ".adapter.part"));
    fs_params_free(&p);
    free(dir);
    remove_all(root);
}

static void test_refusals(void **state) {
    (void)state;
    char *root = make_folder(), *dir = fs_path_join(root, "adapter");
    fs_params p = {0}, none = {0};
    fs_error err = {0};
    fs_adapter_info info = fs_adapter_info_defaults();
    make_params(&p);
    assert_int_equal(mkdir(dir, 0777), 0);
    write_text(dir, "thesis.txt", "x", 1);
    assert_int_equal(fs_adapter_write(dir, &p, &info, &err), FS_E_USAGE); /* somebody's folder */
    assert_message(&err, "holds thesis.txt, which would be lost");
    assert_true(there(dir, "thesis.txt"));
    assert_false(there(dir, "adapter_config.json"));
    assert_false(there(root, ".adapter.part"));
    free(dir);
    dir = fs_path_join(root, "new");
    assert_int_equal(fs_adapter_write(dir, &none, &info, &err), FS_E_USAGE);
    assert_message(&err, "no adapter is among the trained tensors");
    info.base = "/nonexistent";
    assert_int_equal(fs_adapter_write(dir, &p, &info, &err), FS_E_NOT_FOUND);
    assert_false(fs_path_exists(dir));
    assert_false(there(root, ".new.part"));
    info.base = NULL;
    p.list[1]->data[3] = NAN;
    assert_int_equal(fs_adapter_write(dir, &p, &info, &err), FS_E_NUMERIC);
    assert_message(&err, "layers.0.self_attn.q_proj.lora_B.weight: value 3 is no finite number");
    p.list[1]->data[3] = 1e6F;
    info.dtype = FS_DTYPE_F16;
    assert_int_equal(fs_adapter_write(dir, &p, &info, &err), FS_E_NUMERIC);
    assert_message(&err, "too large for F16");
    info.dtype = FS_DTYPE_Q8_0;
    assert_int_equal(fs_adapter_write(dir, &p, &info, &err), FS_E_USAGE);
    assert_false(fs_path_exists(dir));
    fs_params_free(&p);
    free(dir);
    remove_all(root);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_start), cmocka_unit_test(test_directory), cmocka_unit_test(test_kills), cmocka_unit_test(test_refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
