/* fs_bench: which stages, the roofs of the machine in the same run, memory, and the report (bench.h). */
#include "pipeline/bench.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

typedef struct stage { const char *name; fs_bench_fn run; bool usual; } stage; /* usual: part of a bench for which no stages were named */
static const stage stages[] = {
    {"dtg", fs_bench_dtg, true},         {"clip", fs_bench_clip, true},   {"prefill", fs_bench_prefill, true},
    {"decode", fs_bench_decode, true},   {"decode8", fs_bench_decode8, true}, {"score", fs_bench_score, true},
    {"sam", fs_bench_sam, true},         {"mask", fs_bench_mask, true},   {"picture", fs_bench_picture, false},
};
enum { STAGES = sizeof stages / sizeof stages[0] };

fs_bench_options fs_bench_options_defaults(void) { return (fs_bench_options){.runs = 5, .prompt_tokens = 704, .tokens = 300}; }

/* ---- memory ---- */

/* Forgets the largest resident size so far; where the system does not allow that, the next reading covers the whole run. */
static void forget_peak(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f) return;
    fputs("5", f);
    fclose(f);
}

/* A line of /proc/self/status, in bytes; -1 if it is not there. */
static int64_t status_line(const char *name) {
    char line[128];
    long long kib = -1;
    const size_t n = strlen(name);
    FILE *f = fopen("/proc/self/status", "r");
    while (f && kib < 0 && fgets(line, sizeof line, f))
        if (strncmp(line, name, n) == 0 && line[n] == ':') kib = strtoll(line + n + 1, NULL, 10); /* ":  123 kB" */
    if (f) fclose(f);
    return kib < 0 ? -1 : kib * 1024;
}

static int64_t read_peak(void) {
    const int64_t peak = status_line("VmHWM");
    struct rusage usage;
    if (peak >= 0) return peak;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : 0;
}

int64_t fs_bench_resident(void) { return fs_max_i64(0, status_line("VmRSS")); }

/* ---- opening ---- */

fs_status fs_bench_open(fs_bench_run *b, int number, fs_error *err) {
    fs_status status = FS_OK;
    if ((number == 1 && b->stage1) || (number == 2 && b->stage2)) return FS_OK;
    fs_dte_fdm_close(b->stage1);
    fs_mflm_close(b->stage2);
    b->stage1 = NULL;
    b->stage2 = NULL;
    if (number == 0) return FS_OK;
    const double start = fs_now();
    status = number == 1 ? fs_dte_fdm_open(&b->layout, &b->opt, NULL, &b->stage1, err) : fs_mflm_open(&b->layout, &b->opt, NULL, &b->stage2, err);
    if (!status) json_array_append_new(b->loads, json_pack("{s:i, s:f}", "stage", number, "seconds", fs_now() - start));
    return status;
}

/* ---- which stages ---- */

/* names: "a,b,c" or NULL. */
static fs_status choose(const char *names, bool wanted[STAGES], fs_error *err) {
    for (int i = 0; i < STAGES; i++) wanted[i] = !names && stages[i].usual;
    for (const char *p = names; p && *p;) {
        const size_t n = strcspn(p, ",");
        int i = 0;
        while (i < STAGES && (strlen(stages[i].name) != n || strncmp(stages[i].name, p, n) != 0)) i++;
        if (i == STAGES)
            return fs_fail(err, FS_E_USAGE, "stage \"%.*s\" is none of dtg, clip, prefill, decode, decode8, score, sam, mask, picture", (int)(n < 40 ? n : 40), p);
        wanted[i] = true;
        p += n + (p[n] == ',');
    }
    return names && !*names ? fs_fail(err, FS_E_USAGE, "no stage is named") : FS_OK;
}

static fs_status check(const fs_bench_options *o, fs_error *err) {
    if (o->runs < 1 || o->runs > FS_BENCH_MAX_RUNS) return fs_fail(err, FS_E_USAGE, "runs is %d, expected 1 to %d", o->runs, FS_BENCH_MAX_RUNS);
    if (o->prompt_tokens < 1 || o->prompt_tokens > 65536) return fs_fail(err, FS_E_USAGE, "prompt_tokens is %d, expected 1 to 65536", o->prompt_tokens);
    if (o->tokens < 1 || o->tokens > 65536) return fs_fail(err, FS_E_USAGE, "tokens is %d, expected 1 to 65536", o->tokens);
    return FS_OK;
}

/* ---- the report ---- */

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static json_t *number_or_null(double x) { return x > 0 ? json_real(x) : json_null(); }

static json_t *row_json(const char *name, fs_bench_row *row, int64_t peak) {
    static const char *const roof_names[] = {NULL, "read", "int8", "f32"};
    if (!row->runs) return json_pack("{s:s, s:s}", "stage", name, "skipped", row->skipped);
    const int n = row->runs;
    qsort(row->seconds, (size_t)n, sizeof *row->seconds, by_value);
    qsort(row->shares, (size_t)n, sizeof *row->shares, by_value);
    const double median = n % 2 ? row->seconds[n / 2] : (row->seconds[n / 2 - 1] + row->seconds[n / 2]) / 2;
    json_t *j = json_pack("{s:s, s:s, s:i, s:{s:f, s:f, s:f}}", "stage", name, "what", row->what, "runs", n, "seconds", "median", median, "min", row->seconds[0], "max",
                          row->seconds[n - 1]);
    json_object_set_new(j, "tokens", number_or_null(row->tokens));
    json_object_set_new(j, "tokens_per_second", number_or_null(row->tokens / median));
    json_object_set_new(j, "gb_per_second", number_or_null(row->bytes / median / 1e9));
    json_object_set_new(j, "gop_per_second", number_or_null(row->ops / median / 1e9));
    json_object_set_new(j, "roof", row->roof ? json_string(roof_names[row->roof]) : json_null());
    json_object_set_new(j, "share", number_or_null(row->shares[n / 2])); /* the others' when the roofs are known for good */
    json_object_set_new(j, "peak_bytes", json_integer(peak));
    if (row->parts) json_object_set(j, "parts", row->parts);
    return j;
}

static void add_shares(json_t *rows, const fs_roofs *r) {
    size_t i;
    json_t *e;
    json_array_foreach(rows, i, e) {
        const char *roof = json_string_value(json_object_get(e, "roof"));
        const double top = !roof || strcmp(roof, "read") == 0 ? 0 : strcmp(roof, "int8") == 0 ? r->int8 : r->f32; /* reading has its own already */
        const double reached = json_real_value(json_object_get(e, "gop_per_second")) * 1e9;
        if (top > 0 && reached > 0) json_object_set_new(e, "share", json_real(reached / top));
    }
}

static json_t *roofs_json(const fs_roofs *r) {
    json_t *j = json_pack("{s:s, s:s}", "f32_by", r->fma, "int8_by", r->dot);
    json_object_set_new(j, "read_gb_per_second", number_or_null(r->read / 1e9));
    json_object_set_new(j, "int8_gop_per_second", number_or_null(r->int8 / 1e9));
    json_object_set_new(j, "f32_gflop_per_second", number_or_null(r->f32 / 1e9));
    return j;
}

static json_t *processor_name(void) {
    char line[256], *at = NULL;
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && !at && fgets(line, sizeof line, f))
        if (strncmp(line, "model name", 10) == 0) at = strchr(line, ':');
    if (f) fclose(f);
    if (!at) return json_string("unknown");
    at += strspn(at, ": \t");
    at[strcspn(at, "\n")] = 0;
    json_t *name = json_string(at);
    return name ? name : json_string("unknown");
}

/* The plan that `info` prints. */
static json_t *memory_plan(const char *path) {
    char *text = NULL;
    json_t *plan = NULL;
    if (fs_describe(path, true, false, &text, NULL) == FS_OK) {
        json_t *all = json_loads(text, 0, NULL);
        plan = json_incref(json_object_get(all, "memory"));
        json_decref(all);
    }
    fs_string_free(text);
    return plan ? plan : json_array();
}

static fs_status run_stages(fs_bench_run *b, const bool wanted[STAGES], json_t *rows, int64_t *peak, fs_error *err) {
    fs_status status = FS_OK;
    fs_bench_row *row = NULL;
    for (int i = 0; i < STAGES && !status; i++) {
        if (!wanted[i]) continue;
        if (!(row = fs_alloc_zero(1, sizeof *row))) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        forget_peak();
        fs_progress(&b->opt.callbacks, stages[i].name, 0, b->o->runs);
        status = stages[i].run(b, row, err);
        const int64_t mine = read_peak();
        if (mine > *peak) *peak = mine;
        if (!status) json_array_append_new(rows, row_json(stages[i].name, row, mine));
        json_decref(row->parts);
        free(row);
    }
    return status;
}

/* -> a new report */
static fs_status measure(fs_bench_run *b, const fs_exec *x, const bool wanted[STAGES], json_t **out, fs_error *err) {
    fs_roofs roofs = {0};
    bool synthetic = false;
    int64_t peak = read_peak();
    json_t *rows = json_array();
    b->loads = json_array();
    fs_status status = fs_bundle_is_synthetic(&b->layout, &synthetic, err);
    fs_progress(&b->opt.callbacks, "roofs", 0, 0);
    if (!status) status = fs_roofs_measure(x, &roofs, err);
    if (!status) status = run_stages(b, wanted, rows, &peak, err);
    fs_bench_open(b, 0, NULL);
    if (!status) status = fs_roofs_measure(x, &roofs, err); /* once more: the machine may have been busy before */
    if (!status) {
        add_shares(rows, &roofs);
        json_t *model = json_string(b->model_dir);
        *out = json_pack("{s:i, s:o, s:b, s:i, s:s, s:s, s:o, s:i, s:i, s:i, s:o, s:O, s:O, s:o, s:I}", "version", 1, "model", model ? model : json_null(), "synthetic",
                         (int)synthetic, "threads", x->threads, "kernels", roofs.backend, "int8_kernels", roofs.quant, "processor", processor_name(), "runs", b->o->runs,
                         "prompt_tokens", b->o->prompt_tokens, "tokens", b->o->tokens, "roofs", roofs_json(&roofs), "loads", b->loads, "stages", rows, "memory",
                         memory_plan(b->model_dir), "peak_bytes", (json_int_t)peak);
        if (!*out) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for the report");
    }
    json_decref(rows);
    json_decref(b->loads);
    return status;
}

fs_status fs_bench(const char *model_dir, const fs_bench_options *bench, const fs_options *options, char **json, char **text, fs_error *err) {
    const fs_bench_options defaults = fs_bench_options_defaults();
    fs_bench_run b = {.o = bench ? bench : &defaults, .opt = options ? *options : fs_options_defaults(), .model_dir = model_dir};
    fs_exec x = {0};
    bool wanted[STAGES];
    json_t *report = NULL;
    fs_status status;
    if (json) *json = NULL;
    if (text) *text = NULL;
    if ((status = check(b.o, err)) || (status = choose(b.o->stages, wanted, err))) return status;
    if (b.o->image && !fs_path_exists(b.o->image)) return fs_fail(err, FS_E_NOT_FOUND, "%s: no such file", b.o->image);
    if ((status = fs_exec_init(&x, FS_DTYPE_F32, b.opt.threads, NULL, err))) return status;
    b.opt.threads = x.threads;
    b.opt.callbacks.text = NULL;
    if ((status = fs_layout_find(model_dir, &b.opt, &b.layout, err))) goto done;
    if (!b.layout.dte_fdm && !b.layout.mflm) {
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: holds no stage of FakeShield; give a checkpoint or a bundle (fakeshield synth makes one for measuring)", model_dir);
        goto done;
    }
    if ((status = measure(&b, &x, wanted, &report, err))) goto done;
    if (json && !(*json = json_dumps(report, JSON_COMPACT | JSON_REAL_PRECISION(9)))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for the report");
    if (text && !status && !(*text = fs_bench_text(report))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for the report");
done:
    json_decref(report);
    fs_bench_open(&b, 0, NULL);
    fs_layout_free(&b.layout);
    fs_exec_end(&x);
    return status;
}
