/* A sentence encoder of the BERT kind from its published files, run by our own engine. Private to src/eval. */
#ifndef FS_EVAL_ENCODER_H
#define FS_EVAL_ENCODER_H

#include "base/base.h"

typedef struct fs_encoder fs_encoder;
/* dir: config.json, vocab.txt, model.safetensors or pytorch_model.bin; and, if there, tokenizer_config.json, sentence_bert_config.json
 * (max_seq_length) and 1_Pooling/config.json (mean pooling or the first token). max_tokens 0: that of sentence_bert_config.json, else as
 * many as the model has positions. */
fs_status fs_encoder_open(const char *dir, int max_tokens, int threads, const fs_callbacks *callbacks, fs_encoder **out, fs_error *err);
void fs_encoder_free(fs_encoder *e);
int64_t fs_encoder_width(const fs_encoder *e);
const char *fs_encoder_describe(const fs_encoder *e); /* "all-MiniLM-L6-v2, 6 layers, 384 wide, mean of at most 256 tokens" */
/* *embedding: [width], malloc'ed. truncated (may be NULL) tells whether the text was longer than the limit. */
fs_status fs_encoder_run(fs_encoder *e, const char *text, float **embedding, bool *truncated, fs_error *err);
/* a.b / (|a| |b|); NaN if either is all zeros. */
double fs_cosine(const float *a, const float *b, int64_t n);

#endif
