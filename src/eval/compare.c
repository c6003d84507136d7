/* Two runs over the same pictures. Every test is paired: the same picture under both runs. Right or wrong answers: McNemar's exact test;
 * figures per picture (IoU, F1, ...): Wilcoxon's signed-rank test; all of them, and the AUC: the difference's interval by resampling
 * pictures. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report.h"

typedef struct pair {
    const fs_eval_row *a, *b;
} pair;

typedef enum test { MCNEMAR, WILCOXON, RESAMPLED } test;
typedef struct comparison {
    const char *group, *figure;
    size_t n;
    double a, b;      /* the runs' own figures */
    fs_paired_mean d; /* of b - a */
    test test;
    double p;
    int64_t only_a, only_b; /* MCNEMAR */
    fs_wilcoxon_result w;
} comparison;
enum { FIGURES = 8 };

typedef struct comparisons {
    comparison *items;
    size_t count;
    const char **groups;
    size_t n_groups;
    pair *pairs;
    size_t n_pairs, only_in_a, only_in_b;
} comparisons;

/* ---- pairing ---- */

static int by_identity(const void *a, const void *b) {
    const fs_eval_row *x = *(const fs_eval_row *const *)a, *y = *(const fs_eval_row *const *)b;
    const int set = strcmp(x->set, y->set);
    return set ? set : strcmp(x->name, y->name);
}

static fs_status match(const fs_eval_book *a, const fs_eval_book *b, comparisons *c, fs_error *err) {
    const fs_eval_row **sorted = fs_alloc(b->rows.count, sizeof *sorted);
    size_t n = 0;
    fs_status status = FS_OK;
    c->pairs = fs_alloc(a->rows.count, sizeof *c->pairs);
    if (!sorted || !c->pairs) status = fs_eval_no_memory(err, "the pairs");
    for (size_t i = 0; i < b->rows.count && !status; i++)
        if (!b->rows.items[i].step) sorted[n++] = &b->rows.items[i];
    if (n) qsort(sorted, n, sizeof *sorted, by_identity);
    for (size_t i = 0; i < a->rows.count && !status; i++) {
        const fs_eval_row *r = &a->rows.items[i];
        if (r->step) continue;
        const fs_eval_row **found = n ? bsearch(&r, sorted, n, sizeof *sorted, by_identity) : NULL;
        if (!found)
            c->only_in_a++;
        else if (strcmp((*found)->sha256, r->sha256) != 0 || strcmp((*found)->mask_sha256, r->mask_sha256) != 0 ||
                 (*found)->tampered != r->tampered)
            status = fs_fail(err, FS_E_MISMATCH, "%s/%s: picture, mask or label are not the same in the two runs", r->set, r->name);
        else
            c->pairs[c->n_pairs++] = (pair){r, *found};
    }
    c->only_in_b = n - c->n_pairs;
    if (!status && !c->n_pairs) status = fs_fail(err, FS_E_MISMATCH, "the two runs have no picture in common (compared by set and name)");
    free(sorted);
    return status;
}

/* ---- figures of a picture; NaN: none ---- */

static double right(const fs_eval_row *r, bool text) {
    if (text) return (r->literal == FS_VERDICT_TAMPERED) == r->tampered;
    return (r->score > 0.5) == r->tampered;
}

static double figure_of(const fs_eval_row *r, int f) {
    const bool local = r->tampered && r->located;
    switch (f) {
    case 2:
        return local ? r->pixels.iou : NAN;
    case 3:
        return local ? r->pixels.f1 : NAN;
    case 4:
        return local ? r->pixels.best_f1 : NAN;
    case 5:
        return local ? r->pixels.permuted_f1 : NAN;
    case 6:
        return local ? r->pixels.auc : NAN;
    case 7:
        return r->css;
    default:
        return NAN;
    }
}
static const char *const figure_names[FIGURES] = {"accuracy",       "AUC",          "IoU, fixed", "F1, fixed",
                                                  "F1, best-image", "F1, permuted", "pixel AUC",  "CSS"};

static double mean_of(const double *v, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += v[i];
    return n ? sum / (double)n : NAN;
}

/* ---- tests ---- */

typedef struct two_rankings {
    fs_ranking a, b;
    double below, above;
} two_rankings;

static void auc_difference(void *user, const double *weight, double *out) {
    two_rankings *t = user;
    out[0] = fs_ranking_auc(&t->b, weight) - fs_ranking_auc(&t->a, weight);
    t->below += out[0] <= 0;
    t->above += out[0] >= 0;
}

static fs_status compare_auc(const pair *pairs, size_t n, const fs_eval_options *opt, comparison *out, fs_error *err) {
    double *a = fs_alloc(n, sizeof *a), *b = fs_alloc(n, sizeof *b);
    bool *positive = fs_alloc(n, sizeof *positive);
    uint8_t *stratum = fs_alloc(n, 1);
    two_rankings t = {0};
    size_t m = 0;
    fs_status status = a && b && positive && stratum ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "no memory to compare %zu pictures", n);
    for (size_t i = 0; i < n && !status; i++) {
        if (!pairs[i].a->has_score || !pairs[i].b->has_score || isnan(pairs[i].a->score) || isnan(pairs[i].b->score)) continue;
        a[m] = pairs[i].a->score, b[m] = pairs[i].b->score;
        positive[m] = pairs[i].a->tampered;
        stratum[m++] = pairs[i].a->tampered;
    }
    if (!status) status = fs_ranking_create(a, positive, m, NULL, &t.a, err);
    if (!status) status = fs_ranking_create(b, positive, m, NULL, &t.b, err);
    if (!status) {
        out->n = m;
        out->a = fs_ranking_auc(&t.a, NULL);
        out->b = fs_ranking_auc(&t.b, NULL);
        out->d.mean = out->b - out->a;
    }
    if (!status && !isnan(out->d.mean))
        status = fs_bootstrap(m, stratum, opt->resamples, opt->level, opt->seed, auc_difference, &t, 1, &out->d.range, NULL, err);
    out->test = RESAMPLED;
    out->p = t.below + t.above > 0 ? fmin(1, 2 * fmin(t.below, t.above) / opt->resamples) : NAN;
    fs_ranking_free(&t.a);
    fs_ranking_free(&t.b);
    free(a), free(b), free(positive), free(stratum);
    return status;
}

/* Values of each picture that both runs have, and the tests on them. */
static fs_status compare_values(const pair *pairs, size_t n, int f, const fs_eval_options *opt, comparison *out, fs_error *err) {
    double *a = fs_alloc(n, sizeof *a), *b = fs_alloc(n, sizeof *b);
    size_t m = 0;
    bool text = true;
    fs_status status = a && b ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "no memory to compare %zu pictures", n);
    for (size_t i = 0; i < n; i++) text &= pairs[i].a->answered && pairs[i].b->answered;
    for (size_t i = 0; i < n && !status; i++) {
        const fs_eval_row *x = pairs[i].a, *y = pairs[i].b;
        if (f == 0 && !text && (!x->has_score || !y->has_score || isnan(x->score) || isnan(y->score))) continue;
        a[m] = f == 0 ? right(x, text) : figure_of(x, f);
        b[m] = f == 0 ? right(y, text) : figure_of(y, f);
        if (f == 0 && a[m] != b[m]) ++*(a[m] > 0 ? &out->only_a : &out->only_b);
        m += !isnan(a[m]) && !isnan(b[m]) ? 1u : 0u;
    }
    if (!status) {
        out->n = m;
        out->a = mean_of(a, m);
        out->b = mean_of(b, m);
        status = fs_paired_bootstrap(a, b, m, opt->resamples, opt->level, opt->seed, &out->d, err);
    }
    if (!status && f == 0) out->test = MCNEMAR, out->p = m ? fs_mcnemar_exact(out->only_a, out->only_b) : NAN;
    if (!status && f != 0) {
        status = fs_wilcoxon(a, b, m, &out->w, err);
        out->test = WILCOXON;
        out->p = m && !out->w.n ? 1 : out->w.p; /* no difference at all */
    }
    free(a), free(b);
    return status;
}

static fs_status compare_group(comparisons *c, const char *group, pair *chosen, const fs_eval_options *opt, fs_error *err) {
    size_t n = 0;
    fs_status status = FS_OK;
    for (size_t i = 0; i < c->n_pairs; i++)
        if (!group || strcmp(c->pairs[i].a->group, group) == 0) chosen[n++] = c->pairs[i];
    for (int f = 0; f < FIGURES && !status; f++) {
        comparison x = {.group = group ? group : "all", .figure = figure_names[f], .p = NAN};
        status = f == 1 ? compare_auc(chosen, n, opt, &x, err) : compare_values(chosen, n, f, opt, &x, err);
        if (!status && x.n && !isnan(x.a) && !isnan(x.b)) c->items[c->count++] = x;
    }
    return status;
}

static fs_status compare_all(comparisons *c, const fs_eval_options *opt, fs_error *err) {
    pair *chosen = fs_alloc(c->n_pairs, sizeof *chosen);
    c->groups = fs_alloc(c->n_pairs, sizeof *c->groups);
    fs_status status = chosen && c->groups ? FS_OK : fs_eval_no_memory(err, "the pairs");
    for (size_t i = 0; i < c->n_pairs && !status; i++) {
        size_t k = 0;
        while (k < c->n_groups && strcmp(c->groups[k], c->pairs[i].a->group) != 0) k++;
        if (k == c->n_groups) c->groups[c->n_groups++] = c->pairs[i].a->group;
    }
    if (!status && !(c->items = fs_alloc_zero((c->n_groups + 1) * FIGURES, sizeof *c->items)))
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (size_t k = 0; k < c->n_groups && !status; k++) status = compare_group(c, c->groups[k], chosen, opt, err);
    if (!status && c->n_groups > 1) status = compare_group(c, NULL, chosen, opt, err);
    free(chosen);
    return status;
}

/* ---- output ---- */

static void describe_test(const comparison *x, char *out, size_t size) {
    if (x->test == MCNEMAR)
        snprintf(out, size, "McNemar, exact: right in one run only %" PRId64 " and %" PRId64, x->only_a, x->only_b);
    else if (x->test == WILCOXON)
        snprintf(out, size, "Wilcoxon, %s, %zu differ", x->w.exact ? "exact" : "normal", x->w.n);
    else
        snprintf(out, size, "resampled pictures");
}

static char *text_of(const comparisons *c, const char *name_a, const char *name_b, const fs_eval_options *opt) {
    fs_buffer b = {0};
    const char *group = "";
    char test_text[96];
    fs_buffer_printf(&b, "A: %s\nB: %s\n%zu pictures in both", name_a, name_b, c->n_pairs);
    if (c->only_in_a || c->only_in_b) fs_buffer_printf(&b, "; left out: %zu only in A, %zu only in B", c->only_in_a, c->only_in_b);
    fs_buffer_puts(&b, "\n");
    for (size_t i = 0; i < c->count; i++) {
        const comparison *x = &c->items[i];
        if (strcmp(group, x->group) != 0)
            fs_buffer_printf(&b, "\n%s\n  %-16s %8s %8s %8s   %-18s %8s\n", x->group, "", "A", "B", "B - A",
                             opt->resamples > 0 ? "interval" : "", "p");
        group = x->group;
        describe_test(x, test_text, sizeof test_text);
        fs_buffer_printf(&b, "  %-16s %8.4f %8.4f %+8.4f   [%+.4f, %+.4f] %8.4f  %zu pictures; %s\n", x->figure, x->a, x->b, x->d.mean,
                         x->d.range.low, x->d.range.high, x->p, x->n, test_text);
    }
    fs_buffer_puts(&b, "\np is that of a single test; with many sets and figures some fall below 0.05 by chance.\n");
    if (b.failed) fs_buffer_free(&b);
    return b.data;
}

static json_t *number(double v) {
    return isnan(v) ? json_null() : json_real(v);
}

static json_t *json_of(const comparisons *c, const fs_eval_book *a, const fs_eval_book *b, const fs_eval_options *opt) {
    json_t *list = json_array();
    for (size_t i = 0; i < c->count; i++) {
        const comparison *x = &c->items[i];
        json_t *j = json_pack("{s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:s, s:o}", "set", x->group, "figure", x->figure, "pictures",
                              (json_int_t)x->n, "a", number(x->a), "b", number(x->b), "difference", number(x->d.mean), "low",
                              number(x->d.range.low), "high", number(x->d.range.high), "test",
                              x->test == MCNEMAR    ? "mcnemar-exact"
                              : x->test == WILCOXON ? x->w.exact ? "wilcoxon-exact" : "wilcoxon-normal"
                                                    : "bootstrap",
                              "p", number(x->p));
        if (x->test == MCNEMAR) {
            json_object_set_new(j, "right_only_in_a", json_integer(x->only_a));
            json_object_set_new(j, "right_only_in_b", json_integer(x->only_b));
        }
        json_array_append_new(list, j);
    }
    return json_pack("{s:i, s:{s:s, s:s}, s:{s:s, s:s, s:s}, s:{s:s, s:s, s:s}, s:I, s:I, s:I, s:{s:i, s:f, s:I}, s:o}", "eval_compare", 1,
                     "program", "name", "fakeshield", "version", fs_version(), "a", "name", a->info.name, "model", a->info.model,
                     "fingerprint", a->info.fingerprint, "b", "name", b->info.name, "model", b->info.model, "fingerprint",
                     b->info.fingerprint, "pictures", (json_int_t)c->n_pairs, "only_in_a", (json_int_t)c->only_in_a, "only_in_b",
                     (json_int_t)c->only_in_b, "intervals", "resamples", opt->resamples, "level", opt->level, "seed", (json_int_t)opt->seed,
                     "comparisons", list);
}

static void html_rows(fs_buffer *b, const comparisons *c) {
    const char *group = "";
    char test_text[96];
    for (size_t i = 0; i < c->count; i++) {
        const comparison *x = &c->items[i];
        const bool first = strcmp(group, x->group) != 0, clear = x->d.range.low > 0 || x->d.range.high < 0;
        group = x->group;
        fs_buffer_printf(b, "<tr class=\"%s\"><td>", first ? "first" : "");
        if (first) fs_html_text(b, x->group);
        fs_buffer_printf(b, "</td><td style=\"text-align:left\">%s</td><td>%zu</td><td>", x->figure, x->n);
        fs_html_number(b, x->a);
        fs_buffer_puts(b, "</td><td>");
        fs_html_number(b, x->b);
        fs_buffer_printf(b, "</td><td>%s%+.3f%s", clear ? "<b>" : "", x->d.mean, clear ? "</b>" : "");
        if (!isnan(x->d.range.low)) fs_buffer_printf(b, " <i>%+.3f to %+.3f</i>", x->d.range.low, x->d.range.high);
        fs_buffer_puts(b, "</td><td>");
        if (isnan(x->p))
            fs_buffer_puts(b, "&ndash;");
        else
            fs_buffer_printf(b, x->p < 0.001 ? "&lt; 0.001" : "%.3f", x->p);
        describe_test(x, test_text, sizeof test_text);
        fs_buffer_printf(b, "</td><td style=\"text-align:left\">%s</td></tr>\n", test_text);
    }
}

/* IoU of each picture under both runs. */
static void html_scatter(fs_buffer *b, const comparisons *c, const char *a_name, const char *b_name) {
    size_t n = 0;
    for (size_t i = 0; i < c->n_pairs; i++) n += !isnan(figure_of(c->pairs[i].a, 2)) && !isnan(figure_of(c->pairs[i].b, 2)) ? 1u : 0u;
    if (!n) return;
    double *x = fs_alloc(n, sizeof *x), *y = fs_alloc(n, sizeof *y);
    size_t m = 0;
    for (size_t i = 0; x && y && i < c->n_pairs; i++) {
        const double u = figure_of(c->pairs[i].a, 2), v = figure_of(c->pairs[i].b, 2);
        if (!isnan(u) && !isnan(v)) x[m] = u, y[m++] = v;
    }
    static const double ends[] = {0, 1};
    const fs_chart_line lines[] = {{.name = "a forged picture", .x = x, .y = y, .n = m, .dots = true},
                                   {.name = "no difference", .x = ends, .y = ends, .n = 2, .dashed = true}};
    fs_buffer_puts(b, "<h2>Picture by picture</h2><div class=\"charts\">");
    fs_svg_chart(
        b, &(fs_chart){
               .title = "Localization: IoU of each forged picture", .x_label = a_name, .y_label = b_name, .lines = lines, .n_lines = 2});
    fs_buffer_puts(b, "</div>");
    b->failed |= !x || !y;
    free(x), free(y);
}

static fs_status write_html(const comparisons *c, const fs_eval_book *a, const fs_eval_book *b, const fs_eval_options *opt,
                            const char *path, fs_error *err) {
    fs_buffer out = {0};
    fs_buffer_printf(&out,
                     "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
                     "content=\"width=device-width,initial-scale=1\"><title>Comparison</title>"
                     "<style>%s</style></head><body>\n<header><div><h1>Two runs compared</h1><p class=\"lead\">A: ",
                     fs_html_style);
    fs_html_text(&out, a->info.name);
    fs_buffer_puts(&out, " &middot; B: ");
    fs_html_text(&out, b->info.name);
    fs_buffer_printf(&out,
                     " &middot; %zu pictures in both</p></div></header><main><h2>Differences</h2><p>Every picture is compared with itself "
                     "under the other run. Intervals (%g&nbsp;%%) "
                     "are of B &minus; A, by %d resamples of the pictures; a difference in bold has an interval without 0. p is that of a "
                     "single test: with many sets and figures "
                     "some fall below 0.05 by chance.</p><div class=\"scroll\"><table><thead><tr><th>Set</th><th "
                     "style=\"text-align:left\">Figure</th><th>Pictures</th><th>A</th><th>B</th>"
                     "<th>B &minus; A</th><th>p</th><th style=\"text-align:left\">Test</th></tr></thead><tbody>",
                     c->n_pairs, 100 * opt->level, opt->resamples);
    html_rows(&out, c);
    fs_buffer_puts(&out, "</tbody></table></div>");
    if (c->only_in_a || c->only_in_b)
        fs_buffer_printf(&out, "<p class=\"warn\">Left out: %zu pictures that only A has, %zu that only B has.</p>", c->only_in_a,
                         c->only_in_b);
    html_scatter(&out, c, a->info.name, b->info.name);
    fs_buffer_printf(&out,
                     "<footer><p class=\"note\">fakeshield %s &middot; tests and protocols: docs/evaluation.md of the "
                     "program</p></footer></main></body></html>\n",
                     fs_version());
    fs_status status =
        out.failed ? fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for the report", path) : fs_write_file(path, out.data, out.size, err);
    fs_buffer_free(&out);
    return status;
}

static fs_status write_files(const comparisons *c, const fs_eval_book *a, const fs_eval_book *b, const fs_eval_options *opt,
                             fs_error *err) {
    char *json = fs_path_join(opt->out, "compare.json"), *html = fs_path_join(opt->out, "compare.html");
    json_t *j = json_of(c, a, b, opt);
    char *text = j ? json_dumps(j, JSON_INDENT(2) | JSON_REAL_PRECISION(12)) : NULL;
    fs_status status = json && html && text ? fs_make_dirs(opt->out, err) : fs_eval_no_memory(err, "the comparison");
    if (!status) status = fs_write_file(json, text, strlen(text), err);
    if (!status && opt->html) status = write_html(c, a, b, opt, html, err);
    json_decref(j);
    free(text);
    free(json);
    free(html);
    return status;
}

fs_status fs_eval_compare(const char *dir_a, const char *dir_b, const fs_eval_options *options, char **text, fs_error *err) {
    fs_eval_book a = {0}, b = {0};
    comparisons c = {0};
    if (text) *text = NULL;
    fs_status status = fs_eval_book_read(dir_a, &a, err);
    if (!status) status = fs_eval_book_read(dir_b, &b, err);
    if (!status) status = match(&a, &b, &c, err);
    if (!status) status = compare_all(&c, options, err);
    if (!status && options->out) status = write_files(&c, &a, &b, options, err);
    if (!status && text && !(*text = text_of(&c, a.info.name, b.info.name, options)))
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(c.items);
    free(c.groups);
    free(c.pairs);
    fs_eval_book_free(&a);
    fs_eval_book_free(&b);
    return status;
}
