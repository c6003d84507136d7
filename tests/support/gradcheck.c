/* See gradcheck.h. */
#include "support/gradcheck.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/weightgen.h"

fs_exec fs_grad_start(int threads) {
    fs_exec c = {0};
    fs_error err = {0};
    if (fs_exec_init(&c, FS_DTYPE_F32, threads, NULL, &err)) fail_msg("%s", err.message);
    return c;
}

void fs_grad_check(const fs_grad_case *t, int threads) {
    fs_exec c = fs_grad_start(threads);
    fs_rng rng = fs_rng_seed(17);
    fs_error err = {0};
    fs_tensor leaf[FS_GRAD_INPUTS], *in[FS_GRAD_INPUTS] = {0};
    fs_tape_node node[FS_GRAD_INPUTS];
    float *x[FS_GRAD_INPUTS] = {0}, *grad[FS_GRAD_INPUTS] = {0}, *direction[FS_GRAD_INPUTS] = {0};
    int n = 0;
    for (; n < FS_GRAD_INPUTS && t->in[n].ndim; n++) {
        fs_tensor *plain = fs_new(&c, t->in[n].ndim, t->in[n].shape);
        const int64_t count = fs_tensor_count(plain);
        x[n] = fs_f32(plain);
        grad[n] = fs_alloc_zero((size_t)count, sizeof(float));
        direction[n] = fs_alloc((size_t)count, sizeof(float));
        for (int64_t i = 0; i < count; i++) x[n][i] = (float)(t->in[n].around + t->in[n].spread * (2 * fs_rng_uniform(&rng) - 1));
        leaf[n] = fs_tape_leaf(&node[n], plain, grad[n]);
        in[n] = &leaf[n];
    }
    fs_tape tape = {0};
    const fs_arena_mark mark = fs_arena_get_mark(c.arena);
    c.tape = &tape;
    fs_tensor *y = t->run(&c, in);
    if (fs_exec_status(&c, &err)) fail_msg("%s: %s", t->name, err.message);
    const int64_t outputs = fs_tensor_count(y);
    float *r = fs_alloc((size_t)outputs, sizeof *r);
    for (int64_t i = 0; i < outputs; i++) r[i] = outputs == 1 ? 1.0f : (float)(2 * fs_rng_uniform(&rng) - 1);
    fs_tape_backward(&c, y, r);
    if (fs_exec_status(&c, &err)) fail_msg("%s: %s", t->name, err.message);
    c.tape = NULL;
    fs_arena_release(c.arena, mark);
    for (int k = 0; k < n; k++) {
        const int64_t count = fs_tensor_count(&leaf[k]);
        for (int round = 0; round < 3; round++) {
            double slope = 0, size = 0, side[2];
            const double e = 2e-3;
            for (int64_t i = 0; i < count; i++) {
                direction[k][i] = (float)(2 * fs_rng_uniform(&rng) - 1);
                slope += (double)grad[k][i] * (double)direction[k][i];
                size += fabs((double)grad[k][i] * (double)direction[k][i]);
            }
            for (int s = 0; s < 2; s++) {
                for (int64_t i = 0; i < count; i++) x[k][i] += (float)(s ? -2 * e : e) * direction[k][i];
                const fs_tensor *moved = t->run(&c, in);
                if (fs_exec_status(&c, &err)) fail_msg("%s: %s", t->name, err.message);
                side[s] = 0;
                for (int64_t i = 0; i < outputs; i++) side[s] += (double)r[i] * (double)fs_f32(moved)[i];
                fs_arena_release(c.arena, mark);
            }
            for (int64_t i = 0; i < count; i++) x[k][i] += (float)e * direction[k][i];
            const double found = (side[0] - side[1]) / (2 * e);
            if (!(fabs(found - slope) <= 2e-3 * size + 2e-4)) fail_msg("%s, input %d: slope %.7g, gradient says %.7g (terms %.3g)", t->name, k, found, slope, size);
            assert_true(size > 0);
        }
    }
    for (int k = 0; k < n; k++) free(grad[k]), free(direction[k]);
    free(r);
    fs_exec_end(&c);
}

/* ---- against PyTorch ---- */

static float *formula_values(const char *name, const char *part, int ndim, const int64_t *shape, float factor, float offset, int64_t *count) {
    char full[96];
    snprintf(full, sizeof full, "input.%s.%s", name, part);
    *count = 1;
    for (int d = 0; d < ndim; d++) *count *= shape[d];
    float *x = fs_alloc((size_t)*count, sizeof *x);
    assert_non_null(x);
    fs_test_weight(full, (size_t)ndim, shape, x);
    for (int64_t i = 0; i < *count; i++) x[i] = x[i] * factor + offset;
    return x;
}

void fs_grad_compare(const fs_grad_case *t, fs_archive *goldens) {
    fs_exec c = fs_grad_start(2);
    fs_error err = {0};
    fs_tape tape = {0};
    fs_tensor leaf[FS_GRAD_INPUTS], *in[FS_GRAD_INPUTS] = {0};
    fs_tape_node node[FS_GRAD_INPUTS];
    float *x[FS_GRAD_INPUTS] = {0}, *grad[FS_GRAD_INPUTS] = {0}, one = 1.0f;
    int64_t count[FS_GRAD_INPUTS], outputs;
    int n = 0;
    for (; n < FS_GRAD_INPUTS && t->in[n].ndim; n++) {
        const char part[2] = {(char)('0' + n), 0};
        x[n] = formula_values(t->golden, part, t->in[n].ndim, t->in[n].shape, (float)t->in[n].spread, (float)t->in[n].around, &count[n]);
        grad[n] = fs_alloc_zero((size_t)count[n], sizeof(float));
        leaf[n] = fs_tape_leaf(&node[n], fs_wrap(&c, FS_DTYPE_F32, t->in[n].ndim, t->in[n].shape, x[n]), grad[n]);
        in[n] = &leaf[n];
    }
    c.tape = &tape;
    fs_tensor *y = t->run(&c, in);
    if (fs_exec_status(&c, &err)) fail_msg("%s: %s", t->name, err.message);
    float *seed = fs_tensor_count(y) == 1 ? &one : formula_values(t->golden, "seed", y->ndim, y->shape, 1, 0, &outputs);
    fs_tape_backward(&c, y, seed);
    if (fs_exec_status(&c, &err)) fail_msg("%s: %s", t->name, err.message);
    for (int k = 0; k < n; k++) {
        char name[64];
        snprintf(name, sizeof name, "%s.d%d", t->golden, k);
        const fs_tensor *want = fs_archive_find(goldens, name);
        double largest = 0, worst = 0;
        if (!want) fail_msg("no golden %s", name);
        assert_int_equal(fs_tensor_count(want), count[k]);
        for (int64_t i = 0; i < count[k]; i++) {
            const double difference = fabs((double)grad[k][i] - (double)fs_f32(want)[i]);
            largest = fmax(largest, fabs((double)fs_f32(want)[i]));
            if (!(difference <= worst)) worst = difference;
        }
        if (!(worst <= 3e-6 * largest)) fail_msg("%s: off by %g of %g", name, worst, largest); /* f32 sums of some dozen products, twice */
        free(x[k]), free(grad[k]);
    }
    if (seed != &one) free(seed);
    fs_exec_end(&c);
}


void fs_grad_same_bits(const fs_grad_case *t, int threads) {
    float *grad[2][FS_GRAD_INPUTS] = {{0}};
    for (int many = 0; many < 2; many++) {
        fs_exec c = fs_grad_start(many ? threads : 1);
        fs_rng rng = fs_rng_seed(23);
        fs_error err = {0};
        fs_tape tape = {0};
        fs_tensor leaf[FS_GRAD_INPUTS], *in[FS_GRAD_INPUTS] = {0};
        fs_tape_node node[FS_GRAD_INPUTS];
        for (int k = 0; k < FS_GRAD_INPUTS && t->in[k].ndim; k++) {
            fs_tensor *plain = fs_new(&c, t->in[k].ndim, t->in[k].shape);
            const int64_t count = fs_tensor_count(plain);
            for (int64_t i = 0; i < count; i++) fs_f32(plain)[i] = (float)(t->in[k].around + t->in[k].spread * (2 * fs_rng_uniform(&rng) - 1));
            grad[many][k] = fs_alloc_zero((size_t)count, sizeof(float));
            leaf[k] = fs_tape_leaf(&node[k], plain, grad[many][k]);
            in[k] = &leaf[k];
        }
        c.tape = &tape;
        const fs_tensor *y = t->run(&c, in);
        const int64_t outputs = y ? fs_tensor_count(y) : 0;
        float *seed = fs_alloc((size_t)outputs, sizeof *seed);
        for (int64_t i = 0; i < outputs; i++) seed[i] = (float)(2 * fs_rng_uniform(&rng) - 1);
        fs_tape_backward(&c, y, seed);
        if (fs_exec_status(&c, &err)) fail_msg("%s: %s", t->name, err.message);
        for (int k = 0; many && k < FS_GRAD_INPUTS && grad[0][k]; k++) {
            if (memcmp(grad[0][k], grad[1][k], (size_t)fs_tensor_count(&leaf[k]) * sizeof(float)))
                fail_msg("%s: the gradient of input %d depends on the number of threads", t->name, k);
        }
        free(seed);
        fs_exec_end(&c);
    }
    for (int i = 0; i < 2 * FS_GRAD_INPUTS; i++) free(grad[i / FS_GRAD_INPUTS][i % FS_GRAD_INPUTS]);
}
