/* Optimizers, gradient norm, schedules (optim.h). Follows torch/optim/adamw.py and sgd.py (single tensor), torch/nn/utils/clip_grad.py,
 * transformers/optimization.py and deepspeed/runtime/lr_schedules.py.
 *
 * Numbers that PyTorch computes in Python are f64 here and rounded to f32 where they meet a tensor; each elementwise operation is rounded
 * on its own. A tensor is cut into pieces that depend on its size alone, so that threads change neither values nor the order of sums. */
#include "train/optim.h"

#include <math.h>
#include <string.h>

enum {
    PIECES = 256,      /* of one tensor, at most */
    PIECE_LEAST = 4096 /* values; smaller tensors are not worth a second thread */
};

static bool find_name(const char *const *names, int n, const char *name, int *out) {
    for (int i = 0; name && i < n; i++)
        if (strcmp(names[i], name) == 0) return *out = i, true;
    return false;
}

static const char *const optim_names[] = {"adamw", "sgd"};
const char *fs_optim_kind_name(fs_optim_kind k) {
    return (int)k >= 0 && (int)k < 2 ? optim_names[k] : "unknown";
}
bool fs_optim_kind_from_name(const char *name, fs_optim_kind *out) {
    int i;
    if (!find_name(optim_names, 2, name, &i)) return false;
    *out = (fs_optim_kind)i;
    return true;
}

static const char *const schedule_names[] = {"constant", "cosine", "warmup-decay", "warmup-decay-upstream"};
const char *fs_schedule_kind_name(fs_schedule_kind k) {
    return (int)k >= 0 && (int)k < 4 ? schedule_names[k] : "unknown";
}
bool fs_schedule_kind_from_name(const char *name, fs_schedule_kind *out) {
    int i;
    if (!find_name(schedule_names, 4, name, &i)) return false;
    *out = (fs_schedule_kind)i;
    return true;
}

/* ---- pieces of a tensor ----------------------------------------------------------------------------------------------- */

static int64_t piece_size(int64_t count) {
    const int64_t even = (count + PIECES - 1) / PIECES, whole = (even + 15) / 16 * 16;
    return fs_max_i64(whole, PIECE_LEAST);
}

static int piece_count(int64_t count) {
    return (int)((count + piece_size(count) - 1) / piece_size(count));
}

static int thread_count(int threads, int pieces) {
    return threads < 1 ? 1 : threads < pieces ? threads : pieces;
}

/* ---- AdamW ------------------------------------------------------------------------------------------------------------ */

fs_adamw fs_adamw_defaults(void) {
    return (fs_adamw){.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
}

typedef struct adamw_numbers {
    float keep, beta1, one_beta1, beta2, one_beta2, root_correction, eps, minus_rate;
} adamw_numbers;

static void adamw_piece(const adamw_numbers *k, int64_t n, float *restrict w, const float *restrict g, float *restrict m,
                        float *restrict v) {
    for (int64_t i = 0; i < n; i++) {
        const float mi = m[i] * k->beta1 + k->one_beta1 * g[i];
        const float vi = v[i] * k->beta2 + k->one_beta2 * g[i] * g[i];
        m[i] = mi;
        v[i] = vi;
        w[i] = w[i] * k->keep + k->minus_rate * mi / (sqrtf(vi) / k->root_correction + k->eps);
    }
}

void fs_adamw_step(fs_params *p, const fs_adamw *o, int64_t step, double factor, int threads) {
    const double correction1 = 1 - pow(o->beta1, (double)step), correction2 = 1 - pow(o->beta2, (double)step);
    for (size_t i = 0; i < p->count; i++) {
        fs_param *q = p->list[i];
        const double rate = p->groups[q->group].rate * factor;
        const adamw_numbers k = {
            .keep = (float)(1 - rate * p->groups[q->group].decay),
            .beta1 = (float)o->beta1,
            .one_beta1 = (float)(1 - o->beta1),
            .beta2 = (float)o->beta2,
            .one_beta2 = (float)(1 - o->beta2),
            .root_correction = (float)sqrt(correction2),
            .eps = (float)o->eps,
            .minus_rate = (float)(-rate / correction1),
        };
        const int64_t size = piece_size(q->count);
        const int pieces = piece_count(q->count);
#pragma omp parallel for schedule(static) num_threads(thread_count(threads, pieces)) if (pieces > 1)
        for (int j = 0; j < pieces; j++) {
            const int64_t at = j * size;
            adamw_piece(&k, fs_min_i64(size, q->count - at), q->data + at, q->grad + at, q->m + at, q->v + at);
        }
    }
}

/* ---- SGD -------------------------------------------------------------------------------------------------------------- */

fs_sgd fs_sgd_defaults(void) {
    return (fs_sgd){.momentum = 0.9};
}

/* From a velocity of zeros the first step's velocity is the gradient, as PyTorch begins. */
static void sgd_piece(float momentum, bool nesterov, float minus_rate, float decay, int64_t n, float *restrict w, const float *restrict g,
                      float *restrict m) {
    for (int64_t i = 0; i < n; i++) {
        const float d = g[i] + decay * w[i];
        const float velocity = m[i] * momentum + d;
        m[i] = velocity;
        w[i] = w[i] + minus_rate * (nesterov ? d + momentum * velocity : velocity);
    }
}

void fs_sgd_step(fs_params *p, const fs_sgd *o, double factor, int threads) {
    for (size_t i = 0; i < p->count; i++) {
        fs_param *q = p->list[i];
        const fs_param_group *group = &p->groups[q->group];
        const int64_t size = piece_size(q->count);
        const int pieces = piece_count(q->count);
#pragma omp parallel for schedule(static) num_threads(thread_count(threads, pieces)) if (pieces > 1)
        for (int j = 0; j < pieces; j++) {
            const int64_t at = j * size;
            sgd_piece((float)o->momentum, o->nesterov, (float)(-group->rate * factor), (float)group->decay, fs_min_i64(size, q->count - at),
                      q->data + at, q->grad + at, q->m + at);
        }
    }
}

/* ---- gradients as a whole ----------------------------------------------------------------------------------------------- */

enum { LANES = 8 }; /* independent sums, so that the loop can use vector registers without reordering */

static double square_sum(const float *x, int64_t n) {
    double lane[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) lane[l] += (double)x[i + l] * (double)x[i + l];
    for (; i < n; i++) sum += (double)x[i] * (double)x[i];
    for (int l = 0; l < LANES; l++) sum += lane[l];
    return sum;
}

double fs_params_grad_norm(const fs_params *p, int threads) {
    double sum = 0;
    for (size_t i = 0; i < p->count; i++) {
        const fs_param *q = p->list[i];
        const int64_t size = piece_size(q->count);
        const int pieces = piece_count(q->count);
        double part[PIECES];
#pragma omp parallel for schedule(static) num_threads(thread_count(threads, pieces)) if (pieces > 1)
        for (int j = 0; j < pieces; j++) part[j] = square_sum(q->grad + j * size, fs_min_i64(size, q->count - j * size));
        for (int j = 0; j < pieces; j++) sum += part[j];
    }
    return sqrt(sum);
}

static void scale_piece(float factor, int64_t n, float *x) {
    for (int64_t i = 0; i < n; i++) x[i] *= factor;
}

void fs_params_scale_grad(fs_params *p, double factor, int threads) {
    for (size_t i = 0; i < p->count && factor != 1; i++) {
        fs_param *q = p->list[i];
        const int64_t size = piece_size(q->count);
        const int pieces = piece_count(q->count);
#pragma omp parallel for schedule(static) num_threads(thread_count(threads, pieces)) if (pieces > 1)
        for (int j = 0; j < pieces; j++) scale_piece((float)factor, fs_min_i64(size, q->count - j * size), q->grad + j * size);
    }
}

double fs_clip_factor(double norm, double max_norm) {
    if (max_norm <= 0) return 1;
    const double factor = max_norm / (norm + 1e-6);
    return factor < 1 ? factor : 1;
}

void fs_params_clip(fs_params *p, double max_norm, int threads, double *norm) {
    *norm = fs_params_grad_norm(p, threads);
    if (isfinite(*norm)) fs_params_scale_grad(p, fs_clip_factor(*norm, max_norm), threads);
}

/* ---- schedules ---------------------------------------------------------------------------------------------------------- */

int64_t fs_schedule_warmup(int64_t total, double ratio) {
    return (int64_t)ceil((double)total * ratio);
}

static double straight(int64_t total, int64_t warmup, int64_t n) {
    if (n < warmup) return (double)n / (double)fs_max_i64(1, warmup);
    return fmax(0, (double)(total - n) / (double)fs_max_i64(1, total - warmup));
}

double fs_schedule_factor(const fs_schedule *s, int64_t steps_done) {
    const int64_t n = fs_max_i64(steps_done, 0), warmup = fs_max_i64(s->warmup, 0);
    switch (s->kind) {
    case FS_SCHEDULE_COSINE: {
        if (n < warmup) return (double)n / (double)warmup;
        const double way = (double)(fs_min_i64(n, s->total) - warmup) / (double)fs_max_i64(1, s->total - warmup);
        return fmax(0, 0.5 * (1 + cos(M_PI * way)));
    }
    case FS_SCHEDULE_WARMUP_DECAY:
        return straight(s->total, warmup, n);
    case FS_SCHEDULE_WARMUP_DECAY_UPSTREAM:
        return n == 0 ? 1 : straight(s->total, fs_max_i64(warmup, 2), n - 1); /* DeepSpeed warms up for at least 2 */
    case FS_SCHEDULE_CONSTANT:
        break;
    }
    return n < warmup ? (double)n / (double)warmup : 1;
}
