/* Weight files as users download them: bytes <-> named tensors. An archive is one file (safetensors, PyTorch zip or legacy pickle, GGUF) or
 * several behind an index JSON. Tensors point into the mapped files; nothing is copied unless a tensor is strided or misaligned. */
#ifndef FS_ARCHIVE_H
#define FS_ARCHIVE_H

#include "tensor/tensor.h"

typedef struct fs_archive fs_archive;

/* path: a weight file of any supported kind (told by its bytes, not its name), an index JSON, or a directory that holds
 * model.safetensors[.index.json] or pytorch_model.bin[.index.json] (looked for in that order). Every shard named by an index must be
 * there and hold what the index says. *out is the caller's. */
fs_status fs_archive_open(const char *path, fs_archive **out, fs_error *err);
void fs_archive_free(fs_archive *a);

size_t fs_archive_count(const fs_archive *a);
typedef struct fs_archive_entry { const fs_tensor *tensor; const char *name; const char *file; bool used; } fs_archive_entry;
fs_archive_entry fs_archive_get(const fs_archive *a, size_t i); /* sorted by name */
const fs_tensor *fs_archive_find(fs_archive *a, const char *name); /* marks it used */
const char *fs_archive_path(const fs_archive *a);   /* as given to open */
const char *fs_archive_kind(const fs_archive *a);   /* "safetensors", "pytorch-zip", "pytorch-legacy", "gguf" */
size_t fs_archive_bytes(const fs_archive *a);       /* of all tensors */

/* The tensor's pages of its mapped file are not wanted any more; reading it again brings them back. Nothing happens to copies in memory. */
void fs_archive_release(const fs_archive *a, const fs_tensor *t);

/* The pages of its mapped files stay in memory once read, where the system allows it. */
void fs_archive_lock(const fs_archive *a);

/* The archive as a source for models; `a` must outlive it. A "module." prefix and a {"state_dict": ...} wrapping are seen through. */
fs_tensor_source fs_archive_source(fs_archive *a);

/* Looks in several archives in order (e.g. MFLM, then sam_vit_h). `list` must outlive the source. Each entry has a rewrite: names that
 * start with `from` are asked for with `to` in its place ("" = as they are); an archive whose `from` does not match is passed over. */
typedef struct fs_archive_layer { fs_archive *archive; const char *from, *to; } fs_archive_layer;
typedef struct fs_archive_stack { const fs_archive_layer *layers; size_t count; } fs_archive_stack;
fs_tensor_source fs_archive_stack_source(fs_archive_stack *s);

/* Single files, from memory, for tests and fuzzing. `name` is used in error lines. The bytes must outlive the archive. */
fs_status fs_safetensors_read(const char *name, const uint8_t *data, size_t size, fs_archive **out, fs_error *err);
fs_status fs_torch_read(const char *name, const uint8_t *data, size_t size, fs_archive **out, fs_error *err); /* zip or legacy */

/* Writes tensors as one safetensors file (atomically). Used by tests and, later, adapters and conversion. */
fs_status fs_safetensors_write(const char *path, const fs_tensor *const *tensors, const char *const *names, size_t n,
                               const char *metadata_json, fs_error *err);
/* The same when not all of them are in memory at a time: the tensors' data are not looked at, but asked for one by one, in the file's order. *data is
 * to stay until the next call. */
typedef fs_status (*fs_tensor_bytes_fn)(void *user, size_t index, const void **data, fs_error *err);
fs_status fs_safetensors_write_from(const char *path, const fs_tensor *const *tensors, const char *const *names, size_t n, const char *metadata_json,
                                    fs_tensor_bytes_fn bytes, void *user, fs_error *err);
/* Writes them as torch.save writes a dict of tensors (a zip of storages and a pickle, torch_write.c): F32, F16 and BF16. bytes NULL: the tensors' data. */
fs_status fs_torch_write(const char *path, const fs_tensor *const *tensors, const char *const *names, size_t n, fs_tensor_bytes_fn bytes, void *user,
                         fs_error *err);

#endif
