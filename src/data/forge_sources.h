/* The photos that forgeries are made from: found in folders, with the object masks that lie beside them, decoded once and kept in memory up
 * to a limit, and divided into train, val and test by content. Private to src/data. */
#ifndef FS_DATA_FORGE_SOURCES_H
#define FS_DATA_FORGE_SOURCES_H

#include "data/forge_plane.h"

typedef struct fs_segment {
    uint32_t id; /* colour in the object picture: R + 256 G + 65536 B */
    char *what;  /* "dog"; NULL if the source does not say */
    bool thing;  /* something with an outline of its own, not grass or sky */
    int64_t pixels;
    fs_rect box;
} fs_segment;

typedef struct fs_source {
    char *path;      /* as found */
    char *name;      /* path below the folder that was given */
    char *objects;   /* file of its object masks; NULL = none */
    bool panoptic;   /* objects is a picture of ids; else any pixel >= 128 is the one object */
    char sha256[65]; /* of the file */
    fs_forge_split split;
    int64_t width, height;
    fs_segment *segments; /* label k in fs_source_pixels.labels is segments[k - 1] */
    size_t n_segments;
    /* the cache's; guarded by its lock */
    struct fs_source_pixels *pixels;
    bool loading;
    int64_t users;
    uint64_t used;
} fs_source;

typedef struct fs_source_pixels {
    fs_image *im;
    uint16_t *labels; /* [height][width], 0 = no object; NULL = the source has none */
} fs_source_pixels;

typedef struct fs_sources fs_sources;
fs_status fs_sources_open(const char *const *paths, size_t n, const fs_forge_options *opt, fs_sources **out, fs_error *err);
void fs_sources_close(fs_sources *s);
size_t fs_sources_count(const fs_sources *s, fs_forge_split split);
const fs_source *fs_sources_get(const fs_sources *s, fs_forge_split split, size_t i);
/* The pixels, decoded if need be, until they are released. For any number of threads. */
fs_status fs_sources_hold(fs_sources *s, const fs_source *source, const fs_source_pixels **out, fs_error *err);
void fs_sources_release(fs_sources *s, const fs_source *source);

/* forge_find.c: the photos in files and folders, sorted and without object masks; each with path, name, objects and (from segments.csv)
 * segments. */
typedef struct fs_source_list {
    fs_source *items;
    size_t count, room;
} fs_source_list;
fs_status fs_sources_find(const char *const *paths, size_t n, fs_source_list *out, fs_error *err);
void fs_source_clear(fs_source *s);
/* The table's text, which is cut up on the way (a NUL at its end): its segments go to the sources from `first` on that have its images'
 * names. */
fs_status fs_source_parse_segments(const char *name, char *text, fs_source_list *list, size_t first, fs_error *err);

#endif
