/* Any bytes as a hub's listing, and as a Link header: what is taken must be safe to write below a folder, and must read the same again
 * after it was written as the file that pull keeps. */
#include <stdlib.h>
#include <string.h>

#include "net/net.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Written apart from the rule it checks: walks the path as the file system would and watches the depth. */
static void check_path(const char *path) {
    int depth = 0;
    if (!*path || *path == '/' || strlen(path) > FS_NET_MAX_PATH) abort();
    char *copy = strdup(path), *rest = copy, *name;
    if (!copy) abort();
    while ((name = strsep(&rest, "/"))) {
        if (!*name || strcmp(name, ".") == 0) abort();
        depth += strcmp(name, "..") == 0 ? -1000 : 1;
        for (const char *p = name; *p; p++)
            if ((unsigned char)*p < 32 || *p == 127) abort();
    }
    if (depth <= 0) abort();
    free(copy);
}

static void check(const fs_net_listing *l) {
    int64_t total = 0;
    for (size_t i = 0; i < l->count; i++) {
        const fs_net_entry *e = &l->items[i];
        check_path(e->path);
        if (e->size < 0 || e->size > FS_NET_MAX_BYTES || strlen(e->hash) != (e->git ? 40u : 64u)) abort();
        if (i && strcmp(l->items[i - 1].path, e->path) >= 0) abort();
        total += e->size;
    }
    if (total != l->total) abort();
}

static void read_listing(const uint8_t *data, size_t size) {
    fs_net_listing l = {0}, again = {0};
    fs_error err = {0};
    fs_status status = fs_net_listing_add(&l, "hub", data, size, &err);
    if (!status) status = fs_net_listing_finish(&l, "hub", &err);
    if (status) {
        if (err.status != status || !err.message[0]) abort();
    } else {
        check(&l);
        json_t *a = fs_net_listing_array(&l);
        if (!a || fs_net_listing_add_array(&again, "file", a, &err) || fs_net_listing_finish(&again, "file", &err)) abort();
        if (again.count != l.count || again.total != l.total) abort();
        for (size_t i = 0; i < l.count; i++) {
            const fs_net_entry *x = &l.items[i], *y = &again.items[i];
            if (strcmp(x->path, y->path) || strcmp(x->hash, y->hash) || x->size != y->size || x->git != y->git) abort();
        }
        json_decref(a);
        fs_net_listing_trim(&l);
        check(&l);
    }
    fs_net_listing_free(&l);
    fs_net_listing_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_listing(data, size);
    char *text = malloc(size + 1);
    if (!text) return 0;
    if (size) memcpy(text, data, size);
    text[size] = 0;
    char *next = fs_net_link_next(text), *page = next ? fs_net_next_page("https://m.example/hub", next) : NULL;
    if (page && (strncmp(page, "https://m.example/", 18) != 0 || strpbrk(page, " \r\n\t"))) abort(); /* never to another host */
    free(page);
    free(next);
    free(text);
    return 0;
}
