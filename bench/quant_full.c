/* Quantization error of single networks at their released sizes. Weights by formula (tests/support/weightgen), made heavy-tailed as trained ones
 * are unless --plain: linear layers drawn from Student's t with four degrees of freedom, one norm channel in 128 ten times as large, so that
 * activations have outliers. Inputs are noise. What this cannot show: correlations that training puts into weights and activations. */
#include "quant_error.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"
#include "support/midsize.h"
#include "support/weightgen.h"
#include "tensor/block.h"

enum { MOST = 2048 };
typedef struct entry { char name[96]; fs_tensor tensor; } entry;
typedef struct formula { entry entries[MOST]; size_t n; bool plain; } formula;

__attribute__((format(printf, 4, 5))) static void add(formula *f, int ndim, const int64_t *shape, const char *format, ...) {
    entry *e = &f->entries[f->n++];
    *e = (entry){.tensor = {.dtype = FS_DTYPE_F32, .ndim = ndim, .shape = {1, 1, 1, 1, 1, 1}}};
    memcpy(e->tensor.shape, shape, (size_t)ndim * sizeof *shape);
    va_list args;
    va_start(args, format);
    vsnprintf(e->name, sizeof e->name, format, args);
    va_end(args);
    e->tensor.name = e->name;
}
#define ADD_1D(f, a, ...) add((f), 1, (const int64_t[]){(a)}, __VA_ARGS__)
#define ADD_2D(f, a, b, ...) add((f), 2, (const int64_t[]){(a), (b)}, __VA_ARGS__)
#define ADD_4D(f, a, b, d, e, ...) add((f), 4, (const int64_t[]){(a), (b), (d), (e)}, __VA_ARGS__)

static void add_linear(formula *f, int64_t out, int64_t in, const char *name) {
    ADD_2D(f, out, in, "%s.weight", name);
    ADD_1D(f, out, "%s.bias", name);
}
static void add_norm(formula *f, int64_t n, const char *name) {
    ADD_1D(f, n, "%s.weight", name);
    ADD_1D(f, n, "%s.bias", name);
}

static void fill(const formula *f, const char *name, fs_tensor *t) {
    const int64_t n = fs_tensor_count(t);
    fs_test_weight(name, (size_t)t->ndim, t->shape, t->data);
    if (f->plain) return;
    const bool table = strstr(name, "embed_tokens") || strstr(name, "pos_embed") || strstr(name, "position") || strstr(name, "rel_pos") ||
                       strstr(name, "token") || strstr(name, "no_mask") || strstr(name, "gaussian") || strstr(name, "upscaling") || strncmp(name, "input", 5) == 0;
    if (t->ndim >= 2 && !table) fs_heavy_tails(fs_f32(t), n, n / t->shape[0]);
    const bool norm = strstr(name, "norm") || strstr(name, "layrnorm");
    for (int64_t i = 77; norm && t->ndim == 1 && strstr(name, "weight") && i < n; i += 128) fs_f32(t)[i] *= 10;
}

static const fs_tensor *find(void *user, const char *name) {
    formula *f = user;
    for (size_t i = 0; i < f->n; i++) {
        fs_tensor *t = &f->entries[i].tensor;
        if (strcmp(f->entries[i].name, name) != 0) continue;
        if (!t->data) {
            if (!(t->data = fs_alloc((size_t)fs_tensor_count(t), sizeof(float)))) stop("out of memory for %s", name);
            fill(f, name, t);
        }
        return t;
    }
    return NULL;
}
static const char *origin(void *user, const char *name) { return (void)user, (void)name, "(formula)"; }

static formula *formula_create(const settings *s) {
    formula *f = fs_alloc_zero(1, sizeof *f);
    if (!f) stop("out of memory");
    f->plain = s->plain;
    return f;
}
static void formula_free(formula *f) {
    for (size_t i = 0; i < f->n; i++) free(f->entries[i].tensor.data);
    free(f);
}

static fs_tensor *input(fs_exec *c, const char *name, int ndim, const int64_t *shape) {
    fs_tensor *x = fs_new(c, ndim, shape);
    if (x) fs_test_weight(name, (size_t)ndim, shape, fs_f32(x));
    return x;
}
#define INPUT_2D(c, name, a, b) input((c), (name), 2, (const int64_t[]){(a), (b)})
#define INPUT_3D(c, name, a, b, d) input((c), (name), 3, (const int64_t[]){(a), (b), (d)})

/* ---- the networks ---- */

static void list_clip(formula *f) {
    static const struct { const char *name; int64_t out, in; } parts[] = {
        {"layer_norm1", 1024, 0},         {"self_attn.q_proj", 1024, 1024},   {"self_attn.k_proj", 1024, 1024}, {"self_attn.v_proj", 1024, 1024},
        {"self_attn.out_proj", 1024, 1024}, {"layer_norm2", 1024, 0},         {"mlp.fc1", 4096, 1024},          {"mlp.fc2", 1024, 4096},
    };
    ADD_1D(f, 1024, "vision_model.embeddings.class_embedding");
    ADD_4D(f, 1024, 3, 14, 14, "vision_model.embeddings.patch_embedding.weight");
    ADD_2D(f, 577, 1024, "vision_model.embeddings.position_embedding.weight");
    add_norm(f, 1024, "vision_model.pre_layrnorm");
    for (int i = 0; i < 24; i++)
        for (size_t k = 0; k < sizeof parts / sizeof parts[0]; k++) {
            char name[80];
            snprintf(name, sizeof name, "vision_model.encoder.layers.%d.%s", i, parts[k].name);
            if (parts[k].in) add_linear(f, parts[k].out, parts[k].in, name);
            else add_norm(f, parts[k].out, name);
        }
}

static numbers run_clip(const fs_tensor_source *source, int threads) {
    const fs_clip_config g = {.hidden = 1024, .intermediate = 4096, .layers = 24, .heads = 16, .image_size = 336, .patch_size = 14, .eps = 1e-5f};
    fs_clip m;
    fs_error err = {0};
    check(fs_clip_bind(&m, &g, source, "vision_model.", &err), &err);
    fs_exec c = begin_context(threads);
    fs_tensor *y = fs_clip_forward(&c, &m, INPUT_3D(&c, "input", 3, 336, 336), -2, NULL);
    check_context(&c);
    const numbers out = numbers_keep(y);
    fs_exec_end(&c);
    fs_clip_unbind(&m);
    return out;
}

static void list_projector(formula *f) {
    add_linear(f, 5120, 1024, "model.mm_projector.0");
    add_linear(f, 5120, 5120, "model.mm_projector.2");
}

static numbers run_projector(const fs_tensor_source *source, int threads) {
    fs_projector m;
    fs_error err = {0};
    check(fs_projector_bind(&m, 1024, 5120, source, "model.mm_projector.", &err), &err);
    fs_exec c = begin_context(threads);
    fs_tensor *x = INPUT_2D(&c, "input", 576, 1024);
    for (int64_t i = 77; x && i < 576 * 1024; i += 128) fs_f32(x)[i] *= 10;
    fs_tensor *y = fs_projector_forward(&c, &m, x);
    check_context(&c);
    const numbers out = numbers_keep(y);
    fs_exec_end(&c);
    return out;
}

static void list_seg(formula *f) {
    add_linear(f, 4096, 4096, "model.text_hidden_fcs.0.0");
    add_linear(f, 256, 4096, "model.text_hidden_fcs.0.2");
}

static numbers run_seg(const fs_tensor_source *source, int threads) {
    fs_seg_head m;
    fs_error err = {0};
    check(fs_seg_head_bind(&m, 4096, source, "model.text_hidden_fcs.0.", &err), &err);
    fs_exec c = begin_context(threads);
    fs_tensor *y = fs_seg_head_forward(&c, &m, INPUT_2D(&c, "input", 64, 4096));
    check_context(&c);
    const numbers out = numbers_keep(y);
    fs_exec_end(&c);
    return out;
}

static const fs_llama_config llama_13b = {.hidden = 5120, .intermediate = 13824, .layers = 1, .heads = 40, .kv_heads = 40, .vocab = 32, .eps = 1e-5f, .rope_theta = 10000};

static void list_llama(formula *f) {
    static const char *const square[] = {"q_proj", "k_proj", "v_proj", "o_proj"};
    const fs_llama_config g = llama_13b;
    for (int i = 0; i < 4; i++) ADD_2D(f, g.hidden, g.hidden, "model.layers.0.self_attn.%s.weight", square[i]);
    ADD_2D(f, g.intermediate, g.hidden, "model.layers.0.mlp.gate_proj.weight");
    ADD_2D(f, g.intermediate, g.hidden, "model.layers.0.mlp.up_proj.weight");
    ADD_2D(f, g.hidden, g.intermediate, "model.layers.0.mlp.down_proj.weight");
    ADD_1D(f, g.hidden, "model.layers.0.input_layernorm.weight");
    ADD_1D(f, g.hidden, "model.layers.0.post_attention_layernorm.weight");
    ADD_1D(f, g.hidden, "model.norm.weight");
    ADD_2D(f, g.vocab, g.hidden, "model.embed_tokens.weight");
    ADD_2D(f, g.vocab, g.hidden, "lm_head.weight");
}

/* What the layer adds to the residual stream: out less in, which the stream itself does not dilute. */
static numbers run_llama(const fs_tensor_source *source, int threads) {
    fs_llama m;
    fs_error err = {0};
    check(fs_llama_bind(&m, &llama_13b, source, "", &err), &err);
    fs_exec c = begin_context(threads);
    fs_tensor *x = INPUT_2D(&c, "input", 710, llama_13b.hidden), *taps[1] = {0};
    fs_llama_forward(&c, &m, NULL, x, taps);
    check_context(&c);
    const numbers out = numbers_keep(taps[0]);
    for (int64_t i = 0; i < out.rows * out.cols; i++) out.data[i] -= fs_f32(x)[i];
    fs_exec_end(&c);
    fs_llama_unbind(&m);
    return out;
}

static void list_sam(formula *f) {
    static const struct { const char *name; int64_t out, in; } parts[] = {
        {"norm1", 1280, 0}, {"attn.qkv", 3840, 1280}, {"attn.proj", 1280, 1280}, {"norm2", 1280, 0}, {"mlp.lin1", 5120, 1280}, {"mlp.lin2", 1280, 5120},
    };
    ADD_4D(f, 1280, 3, 16, 16, "image_encoder.patch_embed.proj.weight");
    ADD_1D(f, 1280, "image_encoder.patch_embed.proj.bias");
    ADD_4D(f, 1, 64, 64, 1280, "image_encoder.pos_embed");
    for (int i = 0; i < 32; i++) {
        for (size_t k = 0; k < sizeof parts / sizeof parts[0]; k++) {
            char name[80];
            snprintf(name, sizeof name, "image_encoder.blocks.%d.%s", i, parts[k].name);
            if (parts[k].in) add_linear(f, parts[k].out, parts[k].in, name);
            else add_norm(f, parts[k].out, name);
        }
        ADD_2D(f, i % 8 == 7 ? 127 : 27, 80, "image_encoder.blocks.%d.attn.rel_pos_h", i);
        ADD_2D(f, i % 8 == 7 ? 127 : 27, 80, "image_encoder.blocks.%d.attn.rel_pos_w", i);
    }
    ADD_4D(f, 256, 1280, 1, 1, "image_encoder.neck.0.weight");
    add_norm(f, 256, "image_encoder.neck.1");
    ADD_4D(f, 256, 256, 3, 3, "image_encoder.neck.2.weight");
    add_norm(f, 256, "image_encoder.neck.3");
}

static numbers run_sam(const fs_tensor_source *source, int threads) {
    fs_sam_encoder m;
    fs_error err = {0};
    check(fs_sam_encoder_bind(&m, source, "image_encoder.", &err), &err);
    fs_exec c = begin_context(threads);
    fs_tensor *y = fs_sam_encoder_forward(&c, &m, INPUT_3D(&c, "input", 3, 1024, 1024), NULL);
    check_context(&c);
    const numbers out = numbers_keep(y);
    fs_exec_end(&c);
    fs_sam_encoder_unbind(&m);
    return out;
}

static void add_attention(formula *f, int64_t inner, const char *prefix) {
    static const char *const parts[4] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    for (int i = 0; i < 4; i++) {
        char name[96];
        snprintf(name, sizeof name, "mask_decoder.transformer.%.40s.%s", prefix, parts[i]);
        if (i < 3) add_linear(f, inner, 256, name);
        else add_linear(f, 256, inner, name);
    }
}

static void list_decoder(formula *f) {
    char name[80];
    ADD_2D(f, 2, 128, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix");
    ADD_2D(f, 1, 256, "prompt_encoder.no_mask_embed.weight");
    ADD_2D(f, 1, 256, "mask_decoder.iou_token.weight");
    ADD_2D(f, 4, 256, "mask_decoder.mask_tokens.weight");
    for (int i = 0; i < 2; i++) {
        static const struct { const char *name; int64_t inner; } attention[] = {{"self_attn", 256}, {"cross_attn_token_to_image", 128}, {"cross_attn_image_to_token", 128}};
        for (int k = 0; k < 3; k++) {
            snprintf(name, sizeof name, "layers.%d.%s", i, attention[k].name);
            add_attention(f, attention[k].inner, name);
        }
        for (int k = 1; k <= 4; k++) {
            snprintf(name, sizeof name, "mask_decoder.transformer.layers.%d.norm%d", i, k);
            add_norm(f, 256, name);
        }
        snprintf(name, sizeof name, "mask_decoder.transformer.layers.%d.mlp.lin1", i);
        add_linear(f, 2048, 256, name);
        snprintf(name, sizeof name, "mask_decoder.transformer.layers.%d.mlp.lin2", i);
        add_linear(f, 256, 2048, name);
    }
    add_attention(f, 128, "final_attn_token_to_image");
    add_norm(f, 256, "mask_decoder.transformer.norm_final_attn");
    ADD_4D(f, 256, 64, 2, 2, "mask_decoder.output_upscaling.0.weight");
    ADD_1D(f, 64, "mask_decoder.output_upscaling.0.bias");
    add_norm(f, 64, "mask_decoder.output_upscaling.1");
    ADD_4D(f, 64, 32, 2, 2, "mask_decoder.output_upscaling.3.weight");
    ADD_1D(f, 32, "mask_decoder.output_upscaling.3.bias");
    add_linear(f, 256, 256, "mask_decoder.output_hypernetworks_mlps.0.layers.0");
    add_linear(f, 256, 256, "mask_decoder.output_hypernetworks_mlps.0.layers.1");
    add_linear(f, 32, 256, "mask_decoder.output_hypernetworks_mlps.0.layers.2");
}

/* Mask logits [256, 256] of an encoder's result (NULL: noise) and a [SEG] of noise. */
static numbers decode(const fs_tensor_source *source, const numbers *image, int threads) {
    fs_sam_prompt prompt;
    fs_sam_decoder m;
    fs_error err = {0};
    check(fs_sam_prompt_bind(&prompt, source, "prompt_encoder.", &err), &err);
    check(fs_sam_decoder_bind(&m, source, "mask_decoder.", &err), &err);
    fs_exec c = begin_context(threads);
    fs_tensor *x = image ? fs_wrap(&c, FS_DTYPE_F32, 3, (const int64_t[]){256, 64, 64}, image->data) : INPUT_3D(&c, "input", 256, 64, 64);
    fs_tensor *y = fs_sam_decoder_forward(&c, &m, x, fs_sam_dense_pe(&c, &prompt, 64, false), prompt.no_mask, INPUT_2D(&c, "input.text", 1, 256));
    check_context(&c);
    const numbers out = numbers_keep(y);
    fs_exec_end(&c);
    fs_sam_decoder_unbind(&m);
    return out;
}

static numbers run_decoder(const fs_tensor_source *source, int threads) { return decode(source, NULL, threads); }

static void list_resnet(formula *f) {
    static const int blocks[4] = {3, 4, 6, 3};
    int64_t in = 64;
    char at[32], name[80];
#define ADD_BN(n, c)                          \
    do {                                      \
        add_norm(f, (c), (n));                \
        ADD_1D(f, (c), "%s.running_mean", (n)); \
        ADD_1D(f, (c), "%s.running_var", (n)); \
    } while (0)
    ADD_4D(f, 64, 3, 7, 7, "conv1.weight");
    ADD_BN("bn1", 64);
    for (int s = 0; s < 4; s++)
        for (int b = 0; b < blocks[s]; b++) {
            const int64_t w = 64 << s, widths[4] = {in, w, w, 4 * w};
            snprintf(at, sizeof at, "layer%d.%d", s + 1, b);
            for (int k = 1; k <= 3; k++) {
                ADD_4D(f, widths[k], widths[k - 1], k == 2 ? 3 : 1, k == 2 ? 3 : 1, "%s.conv%d.weight", at, k);
                snprintf(name, sizeof name, "%s.bn%d", at, k);
                ADD_BN(name, widths[k]);
            }
            if (b == 0) {
                ADD_4D(f, 4 * w, in, 1, 1, "%s.downsample.0.weight", at);
                snprintf(name, sizeof name, "%s.downsample.1", at);
                ADD_BN(name, 4 * w);
            }
            in = 4 * w;
        }
    add_linear(f, 3, 2048, "fc");
}

static numbers run_resnet(const fs_tensor_source *source, int threads) {
    fs_resnet m;
    fs_error err = {0};
    check(fs_resnet_bind(&m, source, "", &err), &err);
    fs_exec c = begin_context(threads);
    fs_tensor *y = fs_resnet_forward(&c, &m, INPUT_3D(&c, "input", 3, 224, 224), NULL);
    check_context(&c);
    const numbers out = numbers_keep(y);
    fs_exec_end(&c);
    fs_resnet_unbind(&m);
    return out;
}

/* ---- measuring ---- */

typedef struct role { const char *label, *words[6]; } role;
typedef struct network {
    const char *name, *title;
    void (*list)(formula *f);
    numbers (*run)(const fs_tensor_source *source, int threads);
    role all;       /* its linear layers */
    role roles[9];  /* one kind of them each */
} network;

static const network networks[] = {
    {"resnet", "ResNet-50", list_resnet, run_resnet, {"all", {"conv", "downsample.0", "fc."}}, {{0}}},
    {"clip", "CLIP ViT-L/14-336", list_clip, run_clip, {"all", {"encoder.layers"}},
     {{"q", {"q_proj"}}, {"k", {"k_proj"}}, {"v", {"v_proj"}}, {"out", {"out_proj"}}, {"fc1", {"fc1"}}, {"fc2", {"fc2"}}}},
    {"projector", "projector 1024-5120", list_projector, run_projector, {"all", {"mm_projector"}}, {{"0", {"projector.0"}}, {"2", {"projector.2"}}}},
    {"llama", "one layer of 13B", list_llama, run_llama, {"all", {"proj"}},
     {{"attn_q", {"q_proj"}}, {"attn_k", {"k_proj"}}, {"attn_v", {"v_proj"}}, {"attn_output", {"o_proj"}}, {"ffn_gate", {"gate_proj"}}, {"ffn_up", {"up_proj"}},
      {"ffn_down", {"down_proj"}}}},
    {"sam", "SAM ViT-H encoder", list_sam, run_sam, {"all", {"attn.qkv", "attn.proj", "mlp."}},
     {{"qkv", {"attn.qkv"}}, {"proj", {"attn.proj"}}, {"lin1", {"lin1"}}, {"lin2", {"lin2"}}, {"mlp", {"mlp."}}}},
    {"decoder", "SAM mask decoder", list_decoder, run_decoder, {"all", {"_proj.", "mlp.", "hypernetworks"}},
     {{"attention", {"_proj."}}, {"mlp", {"mlp."}}, {"hyper", {"hypernetworks"}}}},
    {"seg", "[SEG] head of 7B", list_seg, run_seg, {"all", {"text_hidden"}}, {{0}}},
};

typedef struct session { const network *n; const settings *s; formula *weights, *decoder; numbers expected, mask; float threshold; } session;

static int ascending(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Random decoders make masks that are nearly empty or full; cut at the reference's median they have the most edge a mask can have. */
static void halve(session *k) {
    float *sorted = numbers_keep(&(fs_tensor){.ndim = 2, .shape = {k->mask.rows, k->mask.cols}, .data = k->mask.data}).data;
    const int64_t n = k->mask.rows * k->mask.cols;
    qsort(sorted, (size_t)n, sizeof *sorted, ascending);
    k->threshold = sorted[n / 2];
    free(sorted);
    for (int64_t i = 0; i < n; i++) k->mask.data[i] -= k->threshold;
}

static numbers run(const session *k, const variant *v) {
    fs_tensor_source inner = {k->weights, find, origin};
    stored *s = stored_create(&inner, k->n->name, v, k->s->threads);
    fs_tensor_source source = stored_source(s);
    const numbers y = k->n->run(&source, k->s->threads);
    stored_free(s);
    return y;
}

static numbers mask_of(const session *k, const numbers *image) {
    fs_tensor_source source = {k->decoder, find, origin};
    return decode(&source, image, k->s->threads);
}

static void report(session *k, const variant *v, const numbers *y, const numbers *against) {
    distance d = {0};
    distance_add(&d, y, against);
    printf("%-22s %-18s %9.4f", k->n->title, v->name, 100 * distance_relative(&d));
    if (k->decoder && against == &k->expected) {
        overlap o = {0};
        numbers mask = mask_of(k, y);
        for (int64_t i = 0; i < mask.rows * mask.cols; i++) mask.data[i] -= k->threshold;
        overlap_add(&o, &mask, &k->mask);
        numbers_free(&mask);
        printf("   mask cut in halves: IoU %.4f, %.3f %% of pixels changed", (double)o.both / (double)o.either, 100 * (double)o.changed / (double)o.pixels);
    }
    putchar('\n');
    fflush(stdout);
}

static void measure(session *k, const role *r, fs_dtype type, bool exact) {
    variant v = {.choose = choose_role, .in = r->words, .as = type, .exact = exact};
    snprintf(v.name, sizeof v.name, "%s %s", r->label, fs_dtype_name(type));
    numbers y = run(k, &v);
    report(k, &v, &y, &k->expected);
    numbers_free(&y);
}

bool measure_full(const char *name, const settings *s) {
    fs_dtype types[8];
    size_t n_types = 0;
    for (size_t i = 0; i < s->n_types && n_types < 8; i++) /* "mixed" is a table over a whole model */
        n_types += fs_storage_from_name(s->types[i], &types[n_types]);
    session k = {.s = s};
    for (size_t i = 0; i < sizeof networks / sizeof networks[0]; i++)
        if (strcmp(networks[i].name, name) == 0) k.n = &networks[i];
    if (!k.n) return false;
    k.weights = formula_create(s);
    k.n->list(k.weights);
    printf("%-22s %-18s %9s\n", "network", "weights", "rel.err %");
    k.expected = run(&k, &(variant){.name = "reference"});
    if (strcmp(name, "sam") == 0) {
        k.decoder = formula_create(s);
        list_decoder(k.decoder);
        k.mask = mask_of(&k, &k.expected);
        halve(&k);
    }
    for (size_t t = 0; t < n_types; t++) {
        const bool convolutions = strcmp(name, "resnet") == 0;
        if (!convolutions || fs_dtype_block(types[t]) == 1) measure(&k, &k.n->all, types[t], convolutions);
    }
    if (strcmp(name, "resnet") != 0) { /* 8 bits of the activations alone */
        variant exact = {.name = "Q8_0, floats", .choose = choose_role, .in = k.n->all.words, .as = FS_DTYPE_Q8_0, .exact = true}, packed = exact;
        packed.exact = false;
        snprintf(packed.name, sizeof packed.name, "activations alone");
        numbers a = run(&k, &exact), b = run(&k, &packed);
        report(&k, &exact, &a, &k.expected);
        report(&k, &packed, &b, &a);
        numbers_free(&a);
        numbers_free(&b);
    }
    for (size_t t = 0; t < n_types && s->roles; t++)
        for (size_t i = 0; i < 9 && k.n->roles[i].label; i++)
            if (fs_dtype_block(types[t]) > 1) measure(&k, &k.n->roles[i], types[t], false);
    numbers_free(&k.expected);
    numbers_free(&k.mask);
    formula_free(k.weights);
    if (k.decoder) formula_free(k.decoder);
    return true;
}
