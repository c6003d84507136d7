/* Writing a bundle's files: sources are mapped, a few megabytes of rows at a time are converted by all threads and written, and a tensor's
 * pages are given back when it is done, so memory is bounded by the largest tensor. Each file appears only when it is whole; a run that was
 * killed is simply run again, and keeps what is finished. */
#include "pipeline/bundle_write.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#include "tensor/block.h"

enum { CHUNK = 1 << 20 }; /* values converted at a time */

fs_status fs_bundle_type_parse(const char *name, fs_bundle_type *out, fs_error *err) {
    if (fs_bundle_type_from_name(name, out)) return FS_OK;
    return fs_fail(err, FS_E_USAGE, "type \"%s\" is none of f32, f16, bf16, q8_0, q4_0, q4_k, mixed", name ? name : "");
}

fs_status fs_bundle_output_begin(fs_bundle_output *o, const char *out_dir, const char *file, fs_error *err) {
    o->file = file;
    o->path = fs_path_join(out_dir, file);
    return o->path ? fs_gguf_writer_create(o->path, &o->w, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
}

fs_status fs_bundle_output_add(fs_bundle_output *o, const char *name, const fs_bundle_item *item, fs_error *err) {
    if (o->count == o->capacity) {
        const size_t capacity = o->capacity ? 2 * o->capacity : 256;
        fs_bundle_item *items = realloc(o->items, capacity * sizeof *items);
        if (!items) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        o->items = items;
        o->capacity = capacity;
    }
    o->items[o->count++] = *item;
    fs_gguf_put_tensor(o->w, name, item->type, item->source->ndim, item->source->shape);
    return FS_OK;
}

/* Rows r0 .. r0+n of the tensor, converted into `out` (n x step bytes). Returns the first row that cannot be stored, or -1. */
static int64_t convert_rows(const fs_bundle_item *t, int64_t row, int64_t r0, int64_t n, size_t in_step, size_t step, float *values, uint8_t *out,
                            int threads) {
    int64_t bad = INT64_MAX;
    if (n * row < CHUNK / 32) threads = 1; /* waking the others takes longer */
#pragma omp parallel for schedule(static) num_threads(threads) reduction(min : bad)
    for (int64_t i = 0; i < n; i++) {
        const int64_t from = t->width ? fs_bundle_rope_row(r0 + i, t->width) : r0 + i;
        const uint8_t *source = (const uint8_t *)t->source->data + (size_t)from * in_step;
        float *x = values + i * row;
        if (t->source->dtype == t->type) {
            memcpy(out + (size_t)i * step, source, step);
        } else if (!fs_row_to_f32(t->source->dtype, source, row, x) || !fs_row_from_f32(t->type, x, row, out + (size_t)i * step)) {
            bad = r0 + i < bad ? r0 + i : bad;
        }
    }
    return bad == INT64_MAX ? -1 : bad;
}

/* Is the source what its own file says it is? What is wrong there must not get a good checksum here. */
static fs_status check_source(const fs_bundle_item *t, const fs_sha256 *sum, fs_error *err) {
    char found[65];
    if (t->sum.size == 0) return FS_OK;
    fs_sha256_end(sum, found);
    if (fs_gguf_text_is(t->sum, found)) return FS_OK;
    return fs_fail(err, FS_E_FORMAT, "%s: tensor %s: expected SHA-256 %.*s, found %s; the file is damaged: make it anew", fs_archive_path(t->archive),
                   t->source->name, (int)(t->sum.size < 64 ? t->sum.size : 64), t->sum.data, found);
}

static fs_status write_tensor(fs_bundle_job *j, fs_bundle_output *o, const fs_bundle_item *item, int threads, fs_error *err) {
    fs_tensor made = *item->source;
    fs_bundle_item with = *item;
    const fs_bundle_item *t = &with;
    with.source = &made;
    const int64_t count = fs_tensor_count(t->source), row = t->source->ndim > 0 ? t->source->shape[t->source->ndim - 1] : 1;
    if (count == 0) return FS_OK;
    const int64_t rows = count / row, some = fs_max_i64(1, fs_min_i64(rows, CHUNK / row));
    size_t step, in_step;
    fs_sha256 sum;
    fs_sha256_begin(&sum);
    if (!fs_dtype_row_bytes(t->type, row, &step) || !fs_dtype_row_bytes(t->source->dtype, row, &in_step))
        return fs_fail(err, FS_E_INTERNAL, "%s: impossible row", o->file);
    float *values = fs_alloc((size_t)(some * row), sizeof *values);
    uint8_t *out = fs_alloc((size_t)some, step);
    fs_status status = values && out ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for %" PRId64 " values", o->file, some * row);
    if (!status && item->make) status = item->make(item->user, item->source, &made.data, err);
    for (int64_t r = 0; r < rows && !status; r += some) {
        const int64_t n = fs_min_i64(some, rows - r), bad = convert_rows(t, row, r, n, in_step, step, values, out, threads);
        if (t->sum.size) fs_sha256_add(&sum, (const uint8_t *)t->source->data + (size_t)r * in_step, (size_t)n * in_step);
        if (bad >= 0)
            status = fs_fail(err, FS_E_NUMERIC, "tensor %s: row %" PRId64 " holds NaN, infinity or numbers beyond what %s can store; convert with --type bf16 or f32",
                             t->source->name, bad, fs_dtype_name(t->type));
        else
            status = fs_gguf_writer_add(o->w, out, (size_t)n * step, err);
        j->done += (size_t)n * step;
        fs_progress(&j->opt->callbacks, o->file, (int64_t)j->done, (int64_t)j->total);
        if (!status && fs_cancelled(&j->opt->callbacks))
            status = fs_fail(err, FS_E_CANCELLED, "%s: stopped; files that are finished are kept, and the same command goes on from there", o->file);
    }
    if (!status) status = check_source(t, &sum, err);
    fs_archive_release(t->archive, item->source);
    if (item->make && made.data != item->source->data) free(made.data);
    free(values);
    free(out);
    return status;
}

static void output_free(fs_bundle_output *o) {
    fs_gguf_writer_free(o->w);
    free(o->items);
    free(o->path);
    *o = (fs_bundle_output){0};
}

static fs_status write_output(fs_bundle_job *j, fs_bundle_output *o, int threads, fs_error *err) {
    fs_status status = fs_gguf_writer_begin(o->w, err);
    for (size_t i = 0; i < o->count && !status; i++) status = write_tensor(j, o, &o->items[i], threads, err);
    if (!status) status = fs_gguf_writer_finish(o->w, err);
    output_free(o);
    return status;
}

/* Files that are finished already drop out. */
static fs_status keep_finished(fs_bundle_job *j, fs_error *err) {
    for (int i = 0; i < 3; i++) {
        fs_bundle_output *o = &j->outputs[i];
        bool finished = false;
        if (!o->w || j->opt->overwrite) continue;
        fs_status status = fs_gguf_writer_finished(o->w, &j->opt->callbacks, &finished, err);
        if (status) return status;
        if (!finished) continue;
        fs_log(&j->opt->callbacks, FS_LOG_INFO, "%s: finished already, with the same content; kept", o->path);
        output_free(o);
    }
    return FS_OK;
}

/* Room for all files together, before the first is begun. */
static fs_status check_room(fs_bundle_job *j, const char *dir, fs_error *err) {
    struct statvfs v;
    size_t need = 0, room;
    for (int i = 0; i < 3; i++) need += j->outputs[i].w ? fs_gguf_writer_size(j->outputs[i].w) : 0;
    j->total = need;
    if (statvfs(dir, &v) != 0 || !fs_mul_size((size_t)v.f_bavail, (size_t)v.f_frsize, &room) || room >= need) return FS_OK;
    return fs_fail(err, FS_E_IO, "%s: expected %.1f GB of free disk space, found %.1f GB; free some or name another disk", dir, (double)need / 1e9, (double)room / 1e9);
}

fs_status fs_bundle_job_run(fs_bundle_job *j, const char *out_dir, fs_error *err) {
    fs_exec x = {0};
    fs_status status = keep_finished(j, err);
    if (!status) status = check_room(j, out_dir, err);
    if (!status) status = fs_exec_init(&x, FS_DTYPE_F32, j->opt->threads, NULL, err); /* how many threads 0 means is known there */
    const int threads = x.threads;
    for (int i = 0; i < 3 && !status; i++)
        if (j->outputs[i].w) status = write_output(j, &j->outputs[i], threads, err);
    fs_exec_end(&x);
    return status;
}

void fs_bundle_job_free(fs_bundle_job *j) {
    for (int i = 0; i < 3; i++) output_free(&j->outputs[i]);
}
