/* From a pickled state_dict and resolved storages to the archive's tensors; shared by both PyTorch containers. Private to src/format. */
#ifndef FS_TORCH_TENSORS_H
#define FS_TORCH_TENSORS_H

#include "format/archive_build.h"
#include "format/unpickle.h"

typedef struct fs_torch_storage { const uint8_t *data; size_t bytes; } fs_torch_storage;

/* Finds the bytes of a storage, aligned for its elements. Fails with a line that names what is missing. `name` is the tensor's. */
typedef fs_status fs_torch_resolve(void *user, const fs_pickle_storage *s, const char *name, fs_torch_storage *out, fs_error *err);

/* The dictionary of tensors within `root`: root itself, or what it holds as "state_dict", "model", ... NULL if there is none. */
const fs_pickle_value *fs_torch_state_dict(const fs_pickle_value *root);

/* Adds every tensor of the dictionary; other entries are passed over. */
fs_status fs_torch_add_tensors(fs_archive *a, const char *file, const fs_pickle_value *dict, fs_torch_resolve *resolve, void *user, fs_error *err);

/* Bytes of a storage of `s`; false on overflow. */
bool fs_torch_storage_bytes(const fs_pickle_storage *s, size_t *out);

#endif
