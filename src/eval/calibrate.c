/* Calibration of scores (Platt 1999 with his smoothed targets; Lin, Lin and Weng 2007 for the way to fit it): p = 1 / (1 + exp(-(a x + b)))
 * over the scores' log-odds x, a and b by Newton's method on the log loss. Both classes weigh the same, so that p is the probability at
 * even odds whatever the mixture of the data. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/calibrate.h"
#include "eval/eval.h"
#include "pipeline/pipeline.h"

enum { ROUNDS = 200, FEWEST = 10 }; /* FEWEST: pictures of each class */

double fs_log_odds(double score) {
    const double least = 5e-7; /* results hold six decimals */
    const double p = fmin(fmax(score, least), 1 - least);
    return log(p / (1 - p));
}

/* log(1 + exp(x)) */
static double softplus(double x) {
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static double log_loss(const fs_scored *s, size_t n, const double weight[2], const double target[2], double a, double b) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        const double x = a * s[i].log_odds + b;
        sum += weight[s[i].tampered] * (softplus(x) - target[s[i].tampered] * x);
    }
    return sum;
}

double fs_calibration_error(const fs_scored *s, size_t n, double a, double b) {
    enum { BINS = 10 };
    double weight[BINS] = {0}, said[BINS] = {0}, was[BINS] = {0}, error = 0;
    size_t count[2] = {0};
    for (size_t i = 0; i < n; i++) count[s[i].tampered]++;
    for (size_t i = 0; i < n; i++) {
        const double p = 1 / (1 + exp(-(a * s[i].log_odds + b))), w = 0.5 / (double)count[s[i].tampered];
        const int k = (int)fmin(p * BINS, BINS - 1);
        weight[k] += w, said[k] += w * p, was[k] += w * s[i].tampered;
    }
    for (int k = 0; k < BINS; k++) error += fabs(said[k] - was[k]);
    return error;
}

fs_status fs_calibration_fit(const fs_scored *s, size_t n, double *slope, double *offset, fs_error *err) {
    size_t count[2] = {0};
    for (size_t i = 0; i < n; i++) count[s[i].tampered]++;
    if (count[0] < FEWEST || count[1] < FEWEST)
        return fs_fail(err, FS_E_USAGE, "calibration: %zu tampered and %zu authentic pictures have a score; expected at least %d of each",
                       count[1], count[0], (int)FEWEST);
    const double weight[2] = {0.5 / (double)count[0], 0.5 / (double)count[1]};
    const double target[2] = {1 / ((double)count[0] + 2), ((double)count[1] + 1) / ((double)count[1] + 2)};
    double a = 1, b = 0, loss = log_loss(s, n, weight, target, a, b);
    for (int round = 0; round < ROUNDS; round++) {
        double ga = 0, gb = 0, haa = 1e-12, hab = 0, hbb = 1e-12;
        for (size_t i = 0; i < n; i++) {
            const double x = s[i].log_odds, p = 1 / (1 + exp(-(a * x + b))), w = weight[s[i].tampered], d = w * (p - target[s[i].tampered]),
                         h = w * p * (1 - p);
            ga += d * x, gb += d, haa += h * x * x, hab += h * x, hbb += h;
        }
        if (fabs(ga) < 1e-10 && fabs(gb) < 1e-10) break;
        const double det = haa * hbb - hab * hab;
        if (!(det > 0)) break;
        const double da = -(hbb * ga - hab * gb) / det, db = -(haa * gb - hab * ga) / det;
        double step = 1, next = loss;
        for (int halved = 0; halved < 34; halved++, step /= 2) {
            next = log_loss(s, n, weight, target, a + step * da, b + step * db);
            if (next < loss) break;
        }
        if (!(next < loss)) break;
        a += step * da, b += step * db, loss = next;
    }
    if (!isfinite(a) || !isfinite(b) || a < 1e-6)
        return fs_fail(
            err, FS_E_FAILED,
            "calibration: the scores do not rank tampered pictures above authentic ones (slope %.3g); there is nothing to calibrate", a);
    *slope = a, *offset = b;
    return FS_OK;
}

static fs_status collect(const char *dir, const fs_eval_book *b, fs_scored **out, size_t *n, fs_error *err) {
    size_t left_out = 0;
    *n = 0;
    *out = fs_alloc(b->rows.count + 1, sizeof **out);
    if (!*out) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    for (size_t i = 0; i < b->rows.count; i++) {
        const fs_eval_row *r = &b->rows.items[i];
        if (r->condition && *r->condition) continue; /* pictures made worse on purpose are no validation data */
        if (r->has_score && !isnan(r->score))
            (*out)[(*n)++] = (fs_scored){fs_log_odds(r->score), r->tampered};
        else
            left_out++;
    }
    return *n ? FS_OK
              : fs_fail(err, FS_E_NOT_FOUND,
                        "%s: none of its %zu pictures has a score; run: fakeshield eval DATA -m BUNDLE --verdict-only -o %s", dir, left_out,
                        dir);
}

/* Was the evaluation made of this bundle as it is? */
static fs_status same_model(const fs_eval_book *b, const char *bundle, const char *eval_dir, const fs_options *options, fs_error *err) {
    fs_layout layout = {0};
    char fingerprint[65];
    fs_options plain = fs_options_defaults();
    plain.domain_given = options->domain_given;
    fs_status status = fs_layout_find(bundle, &plain, &layout, err);
    if (!status && !layout.bundle)
        status = fs_fail(err, FS_E_USAGE, "%s: is no bundle; a calibration is kept in one (make one: fakeshield convert %s -o BUNDLE)",
                         bundle, bundle);
    if (!status) status = fs_fingerprint(&layout, &plain, fingerprint, err);
    if (!status && strcmp(fingerprint, b->info.fingerprint) != 0)
        status = fs_fail(err, FS_E_MISMATCH, "%s: is an evaluation of another model (%s) than %s; evaluate this bundle", eval_dir,
                         b->info.model, bundle);
    fs_layout_free(&layout);
    return status;
}

fs_status fs_calibrate(const char *bundle_dir, const char *eval_dir, const char *out_dir, double band, const fs_options *options,
                       char **text, fs_error *err) {
    fs_eval_book book = {0};
    fs_calibration was, c = {.on = true, .method = FS_CALIBRATION_PLATT};
    fs_scored *scored = NULL;
    size_t n = 0;
    double slope = 1, offset = 0;
    if (text) *text = NULL;
    if (!(band >= 0 && band <= 0.5)) return fs_fail(err, FS_E_USAGE, "calibration: a band of %g around 0.5, expected 0 to 0.5", band);
    fs_status status = fs_bundle_calibration(bundle_dir, &was, err);
    if (!status) status = fs_eval_book_read(eval_dir, &book, err);
    if (!status) status = same_model(&book, bundle_dir, eval_dir, options, err);
    if (!status) status = collect(eval_dir, &book, &scored, &n, err);
    if (!status) status = fs_calibration_fit(scored, n, &slope, &offset, err);
    if (status) goto done;
    /* the scores went through the calibration that the bundle has: one after the other */
    c.slope = slope * was.slope;
    c.offset = slope * was.offset + offset;
    c.low = 0.5 - band, c.high = 0.5 + band;
    c.records = (int64_t)n;
    c.ece_before = fs_calibration_error(scored, n, 1 / was.slope, -was.offset / was.slope); /* of the score without any */
    c.ece_after = fs_calibration_error(scored, n, slope, offset);
    if ((status = fs_bundle_calibrate(bundle_dir, out_dir, &c, options, err)) || !text) goto done;
    size_t open = 0, right = 0;
    for (size_t i = 0; i < n; i++) {
        const double p = 1 / (1 + exp(-(slope * scored[i].log_odds + offset)));
        if (fs_calibration_open_verdict(&c, p))
            open++;
        else
            right += (p > 0.5) == scored[i].tampered;
    }
    *text = fs_format("%zu pictures: log-odds x %.4f %+.4f; calibration error %.4f before, %.4f after\n"
                      "undetermined from %.2f to %.2f: %.1f %% of them; of the others %.1f %% are right\n",
                      n, slope, offset, c.ece_before, c.ece_after, c.low, c.high, 100 * (double)open / (double)n,
                      n > open ? 100 * (double)right / (double)(n - open) : 0.0);
    if (!*text) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
done:
    free(scored);
    fs_eval_book_free(&book);
    return status;
}
