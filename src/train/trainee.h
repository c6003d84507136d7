/* A network in training: a stage opened with the tensors that change in front of its checkpoint's, and the loss of a micro-batch. */
#ifndef FS_TRAIN_TRAINEE_H
#define FS_TRAIN_TRAINEE_H

#include "pipeline/pipeline.h"
#include "train/data.h"
#include "train/params.h"

typedef struct fs_trainee {
    const fs_train_options *options;
    fs_layout layout;
    fs_dte_fdm *dte;   /* one of the two, by recipe */
    fs_mflm *mflm;
    fs_archive *dtg_file; /* DTG: where it came from */
    fs_bundle *bundle;    /* or this */
    fs_resnet resnet;
    fs_stage_parts parts;
    fs_params params;
    fs_params_view views[2]; /* by fs_overlay_part */
    fs_overlay overlay;
    fs_exec exec;
    fs_tape tape;
    fs_affine dense;   /* DTE-FDM: from a patch of CLIP to DENSE_CELLS of its mask (trainee.c) */
    int32_t seg_id;    /* MFLM's [SEG] */
    fs_tensor *pe;     /* SAM's dense positional encoding */
    fs_arena_mark start; /* of the arena, behind what is kept */
} fs_trainee;

/* The recipe's stage with its trained tensors. base: places of parts, threads, callbacks. *t is zeroed first; close takes a failed one. */
fs_status fs_trainee_open(fs_trainee *t, const fs_train_options *options, fs_error *err);
void fs_trainee_close(fs_trainee *t);

/* What a micro-batch lost, weighted as in the sum. */
typedef struct fs_losses {
    double total, ce, bce, dice;
    int64_t tokens, targets, masks, right; /* rows through the language model; rows with a target; masks; DTG: pictures named rightly */
} fs_losses;
/* Loss of the samples; with `seed` above 0 its gradient times seed is added to the trained tensors' too. key: of dropout. */
fs_status fs_trainee_step(fs_trainee *t, const fs_sample *samples, size_t n, double seed, uint64_t key, fs_losses *out, fs_error *err);

/* Teacher-forced prediction of one MFLM sample: logits [height, width] at the mask's size into `logits`, found false if there is no [SEG]. */
fs_status fs_trainee_mask(fs_trainee *t, const fs_sample *sample, float *logits, bool *found, fs_losses *losses, fs_error *err);

/* DTG's part of these (dtg.c). */
fs_status fs_trainee_open_dtg(fs_trainee *t, fs_error *err);
fs_tensor *fs_trainee_dtg_loss(fs_trainee *t, const fs_sample *samples, size_t n, bool train, fs_losses *losses);

/* What is trained begins with other weights (warm.c). With those of options->begin_with, as far as they fit; clip_from_sam: CLIP with its SAM's. */
fs_status fs_trainee_begin_with(fs_trainee *t, fs_error *err);
/* MFLM: SAM's encoder with those of its CLIP. */
fs_status fs_trainee_sam_from_clip(fs_trainee *t, fs_error *err);

/* Folder `dir` with DTG.pth, as the original's strict loader takes it. */
fs_status fs_trainee_write_dtg(const fs_trainee *t, const char *dir, fs_error *err);

/* The bundle that training began from with the trained numbers in it, as folder `dir` (whole or not at all). */
fs_status fs_trainee_write_bundle(const fs_trainee *t, const char *dir, fs_error *err);

#endif
