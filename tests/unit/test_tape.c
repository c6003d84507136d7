/* Gradients: every operator's backward pass against finite differences along random directions; gradients that meet, that are not wanted, that
 * flow through frozen quantized weights; segments computed again; what is recorded and what is refused. Fixed seeds.
 *
 * The check: for a random direction u of one input and random weights r of the output, (L(x + e u) - L(x - e u)) / 2e with L = <r, y> summed in
 * f64 must be <dL/dx, u>. y is computed in f32, so L is known to about 1e-7 of its terms; with e = 2e-3 that leaves about 1e-4 of the slope. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/archive.h"
#include "support/weightgen.h"
#include "tensor/block.h"
#include "tensor/packed.h"
#include "tensor/ops.h"
#include "tensor/tape.h"

enum { MAX_INPUTS = 4 };

static fs_exec start(int threads) {
    fs_exec c = {0};
    fs_error err = {0};
    if (fs_exec_init(&c, FS_DTYPE_F32, threads, NULL, &err)) fail_msg("%s", err.message);
    return c;
}

typedef struct input { int ndim; int64_t shape[4]; double around, spread; } input;
typedef struct test_case {
    const char *name, *golden; /* golden: its name in grads.safetensors; NULL: none */
    fs_tensor *(*run)(fs_exec *c, fs_tensor *const *in);
    input in[MAX_INPUTS]; /* ndim 0 ends them */
} test_case;

static void check(const test_case *t, int threads) {
    fs_exec c = start(threads);
    fs_rng rng = fs_rng_seed(17);
    fs_error err = {0};
    fs_tensor leaf[MAX_INPUTS], *in[MAX_INPUTS] = {0};
    fs_tape_node node[MAX_INPUTS];
    float *x[MAX_INPUTS] = {0}, *grad[MAX_INPUTS] = {0}, *direction[MAX_INPUTS] = {0};
    int n = 0;
    for (; n < MAX_INPUTS && t->in[n].ndim; n++) {
        fs_tensor *plain = fs_new(&c, t->in[n].ndim, t->in[n].shape);
        const int64_t count = fs_tensor_count(plain);
        x[n] = fs_f32(plain);
        grad[n] = fs_alloc_zero((size_t)count, sizeof(float));
        direction[n] = fs_alloc((size_t)count, sizeof(float));
        for (int64_t i = 0; i < count; i++) x[n][i] = (float)(t->in[n].around + t->in[n].spread * (2 * fs_rng_uniform(&rng) - 1));
        leaf[n] = fs_tape_leaf(&node[n], plain, grad[n]);
        in[n] = &leaf[n];
    }
    fs_tape tape = {0};
    const fs_arena_mark mark = fs_arena_get_mark(c.arena);
    c.tape = &tape;
    fs_tensor *y = t->run(&c, in);
    if (fs_exec_status(&c, &err)) fail_msg("%s: %s", t->name, err.message);
    const int64_t outputs = fs_tensor_count(y);
    float *r = fs_alloc((size_t)outputs, sizeof *r);
    for (int64_t i = 0; i < outputs; i++) r[i] = outputs == 1 ? 1.0f : (float)(2 * fs_rng_uniform(&rng) - 1);
    fs_tape_backward(&c, y, r);
    if (fs_exec_status(&c, &err)) fail_msg("%s: %s", t->name, err.message);
    c.tape = NULL;
    fs_arena_release(c.arena, mark);
    for (int k = 0; k < n; k++) {
        const int64_t count = fs_tensor_count(&leaf[k]);
        for (int round = 0; round < 3; round++) {
            double slope = 0, size = 0, side[2];
            const double e = 2e-3;
            for (int64_t i = 0; i < count; i++) {
                direction[k][i] = (float)(2 * fs_rng_uniform(&rng) - 1);
                slope += (double)grad[k][i] * (double)direction[k][i];
                size += fabs((double)grad[k][i] * (double)direction[k][i]);
            }
            for (int s = 0; s < 2; s++) {
                for (int64_t i = 0; i < count; i++) x[k][i] += (float)(s ? -2 * e : e) * direction[k][i];
                const fs_tensor *moved = t->run(&c, in);
                if (fs_exec_status(&c, &err)) fail_msg("%s: %s", t->name, err.message);
                side[s] = 0;
                for (int64_t i = 0; i < outputs; i++) side[s] += (double)r[i] * (double)fs_f32(moved)[i];
                fs_arena_release(c.arena, mark);
            }
            for (int64_t i = 0; i < count; i++) x[k][i] += (float)e * direction[k][i];
            const double found = (side[0] - side[1]) / (2 * e);
            if (!(fabs(found - slope) <= 2e-3 * size + 2e-4)) fail_msg("%s, input %d: slope %.7g, gradient says %.7g (terms %.3g)", t->name, k, found, slope, size);
            assert_true(size > 0);
        }
    }
    for (int k = 0; k < n; k++) free(grad[k]), free(direction[k]);
    free(r);
    fs_exec_end(&c);
}

#define RUN(name, expression)                                                                                                              \
    static fs_tensor *name(fs_exec *c, fs_tensor *const *x) { return expression; }
RUN(run_add, fs_add(c, x[0], x[1]))
RUN(run_mul, fs_mul(c, x[0], x[1]))
RUN(run_scale, fs_scale(c, x[0], -1.7f))
RUN(run_relu, fs_relu(c, x[0]))
RUN(run_gelu, fs_gelu(c, x[0]))
RUN(run_quick_gelu, fs_quick_gelu(c, x[0]))
RUN(run_silu, fs_silu(c, x[0]))
RUN(run_silu_mul, fs_silu_mul(c, x[0], x[1]))
RUN(run_reshape, fs_reshape_2d(c, x[0], 10, 6))
RUN(run_rows, fs_rows(c, x[0], 1, 4))
RUN(run_columns, fs_columns(c, x[0], 2, 7))
RUN(run_transpose, fs_transpose(c, x[0]))
RUN(run_to_f32, fs_to_f32(c, x[0]))
RUN(run_partition, fs_window_partition(c, x[0], 3))
RUN(run_unpartition, fs_window_unpartition(c, x[0], 3, 5, 4))
RUN(run_linear, fs_linear(c, x[0], x[1], x[2]))
RUN(run_matmul, fs_matmul(c, x[0], x[1]))
RUN(run_layer_norm, fs_layer_norm(c, x[0], x[1], x[2], 1e-5f))
RUN(run_rms_norm, fs_rms_norm(c, x[0], x[1], 1e-5f))
RUN(run_softmax, fs_softmax(c, x[0]))
RUN(run_rope, fs_rope(c, x[0], (const int64_t[]){3, 0, 700, 12, 5}, 10000.0f))
RUN(run_halves, fs_halves_from_pairs(c, x[0]))
RUN(run_attention, fs_attention(c, x[0], x[1], x[2], 0.4f, true))
RUN(run_attention_all, fs_attention(c, x[0], x[1], x[2], 0.4f, false))
RUN(run_embedding, fs_embedding(c, (const int32_t[]){2, 0, 2, 5, 2}, 5, x[0]))
RUN(run_cross_entropy, fs_cross_entropy(c, x[0], (const int32_t[]){3, FS_IGNORE, 0, 6, FS_IGNORE, 3}))
static fs_tensor *run_concat(fs_exec *c, fs_tensor *const *x) {
    const fs_tensor *parts[] = {x[0], x[1], x[0], x[2]}; /* one part twice */
    return fs_concat_rows(c, parts, 4);
}
static fs_tensor *mask(fs_exec *c) {
    fs_tensor *t = fs_new_2d(c, 6, 7);
    for (int i = 0; i < 42; i++) fs_f32(t)[i] = i % 3 ? 0.0f : 1.0f;
    return t;
}
RUN(run_bce, fs_bce_with_logits(c, x[0], mask(c)))
RUN(run_dice, fs_dice_loss(c, x[0], mask(c)))
/* a value that goes three ways, and through segments within segments */
static fs_tensor *inner(fs_exec *c, const void *user, const fs_tensor *x) {
    const float *factor = user;
    return fs_gelu(c, fs_scale(c, fs_add(c, x, fs_silu(c, x)), *factor));
}
static fs_tensor *outer(fs_exec *c, const void *user, const fs_tensor *x) {
    fs_tensor *const *weights = user;
    const float factor = 0.7f;
    return fs_checkpoint(c, inner, &factor, sizeof factor, fs_linear(c, x, weights[0], NULL));
}
static fs_tensor *run_segments(fs_exec *c, fs_tensor *const *x) {
    fs_tensor *h = fs_checkpoint(c, outer, &x[1], sizeof x[1], x[0]);
    return fs_add(c, fs_checkpoint(c, outer, &x[2], sizeof x[2], h), fs_mul(c, h, x[0]));
}

#define U(...) {sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t), {__VA_ARGS__}, 0, 1}
static const test_case cases[] = {
    {"add", NULL, run_add, {U(5, 7), U(5, 7)}},
    {"add, broadcast", "add_b", run_add, {U(4, 5, 7), U(7)}},
    {"mul", NULL, run_mul, {U(5, 7), U(5, 7)}},
    {"mul, broadcast", "mul_b", run_mul, {U(4, 5, 7), U(1, 5, 7)}},
    {"scale", NULL, run_scale, {U(3000)}},
    {"relu", "relu", run_relu, {{2, {40, 3}, 0.5, 0.4}}},
    {"gelu", "gelu", run_gelu, {{2, {41, 70}, 0, 4}}},
    {"quick_gelu", "quick_gelu", run_quick_gelu, {{2, {5, 7}, 0, 4}}},
    {"silu", NULL, run_silu, {{2, {5, 7}, 0, 4}}},
    {"silu_mul", "silu_mul", run_silu_mul, {{2, {5, 700}, 0, 4}, U(5, 700)}},
    {"reshape", NULL, run_reshape, {U(5, 12)}},
    {"rows", NULL, run_rows, {U(5, 3, 2)}},
    {"columns", NULL, run_columns, {U(3, 4, 9)}},
    {"transpose", NULL, run_transpose, {U(5, 3, 2)}},
    {"to_f32", NULL, run_to_f32, {U(5, 3)}},
    {"concat_rows", NULL, run_concat, {U(2, 3), U(1, 3), U(4, 3)}},
    {"window_partition", "window_partition", run_partition, {U(5, 4, 2)}},
    {"window_unpartition", "window_unpartition", run_unpartition, {U(4, 9, 2)}},
    {"linear, few rows", "linear_few", run_linear, {U(3, 10), U(7, 10), U(7)}},
    {"linear, many rows", "linear_many", run_linear, {U(2, 15, 33), U(41, 33), U(41)}},
    {"matmul", "matmul", run_matmul, {U(17, 9), U(9, 21)}},
    {"layer_norm", "layer_norm", run_layer_norm, {U(5, 33), U(33), U(33)}},
    {"rms_norm", "rms_norm", run_rms_norm, {U(5, 33), U(33)}},
    {"softmax", "softmax", run_softmax, {{2, {5, 13}, 0, 3}}},
    {"rope", "rope", run_rope, {U(5, 3, 8)}},
    {"halves_from_pairs", NULL, run_halves, {U(5, 3, 8)}},
    {"attention, causal", "attention_causal", run_attention, {U(20, 4, 6), U(33, 2, 6), U(33, 2, 5)}},
    {"attention, few queries", "attention_few", run_attention, {U(3, 4, 6), U(9, 4, 6), U(9, 4, 6)}},
    {"attention", "attention_all", run_attention_all, {U(20, 2, 6), U(7, 2, 6), U(7, 2, 6)}},
    {"embedding", "embedding", run_embedding, {U(6, 9)}},
    {"cross_entropy", "cross_entropy", run_cross_entropy, {{2, {6, 7}, 0, 3}}},
    {"bce_with_logits", "bce_with_logits", run_bce, {{2, {6, 7}, 0, 3}}},
    {"dice_loss", "dice_loss", run_dice, {{2, {6, 7}, 0, 3}}},
    {"segments", NULL, run_segments, {U(5, 8), U(8, 8), U(8, 8)}},
};

static void every_operator(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check(&cases[i], 1 + (int)(i % 3));
}

/* ---- against PyTorch ---- */

static float *formula_values(const char *name, const char *part, int ndim, const int64_t *shape, float factor, float offset, int64_t *count) {
    char full[96];
    snprintf(full, sizeof full, "input.%s.%s", name, part);
    *count = 1;
    for (int d = 0; d < ndim; d++) *count *= shape[d];
    float *x = fs_alloc((size_t)*count, sizeof *x);
    assert_non_null(x);
    fs_test_weight(full, (size_t)ndim, shape, x);
    for (int64_t i = 0; i < *count; i++) x[i] = x[i] * factor + offset;
    return x;
}

static void compare(const test_case *t, fs_archive *goldens) {
    fs_exec c = start(2);
    fs_error err = {0};
    fs_tape tape = {0};
    fs_tensor leaf[MAX_INPUTS], *in[MAX_INPUTS] = {0};
    fs_tape_node node[MAX_INPUTS];
    float *x[MAX_INPUTS] = {0}, *grad[MAX_INPUTS] = {0}, one = 1.0f;
    int64_t count[MAX_INPUTS], outputs;
    int n = 0;
    for (; n < MAX_INPUTS && t->in[n].ndim; n++) {
        const char part[2] = {(char)('0' + n), 0};
        x[n] = formula_values(t->golden, part, t->in[n].ndim, t->in[n].shape, n ? 1.0f : (float)t->in[n].spread, n ? 0.0f : (float)t->in[n].around, &count[n]);
        grad[n] = fs_alloc_zero((size_t)count[n], sizeof(float));
        leaf[n] = fs_tape_leaf(&node[n], fs_wrap(&c, FS_DTYPE_F32, t->in[n].ndim, t->in[n].shape, x[n]), grad[n]);
        in[n] = &leaf[n];
    }
    c.tape = &tape;
    fs_tensor *y = t->run(&c, in);
    if (fs_exec_status(&c, &err)) fail_msg("%s: %s", t->name, err.message);
    float *seed = fs_tensor_count(y) == 1 ? &one : formula_values(t->golden, "seed", y->ndim, y->shape, 1, 0, &outputs);
    fs_tape_backward(&c, y, seed);
    if (fs_exec_status(&c, &err)) fail_msg("%s: %s", t->name, err.message);
    for (int k = 0; k < n; k++) {
        char name[64];
        snprintf(name, sizeof name, "%s.d%d", t->golden, k);
        const fs_tensor *want = fs_archive_find(goldens, name);
        double largest = 0, worst = 0;
        if (!want) fail_msg("no golden %s", name);
        assert_int_equal(fs_tensor_count(want), count[k]);
        for (int64_t i = 0; i < count[k]; i++) {
            const double difference = fabs((double)grad[k][i] - (double)fs_f32(want)[i]);
            largest = fmax(largest, fabs((double)fs_f32(want)[i]));
            if (!(difference <= worst)) worst = difference;
        }
        if (!(worst <= 3e-6 * largest)) fail_msg("%s: off by %g of %g", name, worst, largest); /* f32 sums of some dozen products, twice */
        free(x[k]), free(grad[k]);
    }
    if (seed != &one) free(seed);
    fs_exec_end(&c);
}

static void as_pytorch(void **state) {
    (void)state;
    fs_archive *goldens = NULL;
    fs_error err = {0};
    if (fs_archive_open(FS_GOLDEN_DIR "/grads.safetensors", &goldens, &err)) fail_msg("%s", err.message);
    size_t compared = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (cases[i].golden) compare(&cases[i], goldens), compared++;
    assert_true(compared >= 22);
    fs_archive_free(goldens);
}

/* ---- exact cases ---- */

static fs_tensor *filled(fs_exec *c, fs_rng *r, int64_t rows, int64_t cols) {
    fs_tensor *t = fs_new_2d(c, rows, cols);
    for (int64_t i = 0; i < rows * cols; i++) fs_f32(t)[i] = (float)(2 * fs_rng_uniform(r) - 1);
    return t;
}

/* A frozen weight of a block type lets the gradient through as the f32 weight of its numbers does, to the bit; nothing is recorded for what is frozen. */
static void frozen_weights(void **state) {
    (void)state;
    static const fs_dtype types[] = {FS_DTYPE_F16, FS_DTYPE_BF16, FS_DTYPE_Q8_0, FS_DTYPE_Q4_0, FS_DTYPE_Q4_K};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        fs_exec c = start(2);
        fs_rng r = fs_rng_seed(3);
        fs_error err = {0};
        enum { ROWS = 20, IN = 256, OUT = 40 };
        fs_tensor *x = filled(&c, &r, ROWS, IN), *w = filled(&c, &r, OUT, IN), *numbers = fs_new_2d(&c, OUT, IN), *seed = filled(&c, &r, ROWS, OUT);
        fs_tensor narrow = *w;
        size_t bytes;
        narrow.dtype = types[i];
        assert_true(fs_dtype_bytes(types[i], 2, narrow.shape, &bytes));
        narrow.data = fs_alloc(bytes, 1);
        for (int64_t k = 0; k < OUT; k++) {
            size_t row;
            assert_true(fs_dtype_row_bytes(types[i], IN, &row));
            if (fs_dtype_is_block(types[i])) {
                assert_true(fs_row_from_f32(types[i], fs_f32(w) + k * IN, IN, (char *)narrow.data + (size_t)k * row));
                assert_true(fs_row_to_f32(types[i], (char *)narrow.data + (size_t)k * row, IN, fs_f32(numbers) + k * IN));
            } else {
                for (int64_t j = 0; j < IN; j++) {
                    const float v = fs_f32(w)[k * IN + j];
                    const uint16_t h = types[i] == FS_DTYPE_F16 ? fs_f32_to_f16(v) : fs_f32_to_bf16(v);
                    ((uint16_t *)narrow.data)[k * IN + j] = h;
                    fs_f32(numbers)[k * IN + j] = types[i] == FS_DTYPE_F16 ? fs_f16_to_f32(h) : fs_bf16_to_f32(h);
                }
            }
        }
        float *grad[2];
        for (int k = 0; k < 2; k++) {
            fs_tape tape = {0};
            fs_tape_node node;
            grad[k] = fs_alloc_zero(ROWS * IN, sizeof(float));
            fs_tensor leaf = fs_tape_leaf(&node, x, grad[k]);
            c.tape = &tape;
            assert_null(fs_linear(&c, x, k ? numbers : &narrow, NULL)->node); /* both frozen: nothing to record */
            fs_tape_backward(&c, fs_linear(&c, &leaf, k ? numbers : &narrow, NULL), fs_f32(seed));
            if (fs_exec_status(&c, &err)) fail_msg("%s", err.message);
            c.tape = NULL;
        }
        assert_memory_equal(grad[0], grad[1], ROWS * IN * sizeof(float));
        free(grad[0]), free(grad[1]), free(narrow.data);
        fs_exec_end(&c);
    }
}

/* With and without segments: the same bits, and less memory. */
static fs_tensor *layer(fs_exec *c, const void *user, const fs_tensor *x) {
    const fs_tensor *const *w = user;
    return fs_add(c, x, fs_linear(c, fs_gelu(c, fs_linear(c, fs_rms_norm(c, x, w[0], 1e-5f), w[1], NULL)), w[2], NULL));
}
static void segments_change_nothing(void **state) {
    (void)state;
    enum { ROWS = 64, WIDTH = 32, INNER = 256, LAYERS = 12 };
    float *grad[2][3] = {{0}};
    size_t peak[2];
    for (int segmented = 0; segmented < 2; segmented++) {
        fs_exec c = start(2);
        fs_rng r = fs_rng_seed(9);
        fs_error err = {0};
        fs_tape tape = {0};
        fs_tensor *x = filled(&c, &r, ROWS, WIDTH), *seed = filled(&c, &r, ROWS, WIDTH);
        fs_tensor *plain[3] = {filled(&c, &r, 1, WIDTH), filled(&c, &r, INNER, WIDTH), filled(&c, &r, WIDTH, INNER)}, leaf[3];
        const fs_tensor *w[3];
        fs_tape_node node[3];
        for (int k = 0; k < 3; k++) {
            grad[segmented][k] = fs_alloc_zero((size_t)fs_tensor_count(plain[k]), sizeof(float));
            leaf[k] = fs_tape_leaf(&node[k], plain[k], grad[segmented][k]);
            w[k] = &leaf[k];
        }
        c.tape = &tape;
        const fs_tensor *h = x;
        for (int i = 0; i < LAYERS; i++) h = segmented ? fs_checkpoint(&c, layer, w, sizeof w, h) : layer(&c, w, h);
        fs_tape_backward(&c, h, fs_f32(seed));
        if (fs_exec_status(&c, &err)) fail_msg("%s", err.message);
        peak[segmented] = fs_arena_peak(c.arena);
        fs_exec_end(&c);
        for (int k = 0; k < 3; k++) assert_memory_equal(grad[0][k], grad[segmented][k], (size_t)(k ? INNER * WIDTH : WIDTH) * sizeof(float));
    }
    print_message("arena: %zu bytes without segments, %zu with\n", peak[0], peak[1]);
    assert_true(peak[1] < peak[0] / 2); /* one layer at a time and the results between them; scratch and weights are the same */
    for (int i = 0; i < 6; i++) free(grad[i / 3][i % 3]);
}

static void refusals(void **state) {
    (void)state;
    fs_exec c = start(1);
    fs_rng r = fs_rng_seed(1);
    fs_error err = {0};
    fs_tape tape = {0};
    fs_tape_node node;
    float grad[12] = {0};
    fs_tensor *x = filled(&c, &r, 3, 4), leaf = fs_tape_leaf(&node, x, grad);
    c.tape = &tape;
    fs_tape_backward(&c, fs_scale(&c, x, 2), NULL); /* nothing to train */
    assert_int_equal(fs_exec_status(&c, &err), FS_E_INTERNAL);
    c.error = (fs_error){0};
    fs_tape_backward(&c, fs_scale(&c, &leaf, 2), NULL); /* twelve numbers are no loss */
    assert_int_equal(fs_exec_status(&c, &err), FS_E_INTERNAL);
    fs_tape_reset(&tape);
    c.error = (fs_error){0};
    fs_tensor *volume = fs_reshape_3d(&c, &leaf, 3, 2, 2);
    assert_non_null(volume);
    fs_resize_bilinear(&c, volume, 4, 4, false, false); /* has no backward pass yet */
    assert_int_equal(fs_exec_status(&c, &err), FS_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "resize_bilinear"));
    fs_tape_reset(&tape);
    c.error = (fs_error){0};
    assert_null(fs_cross_entropy(&c, &leaf, (const int32_t[]){FS_IGNORE, FS_IGNORE, FS_IGNORE}));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_MISMATCH);
    c.error = (fs_error){0};
    assert_null(fs_cross_entropy(&c, &leaf, (const int32_t[]){0, 4, 1}));
    assert_non_null(strstr(c.error.message, "target 4 of row 1"));
    fs_exec_end(&c);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_operator), cmocka_unit_test(as_pytorch), cmocka_unit_test(frozen_weights), cmocka_unit_test(segments_change_nothing),
                                       cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
