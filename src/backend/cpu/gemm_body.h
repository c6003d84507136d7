/* Kernels of the matrix product for the instruction set whose simd_*.h was included before: the register tile, the packing of its right
 * operand by transposition, streaming dot products for few rows, and weighted sums of rows. Needs vector_body.h's loads. */

enum { COL_VECTORS = TILE_COLS / LANES };

/* Loops over accumulators must be unrolled whole, or the accumulators live in memory; so the kernels below are made once for each number of
 * rows. Not when every access is checked by a sanitizer or nothing is optimised: that would take minutes to compile, to no use. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer) ||                              \
    __has_feature(undefined_behavior_sanitizer)
#define FS_CHECKED_BUILD 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
#define FS_CHECKED_BUILD 1
#endif

#if defined(FS_CHECKED_BUILD)
#define FS_INLINE inline
#define FS_UNROLL
#elif defined(__clang__)
#define FS_INLINE inline __attribute__((always_inline))
#define FS_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FS_INLINE inline __attribute__((always_inline))
#define FS_UNROLL _Pragma("GCC unroll 16")
#endif

/* ---- the tile: `rows` x `vectors` accumulators, one broadcast of a for all vectors of a row of b ---- */

static FS_INLINE void give_tile(const int rows, const int vectors, int64_t cols, vf sum[TILE_ROWS][COL_VECTORS], float *c, int64_t ldc, bool add) {
    FS_UNROLL for (int i = 0; i < rows; i++) FS_UNROLL for (int v = 0; v < vectors; v++) {
        float *out = c + i * ldc + v * LANES;
        const int64_t left = cols - v * LANES;
        if (left >= LANES)
            v_store(out, add ? v_add(v_load(out), sum[i][v]) : sum[i][v]);
        else if (left > 0)
            v_store_part(out, add ? v_add(v_load_part(out, left), sum[i][v]) : sum[i][v], left);
    }
}

static FS_INLINE void tile(const int rows, const int vectors, int64_t cols, int64_t k, const float *a, const float *b, float *c,
                           int64_t ldc, bool add, const float *next) {
    vf sum[TILE_ROWS][COL_VECTORS];
    FS_UNROLL for (int i = 0; i < rows; i++) FS_UNROLL for (int v = 0; v < vectors; v++) sum[i][v] = v_set(0.0f);
    for (int64_t p = 0; p < k; p++) {
        vf row[COL_VECTORS];
        __builtin_prefetch(next + 16 * p, 0, 2);
        FS_UNROLL for (int v = 0; v < vectors; v++) row[v] = v_load(b + p * TILE_COLS + v * LANES);
        FS_UNROLL for (int i = 0; i < rows; i++) {
            const vf x = v_set(a[i * FS_GEMM_KC + p]);
            FS_UNROLL for (int v = 0; v < vectors; v++) sum[i][v] = v_fma(x, row[v], sum[i][v]);
        }
    }
    give_tile(rows, vectors, cols, sum, c, ldc, add);
}

/* The same with rows of b where they lie; what the next tile reads of them is fetched meanwhile. */
static FS_INLINE void tile_at(const int rows, const int vectors, int64_t cols, int64_t k, const float *a, const float *b, const int64_t *at, float *c,
                              int64_t ldc, bool add) {
    vf sum[TILE_ROWS][COL_VECTORS];
    FS_UNROLL for (int i = 0; i < rows; i++) FS_UNROLL for (int v = 0; v < vectors; v++) sum[i][v] = v_set(0.0f);
    for (int64_t p = 0; p < k; p++) {
        vf row[COL_VECTORS];
        const float *from = b + at[p];
        FS_UNROLL for (int v = 0; v < vectors; v++) {
            __builtin_prefetch(from + TILE_COLS + v * LANES);
            row[v] = v_load(from + v * LANES);
        }
        FS_UNROLL for (int i = 0; i < rows; i++) {
            const vf x = v_set(a[i * FS_GEMM_KC + p]);
            FS_UNROLL for (int v = 0; v < vectors; v++) sum[i][v] = v_fma(x, row[v], sum[i][v]);
        }
    }
    give_tile(rows, vectors, cols, sum, c, ldc, add);
}

/* The same with rows of a where they lie, in lines. */
static FS_INLINE void tile_walk(const int rows, const int vectors, int64_t cols, int64_t k, int64_t first, int64_t line, int64_t gap, const float *a,
                                const int64_t *at, const float *b, float *c, int64_t ldc, bool add) {
    vf sum[TILE_ROWS][COL_VECTORS];
    const float *x[FS_WALK_ROWS];
    FS_UNROLL for (int i = 0; i < rows; i++) {
        x[i] = a + at[i];
        FS_UNROLL for (int v = 0; v < vectors; v++) sum[i][v] = v_set(0.0f);
    }
    for (int64_t p = 0, end = fs_min_i64(first, k); p < k; end = fs_min_i64(end + line, k)) {
        for (; p < end; p++, b += TILE_COLS) {
            vf row[COL_VECTORS];
            FS_UNROLL for (int v = 0; v < vectors; v++) row[v] = v_load(b + v * LANES);
            FS_UNROLL for (int i = 0; i < rows; i++) {
                const vf one = v_set(x[i][p]);
                FS_UNROLL for (int v = 0; v < vectors; v++) sum[i][v] = v_fma(one, row[v], sum[i][v]);
            }
        }
        FS_UNROLL for (int i = 0; i < rows; i++) x[i] += gap;
    }
    give_tile(rows, vectors, cols, sum, c, ldc, add);
}

#define TILE_CASE(r)                                                                                                                       \
    case r:                                                                                                                                \
        if (cols > LANES)                                                                                                                  \
            tile(r, COL_VECTORS, cols, k, a, b, c, ldc, add, next);                                                                              \
        else                                                                                                                               \
            tile(r, 1, cols, k, a, b, c, ldc, add, next);                                                                                        \
        break

void FS_KERNEL(fs_gemm_tile)(int64_t rows, int64_t cols, int64_t k, const float *a, const float *b, float *c, int64_t ldc, bool add,
                             const float *next) {
    if (!next) next = b; /* is there already */
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j += 16) __builtin_prefetch(c + i * ldc + j);
#if defined(FS_CHECKED_BUILD)
    tile((int)rows, COL_VECTORS, cols, k, a, b, c, ldc, add, next);
#else
    switch (rows) {
        TILE_CASE(1);
        TILE_CASE(2);
        TILE_CASE(3);
        TILE_CASE(4);
        TILE_CASE(5);
        TILE_CASE(6);
#if FS_TILE_MANY_ROWS
        TILE_CASE(7);
        TILE_CASE(8);
        TILE_CASE(9);
        TILE_CASE(10);
        TILE_CASE(11);
        TILE_CASE(12);
        TILE_CASE(13);
        TILE_CASE(14);
#endif
    }
#endif
}

#define AT_CASE(r)                                                                                                                         \
    case r:                                                                                                                                \
        if (cols > LANES) tile_at(r, COL_VECTORS, cols, k, a, b, at, c, ldc, add);                                                         \
        else tile_at(r, 1, cols, k, a, b, at, c, ldc, add);                                                                                \
        break

void FS_KERNEL(fs_gemm_tile_at)(int64_t rows, int64_t cols, int64_t k, const float *a, const float *b, const int64_t *at, float *c, int64_t ldc, bool add) {
#if defined(FS_CHECKED_BUILD)
    tile_at((int)rows, COL_VECTORS, cols, k, a, b, at, c, ldc, add);
#else
    switch (rows) {
        AT_CASE(1);
        AT_CASE(2);
        AT_CASE(3);
        AT_CASE(4);
        AT_CASE(5);
        AT_CASE(6);
#if FS_TILE_MANY_ROWS
        AT_CASE(7);
        AT_CASE(8);
        AT_CASE(9);
        AT_CASE(10);
        AT_CASE(11);
        AT_CASE(12);
        AT_CASE(13);
        AT_CASE(14);
#endif
    }
#endif
}

#define WALK_CASE(r)                                                                                                                       \
    case r:                                                                                                                                \
        if (cols > LANES) tile_walk(r, COL_VECTORS, cols, k, first, line, gap, a, at, b, c, ldc, add);                                     \
        else tile_walk(r, 1, cols, k, first, line, gap, a, at, b, c, ldc, add);                                                            \
        break

void FS_KERNEL(fs_gemm_tile_walk)(int64_t rows, int64_t cols, int64_t k, int64_t first, int64_t line, int64_t gap, const float *a, const int64_t *at,
                                  const float *b, float *c, int64_t ldc, bool add) {
#if defined(FS_CHECKED_BUILD)
    tile_walk((int)rows, COL_VECTORS, cols, k, first, line, gap, a, at, b, c, ldc, add);
#else
    switch (rows) {
        WALK_CASE(1);
        WALK_CASE(2);
        WALK_CASE(3);
        WALK_CASE(4);
        WALK_CASE(5);
        WALK_CASE(6);
#if FS_TILE_MANY_ROWS
        WALK_CASE(7);
        WALK_CASE(8);
#endif
    }
#endif
}

/* ---- packing: LANES rows x LANES terms at a time, transposed in registers ---- */

static FS_INLINE void pack_block(const char *w, fs_dtype type, int64_t ld, int64_t n, int64_t terms, fs_dtype round, float *out) {
    const int64_t size = type == FS_DTYPE_F32 ? 4 : 2;
    vf r[LANES];
    FS_UNROLL for (int i = 0; i < LANES; i++) {
        r[i] = v_set(0.0f);
        if (i < n) r[i] = terms >= LANES ? v_load_as(w + i * ld * size, type, 0) : v_load_as_part(w + i * ld * size, type, 0, terms);
        if (round != type) r[i] = v_round_to(r[i], round);
    }
    v_transpose(r);
    FS_UNROLL for (int p = 0; p < LANES; p++) if (p < terms) v_store(out + p * TILE_COLS, r[p]);
}

static FS_INLINE void pack_as(const char *w, fs_dtype type, int64_t ld, int64_t n, int64_t k, fs_dtype round, float *out) {
    const int64_t size = type == FS_DTYPE_F32 ? 4 : 2;
    for (int64_t j = 0; j < TILE_COLS; j += LANES)
        for (int64_t p = 0; p < k; p += LANES) {
            const char *from = w + (j < n ? (j * ld + p) * size : 0);
            if (n - j >= LANES && k - p >= LANES)
                pack_block(from, type, ld, LANES, LANES, round, out + p * TILE_COLS + j);
            else
                pack_block(from, type, ld, n - j, k - p, round, out + p * TILE_COLS + j);
        }
}

void FS_KERNEL(fs_pack_rows)(const void *w, fs_dtype type, int64_t ld, int64_t n, int64_t k, fs_dtype round, float *out) {
    if (type == FS_DTYPE_F16)
        pack_as(w, FS_DTYPE_F16, ld, n, k, round, out);
    else if (type == FS_DTYPE_BF16)
        pack_as(w, FS_DTYPE_BF16, ld, n, k, round, out);
    else
        pack_as(w, FS_DTYPE_F32, ld, n, k, round, out);
}

/* ---- few rows: `rows` weight rows against m rows of x, one vector of partial sums for each pair ---- */

enum { DOT_ROWS = 4, AHEAD = 1024 /* bytes of each weight row to fetch early */ };
#ifndef FS_DOT_ROWS_FOR
#define FS_DOT_ROWS_FOR(m) DOT_ROWS /* weight rows at once; less where the sums of m rows would not stay in registers */
#endif

static FS_INLINE void dot_block(const int m, const int rows, const fs_dtype type, const float *x, int64_t ldx, const char *w, int64_t ldw,
                                int64_t k, float *y, int64_t ldy) {
    const int64_t size = type == FS_DTYPE_F32 ? 4 : 2;
    vf sum[DOT_ROWS][FS_DOT_MAX_ROWS];
    FS_UNROLL for (int j = 0; j < rows; j++) FS_UNROLL for (int i = 0; i < m; i++) sum[j][i] = v_set(0.0f);
    int64_t p = 0;
    for (; p + LANES <= k; p += LANES) {
        vf in[FS_DOT_MAX_ROWS];
        FS_UNROLL for (int i = 0; i < m; i++) in[i] = v_load(x + i * ldx + p);
        FS_UNROLL for (int j = 0; j < rows; j++) {
            const char *row = w + j * ldw * size;
            __builtin_prefetch(row + p * size + AHEAD);
            const vf weight = v_load_as(row, type, p);
            FS_UNROLL for (int i = 0; i < m; i++) sum[j][i] = v_fma(in[i], weight, sum[j][i]);
        }
    }
    if (p < k) FS_UNROLL for (int j = 0; j < rows; j++) {
            const vf weight = v_load_as_part(w + j * ldw * size, type, p, k - p);
            FS_UNROLL for (int i = 0; i < m; i++) sum[j][i] = v_fma(v_load_part(x + i * ldx + p, k - p), weight, sum[j][i]);
        }
    FS_UNROLL for (int j = 0; j < rows; j++) FS_UNROLL for (int i = 0; i < m; i++) y[i * ldy + j] = v_sum(sum[j][i]);
}

static FS_INLINE void dot_all(const int m, const fs_dtype type, const float *x, int64_t ldx, const char *w, int64_t ldw, int64_t n,
                              int64_t k, float *y, int64_t ldy) {
    const int64_t size = type == FS_DTYPE_F32 ? 4 : 2;
    int64_t j = 0;
    for (; j + FS_DOT_ROWS_FOR(m) <= n; j += FS_DOT_ROWS_FOR(m))
        dot_block(m, FS_DOT_ROWS_FOR(m), type, x, ldx, w + j * ldw * size, ldw, k, y + j, ldy);
    for (; j < n; j++) dot_block(m, 1, type, x, ldx, w + j * ldw * size, ldw, k, y + j, ldy);
}

static FS_INLINE void dot_type(int64_t m, const fs_dtype type, const float *x, int64_t ldx, const char *w, int64_t ldw, int64_t n,
                               int64_t k, float *y, int64_t ldy) {
#if defined(FS_CHECKED_BUILD)
    dot_all((int)m, type, x, ldx, w, ldw, n, k, y, ldy);
#else
    switch (m) {
    case 1:
        dot_all(1, type, x, ldx, w, ldw, n, k, y, ldy);
        break;
    case 2:
        dot_all(2, type, x, ldx, w, ldw, n, k, y, ldy);
        break;
    case 3:
        dot_all(3, type, x, ldx, w, ldw, n, k, y, ldy);
        break;
    case 4:
        dot_all(4, type, x, ldx, w, ldw, n, k, y, ldy);
        break;
    }
#endif
}

void FS_KERNEL(fs_dot_rows)(const float *x, int64_t ldx, int64_t m, const void *w, fs_dtype type, int64_t ldw, int64_t n, int64_t k,
                            float *y, int64_t ldy) {
    if (type == FS_DTYPE_F16)
        dot_type(m, FS_DTYPE_F16, x, ldx, w, ldw, n, k, y, ldy);
    else if (type == FS_DTYPE_BF16)
        dot_type(m, FS_DTYPE_BF16, x, ldx, w, ldw, n, k, y, ldy);
    else
        dot_type(m, FS_DTYPE_F32, x, ldx, w, ldw, n, k, y, ldy);
}

/* ---- y = sum of p[j] v[j], a strip of columns at a time; blocks of FS_GEMM_KC rows so that the error does not grow with n ---- */

enum { STRIP = 4 };

static FS_INLINE void weighted_strip(const int vectors, int64_t part, const float *p, const float *v, int64_t ldv, int64_t n, float *y) {
    vf total[STRIP];
    FS_UNROLL for (int e = 0; e < vectors; e++) total[e] = v_set(0.0f);
    for (int64_t j0 = 0; j0 < n; j0 += FS_GEMM_KC) {
        const int64_t end = fs_min_i64(n, j0 + FS_GEMM_KC);
        vf sum[STRIP];
        FS_UNROLL for (int e = 0; e < vectors; e++) sum[e] = v_set(0.0f);
        for (int64_t j = j0; j < end; j++) {
            const vf weight = v_set(p[j]);
            FS_UNROLL for (int e = 0; e < vectors; e++) sum[e] =
                v_fma(weight, part ? v_load_part(v + j * ldv, part) : v_load(v + j * ldv + e * LANES), sum[e]);
        }
        FS_UNROLL for (int e = 0; e < vectors; e++) total[e] = v_add(total[e], sum[e]);
    }
    FS_UNROLL for (int e = 0; e < vectors; e++) {
        if (part)
            v_store_part(y, total[e], part);
        else
            v_store(y + e * LANES, total[e]);
    }
}

void FS_KERNEL(fs_weighted_rows)(const float *p, const float *v, int64_t ldv, int64_t n, int64_t d, float *y) {
    int64_t e = 0;
    for (; e + STRIP * LANES <= d; e += STRIP * LANES) weighted_strip(STRIP, 0, p, v + e, ldv, n, y + e);
    for (; e + LANES <= d; e += LANES) weighted_strip(1, 0, p, v + e, ldv, n, y + e);
    if (e < d) weighted_strip(1, d - e, p, v + e, ldv, n, y + e);
}
