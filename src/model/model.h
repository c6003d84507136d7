/* The networks. Each is a config (sizes, read from config.json or from tensor shapes), a weight table bound from a tensor source, and a
 * forward function over the operators of tensor/ops.h; none knows a file format or the machine. `_bind` checks every tensor's shape and
 * fails with one line naming file, tensor, expected and found; `_unbind` frees the table (not the weights) and takes a zeroed struct.
 * Forward functions return NULL on error, which then stands in the context. Layouts are PyTorch's. */
#ifndef FS_MODEL_H
#define FS_MODEL_H

#include "tensor/kv_cache.h"
#include "tensor/ops.h"

/* A linear layer's tensors; b NULL = no bias. Also used for norms (w, b of [C]). */
typedef struct fs_affine { const fs_tensor *w, *b; } fs_affine;

/* ---- ResNet-50 and its kind (torchvision, v1.5): the domain tag generator ----------------------------------------- */

typedef struct fs_batch_stats { const fs_tensor *w, *b, *mean, *var; } fs_batch_stats; /* of a batch norm, [C] each */
typedef struct fs_resnet_block {
    const fs_tensor *conv[3], *down; /* down NULL = identity shortcut */
    fs_batch_stats bn[3], down_bn;
} fs_resnet_block;
typedef struct fs_resnet {
    int n_blocks[4];               /* per stage, counted from the tensors */
    int classes;
    const fs_tensor *stem;
    fs_batch_stats stem_bn;
    fs_resnet_block *blocks;       /* all stages one after the other */
    fs_affine fc;
    struct fs_conv_form *forms;    /* kernels made ready by the first picture, in the order they run; NULL: by every picture anew */
} fs_resnet;
fs_status fs_resnet_bind(fs_resnet *m, const fs_tensor_source *source, const char *prefix, fs_error *err);
void fs_resnet_unbind(fs_resnet *m);
/* The weights will not change: the kernels are made ready once and kept (142 MB for a ResNet-50). Without memory for that nothing changes. */
void fs_resnet_keep(fs_resnet *m);
/* pixels: [3,H,W] -> logits [classes]. taps, if not NULL, receives [0] the stem after pooling, [1..4] the stages. */
fs_tensor *fs_resnet_forward(fs_exec *c, const fs_resnet *m, const fs_tensor *pixels, fs_tensor *taps[5]);
/* The same in training: pixels [N,3,H,W] -> logits [N,classes]. Batch norms use the batch's own statistics and bring the running ones on (momentum
 * 0.1): the bound means and variances are written, so they must be F32 memory of the caller's, not a mapped file. */
fs_tensor *fs_resnet_forward_train(fs_exec *c, const fs_resnet *m, const fs_tensor *pixels);

/* ---- a stem of models of our own -------------------------------------------------------------------------------------- */

/* Convolutions in front of the patches (stem.c), which make eight or sixteen pixels one; conv[0].w NULL: none, as in CLIP and SAM. */
enum { FS_STEM_LAYERS = 4, FS_STEM_HALVING = 4 /* side of a second convolution that halves the picture */, FS_STEM_RESIDUALS = 6, FS_STEM_BLOCKS = 4 /* a layer's at most */ };
typedef struct fs_stem_block { fs_affine norm, conv[2]; } fs_stem_block;
typedef struct fs_stem {
    fs_affine conv[FS_STEM_LAYERS], norm[FS_STEM_LAYERS]; /* norm[0] is not used */
    fs_stem_block block[FS_STEM_LAYERS][FS_STEM_BLOCKS];  /* behind each of them */
    int n_blocks[FS_STEM_LAYERS];
} fs_stem;

/* ---- CLIP ViT ------------------------------------------------------------------------------------------------------ */

typedef enum fs_activation { FS_ACT_QUICK_GELU = 0, FS_ACT_GELU = 1 } fs_activation;
typedef struct fs_clip_config {
    int64_t hidden, intermediate, layers, heads, image_size, patch_size;
    float eps;
    fs_activation activation;
} fs_clip_config;
typedef struct fs_clip_layer { fs_affine norm1, q, k, v, out, norm2, fc1, fc2; } fs_clip_layer;
typedef struct fs_clip {
    fs_clip_config config;
    fs_stem stem;
    const fs_tensor *class_embedding, *patch_embedding, *position_embedding;
    fs_affine pre_norm;
    fs_clip_layer *layers;
    int64_t n_layers; /* bound: the last one is never needed and not bound */
} fs_clip;
/* prefix: e.g. "vision_model." */
fs_status fs_clip_bind(fs_clip *m, const fs_clip_config *config, const fs_tensor_source *source, const char *prefix, fs_error *err);
void fs_clip_unbind(fs_clip *m);
/* pixels: [3,S,S]. select_layer as mm_vision_select_layer (-2 = after all layers but the last); class token dropped -> [patches, hidden].
 * levels: if not NULL, receives the four hidden states of the region encoder (numbers n-10, n-7, n-4, n-1 for n layers; patch tokens
 * only, [patches, hidden] each). */
fs_tensor *fs_clip_forward(fs_exec *c, const fs_clip *m, const fs_tensor *pixels, int select_layer, fs_tensor *levels[4]);

/* ---- multimodal projector: Linear, GELU, Linear -------------------------------------------------------------------- */

typedef struct fs_projector { fs_affine fc1, fc2; } fs_projector;
fs_status fs_projector_bind(fs_projector *m, int64_t in, int64_t out, const fs_tensor_source *source, const char *prefix, fs_error *err);
fs_tensor *fs_projector_forward(fs_exec *c, const fs_projector *m, const fs_tensor *x); /* [n, in] -> [n, out] */

/* ---- LLaMA --------------------------------------------------------------------------------------------------------- */

typedef struct fs_llama_config {
    int64_t hidden, intermediate, layers, heads, kv_heads, vocab, max_positions;
    float eps, rope_theta;
    bool rope_pairs; /* rows of q and k are stored as neighbouring pairs (GGUF) instead of halves (transformers) */
} fs_llama_config;
typedef struct fs_llama_layer { const fs_tensor *norm1, *q, *k, *v, *o, *norm2, *gate, *up, *down; } fs_llama_layer;
/* Low-rank adapters (Hu et al. 2021) beside the seven linear layers of each layer: y = W x + scale B (A x). a: [rank, in], b: [out, rank], both
 * NULL where there is none; scale is alpha / rank. Rows of q's and k's B are in transformers' order whatever rope_pairs says. */
typedef enum fs_lora_place { FS_LORA_Q = 0, FS_LORA_K, FS_LORA_V, FS_LORA_O, FS_LORA_GATE, FS_LORA_UP, FS_LORA_DOWN, FS_LORA_PLACES } fs_lora_place;
extern const char *const fs_lora_place_names[FS_LORA_PLACES]; /* "self_attn.q_proj", ..., "mlp.down_proj" */
typedef struct fs_lora_pair { const fs_tensor *a, *b; float scale; } fs_lora_pair;
typedef struct fs_lora_layer { fs_lora_pair at[FS_LORA_PLACES]; } fs_lora_layer;
typedef struct fs_llama {
    fs_llama_config config;
    const fs_tensor *embed, *norm, *lm_head;
    fs_llama_layer *layers;
    fs_lora_layer *lora; /* [layers]; NULL: no adapters */
} fs_llama;
/* Keys (with rotary position) and values of the tokens seen so far. */
typedef fs_kv_cache fs_llama_state;
fs_status fs_llama_bind(fs_llama *m, const fs_llama_config *config, const fs_tensor_source *source, const char *prefix, fs_error *err);
void fs_llama_unbind(fs_llama *m);
/* The width of what goes into (in) and comes out of (out) the linear layer at a place. */
void fs_lora_shape(const fs_llama_config *g, fs_lora_place place, int64_t *in, int64_t *out);
/* Binds the adapters a source has: prefix + "model.layers.N.PLACE.lora_A.weight" and lora_B, any rank, at any places. None at all is an error. */
fs_status fs_llama_bind_lora(fs_llama *m, const fs_tensor_source *source, const char *prefix, double alpha, fs_error *err);
/* dtype of the cache: F32, F16 or BF16. A context of precision F16 or BF16 loses nothing by a cache of that type. */
fs_status fs_llama_state_create(const fs_llama *m, fs_dtype dtype, int64_t capacity, fs_llama_state *out, fs_error *err);
void fs_llama_state_free(fs_llama_state *s);
fs_tensor *fs_llama_embed(fs_exec *c, const fs_llama *m, const int32_t *ids, int64_t n); /* [n, hidden] */
/* x: embeddings [n, hidden] of positions state->length.. ; appends to the state. Returns the states after the last RMSNorm [n, hidden].
 * taps, if not NULL: [layers] receives each layer's output (tests). */
fs_tensor *fs_llama_forward(fs_exec *c, const fs_llama *m, fs_llama_state *state, const fs_tensor *x, fs_tensor **taps);
/* The same for several sequences in one pass over the weights. x: the parts' rows one after the other. Up to 12 rows in all have the bits they
 * would have alone. */
fs_tensor *fs_llama_forward_parts(fs_exec *c, const fs_llama *m, const fs_kv_part *parts, size_t n_parts, const fs_tensor *x, fs_tensor **taps);
/* Several whole sequences from position 0 on, nothing kept: for training. x: their rows one after the other, lengths [n]. recompute: layers are
 * run again in the backward pass instead of remembered. dropout: of the adapters' inputs; the same key gives the same choice. */
typedef struct fs_llama_batch { const int64_t *lengths; size_t n; bool recompute; float dropout; uint64_t key; } fs_llama_batch;
fs_tensor *fs_llama_forward_batch(fs_exec *c, const fs_llama *m, const fs_llama_batch *batch, const fs_tensor *x);
fs_tensor *fs_llama_logits(fs_exec *c, const fs_llama *m, const fs_tensor *h); /* [n, hidden] -> [n, vocab] */
/* Mean cross entropy of the words targets[0..n) after states rows[0..n) of h. The logits of few rows are there at a time, and their backward pass
 * runs at once: seed is the gradient that will flow back to the result (fs_loss_now). NULL for n 0. */
fs_tensor *fs_llama_loss(fs_exec *c, const fs_llama *m, const fs_tensor *h, const int64_t *rows, const int32_t *targets, int64_t n, float seed);

/* ---- SAM ----------------------------------------------------------------------------------------------------------- */

typedef struct fs_sam_block { fs_affine norm1, qkv, proj, norm2, lin1, lin2; const fs_tensor *rel_h, *rel_w; bool global; } fs_sam_block;
typedef struct fs_sam_encoder { /* every size comes from tensor shapes */
    int64_t embed, depth, heads, grid, patch, window, out_channels, image_size;
    fs_stem stem;
    fs_affine patch_embed;
    const fs_tensor *pos_embed;
    fs_sam_block *blocks;
    const fs_tensor *neck_conv1, *neck_conv2;
    fs_affine neck_norm1, neck_norm2;
} fs_sam_encoder;
fs_status fs_sam_encoder_bind(fs_sam_encoder *m, const fs_tensor_source *source, const char *prefix, fs_error *err); /* "...image_encoder." */
void fs_sam_encoder_unbind(fs_sam_encoder *m);
/* pixels: [3,S,S] -> [out_channels, grid, grid]. taps, if not NULL: [depth + 1] receives the patch embedding and each block's output. */
fs_tensor *fs_sam_encoder_forward(fs_exec *c, const fs_sam_encoder *m, const fs_tensor *pixels, fs_tensor **taps);

typedef struct fs_sam_prompt { const fs_tensor *gaussian, *no_mask; int64_t channels; } fs_sam_prompt;
fs_status fs_sam_prompt_bind(fs_sam_prompt *m, const fs_tensor_source *source, const char *prefix, fs_error *err); /* "...prompt_encoder." */
/* Dense positional encoding [channels, grid, grid]. bf16: round matrix, product and phase to bf16 before sin/cos, as a bf16 network does
 * (spec 5.9); decided by the caller because it must follow the checkpoint even when activations are kept in f32. */
fs_tensor *fs_sam_dense_pe(fs_exec *c, const fs_sam_prompt *m, int64_t grid, bool bf16);

typedef struct fs_sam_attention { fs_affine q, k, v, out; } fs_sam_attention;
typedef struct fs_sam_decoder_layer {
    fs_sam_attention self, t2i, i2t;
    fs_affine norm1, norm2, norm3, norm4, lin1, lin2;
} fs_sam_decoder_layer;
typedef struct fs_sam_decoder {
    int64_t channels, heads, depth, n_masks;
    const fs_tensor *iou_token, *mask_tokens;
    fs_sam_decoder_layer *layers;
    fs_sam_attention final_t2i;
    fs_affine norm_final, up1, up_norm, up2, hyper[3]; /* hyper: of mask 0, the only one used */
} fs_sam_decoder;
fs_status fs_sam_decoder_bind(fs_sam_decoder *m, const fs_tensor_source *source, const char *prefix, fs_error *err); /* "...mask_decoder." */
void fs_sam_decoder_unbind(fs_sam_decoder *m);
/* image: [C,g,g] of the encoder, pe: [C,g,g], no_mask: [1,C], text: [n,C] one embedding per [SEG] -> low-resolution logits [n, 4g, 4g] */
fs_tensor *fs_sam_decoder_forward(fs_exec *c, const fs_sam_decoder *m, const fs_tensor *image, const fs_tensor *pe, const fs_tensor *no_mask,
                                  const fs_tensor *text);
/* low: [n, 4g, 4g] -> [n, h, w] at the picture's size, in f32 (spec 5.11). size: SAM's image size; in_h, in_w: the resized picture's. */
fs_tensor *fs_sam_postprocess(fs_exec *c, const fs_tensor *low, int64_t size, int64_t in_h, int64_t in_w, int64_t h, int64_t w);

/* ---- GLaMM's region encoder (boxes) and [SEG] head ------------------------------------------------------------------ */

typedef struct fs_region_encoder {
    int64_t channels, hidden, grid;
    fs_affine input_conv[4], pconv[4], pos0, pos2, pos3, pos5, flatten, updims;
    struct { const fs_tensor *conv, *w, *b; } fuse[5];
} fs_region_encoder;
fs_status fs_region_encoder_bind(fs_region_encoder *m, int64_t grid, const fs_tensor_source *source, const char *prefix, fs_error *err);
/* levels: from fs_clip_forward, [grid*grid, C] each; boxes: [n][4] x0,y0,x1,y1 divided by the picture's size -> [n, hidden] */
fs_tensor *fs_region_encoder_forward(fs_exec *c, const fs_region_encoder *m, fs_tensor *const levels[4], const float *boxes, int64_t n);

typedef struct fs_seg_head { fs_affine fc1, fc2; } fs_seg_head; /* text_hidden_fcs: Linear, ReLU, Linear */
fs_status fs_seg_head_bind(fs_seg_head *m, int64_t hidden, const fs_tensor_source *source, const char *prefix, fs_error *err);
fs_tensor *fs_seg_head_forward(fs_exec *c, const fs_seg_head *m, const fs_tensor *h); /* [n, hidden] -> [n, C] */

#endif
