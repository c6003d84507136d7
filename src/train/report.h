/* A training run as one HTML page: curves and settings from log.csv and settings.json (trainlog.h). The public function is in fakeshield.h.
 */
#ifndef FS_TRAIN_REPORT_H
#define FS_TRAIN_REPORT_H

#include "base/base.h"

enum { FS_RUN_COLUMNS = 64 };

/* log.csv, read back. Values are by column; NaN where a step has none. */
typedef struct fs_run {
    char *dir;
    int64_t *steps; /* [rows], rising */
    size_t rows, columns;
    char *names[FS_RUN_COLUMNS];    /* without "step" */
    double *values[FS_RUN_COLUMNS]; /* [rows] each */
    char *settings;                 /* JSON text; NULL: there is none */
} fs_run;
fs_status fs_run_read(const char *dir, fs_run *out, fs_error *err); /* errors name file and line */
/* The text of a log.csv, which is taken apart; path is used in error lines. dir and settings stay NULL. */
fs_status fs_run_parse(const char *path, char *text, fs_run *out, fs_error *err);
void fs_run_free(fs_run *r); /* a zeroed struct is fine */

#endif
