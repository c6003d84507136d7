/* LLaVA 1.5 as llama.cpp's programs keep it: a GGUF file with the language model (architecture "llama") and one with CLIP and the projector
 * (architecture "clip"). What stage 1 has to know of them, asked of the files' metadata. Private to this room. */
#ifndef FS_LLAVA_GGUF_H
#define FS_LLAVA_GGUF_H

#include "format/gguf.h"
#include "pipeline/pipeline.h"

typedef enum fs_llava_kind { FS_LLAVA_OTHER = 0, FS_LLAVA_LM, FS_LLAVA_MMPROJ } fs_llava_kind;
/* By general.architecture; our own bundles are OTHER. */
fs_llava_kind fs_llava_kind_of(const fs_archive *a);
/* The only file of each kind in the folder, malloc'ed; NULL = there is none. Two of a kind are FS_E_USAGE. */
fs_status fs_llava_search(const char *dir, char **lm, char **mmproj, fs_error *err);

fs_status fs_llava_lm_config(const fs_archive *lm, fs_lm_config *out, fs_error *err);
/* config.layers is set so that select_layer -2 is the state the projector was trained on. swapped: see fs_llava_mmproj_name. */
fs_status fs_llava_clip_config(fs_archive *mmproj, fs_clip_config *out, bool *swapped, fs_error *err);
/* SentencePiece's model made anew from tokenizer.ggml.*, for the same tokenizer as everywhere. */
fs_status fs_llava_tokenizer(const fs_archive *lm, fs_tokenizer **out, fs_error *err);
/* The mmproj file's name of a tensor of CLIP ("vision_model...") or of the projector ("model.mm_projector..."); false: it has none. swapped:
 * ffn_down is the first of a layer's two matrices, as the converter for CLIP has always written it. */
enum { FS_LLAVA_NAME = 96 };
bool fs_llava_mmproj_name(const char *upstream, bool swapped, char out[FS_LLAVA_NAME]);

#endif
