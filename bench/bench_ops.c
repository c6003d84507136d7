/* Speed of the operators at the shapes of the networks, beside the roofs of the machine measured in the same run (fused multiply-adds in
 * registers; reading memory). Each figure is the median of several runs. Usage: bench_ops [threads] [ref|avx2|avx512] [filter] */
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/backend.h"
#include "backend/roof.h"
#include "tensor/ops.h"

enum { RUNS = 5 };

/* Seconds: wall time, or with one thread the processor time it used, which other work on the machine disturbs less. */
static double seconds(int threads) {
    struct timespec t;
    clock_gettime(threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct bench { fs_exec c; double peak, bandwidth; const char *filter; } bench;

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void fill(float *x, int64_t n) {
    fs_rng r = fs_rng_seed(7);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(fs_rng_uniform(&r) - 0.5);
}

static fs_tensor *tensor(bench *b, fs_dtype type, int ndim, const int64_t *shape) {
    int64_t n = 1;
    for (int d = 0; d < ndim; d++) n *= shape[d];
    float *x = fs_alloc((size_t)n, sizeof *x);
    if (!x) exit(1);
    fill(x, n);
    if (type == FS_DTYPE_F32) return fs_wrap(&b->c, type, ndim, shape, x);
    uint16_t *h = fs_alloc((size_t)n, sizeof *h);
    if (!h) exit(1);
    for (int64_t i = 0; i < n; i++) h[i] = type == FS_DTYPE_F16 ? fs_f32_to_f16(x[i]) : fs_f32_to_bf16(x[i]);
    free(x);
    return fs_wrap(&b->c, type, ndim, shape, h);
}
#define TENSOR(b, type, ...) tensor((b), (type), (int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

typedef struct call { const fs_tensor *x, *w, *v, *t, *u; int64_t h, width; int stride, pad; bool causal; } call;
typedef fs_tensor *(*op_fn)(fs_exec *c, const call *a);

static fs_tensor *run_linear(fs_exec *c, const call *a) { return fs_linear(c, a->x, a->w, NULL); }
static fs_tensor *run_conv(fs_exec *c, const call *a) { return fs_conv2d(c, a->x, a->w, NULL, a->stride, a->pad); }
static fs_tensor *run_attention(fs_exec *c, const call *a) { return fs_attention(c, a->x, a->w, a->v, 0.1f, a->causal); }
static fs_tensor *run_rel(fs_exec *c, const call *a) { return fs_attention_rel(c, a->x, a->w, a->v, a->t, a->u, a->h, a->width, 0.1f); }
static fs_tensor *run_gelu(fs_exec *c, const call *a) { return fs_gelu(c, a->x); }
static fs_tensor *run_softmax(fs_exec *c, const call *a) { return fs_softmax(c, a->x); }
static fs_tensor *run_norm(fs_exec *c, const call *a) { return fs_layer_norm(c, a->x, a->w, a->w, 1e-5f); }
static fs_tensor *run_add(fs_exec *c, const call *a) { return fs_add(c, a->x, a->x); }

static double median_time(fs_exec *c, op_fn fn, const call *a, double *best) {
    double t[RUNS];
    for (int i = -1; i < RUNS; i++) { /* the first warms the arena */
        const fs_arena_mark mark = fs_arena_get_mark(c->arena);
        const double start = seconds(c->threads);
        fn(c, a);
        if (i >= 0) t[i] = seconds(c->threads) - start;
        fs_arena_release(c->arena, mark);
    }
    fs_error err;
    if (fs_exec_status(c, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    qsort(t, RUNS, sizeof *t, by_value);
    *best = t[0];
    return t[RUNS / 2];
}

/* flops, bytes: of one call; the one that is not 0 is what the operator is bound by. */
static void line(bench *b, const char *name, double flops, double bytes, op_fn fn, const call *a) {
    if (b->filter && !strstr(name, b->filter)) return;
    double best;
    const double t = median_time(&b->c, fn, a, &best);
    if (flops > 0)
        printf("%-44s %9.3f ms %8.1f GFLOP/s  %3.0f %% of peak (best %3.0f %%)\n", name, t * 1e3, flops / t / 1e9,
               100 * flops / t / b->peak, 100 * flops / best / b->peak);
    else
        printf("%-44s %9.3f ms %8.1f GB/s     %3.0f %% of read (best %3.0f %%)\n", name, t * 1e3, bytes / t / 1e9,
               100 * bytes / t / b->bandwidth, 100 * bytes / best / b->bandwidth);
    fflush(stdout);
}

static void linear(bench *b, const char *name, int64_t m, int64_t k, int64_t n, fs_dtype type) {
    if (b->filter && !strstr(name, b->filter)) return;
    call a = {.x = TENSOR(b, FS_DTYPE_F32, m, k), .w = TENSOR(b, type, n, k)};
    if (m > FS_GEMM_FEW_ROWS)
        line(b, name, 2.0 * (double)m * (double)n * (double)k, 0, run_linear, &a);
    else
        line(b, name, 0, (double)n * (double)k * (double)fs_dtype_size(type), run_linear, &a);
    free(a.x->data);
    free(a.w->data);
}

static void measure_roofs(bench *b) {
#if defined(__x86_64__)
    const bool wide = strcmp(b->c.backend->name, "avx512") == 0;
    const size_t bytes = (size_t)512 << 20;
    char *memory = fs_alloc(bytes, 1);
    if (!memory) exit(1);
    memset(memory, 1, bytes);
    double best_time = 1e9, flops = 0, read_time = 1e9;
    for (int i = 0; i < 7; i++) {
        double start = seconds(b->c.threads);
        flops = 0;
#pragma omp parallel num_threads(b->c.threads) reduction(+ : flops)
        flops += wide ? fs_roof_fma_avx512(10000000) : fs_roof_fma_avx2(10000000);
        double t = seconds(b->c.threads) - start;
        if (t < best_time) best_time = t;
        static volatile double sink;
        double sum = 0;
        start = seconds(b->c.threads);
#pragma omp parallel num_threads(b->c.threads) reduction(+ : sum)
        {
            const size_t share = bytes / (size_t)omp_get_num_threads() / 64 * 64, from = share * (size_t)omp_get_thread_num();
            sum += wide ? fs_roof_read_avx512(memory + from, share) : fs_roof_read_avx2(memory + from, share);
        }
        t = seconds(b->c.threads) - start;
        sink = sum;
        (void)sink;
        if (t < read_time) read_time = t;
    }
    b->peak = flops / best_time;
    b->bandwidth = (double)bytes / read_time;
    free(memory);
#else
    b->peak = b->bandwidth = 1e9;
#endif
    printf("%s, %d threads: peak %.1f GFLOP/s f32, memory read %.1f GB/s (best of 7)\n", b->c.backend->name, b->c.threads, b->peak / 1e9,
           b->bandwidth / 1e9);
}

static void rest(bench *b) {
    call conv = {.x = TENSOR(b, FS_DTYPE_F32, 64, 56, 56), .w = TENSOR(b, FS_DTYPE_F32, 64, 64, 3, 3), .stride = 1, .pad = 1};
    line(b, "conv 3x3 64x56x56 -> 64 (ResNet)", 2.0 * 64 * 576 * 3136, 0, run_conv, &conv);
    call neck = {.x = TENSOR(b, FS_DTYPE_F32, 256, 64, 64), .w = TENSOR(b, FS_DTYPE_F32, 256, 256, 3, 3), .stride = 1, .pad = 1};
    line(b, "conv 3x3 256x64x64 -> 256 (SAM neck)", 2.0 * 256 * 2304 * 4096, 0, run_conv, &neck);
    call patch = {.x = TENSOR(b, FS_DTYPE_F32, 3, 1024, 1024), .w = TENSOR(b, FS_DTYPE_F32, 1280, 3, 16, 16), .stride = 16};
    line(b, "conv 16x16/16 3x1024x1024 -> 1280 (SAM patch)", 2.0 * 1280 * 768 * 4096, 0, run_conv, &patch);
    const call clip = {
        .x = TENSOR(b, FS_DTYPE_F32, 577, 16, 64), .w = TENSOR(b, FS_DTYPE_F32, 577, 16, 64), .v = TENSOR(b, FS_DTYPE_F32, 577, 16, 64)};
    line(b, "attention 577x16x64 (CLIP)", 4.0 * 577 * 577 * 64 * 16, 0, run_attention, &clip);
    const call prefill = {.x = TENSOR(b, FS_DTYPE_F32, 710, 40, 128),
                          .w = TENSOR(b, FS_DTYPE_F32, 710, 40, 128),
                          .v = TENSOR(b, FS_DTYPE_F32, 710, 40, 128),
                          .causal = true};
    line(b, "attention causal 710x40x128 (LLaMA prefill)", 2.0 * 710 * 711 * 128 * 40, 0, run_attention, &prefill);
    const call decode = {.x = TENSOR(b, FS_DTYPE_F32, 1, 40, 128),
                         .w = TENSOR(b, FS_DTYPE_F32, 2048, 40, 128),
                         .v = TENSOR(b, FS_DTYPE_F32, 2048, 40, 128),
                         .causal = true};
    line(b, "attention 1 of 2048 x40x128 (decode)", 0, 2.0 * 2048 * 40 * 128 * 4, run_attention, &decode);
    const call window = {.x = TENSOR(b, FS_DTYPE_F32, 25, 196, 16, 80),
                         .w = TENSOR(b, FS_DTYPE_F32, 25, 196, 16, 80),
                         .v = TENSOR(b, FS_DTYPE_F32, 25, 196, 16, 80),
                         .t = TENSOR(b, FS_DTYPE_F32, 27, 80),
                         .u = TENSOR(b, FS_DTYPE_F32, 27, 80),
                         .h = 14,
                         .width = 14};
    line(b, "attention_rel 25 windows of 14x14x16x80", 4.0 * 25 * 196 * 196 * 80 * 16, 0, run_rel, &window);
    const call global = {.x = TENSOR(b, FS_DTYPE_F32, 1, 4096, 16, 80),
                         .w = TENSOR(b, FS_DTYPE_F32, 1, 4096, 16, 80),
                         .v = TENSOR(b, FS_DTYPE_F32, 1, 4096, 16, 80),
                         .t = TENSOR(b, FS_DTYPE_F32, 127, 80),
                         .u = TENSOR(b, FS_DTYPE_F32, 127, 80),
                         .h = 64,
                         .width = 64};
    line(b, "attention_rel 64x64x16x80 (SAM global)", 4.0 * 4096 * 4096 * 80 * 16, 0, run_rel, &global);
    const call wide = {.x = TENSOR(b, FS_DTYPE_F32, 4096, 5120), .w = TENSOR(b, FS_DTYPE_F32, 5120)};
    line(b, "gelu 4096x5120 (read + write)", 0, 2.0 * 4096 * 5120 * 4, run_gelu, &wide);
    line(b, "add 4096x5120 (one read + write)", 0, 2.0 * 4096 * 5120 * 4, run_add, &wide);
    line(b, "softmax 4096x5120 (read + write)", 0, 2.0 * 4096 * 5120 * 4, run_softmax, &wide);
    line(b, "layer_norm 4096x5120 (read + write)", 0, 2.0 * 4096 * 5120 * 4, run_norm, &wide);
}

int main(int argc, char **argv) {
    bench b = {.filter = argc > 3 ? argv[3] : NULL};
    fs_error err;
    if (fs_exec_init(&b.c, FS_DTYPE_F32, argc > 1 ? atoi(argv[1]) : 0, NULL, &err)) return fprintf(stderr, "%s\n", err.message), 1;
    if (argc > 2) b.c.backend = fs_backend_by_name(argv[2]);
    if (!b.c.backend) return fprintf(stderr, "no table of kernels %s on this processor\n", argv[2]), 1;
    measure_roofs(&b);
    linear(&b, "linear [4096,1280]x[3840,1280] f32 (SAM qkv)", 4096, 1280, 3840, FS_DTYPE_F32);
    linear(&b, "linear [4096,5120]x[1280,5120] f32 (SAM lin2)", 4096, 5120, 1280, FS_DTYPE_F32);
    linear(&b, "linear [577,1024]x[4096,1024] f32 (CLIP fc1)", 577, 1024, 4096, FS_DTYPE_F32);
    linear(&b, "linear [577,1024]x[1024,1024] f32 (CLIP q)", 577, 1024, 1024, FS_DTYPE_F32);
    linear(&b, "linear [710,5120]x[13824,5120] f16 (LLaMA)", 710, 5120, 13824, FS_DTYPE_F16);
    linear(&b, "linear [710,13824]x[5120,13824] f16 (LLaMA)", 710, 13824, 5120, FS_DTYPE_F16);
    linear(&b, "linear [16,5120]x[13824,5120] f16", 16, 5120, 13824, FS_DTYPE_F16);
    linear(&b, "linear [1,5120]x[13824,5120] f16 (decode)", 1, 5120, 13824, FS_DTYPE_F16);
    linear(&b, "linear [1,5120]x[13824,5120] bf16", 1, 5120, 13824, FS_DTYPE_BF16);
    linear(&b, "linear [1,4096]x[11008,4096] f32", 1, 4096, 11008, FS_DTYPE_F32);
    linear(&b, "linear [4,5120]x[13824,5120] f16", 4, 5120, 13824, FS_DTYPE_F16);
    linear(&b, "linear [8,5120]x[13824,5120] f16", 8, 5120, 13824, FS_DTYPE_F16);
    linear(&b, "linear [12,5120]x[13824,5120] f16", 12, 5120, 13824, FS_DTYPE_F16);
    rest(&b);
    fs_exec_end(&b.c);
    return 0;
}
