/* A thread that asks the system to read weight files ahead (Linux' readahead), piece by piece, so that it can be stopped and takes no more
 * memory than is free. It touches nothing the detector uses: what it leaves is pages in the system's cache. */
#include "pipeline/prefetch.h"

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_PATHS = 8, PIECE = 8 << 20 };
static const int64_t SPARE = (int64_t)1 << 30; /* left free for pictures, activations, and others */

struct fs_prefetch {
    pthread_t thread;
    atomic_bool stop;
    char *paths[MAX_PATHS];
    size_t count;
};

static void read_file_ahead(fs_prefetch *p, const char *path) {
    struct stat st;
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
        for (off_t at = 0; at < st.st_size && !atomic_load(&p->stop); at += PIECE)
            if (fs_memory_available() < SPARE || readahead(fd, at, PIECE) != 0) break;
    close(fd);
}

static void *run(void *user) {
    fs_prefetch *p = user;
    for (size_t i = 0; i < p->count && !atomic_load(&p->stop); i++) {
        if (!fs_path_is_dir(p->paths[i])) {
            read_file_ahead(p, p->paths[i]);
            continue;
        }
        DIR *d = opendir(p->paths[i]);
        for (struct dirent *e; d && !atomic_load(&p->stop) && (e = readdir(d));) {
            char *path = fs_path_join(p->paths[i], e->d_name);
            if (path && !fs_path_is_dir(path)) read_file_ahead(p, path);
            free(path);
        }
        if (d) closedir(d);
    }
    return NULL;
}

/* Files of a stage: the language model, and what goes with it. */
static int64_t stage_bytes(const fs_layout *l, int stage) {
    const char *const paths[] = {stage == 1 ? l->dte_fdm : l->mflm, l->vision, l->clip, stage == 1 ? l->dtg : l->sam};
    int64_t bytes = 0;
    for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++) bytes += fs_path_bytes(paths[i]);
    return bytes;
}

static void add(fs_prefetch *p, const char *path) {
    char *copy = path && p->count < MAX_PATHS ? fs_strdup(path) : NULL;
    if (copy) p->paths[p->count++] = copy;
}

fs_prefetch *fs_prefetch_start(const fs_layout *l, int stage) {
    fs_prefetch *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    /* what the stage itself wants first comes first */
    if (stage == 1) add(p, l->dtg);
    add(p, l->vision);
    add(p, l->clip);
    add(p, stage == 1 ? l->dte_fdm : l->mflm);
    if (stage == 2) add(p, l->sam);
    /* weights that are packed take their memory a second time until the file's pages are taken away */
    if (stage == 1 && l->mflm && fs_memory_available() > 2 * stage_bytes(l, 1) + stage_bytes(l, 2) + SPARE) {
        add(p, l->mflm);
        add(p, l->sam);
    }
    if (pthread_create(&p->thread, NULL, run, p) == 0) return p;
    for (size_t i = 0; i < p->count; i++) free(p->paths[i]);
    free(p);
    return NULL;
}

void fs_prefetch_stop(fs_prefetch *p) {
    if (!p) return;
    atomic_store(&p->stop, true);
    pthread_join(p->thread, NULL);
    for (size_t i = 0; i < p->count; i++) free(p->paths[i]);
    free(p);
}

void fs_warn_unlockable(const fs_layout *l, int stage, const fs_callbacks *cb) {
    const int64_t need = stage_bytes(l, stage);
    struct rlimit limit = {0};
    if (need <= 0) return;
    /* address space without memory behind it, to ask whether so much may be locked */
    void *room = mmap(NULL, (size_t)need, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (room == MAP_FAILED) return;
    const bool may = fs_lock_pages(room, (size_t)need);
    munmap(room, (size_t)need);
    if (may) return;
    getrlimit(RLIMIT_MEMLOCK, &limit);
    fs_log(cb, FS_LOG_WARNING, "stage %d's weights (%.1f GB) cannot all be locked in memory: this process may lock %.3f GB; raise the limit (ulimit -l unlimited); going on without", stage,
           (double)need / 1e9, limit.rlim_cur == RLIM_INFINITY ? (double)fs_memory_available() / 1e9 : (double)limit.rlim_cur / 1e9);
}
