/* Samples made ahead of the training step: threads take the next position of the order, decode and preprocess it into a ring of `ahead` places,
 * and the caller gets them in order. A thread makes nothing for a position that has no place in the ring, so memory is bounded. What the caller
 * gets depends on the order, the draw number and the files alone: not on how many threads there are or which is faster.
 *
 * With SKIP a record that cannot be loaded has its place taken by the next one of the order that can be, found by the same thread: batches keep
 * their size, processes stay in step, and a run that is resumed at a position sees what the first run saw there. */
#include "train/data.h"

#include <inttypes.h>
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TOLD_WARNING = 1, TOLD_BAD = 2 }; /* bits of fs_samples.told */

typedef struct place {
    bool ready;
    bool empty;        /* its record was left out */
    fs_sample sample;
    int64_t item;      /* index of the sample in the list */
    fs_status status;  /* of making it; if that failed, `error` says why */
    fs_error error;
    char *skipped;     /* why the record that belongs here was not used; NULL: it was */
} place;

struct fs_loader {
    fs_samples *samples;
    int64_t *order, n;
    int64_t position; /* samples handed out; the caller's thread writes it under the lock */
    int64_t taken;    /* positions given to threads */
    fs_loader_options opt;
    place *ring;
    pthread_t *threads;
    int started;
    bool failed;
    atomic_bool stop;
    pthread_mutex_t lock;
    pthread_cond_t room, ready; /* a place became empty; a sample became ready */
};

fs_loader_options fs_loader_options_defaults(void) {
    return (fs_loader_options){.workers = 4, .ahead = 16};
}

/* Fills in what order[position] means. No lock is held. */
static void make(fs_loader *l, int64_t position, place *p) {
    for (int64_t k = 0; k < l->n && !atomic_load(&l->stop); k++) {
        fs_error why = {0};
        p->item = l->order[(position + k) % l->n];
        p->status = l->samples->load(l->samples, p->item, l->opt.draw, &p->sample, &why);
        if (p->status == FS_OK) return;
        p->error = why;
        if (l->opt.bad == FS_BAD_FATAL || p->status == FS_E_NO_MEMORY || p->status == FS_E_CANCELLED) return;
        if (k == 0) /* the others tell at their own positions */
            p->skipped = fs_format("%s; %s", why.message, l->opt.leave_out ? "it is left out" : "the next record takes its place");
        if (l->opt.leave_out) {
            p->empty = true;
            p->status = FS_OK;
            return;
        }
    }
    p->status = atomic_load(&l->stop)
                    ? fs_fail(&p->error, FS_E_CANCELLED, "stopped")
                    : fs_fail(&p->error, FS_E_FAILED, "none of the %" PRId64 " records of this pass can be used; the warnings say why", l->n);
}

static void clear(place *p) {
    if (p->ready && p->status == FS_OK && !p->empty) fs_sample_free(&p->sample);
    free(p->skipped);
    *p = (place){0};
}

static void *work(void *user) {
    fs_loader *l = user;
    omp_set_num_threads(1); /* of this thread: its pictures are resized without a team of their own, beside the step's */
    pthread_mutex_lock(&l->lock);
    for (;;) {
        while (!atomic_load(&l->stop) && l->taken < l->n && l->taken >= l->position + l->opt.ahead) pthread_cond_wait(&l->room, &l->lock);
        if (atomic_load(&l->stop) || l->taken >= l->n) break;
        const int64_t position = l->taken++;
        place *p = &l->ring[position % l->opt.ahead]; /* empty, and nobody else's until it is ready */
        pthread_mutex_unlock(&l->lock);
        make(l, position, p);
        pthread_mutex_lock(&l->lock);
        p->ready = true;
        pthread_cond_signal(&l->ready);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

static fs_status start(fs_loader *l, fs_error *err) {
    pthread_condattr_t clock;
    bool have_lock = false, have_room = false, have_ready = false, have_clock = pthread_condattr_init(&clock) == 0;
    if (have_clock && pthread_condattr_setclock(&clock, CLOCK_MONOTONIC) == 0) {
        have_lock = pthread_mutex_init(&l->lock, NULL) == 0;
        have_room = pthread_cond_init(&l->room, &clock) == 0;
        have_ready = pthread_cond_init(&l->ready, &clock) == 0;
    }
    if (have_clock) pthread_condattr_destroy(&clock);
    if (!have_lock || !have_room || !have_ready) {
        if (have_lock) pthread_mutex_destroy(&l->lock);
        if (have_room) pthread_cond_destroy(&l->room);
        if (have_ready) pthread_cond_destroy(&l->ready);
        l->opt.workers = 0; /* nothing for close to take down */
        return fs_fail(err, FS_E_FAILED, "the threads that read training data cannot be set up");
    }
    for (; l->started < l->opt.workers; l->started++)
        if (pthread_create(&l->threads[l->started], NULL, work, l) != 0) break;
    if (l->started == 0) return fs_fail(err, FS_E_FAILED, "no thread to read training data can be started; is a limit on processes in force (ulimit -u)?");
    return FS_OK;
}

fs_status fs_loader_open(fs_samples *samples, const int64_t *order, int64_t n, const fs_loader_options *opt, fs_loader **out, fs_error *err) {
    *out = NULL;
    if (n < 0 || opt->workers < 0 || opt->workers > 1024 || opt->ahead < 1 || opt->first < 0 || opt->first > n)
        return fs_fail(err, FS_E_USAGE, "training data: an order of %" PRId64 " records from %" PRId64 " on with %d threads, %" PRId64 " ahead, is not possible", n,
                       opt->first, opt->workers, opt->ahead);
    for (int64_t i = 0; i < n; i++)
        if (order[i] < 0 || order[i] >= samples->count)
            return fs_fail(err, FS_E_INTERNAL, "the order names record %" PRId64 " of %" PRId64, order[i], samples->count);
    fs_loader *l = calloc(1, sizeof *l);
    if (!l) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    l->samples = samples;
    l->n = n;
    l->position = l->taken = opt->first;
    l->opt = *opt;
    l->opt.ahead = fs_max_i64(fs_min_i64(opt->ahead, n), 1);
    l->opt.workers = n ? (int)fs_min_i64(opt->workers, l->opt.ahead) : 0;
    atomic_init(&l->stop, false);
    const int workers = l->opt.workers;
    l->order = fs_alloc((size_t)n + 1, sizeof *order);
    l->ring = fs_alloc_zero((size_t)l->opt.ahead, sizeof *l->ring);
    if (!samples->told) samples->told = fs_alloc_zero((size_t)samples->count + 1, 1);
    l->threads = fs_alloc_zero((size_t)workers + 1, sizeof *l->threads);
    fs_status status = FS_OK;
    if (!l->order || !l->ring || !samples->told || !l->threads) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for an order of %" PRId64 " records", n);
        l->opt.workers = 0;
    } else {
        if (n) memcpy(l->order, order, (size_t)n * sizeof *order);
        if (workers) status = start(l, err);
    }
    if (status)
        fs_loader_close(l);
    else
        *out = l;
    return status;
}

/* Waits for the place to be ready, looking ten times a second whether to stop. The lock is held. False: stop. */
static bool wait_for(fs_loader *l, const place *p) {
    while (!p->ready) {
        struct timespec until;
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_nsec += 100000000;
        if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
        pthread_cond_timedwait(&l->ready, &l->lock, &until);
        if (p->ready) break;
        pthread_mutex_unlock(&l->lock);
        const bool cancelled = fs_cancelled(l->opt.callbacks);
        pthread_mutex_lock(&l->lock);
        if (cancelled) return false;
    }
    return true;
}

/* What was made for the next position, which is moved on. */
static fs_status take(fs_loader *l, place *got, fs_error *err) {
    place *p = &l->ring[l->position % l->opt.ahead];
    if (l->opt.workers == 0) {
        make(l, l->position++, p);
        *got = *p;
        *p = (place){0};
        return FS_OK;
    }
    pthread_mutex_lock(&l->lock);
    const bool ready = wait_for(l, p);
    if (ready) {
        *got = *p;
        *p = (place){0};
        l->position++;
        pthread_cond_signal(&l->room); /* one place is empty, which one thread can take */
    }
    pthread_mutex_unlock(&l->lock);
    return ready ? FS_OK : fs_fail(err, FS_E_CANCELLED, "stopped while reading training data");
}

static void tell_once(fs_loader *l, int64_t item, uint8_t what, const char *line) {
    if (!line || l->samples->told[item] & what) return;
    fs_log(l->opt.callbacks, FS_LOG_WARNING, "%s", line);
    l->samples->told[item] |= what;
    l->samples->skipped += what == TOLD_BAD;
}

fs_status fs_loader_next(fs_loader *l, fs_sample *out, bool *have, fs_error *err) {
    *out = (fs_sample){.domain = -1};
    *have = false;
    if (l->failed) return fs_fail(err, FS_E_USAGE, "training data: reading has failed before");
    while (l->position < l->n) {
        place got = {0};
        if (fs_cancelled(l->opt.callbacks)) return fs_fail(err, FS_E_CANCELLED, "stopped while reading training data");
        const int64_t belongs = l->order[l->position];
        const fs_status status = take(l, &got, err);
        if (status) return status;
        tell_once(l, belongs, TOLD_BAD, got.skipped);
        free(got.skipped);
        if (got.status) {
            l->failed = true;
            if (err) *err = got.error;
            return got.status;
        }
        if (got.empty) continue;
        tell_once(l, got.item, TOLD_WARNING, got.sample.warning);
        *out = got.sample;
        *have = true;
        return FS_OK;
    }
    return FS_OK;
}

int64_t fs_loader_position(const fs_loader *l) {
    return l->position;
}

void fs_loader_close(fs_loader *l) {
    if (!l) return;
    if (l->opt.workers) {
        pthread_mutex_lock(&l->lock);
        atomic_store(&l->stop, true);
        pthread_cond_broadcast(&l->room);
        pthread_mutex_unlock(&l->lock);
        for (int i = 0; i < l->started; i++) pthread_join(l->threads[i], NULL);
        pthread_cond_destroy(&l->room);
        pthread_cond_destroy(&l->ready);
        pthread_mutex_destroy(&l->lock);
    }
    for (int64_t i = 0; l->ring && i < l->opt.ahead; i++) clear(&l->ring[i]);
    free(l->order);
    free(l->ring);
    free(l->threads);
    free(l);
}
