/* What follows a product: bias, batch norm, activation, residual, each rounded as the operator of its own would round it, so that doing them
 * here, on results that are still in a cache, gives the bits of doing them one after the other over the whole tensor. */
#include "backend/backend.h"

#include <string.h>

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

/* One pass of the table's does it. */
static bool is_simple(const fs_finish *f) {
    if (f->bias || f->round != FS_DTYPE_F32) return false;
    return f->act == FS_ACTIVATE_NONE || (f->act == FS_ACTIVATE_RELU && (f->act_last || !f->residual));
}

void fs_finish_rows(const fs_backend *be, const fs_finish *f, int64_t i, int64_t rows, int64_t n0, int64_t cols, float *c, int64_t ldc) {
    const float *residual = f->residual ? f->residual + i * f->residual_ld + n0 : NULL;
    if (is_simple(f))
        be->finish(c, ldc, rows, cols, f->factor ? f->factor + i : NULL, f->factor ? f->shift + i : NULL, 1, residual, f->residual_ld,
                   f->act == FS_ACTIVATE_RELU, c, ldc);
    else
        for (int64_t r = 0; r < rows; r++) fs_finish_row(be, f, i + r, n0, cols, c + r * ldc);
}

void fs_finish_pieces(const fs_backend *be, const fs_finish *f, int64_t i, int64_t n0, int64_t pieces, int64_t cols, int64_t apart, const float *x, int64_t ldx,
                      float *c) {
    const float *residual = f->residual ? f->residual + i * f->residual_ld + n0 : NULL;
    if (is_simple(f)) {
        be->finish(x, ldx, pieces, cols, f->factor ? f->factor + i : NULL, f->factor ? f->shift + i : NULL, 0, residual, apart, f->act == FS_ACTIVATE_RELU, c,
                   apart);
        return;
    }
    for (int64_t p = 0; p < pieces; p++) {
        memcpy(c + p * apart, x + p * ldx, (size_t)cols * sizeof *c);
        fs_finish_row(be, f, i, n0 + p * apart, cols, c + p * apart);
    }
}
