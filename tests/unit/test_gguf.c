/* GGUF: files of the official gguf package read by us, our files equal to the package's byte for byte, damage of every kind refused or
 * harmless, and the writer's promises. Goldens: tools/reference/make_gguf_goldens.py. */
#include <fcntl.h>
#include <sys/stat.h>

#include "format/gguf.h"
#include "format_support.h"
#include "tensor/block.h"

#define GGUF(name) FS_GOLDEN_DIR "/gguf/" name

/* ---- reading ---- */

static int64_t get_int(const fs_gguf *g, const char *key) {
    int64_t v = 0;
    assert_ok(fs_gguf_int(g, key, true, INT64_MIN, INT64_MAX, &v, err));
    return v;
}

static double get_float(const fs_gguf *g, const char *key) {
    double v = 0;
    assert_ok(fs_gguf_float(g, key, true, -1e300, 1e300, &v, err));
    return v;
}

static fs_gguf_array get_array(const fs_gguf *g, const char *key, fs_gguf_type element, uint64_t count) {
    fs_gguf_array a = {0};
    assert_ok(fs_gguf_array_of(g, key, true, element, &a, err));
    assert_int_equal(a.count, count);
    return a;
}

static void check_fields(const fs_gguf *g) {
    assert_int_equal(fs_gguf_count(g), 25);
    assert_true(fs_gguf_text_is(fs_gguf_at(g, 0).key, "general.architecture"));
    assert_int_equal(get_int(g, "general.alignment"), 64);
    assert_int_equal(get_int(g, "a.u8"), 200);
    assert_int_equal(get_int(g, "a.i8"), -100);
    assert_int_equal(get_int(g, "a.u16"), 60000);
    assert_int_equal(get_int(g, "a.i16"), -30000);
    assert_true(get_int(g, "a.u32") == 4000000000);
    assert_int_equal(get_int(g, "a.i32"), -2000000000);
    assert_true(get_int(g, "a.i64") == -((int64_t)1 << 62));
    assert_true(get_float(g, "a.f32") == (double)0.1f && get_float(g, "a.f64") == 0.1 && get_float(g, "a.u8") == 200);
    bool yes = false, no = true;
    assert_ok(fs_gguf_bool(g, "a.true", true, &yes, err));
    assert_ok(fs_gguf_bool(g, "a.false", true, &no, err));
    assert_true(yes && !no);
    fs_gguf_text s = {0};
    assert_ok(fs_gguf_string(g, "a.string", true, &s, err));
    assert_true(fs_gguf_text_is(s, "f\xC3\xA4lschung \xE2\x9C\x93"));
    assert_ok(fs_gguf_string(g, "a.empty", true, &s, err));
    assert_int_equal(s.size, 0);
    fs_gguf_array a = get_array(g, "b.strings", FS_GGUF_STRING, 4);
    static const char *const strings[] = {"one", "", "\xE4\xB8\x89", "four"};
    for (int i = 0; i < 4; i++) assert_true(fs_gguf_next(&a, &s) && fs_gguf_text_is(s, strings[i]));
    assert_false(fs_gguf_next(&a, &s));
    assert_int_equal(a.size, 0);
    a = get_array(g, "b.u8", FS_GGUF_U8, 5);
    assert_memory_equal(a.data, "\0\1\2\3\4", 5);
    a = get_array(g, "b.i16", FS_GGUF_I16, 3);
    assert_memory_equal(a.data, "\xFF\xFF\2\0\xFD\xFF", 6);
    a = get_array(g, "b.f32", FS_GGUF_F32, 2);
    float f[2];
    memcpy(f, a.data, a.size);
    assert_true(f[0] == 0.5f && f[1] == -1.25f);
    get_array(g, "b.i32", FS_GGUF_I32, 3);
    a = get_array(g, "b.bool", FS_GGUF_BOOL, 3);
    assert_memory_equal(a.data, "\1\0\1", 3);
    get_array(g, "b.u64", FS_GGUF_U64, 1);
    get_array(g, "b.f64", FS_GGUF_F64, 1);
    assert_int_equal(fs_gguf_at(g, 24).element, FS_GGUF_ARRAY);
    assert_int_equal(fs_gguf_at(g, 24).count, 2);
    assert_int_equal(fs_gguf_at(g, 25).key.size, 0);
}

static void check_tensors(fs_archive *a) {
    static const struct { const char *name; fs_dtype dtype; int ndim; int64_t shape[3]; } expected[] = {
        {"f32", FS_DTYPE_F32, 3, {2, 3, 4}}, {"f16", FS_DTYPE_F16, 2, {4, 6}}, {"bf16", FS_DTYPE_BF16, 2, {1, 24}},
        {"float64", FS_DTYPE_F64, 1, {24}},  {"int8", FS_DTYPE_I8, 1, {24}},   {"int16", FS_DTYPE_I16, 1, {24}},
        {"int32", FS_DTYPE_I32, 1, {24}},    {"int64", FS_DTYPE_I64, 1, {24}}, {"scalar", FS_DTYPE_F32, 0, {1}},
    };
    assert_int_equal(fs_archive_count(a), 9);
    for (size_t i = 0; i < 9; i++) {
        const fs_tensor *t = fs_archive_find(a, expected[i].name);
        assert_non_null(t);
        assert_int_equal(t->dtype, expected[i].dtype);
        assert_int_equal(t->ndim, expected[i].ndim);
        for (int d = 0; d < t->ndim; d++) assert_int_equal(t->shape[d], expected[i].shape[d]);
        float y[24];
        if (i < 4) {
            assert_true(fs_row_to_f32(t->dtype, t->data, 24, y));
            for (int k = 0; k < 24; k++) assert_true(y[k] == (i < 3 ? (float)k / 8 : (float)(k - 12)));
        }
        for (int k = 0; k < 24; k++) {
            if (i == 4) assert_int_equal(((int8_t *)t->data)[k], k - 12);
            if (i == 5) assert_int_equal(((int16_t *)t->data)[k], k - 12);
            if (i == 6) assert_int_equal(((int32_t *)t->data)[k], k - 12);
            if (i == 7) assert_int_equal(((int64_t *)t->data)[k], k - 12);
        }
        if (i == 8) assert_true(fs_f32(t)[0] == 2.5f);
    }
    touch_all(a);
}

static void files_of_the_package_are_read(void **state) {
    (void)state;
    static const char *const files[] = {GGUF("fields.gguf"), GGUF("fields_v2.gguf")};
    for (int i = 0; i < 2; i++) {
        fs_archive *a = NULL;
        assert_ok(fs_archive_open(files[i], &a, err));
        assert_string_equal(fs_archive_kind(a), "gguf");
        assert_int_equal(fs_gguf_version(fs_archive_gguf(a)), i ? 2 : 3);
        check_fields(fs_archive_gguf(a));
        check_tensors(a);
        fs_error e = {0};
        assert_int_equal(fs_gguf_verify(fs_archive_gguf(a), NULL, &e), FS_E_UNSUPPORTED); /* no checksums */
        fs_archive_free(a);
    }
    fs_archive *other = NULL;
    assert_ok(fs_archive_open(GGUF("blocks.safetensors"), &other, err));
    assert_null(fs_archive_gguf(other));
    fs_archive_free(other);
}

static void wrong_questions_are_errors(void **state) {
    (void)state;
    fs_archive *a = NULL;
    assert_ok(fs_archive_open(GGUF("fields.gguf"), &a, err));
    const fs_gguf *g = fs_archive_gguf(a);
    fs_error e = {0};
    int64_t i = 5;
    double f = 6;
    bool b = true;
    fs_gguf_text s = {"x", 1};
    fs_gguf_array r = {0};
    assert_int_equal(fs_gguf_int(g, "no.such", true, 0, 9, &i, &e), FS_E_NOT_FOUND);
    assert_message(&e, "fields.gguf: metadata no.such");
    assert_int_equal(fs_gguf_int(g, "no.such", false, 0, 9, &i, &e), FS_OK);
    assert_int_equal(fs_gguf_float(g, "no.such", false, 0, 9, &f, &e), FS_OK);
    assert_int_equal(fs_gguf_bool(g, "no.such", false, &b, &e), FS_OK);
    assert_int_equal(fs_gguf_string(g, "no.such", false, &s, &e), FS_OK);
    assert_int_equal(fs_gguf_array_of(g, "no.such", false, FS_GGUF_U8, &r, &e), FS_OK);
    assert_true(i == 5 && f == 6 && b && s.size == 1 && r.count == 0);
    assert_int_equal(fs_gguf_int(g, "a.f32", false, 0, 9, &i, &e), FS_E_FORMAT);
    assert_message(&e, "expected a whole number, found f32");
    assert_int_equal(fs_gguf_int(g, "a.true", true, 0, 9, &i, &e), FS_E_FORMAT);
    assert_int_equal(fs_gguf_int(g, "a.u8", true, 0, 199, &i, &e), FS_E_FORMAT);
    assert_message(&e, "expected 0 to 199, found 200");
    assert_int_equal(fs_gguf_int(g, "a.u64", true, INT64_MIN, INT64_MAX, &i, &e), FS_E_FORMAT); /* 2^64 - 1 must not come out as -1 */
    assert_message(&e, "more than");
    assert_int_equal(fs_gguf_float(g, "a.string", true, 0, 9, &f, &e), FS_E_FORMAT);
    assert_int_equal(fs_gguf_float(g, "a.f32", true, 0.2, 9, &f, &e), FS_E_FORMAT);
    assert_int_equal(fs_gguf_bool(g, "a.u8", true, &b, &e), FS_E_FORMAT);
    assert_int_equal(fs_gguf_string(g, "b.strings", true, &s, &e), FS_E_FORMAT);
    assert_message(&e, "expected a string, found an array of string");
    assert_int_equal(fs_gguf_array_of(g, "b.i32", true, FS_GGUF_U32, &r, &e), FS_E_FORMAT);
    assert_message(&e, "expected an array of u32, found an array of i32");
    assert_int_equal(fs_gguf_array_of(g, "a.u8", true, FS_GGUF_U8, &r, &e), FS_E_FORMAT);
    fs_archive_free(a);
}

/* ---- damage ---- */

static fs_status read_bytes(const uint8_t *data, size_t size, fs_error *err) {
    fs_archive *a = NULL;
    uint8_t *copy = exact_copy(data, size);
    fs_status status = fs_gguf_read("test.gguf", copy, size, &a, err);
    if (status == FS_OK) {
        volatile unsigned sum = 0;
        for (size_t i = 0; i < fs_archive_count(a); i++) {
            const fs_tensor *t = fs_archive_get(a, i).tensor;
            size_t bytes;
            assert_true(fs_dtype_bytes(t->dtype, t->ndim, t->shape, &bytes));
            for (size_t k = 0; k < bytes; k++) sum += ((const uint8_t *)t->data)[k];
        }
        (void)sum;
    } else {
        assert_null(a);
        assert_true(strncmp(err->message, "test.gguf: ", 11) == 0);
    }
    fs_archive_free(a);
    free(copy);
    return status;
}

static size_t data_start_of(const uint8_t *data, size_t size) {
    /* where the first tensor's bytes are: the header is what comes before */
    fs_archive *a = NULL;
    size_t first = size;
    assert_ok(fs_gguf_read("test.gguf", data, size, &a, err));
    for (size_t i = 0; i < fs_archive_count(a); i++) {
        const uint8_t *p = fs_archive_get(a, i).tensor->data;
        if (p >= data && p < data + size && (size_t)(p - data) < first) first = (size_t)(p - data);
    }
    fs_archive_free(a);
    return first;
}

static void damaged_bundles_are_refused(void **state) {
    (void)state;
    size_t size;
    uint8_t *data = read_whole(GGUF("bundle.gguf"), &size);
    fs_error e = {0};
    assert_int_equal(read_bytes(data, size, &e), FS_OK);
    for (size_t n = 0; n < size; n++)
        if (read_bytes(data, n, &e) == FS_OK) fail_msg("cut to %zu of %zu bytes it was believed", n, size);
    const size_t head = data_start_of(data, size);
    assert_in_range(head, 1000, size - 100);
    for (size_t at = 0; at < head; at++)
        for (int bit = 0; bit < 8; bit++) {
            data[at] ^= (uint8_t)(1 << bit);
            if (read_bytes(data, size, &e) == FS_OK) fail_msg("with bit %d of byte %zu flipped it was believed", bit, at);
            data[at] ^= (uint8_t)(1 << bit);
        }
    uint8_t *longer = calloc(1, size + 32);
    memcpy(longer, data, size);
    assert_int_equal(read_bytes(longer, size + 32, &e), FS_E_FORMAT);
    free(longer);
    free(data);
}

/* Files of other programs have no checksum: any damage must be refused or harmless. */
static void damaged_files_are_harmless(void **state) {
    (void)state;
    static const char *const files[] = {GGUF("fields.gguf"), GGUF("blocks.gguf")};
    for (int f = 0; f < 2; f++) {
        size_t size;
        uint8_t *data = read_whole(files[f], &size);
        const size_t head = data_start_of(data, size);
        fs_error e = {0};
        for (size_t n = 0; n <= head; n++) assert_int_not_equal(read_bytes(data, n, &e), FS_OK);
        for (size_t n = head; n < size; n += 97) read_bytes(data, n, &e);
        for (size_t at = 0; at < head; at++)
            for (int k = 0; k < 3; k++) {
                const uint8_t old = data[at];
                data[at] = k == 0 ? (uint8_t)(old ^ 1) : k == 1 ? (uint8_t)(old ^ 0x80) : 0xFF;
                read_bytes(data, size, &e);
                data[at] = old;
            }
        free(data);
    }
}

/* Small files put together by hand. */

static void add(fs_buffer *b, uint64_t v, int n) {
    for (int i = 0; i < n; i++) fs_buffer_add(b, &(uint8_t){(uint8_t)(v >> 8 * i)}, 1);
}

static void add_string(fs_buffer *b, const char *s) {
    add(b, strlen(s), 8);
    fs_buffer_puts(b, s);
}

static void head(fs_buffer *b, uint32_t version, uint64_t tensors, uint64_t fields) {
    fs_buffer_puts(b, "GGUF");
    add(b, version, 4);
    add(b, tensors, 8);
    add(b, fields, 8);
}

static void field(fs_buffer *b, const char *key, uint32_t type, uint64_t value, int bytes) {
    add_string(b, key);
    add(b, type, 4);
    add(b, value, bytes);
}

static void tensor(fs_buffer *b, const char *name, uint32_t type, uint64_t offset, uint32_t ndim, const uint64_t *dims) {
    add_string(b, name);
    add(b, ndim, 4);
    for (uint32_t i = 0; i < ndim && i < 8; i++) add(b, dims[i], 8);
    add(b, type, 4);
    add(b, offset, 8);
}

/* Pads to 32, adds `data` bytes and expects the status and words of refusal (or none). Empties the buffer. */
static void expect(fs_buffer *b, size_t data, fs_status expected, const char *words) {
    fs_error e = {0};
    while (b->size % 32) add(b, 0, 1);
    for (size_t i = 0; i < data; i++) add(b, 1, 1);
    const fs_status status = read_bytes((const uint8_t *)b->data, b->size, &e);
    if (status != expected) fail_msg("expected status %d, got %d: %s", expected, status, e.message);
    if (words) assert_message(&e, words);
    fs_buffer_free(b);
}

#define DIMS(...) ((const uint64_t[]){__VA_ARGS__})

static void bad_heads_are_refused(void **state) {
    (void)state;
    fs_buffer b = {0};
    head(&b, 3, 1, 0), tensor(&b, "t", 0, 0, 1, DIMS(8)), expect(&b, 32, FS_OK, NULL);
    head(&b, 1, 1, 0), expect(&b, 64, FS_E_UNSUPPORTED, "found 1");
    head(&b, 4, 1, 0), expect(&b, 64, FS_E_UNSUPPORTED, "expected GGUF version 2 or 3, found 4");
    head(&b, 0x03000000, 1, 0), expect(&b, 64, FS_E_UNSUPPORTED, "big-endian");
    head(&b, 3, 0, 0), expect(&b, 64, FS_E_FORMAT, "holds no tensors");
    head(&b, 3, UINT64_MAX, 0), expect(&b, 64, FS_E_FORMAT, "more than its");
    head(&b, 3, 0, UINT64_MAX), expect(&b, 64, FS_E_FORMAT, "more than its");
    head(&b, 3, 1, UINT64_MAX / 13), expect(&b, 64, FS_E_FORMAT, "more than its");
    head(&b, 3, 4, 0), expect(&b, 64, FS_E_FORMAT, "more than its");
}

static void bad_fields_are_refused(void **state) {
    (void)state;
    fs_buffer b = {0};
#define WITH_TENSOR(...) head(&b, 3, 1, __VA_ARGS__)
#define END_TENSOR(status, words) tensor(&b, "t", 0, 0, 1, DIMS(8)), expect(&b, 32, status, words)
    WITH_TENSOR(2), field(&b, "k", 4, 1, 4), field(&b, "k", 4, 2, 4), END_TENSOR(FS_E_FORMAT, "metadata k: it is there twice");
    WITH_TENSOR(1), field(&b, "", 4, 1, 4), END_TENSOR(FS_E_FORMAT, "key is empty");
    WITH_TENSOR(1), field(&b, "\xFF\xFE", 4, 1, 4), END_TENSOR(FS_E_FORMAT, "no UTF-8");
    WITH_TENSOR(1), field(&b, "k", 13, 1, 4), END_TENSOR(FS_E_FORMAT, "metadata k: its type is unknown");
    WITH_TENSOR(1), field(&b, "k", 7, 2, 1), END_TENSOR(FS_E_FORMAT, "neither 0 nor 1");
    WITH_TENSOR(1), field(&b, "k", 8, UINT64_MAX, 8), END_TENSOR(FS_E_FORMAT, "ends inside");
    WITH_TENSOR(1), field(&b, "k", 8, 1000, 8), END_TENSOR(FS_E_FORMAT, "ends inside");
    WITH_TENSOR(1), field(&b, "k", 9, 0, 4), add(&b, UINT64_MAX, 8), END_TENSOR(FS_E_FORMAT, "ends inside"); /* 2^64 - 1 bytes */
    WITH_TENSOR(1), field(&b, "k", 9, 12, 4), add(&b, (uint64_t)1 << 61, 8), END_TENSOR(FS_E_FORMAT, "ends inside"); /* x 8 overflows */
    WITH_TENSOR(1), field(&b, "k", 9, 8, 4), add(&b, 1000, 8), END_TENSOR(FS_E_FORMAT, "ends inside"); /* strings */
    WITH_TENSOR(1), field(&b, "k", 9, 14, 4), add(&b, 0, 8), END_TENSOR(FS_E_FORMAT, "elements' type is unknown");
    WITH_TENSOR(1), field(&b, "k", 9, 7, 4), add(&b, 2, 8), add(&b, 0x0201, 2), END_TENSOR(FS_E_FORMAT, "neither 0 nor 1");
    WITH_TENSOR(1), field(&b, "k", 9, 9, 4), add(&b, 1, 8);
    for (int i = 0; i < 20; i++) add(&b, 9, 4), add(&b, 1, 8);
    END_TENSOR(FS_E_FORMAT, "nested too deeply");
    WITH_TENSOR(1), field(&b, "k", 9, 9, 4), add(&b, 1, 8), add(&b, 0, 4), add(&b, 2, 8), add(&b, 0x0101, 2), END_TENSOR(FS_OK, NULL);
    static const uint32_t bad[] = {0, 3, 48, 0x80000000u};
    for (int i = 0; i < 4; i++) WITH_TENSOR(1), field(&b, "general.alignment", 4, bad[i], 4), END_TENSOR(FS_E_FORMAT, "general.alignment");
    WITH_TENSOR(1), field(&b, "general.alignment", 4, 1 << 20, 4), END_TENSOR(FS_E_FORMAT, "beyond the end"); /* the padding alone */
    WITH_TENSOR(1), field(&b, "general.alignment", 4, 8, 4), END_TENSOR(FS_OK, NULL);
    WITH_TENSOR(1), field(&b, "split.count", 2, 3, 2), END_TENSOR(FS_E_UNSUPPORTED, "one of 3 parts");
    WITH_TENSOR(1), field(&b, "split.count", 2, 1, 2), END_TENSOR(FS_OK, NULL);
    WITH_TENSOR(1), field(&b, "fakeshield.version", 4, 1, 4), END_TENSOR(FS_E_NOT_FOUND, "fakeshield.header_sha256");
}

static void bad_tensors_are_refused(void **state) {
    (void)state;
    fs_buffer b = {0};
#define ONE(...) head(&b, 3, 1, 0), tensor(&b, __VA_ARGS__)
    ONE("t", 10, 0, 1, DIMS(256)), expect(&b, 256, FS_E_UNSUPPORTED, "tensor t: expected a type out of");
    ONE("t", 10, 0, 1, DIMS(256)), expect(&b, 256, FS_E_UNSUPPORTED, "found Q2_K (number 10)");
    ONE("t", 16, 0, 1, DIMS(256)), expect(&b, 256, FS_E_UNSUPPORTED, "found IQ2_XXS");
    ONE("t", 99, 0, 1, DIMS(256)), expect(&b, 256, FS_E_UNSUPPORTED, "found an unknown one (number 99)");
    ONE("t", UINT32_MAX, 0, 1, DIMS(256)), expect(&b, 256, FS_E_UNSUPPORTED, "unknown");
    ONE("t", 8, 0, 1, DIMS(32)), expect(&b, 34, FS_OK, NULL);
    ONE("t", 8, 0, 2, DIMS(16, 2)), expect(&b, 64, FS_E_FORMAT, "whole number of blocks");
    ONE("t", 8, 0, 1, DIMS(32)), expect(&b, 33, FS_E_FORMAT, "beyond the end");
    ONE("t", 0, 0, 7, DIMS(1, 1, 1, 1, 1, 1, 1)), expect(&b, 32, FS_E_FORMAT, "more dimensions");
    ONE("t", 0, 0, UINT32_MAX, DIMS(1, 1, 1, 1, 1, 1, 1, 1)), expect(&b, 32, FS_E_FORMAT, "more dimensions");
    ONE("t", 0, 0, 1, DIMS(UINT64_MAX)), expect(&b, 32, FS_E_FORMAT, "shape is impossible");
    ONE("t", 0, 0, 2, DIMS((uint64_t)1 << 40, (uint64_t)1 << 40)), expect(&b, 32, FS_E_FORMAT, "shape is impossible");
    ONE("t", 0, 0, 4, DIMS(65536, 65536, 65536, 65536)), expect(&b, 32, FS_E_FORMAT, "shape is impossible"); /* wraps to 0 */
    ONE("t", 0, 0, 1, DIMS((uint64_t)1 << 58)), expect(&b, 32, FS_E_FORMAT, "beyond the end");
    ONE("t", 0, 0, 1, DIMS(9)), expect(&b, 32, FS_E_FORMAT, "beyond the end");
    ONE("t", 0, 32, 1, DIMS(8)), expect(&b, 32, FS_E_FORMAT, "beyond the end");
    ONE("t", 0, (uint64_t)0 - 32, 1, DIMS(8)), expect(&b, 64, FS_E_FORMAT, "beyond the end"); /* offset + size wraps */
    ONE("t", 0, 8, 1, DIMS(2)), expect(&b, 32, FS_E_FORMAT, "multiple of general.alignment");
    ONE("", 0, 0, 1, DIMS(8)), expect(&b, 32, FS_E_FORMAT, "name is empty");
    ONE("t\xC0", 0, 0, 1, DIMS(8)), expect(&b, 32, FS_E_FORMAT, "no UTF-8");
    ONE("t", 0, 0, 2, DIMS(0, 5)), expect(&b, 0, FS_OK, NULL);
#define TWO(...) head(&b, 3, 2, 0), tensor(&b, "t", 0, 32, 1, DIMS(16)), tensor(&b, __VA_ARGS__)
    TWO("u", 0, 96, 1, DIMS(8)), expect(&b, 128, FS_OK, NULL);
    TWO("u", 0, 0, 1, DIMS(8)), expect(&b, 128, FS_OK, NULL); /* not in order, and a hole: allowed */
    TWO("t", 0, 96, 1, DIMS(8)), expect(&b, 128, FS_E_FORMAT, "twice");
    TWO("u", 0, 64, 1, DIMS(8)), expect(&b, 128, FS_E_FORMAT, "tensor u: its data overlaps");
    TWO("u", 0, 32, 1, DIMS(8)), expect(&b, 128, FS_E_FORMAT, "overlaps");
    TWO("u", 0, 0, 1, DIMS(9)), expect(&b, 128, FS_E_FORMAT, "tensor t: its data overlaps");
}

/* With alignment 1 a tensor may stand at any address; those that cannot be read in place are copied. */
static void small_alignments_work(void **state) {
    (void)state;
    for (uint64_t offset = 0; offset < 8; offset++) {
        fs_buffer b = {0};
        head(&b, 3, 1, 1);
        field(&b, "general.alignment", 4, 1, 4);
        tensor(&b, "odd", 0, offset, 1, DIMS(1));
        for (uint64_t i = 0; i < offset; i++) add(&b, 0xEE, 1);
        add(&b, 0x40200000, 4);
        fs_archive *a = NULL;
        uint8_t *copy = exact_copy((const uint8_t *)b.data, b.size);
        assert_ok(fs_gguf_read("odd.gguf", copy, b.size, &a, err));
        const fs_tensor *t = fs_archive_find(a, "odd");
        assert_int_equal((uintptr_t)t->data % 4, 0);
        assert_true(fs_f32(t)[0] == 2.5f);
        fs_archive_free(a);
        free(copy);
        fs_buffer_free(&b);
    }
}

/* ---- writing ---- */

static void formula(float *x, int n) {
    for (int i = 0; i < n; i++) x[i] = (float)((i * 37 + 11) % 101 - 50) / 64;
}

static const struct { const char *name; fs_dtype dtype; int ndim; int64_t shape[4]; } bundle[] = {
    {"token_embd.weight", FS_DTYPE_F32, 2, {3, 5}},      {"blk.0.attn_q.weight", FS_DTYPE_Q8_0, 2, {2, 64}}, {"blk.0.attn_k.weight", FS_DTYPE_Q4_0, 2, {4, 32}},
    {"conv.weight", FS_DTYPE_F16, 4, {2, 3, 4, 1}},      {"blk.0.ffn_norm.weight", FS_DTYPE_F32, 1, {7}},    {"empty", FS_DTYPE_F32, 2, {0, 4}},
    {"half.weight", FS_DTYPE_BF16, 2, {2, 3}},
};
enum { BUNDLE = sizeof bundle / sizeof bundle[0] };

static void put_bundle(fs_gguf_writer *w) {
    fs_gguf_put_text(w, "general.architecture", "llama");
    fs_gguf_put_u32(w, "llama.block_count", 40);
    fs_gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    fs_gguf_put_i32(w, "test.i32", -7);
    fs_gguf_put_u64(w, "test.u64", (uint64_t)1 << 40);
    fs_gguf_put_bool(w, "test.bool", true);
    fs_gguf_put_text(w, "test.empty", "");
    fs_gguf_put_strings(w, "tokenizer.ggml.tokens", 3, (const fs_gguf_text[]){{"<unk>", 5}, {"<s>", 3}, {"\xE2\x96\x81" "a", 4}});
    fs_gguf_put_array(w, "tokenizer.ggml.scores", FS_GGUF_F32, 2, (const float[]){0, -1.5f});
    fs_gguf_put_array(w, "tokenizer.ggml.token_type", FS_GGUF_I32, 3, (const int32_t[]){2, 3, 1});
    fs_gguf_put_array(w, "fakeshield.file", FS_GGUF_U8, 9, "raw\0bytes");
    for (int i = 0; i < BUNDLE; i++) fs_gguf_put_tensor(w, bundle[i].name, bundle[i].dtype, bundle[i].ndim, bundle[i].shape);
}

/* All tensors' bytes behind one another. */
static size_t bundle_data(uint8_t *out) {
    size_t at = 0;
    for (int i = 0; i < BUNDLE; i++) {
        int64_t n = 0;
        size_t bytes = 0;
        float x[128];
        assert_true(fs_shape_count(bundle[i].ndim, bundle[i].shape, &n) && fs_dtype_bytes(bundle[i].dtype, bundle[i].ndim, bundle[i].shape, &bytes));
        formula(x, (int)n);
        assert_true(fs_row_from_f32(bundle[i].dtype, x, n, out + at));
        at += bytes;
    }
    return at;
}

static void our_bytes_are_the_packages(void **state) {
    (void)state;
    char dir[64];
    make_directory(dir);
    char *path = fs_path_join(dir, "out.gguf"), *partial = fs_path_join(dir, "out.gguf.partial");
    uint8_t data[1024];
    const size_t total = bundle_data(data);
    size_t expected_size, size;
    uint8_t *expected = read_whole(GGUF("bundle.gguf"), &expected_size);
    static const size_t steps[] = {1, 7, 68, 100000}; /* pieces that know nothing of tensors */
    for (int s = 0; s < 4; s++) {
        fs_gguf_writer *w = NULL;
        write_text(dir, "out.gguf.partial", "left by a killed run, longer than nothing", 41);
        assert_ok(fs_gguf_writer_create(path, &w, err));
        put_bundle(w);
        assert_int_equal(fs_gguf_writer_size(w), expected_size);
        assert_ok(fs_gguf_writer_begin(w, err));
        for (size_t at = 0; at < total; at += steps[s]) assert_ok(fs_gguf_writer_add(w, data + at, total - at < steps[s] ? total - at : steps[s], err));
        assert_ok(fs_gguf_writer_finish(w, err));
        fs_gguf_writer_free(w);
        uint8_t *mine = read_whole(path, &size);
        assert_int_equal(size, expected_size);
        assert_memory_equal(mine, expected, size);
        free(mine);
        assert_false(fs_path_exists(partial));
    }
    fs_archive *a = NULL;
    assert_ok(fs_archive_open(path, &a, err));
    assert_ok(fs_gguf_verify(fs_archive_gguf(a), NULL, err));
    fs_archive_free(a);
    free(expected);
    unlink(path);
    free(path);
    free(partial);
    rmdir(dir);
}

static void damaged_data_fails_verify(void **state) {
    (void)state;
    size_t size;
    uint8_t *data = read_whole(GGUF("bundle.gguf"), &size);
    const size_t head_size = data_start_of(data, size);
    fs_archive *a = NULL;
    assert_ok(fs_gguf_read("b.gguf", data, size, &a, err));
    fs_error e = {0};
    int caught = 0;
    for (size_t at = head_size; at < size; at++) { /* the archive points into `data` */
        data[at] ^= 4;
        const fs_status status = fs_gguf_verify(fs_archive_gguf(a), NULL, &e);
        if (status) {
            assert_int_equal(status, FS_E_FORMAT);
            assert_message(&e, "b.gguf: tensor ");
            caught++;
        }
        data[at] ^= 4;
    }
    assert_int_equal(caught, 60 + 136 + 72 + 48 + 28 + 12); /* every byte of every tensor; the rest is padding */
    data[head_size] ^= 4;
    fs_gguf_verify(fs_archive_gguf(a), NULL, &e);
    assert_message(&e, "tensor token_embd.weight: expected SHA-256");
    fs_archive_free(a);
    free(data);
}

static bool stop(void *user) { return (void)user, true; }

static void verify_can_be_stopped(void **state) {
    (void)state;
    fs_archive *a = NULL;
    fs_error e = {0};
    const fs_callbacks cb = {.cancel = stop};
    assert_ok(fs_archive_open(GGUF("bundle.gguf"), &a, err));
    assert_int_equal(fs_gguf_verify(fs_archive_gguf(a), &cb, &e), FS_E_CANCELLED);
    fs_archive_free(a);
}

static void expect_begin(fs_gguf_writer *w, fs_status status, const char *words) {
    fs_error e = {0};
    assert_int_equal(fs_gguf_writer_begin(w, &e), status);
    assert_message(&e, words);
    fs_gguf_writer_free(w);
}

static fs_gguf_writer *writer(const char *path) {
    fs_gguf_writer *w = NULL;
    assert_ok(fs_gguf_writer_create(path, &w, err));
    return w;
}

static void mistakes_are_told_before_writing(void **state) {
    (void)state;
    char dir[64];
    make_directory(dir);
    char *path = fs_path_join(dir, "out.gguf"), *nowhere = fs_path_join(dir, "no/such/out.gguf");
    const int64_t shape[5] = {2, 32, 1, 1, 1}, huge[2] = {(int64_t)1 << 30, (int64_t)1 << 24}, wide[2] = {(int64_t)1 << 30, (int64_t)1 << 29};
    fs_gguf_writer *w = writer(path);
    fs_gguf_put_u32(w, "k", 1), fs_gguf_put_text(w, "k", "v"), expect_begin(w, FS_E_USAGE, "metadata k: is put twice");
    w = writer(path), fs_gguf_put_u32(w, "", 1), expect_begin(w, FS_E_USAGE, "is no key");
    w = writer(path), fs_gguf_put_text(w, "fakeshield.header_sha256", "x"), expect_begin(w, FS_E_USAGE, "keeps for itself");
    w = writer(path), fs_gguf_put_u32(w, "general.alignment", 64), expect_begin(w, FS_E_USAGE, "keeps for itself");
    w = writer(path), fs_gguf_put_array(w, "k", FS_GGUF_STRING, 1, "x"), expect_begin(w, FS_E_USAGE, "no scalars");
    w = writer(path), fs_gguf_put_tensor(w, "t", FS_DTYPE_F32, 1, shape), fs_gguf_put_tensor(w, "t", FS_DTYPE_F32, 1, shape);
    expect_begin(w, FS_E_USAGE, "tensor t: is put twice");
    w = writer(path), fs_gguf_put_tensor(w, "0123456789012345678901234567890123456789012345678901234567890123", FS_DTYPE_F32, 1, shape);
    expect_begin(w, FS_E_USAGE, "1 to 63 bytes");
    w = writer(path), fs_gguf_put_tensor(w, "t", FS_DTYPE_F32, 5, shape), expect_begin(w, FS_E_USAGE, "tensor t: its type or shape");
    w = writer(path), fs_gguf_put_tensor(w, "t", FS_DTYPE_U8, 1, shape), expect_begin(w, FS_E_USAGE, "tensor t: its type or shape");
    w = writer(path), fs_gguf_put_tensor(w, "t", FS_DTYPE_Q4_K, 2, shape), expect_begin(w, FS_E_USAGE, "rows are whole blocks");
    w = writer(path), fs_gguf_put_tensor(w, "t", FS_DTYPE_F32, 2, huge), expect_begin(w, FS_E_IO, "MB of free disk space");
    w = writer(path), fs_gguf_put_tensor(w, "t", FS_DTYPE_F64, 2, wide), expect_begin(w, FS_E_LIMIT, "too large");
    w = writer(dir), fs_gguf_put_tensor(w, "t", FS_DTYPE_F32, 1, shape), expect_begin(w, FS_E_USAGE, "is a directory");
    w = writer(nowhere), fs_gguf_put_tensor(w, "t", FS_DTYPE_F32, 1, shape), expect_begin(w, FS_E_NOT_FOUND, "cannot write it");
    assert_int_equal(rmdir(dir), 0); /* nothing was left behind */
    free(path);
    free(nowhere);
}

static void unfinished_files_vanish(void **state) {
    (void)state;
    char dir[64];
    make_directory(dir);
    char *path = fs_path_join(dir, "out.gguf"), *partial = fs_path_join(dir, "out.gguf.partial");
    write_text(dir, "out.gguf", "older", 5);
    fs_error e = {0};
    const int64_t shape[1] = {4};
    const float x[5] = {1, 2, 3, 4, 5};
    fs_gguf_writer *w = writer(path);
    assert_int_equal(fs_gguf_writer_add(w, x, 4, &e), FS_E_INTERNAL);
    assert_int_equal(fs_gguf_writer_finish(w, &e), FS_E_INTERNAL);
    fs_gguf_put_tensor(w, "t", FS_DTYPE_F32, 1, shape);
    assert_ok(fs_gguf_writer_begin(w, err));
    assert_ok(fs_gguf_writer_add(w, x, 12, err));
    assert_int_equal(fs_gguf_writer_finish(w, &e), FS_E_INTERNAL);
    assert_message(&e, "tensor t: expected 16 bytes, found 12");
    /* a second run meanwhile leaves the first alone */
    fs_gguf_writer *second = writer(path);
    fs_gguf_put_tensor(second, "t", FS_DTYPE_F32, 1, shape);
    assert_int_equal(fs_gguf_writer_begin(second, &e), FS_E_IO);
    assert_message(&e, "another run is writing it");
    fs_gguf_writer_free(second);
    assert_true(fs_path_exists(partial));
    assert_int_equal(fs_gguf_writer_add(w, x, 8, &e), FS_E_INTERNAL); /* 4 bytes too many */
    fs_gguf_writer_free(w);
    assert_false(fs_path_exists(partial));
    size_t size;
    uint8_t *old = read_whole(path, &size);
    assert_true(size == 5 && memcmp(old, "older", 5) == 0);
    free(old);
    fs_gguf_writer_free(NULL);
    unlink(path);
    rmdir(dir);
    free(path);
    free(partial);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_of_the_package_are_read), cmocka_unit_test(wrong_questions_are_errors),  cmocka_unit_test(damaged_bundles_are_refused),
        cmocka_unit_test(damaged_files_are_harmless),    cmocka_unit_test(bad_heads_are_refused),       cmocka_unit_test(bad_fields_are_refused),
        cmocka_unit_test(bad_tensors_are_refused),       cmocka_unit_test(small_alignments_work),       cmocka_unit_test(our_bytes_are_the_packages),
        cmocka_unit_test(damaged_data_fails_verify),     cmocka_unit_test(verify_can_be_stopped),       cmocka_unit_test(mistakes_are_told_before_writing),
        cmocka_unit_test(unfinished_files_vanish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
