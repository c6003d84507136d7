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

static inline __attribute__((always_inline)) void winograd_in(const int m, const float *lines, int64_t ld, int64_t tiles, float *v,
                                                              int64_t step) {
    enum { GROUP = 16, MOST = FS_GEMM_MAX_COLS + GROUP };
    float down[6 * 4 * MOST], phases[6 * 4 * MOST];
    const int size = m + 2;
    const int64_t n = (tiles + GROUP) / GROUP * GROUP; /* tiles + 1, rounded up */
    for (int64_t x = 0; x < m * n; x += LANES) {
        vf d[6], out[6];
        FS_WINOGRAD_UNROLL for (int i = 0; i < size; i++) d[i] = v_load(lines + i * ld + x);
        winograd_in_one(m, d, out);
        FS_WINOGRAD_UNROLL for (int i = 0; i < size; i++) v_store(down + i * m * n + x, out[i]);
    }
    for (int i = 0; i < size; i++)
        for (int64_t t0 = 0; t0 < n; t0 += GROUP) {
            const float *restrict from = down + (i * n + t0) * m;
            float *restrict to = phases + i * m * n + t0;
            for (int t = 0; t < GROUP; t++)
                for (int j = 0; j < m; j++) to[j * n + t] = from[m * t + j];
        }
    for (int i = 0; i < size; i++)
        for (int64_t t = 0; t < tiles; t += LANES) {
            vf d[6], out[6];
            FS_WINOGRAD_UNROLL for (int j = 0; j < size; j++) {
                const float *from = phases + (i * m + j % m) * n + j / m + t;
                d[j] = tiles - t >= LANES || j < m ? v_load(from) : v_load_part(from, tiles - t);
            }
            winograd_in_one(m, d, out);
            FS_WINOGRAD_UNROLL for (int j = 0; j < size; j++) {
                float *to = v + (i * size + j) * step + t;
                if (tiles - t >= LANES)
                    v_store(to, out[j]);
                else
                    v_store_part(to, out[j], tiles - t);
            }
        }
}

static inline __attribute__((always_inline)) void winograd_out(const int m, const float *p, int64_t step, int64_t tiles, float *y,
                                                               int64_t ld) {
    const int size = m + 2;
    for (int64_t t = 0; t < tiles; t += LANES) {
        const int64_t left = tiles - t;
        vf down[4][6];
        FS_WINOGRAD_UNROLL for (int j = 0; j < size; j++) {
            vf d[6], out[4];
            FS_WINOGRAD_UNROLL for (int i = 0; i < size; i++) {
                const float *from = p + (i * size + j) * step + t;
                d[i] = left >= LANES ? v_load(from) : v_load_part(from, left);
            }
            winograd_out_one(m, d, out);
            FS_WINOGRAD_UNROLL for (int a = 0; a < m; a++) down[a][j] = out[a];
        }
        for (int a = 0; a < m; a++) {
            float across[4 * LANES], line[4 * LANES];
            vf out[4];
            winograd_out_one(m, down[a], out);
            FS_WINOGRAD_UNROLL for (int b = 0; b < m; b++) v_store(across + b * LANES, out[b]);
            for (int l = 0; l < LANES; l++)
                for (int b = 0; b < m; b++) line[l * m + b] = across[b * LANES + l];
            float *to = y + a * ld + t * m;
            const int64_t count = m * (left < LANES ? left : LANES);
            int64_t x = 0;
            for (; x + LANES <= count; x += LANES) v_store(to + x, v_load(line + x));
            if (x < count) v_store_part(to + x, v_load(line + x), count - x);
        }
    }
}

void FS_KERNEL(fs_winograd_in)(int m, const float *lines, int64_t ld, int64_t tiles, float *v, int64_t step) {
    if (m == 4)
        winograd_in(4, lines, ld, tiles, v, step);
    else
        winograd_in(2, lines, ld, tiles, v, step);
}
void FS_KERNEL(fs_winograd_out)(int m, const float *p, int64_t step, int64_t tiles, float *y, int64_t ld) {
    if (m == 4)
        winograd_out(4, p, step, tiles, y, ld);
    else
        winograd_out(2, p, step, tiles, y, ld);
}
