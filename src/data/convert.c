/* dataset convert: a public set as it is unpacked becomes upstream's tree. Files are listed, told apart by name, paired; every pair is read
 * (so that a mask of another size, an empty or an unreadable one is found now and not in training); pictures are linked or copied, masks
 * written as 0 and 255. */
#include "data/convert.h"
#include "data/mask.h"
#include "image/image.h"

#include <errno.h>
#include <fcntl.h>
#include <omp.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DEPTH = 8, MAX_FILES = 20000000 };

fs_dataset_convert_options fs_dataset_convert_options_defaults(void) {
    return (fs_dataset_convert_options){0};
}

/* ---- lists that grow ----------------------------------------------------------------------------------------------- */

static bool grow(void **items, size_t count, size_t *room, size_t size) {
    const size_t more = *room ? *room * 2 : 256;
    size_t bytes;
    if (count < *room) return true;
    void *moved = fs_mul_size(more, size, &bytes) ? realloc(*items, bytes) : NULL;
    if (!moved) return false;
    *items = moved, *room = more;
    return true;
}

fs_status convert_add_item(convert_state *s, const convert_file *image, const convert_file *mask, int version, fs_error *err) {
    void *items = s->items;
    if (!grow(&items, s->n_items, &s->items_room, sizeof *s->items)) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", s->src);
    s->items = items;
    s->items[s->n_items++] = (convert_item){.image = image, .mask = mask, .version = version};
    return FS_OK;
}

fs_status convert_add_note(convert_state *s, convert_trouble kind, const char *path, char *message, fs_error *err) {
    convert_note n = {kind, fs_strdup(path), message};
    void *notes = s->notes;
    if (!n.path || !n.message || !grow(&notes, s->n_notes, &s->notes_room, sizeof n)) {
        free(n.path), free(n.message);
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", s->src);
    }
    s->notes = notes;
    s->notes[s->n_notes++] = n;
    return FS_OK;
}

/* ---- what is there ------------------------------------------------------------------------------------------------- */

static fs_status add_file(convert_state *s, const char *dir, const char *name, fs_error *err) {
    void *files = s->files;
    convert_file f = {.path = fs_path_join(dir, name), .picture = fs_image_name_is_picture(name)};
    const char *rel = f.path ? f.path + strlen(s->src) : NULL;
    while (rel && *rel == '/') rel++;
    f.rel = fs_strdup(rel);
    if (!f.rel || !grow(&files, s->n_files, &s->files_room, sizeof f)) {
        free(f.path), free(f.rel);
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    }
    f.name = fs_path_base(f.rel);
    s->files = files;
    s->files[s->n_files++] = f;
    return s->n_files < MAX_FILES ? FS_OK : fs_fail(err, FS_E_LIMIT, "%s: more than %d files", s->src, (int)MAX_FILES);
}

/* Sorted by name, folder by folder; links to folders are not followed, nor what macOS leaves in archives. */
static fs_status walk(convert_state *s, const char *dir, int depth, fs_error *err) {
    fs_names names = {0};
    fs_status status = fs_names_read(dir, 'f', &names, NULL, err);
    for (size_t i = 0; i < names.count && !status; i++) status = add_file(s, dir, names.items[i], err);
    fs_names_free(&names);
    if (!status && depth < MAX_DEPTH) status = fs_names_read(dir, 'd', &names, NULL, err);
    for (size_t i = 0; i < names.count && !status; i++) {
        struct stat st;
        char *path = fs_path_join(dir, names.items[i]);
        if (!path)
            status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
        else if (strcmp(names.items[i], "__MACOSX") != 0 && lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
            status = walk(s, path, depth + 1, err);
        free(path);
    }
    fs_names_free(&names);
    return status;
}

/* ---- pairing ------------------------------------------------------------------------------------------------------- */

static int by_key(const void *a, const void *b) {
    const convert_file *x = *(convert_file *const *)a, *y = *(convert_file *const *)b;
    const int c = strcmp(x->key, y->key);
    return c ? c : strcmp(x->rel, y->rel);
}

/* All files of a kind, sorted by key; of several with one key the first stays. */
static fs_status collect(convert_state *s, convert_kind kind, const convert_file ***out, size_t *count, fs_error *err) {
    const convert_file **list = fs_alloc_zero(s->n_files + 1, sizeof *list);
    size_t n = 0, kept = 0;
    fs_status status = FS_OK;
    if (!list) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", s->src);
    for (size_t i = 0; i < s->n_files; i++)
        if (s->files[i].kind == kind) list[n++] = &s->files[i];
    qsort(list, n, sizeof *list, by_key);
    for (size_t i = 0; i < n && !status; i++) {
        if (kept && strcmp(list[kept - 1]->key, list[i]->key) == 0)
            status = convert_add_note(s, CONVERT_TWICE, list[i]->path,
                                      fs_format("belongs to the same name as %s, which is taken", list[kept - 1]->path), err);
        else
            list[kept++] = list[i];
    }
    *out = list, *count = kept;
    return status;
}

/* CASIA's number behind the last '_', which is one picture's alone: "10647" of Tp_D_CNN_M_N_ind00091_ind00091_10647. */
static const char *number_of(const convert_file *f) {
    const char *last = f && f->key ? strrchr(f->key, '_') : NULL;
    return last && last[1] && strspn(last + 1, "0123456789") == strlen(last + 1) ? last + 1 : NULL;
}

static int by_number(const void *a, const void *b) {
    const convert_file *x = *(convert_file *const *)a, *y = *(convert_file *const *)b;
    const char *m = number_of(x), *n = number_of(y);
    if (!m || !n) return (m != NULL) - (n != NULL);
    return strcmp(m, n);
}

static bool alone(const convert_file *const *list, size_t n, size_t i) {
    return number_of(list[i]) && !(i && by_number(&list[i - 1], &list[i]) == 0) && !(i + 1 < n && by_number(&list[i], &list[i + 1]) == 0);
}

/* Some of CASIA 2's pictures and masks are named differently; the number says which belong together, if it is there once on each side.
 * Takes what it pairs out of both lists. */
static fs_status pair_by_number(convert_state *s, const convert_file **pictures, size_t *n_pictures, const convert_file **masks,
                                size_t *n_masks, fs_error *err) {
    fs_status status = FS_OK;
    size_t kept = 0;
    qsort(pictures, *n_pictures, sizeof *pictures, by_number);
    qsort(masks, *n_masks, sizeof *masks, by_number);
    bool *used = fs_alloc_zero(*n_masks + 1, sizeof *used);
    if (!used) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", s->src);
    for (size_t i = 0; i < *n_pictures && !status; i++) {
        const convert_file **found =
            alone(pictures, *n_pictures, i) ? bsearch(&pictures[i], masks, *n_masks, sizeof *masks, by_number) : NULL;
        if (found && alone(masks, *n_masks, (size_t)(found - masks)) && pictures[i]->version == (*found)->version) {
            used[found - masks] = true;
            status = convert_add_item(s, pictures[i], *found, pictures[i]->version, err);
            if (!status)
                status = convert_add_note(s, CONVERT_BY_NUMBER, pictures[i]->path,
                                          fs_format("has the mask %s by its number", (*found)->name), err);
            pictures[i] = NULL;
        }
    }
    for (size_t i = 0; i < *n_pictures; i++)
        if (pictures[i]) pictures[kept++] = pictures[i];
    *n_pictures = kept, kept = 0;
    for (size_t i = 0; i < *n_masks; i++)
        if (!used[i]) masks[kept++] = masks[i];
    *n_masks = kept;
    free(used);
    return status;
}

static fs_status pair(convert_state *s, fs_error *err) {
    const convert_file **pictures = NULL, **masks = NULL;
    size_t n_pictures = 0, n_masks = 0, left_pictures = 0, left_masks = 0, m = 0;
    fs_status status = collect(s, CONVERT_TAMPERED, &pictures, &n_pictures, err);
    if (!status) status = collect(s, CONVERT_MASK, &masks, &n_masks, err);
    for (size_t i = 0; i < n_pictures && !status; i++) { /* both lists are sorted by key */
        while (m < n_masks && strcmp(masks[m]->key, pictures[i]->key) < 0) masks[left_masks++] = masks[m++];
        if (m < n_masks && strcmp(masks[m]->key, pictures[i]->key) == 0)
            status = convert_add_item(s, pictures[i], masks[m++], pictures[i]->version, err);
        else
            pictures[left_pictures++] = pictures[i];
    }
    while (m < n_masks) masks[left_masks++] = masks[m++];
    if (!status && pictures && masks && s->form == FS_FORM_CASIA)
        status = pair_by_number(s, pictures, &left_pictures, masks, &left_masks, err);
    for (size_t i = 0; i < left_pictures && !status; i++)
        status = convert_add_note(s, CONVERT_NO_MASK, pictures[i]->path, fs_strdup("no mask of its name"), err);
    for (size_t i = 0; i < left_masks && !status; i++)
        status = convert_add_note(s, CONVERT_NO_PICTURE, masks[i]->path, fs_strdup("no picture of its name"), err);
    free(pictures), free(masks);
    return status;
}

/* CASIA has two versions, which can lie in one folder; a picture whose name does not tell goes where the tampered ones are. */
static fs_status settle_versions(convert_state *s, fs_error *err) {
    bool seen[3] = {false};
    if (s->form != FS_FORM_CASIA) return FS_OK;
    for (size_t i = 0; i < s->n_items; i++) seen[s->items[i].version] |= s->items[i].mask != NULL;
    const int only = seen[1] != seen[2] ? seen[1] ? 1 : 2 : 0;
    for (size_t i = 0; i < s->n_items; i++)
        if (only)
            s->items[i].version = only;
        else if (!s->items[i].version)
            s->items[i].version = 2;
    bool version[3] = {false};
    for (size_t i = 0; i < s->n_items; i++) version[s->items[i].version] = true;
    if (version[1] && version[2] && s->opt->name)
        return fs_fail(err, FS_E_USAGE,
                       "%s: has both versions of CASIA, and one name for both would mix them; convert each folder by itself", s->src);
    return FS_OK;
}

static fs_status find_items(convert_state *s, fs_error *err) {
    fs_status status = FS_OK;
    if (s->form == FS_FORM_NIST16) return convert_nist(s, err);
    for (size_t i = 0; i < s->n_files && !status; i++) {
        convert_file *f = &s->files[i];
        if (!f->picture) continue;
        status = convert_classify(s->form, f, err);
        if (!status && f->kind == CONVERT_AUTHENTIC) status = convert_add_item(s, f, NULL, f->version, err);
        if (!status && f->kind == CONVERT_UNKNOWN)
            status = convert_add_note(s, CONVERT_NO_ROLE, f->path, fs_strdup("its name does not say what it is in this set"), err);
    }
    if (!status) status = pair(s, err);
    return status;
}

/* ---- names in the result ------------------------------------------------------------------------------------------- */

typedef struct taken { /* stems in use: an open hash table of indices + 1 into items */
    size_t *slots, size;
} taken;

static uint64_t hash_stem(const convert_item *it) {
    const size_t n = fs_data_stem(it->name, false);
    uint64_t h = it->mask ? 1469598103934665603u : 1099511628211u;
    h = (h ^ (uint64_t)it->version) * 1099511628211u;
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)it->name[i]) * 1099511628211u;
    return h;
}

static bool same_stem(const convert_item *a, const convert_item *b) {
    const size_t n = fs_data_stem(a->name, false);
    return (a->mask != NULL) == (b->mask != NULL) && a->version == b->version && n == fs_data_stem(b->name, false) &&
           strncmp(a->name, b->name, n) == 0;
}

static bool take_name(taken *t, const convert_state *s, size_t index) {
    for (size_t i = (size_t)hash_stem(&s->items[index]) & (t->size - 1);; i = (i + 1) & (t->size - 1)) {
        if (!t->slots[i]) return t->slots[i] = index + 1, true;
        if (same_stem(&s->items[t->slots[i] - 1], &s->items[index])) return false;
    }
}

/* Its own name; where another picture of the set has that one too, the folders are put in front. */
static fs_status name_items(convert_state *s, fs_error *err) {
    taken t = {.size = 16};
    fs_status status = FS_OK;
    while (t.size < 2 * s->n_items) t.size *= 2;
    t.slots = fs_alloc_zero(t.size, sizeof *t.slots);
    if (!t.slots) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", s->src);
    for (size_t i = 0; i < s->n_items && !status; i++) {
        convert_item *it = &s->items[i];
        it->name = fs_strdup(it->image->name);
        if (it->name && take_name(&t, s, i)) continue;
        free(it->name);
        it->name = fs_strdup(it->image->rel);
        for (char *p = it->name; p && *p; p++)
            if (*p == '/') *p = '_';
        for (int k = 2; it->name && !take_name(&t, s, i); k++) { /* a.jpg and a.png in one folder */
            const char *name = it->image->name;
            free(it->name);
            it->name = fs_format("%.*s-%d%s", (int)fs_data_stem(name, false), name, k, name + fs_data_stem(name, false));
        }
        if (!it->name) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", s->src);
    }
    free(t.slots);
    return status;
}

/* ---- reading and writing ------------------------------------------------------------------------------------------- */

static char *target(const convert_state *s, const convert_item *it, const char *folder, const char *name, size_t n, const char *ending) {
    return fs_format("%s/photoshop/%s_%s/%s/%.*s%s", s->out, convert_set_name(s, it->version), it->mask ? "Tp" : "Au", folder, (int)n, name,
                     ending);
}

static fs_status leave_out(convert_item *it, convert_trouble trouble, char *message) {
    it->trouble = trouble;
    it->message = message;
    return message ? FS_E_FAILED : FS_E_NO_MEMORY;
}

/* [height][width] 0 or 255 from the file's pixels. */
static uint8_t *binary(const fs_image *im, convert_rule rule) {
    const size_t n = (size_t)im->width * (size_t)im->height;
    uint8_t *out = fs_alloc(n, 1);
    for (size_t i = 0; out && i < n; i++) {
        const unsigned r = im->data[3 * i], g = im->data[3 * i + 1], b = im->data[3 * i + 2],
                       grey = (4899 * r + 9617 * g + 1868 * b + 8192) >> 14;
        const bool on = rule == CONVERT_WHITE   ? grey > 127
                        : rule == CONVERT_BLACK ? grey <= 127
                        : rule == CONVERT_GREEN ? g > 120
                                                : grey > 10;
        out[i] = on ? 255 : 0;
    }
    return out;
}

static uint8_t *nearest(const uint8_t *in, int64_t w, int64_t h, int64_t to_w, int64_t to_h) {
    uint8_t *out = fs_alloc((size_t)to_w * (size_t)to_h, 1);
    for (int64_t y = 0; out && y < to_h; y++)
        for (int64_t x = 0; x < to_w; x++) out[y * to_w + x] = in[(2 * y + 1) * h / (2 * to_h) * w + (2 * x + 1) * w / (2 * to_w)];
    return out;
}

/* The mask of an item as it is to be written. Returns FS_E_FAILED for what is left out. */
static fs_status make_mask(const convert_state *s, convert_item *it, int64_t width, int64_t height, uint8_t **out, fs_error *err) {
    const fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_image *im = NULL;
    fs_error why = {0};
    *out = NULL;
    if (fs_image_load(it->mask->path, &opt, &im, NULL, &why)) return leave_out(it, CONVERT_UNREADABLE, fs_strdup(why.message));
    fs_mask m = {im->width, im->height, binary(im, s->rule), false};
    fs_status status = m.data ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", it->mask->path);
    fs_image_free(im);
    if (!status && (m.width != width || m.height != height)) {
        if (!s->opt->resize_masks) {
            status = leave_out(it, CONVERT_SIZE,
                               fs_format("%lld x %lld, but its mask %s is %lld x %lld", (long long)width, (long long)height, it->mask->rel,
                                         (long long)m.width, (long long)m.height));
        } else {
            uint8_t *other = m.data ? nearest(m.data, m.width, m.height, width, height) : NULL;
            free(m.data);
            m = (fs_mask){width, height, other, false};
            it->resized = true;
            if (!other) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", it->mask->path);
        }
    }
    if (!status) {
        const fs_mask_values v = fs_mask_count(&m);
        if (!v.white) status = leave_out(it, CONVERT_EMPTY, fs_format("its mask %s marks nothing", it->mask->rel));
        it->looks_inverted = fs_mask_looks_inverted(&v);
    }
    if (status) fs_mask_clear(&m);
    *out = m.data;
    return status;
}

static fs_status same_bytes(const char *a, const char *b, bool *same, fs_error *err) {
    fs_mapping x = {0}, y = {0};
    struct stat s, t;
    *same = stat(a, &s) == 0 && stat(b, &t) == 0 && s.st_dev == t.st_dev && s.st_ino == t.st_ino;
    if (*same) return FS_OK;
    fs_status status = fs_map_file(a, &x, err);
    if (!status) status = fs_map_file(b, &y, err);
    *same = !status && x.size == y.size && (x.size == 0 || memcmp(x.data, y.data, x.size) == 0);
    fs_unmap(&x), fs_unmap(&y);
    return status;
}

static fs_status copy_file(const char *from, const char *to, fs_error *err) {
    fs_mapping m;
    fs_status status = fs_map_file(from, &m, err);
    if (!status) status = fs_write_file(to, m.data, m.size, err);
    fs_unmap(&m);
    return status;
}

/* A hard link, which takes no room and cannot differ; a copy where that does not go. */
static fs_status place_picture(const convert_state *s, const char *from, const char *to, fs_error *err) {
    bool same;
    if (fs_path_exists(to)) {
        fs_status status = same_bytes(from, to, &same, err);
        if (status || same) return status;
        return fs_fail(err, FS_E_USAGE, "%s: is there already, and another picture than %s; choose another folder with -o", to, from);
    }
    if (!s->opt->copy && linkat(AT_FDCWD, from, AT_FDCWD, to, AT_SYMLINK_FOLLOW) == 0) return FS_OK;
    return copy_file(from, to, err);
}

static fs_status write_item(const convert_state *s, const convert_item *it, const uint8_t *mask, int64_t w, int64_t h, fs_error *err) {
    char *image = target(s, it, "image", it->name, strlen(it->name), ""),
         *to = target(s, it, "mask", it->name, fs_data_stem(it->name, false), ".png");
    fs_status status = FS_OK;
    if (!image || !to)
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", it->image->path);
    else if (mask)
        status = fs_png_write(to, mask, w, h, 1, err); /* first: a picture without a mask would be an error in the tree */
    if (!status && image) status = place_picture(s, it->image->path, image, err);
    free(image), free(to);
    return status;
}

/* FS_E_FAILED: left out, which is told in the item. */
static fs_status do_item(const convert_state *s, convert_item *it, fs_error *err) {
    const fs_decode_options opt = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_image *im = NULL;
    fs_error why = {0};
    uint8_t *mask = NULL;
    fs_status status = fs_image_load(it->image->path, &opt, &im, NULL, &why);
    if (status) return leave_out(it, CONVERT_UNREADABLE, fs_strdup(why.message));
    const int64_t width = im->width, height = im->height;
    fs_image_free(im);
    if (it->mask) status = make_mask(s, it, width, height, &mask, err);
    if (!status && !s->opt->dry_run) status = write_item(s, it, mask, width, height, err);
    free(mask);
    return status;
}

static int thread_count(const convert_state *s) {
    return s->opt->threads > 0 ? s->opt->threads : omp_get_max_threads();
}

static fs_status do_items(convert_state *s, fs_error *err) {
    const fs_callbacks *cb = &s->opt->callbacks;
    atomic_size_t next = 0, done = 0;
    atomic_bool stop = false;
    bool cancelled = false;
    fs_status status = FS_OK;
#pragma omp parallel num_threads(thread_count(s))
    {
        for (size_t i; !atomic_load(&stop) && (i = atomic_fetch_add(&next, 1)) < s->n_items;) {
            fs_error why = {0};
            const fs_status mine = s->items[i].status = do_item(s, &s->items[i], &why);
            if (mine && mine != FS_E_FAILED) {
#pragma omp critical(fs_convert_failure)
                {
                    if (!status && err) *err = why;
                    if (!status) status = mine;
                }
                atomic_store(&stop, true);
            }
            const size_t finished = atomic_fetch_add(&done, 1) + 1;
            if (omp_get_thread_num() != 0) continue; /* callbacks belong to the caller's thread */
            fs_progress(cb, s->opt->dry_run ? "reading pictures and masks" : "converting", (int64_t)finished, (int64_t)s->n_items);
            if (fs_cancelled(cb)) cancelled = true, atomic_store(&stop, true);
        }
    }
    if (!status && (cancelled || fs_cancelled(cb)))
        status = fs_fail(err, FS_E_CANCELLED, "stopped; what is written is whole, and the same command goes on");
    return status;
}

static fs_status make_folders(const convert_state *s, fs_error *err) {
    fs_status status = FS_OK;
    bool made[2][3] = {{false}};
    for (size_t i = 0; i < s->n_items && !status; i++) {
        const convert_item *it = &s->items[i];
        bool *once = &made[it->mask != NULL][it->version];
        if (*once) continue;
        *once = true;
        char *image = target(s, it, "image", "", 0, ""), *mask = target(s, it, "mask", "", 0, "");
        if (!image || !mask) {
            status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", s->out);
        } else {
            image[strlen(image) - 1] = mask[strlen(mask) - 1] = 0; /* without the '/' at the end */
            status = fs_make_dirs(image, err);
            if (!status && it->mask) status = fs_make_dirs(mask, err);
        }
        free(image), free(mask);
    }
    return status;
}

/* What is read must not grow while it is read. */
static fs_status refuse_inside(const char *src, const char *out, fs_error *err) {
    char *real_src = realpath(src, NULL), *copy = fs_strdup(out), *real_out = NULL;
    fs_status status = FS_OK;
    while (copy && *copy && !(real_out = realpath(copy, NULL))) { /* up to a folder that is there */
        char *slash = strrchr(copy, '/');
        if (!slash) {
            real_out = realpath(".", NULL);
            break;
        }
        slash[slash == copy] = 0;
    }
    const size_t n = real_src ? strlen(real_src) : 0;
    if (real_src && real_out && strncmp(real_src, real_out, n) == 0 && (real_out[n] == '/' || real_out[n] == 0))
        status = fs_fail(err, FS_E_USAGE, "%s: lies in the folder that is converted; choose one outside of %s with -o", out, src);
    free(real_src), free(copy), free(real_out);
    return status;
}

static void clear(convert_state *s) {
    for (size_t i = 0; i < s->n_files; i++) free(s->files[i].path), free(s->files[i].rel), free(s->files[i].key);
    for (size_t i = 0; i < s->n_items; i++) free(s->items[i].name), free(s->items[i].message);
    for (size_t i = 0; i < s->n_notes; i++) free(s->notes[i].path), free(s->notes[i].message);
    free(s->files), free(s->items), free(s->notes);
}

fs_status fs_dataset_convert(fs_dataset_form form, const char *src_dir, const char *out_dir, const fs_dataset_convert_options *options,
                             char **text, fs_error *err) {
    const fs_dataset_convert_options defaults = fs_dataset_convert_options_defaults();
    convert_state s = {.opt = options ? options : &defaults, .form = form, .src = src_dir, .out = out_dir, .rule = convert_rule_of(form)};
    size_t tampered = 0, authentic = 0, left_out = 0;
    if (text) *text = NULL;
    if (s.opt->no_invert && s.rule == CONVERT_BLACK) s.rule = CONVERT_WHITE;
    if (s.opt->name && (!*s.opt->name || strchr(s.opt->name, '/') || *s.opt->name == '.'))
        return fs_fail(err, FS_E_USAGE, "\"%s\" cannot be the name of a set: it becomes a folder's", s.opt->name);
    if (!fs_path_is_dir(src_dir)) return fs_fail(err, FS_E_NOT_FOUND, "%s: no such folder", src_dir);
    fs_status status = refuse_inside(src_dir, out_dir, err);
    if (!status) status = walk(&s, src_dir, 0, err);
    if (!status) status = find_items(&s, err);
    if (!status) status = settle_versions(&s, err);
    if (!status && s.n_items == 0)
        status =
            fs_fail(err, FS_E_NOT_FOUND, "%s: nothing of %s here; expected %s", src_dir, fs_dataset_form_name(form), convert_layout(form));
    if (!status) status = name_items(&s, err);
    if (!status && !s.opt->dry_run) status = make_folders(&s, err);
    if (!status) status = do_items(&s, err);
    if (!status) {
        char *report = convert_report(&s, &tampered, &authentic, &left_out);
        if (!report) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory for the report", src_dir);
        if (text)
            *text = report;
        else
            free(report);
    }
    if (!status && s.opt->tampered) *s.opt->tampered = tampered;
    if (!status && s.opt->authentic) *s.opt->authentic = authentic;
    if (!status && s.opt->left_out) *s.opt->left_out = left_out;
    clear(&s);
    return status;
}
