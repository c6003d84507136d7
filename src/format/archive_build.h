/* How the readers fill an archive. Private to src/format.
 *
 * One archive is begun, every file of it adds its tensors, and finish sorts them and makes them findable. On an error the archive
 * is freed by whoever began it. `file` is the name shown in error lines. */
#ifndef FS_ARCHIVE_BUILD_H
#define FS_ARCHIVE_BUILD_H

#include "format/archive.h"
#include "format/strmap.h"

typedef struct fs_archive_item { fs_tensor tensor; const char *file; bool used; } fs_archive_item;

struct fs_archive {
    char *path;
    const char *kind;       /* of the first file; NULL before */
    fs_arena *arena;        /* names */
    fs_archive_item *items; /* in order of adding until finish, then sorted by name */
    size_t count, capacity;
    fs_strmap names;        /* name -> index in items */
    fs_mapping *maps;
    size_t map_count;
    void **owned;           /* copies of strided or misaligned tensors */
    size_t owned_count;
    size_t bytes;           /* of all tensors */
    size_t source_bytes;    /* of all files, to bound what may be copied */
    size_t copied_bytes;
    struct fs_gguf *gguf;   /* metadata of a GGUF file; NULL for other kinds */
};

fs_status fs_archive_begin(const char *path, fs_archive **out, fs_error *err);
fs_status fs_archive_finish(fs_archive *a, fs_error *err);

/* Maps the file, tells its kind by its first bytes and adds its tensors. *file is the archive's copy of the name. */
fs_status fs_archive_add_file(fs_archive *a, const char *path, const char **file, fs_error *err);

/* The readers: bytes -> tensors. The bytes must outlive the archive. */
fs_status fs_safetensors_add(fs_archive *a, const char *file, const uint8_t *data, size_t size, fs_error *err);
fs_status fs_torch_zip_add(fs_archive *a, const char *file, const uint8_t *data, size_t size, fs_error *err);
fs_status fs_torch_legacy_add(fs_archive *a, const char *file, const uint8_t *data, size_t size, fs_error *err);
bool fs_torch_legacy_sniff(const uint8_t *data, size_t size);
/* Reads "{"metadata": ..., "weight_map": {name: file}}" and adds every shard it names. */
fs_status fs_index_add(fs_archive *a, const char *path, fs_error *err);

/* A tensor over `data`, which must be aligned for its dtype. The name is copied. Refuses a second tensor of the same name. */
fs_status fs_archive_put(fs_archive *a, const char *file, const char *name, size_t name_length, fs_dtype dtype, int ndim,
                         const int64_t *shape, const void *data, fs_error *err);
/* Memory that lives as long as the archive. Bounded by a multiple of the files' size, so that a small file cannot ask for much. */
fs_status fs_archive_own(fs_archive *a, const char *file, size_t bytes, void **out, fs_error *err);
/* `data` itself if it is aligned for elements of `element` bytes, else an aligned copy. */
fs_status fs_archive_align(fs_archive *a, const char *file, const uint8_t *data, size_t bytes, size_t element, const void **out, fs_error *err);
/* The archive's own copy of a string. NULL when out of memory. */
const char *fs_archive_string(fs_archive *a, const char *s, size_t length);
bool fs_is_utf8(const char *s, size_t length); /* well-formed and without NUL */

#endif
