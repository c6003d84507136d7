/* The terminal: colours, the progress line, running text wrapped at words, and the line between what may be trusted and what may not:
 * file names and model text can hold escape sequences, so control characters never reach the screen. Signals live here too. */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static void out_of_memory(void) {
    fputs("fakeshield: out of memory\n", stderr);
    exit(FS_E_NO_MEMORY);
}

void *cli_alloc(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size ? size : 1);
    if (!p) out_of_memory();
    return p;
}

char *cli_format(const char *format, ...) {
    char *out = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&out, format, args);
    va_end(args);
    if (n < 0) out_of_memory();
    return out;
}

void cli_list_add(cli_list *list, const char *item) {
    if ((list->count & (list->count - 1)) == 0) { /* full at every power of two */
        size_t room = list->count ? list->count * 2 : 1;
        char **items = realloc(list->items, room * sizeof *items);
        if (!items) out_of_memory();
        list->items = items;
    }
    list->items[list->count++] = cli_format("%s", item);
}

void cli_list_free(cli_list *list) {
    for (size_t i = 0; i < list->count; i++) free(list->items[i]);
    free(list->items);
    *list = (cli_list){0};
}

/* ---- characters ---------------------------------------------------------------------------------------------------- */

/* Bytes of the character at s (1 for a stray byte); *columns: cells it takes on the screen. */
static size_t character(const char *s, size_t *columns) {
    const unsigned char *u = (const unsigned char *)s;
    size_t n = u[0] < 0x80 ? 1 : (u[0] & 0xe0) == 0xc0 ? 2 : (u[0] & 0xf0) == 0xe0 ? 3 : (u[0] & 0xf8) == 0xf0 ? 4 : 1;
    uint32_t c = n == 1 ? u[0] : u[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((u[i] & 0xc0) != 0x80) return *columns = 1, 1;
        c = c << 6 | (u[i] & 0x3f);
    }
    bool none = (c >= 0x300 && c <= 0x36f) || c == 0x200b || c == 0x200d || (c >= 0xfe00 && c <= 0xfe0f);
    bool wide = (c >= 0x1100 && c <= 0x115f) || (c >= 0x2e80 && c <= 0xa4cf) || (c >= 0xac00 && c <= 0xd7a3) ||
                (c >= 0xf900 && c <= 0xfaff) || (c >= 0xfe30 && c <= 0xfe6f) || (c >= 0xff00 && c <= 0xff60) ||
                (c >= 0xffe0 && c <= 0xffe6) || (c >= 0x1f300 && c <= 0x1faff) || (c >= 0x20000 && c <= 0x3fffd);
    *columns = none ? 0 : wide ? 2 : 1;
    return n;
}

/* Replaces control characters (C0 but newline and tab, DEL, and the C1 set in UTF-8) by '?'. */
static void make_visible(char *s, bool keep_newlines) {
    for (char *p = s; *p; p++) {
        unsigned char c = (unsigned char)*p;
        if ((c < 0x20 && !(keep_newlines && (c == '\n' || c == '\t'))) || c == 0x7f) *p = '?';
        if (c == 0xc2 && (unsigned char)p[1] >= 0x80 && (unsigned char)p[1] < 0xa0) p[0] = p[1] = '?';
    }
}

double cli_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static size_t width_of(int fd) {
    struct winsize size;
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20) return size.ws_col;
    return 80;
}

void cli_term_init(cli_term *t, bool no_color, bool quiet, int verbose) {
    const char *kind = getenv("TERM"), *no = getenv("NO_COLOR");
    *t = (cli_term){.out_tty = isatty(STDOUT_FILENO), .err_tty = isatty(STDERR_FILENO), .quiet = quiet, .verbose = verbose};
    t->color = t->out_tty && !no_color && !(no && *no) && kind && strcmp(kind, "dumb") != 0;
    t->width = width_of(STDOUT_FILENO);
    if (t->width > 100) t->width = 100; /* longer lines are hard to read */
}

/* ---- messages ------------------------------------------------------------------------------------------------------ */

static void message(cli_term *t, const char *format, va_list args) {
    char *line = NULL;
    if (vasprintf(&line, format, args) < 0) out_of_memory();
    make_visible(line, false);
    if (t) cli_term_clear(t);
    fflush(stdout); /* keeps the order when both go to one place */
    fprintf(stderr, "fakeshield: %s\n", line);
    free(line);
}

void cli_error(cli_term *t, const char *format, ...) {
    va_list args;
    va_start(args, format);
    message(t, format, args);
    va_end(args);
}

void cli_note(cli_term *t, const char *format, ...) {
    if (t->quiet) return;
    va_list args;
    va_start(args, format);
    message(t, format, args);
    va_end(args);
}

void cli_print(cli_term *t, const char *format, ...) {
    char *text = NULL;
    va_list args;
    va_start(args, format);
    int n = vasprintf(&text, format, args);
    va_end(args);
    if (n < 0) out_of_memory();
    make_visible(text, true);
    cli_term_clear(t);
    fputs(text, stdout);
    free(text);
}

const char *cli_color_on(const cli_term *t, cli_color c) {
    static const char *const codes[] = {"", "\033[1m", "\033[2m", "\033[1;31m", "\033[1;32m", "\033[1;33m"};
    return t->color ? codes[c] : "";
}

const char *cli_color_off(const cli_term *t) {
    return t->color ? "\033[0m" : "";
}

fs_status cli_flush(cli_term *t) {
    cli_term_clear(t);
    errno = 0;
    bool failed = fflush(stdout) != 0;
    if (!failed && !ferror(stdout)) return FS_OK;
    cli_error(t, "standard output: %s; the report is incomplete", errno ? strerror(errno) : "an earlier write failed");
    clearerr(stdout);
    return FS_E_IO;
}

/* ---- the progress line --------------------------------------------------------------------------------------------- */

void cli_term_phase(cli_term *t, size_t pictures) {
    t->picture = 0, t->pictures = pictures, t->in_flight = 0;
    *t->name = 0;
    t->started = cli_now();
}

void cli_term_picture(cli_term *t, const char *path) {
    const char *slash = strrchr(path, '/');
    snprintf(t->name, sizeof t->name, "%s", slash && slash[1] ? slash + 1 : path);
    make_visible(t->name, false);
    t->picture++;
    t->last_drawn = 0; /* at once */
}

void cli_term_skip(cli_term *t) {
    if (t->pictures) t->pictures--;
}

void cli_term_clear(cli_term *t) {
    if (!t->line_shown) return;
    fputs("\r\033[K", stderr);
    t->line_shown = false;
}

/* "about 3 h 5 min left", from the pictures this phase has finished; "" before the first one. */
static void estimate(const cli_term *t, char *out, size_t size) {
    *out = 0;
    const size_t unfinished = t->in_flight ? t->in_flight : 1;
    if (t->picture <= unfinished || t->pictures < t->picture) return;
    const double finished = (double)(t->picture - unfinished);
    double left = (cli_now() - t->started) / finished * ((double)t->pictures - finished);
    long minutes = (long)(left / 60 + 0.5);
    if (minutes >= 60)
        snprintf(out, size, ", about %ld h %ld min left", minutes / 60, minutes % 60);
    else if (minutes >= 1)
        snprintf(out, size, ", about %ld min left", minutes);
    else
        snprintf(out, size, ", under a minute left");
}

void cli_term_progress(cli_term *t, const char *step, int64_t done, int64_t total) {
    if (!t->err_tty || t->quiet || t->streaming) return;
    double now = cli_now();
    if (t->line_shown && now - t->last_drawn < 0.1) return;
    t->last_drawn = now;
    char bar[32] = "", left[48], line[1024];
    if (total > 0) {
        int64_t filled = done <= 0 ? 0 : done >= total ? 12 : done * 12 / total;
        bar[0] = '[';
        for (int64_t i = 0; i < 12; i++) bar[1 + i] = i < filled ? '#' : '.';
        memcpy(bar + 13, "] ", 3);
    }
    estimate(t, left, sizeof left);
    if (t->pictures > 1 && *t->name)
        snprintf(line, sizeof line, "%s%zu/%zu %s: %s%s", bar, t->picture, t->pictures, t->name, step, left);
    else
        snprintf(line, sizeof line, "%s%s%s%s", bar, t->name, *t->name ? ": " : "", step);
    make_visible(line, false);
    size_t width = width_of(STDERR_FILENO), columns = 0, bytes = 0;
    while (line[bytes]) { /* cut to one screen line, or clearing it would leave the rest behind */
        size_t w, n = character(line + bytes, &w);
        if (columns + w > width - 1) break;
        columns += w, bytes += n;
    }
    fprintf(stderr, "\r%.*s\033[K", (int)bytes, line);
    fflush(stderr);
    t->line_shown = true;
}

/* ---- running text -------------------------------------------------------------------------------------------------- */

static const char indent[] = "    ";

static void put_word(cli_term *t) {
    if (!t->word_bytes) return;
    bool first = t->column == 0;
    if (!first && t->out_tty && t->column + t->word_columns > t->width) putchar('\n'), t->column = 0, first = true;
    if (first) fputs(indent, stdout), t->column = sizeof indent - 1;
    fwrite(t->word, 1, t->word_bytes, stdout);
    t->column += t->word_columns;
    t->word_bytes = t->word_columns = 0;
}

void cli_stream(cli_term *t, const char *piece) {
    cli_term_clear(t);
    if (t->out_tty) t->streaming = true; /* the progress line would write into the text */
    char *clean = cli_format("%s", piece);
    make_visible(clean, true);
    for (const char *p = clean; *p;) {
        size_t columns, n = character(p, &columns);
        if (*p == '\n') {
            put_word(t), putchar('\n'), t->column = 0;
        } else if (*p == ' ' || *p == '\t') {
            put_word(t);
            if (t->column && !(t->out_tty && t->column + 1 >= t->width)) putchar(' '), t->column++;
        } else {
            if (t->word_bytes + n > sizeof t->word || (t->out_tty && t->word_columns + columns + sizeof indent > t->width)) put_word(t);
            memcpy(t->word + t->word_bytes, p, n);
            t->word_bytes += n, t->word_columns += columns;
        }
        p += n;
    }
    free(clean);
    fflush(stdout);
}

void cli_stream_end(cli_term *t) {
    put_word(t);
    if (t->column) putchar('\n');
    t->column = 0;
    t->streaming = false;
}

/* ---- signals ------------------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t caught;

static void on_signal(int number) {
    caught = number;
}

void cli_catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND}; /* the second one ends the program */
    sigemptyset(&action.sa_mask);
    const int stops[] = {SIGINT, SIGTERM};
    for (size_t i = 0; i < sizeof stops / sizeof *stops; i++) {
        struct sigaction old;
        if (sigaction(stops[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN) sigaction(stops[i], &action, NULL); /* nohup stays nohup */
    }
    signal(SIGPIPE, SIG_IGN); /* a closed pipe, a file over the size limit: failed writes, reported as such */
    signal(SIGXFSZ, SIG_IGN);
}

int cli_signal(void) {
    return (int)caught;
}
