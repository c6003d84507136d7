/* The stem of models of our own against its definition, written out: residuals, four convolutions, norms over the channels, GELU,
 * residual blocks. */
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

enum { SIDE = 32, BASE = 3, MOST = 48 };

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

static void fill_block(store *s, fs_rng *r, int layer, int block) {
    static const char *const parts[] = {"norm.weight", "norm.bias", "conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias"};
    char name[64];
    for (int i = 0; i < 6; i++) {
        snprintf(name, sizeof name, "stem.%d.block.%d.%s", layer, block, parts[i]);
        if (i == 2 || i == 4)
            ADD(s, r, 0, name, widths[layer], widths[layer], 3, 3);
        else
            ADD(s, r, i ? 0 : 1, name, widths[layer]);
    }
}

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

static const float *named(const store *s, const char *format, int layer, int block) {
    char name[64];
    snprintf(name, sizeof name, format, layer, block);
    for (int i = 0; i < s->count; i++)
        if (strcmp(s->names[i], name) == 0) return s->values[i];
    return NULL;
}

/* a [channels, side, side] -> b [to_channels, side / step, side / step] */
static void convolve(const double *a, int64_t channels, int64_t side, const float *w, const float *bias, int64_t to_channels, int64_t k, int64_t step, int64_t pad, double *b) {
    const int64_t to = side / step;
    for (int64_t o = 0; o < to_channels; o++)
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
}

static void normalize(const double *a, int64_t channels, int64_t n, const float *w, const float *bias, double *b) {
    for (int64_t p = 0; p < n; p++) {
        double mean = 0, square = 0;
        for (int64_t c = 0; c < channels; c++) mean += a[c * n + p] / (double)channels;
        for (int64_t c = 0; c < channels; c++) square += pow(a[c * n + p] - mean, 2) / (double)channels;
        for (int64_t c = 0; c < channels; c++) b[c * n + p] = (a[c * n + p] - mean) / sqrt(square + 1e-6) * (double)w[c] + (double)bias[c];
    }
}

static void gelu(double *a, int64_t n) {
    for (int64_t i = 0; i < n; i++) a[i] *= 0.5 * (1 + erf(a[i] / sqrt(2)));
}

/* -> [18 x 4 x 4], or 2 x 2 */
static void by_hand(const store *s, const float *pixels, int64_t in, int64_t second, double *out) {
    static double a[64 * SIDE * SIDE], b[64 * SIDE * SIDE], h[64 * SIDE * SIDE];
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
        const int64_t k = n == 0 ? 5 : n == 1 ? second : 3, step = n == 1 && second == 3 ? 1 : 2;
        convolve(a, channels, side, named(s, "stem.%d.conv.weight", n, 0), named(s, "stem.%d.conv.bias", n, 0), widths[n], k, step, n ? 1 : 2, b);
        side /= step;
        channels = widths[n];
        if (n)
            normalize(b, channels, side * side, named(s, "stem.%d.norm.weight", n, 0), named(s, "stem.%d.norm.bias", n, 0), a);
        else
            memcpy(a, b, (size_t)(channels * side * side) * sizeof *a);
        gelu(a, channels * side * side);
        for (int i = 0; named(s, "stem.%d.block.%d.norm.weight", n, i); i++) {
            normalize(a, channels, side * side, named(s, "stem.%d.block.%d.norm.weight", n, i), named(s, "stem.%d.block.%d.norm.bias", n, i), b);
            convolve(b, channels, side, named(s, "stem.%d.block.%d.conv1.weight", n, i), named(s, "stem.%d.block.%d.conv1.bias", n, i), channels, 3, 1, 1, h);
            gelu(h, channels * side * side);
            convolve(h, channels, side, named(s, "stem.%d.block.%d.conv2.weight", n, i), named(s, "stem.%d.block.%d.conv2.bias", n, i), channels, 3, 1, 1, b);
            for (int64_t p = 0; p < channels * side * side; p++) a[p] += b[p];
        }
    }
    memcpy(out, a, (size_t)(channels * side * side) * sizeof *out);
}

/* blocks: two behind the third convolution, one behind the last */
static void check(int64_t in, int64_t second, bool blocks) {
    static store s;
    fs_rng r = fs_rng_seed((uint64_t)(in * second));
    fs_error err = {0};
    fs_exec c;
    s.count = 0;
    fill(&s, &r, in, second);
    if (blocks) fill_block(&s, &r, 2, 0), fill_block(&s, &r, 2, 1), fill_block(&s, &r, 3, 0);
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

static void colours(void **state) { (void)state, check(3, 3, false); }
static void residuals(void **state) { (void)state, check(9, 3, false); }
static void halving(void **state) { (void)state, check(3, 4, false), check(9, 4, false); }
static void blocks(void **state) { (void)state, check(3, 3, true), check(9, 4, true); }

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
    s.count = 0;
    fill(&s, &r, 3, 3);
    for (int i = 0; i <= FS_STEM_BLOCKS; i++) fill_block(&s, &r, 3, i);
    b = (fs_binder){.source = &source, .prefix = "", .err = &err};
    fs_bind_stem(&b, widths[3], "stem");
    assert_int_equal(b.status, FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "found 5"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(colours), cmocka_unit_test(residuals), cmocka_unit_test(halving), cmocka_unit_test(blocks), cmocka_unit_test(other_shapes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
