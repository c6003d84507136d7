/* The CLIP tower by the rule of spec 2.6: a CLIP directory first (the f32 original), else the tensors embedded in DTE-FDM. Also the report on
 * tensors nobody asked for. */
#include "pipeline/pipeline.h"

#include <math.h>
#include <string.h>

fs_status fs_overlay_llama(const fs_overlay *o, const fs_lm_config *config, fs_tensor_source *source, fs_llama *m, fs_error *err) {
    double alpha = 0;
    fs_status status = o ? o->wrap(o->user, FS_OVERLAY_LM, config, source, &alpha, err) : FS_OK;
    if (!status) status = fs_llama_bind(m, &config->llama, source, "", err);
    return status || alpha <= 0 ? status : fs_llama_bind_lora(m, source, "base_model.model.", alpha, err);
}

static const char embedded_prefix[] = "model.vision_tower.vision_tower.vision_model.";

/* Sizes of an embedded tower from its shapes; CLIP's heads are always 64 wide. */
static bool config_from_shapes(const fs_tensor_source *source, fs_clip_config *g) {
    fs_error ignored;
    fs_binder b = {.source = source, .prefix = embedded_prefix, .err = &ignored};
    const int64_t any[] = {-1, -1, -1, -1};
    const fs_tensor *patch = fs_bind(&b, 4, any, "embeddings.patch_embedding.weight");
    const fs_tensor *position = fs_bind(&b, 2, any, "embeddings.position_embedding.weight");
    const fs_tensor *fc1 = fs_bind(&b, 2, any, "encoder.layers.0.mlp.fc1.weight");
    if (b.status) return false;
    const int64_t side = (int64_t)llround(sqrt((double)(position->shape[0] - 1)));
    *g = (fs_clip_config){.hidden = patch->shape[0], .intermediate = fc1->shape[0], .heads = fs_max_i64(1, patch->shape[0] / 64),
                          .image_size = side * patch->shape[3], .patch_size = patch->shape[3], .eps = 1e-5f, .activation = FS_ACT_QUICK_GELU};
    while (fs_binder_has(&b, "encoder.layers.%lld.layer_norm1.weight", (long long)g->layers)) g->layers++;
    return true;
}

fs_status fs_tower_open(fs_tower *t, const char *clip_dir, fs_archive *embedded, const char *wanted, const fs_overlay *overlay, fs_error *err) {
    *t = (fs_tower){0};
    fs_clip_config config;
    fs_status status;
    if (clip_dir) {
        if ((status = fs_clip_config_read(clip_dir, &config, err)) || (status = fs_archive_open(clip_dir, &t->archive, err))) return status;
        fs_tensor_source source = fs_archive_source(t->archive);
        double none = 0;
        if (overlay) status = overlay->wrap(overlay->user, FS_OVERLAY_CLIP, NULL, &source, &none, err);
        if (!status) status = fs_clip_bind(&t->clip, &config, &source, "vision_model.", err);
        if (status) fs_tower_close(t);
        return status;
    }
    if (embedded) {
        fs_tensor_source source = fs_archive_source(embedded);
        if (config_from_shapes(&source, &config)) return fs_clip_bind(&t->clip, &config, &source, embedded_prefix, err);
    }
    return fs_fail(err, FS_E_NOT_FOUND,
                   "no CLIP vision tower: config.json names %s, which is not beside the checkpoint nor embedded in DTE-FDM; download it from "
                   "huggingface.co/openai/clip-vit-large-patch14-336 and give its directory (--clip DIR)",
                   wanted && *wanted ? wanted : "none");
}

void fs_tower_close(fs_tower *t) {
    fs_clip_unbind(&t->clip);
    fs_archive_free(t->archive);
    *t = (fs_tower){0};
}

size_t fs_report_extra(const fs_archive *a, const char *const *known, const fs_callbacks *cb, const char **first) {
    size_t extra = 0;
    fs_archive_entry example = {0};
    for (size_t i = 0; i < fs_archive_count(a); i++) {
        const fs_archive_entry e = fs_archive_get(a, i);
        bool expected = e.used;
        for (const char *const *k = known; !expected && *k; k++) expected = strstr(e.name, *k) != NULL;
        if (expected) continue;
        if (extra++ == 0) example = e;
    }
    if (extra && first) *first = example.name;
    if (extra)
        fs_log(cb, FS_LOG_WARNING, "%s: tensor %s is part of no network known here and was left out%s", example.file, example.name,
               extra > 1 ? " (others too)" : "");
    return extra;
}
