/* The door to libsentencepiece, which is C++: nothing of it, and no exception, comes through. */
#ifndef FS_SENTENCEPIECE_H
#define FS_SENTENCEPIECE_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fs_sentencepiece fs_sentencepiece;

/* proto: a checked ModelProto (fs_spm_write). NULL on failure; message then says why in one line. */
fs_sentencepiece *fs_sentencepiece_create(const void *proto, size_t size, char *message, size_t room);
void fs_sentencepiece_free(fs_sentencepiece *s);
/* The piece's id, or the unknown piece's. */
int fs_sentencepiece_find(const fs_sentencepiece *s, const char *piece, size_t n);
/* Calls emit for every piece of text (valid UTF-8) in order; emit returns false to stop. Threads may share s. */
bool fs_sentencepiece_encode(const fs_sentencepiece *s, const char *text, size_t n,
                             bool (*emit)(void *user_data, const char *piece, size_t n), void *user_data, char *message, size_t room);

#ifdef __cplusplus
}
#endif
#endif
