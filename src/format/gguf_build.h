/* What the GGUF reader, its getters and the writer share. Private to src/format/gguf*.c and archive.c. */
#ifndef FS_GGUF_BUILD_H
#define FS_GGUF_BUILD_H

#include "format/archive_build.h"
#include "format/gguf.h"

#define FS_GGUF_HEADER_SUM "fakeshield.header_sha256"
#define FS_GGUF_TENSOR_SUMS "fakeshield.tensor_sha256"

enum { FS_GGUF_ALIGNMENT = 32, FS_GGUF_SUM_SIZE = 64 };

typedef struct fs_gguf_entry { fs_gguf_field field; const uint8_t *value; size_t size; } fs_gguf_entry; /* value: of arrays, the elements */
typedef struct fs_gguf_tensor { const char *name; const uint8_t *data; size_t bytes; } fs_gguf_tensor;

struct fs_gguf {
    const char *file;         /* the archive's */
    int version;
    uint64_t alignment;
    fs_gguf_entry *fields;    /* in file order */
    size_t count;
    fs_strmap keys;           /* key -> index in fields */
    fs_gguf_tensor *tensors;  /* in file order */
    size_t tensor_count;
    size_t data_start;
};

bool fs_gguf_sniff(const uint8_t *data, size_t size);
fs_status fs_gguf_add(fs_archive *a, const char *file, const uint8_t *data, size_t size, fs_error *err);
void fs_gguf_free(fs_gguf *g);

/* Bytes of a scalar; 0 for strings, arrays and unknown types. */
size_t fs_gguf_scalar_size(fs_gguf_type t);
/* ggml's number of an element type, -1 if it has none; and back: false and ggml's name (or NULL) for a type that is not read here. */
int fs_gguf_type_of_dtype(fs_dtype t);
bool fs_gguf_dtype_of_type(uint32_t type, fs_dtype *out, const char **name);

#endif
