/* The order of training records against LLaVA's sampler, PyTorch's DistributedSampler and accelerate's BatchSamplerShard, given the same
 * permutations (tests/golden/train_data/order.json); and what our own permutations promise. */
#include "train_data_support.h"

typedef struct injected {
    json_t *list;
    size_t next;
} injected;

static void take_permutation(void *user, int64_t n, int64_t *out) {
    injected *q = user;
    json_t *p = json_array_get(q->list, q->next++);
    assert_int_equal(json_array_size(p), n);
    for (int64_t i = 0; i < n; i++) out[i] = json_integer_value(json_array_get(p, (size_t)i));
}

static int64_t *numbers(json_t *list) {
    int64_t *v = fs_alloc(json_array_size(list) + 1, sizeof *v);
    assert_non_null(v);
    for (size_t i = 0; i < json_array_size(list); i++) v[i] = json_integer_value(json_array_get(list, i));
    return v;
}

static void expect_order(const char *what, size_t which, json_t *want, const int64_t *got, int64_t n) {
    if ((int64_t)json_array_size(want) != n) fail_msg("%s %zu: %zu records expected, %lld found", what, which, json_array_size(want), (long long)n);
    for (int64_t i = 0; i < n; i++)
        if (json_integer_value(json_array_get(want, (size_t)i)) != got[i])
            fail_msg("%s %zu: place %lld: record %lld expected, %lld found", what, which, (long long)i,
                     (long long)json_integer_value(json_array_get(want, (size_t)i)), (long long)got[i]);
}

static void test_by_length(void **state) {
    (void)state;
    json_t *g = golden("order.json"), *list = json_object_get(g, "grouped");
    assert_int_equal(json_array_size(list), 15);
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *one = json_array_get(list, i), *lengths = json_object_get(one, "lengths");
        const int64_t n = (int64_t)json_array_size(lengths);
        injected q = {json_object_get(one, "permutations"), 0};
        const fs_permuter p = {take_permutation, &q};
        int64_t *v = numbers(lengths), *out = fs_alloc((size_t)n, sizeof *out);
        assert_non_null(out);
        assert_ok(fs_order_by_length(v, n, number(one, "batch"), number(one, "world"), &p, out, err));
        assert_int_equal(q.next, json_array_size(q.list));
        expect_order("grouped", i, json_object_get(one, "order"), out, n);
        free(v);
        free(out);
    }
    json_decref(g);
}

static void test_divided(void **state) {
    (void)state;
    json_t *g = golden("order.json"), *list = json_object_get(g, "divided");
    assert_int_equal(json_array_size(list), 60);
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *one = json_array_get(list, i), *order = json_object_get(one, "order"), *each = json_object_get(one, "each");
        int64_t *v = numbers(order), *mine, n;
        for (size_t r = 0; r < json_array_size(each); r++) {
            assert_ok(fs_order_divide(v, (int64_t)json_array_size(order), number(one, "batch"), number(one, "world"), (int64_t)r, &mine, &n, err));
            expect_order("divided", i, json_array_get(each, r), mine, n);
            free(mine);
        }
        free(v);
    }
    json_decref(g);
}

static void test_distributed(void **state) {
    (void)state;
    json_t *g = golden("order.json"), *list = json_object_get(g, "distributed");
    for (size_t i = 0; i < json_array_size(list); i++) {
        json_t *one = json_array_get(list, i), *each = json_object_get(one, "each"), *permutations = json_pack("[O]", json_object_get(one, "permutation"));
        const int64_t n = (int64_t)json_array_size(json_array_get(permutations, 0));
        for (size_t r = 0; r < json_array_size(each); r++) {
            int64_t *mine, count;
            injected q = {permutations, 0};
            const fs_permuter p = {take_permutation, &q};
            assert_ok(fs_order_distributed(n, number(one, "world"), (int64_t)r, &p, &mine, &count, err));
            expect_order("distributed", i, json_array_get(each, r), mine, count);
            free(mine);
        }
        json_decref(permutations);
    }
    json_decref(g);
}

/* Pinned: runs are resumed by these numbers. Each pass is a permutation, another one than the last, and the same one again when asked for again. */
static void test_own(void **state) {
    (void)state;
    enum { N = 1000 };
    int64_t a[N], b[N], c[N];
    bool seen[N] = {false};
    fs_order_shuffled(42, 0, N, a);
    fs_order_shuffled(42, 1, N, b);
    fs_order_shuffled(42, 0, N, c);
    assert_memory_equal(a, c, sizeof a);
    assert_memory_not_equal(a, b, sizeof a);
    for (int i = 0; i < N; i++) seen[a[i]] = true;
    for (int i = 0; i < N; i++) assert_true(seen[i]);
    int fixed = 0;
    for (int i = 0; i < N; i++) fixed += a[i] == i;
    assert_in_range(fixed, 0, 8); /* one is expected; more than 8 has probability 1e-6 and the seed is fixed */
    /* pairs stay beside each other, every one once, in the permutation's order */
    int64_t pairs[2 * N];
    fs_permuter_state twins;
    const fs_permuter p = fs_permuter_seeded(&twins, 42, 0);
    fs_order_pairs(2 * N, &p, pairs);
    for (int i = 0; i < N; i++) assert_true(pairs[2 * i] == 2 * a[i] && pairs[2 * i + 1] == 2 * a[i] + 1);
    int64_t first[5];
    fs_order_shuffled(1, 2, 5, first);
    const int64_t pinned[5] = {2, 0, 1, 4, 3}; /* by the same steps in Python */
    assert_memory_equal(first, pinned, sizeof first);
    /* one process without permuter takes all in order */
    int64_t *mine, n;
    assert_ok(fs_order_distributed(5, 2, 1, NULL, &mine, &n, err));
    assert_int_equal(n, 3);
    assert_true(mine[0] == 1 && mine[1] == 3 && mine[2] == 0);
    free(mine);
    fs_error e = {0};
    assert_int_equal(fs_order_distributed(5, 2, 2, NULL, &mine, &n, &e), FS_E_USAGE);
    assert_int_equal(fs_order_divide(first, 0, 2, 1, 0, &mine, &n, &e), FS_E_USAGE);
    assert_int_equal(fs_order_by_length(first, 5, INT64_MAX, 2, NULL, a, &e), FS_E_USAGE);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_by_length), cmocka_unit_test(test_divided), cmocka_unit_test(test_distributed),
                                       cmocka_unit_test(test_own)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
