/* Attention over a key/value cache: against plain attention over the same numbers; the same bits in one step or many, alone or beside other
 * sequences; caches that grow, are copied and are refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "tensor/kv_cache.h"
#include "tensor/ops.h"

static fs_exec start(int threads) {
    fs_exec c = {0};
    fs_error err = {0};
    if (fs_exec_init(&c, FS_DTYPE_F32, threads, NULL, &err)) fail_msg("%s", err.message);
    return c;
}

static fs_tensor *random_3d(fs_exec *c, fs_rng *r, int64_t n, int64_t heads, int64_t d) {
    fs_tensor *t = fs_new_3d(c, n, heads, d);
    for (int64_t i = 0; i < n * heads * d; i++) fs_f32(t)[i] = (float)(2 * fs_rng_uniform(r) - 1);
    return t;
}

static double worst(const fs_tensor *a, const fs_tensor *b) {
    double most = 0;
    assert_int_equal(fs_tensor_count(a), fs_tensor_count(b));
    for (int64_t i = 0; i < fs_tensor_count(a); i++) most = fmax(most, fabs((double)fs_f32(a)[i] - (double)fs_f32(b)[i]));
    return most;
}

/* What the cache keeps of x. */
static fs_tensor *kept(fs_exec *c, const fs_tensor *x, fs_dtype type) {
    fs_tensor *y = fs_new(c, x->ndim, x->shape);
    memcpy(y->data, x->data, (size_t)fs_tensor_count(x) * sizeof(float));
    if (type == FS_DTYPE_Q8_0) {
        for (int64_t i = 0; i < fs_tensor_count(x); i += 32) {
            double most = 0;
            for (int64_t k = i; k < i + 32; k++) most = fmax(most, fabs((double)fs_f32(x)[k]));
            for (int64_t k = i; k < i + 32; k++) fs_f32(y)[k] = (float)(round((double)fs_f32(x)[k] / most * 127) * most / 127);
        }
        return y;
    }
    c->backend->round(fs_f32(y), fs_tensor_count(y), type);
    return y;
}

/* Sequences of odd lengths in odd steps, on both sides of FS_FEW_ROWS and over the edges of blocks. */
static void against_plain(void **state) {
    (void)state;
    static const fs_dtype types[] = {FS_DTYPE_F32, FS_DTYPE_F16, FS_DTYPE_BF16, FS_DTYPE_Q8_0};
    static const int64_t steps[][8] = {{300}, {1, 1, 1, 1}, {40, 1, 1, 3, 12, 13, 100, 130}, {127, 1, 1, 127, 5}, {5, 124, 7}};
    for (int t = 0; t < 4; t++)
        for (int shape = 0; shape < 3; shape++)
            for (int s = 0; s < 5; s++) {
                const int64_t heads = shape == 1 ? 6 : 4, kv = shape == 1 ? 2 : 4, d = shape == 2 ? 7 : 32;
                if (types[t] == FS_DTYPE_Q8_0 && d % 32) continue;
                fs_exec c = start(1 + s % 3);
                fs_rng r = fs_rng_seed((uint64_t)(100 * t + 10 * shape + s));
                fs_error err = {0};
                int64_t total = 0;
                for (int i = 0; i < 8; i++) total += steps[s][i];
                const fs_tensor *q = random_3d(&c, &r, total, heads, d), *k = random_3d(&c, &r, total, kv, d), *v = random_3d(&c, &r, total, kv, d);
                const fs_tensor *want = fs_attention(&c, q, kept(&c, k, types[t]), kept(&c, v, types[t]), 0.3f, true);
                fs_kv_cache cache = fs_kv_empty(types[t], 2, kv, d);
                for (int i = 0; i < 8 && steps[s][i]; i++) {
                    const int64_t from = cache.length, to = from + steps[s][i];
                    if (fs_kv_reserve(&cache, to, &err)) fail_msg("%s", err.message);
                    const fs_kv_part part = {.cache = &cache, .rows = to - from};
                    const fs_tensor *y = fs_attention_cached(&c, fs_rows(&c, q, from, to), fs_rows(&c, k, from, to), fs_rows(&c, v, from, to), &part,
                                                             1, 1, 0.3f);
                    if (fs_exec_status(&c, &err)) fail_msg("%s", err.message);
                    /* sums of up to 400 terms of at most 1 in other orders; in 8 bits a value on the edge may round to its other neighbour */
                    assert_true(worst(y, fs_rows(&c, want, from, to)) < (types[t] == FS_DTYPE_Q8_0 ? 2e-4 : 2e-6));
                    assert_int_equal(cache.length, from); /* moved on by the caller, after the last layer */
                    cache.length = to;
                }
                fs_kv_free(&cache);
                fs_exec_end(&c);
            }
}

enum { SEQUENCES = 3, HEADS = 4, D = 16 };

/* Three sequences in one call have the bits that each has in a call of its own, at any number of threads. */
static void parts_are_apart(void **state) {
    (void)state;
    static const int64_t lengths[SEQUENCES] = {200, 3, 127}, rows[SEQUENCES] = {1, 4, 2};
    for (int threads = 1; threads <= 4; threads++) {
        fs_exec c = start(threads);
        fs_error err = {0};
        fs_kv_cache a[SEQUENCES], b[SEQUENCES];
        fs_kv_part parts[SEQUENCES];
        fs_rng r = fs_rng_seed(5);
        int64_t at = 0;
        const fs_tensor *q = random_3d(&c, &r, 7, HEADS, D), *k = random_3d(&c, &r, 7, HEADS, D), *v = random_3d(&c, &r, 7, HEADS, D);
        for (int i = 0; i < SEQUENCES; i++) {
            a[i] = fs_kv_empty(FS_DTYPE_F16, 1, HEADS, D);
            b[i] = fs_kv_empty(FS_DTYPE_F16, 1, HEADS, D);
            if (fs_kv_reserve(&a[i], lengths[i] + rows[i], &err)) fail_msg("%s", err.message);
            const fs_tensor *x = random_3d(&c, &r, lengths[i], HEADS, D), *y = random_3d(&c, &r, lengths[i], HEADS, D);
            const fs_kv_part fill = {.cache = &a[i], .rows = lengths[i]};
            assert_non_null(fs_attention_cached(&c, x, x, y, &fill, 1, 0, 0.25f));
            a[i].length = lengths[i];
            if (fs_kv_copy(&b[i], &a[i], lengths[i], &err) || fs_kv_reserve(&b[i], lengths[i] + rows[i], &err)) fail_msg("%s", err.message);
            parts[i] = (fs_kv_part){&a[i], rows[i]};
        }
        const fs_tensor *together = fs_attention_cached(&c, q, k, v, parts, SEQUENCES, 0, 0.25f);
        assert_non_null(together);
        for (int i = 0; i < SEQUENCES; i++) {
            const fs_kv_part one = {&b[i], rows[i]};
            const fs_tensor *alone = fs_attention_cached(&c, fs_rows(&c, q, at, at + rows[i]), fs_rows(&c, k, at, at + rows[i]),
                                                         fs_rows(&c, v, at, at + rows[i]), &one, 1, 0, 0.25f);
            assert_non_null(alone);
            assert_memory_equal(alone->data, fs_rows(&c, together, at, at + rows[i])->data, (size_t)(rows[i] * HEADS * D) * sizeof(float));
            /* and row by row */
            for (int64_t k1 = 0; k1 < rows[i]; k1++) {
                const fs_kv_part row = {&b[i], 1};
                const fs_tensor *single = fs_attention_cached(&c, fs_rows(&c, q, at + k1, at + k1 + 1), fs_rows(&c, k, at + k1, at + k1 + 1),
                                                              fs_rows(&c, v, at + k1, at + k1 + 1), &row, 1, 0, 0.25f);
                assert_memory_equal(single->data, fs_rows(&c, together, at + k1, at + k1 + 1)->data, (size_t)(HEADS * D) * sizeof(float));
                b[i].length++;
            }
            at += rows[i];
        }
        for (int i = 0; i < SEQUENCES; i++) fs_kv_free(&a[i]), fs_kv_free(&b[i]);
        fs_exec_end(&c);
    }
}

static void misuse(void **state) {
    (void)state;
    fs_exec c = start(1);
    fs_rng r = fs_rng_seed(1);
    fs_error err = {0};
    fs_kv_cache cache = fs_kv_empty(FS_DTYPE_F32, 1, 2, 4);
    fs_kv_part part = {&cache, 3};
    const fs_tensor *x = random_3d(&c, &r, 3, 2, 4);
    assert_null(fs_attention_cached(&c, x, x, x, &part, 1, 0, 1)); /* no room was made */
    assert_int_equal(fs_exec_status(&c, &err), FS_E_MISMATCH);
    c.error = (fs_error){0};
    if (fs_kv_reserve(&cache, 3, &err)) fail_msg("%s", err.message);
    assert_non_null(fs_attention_cached(&c, x, x, x, &part, 1, 0, 1));
    assert_null(fs_attention_cached(&c, x, x, x, &part, 1, 1, 1)); /* there is one layer */
    c.error = (fs_error){0};
    part.rows = 2; /* not all of the rows */
    assert_null(fs_attention_cached(&c, x, x, x, &part, 1, 0, 1));
    assert_int_equal(fs_kv_reserve(&cache, INT64_MAX / 2, &err), FS_E_LIMIT);
    assert_int_equal(cache.capacity, FS_KV_BLOCK); /* what was there stays */
    assert_int_equal(fs_kv_token_bytes(FS_DTYPE_F16, 40, 40, 128), 2 * 40 * 40 * 128 * 2);
    assert_int_equal(fs_kv_token_bytes(FS_DTYPE_Q8_0, 40, 40, 128), 2 * 40 * 40 * (128 + 16));
    fs_kv_cache odd = fs_kv_empty(FS_DTYPE_Q8_0, 1, 2, 4);
    part = (fs_kv_part){&odd, 3};
    c.error = (fs_error){0};
    if (fs_kv_reserve(&odd, 3, &err)) fail_msg("%s", err.message);
    assert_null(fs_attention_cached(&c, x, x, x, &part, 1, 0, 1)); /* 4 is no multiple of 32 */
    fs_kv_free(&odd);
    fs_kv_free(&cache);
    fs_kv_free(&cache);
    fs_exec_end(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(against_plain), cmocka_unit_test(parts_are_apart), cmocka_unit_test(misuse)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
