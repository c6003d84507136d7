/* BERT's encoder (Devlin et al. 2019; transformers' modeling_bert.py), as sentence encoders use it: token states, no pooler, no second
 * segment. */
#ifndef FS_BERT_H
#define FS_BERT_H

#include "model/model.h"

typedef struct fs_bert_config {
    int64_t hidden, intermediate, layers, heads, vocab, positions, types;
    float eps;
} fs_bert_config;
typedef struct fs_bert_layer {
    fs_affine q, k, v, out, norm1, fc1, fc2, norm2;
} fs_bert_layer;
typedef struct fs_bert {
    fs_bert_config config;
    const fs_tensor *words, *positions, *types; /* [vocab, C], [positions, C], [types, C] */
    fs_affine norm;
    fs_bert_layer *layers;
} fs_bert;
/* prefix: "" or "bert." */
fs_status fs_bert_bind(fs_bert *m, const fs_bert_config *config, const fs_tensor_source *source, const char *prefix, fs_error *err);
void fs_bert_unbind(fs_bert *m);
/* ids: [n], 1 <= n <= positions, all of them real tokens (no padding) -> the last layer's states [n, hidden]. */
fs_tensor *fs_bert_forward(fs_exec *c, const fs_bert *m, const int32_t *ids, int64_t n);

#endif
