/* Speed of linear layers with packed weights at the shapes of the 13B model, beside the roofs of the machine: reading memory for decoding
 * (one row), integer products in registers for prefill (704 rows). A roof is measured right before every timed call, so that whatever else
 * the machine does meets both; each figure is the median over the runs, the share the median of the runs' own shares. Usage: bench_quant
 * [threads] [ref|avx2|avxvnni|vnni|vnni-zen4|vnni-zen5] [filter] [runs] */
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "backend/cpu/q_kernels.h"
#include "backend/roof.h"
#include "tensor/packed.h"

enum { MAX_RUNS = 99, TOKENS = 704 };
static const size_t STREAM = (size_t)600 << 20; /* bytes of weights read in one decoding run: far beyond any cache */

typedef struct bench {
    const fs_quant *q;
    const fs_backend *be;
    fs_arena *arena;
    const char *filter;
    int threads, runs;
    bool wide;    /* may use AVX-512 for the roofs */
    char *memory; /* STREAM bytes to read */
} bench;

/* Wall time, or with one thread the processor time it used, which other work on the machine disturbs less. */
static double seconds(const bench *b) {
    struct timespec t;
    clock_gettime(b->threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Memory in huge pages, as packed weights are. */
static void *pages(size_t bytes) {
    const size_t page = 2 << 20;
    void *p = NULL;
    if (posix_memalign(&p, page, (bytes + page - 1) / page * page) != 0) return NULL;
    madvise(p, (bytes + page - 1) / page * page, MADV_HUGEPAGE);
    return p;
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n) {
    qsort(x, (size_t)n, sizeof *x, by_value);
    return x[n / 2];
}

static double read_roof(const bench *b) { /* bytes a second */
    static volatile double sink;
    double sum = 0, start = seconds(b);
#pragma omp parallel num_threads(b->threads) reduction(+ : sum)
    {
        const size_t piece = 10 << 20, pieces = STREAM / piece; /* dynamic, as the products are */
#pragma omp for schedule(dynamic, 1)
        for (size_t i = 0; i < pieces; i++)
            sum += b->wide ? fs_roof_stream_vnni(b->memory + i * piece, piece) : fs_roof_read_avx2(b->memory + i * piece, piece);
    }
    const double t = seconds(b) - start;
    sink = sum;
    (void)sink;
    return (double)STREAM / t;
}

static double dot_roof(const bench *b) { /* operations a second; of AVX-512 VNNI where there is it, else of f32 multiply-adds, as 4-fold */
    double start = seconds(b), ops = 0;
#pragma omp parallel num_threads(b->threads) reduction(+ : ops)
    ops += b->wide ? fs_roof_dot_vnni(3000000) : 4 * fs_roof_fma_avx2(3000000);
    return ops / (seconds(b) - start);
}

static fs_packed *make_weight(const bench *b, fs_dtype type, int64_t rows, int64_t cols, double *pack_seconds) {
    size_t row_bytes;
    fs_packed *out = NULL;
    fs_error err = {0};
    if (!fs_dtype_row_bytes(type, cols, &row_bytes)) exit(1);
    uint8_t *blocks = fs_alloc((size_t)rows, row_bytes);
    if (!blocks) exit(1);
    fs_rng r = fs_rng_seed(11);
    for (size_t i = 0; i + 8 <= row_bytes * (size_t)rows; i += 8) {
        const uint64_t v = fs_rng_next(&r);
        memcpy(blocks + i, &v, 8);
    }
    const size_t block = row_bytes / (size_t)(cols / fs_dtype_block(type));
    const uint16_t scale = 0x1c00;
    for (size_t i = 0; i < row_bytes * (size_t)rows; i += block) {
        memcpy(blocks + i, &scale, 2);
        if (type == FS_DTYPE_Q4_K) memcpy(blocks + i + 2, &scale, 2);
    }
    const fs_tensor w = {.dtype = type, .ndim = 2, .shape = {rows, cols, 1, 1, 1, 1}, .data = blocks};
    const double start = fs_now();
    if (fs_pack_weight(&w, b->threads, &out, &err)) {
        fprintf(stderr, "%s\n", err.message);
        exit(1);
    }
    *pack_seconds = fs_now() - start;
    free(blocks);
    return out;
}

static void run_case(const bench *b, fs_dtype type, int64_t rows, int64_t cols, int64_t m) {
    char name[96];
    snprintf(name, sizeof name, "%s [%d,%d] x [%d,%d]", fs_dtype_name(type), (int)m, (int)cols, (int)rows, (int)cols);
    if (b->filter && !strstr(name, b->filter)) return;
    double pack;
    fs_packed *w = make_weight(b, type, rows, cols, &pack);
    const size_t copies = m > 16 ? 1 : STREAM / w->bytes + 1;
    uint8_t *all = pages(copies * w->bytes);
    float *x = fs_alloc((size_t)(m * cols), sizeof *x), *y = fs_alloc((size_t)(m * rows), sizeof *y);
    if (!all || !x || !y) exit(1);
    for (size_t i = 0; i < copies; i++) memcpy(all + i * w->bytes, w->tensor.data, w->bytes);
    fs_rng r = fs_rng_seed(7);
    for (int64_t i = 0; i < m * cols; i++) x[i] = (float)(fs_rng_uniform(&r) - 0.5);
    double speed[MAX_RUNS], share[MAX_RUNS], roofs[MAX_RUNS];
    for (int i = -1; i < b->runs; i++) { /* the first warms up */
        const double roof = m > 16 ? dot_roof(b) : read_roof(b), start = seconds(b);
        for (size_t c = 0; c < copies; c++) {
            fs_tensor t = w->tensor;
            t.data = all + c * w->bytes;
            const fs_quant_product p = {.x = x, .m = m, .w = &t, .y = y};
            if (!fs_quant_run(b->q, b->be, &p, b->threads, b->arena)) exit(1);
        }
        const double t = (seconds(b) - start) / (double)copies;
        if (i < 0) continue;
        speed[i] = m > 16 ? 2.0 * (double)(m * rows * cols) / t : (double)w->bytes / t;
        roofs[i] = roof;
        share[i] = speed[i] / roof;
    }
    const char *unit = m > 16 ? "Gop/s" : "GB/s ";
    const double best = (qsort(speed, (size_t)b->runs, sizeof *speed, by_value), speed[b->runs - 1]);
    printf("%-40s %7.1f %s (best %7.1f)  roof %7.1f  share %3.0f %%   packed at %.2f GB/s\n", name, median(speed, b->runs) / 1e9, unit,
           best / 1e9, median(roofs, b->runs) / 1e9, 100 * median(share, b->runs), (double)w->bytes / pack / 1e9);
    fflush(stdout);
    fs_packed_free(w);
    free(all);
    free(x);
    free(y);
}

int main(int argc, char **argv) {
    static const fs_dtype types[] = {FS_DTYPE_Q8_0, FS_DTYPE_Q4_0, FS_DTYPE_Q4_K};
    static const int64_t shapes[][2] = {{5120, 5120}, {13824, 5120}, {5120, 13824}}, tokens[] = {1, 4, 8, TOKENS};
    bench b = {.be = fs_backend_best(),
               .threads = argc > 1 ? atoi(argv[1]) : omp_get_num_procs(),
               .filter = argc > 3 ? argv[3] : NULL,
               .runs = argc > 4 ? atoi(argv[4]) : 7,
               .arena = fs_arena_create(0),
               .memory = fs_alloc(STREAM, 1)};
    b.q = argc > 2 ? fs_quant_by_name(argv[2]) : fs_quant_for(b.be);
    if (!b.q) return fprintf(stderr, "no kernels %s on this processor\n", argv[2]), 1;
    if (!b.arena || !b.memory || b.threads < 1 || b.runs < 1 || b.runs > MAX_RUNS) return 1;
    b.wide = fs_quant_by_name("vnni") != NULL;
    memset(b.memory, 1, STREAM);
    printf("%s, %d threads, %d runs\n", b.q->name, b.threads, b.runs);
    for (size_t m = 0; m < 4; m++)
        for (size_t t = 0; t < 3; t++)
            for (size_t s = 0; s < 3; s++) run_case(&b, types[t], shapes[s][0], shapes[s][1], tokens[m]);
    static const int64_t vision[][3] = {{4096, 3840, 1280}, {4096, 1280, 1280}, {4096, 5120, 1280}, {4096, 1280, 5120}, {577, 4096, 1024},
                                        {577, 1024, 1024}, {577, 1024, 4096}};
    for (size_t s = 0; s < 7; s++) run_case(&b, FS_DTYPE_Q8_0, vision[s][1], vision[s][2], vision[s][0]);
    fs_arena_free(b.arena);
    free(b.memory);
    return 0;
}
