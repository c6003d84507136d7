/* Weights through another storage type, and measures of distance: see quant_error.h. Quantizing here is what convert does row by row (the order of
 * rows, which convert changes for q and k, does not touch a block), and packing is what opening a bundle does. */
#include "quant_error.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/block.h"
#include "tensor/packed.h"

_Noreturn void stop(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("quant_error: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

void check(fs_status status, const fs_error *err) {
    if (status) stop("%s", err->message);
}

fs_exec begin_context(int threads) {
    fs_exec c = {0};
    fs_error err = {0};
    check(fs_exec_init(&c, FS_DTYPE_F32, threads, NULL, &err), &err);
    return c;
}

void check_context(fs_exec *c) {
    fs_error err = {0};
    check(fs_exec_status(c, &err), &err);
}

/* ---- which type ---- */

bool variant_of_type(const char *type, variant *out) {
    *out = (variant){.choose = choose_table};
    snprintf(out->name, sizeof out->name, "%s", type);
    if (fs_bundle_type_from_name(type, &out->type)) return true;
    out->type = (fs_bundle_type){.name = "q6_k", .matrix = FS_DTYPE_Q6_K};
    return strcmp(type, "q6_k") == 0;
}

fs_dtype choose_table(const variant *v, const char *part, const char *name, const fs_tensor *t) {
    char vision[FS_BUNDLE_NAME];
    fs_bundle_llm lm;
    if (strcmp(part, "lm") != 0)
        return fs_bundle_vision_name(part, name, vision) ? fs_bundle_store_as(&v->type, vision, 0, t->ndim, t->shape) : FS_DTYPE_F32;
    for (int64_t i = 0; fs_bundle_llm_tensor(v->layers, i, &lm); i++)
        if (strcmp(lm.upstream, name) == 0) return fs_bundle_store_as(&v->type, lm.name, v->layers, t->ndim, t->shape);
    return FS_DTYPE_F32;
}

fs_dtype choose_role(const variant *v, const char *part, const char *name, const fs_tensor *t) {
    (void)part;
    if (t->ndim < 2) return FS_DTYPE_F32;
    for (const char *const *word = v->in; *word; word++)
        if (strstr(name, *word)) return t->shape[t->ndim - 1] % fs_dtype_block(v->as) ? FS_DTYPE_F32 : v->as;
    return FS_DTYPE_F32;
}

/* ---- the source ---- */

typedef struct kept { const fs_tensor *from; fs_tensor tensor; fs_packed *packed; } kept;
struct stored {
    fs_tensor_source inner;
    const char *part;
    variant v;
    int threads;
    kept *kept;
    size_t count, capacity;
};

static void quantize(stored *s, kept *k) {
    const fs_tensor *t = k->from;
    const int64_t row = t->shape[t->ndim - 1], rows = fs_tensor_count(t) / row;
    size_t from_step, to_step;
    if (!fs_dtype_row_bytes(t->dtype, row, &from_step) || !fs_dtype_row_bytes(k->tensor.dtype, row, &to_step)) stop("%s: impossible rows", t->name);
    uint8_t *out = fs_alloc((size_t)rows, to_step);
    float *wide = fs_alloc((size_t)(row * s->threads), sizeof *wide);
    int64_t bad = 0;
    if (!out || !wide) stop("%s: out of memory", t->name);
#pragma omp parallel for schedule(static) num_threads(s->threads) reduction(+ : bad)
    for (int part = 0; part < s->threads; part++)
        for (int64_t r = rows * part / s->threads; r < rows * (part + 1) / s->threads; r++) {
            float *x = wide + part * row;
            bad += !fs_row_to_f32(t->dtype, (const uint8_t *)t->data + (size_t)r * from_step, row, x) ||
                   !fs_row_from_f32(k->tensor.dtype, x, row, out + (size_t)r * to_step);
        }
    free(wide);
    if (bad) stop("%s: %lld rows cannot be stored as %s", t->name, (long long)bad, fs_dtype_name(k->tensor.dtype));
    k->tensor.data = out;
    fs_dtype packed;
    fs_error err = {0};
    if (s->v.exact || t->ndim != 2 || !fs_packed_type(k->tensor.dtype, &packed)) return;
    check(fs_pack_weight(&k->tensor, s->threads, &k->packed, &err), &err);
    free(out);
    k->tensor.data = NULL;
}

static const fs_tensor *find(void *user, const char *name) {
    stored *s = user;
    const fs_tensor *t = s->inner.find(s->inner.user, name);
    if (!t || !s->v.choose) return t;
    const fs_dtype type = s->v.choose(&s->v, s->part, name, t);
    if (type == FS_DTYPE_F32 || type == t->dtype) return t;
    for (size_t i = 0; i < s->count; i++)
        if (s->kept[i].from == t) return s->kept[i].packed ? &s->kept[i].packed->tensor : &s->kept[i].tensor;
    if (s->count == s->capacity) stop("more than %zu tensors", s->capacity);
    kept *k = &s->kept[s->count++];
    *k = (kept){.from = t, .tensor = *t};
    k->tensor.dtype = type;
    quantize(s, k);
    return k->packed ? &k->packed->tensor : &k->tensor;
}

static const char *origin(void *user, const char *name) {
    stored *s = user;
    return s->inner.origin(s->inner.user, name);
}

stored *stored_create(const fs_tensor_source *inner, const char *part, const variant *v, int threads) {
    stored *s = fs_alloc_zero(1, sizeof *s);
    if (!s) stop("out of memory");
    *s = (stored){.inner = *inner, .part = part, .v = *v, .threads = threads, .capacity = 8192}; /* descriptors are handed out: they must not move */
    if (!(s->kept = fs_alloc_zero(s->capacity, sizeof *s->kept))) stop("out of memory");
    return s;
}

fs_tensor_source stored_source(stored *s) { return (fs_tensor_source){s, find, origin}; }

void stored_free(stored *s) {
    for (size_t i = 0; s && i < s->count; i++) {
        free(s->kept[i].tensor.data);
        fs_packed_free(s->kept[i].packed);
    }
    if (s) free(s->kept);
    free(s);
}

/* ---- distances ---- */

numbers numbers_keep(const fs_tensor *t) {
    const int64_t n = fs_tensor_count(t), cols = t->shape[t->ndim - 1];
    numbers x = {fs_alloc((size_t)n, sizeof(float)), n / cols, cols};
    if (!x.data) stop("out of memory for %lld numbers", (long long)n);
    memcpy(x.data, t->data, (size_t)n * sizeof(float));
    return x;
}

void numbers_free(numbers *x) {
    free(x->data);
    *x = (numbers){0};
}

void distance_add(distance *d, const numbers *x, const numbers *reference) {
    for (int64_t i = 0; i < x->rows * x->cols; i++) {
        const double r = (double)reference->data[i], e = (double)x->data[i] - r;
        d->error += e * e;
        d->size += r * r;
    }
}

double distance_relative(const distance *d) { return d->size > 0 ? sqrt(d->error / d->size) : 0; }

/* log of the sum of exp, and the first largest */
static double log_sum(const float *x, int64_t n, int64_t *best) {
    double sum = 0;
    *best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[*best]) *best = i;
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - (double)x[*best]);
    return (double)x[*best] + log(sum);
}

void divergence_add(divergence *d, const numbers *logits, const numbers *reference, int64_t from, int64_t to) {
    for (int64_t r = from; r < to; r++) {
        const float *x = logits->data + r * logits->cols, *y = reference->data + r * logits->cols;
        int64_t best_x, best_y;
        const double zx = log_sum(x, logits->cols, &best_x), zy = log_sum(y, logits->cols, &best_y);
        double kl = 0;
        for (int64_t i = 0; i < logits->cols; i++) {
            const double ly = (double)y[i] - zy;
            kl += exp(ly) * (ly - ((double)x[i] - zx));
        }
        if (d->count == d->capacity) {
            d->capacity = d->capacity ? 2 * d->capacity : 1024;
            if (!(d->values = realloc(d->values, d->capacity * sizeof *d->values))) stop("out of memory");
        }
        d->values[d->count++] = kl;
        d->same += best_x == best_y;
    }
}

static int ascending(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

divergence_summary divergence_end(divergence *d) {
    divergence_summary s = {0};
    if (d->count) {
        qsort(d->values, d->count, sizeof *d->values, ascending);
        for (size_t i = 0; i < d->count; i++) s.mean += d->values[i] / (double)d->count;
        s.p99 = d->values[(d->count * 99 + 99) / 100 - 1];
        s.most = d->values[d->count - 1];
        s.agree = (double)d->same / (double)d->count;
    }
    free(d->values);
    *d = (divergence){0};
    return s;
}

void overlap_add(overlap *o, const numbers *logits, const numbers *reference) {
    for (int64_t i = 0; i < logits->rows * logits->cols; i++) {
        const bool a = logits->data[i] > 0, b = reference->data[i] > 0;
        o->both += a && b;
        o->either += a || b;
        o->changed += a != b;
    }
    o->pixels += logits->rows * logits->cols;
}
