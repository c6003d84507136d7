/* Can it learn at all? On eight pictures of the tiny checkpoint's size, DTE-FDM's loss falls below 0.05 and its greedy answer becomes the training
 * text, through the adapter that training left; MFLM's masks reach a mean IoU of 0.9 and stay there when the pictures go through localize. Minutes, so
 * only in the long tests (make long). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "image/image.h"
#include "support/trainset.h"

enum { N = FS_TRAINSET_MAX };

static char folder[] = "/tmp/fs-overfit-XXXXXX";

typedef struct watch { double loss; int64_t step; } watch;
static void on_step(void *user, const fs_train_progress *p) {
    watch *w = user;
    w->loss = p->loss;
    w->step = p->step;
}

static void expect_ok(fs_status status, const fs_error *err) {
    if (status) fail_msg("%s: %s", fs_status_name(status), err->message);
}

static fs_detector *detector(const char *adapter) {
    fs_options opt = fs_options_defaults();
    fs_detector *d;
    fs_error err;
    opt.adapters = &adapter;
    opt.n_adapters = adapter ? 1 : 0;
    expect_ok(fs_detector_create(FS_TINY_DIR, &opt, &d, &err), &err);
    return d;
}

static int make_set(void **state) {
    (void)state;
    /* the question of each picture names the domain that the tag generator sees in it */
    fs_domain domains[N];
    fs_error err;
    if (!mkdtemp(folder) || !fs_trainset_write(folder, N, NULL)) return -1;
    fs_detector *d = detector(NULL);
    for (int i = 0; i < N; i++) {
        fs_result *r;
        char *path = fs_trainset_image(folder, i);
        if (fs_explain(d, path, &r, &err)) return -1;
        domains[i] = fs_result_domain(r);
        fs_result_free(r);
        free(path);
    }
    fs_detector_free(d);
    return fs_trainset_write(folder, N, domains) ? 0 : -1;
}

static int remove_set(void **state) {
    (void)state;
    char *command = fs_format("rm -rf '%s'", folder);
    const int code = command ? system(command) : -1;
    free(command);
    return code;
}

static void dte_fdm(void **state) {
    (void)state;
    char *json = fs_path_join(folder, "conversations.json"), *out = fs_path_join(folder, "dte"), *adapter = fs_path_join(folder, "dte/adapter");
    watch w = {0};
    fs_error err;
    fs_train_options o = fs_train_options_defaults(FS_RECIPE_DTE_FDM);
    o.model_dir = FS_TINY_DIR;
    o.data = json;
    o.output_dir = out;
    o.epochs = 300;
    o.batch = N;
    o.accumulation = 1;
    o.lora_rank = 32;
    o.lora_alpha = 64;
    o.lora_dropout = 0;
    o.rate = 3e-3;
    o.projector_rate = 1e-3;
    o.inference_prompt = true; /* it is asked as inference asks */
    o.save_every = 1000;
    o.base.callbacks.user_data = &w;
    o.step = on_step;
    expect_ok(fs_train(&o, NULL, &err), &err);
    printf("DTE-FDM: loss %.4f after %lld steps\n", w.loss, (long long)w.step);
    assert_true(w.loss < 0.05);
    fs_detector *d = detector(adapter);
    for (int i = 0; i < N; i++) {
        fs_result *r;
        char *path = fs_trainset_image(folder, i);
        expect_ok(fs_explain(d, path, &r, &err), &err);
        assert_string_equal(fs_result_text(r), fs_trainset_text(i));
        assert_int_equal(fs_result_verdict(r), FS_VERDICT_TAMPERED);
        fs_result_free(r);
        free(path);
    }
    fs_detector_free(d);
    free(json);
    free(out);
    free(adapter);
}

static double iou(const fs_result *r, int i) {
    char *path = fs_trainset_mask(folder, i);
    fs_image *truth;
    fs_error err;
    int64_t both = 0, either = 0;
    const fs_decode_options limits = fs_decode_options_defaults(FS_DECODE_PIL);
    expect_ok(fs_image_load(path, &limits, &truth, NULL, &err), &err);
    for (int64_t k = 0; k < truth->width * truth->height; k++) {
        const bool a = truth->data[3 * k] > 127, b = fs_result_mask(r)[k] > 127;
        both += a && b;
        either += a || b;
    }
    fs_image_free(truth);
    free(path);
    return (double)both / (double)either;
}

static void mflm(void **state) {
    (void)state;
    char *out = fs_path_join(folder, "mflm"), *adapter = fs_path_join(folder, "mflm/adapter");
    watch w = {0};
    fs_error err;
    fs_train_options o = fs_train_options_defaults(FS_RECIPE_MFLM);
    o.model_dir = FS_TINY_DIR;
    o.data = folder;
    o.train_sets = o.val_sets = "ps|A";
    o.output_dir = out;
    o.epochs = 500;
    o.batch = N;
    o.accumulation = 1;
    o.lora_dropout = 0;
    o.rate = 3e-3;
    o.warmup_steps = 5;
    o.save_every = o.val_every = 500;
    o.base.callbacks.user_data = &w;
    o.step = on_step;
    expect_ok(fs_train(&o, NULL, &err), &err);
    /* through localize, with the words it was trained on */
    fs_detector *d = detector(adapter);
    double sum = 0;
    for (int i = 0; i < N; i++) {
        fs_result *r;
        char *path = fs_trainset_image(folder, i);
        expect_ok(fs_localize_text(d, path, fs_trainset_text(i), NULL, 0, &r, &err), &err);
        assert_int_equal(fs_result_mask_status(r), FS_MASK_PRESENT);
        sum += iou(r, i);
        fs_result_free(r);
        free(path);
    }
    printf("MFLM: mean IoU %.4f through localize after %lld steps\n", sum / N, (long long)w.step);
    assert_true(sum / N > 0.9);
    fs_detector_free(d);
    free(out);
    free(adapter);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(dte_fdm), cmocka_unit_test(mflm)};
    return cmocka_run_group_tests(tests, make_set, remove_set);
}
