/* dataset check: what is wrong, file by file, and what is there more than once. */
#include "data/check.h"
#include "text/text.h"

#include <stdlib.h>
#include <string.h>

const char *check_role_name(check_role r) {
    return r == CHECK_TRAIN ? "train" : r == CHECK_TEST ? "test" : "";
}

static const struct {
    const char *name, *heading;
} kinds[CHECK_KINDS] = {
    [CHECK_IMAGE_ALONE] = {"image-without-mask", "pictures without a mask"},
    [CHECK_MASK_ALONE] = {"mask-without-image", "masks without a picture"},
    [CHECK_AMBIGUOUS] = {"ambiguous-name", "names that fit more than once"},
    [CHECK_IMAGE_UNREADABLE] = {"image-unreadable", "pictures that cannot be read"},
    [CHECK_MASK_UNREADABLE] = {"mask-unreadable", "masks that cannot be read"},
    [CHECK_TEXTS_BROKEN] = {"texts-unreadable", "files of texts that cannot be read"},
    [CHECK_SIZES] = {"size-mismatch", "masks of another size than their picture"},
    [CHECK_EMPTY_MASK] = {"empty-mask", "masks without any pixel that counts (255)"},
    [CHECK_LABELS] = {"label-conflict", "pictures that are both tampered and authentic"},
    [CHECK_LEAK] = {"leak", "pictures that are in training and in testing"},
    [CHECK_LEAK_NEAR] = {"leak-near", "pictures that look the same in training and in testing"},
    [CHECK_INVERTED] = {"inverted-mask", "masks that look inverted (white outside)"},
    [CHECK_VALUES] = {"mask-values", "masks with values between 0 and 255, which training counts as 0"},
    [CHECK_COLOURED] = {"coloured-mask", "masks in colour"},
    [CHECK_DUPLICATE_FILE] = {"duplicate-file", "pictures that are there more than once, byte for byte"},
    [CHECK_DUPLICATE_PIXELS] = {"duplicate-pixels", "pictures that are there more than once, by their pixels"},
    [CHECK_NEAR] = {"near-duplicate", "pictures that look the same"},
    [CHECK_TEXT_MISSING] = {"text-missing", "sets with pictures that lack a text"},
    [CHECK_TEXT_ALONE] = {"text-without-picture", "texts without a picture"},
    [CHECK_TEXT_TWICE] = {"text-twice", "files with several texts for one picture"},
    [CHECK_TEXT_VERDICT] = {"text-verdict", "texts that say the opposite of the set"},
    [CHECK_DOMAIN] = {"domain-unknown", "types whose name says no domain (taken for Photoshop)"},
};
const char *check_kind_name(check_kind k) {
    return kinds[k].name;
}
const char *check_kind_heading(check_kind k) {
    return kinds[k].heading;
}

void check_add(check_state *s, check_kind kind, size_t set, const char *path, char *message) {
    check_finding f = {kind, set, fs_strdup(path), message};
    if (s->n_findings == s->findings_room) {
        const size_t room = s->findings_room ? 2 * s->findings_room : 64;
        check_finding *more = realloc(s->findings, room * sizeof *more);
        if (more) s->findings = more, s->findings_room = room;
    }
    if (!f.path || !f.message || s->n_findings == s->findings_room) {
        free(f.path), free(f.message);
        s->failed = true;
        return;
    }
    s->findings[s->n_findings++] = f;
}

size_t check_errors(const check_state *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->n_findings; i++) n += s->findings[i].kind < CHECK_FIRST_WARNING;
    return n;
}

/* ---- names and texts ----------------------------------------------------------------------------------------------- */

static void judge_names(check_state *s) {
    static const check_kind of[] = {[FS_DATA_IMAGE_ALONE] = CHECK_IMAGE_ALONE,   [FS_DATA_MASK_ALONE] = CHECK_MASK_ALONE,
                                    [FS_DATA_AMBIGUOUS] = CHECK_AMBIGUOUS,       [FS_DATA_TEXT_ALONE] = CHECK_TEXT_ALONE,
                                    [FS_DATA_TEXT_TWICE] = CHECK_TEXT_TWICE,     [FS_DATA_IMAGE_MISSING] = CHECK_IMAGE_UNREADABLE,
                                    [FS_DATA_TEXTS_BROKEN] = CHECK_TEXTS_BROKEN, [FS_DATA_RECORD_BROKEN] = CHECK_TEXTS_BROKEN};
    for (size_t i = 0; i < s->tree.n_problems; i++) {
        const fs_data_problem *p = &s->tree.problems[i];
        check_add(s, of[p->kind], p->set, p->path, fs_strdup(p->message));
    }
}

static void judge_texts(check_state *s) {
    for (size_t set = 0; set < s->tree.n_sets; set++) {
        const fs_data_set *info = &s->tree.sets[set];
        size_t with = 0, without = 0;
        const char *first = NULL;
        for (size_t i = 0; i < s->tree.count; i++) {
            const fs_data_record *r = &s->tree.records[i];
            if (r->set != set) continue;
            if (r->text)
                with++;
            else if (!without++)
                first = r->image;
            if (r->text && fs_answer_says_authentic(r->text) != (r->label == FS_VERDICT_AUTHENTIC))
                check_add(s, CHECK_TEXT_VERDICT, set, r->image,
                          fs_format("is %s by its set, but its text says the picture %s", fs_verdict_name(r->label),
                                    r->label == FS_VERDICT_AUTHENTIC ? "has been tampered with" : "has not been tampered with"));
        }
        if (with && without)
            check_add(s, CHECK_TEXT_MISSING, set, info->dir,
                      fs_format("%zu of %zu pictures have no text, first %s", without, with + without, fs_path_base(first)));
        if (!info->domain_known)
            check_add(s, CHECK_DOMAIN, set, info->dir, fs_format("the type \"%s\" is none of ps, photoshop, deepfake, aigc", info->type));
    }
}

/* ---- masks --------------------------------------------------------------------------------------------------------- */

static void judge_mask(check_state *s, const check_file *picture, const check_file *mask) {
    const fs_mask_values *v = &mask->values;
    if (picture && !picture->status && (picture->width != mask->width || picture->height != mask->height))
        check_add(s, CHECK_SIZES, mask->set, mask->path,
                  fs_format("%lld x %lld, but its picture %s is %lld x %lld", (long long)mask->width, (long long)mask->height,
                            fs_path_base(picture->path), (long long)picture->width, (long long)picture->height));
    if (v->nonzero == 0)
        check_add(s, CHECK_EMPTY_MASK, mask->set, mask->path, fs_strdup("is black all over"));
    else if (v->white == 0)
        check_add(s, CHECK_EMPTY_MASK, mask->set, mask->path,
                  fs_format("its largest value is %d, and only 255 counts: training sees nothing%s", v->max,
                            v->max == 1 ? " (0 and 1 should be 0 and 255)" : ""));
    else if (v->nonzero != v->white)
        check_add(s, CHECK_VALUES, mask->set, mask->path,
                  fs_format("%.2f %% of the marked pixels are not 255 and would be lost", 100 * fs_mask_lost(v)));
    if (fs_mask_looks_inverted(v))
        check_add(s, CHECK_INVERTED, mask->set, mask->path,
                  fs_format("%.0f %% of it is marked, and %.0f %% of its border", 100.0 * (double)v->upper / (double)v->pixels,
                            100.0 * (double)v->border_upper / (double)v->border));
    if (mask->coloured) check_add(s, CHECK_COLOURED, mask->set, mask->path, fs_strdup("has colours; training reads it as grey"));
}

static void judge_files(check_state *s) {
    for (size_t i = 0; i < s->n_files; i++) {
        const check_file *f = &s->files[i];
        if (f->status)
            check_add(s, f->mask ? CHECK_MASK_UNREADABLE : CHECK_IMAGE_UNREADABLE, f->second ? s->tree.n_sets : f->set, f->path,
                      fs_strdup(f->error ? f->error : fs_status_name(f->status)));
        else if (f->mask)
            judge_mask(s, i && f->record && s->files[i - 1].record == f->record ? &s->files[i - 1] : NULL, f);
    }
}

/* ---- more than once ------------------------------------------------------------------------------------------------ */

typedef struct twin {
    const check_file *file;
    size_t group; /* smallest index of what looks the same */
} twin;

static int by_path(const check_file *a, const check_file *b) {
    if (a->second != b->second) return a->second ? 1 : -1;
    return strcmp(a->path, b->path);
}

static int by_file_hash(const void *a, const void *b) {
    const check_file *x = ((const twin *)a)->file, *y = ((const twin *)b)->file;
    const int c = strcmp(x->print.file, y->print.file);
    return c ? c : by_path(x, y);
}

static int by_pixel_hash(const void *a, const void *b) {
    const check_file *x = ((const twin *)a)->file, *y = ((const twin *)b)->file;
    const int c = strcmp(x->print.pixels, y->print.pixels);
    return c ? c : by_path(x, y);
}

static int by_group(const void *a, const void *b) {
    const twin *x = a, *y = b;
    if (x->group != y->group) return x->group < y->group ? -1 : 1;
    return by_path(x->file, y->file);
}

static fs_verdict label_of(const check_state *s, const check_file *f) {
    if (f->record) return f->record->label;
    return s->tree.sets[f->set].has_masks ? FS_VERDICT_TAMPERED : FS_VERDICT_AUTHENTIC;
}

/* "is also b.jpg, c.jpg and 4 more" */
static char *name_others(const twin *t, size_t n, const char *lead) {
    enum { SHOWN = 3 };
    fs_buffer b = {0};
    fs_buffer_puts(&b, lead);
    for (size_t i = 1; i < n && i <= SHOWN; i++) fs_buffer_printf(&b, "%s%s", i > 1 ? ", " : " ", t[i].file->path);
    if (n > SHOWN + 1) fs_buffer_printf(&b, " and %zu more", n - SHOWN - 1);
    if (b.failed) fs_buffer_free(&b);
    return b.data;
}

typedef struct mixture {
    bool train, test, unknown, tampered, authentic, files_differ, pixels_differ;
} mixture;

static mixture mix(const check_state *s, const twin *t, size_t n) {
    mixture m = {0};
    for (size_t i = 0; i < n; i++) {
        m.train |= t[i].file->role == CHECK_TRAIN;
        m.test |= t[i].file->role == CHECK_TEST;
        m.unknown |= t[i].file->role == CHECK_UNKNOWN;
        const fs_verdict label = label_of(s, t[i].file);
        m.tampered |= label == FS_VERDICT_TAMPERED;
        m.authentic |= label == FS_VERDICT_AUTHENTIC;
        m.files_differ |= strcmp(t[i].file->print.file, t[0].file->print.file) != 0;
        m.pixels_differ |= strcmp(t[i].file->print.pixels, t[0].file->print.pixels) != 0;
    }
    return m;
}

/* A second tree's own duplicates are not this one's matter. */
static bool concerns_first(const twin *t, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (!t[i].file->second) return true;
    return false;
}

static void judge_same(check_state *s, const twin *t, size_t n) {
    const mixture m = mix(s, t, n);
    const size_t set = t[0].file->set;
    const char *path = t[0].file->path;
    if (n < 2 || !concerns_first(t, n)) return;
    if (m.tampered && m.authentic)
        check_add(s, CHECK_LABELS, set, path, name_others(t, n, "has the same pixels, but not the same label, as"));
    if (m.train && m.test)
        check_add(s, CHECK_LEAK, set, path, name_others(t, n, "is in training and in testing, also as"));
    else if (m.files_differ)
        check_add(s, CHECK_DUPLICATE_PIXELS, set, path, name_others(t, n, "has the same pixels as"));
    else
        check_add(s, CHECK_DUPLICATE_FILE, set, path, name_others(t, n, "is the same file as"));
}

static void judge_alike(check_state *s, const twin *t, size_t n) {
    const mixture m = mix(s, t, n);
    if (n < 2 || !m.pixels_differ || !concerns_first(t, n)) return;
    if (m.train && m.test)
        check_add(s, CHECK_LEAK_NEAR, t[0].file->set, t[0].file->path, name_others(t, n, "looks the same as"));
    else if (!(m.tampered && m.authentic)) /* a forgery and its original are meant to */
        check_add(s, CHECK_NEAR, t[0].file->set, t[0].file->path, name_others(t, n, "looks the same as"));
}

static size_t find_root(twin *t, size_t i) {
    while (t[i].group != i) i = t[i].group = t[t[i].group].group;
    return i;
}

/* Joins what looks the same. Every pair is compared: 64 bits a picture, so that a hundred thousand take seconds. */
static fs_status join_alike(const check_state *s, twin *t, size_t n, fs_error *err) {
    const fs_callbacks *cb = &s->opt->callbacks;
    enum { STRIPE = 256 };
    for (size_t begin = 0; begin < n; begin += STRIPE) {
        const size_t end = begin + STRIPE < n ? begin + STRIPE : n;
        fs_progress(cb, "comparing pictures", (int64_t)begin, (int64_t)n);
        if (fs_cancelled(cb)) return fs_fail(err, FS_E_CANCELLED, "stopped");
#pragma omp parallel for schedule(dynamic, 8) num_threads(check_threads(s))
        for (size_t i = begin; i < end; i++) {
            if (t[i].file->print.flat) continue;
            for (size_t j = 0; j < i; j++) {
                if (fs_hamming(t[i].file->print.look, t[j].file->print.look) > s->opt->near_bits || t[j].file->print.flat) continue;
#pragma omp critical(fs_check_join)
                {
                    const size_t a = find_root(t, i), b = find_root(t, j);
                    t[a > b ? a : b].group = a < b ? a : b; /* the smallest is the root, whatever the order */
                }
            }
        }
    }
    for (size_t i = 0; i < n; i++) t[i].group = find_root(t, i);
    return FS_OK;
}

static fs_status judge_twins(check_state *s, fs_error *err) {
    fs_status status = FS_OK;
    twin *t = fs_alloc_zero(s->n_files + 1, sizeof *t);
    size_t n = 0, end;
    if (!t) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", s->dir);
    for (size_t i = 0; i < s->n_files; i++)
        if (!s->files[i].mask && !s->files[i].status) t[n++].file = &s->files[i];
    qsort(t, n, sizeof *t, by_pixel_hash);
    for (size_t i = 0; i < n; i = end) {
        for (end = i + 1; end < n && strcmp(t[end].file->print.pixels, t[i].file->print.pixels) == 0;) end++;
        judge_same(s, t + i, end - i);
    }
    if (s->opt->near_bits >= 0) {
        qsort(t, n, sizeof *t, by_file_hash); /* any order that depends on the pictures alone */
        for (size_t i = 0; i < n; i++) t[i].group = i;
        status = join_alike(s, t, n, err);
        if (!status) qsort(t, n, sizeof *t, by_group);
        for (size_t i = 0; i < n && !status; i = end) {
            for (end = i + 1; end < n && t[end].group == t[i].group;) end++;
            judge_alike(s, t + i, end - i);
        }
    }
    free(t);
    return status;
}

static int by_kind_and_path(const void *a, const void *b) {
    const check_finding *x = a, *y = b;
    if (x->kind != y->kind) return x->kind < y->kind ? -1 : 1;
    const int c = strcmp(x->path, y->path);
    return c ? c : strcmp(x->message, y->message);
}

fs_status check_judge(check_state *s, fs_error *err) {
    fs_status status = FS_OK;
    judge_names(s);
    judge_texts(s);
    if (!s->opt->names_only) {
        judge_files(s);
        status = judge_twins(s, err);
    }
    if (!status && s->failed) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory for the findings", s->dir);
    if (!status && s->n_findings) qsort(s->findings, s->n_findings, sizeof *s->findings, by_kind_and_path);
    return status;
}
