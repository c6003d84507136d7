/* Which stage an adapter is for, whether it fits, and how it is put over the stage's tensors: LoRA beside the weights as they are stored,
 * which may be packed blocks, and other trained tensors in place of the base's. */
#include "pipeline/adapter.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/adapter_read.h"

static const char *const stage_names[] = {"stage 1 (DTE-FDM)", "stage 2 (MFLM)"};

const char *fs_adapter_path(const fs_adapter *a) {
    return a->path;
}
int fs_adapter_told(const fs_adapter *a) {
    return a->told;
}
const char *fs_adapter_fingerprint(const fs_adapter *a) {
    return a->fingerprint;
}

fs_adapter_facts fs_adapter_facts_of(const fs_adapter *a) {
    fs_adapter_facts f = {.layers = a->layers, .alpha = a->alpha, .kind = a->state_dict ? "state dict" : "peft"};
    for (size_t i = 0; i < a->count; i++) {
        const fs_adapter_entry *e = &a->entries[i];
        size_t bytes = 0;
        fs_dtype_bytes(e->tensor.dtype, e->tensor.ndim, e->tensor.shape, &bytes);
        f.parameters += (size_t)fs_tensor_count(&e->tensor);
        f.bytes += bytes;
        f.others += !e->lora;
        if (!e->lora || e->is_b) continue;
        f.modules++;
        f.places |= 1U << e->place;
        if (!f.rank) f.rank = e->tensor.shape[0];
    }
    return f;
}

/* ---- lookup ---- */

static int compare_name(const void *key, const void *entry) {
    return strcmp(key, ((const fs_adapter_entry *)entry)->name);
}

static const fs_adapter_entry *find_entry(const fs_adapter *a, const char *name) {
    return a->count ? bsearch(name, a->entries, a->count, sizeof *a->entries, compare_name) : NULL;
}

const fs_tensor *fs_adapter_find(const fs_adapter *a, const char *name) {
    const fs_adapter_entry *e = find_entry(a, name);
    return e ? &e->tensor : NULL;
}

bool fs_adapter_pair(const fs_adapter *a, const char *base_name, const fs_tensor **lora_a, const fs_tensor **lora_b, double *scale) {
    static const char weight[] = ".weight";
    const size_t n = strlen(base_name), tail = sizeof weight - 1;
    char name[2][256];
    if (n <= tail || n > 200 || strcmp(base_name + n - tail, weight) != 0) return false;
    for (int i = 0; i < 2; i++)
        snprintf(name[i], sizeof name[i], "base_model.model.%.*s.lora_%c.weight", (int)(n - tail), base_name, i ? 'B' : 'A');
    *lora_a = fs_adapter_find(a, name[0]);
    *lora_b = fs_adapter_find(a, name[1]);
    if (!*lora_a || !*lora_b) return false;
    *scale = a->alpha / (double)(*lora_a)->shape[0];
    return true;
}

bool fs_adapter_other(const fs_adapter *a, size_t i, const char **name, const fs_tensor **tensor) {
    for (size_t k = 0; k < a->count; k++) {
        if (a->entries[k].lora || i--) continue;
        *name = a->entries[k].name;
        *tensor = &a->entries[k].tensor;
        return true;
    }
    return false;
}

/* ---- does it fit? ---- */

static fs_status fail_shape(const fs_adapter_entry *e, int64_t rows, int64_t columns, const char *whose, fs_error *err) {
    char found[96], want[2][32];
    fs_shape_text(&e->tensor, found, sizeof found);
    for (int i = 0; i < 2; i++) {
        const int64_t v = i ? columns : rows;
        if (v < 0)
            snprintf(want[i], sizeof want[i], "rank");
        else
            snprintf(want[i], sizeof want[i], "%lld", (long long)v);
    }
    return fs_fail(err, FS_E_MISMATCH, "%s: tensor %s: expected shape [%s,%s] for %s, found %s", e->file, e->written, want[0], want[1],
                   whose, found);
}

static fs_status check_lora(const fs_adapter_entry *e, int stage, const fs_llama_config *g, fs_error *err) {
    int64_t in, out;
    if (e->layer >= g->layers)
        return fs_fail(err, FS_E_MISMATCH, "%s: tensor %s: expected a layer below %lld for %s, found layer %lld", e->file, e->written,
                       (long long)g->layers, stage_names[stage - 1], (long long)e->layer);
    fs_lora_shape(g, e->place, &in, &out);
    if (!e->is_b && e->tensor.shape[1] != in) return fail_shape(e, -1, in, stage_names[stage - 1], err);
    if (e->is_b && e->tensor.shape[0] != out) return fail_shape(e, out, -1, stage_names[stage - 1], err);
    return FS_OK;
}

/* What can be said of another tensor without opening the base. */
static fs_status check_other(const fs_adapter_entry *e, int stage, const fs_lm_config *config, fs_error *err) {
    const fs_llama_config *g = &config->llama;
    const bool head = strcmp(e->name, "lm_head.weight") == 0 || strcmp(e->name, "model.embed_tokens.weight") == 0;
    const bool projector = strcmp(e->name, "model.mm_projector.2.weight") == 0;
    const int64_t rows = head ? g->vocab : g->hidden;
    if ((head || projector) && (e->tensor.ndim != 2 || e->tensor.shape[0] != rows || e->tensor.shape[1] != g->hidden))
        return fail_shape(e, rows, g->hidden, stage_names[stage - 1], err);
    if (stage == 1 && (strstr(e->name, "grounding_encoder") || strstr(e->name, "text_hidden_fcs") || strstr(e->name, "region_encoder")))
        return fs_fail(err, FS_E_MISMATCH, "%s: tensor %s: %s has no such part; the adapter is of stage 2 (MFLM)", e->file, e->written,
                       stage_names[0]);
    if (g->rope_pairs && strncmp(e->name, "model.layers.", 13) == 0 &&
        (strstr(e->name, "self_attn.q_proj.weight") || strstr(e->name, "self_attn.k_proj.weight")))
        return fs_fail(err, FS_E_UNSUPPORTED,
                       "%s: tensor %s: whole query and key matrices cannot be put over a bundle, which keeps their rows in another order; "
                       "merge the adapter into the checkpoint",
                       e->file, e->written);
    return FS_OK;
}

fs_status fs_adapter_check(const fs_adapter *a, int stage, const fs_lm_config *config, fs_error *err) {
    fs_status status = FS_OK;
    for (size_t i = 0; i < a->count && !status; i++) {
        const fs_adapter_entry *e = &a->entries[i];
        status = e->lora ? check_lora(e, stage, &config->llama, err) : check_other(e, stage, config, err);
    }
    return status;
}

static int64_t first_bad(const fs_tensor *t) {
    const int64_t n = fs_tensor_count(t);
    const uint16_t *h = t->data, exponent = t->dtype == FS_DTYPE_F16 ? 0x7c00 : 0x7f80;
    for (int64_t k = 0; k < n; k++)
        if (t->dtype == FS_DTYPE_F32 ? !isfinite(fs_f32(t)[k]) : (h[k] & exponent) == exponent) return k;
    return -1;
}

fs_status fs_adapter_check_values(const fs_adapter *a, fs_error *err) {
    for (size_t i = 0; i < a->count; i++) {
        const fs_adapter_entry *e = &a->entries[i];
        const int64_t bad = first_bad(&e->tensor);
        if (bad >= 0)
            return fs_fail(err, FS_E_NUMERIC, "%s: tensor %s: value %lld is NaN or infinite; the training it comes from went wrong",
                           e->file, e->written, (long long)bad);
    }
    return FS_OK;
}

/* ---- over a stage ---- */

static bool same_shape(const fs_tensor *x, const fs_tensor *y) {
    return x->ndim == y->ndim && memcmp(x->shape, y->shape, (size_t)x->ndim * sizeof *x->shape) == 0;
}

/* Other tensors take the place of one that is there, in its shape. */
static fs_status check_base(const fs_adapter *a, const fs_tensor_source *base, fs_error *err) {
    for (size_t i = 0; i < a->count; i++) {
        const fs_adapter_entry *e = &a->entries[i];
        if (e->lora || strstr(e->name, "vision_tower")) continue;
        const fs_tensor *t = base->find(base->user, e->name);
        char expected[96], found[96];
        if (!t) {
            fs_log(&a->log, FS_LOG_WARNING, "%s: tensor %s: the model has no such part; it was left out", e->file, e->written);
            continue;
        }
        if (same_shape(t, &e->tensor)) continue;
        fs_shape_text(t, expected, sizeof expected);
        fs_shape_text(&e->tensor, found, sizeof found);
        return fs_fail(err, FS_E_MISMATCH, "%s: tensor %s: expected shape %s as in %s, found %s", e->file, e->written, expected,
                       base->origin(base->user, e->name), found);
    }
    return FS_OK;
}

static const fs_tensor *find(void *user, const char *name) {
    const fs_adapter *a = user;
    const fs_tensor *behind = a->base.find(a->base.user, name); /* asked in any case: it counts as used */
    const fs_tensor *mine = fs_adapter_find(a, name);
    return mine ? mine : behind;
}

static const char *origin(void *user, const char *name) {
    const fs_adapter *a = user;
    const fs_adapter_entry *e = find_entry(a, name);
    if (strstr(name, "lora_")) return e ? e->file : a->path;
    return e ? e->file : a->base.origin(a->base.user, name);
}

/* CLIP, where LLaVA trained it: "vision_model..." is "model.vision_tower.vision_tower.vision_model..." in its files. */
static const fs_adapter_entry *find_clip_entry(const fs_adapter *a, const char *name) {
    char full[512];
    const int n = snprintf(full, sizeof full, "model.vision_tower.vision_tower.%s", name);
    return n > 0 && (size_t)n < sizeof full ? find_entry(a, full) : NULL;
}

static const fs_tensor *find_clip(void *user, const char *name) {
    const fs_adapter *a = user;
    const fs_tensor *behind = a->clip_base.find(a->clip_base.user, name);
    const fs_adapter_entry *e = find_clip_entry(a, name);
    return e ? &e->tensor : behind;
}

static const char *origin_clip(void *user, const char *name) {
    const fs_adapter *a = user;
    const fs_adapter_entry *e = find_clip_entry(a, name);
    return e ? e->file : a->clip_base.origin(a->clip_base.user, name);
}

static fs_status wrap(void *user, fs_overlay_part part, const fs_lm_config *config, fs_tensor_source *source, double *alpha,
                      fs_error *err) {
    fs_adapter *a = user;
    if (part == FS_OVERLAY_CLIP) {
        a->clip_base = *source;
        *source = (fs_tensor_source){a, find_clip, origin_clip};
        return FS_OK;
    }
    (void)config; /* fs_adapters_open has asked for the fit */
    fs_status status = check_base(a, source, err);
    if (!status) status = fs_adapter_check_values(a, err);
    if (status) return status;
    a->base = *source;
    *source = (fs_tensor_source){a, find, origin};
    *alpha = a->alpha;
    return FS_OK;
}

fs_overlay fs_adapter_overlay(fs_adapter *a) {
    return (fs_overlay){.user = a, .wrap = wrap};
}

/* ---- which stage ---- */

typedef struct stages {
    const fs_layout *layout;
    bool there[2];
    fs_lm_config config[2];
} stages;

static fs_status read_stages(const fs_layout *l, stages *s, fs_error *err) {
    const char *dirs[2] = {l->dte_fdm, l->mflm};
    *s = (stages){.layout = l};
    fs_status status = FS_OK;
    for (int i = 0; i < 2 && !status; i++)
        if (dirs[i] && !(status = fs_lm_config_read(dirs[i], &s->config[i], err))) s->there[i] = true;
    return status;
}

static void free_stages(stages *s) {
    for (int i = 0; i < 2; i++)
        if (s->there[i]) fs_lm_config_free(&s->config[i]);
}

/* By what its files say, or the one it fits; of two, the one whose layers it covers all. */
static fs_status choose(const fs_adapter *a, const stages *s, int *stage, fs_error *err) {
    fs_error why[2] = {{0}, {0}};
    bool fits[2];
    if (a->told) {
        *stage = a->told;
        if (!s->there[a->told - 1])
            return fs_fail(err, FS_E_MISMATCH, "%s: is an adapter for %s, which %s does not hold", a->path, stage_names[a->told - 1],
                           s->layout->root);
        return fs_adapter_check(a, a->told, &s->config[a->told - 1], err);
    }
    for (int i = 0; i < 2; i++) fits[i] = s->there[i] && fs_adapter_check(a, i + 1, &s->config[i], &why[i]) == FS_OK;
    if (fits[0] && fits[1])
        for (int i = 0; i < 2; i++) fits[i] = a->layers == s->config[i].llama.layers;
    if (fits[0] != fits[1]) {
        *stage = fits[0] ? 1 : 2;
        return FS_OK;
    }
    if (!fits[0] && (why[0].message[0] || why[1].message[0]))
        return fs_fail(err, FS_E_MISMATCH, "%s: fits no stage of %s: %.400s%s%.400s", a->path, s->layout->root, why[0].message,
                       why[0].message[0] && why[1].message[0] ? "; " : "", why[1].message);
    return fs_fail(
        err, FS_E_MISMATCH,
        "%s: fits both stages of %s; say which with a file fakeshield.json in it: {\"stage\": \"dte-fdm\"} or {\"stage\": \"mflm\"}",
        a->path, s->layout->root);
}

fs_status fs_adapters_open(const fs_layout *layout, const fs_options *opt, fs_adapter *out[2], fs_error *err) {
    stages s = {0};
    out[0] = out[1] = NULL;
    fs_status status = opt->n_adapters ? read_stages(layout, &s, err) : FS_OK;
    for (size_t i = 0; i < opt->n_adapters && !status; i++) {
        fs_adapter *a = NULL;
        int stage = 0;
        status = fs_adapter_open(opt->adapters[i], &opt->callbacks, &a, err);
        if (!status) status = choose(a, &s, &stage, err);
        if (!status && stage > 0 && out[stage - 1])
            status = fs_fail(err, FS_E_USAGE, "%s and %s are both for %s; give one adapter for each stage", out[stage - 1]->path, a->path,
                             stage_names[stage - 1]);
        if (status)
            fs_adapter_free(a);
        else
            out[stage - 1] = a;
    }
    free_stages(&s);
    if (status)
        for (int i = 0; i < 2; i++) {
            fs_adapter_free(out[i]);
            out[i] = NULL;
        }
    return status;
}

fs_status fs_adapters_fingerprint(fs_adapter *const adapters[2], char fingerprint[65], fs_error *err) {
    fs_buffer text = {0};
    if (!adapters[0] && !adapters[1]) return FS_OK;
    fs_buffer_printf(&text, "%s\n", fingerprint);
    for (int i = 0; i < 2; i++)
        if (adapters[i]) fs_buffer_printf(&text, "stage %d %s\n", i + 1, adapters[i]->fingerprint);
    const fs_status status = text.failed ? fs_fail(err, FS_E_NO_MEMORY, "out of memory") : FS_OK;
    if (!status) fs_sha256_hex(text.data, text.size, fingerprint);
    fs_buffer_free(&text);
    return status;
}
