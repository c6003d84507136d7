/* Operators that do several steps in one pass give the bits of the steps one after the other: linear with activation or sum behind it,
 * convolution with batch norm, sum and ReLU. And SAM's attention straight from the qkv product against its long form (cut into windows, padded
 * with zeros, multiplied, put together again): the same bits where a network rounds to 16 bits after each step, within rounding in f32. On
 * every table of kernels, every precision, some numbers of threads; random odd shapes, fixed seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "backend/backend.h"
#include "tensor/block.h"
#include "tensor/ops.h"
#include "tensor/packed.h"

static int64_t pick(fs_rng *r, int64_t lo, int64_t hi) { return lo + (int64_t)(fs_rng_next(r) % (uint64_t)(hi - lo + 1)); }

static fs_tensor *values(fs_exec *c, fs_rng *r, int ndim, const int64_t *shape) {
    fs_tensor *t = fs_new(c, ndim, shape);
    assert_non_null(t);
    for (int64_t i = 0; i < fs_tensor_count(t); i++) fs_f32(t)[i] = (float)(4 * fs_rng_uniform(r) - 2);
    return fs_to_f32(c, t); /* rounded to the precision */
}
#define V(c, r, ...) values((c), (r), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

static void assert_same(fs_exec *c, const fs_tensor *a, const fs_tensor *b) {
    fs_error err = {0};
    if (fs_exec_status(c, &err)) fail_msg("%s", err.message);
    assert_true(a && b && a->ndim == b->ndim && memcmp(a->shape, b->shape, sizeof a->shape) == 0);
    assert_memory_equal(a->data, b->data, (size_t)fs_tensor_count(a) * sizeof(float));
}

/* fn on every table, precision and 1 to 3 threads. */
static void everywhere(void (*fn)(fs_exec *c, fs_rng *r)) {
    static const char *const tables[] = {"ref", "avx2", "avx512", "neon"};
    static const fs_dtype precisions[] = {FS_DTYPE_F32, FS_DTYPE_BF16, FS_DTYPE_F16};
    for (int t = 0; t < 4; t++)
        for (int p = 0; p < 3; p++) {
            fs_exec c;
            const fs_backend *be = fs_backend_by_name(tables[t]);
            if (!be) continue;
            assert_int_equal(fs_exec_init(&c, precisions[p], 1 + (t + p) % 3, NULL, NULL), FS_OK);
            c.backend = be;
            fs_rng r = fs_rng_seed((uint64_t)(t + 10 * p));
            for (int i = 0; i < 4; i++) fn(&c, &r);
            fs_exec_end(&c);
        }
}

/* ---- linear ---- */

static void check_linear(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, const fs_tensor *residual) {
    fs_tensor *plain = fs_linear(c, x, w, b);
    assert_same(c, fs_linear_gelu(c, x, w, b), fs_gelu(c, plain));
    assert_same(c, fs_linear_quick_gelu(c, x, w, b), fs_quick_gelu(c, plain));
    assert_same(c, fs_linear_add(c, x, w, b, residual), fs_add(c, residual, plain));
}

static void linear_case(fs_exec *c, fs_rng *r) {
    const int64_t m = pick(r, 0, 1) ? pick(r, 1, FS_GEMM_FEW_ROWS) : pick(r, 13, 90), k = 32 * pick(r, 1, 9), n = pick(r, 1, 600);
    fs_tensor *x = V(c, r, m, k), *w = V(c, r, n, k), *residual = V(c, r, m, n), *b = pick(r, 0, 2) ? V(c, r, n) : NULL;
    check_linear(c, x, w, b, residual);
    size_t row;
    assert_true(fs_dtype_row_bytes(FS_DTYPE_Q8_0, k, &row));
    char *blocks = malloc((size_t)n * row);
    assert_non_null(blocks);
    for (int64_t i = 0; i < n; i++) assert_true(fs_row_from_f32(FS_DTYPE_Q8_0, fs_f32(w) + i * k, k, blocks + (size_t)i * row));
    fs_tensor stored = *w;
    stored.dtype = FS_DTYPE_Q8_0;
    stored.data = blocks;
    check_linear(c, x, &stored, b, residual);
    fs_packed *packed;
    assert_int_equal(fs_pack_weight(&stored, 1, &packed, NULL), FS_OK);
    check_linear(c, x, &packed->tensor, b, residual);
    fs_packed_free(packed);
    free(blocks);
}

/* ---- convolution ---- */

static void conv_case(fs_exec *c, fs_rng *r) {
    const int64_t in = pick(r, 1, 20), out = pick(r, 1, 40), h = pick(r, 5, 20), w = pick(r, 5, 20);
    const int kernel = pick(r, 0, 1) ? 3 : 1, stride = (int)pick(r, 1, 2), pad = kernel / 2;
    fs_tensor *x = V(c, r, in, h, w), *k = V(c, r, out, in, kernel, kernel), *weight = V(c, r, out), *bias = V(c, r, out), *mean = V(c, r, out),
              *var = V(c, r, out);
    for (int64_t i = 0; i < out; i++) fs_f32(var)[i] = fabsf(fs_f32(var)[i]);
    const fs_batch norm = {weight, bias, mean, var, 1e-5f};
    fs_tensor *plain = fs_batch_norm(c, fs_conv2d(c, x, k, NULL, stride, pad), weight, bias, mean, var, 1e-5f);
    assert_non_null(plain);
    fs_tensor *residual = values(c, r, 3, plain->shape);
    assert_same(c, fs_conv2d_norm(c, x, k, &norm, stride, pad, NULL, false), plain);
    assert_same(c, fs_conv2d_norm(c, x, k, &norm, stride, pad, NULL, true), fs_relu(c, plain));
    assert_same(c, fs_conv2d_norm(c, x, k, &norm, stride, pad, residual, true), fs_relu(c, fs_add(c, plain, residual)));
}

/* A kernel made ready once: the second call gives the first one's bits, and so do other numbers of threads. Winograd's method (3 x 3 at stride 1, f32)
 * may differ from the product in its last digits: its values are up to 20 times larger than the picture's, so 20 roundings of 2^-24 of the
 * largest result, and its sums are other ones; five times as much came at most. Everything else keeps the product's bits. */
static void kept_case(fs_exec *c, fs_rng *r) {
    const int64_t in = pick(r, 16, 300), out = pick(r, 16, 70), h = pick(r, 5, 33), w = pick(r, 5, 60);
    const int kernel = pick(r, 0, 2) ? 3 : 1, stride = pick(r, 0, 2) ? 1 : 2, pad = kernel / 2;
    fs_tensor *x = V(c, r, in, h, w), *k = V(c, r, out, in, kernel, kernel), *weight = V(c, r, out), *bias = V(c, r, out), *mean = V(c, r, out),
              *var = V(c, r, out);
    for (int64_t i = 0; i < out; i++) fs_f32(var)[i] = fabsf(fs_f32(var)[i]) + 0.1f;
    const fs_batch norm = {weight, bias, mean, var, 1e-5f};
    fs_tensor *plain = fs_conv2d_norm(c, x, k, &norm, stride, pad, NULL, false);
    assert_non_null(plain);
    fs_tensor *residual = values(c, r, 3, plain->shape);
    plain = fs_conv2d_norm(c, x, k, &norm, stride, pad, residual, true);
    fs_conv_form form = {0};
    fs_tensor *kept = fs_conv2d_norm_kept(c, x, k, &norm, stride, pad, residual, true, &form);
    const int threads = c->threads;
    for (c->threads = 1; c->threads <= 4; c->threads++) assert_same(c, fs_conv2d_norm_kept(c, x, k, &norm, stride, pad, residual, true, &form), kept);
    c->threads = threads;
    assert_true(form.tried == (c->precision == FS_DTYPE_F32));
    if (form.tile == 0) {
        assert_same(c, kept, plain);
    } else {
        float most = 0, worst = 0;
        for (int64_t i = 0; i < fs_tensor_count(plain); i++) {
            most = fmaxf(most, fabsf(fs_f32(plain)[i]));
            worst = fmaxf(worst, fabsf(fs_f32(plain)[i] - fs_f32(kept)[i]));
        }
        assert_true(worst <= most * 100 * 0x1p-24f);
    }
    fs_conv_form_free(&form);
}

/* Results of few points are multiplied with points and channels changed about: the same bits, and for a larger picture behind the first one too. */
static void few_case(fs_exec *c, fs_rng *r) {
    if (c->precision != FS_DTYPE_F32) return;
    const int kernel = pick(r, 0, 1) ? 3 : 1, stride = kernel == 3 ? 2 : (int)pick(r, 1, 2), pad = kernel / 2;
    const int64_t in = kernel == 3 ? pick(r, 10, 70) : pick(r, 64, 600), out = c->backend->tile_cols * pick(r, 1, 3);
    fs_tensor *k = V(c, r, out, in, kernel, kernel), *weight = V(c, r, out), *bias = V(c, r, out), *mean = V(c, r, out), *var = V(c, r, out);
    for (int64_t i = 0; i < out; i++) fs_f32(var)[i] = fabsf(fs_f32(var)[i]) + 0.1f;
    const fs_batch norm = {weight, bias, mean, var, 1e-5f};
    fs_conv_form form = {0};
    for (int larger = 0; larger < 2; larger++) { /* 49 points, then up to three times as many as are taken at once */
        const int64_t h = larger ? pick(r, 7, 40) : 7 * stride, w = larger ? pick(r, 7, 20) : 7 * stride;
        fs_tensor *x = V(c, r, in, h, w), *plain = fs_conv2d_norm(c, x, k, &norm, stride, pad, NULL, false);
        assert_non_null(plain);
        fs_tensor *residual = values(c, r, 3, plain->shape);
        plain = fs_conv2d_norm(c, x, k, &norm, stride, pad, residual, true);
        const int threads = c->threads;
        for (c->threads = 1; c->threads <= 3; c->threads++) assert_same(c, fs_conv2d_norm_kept(c, x, k, &norm, stride, pad, residual, true, &form), plain);
        c->threads = threads;
    }
    assert_true(form.few);
    fs_conv_form_free(&form);
}

/* Both sizes of Winograd's squares are met, and a kernel made ready for one picture serves another size. */
static void kept_sizes_case(fs_exec *c, fs_rng *r) {
    if (c->precision != FS_DTYPE_F32 || c->backend->tile_cols < 16) return;
    fs_tensor *k = V(c, r, 32, 20, 3, 3), *one = V(c, r, 32), *var = V(c, r, 32);
    for (int64_t i = 0; i < 32; i++) fs_f32(var)[i] = 1;
    const fs_batch norm = {one, one, one, var, 1e-5f};
    static const int64_t sides[][3] = {{7, 2, 30}, {28, 4, 9}, {28, 4, 200}};
    for (int i = 0; i < 3; i++) {
        fs_conv_form form = {0};
        for (int second = 0; second < 2; second++) {
            const int64_t side = sides[i][second ? 2 : 0];
            fs_tensor *x = V(c, r, 20, side, side), *plain = fs_conv2d_norm(c, x, k, &norm, 1, 1, NULL, false);
            fs_tensor *kept = fs_conv2d_norm_kept(c, x, k, &norm, 1, 1, NULL, false, &form);
            assert_non_null(kept);
            for (int64_t j = 0; j < fs_tensor_count(plain); j++) assert_float_equal(fs_f32(kept)[j], fs_f32(plain)[j], 2e-3f); /* of about 40 */
        }
        assert_int_equal(form.tile, sides[i][1]);
        fs_conv_form_free(&form);
    }
}

/* ---- attention over a grid ---- */

static void grid_case(fs_exec *c, fs_rng *r) {
    const int64_t h = pick(r, 1, 20), w = pick(r, 1, 20), win = pick(r, 1, 9), heads = pick(r, 1, 3), d = pick(r, 1, 24), C = heads * d;
    const int64_t windows = ((h + win - 1) / win) * ((w + win - 1) / win), by_head[4] = {windows, win * win, heads, d};
    fs_tensor *x = V(c, r, h, w, C), *weight = V(c, r, 3 * C, C), *bias = V(c, r, 3 * C), *rel_h = V(c, r, 2 * win - 1, d),
              *rel_w = V(c, r, 2 * win - 1, d);
    fs_tensor *short_qkv = fs_add(c, fs_linear(c, x, weight, NULL), bias);
    fs_tensor *found = fs_attention_grid(c, short_qkv, heads, bias, rel_h, rel_w, win, 0.3f);

    fs_tensor *qkv = fs_add(c, fs_linear(c, fs_window_partition(c, x, win), weight, NULL), bias);
    fs_tensor *q = fs_reshape(c, fs_columns(c, qkv, 0, C), 4, by_head), *k = fs_reshape(c, fs_columns(c, qkv, C, 2 * C), 4, by_head),
              *v = fs_reshape(c, fs_columns(c, qkv, 2 * C, 3 * C), 4, by_head);
    fs_tensor *o = fs_attention_rel(c, q, k, v, rel_h, rel_w, win, win, 0.3f);
    fs_tensor *expected = fs_window_unpartition(c, fs_reshape_3d(c, o, windows, win * win, C), win, h, w);
    if (h * w <= FS_GEMM_FEW_ROWS && windows * win * win > FS_GEMM_FEW_ROWS) return; /* two ways to multiply: other last bits */
    assert_same(c, found, expected);
}

/* The definition in f64: no tile, no window of the code's. */
static void check_definition(fs_exec *c, fs_rng *r, int64_t h, int64_t w, int64_t win) {
    enum { D = 12 };
    fs_tensor *qkv = V(c, r, h, w, 3 * D), *pad = V(c, r, 3 * D), *rel_h = V(c, r, 2 * win - 1, D), *rel_w = V(c, r, 2 * win - 1, D);
    fs_tensor *found = fs_attention_grid(c, qkv, 1, pad, rel_h, rel_w, win, 0.25f);
    fs_error err = {0};
    if (fs_exec_status(c, &err)) fail_msg("%s", err.message);
    double *score = malloc((size_t)(win * win) * sizeof *score);
    assert_non_null(score);
    for (int64_t y = 0; y < h; y += 1 + h / 9)
        for (int64_t x = 0; x < w; x += 1 + w / 9) {
            const int64_t y0 = y / win * win, x0 = x / win * win;
            const float *q = fs_f32(qkv) + (y * w + x) * 3 * D;
            double most = -INFINITY, sum = 0, out[D] = {0};
            for (int64_t j = 0; j < win * win; j++) {
                const int64_t ky = y0 + j / win, kx = x0 + j % win;
                const float *token = ky < h && kx < w ? fs_f32(qkv) + (ky * w + kx) * 3 * D : fs_f32(pad);
                score[j] = 0;
                for (int e = 0; e < D; e++)
                    score[j] += (double)q[e] * (0.25 * (double)token[D + e] + (double)fs_f32(rel_h)[(y - ky + win - 1) * D + e] +
                                                (double)fs_f32(rel_w)[(x - kx + win - 1) * D + e]);
                most = fmax(most, score[j]);
            }
            for (int64_t j = 0; j < win * win; j++) {
                const int64_t ky = y0 + j / win, kx = x0 + j % win;
                const float *token = ky < h && kx < w ? fs_f32(qkv) + (ky * w + kx) * 3 * D : fs_f32(pad);
                const double p = exp(score[j] - most);
                sum += p;
                for (int e = 0; e < D; e++) out[e] += p * (double)token[2 * D + e];
            }
            /* scores up to about 30 in f32 are wrong by 30 * 2^-23 or so, and so are their exponentials; values up to 2 */
            for (int e = 0; e < D; e++) assert_true(fabs((double)fs_f32(found)[(y * w + x) * D + e] - out[e] / sum) < 2e-5);
        }
    free(score);
}

static void definition_case(fs_exec *c, fs_rng *r) {
    if (c->precision != FS_DTYPE_F32) return;
    check_definition(c, r, pick(r, 1, 20), pick(r, 1, 20), pick(r, 1, 9));
    check_definition(c, r, pick(r, 20, 30), pick(r, 20, 30), pick(r, 14, 17)); /* blocks of scores cut lines of keys */
}

/* More keys than a span of the online softmax holds, lines that a span cuts, maxima that change late. */
static void test_spans(void **state) {
    (void)state;
    fs_exec c;
    assert_int_equal(fs_exec_init(&c, FS_DTYPE_F32, 2, NULL, NULL), FS_OK);
    fs_rng r = fs_rng_seed(77);
    check_definition(&c, &r, 37, 37, 37);
    check_definition(&c, &r, 50, 47, 50);
    fs_exec_end(&c);
}

/* Rows are pooled a piece at a time: against single windows, wider than a piece, windows wider than a piece, NaN included. */
static void test_pool(void **state) {
    (void)state;
    fs_exec c;
    assert_int_equal(fs_exec_init(&c, FS_DTYPE_F32, 2, NULL, NULL), FS_OK);
    fs_rng r = fs_rng_seed(9);
    static const int64_t shapes[][5] = {{7, 1500, 3, 2, 1}, {5, 1300, 2, 1, 0}, {601, 1203, 600, 300, 300}, {20, 513, 5, 3, 2}, {9, 10, 3, 1, 1}};
    for (int k = 0; k < 5; k++) {
        const int64_t h = shapes[k][0], w = shapes[k][1], kernel = shapes[k][2], stride = shapes[k][3], pad = shapes[k][4];
        fs_tensor *x = V(&c, &r, 1, h, w);
        fs_f32(x)[h * w / 2] = NAN;
        fs_tensor *y = fs_max_pool2d(&c, x, (int)kernel, (int)stride, (int)pad);
        assert_non_null(y);
        for (int64_t oy = 0; oy < y->shape[1]; oy++)
            for (int64_t ox = 0; ox < y->shape[2]; ox++) {
                float most = -INFINITY;
                for (int64_t iy = fs_max_i64(0, oy * stride - pad); iy < fs_min_i64(h, oy * stride - pad + kernel); iy++)
                    for (int64_t ix = fs_max_i64(0, ox * stride - pad); ix < fs_min_i64(w, ox * stride - pad + kernel); ix++) {
                        const float v = fs_f32(x)[iy * w + ix];
                        if (v > most || v != v) most = v;
                        if (most != most) break;
                    }
                const float found = fs_f32(y)[oy * y->shape[2] + ox];
                assert_true(most != most ? found != found : found == most);
            }
    }
    fs_exec_end(&c);
}

static void test_misuse(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(5);
    for (int i = 0; i < 5; i++) {
        fs_exec c;
        fs_error err = {0};
        assert_int_equal(fs_exec_init(&c, FS_DTYPE_F32, 1, NULL, NULL), FS_OK);
        fs_tensor *x = V(&c, &r, 4, 32), *w = V(&c, &r, 5, 32), *qkv = V(&c, &r, 3, 3, 12), *pad = V(&c, &r, 12), *table = V(&c, &r, 3, 2);
        fs_tensor *y = i == 0   ? fs_linear_add(&c, x, w, NULL, V(&c, &r, 4, 6))
                       : i == 1 ? fs_linear_add(&c, x, w, NULL, NULL)
                       : i == 2 ? fs_attention_grid(&c, qkv, 2, pad, table, table, 3, 1.0f)
                       : i == 3 ? fs_attention_grid(&c, qkv, 5, pad, table, table, 2, 1.0f)
                                : fs_attention_grid(&c, qkv, 2, V(&c, &r, 11), table, table, 2, 1.0f);
        assert_null(y);
        assert_int_not_equal(fs_exec_status(&c, &err), FS_OK);
        fs_exec_end(&c);
    }
}

static void test_linear(void **state) { (void)state, everywhere(linear_case); }
static void test_conv(void **state) { (void)state, everywhere(conv_case); }
static void test_kept(void **state) { (void)state, everywhere(kept_case), everywhere(kept_sizes_case), everywhere(few_case); }
static void test_grid(void **state) { (void)state, everywhere(grid_case); }
static void test_definition(void **state) { (void)state, everywhere(definition_case); }

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear),     cmocka_unit_test(test_conv),  cmocka_unit_test(test_kept), cmocka_unit_test(test_grid),
                                       cmocka_unit_test(test_definition), cmocka_unit_test(test_spans), cmocka_unit_test(test_misuse),
                                       cmocka_unit_test(test_pool)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
