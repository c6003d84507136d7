/* The figures of the paper's tables, to stand beside a run's. Private to src/eval. */
#ifndef FS_EVAL_PUBLISHED_H
#define FS_EVAL_PUBLISHED_H

#include <stddef.h>

enum { FS_PAPER_SETS = 9 };
typedef enum fs_paper_table { FS_PAPER_DETECTION = 0, FS_PAPER_LOCALIZATION = 1, FS_PAPER_EXPLANATION = 2 } fs_paper_table;
const char *fs_paper_set_name(int set); /* "CASIA1+", "IMD2020", ... */
/* Which of them a set of this name is ("casia_v1", "DSO-1"), or -1. */
int fs_paper_set_of(const char *name);
/* Is the set a column of the table? */
int fs_paper_has(fs_paper_table table, int set);
/* Did the paper test forged pictures alone there (its F1 is 2 ACC / (1 + ACC))? */
int fs_paper_forged_only(int set);

typedef struct fs_paper_row {
    const char *method;
    double first[FS_PAPER_SETS], second[FS_PAPER_SETS]; /* ACC and F1, or IoU and F1, or CSS and nothing; negative: not given */
} fs_paper_row;
const fs_paper_row *fs_paper_rows(fs_paper_table table, size_t *n);
extern const char fs_paper_source[];

#endif
