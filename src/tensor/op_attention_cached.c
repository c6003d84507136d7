/* Causal attention over a key/value cache, for one sequence or several in one step: softmax(q k^T) v of every new token over the tokens of
 * its own sequence. A token at a time (or a few, with guesses) reads the cache once, head by head, through dot products; a whole prompt
 * goes through the tiled attention of op_attention.c on the cache's values widened to f32. */
#include <inttypes.h>
#include <omp.h>
#include <string.h>

#include "tensor/kv_cache.h"
#include "tensor/op.h"

typedef struct cached {
    const fs_op *op;
    const fs_tensor *q, *k, *v;
    fs_tensor *y;
    const fs_kv_part *parts;
    size_t n_parts;
    int64_t layer, heads, heads_kv, d;
    float scale;
} cached;

_Static_assert((int)FS_FEW_ROWS == (int)FS_GEMM_FEW_ROWS, "what ops.h promises is what the kernels do");

static bool few(const fs_kv_part *p) { return p->rows <= FS_GEMM_FEW_ROWS; }

/* One row of a head into 8 bits: each 32 values share the scale that takes their largest to 127. */
static void quantize_row(const float *x, int64_t d, int8_t *q, float *scales) {
    for (int64_t g = 0; g < d / 32; g++) {
        float most = 0;
        for (int64_t i = 0; i < 32; i++) most = __builtin_fmaxf(most, __builtin_fabsf(x[g * 32 + i]));
        const float scale = most / 127.0f, inverse = most > 0 ? 127.0f / most : 0.0f;
        scales[g] = scale;
        for (int64_t i = 0; i < 32; i++) {
            const float v = x[g * 32 + i] * inverse;
            q[g * 32 + i] = (int8_t)(int)(v + (v < 0 ? -0.5f : 0.5f));
        }
    }
}

static void store_row(const fs_backend *be, const fs_kv_cache *s, void *rows, int64_t at, const float *x) {
    if (s->dtype == FS_DTYPE_Q8_0)
        quantize_row(x, s->d, (int8_t *)rows + at * s->d, fs_kv_scales(s, rows) + at * (s->d / 32));
    else
        be->from_f32(x, s->dtype, (char *)rows + (size_t)at * fs_kv_row_bytes(s->dtype, s->d), s->d);
}

static void load_row(const fs_backend *be, const fs_kv_cache *s, const void *rows, int64_t at, float *out) {
    if (s->dtype == FS_DTYPE_Q8_0) {
        const int8_t *q = (const int8_t *)rows + at * s->d;
        const float *scales = fs_kv_scales(s, rows) + at * (s->d / 32);
        for (int64_t i = 0; i < s->d; i++) out[i] = scales[i / 32] * (float)q[i];
    } else {
        be->to_f32((const char *)rows + (size_t)at * fs_kv_row_bytes(s->dtype, s->d), s->dtype, out, s->d);
    }
}

/* Rows of one head of k and v go into the cache. first: the part's first row */
static void store_head(const cached *a, const fs_kv_part *p, int64_t first, int64_t head) {
    const fs_kv_cache *s = p->cache;
    for (int64_t i = 0; i < p->rows; i++) {
        const int64_t at = s->length + i, from = ((first + i) * a->heads_kv + head) * a->d;
        store_row(a->op->c->backend, s, fs_kv_rows(s, a->layer, false, head, at / FS_KV_BLOCK), at % FS_KV_BLOCK, fs_f32(a->k) + from);
        store_row(a->op->c->backend, s, fs_kv_rows(s, a->layer, true, head, at / FS_KV_BLOCK), at % FS_KV_BLOCK, fs_f32(a->v) + from);
    }
}

static void dots(const fs_backend *be, const fs_kv_cache *s, const float *q, const void *keys, int64_t n, float *scores) {
    if (s->dtype == FS_DTYPE_Q8_0) be->kv_dots_q8(q, keys, fs_kv_scales(s, keys), n, s->d, scores);
    else be->kv_dots(q, keys, s->dtype, n, s->d, scores);
}
static void mix(const fs_backend *be, const fs_kv_cache *s, const float *p, const void *values, int64_t n, float *y, bool add) {
    if (s->dtype == FS_DTYPE_Q8_0) be->kv_mix_q8(p, values, fs_kv_scales(s, values), n, s->d, y, add);
    else be->kv_mix(p, values, s->dtype, n, s->d, y, add);
}

/* scores[0..n) become probabilities. As in op_attention.c: scores rounded, scaled, rounded. */
static void softmax_row(const cached *a, float *scores, int64_t n) {
    const fs_backend *be = a->op->c->backend;
    const fs_dtype precision = a->op->c->precision;
    be->round(scores, n, precision);
    be->scale(scores, a->scale, scores, n);
    be->round(scores, n, precision);
    const double sum = be->exp_sum(scores, be->max(scores, n), scores, n);
    be->scale(scores, (float)(1.0 / sum), scores, n);
    be->round(scores, n, precision);
}

/* The query heads that share key head `head`, for the rows of one part, few of them. */
static void attend_few(const cached *a, const fs_kv_part *p, int64_t first, int64_t head, float *scores) {
    const fs_backend *be = a->op->c->backend;
    const fs_kv_cache *s = p->cache;
    const int64_t d = a->d, group = a->heads / a->heads_kv, n = s->length + p->rows, queries = p->rows * group, q_ld = a->heads * d;
    /* query r is row r % rows of head r / rows of the group; a block of keys is still near when the next query comes to it */
    for (int64_t at = 0; at < n; at += FS_KV_BLOCK) {
        const void *keys = fs_kv_rows(s, a->layer, false, head, at / FS_KV_BLOCK);
        for (int64_t r = 0; r < queries; r++) {
            const int64_t seen = fs_min_i64(FS_KV_BLOCK, s->length + r % p->rows + 1 - at);
            const float *q = fs_f32(a->q) + (first + r % p->rows) * q_ld + (head * group + r / p->rows) * d;
            if (seen > 0) dots(be, s, q, keys, seen, scores + r * n + at);
        }
    }
    for (int64_t r = 0; r < queries; r++) softmax_row(a, scores + r * n, s->length + r % p->rows + 1);
    for (int64_t at = 0; at < n; at += FS_KV_BLOCK) {
        const void *values = fs_kv_rows(s, a->layer, true, head, at / FS_KV_BLOCK);
        for (int64_t r = 0; r < queries; r++) {
            const int64_t seen = fs_min_i64(FS_KV_BLOCK, s->length + r % p->rows + 1 - at);
            float *y = fs_f32(a->y) + (first + r % p->rows) * q_ld + (head * group + r / p->rows) * d;
            if (seen > 0) mix(be, s, scores + r * n + at, values, seen, y, at > 0);
        }
    }
    for (int64_t r = 0; r < queries; r++)
        be->round(fs_f32(a->y) + (first + r % p->rows) * q_ld + (head * group + r / p->rows) * d, d, a->op->c->precision);
}

/* [length + rows, heads_kv, d] of keys or values of one part, in f32 */
static fs_tensor *widened(const cached *a, const fs_kv_part *p, bool values, int threads) {
    const fs_kv_cache *s = p->cache;
    const int64_t n = s->length + p->rows;
    fs_tensor *t = fs_new_3d(a->op->c, n, a->heads_kv, a->d);
    if (!t) return NULL;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t head = 0; head < a->heads_kv; head++)
        for (int64_t at = 0; at < n; at++)
            load_row(a->op->c->backend, s, fs_kv_rows(s, a->layer, values, head, at / FS_KV_BLOCK), at % FS_KV_BLOCK,
                     fs_f32(t) + (at * a->heads_kv + head) * a->d);
    return t;
}

/* A prompt. Its result is made anew by fs_attention and copied to its place. */
static bool attend_many(const cached *a, const fs_kv_part *p, int64_t first, int threads) {
    fs_exec *c = a->op->c;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const int64_t n = p->cache->length + p->rows;
    const bool whole = p->cache->length == 0 && p->cache->dtype == FS_DTYPE_F32; /* the cache holds what we were given */
    const fs_tensor *q = fs_wrap(c, FS_DTYPE_F32, 3, (const int64_t[]){p->rows, a->heads, a->d}, fs_f32(a->q) + first * a->heads * a->d);
    const fs_tensor *k = whole ? fs_wrap(c, FS_DTYPE_F32, 3, (const int64_t[]){n, a->heads_kv, a->d}, fs_f32(a->k) + first * a->heads_kv * a->d)
                               : widened(a, p, false, threads);
    const fs_tensor *v = whole ? fs_wrap(c, FS_DTYPE_F32, 3, (const int64_t[]){n, a->heads_kv, a->d}, fs_f32(a->v) + first * a->heads_kv * a->d)
                               : widened(a, p, true, threads);
    const fs_tensor *y = fs_attention(c, q, k, v, a->scale, true);
    if (y) fs_copy_bytes(fs_f32(a->y) + first * a->heads * a->d, y->data, (size_t)(p->rows * a->heads * a->d) * sizeof(float), threads);
    fs_arena_release(c->arena, mark);
    return y != NULL;
}

static bool run(const cached *a) {
    const fs_op *op = a->op;
    int64_t work = 0, longest = 0;
    for (size_t i = 0; i < a->n_parts; i++) {
        const fs_kv_part *p = &a->parts[i];
        work += p->rows * (p->cache->length + p->rows) * a->heads * a->d;
        if (few(p)) longest = fs_max_i64(longest, p->rows * (p->cache->length + p->rows));
    }
    const int threads = fs_op_threads(op, work / 4);
    const int64_t group = a->heads / a->heads_kv, each = longest * group;
    float *memory = fs_op_scratch(op, each * threads, sizeof *memory);
    if (!memory) return false;
    const int64_t tasks = (int64_t)a->n_parts * a->heads_kv;
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t t = 0; t < tasks; t++) {
        const size_t part = (size_t)(t / a->heads_kv);
        int64_t first = 0;
        for (size_t i = 0; i < part; i++) first += a->parts[i].rows;
        store_head(a, &a->parts[part], first, t % a->heads_kv);
        if (few(&a->parts[part])) attend_few(a, &a->parts[part], first, t % a->heads_kv, memory + each * omp_get_thread_num());
    }
    int64_t first = 0;
    for (size_t i = 0; i < a->n_parts; first += a->parts[i++].rows)
        if (!few(&a->parts[i]) && !attend_many(a, &a->parts[i], first, threads)) return false;
    return true;
}

fs_tensor *fs_attention_cached(fs_exec *c, const fs_tensor *q, const fs_tensor *k, const fs_tensor *v, const fs_kv_part *parts, size_t n_parts,
                               int64_t layer, float scale) {
    const fs_op op = {.c = c, .name = "attention_cached", .in = {q, k, v}};
    if (!fs_op_ready(&op, 3) || !fs_op_needs_f32(&op, 0) || !fs_op_needs_f32(&op, 1) || !fs_op_needs_f32(&op, 2)) return NULL;
    int64_t rows = 0;
    bool fits = q->ndim == 3 && k->ndim == 3 && v->ndim == 3 && q->shape[0] == k->shape[0] && k->shape[0] == v->shape[0] && k->shape[1] > 0 &&
                q->shape[1] % k->shape[1] == 0 && v->shape[1] == k->shape[1] && q->shape[2] == k->shape[2] && v->shape[2] == k->shape[2];
    for (size_t i = 0; fits && i < n_parts; i++) {
        const fs_kv_cache *s = parts[i].cache;
        rows += parts[i].rows;
        fits = parts[i].rows > 0 && s->length + parts[i].rows <= s->capacity && layer >= 0 && layer < s->layers && s->heads == k->shape[1] &&
               s->d == k->shape[2] && (s->dtype != FS_DTYPE_Q8_0 || s->d % 32 == 0);
    }
    if (!fits || rows != q->shape[0])
        return fs_op_misuse(&op, "q %s, k %s, v %s do not fit %zu caches with %" PRId64 " new rows in all", fs_op_describe(q).text,
                            fs_op_describe(k).text, fs_op_describe(v).text, n_parts, rows);
    fs_tensor *y = fs_op_result(&op, 3, q->shape);
    if (!y) return NULL;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    const cached a = {.op = &op, .q = q, .k = k, .v = v, .y = y, .parts = parts, .n_parts = n_parts, .layer = layer, .heads = q->shape[1],
                      .heads_kv = k->shape[1], .d = q->shape[2], .scale = scale};
    const bool ok = run(&a);
    fs_arena_release(c->arena, mark);
    return ok ? y : NULL;
}
