/* Drawing the next token as transformers' generate() does: temperature, top-k, top-p (generation/logits_process.py), softmax, one draw.
 * Ties: top-k keeps every id whose logit equals the k-th largest. Top-p sorts ascending and removes ids while the cumulative probability
 * is <= 1 - p, but never the last one; equal logits stand in the order of their ids (torch's sort leaves that open). Greedy takes the
 * first of the largest.
 *
 * Sums are in double, where torch adds floats: the sets agree except where a cumulative probability meets 1 - p to within float's
 * rounding. The draw walks the ids upwards, so a seed gives the same ids on every machine. */
#include "text/sample_internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static fs_status check(const float *logits, int32_t n, const fs_sampling *s, int32_t *largest, fs_error *err) {
    if (n <= 0) return fs_fail(err, FS_E_INTERNAL, "no logits to draw a token from");
    if (!(s->temperature >= 0) || isinf(s->temperature))
        return fs_fail(err, FS_E_USAGE, "temperature %g: expected 0 (greedy) or a positive number", (double)s->temperature);
    if (!(s->top_p >= 0 && s->top_p <= 1))
        return fs_fail(err, FS_E_USAGE, "top_p %g: expected a number from 0 to 1 (1 = off)", (double)s->top_p);
    if (s->top_k < 0) return fs_fail(err, FS_E_USAGE, "top_k %d: expected 0 (off) or more", s->top_k);
    int32_t best = 0;
    for (int32_t i = 0; i < n; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY)
            return fs_fail(err, FS_E_NUMERIC,
                           "the language model's output for token %d is %g: damaged weights, or numbers too large for this precision", i,
                           (double)logits[i]);
        if (logits[i] > logits[best]) best = i;
    }
    if (logits[best] == -INFINITY) return fs_fail(err, FS_E_NUMERIC, "the language model gives every token the probability 0");
    *largest = best;
    return FS_OK;
}

/* The k-th largest of v (0-based rank k), by Hoare's selection; v is reordered. */
static float select_largest(float *v, int32_t n, int32_t k) {
    int32_t lo = 0, hi = n - 1;
    while (lo < hi) {
        float pivot = v[lo + (hi - lo) / 2];
        int32_t i = lo, j = hi;
        while (i <= j) {
            while (v[i] > pivot) i++;
            while (v[j] < pivot) j--;
            if (i > j) break;
            float swap = v[i];
            v[i++] = v[j], v[j--] = swap;
        }
        if (k <= j)
            hi = j;
        else if (k >= i)
            lo = i;
        else
            break;
    }
    return v[k];
}

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

static int ascending(const void *a, const void *b) {
    const candidate *x = a, *y = b;
    if (x->logit != y->logit) return x->logit < y->logit ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Removes ids from the bottom while their cumulative probability is <= 1 - p. */
static fs_status apply_top_p(float *logits, int32_t n, float largest, float top_p, fs_error *err) {
    candidate *list = fs_alloc((size_t)n, sizeof *list);
    if (!list) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for %d candidate tokens", n);
    int32_t count = 0;
    double total = 0, cumulative = 0, limit = 1.0 - (double)top_p;
    for (int32_t i = 0; i < n; i++) {
        if (logits[i] == -INFINITY) continue;
        list[count++] = (candidate){logits[i], i};
        total += (double)expf(logits[i] - largest);
    }
    qsort(list, (size_t)count, sizeof *list, ascending);
    for (int32_t i = 0; i < count - 1; i++) {
        cumulative += (double)expf(list[i].logit - largest) / total;
        if (cumulative > limit) break;
        logits[list[i].id] = -INFINITY;
    }
    free(list);
    return FS_OK;
}

fs_status fs_sample_distribution(float *logits, int32_t n, const fs_sampling *s, fs_error *err) {
    int32_t best;
    fs_status st = check(logits, n, s, &best, err);
    if (st) return st;
    if (s->temperature != 1.0f) {
        for (int32_t i = 0; i < n; i++) {
            logits[i] /= s->temperature;
            if (logits[i] == INFINITY || (i == best && logits[i] == -INFINITY))
                return fs_fail(err, FS_E_USAGE, "temperature %g is too small: use 0 for greedy", (double)s->temperature);
        }
    }
    if (s->top_k > 0 && s->top_k < n) {
        float *copy = fs_alloc((size_t)n, sizeof *copy);
        if (!copy) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for %d candidate tokens", n);
        memcpy(copy, logits, (size_t)n * sizeof *copy);
        float least = select_largest(copy, n, s->top_k - 1);
        free(copy);
        for (int32_t i = 0; i < n; i++)
            if (logits[i] < least) logits[i] = -INFINITY;
    }
    float largest = logits[best];
    if (s->top_p < 1 && (st = apply_top_p(logits, n, largest, s->top_p, err))) return st;
    double total = 0;
    for (int32_t i = 0; i < n; i++) {
        logits[i] = expf(logits[i] - largest);
        total += (double)logits[i];
    }
    for (int32_t i = 0; i < n; i++) logits[i] = (float)((double)logits[i] / total);
    return FS_OK;
}

fs_status fs_draw_token(float *logits, int32_t n, const fs_sampling *s, fs_rng *rng, int32_t *id, fs_error *err) {
    if (s->temperature == 0) return check(logits, n, s, id, err);
    fs_status st = fs_sample_distribution(logits, n, s, err);
    if (st) return st;
    double total = 0, cumulative = 0;
    int32_t last = 0;
    for (int32_t i = 0; i < n; i++) total += (double)logits[i];
    double drawn = fs_rng_uniform(rng) * total;
    for (int32_t i = 0; i < n; i++) {
        if (logits[i] <= 0) continue;
        last = i;
        cumulative += (double)logits[i];
        if (drawn < cumulative) break;
    }
    *id = last;
    return FS_OK;
}
