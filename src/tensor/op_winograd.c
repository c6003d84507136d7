/* Winograd's convolution (Lavin and Gray 2015): kernel, squares of the picture and squares of the result each have (m + 2)^2 values in a
 * space where convolving is multiplying, so at each of those points there is one matrix product over channels, [out, in] x [in, squares].
 * With m = 4 a result takes 2.25 multiplications a channel in place of 9.
 *
 *     kernel   [points / a row][blocks of in][out][KC]   rows of KC hold several points where the channels are few
 *     squares  [points][in][tile_cols]                   of one strip: whole lines of squares, at most tile_cols of them
 *     products [points][out][tile_cols]
 *
 * Each thread takes the strips of its part of the picture if that wastes little, else they share channels and points of one strip; no sum is
 * divided, so bits do not depend on them. */
#include <omp.h>
#include <string.h>

#include "backend/share.h"
#include "tensor/op_winograd.h"

enum { VECTOR = 16 }; /* columns are multiplied in such groups */

static int64_t ceil_div(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}
static int64_t points_of(const fs_winograd *p) {
    return (p->m + 2) * (p->m + 2);
}
static int64_t points_a_row(const fs_winograd *p) {
    return fs_max_i64(1, FS_GEMM_KC / p->in);
}

bool fs_winograd_fits(const fs_backend *be, const fs_winograd *p) {
    return p->m > 0 && p->h > 0 && ceil_div(p->w, p->m) <= be->tile_cols;
}

int fs_winograd_choose(const fs_backend *be, const fs_winograd *p) {
    int64_t least = 9 * ceil_div(p->h * p->w, VECTOR) * 2 / 3; /* what the transforms cost must be won back */
    int best = 0;
    for (int m = 2; m <= 4; m += 2) {
        const fs_winograd plan = {m, p->in, p->out, p->h, p->w};
        const int64_t cost = points_of(&plan) * ceil_div(ceil_div(p->h, m) * ceil_div(p->w, m), VECTOR);
        if (!fs_winograd_fits(be, &plan) || cost >= least || p->in < 16 || p->out < 16) continue;
        least = cost;
        best = m;
    }
    return best;
}

int64_t fs_winograd_floats(const fs_winograd *p) {
    return ceil_div(points_of(p), points_a_row(p)) * ceil_div(p->in, FS_GEMM_KC) * p->out * FS_GEMM_KC;
}

/* Where the values of channels from k0 on of a point begin for output channel o. */
static int64_t kernel_at(const fs_winograd *p, int64_t point, int64_t k0, int64_t o) {
    const int64_t per = points_a_row(p), blocks = ceil_div(p->in, FS_GEMM_KC);
    return ((point / per * blocks + k0 / FS_GEMM_KC) * p->out + o) * FS_GEMM_KC + point % per * p->in;
}

enum { WIDE = FS_GEMM_KC + 16 }; /* channels of a row, and a margin: rows are not a power of two apart */

/* One row or column of kernels, G g: from 3 values to m + 2, for n channels; rows at stride `step`. */
static void turn_three(int m, const float *g, int64_t step, float *out, int64_t n) {
    const float *g0 = g, *g1 = g + step, *g2 = g + 2 * step;
    if (m == 2)
        for (int64_t c = 0; c < n; c++) {
            const float a = g0[c], b = g1[c], e = g2[c];
            out[c] = a;
            out[WIDE + c] = 0.5f * (a + b + e);
            out[2 * WIDE + c] = 0.5f * (a - b + e);
            out[3 * WIDE + c] = e;
        }
    else
        for (int64_t c = 0; c < n; c++) {
            const float a = g0[c], b = g1[c], e = g2[c];
            out[c] = a / 4;
            out[WIDE + c] = -(a + b + e) / 6;
            out[2 * WIDE + c] = -(a - b + e) / 6;
            out[3 * WIDE + c] = (a + 2 * b + 4 * e) / 24;
            out[4 * WIDE + c] = (a - 2 * b + 4 * e) / 24;
            out[5 * WIDE + c] = e;
        }
}

/* Channels [k0, k0 + n) of output channel o. */
static void turn_kernels(const fs_backend *be, const fs_winograd *p, const fs_tensor *w, int64_t o, int64_t k0, int64_t n, float *u) {
    float values[9 * FS_GEMM_KC], g[9 * WIDE], down[3 * 6 * WIDE], all[6 * WIDE];
    const int size = p->m + 2;
    be->to_f32((const char *)w->data + (size_t)((o * p->in + k0) * 9) * fs_dtype_size(w->dtype), w->dtype, values, 9 * n);
    for (int64_t c = 0; c < n; c++)
        for (int64_t i = 0; i < 9; i++) g[i * WIDE + c] = values[c * 9 + i];
    for (int64_t j = 0; j < 3; j++) turn_three(p->m, g + j * WIDE, 3 * WIDE, down + j * 6 * WIDE, n);
    for (int i = 0; i < size; i++) {
        turn_three(p->m, down + i * WIDE, 6 * WIDE, all, n);
        for (int j = 0; j < size; j++) memcpy(u + kernel_at(p, i * size + j, k0, o), all + j * WIDE, (size_t)n * sizeof *all);
    }
}

void fs_winograd_kernel(const fs_op *op, const fs_winograd *p, const fs_tensor *w, float *u) {
    const int threads = fs_op_threads(op, p->out * p->in * 36);
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t o = 0; o < p->out; o++)
        for (int64_t k0 = 0; k0 < p->in; k0 += FS_GEMM_KC) turn_kernels(op->c->backend, p, w, o, k0, fs_min_i64(FS_GEMM_KC, p->in - k0), u);
}

/* ---- one strip of squares ---- */

typedef struct strip {
    const fs_backend *be;
    const fs_winograd *p;
    int64_t line, lines, tiles; /* lines of squares from `line` on; squares in a line */
    float *v, *products;
    int64_t v_step,
        p_step; /* from point to point: not a power of two, or all points of a square would want the same few lines of the caches */
} strip;

enum { ROW = 4 * (FS_GEMM_MAX_COLS + 16), PAD = 16, FAR_FLOATS = 1 << 19 /* larger kernels come from memory */ };

static void take_channel(const strip *s, const float *x, int64_t c) {
    const fs_winograd *p = s->p;
    s->be->winograd_in(p->m, x + c * p->h * p->w, p->h, p->w, s->line, s->lines, s->v + c * s->be->tile_cols, s->v_step);
}

/* Rows [o0, o1) of the product at a point. */
static void multiply_point(const strip *s, const float *u, int64_t point, int64_t o0, int64_t o1) {
    const int64_t tc = s->be->tile_cols, tr = s->be->tile_rows, in = s->p->in, cols = s->lines * s->tiles;
    const bool far = fs_winograd_floats(s->p) > FAR_FLOATS;
    for (int64_t k0 = 0; k0 < in; k0 += FS_GEMM_KC)
        for (int64_t o = o0; o < o1; o += tr) {
            const float *rows = u + kernel_at(s->p, point, k0, o);
            s->be->gemm_tile(fs_min_i64(tr, o1 - o), cols, fs_min_i64(FS_GEMM_KC, in - k0), rows, s->v + point * s->v_step + k0 * tc,
                             s->products + point * s->p_step + o * tc, tc, k0 > 0, far && o + tr < o1 ? rows + tr * FS_GEMM_KC : NULL);
        }
}

static void give_channel(const strip *s, const fs_finish *finish, int64_t o, float *y) {
    const int64_t m = s->p->m, w = s->p->w, row = m * s->tiles;
    float rows[4 * ROW], *plane = y + o * s->p->h * w; /* the first rows of all squares, the second ones .. */
    s->be->winograd_out((int)m, s->products + o * s->be->tile_cols, s->p_step, s->lines * s->tiles, rows, ROW);
    for (int64_t a = 0; a < m; a++) {
        const int64_t first = s->line * m + a, whole = first < s->p->h ? fs_min_i64(s->lines, (s->p->h - 1 - first) / m + 1) : 0;
        fs_finish_pieces(s->be, finish, o, first * w, whole, w, m * w, rows + a * ROW, row, plane + first * w);
    }
}

/* A strip by one thread. */
static void run_strip(const strip *s, const float *u, const float *x, const fs_finish *finish, float *y) {
    for (int64_t c = 0; c < s->p->in; c++) take_channel(s, x, c);
    for (int64_t t = 0; t < points_of(s->p); t++) multiply_point(s, u, t, 0, s->p->out);
    for (int64_t o = 0; o < s->p->out; o++) give_channel(s, finish, o, y);
}

/* A strip by all threads of the team. */
static void share_strip(const strip *s, const float *u, const float *x, const fs_finish *finish, float *y) {
    const int64_t points = points_of(s->p), cut = ceil_div(s->p->out, 2 * s->be->tile_rows) * s->be->tile_rows;
#pragma omp for schedule(static)
    for (int64_t c = 0; c < s->p->in; c++) take_channel(s, x, c);
#pragma omp for schedule(dynamic, 1)
    for (int64_t t = 0; t < 2 * points; t++) multiply_point(s, u, t / 2, t % 2 * cut, fs_min_i64(s->p->out, (t % 2 + 1) * cut));
#pragma omp for schedule(static)
    for (int64_t o = 0; o < s->p->out; o++) give_channel(s, finish, o, y);
}

/* Lines of squares in strips of at most `most`, so that as many strips fall to each of `parts` equal parts of the picture. */
typedef struct strips { int64_t lines, most, parts, each; } strips;

static strips cut_strips(int64_t lines, int64_t most, int64_t parts) {
    return (strips){lines, most, parts, ceil_div(ceil_div(lines, parts), most)};
}

static strip strip_of(const strips *all, int64_t i, strip s) {
    const int64_t part = i / all->each, end = all->lines * (part + 1) / all->parts;
    s.line = all->lines * part / all->parts + i % all->each * all->most;
    s.lines = fs_max_i64(0, fs_min_i64(all->most, end - s.line));
    return s;
}

/* Columns are multiplied in vectors; how many of them the largest part takes. */
static int64_t most_vectors(const strips *all, int64_t tiles) {
    int64_t most = 0;
    for (int64_t part = 0; part < all->parts; part++) {
        int64_t vectors = 0;
        for (int64_t i = 0; i < all->each; i++) vectors += ceil_div(strip_of(all, part * all->each + i, (strip){0}).lines * tiles, VECTOR);
        most = fs_max_i64(most, vectors);
    }
    return most;
}

bool fs_winograd_run(const fs_op *op, const fs_winograd *p, const float *u, const float *x, const fs_finish *finish, float *y) {
    const fs_backend *be = op->c->backend;
    const int64_t points = points_of(p), tc = be->tile_cols, tiles = ceil_div(p->w, p->m), lines = ceil_div(p->h, p->m);
    const int threads = fs_op_threads(op, p->out * p->in * p->h * p->w / 16);
    const strips whole = cut_strips(lines, fs_min_i64(lines, tc / tiles), 1), parts = cut_strips(lines, whole.most, threads);
    const bool apart = most_vectors(&parts, tiles) * threads * 4 <= most_vectors(&whole, tiles) * 5; /* a part a thread, unless it wastes a quarter */
    const int64_t v_step = p->in * tc + PAD, p_step = p->out * tc + PAD, v_floats = points * v_step, floats = v_floats + points * p_step;
    const fs_arena_mark mark = fs_arena_get_mark(op->c->arena);
    float *memory = fs_op_scratch(op, floats * (apart ? threads : 1), sizeof *memory);
    fs_shares tasks;
    fs_shares_begin(&tasks, parts.parts * parts.each, threads);
#pragma omp parallel num_threads(threads) if (threads > 1)
    if (memory && apart) {
        const int thread = omp_get_thread_num();
        float *own = memory + thread * floats;
        const strip s = {be, p, 0, 0, tiles, own, own + v_floats, v_step, p_step};
        int helped = 0;
        for (int64_t i; (i = fs_shares_next(&tasks, thread, &helped)) >= 0;) {
            const strip one = strip_of(&parts, i, s);
            if (one.lines) run_strip(&one, u, x, finish, y);
        }
    } else if (memory) {
        const strip s = {be, p, 0, 0, tiles, memory, memory + v_floats, v_step, p_step};
        for (int64_t i = 0; i < whole.each; i++) {
            const strip one = strip_of(&whole, i, s);
            share_strip(&one, u, x, finish, y);
        }
    }
    fs_arena_release(op->c->arena, mark);
    return memory != NULL;
}
