/* What is in a folder, in an order that no file system changes; and what a file's name says: its stem, a mask's suffix, a type's domain. */
#include "data/tree.h"
#include "image/image.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

void fs_names_free(fs_names *n) {
    for (size_t i = 0; i < n->count; i++) free(n->items[i]);
    free(n->items);
    *n = (fs_names){0};
}

bool fs_names_add(fs_names *n, const char *name) {
    if (n->count == n->room) {
        size_t room = n->room ? n->room * 2 : 64, bytes;
        char **items = fs_mul_size(room, sizeof *items, &bytes) ? realloc(n->items, bytes) : NULL;
        if (!items) return false;
        n->items = items, n->room = room;
    }
    n->items[n->count] = fs_strdup(name);
    return n->items[n->count] != NULL && ++n->count;
}

static int by_bytes(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

bool fs_names_has(const fs_names *n, const char *name) {
    return n->count && bsearch(&name, n->items, n->count, sizeof *n->items, by_bytes);
}

fs_status fs_names_read(const char *dir, char want, fs_names *out, size_t *others, fs_error *err) {
    *out = (fs_names){0};
    if (others) *others = 0;
    DIR *d = opendir(dir);
    if (!d) {
        fs_status status = errno == ENOENT || errno == ENOTDIR ? FS_E_NOT_FOUND : FS_E_IO;
        return fs_fail(err, status, "%s: cannot read this folder: %s", dir, strerror(errno));
    }
    fs_status status = FS_OK;
    for (;;) {
        struct stat st;
        errno = 0;
        const struct dirent *e = readdir(d);
        if (!e) {
            if (errno) status = fs_fail(err, FS_E_IO, "%s: cannot read this folder: %s", dir, strerror(errno));
            break;
        }
        /* A link that leads nowhere is taken for a file: opening it later gives the reason. */
        const bool gone = e->d_name[0] != '.' && fstatat(dirfd(d), e->d_name, &st, 0) != 0;
        if (e->d_name[0] == '.' || (gone && errno == ENOENT && want == 'd')) continue;
        const bool folder = !gone && S_ISDIR(st.st_mode);
        const bool wanted = want == 'd' ? folder : !folder && (want == 'f' || fs_image_name_is_picture(e->d_name));
        if (!wanted && !folder && others) ++*others;
        if (wanted && !fs_names_add(out, e->d_name)) {
            status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", dir);
            break;
        }
    }
    closedir(d);
    if (!status && out->count) qsort(out->items, out->count, sizeof *out->items, by_bytes);
    if (status) fs_names_free(out);
    return status;
}

size_t fs_data_stem(const char *name, bool mask) {
    static const char *const suffixes[] = {"_gt", "-gt", "_mask", "-mask"};
    const char *dot = strrchr(name, '.');
    size_t n = dot && dot > name ? (size_t)(dot - name) : strlen(name);
    for (size_t i = 0; mask && i < sizeof suffixes / sizeof *suffixes; i++) {
        const size_t m = strlen(suffixes[i]);
        if (n > m && strncasecmp(name + n - m, suffixes[i], m) == 0) return n - m;
    }
    return n;
}

bool fs_data_domain_of_folder(const char *name, fs_domain *out) {
    if (strcasecmp(name, "ps") == 0 || strncasecmp(name, "ps_", 3) == 0 || strncasecmp(name, "ps-", 3) == 0 ||
        strcasestr(name, "photoshop"))
        *out = FS_DOMAIN_PHOTOSHOP;
    else if (strcasestr(name, "aigc"))
        *out = FS_DOMAIN_AIGC;
    else if (strcasecmp(name, "df") == 0 || strcasestr(name, "deepfake"))
        *out = FS_DOMAIN_DEEPFAKE;
    else
        return false;
    return true;
}
