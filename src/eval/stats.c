/* How sure a figure is: percentile bootstrap (Efron and Tibshirani 1993, chapter 13), McNemar's exact test for two yes-or-no answers on the
 * same pictures, Wilcoxon's signed-rank test for two figures per picture. Compared with numpy and scipy (tests/golden/metrics.json). */
#include "eval/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double fs_percentile(double *v, size_t n, double q) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (!isnan(v[i])) v[kept++] = v[i];
    if (!kept) return NAN;
    qsort(v, kept, sizeof *v, by_value);
    const double at = q * (double)(kept - 1), low = floor(at);
    const size_t i = (size_t)low;
    return i + 1 < kept ? v[i] + (v[i + 1] - v[i]) * (at - low) : v[kept - 1];
}

/* The members of each stratum one stratum after the other: members [n], and where stratum s begins in it: begin [257]. */
static void group(size_t n, const uint8_t *stratum, size_t *members, size_t begin[257]) {
    size_t count[256] = {0};
    for (size_t i = 0; i < n; i++) count[stratum ? stratum[i] : 0]++;
    begin[0] = 0;
    for (size_t s = 0; s < 256; s++) begin[s + 1] = begin[s] + count[s];
    memset(count, 0, sizeof count);
    for (size_t i = 0; i < n; i++) {
        const size_t s = stratum ? stratum[i] : 0;
        members[begin[s] + count[s]++] = i;
    }
}

static void draw(fs_rng *rng, size_t n, const size_t *members, const size_t begin[257], double *weight) {
    for (size_t i = 0; i < n; i++) weight[i] = 0;
    for (size_t s = 0; s < 256; s++) {
        const size_t size = begin[s + 1] - begin[s];
        for (size_t k = 0; k < size; k++) weight[members[begin[s] + (size_t)(fs_rng_uniform(rng) * (double)size)]] += 1;
    }
}

fs_status fs_bootstrap(size_t n, const uint8_t *stratum, int resamples, double level, uint64_t seed, fs_figures_fn figures, void *user,
                       size_t n_figures, fs_interval *out, const fs_callbacks *callbacks, fs_error *err) {
    const size_t R = resamples > 0 ? (size_t)resamples : 0;
    size_t cells = 0, begin[257];
    fs_status status = FS_OK;
    for (size_t f = 0; f < n_figures; f++) out[f] = (fs_interval){NAN, NAN};
    if (!n || !R || !n_figures) return FS_OK;
    size_t *members = fs_alloc(n, sizeof *members);
    double *weight = fs_alloc(n, sizeof *weight), *row = fs_alloc(n_figures, sizeof *row);
    double *values = fs_mul_size(R, n_figures, &cells) ? fs_alloc(cells, sizeof *values) : NULL;
    if (!members || !weight || !row || !values) {
        status = fs_fail(err, FS_E_NO_MEMORY, "no memory for %zu resamples of %zu figures", R, n_figures);
        goto done;
    }
    group(n, stratum, members, begin);
    fs_rng rng = fs_rng_seed(seed);
    for (size_t r = 0; r < R; r++) {
        if (r % 64 == 0) {
            fs_progress(callbacks, "confidence intervals", (int64_t)r, (int64_t)R);
            if (fs_cancelled(callbacks)) {
                status = fs_fail(err, FS_E_CANCELLED, "stopped while resampling");
                goto done;
            }
        }
        draw(&rng, n, members, begin, weight);
        figures(user, weight, row);
        for (size_t f = 0; f < n_figures; f++) values[f * R + r] = row[f];
    }
    for (size_t f = 0; f < n_figures; f++)
        out[f] = (fs_interval){fs_percentile(values + f * R, R, (1 - level) / 2), fs_percentile(values + f * R, R, (1 + level) / 2)};
done:
    free(members);
    free(weight);
    free(row);
    free(values);
    return status;
}

double fs_mcnemar_exact(int64_t a, int64_t b) {
    const int64_t n = a + b, least = a < b ? a : b;
    if (a == b) return 1;
    int sign;
    double sum = 0;
    for (int64_t i = 0; i <= least; i++)
        sum += exp(lgamma_r((double)n + 1, &sign) - lgamma_r((double)i + 1, &sign) - lgamma_r((double)(n - i) + 1, &sign) -
                   (double)n * log(2));
    return fmin(1, 2 * sum);
}

/* ---- Wilcoxon ---- */

typedef struct difference {
    double size;
    bool up;
} difference;

static int by_size(const void *a, const void *b) {
    const difference *x = a, *y = b;
    return (x->size > y->size) - (x->size < y->size);
}

/* P(rank sum <= least) for n differences without ties: how many subsets of 1..n have that sum, over 2^n. n <= 50: at most 1275. */
static double exact_tail(size_t n, size_t least) {
    double ways[50 * 51 / 2 + 1] = {1};
    for (size_t k = 1; k <= n; k++)
        for (size_t s = n * (n + 1) / 2; s >= k; s--) ways[s] += ways[s - k];
    double sum = 0;
    for (size_t s = 0; s <= least; s++) sum += ways[s];
    return ldexp(sum, -(int)n);
}

fs_status fs_wilcoxon(const double *a, const double *b, size_t n, fs_wilcoxon_result *out, fs_error *err) {
    *out = (fs_wilcoxon_result){.p = NAN, .statistic = NAN};
    difference *d = fs_alloc(n, sizeof *d);
    if (!d) return fs_fail(err, FS_E_NO_MEMORY, "no memory for %zu differences", n);
    size_t m = 0;
    for (size_t i = 0; i < n; i++)
        if (b[i] != a[i]) d[m++] = (difference){fabs(b[i] - a[i]), b[i] > a[i]};
    out->n = m;
    out->zeros = n - m;
    qsort(d, m, sizeof *d, by_size);
    double up = 0, down = 0, ties = 0;
    for (size_t i = 0, j; i < m; i = j) {
        for (j = i; j < m && d[j].size == d[i].size; j++) {
        }
        const double rank = (double)(i + 1 + j) / 2, t = (double)(j - i); /* the mean of ranks i+1 .. j */
        for (size_t k = i; k < j; k++) *(d[k].up ? &up : &down) += rank;
        ties += t * t * t - t;
    }
    if (m) {
        const double N = (double)m, mean = N * (N + 1) / 4, least = fmin(up, down);
        out->statistic = least;
        out->exact = m <= 50 && ties == 0;
        if (out->exact)
            out->p = fmin(1, 2 * exact_tail(m, (size_t)least));
        else
            out->p = erfc(fabs(least - mean) / sqrt((N * (N + 1) * (2 * N + 1) - ties / 2) / 24) / sqrt(2));
    }
    free(d);
    return FS_OK;
}

/* ---- the mean of differences ---- */

typedef struct pairs {
    const double *a, *b;
    size_t n;
} pairs;

static void mean_difference(void *user, const double *weight, double *out) {
    const pairs *p = user;
    double sum = 0;
    for (size_t i = 0; i < p->n; i++) sum += weight[i] * (p->b[i] - p->a[i]);
    out[0] = sum / (double)p->n;
}

typedef struct tally { /* the same, and on which side of 0 it lies */
    pairs p;
    double below, above;
} tally;

static void tallied(void *user, const double *weight, double *out) {
    tally *t = user;
    mean_difference(&t->p, weight, out);
    t->below += out[0] <= 0;
    t->above += out[0] >= 0;
}

fs_status fs_paired_bootstrap(const double *a, const double *b, size_t n, int resamples, double level, uint64_t seed, fs_paired_mean *out,
                              fs_error *err) {
    *out = (fs_paired_mean){.mean = NAN, .range = {NAN, NAN}, .p = NAN};
    if (!n) return FS_OK;
    tally t = {.p = {a, b, n}};
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += b[i] - a[i];
    fs_status status = fs_bootstrap(n, NULL, resamples, level, seed, tallied, &t, 1, &out->range, NULL, err);
    out->mean = sum / (double)n;
    if (!status && resamples > 0) out->p = fmin(1, 2 * fmin(t.below, t.above) / resamples);
    return status;
}
