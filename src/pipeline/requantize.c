/* From a bundle to another bundle of a coarser type. Names, order of rows and metadata stay; the two fields that name the type change. A
 * bundle of f32, f16 or bf16 becomes what fs_convert would have made of the checkpoint as far as its own numbers allow (f32: the very
 * same bytes), one of q8_0 nearly that. On the way, parts of it can be those of other bundles: stage 1, stage 2 and the tag generator, which were trained
 * at the same time from one start. What they share is CLIP, so that one must be the same in all. */
#include <stdlib.h>
#include <string.h>

#include "pipeline/bundle_write.h"
#include "pipeline/calibration.h"
#include "pipeline/scratch.h"
#include "tensor/block.h"

#define CLIP_CONFIG "fakeshield.file.clip_config.json"

static const char *const files[3] = {FS_BUNDLE_DTE, FS_BUNDLE_MFLM, FS_BUNDLE_VISION};
enum { VISION = 2 };

/* What can come from another bundle. The language models of the first two are files of their own, in the order of `files`. */
enum { STAGE1 = 0, STAGE2, TAG, PARTS };
static const char *const part_names[PARTS] = {"stage 1", "stage 2", "tag generator"};

typedef struct job {
    fs_bundle_job write;
    fs_archive *archives[3];
    fs_bundle_replace_fn replace; /* if not NULL: what stands in place of a file's tensor, and the bundle keeps its type */
    void *user;
    const char *weights; /* ... and a hash of what replaces, which goes into the new bundle's name; NULL: it keeps the old one */
    const fs_calibration *calibration;
    bool combine; /* parts come from elsewhere: */
    const char *from[PARTS];    /* NULL: from the bundle itself */
    fs_archive *vision[PARTS];  /* the vision files there */
    char fingerprint[65];       /* of what is made of all */
    bool warned, synthetic;
} job;

/* Bits of a value of the type's matrices, in 256ths; a mixture counts as its coarsest part. */
static size_t fineness(const fs_bundle_type *type) {
    size_t bytes = 0;
    return fs_dtype_row_bytes(type->matrix, 256, &bytes) ? 8 * bytes : 0;
}

static fs_status check_types(const char *path, const fs_bundle_type *from, const fs_bundle_type *to, bool same_too, fs_error *err) {
    const bool same = strcmp(from->name, to->name) == 0;
    if (same && same_too) return FS_OK;
    if (same) return fs_fail(err, FS_E_USAGE, "%s: is of type %s already", path, to->name);
    if (fineness(from) < fineness(to))
        return fs_fail(err, FS_E_USAGE, "%s: is of type %s, and %s would only be larger: what is lost stays lost; convert the checkpoint with --type %s", path,
                       from->name, to->name, to->name);
    if (fineness(from) <= fineness(to) && fs_dtype_block(from->matrix) > 1)
        return fs_fail(err, FS_E_USAGE, "%s: is of type %s, from which no other type of so few bits is made; requantize from f32, f16, bf16 or q8_0", path,
                       from->name);
    return FS_OK;
}

/* Is it a key of a calibration that holds no more? Other numbers give other scores; mere rounding leaves them nearly as they are. The tag is part of
 * stage 1's prompt. */
static bool outdated(const job *j, fs_gguf_text key) {
    const size_t n = sizeof FS_CALIBRATION_PREFIX - 1;
    return (j->replace || j->from[STAGE1] || j->from[TAG]) && key.size > n && memcmp(key.data, FS_CALIBRATION_PREFIX, n) == 0;
}

static void put_metadata(const job *j, int file, const fs_gguf *g) {
    fs_gguf_writer *w = j->write.outputs[file].w;
    bool dropped = false;
    for (size_t i = 0; i < fs_gguf_count(g); i++) {
        const fs_gguf_text key = fs_gguf_at(g, i).key;
        if (fs_gguf_text_is(key, "general.file_type"))
            fs_gguf_put_u32(w, "general.file_type", j->write.type.file_type);
        else if (fs_gguf_text_is(key, "fakeshield.type"))
            fs_gguf_put_text(w, "fakeshield.type", j->write.type.name);
        else if (fs_gguf_text_is(key, "fakeshield.made_with"))
            fs_gguf_put_text(w, "fakeshield.made_with", fs_version());
        else if (j->fingerprint[0] && fs_gguf_text_is(key, "fakeshield.source_sha256"))
            fs_gguf_put_text(w, "fakeshield.source_sha256", j->fingerprint);
        else if (outdated(j, key))
            dropped = true;
        else
            fs_gguf_put_copy(w, g, i);
    }
    if (j->combine && file == VISION && j->synthetic && !fs_gguf_has(g, FS_BUNDLE_SYNTHETIC)) fs_gguf_put_bool(w, FS_BUNDLE_SYNTHETIC, true);
    if (j->combine && dropped)
        fs_log(&j->write.opt->callbacks, FS_LOG_WARNING, "%s: has a calibration, which was fitted to other parts and is left out; fit one anew: fakeshield calibrate",
               fs_archive_path(j->archives[file]));
}

/* ---- tensors ---- */

static fs_status put_tensor(job *j, int file, fs_archive *a, int64_t layers, const char *name, fs_gguf_text sum, fs_error *err) {
    const fs_tensor *t = fs_archive_find(a, name);
    fs_bundle_item item = {.source = t, .archive = a, .sum = sum};
    if (!fs_row_to_f32(t->dtype, t->data, 0, NULL))
        return fs_fail(err, FS_E_MISMATCH, "%s: tensor %s: expected floating-point numbers, found %s", fs_archive_path(a), name, fs_dtype_name(t->dtype));
    item.type = j->replace ? t->dtype : fs_bundle_store_as(&j->write.type, name, layers, t->ndim, t->shape);
    const fs_tensor *other = j->replace ? j->replace(j->user, file, layers, name) : NULL;
    if (other) {
        if (fs_tensor_count(other) != fs_tensor_count(t)) return fs_fail(err, FS_E_INTERNAL, "tensor %s is to be replaced by one of another size", name);
        item = (fs_bundle_item){.source = other, .archive = a, .type = t->dtype};
    }
    return fs_bundle_output_add(&j->write.outputs[file], name, &item, err);
}

/* The part a tensor of the vision file belongs to; PARTS: to none that can come from elsewhere (CLIP). */
static int owner(const char *name) {
    static const struct { const char *part; int owner; } owners[] = {{"dte", STAGE1}, {"mflm", STAGE2}, {"dtg", TAG}}; /* "mflm" has SAM's prefixes too */
    for (const fs_bundle_prefix *p = fs_bundle_prefixes; p->part; p++)
        for (size_t i = 0; i < sizeof owners / sizeof owners[0]; i++)
            if (strcmp(p->part, owners[i].part) == 0 && strncmp(name, p->to, strlen(p->to)) == 0) return owners[i].owner;
    return PARTS;
}

/* The part's tensors in the vision file of the bundle it comes from. */
static fs_status put_part(job *j, int part, fs_error *err) {
    fs_archive *a = j->vision[part];
    const fs_gguf *g = fs_archive_gguf(a);
    fs_gguf_array sums = {0};
    fs_gguf_text sum = {0};
    size_t found = 0;
    fs_status status = fs_gguf_tensor_sums(g, &sums, err);
    for (size_t i = 0; i < fs_gguf_tensor_count(g) && !status; i++) {
        const char *name = fs_gguf_tensor_name(g, i);
        fs_gguf_next(&sums, &sum);
        if (owner(name) != part) continue;
        status = put_tensor(j, VISION, a, 0, name, sum, err);
        found++;
    }
    if (!status && !found) status = fs_fail(err, FS_E_NOT_FOUND, "%s: holds no %s; give a bundle that has one", fs_archive_path(a), part_names[part]);
    return status;
}

/* All tensors of a file; a part from elsewhere takes the place of the bundle's own, or stands at the end. */
static fs_status put_tensors(job *j, int file, fs_archive *a, int64_t layers, fs_error *err) {
    const fs_gguf *g = fs_archive_gguf(a);
    fs_gguf_array sums = {0};
    fs_gguf_text sum = {0};
    bool placed[PARTS] = {false};
    fs_status status = fs_gguf_tensor_sums(g, &sums, err);
    for (size_t i = 0; i < fs_gguf_tensor_count(g) && !status; i++) {
        const char *name = fs_gguf_tensor_name(g, i);
        const int part = file == VISION ? owner(name) : PARTS;
        fs_gguf_next(&sums, &sum);
        if (part == PARTS || !j->vision[part]) {
            status = put_tensor(j, file, a, layers, name, sum, err);
        } else if (!placed[part]) {
            placed[part] = true;
            status = put_part(j, part, err);
        }
    }
    for (int k = 0; k < PARTS && file == VISION && !status; k++)
        if (j->vision[k] && !placed[k]) status = put_part(j, k, err);
    return status;
}

/* ---- files ---- */

/* The type a file says it is of, and whether the one asked for can be made of it. */
static fs_status check_file(job *j, const fs_archive *a, fs_error *err) {
    const char *path = fs_archive_path(a);
    const fs_gguf *g = fs_archive_gguf(a);
    fs_bundle_type from;
    fs_gguf_text name = {0};
    char text[32] = "";
    fs_status status;
    if (!g) return fs_fail(err, FS_E_FORMAT, "%s: is no GGUF file", path);
    if ((status = fs_gguf_string(g, "fakeshield.type", true, &name, err))) return status;
    if (name.size < sizeof text) memcpy(text, name.data, name.size);
    if (!fs_bundle_type_from_name(text, &from))
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: fakeshield.type is \"%.*s\", which this version does not know", path, (int)(name.size < 32 ? name.size : 32), name.data);
    if (j->replace) {
        j->write.type = from;
        return FS_OK;
    }
    if ((status = check_types(path, &from, &j->write.type, j->combine, err))) return status;
    if (fs_dtype_block(from.matrix) > 1 && strcmp(from.name, j->write.type.name) != 0 && !j->warned) {
        fs_log(&j->write.opt->callbacks, FS_LOG_WARNING, "%s holds %s weights, rounded once already; converting the checkpoint to %s loses a little less", path, from.name,
               j->write.type.name);
        j->warned = true;
    }
    return FS_OK;
}

static fs_status plan_file(job *j, int i, const char *out_dir, fs_error *err) {
    fs_archive *a = j->archives[i];
    const fs_gguf *g = fs_archive_gguf(a);
    int64_t layers = 0;
    fs_status status;
    if ((status = fs_gguf_int(g, "llama.block_count", false, 1, 4096, &layers, err))) return status; /* the vision file has none */
    if ((status = fs_bundle_output_begin(&j->write.outputs[i], out_dir, files[i], err))) return status;
    put_metadata(j, i, g);
    if (i == 0 && j->calibration) fs_calibration_put(j->write.outputs[i].w, j->calibration);
    return put_tensors(j, i, a, layers, err);
}

/* One file of a bundle. *out stays NULL if it is not there. */
static fs_status open_file(job *j, const char *dir, int i, fs_archive **out, fs_error *err) {
    char *path = fs_path_join(dir, files[i]);
    fs_status status = path ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status && fs_path_exists(path)) {
        status = fs_archive_open(path, out, err);
        if (!status) status = check_file(j, *out, err);
    }
    free(path);
    return status;
}

/* Would the files be written over those they are read from? */
static bool same_folder(const char *a, const char *b) {
    char *x = realpath(a, NULL), *y = realpath(b, NULL);
    const bool same = x && y && strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}

/* ---- parts from elsewhere ---- */

static bool is_clip(const char *name) { return strncmp(name, "clip.", 5) == 0; }

/* The first tensor of CLIP in which two vision files differ, its config counted as one; NULL: none. */
static const char *clip_difference(fs_archive *a, fs_archive *b) {
    const fs_gguf *g = fs_archive_gguf(a), *h = fs_archive_gguf(b);
    fs_gguf_array x = {0}, y = {0};
    size_t here = 0, there = 0;
    (void)fs_gguf_array_of(g, CLIP_CONFIG, false, FS_GGUF_U8, &x, NULL);
    (void)fs_gguf_array_of(h, CLIP_CONFIG, false, FS_GGUF_U8, &y, NULL);
    if (x.size != y.size || (x.size && memcmp(x.data, y.data, x.size) != 0)) return "its config";
    for (size_t i = 0; i < fs_gguf_tensor_count(h); i++) there += is_clip(fs_gguf_tensor_name(h, i));
    for (size_t i = 0; i < fs_gguf_tensor_count(g); i++) {
        const char *name = fs_gguf_tensor_name(g, i);
        if (!is_clip(name)) continue;
        const fs_tensor *s = fs_archive_find(a, name), *t = fs_archive_find(b, name);
        size_t bytes;
        bool same = t && t->dtype == s->dtype && t->ndim == s->ndim && fs_dtype_bytes(s->dtype, s->ndim, s->shape, &bytes);
        for (int d = 0; same && d < s->ndim; d++) same = s->shape[d] == t->shape[d];
        if (!same) return name;
        same = memcmp(s->data, t->data, bytes) == 0;
        fs_archive_release(a, s);
        fs_archive_release(b, t);
        if (!same) return name;
        here++;
    }
    return here == there ? NULL : "the number of its tensors";
}

/* Opens the vision files the parts come from and sees that they work with the bundle's CLIP. The tag generator does without one. */
static fs_status open_parts(job *j, fs_error *err) {
    fs_status status = FS_OK;
    if (!j->archives[VISION]) return fs_fail(err, FS_E_NOT_FOUND, "the bundle holds no " FS_BUNDLE_VISION ", so no parts can be put into it; give a whole one");
    for (int k = 0; k < PARTS && !status; k++) {
        if (!j->from[k]) continue;
        if ((status = open_file(j, j->from[k], VISION, &j->vision[k], err))) break;
        if (!j->vision[k]) return fs_fail(err, FS_E_NOT_FOUND, "%s: holds no " FS_BUNDLE_VISION "; give a bundle to take the %s from", j->from[k], part_names[k]);
        const char *differs = k == TAG ? NULL : clip_difference(j->archives[VISION], j->vision[k]);
        if (differs)
            return fs_fail(err, FS_E_MISMATCH, "%s: its CLIP is another than that of %s (%s differs), and %s works only with the one it was trained on; train both from one bundle, CLIP frozen",
                           fs_archive_path(j->vision[k]), fs_archive_path(j->archives[VISION]), differs, part_names[k]);
    }
    return status;
}

/* Names what is made: a SHA-256 over the headers' own, which cover the tensors' checksums, and over what replaces some of them. So files of two such
 * bundles are never taken for one another. */
static fs_status name_parts(job *j, fs_error *err) {
    fs_archive *const all[] = {j->archives[0], j->archives[1], j->archives[2], j->vision[0], j->vision[1], j->vision[2]};
    fs_sha256 sum;
    fs_sha256_begin(&sum);
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        fs_gguf_text text = {"-", 1};
        bool synthetic = false;
        fs_status status = all[i] ? fs_gguf_string(fs_archive_gguf(all[i]), "fakeshield.header_sha256", true, &text, err) : FS_OK;
        if (!status && all[i]) status = fs_gguf_bool(fs_archive_gguf(all[i]), FS_BUNDLE_SYNTHETIC, false, &synthetic, err);
        if (status) return status;
        j->synthetic = j->synthetic || synthetic;
        fs_sha256_add(&sum, text.data, text.size);
    }
    if (j->weights) fs_sha256_add(&sum, j->weights, strlen(j->weights));
    fs_sha256_end(&sum, j->fingerprint);
    return FS_OK;
}

/* ---- the whole ---- */

/* Opens everything that is read. */
static fs_status open_all(job *j, const char *bundle_dir, const char *out_dir, fs_error *err) {
    int found = 0;
    for (int i = -1; i < PARTS; i++) {
        const char *dir = i < 0 ? bundle_dir : j->from[i];
        if (!dir) continue;
        if (!fs_path_is_dir(dir)) return fs_fail(err, FS_E_NOT_FOUND, "%s: no such folder; give the bundle that convert wrote", dir);
        if (same_folder(dir, out_dir)) return fs_fail(err, FS_E_USAGE, "%s: is the bundle to be read; give another folder for the new one", out_dir);
    }
    for (int i = 0; i < 3; i++) {
        const char *dir = i < VISION && j->from[i] ? j->from[i] : bundle_dir;
        fs_status status = open_file(j, dir, i, &j->archives[i], err);
        if (status) return status;
        if (!j->archives[i] && dir != bundle_dir) return fs_fail(err, FS_E_NOT_FOUND, "%s: holds no %s; give a bundle that has %s", dir, files[i], part_names[i]);
        found += j->archives[i] != NULL;
    }
    if (!found)
        return fs_fail(err, FS_E_NOT_FOUND, "%s: holds none of " FS_BUNDLE_DTE ", " FS_BUNDLE_MFLM " and " FS_BUNDLE_VISION "; give the bundle that convert wrote",
                       bundle_dir);
    fs_status status = j->combine ? open_parts(j, err) : FS_OK;
    if (!status && (j->combine || j->weights)) status = name_parts(j, err);
    return status;
}

static fs_status run(job *j, const char *bundle_dir, const char *out_dir, fs_error *err) {
    fs_status status = open_all(j, bundle_dir, out_dir, err);
    for (int i = 0; i < 3 && !status; i++)
        if (j->archives[i]) status = plan_file(j, i, out_dir, err);
    if (!status) status = fs_make_dirs(out_dir, err);
    if (!status) status = fs_bundle_job_run(&j->write, out_dir, err);
    fs_bundle_job_free(&j->write);
    for (int i = 0; i < 3; i++) fs_archive_free(j->archives[i]);
    for (int i = 0; i < PARTS; i++) fs_archive_free(j->vision[i]);
    return status;
}

fs_status fs_requantize(const char *bundle_dir, const char *out_dir, const char *type, const fs_options *options, fs_error *err) {
    job j = {.write = {.opt = options}};
    const fs_status status = fs_bundle_type_parse(type, &j.write.type, err);
    return status ? status : run(&j, bundle_dir, out_dir, err);
}

fs_status fs_assemble(const char *bundle_dir, const fs_bundle_parts *parts, const char *out_dir, const char *type, const fs_options *options, fs_error *err) {
    job j = {.write = {.opt = options}, .combine = true, .from = {parts->stage1, parts->stage2, parts->tag}};
    const fs_status status = fs_bundle_type_parse(type, &j.write.type, err);
    return status ? status : run(&j, bundle_dir, out_dir, err);
}

fs_status fs_bundle_rewrite(const char *bundle_dir, const char *out_dir, fs_bundle_replace_fn replace, void *user, const char *weights, const fs_options *options,
                            fs_error *err) {
    fs_options o = *options;
    o.overwrite = true; /* what an earlier run left has other numbers */
    o.callbacks = (fs_callbacks){0};
    job j = {.write = {.opt = &o}, .replace = replace, .user = user, .weights = weights};
    return run(&j, bundle_dir, out_dir, err);
}

static const fs_tensor *as_it_is(void *user, int file, int64_t layers, const char *name) {
    (void)user, (void)file, (void)layers, (void)name;
    return NULL;
}

fs_status fs_bundle_calibrate(const char *dir, const char *out_dir, const fs_calibration *c, const fs_options *options, fs_error *err) {
    fs_options o = *options;
    o.overwrite = true;
    job j = {.write = {.opt = &o}, .replace = as_it_is, .calibration = c};
    return run(&j, dir, out_dir, err);
}
