/* Many rows of 4-bit weights by longer groups (q_kernels.h): the expanded weights are the packed ones to about half a step; the plain C kernels give what
 * the definition says, against f64, every other table the same bits, whatever the shape, the rows beside and the threads; bad values show; nothing
 * overflows; and the product keeps the bound that docs/bundle.md states. Fewer rows go the other way. Random shapes, fixed seeds. */
#include <math.h>

#include "backend/cpu/q_kernels.h"
#include "format_support.h"
#include "tensor/block.h"
#include "tensor/packed.h"

static const char *const names[] = {"ref", "avx2", "avxvnni", "vnni", "neon", "dotprod", "i8mm"};
static const fs_dtype types[] = {FS_DTYPE_Q4_0, FS_DTYPE_Q4_K};
enum { NAMES = 7, TYPES = 2, ROWS = FS_PACKED_ROWS, LONG = FS_Q_LONG, MANY = FS_Q_MANY_ROWS };

static int64_t pick(fs_rng *r, int64_t lo, int64_t hi) { return lo + (int64_t)(fs_rng_next(r) % (uint64_t)(hi - lo + 1)); }

static double normal(fs_rng *r) {
    double s = -6;
    for (int i = 0; i < 12; i++) s += fs_rng_uniform(r);
    return s;
}

typedef struct matrix { fs_tensor blocks; float *wide; fs_packed *packed; } matrix;

/* Trained weights' like, or (any) any codes under random scales of either sign, some of them 0. */
static matrix random_matrix(fs_rng *r, fs_dtype type, int64_t rows, int64_t cols, bool any) {
    const int64_t n = rows * cols;
    size_t bytes;
    matrix m = {.blocks = {.dtype = type, .ndim = 2, .shape = {rows, cols, 1, 1, 1, 1}, .name = "m"}};
    assert_true(fs_dtype_bytes(type, 2, m.blocks.shape, &bytes));
    uint8_t *data = m.blocks.data = fs_alloc(bytes, 1);
    m.wide = fs_alloc((size_t)n, sizeof(float));
    assert_true(data && m.wide);
    if (any) {
        const size_t block = bytes / (size_t)(n / fs_dtype_block(type));
        for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)fs_rng_next(r);
        for (size_t i = 0; i < bytes; i += block)
            for (size_t k = 0; k < (type == FS_DTYPE_Q4_K ? 2 : 1); k++) {
                const uint16_t h = fs_rng_next(r) % 9 ? fs_f32_to_f16((float)(fs_rng_uniform(r) - 0.5) / 64) : 0;
                memcpy(data + i + 2 * k, &h, 2); /* little-endian like the block, or the test would not run */
            }
    } else {
        for (int64_t i = 0; i < n; i++) m.wide[i] = (float)(normal(r) / (0.2 + fs_rng_uniform(r)));
        assert_true(fs_row_from_f32(type, m.wide, n, data));
    }
    assert_true(fs_row_to_f32(type, data, n, m.wide));
    assert_ok(fs_pack_weight(&m.blocks, 1, &m.packed, err));
    if (!m.packed) abort(); /* not reached; the analyzer does not know cmocka's assertions */
    return m;
}

static matrix odd_matrix(fs_rng *r, fs_dtype type, bool any) {
    const int64_t block = type == FS_DTYPE_Q4_K ? 256 : LONG;
    return random_matrix(r, type, pick(r, 1, 70), block * pick(r, 1, type == FS_DTYPE_Q4_K ? 6 : 12), any); /* more than one cut of k */
}

static void free_matrix(matrix *m) {
    free(m->blocks.data);
    free(m->wide);
    fs_packed_free(m->packed);
}

/* Activations of one kind, [m, cols]. */
static float *draw(fs_rng *r, int kind, int64_t m, int64_t cols) {
    float *x = fs_alloc((size_t)(m * cols), sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < m * cols; i++) {
        double v = normal(r);
        if (kind == 1 && i % cols % 64 == 13) v *= 50;                            /* outlier channels */
        if (kind == 2) v = (double)pick(r, -254, 254) / 2;                        /* halves to round */
        if (kind == 3) v *= pow(10, (double)(int64_t)(fs_rng_next(r) % 21) - 10); /* all sizes */
        if (kind == 4) v = i / LONG % 3 ? v : 0;                                  /* groups of zeros */
        x[i] = (float)v;
    }
    return x;
}
enum { KINDS = 5 };

static float *multiply(const fs_quant *q, const fs_tensor *w, const float *x, int64_t m, int threads) {
    fs_arena *arena = fs_arena_create(1 << 16);
    float *y = fs_alloc((size_t)(m * w->shape[0]), sizeof *y);
    assert_true(arena && y);
    const fs_quant_product job = {.x = x, .m = m, .w = w, .y = y};
    assert_true(fs_quant_run(q, fs_backend_by_name("ref"), &job, threads, arena));
    fs_arena_free(arena);
    return y;
}

/* The expanded matrix by the plain kernels: D [rows][cols / LONG] and D (U - 128) [rows][cols]. */
typedef struct expanded { float *scale, *value; } expanded;
static expanded expand(const fs_tensor *w) {
    const int64_t rows = w->shape[0], cols = w->shape[1], longs = cols / LONG, tiles = (rows + ROWS - 1) / ROWS;
    size_t tile_bytes, bytes;
    assert_true(fs_packed_bytes(w->dtype, rows, cols, &tile_bytes, &bytes));
    uint8_t *out = fs_alloc((size_t)longs, FS_Q_STRIP_CHUNK);
    expanded e = {fs_alloc((size_t)(rows * longs), sizeof(float)), fs_alloc((size_t)(rows * cols), sizeof(float))};
    assert_true(out && e.scale && e.value);
    for (int64_t t = 0; t < tiles; t++) {
        fs_quant_by_name("ref")->expand(w->dtype, (const uint8_t *)w->data + (size_t)t * tile_bytes, longs, out);
        for (int64_t r = 0; r < ROWS && t * ROWS + r < rows; r++)
            for (int64_t k = 0; k < cols; k++) {
                const uint8_t *chunk = out + (size_t)(k / LONG) * FS_Q_STRIP_CHUNK;
                float *scale = &e.scale[(t * ROWS + r) * longs + k / LONG];
                memcpy(scale, chunk + 4 * r, 4);
                e.value[(t * ROWS + r) * cols + k] = *scale * (float)(chunk[64 + 64 * (k % LONG / 4) + 4 * r + k % 4] - 128);
            }
    }
    free(out);
    return e;
}

/* Half a step for the code, 15 / 512 for the ratio of the scales, 1 / 512 for that of the mins, and f32's roundings. */
#define STEPS 0.54

static void expanded_weights_are_the_packed_ones(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(31);
    for (int i = 0; i < 40; i++) {
        matrix m = odd_matrix(&r, types[i % TYPES], i / TYPES % 2);
        const int64_t rows = m.blocks.shape[0], cols = m.blocks.shape[1];
        const expanded e = expand(&m.packed->tensor);
        double worst = 0;
        for (int64_t k = 0; k < rows * cols; k++) {
            const double scale = (double)e.scale[k / cols * (cols / LONG) + k % cols / LONG], d = fabs((double)e.value[k] - (double)m.wide[k]);
            assert_true(d <= STEPS * scale);
            if (scale > 0) worst = fmax(worst, d / scale);
        }
        for (int64_t k = 0; k < rows * (cols / LONG) && !(i / TYPES % 2); k++) { /* the scale is no larger than the values ask for: Q4_0 uses -8, Q4_K nearly all */
            float most = 0;
            for (int64_t j = 0; j < LONG; j++) most = fmaxf(most, fabsf(m.wide[k * LONG + j]));
            assert_true(most >= e.scale[k] * (types[i % TYPES] == FS_DTYPE_Q4_0 ? 126.9f : 90.0f));
        }
        assert_true(worst > 0.4);
        free(e.scale);
        free(e.value);
        free_matrix(&m);
    }
}

/* Against f64: s and q of each long group, then the product with the expanded row; at most groups + 3 roundings of 2^-24 on sums no larger than the terms. */
static void plain_kernels_follow_the_definition(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(32);
    for (int i = 0; i < 12; i++) {
        matrix w = odd_matrix(&r, types[i % TYPES], i % 4 < 2);
        const int64_t rows = w.blocks.shape[0], cols = w.blocks.shape[1], m = MANY + i;
        const expanded e = expand(&w.packed->tensor);
        float *x = draw(&r, i % KINDS, m, cols), *y = multiply(fs_quant_by_name("ref"), &w.packed->tensor, x, m, 1);
        for (int64_t t = 0; t < m; t++)
            for (int64_t k = 0; k < rows; k++) {
                double sum = 0, size = 0;
                for (int64_t g = 0; g < cols; g += LONG) {
                    float most = 0;
                    for (int j = 0; j < LONG; j++) most = fmaxf(most, fabsf(x[t * cols + g + j]));
                    const float s = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0.0f;
                    for (int j = 0; j < LONG; j++) {
                        const double term = (double)s * (double)rintf(x[t * cols + g + j] * inverse) * (double)e.value[k * cols + g + j];
                        sum += term;
                        size += fabs(term);
                    }
                }
                assert_true(fabs((double)y[t * rows + k] - sum) <= size * (double)(cols / LONG + 4) * 0x1p-24 + 1e-30);
            }
        free(x);
        free(y);
        free(e.scale);
        free(e.value);
        free_matrix(&w);
    }
}

static void instruction_sets_agree(void **state) {
    (void)state;
    fs_rng r = fs_rng_seed(33);
    for (int n = 1; n < NAMES; n++) {
        const fs_quant *q = fs_quant_by_name(names[n]);
        if (!q || !q->expand) {
            print_message("%s: %s\n", names[n], q ? "has no longer groups" : "not on this processor");
            continue;
        }
        for (int i = 0; i < 60; i++) {
            matrix w = odd_matrix(&r, types[i % TYPES], i / TYPES % 2);
            const int64_t rows = w.blocks.shape[0], cols = w.blocks.shape[1], m = MANY + i % 13; /* every number of rows a tile may have */
            float *x = draw(&r, i % KINDS, m, cols);
            float *y = multiply(q, &w.packed->tensor, x, m, 1 + i % 3), *expected = multiply(fs_quant_by_name("ref"), &w.packed->tensor, x, m, 1);
            assert_memory_equal(y, expected, (size_t)(m * rows) * sizeof *y);
            free(x);
            free(y);
            free(expected);
            free_matrix(&w);
        }
    }
}

/* A row has the same bits with any rows beside it, as long as they are many, and with any number of threads; where the passes and tasks are cut does not
 * matter. Fewer rows, and k that is no whole number of long groups, go by groups of 32. */
static void rows_and_threads_do_not_matter(void **state) {
    (void)state;
    enum { COLS = 2304, OUT = 403, M = 800 };
    static const int64_t counts[] = {MANY, MANY + 1, 100, 361, M};
    fs_rng r = fs_rng_seed(34);
    for (int n = 0; n < NAMES; n++) {
        const fs_quant *q = fs_quant_by_name(names[n]);
        if (!q || !q->expand || (n == 0 && fs_quant_by_name("vnni"))) continue; /* plain C is slow, and its bits are the others' */
        for (int t = 0; t < TYPES; t++) {
            matrix w = random_matrix(&r, types[t], OUT, COLS, false);
            float *x = draw(&r, 1, M, COLS), *all = multiply(q, &w.packed->tensor, x, M, 1);
            for (int i = 0; i < 5; i++)
                for (int threads = 1; threads < 5; threads++) {
                    const int64_t first = M - counts[i];
                    float *some = multiply(q, &w.packed->tensor, x + first * COLS, counts[i], threads);
                    assert_memory_equal(some, all + first * OUT, (size_t)(counts[i] * OUT) * sizeof *some);
                    free(some);
                }
            fs_quant plain = *q;
            plain.expand = NULL;
            float *few = multiply(q, &w.packed->tensor, x, MANY - 1, 2), *by_32 = multiply(&plain, &w.packed->tensor, x, MANY, 2);
            assert_memory_equal(few, by_32, (size_t)((MANY - 1) * OUT) * sizeof *few);
            assert_memory_not_equal(few, all, (size_t)((MANY - 1) * OUT) * sizeof *few);
            free(few);
            free(by_32);
            free(x);
            free(all);
            free_matrix(&w);
        }
        matrix w = random_matrix(&r, FS_DTYPE_Q4_0, 33, 5 * 32, false);
        float *x = draw(&r, 0, MANY, 5 * 32), *y = multiply(q, &w.packed->tensor, x, MANY, 1), *row = multiply(q, &w.packed->tensor, x, 1, 1);
        assert_memory_equal(y, row, 33 * sizeof *y);
        free(x);
        free(y);
        free(row);
        free_matrix(&w);
    }
}

static void bad_values_show(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    enum { COLS = 1024, OUT = 35 };
    fs_rng r = fs_rng_seed(35);
    for (int n = 0; n < NAMES; n++)
        for (int t = 0; t < TYPES; t++) {
            const fs_quant *q = fs_quant_by_name(names[n]);
            if (!q || !q->expand) continue;
            matrix w = random_matrix(&r, types[t], OUT, COLS, false);
            float *x = draw(&r, 0, MANY, COLS);
            x[COLS + 77] = bad[t]; /* row 1 only */
            x[5 * COLS + 900] = bad[2];
            float *y = multiply(q, &w.packed->tensor, x, MANY, 1);
            for (int64_t i = 0; i < MANY * OUT; i++) assert_true(isnan(y[i]) == (i / OUT == 1 || i / OUT == 5));
            free(y);
            for (int i = 0; i < MANY * COLS; i++) x[i] = i % 2 ? 1e-38f : -9e-31f; /* nothing that could be divided by */
            y = multiply(q, &w.packed->tensor, x, MANY, 1);
            for (int i = 0; i < MANY * OUT; i++) assert_true(y[i] == 0.0f);
            free(y);
            free(x);
            x = draw(&r, 0, MANY, COLS);
            const uint16_t scales[] = {0x7C00, 0x7E00}; /* infinity, NaN: in weight row 1 */
            size_t row_bytes;
            assert_true(fs_dtype_row_bytes(types[t], COLS, &row_bytes));
            memcpy((uint8_t *)w.blocks.data + row_bytes, &scales[t], 2);
            memset((uint8_t *)w.blocks.data + 3 * row_bytes, 0, row_bytes); /* and row 3 is 0 */
            fs_packed *p = NULL;
            assert_ok(fs_pack_weight(&w.blocks, 1, &p, err));
            assert_non_null(p);
            y = multiply(q, &p->tensor, x, MANY, 1);
            for (int i = 0; i < MANY * OUT; i++) assert_true(isnan(y[i]) == (i % OUT == 1) && (i % OUT != 3 || y[i] == 0.0f));
            fs_packed_free(p);
            free(x);
            free(y);
            free_matrix(&w);
        }
}

/* The largest codes against the largest activations, in whole numbers, so exact: Q4_0 of scale 1 whose values are all -8 have D = 8 / 127. */
static void extremes_do_not_overflow(void **state) {
    (void)state;
    enum { COLS = 1024, OUT = 17, BLOCK = 18 };
    fs_rng r = fs_rng_seed(36);
    matrix w = random_matrix(&r, FS_DTYPE_Q4_0, OUT, COLS, true);
    uint8_t *data = w.blocks.data;
    for (int i = 0; i < OUT * COLS / 32 * BLOCK; i++) data[i] = i % BLOCK == 0 ? 0 : i % BLOCK == 1 ? 0x3C : i / (COLS / 32 * BLOCK) % 2 ? 0 : 0xFF; /* -8, 7 */
    fs_packed *p = NULL;
    assert_ok(fs_pack_weight(&w.blocks, 1, &p, err));
    assert_non_null(p);
    for (int n = 0; n < NAMES; n++)
        for (int sign = -1; sign <= 1; sign += 2) {
            const fs_quant *q = fs_quant_by_name(names[n]);
            if (!q || !q->expand) continue;
            float *x = draw(&r, 0, MANY, COLS);
            for (int i = 0; i < MANY * COLS; i++) x[i] = (float)(127 * sign);
            float *y = multiply(q, &p->tensor, x, MANY, 1);
            for (int i = 0; i < MANY * OUT; i++) {
                const double exact = 127.0 * sign * COLS * (i % OUT % 2 ? -8 : 7);
                assert_true(fabs((double)y[i] - exact) <= 0.005 * fabs(exact)); /* 7 is 111.1 steps of 8 / 127 */
            }
            free(x);
            free(y);
        }
    fs_packed_free(p);
    free_matrix(&w);
}

/* |y - x w| <= sum over long groups of  max|x| / 254 * sum |w'| + 0.54 D sum |x|  and f32's roundings; w': expanded. On average each rounding of a step has a
 * deviation of the step over the root of 12. */
static void every_table_keeps_the_bound(void **state) {
    (void)state;
    for (int n = 0; n < NAMES; n++) {
        const fs_quant *q = fs_quant_by_name(names[n]);
        if (!q || !q->expand) continue;
        fs_rng r = fs_rng_seed(37);
        double worst = 0, error = 0, variance = 0;
        for (int i = 0; i < 4 * KINDS; i++) {
            matrix w = odd_matrix(&r, types[i % TYPES], false);
            const int64_t rows = w.blocks.shape[0], cols = w.blocks.shape[1], m = MANY;
            const expanded e = expand(&w.packed->tensor);
            float *x = draw(&r, i / TYPES % KINDS, m, cols), *y = multiply(q, &w.packed->tensor, x, m, 1);
            for (int64_t t = 0; t < m; t++)
                for (int64_t k = 0; k < rows; k++) {
                    double exact = 0, bound = 0, size = 0, expected = 0;
                    for (int64_t g = 0; g < cols; g += LONG) {
                        double most = 0, weights = 0, activations = 0, w2 = 0, x2 = 0;
                        const double step = (double)e.scale[k * (cols / LONG) + g / LONG];
                        for (int64_t j = g; j < g + LONG; j++) {
                            const double a = (double)x[t * cols + j], b = (double)e.value[k * cols + j];
                            most = fmax(most, fabs(a));
                            weights += fabs(b), activations += fabs(a), w2 += b * b, x2 += a * a;
                            exact += a * (double)w.wide[k * cols + j];
                        }
                        bound += most / 254 * weights + STEPS * step * activations;
                        expected += most / 127 * (most / 127) / 12 * w2 + step * step / 12 * x2;
                        size += most * weights;
                    }
                    bound += size * (double)(cols / LONG + 4) * 0x1p-24 + 1e-30;
                    const double d = fabs((double)y[t * rows + k] - exact);
                    if (!(d <= bound)) fail_msg("%s, %s: |error| %g is above %g", names[n], fs_dtype_name(types[i % TYPES]), d, bound);
                    worst = fmax(worst, d / bound);
                    if (i / TYPES % KINDS < 2) error += d * d, variance += expected;
                }
            free(x);
            free(y);
            free(e.scale);
            free(e.value);
            free_matrix(&w);
        }
        print_message("%s: at most %.2f of the bound; %.3f of the expected root mean square\n", names[n], worst, sqrt(error / variance));
        assert_true(worst > 0.1); /* thousands of roundings seldom agree */
        assert_true(sqrt(error / variance) > 0.8 && sqrt(error / variance) < 1.15);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expanded_weights_are_the_packed_ones), cmocka_unit_test(plain_kernels_follow_the_definition), cmocka_unit_test(instruction_sets_agree),
        cmocka_unit_test(rows_and_threads_do_not_matter),       cmocka_unit_test(bad_values_show),                     cmocka_unit_test(extremes_do_not_overflow),
        cmocka_unit_test(every_table_keeps_the_bound),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
