/* Aligned allocation, strings, the arena that operators take their results from, and growing buffers. */
#include "base/base.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ALIGNMENT = 64, HUGE_PAGE = 2 << 20, HUGE_FROM = 2 * HUGE_PAGE };

static bool round_up(size_t n, size_t *out) {
    if (!fs_add_size(n, ALIGNMENT - 1, &n)) return false;
    *out = n & ~(size_t)(ALIGNMENT - 1);
    return true;
}

void *fs_alloc(size_t count, size_t size) {
    size_t bytes;
    if (!fs_mul_size(count, size, &bytes) || !round_up(bytes ? bytes : 1, &bytes) || bytes > PTRDIFF_MAX) return NULL;
    if (bytes < HUGE_FROM) return aligned_alloc(ALIGNMENT, bytes);
    /* Whole huge pages: a network's activations in 4 KiB pages cost a fault for each and misses of the page tables later. */
    void *p = NULL;
    if (posix_memalign(&p, HUGE_PAGE, bytes) != 0) return NULL; /* aligned_alloc would want whole pages */
    madvise(p, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE); /* advice; refusing it is no error */
    return p;
}

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define FS_CHECKED_HEAP 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(FS_CHECKED_HEAP)
void *fs_pages_alloc(size_t bytes) { return fs_alloc(bytes, 1); } /* where a sanitizer sees it */
void fs_pages_free(void *p, size_t bytes) {
    (void)bytes;
    free(p);
}
#else
/* In pages as large as any system has them. */
static bool whole_pages(size_t bytes, size_t *out) {
    const size_t page = 65536;
    if (!fs_add_size(bytes, page - 1, out)) return false;
    *out = *out / page * page;
    return true;
}

void *fs_pages_alloc(size_t bytes) {
    size_t all, used;
    if (bytes < HUGE_FROM) return fs_alloc(bytes, 1);
    if (!whole_pages(bytes, &used) || !fs_add_size(used, HUGE_PAGE, &all) || all > PTRDIFF_MAX) return NULL;
    char *p = mmap(NULL, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return NULL;
    const size_t before = (HUGE_PAGE - (uintptr_t)p % HUGE_PAGE) % HUGE_PAGE;
    if (before) munmap(p, before);
    if (all - before > used) munmap(p + before + used, all - before - used);
    madvise(p + before, used / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return p + before;
}

void fs_pages_free(void *p, size_t bytes) {
    if (bytes < HUGE_FROM || !p) free(p);
    else if (whole_pages(bytes, &bytes)) munmap(p, bytes);
}
#endif

void *fs_alloc_zero(size_t count, size_t size) {
    void *p = fs_alloc(count, size);
    if (p) memset(p, 0, count * size);
    return p;
}

char *fs_strdup(const char *s) {
    if (!s) return NULL;
    size_t n = strlen(s) + 1;
    char *copy = malloc(n);
    if (copy) memcpy(copy, s, n);
    return copy;
}

void fs_string_free(char *s) { free(s); }

char *fs_format(const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *out = NULL;
    int n = vasprintf(&out, format, args);
    va_end(args);
    return n < 0 ? NULL : out;
}

char *fs_path_join(const char *dir, const char *name) {
    if (name[0] == '/' || dir[0] == '\0') return fs_strdup(name);
    size_t n = strlen(dir);
    return fs_format("%s%s%s", dir, dir[n - 1] == '/' ? "" : "/", name);
}

const char *fs_path_base(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- arena: a list of blocks; the current one is filled from the front ---- */

struct block {
    struct block *prev, *next;
    size_t size, used; /* of the bytes behind the header */
    size_t before;     /* bytes in use in all earlier blocks when this one became current */
};
enum { HEADER = 64 };
_Static_assert(sizeof(struct block) <= HEADER, "block header");

struct fs_arena {
    struct block *first, *current;
    size_t block_bytes, peak;
};

static void block_free(struct block *b) { fs_pages_free(b, b->size + HEADER); }

fs_arena *fs_arena_create(size_t block_bytes) {
    fs_arena *a = calloc(1, sizeof *a);
    if (a) a->block_bytes = block_bytes ? block_bytes : (size_t)16 << 20;
    return a;
}

void fs_arena_free(fs_arena *a) {
    if (!a) return;
    for (struct block *b = a->first, *next; b; b = next) {
        next = b->next;
        block_free(b);
    }
    free(a);
}

static struct block *block_create(size_t size) {
    size_t bytes;
    if (!fs_add_size(size, HEADER, &bytes)) return NULL;
    struct block *b = fs_pages_alloc(bytes);
    if (b) *b = (struct block){.size = size};
    return b;
}

/* Makes `b` current, emptied. */
static void enter(fs_arena *a, struct block *b) {
    b->used = 0;
    b->before = a->current ? a->current->before + a->current->used : 0;
    a->current = b;
}

static void unlink_block(fs_arena *a, struct block *b) {
    if (b->prev) b->prev->next = b->next; else a->first = b->next;
    if (b->next) b->next->prev = b->prev;
}

static void link_after(fs_arena *a, struct block *b, struct block *prev) {
    b->prev = prev;
    b->next = prev ? prev->next : a->first;
    if (b->next) b->next->prev = b;
    if (prev) prev->next = b; else a->first = b;
}

/* The kept block behind the current one that fits best. If none does, kept blocks, all of them too small, are given back until they hold no
 * more than what is wanted: so steps that repeat (the layers of a network) find their blocks again instead of having the system clear pages
 * for each, and memory follows the largest step. */
static struct block *take_kept(fs_arena *a, size_t bytes) {
    struct block *best = NULL, *from = a->current ? a->current->next : a->first;
    size_t kept = 0;
    for (struct block *b = from; b; b = b->next) {
        kept += b->size;
        if (b->size >= bytes && (!best || b->size < best->size)) best = b;
    }
    if (best) {
        unlink_block(a, best);
        return best;
    }
    for (struct block *b = from, *next; b && kept > bytes; b = next) {
        next = b->next;
        kept -= b->size;
        unlink_block(a, b);
        block_free(b);
    }
    return NULL;
}

void *fs_arena_alloc(fs_arena *a, size_t bytes) {
    if (!round_up(bytes ? bytes : 1, &bytes)) return NULL;
    struct block *b = a->current;
    if (!b || b->size - b->used < bytes) {
        struct block *next = take_kept(a, bytes);
        if (!next) next = block_create(bytes > a->block_bytes ? bytes : a->block_bytes);
        if (!next) return NULL;
        link_after(a, next, b);
        enter(a, next);
        b = next;
    }
    void *p = (char *)b + HEADER + b->used;
    b->used += bytes;
    size_t in_use = b->before + b->used;
    if (in_use > a->peak) a->peak = in_use;
    return p;
}

fs_arena_mark fs_arena_get_mark(const fs_arena *a) {
    return (fs_arena_mark){a->current, a->current ? a->current->used : 0};
}

void fs_arena_release(fs_arena *a, fs_arena_mark mark) {
    a->current = mark.block;
    if (a->current) a->current->used = mark.used;
}

size_t fs_arena_peak(const fs_arena *a) { return a->peak; }

/* ---- buffers ---- */

static bool reserve(fs_buffer *b, size_t extra) {
    size_t need;
    if (b->failed || !fs_add_size(b->size, extra, &need) || !fs_add_size(need, 1, &need)) return b->failed = true, false;
    if (need <= b->capacity) return true;
    size_t room = b->capacity ? b->capacity : 256;
    while (room < need) room = room > SIZE_MAX / 2 ? need : 2 * room;
    char *data = realloc(b->data, room);
    if (!data) return b->failed = true, false;
    b->data = data;
    b->capacity = room;
    return true;
}

void fs_buffer_add(fs_buffer *b, const void *bytes, size_t n) {
    if (!reserve(b, n)) return;
    if (n) memcpy(b->data + b->size, bytes, n);
    b->size += n;
    b->data[b->size] = '\0';
}

void fs_buffer_puts(fs_buffer *b, const char *s) { fs_buffer_add(b, s, strlen(s)); }

void fs_buffer_printf(fs_buffer *b, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    if (n < 0) {
        b->failed = true;
    } else if (reserve(b, (size_t)n)) {
        vsnprintf(b->data + b->size, (size_t)n + 1, format, again);
        b->size += (size_t)n;
    }
    va_end(again);
    va_end(args);
}

void fs_buffer_free(fs_buffer *b) {
    free(b->data);
    *b = (fs_buffer){0};
}
