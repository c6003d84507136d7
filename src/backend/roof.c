/* Which roofs go with which kernels, and the plain reading loop. */
#include "backend/roof.h"

#include <string.h>

#include "backend/cpu/q_kernels.h"

double fs_roof_read_ref(const void *p, size_t bytes) {
    uint64_t sum[8] = {0}, w[8];
    for (size_t i = 0; i + sizeof w <= bytes; i += sizeof w) {
        memcpy(w, (const char *)p + i, sizeof w);
        for (int k = 0; k < 8; k++) sum[k] += w[k];
    }
    for (int k = 1; k < 8; k++) sum[0] += sum[k];
    return (double)sum[0];
}

fs_roof_kernels fs_roof_kernels_for(const fs_backend *be) {
    fs_roof_kernels k = {.fma_name = "none", .dot_name = "none", .read = {fs_roof_read_ref, NULL}};
#if defined(__x86_64__)
    const char *q = fs_quant_for(be)->name;
    if (strcmp(be->name, "ref") == 0) return k;
    const bool wide = strcmp(be->name, "avx512") == 0;
    k.fma = wide ? fs_roof_fma_avx512 : fs_roof_fma_avx2;
    k.fma_name = wide ? "vfmadd, 512 bits" : "vfmadd, 256 bits";
    k.read[0] = wide ? fs_roof_read_avx512 : fs_roof_read_avx2;
    k.dot = fs_roof_dot_avx2;
    k.dot_name = "vpmaddubsw and vpmaddwd, 256 bits";
    if (strcmp(q, "vnni") == 0) {
        k.dot = fs_roof_dot_vnni;
        k.dot_name = "vpdpbusd, 512 bits";
        k.read[1] = fs_roof_stream_vnni;
    } else if (strcmp(q, "avxvnni") == 0) {
        k.dot = fs_roof_dot_avxvnni;
        k.dot_name = "vpdpbusd, 256 bits";
    }
#elif defined(FS_Q_ARM)
    const char *q = fs_quant_for(be)->name;
    if (strcmp(be->name, "ref") == 0) return k;
    k.fma = fs_roof_fma_neon;
    k.fma_name = "fmla, 128 bits";
    k.read[0] = fs_roof_read_neon;
    k.dot = fs_roof_dot_neon;
    k.dot_name = "smull, smlal and sadalp";
    if (strcmp(q, "i8mm") == 0) {
        k.dot = fs_roof_dot_i8mm;
        k.dot_name = "smmla";
    } else if (strcmp(q, "dotprod") == 0) {
        k.dot = fs_roof_dot_dotprod;
        k.dot_name = "sdot";
    }
#else
    (void)be;
#endif
    return k;
}
