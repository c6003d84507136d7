/* The WordPiece tokenizer of BERT and of the sentence encoders made from it (Devlin et al. 2019), as transformers' BertTokenizerFast does
 * it. */
#ifndef FS_WORDPIECE_H
#define FS_WORDPIECE_H

#include "text/text.h"

typedef struct fs_wordpiece fs_wordpiece;
typedef struct fs_wordpiece_options {
    bool lower_case;    /* default true */
    int strip_accents;  /* 1, 0, or -1 (default): as lower_case */
    bool chinese_chars; /* default true: each of them is a word */
} fs_wordpiece_options;
fs_wordpiece_options fs_wordpiece_options_defaults(void);

/* vocab.txt: a token a line, the line's number is its id. It must hold [UNK], [CLS] and [SEP]. `name` is for error lines. Read-only once
 * open. */
fs_status fs_wordpiece_open(const char *path, const fs_wordpiece_options *opt, fs_wordpiece **out, fs_error *err);
fs_status fs_wordpiece_create(const char *name, const void *data, size_t size, const fs_wordpiece_options *opt, fs_wordpiece **out,
                              fs_error *err);
void fs_wordpiece_free(fs_wordpiece *w);
int32_t fs_wordpiece_size(const fs_wordpiece *w);
/* [CLS] tokens [SEP], appended to *ids; at most max_length of them with both (0 = no limit), cut at the end. Broken UTF-8 is read as
 * U+FFFD, which is dropped. */
fs_status fs_wordpiece_encode(const fs_wordpiece *w, const char *text, size_t max_length, fs_ids *ids, fs_error *err);

#endif
