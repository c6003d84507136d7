/* The bound that docs/bundle.md states for a product with packed weights, on every table of kernels this processor runs, forced one by one:
 *
 *     |y - x w|  <=  sum over groups of 32 of  max |x of the group| / 254 * sum |w of the group|      (8 bits of the activations: half a step)
 *                 +  f32's roundings: (groups + 4) 2^-24 of the sum of |terms|, 30 times that for Q4_K, whose dot and min are apart
 *
 * for random odd shapes and for activations that are normal, have outlier channels, heavy tails, a single large value in a group, or all sizes
 * from 1e-20 to 1e20. And what it comes to on average: rounding to steps of max/127 has a deviation of a step over the root of 12, so the
 * error's root mean square is that of sum over groups of (max / 127)^2 / 12 * sum w^2. */
#include <math.h>

#include "backend/cpu/q_kernels.h"
#include "format_support.h"
#include "tensor/block.h"
#include "tensor/packed.h"

static const char *const names[] = {"ref", "avx2", "avxvnni", "vnni", "neon", "dotprod", "i8mm"};
static const fs_dtype types[] = {FS_DTYPE_Q8_0, FS_DTYPE_Q4_0, FS_DTYPE_Q4_K};
enum { NAMES = 7, TYPES = 3, KINDS = 5, TRIES = 4 };

static int64_t pick(fs_rng *r, int64_t lo, int64_t hi) { return lo + (int64_t)(fs_rng_next(r) % (uint64_t)(hi - lo + 1)); }

static double normal(fs_rng *r) {
    double s = -6;
    for (int i = 0; i < 12; i++) s += fs_rng_uniform(r);
    return s;
}

/* Activations of one kind, [m, cols]. */
static void draw(fs_rng *r, int kind, float *x, int64_t m, int64_t cols) {
    for (int64_t i = 0; i < m * cols; i++) {
        double v = normal(r);
        const int64_t channel = i % cols;
        if (kind == 1 && channel % 64 == 13) v *= 100;                               /* outlier channels */
        if (kind == 2) v /= 0.02 + fs_rng_uniform(r);                                /* heavy tails */
        if (kind == 3) v = channel % 32 == 5 ? 1000 * v : v;                         /* one value that drowns its group */
        if (kind == 4) v *= pow(10, (double)(int64_t)(fs_rng_next(r) % 41) - 20);    /* all sizes */
        x[i] = (float)v;
    }
}

typedef struct matrix { fs_tensor blocks; float *wide; fs_packed *packed; } matrix;

static matrix random_matrix(fs_rng *r, fs_dtype type) {
    const int64_t cols = fs_dtype_block(type) * (type == FS_DTYPE_Q4_K ? pick(r, 1, 4) : pick(r, 1, 21)), rows = pick(r, 1, 50), n = rows * cols;
    size_t bytes;
    matrix m = {.blocks = {.dtype = type, .ndim = 2, .shape = {rows, cols, 1, 1, 1, 1}, .name = "m"}};
    assert_true(fs_dtype_bytes(type, 2, m.blocks.shape, &bytes));
    m.blocks.data = fs_alloc(bytes, 1);
    m.wide = fs_alloc((size_t)n, sizeof(float));
    assert_true(m.blocks.data && m.wide);
    for (int64_t i = 0; i < n; i++) m.wide[i] = (float)(normal(r) / (0.2 + fs_rng_uniform(r)));
    assert_true(fs_row_from_f32(type, m.wide, n, m.blocks.data) && fs_row_to_f32(type, m.blocks.data, n, m.wide));
    assert_ok(fs_pack_weight(&m.blocks, 1, &m.packed, err));
    return m;
}

static void free_matrix(matrix *m) {
    free(m->blocks.data);
    free(m->wide);
    fs_packed_free(m->packed);
}

typedef struct expected { double y, bound, variance; } expected;

static expected product(fs_dtype type, const float *x, const float *w, int64_t cols) {
    expected e = {0};
    double size = 0;
    for (int64_t g = 0; g < cols; g += 32) {
        double most = 0, sum = 0, squares = 0;
        for (int64_t i = g; i < g + 32; i++) {
            const double v = (double)w[i];
            most = fmax(most, fabs((double)x[i]));
            sum += fabs(v);
            squares += v * v;
            e.y += (double)x[i] * v;
        }
        if (most < (double)FS_Q_TINY) most = 0;
        e.bound += most / 254 * sum;
        e.variance += most / 127 * (most / 127) / 12 * squares;
        size += most * sum; /* no sum of the kernel's passes it */
    }
    e.bound += size * (type == FS_DTYPE_Q4_K ? 30 : 1) * (double)(cols / 32 + 4) * 0x1p-24 + 32 * (double)cols * (double)FS_Q_TINY;
    return e;
}

static void every_table_keeps_the_bound(void **state) {
    (void)state;
    fs_arena *arena = fs_arena_create(1 << 16);
    assert_non_null(arena);
    for (int n = 0; n < NAMES; n++) {
        const fs_quant *q = fs_quant_by_name(names[n]);
        if (!q) continue;
        double worst = 0, error = 0, variance = 0;
        fs_rng r = fs_rng_seed(21);
        for (int i = 0; i < TRIES * TYPES * KINDS; i++) {
            const fs_dtype type = types[i % TYPES];
            const int kind = i / TYPES % KINDS;
            matrix w = random_matrix(&r, type);
            const int64_t rows = w.blocks.shape[0], cols = w.blocks.shape[1], m = pick(&r, 1, 29);
            float *x = fs_alloc((size_t)(m * cols), sizeof *x), *y = fs_alloc((size_t)(m * rows), sizeof *y);
            assert_true(x && y);
            draw(&r, kind, x, m, cols);
            const fs_quant_product job = {.x = x, .m = m, .w = &w.packed->tensor, .y = y};
            assert_true(fs_quant_run(q, fs_backend_by_name("ref"), &job, 1, arena));
            for (int64_t t = 0; t < m; t++)
                for (int64_t k = 0; k < rows; k++) {
                    const expected e = product(type, x + t * cols, w.wide + k * cols, cols);
                    const double d = fabs((double)y[t * rows + k] - e.y);
                    if (!(d <= e.bound)) fail_msg("%s, %s: |error| %g is above %g", names[n], fs_dtype_name(type), d, e.bound);
                    worst = fmax(worst, d / e.bound);
                    if (kind == 0) error += d * d, variance += e.variance;
                }
            free(x);
            free(y);
            free_matrix(&w);
        }
        print_message("%s: at most %.2f of the bound; on normal activations %.3f of the expected root mean square\n", names[n], worst, sqrt(error / variance));
        assert_true(worst > 0.3); /* a bound that is far from what happens says little: short rows come near it */
        assert_true(sqrt(error / variance) > 0.9 && sqrt(error / variance) < 1.1);
    }
    fs_arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_table_keeps_the_bound)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
