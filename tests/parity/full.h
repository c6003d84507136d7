/* Shared by the full-size comparisons: weights by formula over a list of names and shapes, made when a network asks for them, and goldens of
 * which only every n-th element is kept. */
#ifndef FS_TEST_FULL_H
#define FS_TEST_FULL_H

#include <sys/resource.h>

#include "parity.h"

typedef struct formula_entry { char name[96]; fs_tensor tensor; } formula_entry;
typedef struct formula_weights { formula_entry *entries; size_t count, capacity; } formula_weights;

/* A tensor of this shape that stands under that name. */
__attribute__((format(printf, 4, 5)))
PARITY_UNUSED static void add_weight(formula_weights *w, int ndim, const int64_t *shape, const char *format, ...) {
    if (w->count == w->capacity) {
        w->capacity = w->capacity ? 2 * w->capacity : 256;
        w->entries = realloc(w->entries, w->capacity * sizeof *w->entries);
        assert_non_null(w->entries);
    }
    formula_entry *e = &w->entries[w->count++];
    *e = (formula_entry){.tensor = {.dtype = FS_DTYPE_F32, .ndim = ndim, .shape = {1, 1, 1, 1, 1, 1}}};
    memcpy(e->tensor.shape, shape, (size_t)ndim * sizeof *shape);
    va_list args;
    va_start(args, format);
    vsnprintf(e->name, sizeof e->name, format, args);
    va_end(args);
}
#define add_1d(w, a, ...) add_weight((w), 1, (const int64_t[]){(a)}, __VA_ARGS__)
#define add_2d(w, a, b, ...) add_weight((w), 2, (const int64_t[]){(a), (b)}, __VA_ARGS__)
#define add_4d(w, a, b, d, e, ...) add_weight((w), 4, (const int64_t[]){(a), (b), (d), (e)}, __VA_ARGS__)
/* name.weight [out, in] and name.bias [out]; and the two of a norm */
PARITY_UNUSED static void add_linear(formula_weights *w, int64_t out, int64_t in, const char *name) {
    add_2d(w, out, in, "%s.weight", name);
    add_1d(w, out, "%s.bias", name);
}
PARITY_UNUSED static void add_norm(formula_weights *w, int64_t n, const char *name) {
    add_1d(w, n, "%s.weight", name);
    add_1d(w, n, "%s.bias", name);
}

static const fs_tensor *formula_find(void *user, const char *name) {
    formula_weights *w = user;
    for (size_t i = 0; i < w->count; i++) {
        formula_entry *e = &w->entries[i];
        if (strcmp(e->name, name)) continue;
        if (!e->tensor.data) {
            e->tensor.data = fs_alloc((size_t)fs_tensor_count(&e->tensor), sizeof(float));
            assert_non_null(e->tensor.data);
            fs_test_weight(name, (size_t)e->tensor.ndim, e->tensor.shape, e->tensor.data);
            e->tensor.name = e->name;
        }
        return &e->tensor;
    }
    return NULL;
}

static const char *formula_origin(void *user, const char *name) {
    (void)user, (void)name;
    return "(formula)";
}

PARITY_UNUSED static fs_tensor_source formula_source(formula_weights *w) { return (fs_tensor_source){w, formula_find, formula_origin}; }

PARITY_UNUSED static void free_weights(formula_weights *w) {
    for (size_t i = 0; i < w->count; i++) free(w->entries[i].tensor.data);
    free(w->entries);
    *w = (formula_weights){0};
}

/* Compares every stride-th element with the golden's, and mean and deviation of all elements. The error is taken over the
 * largest magnitude kept in the golden. */
PARITY_UNUSED static void assert_sampled(const fs_tensor *found, fs_archive *a, const char *name, double tolerance) {
    char part[96];
    assert_non_null(found);
    const fs_tensor *kept = golden(a, name);
    snprintf(part, sizeof part, "%s.stride", name);
    const fs_tensor *stride_tensor = fs_archive_find(a, part);
    const int64_t stride = stride_tensor ? *(const int64_t *)stride_tensor->data : 1, n = fs_tensor_count(found);
    assert_int_equal((n + stride - 1) / stride, fs_tensor_count(kept));
    double worst = 0, scale = 0, sum = 0, squares = 0;
    for (int64_t i = 0, k = 0; i < n; i += stride, k++) {
        double e = (double)fs_f32(kept)[k], d = fabs((double)fs_f32(found)[i] - e);
        if (!(d <= worst)) worst = d;
        scale = fmax(scale, fabs(e));
    }
    print_message("  %-12s relative error %.2e (tolerance %.0e)\n", name, worst / scale, tolerance);
    if (!(worst / scale <= tolerance)) fail_msg("%s: relative error %.3e is above %.1e", name, worst / scale, tolerance);
    snprintf(part, sizeof part, "%s.mean_std", name);
    const fs_tensor *moments = fs_archive_find(a, part);
    if (!moments) return;
    for (int64_t i = 0; i < n; i++) sum += (double)fs_f32(found)[i];
    const double mean = sum / (double)n;
    for (int64_t i = 0; i < n; i++) squares += ((double)fs_f32(found)[i] - mean) * ((double)fs_f32(found)[i] - mean);
    /* population or sample deviation is the same to nine digits at these sizes */
    const double deviation = sqrt(squares / (double)n), std = (double)fs_f32(moments)[1];
    if (fabs(mean - (double)fs_f32(moments)[0]) > 10 * tolerance * std || fabs(deviation - std) > 1e-4 * std)
        fail_msg("%s: mean %.6g, deviation %.6g; expected %.6g, %.6g", name, mean, deviation, (double)fs_f32(moments)[0], std);
}

PARITY_UNUSED static void print_cost(const char *what, const fs_exec *c, double seconds) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    print_message("%s: %.1f s on %d threads, activations at most %.0f MB, process at most %.0f MB\n", what, seconds, c->threads,
                  (double)fs_arena_peak(c->arena) / 1e6, (double)usage.ru_maxrss / 1e3);
}

#endif
