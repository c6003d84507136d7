/* A pickle machine that builds data and runs nothing. Private to src/format.
 *
 * It knows the opcodes that torch.save writes and a fixed list of callables, each of which is only a way to say "a tensor of this
 * storage, shape and strides" or "an ordered dictionary". Any other opcode or callable ends the reading with an error that names it. */
#ifndef FS_UNPICKLE_H
#define FS_UNPICKLE_H

#include "tensor/tensor.h"

typedef enum fs_pickle_kind {
    FS_PICKLE_NONE = 0, FS_PICKLE_BOOL, FS_PICKLE_INT, FS_PICKLE_BIG, FS_PICKLE_FLOAT, FS_PICKLE_STRING, FS_PICKLE_BYTES, FS_PICKLE_TUPLE,
    FS_PICKLE_LIST, FS_PICKLE_DICT, FS_PICKLE_CALLABLE, FS_PICKLE_STORAGE, FS_PICKLE_TENSOR
} fs_pickle_kind;

/* Where a tensor's bytes are: a key that the container resolves. A view starts `view_offset` elements into the storage. */
typedef struct fs_pickle_storage {
    const struct fs_pickle_storage *next; /* the storage that the pickle named before this one */
    const char *key;
    size_t key_length;
    bool untyped;         /* count is in bytes, dtype is U8 */
    fs_dtype dtype;
    int64_t count;        /* elements of the whole storage */
    int64_t view_offset, view_count; /* = 0, count when it is no view */
} fs_pickle_storage;

typedef struct fs_pickle_tensor {
    const fs_pickle_storage *storage;
    fs_dtype dtype;
    int64_t offset;       /* in elements of dtype, from the view's start */
    int ndim;
    int64_t shape[FS_MAX_DIMS], stride[FS_MAX_DIMS];
} fs_pickle_tensor;

/* A node of the tree. Lists may contain themselves: do not walk without a limit. */
typedef struct fs_pickle_value fs_pickle_value;
struct fs_pickle_value {
    fs_pickle_kind kind;
    union {
        int64_t integer;                                     /* BOOL, INT */
        double real;                                         /* FLOAT */
        struct { const char *data; size_t size; } text;      /* STRING (UTF-8), BYTES, BIG (little-endian two's complement) */
        struct { fs_pickle_value **items; size_t count, capacity; } list; /* TUPLE, LIST; DICT: key, value, key, value, ... */
        const struct fs_pickle_callable *callable;
        const fs_pickle_storage *storage;
        const fs_pickle_tensor *tensor;
    } as;
};

/* Reads one pickle from the front of the bytes. `what` names it in error lines ("model.bin: data.pkl"). Values lie in `arena` and point
 * into the bytes. */
typedef struct fs_pickle {
    const fs_pickle_value *value;
    const fs_pickle_storage *storages; /* every mention of a storage, last first; the same key may come often */
    size_t storage_count;
    size_t used; /* length of the pickle */
} fs_pickle;
fs_status fs_unpickle(const char *what, const uint8_t *data, size_t size, fs_arena *arena, fs_pickle *out, fs_error *err);

bool fs_pickle_text_is(const fs_pickle_value *v, const char *text);
/* The value of a string key, or NULL. The last one if there are several, as in Python. */
const fs_pickle_value *fs_pickle_dict_get(const fs_pickle_value *dict, const char *key);

#endif
