/* SAM's image encoder begun with what CLIP's tower has learnt, for models of our own in which both have one shape: what tells an edited patch from its
 * neighbours is learnt once and not twice.
 *
 * Both are pre-norm transformers over the same patches. q, k and v, which SAM has in one matrix, are put below each other; relative positions begin at
 * zero, which is none. CLIP's norm in front of its first layer has no counterpart: what of it is linear (taking away the mean, the scale of each channel)
 * goes into the patch and position embeddings, the division by the deviation does not, so the first steps have something to mend; and there is no class
 * token to attend to. */
#include <string.h>

#include "train/trainee.h"

typedef struct copier { const char *what; fs_status status; fs_error *err; } copier;

/* The numbers of `from` into those of `to` at row `at` (of rows as wide as a weight's input). to: trained. */
static void put(copier *k, const fs_tensor *to, const fs_tensor *from, int64_t at) {
    if (k->status) return;
    const int64_t n = from ? fs_tensor_count(from) : 0, room = to ? fs_tensor_count(to) : 0;
    if (!from || !to || !to->node || from->dtype != FS_DTYPE_F32 || to->dtype != FS_DTYPE_F32 || at + n > room) {
        k->status = fs_fail(k->err, FS_E_MISMATCH,
                            "training: SAM's encoder cannot begin with CLIP's tower: %s differ in shape, are not f32 or not trained; both need the same width, heads, patches, "
                            "stem and MLP, SAM as many blocks as CLIP has layers less one, all of them global, and CLIP GELU",
                            k->what);
        return;
    }
    memcpy((float *)to->data + at, from->data, (size_t)n * sizeof(float));
}

static void put_whole(copier *k, const fs_tensor *to, const fs_tensor *from) {
    if (!to != !from || (to && fs_tensor_count(to) != fs_tensor_count(from))) from = NULL;
    if (to || from) put(k, to, from, 0);
}

static void put_pair(copier *k, const fs_affine *to, const fs_affine *from) {
    put_whole(k, to->w, from->w);
    put_whole(k, to->b, from->b);
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

fs_status fs_trainee_sam_from_clip(fs_trainee *t, fs_error *err) {
    const fs_clip *clip = t->parts.clip;
    const fs_sam_encoder *sam = t->parts.sam;
    copier k = {.what = "sizes", .err = err};
    const int64_t C = sam->embed, patches = sam->grid * sam->grid;
    bool same = clip->config.hidden == C && clip->config.heads == sam->heads && clip->n_layers == sam->depth && clip->config.patch_size == sam->patch &&
                clip->config.image_size == sam->image_size && clip->config.activation == FS_ACT_GELU;
    for (int64_t i = 0; i < sam->depth; i++) same = same && sam->blocks[i].global;
    if (!same) put(&k, NULL, NULL, 0);
    k.what = "the stems";
    for (int i = 0; i < FS_STEM_LAYERS && !k.status; i++) {
        put_pair(&k, &sam->stem.conv[i], &clip->stem.conv[i]);
        put_pair(&k, &sam->stem.norm[i], &clip->stem.norm[i]);
    }
    k.what = "the patch embeddings";
    put_whole(&k, sam->patch_embed.w, clip->patch_embedding);
    const fs_tensor *position = clip->position_embedding, tail = {.dtype = position->dtype, .ndim = 2, .shape = {patches, C}, .data = (float *)position->data + C};
    put_whole(&k, sam->pos_embed, position->shape[0] == patches + 1 ? &tail : NULL);
    for (int64_t i = 0; i < sam->depth && !k.status; i++) {
        const fs_sam_block *to = &sam->blocks[i];
        const fs_clip_layer *from = &clip->layers[i];
        const fs_affine *qkv[] = {&from->q, &from->k, &from->v};
        k.what = "the blocks";
        put_pair(&k, &to->norm1, &from->norm1);
        for (int j = 0; j < 3; j++) {
            put(&k, to->qkv.w, qkv[j]->w, j * C * C);
            put(&k, to->qkv.b, qkv[j]->b, j * C);
        }
        put_pair(&k, &to->proj, &from->out);
        put_pair(&k, &to->norm2, &from->norm2);
        put_pair(&k, &to->lin1, &from->fc1);
        put_pair(&k, &to->lin2, &from->fc2);
        if (!k.status) zero(to->rel_h), zero(to->rel_w);
    }
    k.what = "the norms";
    if (!k.status && (clip->pre_norm.w->dtype != FS_DTYPE_F32 || clip->pre_norm.b->dtype != FS_DTYPE_F32)) put(&k, NULL, NULL, 0);
    if (k.status) return k.status;
    const float *scale = fs_f32(clip->pre_norm.w);
    const int64_t inputs = fs_tensor_count(sam->patch_embed.w) / C;
    fold(fs_f32(sam->patch_embed.w), C, inputs, inputs, 1, scale);
    fold(fs_f32(sam->pos_embed), C, patches, 1, C, scale);
    memcpy(sam->patch_embed.b->data, clip->pre_norm.b->data, (size_t)C * sizeof(float));
    return FS_OK;
}
