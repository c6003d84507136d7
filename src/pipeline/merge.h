/* What a base tensor becomes when an adapter is multiplied into it. Private to this room. */
#ifndef FS_MERGE_H
#define FS_MERGE_H

#include "pipeline/adapter.h"

/* Does the adapter change the base's tensor of this name? */
bool fs_merge_changes(const fs_adapter *a, const char *name);
/* *data: the tensor's bytes with the adapter in it, in t's own type; malloc'ed. W + scale * (B A) with the product in f32 and the sum
 * rounded once, as peft 0.5 does it; a tensor that was trained itself takes the base's place, rounded to its type. */
fs_status fs_merge_tensor(const fs_adapter *a, const char *name, const fs_tensor *t, int threads, void **data, fs_error *err);

#endif
