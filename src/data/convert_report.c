/* dataset convert: what was paired, what was left out and why. */
#include "data/convert.h"

#include <stdlib.h>
#include <string.h>

static const struct {
    const char *heading;
    bool left_out;
} troubles[CONVERT_TROUBLES] = {
    [CONVERT_NO_MASK] = {"tampered pictures without a mask", true},
    [CONVERT_NO_PICTURE] = {"masks or lines of a list without a picture", true},
    [CONVERT_TWICE] = {"second files of one name", true},
    [CONVERT_NO_ROLE] = {"pictures whose names say nothing in this set", true},
    [CONVERT_UNREADABLE] = {"unreadable", true},
    [CONVERT_SIZE] = {"masks of another size than the picture (--resize-masks takes them)", true},
    [CONVERT_EMPTY] = {"masks that mark nothing", true},
    [CONVERT_BY_NUMBER] = {"paired by number, for the names differ", false},
    [CONVERT_RESIZED] = {"masks brought to the picture's size", false},
    [CONVERT_INVERTED] = {"masks that look inverted now", false},
};

static void line(fs_buffer *b, const char *path, const char *message) {
    const size_t n = strlen(path);
    const bool named = strncmp(message, path, n) == 0 && message[n] == ':'; /* a reader's own line */
    fs_buffer_printf(b, "  %s%s%s\n", named ? "" : path, named ? "" : ": ", message);
}

/* What an item tells of this kind of trouble, or NULL. */
static const char *message_of(const convert_item *it, convert_trouble kind) {
    if (it->status == FS_E_FAILED) return it->trouble == kind ? it->message : NULL;
    if (kind == CONVERT_RESIZED && it->resized) return "its mask had another size";
    if (kind == CONVERT_INVERTED && it->looks_inverted) return "most of the picture and of its border is marked";
    return NULL;
}

static size_t write_trouble(const convert_state *s, convert_trouble kind, fs_buffer *b) {
    enum { SHOWN = 5 };
    size_t n = 0, shown = 0;
    for (size_t i = 0; i < s->n_notes; i++) n += s->notes[i].kind == kind;
    for (size_t i = 0; i < s->n_items; i++) n += message_of(&s->items[i], kind) != NULL;
    if (!n) return 0;
    const size_t most = s->opt->all || n < SHOWN ? n : SHOWN;
    fs_buffer_printf(b, "\n%s: %s: %zu\n", troubles[kind].left_out ? "left out" : "note", troubles[kind].heading, n);
    for (size_t i = 0; i < s->n_notes && shown < most; i++)
        if (s->notes[i].kind == kind) line(b, s->notes[i].path, s->notes[i].message), shown++;
    for (size_t i = 0; i < s->n_items && shown < most; i++) {
        const char *message = message_of(&s->items[i], kind);
        if (message) line(b, s->items[i].image->path, message), shown++;
    }
    if (shown < n) fs_buffer_printf(b, "  ... and %zu more (--all lists them)\n", n - shown);
    return n;
}

static void write_set(const convert_state *s, int version, fs_buffer *b, size_t *tampered, size_t *authentic, size_t *inverted) {
    const char *name = convert_set_name(s, version), *verb = s->opt->dry_run ? "would go to" : "in";
    size_t tp = 0, au = 0;
    for (size_t i = 0; i < s->n_items; i++) {
        const convert_item *it = &s->items[i];
        if (it->version != version || it->status) continue;
        if (it->mask)
            tp++, *inverted += it->looks_inverted;
        else
            au++;
    }
    if (tp) fs_buffer_printf(b, "%6zu tampered pictures with masks %s %s/photoshop/%s_Tp\n", tp, verb, s->out, name);
    if (au) fs_buffer_printf(b, "%6zu authentic pictures %s %s/photoshop/%s_Au\n", au, verb, s->out, name);
    *tampered += tp, *authentic += au;
}

char *convert_report(convert_state *s, size_t *tampered, size_t *authentic, size_t *left_out) {
    fs_buffer b = {0};
    size_t inverted = 0;
    fs_buffer_puts(&b, "");
    for (int version = 0; version < 3; version++) write_set(s, version, &b, tampered, authentic, &inverted);
    for (int k = 0; k < CONVERT_TROUBLES; k++) {
        const size_t n = write_trouble(s, (convert_trouble)k, &b);
        if (troubles[k].left_out) *left_out += n;
    }
    if (2 * inverted > *tampered)
        fs_buffer_puts(&b, s->rule == CONVERT_BLACK
                               ? "\nMost masks look inverted: does this copy have them the right way round already? Then: --no-invert\n"
                               : "\nMost masks look inverted: is this the set that --from names?\n");
    if (b.failed) fs_buffer_free(&b);
    return b.data;
}
