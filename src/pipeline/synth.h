/* A bundle of random weights at the true size. Private to this room: synth.c plans and writes, synth_parts.c knows the networks' tensors,
 * synth_fill.c makes the numbers, synth_tokenizer.c a vocabulary. */
#ifndef FS_SYNTH_H
#define FS_SYNTH_H

#include "format/gguf.h"
#include "pipeline/bundle.h"
#include "pipeline/pipeline.h"

/* ---- which networks ---- */

/* channels: of a stem's first convolution; 0 = none. step: how many pixels it makes one, 8 or 16. blocks: residual ones behind each of its last two
 * convolutions. residual: beside the colours it is given their residuals (model/stem.c). */
typedef struct fs_synth_stem { int64_t channels, step, blocks; bool residual; } fs_synth_stem;

typedef struct fs_synth_arch {
    const char *name;
    bool stage1, stage2;
    fs_llama_config dte, mflm;
    fs_clip_config clip;
    struct { int64_t embed, depth, heads, grid, patch, window, global_every, out; } sam;
    fs_synth_stem clip_stem, sam_stem;
    int64_t decoder_mlp, dtg_width; /* of SAM's mask decoder; channels of the tag generator's stem */
    bool no_region; /* without the region encoder, which only boxes need */
} fs_synth_arch;

/* A new model to be trained (scratch.c): another architecture, a real tokenizer, and no mark that the weights mean nothing. */
typedef struct fs_scratch { fs_synth_arch arch; const char *title; fs_bytes tokenizer; } fs_scratch;
fs_status fs_synth_scratch(const char *out_dir, const fs_scratch *scratch, uint64_t seed, const fs_options *opt, fs_error *err);

/* What a tensor's numbers are like: norms' weights and variances are 1, means 0; products keep the size of what they are given. */
typedef enum fs_synth_kind { FS_SYNTH_ONE, FS_SYNTH_ZERO, FS_SYNTH_SMALL, FS_SYNTH_UNIT, FS_SYNTH_PRODUCT } fs_synth_kind;

/* Receives a tensor of part `part` ("clip", "mflm", "sam", ...) under upstream's name. */
typedef struct fs_synth_sink {
    void *user;
    fs_status (*tensor)(void *user, const char *part, const char *name, fs_synth_kind kind, int ndim, const int64_t *shape, fs_error *err);
} fs_synth_sink;
/* Every tensor of the vision file, in its order. */
fs_status fs_synth_vision(const fs_synth_arch *a, const fs_synth_sink *sink, fs_error *err);

/* ---- numbers ---- */

enum { FS_SYNTH_CHUNK = 1 << 16 }; /* values made from one random sequence: a whole number of blocks of any type */
/* Chunk number `chunk` of a tensor of `type`: n <= FS_SYNTH_CHUNK values of mean 0 and the given standard deviation, as bytes of that type.
 * The bytes depend on type, deviation, seed and chunk alone. False for a type that cannot be made. */
bool fs_synth_fill(fs_dtype type, double deviation, uint64_t seed, int64_t chunk, int64_t n, uint8_t *out);

/* ---- text ---- */

/* A SentencePiece model (LLaMA's kind of BPE) of `pieces` pieces: <unk>, <s>, </s>, 256 bytes, characters, English words with all their
 * beginnings, endings, and then words of no language. Appended to *out. */
fs_status fs_synth_tokenizer(int32_t pieces, fs_buffer *out, fs_error *err);

#endif
