/* Attention, one head at a time: softmax(q k^T) v with the scores of one block of queries in memory, never the whole matrix. Two passes
 * over the keys (scores, then the weighted sum) rather than an online softmax, because a 16-bit network rounds the finished
 * probabilities. Both products use the register tile of the backend:
 *
 *     keys   packed [panel of keys][d][tile_cols]                  once a head
 *     values packed [block of keys][panel of dv][KC][tile_cols]    once a head
 *     scores        [block of keys][QUERIES][KC]                   rows at the stride the tile wants for its left operand
 *
 * fs_attention_rel adds SAM's decomposed relative positions (segment_anything/modeling/image_encoder.py, after MViTv2, Li et al. 2022):
 * query (y, x) and key (y', x') get q . Rh[y - y' + h - 1] + q . Rw[x - x' + w - 1]. All 2h-1 + 2w-1 products of a query are taken, then
 * the wanted ones are picked. Few queries (a token at a time) go through dot products instead of tiles. */
#include <inttypes.h>
#include <omp.h>
#include <string.h>

#include "tensor/op.h"

enum { KC = FS_GEMM_KC, QUERIES = 56 /* rows of a score block: 4096 keys take 0.9 MB, a level-2 cache */ };

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
    const float *rel_h, *rel_w; /* packed tables; NULL for none */
    int64_t h, w;               /* the grid, for them */
} attention;

/* One thread's memory; sizes in floats. */
typedef struct scratch { float *keys, *values, *queries, *plain, *scores, *rel_h, *rel_w; } scratch;
typedef struct sizes { int64_t keys, values, queries, scores, rel_h, rel_w, total; } sizes;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
static int64_t round_up(int64_t n, int64_t to) { return ceil_div(n, to) * to; }

static sizes scratch_sizes(const attention *a) {
    const int64_t tc = a->be->tile_cols;
    sizes s = {.keys = round_up(a->nk, tc) * a->d,
               .values = round_up(a->nk, KC) * round_up(a->dv, tc),
               .queries = QUERIES * round_up(a->d, KC),
               .scores = QUERIES * round_up(a->nk, KC)};
    if (a->rel_h) {
        s.rel_h = QUERIES * round_up(2 * a->h - 1, tc);
        s.rel_w = QUERIES * round_up(2 * a->w - 1, tc);
    }
    s.total = s.keys + s.values + 2 * s.queries + s.scores + s.rel_h + s.rel_w;
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
    return m;
}

/* keys, values: those of one head */
static void pack_head(const attention *a, const float *keys, const float *values, const scratch *m) {
    const int64_t tc = a->be->tile_cols, panels = ceil_div(a->dv, tc);
    for (int64_t j = 0; j < a->nk; j += tc)
        a->be->pack_rows(keys + j * a->k_ld, FS_DTYPE_F32, a->k_ld, fs_min_i64(tc, a->nk - j), a->d, FS_DTYPE_F32, m->keys + j * a->d);
    for (int64_t j = 0; j < a->nk; j++)
        for (int64_t e = 0, p = 0; e < a->dv; e += tc, p++) {
            float *out = m->values + ((j / KC * panels + p) * KC + j % KC) * tc;
            const int64_t cols = fs_min_i64(tc, a->dv - e);
            memcpy(out, values + j * a->v_ld + e, (size_t)cols * sizeof *out);
            if (cols < tc) memset(out + cols, 0, (size_t)(tc - cols) * sizeof *out);
        }
}

/* Rows of queries at the tile's stride: [block of d][QUERIES][KC], scaled into m->queries and, for relative positions, as they are. */
static void load_queries(const attention *a, const float *q, int64_t rows, const scratch *m) {
    for (int64_t e = 0; e < a->d; e += KC)
        for (int64_t i = 0; i < rows; i++) {
            const int64_t at = (e / KC * QUERIES + i) * KC, n = fs_min_i64(KC, a->d - e);
            a->be->scale(q + i * a->q_ld + e, a->q_scale, m->queries + at, n);
            if (a->q_scale != 1.0f) a->be->round(m->queries + at, n, a->precision);
            if (a->rel_h) memcpy(m->plain + at, q + i * a->q_ld + e, (size_t)n * sizeof *q);
        }
}

/* out[rows, cols] (stride ldc) = queries x one packed panel [d][tile_cols] */
static void times_panel(const attention *a, const float *queries, int64_t rows, const float *panel, int64_t cols, float *out, int64_t ldc) {
    const int64_t tr = a->be->tile_rows, tc = a->be->tile_cols;
    for (int64_t i = 0; i < rows; i += tr)
        for (int64_t e = 0; e < a->d; e += KC)
            a->be->gemm_tile(fs_min_i64(tr, rows - i), cols, fs_min_i64(KC, a->d - e), queries + (e / KC * QUERIES + i) * KC,
                             panel + e * tc, out + i * ldc, ldc, e > 0);
}

/* out: [rows][round_up(2n-1)], rounded: queries against a whole packed table of 2n-1 rows */
static void times_table(const attention *a, const scratch *m, int64_t rows, const float *table, int64_t n, float *out) {
    const int64_t tc = a->be->tile_cols, count = 2 * n - 1, ld = round_up(count, tc);
    for (int64_t j = 0; j < count; j += tc) times_panel(a, m->plain, rows, table + j * a->d, fs_min_i64(tc, count - j), out + j, ld);
    for (int64_t i = 0; i < rows; i++) a->be->round(out + i * ld, count, a->precision);
}

/* s[0..n) = (s + up) + across, each sum rounded */
static void add_terms(const attention *a, float *s, float up, const float *across, int64_t n) {
    if (a->precision == FS_DTYPE_F32) {
        for (int64_t i = 0; i < n; i++) s[i] = (s[i] + up) + across[i];
        return;
    }
    a->be->affine(s, 1.0f, up, s, n);
    a->be->round(s, n, a->precision);
    a->be->add(s, across, s, n);
    a->be->round(s, n, a->precision);
}

/* Adds the relative terms to the scores of query `token` (row i of the block). */
static void add_relative(const attention *a, const scratch *m, int64_t i, int64_t token) {
    const int64_t tc = a->be->tile_cols, y = token / a->w, x = token % a->w;
    const float *rh = m->rel_h + i * round_up(2 * a->h - 1, tc) + y + a->h - 1,
                *rw = m->rel_w + i * round_up(2 * a->w - 1, tc) + x + a->w - 1;
    float across[256]; /* of up to 256 key columns, in key order */
    for (int64_t x0 = 0; x0 < a->w; x0 += 256) {
        const int64_t n = fs_min_i64(256, a->w - x0);
        for (int64_t kx = 0; kx < n; kx++) across[kx] = rw[-(x0 + kx)];
        for (int64_t ky = 0; ky < a->h; ky++)
            for (int64_t done = 0; done < n;) { /* a row of keys may cross from one block of scores to the next */
                const int64_t key = ky * a->w + x0 + done, piece = fs_min_i64(n - done, KC - key % KC);
                add_terms(a, m->scores + (key / KC * QUERIES + i) * KC + key % KC, rh[-ky], across + done, piece);
                done += piece;
            }
    }
}

/* Row i of the scores becomes probabilities over its first `seen` keys, 0 for the rest up to `limit`. */
static void softmax_row(const attention *a, float *row, int64_t block_stride, int64_t seen, int64_t limit) {
    const fs_backend *be = a->be;
    float max = -__builtin_inff();
    double sum = 0;
    for (int64_t j = 0; j < seen; j += KC) {
        float *s = row + j / KC * block_stride;
        const int64_t n = fs_min_i64(KC, seen - j);
        if (!a->rel_h) be->round(s, n, a->precision); /* with relative terms that was done before they were added */
        if (a->score_scale != 1.0f) {
            be->scale(s, a->score_scale, s, n);
            be->round(s, n, a->precision);
        }
        const float m = be->max(s, n);
        if (m > max) max = m;
    }
    for (int64_t j = 0; j < seen; j += KC) {
        float *s = row + j / KC * block_stride;
        sum += be->exp_sum(s, max, s, fs_min_i64(KC, seen - j));
    }
    for (int64_t j = 0; j < seen; j += KC) {
        float *s = row + j / KC * block_stride;
        const int64_t n = fs_min_i64(KC, seen - j);
        be->scale(s, (float)(1.0 / sum), s, n);
        be->round(s, n, a->precision);
    }
    for (int64_t j = seen; j < limit; j++) row[j / KC * block_stride + j % KC] = 0.0f;
}

/* Queries [i0, i0 + rows) of one head whose keys and values are packed. */
static void attend_block(const attention *a, const float *q, int64_t i0, int64_t rows, const scratch *m, float *y) {
    const int64_t tr = a->be->tile_rows, tc = a->be->tile_cols, panels = ceil_div(a->dv, tc);
    const int64_t before = a->nk - a->nq, limit = a->causal ? before + i0 + rows : a->nk;
    load_queries(a, q + i0 * a->q_ld, rows, m);
    for (int64_t j = 0; j < limit; j += tc)
        times_panel(a, m->queries, rows, m->keys + j * a->d, fs_min_i64(tc, limit - j), m->scores + j / KC * QUERIES * KC + j % KC, KC);
    if (a->rel_h) {
        times_table(a, m, rows, a->rel_h, a->h, m->rel_h);
        times_table(a, m, rows, a->rel_w, a->w, m->rel_w);
        for (int64_t i = 0; i < rows; i++) {
            for (int64_t j = 0; j < limit; j += KC)
                a->be->round(m->scores + (j / KC * QUERIES + i) * KC, fs_min_i64(KC, limit - j), a->precision);
            add_relative(a, m, i, i0 + i);
        }
    }
    for (int64_t i = 0; i < rows; i++)
        softmax_row(a, m->scores + i * KC, QUERIES * KC, a->causal ? before + i0 + i + 1 : a->nk, limit);
    y += i0 * a->y_ld;
    for (int64_t i = 0; i < rows; i += tr)
        for (int64_t e = 0, p = 0; e < a->dv; e += tc, p++)
            for (int64_t j = 0; j < limit; j += KC)
                a->be->gemm_tile(fs_min_i64(tr, rows - i), fs_min_i64(tc, a->dv - e), fs_min_i64(KC, limit - j),
                                 m->scores + (j / KC * QUERIES + i) * KC, m->values + (j / KC * panels + p) * KC * tc, y + i * a->y_ld + e,
                                 a->y_ld, j > 0);
    for (int64_t i = 0; i < rows; i++) a->be->round(y + i * a->y_ld, a->dv, a->precision);
}

/* All queries of one head, few of them. scores: [nq][nk] */
static void attend_few(const attention *a, const float *q, const float *k, const float *v, float *scores, float *y) {
    for (int64_t i = 0; i < a->nq; i += FS_DOT_MAX_ROWS)
        a->be->dot_rows(q + i * a->q_ld, a->q_ld, fs_min_i64(FS_DOT_MAX_ROWS, a->nq - i), k, FS_DTYPE_F32, a->k_ld, a->nk, a->d,
                        scores + i * a->nk, a->nk);
    for (int64_t i = 0; i < a->nq; i++) {
        const int64_t seen = a->causal ? a->nk - a->nq + i + 1 : a->nk;
        softmax_row(a, scores + i * a->nk, KC, seen, seen);
        a->be->weighted_rows(scores + i * a->nk, v, a->v_ld, seen, a->dv, y + i * a->y_ld);
        a->be->round(y + i * a->y_ld, a->dv, a->precision);
    }
}

/* Every (window, head, part of the queries) is a task; parts are made only when there are few heads for the threads. */
static bool run(const fs_op *op, const attention *a) {
    const int64_t units = a->windows * a->heads;
    if (a->nq == 0 || units == 0) return true;
    const bool few = a->nq <= FS_GEMM_FEW_ROWS && !a->rel_h;
    const int threads = fs_op_threads(op, units * a->nq * (a->nk / 16 + 1) * (a->d + a->dv));
    const int64_t blocks = ceil_div(a->nq, QUERIES);
    const int64_t parts = few ? 1 : fs_min_i64(blocks, units < 2 * threads ? ceil_div(2 * threads, units) : 1);
    const int64_t part = ceil_div(blocks, parts) * QUERIES;
    sizes s = {.total = a->nq * a->nk};
    if (!few) s = scratch_sizes(a);
    float *memory = fs_op_scratch(op, s.total * threads, sizeof *memory);
    if (!memory) return false;
    const int64_t group = a->heads / a->heads_kv;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t t = 0; t < units * parts; t++) {
        const int64_t window = t / parts / a->heads, head = t / parts % a->heads, i0 = t % parts * part;
        const float *q = a->q + window * a->nq * a->q_ld + head * a->d;
        const float *k = a->k + window * a->nk * a->k_ld + head / group * a->d, *v = a->v + window * a->nk * a->v_ld + head / group * a->dv;
        float *y = a->y + window * a->nq * a->y_ld + head * a->dv, *mine = memory + s.total * omp_get_thread_num();
        if (few) {
            attend_few(a, q, k, v, mine, y);
            continue;
        }
        const scratch m = split(&s, mine);
        pack_head(a, k, v, &m);
        for (int64_t i = i0; i < fs_min_i64(a->nq, i0 + part); i += QUERIES) attend_block(a, q, i, fs_min_i64(QUERIES, a->nq - i), &m, y);
    }
    return true;
}

fs_tensor *fs_attention(fs_exec *c, const fs_tensor *q, const fs_tensor *k, const fs_tensor *v, float scale, bool causal) {
    const fs_op op = {c, "attention", {q, k, v}};
    if (!fs_op_ready(&op, 3) || !fs_op_needs_f32(&op, 0) || !fs_op_needs_f32(&op, 1) || !fs_op_needs_f32(&op, 2)) return NULL;
    const bool fits = q->ndim == 3 && k->ndim == 3 && v->ndim == 3 && q->shape[2] == k->shape[2] && k->shape[0] == v->shape[0] &&
                      k->shape[1] == v->shape[1] && k->shape[1] > 0 && q->shape[1] % k->shape[1] == 0 && q->shape[2] > 0 &&
                      k->shape[0] > 0 && (!causal || k->shape[0] >= q->shape[0]);
    if (!fits)
        return fs_op_misuse(&op, "q %s, k %s, v %s do not fit%s", fs_op_describe(q).text, fs_op_describe(k).text, fs_op_describe(v).text,
                            causal ? " (causal: no fewer keys than queries)" : "");
    const int64_t heads = q->shape[1], heads_kv = k->shape[1], d = q->shape[2], dv = v->shape[2];
    fs_tensor *y = fs_op_result(&op, 3, (const int64_t[]){q->shape[0], heads, dv});
    if (!y) return NULL;
    const attention a = {.be = c->backend, .precision = c->precision, .q = fs_f32(q), .k = fs_f32(k), .v = fs_f32(v), .y = fs_f32(y),
                         .nq = q->shape[0], .nk = k->shape[0], .d = d, .dv = dv, .q_ld = heads * d, .k_ld = heads_kv * d,
                         .v_ld = heads_kv * dv, .y_ld = heads * dv, .windows = 1, .heads = heads, .heads_kv = heads_kv, .q_scale = 1.0f,
                         .score_scale = scale, .causal = causal};
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const bool ok = run(&op, &a);
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}

/* The table packed as a right operand: [panel of rows][d][tile_cols]. */
static float *pack_table(const fs_op *op, const fs_tensor *t) {
    const fs_backend *be = op->c->backend;
    const int64_t rows = t->shape[0], d = t->shape[1], tc = be->tile_cols;
    const float *values = fs_op_values(op, t);
    float *out = fs_op_scratch(op, round_up(rows, tc) * d, sizeof *out);
    if (!values || !out) return NULL;
    for (int64_t j = 0; j < rows; j += tc)
        be->pack_rows(values + j * d, FS_DTYPE_F32, d, fs_min_i64(tc, rows - j), d, FS_DTYPE_F32, out + j * d);
    return out;
}

static bool same_shape(const fs_tensor *a, const fs_tensor *b) {
    return a->ndim == b->ndim && memcmp(a->shape, b->shape, sizeof a->shape) == 0;
}

fs_tensor *fs_attention_rel(fs_exec *c, const fs_tensor *q, const fs_tensor *k, const fs_tensor *v, const fs_tensor *rel_h,
                            const fs_tensor *rel_w, int64_t h, int64_t w, float scale) {
    const fs_op op = {c, "attention_rel", {q, k, v, rel_h, rel_w}};
    if (!fs_op_ready(&op, 5) || !fs_op_needs_f32(&op, 0) || !fs_op_needs_f32(&op, 1) || !fs_op_needs_f32(&op, 2)) return NULL;
    if (q->ndim != 4 || !same_shape(q, k) || !same_shape(q, v) || h < 1 || w < 1 || q->shape[1] != h * w || q->shape[3] < 1)
        return fs_op_misuse(&op, "q %s, k %s, v %s are not alike over a grid of %" PRId64 " x %" PRId64, fs_op_describe(q).text,
                            fs_op_describe(k).text, fs_op_describe(v).text, h, w);
    const int64_t heads = q->shape[2], d = q->shape[3], ld = heads * d;
    if (rel_h->ndim != 2 || rel_w->ndim != 2 || rel_h->shape[0] != 2 * h - 1 || rel_w->shape[0] != 2 * w - 1 || rel_h->shape[1] != d ||
        rel_w->shape[1] != d || !fs_is_float(rel_h->dtype) || !fs_is_float(rel_w->dtype))
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
