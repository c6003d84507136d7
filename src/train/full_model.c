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

fs_status fs_trainee_write_bundle(const fs_trainee *t, const char *dir, fs_error *err) {
    static const char *const ours[] = {FS_BUNDLE_DTE, FS_BUNDLE_MFLM, FS_BUNDLE_VISION, NULL};
    fs_folder folder = {0};
    fs_options opt = t->options->base;
    fs_status status = fs_folder_begin(dir, ours, &folder, err);
    if (!status) status = fs_bundle_rewrite(t->options->model_dir, folder.temp, replacement, (void *)(uintptr_t)t, &opt, err);
    if (!status) status = fs_folder_commit(&folder, err);
    fs_folder_drop(&folder);
    return status;
}
