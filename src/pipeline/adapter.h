/* Adapters that training left (src/train/artefacts.h, or peft and the original): a folder is read, told which stage it is for, and put over
 * that stage's tensors when it opens (fs_overlay), or multiplied into them (merge.c). Nothing of the base is changed.
 *
 * Names of tensors: adapters as peft's files have them, "base_model.model.model.layers.N.PLACE.lora_A.weight"; all others as the checkpoint
 * has them. */
#ifndef FS_ADAPTER_H
#define FS_ADAPTER_H

#include "format/archive.h"
#include "pipeline/pipeline.h"

typedef struct fs_adapter fs_adapter;

/* path: a folder with adapter_config.json and adapter_model.safetensors or .bin, and perhaps non_lora_trainables.safetensors or .bin; or a
 * state dict as DeepSpeed's zero_to_fp32 makes it of the original's MFLM training (a file, or a folder with pytorch_model.bin). Reads
 * headers; what cannot be applied exactly is refused. log: for what is left out; may be NULL. */
fs_status fs_adapter_open(const char *path, const fs_callbacks *log, fs_adapter **out, fs_error *err);
void fs_adapter_free(fs_adapter *a);
const char *fs_adapter_path(const fs_adapter *a);
int fs_adapter_told(const fs_adapter *a); /* stage that its own files name; 0: they do not */
/* SHA-256 over names, sizes and samples of its files. */
const char *fs_adapter_fingerprint(const fs_adapter *a);

typedef struct fs_adapter_facts {
    int64_t rank, layers; /* rank: of the first; layers: highest number + 1 */
    double alpha;
    size_t modules, others; /* adapted layers; tensors that replace the base's */
    size_t parameters, bytes;
    unsigned places;  /* mask of fs_lora_place */
    const char *kind; /* "peft" or "state dict" */
} fs_adapter_facts;
fs_adapter_facts fs_adapter_facts_of(const fs_adapter *a);

/* Does every tensor fit a stage (1, 2) of this config? Names the first that does not. */
fs_status fs_adapter_check(const fs_adapter *a, int stage, const fs_lm_config *config, fs_error *err);
/* Opens opt's adapters: out[stage - 1], NULL where there is none. Each goes to the stage its files name, else to the only one it fits. */
fs_status fs_adapters_open(const fs_layout *layout, const fs_options *opt, fs_adapter *out[2], fs_error *err);
/* Changes a checkpoint's fingerprint to that of the checkpoint with these; nothing happens where there are none. */
fs_status fs_adapters_fingerprint(fs_adapter *const adapters[2], char fingerprint[65], fs_error *err);
/* Puts it over a stage; `a` must outlive the stage and is for one stage at a time. Values are looked at here: NaN and infinity are refused.
 */
fs_overlay fs_adapter_overlay(fs_adapter *a);

/* Its tensor of that name, or NULL. */
const fs_tensor *fs_adapter_find(const fs_adapter *a, const char *name);
/* The two factors for a base tensor "model.layers.N.PLACE.weight", and what their product is multiplied with; false: not adapted. */
bool fs_adapter_pair(const fs_adapter *a, const char *base_name, const fs_tensor **lora_a, const fs_tensor **lora_b, double *scale);
/* The i-th tensor that replaces one of the base's, for i from 0; false behind the last. */
bool fs_adapter_other(const fs_adapter *a, size_t i, const char **name, const fs_tensor **tensor);
fs_status fs_adapter_check_values(const fs_adapter *a, fs_error *err); /* finite? */

#endif
