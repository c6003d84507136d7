/* Validation as the original has it (spec 7.5): MFLM's masks, teacher-forced, against the true ones, gIoU = mean over pictures of the tampered class's
 * IoU, cIoU = all intersections over all unions; DTE-FDM's and the tag generator's loss and accuracy. Records are dealt out to the processes and
 * none counts twice (the original's sampler repeats some to fill up). Sums are f64 and joined in the order of processes. */
#include "train/run.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "image/image.h"

enum { SUM_LOSS = 0, SUM_RECORDS, SUM_IOU, SUM_INTERSECTION, SUM_UNION, SUM_RIGHT, SUMS };

typedef struct check {
    fs_trainee *t;
    const char *masks_dir;
    double sums[SUMS];
} check;

static fs_status write_mask(const check *v, const fs_samples *samples, const fs_sample *s, const uint8_t *mask, const char *what, fs_error *err) {
    const char *base = fs_path_base(samples->name((fs_samples *)(uintptr_t)samples, s->index));
    char *path = fs_format("%s/%s_%s_mask.png", v->masks_dir, base, what);
    fs_status status = path ? fs_png_write(path, mask, s->width, s->height, 1, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(path);
    return status;
}

static fs_status check_mask(check *v, const fs_samples *samples, const fs_sample *s, fs_error *err) {
    const int64_t pixels = s->height * s->width;
    fs_losses losses;
    bool found;
    fs_status status = FS_OK;
    float *logits = fs_alloc_zero((size_t)pixels, sizeof *logits);
    uint8_t *mask = fs_alloc((size_t)pixels, 1);
    if (!logits || !mask) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for a mask of %lldx%lld", (long long)s->width, (long long)s->height);
        goto done;
    }
    if ((status = fs_trainee_mask(v->t, s, logits, &found, &losses, err))) goto done;
    int64_t both = 0, either = 0;
    for (int64_t i = 0; i < pixels; i++) {
        const bool hit = found && logits[i] > 0, truth = s->mask[i] != 0;
        both += hit && truth;
        either += hit || truth;
        mask[i] = hit ? 255 : 0;
    }
    v->sums[SUM_LOSS] += losses.total;
    v->sums[SUM_IOU] += (double)both / ((double)either + 1e-5) + (either == 0 ? 1.0 : 0.0);
    v->sums[SUM_INTERSECTION] += (double)both;
    v->sums[SUM_UNION] += (double)either;
    if (v->masks_dir && !(status = write_mask(v, samples, s, mask, "output", err))) {
        for (int64_t i = 0; i < pixels; i++) mask[i] = s->mask[i] ? 255 : 0;
        status = write_mask(v, samples, s, mask, "GT", err);
    }
done:
    free(logits);
    free(mask);
    return status;
}

static fs_status check_one(check *v, const fs_samples *samples, const fs_sample *s, fs_error *err) {
    fs_losses losses;
    v->sums[SUM_RECORDS]++;
    if (v->t->options->recipe == FS_RECIPE_MFLM) return check_mask(v, samples, s, err);
    const fs_status status = fs_trainee_step(v->t, s, 1, 0, 0, &losses, err);
    if (status) return status;
    v->sums[SUM_LOSS] += losses.total;
    v->sums[SUM_RIGHT] += (double)losses.right;
    return FS_OK;
}

/* Process r takes records r, r + size, ... */
static fs_status records_of(const fs_samples *samples, fs_comm *comm, int64_t **order, int64_t *n, fs_error *err) {
    const int64_t size = fs_comm_size(comm), rank = fs_comm_rank(comm);
    *n = 0;
    *order = fs_alloc((size_t)(samples->count / size + 1), sizeof **order);
    if (!*order) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for the order of %lld records", (long long)samples->count);
    for (int64_t i = rank; i < samples->count; i += size) (*order)[(*n)++] = i;
    return FS_OK;
}

fs_status fs_validate(fs_trainee *t, fs_samples *samples, fs_comm *comm, int workers, const char *masks_dir, fs_validation *out, fs_error *err) {
    check v = {.t = t, .masks_dir = masks_dir};
    fs_loader *loader = NULL;
    int64_t *order = NULL, n;
    const size_t processes = (size_t)fs_comm_size(comm);
    double *all = NULL, sums[SUMS] = {0};
    const fs_callbacks *cb = &t->options->base.callbacks;
    fs_loader_options lo = fs_loader_options_defaults();
    lo.workers = workers;
    lo.bad = t->options->skip_bad ? FS_BAD_SKIP : FS_BAD_FATAL;
    lo.leave_out = true;
    lo.callbacks = cb;
    fs_status status = records_of(samples, comm, &order, &n, err);
    if (!status && masks_dir) status = fs_make_dirs(masks_dir, err);
    if (!status) status = fs_loader_open(samples, order, n, &lo, &loader, err);
    for (int64_t i = 0; i < n && !status; i++) {
        fs_sample s = {0};
        bool have;
        status = fs_loader_next(loader, &s, &have, err);
        if (!status && !have) break;
        if (!status) status = check_one(&v, samples, &s, err);
        fs_sample_free(&s);
        fs_progress(cb, "validation", i + 1, n);
    }
    if (status) goto done;
    all = fs_alloc(processes * SUMS, sizeof *all);
    if (!all) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    if ((status = fs_comm_gather(comm, v.sums, SUMS, all, err))) goto done;
    for (size_t p = 0; p < processes; p++)
        for (int k = 0; k < SUMS; k++) sums[k] += all[p * SUMS + (size_t)k];
    *out = (fs_validation){.loss = sums[SUM_LOSS] / fmax(sums[SUM_RECORDS], 1), .giou = sums[SUM_IOU] / (sums[SUM_RECORDS] + 1e-5),
                           .ciou = sums[SUM_INTERSECTION] / (sums[SUM_UNION] + 1e-10), .accuracy = sums[SUM_RIGHT] / fmax(sums[SUM_RECORDS], 1),
                           .records = (int64_t)sums[SUM_RECORDS]};
    out->metric = t->options->recipe == FS_RECIPE_MFLM ? out->giou : t->options->recipe == FS_RECIPE_DTG ? out->accuracy : -out->loss;
done:
    fs_loader_close(loader);
    free(order);
    free(all);
    return status;
}
