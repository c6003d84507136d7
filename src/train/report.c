/* The page about one or several training runs: figures, charts, settings (report.h). Everything is in the one file; it loads nothing. */
#include "train/report.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/chart.h"
#include "train/trainlog.h"

enum { MAX_RUNS = 8 };

/* What is known of a column: its name for people, what its values are multiplied with, whether its axis begins at 0, whether it is free of
 * noise, and the chart that it is drawn in when there is but one run. */
typedef struct column_kind {
    const char *name, *title;
    double scale;
    bool from_zero, exact;
    const char *chart;
} column_kind;
static const column_kind kinds[] = {
    {FS_LOG_LOSS, "Loss", 1, true, false, "Loss"},
    {FS_LOG_VAL_LOSS, "Validation loss", 1, true, false, "Loss"},
    {"loss/ce", "Cross entropy", 1, true, false, "Parts of the loss"},
    {"loss/bce", "Mask: binary cross entropy", 1, true, false, "Parts of the loss"},
    {"loss/dice", "Mask: dice", 1, true, false, "Parts of the loss"},
    {FS_LOG_GIOU, "gIoU", 1, true, false, "Validation"},
    {FS_LOG_CIOU, "cIoU", 1, true, false, "Validation"},
    {FS_LOG_ACCURACY, "Accuracy", 1, true, false, "Validation"},
    {FS_LOG_RATE, "Learning rate", 1, true, true, NULL},
    {FS_LOG_GRAD_NORM, "Gradient norm", 1, true, false, NULL},
    {FS_LOG_TOKENS_PER_SECOND, "Tokens per second", 1, true, false, NULL},
    {FS_LOG_MEMORY, "Memory, GB", 1e-9, true, true, NULL},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static column_kind kind_of(const char *name) {
    for (size_t i = 0; i < KINDS; i++)
        if (strcmp(kinds[i].name, name) == 0) return kinds[i];
    return (column_kind){name, name, 1, false, false, strncmp(name, "loss/", 5) == 0 ? "Parts of the loss" : NULL};
}

static int column_of(const fs_run *r, const char *name) {
    for (size_t i = 0; i < r->columns; i++)
        if (strcmp(r->names[i], name) == 0 && fs_series_points(r->values[i], r->rows)) return (int)i;
    return -1;
}

/* Names of all columns that have a number, the known ones first. At most MAX_RUNS * FS_RUN_COLUMNS. */
static size_t all_columns(const fs_run *runs, size_t n, const char **names) {
    size_t count = 0;
    for (size_t i = 0; i < KINDS; i++)
        for (size_t r = 0; r < n; r++)
            if (column_of(&runs[r], kinds[i].name) >= 0) {
                names[count++] = kinds[i].name;
                break;
            }
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < runs[r].columns; c++) {
            bool known = column_of(&runs[r], runs[r].names[c]) < 0;
            for (size_t i = 0; i < count && !known; i++) known = strcmp(names[i], runs[r].names[c]) == 0;
            if (!known) names[count++] = runs[r].names[c];
        }
    return count;
}

/* ---- charts ------------------------------------------------------------------------------------------------------------- */

static void add_series(fs_chart *chart, const fs_run *r, const char *column, const char *label, int color) {
    const int c = column_of(r, column);
    if (c < 0 || chart->count == FS_CHART_SERIES) return;
    chart->series[chart->count++] = (fs_chart_series){label, color, r->steps, r->values[c], r->rows};
}

/* One run: columns of a kind share a chart. Several: a chart a column, a line a run. */
static void write_charts(fs_buffer *out, const fs_run *runs, size_t n, char *const *labels) {
    const char *names[MAX_RUNS * FS_RUN_COLUMNS + KINDS];
    const size_t count = all_columns(runs, n, names);
    int64_t first = INT64_MAX, last = 0;
    int id = 0;
    for (size_t r = 0; r < n; r++) {
        first = fs_min_i64(first, runs[r].steps[0]);
        last = fs_max_i64(last, runs[r].steps[runs[r].rows - 1]);
    }
    fs_buffer_puts(out, "<div class=\"charts\">\n");
    for (size_t i = 0; i < count; i++) {
        const column_kind kind = kind_of(names[i]);
        const char *shared = n == 1 ? kind.chart : NULL;
        fs_chart chart = {.id = id,
                          .title = shared ? shared : kind.title,
                          .scale = kind.scale,
                          .from_zero = kind.from_zero,
                          .exact = kind.exact,
                          .first = first,
                          .last = last};
        bool drawn = false;
        for (size_t j = 0; j < count && shared; j++) {
            const column_kind other = kind_of(names[j]);
            if (!other.chart || strcmp(other.chart, shared) != 0) continue;
            drawn |= j < i;
            add_series(&chart, &runs[0], names[j], other.title, chart.count % 8);
        }
        if (drawn) continue;
        for (size_t r = 0; r < n && !shared; r++) add_series(&chart, &runs[r], names[i], labels[r], (int)r);
        fs_chart_html(out, &chart);
        id++;
    }
    fs_buffer_puts(out, "</div>\n");
}

/* ---- tables ------------------------------------------------------------------------------------------------------------- */

static void write_cell(fs_buffer *out, double x) {
    fs_buffer_printf(out, "<td>%.4g</td>", x);
}

static void write_extreme(fs_buffer *out, const fs_run *r, double value, double scale, size_t row) {
    fs_buffer_printf(out, "<td>%.4g <small>step %lld</small></td>", value * scale, (long long)r->steps[row]);
}

static void write_row(fs_buffer *out, const fs_run *r, int c) {
    const column_kind kind = kind_of(r->names[c]);
    const double *v = r->values[c];
    double *numbers = fs_alloc(r->rows, sizeof *numbers), *smooth = fs_alloc(r->rows, sizeof *smooth), sum = 0;
    size_t low = r->rows, high = r->rows, n = 0;
    for (size_t i = 0; numbers && i < r->rows; i++) {
        if (!isfinite(v[i])) continue;
        if (n == 0 || v[i] < v[low]) low = i;
        if (n == 0 || v[i] > v[high]) high = i;
        numbers[n++] = v[i];
        sum += v[i];
    }
    if (!numbers || !smooth || !fs_smooth(numbers, n, smooth)) {
        out->failed = true;
        goto done;
    }
    fs_buffer_puts(out, "<tr><th>");
    fs_html_escape(out, kind.title);
    fs_buffer_puts(out, "</th>");
    write_cell(out, numbers[n - 1] * kind.scale);
    if (n >= FS_CHART_NOISY && !kind.exact)
        write_cell(out, smooth[n - 1] * kind.scale);
    else
        fs_buffer_puts(out, "<td></td>");
    write_cell(out, sum / (double)n * kind.scale);
    write_extreme(out, r, v[low], kind.scale, low);
    write_extreme(out, r, v[high], kind.scale, high);
    fs_buffer_puts(out, "</tr>\n");
done:
    free(numbers);
    free(smooth);
}

static void write_figures(fs_buffer *out, const fs_run *r, const char *label, int color, bool named) {
    const char *names[MAX_RUNS * FS_RUN_COLUMNS + KINDS];
    const size_t count = all_columns(r, 1, names);
    fs_buffer_puts(out, "<div class=\"wide\"><table>\n<caption>");
    if (named) fs_buffer_printf(out, "<i class=\"b%d\"></i>", color);
    fs_html_escape(out, named ? label : "Figures");
    fs_buffer_printf(out, " <small>%zu rows, to step %lld</small></caption>\n", r->rows, (long long)r->steps[r->rows - 1]);
    fs_buffer_puts(out, "<thead><tr><th></th><td>last</td><td>smoothed</td><td>mean</td><td>lowest</td><td>highest</td></tr></thead>\n");
    for (size_t i = 0; i < count; i++) write_row(out, r, column_of(r, names[i]));
    fs_buffer_puts(out, "</table></div>\n");
}

/* {"lora": {"r": 8}} -> "lora.r": "8". */
static bool flatten(const json_t *from, const char *within, json_t *to, int depth) {
    const char *key;
    json_t *value;
    bool ok = true;
    json_object_foreach((json_t *)(uintptr_t)from, key, value) {
        char *name = fs_format("%s%s", within, key), *inner = fs_format("%s%s.", within, key);
        if (!name || !inner) {
            ok = false;
        } else if (json_is_object(value) && json_object_size(value) && depth < 8) {
            ok = flatten(value, inner, to, depth + 1) && ok;
        } else {
            char *text = json_is_string(value) ? fs_strdup(json_string_value(value))
                                               : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_REAL_PRECISION(6));
            ok = text && json_object_set_new(to, name, json_string(text)) == 0 && ok;
            free(text);
        }
        free(name);
        free(inner);
    }
    return ok;
}

static void write_settings_table(fs_buffer *out, json_t *const *flat, size_t n, const json_t *keys, char *const *labels) {
    const char *key;
    json_t *unused;
    fs_buffer_puts(out, "<div class=\"wide\"><table class=\"settings\">\n<caption>Settings</caption>\n");
    if (n > 1) {
        fs_buffer_puts(out, "<thead><tr><th></th>");
        for (size_t r = 0; r < n; r++) {
            fs_buffer_printf(out, "<td><i class=\"b%zu\"></i>", r);
            fs_html_escape(out, labels[r]);
            fs_buffer_puts(out, "</td>");
        }
        fs_buffer_puts(out, "</tr></thead>\n");
    }
    json_object_foreach((json_t *)(uintptr_t)keys, key, unused) {
        const char *first = json_string_value(json_object_get(flat[0], key));
        bool differs = false;
        for (size_t r = 0; r < n; r++) {
            const char *value = json_string_value(json_object_get(flat[r], key));
            differs |= (value == NULL) != (first == NULL) || (value && strcmp(value, first) != 0);
        }
        fs_buffer_puts(out, differs ? "<tr class=\"differs\"><th>" : "<tr><th>");
        fs_html_escape(out, key);
        fs_buffer_puts(out, "</th>");
        for (size_t r = 0; r < n; r++) {
            const char *value = json_string_value(json_object_get(flat[r], key));
            fs_buffer_puts(out, "<td>");
            fs_html_escape(out, value ? value : "");
            fs_buffer_puts(out, "</td>");
        }
        fs_buffer_puts(out, "</tr>\n");
    }
    fs_buffer_puts(out, "</table></div>\n");
}

static fs_status write_settings(fs_buffer *out, const fs_run *runs, size_t n, char *const *labels, fs_error *err) {
    json_t *flat[MAX_RUNS] = {NULL}, *keys = json_object();
    fs_status status = keys ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (size_t r = 0; r < n && !status; r++) {
        json_error_t why;
        flat[r] = json_object();
        json_t *root = runs[r].settings ? json_loads(runs[r].settings, JSON_REJECT_DUPLICATES, &why) : json_object();
        if (!json_is_object(root))
            status = fs_fail(err, FS_E_FORMAT, "%s/%s: is no JSON object", runs[r].dir, FS_TRAINLOG_SETTINGS);
        else if (!flat[r] || !flatten(root, "", flat[r], 0) || json_object_update(keys, flat[r]) != 0)
            status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        json_decref(root);
    }
    if (!status && json_object_size(keys)) write_settings_table(out, flat, n, keys, labels);
    for (size_t r = 0; r < n; r++) json_decref(flat[r]);
    json_decref(keys);
    return status;
}

/* ---- the page ------------------------------------------------------------------------------------------------------------ */

/* Colours that the colour-blind can tell apart (Okabe & Ito 2008), a little darker where they stand on white. */
static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n";
static const char style[] =
    "<style>\n"
    ":root{--ink:#1d2329;--soft:#68737d;--rule:#e3e7ea;--paper:#fff;--card:#f7f8f9;--mark:#fff3c4;"
    "--k0:#0072b2;--k1:#d55e00;--k2:#009e73;--k3:#b8568e;--k4:#b07800;--k5:#3a9bd0;--k6:#7a5cc0;--k7:#555}\n"
    "@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#98a3ad;--rule:#343b42;--paper:#15191d;--card:#1c2126;--mark:#4a4113;"
    "--k0:#4fb0e8;--k1:#f08a3c;--k2:#2fc79b;--k3:#dc8fbd;--k4:#e0ab32;--k5:#8cd0f5;--k6:#ab93e6;--k7:#bbb}}\n"
    "body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:1200px;margin:0 auto;padding:20px 24px "
    "60px}\n"
    "h1{font-size:24px;margin:0 0 4px}p{margin:0 0 16px;color:var(--soft)}small{color:var(--soft);font-weight:normal}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(420px,1fr));gap:16px;margin:18px 0 26px}\n"
    "figure{margin:0;padding:12px 12px 8px;background:var(--card);border:1px solid var(--rule);border-radius:8px}\n"
    "figcaption{font-weight:600;padding-left:4px}svg{display:block;width:100%;height:auto}\n"
    "svg text{font:12px system-ui,sans-serif;fill:var(--soft)}svg .small{font-size:9px}.x{text-anchor:middle}.y{text-anchor:end}\n"
    ".axes path{stroke:var(--rule);fill:none}.line,.raw{fill:none;stroke-width:1.8;stroke-linejoin:round}.raw{stroke-width:1;opacity:.28}\n"
    ".cursor{stroke:var(--soft);stroke-dasharray:3 3;visibility:hidden}\n"
    ".legend{margin:2px 0 4px 6px;font-size:13px}.legend span{margin-right:16px;white-space:nowrap}\n"
    "i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;vertical-align:-1px}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;margin:0 0 26px;font-variant-numeric:tabular-nums}\n"
    "caption{text-align:left;font-weight:600;font-size:17px;padding-bottom:6px}\n"
    "th{font-weight:normal;text-align:left}td,th{padding:3px 18px 3px 0;border-bottom:1px solid var(--rule)}td{text-align:right}\n"
    "thead td{color:var(--soft)}.settings td{text-align:left;overflow-wrap:anywhere;max-width:520px}.differs{background:var(--mark)}\n"
    "#tip{position:fixed;pointer-events:none;visibility:hidden;background:var(--paper);border:1px solid var(--soft);border-radius:6px;"
    "padding:5px 9px;font-size:13px;white-space:nowrap;box-shadow:0 2px 8px #0003}\n";

/* The pointer's step, and the nearest point of every series. */
static const char script[] =
    "<div id=\"tip\"></div>\n<script>\n"
    "'use strict';\nconst tip=document.getElementById('tip');\n"
    "for(const figure of document.querySelectorAll('figure')){\n"
    "const svg=figure.querySelector('svg'),cursor=svg.querySelector('.cursor'),c=JSON.parse(figure.querySelector('script').textContent);\n"
    "svg.addEventListener('pointermove',e=>{\n"
    "const box=svg.getBoundingClientRect(),u=(e.clientX-box.left)/box.width*c.width;\n"
    "const step=c.x0+(u-c.left)/(c.right-c.left)*(c.x1-c.x0);let at=null;tip.textContent='';const "
    "head=document.createElement('b');tip.append(head);\n"
    "for(const s of c.series){let p=null;for(const q of s.points)if(!p||Math.abs(q[0]-step)<Math.abs(p[0]-step))p=q;if(!p)continue;\n"
    "if(at===null||Math.abs(p[0]-step)<Math.abs(at-step))at=p[0];const "
    "row=document.createElement('div'),key=document.createElement('i');key.className='b'+s.color;\n"
    "row.append(key,s.label+'  '+(p.length>2?p[2]+'  ('+p[1]+')':p[1]));tip.append(row)}\n"
    "if(at===null)return;head.textContent='step '+at;const x=c.left+(at-c.x0)/(c.x1-c.x0)*(c.right-c.left);\n"
    "cursor.setAttribute('transform','translate('+x+')');cursor.style.visibility=tip.style.visibility='visible';\n"
    "tip.style.left=Math.min(e.clientX+14,innerWidth-tip.offsetWidth-8)+'px';tip.style.top=(e.clientY+14)+'px'});\n"
    "svg.addEventListener('pointerleave',()=>{cursor.style.visibility=tip.style.visibility='hidden'})}\n"
    "</script>\n";

static fs_status write_page(fs_buffer *out, const fs_run *runs, size_t n, char *const *labels, fs_error *err) {
    fs_buffer_puts(out, head);
    fs_buffer_puts(out, "<title>Training: ");
    for (size_t r = 0; r < n; r++) {
        if (r) fs_buffer_puts(out, ", ");
        fs_html_escape(out, labels[r]);
    }
    fs_buffer_puts(out, "</title>\n");
    fs_buffer_puts(out, style);
    for (int k = 0; k < MAX_RUNS; k++)
        fs_buffer_printf(out, "path.c%d{stroke:var(--k%d)}circle.c%d{fill:var(--k%d)}.b%d{background:var(--k%d)}\n", k, k, k, k, k, k);
    fs_buffer_puts(out, "</style></head><body>\n<h1>");
    fs_html_escape(out, n == 1 ? labels[0] : "Training runs");
    fs_buffer_puts(out, "</h1>\n<p>");
    fs_buffer_puts(out, "The numbers of each step; where there are many, they are thin, and their smoothed course is on top.</p>\n");
    write_charts(out, runs, n, labels);
    for (size_t r = 0; r < n; r++) write_figures(out, &runs[r], labels[r], (int)r, n > 1);
    const fs_status status = write_settings(out, runs, n, labels, err);
    fs_buffer_puts(out, script);
    fs_buffer_puts(out, "</body></html>\n");
    return status;
}

/* The last part of a path, slashes at its end aside; malloc'ed. */
static char *folder_name(const char *path) {
    char *copy = fs_strdup(path);
    for (size_t n = copy ? strlen(copy) : 0; n > 1 && copy[n - 1] == '/'; n--) copy[n - 1] = '\0';
    char *name = copy ? fs_strdup(fs_path_base(copy)) : NULL;
    free(copy);
    return name;
}

/* A run is called by its folder's name, or by the path as given where two have the same. */
static char *label_of(const char *const *dirs, size_t n, size_t i) {
    char *label = folder_name(dirs[i]);
    bool unique = true;
    for (size_t j = 0; j < n && label; j++) {
        char *other = folder_name(dirs[j]);
        unique &= j == i || !other || strcmp(other, label) != 0;
        free(other);
    }
    if (unique) return label;
    free(label);
    return fs_strdup(dirs[i]);
}

fs_status fs_train_report(const char *const *run_dirs, size_t n, const char *html_path, fs_error *err) {
    fs_run runs[MAX_RUNS] = {{0}};
    char *labels[MAX_RUNS] = {NULL};
    fs_buffer page = {0};
    fs_status status = FS_OK;
    if (n < 1 || n > MAX_RUNS) return fs_fail(err, FS_E_USAGE, "a report is made of 1 to %d runs, not of %zu", MAX_RUNS, n);
    for (size_t i = 0; i < n && !status; i++) {
        status = fs_run_read(run_dirs[i], &runs[i], err);
        if (!status && !(labels[i] = label_of(run_dirs, n, i))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    }
    if (!status) status = write_page(&page, runs, n, labels, err);
    if (!status && page.failed) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", html_path);
    if (!status) status = fs_write_file(html_path, page.data, page.size, err);
    fs_buffer_free(&page);
    for (size_t i = 0; i < n; i++) {
        free(labels[i]);
        fs_run_free(&runs[i]);
    }
    return status;
}
