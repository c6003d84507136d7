/* The tensors of the vision parts under upstream's names and with their shapes (spec 2.4 to 2.8 of the original's checkpoint): what convert finds
 * in files, synth lists from here. Opening a bundle binds every network to the outcome (tests/cli/test_synth.sh), so a wrong shape shows. */
#include "pipeline/synth.h"

#include <inttypes.h>
#include <stdarg.h>

/* One part being listed. The first failure ends it. */
typedef struct list { const fs_synth_sink *sink; const char *part; fs_status status; fs_error *err; } list;

enum { NAME = 128, REGION_LEVELS = 4, REGION_ROUNDS = 5, REGION_POS = 256, ROI = 14, HEAD_MASKS = 4, PROMPT_POINTS = 4 };

static void put(list *l, fs_synth_kind kind, int ndim, const int64_t *shape, const char *format, ...) __attribute__((format(printf, 5, 6)));
static void put(list *l, fs_synth_kind kind, int ndim, const int64_t *shape, const char *format, ...) {
    char name[NAME];
    va_list args;
    if (l->status) return;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    l->status = l->sink->tensor(l->sink->user, l->part, name, kind, ndim, shape, l->err);
}
#define SHAPE(...) (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__}

static void linear(list *l, int64_t out, int64_t in, const char *name) {
    put(l, FS_SYNTH_PRODUCT, SHAPE(out, in), "%s.weight", name);
    put(l, FS_SYNTH_SMALL, SHAPE(out), "%s.bias", name);
}

static void norm(list *l, int64_t channels, const char *name) {
    put(l, FS_SYNTH_ONE, SHAPE(channels), "%s.weight", name);
    put(l, FS_SYNTH_SMALL, SHAPE(channels), "%s.bias", name);
}

static void kernel(list *l, int64_t out, int64_t in, int64_t size, const char *name, bool bias) {
    put(l, FS_SYNTH_PRODUCT, SHAPE(out, in, size, size), "%s.weight", name);
    if (bias) put(l, FS_SYNTH_SMALL, SHAPE(out), "%s.bias", name);
}

/* "BEFORE.i.AFTER" for the functions above, in the caller's `at` until its next use. */
static const char *write_name(char at[NAME], const char *format, ...) __attribute__((format(printf, 2, 3)));
static const char *write_name(char at[NAME], const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(at, NAME, format, args);
    va_end(args);
    return at;
}
#define AT(...) write_name(at, __VA_ARGS__)

/* A residual block of a stem, which adds nothing to begin with. */
static void stem_block(list *l, int64_t channels, const char *name) {
    char at[NAME];
    norm(l, channels, AT("%s.norm", name));
    kernel(l, channels, channels, 3, AT("%s.conv1", name), true);
    put(l, FS_SYNTH_ZERO, SHAPE(channels, channels, 3, 3), "%s.conv2.weight", name);
    put(l, FS_SYNTH_ZERO, SHAPE(channels), "%s.conv2.bias", name);
}

/* The stem, if there is one: *size, a patch's side, becomes what it leaves of it. Returns the channels that the patches are made of. */
static int64_t stem(list *l, const fs_synth_stem *s, const char *name, int64_t *size) {
    char at[NAME];
    if (!s->channels) return 3;
    static const int times[FS_STEM_LAYERS] = {1, 2, 3, 6};
    kernel(l, s->channels, 3 + (s->residual ? FS_STEM_RESIDUALS : 0), 5, AT("%s.0.conv", name), true);
    for (int i = 1; i < FS_STEM_LAYERS; i++) {
        kernel(l, times[i] * s->channels, times[i - 1] * s->channels, i == 1 && s->step == 16 ? FS_STEM_HALVING : 3, AT("%s.%d.conv", name, i), true);
        norm(l, times[i] * s->channels, AT("%s.%d.norm", name, i));
        for (int64_t k = 0; k < s->blocks && i >= FS_STEM_LAYERS - 2; k++) stem_block(l, times[i] * s->channels, AT("%s.%d.block.%d", name, i, (int)k));
    }
    *size /= s->step;
    return times[FS_STEM_LAYERS - 1] * s->channels;
}

static void clip(list *l, const fs_clip_config *g, const fs_synth_stem *front) {
    const int64_t side = g->image_size / g->patch_size;
    int64_t size = g->patch_size;
    char at[NAME];
    put(l, FS_SYNTH_SMALL, SHAPE(g->hidden), "vision_model.embeddings.class_embedding");
    const int64_t channels = stem(l, front, "vision_model.embeddings.stem", &size);
    kernel(l, g->hidden, channels, size, "vision_model.embeddings.patch_embedding", false);
    put(l, FS_SYNTH_SMALL, SHAPE(side * side + 1, g->hidden), "vision_model.embeddings.position_embedding.weight");
    norm(l, g->hidden, "vision_model.pre_layrnorm");
    for (int64_t i = 0; i < g->layers; i++) {
        static const char *const projections[] = {"q", "k", "v", "out"};
        norm(l, g->hidden, AT("vision_model.encoder.layers.%" PRId64 ".layer_norm1", i));
        for (int p = 0; p < 4; p++)
            linear(l, g->hidden, g->hidden, AT("vision_model.encoder.layers.%" PRId64 ".self_attn.%s_proj", i, projections[p]));
        norm(l, g->hidden, AT("vision_model.encoder.layers.%" PRId64 ".layer_norm2", i));
        linear(l, g->intermediate, g->hidden, AT("vision_model.encoder.layers.%" PRId64 ".mlp.fc1", i));
        linear(l, g->hidden, g->intermediate, AT("vision_model.encoder.layers.%" PRId64 ".mlp.fc2", i));
    }
    norm(l, g->hidden, "vision_model.post_layernorm");
}

/* LLaVA's projector, of either stage. */
static void projector(list *l, int64_t in, int64_t out) {
    linear(l, out, in, "model.mm_projector.0");
    linear(l, out, out, "model.mm_projector.2");
}

static void batch_norm(list *l, int64_t channels, const char *name) {
    norm(l, channels, name);
    put(l, FS_SYNTH_ZERO, SHAPE(channels), "%s.running_mean", name);
    put(l, FS_SYNTH_ONE, SHAPE(channels), "%s.running_var", name);
}

/* ResNet-50 as torchvision names it, with `width` channels behind its stem. */
static void resnet(list *l, int64_t width) {
    static const int blocks[] = {3, 4, 6, 3};
    char at[NAME];
    int64_t in = width;
    kernel(l, width, 3, 7, "conv1", false);
    batch_norm(l, width, "bn1");
    for (int s = 0; s < 4; s++) {
        const int64_t w = width << s;
        for (int b = 0; b < blocks[s]; b++) {
            kernel(l, w, in, 1, AT("layer%d.%d.conv1", s + 1, b), false);
            batch_norm(l, w, AT("layer%d.%d.bn1", s + 1, b));
            kernel(l, w, w, 3, AT("layer%d.%d.conv2", s + 1, b), false);
            batch_norm(l, w, AT("layer%d.%d.bn2", s + 1, b));
            kernel(l, 4 * w, w, 1, AT("layer%d.%d.conv3", s + 1, b), false);
            batch_norm(l, 4 * w, AT("layer%d.%d.bn3", s + 1, b));
            if (b == 0) kernel(l, 4 * w, in, 1, AT("layer%d.0.downsample.0", s + 1), false);
            if (b == 0) batch_norm(l, 4 * w, AT("layer%d.0.downsample.1", s + 1));
            in = 4 * w;
        }
    }
    linear(l, 3, in, "fc");
}

static void sam_encoder(list *l, const fs_synth_arch *a) {
    const int64_t C = a->sam.embed, head = C / a->sam.heads;
    int64_t size = a->sam.patch;
    char at[NAME];
    const int64_t channels = stem(l, &a->sam_stem, "image_encoder.patch_embed.stem", &size);
    kernel(l, C, channels, size, "image_encoder.patch_embed.proj", true);
    put(l, FS_SYNTH_SMALL, SHAPE(1, a->sam.grid, a->sam.grid, C), "image_encoder.pos_embed");
    for (int64_t i = 0; i < a->sam.depth; i++) {
        const int64_t side = (i + 1) % a->sam.global_every == 0 ? a->sam.grid : a->sam.window;
        norm(l, C, AT("image_encoder.blocks.%" PRId64 ".norm1", i));
        linear(l, 3 * C, C, AT("image_encoder.blocks.%" PRId64 ".attn.qkv", i));
        linear(l, C, C, AT("image_encoder.blocks.%" PRId64 ".attn.proj", i));
        put(l, FS_SYNTH_SMALL, SHAPE(2 * side - 1, head), "image_encoder.blocks.%" PRId64 ".attn.rel_pos_h", i);
        put(l, FS_SYNTH_SMALL, SHAPE(2 * side - 1, head), "image_encoder.blocks.%" PRId64 ".attn.rel_pos_w", i);
        norm(l, C, AT("image_encoder.blocks.%" PRId64 ".norm2", i));
        linear(l, 4 * C, C, AT("image_encoder.blocks.%" PRId64 ".mlp.lin1", i));
        linear(l, C, 4 * C, AT("image_encoder.blocks.%" PRId64 ".mlp.lin2", i));
    }
    kernel(l, a->sam.out, C, 1, "image_encoder.neck.0", false);
    norm(l, a->sam.out, "image_encoder.neck.1");
    kernel(l, a->sam.out, a->sam.out, 3, "image_encoder.neck.2", false);
    norm(l, a->sam.out, "image_encoder.neck.3");
}

static void sam_prompt(list *l, int64_t C) {
    put(l, FS_SYNTH_UNIT, SHAPE(2, C / 2), "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix");
    for (int i = 0; i < PROMPT_POINTS; i++) put(l, FS_SYNTH_SMALL, SHAPE(1, C), "prompt_encoder.point_embeddings.%d.weight", i);
    put(l, FS_SYNTH_SMALL, SHAPE(1, C), "prompt_encoder.not_a_point_embed.weight");
    put(l, FS_SYNTH_SMALL, SHAPE(1, C), "prompt_encoder.no_mask_embed.weight");
    kernel(l, 4, 1, 2, "prompt_encoder.mask_downscaling.0", true);
    norm(l, 4, "prompt_encoder.mask_downscaling.1");
    kernel(l, 16, 4, 2, "prompt_encoder.mask_downscaling.3", true);
    norm(l, 16, "prompt_encoder.mask_downscaling.4");
    kernel(l, C, 16, 1, "prompt_encoder.mask_downscaling.6", true);
}

static void decoder_attention(list *l, int64_t C, int64_t inner, const char *name) {
    char at[NAME];
    linear(l, inner, C, AT("%s.q_proj", name));
    linear(l, inner, C, AT("%s.k_proj", name));
    linear(l, inner, C, AT("%s.v_proj", name));
    linear(l, C, inner, AT("%s.out_proj", name));
}

/* A small network of three linear layers. */
static void head(list *l, int64_t C, int64_t out, const char *name) {
    char at[NAME];
    linear(l, C, C, AT("%s.layers.0", name));
    linear(l, C, C, AT("%s.layers.1", name));
    linear(l, out, C, AT("%s.layers.2", name));
}

static void sam_decoder(list *l, int64_t C, int64_t mlp) {
    char at[NAME];
    put(l, FS_SYNTH_UNIT, SHAPE(1, C), "mask_decoder.iou_token.weight");
    put(l, FS_SYNTH_UNIT, SHAPE(HEAD_MASKS, C), "mask_decoder.mask_tokens.weight");
    for (int j = 0; j < 2; j++) {
        decoder_attention(l, C, C, AT("mask_decoder.transformer.layers.%d.self_attn", j));
        decoder_attention(l, C, C / 2, AT("mask_decoder.transformer.layers.%d.cross_attn_token_to_image", j));
        decoder_attention(l, C, C / 2, AT("mask_decoder.transformer.layers.%d.cross_attn_image_to_token", j));
        for (int n = 1; n <= 4; n++) norm(l, C, AT("mask_decoder.transformer.layers.%d.norm%d", j, n));
        linear(l, mlp, C, AT("mask_decoder.transformer.layers.%d.mlp.lin1", j));
        linear(l, C, mlp, AT("mask_decoder.transformer.layers.%d.mlp.lin2", j));
    }
    decoder_attention(l, C, C / 2, "mask_decoder.transformer.final_attn_token_to_image");
    norm(l, C, "mask_decoder.transformer.norm_final_attn");
    put(l, FS_SYNTH_PRODUCT, SHAPE(C, C / 4, 2, 2), "mask_decoder.output_upscaling.0.weight"); /* transposed: [in, out, ...] */
    put(l, FS_SYNTH_SMALL, SHAPE(C / 4), "mask_decoder.output_upscaling.0.bias");
    norm(l, C / 4, "mask_decoder.output_upscaling.1");
    put(l, FS_SYNTH_PRODUCT, SHAPE(C / 4, C / 8, 2, 2), "mask_decoder.output_upscaling.3.weight");
    put(l, FS_SYNTH_SMALL, SHAPE(C / 8), "mask_decoder.output_upscaling.3.bias");
    for (int i = 0; i < HEAD_MASKS; i++) head(l, C, C / 8, AT("mask_decoder.output_hypernetworks_mlps.%d", i));
    head(l, C, HEAD_MASKS, "mask_decoder.iou_prediction_head");
}

static void region_encoder(list *l, int64_t C, int64_t hidden) {
    char at[NAME];
    for (int i = 0; i < REGION_LEVELS; i++) kernel(l, C, C + 2, 1, AT("model.region_encoder.mlvl_fuse.input_conv.%d", i), true);
    for (int k = 0; k < REGION_ROUNDS; k++) {
        kernel(l, C, C, 3, AT("model.region_encoder.mlvl_fuse.fuse_convs.%d.conv", k), false);
        norm(l, C, AT("model.region_encoder.mlvl_fuse.fuse_convs.%d.gn", k));
    }
    for (int i = 0; i < REGION_LEVELS; i++) kernel(l, C, C, 3, AT("model.region_encoder.roi_align.pconvs.%d", i), true);
    linear(l, REGION_POS, 4, "model.region_encoder.roi_align.pos_embedd.0");
    norm(l, REGION_POS, "model.region_encoder.roi_align.pos_embedd.2");
    linear(l, C, REGION_POS, "model.region_encoder.roi_align.pos_embedd.3");
    norm(l, C, "model.region_encoder.roi_align.pos_embedd.5");
    linear(l, C, C * ROI * ROI, "model.region_encoder.roi_align.flatten_linear");
    linear(l, hidden, C, "model.region_encoder.roi_align.updims");
}

fs_status fs_synth_vision(const fs_synth_arch *a, const fs_synth_sink *sink, fs_error *err) {
    list l = {.sink = sink, .part = "dtg", .err = err};
    resnet(&l, a->dtg_width);
    l.part = "clip";
    clip(&l, &a->clip, &a->clip_stem);
    l.part = "dte";
    if (a->stage1) projector(&l, a->clip.hidden, a->dte.hidden);
    if (!a->stage2) return l.status;
    l.part = "mflm";
    projector(&l, a->clip.hidden, a->mflm.hidden);
    linear(&l, a->mflm.hidden, a->mflm.hidden, "model.text_hidden_fcs.0.0");
    linear(&l, a->sam.out, a->mflm.hidden, "model.text_hidden_fcs.0.2");
    if (!a->no_region) region_encoder(&l, a->clip.hidden, a->mflm.hidden);
    l.part = "sam";
    sam_encoder(&l, a);
    sam_prompt(&l, a->sam.out);
    sam_decoder(&l, a->sam.out, a->decoder_mlp);
    return l.status;
}
