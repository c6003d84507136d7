/* Gradients: the backward passes that language models need against finite differences and PyTorch (support/gradcheck.h); gradients that meet,
 * that are not wanted, that flow through frozen quantized weights; segments computed again; what is recorded and what is refused. Fixed seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/archive.h"
#include "support/gradcheck.h"
#include "tensor/block.h"
#include "tensor/packed.h"
#include "tensor/ops.h"
#include "tensor/tape.h"

FS_GRAD_RUN(run_add, fs_add(c, x[0], x[1]))
FS_GRAD_RUN(run_mul, fs_mul(c, x[0], x[1]))
FS_GRAD_RUN(run_scale, fs_scale(c, x[0], -1.7f))
FS_GRAD_RUN(run_relu, fs_relu(c, x[0]))
FS_GRAD_RUN(run_gelu, fs_gelu(c, x[0]))
FS_GRAD_RUN(run_quick_gelu, fs_quick_gelu(c, x[0]))
FS_GRAD_RUN(run_silu, fs_silu(c, x[0]))
FS_GRAD_RUN(run_silu_mul, fs_silu_mul(c, x[0], x[1]))
FS_GRAD_RUN(run_reshape, fs_reshape_2d(c, x[0], 10, 6))
FS_GRAD_RUN(run_rows, fs_rows(c, x[0], 1, 4))
FS_GRAD_RUN(run_columns, fs_columns(c, x[0], 2, 7))
FS_GRAD_RUN(run_transpose, fs_transpose(c, x[0]))
FS_GRAD_RUN(run_to_f32, fs_to_f32(c, x[0]))
FS_GRAD_RUN(run_partition, fs_window_partition(c, x[0], 3))
FS_GRAD_RUN(run_unpartition, fs_window_unpartition(c, x[0], 3, 5, 4))
FS_GRAD_RUN(run_linear, fs_linear(c, x[0], x[1], x[2]))
FS_GRAD_RUN(run_matmul, fs_matmul(c, x[0], x[1]))
FS_GRAD_RUN(run_linear_add, fs_linear_add(c, x[0], x[1], x[2], x[3]))
FS_GRAD_RUN(run_lora, fs_linear_lora(c, x[0], x[1], x[2], x[3], x[4], x[5], 0.7f))
FS_GRAD_RUN(run_lora_alone, fs_linear_lora(c, x[0], x[1], NULL, x[0], x[2], x[3], -1.3f))
FS_GRAD_RUN(run_lora_beside, fs_linear_lora(c, NULL, NULL, x[0], x[1], x[2], x[3], 2.0f))
FS_GRAD_RUN(run_apart, fs_attention_apart(c, x[0], x[1], x[2], (const int64_t[]){19, 1, 13}, 3, 0.4f))
FS_GRAD_RUN(run_same_twice, fs_add(c, fs_reshape_2d(c, x[0], 4, 9), fs_reshape_2d(c, fs_add(c, x[0], x[0]), 4, 9)))
FS_GRAD_RUN(run_layer_norm, fs_layer_norm(c, x[0], x[1], x[2], 1e-5f))
FS_GRAD_RUN(run_rms_norm, fs_rms_norm(c, x[0], x[1], 1e-5f))
FS_GRAD_RUN(run_softmax, fs_softmax(c, x[0]))
FS_GRAD_RUN(run_rope, fs_rope(c, x[0], (const int64_t[]){3, 0, 700, 12, 5}, 10000.0f))
FS_GRAD_RUN(run_halves, fs_halves_from_pairs(c, x[0]))
FS_GRAD_RUN(run_attention, fs_attention(c, x[0], x[1], x[2], 0.4f, true))
FS_GRAD_RUN(run_attention_all, fs_attention(c, x[0], x[1], x[2], 0.4f, false))
FS_GRAD_RUN(run_embedding, fs_embedding(c, (const int32_t[]){2, 0, 2, 5, 2}, 5, x[0]))
FS_GRAD_RUN(run_cross_entropy, fs_cross_entropy(c, x[0], (const int32_t[]){3, FS_IGNORE, 0, 6, FS_IGNORE, 3}))
FS_GRAD_RUN(run_gather, fs_gather_rows(c, x[0], (const int64_t[]){5, 0, 2, 2, 0, 2, 3}, 7))
FS_GRAD_RUN(run_dropout, fs_add(c, x[0], fs_dropout(c, x[0], 0.3f, 0x123456789ABCDEFu)))
static fs_tensor *run_concat(fs_exec *c, fs_tensor *const *x) {
    const fs_tensor *parts[] = {x[0], x[1], x[0], x[2]}; /* one part twice */
    return fs_concat_rows(c, parts, 4);
}
static fs_tensor *mask(fs_exec *c) {
    fs_tensor *t = fs_new_2d(c, 6, 7);
    for (int i = 0; i < 42; i++) fs_f32(t)[i] = i % 3 ? 0.0f : 1.0f;
    return t;
}
FS_GRAD_RUN(run_bce, fs_bce_with_logits(c, x[0], mask(c)))
FS_GRAD_RUN(run_dice, fs_dice_loss(c, x[0], mask(c)))
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

static const fs_grad_case cases[] = {
    {"add", NULL, run_add, {FS_GRAD_IN(5, 7), FS_GRAD_IN(5, 7)}},
    {"add, broadcast", "add_b", run_add, {FS_GRAD_IN(4, 5, 7), FS_GRAD_IN(7)}},
    {"mul", NULL, run_mul, {FS_GRAD_IN(5, 7), FS_GRAD_IN(5, 7)}},
    {"mul, broadcast", "mul_b", run_mul, {FS_GRAD_IN(4, 5, 7), FS_GRAD_IN(1, 5, 7)}},
    {"scale", NULL, run_scale, {FS_GRAD_IN(3000)}},
    {"relu", "relu", run_relu, {{2, {40, 3}, 0.5, 0.4}}},
    {"gelu", "gelu", run_gelu, {{2, {41, 70}, 0, 4}}},
    {"quick_gelu", "quick_gelu", run_quick_gelu, {{2, {5, 7}, 0, 4}}},
    {"silu", NULL, run_silu, {{2, {5, 7}, 0, 4}}},
    {"silu_mul", "silu_mul", run_silu_mul, {{2, {5, 700}, 0, 4}, FS_GRAD_IN(5, 700)}},
    {"reshape", NULL, run_reshape, {FS_GRAD_IN(5, 12)}},
    {"rows", NULL, run_rows, {FS_GRAD_IN(5, 3, 2)}},
    {"columns", NULL, run_columns, {FS_GRAD_IN(3, 4, 9)}},
    {"transpose", NULL, run_transpose, {FS_GRAD_IN(5, 3, 2)}},
    {"to_f32", NULL, run_to_f32, {FS_GRAD_IN(5, 3)}},
    {"concat_rows", NULL, run_concat, {FS_GRAD_IN(2, 3), FS_GRAD_IN(1, 3), FS_GRAD_IN(4, 3)}},
    {"window_partition", "window_partition", run_partition, {FS_GRAD_IN(5, 4, 2)}},
    {"window_unpartition", "window_unpartition", run_unpartition, {FS_GRAD_IN(4, 9, 2)}},
    {"linear, few rows", "linear_few", run_linear, {FS_GRAD_IN(3, 10), FS_GRAD_IN(7, 10), FS_GRAD_IN(7)}},
    {"linear, many rows", "linear_many", run_linear, {FS_GRAD_IN(2, 15, 33), FS_GRAD_IN(41, 33), FS_GRAD_IN(41)}},
    {"linear_add", NULL, run_linear_add, {FS_GRAD_IN(15, 33), FS_GRAD_IN(41, 33), FS_GRAD_IN(41), FS_GRAD_IN(15, 41)}},
    {"linear_lora", NULL, run_lora,
     {FS_GRAD_IN(15, 33), FS_GRAD_IN(41, 33), FS_GRAD_IN(15, 41), FS_GRAD_IN(15, 33), FS_GRAD_IN(5, 33), FS_GRAD_IN(41, 5)}},
    {"linear_lora, x seen twice", NULL, run_lora_alone, {FS_GRAD_IN(15, 33), FS_GRAD_IN(41, 33), FS_GRAD_IN(5, 33), FS_GRAD_IN(41, 5)}},
    {"linear_lora beside a result", NULL, run_lora_beside, {FS_GRAD_IN(3, 41), FS_GRAD_IN(3, 33), FS_GRAD_IN(5, 33), FS_GRAD_IN(41, 5)}},
    {"attention of sequences apart", NULL, run_apart, {FS_GRAD_IN(33, 4, 6), FS_GRAD_IN(33, 2, 6), FS_GRAD_IN(33, 2, 5)}},
    {"a gradient handed over twice", NULL, run_same_twice, {FS_GRAD_IN(6, 6)}},
    {"matmul", "matmul", run_matmul, {FS_GRAD_IN(17, 9), FS_GRAD_IN(9, 21)}},
    {"layer_norm", "layer_norm", run_layer_norm, {FS_GRAD_IN(5, 33), FS_GRAD_IN(33), FS_GRAD_IN(33)}},
    {"rms_norm", "rms_norm", run_rms_norm, {FS_GRAD_IN(5, 33), FS_GRAD_IN(33)}},
    {"softmax", "softmax", run_softmax, {{2, {5, 13}, 0, 3}}},
    {"rope", "rope", run_rope, {FS_GRAD_IN(5, 3, 8)}},
    {"halves_from_pairs", NULL, run_halves, {FS_GRAD_IN(5, 3, 8)}},
    {"attention, causal", "attention_causal", run_attention, {FS_GRAD_IN(20, 4, 6), FS_GRAD_IN(33, 2, 6), FS_GRAD_IN(33, 2, 5)}},
    {"attention, few queries", "attention_few", run_attention, {FS_GRAD_IN(3, 4, 6), FS_GRAD_IN(9, 4, 6), FS_GRAD_IN(9, 4, 6)}},
    {"attention", "attention_all", run_attention_all, {FS_GRAD_IN(20, 2, 6), FS_GRAD_IN(7, 2, 6), FS_GRAD_IN(7, 2, 6)}},
    {"embedding", "embedding", run_embedding, {FS_GRAD_IN(6, 9)}},
    {"gather_rows", "gather_rows", run_gather, {FS_GRAD_IN(6, 3, 23)}},
    {"dropout", NULL, run_dropout, {FS_GRAD_IN(71, 53)}},
    {"cross_entropy", "cross_entropy", run_cross_entropy, {{2, {6, 7}, 0, 3}}},
    {"bce_with_logits", "bce_with_logits", run_bce, {{2, {6, 7}, 0, 3}}},
    {"dice_loss", "dice_loss", run_dice, {{2, {6, 7}, 0, 3}}},
    {"segments", NULL, run_segments, {FS_GRAD_IN(5, 8), FS_GRAD_IN(8, 8), FS_GRAD_IN(8, 8)}},
};

static void every_operator(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fs_grad_check(&cases[i], 1 + (int)(i % 3));
        fs_grad_same_bits(&cases[i], 3);
    }
}

static void as_pytorch(void **state) {
    (void)state;
    fs_archive *goldens = NULL;
    fs_error err = {0};
    if (fs_archive_open(FS_GOLDEN_DIR "/grads.safetensors", &goldens, &err)) fail_msg("%s", err.message);
    size_t compared = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        if (cases[i].golden) fs_grad_compare(&cases[i], goldens), compared++;
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
        fs_exec c = fs_grad_start(2);
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
        fs_exec c = fs_grad_start(2);
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

/* The mask of a key: the wanted share is dropped, the rest grows; another key drops others; threads, and a segment, drop the same. */
static fs_tensor *dropped_twice(fs_exec *c, const void *user, const fs_tensor *x) {
    return fs_mul(c, fs_dropout(c, x, 0.25f, *(const uint64_t *)user), x);
}
static void dropout_masks(void **state) {
    (void)state;
    enum { ROWS = 301, COLS = 333, N = ROWS * COLS };
    fs_exec one = fs_grad_start(1), three = fs_grad_start(3);
    fs_rng r = fs_rng_seed(4);
    fs_error err = {0};
    const fs_tensor *x = filled(&one, &r, ROWS, COLS), *y = fs_dropout(&one, x, 0.25f, 7), *z = fs_dropout(&one, x, 0.25f, 8);
    assert_memory_equal(fs_f32(y), fs_f32(fs_dropout(&three, x, 0.25f, 7)), N * sizeof(float));
    assert_ptr_equal(fs_dropout(&one, x, 0.0f, 7), x);
    int64_t dropped = 0, both = 0;
    for (int64_t i = 0; i < N; i++) {
        const bool zero = fs_f32(y)[i] == 0.0f;
        if (!zero) assert_true(fs_f32(y)[i] == fs_f32(x)[i] * (1.0f / 0.75f));
        dropped += zero;
        both += zero && fs_f32(z)[i] == 0.0f;
    }
    assert_true(fabs((double)dropped / N - 0.25) < 5 * sqrt(0.25 * 0.75 / N)); /* 5 standard errors */
    assert_true(fabs((double)both / N - 0.0625) < 5 * sqrt(0.0625 * 0.9375 / N));

    float *grad[2];
    for (int segment = 0; segment < 2; segment++) {
        const uint64_t key = 99;
        fs_tape tape = {0};
        fs_tape_node node;
        grad[segment] = fs_alloc_zero(N, sizeof(float));
        fs_tensor leaf = fs_tape_leaf(&node, x, grad[segment]);
        one.tape = &tape;
        fs_tape_backward(&one, segment ? fs_checkpoint(&one, dropped_twice, &key, sizeof key, &leaf) : dropped_twice(&one, &key, &leaf), fs_f32(z));
        if (fs_exec_status(&one, &err)) fail_msg("%s", err.message);
        one.tape = NULL;
    }
    assert_memory_equal(grad[0], grad[1], N * sizeof(float));
    free(grad[0]), free(grad[1]);
    assert_null(fs_dropout(&one, x, 1.0f, 7));
    assert_int_equal(fs_exec_status(&one, &err), FS_E_MISMATCH);
    assert_null(fs_gather_rows(&three, x, (const int64_t[]){0, ROWS}, 2));
    assert_non_null(strstr(three.error.message, "no row 301"));
    fs_exec_end(&one);
    fs_exec_end(&three);
}

/* The memory of one pass's gradients serves the next, of other sizes too; what it held does not matter. */
static void memory_of_gradients(void **state) {
    (void)state;
    fs_exec c = fs_grad_start(2);
    fs_rng r = fs_rng_seed(6);
    fs_error err = {0};
    fs_tape tape = {0};
    float *first[2] = {0};
    static const int64_t rows[6] = {300, 200, 300, 120, 400, 200};
    fs_tensor *all = filled(&c, &r, 400, 200), *w = filled(&c, &r, 200, 200), *seeds = filled(&c, &r, 400, 200);
    const fs_arena_mark mark = fs_arena_get_mark(c.arena);
    for (int i = 0; i < 6; i++) {
        fs_tape_node node;
        float *grad = fs_alloc_zero((size_t)rows[i] * 200, sizeof *grad);
        const fs_tensor x = {.dtype = FS_DTYPE_F32, .ndim = 2, .shape = {rows[i], 200, 1, 1, 1, 1}, .data = all->data}, leaf = fs_tape_leaf(&node, &x, grad);
        c.tape = &tape;
        const fs_tensor *h = fs_gelu(&c, fs_linear(&c, fs_silu(&c, &leaf), w, NULL));
        fs_tape_backward(&c, fs_add(&c, h, fs_linear(&c, h, w, NULL)), fs_f32(seeds));
        if (fs_exec_status(&c, &err)) fail_msg("%s", err.message);
        assert_non_null(c.spare);
        c.tape = NULL;
        fs_arena_release(c.arena, mark);
        const int which = rows[i] == 300 ? 0 : rows[i] == 200 ? 1 : -1;
        if (which >= 0 && first[which]) assert_memory_equal(first[which], grad, (size_t)rows[i] * 200 * sizeof *grad);
        if (which >= 0 && !first[which]) first[which] = grad;
        else free(grad);
    }
    free(first[0]), free(first[1]);
    fs_exec_end(&c);
    assert_null(c.spare);
}

/* The same bits as the operators that it is made of, and as attention over each sequence alone. */
static void fused_is_the_same(void **state) {
    (void)state;
    fs_exec c = fs_grad_start(2);
    fs_rng r = fs_rng_seed(11);
    fs_error err = {0};
    fs_tensor *x = filled(&c, &r, 30, 48), *w = filled(&c, &r, 24, 48), *a = filled(&c, &r, 8, 48), *b = filled(&c, &r, 24, 8), *h = filled(&c, &r, 30, 24);
    const fs_tensor *one = fs_linear_lora(&c, x, w, h, x, a, b, 0.5f);
    const fs_tensor *low = fs_scale(&c, fs_linear(&c, x, a, NULL), 0.5f), *many = fs_add(&c, fs_linear_add(&c, x, w, NULL, h), fs_linear(&c, low, b, NULL));
    if (fs_exec_status(&c, &err)) fail_msg("%s", err.message);
    assert_memory_equal(one->data, many->data, 30 * 24 * sizeof(float));
    const fs_tensor *q = fs_reshape_3d(&c, x, 30, 4, 12);
    const fs_tensor *together = fs_attention_apart(&c, q, q, q, (const int64_t[]){17, 13}, 2, 0.3f);
    for (int i = 0; i < 2; i++) {
        const fs_tensor *part = fs_rows(&c, q, i ? 17 : 0, i ? 30 : 17), *alone = fs_attention(&c, part, part, part, 0.3f, true);
        assert_memory_equal(fs_f32(together) + (i ? 17 * 48 : 0), alone->data, (size_t)fs_tensor_count(alone) * sizeof(float));
    }
    assert_null(fs_attention_apart(&c, q, q, q, (const int64_t[]){17, 12}, 2, 0.3f)); /* one row is nobody's */
    assert_int_equal(fs_exec_status(&c, &err), FS_E_MISMATCH);
    c.error = (fs_error){0};
    assert_null(fs_linear_lora(&c, x, w, h, x, b, a, 1)); /* the two the wrong way round */
    assert_int_equal(fs_exec_status(&c, &err), FS_E_MISMATCH);
    fs_exec_end(&c);
}

/* sum of squares of x w^T, as a loss of [1] */
static fs_tensor *squares(fs_exec *c, const void *user, const fs_tensor *x) {
    const fs_tensor *w = *(const fs_tensor *const *)user, *y = fs_linear(c, x, w, NULL);
    const int64_t n = y ? fs_tensor_count(y) : 0;
    return fs_reshape(c, fs_matmul(c, fs_reshape_2d(c, y, 1, n), fs_reshape_2d(c, y, n, 1)), 1, (const int64_t[]){1});
}

/* A loss that goes back at once leaves the gradients that it would have left later, to the bit; another seed than promised is noticed. */
static void losses_at_once(void **state) {
    (void)state;
    fs_exec c = fs_grad_start(2);
    fs_rng r = fs_rng_seed(12);
    fs_error err = {0};
    fs_tensor *x = filled(&c, &r, 6, 16), *w = filled(&c, &r, 16, 16);
    float grads[2][2][256];
    const float seed = 0.25f;
    for (int now = 0; now < 3; now++) {
        fs_tape tape = {0};
        fs_tape_node nodes[2];
        float dx[256] = {0}, dw[256] = {0};
        const fs_tensor leaf = fs_tape_leaf(&nodes[0], x, dx), weight = fs_tape_leaf(&nodes[1], w, dw), *user = &weight;
        c.tape = &tape;
        const fs_tensor *h = fs_silu(&c, &leaf);
        const fs_tensor *y = now ? fs_loss_now(&c, squares, &user, h, now == 1 ? seed : 2 * seed) : squares(&c, &user, h);
        fs_tape_backward(&c, y, &seed);
        c.tape = NULL;
        if (now == 2) break;
        if (fs_exec_status(&c, &err)) fail_msg("%s", err.message);
        memcpy(grads[now][0], dx, sizeof dx);
        memcpy(grads[now][1], dw, sizeof dw);
    }
    assert_int_equal(fs_exec_status(&c, &err), FS_E_INTERNAL);
    assert_non_null(strstr(err.message, "promised"));
    assert_memory_equal(grads[0], grads[1], sizeof grads[0]);
    fs_exec_end(&c);
}

static void refusals(void **state) {
    (void)state;
    fs_exec c = fs_grad_start(1);
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
    fs_linear_gelu(&c, &leaf, x, NULL); /* for inference only */
    assert_int_equal(fs_exec_status(&c, &err), FS_E_UNSUPPORTED);
    assert_non_null(strstr(err.message, "linear_gelu"));
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
                                       cmocka_unit_test(dropout_masks), cmocka_unit_test(memory_of_gradients), cmocka_unit_test(fused_is_the_same), cmocka_unit_test(losses_at_once),
                                       cmocka_unit_test(refusals)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
