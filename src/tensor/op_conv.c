/* Convolutions as matrix products. Forward: result [O, H'W'] = kernel [O, C kh kw] x patches [C kh kw, H'W'], where the patches exist only
 * as the packed panels of the product (implicit im2col). Transposed: [O kh kw, HW] = kernel^T x image, then each output value gathers its
 * contributions. Cross-correlation with zero padding, as PyTorch's conv2d and conv_transpose2d.
 *
 * Backward they are each other: the gradient of a convolution's input is the transposed convolution of the result's gradient (at stride 1 it is
 * also the convolution with the kernel turned round, which gathers nothing), that of a transposed one's input is the convolution. The kernel's is
 * [O, C kh kw] = dy [O, H'W'] x patches^T for both. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/op.h"
#include "tensor/op_conv_few.h"
#include "tensor/op_conv_lines.h"
#include "tensor/op_winograd.h"

typedef fs_conv_grid geometry;
typedef struct patches { geometry g; const float *x; } patches;

/* Columns [x0, x1) of the grid for which kernel column kx reads inside the picture: [*in0, *in1) of them. */
static void inside(const geometry *g, int64_t kx, int64_t x0, int64_t x1, int64_t *in0, int64_t *in1) {
    const int64_t shift = g->pad - kx; /* picture column = x * stride - shift */
    int64_t lo = shift > 0 ? (shift + g->stride - 1) / g->stride : 0, hi = g->w - 1 + shift;
    hi = hi < 0 ? 0 : hi / g->stride + 1;
    *in0 = fs_min_i64(x1, fs_max_i64(x0, lo));
    *in1 = fs_max_i64(*in0, fs_min_i64(x1, hi));
}

/* out[x0..x1) = the picture's values that kernel place (channel, ky, kx) meets at row y of the grid. */
static void patch_row(const patches *s, int64_t channel, int64_t ky, int64_t kx, int64_t y, int64_t x0, int64_t x1, float *out) {
    const geometry *g = &s->g;
    const int64_t iy = y * g->stride + ky - g->pad;
    int64_t in0 = x1, in1 = x1;
    if (iy >= 0 && iy < g->h) inside(g, kx, x0, x1, &in0, &in1);
    for (int64_t x = x0; x < in0; x++) out[x - x0] = 0.0f;
    if (in1 > in0) {
        const float *line = s->x + (channel * g->h + iy) * g->w + (in0 * g->stride + kx - g->pad);
        if (g->stride == 1) { /* a few values mostly: calling memcpy would take longer */
            int64_t i = 0;
            for (; i + 4 <= in1 - in0; i += 4) memcpy(out + (in0 - x0) + i, line + i, 4 * sizeof *out);
            for (; i < in1 - in0; i++) out[in0 - x0 + i] = line[i];
        } else if (g->stride == 2) {
            for (int64_t i = 0; i < in1 - in0; i++) out[in0 - x0 + i] = line[2 * i];
        } else
            for (int64_t i = 0, step = g->stride; i < in1 - in0; i++) out[in0 - x0 + i] = line[i * step];
    }
    for (int64_t x = in1; x < x1; x++) out[x - x0] = 0.0f;
}

/* out[0..n) = what a kernel place (its number among channels x kh x kw) meets at points [at, at + n) of the grid. */
static void patch_run(const patches *s, int64_t place, int64_t at, int64_t n, float *out) {
    const int64_t kx = place % s->g.kw, ky = place / s->g.kw % s->g.kh, channel = place / s->g.kw / s->g.kh;
    int64_t y = at / s->g.grid_w, x = at % s->g.grid_w;
    for (int64_t j = 0; j < n; y++, x = 0) {
        const int64_t take = fs_min_i64(n - j, s->g.grid_w - x);
        patch_row(s, channel, ky, kx, y, x, x + take, out + j);
        j += take;
    }
}

/* The picture as its patches want it: for every column of the kernel the picture's columns that it meets, zeros included, line after line. Where a
 * kernel place meets a line of the grid, the next line of the grid follows, so a run of points is a run of memory. Lines are sorted by their
 * remainder to the stride. [channels][kw][stride][lines][grid_w] */
enum { MOST_COLUMNS = 16 << 20 /* floats */, MOST_LINES = 32 /* of a kernel; larger ones are cut up point by point */ };
typedef struct columns {
    const geometry *g;
    int64_t channels, phases, lines, phase[MOST_LINES], down[MOST_LINES]; /* of line ky of the kernel: remainder and quotient by the stride */
    float *values;
} columns;

static columns columns_of(const geometry *g, int64_t channels) {
    columns s = {.g = g, .channels = channels, .phases = fs_min_i64(g->stride, g->kh), .lines = g->grid_h + (g->kh - 1) / g->stride};
    for (int64_t ky = 0; ky < fs_min_i64(g->kh, MOST_LINES); ky++) {
        s.phase[ky] = ky % g->stride;
        s.down[ky] = ky / g->stride;
    }
    return s;
}

static void fill_columns(const columns *s, const float *x, int threads) {
    const geometry *g = s->g;
    const patches from = {.g = *g, .x = x};
    const int64_t rows = s->channels * g->kw * s->phases;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t l = 0; l < s->lines; l++)
            patch_row(&from, r / s->phases / g->kw, l * g->stride + r % s->phases, r / s->phases % g->kw, 0, 0, g->grid_w,
                      s->values + (r * s->lines + l) * g->grid_w);
}

/* Where the points of a kernel place begin. */
static const float *column_row(const void *user, int64_t place) {
    const columns *s = user;
    const int64_t kw = s->g->kw, kh = s->g->kh, kx = place % kw, ky = place / kw % kh, channel = place / kw / kh;
    return s->values + (((channel * kw + kx) * s->phases + s->phase[ky]) * s->lines + s->down[ky]) * s->g->grid_w;
}

/* fs_gemm_pack over columns */
static void pack_columns(const fs_gemm *g, const fs_backend *be, int64_t k0, int64_t terms, int64_t n0, int64_t cols, float *out) {
    const columns *s = g->user;
    const int64_t kw = s->g->kw, kh = s->g->kh;
    const bool whole = cols == FS_GEMM_MAX_COLS && be->tile_cols == FS_GEMM_MAX_COLS;
    int64_t kx = k0 % kw, ky = k0 / kw % kh, channel = k0 / kw / kh; /* counted on: divisions would take longer than the copies */
    for (int64_t p = 0; p < terms; p++) {
        const float *from = s->values + (((channel * kw + kx) * s->phases + s->phase[ky]) * s->lines + s->down[ky]) * s->g->grid_w + n0;
        if (++kx == kw) {
            kx = 0;
            if (++ky == kh) ky = 0, channel++;
        }
        float *row = out + p * be->tile_cols;
        if (whole) {
            memcpy(row, from, FS_GEMM_MAX_COLS * sizeof *row);
            continue;
        }
        memcpy(row, from, (size_t)cols * sizeof *row);
        for (int64_t j = cols; j < be->tile_cols; j++) row[j] = 0.0f;
    }
}

/* fs_gemm_pack: terms are kernel places, columns are points of the grid. */
static void pack_patches(const fs_gemm *g, const fs_backend *be, int64_t k0, int64_t terms, int64_t n0, int64_t cols, float *out) {
    for (int64_t p = 0; p < terms; p++) {
        float *row = out + p * be->tile_cols;
        patch_run(g->user, k0 + p, n0, cols, row);
        for (int64_t j = cols; j < be->tile_cols; j++) row[j] = 0.0f;
    }
}

/* The other way round: terms are points of the grid, columns are kernel places. */
static void pack_patches_turned(const fs_gemm *g, const fs_backend *be, int64_t k0, int64_t terms, int64_t n0, int64_t cols, float *out) {
    float rows[FS_GEMM_MAX_COLS * FS_GEMM_KC];
    for (int64_t j = 0; j < cols; j++) patch_run(g->user, n0 + j, k0, terms, rows + j * FS_GEMM_KC);
    be->pack_rows(rows, FS_DTYPE_F32, FS_GEMM_KC, cols, terms, FS_DTYPE_F32, out);
}

/* A kernel of one point that meets every point once: the picture is its own patches. */
static bool is_plain(const geometry *g) { return g->kh == 1 && g->kw == 1 && g->stride == 1 && g->pad == 0; }

static const float *plain_row(const void *user, int64_t place) {
    const patches *s = user;
    return s->x + place * s->g.h * s->g.w;
}

static bool run(const fs_op *op, const fs_gemm *g) {
    const bool ok = fs_gemm_run(op->c->backend, g, fs_op_threads(op, g->m * g->n / 8 * g->k / 8), op->c->arena);
    if (!ok) fs_exec_fail(op->c, FS_E_NO_MEMORY, "%s: out of memory for the packed operands", op->name);
    return ok;
}

/* y [m, grid] = or += kernel [m, channels kh kw] x patches of x [channels, h, w], finished. form: the kernel made ready, or NULL. */
static bool conv_product(const fs_op *op, const geometry *at, int64_t m, int64_t channels, const fs_tensor *kernel, const float *x, bool add,
                         const fs_finish *finish, const fs_conv_form *form, float *y) {
    const patches s = {.g = *at, .x = x};
    const int64_t terms = channels * at->kh * at->kw, points = at->grid_h * at->grid_w;
    const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
    if (!form && !is_plain(at) && fs_conv_lines_pay(op, at, channels, m)) {
        fs_conv_lines lines;
        if (!fs_conv_lines_fill(op, at, channels, x, &lines)) return false;
        const fs_gemm g = {.m = m, .n = points, .k = terms, .a = kernel->data, .a_type = kernel->dtype, .a_round = op->c->precision, .a_row = terms,
                           .a_col = 1, .b = lines.values, .b_ld = lines.width, .b_line = at->grid_w, .at = lines.at, .c = y, .ldc = points, .add = add,
                           .finish = *finish};
        const bool ok = run(op, &g);
        fs_arena_release(op->c->arena, mark);
        return ok;
    }
    columns all = columns_of(at, channels);
    const int64_t floats = channels * at->kw * all.phases * all.lines * at->grid_w;
    if (!is_plain(at) && at->kh <= MOST_LINES && floats <= MOST_COLUMNS) {
        all.values = fs_op_scratch(op, floats, sizeof *all.values);
        if (!all.values) return false;
        fill_columns(&all, x, fs_op_threads(op, floats));
    }
    if (form && form->few && (is_plain(at) || all.values)) {
        const fs_conv_few few = {m, terms, points, all.values ? column_row : plain_row, all.values ? (const void *)&all : &s};
        const bool ok = fs_conv_few_run(op, &few, form->values, finish, y);
        fs_arena_release(op->c->arena, mark);
        return ok;
    }
    const float *left = form && !form->few ? form->values : NULL;
    const fs_gemm g = {.m = m, .n = points, .k = terms, .a = kernel->data, .a_type = kernel->dtype, .a_round = op->c->precision, .a_row = terms,
                       .a_col = 1, .pack = is_plain(at) ? fs_gemm_pack_kn : all.values ? pack_columns : pack_patches, .b = x, .b_type = FS_DTYPE_F32, .b_round = FS_DTYPE_F32,
                       .b_ld = points, .user = all.values ? (const void *)&all : &s, .c = y, .ldc = points, .left = left, .add = add, .finish = *finish};
    const bool ok = run(op, &g);
    fs_arena_release(op->c->arena, mark);
    return ok;
}

/* Pictures in [C,H,W] or [N,C,H,W]. */
static int64_t pictures(const fs_tensor *x) { return x->ndim == 4 ? x->shape[0] : 1; }

static geometry conv_geometry(const fs_tensor *x, const fs_tensor *w, int stride, int pad) {
    geometry g = {.h = x->shape[x->ndim - 2], .w = x->shape[x->ndim - 1], .kh = w->shape[2], .kw = w->shape[3], .stride = stride, .pad = pad};
    g.grid_h = (g.h + 2 * pad - g.kh) / stride + 1;
    g.grid_w = (g.w + 2 * pad - g.kw) / stride + 1;
    return g;
}

/* Fills a form that is empty: for Winograd's method where it multiplies less, else the product's left panel, if its rows fill the panel's. */
static void make_form(const fs_op *op, const geometry *g, const fs_tensor *kernel, fs_conv_form *form) {
    const int64_t out = kernel->shape[0], in = kernel->shape[1], terms = in * g->kh * g->kw;
    fs_winograd plane = {.in = in, .out = out, .h = g->h, .w = g->w};
    form->tried = true;
    if (g->kh == 3 && g->kw == 3 && g->stride == 1 && g->pad == 1) plane.m = fs_winograd_choose(op->c->backend, &plane);
    if (plane.m) {
        form->values = fs_alloc((size_t)fs_winograd_floats(&plane), sizeof *form->values);
        if (form->values) fs_winograd_kernel(op, &plane, kernel, form->values);
        form->tile = plane.m;
        return;
    }
    const fs_conv_few few = {.out = out, .terms = terms, .points = g->grid_h * g->grid_w};
    if (fs_conv_few_pays(op->c->backend, &few)) {
        form->values = fs_alloc((size_t)fs_conv_few_floats(&few), sizeof *form->values);
        if (form->values) fs_conv_few_kernel(op, &few, kernel, form->values);
        form->few = form->values != NULL;
        return;
    }
    const fs_gemm product = {.m = out, .k = terms, .a = kernel->data, .a_type = kernel->dtype, .a_round = FS_DTYPE_F32, .a_row = terms, .a_col = 1};
    if (fs_gemm_left_floats(&product) > out * terms / 4 * 5) return;
    form->values = fs_alloc((size_t)fs_gemm_left_floats(&product), sizeof *form->values);
    if (form->values) fs_gemm_pack_left(op->c->backend, &product, fs_op_threads(op, out * terms), form->values);
}

void fs_conv_form_free(fs_conv_form *form) {
    free(form->values);
    *form = (fs_conv_form){0};
}

/* The convolution of in[0] with in[1], bias in[2], and what `finish` holds; its bias is set here. */
static fs_tensor *convolve(const fs_op *op, int stride, int pad, fs_finish finish, const fs_tensor *residual, fs_conv_form *form) {
    fs_exec *c = op->c;
    const fs_tensor *x = op->in[0], *w = op->in[1], *b = op->in[2];
    const geometry g = conv_geometry(x, w, stride, pad);
    const int64_t n = pictures(x), points = g.grid_h * g.grid_w, in = w->shape[1] * g.h * g.w, out = w->shape[0] * points;
    const int64_t shape[4] = {n, w->shape[0], g.grid_h, g.grid_w}, *from = shape + 4 - x->ndim;
    if (residual && (residual->dtype != FS_DTYPE_F32 || residual->ndim != x->ndim ||
                     memcmp(residual->shape, from, (size_t)x->ndim * sizeof *from) != 0))
        return fs_op_misuse(op, "%s is not of the result's shape, to be added", fs_op_describe(residual).text);
    fs_tensor *y = fs_op_result(op, x->ndim, from);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const fs_tensor *kernel = fs_op_matrix(op, w);
    finish.bias = b ? fs_op_values(op, b) : NULL;
    finish.bias_by_row = true;
    finish.round = c->precision;
    finish.residual_ld = points;
    bool ok = kernel && (finish.bias || !b);
    if (ok && form && !form->tried) make_form(op, &g, kernel, form);
    const fs_conv_form *made = form && form->values ? form : NULL;
    const fs_winograd plane = {.m = made ? made->tile : 0, .in = w->shape[1], .out = w->shape[0], .h = g.h, .w = g.w};
    const bool winograd = made && fs_winograd_fits(c->backend, &plane);
    for (int64_t i = 0; ok && i < n; i++) {
        finish.residual = residual ? fs_f32(residual) + i * out : NULL;
        if (winograd) ok = fs_winograd_run(op, &plane, made->values, fs_f32(x) + i * in, &finish, fs_f32(y) + i * out);
        else ok = conv_product(op, &g, w->shape[0], w->shape[1], kernel, fs_f32(x) + i * in, false, &finish, plane.m ? NULL : made, fs_f32(y) + i * out);
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

/* ---- what each value of a picture gathers ---- */

enum { SLAB_VALUES = 4 << 20 }; /* of contributions that are kept at a time: 16 MB */

/* One row of the picture: out += the contributions of the kernel places that meet it, in order. parts: the channel's, [kh kw][grid]. */
static void gather_row(const geometry *g, const float *parts, int64_t oy, float *out) {
    for (int64_t ky = 0; ky < g->kh; ky++) {
        const int64_t at = oy + g->pad - ky;
        if (at < 0 || at % g->stride || at / g->stride >= g->grid_h) continue;
        for (int64_t kx = 0; kx < g->kw; kx++) {
            const float *line = parts + ((ky * g->kw + kx) * g->grid_h + at / g->stride) * g->grid_w;
            int64_t x0, x1;
            inside(g, kx, 0, g->grid_w, &x0, &x1);
            const int64_t shift = kx - g->pad;
            for (int64_t x = x0; x < x1; x++) out[x * g->stride + shift] += line[x];
        }
    }
}

/* The transposed convolution: picture [channels, h, w] = or += what grid [m][points] spreads through kernel [m, channels kh kw]; with `bias` (NULL:
 * none) and rounded unless it is added. */
static bool spread(const fs_op *op, const geometry *g, int64_t m, int64_t channels, const fs_tensor *kernel, const float *grid,
                   const float *bias, bool add, float *picture) {
    const fs_backend *be = op->c->backend;
    const int64_t each = g->kh * g->kw, points = g->grid_h * g->grid_w, slab = fs_max_i64(1, fs_min_i64(channels, SLAB_VALUES / (each * points)));
    const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
    float *parts = fs_op_scratch(op, slab * each * points, sizeof *parts);
    bool ok = parts != NULL;
    for (int64_t c0 = 0; ok && c0 < channels; c0 += slab) {
        const int64_t count = fs_min_i64(slab, channels - c0), rows = count * g->h;
        const fs_gemm product = {.m = count * each, .n = points, .k = m,
                                 .a = (const char *)kernel->data + (size_t)(c0 * each) * fs_dtype_size(kernel->dtype),
                                 .a_type = kernel->dtype, .a_round = op->c->precision, .a_row = 1, .a_col = channels * each, .pack = fs_gemm_pack_kn,
                                 .b = grid, .b_type = FS_DTYPE_F32, .b_round = FS_DTYPE_F32, .b_ld = points, .c = parts, .ldc = points};
        ok = run(op, &product);
        const int threads = fs_op_threads(op, rows * g->w);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t r = 0; r < (ok ? rows : 0); r++) {
            float *out = picture + (c0 * g->h + r) * g->w;
            for (int64_t x = 0; x < (add ? 0 : g->w); x++) out[x] = 0.0f;
            gather_row(g, parts + r / g->h * each * points, r % g->h, out);
            if (add) continue;
            for (int64_t x = 0; bias && x < g->w; x++) out[x] += bias[c0 + r / g->h];
            be->round(out, g->w, op->c->precision);
        }
    }
    fs_arena_release(op->c->arena, mark);
    return ok;
}

/* ---- backward ---- */

/* dw [m, channels kh kw] += rows [m, points] x patches^T of the picture [channels, h, w] */
static bool add_kernel_gradient(const fs_op *op, const geometry *at, int64_t m, int64_t channels, const float *rows, const float *picture,
                                float *dw) {
    const patches s = {.g = *at, .x = picture};
    const int64_t terms = channels * at->kh * at->kw, points = at->grid_h * at->grid_w;
    if (!is_plain(at) && fs_conv_lines_pay_back(at, channels, m)) {
        const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
        fs_conv_lines lines;
        const bool ok = fs_conv_lines_fill(op, at, channels, picture, &lines) && fs_conv_lines_gradient(op, &lines, m, rows, dw);
        fs_arena_release(op->c->arena, mark);
        return ok;
    }
    const fs_gemm g = {.m = m, .n = terms, .k = points, .a = rows, .a_type = FS_DTYPE_F32, .a_round = FS_DTYPE_F32, .a_row = points, .a_col = 1,
                       .pack = is_plain(at) ? fs_gemm_pack_nk : pack_patches_turned, .b = picture, .b_type = FS_DTYPE_F32, .b_round = FS_DTYPE_F32,
                       .b_ld = points, .user = &s, .c = dw, .ldc = terms, .add = true, .finish.round = FS_DTYPE_F32};
    return run(op, &g);
}

/* db [channels] += the sums over dy [channels, points] */
static void add_bias_gradient(const fs_op *op, const float *dy, int64_t channels, int64_t points, float *db) {
    const int threads = fs_op_threads(op, channels * points);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t ch = 0; ch < channels; ch++) db[ch] += (float)op->c->backend->sum(dy + ch * points, points);
}

/* [O, C, kh, kw] -> [C, O, kh, kw], each kernel's rows and columns from last to first */
static fs_tensor *turn_kernel(const fs_op *op, const fs_tensor *w) {
    const int64_t out = w->shape[0], in = w->shape[1], places = w->shape[2] * w->shape[3];
    fs_tensor *turned = fs_new(op->c, 4, (const int64_t[]){in, out, w->shape[2], w->shape[3]});
    const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
    const float *values = fs_op_values(op, w);
    const int threads = fs_op_threads(op, out * in * places);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < (turned && values ? in : 0); i++)
        for (int64_t o = 0; o < out; o++)
            for (int64_t p = 0; p < places; p++) fs_f32(turned)[(i * out + o) * places + p] = values[(o * in + i) * places + places - 1 - p];
    fs_arena_release(op->c->arena, mark);
    return values ? turned : NULL;
}

typedef struct conv_params { int stride, pad; } conv_params;

static void conv2d_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "conv2d's backward"};
    const conv_params *p = node->params;
    const fs_tensor *x = node->in[0], *w = node->in[1];
    const geometry g = conv_geometry(x, w, p->stride, p->pad);
    const int64_t out = w->shape[0], in = w->shape[1], points = g.grid_h * g.grid_w, pixels = g.h * g.w;
    float *dx = fs_grad(c, x), *dw = fs_grad(c, w), *db = fs_grad(c, node->in[2]);
    /* At stride 1 the gradient goes through a convolution over the grid, whose places are the picture's points. */
    const bool turned = g.stride == 1 && g.kh == g.kw && g.pad < g.kh;
    const geometry back = {.h = g.grid_h, .w = g.grid_w, .kh = g.kh, .kw = g.kw, .grid_h = g.h, .grid_w = g.w, .stride = 1, .pad = g.kh - 1 - g.pad};
    const fs_tensor *kernel = !dx ? NULL : turned ? turn_kernel(&op, w) : fs_op_matrix(&op, w);
    bool ok = kernel || !dx;
    for (int64_t i = 0; ok && i < pictures(x); i++) {
        const float *dy = node->grad + i * out * points, *picture = fs_f32(x) + i * in * pixels;
        if (dw) ok = add_kernel_gradient(&op, &g, out, in, dy, picture, dw);
        if (db) add_bias_gradient(&op, dy, out, points, db);
        if (!dx || !ok) continue;
        float *to = dx + i * in * pixels;
        if (!turned && kernel->dtype == FS_DTYPE_F32 && c->precision == FS_DTYPE_F32 && fs_conv_lines_pay_spread(&g, in, out))
            ok = fs_conv_lines_spread(&op, &g, out, in, fs_f32(kernel), dy, to);
        else
            ok = turned ? conv_product(&op, &back, in, out, kernel, dy, true, &(fs_finish){.round = FS_DTYPE_F32}, NULL, to)
                        : spread(&op, &g, out, in, kernel, dy, NULL, true, to);
    }
}

static void conv_transpose2d_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "conv_transpose2d's backward"};
    const fs_tensor *x = node->in[0], *w = node->in[1];
    const geometry g = conv_geometry(node->out, w, *(const int *)node->params, 0);
    const int64_t in = w->shape[0], out = w->shape[1];
    float *dx = fs_grad(c, x), *dw = fs_grad(c, w), *db = fs_grad(c, node->in[2]);
    const fs_tensor *kernel = dx ? fs_op_matrix(&op, w) : NULL;
    if (dx && (!kernel || !conv_product(&op, &g, in, out, kernel, node->grad, true, &(fs_finish){.round = FS_DTYPE_F32}, NULL, dx))) return;
    if (dw && !add_kernel_gradient(&op, &g, in, out, fs_f32(x), node->grad, dw)) return;
    if (db) add_bias_gradient(&op, node->grad, out, g.h * g.w, db);
}

/* ---- operators ---- */

static bool check_conv(const fs_op *op, int stride, int pad) {
    const fs_tensor *x = op->in[0], *w = op->in[1], *b = op->in[2];
    if (!fs_op_ready(op, 2) || !fs_op_needs_f32(op, 0)) return false;
    const int64_t *s = x->shape + (x->ndim == 4); /* [C,H,W] */
    if ((x->ndim != 3 && x->ndim != 4) || w->ndim != 4 || !fs_is_float(w->dtype) || s[0] != w->shape[1] || s[0] < 1 || stride < 1 || pad < 0) {
        fs_op_misuse(op, "x %s, kernel %s, stride %d, padding %d do not fit", fs_op_describe(x).text, fs_op_describe(w).text, stride, pad);
        return false;
    }
    if (!fs_op_needs_vector(op, b, w->shape[0], "bias")) return false;
    if (w->shape[2] >= 1 && w->shape[3] >= 1 && s[1] + 2 * pad >= w->shape[2] && s[2] + 2 * pad >= w->shape[3]) return true;
    fs_op_misuse(op, "kernel %s is larger than the padded x %s", fs_op_describe(w).text, fs_op_describe(x).text);
    return false;
}

fs_tensor *fs_conv2d(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, int stride, int pad) {
    const conv_params p = {stride, pad};
    const fs_op op = {.c = c, .name = "conv2d", .in = {x, w, b}, .backward = conv2d_backward, .params = &p, .params_size = sizeof p};
    return check_conv(&op, stride, pad) ? convolve(&op, stride, pad, (fs_finish){0}, NULL, NULL) : NULL;
}

fs_tensor *fs_conv2d_norm_kept(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_batch *norm, int stride, int pad, const fs_tensor *residual,
                               bool relu, fs_conv_form *form) {
    const fs_op op = {.c = c, .name = "conv2d_norm", .in = {x, w, NULL, norm->w, norm->b, residual}}; /* what a tape would have to know */
    fs_tensor_prepare(norm->mean), fs_tensor_prepare(norm->var);
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
                    residual, c->precision == FS_DTYPE_F32 ? form : NULL);
}

fs_tensor *fs_conv2d_norm(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_batch *norm, int stride, int pad, const fs_tensor *residual,
                          bool relu) {
    return fs_conv2d_norm_kept(c, x, w, norm, stride, pad, residual, relu, NULL);
}

fs_tensor *fs_conv_transpose2d(fs_exec *c, const fs_tensor *x, const fs_tensor *w, const fs_tensor *b, int stride) {
    const fs_op op = {.c = c, .name = "conv_transpose2d", .in = {x, w, b}, .backward = conv_transpose2d_backward, .params = &stride,
                      .params_size = sizeof stride};
    if (!fs_op_ready(&op, 2) || !fs_op_needs_f32(&op, 0)) return NULL;
    if (x->ndim != 3 || w->ndim != 4 || !fs_is_float(w->dtype) || x->shape[0] != w->shape[0] || stride < 1 || fs_tensor_count(x) < 1 ||
        fs_tensor_count(w) < 1)
        return fs_op_misuse(&op, "x %s, kernel %s, stride %d do not fit", fs_op_describe(x).text, fs_op_describe(w).text, stride);
    const int64_t channels = w->shape[1];
    if (!fs_op_needs_vector(&op, b, channels, "bias")) return NULL;
    geometry g = {.kh = w->shape[2], .kw = w->shape[3], .grid_h = x->shape[1], .grid_w = x->shape[2], .stride = stride};
    g.h = (g.grid_h - 1) * stride + g.kh;
    g.w = (g.grid_w - 1) * stride + g.kw;
    fs_tensor *y = fs_op_result(&op, 3, (const int64_t[]){channels, g.h, g.w});
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const fs_tensor *kernel = fs_op_matrix(&op, w);
    const float *bias = b ? fs_op_values(&op, b) : NULL;
    const bool ok = kernel && (bias || !b) && spread(&op, &g, x->shape[0], channels, kernel, fs_f32(x), bias, false, fs_f32(y));
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}
