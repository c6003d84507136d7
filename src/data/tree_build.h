/* Building a fs_dataset: what tree.c, texts.c and conversations.c share. */
#ifndef FS_DATA_TREE_BUILD_H
#define FS_DATA_TREE_BUILD_H

#include "data/tree.h"

enum { FS_DATA_MAX_RECORDS = 50000000 };
#define FS_DATA_MAX_JSON ((size_t)1 << 30) /* MMTD-Set's file is about 100 MB */

/* Each takes over the strings in what is added, also when it fails. */
fs_status fs_dataset_add_record(fs_dataset *d, fs_data_record r, fs_error *err);
fs_status fs_dataset_add_set(fs_dataset *d, fs_data_set s, fs_error *err);
fs_status fs_dataset_add_problem(fs_dataset *d, fs_data_problem_kind kind, const char *path, char *message, fs_error *err);
void fs_data_record_clear(fs_data_record *r);
/* The first problem since `from` that is an error, as one; FS_OK if there is none. */
fs_status fs_dataset_first_error(const fs_dataset *d, size_t from, fs_error *err);

#endif
