/* Operators that move values without computing: other shapes over the same data, slices, joins, transposition, copies as f32, and the
 * cutting of a grid into windows (ViTDet's window_partition; windows that stick out are padded with zeros). */
#include <inttypes.h>
#include <string.h>

#include "tensor/op.h"

/* dx += dy: the same values in the same order */
static void same_backward(fs_exec *c, const fs_tape_node *n) {
    fs_grad_pass(c, n, n->in[0]);
}

fs_tensor *fs_reshape(fs_exec *c, const fs_tensor *x, int ndim, const int64_t *shape) {
    const fs_op op = {.c = c, .name = "reshape", .in = {x}, .backward = same_backward};
    if (!fs_op_ready(&op, 1)) return NULL;
    int64_t count;
    if (!fs_shape_count(ndim, shape, &count) || count != fs_tensor_count(x))
        return fs_op_misuse(&op, "%s does not have as many values as the wanted shape", fs_op_describe(x).text);
    return fs_op_view(&op, ndim, shape, x->data);
}

/* Elements of one entry of the first dimension. */
static int64_t row_count(const fs_tensor *x) {
    int64_t n = 1;
    for (int d = 1; d < x->ndim; d++) n *= x->shape[d];
    return n;
}

static void rows_backward(fs_exec *c, const fs_tape_node *n) {
    float *dx = fs_grad(c, n->in[0]);
    if (dx) dx += *(const int64_t *)n->params * row_count(n->in[0]);
    if (dx) fs_add_to(c, dx, n->grad, n->count, false);
}

fs_tensor *fs_rows(fs_exec *c, const fs_tensor *x, int64_t begin, int64_t end) {
    const fs_op op = {.c = c, .name = "rows", .in = {x}, .backward = rows_backward, .params = &begin, .params_size = sizeof begin};
    if (!fs_op_ready(&op, 1)) return NULL;
    if (x->ndim < 1 || begin < 0 || end < begin || end > x->shape[0])
        return fs_op_misuse(&op, "no rows %" PRId64 "..%" PRId64 " in %s", begin, end, fs_op_describe(x).text);
    int64_t shape[FS_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[0] = end - begin;
    return fs_op_view(&op, x->ndim, shape, (char *)x->data + (size_t)(begin * row_count(x)) * fs_dtype_size(x->dtype));
}

static void columns_backward(fs_exec *c, const fs_tape_node *n) {
    const fs_tensor *x = n->in[0];
    const int64_t begin = *(const int64_t *)n->params, width = x->shape[x->ndim - 1], take = n->out->shape[x->ndim - 1];
    float *dx = fs_grad(c, x);
    const fs_op op = {.c = c, .name = "columns"};
    const int threads = fs_op_threads(&op, n->count);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < (dx && take ? n->count / take : 0); i++)
        c->backend->add(dx + i * width + begin, n->grad + i * take, dx + i * width + begin, take);
}

fs_tensor *fs_columns(fs_exec *c, const fs_tensor *x, int64_t begin, int64_t end) {
    const fs_op op = {.c = c, .name = "columns", .in = {x}, .backward = columns_backward, .params = &begin, .params_size = sizeof begin};
    if (!fs_op_ready(&op, 1) || !fs_op_needs_f32(&op, 0)) return NULL;
    const int64_t width = x->ndim ? x->shape[x->ndim - 1] : 0;
    if (x->ndim < 1 || begin < 0 || end < begin || end > width)
        return fs_op_misuse(&op, "no columns %" PRId64 "..%" PRId64 " in %s", begin, end, fs_op_describe(x).text);
    int64_t shape[FS_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[x->ndim - 1] = end - begin;
    fs_tensor *y = fs_op_result(&op, x->ndim, shape);
    if (!y || end == begin) return y;
    const int64_t take = end - begin, rows = fs_tensor_count(y) / take;
    const float *from = fs_f32(x) + begin;
    float *to = fs_f32(y);
    const int threads = fs_op_threads(&op, rows * take);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < rows; i++) memcpy(to + i * take, from + i * width, (size_t)take * sizeof *to);
    return y;
}

/* Rows that were taken several times add up. Threads divide what a row holds, as which rows are alike is not known. params: the rows */
static void gather_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "gather_rows"};
    const int64_t *rows = node->params, width = row_count(node->in[0]), n = node->out->shape[0];
    float *dx = fs_grad(c, node->in[0]);
    const int threads = (int)fs_min_i64(fs_op_threads(&op, n * width), fs_max_i64(1, width / 16));
    const int64_t share = (width + threads - 1) / threads;
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int t = 0; t < threads; t++) {
        const int64_t j = t * share, cols = fs_min_i64(share, width - j);
        for (int64_t i = 0; dx && cols > 0 && i < n; i++)
            c->backend->add(dx + rows[i] * width + j, node->grad + i * width + j, dx + rows[i] * width + j, cols);
    }
}

fs_tensor *fs_gather_rows(fs_exec *c, const fs_tensor *x, const int64_t *rows, int64_t n) {
    const fs_op op = {.c = c, .name = "gather_rows", .in = {x}, .backward = gather_backward, .params = rows,
                      .params_size = n > 0 ? (size_t)n * sizeof *rows : 0};
    if (!fs_op_ready(&op, 1) || !fs_op_needs_f32(&op, 0)) return NULL;
    if (x->ndim < 1 || n < 0) return fs_op_misuse(&op, "no %" PRId64 " rows can be taken of %s", n, fs_op_describe(x).text);
    for (int64_t i = 0; i < n; i++)
        if (rows[i] < 0 || rows[i] >= x->shape[0]) return fs_op_misuse(&op, "no row %" PRId64 " in %s", rows[i], fs_op_describe(x).text);
    int64_t shape[FS_MAX_DIMS];
    memcpy(shape, x->shape, sizeof shape);
    shape[0] = n;
    fs_tensor *y = fs_op_result(&op, x->ndim, shape);
    const int64_t width = row_count(x);
    for (int64_t i = 0; y && width && i < n; i++) memcpy(fs_f32(y) + i * width, fs_f32(x) + rows[i] * width, (size_t)width * sizeof(float));
    return y;
}

/* The parts, more than a node's inputs may be, in the parameters: [count][descriptor]. */
static void concat_backward(fs_exec *c, const fs_tape_node *n) {
    const float *dy = n->grad;
    const fs_tensor *const *parts = n->params;
    for (int64_t done = 0; done < n->count; parts++) {
        const int64_t count = fs_tensor_count(*parts);
        bool fresh;
        float *dx = fs_grad_into(c, *parts, &fresh);
        if (dx) fs_add_to(c, dx, dy + done, count, fresh);
        done += count;
    }
}

fs_tensor *fs_concat_rows(fs_exec *c, const fs_tensor *const *parts, size_t n) {
    fs_op op = {.c = c, .name = "concat_rows", .in = {n ? parts[0] : NULL}};
    if (!fs_op_ready(&op, 1)) return NULL;
    int64_t shape[FS_MAX_DIMS], rows = 0;
    memcpy(shape, parts[0]->shape, sizeof shape);
    for (size_t i = 0; i < n; i++) {
        op.in[0] = parts[i];
        if (!fs_op_ready(&op, 1) || !fs_op_needs_f32(&op, 0)) return NULL;
        bool fits = parts[i]->ndim == parts[0]->ndim && parts[i]->ndim > 0;
        for (int d = 1; fits && d < parts[0]->ndim; d++) fits = parts[i]->shape[d] == shape[d];
        if (!fits)
            return fs_op_misuse(&op, "part %zu, %s, does not fit part 0, %s", i, fs_op_describe(parts[i]).text,
                                fs_op_describe(parts[0]).text);
        rows += parts[i]->shape[0];
    }
    op.in[0] = parts[0];
    for (size_t i = 0; i < n; i++)
        if (fs_wants_grad(parts[i])) op.in[0] = parts[i]; /* one is enough to be recorded; all of them are in the parameters */
    op.backward = concat_backward;
    op.params = parts;
    op.params_size = n * sizeof *parts;
    shape[0] = rows;
    fs_tensor *y = fs_op_result(&op, parts[0]->ndim, shape);
    if (!y) return NULL;
    float *to = fs_f32(y);
    for (size_t i = 0; i < n; i++) {
        const int64_t count = fs_tensor_count(parts[i]);
        if (count) memcpy(to, parts[i]->data, (size_t)count * sizeof *to);
        to += count;
    }
    return y;
}

enum { TILE = 16 }; /* 16 x 16 floats: whole cache lines both ways */

/* Rows [i0, i1) of x: [rows, cols] into columns of y: [cols, rows]. */
static void transpose_rows(const float *x, int64_t rows, int64_t cols, int64_t i0, int64_t i1, float *y) {
    for (int64_t j0 = 0; j0 < cols; j0 += TILE)
        for (int64_t j = j0; j < fs_min_i64(cols, j0 + TILE); j++)
            for (int64_t i = i0; i < i1; i++) y[j * rows + i] = x[i * cols + j];
}

static void transpose_backward(fs_exec *c, const fs_tape_node *n) {
    const fs_op op = {.c = c, .name = "transpose"};
    const int64_t rows = n->in[0]->shape[0], cols = row_count(n->in[0]), strips = (rows + TILE - 1) / TILE;
    float *dx = fs_grad(c, n->in[0]);
    const int threads = fs_op_threads(&op, rows * cols);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t s = 0; s < (dx ? strips : 0); s++)
        for (int64_t j0 = 0; j0 < cols; j0 += TILE)
            for (int64_t i = s * TILE; i < fs_min_i64(rows, s * TILE + TILE); i++)
                for (int64_t j = j0; j < fs_min_i64(cols, j0 + TILE); j++) dx[i * cols + j] += n->grad[j * rows + i];
}

fs_tensor *fs_transpose(fs_exec *c, const fs_tensor *x) {
    const fs_op op = {.c = c, .name = "transpose", .in = {x}, .backward = transpose_backward};
    if (!fs_op_ready(&op, 1) || !fs_op_needs_f32(&op, 0)) return NULL;
    if (x->ndim < 2) return fs_op_misuse(&op, "expected two or more dimensions, found %s", fs_op_describe(x).text);
    const int64_t rows = x->shape[0], cols = row_count(x);
    fs_tensor *y = fs_op_result(&op, 2, (const int64_t[]){cols, rows});
    if (!y) return NULL;
    const int64_t strips = (rows + TILE - 1) / TILE;
    const int threads = fs_op_threads(&op, rows * cols);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t s = 0; s < strips; s++)
        transpose_rows(fs_f32(x), rows, cols, s * TILE, fs_min_i64(rows, s * TILE + TILE), fs_f32(y));
    return y;
}

fs_tensor *fs_to_f32(fs_exec *c, const fs_tensor *w) {
    const fs_op op = {.c = c, .name = "to_f32", .in = {w}, .backward = same_backward};
    if (!fs_op_ready(&op, 1)) return NULL;
    if (!fs_is_float(w->dtype)) return fs_op_misuse(&op, "expected a float type, found %s", fs_op_describe(w).text);
    fs_tensor *y = fs_op_result(&op, w->ndim, w->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const float *values = fs_op_values(&op, w);
    const size_t bytes = (size_t)fs_tensor_count(w) * sizeof *values;
    if (values && bytes) memcpy(y->data, values, bytes);
    fs_arena_release(c->arena, mark);
    return values ? y : NULL;
}

/* ---- windows ---- */

/* Copies the rows of one window between the grid [h, w, C] and the window [win, win, C]. */
static void copy_window(float *grid, float *window, int64_t h, int64_t w, int64_t channels, int64_t win, int64_t y0, int64_t x0,
                        bool to_grid) {
    for (int64_t r = 0; r < win; r++) {
        const int64_t y = y0 + r, cols = y < h ? fs_max_i64(0, fs_min_i64(win, w - x0)) : 0;
        float *row = window + r * win * channels, *line = grid + (y * w + x0) * channels;
        const size_t bytes = (size_t)(cols * channels) * sizeof *row;
        if (to_grid) {
            if (cols) memcpy(line, row, bytes);
        } else {
            if (cols) memcpy(row, line, bytes);
            memset(row + cols * channels, 0, (size_t)((win - cols) * channels) * sizeof *row);
        }
    }
}

/* Adds the windows' values to the grid, or the grid's to the windows. */
static void add_windows(float *grid, float *windows, int64_t h, int64_t w, int64_t channels, int64_t win, bool to_grid) {
    const int64_t across = (w + win - 1) / win;
    for (int64_t y = 0; y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            float *a = grid + (y * w + x) * channels;
            float *b = windows + (((y / win * across + x / win) * win + y % win) * win + x % win) * channels;
            for (int64_t i = 0; i < channels; i++) *(to_grid ? a + i : b + i) += to_grid ? b[i] : a[i];
        }
}
static void partition_backward(fs_exec *c, const fs_tape_node *n) {
    const fs_tensor *x = n->in[0];
    float *dx = fs_grad(c, x);
    if (dx) add_windows(dx, n->grad, x->shape[0], x->shape[1], x->shape[2], *(const int64_t *)n->params, true);
}
static void unpartition_backward(fs_exec *c, const fs_tape_node *n) {
    float *dx = fs_grad(c, n->in[0]);
    if (dx) add_windows(n->grad, dx, n->out->shape[0], n->out->shape[1], n->out->shape[2], *(const int64_t *)n->params, false);
}

fs_tensor *fs_window_partition(fs_exec *c, const fs_tensor *x, int64_t win) {
    const fs_op op = {.c = c, .name = "window_partition", .in = {x}, .backward = partition_backward, .params = &win, .params_size = sizeof win};
    if (!fs_op_ready(&op, 1) || !fs_op_needs_f32(&op, 0)) return NULL;
    if (x->ndim != 3 || win < 1)
        return fs_op_misuse(&op, "expected [h,w,C] and a window, found %s and %" PRId64, fs_op_describe(x).text, win);
    const int64_t h = x->shape[0], w = x->shape[1], channels = x->shape[2], across = (w + win - 1) / win,
                  count = (h + win - 1) / win * across;
    fs_tensor *y = fs_op_result(&op, 3, (const int64_t[]){count, win * win, channels});
    if (!y) return NULL;
    const int threads = fs_op_threads(&op, fs_tensor_count(y));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; i++)
        copy_window(fs_f32(x), fs_f32(y) + i * win * win * channels, h, w, channels, win, i / across * win, i % across * win, false);
    return y;
}

fs_tensor *fs_window_unpartition(fs_exec *c, const fs_tensor *x, int64_t win, int64_t h, int64_t w) {
    const fs_op op = {.c = c, .name = "window_unpartition", .in = {x}, .backward = unpartition_backward, .params = &win, .params_size = sizeof win};
    if (!fs_op_ready(&op, 1) || !fs_op_needs_f32(&op, 0)) return NULL;
    const int64_t across = win > 0 ? (w + win - 1) / win : 0, count = win > 0 ? (h + win - 1) / win * across : 0;
    if (x->ndim != 3 || win < 1 || h < 1 || w < 1 || x->shape[0] != count || x->shape[1] != win * win)
        return fs_op_misuse(&op, "%s is not %" PRId64 " windows of %" PRId64 " x %" PRId64, fs_op_describe(x).text, count, win, win);
    const int64_t channels = x->shape[2];
    fs_tensor *y = fs_op_result(&op, 3, (const int64_t[]){h, w, channels});
    if (!y) return NULL;
    const int threads = fs_op_threads(&op, fs_tensor_count(y));
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t i = 0; i < count; i++)
        copy_window(fs_f32(y), fs_f32(x) + i * win * win * channels, h, w, channels, win, i / across * win, i % across * win, true);
    return y;
}
