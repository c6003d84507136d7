/* A tokenizer.model (SentencePiece's ModelProto) read, checked and written by hand. */
#ifndef FS_SPM_MODEL_H
#define FS_SPM_MODEL_H

#include "base/base.h"

/* Values as in sentencepiece_model.proto. */
typedef enum fs_piece_kind {
    FS_PIECE_NORMAL = 1,
    FS_PIECE_UNKNOWN = 2,
    FS_PIECE_CONTROL = 3,
    FS_PIECE_USER = 4,
    FS_PIECE_UNUSED = 5,
    FS_PIECE_BYTE = 6
} fs_piece_kind;

typedef struct fs_piece {
    uint32_t offset;
    float score;
    uint8_t kind;
    uint8_t byte;
    uint16_t length;
} fs_piece;

typedef struct fs_spm_model {
    fs_piece *pieces; /* [count], index = id */
    char *text;       /* all pieces' text, each with a NUL behind it */
    int32_t count, unknown;
    bool dummy_prefix, remove_extra_spaces, byte_fallback;
    char unknown_surface[64]; /* what <unk> decodes to */
} fs_spm_model;

static inline const char *fs_spm_text(const fs_spm_model *m, int32_t id) {
    return m->text + m->pieces[id].offset;
}

/* `where` stands in front of messages. On failure *out is empty. */
fs_status fs_spm_read(const void *bytes, size_t size, const char *where, fs_spm_model *out, fs_error *err);
void fs_spm_free(fs_spm_model *m);
/* The model as a ModelProto with only what encoding needs: what the library gets to see. */
fs_status fs_spm_write(const fs_spm_model *m, bool dummy_prefix, fs_buffer *out, fs_error *err);

#endif
