/* Vector kernels for the instruction set whose simd_*.h was included before: conversion and rounding of element types, elementwise
 * functions, reductions of a row. A tail is done with part of a vector and the same arithmetic, so a value's place does not matter.
 *
 * exp: x = n ln 2 + r, a polynomial of degree 7 in r, times 2^n; within 1 ulp, subnormal results included.
 * gelu: x Q(|x|) or x - x Q(|x|) with Q the upper tail of the normal distribution as exp(-x^2/2) t P(t), t = 1 / (1 + 0.3 |x|), P of degree
 * 9; relative error 4e-7 over the whole range, the left tail included, where 1 + erf would cancel. Both polynomials are minimax fits in the
 * relative error. */

static inline vf v_exp(vf x) {
    x = v_min(v_set(89.0f), v_max(v_set(-104.0f), x)); /* beyond, the result is inf or 0 all the same; NaN passes */
    const vf n = v_nearest(v_mul(x, v_set(1.44269504f)));
    vf r = v_fnma(n, v_set(0.693147182f), x);
    r = v_fnma(n, v_set(-1.90465421e-9f), r);
    vf p = v_set(0.000198578404f);
    p = v_fma(p, r, v_set(0.0013933708f));
    p = v_fma(p, r, v_set(0.00833336078f));
    p = v_fma(p, r, v_set(0.041666463f));
    p = v_fma(p, r, v_set(0.166666672f));
    p = v_fma(p, r, v_set(0.5f));
    p = v_fma(v_mul(r, r), p, r);
    return v_ldexp(v_add(p, v_set(1.0f)), n);
}

static inline vf v_sigmoid(vf x) { return v_div(v_set(1.0f), v_add(v_set(1.0f), v_exp(v_sub(v_set(0.0f), x)))); }
static inline vf v_silu(vf x) { return v_div(x, v_add(v_set(1.0f), v_exp(v_sub(v_set(0.0f), x)))); }

static inline vf v_gelu(vf x) {
    const vf a = v_min(v_set(15.0f), v_abs(x)); /* the tail is 0 in f32 from 14.4 on */
    const vf t = v_div(v_set(1.0f), v_fma(v_set(0.3f), a, v_set(1.0f)));
    vf p = v_set(-0.0206283815f);
    p = v_fma(p, t, v_set(0.112463355f));
    p = v_fma(p, t, v_set(-0.228281587f));
    p = v_fma(p, t, v_set(0.191879258f));
    p = v_fma(p, t, v_set(-0.0795060098f));
    p = v_fma(p, t, v_set(0.0962033346f));
    p = v_fma(p, t, v_set(0.0783727318f));
    p = v_fma(p, t, v_set(0.110239245f));
    p = v_fma(p, t, v_set(0.119571328f));
    p = v_fma(p, t, v_set(0.119686715f));
    const vf square = v_mul(a, a), lost = v_fma(a, a, v_sub(v_set(0.0f), square)); /* a a = square + lost */
    const vf e = v_exp(v_mul(square, v_set(-0.5f)));
    const vf tail = v_mul(v_mul(t, p), v_fma(v_mul(lost, v_set(-0.5f)), e, e));
    const vf y = v_mul(x, tail);
    return v_pick_negative(x, y, v_sub(x, y));
}

static inline __attribute__((always_inline)) vf v_load_as(const void *x, fs_dtype type, int64_t at) {
    if (type == FS_DTYPE_F16) return v_load_f16((const uint16_t *)x + at);
    if (type == FS_DTYPE_BF16) return v_load_bf16((const uint16_t *)x + at);
    return v_load((const float *)x + at);
}
static inline __attribute__((always_inline)) vf v_load_as_part(const void *x, fs_dtype type, int64_t at, int64_t n) {
    if (type == FS_DTYPE_F16) return v_load_f16_part((const uint16_t *)x + at, n);
    if (type == FS_DTYPE_BF16) return v_load_bf16_part((const uint16_t *)x + at, n);
    return v_load_part((const float *)x + at, n);
}
static inline vf v_round_to(vf a, fs_dtype precision) {
    return precision == FS_DTYPE_BF16 ? v_round_bf16(a) : precision == FS_DTYPE_F16 ? v_round_f16(a) : a;
}

static inline __attribute__((always_inline)) void convert(const void *x, fs_dtype type, float *y, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(y + i, v_load_as(x, type, i));
    if (i < n) v_store_part(y + i, v_load_as_part(x, type, i, n - i), n - i);
}
void FS_KERNEL(fs_to_f32)(const void *x, fs_dtype type, float *y, int64_t n) {
    if (type == FS_DTYPE_F16)
        convert(x, FS_DTYPE_F16, y, n);
    else if (type == FS_DTYPE_BF16)
        convert(x, FS_DTYPE_BF16, y, n);
    else
        memmove(y, x, (size_t)n * sizeof *y);
}

static inline __attribute__((always_inline)) void narrow_all(const float *x, fs_dtype type, uint16_t *y, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        if (type == FS_DTYPE_F16) v_store_f16(y + i, v_load(x + i));
        else v_store_bf16(y + i, v_load(x + i));
    }
    if (i == n) return;
    uint16_t tail[LANES];
    if (type == FS_DTYPE_F16) v_store_f16(tail, v_load_part(x + i, n - i));
    else v_store_bf16(tail, v_load_part(x + i, n - i));
    for (int64_t k = 0; i + k < n; k++) y[i + k] = tail[k];
}
void FS_KERNEL(fs_from_f32)(const float *x, fs_dtype type, void *y, int64_t n) {
    if (type == FS_DTYPE_F16)
        narrow_all(x, FS_DTYPE_F16, y, n);
    else if (type == FS_DTYPE_BF16)
        narrow_all(x, FS_DTYPE_BF16, y, n);
    else
        for (int64_t i = 0; i < n; i++) ((float *)y)[i] = x[i];
}
static inline __attribute__((always_inline)) void round_all(float *x, int64_t n, fs_dtype precision) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(x + i, v_round_to(v_load(x + i), precision));
    if (i < n) v_store_part(x + i, v_round_to(v_load_part(x + i, n - i), precision), n - i);
}
void FS_KERNEL(fs_round)(float *x, int64_t n, fs_dtype precision) {
    if (precision == FS_DTYPE_BF16)
        round_all(x, n, FS_DTYPE_BF16);
    else if (precision == FS_DTYPE_F16)
        round_all(x, n, FS_DTYPE_F16);
}

/* ---- elementwise: whole vectors, then the tail ---- */

#define FOR_VECTORS(n, whole, part)                                                                                                        \
    do {                                                                                                                                   \
        int64_t i = 0;                                                                                                                     \
        for (; i + LANES <= (n); i += LANES) v_store(y + i, whole);                                                                        \
        const int64_t left = (n)-i;                                                                                                        \
        if (left) v_store_part(y + i, part, left);                                                                                         \
    } while (0)

void FS_KERNEL(fs_add)(const float *a, const float *b, float *y, int64_t n) {
    FOR_VECTORS(n, v_add(v_load(a + i), v_load(b + i)), v_add(v_load_part(a + i, left), v_load_part(b + i, left)));
}
void FS_KERNEL(fs_mul)(const float *a, const float *b, float *y, int64_t n) {
    FOR_VECTORS(n, v_mul(v_load(a + i), v_load(b + i)), v_mul(v_load_part(a + i, left), v_load_part(b + i, left)));
}
void FS_KERNEL(fs_scale)(const float *x, float f, float *y, int64_t n) {
    const vf factor = v_set(f);
    FOR_VECTORS(n, v_mul(v_load(x + i), factor), v_mul(v_load_part(x + i, left), factor));
}
void FS_KERNEL(fs_affine)(const float *x, float a, float b, float *y, int64_t n) {
    const vf factor = v_set(a), shift = v_set(b);
    FOR_VECTORS(n, v_fma(v_load(x + i), factor, shift), v_fma(v_load_part(x + i, left), factor, shift));
}
void FS_KERNEL(fs_gelu)(const float *x, float *y, int64_t n) {
    FOR_VECTORS(n, v_gelu(v_load(x + i)), v_gelu(v_load_part(x + i, left)));
}
void FS_KERNEL(fs_silu)(const float *x, float *y, int64_t n) {
    FOR_VECTORS(n, v_silu(v_load(x + i)), v_silu(v_load_part(x + i, left)));
}
void FS_KERNEL(fs_sigmoid)(const float *x, float *y, int64_t n) {
    FOR_VECTORS(n, v_sigmoid(v_load(x + i)), v_sigmoid(v_load_part(x + i, left)));
}
#undef FOR_VECTORS

/* Phi(x) + x phi(x), where Phi(x) is gelu(x) / x */
static inline vf v_gelu_slope(vf x) {
    const vf cdf = v_pick_negative(v_sub(v_set(1e-30f), v_abs(x)), v_div(v_gelu(x), x), v_set(0.5f));
    const vf density = v_exp(v_mul(v_mul(v_set(-0.5f), x), x));
    return v_add(cdf, v_mul(v_mul(x, density), v_set(0.39894228f)));
}
void FS_KERNEL(fs_gelu_back)(const float *x, const float *dy, float *dx, int64_t n) {
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(dx + i, v_add(v_load(dx + i), v_mul(v_load(dy + i), v_gelu_slope(v_load(x + i)))));
    const int64_t left = n - i;
    if (left)
        v_store_part(dx + i, v_add(v_load_part(dx + i, left), v_mul(v_load_part(dy + i, left), v_gelu_slope(v_load_part(x + i, left)))), left);
}

/* What finish is to do; constants where it is used, so that each case has a loop of its own. */
typedef struct finish_kind { bool scaled, added, relu; } finish_kind;

static inline __attribute__((always_inline)) vf finish_one(const finish_kind kind, vf x, vf factor, vf shift, vf residual) {
    if (kind.scaled) x = v_fma(x, factor, shift);
    if (kind.added) x = v_add(residual, x);
    return kind.relu ? v_max(v_set(0.0f), x) : x; /* NaN stays NaN */
}

static inline __attribute__((always_inline)) void finish_as(const finish_kind kind, const float *x, int64_t ldx, int64_t rows, int64_t cols,
                                                            const float *factor, const float *shift, int64_t each, const float *residual, int64_t ldr,
                                                            float *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i++, x += ldx, y += ldy) {
        const vf a = v_set(kind.scaled ? factor[i * each] : 1.0f), b = v_set(kind.scaled ? shift[i * each] : 0.0f);
        const float *more = kind.added ? residual + i * ldr : x;
        int64_t j = 0;
        for (; j + LANES <= cols; j += LANES) v_store(y + j, finish_one(kind, v_load(x + j), a, b, v_load(more + j)));
        if (j < cols) v_store_part(y + j, finish_one(kind, v_load_part(x + j, cols - j), a, b, v_load_part(more + j, cols - j)), cols - j);
    }
}

void FS_KERNEL(fs_finish)(const float *x, int64_t ldx, int64_t rows, int64_t cols, const float *factor, const float *shift, int64_t each,
                          const float *residual, int64_t ldr, bool relu, float *y, int64_t ldy) {
#define FINISH_AS(scaled, added, relu) finish_as((finish_kind){scaled, added, relu}, x, ldx, rows, cols, factor, shift, each, residual, ldr, y, ldy)
    if (factor && residual && relu) FINISH_AS(true, true, true);
    else if (factor && relu) FINISH_AS(true, false, true);
    else if (factor && residual) FINISH_AS(true, true, false);
    else if (factor) FINISH_AS(true, false, false);
    else if (residual && relu) FINISH_AS(false, true, true);
    else if (residual) FINISH_AS(false, true, false);
    else if (relu) FINISH_AS(false, false, true);
    else if (x != y) FINISH_AS(false, false, false);
#undef FINISH_AS
}

void FS_KERNEL(fs_outer_sum)(const float *up, int64_t h, const float *across, int64_t w, float *y) {
    for (int64_t j = 0; j < w; j += LANES) {
        const int64_t n = fs_min_i64(LANES, w - j);
        const vf row = n == LANES ? v_load(across + j) : v_load_part(across + j, n);
        for (int64_t i = 0; i < h; i++) {
            if (n == LANES)
                v_store(y + i * w + j, v_add(v_set(up[i]), row));
            else
                v_store_part(y + i * w + j, v_add(v_set(up[i]), row), n);
        }
    }
}

/* Sixteen blocks of Philox (fs_philox says what it is), counters first .. first + 15: word w of block l in r[16 w + l]. Left to the compiler, which
 * makes vectors of such loops. */
static inline void philox_run(uint64_t first, uint64_t key, uint32_t r[FS_DROP_RUN]) {
    uint32_t *a = r, *b = r + 16, *c = r + 32, *d = r + 48, k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (uint32_t l = 0; l < 16; l++) {
        a[l] = (uint32_t)(first + l);
        b[l] = (uint32_t)((first + l) >> 32);
        c[l] = d[l] = 0;
    }
    for (int round = 0; round < 10; round++) {
        for (int l = 0; l < 16; l++) {
            const uint64_t p = (uint64_t)a[l] * 0xD2511F53u, q = (uint64_t)c[l] * 0xCD9E8D57u;
            a[l] = (uint32_t)(q >> 32) ^ b[l] ^ k0;
            b[l] = (uint32_t)q;
            c[l] = (uint32_t)(p >> 32) ^ d[l] ^ k1;
            d[l] = (uint32_t)p;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
}

void FS_KERNEL(fs_drop)(const float *x, int64_t at, int64_t n, uint64_t key, uint32_t below, float factor, bool add, float *y) {
    for (int64_t i = 0; i < n; i += FS_DROP_RUN) {
        uint32_t r[FS_DROP_RUN];
        float kept[FS_DROP_RUN] = {0};
        const int64_t some = fs_min_i64(FS_DROP_RUN, n - i);
        philox_run((uint64_t)((at + i) / 4), key, r);
        if (some == FS_DROP_RUN) {
            for (int j = 0; j < FS_DROP_RUN; j++) kept[j] = x[i + j] * factor;
        } else {
            for (int64_t j = 0; j < some; j++) kept[j] = x[i + j] * factor;
        }
        for (int j = 0; j < FS_DROP_RUN; j++) kept[j] = r[j] < below ? 0.0f : kept[j];
        for (int64_t j = 0; j < some && add; j++) y[i + j] += kept[j];
        if (!add) memcpy(y + i, kept, (size_t)some * sizeof *kept);
    }
}

static inline vf normal(vf x, vf mean, vf rstd, vf w, vf b) { return v_fma(v_mul(v_sub(x, mean), rstd), w, b); }

void FS_KERNEL(fs_normalize)(const float *x, float mean, float rstd, const float *w, const float *b, float *y, int64_t n) {
    const vf m = v_set(mean), r = v_set(rstd);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) v_store(y + i, normal(v_load(x + i), m, r, v_load(w + i), v_load(b + i)));
    const int64_t left = n - i;
    if (left) v_store_part(y + i, normal(v_load_part(x + i, left), m, r, v_load_part(w + i, left), v_load_part(b + i, left)), left);
}

/* ---- reductions: by lanes, the lanes added in a fixed order ---- */

double FS_KERNEL(fs_sum)(const float *x, int64_t n) {
    vd s = v_wide_zero();
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) s = v_wide_add(s, v_load(x + i));
    if (i < n) s = v_wide_add(s, v_load_part(x + i, n - i));
    return v_wide_sum(s);
}

double FS_KERNEL(fs_sum_squares)(const float *x, float mean, int64_t n) {
    vd s = v_wide_zero();
    const vf m = v_set(mean);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) s = v_wide_add_square(s, v_sub(v_load(x + i), m));
    if (i < n) { /* the lanes behind the end must give 0, not mean^2 */
        float rest[LANES] = {0};
        v_store_part(rest, v_sub(v_load_part(x + i, n - i), m), n - i);
        s = v_wide_add_square(s, v_load(rest));
    }
    return v_wide_sum(s);
}

float FS_KERNEL(fs_max)(const float *x, int64_t n) {
    vf m = v_set(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) m = v_max(v_load(x + i), m);
    float best = v_largest(m);
    for (; i < n; i++)
        if (x[i] > best) best = x[i];
    return best;
}

double FS_KERNEL(fs_exp_sum)(const float *x, float max, float *y, int64_t n) {
    vd s = v_wide_zero();
    const vf m = v_set(max);
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const vf e = v_exp(v_sub(v_load(x + i), m));
        v_store(y + i, e);
        s = v_wide_add(s, e);
    }
    if (i < n) {
        float rest[LANES] = {0};
        v_store_part(rest, v_exp(v_sub(v_load_part(x + i, n - i), m)), n - i);
        v_store_part(y + i, v_load(rest), n - i);
        s = v_wide_add(s, v_load(rest));
    }
    return v_wide_sum(s);
}
