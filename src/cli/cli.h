/* The command line: what its files share. A command parses its words, calls fakeshield.h and prints; it knows nothing of models, and
 * everything a user reads or types is here. Errors of the library come back as fs_status, which is also the exit code. */
#ifndef FS_CLI_H
#define FS_CLI_H

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

#include "fakeshield.h"

/* ---- memory and lists: a command line that is out of memory says so and ends (exit code FS_E_NO_MEMORY) ------------- */

typedef struct cli_list {
    char **items;
    size_t count;
} cli_list;
void *cli_alloc(size_t count, size_t size); /* zeroed */
char *cli_format(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_list_add(cli_list *list, const char *item); /* copies */
void cli_list_free(cli_list *list);

/* ---- terminal.c ---------------------------------------------------------------------------------------------------- */

/* What is on the screen. One per run, on main's stack. */
typedef struct cli_term {
    bool out_tty, err_tty, color, quiet;
    bool stop; /* the command wants what runs to stop, as if by a signal */
    int verbose;
    /* the progress line on stderr */
    bool line_shown, streaming;
    double last_drawn, started;
    size_t picture, pictures; /* of this phase: 1-based number of the current one; how many */
    size_t in_flight;         /* begun and not finished; 0 is taken for 1 */
    char name[256];
    /* a heading that is printed once there is something to stand under it */
    const char *head;
    size_t head_number, head_of;
    /* the explanation on stdout, wrapped on a terminal */
    size_t column, width, word_columns, word_bytes;
    char word[512];
} cli_term;

void cli_term_init(cli_term *t, bool no_color, bool quiet, int verbose);
/* "fakeshield: ..." on stderr, control characters made visible as '?', one newline. */
void cli_error(cli_term *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cli_note(cli_term *t, const char *format, ...) __attribute__((format(printf, 2, 3))); /* same, but not with --quiet */
/* Progress over pictures: a phase of `pictures` begins; the next one's turn; one that needs no work is left out of the count. */
void cli_term_phase(cli_term *t, size_t pictures);
void cli_term_picture(cli_term *t, const char *path);
void cli_term_skip(cli_term *t);
void cli_term_progress(cli_term *t, const char *step, int64_t done, int64_t total);
void cli_term_clear(cli_term *t); /* takes the progress line away */
/* stdout, with control characters (but newline and tab) made visible: file names and model text are not to be trusted. */
void cli_print(cli_term *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A piece of running text, indented and wrapped; cli_stream_end finishes the paragraph. */
void cli_stream(cli_term *t, const char *piece);
void cli_stream_end(cli_term *t);
typedef enum cli_color { CLI_PLAIN, CLI_BOLD, CLI_DIM, CLI_RED, CLI_GREEN, CLI_YELLOW } cli_color;
const char *cli_color_on(const cli_term *t, cli_color c);
const char *cli_color_off(const cli_term *t);
/* Flushes stdout; FS_E_IO with a line on stderr if anything that was printed did not get out (full disk, closed pipe). */
fs_status cli_flush(cli_term *t);
double cli_now(void); /* seconds on a clock that only goes forward */

/* Ctrl-C and SIGTERM ask the run to stop at the next safe point; a second one ends it at once. */
void cli_catch_signals(void);
int cli_signal(void); /* the signal that came, or 0 */

/* ---- options.c ----------------------------------------------------------------------------------------------------- */

typedef enum cli_kind { CLI_FLAG, CLI_COUNT, CLI_TEXT, CLI_TEXTS, CLI_INT, CLI_I64, CLI_U64, CLI_REAL, CLI_DOUBLE, CLI_CHOICE } cli_kind;
typedef struct cli_option {
    char letter;      /* 0 = none */
    const char *name; /* without the dashes */
    cli_kind kind;
    void *target;                                   /* bool, int, const char *, cli_list, int, int64_t, uint64_t, float, double, or what `parse` fills */
    double low, high;                               /* numbers: allowed range, both ends included */
    bool (*parse)(const char *value, void *target); /* CLI_CHOICE */
    const char *choices;                            /* CLI_CHOICE: for the error line */
    bool *given;                                    /* set when the option was there; may be NULL */
} cli_option;

/* What most commands take. */
typedef struct cli_settings {
    const char *model;
    fs_options opt;
    bool help, quiet, no_color, sample;
    int verbose;
    float temperature, top_p;
    int top_k;
    bool has_temperature, has_top_k, has_top_p;
    const char *adapters[8]; /* opt.adapters, once there is one; more than two never go together, which the library says */
} cli_settings;
enum { CLI_MAX_OPTIONS = 80 };
typedef struct cli_options {
    cli_option list[CLI_MAX_OPTIONS];
    size_t count;
} cli_options;

void cli_settings_init(cli_settings *s);
void cli_option_add(cli_options *o, cli_option option);
/* "512" or "256-1024", a `parse` of CLI_CHOICE: sides of pictures to be made, from 64 to 4096. target: where both numbers go. */
typedef struct cli_size_range { int *low, *high; } cli_size_range;
bool cli_parse_size(const char *value, void *target);
void cli_add_terminal_options(cli_options *o, cli_settings *s);
void cli_add_model_options(cli_options *o, cli_settings *s);
void cli_add_adapter_option(cli_options *o, cli_settings *s); /* may be there several times */
void cli_add_stage1_options(cli_options *o, cli_settings *s);
void cli_add_stage2_options(cli_options *o, cli_settings *s);
/* Reads argv[1..]; operands are what is no option, in order ("--" ends the options). Says on stderr what is wrong. */
fs_status cli_parse(const char *command, const cli_options *o, int argc, char **argv, cli_list *operands);
/* After parsing: checks what belongs together and fills s->opt.sampling. */
fs_status cli_settings_finish(const char *command, cli_settings *s);
/* The beginning of every command: parses, prints `help` if asked for, checks what belongs together, sets up terminal and signals. False:
 * there is nothing more to do, and *code is the exit code. */
bool cli_begin(const char *command, const char *help, const cli_options *o, int argc, char **argv, cli_settings *s, cli_term *t,
               cli_list *operands, int *code);
/* The model directory from -m or the environment; NULL and a line on stderr when there is neither. */
const char *cli_model_dir(const char *command, const cli_settings *s);
/* The small demonstration model, for want of another: models/nano beside the program or above its folder (a source tree), else share/fakeshield/nano of
 * the prefix it is installed in. malloc'ed; NULL: it is in none of these. */
char *cli_demo_model(void);
/* The entry of `words` nearest to `word`, or NULL when nothing is near. */
const char *cli_nearest(const char *word, const char *const *words, size_t n);
bool cli_parse_real(const char *text, double *out); /* the whole text, finite */

/* ---- inputs.c ------------------------------------------------------------------------------------------------------ */

typedef struct cli_input {
    char *path;
    char *name; /* what its results are called: unique in the run */
} cli_input;
typedef struct cli_inputs {
    cli_input *items;
    size_t count, missing; /* missing: operands that led nowhere, each already reported */
    fs_status first_error; /* status of the first of those */
} cli_inputs;
/* Files, folders (one level, or all with recursive; sorted by name), quoted globs, "-" and lists (one path a line). */
fs_status cli_inputs_find(cli_term *t, const cli_list *operands, const cli_list *lists, bool recursive, cli_inputs *out);
/* One more, under its own name or a suffixed one; tells about the suffix. */
void cli_inputs_add(cli_inputs *in, const char *path);
void cli_inputs_name(cli_term *t, cli_inputs *in);
void cli_inputs_free(cli_inputs *in);
/* FS_E_USAGE if writing results to `dir` would overwrite one of the inputs. suffixes: NULL-terminated, e.g. "_mask.png". */
fs_status cli_inputs_guard(cli_term *t, const cli_inputs *in, const char *dir, const char *const *suffixes);
/* The next line without its newline, *line malloc'ed anew; false at the end or on error (*status tells). `what`: for error lines. */
bool cli_read_line(cli_term *t, FILE *f, const char *what, char **line, fs_status *status);

/* ---- files.c ------------------------------------------------------------------------------------------------------- */

char *cli_path(const char *dir, const char *name, const char *suffix);     /* dir/name+suffix */
fs_status cli_folder_ready(cli_term *t, const char *dir, bool *made);      /* makes it and tries to write in it; *made: it was not there */
void cli_folder_leave(const char *dir, bool made);                         /* a folder that we made and that stayed empty is taken away */
fs_status cli_write_text(cli_term *t, const char *path, const char *text); /* whole or not at all */
char *cli_read_text(const char *path);                                     /* NULL if it cannot be read or is larger than 64 MiB */
bool cli_exists(const char *path);

/* ---- report.c: results for people and programs --------------------------------------------------------------------- */

typedef struct cli_paths { /* of one picture's result files; NULL = not written */
    char *json, *mask, *overlay, *soft;
} cli_paths;
cli_paths cli_paths_make(const char *dir, const char *name, bool soft);
void cli_paths_free(cli_paths *p);
/* Mask, overlay and soft mask, as far as there is a mask. */
fs_status cli_write_pictures(cli_term *t, const fs_result *r, const cli_paths *p);
/* OUT/<name>.json; names the pictures relative to itself. */
fs_status cli_write_json(cli_term *t, const fs_result *r, const cli_paths *p, bool with_times);
fs_status cli_print_json(cli_term *t, const fs_result *r, const cli_paths *p, bool with_times);
void cli_report_head(cli_term *t, const char *path, size_t number, size_t of);
/* The same, but only when the explanation begins or cli_report_head_now is called; path must live until then. NULL: not at all. */
void cli_report_head_later(cli_term *t, const char *path, size_t number, size_t of);
void cli_report_head_now(cli_term *t);
void cli_report_verdict(cli_term *t, const fs_result *r);
void cli_report_mask(cli_term *t, const fs_result *r);
void cli_report_files(cli_term *t, const fs_result *r, const cli_paths *p);
void cli_report_warnings(cli_term *t, const fs_result *r);
void cli_report_line(cli_term *t, const fs_result *r); /* --quiet: all in one line */
void cli_report_failure(cli_term *t, const char *path, const fs_error *err);
extern const char cli_caution[];

/* Callbacks for fs_options: text is streamed only while term->streaming is wanted. */
fs_callbacks cli_callbacks(cli_term *t, bool stream_text);

/* ---- stage1.c ------------------------------------------------------------------------------------------------------ */

typedef struct cli_stage1 {
    cli_term *term;
    fs_detector *detector;
    const cli_inputs *inputs;
    const cli_list *questions; /* one per input; NULL: the usual one */
    int batch;                 /* as in fs_options */
    bool report;               /* print heading and explanation of each picture */
    /* In order, before anything runs: needs this picture no stage 1? May be NULL. */
    bool (*skip)(void *user, size_t i);
    /* As soon as a result is there, in any order. It is the callee's from then on; without this function it is freed after `shown`. An
     * error ends the run (and is the callee's to report). */
    fs_status (*arrived)(void *user, size_t i, fs_result *r);
    /* In the order of the pictures, behind heading and explanation. Likewise. */
    fs_status (*shown)(void *user, size_t i, fs_result *r);
    /* A picture failed, which has been reported; i = number of inputs: all of stage 1 did. */
    void (*failed)(void *user, size_t i, fs_status status);
    void *user;
} cli_stage1;
fs_status cli_stage1_run(const cli_stage1 *s);

/* ---- commands ------------------------------------------------------------------------------------------------------ */

typedef struct cli_command {
    const char *name, *summary;
    const char *help;
    int (*run)(int argc, char **argv); /* argv[0] is the command's name */
} cli_command;
extern const cli_command cli_eval, cli_calibrate;
extern const cli_command cli_detect, cli_explain, cli_localize, cli_info, cli_convert, cli_requantize, cli_verify, cli_pull;
extern const cli_command cli_synth, cli_bench, cli_dataset, cli_train, cli_merge;
/* Sub-commands of dataset (dataset_*.c); the table is in dataset.c. argv[0] is "forge", and messages name "dataset forge". */
extern const cli_command cli_dataset_forge, cli_dataset_check, cli_dataset_questions, cli_dataset_convert, cli_dataset_describe, cli_dataset_places;
/* Exit code of a batch: one picture's own status; FS_E_FAILED when some of several failed; 128 + signal when interrupted. */
int cli_exit_code(size_t pictures, size_t failed, fs_status first);

#endif
