/* Tensors, the execution context, and where a model's weights come from.
 *
 * A tensor is a small descriptor over row-major, contiguous bytes; it owns nothing. Results of operators live in the context's
 * arena until it is released; weights live in the mapped checkpoint. Activations are always stored as F32; a context whose
 * precision is BF16 or F16 rounds every operator's result to that type (round to nearest even), which reproduces what a network
 * in that type computes while the storage stays F32. Weights keep the type of the file. */
#ifndef FS_TENSOR_H
#define FS_TENSOR_H

#include "base/base.h"

typedef enum fs_dtype {
    FS_DTYPE_F32 = 0, FS_DTYPE_F16, FS_DTYPE_BF16, FS_DTYPE_F64, FS_DTYPE_I64, FS_DTYPE_I32, FS_DTYPE_I16, FS_DTYPE_I8,
    FS_DTYPE_U8, FS_DTYPE_BOOL,
    /* Block types of quantized weights, with ggml's bit layout: see tensor/block.h. A row is a whole number of blocks. */
    FS_DTYPE_Q8_0, FS_DTYPE_Q4_0, FS_DTYPE_Q4_K, FS_DTYPE_Q6_K, FS_DTYPE_Q4_1, FS_DTYPE_Q5_0, FS_DTYPE_Q5_1, FS_DTYPE_Q5_K,
    /* The same put into the kernels' order, 16 rows interleaved, in memory only: see tensor/packed.h. A single row has no bytes of its own. */
    FS_DTYPE_Q8_0X16, FS_DTYPE_Q4_0X16, FS_DTYPE_Q4_KX16
} fs_dtype;
const char *fs_dtype_name(fs_dtype t); /* "F32", "BF16", ... as safetensors writes them; "Q8_0", ... as ggml does */
bool fs_dtype_from_name(const char *name, fs_dtype *out); /* plain types only: what safetensors may hold */
size_t fs_dtype_size(fs_dtype t); /* bytes of one element; 0 for block types, whose elements have no bytes of their own */
int64_t fs_dtype_block(fs_dtype t); /* elements in a block: 1 for plain types, 32 or 256 for block types, 0 for an unknown value */
/* Bytes of a row of n elements; false if n is negative, no whole number of blocks, or too large. */
bool fs_dtype_row_bytes(fs_dtype t, int64_t n, size_t *bytes);
/* Bytes of a tensor; false if the shape is impossible (fs_shape_count) or its rows are no whole number of blocks. */
bool fs_dtype_bytes(fs_dtype t, int ndim, const int64_t *shape, size_t *bytes);

enum { FS_MAX_DIMS = 6 };

typedef struct fs_tensor {
    fs_dtype dtype;
    int ndim;                   /* 0 = scalar */
    int64_t shape[FS_MAX_DIMS]; /* outermost first; unused entries are 1 */
    void *data;                 /* aligned for its dtype; const in spirit for weights */
    const char *name;           /* of a weight, for error lines; else NULL */
    struct fs_tape_node *node;  /* the tape's record of how it was made; NULL outside training */
    struct fs_lazy *lazy;       /* of a weight that is made ready at its first use (data is NULL until then); else NULL */
} fs_tensor;

/* Makes the weight it belongs to ready: fills the tensor's data and takes itself out of it. Operators call it before they look at a weight
 * (fs_op_ready), on the thread that runs them. Must not fail: what cannot be prepared is handed out as it is stored. */
typedef struct fs_lazy { void (*prepare)(struct fs_lazy *self); } fs_lazy;
static inline void fs_tensor_prepare(const fs_tensor *t) {
    if (t && t->lazy) t->lazy->prepare(t->lazy);
}

int64_t fs_tensor_count(const fs_tensor *t);                  /* elements */
static inline float *fs_f32(const fs_tensor *t) { return (float *)t->data; }
void fs_shape_text(const fs_tensor *t, char *out, size_t size); /* "[2,3,4]" */
bool fs_shape_count(int ndim, const int64_t *shape, int64_t *count); /* product, false if negative or too large */

typedef struct fs_tape fs_tape; /* the record for the backward pass; training builds on it */

/* What operators run in. Zero-initialise, then fs_exec_init. The first error stays in `error`; operators called after it do
 * nothing and return NULL, operators given a NULL input return NULL, so a forward pass checks once at its end. */
typedef struct fs_exec {
    fs_arena *arena;
    fs_dtype precision;   /* F32, BF16 or F16: what results are rounded to */
    int threads;          /* >= 1 */
    const fs_callbacks *callbacks;
    fs_tape *tape;        /* NULL = inference */
    const struct fs_backend *backend; /* the kernels; chosen by fs_exec_init */
    const struct fs_quant *quant;     /* those for packed weights that go with the table `quant_of` (op_quant.c) */
    const struct fs_backend *quant_of;
    struct fs_spare_grads *spare; /* memory of gradients that are done with, for the next ones (tape.c); NULL before the first */
    fs_error error;
} fs_exec;

/* threads 0 = one per available core. The arena is created here and freed by fs_exec_end. */
fs_status fs_exec_init(fs_exec *x, fs_dtype precision, int threads, const fs_callbacks *callbacks, fs_error *err);
void fs_exec_end(fs_exec *x);
/* FS_OK or the first error, copied to *err. Also FS_E_CANCELLED if the cancel callback says so. */
fs_status fs_exec_status(fs_exec *x, fs_error *err);
void fs_exec_fail(fs_exec *x, fs_status status, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* New uninitialised F32 tensor in the arena. NULL (and the context's error set) when out of memory. */
fs_tensor *fs_new(fs_exec *x, int ndim, const int64_t *shape);
#define fs_new_1d(x, a) fs_new((x), 1, (const int64_t[]){(a)})
#define fs_new_2d(x, a, b) fs_new((x), 2, (const int64_t[]){(a), (b)})
#define fs_new_3d(x, a, b, c) fs_new((x), 3, (const int64_t[]){(a), (b), (c)})
/* New descriptor over caller-owned data. */
fs_tensor *fs_wrap(fs_exec *x, fs_dtype dtype, int ndim, const int64_t *shape, void *data);

/* A scope keeps a long forward pass small: take the arena's mark, run a layer, and end the scope with the layer's result, which moves down
 * to the mark while everything else made since is given back. With a tape nothing is given back and the result is returned as it is. */
fs_tensor *fs_scope_end(fs_exec *x, fs_arena_mark mark, const fs_tensor *result);

/* ---- where weights come from -------------------------------------------------------------------------------------- */

/* Names -> tensors, whatever the files are. A model binds its weight table from one of these and knows no file format. */
typedef struct fs_tensor_source {
    void *user;
    /* The tensor of that name, or NULL. The result lives as long as the source and is marked as used. */
    const fs_tensor *(*find)(void *user, const char *name);
    /* File that holds (or should hold) `name`, for error lines. Never NULL. */
    const char *(*origin)(void *user, const char *name);
} fs_tensor_source;

/* A source looked at through a prefix: names are asked for as prefix + name. Two levels of NULL checks are not needed. */
typedef struct fs_binder {
    const fs_tensor_source *source;
    const char *prefix; /* "" for none */
    fs_error *err;
    fs_status status;   /* first failure; later calls do nothing */
} fs_binder;

/* Finds prefix+name(printf) and checks the shape: ndim entries, -1 = any. On a missing tensor, another shape or a dtype that is no
 * float, fails with "FILE: tensor NAME ...: expected ..., found ...". Returns NULL then. */
const fs_tensor *fs_bind(fs_binder *b, int ndim, const int64_t *shape, const char *name_format, ...)
    __attribute__((format(printf, 4, 5)));
#define fs_bind_1d(b, n, ...) fs_bind((b), 1, (const int64_t[]){(n)}, __VA_ARGS__)
#define fs_bind_2d(b, o, i, ...) fs_bind((b), 2, (const int64_t[]){(o), (i)}, __VA_ARGS__)
/* Like fs_bind, but NULL without an error when the tensor is absent. */
const fs_tensor *fs_bind_optional(fs_binder *b, int ndim, const int64_t *shape, const char *name_format, ...)
    __attribute__((format(printf, 4, 5)));
/* Is there such a tensor? Used to count layers. */
bool fs_binder_has(const fs_binder *b, const char *name_format, ...) __attribute__((format(printf, 2, 3)));

#endif
