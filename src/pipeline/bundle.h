/* What is in a bundle (docs/bundle.md): file names, tensor names, and which type each tensor is stored in. Private to this room. */
#ifndef FS_BUNDLE_H
#define FS_BUNDLE_H

#include "tensor/tensor.h"

#define FS_BUNDLE_DTE "dte-fdm.gguf"
#define FS_BUNDLE_MFLM "mflm.gguf"
#define FS_BUNDLE_VISION "vision.gguf"

#define FS_BUNDLE_SYNTHETIC "fakeshield.synthetic" /* bool: the weights are random */

enum { FS_BUNDLE_NAME = 64 };

/* A --type: one storage type for the language models' matrices, or the recommended mixture. */
typedef struct fs_bundle_type { const char *name; fs_dtype matrix; bool mixed; uint32_t file_type; } fs_bundle_type; /* file_type: llama.cpp's */
bool fs_bundle_type_from_name(const char *name, fs_bundle_type *out); /* "f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "mixed" */

/* Tensors of a language model, in the order of the file. layer -1: not of a layer. heads: whose rows are permuted. */
typedef enum fs_bundle_heads { FS_HEADS_NONE = 0, FS_HEADS_QUERY, FS_HEADS_KEY } fs_bundle_heads;
typedef struct fs_bundle_llm { char upstream[FS_BUNDLE_NAME], name[FS_BUNDLE_NAME]; fs_bundle_heads heads; } fs_bundle_llm;
/* The i-th tensor of a model of `layers` layers; false behind the last. */
bool fs_bundle_llm_tensor(int64_t layers, int64_t i, fs_bundle_llm *out);
/* The tensor upstream calls that; false for a name that is none of a model of `layers` layers. */
bool fs_bundle_llm_find(int64_t layers, const char *upstream, fs_bundle_llm *out);
/* Row of the upstream matrix that stands in row r of the bundle's: heads of `width` rows, whose halves become alternate rows. */
int64_t fs_bundle_rope_row(int64_t r, int64_t width);

/* Vision parts: upstream's prefix within one source file becomes the bundle's. The whole table, ended by a NULL part. */
typedef struct fs_bundle_prefix { const char *part, *from, *to; } fs_bundle_prefix; /* part: "dte", "mflm", "sam", "clip", "dtg" */
extern const fs_bundle_prefix fs_bundle_prefixes[];
/* False for a tensor that no prefix of the part covers, for one that nothing computes with, and for a name that does not fit. */
bool fs_bundle_vision_name(const char *part, const char *upstream, char out[FS_BUNDLE_NAME]);

/* The type a tensor is stored in. layers: of its language model; 0 for vision parts. */
fs_dtype fs_bundle_store_as(const fs_bundle_type *type, const char *name, int64_t layers, int ndim, const int64_t *shape);

#endif
