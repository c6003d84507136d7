/* Sharded checkpoints that are not whole: missing, cut, mixed-up and misnamed shards, each with its line; and the order in which a
 * directory is searched. */
#include "unit/format_support.h"

typedef struct shard_tensor { const char *name; float first; } shard_tensor;

static void write_shard(const char *dir, const char *file, const shard_tensor *list, size_t n) {
    float values[8][2];
    fs_tensor t[8];
    const fs_tensor *tensors[8];
    const char *names[8];
    char *path = fs_path_join(dir, file);
    for (size_t i = 0; i < n; i++) {
        values[i][0] = list[i].first;
        values[i][1] = -list[i].first;
        t[i] = (fs_tensor){.dtype = FS_DTYPE_F32, .ndim = 1, .shape = {2, 1, 1, 1, 1, 1}, .data = values[i]};
        tensors[i] = &t[i];
        names[i] = list[i].name;
    }
    assert_ok(fs_safetensors_write(path, tensors, names, n, NULL, err));
    free(path);
}

static const char index_text[] = "{\"metadata\":{\"total_size\":32},\"weight_map\":{\"a\":\"s1.safetensors\",\"b\":\"s1.safetensors\",\"c\":\"s2.safetensors\"}}";
#define INDEX "model.safetensors.index.json"

/* A good directory: a, b in s1; c in s2. */
static void make_checkpoint(char dir[64]) {
    make_directory(dir);
    write_shard(dir, "s1.safetensors", (const shard_tensor[]){{"a", 1}, {"b", 2}}, 2);
    write_shard(dir, "s2.safetensors", (const shard_tensor[]){{"c", 3}}, 1);
    write_text(dir, INDEX, index_text, sizeof index_text - 1);
}

static void clean(const char *dir) {
    static const char *const names[] = {"s1.safetensors", "s2.safetensors", "s3.safetensors", INDEX, "model.safetensors", "pytorch_model.bin"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) remove_file(dir, names[i]);
    assert_int_equal(rmdir(dir), 0);
}

static void refuse(const char *dir, fs_status status, const char *part, const char *file) {
    fs_error err = {0};
    fs_archive *a = NULL;
    assert_int_equal(fs_archive_open(dir, &a, &err), status);
    assert_null(a);
    assert_message(&err, part);
    assert_message(&err, file);
}

static void test_good(void **state) {
    (void)state;
    char dir[64];
    fs_archive *a = NULL;
    make_checkpoint(dir);
    assert_ok(fs_archive_open(dir, &a, err));
    assert_int_equal(fs_archive_count(a), 3);
    assert_true(fs_f32(fs_archive_find(a, "b"))[0] == 2 && fs_f32(fs_archive_find(a, "c"))[1] == -3);
    assert_int_equal(fs_archive_bytes(a), 24);
    fs_archive_free(a);
    clean(dir);
}

static void test_missing_shard(void **state) {
    (void)state;
    char dir[64];
    make_checkpoint(dir);
    remove_file(dir, "s2.safetensors");
    refuse(dir, FS_E_NOT_FOUND, "s2.safetensors: is missing: expected it because " INDEX " names it; download it into the same directory", dir);
    clean(dir);
}

static void test_cut_shard(void **state) {
    (void)state;
    char dir[64];
    size_t size;
    make_checkpoint(dir);
    char *path = fs_path_join(dir, "s2.safetensors");
    uint8_t *data = read_whole(path, &size);
    write_text(dir, "s2.safetensors", data, size - 3);
    refuse(dir, FS_E_FORMAT, "s2.safetensors: the file is 3 bytes short", "download it again");
    write_text(dir, "s2.safetensors", data, 0);
    refuse(dir, FS_E_FORMAT, "s2.safetensors: is empty (0 bytes)", "download it again");
    free(data);
    free(path);
    clean(dir);
}

static void test_tensor_not_in_its_shard(void **state) {
    (void)state;
    char dir[64];
    make_checkpoint(dir);
    write_shard(dir, "s1.safetensors", (const shard_tensor[]){{"a", 1}}, 1);
    refuse(dir, FS_E_NOT_FOUND, "tensor b: expected it here as " INDEX " says, found no tensor of that name", "s1.safetensors");
    write_shard(dir, "s2.safetensors", (const shard_tensor[]){{"b", 1}, {"c", 2}}, 2);
    refuse(dir, FS_E_MISMATCH, "tensor b: expected it here as " INDEX " says, found it in", "s2.safetensors; the files are mixed up");
    clean(dir);
}

static void test_unlisted_and_repeated(void **state) {
    (void)state;
    char dir[64];
    make_checkpoint(dir);
    write_shard(dir, "s2.safetensors", (const shard_tensor[]){{"c", 3}, {"d", 4}}, 2);
    refuse(dir, FS_E_MISMATCH, "tensor d: is not listed in " INDEX, "s2.safetensors");
    write_shard(dir, "s2.safetensors", (const shard_tensor[]){{"c", 3}, {"a", 4}}, 2);
    refuse(dir, FS_E_FORMAT, "s2.safetensors: tensor a is there twice (also in", "s1.safetensors)");
    clean(dir);
}

static void test_names_that_lead_away(void **state) {
    (void)state;
    static const char *const names[] = {"../s2.safetensors", "/etc/passwd", "sub/s2.safetensors", "..", ".", "", "a\\\\b"};
    char dir[64], text[200];
    make_checkpoint(dir);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int n = snprintf(text, sizeof text, "{\"weight_map\":{\"a\":\"s1.safetensors\",\"c\":\"%s\"}}", names[i]);
        write_text(dir, INDEX, text, (size_t)n);
        refuse(dir, FS_E_FORMAT, "tensor c: expected the name of a file beside the index, found '", "do not trust this checkpoint");
    }
    clean(dir);
}

static void test_broken_index(void **state) {
    (void)state;
    static const struct { const char *text; fs_status status; const char *part; } cases[] = {
        {"{\"metadata\":{}}", FS_E_FORMAT, "expected an index with a weight_map, found none"},
        {"{\"weight_map\":[]}", FS_E_MISMATCH, "field weight_map: expected an object, found a list"},
        {"{\"weight_map\":{\"a\":7}}", FS_E_FORMAT, "tensor a: expected a file name"},
        {"{\"weight_map\":{}}", FS_E_FORMAT, "holds no tensors"},
        {"{\"weight_map\":{\"a\":\"s1.safetensors\",\"a\":\"s2.safetensors\"}}", FS_E_FORMAT, "duplicate"},
        {"{\"weight_map\":", FS_E_FORMAT, "no valid JSON"},
    };
    char dir[64];
    make_checkpoint(dir);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_text(dir, INDEX, cases[i].text, strlen(cases[i].text));
        refuse(dir, cases[i].status, cases[i].part, dir);
    }
    clean(dir);
}

static void test_search_order(void **state) {
    (void)state;
    char dir[64];
    size_t size;
    fs_archive *a = NULL;
    make_checkpoint(dir);
    uint8_t *bin = read_whole(GOLDEN("zip_state.bin"), &size);
    write_text(dir, "pytorch_model.bin", bin, size);
    assert_ok(fs_archive_open(dir, &a, err)); /* the index of safetensors goes before pytorch_model.bin */
    assert_int_equal(fs_archive_count(a), 3);
    fs_archive_free(a);
    write_shard(dir, "model.safetensors", (const shard_tensor[]){{"alone", 5}}, 1);
    assert_ok(fs_archive_open(dir, &a, err));
    assert_non_null(fs_archive_find(a, "alone"));
    fs_archive_free(a);
    remove_file(dir, "model.safetensors");
    remove_file(dir, INDEX);
    assert_ok(fs_archive_open(dir, &a, err));
    assert_string_equal(fs_archive_kind(a), "pytorch-zip");
    fs_archive_free(a);
    free(bin);
    clean(dir);
}

/* "module." of all tensors is dropped, also when it is in the index; when one has it not, all names stay. */
static void test_module_prefix(void **state) {
    (void)state;
    static const char text[] = "{\"weight_map\":{\"module.a\":\"s1.safetensors\",\"module.c\":\"s2.safetensors\"}}";
    char dir[64];
    fs_archive *a = NULL;
    make_checkpoint(dir);
    write_shard(dir, "s1.safetensors", (const shard_tensor[]){{"module.a", 1}}, 1);
    write_shard(dir, "s2.safetensors", (const shard_tensor[]){{"module.c", 3}}, 1);
    write_text(dir, INDEX, text, sizeof text - 1);
    assert_ok(fs_archive_open(dir, &a, err));
    assert_non_null(fs_archive_find(a, "a"));
    assert_null(fs_archive_find(a, "module.a"));
    fs_archive_free(a);
    char *path = fs_path_join(dir, "s1.safetensors");
    write_shard(dir, "s1.safetensors", (const shard_tensor[]){{"module.a", 1}, {"b", 2}}, 2);
    assert_ok(fs_archive_open(path, &a, err));
    assert_non_null(fs_archive_find(a, "module.a"));
    fs_archive_free(a);
    free(path);
    clean(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_missing_shard),
        cmocka_unit_test(test_cut_shard),
        cmocka_unit_test(test_tensor_not_in_its_shard),
        cmocka_unit_test(test_unlisted_and_repeated),
        cmocka_unit_test(test_names_that_lead_away),
        cmocka_unit_test(test_broken_index),
        cmocka_unit_test(test_search_order),
        cmocka_unit_test(test_module_prefix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
