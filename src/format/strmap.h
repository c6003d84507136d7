/* A small hash table from byte strings to indices. The keys are the caller's and must outlive the table. */
#ifndef FS_STRMAP_H
#define FS_STRMAP_H

#include "base/base.h"

typedef struct fs_strmap_slot { const char *key; size_t length, value; } fs_strmap_slot;
typedef struct fs_strmap { fs_strmap_slot *slots; size_t capacity, count; } fs_strmap; /* zero-initialise */

/* The value of `key`: an older one if it is there already (*added = false), else a new one set to `value`. NULL when out of memory. */
size_t *fs_strmap_put(fs_strmap *m, const char *key, size_t length, size_t value, bool *added);
/* The value of `key`, or NULL. */
const size_t *fs_strmap_get(const fs_strmap *m, const char *key, size_t length);
void fs_strmap_free(fs_strmap *m); /* empties it; it may be used again */

#endif
