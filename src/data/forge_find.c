/* Finds photos in folders, and object masks beside them in the forms that sets have:
 *     NAME.jpg + NAME_mask.png               one object, white
 *     images/NAME.jpg + masks/NAME.png       one object, white (also image/ + mask/)
 *     NAME.jpg + objects/NAME.png + segments.csv   a picture of segment ids (id = R + 256 G + 65536 B, as COCO's panoptic sets have it) and
 * a table with the columns image, segment_id, category, isthing */
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "data/forge_sources.h"
#include "text/utf8.h"

enum { MAX_DEPTH = 12, MAX_SOURCES = 10000000, MAX_SEGMENTS = 65535 };

void fs_source_clear(fs_source *s) {
    free(s->path), free(s->name), free(s->objects);
    for (size_t i = 0; i < s->n_segments; i++) free(s->segments[i].what);
    free(s->segments);
    *s = (fs_source){0};
}

static fs_status no_memory(fs_error *err) {
    return fs_fail(err, FS_E_NO_MEMORY, "no memory for the list of photos");
}

/* The file's name without its extension. */
static size_t stem_length(const char *name) {
    const char *dot = strrchr(name, '.');
    return dot ? (size_t)(dot - name) : strlen(name);
}

static bool ends_with(const char *s, size_t n, const char *end) {
    size_t m = strlen(end);
    return n >= m && strncasecmp(s + n - m, end, m) == 0;
}

static char *dir_of(const char *path) {
    const char *base = fs_path_base(path);
    return base == path ? fs_strdup(".") : fs_format("%.*s", (int)fs_max_i64(base - path - 1, 1), path);
}

/* dir/sub/stem.png if that is a file; malloc'ed or NULL. */
static char *mask_candidate(const char *dir, const char *sub, const char *name, const char *suffix) {
    char *path = fs_format("%s/%s%.*s%s.png", dir, sub, (int)stem_length(name), name, suffix);
    if (path && (!fs_path_exists(path) || fs_path_is_dir(path))) {
        free(path);
        path = NULL;
    }
    return path;
}

static void find_objects(fs_source *s) {
    const char *base = fs_path_base(s->path);
    char *dir = dir_of(s->path);
    if (!dir) return;
    if ((s->objects = mask_candidate(dir, "", base, "_mask"))) goto done;
    if ((s->objects = mask_candidate(dir, "objects/", base, ""))) {
        char *csv = fs_path_join(dir, "segments.csv");
        s->panoptic = csv && fs_path_exists(csv);
        free(csv);
        if (s->panoptic) goto done;
        free(s->objects);
        s->objects = NULL;
    }
    size_t n = strlen(dir);
    if (ends_with(dir, n, "/images"))
        s->objects = mask_candidate(dir, "../masks/", base, "");
    else if (ends_with(dir, n, "/image"))
        s->objects = mask_candidate(dir, "../mask/", base, "");
done:
    free(dir);
}

static fs_status add_source(const char *path, const char *name, fs_source_list *out, fs_error *err) {
    if (out->count == MAX_SOURCES) return fs_fail(err, FS_E_LIMIT, "more than %d photos; give smaller folders", MAX_SOURCES);
    if (out->count == out->room) {
        size_t room = out->room ? out->room * 2 : 256, bytes;
        fs_source *grown = fs_mul_size(room, sizeof *grown, &bytes) ? realloc(out->items, bytes) : NULL;
        if (!grown) return no_memory(err);
        out->items = grown;
        out->room = room;
    }
    fs_source *s = &out->items[out->count];
    *s = (fs_source){.path = fs_strdup(path), .name = fs_strdup(name)};
    if (!s->path || !s->name) {
        fs_source_clear(s);
        return no_memory(err);
    }
    find_objects(s);
    out->count++;
    return FS_OK;
}

/* The next field of a line of comma-separated values, unquoted in place; *p moves behind it. */
static char *next_field(char **p) {
    char *field = *p, *to = field, *from = field;
    bool quoted = *from == '"';
    if (quoted) from++;
    while (*from && (quoted || *from != ',')) {
        if (quoted && *from == '"') {
            if (from[1] != '"') {
                quoted = false;
                from++;
                continue;
            }
            from++;
        }
        *to++ = *from++;
    }
    *p = *from ? from + 1 : from;
    *to = '\0';
    return field;
}

/* COCO's names for what has no outline carry suffixes: "floor-other-merged" is a floor. At most 40 bytes, nothing that means something in a
 * text; NULL when that leaves nothing (or when out of memory). */
static char *plain_category(const char *category) {
    size_t n = strcspn(category, "-"), letters = 0;
    if (!n) n = strlen(category);
    char *what = fs_format("%.*s", (int)(n < 40 ? n : 40), category);
    if (!what) return NULL;
    bool valid = fs_utf8_valid(what, strlen(what));
    for (char *c = what; *c; c++) {
        unsigned char u = (unsigned char)*c;
        if (u < 32 || u == 127 || strchr("<>[]{}", *c) || (u >= 128 && !valid)) *c = ' ';
        letters += *c != ' ';
    }
    if (letters) return what;
    free(what);
    return NULL;
}

static fs_status add_segment(fs_source *s, uint32_t id, const char *category, bool thing, fs_error *err) {
    if (s->n_segments >= MAX_SEGMENTS) return FS_OK;
    if ((s->n_segments & (s->n_segments - 1)) == 0) { /* grows at powers of two */
        fs_segment *grown = realloc(s->segments, (s->n_segments ? s->n_segments * 2 : 1) * sizeof *grown);
        if (!grown) return no_memory(err);
        s->segments = grown;
    }
    s->segments[s->n_segments++] = (fs_segment){.id = id, .what = plain_category(category), .thing = thing};
    return FS_OK;
}

static fs_source *find_source(fs_source_list *list, size_t first, const char *base) {
    for (size_t i = first; i < list->count; i++)
        if (strcmp(fs_path_base(list->items[i].path), base) == 0) return &list->items[i];
    return NULL;
}

fs_status fs_source_parse_segments(const char *name, char *text, fs_source_list *list, size_t first, fs_error *err) {
    enum { IMAGE, ID, CATEGORY, THING, COLUMNS };
    static const char *const titles[COLUMNS] = {"image", "segment_id", "category", "isthing"};
    int column[COLUMNS] = {-1, -1, -1, -1};
    fs_source *last = NULL;
    fs_status status = FS_OK;
    bool head = true;
    for (char *line = text; !status && *line;) {
        char *end = line + strcspn(line, "\r\n"), *next = *end ? end + 1 : end;
        *end = '\0';
        const char *values[COLUMNS] = {"", "", "", ""};
        int at = 0;
        for (char *p = line; *p; at++) {
            const char *field = next_field(&p);
            for (int c = 0; c < COLUMNS; c++) {
                if (head && strcmp(field, titles[c]) == 0) column[c] = at;
                if (!head && column[c] == at) values[c] = field;
            }
        }
        if (head && (column[IMAGE] < 0 || column[ID] < 0))
            status = fs_fail(err, FS_E_FORMAT, "%s: the first line lacks the columns image and segment_id", name);
        else if (!head && at) {
            if (!last || strcmp(fs_path_base(last->path), values[IMAGE]) != 0) last = find_source(list, first, values[IMAGE]);
            if (last && last->panoptic)
                status = add_segment(last, (uint32_t)strtoul(values[ID], NULL, 10), values[CATEGORY], strcmp(values[THING], "0") != 0, err);
        }
        head = false;
        line = next;
    }
    return status;
}

static fs_status read_segments(const char *csv, fs_source_list *list, size_t first, fs_error *err) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    fs_status status = fs_read_file(csv, (size_t)1 << 28, &bytes, &size, err);
    if (!status && size) status = fs_source_parse_segments(csv, (char *)bytes, list, first, err);
    free(bytes);
    return status;
}

static bool is_mask_folder(const char *dir, const char *name) {
    if (strcasecmp(name, "masks") == 0 || strcasecmp(name, "mask") == 0) return true;
    if (strcmp(name, "objects") != 0) return false;
    char *csv = fs_path_join(dir, "segments.csv");
    bool yes = csv && fs_path_exists(csv);
    free(csv);
    return yes;
}

static int by_name(const struct dirent **a, const struct dirent **b) {
    return strcmp((*a)->d_name, (*b)->d_name);
}

static fs_status walk(const char *dir, size_t root_length, int depth, fs_source_list *out, fs_error *err) {
    struct dirent **entries = NULL;
    if (depth > MAX_DEPTH) return fs_fail(err, FS_E_LIMIT, "%s: more than %d folders deep", dir, MAX_DEPTH);
    int n = scandir(dir, &entries, NULL, by_name);
    if (n < 0) return fs_fail(err, FS_E_IO, "%s: the folder cannot be read", dir);
    fs_status status = FS_OK;
    size_t first = out->count;
    for (int i = 0; i < n && !status; i++) {
        const char *name = entries[i]->d_name;
        if (name[0] == '.') continue;
        char *path = fs_path_join(dir, name);
        if (!path)
            status = no_memory(err);
        else if (fs_path_is_dir(path)) {
            if (!is_mask_folder(dir, name)) status = walk(path, root_length, depth + 1, out, err);
        } else if (fs_image_name_is_picture(name) && !ends_with(name, stem_length(name), "_mask")) {
            status = add_source(path, path + root_length, out, err);
        }
        free(path);
    }
    for (int i = 0; i < n; i++) free(entries[i]);
    free(entries);
    char *csv = fs_path_join(dir, "segments.csv");
    if (!status && csv && fs_path_exists(csv)) status = read_segments(csv, out, first, err);
    free(csv);
    return status;
}

fs_status fs_sources_find(const char *const *paths, size_t n, fs_source_list *out, fs_error *err) {
    fs_status status = FS_OK;
    for (size_t i = 0; i < n && !status; i++) {
        size_t length = strlen(paths[i]);
        if (!fs_path_exists(paths[i]))
            status = fs_fail(err, FS_E_NOT_FOUND, "%s: there is no such photo or folder", paths[i]);
        else if (fs_path_is_dir(paths[i]))
            status = walk(paths[i], length + (length && paths[i][length - 1] != '/'), 0, out, err);
        else
            status = add_source(paths[i], fs_path_base(paths[i]), out, err);
    }
    return status;
}
