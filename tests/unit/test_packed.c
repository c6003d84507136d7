/* Packed weights and the kernels that multiply them: packing loses no bit; every instruction set gives the bits of the plain C kernels, whatever
 * rows, threads and neighbours; those give what their definition says, against f64; and the 8 bits of the activations cost no more than
 * stated against f32 activations. Block types as they lie in a file are multiplied exactly. Random odd shapes, fixed seeds. */
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "backend/cpu/q_kernels.h"
#include "format_support.h"
#include "tensor/block.h"
#include "tensor/ops.h"
#include "tensor/packed.h"

static const fs_dtype types[] = {FS_DTYPE_Q8_0, FS_DTYPE_Q4_0, FS_DTYPE_Q4_K};
enum { TYPES = 3, TRIES = 12 };

static int64_t pick(fs_rng *r, int64_t lo, int64_t hi) { return lo + (int64_t)(fs_rng_next(r) % (uint64_t)(hi - lo + 1)); }

/* About normal: the sum of twelve uniform numbers. */
static float normal(fs_rng *r) {
    double s = -6;
    for (int i = 0; i < 12; i++) s += fs_rng_uniform(r);
    return (float)s;
}

static float *normals(fs_rng *r, int64_t n) {
    float *x = fs_alloc((size_t)n, sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) x[i] = normal(r);
    return x;
}

/* A matrix of blocks with any codes at all, -128 and 6-bit scales of 63 included; the f16 scales are random, of either sign, not too far apart. */
typedef struct matrix { fs_tensor blocks; float *wide; } matrix;

static matrix random_matrix(fs_rng *r, fs_dtype type, int64_t rows, int64_t cols) {
    size_t bytes;
    const int64_t shape[] = {rows, cols};
    assert_true(fs_dtype_bytes(type, 2, shape, &bytes));
    uint8_t *data = fs_alloc(bytes, 1);
    float *wide = fs_alloc((size_t)(rows * cols), sizeof *wide);
    assert_true(data && wide);
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)fs_rng_next(r);
    const size_t block = bytes / (size_t)(rows * cols / fs_dtype_block(type));
    for (size_t i = 0; i < bytes; i += block)
        for (size_t k = 0; k < (type == FS_DTYPE_Q4_K ? 2 : 1); k++) {
            const uint16_t h = fs_f32_to_f16((float)(fs_rng_uniform(r) - 0.5) / 64);
            data[i + 2 * k] = (uint8_t)h;
            data[i + 2 * k + 1] = (uint8_t)(h >> 8);
        }
    assert_true(fs_row_to_f32(type, data, rows * cols, wide));
    return (matrix){{.dtype = type, .ndim = 2, .shape = {rows, cols, 1, 1, 1, 1}, .data = data, .name = "m"}, wide};
}

static matrix odd_matrix(fs_rng *r, fs_dtype type) {
    const int64_t rows = pick(r, 1, 70), blocks = type == FS_DTYPE_Q4_K ? pick(r, 1, 4) : pick(r, 1, 19);
    return random_matrix(r, type, rows, blocks * fs_dtype_block(type));
}

static void free_matrix(matrix *m) {
    free(m->blocks.data);
    free(m->wide);
}

static fs_packed *pack(const fs_tensor *w, int threads) {
    fs_packed *p = NULL;
    assert_ok(fs_pack_weight(w, threads, &p, err));
    assert_non_null(p);
    return p;
}

/* ---- packing ---- */

static void packing_loses_nothing(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(1);
    for (int i = 0; i < TRIES * TYPES; i++) {
        matrix m = odd_matrix(&r, types[i % TYPES]);
        fs_packed *p = pack(&m.blocks, 1), *again = pack(&m.blocks, 3);
        const int64_t rows = m.blocks.shape[0], cols = m.blocks.shape[1];
        float *row = fs_alloc((size_t)cols, sizeof *row);
        assert_true(row && p->bytes == again->bytes && p->bytes % 64 == 0);
        assert_memory_equal(p->tensor.data, again->tensor.data, p->bytes);
        assert_true(fs_dtype_is_packed(p->tensor.dtype) && p->tensor.shape[0] == rows && p->tensor.shape[1] == cols);
        for (int64_t k = 0; k < rows; k++) {
            fs_packed_row(&p->tensor, k, row);
            assert_memory_equal(row, m.wide + k * cols, (size_t)cols * sizeof *row);
        }
        free(row);
        fs_packed_free(p);
        fs_packed_free(again);
        free_matrix(&m);
    }
}

static void sizes(void **state) {
    (void)state;
    size_t tile, bytes;
    int64_t groups;
    fs_dtype t;
    fs_error err;
    /* no larger than the blocks where nothing must be padded */
    assert_true(fs_packed_bytes(FS_DTYPE_Q8_0X16, 64, 1024, &tile, &bytes) && bytes == 64 * 1024 / 32 * 34);
    assert_true(fs_packed_bytes(FS_DTYPE_Q4_0X16, 64, 1024, &tile, &bytes) && bytes == 64 * 1024 / 32 * 18);
    assert_true(fs_packed_bytes(FS_DTYPE_Q4_KX16, 64, 1024, &tile, &bytes) && bytes == 64 * 1024 / 256 * 144);
    assert_true(fs_packed_bytes(FS_DTYPE_Q4_0X16, 17, 96, &tile, &bytes) && tile == 2 * 576 && bytes == 2 * tile);
    assert_true(fs_packed_groups(FS_DTYPE_Q8_0X16, 96, &groups) && groups == 4);
    assert_false(fs_packed_groups(FS_DTYPE_Q8_0X16, 95, &groups));
    assert_false(fs_packed_groups(FS_DTYPE_Q8_0, 96, &groups));
    assert_false(fs_packed_bytes(FS_DTYPE_Q8_0X16, -1, 32, &tile, &bytes));
    assert_false(fs_packed_bytes(FS_DTYPE_Q8_0X16, INT64_MAX, INT64_MAX / 32 * 32, &tile, &bytes));
    assert_true(fs_packed_type(FS_DTYPE_Q4_K, &t) && t == FS_DTYPE_Q4_KX16);
    assert_false(fs_packed_type(FS_DTYPE_Q6_K, &t));
    assert_true(fs_dtype_is_block(FS_DTYPE_Q6_K) && !fs_dtype_is_block(FS_DTYPE_F16) && !fs_dtype_is_block(FS_DTYPE_Q8_0X16));
    assert_false(fs_dtype_row_bytes(FS_DTYPE_Q8_0X16, 32, &bytes)); /* a row of it has no bytes of its own */
    assert_int_equal(fs_dtype_size(FS_DTYPE_Q8_0X16), 0);

    float data[64] = {0};
    fs_packed *p;
    const fs_tensor plain = {.dtype = FS_DTYPE_F32, .ndim = 2, .shape = {2, 32, 1, 1, 1, 1}, .data = data, .name = "w.x"};
    assert_int_equal(fs_pack_weight(&plain, 1, &p, &err), FS_E_UNSUPPORTED);
    assert_null(p);
    assert_non_null(strstr(err.message, "w.x"));
    const fs_tensor torn = {.dtype = FS_DTYPE_Q8_0, .ndim = 2, .shape = {1, 33, 1, 1, 1, 1}, .data = data};
    assert_int_equal(fs_pack_weight(&torn, 1, &p, &err), FS_E_LIMIT);
}

/* ---- kernels ---- */

/* What the definition gives, in f64: s and q of each group, then the dot product with the dequantized row. size: sum of |terms|. */
static double defined(const float *x, const float *w, int64_t cols, double *size) {
    double y = 0;
    *size = 0;
    for (int64_t g = 0; g < cols; g += 32) {
        float most = 0;
        for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[g + i]));
        const float s = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0.0f;
        for (int i = 0; i < 32; i++) {
            const double term = (double)s * (double)rintf(x[g + i] * inverse) * (double)w[g + i];
            y += term;
            *size += fabs(term);
        }
    }
    return y;
}

/* y[m, rows] by tiles as fs_quant_run makes them, but on this table whatever the processor's best is. */
static float *multiply(const fs_quant *q, const fs_packed *p, const float *x, int64_t m) {
    const int64_t rows = p->tensor.shape[0], cols = p->tensor.shape[1];
    fs_arena *arena = fs_arena_create(1 << 16);
    float *y = fs_alloc((size_t)(m * rows), sizeof *y);
    assert_true(arena && y);
    const fs_quant_product job = {.x = x, .m = m, .w = &p->tensor, .y = y};
    assert_true(fs_quant_run(q, fs_backend_by_name("ref"), &job, 1, arena));
    (void)cols;
    fs_arena_free(arena);
    return y;
}

static void plain_kernels_follow_the_definition(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(2);
    const fs_quant *ref = fs_quant_by_name("ref");
    for (int i = 0; i < TRIES * TYPES; i++) {
        matrix w = odd_matrix(&r, types[i % TYPES]);
        const int64_t rows = w.blocks.shape[0], cols = w.blocks.shape[1], m = pick(&r, 1, 9);
        fs_packed *p = pack(&w.blocks, 1);
        float *x = normals(&r, m * cols), *y = multiply(ref, p, x, m);
        for (int64_t t = 0; t < m; t++)
            for (int64_t k = 0; k < rows; k++) {
                double size;
                const double expected = defined(x + t * cols, w.wide + k * cols, cols, &size);
                /* Q4_K's dot and min are apart, so up to 15 times larger than the value they make; then about three roundings to 2^-24 a
                 * group and one a group of the sum so far: at most groups + 4 of them on sums no larger than the terms together. */
                const double larger = types[i % TYPES] == FS_DTYPE_Q4_K ? 30 : 1;
                assert_true(fabs((double)y[t * rows + k] - expected) <= size * larger * (double)(cols / 32 + 4) * 0x1p-24 + 1e-12);
            }
        free(x);
        free(y);
        fs_packed_free(p);
        free_matrix(&w);
    }
}

static void instruction_sets_agree(void **state) {
    (void)state;
    static const char *const names[] = {"avx2", "avxvnni", "vnni-zen4", "vnni-zen5", "neon", "dotprod", "i8mm"};
    fs_rng r = fs_rng_seed(3);
    int found = 0;
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        const fs_quant *q = fs_quant_by_name(names[n]);
        if (!q) {
            print_message("%s: not on this processor\n", names[n]);
            continue;
        }
        found++;
        assert_memory_equal(q->name, names[n], strcspn(names[n], "-"));
        for (int i = 0; i < 3 * TRIES * TYPES; i++) {
            matrix w = odd_matrix(&r, types[i % TYPES]);
            const int64_t rows = w.blocks.shape[0], cols = w.blocks.shape[1], m = 1 + i / TYPES % 30; /* every number of rows a tile may have */
            fs_packed *p = pack(&w.blocks, 1);
            float *x = normals(&r, m * cols);
            for (int64_t k = 0; k < m * cols; k++) /* groups that differ in size, zeros, powers of two, halves to round */
                x[k] = i % 4 == 0 ? (float)pick(&r, -127, 127) : i % 4 == 1 ? (float)pick(&r, -254, 254) / 2 : x[k] * (float)(k / 32 % 7);
            float *y = multiply(q, p, x, m), *expected = multiply(fs_quant_by_name("ref"), p, x, m);
            assert_memory_equal(y, expected, (size_t)(m * rows) * sizeof *y);
            free(x);
            free(y);
            free(expected);
            fs_packed_free(p);
            free_matrix(&w);
        }
    }
    assert_non_null(fs_quant_by_name("ref"));
    assert_null(fs_quant_by_name("none"));
    assert_true(found || strcmp(fs_backend_best()->name, "ref") == 0);
}

/* The largest codes against the largest activations, where a sum of 16 bits would overflow. */
static void extremes_do_not_saturate(void **state) {
    (void)state;
    static const char *const names[] = {"ref", "avx2", "avxvnni", "vnni-zen4", "vnni-zen5", "neon", "dotprod", "i8mm"};
    enum { COLS = 256, ROWS = 17 };
    for (int t = 0; t < TYPES; t++)
        for (int sign = -1; sign <= 1; sign += 2) {
            fs_rng r = fs_rng_seed(4);
            matrix w = random_matrix(&r, types[t], ROWS, COLS);
            size_t bytes;
            assert_true(fs_dtype_bytes(types[t], 2, w.blocks.shape, &bytes));
            const size_t block = bytes / (size_t)(ROWS * COLS / fs_dtype_block(types[t]));
            uint8_t *data = w.blocks.data;
            for (size_t i = 0; i < bytes; i++) { /* scales of 1 (and a min of 0), codes of -128 or 15 */
                const size_t at = i % block;
                data[i] = at < 2 ? (at ? 0x3C : 0) : types[t] == FS_DTYPE_Q8_0 ? 0x80 : types[t] == FS_DTYPE_Q4_K && at < 4 ? 0 : 0xFF;
            }
            assert_true(fs_row_to_f32(types[t], data, ROWS * COLS, w.wide));
            float x[COLS];
            for (int i = 0; i < COLS; i++) x[i] = (float)(127 * sign);
            double expected = 0; /* all whole numbers: exact */
            for (int i = 0; i < COLS; i++) expected += (double)x[i] * (double)w.wide[i];
            fs_packed *p = pack(&w.blocks, 1);
            for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
                const fs_quant *q = fs_quant_by_name(names[n]);
                if (!q) continue;
                float *y = multiply(q, p, x, 1);
                for (int i = 0; i < ROWS; i++) assert_true((double)y[i] == expected);
                free(y);
            }
            fs_packed_free(p);
            free_matrix(&w);
        }
}

static void bad_values_show(void **state) {
    (void)state;
    static const char *const names[] = {"ref", "avx2", "avxvnni", "vnni-zen4", "vnni-zen5", "neon", "dotprod", "i8mm"};
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    enum { COLS = 512, ROWS = 19, M = 3 };
    fs_rng r = fs_rng_seed(5);
    for (int t = 0; t < TYPES; t++) {
        matrix w = random_matrix(&r, types[t], ROWS, COLS);
        fs_packed *p = pack(&w.blocks, 1);
        for (size_t n = 0; n < sizeof names / sizeof *names; n++)
            for (int b = 0; b < 3; b++) {
                const fs_quant *q = fs_quant_by_name(names[n]);
                if (!q) continue;
                float *x = normals(&r, M * COLS);
                x[COLS + 77] = bad[b]; /* row 1 only */
                float *y = multiply(q, p, x, M);
                for (int i = 0; i < ROWS; i++) assert_true(isnan(y[ROWS + i]) && isfinite(y[i]) && isfinite(y[2 * ROWS + i]));
                for (int i = 0; i < M * COLS; i++) x[i] = i % 2 ? 1e-38f : -9e-31f; /* nothing that could be divided by */
                free(y);
                y = multiply(q, p, x, M);
                for (int i = 0; i < M * ROWS; i++) assert_true(y[i] == 0.0f);
                free(x);
                free(y);
            }
        fs_packed_free(p);
        free_matrix(&w);
    }
}

/* ---- the operators ---- */

static fs_exec context(fs_dtype precision, int threads, const char *table) {
    fs_exec c;
    assert_ok(fs_exec_init(&c, precision, threads, NULL, err));
    if (table) c.backend = fs_backend_by_name(table);
    assert_non_null(c.backend);
    return c;
}

static const float *linear(fs_exec *c, float *x, int64_t m, const fs_tensor *w, const fs_tensor *b) {
    const fs_tensor *y = fs_linear(c, fs_wrap(c, FS_DTYPE_F32, 2, (const int64_t[]){m, w->shape[1]}, x), w, b);
    fs_error err = {0};
    if (fs_exec_status(c, &err)) fail_msg("%s", err.message);
    assert_true(y && y->ndim == 2 && y->shape[0] == m && y->shape[1] == w->shape[0]);
    return fs_f32(y);
}

/* A row has the same bits alone and among others, with one thread and with several; bias and rounding come after. (From FS_Q_MANY_ROWS on 4 bits may go
 * another way: test_packed_long.c.) */
static void rows_and_threads_do_not_matter(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, 5};
    static const fs_dtype precisions[] = {FS_DTYPE_F32, FS_DTYPE_BF16, FS_DTYPE_F16};
    static const int64_t counts[] = {1, 2, 7, 8, 12, 13, 25, 47};
    enum { COLS = 2304, ROWS = 403, M = 47 }; /* k is cut where there are many rows */
    _Static_assert((int)M < (int)FS_Q_MANY_ROWS, "among few rows");
    fs_rng r = fs_rng_seed(6);
    float *x = normals(&r, M * COLS), *bias_values = normals(&r, ROWS);
    const fs_tensor bias = {.dtype = FS_DTYPE_F32, .ndim = 1, .shape = {ROWS, 1, 1, 1, 1, 1}, .data = bias_values};
    for (int t = 0; t < TYPES; t++) {
        matrix w = random_matrix(&r, types[t], ROWS, COLS);
        fs_packed *p = pack(&w.blocks, 1);
        fs_exec one = context(FS_DTYPE_F32, 1, "ref");
        const float *plain = linear(&one, x, M, &p->tensor, NULL); /* another instruction set even */
        for (int pr = 0; pr < 3; pr++)
            for (int i = 0; i < 4; i++) {
                fs_exec c = context(precisions[pr], threads[i], NULL);
                const float *b = linear(&c, x, M, &p->tensor, &bias);
                for (int64_t k = 0; k < M * ROWS; k++) {
                    float bias_value = bias_values[k % ROWS], y;
                    if (pr == 1) bias_value = fs_bf16_to_f32(fs_f32_to_bf16(bias_value));
                    if (pr == 2) bias_value = fs_f16_to_f32(fs_f32_to_f16(bias_value));
                    y = plain[k] + bias_value;
                    if (pr == 1) y = fs_bf16_to_f32(fs_f32_to_bf16(y));
                    if (pr == 2) y = fs_f16_to_f32(fs_f32_to_f16(y));
                    assert_true(b[k] == y);
                }
                for (int n = 0; n < 8 && pr == 0; n++) {
                    const int64_t first = M - counts[n];
                    const float *some = linear(&c, x + first * COLS, counts[n], &p->tensor, NULL);
                    assert_memory_equal(some, plain + first * ROWS, (size_t)(counts[n] * ROWS) * sizeof *some);
                }
                fs_exec_end(&c);
            }
        fs_exec_end(&one);
        fs_packed_free(p);
        free_matrix(&w);
    }
    free(x);
    free(bias_values);
}

/* Block types as a file has them: the bits of fs_linear on the same numbers in f32. */
static void blocks_are_multiplied_exactly(void **state) {
    (void)state;
    static const fs_dtype all[] = {FS_DTYPE_Q8_0, FS_DTYPE_Q4_0, FS_DTYPE_Q4_K, FS_DTYPE_Q6_K, FS_DTYPE_Q4_1, FS_DTYPE_Q5_0, FS_DTYPE_Q5_1, FS_DTYPE_Q5_K};
    static const char *const tables[] = {"ref", "avx2", "avx512", "neon"};
    static const int64_t counts[] = {1, 3, 9, 30}; /* few rows, and many */
    fs_rng r = fs_rng_seed(7);
    for (int t = 0; t < 8; t++)
        for (size_t b = 0; b < sizeof tables / sizeof *tables; b++)
            for (int i = 0; i < 4; i++) {
                const int64_t m = counts[i];
                if (!fs_backend_by_name(tables[b])) continue;
                matrix w = random_matrix(&r, all[t], pick(&r, 1, 60), fs_dtype_block(all[t]) * pick(&r, 1, 3));
                for (int64_t k = 0; k < w.blocks.shape[0] * w.blocks.shape[1]; k++)
                    if (!isfinite(w.wide[k])) w.wide[k] = NAN; /* types whose scales the test leaves random; NaN compares below */
                const fs_tensor wide = {.dtype = FS_DTYPE_F32, .ndim = 2, .shape = {w.blocks.shape[0], w.blocks.shape[1], 1, 1, 1, 1}, .data = w.wide};
                float *x = normals(&r, m * wide.shape[1]), *bias_values = normals(&r, wide.shape[0]);
                const fs_tensor bias = {.dtype = FS_DTYPE_F32, .ndim = 1, .shape = {wide.shape[0], 1, 1, 1, 1, 1}, .data = bias_values};
                fs_exec c = context(FS_DTYPE_F32, 2, tables[b]);
                const float *y = linear(&c, x, m, &w.blocks, &bias), *expected = linear(&c, x, m, &wide, &bias);
                for (int64_t k = 0; k < m * wide.shape[0]; k++)
                    assert_true(y[k] == expected[k] || (!isfinite(y[k]) && !isfinite(expected[k])));
                fs_exec_end(&c);
                free(x);
                free(bias_values);
                free_matrix(&w);
            }
}

/* What 8 bits of the activations cost. Always: half a step, 1/254 of its group's largest value, for each activation. On normal data, whose
 * largest of 32 is about 2.1 sigma, a step has an error of 2.1 / 127 / sqrt 12 = 0.5 % of sigma: 1 % of the output's norm is twice that. */
static void activations_in_8_bits_cost_little(void **state) {
    (void)state;
    enum { COLS = 2048, ROWS = 130, M = 6 };
    fs_rng r = fs_rng_seed(8);
    for (int t = 0; t < TYPES; t++) {
        float *original = normals(&r, ROWS * COLS), *x = normals(&r, M * COLS);
        matrix w = random_matrix(&r, types[t], ROWS, COLS);
        assert_true(fs_row_from_f32(types[t], original, ROWS * COLS, w.blocks.data));
        assert_true(fs_row_to_f32(types[t], w.blocks.data, ROWS * COLS, w.wide));
        fs_packed *p = pack(&w.blocks, 1);
        fs_exec c = context(FS_DTYPE_F32, 2, NULL);
        const float *fast = linear(&c, x, M, &p->tensor, NULL), *exact = linear(&c, x, M, &w.blocks, NULL);
        double error = 0, size = 0;
        for (int64_t i = 0; i < M; i++)
            for (int64_t k = 0; k < ROWS; k++) {
                double bound = 0;
                for (int64_t g = 0; g < COLS; g += 32) {
                    double most = 0, weights = 0;
                    for (int64_t j = g; j < g + 32; j++) {
                        most = fmax(most, fabs((double)x[i * COLS + j]));
                        weights += fabs((double)w.wide[k * COLS + j]);
                    }
                    bound += most / 254 * weights;
                }
                const double d = (double)fast[i * ROWS + k] - (double)exact[i * ROWS + k];
                assert_true(fabs(d) <= bound * 1.0001 + 1e-3); /* and f32's roundings of sums of about 100 */
                error += d * d;
                size += (double)exact[i * ROWS + k] * (double)exact[i * ROWS + k];
            }
        assert_true(sqrt(error / size) < 0.01);
        assert_true(sqrt(error / size) > 0.001); /* it is the 8-bit path that was measured */
        fs_exec_end(&c);
        fs_packed_free(p);
        free_matrix(&w);
        free(original);
        free(x);
    }
}

static void embeddings_read_rows(void **state) {
    (void)state;
    static const int32_t ids[] = {0, 36, 5, 16, 15, 5};
    fs_rng r = fs_rng_seed(9);
    for (int t = 0; t < TYPES; t++) {
        matrix w = random_matrix(&r, types[t], 37, 768);
        fs_packed *p = pack(&w.blocks, 1);
        fs_exec c = context(FS_DTYPE_BF16, 1, NULL);
        const fs_tensor *a = fs_embedding(&c, ids, 6, &w.blocks), *b = fs_embedding(&c, ids, 6, &p->tensor);
        assert_ok(fs_exec_status(&c, err));
        for (int i = 0; i < 6 * 768; i++) {
            const float expected = fs_bf16_to_f32(fs_f32_to_bf16(w.wide[ids[i / 768] * 768 + i % 768]));
            assert_true(fs_f32(a)[i] == expected && fs_f32(b)[i] == expected);
        }
        fs_exec_end(&c);
        fs_packed_free(p);
        free_matrix(&w);
    }
}

static void misuse_is_said(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(10);
    matrix w = random_matrix(&r, FS_DTYPE_Q8_0, 4, 64);
    fs_packed *p = pack(&w.blocks, 1);
    fs_error err;
    float x[96] = {0};
    fs_exec c = context(FS_DTYPE_F32, 1, NULL);
    assert_null(fs_linear(&c, fs_wrap(&c, FS_DTYPE_F32, 2, (const int64_t[]){1, 96}, x), &p->tensor, NULL));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "Q8_0x16"));
    fs_exec_end(&c);
    fs_tensor torn = p->tensor; /* a row that is no whole number of blocks, made by hand */
    torn.shape[1] = 48;
    c = context(FS_DTYPE_F32, 1, NULL);
    assert_null(fs_linear(&c, fs_wrap(&c, FS_DTYPE_F32, 2, (const int64_t[]){2, 48}, x), &torn, NULL));
    assert_int_equal(fs_exec_status(&c, &err), FS_E_MISMATCH);
    fs_exec_end(&c);
    c = context(FS_DTYPE_F32, 2, NULL); /* no rows at all */
    const fs_tensor *y = fs_linear(&c, fs_wrap(&c, FS_DTYPE_F32, 2, (const int64_t[]){0, 64}, x), &p->tensor, NULL);
    assert_true(y && fs_tensor_count(y) == 0);
    fs_exec_end(&c);
    fs_packed_free(p);
    free_matrix(&w);
}

/* ---- the packing source ---- */

typedef struct shelf { fs_tensor *tensors; size_t n; } shelf;

static const fs_tensor *shelf_find(void *user, const char *name) {
    const shelf *s = user;
    for (size_t i = 0; i < s->n; i++)
        if (strcmp(s->tensors[i].name, name) == 0) return &s->tensors[i];
    return NULL;
}
static const char *shelf_origin(void *user, const char *name) {
    (void)user;
    (void)name;
    return "shelf.gguf";
}

static void source_packs_once(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(11);
    matrix a = random_matrix(&r, FS_DTYPE_Q4_0, 700, 640), b = random_matrix(&r, FS_DTYPE_Q6_K, 3, 256);
    size_t bytes;
    assert_true(fs_dtype_bytes(FS_DTYPE_Q4_0, 2, a.blocks.shape, &bytes));
    FILE *f = tmpfile(); /* pages of a file, which may be given back and come again */
    assert_non_null(f);
    assert_int_equal(fwrite(a.blocks.data, 1, bytes, f), bytes);
    assert_int_equal(fflush(f), 0);
    void *map = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fileno(f), 0);
    assert_true(map != MAP_FAILED);
    fs_tensor tensors[] = {a.blocks, b.blocks, {.dtype = FS_DTYPE_F32, .ndim = 1, .shape = {1, 1, 1, 1, 1, 1}, .data = a.wide, .name = "c"}};
    tensors[0].name = "a";
    tensors[0].data = map;
    tensors[1].name = "b";
    shelf s = {tensors, 3};
    const fs_tensor_source inner = {&s, shelf_find, shelf_origin};
    fs_packed_source *source;
    assert_ok(fs_packed_source_create(&inner, true, 2, &source, err));
    const fs_tensor_source *t = fs_packed_source_tensors(source);
    const fs_tensor *packed = t->find(t->user, "a");
    assert_true(packed && packed->dtype == FS_DTYPE_Q4_0X16);
    assert_string_equal(packed->name, "a");
    assert_ptr_equal(t->find(t->user, "a"), packed);
    assert_ptr_equal(t->find(t->user, "b"), &tensors[1]);
    assert_ptr_equal(t->find(t->user, "c"), &tensors[2]);
    assert_null(t->find(t->user, "d"));
    assert_string_equal(t->origin(t->user, "a"), "shelf.gguf");
    fs_packed_counts n = fs_packed_source_counts(source);
    assert_true(n.packed == 0 && n.bytes == 0 && !packed->data); /* nothing is read before its first use */
    fs_exec x = {0};
    assert_ok(fs_exec_init(&x, FS_DTYPE_F32, 2, NULL, err));
    assert_non_null(fs_embedding(&x, (const int32_t[]){1}, 1, packed));
    fs_exec_end(&x);
    n = fs_packed_source_counts(source);
    assert_true(n.packed == 1 && n.failed == 0 && n.bytes > 0 && packed->data && !packed->lazy);
    float row[640];
    for (int64_t i = 0; i < 700; i += 99) {
        fs_packed_row(packed, i, row);
        assert_memory_equal(row, a.wide + i * 640, sizeof row);
    }
    assert_memory_equal(map, a.blocks.data, bytes);
    fs_packed_source_free(source);
    munmap(map, bytes);
    fclose(f);
    free_matrix(&a);
    free_matrix(&b);
}

/* A type without a packed form becomes Q8_0 when asked to: the same numbers to 8 bits. */
static void source_widens(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(12);
    matrix b = random_matrix(&r, FS_DTYPE_Q5_0, 50, 512);
    b.blocks.name = "b";
    shelf s = {&b.blocks, 1};
    const fs_tensor_source inner = {&s, shelf_find, shelf_origin};
    fs_packed_source *source;
    fs_dtype packed;
    if (fs_packed_type(FS_DTYPE_Q5_0, &packed)) { /* nothing to widen */
        free_matrix(&b);
        return;
    }
    assert_ok(fs_packed_source_create(&inner, false, 2, &source, err));
    fs_packed_source_widen(source);
    const fs_tensor *t = fs_packed_source_tensors(source)->find(fs_packed_source_tensors(source)->user, "b");
    assert_true(t && t->dtype == FS_DTYPE_Q8_0X16);
    fs_tensor_prepare(t);
    assert_non_null(t->data);
    float row[512];
    for (int64_t i = 0; i < 50; i++) {
        fs_packed_row(t, i, row);
        for (int k = 0; k < 512; k++) {
            float most = 0;
            for (int j = k / 32 * 32; j < k / 32 * 32 + 32; j++) most = fmaxf(most, fabsf(b.wide[i * 512 + j]));
            /* half a step of 127 to the largest of 32, and what the f16 scale rounds */
            assert_true(fabsf(row[k] - b.wide[i * 512 + k]) <= most * (0.5f / 127 + 0.001f) + 4e-6f);
        }
    }
    fs_packed_source_free(source);
    free_matrix(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(packing_loses_nothing), cmocka_unit_test(sizes), cmocka_unit_test(plain_kernels_follow_the_definition),
        cmocka_unit_test(instruction_sets_agree), cmocka_unit_test(extremes_do_not_saturate), cmocka_unit_test(bad_values_show),
        cmocka_unit_test(rows_and_threads_do_not_matter), cmocka_unit_test(blocks_are_multiplied_exactly),
        cmocka_unit_test(activations_in_8_bits_cost_little), cmocka_unit_test(embeddings_read_rows), cmocka_unit_test(misuse_is_said),
        cmocka_unit_test(source_packs_once), cmocka_unit_test(source_widens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
