/* Element types, shapes, and binding weights to a model: what fits, and the exact line when something does not. */
#include "unit/format_support.h"

#include <inttypes.h>

/* ---- a source of four tensors in one "file" ---- */

static float numbers[24];
static const fs_tensor tensors[] = {
    {.dtype = FS_DTYPE_F32, .ndim = 2, .shape = {4, 6, 1, 1, 1, 1}, .data = numbers, .name = "net.fc.weight"},
    {.dtype = FS_DTYPE_BF16, .ndim = 1, .shape = {4, 1, 1, 1, 1, 1}, .data = numbers, .name = "net.fc.bias"},
    {.dtype = FS_DTYPE_I64, .ndim = 1, .shape = {4, 1, 1, 1, 1, 1}, .data = numbers, .name = "net.ids"},
    {.dtype = FS_DTYPE_F64, .ndim = 0, .shape = {1, 1, 1, 1, 1, 1}, .data = numbers, .name = "net.scale"},
};

static const fs_tensor *find(void *user, const char *name) {
    (void)user;
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++)
        if (strcmp(tensors[i].name, name) == 0) return &tensors[i];
    return NULL;
}
static const char *origin(void *user, const char *name) { return (void)name, (const char *)user; }

static const fs_tensor_source source = {(void *)(uintptr_t)"dir/net.bin", find, origin};

static fs_binder binder(const char *prefix, fs_error *err) { return (fs_binder){.source = &source, .prefix = prefix, .err = err}; }

/* ---- binding ---- */

static void test_fits(void **state) {
    (void)state;
    fs_error err = {0};
    fs_binder b = binder("net.", &err);
    assert_ptr_equal(fs_bind_2d(&b, 4, 6, "fc.weight"), &tensors[0]);
    assert_ptr_equal(fs_bind_2d(&b, -1, 6, "%s.%s", "fc", "weight"), &tensors[0]);
    assert_ptr_equal(fs_bind_1d(&b, 4, "fc.bias"), &tensors[1]);
    assert_ptr_equal(fs_bind(&b, 0, NULL, "scale"), &tensors[3]);
    assert_ptr_equal(fs_bind_optional(&b, 1, (const int64_t[]){-1}, "fc.bias"), &tensors[1]);
    assert_null(fs_bind_optional(&b, 1, (const int64_t[]){4}, "absent"));
    assert_true(fs_binder_has(&b, "fc.%s", "bias"));
    assert_false(fs_binder_has(&b, "fc.%d", 7));
    assert_int_equal(b.status, FS_OK);
    fs_binder bare = binder(NULL, &err);
    assert_true(fs_binder_has(&bare, "net.ids"));
}

static void check(fs_status expected, const fs_binder *b, const fs_error *err, const char *message) {
    assert_int_equal(b->status, expected);
    assert_int_equal(err->status, expected);
    assert_string_equal(err->message, message);
}

static void test_missing(void **state) {
    (void)state;
    fs_error err = {0};
    fs_binder b = binder("net.", &err);
    assert_null(fs_bind_2d(&b, 8, -1, "layers.%d.weight", 3));
    check(FS_E_NOT_FOUND, &b, &err,
          "dir/net.bin: tensor net.layers.3.weight: expected shape [8,any], found no tensor of that name; the file is incomplete or belongs to another model");
}

static void test_misshapen(void **state) {
    (void)state;
    fs_error err = {0};
    fs_binder b = binder("", &err);
    assert_null(fs_bind_2d(&b, 6, 4, "net.fc.weight"));
    check(FS_E_MISMATCH, &b, &err,
          "dir/net.bin: tensor net.fc.weight: expected shape [6,4], found [4,6]; the weights and config.json do not belong together");
    b = binder("", &err);
    assert_null(fs_bind(&b, 0, NULL, "net.fc.bias"));
    check(FS_E_MISMATCH, &b, &err, "dir/net.bin: tensor net.fc.bias: expected shape [], found [4]; the weights and config.json do not belong together");
    b = binder("", &err);
    assert_null(fs_bind_optional(&b, 1, (const int64_t[]){5}, "net.fc.bias")); /* optional is no excuse for a wrong shape */
    check(FS_E_MISMATCH, &b, &err, "dir/net.bin: tensor net.fc.bias: expected shape [5], found [4]; the weights and config.json do not belong together");
}

static void test_not_a_float(void **state) {
    (void)state;
    fs_error err = {0};
    fs_binder b = binder("net.", &err);
    assert_null(fs_bind_1d(&b, 4, "ids"));
    check(FS_E_MISMATCH, &b, &err, "dir/net.bin: tensor net.ids: expected dtype F32, F16, BF16 or F64, found I64; the file belongs to another model "
                                   "or is damaged");
}

static void test_first_error_stays(void **state) {
    (void)state;
    fs_error err = {0};
    fs_binder b = binder("net.", &err);
    assert_null(fs_bind_1d(&b, 4, "first"));
    assert_null(fs_bind_1d(&b, 4, "second"));
    assert_null(fs_bind_1d(&b, 4, "fc.bias")); /* would fit */
    assert_message(&err, "tensor net.first:");
    fs_binder quiet = binder("net.", NULL);
    assert_null(fs_bind_1d(&quiet, 4, "first"));
    assert_int_equal(quiet.status, FS_E_NOT_FOUND);
}

static void test_long_names(void **state) {
    (void)state;
    char name[1200];
    fs_error err = {0};
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    fs_binder b = binder("net.", &err);
    assert_false(fs_binder_has(&b, "%s", name));
    assert_null(fs_bind_1d(&b, 1, "%s", name));
    assert_int_equal(b.status, FS_E_INTERNAL);
    b = binder(name, &err);
    assert_null(fs_bind_1d(&b, 1, "x"));
    assert_int_equal(b.status, FS_E_INTERNAL);
}

/* ---- element types and shapes ---- */

static void test_dtypes(void **state) {
    (void)state;
    static const struct { fs_dtype t; const char *name; size_t size; } all[] = {
        {FS_DTYPE_F32, "F32", 4}, {FS_DTYPE_F16, "F16", 2}, {FS_DTYPE_BF16, "BF16", 2}, {FS_DTYPE_F64, "F64", 8}, {FS_DTYPE_I64, "I64", 8},
        {FS_DTYPE_I32, "I32", 4}, {FS_DTYPE_I16, "I16", 2}, {FS_DTYPE_I8, "I8", 1}, {FS_DTYPE_U8, "U8", 1}, {FS_DTYPE_BOOL, "BOOL", 1}};
    fs_dtype t;
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        assert_string_equal(fs_dtype_name(all[i].t), all[i].name);
        assert_int_equal(fs_dtype_size(all[i].t), all[i].size);
        assert_true(fs_dtype_from_name(all[i].name, &t));
        assert_int_equal(t, all[i].t);
    }
    assert_false(fs_dtype_from_name("f32", &t));
    assert_false(fs_dtype_from_name("F8_E4M3", &t));
    assert_false(fs_dtype_from_name(NULL, &t));
    assert_string_equal(fs_dtype_name((fs_dtype)99), "unknown");
    assert_int_equal(fs_dtype_size((fs_dtype)99), 0);
}

static void test_shapes(void **state) {
    (void)state;
    int64_t n = -1;
    char text[64], tiny[6];
    fs_tensor t = {.ndim = 3, .shape = {2, 3, 4, 1, 1, 1}};
    assert_true(fs_shape_count(3, t.shape, &n));
    assert_int_equal(n, 24);
    assert_int_equal(fs_tensor_count(&t), 24);
    fs_shape_text(&t, text, sizeof text);
    assert_string_equal(text, "[2,3,4]");
    fs_shape_text(&t, tiny, sizeof tiny); /* cut, but a string */
    assert_string_equal(tiny, "[2,3,");
    t.ndim = 0;
    fs_shape_text(&t, text, sizeof text);
    assert_string_equal(text, "[]");
    assert_true(fs_shape_count(0, NULL, &n));
    assert_int_equal(n, 1);
    assert_true(fs_shape_count(3, (const int64_t[]){INT64_MAX, 0, INT64_MAX}, &n)); /* empty, whatever the others are */
    assert_int_equal(n, 0);
    assert_false(fs_shape_count(2, (const int64_t[]){3, -1}, &n));
    assert_false(fs_shape_count(2, (const int64_t[]){-1, 0}, &n));
    assert_false(fs_shape_count(3, (const int64_t[]){INT64_C(1) << 32, INT64_C(1) << 31, 2}, &n));
    assert_false(fs_shape_count(1, (const int64_t[]){PTRDIFF_MAX / 8 + 1}, &n));
    assert_true(fs_shape_count(1, (const int64_t[]){PTRDIFF_MAX / 8}, &n));
    assert_false(fs_shape_count(FS_MAX_DIMS + 1, (const int64_t[]){1, 1, 1, 1, 1, 1, 1}, &n));
    assert_false(fs_shape_count(-1, NULL, &n));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fits),        cmocka_unit_test(test_missing),           cmocka_unit_test(test_misshapen),
        cmocka_unit_test(test_not_a_float), cmocka_unit_test(test_first_error_stays), cmocka_unit_test(test_long_names),
        cmocka_unit_test(test_dtypes),      cmocka_unit_test(test_shapes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
