/* DTG's samples: pictures and the domain their folder names (aigc, deepfake, photoshop), tampered or not (spec section 8: upstream's training is
 * not published; the folders' names in alphabetical order are the labels). In training a picture is augmented with what pictures on the net go
 * through: a random part of it (torchvision's RandomResizedCrop), scaling, JPEG compression, mirroring. Every picture's changes follow from
 * (seed, record, draw) alone. */
#include "train/data.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "train/data_internal.h"

enum { STREAM_AUGMENT = 0x647467, SIDE = 224, DEEPEST = 32 };

typedef struct picture {
    char *path;
    int64_t index; /* its number in the list as it was read */
    fs_domain domain;
} picture;

typedef struct domains {
    fs_samples base;
    picture *list;
    size_t room;
    fs_domain_options opt;
} domains;

fs_augment fs_augment_defaults(void) {
    return (fs_augment){.crop_min = 0.25, .crop_max = 1, .flip = 0.5, .resize = 0.3, .resize_min = 0.5, .jpeg = 0.5, .jpeg_min = 50, .jpeg_max = 95};
}

fs_domain_options fs_domain_options_defaults(void) {
    return (fs_domain_options){.train = true, .augment = fs_augment_defaults()};
}

/* ---- augmentation ---- */

static double between(fs_rng *r, double low, double high) {
    return low + (high - low) * fs_rng_uniform(r);
}

/* A whole number from low to high, both included. */
static int64_t whole(fs_rng *r, int64_t low, int64_t high) {
    return fs_min_i64(low + (int64_t)(fs_rng_uniform(r) * (double)(high - low + 1)), high);
}

typedef struct part { int64_t x, y, w, h; } part;

/* RandomResizedCrop's choice: ten tries for an area and an aspect that fit, else the middle as far as the aspect allows. */
static part choose_part(const fs_image *im, const fs_augment *a, fs_rng *r) {
    const int64_t width = im->width, height = im->height;
    const double narrow = 3.0 / 4, wide = 4.0 / 3;
    for (int try = 0; try < 10; try++) {
        const double area = between(r, a->crop_min, a->crop_max) * (double)width * (double)height;
        const double aspect = exp(between(r, log(narrow), log(wide)));
        const int64_t w = (int64_t)rint(sqrt(area * aspect)), h = (int64_t)rint(sqrt(area / aspect));
        if (w < 1 || h < 1 || w > width || h > height) continue;
        const int64_t y = whole(r, 0, height - h);
        return (part){whole(r, 0, width - w), y, w, h};
    }
    const double aspect = (double)width / (double)height;
    int64_t w = width, h = height;
    if (aspect < narrow) h = (int64_t)rint((double)width / narrow);
    if (aspect > wide) w = (int64_t)rint((double)height * wide);
    w = fs_min_i64(fs_max_i64(w, 1), width), h = fs_min_i64(fs_max_i64(h, 1), height);
    return (part){(width - w) / 2, (height - h) / 2, w, h};
}

static fs_status recompress(fs_image **im, int quality, fs_error *err) {
    uint8_t *bytes;
    size_t size;
    fs_image *again = NULL;
    fs_status status = fs_jpeg_encode_quality((*im)->data, (*im)->width, (*im)->height, 3, quality, false, &bytes, &size, err);
    if (!status) {
        const fs_decode_options style = fs_decode_options_defaults(FS_DECODE_PIL);
        status = fs_image_decode("recompressed picture", bytes, size, &style, &again, NULL, err);
        free(bytes);
    }
    if (status) return status;
    fs_image_free(*im);
    *im = again;
    return FS_OK;
}

static fs_status rescale(fs_image **im, int64_t w, int64_t h, fs_error *err) {
    fs_image *scaled;
    const fs_status status = fs_image_resize(*im, w, h, FS_FILTER_BILINEAR, &scaled, err);
    if (status) return status;
    fs_image_free(*im);
    *im = scaled;
    return FS_OK;
}

static void mirror(fs_image *im) {
    for (int64_t y = 0; y < im->height; y++) {
        uint8_t *row = im->data + y * im->width * 3;
        for (int64_t a = 0, b = im->width - 1; a < b; a++, b--)
            for (int c = 0; c < 3; c++) {
                const uint8_t t = row[a * 3 + c];
                row[a * 3 + c] = row[b * 3 + c];
                row[b * 3 + c] = t;
            }
    }
}

fs_status fs_augment_picture(const fs_image *im, const fs_augment *a, fs_rng *rng, float **out, fs_error *err) {
    enum { JPEG_SIDE = 65500 };
    fs_image *work = NULL;
    *out = NULL;
    const part p = choose_part(im, a, rng);
    /* all is drawn before anything is done, and always as much: which numbers a later picture gets does not depend on this one */
    const bool smaller = fs_rng_uniform(rng) < a->resize;
    const double factor = between(rng, a->resize_min, 1);
    const bool jpeg = fs_rng_uniform(rng) < a->jpeg;
    const int quality = (int)whole(rng, a->jpeg_min, a->jpeg_max);
    const bool flip = fs_rng_uniform(rng) < a->flip;
    fs_status status = fs_image_crop(im, p.x, p.y, p.w, p.h, &work, err);
    if (!status && smaller) status = rescale(&work, fs_max_i64((int64_t)((double)p.w * factor), 1), fs_max_i64((int64_t)((double)p.h * factor), 1), err);
    if (!status && jpeg && work->width <= JPEG_SIDE && work->height <= JPEG_SIDE) status = recompress(&work, quality, err);
    if (!status) status = rescale(&work, SIDE, SIDE, err);
    if (!status && flip) mirror(work);
    if (!status) status = fs_preprocess_dtg_values(work, out, err);
    fs_image_free(work);
    return status;
}

/* ---- samples ---- */

static const char *name(fs_samples *s, int64_t index) {
    return ((domains *)s)->list[index].path;
}

static fs_status fail_at(const picture *p, const fs_error *why, fs_error *err) {
    if (err) *err = *why;
    return err ? fs_error_prefix(err, "record %" PRId64, p->index) : why->status;
}

static fs_status load(fs_samples *s, int64_t index, uint64_t draw, fs_sample *out, fs_error *err) {
    const domains *d = (domains *)s;
    const picture *p = &d->list[index];
    const fs_decode_options style = fs_decode_options_defaults(FS_DECODE_PIL);
    fs_rng rng = fs_sample_rng(d->opt.seed, STREAM_AUGMENT, p->index, draw);
    fs_error why = {0};
    fs_image *im = NULL;
    *out = (fs_sample){.index = index, .record = p->index, .domain = (int32_t)p->domain};
    fs_status status = fs_image_load(p->path, &style, &im, NULL, &why);
    if (!status) {
        status = d->opt.train ? fs_augment_picture(im, &d->opt.augment, &rng, &out->dtg, &why) : fs_preprocess_dtg(im, &out->dtg, &why);
        out->width = im->width, out->height = im->height;
        if (status) fs_error_prefix(&why, "%s", p->path);
    }
    fs_image_free(im);
    if (!status) return FS_OK;
    fs_sample_free(out);
    return fail_at(p, &why, err);
}

static fs_status check(fs_samples *s, int64_t index, fs_buffer *warning, fs_error *err) {
    const picture *p = &((domains *)s)->list[index];
    fs_error why = {0};
    fs_image_info info;
    (void)warning;
    const fs_status status = fs_image_probe(p->path, NULL, &info, &why);
    return status ? fail_at(p, &why, err) : FS_OK;
}

static void drop(fs_samples *s, const uint8_t *bad) {
    domains *d = (domains *)s;
    int64_t kept = 0;
    for (int64_t i = 0; i < s->count; i++) {
        if (bad[i])
            free(d->list[i].path);
        else
            d->list[kept++] = d->list[i];
    }
    s->count = kept;
}

static void close_domains(fs_samples *s) {
    domains *d = (domains *)s;
    for (int64_t i = 0; i < s->count; i++) free(d->list[i].path);
    free(d->list);
    free(d);
}

/* ---- the folders ---- */

static bool holds_masks(const char *folder) {
    static const char *const names[] = {"mask", "masks", "gt", "groundtruth"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcasecmp(folder, names[i]) == 0) return true;
    return false;
}

static fs_status add(domains *d, const char *dir, const char *file, fs_domain domain, fs_error *err) {
    if ((size_t)d->base.count == d->room) {
        const size_t room = d->room ? 2 * d->room : 256;
        size_t bytes;
        picture *more = fs_mul_size(room, sizeof *more, &bytes) ? realloc(d->list, bytes) : NULL;
        if (!more) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory for a list of %zu pictures", dir, room);
        d->list = more, d->room = room;
    }
    picture *p = &d->list[d->base.count];
    *p = (picture){fs_path_join(dir, file), d->base.count, domain};
    if (!p->path) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    d->base.count++;
    return FS_OK;
}

/* domain NULL: no folder has named one yet. */
static fs_status walk(domains *d, const char *dir, const fs_domain *domain, int depth, fs_error *err) {
    fs_names files = {0}, folders = {0};
    if (depth > DEEPEST) return fs_fail(err, FS_E_LIMIT, "%s: folders more than %d deep; does a link lead in a circle?", dir, (int)DEEPEST);
    fs_status status = fs_names_read(dir, 'p', &files, NULL, err);
    if (!status) status = fs_names_read(dir, 'd', &folders, NULL, err);
    if (!status && files.count && !domain) {
        if (d->opt.bad == FS_BAD_FATAL)
            status = fs_fail(err, FS_E_MISMATCH, "%s: %zu pictures whose folders name no domain; put them below aigc, deepfake or photoshop", dir, files.count);
        else
            fs_log(d->opt.callbacks, FS_LOG_WARNING, "%s: %zu pictures whose folders name no domain are left out", dir, files.count);
    }
    for (size_t i = 0; i < files.count && domain && !status; i++) status = add(d, dir, files.items[i], *domain, err);
    for (size_t i = 0; i < folders.count && !status; i++) {
        fs_domain named;
        if (holds_masks(folders.items[i])) continue;
        char *below = fs_path_join(dir, folders.items[i]);
        const bool names = fs_data_domain_of_folder(folders.items[i], &named);
        status = below ? walk(d, below, names ? &named : domain, depth + 1, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
        free(below);
    }
    fs_names_free(&files);
    fs_names_free(&folders);
    return status;
}

/* A domain without pictures is allowed and said: its class would never be learnt. */
static void tell_missing(const domains *d, const char *root) {
    int64_t count[3] = {0};
    for (int64_t i = 0; i < d->base.count; i++) count[d->list[i].domain]++;
    for (int k = 0; k < 3; k++)
        if (!count[k]) fs_log(d->opt.callbacks, FS_LOG_WARNING, "%s: no picture of domain %s", root, fs_domain_name((fs_domain)k));
}

fs_status fs_samples_open_domains(const char *root, const fs_domain_options *opt, fs_samples **out, fs_error *err) {
    const fs_augment *a = &opt->augment;
    *out = NULL;
    if (!(a->crop_min > 0 && a->crop_min <= a->crop_max && a->crop_max <= 1 && a->resize_min > 0 && a->resize_min <= 1 && a->jpeg_min >= 1 &&
          a->jpeg_min <= a->jpeg_max && a->jpeg_max <= 100))
        return fs_fail(err, FS_E_USAGE, "augmentation: shares above 0 and up to 1, JPEG qualities from 1 to 100 and the smaller one first are expected");
    domains *d = calloc(1, sizeof *d);
    if (!d) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    d->base = (fs_samples){.load = load, .name = name, .check = check, .drop = drop, .close = close_domains};
    d->opt = *opt;
    fs_domain of_root; /* the root itself may be one domain's folder */
    const bool named = fs_data_domain_of_folder(fs_path_base(root), &of_root);
    fs_status status = walk(d, root, named ? &of_root : NULL, 0, err);
    if (!status && d->base.count == 0)
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: no picture below a folder aigc, deepfake or photoshop", root);
    if (!status) tell_missing(d, root);
    if (status)
        close_domains(&d->base);
    else
        *out = &d->base;
    return status;
}
