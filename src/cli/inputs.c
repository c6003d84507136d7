/* Which pictures: files, folders, quoted globs, lists; and what their results are called. A folder gives its pictures by extension,
 * sorted by name, without hidden files, without what this program wrote there itself, and without following linked folders. */
#include "cli.h"

#include <dirent.h>
#include <errno.h>
#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

void cli_inputs_add(cli_inputs *in, const char *path) {
    if ((in->count & (in->count - 1)) == 0) {
        size_t room = in->count ? in->count * 2 : 1;
        cli_input *items = cli_alloc(room, sizeof *items);
        if (in->count) memcpy(items, in->items, in->count * sizeof *items);
        free(in->items);
        in->items = items;
    }
    in->items[in->count++] = (cli_input){.path = cli_format("%s", path)};
}

void cli_inputs_free(cli_inputs *in) {
    for (size_t i = 0; i < in->count; i++) free(in->items[i].path), free(in->items[i].name);
    free(in->items);
    *in = (cli_inputs){0};
}

static void missing(cli_inputs *in, fs_status status) {
    if (!in->missing++) in->first_error = status;
}

/* Is `name` in `dir` one of our own: <stem>_mask.png, _overlay.png or _soft.png beside a <stem>.json? */
static bool is_own_result(const char *dir, const char *name) {
    static const char *const endings[] = {"_mask.png", "_overlay.png", "_soft.png"};
    size_t n = strlen(name);
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t m = strlen(endings[i]);
        if (n <= m || strcmp(name + n - m, endings[i]) != 0) continue;
        char *json = cli_format("%s/%.*s.json", dir, (int)(n - m), name);
        bool own = cli_exists(json);
        free(json);
        if (own) return true;
    }
    return false;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void add_folder(cli_term *t, cli_inputs *in, const char *dir, bool recursive, int depth) {
    struct dirent **entries = NULL;
    int n = scandir(dir, &entries, NULL, by_name);
    if (n < 0) {
        cli_error(t, "%s: cannot read this folder: %s", dir, strerror(errno));
        missing(in, FS_E_IO);
        return;
    }
    for (int i = 0; i < n; i++) {
        const char *name = entries[i]->d_name;
        char *path = cli_path(dir, name, "");
        struct stat st, link;
        if (name[0] != '.' && lstat(path, &link) == 0 && stat(path, &st) == 0) {
            if (S_ISREG(st.st_mode) && fs_is_picture_name(name) && !is_own_result(dir, name))
                cli_inputs_add(in, path);
            else if (S_ISDIR(link.st_mode) && recursive && depth < 64)
                add_folder(t, in, path, true, depth + 1);
        }
        free(path), free(entries[i]);
    }
    free(entries);
}

static void add_operand(cli_term *t, cli_inputs *in, const char *word, bool recursive) {
    struct stat st;
    size_t before = in->count, missed = in->missing;
    if (stat(word, &st) == 0) {
        if (!S_ISDIR(st.st_mode)) {
            cli_inputs_add(in, word);
            return;
        }
        add_folder(t, in, word, recursive, 0);
        if (in->count == before && in->missing == missed) {
            cli_error(t, "%s: no picture in this folder%s", word, recursive ? "" : " (subfolders are searched with -r)");
            missing(in, FS_E_NOT_FOUND);
        }
        return;
    }
    int error = errno;
    if (strpbrk(word, "*?[")) {
        glob_t found;
        if (glob(word, 0, NULL, &found) == 0) {
            for (size_t i = 0; i < found.gl_pathc; i++) add_operand(t, in, found.gl_pathv[i], recursive);
            globfree(&found);
            return;
        }
        cli_error(t, "%s: nothing matches this pattern", word);
        missing(in, FS_E_NOT_FOUND);
        return;
    }
    cli_error(t, "%s: %s", word, strerror(error));
    missing(in, error == ENOENT || error == ENOTDIR ? FS_E_NOT_FOUND : FS_E_IO);
}

bool cli_read_line(cli_term *t, FILE *f, const char *what, char **line, fs_status *status) {
    enum { LIMIT = 16 << 20 };
    char *text = cli_alloc(256, 1);
    size_t room = 256, n = 0;
    int c;
    *line = NULL;
    while ((c = getc(f)) != EOF && c != '\n') {
        if (n + 1 == room) {
            char *more = cli_alloc(room * 2, 1);
            memcpy(more, text, n);
            free(text);
            text = more, room *= 2;
        }
        if (n == LIMIT || c == 0) {
            cli_error(t, "%s: %s; is it a text file?", what, c ? "a line of more than 16 MiB" : "a zero byte in a line");
            free(text);
            return *status = FS_E_FORMAT, false;
        }
        text[n++] = (char)c;
    }
    if (c == EOF && ferror(f)) {
        cli_error(t, "%s: reading failed: %s", what, strerror(errno));
        *status = FS_E_IO;
    }
    if (c == EOF && (n == 0 || ferror(f))) {
        free(text);
        return false;
    }
    if (n && text[n - 1] == '\r') n--;
    text[n] = 0;
    *line = text;
    return true;
}

static fs_status add_list(cli_term *t, cli_inputs *in, const char *path, bool recursive) {
    bool standard = strcmp(path, "-") == 0;
    FILE *f = standard ? stdin : fopen(path, "r");
    if (!f) {
        fs_status status = errno == ENOENT ? FS_E_NOT_FOUND : FS_E_IO;
        cli_error(t, "%s: cannot read this list: %s", path, strerror(errno));
        return status;
    }
    char *line;
    fs_status status = FS_OK;
    while (cli_read_line(t, f, standard ? "standard input" : path, &line, &status)) {
        if (*line) add_operand(t, in, line, recursive);
        free(line);
    }
    if (!standard) fclose(f);
    return status;
}

fs_status cli_inputs_find(cli_term *t, const cli_list *operands, const cli_list *lists, bool recursive, cli_inputs *out) {
    fs_status status = FS_OK;
    for (size_t i = 0; lists && i < lists->count && !status; i++) status = add_list(t, out, lists->items[i], recursive);
    for (size_t i = 0; i < operands->count && !status; i++)
        if (strcmp(operands->items[i], "-") == 0)
            status = add_list(t, out, "-", recursive);
        else
            add_operand(t, out, operands->items[i], recursive);
    return status;
}

/* ---- names --------------------------------------------------------------------------------------------------------- */

/* Names in use: an open hash table of indices + 1 into items. */
typedef struct name_table {
    size_t *slots, size;
} name_table;

static bool take_name(name_table *table, cli_input *items, size_t index) {
    uint64_t h = 1469598103934665603u; /* FNV-1a */
    for (const char *p = items[index].name; *p; p++) h = (h ^ (unsigned char)*p) * 1099511628211u;
    for (size_t i = (size_t)h & (table->size - 1);; i = (i + 1) & (table->size - 1)) {
        if (!table->slots[i]) return table->slots[i] = index + 1, true;
        if (strcmp(items[table->slots[i] - 1].name, items[index].name) == 0) return false;
    }
}

/* "shots/photo.jpg" -> "photo". */
static char *stem(const char *path) {
    const char *base = strrchr(path, '/');
    base = base ? base + 1 : path;
    const char *dot = strrchr(base, '.');
    return cli_format("%.*s", dot && dot > base ? (int)(dot - base) : (int)strlen(base), base);
}

void cli_inputs_name(cli_term *t, cli_inputs *in) {
    name_table table = {.size = 16};
    while (table.size < 2 * in->count) table.size *= 2;
    table.slots = cli_alloc(table.size, sizeof *table.slots);
    size_t renamed = 0;
    for (size_t i = 0; i < in->count; i++) {
        cli_input *item = &in->items[i];
        free(item->name);
        item->name = stem(item->path);
        for (unsigned k = 2; !take_name(&table, in->items, i); k++) {
            char *base = stem(item->path);
            free(item->name);
            item->name = cli_format("%s-%u", base, k);
            free(base);
        }
        char *plain = stem(item->path);
        if (strcmp(plain, item->name) != 0 && renamed++ < 5)
            cli_note(t, "note: another picture is called \"%s\"; the results of %s are named \"%s\"", plain, item->path, item->name);
        free(plain);
    }
    if (renamed > 5) cli_note(t, "note: %zu more pictures share a name and got a number", renamed - 5);
    free(table.slots);
}

/* ---- results must not fall on pictures ----------------------------------------------------------------------------- */

typedef struct file_id {
    dev_t device;
    ino_t inode;
} file_id;

static int by_id(const void *a, const void *b) {
    const file_id *x = a, *y = b;
    if (x->device != y->device) return x->device < y->device ? -1 : 1;
    return x->inode < y->inode ? -1 : x->inode > y->inode;
}

fs_status cli_inputs_guard(cli_term *t, const cli_inputs *in, const char *dir, const char *const *suffixes) {
    file_id *ids = cli_alloc(in->count, sizeof *ids);
    size_t n = 0;
    struct stat st;
    for (size_t i = 0; i < in->count; i++)
        if (stat(in->items[i].path, &st) == 0) ids[n++] = (file_id){st.st_dev, st.st_ino};
    qsort(ids, n, sizeof *ids, by_id);
    fs_status status = FS_OK;
    for (size_t i = 0; i < in->count && !status; i++)
        for (size_t k = 0; suffixes[k] && !status; k++) {
            char *path = cli_path(dir, in->items[i].name, suffixes[k]);
            file_id id;
            if (stat(path, &st) == 0 && (id = (file_id){st.st_dev, st.st_ino}, bsearch(&id, ids, n, sizeof *ids, by_id))) {
                cli_error(t, "%s is one of the pictures, and the result of %s would overwrite it; choose another folder with -o", path,
                          in->items[i].path);
                status = FS_E_USAGE;
            }
            free(path);
        }
    free(ids);
    return status;
}
