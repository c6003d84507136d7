/* The ground floor: errors, checked arithmetic, memory arena, strings, files, logging, random numbers, hashing, threads.
 * Knows nothing of tensors or models. Every other room may include this. */
#ifndef FS_BASE_H
#define FS_BASE_H

#include <stdarg.h>
#include <stdio.h>

#include "fakeshield.h"

/* ---- errors ------------------------------------------------------------------------------------------------------- */

/* Fills *err (if not NULL) with one line and returns `status`, so that callers write `return fs_fail(err, FS_E_IO, "...")`.
 * Control characters that untrusted names may carry are written as '?'; long lines are cut with "...". */
fs_status fs_fail(fs_error *err, fs_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));
fs_status fs_vfail(fs_error *err, fs_status status, const char *format, va_list args) __attribute__((format(printf, 3, 0)));
/* Puts "context: " in front of the message already in *err; returns err->status. For callers that know the file or tensor. */
fs_status fs_error_prefix(fs_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- checked arithmetic: false when the result does not fit ------------------------------------------------------- */

static inline bool fs_mul_size(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool fs_add_size(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool fs_mul_i64(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }

static inline int64_t fs_min_i64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t fs_max_i64(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- memory ------------------------------------------------------------------------------------------------------- */

/* malloc of count*size bytes, 64-byte aligned, checked; NULL on overflow or exhaustion (never for 0 bytes). Free with free(). */
void *fs_alloc(size_t count, size_t size) __attribute__((malloc));
void *fs_alloc_zero(size_t count, size_t size) __attribute__((malloc));
/* Megabytes that come and go, straight from the system, so that no holes of theirs stay in the heap; fewer are taken from there. Freed with the
 * same number of bytes. */
void *fs_pages_alloc(size_t bytes);
void fs_pages_free(void *p, size_t bytes);
char *fs_strdup(const char *s);   /* NULL for NULL */
char *fs_format(const char *format, ...) __attribute__((format(printf, 1, 2))); /* malloc'ed; NULL when out of memory */
char *fs_path_join(const char *dir, const char *name); /* malloc'ed "dir/name"; an absolute `name` is returned as it is */
const char *fs_path_base(const char *path);            /* points into path, behind the last '/' */

/* A region that grows by blocks and is emptied in one step: operators take their results from it, and a step ends by releasing
 * to a mark taken at its start. Not for sharing between threads. */
typedef struct fs_arena fs_arena;
typedef struct fs_arena_mark { void *block; size_t used; } fs_arena_mark;
fs_arena *fs_arena_create(size_t block_bytes); /* 0 = a default of 16 MiB; NULL when out of memory */
void fs_arena_free(fs_arena *a);
void *fs_arena_alloc(fs_arena *a, size_t bytes); /* 64-byte aligned, uninitialised; NULL when out of memory */
fs_arena_mark fs_arena_get_mark(const fs_arena *a);
void fs_arena_release(fs_arena *a, fs_arena_mark mark); /* blocks are kept for reuse */
size_t fs_arena_peak(const fs_arena *a); /* most bytes ever in use */

/* ---- growing strings ---------------------------------------------------------------------------------------------- */

typedef struct fs_buffer { char *data; size_t size, capacity; bool failed; } fs_buffer; /* zero-initialise; data is NUL-terminated */
void fs_buffer_add(fs_buffer *b, const void *bytes, size_t n);
void fs_buffer_puts(fs_buffer *b, const char *s);
void fs_buffer_printf(fs_buffer *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void fs_buffer_free(fs_buffer *b);

/* ---- files -------------------------------------------------------------------------------------------------------- */

/* A whole file, mapped read-only. data is NULL for an empty file. */
typedef struct fs_mapping { const uint8_t *data; size_t size; } fs_mapping;
fs_status fs_map_file(const char *path, fs_mapping *out, fs_error *err);
void fs_unmap(fs_mapping *m);
bool fs_path_exists(const char *path);
bool fs_path_is_dir(const char *path);
int64_t fs_path_bytes(const char *path); /* size of a file, or of all files in a folder (not below); 0 if there is none */
/* A whole file read into memory (malloc'ed, with a NUL behind it), at most max_bytes. */
fs_status fs_read_file(const char *path, size_t max_bytes, uint8_t **data, size_t *size, fs_error *err);
/* Writes to a temporary file beside the target, fsyncs, renames: the target is either whole or untouched. */
fs_status fs_write_file(const char *path, const void *data, size_t size, fs_error *err);
fs_status fs_make_dirs(const char *path, fs_error *err);
/* The same for what is written piece by piece: open, put, commit; drop ends one that was not committed (a zeroed or committed one too). */
typedef struct fs_output { char *path, *temp; int fd; bool open; size_t size; } fs_output; /* size: bytes so far */
fs_status fs_output_open(const char *path, fs_output *out, fs_error *err);
fs_status fs_output_put(fs_output *o, const void *data, size_t size, fs_error *err);
fs_status fs_output_commit(fs_output *o, fs_error *err);
void fs_output_drop(fs_output *o);
/* Does the disk of this folder (which may be still to be made) have room? */
fs_status fs_check_room(const char *dir, size_t bytes, fs_error *err);
/* A folder that is written as a whole: its files are made in `temp` beside it, which takes its place in one step. A folder that is there already is
 * replaced if it holds nothing but files whose names match one of `ours` (shell patterns, NULL-terminated, to live as long), or is empty; else
 * begin fails. What a killed run has left in `temp` is taken away by the next. */
typedef struct fs_folder { char *path, *temp; const char *const *ours; } fs_folder;
fs_status fs_folder_begin(const char *path, const char *const *ours, fs_folder *out, fs_error *err);
fs_status fs_folder_commit(fs_folder *f, fs_error *err);
void fs_folder_drop(fs_folder *f); /* likewise */

/* Bytes of memory that can be taken now without swapping, a container's limit heeded; -1 if the system does not say. */
int64_t fs_memory_available(void);
/* Keeps pages in memory once they have been read or written; false where the system does not allow it (RLIMIT_MEMLOCK). */
bool fs_lock_pages(const void *data, size_t size);

/* ---- log, progress, cancel: through the caller's callbacks -------------------------------------------------------- */

void fs_log(const fs_callbacks *cb, fs_log_level level, const char *format, ...) __attribute__((format(printf, 3, 4)));
static inline void fs_progress(const fs_callbacks *cb, const char *step, int64_t done, int64_t total) {
    if (cb && cb->progress) cb->progress(cb->user_data, step, done, total);
}
static inline bool fs_cancelled(const fs_callbacks *cb) { return cb && cb->cancel && cb->cancel(cb->user_data); }
double fs_now(void); /* seconds on a clock that only goes forward */

/* ---- random numbers: xoshiro256** seeded by splitmix64; the sequence is pinned for good -------------------------- */

typedef struct fs_rng { uint64_t s[4]; } fs_rng;
fs_rng fs_rng_seed(uint64_t seed);
uint64_t fs_rng_next(fs_rng *r);
double fs_rng_uniform(fs_rng *r); /* in [0,1), 53 bits */

/* Philox4x32-10 (Salmon et al. 2011): four random numbers as a function of a counter and a key, with no state. For what must come out the same
 * whenever, in whatever order and by however many threads it is computed. */
void fs_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* ---- SHA-256 (FIPS 180-4), for provenance in reports and for what a bundle's tensors must be ---------------------------- */

void fs_sha256_hex(const void *data, size_t size, char out[65]);
/* The same piece by piece: begin, add as often as there are bytes, end. */
typedef struct fs_sha256 {
    uint32_t h[8];
    uint64_t size;
    uint8_t tail[64];
    void (*blocks)(uint32_t h[8], const uint8_t *p, size_t count); /* chosen at the beginning for this processor */
} fs_sha256;
void fs_sha256_begin(fs_sha256 *s);
void fs_sha256_begin_plain(fs_sha256 *s); /* without the processor's own instructions: the reference */
void fs_sha256_add(fs_sha256 *s, const void *data, size_t size);
void fs_sha256_end(const fs_sha256 *s, char out[65]); /* lower-case hex; more may be added afterwards */

/* ---- half-precision conversions (round to nearest even), bit-exact with IEEE 754 / PyTorch ------------------------- */

float fs_f16_to_f32(uint16_t h);
uint16_t fs_f32_to_f16(float f);
static inline float fs_bf16_to_f32(uint16_t h) {
    union { uint32_t u; float f; } v = {(uint32_t)h << 16};
    return v.f;
}
uint16_t fs_f32_to_bf16(float f);

#endif
