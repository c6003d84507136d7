/* SAM's image encoder (Kirillov et al. 2023, a ViTDet backbone; segment_anything/modeling/image_encoder.py): ViT-H at 1024 pixels.
 *
 * Patches become a grid of tokens. Most blocks attend inside windows (14 x 14; the grid is padded with zeros *after* the norm, so padded
 * cells take part as keys made of biases, which is where fs_attention_grid gets them from), a few over the whole grid; both add decomposed relative positions to the scores. A neck of two
 * convolutions gives the embedding the mask decoder works on.
 *
 * Sizes come from the tensors: heads from the relative tables' width, a block's window from their length. Activations of one block live
 * until its end only; the largest is the MLP's [tokens, 4C] (84 MB for ViT-H, twice), never a [heads, tokens, tokens]. */
#include "model/parts.h"

#include <math.h>
#include <stdlib.h>

static const float EPS = 1e-6f; /* of every norm here */

/* A table of 2n-1 rows belongs to attention over n x n tokens. n is the whole grid (global block) or one window size that all other
 * blocks share. Upstream would stretch a table of another length; no checkpoint needs that, so it is refused rather than guessed.
 * A window as large as the grid is the same computation as a global block and is run as one. */
static void bind_attention_kind(fs_binder *b, fs_sam_encoder *m, fs_sam_block *block, int index) {
    if (b->status) return;
    const int64_t rows = block->rel_h->shape[0], n = (rows + 1) / 2;
    block->global = rows == 2 * m->grid - 1;
    if (block->global) return;
    if (m->window == 0 && rows % 2 == 1) m->window = n;
    if (rows % 2 == 1 && n == m->window) return;
    char name[64];
    snprintf(name, sizeof name, "blocks.%d.attn.rel_pos_h", index);
    if (m->window)
        fs_bind_fail(b, name, "expected %lld rows (windows of %lld) or %lld (the whole grid of %lld), found %lld; stretching it is not supported",
                     (long long)(2 * m->window - 1), (long long)m->window, (long long)(2 * m->grid - 1), (long long)m->grid,
                     (long long)rows);
    else
        fs_bind_fail(b, name, "expected an odd number of rows (twice the window minus one), found %lld", (long long)rows);
}

static void bind_block(fs_binder *b, fs_sam_encoder *m, fs_sam_block *block, int index) {
    const int64_t C = m->embed;
    char at[32];
    snprintf(at, sizeof at, "blocks.%d", index);
    block->norm1 = fs_bind_norm(b, C, "%s.norm1", at);
    block->qkv = fs_bind_affine(b, 3 * C, C, "%s.attn.qkv", at);
    block->proj = fs_bind_affine(b, C, C, "%s.attn.proj", at);
    block->rel_h = fs_bind_2d(b, -1, m->heads ? C / m->heads : -1, "%s.attn.rel_pos_h", at);
    if (block->rel_h && !m->heads) { /* the first block decides */
        const int64_t d = block->rel_h->shape[1];
        if (d < 1 || C % d) {
            char name[64];
            snprintf(name, sizeof name, "%s.attn.rel_pos_h", at);
            fs_bind_fail(b, name, "expected a width that divides the %lld channels into heads, found %lld", (long long)C, (long long)d);
            return;
        }
        m->heads = C / d;
    }
    block->rel_w = fs_bind_2d(b, fs_dim(block->rel_h, 0), fs_dim(block->rel_h, 1), "%s.attn.rel_pos_w", at);
    block->norm2 = fs_bind_norm(b, C, "%s.norm2", at);
    block->lin1 = fs_bind_affine(b, -1, C, "%s.mlp.lin1", at);
    block->lin2 = fs_bind_affine(b, C, fs_dim(block->lin1.w, 0), "%s.mlp.lin2", at);
    bind_attention_kind(b, m, block, index);
}

/* Patch and position embedding: the channels, the patch, the grid. */
static void bind_embedding(fs_binder *b, fs_sam_encoder *m) {
    m->patch_embed.w = fs_bind(b, 4, (const int64_t[]){-1, -1, -1, -1}, "patch_embed.proj.weight");
    if (!m->patch_embed.w) return;
    const int64_t *shape = m->patch_embed.w->shape, channels = shape[1];
    m->embed = shape[0];
    m->patch = shape[2];
    if (m->embed < 1 || channels < 3 || m->patch < 1 || m->patch > 1024 || shape[3] != m->patch) {
        fs_bind_fail(b, "patch_embed.proj.weight", "expected square patches of 3 channels, found [%lld,%lld,%lld,%lld]", (long long)m->embed,
                     (long long)channels, (long long)m->patch, (long long)shape[3]);
        return;
    }
    m->stem = fs_bind_stem(b, channels, "patch_embed.stem");
    m->patch *= fs_stem_step(&m->stem);
    m->patch_embed.b = fs_bind_1d(b, m->embed, "patch_embed.proj.bias");
    m->pos_embed = fs_bind(b, 4, (const int64_t[]){1, -1, -1, m->embed}, "pos_embed");
    if (!m->pos_embed) return;
    m->grid = m->pos_embed->shape[1];
    if (m->grid < 1 || m->grid > 4096 || m->pos_embed->shape[2] != m->grid)
        fs_bind_fail(b, "pos_embed", "expected a square grid, found %lld x %lld", (long long)m->grid, (long long)m->pos_embed->shape[2]);
    m->image_size = m->grid * m->patch;
}

fs_status fs_sam_encoder_bind(fs_sam_encoder *m, const fs_tensor_source *source, const char *prefix, fs_error *err) {
    *m = (fs_sam_encoder){0};
    fs_binder b = {.source = source, .prefix = prefix, .err = err};
    bind_embedding(&b, m);
    if (b.status) return b.status;
    const int depth = fs_bind_count(&b, "blocks.", ".norm1.weight");
    m->depth = depth ? depth : 1; /* binding the first one says what is missing */
    m->blocks = fs_alloc_zero((size_t)m->depth, sizeof *m->blocks);
    if (!m->blocks) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for the weight table of SAM's image encoder");
    for (int i = 0; i < m->depth && !b.status; i++) bind_block(&b, m, &m->blocks[i], i);

    m->neck_conv1 = fs_bind_kernel(&b, -1, m->embed, 1, "neck.0");
    const int64_t out = m->out_channels = fs_dim(m->neck_conv1, 0);
    m->neck_norm1 = fs_bind_norm(&b, out, "neck.1");
    m->neck_conv2 = fs_bind_kernel(&b, out, out, 3, "neck.2");
    m->neck_norm2 = fs_bind_norm(&b, out, "neck.3");
    if (b.status) fs_sam_encoder_unbind(m);
    return b.status;
}

void fs_sam_encoder_unbind(fs_sam_encoder *m) {
    if (!m) return;
    free(m->blocks);
    *m = (fs_sam_encoder){0};
}

/* fs_attention_grid in the steps that a tape can record: windows of x [g, g, C], normed, are cut out before the qkv product, so cells that were
 * padded are made of biases there. -> [g, g, C] */
static fs_tensor *attend_by_steps(fs_exec *c, const fs_sam_encoder *m, const fs_sam_block *block, const fs_tensor *x, int64_t window, float scale) {
    const int64_t C = m->embed, n = window * window, across = (m->grid + window - 1) / window, windows = across * across;
    const int64_t shape[4] = {windows, n, m->heads, C / m->heads};
    fs_tensor *qkv = fs_affine_apart(c, fs_window_partition(c, x, window), &block->qkv), *part[3]; /* [windows, n, 3C] */
    for (int i = 0; i < 3; i++) part[i] = fs_reshape(c, fs_columns(c, qkv, i * C, (i + 1) * C), 4, shape);
    fs_tensor *y = fs_attention_rel(c, part[0], part[1], part[2], block->rel_h, block->rel_w, window, window, scale);
    return fs_window_unpartition(c, fs_reshape_3d(c, y, windows, n, C), window, m->grid, m->grid);
}

/* x: [g, g, C] -> [g, g, C] */
static fs_tensor *block_forward(fs_exec *c, const fs_sam_encoder *m, const fs_sam_block *block, const fs_tensor *x) {
    const int64_t window = block->global ? m->grid : m->window;
    const float scale = 1.0f / sqrtf((float)(m->embed / m->heads));
    fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_tensor *h = fs_layer_norm(c, x, block->norm1.w, block->norm1.b, EPS);
    if (c->tape) {
        h = attend_by_steps(c, m, block, h, window, scale);
    } else {
        fs_tensor *qkv = fs_affine_apart(c, h, &block->qkv);          /* [g, g, 3C]: q, k, v, each by heads */
        h = fs_attention_grid(c, qkv, m->heads, block->qkv.b, block->rel_h, block->rel_w, window, scale);
    }
    h = fs_scope_end(c, mark, fs_affine_apart_add(c, h, &block->proj, x));

    fs_tensor *f = fs_layer_norm(c, h, block->norm2.w, block->norm2.b, EPS);
    f = fs_affine_apart_gelu(c, f, &block->lin1);                     /* [g, g, 4C] */
    return fs_affine_apart_add(c, f, &block->lin2, h);
}

fs_tensor *fs_sam_encoder_forward(fs_exec *c, const fs_sam_encoder *m, const fs_tensor *pixels, fs_tensor **taps) {
    const int64_t g = m->grid, C = m->embed;
    if (!fs_expect_3d(c, pixels, 3, m->image_size, m->image_size, "SAM's pixels")) return NULL;
    fs_arena_mark mark = fs_arena_get_mark(c->arena); /* each block's result takes the place of the one before */

    fs_tensor *x = fs_to_f32(c, pixels); /* rounded as the network's input is */
    x = fs_stem_forward(c, &m->stem, x);
    const int step = (int)(m->patch / fs_stem_step(&m->stem));
    x = fs_transpose(c, fs_conv2d(c, x, m->patch_embed.w, m->patch_embed.b, step, 0));           /* [C, g, g] -> [g*g, C] */
    x = fs_add(c, fs_reshape(c, x, 4, (const int64_t[]){1, g, g, C}), m->pos_embed);
    x = fs_scope_end(c, mark, fs_reshape_3d(c, x, g, g, C));
    for (int64_t i = 0;; i++) {
        if (taps) { /* what a test looks at has to stay */
            taps[i] = x;
            mark = fs_arena_get_mark(c->arena);
        }
        if (i == m->depth || c->error.status) break;
        if (fs_cancelled(c->callbacks)) fs_exec_fail(c, FS_E_CANCELLED, "cancelled");
        x = fs_scope_end(c, mark, block_forward(c, m, &m->blocks[i], x));
    }

    /* neck */
    x = fs_reshape_3d(c, fs_transpose(c, fs_reshape_2d(c, x, g * g, C)), C, g, g);              /* [C, g, g] */
    x = fs_layer_norm_2d(c, fs_conv2d(c, x, m->neck_conv1, NULL, 1, 0), m->neck_norm1.w, m->neck_norm1.b, EPS);
    x = fs_layer_norm_2d(c, fs_conv2d(c, x, m->neck_conv2, NULL, 1, 1), m->neck_norm2.w, m->neck_norm2.b, EPS);
    x = fs_scope_end(c, mark, x);                                                               /* [out, g, g] */
    return fs_check_finite(c, x, "SAM image encoder") ? x : NULL;
}
