/* Writing so that a crash, a kill or a full disk leaves either the old or the whole new thing under the name: a file by way of a temporary
 * file beside it, a folder of files by way of a hidden folder beside it, both synced before they are renamed. */
#include "base/base.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

static fs_status fail_errno(fs_error *err, const char *doing, const char *path) {
    const int e = errno;
    const fs_status status = e == ENOENT || e == ENOTDIR ? FS_E_NOT_FOUND : e == ENOMEM ? FS_E_NO_MEMORY : FS_E_IO;
    const char *hint = e == ENOENT || e == ENOTDIR               ? "; check the path"
                       : e == EACCES || e == EPERM || e == EROFS ? "; check the permissions"
                       : e == ENOSPC || e == EDQUOT              ? "; free some space and run again"
                                                                 : "";
    return fs_fail(err, status, "%s: cannot %s: %s%s", path, doing, strerror(e), hint);
}

/* ---- a file ---- */

fs_status fs_output_open(const char *path, fs_output *out, fs_error *err) {
    struct stat st;
    const mode_t mode = stat(path, &st) == 0 ? st.st_mode & 0777 : 0666;
    *out = (fs_output){.fd = -1};
    if (fs_path_is_dir(path)) return fs_fail(err, FS_E_USAGE, "%s: is a directory; name a file to write", path);
    out->path = fs_strdup(path);
    out->temp = fs_format("%s.tmp-%ld", path, (long)getpid());
    if (!out->path || !out->temp) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    out->fd = open(out->temp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (out->fd < 0) return fail_errno(err, "write it", path);
    out->open = true;
    return FS_OK;
}

fs_status fs_output_put(fs_output *o, const void *data, size_t size, fs_error *err) {
    for (size_t at = 0; at < size;) {
        const size_t some = size - at < ((size_t)1 << 30) ? size - at : (size_t)1 << 30;
        const ssize_t w = write(o->fd, (const char *)data + at, some);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return fail_errno(err, "write it", o->path);
        at += (size_t)w;
    }
    o->size += size;
    return FS_OK;
}

fs_status fs_output_commit(fs_output *o, fs_error *err) {
    if (fsync(o->fd) != 0 && errno != EINVAL) return fail_errno(err, "write it", o->path);
    const int closed = close(o->fd);
    o->fd = -1;
    if (closed != 0 || rename(o->temp, o->path) != 0) return fail_errno(err, "write it", o->path);
    o->open = false;
    return FS_OK;
}

void fs_output_drop(fs_output *o) {
    if (o->open && o->fd >= 0) close(o->fd);
    if (o->open) unlink(o->temp);
    free(o->path);
    free(o->temp);
    *o = (fs_output){.fd = -1};
}

/* ---- a folder ---- */

/* dir, or the nearest folder above it that is there; malloc'ed. */
static char *existing(const char *dir) {
    char *path = fs_strdup(dir);
    while (path && !fs_path_is_dir(path)) {
        char *slash = strrchr(path, '/');
        if (!slash) {
            free(path);
            return fs_strdup(".");
        }
        slash[slash == path] = '\0';
    }
    return path;
}

fs_status fs_check_room(const char *dir, size_t bytes, fs_error *err) {
    struct statvfs v;
    size_t room;
    char *there = existing(dir);
    if (!there) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    const bool known = statvfs(there, &v) == 0 && fs_mul_size((size_t)v.f_bavail, (size_t)v.f_frsize, &room);
    free(there);
    if (!known || room >= bytes) return FS_OK;
    return fs_fail(err, FS_E_IO, "%s: expected %.1f MB of free disk space, found %.1f MB; free some or name another disk", dir,
                   (double)bytes / 1e6, (double)room / 1e6);
}

static bool is_ours(const fs_folder *f, const char *name) {
    for (const char *const *p = f->ours; *p; p++)
        if (fnmatch(*p, name, 0) == 0) return true;
    return strstr(name, ".tmp-") != NULL; /* of a killed run */
}

/* Takes a folder's files away, and the folder; on the way, or instead (look), tells of one that is not ours. */
static fs_status empty(const fs_folder *f, const char *dir, bool look, fs_error *err) {
    DIR *d = opendir(dir);
    fs_status status = FS_OK;
    if (!d) return errno == ENOENT ? FS_OK : fail_errno(err, "open it", dir);
    for (struct dirent *e; !status && (e = readdir(d));) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        const bool plain = fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && !S_ISDIR(st.st_mode);
        if (!plain || !is_ours(f, e->d_name))
            status =
                fs_fail(err, FS_E_USAGE, "%s: holds %s, which would be lost; name a folder that is empty or not there", f->path, e->d_name);
        else if (!look && unlinkat(dirfd(d), e->d_name, 0) != 0)
            status = fail_errno(err, "empty it", dir);
    }
    closedir(d);
    if (!status && !look && rmdir(dir) != 0) status = fail_errno(err, "take it away", dir);
    return status;
}

fs_status fs_folder_begin(const char *path, const char *const *ours, fs_folder *out, fs_error *err) {
    *out = (fs_folder){.ours = ours};
    if (fs_path_exists(path) && !fs_path_is_dir(path)) return fs_fail(err, FS_E_USAGE, "%s: is a file; name a folder to write", path);
    char *real = realpath(path, NULL); /* a link to a folder stays, and what it leads to is replaced */
    out->path = real ? real : fs_strdup(path);
    size_t n = out->path ? strlen(out->path) : 0;
    while (n > 1 && out->path[n - 1] == '/') out->path[--n] = '\0';
    const char *base = out->path ? fs_path_base(out->path) : NULL;
    out->temp = base ? fs_format("%.*s.%s.part", (int)(base - out->path), out->path, base) : NULL;
    if (!out->temp) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    fs_status status = empty(out, out->path, true, err);
    if (!status) status = empty(out, out->temp, false, err);
    return status ? status : fs_make_dirs(out->temp, err);
}

static void sync_dir(const char *dir) {
    const int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return;
    fsync(fd); /* some file systems cannot; the renames are in order all the same */
    close(fd);
}

/* old and new change places, or new takes the place of an old that is not there. */
static fs_status swap(const fs_folder *f, fs_error *err) {
    if (!fs_path_exists(f->path)) return rename(f->temp, f->path) == 0 ? FS_OK : fail_errno(err, "write it", f->path);
    if (renameat2(AT_FDCWD, f->temp, AT_FDCWD, f->path, RENAME_EXCHANGE) == 0) return FS_OK;
    if (errno != EINVAL && errno != ENOSYS && errno != ENOTSUP) return fail_errno(err, "write it", f->path);
    /* a file system that cannot exchange: for a moment neither is under the name, both are on the disk */
    char *aside = fs_format("%s.old", f->temp);
    fs_status status = aside ? empty(f, aside, false, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status && (rename(f->path, aside) != 0 || rename(f->temp, f->path) != 0 || rename(aside, f->temp) != 0))
        status = fail_errno(err, "write it", f->path);
    free(aside);
    return status;
}

fs_status fs_folder_commit(fs_folder *f, fs_error *err) {
    sync_dir(f->temp);
    fs_status status = empty(f, f->path, true, err); /* once more: much time may have passed */
    if (!status) status = swap(f, err);
    if (status) return status;
    const char *base = fs_path_base(f->path);
    char *parent = base > f->path ? fs_format("%.*s", (int)(base - f->path), f->path) : fs_strdup(".");
    if (parent) sync_dir(parent);
    free(parent);
    return FS_OK;
}

void fs_folder_drop(fs_folder *f) {
    if (f->temp) empty(f, f->temp, false, NULL); /* after a commit, what was there before */
    free(f->path);
    free(f->temp);
    *f = (fs_folder){0};
}
