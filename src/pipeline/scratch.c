/* A new model to be trained from nothing: an f32 bundle of random weights after a config of the user's. Names, files and order are those of any bundle,
 * so everything that runs one runs this. The config (docs/training.md) uses the field names of the config.json of each part:
 *
 *     {"name": "FakeShield nano", "tokenizer": "tokenizer.model",
 *      "dte_fdm": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 1024},
 *      "mflm": {...},
 *      "clip": {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size", "stem", "stem_step", "stem_blocks", "residual", "hidden_act"},
 *      "sam": {"embed_dim", "depth", "num_heads", "image_size", "patch_size", "window_size", "global_every", "out_chans", "decoder_mlp", "stem", "stem_step", "stem_blocks", "residual"},
 *      "dtg": {"width"}, "region_encoder": false} */
#include "pipeline/scratch.h"

#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "pipeline/synth.h"

enum { ADDED_TOKENS = 7, MAX_TOKENIZER = 64 << 20 };

typedef struct field { const char *name; int64_t *target; int64_t min, max, fallback; } field; /* fallback 0: required */

static fs_status read_fields(const fs_json *root, const char *part, const field *fields, size_t n, fs_error *err) {
    fs_json j = {0};
    fs_status status = fs_json_object(root, part, FS_JSON_REQUIRED, &j, err);
    for (size_t i = 0; i < n && !status; i++) {
        *fields[i].target = fields[i].fallback;
        status = fs_json_int(&j, fields[i].name, fields[i].fallback ? FS_JSON_OPTIONAL : FS_JSON_REQUIRED, fields[i].min, fields[i].max, fields[i].target, err);
    }
    fs_json_close(&j);
    return status;
}
#define READ(part, ...) read_fields(root, (part), (const field[]){__VA_ARGS__}, sizeof((const field[]){__VA_ARGS__}) / sizeof(field), err)

static fs_status read_llama(const fs_json *root, const char *part, fs_llama_config *g, fs_error *err) {
    fs_status status = READ(part, {"hidden_size", &g->hidden, 8, 65536, 0}, {"intermediate_size", &g->intermediate, 8, 1 << 20, 0},
                            {"num_hidden_layers", &g->layers, 1, 1000, 0}, {"num_attention_heads", &g->heads, 1, 1024, 0},
                            {"max_position_embeddings", &g->max_positions, 16, 1 << 24, 4096});
    if (status) return status;
    g->kv_heads = g->heads;
    g->eps = 1e-5f;
    g->rope_theta = 10000;
    if (g->hidden % g->heads || g->hidden / g->heads % 2)
        return fs_fail(err, FS_E_MISMATCH, "%s: %s: num_attention_heads %lld does not divide hidden_size %lld into even widths", root->path, part, (long long)g->heads,
                       (long long)g->hidden);
    return FS_OK;
}

/* What of a vision part is no number; a stem's fit. */
static fs_status read_front(const fs_json *root, const char *part, fs_synth_stem *s, int64_t patch, fs_activation *activation, fs_error *err) {
    fs_json j = {0};
    const char *act = "quick_gelu";
    fs_status status = fs_json_object(root, part, FS_JSON_REQUIRED, &j, err);
    if (!status) status = fs_json_bool(&j, "residual", FS_JSON_OPTIONAL, &s->residual, err);
    if (!status && activation) status = fs_json_string(&j, "hidden_act", FS_JSON_OPTIONAL, &act, err);
    const bool gelu = strcmp(act, "gelu") == 0, known = gelu || strcmp(act, "quick_gelu") == 0;
    if (!status && !known) status = fs_fail(err, FS_E_UNSUPPORTED, "%s: hidden_act is \"%s\"; known are \"quick_gelu\" and \"gelu\"", j.path, act);
    if (activation) *activation = gelu ? FS_ACT_GELU : FS_ACT_QUICK_GELU;
    fs_json_close(&j);
    if (status) return status;
    if (s->channels < 0) s->channels = 0;
    if (s->blocks < 0) s->blocks = 0;
    if (s->step != 8 && s->step != 16) return fs_fail(err, FS_E_MISMATCH, "%s: %s: stem_step is 8 or 16, not %lld", root->path, part, (long long)s->step);
    if (s->channels && patch % s->step)
        return fs_fail(err, FS_E_MISMATCH, "%s: %s: with a stem patch_size must be a multiple of %lld, it is %lld", root->path, part, (long long)s->step, (long long)patch);
    if ((s->residual || s->blocks) && !s->channels)
        return fs_fail(err, FS_E_MISMATCH, "%s: %s: \"%s\" is for a stem; give \"stem\": CHANNELS too", root->path, part, s->residual ? "residual" : "stem_blocks");
    return FS_OK;
}

static fs_status read_vision(const fs_json *root, fs_synth_arch *a, fs_error *err) {
    int64_t image;
    fs_status status = READ("clip", {"hidden_size", &a->clip.hidden, 8, 65536, 0}, {"intermediate_size", &a->clip.intermediate, 8, 1 << 20, 0},
                            {"num_hidden_layers", &a->clip.layers, 2, 1000, 0}, {"num_attention_heads", &a->clip.heads, 1, 1024, 0},
                            {"image_size", &a->clip.image_size, 8, 8192, 0}, {"patch_size", &a->clip.patch_size, 1, 1024, 0},
                            {"stem", &a->clip_stem.channels, 2, 4096, -1}, {"stem_step", &a->clip_stem.step, 8, 16, 8},
                            {"stem_blocks", &a->clip_stem.blocks, 0, FS_STEM_BLOCKS, -1});
    if (!status)
        status = READ("sam", {"embed_dim", &a->sam.embed, 8, 65536, 0}, {"depth", &a->sam.depth, 1, 1000, 0}, {"num_heads", &a->sam.heads, 1, 1024, 0},
                      {"image_size", &image, 16, 8192, 0}, {"patch_size", &a->sam.patch, 1, 1024, 16}, {"window_size", &a->sam.window, 1, 1024, 14},
                      {"global_every", &a->sam.global_every, 1, 1000, 2}, {"out_chans", &a->sam.out, 16, 4096, 256}, {"decoder_mlp", &a->decoder_mlp, 8, 65536, 2048},
                      {"stem", &a->sam_stem.channels, 2, 4096, -1}, {"stem_step", &a->sam_stem.step, 8, 16, 8},
                      {"stem_blocks", &a->sam_stem.blocks, 0, FS_STEM_BLOCKS, -1});
    if (!status) status = READ("dtg", {"width", &a->dtg_width, 4, 1024, 0});
    if (status) return status;
    a->clip.eps = 1e-5f;
    if (a->clip.hidden % a->clip.heads || a->clip.image_size % a->clip.patch_size)
        return fs_fail(err, FS_E_MISMATCH, "%s: clip: num_attention_heads must divide hidden_size, and patch_size image_size", root->path);
    if (a->sam.embed % a->sam.heads || image % a->sam.patch)
        return fs_fail(err, FS_E_MISMATCH, "%s: sam: num_heads must divide embed_dim, and patch_size image_size", root->path);
    if (a->sam.out % 16) return fs_fail(err, FS_E_MISMATCH, "%s: sam: out_chans %lld is no multiple of 16", root->path, (long long)a->sam.out);
    a->sam.grid = image / a->sam.patch;
    if ((status = read_front(root, "clip", &a->clip_stem, a->clip.patch_size, &a->clip.activation, err))) return status;
    return read_front(root, "sam", &a->sam_stem, a->sam.patch, NULL, err);
}

fs_status fs_scratch_create(const char *config, const char *out_dir, uint64_t seed, const fs_options *opt, fs_error *err) {
    fs_scratch s = {.title = "FakeShield, a new model"};
    fs_json json = {0};
    fs_tokenizer *t = NULL;
    const char *name = NULL;
    bool region = true;
    char *dir = NULL, *path = NULL;
    uint8_t *data = NULL;
    size_t size = 0;
    fs_status status = fs_json_open(config, &json, err);
    if (status) return status;
    s.arch = (fs_synth_arch){.name = "scratch", .stage1 = fs_json_has(&json, "dte_fdm"), .stage2 = fs_json_has(&json, "mflm")};
    if (!s.arch.stage1 && !s.arch.stage2) status = fs_fail(err, FS_E_FORMAT, "%s: expected \"dte_fdm\", \"mflm\" or both, found neither", config);
    if (!status) status = fs_json_string(&json, "name", FS_JSON_OPTIONAL, &s.title, err);
    if (!status) status = fs_json_bool(&json, "region_encoder", FS_JSON_OPTIONAL, &region, err);
    if (!status && s.arch.stage1) status = read_llama(&json, "dte_fdm", &s.arch.dte, err);
    if (!status && s.arch.stage2) status = read_llama(&json, "mflm", &s.arch.mflm, err);
    if (!status) status = read_vision(&json, &s.arch, err);
    if (!status) status = fs_json_string(&json, "tokenizer", FS_JSON_REQUIRED, &name, err);
    if (status) goto done;
    s.arch.no_region = !region;
    dir = fs_format("%.*s", (int)(fs_path_base(config) - config), config);
    path = dir ? (*dir ? fs_path_join(dir, name) : fs_strdup(name)) : NULL;
    if (!path) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    if ((status = fs_read_file(path, MAX_TOKENIZER, &data, &size, err))) goto done;
    s.tokenizer = (fs_bytes){data, size};
    const fs_tokenizer_files files = {.where = path, .model = s.tokenizer};
    if ((status = fs_tokenizer_create(&files, FS_RULES_437, &t, err))) goto done;
    s.arch.dte.vocab = fs_tokenizer_size(t);
    s.arch.mflm.vocab = s.arch.dte.vocab + ADDED_TOKENS;
    status = fs_synth_scratch(out_dir, &s, seed, opt, err);
done:
    fs_tokenizer_free(t);
    fs_json_close(&json);
    free(dir);
    free(path);
    free(data);
    return status;
}
