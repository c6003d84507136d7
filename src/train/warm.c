/* Networks that begin with what others have learnt, for models of our own: what tells an edited patch from its neighbours is learnt once and not twice.
 *
 * From a model of the same kind (another size of pictures, say): every tensor of the same name and shape. A stem whose second convolution is of 4 x 4, and
 * so halves the picture, takes one of 3 x 3 that does not: a row and a column of zeros make it the same sum of the same points, of pictures twice as fine.
 *
 * Blocks behind the last that the other has begin with adding nothing (their branches end in zeros), so a deeper model computes what the other did and
 * goes on from there (Chen et al., "Net2Net", 2016). So do residual blocks of a stem, always.
 *
 * Between CLIP's tower and SAM's encoder of one shape: both are pre-norm transformers over the same patches. q, k and v, which SAM has in one matrix, are
 * below each other there. CLIP's norm in front of its first layer has no counterpart: what of it is linear (taking away the mean, the scale of each
 * channel) is folded into SAM's patch and position embeddings, and taken out of them on the way back; the division by the deviation is not, so the first
 * steps have something to mend. SAM's relative positions begin at zero, which is none, and are lost on the way back; it has no class token to attend to. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "train/trainee.h"

typedef struct copier { const char *what; bool to_clip; fs_status status; fs_error *err; } copier;

/* Numbers of `clip` and those of `sam` from row `at` of it on (rows as wide as a weight's input), one into the other. */
static void put(copier *k, const fs_tensor *sam, const fs_tensor *clip, int64_t at) {
    if (k->status) return;
    const int64_t n = clip ? fs_tensor_count(clip) : 0, room = sam ? fs_tensor_count(sam) : 0;
    if (!clip || !sam || clip->dtype != FS_DTYPE_F32 || sam->dtype != FS_DTYPE_F32 || at + n > room) {
        k->status = fs_fail(k->err, FS_E_MISMATCH,
                            "training: one of SAM's encoder and CLIP's tower cannot begin with the other: %s differ in shape, or are not f32; both need the same width, heads, "
                            "patches, stem and MLP, SAM as many blocks as CLIP has layers less one, all of them global, and CLIP GELU",
                            k->what);
        return;
    }
    float *here = (float *)sam->data + at, *there = clip->data;
    memcpy(k->to_clip ? there : here, k->to_clip ? here : there, (size_t)n * sizeof(float));
}

static void put_whole(copier *k, const fs_tensor *sam, const fs_tensor *clip) {
    if (!sam != !clip || (sam && fs_tensor_count(sam) != fs_tensor_count(clip))) clip = NULL;
    if (sam || clip) put(k, sam, clip, 0);
}

static void put_pair(copier *k, const fs_affine *sam, const fs_affine *clip) {
    put_whole(k, sam->w, clip->w);
    put_whole(k, sam->b, clip->b);
}

static void zero(const fs_tensor *t) { memset(t->data, 0, (size_t)fs_tensor_count(t) * sizeof(float)); }

/* items vectors of C numbers, number c of vector i at x[c * channel + i * item]: each less its mean, times the norm's scale. */
static void fold(float *x, int64_t C, int64_t items, int64_t channel, int64_t item, const float *scale) {
    for (int64_t i = 0; i < items; i++) {
        double mean = 0;
        for (int64_t c = 0; c < C; c++) mean += (double)x[c * channel + i * item];
        mean /= (double)C;
        for (int64_t c = 0; c < C; c++) x[c * channel + i * item] = scale[c] * (x[c * channel + i * item] - (float)mean);
    }
}

/* The same back, but for the mean: (number + what is added to its channel) / scale. more: NULL = nothing. */
static void unfold(float *x, int64_t C, int64_t items, int64_t channel, int64_t item, const float *scale, const float *more, const float *less) {
    enum { SMALLEST = 20 }; /* 1 / of the scale: a channel that the norm all but puts out is not blown up */
    for (int64_t c = 0; c < C; c++) {
        const float s = scale[c] < 0 ? -1 : 1, by = s * fmaxf(s * scale[c], 1.0f / SMALLEST), add = more ? more[c] - less[c] : 0;
        for (int64_t i = 0; i < items; i++) x[c * channel + i * item] = (x[c * channel + i * item] + add) / by;
    }
}

/* SAM's encoder and CLIP's tower, one from the other; what is changed is f32 and may be written. */
static fs_status exchange(const fs_sam_encoder *sam, const fs_clip *clip, bool to_clip, fs_error *err) {
    copier k = {.what = "sizes", .to_clip = to_clip, .err = err};
    const int64_t C = sam->embed, patches = sam->grid * sam->grid;
    bool same = clip->config.hidden == C && clip->config.heads == sam->heads && clip->n_layers == sam->depth && clip->config.patch_size == sam->patch &&
                clip->config.image_size == sam->image_size && clip->config.activation == FS_ACT_GELU;
    for (int64_t i = 0; i < sam->depth; i++) same = same && sam->blocks[i].global;
    if (!same) put(&k, NULL, NULL, 0);
    k.what = "the stems";
    for (int i = 0; i < FS_STEM_LAYERS && !k.status; i++) {
        put_pair(&k, &sam->stem.conv[i], &clip->stem.conv[i]);
        put_pair(&k, &sam->stem.norm[i], &clip->stem.norm[i]);
        if (sam->stem.n_blocks[i] != clip->stem.n_blocks[i]) put(&k, NULL, NULL, 0);
        for (int j = 0; j < sam->stem.n_blocks[i] && !k.status; j++) {
            const fs_stem_block *in_sam = &sam->stem.block[i][j], *in_clip = &clip->stem.block[i][j];
            put_pair(&k, &in_sam->norm, &in_clip->norm);
            for (int c = 0; c < 2; c++) put_pair(&k, &in_sam->conv[c], &in_clip->conv[c]);
        }
    }
    k.what = "the patch embeddings";
    put_whole(&k, sam->patch_embed.w, clip->patch_embedding);
    const fs_tensor *position = clip->position_embedding, tail = {.dtype = position->dtype, .ndim = 2, .shape = {patches, C}, .data = (float *)position->data + C};
    put_whole(&k, sam->pos_embed, position->shape[0] == patches + 1 ? &tail : NULL);
    for (int64_t i = 0; i < sam->depth && !k.status; i++) {
        const fs_sam_block *block = &sam->blocks[i];
        const fs_clip_layer *layer = &clip->layers[i];
        const fs_affine *qkv[] = {&layer->q, &layer->k, &layer->v};
        k.what = "the blocks";
        put_pair(&k, &block->norm1, &layer->norm1);
        for (int j = 0; j < 3; j++) {
            put(&k, block->qkv.w, qkv[j]->w, j * C * C);
            put(&k, block->qkv.b, qkv[j]->b, j * C);
        }
        put_pair(&k, &block->proj, &layer->out);
        put_pair(&k, &block->norm2, &layer->norm2);
        put_pair(&k, &block->lin1, &layer->fc1);
        put_pair(&k, &block->lin2, &layer->fc2);
        if (!k.status && !to_clip) zero(block->rel_h), zero(block->rel_w);
    }
    k.what = "the norms";
    if (!k.status && (clip->pre_norm.w->dtype != FS_DTYPE_F32 || clip->pre_norm.b->dtype != FS_DTYPE_F32)) put(&k, NULL, NULL, 0);
    if (k.status) return k.status;
    const float *scale = fs_f32(clip->pre_norm.w);
    const int64_t inputs = fs_tensor_count(sam->patch_embed.w) / C;
    if (to_clip) {
        unfold(fs_f32(clip->patch_embedding), C, inputs, inputs, 1, scale, NULL, NULL);
        unfold(tail.data, C, patches, 1, C, scale, fs_f32(sam->patch_embed.b), fs_f32(clip->pre_norm.b));
        return FS_OK;
    }
    fold(fs_f32(sam->patch_embed.w), C, inputs, inputs, 1, scale);
    fold(fs_f32(sam->pos_embed), C, patches, 1, C, scale);
    memcpy(sam->patch_embed.b->data, clip->pre_norm.b->data, (size_t)C * sizeof(float));
    return FS_OK;
}

static fs_status untrained(const char *what, const char *freeze, fs_error *err) {
    return fs_fail(err, FS_E_USAGE, "training: %s is to begin with other weights, but is not trained (--freeze %s)", what, freeze);
}

fs_status fs_trainee_sam_from_clip(fs_trainee *t, fs_error *err) {
    const fs_sam_encoder *sam = t->parts.sam;
    return sam->pos_embed->node ? exchange(sam, t->parts.clip, false, err) : untrained("SAM's encoder", "sam", err);
}

/* The numbers of `from` as `to` begins with them; false if they do not fit. */
static bool take(fs_param *to, const fs_param *from) {
    const int64_t *s = to->tensor.shape, *f = from->tensor.shape;
    const bool stem = to->tensor.ndim == 4 && from->tensor.ndim == 4 && strstr(to->name, "stem.1.conv.weight") && s[0] == f[0] && s[1] == f[1] && s[2] == FS_STEM_HALVING &&
                      s[3] == s[2] && f[2] == 3 && f[3] == 3;
    if (stem) {
        memset(to->data, 0, (size_t)to->count * sizeof *to->data);
        for (int64_t i = 0; i < s[0] * s[1] * 9; i++) to->data[i / 9 * s[2] * s[3] + i % 9 / 3 * s[3] + i % 3] = from->data[i];
        return true;
    }
    if (to->tensor.ndim != from->tensor.ndim || memcmp(s, f, (size_t)to->tensor.ndim * sizeof *s) != 0) return false;
    memcpy(to->data, from->data, (size_t)to->count * sizeof *to->data);
    return true;
}

/* Is `name` what the last layer of a residual branch is called, of a block that `from` has fewer of? Then the block is to begin with adding nothing. */
static bool ends_a_new_block(const fs_params *from, const char *name) {
    static const char *const stacks[] = {".blocks.", ".layers."}, *const ends[] = {".attn.proj.", ".mlp.lin2.", ".self_attn.out_proj.", ".mlp.fc2.", ".self_attn.o_proj.", ".mlp.down_proj."};
    char first[256];
    for (size_t i = 0; i < sizeof stacks / sizeof *stacks; i++) {
        const char *at = strstr(name, stacks[i]);
        const char *number = at ? at + strlen(stacks[i]) : NULL, *rest = number ? number + strspn(number, "0123456789") : NULL;
        if (!at || rest == number) continue;
        snprintf(first, sizeof first, "%.*s0%s", (int)(number - name), name, rest);
        for (size_t k = 0; k < sizeof ends / sizeof *ends; k++)
            if (strncmp(rest, ends[k], strlen(ends[k])) == 0) return fs_params_find(from, first) != NULL;
    }
    return false;
}

fs_status fs_trainee_begin_with(fs_trainee *t, fs_error *err) {
    static const char tower[] = "vision_model.";
    fs_train_options o = *t->options;
    const bool from_sam = o.clip_from_sam;
    size_t taken = 0;
    fs_trainee other;
    o.model_dir = o.begin_with;
    o.recipe = from_sam ? FS_RECIPE_MFLM : o.recipe;
    o.begin_with = o.freeze = o.from_scratch = NULL;
    o.clip_from_sam = o.sam_from_clip = false;
    o.all_weights = true;
    o.dense_weight = 0;
    if (from_sam && !t->parts.clip->position_embedding->node) return untrained("CLIP's tower", "clip", err);
    fs_status status = fs_trainee_open(&other, &o, err);
    for (size_t i = 0; i < t->params.count && !status; i++) {
        fs_param *p = t->params.list[i];
        if (from_sam && strncmp(p->name, tower, sizeof tower - 1) != 0) continue; /* the other stage's language model has the same names */
        const fs_param *q = fs_params_find(&other.params, p->name);
        taken += q && take(p, q);
        if (!q && ends_a_new_block(&other.params, p->name)) memset(p->data, 0, (size_t)p->count * sizeof *p->data);
    }
    if (!status && !taken)
        status = fs_fail(err, FS_E_MISMATCH, "training: nothing of %s has the name and the shape of anything that is trained here; give a model of the same kind", o.model_dir);
    if (!status && from_sam) status = exchange(other.parts.sam, t->parts.clip, true, err);
    if (!status) fs_log(&t->options->base.callbacks, FS_LOG_INFO, "training: %zu of %zu tensors begin as in %s%s", taken, t->params.count, o.model_dir, from_sam ? ", CLIP as its SAM" : "");
    fs_trainee_close(&other);
    return status;
}
