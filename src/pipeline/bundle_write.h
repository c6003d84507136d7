/* Writing a bundle's files, streaming: what convert.c (from a checkpoint) and requantize.c (from another bundle) share. Private to this room. */
#ifndef FS_BUNDLE_WRITE_H
#define FS_BUNDLE_WRITE_H

#include "format/gguf.h"
#include "pipeline/bundle.h"

/* A tensor to be written. width: rows of a head to permute, 0 = none. sum: SHA-256 its source must have, size 0 = not known. */
typedef struct fs_bundle_item {
    const fs_tensor *source; const fs_archive *archive; fs_dtype type; int64_t width; fs_gguf_text sum;
    /* If the tensor's numbers are not the source's: makes them, of its type, malloc'ed. */
    fs_status (*make)(void *user, const fs_tensor *source, void **data, fs_error *err);
    void *user;
} fs_bundle_item;

/* One file to be written. */
typedef struct fs_bundle_output {
    fs_gguf_writer *w; /* NULL: this file is not part of it */
    const char *file;  /* its name in the bundle */
    char *path;
    fs_bundle_item *items;
    size_t count, capacity;
} fs_bundle_output;

typedef struct fs_bundle_job {
    fs_bundle_type type;
    const fs_options *opt;     /* threads, overwrite and callbacks are used */
    fs_bundle_output outputs[3]; /* dte-fdm, mflm, vision */
    size_t total, done;        /* bytes, for progress */
} fs_bundle_job;

/* A --type by name; FS_E_USAGE lists what there is. */
fs_status fs_bundle_type_parse(const char *name, fs_bundle_type *out, fs_error *err);
fs_status fs_bundle_output_begin(fs_bundle_output *o, const char *out_dir, const char *file, fs_error *err);
/* Declares the tensor to the writer, too. */
fs_status fs_bundle_output_add(fs_bundle_output *o, const char *name, const fs_bundle_item *item, fs_error *err);
/* Writes the files one after the other, after checking that the disk has room for all of them. A file that an earlier run finished, with the
 * header this one would write and every tensor's checksum right, is kept as it is. */
fs_status fs_bundle_job_run(fs_bundle_job *j, const char *out_dir, fs_error *err);
void fs_bundle_job_free(fs_bundle_job *j);

#endif
