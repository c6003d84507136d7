/* Reading files ahead in the background, and what of them fits into memory. Private to this room. */
#ifndef FS_PREFETCH_H
#define FS_PREFETCH_H

#include "pipeline/pipeline.h"

typedef struct fs_prefetch fs_prefetch;
/* Has the system read the stage's files, and behind them the other stage's, as far as memory is free for them. Never an error: NULL if it
 * cannot be done, and then everything is read when it is wanted. */
fs_prefetch *fs_prefetch_start(const fs_layout *l, int stage);
void fs_prefetch_stop(fs_prefetch *p); /* waits for the thread; takes NULL */

/* May this process lock the weights of the stage in memory? If not, one line says so through the log. */
void fs_warn_unlockable(const fs_layout *l, int stage, const fs_callbacks *cb);

#endif
