/* The product of activations with a packed matrix: quantize the activations once, then run over tiles of 16 weight rows. Few activation
 * rows (decoding) stream every tile once from memory. With many (prefill) k is cut so that a tile of activations stays in the level-1
 * cache while it meets a block of weight tiles that stays in the level-2 cache. */
#include <string.h>

#include "backend/cpu/q_kernels.h"
#ifdef FS_Q_X86
#include <cpuid.h>
#endif
#ifdef FS_Q_ARM
#include <sys/auxv.h>
#endif

enum {
    ROWS = FS_PACKED_ROWS,
    CUT_GROUPS = 48,        /* of k at most at once: a tile of 12 activation rows is 22 KiB then */
    CHUNK_GROUPS = 8,       /* cuts lie between whole chunks of any type */
    BLOCK_BYTES = 512 << 10 /* of weights, in a level-2 cache of 1 MiB and up */
};

/* ---- choice ---- */

#define TABLE(isa, rows) {.name = #isa, .tile = (rows), .quantize = fs_q_quantize_##isa, .multiply = fs_q_multiply_##isa}
static const fs_quant ref_table = TABLE(ref, 4);
#ifdef FS_Q_X86
static const fs_quant avx2_table = TABLE(avx2, 4), avxvnni_table = TABLE(avxvnni, 4), vnni_table = TABLE(vnni, 12);

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
    if (strcmp(name, "vnni") == 0 && fs_backend_by_name("avx512") && __builtin_cpu_supports("avx512vnni")) return &vnni_table;
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

/* What all tasks know. Activation tile i starts at i * tile_bytes and holds rows i * q->tile .. */
typedef struct plan {
    const fs_quant *q;
    const fs_backend *be;
    const fs_quant_product *p;
    uint8_t *x;
    int64_t groups, cut, x_tiles, w_tiles; /* cut: groups taken at once */
    size_t x_bytes, w_bytes; /* of a tile */
} plan;

static int rows_in(const plan *a, int64_t x_tile) { return (int)fs_min_i64(a->q->tile, a->p->m - x_tile * a->q->tile); }

static void quantize_tile(const plan *a, int64_t i) {
    const int64_t k = a->p->w->shape[1];
    a->q->quantize(a->p->w->dtype, a->p->x + i * a->q->tile * k, k, rows_in(a, i), k, a->groups, a->x + (size_t)i * a->x_bytes);
}

/* Groups [g0, g1) of weight tiles [begin, end) against activation tile i; bias and rounding after the last group. */
static void multiply_block(const plan *a, int64_t i, int64_t begin, int64_t end, int64_t g0, int64_t g1) {
    const fs_quant_product *p = a->p;
    const fs_dtype type = p->w->dtype;
    const int64_t n = p->w->shape[0], r0 = begin * ROWS, r1 = fs_min_i64(n, end * ROWS);
    const int rows = rows_in(a, i);
    float *y = p->y + i * a->q->tile * n;
    const uint8_t *x = a->x + (size_t)i * a->x_bytes + (size_t)(g0 * rows * FS_Q_BYTES);
    const uint8_t *w = (const uint8_t *)p->w->data + (size_t)(g0 / chunk_groups(type)) * chunk_bytes(type);
    for (int64_t t = begin; t < end; t++)
        a->q->multiply(type, w + (size_t)t * a->w_bytes, x, rows, g1 - g0, g0 > 0, y + t * ROWS, n, (int)fs_min_i64(ROWS, n - t * ROWS));
    for (int r = 0; r < rows && g1 == a->groups; r++) {
        if (p->bias) a->be->add(y + r * n + r0, p->bias + r0, y + r * n + r0, r1 - r0);
        if (p->round != FS_DTYPE_F32) a->be->round(y + r * n + r0, r1 - r0, p->round);
    }
}

/* Weight tiles [begin, end) against all activations. */
static void multiply_tiles(const plan *a, int64_t begin, int64_t end) {
    for (int64_t g = 0; g < a->groups; g += a->cut)
        for (int64_t i = 0; i < a->x_tiles; i++) multiply_block(a, i, begin, end, g, fs_min_i64(a->groups, g + a->cut));
}

bool fs_quant_run(const fs_quant *q, const fs_backend *be, const fs_quant_product *p, int threads, fs_arena *arena) {
    size_t all;
    plan a = {.q = q, .be = be, .p = p, .x_tiles = (p->m + q->tile - 1) / q->tile, .w_tiles = (p->w->shape[0] + ROWS - 1) / ROWS};
    if (p->m == 0 || a.w_tiles == 0) return true;
    if (!fs_packed_groups(p->w->dtype, p->w->shape[1], &a.groups) ||
        !fs_packed_bytes(p->w->dtype, p->w->shape[0], p->w->shape[1], &a.w_bytes, &all) ||
        !fs_mul_size((size_t)a.groups, (size_t)fs_min_i64(p->m, q->tile) * FS_Q_BYTES, &a.x_bytes) ||
        !fs_mul_size((size_t)a.x_tiles, a.x_bytes, &all))
        return false;
    const fs_arena_mark mark = fs_arena_get_mark(arena);
    a.x = fs_arena_alloc(arena, all);
    if (!a.x) return false;

    a.cut = a.groups;
    if (a.x_tiles > 1) { /* even parts, so that no small one is left over */
        const int64_t parts = (a.groups + CUT_GROUPS - 1) / CUT_GROUPS;
        a.cut = fs_max_i64(1, (a.groups + parts * CHUNK_GROUPS - 1) / (parts * CHUNK_GROUPS)) * CHUNK_GROUPS;
    }
    /* Tasks of a block of tiles; smaller ones where a thread would get too few to share evenly with others that the system disturbs. */
    int64_t block = fs_max_i64(1, BLOCK_BYTES * a.groups / a.cut / (int64_t)a.w_bytes);
    if (threads > 1) block = fs_max_i64(1, fs_min_i64(block, a.w_tiles / (16 * threads)));
    const int64_t tasks = (a.w_tiles + block - 1) / block;
    if (threads == 1 || a.x_tiles == 1) { /* quantizing one tile is too little to be shared */
        for (int64_t i = 0; i < a.x_tiles; i++) quantize_tile(&a, i);
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) if (threads > 1)
        for (int64_t t = 0; t < tasks; t++) multiply_tiles(&a, t * block, fs_min_i64(a.w_tiles, (t + 1) * block));
    } else {
#pragma omp parallel num_threads(threads)
        {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < a.x_tiles; i++) quantize_tile(&a, i);
#pragma omp for schedule(dynamic, 1)
            for (int64_t t = 0; t < tasks; t++) multiply_tiles(&a, t * block, fs_min_i64(a.w_tiles, (t + 1) * block));
        }
    }
    fs_arena_release(arena, mark);
    return true;
}
