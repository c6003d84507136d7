/* Stored (uncompressed) zip archives: names -> ranges of bytes. Private to src/format. */
#ifndef FS_ZIP_H
#define FS_ZIP_H

#include "format/strmap.h"

typedef struct fs_zip_entry { const char *name; size_t name_length; const uint8_t *data; size_t size; } fs_zip_entry;
typedef struct fs_zip { fs_zip_entry *entries; size_t count; fs_strmap names; } fs_zip;

/* Names and data point into the bytes. fs_zip_close also after a failure. */
fs_status fs_zip_open(const char *file, const uint8_t *data, size_t size, fs_zip *out, fs_error *err);
const fs_zip_entry *fs_zip_find(const fs_zip *z, const char *name, size_t length);
void fs_zip_close(fs_zip *z);

#endif
