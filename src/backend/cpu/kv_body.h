/* Kernels over the key/value cache for the instruction set whose simd_*.h was included before: one query against the keys of a head, and
 * values weighted with its probabilities. Every number of the cache is used once, so what counts is to do little besides reading it:
 * LANES keys at a time have a sum each, and the LANES sums are added up together by turning them; values stay in registers while the keys
 * pass by. A result is the same whatever stands beside it. */

/* The bytes that come `ahead` behind p, into the nearest cache: rows taken side by side are no pattern that the processor would see. */
static FS_INLINE void kv_fetch(const void *p, int64_t ahead, int64_t bytes) {
    for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)p + ahead + i);
}

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
    for (; j + LANES <= n; j += LANES) {
        kv_fetch((const char *)keys + j * d * size, LANES * d * size, LANES * d * size);
        kv_dots_group(q, (const char *)keys + j * d * size, type, LANES, d, scores + j);
    }
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

enum { KV_STRIP = 8, KV_AHEAD = 16 /* rows */ };

/* y[0..strips * LANES) (the last strip only `part` wide if that is not 0) += sum of p[j] values[j] */
static FS_INLINE void kv_mix_strips(int strips, int64_t part, const float *p, const void *values, fs_dtype type, int64_t n, int64_t d, int64_t from,
                                    float *y, bool add) {
    vf sum[KV_STRIP];
    const int64_t size = type == FS_DTYPE_F32 ? 4 : 2;
#pragma GCC unroll 8
    for (int s = 0; s < strips; s++) sum[s] = !add ? v_set(0.0f) : part ? v_load_part(y + from, part) : v_load(y + from + s * LANES);
    for (int64_t j = 0; j < n; j++) {
        const vf weight = v_set(p[j]);
        kv_fetch((const char *)values + (j * d + from) * size, KV_AHEAD * d * size, strips * LANES * size);
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

/* ---- 8 bits ---- */

enum { KV_GROUP = 32, KV_VECTORS = KV_GROUP / LANES };

static FS_INLINE void kv_dots_q8_group(const float *q, const int8_t *keys, const float *scales, int64_t count, int64_t d, float *scores) {
    vf sum[LANES];
    int64_t at[LANES];
    for (int i = 0; i < LANES; i++) {
        sum[i] = v_set(0.0f);
        at[i] = i < count ? i : count - 1;
    }
    for (int64_t g = 0; g < d / KV_GROUP; g++) {
        vf x[KV_VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < KV_VECTORS; v++) x[v] = v_load(q + g * KV_GROUP + v * LANES);
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            const int8_t *k = keys + at[i] * d + g * KV_GROUP;
            vf part = v_mul(x[0], v_load_i8(k));
#pragma GCC unroll 8
            for (int v = 1; v < KV_VECTORS; v++) part = v_fma(x[v], v_load_i8(k + v * LANES), part);
            sum[i] = v_fma(part, v_set(scales[at[i] * (d / KV_GROUP) + g]), sum[i]);
        }
    }
    v_transpose(sum);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) sum[i] = v_add(sum[i], sum[i + width]);
    if (count < LANES) v_store_part(scores, sum[0], count);
    else v_store(scores, sum[0]);
}
void FS_KERNEL(fs_kv_dots_q8)(const float *q, const int8_t *keys, const float *scales, int64_t n, int64_t d, float *scores) {
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        kv_fetch(keys + j * d, LANES * d, LANES * d);
        kv_dots_q8_group(q, keys + j * d, scales + j * (d / KV_GROUP), LANES, d, scores + j);
    }
    if (j < n) kv_dots_q8_group(q, keys + j * d, scales + j * (d / KV_GROUP), n - j, d, scores + j);
}

/* `groups` groups of 32 values from column `from` on. */
static FS_INLINE void kv_mix_q8_groups(int groups, const float *p, const int8_t *values, const float *scales, int64_t n, int64_t d, int64_t from, float *y,
                                       bool add) {
    vf sum[KV_STRIP];
    const int strips = groups * KV_VECTORS;
#pragma GCC unroll 8
    for (int s = 0; s < strips; s++) sum[s] = add ? v_load(y + from + s * LANES) : v_set(0.0f);
    for (int64_t j = 0; j < n; j++) {
        const float *scale = scales + j * (d / KV_GROUP) + from / KV_GROUP;
        kv_fetch(values + j * d + from, KV_AHEAD * d, groups * KV_GROUP);
#pragma GCC unroll 8
        for (int s = 0; s < strips; s++)
            sum[s] = v_fma(v_set(p[j] * scale[s / KV_VECTORS]), v_load_i8(values + j * d + from + s * LANES), sum[s]);
    }
#pragma GCC unroll 8
    for (int s = 0; s < strips; s++) v_store(y + from + s * LANES, sum[s]);
}
void FS_KERNEL(fs_kv_mix_q8)(const float *p, const int8_t *values, const float *scales, int64_t n, int64_t d, float *y, bool add) {
    enum { AT_ONCE = KV_STRIP / KV_VECTORS }; /* groups that fit the strip of sums */
    int64_t e = 0;
    for (; e + AT_ONCE * KV_GROUP <= d; e += AT_ONCE * KV_GROUP) kv_mix_q8_groups(AT_ONCE, p, values, scales, n, d, e, y, add);
    for (; e < d; e += KV_GROUP) kv_mix_q8_groups(1, p, values, scales, n, d, e, y, add);
}
