/* Upstream's tree of folders as a list of records: which sets there are, which mask belongs to which picture, which text to which. See
 * tree.h for the rules; MFLM/dataset/Tamper_PS_Segm_ds.py is the original reader (it pairs by position, which this one does not). */
#include "data/tree.h"
#include "data/tree_build.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool find_name(const char *const *names, size_t n, const char *name, int *out) {
    for (size_t i = 0; name && i < n; i++)
        if (strcmp(names[i], name) == 0) return *out = (int)i, true;
    return false;
}

static const char *const texts_names[] = {"none", "any", "train-output", "train-gt", "val-output", "val-gt"};
enum { TEXTS = sizeof texts_names / sizeof *texts_names };
const char *fs_data_texts_name(fs_data_texts t) {
    return (unsigned)t < TEXTS ? texts_names[t] : "unknown";
}
bool fs_data_texts_from_name(const char *name, fs_data_texts *out) {
    int i;
    return find_name(texts_names, TEXTS, name, &i) && (*out = (fs_data_texts)i, true);
}
const char *fs_data_texts_file(fs_data_texts t) {
    static const char *const files[TEXTS] = {
        NULL, NULL, "lisa_train_output.json", "lisa_train_gt.json", "lisa_val_output.json", "lisa_val_gt.json"};
    return (unsigned)t < TEXTS ? files[t] : NULL;
}

static const char *const problem_names[] = {"picture without mask", "mask without picture", "ambiguous name",       "text without picture",
                                            "text given twice",     "missing picture",      "broken file of texts", "broken record"};
enum { PROBLEMS = sizeof problem_names / sizeof *problem_names };
const char *fs_data_problem_kind_name(fs_data_problem_kind k) {
    return (unsigned)k < PROBLEMS ? problem_names[k] : "unknown";
}
bool fs_data_problem_kind_from_name(const char *name, fs_data_problem_kind *out) {
    int i;
    return find_name(problem_names, PROBLEMS, name, &i) && (*out = (fs_data_problem_kind)i, true);
}

fs_data_options fs_data_options_defaults(void) {
    return (fs_data_options){.texts = FS_TEXTS_ANY, .domain = FS_DOMAIN_PHOTOSHOP};
}

/* ---- building ------------------------------------------------------------------------------------------------------ */

void fs_data_record_clear(fs_data_record *r) {
    for (size_t i = 0; i < r->n_turns; i++) free(r->turns[i].value);
    free(r->turns), free(r->image), free(r->mask), free(r->text);
    *r = (fs_data_record){0};
}

static void clear_set(fs_data_set *s) {
    free(s->type), free(s->name), free(s->dir);
    *s = (fs_data_set){0};
}

void fs_dataset_free(fs_dataset *d) {
    for (size_t i = 0; i < d->count; i++) fs_data_record_clear(&d->records[i]);
    for (size_t i = 0; i < d->n_sets; i++) clear_set(&d->sets[i]);
    for (size_t i = 0; i < d->n_problems; i++) free(d->problems[i].path), free(d->problems[i].message);
    free(d->records), free(d->sets), free(d->problems);
    *d = (fs_dataset){0};
}

/* Room for one more item of `size` bytes. */
static bool grow(void **items, size_t count, size_t *room, size_t size) {
    size_t more = *room ? *room * 2 : 64, bytes;
    if (count < *room) return true;
    void *moved = fs_mul_size(more, size, &bytes) ? realloc(*items, bytes) : NULL;
    if (!moved) return false;
    *items = moved, *room = more;
    return true;
}

fs_status fs_dataset_add_record(fs_dataset *d, fs_data_record r, fs_error *err) {
    void *items = d->records;
    if (d->count >= FS_DATA_MAX_RECORDS) {
        fs_data_record_clear(&r);
        return fs_fail(err, FS_E_LIMIT, "a data set of more than %d records", (int)FS_DATA_MAX_RECORDS);
    }
    if (!grow(&items, d->count, &d->room, sizeof r)) {
        fs_data_record_clear(&r);
        return fs_fail(err, FS_E_NO_MEMORY, "out of memory for a list of %zu records", d->count);
    }
    d->records = items;
    d->records[d->count++] = r;
    return FS_OK;
}

fs_status fs_dataset_add_set(fs_dataset *d, fs_data_set s, fs_error *err) {
    void *items = d->sets;
    if (!s.type || !s.name || !s.dir || !grow(&items, d->n_sets, &d->set_room, sizeof s)) {
        clear_set(&s);
        return fs_fail(err, FS_E_NO_MEMORY, "out of memory for a list of %zu sets", d->n_sets);
    }
    d->sets = items;
    d->sets[d->n_sets++] = s;
    return FS_OK;
}

fs_status fs_dataset_add_problem(fs_dataset *d, fs_data_problem_kind kind, const char *path, char *message, fs_error *err) {
    fs_data_problem p = {kind, d->n_sets ? d->n_sets - 1 : 0, fs_strdup(path), message};
    void *items = d->problems;
    if (!p.path || !p.message || !grow(&items, d->n_problems, &d->problem_room, sizeof p)) {
        free(p.path), free(p.message);
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    }
    d->problems = items;
    d->problems[d->n_problems++] = p;
    return FS_OK;
}

fs_status fs_dataset_first_error(const fs_dataset *d, size_t from, fs_error *err) {
    const fs_data_problem *first = NULL;
    size_t more = 0;
    for (size_t i = from; i < d->n_problems; i++) {
        if (d->problems[i].kind == FS_DATA_TEXT_ALONE || d->problems[i].kind == FS_DATA_TEXT_TWICE) continue;
        if (first)
            more++;
        else
            first = &d->problems[i];
    }
    if (!first) return FS_OK;
    const fs_status status = first->kind == FS_DATA_IMAGE_MISSING   ? FS_E_NOT_FOUND
                             : first->kind == FS_DATA_RECORD_BROKEN ? FS_E_FORMAT
                                                                    : FS_E_MISMATCH;
    if (more)
        return fs_fail(err, status, "%s: %s (and %zu more like this; fakeshield dataset check lists all)", first->path, first->message,
                       more);
    return fs_fail(err, status, "%s: %s", first->path, first->message);
}

/* ---- pairing ------------------------------------------------------------------------------------------------------- */

typedef struct stem_entry { /* a file's stem within its name, and its place in the list of names */
    const char *name;
    size_t length, index;
} stem_entry;

static int by_stem(const void *a, const void *b) {
    const stem_entry *x = a, *y = b;
    const size_t n = x->length < y->length ? x->length : y->length;
    const int c = memcmp(x->name, y->name, n);
    return c ? c : (x->length > y->length) - (x->length < y->length);
}

static int by_stem_and_place(const void *a, const void *b) {
    const int c = by_stem(a, b);
    const size_t x = ((const stem_entry *)a)->index, y = ((const stem_entry *)b)->index;
    return c ? c : (x > y) - (x < y);
}

typedef struct pairing {
    fs_dataset *d;
    const char *image_dir, *mask_dir;
    const fs_names *images, *masks;
    stem_entry *stems; /* of the pictures, sorted */
    size_t *owner;     /* [images] index of the mask + 1, 0 = none */
} pairing;

static fs_status note(const pairing *p, fs_data_problem_kind kind, const char *dir, const char *name, char *message, fs_error *err) {
    char *path = fs_path_join(dir, name);
    if (!path) {
        free(message);
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    }
    fs_status status = fs_dataset_add_problem(p->d, kind, path, message, err);
    free(path);
    return status;
}

/* Two pictures of one stem: nobody can say which one a mask is for. */
static fs_status note_twins(const pairing *p, fs_error *err) {
    fs_status status = FS_OK;
    for (size_t i = 1; i < p->images->count && !status; i++) {
        if (by_stem(&p->stems[i - 1], &p->stems[i]) != 0) continue;
        status = note(
            p, FS_DATA_AMBIGUOUS, p->image_dir, p->stems[i].name,
            fs_format("has the same name as %s but for the extension, and a mask is found by the name; rename one", p->stems[i - 1].name),
            err);
    }
    return status;
}

/* The picture a mask is for: the one of its whole stem, else of its stem without a suffix. */
static const stem_entry *find_picture(const pairing *p, const char *mask) {
    const stem_entry whole = {.name = mask, .length = fs_data_stem(mask, false)}, bare = {.name = mask, .length = fs_data_stem(mask, true)};
    const stem_entry *found = p->images->count ? bsearch(&whole, p->stems, p->images->count, sizeof whole, by_stem) : NULL;
    if (!found && bare.length < whole.length && p->images->count) found = bsearch(&bare, p->stems, p->images->count, sizeof bare, by_stem);
    while (found && found > p->stems && by_stem(found - 1, found) == 0) found--; /* of twins the first */
    return found;
}

static fs_status match_masks(const pairing *p, fs_error *err) {
    fs_status status = FS_OK;
    for (size_t m = 0; m < p->masks->count && !status; m++) {
        const char *name = p->masks->items[m];
        const stem_entry *picture = find_picture(p, name);
        if (!picture) {
            status = note(p, FS_DATA_MASK_ALONE, p->mask_dir, name,
                          fs_format("no picture %.*s.* in %s for this mask; masks are paired with pictures by name",
                                    (int)fs_data_stem(name, true), name, p->image_dir),
                          err);
            continue;
        }
        size_t *owner = &p->owner[picture->index];
        if (*owner)
            status = note(
                p, FS_DATA_AMBIGUOUS, p->mask_dir, name,
                fs_format("is a second mask for %s, which has %s already; take one away", picture->name, p->masks->items[*owner - 1]), err);
        /* Of several, the one of exactly the picture's name is kept. */
        if (!*owner || fs_data_stem(name, false) == picture->length) *owner = m + 1;
    }
    return status;
}

static fs_status add_pictures(const pairing *p, size_t set, fs_error *err) {
    fs_status status = FS_OK;
    for (size_t i = 0; i < p->images->count && !status; i++) {
        const char *name = p->images->items[i];
        if (p->masks && !p->owner[i]) {
            status = note(
                p, FS_DATA_IMAGE_ALONE, p->image_dir, name,
                fs_format(
                    "no mask %.*s.* in %s for this picture; pictures are paired with masks by name, and authentic pictures belong into a "
                    "set with image/ alone",
                    (int)fs_data_stem(name, false), name, p->mask_dir),
                err);
            continue;
        }
        fs_data_record r = {.set = set, .label = p->masks ? FS_VERDICT_TAMPERED : FS_VERDICT_AUTHENTIC, .domain = p->d->sets[set].domain};
        r.image = fs_path_join(p->image_dir, name);
        if (p->masks) r.mask = fs_path_join(p->mask_dir, p->masks->items[p->owner[i] - 1]);
        if (!r.image || (p->masks && !r.mask)) {
            fs_data_record_clear(&r);
            return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", p->image_dir);
        }
        status = fs_dataset_add_record(p->d, r, err);
    }
    return status;
}

/* masks NULL: an authentic set. */
static fs_status pair(fs_dataset *d, size_t set, const char *image_dir, const char *mask_dir, const fs_names *images, const fs_names *masks,
                      fs_error *err) {
    pairing p = {d, image_dir, mask_dir, images, masks, NULL, NULL};
    fs_status status = FS_OK;
    p.stems = fs_alloc_zero(images->count + 1, sizeof *p.stems);
    p.owner = fs_alloc_zero(images->count + 1, sizeof *p.owner);
    if (!p.stems || !p.owner) {
        free(p.stems), free(p.owner);
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", image_dir);
    }
    for (size_t i = 0; i < images->count && !status; i++)
        p.stems[i] = (stem_entry){images->items[i], fs_data_stem(images->items[i], false), i};
    if (!status && masks) {
        qsort(p.stems, images->count, sizeof *p.stems, by_stem_and_place);
        status = note_twins(&p, err);
        if (!status) status = match_masks(&p, err);
    }
    if (!status) status = add_pictures(&p, set, err);
    free(p.stems), free(p.owner);
    return status;
}

/* ---- texts --------------------------------------------------------------------------------------------------------- */

/* Gives the set's records, from `first` on, the texts of one file; notes texts that belong to no picture there is (also one without mask).
 */
static fs_status take_texts(fs_dataset *d, size_t set, size_t first, const fs_names *images, fs_data_texts which,
                            const fs_data_options *opt, fs_error *err) {
    fs_data_text_list list = {0};
    fs_error why = {0};
    size_t twice = 0;
    fs_status status = FS_OK;
    char *path = fs_path_join(d->sets[set].dir, fs_data_texts_file(which));
    if (!path) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", d->sets[set].dir);
    if (!fs_path_exists(path)) {
        if (opt->texts == which)
            status = fs_fail(err, FS_E_NOT_FOUND,
                             "%s: not there; it is a list of {\"image\", \"query\", \"outputs\"} (stage 1 over the pictures makes "
                             "the outputs; fakeshield dataset describe makes the gt)",
                             path);
        goto done;
    }
    status = fs_data_texts_open(path, &list, &twice, &why);
    if (status) {
        if (err) *err = why;
        if (opt->keep_problems && status != FS_E_NO_MEMORY)
            status = fs_dataset_add_problem(d, FS_DATA_TEXTS_BROKEN, path, fs_strdup(why.message), err);
        goto done;
    }
    d->sets[set].texts[which] = true;
    for (size_t i = first; i < d->count && !status; i++) {
        fs_data_record *r = &d->records[i];
        const char *text = r->text ? NULL : fs_data_texts_find(&list, fs_path_base(r->image));
        if (text && !(r->text = fs_strdup(text))) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    }
    for (size_t i = 0; i < list.count && !status; i++)
        if (!fs_names_has(images, list.items[i].image))
            status = fs_dataset_add_problem(
                d, FS_DATA_TEXT_ALONE, path,
                fs_format("[%zu]: a text for \"%s\", which is not in image/", list.items[i].index, list.items[i].image), err);
    if (twice && !status)
        status = fs_dataset_add_problem(d, FS_DATA_TEXT_TWICE, path,
                                        fs_format("%zu texts for pictures that have one already; the last one counts", twice), err);
done:
    fs_data_text_list_free(&list);
    free(path);
    return status;
}

/* ---- sets ---------------------------------------------------------------------------------------------------------- */

static bool has_folder(const char *dir, const char *name) {
    char *path = fs_path_join(dir, name);
    const bool there = path && fs_path_is_dir(path);
    free(path);
    return there;
}

static fs_status add_texts(fs_dataset *d, size_t set, size_t first, const fs_names *images, const fs_data_options *opt, fs_error *err) {
    static const fs_data_texts order[] = {FS_TEXTS_TRAIN_GT, FS_TEXTS_VAL_GT, FS_TEXTS_TRAIN_OUTPUT, FS_TEXTS_VAL_OUTPUT};
    if (opt->texts == FS_TEXTS_NONE) return FS_OK;
    if (opt->texts != FS_TEXTS_ANY) return take_texts(d, set, first, images, opt->texts, opt, err);
    fs_status status = FS_OK;
    for (size_t i = 0; i < sizeof order / sizeof *order && !status; i++) status = take_texts(d, set, first, images, order[i], opt, err);
    return status;
}

static fs_status read_set(fs_dataset *d, const char *dir, const char *type, const char *name, const fs_data_options *opt, fs_error *err) {
    fs_names images = {0}, masks = {0};
    size_t others = 0, first = d->count, first_problem = d->n_problems;
    char *image_dir = fs_path_join(dir, "image"), *mask_dir = fs_path_join(dir, "mask");
    fs_data_set s = {.type = fs_strdup(type), .name = fs_strdup(name), .dir = fs_strdup(dir), .domain = opt->domain};
    s.domain_known = fs_data_domain_of_folder(type, &s.domain);
    s.has_masks = mask_dir && fs_path_is_dir(mask_dir);
    fs_status status = fs_dataset_add_set(d, s, err);
    const size_t set = d->n_sets - 1;
    if (!status && (!image_dir || !mask_dir)) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    if (!status) status = fs_names_read(image_dir, 'p', &images, &others, err);
    if (!status) d->sets[set].other_files = others;
    if (!status && s.has_masks) status = fs_names_read(mask_dir, 'p', &masks, &others, err);
    if (!status && s.has_masks) d->sets[set].other_files += others;
    if (!status) status = pair(d, set, image_dir, mask_dir, &images, s.has_masks ? &masks : NULL, err);
    if (!status && !opt->keep_problems) status = fs_dataset_first_error(d, first_problem, err);
    if (!status) status = add_texts(d, set, first, &images, opt, err);
    fs_names_free(&images), fs_names_free(&masks);
    free(image_dir), free(mask_dir);
    return status;
}

/* Every folder of `dir` that has an image/. */
static fs_status read_type(fs_dataset *d, const char *dir, const char *type, const fs_data_options *opt, fs_error *err) {
    fs_names sets = {0};
    fs_status status = fs_names_read(dir, 'd', &sets, NULL, err);
    for (size_t i = 0; i < sets.count && !status; i++) {
        char *path = fs_path_join(dir, sets.items[i]);
        if (!path)
            status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
        else if (has_folder(path, "image"))
            status = read_set(d, path, type, sets.items[i], opt, err);
        free(path);
    }
    fs_names_free(&sets);
    return status;
}

static fs_status read_root(fs_dataset *d, const char *dir, const fs_data_options *opt, fs_error *err) {
    fs_names types = {0};
    fs_status status = fs_names_read(dir, 'd', &types, NULL, err);
    for (size_t i = 0; i < types.count && !status; i++) {
        char *path = fs_path_join(dir, types.items[i]);
        status = path ? read_type(d, path, types.items[i], opt, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
        free(path);
    }
    fs_names_free(&types);
    return status;
}

/* The last name of a path and the one above it, which ".", ".." and links do not show: *name and *above point into *real. */
static fs_status real_names(const char *dir, char **real, const char **name, const char **above, fs_error *err) {
    *real = realpath(dir, NULL);
    if (!*real) return fs_fail(err, errno == ENOENT ? FS_E_NOT_FOUND : FS_E_IO, "%s: %s", dir, strerror(errno));
    char *slash = strrchr(*real, '/');
    *name = slash[1] ? slash + 1 : "set";
    *above = "";
    if (slash > *real) {
        *slash = 0;
        *above = fs_path_base(*real);
    }
    return FS_OK;
}

static fs_status nothing_found(const char *dir, const fs_dataset *d, fs_error *err) {
    fs_names pictures = {0};
    const bool loose = fs_names_read(dir, 'p', &pictures, NULL, NULL) == FS_OK && pictures.count > 0;
    fs_names_free(&pictures);
    if (d->n_sets) return fs_fail(err, FS_E_NOT_FOUND, "%s: no picture in any image/ folder", dir);
    return fs_fail(err, FS_E_NOT_FOUND,
                   "%s: %s; expected <type>/<set>/image/ and mask/ below it, such as ps/CASIA2/image/a.jpg and ps/CASIA2/mask/a.png", dir,
                   loose ? "has pictures, but no folder image/" : "no folder image/ here or up to two levels below");
}

fs_status fs_dataset_open(const char *dir, const fs_data_options *opt, fs_dataset *out, fs_error *err) {
    char *real = NULL;
    const char *name = "", *above = "";
    *out = (fs_dataset){0};
    if (!fs_path_is_dir(dir))
        return fs_fail(err, FS_E_NOT_FOUND, "%s: %s", dir,
                       fs_path_exists(dir) ? "is a file; a folder with a data set is needed here" : "no such folder");
    fs_status status = real_names(dir, &real, &name, &above, err);
    if (!status && has_folder(dir, "image")) {
        status = read_set(out, dir, above, name, opt, err);
    } else if (!status) {
        status = read_type(out, dir, name, opt, err);
        if (!status && out->n_sets == 0) status = read_root(out, dir, opt, err);
    }
    if (!status && out->count == 0 && out->n_problems == 0) status = nothing_found(dir, out, err);
    free(real);
    if (status) fs_dataset_free(out);
    return status;
}

/* ---- upstream's notation ------------------------------------------------------------------------------------------- */

static fs_status read_named(fs_dataset *d, const char *root, const char *spec, const char *type, size_t type_length, const char *set,
                            size_t set_length, const fs_data_options *opt, fs_error *err) {
    if (!type_length || !set_length || memchr(set, '|', set_length))
        return fs_fail(err, FS_E_USAGE, "\"%s\": expected TYPE|SET,SET with several types parted by ';', such as \"ps|CASIA2,FR\"", spec);
    char *type_name = fs_format("%.*s", (int)type_length, type), *set_name = fs_format("%.*s", (int)set_length, set);
    char *dir = type_name && set_name ? fs_format("%s/%s/%s", root, type_name, set_name) : NULL;
    fs_status status = FS_OK;
    if (!dir)
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", root);
    else if (!has_folder(dir, "image"))
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: no folder image/ here; is this the name of the set in \"%s\"?", dir, spec);
    else
        status = read_set(d, dir, type_name, set_name, opt, err);
    free(type_name), free(set_name), free(dir);
    return status;
}

fs_status fs_dataset_open_spec(const char *root, const char *spec, const fs_data_options *opt, fs_dataset *out, fs_error *err) {
    fs_status status = FS_OK;
    *out = (fs_dataset){0};
    if (strlen(spec) > 65536) return fs_fail(err, FS_E_USAGE, "a list of sets of more than 65536 bytes");
    for (const char *group = spec; !status; group++) {
        const size_t length = strcspn(group, ";"), type = strcspn(group, "|;");
        if (type == length) {
            status =
                fs_fail(err, FS_E_USAGE, "\"%s\": expected TYPE|SET,SET with several types parted by ';', such as \"ps|CASIA2,FR\"", spec);
            break;
        }
        for (const char *s = group + type + 1; !status; s++) {
            const size_t n = strcspn(s, ",;");
            status = read_named(out, root, spec, group, type, s, n, opt, err);
            s += n;
            if (*s != ',') break;
        }
        group += length;
        if (!*group) break;
    }
    if (!status && out->count == 0 && out->n_problems == 0) status = nothing_found(root, out, err);
    if (status) fs_dataset_free(out);
    return status;
}
