/* An evaluation by several processes (mpirun -n N fakeshield eval ...): each takes every N-th picture into a folder of its own, OUT/part-I,
 * and the first joins them, which gives the files that one process would have written. Started without mpirun it is one process and none of
 * this. */
#include "eval/eval.h"

#include <stdlib.h>

#include "net/comm.h"

enum { WEEK = 7 * 24 * 3600 }; /* the slowest may be long behind the others */

static fs_status join(const fs_eval_options *options, int parts, char **text, fs_error *err) {
    fs_status status = FS_OK;
    char **dirs = fs_alloc_zero((size_t)parts, sizeof *dirs);
    if (!dirs) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (int i = 0; i < parts && !status; i++)
        if (!(dirs[i] = fs_format("%s/part-%d", options->out, i + 1))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status) status = fs_eval_merge((const char *const *)dirs, (size_t)parts, options, text, err);
    for (int i = 0; i < parts; i++) free(dirs[i]);
    free(dirs);
    return status;
}

fs_status fs_eval_run(const fs_eval_options *options, char **text, fs_error *err) {
    fs_comm *comm = NULL;
    fs_comm_options co = fs_comm_options_defaults();
    if (text) *text = NULL;
    co.timeout = WEEK;
    co.callbacks = &options->callbacks;
    fs_status status = fs_comm_create(&co, &comm, err);
    if (status) return status;
    const int rank = fs_comm_rank(comm), size = fs_comm_size(comm);
    if (size == 1 || options->shards > 1) { /* parts that are given are parts, whoever runs them */
        status = fs_eval_run_part(options, text, err);
        fs_comm_free(comm);
        return status;
    }
    fs_eval_options part = *options;
    char *out = options->out ? fs_format("%s/part-%d", options->out, rank + 1) : NULL;
    part.shard = rank + 1;
    part.shards = size;
    part.html = false;
    part.sheet = 0;
    part.out = out;
    if (rank) part.callbacks.progress = NULL; /* one line for all */
    status = options->out && !out ? fs_fail(err, FS_E_NO_MEMORY, "out of memory") : fs_eval_run_part(&part, NULL, err);
    if (status && err) fs_comm_abort(comm, err->message);
    if (!status) status = fs_comm_barrier(comm, err);
    if (!status && rank == 0) status = join(options, size, text, err);
    if (!status) status = fs_comm_barrier(comm, err);
    fs_comm_free(comm);
    free(out);
    return status;
}
