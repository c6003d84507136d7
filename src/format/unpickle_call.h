/* What the pickle machine may "call", and the calls. Private to src/format/unpickle*.c. */
#ifndef FS_UNPICKLE_CALL_H
#define FS_UNPICKLE_CALL_H

#include "format/unpickle.h"

/* Memory and error context of one reading. err is never NULL. */
typedef struct fs_pickle_context {
    const char *what;
    fs_arena *arena;
    fs_error *err;
    fs_pickle_value *pool; /* unused nodes */
    size_t pool_left, made;
    const fs_pickle_storage *storages; /* see fs_pickle */
    size_t storage_count;
} fs_pickle_context;

/* NULL (with the error set) when out of memory or past the limit. */
fs_pickle_value *fs_pickle_new(fs_pickle_context *c, fs_pickle_kind kind);
fs_status fs_pickle_append(fs_pickle_context *c, fs_pickle_value *list, fs_pickle_value *item);

/* Looks a global name up in the list of what is allowed; refuses it by name otherwise. */
fs_status fs_pickle_global(fs_pickle_context *c, const char *module, size_t module_length, const char *name, size_t name_length,
                           fs_pickle_value **out);
/* callable(*args) for the few callables there are. */
fs_status fs_pickle_call(fs_pickle_context *c, const fs_pickle_value *callable, fs_pickle_value *args, fs_pickle_value **out);
/* A persistent id: ("storage", class, key, location, count[, view]). */
fs_status fs_pickle_persistent(fs_pickle_context *c, const fs_pickle_value *id, fs_pickle_value **out);

#endif
