/* From rows to tables: one table for each set under each condition, and one for all sets together. Every figure is a function of weights on
 * the rows, so that a resample of the bootstrap is computed by the same code as the figure itself. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/words.h"

/* The rows of one table, with what does not change from resample to resample worked out. */
typedef struct frame {
    const fs_eval_row **row;
    size_t n;
    signed char *said[FS_READINGS]; /* [n] 1 tampered, 0 authentic, -1 no answer */
    fs_ranking ranking;             /* of the rows that have a score */
    double *ranked_weight;          /* [ranking.n] */
    size_t *ranked;                 /* [ranking.n] which row */
    double *best_iou, *best_f1;     /* [n] at the set's best threshold; NaN where there is no localization */
} frame;

static bool counts_for_localization(const fs_eval_row *r) {
    return r->tampered && r->located;
}

static int say(const fs_eval_row *r, fs_eval_reading reading) {
    if (reading == FS_READING_SCORE) return !r->has_score || isnan(r->score) ? -1 : r->score > 0.5;
    if (!r->answered) return -1;
    fs_verdict v = reading == FS_READING_TOLERANT && r->tolerant != FS_VERDICT_UNDETERMINED ? r->tolerant : r->literal;
    return v == FS_VERDICT_TAMPERED;
}

/* ---- figures of weighted rows ---- */

static double mean(double sum, double weight) {
    return weight > 0 ? sum / weight : NAN;
}

static void detection(const frame *f, const double *weight, double *out) {
    for (int reading = 0; reading < FS_READINGS; reading++) {
        fs_confusion c = {0};
        for (size_t i = 0; i < f->n; i++)
            if (f->said[reading][i] >= 0) fs_confusion_add(&c, f->row[i]->tampered, f->said[reading][i] > 0, weight ? weight[i] : 1);
        const fs_rates r = fs_confusion_rates(&c);
        const double rates[FS_RATES] = {r.accuracy, r.f1, r.precision, r.recall, r.specificity, r.balanced};
        memcpy(out + FS_FIG_DETECTION + FS_RATES * reading, rates, sizeof rates);
    }
    for (size_t k = 0; k < f->ranking.n; k++) f->ranked_weight[k] = weight ? weight[f->ranked[k]] : 1;
    out[FS_FIG_AUC] = fs_ranking_auc(&f->ranking, f->ranked_weight);
    out[FS_FIG_AP] = fs_ranking_average_precision(&f->ranking, f->ranked_weight);
}

/* A mean over pictures where each value may be missing. */
typedef struct average {
    double sum, weight;
} average;
static void average_add(average *a, double value, double weight) {
    if (isnan(value)) return;
    a->sum += weight * value;
    a->weight += weight;
}

static void localization(const frame *f, const double *weight, double *out) {
    average a[2 * FS_PROTOCOLS] = {0}, auc = {0}, precision = {0}, recall = {0}, area = {0};
    double giou = 0, n = 0, tampered[FS_MAP_BINS] = {0}, authentic[FS_MAP_BINS] = {0};
    fs_confusion pool = {0};
    for (size_t i = 0; i < f->n; i++) {
        const fs_eval_row *r = f->row[i];
        const fs_pixel_scores *p = &r->pixels;
        const double w = weight ? weight[i] : 1;
        if (w == 0 || !r->located) continue;
        if (!r->tampered) {
            average_add(&area, r->silent ? 0 : p->fixed.fp / (p->fixed.fp + p->fixed.tn), w);
            continue;
        }
        const double values[2 * FS_PROTOCOLS] = {p->iou,
                                                 p->f1,
                                                 NAN,
                                                 NAN,
                                                 NAN,
                                                 NAN,
                                                 f->best_iou[i],
                                                 f->best_f1[i],
                                                 p->best_iou,
                                                 p->best_f1,
                                                 p->permuted_iou,
                                                 p->permuted_f1,
                                                 NAN,
                                                 p->permuted_best_f1};
        for (int k = 0; k < 2 * FS_PROTOCOLS; k++) average_add(&a[k], values[k], w);
        average_add(&auc, p->auc, w);
        const fs_rates rates = fs_confusion_rates(&p->fixed);
        average_add(&precision, rates.precision, w);
        average_add(&recall, rates.recall, w);
        pool.tp += w * p->fixed.tp, pool.fp += w * p->fixed.fp, pool.fn += w * p->fixed.fn, pool.tn += w * p->fixed.tn;
        const double joined = p->fixed.tp + p->fixed.fp + p->fixed.fn;
        giou += w * (joined > 0 ? p->fixed.tp / (joined + 1e-5) : 1);
        n += w;
        for (int k = 0; k < FS_MAP_BINS; k++) tampered[k] += w * p->tampered[k], authentic[k] += w * p->authentic[k];
    }
    double *local = out + FS_FIG_LOCAL;
    for (int k = 0; k < 2 * FS_PROTOCOLS; k++) local[k] = mean(a[k].sum, a[k].weight);
    local[2 * FS_EVAL_POOLED] = n > 0 ? fs_pixel_iou(&pool) : NAN;
    local[2 * FS_EVAL_POOLED + 1] = n > 0 ? fs_pixel_f1(&pool) : NAN;
    local[2 * FS_EVAL_UPSTREAM_IOU] = n > 0 ? giou / (n + 1e-5) : NAN;
    local[2 * FS_EVAL_UPSTREAM_IOU + 1] = n > 0 ? pool.tp / (pool.tp + pool.fp + pool.fn + 1e-10) : NAN;
    out[FS_FIG_PIXEL_AUC] = mean(auc.sum, auc.weight);
    out[FS_FIG_POOLED_AUC] = fs_histogram_auc(tampered, authentic, FS_MAP_BINS);
    out[FS_FIG_PIXEL_PRECISION] = mean(precision.sum, precision.weight);
    out[FS_FIG_PIXEL_RECALL] = mean(recall.sum, recall.weight);
    out[FS_FIG_FALSE_AREA] = mean(area.sum, area.weight);
}

static void explanation(const frame *f, const double *weight, double *out) {
    average css = {0}, other = {0}, words[FS_WORD_FIGURES] = {0};
    double agree[FS_WORD_FIGURES];
    for (size_t i = 0; i < f->n; i++) {
        const double w = weight ? weight[i] : 1;
        average_add(&css, f->row[i]->css, w);
        average_add(&other, f->row[i]->css_other, w);
        if (!fs_eval_words_judge(f->row[i], agree)) continue;
        for (int k = 0; k < FS_WORD_FIGURES; k++) average_add(&words[k], agree[k], w);
    }
    out[FS_FIG_CSS] = mean(css.sum, css.weight);
    out[FS_FIG_CSS_OTHER] = mean(other.sum, other.weight);
    for (int k = 0; k < FS_WORD_FIGURES; k++) out[FS_FIG_WORDS + k] = mean(words[k].sum, words[k].weight);
}

static void figures(void *user, const double *weight, double *out) {
    const frame *f = user;
    detection(f, weight, out);
    localization(f, weight, out);
    explanation(f, weight, out);
}

/* ---- the threshold that suits a whole set ---- */

/* IoU and F1 of a picture when pixels of level k / 256 and above are marked. */
static void at_level(const fs_eval_row *r, double iou[FS_MAP_BINS], double f1[FS_MAP_BINS]) {
    const fs_pixel_scores *p = &r->pixels;
    const double all = p->fixed.tp + p->fixed.fn;
    double tp = 0, fp = 0;
    for (int k = FS_MAP_BINS; k-- > 0;) {
        tp += p->tampered[k];
        fp += p->authentic[k];
        const fs_confusion c = {.tp = r->silent ? 0 : tp, .fp = r->silent ? 0 : fp, .fn = r->silent ? all : all - tp};
        iou[k] = fs_pixel_iou(&c);
        f1[k] = fs_pixel_f1(&c);
    }
}

static int highest(const double v[FS_MAP_BINS]) {
    int best = 0;
    for (int k = 1; k < FS_MAP_BINS; k++)
        if (v[k] > v[best]) best = k;
    return best;
}

static void best_of_set(const frame *f, fs_eval_table *t) {
    double iou[FS_MAP_BINS], f1[FS_MAP_BINS], sum_iou[FS_MAP_BINS] = {0}, sum_f1[FS_MAP_BINS] = {0};
    size_t n = 0;
    for (size_t i = 0; i < f->n; i++) {
        if (!counts_for_localization(f->row[i])) continue;
        at_level(f->row[i], iou, f1);
        for (int k = 0; k < FS_MAP_BINS; k++) sum_iou[k] += iou[k], sum_f1[k] += f1[k];
        n++;
    }
    const int k_iou = highest(sum_iou), k_f1 = highest(sum_f1);
    t->threshold_iou = n ? (double)k_iou / FS_MAP_BINS : NAN;
    t->threshold_f1 = n ? (double)k_f1 / FS_MAP_BINS : NAN;
    for (size_t i = 0; i < f->n; i++) {
        f->best_iou[i] = f->best_f1[i] = NAN;
        if (!counts_for_localization(f->row[i])) continue;
        at_level(f->row[i], iou, f1);
        f->best_iou[i] = iou[k_iou];
        f->best_f1[i] = f1[k_f1];
    }
}

/* ---- a table ---- */

static void frame_free(frame *f) {
    for (int k = 0; k < FS_READINGS; k++) free(f->said[k]);
    fs_ranking_free(&f->ranking);
    free(f->ranked_weight);
    free(f->ranked);
    free(f->best_iou);
    free(f->best_f1);
}

static fs_status rank_rows(frame *f, const fs_eval_options *opt, fs_error *err) {
    const size_t n = f->n;
    double *score = fs_alloc(n, sizeof *score);
    bool *positive = fs_alloc(n, sizeof *positive);
    const char **names = fs_alloc(n, sizeof *names);
    fs_status status = FS_OK;
    size_t m = 0;
    if (!score || !positive || !names) status = fs_eval_no_memory(err, "a ranking");
    for (size_t i = 0; i < n && !status; i++) {
        const fs_eval_row *r = f->row[i];
        if (!r->has_score || (isnan(r->score) && opt->nan == FS_EVAL_EXCLUDE)) continue;
        score[m] = r->score, positive[m] = r->tampered, names[m] = r->image, f->ranked[m++] = i;
    }
    if (!status) status = fs_ranking_create(score, positive, m, names, &f->ranking, err);
    free(score);
    free(positive);
    free(names);
    return status;
}

static fs_status frame_build(frame *f, const fs_eval_options *opt, fs_eval_table *t, fs_error *err) {
    const size_t n = f->n;
    f->ranked_weight = fs_alloc(n, sizeof(double));
    f->ranked = fs_alloc(n, sizeof(size_t));
    f->best_iou = fs_alloc(n, sizeof(double));
    f->best_f1 = fs_alloc(n, sizeof(double));
    bool memory = f->ranked_weight && f->ranked && f->best_iou && f->best_f1;
    for (int k = 0; k < FS_READINGS && memory; k++) {
        memory = (f->said[k] = fs_alloc(n, 1)) != NULL;
        for (size_t i = 0; i < n && memory; i++) f->said[k][i] = (signed char)say(f->row[i], (fs_eval_reading)k);
    }
    if (!memory) return fs_eval_no_memory(err, "the tables");
    best_of_set(f, t);
    return rank_rows(f, opt, err);
}

static void count_rows(const frame *f, fs_eval_table *t) {
    t->pictures = f->n;
    t->ranked = f->ranking.n;
    t->binary = true;
    for (size_t i = 0; i < f->n; i++) {
        const fs_eval_row *r = f->row[i];
        ++*(r->tampered ? &t->tampered : &t->authentic);
        for (int k = 0; k < FS_READINGS; k++)
            if (f->said[k][i] >= 0) t->answered[k]++, fs_confusion_add(&t->counts[k], r->tampered, f->said[k][i] > 0, 1);
        t->undetermined += r->answered && r->tolerant == FS_VERDICT_UNDETERMINED;
        t->explained += isnan(r->css) ? 0 : 1;
        t->located_authentic += r->located && !r->tampered;
        if (!counts_for_localization(r)) continue;
        t->located++;
        t->silent += r->silent;
        t->empty_masks += r->pixels.fixed.tp + r->pixels.fixed.fn == 0;
        t->binary &= r->pixels.binary;
        const int bin = (int)(r->pixels.iou * 20);
        t->histogram[bin < 20 ? bin : 19]++;
    }
}

static fs_status fill_table(const fs_eval_row **row, size_t n, const char *group, const char *condition, const fs_eval_options *opt,
                            fs_eval_table *t, fs_error *err) {
    frame f = {.row = row, .n = n};
    uint8_t *stratum = fs_alloc(n, 1);
    fs_status status = FS_OK;
    *t = (fs_eval_table){.group = fs_strdup(group), .condition = fs_strdup(condition)};
    if (!stratum || !t->group || !t->condition) {
        status = fs_fail(err, FS_E_NO_MEMORY, "no memory for the tables of %zu pictures", n);
        goto done;
    }
    if ((status = frame_build(&f, opt, t, err))) goto done;
    count_rows(&f, t);
    fs_eval_words_count(row, n, &t->words);
    figures(&f, NULL, t->value);
    if (t->ranked && (status = fs_ranking_curve(&f.ranking, &t->curve, &t->n_curve, err))) goto done;
    for (size_t i = 0; i < n; i++) stratum[i] = row[i]->tampered;
    status = fs_bootstrap(n, opt->stratified ? stratum : NULL, opt->resamples, opt->level, opt->seed, figures, &f, FS_FIGURES, t->range,
                          &opt->callbacks, err);
    for (int k = 0; k < FS_FIGURES; k++)
        if (isnan(t->value[k])) t->range[k] = (fs_interval){NAN, NAN}; /* resamples may define what the sample does not */
done:
    frame_free(&f);
    free(stratum);
    return status;
}

void fs_eval_summary_free(fs_eval_summary *s) {
    for (size_t i = 0; i < s->count; i++) free(s->tables[i].group), free(s->tables[i].condition), free(s->tables[i].curve);
    free(s->tables);
    *s = (fs_eval_summary){0};
}

/* ---- all tables ---- */

static void hash_data(const fs_eval_book *b, char out[65]) {
    fs_sha256 h;
    fs_sha256_begin(&h);
    for (size_t i = 0; i < b->rows.count; i++) {
        const fs_eval_row *r = &b->rows.items[i];
        if (r->step) continue;
        const char *parts[] = {r->set, "/", r->name, r->tampered ? " 1 " : " 0 ", r->sha256, " ", r->mask_sha256, "\n"};
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) fs_sha256_add(&h, parts[k], strlen(parts[k]));
    }
    fs_sha256_end(&h, out);
}

/* Group names in the order in which they come. */
static size_t list_groups(const fs_eval_rows *rows, const char **groups) {
    size_t n = 0;
    for (size_t i = 0; i < rows->count; i++) {
        size_t k = 0;
        while (k < n && strcmp(groups[k], rows->items[i].group) != 0) k++;
        if (k == n) groups[n++] = rows->items[i].group;
    }
    return n;
}

static fs_status add_table(fs_eval_summary *s, const fs_eval_rows *rows, int64_t step, const char *group, const fs_eval_row **chosen,
                           const fs_eval_options *opt, fs_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < rows->count; i++)
        if (rows->items[i].step == step && (!group || strcmp(rows->items[i].group, group) == 0)) chosen[n++] = &rows->items[i];
    if (!n) return FS_OK;
    return fill_table(chosen, n, group ? group : "all", chosen[0]->condition, opt, &s->tables[s->count++], err);
}

fs_status fs_eval_summarize(const fs_eval_book *b, const fs_eval_options *opt, fs_eval_summary *out, fs_error *err) {
    const fs_eval_rows *rows = &b->rows;
    const fs_eval_row **chosen = fs_alloc(rows->count, sizeof *chosen);
    const char **groups = fs_alloc(rows->count, sizeof *groups);
    fs_status status = FS_OK;
    int64_t steps = 0;
    *out = (fs_eval_summary){0};
    if (!chosen || !groups) {
        status = fs_fail(err, FS_E_NO_MEMORY, "no memory for the tables of %zu pictures", rows->count);
        goto done;
    }
    const size_t n = list_groups(rows, groups);
    for (size_t i = 0; i < rows->count; i++)
        if (rows->items[i].step >= steps) steps = rows->items[i].step + 1;
    size_t tables = 0;
    if (!fs_mul_size((size_t)steps, n + 1, &tables) || !(out->tables = fs_alloc_zero(tables, sizeof *out->tables))) {
        status = fs_fail(err, FS_E_NO_MEMORY, "no memory for the tables of %zu sets", n);
        goto done;
    }
    for (int64_t step = 0; step < steps && !status; step++) {
        for (size_t k = 0; k < n && !status; k++) status = add_table(out, rows, step, groups[k], chosen, opt, err);
        if (!status && n > 1) status = add_table(out, rows, step, NULL, chosen, opt, err);
    }
    hash_data(b, out->data_hash);
done:
    free(chosen);
    free(groups);
    if (status) fs_eval_summary_free(out);
    return status;
}
