/* GGUF (versions 2 and 3): one file of metadata and named tensors, the format of ggml's programs and of our own bundles.
 *
 * Reading: fs_archive_open takes a GGUF file like any other weight file; the metadata is asked for here. GGUF writes dimensions innermost
 * first; our tensors have them outermost first, as everywhere. Nothing is copied: tensors, strings and arrays point into the mapped file.
 *
 * Writing: declare everything, then hand over the tensors' bytes in order and in pieces of any size. The bytes depend on what is written
 * alone. Our files carry two checksums more than GGUF asks for: "fakeshield.tensor_sha256", one per tensor in file order, and
 * "fakeshield.header_sha256" over everything before the data (taken with '0' in place of its own 64 digits). A file with any
 * "fakeshield." key must carry the latter, and it is checked on every opening, so a damaged header is never believed. */
#ifndef FS_GGUF_H
#define FS_GGUF_H

#include "format/archive.h"

typedef enum fs_gguf_type { /* the numbers are the format's */
    FS_GGUF_U8 = 0, FS_GGUF_I8 = 1, FS_GGUF_U16 = 2, FS_GGUF_I16 = 3, FS_GGUF_U32 = 4, FS_GGUF_I32 = 5, FS_GGUF_F32 = 6, FS_GGUF_BOOL = 7,
    FS_GGUF_STRING = 8, FS_GGUF_ARRAY = 9, FS_GGUF_U64 = 10, FS_GGUF_I64 = 11, FS_GGUF_F64 = 12
} fs_gguf_type;
const char *fs_gguf_type_name(fs_gguf_type t); /* "u32", "string", ...; "unknown" */

/* Bytes of the file, not NUL-terminated; the format calls them UTF-8, which is not checked. */
typedef struct fs_gguf_text { const char *data; size_t size; } fs_gguf_text;
bool fs_gguf_text_is(fs_gguf_text t, const char *s);

/* ---- reading ------------------------------------------------------------------------------------------------------ */

typedef struct fs_gguf fs_gguf; /* belongs to its archive and lives as long */

/* The metadata of an archive that is a GGUF file, else NULL. */
const fs_gguf *fs_archive_gguf(const fs_archive *a);
/* One file from memory, for tests and fuzzing, as fs_safetensors_read. */
fs_status fs_gguf_read(const char *name, const uint8_t *data, size_t size, fs_archive **out, fs_error *err);

int fs_gguf_version(const fs_gguf *g);
/* A field: elements and element for arrays (element is FS_GGUF_ARRAY for nested ones, which can be skipped but not read). */
typedef struct fs_gguf_field { fs_gguf_text key; fs_gguf_type type, element; uint64_t count; } fs_gguf_field;
size_t fs_gguf_count(const fs_gguf *g);
fs_gguf_field fs_gguf_at(const fs_gguf *g, size_t i); /* in file order */
bool fs_gguf_has(const fs_gguf *g, const char *key);

/* Typed values. A field that is absent is an error if `required`; else FS_OK, and *out stays as it was. A field of another kind or out of
 * range is always an error; the line names file, key, what was expected and what was found. */
fs_status fs_gguf_int(const fs_gguf *g, const char *key, bool required, int64_t min, int64_t max, int64_t *out, fs_error *err); /* any width */
fs_status fs_gguf_float(const fs_gguf *g, const char *key, bool required, double min, double max, double *out, fs_error *err); /* integers too */
fs_status fs_gguf_bool(const fs_gguf *g, const char *key, bool required, bool *out, fs_error *err);
fs_status fs_gguf_string(const fs_gguf *g, const char *key, bool required, fs_gguf_text *out, fs_error *err);

/* `count` elements of the type asked for: little-endian, unaligned, `size` bytes in all. Strings are walked with fs_gguf_next. */
typedef struct fs_gguf_array { fs_gguf_type element; uint64_t count; const uint8_t *data; size_t size; } fs_gguf_array;
fs_status fs_gguf_array_of(const fs_gguf *g, const char *key, bool required, fs_gguf_type element, fs_gguf_array *out, fs_error *err);
/* Takes the next string off the front of an array of strings; false at its end. */
bool fs_gguf_next(fs_gguf_array *strings, fs_gguf_text *out);

/* Tensors in file order, by name. */
size_t fs_gguf_tensor_count(const fs_gguf *g);
const char *fs_gguf_tensor_name(const fs_gguf *g, size_t i);
/* The checksums of all of them, to be walked in step; FS_E_UNSUPPORTED if the file has none, FS_E_FORMAT if not one each. */
fs_status fs_gguf_tensor_sums(const fs_gguf *g, fs_gguf_array *out, fs_error *err);

/* Compares every tensor of a file of ours with its checksum; FS_E_FORMAT names the first one that differs. A file without checksums is
 * FS_E_UNSUPPORTED: there is nothing to compare with. */
fs_status fs_gguf_verify(const fs_gguf *g, const fs_callbacks *cb, fs_error *err);

/* ---- writing ------------------------------------------------------------------------------------------------------ */

typedef struct fs_gguf_writer fs_gguf_writer;

/* Nothing is written until fs_gguf_writer_begin. */
fs_status fs_gguf_writer_create(const char *path, fs_gguf_writer **out, fs_error *err);
/* Also removes the half-written file if it was not finished. */
void fs_gguf_writer_free(fs_gguf_writer *w);

/* Fields, in the order they are to stand in the file. A mistake (a key twice, ...) is kept and reported by fs_gguf_writer_begin. */
void fs_gguf_put_u32(fs_gguf_writer *w, const char *key, uint32_t v);
void fs_gguf_put_i32(fs_gguf_writer *w, const char *key, int32_t v);
void fs_gguf_put_u64(fs_gguf_writer *w, const char *key, uint64_t v);
void fs_gguf_put_f32(fs_gguf_writer *w, const char *key, float v);
void fs_gguf_put_bool(fs_gguf_writer *w, const char *key, bool v);
void fs_gguf_put_text(fs_gguf_writer *w, const char *key, const char *s);
void fs_gguf_put_string(fs_gguf_writer *w, const char *key, fs_gguf_text s);
/* element: any but strings and arrays; bools one byte each. data: in this machine's byte order, `count` elements. */
void fs_gguf_put_array(fs_gguf_writer *w, const char *key, fs_gguf_type element, size_t count, const void *data);
void fs_gguf_put_strings(fs_gguf_writer *w, const char *key, size_t count, const fs_gguf_text *strings);
/* Field i of another file as it is; false for those the writer keeps for itself (checksums, general.alignment). */
bool fs_gguf_put_copy(fs_gguf_writer *w, const fs_gguf *from, size_t i);
/* A tensor, its shape outermost first. ggml's limits hold: names of at most 63 bytes, at most 4 dimensions, and no U8 or BOOL. */
void fs_gguf_put_tensor(fs_gguf_writer *w, const char *name, fs_dtype dtype, int ndim, const int64_t *shape);

/* Bytes the whole file will have. */
size_t fs_gguf_writer_size(const fs_gguf_writer *w);
/* Is the file at PATH whole and sound, with the very header that would be written now? Compares every tensor with its checksum. Fails only when
 * cancelled or out of memory. */
fs_status fs_gguf_writer_finished(fs_gguf_writer *w, const fs_callbacks *cb, bool *out, fs_error *err);
/* Checks that the disk has room, then writes the header to PATH.partial. What a killed run left there is overwritten; a run that is still
 * writing there is not disturbed (FS_E_IO). */
fs_status fs_gguf_writer_begin(fs_gguf_writer *w, fs_error *err);
/* The next `size` bytes of the tensors' data, in the order the tensors were put; padding between tensors is added here. */
fs_status fs_gguf_writer_add(fs_gguf_writer *w, const void *data, size_t size, fs_error *err);
/* All data must have come. Writes the checksums, syncs, and renames to PATH. */
fs_status fs_gguf_writer_finish(fs_gguf_writer *w, fs_error *err);

#endif
