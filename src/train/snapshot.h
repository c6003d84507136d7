/* The resumable state of a training run: everything that makes the steps after a stop the same as if there had been none.
 *
 * A run's folder holds checkpoint-N folders (N: optimizer steps done), each with
 *     training.safetensors   every trained tensor with its two moments, and further buffers
 *     state.json             fs_train_state
 *     SHA256SUMS             of all files of the folder (what `sha256sum -c` reads), written last
 * and two text files, `last` and `best`, that name one of them. A checkpoint is written into a hidden folder, brought to the disk and
 * renamed: a kill or a full disk at any moment leaves the earlier ones as they were. Only then older ones are removed: the last few and the
 * best stay. */
#ifndef FS_TRAIN_SNAPSHOT_H
#define FS_TRAIN_SNAPSHOT_H

#include "train/params.h"

enum { FS_LOSS_TAIL = 100 };

typedef struct fs_train_state {
    int64_t step;            /* optimizer steps done */
    int64_t epoch;           /* passes over the data done */
    int64_t position;        /* within this epoch's order: what is next (micro-batches or samples, as the loop counts) */
    int64_t samples, tokens; /* seen since the start */
    double seconds;          /* trained since the start, over all runs */
    uint64_t seed;
    fs_rng rng;
    bool has_best;
    double best; /* metric of the best step, larger is better or not as the loop means it */
    int64_t best_step;
    char *settings;              /* JSON text of an object; owned; NULL: none */
    double losses[FS_LOSS_TAIL]; /* the last ones, oldest first */
    int loss_count;
} fs_train_state;
void fs_train_state_free(fs_train_state *s);                                           /* what it owns; a zeroed struct is fine */
fs_status fs_train_state_settings(fs_train_state *s, const char *json, fs_error *err); /* copies */
void fs_train_state_add_loss(fs_train_state *s, double loss);
/* FS_E_MISMATCH, naming the first setting that is another one: "batch is 4, the checkpoint was trained with 6". ignore: names of settings
 * that may differ (threads, logging, ...), NULL-terminated; or NULL. */
fs_status fs_train_state_check(const fs_train_state *s, const char *settings, const char *const *ignore, fs_error *err);

/* As state.json. Writing is atomic; reading checks every field. */
fs_status fs_train_state_write(const char *path, const fs_train_state *s, fs_error *err);
fs_status fs_train_state_read(const char *path, fs_train_state *out, fs_error *err);

/* More numbers to keep, beside the trained tensors: running means of batch norm, ... */
typedef struct fs_snapshot_buffer {
    const char *name;
    float *data;
    int64_t count;
} fs_snapshot_buffer;
typedef struct fs_snapshot_options {
    int keep_last;  /* checkpoints to keep, at least 1; default 2 */
    bool keep_best; /* and the one of best_step; default true */
    const fs_snapshot_buffer *buffers;
    size_t buffer_count;
    /* Writes more files into the folder before it is sealed (an adapter, ...); may be NULL. */
    fs_status (*also)(void *user, const char *folder, fs_error *err);
    void *user;
    const fs_callbacks *callbacks; /* for warnings; may be NULL */
} fs_snapshot_options;
fs_snapshot_options fs_snapshot_options_defaults(void);

/* Writes dir/checkpoint-<state->step>; dir is made if need be. o NULL = the defaults. */
fs_status fs_snapshot_write(const char *dir, const fs_params *p, const fs_train_state *state, const fs_snapshot_options *o, fs_error *err);
/* The newest checkpoint whose files are all what they were written as; one that is not is passed over with a warning. Clears away what a
 * kill has left unfinished. *path: malloc'ed; NULL with FS_OK if there is no checkpoint at all. FS_E_FORMAT: there are, and none is whole.
 */
fs_status fs_snapshot_find(const char *dir, const fs_callbacks *cb, char **path, fs_error *err);
/* Takes all checkpoints of a run's folder away, to begin anew. */
fs_status fs_snapshot_discard(const char *dir, fs_error *err);
/* Restores bit for bit. The names and shapes of the file must be those of p and the buffers: FS_E_MISMATCH names the first that is not. On
 * an error neither p nor *state nor the buffers have changed. */
fs_status fs_snapshot_read(const char *path, fs_params *p, fs_train_state *state, const fs_snapshot_options *o, fs_error *err);
/* The state alone, without the tensors. */
fs_status fs_snapshot_read_state(const char *path, fs_train_state *state, fs_error *err);

#endif
