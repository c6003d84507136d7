/* The log of a training run (trainlog.h). A row of the CSV is written as soon as it has a number and written over, longer, when more
 * numbers of the same step come; an event is added to the event file at each call. A write that fails (full disk) leaves no half record
 * behind. */
#include "train/trainlog.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct fs_trainlog {
    char *csv_path, *events_path;
    int csv, events; /* file descriptors, -1: none */
    off_t row_at;    /* where the row of `step` begins */
    int64_t step;    /* of the last row; -1: none */
    size_t columns;
    char **names;
    double *row;
    bool *has;
};

static const size_t max_csv = (size_t)1 << 30;

static fs_status fail_errno(const char *path, const char *doing, fs_error *err) {
    const int e = errno;
    return fs_fail(err, FS_E_IO, "%s: cannot %s: %s%s", path, doing, strerror(e),
                   e == ENOSPC || e == EDQUOT ? "; free some space and resume" : "");
}

static double wall_time(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* All or nothing: on an error the file is cut where it was. */
static fs_status put(int fd, const char *path, const void *data, size_t n, off_t at, fs_error *err) {
    for (size_t done = 0; done < n;) {
        const ssize_t w = pwrite(fd, (const char *)data + done, n - done, at + (off_t)done);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) {
            const fs_status status = fail_errno(path, "write it", err);
            if (ftruncate(fd, at) != 0) return status; /* nothing more can be done */
            return status;
        }
        done += (size_t)w;
    }
    return FS_OK;
}

/* ---- columns ------------------------------------------------------------------------------------------------------------ */

static size_t column_of(const fs_trainlog *log, const char *name) {
    for (size_t i = 0; i < log->columns; i++)
        if (strcmp(log->names[i], name) == 0) return i;
    return log->columns;
}

static bool good_name(const char *name) {
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/.-";
    const size_t n = strlen(name);
    return n > 0 && n < 64 && strspn(name, allowed) == n && strcmp(name, "step") != 0;
}

static fs_status add_column(fs_trainlog *log, const char *name, fs_error *err) {
    if (column_of(log, name) < log->columns) return FS_OK;
    if (!good_name(name)) return fs_fail(err, FS_E_INTERNAL, "%s: \"%s\" cannot be the name of a column", log->csv_path, name);
    const size_t n = log->columns + 1;
    char **names = realloc(log->names, n * sizeof *names);
    if (names) log->names = names;
    double *row = realloc(log->row, n * sizeof *row);
    if (row) log->row = row;
    bool *has = realloc(log->has, n * sizeof *has);
    if (has) log->has = has;
    char *copy = names && row && has ? fs_strdup(name) : NULL;
    if (!copy) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", log->csv_path);
    log->names[n - 1] = copy;
    log->has[n - 1] = false;
    log->columns = n;
    return FS_OK;
}

/* ---- the CSV as it was --------------------------------------------------------------------------------------------------- */

static fs_status bad_line(const fs_trainlog *log, size_t line, const char *what, fs_error *err) {
    return fs_fail(err, FS_E_FORMAT, "%s: line %zu %s; move the file away to begin a new one", log->csv_path, line, what);
}

/* The old file's columns come first, so that its rows stay as they are. */
static fs_status read_header(fs_trainlog *log, char *line, fs_error *err) {
    const char *name = strsep(&line, ",");
    if (!name || strcmp(name, "step") != 0) return bad_line(log, 1, "does not begin with \"step\"", err);
    while ((name = strsep(&line, ","))) {
        if (!good_name(name) || column_of(log, name) < log->columns) return bad_line(log, 1, "is no header of a training log", err);
        const fs_status status = add_column(log, name, err);
        if (status) return status;
    }
    return FS_OK;
}

/* The numbers of the row that the file will end with, for further ones of the same step. */
static fs_status read_row(fs_trainlog *log, size_t number, size_t fields, char *line, fs_error *err) {
    size_t i = 0;
    for (size_t c = 0; c < log->columns; c++) log->has[c] = false;
    strsep(&line, ",");
    for (const char *field; (field = strsep(&line, ",")); i++) {
        char *end;
        if (i == fields) return bad_line(log, number, "has more fields than the header", err);
        if (!*field) continue;
        log->row[i] = strtod(field, &end);
        log->has[i] = true;
        if (*end) return bad_line(log, number, "holds something that is no number", err);
    }
    return i == fields ? FS_OK : bad_line(log, number, "has fewer fields than the header", err);
}

/* Takes over the rows up to step `last`. A last line without its end was cut by a kill and is dropped. */
static fs_status take_over(fs_trainlog *log, char *text, int64_t last, fs_buffer *rows, size_t *fields, fs_error *err) {
    size_t number = 0;
    fs_status status = FS_OK;
    for (char *line = text, *end; !status && (end = strchr(line, '\n')); line = end + 1) {
        char *rest;
        *end = '\0';
        if (++number == 1) {
            status = read_header(log, line, err);
            *fields = log->columns;
            continue;
        }
        const int64_t step = strtoll(line, &rest, 10);
        if (rest == line || *rest != ',' || step < 0 || step <= log->step)
            return bad_line(log, number, "has no step, or not a later one than before", err);
        if (step > last) break;
        log->step = step;
        log->row_at = (off_t)rows->size;
        fs_buffer_puts(rows, line);
        fs_buffer_puts(rows, "\n");
        status = read_row(log, number, *fields, line, err);
    }
    return status;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------- */

/* Header, and the rows with empty fields for columns that they did not have. */
static void compose(const fs_trainlog *log, const fs_buffer *rows, size_t fields, fs_buffer *out, off_t *last_row) {
    fs_buffer_puts(out, "step");
    for (size_t i = 0; i < log->columns; i++) fs_buffer_printf(out, ",%s", log->names[i]);
    fs_buffer_puts(out, "\n");
    *last_row = (off_t)out->size;
    for (size_t at = 0; at < rows->size;) {
        const size_t n = (size_t)(strchr(rows->data + at, '\n') - (rows->data + at));
        *last_row = (off_t)out->size;
        fs_buffer_add(out, rows->data + at, n);
        for (size_t i = fields; i < log->columns; i++) fs_buffer_puts(out, ",");
        fs_buffer_puts(out, "\n");
        at += n + 1;
    }
}

static fs_status open_csv(fs_trainlog *log, const char *const *columns, size_t n, int64_t resumed_at, fs_error *err) {
    fs_buffer rows = {0}, all = {0};
    uint8_t *text = NULL;
    size_t size = 0, fields = 0;
    fs_status status = FS_OK;
    if (resumed_at >= 0 && fs_path_exists(log->csv_path)) {
        status = fs_read_file(log->csv_path, max_csv, &text, &size, err);
        if (!status) status = take_over(log, (char *)text, resumed_at, &rows, &fields, err);
    }
    for (size_t i = 0; i < n && !status; i++) status = add_column(log, columns[i], err);
    if (status) goto done;
    compose(log, &rows, fields, &all, &log->row_at);
    if (rows.failed || all.failed) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", log->csv_path);
    if (!status) status = fs_write_file(log->csv_path, all.data, all.size, err);
    if (!status && (log->csv = open(log->csv_path, O_WRONLY | O_CLOEXEC)) < 0) status = fail_errno(log->csv_path, "write it", err);
done:
    free(text);
    fs_buffer_free(&rows);
    fs_buffer_free(&all);
    return status;
}

/* Each opening has an event file of its own; TensorBoard reads them in the order of their names. */
static fs_status open_events(fs_trainlog *log, const char *dir, int64_t resumed_at, fs_error *err) {
    fs_buffer b = {0};
    char host[64] = "localhost";
    const double now = wall_time();
    gethostname(host, sizeof host - 1);
    for (int serial = 0; log->events < 0; serial++) {
        free(log->events_path);
        log->events_path = fs_format("%s/events.out.tfevents.%010lld.%s.%ld.%d", dir, (long long)now, host, (long)getpid(), serial);
        if (!log->events_path) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
        log->events = open(log->events_path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (log->events < 0 && errno != EEXIST) return fail_errno(log->events_path, "write it", err);
    }
    fs_event_add_version(&b, now);
    fs_event_add_restart(&b, now, resumed_at + 1); /* of a new run: everything that an earlier one has left here */
    const fs_status status =
        b.failed ? fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir) : put(log->events, log->events_path, b.data, b.size, 0, err);
    fs_buffer_free(&b);
    return status;
}

static fs_status write_settings(const char *dir, const char *settings, fs_error *err) {
    char *path = fs_path_join(dir, FS_TRAINLOG_SETTINGS);
    const fs_status status =
        path ? fs_write_file(path, settings, strlen(settings), err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    free(path);
    return status;
}

fs_status fs_trainlog_open(const char *dir, const char *const *columns, size_t n, const char *settings, int64_t resumed_at,
                           fs_trainlog **out, fs_error *err) {
    *out = NULL;
    fs_status status = fs_make_dirs(dir, err);
    if (status) return status;
    fs_trainlog *log = calloc(1, sizeof *log);
    if (!log) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    log->csv = log->events = -1;
    log->step = -1;
    log->csv_path = fs_path_join(dir, FS_TRAINLOG_CSV);
    if (!log->csv_path) {
        free(log);
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    }
    status = open_csv(log, columns, n, resumed_at, err);
    if (!status && settings) status = write_settings(dir, settings, err);
    if (!status) status = open_events(log, dir, resumed_at, err);
    if (status)
        fs_trainlog_close(log);
    else
        *out = log;
    return status;
}

void fs_trainlog_close(fs_trainlog *log) {
    if (!log) return;
    if (log->csv >= 0) close(log->csv);
    if (log->events >= 0) close(log->events);
    for (size_t i = 0; i < log->columns; i++) free(log->names[i]);
    free(log->names);
    free(log->row);
    free(log->has);
    free(log->csv_path);
    free(log->events_path);
    free(log);
}

/* ---- logging ------------------------------------------------------------------------------------------------------------- */

static fs_status write_row(fs_trainlog *log, fs_error *err) {
    fs_buffer b = {0};
    fs_buffer_printf(&b, "%lld", (long long)log->step);
    for (size_t i = 0; i < log->columns; i++) {
        fs_buffer_puts(&b, ",");
        if (log->has[i]) fs_buffer_printf(&b, "%.10g", log->row[i]);
    }
    fs_buffer_puts(&b, "\n");
    fs_status status = b.failed ? fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", log->csv_path)
                                : put(log->csv, log->csv_path, b.data, b.size, log->row_at, err);
    /* a number logged anew may be shorter than it was */
    if (!status && ftruncate(log->csv, log->row_at + (off_t)b.size) != 0) status = fail_errno(log->csv_path, "write it", err);
    fs_buffer_free(&b);
    return status;
}

fs_status fs_trainlog_scalars(fs_trainlog *log, int64_t step, const char *const *names, const double *values, size_t n, fs_error *err) {
    if (step < log->step || step < 0)
        return fs_fail(err, FS_E_INTERNAL, "%s: step %lld is logged after step %lld", log->csv_path, (long long)step, (long long)log->step);
    for (size_t i = 0; i < n; i++)
        if (column_of(log, names[i]) == log->columns) return fs_fail(err, FS_E_INTERNAL, "%s: has no column %s", log->csv_path, names[i]);
    if (step > log->step) {
        if (log->step >= 0) {
            log->row_at = lseek(log->csv, 0, SEEK_END);
            if (log->row_at < 0) return fail_errno(log->csv_path, "find its end", err);
        }
        log->step = step;
        for (size_t c = 0; c < log->columns; c++) log->has[c] = false;
    }
    for (size_t i = 0; i < n; i++) {
        const size_t c = column_of(log, names[i]);
        log->row[c] = values[i];
        log->has[c] = true;
    }
    fs_status status = write_row(log, err);
    if (status) return status;
    fs_buffer event = {0};
    fs_event_add_scalars(&event, wall_time(), step, names, values, n);
    const off_t end = lseek(log->events, 0, SEEK_END);
    if (event.failed)
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", log->events_path);
    else if (end < 0)
        status = fail_errno(log->events_path, "find its end", err);
    else
        status = put(log->events, log->events_path, event.data, event.size, end, err);
    fs_buffer_free(&event);
    return status;
}
