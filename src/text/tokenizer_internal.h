/* What tokenizer.c (encoding), added_tokens.c (the JSON files) and decode.c (decoding, streaming) share. */
#ifndef FS_TOKENIZER_INTERNAL_H
#define FS_TOKENIZER_INTERNAL_H

#include "text/sentencepiece.h"
#include "text/spm_model.h"
#include "text/text.h"

#define FS_SPACE_MARK "\xE2\x96\x81" /* U+2581, how SentencePiece writes a space */
enum { FS_SPACE_MARK_SIZE = 3 };

/* A text that means one id. The flags name the sets in which transformers keeps such tokens. */
typedef struct fs_added_token {
    char *text;
    size_t length;
    int32_t id;
    bool listed;  /* in added_tokens_encoder */
    bool split;   /* text is cut at it */
    bool special; /* in all_special_tokens: left out when decoding without special tokens */
    bool apart;   /* decoding puts it between spaces */
    bool lstrip;  /* white space to the left of it is dropped */
    bool rstrip;  /* white space to the right of it is dropped */
} fs_added_token;

struct fs_tokenizer {
    fs_tokenizer_rules rules;
    fs_spm_model model;
    fs_sentencepiece *sentencepiece;
    bool legacy, add_bos, add_eos, clean_up;
    int32_t bos, eos; /* ids, -1 = none */
    int32_t size;
    fs_added_token *added;
    size_t n_added, added_capacity;
    bool first_byte[256];  /* some token to cut at begins with this byte */
    char *unknown_text;    /* "<unk>" */
    size_t unknown_pieces; /* of how many pieces its spelling is encoded (legacy: false) */
};

/* The added token with this text, or NULL. */
fs_added_token *fs_tokenizer_added(const fs_tokenizer *t, const char *text, size_t n);
/* The added token that stands for this id, or NULL. */
const fs_added_token *fs_tokenizer_added_id(const fs_tokenizer *t, int32_t id);
/* As convert_tokens_to_ids: an added token's or a piece's id, else the unknown piece's. */
int32_t fs_tokenizer_token_id(const fs_tokenizer *t, const char *text, size_t n);
/* Reads the JSON parts into t (model and sentencepiece must be there): added tokens, bos/eos, switches. */
fs_status fs_tokenizer_read_settings(fs_tokenizer *t, const fs_tokenizer_files *files, fs_error *err);

#endif
