/* The roofs the measured speeds are compared with: independent fused multiply-adds in registers, and reading memory. */
#ifndef FS_ROOF_H
#define FS_ROOF_H

#include <stddef.h>
#include <stdint.h>

/* Runs `rounds` of multiply-adds on one core; returns how many floating-point operations that were. */
double roof_fma_avx2(int64_t rounds);
double roof_fma_avx512(int64_t rounds);
/* Sums the bytes as 64-bit words, to be read as fast as memory gives them. */
double roof_read_avx2(const void *p, size_t bytes);
double roof_read_avx512(const void *p, size_t bytes);
/* The same for integer products, operations of AVX-512 VNNI; and for reading with prefetches, by AVX-512. */
double roof_dot_vnni(int64_t rounds);
double roof_stream_vnni(const void *p, size_t bytes);

#endif
