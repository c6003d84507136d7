/* Reading an adapter: its files, and the names that peft, LLaVA's trainer and DeepSpeed give to the same tensor (spec 6.7, 7.6):
 *
 *     base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight           peft's files
 *     base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight   a peft model's state dict
 *     model.layers.0.self_attn.q_proj.lora_A.default.weight                    zero_to_fp32 of GLaMM's trainer
 *     base_model.model.model.mm_projector.0.weight, model.model.mm_...         non_lora_trainables.bin, before and after "base_model." is
 * dropped base_model.model.lm_head.modules_to_save.default.weight                  modules_to_save */
#include "pipeline/adapter_read.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"

enum { MAX_LAYERS = 4096, MAX_TEXT = 1 << 24 };
static const char prefix[] = "base_model.model.";

/* ---- names ---- */

static bool skip(const char **s, const char *head) {
    const size_t n = strlen(head);
    if (strncmp(*s, head, n) != 0) return false;
    *s += n;
    return true;
}

/* Takes `part` and, with a name behind it, that component out: ".modules_to_save.default." becomes ".". */
static void cut(char *name, const char *part, bool with_next) {
    char *at = strstr(name, part), *end = at ? at + strlen(part) : NULL;
    if (at && with_next && !(end = strchr(end, '.'))) return;
    if (at) memmove(at, with_next ? end : end - 1, strlen(with_next ? end : end - 1) + 1);
}

/* The name in the base model; malloc'ed. model_model: the file says "model.model." where the checkpoint says "model.". */
static char *base_name(const char *written, bool model_model) {
    const char *s = written;
    skip(&s, "module.");
    if (skip(&s, "base_model.") || model_model) skip(&s, "model.");
    char *name = fs_strdup(s);
    if (!name) return NULL;
    cut(name, ".modules_to_save.", true);
    cut(name, ".base_layer.", false);
    return name;
}

/* Is it "model.layers.N.PLACE.lora_A.weight", or with an adapter's name in front of "weight"? */
static bool read_lora(const char *name, fs_adapter_entry *e) {
    const char *s = name;
    if (!skip(&s, "model.layers.")) return false;
    char *end;
    const long layer = *s >= '0' && *s <= '9' ? strtol(s, &end, 10) : -1;
    if (layer < 0 || layer >= MAX_LAYERS || *end != '.') return false;
    s = end + 1;
    for (int k = 0; k < FS_LORA_PLACES; k++) {
        const char *t = s;
        if (!skip(&t, fs_lora_place_names[k])) continue;
        if (!skip(&t, ".lora_A.") && !(e->is_b = skip(&t, ".lora_B."))) return false;
        const char *dot = strchr(t, '.');
        if (dot) t = dot + 1;
        if (strcmp(t, "weight") != 0) return false;
        e->layer = layer;
        e->place = (fs_lora_place)k;
        return true;
    }
    return false;
}

/* What the original trains besides adapters (spec 7.1): of a state dict, which holds the frozen ones too, nothing else is taken. */
static bool is_trained(const char *name) {
    static const char *const parts[] = {"lm_head", "embed_tokens", "mask_decoder", "text_hidden_fcs", "region_encoder"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (strstr(name, parts[i])) return true;
    return false;
}

/* ---- tensors ---- */

static fs_status new_entry(fs_adapter *a, fs_adapter_entry e, fs_error *err) {
    if (a->count == a->capacity) {
        const size_t capacity = a->capacity ? 2 * a->capacity : 256;
        fs_adapter_entry *grown = realloc(a->entries, capacity * sizeof *grown);
        if (!grown) {
            free(e.name);
            free(e.written);
            return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        }
        a->entries = grown;
        a->capacity = capacity;
    }
    a->entries[a->count++] = e;
    return FS_OK;
}

static fs_status add(fs_adapter *a, int archive, const fs_archive_entry *t, bool model_model, fs_error *err) {
    fs_adapter_entry e = {.file = t->file, .archive = archive, .tensor = *t->tensor};
    if (strstr(t->name, ".original_module.")) return FS_OK; /* the base's own, kept by peft beside the trained copy */
    char *name = base_name(t->name, model_model);
    if (!name) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    e.lora = strstr(name, ".lora_") != NULL || strncmp(name, "lora_", 5) == 0;
    fs_status status = FS_OK;
    if (!e.lora && a->state_dict && !is_trained(name)) goto done;
    if (e.lora && !read_lora(name, &e)) {
        status = fs_fail(err, FS_E_UNSUPPORTED,
                         "%s: tensor %s: adapters are applied to the seven linear layers of LLaMA alone (model.layers.N.self_attn.q_proj "
                         "... mlp.down_proj)",
                         t->file, t->name);
        goto done;
    }
    if (e.tensor.dtype != FS_DTYPE_F32 && e.tensor.dtype != FS_DTYPE_F16 && e.tensor.dtype != FS_DTYPE_BF16) {
        status = strstr(name, "inv_freq") || strstr(name, "position_ids")
                     ? FS_OK
                     : fs_fail(err, FS_E_MISMATCH, "%s: tensor %s: expected F32, F16 or BF16, found %s", t->file, t->name,
                               fs_dtype_name(e.tensor.dtype));
        goto done;
    }
    e.name = e.lora ? fs_format("%smodel.layers.%lld.%s.lora_%c.weight", prefix, (long long)e.layer, fs_lora_place_names[e.place],
                                e.is_b ? 'B' : 'A')
                    : name;
    e.written = fs_strdup(t->name);
    if (e.name == name) name = NULL;
    if (!e.name || !e.written) {
        free(e.name);
        free(e.written);
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    status = new_entry(a, e, err);
done:
    free(name);
    return status;
}

static fs_status add_archive(fs_adapter *a, int archive, fs_error *err) {
    const fs_archive *from = a->archives[archive];
    bool model_model = false;
    fs_status status = FS_OK;
    for (size_t i = 0; i < fs_archive_count(from); i++) {
        const char *s = fs_archive_get(from, i).name;
        skip(&s, "module.");
        if (!skip(&s, "base_model.") && skip(&s, "model.model.")) model_model = true;
    }
    for (size_t i = 0; i < fs_archive_count(from) && !status; i++) {
        const fs_archive_entry e = fs_archive_get(from, i);
        status = add(a, archive, &e, model_model, err);
    }
    return status;
}

static int by_name(const void *x, const void *y) {
    const fs_adapter_entry *a = x, *b = y;
    const int order = strcmp(a->name, b->name);
    return order ? order : a->archive - b->archive;
}

static void entry_free(fs_adapter_entry *e) {
    free(e->name);
    free(e->written);
    free(e->scaled);
}

/* Sorted, and each once: of the same tensor in two files, the first file's (peft's own over LLaVA's). */
static fs_status sort(fs_adapter *a, fs_error *err) {
    size_t n = 0;
    if (a->count) qsort(a->entries, a->count, sizeof *a->entries, by_name);
    for (size_t i = 0; i < a->count; i++) {
        fs_adapter_entry *e = &a->entries[i], *last = n ? &a->entries[n - 1] : NULL;
        if (last && strcmp(last->name, e->name) == 0) {
            if (last->archive == e->archive)
                return fs_fail(err, FS_E_FORMAT, "%s: tensors %s and %s are the same one", e->file, last->written, e->written);
            entry_free(e);
            *e = (fs_adapter_entry){0};
            continue;
        }
        if (n != i) {
            a->entries[n] = *e;
            *e = (fs_adapter_entry){0};
        }
        n++;
    }
    a->count = n;
    for (size_t i = 0; i < n; i++) a->entries[i].tensor.name = a->entries[i].name;
    return FS_OK;
}

/* ---- what belongs together ---- */

static bool ends_with_module(const char *module, const char *suffix) {
    const size_t n = strlen(module), k = strlen(suffix);
    return k <= n && strcmp(module + n - k, suffix) == 0 && (k == n || module[n - k - 1] == '.');
}

static double pattern(const fs_adapter_pattern *list, size_t n, const char *module, double otherwise) {
    for (size_t i = 0; i < n; i++)
        if (ends_with_module(module, list[i].suffix)) return list[i].value;
    return otherwise;
}

static fs_status check_pair(fs_adapter *a, fs_adapter_entry *x, fs_adapter_entry *y, fs_error *err) {
    const fs_adapter_config *c = &a->config;
    char module[128], found[2][64];
    snprintf(module, sizeof module, "model.layers.%lld.%s", (long long)x->layer, fs_lora_place_names[x->place]);
    if (!y || y->layer != x->layer || y->place != x->place || !y->is_b || x->is_b)
        return fs_fail(err, FS_E_FORMAT, "%s: tensor %s has no %s beside it; the file is incomplete", x->file, x->written,
                       x->is_b ? "lora_A" : "lora_B");
    fs_shape_text(&x->tensor, found[0], sizeof found[0]);
    fs_shape_text(&y->tensor, found[1], sizeof found[1]);
    const double rank = pattern(c->ranks, c->n_ranks, module, (double)c->rank);
    if (x->tensor.ndim != 2 || y->tensor.ndim != 2 || x->tensor.shape[0] != y->tensor.shape[1] || x->tensor.shape[0] < 1)
        return fs_fail(err, FS_E_MISMATCH,
                       "%s: tensors %s %s and lora_B %s do not go together: expected [rank, in] and [out, rank], of rank 1 or more",
                       x->file, x->written, found[0], found[1]);
    if (rank > 0 && (int64_t)rank != x->tensor.shape[0])
        return fs_fail(err, FS_E_MISMATCH, "%s: tensor %s: expected rank %lld (adapter_config.json), found %s", x->file, x->written,
                       (long long)rank, found[0]);
    bool targeted = !c->targets;
    for (size_t i = 0; i < c->n_targets && !targeted; i++) targeted = ends_with_module(module, c->targets[i]);
    if (!targeted)
        return fs_fail(err, FS_E_MISMATCH,
                       "%s: tensor %s: target_modules of adapter_config.json does not name this layer, so peft would leave it out", x->file,
                       x->written);
    const double r = (double)x->tensor.shape[0];
    x->scale = y->scale = pattern(c->alphas, c->n_alphas, module, c->alpha) / (c->rslora ? sqrt(r) : r);
    a->layers = fs_max_i64(a->layers, x->layer + 1);
    return FS_OK;
}

/* One lora_alpha for all adapters: fs_llama_bind_lora multiplies with alpha / rank. Where a module's scale is another, its B takes the
 * difference. */
static fs_status level_scales(fs_adapter *a, fs_error *err) {
    for (size_t i = 0; i < a->count; i++) {
        fs_adapter_entry *e = &a->entries[i];
        if (!e->lora || !e->is_b) continue;
        const double alpha = e->scale * (double)e->tensor.shape[1];
        if (a->alpha <= 0) a->alpha = alpha;
        if (fabs(alpha / a->alpha - 1) < 1e-12) continue;
        const int64_t n = fs_tensor_count(&e->tensor);
        const float factor = (float)(alpha / a->alpha);
        if (!(e->scaled = fs_alloc((size_t)n, sizeof(float)))) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", e->written);
        for (int64_t k = 0; k < n; k++) {
            const uint16_t h = e->tensor.dtype == FS_DTYPE_F32 ? 0 : ((const uint16_t *)e->tensor.data)[k];
            const float v = e->tensor.dtype == FS_DTYPE_F32   ? fs_f32(&e->tensor)[k]
                            : e->tensor.dtype == FS_DTYPE_F16 ? fs_f16_to_f32(h)
                                                              : fs_bf16_to_f32(h);
            e->scaled[k] = v * factor;
        }
        e->tensor.data = e->scaled;
        e->tensor.dtype = FS_DTYPE_F32;
    }
    return FS_OK;
}

static fs_status check(fs_adapter *a, fs_error *err) {
    bool any = false;
    fs_status status = sort(a, err);
    /* sorted, a layer's A stands right in front of its B */
    for (size_t i = 0; i < a->count && !status; i++) {
        if (!a->entries[i].lora) continue;
        any = true;
        status = check_pair(a, &a->entries[i], i + 1 < a->count && a->entries[i + 1].lora ? &a->entries[i + 1] : NULL, err);
        i++;
    }
    if (!status && !any)
        status = fs_fail(err, FS_E_FORMAT, "%s: holds no adapter (tensors ...lora_A.weight and ...lora_B.weight)", a->path);
    return status ? status : level_scales(a, err);
}

/* ---- files ---- */

static char *if_there(const char *dir, const char *name) {
    char *path = fs_path_join(dir, name);
    if (path && fs_path_exists(path)) return path;
    free(path);
    return NULL;
}

/* "name size sha(64 KiB at 64 places)": parameters of two steps of one training differ everywhere. */
static void fingerprint(const char *path, fs_buffer *out) {
    enum { PIECE = 65536, PIECES = 64 };
    fs_mapping m = {0};
    fs_sha256 sum;
    char hash[65];
    if (!path || fs_map_file(path, &m, NULL) != FS_OK) return;
    fs_sha256_begin(&sum);
    if (m.size <= (size_t)PIECE * PIECES)
        fs_sha256_add(&sum, m.data, m.size);
    else
        for (size_t i = 0; i < PIECES; i++) fs_sha256_add(&sum, m.data + (m.size - PIECE) / (PIECES - 1) * i, PIECE);
    fs_sha256_end(&sum, hash);
    fs_buffer_printf(out, "%s %zu %s\n", fs_path_base(path), m.size, hash);
    fs_unmap(&m);
}

static fs_status read_config(fs_adapter *a, const char *path, fs_buffer *seen, fs_error *err) {
    uint8_t *data = NULL;
    size_t size = 0;
    fs_status status = fs_read_file(path, MAX_TEXT, &data, &size, err);
    if (!status) status = fs_adapter_config_parse(path, data, size, &a->config, &a->log, err);
    free(data);
    fingerprint(path, seen);
    return status;
}

/* The stage that fakeshield.json names, or else the base's config.json that LLaVA's trainer leaves beside the adapter. */
static fs_status read_stage(fs_adapter *a, fs_error *err) {
    fs_json j = {0};
    const char *text = NULL;
    char *path = if_there(a->path, "fakeshield.json");
    fs_status status = path ? fs_json_open(path, &j, err) : FS_OK;
    if (!status && path) status = fs_json_string(&j, "stage", FS_JSON_OPTIONAL, &text, err);
    if (!status && text) {
        a->told = strcmp(text, "dte-fdm") == 0 ? 1 : strcmp(text, "mflm") == 0 ? 2 : 0;
        if (!a->told) status = fs_fail(err, FS_E_FORMAT, "%s: stage is \"%.64s\", expected dte-fdm or mflm", path, text);
    }
    fs_json_close(&j);
    free(path);
    if (status || a->told || !(path = if_there(a->path, "config.json"))) return status;
    if (fs_json_open(path, &j, NULL) == FS_OK && fs_json_string(&j, "model_type", FS_JSON_OPTIONAL, &text, NULL) == FS_OK && text)
        a->told = strcmp(text, "glamm") == 0 ? 2 : strncmp(text, "llava", 5) == 0 ? 1 : 0;
    fs_json_close(&j);
    free(path);
    return FS_OK;
}

static fs_status open_archive(fs_adapter *a, int i, const char *path, fs_buffer *seen, fs_error *err) {
    fs_status status = fs_archive_open(path, &a->archives[i], err);
    if (status) return status;
    if (!fs_path_is_dir(path))
        fingerprint(path, seen);
    else
        for (size_t k = 0; k < fs_archive_count(a->archives[i]); k++) { /* its shards, each once */
            const char *file = fs_archive_get(a->archives[i], k).file;
            if (k == 0 || file != fs_archive_get(a->archives[i], k - 1).file) fingerprint(file, seen);
        }
    return add_archive(a, i, err);
}

/* A state dict: the original's merge script takes lora_alpha 16 for it, unless it is told another. */
static fs_status open_state_dict(fs_adapter *a, fs_buffer *seen, fs_error *err) {
    a->state_dict = true;
    a->config.alpha = 16;
    fs_status status = open_archive(a, 0, a->path, seen, err);
    if (!status)
        fs_log(&a->log, FS_LOG_INFO,
               "%s: a state dict without adapter_config.json; lora_alpha is taken to be 16, as the original's merge does", a->path);
    return status;
}

static fs_status open_files(fs_adapter *a, fs_buffer *seen, fs_error *err) {
    fs_status status = FS_OK;
    char *config = if_there(a->path, "adapter_config.json"), *model = if_there(a->path, "adapter_model.safetensors"), *other = NULL;
    if (!model) model = if_there(a->path, "adapter_model.bin");
    if (!(other = if_there(a->path, "non_lora_trainables.safetensors"))) other = if_there(a->path, "non_lora_trainables.bin");
    if ((status = read_stage(a, err))) goto done;
    if (!config && !model) {
        if ((status = open_state_dict(a, seen, err)) == FS_E_NOT_FOUND)
            status = fs_fail(
                err, FS_E_NOT_FOUND,
                "%s: holds no adapter_config.json, so it is no adapter as peft writes one, and no pytorch_model.bin of zero_to_fp32 either",
                a->path);
        goto done;
    }
    if (!config || !model) {
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: holds %s, but no %s", a->path, config ? "adapter_config.json" : fs_path_base(model),
                         config ? "adapter_model.safetensors or adapter_model.bin" : "adapter_config.json");
        goto done;
    }
    if ((status = read_config(a, config, seen, err)) || (status = open_archive(a, 0, model, seen, err))) goto done;
    if (other) status = open_archive(a, 1, other, seen, err);
done:
    free(config);
    free(model);
    free(other);
    return status;
}

fs_status fs_adapter_open(const char *path, const fs_callbacks *log, fs_adapter **out, fs_error *err) {
    fs_buffer seen = {0};
    *out = NULL;
    if (!fs_path_exists(path)) return fs_fail(err, FS_E_NOT_FOUND, "%s: no such folder (an adapter, as training or peft writes it)", path);
    fs_adapter *a = calloc(1, sizeof *a);
    if (!a || !(a->path = fs_strdup(path))) {
        free(a);
        return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    }
    if (log) a->log = *log;
    fs_status status = fs_path_is_dir(path) ? open_files(a, &seen, err) : open_state_dict(a, &seen, err);
    if (!status) status = check(a, err);
    if (!status && seen.failed) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status) fs_sha256_hex(seen.data, seen.size, a->fingerprint);
    fs_buffer_free(&seen);
    if (status)
        fs_adapter_free(a);
    else
        *out = a;
    return status;
}

void fs_adapter_free(fs_adapter *a) {
    if (!a) return;
    for (size_t i = 0; i < a->count; i++) entry_free(&a->entries[i]);
    free(a->entries);
    for (int i = 0; i < FS_ADAPTER_FILES; i++) fs_archive_free(a->archives[i]);
    fs_adapter_config_free(&a->config);
    free(a->path);
    free(a);
}
