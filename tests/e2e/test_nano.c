/* The shipped model of models/nano on a small forged set: photographs drawn by formula, forged with a fixed seed, evaluated. Its words byte
 * for byte, the bytes of its masks, its scores and the figures are those of tests/golden/nano_expected.json, which this test writes when
 * UPDATE is set in the environment. It is a record of what the model said when it was shipped, so that a change of its answers is noticed;
 * it does not say that they are right: generated pictures are not what the model was trained on. Sums are taken in another order by each
 * set of kernels, so on a processor with others than those of the record only pictures and figures are compared, the latter roughly. */
#include "backend/backend.h"
#include "backend/cpu/q_kernels.h"
#include "eval/eval.h"
#include "format/json.h"
/* after them, for its `err` */
#include "unit/forge_support.h"

enum { PICTURES = 16 };
#define EXPECTED FS_GOLDEN_DIR "/nano_expected.json"
/* Other kernels turn over a word or a pixel near the threshold, not the model; one of the four authentic pictures called otherwise moves
 * the balanced accuracy by 1/8. */
#define ROUGHLY 0.13

static const fs_figure figures[] = {FS_FIG_DETECTION + 5, FS_FIG_AUC, FS_FIG_LOCAL, FS_FIG_LOCAL + 1, FS_FIG_PIXEL_AUC};
enum { N_FIGURES = sizeof figures / sizeof *figures };

static char *folder;

static int forge(void **state) {
    (void)state;
    folder = work_folder();
    char *photos = join(folder, "photos"), *data = join(folder, "data");
    ok(fs_make_dirs(photos, &err));
    make_sources(photos);
    fs_forge_options o = fs_forge_options_defaults();
    o.count = PICTURES;
    o.seed = 6;
    o.size_min = o.size_max = 256;
    o.square = true;
    o.authentic = 0.25f;
    o.val = o.test = 0;
    const char *sources[] = {photos};
    ok(fs_forge(sources, 1, data, &o, &err));
    free(photos), free(data);
    return 0;
}

static int clear(void **state) {
    (void)state;
    remove_folder(folder);
    return 0;
}

static char *file_hash(const char *path) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    char hex[65];
    ok(fs_read_file(path, 1 << 26, &bytes, &size, &err));
    fs_sha256_hex(bytes, size, hex);
    free(bytes);
    return fs_strdup(hex);
}

/* The mask itself rather than the file it is packed in. */
static char *map_hash(const char *path) {
    fs_map m = {0};
    const fs_map_options how = fs_map_options_defaults();
    ok(fs_map_read(path, &how, &m, &err));
    const size_t n = (size_t)(m.width * m.height);
    uint8_t *grey = malloc(n);
    assert_non_null(grey);
    for (size_t i = 0; i < n; i++) grey[i] = (uint8_t)(m.score[i] * 255 + 0.5f);
    char hex[65];
    fs_sha256_hex(grey, n, hex);
    free(grey);
    fs_map_free(&m);
    return fs_strdup(hex);
}

static json_t *said(const fs_eval_row *row) {
    char *image = file_hash(row->image), *mask = row->map ? map_hash(row->map) : NULL;
    json_t *j = json_pack("{s:s, s:s, s:b, s:s, s:o, s:f}", "name", row->name, "image_sha256", image, "tampered", (int)row->tampered,
                          "text", row->text, "mask_sha256", mask ? json_string(mask) : json_null(), "score", row->score);
    assert_non_null(j);
    free(image), free(mask);
    return j;
}

static json_t *answers(void) {
    char *data = join(folder, "data"), *out = join(folder, "eval"), *summary = NULL;
    fs_eval_options o = fs_eval_options_defaults();
    o.data = data;
    o.out = out;
    o.model_dir = FS_SOURCE_DIR "/models/nano";
    o.detector.threads = 2;
    o.resamples = 0;
    o.html = false;
    ok(fs_eval_run(&o, &summary, &err));
    free(summary);
    fs_eval_book book = {0};
    fs_eval_summary s = {0};
    ok(fs_eval_book_read(out, &book, &err));
    ok(fs_eval_summarize(&book, &o, &s, &err));
    assert_int_equal(book.rows.count, PICTURES);
    char *kernels = fs_format("%s, %s", fs_backend_best()->name, fs_quant_for(fs_backend_best())->name);
    json_t *j = json_pack("{s:s, s:[], s:{}}", "kernels", kernels, "pictures", "figures");
    for (size_t i = 0; i < book.rows.count; i++) json_array_append_new(json_object_get(j, "pictures"), said(&book.rows.items[i]));
    const fs_eval_table *all = &s.tables[s.count - 1];
    for (int i = 0; i < N_FIGURES; i++)
        json_object_set_new(json_object_get(j, "figures"), fs_figure_key(figures[i]), json_real(all->value[figures[i]]));
    fs_eval_summary_free(&s);
    fs_eval_book_free(&book);
    free(kernels), free(data), free(out);
    return j;
}

static const char *text_of(const json_t *j, const char *key) {
    const char *s = json_string_value(json_object_get(j, key));
    return s ? s : "none";
}

static void test_says_what_it_said(void **state) {
    (void)state;
    json_t *now = answers();
    if (getenv("UPDATE")) {
        char *text = json_dumps(now, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
        ok(fs_write_file(EXPECTED, text, strlen(text), &err));
        free(text);
        print_message("%s written anew: read the difference\n", EXPECTED);
        json_decref(now);
        return;
    }
    fs_json expected = {0};
    ok(fs_json_open(EXPECTED, &expected, &err));
    const bool same = !strcmp(text_of(now, "kernels"), text_of(expected.root, "kernels"));
    if (!same)
        print_message("record of %s, this is %s: figures compared, words are not\n", text_of(expected.root, "kernels"),
                      text_of(now, "kernels"));
    const json_t *a = json_object_get(now, "pictures"), *b = json_object_get(expected.root, "pictures");
    assert_int_equal(json_array_size(b), PICTURES);
    for (size_t i = 0; i < PICTURES; i++) {
        const json_t *x = json_array_get(a, i), *y = json_array_get(b, i);
        assert_string_equal(text_of(x, "name"), text_of(y, "name"));
        assert_string_equal(text_of(x, "image_sha256"), text_of(y, "image_sha256")); /* else the forge or a picture library has changed */
        if (!same) continue;
        assert_string_equal(text_of(x, "text"), text_of(y, "text"));
        assert_string_equal(text_of(x, "mask_sha256"), text_of(y, "mask_sha256"));
        assert_float_equal(json_number_value(json_object_get(x, "score")), json_number_value(json_object_get(y, "score")), 1e-6);
    }
    for (int i = 0; i < N_FIGURES; i++) {
        const char *key = fs_figure_key(figures[i]);
        assert_float_equal(json_number_value(json_object_get(json_object_get(now, "figures"), key)),
                           json_number_value(json_object_get(json_object_get(expected.root, "figures"), key)), same ? 1e-6 : ROUGHLY);
    }
    fs_json_close(&expected);
    json_decref(now);
}

/* Both classes have texts of the form that is read again, and something was found: else the record would hold whatever the model does. */
static void test_record_is_of_a_model_that_answers(void **state) {
    (void)state;
    fs_json expected = {0};
    ok(fs_json_open(EXPECTED, &expected, &err));
    size_t masks = 0, k;
    const json_t *picture;
    json_array_foreach(json_object_get(expected.root, "pictures"), k, picture) {
        assert_non_null(strstr(text_of(picture, "text"), "Judgment basis"));
        masks += json_is_string(json_object_get(picture, "mask_sha256")) ? 1 : 0;
    }
    assert_true(masks > 0);
    fs_json_close(&expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_says_what_it_said), cmocka_unit_test(test_record_is_of_a_model_that_answers)};
    return cmocka_run_group_tests(tests, forge, clear);
}
