/* f32 rows to block types. Q8_0 and Q4_0 follow ggml's reference rounding, so the bytes are the ones its tools write. For Q4_K and Q6_K the
 * format leaves the choice of scales open; here they minimise the squared error of the block, which is the expected squared error of the
 * layer's output for inputs without preferred direction:
 *   1. per group, codes for a few trial scales, each followed by the least-squares scale (and min) for those codes (Lloyd's iteration);
 *   2. the group scales share one f16 scale; each group then tries the neighbouring integer scales with codes made anew;
 *   3. for those integers the shared f16 scales are fitted again by least squares over the block, and step 2 repeats.
 * Sums run in four lanes of fixed order and nothing is contracted, so every compiler and processor gives the same bytes. */
#include "tensor/block_layout.h"

#include <float.h>
#include <math.h>
#include <string.h>

static bool put_half(uint8_t *p, float f) {
    const uint16_t h = fs_f32_to_f16(f);
    p[0] = (uint8_t)h;
    p[1] = (uint8_t)(h >> 8);
    return (h & 0x7C00) != 0x7C00;
}

static float as_half(float f) { return fs_f16_to_f32(fs_f32_to_f16(f)); }

/* 0 for a divisor of 0 or one so small that its inverse overflows: its f16 is 0 too, and so is the whole group. */
static float inverse(float f) {
    const float r = f != 0 ? 1 / f : 0;
    return fabsf(r) <= FLT_MAX ? r : 0;
}

/* No NaN, no infinity, nothing far beyond 65504 * 128 * 32, the largest number any block type can hold: sums of squares stay finite. */
static bool all_sane(const float *x, int n) {
    int bad = 0;
    for (int i = 0; i < n; i++) bad |= !(fabsf(x[i]) <= 1e9f);
    return !bad;
}

/* Four lanes, in the compilers' own notation: every processor has at least this, and the order of the sums is fixed. */
typedef float lanes __attribute__((vector_size(16)));
typedef int32_t lanes_i __attribute__((vector_size(16)));

static lanes load4(const float *p) {
    lanes v;
    memcpy(&v, p, sizeof v);
    return v;
}

static float sum4(lanes a) { return (a[0] + a[2]) + (a[1] + a[3]); }

/* v + 0.5 cut to a whole number, kept within 0..top. */
static lanes nearest4(lanes v, float top) {
    const lanes t = v + 0.5f, most = (lanes){0} + (top + 0.5f);
    const lanes up = (lanes)((lanes_i)t & (t > 0));
    const lanes_i small = up < most;
    const lanes cut = (lanes)(((lanes_i)up & small) | ((lanes_i)most & ~small));
    return __builtin_convertvector(__builtin_convertvector(cut, lanes_i), lanes);
}

static bool quantize_q8_0(const float *x, uint8_t *out) {
    float most = 0;
    for (int i = 0; i < 32; i++) most = fmaxf(most, fabsf(x[i]));
    const float d = most / 127, id = inverse(d);
    for (int i = 0; i < 32; i++) {
        const double v = (double)(x[i] * id); /* half away from zero; exact in double */
        out[2 + i] = (uint8_t)(int8_t)(int)(v + (v < 0 ? -0.5 : 0.5));
    }
    return put_half(out, d);
}

/* The value of largest magnitude, the first of several, becomes code 0, that is -8 d. */
static bool quantize_q4_0(const float *x, uint8_t *out) {
    float most = x[0];
    for (int i = 1; i < 32; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    const float d = most / -8, id = inverse(d);
    uint8_t q[32];
    for (int i = 0; i < 32; i++) {
        /* one rounding to f32 of the whole, as with fused multiply-add and as the gguf package has it */
        const int v = (int)(float)((double)x[i] * (double)id + 8.5);
        q[i] = (uint8_t)(v < 15 ? v : 15);
    }
    for (int i = 0; i < 16; i++) out[2 + i] = (uint8_t)(q[i] | q[i + 16] << 4);
    return put_half(out, d);
}

/* ---- Q4_K: groups of 32, x ~ s q - m with q in 0..15 and m >= 0 ---- */

enum { K_BLOCK = 256, Q4K_GROUP = 32, Q4K_GROUPS = 8 };
typedef struct affine { float s, m; double error; } affine;
typedef struct q4k_sums { double x, xx, q, qq, xq; } q4k_sums; /* x and xx belong to the values, the others to codes */

/* The codes nearest to x for scale 1/inv and min m, and their sums. */
static void q4k_codes(const float *x, float inv, float m, float *q, q4k_sums *sums) {
    lanes sq = {0}, sqq = {0}, sxq = {0};
    for (int i = 0; i < Q4K_GROUP; i += 4) {
        const lanes v = load4(x + i), c = nearest4((v + m) * inv, 15);
        memcpy(q + i, &c, sizeof c);
        sq += c;
        sqq += c * c;
        sxq += v * c;
    }
    sums->q = (double)sum4(sq);
    sums->qq = (double)sum4(sqq);
    sums->xq = (double)sum4(sxq);
}

/* Squared error of s q - m, from the sums. */
static double q4k_error(const q4k_sums *t, float scale, float min) {
    const double s = (double)scale, m = (double)min;
    return s * s * t->qq + m * m * Q4K_GROUP + t->xx - 2 * s * m * t->q - 2 * s * t->xq + 2 * m * t->x;
}

/* Least-squares s and m >= 0 for given codes; false when the codes say nothing (all 0 or all equal). */
static bool q4k_fit(const q4k_sums *t, affine *f) {
    const double det = Q4K_GROUP * t->qq - t->q * t->q;
    if (det <= 0) return false;
    double s = (Q4K_GROUP * t->xq - t->q * t->x) / det, m = (s * t->q - t->x) / Q4K_GROUP;
    if (m < 0) {
        m = 0;
        s = t->xq / t->qq;
    }
    if (!(s > 0)) return false;
    *f = (affine){.s = (float)s, .m = (float)m};
    f->error = q4k_error(t, f->s, f->m);
    return true;
}

static q4k_sums q4k_begin(const float *x) {
    lanes sx = {0}, sxx = {0};
    for (int i = 0; i < Q4K_GROUP; i += 4) {
        const lanes v = load4(x + i);
        sx += v;
        sxx += v * v;
    }
    return (q4k_sums){.x = (double)sum4(sx), .xx = (double)sum4(sxx)};
}

static affine q4k_search(const float *x) {
    float lo = 0, hi = x[0], q[Q4K_GROUP];
    for (int i = 0; i < Q4K_GROUP; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    affine best = {.m = -lo};
    const float range = hi - lo;
    if (inverse(range) == 0) return best; /* all equal and not positive, or as good as that: m alone */
    q4k_sums t = q4k_begin(x);
    best.s = range / 15;
    q4k_codes(x, 15 / range, -lo, q, &t);
    best.error = q4k_error(&t, best.s, best.m);
    for (int trial = 0; trial < 9; trial++) {
        affine f;
        /* from 12.75 to 16.75 steps over the range: below 15 the ends get room of their own, above it the top is clipped */
        q4k_codes(x, (12.75f + 0.5f * (float)trial) / range, -lo, q, &t);
        for (int pass = 0; pass < 2 && q4k_fit(&t, &f); pass++) {
            if (f.error < best.error) best = f;
            if (pass == 0) q4k_codes(x, inverse(f.s), f.m, q, &t);
        }
    }
    return best;
}

/* Integer scale and min of one group under the shared d and dmin: the best of the neighbours of (sc, mn). q: the codes. */
static double q4k_settle(const float *x, float d, float dmin, int *sc, int *mn, float *q) {
    const int sc0 = *sc, mn0 = *mn;
    float trial[Q4K_GROUP];
    double best = INFINITY;
    q4k_sums t = q4k_begin(x);
    for (int i = sc0 > 0 ? sc0 - 1 : 0; i <= sc0 + 1 && i <= 63; i++)
        for (int j = mn0 > 0 ? mn0 - 1 : 0; j <= mn0 + 1 && j <= 63; j++) {
            const float s = d * (float)i, m = dmin * (float)j;
            q4k_codes(x, inverse(s), m, trial, &t);
            const double error = q4k_error(&t, s, m);
            if (!(error < best)) continue;
            best = error;
            *sc = i;
            *mn = j;
            memcpy(q, trial, sizeof trial);
        }
    return best;
}

/* Least-squares d and dmin >= 0 for fixed integers: x ~ d (sc q) - dmin mn. */
static bool q4k_refit(const float *x, const int *sc, const int *mn, const float *q, float *d, float *dmin) {
    double uu = 0, uv = 0, vv = 0, xu = 0, xv = 0;
    for (int i = 0; i < K_BLOCK; i++) {
        const double u = (double)sc[i / Q4K_GROUP] * (double)q[i], v = mn[i / Q4K_GROUP];
        uu += u * u;
        uv += u * v;
        vv += v * v;
        xu += (double)x[i] * u;
        xv += (double)x[i] * v;
    }
    const double det = uu * vv - uv * uv;
    if (uu <= 0) return false;
    *d = as_half((float)(det > 0 ? (xu * vv - xv * uv) / det : xu / uu));
    *dmin = as_half((float)(det > 0 ? (xu * uv - xv * uu) / det : 0));
    return *d > 0 && *dmin >= 0 && *d <= FLT_MAX && *dmin <= FLT_MAX;
}

static int nearest_scale(float v, float inv) {
    const float r = v * inv + 0.5f;
    return r < 63 ? (int)r : 63;
}

static void q4k_pack(float d, float dmin, const int *sc, const int *mn, const float *q, uint8_t *out) {
    put_half(out, d);
    put_half(out + 2, dmin);
    for (int j = 0; j < 4; j++) {
        out[4 + j] = (uint8_t)(sc[j] | sc[j + 4] >> 4 << 6);
        out[8 + j] = (uint8_t)(mn[j] | mn[j + 4] >> 4 << 6);
        out[12 + j] = (uint8_t)((sc[j + 4] & 15) | (mn[j + 4] & 15) << 4);
    }
    for (int pair = 0; pair < 4; pair++)
        for (int i = 0; i < 32; i++) out[16 + 32 * pair + i] = (uint8_t)((int)q[64 * pair + i] | (int)q[64 * pair + 32 + i] << 4);
}

static bool quantize_q4_k(const float *x, uint8_t *out) {
    affine group[Q4K_GROUPS];
    float most_s = 0, most_m = 0, q[K_BLOCK], q2[K_BLOCK];
    double error = 0, error2 = 0;
    int sc[Q4K_GROUPS], mn[Q4K_GROUPS], sc2[Q4K_GROUPS], mn2[Q4K_GROUPS];
    for (int j = 0; j < Q4K_GROUPS; j++) {
        group[j] = q4k_search(x + Q4K_GROUP * j);
        most_s = fmaxf(most_s, group[j].s);
        most_m = fmaxf(most_m, group[j].m);
    }
    float d = as_half(most_s / 63), dmin = as_half(most_m / 63);
    if (d > FLT_MAX || dmin > FLT_MAX) return false;
    for (int j = 0; j < Q4K_GROUPS; j++) {
        sc[j] = nearest_scale(group[j].s, inverse(d));
        mn[j] = nearest_scale(group[j].m, inverse(dmin));
        error += q4k_settle(x + Q4K_GROUP * j, d, dmin, &sc[j], &mn[j], q + Q4K_GROUP * j);
    }
    float d2 = d, dmin2 = dmin;
    if (q4k_refit(x, sc, mn, q, &d2, &dmin2)) {
        for (int j = 0; j < Q4K_GROUPS; j++) {
            sc2[j] = sc[j];
            mn2[j] = mn[j];
            error2 += q4k_settle(x + Q4K_GROUP * j, d2, dmin2, &sc2[j], &mn2[j], q2 + Q4K_GROUP * j);
        }
        if (error2 < error) {
            q4k_pack(d2, dmin2, sc2, mn2, q2, out);
            return true;
        }
    }
    q4k_pack(d, dmin, sc, mn, q, out);
    return true;
}

/* ---- Q6_K: groups of 16, x ~ s l with l in -32..31 and s of either sign ---- */

enum { Q6K_GROUP = 16, Q6K_GROUPS = 16 };

typedef struct q6k_sums { double xl, ll; } q6k_sums;

static void q6k_codes(const float *x, float inv, float *l, q6k_sums *sums) {
    lanes xl = {0}, ll = {0};
    for (int i = 0; i < Q6K_GROUP; i += 4) {
        const lanes v = load4(x + i), c = nearest4(v * inv + 32, 63) - 32;
        memcpy(l + i, &c, sizeof c);
        xl += v * c;
        ll += c * c;
    }
    sums->xl = (double)sum4(xl);
    sums->ll = (double)sum4(ll);
}

static double q6k_error(const q6k_sums *t, double s) { return s * s * t->ll - 2 * s * t->xl; } /* less the sum of x^2 */

/* The scale of least squared error; its sign puts the value of largest magnitude on the longer, negative side. */
static float q6k_search(const float *x) {
    float most = x[0], best = 0, l[Q6K_GROUP];
    double best_error = INFINITY;
    for (int i = 1; i < Q6K_GROUP; i++)
        if (fabsf(x[i]) > fabsf(most)) most = x[i];
    const float inv = inverse(most);
    if (inv == 0) return 0;
    for (int trial = 0; trial < 9; trial++) {
        q6k_sums t;
        q6k_codes(x, -(29.5f + 0.5f * (float)trial) * inv, l, &t);
        const double s = t.ll > 0 ? t.xl / t.ll : 0, error = q6k_error(&t, s);
        if (error < best_error) {
            best_error = error;
            best = (float)s;
        }
    }
    return best;
}

/* Integer scale of one group under the shared d: the best of its neighbours. l: the codes. */
static void q6k_settle(const float *x, float d, int *sc, float *l) {
    const int sc0 = *sc;
    float trial[Q6K_GROUP];
    double best = INFINITY;
    for (int i = sc0 - 1; i <= sc0 + 1; i++) {
        if (i < -128 || i > 127) continue;
        const float s = d * (float)i;
        q6k_sums t;
        q6k_codes(x, inverse(s), trial, &t);
        const double error = q6k_error(&t, (double)s);
        if (!(error < best)) continue;
        best = error;
        *sc = i;
        memcpy(l, trial, sizeof trial);
    }
}

static bool quantize_q6_k(const float *x, uint8_t *out) {
    float s[Q6K_GROUPS], most = 0, l[K_BLOCK];
    for (int j = 0; j < Q6K_GROUPS; j++) {
        s[j] = q6k_search(x + Q6K_GROUP * j);
        if (fabsf(s[j]) > fabsf(most)) most = s[j];
    }
    const float d = as_half(most / -128);
    if (fabsf(d) > FLT_MAX) return false;
    for (int j = 0; j < Q6K_GROUPS; j++) {
        const float r = s[j] * inverse(d);
        int sc = (int)(r < -128 ? -128 : r > 127 ? 127 : r + (r < 0 ? -0.5f : 0.5f));
        q6k_settle(x + Q6K_GROUP * j, d, &sc, l + Q6K_GROUP * j);
        out[192 + j] = (uint8_t)(int8_t)sc;
    }
    memset(out, 0, 192);
    for (int i = 0; i < K_BLOCK; i++) {
        const int half = i / 128, r = i % 128, code = (int)l[i] + 32;
        out[64 * half + r % 64] |= (uint8_t)((code & 15) << (r < 64 ? 0 : 4));
        out[128 + 32 * half + r % 32] |= (uint8_t)(code >> 4 << (2 * (r / 32)));
    }
    put_half(out + 208, d);
    return true;
}

bool fs_blocks_quantize(fs_dtype type, const float *x, int64_t blocks, uint8_t *out) {
    bool (*one)(const float *, uint8_t *) = type == FS_DTYPE_Q8_0   ? quantize_q8_0
                                            : type == FS_DTYPE_Q4_0 ? quantize_q4_0
                                            : type == FS_DTYPE_Q4_K ? quantize_q4_k
                                                                    : quantize_q6_k;
    const int64_t block = fs_dtype_block(type);
    size_t step;
    if (!fs_dtype_row_bytes(type, block, &step)) return false;
    for (int64_t i = 0; i < blocks; i++)
        if (!all_sane(x + i * block, (int)block) || !one(x + i * block, out + (size_t)i * step)) return false;
    return true;
}
