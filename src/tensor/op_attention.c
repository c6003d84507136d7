/* Attention, one head at a time: softmax(q k^T) v with the scores of one block of queries against a span of keys in memory, never the whole
 * matrix. Both products use the register tile of the backend:
 *
 *     keys   packed [panel of keys][d][tile_cols]                  once a head
 *     values packed [block of keys][panel of dv][KC][tile_cols]    once a head
 *     scores        [block of keys of the span][QUERIES][KC]       rows at the stride the tile wants for its left operand
 *
 * In f32 the maximum and the sum are kept from span to span and the division comes last (online softmax, Milakov and Gimelshein 2018;
 * FlashAttention, Dao et al. 2022). A 16-bit network rounds the finished probabilities, so there one span holds all keys.
 *
 * SAM adds decomposed relative positions (segment_anything/modeling/image_encoder.py, after MViTv2, Li et al. 2022):
 * query (y, x) and key (y', x') get q . Rh[y - y' + h - 1] + q . Rw[x - x' + w - 1]. All 2h-1 + 2w-1 products of a query are taken, with the
 * tables turned round so that the wanted ones lie in the order of the keys; in f32 they are in the scores before the product is added.
 * fs_attention_grid reads q, k, v of a window where the qkv product left them. Few queries (a token at a time) go through dot products
 * instead of tiles. The backward pass stands in op_attention_back.c. */
#include <inttypes.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "tensor/op_attention.h"

enum {
    KC = FS_GEMM_KC,
    QUERIES = 56, /* rows of a score block: four of the tallest tile */
    SPAN = 1024   /* keys whose scores are kept: 224 KiB of them */
};

typedef struct attention {
    const fs_backend *be;
    fs_dtype precision;
    const float *q, *k, *v; /* of window 0, head 0; tokens at the strides below */
    float *y;
    int64_t nq, nk, d, dv;
    int64_t q_ld, k_ld, v_ld, y_ld;
    int64_t windows, heads, heads_kv;
    float q_scale, score_scale; /* 1 = none */
    bool causal;
    const float *rel_h, *rel_w;     /* packed tables, turned round; NULL for none */
    int64_t h, w;                   /* the grid of a window, for them */
    int64_t picture_h, picture_w;   /* windows are cut out of a picture of so many tokens; 0: they lie one after the other */
    const float *pad_k, *pad_v;     /* head 0 of the token that stands outside the picture */
} attention;

/* A window and a head: where its first token is, and how many lines and columns of tokens there are inside the picture. */
typedef struct place { const float *q, *k, *v, *pad_k, *pad_v; float *y; int64_t rows, cols; } place;

/* One thread's memory; sizes in floats. */
typedef struct scratch { float *keys, *values, *queries, *plain, *scores, *rel_h, *rel_w, *out, *max, *sum, *gather; } scratch;
typedef struct sizes { int64_t keys, values, queries, scores, rel_h, rel_w, out, gather, total; } sizes;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }

static int64_t span_of(const attention *a) { return a->precision == FS_DTYPE_F32 ? fs_min_i64(a->nk, SPAN) : a->nk; }

static sizes scratch_sizes(const attention *a) {
    const int64_t tc = a->be->tile_cols;
    sizes s = {.keys = round_up(a->nk, tc) * a->d,
               .values = round_up(a->nk, KC) * round_up(a->dv, tc),
               .queries = QUERIES * round_up(a->d, KC),
               .scores = QUERIES * round_up(span_of(a), KC),
               .out = QUERIES * round_up(a->dv, 16)};
    if (a->rel_h) {
        s.rel_h = QUERIES * round_up(2 * a->h - 1, tc);
        s.rel_w = QUERIES * round_up(2 * a->w - 1, tc);
    }
    if (a->picture_w) s.gather = tc * a->d;
    s.total = round_up(s.keys + s.values + 2 * s.queries + s.scores + s.rel_h + s.rel_w + s.out + 2 * QUERIES + s.gather, 1024);
    return s;
}

static scratch split(const sizes *s, float *base) {
    scratch m;
    m.keys = base;
    m.values = m.keys + s->keys;
    m.queries = m.values + s->values;
    m.plain = m.queries + s->queries;
    m.scores = m.plain + s->queries;
    m.rel_h = m.scores + s->scores;
    m.rel_w = m.rel_h + s->rel_h;
    m.out = m.rel_w + s->rel_w;
    m.max = m.out + s->out;
    m.sum = m.max + QUERIES;
    m.gather = m.sum + QUERIES;
    return m;
}

static place locate(const attention *a, int64_t window, int64_t head) {
    const int64_t kv = head / (a->heads / a->heads_kv);
    place p = {.q = a->q + head * a->d, .k = a->k + kv * a->d, .v = a->v + kv * a->dv, .y = a->y + head * a->dv};
    if (!a->picture_w) {
        p.q += window * a->nq * a->q_ld;
        p.k += window * a->nk * a->k_ld;
        p.v += window * a->nk * a->v_ld;
        p.y += window * a->nq * a->y_ld;
        p.rows = a->rel_h ? a->h : 1;
        p.cols = a->rel_h ? a->w : a->nq;
        return p;
    }
    const int64_t across = ceil_div(a->picture_w, a->w), y0 = window / across * a->h, x0 = window % across * a->w, first = y0 * a->picture_w + x0;
    p.q += first * a->q_ld;
    p.k += first * a->k_ld;
    p.v += first * a->v_ld;
    p.y += first * a->y_ld;
    p.pad_k = a->pad_k + kv * a->d;
    p.pad_v = a->pad_v + kv * a->dv;
    p.rows = fs_min_i64(a->h, a->picture_h - y0);
    p.cols = fs_min_i64(a->w, a->picture_w - x0);
    return p;
}

/* Query i of those inside the picture: how many tokens after the place's first it lies. */
static int64_t query_at(const attention *a, const place *p, int64_t i) {
    return i / p->cols * (a->picture_w ? a->picture_w : p->cols) + i % p->cols;
}

/* Key j of the window, in `from` (its keys or values); the padding's where it lies outside the picture. */
static const float *key_at(const attention *a, const place *p, int64_t j, const float *from, int64_t ld, const float *pad) {
    if (!a->picture_w) return from + j * ld;
    const int64_t y = j / a->w, x = j % a->w;
    return y < p->rows && x < p->cols ? from + (y * a->picture_w + x) * ld : pad;
}

static void pack_head(const attention *a, const place *p, const scratch *m) {
    const int64_t tc = a->be->tile_cols, panels = ceil_div(a->dv, tc);
    for (int64_t j = 0; j < a->nk; j += tc) {
        const int64_t n = fs_min_i64(tc, a->nk - j);
        const float *from = p->k + j * a->k_ld;
        int64_t ld = a->k_ld;
        if (a->picture_w) {
            from = m->gather;
            ld = a->d;
            for (int64_t r = 0; r < n; r++)
                memcpy(m->gather + r * ld, key_at(a, p, j + r, p->k, a->k_ld, p->pad_k), (size_t)a->d * sizeof *from);
        }
        a->be->pack_rows(from, FS_DTYPE_F32, ld, n, a->d, FS_DTYPE_F32, m->keys + j * a->d);
    }
    for (int64_t j = 0; j < a->nk; j++) {
        const float *value = key_at(a, p, j, p->v, a->v_ld, p->pad_v);
        for (int64_t e = 0, panel = 0; e < a->dv; e += tc, panel++) {
            float *out = m->values + ((j / KC * panels + panel) * KC + j % KC) * tc;
            const int64_t cols = fs_min_i64(tc, a->dv - e);
            memcpy(out, value + e, (size_t)cols * sizeof *out);
            if (cols < tc) memset(out + cols, 0, (size_t)(tc - cols) * sizeof *out);
        }
    }
}

/* Rows of queries at the tile's stride: [block of d][QUERIES][KC], scaled into m->queries and, for relative positions, as they are. */
static void load_queries(const attention *a, const place *p, int64_t i0, int64_t rows, const scratch *m) {
    for (int64_t i = 0; i < rows; i++) {
        const float *q = p->q + query_at(a, p, i0 + i) * a->q_ld;
        for (int64_t e = 0; e < a->d; e += KC) {
            const int64_t at = (e / KC * QUERIES + i) * KC, n = fs_min_i64(KC, a->d - e);
            a->be->scale(q + e, a->q_scale, m->queries + at, n);
            if (a->q_scale != 1.0f) a->be->round(m->queries + at, n, a->precision);
            if (a->rel_h) memcpy(m->plain + at, q + e, (size_t)n * sizeof *q);
        }
    }
}

/* out[rows, cols] (stride ldc) = or += queries x one packed panel [d][tile_cols] */
static void times_panel(const attention *a, const float *queries, int64_t rows, const float *panel, int64_t cols, float *out, int64_t ldc, bool add) {
    const int64_t tr = a->be->tile_rows, tc = a->be->tile_cols;
    for (int64_t i = 0; i < rows; i += tr)
        for (int64_t e = 0; e < a->d; e += KC)
            a->be->gemm_tile(fs_min_i64(tr, rows - i), cols, fs_min_i64(KC, a->d - e), queries + (e / KC * QUERIES + i) * KC,
                             panel + e * tc, out + i * ldc, ldc, add || e > 0, NULL);
}

/* out: [rows][round_up(2n-1)], rounded: queries against a whole packed table of 2n-1 rows */
static void times_table(const attention *a, const scratch *m, int64_t rows, const float *table, int64_t n, float *out) {
    const int64_t tc = a->be->tile_cols, count = 2 * n - 1, ld = round_up(count, tc);
    for (int64_t j = 0; j < count; j += tc) times_panel(a, m->plain, rows, table + j * a->d, fs_min_i64(tc, count - j), out + j, ld, false);
    for (int64_t i = 0; i < rows; i++) a->be->round(out + i * ld, count, a->precision);
}

/* s[0..n) = (s + up) + across, each sum rounded */
static void add_terms(const attention *a, float *s, float up, const float *across, int64_t n) {
    a->be->affine(s, 1.0f, up, s, n);
    a->be->round(s, n, a->precision);
    a->be->add(s, across, s, n);
    a->be->round(s, n, a->precision);
}

/* The relative terms of the query of row i, token (y, x), for keys [j0, j1): as the scores' beginning in f32, else added to them. */
static void relative_terms(const attention *a, const scratch *m, int64_t i, int64_t y, int64_t x, int64_t j0, int64_t j1) {
    const int64_t tc = a->be->tile_cols, w = a->w;
    const float *up = m->rel_h + i * round_up(2 * a->h - 1, tc) + a->h - 1 - y, *across = m->rel_w + i * round_up(2 * w - 1, tc) + w - 1 - x;
    const bool fill = a->precision == FS_DTYPE_F32;
    for (int64_t j = j0; j < j1;) { /* a line of keys may cross from one block of scores to the next */
        const int64_t in_block = fs_min_i64(j1 - j, KC - j % KC), kx = j % w;
        float *s = m->scores + ((j - j0) / KC * QUERIES + i) * KC + (j - j0) % KC;
        const int64_t lines = kx == 0 ? in_block / w : 0, n = lines ? lines * w : fs_min_i64(in_block, w - kx);
        if (fill)
            a->be->outer_sum(up + j / w, lines ? lines : 1, across + kx, lines ? w : n, s);
        else
            for (int64_t done = 0; done < n; done += lines ? w : n) add_terms(a, s + done, up[(j + done) / w], across + kx, lines ? w : n);
        j += n;
    }
}

/* The scores of one row over keys [0, n) of a span, of which the query sees `seen`: to exp(score - max), with max and sum going on from span
 * to span; with `whole` (the only span) to probabilities. 0 for keys that are not seen. Returns what earlier spans' results must be multiplied
 * by. */
static float softmax_row(const attention *a, float *row, int64_t block_stride, int64_t seen, int64_t n, bool whole, float *max, float *sum) {
    const fs_backend *be = a->be;
    const float before = *max;
    double total = 0;
    for (int64_t j = 0; j < seen; j += KC) {
        float *s = row + j / KC * block_stride;
        const int64_t part = fs_min_i64(KC, seen - j);
        if (!a->rel_h) be->round(s, part, a->precision); /* with relative terms that was done before they were added */
        if (a->score_scale != 1.0f) {
            be->scale(s, a->score_scale, s, part);
            be->round(s, part, a->precision);
        }
        const float largest = be->max(s, part);
        if (largest > *max) *max = largest;
    }
    for (int64_t j = 0; j < seen; j += KC) {
        float *s = row + j / KC * block_stride;
        total += be->exp_sum(s, *max, s, fs_min_i64(KC, seen - j));
    }
    for (int64_t j = 0; j < seen && whole; j += KC) {
        float *s = row + j / KC * block_stride;
        const int64_t part = fs_min_i64(KC, seen - j);
        be->scale(s, (float)(1.0 / total), s, part);
        be->round(s, part, a->precision);
    }
    for (int64_t j = seen; j < n; j++) row[j / KC * block_stride + j % KC] = 0.0f;
    const float change = *max > before ? expf(before - *max) : 1.0f;
    *sum = (float)((double)*sum * (double)change + total);
    return change;
}

/* Keys [j0, j1) for `rows` queries from i0 on: scores, softmax, and the weighted values added to m->out. */
static void attend_span(const attention *a, const place *p, int64_t i0, int64_t rows, int64_t j0, int64_t j1, const scratch *m) {
    const int64_t tr = a->be->tile_rows, tc = a->be->tile_cols, panels = ceil_div(a->dv, tc), ld = round_up(a->dv, 16);
    const bool fill = a->rel_h && a->precision == FS_DTYPE_F32;
    for (int64_t i = 0; i < rows && fill; i++) relative_terms(a, m, i, (i0 + i) / p->cols, (i0 + i) % p->cols, j0, j1);
    for (int64_t j = j0; j < j1; j += tc)
        times_panel(a, m->queries, rows, m->keys + j * a->d, fs_min_i64(tc, j1 - j), m->scores + (j - j0) / KC * QUERIES * KC + (j - j0) % KC, KC, fill);
    for (int64_t i = 0; i < rows && a->rel_h && !fill; i++) {
        for (int64_t j = j0; j < j1; j += KC) a->be->round(m->scores + ((j - j0) / KC * QUERIES + i) * KC, fs_min_i64(KC, j1 - j), a->precision);
        relative_terms(a, m, i, (i0 + i) / p->cols, (i0 + i) % p->cols, j0, j1);
    }
    for (int64_t i = 0; i < rows; i++) {
        const int64_t sees = a->causal ? a->nk - a->nq + i0 + i + 1 : a->nk;
        const float change = softmax_row(a, m->scores + i * KC, QUERIES * KC, fs_max_i64(0, fs_min_i64(sees, j1) - j0), j1 - j0,
                                         a->precision != FS_DTYPE_F32, &m->max[i], &m->sum[i]);
        if (j0 > 0 && change != 1.0f) a->be->scale(m->out + i * ld, change, m->out + i * ld, a->dv);
    }
    for (int64_t i = 0; i < rows; i += tr)
        for (int64_t e = 0, panel = 0; e < a->dv; e += tc, panel++)
            for (int64_t j = j0; j < j1; j += KC)
                a->be->gemm_tile(fs_min_i64(tr, rows - i), fs_min_i64(tc, a->dv - e), fs_min_i64(KC, j1 - j),
                                 m->scores + ((j - j0) / KC * QUERIES + i) * KC, m->values + (j / KC * panels + panel) * KC * tc, m->out + i * ld + e,
                                 ld, j > 0, NULL);
}

/* Queries [i0, i0 + rows) of a place whose keys and values are packed. */
static void attend_block(const attention *a, const place *p, int64_t i0, int64_t rows, const scratch *m) {
    const int64_t limit = a->causal ? a->nk - a->nq + i0 + rows : a->nk, span = fs_max_i64(1, span_of(a)), ld = round_up(a->dv, 16);
    load_queries(a, p, i0, rows, m);
    if (a->rel_h) {
        times_table(a, m, rows, a->rel_h, a->h, m->rel_h);
        times_table(a, m, rows, a->rel_w, a->w, m->rel_w);
    }
    for (int64_t i = 0; i < rows; i++) {
        m->max[i] = -INFINITY;
        m->sum[i] = 0.0f;
    }
    for (int64_t j = 0; j < limit; j += span) attend_span(a, p, i0, rows, j, fs_min_i64(limit, j + span), m);
    for (int64_t i = 0; i < rows; i++) {
        float *y = p->y + query_at(a, p, i0 + i) * a->y_ld;
        a->be->scale(m->out + i * ld, a->precision == FS_DTYPE_F32 ? 1.0f / m->sum[i] : 1.0f, y, a->dv);
        a->be->round(y, a->dv, a->precision);
    }
}

/* All queries of one head, few of them. scores: [nq][nk] */
static void attend_few(const attention *a, const place *p, float *scores) {
    for (int64_t i = 0; i < a->nq; i += FS_DOT_MAX_ROWS)
        a->be->dot_rows(p->q + i * a->q_ld, a->q_ld, fs_min_i64(FS_DOT_MAX_ROWS, a->nq - i), p->k, FS_DTYPE_F32, a->k_ld, a->nk, a->d,
                        scores + i * a->nk, a->nk);
    for (int64_t i = 0; i < a->nq; i++) {
        const int64_t seen = a->causal ? a->nk - a->nq + i + 1 : a->nk;
        float max = -INFINITY, sum = 0.0f, *y = p->y + i * a->y_ld;
        softmax_row(a, scores + i * a->nk, KC, seen, seen, true, &max, &sum);
        a->be->weighted_rows(scores + i * a->nk, p->v, a->v_ld, seen, a->dv, y);
        a->be->round(y, a->dv, a->precision);
    }
}

/* Every (window, head, part of the queries) is a task; parts are made only when there are few heads for the threads. */
static bool run(const fs_op *op, const attention *a) {
    const int64_t units = a->windows * a->heads;
    if (a->nq == 0 || units == 0) return true;
    const bool few = a->nq <= FS_GEMM_FEW_ROWS && !a->rel_h;
    const int threads = fs_op_threads(op, units * a->nq * (a->nk / 16 + 1) * (a->d + a->dv));
    const int64_t blocks = ceil_div(a->nq, QUERIES);
    const int64_t parts = few ? 1 : fs_min_i64(blocks, units < 4 * threads ? ceil_div(4 * threads, units) : 1);
    const int64_t part = ceil_div(blocks, parts) * QUERIES;
    sizes s = {.total = a->nq * a->nk};
    if (!few) s = scratch_sizes(a);
    float *memory = fs_op_scratch(op, s.total * threads, sizeof *memory);
    if (!memory) return false;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t t = 0; t < units * parts; t++) {
        const int64_t i0 = t % parts * part;
        const place p = locate(a, t / parts / a->heads, t / parts % a->heads);
        float *mine = memory + s.total * omp_get_thread_num();
        if (few) {
            attend_few(a, &p, mine);
            continue;
        }
        const int64_t n = fs_min_i64(p.rows * p.cols, i0 + part);
        const scratch m = split(&s, mine);
        if (i0 < n) pack_head(a, &p, &m);
        for (int64_t i = i0; i < n; i += QUERIES) attend_block(a, &p, i, fs_min_i64(QUERIES, n - i), &m);
    }
    return true;
}

/* lengths, n: sequences, or none for one of all rows. */
static fs_tensor *attend(const fs_op *op, float scale, bool causal, const int64_t *lengths, size_t n) {
    fs_exec *c = op->c;
    const fs_tensor *q = op->in[0], *k = op->in[1], *v = op->in[2];
    const bool fits = q->ndim == 3 && k->ndim == 3 && v->ndim == 3 && q->shape[2] == k->shape[2] && k->shape[0] == v->shape[0] &&
                      k->shape[1] == v->shape[1] && k->shape[1] > 0 && q->shape[1] % k->shape[1] == 0 && q->shape[2] > 0 &&
                      k->shape[0] > 0 && (!causal || k->shape[0] >= q->shape[0]);
    if (!fits)
        return fs_op_misuse(op, "q %s, k %s, v %s do not fit%s", fs_op_describe(q).text, fs_op_describe(k).text, fs_op_describe(v).text,
                            causal ? " (causal: no fewer keys than queries)" : "");
    const int64_t heads = q->shape[1], heads_kv = k->shape[1], d = q->shape[2], dv = v->shape[2];
    fs_tensor *y = fs_op_result(op, 3, (const int64_t[]){q->shape[0], heads, dv});
    if (!y) return NULL;
    attention a = {.be = c->backend, .precision = c->precision, .q = fs_f32(q), .k = fs_f32(k), .v = fs_f32(v), .y = fs_f32(y),
                         .nq = q->shape[0], .nk = k->shape[0], .d = d, .dv = dv, .q_ld = heads * d, .k_ld = heads_kv * d,
                         .v_ld = heads_kv * dv, .y_ld = heads * dv, .windows = 1, .heads = heads, .heads_kv = heads_kv, .q_scale = 1.0f,
                         .score_scale = scale, .causal = causal};
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    bool ok = true;
    if (n == 0) ok = run(op, &a);
    for (size_t i = 0; ok && i < n; i++) {
        a.nq = a.nk = lengths[i];
        ok = run(op, &a);
        a.q += a.nq * a.q_ld, a.k += a.nq * a.k_ld, a.v += a.nq * a.v_ld, a.y += a.nq * a.y_ld;
        fs_arena_release(c->arena, mark);
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

fs_tensor *fs_attention(fs_exec *c, const fs_tensor *q, const fs_tensor *k, const fs_tensor *v, float scale, bool causal) {
    const fs_attention_params params = {.scale = scale, .causal = causal};
    const fs_op op = {.c = c, .name = "attention", .in = {q, k, v}, .backward = fs_attention_backward, .params = &params, .params_size = sizeof params};
    if (!fs_op_ready(&op, 3) || !fs_op_needs_f32(&op, 0) || !fs_op_needs_f32(&op, 1) || !fs_op_needs_f32(&op, 2)) return NULL;
    return attend(&op, scale, causal, NULL, 0);
}

fs_tensor *fs_attention_apart(fs_exec *c, const fs_tensor *q, const fs_tensor *k, const fs_tensor *v, const int64_t *lengths, size_t n, float scale) {
    fs_op op = {.c = c, .name = "attention_apart", .in = {q, k, v}, .backward = fs_attention_backward};
    if (!fs_op_ready(&op, 3) || !fs_op_needs_f32(&op, 0) || !fs_op_needs_f32(&op, 1) || !fs_op_needs_f32(&op, 2)) return NULL;
    int64_t rows = 0;
    bool fits = n > 0;
    for (size_t i = 0; i < n && fits; i++) {
        fits = lengths[i] > 0 && lengths[i] <= q->shape[0] - rows;
        rows += lengths[i];
    }
    if (!fits || rows != q->shape[0] || k->shape[0] != rows)
        return fs_op_misuse(&op, "sequences of %" PRId64 " rows do not make up q %s, k %s", rows, fs_op_describe(q).text, fs_op_describe(k).text);
    op.params_size = sizeof(fs_attention_params) + n * sizeof *lengths;
    fs_attention_params *p = fs_op_scratch(&op, (int64_t)op.params_size, 1); /* small; goes with the caller's scope */
    if (!p) return NULL;
    *p = (fs_attention_params){.scale = scale, .causal = true, .parts = n};
    memcpy(p->lengths, lengths, n * sizeof *lengths);
    op.params = p;
    return attend(&op, scale, true, lengths, n);
}

/* The table, its rows from last to first, packed as a right operand: [panel of rows][d][tile_cols]. */
static float *pack_table(const fs_op *op, const fs_tensor *t) {
    const fs_backend *be = op->c->backend;
    const int64_t rows = t->shape[0], d = t->shape[1], tc = be->tile_cols;
    const float *values = fs_op_values(op, t);
    float *out = fs_op_scratch(op, round_up(rows, tc) * d, sizeof *out), *turned = fs_op_scratch(op, rows * d, sizeof *turned);
    if (!values || !out || !turned) return NULL;
    for (int64_t j = 0; j < rows; j++) memcpy(turned + j * d, values + (rows - 1 - j) * d, (size_t)d * sizeof *turned);
    for (int64_t j = 0; j < rows; j += tc)
        be->pack_rows(turned + j * d, FS_DTYPE_F32, d, fs_min_i64(tc, rows - j), d, FS_DTYPE_F32, out + j * d);
    return out;
}

static bool tables_fit(const fs_tensor *rel_h, const fs_tensor *rel_w, int64_t h, int64_t w, int64_t d) {
    return rel_h->ndim == 2 && rel_w->ndim == 2 && rel_h->shape[0] == 2 * h - 1 && rel_w->shape[0] == 2 * w - 1 && rel_h->shape[1] == d &&
           rel_w->shape[1] == d && fs_is_float(rel_h->dtype) && fs_is_float(rel_w->dtype);
}

static bool same_shape(const fs_tensor *a, const fs_tensor *b) {
    return a->ndim == b->ndim && memcmp(a->shape, b->shape, sizeof a->shape) == 0;
}

fs_tensor *fs_attention_rel(fs_exec *c, const fs_tensor *q, const fs_tensor *k, const fs_tensor *v, const fs_tensor *rel_h,
                            const fs_tensor *rel_w, int64_t h, int64_t w, float scale) {
    const fs_attention_params params = {.scale = scale, .h = h, .w = w};
    const fs_op op = {.c = c, .name = "attention_rel", .in = {q, k, v, rel_h, rel_w}, .backward = fs_attention_rel_backward, .params = &params,
                      .params_size = sizeof params};
    if (!fs_op_ready(&op, 5) || !fs_op_needs_f32(&op, 0) || !fs_op_needs_f32(&op, 1) || !fs_op_needs_f32(&op, 2)) return NULL;
    if (q->ndim != 4 || !same_shape(q, k) || !same_shape(q, v) || h < 1 || w < 1 || q->shape[1] != h * w || q->shape[3] < 1)
        return fs_op_misuse(&op, "q %s, k %s, v %s are not alike over a grid of %" PRId64 " x %" PRId64, fs_op_describe(q).text,
                            fs_op_describe(k).text, fs_op_describe(v).text, h, w);
    const int64_t heads = q->shape[2], d = q->shape[3], ld = heads * d;
    if (!tables_fit(rel_h, rel_w, h, w, d))
        return fs_op_misuse(&op, "tables %s and %s are not [2h-1,d], [2w-1,d] for %s on %" PRId64 " x %" PRId64, fs_op_describe(rel_h).text,
                            fs_op_describe(rel_w).text, fs_op_describe(q).text, h, w);
    fs_tensor *y = fs_op_result(&op, 4, q->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const attention a = {.be = c->backend, .precision = c->precision, .q = fs_f32(q), .k = fs_f32(k), .v = fs_f32(v), .y = fs_f32(y),
                         .nq = h * w, .nk = h * w, .d = d, .dv = d, .q_ld = ld, .k_ld = ld, .v_ld = ld, .y_ld = ld, .windows = q->shape[0],
                         .heads = heads, .heads_kv = heads, .q_scale = scale, .score_scale = 1.0f, .rel_h = pack_table(&op, rel_h),
                         .rel_w = pack_table(&op, rel_w), .h = h, .w = w};
    const bool ok = a.rel_h && a.rel_w && run(&op, &a);
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

fs_tensor *fs_attention_grid(fs_exec *c, const fs_tensor *qkv, int64_t heads, const fs_tensor *pad, const fs_tensor *rel_h, const fs_tensor *rel_w,
                             int64_t win, float scale) {
    const fs_op op = {.c = c, .name = "attention_grid", .in = {qkv, pad, rel_h, rel_w}};
    if (!fs_op_ready(&op, 4) || !fs_op_needs_f32(&op, 0)) return NULL;
    if (qkv->ndim != 3 || heads < 1 || win < 1 || qkv->shape[2] < 3 || qkv->shape[2] % (3 * heads))
        return fs_op_misuse(&op, "%s is not [h,w,3C] of %" PRId64 " heads in windows of %" PRId64, fs_op_describe(qkv).text, heads, win);
    const int64_t h = qkv->shape[0], w = qkv->shape[1], channels = qkv->shape[2] / 3, d = channels / heads;
    if (!fs_op_needs_vector(&op, pad, 3 * channels, "padding")) return NULL;
    if (!tables_fit(rel_h, rel_w, win, win, d))
        return fs_op_misuse(&op, "tables %s and %s are not [2n-1,d] for %s in windows of %" PRId64, fs_op_describe(rel_h).text,
                            fs_op_describe(rel_w).text, fs_op_describe(qkv).text, win);
    fs_tensor *y = fs_op_result(&op, 3, (const int64_t[]){h, w, channels});
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const float *outside = fs_op_values(&op, pad), *x = fs_f32(qkv);
    bool ok = outside != NULL;
    if (ok) {
        const attention a = {.be = c->backend, .precision = c->precision, .q = x, .k = x + channels, .v = x + 2 * channels, .y = fs_f32(y),
                             .nq = win * win, .nk = win * win, .d = d, .dv = d, .q_ld = 3 * channels, .k_ld = 3 * channels, .v_ld = 3 * channels,
                             .y_ld = channels, .windows = ceil_div(h, win) * ceil_div(w, win), .heads = heads, .heads_kv = heads, .q_scale = scale,
                             .score_scale = 1.0f, .rel_h = pack_table(&op, rel_h), .rel_w = pack_table(&op, rel_w), .h = win, .w = win,
                             .picture_h = h, .picture_w = w, .pad_k = outside + channels, .pad_v = outside + 2 * channels};
        ok = a.rel_h && a.rel_w && run(&op, &a);
    }
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}
