/* Both training recipes against the original's libraries (tests/golden/train, made by tools/reference/make_train_goldens.py): losses, the
 * gradient of every trained tensor, optimizer steps and where they lead, on the tiny checkpoint with adapters that peft wrote. */
#include "parity.h"

#include "train/artefacts.h"
#include "train/optim.h"
#include "train/trainee.h"

static const double LOSS = 1e-5;     /* f32 sums in another order; the issue asks for 1e-4 */
static const double GRADIENT = 1e-4; /* of a tensor's largest entry */
static const double FINAL = 1e-3;    /* likewise, after ten steps */
static const double WAY = 5e-3; /* root of the mean square error, in units of the way that a tensor went; single entries whose gradient is
                                   almost noise go elsewhere: AdamW makes full steps of any gradient */
static const double TEN_LOSSES = 1e-4;

enum { SAMPLES = 4 };
typedef struct lesson {
    const char *stage; /* "dte" or "mflm" */
    fs_archive *golden, *adapter;
    fs_train_options options;
    fs_trainee trainee;
    fs_sample samples[SAMPLES];
} lesson;

/* ---- what is trained on ---- */

static const fs_tensor *numbered(lesson *l, int i, const char *what) {
    char name[64];
    snprintf(name, sizeof name, "sample%d.%s", i, what);
    return golden(l->golden, name);
}

static int64_t one(lesson *l, int i, const char *what) {
    return ((const int64_t *)numbered(l, i, what)->data)[0];
}

/* Picture `which` of a stack of them; the sample does not own it. */
static float *slice(lesson *l, const char *name, int64_t which) {
    const fs_tensor *t = golden(l->golden, name);
    return (float *)(uintptr_t)t->data + which * (fs_tensor_count(t) / t->shape[0]);
}

static void read_samples(lesson *l, bool masks) {
    for (int i = 0; i < SAMPLES; i++) {
        fs_sample *s = &l->samples[i];
        fs_error err = {0};
        const fs_tensor *ids = numbered(l, i, "ids"), *labels = numbered(l, i, "labels");
        const int64_t which = one(l, i, "picture");
        assert_int_equal(ids->shape[0], labels->shape[0]);
        s->index = i;
        s->labels = malloc((size_t)ids->shape[0] * sizeof *s->labels);
        assert_non_null(s->labels);
        for (int64_t k = 0; k < ids->shape[0]; k++) {
            assert_int_equal(fs_ids_push(&s->ids, (int32_t)((const int64_t *)ids->data)[k], &err), FS_OK);
            s->labels[k] = (int32_t)((const int64_t *)labels->data)[k];
        }
        s->clip = slice(l, "clip", which);
        if (!masks) continue;
        const fs_tensor *mask = numbered(l, i, "mask");
        const int64_t *size = (const int64_t *)golden(l->golden, "sam_size")->data + 2 * which;
        s->sam = slice(l, "sam", which);
        s->sam_h = size[0];
        s->sam_w = size[1];
        s->height = mask->shape[0];
        s->width = mask->shape[1];
        assert_int_equal(mask->dtype, FS_DTYPE_U8);
        s->mask = (uint8_t *)(uintptr_t)mask->data;
    }
}

/* The adapters that peft wrote, and for all else the checkpoint's own values again; the optimizer forgets. */
static void begin(lesson *l, bool zero_b) {
    fs_params *p = &l->trainee.params;
    size_t found = 0;
    for (size_t i = 0; i < p->count; i++) {
        fs_param *q = p->list[i];
        const size_t bytes = (size_t)q->count * sizeof(float);
        memset(q->m, 0, bytes);
        memset(q->v, 0, bytes);
        const fs_tensor *t = fs_archive_find(l->adapter, q->name);
        if (!t) continue;
        found++;
        assert_int_equal(fs_tensor_count(t), q->count);
        if (zero_b && strstr(q->name, ".lora_B."))
            memset(q->data, 0, bytes);
        else
            memcpy(q->data, t->data, bytes);
    }
    assert_int_equal(found, fs_archive_count(l->adapter)); /* every tensor of peft's has its place */
    fs_params_zero_grad(p);
}

static lesson open_lesson(const char *stage, bool recompute) {
    const bool mflm = strcmp(stage, "mflm") == 0;
    lesson l = {.stage = stage};
    l.golden = mflm ? open_golden("train/mflm.safetensors") : open_golden("train/dte.safetensors");
    l.adapter = mflm ? open_golden("train/peft_mflm/adapter_model.safetensors") : open_golden("train/peft_dte/adapter_model.safetensors");
    l.options = (fs_train_options){.recipe = mflm ? FS_RECIPE_MFLM : FS_RECIPE_DTE_FDM,
                                   .model_dir = FS_TINY_DIR,
                                   .lora_rank = 8,
                                   .lora_alpha = 16,
                                   .rate = mflm ? 3e-4 : 2e-4,
                                   .projector_rate = mflm ? 0 : 2e-5,
                                   .ce_weight = 1,
                                   .bce_weight = 2,
                                   .dice_weight = 0.5,
                                   .recompute = recompute,
                                   .base = fs_options_defaults()};
    l.options.base.threads = 2;
    read_samples(&l, mflm);
    return l;
}

/* l has found its place. */
static void open_trainee(lesson *l) {
    fs_error err = {0};
    if (fs_trainee_open(&l->trainee, &l->options, &err)) fail_msg("%s", err.message);
    begin(l, false);
}

static void close_lesson(lesson *l) {
    fs_trainee_close(&l->trainee);
    for (int i = 0; i < SAMPLES; i++) {
        fs_ids_free(&l->samples[i].ids);
        free(l->samples[i].labels);
    }
    fs_archive_free(l->golden);
    fs_archive_free(l->adapter);
}

/* Samples first and first + 1. */
static fs_losses step(lesson *l, int first, double seed) {
    fs_losses losses = {0};
    fs_error err = {0};
    if (fs_trainee_step(&l->trainee, l->samples + first, 2, seed, 0, &losses, &err)) fail_msg("%s", err.message);
    return losses;
}

/* ---- comparing ---- */

static double ratio(double found, double expected) {
    return fabs(found - expected) / fabs(expected);
}

static void assert_loss(double found, double expected, double tolerance, const char *what, int at) {
    if (getenv("FS_TEST_VERBOSE"))
        print_message("%s %d: %.6f, expected %.6f, off by %.1e\n", what, at, found, expected, ratio(found, expected));
    if (!(ratio(found, expected) <= tolerance)) fail_msg("%s %d is %.7g, expected %.7g", what, at, found, expected);
}

/* Compares values with prefix + name of the golden file, whole or sampled. False if it has neither. begun: where the values began, for WAY,
 * or NULL. */
static bool agree(lesson *l, const char *prefix, const fs_param *p, const float *values, const float *begun, double tolerance,
                  double *worst) {
    char name[256];
    snprintf(name, sizeof name, "%s%s", prefix, p->name);
    const fs_tensor *g = fs_archive_find(l->golden, name);
    int64_t stride = 1;
    if (!g) {
        snprintf(name, sizeof name, "%s%s.sample", prefix, p->name);
        g = fs_archive_find(l->golden, name);
        if (!g) return false;
        snprintf(name, sizeof name, "%s%s.stride", prefix, p->name);
        stride = ((const int64_t *)golden(l->golden, name)->data)[0];
        snprintf(name, sizeof name, "%s%s.norm", prefix, p->name);
        double square = 0;
        for (int64_t i = 0; i < p->count; i++) square += (double)values[i] * (double)values[i];
        assert_loss(sqrt(square), (double)fs_f32(golden(l->golden, name))[0], tolerance, name, 0);
    }
    assert_int_equal(fs_tensor_count(g), (p->count + stride - 1) / stride);
    double gap = 0, scale = 0, off = 0, way = 0;
    for (int64_t i = 0; i < fs_tensor_count(g); i++) {
        const double expected = (double)fs_f32(g)[i], d = fabs((double)values[i * stride] - expected);
        const double went = begun ? expected - (double)begun[i * stride] : 0;
        if (!(d <= gap)) gap = d;
        scale = fmax(scale, fabs(expected));
        off += d * d;
        way += went * went;
    }
    if (!(gap <= tolerance * scale)) fail_msg("%s%s: relative error %.2e is above %.0e", prefix, p->name, gap / scale, tolerance);
    if (begun) {
        if (!(sqrt(off) <= WAY * sqrt(way)))
            fail_msg("%s%s: off by %.2e of its way, more than %.0e", prefix, p->name, sqrt(off / way), WAY);
        *worst = fmax(*worst, sqrt(off / way));
        return true;
    }
    *worst = fmax(*worst, gap / scale);
    return true;
}

/* No gradient but noise; what the golden files leave out. */
static bool idle(const char *name) {
    static const char *const parts[] = {"iou_prediction_head.", "output_hypernetworks_mlps.1.", "output_hypernetworks_mlps.2.",
                                        "output_hypernetworks_mlps.3."};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strstr(name, parts[i])) return true;
    const size_t n = strlen(name), tail = strlen("k_proj.bias");
    return n > tail && strcmp(name + n - tail, "k_proj.bias") == 0;
}

static void check_gradients(lesson *l) {
    const fs_params *p = &l->trainee.params;
    const double norm = fs_params_grad_norm(p, 2);
    double worst = 0;
    size_t found = 0, expected = 0;
    for (size_t i = 0; i < p->count; i++) {
        const fs_param *q = p->list[i];
        if (agree(l, "grad.", q, q->grad, NULL, GRADIENT, &worst)) {
            found++;
            continue;
        }
        if (!idle(q->name)) fail_msg("%s is trained here but not by the original", q->name);
        for (int64_t k = 0; k < q->count; k++) assert_true(fabs((double)q->grad[k]) < 1e-6 * norm);
    }
    for (size_t i = 0; i < fs_archive_count(l->golden); i++) {
        const char *name = fs_archive_get(l->golden, i).name;
        const size_t n = strlen(name);
        expected += strncmp(name, "grad.", 5) == 0 && strcmp(name + n - 5, ".norm") != 0 && strcmp(name + n - 7, ".stride") != 0;
    }
    assert_int_equal(found, expected); /* and nothing that the original trains is missing */
    if (getenv("FS_TEST_VERBOSE"))
        print_message("%s: %zu gradients, largest relative error %.1e, norm %.6f\n", l->stage, found, worst, norm);
}

/* Optimizer steps: losses of each micro-batch, gradient norms, and the tensors at the end. */
static void run_steps(lesson *l, const char *name, int accumulation, const fs_adamw *adamw, const fs_schedule *schedule, double clip) {
    char key[64];
    snprintf(key, sizeof key, "%s.losses", name);
    const fs_tensor *losses = golden(l->golden, key);
    const int64_t parts = losses->ndim > 1 ? losses->shape[1] : 1, batches = losses->shape[0], steps = batches / accumulation;
    snprintf(key, sizeof key, "%s.norms", name);
    const fs_tensor *norms = golden(l->golden, key);
    fs_params *p = &l->trainee.params;
    float **begun = calloc(p->count, sizeof *begun);
    assert_non_null(begun);
    for (size_t i = 0; i < p->count; i++) {
        begun[i] = malloc((size_t)p->list[i]->count * sizeof(float));
        assert_non_null(begun[i]);
        memcpy(begun[i], p->list[i]->data, (size_t)p->list[i]->count * sizeof(float));
    }
    for (int64_t s = 0; s < steps; s++) {
        fs_params_zero_grad(p);
        for (int64_t k = s * accumulation; k < (s + 1) * accumulation; k++) {
            const fs_losses got = step(l, k % 2 ? 2 : 0, 1.0 / accumulation);
            const double found[4] = {got.total, got.ce, got.bce, got.dice};
            for (int64_t j = 0; j < parts; j++)
                assert_loss(found[j], (double)fs_f32(losses)[k * parts + j], TEN_LOSSES, name, (int)(4 * k + j));
        }
        double norm;
        fs_params_clip(p, clip, 2, &norm);
        assert_loss(norm, (double)fs_f32(norms)[s], 1e-3, "norm of step", (int)s); /* as sensitive as the final tensors */
        fs_adamw_step(p, adamw, s + 1, fs_schedule_factor(schedule, s), 2);
    }
    snprintf(key, sizeof key, "%s.final.", name);
    double worst = 0;
    size_t found = 0;
    for (size_t i = 0; i < p->count; i++) {
        found += agree(l, strcmp(l->stage, "dte") ? key : "final.", p->list[i], p->list[i]->data, begun[i], FINAL, &worst);
        free(begun[i]);
    }
    free(begun);
    assert_true(found > 40);
    if (getenv("FS_TEST_VERBOSE"))
        print_message("%s %s: %zu tensors after %d steps, largest error %.1e of the way\n", l->stage, name, found, (int)steps, worst);
}

/* Logits of every position of a sample with what is trained now. */
static fs_tensor *logits_of(fs_exec *c, lesson *l, int i) {
    const fs_stage_parts *m = &l->trainee.parts;
    const fs_ids *ids = &l->samples[i].ids;
    fs_tensor *features = fs_wrap(c, FS_DTYPE_F32, 2, (const int64_t[]){64, 64}, slice(l, "features", one(l, i, "picture")));
    fs_tensor *x = fs_prompt_embed(c, m->llama, ids->data, ids->count, fs_projector_forward(c, m->projector, features), -1, NULL);
    assert_ok(c);
    fs_tensor *h = fs_llama_forward_batch(c, m->llama, &(fs_llama_batch){.lengths = x->shape, .n = 1}, x);
    fs_tensor *logits = fs_llama_logits(c, m->llama, h);
    assert_ok(c);
    return logits;
}

/* For tools/reference/check_adapter.py: the adapter, and logits.safetensors with what we make of it. */
static void leave_adapter(lesson *l) {
    const char *out = getenv("FS_TEST_ADAPTER_OUT");
    if (!out) return;
    char dir[512], path[600];
    fs_error err = {0};
    fs_adapter_info info = fs_adapter_info_defaults();
    info.stage = strcmp(l->stage, "dte") ? 2 : 1;
    info.dropout = 0;
    snprintf(dir, sizeof dir, "%s/%s", out, l->stage);
    snprintf(path, sizeof path, "%s/logits.safetensors", dir);
    if (fs_adapter_write(dir, &l->trainee.params, &info, &err)) fail_msg("%s", err.message);
    fs_exec c = start(FS_DTYPE_F32, 2);
    const fs_tensor *ids = numbered(l, 0, "ids"), *logits = logits_of(&c, l, 0);
    fs_tensor features = {.dtype = FS_DTYPE_F32, .ndim = 2, .shape = {64, 64}, .data = slice(l, "features", one(l, 0, "picture"))};
    const fs_tensor *const tensors[] = {ids, &features, logits};
    const char *const names[] = {"ids", "features", "logits"};
    if (fs_safetensors_write(path, tensors, names, 3, NULL, &err)) fail_msg("%s", err.message);
    fs_exec_end(&c);
}

/* ---- stage 1 ---- */

static void dte_gradients(void **state) {
    (void)state;
    for (int recompute = 0; recompute < 2; recompute++) {
        lesson l = open_lesson("dte", recompute);
        open_trainee(&l);
        assert_loss(step(&l, 0, 0).total, (double)fs_f32(golden(l.golden, "loss"))[0], LOSS, "loss without gradient", 0);
        assert_loss(step(&l, 0, 1).total, (double)fs_f32(golden(l.golden, "loss"))[0], LOSS, "loss", 0);
        check_gradients(&l);
        close_lesson(&l);
    }
}

/* The same numbers, row for row, as peft gives with the adapter that it wrote. */
static void dte_logits(void **state) {
    (void)state;
    lesson l = open_lesson("dte", false);
    open_trainee(&l);
    fs_exec c = start(FS_DTYPE_F32, 2);
    for (int i = 0; i < 2; i++) {
        fs_tensor *logits = logits_of(&c, &l, i);
        fs_tensor *rows = fs_gather_rows(&c, logits, (const int64_t *)numbered(&l, i, "positions")->data, 16);
        assert_ok(&c);
        assert_close(rows, numbered(&l, i, "logits"), 1e-5, "logits with peft's adapter");
    }
    fs_exec_end(&c);
    close_lesson(&l);
}

static void dte_steps(void **state) {
    (void)state;
    lesson l = open_lesson("dte", true);
    open_trainee(&l);
    const fs_adamw adamw = fs_adamw_defaults();
    run_steps(&l, "steps", 1, &adamw, &(fs_schedule){FS_SCHEDULE_COSINE, 10, 1}, 0);
    leave_adapter(&l);
    close_lesson(&l);
}

static void dte_steps_from_zero(void **state) {
    (void)state;
    lesson l = open_lesson("dte", false);
    open_trainee(&l);
    begin(&l, true);
    const fs_tensor *losses = golden(l.golden, "fresh.losses"), *norms = golden(l.golden, "fresh.norms");
    const fs_schedule schedule = {FS_SCHEDULE_COSINE, 10, 1};
    const fs_adamw adamw = fs_adamw_defaults();
    fs_params *p = &l.trainee.params;
    for (int s = 0; s < 10; s++) {
        fs_params_zero_grad(p);
        assert_loss(step(&l, s % 2 ? 2 : 0, 1).total, (double)fs_f32(losses)[s], TEN_LOSSES, "loss", s);
        assert_loss(fs_params_grad_norm(p, 2), (double)fs_f32(norms)[s], 1e-3, "norm", s);
        fs_adamw_step(p, &adamw, s + 1, fs_schedule_factor(&schedule, s), 2);
    }
    for (size_t i = 0; i < p->count; i++) {
        char name[256];
        double square = 0;
        snprintf(name, sizeof name, "fresh.norm.%s", p->list[i]->name);
        for (int64_t k = 0; k < p->list[i]->count; k++) square += (double)p->list[i]->data[k] * (double)p->list[i]->data[k];
        assert_loss(sqrt(square), (double)fs_f32(golden(l.golden, name))[0], FINAL, name, 0);
    }
    close_lesson(&l);
}

/* ---- stage 2 ---- */

static void mflm_gradients(void **state) {
    (void)state;
    for (int recompute = 0; recompute < 2; recompute++) {
        lesson l = open_lesson("mflm", recompute);
        open_trainee(&l);
        const float *expected = fs_f32(golden(l.golden, "losses"));
        const fs_losses got = step(&l, 0, 1);
        const double found[4] = {got.total, got.ce, got.bce, got.dice};
        for (int i = 0; i < 4; i++) assert_loss(found[i], (double)expected[i], LOSS, "loss part", i);
        assert_int_equal(got.masks, 2);
        assert_loss(fs_params_grad_norm(&l.trainee.params, 2), (double)fs_f32(golden(l.golden, "norm"))[0], GRADIENT, "norm", 0);
        check_gradients(&l);
        close_lesson(&l);
    }
}

static void mflm_masks(void **state) {
    (void)state;
    lesson l = open_lesson("mflm", false);
    open_trainee(&l);
    for (int i = 0; i < 2; i++) {
        const fs_tensor *expected = numbered(&l, i, "logits");
        fs_tensor found = *expected;
        float *logits = malloc((size_t)fs_tensor_count(expected) * sizeof *logits);
        assert_non_null(logits);
        bool has = false;
        fs_losses losses;
        fs_error err = {0};
        if (fs_trainee_mask(&l.trainee, &l.samples[i], logits, &has, &losses, &err)) fail_msg("%s", err.message);
        assert_true(has);
        found.data = logits;
        assert_close(&found, expected, 2e-5, "mask logits"); /* all of CLIP, LLaMA and SAM lies before them */
        free(logits);
    }
    close_lesson(&l);
}

static void mflm_steps(lesson *l, const char *name, const fs_schedule *schedule) {
    open_trainee(l);
    fs_adamw adamw = fs_adamw_defaults();
    adamw.beta2 = 0.95;
    run_steps(l, name, 2, &adamw, schedule, 1.0);
    if (schedule->kind == FS_SCHEDULE_WARMUP_DECAY) leave_adapter(l);
    close_lesson(l);
}

static void mflm_steps_warm(void **state) {
    (void)state;
    lesson l = open_lesson("mflm", true);
    mflm_steps(&l, "steps", &(fs_schedule){FS_SCHEDULE_WARMUP_DECAY, 10, 2});
}

static void mflm_steps_upstream(void **state) {
    (void)state;
    lesson l = open_lesson("mflm", false);
    mflm_steps(&l, "upstream", &(fs_schedule){FS_SCHEDULE_WARMUP_DECAY_UPSTREAM, 1000, 100});
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dte_gradients),       cmocka_unit_test(dte_logits),          cmocka_unit_test(dte_steps),
        cmocka_unit_test(dte_steps_from_zero), cmocka_unit_test(mflm_masks),          cmocka_unit_test(mflm_gradients),
        cmocka_unit_test(mflm_steps_warm),     cmocka_unit_test(mflm_steps_upstream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
