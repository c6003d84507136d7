/* In which order records are taken. Follows LLaVA's length-grouped sampler (DTE-FDM/llava/train/llava_trainer.py), PyTorch's
 * DistributedSampler and accelerate's BatchSamplerShard as far as permutations go in; the permutations themselves are our own. */
#include "train/data.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static void shuffle(fs_rng *r, int64_t n, int64_t *out) {
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        /* 53 random bits spread over i + 1 places; lists are short enough for the rest not to matter */
        const int64_t j = fs_min_i64((int64_t)(fs_rng_uniform(r) * (double)(i + 1)), i);
        const int64_t t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}

enum { STREAM_ORDER = 0x6f7264 };

static void permute_seeded(void *user, int64_t n, int64_t *out) {
    fs_permuter_state *s = user;
    fs_rng r = fs_sample_rng(s->seed, STREAM_ORDER, (int64_t)s->calls++, s->pass);
    shuffle(&r, n, out);
}

fs_permuter fs_permuter_seeded(fs_permuter_state *state, uint64_t seed, uint64_t pass) {
    *state = (fs_permuter_state){seed, pass, 0};
    return (fs_permuter){permute_seeded, state};
}

void fs_order_shuffled(uint64_t seed, uint64_t pass, int64_t n, int64_t *out) {
    fs_permuter_state state;
    const fs_permuter p = fs_permuter_seeded(&state, seed, pass);
    p.permute(p.user, n, out);
}

void fs_order_pairs(int64_t n, const fs_permuter *p, int64_t *out) {
    p->permute(p->user, n / 2, out);
    for (int64_t i = n; i-- > 0;) out[i] = 2 * out[i / 2] + i % 2; /* from behind: out[i / 2] is still its own */
}

static fs_status no_memory(int64_t n, fs_error *err) {
    return fs_fail(err, FS_E_NO_MEMORY, "out of memory for an order of %" PRId64 " records", n);
}

fs_status fs_order_distributed(int64_t n, int64_t world, int64_t rank, const fs_permuter *p, int64_t **out, int64_t *n_out, fs_error *err) {
    *out = NULL;
    if (n < 1 || world < 1 || rank < 0 || rank >= world)
        return fs_fail(err, FS_E_USAGE, "an order of %" PRId64 " records for process %" PRId64 " of %" PRId64 " is not possible", n, rank, world);
    const int64_t each = n / world + (n % world != 0);
    int64_t *all = fs_alloc((size_t)n, sizeof *all), *mine = fs_alloc((size_t)each, sizeof *mine);
    if (!all || !mine) {
        free(all);
        free(mine);
        return no_memory(n, err);
    }
    for (int64_t i = 0; i < n; i++) all[i] = i;
    if (p) p->permute(p->user, n, all);
    for (int64_t i = 0; i < each; i++) mine[i] = all[(i * world + rank) % n];
    free(all);
    *out = mine;
    *n_out = each;
    return FS_OK;
}

/* ---- by length ---- */

/* Records of one sign: list[count] of their indices, in order. */
typedef struct modality { int64_t *list; int64_t count; } modality;

/* Longest first, those of one length as they stood: merging, with room for n in `room`. */
static void sort_by_length(const int64_t *lengths, int64_t *v, int64_t n, int64_t *room) {
    for (int64_t width = 1; width < n; width *= 2) {
        for (int64_t at = 0; at < n; at += 2 * width) {
            const int64_t middle = fs_min_i64(at + width, n), end = fs_min_i64(at + 2 * width, n);
            int64_t a = at, b = middle;
            for (int64_t k = at; k < end; k++) {
                const bool left = a < middle && (b >= end || lengths[v[a]] >= lengths[v[b]]);
                room[k] = left ? v[a++] : v[b++];
            }
        }
        memcpy(v, room, (size_t)n * sizeof *v);
    }
}

/* Deals a sorted megabatch v[n] into `world` chunks: even ones by always feeding the shortest that is not full; if n does not divide, in turn. */
static void deal(const int64_t *lengths, int64_t *v, int64_t n, int64_t world, int64_t *room, int64_t *sum, int64_t *count) {
    const bool even = n % world == 0;
    const int64_t each = even ? n / world : 0;
    for (int64_t p = 0; p < world; p++) sum[p] = count[p] = 0;
    if (!even) {
        int64_t k = 0;
        for (int64_t p = 0; p < world; p++)
            for (int64_t i = p; i < n; i += world) room[k++] = v[i];
    }
    for (int64_t i = 0; even && i < n; i++) {
        int64_t best = -1;
        for (int64_t p = 0; p < world; p++)
            if (count[p] < each && (best < 0 || sum[p] < sum[best])) best = p;
        room[best * each + count[best]++] = v[i];
        sum[best] += lengths[v[i]];
    }
    memcpy(v, room, (size_t)n * sizeof *v);
}

/* One modality in its order, list replaced. */
static fs_status group(const int64_t *lengths, const modality *m, int64_t batch, int64_t world, const fs_permuter *p, fs_error *err) {
    const int64_t n = m->count;
    int64_t *order = fs_alloc((size_t)n, sizeof *order), *room = fs_alloc((size_t)n, sizeof *room);
    int64_t *sums = fs_alloc((size_t)world, 2 * sizeof *sums);
    fs_status status = FS_OK;
    if (!order || !room || !sums) {
        status = no_memory(n, err);
        goto done;
    }
    p->permute(p->user, n, order);
    for (int64_t i = 0; i < n; i++) order[i] = m->list[order[i]];
    const int64_t mega = batch * world;
    for (int64_t at = 0; at < n; at += mega) {
        const int64_t size = fs_min_i64(mega, n - at);
        sort_by_length(lengths, order + at, size, room);
        deal(lengths, order + at, size, world, room, sums, sums + world);
    }
    memcpy(m->list, order, (size_t)n * sizeof *order);
done:
    free(order);
    free(room);
    free(sums);
    return status;
}

static int ascending(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Megabatches of both, but for each one's last, shuffled; then the two last ones together, sorted by index. */
static fs_status mix(const modality m[2], int64_t mega, const fs_permuter *p, int64_t *out, fs_error *err) {
    const int64_t whole[2] = {(m[0].count - 1) / mega, (m[1].count - 1) / mega}, n = whole[0] + whole[1];
    int64_t *order = fs_alloc((size_t)n + 1, sizeof *order), k = 0;
    if (!order) return no_memory(n, err);
    p->permute(p->user, n, order);
    for (int64_t i = 0; i < n; i++, k += mega) {
        const int which = order[i] >= whole[0];
        memcpy(out + k, m[which].list + (order[i] - (which ? whole[0] : 0)) * mega, (size_t)mega * sizeof *out);
    }
    const int64_t last = k;
    for (int which = 0; which < 2; which++) {
        const int64_t rest = m[which].count - whole[which] * mega;
        memcpy(out + k, m[which].list + whole[which] * mega, (size_t)rest * sizeof *out);
        k += rest;
    }
    qsort(out + last, (size_t)(k - last), sizeof *out, ascending);
    free(order);
    return FS_OK;
}

fs_status fs_order_by_length(const int64_t *lengths, int64_t n, int64_t batch, int64_t world, const fs_permuter *p, int64_t *out, fs_error *err) {
    int64_t mega, *lists = NULL;
    if (n < 1 || batch < 1 || world < 1 || !fs_mul_i64(batch, world, &mega))
        return fs_fail(err, FS_E_USAGE, "an order of %" PRId64 " records in batches of %" PRId64 " for %" PRId64 " processes is not possible", n, batch, world);
    lists = fs_alloc((size_t)n, 3 * sizeof *lists);
    if (!lists) return no_memory(n, err);
    modality m[2] = {{lists, 0}, {lists + n, 0}}; /* with a picture, without */
    int64_t *positive = lists + 2 * n;
    for (int64_t i = 0; i < n; i++) {
        modality *of = &m[lengths[i] < 0];
        of->list[of->count++] = i;
    }
    /* Texts alone are sorted by their negative lengths, as the original does: shortest first. Beside pictures they are sorted as these are. */
    for (int64_t i = 0; i < n; i++) positive[i] = lengths[i] < 0 && m[0].count ? -lengths[i] : lengths[i];
    fs_status status = FS_OK;
    for (int which = 0; which < 2 && !status; which++)
        if (m[which].count) status = group(positive, &m[which], batch, world, p, err);
    if (!status && m[0].count && m[1].count)
        status = mix(m, mega, p, out, err);
    else if (!status)
        memcpy(out, m[m[0].count == 0].list, (size_t)n * sizeof *out);
    free(lists);
    return status;
}

fs_status fs_order_divide(const int64_t *order, int64_t n, int64_t batch, int64_t world, int64_t rank, int64_t **out, int64_t *n_out, fs_error *err) {
    int64_t mega;
    *out = NULL;
    if (n < 1 || batch < 1 || world < 1 || rank < 0 || rank >= world || !fs_mul_i64(batch, world, &mega))
        return fs_fail(err, FS_E_USAGE, "%" PRId64 " records in batches of %" PRId64 " for process %" PRId64 " of %" PRId64 " are not possible", n, batch, rank,
                       world);
    const int64_t rounds = n / mega + (n % mega != 0), count = world == 1 ? n : rounds * batch;
    int64_t *mine = fs_alloc((size_t)count, sizeof *mine);
    if (!mine) return no_memory(n, err);
    for (int64_t i = 0; i < count; i++) mine[i] = order[(i / batch * mega + rank * batch + i % batch) % n];
    *out = mine;
    *n_out = count;
    return FS_OK;
}
