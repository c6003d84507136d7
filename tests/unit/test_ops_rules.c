/* The promises all operators keep: the same bits for 1 to 4 threads, inputs unchanged, f16 results that are f16 numbers, one error kept and
 * later operators silent, misuse said in one line and never computed. Also what the shape operators do, which needs no reference. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "backend/backend.h"
#include "support/weightgen.h"
#include "tensor/ops.h"

static fs_exec context(fs_dtype precision, int threads) {
    fs_exec c;
    assert_int_equal(fs_exec_init(&c, precision, threads, NULL, NULL), FS_OK);
    return c;
}

static fs_tensor *formula(fs_exec *c, const char *name, int ndim, const int64_t *shape) {
    fs_tensor *t = fs_new(c, ndim, shape);
    assert_non_null(t);
    fs_test_weight(name, (size_t)ndim, shape, fs_f32(t));
    return fs_to_f32(c, t);
}
#define T(c, name, ...) formula((c), (name), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

/* ---- threads: sizes large enough that all four get work ---- */

typedef fs_tensor *(*op_case)(fs_exec *c);
static fs_tensor *columns_case(fs_exec *c) {
    return fs_columns(c, T(c, "input.a", 700, 130), 3, 120);
}
static fs_tensor *transpose_case(fs_exec *c) {
    return fs_transpose(c, T(c, "input.a", 701, 130));
}
static fs_tensor *add_case(fs_exec *c) {
    return fs_add(c, T(c, "input.a", 700, 131), T(c, "input.b", 131));
}
static fs_tensor *mul_case(fs_exec *c) {
    return fs_mul(c, T(c, "input.a", 700, 131), T(c, "input.b", 700, 131));
}
static fs_tensor *scale_case(fs_exec *c) {
    return fs_scale(c, T(c, "input.a", 700, 131), 0.3f);
}
static fs_tensor *relu_case(fs_exec *c) {
    return fs_relu(c, T(c, "input.a", 700, 131));
}
static fs_tensor *gelu_case(fs_exec *c) {
    return fs_gelu(c, T(c, "input.a", 700, 131));
}
static fs_tensor *quick_gelu_case(fs_exec *c) {
    return fs_quick_gelu(c, T(c, "input.a", 700, 131));
}
static fs_tensor *silu_case(fs_exec *c) {
    return fs_silu(c, T(c, "input.a", 700, 131));
}
static fs_tensor *silu_mul_case(fs_exec *c) {
    return fs_silu_mul(c, T(c, "input.a", 700, 131), T(c, "input.b", 700, 131));
}
static fs_tensor *linear_case(fs_exec *c) {
    return fs_linear(c, T(c, "input.a", 150, 300), T(c, "l.weight", 203, 300), T(c, "l.bias", 203));
}
static fs_tensor *linear_few_case(fs_exec *c) {
    return fs_linear(c, T(c, "input.a", 2, 900), T(c, "l.weight", 1203, 900), NULL);
}
static fs_tensor *linear_narrow_case(fs_exec *c) {
    return fs_linear(c, T(c, "input.a", 900, 300), T(c, "l.weight", 20, 300), NULL);
}
static fs_tensor *matmul_case(fs_exec *c) {
    return fs_matmul(c, T(c, "input.a", 150, 300), T(c, "input.b", 300, 203));
}
static fs_tensor *conv_case(fs_exec *c) {
    return fs_conv2d(c, T(c, "input.a", 20, 41, 43), T(c, "c.weight", 30, 20, 3, 3), T(c, "c.bias", 30), 2, 1);
}
static fs_tensor *conv_1x1_case(fs_exec *c) {
    return fs_conv2d(c, T(c, "input.a", 64, 31, 33), T(c, "c.weight", 70, 64, 1, 1), NULL, 1, 0);
}
static fs_tensor *deconv_case(fs_exec *c) {
    return fs_conv_transpose2d(c, T(c, "input.a", 30, 31, 29), T(c, "c.weight", 30, 17, 2, 2), T(c, "c.bias", 17), 2);
}
static fs_tensor *layer_norm_case(fs_exec *c) {
    return fs_layer_norm(c, T(c, "input.a", 700, 131), T(c, "n.weight", 131), T(c, "n.bias", 131), 1e-5f);
}
static fs_tensor *rms_norm_case(fs_exec *c) {
    return fs_rms_norm(c, T(c, "input.a", 700, 131), T(c, "n.weight", 131), 1e-5f);
}
static fs_tensor *norm_2d_case(fs_exec *c) {
    return fs_layer_norm_2d(c, T(c, "input.a", 50, 41, 43), T(c, "n.weight", 50), T(c, "n.bias", 50), 1e-6f);
}
static fs_tensor *group_norm_case(fs_exec *c) {
    return fs_group_norm(c, T(c, "input.a", 50, 41, 43), 10, T(c, "n.weight", 50), T(c, "n.bias", 50), 1e-5f);
}
static fs_tensor *batch_norm_case(fs_exec *c) {
    return fs_batch_norm(c, T(c, "input.a", 50, 41, 43), T(c, "n.weight", 50), T(c, "n.bias", 50), T(c, "n.running_mean", 50),
                         T(c, "n.running_var", 50), 1e-5f);
}
static fs_tensor *softmax_case(fs_exec *c) {
    return fs_softmax(c, T(c, "input.a", 700, 131));
}
static fs_tensor *rope_case(fs_exec *c) {
    int64_t positions[71];
    for (int i = 0; i < 71; i++) positions[i] = 13 + i;
    return fs_rope(c, T(c, "input.a", 71, 8, 64), positions, 10000.0f);
}
static fs_tensor *attention_case(fs_exec *c) {
    return fs_attention(c, T(c, "input.q", 130, 3, 40), T(c, "input.k", 300, 3, 40), T(c, "input.v", 300, 3, 40), 0.2f, true);
}
static fs_tensor *one_head_case(fs_exec *c) { /* fewer heads than threads: the queries are divided */
    return fs_attention(c, T(c, "input.q", 400, 1, 40), T(c, "input.k", 400, 1, 40), T(c, "input.v", 400, 1, 40), 0.2f, false);
}
static fs_tensor *decode_case(fs_exec *c) {
    return fs_attention(c, T(c, "input.q", 1, 8, 64), T(c, "input.k", 500, 4, 64), T(c, "input.v", 500, 4, 64), 0.125f, true);
}
static fs_tensor *rel_case(fs_exec *c) {
    return fs_attention_rel(c, T(c, "input.q", 3, 196, 2, 20), T(c, "input.k", 3, 196, 2, 20), T(c, "input.v", 3, 196, 2, 20),
                            T(c, "rel_pos_h", 27, 20), T(c, "rel_pos_w", 27, 20), 14, 14, 0.2f);
}
static fs_tensor *grid_case(fs_exec *c) {
    return fs_attention_grid(c, T(c, "input.a", 33, 31, 120), 2, T(c, "a.bias", 120), T(c, "rel_pos_h", 27, 20), T(c, "rel_pos_w", 27, 20), 14, 0.2f);
}
static fs_tensor *grid_whole_case(fs_exec *c) {
    return fs_attention_grid(c, T(c, "input.a", 35, 35, 60), 1, T(c, "a.bias", 60), T(c, "rel_pos_h", 69, 20), T(c, "rel_pos_w", 69, 20), 35, 0.2f);
}
static fs_tensor *linear_add_case(fs_exec *c) {
    return fs_linear_add(c, T(c, "input.a", 150, 300), T(c, "l.weight", 203, 300), T(c, "l.bias", 203), T(c, "input.r", 150, 203));
}
static fs_tensor *linear_gelu_case(fs_exec *c) {
    return fs_linear_gelu(c, T(c, "input.a", 150, 300), T(c, "l.weight", 203, 300), T(c, "l.bias", 203));
}
static fs_tensor *conv_norm_case(fs_exec *c) {
    const fs_batch norm = {T(c, "n.weight", 30), T(c, "n.bias", 30), T(c, "n.running_mean", 30), T(c, "n.running_var", 30), 1e-5f};
    return fs_conv2d_norm(c, T(c, "input.a", 20, 41, 43), T(c, "c.weight", 30, 20, 3, 3), &norm, 2, 1, T(c, "input.r", 30, 21, 22), true);
}
static fs_tensor *partition_case(fs_exec *c) {
    return fs_window_partition(c, T(c, "input.a", 45, 47, 40), 14);
}
static fs_tensor *unpartition_case(fs_exec *c) {
    return fs_window_unpartition(c, T(c, "input.a", 16, 196, 40), 14, 45, 47);
}
static fs_tensor *pool_case(fs_exec *c) {
    return fs_max_pool2d(c, T(c, "input.a", 20, 41, 43), 3, 2, 1);
}
static fs_tensor *resize_case(fs_exec *c) {
    return fs_resize_bilinear(c, T(c, "input.a", 5, 41, 43), 150, 160, false, true);
}
static fs_tensor *roi_case(fs_exec *c) {
    const float boxes[] = {0, 0, 50, 60, 7, 9, 30, 31};
    return fs_roi_align(c, T(c, "input.a", 40, 41, 43), boxes, 2, 0.7f, 7, 2);
}

static const struct {
    const char *name;
    op_case fn;
} cases[] = {
    {"columns", columns_case},
    {"transpose", transpose_case},
    {"add", add_case},
    {"mul", mul_case},
    {"scale", scale_case},
    {"relu", relu_case},
    {"gelu", gelu_case},
    {"quick_gelu", quick_gelu_case},
    {"silu", silu_case},
    {"silu_mul", silu_mul_case},
    {"linear", linear_case},
    {"linear_few", linear_few_case},
    {"linear_narrow", linear_narrow_case},
    {"matmul", matmul_case},
    {"conv", conv_case},
    {"conv_1x1", conv_1x1_case},
    {"deconv", deconv_case},
    {"layer_norm", layer_norm_case},
    {"rms_norm", rms_norm_case},
    {"norm_2d", norm_2d_case},
    {"group_norm", group_norm_case},
    {"batch_norm", batch_norm_case},
    {"softmax", softmax_case},
    {"rope", rope_case},
    {"attention", attention_case},
    {"one_head", one_head_case},
    {"decode", decode_case},
    {"rel", rel_case},
    {"grid", grid_case},
    {"grid_whole", grid_whole_case},
    {"linear_add", linear_add_case},
    {"linear_gelu", linear_gelu_case},
    {"conv_norm", conv_norm_case},
    {"partition", partition_case},
    {"unpartition", unpartition_case},
    {"pool", pool_case},
    {"resize", resize_case},
    {"roi", roi_case},
};
enum { CASES = sizeof cases / sizeof *cases };

static void test_threads(void **state) {
    (void)state;
    for (int precision = 0; precision < 2; precision++)
        for (int i = 0; i < CASES; i++) {
            fs_exec one = context(precision ? FS_DTYPE_BF16 : FS_DTYPE_F32, 1);
            const fs_tensor *want = cases[i].fn(&one);
            if (!want) fail_msg("%s: %s", cases[i].name, one.error.message);
            for (int threads = 2; threads <= 4; threads++) {
                fs_exec c = context(one.precision, threads);
                const fs_tensor *y = cases[i].fn(&c);
                assert_non_null(y);
                if (memcmp(y->data, want->data, (size_t)fs_tensor_count(want) * sizeof(float)) != 0)
                    fail_msg("%s: other bits with %d threads", cases[i].name, threads);
                fs_exec_end(&c);
            }
            fs_exec_end(&one);
        }
}

/* In 16 bits every result is a number of that type; nothing that is finite in the goldens is lost. */
static void test_precision(void **state) {
    (void)state;
    for (int i = 0; i < CASES; i++) {
        fs_exec c = context(FS_DTYPE_F16, 2);
        const fs_tensor *y = cases[i].fn(&c);
        assert_true(fs_check_finite(&c, y, cases[i].name));
        for (int64_t j = 0; j < fs_tensor_count(y); j++) assert_true(fs_f16_to_f32(fs_f32_to_f16(fs_f32(y)[j])) == fs_f32(y)[j]);
        fs_exec_end(&c);
    }
}

/* Scratch goes back: what is allocated next lies right behind the result (everything here fits the arena's first block). And an operator
 * run again after its result was released takes no more than before. */
static void test_memory(void **state) {
    (void)state;
    for (int i = 0; i < CASES; i++) {
        fs_exec c = context(FS_DTYPE_BF16, 2);
        size_t peak = 0;
        for (int run = 0; run < 3; run++) {
            const fs_arena_mark mark = fs_arena_get_mark(c.arena);
            const fs_tensor *y = cases[i].fn(&c);
            assert_non_null(y);
            const size_t bytes = ((size_t)fs_tensor_count(y) * sizeof(float) + 63) / 64 * 64;
            if (fs_arena_alloc(c.arena, 64) != (char *)y->data + bytes) fail_msg("%s keeps scratch", cases[i].name);
            fs_arena_release(c.arena, mark);
            if (run == 1) peak = fs_arena_peak(c.arena);
        }
        assert_int_equal(fs_arena_peak(c.arena), peak);
        fs_exec_end(&c);
    }
}

/* ---- a row's bits do not depend on its neighbours (within the same path) ---- */

static void test_rows_alone(void **state) {
    (void)state;
    fs_exec c = context(FS_DTYPE_F32, 2);
    const fs_tensor *x = T(&c, "input.a", 150, 300), *w = T(&c, "l.weight", 203, 300);
    const fs_tensor *all = fs_linear(&c, x, w, NULL), *part = fs_linear(&c, fs_rows(&c, x, 17, 37), w, NULL);
    assert_memory_equal(fs_f32(all) + 17 * 203, part->data, 20 * 203 * sizeof(float));
    const fs_tensor *q = T(&c, "input.q", 130, 3, 40), *k = T(&c, "input.k", 130, 3, 40), *v = T(&c, "input.v", 130, 3, 40);
    const fs_tensor *whole = fs_attention(&c, q, k, v, 0.2f, true);
    const fs_tensor *prefix = fs_attention(&c, fs_rows(&c, q, 0, 90), fs_rows(&c, k, 0, 90), fs_rows(&c, v, 0, 90), 0.2f, true);
    assert_memory_equal(whole->data, prefix->data, 90 * 120 * sizeof(float));             /* later keys do not touch earlier queries */
    const fs_tensor *last = fs_attention(&c, fs_rows(&c, q, 129, 130), k, v, 0.2f, true); /* another path: last bits may differ */
    for (int i = 0; i < 120; i++) assert_true(fabsf(fs_f32(last)[i] - fs_f32(whole)[129 * 120 + i]) < 1e-6f);
    /* a few tokens at once are the same as one at a time */
    const fs_tensor *few = fs_attention(&c, fs_rows(&c, q, 118, 130), k, v, 0.2f, true),
                    *lines = fs_linear(&c, fs_rows(&c, x, 0, 12), w, NULL);
    for (int64_t i = 0; i < 12; i++) {
        const int64_t end = 119 + i;
        const fs_tensor *one = fs_attention(&c, fs_rows(&c, q, 118 + i, end), fs_rows(&c, k, 0, end), fs_rows(&c, v, 0, end), 0.2f, true);
        assert_memory_equal(fs_f32(few) + i * 120, one->data, 120 * sizeof(float));
        assert_memory_equal(fs_f32(lines) + i * 203, fs_linear(&c, fs_rows(&c, x, i, i + 1), w, NULL)->data, 203 * sizeof(float));
    }
    assert_int_equal(fs_exec_status(&c, NULL), FS_OK);
    fs_exec_end(&c);
}

/* ---- shape operators ---- */

static void test_shapes(void **state) {
    (void)state;
    fs_exec c = context(FS_DTYPE_F32, 2);
    const fs_tensor *x = T(&c, "input.a", 4, 3, 5);
    const fs_tensor *flat = fs_reshape_2d(&c, x, 12, 5), *rows = fs_rows(&c, x, 1, 3), *cols = fs_columns(&c, x, 1, 3),
                    *t = fs_transpose(&c, x);
    assert_ptr_equal(flat->data, x->data);
    assert_ptr_equal(rows->data, fs_f32(x) + 15);
    assert_int_equal(rows->shape[0], 2);
    assert_true(cols->ndim == 3 && cols->shape[2] == 2);
    for (int i = 0; i < 12; i++) assert_true(fs_f32(cols)[2 * i + 1] == fs_f32(x)[5 * i + 2]);
    assert_true(t->ndim == 2 && t->shape[0] == 15 && t->shape[1] == 4);
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 15; j++) assert_true(fs_f32(t)[j * 4 + i] == fs_f32(x)[i * 15 + j]);
    const fs_tensor *parts[] = {rows, x, rows};
    const fs_tensor *joined = fs_concat_rows(&c, parts, 3);
    assert_int_equal(joined->shape[0], 8);
    assert_memory_equal(fs_f32(joined) + 30, x->data, 60 * sizeof(float));
    assert_memory_equal(fs_f32(joined) + 90, rows->data, 30 * sizeof(float));
    const uint16_t table[] = {0x3C00, 0x4000, 0xC000, 0x3555}; /* f16: 1, 2, -2, 0.333 */
    const int32_t ids[] = {1, 0, 1};
    const fs_tensor *e = fs_embedding(&c, ids, 3, fs_wrap(&c, FS_DTYPE_F16, 2, (const int64_t[]){2, 2}, (void *)(uintptr_t)table));
    const float want[] = {-2, 0.333251953125f, 1, 2, -2, 0.333251953125f};
    assert_memory_equal(e->data, want, sizeof want);
    assert_int_equal(fs_rows(&c, x, 2, 2)->shape[0], 0); /* empty is allowed */
    const double wide[] = {0.1, 1.0 / 3};
    const fs_tensor *d = fs_to_f32(&c, fs_wrap(&c, FS_DTYPE_F64, 1, (const int64_t[]){2}, (void *)(uintptr_t)wide));
    assert_true(fs_f32(d)[0] == 0.1f && fs_f32(d)[1] == 1.0f / 3);
    assert_int_equal(fs_exec_status(&c, NULL), FS_OK);
    fs_exec_end(&c);
}

static void test_f64_weights(void **state) {
    (void)state;
    fs_exec c = context(FS_DTYPE_F32, 2);
    const fs_tensor *w = T(&c, "l.weight", 9, 30), *x = T(&c, "input.a", 6, 30);
    double wide[9 * 30];
    for (int i = 0; i < 9 * 30; i++) wide[i] = (double)fs_f32(w)[i];
    const fs_tensor *a = fs_linear(&c, x, w, NULL), *b = fs_linear(&c, x, fs_wrap(&c, FS_DTYPE_F64, 2, w->shape, wide), NULL);
    assert_memory_equal(a->data, b->data, 6 * 9 * sizeof(float));
    fs_exec_end(&c);
}

/* ---- errors ---- */

#define MISUSE(call, part)                                                                                                                 \
    do {                                                                                                                                   \
        fs_exec c = context(FS_DTYPE_F32, 2);                                                                                              \
        assert_null(call);                                                                                                                 \
        assert_int_equal(c.error.status, FS_E_MISMATCH);                                                                                   \
        if (!strstr(c.error.message, (part))) fail_msg("\"%s\" lacks \"%s\"", c.error.message, (part));                                    \
        fs_exec_end(&c);                                                                                                                   \
    } while (0)

static void test_misuse(void **state) {
    (void)state;
    const int32_t ids[] = {0, 7};
    const float boxes[] = {0, 0, NAN, 1};
    MISUSE(fs_reshape_2d(&c, T(&c, "input.a", 4, 3), 5, 3), "F32 [4,3]");
    MISUSE(fs_rows(&c, T(&c, "input.a", 4, 3), 2, 5), "no rows 2..5");
    MISUSE(fs_columns(&c, T(&c, "input.a", 4, 3), -1, 2), "no columns -1..2");
    MISUSE(fs_concat_rows(&c, ((const fs_tensor *const[]){T(&c, "input.a", 4, 3), T(&c, "input.b", 4, 2)}), 2), "part 1");
    MISUSE(fs_transpose(&c, T(&c, "input.a", 4)), "two or more");
    MISUSE(fs_add(&c, T(&c, "input.a", 4, 3), T(&c, "input.b", 4)), "does not fit");
    MISUSE(fs_silu_mul(&c, T(&c, "input.a", 4, 3), T(&c, "input.b", 3)), "differ");
    MISUSE(fs_linear(&c, T(&c, "input.a", 4, 3), T(&c, "l.weight", 3, 4), NULL), "linear: x F32 [4,3]");
    MISUSE(fs_linear(&c, T(&c, "input.a", 4, 3), T(&c, "l.weight", 5, 3), T(&c, "l.bias", 4)), "bias: expected 5");
    MISUSE(fs_linear(&c, T(&c, "input.a", 4, 3), fs_wrap(&c, FS_DTYPE_I32, 2, (const int64_t[]){5, 3}, NULL), NULL), "I32");
    MISUSE(fs_linear(&c, fs_wrap(&c, FS_DTYPE_F16, 2, (const int64_t[]){5, 3}, NULL), T(&c, "l.weight", 5, 3), NULL), "must be F32");
    MISUSE(fs_matmul(&c, T(&c, "input.a", 4, 3), T(&c, "input.b", 4, 3)), "cannot be multiplied");
    MISUSE(fs_conv2d(&c, T(&c, "input.a", 3, 5, 5), T(&c, "c.weight", 2, 4, 3, 3), NULL, 1, 1), "do not fit");
    MISUSE(fs_conv2d(&c, T(&c, "input.a", 3, 5, 5), T(&c, "c.weight", 2, 3, 8, 8), NULL, 1, 1), "larger than");
    MISUSE(fs_conv2d(&c, T(&c, "input.a", 3, 5, 5), T(&c, "c.weight", 2, 3, 3, 3), NULL, 0, 1), "stride 0");
    MISUSE(fs_conv_transpose2d(&c, T(&c, "input.a", 3, 5, 5), T(&c, "c.weight", 2, 3, 3, 3), NULL, 1), "do not fit");
    MISUSE(fs_embedding(&c, ids, 2, T(&c, "e.weight", 7, 3)), "id 7 at position 1");
    MISUSE(fs_layer_norm(&c, T(&c, "input.a", 4, 3), T(&c, "n.weight", 4), T(&c, "n.bias", 3), 1e-5f), "weight: expected 3");
    MISUSE(fs_layer_norm_2d(&c, T(&c, "input.a", 4, 3), T(&c, "n.weight", 4), T(&c, "n.bias", 4), 1e-5f), "[C,H,W]");
    MISUSE(fs_group_norm(&c, T(&c, "input.a", 4, 3, 3), 3, T(&c, "n.weight", 4), T(&c, "n.bias", 4), 1e-5f), "3 groups");
    MISUSE(fs_rope(&c, T(&c, "input.a", 4, 3, 5), (const int64_t[]){0, 1, 2, 3}, 10000.0f), "even width");
    MISUSE(fs_rope(&c, T(&c, "input.a", 2, 3, 4), (const int64_t[]){0, -1}, 10000.0f), "position -1 of row 1");
    MISUSE(fs_attention(&c, T(&c, "input.q", 5, 2, 4), T(&c, "input.k", 3, 2, 4), T(&c, "input.v", 3, 2, 4), 1, true), "no fewer keys");
    MISUSE(fs_attention(&c, T(&c, "input.q", 5, 3, 4), T(&c, "input.k", 5, 2, 4), T(&c, "input.v", 5, 2, 4), 1, false), "do not fit");
    MISUSE(fs_attention_rel(&c, T(&c, "input.q", 1, 6, 2, 4), T(&c, "input.k", 1, 6, 2, 4), T(&c, "input.v", 1, 6, 2, 4),
                            T(&c, "rel_pos_h", 3, 4), T(&c, "rel_pos_w", 3, 4), 2, 3, 1),
           "tables");
    MISUSE(fs_window_unpartition(&c, T(&c, "input.a", 2, 16, 3), 4, 9, 4), "is not 3 windows");
    MISUSE(fs_max_pool2d(&c, T(&c, "input.a", 3, 5, 5), 3, 2, 2), "padding 2");
    MISUSE(fs_resize_bilinear(&c, T(&c, "input.a", 3, 5, 5), 0, 4, false, false), "0 x 4");
    MISUSE(fs_roi_align(&c, T(&c, "input.a", 3, 5, 5), boxes, 1, 1, 2, 2), "box 0");
}

static void test_first_error(void **state) {
    (void)state;
    fs_exec c = context(FS_DTYPE_F32, 1);
    const fs_tensor *x = T(&c, "input.a", 4, 3);
    assert_null(fs_gelu(&c, fs_add(&c, fs_linear(&c, x, x, NULL), x))); /* [4,3] x [4,3]^T is [4,4]: the sum fails */
    fs_error err = {0};
    assert_int_equal(fs_exec_status(&c, &err), FS_E_MISMATCH);
    assert_memory_equal(err.message, "add:", 4);
    assert_null(fs_relu(&c, x)); /* no-op from then on */
    fs_exec_end(&c);
    c = context(FS_DTYPE_F32, 1);
    assert_null(fs_relu(&c, NULL)); /* nobody failed before: said, not passed over */
    assert_int_equal(fs_exec_status(&c, &err), FS_E_INTERNAL);
    fs_exec_end(&c);
    assert_int_equal(fs_exec_init(&c, FS_DTYPE_F64, 1, NULL, &err), FS_E_USAGE);
    fs_exec_end(&c);
    assert_int_equal(fs_exec_init(&c, FS_DTYPE_F32, -1, NULL, &err), FS_E_USAGE);
    fs_exec_end(&c);
}

static bool stop(void *user) {
    return *(bool *)user;
}

static void test_cancel(void **state) {
    (void)state;
    bool wanted = false;
    const fs_callbacks cb = {.user_data = &wanted, .cancel = stop};
    fs_exec c;
    assert_int_equal(fs_exec_init(&c, FS_DTYPE_F32, 0, &cb, NULL), FS_OK);
    assert_true(c.threads >= 1);
    assert_int_equal(fs_exec_status(&c, NULL), FS_OK);
    wanted = true;
    assert_int_equal(fs_exec_status(&c, NULL), FS_E_CANCELLED);
    fs_exec_end(&c);
}

static void test_not_finite(void **state) {
    (void)state;
    fs_exec c = context(FS_DTYPE_F32, 2);
    fs_tensor *x = T(&c, "input.a", 200, 300);
    assert_true(fs_check_finite(&c, x, "logits"));
    fs_f32(x)[54321] = NAN;
    /* NaN reaches the end of every path that normalises or compares it */
    const fs_tensor *softmax = fs_softmax(&c, x), *relu = fs_relu(&c, x),
                    *pool = fs_max_pool2d(&c, fs_reshape_3d(&c, x, 1, 200, 300), 3, 1, 1);
    const int64_t row = 54321 / 300;
    assert_true(isnan(fs_f32(softmax)[row * 300]) && !isnan(fs_f32(softmax)[0]) && isnan(fs_f32(relu)[54321]) &&
                isnan(fs_f32(pool)[54321 - 301]));
    const int64_t shape[3] = {200, 3, 100};
    const fs_tensor *q = fs_reshape(&c, x, 3, shape), *y = fs_attention(&c, q, q, q, 0.1f, false);
    assert_true(isnan(fs_f32(y)[0 + 54321 % 300 / 100 * 100]));
    assert_false(fs_check_finite(&c, x, "logits"));
    assert_int_equal(c.error.status, FS_E_NUMERIC);
    assert_non_null(strstr(c.error.message, "logits: value 54321 of F32 [200,300] is not a number"));
    fs_exec_end(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_threads),    cmocka_unit_test(test_precision),   cmocka_unit_test(test_memory),
        cmocka_unit_test(test_rows_alone), cmocka_unit_test(test_shapes),      cmocka_unit_test(test_f64_weights),
        cmocka_unit_test(test_misuse),     cmocka_unit_test(test_first_error), cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
