/* DTE-FDM's training samples: ids and labels against LLaVA's own code (tests/golden/train_data/conversations.json, made by
 * tools/reference/make_train_data_goldens.py), pictures, bad files, and the look before the first step. */
#include "train_data_support.h"

#include "tensor/ops.h"

typedef struct world {
    char *dir;
    fs_tokenizer *tiny, *legacy;
} world;

static int setup(void **state) {
    static world w;
    void *dir;
    if (setup_folder(&dir)) return -1;
    w.dir = dir;
    if (fs_tokenizer_open(FS_TINY_DIR "/DTE-FDM", FS_RULES_437, &w.tiny, NULL)) return -1;
    if (fs_tokenizer_open(FS_GOLDEN_DIR "/text/dte_legacy", FS_RULES_437, &w.legacy, NULL)) return -1;
    draw_picture(dir, "a/picture.png", 40, 24, 1);
    *state = &w;
    return 0;
}

static int teardown(void **state) {
    world *w = *state;
    fs_tokenizer_free(w->tiny);
    fs_tokenizer_free(w->legacy);
    void *dir = w->dir;
    return remove_folder(&dir);
}

static fs_conversation_options options(world *w) {
    fs_conversation_options o = fs_conversation_options_defaults();
    o.tokenizer = w->tiny;
    o.clip_size = 28;
    return o;
}

/* The file of one record. */
static char *write_record(world *w, json_t *conversations, bool image) {
    json_t *list = json_pack("[{s:s, s:O}]", "id", "x", "conversations", conversations);
    if (image) json_object_set_new(json_array_get(list, 0), "image", json_string("a/picture.png"));
    char *path = place(w->dir, "one.json");
    assert_int_equal(json_dump_file(list, path, 0), 0);
    json_decref(list);
    return path;
}

static void check_result(world *w, const char *path, json_t *one, json_t *want) {
    char what[256];
    fs_samples *s;
    fs_sample sample;
    fs_conversation_options o = options(w);
    const char *name = json_string_value(json_object_get(one, "name")), *kind = json_string_value(json_object_get(want, "tokenizer"));
    const bool image = json_is_true(json_object_get(one, "image"));
    o.tokenizer = strcmp(kind, "tiny") == 0 ? w->tiny : w->legacy;
    o.max_length = number(want, "max_length");
    o.im_start_end = json_is_true(json_object_get(want, "im_start_end"));
    snprintf(what, sizeof what, "%s (%s, %d)", name, kind, (int)o.max_length);
    assert_ok(fs_samples_open_conversations(path, w->dir, &o, &s, err));
    assert_int_equal(s->count, 1);
    assert_ok(s->load(s, 0, 0, &sample, err));
    expect_ints(what, json_object_get(want, "ids"), sample.ids.data, sample.ids.count);
    expect_ints(what, json_object_get(want, "labels"), sample.labels, sample.ids.count);
    const bool told = sample.warning && strstr(sample.warning, "do not add up");
    if (told != json_is_true(json_object_get(want, "mismatch"))) fail_msg("%s: warning \"%s\"", what, sample.warning ? sample.warning : "");
    if (strcmp(name, "answer first") != 0 && strcmp(name, "answer first with the picture") != 0) /* what is dropped there is not counted here */
        assert_int_equal(s->length(s, 0), image ? number(one, "words") : -number(one, "words"));
    assert_int_equal(sample.clip != NULL, image);
    fs_sample_free(&sample);
    fs_samples_close(s);
}

static void test_golden(void **state) {
    world *w = *state;
    json_t *g = golden("conversations.json"), *cases = json_object_get(g, "cases");
    assert_int_equal(json_array_size(cases), 26);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        json_t *one = json_array_get(cases, i), *results = json_object_get(one, "results");
        char *path = write_record(w, json_object_get(one, "conversations"), json_is_true(json_object_get(one, "image")));
        for (size_t k = 0; k < json_array_size(results); k++) check_result(w, path, one, json_array_get(results, k));
        free(path);
    }
    json_decref(g);
}

/* The picture is what inference makes of it; the system text is the one asked for. */
static void test_picture(void **state) {
    world *w = *state;
    fs_samples *s;
    fs_sample sample;
    fs_image *im;
    float *want;
    fs_ids ids = {0};
    write_text(w->dir, "p.json", "[{\"image\":\"a/picture.png\",\"conversations\":[{\"from\":\"human\",\"value\":\"<image>\\nA?\"},{\"from\":\"gpt\",\"value\":\"B.\"}]}]");
    char *path = place(w->dir, "p.json"), *picture = place(w->dir, "a/picture.png");
    assert_ok(fs_image_load(picture, NULL, &im, NULL, err));
    for (int pad = 0; pad < 2; pad++) {
        fs_conversation_options o = options(w);
        o.clip_pad = pad;
        o.system = pad ? FS_SYSTEM_HUMAN : FS_SYSTEM_USER;
        assert_ok(fs_samples_open_conversations(path, w->dir, &o, &s, err));
        assert_ok(s->load(s, 0, 0, &sample, err));
        assert_ok(pad ? fs_preprocess_clip_padded(im, 28, &want, err) : fs_preprocess_clip_cropped(im, 28, &want, err));
        assert_memory_equal(sample.clip, want, 3 * 28 * 28 * sizeof *want);
        assert_string_equal(s->name(s, 0), picture);
        assert_int_equal(sample.domain, -1);
        assert_null(sample.mask);
        assert_null(sample.warning);
        free(want);
        /* the part in front of the answer is inference's prompt */
        if (pad) {
            char *prompt = fs_prompt_render("<image>\nA?");
            assert_ok(fs_tokenizer_encode_image(w->tiny, prompt, &ids, err));
            assert_true(ids.count < sample.ids.count);
            assert_memory_equal(ids.data, sample.ids.data, ids.count * sizeof *ids.data);
            assert_int_equal(sample.labels[ids.count - 1], FS_IGNORE);
            assert_int_not_equal(sample.labels[ids.count], FS_IGNORE);
            free(prompt);
        }
        fs_sample_free(&sample);
        fs_samples_close(s);
    }
    fs_ids_free(&ids);
    fs_image_free(im);
    free(path);
    free(picture);
}

#define TURNS "\"conversations\":[{\"from\":\"human\",\"value\":\"<image>\\nA?\"},{\"from\":\"gpt\",\"value\":\"B.\"}]"
#define GOOD "{\"image\":\"a/picture.png\"," TURNS "}"

static const struct {
    const char *record, *message;
} bad_records[] = {
    {"{\"image\":\"a/none.png\"," TURNS "}", "no such file"},
    {"{\"image\":\"../picture.png\"," TURNS "}", "[1].image"},
    {"{\"image\":7," TURNS "}", "[1].image"},
    {"{\"image\":\"a/picture.png\"}", "conversations"},
    {"{\"image\":\"a/picture.png\",\"conversations\":[]}", "conversations"},
    {"{\"image\":\"a/picture.png\",\"conversations\":{}}", "conversations"},
    {"{\"image\":\"a/picture.png\",\"conversations\":[{\"from\":\"human\"}]}", "value"},
    {"{\"image\":\"a/picture.png\",\"conversations\":[{\"from\":\"human\",\"value\":[]}]}", "value"},
    {"{\"image\":\"a/picture.png\",\"conversations\":[{\"from\":\"system\",\"value\":\"x\"}]}", "from"},
    {"{\"image\":\"a/picture.png\",\"conversations\":[{\"from\":\"human\",\"value\":\"x\"},{\"from\":\"human\",\"value\":\"x\"}]}", "alternate"},
    {"{\"image\":\"a/picture.png\",\"conversations\":[\"human\"]}", "[1].conversations[0]"},
    {"17", "[1]"},
};

/* A bad record is named; it ends the reading, or is left out and said. */
static void test_bad_records(void **state) {
    world *w = *state;
    kept_log log = {0};
    const fs_callbacks cb = callbacks_of(&log);
    for (size_t i = 0; i < sizeof bad_records / sizeof *bad_records; i++) {
        fs_error e = {0};
        fs_samples *s = NULL;
        char *text = fs_format("[" GOOD ",%s," GOOD "]", bad_records[i].record);
        write_text(w->dir, "bad.json", text);
        char *path = place(w->dir, "bad.json");
        fs_conversation_options o = options(w);
        o.callbacks = &cb;
        assert_int_not_equal(fs_samples_open_conversations(path, w->dir, &o, &s, &e), FS_OK);
        assert_null(s);
        assert_message(&e, bad_records[i].message);
        o.bad = FS_BAD_SKIP;
        assert_ok(fs_samples_open_conversations(path, w->dir, &o, &s, err));
        assert_int_equal(s->count, 2);
        expect_log(&log, 1, bad_records[i].message);
        fs_sample sample;
        assert_ok(s->load(s, 1, 0, &sample, err));
        assert_int_equal(sample.index, 1);
        assert_int_equal(sample.record, 2); /* its number in the file */
        fs_sample_free(&sample);
        fs_samples_close(s);
        free(text);
        free(path);
    }
}

static void expect_bad_file(world *w, const char *text, const char *message) {
    fs_error e = {0};
    fs_samples *s = NULL;
    fs_conversation_options o = options(w);
    o.bad = FS_BAD_SKIP;
    write_text(w->dir, "bad.json", text);
    char *path = place(w->dir, "bad.json");
    assert_int_not_equal(fs_samples_open_conversations(path, w->dir, &o, &s, &e), FS_OK);
    assert_null(s);
    assert_message(&e, message);
    assert_message(&e, "bad.json");
    free(path);
}

static void test_bad_files(void **state) {
    world *w = *state;
    expect_bad_file(w, "", "empty");
    expect_bad_file(w, "[" GOOD, "JSON");
    expect_bad_file(w, "{\"a\":" GOOD "}", "list");
    expect_bad_file(w, "[]", "record");
    expect_bad_file(w, "[1,2,3]", "none of its records");
    expect_bad_file(w, "[{\"image\":\"a\\u0000b\"," TURNS "}]", "JSON");
    expect_bad_file(w, "[{\"image\":\"a\\ud800b\"," TURNS "}]", "JSON");
    fs_buffer bomb = {0}; /* brackets without end */
    for (int i = 0; i < 200000; i++) fs_buffer_puts(&bomb, "[");
    expect_bad_file(w, bomb.data, "depth");
    fs_buffer_free(&bomb);
    fs_error e = {0};
    fs_samples *s = NULL;
    fs_conversation_options o = options(w);
    assert_int_equal(fs_samples_open_conversations("/nowhere/x.json", w->dir, &o, &s, &e), FS_E_NOT_FOUND);
    o.tokenizer = NULL;
    assert_int_equal(fs_samples_open_conversations("/nowhere/x.json", w->dir, &o, &s, &e), FS_E_USAGE);
}

/* What only decoding or rendering shows: two pictures asked for, a picture cut off. The check finds what the header shows. */
static void test_check(void **state) {
    world *w = *state;
    kept_log log = {0};
    const fs_callbacks cb = callbacks_of(&log);
    fs_samples *s;
    fs_sample sample;
    fs_error e = {0};
    int64_t dropped = -1;
    write_text(w->dir, "a/text.jpg", "no picture");
    char *path = place(w->dir, "check.json"), *cut = place(w->dir, "a/cut.png"), *picture = place(w->dir, "a/picture.png");
    uint8_t *bytes;
    size_t size;
    assert_ok(fs_read_file(picture, 1 << 20, &bytes, &size, err));
    assert_ok(fs_write_file(cut, bytes, size / 2, err));
    free(bytes);
    write_text(w->dir, "check.json",
               "[{\"image\":\"a/text.jpg\"," TURNS "}," GOOD ",{\"image\":\"a/picture.png\",\"conversations\":[{\"from\":\"human\",\"value\":\"<image>\"},{\"from\":\"gpt\","
               "\"value\":\"<image>\"}]},{\"image\":\"a/cut.png\"," TURNS "},{\"image\":\"a/picture.png\",\"conversations\":[{\"from\":\"human\",\"value\":\"<image>\"}]}]");
    fs_conversation_options o = options(w);
    assert_ok(fs_samples_open_conversations(path, w->dir, &o, &s, err));
    assert_int_equal(s->count, 5);
    assert_int_equal(fs_samples_check(s, FS_BAD_FATAL, &cb, NULL, &e), FS_E_UNSUPPORTED);
    assert_message(&e, "record 0");
    assert_message(&e, "text.jpg");
    log.stop = true;
    assert_int_equal(fs_samples_check(s, FS_BAD_SKIP, &cb, NULL, &e), FS_E_CANCELLED);
    log.stop = false;
    assert_ok(fs_samples_check(s, FS_BAD_SKIP, &cb, &dropped, err));
    assert_int_equal(dropped, 2);
    assert_int_equal(s->count, 3);
    expect_log(&log, 3, "record 2 ("); /* two dropped; the last one has no answer */
    assert_int_equal(s->load(s, 1, 0, &sample, &e), FS_E_FORMAT);
    assert_message(&e, "record 3");
    assert_message(&e, "cut.png");
    assert_ok(s->load(s, 2, 0, &sample, err));
    assert_int_equal(sample.record, 4);
    assert_non_null(strstr(sample.warning, "record 4"));
    fs_sample_free(&sample);
    fs_samples_close(s);
    free(path);
    free(cut);
    free(picture);
}

/* Several threads over one tokenizer and one list give what one gives. */
static void test_threads(void **state) {
    world *w = *state;
    enum { N = 24 };
    fs_samples *s;
    fs_sample got[2];
    fs_buffer json = {0};
    int64_t order[N];
    for (int i = 0; i < N; i++) {
        char name[32];
        snprintf(name, sizeof name, "t/%d.png", i);
        draw_picture(w->dir, name, 30 + i, 60 - i, (uint64_t)i);
        fs_buffer_printf(&json, "%s{\"image\":\"%s\",\"conversations\":[{\"from\":\"human\",\"value\":\"<image>\\nIs %d real?\"},{\"from\":\"gpt\",\"value\":\"No, %d is not.\"}]}",
                         i ? "," : "[", name, i, i);
    }
    fs_buffer_puts(&json, "]");
    write_text(w->dir, "t.json", json.data);
    fs_buffer_free(&json);
    char *path = place(w->dir, "t.json");
    fs_conversation_options o = options(w);
    fs_loader *loaders[2];
    assert_ok(fs_samples_open_conversations(path, w->dir, &o, &s, err));
    fs_order_shuffled(5, 0, N, order);
    for (int k = 0; k < 2; k++) {
        fs_loader_options lo = fs_loader_options_defaults();
        lo.workers = k ? 4 : 0;
        lo.ahead = 7;
        assert_ok(fs_loader_open(s, order, N, &lo, &loaders[k], err));
    }
    for (int i = 0; i < N; i++) {
        bool have;
        for (int k = 0; k < 2; k++) {
            assert_ok(fs_loader_next(loaders[k], &got[k], &have, err));
            assert_true(have && got[k].index == order[i]);
        }
        assert_int_equal(got[0].ids.count, got[1].ids.count);
        assert_memory_equal(got[0].ids.data, got[1].ids.data, got[0].ids.count * sizeof *got[0].ids.data);
        assert_memory_equal(got[0].labels, got[1].labels, got[0].ids.count * sizeof *got[0].labels);
        assert_memory_equal(got[0].clip, got[1].clip, 3 * 28 * 28 * sizeof *got[0].clip);
        for (int k = 0; k < 2; k++) fs_sample_free(&got[k]);
    }
    for (int k = 0; k < 2; k++) fs_loader_close(loaders[k]);
    fs_samples_close(s);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden), cmocka_unit_test(test_picture), cmocka_unit_test(test_bad_records),
                                       cmocka_unit_test(test_bad_files), cmocka_unit_test(test_check), cmocka_unit_test(test_threads)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
