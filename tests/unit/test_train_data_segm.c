/* MFLM's training samples: ids and labels against FakeShield's own code (tests/golden/train_data/segm.json), pictures as in inference, masks by
 * the rule of 255, and data sets that are wrong. */
#include "train_data_support.h"

#include "tensor/ops.h"

enum { W = 40, H = 24 };

typedef struct world {
    char *dir;
    fs_tokenizer *tokenizer;
} world;

static int setup(void **state) {
    static world w;
    void *dir;
    if (setup_folder(&dir)) return -1;
    w.dir = dir;
    if (fs_tokenizer_open(FS_TINY_DIR "/MFLM", FS_RULES_428, &w.tokenizer, NULL)) return -1;
    *state = &w;
    return 0;
}

static int teardown(void **state) {
    world *w = *state;
    fs_tokenizer_free(w->tokenizer);
    void *dir = w->dir;
    return remove_folder(&dir);
}

static fs_segm_options options(world *w) {
    fs_segm_options o = fs_segm_options_defaults();
    o.tokenizer = w->tokenizer;
    o.clip_size = 28;
    o.sam_size = 64;
    return o;
}

/* A mask whose left half has value `left`, the rest `right`. */
static void draw_mask(const char *dir, const char *name, int64_t width, int64_t height, uint8_t left, uint8_t right) {
    char *path = place(dir, name);
    uint8_t *pixels = fs_alloc((size_t)(width * height), 1);
    for (int64_t i = 0; i < width * height; i++) pixels[i] = i % width < width / 2 ? left : right;
    assert_ok(fs_png_write(path, pixels, width, height, 1, err));
    free(pixels);
    free(path);
}

/* text NULL: the file of texts has none for the picture. */
static void write_set(const char *dir, const char *set, const char *text) {
    char *image = fs_format("%s/image/p.png", set), *mask = fs_format("%s/mask/p.png", set), *file = fs_format("%s/lisa_train_output.json", set);
    json_t *list = text ? json_pack("[{s:s, s:s, s:s}]", "image", "p.png", "query", "", "outputs", text) : json_pack("[]");
    char *json = json_dumps(list, 0);
    draw_picture(dir, image, W, H, 5);
    draw_mask(dir, mask, W, H, 255, 0);
    write_text(dir, file, json);
    json_decref(list);
    free(json);
    free(image);
    free(mask);
    free(file);
}

static void test_golden(void **state) {
    world *w = *state;
    json_t *g = golden("segm.json"), *cases = json_object_get(g, "cases");
    assert_int_equal(json_array_size(cases), 7 * 5 * 3);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        json_t *one = json_array_get(cases, i);
        char what[64];
        fs_samples *s;
        fs_sample sample;
        fs_segm_options o = options(w);
        write_set(w->dir, "ps/S", json_string_value(json_object_get(one, "text")));
        o.question = (int)number(one, "question");
        o.answer = (int)number(one, "answer");
        o.max_length = number(one, "max_length");
        o.train = json_is_true(json_object_get(one, "train"));
        snprintf(what, sizeof what, "case %zu", i);
        assert_ok(fs_samples_open_segm(w->dir, "ps|S", &o, &s, err));
        assert_ok(s->load(s, 0, i, &sample, err));
        expect_ints(what, json_object_get(one, "ids"), sample.ids.data, sample.ids.count);
        expect_ints(what, json_object_get(one, "labels"), sample.labels, sample.ids.count);
        bool seg = false;
        for (size_t k = 0; k < sample.ids.count; k++) seg |= sample.ids.data[k] == fs_tokenizer_id(w->tokenizer, "[SEG]");
        assert_int_equal(!seg, sample.warning != NULL);
        fs_sample_free(&sample);
        fs_samples_close(s);
    }
    json_decref(g);
}

static void test_pictures(void **state) {
    world *w = *state;
    fs_samples *s;
    fs_sample sample;
    fs_image *im;
    float *want;
    int64_t h, width;
    write_set(w->dir, "ps/S", "It is here.");
    char *path = place(w->dir, "ps/S/image/p.png");
    fs_segm_options o = options(w);
    const fs_decode_options style = fs_decode_options_defaults(FS_DECODE_CV2);
    assert_ok(fs_image_load(path, &style, &im, NULL, err));
    assert_ok(fs_samples_open_segm(w->dir, "ps|S", &o, &s, err));
    assert_ok(s->load(s, 0, 0, &sample, err));
    assert_string_equal(s->name(s, 0), path);
    assert_ok(fs_preprocess_clip_cropped(im, 28, &want, err));
    assert_memory_equal(sample.clip, want, 3 * 28 * 28 * sizeof *want);
    free(want);
    assert_ok(fs_preprocess_sam(im, 64, &want, &h, &width, err));
    assert_memory_equal(sample.sam, want, 3 * 64 * 64 * sizeof *want);
    assert_true(sample.sam_h == h && sample.sam_w == width && sample.height == H && sample.width == W);
    free(want);
    for (int i = 0; i < W * H; i++) assert_int_equal(sample.mask[i], i % W < W / 2);
    assert_null(sample.warning);
    fs_sample_free(&sample);
    /* questions and answers: the same again for the same draw, all of them over many draws */
    o.seed = 3;
    fs_samples_close(s);
    assert_ok(fs_samples_open_segm(w->dir, "ps|S", &o, &s, err));
    bool questions[3] = {false}, answers[5] = {false};
    for (uint64_t draw = 0; draw < 64; draw++) {
        fs_sample again;
        assert_ok(s->load(s, 0, draw, &sample, err));
        assert_ok(s->load(s, 0, draw, &again, err));
        assert_int_equal(sample.ids.count, again.ids.count);
        assert_memory_equal(sample.ids.data, again.ids.data, again.ids.count * sizeof *again.ids.data);
        for (int k = 0; k < 15; k++) {
            fs_ids ids = {0};
            char *text = fs_prompt_stage2_training("It is here.", k % 3, k / 3, NULL);
            assert_ok(fs_tokenizer_encode_image(w->tokenizer, text, &ids, err));
            const bool same = ids.count == again.ids.count && memcmp(ids.data, again.ids.data, ids.count * sizeof *ids.data) == 0;
            if (same) questions[k % 3] = answers[k / 3] = true;
            fs_ids_free(&ids);
            free(text);
        }
        fs_sample_free(&sample);
        fs_sample_free(&again);
    }
    for (int k = 0; k < 3; k++) assert_true(questions[k]);
    for (int k = 0; k < 5; k++) assert_true(answers[k]);
    fs_samples_close(s);
    fs_image_free(im);
    free(path);
}

static void expect_warning(world *w, const char *part) {
    fs_samples *s;
    fs_sample sample;
    fs_segm_options o = options(w);
    assert_ok(fs_samples_open_segm(w->dir, "ps|S", &o, &s, err));
    assert_ok(s->load(s, 0, 0, &sample, err));
    if (!sample.warning || !strstr(sample.warning, part)) fail_msg("expected a warning with \"%s\", got \"%s\"", part, sample.warning ? sample.warning : "");
    assert_non_null(strstr(sample.warning, "record 0 ("));
    fs_sample_free(&sample);
    fs_samples_close(s);
}

/* Only 255 counts; a text that holds tokens is defused. */
static void test_doubtful(void **state) {
    world *w = *state;
    write_set(w->dir, "ps/S", "It is here.");
    draw_mask(w->dir, "ps/S/mask/p.png", W, H, 1, 0);
    expect_warning(w, "no pixel of value 255");
    draw_mask(w->dir, "ps/S/mask/p.png", W, H, 255, 254);
    expect_warning(w, "50.00 % of its mask's marked pixels are not 255");
    fs_samples *s;
    fs_sample sample;
    fs_segm_options o = options(w);
    assert_ok(fs_samples_open_segm(w->dir, "ps|S", &o, &s, err));
    assert_ok(s->load(s, 0, 0, &sample, err));
    for (int i = 0; i < W * H; i++) assert_int_equal(sample.mask[i], i % W < W / 2);
    fs_sample_free(&sample);
    fs_samples_close(s);
    draw_mask(w->dir, "ps/S/mask/p.png", W, H, 0, 0);
    expect_warning(w, "its largest is 0");
    write_set(w->dir, "ps/S", "Here [SEG] and <image> and </s>.");
    expect_warning(w, "3 places of its text would be read as a token");
}

static void expect_failure(world *w, const char *sets, const fs_segm_options *o, fs_status status, const char *part) {
    fs_samples *s = NULL;
    fs_error e = {0};
    if (fs_samples_open_segm(w->dir, sets, o, &s, &e) != status) fail_msg("another status than %s: %s", fs_status_name(status), e.message);
    assert_null(s);
    assert_message(&e, part);
}

static void test_wrong_sets(void **state) {
    world *w = *state;
    fs_segm_options o = options(w);
    write_set(w->dir, "ps/S", "It is here.");
    expect_failure(w, "ps", &o, FS_E_USAGE, "TYPE|SET");
    expect_failure(w, "ps|none", &o, FS_E_NOT_FOUND, "none");
    o.texts = FS_TEXTS_VAL_GT;
    expect_failure(w, "ps|S", &o, FS_E_NOT_FOUND, "lisa_val_gt.json");
    o = options(w);
    o.question = 3;
    expect_failure(w, "ps|S", &o, FS_E_USAGE, "question below 3");
    o = options(w);
    fs_tokenizer *other;
    assert_ok(fs_tokenizer_open(FS_TINY_DIR "/DTE-FDM", FS_RULES_437, &other, err));
    o.tokenizer = other;
    expect_failure(w, "ps|S", &o, FS_E_MISMATCH, "[SEG]");
    fs_tokenizer_free(other);
    o = options(w);
    o.texts = FS_TEXTS_NONE;
    draw_picture(w->dir, "ps/authentic/image/p.png", W, H, 6);
    expect_failure(w, "ps|authentic", &o, FS_E_NOT_FOUND, "no folder mask");
    write_set(w->dir, "ps/T", "x");
    write_text(w->dir, "ps/T/lisa_train_output.json", "[[[[{]]");
    o = options(w);
    expect_failure(w, "ps|T", &o, FS_E_FORMAT, "lisa_train_output.json");
    o.bad = FS_BAD_SKIP;
    expect_failure(w, "ps|T", &o, FS_E_NOT_FOUND, "lisa_train_output.json");
    write_set(w->dir, "ps/T", "x");
    draw_picture(w->dir, "ps/T/image/alone.png", W, H, 7);
    o.bad = FS_BAD_FATAL;
    expect_failure(w, "ps|T", &o, FS_E_MISMATCH, "alone.png");
    /* all of that left out */
    kept_log log = {0};
    const fs_callbacks cb = callbacks_of(&log);
    fs_samples *s;
    o.bad = FS_BAD_SKIP;
    o.callbacks = &cb;
    o.texts = FS_TEXTS_NONE;
    assert_ok(fs_samples_open_segm(w->dir, "ps|T,authentic,S", &o, &s, err));
    assert_int_equal(s->count, 2);
    expect_log(&log, 2, "has no folder mask");
    fs_samples_close(s);
    o.texts = FS_TEXTS_TRAIN_OUTPUT;
    write_set(w->dir, "ps/bare", NULL);
    assert_ok(fs_samples_open_segm(w->dir, "ps|bare", &o, &s, err));
    expect_log(&log, 1, "no text for this picture");
    fs_samples_close(s);
}

static void test_check(void **state) {
    world *w = *state;
    kept_log log = {0};
    const fs_callbacks cb = callbacks_of(&log);
    fs_samples *s;
    fs_sample sample;
    fs_error e = {0};
    fs_buffer text = {0};
    int64_t dropped;
    for (int i = 0; i < 400; i++) fs_buffer_puts(&text, "no. ");
    write_set(w->dir, "ps/C", "x");
    draw_picture(w->dir, "ps/C/image/a.png", W, H, 8);
    draw_mask(w->dir, "ps/C/mask/a.png", W, H + 1, 255, 0);
    write_text(w->dir, "ps/C/image/b.png", "nothing");
    draw_mask(w->dir, "ps/C/mask/b.png", W, H, 255, 0);
    char *json = fs_format("[{\"image\":\"p.png\",\"query\":\"\",\"outputs\":\"%s\"},{\"image\":\"a.png\",\"query\":\"\",\"outputs\":\"x\"},{\"image\":\"b.png\",\"query\":\"\","
                           "\"outputs\":\"x\"}]", text.data);
    write_text(w->dir, "ps/C/lisa_train_output.json", json);
    fs_segm_options o = options(w);
    o.max_length = 575 + 300;
    o.callbacks = &cb;
    assert_ok(fs_samples_open_segm(w->dir, "ps|C", &o, &s, err));
    assert_int_equal(s->count, 3);
    assert_int_equal(fs_samples_check(s, FS_BAD_FATAL, &cb, NULL, &e), FS_E_MISMATCH);
    assert_message(&e, "40 x 25 pixels, its picture 40 x 24");
    assert_int_equal(s->load(s, 0, 0, &sample, &e), FS_E_MISMATCH);
    assert_message(&e, "40 x 25 pixels, its picture 40 x 24");
    assert_ok(fs_samples_check(s, FS_BAD_SKIP, &cb, &dropped, err));
    assert_int_equal(dropped, 2);
    expect_log(&log, 3, "no [SEG] left");
    assert_ok(s->load(s, 0, 0, &sample, err));
    assert_int_equal(sample.index, 0);
    assert_int_equal(sample.record, 2);
    assert_int_equal(sample.ids.count, 300);
    fs_sample_free(&sample);
    fs_samples_close(s);
    o.bad = FS_BAD_SKIP; /* when nothing is left, that is an error */
    draw_mask(w->dir, "ps/C/mask/p.png", W + 1, H, 255, 0);
    assert_ok(fs_samples_open_segm(w->dir, "ps|C", &o, &s, err));
    assert_int_equal(fs_samples_check(s, FS_BAD_SKIP, &cb, &dropped, &e), FS_E_FAILED);
    fs_buffer_free(&log.text);
    fs_samples_close(s);
    fs_buffer_free(&text);
    free(json);
}

/* A photo that lies on its side in the file: stage 2 sees it turned, and so is its mask; the check, which reads headers alone, must agree. */
static void test_turned(void **state) {
    world *w = *state;
    uint8_t *bytes;
    size_t size;
    fs_image *im;
    fs_image_info info;
    fs_samples *s;
    fs_sample sample;
    const fs_decode_options style = fs_decode_options_defaults(FS_DECODE_CV2);
    char *path = place(w->dir, "ps/E/image/p.jpg");
    assert_ok(fs_read_file(FS_GOLDEN_DIR "/image/exif6.jpg", 1 << 20, &bytes, &size, err));
    assert_ok(fs_write_file(path, bytes, size, err));
    assert_ok(fs_image_load(path, &style, &im, &info, err));
    assert_true(im->width == info.height && im->height == info.width && im->width != im->height);
    draw_mask(w->dir, "ps/E/mask/p.png", im->width, im->height, 255, 0);
    fs_segm_options o = options(w);
    o.texts = FS_TEXTS_NONE;
    assert_ok(fs_samples_open_segm(w->dir, "ps|E", &o, &s, err));
    assert_ok(fs_samples_check(s, FS_BAD_FATAL, NULL, NULL, err));
    assert_ok(s->load(s, 0, 0, &sample, err));
    assert_true(sample.width == im->width && sample.height == im->height);
    fs_sample_free(&sample);
    fs_samples_close(s);
    fs_image_free(im);
    free(bytes);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden), cmocka_unit_test(test_pictures), cmocka_unit_test(test_doubtful),
                                       cmocka_unit_test(test_wrong_sets), cmocka_unit_test(test_check), cmocka_unit_test(test_turned)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
