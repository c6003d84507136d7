/* Optimizers, clipping and schedules against PyTorch, transformers and DeepSpeed (tools/reference/make_optim_goldens.py), and that threads
 * change nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/archive.h"
#include "support/weightgen.h"
#include "train/optim.h"

enum { STEPS = 10, TENSORS = 2 };
static const int64_t shapes[TENSORS][2] = {{37, 13}, {5, 0}};
static const int dims[TENSORS] = {2, 1};

static fs_archive *goldens(void) {
    fs_archive *a = NULL;
    fs_error err = {0};
    if (fs_archive_open(FS_GOLDEN_DIR "/optim.safetensors", &a, &err)) fail_msg("%s", err.message);
    return a;
}

static const fs_tensor *golden(fs_archive *a, const char *format, ...) {
    char name[128];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    const fs_tensor *t = fs_archive_find(a, name);
    if (!t) fail_msg("no golden %s", name);
    return t;
}

static void make_params(fs_params *p) {
    fs_error err = {0};
    *p = (fs_params){.groups = {{3e-4, 0}, {2e-2, 0.1}}};
    for (int k = 0; k < TENSORS; k++) {
        char name[32];
        fs_param *q;
        snprintf(name, sizeof name, "optim.%d", k);
        assert_int_equal(fs_params_add(p, name, dims[k], shapes[k], NULL, k, &q, &err), FS_OK);
        fs_test_weight(name, (size_t)dims[k], shapes[k], q->data);
    }
}

static void set_gradients(fs_params *p, int step) {
    for (int k = 0; k < TENSORS; k++) {
        char name[32];
        snprintf(name, sizeof name, "optim.grad.%d.%d", k, step);
        fs_test_weight(name, (size_t)dims[k], shapes[k], p->list[k]->grad);
        for (int64_t i = 0; i < p->list[k]->count; i++) p->list[k]->grad[i] *= (float)pow(10, -(step % 4));
    }
}

/* PyTorch's vector code may contract a product and a sum where ours rounds twice: a few units in the last place (6e-8 each) over ten steps,
 * relative to the tensor's largest value since differences can cancel. */
static void same(const char *what, const float *got, const fs_tensor *want, int64_t count) {
    const float *w = want->data;
    float largest = 0;
    for (int64_t i = 0; i < count; i++) largest = fmaxf(largest, fabsf(w[i]));
    for (int64_t i = 0; i < count; i++)
        if (!(fabsf(got[i] - w[i]) <= 1e-6f * largest))
            fail_msg("%s: element %lld is %.9g, not %.9g", what, (long long)i, (double)got[i], (double)w[i]);
}

static void ten_steps(const char *name, fs_optim_kind kind, const fs_adamw *adamw, const fs_sgd *sgd) {
    fs_archive *a = goldens();
    fs_params p;
    const fs_schedule schedule = {FS_SCHEDULE_COSINE, STEPS, 2};
    make_params(&p);
    for (int step = 0; step < STEPS; step++) {
        set_gradients(&p, step);
        const double factor = fs_schedule_factor(&schedule, step);
        if (kind == FS_OPTIM_ADAMW)
            fs_adamw_step(&p, adamw, step + 1, factor, 2);
        else
            fs_sgd_step(&p, sgd, factor, 2);
        for (int k = 0; k < TENSORS && (step == 1 || step == 9); k++)
            same(name, p.list[k]->data, golden(a, "%s.%d.after%d", name, k, step + 1), p.list[k]->count);
    }
    for (int k = 0; k < TENSORS; k++) {
        same(name, p.list[k]->m, golden(a, "%s.%d.m", name, k), p.list[k]->count);
        if (kind == FS_OPTIM_ADAMW) same(name, p.list[k]->v, golden(a, "%s.%d.v", name, k), p.list[k]->count);
    }
    fs_params_free(&p);
    fs_archive_free(a);
}

static void adamw_is_pytorch(void **state) {
    (void)state;
    const fs_adamw o = {0.9, 0.95, 1e-8};
    ten_steps("adamw", FS_OPTIM_ADAMW, &o, NULL);
}

static void sgd_is_pytorch(void **state) {
    (void)state;
    const fs_sgd plain = fs_sgd_defaults(), nesterov = {0.8, true};
    ten_steps("sgd", FS_OPTIM_SGD, NULL, &plain);
    ten_steps("nesterov", FS_OPTIM_SGD, NULL, &nesterov);
}

static void clipping_is_pytorch(void **state) {
    (void)state;
    fs_archive *a = goldens();
    fs_params p;
    double norm;
    make_params(&p);
    set_gradients(&p, 0);
    fs_params_clip(&p, 1.0, 1, &norm);
    const float want = *(const float *)golden(a, "clip.norm")->data;
    assert_true(norm > 1 && fabs(norm - (double)want) <= 1e-6 * norm); /* theirs is summed in f32 */
    for (int k = 0; k < TENSORS; k++) same("clipped", p.list[k]->grad, golden(a, "clip.%d", k), p.list[k]->count);

    /* a norm below the limit leaves the gradients as they are; so does a limit of 0, which is none */
    assert_true(fs_clip_factor(0.5, 1) == 1 && fs_clip_factor(0, 1) == 1 && fs_clip_factor(1e9, 0) == 1);
    assert_true(fabs(fs_clip_factor(10, 2) - 0.2) < 1e-6);
    /* a gradient that is no number is seen in the norm, and not spread over the others */
    p.list[1]->grad[3] = NAN;
    const float before = p.list[0]->grad[0];
    fs_params_clip(&p, 1e-3, 1, &norm);
    assert_true(isnan(norm) && p.list[0]->grad[0] == before);
    fs_params_free(&p);
    fs_archive_free(a);
}

static void schedules_are_theirs(void **state) {
    (void)state;
    fs_archive *a = goldens();
    const int64_t sizes[][2] = {{100, 3}, {1000, 100}, {7, 0}, {5, 1}};
    for (int kind = FS_SCHEDULE_CONSTANT; kind <= FS_SCHEDULE_WARMUP_DECAY_UPSTREAM; kind++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const fs_schedule s = {(fs_schedule_kind)kind, sizes[i][0], sizes[i][1]};
            const double *want = golden(a, "%s.%d.%d", fs_schedule_kind_name(s.kind), (int)s.total, (int)s.warmup)->data;
            for (int64_t n = 0; n < s.total; n++) /* f64 on both sides; the cosine's library may differ */
                if (!(fabs(fs_schedule_factor(&s, n) - want[n]) <= 1e-14))
                    fail_msg("%s of %d/%d after %d steps: %.17g, not %.17g", fs_schedule_kind_name(s.kind), (int)s.total, (int)s.warmup,
                             (int)n, fs_schedule_factor(&s, n), want[n]);
        }
    /* the step of spec section 7.1 that surprises */
    const fs_schedule upstream = {FS_SCHEDULE_WARMUP_DECAY_UPSTREAM, 1000, 100};
    assert_true(fs_schedule_factor(&upstream, 0) == 1 && fs_schedule_factor(&upstream, 1) == 0);
    /* past the end nothing rises again */
    const fs_schedule cosine = {FS_SCHEDULE_COSINE, 100, 3}, straight = {FS_SCHEDULE_WARMUP_DECAY, 100, 3};
    assert_true(fs_schedule_factor(&cosine, 150) < 1e-15 && fs_schedule_factor(&straight, 150) == 0);
    assert_int_equal(fs_schedule_warmup(100, 0.03), 3);
    assert_int_equal(fs_schedule_warmup(101, 0.03), 4);
    assert_int_equal(fs_schedule_warmup(50, 0), 0);
    fs_archive_free(a);
}

static void names_go_both_ways(void **state) {
    (void)state;
    fs_schedule_kind kind;
    fs_optim_kind optim;
    for (int k = 0; k < 4; k++)
        assert_true(fs_schedule_kind_from_name(fs_schedule_kind_name((fs_schedule_kind)k), &kind) && (int)kind == k);
    for (int k = 0; k < 2; k++) assert_true(fs_optim_kind_from_name(fs_optim_kind_name((fs_optim_kind)k), &optim) && (int)optim == k);
    assert_false(fs_schedule_kind_from_name("linear", &kind));
    assert_false(fs_optim_kind_from_name(NULL, &optim));
    assert_string_equal(fs_schedule_kind_name((fs_schedule_kind)9), "unknown");
}

/* One tensor large enough for many pieces and a tail, one small. */
static void large_params(fs_params *p) {
    fs_error err = {0};
    const int64_t large[] = {1283, 997}, small[] = {3};
    *p = (fs_params){.groups = {{1e-3, 0.01}}};
    assert_int_equal(fs_params_add(p, "large", 2, large, NULL, 0, NULL, &err), FS_OK);
    assert_int_equal(fs_params_add(p, "small", 1, small, NULL, 0, NULL, &err), FS_OK);
    for (size_t i = 0; i < p->count; i++) {
        fs_rng r = fs_rng_seed(7 + i);
        for (int64_t j = 0; j < p->list[i]->count; j++) {
            p->list[i]->data[j] = (float)(fs_rng_uniform(&r) - 0.5);
            p->list[i]->grad[j] = (float)(fs_rng_uniform(&r) - 0.5) * 0.01f;
        }
    }
}

static void threads_change_nothing(void **state) {
    (void)state;
    fs_params one, many;
    const fs_adamw adamw = fs_adamw_defaults();
    const fs_sgd sgd = fs_sgd_defaults();
    double norm_one, norm_many, sum = 0;
    large_params(&one);
    large_params(&many);
    for (size_t i = 0; i < one.count; i++)
        for (int64_t j = 0; j < one.list[i]->count; j++) sum += (double)one.list[i]->grad[j] * (double)one.list[i]->grad[j];
    fs_params_clip(&one, 0.5, 1, &norm_one);
    fs_params_clip(&many, 0.5, 5, &norm_many);
    assert_true(norm_one == norm_many && fabs(norm_one - sqrt(sum)) < 1e-10 * norm_one);
    for (int64_t step = 1; step <= 3; step++) {
        fs_adamw_step(&one, &adamw, step, 1, 1);
        fs_adamw_step(&many, &adamw, step, 1, 5);
        fs_sgd_step(&one, &sgd, 0.5, 0);
        fs_sgd_step(&many, &sgd, 0.5, 3);
    }
    for (size_t i = 0; i < one.count; i++) {
        const size_t bytes = (size_t)one.list[i]->count * sizeof(float);
        assert_memory_equal(one.list[i]->data, many.list[i]->data, bytes);
        assert_memory_equal(one.list[i]->grad, many.list[i]->grad, bytes);
        assert_memory_equal(one.list[i]->m, many.list[i]->m, bytes);
        assert_memory_equal(one.list[i]->v, many.list[i]->v, bytes);
    }
    fs_params_free(&one);
    fs_params_free(&many);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(adamw_is_pytorch),     cmocka_unit_test(sgd_is_pytorch),     cmocka_unit_test(clipping_is_pytorch),
        cmocka_unit_test(schedules_are_theirs), cmocka_unit_test(names_go_both_ways), cmocka_unit_test(threads_change_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
