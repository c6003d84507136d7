/* From a bundle to another bundle of a coarser type. Names, order of rows and metadata stay; the two fields that name the type change. A
 * bundle of f32, f16 or bf16 becomes what fs_convert would have made of the checkpoint as far as its own numbers allow (f32: the very
 * same bytes), one of q8_0 nearly that. */
#include <stdlib.h>
#include <string.h>

#include "pipeline/bundle_write.h"
#include "pipeline/calibration.h"
#include "pipeline/scratch.h"
#include "tensor/block.h"

static const char *const files[3] = {FS_BUNDLE_DTE, FS_BUNDLE_MFLM, FS_BUNDLE_VISION};

/* replace, if not NULL: what stands in place of a file's tensor, and the bundle keeps its type. */
typedef struct job { fs_bundle_job write; fs_archive *archives[3]; fs_bundle_replace_fn replace; void *user; const fs_calibration *calibration; } job;

/* Bits of a value of the type's matrices, in 256ths; a mixture counts as its coarsest part. */
static size_t fineness(const fs_bundle_type *type) {
    size_t bytes = 0;
    return fs_dtype_row_bytes(type->matrix, 256, &bytes) ? 8 * bytes : 0;
}

static fs_status check_types(const char *path, const fs_bundle_type *from, const fs_bundle_type *to, fs_error *err) {
    if (strcmp(from->name, to->name) == 0) return fs_fail(err, FS_E_USAGE, "%s: is of type %s already", path, to->name);
    if (fineness(from) < fineness(to))
        return fs_fail(err, FS_E_USAGE, "%s: is of type %s, and %s would only be larger: what is lost stays lost; convert the checkpoint with --type %s", path,
                       from->name, to->name, to->name);
    if (fineness(from) <= fineness(to) && fs_dtype_block(from->matrix) > 1)
        return fs_fail(err, FS_E_USAGE, "%s: is of type %s, from which no other type of so few bits is made; requantize from f32, f16, bf16 or q8_0", path,
                       from->name);
    return FS_OK;
}

/* Is it a key of a calibration that holds no more? Other numbers give other scores; mere rounding leaves them nearly as they are. */
static bool outdated(const job *j, fs_gguf_text key) {
    const size_t n = sizeof FS_CALIBRATION_PREFIX - 1;
    return j->replace && key.size > n && memcmp(key.data, FS_CALIBRATION_PREFIX, n) == 0;
}

static void put_metadata(const job *j, fs_bundle_output *o, const fs_gguf *g, const fs_bundle_type *type) {
    for (size_t i = 0; i < fs_gguf_count(g); i++) {
        const fs_gguf_text key = fs_gguf_at(g, i).key;
        if (fs_gguf_text_is(key, "general.file_type"))
            fs_gguf_put_u32(o->w, "general.file_type", type->file_type);
        else if (fs_gguf_text_is(key, "fakeshield.type"))
            fs_gguf_put_text(o->w, "fakeshield.type", type->name);
        else if (fs_gguf_text_is(key, "fakeshield.made_with"))
            fs_gguf_put_text(o->w, "fakeshield.made_with", fs_version());
        else if (!outdated(j, key))
            fs_gguf_put_copy(o->w, g, i);
    }
}

static fs_status put_tensors(job *j, int file, fs_archive *a, int64_t layers, fs_error *err) {
    fs_bundle_output *o = &j->write.outputs[file];
    const fs_gguf *g = fs_archive_gguf(a);
    fs_gguf_array sums = {0};
    fs_status status = fs_gguf_tensor_sums(g, &sums, err);
    for (size_t i = 0; i < fs_gguf_tensor_count(g) && !status; i++) {
        const char *name = fs_gguf_tensor_name(g, i);
        const fs_tensor *t = fs_archive_find(a, name);
        fs_bundle_item item = {.source = t, .archive = a};
        fs_gguf_next(&sums, &item.sum);
        if (!fs_row_to_f32(t->dtype, t->data, 0, NULL))
            return fs_fail(err, FS_E_MISMATCH, "%s: tensor %s: expected floating-point numbers, found %s", fs_archive_path(a), name, fs_dtype_name(t->dtype));
        item.type = j->replace ? t->dtype : fs_bundle_store_as(&j->write.type, name, layers, t->ndim, t->shape);
        const fs_tensor *other = j->replace ? j->replace(j->user, file, layers, name) : NULL;
        if (other) {
            if (fs_tensor_count(other) != fs_tensor_count(t)) return fs_fail(err, FS_E_INTERNAL, "tensor %s is to be replaced by one of another size", name);
            item = (fs_bundle_item){.source = other, .archive = a, .type = t->dtype};
        }
        status = fs_bundle_output_add(o, name, &item, err);
    }
    return status;
}

static fs_status plan_file(job *j, int i, const char *path, const char *out_dir, bool *warned, fs_error *err) {
    fs_bundle_output *o = &j->write.outputs[i];
    fs_bundle_type from;
    fs_gguf_text name = {0};
    int64_t layers = 0;
    char text[32] = "";
    fs_status status = fs_archive_open(path, &j->archives[i], err);
    if (status) return status;
    const fs_gguf *g = fs_archive_gguf(j->archives[i]);
    if (!g) return fs_fail(err, FS_E_FORMAT, "%s: is no GGUF file", path);
    if ((status = fs_gguf_string(g, "fakeshield.type", true, &name, err))) return status;
    if (name.size < sizeof text) memcpy(text, name.data, name.size);
    if (!fs_bundle_type_from_name(text, &from))
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: fakeshield.type is \"%.*s\", which this version does not know", path, (int)(name.size < 32 ? name.size : 32), name.data);
    if (j->replace) j->write.type = from;
    else if ((status = check_types(path, &from, &j->write.type, err))) return status;
    if (!j->replace && fs_dtype_block(from.matrix) > 1 && !*warned) {
        fs_log(&j->write.opt->callbacks, FS_LOG_WARNING, "%s holds %s weights, rounded once already; converting the checkpoint to %s loses a little less", path, from.name,
               j->write.type.name);
        *warned = true;
    }
    if ((status = fs_gguf_int(g, "llama.block_count", false, 1, 4096, &layers, err))) return status; /* the vision file has none */
    if ((status = fs_bundle_output_begin(o, out_dir, files[i], err))) return status;
    put_metadata(j, o, g, &j->write.type);
    if (i == 0 && j->calibration) fs_calibration_put(o->w, j->calibration);
    return put_tensors(j, i, j->archives[i], layers, err);
}

/* Would the files be written over those they are read from? */
static bool same_folder(const char *a, const char *b) {
    char *x = realpath(a, NULL), *y = realpath(b, NULL);
    const bool same = x && y && strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}

static fs_status run(job *j, const char *bundle_dir, const char *out_dir, fs_error *err) {
    bool warned = false;
    int found = 0;
    fs_status status = FS_OK;
    if (!fs_path_is_dir(bundle_dir))
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: no such folder; give the bundle that convert wrote", bundle_dir);
    for (int i = 0; i < 3 && !status; i++) {
        char *path = fs_path_join(bundle_dir, files[i]);
        if (!path) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        if (!status && fs_path_exists(path)) {
            if (!found++) status = fs_make_dirs(out_dir, err);
            if (!status && same_folder(bundle_dir, out_dir))
                status = fs_fail(err, FS_E_USAGE, "%s: is the bundle to be read; give another folder for the new one", out_dir);
            if (!status) status = plan_file(j, i, path, out_dir, &warned, err);
        }
        free(path);
    }
    if (!status && !found)
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: holds none of " FS_BUNDLE_DTE ", " FS_BUNDLE_MFLM " and " FS_BUNDLE_VISION "; give the bundle that convert wrote",
                         bundle_dir);
    if (!status) status = fs_bundle_job_run(&j->write, out_dir, err);
    fs_bundle_job_free(&j->write);
    for (int i = 0; i < 3; i++) fs_archive_free(j->archives[i]);
    return status;
}

fs_status fs_requantize(const char *bundle_dir, const char *out_dir, const char *type, const fs_options *options, fs_error *err) {
    job j = {.write = {.opt = options}};
    const fs_status status = fs_bundle_type_parse(type, &j.write.type, err);
    return status ? status : run(&j, bundle_dir, out_dir, err);
}

fs_status fs_bundle_rewrite(const char *bundle_dir, const char *out_dir, fs_bundle_replace_fn replace, void *user, const fs_options *options, fs_error *err) {
    fs_options o = *options;
    o.overwrite = true; /* what an earlier run left has other numbers */
    o.callbacks = (fs_callbacks){0};
    job j = {.write = {.opt = &o}, .replace = replace, .user = user};
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
