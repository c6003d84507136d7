/* SAM's prompt encoder (segment_anything/modeling/prompt_encoder.py), as far as FakeShield uses it: the prompt is a text vector, given to
 * the decoder as it is, and "no mask", one learnt vector in every cell. What remains is the dense positional encoding: the sine and cosine of a
 * fixed random projection of each cell's place (Tancik et al. 2020). */
#include "model/parts.h"

#include <math.h>

fs_status fs_sam_prompt_bind(fs_sam_prompt *m, const fs_tensor_source *source, const char *prefix, fs_error *err) {
    *m = (fs_sam_prompt){0};
    fs_binder b = {.source = source, .prefix = prefix, .err = err};
    m->gaussian = fs_bind_2d(&b, 2, -1, "pe_layer.positional_encoding_gaussian_matrix");
    m->channels = 2 * fs_dim(m->gaussian, 1);
    m->no_mask = fs_bind_2d(&b, 1, m->channels, "no_mask_embed.weight");
    return b.status;
}

/* What a bf16 network keeps of a number; the number itself in an f32 one. */
static float keep(float x, bool bf16) { return bf16 ? fs_bf16_to_f32(fs_f32_to_bf16(x)) : x; }

fs_tensor *fs_sam_dense_pe(fs_exec *c, const fs_sam_prompt *m, int64_t grid, bool bf16) {
    if (c->error.status) return NULL;
    if (grid < 1 || grid > 65536) {
        fs_exec_fail(c, FS_E_MISMATCH, "SAM positional encoding: a grid of %lld cells", (long long)grid);
        return NULL;
    }
    const int64_t half = m->channels / 2, cells = grid * grid;
    fs_tensor *pe = fs_new_3d(c, m->channels, grid, grid);
    fs_arena_mark mark = fs_arena_get_mark(c->arena);
    /* The matrix in f32 whatever the context's precision: only `bf16` decides about rounding here. */
    fs_exec plain = *c;
    plain.precision = FS_DTYPE_F32;
    plain.tape = NULL;
    const fs_tensor *matrix = fs_to_f32(&plain, m->gaussian); /* [2, C/2] */
    if (plain.error.status && !c->error.status) c->error = plain.error;
    if (!pe || !matrix) return NULL;
    const float *gx = fs_f32(matrix), *gy = gx + half;
    float *sines = fs_f32(pe), *cosines = sines + half * cells;
    for (int64_t i = 0; i < half; i++)
        for (int64_t row = 0; row < grid; row++)
            for (int64_t col = 0; col < grid; col++) {
                float u = keep(2 * (((float)col + 0.5f) / (float)grid) - 1, bf16); /* place of the cell's middle in -1..1 */
                float v = keep(2 * (((float)row + 0.5f) / (float)grid) - 1, bf16);
                /* In bf16 the phase has 8 bits, a step of 1/8 rad near 16: visible, and part of what the decoder was trained with. */
                float g = keep(u * keep(gx[i], bf16) + v * keep(gy[i], bf16), bf16);
                float phase = keep((float)(2 * M_PI) * g, bf16);
                sines[i * cells + row * grid + col] = keep(sinf(phase), bf16);
                cosines[i * cells + row * grid + col] = keep(cosf(phase), bf16);
            }
    fs_arena_release(c->arena, mark);
    return fs_check_finite(c, pe, "SAM prompt encoder") ? pe : NULL;
}
