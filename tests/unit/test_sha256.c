/* SHA-256 with the processor's own instructions against plain C, at every length around the block's, in pieces of every size, and both
 * against what FIPS 180-4 gives. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base.h"

typedef void begin(fs_sha256 *s);

static void sum(begin *start, const uint8_t *data, size_t size, size_t piece, char out[65]) {
    fs_sha256 s;
    start(&s);
    for (size_t at = 0; at < size; at += piece) fs_sha256_add(&s, data + at, at + piece < size ? piece : size - at);
    fs_sha256_end(&s, out);
}

static void test_known(void **state) {
    (void)state;
    static const struct {
        const char *text, *hex;
    } known[] = {
        {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
        {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
        {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"}};
    begin *const starts[] = {fs_sha256_begin, fs_sha256_begin_plain};
    char hex[65];
    for (size_t i = 0; i < 3; i++)
        for (size_t k = 0; k < 2; k++) {
            sum(starts[k], (const uint8_t *)known[i].text, strlen(known[i].text), 7, hex);
            assert_string_equal(hex, known[i].hex);
        }
}

static void test_pieces(void **state) {
    (void)state;
    enum { MOST = 700 };
    uint8_t *data = malloc(MOST);
    assert_non_null(data);
    fs_rng rng = fs_rng_seed(5);
    char plain[65], fast[65];
    for (size_t i = 0; i < MOST; i++) data[i] = (uint8_t)fs_rng_next(&rng);
    for (size_t size = 0; size < MOST; size += size < 260 ? 1 : 37) {
        const uint8_t *tail = data + MOST - size; /* every alignment */
        sum(fs_sha256_begin_plain, tail, size, MOST, plain);
        for (size_t piece = 1; piece < 200; piece += piece < 70 ? 1 : 31) {
            sum(fs_sha256_begin, tail, size, piece, fast);
            assert_string_equal(fast, plain);
        }
    }
    free(data);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_known), cmocka_unit_test(test_pieces)};
    return cmocka_run_group_tests_name("sha256", tests, NULL, NULL);
}
