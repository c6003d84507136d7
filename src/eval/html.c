/* The report: one HTML file with style, charts and thumbnails in it, readable without a network and the same for the same rows, byte for
 * byte. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/published.h"
#include "eval/report.h"

const char fs_html_style[] =
    ":root{--ink:#1c2430;--soft:#5b6675;--line:#d9dee5;--tint:#f4f6f9;--mark:#e8f0fa;--blue:#0b5394}"
    "*{box-sizing:border-box}body{margin:0;background:#fff;color:var(--ink);font:15px/1.5 system-ui,-apple-system,'Segoe "
    "UI',Roboto,'DejaVu Sans',sans-serif}"
    "main,header>div{max-width:1160px;margin:0 auto;padding:0 24px}header{background:var(--tint);border-bottom:3px solid "
    "var(--blue);padding:22px 0 18px}"
    "h1{font:700 29px/1.2 Georgia,'DejaVu Serif',serif;margin:0 0 4px}h2{font:700 21px/1.3 Georgia,'DejaVu Serif',serif;margin:36px 0 "
    "6px;padding-top:14px;border-top:1px "
    "solid var(--line)}h3{font-size:16px;margin:22px 0 4px}h3 small,h4 small{font-weight:400;color:var(--soft)}h4{font-size:14px;margin:0 "
    "0 4px;overflow-wrap:anywhere}"
    "p{margin:4px 0 10px;max-width:76ch}.lead{color:var(--soft);margin:0}small{font-size:12.5px}"
    ".tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(175px,1fr));gap:12px;margin:18px 0}.tile{border:1px solid "
    "var(--line);border-radius:6px;padding:10px "
    "14px;background:#fff}.tile b{display:block;font:700 26px/1.25 Georgia,'DejaVu Serif',serif;font-variant-numeric:tabular-nums}.tile "
    "span{color:var(--soft);font-size:13px;"
    "display:block}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;margin:10px 0 "
    "8px;font-size:13.5px;font-variant-numeric:tabular-nums}th,td{padding:4px "
    "9px;text-align:right;border-bottom:1px solid "
    "var(--line);white-space:nowrap}th{font-weight:600;color:var(--soft)}th:first-child,td:first-child{text-align:left}"
    "thead tr:last-child th{border-bottom:2px solid #9aa5b4}tr.ours td{background:var(--mark);font-weight:600}tr.trivial "
    "td{color:var(--soft);font-style:italic}"
    "tr.first td{border-top:2px solid #9aa5b4}td "
    "i{display:block;line-height:1.15;color:var(--soft);font-style:normal;font-size:11.5px;font-weight:400}.group{border-left:1px solid "
    "var(--line)}"
    ".note{color:var(--soft);font-size:13px}.warn{border-left:4px solid #d55e00;background:#fdf3ec;padding:8px 14px;margin:10px "
    "0;max-width:90ch}"
    ".charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:18px;margin:14px "
    "0}figure{margin:0}.chart{width:100%;height:auto;border:1px solid "
    "var(--line);border-radius:6px;background:#fff}.chart text{font-family:inherit;fill:var(--ink)}.chart "
    ".title{font-size:14px;font-weight:600}.chart "
    ".axis,.chart .tick{font-size:12px;fill:var(--soft)}.grid{stroke:#e6eaef}.base{stroke:#9aa5b4}figcaption "
    "span{display:inline-block;margin:3px 14px 0 "
    "0;font-size:12.5px;color:var(--soft)}figcaption span "
    "i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:5px;vertical-align:-1px}"
    ".cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(500px,1fr));gap:14px}article{border:1px solid "
    "var(--line);border-radius:6px;padding:12px 14px;min-width:0}"
    ".thumbs{display:grid;grid-template-columns:repeat(4,minmax(0,1fr));gap:8px;align-items:start}.thumbs "
    "img{width:100%;height:auto;display:block;border:1px solid var(--line)}"
    ".thumbs figcaption{font-size:12px;color:var(--soft)}.facts{margin:0 0 8px;font-size:13px}.facts "
    "span{margin-right:12px;color:var(--soft)}.facts b{color:var(--ink)}"
    ".facts .bad{color:#a33c00;font-weight:600}.facts .good{color:#00704f;font-weight:600}blockquote{margin:8px 0 "
    "0;padding-left:10px;border-left:3px solid var(--line);"
    "font-size:13px;color:#3a4553;overflow-wrap:anywhere}.gone{font-size:13px;color:var(--soft);grid-column:1/"
    "-1}code{font-size:12.5px;overflow-wrap:anywhere}"
    ".facts-table td{white-space:normal;text-align:left}.facts-table "
    "td:first-child{color:var(--soft);white-space:nowrap;vertical-align:top}footer{margin:40px 0 30px}"
    "@media (max-width:620px){.cards{grid-template-columns:1fr}.thumbs{grid-template-columns:repeat(2,minmax(0,1fr))}}@media "
    "print{article,figure,table{break-inside:avoid}}";

void fs_html_text(fs_buffer *b, const char *s) {
    for (; s && *s; s++) {
        const unsigned char c = (unsigned char)*s;
        if (c == '<')
            fs_buffer_puts(b, "&lt;");
        else if (c == '>')
            fs_buffer_puts(b, "&gt;");
        else if (c == '&')
            fs_buffer_puts(b, "&amp;");
        else if (c == '"')
            fs_buffer_puts(b, "&quot;");
        else if (c < 0x20 && c != '\n' && c != '\t')
            fs_buffer_puts(b, "?");
        else
            fs_buffer_add(b, s, 1);
    }
}

void fs_html_number(fs_buffer *b, double v) {
    if (isnan(v))
        fs_buffer_puts(b, "&ndash;");
    else
        fs_buffer_printf(b, "%.3f", v);
}

void fs_html_cell(fs_buffer *b, double v, const fs_interval *range) {
    fs_buffer_puts(b, "<td>");
    fs_html_number(b, v);
    if (range && !isnan(v) && !isnan(range->low)) fs_buffer_printf(b, " <i>%.3f&ndash;%.3f</i>", range->low, range->high);
    fs_buffer_puts(b, "</td>");
}

static void figure_cell(fs_buffer *b, const fs_eval_table *t, int f) {
    fs_html_cell(b, t->value[f], &t->range[f]);
}

/* ---- which tables ---- */

static bool is_all(const fs_eval_summary *s, const fs_eval_table *t) {
    return s->count > 1 && strcmp(t->group, "all") == 0 && t > s->tables;
}

/* The table over everything: "all", or the only one. Unchanged pictures. */
static const fs_eval_table *overall(const fs_eval_summary *s) {
    const fs_eval_table *last = &s->tables[0];
    for (size_t i = 0; i < s->count; i++)
        if (!*s->tables[i].condition) last = &s->tables[i];
    return last;
}

/* The reading that speaks for a table: the text's verdict where there is one, else the score. */
static int reading_of(const fs_eval_table *t) {
    return t->answered[FS_READING_LITERAL] ? FS_READING_LITERAL : FS_READING_SCORE;
}

static const fs_eval_table *table_of_paper_set(const fs_eval_summary *s, int set) {
    for (size_t i = 0; i < s->count; i++)
        if (!*s->tables[i].condition && fs_paper_set_of(s->tables[i].group) == set) return &s->tables[i];
    return NULL;
}

static bool has_paper_sets(const fs_eval_summary *s) {
    for (int set = 0; set < FS_PAPER_SETS; set++)
        if (table_of_paper_set(s, set)) return true;
    return false;
}

/* ---- head ---- */

static void tile(fs_buffer *b, const char *name, double v, const fs_interval *range, const char *below) {
    if (isnan(v)) return;
    fs_buffer_printf(b, "<div class=\"tile\"><span>%s</span><b>%.3f</b><span>", name, v);
    if (range && !isnan(range->low)) fs_buffer_printf(b, "%.3f to %.3f", range->low, range->high);
    fs_buffer_printf(b, "%s%s</span></div>", range && !isnan(range->low) && *below ? "<br>" : "", below);
}

static void put_head(fs_buffer *b, const fs_eval_book *book, const fs_eval_summary *s, const fs_eval_options *opt) {
    const fs_eval_table *t = overall(s);
    const int f = FS_FIG_DETECTION + FS_RATES * reading_of(t);
    char below[96];
    fs_buffer_puts(b, "<header><div><h1>Image forgery detection: evaluation</h1><p class=\"lead\">");
    fs_html_text(b, book->info.name);
    if (*book->info.model) fs_buffer_puts(b, " &middot; "), fs_html_text(b, book->info.model);
    fs_buffer_printf(b, " &middot; %zu pictures: %zu forged, %zu authentic</p></div></header><main><div class=\"tiles\">", t->pictures,
                     t->tampered, t->authentic);
    const fs_confusion always = fs_baseline_counts(FS_BASELINE_TAMPERED, (double)t->tampered, (double)t->authentic);
    snprintf(below, sizeof below, "&ldquo;always tampered&rdquo;: %.3f", fs_confusion_rates(&always).accuracy);
    tile(b, "Detection accuracy", t->value[f], &t->range[f], below);
    tile(b, "Balanced accuracy", t->value[f + 5], &t->range[f + 5], "guessing: 0.500");
    tile(b, "AUC of the score", t->value[FS_FIG_AUC], &t->range[FS_FIG_AUC], "guessing: 0.500");
    tile(b, "Localization IoU", t->value[FS_FIG_LOCAL], &t->range[FS_FIG_LOCAL], "fixed threshold");
    tile(b, "Localization F1", t->value[FS_FIG_LOCAL + 1], &t->range[FS_FIG_LOCAL + 1], "fixed threshold");
    snprintf(below, sizeof below, "always the same words: %.3f", t->words.constant[FS_WORDS_BOTH]);
    if (2 * t->words.no_position < t->words.n) /* else these are texts in other words */
        tile(b, "Place and size named rightly", t->value[FS_FIG_WORDS], &t->range[FS_FIG_WORDS], below);
    if (!isnan(t->value[FS_FIG_CSS])) {
        if (isnan(t->value[FS_FIG_CSS_OTHER]))
            *below = 0;
        else
            snprintf(below, sizeof below, "other pictures&rsquo; references: %.3f", t->value[FS_FIG_CSS_OTHER]);
        tile(b, "Explanations, CSS", t->value[FS_FIG_CSS], &t->range[FS_FIG_CSS], below);
        fs_buffer_puts(b, "<p class=\"note\" style=\"grid-column:1/-1;margin:0\">CSS by the sentence encoder ");
        fs_html_text(b, book->info.encoder ? book->info.encoder : "of the embeddings given");
        fs_buffer_puts(b, "; values of other encoders cannot be compared with it.</p>");
    }
    fs_buffer_puts(b, "</div>");
    if (opt->resamples > 0)
        fs_buffer_printf(b,
                         "<p class=\"note\">Ranges are %g&nbsp;%% intervals: they say how much the figures would vary with another sample "
                         "of such pictures, not how they "
                         "would change with other cameras, editors or forgers.</p>",
                         100 * opt->level);
    if (book->info.calibration.known) {
        fs_buffer_puts(b, "<p class=\"note\">The score: ");
        fs_eval_calibration_put(b, &book->info);
        fs_buffer_puts(b, ".</p>");
    }
    if (!t->tampered || !t->authentic)
        fs_buffer_printf(b,
                         "<p class=\"warn\">These are %s pictures only. A program that calls everything %s would reach an accuracy of "
                         "1.000 here, and nothing can be said about "
                         "%s.</p>",
                         t->tampered ? "forged" : "authentic", t->tampered ? "tampered" : "authentic",
                         t->tampered ? "false alarms" : "forgeries missed");
}

/* ---- the paper's tables ---- */

static void paper_cells(fs_buffer *b, double first, double second, bool two) {
    fs_buffer_puts(b, "<td class=\"group\">");
    if (first >= 0) fs_buffer_printf(b, "%.2f", first);
    fs_buffer_puts(b, two ? "</td><td>" : "</td>");
    if (two && second >= 0) fs_buffer_printf(b, "%.2f", second);
    if (two) fs_buffer_puts(b, "</td>");
}

static void our_cells(fs_buffer *b, double first, double second, bool two) {
    fs_buffer_puts(b, "<td class=\"group\">");
    if (!isnan(first)) fs_html_number(b, first);
    fs_buffer_puts(b, two ? "</td><td>" : "</td>");
    if (two && !isnan(second)) fs_html_number(b, second);
    if (two) fs_buffer_puts(b, "</td>");
}

static void our_row(fs_buffer *b, const fs_eval_summary *s, fs_paper_table table, const char *name, const char *class,
                    const fs_baseline *trivial) {
    fs_buffer_printf(b, "<tr class=\"%s\"><td>", class);
    fs_html_text(b, name);
    fs_buffer_puts(b, "</td>");
    for (int set = 0; set < FS_PAPER_SETS; set++) {
        if (!fs_paper_has(table, set)) continue;
        const fs_eval_table *t = table_of_paper_set(s, set);
        double first = NAN, second = NAN;
        if (t && trivial) {
            const fs_confusion c = fs_baseline_counts(*trivial, (double)t->tampered, (double)t->authentic);
            first = fs_confusion_rates(&c).accuracy, second = fs_confusion_rates(&c).f1;
        } else if (t) {
            const int f = table == FS_PAPER_DETECTION      ? FS_FIG_DETECTION + FS_RATES * reading_of(t)
                          : table == FS_PAPER_LOCALIZATION ? (int)FS_FIG_LOCAL
                                                           : (int)FS_FIG_CSS;
            first = t->value[f], second = table == FS_PAPER_EXPLANATION ? NAN : t->value[f + 1];
        }
        our_cells(b, first, second, table != FS_PAPER_EXPLANATION);
    }
    fs_buffer_puts(b, "</tr>");
}

static void paper_table(fs_buffer *b, const fs_eval_book *book, const fs_eval_summary *s, fs_paper_table table, const char *title,
                        const char *first, const char *second) {
    size_t n;
    const fs_paper_row *rows = fs_paper_rows(table, &n);
    const bool two = table != FS_PAPER_EXPLANATION;
    static const fs_baseline tampered = FS_BASELINE_TAMPERED;
    fs_buffer_printf(b, "<h3>%s</h3><div class=\"scroll\"><table><thead><tr><th%s>Method</th>", title, two ? " rowspan=\"2\"" : "");
    for (int set = 0; set < FS_PAPER_SETS; set++)
        if (fs_paper_has(table, set))
            fs_buffer_printf(b, "<th class=\"group\"%s>%s%s</th>", two ? " colspan=\"2\" style=\"text-align:center\"" : "",
                             fs_paper_set_name(set), table == FS_PAPER_DETECTION && fs_paper_forged_only(set) ? "*" : "");
    fs_buffer_puts(b, "</tr>");
    if (two) {
        fs_buffer_puts(b, "<tr>");
        for (int set = 0; set < FS_PAPER_SETS; set++)
            if (fs_paper_has(table, set)) fs_buffer_printf(b, "<th class=\"group\">%s</th><th>%s</th>", first, second);
        fs_buffer_puts(b, "</tr>");
    }
    fs_buffer_puts(b, "</thead><tbody>");
    for (size_t i = 0; i < n; i++) {
        fs_buffer_printf(b, "<tr><td>%s</td>", rows[i].method);
        for (int set = 0; set < FS_PAPER_SETS; set++)
            if (fs_paper_has(table, set)) paper_cells(b, rows[i].first[set], rows[i].second[set], two);
        fs_buffer_puts(b, "</tr>");
    }
    if (has_paper_sets(s)) our_row(b, s, table, book->info.name, "ours first", NULL);
    if (table == FS_PAPER_DETECTION && has_paper_sets(s)) our_row(b, s, table, "always tampered, on this data", "trivial", &tampered);
    fs_buffer_puts(b, "</tbody></table></div>");
}

static void put_paper(fs_buffer *b, const fs_eval_book *book, const fs_eval_summary *s) {
    const bool any = has_paper_sets(s);
    bool css = false;
    for (int set = 0; set < FS_PAPER_SETS; set++) {
        const fs_eval_table *t = table_of_paper_set(s, set);
        css |= t && t->explained;
    }
    fs_buffer_printf(b,
                     "<h2>Beside the published figures</h2><p>Published rows: %s. Only sets of the same name stand in the same column; "
                     "that the files are the same is for "
                     "the reader to check.</p>",
                     fs_paper_source);
    if (!any)
        fs_buffer_puts(b, "<p class=\"note\">No set of this run has a name of the paper&rsquo;s test sets, so it has no row here.</p>");
    paper_table(b, book, s, FS_PAPER_DETECTION, "Detection, whole pictures", "ACC", "F1");
    fs_buffer_puts(
        b,
        "<p class=\"note\">* The published F1 is 2&thinsp;ACC / (1 + ACC) there: only forged pictures were tested, and &ldquo;always "
        "tampered&rdquo; would score 1.00. "
        "On IMD2020 (2010 forged, 414 authentic) &ldquo;always tampered&rdquo; scores 0.83 and 0.91, which are the published figures.</p>");
    paper_table(b, book, s, FS_PAPER_LOCALIZATION, "Localization, pixels of forged pictures", "IoU", "F1");
    fs_buffer_puts(b, "<p class=\"note\">This run: mean over forged pictures at the fixed threshold; pictures called authentic count with "
                      "nothing marked. How the published figures were "
                      "averaged is not stated.</p>");
    if (css) paper_table(b, book, s, FS_PAPER_EXPLANATION, "Explanation, cosine semantic similarity", "CSS", "");
    if (css)
        fs_buffer_puts(b, "<p class=\"note\">Which sentence encoder gave the published values is not stated; values of different encoders "
                          "cannot be compared.</p>");
}

/* ---- all figures ---- */

static void detection_rows(fs_buffer *b, const fs_eval_table *t) {
    static const char *const heads[] = {"verdict, literal", "verdict, tolerant", "score &gt; 0.5"};
    for (int k = 0; k < FS_READINGS; k++) {
        if (!t->answered[k]) continue;
        fs_buffer_printf(b, "<tr class=\"%s\"><td>", k == reading_of(t) ? "ours first" : "ours");
        if (k == reading_of(t)) fs_html_text(b, t->group);
        fs_buffer_printf(b, "</td><td style=\"text-align:left\">%s</td>", heads[k]);
        for (int f = 0; f < FS_RATES; f++)
            fs_html_cell(b, t->value[FS_FIG_DETECTION + FS_RATES * k + f],
                         f < 2 || f == 5 ? &t->range[FS_FIG_DETECTION + FS_RATES * k + f] : NULL);
        if (k == FS_READING_SCORE || !t->ranked)
            figure_cell(b, t, FS_FIG_AUC), figure_cell(b, t, FS_FIG_AP);
        else
            fs_buffer_puts(b, "<td></td><td></td>");
        fs_buffer_puts(b, "</tr>");
    }
    for (int k = 0; k < FS_BASELINES; k++) {
        const fs_confusion c = fs_baseline_counts((fs_baseline)k, (double)t->tampered, (double)t->authentic);
        const fs_rates r = fs_confusion_rates(&c);
        const double values[] = {r.accuracy, r.f1, r.precision, r.recall, r.specificity, r.balanced};
        fs_buffer_printf(b, "<tr class=\"trivial\"><td></td><td style=\"text-align:left\">%s</td>", fs_baseline_name((fs_baseline)k));
        for (int f = 0; f < FS_RATES; f++) fs_html_cell(b, values[f], NULL);
        fs_buffer_puts(b, "<td></td><td></td></tr>");
    }
}

static void put_detection(fs_buffer *b, const fs_eval_summary *s) {
    bool any = false;
    for (size_t i = 0; i < s->count; i++)
        for (int k = 0; k < FS_READINGS; k++) any |= s->tables[i].answered[k] > 0;
    if (!any) return;
    fs_buffer_puts(b, "<h2>Detection in full</h2><p>Tampered is the positive class. <b>Literal</b> is the original&rsquo;s rule (authentic "
                      "if the text has &ldquo;has not been tampered "
                      "with&rdquo;), <b>tolerant</b> reads what the first statement on the matter means. In italics: what a program scores "
                      "that does not look at all.</p>"
                      "<div class=\"scroll\"><table><thead><tr><th>Set</th><th "
                      "style=\"text-align:left\">Answer</th><th>Accuracy</th><th>F1</th><th>Precision</th><th>Recall</th>"
                      "<th>Specificity</th><th>Balanced accuracy</th><th>AUC</th><th>Average precision</th></tr></thead><tbody>");
    for (size_t i = 0; i < s->count; i++)
        if (!*s->tables[i].condition) detection_rows(b, &s->tables[i]);
    fs_buffer_puts(b, "</tbody></table></div>");
}

static void put_localization(fs_buffer *b, const fs_eval_summary *s) {
    static const char *const heads[] = {"fixed, score &gt; 0.5",
                                        "pooled over all pixels",
                                        "original&rsquo;s gIoU, cIoU",
                                        "best threshold per set (oracle)",
                                        "best threshold per picture (oracle)",
                                        "permuted (TruFor)",
                                        "permuted, best threshold (oracle)"};
    if (!overall(s)->located) return;
    fs_buffer_puts(b, "<h2>Localization in full</h2><p>Over forged pictures. Oracle rows choose the threshold with the truth in hand and "
                      "are upper bounds; permuted rows take the better of "
                      "the map and its inverse and leave out the region&rsquo;s border. Figures of different rows must not be compared.</p>"
                      "<div class=\"scroll\"><table><thead><tr><th>Set</th><th "
                      "style=\"text-align:left\">Protocol</th><th>IoU</th><th>F1</th><th>Pixel AUC</th><th>Pictures</th>"
                      "<th>Called authentic</th></tr></thead><tbody>");
    for (size_t i = 0; i < s->count; i++) {
        const fs_eval_table *t = &s->tables[i];
        if (*t->condition || !t->located) continue;
        for (int p = 0; p < FS_PROTOCOLS; p++) {
            const int f = FS_FIG_LOCAL + 2 * p;
            if (t->binary && (p == FS_EVAL_BEST_SET || p == FS_EVAL_BEST_IMAGE || p == FS_EVAL_PERMUTED_BEST)) continue;
            fs_buffer_printf(b, "<tr class=\"%s\"><td>", p ? "" : "ours first");
            if (!p) fs_html_text(b, t->group);
            fs_buffer_printf(b, "</td><td style=\"text-align:left\">%s</td>", heads[p]);
            figure_cell(b, t, f), figure_cell(b, t, f + 1);
            if (!p)
                figure_cell(b, t, FS_FIG_PIXEL_AUC), fs_buffer_printf(b, "<td>%zu</td><td>%zu</td>", t->located, t->silent);
            else if (p == FS_EVAL_POOLED)
                figure_cell(b, t, FS_FIG_POOLED_AUC), fs_buffer_puts(b, "<td></td><td></td>");
            else
                fs_buffer_puts(b, "<td></td><td></td><td></td>");
            fs_buffer_puts(b, "</tr>");
        }
    }
    fs_buffer_puts(b, "</tbody></table></div>");
    const fs_eval_table *t = overall(s);
    if (t->located_authentic)
        fs_buffer_printf(b, "<p>Of authentic pictures, on average <b>%.2f&nbsp;%%</b> of the area is marked as forged.</p>",
                         100 * t->value[FS_FIG_FALSE_AREA]);
}

/* ---- charts ---- */

enum { MOST_LINES = 9 };

/* ROC and precision over recall, a line for each set (or "all" alone where there are many). */
static fs_status put_curves(fs_buffer *b, const fs_eval_summary *s, fs_error *err) {
    fs_chart_line roc[MOST_LINES], pr[MOST_LINES];
    double *memory[MOST_LINES] = {0};
    static const double ends[] = {0, 1};
    size_t n = 0, sets = 0;
    fs_status status = FS_OK;
    for (size_t i = 0; i < s->count; i++) sets += !*s->tables[i].condition;
    for (size_t i = 0; i < s->count && n + 1 < MOST_LINES && !status; i++) {
        const fs_eval_table *t = &s->tables[i];
        if (*t->condition || !t->n_curve || !t->tampered || !t->authentic || (sets > MOST_LINES - 2 && !is_all(s, t))) continue;
        double *v = memory[n] = fs_alloc(4 * t->n_curve, sizeof *v);
        if (!v) {
            status = fs_fail(err, FS_E_NO_MEMORY, "no memory for the report");
            break;
        }
        for (size_t k = 0; k < t->n_curve; k++) {
            v[k] = t->curve[k].false_rate, v[t->n_curve + k] = t->curve[k].recall;
            v[2 * t->n_curve + k] = t->curve[k].recall, v[3 * t->n_curve + k] = t->curve[k].precision;
        }
        roc[n] = (fs_chart_line){.name = t->group, .x = v, .y = v + t->n_curve, .n = t->n_curve, .color = n};
        pr[n] = (fs_chart_line){.name = t->group, .x = v + 2 * t->n_curve, .y = v + 3 * t->n_curve, .n = t->n_curve, .color = n};
        n++;
    }
    if (n && !status) {
        const size_t curves = n;
        roc[n] = (fs_chart_line){.name = "guessing", .x = ends, .y = ends, .n = 2, .dashed = true};
        fs_svg_chart(b, &(fs_chart){.title = "Detection: ROC",
                                    .x_label = "false alarms (share of authentic pictures)",
                                    .y_label = "forgeries found",
                                    .lines = roc,
                                    .n_lines = n + 1});
        fs_svg_chart(
            b,
            &(fs_chart){
                .title = "Detection: precision over recall", .x_label = "recall", .y_label = "precision", .lines = pr, .n_lines = curves});
    }
    for (size_t i = 0; i < MOST_LINES; i++) free(memory[i]);
    return status;
}

/* A figure over the conditions of a sweep, for each set and for all. */
static void put_sweep_chart(fs_buffer *b, const fs_eval_summary *s, const char *const *conditions, size_t n_conditions,
                            const char *const *groups, size_t n_groups, int f, const char *title, double *x, double *y) {
    fs_chart_line lines[MOST_LINES];
    size_t n = 0;
    for (size_t g = 0; g < n_groups && n < MOST_LINES; g++) {
        bool any = false;
        for (size_t c = 0; c < n_conditions; c++) {
            x[c] = (double)c;
            y[g * n_conditions + c] = NAN;
            for (size_t i = 0; i < s->count; i++)
                if (strcmp(s->tables[i].group, groups[g]) == 0 && strcmp(s->tables[i].condition, conditions[c]) == 0)
                    y[g * n_conditions + c] = s->tables[i].value[f];
            any |= !isnan(y[g * n_conditions + c]);
        }
        if (!any) continue;
        lines[n] = (fs_chart_line){.name = groups[g], .x = x, .y = y + g * n_conditions, .n = n_conditions, .color = g};
        n++;
    }
    if (!n) return;
    const char **labels = fs_alloc(n_conditions, sizeof *labels);
    if (!labels) {
        b->failed = true;
        return;
    }
    for (size_t c = 0; c < n_conditions; c++) labels[c] = *conditions[c] ? conditions[c] : "as is";
    fs_svg_chart(b, &(fs_chart){.title = title,
                                .x_label = "pictures changed by",
                                .y_label = title,
                                .x_names = labels,
                                .n_names = n_conditions,
                                .lines = lines,
                                .n_lines = n});
    free(labels);
}

static const struct {
    int f;
    const char *title;
} swept[] = {{FS_FIG_DETECTION, "Detection accuracy, literal"},
             {FS_FIG_DETECTION + 5, "Balanced accuracy, literal"},
             {FS_FIG_AUC, "AUC"},
             {FS_FIG_LOCAL, "IoU, fixed"},
             {FS_FIG_LOCAL + 1, "F1, fixed"},
             {FS_FIG_PIXEL_AUC, "Pixel AUC"}};
enum { SWEPT = sizeof swept / sizeof *swept };

static void put_sweep_table(fs_buffer *b, const fs_eval_summary *s) {
    fs_buffer_puts(b, "<div class=\"scroll\"><table><thead><tr><th>Set</th><th style=\"text-align:left\">Pictures changed by</th>");
    for (int k = 0; k < SWEPT; k++) fs_buffer_printf(b, "<th>%s</th>", swept[k].title);
    fs_buffer_puts(b, "</tr></thead><tbody>");
    for (size_t i = 0; i < s->count; i++) { /* set by set, each under all conditions */
        if (*s->tables[i].condition) continue;
        for (size_t k = 0; k < s->count; k++) {
            const fs_eval_table *t = &s->tables[k];
            if (strcmp(t->group, s->tables[i].group) != 0) continue;
            fs_buffer_printf(b, "<tr class=\"%s\"><td>", *t->condition ? "" : "ours first");
            if (!*t->condition) fs_html_text(b, t->group);
            fs_buffer_puts(b, "</td><td style=\"text-align:left\">");
            fs_html_text(b, *t->condition ? t->condition : "nothing");
            fs_buffer_puts(b, "</td>");
            for (int m = 0; m < SWEPT; m++) figure_cell(b, t, swept[m].f);
            fs_buffer_puts(b, "</tr>");
        }
    }
    fs_buffer_puts(b, "</tbody></table></div>");
}

static fs_status put_sweeps(fs_buffer *b, const fs_eval_summary *s, fs_error *err) {
    const char **conditions = fs_alloc(s->count, sizeof *conditions), **groups = fs_alloc(s->count, sizeof *groups);
    double *x = NULL, *y = NULL;
    size_t nc = 0, ng = 0, cells;
    fs_status status = conditions && groups ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "no memory for the report");
    for (size_t i = 0; i < s->count && !status; i++) {
        size_t c = 0, g = 0;
        while (c < nc && strcmp(conditions[c], s->tables[i].condition) != 0) c++;
        while (g < ng && strcmp(groups[g], s->tables[i].group) != 0) g++;
        if (c == nc) conditions[nc++] = s->tables[i].condition;
        if (g == ng) groups[ng++] = s->tables[i].group;
    }
    if (!status && nc > 1) {
        if (fs_mul_size(nc, ng, &cells)) x = fs_alloc(nc, sizeof *x), y = fs_alloc(cells, sizeof *y);
        if (!x || !y) status = fs_fail(err, FS_E_NO_MEMORY, "no memory for the report");
    }
    if (!status && nc > 1) {
        fs_buffer_puts(b, "<h2>Robustness</h2><p>The same pictures after what happens to them on their way: JPEG compression (quality), "
                          "scaling (factor), Gaussian blur and noise "
                          "(standard deviation in pixels and levels). The truth stays as it is.</p><div class=\"charts\">");
        for (int k = 0; k < SWEPT; k++) put_sweep_chart(b, s, conditions, nc, groups, ng, swept[k].f, swept[k].title, x, y);
        fs_buffer_puts(b, "</div>");
        put_sweep_table(b, s);
    }
    free(conditions);
    free(groups);
    free(x);
    free(y);
    return status;
}

static fs_status put_charts(fs_buffer *b, const fs_eval_summary *s, fs_error *err) {
    const fs_eval_table *t = overall(s);
    fs_buffer_puts(b, "<h2>Curves</h2><div class=\"charts\">");
    fs_status status = put_curves(b, s, err);
    if (t->located) fs_svg_histogram(b, "Localization: IoU of each forged picture", "IoU at the fixed threshold", t->histogram, 20);
    fs_buffer_puts(b, "</div>");
    return status;
}

/* ---- foot ---- */

static void fact(fs_buffer *b, const char *name, const char *value) {
    if (!value || !*value) return;
    fs_buffer_printf(b, "<tr><td>%s</td><td><code>", name);
    fs_html_text(b, value);
    fs_buffer_puts(b, "</code></td></tr>");
}

static void put_foot(fs_buffer *b, const fs_eval_book *book, const fs_eval_summary *s, const fs_eval_options *opt) {
    const fs_eval_info *i = &book->info;
    char line[160];
    fs_buffer score = {0};
    char *settings = json_dumps(i->settings, JSON_COMPACT | JSON_REAL_PRECISION(9));
    fs_buffer_puts(b, "<h2>How this was made</h2><table class=\"facts-table\"><tbody>");
    snprintf(line, sizeof line, "fakeshield %s", fs_version());
    fact(b, "Program", line);
    fact(b, "Answers from", i->source);
    fact(b, "Checkpoint or source", i->model);
    fact(b, "Its fingerprint", i->fingerprint);
    fs_eval_calibration_put(&score, i);
    fact(b, "Score", score.data);
    fs_buffer_free(&score);
    fact(b, "Sentence encoder", i->encoder);
    fact(b, "Data, SHA-256", s->data_hash);
    snprintf(line, sizeof line, "%zu of %lld; left out: %zu without an answer, %zu with a NaN score; maps resized: %zu", book->rows.count,
             (long long)i->records, i->missing, i->nan_scores, i->resized);
    fact(b, "Rows", line);
    snprintf(line, sizeof line, "percentile bootstrap, %d %s resamples, level %g, seed %llu", opt->resamples,
             opt->stratified ? "stratified" : "plain", opt->level, (unsigned long long)opt->seed);
    fact(b, "Intervals", line);
    fact(b, "Settings", settings);
    fs_buffer_puts(b, "</tbody></table>");
    for (size_t k = 0; k < json_array_size(i->warnings); k++) {
        fs_buffer_puts(b, "<p class=\"warn\">");
        fs_html_text(b, json_string_value(json_array_get(i->warnings, k)));
        fs_buffer_puts(b, "</p>");
    }
    fs_buffer_puts(b, "<footer><p class=\"note\">No finding is not proof of authenticity, and a finding is a lead to be checked, not proof "
                      "of forgery. Formulas and protocols: "
                      "docs/evaluation.md of the program; every figure of this page with all digits: summary.json; every picture: "
                      "images.csv.</p></footer></main></body></html>\n");
    free(settings);
}

static fs_status put_gallery(fs_buffer *b, const fs_eval_book *book, const fs_eval_options *opt, fs_error *err) {
    fs_buffer_puts(b, "<h2>Single pictures</h2>");
    return fs_html_gallery(b, book, opt, err);
}

fs_status fs_eval_write_html(const fs_eval_book *book, const fs_eval_summary *s, const fs_eval_options *opt, const char *path,
                             fs_error *err) {
    fs_buffer b = {0};
    fs_buffer_puts(&b, "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
                       "content=\"width=device-width,initial-scale=1\"><title>Evaluation: ");
    fs_html_text(&b, book->info.name);
    fs_buffer_printf(&b, "</title><style>%s</style></head><body>\n", fs_html_style);
    put_head(&b, book, s, opt);
    const bool gallery = opt->gallery > 0, first = gallery && fs_html_gallery_first(book, opt);
    fs_status status = first ? put_gallery(&b, book, opt, err) : FS_OK;
    if (has_paper_sets(s)) put_paper(&b, book, s); /* else they are for orientation only, and stand at the end */
    put_detection(&b, s);
    put_localization(&b, s);
    fs_html_words(&b, s);
    if (!status) status = put_charts(&b, s, err);
    if (!status) status = put_sweeps(&b, s, err);
    if (!status && gallery && !first) status = put_gallery(&b, book, opt, err);
    if (!status && !has_paper_sets(s)) put_paper(&b, book, s);
    if (!status) put_foot(&b, book, s, opt);
    if (!status && b.failed) status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for the report", path);
    if (!status) status = fs_write_file(path, b.data, b.size, err);
    fs_buffer_free(&b);
    return status;
}
