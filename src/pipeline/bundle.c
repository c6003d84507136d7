/* The bundle's tables: names and types. Names of the language models are llama.cpp's for "llama"; the other parts keep upstream's names behind
 * a short prefix, since ggml's programs refuse names of more than 63 bytes. docs/bundle.md says why. */
#include "pipeline/bundle.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const fs_bundle_type types[] = {
    {"f32", FS_DTYPE_F32, false, 0},  {"f16", FS_DTYPE_F16, false, 1},   {"bf16", FS_DTYPE_BF16, false, 32}, {"q8_0", FS_DTYPE_Q8_0, false, 7},
    {"q4_0", FS_DTYPE_Q4_0, false, 2}, {"q4_k", FS_DTYPE_Q4_K, false, 14}, {"mixed", FS_DTYPE_Q4_K, true, 15},
};

bool fs_bundle_type_from_name(const char *name, fs_bundle_type *out) {
    for (size_t i = 0; name && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(name, types[i].name) == 0) {
            *out = types[i];
            return true;
        }
    return false;
}

typedef struct llm_name { const char *upstream, *name; fs_bundle_heads heads; } llm_name;
static const llm_name in_layer[] = {
    {"input_layernorm", "attn_norm", FS_HEADS_NONE},       {"self_attn.q_proj", "attn_q", FS_HEADS_QUERY},
    {"self_attn.k_proj", "attn_k", FS_HEADS_KEY},          {"self_attn.v_proj", "attn_v", FS_HEADS_NONE},
    {"self_attn.o_proj", "attn_output", FS_HEADS_NONE},    {"post_attention_layernorm", "ffn_norm", FS_HEADS_NONE},
    {"mlp.gate_proj", "ffn_gate", FS_HEADS_NONE},          {"mlp.up_proj", "ffn_up", FS_HEADS_NONE},
    {"mlp.down_proj", "ffn_down", FS_HEADS_NONE},
};
enum { IN_LAYER = sizeof in_layer / sizeof in_layer[0] };

bool fs_bundle_llm_tensor(int64_t layers, int64_t i, fs_bundle_llm *out) {
    static const llm_name behind[] = {{"model.norm", "output_norm", FS_HEADS_NONE}, {"lm_head", "output", FS_HEADS_NONE}};
    const int64_t rest = i - 1 - layers * IN_LAYER;
    *out = (fs_bundle_llm){.heads = FS_HEADS_NONE};
    if (i < 0 || rest >= 2) return false;
    if (i == 0 || rest >= 0) {
        const llm_name *n = i == 0 ? &(const llm_name){"model.embed_tokens", "token_embd", FS_HEADS_NONE} : &behind[rest];
        snprintf(out->upstream, sizeof out->upstream, "%s.weight", n->upstream);
        snprintf(out->name, sizeof out->name, "%s.weight", n->name);
        return true;
    }
    const llm_name *n = &in_layer[(i - 1) % IN_LAYER];
    const int64_t layer = (i - 1) / IN_LAYER;
    snprintf(out->upstream, sizeof out->upstream, "model.layers.%" PRId64 ".%s.weight", layer, n->upstream);
    snprintf(out->name, sizeof out->name, "blk.%" PRId64 ".%s.weight", layer, n->name);
    out->heads = n->heads;
    return true;
}

bool fs_bundle_llm_find(int64_t layers, const char *upstream, fs_bundle_llm *out) {
    static const char layer[] = "model.layers.";
    int64_t first = 0, count = 1; /* where it may stand */
    if (strncmp(upstream, layer, sizeof layer - 1) == 0) {
        const long long n = strtoll(upstream + sizeof layer - 1, NULL, 10);
        if (n < 0 || n >= layers) return false;
        first = 1 + n * IN_LAYER;
        count = IN_LAYER;
    } else if (strncmp(upstream, "model.embed_tokens", 18) != 0) {
        first = 1 + layers * IN_LAYER;
        count = 2;
    }
    for (int64_t i = first; i < first + count && fs_bundle_llm_tensor(layers, i, out); i++)
        if (strcmp(out->upstream, upstream) == 0) return true;
    return false;
}

int64_t fs_bundle_rope_row(int64_t r, int64_t width) {
    const int64_t k = r % width;
    return r - k + k % 2 * (width / 2) + k / 2;
}

/* Longer prefixes of a part come first. */
const fs_bundle_prefix fs_bundle_prefixes[] = {
    {"dte", "model.mm_projector.", "dte.mm_projector."},
    {"mflm", "model.mm_projector.", "mflm.mm_projector."},
    {"mflm", "model.text_hidden_fcs.", "mflm.text_hidden_fcs."},
    {"mflm", "model.region_encoder.", "region."},
    {"mflm", "model.grounding_encoder.image_encoder.", "sam.enc."},
    {"mflm", "model.grounding_encoder.prompt_encoder.", "sam.prompt."},
    {"mflm", "model.grounding_encoder.mask_decoder.transformer.", "sam.dec.tr."},
    {"mflm", "model.grounding_encoder.mask_decoder.", "sam.dec."},
    {"sam", "image_encoder.", "sam.enc."},
    {"sam", "prompt_encoder.", "sam.prompt."},
    {"sam", "mask_decoder.transformer.", "sam.dec.tr."},
    {"sam", "mask_decoder.", "sam.dec."},
    {"clip", "vision_model.", "clip."},
    {"embedded", "model.vision_tower.vision_tower.vision_model.", "clip."},
    {"dtg", "", "dtg."},
    {NULL, NULL, NULL},
};

bool fs_bundle_vision_name(const char *part, const char *upstream, char out[FS_BUNDLE_NAME]) {
    static const char *const unused[] = {"position_ids", "num_batches_tracked", "inv_freq", "pixel_mean", "pixel_std"};
    for (size_t i = 0; i < sizeof unused / sizeof unused[0]; i++)
        if (strstr(upstream, unused[i])) return false;
    for (const fs_bundle_prefix *p = fs_bundle_prefixes; p->part; p++) {
        const size_t n = strlen(p->from);
        if (strcmp(p->part, part) != 0 || strncmp(upstream, p->from, n) != 0) continue;
        const int m = snprintf(out, FS_BUNDLE_NAME, "%s%s", p->to, upstream + n);
        return m > 0 && m < FS_BUNDLE_NAME;
    }
    return false;
}

static bool starts(const char *s, const char *prefix) { return strncmp(s, prefix, strlen(prefix)) == 0; }

/* `wanted`, or the next finer type whose blocks divide the rows. */
static fs_dtype fitting(fs_dtype wanted, int64_t row) {
    if (row % fs_dtype_block(wanted) == 0) return wanted;
    return row % fs_dtype_block(FS_DTYPE_Q8_0) == 0 ? FS_DTYPE_Q8_0 : FS_DTYPE_F16;
}

static bool holds(const char *s, const char *part) { return strstr(s, part) != NULL; }

/* Linear layers whose 8 bits cost less than the language model's own 4, or than half a percent of a mask's pixels (docs/bundle.md). */
static bool vision_linear(const char *name, int ndim) {
    return ndim == 2 && (starts(name, "clip.encoder.") || starts(name, "dte.mm_projector.") || starts(name, "mflm.mm_projector.") ||
                         (starts(name, "sam.enc.blocks.") && holds(name, ".mlp.")));
}

static fs_dtype store_vision(const fs_bundle_type *type, const char *name, int ndim, int64_t row) {
    /* small, and every pixel of the mask or the tag hangs on them: always whole. Position tables are added to, not multiplied by. */
    static const char *const whole[] = {"dtg.", "sam.dec.", "sam.prompt."};
    static const char *const tables[] = {"pos_embed", "rel_pos_", "position_embedding", "class_embedding"};
    for (size_t i = 0; i < sizeof whole / sizeof whole[0]; i++)
        if (starts(name, whole[i])) return FS_DTYPE_F32;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
        if (holds(name, tables[i])) return FS_DTYPE_F32;
    if (fs_dtype_block(type->matrix) == 1) return type->matrix;
    return vision_linear(name, ndim) ? fitting(FS_DTYPE_Q8_0, row) : FS_DTYPE_F16;
}

fs_dtype fs_bundle_store_as(const fs_bundle_type *type, const char *name, int64_t layers, int ndim, const int64_t *shape) {
    if (ndim < 2) return FS_DTYPE_F32; /* norms and biases */
    const int64_t row = shape[ndim - 1];
    if (layers == 0) return store_vision(type, name, ndim, row);
    if (!type->mixed) return fitting(type->matrix, row);
    /* 8 bits where 4 cost most (docs/bundle.md); not 6, which has no kernel of its own and would be read slower than 8 */
    if (strcmp(name, "output.weight") == 0 || strcmp(name, "token_embd.weight") == 0) return fitting(FS_DTYPE_Q8_0, row);
    const bool delicate = strstr(name, ".attn_v.") || strstr(name, ".ffn_down.");
    const int64_t layer = starts(name, "blk.") ? strtoll(name + 4, NULL, 10) : layers / 2, edge = (layers + 7) / 8;
    return fitting(delicate && (layer < edge || layer >= layers - edge) ? FS_DTYPE_Q8_0 : FS_DTYPE_Q4_K, row);
}
