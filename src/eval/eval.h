/* An evaluation in the making. A row is what is known about one picture under one condition; everything in the tables, the intervals and
 * the report follows from the rows alone. They are written down (images.jsonl) with all digits, so that runs can be resumed, split over
 * machines and joined, and compared, with the same outcome to the last digit. Private to src/eval. */
#ifndef FS_EVAL_H
#define FS_EVAL_H

#include <jansson.h>

#include "data/tree.h"
#include "eval/map.h"
#include "eval/metrics.h"
#include "format/json.h"

/* ---- rows ----------------------------------------------------------------------------------------------------------- */

/* Place and size of an area in the words of data/mask_words.h: their numbers, -1 where there is none. */
typedef struct fs_eval_words {
    int position, size;
} fs_eval_words;

typedef struct fs_eval_row {
    int64_t index;                   /* of the record in the whole data: the order of all files */
    char *condition;                 /* "" or "jpeg=70" */
    int64_t step;                    /* number of the condition: 0 is "" */
    char *set, *group;               /* "photoshop/CASIA1_Tp"; its name in the tables: "CASIA1" */
    char *name, *image, *mask, *map; /* base name; paths, or NULL */
    char sha256[65], mask_sha256[65];
    bool tampered;
    bool answered;                /* the next two are known */
    fs_verdict literal, tolerant; /* tolerant may be UNDETERMINED */
    bool undetermined;            /* RESULTS, MODEL: detect leaves the verdict open, e.g. for a score inside the calibration's band */
    bool has_score;
    double score;          /* may be NaN */
    bool located;          /* pixels is filled: the truth is known, and there is a map or the answer "authentic" */
    bool silent;           /* no map: called authentic */
    int64_t width, height; /* of truth */
    fs_pixel_scores pixels;
    char *text, *reference;                /* explanation and what it is compared with, or NULL */
    char *other;                           /* the reference of another picture, for css_other; is not written down */
    double css, css_other;                 /* similarity to the reference, and to that other one; NaN: none */
    fs_eval_words truth_words, said_words; /* of the true mask, where it was read, and of the text */
} fs_eval_row;

typedef struct fs_eval_rows {
    fs_eval_row *items;
    size_t count, room;
} fs_eval_rows;
fs_eval_row fs_eval_row_empty(void);               /* zeroed; css, css_other and score NaN, words -1 */
fs_eval_row *fs_eval_rows_add(fs_eval_rows *rows); /* an empty one; NULL when out of memory */
void fs_eval_row_free(fs_eval_row *r);
void fs_eval_rows_free(fs_eval_rows *rows);
void fs_eval_rows_sort(fs_eval_rows *rows);        /* by step, then index */
json_t *fs_eval_row_to_json(const fs_eval_row *r); /* NULL when out of memory */
fs_status fs_eval_row_from_json(const char *where, const json_t *j, fs_eval_row *out, fs_error *err);

/* ---- a run ---------------------------------------------------------------------------------------------------------- */

typedef struct fs_eval_calibration {
    bool known, on; /* not known: scores of other programs, or none */
    fs_calibration_info how;
} fs_eval_calibration;

/* What a reader must know about how the rows came about; run.json. */
typedef struct fs_eval_info {
    char *name;   /* of the run */
    char *source; /* fs_eval_source_name, */
    char *model;  /* ... and the checkpoint's name, or the folder or file that was given; "" if none */
    char fingerprint[65];
    json_t *settings;                /* all options that decide on a row */
    char *encoder;                   /* of CSS, or NULL */
    fs_eval_calibration calibration; /* of the scores */
    int64_t records;                 /* of the whole data, all shards */
    int shard, shards;
    size_t missing, nan_scores, resized, texts_without_reference; /* counted in this run */
    json_t *warnings;                                             /* list of lines */
} fs_eval_info;
void fs_eval_info_free(fs_eval_info *i);

typedef struct fs_eval_book {
    fs_eval_info info;
    fs_eval_rows rows;
} fs_eval_book; /* a run's output folder, read */
fs_status fs_eval_book_write(const fs_eval_book *b, const char *dir, fs_error *err);
fs_status fs_eval_book_read(const char *dir, fs_eval_book *out, fs_error *err);
void fs_eval_book_free(fs_eval_book *b);
/* calibration.c: of the first result that has a score; as JSON (NULL: not known) and back; in words for reports (nothing: not known). */
void fs_eval_note_calibration(fs_eval_info *i, const fs_result *r);
json_t *fs_eval_calibration_json(const fs_eval_info *i);
fs_status fs_eval_calibration_read(const fs_json *run, fs_eval_calibration *out, fs_error *err);
void fs_eval_calibration_put(fs_buffer *b, const fs_eval_info *i);
void fs_eval_warn(fs_eval_info *i, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- tables ---------------------------------------------------------------------------------------------------------- */

typedef enum fs_figure {
    /* detection, for each of the three readings: literal, tolerant, score */
    FS_FIG_DETECTION = 0, /* + 6 * reading + accuracy, f1, precision, recall, specificity, balanced */
    FS_FIG_AUC = 18,
    FS_FIG_AP,
    /* localization: IoU and F1 for each protocol, in its order */
    FS_FIG_LOCAL, /* + 2 * protocol + 0 IoU, 1 F1; for UPSTREAM_IOU gIoU, cIoU; permuted-best has no IoU */
    FS_FIG_PIXEL_AUC = FS_FIG_LOCAL + 14,
    FS_FIG_POOLED_AUC,
    FS_FIG_PIXEL_PRECISION,
    FS_FIG_PIXEL_RECALL,
    FS_FIG_FALSE_AREA, /* of authentic pictures: mean share of pixels marked */
    FS_FIG_CSS,
    FS_FIG_CSS_OTHER, /* the latter: what any two texts of this kind have in common */
    /* place and size in words: + FS_WORDS_BOTH, FS_WORDS_POSITION or FS_WORDS_SIZE, + 0 the same word, 1 the same or one beside it */
    FS_FIG_WORDS,
    FS_FIGURES = FS_FIG_WORDS + 6
} fs_figure;
enum { FS_RATES = 6, FS_PROTOCOLS = 7, FS_READINGS = 3, FS_WORDS_BOTH = 0, FS_WORDS_POSITION = 2, FS_WORDS_SIZE = 4, FS_WORD_FIGURES = 6 };
const char *fs_figure_key(fs_figure f); /* "detection.literal.accuracy", "localization.fixed.iou", ... */
bool fs_figure_in_percent(fs_figure f);

/* Of the words of a table's texts. */
typedef struct fs_eval_word_counts {
    size_t n, no_position, no_size;   /* texts that count, and those of them without such a word */
    double constant[FS_WORD_FIGURES]; /* the most that an answer gets which is always the same, for each figure by itself */
    fs_eval_words frequent;           /* the most frequent true pair: what gets the first of them */
} fs_eval_word_counts;

typedef struct fs_eval_table { /* one set under one condition */
    char *group, *condition;
    size_t pictures, tampered, authentic, answered[FS_READINGS], ranked, located, located_authentic, silent, explained, undetermined,
        empty_masks;
    fs_confusion counts[FS_READINGS];
    double value[FS_FIGURES];
    fs_interval range[FS_FIGURES];
    double threshold_iou, threshold_f1; /* of BEST_SET */
    bool binary;                        /* no map has values between 0 and 1 */
    fs_curve_point *curve;
    size_t n_curve;
    size_t histogram[20]; /* of the IoU at 0.5 of tampered pictures */
    fs_eval_word_counts words;
} fs_eval_table;
typedef struct fs_eval_summary {
    fs_eval_table *tables; /* conditions in order, within each the sets in order; with several sets one more, "all" */
    size_t count;
    char data_hash[65]; /* of the names, labels and bytes of all pictures and masks */
} fs_eval_summary;
fs_status fs_eval_summarize(const fs_eval_book *b, const fs_eval_options *opt, fs_eval_summary *out, fs_error *err);
void fs_eval_summary_free(fs_eval_summary *s);

/* ---- where rows come from -------------------------------------------------------------------------------------------- */

/* The data of a run, and what their sets are called in the tables. */
typedef struct fs_eval_data {
    fs_dataset set;
    char **set_names, **groups; /* [set.n_sets] "photoshop/CASIA1_Tp", "CASIA1" */
} fs_eval_data;
fs_status fs_eval_data_open(const fs_eval_options *opt, fs_eval_data *out, fs_error *err);
void fs_eval_data_free(fs_eval_data *d);
/* fs_eval_run for one process. */
fs_status fs_eval_run_part(const fs_eval_options *options, char **text, fs_error *err);
bool fs_eval_in_shard(const fs_eval_options *opt, size_t index); /* a shard has every n-th record */
/* Index, names, label and picture hash of a record. */
fs_status fs_eval_row_begin(const fs_eval_data *d, size_t index, const char *condition, fs_eval_row *out, fs_error *err);
/* Truth (all black for authentic pictures) against a map; map NULL: nothing is marked. Takes the map's buffers for its own use. */
fs_status fs_eval_row_locate(const fs_eval_options *opt, fs_eval_info *info, fs_eval_row *row, fs_map *map, fs_error *err);
fs_status fs_eval_row_take_text(fs_eval_row *row, const char *text, fs_error *err); /* keeps it, with the verdicts and words in it */
/* truth_words of a forged picture with a text that was not located. */
fs_status fs_eval_row_true_words(const fs_eval_options *opt, fs_eval_row *row, fs_error *err);
char *fs_eval_copy_text(const char *s); /* valid UTF-8 */

/* The row of a picture about which `detect` has written base.json, base_soft.png or base_mask.png; row was begun. soft, mask: other places
 * of the two, or NULL. NOT_FOUND: there is no answer. */
fs_status fs_eval_row_from_result(const fs_eval_options *opt, fs_eval_info *info, fs_eval_row *row, const char *json, const char *where,
                                  const char *soft, const char *mask, fs_error *err);
/* Counts a picture without an answer: an error by policy, else noted. why: the error so far, of which the policy takes note. */
fs_status fs_eval_missing(const fs_eval_options *opt, fs_eval_info *info, const char *image, fs_error *why);

fs_status fs_eval_from_model(const fs_eval_options *opt, const fs_eval_data *d, fs_eval_book *book, fs_error *err);
fs_status fs_eval_from_files(const fs_eval_options *opt, const fs_eval_data *d, fs_eval_book *book, fs_error *err);

/* Explanations: css of each row that has a text and a reference. */
fs_status fs_eval_css(const fs_eval_options *opt, fs_eval_book *book, fs_error *err);

/* ---- what is written ------------------------------------------------------------------------------------------------- */

fs_status fs_eval_write_csv(const fs_eval_book *b, const char *path, fs_error *err);
json_t *fs_eval_summary_json(const fs_eval_book *b, const fs_eval_summary *s, const fs_eval_options *opt);
char *fs_eval_summary_text(const fs_eval_book *b, const fs_eval_summary *s, const fs_eval_options *opt);
fs_status fs_eval_write_html(const fs_eval_book *b, const fs_eval_summary *s, const fs_eval_options *opt, const char *path, fs_error *err);
/* All of it into opt->out. */
fs_status fs_eval_finish(const fs_eval_book *b, const fs_eval_options *opt, char **text, fs_error *err);

#endif
