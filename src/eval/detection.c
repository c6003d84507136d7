/* Figures of a yes-or-no answer and of a ranking: accuracy and its kin, the area under the ROC curve, average precision, curves. The
 * definitions are those of scikit-learn's metrics (tests/golden/metrics.json compares), except that 0/0 is NaN instead of 0, and that the
 * balanced accuracy of a set with one class is NaN instead of that class's recall: a set of forgeries alone says nothing about false
 * alarms. */
#include "eval/metrics.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void fs_confusion_add(fs_confusion *c, bool truth, bool said, double weight) {
    *(truth ? said ? &c->tp : &c->fn : said ? &c->fp : &c->tn) += weight;
}

static double quotient(double a, double b) {
    return b > 0 ? a / b : NAN;
}

fs_rates fs_confusion_rates(const fs_confusion *c) {
    fs_rates r = {.accuracy = quotient(c->tp + c->tn, c->tp + c->fp + c->fn + c->tn),
                  .f1 = quotient(2 * c->tp, 2 * c->tp + c->fp + c->fn),
                  .precision = quotient(c->tp, c->tp + c->fp),
                  .recall = quotient(c->tp, c->tp + c->fn),
                  .specificity = quotient(c->tn, c->tn + c->fp),
                  .iou = quotient(c->tp, c->tp + c->fp + c->fn)};
    r.balanced = (r.recall + r.specificity) / 2; /* NaN if either is */
    return r;
}

const char *fs_baseline_name(fs_baseline b) {
    switch (b) {
    case FS_BASELINE_TAMPERED:
        return "always tampered";
    case FS_BASELINE_AUTHENTIC:
        return "always authentic";
    case FS_BASELINE_COIN:
        return "fair coin";
    }
    return "unknown";
}

bool fs_baseline_from_name(const char *name, fs_baseline *out) {
    for (int b = 0; b < FS_BASELINES; b++)
        if (strcmp(name, fs_baseline_name((fs_baseline)b)) == 0) return *out = (fs_baseline)b, true;
    return false;
}

fs_confusion fs_baseline_counts(fs_baseline b, double positives, double negatives) {
    const double share = b == FS_BASELINE_TAMPERED ? 1 : b == FS_BASELINE_AUTHENTIC ? 0 : 0.5;
    return (fs_confusion){.tp = positives * share, .fp = negatives * share, .fn = positives * (1 - share), .tn = negatives * (1 - share)};
}

/* ---- rankings ---- */

typedef struct entry {
    double score;
    size_t index;
} entry;

/* Highest first; equal scores by index, so that the order does not depend on the sort. */
static int by_score(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->score != y->score) return x->score > y->score ? -1 : 1;
    return x->index < y->index ? -1 : x->index > y->index;
}

fs_status fs_ranking_create(const double *score, const bool *positive, size_t n, const char *const *names, fs_ranking *out, fs_error *err) {
    *out = (fs_ranking){.n = n};
    fs_status status = FS_OK;
    entry *entries = fs_alloc(n, sizeof *entries);
    out->order = fs_alloc(n, sizeof *out->order);
    out->score = fs_alloc(n, sizeof *out->score);
    out->positive = fs_alloc(n, sizeof *out->positive);
    if (!entries || !out->order || !out->score || !out->positive) {
        status = fs_fail(err, FS_E_NO_MEMORY, "no memory to rank %zu scores", n);
        goto done;
    }
    for (size_t i = 0; i < n; i++) {
        if (isnan(score[i])) {
            status = names ? fs_fail(err, FS_E_NUMERIC, "%s: its score is no number (NaN)", names[i])
                           : fs_fail(err, FS_E_NUMERIC, "score number %zu is no number (NaN)", i);
            goto done;
        }
        entries[i] = (entry){score[i], i};
    }
    qsort(entries, n, sizeof *entries, by_score);
    for (size_t i = 0; i < n; i++) {
        out->order[i] = entries[i].index;
        out->score[i] = entries[i].score;
        out->positive[i] = positive[entries[i].index];
    }
done:
    free(entries);
    if (status) fs_ranking_free(out);
    return status;
}

void fs_ranking_free(fs_ranking *r) {
    free(r->order);
    free(r->score);
    free(r->positive);
    *r = (fs_ranking){0};
}

/* Adds the records of equal score from `at` on to the counts; the place behind them. */
static size_t take_group(const fs_ranking *r, const double *weight, size_t at, double *tp, double *fp) {
    const double score = r->score[at];
    for (; at < r->n && r->score[at] == score; at++) *(r->positive[at] ? tp : fp) += weight ? weight[r->order[at]] : 1;
    return at;
}

double fs_ranking_auc(const fs_ranking *r, const double *weight) {
    double tp = 0, fp = 0, area = 0;
    for (size_t i = 0; i < r->n;) {
        const double tp0 = tp, fp0 = fp;
        i = take_group(r, weight, i, &tp, &fp);
        area += (fp - fp0) * (tp + tp0) / 2;
    }
    return tp > 0 && fp > 0 ? area / (tp * fp) : NAN;
}

double fs_ranking_average_precision(const fs_ranking *r, const double *weight) {
    double tp = 0, fp = 0, sum = 0;
    for (size_t i = 0; i < r->n;) {
        const double tp0 = tp;
        i = take_group(r, weight, i, &tp, &fp);
        if (tp > tp0) sum += (tp - tp0) * tp / (tp + fp);
    }
    return tp > 0 ? sum / tp : NAN;
}

fs_status fs_ranking_curve(const fs_ranking *r, fs_curve_point **out, size_t *n, fs_error *err) {
    double tp = 0, fp = 0, positives = 0, negatives = 0;
    *n = 0;
    *out = fs_alloc(r->n + 1, sizeof **out);
    if (!*out) return fs_fail(err, FS_E_NO_MEMORY, "no memory for a curve of %zu points", r->n + 1);
    for (size_t i = 0; i < r->n; i++) *(r->positive[i] ? &positives : &negatives) += 1;
    (*out)[(*n)++] = (fs_curve_point){.threshold = INFINITY, .false_rate = 0, .recall = 0, .precision = 1};
    for (size_t i = 0; i < r->n;) {
        const double score = r->score[i];
        i = take_group(r, NULL, i, &tp, &fp);
        (*out)[(*n)++] = (fs_curve_point){
            .threshold = score, .false_rate = quotient(fp, negatives), .recall = quotient(tp, positives), .precision = tp / (tp + fp)};
    }
    return FS_OK;
}
