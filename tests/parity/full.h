/* Shared by the full-size comparisons: weights by formula over a list of names and shapes, made when a network asks for them, and goldens of
 * which only every n-th element is kept. */
#ifndef FS_TEST_FULL_H
#define FS_TEST_FULL_H

#include <sys/resource.h>

#include "parity.h"
#include "tensor/block.h"
#include "tensor/packed.h"

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

/* The same weights with the matrices of linear layers stored as `type`, as a bundle has them; block types are packed for the kernels. */
typedef struct stored_weights { formula_weights *plain; fs_dtype type; formula_weights made; fs_packed_source *packed; } stored_weights;

static const fs_tensor *stored_find(void *user, const char *name) {
    stored_weights *s = user;
    const fs_tensor *t = formula_find(s->plain, name);
    const size_t length = strlen(name);
    if (!t || t->ndim != 2 || length < 7 || strcmp(name + length - 7, ".weight") || strstr(name, "embed")) return t;
    for (size_t i = 0; i < s->made.count; i++)
        if (strcmp(s->made.entries[i].name, name) == 0) return &s->made.entries[i].tensor;
    assert_true(s->made.count < s->made.capacity); /* found tensors must not move */
    formula_entry *e = &s->made.entries[s->made.count++];
    *e = (formula_entry){.tensor = *t};
    snprintf(e->name, sizeof e->name, "%s", name);
    size_t row;
    assert_true(fs_dtype_row_bytes(s->type, t->shape[1], &row));
    e->tensor.dtype = s->type;
    e->tensor.name = e->name;
    e->tensor.data = fs_alloc((size_t)t->shape[0], row);
    assert_non_null(e->tensor.data);
    for (int64_t i = 0; i < t->shape[0]; i++)
        assert_true(fs_row_from_f32(s->type, fs_f32(t) + i * t->shape[1], t->shape[1], (char *)e->tensor.data + (size_t)i * row));
    return &e->tensor;
}

/* Call free_stored afterwards. `s` and `w` must stay where they are. */
PARITY_UNUSED static fs_tensor_source stored_source(stored_weights *s, fs_tensor_source *inner, formula_weights *w, fs_dtype type) {
    fs_error err = {0};
    *s = (stored_weights){.plain = w, .type = type, .made = {.capacity = w->count}};
    s->made.entries = calloc(w->count, sizeof *s->made.entries);
    assert_non_null(s->made.entries);
    *inner = (fs_tensor_source){s, stored_find, formula_origin};
    if (fs_packed_source_create(inner, false, 2, &s->packed, &err)) fail_msg("%s", err.message);
    return *fs_packed_source_tensors(s->packed);
}

PARITY_UNUSED static void free_stored(stored_weights *s) {
    fs_packed_source_free(s->packed);
    free_weights(&s->made);
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
    print_message("%s: %.3f s on %d threads, activations at most %.0f MB, process at most %.0f MB\n", what, seconds, c->threads,
                  (double)fs_arena_peak(c->arena) / 1e6, (double)usage.ru_maxrss / 1e3);
}

#endif
