/* Runs the loops of backend/roof.h on every thread and takes the best of a few runs: a roof is what can be reached, not what is usual. */
#include "tensor/roof.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "backend/cpu/q_kernels.h"
#include "backend/roof.h"

enum { RUNS = 5, PIECE = 10 << 20, PIECES = 64 }; /* 640 MB: beyond any cache; pieces as large as a product's share of a matrix */

static double run(double (*kernel)(int64_t), int64_t rounds, int threads) {
    double best = 0;
    for (int i = 0; kernel && i < RUNS; i++) {
        double ops = 0;
        const double start = fs_now();
#pragma omp parallel num_threads(threads) reduction(+ : ops)
        ops += kernel(rounds);
        const double speed = ops / (fs_now() - start);
        if (speed > best) best = speed;
    }
    return best;
}

static double read_all(double (*kernel)(const void *, size_t), const char *memory, int pieces, int threads) {
    double best = 0;
    for (int i = 0; kernel && i < RUNS; i++) {
        double sum = 0;
        const double start = fs_now();
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads) reduction(+ : sum)
        for (int k = 0; k < pieces; k++) sum += kernel(memory + (size_t)k * PIECE, PIECE);
        const double seconds = fs_now() - start;
        __asm__ volatile("" ::"g"(&sum) : "memory"); /* the sums are wanted */
        if ((double)pieces * PIECE / seconds > best) best = (double)pieces * PIECE / seconds;
    }
    return best;
}

/* Memory of so many pieces, read in both ways; 0 without memory. */
static double read_speed(const fs_exec *x, int pieces) {
    const fs_roof_kernels k = fs_roof_kernels_for(x->backend);
    const size_t bytes = (size_t)pieces * PIECE;
    double best = 0;
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 0;
    madvise(memory, bytes, MADV_HUGEPAGE); /* as packed weights are; advice only */
#pragma omp parallel for schedule(static) num_threads(x->threads)
    for (int i = 0; i < pieces; i++) memset((char *)memory + (size_t)i * PIECE, 1, PIECE);
    for (int i = 0; i < 2; i++) {
        const double read = read_all(k.read[i], memory, pieces, x->threads);
        if (read > best) best = read;
    }
    munmap(memory, bytes);
    return best;
}

double fs_roof_read_weights(const fs_exec *x, const fs_roof_span *spans, size_t n) {
    const fs_roof_kernels k = fs_roof_kernels_for(x->backend);
    double best = 0;
    for (int i = 0; i < 4; i++) { /* both ways of reading, twice */
        double sum = 0, bytes = 0;
        const double start = fs_now();
        if (!k.read[i % 2]) continue;
#pragma omp parallel for schedule(dynamic, 1) num_threads(x->threads) reduction(+ : sum, bytes)
        for (size_t s = 0; s < n; s++) {
            sum += k.read[i % 2](spans[s].data, spans[s].bytes);
            bytes += (double)spans[s].bytes;
        }
        const double seconds = fs_now() - start;
        __asm__ volatile("" ::"g"(&sum) : "memory"); /* the sums are wanted */
        if (bytes / seconds > best) best = bytes / seconds;
    }
    return best;
}

fs_status fs_roofs_measure(const fs_exec *x, fs_roofs *roofs, fs_error *err) {
    const fs_roof_kernels k = fs_roof_kernels_for(x->backend);
    const double f32 = run(k.fma, 3000000, x->threads), int8 = run(k.dot, 2000000, x->threads), read = read_speed(x, PIECES);
    if (read <= 0) return fs_fail(err, FS_E_NO_MEMORY, "no memory (%d MB) to measure the speed of reading", PIECES * (PIECE >> 20));
    if (read > roofs->read) roofs->read = read;
    if (f32 > roofs->f32) roofs->f32 = f32;
    if (int8 > roofs->int8) roofs->int8 = int8;
    roofs->fma = k.fma_name;
    roofs->dot = k.dot_name;
    roofs->backend = x->backend->name;
    roofs->quant = fs_quant_for(x->backend)->name;
    return FS_OK;
}
