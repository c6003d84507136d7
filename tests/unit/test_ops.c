/* Operators against PyTorch (tests/golden/ops.safetensors, tools/reference/make_op_goldens.py), on every table of kernels this processor
 * runs. Inputs come by formula from their names; each golden is checked in f32 and, where there is a NAME.bf16, in bfloat16. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "format/archive.h"
#include "support/weightgen.h"
#include "tensor/ops.h"

static fs_archive *goldens;

/* The formula's tensor, as the network of the context's precision holds it (rounded), then x * factor + offset (rounded). */
static fs_tensor *formula(fs_exec *c, const char *name, float factor, float offset, int ndim, const int64_t *shape) {
    fs_tensor *t = fs_new(c, ndim, shape);
    assert_non_null(t);
    fs_test_weight(name, (size_t)ndim, shape, fs_f32(t));
    const int64_t n = fs_tensor_count(t);
    for (int64_t i = 0; i < n; i++) fs_f32(t)[i] = fs_f32(t)[i] * factor + offset;
    return fs_to_f32(c, t);
}
#define T(c, name, ...)                                                                                                                    \
    formula((c), (name), 1.0f, 0.0f, (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

/* The same weight in 16 bits: values that a bf16 or f16 network reads unchanged. */
static fs_tensor *in_16_bits(fs_exec *c, const fs_tensor *w, fs_dtype type) {
    const int64_t n = fs_tensor_count(w);
    uint16_t *h = fs_arena_alloc(c->arena, (size_t)n * sizeof *h);
    assert_non_null(h);
    for (int64_t i = 0; i < n; i++) h[i] = type == FS_DTYPE_F16 ? fs_f32_to_f16(fs_f32(w)[i]) : fs_f32_to_bf16(fs_f32(w)[i]);
    return fs_wrap(c, type, w->ndim, w->shape, h);
}

static int32_t ordered(float f) { /* neighbouring bfloat16 values differ by 1 */
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const int32_t v = (int32_t)(bits >> 16);
    return v & 0x8000 ? 0x8000 - v : v;
}

/* y against golden NAME or NAME.bf16. tolerance: of the largest magnitude, for f32. */
static void check(fs_exec *c, const char *name, const fs_tensor *y, double tolerance) {
    fs_error err = {0};
    if (fs_exec_status(c, &err)) fail_msg("%s: %s", name, err.message);
    assert_non_null(y);
    char full[64];
    const bool bf16 = c->precision == FS_DTYPE_BF16;
    snprintf(full, sizeof full, "%s%s", name, bf16 ? ".bf16" : "");
    const fs_tensor *want = fs_archive_find(goldens, full);
    assert_non_null(want);
    assert_int_equal(want->ndim, y->ndim);
    for (int d = 0; d < y->ndim; d++) assert_int_equal(want->shape[d], y->shape[d]);
    const int64_t n = fs_tensor_count(y);
    if (!bf16) {
        double largest = 0, worst = 0;
        for (int64_t i = 0; i < n; i++) {
            const double diff = fabs((double)fs_f32(y)[i] - (double)fs_f32(want)[i]);
            largest = fmax(largest, fabs((double)fs_f32(want)[i]));
            if (!(diff <= worst)) worst = diff; /* NaN counts as worst */
        }
        if (!(worst <= tolerance * largest)) fail_msg("%s (%s): off by %g of %g", full, c->backend->name, worst, largest);
        return;
    }
    /* 2 ulp for more than 99 %: PyTorch sums in another order, so roundings fall the other way now and then. Values that are small
     * against their own terms may differ more, but not by more than 2 ulp of the largest. What is below 1e-6 is the
     * cancellation in PyTorch's f32 1 + erf(x), which here is computed as erfc(-x). */
    int64_t far = 0;
    double largest = 0, worst = 0;
    for (int64_t i = 0; i < n; i++) {
        const float expected = fs_bf16_to_f32(((const uint16_t *)want->data)[i]);
        const double diff = fabs((double)fs_f32(y)[i] - (double)expected);
        far += labs((long)ordered(fs_f32(y)[i]) - ordered(expected)) > 2 && !(diff < 1e-6);
        largest = fmax(largest, fabs((double)expected));
        if (!(diff <= worst)) worst = diff;
    }
    if (far * 100 > n || !(worst <= largest / 64))
        fail_msg("%s (%s): %d of %d beyond 2 ulp, worst %g", full, c->backend->name, (int)far, (int)n, worst);
}

/* Contexts to check in: every table, f32 and (if both) bf16. */
typedef void (*case_fn)(fs_exec *c);
static void everywhere(bool both, case_fn fn) {
    static const char *const names[] = {"ref", "avx2", "avx512", "neon"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const fs_backend *be = fs_backend_by_name(names[i]);
        for (int precision = 0; be && precision < (both ? 2 : 1); precision++) {
            fs_exec c;
            assert_int_equal(fs_exec_init(&c, precision ? FS_DTYPE_BF16 : FS_DTYPE_F32, 2, NULL, NULL), FS_OK);
            c.backend = be;
            fn(&c);
            fs_exec_end(&c);
        }
    }
}

/* Tolerances in f32, relative to the largest value of the result: 1e-6 where a result is a few roundings away from exact (sums of some
 * hundred terms included), 3e-6 where such errors pass through a second operator (attention) or thousands of terms are summed. */
static const double CLOSE = 1e-6, CHAINED = 3e-6;

/* ---- products ---- */

static void linear_case(fs_exec *c) {
    const fs_tensor *w = T(c, "linear.weight", 45, 300), *b = T(c, "linear.bias", 45), *x = T(c, "input.linear", 7, 300);
    const fs_tensor *few = T(c, "input.linear_few", 3, 300);
    check(c, "linear", fs_linear(c, x, w, b), CLOSE);
    check(c, "linear_few", fs_linear(c, few, w, b), CLOSE);
    if (c->precision == FS_DTYPE_F32) {
        check(c, "linear_long", fs_linear(c, T(c, "input.linear_long", 5, 5003), T(c, "linear_long.weight", 9, 5003), NULL), CHAINED);
        /* a weight in 16 bits is that weight: the same as its f32 copy */
        for (int f16 = 0; f16 < 2; f16++) {
            const fs_tensor *half = in_16_bits(c, w, f16 ? FS_DTYPE_F16 : FS_DTYPE_BF16), *wide = fs_to_f32(c, half);
            const fs_tensor *a = fs_linear(c, x, half, b), *z = fs_linear(c, x, wide, b);
            const fs_tensor *a3 = fs_linear(c, few, half, b), *z3 = fs_linear(c, few, wide, b);
            assert_memory_equal(a->data, z->data, 7 * 45 * sizeof(float));
            assert_memory_equal(a3->data, z3->data, 3 * 45 * sizeof(float));
        }
    } else { /* a bf16 network given wider weights rounds them as it reads; given bf16 ones reads them as they are */
        fs_tensor *raw = fs_new_2d(c, 45, 300), *raw_b = fs_new_1d(c, 45);
        fs_test_weight("linear.weight", 2, raw->shape, fs_f32(raw));
        fs_test_weight("linear.bias", 1, raw_b->shape, fs_f32(raw_b));
        check(c, "linear", fs_linear(c, x, raw, raw_b), CLOSE);
        check(c, "linear_few", fs_linear(c, few, raw, raw_b), CLOSE);
        check(c, "linear", fs_linear(c, x, in_16_bits(c, w, FS_DTYPE_BF16), in_16_bits(c, b, FS_DTYPE_BF16)), CLOSE);
    }
}

static void matmul_case(fs_exec *c) {
    check(c, "matmul", fs_matmul(c, T(c, "input.matmul.a", 5, 70), T(c, "input.matmul.b", 70, 41)), CLOSE);
}

static void conv3_case(fs_exec *c) {
    check(c, "conv3", fs_conv2d(c, T(c, "input.conv3", 6, 11, 13), T(c, "conv3.weight", 10, 6, 3, 3), T(c, "conv3.bias", 10), 1, 1), CLOSE);
}

static void conv_case(fs_exec *c) {
    static const struct { const char *name; int64_t ch, h, w, kernel; int stride, pad; } cases[] = {
        {"conv3s2", 6, 11, 13, 3, 2, 1}, {"conv7s2", 3, 20, 17, 7, 2, 3}, {"conv1", 5, 9, 6, 1, 1, 0},
        {"conv1s2", 5, 9, 6, 1, 2, 0},   {"patch4", 3, 12, 16, 4, 4, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char in[64], w[64], b[64];
        snprintf(in, sizeof in, "input.%s", cases[i].name);
        snprintf(w, sizeof w, "%s.weight", cases[i].name);
        snprintf(b, sizeof b, "%s.bias", cases[i].name);
        check(c, cases[i].name,
              fs_conv2d(c, T(c, in, cases[i].ch, cases[i].h, cases[i].w), T(c, w, 10, cases[i].ch, cases[i].kernel, cases[i].kernel),
                        T(c, b, 10), cases[i].stride, cases[i].pad),
              CLOSE);
    }
    check(c, "deconv2",
          fs_conv_transpose2d(c, T(c, "input.deconv2", 6, 5, 7), T(c, "deconv2.weight", 6, 4, 2, 2), T(c, "deconv2.bias", 4), 2), CLOSE);
    check(c, "deconv3s2",
          fs_conv_transpose2d(c, T(c, "input.deconv3s2", 6, 5, 7), T(c, "deconv3s2.weight", 6, 4, 3, 3), T(c, "deconv3s2.bias", 4), 2),
          CLOSE);
}

/* ---- elementwise, norms ---- */

static void elementwise_case(fs_exec *c) {
    const fs_tensor *wide = formula(c, "input.wide", 4.0f, 0.0f, 1, (const int64_t[]){1500});
    check(c, "gelu", fs_gelu(c, wide), CLOSE);
    check(c, "silu", fs_silu(c, wide), CLOSE);
    check(c, "quick_gelu", fs_quick_gelu(c, wide), CLOSE);
    check(c, "silu_mul", fs_silu_mul(c, wide, T(c, "input.up", 1500)), CLOSE);
    const fs_tensor *b = T(c, "input.add.b", 50);
    check(c, "add", fs_add(c, T(c, "input.add.a", 6, 50), b), CLOSE);
    check(c, "add", fs_add(c, T(c, "input.add.a", 6, 50), fs_reshape_3d(c, b, 1, 1, 50)), CLOSE);
}

static void norm_case(fs_exec *c) {
    const fs_tensor *x = formula(c, "input.norm", 3.0f, 2.0f, 2, (const int64_t[]){9, 140});
    const fs_tensor *w = T(c, "norm.weight", 140), *b = T(c, "norm.bias", 140);
    check(c, "layer_norm", fs_layer_norm(c, x, w, b, 1e-5f), CLOSE);
    check(c, "rms_norm", fs_rms_norm(c, x, w, 1e-5f), CLOSE);
    const fs_tensor *maps = formula(c, "input.norm2d", 2.0f, 1.0f, 3, (const int64_t[]){24, 9, 31});
    w = T(c, "norm2d.weight", 24), b = T(c, "norm2d.bias", 24);
    check(c, "layer_norm_2d", fs_layer_norm_2d(c, maps, w, b, 1e-6f), CLOSE);
    check(c, "softmax", fs_softmax(c, formula(c, "input.softmax", 3.0f, 0.0f, 2, (const int64_t[]){5, 333})), CLOSE);
    if (c->precision != FS_DTYPE_F32) return;
    check(c, "group_norm", fs_group_norm(c, maps, 6, w, b, 1e-5f), CLOSE);
    check(c, "batch_norm", fs_batch_norm(c, maps, w, b, T(c, "norm2d.running_mean", 24), T(c, "norm2d.running_var", 24), 1e-5f), CLOSE);
}

/* ---- attention ---- */

static void rope_case(fs_exec *c) {
    /* angles of position 1019 are f32: one ulp of inv_freq moves them by 6e-5, so CHAINED does not hold there */
    check(c, "rope", fs_rope(c, T(c, "input.rope", 5, 3, 16), (const int64_t[]){0, 1, 2, 3, 4}, 10000.0f), CLOSE);
    check(c, "rope_far", fs_rope(c, T(c, "input.rope_far", 3, 2, 128), (const int64_t[]){1019, 1020, 1021}, 10000.0f), 1e-4);
}

static void attention_case(fs_exec *c) {
    const fs_tensor *q = T(c, "input.attention.q", 130, 4, 20), *k = T(c, "input.attention.k", 300, 2, 20),
                    *v = T(c, "input.attention.v", 300, 2, 24);
    const float scale = 1.0f / sqrtf(20.0f);
    check(c, "attention", fs_attention(c, q, k, v, scale, false), CHAINED);
    check(c, "attention_causal", fs_attention(c, q, k, v, scale, true), CHAINED);
    check(c, "attention_few", fs_attention(c, fs_rows(c, q, 0, 2), k, v, scale, true), CHAINED);
}

static void rel_case(fs_exec *c) {
    static const struct {
        const char *name;
        int64_t windows, h, w, heads, d;
    } cases[] = {{"rel", 2, 5, 7, 2, 12}, {"rel_large", 1, 18, 17, 1, 16}};
    for (int i = 0; i < 2; i++) {
        const int64_t shape[4] = {cases[i].windows, cases[i].h * cases[i].w, cases[i].heads, cases[i].d};
        const fs_tensor *t[5];
        for (int j = 0; j < 5; j++) {
            static const char *const names[] = {"input.%s.q", "input.%s.k", "input.%s.v", "%s.rel_pos_h", "%s.rel_pos_w"};
            char name[64];
            const int64_t table[2] = {2 * (j == 3 ? cases[i].h : cases[i].w) - 1, cases[i].d};
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            snprintf(name, sizeof name, names[j], cases[i].name);
#pragma GCC diagnostic pop
            t[j] = formula(c, name, 1.0f, 0.0f, j < 3 ? 4 : 2, j < 3 ? shape : table);
        }
        check(c, cases[i].name, fs_attention_rel(c, t[0], t[1], t[2], t[3], t[4], cases[i].h, cases[i].w, 1.0f / sqrtf((float)cases[i].d)),
              CHAINED);
    }
}

/* ---- pooling, sampling, windows ---- */

static void sampling_case(fs_exec *c) {
    const fs_tensor *maps = T(c, "input.maps", 3, 13, 10), *grid = T(c, "input.windows", 9, 6, 3);
    check(c, "max_pool", fs_max_pool2d(c, maps, 3, 2, 1), 0.0);
    check(c, "mean_hw", fs_mean_hw(c, maps), CLOSE);
    /* one f32 step in a position near 13 is 1e-6 of a pixel; neighbours differ by up to 3.5 */
    check(c, "resize_up", fs_resize_bilinear(c, maps, 29, 31, false, false), CHAINED);
    check(c, "resize_down", fs_resize_bilinear(c, maps, 5, 4, false, false), CHAINED);
    check(c, "resize_align", fs_resize_bilinear(c, maps, 26, 19, true, false), CHAINED);
    const float boxes[] = {0, 0, 20, 26, 3.5f, 2.25f, 9, 11, -4, -3, 40, 30, 6, 6, 6, 6};
    check(c, "roi_align", fs_roi_align(c, maps, boxes, 4, 0.5f, 5, 2), CHAINED);
    check(c, "roi_align_auto", fs_roi_align(c, maps, boxes, 4, 0.5f, 5, 0), CHAINED);
    const fs_tensor *windows = fs_window_partition(c, grid, 4);
    check(c, "windows", windows, 0.0);
    assert_memory_equal(fs_window_unpartition(c, windows, 4, 9, 6)->data, grid->data, 9 * 6 * 3 * sizeof(float));
}

static void test_linear(void **state) { (void)state, everywhere(true, linear_case); }
static void test_matmul(void **state) { (void)state, everywhere(true, matmul_case); }
static void test_conv_3x3(void **state) { (void)state, everywhere(true, conv3_case); }
static void test_convolutions(void **state) { (void)state, everywhere(false, conv_case); }
static void test_elementwise(void **state) { (void)state, everywhere(true, elementwise_case); }
static void test_norms(void **state) { (void)state, everywhere(true, norm_case); }
static void test_rope(void **state) { (void)state, everywhere(true, rope_case); }
static void test_attention(void **state) { (void)state, everywhere(true, attention_case); }
static void test_attention_rel(void **state) { (void)state, everywhere(true, rel_case); }
static void test_sampling(void **state) { (void)state, everywhere(false, sampling_case); }

int main(void) {
    fs_error err;
    if (fs_archive_open(FS_GOLDEN_DIR "/ops.safetensors", &goldens, &err)) return fprintf(stderr, "%s\n", err.message), 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_linear),     cmocka_unit_test(test_matmul),    cmocka_unit_test(test_conv_3x3),
        cmocka_unit_test(test_convolutions), cmocka_unit_test(test_elementwise), cmocka_unit_test(test_norms),
        cmocka_unit_test(test_rope),       cmocka_unit_test(test_attention), cmocka_unit_test(test_attention_rel),
        cmocka_unit_test(test_sampling),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    fs_archive_free(goldens);
    return failed;
}
