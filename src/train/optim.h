/* How trained tensors move: AdamW (Loshchilov & Hutter 2019) and SGD with momentum, each to the letter of torch.optim's single-tensor F32
 * path; the global gradient norm and its clipping; learning-rate schedules of transformers and DeepSpeed as a function of the steps done.
 *
 *     double norm;
 *     fs_params_clip(&params, 1.0, threads, &norm);            gradients are complete (accumulated, summed over processes)
 *     if (!isfinite(norm)) ... stop
 *     fs_adamw_step(&params, &adamw, steps_done + 1, fs_schedule_factor(&schedule, steps_done), threads);
 *     fs_params_zero_grad(&params);
 *
 * Results are the same to the bit whatever the number of threads. */
#ifndef FS_TRAIN_OPTIM_H
#define FS_TRAIN_OPTIM_H

#include "train/params.h"

/* ---- optimizers ----------------------------------------------------------------------------------------------------- */

typedef enum fs_optim_kind { FS_OPTIM_ADAMW = 0, FS_OPTIM_SGD = 1 } fs_optim_kind;
const char *fs_optim_kind_name(fs_optim_kind k); /* "adamw", "sgd" */
bool fs_optim_kind_from_name(const char *name, fs_optim_kind *out);

typedef struct fs_adamw {
    double beta1, beta2, eps;
} fs_adamw;
fs_adamw fs_adamw_defaults(void); /* 0.9, 0.999, 1e-8: PyTorch's, and DTE-FDM's (MFLM: beta2 0.95) */

/* One update of every tensor from its gradient, with rate = its group's rate * factor and the group's decoupled decay. step: this step's
 * number, from 1 (for the bias correction). */
void fs_adamw_step(fs_params *p, const fs_adamw *o, int64_t step, double factor, int threads);

typedef struct fs_sgd {
    double momentum;
    bool nesterov;
} fs_sgd;
fs_sgd fs_sgd_defaults(void); /* 0.9, no */
/* The same for SGD; the group's decay is added to the gradient (L2), the velocity is kept in m. */
void fs_sgd_step(fs_params *p, const fs_sgd *o, double factor, int threads);

/* ---- gradients as a whole --------------------------------------------------------------------------------------------- */

double fs_params_grad_norm(const fs_params *p, int threads); /* L2 over all of them, in f64; NaN or infinity if one has it */
void fs_params_scale_grad(fs_params *p, double factor, int threads);
/* What gradients of this norm are multiplied with: min(1, max_norm / (norm + 1e-6)). That is torch.nn.utils.clip_grad_norm_ and, for it
 * divides by max(1, (norm + 1e-6) / max_norm), DeepSpeed too. max_norm <= 0: no clipping, 1. */
double fs_clip_factor(double norm, double max_norm);
/* Norm and clipping in one; *norm is the one before. A norm that is not finite leaves the gradients as they are: look at it. */
void fs_params_clip(fs_params *p, double max_norm, int threads, double *norm);

/* ---- schedules -------------------------------------------------------------------------------------------------------- */

typedef enum fs_schedule_kind {
    FS_SCHEDULE_CONSTANT = 0,     /* 1 after the warm-up */
    FS_SCHEDULE_COSINE = 1,       /* transformers' cosine with warm-up, to 0 (DTE-FDM) */
    FS_SCHEDULE_WARMUP_DECAY = 2, /* warm-up from 0, then straight to 0 */
    /* The same as upstream's MFLM meets it in DeepSpeed 0.12.5, whose scheduler acts only after a step: the first step runs at the full
     * rate, the second at 0, and so on one step late. */
    FS_SCHEDULE_WARMUP_DECAY_UPSTREAM = 3
} fs_schedule_kind;
const char *fs_schedule_kind_name(fs_schedule_kind k); /* "constant", "cosine", "warmup-decay", "warmup-decay-upstream" */
bool fs_schedule_kind_from_name(const char *name, fs_schedule_kind *out);

/* total: optimizer steps of the whole training; warmup: of them, steps in which the rate rises. */
typedef struct fs_schedule {
    fs_schedule_kind kind;
    int64_t total, warmup;
} fs_schedule;
/* transformers' number of warm-up steps for a ratio: rounded up. */
int64_t fs_schedule_warmup(int64_t total, double ratio);
/* What the base rates are multiplied with in the step after `steps_done` steps; 0..1. Past the end it stays at the end's value. */
double fs_schedule_factor(const fs_schedule *s, int64_t steps_done);

#endif
