/* Pieces of the HTML report. Private to src/eval. */
#ifndef FS_EVAL_REPORT_H
#define FS_EVAL_REPORT_H

#include "eval/eval.h"

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

/* ---- gallery.c: single pictures ---- */

/* Best and worst cases, missed forgeries, false alarms of the unchanged pictures: opt->gallery of each. A picture file that is not there
 * any more is said so and no error. */
fs_status fs_html_gallery(fs_buffer *b, const fs_eval_book *book, const fs_eval_options *opt, fs_error *err);

#endif
