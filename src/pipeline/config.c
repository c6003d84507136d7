/* config.json and generation_config.json of the two language models, and CLIP's vision config: the fields of spec 2.2, with upstream's
 * defaults where a field may be absent and a clear line where it may not. */
#include "pipeline/pipeline.h"

#include <stdlib.h>
#include <string.h>

#include "format/json.h"

static fs_status open_in(const char *dir, const char *name, fs_json *out, fs_error *err) {
    char *path = fs_path_join(dir, name);
    fs_status status = path ? fs_json_open(path, out, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(path);
    return status;
}

enum { MANY = 1 << 24 };

static fs_status read_llama(const fs_json *j, fs_llama_config *g, fs_error *err) {
    fs_status s;
    double eps = 0, theta = 10000;
    if ((s = fs_json_int(j, "hidden_size", FS_JSON_REQUIRED, 1, MANY, &g->hidden, err))) return s;
    if ((s = fs_json_int(j, "intermediate_size", FS_JSON_REQUIRED, 1, MANY, &g->intermediate, err))) return s;
    if ((s = fs_json_int(j, "num_hidden_layers", FS_JSON_REQUIRED, 1, 4096, &g->layers, err))) return s;
    if ((s = fs_json_int(j, "num_attention_heads", FS_JSON_REQUIRED, 1, 65536, &g->heads, err))) return s;
    g->kv_heads = g->heads;
    if ((s = fs_json_int(j, "num_key_value_heads", FS_JSON_OPTIONAL, 1, 65536, &g->kv_heads, err))) return s;
    if ((s = fs_json_int(j, "vocab_size", FS_JSON_REQUIRED, 1, MANY, &g->vocab, err))) return s;
    if ((s = fs_json_int(j, "max_position_embeddings", FS_JSON_OPTIONAL, 1, INT32_MAX, &g->max_positions, err))) return s;
    if ((s = fs_json_float(j, "rms_norm_eps", FS_JSON_REQUIRED, 0, 1, &eps, err))) return s;
    if ((s = fs_json_float(j, "rope_theta", FS_JSON_OPTIONAL, 1, 1e12, &theta, err))) return s;
    g->eps = (float)eps;
    g->rope_theta = (float)theta;
    const char *act = "silu";
    if ((s = fs_json_string(j, "hidden_act", FS_JSON_OPTIONAL, &act, err))) return s;
    if (strcmp(act, "silu") != 0)
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: hidden_act is \"%s\"; only \"silu\" (LLaMA) is known", j->path, act);
    if (fs_json_has(j, "rope_scaling"))
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: rope_scaling is set; FakeShield's models have none", j->path);
    bool tied = false;
    if ((s = fs_json_bool(j, "tie_word_embeddings", FS_JSON_OPTIONAL, &tied, err))) return s;
    return tied ? fs_fail(err, FS_E_UNSUPPORTED, "%s: tie_word_embeddings is true; FakeShield's models keep lm_head apart", j->path) : FS_OK;
}

/* j NULL: there is no generation_config.json, and transformers' defaults hold. */
static fs_status read_generation(const fs_json *j, fs_lm_config *c, fs_error *err) {
    double top_p = 1;
    int64_t top_k = 50;
    fs_status s = FS_OK;
    if (j) s = fs_json_float(j, "top_p", FS_JSON_OPTIONAL, 0, 1, &top_p, err);
    if (j && !s) s = fs_json_int(j, "top_k", FS_JSON_OPTIONAL, 0, INT32_MAX, &top_k, err);
    c->generation_top_p = (float)top_p;
    c->generation_top_k = (int)top_k;
    return s;
}

static fs_status read_config(const fs_json *config, const fs_json *generation, fs_lm_config *out, fs_error *err) {
    const fs_json j = *config;
    *out = (fs_lm_config){.select_layer = -2, .pad_image = false};
    fs_status s;
    int64_t select = -2, max_length = 0;
    const char *tower = NULL, *aspect = "square", *dtype = "float32", *projector = "mlp2x_gelu", *feature = "patch";
    if ((s = read_llama(&j, &out->llama, err))) goto done;
    if ((s = fs_json_int(&j, "mm_hidden_size", FS_JSON_OPTIONAL, 1, MANY, &out->mm_hidden, err))) goto done;
    if ((s = fs_json_int(&j, "mm_vision_select_layer", FS_JSON_OPTIONAL, -1024, 1024, &select, err))) goto done;
    if ((s = fs_json_int(&j, "tokenizer_model_max_length", FS_JSON_OPTIONAL, 0, INT32_MAX, &max_length, err))) goto done;
    if ((s = fs_json_bool(&j, "mm_use_im_start_end", FS_JSON_OPTIONAL, &out->im_start_end, err))) goto done;
    if ((s = fs_json_string(&j, "image_aspect_ratio", FS_JSON_OPTIONAL, &aspect, err))) goto done;
    if ((s = fs_json_string(&j, "torch_dtype", FS_JSON_OPTIONAL, &dtype, err))) goto done;
    if ((s = fs_json_string(&j, "mm_projector_type", FS_JSON_OPTIONAL, &projector, err))) goto done;
    if ((s = fs_json_string(&j, "mm_vision_select_feature", FS_JSON_OPTIONAL, &feature, err))) goto done;
    if ((s = fs_json_string(&j, "mm_vision_tower", FS_JSON_OPTIONAL, &tower, err))) goto done;
    if ((s = fs_json_string(&j, "vision_tower", FS_JSON_OPTIONAL, &tower, err))) goto done; /* the one MFLM really uses */
    if (strcmp(projector, "mlp2x_gelu") != 0 || strcmp(feature, "patch") != 0) {
        s = fs_fail(err, FS_E_UNSUPPORTED, "%s: mm_projector_type \"%s\" with mm_vision_select_feature \"%s\"; known are \"mlp2x_gelu\" and \"patch\"",
                    j.path, projector, feature);
        goto done;
    }
    out->select_layer = (int)select;
    out->max_length = max_length;
    out->pad_image = strcmp(aspect, "pad") == 0;
    out->stored = strcmp(dtype, "bfloat16") == 0 ? FS_DTYPE_BF16 : strcmp(dtype, "float16") == 0 ? FS_DTYPE_F16 : FS_DTYPE_F32;
    if (tower && !(out->vision_tower = fs_strdup(tower))) s = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!s) s = read_generation(generation, out, err);
done:
    if (s) fs_lm_config_free(out);
    return s;
}

fs_status fs_lm_config_read(const char *dir, fs_lm_config *out, fs_error *err) {
    if (!fs_path_is_dir(dir)) return fs_bundle_read_config(dir, out, err);
    fs_json config = {0}, generation = {0};
    char *path = fs_path_join(dir, "generation_config.json");
    fs_status s = path ? open_in(dir, "config.json", &config, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!s && fs_path_exists(path)) s = fs_json_open(path, &generation, err);
    if (!s) s = read_config(&config, generation.root ? &generation : NULL, out, err);
    fs_json_close(&config);
    fs_json_close(&generation);
    free(path);
    return s;
}

fs_status fs_lm_config_parse(const char *where, fs_bytes config_json, fs_bytes generation_json, fs_lm_config *out, fs_error *err) {
    fs_json config = {0}, generation = {0};
    fs_status s = fs_json_parse(where, config_json.data, config_json.size, &config, err);
    if (!s && generation_json.data) s = fs_json_parse(where, generation_json.data, generation_json.size, &generation, err);
    if (!s) s = read_config(&config, generation.root ? &generation : NULL, out, err);
    fs_json_close(&config);
    fs_json_close(&generation);
    return s;
}

fs_status fs_lm_config_text(const char *dir, fs_buffer *out, fs_error *err) {
    enum { MAX_TEXT = 1 << 26 };
    uint8_t *data = NULL;
    size_t size = 0;
    if (!fs_path_is_dir(dir)) return fs_bundle_config_text(dir, out, err);
    char *path = fs_path_join(dir, "config.json");
    fs_status s = path ? fs_read_file(path, MAX_TEXT, &data, &size, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!s) fs_buffer_add(out, data, size);
    if (!s && out->failed) s = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(data);
    free(path);
    return s;
}

void fs_lm_config_free(fs_lm_config *c) {
    free(c->vision_tower);
    *c = (fs_lm_config){0};
}

static fs_status read_clip(const fs_json *v, fs_clip_config *out, fs_error *err) {
    fs_status s;
    /* transformers leaves out fields that have CLIPVisionConfig's default values */
    *out = (fs_clip_config){.hidden = 768, .intermediate = 3072, .layers = 12, .heads = 12, .image_size = 224, .patch_size = 32};
    double eps = 1e-5;
    const char *act = "quick_gelu";
    if ((s = fs_json_int(v, "hidden_size", FS_JSON_OPTIONAL, 1, MANY, &out->hidden, err))) return s;
    if ((s = fs_json_int(v, "intermediate_size", FS_JSON_OPTIONAL, 1, MANY, &out->intermediate, err))) return s;
    if ((s = fs_json_int(v, "num_hidden_layers", FS_JSON_OPTIONAL, 1, 4096, &out->layers, err))) return s;
    if ((s = fs_json_int(v, "num_attention_heads", FS_JSON_OPTIONAL, 1, 65536, &out->heads, err))) return s;
    if ((s = fs_json_int(v, "image_size", FS_JSON_OPTIONAL, 1, 8192, &out->image_size, err))) return s;
    if ((s = fs_json_int(v, "patch_size", FS_JSON_OPTIONAL, 1, 1024, &out->patch_size, err))) return s;
    if ((s = fs_json_float(v, "layer_norm_eps", FS_JSON_OPTIONAL, 0, 1, &eps, err))) return s;
    if ((s = fs_json_string(v, "hidden_act", FS_JSON_OPTIONAL, &act, err))) return s;
    if (strcmp(act, "quick_gelu") != 0 && strcmp(act, "gelu") != 0)
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: hidden_act is \"%s\"; known are \"quick_gelu\" and \"gelu\"", v->path, act);
    out->activation = act[0] == 'q' ? FS_ACT_QUICK_GELU : FS_ACT_GELU;
    out->eps = (float)eps;
    return FS_OK;
}

/* Takes j over. */
static fs_status read_clip_file(fs_json j, fs_clip_config *out, fs_error *err) {
    fs_json vision = {0};
    /* the hub's file holds text and vision configs; a vision-only export holds the fields at the top */
    fs_status s = fs_json_object(&j, "vision_config", FS_JSON_OPTIONAL, &vision, err);
    if (!s) s = read_clip(vision.root ? &vision : &j, out, err);
    fs_json_close(&vision);
    fs_json_close(&j);
    return s;
}

fs_status fs_clip_config_read(const char *dir, fs_clip_config *out, fs_error *err) {
    fs_json j = {0};
    fs_status s = open_in(dir, "config.json", &j, err);
    return s ? s : read_clip_file(j, out, err);
}

fs_status fs_clip_config_parse(const char *where, fs_bytes json, fs_clip_config *out, fs_error *err) {
    fs_json j = {0};
    fs_status s = fs_json_parse(where, json.data, json.size, &j, err);
    return s ? s : read_clip_file(j, out, err);
}
