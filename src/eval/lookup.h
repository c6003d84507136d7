/* Finding what belongs to a picture by name: lines of JSON Lines, files of a folder. Private to src/eval. */
#ifndef FS_EVAL_LOOKUP_H
#define FS_EVAL_LOOKUP_H

#include "base/base.h"

/* Upstream's records {"image", key}: sorted by base name. */
typedef struct fs_lines_entry {
    char *image, *text;
    size_t number;
} fs_lines_entry;
typedef struct fs_lines {
    fs_lines_entry *items;
    size_t count, room;
    char *path;
} fs_lines;
/* Empty lines are passed over; a line that is no record is FS_E_FORMAT with its number. keys: NULL-terminated, the first that a line has
 * counts. */
fs_status fs_lines_read(const char *path, const char *const *keys, fs_lines *out, fs_error *err);
/* The record whose path agrees with `image` in most components from the end; at least the base name. *out NULL: there is none. FS_E_FORMAT:
 * two agree alike and say different things. */
fs_status fs_lines_find(const fs_lines *l, const char *image, const fs_lines_entry **out, fs_error *err);
void fs_lines_free(fs_lines *l);
/* Every line of a text file that is not empty; stop and return what `take` returns if not FS_OK. */
fs_status fs_each_line(const char *path, fs_status (*take)(void *user, size_t number, const char *line, size_t n, fs_error *err),
                       void *user, fs_error *err);

/* A folder of maps: a picture's map has its name, or its name without extension, or that with _mask, -mask, _gt, -gt, _pred, _soft behind.
 */
typedef struct fs_map_folder {
    char *dir;
    char **names;
    size_t count;
} fs_map_folder;
/* The first of root/type/set, root/set, root that is a folder. set: "type/set". */
fs_status fs_map_folder_open(const char *root, const char *set, fs_map_folder *out, fs_error *err);
/* *path malloc'ed, NULL: none. FS_E_FORMAT: several fit equally. */
fs_status fs_map_folder_find(const fs_map_folder *f, const char *name, char **path, fs_error *err);
void fs_map_folder_free(fs_map_folder *f);

#endif
