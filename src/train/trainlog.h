/* A run's numbers as they come: log.csv (one row a step) and a TensorBoard event file, both in the run's folder and written at once, so
 * that a run can be watched and a kill loses nothing. settings.json beside them says what was run.
 *
 *     const char *names[] = {"loss", "rate", "grad_norm"};
 *     fs_trainlog_open(dir, names, 3, settings, resumed_at, &log, err);       resumed_at: steps done, or -1 for a new run
 *     fs_trainlog_scalars(log, step, (const char *[]){"loss", "rate"}, (double[]){0.7, 2e-4}, 2, err);
 *     fs_trainlog_close(log);
 */
#ifndef FS_TRAIN_TRAINLOG_H
#define FS_TRAIN_TRAINLOG_H

#include "base/base.h"

#define FS_TRAINLOG_CSV "log.csv"
#define FS_TRAINLOG_SETTINGS "settings.json"

/* Names that the report (report.h) knows. Others are drawn too, each in a chart of its own; "loss/part" joins the chart of "loss". */
#define FS_LOG_LOSS "loss"           /* parts: "loss/ce", "loss/bce", "loss/dice" */
#define FS_LOG_RATE "rate"           /* learning rate of group 0 */
#define FS_LOG_GRAD_NORM "grad_norm" /* before clipping */
#define FS_LOG_TOKENS_PER_SECOND "tokens_per_second"
#define FS_LOG_MEMORY "memory_bytes"
#define FS_LOG_GIOU "val/giou"
#define FS_LOG_CIOU "val/ciou"
#define FS_LOG_ACCURACY "val/accuracy"
#define FS_LOG_VAL_LOSS "val/loss"

typedef struct fs_trainlog fs_trainlog;

/* columns: every name that will be logged (letters, digits, "_", "/", "."). settings: JSON text of an object, NULL: no settings.json. Going
 * on at step N keeps the rows up to N and drops the rest, a torn last line too. */
fs_status fs_trainlog_open(const char *dir, const char *const *columns, size_t n, const char *settings, int64_t resumed_at,
                           fs_trainlog **out, fs_error *err);
/* Numbers of one step. Several calls for a step make one row; steps may not go back. A name that is no column is FS_E_INTERNAL. */
fs_status fs_trainlog_scalars(fs_trainlog *log, int64_t step, const char *const *names, const double *values, size_t n, fs_error *err);
void fs_trainlog_close(fs_trainlog *log);

/* ---- pieces, for tests ---------------------------------------------------------------------------------------------- */

uint32_t fs_crc32c(const void *data, size_t n);        /* Castagnoli, as in RFC 3720 */
uint32_t fs_crc32c_masked(const void *data, size_t n); /* as TFRecord stores it */
/* Adds one TFRecord: length, its checksum, the bytes, their checksum. */
void fs_tfrecord_add(fs_buffer *b, const void *data, size_t n);
/* Each adds a record that holds one of TensorBoard's events. time: seconds since 1970. */
void fs_event_add_version(fs_buffer *b, double time);               /* what a file begins with */
void fs_event_add_restart(fs_buffer *b, double time, int64_t step); /* what was logged from this step on is void */
void fs_event_add_scalars(fs_buffer *b, double time, int64_t step, const char *const *names, const double *values, size_t n);

#endif
