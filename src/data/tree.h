/* Reading data sets: upstream's tree of folders and MMTD-Set's conversations, as one list of records.
 *
 *     <root>/<type>/<set>/image/NAME.jpg        type: ps, photoshop, deepfake, aigc..., which gives the domain
 *     <root>/<type>/<set>/mask/NAME.png         only in sets of tampered pictures
 *     <root>/<type>/<set>/lisa_train_output.json, lisa_train_gt.json, lisa_val_output.json, lisa_val_gt.json
 *
 * The four files are lists of {"image": base name, "query", "outputs": text}: `output` is what stage 1 wrote about the picture, `gt` what
 * was written for training. A set without mask/ holds authentic pictures.
 *
 * Upstream pairs the n-th picture with the n-th mask. Here a mask belongs to the picture of its own name: the names agree without their
 * extensions (upper or lower case of the extension is the same), or after dropping _gt, -gt, _mask or -mask (any case) from the mask's.
 * What finds no partner is an error, or, with keep_problems, left out and noted. */
#ifndef FS_DATA_TREE_H
#define FS_DATA_TREE_H

#include "base/base.h"

/* Which of the four files the texts come from. ANY: all that are there; where several have a text for a picture, the first of
 * train_gt, val_gt, train_output, val_output. */
typedef enum fs_data_texts {
    FS_TEXTS_NONE = 0,
    FS_TEXTS_ANY = 1,
    FS_TEXTS_TRAIN_OUTPUT = 2,
    FS_TEXTS_TRAIN_GT = 3,
    FS_TEXTS_VAL_OUTPUT = 4,
    FS_TEXTS_VAL_GT = 5
} fs_data_texts;
const char *fs_data_texts_name(fs_data_texts t); /* "none", "any", "train-output", "train-gt", "val-output", "val-gt" */
bool fs_data_texts_from_name(const char *name, fs_data_texts *out);
const char *fs_data_texts_file(fs_data_texts t); /* "lisa_train_output.json", ...; NULL for NONE and ANY */

typedef struct fs_data_set {
    char *type, *name, *dir; /* "ps", "CASIA2", "data/ps/CASIA2" */
    fs_domain domain;
    bool domain_known;  /* the type's name says it; else it is the options' domain */
    bool has_masks;     /* there is a mask/ */
    bool texts[6];      /* which of the four files there are, by fs_data_texts */
    size_t other_files; /* in image/ and mask/, which are no pictures by their names */
} fs_data_set;

typedef struct fs_data_turn {
    bool human; /* else the assistant's */
    char *value;
} fs_data_turn;

typedef struct fs_data_record {
    char *image;      /* a path that can be opened; NULL only for a conversation without a picture */
    char *mask;       /* or NULL */
    char *text;       /* or NULL: description and judgment basis */
    size_t set;       /* index into sets */
    size_t index;     /* of a conversation: its number in the file, from 0 */
    fs_verdict label; /* AUTHENTIC or TAMPERED; UNDETERMINED if a conversation does not say */
    fs_domain domain;
    fs_data_turn *turns; /* conversations only: from human, from the assistant, and so on in turn */
    size_t n_turns;
} fs_data_record;

typedef enum fs_data_problem_kind {
    FS_DATA_IMAGE_ALONE = 0, /* a picture without a mask in a set that has masks */
    FS_DATA_MASK_ALONE = 1,
    FS_DATA_AMBIGUOUS = 2,     /* two pictures or two masks of one name */
    FS_DATA_TEXT_ALONE = 3,    /* a text for a picture that is not there */
    FS_DATA_TEXT_TWICE = 4,    /* two texts for one picture in one file; the later one counts, as upstream */
    FS_DATA_IMAGE_MISSING = 5, /* a conversation names a file that is not there */
    FS_DATA_TEXTS_BROKEN = 6,  /* one of the four files cannot be read */
    FS_DATA_RECORD_BROKEN = 7  /* a conversation that is not of the form: path is the file's, the message says which record */
} fs_data_problem_kind;
const char *fs_data_problem_kind_name(fs_data_problem_kind k); /* "picture without mask", ... */
bool fs_data_problem_kind_from_name(const char *name, fs_data_problem_kind *out);

typedef struct fs_data_problem {
    fs_data_problem_kind kind;
    size_t set;
    char *path, *message; /* message: one line; without the path, but for TEXTS_BROKEN */
} fs_data_problem;

typedef struct fs_dataset {
    fs_data_record *records; /* sets in order (sorted, or as asked for), within a set sorted by the bytes of the name */
    fs_data_set *sets;
    fs_data_problem *problems;
    size_t count, n_sets, n_problems;
    size_t room, set_room, problem_room; /* the reader's own */
} fs_dataset;

typedef struct fs_data_options {
    fs_data_texts texts; /* default ANY. One of the four files: each set must have it */
    bool keep_problems;  /* default false: the first problem is an error. TEXT_ALONE and TEXT_TWICE are never errors */
    fs_domain domain;    /* of types whose name says none; default Photoshop */
} fs_data_options;
fs_data_options fs_data_options_defaults(void);

/* dir: a root, a type or one set (then `type` is the folder above). *out is zeroed first; the caller frees it. FS_E_NOT_FOUND if there is
 * no picture. */
fs_status fs_dataset_open(const char *dir, const fs_data_options *opt, fs_dataset *out, fs_error *err);
/* Upstream's way of naming sets, in this order: "ps|CASIA2,FR" below root. Several types: "ps|A,B;aigc|C". */
fs_status fs_dataset_open_spec(const char *root, const char *spec, const fs_data_options *opt, fs_dataset *out, fs_error *err);

/* MMTD-Set's file, LLaVA's form: [{"image": path below image_folder, "conversations": [{"from": "human"|"gpt", "value"}, ...]}, ...], in
 * the file's order. A first turn that is not human is dropped, as upstream. text is the last answer, and the label what that says; the
 * domain is that of the question's domain sentence, or of a folder in the path. Where the picture lies in image/, its mask is looked for in
 * mask/ beside it. "sets" is one, named after the file. A path with ".." is refused. */
fs_status fs_dataset_open_conversations(const char *path, const char *image_folder, const fs_data_options *opt, fs_dataset *out,
                                        fs_error *err);
/* The same from memory; without looking for files if image_folder is NULL. */
fs_status fs_dataset_parse_conversations(const char *name, const void *data, size_t size, const char *image_folder,
                                         const fs_data_options *opt, fs_dataset *out, fs_error *err);
void fs_dataset_free(fs_dataset *d); /* what is in it; takes a zeroed one */

/* One of the four files, by itself: base name -> text, sorted by name, each name once. */
typedef struct fs_data_text {
    char *image, *text;
    size_t index;
} fs_data_text;
typedef struct fs_data_text_list {
    fs_data_text *items;
    size_t count;
} fs_data_text_list;
/* twice (may be NULL): how many names came again. */
fs_status fs_data_texts_parse(const char *name, const void *data, size_t size, fs_data_text_list *out, size_t *twice, fs_error *err);
fs_status fs_data_texts_open(const char *path, fs_data_text_list *out, size_t *twice, fs_error *err);
const char *fs_data_texts_find(const fs_data_text_list *l, const char *image); /* NULL if none */
void fs_data_text_list_free(fs_data_text_list *l);

/* "photoshop", "ps", "aigc_inpaint", "DeepFake" -> domain; false for another name. */
bool fs_data_domain_of_folder(const char *name, fs_domain *out);
/* Bytes of the name without its extension, and without a mask's suffix if mask. */
size_t fs_data_stem(const char *name, bool mask);

/* Names (not paths) of what is in a folder and no hidden file, sorted by bytes. want: 'p' pictures by name, 'd' folders, 'f' all files.
 * *others (may be NULL): regular files that are left out. */
typedef struct fs_names {
    char **items;
    size_t count, room;
} fs_names;
fs_status fs_names_read(const char *dir, char want, fs_names *out, size_t *others, fs_error *err);
bool fs_names_add(fs_names *n, const char *name);       /* copies; false when out of memory */
bool fs_names_has(const fs_names *n, const char *name); /* sorted ones */
void fs_names_free(fs_names *n);

#endif
