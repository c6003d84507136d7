/* What follows a product: bias, batch norm, activation, residual, each rounded as the operator of its own would round it, so that doing them
 * here, on results that are still in a cache, gives the bits of doing them one after the other over the whole tensor. */
#include "backend/backend.h"

enum { PIECE = 256 };

static void relu(float *c, int64_t n) {
    for (int64_t j = 0; j < n; j++) c[j] = c[j] < 0.0f ? 0.0f : c[j]; /* NaN stays NaN */
}

/* x * sigmoid(1.702 x) is three operations in the original, each rounded. */
static void quick_gelu(const fs_backend *be, float *c, int64_t n, fs_dtype round) {
    float gate[PIECE];
    for (int64_t j = 0; j < n; j += PIECE) {
        const int64_t part = fs_min_i64(PIECE, n - j);
        be->scale(c + j, 1.702f, gate, part);
        be->round(gate, part, round);
        be->sigmoid(gate, gate, part);
        be->round(gate, part, round);
        be->mul(c + j, gate, c + j, part);
    }
}

static void activate(const fs_backend *be, const fs_finish *f, float *c, int64_t n) {
    if (f->act == FS_ACTIVATE_NONE) return;
    if (f->act == FS_ACTIVATE_RELU) {
        relu(c, n); /* nothing to round */
        return;
    }
    if (f->act == FS_ACTIVATE_GELU)
        be->gelu(c, c, n);
    else
        quick_gelu(be, c, n, f->round);
    be->round(c, n, f->round);
}

void fs_finish_row(const fs_backend *be, const fs_finish *f, int64_t i, int64_t n0, int64_t cols, float *c) {
    if (f->bias && f->bias_by_row)
        be->affine(c, 1.0f, f->bias[i], c, cols);
    else if (f->bias)
        be->add(c, f->bias + n0, c, cols);
    be->round(c, cols, f->round);
    if (f->factor) {
        be->affine(c, f->factor[i], f->shift[i], c, cols);
        be->round(c, cols, f->round);
    }
    if (!f->act_last) activate(be, f, c, cols);
    if (f->residual) {
        be->add(f->residual + i * f->residual_ld + n0, c, c, cols);
        be->round(c, cols, f->round);
    }
    if (f->act_last) activate(be, f, c, cols);
}
