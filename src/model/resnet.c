/* ResNet-50 v1.5 (He et al. 2015; the strides of torchvision's resnet.py), the domain tag generator: a picture of 224 x 224 -> one
 * logit for each of "AIGC inpainting", "DeepFake", "Photoshop".
 *
 * Stem: 7x7/2 convolution, batch norm, ReLU, 3x3/2 max pooling. Then four stages of bottlenecks (1x1, 3x3, 1x1), each convolution
 * followed by batch norm; v1.5 means that the stride of a stage sits in the 3x3 convolution of its first block. Last the mean over the
 * picture and a linear layer. Widths and depths come from the tensors: any ResNet built of bottlenecks works. */
#include "model/parts.h"

#include <stdlib.h>

enum { STAGES = 4, KERNELS = 4 /* of a block, the shortcut's last */ };
static const float BN_EPS = 1e-5f, BN_MOMENTUM = 0.1f;

static fs_batch_stats bind_stats(fs_binder *b, int64_t channels, const char *name) {
    fs_batch_stats s;
    s.w = fs_bind_1d(b, channels, "%s.weight", name);
    s.b = fs_bind_1d(b, channels, "%s.bias", name);
    s.mean = fs_bind_1d(b, channels, "%s.running_mean", name);
    s.var = fs_bind_1d(b, channels, "%s.running_var", name);
    return s;
}

/* Block `index` of stage `stage` (from 0), which gets `in` channels. Returns the channels it gives, 0 on failure. */
static int64_t bind_block(fs_binder *b, fs_resnet_block *block, int stage, int index, int64_t in) {
    char at[64], name[96];
    snprintf(at, sizeof at, "layer%d.%d", stage + 1, index);
    block->conv[0] = fs_bind_kernel(b, -1, in, 1, "%s.conv1", at);
    int64_t width = fs_dim(block->conv[0], 0);
    block->conv[1] = fs_bind_kernel(b, width, width, 3, "%s.conv2", at);
    block->conv[2] = fs_bind_kernel(b, -1, width, 1, "%s.conv3", at);
    int64_t out = fs_dim(block->conv[2], 0);
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s.bn%d", at, i + 1);
        block->bn[i] = bind_stats(b, i < 2 ? width : out, name);
    }
    /* The shortcut is projected wherever the block changes the shape of its input. */
    if (index == 0 && (stage > 0 || in != out || fs_binder_has(b, "%s.downsample.0.weight", at))) {
        block->down = fs_bind_kernel(b, out, in, 1, "%s.downsample.0", at);
        snprintf(name, sizeof name, "%s.downsample.1", at);
        block->down_bn = bind_stats(b, out, name);
    } else if (!b->status && out != in) {
        snprintf(name, sizeof name, "%s.conv3.weight", at);
        fs_bind_fail(b, name, "expected %lld output channels, as many as the block's input, found %lld", (long long)in, (long long)out);
    }
    return b->status ? 0 : out;
}

fs_status fs_resnet_bind(fs_resnet *m, const fs_tensor_source *source, const char *prefix, fs_error *err) {
    *m = (fs_resnet){0};
    fs_binder b = {.source = source, .prefix = prefix, .err = err};
    m->stem = fs_bind_kernel(&b, -1, 3, 7, "conv1");
    m->stem_bn = bind_stats(&b, fs_dim(m->stem, 0), "bn1");
    if (b.status) return b.status;
    size_t total = 0;
    for (int s = 0; s < STAGES; s++) {
        char before[16];
        snprintf(before, sizeof before, "layer%d.", s + 1);
        m->n_blocks[s] = fs_bind_count(&b, before, ".conv1.weight");
        if (m->n_blocks[s] == 0) m->n_blocks[s] = 1; /* binding it below says what is missing */
        total += (size_t)m->n_blocks[s];
    }
    m->blocks = fs_alloc_zero(total, sizeof *m->blocks);
    if (!m->blocks) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for the weight table of a ResNet of %zu blocks", total);
    int64_t channels = m->stem->shape[0];
    fs_resnet_block *block = m->blocks;
    for (int s = 0; s < STAGES && !b.status; s++)
        for (int i = 0; i < m->n_blocks[s] && !b.status; i++) channels = bind_block(&b, block++, s, i, channels);
    m->fc = fs_bind_affine(&b, -1, channels, "fc");
    m->classes = (int)fs_dim(m->fc.w, 0);
    if (b.status) fs_resnet_unbind(m);
    return b.status;
}

static int64_t blocks_of(const fs_resnet *m) { return (int64_t)m->n_blocks[0] + m->n_blocks[1] + m->n_blocks[2] + m->n_blocks[3]; }

void fs_resnet_keep(fs_resnet *m) {
    if (!m->forms) m->forms = fs_alloc_zero((size_t)(1 + KERNELS * blocks_of(m)), sizeof *m->forms);
}

void fs_resnet_unbind(fs_resnet *m) {
    if (!m) return;
    for (int64_t i = 0; m->forms && i < 1 + KERNELS * blocks_of(m); i++) fs_conv_form_free(&m->forms[i]);
    free(m->forms);
    free(m->blocks);
    *m = (fs_resnet){0};
}

/* Convolution, batch norm, + shortcut if there is one, ReLU if wanted. */
static fs_tensor *conv(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_batch_stats *s, int stride, int pad, const fs_tensor *shortcut,
                       bool relu, fs_conv_form *form) {
    if (c->tape) { /* step by step, as training differentiates it */
        fs_tensor *h = fs_batch_norm(c, fs_conv2d(c, x, w, NULL, stride, pad), s->w, s->b, s->mean, s->var, BN_EPS);
        if (shortcut) h = fs_add(c, h, shortcut);
        return relu ? fs_relu(c, h) : h;
    }
    return fs_conv2d_norm_kept(c, x, w, &(fs_batch){s->w, s->b, s->mean, s->var, BN_EPS}, stride, pad, shortcut, relu, form);
}

/* x: [in, H, W] -> [out, H/stride, W/stride]. forms: of the block's kernels, or NULL. */
static fs_tensor *bottleneck(fs_exec *c, const fs_resnet_block *block, fs_conv_form *forms, const fs_tensor *x, int stride) {
    fs_conv_form *const form[KERNELS] = {forms, forms ? forms + 1 : NULL, forms ? forms + 2 : NULL, forms ? forms + 3 : NULL};
    const fs_tensor *shortcut = x;
    if (block->down) shortcut = conv(c, x, block->down, &block->down_bn, stride, 0, NULL, false, form[3]);      /* [out, H', W'] */
    if (!shortcut) return NULL;
    fs_tensor *h = conv(c, x, block->conv[0], &block->bn[0], 1, 0, NULL, true, form[0]);                        /* [w, H, W] */
    h = conv(c, h, block->conv[1], &block->bn[1], stride, 1, NULL, true, form[1]);                              /* [w, H', W'] */
    return conv(c, h, block->conv[2], &block->bn[2], 1, 0, shortcut, true, form[2]);                            /* [out, H', W'] */
}

static fs_conv_form *form_of(const fs_resnet *m, const fs_resnet_block *block) {
    return m->forms ? m->forms + 1 + KERNELS * (block - m->blocks) : NULL;
}

fs_tensor *fs_resnet_forward(fs_exec *c, const fs_resnet *m, const fs_tensor *pixels, fs_tensor *taps[5]) {
    if (!fs_expect_3d(c, pixels, 3, -1, -1, "ResNet's pixels")) return NULL;
    fs_arena_mark mark = fs_arena_get_mark(c->arena); /* each block's result takes the place of the one before */

    fs_tensor *x = fs_to_f32(c, pixels);                                                   /* [3, H, W] */
    x = conv(c, x, m->stem, &m->stem_bn, 2, 3, NULL, true, m->forms);                      /* [w, H/2, W/2] */
    x = fs_scope_end(c, mark, fs_max_pool2d(c, x, 3, 2, 1));                               /* [w, H/4, W/4] */
    if (taps) {
        taps[0] = x;
        mark = fs_arena_get_mark(c->arena);
    }

    const fs_resnet_block *block = m->blocks;
    for (int s = 0; s < STAGES; s++) {
        for (int i = 0; i < m->n_blocks[s]; i++, block++)                                  /* [out_s, H/4/2^s, W/4/2^s] */
            x = fs_scope_end(c, mark, bottleneck(c, block, form_of(m, block), x, s > 0 && i == 0 ? 2 : 1));
        if (taps) {
            taps[s + 1] = x;
            mark = fs_arena_get_mark(c->arena);
        }
    }

    x = fs_reshape_2d(c, fs_mean_hw(c, x), 1, fs_dim(m->fc.w, 1));                         /* [1, C] */
    x = fs_scope_end(c, mark, fs_reshape(c, fs_affine_linear(c, x, &m->fc), 1, (const int64_t[]){m->classes}));
    return fs_check_finite(c, x, "ResNet (domain tag generator)") ? x : NULL;              /* [classes] */
}

/* ---- training: the same over a batch, [N, ...] for [...]; the batch's statistics normalise, and the running ones follow them ---- */

static fs_tensor *conv_train(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_batch_stats *s, int stride, int pad) {
    return fs_batch_norm_train(c, fs_conv2d(c, x, w, NULL, stride, pad), s->w, s->b, fs_f32(s->mean), fs_f32(s->var), BN_MOMENTUM, BN_EPS);
}

static fs_tensor *bottleneck_train(fs_exec *c, const fs_resnet_block *block, const fs_tensor *x, int stride) {
    fs_tensor *h = fs_relu(c, conv_train(c, x, block->conv[0], &block->bn[0], 1, 0));
    h = fs_relu(c, conv_train(c, h, block->conv[1], &block->bn[1], stride, 1));
    h = conv_train(c, h, block->conv[2], &block->bn[2], 1, 0);
    return fs_relu(c, fs_add(c, h, block->down ? conv_train(c, x, block->down, &block->down_bn, stride, 0) : x));
}

/* The running statistics are written: they must be numbers of the caller's own. */
static bool stats_are_f32(fs_exec *c, const fs_batch_stats *s) {
    if (s->mean->dtype == FS_DTYPE_F32 && s->var->dtype == FS_DTYPE_F32) return true;
    fs_exec_fail(c, FS_E_UNSUPPORTED, "training a ResNet needs running statistics in F32, found %s", fs_dtype_name(s->mean->dtype));
    return false;
}

fs_tensor *fs_resnet_forward_train(fs_exec *c, const fs_resnet *m, const fs_tensor *pixels) {
    if (!fs_expect_shape(c, pixels, 4, (const int64_t[]){-1, 3, -1, -1}, "ResNet's batch of pixels") || !stats_are_f32(c, &m->stem_bn)) return NULL;
    fs_tensor *x = fs_relu(c, conv_train(c, fs_to_f32(c, pixels), m->stem, &m->stem_bn, 2, 3)); /* [N, w, H/2, W/2] */
    x = fs_max_pool2d(c, x, 3, 2, 1);                                                          /* [N, w, H/4, W/4] */
    const fs_resnet_block *block = m->blocks;
    for (int s = 0; s < STAGES; s++)
        for (int i = 0; i < m->n_blocks[s]; i++, block++) {                                    /* [N, out_s, H/4/2^s, W/4/2^s] */
            for (int k = 0; k < 3; k++)
                if (!stats_are_f32(c, &block->bn[k])) return NULL;
            if (block->down && !stats_are_f32(c, &block->down_bn)) return NULL;
            x = bottleneck_train(c, block, x, s > 0 && i == 0 ? 2 : 1);
        }
    x = fs_affine_linear(c, fs_mean_hw(c, x), &m->fc);                                         /* [N, classes] */
    return fs_check_finite(c, x, "ResNet (domain tag generator)") ? x : NULL;
}
