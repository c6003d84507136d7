/* Fitting a calibration (calibrate.c); what it is and where it is kept: pipeline/calibration.h. Private to src/eval. */
#ifndef FS_EVAL_CALIBRATE_H
#define FS_EVAL_CALIBRATE_H

#include "base/base.h"

typedef struct fs_scored {
    double log_odds;
    bool tampered;
} fs_scored;
double fs_log_odds(double score); /* finite for 0 and 1 */
/* Log loss of 1 / (1 + exp(-(slope x + offset))), both classes weighing the same. USAGE: too few pictures; FAILED: they rank the wrong way
 * round. */
fs_status fs_calibration_fit(const fs_scored *s, size_t n, double *slope, double *offset, fs_error *err);
/* Expected calibration error over ten bins, both classes weighing the same. */
double fs_calibration_error(const fs_scored *s, size_t n, double slope, double offset);

#endif
