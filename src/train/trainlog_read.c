/* Reading a training run's log.csv and settings.json back (report.h). The file may be in the making: a last line without its end is left
 * out. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "train/report.h"
#include "train/trainlog.h"

static const size_t max_csv = (size_t)1 << 30, max_settings = (size_t)1 << 24;
static const int64_t max_step = 1000000000000000; /* that a double holds exactly, with room to spare */

void fs_run_free(fs_run *r) {
    for (size_t i = 0; i < r->columns; i++) {
        free(r->names[i]);
        free(r->values[i]);
    }
    free(r->dir);
    free(r->steps);
    free(r->settings);
    *r = (fs_run){0};
}

static fs_status bad_line(const char *path, size_t line, const char *what, fs_error *err) {
    return fs_fail(err, FS_E_FORMAT, "%s: line %zu %s; is this the log of a training run?", path, line, what);
}

static fs_status read_header(fs_run *r, const char *path, char *line, fs_error *err) {
    const char *name = strsep(&line, ",");
    if (strcmp(name, "step") != 0) return bad_line(path, 1, "does not begin with \"step\"", err);
    while ((name = strsep(&line, ","))) {
        if (!*name || strlen(name) > 63) return bad_line(path, 1, "names no column between two commas, or a very long one", err);
        if (r->columns == FS_RUN_COLUMNS) return fs_fail(err, FS_E_LIMIT, "%s: more than %d columns", path, FS_RUN_COLUMNS);
        r->names[r->columns] = fs_strdup(name);
        if (!r->names[r->columns++]) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    }
    return FS_OK;
}

static fs_status read_row(fs_run *r, const char *path, size_t number, char *line, fs_error *err) {
    char *end;
    const char *field = strsep(&line, ",");
    const int64_t step = strtoll(field, &end, 10);
    if (end == field || *end || step < 0 || step > max_step) return bad_line(path, number, "does not begin with a step", err);
    if (r->rows && step <= r->steps[r->rows - 1]) return bad_line(path, number, "is of an earlier step than the line before", err);
    size_t i = 0;
    for (; (field = strsep(&line, ",")); i++) {
        if (i == r->columns) return bad_line(path, number, "has more fields than the header", err);
        r->values[i][r->rows] = *field ? strtod(field, &end) : (double)NAN;
        if (*field && *end) return bad_line(path, number, "holds something that is no number", err);
    }
    if (i != r->columns) return bad_line(path, number, "has fewer fields than the header", err);
    r->steps[r->rows++] = step;
    return FS_OK;
}

static bool make_room(fs_run *r, const char *text) {
    size_t lines = 1;
    for (const char *p = text; (p = strchr(p, '\n')); p++) lines++;
    r->steps = fs_alloc(lines, sizeof *r->steps);
    bool ok = r->steps != NULL;
    for (size_t i = 0; i < r->columns && ok; i++) ok = (r->values[i] = fs_alloc(lines, sizeof(double))) != NULL;
    return ok;
}

fs_status fs_run_parse(const char *path, char *text, fs_run *out, fs_error *err) {
    fs_run r = {0};
    fs_status status = FS_OK;
    char *end = strchr(text, '\n');
    if (!end) return fs_fail(err, FS_E_FORMAT, "%s: has no step yet", path);
    *end = '\0';
    if ((status = read_header(&r, path, text, err))) goto done;
    if (!make_room(&r, end + 1)) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
        goto done;
    }
    size_t number = 1;
    for (char *line = end + 1; !status && (end = strchr(line, '\n')); line = end + 1) {
        *end = '\0';
        status = read_row(&r, path, ++number, line, err);
    }
    if (!status && r.rows == 0) status = fs_fail(err, FS_E_FORMAT, "%s: has no step yet", path);
done:
    if (status)
        fs_run_free(&r);
    else
        *out = r;
    return status;
}

static fs_status read_csv(fs_run *r, const char *path, fs_error *err) {
    uint8_t *text = NULL;
    size_t size = 0;
    fs_status status = fs_read_file(path, max_csv, &text, &size, err);
    if (!status) status = fs_run_parse(path, (char *)text, r, err);
    free(text);
    return status;
}

fs_status fs_run_read(const char *dir, fs_run *out, fs_error *err) {
    fs_run r = {0};
    char *csv = fs_path_join(dir, FS_TRAINLOG_CSV), *settings = fs_path_join(dir, FS_TRAINLOG_SETTINGS);
    size_t size;
    fs_status status = FS_OK;
    if (!csv || !settings)
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    else if (!fs_path_is_dir(dir))
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: there is no such folder; give the folder a training run writes to", dir);
    else if (!fs_path_exists(csv))
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: is not there; give the folder a training run writes to", csv);
    if (!status) status = read_csv(&r, csv, err);
    if (!status && fs_path_exists(settings)) status = fs_read_file(settings, max_settings, (uint8_t **)(void *)&r.settings, &size, err);
    if (!status && !(r.dir = fs_strdup(dir))) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    free(csv);
    free(settings);
    if (status)
        fs_run_free(&r);
    else
        *out = r;
    return status;
}
