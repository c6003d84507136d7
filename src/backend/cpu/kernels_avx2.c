/* All kernels for AVX2, FMA and F16C; the bodies are common to the instruction sets. Empty where the build does not target x86. */
#ifdef __AVX2__
#include <math.h>
#include <string.h>

#define FS_TILE_MANY_ROWS 0
#include "backend/cpu/simd_avx2.h"

#include "backend/cpu/vector_body.h"

#include "backend/cpu/gemm_body.h"

#include "backend/cpu/kv_body.h"

#include "backend/cpu/winograd_body.h"
#else
typedef int fs_no_avx2;
#endif
