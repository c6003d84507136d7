/* LLaVA 1.5 from llama.cpp's world. Keys and names: ggml-org/llama.cpp, gguf-py/gguf/constants.py (language model, tokenizer) and
 * tools/mtmd/clip-impl.h with legacy-models/convert_image_encoder_to_gguf.py (CLIP). Everything comes from metadata: a key that says
 * something this program does not compute is refused, a key that may be absent has llama.cpp's default. */
#include "pipeline/llava_gguf.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "text/spm_model.h"

enum { MANY = 1 << 24 };

fs_llava_kind fs_llava_kind_of(const fs_archive *a) {
    const fs_gguf *g = fs_archive_gguf(a);
    fs_gguf_text kind = {0};
    if (!g || fs_gguf_has(g, "fakeshield.bundle_version") || fs_gguf_string(g, "general.architecture", true, &kind, NULL)) return FS_LLAVA_OTHER;
    return fs_gguf_text_is(kind, "llama") ? FS_LLAVA_LM : fs_gguf_text_is(kind, "clip") ? FS_LLAVA_MMPROJ : FS_LLAVA_OTHER;
}

static bool ends_with(const char *s, const char *end) {
    const size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

fs_status fs_llava_search(const char *dir, char **lm, char **mmproj, fs_error *err) {
    fs_status status = FS_OK;
    DIR *d = opendir(dir);
    *lm = *mmproj = NULL;
    for (struct dirent *e; d && !status && (e = readdir(d));) {
        fs_archive *a = NULL;
        if (!ends_with(e->d_name, ".gguf")) continue;
        char *path = fs_path_join(dir, e->d_name);
        if (!path) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        if (path && !fs_path_is_dir(path) && fs_archive_open(path, &a, NULL) == FS_OK) { /* a broken one is reported when it is asked for */
            const fs_llava_kind kind = fs_llava_kind_of(a);
            char **to = kind == FS_LLAVA_LM ? lm : kind == FS_LLAVA_MMPROJ ? mmproj : NULL;
            if (to && *to)
                status = fs_fail(err, FS_E_USAGE, "%s: holds two %s, %s and %s; say which with --lm FILE and --mmproj FILE", dir,
                                 to == lm ? "language models" : "mmproj files", fs_path_base(*to), e->d_name);
            else if (to)
                *to = path, path = NULL;
        }
        fs_archive_free(a);
        free(path);
    }
    if (d) closedir(d);
    if (status) {
        free(*lm), free(*mmproj);
        *lm = *mmproj = NULL;
    }
    return status;
}

/* ---- the language model ---- */

static fs_status refuse(const fs_archive *a, const char *key, const char *what, fs_error *err) {
    return fs_fail(err, FS_E_UNSUPPORTED, "%s: metadata %s: %s; this is no LLaVA 1.5 model", fs_archive_path(a), key, what);
}

static fs_status check_rope(const fs_archive *a, const fs_llama_config *c, fs_error *err) {
    const fs_gguf *g = fs_archive_gguf(a);
    fs_gguf_text scaling = {0};
    double linear = 1, factor = 1;
    int64_t experts = 0, width = c->hidden / c->heads;
    fs_status s;
    if ((s = fs_gguf_string(g, "llama.rope.scaling.type", false, &scaling, err))) return s;
    if ((s = fs_gguf_float(g, "llama.rope.scale_linear", false, 0, 1e6, &linear, err))) return s;
    if ((s = fs_gguf_float(g, "llama.rope.scaling.factor", false, 0, 1e6, &factor, err))) return s;
    if ((s = fs_gguf_int(g, "llama.expert_count", false, 0, 4096, &experts, err))) return s;
    if ((s = fs_gguf_int(g, "llama.rope.dimension_count", false, 1, MANY, &width, err))) return s;
    if (scaling.size && !fs_gguf_text_is(scaling, "none") && factor != 1) return refuse(a, "llama.rope.scaling.type", "positions are scaled", err);
    if (linear != 1) return refuse(a, "llama.rope.scale_linear", "positions are scaled", err);
    if (experts > 0) return refuse(a, "llama.expert_count", "it is a mixture of experts", err);
    return width == c->hidden / c->heads ? FS_OK : refuse(a, "llama.rope.dimension_count", "only part of a head is rotated", err);
}

fs_status fs_llava_lm_config(const fs_archive *lm, fs_lm_config *out, fs_error *err) {
    const fs_gguf *g = fs_archive_gguf(lm);
    double eps = 0, theta = 10000;
    fs_gguf_array tokens = {0};
    *out = (fs_lm_config){.select_layer = -2, .pad_image = true, .stored = FS_DTYPE_F16, .generation_top_p = 1, .generation_top_k = 50};
    fs_llama_config *c = &out->llama;
    fs_status s;
    c->rope_pairs = true;
    c->max_positions = 4096;
    if ((s = fs_gguf_int(g, "llama.embedding_length", true, 1, MANY, &c->hidden, err))) return s;
    if ((s = fs_gguf_int(g, "llama.feed_forward_length", true, 1, MANY, &c->intermediate, err))) return s;
    if ((s = fs_gguf_int(g, "llama.block_count", true, 1, 4096, &c->layers, err))) return s;
    if ((s = fs_gguf_int(g, "llama.attention.head_count", true, 1, 65536, &c->heads, err))) return s;
    c->kv_heads = c->heads;
    if ((s = fs_gguf_int(g, "llama.attention.head_count_kv", false, 1, 65536, &c->kv_heads, err))) return s;
    if ((s = fs_gguf_int(g, "llama.context_length", false, 1, INT32_MAX, &c->max_positions, err))) return s;
    if ((s = fs_gguf_float(g, "llama.attention.layer_norm_rms_epsilon", true, 0, 1, &eps, err))) return s;
    if ((s = fs_gguf_float(g, "llama.rope.freq_base", false, 1, 1e12, &theta, err))) return s;
    if ((s = fs_gguf_array_of(g, "tokenizer.ggml.tokens", true, FS_GGUF_STRING, &tokens, err))) return s;
    if (tokens.count < 1 || tokens.count > MANY) return fs_fail(err, FS_E_FORMAT, "%s: metadata tokenizer.ggml.tokens: expected 1 to %d tokens", fs_archive_path(lm), MANY);
    c->vocab = (int64_t)tokens.count;
    c->eps = (float)eps;
    c->rope_theta = (float)theta;
    return check_rope(lm, c, err);
}

/* ---- CLIP ---- */

/* The three numbers must be the ones pictures are normalised with here. */
static fs_status check_normalisation(const fs_archive *a, const char *key, const float expected[3], fs_error *err) {
    fs_gguf_array v = {0};
    float found[3];
    fs_status s = fs_gguf_array_of(fs_archive_gguf(a), key, false, FS_GGUF_F32, &v, err);
    if (s || !v.data) return s;
    if (v.count != 3) return refuse(a, key, "expected three numbers", err);
    memcpy(found, v.data, sizeof found);
    for (int i = 0; i < 3; i++)
        if (!(fabsf(found[i] - expected[i]) < 1e-4f)) return refuse(a, key, "pictures are normalised in another way than CLIP's", err);
    return FS_OK;
}

/* Which hidden state goes to the projector: the one after all layers but the tower's last. Converters either left the last layer out (then the
 * number of layers is odd, as no CLIP tower's is) or kept it; newer ones name the state. */
static fs_status feature_state(const fs_archive *a, int64_t blocks, int64_t *state, fs_error *err) {
    const fs_gguf *g = fs_archive_gguf(a);
    fs_gguf_array list = {0};
    uint32_t v = 0;
    *state = blocks % 2 ? blocks : blocks - 1;
    if (!fs_gguf_has(g, "clip.vision.feature_layer")) return FS_OK;
    if (fs_gguf_array_of(g, "clip.vision.feature_layer", true, FS_GGUF_I32, &list, NULL)) {
        fs_status s = fs_gguf_array_of(g, "clip.vision.feature_layer", true, FS_GGUF_U32, &list, err);
        if (s) return s;
    }
    if (list.count != 1) return refuse(a, "clip.vision.feature_layer", "several layers are joined", err);
    for (int i = 3; i >= 0; i--) v = v << 8 | list.data[i];
    *state = v;
    return v >= 1 && v <= blocks ? FS_OK : refuse(a, "clip.vision.feature_layer", "the tower has no such layer", err);
}

static fs_status check_clip_kind(const fs_archive *a, fs_clip_config *out, fs_error *err) {
    static const float mean[3] = {0.48145466f, 0.4578275f, 0.40821073f}, deviation[3] = {0.26862954f, 0.26130258f, 0.27577711f};
    const fs_gguf *g = fs_archive_gguf(a);
    fs_gguf_text projector = {0}, merge = {0};
    bool gelu = false, silu = false, vision = true;
    fs_status s;
    if ((s = fs_gguf_bool(g, "clip.has_vision_encoder", false, &vision, err))) return s;
    if ((s = fs_gguf_string(g, "clip.projector_type", false, &projector, err))) return s;
    if ((s = fs_gguf_string(g, "clip.vision.mm_patch_merge_type", false, &merge, err))) return s;
    if ((s = fs_gguf_bool(g, "clip.use_gelu", false, &gelu, err))) return s;
    if ((s = fs_gguf_bool(g, "clip.use_silu", false, &silu, err))) return s;
    if (!vision) return refuse(a, "clip.has_vision_encoder", "it holds no vision tower", err);
    if (projector.size && !fs_gguf_text_is(projector, "mlp")) return refuse(a, "clip.projector_type", "expected \"mlp\"", err);
    if (merge.size && !fs_gguf_text_is(merge, "flat")) return refuse(a, "clip.vision.mm_patch_merge_type", "pictures are cut into tiles (LLaVA 1.6)", err);
    if (silu) return refuse(a, "clip.use_silu", "another activation than CLIP's", err);
    out->activation = gelu ? FS_ACT_GELU : FS_ACT_QUICK_GELU;
    if ((s = check_normalisation(a, "clip.vision.image_mean", mean, err))) return s;
    return check_normalisation(a, "clip.vision.image_std", deviation, err);
}

fs_status fs_llava_clip_config(fs_archive *mmproj, fs_clip_config *out, bool *swapped, fs_error *err) {
    const fs_gguf *g = fs_archive_gguf(mmproj);
    int64_t blocks = 0, state = 0;
    double eps = 1e-5;
    fs_status s;
    *out = (fs_clip_config){0};
    if ((s = fs_gguf_int(g, "clip.vision.image_size", true, 1, 8192, &out->image_size, err))) return s;
    if ((s = fs_gguf_int(g, "clip.vision.patch_size", true, 1, 1024, &out->patch_size, err))) return s;
    if ((s = fs_gguf_int(g, "clip.vision.embedding_length", true, 1, MANY, &out->hidden, err))) return s;
    if ((s = fs_gguf_int(g, "clip.vision.feed_forward_length", true, 1, MANY, &out->intermediate, err))) return s;
    if ((s = fs_gguf_int(g, "clip.vision.block_count", true, 1, 4096, &blocks, err))) return s;
    if ((s = fs_gguf_int(g, "clip.vision.attention.head_count", true, 1, 65536, &out->heads, err))) return s;
    if ((s = fs_gguf_float(g, "clip.vision.attention.layer_norm_epsilon", false, 0, 1, &eps, err))) return s;
    out->eps = (float)eps;
    if ((s = check_clip_kind(mmproj, out, err)) || (s = feature_state(mmproj, blocks, &state, err))) return s;
    out->layers = state + 1; /* select_layer -2 is then that state */
    /* By shape where it tells; towers whose matrices are square come from the same converter as the others. */
    const fs_tensor *down = fs_archive_find(mmproj, "v.blk.0.ffn_down.weight");
    *swapped = !(down && down->ndim == 2 && out->intermediate != out->hidden && down->shape[0] == out->hidden);
    return FS_OK;
}

bool fs_llava_mmproj_name(const char *upstream, bool swapped, char out[FS_LLAVA_NAME]) {
    static const struct { const char *from, *to; } whole[] = {
        {"vision_model.embeddings.class_embedding", "v.class_embd"},
        {"vision_model.embeddings.patch_embedding.weight", "v.patch_embd.weight"},
        {"vision_model.embeddings.position_embedding.weight", "v.position_embd.weight"},
        {"vision_model.pre_layrnorm.weight", "v.pre_ln.weight"},
        {"vision_model.pre_layrnorm.bias", "v.pre_ln.bias"},
    }, parts[] = {
        {"self_attn.q_proj", "attn_q"}, {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"}, {"self_attn.out_proj", "attn_out"},
        {"layer_norm1", "ln1"},         {"layer_norm2", "ln2"},
    };
    static const char layer[] = "vision_model.encoder.layers.", projector[] = "model.mm_projector.";
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
        if (strcmp(upstream, whole[i].from) == 0) return snprintf(out, FS_LLAVA_NAME, "%s", whole[i].to) < FS_LLAVA_NAME;
    if (strncmp(upstream, projector, sizeof projector - 1) == 0)
        return snprintf(out, FS_LLAVA_NAME, "mm.%s", upstream + sizeof projector - 1) < FS_LLAVA_NAME;
    if (strncmp(upstream, layer, sizeof layer - 1) != 0) return false;
    const char *number = upstream + sizeof layer - 1, *rest = strchr(number, '.'), *kind = strrchr(upstream, '.');
    if (!rest || kind <= rest) return false;
    rest++;
    const size_t n = (size_t)(kind - rest);
    const char *to = n == 7 && memcmp(rest, "mlp.fc1", 7) == 0   ? (swapped ? "ffn_down" : "ffn_up")
                     : n == 7 && memcmp(rest, "mlp.fc2", 7) == 0 ? (swapped ? "ffn_up" : "ffn_down")
                                                                 : NULL;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0] && !to; i++)
        if (strlen(parts[i].from) == n && memcmp(rest, parts[i].from, n) == 0) to = parts[i].to;
    return to && snprintf(out, FS_LLAVA_NAME, "v.blk.%.*s.%s%s", (int)(rest - 1 - number), number, to, kind) < FS_LLAVA_NAME;
}

/* ---- the tokenizer ---- */

/* What tokenizer.ggml.* say, and what is made of it. */
typedef struct vocabulary {
    const fs_archive *archive;
    fs_gguf_array tokens, scores, kinds;
    int64_t bos, eos, unknown;
    bool add_bos, add_eos;
    fs_spm_model model;
    json_t *added, *special;
} vocabulary;

static fs_status read_arrays(vocabulary *v, fs_error *err) {
    const fs_gguf *g = fs_archive_gguf(v->archive);
    fs_gguf_text model = {0};
    bool prefix = true;
    fs_status s;
    if ((s = fs_gguf_string(g, "tokenizer.ggml.model", true, &model, err))) return s;
    if (!fs_gguf_text_is(model, "llama"))
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: tokenizer.ggml.model is \"%.*s\"; LLaVA 1.5 has \"llama\" (SentencePiece)", fs_archive_path(v->archive),
                       (int)(model.size < 40 ? model.size : 40), model.data);
    if ((s = fs_gguf_array_of(g, "tokenizer.ggml.tokens", true, FS_GGUF_STRING, &v->tokens, err))) return s;
    if ((s = fs_gguf_array_of(g, "tokenizer.ggml.scores", true, FS_GGUF_F32, &v->scores, err))) return s;
    if ((s = fs_gguf_array_of(g, "tokenizer.ggml.token_type", true, FS_GGUF_I32, &v->kinds, err))) return s;
    const uint64_t n = v->tokens.count;
    if (n < 3 || n > 1 << 20 || v->scores.count != n || v->kinds.count != n)
        return fs_fail(err, FS_E_FORMAT, "%s: tokenizer.ggml.tokens, scores and token_type have %llu, %llu and %llu entries; expected as many of each, 3 to 2^20",
                       fs_archive_path(v->archive), (unsigned long long)n, (unsigned long long)v->scores.count, (unsigned long long)v->kinds.count);
    v->bos = 1, v->eos = 2, v->unknown = 0;
    const int64_t last = (int64_t)n - 1;
    if ((s = fs_gguf_int(g, "tokenizer.ggml.bos_token_id", false, 0, last, &v->bos, err))) return s;
    if ((s = fs_gguf_int(g, "tokenizer.ggml.eos_token_id", false, 0, last, &v->eos, err))) return s;
    if ((s = fs_gguf_int(g, "tokenizer.ggml.unknown_token_id", false, 0, last, &v->unknown, err))) return s;
    if ((s = fs_gguf_bool(g, "tokenizer.ggml.add_bos_token", false, &v->add_bos, err))) return s;
    if ((s = fs_gguf_bool(g, "tokenizer.ggml.add_eos_token", false, &v->add_eos, err))) return s;
    if ((s = fs_gguf_bool(g, "tokenizer.ggml.remove_extra_whitespaces", false, &v->model.remove_extra_spaces, err))) return s;
    if ((s = fs_gguf_bool(g, "tokenizer.ggml.add_space_prefix", false, &prefix, err))) return s;
    return prefix ? FS_OK : refuse(v->archive, "tokenizer.ggml.add_space_prefix", "texts begin without a space", err);
}

static bool add_token(vocabulary *v, int32_t id, const char *text, bool special) {
    char key[16];
    snprintf(key, sizeof key, "%d", id);
    if (json_object_set_new(v->added, key, json_pack("{s:s, s:b}", "content", text, "special", (int)special)) != 0) return false;
    return !special || id == v->bos || id == v->eos || id == v->unknown || json_array_append_new(v->special, json_string(text)) == 0;
}

/* One token into the model; the special and the user-defined ones are cut out of a text before SentencePiece sees it. */
static fs_status take_piece(vocabulary *v, fs_gguf_text text, size_t *used, fs_error *err) {
    fs_spm_model *m = &v->model;
    const int32_t id = m->count;
    int32_t kind;
    fs_piece p = {.offset = (uint32_t)*used, .length = (uint16_t)text.size};
    memcpy(&p.score, v->scores.data + 4 * (size_t)id, 4);
    memcpy(&kind, v->kinds.data + 4 * (size_t)id, 4);
    if (kind < FS_PIECE_NORMAL || kind > FS_PIECE_BYTE || text.size == 0 || text.size > 512 || memchr(text.data, 0, text.size))
        return fs_fail(err, FS_E_FORMAT, "%s: token %d of tokenizer.ggml: expected a text of 1 to 512 bytes of a kind from 1 to 6, found %zu bytes of kind %d",
                       fs_archive_path(v->archive), id, text.size, kind);
    memcpy(m->text + *used, text.data, text.size);
    m->text[*used + text.size] = '\0';
    if ((kind == FS_PIECE_USER || kind == FS_PIECE_CONTROL || kind == FS_PIECE_UNKNOWN) && !add_token(v, id, m->text + *used, kind != FS_PIECE_USER))
        return fs_fail(err, FS_E_FORMAT, "%s: token %d of tokenizer.ggml is no UTF-8 text, or memory is short", fs_archive_path(v->archive), id);
    *used += text.size + 1;
    p.kind = (uint8_t)(kind == FS_PIECE_USER ? FS_PIECE_UNUSED : kind); /* its id stays taken */
    m->byte_fallback |= kind == FS_PIECE_BYTE;
    m->pieces[m->count++] = p;
    return FS_OK;
}

static fs_status build_model(vocabulary *v, fs_error *err) {
    fs_gguf_array tokens = v->tokens;
    fs_gguf_text text;
    size_t used = 0;
    fs_status s = FS_OK;
    v->added = json_object();
    v->special = json_array();
    v->model.pieces = fs_alloc((size_t)tokens.count, sizeof *v->model.pieces);
    v->model.text = fs_alloc(tokens.size, 1); /* a length of 8 bytes in front of each is more than the NUL behind it */
    if (!v->added || !v->special || !v->model.pieces || !v->model.text)
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory for %zu bytes of tokens", fs_archive_path(v->archive), tokens.size);
    while (!s && fs_gguf_next(&tokens, &text)) s = take_piece(v, text, &used, err);
    return s;
}

static const char *text_of(const vocabulary *v, int64_t id) { return fs_spm_text(&v->model, (int32_t)id); }

fs_status fs_llava_tokenizer(const fs_archive *lm, fs_tokenizer **out, fs_error *err) {
    vocabulary v = {.archive = lm, .add_bos = true};
    fs_buffer proto = {0};
    char *config = NULL;
    *out = NULL;
    fs_status s = read_arrays(&v, err);
    if (!s) s = build_model(&v, err);
    if (!s) s = fs_spm_write(&v.model, true, &proto, err);
    if (!s) {
        /* legacy false: how LLaVA 1.5's own tokenizer_config.json has it */
        json_t *j = json_pack("{s:b, s:b, s:b, s:s, s:s, s:s, s:O, s:O}", "legacy", 0, "add_bos_token", (int)v.add_bos, "add_eos_token", (int)v.add_eos,
                              "bos_token", text_of(&v, v.bos), "eos_token", text_of(&v, v.eos), "unk_token", text_of(&v, v.unknown),
                              "added_tokens_decoder", v.added, "additional_special_tokens", v.special);
        config = j ? json_dumps(j, JSON_COMPACT) : NULL;
        json_decref(j);
        if (!config) s = fs_fail(err, FS_E_FORMAT, "%s: its special tokens are no UTF-8 text, or memory is short", fs_archive_path(lm));
    }
    if (!s) {
        const fs_tokenizer_files made = {.where = fs_archive_path(lm), .model = {proto.data, proto.size}, .config = {config, strlen(config)}};
        s = fs_tokenizer_create(&made, FS_RULES_437, out, err);
    }
    free(config);
    fs_buffer_free(&proto);
    json_decref(v.added);
    json_decref(v.special);
    fs_spm_free(&v.model);
    return s;
}
