/* From a checkpoint as users download it, with adapters multiplied into it if there are any, to a bundle of GGUF files (docs/bundle.md): which tensors go into which file, under which names, with
 * which metadata. bundle_write.c does the writing. And fs_verify: are a bundle's bytes what was written? */
#include <stdlib.h>
#include <string.h>

#include "pipeline/bundle_meta.h"
#include "pipeline/bundle_write.h"
#include "pipeline/merge.h"
#include "tensor/block.h"

enum { MAX_TEXT = 1 << 26 }; /* bytes of a config or tokenizer file */

typedef struct job {
    fs_bundle_job write;
    fs_layout layout;
    char fingerprint[65];
    fs_archive *dte, *mflm, *sam, *clip, *dtg;
    fs_adapter *adapters[2]; /* to be merged into dte and mflm */
    struct merged { fs_adapter *adapter; int threads; } merged[2]; /* for make_merged */
} job;

static fs_status make_merged(void *user, const fs_tensor *source, void **data, fs_error *err) {
    const struct merged *m = user;
    return fs_merge_tensor(m->adapter, source->name, source, m->threads, data, err);
}

/* If the adapter of the archive's stage changes the tensor, its numbers are made when it is written. */
static void adapt(job *j, fs_bundle_item *item) {
    struct merged *m = item->archive == j->dte ? &j->merged[0] : item->archive == j->mflm ? &j->merged[1] : NULL;
    if (!m || !fs_merge_changes(m->adapter, item->source->name)) return;
    item->make = make_merged;
    item->user = m;
}

typedef fs_bundle_output output;

/* ---- metadata ---- */

static fs_status begin_output(job *j, output *o, const char *out_dir, const char *file, const char *architecture, const char *title, fs_error *err) {
    fs_status status = fs_bundle_output_begin(o, out_dir, file, err);
    if (status) return status;
    fs_bundle_put_general(o->w, &j->write.type, architecture, title, j->fingerprint);
    return FS_OK;
}

/* A file of the checkpoint, whole, as an array of bytes: what the loader reads, it reads as upstream wrote it. Absent files are left out. */
static fs_status put_file(output *o, const char *dir, const char *name, const char *key, fs_error *err) {
    uint8_t *data = NULL;
    size_t size = 0;
    char *path = fs_path_join(dir, name);
    fs_status status = path ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status && fs_path_exists(path) && !(status = fs_read_file(path, MAX_TEXT, &data, &size, err)))
        fs_gguf_put_array(o->w, key, FS_GGUF_U8, size, data);
    free(data);
    free(path);
    return status;
}

static fs_status put_files(output *o, const char *dir, fs_error *err) {
    static const char *const names[] = {"config.json", "generation_config.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
    fs_status status = FS_OK;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && !status; i++) {
        char key[64];
        snprintf(key, sizeof key, "fakeshield.file.%s", names[i]);
        status = put_file(o, dir, names[i], key, err);
    }
    return status;
}

static fs_status put_vocabulary(output *o, const char *dir, fs_tokenizer_rules rules, int64_t vocab, fs_error *err) {
    fs_tokenizer *t = NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;
    char *path = fs_path_join(dir, "tokenizer.model");
    fs_status status = path ? fs_read_file(path, MAX_TEXT, &bytes, &size, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status) status = fs_tokenizer_open(dir, rules, &t, err);
    if (!status) status = fs_bundle_put_vocabulary(o->w, path, (fs_bytes){bytes, size}, t, vocab, err);
    fs_tokenizer_free(t);
    free(bytes);
    free(path);
    return status;
}

/* ---- what goes into which file ---- */

static fs_status plan_language_model(job *j, output *o, const char *out_dir, bool first, fs_error *err) {
    const char *dir = first ? j->layout.dte_fdm : j->layout.mflm;
    fs_lm_config config = {0};
    fs_llama model = {0};
    fs_bundle_llm t;
    fs_archive *a = NULL;
    fs_status status = fs_archive_open(dir, &a, err);
    if (status) return status;
    *(first ? &j->dte : &j->mflm) = a;
    fs_tensor_source source = fs_archive_source(a);
    if ((status = fs_lm_config_read(dir, &config, err))) goto done;
    const fs_llama_config *g = &config.llama;
    if ((status = fs_llama_bind(&model, g, &source, "", err))) goto done; /* names, shapes and types are what config.json says */
    if ((status = begin_output(j, o, out_dir, first ? FS_BUNDLE_DTE : FS_BUNDLE_MFLM, "llama", first ? "FakeShield DTE-FDM" : "FakeShield MFLM", err))) goto done;
    fs_gguf_put_text(o->w, "general.license", "llama2");
    fs_bundle_put_llama(o->w, g);
    if ((status = put_vocabulary(o, dir, first ? FS_RULES_437 : FS_RULES_428, g->vocab, err))) goto done;
    if ((status = put_files(o, dir, err))) goto done;
    for (int64_t i = 0; !status && fs_bundle_llm_tensor(g->layers, i, &t); i++) {
        const fs_tensor *s = fs_archive_find(a, t.upstream);
        const int64_t heads = t.heads == FS_HEADS_QUERY ? g->heads : t.heads == FS_HEADS_KEY ? g->kv_heads : 0;
        fs_bundle_item item = {.source = s, .archive = a, .type = fs_bundle_store_as(&j->write.type, t.name, g->layers, s->ndim, s->shape),
                                     .width = heads ? s->shape[0] / heads : 0};
        adapt(j, &item);
        status = fs_bundle_output_add(o, t.name, &item, err);
    }
    if (!status && !j->layout.clip) status = fs_layout_find_clip(&j->layout, j->write.opt->clip_dir, config.vision_tower, err);
done:
    fs_llama_unbind(&model);
    fs_lm_config_free(&config);
    return status;
}

/* Every tensor of `a` that belongs to a vision part. have: names taken already, where an earlier archive goes before this one; may be NULL. */
static fs_status plan_vision_part(job *j, output *o, fs_archive *a, const char *part, fs_archive *before, const char *before_prefix, fs_error *err) {
    fs_status status = FS_OK;
    for (size_t i = 0; a && i < fs_archive_count(a) && !status; i++) {
        const fs_archive_entry e = fs_archive_get(a, i);
        char name[FS_BUNDLE_NAME], other[1024];
        if (!fs_bundle_vision_name(part, e.name, name)) continue;
        if (before && snprintf(other, sizeof other, "%s%s", before_prefix, e.name) < (int)sizeof other && fs_archive_find(before, other)) continue;
        fs_bundle_item item = {.source = e.tensor, .archive = a, .type = fs_bundle_store_as(&j->write.type, name, 0, e.tensor->ndim, e.tensor->shape)};
        if (!fs_row_to_f32(e.tensor->dtype, e.tensor->data, 0, NULL))
            return fs_fail(err, FS_E_MISMATCH, "%s: tensor %s: expected floating-point numbers, found %s", e.file, e.name, fs_dtype_name(e.tensor->dtype));
        adapt(j, &item);
        status = fs_bundle_output_add(o, name, &item, err);
    }
    return status;
}

static fs_status plan_vision(job *j, output *o, const char *out_dir, fs_error *err) {
    fs_status status;
    if (j->layout.clip && (status = fs_archive_open(j->layout.clip, &j->clip, err))) return status;
    if (j->layout.dtg && (status = fs_archive_open(j->layout.dtg, &j->dtg, err))) return status;
    if (j->mflm && j->layout.sam && (status = fs_archive_open(j->layout.sam, &j->sam, err))) return status;
    if ((status = begin_output(j, o, out_dir, FS_BUNDLE_VISION, "fakeshield", "FakeShield vision parts", err))) return status;
    fs_gguf_put_text(o->w, "general.license", "other");
    fs_gguf_put_text(o->w, "general.license.name", "SAM: Apache-2.0; CLIP: MIT; projectors, tag generator and fine-tuned parts: as FakeShield's model card says");
    if (j->clip && (status = put_file(o, j->layout.clip, "config.json", "fakeshield.file.clip_config.json", err))) return status;
    if ((status = plan_vision_part(j, o, j->dtg, "dtg", NULL, NULL, err))) return status;
    status = j->clip ? plan_vision_part(j, o, j->clip, "clip", NULL, NULL, err) : plan_vision_part(j, o, j->dte, "embedded", NULL, NULL, err);
    if (!status) status = plan_vision_part(j, o, j->dte, "dte", NULL, NULL, err);
    if (!status) status = plan_vision_part(j, o, j->mflm, "mflm", NULL, NULL, err);
    if (!status) status = plan_vision_part(j, o, j->sam, "sam", j->mflm, "model.grounding_encoder.", err);
    return status;
}

static fs_status open_adapters(job *j, fs_error *err) {
    fs_status status = fs_adapters_open(&j->layout, j->write.opt, j->adapters, err);
    for (int i = 0; i < 2 && !status; i++) {
        j->merged[i] = (struct merged){j->adapters[i], j->write.opt->threads};
        if (j->adapters[i]) status = fs_adapter_check_values(j->adapters[i], err);
    }
    return status;
}

/* A trained tensor that no file of the checkpoint holds in its stage's own file would be lost. */
static fs_status check_adapted(const job *j, fs_error *err) {
    fs_archive *const archives[2] = {j->dte, j->mflm};
    const char *name;
    const fs_tensor *t;
    for (int i = 0; i < 2; i++)
        for (size_t k = 0; j->adapters[i] && fs_adapter_other(j->adapters[i], k, &name, &t); k++) {
            if (fs_archive_find(archives[i], name)) continue;
            if (strncmp(name, "model.grounding_encoder.", 24) == 0)
                return fs_fail(err, FS_E_UNSUPPORTED, "%s: tensor %s is not in MFLM but in SAM's own file; merge into a checkpoint first (without --type), then convert that", fs_adapter_path(j->adapters[i]),
                               name);
            fs_log(&j->write.opt->callbacks, FS_LOG_WARNING, "%s: tensor %s: the base has no such part; it was left out", fs_adapter_path(j->adapters[i]), name);
        }
    return FS_OK;
}

fs_status fs_convert(const char *model_dir, const char *out_dir, const char *type, const fs_options *options, fs_error *err) {
    job j = {.write = {.opt = options}};
    output *outputs = j.write.outputs;
    const fs_options fingerprint_options = {0};
    fs_status status;
    if ((status = fs_bundle_type_parse(type, &j.write.type, err))) return status;
    if ((status = fs_layout_find(model_dir, options, &j.layout, err))) goto done;
    if (j.layout.bundle) {
        status = fs_fail(err, FS_E_USAGE, "%s: is a bundle, no checkpoint; another type of it is made by: fakeshield requantize", model_dir);
        goto done;
    }
    if (!j.layout.dte_fdm && !j.layout.mflm) {
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: holds neither DTE-FDM nor MFLM; give the folder that holds them", model_dir);
        goto done;
    }
    if ((status = open_adapters(&j, err)) || (status = fs_fingerprint(&j.layout, &fingerprint_options, j.fingerprint, err))) goto done;
    if ((status = fs_adapters_fingerprint(j.adapters, j.fingerprint, err)) || (status = fs_make_dirs(out_dir, err))) goto done;
    if (j.layout.dte_fdm && (status = plan_language_model(&j, &outputs[0], out_dir, true, err))) goto done;
    if (j.layout.mflm && (status = plan_language_model(&j, &outputs[1], out_dir, false, err))) goto done;
    if ((status = check_adapted(&j, err)) || (status = plan_vision(&j, &outputs[2], out_dir, err))) goto done;
    status = fs_bundle_job_run(&j.write, out_dir, err);
done:
    fs_bundle_job_free(&j.write);
    for (int i = 0; i < 2; i++) fs_adapter_free(j.adapters[i]);
    fs_archive_free(j.dte);
    fs_archive_free(j.mflm);
    fs_archive_free(j.sam);
    fs_archive_free(j.clip);
    fs_archive_free(j.dtg);
    fs_layout_free(&j.layout);
    return status;
}

/* ---- verify ---- */

/* source: the checkpoint the parts seen so far come from ("" before the first). */
static fs_status verify_file(const char *path, const fs_callbacks *cb, char source[65], fs_error *err) {
    fs_archive *a = NULL;
    fs_gguf_text from = {0};
    fs_status status = fs_archive_open(path, &a, err);
    if (status) return status;
    const fs_gguf *g = fs_archive_gguf(a);
    if (!g) status = fs_fail(err, FS_E_UNSUPPORTED, "%s: is a %s file, which carries no checksums; expected a GGUF file or a bundle's folder", path, fs_archive_kind(a));
    if (!status) status = fs_gguf_string(g, "fakeshield.source_sha256", false, &from, err);
    if (!status && from.size == 64) {
        if (source[0] && memcmp(source, from.data, 64) != 0)
            status = fs_fail(err, FS_E_MISMATCH, "%s: comes from another checkpoint than the files beside it; convert them together", path);
        memcpy(source, from.data, 64);
    }
    if (!status) status = fs_gguf_verify(g, cb, err);
    fs_archive_free(a);
    return status;
}

fs_status fs_verify(const char *path, const fs_callbacks *callbacks, fs_error *err) {
    static const char *const files[] = {FS_BUNDLE_DTE, FS_BUNDLE_MFLM, FS_BUNDLE_VISION};
    char source[65] = "";
    int found = 0;
    if (!fs_path_is_dir(path)) return verify_file(path, callbacks, source, err);
    for (int i = 0; i < 3; i++) {
        char *file = fs_path_join(path, files[i]);
        if (!file) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        const bool there = fs_path_exists(file);
        fs_status status = there ? verify_file(file, callbacks, source, err) : FS_OK;
        free(file);
        if (status) return status;
        found += there;
    }
    if (found == 0)
        return fs_fail(err, FS_E_NOT_FOUND, "%s: holds none of " FS_BUNDLE_DTE ", " FS_BUNDLE_MFLM " and " FS_BUNDLE_VISION "; give a bundle's folder or one GGUF file", path);
    return FS_OK;
}
