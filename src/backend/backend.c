/* Chooses the table of kernels: the widest instruction set the processor (and the system, which must save its registers) supports. */
#include "backend/backend.h"

#include <string.h>

#include "backend/cpu/kernels.h"
#ifdef FS_CPU_X86
#include <cpuid.h>
#endif
#ifdef FS_CPU_ARM
#include <sys/auxv.h>
#endif

#define TABLE(isa, rows, cols)                                                                                                             \
    {                                                                                                                                      \
        .name = #isa, .tile_rows = (rows), .tile_cols = (cols), .gemm_tile = fs_gemm_tile_##isa, .pack_rows = fs_pack_rows_##isa,          \
        .gemm_tile_at = fs_gemm_tile_at_##isa, .gemm_tile_walk = fs_gemm_tile_walk_##isa, .gelu_back = fs_gelu_back_##isa,                \
        .dot_rows = fs_dot_rows_##isa, .weighted_rows = fs_weighted_rows_##isa, .kv_dots = fs_kv_dots_##isa, .kv_mix = fs_kv_mix_##isa,          \
        .winograd_in = fs_winograd_in_##isa, .winograd_out = fs_winograd_out_##isa, .kv_dots_q8 = fs_kv_dots_q8_##isa, .kv_mix_q8 = fs_kv_mix_q8_##isa,                                                                \
        .to_f32 = fs_to_f32_##isa, .from_f32 = fs_from_f32_##isa, .round = fs_round_##isa,        \
        .add = fs_add_##isa, .mul = fs_mul_##isa, .scale = fs_scale_##isa, .affine = fs_affine_##isa, .normalize = fs_normalize_##isa,     \
        .outer_sum = fs_outer_sum_##isa, .finish = fs_finish_##isa,                                                                                                   \
        .gelu = fs_gelu_##isa, .silu = fs_silu_##isa, .sigmoid = fs_sigmoid_##isa, .drop = fs_drop_##isa, .sum = fs_sum_##isa,                                    \
        .sum_squares = fs_sum_squares_##isa, .max = fs_max_##isa, .exp_sum = fs_exp_sum_##isa                                              \
    }

static const fs_backend ref_table = TABLE(ref, FS_REF_TILE_ROWS, FS_REF_TILE_COLS);

#ifdef FS_CPU_X86
static const fs_backend avx2_table = TABLE(avx2, FS_AVX2_TILE_ROWS, FS_AVX2_TILE_COLS);
static const fs_backend avx512_table = TABLE(avx512, FS_AVX512_TILE_ROWS, FS_AVX512_TILE_COLS);

/* Not every compiler's __builtin_cpu_supports knows this name. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx2(void) { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }

static bool has_avx512(void) {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}
#endif

#ifdef FS_CPU_ARM
static const fs_backend neon_table = TABLE(neon, FS_NEON_TILE_ROWS, FS_NEON_TILE_COLS);

static bool has_neon(void) { return (getauxval(AT_HWCAP) & HWCAP_ASIMD) != 0; }
#endif

const fs_backend *fs_backend_by_name(const char *name) {
#ifdef FS_CPU_X86
    if (strcmp(name, "avx512") == 0 && has_avx512()) return &avx512_table;
    if (strcmp(name, "avx2") == 0 && has_avx2()) return &avx2_table;
#elif defined(FS_CPU_ARM)
    if (strcmp(name, "neon") == 0 && has_neon()) return &neon_table;
#endif
    return strcmp(name, "ref") == 0 ? &ref_table : NULL;
}

const fs_backend *fs_backend_best(void) {
#ifdef FS_CPU_X86
    if (has_avx512()) return &avx512_table;
    if (has_avx2()) return &avx2_table;
#elif defined(FS_CPU_ARM)
    if (has_neon()) return &neon_table;
#endif
    return &ref_table;
}
