/* The product of activations with a packed matrix: quantize the activations once, then run over tiles of 16 weight rows. Few activation
 * rows (decoding) stream every tile once from memory. With many (prefill) k is cut so that one or two weight tiles stay in the level-1
 * cache while a chunk of activations passes from the level-2 cache, where their results stay as well. */
#include <omp.h>
#include <string.h>

#include "backend/cpu/q_kernels.h"
#include "backend/share.h"
#ifdef FS_Q_X86
#include <cpuid.h>
#endif
#ifdef FS_Q_ARM
#include <sys/auxv.h>
#endif

enum {
    ROWS = FS_PACKED_ROWS,
    LINE = 64, PAGE = 4096, /* of caches and of the smallest memory pages */
    CUT_BYTES = 27 << 10,   /* of one or two weight tiles: they stay in a level-1 cache while a chunk of activations passes */
    CHUNK_GROUPS = 8,       /* cuts lie between whole chunks of any type */
    PASS_BYTES = 256 << 10, /* of activations that pass, a cut of them: half a level-2 cache of 512 KiB, a quarter of one of 1 MiB */
    PASS_ROWS = 252,        /* and no more rows than that, so that their results stay there too */
    PASS_COLS = 256,        /* weight rows of a task: the results of PASS_ROWS rows are 252 KiB */
    LONG_PASS_BYTES = 600 << 10, LONG_PASS_ROWS = 708, LONG_PASS_COLS = 128 /* where weights are expanded for every pass: fewer of them, in 1 MiB */
};

/* ---- choice ---- */

#define KERNELS(isa, rows) .name = #isa, .tile = (rows), .quantize = fs_q_quantize_##isa, .multiply = fs_q_multiply_##isa
#define LONGER(isa) .expand = fs_q_expand_##isa, .quantize_long = fs_q_quantize_long_##isa, .strip = fs_q_strip_##isa
#define TABLE(isa, rows) {KERNELS(isa, rows)}
static const fs_quant ref_table = {KERNELS(ref, 4), LONGER(ref)};
#ifdef FS_Q_X86
static const fs_quant avx2_table = TABLE(avx2, 4), avxvnni_table = TABLE(avxvnni, 4);
#define VNNI(how) {.name = "vnni", .tile = 12, .quantize = fs_q_quantize_vnni, .multiply = how, .wide = fs_q_wide_vnni, LONGER(vnni)}
static const fs_quant vnni_table = VNNI(fs_q_multiply_vnni), vnni_zen4_table = VNNI(fs_q_multiply_vnni_zen4);

static bool is_zen4(void) { /* AMD's family 19h with AVX-512; not every compiler's __builtin_cpu_is knows it */
    unsigned a, b, c, d;
    return __builtin_cpu_is("amd") && __get_cpuid(1, &a, &b, &c, &d) && (a >> 8 & 15) == 15 && (a >> 20 & 255) == 10;
}

static bool has_avxvnni(void) { /* not every compiler's __builtin_cpu_supports knows this name; the bit is in leaf 7, subleaf 1 */
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}
#endif

#ifdef FS_Q_ARM
static const fs_quant neon_table = TABLE(neon, 4), dotprod_table = TABLE(dotprod, 8), i8mm_table = TABLE(i8mm, 8);

static bool has_dotprod(void) { return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0; }
static bool has_i8mm(void) { return has_dotprod() && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0; }
#endif

const fs_quant *fs_quant_by_name(const char *name) {
#ifdef FS_Q_X86
    if (strncmp(name, "vnni", 4) == 0 && fs_backend_by_name("avx512") && __builtin_cpu_supports("avx512vnni")) {
        if (strcmp(name, "vnni") == 0) return is_zen4() ? &vnni_zen4_table : &vnni_table;
        if (strcmp(name, "vnni-zen4") == 0) return &vnni_zen4_table;
        if (strcmp(name, "vnni-zen5") == 0) return &vnni_table;
    }
    if (strcmp(name, "avxvnni") == 0 && fs_backend_by_name("avx2") && has_avxvnni()) return &avxvnni_table;
    if (strcmp(name, "avx2") == 0 && fs_backend_by_name("avx2")) return &avx2_table;
#elif defined(FS_Q_ARM)
    if (strcmp(name, "i8mm") == 0 && fs_backend_by_name("neon") && has_i8mm()) return &i8mm_table;
    if (strcmp(name, "dotprod") == 0 && fs_backend_by_name("neon") && has_dotprod()) return &dotprod_table;
    if (strcmp(name, "neon") == 0 && fs_backend_by_name("neon")) return &neon_table;
#endif
    return strcmp(name, "ref") == 0 ? &ref_table : NULL;
}

const fs_quant *fs_quant_for(const fs_backend *be) {
    static const char *const best_first[] = {"vnni", "avxvnni", "avx2", "i8mm", "dotprod", "neon"};
    if (be != fs_backend_best()) {
        const fs_quant *q = fs_quant_by_name(strcmp(be->name, "avx512") == 0 ? "vnni" : be->name);
        return q ? q : &ref_table;
    }
    for (size_t i = 0; i < sizeof best_first / sizeof best_first[0]; i++) {
        const fs_quant *q = fs_quant_by_name(best_first[i]);
        if (q) return q;
    }
    return &ref_table;
}

/* ---- sizes ---- */

bool fs_dtype_is_packed(fs_dtype t) { return t == FS_DTYPE_Q8_0X16 || t == FS_DTYPE_Q4_0X16 || t == FS_DTYPE_Q4_KX16; }

/* Groups and bytes of a chunk. */
static int chunk_groups(fs_dtype packed) { return packed == FS_DTYPE_Q4_KX16 ? 8 : 2; }
static size_t chunk_bytes(fs_dtype packed) {
    return packed == FS_DTYPE_Q4_KX16 ? FS_Q4K_CHUNK : packed == FS_DTYPE_Q4_0X16 ? FS_Q4_CHUNK : FS_Q8_CHUNK;
}

bool fs_packed_groups(fs_dtype packed, int64_t cols, int64_t *groups) {
    if (!fs_dtype_is_packed(packed) || cols < 0 || cols % fs_dtype_block(packed) != 0) return false;
    const int64_t a_chunk = chunk_groups(packed), n = cols / FS_PACKED_GROUP;
    *groups = n / a_chunk * a_chunk + (n % a_chunk ? a_chunk : 0);
    return true;
}

bool fs_packed_bytes(fs_dtype packed, int64_t rows, int64_t cols, size_t *tile_bytes, size_t *bytes) {
    int64_t groups;
    if (rows < 0 || !fs_packed_groups(packed, cols, &groups)) return false;
    return fs_mul_size((size_t)(groups / chunk_groups(packed)), chunk_bytes(packed), tile_bytes) &&
           fs_mul_size((size_t)(rows / ROWS + (rows % ROWS != 0)), *tile_bytes, bytes);
}

/* ---- the product ---- */

/* What all tasks know. Activation tile i holds rows i * tile ..; x is [cut of k][tile][groups of the cut], so that what passes by a strip of
 * weights lies in one piece. Groups are counted in those of 32 values everywhere but in the arguments of the kernels for longer ones. */
typedef struct plan {
    const fs_quant *q;
    const fs_backend *be;
    const fs_quant_product *p;
    uint8_t *x;
    bool longer;                             /* weights are expanded, strip by strip */
    uint8_t *strips;                         /* for that, strip_bytes for each thread */
    size_t strip_bytes;
    int tile, side;                          /* activation rows of a tile; weight tiles taken together */
    int64_t x_bytes;                         /* of a row's group */
    int64_t groups, cut, x_tiles, w_tiles;   /* cut: groups taken at once */
    int64_t pass, block;                     /* activation tiles and weight tiles of a task */
    size_t w_bytes;                          /* of a weight tile */
} plan;

static int rows_in(const plan *a, int64_t x_tile) { return (int)fs_min_i64(a->tile, a->p->m - x_tile * a->tile); }

/* Groups [g0, ..) of activation tile i, g0 the beginning of a cut. */
static uint8_t *tile_at(const plan *a, int64_t i, int64_t g0) {
    const int64_t in_cut = fs_min_i64(a->cut, a->groups - g0);
    return a->x + (size_t)((a->p->m * g0 + i * a->tile * in_cut) * a->x_bytes);
}

static void quantize_tile(const plan *a, int64_t i) {
    const int64_t k = a->p->w->shape[1];
    const float *x = a->p->x + i * a->tile * k;
    for (int64_t g = 0; g < a->groups; g += a->cut) {
        const int64_t count = fs_min_i64(a->cut, a->groups - g);
        if (a->longer)
            a->q->quantize_long(x + g * FS_PACKED_GROUP, k, rows_in(a, i), count / FS_Q_LONG_GROUPS, tile_at(a, i, g));
        else
            a->q->quantize(a->p->w->dtype, x + g * FS_PACKED_GROUP, k, rows_in(a, i), k - g * FS_PACKED_GROUP, count, tile_at(a, i, g));
    }
}

/* Groups [g0, ..) of weight tile t. */
static const uint8_t *weights_at(const plan *a, int64_t t, int64_t g0) {
    const fs_dtype type = a->p->w->dtype;
    return (const uint8_t *)a->p->w->data + (size_t)t * a->w_bytes + (size_t)(g0 / chunk_groups(type)) * chunk_bytes(type);
}

/* Groups [g0, g1) of weight tiles t and, with `two`, t + 1. */
typedef struct cut_of { int64_t t, g0, g1; bool two; } cut_of;

/* Step i of n: fetches that part of what will be expanded next. All at once would keep the steps' own loads waiting. A page is read once before lines of
 * it are fetched: a fetch from a page whose place the processor does not know does nothing. */
static void fetch_part(const plan *a, const cut_of *next, int64_t i, int64_t n) {
    const int64_t lines = (int64_t)chunk_bytes(a->p->w->dtype) * ((next->g1 - next->g0) / chunk_groups(a->p->w->dtype)) / LINE;
    for (int64_t l = lines * i / n; l < lines * (i + 1) / n; l++)
        for (int h = 0; h <= (int)next->two; h++) {
            const uint8_t *p = weights_at(a, next->t + h, next->g0) + l * LINE;
            if ((uintptr_t)p % PAGE < LINE || (l == 0 && next->g0 == 0)) (void)*(const volatile uint8_t *)p;
            else __builtin_prefetch(p, 0, 3);
        }
}

/* A cut against activation tiles [i0, i1). */
static void multiply_cut(const plan *a, const cut_of *c, int64_t i0, int64_t i1) {
    const fs_quant_product *p = a->p;
    const int64_t n = p->w->shape[0];
    const int rows = (int)fs_min_i64(c->two ? 2 * ROWS : ROWS, n - c->t * ROWS);
    const uint8_t *w = weights_at(a, c->t, c->g0);
    for (int64_t i = i0; i < i1; i++) {
        const int count = rows_in(a, i);
        const uint8_t *x = tile_at(a, i, c->g0);
        float *y = p->y + i * a->tile * n + c->t * ROWS;
        if (c->two)
            a->q->wide(p->w->dtype, w, w + a->w_bytes, x, count, c->g1 - c->g0, c->g0 > 0, y, n, rows);
        else
            a->q->multiply(p->w->dtype, w, x, count, c->g1 - c->g0, c->g0 > 0, y, n, rows);
    }
}

/* The same by longer groups: the cut is expanded first, the one after it (NULL: none) is fetched meanwhile. */
static void multiply_strip(const plan *a, const cut_of *c, const cut_of *next, int64_t i0, int64_t i1, uint8_t *strip) {
    const fs_quant_product *p = a->p;
    const int64_t n = p->w->shape[0], longs = (c->g1 - c->g0) / FS_Q_LONG_GROUPS;
    const int rows = (int)fs_min_i64(c->two ? 2 * ROWS : ROWS, n - c->t * ROWS);
    uint8_t *second = strip + a->strip_bytes / 2;
    a->q->expand(p->w->dtype, weights_at(a, c->t, c->g0), longs, strip);
    if (c->two) a->q->expand(p->w->dtype, weights_at(a, c->t + 1, c->g0), longs, second);
    for (int64_t i = i0; i < i1; i++) {
        if (next) fetch_part(a, next, i - i0, i1 - i0);
        a->q->strip(strip, second, tile_at(a, i, c->g0), rows_in(a, i), longs, c->g0 > 0, p->y + i * a->tile * n + c->t * ROWS, n, rows);
    }
}

/* The cut of weight tiles t .. that begins at group g0. */
static cut_of cut_at(const plan *a, int64_t t, int64_t t1, int64_t g0) {
    return (cut_of){t, g0, fs_min_i64(a->groups, g0 + a->cut), a->side == 2 && t + 1 < t1};
}

/* Weight tiles [t0, t1) against activation tiles [i0, i1), and what comes after the product. */
static void multiply_block(const plan *a, int64_t t0, int64_t t1, int64_t i0, int64_t i1, uint8_t *strip) {
    const fs_quant_product *p = a->p;
    const int64_t n = p->w->shape[0], n0 = t0 * ROWS, cols = fs_min_i64(n, t1 * ROWS) - n0;
    for (cut_of c = cut_at(a, t0, t1, 0), next; c.g0 < a->groups; c = next) {
        next = c.t + a->side < t1 ? cut_at(a, c.t + a->side, t1, c.g0) : cut_at(a, t0, t1, c.g1);
        if (a->longer)
            multiply_strip(a, &c, next.g0 < a->groups ? &next : NULL, i0, i1, strip);
        else
            multiply_cut(a, &c, i0, i1);
    }
    for (int64_t r = i0 * a->tile; r < fs_min_i64(p->m, i1 * a->tile); r++)
        fs_finish_row(a->be, &p->finish, r, n0, cols, p->y + r * n + n0);
}

/* Even parts of `whole`, each a multiple of `unit` and as near to `most` as that allows. */
static int64_t even_part(int64_t whole, int64_t most, int64_t unit) {
    most = fs_max_i64(unit, most / unit * unit);
    const int64_t parts = fs_max_i64(1, (whole + most - 1) / most), units = (whole + unit - 1) / unit;
    return (units + parts - 1) / parts * unit;
}

/* How k, the activations and the weights are cut. */
static void choose_sizes(plan *a, int threads) {
    const int64_t group_bytes = a->longer ? FS_Q_STRIP_CHUNK / FS_Q_LONG_GROUPS : (int64_t)(a->w_bytes / (size_t)a->groups); /* of a weight tile */
    a->cut = a->groups;
    a->pass = a->x_tiles;
    if (a->x_tiles == 1) { /* weights pass once: long runs of them */
        a->block = fs_max_i64(1, (512 << 10) / (int64_t)a->w_bytes);
        if (threads > 1) a->block = fs_max_i64(1, fs_min_i64(a->block, a->w_tiles / (64 * threads)));
        return;
    }
    a->cut = fs_min_i64(a->groups, even_part(a->groups, CUT_BYTES / (a->side * group_bytes), CHUNK_GROUPS));
    const int64_t rows = a->longer ? fs_min_i64(LONG_PASS_ROWS, LONG_PASS_BYTES / (a->cut * a->x_bytes))
                                   : fs_min_i64(PASS_ROWS, PASS_BYTES / (a->cut * a->x_bytes));
    a->pass = even_part(a->x_tiles, rows / a->tile, 1);
    /* Smaller tasks where a thread would get too few to share evenly with others that the system disturbs. */
    const int64_t passes = (a->x_tiles + a->pass - 1) / a->pass, want = threads == 1 ? 1 : (8 * threads + passes - 1) / passes;
    a->block = even_part(a->w_tiles, fs_min_i64((a->longer ? LONG_PASS_COLS : PASS_COLS) / ROWS, fs_max_i64(a->side, a->w_tiles / want)), a->side);
}

bool fs_quant_run(const fs_quant *q, const fs_backend *be, const fs_quant_product *p, int threads, fs_arena *arena) {
    size_t all;
    plan a = {.q = q, .be = be, .p = p, .tile = q->tile, .side = 1, .x_bytes = FS_Q_BYTES, .w_tiles = (p->w->shape[0] + ROWS - 1) / ROWS};
    a.longer = q->expand && p->m >= FS_Q_MANY_ROWS && p->w->dtype != FS_DTYPE_Q8_0X16 && p->w->shape[1] % FS_Q_LONG == 0;
    if (a.longer || (q->wide && p->m > q->tile)) a.tile = FS_Q_WIDE_TILE, a.side = 2;
    if (a.longer) a.x_bytes = FS_Q_LONG_BYTES / FS_Q_LONG_GROUPS;
    a.x_tiles = (p->m + a.tile - 1) / a.tile;
    if (p->m == 0 || a.w_tiles == 0) return true;
    if (!fs_packed_groups(p->w->dtype, p->w->shape[1], &a.groups) ||
        !fs_packed_bytes(p->w->dtype, p->w->shape[0], p->w->shape[1], &a.w_bytes, &all) ||
        !fs_mul_size((size_t)a.groups, (size_t)a.x_bytes, &all) || !fs_mul_size((size_t)p->m, all, &all))
        return false;
    const fs_arena_mark mark = fs_arena_get_mark(arena);
    a.x = fs_arena_alloc(arena, all);
    if (!a.x) return false;
    choose_sizes(&a, threads);
    if (a.longer) {
        a.strip_bytes = (size_t)(2 * a.cut / FS_Q_LONG_GROUPS) * FS_Q_STRIP_CHUNK;
        if (fs_mul_size(a.strip_bytes, (size_t)threads, &all)) a.strips = fs_arena_alloc(arena, all);
        if (!a.strips) {
            fs_arena_release(arena, mark);
            return false;
        }
    }
    const int64_t passes = (a.x_tiles + a.pass - 1) / a.pass, tasks = (a.w_tiles + a.block - 1) / a.block * passes;
    fs_shares shares;
    fs_shares_begin(&shares, tasks, threads);
    const bool share = threads > 1 && a.x_tiles > 1; /* quantizing one tile is too little to be shared */
    if (!share)
        for (int64_t i = 0; i < a.x_tiles; i++) quantize_tile(&a, i);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        if (share) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < a.x_tiles; i++) quantize_tile(&a, i);
        }
        const int thread = omp_get_thread_num();
        int helped = 0;
        for (int64_t t; (t = fs_shares_next(&shares, thread, &helped)) >= 0;) { /* tasks beside each other take the same weights */
            const int64_t t0 = t / passes * a.block, i0 = t % passes * a.pass;
            uint8_t *strip = a.longer ? a.strips + a.strip_bytes * (size_t)thread : NULL;
            multiply_block(&a, t0, fs_min_i64(a.w_tiles, t0 + a.block), i0, fs_min_i64(a.x_tiles, i0 + a.pass), strip);
        }
    }
    fs_arena_release(arena, mark);
    return true;
}
