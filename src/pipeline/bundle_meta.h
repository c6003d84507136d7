/* The metadata that every bundle carries (docs/bundle.md), however its weights came to be. Private to this room. */
#ifndef FS_BUNDLE_META_H
#define FS_BUNDLE_META_H

#include "format/gguf.h"
#include "pipeline/bundle.h"
#include "pipeline/pipeline.h"

/* general.* and what tells a bundle's files to belong together. fingerprint: 64 hex digits of what the weights were made from. */
void fs_bundle_put_general(fs_gguf_writer *w, const fs_bundle_type *type, const char *architecture, const char *title, const char *fingerprint);
void fs_bundle_put_llama(fs_gguf_writer *w, const fs_llama_config *g);
/* The vocabulary as llama.cpp wants it: one piece, score and kind for each of the embedding's `vocab` rows. model: the bytes of
 * tokenizer.model, whose place for error lines is `where`; t: the tokenizer made of it, with the added tokens. */
fs_status fs_bundle_put_vocabulary(fs_gguf_writer *w, const char *where, fs_bytes model, const fs_tokenizer *t, int64_t vocab, fs_error *err);

#endif
