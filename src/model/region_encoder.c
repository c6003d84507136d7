/* GLaMM's region encoder (model/layers.py there, built on GPT4RoI's): boxes on the picture -> one LLaMA embedding each, which takes the
 * place of a <bbox> token.
 *
 * Four states of CLIP become a pyramid (8, 4, 2 and 1 times the patch grid); five rounds of one shared 3x3 convolution mix each level with a
 * quarter of its neighbours' channels; RoIAlign cuts 14 x 14 cells out of each level; their sum through a linear layer, plus an encoding of the
 * box itself, is the embedding.
 *
 * Kept as it was trained: box units of 224 pixels on a grid of 14 cells whatever the real grid is (spec 5.12), so with CLIP at 336 boxes cover the
 * upper-left two thirds of the maps. Resizing and RoIAlign compute in f32 and round once. Upstream casts the boxes f64 -> f16 -> bf16 and
 * multiplies by 224 in bf16; done here in a 16-bit context of either kind, while an F32 context keeps the boxes exact. */
#include "model/parts.h"

enum { LEVELS = 4, ROUNDS = 5, GROUPS = 64, ROI = 14, SAMPLES = 2 };
static const float EPS = 1e-5f, BOX_UNIT = 224;

fs_status fs_region_encoder_bind(fs_region_encoder *m, int64_t grid, const fs_tensor_source *source, const char *prefix, fs_error *err) {
    *m = (fs_region_encoder){.grid = grid};
    if (grid < 1 || grid > 4096) return fs_fail(err, FS_E_MISMATCH, "region encoder: a CLIP grid of %lld patches", (long long)grid);
    fs_binder b = {.source = source, .prefix = prefix, .err = err};
    m->updims = fs_bind_affine(&b, -1, -1, "roi_align.updims");
    m->hidden = fs_dim(m->updims.w, 0);
    const int64_t C = m->channels = fs_dim(m->updims.w, 1);
    if (!b.status && C % GROUPS)
        fs_bind_fail(&b, "roi_align.updims.weight", "expected a multiple of %d columns (groups of the group norms), found %lld", GROUPS,
                     (long long)C);
    for (int l = 0; l < LEVELS; l++) m->input_conv[l] = fs_bind_conv(&b, C, C + 2, 1, "mlvl_fuse.input_conv.%d", l);
    for (int k = 0; k < ROUNDS; k++) {
        m->fuse[k].conv = fs_bind_kernel(&b, C, C, 3, "mlvl_fuse.fuse_convs.%d.conv", k);
        fs_affine gn = fs_bind_norm(&b, C, "mlvl_fuse.fuse_convs.%d.gn", k);
        m->fuse[k].w = gn.w;
        m->fuse[k].b = gn.b;
    }
    for (int l = 0; l < LEVELS; l++) m->pconv[l] = fs_bind_conv(&b, C, C, 3, "roi_align.pconvs.%d", l);
    m->pos0 = fs_bind_affine(&b, -1, 4, "roi_align.pos_embedd.0");
    const int64_t P = fs_dim(m->pos0.w, 0);
    m->pos2 = fs_bind_norm(&b, P, "roi_align.pos_embedd.2");
    m->pos3 = fs_bind_affine(&b, C, P, "roi_align.pos_embedd.3");
    m->pos5 = fs_bind_norm(&b, C, "roi_align.pos_embedd.5");
    m->flatten = fs_bind_affine(&b, C, C * ROI * ROI, "roi_align.flatten_linear");
    return b.status;
}

/* As torch.linspace(-1, 1, n): counted from the nearer end. */
static float line(int64_t i, int64_t n) {
    const float step = n > 1 ? 2.0f / (float)(n - 1) : 0;
    return i < n / 2 || n == 1 ? -1 + step * (float)i : 1 - step * (float)(n - 1 - i);
}

/* The two coordinate channels of a side x side map: x, then y, both from -1 to 1. -> [2, side, side] */
static fs_tensor *coordinates(fs_exec *c, int64_t side) {
    fs_tensor *t = fs_new_3d(c, 2, side, side);
    if (!t) return NULL;
    for (int64_t row = 0; row < side; row++)
        for (int64_t col = 0; col < side; col++) {
            fs_f32(t)[row * side + col] = line(col, side);
            fs_f32(t)[(side + row) * side + col] = line(row, side);
        }
    return fs_to_f32(c, t); /* rounded to the precision */
}

/* level: [grid*grid, C] tokens of CLIP -> [C, side, side] */
static fs_tensor *input_map(fs_exec *c, const fs_region_encoder *m, int l, const fs_tensor *level, int64_t side) {
    fs_tensor *x = fs_reshape_3d(c, fs_transpose(c, level), m->channels, m->grid, m->grid);
    const fs_tensor *parts[2] = {fs_resize_bilinear(c, x, side, side, true, true), coordinates(c, side)};
    return fs_conv2d(c, fs_concat_rows(c, parts, 2), m->input_conv[l].w, m->input_conv[l].b, 1, 0);
}

/* One level of one round: half of its own channels, the last quarter of the coarser level's, the third of the finer one's. */
static fs_tensor *fuse_level(fs_exec *c, const fs_region_encoder *m, int round, const fs_tensor *own, const fs_tensor *coarser,
                             const fs_tensor *finer, int64_t side) {
    const int64_t C = m->channels, half = C / 2, quarter = C / 4;
    const fs_tensor *parts[3] = {fs_rows(c, own, 0, half),
                                 fs_resize_bilinear(c, fs_rows(c, coarser, half + quarter, C), side, side, true, true),
                                 fs_resize_bilinear(c, fs_rows(c, finer, half, half + quarter), side, side, true, true)};
    fs_tensor *x = fs_conv2d(c, fs_concat_rows(c, parts, 3), m->fuse[round].conv, NULL, 1, 1);
    return fs_relu(c, fs_group_norm(c, x, GROUPS, m->fuse[round].w, m->fuse[round].b, EPS));
}

/* What upstream's casts leave of a number: f64 -> f16 -> bf16. */
static float box_number(const fs_exec *c, float x) {
    if (c->precision == FS_DTYPE_F32) return x;
    return fs_bf16_to_f32(fs_f32_to_bf16(fs_f16_to_f32(fs_f32_to_f16(x))));
}

/* boxes: [n, 4] in 0..1 -> [n, C] */
static fs_tensor *encode_boxes(fs_exec *c, const fs_region_encoder *m, const fs_tensor *boxes) {
    fs_tensor *x = fs_relu(c, fs_affine_linear(c, boxes, &m->pos0));
    x = fs_layer_norm(c, x, m->pos2.w, m->pos2.b, EPS);
    x = fs_relu(c, fs_affine_linear(c, x, &m->pos3));
    return fs_layer_norm(c, x, m->pos5.w, m->pos5.b, EPS);
}

/* The pyramid is one tensor, level after level, so that a round's result can take the place of the round before.
 * Cells of all levels before l (l = LEVELS: of all). */
static int64_t cells_before(const fs_region_encoder *m, int l) {
    int64_t cells = 0;
    for (int i = 0; i < l; i++) cells += (m->grid << (LEVELS - 1 - i)) * (m->grid << (LEVELS - 1 - i));
    return cells;
}

/* pyramid: [cells * C] -> [C, side, side], no copy */
static fs_tensor *level_of(fs_exec *c, const fs_region_encoder *m, const fs_tensor *pyramid, int l) {
    const int64_t C = m->channels, side = m->grid << (LEVELS - 1 - l);
    return fs_reshape_3d(c, fs_rows(c, pyramid, C * cells_before(m, l), C * cells_before(m, l + 1)), C, side, side);
}

static fs_tensor *join_levels(fs_exec *c, const fs_region_encoder *m, fs_tensor *const maps[LEVELS]) {
    const fs_tensor *flat[LEVELS];
    for (int l = 0; l < LEVELS; l++)
        flat[l] = fs_reshape(c, maps[l], 1, (const int64_t[]){m->channels * (cells_before(m, l + 1) - cells_before(m, l))});
    return fs_concat_rows(c, flat, LEVELS);
}

static fs_tensor *build_pyramid(fs_exec *c, const fs_region_encoder *m, fs_tensor *const levels[LEVELS]) {
    fs_tensor *maps[LEVELS];
    fs_arena_mark mark = fs_arena_get_mark(c->arena);
    for (int l = 0; l < LEVELS; l++) {
        fs_arena_mark inner = fs_arena_get_mark(c->arena);
        maps[l] = fs_scope_end(c, inner, input_map(c, m, l, levels[l], m->grid << (LEVELS - 1 - l)));
    }
    fs_tensor *pyramid = fs_scope_end(c, mark, join_levels(c, m, maps));
    for (int k = 0; k < ROUNDS; k++) { /* every level of a round reads the round before */
        fs_tensor *old[LEVELS];
        for (int l = 0; l < LEVELS; l++) old[l] = level_of(c, m, pyramid, l);
        for (int l = 0; l < LEVELS; l++) {
            const int up = l + 1 < LEVELS ? l + 1 : l, down = l > 0 ? l - 1 : 0;
            fs_arena_mark inner = fs_arena_get_mark(c->arena);
            maps[l] = fs_scope_end(c, inner, fuse_level(c, m, k, old[l], old[up], old[down], m->grid << (LEVELS - 1 - l)));
        }
        pyramid = fs_scope_end(c, mark, join_levels(c, m, maps));
    }
    return pyramid;
}

/* RoIAlign on every level, a 3x3 convolution each, their sum. boxes: [n, 4] -> [n, C * 14 * 14] */
static fs_tensor *pool_boxes(fs_exec *c, const fs_region_encoder *m, const fs_tensor *pyramid, const fs_tensor *boxes) {
    const int64_t n = boxes->shape[0], C = m->channels;
    float *scaled = fs_arena_alloc(c->arena, (size_t)n * 4 * sizeof *scaled);
    const fs_tensor **rows = fs_arena_alloc(c->arena, (size_t)n * sizeof *rows);
    if (!scaled || !rows) {
        fs_exec_fail(c, FS_E_NO_MEMORY, "out of memory for %lld boxes", (long long)n);
        return NULL;
    }
    for (int64_t i = 0; i < 4 * n; i++) {
        scaled[i] = fs_f32(boxes)[i] * BOX_UNIT;
        if (c->precision != FS_DTYPE_F32) scaled[i] = fs_bf16_to_f32(fs_f32_to_bf16(scaled[i]));
    }
    fs_tensor *rois[LEVELS];
    for (int l = 0; l < LEVELS; l++) /* spatial scale 8/14, 4/14, 2/14, 1/14: [n, C, 14, 14] */
        rois[l] = fs_roi_align(c, level_of(c, m, pyramid, l), scaled, n, (float)(8 >> l) / (float)ROI, ROI, SAMPLES);
    for (int64_t i = 0; i < n; i++) {
        fs_arena_mark mark = fs_arena_get_mark(c->arena);
        fs_tensor *sum = NULL;
        for (int l = 0; l < LEVELS; l++) {
            fs_tensor *x = fs_reshape_3d(c, fs_rows(c, rois[l], i, i + 1), C, ROI, ROI);
            x = fs_conv2d(c, x, m->pconv[l].w, m->pconv[l].b, 1, 1);
            sum = l ? fs_add(c, sum, x) : x;
        }
        rows[i] = fs_scope_end(c, mark, fs_reshape_2d(c, fs_relu(c, sum), 1, C * ROI * ROI));
    }
    return fs_concat_rows(c, rows, (size_t)n);
}

fs_tensor *fs_region_encoder_forward(fs_exec *c, const fs_region_encoder *m, fs_tensor *const levels[4], const float *boxes, int64_t n) {
    for (int l = 0; l < LEVELS; l++)
        if (!fs_expect_2d(c, levels[l], m->grid * m->grid, m->channels, "region encoder's CLIP level")) return NULL;
    if (n < 1 || !boxes) {
        fs_exec_fail(c, FS_E_USAGE, "region encoder: %lld boxes", (long long)n);
        return NULL;
    }
    fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_tensor *b = fs_new_2d(c, n, 4);
    if (!b) return NULL;
    for (int64_t i = 0; i < 4 * n; i++) fs_f32(b)[i] = box_number(c, boxes[i]);

    fs_arena_mark inner = fs_arena_get_mark(c->arena);
    fs_tensor *pyramid = build_pyramid(c, m, levels);                                      /* 8, 4, 2, 1 times the grid */
    fs_tensor *x = fs_scope_end(c, inner, pool_boxes(c, m, pyramid, b));                   /* [n, C * 14 * 14] */
    x = fs_add(c, fs_affine_linear(c, x, &m->flatten), encode_boxes(c, m, b));             /* [n, C] */
    x = fs_scope_end(c, mark, fs_affine_linear(c, x, &m->updims));                         /* [n, hidden] */
    return fs_check_finite(c, x, "region encoder") ? x : NULL;
}
