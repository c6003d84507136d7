/* A source of tensors that hands out packed forms: see fs_packed_source in packed.h. A matrix is handed out as a tensor of its packed type
 * without data; the operator that first meets it packs it, by all threads, and gives the file's pages back. */
#include <omp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tensor/block.h"
#include "tensor/packed.h"

typedef struct entry { /* what becomes of a matrix of the inner source */
    fs_lazy lazy;      /* first, so that it is the entry */
    fs_tensor tensor;  /* what is handed out */
    const fs_tensor *inner;
    fs_packed *packed;
    fs_packed_source *source;
    struct entry *next;
} entry;

enum { BUCKETS = 1024 }; /* a 22B model has about 1500 tensors */

struct fs_packed_source {
    fs_tensor_source tensors;
    const fs_tensor_source *inner;
    bool mapped, widen, lock;
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

static void lock(fs_packed_source *s, const void *data, size_t bytes) {
    if (s->lock && !fs_lock_pages(data, bytes)) s->counts.unlocked += bytes;
}

/* The same matrix as Q8_0, in memory of its own; data NULL if there is no memory or its numbers do not fit (then it is used as it is). */
static fs_tensor widened(const fs_tensor *t, int threads) {
    fs_tensor out = *t;
    const int64_t row = t->shape[1];
    size_t from, to;
    int bad = 0;
    out.dtype = FS_DTYPE_Q8_0;
    out.data = NULL;
    if (!fs_dtype_row_bytes(t->dtype, row, &from) || !fs_dtype_row_bytes(out.dtype, row, &to)) return out;
    uint8_t *data = fs_alloc((size_t)t->shape[0], to);
    float *values = fs_alloc((size_t)row * (size_t)threads, sizeof *values);
    if (data && values) {
#pragma omp parallel for schedule(static) num_threads(threads) reduction(+ : bad)
        for (int64_t i = 0; i < t->shape[0]; i++) {
            float *x = values + omp_get_thread_num() * row;
            bad += !fs_row_to_f32(t->dtype, (const uint8_t *)t->data + (size_t)i * from, row, x) ||
                   !fs_row_from_f32(out.dtype, x, row, data + (size_t)i * to);
        }
        out.data = bad ? NULL : data;
    }
    if (!out.data) free(data);
    free(values);
    return out;
}

static void prepare(fs_lazy *self) {
    entry *e = (entry *)self;
    fs_packed_source *s = e->source;
    fs_dtype unused;
    if (fs_packed_type(e->inner->dtype, &unused)) {
        (void)fs_pack_weight(e->inner, s->threads, &e->packed, NULL);
    } else {
        fs_tensor wide = widened(e->inner, s->threads);
        if (wide.data) (void)fs_pack_weight(&wide, s->threads, &e->packed, NULL);
        free(wide.data);
    }
    e->tensor = e->packed ? e->packed->tensor : *e->inner; /* either way there is nothing left to prepare */
    if (!e->packed) {
        s->counts.failed++;
        return;
    }
    s->counts.packed++;
    s->counts.bytes += e->packed->bytes;
    if (s->mapped) give_back(e->inner);
    lock(s, e->packed->tensor.data, e->packed->bytes);
}

static const fs_tensor *find(void *user, const char *name) {
    fs_packed_source *s = user;
    fs_dtype packed = FS_DTYPE_Q8_0X16;
    size_t bytes = 0;
    const fs_tensor *t = s->inner->find(s->inner->user, name);
    if (!t) return NULL;
    if (t->ndim != 2 || !fs_dtype_is_block(t->dtype) || (!fs_packed_type(t->dtype, &packed) && !s->widen)) {
        if (s->lock && fs_dtype_bytes(t->dtype, t->ndim, t->shape, &bytes)) lock(s, t->data, bytes);
        return t;
    }
    entry **head = &s->buckets[bucket_of(t)];
    for (const entry *e = *head; e; e = e->next)
        if (e->inner == t) return &e->tensor;
    entry *e = fs_alloc_zero(1, sizeof *e);
    if (!e) return t;
    *e = (entry){.lazy = {prepare}, .tensor = *t, .inner = t, .source = s, .next = *head};
    e->tensor.dtype = packed;
    e->tensor.data = NULL;
    e->tensor.lazy = &e->lazy;
    *head = e;
    return &e->tensor;
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
            if (s->lock && e->packed) munlock(e->packed->tensor.data, e->packed->bytes);
            fs_packed_free(e->packed);
            free(e);
        }
    free(s);
}

const fs_tensor_source *fs_packed_source_tensors(fs_packed_source *s) { return &s->tensors; }
void fs_packed_source_widen(fs_packed_source *s) { s->widen = true; }
void fs_packed_source_lock(fs_packed_source *s) { s->lock = true; }
fs_packed_counts fs_packed_source_counts(const fs_packed_source *s) { return s->counts; }
