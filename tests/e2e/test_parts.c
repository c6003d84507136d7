/* Bundles put together from parts of others: every tensor must come from the bundle named for it, CLIP from the one all share, and what cannot work
 * together is refused with nothing left behind. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "format/gguf.h"
#include "pipeline/calibration.h"
#include "pipeline/scratch.h"

#define assert_ok(call)                                               \
    do {                                                              \
        fs_error assert_ok_error = {0}, *err = &assert_ok_error;      \
        if ((call) != FS_OK) fail_msg("%s", assert_ok_error.message); \
    } while (0)

enum { ROOM = 1 << 20 }; /* values of the largest tensor, more than enough */
static const char *const files[] = {"dte-fdm.gguf", "mflm.gguf", "vision.gguf"};
static char root[64];

static char *in_root(const char *name) { return fs_path_join(root, name); }

static void remove_tree(const char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char *path = fs_path_join(dir, e->d_name);
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0) {
            if (fs_path_is_dir(path)) remove_tree(path);
            else unlink(path);
        }
        free(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}

/* Random weights; `inner`: width of stage 1's MLP, which CLIP's numbers do not depend on. */
static void make_model(const char *name, int inner) {
    static const char format[] =
        "{\"name\": \"parts\", \"tokenizer\": \"%s/DTE-FDM/tokenizer.model\", \"region_encoder\": false,"
        " \"dte_fdm\": {\"hidden_size\": 32, \"intermediate_size\": %d, \"num_hidden_layers\": 1, \"num_attention_heads\": 2},"
        " \"mflm\": {\"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 1, \"num_attention_heads\": 2},"
        " \"clip\": {\"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 2, \"image_size\": 56, \"patch_size\": 14},"
        " \"sam\": {\"embed_dim\": 32, \"depth\": 2, \"num_heads\": 2, \"image_size\": 64, \"window_size\": 2, \"out_chans\": 32, \"decoder_mlp\": 64},"
        " \"dtg\": {\"width\": 8}}";
    char *path = in_root("config.json"), *dir = in_root(name), *text = fs_format(format, FS_TINY_DIR, inner);
    fs_options opt = fs_options_defaults();
    opt.threads = 1;
    assert_ok(fs_write_file(path, text, strlen(text), err));
    assert_ok(fs_scratch_create(path, dir, 1, &opt, err));
    free(path), free(dir), free(text);
}

/* What a training leaves: every number is `mark`, CLIP's only if `clip`. */
typedef struct training { fs_archive *from[3]; bool clip; float *marks; fs_tensor made; } training;
static const fs_tensor *trained(void *user, int file, int64_t layers, const char *name) {
    training *k = user;
    (void)layers;
    if (!k->clip && strncmp(name, "clip.", 5) == 0) return NULL;
    k->made = *fs_archive_find(k->from[file], name);
    assert_true(fs_tensor_count(&k->made) <= ROOM);
    k->made.data = k->marks;
    return &k->made;
}

/* fs_bundle_rewrite keeps what it is given until the end, so each is a tensor of its own. */
typedef struct kept { fs_tensor tensor; struct kept *next; } kept;
typedef struct keeping { training t; kept *first; } keeping;
static const fs_tensor *trained_kept(void *user, int file, int64_t layers, const char *name) {
    keeping *k = user;
    const fs_tensor *t = trained(&k->t, file, layers, name);
    if (!t) return NULL;
    kept *one = malloc(sizeof *one);
    assert_non_null(one);
    *one = (kept){*t, k->first};
    k->first = one;
    return &one->tensor;
}

static void train(const char *from, const char *to, float mark, bool clip) {
    char *dir = in_root(from), *out = in_root(to);
    keeping k = {.t = {.clip = clip, .marks = malloc(ROOM * sizeof(float))}};
    fs_options opt = fs_options_defaults();
    assert_non_null(k.t.marks);
    for (int i = 0; i < ROOM; i++) k.t.marks[i] = mark;
    for (int i = 0; i < 3; i++) {
        char *path = fs_path_join(dir, files[i]);
        assert_ok(fs_archive_open(path, &k.t.from[i], err));
        free(path);
    }
    opt.threads = 1;
    assert_ok(fs_bundle_rewrite(dir, out, trained_kept, &k, NULL, &opt, err));
    for (int i = 0; i < 3; i++) fs_archive_free(k.t.from[i]);
    for (kept *one = k.first, *next; one; one = next) {
        next = one->next;
        free(one);
    }
    free(k.t.marks), free(dir), free(out);
}

static int set_up(void **state) {
    (void)state;
    strcpy(root, "/tmp/fs-parts-XXXXXX");
    if (!mkdtemp(root)) return -1;
    make_model("start", 64);
    make_model("wider", 96);
    train("start", "source", 1, false);
    train("start", "one", 2, false);
    train("wider", "one-wider", 3, false);
    train("start", "two", 4, false);
    train("start", "tag", 5, false);
    train("start", "other-clip", 6, true);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    remove_tree(root);
    return 0;
}

static void count_warnings(void *user, fs_log_level level, const char *line) {
    (void)line;
    *(int *)user += level == FS_LOG_WARNING;
}

static fs_status assemble(const char *source, const char *one, const char *two, const char *tag, const char *out, const char *type, int *warnings, fs_error *e) {
    char *dirs[] = {in_root(source), one ? in_root(one) : NULL, two ? in_root(two) : NULL, tag ? in_root(tag) : NULL, in_root(out)};
    const fs_bundle_parts parts = {dirs[1], dirs[2], dirs[3]};
    fs_options opt = fs_options_defaults();
    opt.threads = 1;
    if (warnings) opt.callbacks = (fs_callbacks){.user_data = warnings, .log = count_warnings};
    const fs_status status = fs_assemble(dirs[0], &parts, dirs[4], type, &opt, e);
    for (int i = 0; i < 5; i++) free(dirs[i]);
    return status;
}

static bool starts(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }

/* Every tensor of the bundle has the number of the part it must come from. */
static void expect_marks(const char *name, float one, float two, float tag) {
    char *dir = in_root(name);
    size_t clip = 0, seen[3] = {0};
    assert_ok(fs_verify(dir, NULL, err));
    for (int f = 0; f < 3; f++) {
        fs_archive *a = NULL;
        char *path = fs_path_join(dir, files[f]);
        assert_ok(fs_archive_open(path, &a, err));
        for (size_t i = 0; i < fs_archive_count(a); i++) {
            const fs_archive_entry e = fs_archive_get(a, i);
            if (starts(e.name, "clip.")) {
                clip++;
                continue;
            }
            const int part = f < 2 ? f : starts(e.name, "dte.") ? 0 : starts(e.name, "dtg.") ? 2 : 1;
            const float expected = part == 0 ? one : part == 1 ? two : tag;
            float first = 0;
            assert_int_equal(e.tensor->dtype, FS_DTYPE_F32);
            memcpy(&first, e.tensor->data, sizeof first);
            if (first != expected) fail_msg("%s: %s is %g, expected %g", name, e.name, (double)first, (double)expected);
            seen[part]++;
        }
        fs_archive_free(a);
        free(path);
    }
    assert_true(clip > 10 && seen[0] > 10 && seen[1] > 10 && seen[2] > 10);
    free(dir);
}

static void parts_come_from_their_bundles(void **state) {
    (void)state;
    fs_error e = {0};
    if (assemble("source", "one", NULL, NULL, "a", "f32", NULL, &e)) fail_msg("%s", e.message);
    expect_marks("a", 2, 1, 1);
    if (assemble("source", NULL, "two", NULL, "b", "f32", NULL, &e)) fail_msg("%s", e.message);
    expect_marks("b", 1, 4, 1);
    if (assemble("source", NULL, NULL, "tag", "c", "f32", NULL, &e)) fail_msg("%s", e.message);
    expect_marks("c", 1, 1, 5);
    if (assemble("source", "one", "two", "tag", "d", "f32", NULL, &e)) fail_msg("%s", e.message);
    expect_marks("d", 2, 4, 5);
    /* into the same folder, the same headers but for the parts' numbers: nothing of before is kept */
    if (assemble("source", NULL, "two", "tag", "d", "f32", NULL, &e)) fail_msg("%s", e.message);
    expect_marks("d", 1, 4, 5);
    /* another shape */
    if (assemble("source", "one-wider", "two", NULL, "e", "f32", NULL, &e)) fail_msg("%s", e.message);
    expect_marks("e", 3, 4, 1);
    /* the tag generator knows nothing of CLIP */
    if (assemble("source", NULL, NULL, "other-clip", "f", "f32", NULL, &e)) fail_msg("%s", e.message);
    expect_marks("f", 1, 1, 6);
    /* smaller at the same time, and it runs (random weights: equal ones overflow) */
    if (assemble("start", "wider", "start", NULL, "g", "q8_0", NULL, &e)) fail_msg("%s", e.message);
    char *dir = in_root("g");
    fs_options opt = fs_options_defaults();
    fs_detector *d = NULL;
    fs_result *r = NULL;
    opt.max_new_tokens = 2;
    opt.threads = 1;
    assert_ok(fs_verify(dir, NULL, err));
    assert_ok(fs_detector_create(dir, &opt, &d, err));
    assert_ok(fs_explain(d, FS_GOLDEN_DIR "/e2e_square.png", &r, err));
    assert_ok(fs_localize(d, r, err));
    fs_result_free(r);
    fs_detector_free(d);
    free(dir);
}

/* A calibration fits one stage 1 behind one tag generator. */
static void a_calibration_belongs_to_its_parts(void **state) {
    (void)state;
    static const struct { const char *one, *two, *tag; bool stays; } cases[] = {
        {"one", NULL, NULL, false}, {NULL, "two", NULL, true}, {NULL, NULL, "tag", false}, {"calibrated", NULL, NULL, false}};
    const fs_calibration fitted = {
        .on = true, .method = FS_CALIBRATION_PLATT, .slope = 2, .low = 0.4, .high = 0.6, .records = 9, .ece_before = 0.25, .ece_after = 0.125};
    char *from = in_root("source"), *to = in_root("calibrated"), *out = in_root("h");
    fs_options opt = fs_options_defaults();
    opt.threads = 1;
    assert_ok(fs_bundle_calibrate(from, to, &fitted, &opt, err));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_error e = {0};
        fs_calibration found;
        int warnings = 0;
        if (assemble("calibrated", cases[i].one, cases[i].two, cases[i].tag, "h", "f32", &warnings, &e)) fail_msg("%s", e.message);
        assert_ok(fs_bundle_calibration(out, &found, err));
        assert_int_equal(found.on, cases[i].stays);
        if (found.on)
            assert_true(found.method == fitted.method && found.records == 9 && found.ece_before == 0.25 && found.ece_after == 0.125);
        /* said, but for a stage 1 that has none of its own */
        assert_int_equal(warnings, !cases[i].stays && (!cases[i].one || strcmp(cases[i].one, "calibrated") == 0));
    }
    free(from), free(to), free(out);
}

/* What a bundle of before the method was noted gives, and one of a method that is not known here. */
static void a_method_may_be_missing(void **state) {
    (void)state;
    fs_calibration c = {.on = true, .slope = 2, .low = 0.4, .high = 0.6, .ece_before = NAN, .ece_after = NAN}, found;
    char *from = in_root("start"), *to = in_root("older"), *json = NULL;
    fs_options opt = fs_options_defaults();
    fs_detector *d = NULL;
    fs_result *r = NULL, *back = NULL;
    opt.threads = 1;
    opt.verdict_only = true;
    assert_ok(fs_bundle_calibrate(from, to, &c, &opt, err));
    assert_ok(fs_bundle_calibration(to, &found, err));
    assert_true(found.on && found.slope == 2 && found.method == FS_CALIBRATION_UNRECORDED && found.records == 0 && isnan(found.ece_before));
    assert_ok(fs_detector_create(to, &opt, &d, err));
    assert_ok(fs_explain(d, FS_GOLDEN_DIR "/e2e_square.png", &r, err));
    assert_ok(fs_result_to_json(r, NULL, NULL, false, false, &json, err));
    static const char later[] = ",\"method\":null,\"pictures\":null,\"ece_before\":null,\"ece_after\":null";
    char *rest = strstr(json, later); /* results of earlier versions lack this part */
    assert_non_null(rest);
    memmove(rest, rest + strlen(later), strlen(rest + strlen(later)) + 1);
    assert_ok(fs_result_from_json(json, &back, err));
    fs_calibration_info i;
    assert_true(fs_result_calibration(back, &i) && i.method == FS_CALIBRATION_UNRECORDED && i.pictures == 0 && isnan(i.ece_before) && isnan(i.ece_after));
    assert_true(i.low == 0.4 && i.high == 0.6);
    fs_string_free(json);
    fs_result_free(r);
    fs_result_free(back);
    fs_detector_free(d);
    free(to);
    to = in_root("newer");
    c.method = (fs_calibration_method)99;
    assert_ok(fs_bundle_calibrate(from, to, &c, &opt, err));
    fs_error e = {0};
    assert_int_equal(fs_bundle_calibration(to, &found, &e), FS_E_UNSUPPORTED);
    assert_non_null(strstr(e.message, "newer/dte-fdm.gguf: fakeshield.calibration.method is \"unknown\"; this version knows \"platt\""));
    free(from), free(to);
}

static void refusals(void **state) {
    (void)state;
    static const struct { const char *source, *one, *two, *tag, *type; fs_status status; const char *words; } cases[] = {
        {"source", "other-clip", NULL, NULL, "f32", FS_E_MISMATCH, "its CLIP is another"},
        {"source", NULL, "other-clip", NULL, "f32", FS_E_MISMATCH, "stage 2 works only with"},
        {"source", "nowhere", NULL, NULL, "f32", FS_E_NOT_FOUND, "nowhere: no such folder"},
        {"source", NULL, NULL, "empty", "f32", FS_E_NOT_FOUND, "vision.gguf"},
        {"source", NULL, "empty", NULL, "f32", FS_E_NOT_FOUND, "holds no mflm.gguf"},
        {"empty", "one", NULL, NULL, "f32", FS_E_NOT_FOUND, "vision.gguf"},
        {"source", "one", NULL, NULL, "q3", FS_E_USAGE, "none of f32"},
        {"source", "refused", NULL, NULL, "f32", FS_E_NOT_FOUND, "no such folder"},
    };
    char *empty = in_root("empty"), *out = in_root("refused");
    assert_ok(fs_make_dirs(empty, err));
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_error e = {0};
        assert_int_equal(assemble(cases[i].source, cases[i].one, cases[i].two, cases[i].tag, "refused", cases[i].type, NULL, &e), cases[i].status);
        if (!strstr(e.message, cases[i].words)) fail_msg("\"%s\" lacks \"%s\"", e.message, cases[i].words);
        assert_false(fs_path_exists(out));
    }
    fs_error e = {0};
    assert_int_equal(assemble("source", "one", NULL, NULL, "one", "f32", NULL, &e), FS_E_USAGE);
    assert_non_null(strstr(e.message, "another folder"));
    free(empty), free(out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_come_from_their_bundles),
        cmocka_unit_test(a_calibration_belongs_to_its_parts),
        cmocka_unit_test(a_method_may_be_missing),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
