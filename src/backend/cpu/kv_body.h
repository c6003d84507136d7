/* Kernels over the key/value cache for the instruction set whose simd_*.h was included before: one query against the keys of a head, and
 * values weighted with its probabilities. Every number of the cache is used once, so what counts is to do little besides reading it:
 * LANES keys at a time have a sum each, and the LANES sums are added up together by turning them; values stay in registers while the keys
 * pass by. A result is the same whatever stands beside it. */

/* scores[0..count) of up to LANES keys from `keys` on; count < LANES: the last key stands in for those that are not there. */
static FS_INLINE void kv_dots_group(const float *q, const void *keys, fs_dtype type, int64_t count, int64_t d, float *scores) {
    vf sum[LANES];
    int64_t at[LANES];
    for (int i = 0; i < LANES; i++) {
        sum[i] = v_set(0.0f);
        at[i] = (i < count ? i : count - 1) * d;
    }
    int64_t e = 0;
    for (; e + LANES <= d; e += LANES) {
        const vf x = v_load(q + e);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) sum[i] = v_fma(x, v_load_as(keys, type, at[i] + e), sum[i]);
    }
    if (e < d) {
        const vf x = v_load_part(q + e, d - e);
        for (int i = 0; i < LANES; i++) sum[i] = v_fma(x, v_load_as_part(keys, type, at[i] + e, d - e), sum[i]);
    }
    v_transpose(sum);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) sum[i] = v_add(sum[i], sum[i + width]);
    if (count < LANES) v_store_part(scores, sum[0], count);
    else v_store(scores, sum[0]);
}

static FS_INLINE void kv_dots_type(const float *q, const void *keys, fs_dtype type, int64_t n, int64_t d, float *scores) {
    const int64_t size = type == FS_DTYPE_F32 ? 4 : 2;
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) kv_dots_group(q, (const char *)keys + j * d * size, type, LANES, d, scores + j);
    if (j < n) kv_dots_group(q, (const char *)keys + j * d * size, type, n - j, d, scores + j);
}
void FS_KERNEL(fs_kv_dots)(const float *q, const void *keys, fs_dtype type, int64_t n, int64_t d, float *scores) {
    if (type == FS_DTYPE_F16)
        kv_dots_type(q, keys, FS_DTYPE_F16, n, d, scores);
    else if (type == FS_DTYPE_BF16)
        kv_dots_type(q, keys, FS_DTYPE_BF16, n, d, scores);
    else
        kv_dots_type(q, keys, FS_DTYPE_F32, n, d, scores);
}

enum { KV_STRIP = 8 };

/* y[0..strips * LANES) (the last strip only `part` wide if that is not 0) += sum of p[j] values[j] */
static FS_INLINE void kv_mix_strips(int strips, int64_t part, const float *p, const void *values, fs_dtype type, int64_t n, int64_t d, int64_t from,
                                    float *y, bool add) {
    vf sum[KV_STRIP];
#pragma GCC unroll 8
    for (int s = 0; s < strips; s++) sum[s] = !add ? v_set(0.0f) : part ? v_load_part(y + from, part) : v_load(y + from + s * LANES);
    for (int64_t j = 0; j < n; j++) {
        const vf weight = v_set(p[j]);
#pragma GCC unroll 8
        for (int s = 0; s < strips; s++) {
            const int64_t at = j * d + from + s * LANES;
            sum[s] = v_fma(weight, part ? v_load_as_part(values, type, at, part) : v_load_as(values, type, at), sum[s]);
        }
    }
#pragma GCC unroll 8
    for (int s = 0; s < strips; s++) {
        if (part) v_store_part(y + from, sum[s], part);
        else v_store(y + from + s * LANES, sum[s]);
    }
}

static FS_INLINE void kv_mix_type(const float *p, const void *values, fs_dtype type, int64_t n, int64_t d, float *y, bool add) {
    int64_t e = 0;
    for (; e + KV_STRIP * LANES <= d; e += KV_STRIP * LANES) kv_mix_strips(KV_STRIP, 0, p, values, type, n, d, e, y, add);
    for (; e + LANES <= d; e += LANES) kv_mix_strips(1, 0, p, values, type, n, d, e, y, add);
    if (e < d) kv_mix_strips(1, d - e, p, values, type, n, d, e, y, add);
}
void FS_KERNEL(fs_kv_mix)(const float *p, const void *values, fs_dtype type, int64_t n, int64_t d, float *y, bool add) {
    if (type == FS_DTYPE_F16)
        kv_mix_type(p, values, FS_DTYPE_F16, n, d, y, add);
    else if (type == FS_DTYPE_BF16)
        kv_mix_type(p, values, FS_DTYPE_BF16, n, d, y, add);
    else
        kv_mix_type(p, values, FS_DTYPE_F32, n, d, y, add);
}
