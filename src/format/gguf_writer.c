/* Writing GGUF version 3 in one pass: the header is kept in memory with room for the checksums, written first as it is and once more, with
 * the checksums, at the end. Written beside the target under a lock, synced, then renamed: the target is whole or untouched, and what a
 * killed run left behind is taken over by the next one. Layout: see gguf.c; the bytes are those of the gguf Python package for the same
 * fields and tensors. */
#include "format/gguf_build.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { MAX_NAME = 63, MAX_DIMS = 4 };

typedef struct item { char *name; fs_dtype dtype; int ndim; int64_t shape[MAX_DIMS]; size_t bytes; } item;

struct fs_gguf_writer {
    char *path, *partial;
    fs_error first;       /* the first mistake in what was put; status FS_OK if none */
    fs_buffer fields;     /* as they will stand in the file */
    uint64_t field_count;
    fs_arena *arena;      /* keys and names */
    fs_strmap keys, names;
    item *items;
    size_t count, capacity, data_bytes;
    /* since begin */
    fs_buffer header;
    size_t sums_at;       /* of the first tensor's digits in header */
    int fd;               /* -1: not begun */
    size_t current, done; /* tensor being written, bytes of it so far */
    fs_sha256 sum;
};

static size_t padding(size_t n) { return (FS_GGUF_ALIGNMENT - n % FS_GGUF_ALIGNMENT) % FS_GGUF_ALIGNMENT; }

fs_status fs_gguf_writer_create(const char *path, fs_gguf_writer **out, fs_error *err) {
    *out = NULL;
    fs_gguf_writer *w = calloc(1, sizeof *w);
    if (w) {
        w->fd = -1;
        w->path = fs_strdup(path);
        w->partial = fs_format("%s.partial", path);
        w->arena = fs_arena_create((size_t)64 << 10);
    }
    if (!w || !w->path || !w->partial || !w->arena) {
        fs_gguf_writer_free(w);
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    }
    *out = w;
    return FS_OK;
}

void fs_gguf_writer_free(fs_gguf_writer *w) {
    if (!w) return;
    if (w->fd >= 0) {
        unlink(w->partial);
        close(w->fd);
    }
    fs_buffer_free(&w->fields);
    fs_buffer_free(&w->header);
    fs_strmap_free(&w->keys);
    fs_strmap_free(&w->names);
    fs_arena_free(w->arena);
    free(w->items);
    free(w->partial);
    free(w->path);
    free(w);
}

/* ---- putting ---- */

static void mistake(fs_gguf_writer *w, fs_status status, const char *kind, const char *name, const char *what) {
    if (w->first.status == FS_OK) fs_fail(&w->first, status, "%s: %s %.200s: %s", w->path, kind, name, what);
}

static void add_little(fs_buffer *b, uint64_t v, int n) {
    uint8_t bytes[8];
    for (int i = 0; i < n; i++) bytes[i] = (uint8_t)(v >> 8 * i);
    fs_buffer_add(b, bytes, (size_t)n);
}

static void add_text(fs_buffer *b, const char *s, size_t n) {
    add_little(b, n, 8);
    fs_buffer_add(b, s, n);
}

/* Takes down a name that may not come twice; the copy, or NULL after a mistake. */
static char *remember(fs_gguf_writer *w, fs_strmap *seen, const char *kind, const char *name) {
    const size_t n = strlen(name);
    bool added = false;
    char *copy = fs_arena_alloc(w->arena, n + 1);
    if (!copy || (memcpy(copy, name, n + 1), !fs_strmap_put(seen, copy, n, 0, &added))) {
        mistake(w, FS_E_NO_MEMORY, kind, name, "out of memory");
        return NULL;
    }
    if (!added) mistake(w, FS_E_USAGE, kind, name, "is put twice");
    return added ? copy : NULL;
}

static bool own_field(const char *key) {
    return strcmp(key, FS_GGUF_HEADER_SUM) == 0 || strcmp(key, FS_GGUF_TENSOR_SUMS) == 0 || strcmp(key, "general.alignment") == 0;
}

static bool begin_field(fs_gguf_writer *w, const char *key, fs_gguf_type type) {
    const size_t n = strlen(key);
    if (w->first.status != FS_OK || w->fd >= 0) return false;
    if (n == 0 || n > 65535 || !fs_is_utf8(key, n) || own_field(key)) {
        mistake(w, FS_E_USAGE, "metadata", key, "is no key, or one the writer keeps for itself");
        return false;
    }
    if (!remember(w, &w->keys, "metadata", key)) return false;
    add_text(&w->fields, key, n);
    add_little(&w->fields, type, 4);
    w->field_count++;
    return true;
}

void fs_gguf_put_u32(fs_gguf_writer *w, const char *key, uint32_t v) {
    if (begin_field(w, key, FS_GGUF_U32)) add_little(&w->fields, v, 4);
}

void fs_gguf_put_i32(fs_gguf_writer *w, const char *key, int32_t v) {
    if (begin_field(w, key, FS_GGUF_I32)) add_little(&w->fields, (uint32_t)v, 4);
}

void fs_gguf_put_u64(fs_gguf_writer *w, const char *key, uint64_t v) {
    if (begin_field(w, key, FS_GGUF_U64)) add_little(&w->fields, v, 8);
}

void fs_gguf_put_f32(fs_gguf_writer *w, const char *key, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    if (begin_field(w, key, FS_GGUF_F32)) add_little(&w->fields, bits, 4);
}

void fs_gguf_put_bool(fs_gguf_writer *w, const char *key, bool v) {
    if (begin_field(w, key, FS_GGUF_BOOL)) add_little(&w->fields, v, 1);
}

void fs_gguf_put_text(fs_gguf_writer *w, const char *key, const char *s) { fs_gguf_put_string(w, key, (fs_gguf_text){s, strlen(s)}); }

void fs_gguf_put_string(fs_gguf_writer *w, const char *key, fs_gguf_text s) {
    if (begin_field(w, key, FS_GGUF_STRING)) add_text(&w->fields, s.data, s.size);
}

void fs_gguf_put_array(fs_gguf_writer *w, const char *key, fs_gguf_type element, size_t count, const void *data) {
    const size_t each = fs_gguf_scalar_size(element);
    if (each == 0) mistake(w, FS_E_USAGE, "metadata", key, "its elements are no scalars");
    if (!begin_field(w, key, FS_GGUF_ARRAY)) return;
    add_little(&w->fields, element, 4);
    add_little(&w->fields, count, 8);
    for (size_t i = 0; i < count; i++) { /* by value, so that the machine's byte order does not matter */
        const uint8_t *p = (const uint8_t *)data + i * each;
        uint64_t v = 0;
        uint16_t v2;
        uint32_t v4;
        if (each == 1) v = *p;
        if (each == 2) memcpy(&v2, p, 2), v = v2;
        if (each == 4) memcpy(&v4, p, 4), v = v4;
        if (each == 8) memcpy(&v, p, 8);
        add_little(&w->fields, v, (int)each);
    }
}

void fs_gguf_put_strings(fs_gguf_writer *w, const char *key, size_t count, const fs_gguf_text *strings) {
    if (!begin_field(w, key, FS_GGUF_ARRAY)) return;
    add_little(&w->fields, FS_GGUF_STRING, 4);
    add_little(&w->fields, count, 8);
    for (size_t i = 0; i < count; i++) add_text(&w->fields, strings[i].data, strings[i].size);
}

bool fs_gguf_put_copy(fs_gguf_writer *w, const fs_gguf *from, size_t i) {
    const fs_gguf_entry *e = &from->fields[i];
    char *key = fs_arena_alloc(w->arena, e->field.key.size + 1);
    if (!key) {
        mistake(w, FS_E_NO_MEMORY, "metadata", "(copied)", "out of memory");
        return false;
    }
    memcpy(key, e->field.key.data, e->field.key.size);
    key[e->field.key.size] = '\0';
    if (own_field(key) || !begin_field(w, key, e->field.type)) return false;
    if (e->field.type == FS_GGUF_ARRAY) {
        add_little(&w->fields, e->field.element, 4);
        add_little(&w->fields, e->field.count, 8);
    }
    fs_buffer_add(&w->fields, e->value, e->size);
    return true;
}

void fs_gguf_put_tensor(fs_gguf_writer *w, const char *name, fs_dtype dtype, int ndim, const int64_t *shape) {
    const size_t n = strlen(name);
    size_t bytes = 0, total = 0;
    if (w->first.status != FS_OK || w->fd >= 0) return;
    if (n == 0 || n > MAX_NAME || !fs_is_utf8(name, n)) {
        mistake(w, FS_E_USAGE, "tensor", name, "expected a name of 1 to 63 bytes, which is what ggml's programs read");
        return;
    }
    if (ndim > MAX_DIMS || fs_gguf_type_of_dtype(dtype) < 0 || !fs_dtype_bytes(dtype, ndim, shape, &bytes) ||
        !fs_add_size(w->data_bytes, bytes, &total) || !fs_add_size(total, padding(bytes), &total)) {
        mistake(w, FS_E_USAGE, "tensor", name, "its type or shape cannot be written (at most 4 dimensions; rows are whole blocks)");
        return;
    }
    if (w->count == w->capacity) {
        const size_t capacity = w->capacity ? 2 * w->capacity : 256;
        item *items = realloc(w->items, capacity * sizeof *items);
        if (!items) {
            mistake(w, FS_E_NO_MEMORY, "tensor", name, "out of memory");
            return;
        }
        w->items = items;
        w->capacity = capacity;
    }
    char *copy = remember(w, &w->names, "tensor", name);
    if (!copy) return;
    item *t = &w->items[w->count++];
    *t = (item){.name = copy, .dtype = dtype, .ndim = ndim, .bytes = bytes};
    for (int d = 0; d < ndim; d++) t->shape[d] = shape[d];
    w->data_bytes = total;
}

/* ---- writing ---- */

static fs_status fail_write(const fs_gguf_writer *w, const char *doing, fs_error *err) {
    const int e = errno;
    return fs_fail(err, e == ENOENT || e == ENOTDIR ? FS_E_NOT_FOUND : FS_E_IO, "%s: cannot %s: %s%s", w->partial, doing, strerror(e),
                   e == ENOSPC || e == EDQUOT ? "; free some space and run again" : "");
}

static fs_status write_all(const fs_gguf_writer *w, const void *data, size_t size, fs_error *err) {
    for (size_t at = 0; at < size;) {
        const size_t some = size - at < ((size_t)1 << 30) ? size - at : (size_t)1 << 30;
        const ssize_t n = write(w->fd, (const char *)data + at, some);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_write(w, "write it", err);
        at += (size_t)n;
    }
    return FS_OK;
}

static fs_status write_padding(const fs_gguf_writer *w, size_t behind, fs_error *err) {
    static const uint8_t zeros[FS_GGUF_ALIGNMENT];
    return write_all(w, zeros, padding(behind), err);
}

static void build_header(fs_gguf_writer *w) {
    char zeros[FS_GGUF_SUM_SIZE];
    fs_buffer *b = &w->header;
    size_t offset = 0;
    memset(zeros, '0', sizeof zeros);
    fs_buffer_free(b);
    fs_buffer_puts(b, "GGUF");
    add_little(b, 3, 4);
    add_little(b, w->count, 8);
    add_little(b, w->field_count + 2, 8);
    add_text(b, FS_GGUF_HEADER_SUM, strlen(FS_GGUF_HEADER_SUM));
    add_little(b, FS_GGUF_STRING, 4);
    add_text(b, zeros, sizeof zeros);
    if (w->fields.failed) b->failed = true;
    if (w->fields.size) fs_buffer_add(b, w->fields.data, w->fields.size);
    add_text(b, FS_GGUF_TENSOR_SUMS, strlen(FS_GGUF_TENSOR_SUMS));
    add_little(b, FS_GGUF_ARRAY, 4);
    add_little(b, FS_GGUF_STRING, 4);
    add_little(b, w->count, 8);
    w->sums_at = b->size + 8;
    for (size_t i = 0; i < w->count; i++) add_text(b, zeros, sizeof zeros);
    for (size_t i = 0; i < w->count; i++) {
        const item *t = &w->items[i];
        add_text(b, t->name, strlen(t->name));
        add_little(b, (uint64_t)t->ndim, 4);
        for (int d = t->ndim - 1; d >= 0; d--) add_little(b, (uint64_t)t->shape[d], 8);
        add_little(b, (uint64_t)fs_gguf_type_of_dtype(t->dtype), 4);
        add_little(b, offset, 8);
        offset += t->bytes + padding(t->bytes);
    }
    for (size_t n = padding(b->size); n > 0; n--) add_little(b, 0, 1);
}

size_t fs_gguf_writer_size(const fs_gguf_writer *w) {
    size_t head = 4 + 4 + 8 + 8 + (8 + strlen(FS_GGUF_HEADER_SUM) + 4 + 8 + FS_GGUF_SUM_SIZE) + w->fields.size + (8 + strlen(FS_GGUF_TENSOR_SUMS) + 4 + 4 + 8);
    for (size_t i = 0; i < w->count; i++) head += 8 + FS_GGUF_SUM_SIZE + 8 + strlen(w->items[i].name) + 4 + 8 * (size_t)w->items[i].ndim + 4 + 8;
    return head + padding(head) + w->data_bytes;
}

static size_t header_sum_at(void) { return 4 + 4 + 8 + 8 + 8 + strlen(FS_GGUF_HEADER_SUM) + 4 + 8; }

/* `head`: the header of a file at PATH, of the size ours will have. The same but for checksums? */
static bool same_header(const fs_gguf_writer *w, const uint8_t *head) {
    size_t at = 0, hole = header_sum_at();
    for (size_t i = 0; i <= w->count; i++) {
        if (memcmp(head + at, w->header.data + at, hole - at) != 0) return false;
        at = hole + FS_GGUF_SUM_SIZE;
        hole = i < w->count ? w->sums_at + i * (8 + FS_GGUF_SUM_SIZE) : w->header.size;
    }
    return memcmp(head + at, w->header.data + at, w->header.size - at) == 0;
}

fs_status fs_gguf_writer_finished(fs_gguf_writer *w, const fs_callbacks *cb, bool *out, fs_error *err) {
    fs_archive *a = NULL;
    fs_error why = {0};
    *out = false;
    if (w->first.status != FS_OK || w->fd >= 0 || !fs_path_exists(w->path)) return FS_OK;
    build_header(w);
    if (w->header.failed) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its header", w->path);
    if (fs_archive_open(w->path, &a, &why)) return FS_OK; /* whatever it is, it is no finished file */
    const fs_gguf *g = fs_archive_gguf(a);
    fs_status status = FS_OK;
    if (g && a->map_count == 1 && g->data_start == w->header.size && a->maps[0].size == fs_gguf_writer_size(w) && same_header(w, a->maps[0].data)) {
        status = fs_gguf_verify(g, cb, &why);
        *out = status == FS_OK;
        status = status == FS_E_CANCELLED ? fs_fail(err, status, "%s", why.message) : FS_OK;
    }
    fs_archive_free(a);
    return status;
}

/* Opens PATH.partial and makes it ours. */
static fs_status open_partial(fs_gguf_writer *w, fs_error *err) {
    struct stat mine, there;
    w->fd = open(w->partial, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (w->fd < 0) return fail_write(w, "write it", err);
    /* between open and lock another run may have finished and renamed the file: then it is no longer the one at this path */
    const bool locked = flock(w->fd, LOCK_EX | LOCK_NB) == 0;
    if (locked && fstat(w->fd, &mine) == 0 && stat(w->partial, &there) == 0 && mine.st_ino == there.st_ino && mine.st_dev == there.st_dev) {
        return ftruncate(w->fd, 0) == 0 ? FS_OK : fail_write(w, "empty it", err);
    }
    const bool busy = !locked && errno != EWOULDBLOCK ? false : true;
    fs_status status = busy ? fs_fail(err, FS_E_IO, "%s: another run is writing it; wait for that run or give another name", w->partial)
                            : fail_write(w, "lock it", err);
    close(w->fd);
    w->fd = -1;
    return status;
}

static fs_status check_room(const fs_gguf_writer *w, fs_error *err) {
    struct statvfs v;
    size_t room;
    const size_t need = fs_gguf_writer_size(w);
    if (fstatvfs(w->fd, &v) != 0 || !fs_mul_size((size_t)v.f_bavail, (size_t)v.f_frsize, &room) || room >= need) return FS_OK;
    return fs_fail(err, FS_E_IO, "%s: expected %.1f MB of free disk space, found %.1f MB; free some or name another disk", w->path, (double)need / 1e6,
                   (double)room / 1e6);
}

/* Finishes every tensor whose bytes are all there (several at once if they are empty). */
static fs_status close_tensors(fs_gguf_writer *w, fs_error *err) {
    while (w->current < w->count && w->done == w->items[w->current].bytes) {
        char hex[65];
        fs_status status = write_padding(w, w->done, err);
        if (status) return status;
        fs_sha256_end(&w->sum, hex);
        memcpy(w->header.data + w->sums_at + w->current * (8 + FS_GGUF_SUM_SIZE), hex, FS_GGUF_SUM_SIZE);
        fs_sha256_begin(&w->sum);
        w->current++;
        w->done = 0;
    }
    return FS_OK;
}

fs_status fs_gguf_writer_begin(fs_gguf_writer *w, fs_error *err) {
    if (w->first.status != FS_OK) return fs_fail(err, w->first.status, "%s", w->first.message);
    if (w->fd >= 0) return fs_fail(err, FS_E_INTERNAL, "%s: writing was begun twice", w->path);
    if (fs_path_is_dir(w->path)) return fs_fail(err, FS_E_USAGE, "%s: is a directory; name a file to write", w->path);
    if (w->data_bytes > PTRDIFF_MAX / 2) return fs_fail(err, FS_E_LIMIT, "%s: its tensors are too large for one file", w->path);
    build_header(w);
    if (w->header.failed) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its header", w->path);
    fs_status status = open_partial(w, err);
    if (status) return status;
    fs_sha256_begin(&w->sum);
    w->current = w->done = 0;
    status = check_room(w, err);
    if (!status) status = write_all(w, w->header.data, w->header.size, err);
    if (!status) status = close_tensors(w, err);
    if (!status) return FS_OK;
    unlink(w->partial);
    close(w->fd);
    w->fd = -1;
    return status;
}

fs_status fs_gguf_writer_add(fs_gguf_writer *w, const void *data, size_t size, fs_error *err) {
    const uint8_t *p = data;
    if (w->fd < 0) return fs_fail(err, FS_E_INTERNAL, "%s: data was given before writing was begun", w->path);
    while (size > 0) {
        if (w->current == w->count) return fs_fail(err, FS_E_INTERNAL, "%s: %zu bytes more were given than its tensors have", w->path, size);
        const size_t left = w->items[w->current].bytes - w->done, some = size < left ? size : left;
        fs_sha256_add(&w->sum, p, some);
        fs_status status = write_all(w, p, some, err);
        w->done += some;
        p += some;
        size -= some;
        if (!status) status = close_tensors(w, err);
        if (status) return status;
    }
    return FS_OK;
}

fs_status fs_gguf_writer_finish(fs_gguf_writer *w, fs_error *err) {
    char hex[65];
    if (w->fd < 0) return fs_fail(err, FS_E_INTERNAL, "%s: was never begun", w->path);
    if (w->current < w->count)
        return fs_fail(err, FS_E_INTERNAL, "%s: tensor %s: expected %zu bytes, found %zu", w->path, w->items[w->current].name, w->items[w->current].bytes, w->done);
    fs_sha256_hex(w->header.data, w->header.size, hex); /* its own digits still are '0' */
    memcpy(w->header.data + header_sum_at(), hex, FS_GGUF_SUM_SIZE);
    if (lseek(w->fd, 0, SEEK_SET) != 0) return fail_write(w, "write its checksums", err);
    fs_status status = write_all(w, w->header.data, w->header.size, err);
    if (status) return status;
    if (fsync(w->fd) != 0 && errno != EINVAL) return fail_write(w, "write it", err);
    if (rename(w->partial, w->path) != 0) return fail_write(w, "rename it", err);
    const int closed = close(w->fd);
    w->fd = -1;
    return closed == 0 ? FS_OK : fail_write(w, "close it", err);
}
