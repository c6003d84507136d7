/* Processes of a data-parallel run (comm.h): is there more than one, and if so, over to MPI (comm_mpi.c, in the build when MPI is). */
#include <stdlib.h>
#include <string.h>

#include "net/comm_backend.h"

fs_comm_options fs_comm_options_defaults(void) {
    return (fs_comm_options){.timeout = 600};
}

bool fs_comm_available(void) {
#ifdef FS_HAVE_MPI
    return true;
#else
    return false;
#endif
}

/* Processes that the launcher says it has started: Open MPI's, and what MPICH's and Slurm's have. 1 when started alone, 0: more, but it
 * does not say how many. */
static long launched(void) {
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const char *text = getenv(sizes[i]);
        if (text && *text) return strtol(text, NULL, 10);
    }
    return getenv("PMIX_RANK") ? 0 : 1;
}

#ifndef FS_HAVE_MPI
fs_status fs_mpi_open(fs_comm *c, fs_error *err) {
    (void)c;
    return fs_fail(err, FS_E_UNSUPPORTED,
                   "started as one of several processes, but this program was built without MPI; install libopenmpi-dev "
                   "and build it again, or start it without mpirun");
}
void fs_mpi_close(fs_comm *c) {
    (void)c;
}
fs_status fs_mpi_all_reduce(fs_comm *c, float *data, int64_t n, fs_error *err) {
    return (void)data, (void)n, fs_mpi_open(c, err);
}
fs_status fs_mpi_broadcast(fs_comm *c, void *data, size_t bytes, int root, fs_error *err) {
    return (void)data, (void)bytes, (void)root, fs_mpi_open(c, err);
}
fs_status fs_mpi_barrier(fs_comm *c, fs_error *err) {
    return fs_mpi_open(c, err);
}
fs_status fs_mpi_gather(fs_comm *c, const double *mine, int64_t n, double *all, fs_error *err) {
    return (void)mine, (void)n, (void)all, fs_mpi_open(c, err);
}
void fs_mpi_abort(fs_comm *c, const char *why) {
    (void)c, (void)why;
}
#endif

fs_status fs_comm_create(const fs_comm_options *o, fs_comm **out, fs_error *err) {
    fs_status status = FS_OK;
    *out = NULL;
    fs_comm *c = calloc(1, sizeof *c);
    if (!c) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    c->size = 1;
    c->options = o ? *o : fs_comm_options_defaults();
    if (launched() != 1) status = fs_mpi_open(c, err);
    if (status)
        free(c);
    else
        *out = c;
    return status;
}

void fs_comm_free(fs_comm *c) {
    if (!c) return;
    if (c->mpi) fs_mpi_close(c);
    free(c);
}

int fs_comm_rank(const fs_comm *c) {
    return c ? c->rank : 0;
}
int fs_comm_size(const fs_comm *c) {
    return c ? c->size : 1;
}

/* Is there anybody to talk to? */
static bool alone(const fs_comm *c) {
    return !c || c->size == 1;
}

static fs_status usable(const fs_comm *c, fs_error *err) {
    return c->broken ? fs_fail(err, FS_E_FAILED, "process %d of %d does not talk to the others any more", c->rank, c->size) : FS_OK;
}

fs_status fs_comm_all_reduce(fs_comm *c, float *data, int64_t n, fs_error *err) {
    if (alone(c)) return FS_OK;
    const fs_status status = usable(c, err);
    return status ? status : fs_mpi_all_reduce(c, data, n, err);
}

fs_status fs_comm_broadcast(fs_comm *c, void *data, size_t bytes, int root, fs_error *err) {
    if (alone(c)) return FS_OK;
    const fs_status status = usable(c, err);
    return status ? status : fs_mpi_broadcast(c, data, bytes, root, err);
}

fs_status fs_comm_barrier(fs_comm *c, fs_error *err) {
    if (alone(c)) return FS_OK;
    const fs_status status = usable(c, err);
    return status ? status : fs_mpi_barrier(c, err);
}

fs_status fs_comm_gather(fs_comm *c, const double *mine, int64_t n, double *all, fs_error *err) {
    if (alone(c)) {
        memcpy(all, mine, (size_t)n * sizeof *all);
        return FS_OK;
    }
    const fs_status status = usable(c, err);
    return status ? status : fs_mpi_gather(c, mine, n, all, err);
}

void fs_comm_abort(fs_comm *c, const char *why) {
    if (alone(c) || c->broken) return;
    fs_mpi_abort(c, why);
    c->broken = true;
}
