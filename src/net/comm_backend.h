/* What comm.c asks of the layer below: MPI, or none. Private to comm*.c. */
#ifndef FS_NET_COMM_BACKEND_H
#define FS_NET_COMM_BACKEND_H

#include "net/comm.h"

typedef struct fs_mpi fs_mpi;

struct fs_comm {
    int rank, size;
    fs_comm_options options;
    bool broken; /* an error has been given out: no more talking */
    fs_mpi *mpi; /* NULL for one process */
};

/* All of them poll, so that a lost process is noticed (comm.h). */
fs_status fs_mpi_open(fs_comm *c, fs_error *err); /* sets rank, size, mpi */
void fs_mpi_close(fs_comm *c);
fs_status fs_mpi_all_reduce(fs_comm *c, float *data, int64_t n, fs_error *err);
fs_status fs_mpi_broadcast(fs_comm *c, void *data, size_t bytes, int root, fs_error *err);
fs_status fs_mpi_barrier(fs_comm *c, fs_error *err);
fs_status fs_mpi_gather(fs_comm *c, const double *mine, int64_t n, double *all, fs_error *err);
void fs_mpi_abort(fs_comm *c, const char *why);

#endif
