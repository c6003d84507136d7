/* Sharded checkpoints: an index JSON (as transformers writes it) says which file holds which tensor.
 *
 * Shard names come from a downloaded file, so they must be plain names: a path that leads elsewhere is refused. Every name of the
 * index must be in the shard it names, and a shard holds nothing else; otherwise shards of different downloads are mixed. */
#include "format/archive_build.h"
#include "format/json.h"

#include <stdlib.h>
#include <string.h>

/* The shards opened so far: name in the index -> the archive's file string. */
typedef struct shard { const char *name, *file; } shard;
typedef struct shards { shard *list; size_t count; fs_strmap names; } shards;

static fs_status check_name(const char *index, const char *tensor, const char *shard_name, fs_error *err) {
    if (shard_name[0] == '\0' || strchr(shard_name, '/') || strchr(shard_name, '\\') || strcmp(shard_name, ".") == 0 ||
        strcmp(shard_name, "..") == 0)
        return fs_fail(err, FS_E_FORMAT,
                       "%s: tensor %s: expected the name of a file beside the index, found '%s'; do not trust this checkpoint", index,
                       tensor, shard_name);
    return FS_OK;
}

static char *beside(const char *index, const char *name) {
    size_t n = (size_t)(fs_path_base(index) - index);
    char *path = malloc(n + strlen(name) + 1);
    if (!path) return NULL;
    memcpy(path, index, n);
    memcpy(path + n, name, strlen(name) + 1);
    return path;
}

static fs_status open_shard(fs_archive *a, const char *index, const char *name, const char **file, fs_error *err) {
    char *path = beside(index, name);
    if (!path) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", index);
    fs_status status =
        fs_path_exists(path)
            ? fs_archive_add_file(a, path, file, err)
            : fs_fail(err, FS_E_NOT_FOUND, "%s: is missing: expected it because %s names it; download it into the same directory", path,
                      fs_path_base(index));
    free(path);
    return status;
}

/* Opens every shard that the map names, each once. */
static fs_status open_shards(fs_archive *a, const char *index, const fs_json *map, shards *s, fs_error *err) {
    const char *tensor;
    json_t *value;
    s->list = fs_alloc(json_object_size(map->root) + 1, sizeof *s->list);
    if (!s->list) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", index);
    json_object_foreach(map->root, tensor, value) {
        const char *name = json_string_value(value);
        bool added;
        if (!name) return fs_fail(err, FS_E_FORMAT, "%s: tensor %s: expected a file name; the index is damaged", index, tensor);
        fs_status status = check_name(index, tensor, name, err);
        if (status) return status;
        if (!fs_strmap_put(&s->names, name, strlen(name), s->count, &added))
            return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", index);
        if (!added) continue;
        shard *next = &s->list[s->count++];
        *next = (shard){.name = name};
        status = open_shard(a, index, name, &next->file, err);
        if (status) return status;
    }
    return FS_OK;
}

static fs_status check_contents(const fs_archive *a, const char *index, const fs_json *map, const shards *s, fs_error *err) {
    const char *tensor;
    json_t *value;
    json_object_foreach(map->root, tensor, value) {
        const char *name = json_string_value(value);
        const char *file = s->list[*fs_strmap_get(&s->names, name, strlen(name))].file;
        const size_t *at = fs_strmap_get(&a->names, tensor, strlen(tensor));
        if (!at)
            return fs_fail(err, FS_E_NOT_FOUND,
                           "%s: tensor %s: expected it here as %s says, found no tensor of that name; download the file again", file,
                           tensor, fs_path_base(index));
        if (strcmp(a->items[*at].file, file) != 0)
            return fs_fail(err, FS_E_MISMATCH,
                           "%s: tensor %s: expected it here as %s says, found it in %s; the files are mixed up, download them again", file,
                           tensor, fs_path_base(index), a->items[*at].file);
    }
    for (size_t i = 0; i < a->count && a->count != json_object_size(map->root); i++)
        if (!json_object_get(map->root, a->items[i].tensor.name))
            return fs_fail(err, FS_E_MISMATCH,
                           "%s: tensor %s: is not listed in %s; index and shards are not of one download, download them again",
                           a->items[i].file, a->items[i].tensor.name, fs_path_base(index));
    return FS_OK;
}

fs_status fs_index_add(fs_archive *a, const char *path, fs_error *err) {
    fs_json index, map = {0};
    shards s = {0};
    fs_status status = fs_json_open(path, &index, err);
    if (status) return status;
    if (!fs_json_has(&index, "weight_map")) {
        status =
            fs_fail(err, FS_E_FORMAT, "%s: expected an index with a weight_map, found none; give the weight file or its directory", path);
        goto done;
    }
    status = fs_json_object(&index, "weight_map", FS_JSON_REQUIRED, &map, err);
    if (!status) status = open_shards(a, path, &map, &s, err);
    if (!status) status = check_contents(a, path, &map, &s, err);
done:
    fs_strmap_free(&s.names);
    free(s.list);
    fs_json_close(&map);
    fs_json_close(&index);
    return status;
}
