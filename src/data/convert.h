/* dataset convert: what its files share. convert_forms.c says what a file of a set is by its name, convert_nist.c reads NIST16's lists,
 * convert.c pairs, reads and writes, convert_report.c tells. */
#ifndef FS_DATA_CONVERT_H
#define FS_DATA_CONVERT_H

#include "data/tree.h"

/* Which pixels of a mask are tampered. */
typedef enum convert_rule {
    CONVERT_WHITE, /* grey above 127 */
    CONVERT_BLACK, /* grey up to 127 */
    CONVERT_GREEN, /* the green channel above 120, as Columbia marks the region from the second camera */
    CONVERT_ANY    /* grey above 10: Korus marks side effects of the edit in grey */
} convert_rule;

typedef enum convert_kind { CONVERT_UNKNOWN = 0, CONVERT_SKIP, CONVERT_TAMPERED, CONVERT_AUTHENTIC, CONVERT_MASK } convert_kind;

typedef enum convert_trouble {
    /* left out */
    CONVERT_NO_MASK = 0,
    CONVERT_NO_PICTURE,
    CONVERT_TWICE,
    CONVERT_NO_ROLE,
    CONVERT_UNREADABLE,
    CONVERT_SIZE,
    CONVERT_EMPTY,
    /* only told */
    CONVERT_BY_NUMBER,
    CONVERT_RESIZED,
    CONVERT_INVERTED,
    CONVERT_TROUBLES
} convert_trouble;

typedef struct convert_file {
    char *path, *rel; /* as found; below the source folder */
    const char *name; /* last part of rel */
    bool picture;     /* by its name */
    convert_kind kind;
    char *key;   /* tampered pictures and masks: equal for those that belong together */
    int version; /* CASIA: 1 or 2, 0 = not told by the name */
} convert_file;

typedef struct convert_item {         /* one picture of the result */
    const convert_file *image, *mask; /* mask NULL: authentic */
    int version;
    char *name;       /* base name in the result */
    fs_status status; /* after reading: FS_OK, or why it is left out */
    convert_trouble trouble;
    bool resized, looks_inverted;
    char *message;
} convert_item;

typedef struct convert_note {
    convert_trouble kind;
    char *path, *message;
} convert_note;

typedef struct convert_state {
    const fs_dataset_convert_options *opt;
    fs_dataset_form form;
    const char *src, *out;
    convert_rule rule;
    convert_file *files;
    size_t n_files, files_room;
    convert_item *items;
    size_t n_items, items_room;
    convert_note *notes;
    size_t n_notes, notes_room;
} convert_state;

/* Fills kind, key and version of a picture from its name; FS_FORM_NIST16 has convert_nist instead. */
fs_status convert_classify(fs_dataset_form form, convert_file *f, fs_error *err);
/* What the folder should look like, for an error line. */
const char *convert_layout(fs_dataset_form form);
convert_rule convert_rule_of(fs_dataset_form form);
/* "Columbia", "CASIAv2", ... */
const char *convert_set_name(const convert_state *s, int version);
/* NIST16's reference list: adds items and notes. */
fs_status convert_nist(convert_state *s, fs_error *err);

fs_status convert_add_item(convert_state *s, const convert_file *image, const convert_file *mask, int version, fs_error *err);
/* Takes over `message`. */
fs_status convert_add_note(convert_state *s, convert_trouble kind, const char *path, char *message, fs_error *err);
char *convert_report(convert_state *s, size_t *tampered, size_t *authentic, size_t *left_out); /* malloc'ed; NULL when out of memory */

#endif
