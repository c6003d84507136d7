/* New low-rank adapters as trained tensors. */
#ifndef FS_TRAIN_LORA_H
#define FS_TRAIN_LORA_H

#include "model/model.h"
#include "train/params.h"

/* For every layer, then every place in the mask (bit 1 << fs_lora_place): "base_model.model.model.layers.N.PLACE.lora_A.weight" [rank, in],
 * drawn evenly from [-1/sqrt(in), 1/sqrt(in)), and lora_B [out, rank], zero: peft's start, at which the model is the base. A tensor's
 * values depend on seed, layer and place alone. */
fs_status fs_lora_add_params(fs_params *p, const fs_llama_config *config, unsigned places, int64_t rank, uint64_t seed, int group,
                             fs_error *err);

enum { FS_LORA_ALL_PLACES = (1 << FS_LORA_PLACES) - 1, FS_LORA_QV = 1 << FS_LORA_Q | 1 << FS_LORA_V }; /* DTE-FDM's places; MFLM's */

#endif
