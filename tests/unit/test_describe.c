/* The report on the tiny checkpoint, on its parts and files, and on checkpoints that lack something. Counts are checked against the
 * dimensions in models/tiny/README.md. */
#include "unit/format_support.h"

#include <jansson.h>

static json_t *report(const char *path, bool tensors) {
    char *text = NULL;
    assert_ok(fs_describe(path, true, tensors, &text, err));
    assert_null(strchr(text, '\n')); /* one line: reports can stand in JSONL */
    json_t *j = json_loads(text, 0, NULL);
    assert_non_null(j);
    fs_string_free(text);
    return j;
}

static const char *string_of(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }
static json_int_t number_of(const json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }

static json_t *named(const json_t *list, const char *key, const char *value) {
    size_t i;
    json_t *e;
    json_array_foreach(list, i, e)
        if (strcmp(string_of(e, key), value) == 0) return e;
    fail_msg("no entry with %s %s", key, value);
    return NULL;
}

static void test_checkpoint(void **state) {
    (void)state;
    json_t *j = report(FS_TINY_DIR, false), *parts = json_object_get(j, "parts");
    assert_string_equal(string_of(j, "kind"), "checkpoint");
    assert_true(json_is_true(json_object_get(j, "complete")));
    assert_int_equal(json_array_size(json_object_get(j, "problems")), 0);
    assert_int_equal(json_array_size(parts), 4); /* SAM is inside MFLM, so it is no part of its own */
    const json_t *dte = named(parts, "name", "DTE-FDM"), *config = json_object_get(dte, "config");
    assert_string_equal(string_of(dte, "format"), "safetensors");
    assert_int_equal(json_array_size(json_object_get(dte, "files")), 2);
    assert_string_equal(string_of(json_array_get(json_object_get(dte, "files"), 0), "name"), "model-00001-of-00002.safetensors");
    assert_int_equal(number_of(config, "hidden_size"), 64);
    assert_int_equal(number_of(config, "layers"), 3);
    assert_int_equal(number_of(config, "vocab_size"), 640);
    assert_string_equal(string_of(config, "torch_dtype"), "float16");
    /* 3 layers of 4 square matrices, 3 of the MLP and 2 norms; embeddings, head, last norm */
    const json_t *lm = named(json_object_get(dte, "components"), "name", "language model");
    assert_int_equal(number_of(lm, "parameters"), 3 * (4 * 64 * 64 + 3 * 64 * 176 + 2 * 64) + 2 * 640 * 64 + 64);
    assert_int_equal(number_of(lm, "bytes"), 2 * number_of(lm, "parameters"));
    const json_t *projector = named(json_object_get(dte, "components"), "name", "projector");
    assert_int_equal(number_of(projector, "parameters"), 2 * (64 * 64 + 64));
    assert_int_equal(number_of(projector, "tensors"), 4);
    const json_t *mflm = named(parts, "name", "MFLM");
    assert_string_equal(string_of(mflm, "format"), "pytorch-zip");
    assert_string_equal(string_of(named(json_object_get(mflm, "dtypes"), "dtype", "BF16"), "dtype"), "BF16");
    named(json_object_get(mflm, "components"), "name", "SAM image encoder");
    named(json_object_get(mflm, "components"), "name", "SAM mask decoder");
    named(json_object_get(mflm, "components"), "name", "[SEG] projection");
    named(json_object_get(mflm, "components"), "name", "region encoder");
    const json_t *clip = named(parts, "name", "CLIP");
    assert_int_equal(number_of(json_object_get(clip, "config"), "image_size"), 112);
    const json_t *stage = named(json_object_get(j, "memory"), "stage", "stage 1");
    assert_int_equal(number_of(stage, "text_bytes"), 2 * 3 * 64 * 4 * 2048); /* keys and values, F32 */
    assert_int_equal(number_of(stage, "total"), number_of(stage, "weights") + number_of(stage, "text_bytes"));
    assert_int_equal(number_of(stage, "weights"), number_of(stage, "mapped") + number_of(stage, "packed"));
    assert_int_equal(number_of(stage, "packed"), 0); /* F16 stays mapped */
    assert_int_equal(number_of(stage, "activations"), (6 * 64 + 3 * 176) * 4 * 1024);
    assert_int_equal(number_of(stage, "peak"), number_of(stage, "total") + number_of(stage, "activations"));
    const json_t *machine = json_object_get(j, "machine");
    assert_true(machine && number_of(machine, "available") > 0 && json_is_true(json_object_get(machine, "fits")));
    assert_string_equal(string_of(json_object_get(j, "licence"), "file"), "README.md");
    assert_string_equal(string_of(json_object_get(j, "licence"), "name"), "Apache-2.0, like the rest of this project");
    json_decref(j);
}

/* Of a bundle in 8 bits the matrices are packed, the table of embeddings and all else stays mapped, and keys and values take half. */
static void test_bundle_plan(void **state) {
    (void)state;
    char dir[] = "/tmp/fs-describe-XXXXXX";
    static const char *const files[] = {"dte-fdm.gguf", "mflm.gguf", "vision.gguf"};
    const fs_options opt = fs_options_defaults();
    assert_non_null(mkdtemp(dir));
    assert_ok(fs_convert(FS_TINY_DIR, dir, "q8_0", &opt, err));
    json_t *j = report(dir, false);
    const json_t *one = named(json_object_get(j, "memory"), "stage", "stage 1"), *two = named(json_object_get(j, "memory"), "stage", "stage 2");
    assert_int_equal(number_of(one, "text_bytes"), 2 * 3 * 64 * 2 * 2048);
    /* stage 1's matrices but the embeddings, 34 bytes for 32 values, and at least as much again of the vision file's */
    assert_true(number_of(one, "packed") >= (3 * (4 * 64 * 64 + 3 * 64 * 176) + 640 * 64) * 34 / 32);
    assert_true(number_of(one, "mapped") > 640 * 64 && number_of(two, "activations") > 0);
    assert_int_equal(number_of(two, "peak"), number_of(two, "mapped") + number_of(two, "packed") + number_of(two, "text_bytes") + number_of(two, "activations"));
    json_decref(j);
    for (int i = 0; i < 3; i++) {
        char *path = fs_path_join(dir, files[i]);
        unlink(path);
        free(path);
    }
    rmdir(dir);
}

/* Every parameter is in exactly one component, one dtype and the total. */
static void test_sums(void **state) {
    (void)state;
    static const char *const lists[] = {"components", "dtypes"}, *const keys[] = {"tensors", "parameters", "bytes"};
    json_t *j = report(FS_TINY_DIR, true), *part, *e;
    size_t i, k;
    json_array_foreach(json_object_get(j, "parts"), i, part) {
        for (size_t l = 0; l < 2; l++)
            for (size_t n = 0; n < 3; n++) {
                json_int_t sum = 0;
                json_array_foreach(json_object_get(part, lists[l]), k, e) sum += number_of(e, keys[n]);
                assert_int_equal(sum, number_of(part, keys[n]));
                assert_true(sum > 0);
            }
        assert_int_equal(json_array_size(json_object_get(part, "tensor_list")), number_of(part, "tensors"));
    }
    json_decref(j);
}

static void test_part_and_file(void **state) {
    (void)state;
    json_t *j = report(FS_TINY_DIR "/MFLM", false), *part = json_array_get(json_object_get(j, "parts"), 0);
    assert_string_equal(string_of(j, "kind"), "part");
    assert_string_equal(string_of(part, "role"), "localization (stage 2)");
    json_decref(j);
    j = report(FS_TINY_DIR "/DTG.pth", true);
    part = json_array_get(json_object_get(j, "parts"), 0);
    assert_string_equal(string_of(j, "kind"), "file");
    assert_int_equal(number_of(named(json_object_get(part, "components"), "name", "buffers (unused)"), "tensors"), 53); /* num_batches_tracked */
    const json_t *fc = named(json_object_get(part, "tensor_list"), "name", "fc.weight");
    assert_string_equal(string_of(fc, "dtype"), "F32");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(fc, "shape"), 0)), 3);
    json_decref(j);
}

static void test_text(void **state) {
    (void)state;
    char *text = NULL;
    assert_ok(fs_describe(FS_TINY_DIR, false, false, &text, err));
    static const char *const parts[] = {": FakeShield checkpoint\n", "\nDTG ", "\nDTE-FDM ", "\nMFLM ", "\nCLIP ", "DTE-FDM: detection and explanation (stage 1)",
                                        "config: layers 3, hidden_size 64, heads 4", "language model", "file model-00001-of-00002.safetensors (262 kB)",
                                        "memory plan", "  stage 2 ", "licence: "};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (!strstr(text, parts[i])) fail_msg("\"%s\" is not in:\n%s", parts[i], text);
    assert_null(strstr(text, "problems"));
    assert_null(strstr(text, "lm_head.weight"));
    fs_string_free(text);
    assert_ok(fs_describe(FS_TINY_DIR "/DTE-FDM", false, true, &text, err));
    assert_non_null(strstr(text, "F16  [640,64]             lm_head.weight\n"));
    fs_string_free(text);
}

/* A checkpoint with DTG.pth alone: what is missing is named, with where to get it. */
static void test_missing_parts(void **state) {
    (void)state;
    char dir[64], *text = NULL;
    size_t size;
    make_directory(dir);
    uint8_t *dtg = read_whole(GOLDEN("zip_state.bin"), &size);
    write_text(dir, "DTG.pth", dtg, size);
    json_t *j = report(dir, false);
    assert_true(json_is_false(json_object_get(j, "complete")));
    const json_t *mflm = named(json_object_get(j, "parts"), "name", "MFLM");
    assert_true(json_is_false(json_object_get(mflm, "found")));
    assert_string_equal(string_of(mflm, "get"), "huggingface.co/zhipeixu/fakeshield-v1-22b");
    named(json_object_get(j, "parts"), "name", "DTE-FDM");
    const json_t *clip = named(json_object_get(j, "parts"), "name", "CLIP");
    if (json_is_false(json_object_get(clip, "found"))) /* a cache of the hub on this machine may have it */
        assert_string_equal(string_of(clip, "get"), "huggingface.co/openai/clip-vit-large-patch14-336");
    assert_true(json_is_null(json_object_get(j, "licence")));
    json_decref(j);
    assert_ok(fs_describe(dir, false, false, &text, err));
    assert_non_null(strstr(text, "FakeShield checkpoint, with problems"));
    assert_non_null(strstr(text, "MFLM is missing: get it from huggingface.co/zhipeixu/fakeshield-v1-22b"));
    fs_string_free(text);
    /* a broken part is a problem in the report of a checkpoint, and an error for the part itself */
    write_text(dir, "DTG.pth", dtg, size - 1);
    write_text(dir, "LICENSE", "  \nMIT License\n\nCopyright", 25);
    j = report(dir, false);
    const char *first = json_string_value(json_array_get(json_object_get(j, "problems"), 0));
    assert_non_null(strstr(first, "DTG.pth: the zip directory that should stand at its end is missing"));
    assert_string_equal(string_of(json_object_get(j, "licence"), "name"), "MIT");
    json_decref(j);
    char *path = fs_path_join(dir, "DTG.pth");
    fs_error e = {0};
    assert_int_equal(fs_describe(path, false, false, &text, &e), FS_E_FORMAT);
    assert_null(text);
    free(path);
    free(dtg);
    remove_file(dir, "DTG.pth");
    remove_file(dir, "LICENSE");
    assert_int_equal(rmdir(dir), 0);
}

static void test_nothing_there(void **state) {
    (void)state;
    char dir[64], *text = NULL;
    fs_error e = {0};
    make_directory(dir);
    assert_int_equal(fs_describe(dir, true, false, &text, &e), FS_E_NOT_FOUND);
    assert_message(&e, "expected model.safetensors");
    char *path = fs_path_join(dir, "none");
    assert_int_equal(fs_describe(path, true, false, &text, &e), FS_E_NOT_FOUND);
    assert_message(&e, "get a checkpoint from huggingface.co/zhipeixu/fakeshield-v1-22b");
    assert_int_equal(fs_describe(path, true, false, &text, NULL), FS_E_NOT_FOUND);
    free(path);
    rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checkpoint), cmocka_unit_test(test_bundle_plan), cmocka_unit_test(test_sums),          cmocka_unit_test(test_part_and_file),
        cmocka_unit_test(test_text),       cmocka_unit_test(test_missing_parts), cmocka_unit_test(test_nothing_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
