/* Shared by the parity tests: goldens and tiny weights as archives, inputs by formula, errors in units that mean something, and sources of
 * weights that are spoilt in one place on purpose. */
#ifndef FS_TEST_PARITY_H
#define FS_TEST_PARITY_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "format/archive.h"
#include "model/model.h"
#include "support/weightgen.h"

#ifdef __GNUC__
#define PARITY_UNUSED __attribute__((unused))
#else
#define PARITY_UNUSED
#endif

/* ---- files ---- */

PARITY_UNUSED static fs_archive *open_archive(const char *path) {
    fs_archive *a = NULL;
    fs_error err = {0};
    if (fs_archive_open(path, &a, &err)) fail_msg("%s", err.message);
    return a;
}
#define open_golden(file) open_archive(FS_GOLDEN_DIR "/" file)
#define open_tiny(file) open_archive(FS_TINY_DIR "/" file)

PARITY_UNUSED static const fs_tensor *golden(fs_archive *a, const char *name) {
    const fs_tensor *t = fs_archive_find(a, name);
    if (!t) fail_msg("%s holds no tensor %s", fs_archive_path(a), name);
    return t;
}

/* ---- context and inputs ---- */

PARITY_UNUSED static fs_exec start(fs_dtype precision, int threads) {
    fs_exec c = {0};
    fs_error err = {0};
    if (fs_exec_init(&c, precision, threads, NULL, &err)) fail_msg("%s", err.message);
    return c;
}

PARITY_UNUSED static void assert_ok(const fs_exec *c) {
    if (c->error.status) fail_msg("%s", c->error.message);
}

/* Values by formula, in the arena; `name` decides them, whatever the shape. */
PARITY_UNUSED static fs_tensor *formula(fs_exec *c, const char *name, int ndim, const int64_t *shape) {
    fs_tensor *t = fs_new(c, ndim, shape);
    assert_non_null(t);
    fs_test_weight(name, (size_t)ndim, t->shape, fs_f32(t));
    return t;
}
#define formula_2d(c, name, a, b) formula((c), (name), 2, (const int64_t[]){(a), (b)})
#define formula_3d(c, name, a, b, d) formula((c), (name), 3, (const int64_t[]){(a), (b), (d)})

/* ---- errors ---- */

/* Largest difference over the largest magnitude expected. Also checks the number of elements. */
PARITY_UNUSED static double max_error(const fs_tensor *found, const fs_tensor *expected) {
    assert_non_null(found);
    assert_int_equal(expected->dtype, FS_DTYPE_F32);
    assert_int_equal(fs_tensor_count(found), fs_tensor_count(expected));
    const float *a = fs_f32(found), *b = fs_f32(expected);
    double worst = 0, scale = 0;
    for (int64_t i = 0, n = fs_tensor_count(found); i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) worst = d; /* NaN too */
        if (fabs((double)b[i]) > scale) scale = fabs((double)b[i]);
    }
    return worst / scale;
}

PARITY_UNUSED static void assert_close_at(const fs_tensor *found, const fs_tensor *expected, double tolerance, const char *what,
                                          const char *file, int line) {
    double error = max_error(found, expected);
    if (getenv("FS_TEST_VERBOSE")) print_message("%-24s relative error %.2e (tolerance %.0e)\n", what, error, tolerance);
    if (!(error <= tolerance)) {
        print_error("%s: relative error %.3e is above %.1e\n", what, error, tolerance);
        _fail(file, line);
    }
}
#define assert_close(found, expected, tolerance, what) assert_close_at((found), (expected), (tolerance), (what), __FILE__, __LINE__)

/* Distance in steps of bf16 (bits = 8) or f16 (bits = 11) at the expected value; below `floor`, steps at `floor`: a sum of large terms that
 * happens to cancel has no more absolute precision than the terms. */
PARITY_UNUSED static double steps_apart(float found, float expected, int bits, double floor) {
    double size = fmax(fabs((double)expected), floor);
    int exponent;
    frexp(size, &exponent);
    return fabs((double)found - (double)expected) / ldexp(1.0, exponent - bits);
}

/* Share of values within `steps` steps. floor_share * (largest magnitude) is the floor of steps_apart. */
PARITY_UNUSED static double share_in_steps(const fs_tensor *found, const fs_tensor *expected, int bits, double steps, double floor_share) {
    assert_non_null(found);
    assert_int_equal(fs_tensor_count(found), fs_tensor_count(expected));
    int64_t n = fs_tensor_count(found), good = 0;
    double scale = 0;
    for (int64_t i = 0; i < n; i++) scale = fmax(scale, fabs((double)fs_f32(expected)[i]));
    for (int64_t i = 0; i < n; i++) good += steps_apart(fs_f32(found)[i], fs_f32(expected)[i], bits, floor_share * scale) <= steps;
    return (double)good / (double)n;
}

/* Root of the mean square difference over that of the expected values. */
PARITY_UNUSED static double rms_error(const fs_tensor *found, const fs_tensor *expected) {
    assert_non_null(found);
    assert_int_equal(fs_tensor_count(found), fs_tensor_count(expected));
    double d2 = 0, e2 = 0;
    for (int64_t i = 0, n = fs_tensor_count(found); i < n; i++) {
        double d = (double)fs_f32(found)[i] - (double)fs_f32(expected)[i], e = (double)fs_f32(expected)[i];
        d2 += d * d;
        e2 += e * e;
    }
    return sqrt(d2 / e2);
}

PARITY_UNUSED static void assert_in_steps_at(const fs_tensor *found, const fs_tensor *expected, int bits, double steps, double share,
                                             const char *what, const char *file, int line) {
    double good = share_in_steps(found, expected, bits, steps, 0);
    if (getenv("FS_TEST_VERBOSE")) print_message("%-24s %.4f within %g steps (at least %g)\n", what, good, steps, share);
    if (!(good > share)) {
        print_error("%s: only %.4f of the values are within %g steps, not %g\n", what, good, steps, share);
        _fail(file, line);
    }
}
/* More than `share` of the values lie within `steps` steps of bf16 (bits 8) or f16 (bits 11). */
#define assert_in_steps(found, expected, bits, steps, share, what)                                                                         \
    assert_in_steps_at((found), (expected), (bits), (steps), (share), (what), __FILE__, __LINE__)

PARITY_UNUSED static void assert_noise_at(const fs_tensor *found, const fs_tensor *expected, const fs_tensor *plain, const char *what,
                                          const char *file, int line) {
    double distance = rms_error(found, expected), noise = rms_error(expected, plain);
    if (getenv("FS_TEST_VERBOSE")) print_message("%-24s rms %.1e, rounding itself %.1e\n", what, distance, noise);
    if (!(distance < 1.5 * noise)) {
        print_error("%s: rms %.2e is more than 1.5 times the golden's own distance from f32, %.2e\n", what, distance, noise);
        _fail(file, line);
    }
}
/* Many 16-bit layers deep two correct computations differ as two independent roundings do: sqrt 2 times either's distance from f32. */
#define assert_noise(found, expected, plain, what) assert_noise_at((found), (expected), (plain), (what), __FILE__, __LINE__)

/* ---- spoilt weights ---- */

typedef enum spoil_kind { SPOIL_MISSING, SPOIL_SHAPE, SPOIL_NAN } spoil_kind;
typedef struct spoilt {
    fs_tensor_source inner;
    const char *name;
    spoil_kind kind;
    fs_tensor replacement;
    float *values;
} spoilt;

static const fs_tensor *spoilt_find(void *user, const char *name) {
    spoilt *s = user;
    const fs_tensor *t = s->inner.find(s->inner.user, name);
    if (!t || strcmp(name, s->name)) return t;
    if (s->kind == SPOIL_MISSING) return NULL;
    s->replacement = *t;
    if (s->kind == SPOIL_SHAPE) {
        s->replacement.shape[t->ndim - 1] += 1; /* never read: binding refuses it */
    } else {
        int64_t n = fs_tensor_count(t);
        free(s->values);
        s->values = malloc((size_t)n * sizeof(float));
        assert_non_null(s->values);
        for (int64_t i = 0; i < n; i++) s->values[i] = NAN;
        s->replacement.dtype = FS_DTYPE_F32;
        s->replacement.data = s->values;
    }
    return &s->replacement;
}

static const char *spoilt_origin(void *user, const char *name) {
    (void)user, (void)name;
    return "weights.bin";
}

PARITY_UNUSED static fs_tensor_source spoilt_source(spoilt *s, fs_tensor_source inner, const char *name, spoil_kind kind) {
    *s = (spoilt){.inner = inner, .name = name, .kind = kind};
    return (fs_tensor_source){s, spoilt_find, spoilt_origin};
}

#endif
