/* Tasks that threads share: each takes those of its own part first, one behind the other, and then helps with the others' parts. Neighbouring tasks so
 * meet in one core's caches, and from one product to the next the same thread gets the same rows or columns, which matters where cores do not share
 * their last cache; and a thread that the system disturbs still leaves its work to others. Which thread does what must not matter for results. */
#ifndef FS_SHARE_H
#define FS_SHARE_H

#include <stdatomic.h>
#include <stdint.h>

enum { FS_SHARE_PARTS = 32 };
typedef struct fs_share_part { _Alignas(64) _Atomic int64_t next; int64_t end; } fs_share_part; /* a cache line of its own */
typedef struct fs_shares { int parts; fs_share_part part[FS_SHARE_PARTS]; } fs_shares;

/* Before the threads start. Part i of n holds tasks [tasks * i / n, tasks * (i + 1) / n). */
static inline void fs_shares_begin(fs_shares *s, int64_t tasks, int threads) {
    s->parts = threads < FS_SHARE_PARTS ? threads : FS_SHARE_PARTS;
    for (int i = 0; i < s->parts; i++) {
        atomic_init(&s->part[i].next, tasks * i / s->parts);
        s->part[i].end = tasks * (i + 1) / s->parts;
    }
}

/* A task for this thread, -1 if none is left. *helped: 0 at its first call. */
static inline int64_t fs_shares_next(fs_shares *s, int thread, int *helped) {
    for (; *helped < s->parts; ++*helped) {
        fs_share_part *p = &s->part[(thread + *helped) % s->parts];
        const int64_t task = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
        if (task < p->end) return task;
    }
    return -1;
}

#endif
