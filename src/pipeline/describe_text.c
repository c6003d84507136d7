/* The report of describe.c as text for people: a table of parts, what each is made of, memory, licence, and what is missing. */
#include <inttypes.h>
#include <string.h>

#include "pipeline/describe.h"

static int64_t number(const json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }
static const char *text(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

/* 13015864320 -> "13.02 G" with a prefix of powers of 1000. */
static const char *scaled(int64_t n, const char *unit, char out[32]) {
    static const char *const prefixes[] = {"", "k", "M", "G", "T"};
    double x = (double)n;
    int p = 0;
    while (x >= 999.5 && p < 4) x /= 1000, p++;
    snprintf(out, 32, p == 0 ? "%.0f %s%s" : x < 9.995 ? "%.2f %s%s" : x < 99.95 ? "%.1f %s%s" : "%.0f %s%s", x, prefixes[p], unit);
    return out;
}

/* Names come from files: control characters are not passed on to a terminal. */
static void add_name(fs_buffer *b, const char *s) {
    for (; *s; s++) {
        char c = (unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s;
        fs_buffer_add(b, &c, 1);
    }
}

static void add_types(fs_buffer *b, const json_t *list, const char *key) {
    size_t i;
    json_t *e;
    json_array_foreach(list, i, e) fs_buffer_printf(b, "%s%s", i ? ", " : "", key ? text(e, key) : json_string_value(e));
}

static void add_table(fs_buffer *b, const json_t *parts) {
    size_t i;
    json_t *p;
    char parameters[32], bytes[32];
    int width = 8;
    json_array_foreach(parts, i, p) {
        size_t n = strlen(text(p, "name"));
        if ((int)n > width) width = n < 40 ? (int)n : 40;
    }
    fs_buffer_printf(b, "\n%-*s %-15s %5s %8s %11s %10s  %s\n", width, "part", "format", "files", "tensors", "parameters", "size", "types");
    json_array_foreach(parts, i, p) {
        if (!json_is_true(json_object_get(p, "found"))) {
            fs_buffer_printf(b, "%-*s %s\n", width, text(p, "name"),
                             json_is_true(json_object_get(p, "needed")) ? "missing" : "not there, and not needed");
            continue;
        }
        if (!json_object_get(p, "format")) {
            fs_buffer_printf(b, "%-*s cannot be read\n", width, text(p, "name"));
            continue;
        }
        fs_buffer_printf(b, "%-*s %-15s %5zu %8" PRId64 " %11s %10s  ", width, text(p, "name"), text(p, "format"),
                         json_array_size(json_object_get(p, "files")), number(p, "tensors"),
                         scaled(number(p, "parameters"), "", parameters), scaled(number(p, "bytes"), "B", bytes));
        add_types(b, json_object_get(p, "dtypes"), "dtype");
        fs_buffer_puts(b, "\n");
    }
}

static void add_config(fs_buffer *b, const json_t *config) {
    const char *key;
    json_t *v;
    const char *between = "  config: ";
    size_t line = b->size;
    json_object_foreach((json_t *)(uintptr_t)config, key, v) {
        if (b->size - line > 90) {
            fs_buffer_puts(b, ",");
            line = b->size;
            between = "\n          ";
        }
        fs_buffer_printf(b, "%s%s ", between, key);
        if (json_is_integer(v)) fs_buffer_printf(b, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
        else if (json_is_real(v)) fs_buffer_printf(b, "%g", json_real_value(v));
        else if (json_is_boolean(v)) fs_buffer_puts(b, json_is_true(v) ? "yes" : "no");
        else add_name(b, json_string_value(v));
        between = ", ";
    }
    fs_buffer_puts(b, "\n");
}

static void add_tensor_list(fs_buffer *b, const json_t *list) {
    size_t i, d;
    json_t *t, *n;
    json_array_foreach(list, i, t) {
        char shape[160] = "[";
        size_t used = 1;
        json_array_foreach(json_object_get(t, "shape"), d, n) {
            int m = snprintf(shape + used, sizeof shape - used, "%s%" JSON_INTEGER_FORMAT, d ? "," : "", json_integer_value(n));
            used += m > 0 ? (size_t)m : 0; /* six numbers of 20 digits fit */
        }
        snprintf(shape + used, sizeof shape - used, "]");
        fs_buffer_printf(b, "    %-4s %-20s ", text(t, "dtype"), shape);
        add_name(b, text(t, "name"));
        fs_buffer_puts(b, "\n");
    }
}

static void add_part(fs_buffer *b, const json_t *p) {
    size_t i;
    json_t *e;
    char parameters[32], bytes[32];
    if (!json_is_true(json_object_get(p, "found"))) return;
    fs_buffer_printf(b, "\n%s: %s\n", text(p, "name"), text(p, "role"));
    if (json_object_get(p, "config")) add_config(b, json_object_get(p, "config"));
    json_array_foreach(json_object_get(p, "components"), i, e) {
        fs_buffer_printf(b, "  %-24s %6" PRId64 " tensors %10s parameters %10s  ", text(e, "name"), number(e, "tensors"),
                         scaled(number(e, "parameters"), "", parameters), scaled(number(e, "bytes"), "B", bytes));
        add_types(b, json_object_get(e, "dtypes"), NULL);
        fs_buffer_puts(b, "\n");
    }
    json_array_foreach(json_object_get(p, "files"), i, e) {
        fs_buffer_puts(b, "  file ");
        add_name(b, text(e, "name"));
        fs_buffer_printf(b, " (%s)\n", scaled(number(e, "bytes"), "B", bytes));
    }
    add_tensor_list(b, json_object_get(p, "tensor_list"));
}

static void add_memory(fs_buffer *b, const json_t *memory) {
    size_t i;
    json_t *m;
    char peak[32], mapped[32], packed[32], cache[32], work[32];
    if (json_array_size(memory) == 0) return;
    fs_buffer_printf(b, "\nmemory plan, for %" PRId64 " tokens of text\n", number(json_array_get(memory, 0), "text_tokens"));
    fs_buffer_puts(b, "            peak   weights mapped   weights packed   keys and values   activations\n");
    json_array_foreach(memory, i, m) fs_buffer_printf(b, "  %s %8s  %15s  %15s  %16s  %12s\n", text(m, "stage"), scaled(number(m, "peak"), "B", peak),
                                                      scaled(number(m, "mapped"), "B", mapped), scaled(number(m, "packed"), "B", packed),
                                                      scaled(number(m, "text_bytes"), "B", cache), scaled(number(m, "activations"), "B", work));
}

static void add_machine(fs_buffer *b, const json_t *machine) {
    char free[32];
    if (!machine) return;
    const bool fits = json_is_true(json_object_get(machine, "fits"));
    const char *type = text(machine, "type_that_fits");
    fs_buffer_printf(b, "  this machine has %s free: ", scaled(number(machine, "available"), "B", free));
    if (json_is_true(json_object_get(machine, "fits_both"))) fs_buffer_puts(b, "both stages fit, even together (--keep-stages)\n");
    else if (fits) fs_buffer_puts(b, "each stage fits, one at a time as they run\n");
    else if (*type) fs_buffer_printf(b, "too little, weights would be read from disk again for every token; a bundle of --type %s fits\n", type);
    else fs_buffer_puts(b, "too little for any type; weights would be read from disk again for every token\n");
}

static void add_adapter(fs_buffer *b, const json_t *a) {
    static const char *const stages[] = {"the stage it fits (none is named in it)", "stage 1 (DTE-FDM)", "stage 2 (MFLM)"};
    size_t i;
    json_t *place;
    char parameters[32];
    if (!a) return;
    const int64_t stage = number(a, "stage");
    fs_buffer_printf(b, "\nadapter for %s\n", stages[stage == 1 || stage == 2 ? stage : 0]);
    fs_buffer_printf(b, "  rank %" PRId64 ", lora_alpha %g, %s parameters trained\n", number(a, "rank"), json_number_value(json_object_get(a, "alpha")),
                     scaled(number(a, "parameters"), "", parameters));
    fs_buffer_printf(b, "  %" PRId64 " matrices of %" PRId64 " layers:", number(a, "modules"), number(a, "layers"));
    json_array_foreach(json_object_get(a, "places"), i, place) fs_buffer_printf(b, "%s %s", i ? "," : "", json_string_value(place));
    fs_buffer_printf(b, "\n  %" PRId64 " other tensors in place of the base's\n  use it: fakeshield detect -m BASE --adapter DIR, or fakeshield merge\n", number(a, "others"));
}

static void add_licence(fs_buffer *b, const json_t *report) {
    const json_t *l = json_object_get(report, "licence");
    if (strcmp(text(report, "kind"), "file") == 0) return;
    fs_buffer_puts(b, "\nlicence: ");
    if (!json_is_object(l)) {
        fs_buffer_puts(b, "none stated here; see the page the weights were downloaded from\n");
        return;
    }
    add_name(b, text(l, "name"));
    fs_buffer_puts(b, " (");
    add_name(b, text(l, "file"));
    fs_buffer_puts(b, ")\n");
}

char *fs_describe_text(const json_t *report) {
    fs_buffer b = {0};
    size_t i;
    json_t *e;
    const json_t *parts = json_object_get(report, "parts"), *problems = json_object_get(report, "problems");
    const char *kind = text(report, "kind");
    add_name(&b, text(report, "path"));
    fs_buffer_printf(&b, ": %s%s\n",
                     json_is_true(json_object_get(report, "synthetic")) ? "FakeShield bundle of random weights (made by synth)"
                     : strcmp(kind, "checkpoint") == 0 ? "FakeShield checkpoint"
                     : strcmp(kind, "bundle") == 0   ? "FakeShield bundle"
                     : strcmp(kind, "llava") == 0    ? "LLaVA in GGUF files, for stage 1"
                     : strcmp(kind, "adapter") == 0  ? "adapter"
                     : strcmp(kind, "part") == 0     ? "model directory"
                                                     : "weight file",
                     json_is_true(json_object_get(report, "complete")) ? "" : ", with problems");
    add_table(&b, parts);
    add_adapter(&b, json_object_get(report, "adapter"));
    json_array_foreach(parts, i, e) add_part(&b, e);
    add_memory(&b, json_object_get(report, "memory"));
    add_machine(&b, json_object_get(report, "machine"));
    add_licence(&b, report);
    json_array_foreach(problems, i, e) {
        fs_buffer_puts(&b, i == 0 ? "\nproblems\n  " : "  ");
        add_name(&b, json_string_value(e));
        fs_buffer_puts(&b, "\n");
    }
    if (b.failed) {
        fs_buffer_free(&b);
        return NULL;
    }
    return b.data;
}
