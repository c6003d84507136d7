/* The loader over samples made up here: order, one and the same result for any number of threads, memory bounded, bad records, and stopping at
 * any moment. Meant to be run under the address and thread sanitizers too. */
#include "train_data_support.h"

#include <semaphore.h>
#include <stdatomic.h>

typedef struct fake {
    fs_samples base;
    const bool *bad;       /* [count] or NULL */
    fs_status how;         /* bad ones fail with this */
    atomic_int alive, most; /* samples in memory now, and ever */
    atomic_int loads;
    sem_t *gate;           /* load waits here */
    int64_t warns;         /* this record has a warning; -1: none */
} fake;

static fs_status fake_load(fs_samples *s, int64_t index, uint64_t draw, fs_sample *out, fs_error *err) {
    fake *f = (fake *)s;
    atomic_fetch_add(&f->loads, 1);
    if (f->gate)
        while (sem_wait(f->gate) != 0) {
        }
    if (f->bad && f->bad[index]) return fs_fail(err, f->how, "list: record %lld (x.jpg): broken", (long long)index);
    fs_rng r = fs_sample_rng(1, 2, index, draw);
    *out = (fs_sample){.index = index, .domain = -1, .width = 64};
    out->dtg = fs_alloc(64, sizeof *out->dtg);
    for (int i = 0; i < 64; i++) out->dtg[i] = (float)fs_rng_uniform(&r);
    if (index == f->warns) out->warning = fs_format("list: record %lld: odd", (long long)index);
    const int alive = atomic_fetch_add(&f->alive, 1) + 1;
    int most = atomic_load(&f->most);
    while (alive > most && !atomic_compare_exchange_weak(&f->most, &most, alive)) {
    }
    return FS_OK;
}

static void let_go(fake *f, fs_sample *s) {
    fs_sample_free(s);
    atomic_fetch_sub(&f->alive, 1);
}

static fake fake_of(int64_t n) { return (fake){.base = {.count = n, .load = fake_load}, .how = FS_E_FORMAT, .warns = -1}; }

/* The whole order, as a checksum of what came; `each` (may be NULL) takes the record of each place. */
static double run(fake *f, const int64_t *order, int64_t n, fs_loader_options o, int64_t *each) {
    fs_loader *l;
    fs_sample s;
    bool have;
    double sum = 0;
    assert_ok(fs_loader_open(&f->base, order, n, &o, &l, err));
    for (int64_t i = o.first; i <= n; i++) {
        assert_int_equal(fs_loader_position(l), i);
        assert_ok(fs_loader_next(l, &s, &have, err));
        assert_int_equal(have, i < n);
        if (!have) break;
        if (each) each[i] = s.index;
        for (int k = 0; k < 64; k++) sum = sum * 0.99 + (double)s.dtg[k];
        let_go(f, &s);
    }
    assert_ok(fs_loader_next(l, &s, &have, err)); /* the end stays the end */
    assert_false(have);
    fs_loader_close(l);
    assert_int_equal(atomic_load(&f->alive), 0);
    return sum;
}

static void test_order(void **state) {
    (void)state;
    enum { N = 200 };
    int64_t order[N], each[N];
    fake f = fake_of(N);
    fs_order_shuffled(3, 0, N, order);
    fs_loader_options o = fs_loader_options_defaults();
    o.workers = 0;
    const double want = run(&f, order, N, o, each);
    assert_memory_equal(each, order, sizeof order);
    for (int workers = 1; workers <= 8; workers += 7)
        for (int ahead = 1; ahead <= 300; ahead = ahead * 5 + 1) {
            o.workers = workers, o.ahead = ahead;
            f.most = 0;
            assert_true(run(&f, order, N, o, each) == want);
            assert_memory_equal(each, order, sizeof order);
            assert_in_range(atomic_load(&f.most), 1, ahead + 1); /* one more is in the caller's hand */
        }
    /* another draw gives other samples; going on in the middle gives the same rest */
    o.draw = 1;
    assert_true(run(&f, order, N, o, NULL) != want);
    int64_t rest[N] = {0};
    o.first = 150;
    run(&f, order, N, o, rest);
    assert_memory_equal(rest + 150, order + 150, 50 * sizeof *order);
    o.first = N;
    run(&f, order, N, o, NULL);
    free(f.base.told);
}

/* Bad records are replaced by the next good one, whatever the number of threads and wherever the run began. */
static void test_skip(void **state) {
    (void)state;
    enum { N = 40 };
    const int64_t order[8] = {5, 7, 30, 31, 2, 39, 0, 6}, want[8] = {5, 30, 30, 2, 2, 5, 5, 5};
    bool bad[N] = {[7] = true, [31] = true, [39] = true, [0] = true, [6] = true};
    kept_log log = {0};
    const fs_callbacks cb = callbacks_of(&log);
    fake f = fake_of(N);
    f.bad = bad;
    fs_loader_options o = fs_loader_options_defaults();
    o.bad = FS_BAD_SKIP;
    o.callbacks = &cb;
    for (int workers = 0; workers < 4; workers += 3)
        for (o.first = 0; o.first < 8; o.first++) {
            int64_t each[8];
            memcpy(each, want, sizeof each);
            o.workers = workers, o.ahead = 3;
            run(&f, order, 8, o, each);
            assert_memory_equal(each, want, sizeof want);
            free(f.base.told); /* all is said anew */
            f.base.told = NULL;
            int lines = 0;
            for (int64_t i = o.first; i < 8; i++) lines += bad[order[i]];
            expect_log(&log, lines, lines ? "record 6 (x.jpg): broken; the next record takes its place" : NULL);
        }
    /* none left */
    fs_loader *l;
    fs_sample s;
    bool have;
    fs_error e = {0};
    o.first = 0;
    o.workers = 2;
    assert_ok(fs_loader_open(&f.base, order + 5, 3, &o, &l, err));
    assert_int_equal(fs_loader_next(l, &s, &have, &e), FS_E_FAILED);
    assert_message(&e, "none of the 3 records");
    assert_int_equal(fs_loader_next(l, &s, &have, &e), FS_E_USAGE);
    fs_loader_close(l);
    expect_log(&log, 1, NULL);
    free(f.base.told);
}

/* Without replacement the order closes up. */
static void test_leave_out(void **state) {
    (void)state;
    const int64_t order[6] = {1, 0, 2, 3, 4, 5}, want[4] = {0, 3, 4, -1};
    const bool bad[6] = {[1] = true, [2] = true, [5] = true};
    for (int workers = 0; workers < 3; workers += 2) {
        kept_log log = {0};
        const fs_callbacks cb = callbacks_of(&log);
        fake f = fake_of(6);
        f.bad = bad;
        fs_loader_options o = {.workers = workers, .ahead = 2, .bad = FS_BAD_SKIP, .leave_out = true, .callbacks = &cb};
        fs_loader *l;
        fs_sample s = {0};
        bool have;
        assert_ok(fs_loader_open(&f.base, order, 6, &o, &l, err));
        for (int i = 0; i < 4; i++) {
            assert_ok(fs_loader_next(l, &s, &have, err));
            assert_int_equal(have, i < 3);
            if (!have) break;
            assert_int_equal(s.index, want[i]);
            let_go(&f, &s);
        }
        assert_int_equal(fs_loader_position(l), 6);
        expect_log(&log, 3, "record 5 (x.jpg): broken; it is left out");
        assert_int_equal(f.base.skipped, 3);
        fs_loader_close(l);
        free(f.base.told);
    }
}

/* Everything in front of a bad record comes; then its error, with its name. Memory that runs out is never skipped. */
static void test_fatal(void **state) {
    (void)state;
    const int64_t order[6] = {0, 1, 2, 3, 4, 5};
    const bool bad[6] = {[3] = true};
    for (int skip = 0; skip < 2; skip++) {
        fake f = fake_of(6);
        f.bad = bad;
        if (skip) f.how = FS_E_NO_MEMORY;
        fs_loader_options o = fs_loader_options_defaults();
        o.bad = skip ? FS_BAD_SKIP : FS_BAD_FATAL;
        fs_loader *l;
        fs_sample s;
        bool have;
        fs_error e = {0};
        assert_ok(fs_loader_open(&f.base, order, 6, &o, &l, err));
        for (int i = 0; i < 3; i++) {
            assert_ok(fs_loader_next(l, &s, &have, err));
            assert_int_equal(s.index, i);
            let_go(&f, &s);
        }
        assert_int_equal(fs_loader_next(l, &s, &have, &e), f.how);
        assert_message(&e, "record 3 (x.jpg)");
        fs_loader_close(l);
        free(f.base.told);
    }
}

static void test_warnings_come_once(void **state) {
    (void)state;
    const int64_t order[6] = {0, 1, 1, 0, 1, 2};
    kept_log log = {0};
    const fs_callbacks cb = callbacks_of(&log);
    fake f = fake_of(3);
    f.warns = 1;
    fs_loader_options o = fs_loader_options_defaults();
    o.callbacks = &cb;
    run(&f, order, 6, o, NULL);
    expect_log(&log, 1, "record 1: odd");
    run(&f, order, 6, o, NULL); /* nor in another pass */
    expect_log(&log, 0, NULL);
    free(f.base.told);
}

/* Closing with samples ready, in the making and not begun; after none, some and all were taken. */
static void test_close_early(void **state) {
    (void)state;
    enum { N = 50 };
    int64_t order[N];
    fs_order_shuffled(9, 0, N, order);
    for (int taken = 0; taken <= N; taken += 7) {
        fake f = fake_of(N);
        fs_loader_options o = {.workers = 3, .ahead = 5};
        fs_loader *l;
        fs_sample s;
        bool have;
        assert_ok(fs_loader_open(&f.base, order, N, &o, &l, err));
        for (int i = 0; i < taken; i++) {
            assert_ok(fs_loader_next(l, &s, &have, err));
            let_go(&f, &s);
        }
        fs_loader_close(l);
        free(f.base.told);
        assert_in_range(atomic_load(&f.loads), taken, taken + 5);
    }
    fs_loader_close(NULL);
}

/* A file system that does not answer must not keep a run from being stopped. */
static void test_cancel(void **state) {
    (void)state;
    const int64_t order[4] = {0, 1, 2, 3};
    sem_t gate;
    kept_log log = {.stop = false};
    const fs_callbacks cb = callbacks_of(&log);
    fake f = fake_of(4);
    fs_loader_options o = {.workers = 2, .ahead = 2, .callbacks = &cb};
    fs_loader *l;
    fs_sample s;
    bool have;
    fs_error e = {0};
    assert_int_equal(sem_init(&gate, 0, 1), 0);
    f.gate = &gate;
    assert_ok(fs_loader_open(&f.base, order, 1, &o, &l, err));
    assert_ok(fs_loader_next(l, &s, &have, err));
    let_go(&f, &s);
    fs_loader_close(l);
    assert_ok(fs_loader_open(&f.base, order, 4, &o, &l, err)); /* nothing passes the gate now */
    log.stop = true;
    assert_int_equal(fs_loader_next(l, &s, &have, &e), FS_E_CANCELLED);
    log.stop = false;
    for (int i = 0; i < 4; i++) assert_int_equal(sem_post(&gate), 0);
    assert_ok(fs_loader_next(l, &s, &have, err)); /* it can go on, too */
    assert_true(have && s.index == 0);
    let_go(&f, &s);
    fs_loader_close(l);
    free(f.base.told);
    sem_destroy(&gate);
}

static void test_wrong_options(void **state) {
    (void)state;
    const int64_t order[3] = {0, 1, 3};
    fake f = fake_of(3);
    fs_loader *l = NULL;
    fs_error e = {0};
    fs_loader_options o = fs_loader_options_defaults();
    assert_int_equal(fs_loader_open(&f.base, order, 3, &o, &l, &e), FS_E_INTERNAL);
    assert_int_equal(fs_loader_open(&f.base, order, -1, &o, &l, &e), FS_E_USAGE);
    fs_sample s;
    bool have = true;
    assert_ok(fs_loader_open(&f.base, order, 0, &o, &l, err)); /* a process that has nothing to do */
    assert_ok(fs_loader_next(l, &s, &have, err));
    assert_false(have);
    fs_loader_close(l);
    l = NULL;
    o.ahead = 0;
    assert_int_equal(fs_loader_open(&f.base, order, 2, &o, &l, &e), FS_E_USAGE);
    assert_null(l);
    fs_bad_record b;
    for (int i = 0; i < 2; i++) assert_true(fs_bad_record_from_name(fs_bad_record_name((fs_bad_record)i), &b) && (int)b == i);
    assert_false(fs_bad_record_from_name("never", &b));
    free(f.base.told);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order),  cmocka_unit_test(test_skip),  cmocka_unit_test(test_leave_out),      cmocka_unit_test(test_fatal), cmocka_unit_test(test_warnings_come_once),
                                       cmocka_unit_test(test_cancel), cmocka_unit_test(test_close_early), cmocka_unit_test(test_wrong_options)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
