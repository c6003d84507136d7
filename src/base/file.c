/* Files: mapping, whole reads with a limit, and writes that leave either the whole new file or the old one. */
#include "base/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static fs_status fail_errno(fs_error *err, const char *doing, const char *path) {
    int e = errno;
    fs_status status = e == ENOENT || e == ENOTDIR ? FS_E_NOT_FOUND : e == ENOMEM ? FS_E_NO_MEMORY : FS_E_IO;
    const char *hint = e == ENOENT || e == ENOTDIR ? "; check the path"
                       : e == EACCES || e == EPERM || e == EROFS ? "; check the permissions"
                       : e == ENOSPC || e == EDQUOT ? "; free some space and run again" : "";
    return fs_fail(err, status, "%s: cannot %s: %s%s", path, doing, strerror(e), hint);
}

bool fs_path_exists(const char *path) { return access(path, F_OK) == 0; }

bool fs_path_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t fs_path_bytes(const char *path) {
    struct stat st;
    int64_t bytes = 0;
    if (!path || stat(path, &st) != 0) return 0;
    if (!S_ISDIR(st.st_mode)) return (int64_t)st.st_size;
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        if (fstatat(dirfd(dir), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode)) bytes += (int64_t)st.st_size;
    if (dir) closedir(dir);
    return bytes;
}

static fs_status open_regular(const char *path, int *fd, size_t *size, fs_error *err) {
    struct stat st;
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* O_NONBLOCK: a named pipe must not hang us */
    if (*fd < 0) return fail_errno(err, "open it", path);
    fs_status status = FS_OK;
    if (fstat(*fd, &st) != 0) status = fail_errno(err, "read its size", path);
    else if (S_ISDIR(st.st_mode)) status = fs_fail(err, FS_E_USAGE, "%s: is a directory; a file is needed here", path);
    else if (!S_ISREG(st.st_mode)) status = fs_fail(err, FS_E_UNSUPPORTED, "%s: is no regular file; copy it to one first", path);
    else *size = (size_t)st.st_size;
    if (status) close(*fd), *fd = -1;
    return status;
}

fs_status fs_map_file(const char *path, fs_mapping *out, fs_error *err) {
    int fd;
    size_t size = 0;
    *out = (fs_mapping){0};
    fs_status status = open_regular(path, &fd, &size, err);
    if (status) return status;
    if (size > 0) {
        void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) status = fail_errno(err, "map it", path);
        else *out = (fs_mapping){p, size};
    }
    close(fd);
    return status;
}

void fs_unmap(fs_mapping *m) {
    if (m->data) munmap((void *)(uintptr_t)m->data, m->size);
    *m = (fs_mapping){0};
}

fs_status fs_read_file(const char *path, size_t max_bytes, uint8_t **data, size_t *size, fs_error *err) {
    int fd;
    size_t n = 0, got = 0;
    *data = NULL;
    *size = 0;
    fs_status status = open_regular(path, &fd, &n, err);
    if (status) return status;
    uint8_t *bytes = NULL;
    if (n > max_bytes) {
        status = fs_fail(err, FS_E_LIMIT, "%s: %zu bytes, the limit is %zu", path, n, max_bytes);
        goto done;
    }
    bytes = malloc(n + 1);
    if (!bytes) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for its %zu bytes", path, n);
        goto done;
    }
    while (got < n) {
        ssize_t r = read(fd, bytes + got, n - got);
        if (r < 0 && errno == EINTR) continue;
        if (r < 0) {
            status = fail_errno(err, "read it", path);
            goto done;
        }
        if (r == 0) break; /* the file shrank meanwhile: what is there is what we have */
        got += (size_t)r;
    }
    bytes[got] = 0;
    *data = bytes;
    *size = got;
    bytes = NULL;
done:
    free(bytes);
    close(fd);
    return status;
}

fs_status fs_write_file(const char *path, const void *data, size_t size, fs_error *err) {
    fs_output o;
    fs_status status = fs_output_open(path, &o, err);
    if (!status) status = fs_output_put(&o, data, size, err);
    if (!status) status = fs_output_commit(&o, err);
    fs_output_drop(&o);
    return status;
}

fs_status fs_make_dirs(const char *path, fs_error *err) {
    char *copy = fs_strdup(path);
    if (!copy) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    fs_status status = FS_OK;
    for (char *p = copy + 1; status == FS_OK; p++) {
        if (*p != '/' && *p != '\0') continue;
        char c = *p;
        *p = '\0';
        if (mkdir(copy, 0777) != 0 && errno != EEXIST) status = fail_errno(err, "make this directory", copy);
        else if (!fs_path_is_dir(copy)) status = fs_fail(err, FS_E_USAGE, "%s: is a file; a directory is needed here", copy);
        *p = c;
        if (c == '\0') break;
    }
    free(copy);
    return status;
}

double fs_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
