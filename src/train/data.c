/* What all kinds of training samples have in common: freeing one, the look before the first step, and the random numbers of one use. */
#include "train/data.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/tree_build.h"
#include "tensor/ops.h"
#include "train/data_internal.h"

static const char *const bad_names[] = {"fatal", "skip"};

const char *fs_bad_record_name(fs_bad_record b) {
    return (unsigned)b < 2 ? bad_names[b] : "unknown";
}

bool fs_bad_record_from_name(const char *name, fs_bad_record *out) {
    for (int i = 0; i < 2; i++)
        if (strcmp(name, bad_names[i]) == 0) return *out = (fs_bad_record)i, true;
    return false;
}

void fs_samples_close(fs_samples *s) {
    if (!s) return;
    free(s->told);
    s->close(s);
}

void fs_sample_free(fs_sample *s) {
    fs_ids_free(&s->ids);
    free(s->labels);
    free(s->times);
    free(s->clip);
    free(s->sam);
    free(s->mask);
    free(s->clip_mask);
    free(s->dtg);
    free(s->warning);
    *s = (fs_sample){.domain = -1};
}

fs_rng fs_sample_rng(uint64_t seed, uint32_t stream, int64_t index, uint64_t draw) {
    const uint64_t i = (uint64_t)index;
    const uint32_t counter[4] = {(uint32_t)i, (uint32_t)(i >> 32), (uint32_t)draw, (uint32_t)(draw >> 32)};
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32) ^ (stream * 0x9E3779B9U)};
    uint32_t r[4];
    fs_philox(counter, key, r);
    return fs_rng_seed((uint64_t)r[1] << 32 | r[0]);
}

fs_status fs_samples_check(fs_samples *s, fs_bad_record bad, const fs_callbacks *cb, int64_t *dropped, fs_error *err) {
    const int64_t n = s->count;
    int64_t lost = 0;
    fs_status status = FS_OK;
    fs_buffer warning = {0};
    uint8_t *marks = fs_alloc_zero((size_t)n + 1, 1);
    if (!marks) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for a list of %" PRId64 " records", n);
    for (int64_t i = 0; i < n; i++) {
        fs_error why = {0};
        fs_progress(cb, "checking the training data", i, n);
        if (fs_cancelled(cb)) {
            status = fs_fail(err, FS_E_CANCELLED, "stopped while checking the training data");
            goto done;
        }
        warning.size = 0;
        const fs_status one = s->check(s, i, &warning, &why);
        if (warning.size) fs_log(cb, FS_LOG_WARNING, "%s", warning.data);
        if (one == FS_OK) continue;
        if (bad == FS_BAD_FATAL || one == FS_E_NO_MEMORY) {
            if (err) *err = why;
            status = one;
            goto done;
        }
        fs_log(cb, FS_LOG_WARNING, "%s; this record is left out", why.message);
        marks[i] = 1;
        lost++;
    }
    fs_progress(cb, "checking the training data", n, n);
    if (lost == n) {
        status = fs_fail(err, FS_E_FAILED, "none of the %" PRId64 " records can be trained on; the warnings say what is wrong with each", n);
    } else if (lost) {
        free(s->told);
        s->told = NULL;
        s->drop(s, marks);
    }
    if (dropped) *dropped = lost;
done:
    fs_buffer_free(&warning);
    free(marks);
    return status;
}

/* ---- for the three kinds ---- */

fs_status fs_data_clip(const fs_image *im, bool pad, int64_t size, float **out, fs_error *err) {
    return pad ? fs_preprocess_clip_padded(im, size, out, err) : fs_preprocess_clip_cropped(im, size, out, err);
}

void fs_data_warn(fs_buffer *b, const char *format, ...) {
    char line[512];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (b->size) fs_buffer_puts(b, "; ");
    fs_buffer_puts(b, line);
}

char *fs_data_take_warning(fs_buffer *b, const char *where) {
    char *line = b->size && !b->failed ? fs_format("%s: %s", where, b->data) : NULL;
    fs_buffer_free(b);
    return line;
}

void fs_data_log_problems(const fs_dataset *d, const fs_callbacks *cb) {
    for (size_t i = 0; i < d->n_problems; i++) {
        const fs_data_problem *p = &d->problems[i];
        const bool named = p->kind == FS_DATA_TEXTS_BROKEN; /* that message names the file itself */
        fs_log(cb, FS_LOG_WARNING, "%s%s%s", named ? "" : p->path, named ? "" : ": ", p->message);
    }
}

void fs_data_drop_records(fs_dataset *d, const uint8_t *bad) {
    size_t kept = 0;
    for (size_t i = 0; i < d->count; i++) {
        if (bad[i])
            fs_data_record_clear(&d->records[i]);
        else
            d->records[kept++] = d->records[i];
    }
    d->count = kept;
}

bool fs_data_no_labels(const int32_t *labels, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (labels[i] != FS_IGNORE) return false;
    return true;
}
