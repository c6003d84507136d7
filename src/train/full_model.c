/* What training all weights leaves: the bundle it started from, with the trained numbers in it. */
#include <string.h>

#include "pipeline/bundle.h"
#include "pipeline/scratch.h"
#include "train/trainee.h"

/* The trained tensor that a bundle calls `name`. Parts of the vision file are told apart by their prefixes; q and k have been bound from the bundle, and
 * so have its order of rows. */
static const fs_tensor *replacement(void *user, int file, int64_t layers, const char *name) {
    const fs_trainee *t = user;
    static const char *const parts[3][3] = {{"dte", "clip", NULL}, {"mflm", "clip", NULL}, {"dtg", NULL, NULL}};
    const int recipe = (int)t->options->recipe;
    for (size_t i = 0; i < t->params.count; i++) {
        const fs_param *p = t->params.list[i];
        fs_bundle_llm llm;
        char stored[FS_BUNDLE_NAME];
        if (file < 2) {
            if (file == recipe && fs_bundle_llm_find(layers, p->name, &llm) && strcmp(llm.name, name) == 0) return &p->tensor;
            continue;
        }
        for (int k = 0; k < 3 && parts[recipe][k]; k++)
            if (fs_bundle_vision_name(parts[recipe][k], p->name, stored) && strcmp(stored, name) == 0) return &p->tensor;
    }
    return NULL;
}

/* A SHA-256 over all trained weights, in their order. */
static fs_status hash_weights(const fs_trainee *t, char out[65], fs_error *err) {
    fs_sha256 sum;
    fs_sha256_begin(&sum);
    for (size_t i = 0; i < t->params.count; i++) {
        const fs_param *p = t->params.list[i];
        size_t bytes;
        if (!fs_dtype_bytes(p->tensor.dtype, p->tensor.ndim, p->tensor.shape, &bytes)) return fs_fail(err, FS_E_INTERNAL, "%s: a tensor of no size", p->name);
        fs_sha256_add(&sum, p->name, strlen(p->name) + 1);
        fs_sha256_add(&sum, p->tensor.data, bytes);
    }
    fs_sha256_end(&sum, out);
    return FS_OK;
}

fs_status fs_trainee_write_bundle(const fs_trainee *t, const char *dir, fs_error *err) {
    static const char *const ours[] = {FS_BUNDLE_DTE, FS_BUNDLE_MFLM, FS_BUNDLE_VISION, NULL};
    fs_folder folder = {0};
    fs_options opt = t->options->base;
    char weights[65];
    fs_status status = hash_weights(t, weights, err);
    if (!status) status = fs_folder_begin(dir, ours, &folder, err);
    if (!status) status = fs_bundle_rewrite(t->options->model_dir, folder.temp, replacement, (void *)(uintptr_t)t, weights, &opt, err);
    if (!status) status = fs_folder_commit(&folder, err);
    fs_folder_drop(&folder);
    return status;
}
