/* The transforms of winograd_body.h value by value, in plain C. */
#include "backend/cpu/kernels.h"

#define FS_KERNEL(name) name##_ref
enum { LANES = 1 };
typedef float vf;
static inline vf v_load(const float *p) {
    return *p;
}
static inline vf v_load_part(const float *p, int64_t n) {
    return n > 0 ? *p : 0.0f;
}
static inline void v_store(float *p, vf a) {
    *p = a;
}
static inline vf v_set(float f) {
    return f;
}
static inline vf v_add(vf a, vf b) {
    return a + b;
}
static inline vf v_sub(vf a, vf b) {
    return a - b;
}
static inline vf v_mul(vf a, vf b) {
    return a * b;
}

#include "backend/cpu/winograd_body.h"
