/* Convolutions as matrix products. Forward: result [O, H'W'] = kernel [O, C kh kw] x patches [C kh kw, H'W'], where the patches exist only
 * as the packed panels of the product (implicit im2col). Transposed: [O kh kw, HW] = kernel^T x image, then each output value gathers its
 * contributions. Cross-correlation with zero padding, as PyTorch's conv2d and conv_transpose2d. */
#include <inttypes.h>
#include <string.h>

#include "tensor/op.h"

typedef struct patches { const float *x; int64_t h, w, kh, kw, out_w; int64_t stride, pad; } patches;

/* Input column range for which output columns [x0, x1) of one row read inside the picture: [*in0, *in1) of them. */
static void inside(const patches *s, int64_t kx, int64_t x0, int64_t x1, int64_t *in0, int64_t *in1) {
    const int64_t shift = s->pad - kx; /* input column = x * stride - shift */
    int64_t lo = shift > 0 ? (shift + s->stride - 1) / s->stride : 0, hi = s->w - 1 + shift;
    hi = hi < 0 ? 0 : hi / s->stride + 1;
    *in0 = fs_min_i64(x1, fs_max_i64(x0, lo));
    *in1 = fs_max_i64(*in0, fs_min_i64(x1, hi));
}

/* out[x0..x1) = the input values that kernel place (channel, ky, kx) meets at output row y. */
static void patch_row(const patches *s, int64_t channel, int64_t ky, int64_t kx, int64_t y, int64_t x0, int64_t x1, float *out) {
    const int64_t iy = y * s->stride + ky - s->pad;
    int64_t in0 = x1, in1 = x1;
    if (iy >= 0 && iy < s->h) inside(s, kx, x0, x1, &in0, &in1);
    for (int64_t x = x0; x < in0; x++) out[x - x0] = 0.0f;
    if (in1 > in0) {
        const float *line = s->x + (channel * s->h + iy) * s->w + (in0 * s->stride + kx - s->pad);
        if (s->stride == 1) { /* a few values mostly: calling memcpy would take longer */
            int64_t i = 0;
            for (; i + 4 <= in1 - in0; i += 4) memcpy(out + (in0 - x0) + i, line + i, 4 * sizeof *out);
            for (; i < in1 - in0; i++) out[in0 - x0 + i] = line[i];
        } else
            for (int64_t i = 0; i < in1 - in0; i++) out[in0 - x0 + i] = line[i * s->stride];
    }
    for (int64_t x = in1; x < x1; x++) out[x - x0] = 0.0f;
}

/* fs_gemm_pack: terms are kernel places (channel, ky, kx), columns are output pixels. */
static void pack_patches(const fs_gemm *g, const fs_backend *be, int64_t k0, int64_t terms, int64_t n0, int64_t cols, float *out) {
    const patches *s = g->user;
    for (int64_t p = 0; p < terms; p++) {
        const int64_t place = k0 + p, kx = place % s->kw, ky = place / s->kw % s->kh, channel = place / s->kw / s->kh;
        float *row = out + p * be->tile_cols;
        int64_t y = n0 / s->out_w, x = n0 % s->out_w;
        for (int64_t j = 0; j < cols; y++, x = 0) {
            const int64_t take = fs_min_i64(cols - j, s->out_w - x);
            patch_row(s, channel, ky, kx, y, x, x + take, row + j);
            j += take;
        }
        for (int64_t j = cols; j < be->tile_cols; j++) row[j] = 0.0f;
    }
}

static bool run(const fs_op *op, const fs_gemm *g) {
    const bool ok = fs_gemm_run(op->c->backend, g, fs_op_threads(op, g->m * g->n / 8 * g->k / 8), op->c->arena);
    if (!ok) fs_exec_fail(op->c, FS_E_NO_MEMORY, "%s: out of memory for the packed operands", op->name);
    return ok;
}

/* The convolution of in[0] with in[1], bias in[2], and what `finish` holds; its bias is set here. */
static fs_tensor *convolve(const fs_op *op, int stride, int pad, fs_finish finish, const fs_tensor *residual) {
    fs_exec *c = op->c;
    const fs_tensor *x = op->in[0], *w = op->in[1], *b = op->in[2];
    const int64_t h = x->shape[1], width = x->shape[2], kh = w->shape[2], kw = w->shape[3];
    const int64_t out_h = (h + 2 * pad - kh) / stride + 1, out_w = (width + 2 * pad - kw) / stride + 1;
    const int64_t terms = w->shape[1] * kh * kw, pixels = out_h * out_w, shape[3] = {w->shape[0], out_h, out_w};
    if (residual && (residual->dtype != FS_DTYPE_F32 || residual->ndim != 3 || memcmp(residual->shape, shape, sizeof shape) != 0))
        return fs_op_misuse(op, "%s is not of the result's shape, to be added", fs_op_describe(residual).text);
    fs_tensor *y = fs_op_result(op, 3, shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const fs_tensor *kernel = fs_op_matrix(op, w);
    finish.bias = b ? fs_op_values(op, b) : NULL;
    finish.bias_by_row = true;
    finish.round = c->precision;
    finish.residual = residual ? fs_f32(residual) : NULL;
    finish.residual_ld = pixels;
    bool ok = kernel && (finish.bias || !b);
    if (ok) {
        const patches s = {.x = fs_f32(x), .h = h, .w = width, .kh = kh, .kw = kw, .out_w = out_w, .stride = stride, .pad = pad};
        const bool plain = kh == 1 && kw == 1 && stride == 1 && pad == 0; /* the picture itself is the right operand */
        const fs_gemm g = {.m = w->shape[0], .n = pixels, .k = terms, .a = kernel->data, .a_type = kernel->dtype, .a_round = c->precision,
                           .a_row = terms, .a_col = 1, .pack = plain ? fs_gemm_pack_kn : pack_patches, .b = x->data, .b_type = FS_DTYPE_F32,
                           .b_round = FS_DTYPE_F32, .b_ld = pixels, .user = &s, .c = fs_f32(y), .ldc = pixels, .finish = finish};
        ok = run(op, &g);
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

static bool check_conv(const fs_op *op, int stride, int pad) {
    const fs_tensor *x = op->in[0], *w = op->in[1], *b = op->in[2];
    if (!fs_op_ready(op, 2) || !fs_op_needs_f32(op, 0)) return false;
    if (x->ndim != 3 || w->ndim != 4 || !fs_is_float(w->dtype) || x->shape[0] != w->shape[1] || x->shape[0] < 1 || stride < 1 || pad < 0) {
        fs_op_misuse(op, "x %s, kernel %s, stride %d, padding %d do not fit", fs_op_describe(x).text, fs_op_describe(w).text, stride, pad);
        return false;
    }
    if (!fs_op_needs_vector(op, b, w->shape[0], "bias")) return false;
    if (w->shape[2] >= 1 && w->shape[3] >= 1 && x->shape[1] + 2 * pad >= w->shape[2] && x->shape[2] + 2 * pad >= w->shape[3]) return true;
    fs_op_misuse(op, "kernel %s is larger than the padded x %s", fs_op_describe(w).text, fs_op_describe(x).text);
    return false;
}

fs_tensor *fs_conv2d(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, int stride, int pad) {
    const fs_op op = {.c = c, .name = "conv2d", .in = {x, w, b}};
    return check_conv(&op, stride, pad) ? convolve(&op, stride, pad, (fs_finish){0}, NULL) : NULL;
}

fs_tensor *fs_conv2d_norm(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_batch *norm, int stride, int pad, const fs_tensor *residual,
                          bool relu) {
    const fs_op op = {.c = c, .name = "conv2d_norm", .in = {x, w, NULL, norm->mean, norm->var, residual}};
    if (!check_conv(&op, stride, pad)) return NULL;
    const int64_t n = w->shape[0];
    if (!norm->w || !norm->b || !norm->mean || !norm->var) return fs_op_misuse(&op, "a batch norm of four tensors is needed");
    if (!fs_op_needs_vector(&op, norm->w, n, "weight") || !fs_op_needs_vector(&op, norm->b, n, "bias") ||
        !fs_op_needs_vector(&op, norm->mean, n, "mean") || !fs_op_needs_vector(&op, norm->var, n, "variance"))
        return NULL;
    /* The scratch lies below the result: it is small and goes with the caller's scope. */
    float *factor = fs_op_scratch(&op, 2 * n, sizeof *factor), *shift = factor + n;
    if (!factor || !fs_op_batch_affine(&op, norm, n, factor, shift)) return NULL;
    return convolve(&op, stride, pad, (fs_finish){.factor = factor, .shift = shift, .act = relu ? FS_ACTIVATE_RELU : FS_ACTIVATE_NONE, .act_last = true},
                    residual);
}

typedef struct spread { const float *parts; int64_t h, w, kh, kw, stride, out_h, out_w; } spread;

/* One output row of one channel: each value is the sum of the contributions of the kernel places that meet it, in order. */
static void gather_row(const spread *s, int64_t channel, int64_t oy, float bias, float *out) {
    for (int64_t ox = 0; ox < s->out_w; ox++) out[ox] = 0.0f;
    for (int64_t ky = 0; ky < s->kh; ky++) {
        const int64_t at = oy - ky;
        if (at < 0 || at % s->stride || at / s->stride >= s->h) continue;
        for (int64_t kx = 0; kx < s->kw; kx++) {
            const float *line = s->parts + (((channel * s->kh + ky) * s->kw + kx) * s->h + at / s->stride) * s->w;
            for (int64_t x = 0; x < s->w; x++) out[x * s->stride + kx] += line[x];
        }
    }
    for (int64_t ox = 0; ox < s->out_w; ox++) out[ox] += bias;
}

fs_tensor *fs_conv_transpose2d(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, int stride) {
    const fs_op op = {.c = c, .name = "conv_transpose2d", .in = {x, w, b}};
    if (!fs_op_ready(&op, 2) || !fs_op_needs_f32(&op, 0)) return NULL;
    if (x->ndim != 3 || w->ndim != 4 || !fs_is_float(w->dtype) || x->shape[0] != w->shape[0] || stride < 1 || fs_tensor_count(x) < 1 ||
        fs_tensor_count(w) < 1)
        return fs_op_misuse(&op, "x %s, kernel %s, stride %d do not fit", fs_op_describe(x).text, fs_op_describe(w).text, stride);
    const int64_t channels = w->shape[1], places = channels * w->shape[2] * w->shape[3], pixels = x->shape[1] * x->shape[2];
    if (!fs_op_needs_vector(&op, b, channels, "bias")) return NULL;
    spread s = {.h = x->shape[1], .w = x->shape[2], .kh = w->shape[2], .kw = w->shape[3], .stride = stride};
    s.out_h = (s.h - 1) * stride + s.kh;
    s.out_w = (s.w - 1) * stride + s.kw;
    fs_tensor *y = fs_op_result(&op, 3, (const int64_t[]){channels, s.out_h, s.out_w});
    if (!y) return NULL;

    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const fs_tensor *kernel = fs_op_matrix(&op, w);
    const float *bias = b ? fs_op_values(&op, b) : NULL;
    float *parts = fs_op_scratch(&op, places * pixels, sizeof *parts);
    bool ok = kernel && (bias || !b) && parts;
    if (ok) {
        const fs_gemm g = {.m = places, .n = pixels, .k = x->shape[0], .a = kernel->data, .a_type = kernel->dtype, .a_round = c->precision,
                           .a_row = 1, .a_col = places, .pack = fs_gemm_pack_kn, .b = x->data, .b_type = FS_DTYPE_F32,
                           .b_round = FS_DTYPE_F32, .b_ld = pixels, .c = parts, .ldc = pixels};
        ok = run(&op, &g);
    }
    if (ok) {
        s.parts = parts;
        const int64_t rows = channels * s.out_h;
        const int threads = fs_op_threads(&op, rows * s.out_w);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t r = 0; r < rows; r++) {
            float *out = fs_f32(y) + r * s.out_w;
            gather_row(&s, r / s.out_h, r % s.out_h, bias ? bias[r / s.out_h] : 0.0f, out);
            c->backend->round(out, s.out_w, c->precision);
        }
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}
