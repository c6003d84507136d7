/* A stem in front of a vision transformer's patches; no part of CLIP or SAM, but models of our own may have one (config "stem" and "residual").
 *
 * A linear patch embedding sees edges and grain only as far as it learns to subtract what is smooth, and the norm behind it takes the strength of
 * what is left away. Convolutions measure texture and borders first (Xiao et al., "Early Convolutions Help Transformers See Better", 2021): 5 x 5 and
 * three of 3 x 3, of N, 2 N, 3 N and 6 N channels, all but the second halving the picture, GELU behind each and before it (but for the first) a norm over
 * the channels. If the second is of 4 x 4 it halves the picture as well: for pictures of twice the side at the same number of patches. They may be given,
 * beside the colours, what a pixel's neighbours do not foretell: a fixed high-pass front end, as in Fridrich and Kodovsky, "Rich Models for Steganalysis
 * of Digital Images" (2012), and many detectors since. Behind each there may be residual blocks, x + conv(GELU(conv(norm(x)))) of 3 x 3 (He et al.,
 * "Identity Mappings in Deep Residual Networks", 2016): depth where traces still are some pixels apart, which begins with adding nothing. */
#include <stdio.h>
#include <string.h>

#include "model/parts.h"

enum { COLOURS = 3, PLANES = COLOURS + FS_STEM_RESIDUALS };
static const float GAIN = 1.5f, LIMIT = 3; /* residuals of a few grey levels fill the range that the normed colours have */
static const float EPS = 1e-6f;

static void bind_blocks(fs_binder *b, fs_stem *m, int layer, const char *prefix) {
    const int64_t channels = fs_dim(m->conv[layer].w, 0);
    char before[128];
    snprintf(before, sizeof before, "%s.%d.block.", prefix, layer);
    const int n = fs_bind_count(b, before, ".norm.weight");
    if (n > FS_STEM_BLOCKS) {
        fs_bind_fail(b, prefix, "expected at most %d residual blocks behind a convolution, found %d", FS_STEM_BLOCKS, n);
        return;
    }
    m->n_blocks[layer] = n;
    for (int i = 0; i < n; i++) {
        fs_stem_block *block = &m->block[layer][i];
        block->norm = fs_bind_norm(b, channels, "%s%d.norm", before, i);
        for (int k = 0; k < 2; k++) block->conv[k] = fs_bind_conv(b, channels, channels, 3, "%s%d.conv%d", before, i, k + 1);
    }
}

fs_stem fs_bind_stem(fs_binder *b, int64_t channels, const char *prefix) {
    fs_stem m = {0};
    if (channels == COLOURS) return m;
    m.conv[0] = fs_bind_conv(b, -1, -1, 5, "%s.0.conv", prefix);
    const int64_t in = fs_dim(m.conv[0].w, 1);
    if (m.conv[0].w && in != COLOURS && in != PLANES)
        fs_bind_fail(b, prefix, "expected a first convolution of %d channels, or of %d with residuals, found %lld", COLOURS, PLANES, (long long)in);
    for (int i = 1; i < FS_STEM_LAYERS; i++) {
        const int64_t out = i + 1 == FS_STEM_LAYERS ? channels : -1, side = i == 1 ? -1 : 3;
        m.conv[i] = fs_bind_conv(b, out, fs_dim(m.conv[i - 1].w, 0), side, "%s.%d.conv", prefix, i);
        m.norm[i] = fs_bind_norm(b, fs_dim(m.conv[i].w, 0), "%s.%d.norm", prefix, i);
        bind_blocks(b, &m, i, prefix);
    }
    const int64_t side = fs_dim(m.conv[1].w, 2);
    if (m.conv[1].w && ((side != 3 && side != FS_STEM_HALVING) || fs_dim(m.conv[1].w, 3) != side))
        fs_bind_fail(b, prefix, "expected a second convolution of 3 x 3, or of %d x %d to halve the picture, found %lld x %lld", FS_STEM_HALVING, FS_STEM_HALVING, (long long)side,
                     (long long)fs_dim(m.conv[1].w, 3));
    return m;
}

static bool halves(const fs_stem *m, int layer) { return layer != 1 || m->conv[1].w->shape[2] == FS_STEM_HALVING; }

int64_t fs_stem_step(const fs_stem *m) {
    int64_t step = 1;
    for (int i = 0; i < FS_STEM_LAYERS && m->conv[0].w; i++) step *= halves(m, i) ? 2 : 1;
    return step;
}

static inline float clipped(float x) { /* comparisons, which compilers make vectors of, as they do not of fminf */
    const float wide = GAIN * x, high = wide > -LIMIT ? wide : -LIMIT;
    return high < LIMIT ? high : LIMIT;
}

/* Of one row of W values: the Laplacian with the rows above and below it, and the difference along it. */
static void row_residuals(const float *at, const float *above, const float *below, int64_t W, float *restrict laplace, float *restrict across) {
    for (int64_t k = 1; k < W - 1; k++) {
        const float beside = at[k - 1] + at[k + 1];
        laplace[k] = clipped(4 * at[k] - beside - above[k] - below[k]);
        across[k] = clipped(2 * at[k] - beside);
    }
    for (int64_t k = 0; k < W; k += W > 1 ? W - 1 : 1) { /* both ends */
        const float beside = at[k ? k - 1 : 0] + at[k + 1 < W ? k + 1 : k];
        laplace[k] = clipped(4 * at[k] - beside - above[k] - below[k]);
        across[k] = clipped(2 * at[k] - beside);
    }
}

/* x [3, H, W] -> [9, H, W]: behind the colours of every one what its four neighbours (a Laplacian) and its two neighbours of the row do not foretell,
 * the edge repeated. Of data, so it records nothing. */
static fs_tensor *with_residuals(fs_exec *c, const fs_tensor *x) {
    if (!x) return NULL;
    const int64_t H = x->shape[1], W = x->shape[2];
    fs_tensor *out = fs_new_3d(c, PLANES, H, W);
    if (!out) return NULL;
    const float *in = fs_f32(x);
    float *to = fs_f32(out);
    memcpy(to, in, (size_t)(COLOURS * H * W) * sizeof *to);
#pragma omp parallel for num_threads(c->threads)
    for (int64_t row = 0; row < COLOURS * H; row++) {
        const int64_t plane = row / H, y = row % H;
        const float *at = in + row * W;
        float *laplace = to + ((COLOURS + 2 * plane) * H + y) * W;
        row_residuals(at, y ? at - W : at, y + 1 < H ? at + W : at, W, laplace, laplace + H * W);
    }
    return out;
}

static fs_tensor *run_block(fs_exec *c, const fs_stem_block *m, const fs_tensor *x) {
    fs_tensor *y = fs_layer_norm_2d(c, x, m->norm.w, m->norm.b, EPS);
    y = fs_gelu(c, fs_conv2d(c, y, m->conv[0].w, m->conv[0].b, 1, 1));
    return fs_add(c, x, fs_conv2d(c, y, m->conv[1].w, m->conv[1].b, 1, 1));
}

fs_tensor *fs_stem_forward(fs_exec *c, const fs_stem *m, fs_tensor *pixels) {
    fs_tensor *x = pixels;
    if (!m->conv[0].w || !x) return x;
    if (m->conv[0].w->shape[1] == PLANES) x = with_residuals(c, x);
    for (int i = 0; i < FS_STEM_LAYERS; i++) {
        x = fs_conv2d(c, x, m->conv[i].w, m->conv[i].b, halves(m, i) ? 2 : 1, i == 0 ? 2 : 1);
        if (i > 0) x = fs_layer_norm_2d(c, x, m->norm[i].w, m->norm[i].b, EPS);
        x = fs_gelu(c, x);
        for (int k = 0; k < m->n_blocks[i]; k++) x = run_block(c, &m->block[i][k], x);
    }
    return x;
}
