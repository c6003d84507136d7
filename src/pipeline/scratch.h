/* New models and what training made of them, as bundles. */
#ifndef FS_SCRATCH_H
#define FS_SCRATCH_H

#include "pipeline/pipeline.h"

/* Writes an f32 bundle of random weights into out_dir after a config (scratch.c says what is in it). The same config, tokenizer and seed give the same
 * bytes. Files of a bundle that are there already are an error. */
fs_status fs_scratch_create(const char *config, const char *out_dir, uint64_t seed, const fs_options *opt, fs_error *err);

/* What stands in place of the tensor `name` (of the bundle's naming) of file 0 (stage 1), 1 (stage 2) or 2 (vision); NULL: nothing, it stays. layers:
 * of the file's language model. The result has the bundle's order of rows. */
typedef const fs_tensor *(*fs_bundle_replace_fn)(void *user, int file, int64_t layers, const char *name);
/* The bundle once more with other numbers in some tensors, stored in the types they had. weights: a hash of those numbers (64 hex digits): two such bundles
 * then differ in fakeshield.source_sha256, and what is made of the one is never taken for what is made of the other. NULL: it stays as it is. */
fs_status fs_bundle_rewrite(const char *bundle_dir, const char *out_dir, fs_bundle_replace_fn replace, void *user, const char *weights,
                            const fs_options *options, fs_error *err);

#endif
