/* Plain C kernels on vectors: conversion and rounding of element types, elementwise functions, reductions of a row. Functions of the C
 * library stand for exp and erf; sums are taken in f64. */
#include <math.h>
#include <string.h>

#include "backend/cpu/kernels.h"

void fs_to_f32_ref(const void *x, fs_dtype type, float *y, int64_t n) {
    const uint16_t *h = x;
    switch (type) {
    case FS_DTYPE_F16:
        for (int64_t i = 0; i < n; i++) y[i] = fs_f16_to_f32(h[i]);
        break;
    case FS_DTYPE_BF16:
        for (int64_t i = 0; i < n; i++) y[i] = fs_bf16_to_f32(h[i]);
        break;
    default: /* F32; the operators let no other type through */
        memmove(y, x, (size_t)n * sizeof *y);
    }
}

void fs_from_f32_ref(const float *x, fs_dtype type, void *y, int64_t n) {
    uint16_t *h = y;
    if (type == FS_DTYPE_F16)
        for (int64_t i = 0; i < n; i++) h[i] = fs_f32_to_f16(x[i]);
    else if (type == FS_DTYPE_BF16)
        for (int64_t i = 0; i < n; i++) h[i] = fs_f32_to_bf16(x[i]);
    else
        memmove(y, x, (size_t)n * sizeof *x);
}

void fs_round_ref(float *x, int64_t n, fs_dtype precision) {
    if (precision == FS_DTYPE_BF16)
        for (int64_t i = 0; i < n; i++) x[i] = fs_bf16_to_f32(fs_f32_to_bf16(x[i]));
    else if (precision == FS_DTYPE_F16)
        for (int64_t i = 0; i < n; i++) x[i] = fs_f16_to_f32(fs_f32_to_f16(x[i]));
}

void fs_add_ref(const float *a, const float *b, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = a[i] + b[i];
}

void fs_mul_ref(const float *a, const float *b, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = a[i] * b[i];
}

void fs_scale_ref(const float *x, float f, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * f;
}

void fs_affine_ref(const float *x, float a, float b, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] * a + b;
}

void fs_finish_ref(const float *x, int64_t ldx, int64_t rows, int64_t cols, const float *factor, const float *shift, int64_t each, const float *residual,
                   int64_t ldr, bool relu, float *y, int64_t ldy) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) {
            float value = x[i * ldx + j];
            if (factor) value = value * factor[i * each] + shift[i * each];
            if (residual) value = residual[i * ldr + j] + value;
            y[i * ldy + j] = relu && value < 0.0f ? 0.0f : value; /* NaN stays NaN */
        }
}

void fs_outer_sum_ref(const float *up, int64_t h, const float *across, int64_t w, float *y) {
    for (int64_t i = 0; i < h; i++)
        for (int64_t j = 0; j < w; j++) y[i * w + j] = up[i] + across[j];
}

void fs_normalize_ref(const float *x, float mean, float rstd, const float *w, const float *b, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = (x[i] - mean) * rstd * w[i] + b[i];
}

/* erfc instead of 1 + erf keeps the small values of the left tail; its slope there asks for f64. */
void fs_gelu_ref(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = (float)(0.5 * (double)x[i] * erfc((double)x[i] * -0.70710678118654752));
}

void fs_gelu_back_ref(const float *x, const float *dy, float *dx, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float y;
        fs_gelu_ref(x + i, &y, 1);
        const float cdf = fabsf(x[i]) > 1e-30f ? y / x[i] : 0.5f;
        dx[i] += dy[i] * (cdf + x[i] * expf(-0.5f * x[i] * x[i]) * 0.39894228f);
    }
}

void fs_silu_ref(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = x[i] / (1.0f + expf(-x[i]));
}

void fs_drop_ref(const float *x, int64_t at, int64_t n, uint64_t key, uint32_t below, float factor, bool add, float *y) {
    for (int64_t i = 0; i < n; i++) {
        const uint64_t counter = (uint64_t)((at + i) / 64 * 16 + (at + i) % 16);
        uint32_t r[4];
        fs_philox((const uint32_t[]){(uint32_t)counter, (uint32_t)(counter >> 32), 0, 0}, (const uint32_t[]){(uint32_t)key, (uint32_t)(key >> 32)}, r);
        const float kept = r[(at + i) / 16 % 4] < below ? 0.0f : x[i] * factor;
        y[i] = add ? y[i] + kept : kept;
    }
}

void fs_sigmoid_ref(const float *x, float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = 1.0f / (1.0f + expf(-x[i]));
}

double fs_sum_ref(const float *x, int64_t n) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) s += (double)x[i];
    return s;
}

double fs_sum_squares_ref(const float *x, float mean, int64_t n) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) {
        const double d = (double)(x[i] - mean);
        s += d * d;
    }
    return s;
}

float fs_max_ref(const float *x, int64_t n) {
    float m = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > m) m = x[i];
    return m;
}

double fs_exp_sum_ref(const float *x, float max, float *y, int64_t n) {
    double s = 0;
    for (int64_t i = 0; i < n; i++) {
        y[i] = expf(x[i] - max);
        s += (double)y[i];
    }
    return s;
}
