/* How a bundle's scores are turned into probabilities that hold on the data they were measured on (Platt, "Probabilistic outputs for
 * support vector machines", 1999): p = 1 / (1 + exp(-(slope x + offset))), x the log-odds of the two verdict sentences. Kept in the
 * metadata of the bundle's stage 1 as fakeshield.calibration.{method,slope,offset,low,high,records,ece_before,ece_after}; bundles of earlier
 * versions have no method. */
#ifndef FS_CALIBRATION_H
#define FS_CALIBRATION_H

#include "format/gguf.h"

#define FS_CALIBRATION_PREFIX "fakeshield.calibration."

typedef struct fs_calibration {
    bool on;
    fs_calibration_method method;
    double slope, offset;         /* slope 1, offset 0: the score as it is */
    double low, high;             /* between them the verdict is left open; low 0.5 and high 0.5: nowhere */
    int64_t records;              /* pictures it was fitted to; 0: not recorded */
    double ece_before, ece_after; /* expected calibration error on them, of the score as it is and of the calibrated one; NaN: not recorded */
} fs_calibration;

/* out->on false: the file has none. Values that make no sense are FS_E_FORMAT. */
fs_status fs_calibration_read(const fs_archive *a, fs_calibration *out, fs_error *err);
void fs_calibration_put(fs_gguf_writer *w, const fs_calibration *c);
double fs_calibration_apply(const fs_calibration *c, double log_odds);
bool fs_calibration_open_verdict(const fs_calibration *c, double score); /* in the band */

/* Of the bundle at `dir`. */
fs_status fs_bundle_calibration(const char *dir, fs_calibration *out, fs_error *err);
/* The bundle once more, with this calibration in place of any it had. Another folder. */
fs_status fs_bundle_calibrate(const char *dir, const char *out_dir, const fs_calibration *c, const fs_options *options, fs_error *err);

#endif
