/* What an evaluation writes for programs and terminals: images.csv, summary.json, the tables as text. The HTML report is in html.c. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "data/mask_words.h"
#include "eval/eval.h"

/* ---- images.csv (RFC 4180) ---- */

static void csv_text(fs_buffer *b, const char *s) {
    if (!s) return;
    if (!strpbrk(s, ",\"\r\n")) {
        fs_buffer_puts(b, s);
        return;
    }
    fs_buffer_puts(b, "\"");
    for (; *s; s++) {
        if (*s == '"') fs_buffer_puts(b, "\"");
        fs_buffer_add(b, s, 1);
    }
    fs_buffer_puts(b, "\"");
}

static void csv_number(fs_buffer *b, bool there, double v) {
    fs_buffer_puts(b, ",");
    if (there && !isnan(v)) fs_buffer_printf(b, "%.9g", v);
}

static void csv_row(fs_buffer *b, const fs_eval_row *r) {
    const fs_pixel_scores *p = &r->pixels;
    const bool local = r->located && r->tampered;
    const char *texts[] = {r->condition, r->set, r->group, r->name, r->image};
    fs_buffer_printf(b, "%" PRId64, r->index);
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) fs_buffer_puts(b, ","), csv_text(b, texts[i]);
    fs_buffer_printf(b, ",%s,%s,%s", r->tampered ? "tampered" : "authentic", r->answered ? fs_verdict_name(r->literal) : "",
                     r->answered ? fs_verdict_name(r->tolerant) : "");
    if (r->has_score && isnan(r->score))
        fs_buffer_puts(b, ",nan");
    else
        csv_number(b, r->has_score, r->score);
    const double counts[] = {p->fixed.tp, p->fixed.fp, p->fixed.fn, p->fixed.tn};
    const double figures[] = {p->iou,          p->f1,          p->best_iou,         p->best_f1, p->best_threshold,
                              p->permuted_iou, p->permuted_f1, p->permuted_best_f1, p->auc};
    for (size_t i = 0; i < 4; i++) csv_number(b, r->located && (r->mask || !r->silent), counts[i]);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) csv_number(b, local, figures[i]);
    csv_number(b, true, r->css);
    fs_buffer_puts(b, r->located ? r->silent ? ",none: judged authentic," : ",map," : ",,");
    csv_text(b, r->map);
    fs_buffer_printf(b, ",%s,%s,%s,%s,%s\n", r->sha256, fs_mask_position_word(r->truth_words.position),
                     fs_mask_size_word(r->truth_words.size), fs_mask_position_word(r->said_words.position),
                     fs_mask_size_word(r->said_words.size));
}

fs_status fs_eval_write_csv(const fs_eval_book *b, const char *path, fs_error *err) {
    fs_buffer out = {0};
    fs_buffer_puts(
        &out,
        "index,condition,set,group,name,image,label,verdict,tolerant,score,tp,fp,fn,tn,iou,f1,best_iou,best_f1,best_threshold,permuted_iou,"
        "permuted_f1,permuted_best_f1,pixel_auc,css,located,map,sha256,true_position,true_size,said_position,said_size\n");
    for (size_t i = 0; i < b->rows.count; i++) csv_row(&out, &b->rows.items[i]);
    fs_status status = out.failed ? fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path) : fs_write_file(path, out.data, out.size, err);
    fs_buffer_free(&out);
    return status;
}

/* ---- summary.json ---- */

static json_t *number(double v) {
    return isnan(v) ? json_null() : json_real(v);
}

static json_t *rates_json(const fs_confusion *c) {
    const fs_rates r = fs_confusion_rates(c);
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o}", "accuracy", number(r.accuracy), "f1", number(r.f1), "precision", number(r.precision),
                     "recall", number(r.recall), "specificity", number(r.specificity), "balanced_accuracy", number(r.balanced));
}

static json_t *figures_json(const fs_eval_table *t) {
    json_t *all = json_object();
    for (int f = 0; f < FS_FIGURES; f++) {
        if (isnan(t->value[f])) continue;
        json_t *v = isnan(t->range[f].low)
                        ? json_pack("{s:f}", "value", t->value[f])
                        : json_pack("{s:f, s:f, s:f}", "value", t->value[f], "low", t->range[f].low, "high", t->range[f].high);
        json_object_set_new(all, fs_figure_key((fs_figure)f), v);
    }
    return all;
}

static json_t *words_json(const fs_eval_word_counts *w) {
    json_t *constant = json_object();
    for (int k = 0; k < FS_WORD_FIGURES; k++)
        json_object_set_new(constant, strrchr(fs_figure_key((fs_figure)(FS_FIG_WORDS + k)), '.') + 1,
                            w->n ? json_real(w->constant[k]) : json_null());
    return json_pack("{s:I, s:I, s:I, s:s*, s:s*, s:o}", "pictures", (json_int_t)w->n, "no_position", (json_int_t)w->no_position, "no_size",
                     (json_int_t)w->no_size, "frequent_position", w->n ? fs_mask_position_word(w->frequent.position) : NULL,
                     "frequent_size", w->n ? fs_mask_size_word(w->frequent.size) : NULL, "best_constant", constant);
}

static json_t *table_json(const fs_eval_table *t) {
    json_t *counts = json_object(), *baselines = json_object(), *curve = json_array(), *histogram = json_array();
    for (int k = 0; k < FS_READINGS; k++)
        if (t->answered[k])
            json_object_set_new(counts, fs_eval_reading_name((fs_eval_reading)k),
                                json_pack("{s:I, s:I, s:I, s:I}", "tp", (json_int_t)t->counts[k].tp, "fp", (json_int_t)t->counts[k].fp,
                                          "fn", (json_int_t)t->counts[k].fn, "tn", (json_int_t)t->counts[k].tn));
    for (int b = 0; b < FS_BASELINES; b++) {
        const fs_confusion c = fs_baseline_counts((fs_baseline)b, (double)t->tampered, (double)t->authentic);
        json_object_set_new(baselines, fs_baseline_name((fs_baseline)b), rates_json(&c));
    }
    for (size_t i = 1; i < t->n_curve; i++)
        json_array_append_new(curve, json_pack("[o, o, o, o]", number(t->curve[i].threshold), number(t->curve[i].false_rate),
                                               number(t->curve[i].recall), number(t->curve[i].precision)));
    for (size_t i = 0; i < 20; i++) json_array_append_new(histogram, json_integer((json_int_t)t->histogram[i]));
    return json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "set",
                     t->group, "condition", t->condition, "pictures", (json_int_t)t->pictures, "tampered", (json_int_t)t->tampered,
                     "authentic", (json_int_t)t->authentic, "with_score", (json_int_t)t->ranked, "undetermined",
                     (json_int_t)t->undetermined, "localized", (json_int_t)t->located, "localized_authentic",
                     (json_int_t)t->located_authentic, "judged_authentic", (json_int_t)t->silent, "empty_masks", (json_int_t)t->empty_masks,
                     "explained", (json_int_t)t->explained, "binary_maps", (int)(t->binary && t->located > 0), "best_set_threshold_iou",
                     number(t->threshold_iou), "best_set_threshold_f1", number(t->threshold_f1), "counts", counts, "figures",
                     figures_json(t), "baselines", baselines, "words", words_json(&t->words), "curve", curve, "iou_histogram", histogram);
}

json_t *fs_eval_summary_json(const fs_eval_book *b, const fs_eval_summary *s, const fs_eval_options *opt) {
    const fs_eval_info *i = &b->info;
    json_t *tables = json_array(), *protocols = json_array();
    for (size_t k = 0; k < s->count; k++) json_array_append_new(tables, table_json(&s->tables[k]));
    for (int p = 0; p < FS_PROTOCOLS; p++) json_array_append_new(protocols, json_string(fs_eval_protocol_name((fs_eval_protocol)p)));
    return json_pack(
        "{s:i, s:{s:s, s:s}, s:{s:s, s:s, s:s, s:s, s:o*, s:O, s:o}, s:{s:s, s:I, s:I, s:I, s:I, s:I, s:I}, s:{s:i, s:f, s:I, s:b}, "
        "s:o, s:o, s:O}",
        "eval", 1, "program", "name", "fakeshield", "version", fs_version(), "run", "name", i->name, "source", i->source, "model", i->model,
        "fingerprint", i->fingerprint, "calibration", fs_eval_calibration_json(i), "settings", i->settings, "encoder",
        i->encoder ? json_string(i->encoder) : json_null(), "data", "sha256", s->data_hash, "records", (json_int_t)i->records, "rows",
        (json_int_t)b->rows.count, "missing", (json_int_t)i->missing, "nan_scores", (json_int_t)i->nan_scores, "resized_maps",
        (json_int_t)i->resized, "texts_without_reference", (json_int_t)i->texts_without_reference, "intervals", "resamples", opt->resamples,
        "level", opt->level, "seed", (json_int_t)opt->seed, "stratified", (int)opt->stratified, "protocols", protocols, "tables", tables,
        "warnings", i->warnings);
}

/* ---- text ---- */

static void put(fs_buffer *b, const char *label, double v, const fs_interval *range) {
    fs_buffer_printf(b, "  %s ", label);
    if (isnan(v))
        fs_buffer_puts(b, "-");
    else
        fs_buffer_printf(b, "%.4f", v);
    if (range && !isnan(v) && !isnan(range->low)) fs_buffer_printf(b, " [%.4f, %.4f]", range->low, range->high);
}

static void put_figure(fs_buffer *b, const char *label, const fs_eval_table *t, int f) {
    put(b, label, t->value[f], &t->range[f]);
}

static void detection_text(fs_buffer *b, const fs_eval_table *t) {
    static const char *const heads[] = {"verdict, literal", "verdict, tolerant", "score > 0.5"};
    bool any = false;
    for (int k = 0; k < FS_READINGS; k++) {
        const int f = FS_FIG_DETECTION + FS_RATES * k;
        if (!t->answered[k]) continue;
        any = true;
        fs_buffer_printf(b, "  %-18s", heads[k]);
        put_figure(b, "ACC", t, f), put_figure(b, "F1", t, f + 1);
        put(b, "precision", t->value[f + 2], NULL), put(b, "recall", t->value[f + 3], NULL), put(b, "specificity", t->value[f + 4], NULL);
        put(b, "balanced", t->value[f + 5], NULL);
        fs_buffer_puts(b, "\n");
    }
    if (t->ranked) {
        fs_buffer_printf(b, "  %-18s", "ranking");
        put_figure(b, "AUC", t, FS_FIG_AUC), put_figure(b, "AP", t, FS_FIG_AP);
        fs_buffer_puts(b, "\n");
    }
    for (int k = 0; k < FS_BASELINES && any; k++) {
        const fs_confusion c = fs_baseline_counts((fs_baseline)k, (double)t->tampered, (double)t->authentic);
        const fs_rates r = fs_confusion_rates(&c);
        fs_buffer_printf(b, "  %-18s", fs_baseline_name((fs_baseline)k));
        put(b, "ACC", r.accuracy, NULL), put(b, "F1", r.f1, NULL), put(b, "balanced", r.balanced, NULL);
        fs_buffer_puts(b, "\n");
    }
    if (t->undetermined)
        fs_buffer_printf(b, "  %zu answers give no verdict in a form that the tolerant reading knows; it reads them literally\n",
                         t->undetermined);
}

static void localization_text(fs_buffer *b, const fs_eval_table *t) {
    if (t->located) {
        fs_buffer_printf(b, "  localization: %zu tampered pictures", t->located);
        if (t->silent) fs_buffer_printf(b, ", %zu of them judged authentic (nothing marked)", t->silent);
        if (t->empty_masks) fs_buffer_printf(b, ", %zu with an empty mask", t->empty_masks);
        fs_buffer_puts(b, "\n");
        for (int p = 0; p < FS_PROTOCOLS; p++) {
            const int f = FS_FIG_LOCAL + 2 * p;
            const bool upstream = p == FS_EVAL_UPSTREAM_IOU;
            if (t->binary && (p == FS_EVAL_BEST_SET || p == FS_EVAL_BEST_IMAGE || p == FS_EVAL_PERMUTED_BEST))
                continue; /* no thresholds to choose */
            fs_buffer_printf(b, "  %-18s", fs_eval_protocol_name((fs_eval_protocol)p));
            if (!isnan(t->value[f])) put_figure(b, upstream ? "gIoU" : "IoU", t, f);
            put_figure(b, upstream ? "cIoU" : "F1", t, f + 1);
            fs_buffer_puts(b, "\n");
        }
        fs_buffer_printf(b, "  %-18s", "pixels");
        put_figure(b, "AUC", t, FS_FIG_PIXEL_AUC), put(b, "precision", t->value[FS_FIG_PIXEL_PRECISION], NULL);
        put(b, "recall", t->value[FS_FIG_PIXEL_RECALL], NULL);
        fs_buffer_puts(b, "\n");
    }
    if (t->located_authentic) {
        fs_buffer_printf(b, "  %-18s", "false alarms");
        put_figure(b, "area of authentic pictures marked", t, FS_FIG_FALSE_AREA);
        fs_buffer_puts(b, "\n");
    }
    if (t->explained) {
        fs_buffer_printf(b, "  %-18s", "explanation");
        put_figure(b, "CSS", t, FS_FIG_CSS);
        if (!isnan(t->value[FS_FIG_CSS_OTHER])) put(b, "to other pictures' references", t->value[FS_FIG_CSS_OTHER], NULL);
        fs_buffer_printf(b, "  (%zu texts)\n", t->explained);
    }
}

static void words_text(fs_buffer *b, const fs_eval_table *t) {
    static const char *const heads[] = {"words", "words, or beside"}, *const parts[] = {"position and size", "position", "size"};
    const fs_eval_word_counts *w = &t->words;
    if (!w->n) return;
    fs_buffer_printf(b,
                     "  words for place and size: %zu tampered pictures that the text calls so; %zu texts name no position, %zu no size\n",
                     w->n, w->no_position, w->no_size);
    for (int near = 0; near < 2; near++) {
        fs_buffer_printf(b, "  %-18s", heads[near]);
        for (int k = 0; k < 3; k++) put_figure(b, parts[k], t, FS_FIG_WORDS + 2 * k + near);
        fs_buffer_puts(b, "\n");
    }
    for (int near = 0; near < 2; near++) {
        fs_buffer_printf(b, "  %-18s", near ? "  or beside" : "always the same");
        for (int k = 0; k < 3; k++) put(b, parts[k], w->constant[2 * k + near], NULL);
        if (!near)
            fs_buffer_printf(b, "  (\"%s\", \"%s\")", fs_mask_position_word(w->frequent.position), fs_mask_size_word(w->frequent.size));
        fs_buffer_puts(b, "\n");
    }
}

char *fs_eval_summary_text(const fs_eval_book *b, const fs_eval_summary *s, const fs_eval_options *opt) {
    fs_buffer out = {0};
    for (size_t i = 0; i < s->count; i++) {
        const fs_eval_table *t = &s->tables[i];
        fs_buffer_printf(&out, "%s%s%s: %zu pictures, %zu tampered, %zu authentic\n", t->group, *t->condition ? ", " : "", t->condition,
                         t->pictures, t->tampered, t->authentic);
        detection_text(&out, t);
        localization_text(&out, t);
        words_text(&out, t);
        if (!t->tampered || !t->authentic)
            fs_buffer_printf(&out, "  note: only %s pictures here: \"always %s\" scores 1.0000, and nothing is said about %s\n",
                             t->tampered ? "tampered" : "authentic", t->tampered ? "tampered" : "authentic",
                             t->tampered ? "false alarms" : "forgeries missed");
        fs_buffer_puts(&out, "\n");
    }
    if (opt->resamples > 0)
        fs_buffer_printf(&out, "[ ]: %g %% intervals by %d %s resamples of the pictures, seed %" PRIu64 "\n", 100 * opt->level,
                         opt->resamples, opt->stratified ? "stratified" : "plain", opt->seed);
    if (b->info.calibration.known) {
        fs_buffer_puts(&out, "score: ");
        fs_eval_calibration_put(&out, &b->info);
        fs_buffer_puts(&out, "\n");
    }
    if (b->info.missing) fs_buffer_printf(&out, "left out for want of an answer: %zu pictures\n", b->info.missing);
    if (b->info.nan_scores) fs_buffer_printf(&out, "left out of the ranking for a NaN score: %zu pictures\n", b->info.nan_scores);
    if (b->info.resized) fs_buffer_printf(&out, "resized to their masks: %zu maps\n", b->info.resized);
    if (out.failed) fs_buffer_free(&out);
    return out.data;
}
