/* What is trained: a list of named F32 tensors, each with its gradient and the optimizer's two moments. A model binds its weight table from
 * fs_params_source, which hands out these tensors (leaves of the tape) for the names that are in the list and the base checkpoint's for all
 * others, so the networks know nothing of training. Names are those the artefacts have (peft's for adapters, the checkpoint's for the rest). */
#ifndef FS_TRAIN_PARAMS_H
#define FS_TRAIN_PARAMS_H

#include "base/base.h"
#include "tensor/tape.h"

typedef struct fs_param {
    char *name;
    fs_tensor tensor;  /* F32 leaf over `data` */
    fs_tape_node node;
    float *data, *grad, *m, *v; /* [count] each; m, v: AdamW's moments */
    int64_t count;
    int group;         /* of learning rate and weight decay: index into fs_param_groups */
} fs_param;

/* The learning rate is the schedule's factor times rate; decay is AdamW's weight decay. */
typedef struct fs_param_group { double rate, decay; } fs_param_group;
enum { FS_PARAM_GROUPS = 4 };

typedef struct fs_params {
    fs_param **list; /* in the order they were added, which is the order in files */
    size_t count, capacity;
    fs_param_group groups[FS_PARAM_GROUPS];
} fs_params;

/* A new tensor of zeros, or (from != NULL) with the values of `from`, which must have this shape and a float type. *out may be NULL. An
 * adapter's values are drawn by its maker. Fails on a name that is there already. */
fs_status fs_params_add(fs_params *p, const char *name, int ndim, const int64_t *shape, const fs_tensor *from, int group, fs_param **out, fs_error *err);
fs_param *fs_params_find(const fs_params *p, const char *name); /* NULL if there is none */
/* The list in front of a checkpoint's tensors (base.find NULL: nothing behind). A tensor that a network asks for and that `select` chooses (NULL: none)
 * joins the list then, with the checkpoint's values; so exactly what the networks use is trained, whatever else a file holds. The view is the
 * caller's and must live as long as the source; after binding, look at `status`: a tensor that could not join. */
typedef struct fs_params_view {
    fs_params *params;
    fs_tensor_source base;
    bool (*select)(void *user, const char *name, int *group);
    void *user;
    fs_status status;
    fs_error error;
} fs_params_view;
fs_tensor_source fs_params_source(fs_params_view *view);
void fs_params_zero_grad(fs_params *p);
int64_t fs_params_total(const fs_params *p); /* numbers that are trained */
void fs_params_free(fs_params *p);           /* a zeroed struct is fine */

#endif
