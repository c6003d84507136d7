/* The pickle machine by itself: values it builds, and streams that must end in an error: unbalanced stacks, wild memo numbers,
 * huge lengths, items without containers. */
#include "unit/format_support.h"

#include "format/strmap.h"
#include "format/unpickle.h"

static fs_status run(const void *bytes, size_t n, fs_arena *arena, fs_pickle *out, fs_error *err) {
    uint8_t *copy = exact_copy(bytes, n);
    fs_status status = fs_unpickle("x.bin: data.pkl", copy, n, arena, out, err);
    if (status == FS_OK) assert_int_equal(out->used, n);
    free(copy); /* texts point into it: tests that look at them call fs_unpickle themselves */
    return status;
}

static void test_numbers(void **state) {
    (void)state;
    static const struct { const char *bytes; size_t n; int64_t value; } cases[] = {
        {"\x80\2K\7.", 5, 7},
        {"\x80\2M\x39\x30.", 6, 12345},
        {"\x80\2J\xFF\xFF\xFF\xFF.", 8, -1},
        {"\x80\2\x8a\0.", 5, 0},
        {"\x80\2\x8a\1\xFE.", 6, -2},
        {"\x80\2\x8a\5\0\0\0\0\1.", 10, INT64_C(1) << 32},
        {"\x80\2\x8a\x08\0\0\0\0\0\0\0\x80.", 13, INT64_MIN},
        {"\x80\2\x88.", 4, 1},
        {"\x80\2\x89.", 4, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_arena *arena = fs_arena_create(4096);
        fs_pickle p = {0};
        assert_ok(run(cases[i].bytes, cases[i].n, arena, &p, err));
        assert_true(p.value->kind == FS_PICKLE_INT || p.value->kind == FS_PICKLE_BOOL);
        assert_true(p.value->as.integer == cases[i].value);
        fs_arena_free(arena);
    }
}

static void test_tree(void **state) {
    (void)state;
    static const char bytes[] = "\x80\2}q\0(X\1\0\0\0aq\1]q\2(K\1G\x3F\xF8\0\0\0\0\0\0Neh\1)X\1\0\0\0b\x85h\2u.";
    /* pairs a: [1, 1.5, None], a: (), ("b",): the list again */
    fs_arena *arena = fs_arena_create(4096);
    fs_pickle p = {0};
    fs_error e = {0};
    fs_status status = fs_unpickle("x", (const uint8_t *)bytes, sizeof bytes - 1, arena, &p, &e);
    assert_int_equal(status, FS_OK);
    assert_int_equal(p.value->kind, FS_PICKLE_DICT);
    assert_int_equal(p.value->as.list.count, 6);
    const fs_pickle_value *list = p.value->as.list.items[1];
    assert_int_equal(list->kind, FS_PICKLE_LIST);
    assert_int_equal(list->as.list.count, 3);
    assert_int_equal(list->as.list.items[0]->as.integer, 1);
    assert_true(list->as.list.items[1]->as.real == 1.5);
    assert_int_equal(list->as.list.items[2]->kind, FS_PICKLE_NONE);
    assert_int_equal(fs_pickle_dict_get(p.value, "a")->kind, FS_PICKLE_TUPLE); /* the last one counts */
    assert_null(fs_pickle_dict_get(p.value, "zz"));
    fs_arena_free(arena);
}

static void test_errors(void **state) {
    (void)state;
    static const struct { const char *bytes; size_t n; fs_status status; const char *part; } cases[] = {
        {"", 0, FS_E_FORMAT, "cut short after 0 bytes"},
        {"\x80\2", 2, FS_E_FORMAT, "cut short after 2 bytes"},
        {".", 1, FS_E_FORMAT, "the pickle ends in the middle at byte 1"},
        {"NN.", 3, FS_E_FORMAT, "the pickle ends in the middle"},
        {"N(.", 3, FS_E_FORMAT, "the pickle ends in the middle"},
        {"X\xFF\xFF\xFF\xFF" "abc", 8, FS_E_FORMAT, "cut short"},
        {"\x8d\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF" "abc", 12, FS_E_FORMAT, "cut short"},
        {"X\2\0\0\0\xC3\x28.", 8, FS_E_FORMAT, "a string is no UTF-8 text"},
        {"h\0.", 3, FS_E_FORMAT, "never remembered"},
        {"j\xFF\xFF\xFF\xFF.", 6, FS_E_FORMAT, "never remembered"},
        {"Nr\xFF\xFF\xFF\xFF.", 7, FS_E_FORMAT, "a memo number is larger than the pickle"},
        {"q\0.", 3, FS_E_FORMAT, "nothing is there to remember"},
        {"(q\0.", 4, FS_E_FORMAT, "nothing is there to remember"},
        {"t.", 2, FS_E_FORMAT, "a mark is missing"},
        {"N\x86.", 3, FS_E_FORMAT, "a tuple needs more values"},
        {"NN(N\x86.", 6, FS_E_FORMAT, "a tuple needs more values"}, /* nothing is taken from below a mark */
        {"Na.", 3, FS_E_FORMAT, "items have no container"},
        {"NNa.", 4, FS_E_FORMAT, "items have no container"},
        {"](NNu.", 6, FS_E_FORMAT, "items have no container"},
        {"}(NNNu.", 7, FS_E_FORMAT, "items have no container"},
        {"]NNs.", 5, FS_E_FORMAT, "items have no container"},
        {"NNR.", 4, FS_E_FORMAT, "something is called that is no function"},
        {"N)R.", 4, FS_E_FORMAT, "something is called that is no function"},
        {"R.", 2, FS_E_FORMAT, "a call has no arguments"},
        {"]Nb.", 4, FS_E_UNSUPPORTED, "a Python object with attributes"},
        {"b.", 2, FS_E_FORMAT, "attributes have no object"},
        {"Q.", 2, FS_E_FORMAT, "a reference is missing"},
        {"NQ.", 3, FS_E_UNSUPPORTED, "that is no storage of a tensor"},
        {")Q.", 3, FS_E_UNSUPPORTED, "that is no storage of a tensor"},
        {"cos\nsystem\n.", 12, FS_E_UNSUPPORTED, "refuses to run 'os.system'"},
        {"cos\nsystem", 10, FS_E_FORMAT, "cut short"},
        {"ctorch\nFloatTensor\n.", 20, FS_E_UNSUPPORTED, "refuses to run 'torch.FloatTensor'"},
        {"cevil.torch\nSize\n.", 18, FS_E_UNSUPPORTED, "refuses to run 'evil.torch.Size'"},
        {"ctorch.cuda\nSize\n.", 18, FS_E_UNSUPPORTED, "refuses to run 'torch.cuda.Size'"},
        {"NN\x93.", 4, FS_E_FORMAT, "a callable has no name"},
        {"ccollections\nOrderedDict\nN\x85R.", 29, FS_E_FORMAT, "'collections.OrderedDict' is called with arguments"},
        {"ccollections\nOrderedDict\n]Na\x85R.", 31, FS_E_FORMAT, "'collections.OrderedDict' is called with arguments"},
        {"ctorch._utils\n_rebuild_tensor_v2\n)R.", 36, FS_E_FORMAT, "'torch._utils._rebuild_tensor_v2' is called with arguments"},
        {"ctorch._utils\n_rebuild_parameter\nNNN\x87R.", 39, FS_E_FORMAT, "'torch._utils._rebuild_parameter' is called with arguments"},
        {"\x80\x09N.", 4, FS_E_UNSUPPORTED, "expected pickle protocol 2 to 5, found 9"},
        {"i", 1, FS_E_UNSUPPORTED, "pickle opcode 0x69 at byte 0"},
        {"\x81", 1, FS_E_UNSUPPORTED, "pickle opcode 0x81"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_arena *arena = fs_arena_create(4096);
        fs_pickle p = {0};
        fs_error e = {0};
        if (run(cases[i].bytes, cases[i].n, arena, &p, &e) != cases[i].status) fail_msg("case %zu: %s", i, e.message);
        assert_message(&e, cases[i].part);
        assert_message(&e, "x.bin: data.pkl: ");
        assert_int_equal(run(cases[i].bytes, cases[i].n, arena, &p, NULL), cases[i].status);
        fs_arena_free(arena);
    }
}

/* A million nested lists, each within the other and one within itself: built, and not walked. */
static void test_deep_and_circular(void **state) {
    (void)state;
    enum { DEEP = 100000 };
    char *bytes = malloc(2 * DEEP + 10);
    fs_arena *arena = fs_arena_create(0);
    fs_pickle p = {0};
    size_t n = 0;
    for (int i = 0; i < DEEP; i++) bytes[n++] = ']';
    for (int i = 1; i < DEEP; i++) bytes[n++] = 'a';
    bytes[n++] = '.';
    assert_ok(run(bytes, n, arena, &p, err));
    assert_ok(run("]q\0h\0a.", 7, arena, &p, err));
    assert_ptr_equal(p.value->as.list.items[0], p.value);
    fs_arena_free(arena);
    free(bytes);
}

static void test_limits(void **state) {
    (void)state;
    const size_t n = ((size_t)1 << 20) + 10;
    char *bytes = malloc(n);
    fs_arena *arena = fs_arena_create(0);
    fs_pickle p = {0};
    fs_error e = {0};
    memset(bytes, 'N', n);
    assert_int_equal(run(bytes, n, arena, &p, &e), FS_E_LIMIT);
    assert_message(&e, "wait on the pickle's stack");
    memset(bytes, '(', n);
    assert_int_equal(run(bytes, n, arena, &p, &e), FS_E_LIMIT);
    assert_message(&e, "marks on the pickle's stack");
    fs_arena_free(arena);
    free(bytes);
}

static void test_strmap(void **state) {
    (void)state;
    enum { N = 5000 };
    static char keys[N][8];
    fs_strmap m = {0};
    bool added;
    assert_null(fs_strmap_get(&m, "x", 1));
    for (size_t i = 0; i < N; i++) {
        int n = snprintf(keys[i], sizeof keys[i], "k%zu", i);
        assert_int_equal(*fs_strmap_put(&m, keys[i], (size_t)n, i, &added), i);
        assert_true(added);
    }
    for (size_t i = 0; i < N; i++) {
        assert_int_equal(*fs_strmap_get(&m, keys[i], strlen(keys[i])), i);
        assert_int_equal(*fs_strmap_put(&m, keys[i], strlen(keys[i]), 7, &added), i); /* the older value stays */
        assert_false(added);
    }
    assert_int_equal(m.count, N);
    assert_null(fs_strmap_get(&m, "k50000", 6));
    assert_null(fs_strmap_get(&m, "k1", 1)); /* "k" */
    fs_strmap_free(&m);
    assert_null(fs_strmap_get(&m, "k1", 2));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),           cmocka_unit_test(test_tree),   cmocka_unit_test(test_errors),
        cmocka_unit_test(test_deep_and_circular), cmocka_unit_test(test_limits), cmocka_unit_test(test_strmap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
