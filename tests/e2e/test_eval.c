/* An evaluation of the test checkpoint over pictures made by formula: eight in flight give the texts and masks of eight single runs; a run
 * that is taken up again, one in two parts, and the evaluation of kept results give the figures of one run, to the last digit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "eval/eval.h"
#include "image/image.h"

enum { PICTURES = 8, W = 72, H = 56 };
static char folder[] = "/tmp/fs-eval-XXXXXX";

static char *at(const char *format, int i) {
    return fs_format(format, folder, i);
}

/* Dark pictures with a lighter disc, whose place is the truth; the last three are bright and authentic. */
static void make_picture(int i) {
    uint8_t rgb[W * H * 3], mask[W * H];
    const bool forged = i < 5;
    fs_error err = {0};
    for (int y = 0; y < H; y++)
        for (int x = 0; x < W; x++) {
            const bool inside = (x - 15 - 8 * i) * (x - 15 - 8 * i) + (y - 25) * (y - 25) < 170;
            for (int c = 0; c < 3; c++)
                rgb[(y * W + x) * 3 + c] =
                    (uint8_t)(forged ? 14 + i * 5 + (inside ? 60 : (x * 3 + y * 5 + c * 7) % 21) : 200 + i * 5 - (x + y) % 19);
            mask[y * W + x] = inside ? 255 : 0;
        }
    char *image = at(forged ? "%s/data/photoshop/T_Tp/image/p%d.png" : "%s/data/photoshop/T_Au/image/p%d.png", i),
         *truth = at("%s/data/photoshop/T_Tp/mask/p%d.png", i);
    assert_int_equal(fs_png_write(image, rgb, W, H, 3, &err), FS_OK);
    if (forged) assert_int_equal(fs_png_write(truth, mask, W, H, 1, &err), FS_OK);
    free(image);
    free(truth);
}

static int make_data(void **state) {
    static const char *const dirs[] = {"%s/data/photoshop/T_Tp/image", "%s/data/photoshop/T_Tp/mask", "%s/data/photoshop/T_Au/image"};
    fs_error err;
    (void)state;
    if (!mkdtemp(folder)) return -1;
    for (size_t i = 0; i < 3; i++) {
        char *dir = at(dirs[i], 0);
        if (fs_make_dirs(dir, &err)) return -1;
        free(dir);
    }
    for (int i = 0; i < PICTURES; i++) make_picture(i);
    return 0;
}

static int remove_data(void **state) {
    (void)state;
    char *command = fs_format("rm -rf '%s'", folder);
    const int code = system(command);
    free(command);
    return code;
}

static fs_eval_options options(const char *data, const char *out) {
    fs_eval_options o = fs_eval_options_defaults();
    o.data = data;
    o.out = out;
    o.model_dir = FS_TINY_DIR;
    o.detector.threads = 2;
    o.resamples = 40;
    o.html = false;
    return o;
}

static char *content(const char *dir, const char *name) {
    char *path = fs_path_join(dir, name);
    uint8_t *data = NULL;
    size_t size = 0;
    fs_error err = {0};
    if (fs_read_file(path, 1 << 26, &data, &size, &err)) fail_msg("%s", err.message);
    free(path);
    return (char *)data;
}

static void same_file(const char *a, const char *b, const char *name) {
    char *x = content(a, name), *y = content(b, name);
    if (strcmp(x, y) != 0) fail_msg("%s of %s and %s differ", name, a, b);
    free(x);
    free(y);
}

static void run(const fs_eval_options *o) {
    fs_error err = {0};
    if (fs_eval_run(o, NULL, &err)) fail_msg("%s", err.message);
}

static void test_batch_equals_single(void **state) {
    (void)state;
    char *data = at("%s/data", 0), *out = at("%s/batch", 0), *alone = at("%s/alone", 0);
    fs_eval_options o = options(data, out);
    o.detector.batch = 8;
    run(&o);
    o.out = alone;
    o.detector.batch = 1;
    run(&o);
    same_file(out, alone, "summary.json");
    fs_eval_book book = {0};
    fs_error err = {0};
    assert_int_equal(fs_eval_book_read(out, &book, &err), FS_OK);
    assert_int_equal(book.rows.count, PICTURES);
    fs_detector *d = NULL;
    assert_int_equal(fs_detector_create(FS_TINY_DIR, &o.detector, &d, &err), FS_OK);
    size_t masks = 0;
    for (size_t i = 0; i < PICTURES; i++) { /* and each by fs_detect */
        const fs_eval_row *row = &book.rows.items[i];
        fs_result *r = NULL;
        assert_int_equal(fs_detect(d, row->image, &r, &err), FS_OK);
        assert_string_equal(fs_result_text(r), row->text);
        if (fs_result_mask_status(r) == FS_MASK_PRESENT) {
            char *base = fs_format("results/%s/%.*s_mask.png", row->set, (int)strlen(row->name) - 4, row->name),
                 *path = fs_path_join(out, base), *other = fs_path_join(alone, base);
            fs_map m = {0}, n = {0};
            const fs_map_options how = fs_map_options_defaults();
            assert_int_equal(fs_map_read(path, &how, &m, &err), FS_OK);
            assert_int_equal(fs_map_read(other, &how, &n, &err), FS_OK);
            assert_int_equal(m.width, W);
            assert_memory_equal(m.score, n.score, (size_t)W * H * sizeof(float));
            for (size_t k = 0; k < (size_t)W * H; k++) assert_int_equal(m.score[k] > 0.5f, fs_result_mask(r)[k] != 0);
            /* the row's counts are this mask's: at 0.5 the 8-bit map marks what the logits mark */
            double marked = 0;
            for (size_t k = 0; k < (size_t)W * H; k++) marked += fs_result_mask(r)[k] ? 1 : 0;
            assert_true(row->pixels.fixed.tp + row->pixels.fixed.fp == marked);
            fs_map_free(&m);
            fs_map_free(&n);
            free(base), free(path), free(other);
            masks++;
        } else {
            assert_true(row->silent);
        }
        fs_result_free(r);
    }
    assert_true(masks >= 4); /* the test tests something */
    fs_detector_free(d);
    fs_eval_book_free(&book);
    free(data), free(out), free(alone);
}

static size_t stop_at, asked;
static bool cancel(void *user) {
    (void)user;
    return ++asked >= stop_at;
}

static void test_stopped_and_taken_up(void **state) {
    (void)state;
    char *data = at("%s/data", 0), *out = at("%s/stopped", 0), *whole = at("%s/batch", 0);
    fs_eval_options o = options(data, out);
    o.resume = true;
    size_t stops = 0;
    for (stop_at = 40; stop_at < 4000; stop_at *= 3) {
        fs_error err = {0};
        asked = 0;
        o.callbacks.cancel = o.detector.callbacks.cancel = cancel;
        const fs_status status = fs_eval_run(&o, NULL, &err);
        if (!status) break;
        assert_int_equal(status, FS_E_CANCELLED);
        stops++;
    }
    assert_true(stops > 0);
    o.callbacks.cancel = o.detector.callbacks.cancel = NULL;
    run(&o);
    same_file(out, whole, "summary.json");
    free(data), free(out), free(whole);
}

static void test_parts(void **state) {
    (void)state;
    char *data = at("%s/data", 0), *whole = at("%s/batch", 0), *joined = at("%s/joined", 0),
         *parts[2] = {at("%s/part%d", 1), at("%s/part%d", 2)};
    for (int i = 0; i < 2; i++) {
        fs_eval_options o = options(data, parts[i]);
        o.shard = i + 1;
        o.shards = 2;
        run(&o);
    }
    fs_eval_options o = options(data, joined);
    fs_error err = {0};
    if (fs_eval_merge((const char *const *)parts, 2, &o, NULL, &err)) fail_msg("%s", err.message);
    same_file(joined, whole, "summary.json");
    fs_eval_options kept = options(data, joined);
    char *results = fs_path_join(whole, "results");
    kept.source = FS_EVAL_RESULTS;
    kept.results = results;
    char *text = NULL, *again = NULL;
    if (fs_eval_run(&kept, &text, &err)) fail_msg("%s", err.message);
    if (fs_eval_merge((const char *const *)&whole, 1, &o, &again, &err)) fail_msg("%s", err.message);
    assert_string_equal(text, again);
    fs_string_free(text);
    fs_string_free(again);
    free(results), free(data), free(whole), free(joined), free(parts[0]), free(parts[1]);
}

/* What is written is read back, NaN and all. */
static void test_rows_survive(void **state) {
    (void)state;
    char *whole = at("%s/batch", 0), *copy = at("%s/copy", 0);
    fs_eval_book book = {0}, back = {0};
    fs_error err = {0};
    assert_int_equal(fs_eval_book_read(whole, &book, &err), FS_OK);
    assert_int_equal(fs_make_dirs(copy, &err), FS_OK);
    assert_int_equal(fs_eval_book_write(&book, copy, &err), FS_OK);
    same_file(whole, copy, "images.jsonl");
    same_file(whole, copy, "run.json");
    assert_int_equal(fs_eval_book_read(copy, &back, &err), FS_OK);
    assert_int_equal(back.rows.count, book.rows.count);
    for (size_t i = 0; i < back.rows.count; i++)
        assert_memory_equal(back.rows.items[i].pixels.tampered, book.rows.items[i].pixels.tampered,
                            sizeof back.rows.items[i].pixels.tampered);
    fs_eval_book_free(&book);
    fs_eval_book_free(&back);
    free(whole), free(copy);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_batch_equals_single), cmocka_unit_test(test_stopped_and_taken_up),
                                       cmocka_unit_test(test_parts), cmocka_unit_test(test_rows_survive)};
    return cmocka_run_group_tests(tests, make_data, remove_data);
}
