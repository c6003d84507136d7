/* The roofs that measured speeds are compared with: what the processor does when nothing else is in the way. Independent fused multiply-adds in
 * registers, independent integer products of 8 bits in registers, and reading memory, each for one core; the caller runs one on every core. */
#ifndef FS_ROOF_H
#define FS_ROOF_H

#include "backend/backend.h"

typedef struct fs_roof_kernels {
    /* `rounds` rounds; returns how many operations (two a multiply-add) that were. NULL where there is no such instruction. */
    double (*fma)(int64_t rounds); /* f32 */
    double (*dot)(int64_t rounds); /* int8 into int32 */
    const char *fma_name, *dot_name;
    /* Sums the bytes as 64-bit words, to be read as fast as memory gives them. Two ways, of which the better counts; the second may be NULL. */
    double (*read[2])(const void *p, size_t bytes);
} fs_roof_kernels;

/* What goes with a table of kernels on this processor. */
fs_roof_kernels fs_roof_kernels_for(const fs_backend *be);

double fs_roof_read_ref(const void *p, size_t bytes);
#if defined(__x86_64__)
double fs_roof_fma_avx2(int64_t rounds);
double fs_roof_fma_avx512(int64_t rounds);
double fs_roof_dot_avx2(int64_t rounds);
double fs_roof_dot_avxvnni(int64_t rounds);
double fs_roof_dot_vnni(int64_t rounds);
double fs_roof_read_avx2(const void *p, size_t bytes);
double fs_roof_read_avx512(const void *p, size_t bytes);
double fs_roof_stream_vnni(const void *p, size_t bytes); /* every line fetched to the level-2 cache 16 KiB ahead */
#elif defined(__aarch64__)
double fs_roof_fma_neon(int64_t rounds);
double fs_roof_dot_neon(int64_t rounds);
double fs_roof_dot_dotprod(int64_t rounds);
double fs_roof_dot_i8mm(int64_t rounds);
double fs_roof_read_neon(const void *p, size_t bytes);
#endif

#endif
