/* The two transforms around Winograd's products for 3 x 3 kernels (Winograd 1980; Lavin and Gray, "Fast algorithms for convolutional neural
 * networks", 2015): results in squares of 2 x 2 (points 0, 1, -1) or of 4 x 4 (points 0, 1, -1, 2, -2), LANES neighbouring squares at a
 * time. Needs the vector of a simd_*.h. What the two do is said at fs_backend. */

#if defined(__clang__)
#define FS_WINOGRAD_UNROLL _Pragma("clang loop unroll(full)")
#else
#define FS_WINOGRAD_UNROLL _Pragma("GCC unroll 16")
#endif

static inline __attribute__((always_inline)) vf winograd_times(float f, vf a) {
    return v_mul(v_set(f), a);
}

/* One line or column of a square: B^T d. */
static inline __attribute__((always_inline)) void winograd_in_one(const int m, const vf d[6], vf out[6]) {
    if (m == 4) {
        const vf a = v_sub(d[4], winograd_times(4.0f, d[2])), b = v_sub(d[3], winograd_times(4.0f, d[1]));
        const vf c = v_sub(d[4], d[2]), e = winograd_times(2.0f, v_sub(d[3], d[1]));
        out[0] = v_add(winograd_times(4.0f, v_sub(d[0], d[2])), c);
        out[1] = v_add(a, b);
        out[2] = v_sub(a, b);
        out[3] = v_add(c, e);
        out[4] = v_sub(c, e);
        out[5] = v_add(winograd_times(4.0f, v_sub(d[1], d[3])), v_sub(d[5], d[3]));
    } else {
        out[0] = v_sub(d[0], d[2]);
        out[1] = v_add(d[1], d[2]);
        out[2] = v_sub(d[2], d[1]);
        out[3] = v_sub(d[1], d[3]);
    }
}

/* A^T p */
static inline __attribute__((always_inline)) void winograd_out_one(const int m, const vf p[6], vf out[4]) {
    if (m == 4) {
        const vf a = v_add(p[1], p[2]), b = v_sub(p[1], p[2]), c = v_add(p[3], p[4]), e = v_sub(p[3], p[4]);
        out[0] = v_add(v_add(p[0], a), c);
        out[1] = v_add(b, winograd_times(2.0f, e));
        out[2] = v_add(a, winograd_times(4.0f, c));
        out[3] = v_add(v_add(b, winograd_times(8.0f, e)), p[5]);
    } else {
        out[0] = v_add(v_add(p[0], p[1]), p[2]);
        out[1] = v_sub(v_sub(p[1], p[2]), p[3]);
    }
}

enum {
    WINOGRAD_ROW = 4 * (FS_GEMM_MAX_COLS + 2 * LANES), /* values of a row of all squares, and a margin to write and read beyond */
    WINOGRAD_SQUARES = FS_GEMM_MAX_COLS + 2 * LANES
};

/* Value j of squares, LANES of them from a row of theirs: in[m * t + j] -> out[j][t]; and back. */
static inline __attribute__((always_inline)) void winograd_split(const int m, const float *in, vf out[4]) {
#ifdef FS_SIMD_SPLIT
    if (m == 4) v_split4(in, out);
    else v_split2(in, out);
#else
    float values[4][LANES];
    for (int t = 0; t < LANES; t++)
        for (int j = 0; j < m; j++) values[j][t] = in[m * t + j];
    FS_WINOGRAD_UNROLL for (int j = 0; j < m; j++) out[j] = v_load(values[j]);
#endif
}
static inline __attribute__((always_inline)) void winograd_join(const int m, const vf in[4], float *out) {
#ifdef FS_SIMD_SPLIT
    if (m == 4) v_join4(in, out);
    else v_join2(in, out);
#else
    float values[4][LANES];
    FS_WINOGRAD_UNROLL for (int j = 0; j < m; j++) v_store(values[j], in[j]);
    for (int t = 0; t < LANES; t++)
        for (int j = 0; j < m; j++) out[m * t + j] = values[j][t];
#endif
}

/* Down the columns, all lines of squares: the picture's rows to m + 2 rows each, m values of a square beside those of the next; a row begins with the zero
 * left of the picture. A square's last two values are the next one's first, but for the last square of a line: edge[i][l], and 0. */
static inline __attribute__((always_inline)) void winograd_down(const int m, const float *x, int64_t h, int64_t w, int64_t line, int64_t lines, int64_t tiles,
                                                                float down[6][WINOGRAD_ROW], float edge[6][FS_GEMM_MAX_COLS]) {
    static const float zeros[4 * FS_GEMM_MAX_COLS + LANES];
    const int size = m + 2;
    const int64_t wide = tiles * m;
    for (int64_t l = 0; l < lines; l++) {
        const float *row[6];
        for (int i = 0; i < size; i++) {
            const int64_t y = (line + l) * m - 1 + i;
            row[i] = y >= 0 && y < h ? x + y * w : zeros;
        }
        for (int64_t at = 0; at < wide; at += LANES) {
            vf d[6], out[6];
            const int64_t left = w - at;
            FS_WINOGRAD_UNROLL for (int i = 0; i < size; i++) {
                if (left >= LANES) d[i] = v_load(row[i] + at);
                else d[i] = left > 0 ? v_load_part(row[i] + at, left) : v_set(0.0f);
            }
            winograd_in_one(m, d, out);
            FS_WINOGRAD_UNROLL for (int i = 0; i < size; i++) v_store(down[i] + l * wide + 1 + at, out[i]);
        }
        for (int i = 0; i < size; i++) { /* what stands behind the last square belongs to the next line, which writes over all but the zero */
            edge[i][l] = down[i][(l + 1) * wide];
            down[i][(l + 1) * wide] = 0.0f;
        }
    }
}

static inline __attribute__((always_inline)) void winograd_in(const int m, const float *x, int64_t h, int64_t w, int64_t line, int64_t lines, float *v,
                                                              int64_t step) {
    float down[6][WINOGRAD_ROW], edge[6][FS_GEMM_MAX_COLS], values[6][6][WINOGRAD_SQUARES];
    const int size = m + 2;
    const int64_t tiles = (w + m - 1) / m, n = lines * tiles;
    for (int i = 0; i < size; i++) {
        down[i][0] = 0.0f;
        for (int64_t j = 0; j < 4 * LANES; j++) down[i][n * m + j] = 0.0f; /* read with the last squares */
    }
    winograd_down(m, x, h, w, line, lines, tiles, down, edge);
    for (int i = 0; i < size; i++) {
        for (int64_t t = 0; t < n; t += LANES) {
            vf d[4];
            winograd_split(m, down[i] + t * m, d);
            FS_WINOGRAD_UNROLL for (int j = 0; j < m; j++) v_store(values[i][j] + LANES + t, d[j]);
            FS_WINOGRAD_UNROLL for (int j = 0; j < 2; j++) v_store(values[i][m + j] + LANES + t - 1, d[j]); /* the square before sees them last */
        }
        for (int j = 0; j < 2; j++) values[i][m + j][LANES + (n + LANES - 1) / LANES * LANES - 1] = 0.0f;
        for (int64_t l = 0; l < lines; l++) {
            values[i][m][LANES + l * tiles + tiles - 1] = edge[i][l];
            values[i][m + 1][LANES + l * tiles + tiles - 1] = 0.0f;
        }
    }
    for (int i = 0; i < size; i++)
        for (int64_t t = 0; t < n; t += LANES) {
            vf d[6], out[6];
            FS_WINOGRAD_UNROLL for (int j = 0; j < size; j++) d[j] = v_load(values[i][j] + LANES + t);
            winograd_in_one(m, d, out);
            FS_WINOGRAD_UNROLL for (int j = 0; j < size; j++) v_store(v + (i * size + j) * step + t, out[j]);
        }
}

static inline __attribute__((always_inline)) void winograd_out(const int m, const float *p, int64_t step, int64_t n, float *y, int64_t ld) {
    const int size = m + 2;
    for (int64_t t = 0; t < n; t += LANES) {
        vf down[4][6];
        FS_WINOGRAD_UNROLL for (int j = 0; j < size; j++) {
            vf d[6], out[4];
            FS_WINOGRAD_UNROLL for (int i = 0; i < size; i++) {
                const float *from = p + (i * size + j) * step + t;
                d[i] = n - t >= LANES ? v_load(from) : v_load_part(from, n - t);
            }
            winograd_out_one(m, d, out);
            FS_WINOGRAD_UNROLL for (int a = 0; a < m; a++) down[a][j] = out[a];
        }
        FS_WINOGRAD_UNROLL for (int a = 0; a < m; a++) {
            vf out[4];
            winograd_out_one(m, down[a], out);
            winograd_join(m, out, y + a * ld + t * m);
        }
    }
}

void FS_KERNEL(fs_winograd_in)(int m, const float *x, int64_t h, int64_t w, int64_t line, int64_t lines, float *v, int64_t step) {
    if (m == 4)
        winograd_in(4, x, h, w, line, lines, v, step);
    else
        winograd_in(2, x, h, w, line, lines, v, step);
}
void FS_KERNEL(fs_winograd_out)(int m, const float *p, int64_t step, int64_t n, float *y, int64_t ld) {
    if (m == 4)
        winograd_out(4, p, step, n, y, ld);
    else
        winograd_out(2, p, step, n, y, ld);
}
