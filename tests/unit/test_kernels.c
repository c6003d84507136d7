/* Every table of kernels this processor runs, against plain arithmetic in f64 (or exactly, where nothing is rounded), on random odd
 * sizes, single values and tails; and the promise that a result does not depend on where its value stands. Fixed seeds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backend/backend.h"
#include "backend/share.h"

enum { KC = FS_GEMM_KC };

static void for_tables(void (*fn)(const fs_backend *be)) {
    static const char *const names[] = {"ref", "avx2", "avx512", "neon"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const fs_backend *be = fs_backend_by_name(names[i]);
        if (be) fn(be);
    }
}

static float *random_floats(fs_rng *r, int64_t n) {
    float *x = fs_alloc((size_t)n, sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(2 * fs_rng_uniform(r) - 1);
    return x;
}

static int64_t pick(fs_rng *r, int64_t lo, int64_t hi) { return lo + (int64_t)(fs_rng_next(r) % (uint64_t)(hi - lo + 1)); }

static uint32_t bits(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
static float from_bits(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}
static bool same(float a, float b) { return bits(a) == bits(b) || (isnan(a) && isnan(b)); }

static uint16_t narrow(float f, fs_dtype type) { return type == FS_DTYPE_F16 ? fs_f32_to_f16(f) : fs_f32_to_bf16(f); }
static float widen(uint16_t h, fs_dtype type) { return type == FS_DTYPE_F16 ? fs_f16_to_f32(h) : fs_bf16_to_f32(h); }

static const fs_dtype types[] = {FS_DTYPE_F32, FS_DTYPE_F16, FS_DTYPE_BF16};

/* n random values in `type`, and the same as f32 in *wide. Both are the caller's. */
static void *random_values(fs_rng *r, fs_dtype type, int64_t n, float **wide) {
    *wide = random_floats(r, n);
    uint16_t *h = fs_alloc((size_t)n, sizeof(float));
    assert_non_null(h);
    if (type == FS_DTYPE_F32) memcpy(h, *wide, (size_t)n * sizeof(float));
    for (int64_t i = 0; i < n && type != FS_DTYPE_F32; i++) {
        h[i] = narrow((*wide)[i], type);
        (*wide)[i] = widen(h[i], type);
    }
    return h;
}

/* ---- the key/value cache ---- */

static void check_cache(const fs_backend *be) {
    fs_rng r = fs_rng_seed(31);
    for (int round = 0; round < 60; round++) {
        const int64_t n = pick(&r, 1, 150), d = round % 3 ? pick(&r, 1, 300) : 128;
        const fs_dtype type = types[round % 3];
        float *wide, *q = random_floats(&r, d), *p = random_floats(&r, n), *scores = random_floats(&r, n + 3), *y = random_floats(&r, d + 3), alone;
        const size_t size = type == FS_DTYPE_F32 ? 4 : 2;
        void *rows = random_values(&r, type, n * d, &wide);
        const float behind = scores[n], after = y[d];
        be->kv_dots(q, rows, type, n, d, scores);
        for (int64_t j = 0; j < n; j++) {
            double want = 0, size_of_terms = 0;
            for (int64_t e = 0; e < d; e++) want += (double)q[e] * (double)wide[j * d + e], size_of_terms += fabs((double)q[e] * (double)wide[j * d + e]);
            assert_true(fabs((double)scores[j] - want) <= 3e-7 * (double)(d / 8 + 8) * size_of_terms + 1e-12); /* half an ulp an addition */
            be->kv_dots(q, (const char *)rows + (size_t)(j * d) * size, type, 1, d, &alone);
            assert_true(same(alone, scores[j])); /* alone the same bits */
        }
        assert_true(same(scores[n], behind));
        for (int add = 0; add < 2; add++) {
            float *before = random_floats(&r, d);
            memcpy(before, y, (size_t)d * sizeof *y);
            be->kv_mix(p, rows, type, n, d, y, add);
            for (int64_t e = 0; e < d; e++) {
                double want = add ? (double)before[e] : 0, size_of_terms = fabs(want);
                for (int64_t j = 0; j < n; j++) want += (double)p[j] * (double)wide[j * d + e], size_of_terms += fabs((double)p[j] * (double)wide[j * d + e]);
                assert_true(fabs((double)y[e] - want) <= 6e-8 * (double)(n + 2) * size_of_terms + 1e-12);
            }
            free(before);
        }
        assert_true(same(y[d], after));
        free(wide), free(q), free(p), free(scores), free(y), free(rows);
    }
}
static void check_cache_q8(const fs_backend *be) {
    fs_rng r = fs_rng_seed(32);
    for (int round = 0; round < 40; round++) {
        const int64_t n = pick(&r, 1, 150), groups = pick(&r, 1, 6), d = 32 * groups;
        float *q = random_floats(&r, d), *p = random_floats(&r, n), *scores = random_floats(&r, n + 1), *y = random_floats(&r, d + 1), *scales = random_floats(&r, n * groups);
        int8_t *rows = fs_alloc((size_t)(n * d), 1);
        for (int64_t i = 0; i < n * d; i++) rows[i] = (int8_t)pick(&r, -127, 127);
        const float behind = scores[n], after = y[d];
        float alone;
        be->kv_dots_q8(q, rows, scales, n, d, scores);
        for (int64_t j = 0; j < n; j++) {
            double want = 0, terms = 0;
            for (int64_t e = 0; e < d; e++) {
                const double t = (double)q[e] * (double)scales[j * groups + e / 32] * rows[j * d + e];
                want += t, terms += fabs(t);
            }
            assert_true(fabs((double)scores[j] - want) <= 3e-7 * (double)(d / 8 + 8) * terms + 1e-12);
            be->kv_dots_q8(q, rows + j * d, scales + j * groups, 1, d, &alone);
            assert_true(same(alone, scores[j]));
        }
        assert_true(same(scores[n], behind));
        for (int add = 0; add < 2; add++) {
            float *before = random_floats(&r, d);
            memcpy(before, y, (size_t)d * sizeof *y);
            be->kv_mix_q8(p, rows, scales, n, d, y, add);
            for (int64_t e = 0; e < d; e++) {
                double want = add ? (double)before[e] : 0, terms = fabs(want);
                for (int64_t j = 0; j < n; j++) {
                    const double t = (double)p[j] * (double)scales[j * groups + e / 32] * rows[j * d + e];
                    want += t, terms += fabs(t);
                }
                assert_true(fabs((double)y[e] - want) <= 1.2e-7 * (double)(n + 2) * terms + 1e-12);
            }
            free(before);
        }
        assert_true(same(y[d], after));
        free(q), free(p), free(scores), free(y), free(scales), free(rows);
    }
}
static void test_cache(void **state) { (void)state, for_tables(check_cache), for_tables(check_cache_q8); }

/* ---- choice ---- */

static void test_choice(void **state) {
    (void)state;
    assert_non_null(fs_backend_by_name("ref"));
    assert_null(fs_backend_by_name("none"));
    assert_ptr_equal(fs_backend_by_name(fs_backend_best()->name), fs_backend_best());
}

/* ---- conversion and rounding: exact ---- */

static void check_conversions(const fs_backend *be) {
    enum { ALL = 65536 };
    uint16_t *h = fs_alloc(ALL, sizeof *h);
    float *y = fs_alloc(ALL, sizeof *y);
    assert_true(h && y);
    for (int i = 0; i < ALL; i++) h[i] = (uint16_t)i;
    for (int t = 1; t < 3; t++) {
        be->to_f32(h, types[t], y, ALL);
        for (int i = 0; i < ALL; i++) assert_true(same(y[i], widen((uint16_t)i, types[t])));
        for (int n = 0; n < 40; n++) { /* tails, nothing written behind the end */
            for (int i = 0; i < 48; i++) y[i] = -7.0f;
            be->to_f32(h + 15361, types[t], y, n);
            for (int i = 0; i < 48; i++) assert_true(same(y[i], i < n ? widen((uint16_t)(15361 + i), types[t]) : -7.0f));
        }
    }
    free(h);
    free(y);
}

static void check_rounding(const fs_backend *be) {
    enum { N = 4099 };
    static const uint32_t special[] = {0,           0x80000000u, 0x7F800000u, 0xFF800000u, 0x7FC00000u, 0x7F800001u,
                                       0xFFFFFFFFu, 0x7F7FFFFFu, 0x3F808000u, 0x3F818000u, 0x477FF000u, 0x477FEFFFu,
                                       0x33000000u, 0x33000001u, 0x387FE000u, 1u,          0x00808000u};
    fs_rng r = fs_rng_seed(1);
    float x[N], y[N];
    for (int i = 0; i < N; i++) x[i] = from_bits((uint32_t)fs_rng_next(&r));
    for (size_t i = 0; i < sizeof special / sizeof *special; i++) x[i * 7] = from_bits(special[i]);
    for (int i = N / 2; i < N; i++) x[i] = from_bits((bits(x[i]) & 0x807FFFFFu) | (uint32_t)(100 + i % 50) << 23); /* f16's range */
    for (int t = 0; t < 3; t++) {
        memcpy(y, x, sizeof y);
        be->round(y, N, types[t]);
        for (int i = 0; i < N; i++) assert_true(same(y[i], t ? widen(narrow(x[i], types[t]), types[t]) : x[i]));
        if (t) { /* stored in 16 bits: the same rounding */
            uint16_t h[N];
            be->from_f32(x, types[t], h, N);
            for (int i = 0; i < N; i++) assert_true(isnan(x[i]) ? isnan(widen(h[i], types[t])) : h[i] == narrow(x[i], types[t]));
            for (int n = 0; n < 40; n++) { /* tails, nothing written behind the end */
                for (int i = 0; i < 48; i++) h[i] = 0x1234;
                be->from_f32(x + 2100, types[t], h, n);
                for (int i = 0; i < 48; i++) assert_int_equal(h[i], i < n ? narrow(x[2100 + i], types[t]) : 0x1234);
            }
        }
        memcpy(y, x, sizeof y);
        for (int i = 0; i < 100; i++) be->round(y + i, 1, types[t]);
        for (int i = 0; i < 101; i++) assert_true(same(y[i], t && i < 100 ? widen(narrow(x[i], types[t]), types[t]) : x[i]));
    }
}

static void test_conversions(void **state) { (void)state, for_tables(check_conversions); }
static void test_rounding(void **state) { (void)state, for_tables(check_rounding); }

/* ---- elementwise ---- */

static double true_gelu(double x) { return 0.5 * x * erfc(-x / sqrt(2.0)); }
static double true_silu(double x) { return x / (1 + exp(-x)); }
static double true_sigmoid(double x) { return 1 / (1 + exp(-x)); }

/* Within `relative` of the truth, or of the smallest normal number. */
static void check_curve(const fs_backend *be, const char *name, void (*kernel)(const float *, float *, int64_t), double (*truth)(double),
                        float lo, float hi, double relative) {
    enum { N = 100003 };
    float *x = fs_alloc(N, sizeof *x), *y = fs_alloc(N, sizeof *y);
    assert_true(x && y);
    for (int i = 0; i < N; i++) x[i] = lo + (hi - lo) * (float)i / (float)(N - 1);
    kernel(x, y, N);
    for (int i = 0; i < N; i++) {
        const double want = truth((double)x[i]), off = fabs((double)y[i] - want);
        if (!(off <= relative * fmax(fabs(want), 1.2e-38)))
            fail_msg("%s %s(%.9g) = %.9g, true %.9g", be->name, name, (double)x[i], (double)y[i], want);
    }
    for (int i = 0; i < 60; i++) { /* the same bits wherever the value stands */
        float alone[61], one;
        kernel(x + i * 1000, &one, 1);
        kernel(x + i * 1000, alone, i + 1);
        assert_true(same(one, y[i * 1000]) && memcmp(alone, y + i * 1000, (size_t)(i + 1) * sizeof *y) == 0);
    }
    const float nan = NAN;
    float out = 0;
    kernel(&nan, &out, 1);
    assert_true(isnan(out));
    free(x);
    free(y);
}

static void check_curves(const fs_backend *be) {
    /* f32 has 6e-8 a rounding; a handful of them, and in gelu's tail the argument's rounding taken times x */
    check_curve(be, "gelu", be->gelu, true_gelu, -12.0f, 12.0f, 6e-7);
    check_curve(be, "silu", be->silu, true_silu, -80.0f, 100.0f, 4e-7);
    check_curve(be, "sigmoid", be->sigmoid, true_sigmoid, -80.0f, 100.0f, 4e-7);
}

/* exp within 2 ulp, to 0 and to infinity; read through exp_sum with max 0. */
static void check_exp(const fs_backend *be) {
    enum { N = 200001 };
    float *x = fs_alloc(N, sizeof *x), *y = fs_alloc(N, sizeof *y);
    assert_true(x && y);
    for (int i = 0; i < N; i++) x[i] = -110.0f + 200.0f * (float)i / (float)(N - 1);
    be->exp_sum(x, 0.0f, y, N);
    for (int i = 0; i < N; i++) {
        const double want = exp((double)x[i]);
        const float nearest = (float)want;
        if (isinf(nearest))
            assert_true(isinf(y[i]) || y[i] > 3.4e38f);
        else if (!(fabs((double)y[i] - want) <= 2 * ((double)nextafterf(nearest, INFINITY) - (double)nearest)))
            fail_msg("%s exp(%.9g) = %.9g, true %.9g", be->name, (double)x[i], (double)y[i], want);
    }
    const float special[3] = {-INFINITY, NAN, 0.0f};
    assert_true(isnan(be->exp_sum(special, 0.0f, y, 3)));
    assert_true(y[0] == 0.0f && isnan(y[1]) && y[2] == 1.0f);
    free(x);
    free(y);
}

static void check_arithmetic(const fs_backend *be) {
    fs_rng r = fs_rng_seed(2);
    for (int n = 0; n < 70; n++) {
        float *a = random_floats(&r, n), *b = random_floats(&r, n), *w = random_floats(&r, n), *y = random_floats(&r, n + 1);
        const float f = (float)fs_rng_uniform(&r), g = (float)fs_rng_uniform(&r), guard = y[n];
        be->add(a, b, y, n);
        for (int i = 0; i < n; i++) assert_true(y[i] == a[i] + b[i]);
        be->mul(a, b, y, n);
        for (int i = 0; i < n; i++) assert_true(y[i] == a[i] * b[i]);
        be->scale(a, f, y, n);
        for (int i = 0; i < n; i++) assert_true(y[i] == a[i] * f);
        for (int h = 1; h < 4 && n > 0; h++) {
            float *grid = random_floats(&r, h * n + 1);
            const float end = grid[h * n];
            be->outer_sum(b, fs_min_i64(h, n), a, n, grid);
            for (int i = 0; i < h && i < n; i++)
                for (int j = 0; j < n; j++) assert_true(grid[i * n + j] == b[i] + a[j]);
            assert_true(grid[h * n] == end);
            free(grid);
        }
        be->affine(a, f, g, y, n); /* fused or not: one rounding of values below 2 */
        for (int i = 0; i < n; i++) assert_true(fabs((double)y[i] - ((double)a[i] * (double)f + (double)g)) < 2.5e-7);
        be->normalize(a, g, f, w, b, y, n);
        for (int i = 0; i < n; i++)
            assert_true(fabs((double)y[i] - (((double)a[i] - (double)g) * (double)f * (double)w[i] + (double)b[i])) < 5e-7);
        assert_true(y[n] == guard);
        free(a), free(b), free(w), free(y);
    }
}

/* One pass gives the bits of the steps one after the other; in place or not, each row's own factor or one for all; NaN stays NaN. */
static void check_finish(const fs_backend *be) {
    enum { ROWS = 3, LD = 70 };
    fs_rng r = fs_rng_seed(13);
    for (int n = 0; n < 60; n++)
        for (int kind = 0; kind < 32; kind++) {
            const bool scaled = kind & 1, added = kind & 2, relu = kind & 4, own = kind & 8, in_place = kind & 16;
            float *x = random_floats(&r, ROWS * LD), *residual = random_floats(&r, ROWS * LD), *y = random_floats(&r, ROWS * LD);
            float want[ROWS * LD], factor[ROWS], shift[ROWS];
            if (n > 5) x[5] = NAN;
            for (int i = 0; i < ROWS; i++) factor[i] = (float)fs_rng_uniform(&r), shift[i] = (float)fs_rng_uniform(&r);
            memcpy(want, in_place ? x : y, sizeof want); /* what lies between the rows must stay */
            for (int i = 0; i < ROWS; i++) {
                float *row = want + i * LD;
                memcpy(row, x + i * LD, (size_t)n * sizeof *row);
                if (scaled) be->affine(row, factor[own ? i : 0], shift[own ? i : 0], row, n);
                if (added) be->add(residual + i * LD, row, row, n);
                for (int j = 0; relu && j < n; j++) row[j] = row[j] < 0.0f ? 0.0f : row[j];
            }
            be->finish(x, LD, ROWS, n, scaled ? factor : NULL, scaled ? shift : NULL, own, added ? residual : NULL, LD, relu, in_place ? x : y, LD);
            for (int i = 0; i < ROWS * LD; i++) {
                const float found = in_place ? x[i] : y[i];
                assert_true(want[i] != want[i] ? found != found : found == want[i]);
            }
            free(x), free(residual), free(y);
        }
}

/* Every table drops what Philox says by its definition, wherever a piece begins and ends. */
static void check_drop(const fs_backend *be) {
    fs_rng r = fs_rng_seed(8);
    const uint64_t key = 0xFEDCBA9876543210u;
    const uint32_t below = 1u << 30;
    for (int n = 0; n < 150; n++) {
        const int64_t at = (int64_t)FS_DROP_RUN * (n % 2 ? 3 : (1ll << 33) / FS_DROP_RUN * 3); /* counters beyond 32 bits, too */
        float *x = random_floats(&r, n), *y = random_floats(&r, n + 1), *sum = random_floats(&r, n), *before = random_floats(&r, n);
        const float guard = y[n];
        if (n) memcpy(before, sum, (size_t)n * sizeof *sum);
        be->drop(x, at, n, key, below, 1.5f, false, y);
        be->drop(x, at, n, key, below, 1.5f, true, sum);
        for (int i = 0; i < n; i++) {
            const uint64_t value = (uint64_t)at + (uint64_t)i, counter = value / 64 * 16 + value % 16;
            uint32_t out[4];
            fs_philox((const uint32_t[]){(uint32_t)counter, (uint32_t)(counter >> 32), 0, 0}, (const uint32_t[]){0x76543210u, 0xFEDCBA98u}, out);
            const float want = out[value / 16 % 4] < below ? 0.0f : x[i] * 1.5f;
            assert_true(y[i] == want && sum[i] == before[i] + want);
        }
        assert_true(y[n] == guard);
        free(x), free(y), free(sum), free(before);
    }
}

/* Every task is taken once, whether a thread comes first, last or not at all. */
static void test_shares(void **state) {
    (void)state;
    for (int threads = 1; threads < 40; threads += 3)
        for (int64_t tasks = 0; tasks < 50; tasks += 7) {
            fs_shares s;
            int taken[50] = {0};
            fs_shares_begin(&s, tasks, threads);
            int helped[2] = {0, 0}; /* two threads of them come, in turns, the first one for three tasks alone */
            for (int64_t t, i = 0, who; who = i < 3 ? 0 : i % 2, (t = fs_shares_next(&s, who ? threads - 1 : 0, &helped[who])) >= 0; i++) {
                assert_true(t < tasks);
                if (i == 0) assert_int_equal(t, 0);
                taken[t]++;
            }
            for (int64_t t = 0; t < tasks; t++) assert_int_equal(taken[t], 1);
        }
}

static void test_drop(void **state) { (void)state, for_tables(check_drop); }
static void test_finish(void **state) { (void)state, for_tables(check_finish); }
static void test_curves(void **state) { (void)state, for_tables(check_curves); }
static void test_exp(void **state) { (void)state, for_tables(check_exp); }
static void test_arithmetic(void **state) { (void)state, for_tables(check_arithmetic); }

/* ---- reductions ---- */

static void check_reductions(const fs_backend *be) {
    fs_rng r = fs_rng_seed(3);
    assert_true(be->max(NULL, 0) == -INFINITY && be->sum(NULL, 0) == 0.0);
    for (int n = 1; n < 300; n += 1 + n / 20) {
        float *x = random_floats(&r, n), *y = random_floats(&r, n + 1), max = -INFINITY, guard = y[n];
        double sum = 0, squares = 0, exps = 0;
        for (int i = 0; i < n; i++) {
            sum += (double)x[i];
            squares += ((double)x[i] - 0.25) * ((double)x[i] - 0.25);
            exps += exp((double)x[i] - 1.0);
            max = fmaxf(max, x[i]);
        }
        assert_true(fabs(be->sum(x, n) - sum) < 1e-12 * n);                          /* f64 */
        assert_true(fabs(be->sum_squares(x, 0.25f, n) - squares) < 1e-7 * squares + 1e-12); /* differences are f32 */
        assert_true(be->max(x, n) == max);
        assert_true(fabs(be->exp_sum(x, 1.0f, y, n) - exps) < 2e-7 * exps);
        assert_true(y[n] == guard);
        x[n / 2] = -INFINITY;
        const float others = be->max(x, n);
        x[n / 2] = NAN;
        assert_true(be->max(x, n) == others); /* passed over */
        assert_true(isnan(be->sum(x, n)) && isnan(be->exp_sum(x, 0.0f, y, n)));
        free(x), free(y);
    }
}

static void test_reductions(void **state) { (void)state, for_tables(check_reductions); }

/* ---- matrix pieces ---- */

static void check_tile(const fs_backend *be) {
    fs_rng r = fs_rng_seed(4);
    const int64_t tc = be->tile_cols;
    for (int64_t rows = 1; rows <= be->tile_rows; rows++)
        for (int round = 0; round < 4; round++) {
            const int64_t cols = round ? pick(&r, 1, tc) : tc, k = round == 1 ? KC : pick(&r, 1, KC), ldc = tc + 3;
            float *a = random_floats(&r, rows * KC), *b = random_floats(&r, k * tc), *c = random_floats(&r, rows * ldc);
            float *before = fs_alloc((size_t)(rows * ldc), sizeof *before);
            assert_non_null(before);
            memcpy(before, c, (size_t)(rows * ldc) * sizeof *c);
            be->gemm_tile(rows, cols, k, a, b, c, ldc, round % 2, round < 2 ? a : NULL);
            for (int64_t i = 0; i < rows; i++)
                for (int64_t j = 0; j < ldc; j++) {
                    double want = round % 2 ? (double)before[i * ldc + j] : 0.0, size = fabs(want);
                    for (int64_t p = 0; p < k && j < cols; p++) {
                        want += (double)a[i * KC + p] * (double)b[p * tc + j];
                        size += fabs((double)a[i * KC + p] * (double)b[p * tc + j]);
                    }
                    assert_true(j < cols ? fabs((double)c[i * ldc + j] - want) <= 1e-6 * size : c[i * ldc + j] == before[i * ldc + j]);
                }
            free(a), free(b), free(c), free(before);
        }
}

/* Operands that lie elsewhere give the bits of the packed ones. */
static void check_tiles_in_place(const fs_backend *be) {
    fs_rng r = fs_rng_seed(40);
    const int64_t tc = be->tile_cols, ldc = tc + 3, room = 4000;
    int64_t at[KC];
    for (int round = 0; round < 60; round++) {
        const int64_t rows = 1 + round % be->tile_rows, cols = round % 3 ? pick(&r, 1, tc) : tc, k = round == 1 ? KC : pick(&r, 1, KC);
        const bool add = round % 2;
        float *a = random_floats(&r, be->tile_rows * KC), *b = random_floats(&r, KC * tc), *from = random_floats(&r, room), *c = random_floats(&r, rows * ldc);
        float *want = fs_alloc((size_t)(rows * ldc), sizeof *want);
        assert_non_null(want);
        memcpy(want, c, (size_t)(rows * ldc) * sizeof *c);
        for (int64_t p = 0; p < k; p++) {
            at[p] = pick(&r, 0, room - tc);
            memcpy(b + p * tc, from + at[p], (size_t)tc * sizeof *b);
        }
        be->gemm_tile(rows, cols, k, a, b, want, ldc, add, NULL);
        be->gemm_tile_at(rows, cols, k, a, from, at, c, ldc, add);
        assert_memory_equal(c, want, (size_t)(rows * ldc) * sizeof *c);
        if (rows <= FS_WALK_ROWS) {
            const int64_t line = pick(&r, 1, 300), first = pick(&r, 1, line), gap = pick(&r, 0, 3), most = k + (k / line + 1) * gap;
            for (int64_t i = 0; i < rows; i++) {
                at[i] = pick(&r, 0, room - most);
                for (int64_t p = 0; p < k; p++) a[i * KC + p] = from[at[i] + p + (p < first ? 0 : 1 + (p - first) / line) * gap];
            }
            be->gemm_tile(rows, cols, k, a, b, want, ldc, add, NULL);
            be->gemm_tile_walk(rows, cols, k, first, line, gap, from, at, b, c, ldc, add);
            assert_memory_equal(c, want, (size_t)(rows * ldc) * sizeof *c);
        }
        free(a), free(b), free(c), free(from), free(want);
    }
}

/* The derivative of x times the normal cdf, in f64. */
static void check_gelu_back(const fs_backend *be) {
    fs_rng r = fs_rng_seed(41);
    for (int64_t n = 1; n < 200; n += 1 + n / 10) {
        float *x = random_floats(&r, n), *dy = random_floats(&r, n), *dx = random_floats(&r, n + 1), *before = fs_alloc((size_t)n + 1, sizeof *before);
        assert_non_null(before);
        memcpy(before, dx, (size_t)(n + 1) * sizeof *dx);
        for (int64_t i = 0; i < n; i++) x[i] *= 6;
        x[n / 2] = 0;
        be->gelu_back(x, dy, dx, n);
        for (int64_t i = 0; i < n; i++) {
            const double v = x[i], slope = 0.5 * erfc(-v * 0.70710678118654752) + v * exp(-0.5 * v * v) * 0.3989422804014327;
            const double want = (double)before[i] + (double)dy[i] * slope;
            assert_true(fabs((double)dx[i] - want) <= 1e-6 * (fabs((double)before[i]) + 1.2 * fabs((double)dy[i]))); /* the slope is at most 1.13 */
        }
        assert_true(dx[n] == before[n]);
        free(x), free(dy), free(dx), free(before);
    }
}

static void check_pack(const fs_backend *be) {
    fs_rng r = fs_rng_seed(5);
    const int64_t tc = be->tile_cols;
    for (int t = 0; t < 3; t++)
        for (int to = 0; to < 3; to++)
            for (int round = 0; round < 6; round++) {
                const int64_t n = round ? pick(&r, 1, tc) : tc, k = round ? pick(&r, 1, 70) : 64, ld = k + pick(&r, 0, 5);
                float *wide, *out = random_floats(&r, k * tc + 1);
                const float guard = out[k * tc];
                void *w = random_values(&r, types[t], n * ld, &wide);
                be->pack_rows(w, types[t], ld, n, k, types[to], out);
                for (int64_t p = 0; p < k; p++)
                    for (int64_t j = 0; j < tc; j++) {
                        float want = j < n ? wide[j * ld + p] : 0.0f;
                        if (to) want = widen(narrow(want, types[to]), types[to]);
                        assert_true(out[p * tc + j] == want);
                    }
                assert_true(out[k * tc] == guard);
                free(w), free(wide), free(out);
            }
}

static void check_dots(const fs_backend *be) {
    fs_rng r = fs_rng_seed(6);
    for (int t = 0; t < 3; t++)
        for (int round = 0; round < 12; round++) {
            const int64_t m = 1 + round % FS_DOT_MAX_ROWS, n = pick(&r, 1, 11), k = round < 2 ? 1 + round : pick(&r, 3, 700);
            const int64_t ldx = k + 2, ldw = k + 3, ldy = n + 1;
            float *wide, *x = random_floats(&r, m * ldx), *y = random_floats(&r, m * ldy);
            void *w = random_values(&r, types[t], n * ldw, &wide);
            be->dot_rows(x, ldx, m, w, types[t], ldw, n, k, y, ldy);
            for (int64_t i = 0; i < m; i++)
                for (int64_t j = 0; j < n; j++) {
                    double want = 0, size = 0;
                    for (int64_t p = 0; p < k; p++) {
                        const double term = (double)x[i * ldx + p] * (double)wide[j * ldw + p];
                        want += term;
                        size += fabs(term);
                    }
                    assert_true(fabs((double)y[i * ldy + j] - want) <= 1e-6 * size);
                    float alone; /* one row of each: the same bits */
                    be->dot_rows(x + i * ldx, ldx, 1, (char *)w + (size_t)(j * ldw) * fs_dtype_size(types[t]), types[t], ldw, 1, k, &alone,
                                 1);
                    assert_true(same(alone, y[i * ldy + j]));
                }
            free(w), free(wide), free(x), free(y);
        }
}

static void check_weighted(const fs_backend *be) {
    fs_rng r = fs_rng_seed(7);
    for (int round = 0; round < 20; round++) {
        const int64_t n = round < 2 ? round : pick(&r, 1, 600), d = pick(&r, 1, 150), ld = d + 5;
        float *p = random_floats(&r, n), *v = random_floats(&r, n * ld), *y = random_floats(&r, d + 1), guard = y[d];
        be->weighted_rows(p, v, ld, n, d, y);
        for (int64_t e = 0; e < d; e++) {
            double want = 0, size = 0;
            for (int64_t j = 0; j < n; j++) {
                want += (double)p[j] * (double)v[j * ld + e];
                size += fabs((double)p[j] * (double)v[j * ld + e]);
            }
            assert_true(fabs((double)y[e] - want) <= 2e-6 * size);
        }
        assert_true(y[d] == guard);
        free(p), free(v), free(y);
    }
}

static void test_tile(void **state) { (void)state, for_tables(check_tile); }
static void test_tiles_in_place(void **state) { (void)state, for_tables(check_tiles_in_place); }
static void test_gelu_back(void **state) { (void)state, for_tables(check_gelu_back); }
static void test_pack(void **state) { (void)state, for_tables(check_pack); }
static void test_dots(void **state) { (void)state, for_tables(check_dots); }
static void test_weighted(void **state) { (void)state, for_tables(check_weighted); }

/* ---- the blocked product: random shapes, any number of threads, rows alone or together ---- */

static fs_gemm product(const float *a, const void *w, fs_dtype type, const float *bias, float *c, int64_t m, int64_t n, int64_t k) {
    return (fs_gemm){.m = m, .n = n, .k = k, .a = a, .a_type = FS_DTYPE_F32, .a_round = FS_DTYPE_F32, .a_row = k, .a_col = 1,
                     .pack = fs_gemm_pack_nk, .b = w, .b_type = type, .b_round = FS_DTYPE_F32, .b_ld = k, .c = c, .ldc = n, .finish.bias = bias};
}

static void check_product(const fs_backend *be) {
    fs_rng r = fs_rng_seed(8);
    fs_arena *arena = fs_arena_create(0);
    assert_non_null(arena);
    for (int round = 0; round < 14; round++) {
        const fs_dtype type = types[round % 3];
        const bool few = round % 4 == 0;
        const int64_t m = few ? pick(&r, 1, FS_GEMM_FEW_ROWS) : pick(&r, 1, 150), n = pick(&r, 1, 500), k = pick(&r, 1, 800);
        float *wide, *a = random_floats(&r, m * k), *bias = random_floats(&r, n), *c = random_floats(&r, m * n),
                     *again = random_floats(&r, m * n);
        void *w = random_values(&r, type, n * k, &wide);
        fs_gemm g = product(a, w, type, bias, c, m, n, k);
        bool (*const run)(const fs_backend *, const fs_gemm *, int, fs_arena *) = few ? fs_gemm_few_rows : fs_gemm_run;
        assert_true(run(be, &g, 1, arena));
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j += 1 + (m > 20)) {
                double want = (double)bias[j], size = fabs(want);
                for (int64_t p = 0; p < k; p++) {
                    want += (double)a[i * k + p] * (double)wide[j * k + p];
                    size += fabs((double)a[i * k + p] * (double)wide[j * k + p]);
                }
                assert_true(fabs((double)c[i * n + j] - want) <= 1e-6 * size);
            }
        for (int threads = 1; threads <= 4; threads++) {
            memset(again, 0xFF, (size_t)(m * n) * sizeof *again);
            g.c = again;
            assert_true(run(be, &g, threads, arena));
            assert_memory_equal(c, again, (size_t)(m * n) * sizeof *c);
        }
        for (int i = 0; i < 3; i++) { /* a row alone */
            const int64_t row = pick(&r, 0, m - 1);
            fs_gemm one = product(a + row * k, w, type, bias, again, 1, n, k);
            assert_true(run(be, &one, 2, arena));
            assert_memory_equal(c + row * n, again, (size_t)n * sizeof *c);
        }
        free(a), free(bias), free(c), free(again), free(w), free(wide);
    }
    fs_arena_free(arena);
}

static void test_product(void **state) { (void)state, for_tables(check_product); }

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choice), cmocka_unit_test(test_cache),     cmocka_unit_test(test_conversions), cmocka_unit_test(test_rounding),
        cmocka_unit_test(test_curves),     cmocka_unit_test(test_exp),         cmocka_unit_test(test_arithmetic), cmocka_unit_test(test_shares),    cmocka_unit_test(test_drop),      cmocka_unit_test(test_finish),
        cmocka_unit_test(test_reductions), cmocka_unit_test(test_tile), cmocka_unit_test(test_tiles_in_place), cmocka_unit_test(test_gelu_back),        cmocka_unit_test(test_pack),
        cmocka_unit_test(test_dots),       cmocka_unit_test(test_weighted),    cmocka_unit_test(test_product),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
