/* All kernels for Advanced SIMD, which every 64-bit Arm processor has; the bodies are common to the instruction sets. Empty where the build
 * does not target it. */
#ifdef __aarch64__
#include <math.h>
#include <string.h>

#define FS_TILE_MANY_ROWS 0
#define FS_DOT_ROWS_FOR(m) ((m) <= 2 ? 4 : 2)
#include "backend/cpu/simd_neon.h"

#include "backend/cpu/vector_body.h"

#include "backend/cpu/gemm_body.h"

#include "backend/cpu/kv_body.h"

#include "backend/cpu/winograd_body.h"
#else
typedef int fs_no_neon;
#endif
