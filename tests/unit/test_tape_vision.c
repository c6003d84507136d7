/* Gradients of the operators that pictures need (convolutions, norms over channels, sampling, SAM's attention) against finite differences and
 * PyTorch, with one thread and with several: support/gradcheck.h. What batch norm keeps of a batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/gradcheck.h"

FS_GRAD_RUN(run_conv3, fs_conv2d(c, x[0], x[1], x[2], 1, 1))
FS_GRAD_RUN(run_conv3s2, fs_conv2d(c, x[0], x[1], x[2], 2, 1))
FS_GRAD_RUN(run_conv7s2, fs_conv2d(c, x[0], x[1], x[2], 2, 3))
FS_GRAD_RUN(run_conv5s2, fs_conv2d(c, x[0], x[1], x[2], 2, 2))
FS_GRAD_RUN(run_conv4s2, fs_conv2d(c, x[0], x[1], x[2], 2, 1))
FS_GRAD_RUN(run_conv1, fs_conv2d(c, x[0], x[1], x[2], 1, 0))
FS_GRAD_RUN(run_conv1s2, fs_conv2d(c, x[0], x[1], x[2], 2, 0))
FS_GRAD_RUN(run_conv3wide, fs_conv2d(c, x[0], x[1], x[2], 1, 2))
FS_GRAD_RUN(run_conv3far, fs_conv2d(c, x[0], x[1], x[2], 1, 3))
FS_GRAD_RUN(run_patch4, fs_conv2d(c, x[0], x[1], NULL, 4, 0))
FS_GRAD_RUN(run_deconv, fs_conv_transpose2d(c, x[0], x[1], x[2], 2))
FS_GRAD_RUN(run_deconv_s3, fs_conv_transpose2d(c, x[0], x[1], NULL, 3))
FS_GRAD_RUN(run_layer_norm_2d, fs_layer_norm_2d(c, x[0], x[1], x[2], 1e-6f))
FS_GRAD_RUN(run_group_norm, fs_group_norm(c, x[0], 6, x[1], x[2], 1e-5f))
FS_GRAD_RUN(run_batch_norm_train, fs_batch_norm_train(c, x[0], x[1], x[2], NULL, NULL, 0.1f, 1e-5f))
FS_GRAD_RUN(run_resize_up, fs_resize_bilinear(c, x[0], 29, 31, false, false))
FS_GRAD_RUN(run_resize_down, fs_resize_bilinear(c, x[0], 5, 4, false, false))
FS_GRAD_RUN(run_resize_align, fs_resize_bilinear(c, x[0], 26, 19, true, false))
FS_GRAD_RUN(run_resize_align_down, fs_resize_bilinear(c, x[0], 4, 1, true, false))
FS_GRAD_RUN(run_attention_rel, fs_attention_rel(c, x[0], x[1], x[2], x[3], x[4], 5, 7, 0.3f))
FS_GRAD_RUN(run_attention_rel_one, fs_attention_rel(c, x[0], x[1], x[2], x[3], x[4], 18, 17, 0.3f))
FS_GRAD_RUN(run_max_pool, fs_max_pool2d(c, x[0], 3, 2, 1))
FS_GRAD_RUN(run_mean_hw, fs_mean_hw(c, x[0]))
static const float boxes[4][4] = {{0, 0, 20, 26}, {3.5f, 2.25f, 9, 11}, {-4, -3, 40, 30}, {6, 6, 6, 6}};
FS_GRAD_RUN(run_roi_align, fs_roi_align(c, x[0], boxes[0], 4, 0.5f, 5, 2))
FS_GRAD_RUN(run_roi_align_auto, fs_roi_align(c, x[0], boxes[0], 4, 0.5f, 5, 0))
static fs_tensor *run_batch_norm(fs_exec *c, fs_tensor *const *x) {
    static float mean[5] = {0.25f, -0.5f, 0, 1, -1}, variance[5] = {0.5f, 1, 2, 0.25f, 1.5f};
    const int64_t five = 5;
    return fs_batch_norm(c, x[0], x[1], x[2], fs_wrap(c, FS_DTYPE_F32, 1, &five, mean), fs_wrap(c, FS_DTYPE_F32, 1, &five, variance), 1e-5f);
}
/* Any window's nine values are far apart, so that none becomes the largest on the way. */
static fs_tensor *run_pool_apart(fs_exec *c, fs_tensor *const *x) {
    fs_tensor *apart = fs_new_3d(c, 2, 13, 10);
    for (int64_t i = 0; apart && i < 260; i++) fs_f32(apart)[i] = 0.2f * (float)(i / 10 % 13 % 3 * 3 + i % 10 % 3);
    return fs_max_pool2d(c, fs_add(c, x[0], apart), 3, 2, 1);
}
/* Several heads to a key head, several blocks of queries: 700 x 900 scores are more than one block's. */
FS_GRAD_RUN(run_attention_long, fs_attention(c, x[0], x[1], x[2], 0.4f, true))
/* More than a slab of contributions: 600 x 9 x 1024 of them */
FS_GRAD_RUN(run_conv_slabs, fs_conv2d(c, x[0], x[1], NULL, 2, 1))

#define IN FS_GRAD_IN
static const fs_grad_case cases[] = {
    {"conv2d 3x3", "conv3", run_conv3, {IN(2, 5, 11, 13), IN(7, 5, 3, 3), IN(7)}},
    {"conv2d 3x3/2", "conv3s2", run_conv3s2, {IN(2, 5, 11, 13), IN(7, 5, 3, 3), IN(7)}},
    {"conv2d 7x7/2", "conv7s2", run_conv7s2, {IN(3, 20, 17), IN(10, 3, 7, 7), IN(10)}},
    {"conv2d 5x5/2, lines of 32", NULL, run_conv5s2, {IN(3, 9, 63), IN(17, 3, 5, 5), IN(17)}},
    {"conv2d 4x4/2, lines of 32", NULL, run_conv4s2, {IN(2, 3, 17, 64), IN(9, 3, 4, 4), IN(9)}},
    {"conv2d 5x5/2 of 16, lines of 33", NULL, run_conv5s2, {IN(3, 7, 65), IN(16, 3, 5, 5), IN(16)}},
    {"conv2d 4x4/2 of 17, lines of 32", NULL, run_conv4s2, {IN(2, 6, 64), IN(17, 2, 4, 4), IN(17)}},
    {"conv2d 4x4/2 of 16, a line over", NULL, run_conv4s2, {IN(2, 5, 67), IN(16, 2, 4, 4), IN(16)}},
    {"conv2d 3x3, lines of 64", NULL, run_conv3, {IN(3, 6, 64), IN(5, 3, 3, 3), IN(5)}},
    {"conv2d 1x1", "conv1", run_conv1, {IN(5, 9, 31), IN(40, 5, 1, 1), IN(40)}},
    {"conv2d 1x1/2", "conv1s2", run_conv1s2, {IN(3, 5, 9, 6), IN(4, 5, 1, 1), IN(4)}},
    {"conv2d, padding of 2", "conv3wide", run_conv3wide, {IN(4, 6, 5), IN(3, 4, 3, 3), IN(3)}},
    {"conv2d, padding of 3", "conv3far", run_conv3far, {IN(4, 6, 5), IN(3, 4, 3, 3), IN(3)}},
    {"conv2d of patches", "patch4", run_patch4, {IN(3, 13, 18), IN(6, 3, 4, 4)}},
    {"conv2d in slabs", NULL, run_conv_slabs, {IN(600, 64, 64), IN(2, 600, 3, 3)}},
    {"conv_transpose2d 2x2/2", "deconv2", run_deconv, {IN(6, 5, 7), IN(6, 4, 2, 2), IN(4)}},
    {"conv_transpose2d 3x3/2", "deconv3s2", run_deconv, {IN(6, 17, 16), IN(6, 4, 3, 3), IN(4)}},
    {"conv_transpose2d 2x2/3", "deconv2s3", run_deconv_s3, {IN(2, 3, 4), IN(2, 5, 2, 2)}},
    {"layer_norm_2d", "layer_norm_2d", run_layer_norm_2d, {{3, {24, 9, 31}, 1, 2}, IN(24), IN(24)}},
    {"group_norm", "group_norm", run_group_norm, {{3, {24, 9, 31}, 1, 2}, IN(24), IN(24)}},
    {"batch_norm", "batch_norm", run_batch_norm, {IN(2, 5, 9, 31), IN(5), IN(5)}},
    {"batch_norm_train", "batch_norm_train", run_batch_norm_train, {{4, {3, 5, 9, 31}, 1, 2}, IN(5), IN(5)}},
    {"resize_bilinear, larger", "resize_up", run_resize_up, {IN(3, 13, 10)}},
    {"resize_bilinear, smaller", "resize_down", run_resize_down, {IN(3, 13, 10)}},
    {"resize_bilinear, corners", "resize_align", run_resize_align, {IN(3, 13, 10)}},
    {"resize_bilinear, corners, smaller", "resize_align_down", run_resize_align_down, {IN(3, 13, 10)}},
    {"attention_rel", "attention_rel", run_attention_rel, {IN(2, 35, 2, 12), IN(2, 35, 2, 12), IN(2, 35, 2, 12), IN(9, 12), IN(13, 12)}},
    {"attention_rel, one head", "attention_rel_one", run_attention_rel_one, {IN(1, 306, 1, 16), IN(1, 306, 1, 16), IN(1, 306, 1, 16), IN(35, 16), IN(33, 16)}},
    {"attention, long", NULL, run_attention_long, {IN(700, 4, 6), IN(900, 2, 6), IN(900, 2, 5)}},
    {"max_pool2d", NULL, run_pool_apart, {{3, {2, 13, 10}, 0, 0.05}}},
    {"mean_hw", "mean_hw", run_mean_hw, {IN(2, 3, 13, 10)}},
    {"roi_align", "roi_align", run_roi_align, {IN(3, 13, 10)}},
    {"roi_align, ratio by size", "roi_align_auto", run_roi_align_auto, {IN(3, 13, 10)}},
};
static const fs_grad_case exact_only = {"max_pool2d", "max_pool", run_max_pool, {IN(2, 3, 13, 10)}}; /* too close for finite differences */

/* Large enough for several threads. */
static const fs_grad_case large[] = {
    {"conv2d 3x3", NULL, run_conv3, {IN(2, 16, 41, 43), IN(37, 16, 3, 3), IN(37)}},
    {"conv2d 7x7/2", NULL, run_conv7s2, {IN(3, 90, 87), IN(33, 3, 7, 7), IN(33)}},
    {"conv2d 5x5/2, lines", NULL, run_conv5s2, {IN(9, 130, 128), IN(16, 9, 5, 5), IN(16)}},
    {"conv2d 3x3, lines", NULL, run_conv3, {IN(8, 37, 96), IN(37, 8, 3, 3), IN(37)}},
    {"conv2d 1x1", NULL, run_conv1, {IN(35, 49, 51), IN(40, 35, 1, 1), IN(40)}},
    {"conv_transpose2d", NULL, run_deconv, {IN(26, 31, 33), IN(26, 14, 2, 2), IN(14)}},
    {"layer_norm_2d", NULL, run_layer_norm_2d, {IN(24, 59, 61), IN(24), IN(24)}},
    {"group_norm", NULL, run_group_norm, {IN(24, 59, 61), IN(24), IN(24)}},
    {"batch_norm", NULL, run_batch_norm, {IN(4, 5, 59, 61), IN(5), IN(5)}},
    {"batch_norm_train", NULL, run_batch_norm_train, {IN(4, 5, 59, 61), IN(5), IN(5)}},
    {"resize_bilinear", NULL, run_resize_up, {IN(20, 60, 61)}},
    {"max_pool2d", NULL, run_max_pool, {IN(20, 60, 61)}},
    {"roi_align", NULL, run_roi_align, {IN(160, 13, 10)}},
};

static void every_operator(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fs_grad_check(&cases[i], 1 + (int)(i % 3));
        fs_grad_same_bits(&cases[i], 3);
    }
    for (size_t i = 0; i < sizeof large / sizeof *large; i++) fs_grad_same_bits(&large[i], 4);
}

static void as_pytorch(void **state) {
    (void)state;
    fs_archive *goldens = NULL;
    fs_error err = {0};
    if (fs_archive_open(FS_GOLDEN_DIR "/grads_vision.safetensors", &goldens, &err)) fail_msg("%s", err.message);
    size_t compared = 1;
    fs_grad_compare(&exact_only, goldens);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (cases[i].golden) fs_grad_compare(&cases[i], goldens), compared++;
    assert_int_equal(compared, 25);
    fs_archive_free(goldens);
}

/* Of equal values the first one gets a window's gradient, as in PyTorch; a NaN gets it in any case. */
static void pooling_of_equals(void **state) {
    (void)state;
    static const float want[2][16] = {{1, 2, 0, 0, 3, 4}, {0, 0, 0, 0, 0, 10}};
    for (int nan = 0; nan < 2; nan++) {
        fs_exec c = fs_grad_start(1);
        fs_error err = {0};
        fs_tape tape = {0};
        fs_tape_node node;
        float grad[16] = {0};
        fs_tensor *x = fs_new_3d(&c, 1, 4, 4);
        for (int i = 0; i < 16; i++) fs_f32(x)[i] = nan && i == 5 ? NAN : 0.5f;
        const fs_tensor leaf = fs_tape_leaf(&node, x, grad);
        c.tape = &tape;
        fs_tape_backward(&c, fs_max_pool2d(&c, &leaf, 3, 2, 1), (const float[]){1, 2, 3, 4});
        if (fs_exec_status(&c, &err)) fail_msg("%s", err.message);
        assert_memory_equal(grad, want[nan], sizeof grad);
        fs_exec_end(&c);
    }
}

/* The running statistics after two batches are PyTorch's rule by hand; a batch of one value a channel is refused. */
static void running_statistics(void **state) {
    (void)state;
    fs_exec c = fs_grad_start(2);
    fs_error err = {0};
    enum { N = 3, C = 2, P = 4 };
    float mean[C] = {0.5f, -1}, variance[C] = {1, 3}, one[C] = {1, 1}, zero[C] = {0};
    double want_mean[C] = {0.5, -1}, want_variance[C] = {1, 3};
    const int64_t channels = C, shape[4] = {N, C, 2, 2};
    const fs_tensor *w = fs_wrap(&c, FS_DTYPE_F32, 1, &channels, one), *b = fs_wrap(&c, FS_DTYPE_F32, 1, &channels, zero);
    fs_rng r = fs_rng_seed(5);
    for (int batch = 0; batch < 2; batch++) {
        fs_tensor *x = fs_new(&c, 4, shape);
        for (int i = 0; i < N * C * P; i++) fs_f32(x)[i] = (float)(3 * fs_rng_uniform(&r));
        const fs_tensor *y = fs_batch_norm_train(&c, x, w, b, mean, variance, 0.25f, 1e-5f);
        assert_non_null(y);
        for (int ch = 0; ch < C; ch++) {
            double sum = 0, squares = 0, out = 0, out_squares = 0;
            for (int i = 0; i < N * P; i++) sum += (double)fs_f32(x)[(i / P * C + ch) * P + i % P];
            for (int i = 0; i < N * P; i++) {
                const int at = (i / P * C + ch) * P + i % P;
                squares += pow((double)fs_f32(x)[at] - sum / (N * P), 2);
                out += (double)fs_f32(y)[at], out_squares += pow((double)fs_f32(y)[at], 2);
            }
            want_mean[ch] = 0.75 * want_mean[ch] + 0.25 * sum / (N * P);
            want_variance[ch] = 0.75 * want_variance[ch] + 0.25 * squares / (N * P - 1);
            assert_true(fabs((double)mean[ch] - want_mean[ch]) < 1e-6 && fabs((double)variance[ch] - want_variance[ch]) < 1e-6); /* f32 */
            assert_true(fabs(out) < 1e-5 && fabs(out_squares / (N * P) - 1) < 1e-4); /* eps is 1e-5 of a variance near 1 */
        }
    }
    fs_tensor *single = fs_new(&c, 4, (const int64_t[]){1, C, 1, 1});
    assert_null(fs_batch_norm_train(&c, single, w, b, NULL, NULL, 0.1f, 1e-5f));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_MISMATCH);
    fs_exec_end(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_operator), cmocka_unit_test(as_pytorch), cmocka_unit_test(pooling_of_equals),
                                       cmocka_unit_test(running_statistics)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
