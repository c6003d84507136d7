/* A source of tensors that packs what it hands out: see fs_packed_source in packed.h. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tensor/packed.h"

typedef struct entry { /* what became of a tensor of the inner source */
    const fs_tensor *inner;
    fs_packed *packed; /* NULL: passed on */
    struct entry *next;
} entry;

enum { BUCKETS = 1024 }; /* a 22B model has about 1500 tensors */

struct fs_packed_source {
    fs_tensor_source tensors;
    const fs_tensor_source *inner;
    bool mapped;
    int threads;
    fs_packed_counts counts;
    entry *buckets[BUCKETS];
};

static size_t bucket_of(const fs_tensor *t) { return (size_t)((uintptr_t)t / sizeof *t % BUCKETS); }

/* The pages that lie wholly in the tensor's bytes are not wanted again soon. */
static void give_back(const fs_tensor *w) {
    size_t bytes;
    const long page = sysconf(_SC_PAGESIZE);
    if (page <= 0 || !fs_dtype_bytes(w->dtype, w->ndim, w->shape, &bytes)) return;
    const uintptr_t mask = (uintptr_t)page - 1, from = ((uintptr_t)w->data + mask) & ~mask, to = ((uintptr_t)w->data + bytes) & ~mask;
    if (to > from) madvise((void *)from, to - from, MADV_DONTNEED); /* advice; refusing it is no error */
}

static const fs_tensor *find(void *user, const char *name) {
    fs_packed_source *s = user;
    fs_dtype packed;
    const fs_tensor *t = s->inner->find(s->inner->user, name);
    if (!t || t->ndim != 2 || !fs_packed_type(t->dtype, &packed)) return t;
    entry **head = &s->buckets[bucket_of(t)];
    for (const entry *e = *head; e; e = e->next)
        if (e->inner == t) return e->packed ? &e->packed->tensor : t;
    entry *e = fs_alloc_zero(1, sizeof *e);
    if (!e) return t;
    e->inner = t;
    if (fs_pack_weight(t, s->threads, &e->packed, NULL)) {
        s->counts.failed++;
    } else {
        s->counts.packed++;
        s->counts.bytes += e->packed->bytes;
        if (s->mapped) give_back(t);
    }
    e->next = *head;
    *head = e;
    return e->packed ? &e->packed->tensor : t;
}

static const char *origin(void *user, const char *name) {
    const fs_packed_source *s = user;
    return s->inner->origin(s->inner->user, name);
}

fs_status fs_packed_source_create(const fs_tensor_source *inner, bool mapped, int threads, fs_packed_source **out, fs_error *err) {
    fs_packed_source *s = *out = fs_alloc_zero(1, sizeof *s);
    if (!s) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for the list of packed weights");
    s->inner = inner;
    s->mapped = mapped;
    s->threads = threads > 0 ? threads : 1;
    s->tensors = (fs_tensor_source){.user = s, .find = find, .origin = origin};
    return FS_OK;
}

void fs_packed_source_free(fs_packed_source *s) {
    if (!s) return;
    for (int i = 0; i < BUCKETS; i++)
        for (entry *e = s->buckets[i], *next; e; e = next) {
            next = e->next;
            fs_packed_free(e->packed);
            free(e);
        }
    free(s);
}

const fs_tensor_source *fs_packed_source_tensors(fs_packed_source *s) { return &s->tensors; }
fs_packed_counts fs_packed_source_counts(const fs_packed_source *s) { return s->counts; }
