/* The report of bench.c as a table for people. */
#include <inttypes.h>
#include <string.h>

#include "pipeline/bench.h"

static double real(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }
static const char *text(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* A number with three figures that count, or "-" for null. */
static const char *figure(double x, char out[32]) {
    if (x <= 0) snprintf(out, 32, "-");
    else snprintf(out, 32, x >= 99.95 ? "%.0f" : x >= 9.995 ? "%.1f" : "%.2f", x);
    return out;
}

static const char *seconds(double x, char out[32]) {
    snprintf(out, 32, x >= 9.995 ? "%.1f s" : x >= 0.9995 ? "%.2f s" : "%.1f ms", x >= 0.9995 ? x : 1000 * x);
    return out;
}

static void add_row(fs_buffer *b, const json_t *e) {
    char median[32], least[32], most[32], tokens[32], bytes[32], ops[32], share[48] = "-", memory[32];
    const char *skipped = json_string_value(json_object_get(e, "skipped"));
    if (skipped) {
        fs_buffer_printf(b, "%-8s not run: %s\n", text(e, "stage"), skipped);
        return;
    }
    const json_t *t = json_object_get(e, "seconds");
    if (real(e, "share") > 0) snprintf(share, sizeof share, "%.0f %% of %s", 100 * real(e, "share"), text(e, "roof"));
    fs_buffer_printf(b, "%-8s %9s %9s %9s %9s %8s %8s  %-13s %8s\n", text(e, "stage"), seconds(real(t, "median"), median), seconds(real(t, "min"), least),
                     seconds(real(t, "max"), most), figure(real(e, "tokens_per_second"), tokens), figure(real(e, "gb_per_second"), bytes),
                     figure(real(e, "gop_per_second"), ops), share, figure(real(e, "peak_bytes") / 1e9, memory));
}

static void add_parts(fs_buffer *b, const json_t *parts) {
    const char *key, *stage;
    json_t *v, *list;
    char t[32];
    json_object_foreach((json_t *)(uintptr_t)parts, stage, list) {
        if (!json_is_object(list)) continue;
        fs_buffer_printf(b, "  %s:", stage);
        const char *between = " ";
        json_object_foreach(list, key, v) {
            fs_buffer_printf(b, "%s%s %s", between, key, seconds(json_number_value(v), t));
            between = ", ";
        }
        fs_buffer_puts(b, "\n");
    }
    fs_buffer_printf(b, "  prompt of %.0f tokens, %.0f written, of which %.0f came by guessing ahead; mask %s\n", real(parts, "prompt_tokens"), real(parts, "new_tokens"),
                     real(parts, "guessed_tokens"), text(parts, "mask"));
}

char *fs_bench_text(const json_t *report) {
    fs_buffer b = {0};
    const json_t *roofs = json_object_get(report, "roofs"), *rows = json_object_get(report, "stages");
    char read[32], int8[32], f32[32], t[32];
    size_t i;
    json_t *e;
    fs_buffer_printf(&b, "%s%s\n%s, %.0f threads, kernels %s and %s, medians of %.0f\n", text(report, "model"),
                     json_is_true(json_object_get(report, "synthetic")) ? " (random weights)" : "", text(report, "processor"), real(report, "threads"),
                     text(report, "kernels"), text(report, "int8_kernels"), real(report, "runs"));
    fs_buffer_printf(&b, "roofs: reading memory %s GB/s, int8 %s Gop/s (%s), f32 %s GFLOP/s (%s)\n\n", figure(real(roofs, "read_gb_per_second"), read),
                     figure(real(roofs, "int8_gop_per_second"), int8), text(roofs, "int8_by"), figure(real(roofs, "f32_gflop_per_second"), f32), text(roofs, "f32_by"));
    fs_buffer_printf(&b, "%-8s %9s %9s %9s %9s %8s %8s  %-13s %8s\n", "stage", "median", "min", "max", "tokens/s", "GB/s", "Gop/s", "of the roof", "peak GB");
    json_array_foreach(rows, i, e) add_row(&b, e);
    fs_buffer_puts(&b, "\n");
    json_array_foreach(rows, i, e) if (!json_object_get(e, "skipped")) fs_buffer_printf(&b, "%-8s %s\n", text(e, "stage"), text(e, "what"));
    json_array_foreach(rows, i, e) if (json_object_get(e, "parts")) add_parts(&b, json_object_get(e, "parts"));
    json_array_foreach(json_object_get(report, "loads"), i, e) fs_buffer_printf(&b, "stage %.0f opened in %s\n", real(e, "stage"), seconds(real(e, "seconds"), t));
    json_array_foreach(json_object_get(report, "memory"), i, e)
        fs_buffer_printf(&b, "memory plan, %s: weights %.2f GB, text of %.0f tokens %.2f GB\n", text(e, "stage"), real(e, "weights") / 1e9, real(e, "text_tokens"),
                         real(e, "text_bytes") / 1e9);
    fs_buffer_printf(&b, "peak memory %.2f GB\n", real(report, "peak_bytes") / 1e9);
    if (b.failed) fs_buffer_free(&b);
    return b.data;
}
