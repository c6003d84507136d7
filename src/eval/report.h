/* Pieces of the HTML report. Private to src/eval. */
#ifndef FS_EVAL_REPORT_H
#define FS_EVAL_REPORT_H

#include "eval/eval.h"
#include "image/image.h"

/* Text with <, >, &, " and control characters made harmless. */
void fs_html_text(fs_buffer *b, const char *s);
/* 0.953, or a dash for NaN. */
void fs_html_number(fs_buffer *b, double v);
/* A cell of a table; range (may be NULL) below the number. */
void fs_html_cell(fs_buffer *b, double v, const fs_interval *range);
extern const char fs_html_style[];

/* ---- svg.c: charts ---- */

typedef struct fs_chart_line {
    const char *name;
    const double *x, *y; /* [n]; NaN breaks the line */
    size_t n, color;     /* of fs_svg_color */
    bool dashed;         /* and grey */
    bool dots;           /* points without a line */
} fs_chart_line;
typedef struct fs_chart {
    const char *title, *x_label, *y_label;
    const char *const *x_names; /* [n_names] names at x = 0, 1, 2, ...; NULL: x is a number from 0 to 1 */
    size_t n_names;
    const fs_chart_line *lines;
    size_t n_lines;
} fs_chart;
void fs_svg_chart(fs_buffer *b, const fs_chart *c);
/* Bars of a histogram over 0..1. */
void fs_svg_histogram(fs_buffer *b, const char *title, const char *x_label, const size_t *bars, size_t n);
const char *fs_svg_color(size_t i);

/* ---- html_words.c: place and size in words; nothing if no text names them ---- */

void fs_html_words(fs_buffer *b, const fs_eval_summary *s);

/* ---- panels.c: what one picture looks like ---- */

typedef struct fs_panel_box {
    int64_t width, height;
    bool enlarge; /* smaller pictures fill it too */
} fs_panel_box;
typedef struct fs_panels { /* each NULL where there is none; picture NULL: its file is not there any more, and all are */
    fs_image *picture, *truth, *map, *marked;
} fs_panels;
/* The size of these proportions that fits the box. */
void fs_panel_fit(const fs_panel_box *box, int64_t w, int64_t h, int64_t *tw, int64_t *th);
void fs_panel_ramp(double v, uint8_t rgb[3]); /* the color of a score */
fs_status fs_panels_make(const fs_eval_info *info, const fs_eval_row *r, const fs_panel_box *box, fs_panels *out, fs_error *err);
void fs_panels_free(fs_panels *p);

/* What a picture was called: "tampered", "authentic", "undetermined", or NULL if nothing was said. */
typedef enum fs_row_judgement { FS_ROW_OPEN, FS_ROW_RIGHT, FS_ROW_WRONG } fs_row_judgement;
const char *fs_row_called(const fs_eval_row *r, fs_row_judgement *how);

enum { FS_ROW_FACTS = 6 };
typedef struct fs_row_fact {
    const char *name;
    double value;
} fs_row_fact;
/* What is known about a picture in numbers, the score first; returns how many. */
size_t fs_row_facts(const fs_eval_row *r, fs_row_fact out[FS_ROW_FACTS]);

/* ---- sheet.c: pictures side by side in one PNG ---- */

/* opt->sheet pictures of the run, or all if there are fewer, taken at even distances. Pictures changed by a sweep are not among them. */
fs_status fs_eval_write_sheet(const fs_eval_book *book, const fs_eval_options *opt, const char *path, fs_error *err);

/* ---- gallery.c: single pictures ---- */

/* Are there so few pictures that the gallery has all of them? Then they come before the figures, which say little about so few. */
bool fs_html_gallery_first(const fs_eval_book *book, const fs_eval_options *opt);
/* Best and worst cases, missed forgeries, false alarms and authentic pictures left alone, of the unchanged pictures: opt->gallery of each. A picture file that is not there
 * any more is said so and no error. */
fs_status fs_html_gallery(fs_buffer *b, const fs_eval_book *book, const fs_eval_options *opt, fs_error *err);

#endif
