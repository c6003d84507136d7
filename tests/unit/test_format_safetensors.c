/* safetensors headers that break a rule, each with the line that says so; and writing, which must give the bytes that Python's
 * safetensors gives. */
#include "unit/format_support.h"

/* length + header + `bytes` zero bytes */
static uint8_t *build(const char *header, size_t bytes, size_t *size) {
    size_t n = strlen(header);
    uint8_t *out = calloc(1, 8 + n + bytes);
    assert_non_null(out);
    for (int i = 0; i < 8; i++) out[i] = (uint8_t)((uint64_t)n >> (8 * i));
    memcpy(out + 8, header, n);
    *size = 8 + n + bytes;
    return out;
}

static void test_broken_rules(void **state) {
    (void)state;
    static const struct { const char *header; size_t bytes; fs_status status; const char *part; } cases[] = {
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 7, FS_E_FORMAT, "the file is 1 bytes short (expected 70, found 69): download it again"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 9, FS_E_FORMAT, "1 bytes follow the last tensor"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 8, FS_E_FORMAT, "tensor a: expected 8 bytes for F32 [2], found 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, FS_E_FORMAT, "tensor a: its data_offsets are no range"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, FS_E_FORMAT, "tensor a: its data_offsets are no range"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, FS_E_FORMAT, "tensor a: its data_offsets are no range"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, FS_E_FORMAT,
         "tensor b: expected its data at byte 8, found 4 (it overlaps another tensor)"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[12,16]}}", 16, FS_E_FORMAT,
         "tensor b: expected its data at byte 8, found 12 (a hole behind another tensor)"},
        {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, FS_E_UNSUPPORTED, "tensor a: expected dtype F32, F16"},
        {"{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[0,2]}}", 2, FS_E_UNSUPPORTED, "found F8_E4M3"},
        {"{\"a\":{\"shape\":[2],\"data_offsets\":[0,2]}}", 2, FS_E_FORMAT, "tensor a: its dtype is missing"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":2,\"data_offsets\":[0,2]}}", 2, FS_E_FORMAT, "tensor a: expected a list as its shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[-2],\"data_offsets\":[0,2]}}", 2, FS_E_FORMAT, "tensor a: expected whole numbers as its shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[2.0],\"data_offsets\":[0,2]}}", 2, FS_E_FORMAT, "tensor a: expected whole numbers as its shape"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, FS_E_UNSUPPORTED, "expected at most 6 dimensions, found 7"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904,4],\"data_offsets\":[0,0]}}", 0, FS_E_FORMAT, "tensor a: its shape is impossible"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2305843009213693952],\"data_offsets\":[0,0]}}", 0, FS_E_FORMAT, "tensor a: its shape is impossible"},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}", 2, FS_E_FORMAT,
         "a name is there twice"},
        {"{\"__metadata__\":{\"format\":1},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, FS_E_FORMAT, "as __metadata__"},
        {"{\"\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, FS_E_FORMAT, "name is empty"},
        {"{\"a\":7}", 0, FS_E_FORMAT, "tensor a: its dtype is missing"},
        {"{\"a\\u0000b\":{}}", 0, FS_E_FORMAT, "its header is no JSON"},
        {"{\"a\":", 0, FS_E_FORMAT, "its header is no JSON"},
        {"{}", 0, FS_E_FORMAT, "holds no tensors"},
        {"{}   ", 4, FS_E_FORMAT, "4 bytes follow the last tensor"},
        {"[]", 0, FS_E_FORMAT, "does not start with '{'"},
        {"", 4, FS_E_FORMAT, "does not start with '{'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_error err = {0};
        fs_archive *a = NULL;
        size_t size;
        uint8_t *data = build(cases[i].header, cases[i].bytes, &size);
        assert_int_equal(fs_safetensors_read("x.safetensors", data, size, &a, &err), cases[i].status);
        assert_message(&err, cases[i].part);
        assert_message(&err, "x.safetensors: ");
        free(data);
    }
}

static void test_header_length(void **state) {
    (void)state;
    fs_error err = {0};
    fs_archive *a = NULL;
    uint8_t bytes[16] = {200, 0, 0, 0, 0, 0, 0, 0, '{'};
    assert_int_equal(fs_safetensors_read("x", bytes, sizeof bytes, &a, &err), FS_E_FORMAT);
    assert_message(&err, "the file is 192 bytes short of the end of its header: download it again");
    memset(bytes, 0xFF, 8);
    assert_int_equal(fs_safetensors_read("x", bytes, sizeof bytes, &a, &err), FS_E_FORMAT);
    assert_message(&err, "expected a header of at most 100000000 bytes, found a length of 18446744073709551615");
    assert_int_equal(fs_safetensors_read("x", bytes, 7, &a, &err), FS_E_FORMAT);
    assert_message(&err, "7 bytes are too few");
}

/* Control characters of a hostile name do not reach the terminal. */
static void test_hostile_name(void **state) {
    (void)state;
    fs_error err = {0};
    fs_archive *a = NULL;
    size_t size;
    uint8_t *data = build("{\"a\\u001b[2J\":{\"dtype\":\"X\"}}", 0, &size);
    assert_int_equal(fs_safetensors_read("x", data, size, &a, &err), FS_E_UNSUPPORTED);
    assert_message(&err, "tensor a?[2J: expected dtype");
    free(data);
}

static void test_metadata_and_padding(void **state) {
    (void)state;
    fs_archive *a = NULL;
    size_t size;
    uint8_t *data = build("{\"__metadata__\":{\"format\":\"pt\"},\"\xC3\xA9\":{\"dtype\":\"I16\",\"shape\":[],\"data_offsets\":[0,2]},"
                          "\"none\":{\"dtype\":\"F32\",\"shape\":[0,9],\"data_offsets\":[2,2]}}      ", 2, &size);
    assert_ok(fs_safetensors_read("x", data, size, &a, err));
    assert_int_equal(fs_archive_count(a), 2);
    assert_int_equal(fs_tensor_count(fs_archive_find(a, "\xC3\xA9")), 1);
    assert_int_equal(fs_tensor_count(fs_archive_find(a, "none")), 0);
    fs_archive_free(a);
    free(data);
}

/* ---- writing ---- */

static void test_same_bytes_as_python(void **state) {
    (void)state;
    char dir[64];
    const fs_tensor *tensors[32];
    const char *names[32];
    fs_archive *a = NULL;
    size_t n, size, again_size;
    make_directory(dir);
    assert_ok(fs_archive_open(GOLDEN("single.safetensors"), &a, err));
    n = fs_archive_count(a);
    assert_true(n > 10 && n <= 32);
    for (size_t i = 0; i < n; i++) { /* in another order than the file's */
        fs_archive_entry e = fs_archive_get(a, (i * 3 + 5) % n);
        tensors[i] = e.tensor;
        names[i] = e.name;
    }
    assert_true(n % 3 != 0);
    char *path = fs_path_join(dir, "again.safetensors");
    assert_ok(fs_safetensors_write(path, tensors, names, n, "{\"format\":\"pt\"}", err));
    uint8_t *original = read_whole(GOLDEN("single.safetensors"), &size), *again = read_whole(path, &again_size);
    assert_int_equal(size, again_size);
    assert_memory_equal(original, again, size);
    assert_ok(fs_safetensors_write(path, tensors, names, 1, NULL, err)); /* over an older file */
    fs_archive *b = NULL;
    assert_ok(fs_archive_open(path, &b, err));
    assert_int_equal(fs_archive_count(b), 1);
    fs_archive_free(b);
    fs_archive_free(a);
    free(original);
    free(again);
    unlink(path);
    free(path);
    assert_int_equal(rmdir(dir), 0); /* no temporary file is left */
}

static void test_write_errors(void **state) {
    (void)state;
    char dir[64];
    fs_error err = {0};
    float x[2] = {1, 2};
    const fs_tensor t = {.dtype = FS_DTYPE_F32, .ndim = 1, .shape = {2, 1, 1, 1, 1, 1}, .data = x};
    const fs_tensor bad = {.dtype = FS_DTYPE_F32, .ndim = 1, .shape = {-2, 1, 1, 1, 1, 1}, .data = x};
    const fs_tensor *two[] = {&t, &t}, *wrong[] = {&bad};
    make_directory(dir);
    char *path = fs_path_join(dir, "t.safetensors"), *nowhere = fs_path_join(dir, "no/t.safetensors");
    assert_int_equal(fs_safetensors_write(path, two, (const char *[]){"a", "a"}, 2, NULL, &err), FS_E_USAGE);
    assert_message(&err, "tensor a is given twice");
    assert_int_equal(fs_safetensors_write(path, two, (const char *[]){"a\xFF", "b"}, 2, NULL, &err), FS_E_USAGE);
    assert_int_equal(fs_safetensors_write(path, two, (const char *[]){"__metadata__", "b"}, 2, NULL, &err), FS_E_USAGE);
    assert_int_equal(fs_safetensors_write(path, wrong, (const char *[]){"a"}, 1, NULL, &err), FS_E_USAGE);
    assert_int_equal(fs_safetensors_write(path, two, (const char *[]){"a", "b"}, 2, "[1]", &err), FS_E_USAGE);
    assert_int_equal(fs_safetensors_write(nowhere, two, (const char *[]){"a", "b"}, 2, NULL, &err), FS_E_NOT_FOUND);
    assert_int_equal(fs_safetensors_write("/dev/full/x", two, (const char *[]){"a", "b"}, 2, NULL, &err), FS_E_NOT_FOUND);
    free(path);
    free(nowhere);
    assert_int_equal(rmdir(dir), 0); /* nothing was left behind */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_rules),         cmocka_unit_test(test_header_length),       cmocka_unit_test(test_hostile_name),
        cmocka_unit_test(test_metadata_and_padding), cmocka_unit_test(test_same_bytes_as_python), cmocka_unit_test(test_write_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
