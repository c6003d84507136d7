/* share/forge_texts.json, carried along in the program (cmake/embed.cmake). */
#ifndef FS_DATA_FORGE_TEXTS_BUILTIN_H
#define FS_DATA_FORGE_TEXTS_BUILTIN_H

#include <stddef.h>

extern const unsigned char fs_forge_texts_builtin[]; /* a NUL follows */
extern const size_t fs_forge_texts_builtin_size;

#endif
