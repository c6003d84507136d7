/* New models and what training made of them, as bundles. */
#ifndef FS_SCRATCH_H
#define FS_SCRATCH_H

#include "pipeline/pipeline.h"

/* Writes an f32 bundle of random weights into out_dir after a config (scratch.c says what is in it). The same config, tokenizer and seed give the same
 * bytes. Files of a bundle that are there already are an error. */
fs_status fs_scratch_create(const char *config, const char *out_dir, uint64_t seed, const fs_options *opt, fs_error *err);

#endif
