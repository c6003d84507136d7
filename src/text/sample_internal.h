/* The half of sampling that can be compared with transformers: which ids stay, with what probability. */
#ifndef FS_SAMPLE_INTERNAL_H
#define FS_SAMPLE_INTERNAL_H

#include "text/text.h"

/* logits: [n] become probabilities in place; ids that temperature, top-k and top-p leave out become 0. temperature > 0. */
fs_status fs_sample_distribution(float *logits, int32_t n, const fs_sampling *s, fs_error *err);

#endif
