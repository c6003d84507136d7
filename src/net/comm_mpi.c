/* Data-parallel processes over MPI (comm.h). Every collective is a non-blocking one that is polled, since a process that waits in a
 * blocking one for another that is gone waits for ever: while polling, the time limit, a message of farewell from another process and the
 * caller's cancel end the wait.
 *
 * The sum: a piece of the array is cut into as many slices as there are processes; each process gets its slice of everybody (all-to-all),
 * adds in f64 in the order of ranks, rounds once, and everybody gets all slices (all-gather). That is the traffic of a ring, and an order
 * that neither the machine nor the moment changes. */
#ifdef FS_HAVE_MPI

#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "net/comm_backend.h"

enum {
    PIECE = 4 << 20,     /* floats of an all-reduce at a time */
    BYTES = 64 << 20,    /* of a broadcast at a time */
    FAREWELL_SIZE = 512, /* characters */
    SPINS = 2000         /* polls before it sleeps between them */
};
static const double cancel_grace = 0.3; /* seconds; mpirun kills one second after it has asked to end */

struct fs_mpi {
    MPI_Comm data, farewell;
    int *counts, *starts, *from_counts, *from_starts; /* [size] each */
    float *slices;                                    /* [size][slice]: everybody's part of mine */
};

#if defined(__SANITIZE_ADDRESS__)
/* What Open MPI and its plug-ins, long unloaded, keep to the end is not ours to free: no hunt for leaks where MPI was begun. */
__attribute__((visibility("default"))) int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void) {
    int ready = 0;
    return MPI_Initialized(&ready) == MPI_SUCCESS && ready;
}
#endif

static fs_status failed(fs_comm *c, const char *doing, int code, fs_error *err) {
    char text[MPI_MAX_ERROR_STRING] = "?";
    int length = 0;
    if (code == MPI_SUCCESS) return FS_OK;
    MPI_Error_string(code, text, &length);
    c->broken = true;
    return fs_fail(err, FS_E_IO, "process %d of %d, while %s: %s; another process may be lost: resume from the last checkpoint", c->rank,
                   c->size, doing, text);
}

/* ---- waiting ------------------------------------------------------------------------------------------------------------ */

/* Has another process said that it ends? */
static fs_status hear_farewell(fs_comm *c, fs_error *err) {
    char text[FAREWELL_SIZE] = "";
    MPI_Status s;
    int there = 0, size = 0;
    if (MPI_Iprobe(MPI_ANY_SOURCE, 0, c->mpi->farewell, &there, &s) != MPI_SUCCESS || !there) return FS_OK;
    if (MPI_Get_count(&s, MPI_CHAR, &size) != MPI_SUCCESS || size < 0 || size > FAREWELL_SIZE) size = FAREWELL_SIZE;
    if (MPI_Recv(text, size, MPI_CHAR, s.MPI_SOURCE, 0, c->mpi->farewell, &s) != MPI_SUCCESS) return FS_OK;
    text[FAREWELL_SIZE - 1] = '\0';
    return fs_fail(err, FS_E_FAILED, "process %d of %d ended: %s", s.MPI_SOURCE, c->size, text);
}

static fs_status give_up(const fs_comm *c, const char *doing, double waited, bool cancelled, fs_error *err) {
    if (cancelled)
        return fs_fail(err, FS_E_CANCELLED,
                       "process %d of %d was told to end while %s: the run was stopped, or another process is lost; resume from "
                       "the last checkpoint",
                       c->rank, c->size, doing);
    return fs_fail(err, FS_E_IO,
                   "process %d of %d waited %.0f s for the others while %s: one of them is lost or stuck; look at its messages and resume "
                   "from the last checkpoint",
                   c->rank, c->size, waited, doing);
}

static fs_status wait_for(fs_comm *c, MPI_Request *request, const char *doing, fs_error *err) {
    const double begin = fs_now();
    double limit = begin + c->options.timeout;
    bool cancelled = false;
    fs_status status = FS_OK;
    for (int64_t polls = 1; !status; polls++) {
        int done = 0;
        const int code = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (code != MPI_SUCCESS) return failed(c, doing, code, err);
        if (done) return FS_OK;
        if (polls < SPINS) {
            sched_yield();
            if (polls % 256) continue;
        } else {
            nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
        }
        status = hear_farewell(c, err);
        const double now = fs_now();
        if (!cancelled && fs_cancelled(c->options.callbacks)) {
            cancelled = true;
            limit = now + cancel_grace < limit ? now + cancel_grace : limit;
        }
        if (!status && now >= limit) status = give_up(c, doing, now - begin, cancelled, err);
    }
    c->broken = true;
    return status;
}

/* ---- beginning and end -------------------------------------------------------------------------------------------------- */

static void release(fs_mpi *m) {
    free(m->counts);
    free(m->slices);
    free(m);
}

fs_status fs_mpi_open(fs_comm *c, fs_error *err) {
    int provided = 0, ready = 0;
    if (MPI_Initialized(&ready) != MPI_SUCCESS || ready) return fs_fail(err, FS_E_INTERNAL, "MPI can be begun only once in a process");
    /* the caller's thread alone talks; the threads that compute do not */
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS || provided < MPI_THREAD_FUNNELED)
        return fs_fail(err, FS_E_IO, "MPI does not start; try `mpirun -n 2 hostname`, or start without mpirun");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &c->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &c->size);
    const size_t n = (size_t)c->size;
    fs_mpi *m = calloc(1, sizeof *m);
    int *counts = fs_alloc_zero(4 * n, sizeof *counts);
    float *slices = fs_alloc((size_t)PIECE + n, sizeof *slices);
    if (!m || !counts || !slices) {
        free(m);
        free(counts);
        free(slices);
        return fs_fail(err, FS_E_NO_MEMORY, "out of memory for talking to %d processes", c->size);
    }
    *m = (fs_mpi){.counts = counts, .starts = counts + n, .from_counts = counts + 2 * n, .from_starts = counts + 3 * n, .slices = slices};
    fs_status status = failed(c, "starting", MPI_Comm_dup(MPI_COMM_WORLD, &m->data), err);
    if (!status) status = failed(c, "starting", MPI_Comm_dup(MPI_COMM_WORLD, &m->farewell), err);
    if (status)
        release(m);
    else
        c->mpi = m;
    return status;
}

/* A process that has failed leaves without MPI_Finalize, which would wait for the others; mpirun then ends them. */
void fs_mpi_close(fs_comm *c) {
    fs_error err;
    if (!c->broken && fs_mpi_barrier(c, &err) == FS_OK) {
        MPI_Comm_free(&c->mpi->farewell);
        MPI_Comm_free(&c->mpi->data);
        MPI_Finalize();
        release(c->mpi);
    }
    /* else messages may still be on their way into the buffers: they stay until the process ends */
    c->mpi = NULL;
}

void fs_mpi_abort(fs_comm *c, const char *why) {
    char text[FAREWELL_SIZE];
    MPI_Request *requests = calloc((size_t)c->size, sizeof(MPI_Request));
    int n = 0, done = 0;
    snprintf(text, sizeof text, "%s", why);
    for (int to = 0; requests && to < c->size; to++)
        if (to != c->rank && MPI_Isend(text, (int)strlen(text) + 1, MPI_CHAR, to, 0, c->mpi->farewell, &requests[n]) == MPI_SUCCESS) n++;
    for (const double end = fs_now() + 0.5; requests && !done && fs_now() < end; sched_yield())
        if (MPI_Testall(n, requests, &done, MPI_STATUSES_IGNORE) != MPI_SUCCESS) break;
    free(requests);
}

/* ---- talking: each request is waited for by wait_for, or the comm is broken ------------------------------------------------ */
// NOLINTBEGIN(clang-analyzer-optin.mpi.MPI-Checker)

static void add_slices(const float *slices, int size, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++) {
        double sum = 0;
        for (int r = 0; r < size; r++) sum += (double)slices[r * n + i];
        out[i] = (float)sum;
    }
}

static fs_status reduce_piece(fs_comm *c, float *data, int64_t n, fs_error *err) {
    static const char doing[] = "summing gradients";
    fs_mpi *m = c->mpi;
    MPI_Request request;
    const int64_t slice = (n + c->size - 1) / c->size;
    for (int r = 0; r < c->size; r++) {
        m->starts[r] = (int)fs_min_i64(r * slice, n);
        m->counts[r] = (int)(fs_min_i64((r + 1) * slice, n) - m->starts[r]);
    }
    const int mine = m->counts[c->rank];
    for (int r = 0; r < c->size; r++) {
        m->from_starts[r] = r * mine;
        m->from_counts[r] = mine;
    }
    fs_status status = failed(
        c, doing,
        MPI_Ialltoallv(data, m->counts, m->starts, MPI_FLOAT, m->slices, m->from_counts, m->from_starts, MPI_FLOAT, m->data, &request),
        err);
    if (!status) status = wait_for(c, &request, doing, err);
    if (status) return status;
    add_slices(m->slices, c->size, mine, data + m->starts[c->rank]);
    status = failed(c, doing, MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, m->counts, m->starts, MPI_FLOAT, m->data, &request),
                    err);
    return status ? status : wait_for(c, &request, doing, err);
}

fs_status fs_mpi_all_reduce(fs_comm *c, float *data, int64_t n, fs_error *err) {
    fs_status status = FS_OK;
    for (int64_t at = 0; at < n && !status; at += PIECE) status = reduce_piece(c, data + at, fs_min_i64(PIECE, n - at), err);
    return status;
}

fs_status fs_mpi_broadcast(fs_comm *c, void *data, size_t bytes, int root, fs_error *err) {
    static const char doing[] = "sending to all";
    fs_status status = FS_OK;
    for (size_t at = 0; at < bytes && !status; at += BYTES) {
        MPI_Request request;
        const size_t n = bytes - at < BYTES ? bytes - at : BYTES;
        status = failed(c, doing, MPI_Ibcast((char *)data + at, (int)n, MPI_BYTE, root, c->mpi->data, &request), err);
        if (!status) status = wait_for(c, &request, doing, err);
    }
    return status;
}

fs_status fs_mpi_barrier(fs_comm *c, fs_error *err) {
    MPI_Request request;
    const fs_status status = failed(c, "meeting", MPI_Ibarrier(c->mpi->data, &request), err);
    return status ? status : wait_for(c, &request, "meeting", err);
}

fs_status fs_mpi_gather(fs_comm *c, const double *mine, int64_t n, double *all, fs_error *err) {
    static const char doing[] = "collecting figures";
    MPI_Request request;
    if (n > INT32_MAX) return fs_fail(err, FS_E_LIMIT, "too many figures for one message: %lld", (long long)n);
    const fs_status status =
        failed(c, doing, MPI_Iallgather(mine, (int)n, MPI_DOUBLE, all, (int)n, MPI_DOUBLE, c->mpi->data, &request), err);
    return status ? status : wait_for(c, &request, doing, err);
}

// NOLINTEND(clang-analyzer-optin.mpi.MPI-Checker)

#else
typedef int fs_mpi_is_not_in_this_build; /* ISO C wants a declaration in every file */
#endif
