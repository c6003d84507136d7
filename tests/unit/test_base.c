/* The ground floor: half-precision conversions exhaustively, SHA-256 and the generator against published values, arena, files, errors. */
#include <fcntl.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"

static uint32_t bits(float f) {
    uint32_t u;
    memcpy(&u, &f, 4);
    return u;
}

/* Nearest f16 by definition: among all finite halves and infinity's threshold, ties to the even pattern. */
static uint16_t nearest_half(float f) {
    const double a = fabs((double)f);
    const uint16_t sign = signbit(f) ? 0x8000 : 0;
    if (a >= 65520) return sign | 0x7C00;
    uint16_t lo = 0, hi = 0x7BFF; /* finite halves are ordered like their patterns */
    while (hi - lo > 1) {
        uint16_t mid = (uint16_t)((lo + hi) / 2);
        if ((double)fs_f16_to_f32(mid) <= a) lo = mid;
        else hi = mid;
    }
    const double below = a - (double)fs_f16_to_f32(lo), above = (double)fs_f16_to_f32(hi) - a;
    if (below < above) return sign | lo;
    if (above < below) return sign | hi;
    return sign | (lo % 2 ? hi : lo);
}

static void half_round_trips(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = fs_f16_to_f32((uint16_t)h);
        if (isnan(f)) {
            assert_true(isnan(fs_f16_to_f32(fs_f32_to_f16(f))));
            continue;
        }
        assert_int_equal(fs_f32_to_f16(f), h);
        assert_int_equal(fs_f32_to_bf16(fs_bf16_to_f32((uint16_t)h)), h);
    }
    assert_true(fs_f16_to_f32(0x3C00) == 1.0f && fs_f16_to_f32(0x0001) == 0x1p-24f && fs_f16_to_f32(0x7BFF) == 65504.0f);
}

static void half_rounds_to_nearest_even(void **state) {
    (void)state;
    fs_rng rng = fs_rng_seed(1);
    for (int i = 0; i < 200000; i++) {
        uint32_t u = (uint32_t)fs_rng_next(&rng);
        if (i % 2) u = (u & 0x8FFFFFFFu) | 0x30000000u; /* more of them within f16's range */
        float f;
        memcpy(&f, &u, 4);
        if (isnan(f)) continue;
        assert_int_equal(fs_f32_to_f16(f), nearest_half(f));
        /* bf16 by definition: the two neighbours that truncation and one step up give */
        const uint32_t down = u & 0xFFFF0000u, rest = u & 0xFFFFu;
        uint32_t expected = down >> 16;
        if (rest > 0x8000u || (rest == 0x8000u && (expected & 1))) expected++;
        assert_int_equal(fs_f32_to_bf16(f), expected);
    }
    assert_true(isnan(fs_bf16_to_f32(fs_f32_to_bf16(NAN))) && isnan(fs_f16_to_f32(fs_f32_to_f16(NAN))));
    const uint32_t sneaky = 0x7F800001; /* a NaN whose payload a plain shift would lose */
    float f;
    memcpy(&f, &sneaky, 4);
    assert_true(isnan(fs_bf16_to_f32(fs_f32_to_bf16(f))) && isnan(fs_f16_to_f32(fs_f32_to_f16(f))));
    assert_int_equal(bits(fs_f16_to_f32(0x8000)), 0x80000000u);
}

static void sha256_known_answers(void **state) { /* FIPS 180-4 examples */
    (void)state;
    char hex[65];
    fs_sha256_hex("", 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    fs_sha256_hex("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    fs_sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, hex);
    assert_string_equal(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *million = malloc(1000000);
    memset(million, 'a', 1000000);
    fs_sha256_hex(million, 1000000, hex);
    free(million);
    assert_string_equal(hex, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

static void generator_is_pinned(void **state) { /* xoshiro256** with the state {1,2,3,4}: the authors' code gives these */
    (void)state;
    fs_rng r = {{1, 2, 3, 4}};
    const uint64_t expected[] = {11520u, 0u, 1509978240u, 1215971899390074240u};
    for (size_t i = 0; i < 4; i++) assert_true(fs_rng_next(&r) == expected[i]);
    r = fs_rng_seed(42);
    double sum = 0;
    for (int i = 0; i < 100000; i++) {
        const double u = fs_rng_uniform(&r);
        assert_true(u >= 0 && u < 1);
        sum += u;
    }
    assert_true(fabs(sum / 100000 - 0.5) < 0.005); /* 5 standard errors */
}

static void philox_is_pinned(void **state) { /* the known answers that its authors publish with Random123 */
    (void)state;
    static const struct { uint32_t counter[4], key[2], expected[4]; } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}, {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint32_t out[4];
        fs_philox(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].expected, sizeof out);
    }
}

static void arena_reuses_and_aligns(void **state) {
    (void)state;
    fs_arena *a = fs_arena_create(4096);
    const fs_arena_mark empty = fs_arena_get_mark(a);
    char *first = fs_arena_alloc(a, 100);
    memset(first, 7, 100);
    const fs_arena_mark mark = fs_arena_get_mark(a);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 1; i < 200; i++) {
            char *p = fs_arena_alloc(a, 37 * i);
            assert_non_null(p);
            assert_true((uintptr_t)p % 64 == 0);
            memset(p, 1, 37 * i);
        }
        fs_arena_release(a, mark);
    }
    for (int i = 0; i < 100; i++) assert_int_equal(first[i], 7);
    const size_t peak = fs_arena_peak(a);
    fs_arena_alloc(a, 64);
    assert_true(fs_arena_peak(a) == peak);
    fs_arena_release(a, empty);
    assert_ptr_equal(fs_arena_alloc(a, 10), first);
    assert_null(fs_arena_alloc(a, SIZE_MAX - 10));
    fs_arena_free(a);
    fs_arena_free(NULL);
}

static void allocation_checks_overflow(void **state) {
    (void)state;
    assert_null(fs_alloc(SIZE_MAX / 2, 3));
    assert_null(fs_alloc(SIZE_MAX, 1));
    void *p = fs_alloc(0, 4);
    assert_non_null(p);
    free(p);
}

static void errors_are_one_clean_line(void **state) {
    (void)state;
    fs_error e = {0};
    assert_int_equal(fs_fail(&e, FS_E_FORMAT, "file %s: %d", "evil\x1b[2J\nname", 5), FS_E_FORMAT);
    assert_string_equal(e.message, "file evil?[2J name: 5");
    fs_error_prefix(&e, "outer %d", 1);
    assert_string_equal(e.message, "outer 1: file evil?[2J name: 5");
    assert_int_equal(e.status, FS_E_FORMAT);
    char longer[4096];
    for (size_t i = 0; i + 2 < sizeof longer; i += 2) memcpy(longer + i, "\xC3\xA9", 3); /* U+00E9 over and over */
    fs_fail(&e, FS_E_IO, "%s", longer);
    const size_t n = strlen(e.message);
    assert_true(n < sizeof e.message && strcmp(e.message + n - 3, "...") == 0);
    assert_int_equal((unsigned char)e.message[n - 4], 0xA9); /* cut between characters */
    fs_fail(NULL, FS_E_IO, "nobody listens");
}

static void files_are_whole_or_untouched(void **state) {
    (void)state;
    fs_error e = {0};
    char dir[] = "/tmp/fs-base-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char *deep = fs_path_join(dir, "a/b/c"), *file = fs_path_join(deep, "x.bin");
    assert_int_equal(fs_make_dirs(deep, &e), FS_OK);
    assert_int_equal(fs_make_dirs(deep, &e), FS_OK);
    assert_int_equal(fs_write_file(file, "hello", 5, &e), FS_OK);
    assert_int_equal(fs_make_dirs(file, &e), FS_E_USAGE);
    fs_mapping m;
    assert_int_equal(fs_map_file(file, &m, &e), FS_OK);
    assert_true(m.size == 5 && memcmp(m.data, "hello", 5) == 0);
    fs_unmap(&m);
    uint8_t *data;
    size_t size;
    assert_int_equal(fs_read_file(file, 4, &data, &size, &e), FS_E_LIMIT);
    assert_null(data);
    assert_int_equal(fs_read_file(file, 5, &data, &size, &e), FS_OK);
    assert_true(size == 5 && data[5] == 0);
    free(data);
    assert_int_equal(fs_read_file(deep, 5, &data, &size, &e), FS_E_USAGE);
    assert_int_equal(fs_map_file("/nonexistent/x", &m, &e), FS_E_NOT_FOUND);
    assert_int_equal(fs_write_file(deep, "x", 1, &e), FS_E_USAGE);
    char *fifo = fs_path_join(dir, "pipe");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(fs_read_file(fifo, 5, &data, &size, &e), FS_E_UNSUPPORTED); /* and does not hang */
    assert_int_equal(fs_write_file("/dev/full/x", "x", 1, &e), FS_E_NOT_FOUND);
    unlink(fifo), unlink(file);
    for (const char *const *sub = (const char *const[]){"a/b/c", "a/b", "a", ".", NULL}; *sub; sub++) {
        char *path = strcmp(*sub, ".") == 0 ? fs_strdup(dir) : fs_path_join(dir, *sub);
        assert_int_equal(rmdir(path), 0); /* nothing temporary is left behind */
        free(path);
    }
    free(fifo), free(file), free(deep);
}

static void names_go_both_ways(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        fs_verdict v;
        fs_domain d;
        assert_true(fs_verdict_from_name(fs_verdict_name((fs_verdict)i), &v) && (int)v == i);
        assert_true(fs_domain_from_name(fs_domain_name((fs_domain)i), &d) && (int)d == i);
    }
    fs_precision p = FS_PRECISION_F16;
    assert_false(fs_precision_from_name("f64", &p));
    assert_false(fs_precision_from_name(NULL, &p));
    assert_int_equal(p, FS_PRECISION_F16);
    assert_string_equal(fs_verdict_name((fs_verdict)99), "unknown");
    for (int i = 0; i <= FS_E_INTERNAL; i++) assert_string_not_equal(fs_status_name((fs_status)i), "unknown");
}

static void paths_and_buffers(void **state) {
    (void)state;
    char *p = fs_path_join("a/", "b");
    assert_string_equal(p, "a/b");
    free(p);
    p = fs_path_join("a", "/b");
    assert_string_equal(p, "/b");
    free(p);
    assert_string_equal(fs_path_base("x/y.jpg"), "y.jpg");
    assert_string_equal(fs_path_base("y.jpg"), "y.jpg");
    fs_buffer b = {0};
    for (int i = 0; i < 1000; i++) fs_buffer_printf(&b, "%d,", i);
    assert_false(b.failed);
    assert_int_equal(b.size, strlen(b.data));
    assert_string_equal(b.data + b.size - 8, "998,999,");
    fs_buffer_free(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_round_trips), cmocka_unit_test(half_rounds_to_nearest_even), cmocka_unit_test(sha256_known_answers),
        cmocka_unit_test(generator_is_pinned), cmocka_unit_test(philox_is_pinned), cmocka_unit_test(arena_reuses_and_aligns), cmocka_unit_test(allocation_checks_overflow),
        cmocka_unit_test(errors_are_one_clean_line), cmocka_unit_test(files_are_whole_or_untouched), cmocka_unit_test(names_go_both_ways),
        cmocka_unit_test(paths_and_buffers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
