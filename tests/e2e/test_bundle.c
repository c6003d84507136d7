/* Running from a bundle: in f32 it gives what the checkpoint it was made from gives, to the last digit; in 8 and 4 bits the same words and
 * nearly the same mask; damaged or mixed-up bundles are refused in one line. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "format/gguf.h"
#include "pipeline/bundle.h"
#include "pipeline/pipeline.h"

#define PICTURE FS_GOLDEN_DIR "/e2e_tall.png"

static char folder[] = "/tmp/fs-bundle-XXXXXX";

static char *bundle(const char *type) {
    char *path = fs_path_join(folder, type);
    fs_options opt = fs_options_defaults();
    fs_error err = {0};
    if (!fs_path_exists(path) && fs_convert(FS_TINY_DIR, path, type, &opt, &err)) fail_msg("%s", err.message);
    return path;
}

static fs_result *detect(const char *model, int threads) {
    fs_options opt = fs_options_defaults();
    opt.threads = threads;
    fs_detector *d = NULL;
    fs_result *r = NULL;
    fs_error err = {0};
    if (fs_detector_create(model, &opt, &d, &err) || fs_detect(d, PICTURE, &r, &err)) fail_msg("%s", err.message);
    fs_detector_free(d);
    return r;
}

static void f32_is_the_checkpoint(void **state) {
    (void)state;
    char *path = bundle("f32");
    fs_result *a = detect(FS_TINY_DIR, 2), *b = detect(path, 3);
    assert_string_equal(fs_result_text(a), fs_result_text(b));
    assert_true(fs_result_score(a) == fs_result_score(b));
    assert_memory_equal(fs_result_domain_probabilities(a), fs_result_domain_probabilities(b), 3 * sizeof(float));
    assert_int_equal(fs_result_width(a), fs_result_width(b));
    assert_memory_equal(fs_result_mask_logits(a), fs_result_mask_logits(b), (size_t)(fs_result_width(a) * fs_result_height(a)) * sizeof(float));
    fs_result_free(a);
    fs_result_free(b);
    free(path);
}

static double overlap(const fs_result *a, const fs_result *b) { /* intersection over union */
    int64_t both = 0, either = 0;
    for (int64_t i = 0; i < fs_result_width(a) * fs_result_height(a); i++) {
        both += fs_result_mask(a)[i] && fs_result_mask(b)[i];
        either += fs_result_mask(a)[i] || fs_result_mask(b)[i];
    }
    return (double)both / (double)either;
}

static void fewer_bits_say_the_same(void **state) {
    (void)state;
    static const char *const types[] = {"f16", "q8_0", "mixed"};
    fs_result *whole = detect(FS_TINY_DIR, 2);
    for (int i = 0; i < 3; i++) {
        char *path = bundle(types[i]);
        fs_result *r = detect(path, 2), *again = detect(path, 1);
        print_message("%s: score %.6f (whole %.6f), mask IoU %.4f\n", types[i], fs_result_score(r), fs_result_score(whole), overlap(whole, r));
        assert_string_equal(fs_result_text(r), fs_result_text(whole));
        assert_int_equal(fs_result_verdict(r), fs_result_verdict(whole));
        /* the toy's mask hangs on few numbers; 8 bits keep it within a few pixels of 12000, a mixture of 4 and 6 bits nearly so */
        assert_true(overlap(whole, r) > (strcmp(types[i], "mixed") == 0 ? 0.90 : 0.97));
        assert_memory_equal(fs_result_mask(r), fs_result_mask(again), (size_t)(fs_result_width(r) * fs_result_height(r)));
        fs_result_free(r);
        fs_result_free(again);
        free(path);
    }
    fs_result_free(whole);
}

static void expect_refusal(const char *model, fs_status status, const char *words) {
    fs_options opt = fs_options_defaults();
    fs_detector *d = NULL;
    fs_error err = {0};
    fs_status s = fs_detector_create(model, &opt, &d, &err);
    if (!s) s = fs_detector_check(d, 1, &err);
    fs_detector_free(d);
    assert_int_equal(s, status);
    if (!strstr(err.message, words)) fail_msg("\"%s\" lacks \"%s\"", err.message, words);
}

static void damage_is_refused(void **state) {
    (void)state;
    fs_error err = {0};
    uint8_t *data = NULL;
    size_t size = 0;
    char *from = bundle("q8_0"), *to = fs_path_join(folder, "damaged"), *lm = fs_path_join(from, FS_BUNDLE_DTE), *lm2 = fs_path_join(to, FS_BUNDLE_DTE),
         *vision = fs_path_join(from, FS_BUNDLE_VISION), *vision2 = fs_path_join(to, FS_BUNDLE_VISION);
    assert_int_equal(fs_make_dirs(to, &err), FS_OK);
    assert_int_equal(fs_read_file(vision, SIZE_MAX, &data, &size, &err), FS_OK);
    assert_int_equal(fs_write_file(vision2, data, size, &err), FS_OK);
    free(data);
    expect_refusal(to, FS_E_NOT_FOUND, "DTE-FDM"); /* neither language model is there */
    assert_int_equal(fs_read_file(lm, SIZE_MAX, &data, &size, &err), FS_OK);
    assert_int_equal(fs_write_file(lm2, data, size - 1000, &err), FS_OK); /* cut */
    expect_refusal(to, FS_E_FORMAT, FS_BUNDLE_DTE);
    data[200] ^= 1; /* in the header */
    assert_int_equal(fs_write_file(lm2, data, size, &err), FS_OK);
    expect_refusal(to, FS_E_FORMAT, FS_BUNDLE_DTE);
    data[200] ^= 1;
    assert_int_equal(fs_write_file(lm2, data, size, &err), FS_OK);
    assert_int_equal(fs_verify(to, NULL, &err), FS_OK);
    data[size - 100] ^= 1; /* in a tensor: opening does not read it, verify does */
    assert_int_equal(fs_write_file(lm2, data, size, &err), FS_OK);
    assert_int_equal(fs_verify(to, NULL, &err), FS_E_FORMAT);
    free(data);
    free(from), free(to), free(lm), free(lm2), free(vision), free(vision2);
}

/* ---- any byte of any header, any cut ---- */

/* The bundle in `dir`, one of whose files is damaged, through every door: each must say so in one line that names the file. */
static void expect_all_refuse(const char *dir, const char *file, bool stage1, const char *what, size_t at) {
    fs_options opt = fs_options_defaults();
    opt.threads = 1;
    for (int door = 0; door < 3; door++) {
        fs_detector *d = NULL;
        fs_error err = {0};
        fs_status s = door == 2 ? fs_verify(dir, NULL, &err) : fs_detector_create(dir, &opt, &d, &err);
        if (!s && door < 2) s = door == 0 ? fs_detector_check(d, stage1 ? 1 : 2, &err) : fs_detector_load(d, stage1 ? 1 : 2, &err);
        fs_detector_free(d);
        if (s == FS_OK || !strstr(err.message, file) || strchr(err.message, '\n') || s != err.status)
            fail_msg("%s %s at %zu, door %d: status %d, \"%s\"", file, what, at, door, (int)s, err.message);
    }
}

static size_t header_size(const char *path) {
    fs_archive *a = NULL;
    fs_error err = {0};
    size_t first = SIZE_MAX;
    uint8_t *data = NULL;
    size_t size = 0;
    assert_int_equal(fs_read_file(path, SIZE_MAX, &data, &size, &err), FS_OK);
    assert_int_equal(fs_gguf_read("x", data, size, &a, &err), FS_OK);
    for (size_t i = 0; i < fs_archive_count(a); i++) {
        const size_t at = (size_t)((const uint8_t *)fs_archive_get(a, i).tensor->data - data);
        first = at < first ? at : first;
    }
    fs_archive_free(a);
    free(data);
    return first;
}

static void no_damaged_header_is_believed(void **state) {
    (void)state;
    enum { EVERY = 40, SOME = 60 }; /* the first bytes one by one, then places all over the header, by a fixed seed */
    static const char *const files[] = {FS_BUNDLE_DTE, FS_BUNDLE_MFLM, FS_BUNDLE_VISION};
    fs_rng r = fs_rng_seed(5);
    fs_error err = {0};
    char *from = bundle("q8_0"), *to = fs_path_join(folder, "damaged");
    assert_int_equal(fs_make_dirs(to, &err), FS_OK);
    for (int f = 0; f < 3; f++) {
        uint8_t *data = NULL;
        size_t size = 0;
        char *source = fs_path_join(from, files[f]), *path = fs_path_join(to, files[f]);
        assert_int_equal(fs_read_file(source, SIZE_MAX, &data, &size, &err), FS_OK);
        assert_int_equal(fs_write_file(path, data, size, &err), FS_OK);
        free(data), free(source), free(path);
    }
    for (int f = 0; f < 3; f++) {
        uint8_t *data = NULL;
        size_t size = 0;
        char *path = fs_path_join(to, files[f]);
        const size_t head = header_size(path);
        assert_int_equal(fs_read_file(path, SIZE_MAX, &data, &size, &err), FS_OK);
        assert_true(head > EVERY && head < size);
        const int fd = open(path, O_WRONLY);
        assert_true(fd >= 0);
        for (size_t i = 0; i < EVERY + SOME; i++) {
            const size_t at = i < EVERY ? i : i == EVERY ? head - 1 : (size_t)(fs_rng_next(&r) % head);
            const uint8_t wrong = data[at] ^ (uint8_t)(1 + fs_rng_next(&r) % 255);
            assert_int_equal(pwrite(fd, &wrong, 1, (off_t)at), 1);
            expect_all_refuse(to, files[f], f != 1, "with a wrong byte", at);
            assert_int_equal(pwrite(fd, &data[at], 1, (off_t)at), 1);
        }
        for (size_t i = 0; i < EVERY + SOME; i++) { /* ever shorter: the last byte, a few all over, and down to nothing byte by byte */
            const size_t left = i == 0 ? size - 1 : i < SOME ? (size - 1) / SOME * (SOME - i) : EVERY + SOME - 1 - i;
            assert_int_equal(ftruncate(fd, (off_t)left), 0);
            expect_all_refuse(to, files[f], f != 1, "cut", left);
        }
        close(fd);
        assert_int_equal(fs_write_file(path, data, size, &err), FS_OK);
        free(data), free(path);
    }
    assert_int_equal(fs_verify(to, NULL, &err), FS_OK); /* whole again */
    free(from), free(to);
}

static int make_folder(void **state) { return (void)state, mkdtemp(folder) == NULL; }
static int remove_folder(void **state) {
    (void)state;
    static const char *const types[] = {"f32", "f16", "q8_0", "mixed", "damaged"}, *const files[] = {FS_BUNDLE_DTE, FS_BUNDLE_MFLM, FS_BUNDLE_VISION};
    for (int i = 0; i < 5; i++) {
        char *dir = fs_path_join(folder, types[i]);
        for (int k = 0; k < 3; k++) {
            char *file = fs_path_join(dir, files[k]);
            unlink(file);
            free(file);
        }
        rmdir(dir);
        free(dir);
    }
    return rmdir(folder);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(f32_is_the_checkpoint), cmocka_unit_test(fewer_bits_say_the_same),
                                       cmocka_unit_test(damage_is_refused), cmocka_unit_test(no_damaged_header_is_believed)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
