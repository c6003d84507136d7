/* A training run: what fs_train is made of. Private to this room. */
#ifndef FS_TRAIN_RUN_H
#define FS_TRAIN_RUN_H

#include "net/comm.h"
#include "train/data.h"
#include "train/optim.h"
#include "train/snapshot.h"
#include "train/trainee.h"
#include "train/trainlog.h"

/* Everything about the settings that needs no file; *schedule is the one named. */
fs_status fs_train_options_check(const fs_train_options *o, fs_schedule_kind *schedule, fs_error *err);
/* What a run was made with, as a JSON object; malloc'ed, NULL when out of memory (or its config cannot be read any more). */
char *fs_train_settings(const fs_train_options *o, int64_t records, int64_t steps);

/* What a validation says. metric is what decides about the best: gIoU (MFLM), accuracy (DTG), -loss (DTE-FDM); larger is better. */
typedef struct fs_validation { double loss, giou, ciou, accuracy, metric; int64_t records; } fs_validation;
/* Over all records of `samples`, divided among the processes; the same result for each of them. masks_dir: where MFLM's masks go, true and found; NULL:
 * nowhere. */
fs_status fs_validate(fs_trainee *t, fs_samples *samples, fs_comm *comm, int workers, const char *masks_dir, fs_validation *out, fs_error *err);

#endif
