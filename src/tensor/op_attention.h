/* What attention's forward pass (op_attention.c) and backward pass (op_attention_back.c) share. Private to the two. */
#ifndef FS_OP_ATTENTION_H
#define FS_OP_ATTENTION_H

#include "tensor/op.h"

typedef struct fs_attention_params {
    float scale;
    bool causal;
    int64_t h, w; /* the grid, where positions are relative */
    size_t parts; /* sequences one after the other that attend apart; 0: all is one */
    int64_t lengths[];
} fs_attention_params;
void fs_attention_backward(fs_exec *c, const fs_tape_node *node);     /* inputs q, k, v */
void fs_attention_rel_backward(fs_exec *c, const fs_tape_node *node); /* and rel_h, rel_w */

#endif
