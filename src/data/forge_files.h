/* Where forge's files lie, and what one record's own file says. forge_write.c makes records, forge_index.c puts them together. Private to
 * src/data.
 *
 *     OUT/forge.json                              settings and sources; a second run must agree with them
 *     OUT/records/train_000012.json               one record: everything about it. Written last, so what has one is finished
 *     OUT/photoshop/train/image|mask/NAME         tampered; lisa_train_output.json, lisa_train_gt.json beside them (val, test:
 * lisa_val_...) OUT/photoshop/train_authentic/image/NAME OUT/conversations_train.json                both classes, MMTD-Set's form
 *     OUT/manifest.jsonl, OUT/manifest.csv */
#ifndef FS_DATA_FORGE_FILES_H
#define FS_DATA_FORGE_FILES_H

#include <jansson.h>

#include "data/forge_private.h"

/* Which record is number n of `count`: splits follow each other. A split without photos has none. */
typedef struct fs_forge_counts {
    int64_t n[3];
} fs_forge_counts;
fs_forge_counts fs_forge_count(const fs_forger *f, int64_t count);

char *fs_forge_record_path(const char *out_dir, fs_forge_split split, uint64_t index); /* malloc'ed */
/* A record's file; NULL if it is not there, not whole, or not of this place, or its picture is not there. */
json_t *fs_forge_record_read(const char *out_dir, fs_forge_split split, uint64_t index);
/* "photoshop/train", "aigc/val_authentic" */
char *fs_forge_set_path(fs_domain domain, fs_forge_split split, bool tampered); /* malloc'ed */

/* Everything that is made from the finished records. */
fs_status fs_forge_index(const char *out_dir, const fs_forge_counts *counts, fs_error *err);
/* Settings of the folder against these: makes forge.json if the folder is new. FS_E_USAGE if they differ. */
fs_status fs_forge_settings(const fs_forger *f, const char *out_dir, fs_error *err);

#endif
