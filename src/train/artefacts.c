/* Writing an adapter directory (artefacts.h): the keys of adapter_config.json are those peft 0.5 writes (peft/tuners/lora.py, LoraConfig),
 * sorted and indented as it does; tensor names are peft's. */
#include "train/artefacts.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/archive.h"
#include "pipeline/pipeline.h"
#include "tensor/block.h"

static const char prefix[] = "base_model.model.", lora_a[] = ".lora_A.weight";
static const char *const files[] = {"adapter_config.json",
                                    "adapter_model.safetensors",
                                    "adapter_model.bin",
                                    "non_lora_trainables.safetensors",
                                    "non_lora_trainables.bin",
                                    "config.json",
                                    "fakeshield.json",
                                    "README.md",
                                    NULL};

fs_adapter_info fs_adapter_info_defaults(void) {
    return (fs_adapter_info){.stage = 1, .alpha = 16, .dropout = 0.05, .dtype = FS_DTYPE_F32};
}

/* The tensors of one file. */
typedef struct part {
    const fs_param **list;
    fs_tensor *tensors; /* shape and type in the file */
    const fs_tensor **pointers;
    char **names;
    size_t count, bytes;
    void *scratch; /* one tensor in the file's type; NULL where that is F32 */
} part;

typedef struct job {
    const fs_adapter_info *info;
    part lora, other;
    int64_t rank;
    fs_folder folder;
} job;

static bool is_lora(const char *name) {
    return strstr(name, ".lora_A.") || strstr(name, ".lora_B.");
}

/* ---- which tensors go where ---- */

static fs_status collect(part *out, const fs_params *p, bool lora, fs_dtype dtype, fs_error *err) {
    size_t n = 0, largest = 0;
    for (size_t i = 0; i < p->count; i++) n += is_lora(p->list[i]->name) == lora;
    out->list = fs_alloc_zero(n + 1, sizeof *out->list);
    out->tensors = fs_alloc_zero(n + 1, sizeof *out->tensors);
    out->pointers = fs_alloc_zero(n + 1, sizeof *out->pointers);
    out->names = fs_alloc_zero(n + 1, sizeof *out->names);
    if (!out->list || !out->tensors || !out->pointers || !out->names) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < p->count; i++) {
        const fs_param *q = p->list[i];
        if (is_lora(q->name) != lora) continue;
        fs_tensor *t = &out->tensors[out->count];
        size_t bytes;
        *t = (fs_tensor){.dtype = dtype, .ndim = q->tensor.ndim, .data = q->data};
        memcpy(t->shape, q->tensor.shape, sizeof t->shape);
        if (!fs_dtype_bytes(dtype, t->ndim, t->shape, &bytes))
            return fs_fail(err, FS_E_INTERNAL, "tensor %s cannot be written as %s", q->name, fs_dtype_name(dtype));
        for (int64_t k = 0; k < q->count; k++)
            if (!isfinite(q->data[k]))
                return fs_fail(err, FS_E_NUMERIC, "tensor %s: value %lld is no finite number; an adapter of it would be of no use", q->name,
                               (long long)k);
        out->list[out->count] = q;
        out->pointers[out->count] = t;
        out->names[out->count] = lora ? fs_strdup(q->name) : fs_format("%s%s", prefix, q->name);
        if (!out->names[out->count++]) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        out->bytes += bytes;
        if (bytes > largest) largest = bytes;
    }
    if (dtype != FS_DTYPE_F32 && !(out->scratch = fs_alloc(largest + 1, 1))) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    return FS_OK;
}

static void part_free(part *t) {
    for (size_t i = 0; i < t->count; i++) free(t->names[i]);
    free(t->list);
    free(t->tensors);
    free(t->pointers);
    free(t->names);
    free(t->scratch);
}

/* As the file has it. */
static fs_status bytes_of(void *user, size_t i, const void **data, fs_error *err) {
    part *t = user;
    const fs_param *q = t->list[i];
    *data = q->data;
    if (!t->scratch) return FS_OK;
    *data = t->scratch;
    return fs_row_from_f32(t->tensors[i].dtype, q->data, q->count, t->scratch)
               ? FS_OK
               : fs_fail(err, FS_E_NUMERIC, "tensor %s: a value is too large for %s; write F32 or BF16", q->name,
                         fs_dtype_name(t->tensors[i].dtype));
}

/* The module an adapter belongs to, as the base model names it: "model.layers.0.self_attn.q_proj"; malloc'ed, NULL for a B. */
static char *module_of(const char *name) {
    const size_t n = strlen(name), head = sizeof prefix - 1, tail = sizeof lora_a - 1;
    if (n <= head + tail || strncmp(name, prefix, head) != 0 || strcmp(name + n - tail, lora_a) != 0) return NULL;
    return fs_format("%.*s", (int)(n - head - tail), name + head);
}

static fs_status find_rank(job *j, fs_error *err) {
    for (size_t i = 0; i < j->lora.count; i++) {
        const fs_param *q = j->lora.list[i];
        const int64_t rank = q->tensor.shape[strstr(q->name, ".lora_A.") ? 0 : 1];
        if (j->rank && rank != j->rank)
            return fs_fail(err, FS_E_MISMATCH, "tensor %s has rank %lld, others have %lld; adapter_config.json has room for one", q->name,
                           (long long)rank, (long long)j->rank);
        j->rank = rank;
    }
    return j->rank ? FS_OK : fs_fail(err, FS_E_USAGE, "no adapter is among the trained tensors; there is nothing peft could load");
}

/* ---- the JSON files ---- */

static fs_status put_json(const job *j, const char *name, json_t *value, size_t flags, fs_error *err) {
    char *text = value ? json_dumps(value, flags) : NULL, *path = fs_path_join(j->folder.temp, name);
    fs_status status =
        text && path ? fs_write_file(path, text, strlen(text), err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", name);
    free(path);
    free(text);
    json_decref(value);
    return status;
}

static bool add_once(json_t *list, const char *name) {
    for (size_t i = 0; i < json_array_size(list); i++)
        if (strcmp(json_string_value(json_array_get(list, i)), name) == 0) return true;
    return json_array_append_new(list, json_string(name)) == 0;
}

/* DTE-FDM: the last components, which every layer has, as the original's list. MFLM: whole names, since SAM's mask decoder has a q_proj
 * too. */
static json_t *target_modules(const job *j) {
    json_t *list = json_array();
    for (size_t i = 0; i < j->lora.count; i++) {
        char *module = module_of(j->lora.list[i]->name);
        const char *dot = module && j->info->stage == 1 ? strrchr(module, '.') : NULL;
        const bool ok = !module || add_once(list, dot ? dot + 1 : module);
        free(module);
        if (!ok) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

/* A number without a fraction as a whole one: peft declares lora_alpha so. */
static json_t *number(double v) {
    return v == floor(v) && fabs(v) < 1e15 ? json_integer((json_int_t)v) : json_real(v);
}

static fs_status write_config(const job *j, fs_error *err) {
    json_t *o = json_pack("{s:s, s:s, s:s, s:b, s:b, s:b, s:f, s:I}", "peft_type", "LORA", "task_type", "CAUSAL_LM", "bias", "none",
                          "fan_in_fan_out", 0, "inference_mode", 1, "init_lora_weights", 1, "lora_dropout", j->info->dropout, "r",
                          (json_int_t)j->rank);
    json_t *targets = target_modules(j);
    static const char *const nothing[] = {"auto_mapping",        "base_model_name_or_path", "layers_pattern",
                                          "layers_to_transform", "modules_to_save",         "revision"};
    for (size_t i = 0; i < sizeof nothing / sizeof nothing[0]; i++) json_object_set_new(o, nothing[i], json_null());
    json_object_set_new(o, "lora_alpha", number(j->info->alpha));
    if (j->info->base) json_object_set_new(o, "base_model_name_or_path", json_string(j->info->base));
    if (json_object_set_new(o, "target_modules", targets) != 0) {
        json_decref(o);
        o = NULL;
    }
    return put_json(j, "adapter_config.json", o, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_REAL_PRECISION(15), err);
}

static fs_status write_about(const job *j, fs_error *err) {
    json_error_t where;
    json_t *training = j->info->training_json ? json_loads(j->info->training_json, JSON_REJECT_DUPLICATES, &where) : NULL;
    if (j->info->training_json && !json_is_object(training)) {
        json_decref(training);
        return fs_fail(err, FS_E_INTERNAL, "the summary of the training is no JSON object");
    }
    json_t *o = json_pack("{s:s, s:i, s:s, s:{s:s?, s:s?}}", "format", "fakeshield-adapter", "version", 1, "stage",
                          j->info->stage == 1 ? "dte-fdm" : "mflm", "base", "path", j->info->base, "fingerprint", j->info->fingerprint);
    if (o) json_object_set_new(o, "program", json_sprintf("fakeshield %s", fs_version()));
    if (o && training) json_object_set(o, "training", training);
    json_decref(training);
    return put_json(j, "fakeshield.json", o, JSON_INDENT(2), err);
}

static fs_status write_base_config(const job *j, fs_error *err) {
    fs_buffer text = {0};
    fs_status status = j->info->base ? fs_lm_config_text(j->info->base, &text, err) : FS_OK;
    char *path = status || !text.size ? NULL : fs_path_join(j->folder.temp, "config.json");
    if (path) status = fs_write_file(path, text.data, text.size, err);
    free(path);
    fs_buffer_free(&text);
    return status;
}

/* ---- the tensors ---- */

static fs_status write_safetensors(const job *j, const char *name, const part *t, fs_error *err) {
    char *path = fs_path_join(j->folder.temp, name);
    fs_status status = path ? fs_safetensors_write_from(path, t->pointers, (const char *const *)t->names, t->count, "{\"format\":\"pt\"}",
                                                        bytes_of, (void *)(uintptr_t)t, err)
                            : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(path);
    return status;
}

static fs_status write_torch(const job *j, const char *name, const part *t, fs_error *err) {
    char *path = fs_path_join(j->folder.temp, name);
    fs_status status = path
                           ? fs_torch_write(path, t->pointers, (const char *const *)t->names, t->count, bytes_of, (void *)(uintptr_t)t, err)
                           : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(path);
    return status;
}

static fs_status write_all(job *j, fs_error *err) {
    enum { SLACK = 1 << 20 }; /* headers, JSON, blocks */
    fs_status status;
    if ((status = fs_check_room(j->folder.temp, j->lora.bytes + 2 * j->other.bytes + SLACK, err))) return status;
    if ((status = write_safetensors(j, "adapter_model.safetensors", &j->lora, err))) return status;
    if (j->other.count && (status = write_safetensors(j, "non_lora_trainables.safetensors", &j->other, err))) return status;
    if (j->other.count && (status = write_torch(j, "non_lora_trainables.bin", &j->other, err))) return status;
    if ((status = write_base_config(j, err)) || (status = write_about(j, err)) || (status = write_config(j, err))) return status;
    return fs_folder_commit(&j->folder, err);
}

fs_status fs_adapter_write(const char *dir, const fs_params *params, const fs_adapter_info *info, fs_error *err) {
    job j = {.info = info};
    fs_status status = FS_OK;
    if (info->stage != 1 && info->stage != 2) return fs_fail(err, FS_E_INTERNAL, "stage %d; there are 1 and 2", info->stage);
    if (info->dtype != FS_DTYPE_F32 && info->dtype != FS_DTYPE_F16 && info->dtype != FS_DTYPE_BF16)
        return fs_fail(err, FS_E_USAGE, "an adapter is written as F32, F16 or BF16, not as %s", fs_dtype_name(info->dtype));
    if ((status = collect(&j.lora, params, true, info->dtype, err)) || (status = collect(&j.other, params, false, info->dtype, err)))
        goto done;
    if ((status = find_rank(&j, err)) || (status = fs_folder_begin(dir, files, &j.folder, err))) goto done;
    status = write_all(&j, err);
done:
    fs_folder_drop(&j.folder);
    part_free(&j.lora);
    part_free(&j.other);
    return status;
}
