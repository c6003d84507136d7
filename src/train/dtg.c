/* Training the domain tag generator: a ResNet-50 with three classes (aigc, deepfake, photoshop), all of it, cross entropy on micro-batches whose
 * statistics its batch norms use (Ioffe & Szegedy 2015). The original does not publish this part (spec 8). It starts from DTG.pth, from a bundle's, or from
 * an ImageNet ResNet-50 of torchvision, whose last layer is then replaced by a new one. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/bundle.h"
#include "train/trainee.h"

enum { GROUP_WEIGHTS = 0, GROUP_STATS = 2, CLASSES = 3 };

/* Running means and variances are no gradient's business: their group's rate is 0, and the forward pass brings them on. They are in the list so that
 * checkpoints and results have them. */
static bool chosen(void *user, const char *name, int *group) {
    (void)user;
    *group = strstr(name, "running_") ? GROUP_STATS : GROUP_WEIGHTS;
    return true;
}

/* A last layer for another number of classes makes way for a new one, drawn as PyTorch draws a Linear. */
static fs_status new_head(fs_trainee *t, const fs_tensor_source *base, fs_error *err) {
    const fs_tensor *w = base->find(base->user, "fc.weight");
    if (!w || w->ndim != 2 || w->shape[0] == CLASSES || w->shape[1] < 1) return FS_OK;
    fs_param *weight, *bias;
    fs_status status = fs_params_add(&t->params, "fc.weight", 2, (const int64_t[]){CLASSES, w->shape[1]}, NULL, GROUP_WEIGHTS, &weight, err);
    if (!status) status = fs_params_add(&t->params, "fc.bias", 1, (const int64_t[]){CLASSES}, NULL, GROUP_WEIGHTS, &bias, err);
    if (status) return status;
    fs_rng rng = fs_rng_seed(t->options->seed);
    const double bound = 1 / sqrt((double)w->shape[1]);
    for (int64_t i = 0; i < weight->count; i++) weight->data[i] = (float)(bound * (2 * fs_rng_uniform(&rng) - 1));
    for (int64_t i = 0; i < bias->count; i++) bias->data[i] = (float)(bound * (2 * fs_rng_uniform(&rng) - 1));
    fs_log(&t->options->base.callbacks, FS_LOG_INFO, "the checkpoint names %lld classes; its last layer is replaced by a new one for %d", (long long)w->shape[0], CLASSES);
    return FS_OK;
}

fs_status fs_trainee_open_dtg(fs_trainee *t, fs_error *err) {
    const fs_train_options *o = t->options;
    fs_options base = o->base;
    fs_tensor_source source;
    fs_status status = FS_OK;
    const bool file = fs_path_exists(o->model_dir) && !fs_path_is_dir(o->model_dir);
    t->params.groups[GROUP_STATS] = (fs_param_group){0, 0};
    if (!file && (status = fs_layout_find(o->model_dir, &base, &t->layout, err))) return status;
    if (t->layout.bundle) {
        if ((status = fs_bundle_open(t->layout.dte_fdm ? t->layout.dte_fdm : t->layout.mflm, t->layout.vision, t->layout.dte_fdm ? "dte" : "mflm", base.threads, &t->bundle, err)))
            return status;
        source = fs_bundle_dtg(t->bundle);
    } else {
        const char *path = file ? o->model_dir : t->layout.dtg;
        if (!path)
            return fs_fail(err, FS_E_NOT_FOUND, "%s: no DTG.pth to start from; give one with --dtg FILE, or as the model torchvision's resnet50 weights", o->model_dir);
        if ((status = fs_archive_open(path, &t->dtg_file, err))) return status;
        source = fs_archive_source(t->dtg_file);
    }
    if ((status = new_head(t, &source, err))) return status;
    fs_params_view *v = &t->views[0];
    *v = (fs_params_view){.params = &t->params, .base = source, .select = chosen, .user = t};
    source = fs_params_source(v);
    status = fs_resnet_bind(&t->resnet, &source, "", err);
    if (!status && v->status) status = fs_fail(err, v->status, "%s", v->error.message);
    return status;
}

/* [n, 3, 224, 224] */
static fs_tensor *pixels_of(fs_exec *c, const fs_sample *samples, size_t n) {
    enum { SIDE = 224 };
    const int64_t one = 3 * SIDE * SIDE;
    fs_tensor *x = fs_new(c, 4, (const int64_t[]){(int64_t)n, 3, SIDE, SIDE});
    for (size_t i = 0; i < n && x; i++) memcpy(fs_f32(x) + (int64_t)i * one, samples[i].dtg, (size_t)one * sizeof(float));
    return x;
}

static fs_tensor *logits_of(fs_trainee *t, const fs_sample *samples, size_t n, bool train) {
    enum { SIDE = 224 };
    fs_exec *c = &t->exec;
    if (train) return fs_resnet_forward_train(c, &t->resnet, pixels_of(c, samples, n));
    const fs_tensor **rows = fs_arena_alloc(c->arena, n * sizeof *rows);
    for (size_t i = 0; i < n && rows; i++) {
        fs_tensor *x = fs_wrap(c, FS_DTYPE_F32, 3, (const int64_t[]){3, SIDE, SIDE}, samples[i].dtg);
        rows[i] = fs_reshape_2d(c, fs_resnet_forward(c, &t->resnet, x, NULL), 1, t->resnet.classes);
    }
    return rows ? fs_concat_rows(c, rows, n) : NULL;
}

fs_tensor *fs_trainee_dtg_loss(fs_trainee *t, const fs_sample *samples, size_t n, bool train, fs_losses *losses) {
    fs_exec *c = &t->exec;
    int32_t *classes = fs_arena_alloc(c->arena, n * sizeof *classes);
    fs_tensor *logits = classes ? logits_of(t, samples, n, train) : NULL;
    if (!logits) {
        if (!c->error.status) fs_exec_fail(c, FS_E_NO_MEMORY, "out of memory for a batch of %zu pictures", n);
        return NULL;
    }
    for (size_t i = 0; i < n; i++) {
        const float *row = fs_f32(logits) + (int64_t)i * logits->shape[1];
        int best = 0;
        for (int k = 1; k < logits->shape[1]; k++)
            if (row[k] > row[best]) best = k;
        classes[i] = samples[i].domain;
        losses->right += best == samples[i].domain;
    }
    losses->tokens = losses->targets = (int64_t)n;
    fs_tensor *loss = fs_cross_entropy(c, logits, classes);
    if (loss) losses->ce = (double)fs_f32(loss)[0];
    return loss;
}

/* ---- the result ---- */

static fs_status bytes_of(void *user, size_t i, const void **data, fs_error *err) {
    const fs_params *p = user;
    (void)err;
    *data = p->list[i]->data;
    return FS_OK;
}

fs_status fs_trainee_write_dtg(const fs_trainee *t, const char *dir, fs_error *err) {
    static const char *const ours[] = {"DTG.pth", NULL};
    const fs_params *p = &t->params;
    fs_folder folder = {0};
    char *path = NULL;
    const fs_tensor **tensors = fs_alloc_zero(p->count, sizeof *tensors);
    const char **names = fs_alloc_zero(p->count, sizeof *names);
    fs_status status = tensors && names ? fs_folder_begin(dir, ours, &folder, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < p->count && !status; i++) tensors[i] = &p->list[i]->tensor, names[i] = p->list[i]->name;
    if (!status && !(path = fs_path_join(folder.temp, "DTG.pth"))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status) status = fs_torch_write(path, tensors, names, p->count, bytes_of, (void *)(uintptr_t)p, err);
    if (!status) status = fs_folder_commit(&folder, err);
    fs_folder_drop(&folder);
    free(path);
    free(tensors);
    free(names);
    return status;
}
