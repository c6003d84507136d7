/* A training run as a whole, on the tiny checkpoint and generated pictures: what is lost when it is stopped at any moment (nothing), what is told
 * about bad data and other settings, what every recipe leaves behind, new models from a config. Numbers are test_train of tests/parity. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "format/archive.h"
#include "support/trainset.h"
#include "train/run.h"

enum { STEPS = 6, MAX_STEPS = 64 };

static char folder[] = "/tmp/fs-train-XXXXXX";

static char *in_folder(const char *name) {
    char *path = fs_path_join(folder, name);
    assert_non_null(path);
    return path;
}

static int make_set(void **state) {
    (void)state;
    return mkdtemp(folder) && fs_trainset_write(folder, FS_TRAINSET_MAX, NULL) ? 0 : -1;
}

static int remove_set(void **state) {
    (void)state;
    char *command = fs_format("rm -rf '%s'", folder);
    const int code = command ? system(command) : -1;
    free(command);
    return code;
}

/* What a run told of its steps, and when it is to stop. */
typedef struct watch { double losses[MAX_STEPS]; int64_t last, stop_behind, die_behind; char *log; } watch;

static void on_step(void *user, const fs_train_progress *p) {
    watch *w = user;
    if (p->step < MAX_STEPS) w->losses[p->step] = p->loss;
    w->last = p->step;
    if (w->die_behind && p->step == w->die_behind) kill(getpid(), SIGKILL);
}
static bool on_cancel(void *user) {
    const watch *w = user;
    return w->stop_behind && w->last >= w->stop_behind;
}
static void on_log(void *user, fs_log_level level, const char *line) {
    watch *w = user;
    (void)level;
    char *more = fs_format("%s%s\n", w->log ? w->log : "", line);
    free(w->log);
    w->log = more;
}

/* Six steps of two records, dropout and all, a checkpoint at every second one. */
static fs_train_options options(fs_recipe recipe, const char *out, watch *w) {
    fs_train_options o = fs_train_options_defaults(recipe);
    static char *json, *root;
    free(json);
    free(root);
    json = in_folder("conversations.json");
    root = in_folder(".");
    o.model_dir = FS_TINY_DIR;
    o.data = recipe == FS_RECIPE_DTE_FDM ? json : root;
    o.train_sets = "ps|A";
    o.output_dir = out;
    o.epochs = 3;
    o.batch = 2;
    o.accumulation = 2;
    o.lora_rank = 4;
    o.lora_alpha = 8;
    o.save_every = 2;
    o.rate = 1e-3;
    o.base.threads = 2;
    o.base.callbacks = (fs_callbacks){.user_data = w, .log = on_log, .cancel = on_cancel};
    o.step = on_step;
    return o;
}

static void expect_ok(fs_status status, const fs_error *err) {
    if (status) fail_msg("%s: %s", fs_status_name(status), err->message);
}

/* The trained tensors of the last checkpoint, as one number each way they could differ in. */
static void expect_same_tensors(const char *a, const char *b) {
    fs_archive *x, *y;
    fs_error err;
    char *p = fs_path_join(a, "checkpoint-6/training.safetensors"), *q = fs_path_join(b, "checkpoint-6/training.safetensors");
    expect_ok(fs_archive_open(p, &x, &err), &err);
    expect_ok(fs_archive_open(q, &y, &err), &err);
    assert_int_equal(fs_archive_count(x), fs_archive_count(y));
    assert_true(fs_archive_count(x) > 20);
    for (size_t i = 0; i < fs_archive_count(x); i++) {
        const fs_archive_entry e = fs_archive_get(x, i);
        const fs_tensor *t = fs_archive_find(y, e.name);
        if (!t) fail_msg("%s is not in %s", e.name, q);
        if (memcmp(t->data, e.tensor->data, (size_t)fs_tensor_count(t) * sizeof(float)) != 0) fail_msg("%s differs", e.name);
    }
    fs_archive_free(x);
    fs_archive_free(y);
    free(p);
    free(q);
}

/* Stopped behind step `stop` and gone on with, the run has the losses and ends with the numbers of one that never stopped. */
static void stop_and_go_on(fs_recipe recipe, int64_t stop, bool kill) {
    char *name = fs_format("%s-%d-%lld-%d", "run", (int)recipe, (long long)stop, kill), *straight = fs_format("%s/straight-%d", folder, (int)recipe);
    char *out = in_folder(name);
    watch first = {0}, before = {.stop_behind = kill ? 0 : stop, .die_behind = kill ? stop : 0}, after = {0};
    fs_error err;
    fs_train_options o = options(recipe, straight, &first);
    expect_ok(fs_train(&o, NULL, &err), &err); /* the second time it is there already, and nothing is left to do */
    o = options(recipe, out, &before);
    if (kill) {
        const pid_t child = fork();
        if (child == 0) {
            o.base.threads = 1; /* the parent's threads are not there; results are those of any number */
            fs_train(&o, NULL, &err);
            _exit(1);
        }
        int how;
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
    } else {
        assert_int_equal(fs_train(&o, NULL, &err), FS_E_CANCELLED);
        assert_int_equal(before.last, stop);
    }
    o = options(recipe, out, &after);
    expect_ok(fs_train(&o, NULL, &err), &err);
    assert_int_equal(after.last, STEPS);
    assert_non_null(strstr(after.log, "going on behind step"));
    if (first.last == STEPS) {
        int64_t from = kill ? stop - stop % 2 + (stop % 2 == 0 ? -1 : 1) : stop + 1; /* a kill loses what is behind the last checkpoint */
        for (int64_t s = fs_max_i64(from, 1); s <= STEPS; s++)
            if (after.losses[s] != 0 && after.losses[s] != first.losses[s])
                fail_msg("loss of step %lld is %.9g, without the stop %.9g", (long long)s, after.losses[s], first.losses[s]);
        assert_true(after.losses[STEPS] == first.losses[STEPS]);
    }
    expect_same_tensors(straight, out);
    free(first.log);
    free(before.log);
    free(after.log);
    free(name);
    free(out);
    free(straight);
}

static void stopped_dte(void **state) {
    (void)state;
    stop_and_go_on(FS_RECIPE_DTE_FDM, 3, false);
}
static void stopped_mflm(void **state) {
    (void)state;
    stop_and_go_on(FS_RECIPE_MFLM, 1, false);
}
static void killed_dte(void **state) {
    (void)state;
    stop_and_go_on(FS_RECIPE_DTE_FDM, 5, true);
}

/* ---- settings and data ---- */

static void other_settings(void **state) {
    (void)state;
    char *out = fs_format("%s/straight-%d", folder, (int)FS_RECIPE_DTE_FDM);
    watch w = {0};
    fs_error err;
    fs_train_options o = options(FS_RECIPE_DTE_FDM, out, &w);
    o.rate = 2e-3;
    assert_int_equal(fs_train(&o, NULL, &err), FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "rate"));
    assert_non_null(strstr(err.message, "--fresh"));
    free(w.log);
    free(out);
}

static void bad_options(void **state) {
    (void)state;
    watch w = {0};
    fs_error err;
    const struct { const char *what; int kind; } cases[] = {{"schedule", 0}, {"batch", 1}, {"dropout", 2}, {"q_project", 3}, {"data sets", 4}, {"no step", 5}, {"alpha 0", 6}, {"steps of an epoch", 7}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *out = in_folder("never");
        fs_train_options o = options(cases[i].kind == 4 ? FS_RECIPE_MFLM : FS_RECIPE_DTE_FDM, out, &w);
        switch (cases[i].kind) {
        case 0: o.schedule = "cosinus"; break;
        case 1: o.batch = 0; break;
        case 2: o.lora_dropout = 1; break;
        case 3: o.lora_targets = "q_proj,q_project"; break;
        case 4: o.train_sets = NULL; break;
        case 6: o.lora_alpha = 0; break;
        case 7: o.steps_per_epoch = INT64_MAX; break;
        default: o.epochs = 0;
        }
        assert_int_equal(fs_train(&o, NULL, &err), FS_E_USAGE);
        if (!strstr(err.message, cases[i].what)) fail_msg("\"%s\" does not name %s", err.message, cases[i].what);
        assert_false(fs_path_exists(out));
        free(out);
    }
    free(w.log);
}

/* A record longer than the limit is cut where the limit is, and what is cut off has no loss. */
static void cut_records(void **state) {
    (void)state;
    char *json = in_folder("conversations.json");
    watch w = {0};
    fs_train_options o = options(FS_RECIPE_DTE_FDM, "unused", &w);
    fs_error err;
    fs_trainee t;
    fs_samples *samples;
    fs_sample sample;
    fs_losses whole, cut;
    expect_ok(fs_trainee_open(&t, &o, &err), &err);
    fs_conversation_options c = fs_conversation_options_defaults();
    c.tokenizer = t.parts.tokenizer;
    c.clip_size = t.parts.clip->config.image_size;
    expect_ok(fs_samples_open_conversations(json, "/", &c, &samples, &err), &err);
    expect_ok(samples->load(samples, 0, 0, &sample, &err), &err);
    expect_ok(fs_trainee_step(&t, &sample, 1, 0, 0, &whole, &err), &err);
    o.max_length = whole.tokens - 10;
    expect_ok(fs_trainee_step(&t, &sample, 1, 0, 0, &cut, &err), &err);
    assert_int_equal(cut.tokens, whole.tokens - 10);
    assert_int_equal(cut.targets, whole.targets - 10); /* the answer is at the end */
    assert_true(whole.targets > 10);
    fs_sample_free(&sample);
    fs_samples_close(samples);
    fs_trainee_close(&t);
    free(w.log);
    free(json);
}

/* A picture that is missing ends the run before the first step, or is left out. */
static void missing_picture(void **state) {
    (void)state;
    char *dir = in_folder("hole"), *out = in_folder("hole-run"), *json = in_folder("hole/conversations.json");
    assert_true(fs_trainset_write(dir, 5, NULL));
    char *gone = fs_trainset_image(dir, 3);
    assert_int_equal(unlink(gone), 0);
    watch w = {0};
    fs_error err;
    fs_train_options o = options(FS_RECIPE_DTE_FDM, out, &w);
    o.data = json;
    o.epochs = 1;
    assert_true(fs_train(&o, NULL, &err) != FS_OK);
    assert_non_null(strstr(err.message, "3"));
    assert_int_equal(w.last, 0);
    o.skip_bad = true;
    expect_ok(fs_train(&o, NULL, &err), &err);
    assert_true(w.last >= 1);
    assert_non_null(strstr(w.log, "4 records"));
    free(w.log);
    free(gone);
    free(dir);
    free(out);
    free(json);
}

/* ---- what is left behind ---- */

static void tag_generator(void **state) {
    (void)state;
    char *root = in_folder("domains"), *out = in_folder("dtg-run");
    const char *const names[3] = {"aigc", "deepfake", "photoshop"};
    fs_error err;
    for (int i = 0; i < 6; i++) {
        char *from = fs_trainset_image(folder, i), *dir = fs_path_join(root, names[i % 3]), *command;
        expect_ok(fs_make_dirs(dir, &err), &err);
        command = fs_format("cp '%s' '%s'", from, dir);
        assert_int_equal(system(command), 0);
        free(from);
        free(dir);
        free(command);
    }
    watch w = {0};
    fs_train_options o = options(FS_RECIPE_DTG, out, &w);
    o.data = o.val_data = root;
    o.batch = 3;
    o.accumulation = 1;
    o.epochs = 2;
    expect_ok(fs_train(&o, NULL, &err), &err);
    assert_true(isfinite(w.losses[w.last]));
    /* what comes out is a DTG.pth that the original's strict loader and we take: every tensor there, the running statistics moved */
    char *path = in_folder("dtg-run/dtg/DTG.pth");
    fs_archive *a, *b;
    expect_ok(fs_archive_open(path, &a, &err), &err);
    expect_ok(fs_archive_open(FS_TINY_DIR "/DTG.pth", &b, &err), &err);
    int moved = 0;
    for (size_t i = 0; i < fs_archive_count(b); i++) {
        const fs_archive_entry e = fs_archive_get(b, i);
        if (strstr(e.name, "num_batches_tracked")) continue;
        const fs_tensor *t = fs_archive_find(a, e.name);
        if (!t) fail_msg("DTG.pth lacks %s", e.name);
        assert_int_equal(fs_tensor_count(t), fs_tensor_count(e.tensor));
        moved += memcmp(t->data, e.tensor->data, (size_t)fs_tensor_count(t) * 4) != 0 && strstr(e.name, "running_mean");
    }
    assert_true(moved > 10);
    fs_archive_free(a);
    fs_archive_free(b);
    free(w.log);
    free(path);
    free(root);
    free(out);
}

/* A model of its own from nothing: both stages one after the other, in one bundle. */
static void from_scratch(void **state) {
    (void)state;
    static const char config[] =
        "{\"name\": \"test\", \"tokenizer\": \"" FS_TINY_DIR "/DTE-FDM/tokenizer.model\", \"region_encoder\": false,"
        " \"dte_fdm\": {\"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 2},"
        " \"mflm\": {\"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 2, \"num_attention_heads\": 2},"
        " \"clip\": {\"hidden_size\": 32, \"intermediate_size\": 64, \"num_hidden_layers\": 3, \"num_attention_heads\": 2, \"image_size\": 56, \"patch_size\": 14},"
        " \"sam\": {\"embed_dim\": 32, \"depth\": 2, \"num_heads\": 2, \"image_size\": 128, \"window_size\": 3, \"out_chans\": 32, \"decoder_mlp\": 64, \"stem\": 4},"
        " \"dtg\": {\"width\": 8}}";
    char *path = in_folder("config.json"), *one = in_folder("scratch1"), *two = in_folder("scratch2"), *model = in_folder("scratch1/model");
    watch w = {0};
    fs_error err;
    expect_ok(fs_write_file(path, config, strlen(config), &err), &err);
    fs_train_options o = options(FS_RECIPE_DTE_FDM, one, &w);
    o.model_dir = NULL;
    o.from_scratch = path;
    expect_ok(fs_train(&o, NULL, &err), &err);
    assert_true(w.losses[STEPS] < w.losses[1]);
    /* the same folder with another config is another run, unless it is to begin anew: then it begins with the new model */
    char *other = in_folder("other.json"), *text = fs_format("%s", config);
    memcpy(strstr(text, "\"intermediate_size\": 64") + 21, "48", 2);
    expect_ok(fs_write_file(other, text, strlen(text), &err), &err);
    o.from_scratch = other;
    assert_int_equal(fs_train(&o, NULL, &err), FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "config_sha256"));
    o.fresh = true;
    expect_ok(fs_train(&o, NULL, &err), &err);
    fs_archive *lm;
    char *file = in_folder("scratch1/model/dte-fdm.gguf");
    expect_ok(fs_archive_open(file, &lm, &err), &err);
    const fs_tensor *up = fs_archive_find(lm, "blk.0.ffn_up.weight");
    assert_non_null(up);
    assert_int_equal(up->shape[0], 48);
    fs_archive_free(lm);
    free(file);
    o.from_scratch = path;
    expect_ok(fs_train(&o, NULL, &err), &err);
    free(other);
    free(text);
    o = options(FS_RECIPE_MFLM, two, &w);
    o.model_dir = model;
    o.all_weights = true;
    o.freeze = "clip";
    expect_ok(fs_train(&o, NULL, &err), &err);
    assert_true(w.losses[STEPS] < w.losses[1]);
    /* the result is a bundle like any other; CLIP, which stage 1 has trained, is in it as it was, the mask's encoder is not */
    char *result = in_folder("scratch2/model"), *image = fs_trainset_image(folder, 0);
    expect_ok(fs_verify(result, NULL, &err), &err);
    fs_detector *d;
    fs_result *r;
    fs_options run = fs_options_defaults();
    run.max_new_tokens = 8;
    expect_ok(fs_detector_create(result, &run, &d, &err), &err);
    expect_ok(fs_explain(d, image, &r, &err), &err);
    expect_ok(fs_localize(d, r, &err), &err);
    fs_result_free(r);
    fs_detector_free(d);
    fs_archive *a, *b;
    char *before = in_folder("scratch1/model/vision.gguf"), *after = in_folder("scratch2/model/vision.gguf");
    expect_ok(fs_archive_open(before, &a, &err), &err);
    expect_ok(fs_archive_open(after, &b, &err), &err);
    const struct { const char *name; bool same; } cases[] = {{"clip.encoder.layers.0.mlp.fc1.weight", true}, {"dte.mm_projector.0.weight", true},
                                                              {"mflm.mm_projector.0.weight", false}, {"sam.enc.blocks.0.attn.qkv.weight", false},
                                                              {"sam.dec.mask_tokens.weight", false}, {"sam.enc.patch_embed.stem.0.conv.weight", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const fs_tensor *x = fs_archive_find(a, cases[i].name), *y = fs_archive_find(b, cases[i].name);
        if (!x || !y) fail_msg("%s is not in the bundle", cases[i].name);
        const bool same = memcmp(x->data, y->data, (size_t)fs_tensor_count(x) * 4) == 0;
        if (same != cases[i].same) fail_msg("%s %s", cases[i].name, same ? "has not been trained" : "has changed");
    }
    fs_archive_free(a);
    fs_archive_free(b);
    free(w.log);
    free(path);
    free(one);
    free(two);
    free(model);
    free(result);
    free(image);
    free(before);
    free(after);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(killed_dte), /* first: it forks */
        cmocka_unit_test(stopped_dte), cmocka_unit_test(stopped_mflm), cmocka_unit_test(other_settings), cmocka_unit_test(bad_options), cmocka_unit_test(cut_records),
        cmocka_unit_test(missing_picture), cmocka_unit_test(tag_generator), cmocka_unit_test(from_scratch),
    };
    return cmocka_run_group_tests(tests, make_set, remove_set);
}
