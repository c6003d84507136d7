/* The backward pass of attention, plain and with SAM's relative positions (op_attention.c). Nothing of the forward pass is kept: the probabilities P
 * of a block of queries are computed again from q and k (as FlashAttention does, Dao et al. 2022), so memory grows with a block's scores only.
 * With S = scale q k^T + A, where A holds the relative terms:
 *     dv = P^T dy,   dP = dy v^T,   dS = P (dP - sum of dP P over keys),   dq = scale dS k,   dk = scale dS^T q
 * The term of query (y, x) for key (y', x') is q . Rh[y - y' + h - 1] + q . Rw[x - x' + w - 1]; so, with G [queries, 2h-1] the sums of dS over
 * the keys that share a row of Rh: dq += G Rh, dRh = G^T q, and for Rw alike.
 *
 * Threads take heads (those of one key head together, as they add to the same gradients), or, where heads are fewer, each product of a head. Sums
 * run in the same order either way. */
#include "tensor/op_attention.h"

#include <omp.h>
#include <string.h>

enum {
    BLOCK_SCORES = 1 << 19, /* of a block of queries: 2 MB, and as much for their gradient */
    PIECE = 512,            /* of a row of scores that is summed at once */
    CAUSAL_QUERIES = 128    /* of a block whose queries do not see all keys: later keys are left out */
};

/* One head of one window. Rows of q and dq lie q_ld apart, and so on. Gradients that are not wanted are NULL. */
typedef struct head {
    const float *q, *k, *v, *dy;
    float *dq, *dk, *dv;
    const float *rel_h, *rel_w; /* [2h-1, d], [2w-1, d]; NULL for none */
    float *drel_h, *drel_w;
} head;

typedef struct job {
    const fs_backend *be;
    int64_t nq, nk, d, dv, q_ld, k_ld, v_ld, y_ld, h, w;
    float scale;
    bool causal;
} job;

/* Where a head is computed: by how many threads, and whose memory. */
typedef struct worker { fs_arena *arena; int threads; } worker;

/* out[m, n] = or += a b. a at the strides given; b: [n, k] if turned, else [k, n], rows b_ld apart. */
typedef struct operand { const float *p; int64_t row, col; } operand;
static bool product(const job *j, worker at, int64_t m, int64_t n, int64_t k, operand a, const float *b, int64_t b_ld, bool turned, bool add,
                    float *out, int64_t ld) {
    const fs_gemm g = {.m = m, .n = n, .k = k, .a = a.p, .a_type = FS_DTYPE_F32, .a_round = FS_DTYPE_F32, .a_row = a.row, .a_col = a.col,
                       .pack = turned ? fs_gemm_pack_nk : fs_gemm_pack_kn, .b = b, .b_type = FS_DTYPE_F32, .b_round = FS_DTYPE_F32, .b_ld = b_ld,
                       .c = out, .ldc = ld, .add = add, .finish.round = FS_DTYPE_F32};
    return fs_gemm_run(j->be, &g, at.threads, at.arena);
}

/* The relative terms of query (y, x) onto its scores. up: [2h-1], across: [2w-1], its products with the tables. */
static void add_terms(const job *j, const float *up, const float *across, int64_t y, int64_t x, float *s) {
    for (int64_t ky = 0; ky < j->h; ky++)
        for (int64_t kx = 0; kx < j->w; kx++) s[ky * j->w + kx] += up[y - ky + j->h - 1] + across[x - kx + j->w - 1];
}

/* Their gradient: sums of ds over the keys of a line and of a column, in the tables' order. */
static void sum_terms(const job *j, const float *ds, int64_t y, int64_t x, float *up, float *across) {
    memset(up, 0, (size_t)(2 * j->h - 1) * sizeof *up);
    memset(across, 0, (size_t)(2 * j->w - 1) * sizeof *across);
    for (int64_t ky = 0; ky < j->h; ky++) up[y - ky + j->h - 1] = (float)j->be->sum(ds + ky * j->w, j->w);
    for (int64_t ky = 0; ky < j->h; ky++)
        for (int64_t kx = 0; kx < j->w; kx++) across[x - kx + j->w - 1] += ds[ky * j->w + kx];
}

/* A query of a block that sees no more than `keys`. s: its scores q k^T, to probabilities; g: dP, to dS. */
static void softmax_back(const job *j, int64_t query, int64_t keys, const float *up, const float *across, float *s, float *g) {
    const int64_t seen = j->causal ? j->nk - j->nq + query + 1 : j->nk;
    j->be->scale(s, j->scale, s, seen);
    if (up) add_terms(j, up, across, query / j->w, query % j->w, s);
    j->be->scale(s, (float)(1.0 / j->be->exp_sum(s, j->be->max(s, seen), s, seen)), s, seen);
    double sum = 0;
    for (int64_t k = 0; k < seen; k += PIECE) {
        float part[PIECE];
        const int64_t n = fs_min_i64(PIECE, seen - k);
        j->be->mul(g + k, s + k, part, n);
        sum += j->be->sum(part, n);
    }
    j->be->affine(g, 1.0f, (float)-sum, g, seen);
    j->be->mul(g, s, g, seen);
    if (seen < keys) {
        memset(s + seen, 0, (size_t)(keys - seen) * sizeof *s);
        memset(g + seen, 0, (size_t)(keys - seen) * sizeof *g);
    }
}

typedef struct block { float *p, *ds, *up, *across; } block; /* [rows, keys] twice, [rows, 2h-1], [rows, 2w-1] */

/* Queries [i0, i0 + rows) */
static bool head_block(const job *j, const head *t, worker at, int64_t i0, int64_t rows, const block *m) {
    const float *q = t->q + i0 * j->q_ld, *dy = t->dy + i0 * j->y_ld;
    const int64_t ups = 2 * j->h - 1, acrosses = 2 * j->w - 1;
    const int64_t keys = j->causal ? j->nk - j->nq + i0 + rows : j->nk;
    const operand queries = {q, j->q_ld, 1};
    if (!product(j, at, rows, keys, j->d, queries, t->k, j->k_ld, true, false, m->p, keys) ||
        !product(j, at, rows, keys, j->dv, (operand){dy, j->y_ld, 1}, t->v, j->v_ld, true, false, m->ds, keys))
        return false;
    if (t->rel_h && (!product(j, at, rows, ups, j->d, queries, t->rel_h, j->d, true, false, m->up, ups) ||
                     !product(j, at, rows, acrosses, j->d, queries, t->rel_w, j->d, true, false, m->across, acrosses)))
        return false;
#pragma omp parallel for schedule(static) num_threads(at.threads)
    for (int64_t i = 0; i < rows; i++) {
        float *ds = m->ds + i * keys, *up = t->rel_h ? m->up + i * ups : NULL, *across = t->rel_h ? m->across + i * acrosses : NULL;
        softmax_back(j, i0 + i, keys, up, across, m->p + i * keys, ds);
        if (up) sum_terms(j, ds, (i0 + i) / j->w, (i0 + i) % j->w, up, across);
        j->be->scale(ds, j->scale, ds, keys);
    }
    bool ok = !t->dv || product(j, at, keys, j->dv, rows, (operand){m->p, 1, keys}, dy, j->y_ld, false, true, t->dv, j->v_ld);
    float *dq = t->dq ? t->dq + i0 * j->q_ld : NULL;
    if (dq) ok = ok && product(j, at, rows, j->d, keys, (operand){m->ds, keys, 1}, t->k, j->k_ld, false, true, dq, j->q_ld);
    if (t->dk) ok = ok && product(j, at, keys, j->d, rows, (operand){m->ds, 1, keys}, q, j->q_ld, false, true, t->dk, j->k_ld);
    if (dq && t->rel_h)
        ok = ok && product(j, at, rows, j->d, ups, (operand){m->up, ups, 1}, t->rel_h, j->d, false, true, dq, j->q_ld) &&
             product(j, at, rows, j->d, acrosses, (operand){m->across, acrosses, 1}, t->rel_w, j->d, false, true, dq, j->q_ld);
    if (t->drel_h) ok = ok && product(j, at, ups, j->d, rows, (operand){m->up, 1, ups}, q, j->q_ld, false, true, t->drel_h, j->d);
    if (t->drel_w) ok = ok && product(j, at, acrosses, j->d, rows, (operand){m->across, 1, acrosses}, q, j->q_ld, false, true, t->drel_w, j->d);
    return ok;
}

static bool head_back(const job *j, const head *t, worker at) {
    const int64_t fit = BLOCK_SCORES / j->nk, most = fs_max_i64(1, fs_min_i64(j->nq, j->causal ? fs_min_i64(CAUSAL_QUERIES, fit) : fit));
    const int64_t terms = t->rel_h ? most * 2 * (j->h + j->w) : 0;
    const fs_arena_mark mark = fs_arena_get_mark(at.arena);
    float *scratch = fs_arena_alloc(at.arena, (size_t)(2 * most * j->nk + terms) * sizeof *scratch);
    bool ok = scratch != NULL;
    const block m = {.p = scratch, .ds = scratch + most * j->nk, .up = scratch + 2 * most * j->nk, .across = scratch + 2 * most * (j->nk + j->h)};
    for (int64_t i = 0; ok && i < j->nq; i += most) ok = head_block(j, t, at, i, fs_min_i64(most, j->nq - i), &m);
    fs_arena_release(at.arena, mark);
    return ok;
}

/* What a task computes: all heads that add to the same gradients. */
typedef bool (*task_fn)(const job *j, const void *user, int64_t task, worker at);

static void run_tasks(const fs_op *op, const job *j, int64_t tasks, int64_t work, task_fn fn, const void *user) {
    const int threads = fs_op_threads(op, work);
    int failed = 0;
    if (tasks < threads || threads == 1) {
        for (int64_t t = 0; t < tasks && !failed; t++) failed = !fn(j, user, t, (worker){op->c->arena, threads});
    } else {
#pragma omp parallel num_threads(threads) reduction(+ : failed)
        {
            fs_arena *own = fs_arena_create(1 << 20);
#pragma omp for schedule(dynamic, 1)
            for (int64_t t = 0; t < tasks; t++) failed += !own || !fn(j, user, t, (worker){own, 1});
            fs_arena_free(own);
        }
    }
    if (failed) fs_exec_fail(op->c, FS_E_NO_MEMORY, "%s: out of memory for the scores of a block of queries", op->name);
}

static float *moved(float *p, int64_t by) { return p ? p + by : NULL; }

/* ---- plain ---- */

typedef struct plain { head first; int64_t group; } plain; /* first: head 0 */

static bool plain_task(const job *j, const void *user, int64_t kv, worker at) {
    const plain *p = user;
    bool ok = true;
    for (int64_t h = kv * p->group; ok && h < (kv + 1) * p->group; h++) {
        const head t = {.q = p->first.q + h * j->d, .k = p->first.k + kv * j->d, .v = p->first.v + kv * j->dv, .dy = p->first.dy + h * j->dv,
                        .dq = moved(p->first.dq, h * j->d), .dk = moved(p->first.dk, kv * j->d), .dv = moved(p->first.dv, kv * j->dv)};
        ok = head_back(j, &t, at);
    }
    return ok;
}

void fs_attention_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "attention's backward"};
    const fs_attention_params *p = node->params;
    const fs_tensor *q = node->in[0], *k = node->in[1], *v = node->in[2];
    const int64_t heads = q->shape[1], heads_kv = k->shape[1], d = q->shape[2], dv = v->shape[2];
    job j = {.be = c->backend, .nq = q->shape[0], .nk = k->shape[0], .d = d, .dv = dv, .q_ld = heads * d, .k_ld = heads_kv * d,
                   .v_ld = heads_kv * dv, .y_ld = heads * dv, .scale = p->scale, .causal = p->causal};
    plain all = {.first = {.q = fs_f32(q), .k = fs_f32(k), .v = fs_f32(v), .dy = node->grad, .dq = fs_grad(c, q), .dk = fs_grad(c, k),
                                 .dv = fs_grad(c, v)},
                       .group = heads / heads_kv};
    head *t = &all.first;
    for (size_t i = 0; i < (p->parts ? p->parts : 1) && !c->error.status; i++) {
        if (p->parts) j.nq = j.nk = p->lengths[i];
        run_tasks(&op, &j, heads_kv, heads * j.nq * (j.nk / 16 + 1) * (d + dv), plain_task, &all);
        t->q += j.nq * j.q_ld, t->k += j.nk * j.k_ld, t->v += j.nk * j.v_ld, t->dy += j.nq * j.y_ld;
        t->dq = moved(t->dq, j.nq * j.q_ld), t->dk = moved(t->dk, j.nk * j.k_ld), t->dv = moved(t->dv, j.nk * j.v_ld);
    }
}

/* ---- with relative positions ---- */

typedef struct relative { head first; int64_t windows; } relative; /* first: window 0, head 0; drel_h, drel_w: of all heads, one after the other */

static bool relative_task(const job *j, const void *user, int64_t h, worker at) {
    const relative *p = user;
    head t = p->first;
    t.drel_h = moved(t.drel_h, h * (2 * j->h - 1) * j->d);
    t.drel_w = moved(t.drel_w, h * (2 * j->w - 1) * j->d);
    bool ok = true;
    for (int64_t i = 0; ok && i < p->windows; i++) {
        const int64_t by = i * j->nq * j->q_ld + h * j->d;
        t.q = p->first.q + by, t.k = p->first.k + by, t.v = p->first.v + by, t.dy = p->first.dy + by;
        t.dq = moved(p->first.dq, by), t.dk = moved(p->first.dk, by), t.dv = moved(p->first.dv, by);
        ok = head_back(j, &t, at);
    }
    return ok;
}

/* The table's gradient += those that its heads found, in order. */
static void add_heads(const fs_backend *be, const float *of_heads, int64_t heads, int64_t n, float *to) {
    for (int64_t h = 0; to && h < heads; h++) be->add(to, of_heads + h * n, to, n);
}

void fs_attention_rel_backward(fs_exec *c, const fs_tape_node *node) {
    const fs_op op = {.c = c, .name = "attention_rel's backward"};
    const fs_attention_params *p = node->params;
    const fs_tensor *q = node->in[0];
    const int64_t heads = q->shape[2], d = q->shape[3], ld = heads * d, up = (2 * p->h - 1) * d, across = (2 * p->w - 1) * d;
    const job j = {.be = c->backend, .nq = p->h * p->w, .nk = p->h * p->w, .d = d, .dv = d, .q_ld = ld, .k_ld = ld, .v_ld = ld, .y_ld = ld, .h = p->h,
                   .w = p->w, .scale = p->scale};
    float *drel_h = fs_grad(c, node->in[3]), *drel_w = fs_grad(c, node->in[4]);
    relative all = {.first = {.q = fs_f32(q), .k = fs_f32(node->in[1]), .v = fs_f32(node->in[2]), .dy = node->grad, .dq = fs_grad(c, q),
                              .dk = fs_grad(c, node->in[1]), .dv = fs_grad(c, node->in[2]), .rel_h = fs_op_values(&op, node->in[3]),
                              .rel_w = fs_op_values(&op, node->in[4])},
                    .windows = q->shape[0]};
    float *of_heads = fs_op_scratch(&op, heads * (up + across), sizeof *of_heads);
    if (!of_heads || !all.first.rel_h || !all.first.rel_w || c->error.status) return;
    memset(of_heads, 0, (size_t)(heads * (up + across)) * sizeof *of_heads);
    if (drel_h) all.first.drel_h = of_heads;
    if (drel_w) all.first.drel_w = of_heads + heads * up;
    run_tasks(&op, &j, heads, all.windows * heads * j.nq * (j.nk / 16 + 1) * 2 * d, relative_task, &all);
    add_heads(c->backend, of_heads, heads, up, drel_h);
    add_heads(c->backend, of_heads + heads * up, heads, across, drel_w);
}
