/* What training leaves: an adapter directory as peft and the original write it (spec 6.7).
 *
 *     adapter_config.json, adapter_model.safetensors    what peft loads
 *     non_lora_trainables.safetensors and .bin          all other trained tensors, as "base_model.model." + the checkpoint's name; the
 * second as torch.save writes it, for the original's own loader config.json                                       the base's, which the
 * original's loader wants here fakeshield.json                                   which stage it belongs to, what it was trained on, a
 * summary of the training */
#ifndef FS_TRAIN_ARTEFACTS_H
#define FS_TRAIN_ARTEFACTS_H

#include "train/params.h"

typedef struct fs_adapter_info {
    int stage;             /* 1 DTE-FDM, 2 MFLM */
    double alpha, dropout; /* lora_alpha; default 16, 0.05 */
    fs_dtype dtype;        /* of the tensors written: F32 (default), F16 or BF16 */
    const char *base; /* DTE-FDM or MFLM folder, or the bundle's file, that was trained on; its config.json is copied. NULL: not told */
    const char *fingerprint;   /* of the base, 64 hex digits (fs_fingerprint); NULL: not told */
    const char *training_json; /* a summary of the training, a JSON object; NULL: none */
} fs_adapter_info;
fs_adapter_info fs_adapter_info_defaults(void);

/* Writes `dir` as a whole: it is made in a folder beside, synced, and takes the name in one step, so that a kill leaves the old one or the
 * new one. A folder of that name is replaced if nothing but an adapter's files is in it, and is an error else. At least one adapter must be
 * in `params`, all of one rank. Memory: with F16 or BF16 one tensor. */
fs_status fs_adapter_write(const char *dir, const fs_params *params, const fs_adapter_info *info, fs_error *err);

#endif
