/* A file that is half there. Its bytes stand at their final offsets in NAME.part, which has the file's full size and holes; NAME.part.json
 * says how many bytes of each part are valid, and of which file (size and checksum), so that bytes of another revision are never taken up.
 *
 * The state is written (whole, by rename) after the bytes it speaks of, so a process killed at any moment leaves a state that claims too
 * little, never too much; bytes reach the disk before their state does (fdatasync), so the same holds for the machine. Whatever happens,
 * the checksum of the whole file is taken before it gets its name. */
#include "net/net.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/json.h"

enum { MAX_PARTS = 65536, MAX_STATE_BYTES = 4 << 20 };

static fs_status fail_errno(fs_error *err, const char *path, const char *doing) {
    int e = errno;
    const char *hint = e == ENOSPC || e == EDQUOT                ? "; free some space and run again, what is there is kept"
                       : e == EACCES || e == EPERM || e == EROFS ? "; check the permissions"
                                                                 : "";
    return fs_fail(err, FS_E_IO, "%s: cannot %s: %s%s", path, doing, strerror(e), hint);
}

int64_t fs_net_part_size(const fs_net_partial *p, size_t part) {
    return fs_min_i64(p->part_bytes, p->entry->size - (int64_t)part * p->part_bytes);
}

int64_t fs_net_partial_have(const fs_net_partial *p) {
    int64_t n = 0;
    for (size_t i = 0; i < p->count; i++) n += p->parts[i].have;
    return n;
}

int64_t fs_net_partial_ready(const fs_net_partial *p) {
    for (size_t i = 0; i < p->count; i++)
        if (p->parts[i].have < fs_net_part_size(p, i)) return (int64_t)i * p->part_bytes + p->parts[i].have;
    return p->entry->size;
}

/* Room for the parts, all empty. A file of size 0 has none. */
static fs_status divide(fs_net_partial *p, int64_t part_bytes, fs_error *err) {
    const int64_t size = p->entry->size, least = size / MAX_PARTS + 1;
    if (part_bytes < least) part_bytes = least;
    const size_t count = (size_t)((size + part_bytes - 1) / part_bytes);
    fs_net_part *parts = fs_alloc_zero(count ? count : 1, sizeof *parts);
    if (!parts) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", p->target);
    free(p->parts);
    p->parts = parts;
    p->count = count;
    p->part_bytes = part_bytes;
    return FS_OK;
}

/* Takes up the state of an earlier run; false if there is none that fits (then nothing has changed that matters). */
static bool load_state(fs_net_partial *p) {
    fs_json j = {0};
    uint8_t *data = NULL;
    size_t size = 0;
    int64_t version = 0, bytes = 0, part_bytes = 0;
    const char *hash = "";
    bool ok = false;
    if (fs_read_file(p->state_path, MAX_STATE_BYTES, &data, &size, NULL) || fs_json_parse(p->state_path, data, size, &j, NULL)) goto done;
    if (fs_json_int(&j, "version", FS_JSON_REQUIRED, 1, 1, &version, NULL) ||
        fs_json_int(&j, "size", FS_JSON_REQUIRED, 0, FS_NET_MAX_BYTES, &bytes, NULL) ||
        fs_json_int(&j, "part_bytes", FS_JSON_REQUIRED, 1, FS_NET_MAX_BYTES, &part_bytes, NULL) ||
        fs_json_string(&j, "checksum", FS_JSON_REQUIRED, &hash, NULL))
        goto done;
    if (bytes != p->entry->size || strcmp(hash, p->entry->hash) != 0 || divide(p, part_bytes, NULL) || p->part_bytes != part_bytes)
        goto done;
    const json_t *have = json_object_get(j.root, "have");
    if (!json_is_array(have) || json_array_size(have) != p->count) goto done;
    for (size_t i = 0; i < p->count; i++) {
        const json_t *n = json_array_get(have, i);
        if (!json_is_integer(n) || json_integer_value(n) < 0 || json_integer_value(n) > fs_net_part_size(p, i)) goto done;
        p->parts[i].have = json_integer_value(n);
    }
    ok = true;
done:
    fs_json_close(&j);
    free(data);
    return ok;
}

fs_status fs_net_partial_reset(fs_net_partial *p, int64_t part_bytes, fs_error *err) {
    if (unlink(p->state_path) != 0 && errno != ENOENT) return fail_errno(err, p->state_path, "remove it");
    if (ftruncate(p->fd, 0) != 0 || ftruncate(p->fd, p->entry->size) != 0) return fail_errno(err, p->data_path, "give it its size");
    return divide(p, part_bytes, err);
}

fs_status fs_net_partial_open(fs_net_partial *p, const char *dir, const fs_net_entry *e, int64_t part_bytes, fs_error *err) {
    fs_status status = FS_OK;
    struct stat here, named;
    char *folder = NULL;
    *p = (fs_net_partial){.entry = e, .fd = -1};
    p->target = fs_path_join(dir, e->path);
    p->data_path = p->target ? fs_format("%s%s", p->target, fs_net_partial_suffix) : NULL;
    p->state_path = p->target ? fs_format("%s%s", p->target, fs_net_state_suffix) : NULL;
    p->new_path = p->target ? fs_format("%s%s", p->target, fs_net_new_suffix) : NULL;
    folder = fs_strdup(p->target);
    if (!p->target || !p->data_path || !p->state_path || !p->new_path || !folder) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", e->path);
        goto done;
    }
    *strrchr(folder, '/') = 0; /* fs_path_join put one in */
    if (*folder && (status = fs_make_dirs(folder, err))) goto done;
    p->fd = open(p->data_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (p->fd < 0) {
        status = fail_errno(err, p->data_path, "open it");
        goto done;
    }
    /* One writer; and the file locked must still be the one of that name, for another run may have finished and renamed it meanwhile. */
    if (flock(p->fd, LOCK_EX | LOCK_NB) != 0 || fstat(p->fd, &here) != 0 || stat(p->data_path, &named) != 0 ||
        here.st_ino != named.st_ino || !S_ISREG(here.st_mode)) {
        status = fs_fail(err, FS_E_IO, "%s: another run is downloading this file; wait for it or stop it", p->data_path);
        close(p->fd);
        p->fd = -1;
        goto done;
    }
    if (here.st_size == e->size && load_state(p)) goto done;
    status = fs_net_partial_reset(p, part_bytes, err);
done:
    free(folder);
    if (status) fs_net_partial_close(p);
    return status;
}

fs_status fs_net_partial_write(fs_net_partial *p, size_t part, const void *data, size_t size, fs_error *err) {
    fs_net_part *t = &p->parts[part];
    const char *bytes = data;
    while (size > 0) {
        ssize_t n = pwrite(p->fd, bytes, size, (off_t)((int64_t)part * p->part_bytes + t->have));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno(err, p->data_path, "write it");
        bytes += n;
        size -= (size_t)n;
        t->have += n;
    }
    return FS_OK;
}

/* As fs_write_file, but through a temporary file of one fixed name (the lock makes that safe), which a killed run leaves once and not each
 * time. */
static fs_status write_state(const fs_net_partial *p, const fs_buffer *b, fs_error *err) {
    fs_status status = FS_OK;
    int fd = open(p->new_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (fd < 0) return fail_errno(err, p->new_path, "write it");
    for (size_t at = 0; at < b->size && !status;) {
        ssize_t n = write(fd, b->data + at, b->size - at);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            status = fail_errno(err, p->new_path, "write it");
        else
            at += (size_t)n;
    }
    if (!status && fsync(fd) != 0 && errno != EINVAL) status = fail_errno(err, p->new_path, "write it");
    if (close(fd) != 0 && !status) status = fail_errno(err, p->new_path, "write it");
    if (!status && rename(p->new_path, p->state_path) != 0) status = fail_errno(err, p->state_path, "write it");
    return status;
}

fs_status fs_net_partial_save(fs_net_partial *p, fs_error *err) {
    fs_buffer b = {0};
    if (fdatasync(p->fd) != 0 && errno != EINVAL) return fail_errno(err, p->data_path, "write it");
    fs_buffer_printf(&b, "{\"version\": 1, \"size\": %lld, \"checksum\": \"%s\", \"part_bytes\": %lld, \"have\": [",
                     (long long)p->entry->size, p->entry->hash, (long long)p->part_bytes);
    for (size_t i = 0; i < p->count; i++) fs_buffer_printf(&b, "%s%lld", i ? ", " : "", (long long)p->parts[i].have);
    fs_buffer_puts(&b, "]}\n");
    fs_status status = b.failed ? fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", p->state_path) : write_state(p, &b, err);
    fs_buffer_free(&b);
    return status;
}

fs_status fs_net_partial_commit(fs_net_partial *p, fs_error *err) {
    if (fsync(p->fd) != 0 && errno != EINVAL) return fail_errno(err, p->data_path, "write it");
    if (rename(p->data_path, p->target) != 0) return fail_errno(err, p->target, "put it in place");
    unlink(p->state_path);
    unlink(p->new_path);
    return FS_OK;
}

void fs_net_partial_drop(fs_net_partial *p) {
    unlink(p->state_path);
    unlink(p->new_path);
    unlink(p->data_path);
}

void fs_net_partial_close(fs_net_partial *p) {
    if (p->fd >= 0) close(p->fd);
    free(p->parts);
    free(p->target);
    free(p->data_path);
    free(p->state_path);
    free(p->new_path);
    *p = (fs_net_partial){.fd = -1};
}
