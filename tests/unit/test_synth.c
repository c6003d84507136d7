/* Random weights: that the numbers of every type have the mean and deviation asked for, whatever the way they are cut, and that the made-up
 * vocabulary cuts prompts about as LLaMA's does. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pipeline/synth.h"
#include "tensor/block.h"

enum { N = FS_SYNTH_CHUNK };

static void check_numbers(fs_dtype type, double deviation) {
    size_t bytes;
    assert_true(fs_dtype_row_bytes(type, N, &bytes));
    uint8_t *a = fs_alloc(bytes, 1), *b = fs_alloc(bytes, 1);
    float *x = fs_alloc(N, sizeof *x);
    assert_true(a && b && x);
    assert_true(fs_synth_fill(type, deviation, 7, 3, N, a));
    assert_true(fs_synth_fill(type, deviation, 7, 3, N, b));
    assert_memory_equal(a, b, bytes);
    assert_true(fs_synth_fill(type, deviation, 7, 4, N, b));
    assert_memory_not_equal(a, b, bytes);
    assert_true(fs_synth_fill(type, deviation, 8, 3, N, b));
    assert_memory_not_equal(a, b, bytes);
    assert_true(fs_row_to_f32(type, a, N, x));
    double sum = 0, squares = 0;
    for (int i = 0; i < N; i++) {
        assert_true(isfinite(x[i]));
        sum += (double)x[i];
        squares += (double)x[i] * (double)x[i];
    }
    /* The mean of 65536 numbers strays by deviation / 256. Scales are random per block: for Q6_K, the coarsest case, 4096 signs of scales times a
     * code's mean of -0.5 add as much again. Six of those. Min and scale of K types are rounded to 16 bits: less than that. */
    assert_true(fabs(sum / N) < 6 * deviation / 256);
    /* scales that fit a deviation of 1 % are rounded to 11 bits; K types have random scales of known mean square */
    assert_true(fabs(sqrt(squares / N) / deviation - 1) < 0.02);
    /* a shorter chunk is the beginning of a longer one where blocks allow */
    assert_true(fs_synth_fill(type, deviation, 7, 3, 512, b));
    assert_true(fs_dtype_row_bytes(type, 256, &bytes));
    if (fs_dtype_size(type)) assert_memory_equal(a, b, bytes);
    free(a);
    free(b);
    free(x);
}

static void numbers(void **state) {
    static const fs_dtype types[] = {FS_DTYPE_F32, FS_DTYPE_F16, FS_DTYPE_BF16, FS_DTYPE_Q8_0, FS_DTYPE_Q4_0, FS_DTYPE_Q4_1, FS_DTYPE_Q5_0, FS_DTYPE_Q5_1,
                                     FS_DTYPE_Q4_K, FS_DTYPE_Q5_K, FS_DTYPE_Q6_K};
    (void)state;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        check_numbers(types[i], 1 / sqrt(13824)); /* the smallest there are: of ffn_down */
        check_numbers(types[i], 1);
    }
    uint8_t out[64];
    assert_false(fs_synth_fill(FS_DTYPE_I32, 1, 0, 0, 8, out));
    assert_false(fs_synth_fill(FS_DTYPE_Q8_0, 1, 0, 0, 31, out));
}

static size_t tokens(const fs_tokenizer *t, const char *text) {
    fs_ids ids = {0};
    fs_error err = {0};
    assert_int_equal(fs_tokenizer_encode_image(t, text, &ids, &err), FS_OK);
    const size_t n = ids.count;
    for (size_t i = 0; i < n; i++) assert_true(ids.data[i] == FS_IMAGE_TOKEN || (ids.data[i] >= 0 && ids.data[i] < fs_tokenizer_size(t)));
    fs_ids_free(&ids);
    return n;
}

static void vocabulary(void **state) {
    static const int32_t sizes[] = {4000, 32000};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        fs_buffer model = {0};
        fs_tokenizer *t = NULL;
        fs_error err = {0};
        assert_int_equal(fs_synth_tokenizer(sizes[i], &model, &err), FS_OK);
        const fs_tokenizer_files files = {.where = "synthetic", .model = {model.data, model.size}};
        if (fs_tokenizer_create(&files, FS_RULES_437, &t, &err)) fail_msg("%s", err.message);
        assert_int_equal(fs_tokenizer_size(t), sizes[i]);
        assert_int_equal(fs_tokenizer_bos(t), 1);
        assert_int_equal(fs_tokenizer_eos(t), 2);
        /* LLaMA's tokenizer makes 139, 135 and 135 of the three prompts (golden vectors of the tokenizer's tests); 5 % is near enough to time with */
        static const size_t wanted[3] = {139, 135, 135};
        for (int d = 0; d < 3; d++) {
            char *prompt = fs_prompt_stage1((fs_domain)d, fs_prompt_detection_question, false);
            assert_non_null(prompt);
            const size_t n = tokens(t, prompt);
            if (n < wanted[d] - 7 || n > wanted[d] + 7) fail_msg("prompt %d has %zu tokens, with LLaMA's tokenizer %zu", d, n, wanted[d]);
            free(prompt);
        }
        /* a word of the list is one piece, and any text comes back */
        assert_int_equal(tokens(t, "shadow"), 2);
        fs_ids ids = {0};
        char *back = NULL;
        assert_int_equal(fs_tokenizer_encode(t, "Caf\xC3\xA9 9 \xE6\xBC\xA2", &ids, &err), FS_OK);
        assert_int_equal(fs_tokenizer_decode(t, ids.data, ids.count, true, &back, &err), FS_OK);
        assert_string_equal(back, "Caf\xC3\xA9 9 \xE6\xBC\xA2");
        free(back);
        fs_ids_free(&ids);
        fs_tokenizer_free(t);
        fs_buffer_free(&model);
    }
    fs_buffer model = {0};
    fs_error err = {0};
    assert_int_not_equal(fs_synth_tokenizer(1000000, &model, &err), FS_OK); /* more than can be made up */
    fs_buffer_free(&model);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(numbers), cmocka_unit_test(vocabulary)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
