/* share/describe_instructions.json, carried along in the program (cmake/embed.cmake). */
#ifndef FS_DATA_DESCRIBE_INSTRUCTIONS_H
#define FS_DATA_DESCRIBE_INSTRUCTIONS_H

#include <stddef.h>

extern const unsigned char fs_describe_instructions_builtin[]; /* a NUL follows */
extern const size_t fs_describe_instructions_builtin_size;

#endif
