/* dataset check: the report, as JSON for programs and as a table for people. */
#include "data/check.h"
#include "text/utf8.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

typedef struct set_summary {
    size_t pictures, tampered, authentic, texts, masks, read_masks, errors, warnings;
    double marked;             /* mean share of marked pixels (above 127) */
    double lost;               /* mean share of the marked ones that training loses */
    int64_t least[2], most[2]; /* sizes by pixels */
} set_summary;

static void add_picture(set_summary *m, const check_file *f) {
    m->pictures++;
    if (f->status || !f->width) return;
    const int64_t pixels = f->width * f->height;
    if (!m->least[0] || pixels < m->least[0] * m->least[1]) m->least[0] = f->width, m->least[1] = f->height;
    if (pixels > m->most[0] * m->most[1]) m->most[0] = f->width, m->most[1] = f->height;
}

static set_summary summarize(const check_state *s, size_t set) {
    set_summary m = {0};
    for (size_t i = 0; i < s->n_files; i++) {
        const check_file *f = &s->files[i];
        if (f->second || f->set != set) continue;
        if (!f->mask) {
            add_picture(&m, f);
            if (s->tree.sets[set].has_masks)
                m.tampered++;
            else
                m.authentic++;
            m.texts += f->record && f->record->text;
            continue;
        }
        m.masks++;
        if (f->status || !f->values.pixels) continue;
        m.read_masks++;
        m.marked += (double)f->values.upper / (double)f->values.pixels;
        m.lost += fs_mask_lost(&f->values);
    }
    if (m.read_masks) m.marked /= (double)m.read_masks, m.lost /= (double)m.read_masks;
    for (size_t i = 0; i < s->n_findings; i++) {
        if (s->findings[i].set != set) continue;
        if (s->findings[i].kind < CHECK_FIRST_WARNING)
            m.errors++;
        else
            m.warnings++;
    }
    return m;
}

/* ---- JSON ---------------------------------------------------------------------------------------------------------- */

/* A path need not be UTF-8. */
static json_t *text_value(const char *s) {
    fs_buffer b = {0};
    fs_buffer_puts(&b, "");
    fs_utf8_clean(&b, s, strlen(s));
    json_t *v = b.failed ? NULL : json_string(b.data);
    fs_buffer_free(&b);
    return v;
}

static json_t *set_value(const check_state *s, size_t i) {
    const fs_data_set *set = &s->tree.sets[i];
    const set_summary m = summarize(s, i);
    json_t *v = json_pack("{s:o, s:o, s:o}", "type", text_value(set->type), "name", text_value(set->name), "folder", text_value(set->dir));
    if (!v) return NULL;
    int bad = json_object_set_new(v, "domain", set->domain_known ? json_string(fs_domain_name(set->domain)) : json_null());
    bad |= json_object_set_new(v, "role", s->roles[i] ? json_string(check_role_name(s->roles[i])) : json_null());
    bad |= json_object_set_new(v, "pictures", json_integer((json_int_t)m.pictures));
    bad |= json_object_set_new(v, "tampered", json_integer((json_int_t)m.tampered));
    bad |= json_object_set_new(v, "authentic", json_integer((json_int_t)m.authentic));
    bad |= json_object_set_new(v, "masks", json_integer((json_int_t)m.masks));
    bad |= json_object_set_new(v, "texts", json_integer((json_int_t)m.texts));
    bad |= json_object_set_new(v, "other_files", json_integer((json_int_t)set->other_files));
    if (m.most[0]) {
        bad |= json_object_set_new(v, "smallest", json_pack("[I,I]", (json_int_t)m.least[0], (json_int_t)m.least[1]));
        bad |= json_object_set_new(v, "largest", json_pack("[I,I]", (json_int_t)m.most[0], (json_int_t)m.most[1]));
    }
    if (m.read_masks) {
        bad |= json_object_set_new(v, "marked_share", json_real(m.marked));
        bad |= json_object_set_new(v, "lost_share", json_real(m.lost));
    }
    bad |= json_object_set_new(v, "errors", json_integer((json_int_t)m.errors));
    bad |= json_object_set_new(v, "warnings", json_integer((json_int_t)m.warnings));
    if (!bad) return v;
    json_decref(v);
    return NULL;
}

static json_t *finding_value(const check_state *s, const check_finding *f) {
    const fs_data_set *set = f->set < s->tree.n_sets ? &s->tree.sets[f->set] : NULL;
    return json_pack("{s:s, s:s, s:o, s:o, s:o}", "severity", f->kind < CHECK_FIRST_WARNING ? "error" : "warning", "kind",
                     check_kind_name(f->kind), "set", set ? text_value(set->name) : json_null(), "path", text_value(f->path), "message",
                     text_value(f->message));
}

char *check_json(const check_state *s) {
    const size_t errors = check_errors(s);
    json_t *sets = json_array(), *findings = json_array(), *root = json_object();
    int bad = !sets || !findings || !root;
    for (size_t i = 0; i < s->tree.n_sets && !bad; i++) bad = json_array_append_new(sets, set_value(s, i));
    for (size_t i = 0; i < s->n_findings && !bad; i++) bad = json_array_append_new(findings, finding_value(s, &s->findings[i]));
    bad = bad || json_object_set_new(root, "folder", text_value(s->dir)) ||
          json_object_set_new(root, "against", s->opt->against ? text_value(s->opt->against) : json_null()) ||
          json_object_set_new(root, "pictures_read", json_boolean(!s->opt->names_only)) || json_object_set(root, "sets", sets) ||
          json_object_set(root, "findings", findings) || json_object_set_new(root, "errors", json_integer((json_int_t)errors)) ||
          json_object_set_new(root, "warnings", json_integer((json_int_t)(s->n_findings - errors)));
    char *text = bad ? NULL : json_dumps(root, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    json_decref(sets), json_decref(findings), json_decref(root);
    return text;
}

/* ---- for people ---------------------------------------------------------------------------------------------------- */

static void write_sets(const check_state *s, fs_buffer *b) {
    int width = 4;
    for (size_t i = 0; i < s->tree.n_sets; i++) {
        const size_t n = strlen(s->tree.sets[i].type) + 1 + strlen(s->tree.sets[i].name);
        if ((int)n > width && n < 48) width = (int)n;
    }
    fs_buffer_printf(b, "%-*s  %-15s %-5s %8s %8s %9s %7s %9s %6s %8s\n", width, "set", "domain", "use", "pictures", "tampered",
                     "authentic", "texts", "marked", "errors", "warnings");
    for (size_t i = 0; i < s->tree.n_sets; i++) {
        const fs_data_set *set = &s->tree.sets[i];
        const set_summary m = summarize(s, i);
        char *name = fs_format("%s/%s", set->type, set->name), marked[32] = "-";
        if (m.read_masks) snprintf(marked, sizeof marked, "%.1f %%", 100 * m.marked);
        fs_buffer_printf(b, "%-*s  %-15s %-5s %8zu %8zu %9zu %7zu %9s %6zu %8zu\n", width, name ? name : "?",
                         set->domain_known ? fs_domain_name(set->domain) : "?",
                         check_role_name(s->roles[i])[0] ? check_role_name(s->roles[i]) : "-", m.pictures, m.tampered, m.authentic, m.texts,
                         marked, m.errors, m.warnings);
        free(name);
    }
}

static void write_kind(const check_state *s, size_t first, size_t count, fs_buffer *b) {
    enum { SHOWN = 5 };
    const check_finding *f = &s->findings[first];
    const size_t shown = s->opt->all || count < SHOWN ? count : SHOWN;
    fs_buffer_printf(b, "\n%s: %s: %zu\n", f->kind < CHECK_FIRST_WARNING ? "error" : "warning", check_kind_heading(f->kind), count);
    for (size_t i = 0; i < shown; i++) {
        const size_t n = strlen(f[i].path);
        const bool named = strncmp(f[i].message, f[i].path, n) == 0 && f[i].message[n] == ':'; /* a reader's own line */
        fs_buffer_printf(b, "  %s%s%s\n", named ? "" : f[i].path, named ? "" : ": ", f[i].message);
    }
    if (shown < count) fs_buffer_printf(b, "  ... and %zu more (--all lists them)\n", count - shown);
}

char *check_text(const check_state *s) {
    fs_buffer b = {0};
    size_t end;
    const size_t errors = check_errors(s), warnings = s->n_findings - errors;
    write_sets(s, &b);
    for (size_t i = 0; i < s->n_findings; i = end) {
        for (end = i + 1; end < s->n_findings && s->findings[end].kind == s->findings[i].kind;) end++;
        write_kind(s, i, end - i, &b);
    }
    fs_buffer_printf(&b, "\n%zu error%s, %zu warning%s%s\n", errors, errors == 1 ? "" : "s", warnings, warnings == 1 ? "" : "s",
                     s->opt->names_only ? " (names only; no picture was read)" : "");
    if (b.failed) fs_buffer_free(&b);
    return b.data;
}
