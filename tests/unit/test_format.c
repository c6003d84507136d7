/* Weight files against what torch.load and safetensors read from them (tests/golden/format, tools/reference/make_format_goldens.py);
 * files that must be refused; and every file cut at every length and with every byte changed: an error or a result, never a crash
 * (the sanitizers watch). */
#include "unit/format_support.h"

#include <dirent.h>
#include <jansson.h>

static uint8_t from_hex(const char *p) {
    unsigned v = 0;
    assert_int_equal(sscanf(p, "%2x", &v), 1);
    return (uint8_t)v;
}

static void compare_tensor(const char *file, const char *name, const fs_tensor *t, const json_t *expected) {
    const char *hex = json_string_value(json_object_get(expected, "hex")), *dtype = json_string_value(json_object_get(expected, "dtype"));
    const json_t *shape = json_object_get(expected, "shape");
    if (!t) fail_msg("%s: %s is not there", file, name);
    assert_string_equal(fs_dtype_name(t->dtype), dtype);
    assert_int_equal(t->ndim, json_array_size(shape));
    for (int d = 0; d < t->ndim; d++) assert_int_equal(t->shape[d], json_integer_value(json_array_get(shape, (size_t)d)));
    for (int d = t->ndim; d < FS_MAX_DIMS; d++) assert_int_equal(t->shape[d], 1);
    size_t bytes = (size_t)fs_tensor_count(t) * fs_dtype_size(t->dtype);
    assert_int_equal(strlen(hex), 2 * bytes);
    for (size_t i = 0; i < bytes; i++)
        if (((const uint8_t *)t->data)[i] != from_hex(hex + 2 * i)) fail_msg("%s: %s: byte %zu differs", file, name, i);
}

static void compare_archive(const char *file, fs_archive *a, const json_t *tensors) {
    const char *name;
    json_t *expected;
    size_t bytes = 0;
    touch_all(a);
    json_object_foreach((json_t *)(uintptr_t)tensors, name, expected) {
        const fs_tensor *t = fs_archive_find(a, name);
        compare_tensor(file, name, t, expected);
        bytes += (size_t)fs_tensor_count(t) * fs_dtype_size(t->dtype);
    }
    assert_int_equal(fs_archive_count(a), json_object_size(tensors));
    assert_int_equal(fs_archive_bytes(a), bytes);
}

static json_t *expectations(void) {
    json_t *j = json_load_file(GOLDEN("expected.json"), 0, NULL);
    assert_non_null(j);
    return j;
}

static void test_goldens(void **state) {
    (void)state;
    json_t *all = expectations(), *tensors;
    const char *file;
    json_object_foreach(all, file, tensors) {
        fs_archive *a = NULL;
        char *path = fs_path_join(FS_GOLDEN_DIR "/format", file);
        assert_ok(fs_archive_open(path, &a, err));
        assert_string_equal(fs_archive_path(a), path);
        compare_archive(file, a, tensors);
        fs_archive_free(a);
        free(path);
    }
    assert_true(json_object_size(all) >= 20);
    json_decref(all);
}

static void test_kinds(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {GOLDEN("single.safetensors"), "safetensors"}, {GOLDEN("zip_state.bin"), "pytorch-zip"}, {GOLDEN("legacy_state.pth"), "pytorch-legacy"},
        {GOLDEN("sharded_safetensors"), "safetensors"}, {GOLDEN("sharded_bin"), "pytorch-zip"},
        {GOLDEN("sharded_bin/pytorch_model.bin.index.json"), "pytorch-zip"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_archive *a = NULL;
        assert_ok(fs_archive_open(cases[i][0], &a, err));
        assert_string_equal(fs_archive_kind(a), cases[i][1]);
        fs_archive_free(a);
    }
}

/* Mapped weights lie in the file; only strided or misaligned ones are copied. */
static void test_in_place(void **state) {
    (void)state;
    size_t size;
    uint8_t *data = read_whole(GOLDEN("zip_views.bin"), &size), *aligned = aligned_alloc(64, (size + 63) / 64 * 64);
    memcpy(aligned, data, size);
    fs_archive *a = NULL;
    assert_ok(fs_torch_read("views", aligned, size, &a, err));
    const uint8_t *whole = fs_archive_find(a, "whole")->data, *tail = fs_archive_find(a, "tail")->data, *t = fs_archive_find(a, "transposed")->data;
    assert_true(whole >= aligned && whole < aligned + size);
    assert_ptr_equal(tail, whole + 17 * 4);
    assert_ptr_equal(fs_archive_find(a, "tied.a")->data, fs_archive_find(a, "tied.b")->data);
    assert_false(t >= aligned && t < aligned + size);
    fs_archive_free(a);
    free(aligned);
    free(data);
}

static void test_used_marks_and_origin(void **state) {
    (void)state;
    fs_archive *a = NULL;
    assert_ok(fs_archive_open(GOLDEN("sharded_safetensors"), &a, err));
    fs_tensor_source s = fs_archive_source(a);
    assert_non_null(s.find(s.user, "model.layers.3.weight"));
    assert_null(s.find(s.user, "model.layers.4.weight"));
    for (size_t i = 0; i < 4; i++) assert_int_equal(fs_archive_get(a, i).used, i == 3);
    assert_null(fs_archive_get(a, 4).name);
    assert_string_equal(s.origin(s.user, "model.layers.0.weight"), GOLDEN("sharded_safetensors/model-00001-of-00002.safetensors"));
    assert_string_equal(s.origin(s.user, "model.layers.2.weight"), GOLDEN("sharded_safetensors/model-00002-of-00002.safetensors"));
    assert_string_equal(s.origin(s.user, "no.such"), GOLDEN("sharded_safetensors"));
    fs_archive_free(a);
}

static void test_stack(void **state) {
    (void)state;
    fs_archive *one = NULL, *two = NULL;
    assert_ok(fs_archive_open(GOLDEN("zip_state.bin"), &one, err));
    assert_ok(fs_archive_open(GOLDEN("sharded_bin"), &two, err));
    const fs_archive_layer layers[] = {{two, "", ""}, {one, "model.net.", ""}, {two, "tower.", "model."}};
    fs_archive_stack stack = {layers, 3};
    fs_tensor_source s = fs_archive_stack_source(&stack);
    assert_ptr_equal(s.find(s.user, "model.layers.1.weight"), fs_archive_find(two, "model.layers.1.weight"));
    assert_ptr_equal(s.find(s.user, "model.net.0.bias"), fs_archive_find(one, "0.bias"));
    assert_ptr_equal(s.find(s.user, "tower.layers.1.weight"), fs_archive_find(two, "model.layers.1.weight"));
    assert_null(s.find(s.user, "0.bias"));
    assert_string_equal(s.origin(s.user, "model.net.0.bias"), GOLDEN("zip_state.bin"));
    assert_string_equal(s.origin(s.user, "model.net.9.bias"), GOLDEN("sharded_bin"));
    fs_archive_stack none = {NULL, 0};
    s = fs_archive_stack_source(&none);
    assert_null(s.find(s.user, "x"));
    assert_string_equal(s.origin(s.user, "x"), "(no weight file)");
    fs_archive_free(one);
    fs_archive_free(two);
}

/* ---- refusals ---- */

static void test_refusals(void **state) {
    (void)state;
    static const struct { const char *file; fs_status status; const char *part; } cases[] = {
        {"bad_os_system.bin", FS_E_UNSUPPORTED, "refuses to run 'os.system'"},
        {"bad_eval_in_dict.bin", FS_E_UNSUPPORTED, "refuses to run 'builtins.eval'"},
        {"bad_stack_global.bin", FS_E_UNSUPPORTED, "refuses to run 'os.system'"},
        {"bad_newobj.bin", FS_E_UNSUPPORTED, "pickle opcode 0x81"},
        {"bad_inst.bin", FS_E_UNSUPPORTED, "pickle opcode 0x53"},
        {"bad_numpy.bin", FS_E_UNSUPPORTED, "refuses to run 'torch._utils._rebuild_device_tensor_from_numpy'"},
        {"bad_call_dtype.bin", FS_E_UNSUPPORTED, "refuses to run 'torch.float32'"},
        {"bad_quantized.bin", FS_E_UNSUPPORTED, "elements of type 'torch.QInt8Storage' are not supported"},
        {"bad_big_endian.pt", FS_E_UNSUPPORTED, "expected byte order 'little', found 'big'"},
        {"bad_compressed.bin", FS_E_UNSUPPORTED, "entry archive/data.pkl is compressed (method 8)"},
        {"bad_encrypted.bin", FS_E_UNSUPPORTED, "is encrypted"},
        {"bad_torchscript.pt", FS_E_UNSUPPORTED, "is a TorchScript program"},
        {"bad_no_pickle.zip", FS_E_FORMAT, "without data.pkl"},
        {"bad_two_folders.bin", FS_E_FORMAT, "expected one data.pkl, found 2"},
        {"bad_missing_storage.bin", FS_E_FORMAT, "tensor w: expected its bytes in the record data/0, found no such record"},
        {"bad_short_storage.bin", FS_E_FORMAT, "tensor w: expected 24 bytes in its record data/0, found 20"},
        {"bad_reach.bin", FS_E_FORMAT, "tensor w: reaches beyond its storage of 6 elements"},
        {"bad_expand_bomb.bin", FS_E_LIMIT, "more than four times the file's size"},
        {"bad_other_type.bin", FS_E_FORMAT, "tensor w: its storage has another type of elements"},
        {"bad_local_name.bin", FS_E_FORMAT, "a zip entry has another name than the directory says"},
        {"bad_seven_dims.bin", FS_E_UNSUPPORTED, "7 dimensions, expected at most 6"},
        {"bad_tensor_alone.bin", FS_E_FORMAT, "expected a state_dict"},
        {"bad_plain_pickle.pkl", FS_E_FORMAT, "not one that torch.save wrote"},
        {"bad_lfs_pointer.bin", FS_E_FORMAT, "is a Git LFS pointer"},
        {"bad_web_page.bin", FS_E_FORMAT, "is a web page"},
        {"bad_empty.bin", FS_E_FORMAT, "is empty (0 bytes)"},
        {"no_such_file.bin", FS_E_NOT_FOUND, "no_such_file.bin"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_error err = {0};
        fs_archive *a = (fs_archive *)&err;
        char *path = fs_path_join(FS_GOLDEN_DIR "/format", cases[i].file);
        fs_status status = fs_archive_open(path, &a, &err);
        if (status != cases[i].status) fail_msg("%s: status %s: %s", cases[i].file, fs_status_name(status), err.message);
        assert_int_equal(err.status, status);
        assert_null(a);
        assert_message(&err, cases[i].part);
        assert_message(&err, cases[i].file);
        assert_int_equal(fs_archive_open(path, &a, NULL), status); /* an error nobody wants */
        free(path);
    }
}

/* Every bad_ file of the directory is refused, also one that the table above forgets. */
static void test_every_bad_file(void **state) {
    (void)state;
    DIR *d = opendir(FS_GOLDEN_DIR "/format");
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        if (strncmp(e->d_name, "bad_", 4) != 0) continue;
        fs_archive *a = NULL;
        char *path = fs_path_join(FS_GOLDEN_DIR "/format", e->d_name);
        if (fs_archive_open(path, &a, NULL) == FS_OK) fail_msg("%s was accepted", e->d_name);
        free(path);
    }
    closedir(d);
}

static void test_directory_without_weights(void **state) {
    (void)state;
    char dir[64];
    fs_error err = {0};
    fs_archive *a = NULL;
    make_directory(dir);
    assert_int_equal(fs_archive_open(dir, &a, &err), FS_E_NOT_FOUND);
    assert_message(&err, "expected model.safetensors, pytorch_model.bin or one of them with .index.json, found none");
    rmdir(dir);
}

/* ---- damage ---- */

static fs_status read_any(const char *name, const uint8_t *data, size_t size, fs_archive **out, fs_error *err) {
    return strstr(name, ".safetensors") ? fs_safetensors_read(name, data, size, out, err) : fs_torch_read(name, data, size, out, err);
}

static const char *const damaged[] = {"zip_dtypes.bin", "zip_views.bin", "zip_parameters.bin", "zip_wrapped.bin", "zip_protocol4.bin", "zip_torch2.pt",
                                      "zip_zip64.bin", "zip_misaligned.bin", "zip_wild_stride.bin", "legacy_dtypes.pth", "legacy_views.pth", "legacy_wrapped.pth",
                                      "legacy_python2.pth", "single.safetensors", "unpadded.safetensors"};

static void test_cut_short(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        size_t size;
        char *path = fs_path_join(FS_GOLDEN_DIR "/format", damaged[i]);
        uint8_t *data = read_whole(path, &size);
        for (size_t n = 0; n < size; n++) {
            fs_error err = {0};
            fs_archive *a = NULL;
            uint8_t *part = exact_copy(data, n);
            if (read_any(damaged[i], part, n, &a, &err) == FS_OK) fail_msg("%s cut to %zu of %zu bytes was accepted", damaged[i], n, size);
            assert_true(strlen(err.message) > strlen(damaged[i]) && strncmp(err.message, damaged[i], strlen(damaged[i])) == 0);
            assert_null(a);
            free(part);
        }
        free(data);
        free(path);
    }
}

static void test_changed_bytes(void **state) {
    (void)state;
    static const uint8_t masks[] = {0x01, 0x80, 0xFF};
    unsigned sum = 0;
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        size_t size;
        char *path = fs_path_join(FS_GOLDEN_DIR "/format", damaged[i]);
        uint8_t *data = read_whole(path, &size);
        for (size_t n = 0; n < size; n++)
            for (size_t k = 0; k < sizeof masks; k++) {
                fs_archive *a = NULL;
                uint8_t *copy = exact_copy(data, size);
                copy[n] ^= masks[k];
                if (read_any(damaged[i], copy, size, &a, NULL) == FS_OK) sum += touch_all(a);
                fs_archive_free(a);
                free(copy);
            }
        free(data);
        free(path);
    }
    assert_true(sum > 0); /* many changes hit data only and are no error */
}

/* A file at an odd address, as when it is part of a larger buffer. */
static void test_odd_address(void **state) {
    (void)state;
    json_t *all = expectations();
    for (size_t i = 0; i < sizeof damaged / sizeof damaged[0]; i++) {
        size_t size;
        char *path = fs_path_join(FS_GOLDEN_DIR "/format", damaged[i]);
        uint8_t *data = read_whole(path, &size), *moved = malloc(size + 1);
        fs_archive *a = NULL;
        memcpy(moved + 1, data, size);
        assert_ok(read_any(damaged[i], moved + 1, size, &a, err));
        compare_archive(damaged[i], a, json_object_get(all, damaged[i]));
        fs_archive_free(a);
        free(moved);
        free(data);
        free(path);
    }
    json_decref(all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_goldens),       cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_in_place),      cmocka_unit_test(test_used_marks_and_origin),
        cmocka_unit_test(test_stack),         cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_every_bad_file), cmocka_unit_test(test_directory_without_weights),
        cmocka_unit_test(test_cut_short),     cmocka_unit_test(test_changed_bytes),
        cmocka_unit_test(test_odd_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
