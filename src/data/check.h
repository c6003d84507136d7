/* dataset check: what its files share. check.c reads every file, check_findings.c judges, check_report.c writes it down. */
#ifndef FS_DATA_CHECK_H
#define FS_DATA_CHECK_H

#include "data/fingerprint.h"
#include "data/mask.h"
#include "data/tree.h"

typedef enum check_role { CHECK_UNKNOWN = 0, CHECK_TRAIN = 1, CHECK_TEST = 2 } check_role;
const char *check_role_name(check_role r); /* "", "train", "test" */

typedef enum check_kind {
    /* errors: training or an evaluation would go wrong */
    CHECK_IMAGE_ALONE,
    CHECK_MASK_ALONE,
    CHECK_AMBIGUOUS,
    CHECK_IMAGE_UNREADABLE,
    CHECK_MASK_UNREADABLE,
    CHECK_TEXTS_BROKEN,
    CHECK_SIZES,
    CHECK_EMPTY_MASK,
    CHECK_LABELS,
    CHECK_LEAK,
    /* warnings */
    CHECK_LEAK_NEAR,
    CHECK_INVERTED,
    CHECK_VALUES,
    CHECK_COLOURED,
    CHECK_DUPLICATE_FILE,
    CHECK_DUPLICATE_PIXELS,
    CHECK_NEAR,
    CHECK_TEXT_MISSING,
    CHECK_TEXT_ALONE,
    CHECK_TEXT_TWICE,
    CHECK_TEXT_VERDICT,
    CHECK_DOMAIN,
    CHECK_KINDS,
    CHECK_FIRST_WARNING = CHECK_LEAK_NEAR
} check_kind;
const char *check_kind_name(check_kind k);    /* "image-without-mask", ... */
const char *check_kind_heading(check_kind k); /* for people: "pictures without a mask", ... */

typedef struct check_finding {
    check_kind kind;
    size_t set; /* of `tree`; n_sets = of none */
    char *path, *message;
} check_finding;

typedef struct check_file {
    const char *path;
    const fs_data_record *record; /* NULL: without a partner */
    size_t set;
    bool mask, second; /* second: of the tree in options.against */
    check_role role;
    fs_status status;
    char *error;
    int64_t width, height;
    fs_fingerprint print;  /* pictures */
    fs_mask_values values; /* masks */
    bool coloured;
} check_file;

typedef struct check_state {
    const fs_dataset_check_options *opt;
    const char *dir;
    fs_dataset tree, against;
    check_role *roles; /* [tree.n_sets] */
    check_file *files; /* pictures and masks of a record beside each other */
    size_t n_files;
    check_finding *findings;
    size_t n_findings, findings_room;
    bool failed; /* out of memory while findings were added */
} check_state;

int check_threads(const check_state *s);
/* Takes over `message`. */
void check_add(check_state *s, check_kind kind, size_t set, const char *path, char *message);
fs_status check_judge(check_state *s, fs_error *err);
size_t check_errors(const check_state *s);
char *check_json(const check_state *s); /* malloc'ed; NULL when out of memory */
char *check_text(const check_state *s);

#endif
