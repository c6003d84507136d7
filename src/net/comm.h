/* Data-parallel training: the processes that mpirun has started, and what they say to each other. Started without mpirun, or built without
 * MPI, a run is one process: rank 0 of 1, for which everything here is nothing to do (and MPI is not even initialised).
 *
 * Every function that talks must be called by all processes in the same order, on the thread that created the comm. A process that is lost,
 * or late by more than the time limit, ends the call in all others with one line; after an error the comm is of no more use, and the
 * process should end with a non-zero code (which is how mpirun learns of it). Sums are made in the order of ranks, in f64 and rounded once,
 * whoever is first: a run repeats to the bit. */
#ifndef FS_NET_COMM_H
#define FS_NET_COMM_H

#include "base/base.h"

typedef struct fs_comm fs_comm;

/* timeout: seconds to wait for the slowest process; default 600. callbacks: cancel; may be NULL, else must outlive the comm. A cancel ends
 * a wait in a third of a second: mpirun tells the others to end when a process is lost, and kills them soon after. */
typedef struct fs_comm_options {
    double timeout;
    const fs_callbacks *callbacks;
} fs_comm_options;
fs_comm_options fs_comm_options_defaults(void);

bool fs_comm_available(void); /* built with MPI? */
/* Once a process. o NULL = the defaults. */
fs_status fs_comm_create(const fs_comm_options *o, fs_comm **out, fs_error *err);
void fs_comm_free(fs_comm *c);      /* waits for the others, unless something has failed */
int fs_comm_rank(const fs_comm *c); /* 0 for NULL */
int fs_comm_size(const fs_comm *c); /* 1 for NULL */

/* All take NULL for a single process. */
fs_status fs_comm_all_reduce(fs_comm *c, float *data, int64_t n, fs_error *err); /* the sum over all processes, in place */
fs_status fs_comm_broadcast(fs_comm *c, void *data, size_t bytes, int root, fs_error *err);
fs_status fs_comm_barrier(fs_comm *c, fs_error *err);
/* all: [size][n], in the order of ranks, for every process. */
fs_status fs_comm_gather(fs_comm *c, const double *mine, int64_t n, double *all, fs_error *err);
/* Tells the others why this process ends (best effort): they stop waiting with "process 1 of 2 ended: ...". */
void fs_comm_abort(fs_comm *c, const char *why);

#endif
