/* Checkpoints of a training run (snapshot.h). What makes them safe:
 *
 *   .checkpoint-N.tmp    being written; each file and then the folder is brought to the disk before it is renamed to checkpoint-N
 *   .checkpoint-N.old    an earlier checkpoint-N, while the new one takes its name (a run that was set back and came here again)
 *   .checkpoint-N.gone   being removed: renamed first, so that no half of one is ever found under its name
 *
 * fs_snapshot_find clears these away, and brings an .old back whose successor did not arrive. */
#include "train/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "format/archive.h"

static const char tensors_file[] = "training.safetensors", state_file[] = "state.json", sums_file[] = "SHA256SUMS";

enum { MAX_DEPTH = 4, MAX_SUMS = 1 << 22 };

fs_snapshot_options fs_snapshot_options_defaults(void) {
    return (fs_snapshot_options){.keep_last = 2, .keep_best = true};
}

/* ---- folders ------------------------------------------------------------------------------------------------------------ */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

/* False if something is left; a folder that is not there is fine. */
static bool remove_tree(const char *path) {
    return nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0 || !fs_path_exists(path);
}

static fs_status fail_errno(const char *path, const char *doing, fs_error *err) {
    const int e = errno;
    return fs_fail(err, FS_E_IO, "%s: cannot %s: %s%s", path, doing, strerror(e),
                   e == ENOSPC || e == EDQUOT ? "; free some space and resume" : "");
}

/* Brings a file or folder to the disk. */
static fs_status sync_path(const char *path, fs_error *err) {
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno(path, "open it", err);
    /* file systems that cannot do it for folders say EINVAL */
    const fs_status status = fsync(fd) != 0 && errno != EINVAL ? fail_errno(path, "bring it to the disk", err) : FS_OK;
    close(fd);
    return status;
}

/* "checkpoint-120" -> 120, else -1. */
static int64_t step_of(const char *name) {
    static const char prefix[] = "checkpoint-";
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return -1;
    const char *digits = name + sizeof prefix - 1;
    const size_t n = strlen(digits);
    if (n == 0 || n > 18 || strspn(digits, "0123456789") != n || (digits[0] == '0' && n > 1)) return -1;
    return strtoll(digits, NULL, 10);
}

static int newest_first(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

/* The steps of all checkpoint-N in dir; *steps is malloc'ed. */
static fs_status list_steps(const char *dir, int64_t **steps, size_t *count, fs_error *err) {
    DIR *d = opendir(dir);
    size_t capacity = 0;
    *steps = NULL;
    *count = 0;
    if (!d) return fail_errno(dir, "read it", err);
    for (struct dirent *e; (e = readdir(d));) {
        const int64_t step = step_of(e->d_name);
        if (step < 0) continue;
        if (*count == capacity) {
            capacity = capacity ? 2 * capacity : 16;
            int64_t *more = realloc(*steps, capacity * sizeof *more);
            if (!more) {
                closedir(d);
                free(*steps);
                *steps = NULL;
                return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
            }
            *steps = more;
        }
        (*steps)[(*count)++] = step;
    }
    closedir(d);
    if (*count) qsort(*steps, *count, sizeof **steps, newest_first);
    return FS_OK;
}

static char *checkpoint_path(const char *dir, int64_t step, const char *suffix) {
    return fs_format("%s/%scheckpoint-%" PRId64 "%s", dir, *suffix ? "." : "", step, suffix);
}

/* ---- SHA256SUMS --------------------------------------------------------------------------------------------------------- */

static fs_status hash_file(const char *path, char hex[65], fs_error *err) {
    fs_mapping m;
    const fs_status status = fs_map_file(path, &m, err);
    if (status) return status;
    fs_sha256_hex(m.data, m.size, hex);
    fs_unmap(&m);
    return FS_OK;
}

/* A line for every file below folder/within (within: "" or ending in '/'), each brought to the disk, and so are the folders. */
static fs_status sum_folder(const char *folder, const char *within, int depth, fs_buffer *lines, fs_error *err) {
    struct dirent **entries = NULL;
    char *here = fs_format("%s/%s", folder, within);
    const int n = here ? scandir(here, &entries, NULL, alphasort) : -1;
    fs_status status = n < 0 ? fs_fail(err, FS_E_IO, "%s: cannot read the folder", folder) : FS_OK;
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        char *path = fs_format("%s%s", here, name), *inner = fs_format("%s%s/", within, name);
        char hex[65];
        if (status || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
            /* nothing to do */
        } else if (!path || !inner) {
            status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", folder);
        } else if (fs_path_is_dir(path)) {
            status = depth < MAX_DEPTH ? sum_folder(folder, inner, depth + 1, lines, err)
                                       : fs_fail(err, FS_E_LIMIT, "%s: more than %d folders within each other", path, MAX_DEPTH);
        } else {
            status = sync_path(path, err);
            if (!status) status = hash_file(path, hex, err);
            if (!status) fs_buffer_printf(lines, "%s  %s%s\n", hex, within, name);
        }
        free(path);
        free(inner);
        free(entries[i]);
    }
    free(entries);
    if (!status && depth > 0) status = sync_path(here, err);
    free(here);
    return status;
}

static fs_status seal(const char *folder, fs_error *err) {
    fs_buffer lines = {0};
    char *path = fs_path_join(folder, sums_file);
    fs_status status = sum_folder(folder, "", 0, &lines, err);
    if (!status && (!path || lines.failed)) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", folder);
    if (!status) status = fs_write_file(path, lines.data, lines.size, err);
    if (!status) status = sync_path(folder, err);
    free(path);
    fs_buffer_free(&lines);
    return status;
}

/* One line of SHA256SUMS, which is untrusted: 64 digits, two blanks, a name within the folder. */
static fs_status check_line(const char *path, const char *line, fs_error *err) {
    char hex[65];
    if (strlen(line) < 67 || strspn(line, "0123456789abcdef") != 64 || strncmp(line + 64, "  ", 2) != 0 || line[66] == '/' ||
        strstr(line + 66, ".."))
        return fs_fail(err, FS_E_FORMAT, "%s/%s: a line is not \"SHA-256  name\"", path, sums_file);
    char *file = fs_path_join(path, line + 66);
    if (!file) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    fs_status status = hash_file(file, hex, err);
    if (!status && strncmp(hex, line, 64) != 0)
        status = fs_fail(err, FS_E_FORMAT, "%s: not the bytes that were written (SHA-256 is %.12s..., not %.12s...)", file, hex, line);
    free(file);
    return status;
}

static fs_status verify(const char *path, fs_error *err) {
    uint8_t *text = NULL;
    size_t size = 0;
    int needed = 0;
    char *sums = fs_path_join(path, sums_file);
    fs_status status = sums ? fs_read_file(sums, MAX_SUMS, &text, &size, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    char *rest = (char *)text;
    for (char *line; !status && rest && (line = strsep(&rest, "\n"));) {
        if (!*line) continue;
        status = check_line(path, line, err);
        if (!status) needed += strcmp(line + 66, tensors_file) == 0 || strcmp(line + 66, state_file) == 0;
    }
    if (!status && needed != 2) status = fs_fail(err, FS_E_FORMAT, "%s: does not name %s and %s", sums, tensors_file, state_file);
    free(text);
    free(sums);
    return status;
}

/* ---- writing ------------------------------------------------------------------------------------------------------------ */

static fs_status check_space(const char *dir, const fs_params *p, const fs_snapshot_options *o, fs_error *err) {
    struct statvfs fs;
    int64_t need = 12 * fs_params_total(p) + ((int64_t)1 << 20); /* and some for what is not numbers */
    for (size_t i = 0; i < o->buffer_count; i++) need += 4 * o->buffers[i].count;
    if (statvfs(dir, &fs) != 0) return FS_OK; /* then the writing will tell */
    const double room = (double)fs.f_bavail * (double)fs.f_frsize;
    if (room >= (double)need) return FS_OK;
    return fs_fail(err, FS_E_IO,
                   "%s: a checkpoint takes %.2f MB and %.2f MB are free; free some space and resume (earlier checkpoints are untouched)",
                   dir, (double)need / 1e6, room / 1e6);
}

static fs_status write_tensors(const char *folder, const fs_params *p, const fs_snapshot_options *o, fs_error *err) {
    const size_t n = 3 * p->count + o->buffer_count;
    fs_tensor *tensors = fs_alloc(n + 1, sizeof *tensors);
    const fs_tensor **list = fs_alloc(n + 1, sizeof *list);
    char **names = fs_alloc_zero(n + 1, sizeof *names), *path = fs_path_join(folder, tensors_file);
    bool ok = tensors && list && names && path;
    for (size_t i = 0; i < n && ok; i++) {
        static const char *const kinds[] = {"param", "m", "v"};
        if (i < 3 * p->count) {
            const fs_param *q = p->list[i / 3];
            tensors[i] = q->tensor;
            tensors[i].data = i % 3 == 0 ? q->data : i % 3 == 1 ? q->m : q->v;
            names[i] = fs_format("%s/%s", kinds[i % 3], q->name);
        } else {
            const fs_snapshot_buffer *b = &o->buffers[i - 3 * p->count];
            tensors[i] = (fs_tensor){.dtype = FS_DTYPE_F32, .ndim = 1, .shape = {b->count}, .data = b->data};
            names[i] = fs_format("buffer/%s", b->name);
        }
        list[i] = &tensors[i];
        ok = names[i] != NULL;
    }
    const fs_status status = ok ? fs_safetensors_write(path, list, (const char *const *)names, n, NULL, err)
                                : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", folder);
    for (size_t i = 0; i < n && names; i++) free(names[i]);
    free(names);
    free(list);
    free(tensors);
    free(path);
    return status;
}

static fs_status write_folder(const char *folder, const fs_params *p, const fs_train_state *state, const fs_snapshot_options *o,
                              fs_error *err) {
    if (!remove_tree(folder) || mkdir(folder, 0777) != 0) return fail_errno(folder, "make this folder", err);
    char *path = fs_path_join(folder, state_file);
    fs_status status = path ? write_tensors(folder, p, o, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", folder);
    if (!status) status = fs_train_state_write(path, state, err);
    if (!status && o->also) status = o->also(o->user, folder, err);
    if (!status) status = seal(folder, err);
    free(path);
    return status;
}

/* The written folder takes its name. */
static fs_status put_in_place(const char *dir, const char *temp, const char *path, const char *old, fs_error *err) {
    if (fs_path_exists(path) && (!remove_tree(old) || rename(path, old) != 0)) return fail_errno(path, "put it aside", err);
    if (rename(temp, path) != 0) {
        const fs_status status = fail_errno(path, "give it its name", err);
        rename(old, path); /* as it was, if there was one */
        return status;
    }
    const fs_status status = sync_path(dir, err);
    remove_tree(old);
    return status;
}

static fs_status write_pointer(const char *dir, const char *name, int64_t step, fs_error *err) {
    char *path = fs_path_join(dir, name), *text = fs_format("checkpoint-%" PRId64 "\n", step);
    const fs_status status =
        path && text ? fs_write_file(path, text, strlen(text), err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
    free(path);
    free(text);
    return status;
}

static bool retire(const char *dir, int64_t step) {
    char *path = checkpoint_path(dir, step, ""), *gone = checkpoint_path(dir, step, ".gone");
    const bool ok = path && gone && remove_tree(gone) && rename(path, gone) == 0 && remove_tree(gone);
    free(path);
    free(gone);
    return ok;
}

/* Removes what is older than the last few and not the best, and what is newer than the step just written: that is of a run set back. */
static void prune(const char *dir, const fs_train_state *state, const fs_snapshot_options *o) {
    int64_t *steps;
    size_t count;
    int kept = 0;
    fs_error err;
    if (list_steps(dir, &steps, &count, &err)) {
        fs_log(o->callbacks, FS_LOG_WARNING, "%s", err.message);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const bool newer = steps[i] > state->step, best = o->keep_best && state->has_best && steps[i] == state->best_step;
        const bool keep = !newer && (kept < (o->keep_last < 1 ? 1 : o->keep_last) || best);
        kept += !newer;
        if (!keep && !retire(dir, steps[i]))
            fs_log(o->callbacks, FS_LOG_WARNING, "%s/checkpoint-%" PRId64 ": cannot be removed: %s", dir, steps[i], strerror(errno));
    }
    free(steps);
}

fs_status fs_snapshot_write(const char *dir, const fs_params *p, const fs_train_state *state, const fs_snapshot_options *o, fs_error *err) {
    const fs_snapshot_options defaults = fs_snapshot_options_defaults();
    if (!o) o = &defaults;
    char *path = checkpoint_path(dir, state->step, ""), *temp = checkpoint_path(dir, state->step, ".tmp");
    char *old = checkpoint_path(dir, state->step, ".old"), *best = checkpoint_path(dir, state->best_step, "");
    fs_status status = FS_OK;
    if (!path || !temp || !old || !best) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
        goto done;
    }
    if ((status = fs_make_dirs(dir, err)) || (status = check_space(dir, p, o, err))) goto done;
    status = write_folder(temp, p, state, o, err);
    if (!status) status = put_in_place(dir, temp, path, old, err);
    if (status) {
        remove_tree(temp);
        goto done;
    }
    status = write_pointer(dir, "last", state->step, err);
    if (!status && state->has_best && fs_path_exists(best)) status = write_pointer(dir, "best", state->best_step, err);
    if (!status) status = sync_path(dir, err);
    if (!status) prune(dir, state, o);
done:
    free(best);
    free(old);
    free(temp);
    free(path);
    return status;
}

/* ---- finding ------------------------------------------------------------------------------------------------------------ */

/* What a kill has left: .checkpoint-N.tmp, .gone and .old. */
static void clean(const char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        const char *name = e->d_name, *dot = strrchr(name, '.');
        char *plain = name[0] == '.' && dot > name ? fs_format("%.*s", (int)(dot - name - 1), name + 1) : NULL;
        char *path = fs_path_join(dir, name), *whole = plain ? fs_path_join(dir, plain) : NULL;
        if (path && whole && step_of(plain) >= 0) {
            if (strcmp(dot, ".tmp") == 0 || strcmp(dot, ".gone") == 0)
                remove_tree(path);
            else if (strcmp(dot, ".old") == 0 && (fs_path_exists(whole) || rename(path, whole) != 0))
                remove_tree(path);
        }
        free(plain);
        free(path);
        free(whole);
    }
    if (d) closedir(d);
}

fs_status fs_snapshot_find(const char *dir, const fs_callbacks *cb, char **path, fs_error *err) {
    int64_t *steps = NULL;
    size_t count = 0;
    fs_error why = {0};
    *path = NULL;
    if (!fs_path_is_dir(dir)) return FS_OK;
    clean(dir);
    fs_status status = list_steps(dir, &steps, &count, err);
    for (size_t i = 0; i < count && !*path && !status; i++) {
        char *candidate = checkpoint_path(dir, steps[i], "");
        if (!candidate)
            status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
        else if (verify(candidate, &why) == FS_OK)
            *path = candidate;
        else {
            fs_log(cb, FS_LOG_WARNING, "checkpoint-%" PRId64 " is passed over: %s", steps[i], why.message);
            free(candidate);
        }
    }
    if (!status && count && !*path)
        status =
            fs_fail(err, FS_E_FORMAT, "%s: none of its %zu checkpoints is whole (%s); remove them to begin anew", dir, count, why.message);
    free(steps);
    return status;
}

fs_status fs_snapshot_discard(const char *dir, fs_error *err) {
    int64_t *steps = NULL;
    size_t count = 0;
    if (!fs_path_is_dir(dir)) return FS_OK;
    clean(dir);
    fs_status status = list_steps(dir, &steps, &count, err);
    for (size_t i = 0; i < count && !status; i++) {
        char *path = checkpoint_path(dir, steps[i], "");
        if (!path) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
        else if (!remove_tree(path)) status = fs_fail(err, FS_E_IO, "%s: cannot be removed", path);
        free(path);
    }
    free(steps);
    return status;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------ */

/* A tensor of the file, checked; with `to`, its values are copied there. */
static fs_status take(fs_archive *a, const char *kind, const char *name, int ndim, const int64_t *shape, float *to, fs_error *err) {
    char *full = fs_format("%s/%s", kind, name);
    if (!full) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", name);
    const fs_tensor *t = fs_archive_find(a, full);
    fs_status status = FS_OK;
    if (!t)
        status = fs_fail(err, FS_E_MISMATCH, "%s: has no %s, which is trained now; resume with the settings it was trained with",
                         fs_archive_path(a), full);
    else if (t->dtype != FS_DTYPE_F32 || t->ndim != ndim || memcmp(t->shape, shape, (size_t)ndim * sizeof *shape) != 0)
        status =
            fs_fail(err, FS_E_MISMATCH, "%s: %s has another shape than what is trained now; resume with the settings it was trained with",
                    fs_archive_path(a), full);
    else if (to)
        memcpy(to, t->data, (size_t)fs_tensor_count(t) * sizeof(float));
    free(full);
    return status;
}

static fs_status take_all(fs_archive *a, fs_params *p, const fs_snapshot_options *o, bool copy, fs_error *err) {
    fs_status status = FS_OK;
    for (size_t i = 0; i < p->count && !status; i++) {
        fs_param *q = p->list[i];
        status = take(a, "param", q->name, q->tensor.ndim, q->tensor.shape, copy ? q->data : NULL, err);
        if (!status) status = take(a, "m", q->name, q->tensor.ndim, q->tensor.shape, copy ? q->m : NULL, err);
        if (!status) status = take(a, "v", q->name, q->tensor.ndim, q->tensor.shape, copy ? q->v : NULL, err);
    }
    for (size_t i = 0; i < o->buffer_count && !status; i++)
        status = take(a, "buffer", o->buffers[i].name, 1, &o->buffers[i].count, copy ? o->buffers[i].data : NULL, err);
    for (size_t i = 0; i < fs_archive_count(a) && !status; i++)
        if (!fs_archive_get(a, i).used)
            status = fs_fail(err, FS_E_MISMATCH, "%s: holds %s, which is not trained now; resume with the settings it was trained with",
                             fs_archive_path(a), fs_archive_get(a, i).name);
    return status;
}

fs_status fs_snapshot_read_state(const char *path, fs_train_state *state, fs_error *err) {
    char *file = fs_path_join(path, state_file);
    const fs_status status = file ? fs_train_state_read(file, state, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    free(file);
    return status;
}

fs_status fs_snapshot_read(const char *path, fs_params *p, fs_train_state *state, const fs_snapshot_options *o, fs_error *err) {
    const fs_snapshot_options defaults = fs_snapshot_options_defaults();
    fs_train_state s = {0};
    fs_archive *a = NULL;
    char *file = fs_path_join(path, tensors_file);
    if (!o) o = &defaults;
    fs_status status = file ? verify(path, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    if (!status) status = fs_archive_open(file, &a, err);
    if (!status) status = fs_snapshot_read_state(path, &s, err);
    if (!status) status = take_all(a, p, o, false, err);
    if (!status) status = take_all(a, p, o, true, err);
    if (!status) {
        fs_train_state_free(state);
        *state = s;
        s = (fs_train_state){0};
    }
    fs_train_state_free(&s);
    fs_archive_free(a);
    free(file);
    return status;
}
