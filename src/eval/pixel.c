/* A map of scores against a mask of truth, pixel by pixel, under the protocols of docs/evaluation.md:
 * fixed       score > 0.5, every pixel (what FakeShield's mask is: logit > 0);
 * best        the threshold that suits this picture best, as scikit-learn's precision_recall_curve runs through them: an oracle;
 * permuted    TruFor's test program (Guillaro et al., CVPR 2023): pixels of tampered regions within 7 of their edge and pixels around
 * within 5 are left out, and the better of the map and its inverse counts, at score > 0.5 and at the best threshold. Scores are sorted once
 * as integers (a float of 0..1 keeps its order as bits), so that one pass over groups of equal scores gives all of it. */
#include "eval/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ERODE = 7, DILATE = 5 }; /* reach of TruFor's 15 x 15 minimum and 11 x 11 maximum filter */

double fs_pixel_iou(const fs_confusion *c) {
    const double all = c->tp + c->fp + c->fn;
    return all > 0 ? c->tp / all : 1;
}

double fs_pixel_f1(const fs_confusion *c) {
    const double all = 2 * c->tp + c->fp + c->fn;
    return all > 0 ? 2 * c->tp / all : 1;
}

double fs_histogram_auc(const double *positive, const double *negative, size_t bins) {
    double tp = 0, fp = 0, area = 0;
    for (size_t k = bins; k-- > 0;) {
        area += negative[k] * (tp + positive[k] / 2);
        tp += positive[k];
        fp += negative[k];
    }
    return tp > 0 && fp > 0 ? area / (tp * fp) : NAN;
}

/* ---- the neighbourhood of an edge ---- */

/* One row or column: out = 1 where all of a[i-reach .. i+reach], as far as there is any, are 1. */
static void erode_line(const uint8_t *a, int64_t n, int64_t step, int64_t reach, uint8_t *out) {
    int64_t run = reach; /* how many 1s lie directly before i; outside counts as 1 */
    for (int64_t i = 0; i < n + reach; i++) {
        run = i >= n || a[i * step] ? run + 1 : 0;
        if (i >= reach) out[(i - reach) * step] = run > 2 * reach;
    }
}

fs_status fs_mask_erode(const uint8_t *truth, int64_t w, int64_t h, int64_t reach, bool value, uint8_t *out, fs_error *err) {
    uint8_t *rows = fs_alloc((size_t)w * (size_t)h, 1);
    if (!rows) return fs_fail(err, FS_E_NO_MEMORY, "no memory for a mask of %lld x %lld pixels", (long long)w, (long long)h);
    for (int64_t i = 0; i < w * h; i++) out[i] = !truth[i] == !value;
    for (int64_t y = 0; y < h; y++) erode_line(out + y * w, w, 1, reach, rows + y * w);
    for (int64_t x = 0; x < w; x++) erode_line(rows + x, h, w, reach, out + x);
    free(rows);
    return FS_OK;
}

/* ---- sorting ---- */

/* A key: the score's bits (at most 30, for 0..1), then 3 flags. */
enum { TAMPERED = 1, INSIDE = 2, OUTSIDE = 4, FLAG_BITS = 3, DIGIT_BITS = 11 };

static uint64_t key_of(float score, unsigned flags) {
    uint32_t bits;
    const float plain = score + 0.0f; /* -0 becomes 0 */
    memcpy(&bits, &plain, sizeof bits);
    return (uint64_t)bits << FLAG_BITS | flags;
}

static float score_of(uint64_t key) {
    const uint32_t bits = (uint32_t)(key >> FLAG_BITS);
    float score;
    memcpy(&score, &bits, sizeof score);
    return score;
}

/* Rising; three passes of 11 bits are all of a key's 33. The result is in b. */
static void sort_keys(uint64_t *a, uint64_t *b, size_t n) {
    for (int pass = 0; pass < 3; pass++) {
        size_t start[1 << DIGIT_BITS] = {0}, sum = 0;
        const int shift = pass * DIGIT_BITS;
        const uint64_t mask = (1u << DIGIT_BITS) - 1;
        for (size_t i = 0; i < n; i++) start[a[i] >> shift & mask]++;
        for (size_t k = 0; k <= mask; k++) {
            const size_t count = start[k];
            start[k] = sum;
            sum += count;
        }
        for (size_t i = 0; i < n; i++) b[start[a[i] >> shift & mask]++] = a[i];
        uint64_t *swap = a;
        a = b;
        b = swap;
    }
}

/* ---- the figures ---- */

/* From highest to lowest score: the sorted keys' totals give what any threshold would. */
static void run_through(const uint64_t *keys, size_t n, fs_pixel_scores *s) {
    double all = 0, rest = 0, inner = 0, outer = 0; /* pixels tampered, authentic; far inside, far outside */
    double tp = 0, fp = 0, tp_in = 0, fp_out = 0, area = 0;
    for (size_t i = 0; i < n; i++) {
        *(keys[i] & TAMPERED ? &all : &rest) += 1;
        inner += (keys[i] & INSIDE) != 0;
        outer += (keys[i] & OUTSIDE) != 0;
    }
    s->best_f1 = s->best_iou = -1;
    s->permuted_best_f1 = inner + outer > 0 ? 0 : NAN;
    for (size_t i = n; i > 0;) {
        const uint64_t group = keys[i - 1] >> FLAG_BITS;
        const double tp0 = tp, fp0 = fp;
        for (; i > 0 && keys[i - 1] >> FLAG_BITS == group; i--) {
            *(keys[i - 1] & TAMPERED ? &tp : &fp) += 1;
            tp_in += (keys[i - 1] & INSIDE) != 0;
            fp_out += (keys[i - 1] & OUTSIDE) != 0;
        }
        area += (fp - fp0) * (tp + tp0) / 2;
        const fs_confusion here = {.tp = tp, .fp = fp, .fn = all - tp, .tn = rest - fp};
        const double f1 = fs_pixel_f1(&here), iou = fs_pixel_iou(&here);
        if (f1 > s->best_f1) s->best_f1 = f1, s->best_threshold = (double)score_of(keys[i]);
        if (iou > s->best_iou) s->best_iou = iou;
        if (inner + outer > 0) {
            const double marked = tp_in + fp_out, others = inner + outer - marked;
            const double direct = 2 * tp_in / fmax(marked + inner, 1e-32), inverse = 2 * (inner - tp_in) / fmax(others + inner, 1e-32);
            s->permuted_best_f1 = fmax(s->permuted_best_f1, fmax(direct, inverse));
        }
    }
    if (all == 0) s->best_f1 = s->best_iou = 0, s->best_threshold = NAN; /* a threshold past every score would be right: see fixed */
    s->auc = all > 0 && rest > 0 ? area / (all * rest) : NAN;
}

/* The fixed threshold without the edge's neighbourhood. in: tampered pixels left, marked and not; out: authentic ones. */
static void permuted_fixed(const fs_confusion *c, fs_pixel_scores *s) {
    const bool one_class = (c->tp + c->fn == 0 && c->tp + c->fp == 0) || (c->fp + c->tn == 0 && c->fn + c->tn == 0);
    const fs_confusion inverse = {.tp = c->fn, .fp = c->tn, .fn = c->tp, .tn = c->fp};
    if (one_class) {
        s->permuted_f1 = s->permuted_iou = NAN;
        return;
    }
    const double direct_all = c->tp + c->fp + c->fn, inverse_all = inverse.tp + inverse.fp + inverse.fn;
    s->permuted_f1 = fmax(2 * c->tp / fmax(c->tp + direct_all, 1e-32), 2 * inverse.tp / fmax(inverse.tp + inverse_all, 1e-32));
    s->permuted_iou = fmax(c->tp / fmax(direct_all, 1e-32), inverse.tp / fmax(inverse_all, 1e-32));
}

static fs_status check_scores(const float *score, int64_t w, int64_t h, fs_error *err) {
    for (int64_t i = 0; i < w * h; i++)
        if (!(score[i] >= 0 && score[i] <= 1))
            return fs_fail(err, FS_E_NUMERIC, "the score at column %lld, row %lld is %g; expected 0 to 1", (long long)(i % w),
                           (long long)(i / w), (double)score[i]);
    return FS_OK;
}

fs_status fs_pixel_score(const float *score, const uint8_t *truth, int64_t w, int64_t h, fs_pixel_scores *out, fs_error *err) {
    const size_t n = (size_t)w * (size_t)h;
    uint8_t *inside = NULL, *outside = NULL;
    uint64_t *keys = NULL, *sorted = NULL;
    *out = (fs_pixel_scores){.binary = true};
    fs_status status = check_scores(score, w, h, err);
    if (status) return status;
    inside = fs_alloc(n, 1);
    outside = fs_alloc(n, 1);
    keys = fs_alloc(n, sizeof *keys);
    sorted = fs_alloc(n, sizeof *sorted);
    if (!inside || !outside || !keys || !sorted) {
        status = fs_fail(err, FS_E_NO_MEMORY, "no memory to compare %lld x %lld pixels", (long long)w, (long long)h);
        goto done;
    }
    if ((status = fs_mask_erode(truth, w, h, ERODE, true, inside, err)) ||
        (status = fs_mask_erode(truth, w, h, DILATE, false, outside, err)))
        goto done;
    fs_confusion far = {0};
    for (size_t i = 0; i < n; i++) {
        const bool t = truth[i] != 0, said = score[i] > 0.5f;
        const int bin = (int)(score[i] * FS_MAP_BINS);
        fs_confusion_add(&out->fixed, t, said, 1);
        if (inside[i] || outside[i]) fs_confusion_add(&far, t, said, 1);
        (t ? out->tampered : out->authentic)[bin < FS_MAP_BINS ? bin : FS_MAP_BINS - 1] += 1;
        out->binary &= score[i] == 0 || score[i] == 1;
        keys[i] = key_of(score[i], (t ? TAMPERED : 0u) | (inside[i] ? INSIDE : 0u) | (outside[i] ? OUTSIDE : 0u));
    }
    out->iou = fs_pixel_iou(&out->fixed);
    out->f1 = fs_pixel_f1(&out->fixed);
    permuted_fixed(&far, out);
    sort_keys(keys, sorted, n);
    run_through(sorted, n, out);
    if (out->fixed.tp + out->fixed.fn == 0) { /* nothing is tampered: the best is to mark nothing, as score > 0.5 may do */
        out->best_f1 = out->best_iou = 1;
    }
done:
    free(inside);
    free(outside);
    free(keys);
    free(sorted);
    return status;
}

void fs_pixel_score_nothing(const uint8_t *truth, int64_t w, int64_t h, fs_pixel_scores *out) {
    *out = (fs_pixel_scores){.binary = true, .best_threshold = NAN};
    for (int64_t i = 0; i < w * h; i++) fs_confusion_add(&out->fixed, truth[i] != 0, false, 1);
    out->tampered[0] = out->fixed.fn;
    out->authentic[0] = out->fixed.tn;
    out->iou = out->best_iou = fs_pixel_iou(&out->fixed);
    out->f1 = out->best_f1 = fs_pixel_f1(&out->fixed);
    out->auc = out->fixed.fn > 0 && out->fixed.tn > 0 ? 0.5 : NAN;
}
