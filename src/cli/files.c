/* Result files of the command line: paths, folders, and writing text so that a file is whole or not there. */
#include "cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *cli_path(const char *dir, const char *name, const char *suffix) {
    size_t n = strlen(dir);
    return cli_format("%s%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name, suffix);
}

bool cli_exists(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

static fs_status io_error(cli_term *t, const char *path, const char *what) {
    cli_error(t, "%s: %s: %s", path, what, strerror(errno));
    return FS_E_IO;
}

/* mkdir -p. */
static bool make_folders(const char *dir) {
    char *path = cli_format("%s", dir);
    bool ok = true;
    for (char *p = path + 1; ok && *p; p++) {
        if (*p != '/') continue;
        *p = 0;
        ok = mkdir(path, 0777) == 0 || errno == EEXIST;
        *p = '/';
    }
    if (ok) ok = mkdir(path, 0777) == 0 || errno == EEXIST;
    free(path);
    return ok;
}

/* A new file beside `path`; *temporary is its name. -1 on failure. */
static int open_temporary(const char *path, char **temporary) {
    *temporary = cli_format("%s.tmp-XXXXXX", path);
    int fd = mkstemp(*temporary);
    if (fd >= 0) {
        mode_t mask = umask(0); /* mkstemp makes 0600; results are ordinary files */
        umask(mask);
        fchmod(fd, 0666 & ~mask);
    }
    return fd;
}

fs_status cli_folder_ready(cli_term *t, const char *dir, bool *made) {
    struct stat st;
    *made = !cli_exists(dir);
    if (!make_folders(dir)) return io_error(t, dir, "cannot make this output folder");
    if (stat(dir, &st) != 0) return io_error(t, dir, "cannot use this output folder");
    if (!S_ISDIR(st.st_mode)) return cli_error(t, "%s: the output folder is a file; choose another with -o", dir), FS_E_IO;
    char *probe = cli_path(dir, "", ".probe"), *name;
    int fd = open_temporary(probe, &name);
    fs_status status = FS_OK;
    if (fd < 0)
        status = io_error(t, dir, "cannot write to this output folder");
    else
        close(fd), unlink(name);
    free(name), free(probe);
    return status;
}

void cli_folder_leave(const char *dir, bool made) {
    if (made) rmdir(dir); /* refuses where something lies in it */
}

fs_status cli_write_text(cli_term *t, const char *path, const char *text) {
    fs_status status = FS_OK;
    char *name;
    int fd = open_temporary(path, &name);
    if (fd < 0) {
        status = io_error(t, path, "cannot be written");
        free(name);
        return status;
    }
    for (size_t left = strlen(text); left && !status;) {
        ssize_t n = write(fd, text, left);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            status = io_error(t, path, "writing failed");
        else
            text += n, left -= (size_t)n;
    }
    if (!status && fsync(fd) != 0 && errno != EINVAL && errno != EROFS) status = io_error(t, path, "writing failed");
    if (close(fd) != 0 && !status) status = io_error(t, path, "writing failed");
    if (!status && rename(name, path) != 0) status = io_error(t, path, "cannot be put in place");
    if (status) unlink(name);
    free(name);
    return status;
}

char *cli_read_text(const char *path) {
    enum { LIMIT = 64 << 20 };
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    char *text = NULL;
    size_t size = 0, room = 0;
    for (;;) {
        if (size + 1 >= room) {
            if (room >= LIMIT) break;
            char *more = realloc(text, room = room ? room * 2 : 16384);
            if (!more) break;
            text = more;
        }
        size_t n = fread(text + size, 1, room - size - 1, f);
        if (n == 0) break;
        size += n;
    }
    bool ok = text && !ferror(f) && feof(f) && (text[size] = 0, strlen(text) == size);
    fclose(f);
    if (ok) return text;
    free(text);
    return NULL;
}
