/* The stem of models of our own against its definition, written out: residuals, four convolutions, norms over the channels, GELU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/parts.h"

enum { SIDE = 32, BASE = 3, MOST = 16 };

typedef struct store { fs_tensor tensors[MOST]; char names[MOST][64]; float values[MOST][8192]; int count; } store;

static const fs_tensor *find(void *user, const char *name) {
    store *s = user;
    for (int i = 0; i < s->count; i++)
        if (strcmp(s->names[i], name) == 0) return &s->tensors[i];
    return NULL;
}

static const char *origin(void *user, const char *name) { return (void)user, (void)name, "test"; }

static void add(store *s, fs_rng *r, double around, int ndim, const int64_t *shape, const char *name) {
    const int i = s->count++;
    assert_true(i < MOST);
    s->tensors[i] = (fs_tensor){.dtype = FS_DTYPE_F32, .ndim = ndim, .data = s->values[i]};
    memcpy(s->tensors[i].shape, shape, (size_t)ndim * sizeof *shape);
    assert_true(fs_tensor_count(&s->tensors[i]) <= 8192);
    snprintf(s->names[i], sizeof s->names[i], "%s", name);
    for (int64_t k = 0; k < fs_tensor_count(&s->tensors[i]); k++) s->values[i][k] = (float)(around + 0.6 * (fs_rng_uniform(r) - 0.5));
}
#define ADD(s, r, around, name, ...) add((s), (r), (around), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__}, (name))

static const int64_t widths[4] = {BASE, 2 * BASE, 3 * BASE, 6 * BASE};

/* second: a side of the second kernel */
static void fill(store *s, fs_rng *r, int64_t in, int64_t second) {
    char name[64];
    ADD(s, r, 0, "stem.0.conv.weight", widths[0], in, 5, 5);
    ADD(s, r, 0, "stem.0.conv.bias", widths[0]);
    for (int i = 1; i < 4; i++) {
        snprintf(name, sizeof name, "stem.%d.conv.weight", i);
        ADD(s, r, 0, name, widths[i], widths[i - 1], i == 1 ? second : 3, i == 1 ? second : 3);
        snprintf(name, sizeof name, "stem.%d.conv.bias", i);
        ADD(s, r, 0, name, widths[i]);
        snprintf(name, sizeof name, "stem.%d.norm.weight", i);
        ADD(s, r, 1, name, widths[i]);
        snprintf(name, sizeof name, "stem.%d.norm.bias", i);
        ADD(s, r, 0, name, widths[i]);
    }
}

static double at(const double *x, int64_t side, int64_t c, int64_t y, int64_t i) { /* the edge repeated */
    y = y < 0 ? 0 : y >= side ? side - 1 : y;
    i = i < 0 ? 0 : i >= side ? side - 1 : i;
    return x[(c * side + y) * side + i];
}

static double clip(double x) { return x < -3 ? -3 : x > 3 ? 3 : x; }

/* -> [18 x 4 x 4], or 2 x 2 */
static void by_hand(const store *s, const float *pixels, int64_t in, int64_t second, double *out) {
    static double a[64 * SIDE * SIDE], b[64 * SIDE * SIDE];
    int64_t side = SIDE, channels = in;
    for (int64_t i = 0; i < 3 * SIDE * SIDE; i++) a[i] = (double)pixels[i];
    for (int64_t c = 0; c < 3 && in == 9; c++)
        for (int64_t y = 0; y < SIDE; y++)
            for (int64_t x = 0; x < SIDE; x++) {
                const double v = at(a, SIDE, c, y, x), row = at(a, SIDE, c, y, x - 1) + at(a, SIDE, c, y, x + 1);
                a[((3 + 2 * c) * SIDE + y) * SIDE + x] = clip(1.5 * (4 * v - row - at(a, SIDE, c, y - 1, x) - at(a, SIDE, c, y + 1, x)));
                a[((4 + 2 * c) * SIDE + y) * SIDE + x] = clip(1.5 * (2 * v - row));
            }
    for (int n = 0; n < 4; n++) {
        const int64_t k = n == 0 ? 5 : n == 1 ? second : 3, step = n == 1 && second == 3 ? 1 : 2, to = side / step, pad = n ? 1 : 2;
        const float *w = s->values[n ? 2 + 4 * (n - 1) : 0], *bias = s->values[n ? 3 + 4 * (n - 1) : 1];
        for (int64_t o = 0; o < widths[n]; o++)
            for (int64_t y = 0; y < to; y++)
                for (int64_t x = 0; x < to; x++) {
                    double sum = (double)bias[o];
                    for (int64_t c = 0; c < channels; c++)
                        for (int64_t i = 0; i < k; i++)
                            for (int64_t j = 0; j < k; j++) {
                                const int64_t yy = y * step + i - pad, xx = x * step + j - pad;
                                if (yy >= 0 && yy < side && xx >= 0 && xx < side) sum += (double)w[((o * channels + c) * k + i) * k + j] * a[(c * side + yy) * side + xx];
                            }
                    b[(o * to + y) * to + x] = sum;
                }
        side = to;
        channels = widths[n];
        for (int64_t p = 0; p < side * side; p++) {
            double mean = 0, square = 0;
            for (int64_t c = 0; c < channels; c++) mean += b[c * side * side + p] / (double)channels;
            for (int64_t c = 0; c < channels; c++) square += pow(b[c * side * side + p] - mean, 2) / (double)channels;
            for (int64_t c = 0; c < channels; c++) {
                double v = b[c * side * side + p];
                if (n) v = (v - mean) / sqrt(square + 1e-6) * (double)s->values[4 * n][c] + (double)s->values[4 * n + 1][c];
                a[c * side * side + p] = v * 0.5 * (1 + erf(v / sqrt(2)));
            }
        }
    }
    memcpy(out, a, (size_t)(channels * side * side) * sizeof *out);
}

static void check(int64_t in, int64_t second) {
    static store s;
    fs_rng r = fs_rng_seed((uint64_t)(in * second));
    fs_error err = {0};
    fs_exec c;
    s.count = 0;
    fill(&s, &r, in, second);
    const fs_tensor_source source = {.user = &s, .find = find, .origin = origin};
    fs_binder b = {.source = &source, .prefix = "", .err = &err};
    const fs_stem stem = fs_bind_stem(&b, widths[3], "stem");
    if (b.status) fail_msg("%s", err.message);
    const int64_t step = second == 4 ? 16 : 8;
    assert_int_equal(fs_stem_step(&stem), step);
    assert_int_equal(fs_exec_init(&c, FS_DTYPE_F32, 2, NULL, NULL), FS_OK);
    fs_tensor *pixels = fs_new_3d(&c, 3, SIDE, SIDE);
    for (int64_t i = 0; i < fs_tensor_count(pixels); i++) fs_f32(pixels)[i] = (float)(3 * fs_rng_uniform(&r) - 1.5);
    static double wanted[64 * SIDE * SIDE];
    by_hand(&s, fs_f32(pixels), in, second, wanted);
    const fs_tensor *y = fs_stem_forward(&c, &stem, pixels);
    if (!y) fail_msg("%s", c.error.message);
    assert_true(y->ndim == 3 && y->shape[0] == widths[3] && y->shape[1] == SIDE / step && y->shape[2] == SIDE / step);
    for (int64_t i = 0; i < fs_tensor_count(y); i++)
        if (fabs((double)fs_f32(y)[i] - wanted[i]) > 2e-5) fail_msg("value %lld: %g, expected %g", (long long)i, (double)fs_f32(y)[i], wanted[i]);
    fs_exec_end(&c);
}

static void colours(void **state) { (void)state, check(3, 3); }
static void residuals(void **state) { (void)state, check(9, 3); }
static void halving(void **state) { (void)state, check(3, 4), check(9, 4); }

/* Another number of channels than either, and none at all where the patches want colours. */
static void other_shapes(void **state) {
    (void)state;
    static store s;
    fs_rng r = fs_rng_seed(1);
    fs_error err = {0};
    fill(&s, &r, 5, 3);
    const fs_tensor_source source = {.user = &s, .find = find, .origin = origin};
    fs_binder b = {.source = &source, .prefix = "", .err = &err};
    const fs_stem none = fs_bind_stem(&b, 3, "stem");
    assert_true(!b.status && !none.conv[0].w && fs_stem_step(&none) == 1);
    fs_bind_stem(&b, widths[3], "stem");
    assert_int_equal(b.status, FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "found 5"));
    s.count = 0;
    fill(&s, &r, 3, 2);
    b = (fs_binder){.source = &source, .prefix = "", .err = &err};
    fs_bind_stem(&b, widths[3], "stem");
    assert_int_equal(b.status, FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "found 2 x 2"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(colours), cmocka_unit_test(residuals), cmocka_unit_test(halving), cmocka_unit_test(other_shapes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
