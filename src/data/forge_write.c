/* fs_forge: records as files. Each record is made by one thread from its own random numbers and written whole: picture, mask, then the
 * record's own file, which says that it is finished. The lists for training come at the end, from those files, so that a run can stop
 * anywhere and go on. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "data/forge_files.h"

fs_forge_counts fs_forge_count(const fs_forger *f, int64_t count) {
    const double share[3] = {1 - (double)f->opt.val - (double)f->opt.test, f->opt.val, f->opt.test};
    fs_forge_counts c = {{0}};
    double sum = 0;
    int largest = -1;
    for (int s = 0; s < 3; s++) {
        if (!(share[s] > 0) || !fs_sources_count(f->sources, (fs_forge_split)s)) continue;
        sum += share[s];
        if (largest < 0 || share[s] > share[largest]) largest = s;
    }
    int64_t rest = count;
    for (int s = 0; s < 3; s++) {
        if (s == largest || !(share[s] > 0) || !fs_sources_count(f->sources, (fs_forge_split)s)) continue;
        c.n[s] = (int64_t)((double)count * share[s] / sum + 0.5);
        rest -= c.n[s];
    }
    if (largest >= 0) c.n[largest] = fs_max_i64(rest, 0);
    return c;
}

char *fs_forge_record_path(const char *out_dir, fs_forge_split split, uint64_t index) {
    return fs_format("%s/records/%s_%06llu.json", out_dir, fs_forge_split_name(split), (unsigned long long)index);
}

char *fs_forge_set_path(fs_domain domain, fs_forge_split split, bool tampered) {
    static const char *const folders[] = {"aigc", "deepfake", "photoshop"};
    return fs_format("%s/%s%s", folders[(int)domain], fs_forge_split_name(split), tampered ? "" : "_authentic");
}

/* Is the file named under `key` there, with the size noted? */
static bool file_is_there(const char *out_dir, const json_t *record, const char *key, const char *bytes_key) {
    const char *relative = json_string_value(json_object_get(record, key));
    if (!relative) return json_is_null(json_object_get(record, key));
    char *path = fs_path_join(out_dir, relative);
    bool there = path && relative[0] != '/' && !strstr(relative, "..") && fs_path_exists(path) && !fs_path_is_dir(path) &&
                 fs_path_bytes(path) == json_integer_value(json_object_get(record, bytes_key));
    free(path);
    return there;
}

json_t *fs_forge_record_read(const char *out_dir, fs_forge_split split, uint64_t index) {
    char *path = fs_forge_record_path(out_dir, split, index);
    uint8_t *bytes = NULL;
    size_t size = 0;
    json_t *record = NULL;
    if (path && fs_path_exists(path) && fs_read_file(path, (size_t)1 << 20, &bytes, &size, NULL) == FS_OK)
        record = json_loadb((const char *)bytes, size, JSON_REJECT_DUPLICATES, NULL);
    const char *name = json_string_value(json_object_get(record, "split"));
    bool whole = json_is_object(record) && name && strcmp(name, fs_forge_split_name(split)) == 0 &&
                 json_integer_value(json_object_get(record, "index")) == (json_int_t)index &&
                 json_is_string(json_object_get(record, "image")) && json_is_string(json_object_get(record, "question")) &&
                 json_is_string(json_object_get(record, "answer")) && json_is_string(json_object_get(record, "type")) &&
                 json_is_object(json_object_get(record, "parameters")) && file_is_there(out_dir, record, "image", "image_bytes") &&
                 file_is_there(out_dir, record, "mask", "mask_bytes");
    if (!whole) {
        json_decref(record);
        record = NULL;
    }
    free(path);
    free(bytes);
    return record;
}

/* ---- one record ---- */

typedef struct record_paths {
    char *set, *dir, *image, *mask, *image_name, *mask_name; /* the names are relative to the folder */
} record_paths;

static void paths_free(record_paths *p) {
    free(p->set), free(p->dir), free(p->image), free(p->mask), free(p->image_name), free(p->mask_name);
}

static bool paths_make(const char *out_dir, const fs_forge_record *r, record_paths *p) {
    bool tampered = r->type != FS_FORGE_AUTHENTIC;
    *p = (record_paths){.set = fs_forge_set_path(r->domain, r->split, tampered)};
    if (!p->set) return false;
    char *name = fs_format("%s_%06llu_%s", fs_forge_split_name(r->split), (unsigned long long)r->index, fs_forge_type_name(r->type));
    if (name) {
        p->image_name = fs_format("%s/image/%s.%s", p->set, name, r->file ? "jpg" : "png");
        p->mask_name = tampered ? fs_format("%s/mask/%s.png", p->set, name) : NULL;
        p->image = p->image_name ? fs_path_join(out_dir, p->image_name) : NULL;
        p->mask = p->mask_name ? fs_path_join(out_dir, p->mask_name) : NULL;
    }
    free(name);
    return p->image && (p->mask || !tampered);
}

static fs_status make_folder_of(const char *path, fs_error *err) {
    const char *base = fs_path_base(path);
    char *dir = fs_format("%.*s", (int)(base - path - 1), path);
    if (!dir) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory", path);
    fs_status status = fs_make_dirs(dir, err);
    free(dir);
    return status;
}

static fs_status write_record(const char *out_dir, fs_forge_record *r, fs_error *err) {
    record_paths p = {0};
    uint8_t *png = NULL, *mask = NULL;
    size_t image_size = r->file_size, mask_size = 0;
    json_t *record = NULL, *parameters = NULL;
    char *line = NULL, *path = fs_forge_record_path(out_dir, r->split, r->index), image_sha[65], mask_sha[65] = "";
    fs_status status = FS_OK;
    if (!paths_make(out_dir, r, &p) || !path) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory to write a record", out_dir);
        goto done;
    }
    if (!r->file) status = fs_png_encode(r->rgb, r->width, r->height, 3, &png, &image_size, err);
    if (!status && p.mask) status = fs_png_encode(r->mask, r->width, r->height, 1, &mask, &mask_size, err);
    if (!status) status = make_folder_of(p.image, err);
    if (!status && p.mask) status = make_folder_of(p.mask, err);
    if (!status) status = fs_write_file(p.image, r->file ? r->file : png, image_size, err);
    if (!status && p.mask) status = fs_write_file(p.mask, mask, mask_size, err);
    if (status) goto done;
    fs_sha256_hex(r->file ? r->file : png, image_size, image_sha);
    if (p.mask) fs_sha256_hex(mask, mask_size, mask_sha);
    parameters = json_loads(r->parameters, 0, NULL);
    record = json_pack("{s:s,s:I,s:s,s:s,s:s,s:o,s:I,s:I,s:I,s:I,s:s,s:s,s:s,s:s,s:O}", "split", fs_forge_split_name(r->split), "index",
                       (json_int_t)r->index, "type", fs_forge_type_name(r->type), "domain", fs_domain_name(r->domain), "image",
                       p.image_name, "mask", p.mask_name ? json_string(p.mask_name) : json_null(), "width", (json_int_t)r->width, "height",
                       (json_int_t)r->height, "image_bytes", (json_int_t)image_size, "mask_bytes", (json_int_t)mask_size, "image_sha256",
                       image_sha, "mask_sha256", mask_sha, "question", r->question, "answer", r->answer, "parameters", parameters);
    line = record ? json_dumps(record, JSON_INDENT(2) | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(6)) : NULL;
    status = line ? fs_write_file(path, line, strlen(line), err) : fs_fail(err, FS_E_NO_MEMORY, "%s: no memory to write a record", path);
done:
    json_decref(record);
    json_decref(parameters);
    free(line);
    free(png);
    free(mask);
    free(path);
    paths_free(&p);
    return status;
}

/* ---- the run ---- */

typedef struct run {
    fs_forger *f;
    const char *out_dir;
    fs_forge_counts counts;
    int64_t total, done, failed;
    int64_t first_failed; /* number of it; total: none */
    fs_error failure;     /* of that one */
    fs_status status;     /* of the run: what ended it */
    fs_error error;
    bool stop;
} run;

static void locate(const run *r, int64_t n, fs_forge_split *split, uint64_t *index) {
    int s = 0;
    while (s < 2 && n >= r->counts.n[s]) n -= r->counts.n[s++];
    *split = (fs_forge_split)s;
    *index = (uint64_t)n;
}

static void one(run *r, int64_t n) {
    fs_forge_split split;
    uint64_t index;
    fs_error error = {0};
    fs_forge_record record = {0};
    bool writing = false;
    locate(r, n, &split, &index);
    json_t *there = fs_forge_record_read(r->out_dir, split, index);
    if (there) {
        json_decref(there);
        return;
    }
    fs_status status = fs_forge_make(r->f, split, index, &record, &error);
    if (!status) {
        writing = true;
        status = write_record(r->out_dir, &record, &error);
    }
    fs_forge_record_clear(&record);
    if (!status) return;
#pragma omp critical(fs_forge_failure)
    {
        if (status == FS_E_FAILED && !writing) { /* this record cannot be made of these photos; others can */
            r->failed++;
            if (n < r->first_failed) r->first_failed = n, r->failure = error;
        } else if (!r->status) {
            r->status = status;
            r->error = error;
        }
    }
    if (status != FS_E_FAILED || writing) {
#pragma omp atomic write
        r->stop = true;
    }
}

static void run_all(run *r) {
    const fs_callbacks *cb = &r->f->opt.callbacks;
    int threads = r->f->opt.threads > 0 ? r->f->opt.threads : omp_get_max_threads();
    fs_progress(cb, "forging", 0, r->total);
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t n = 0; n < r->total; n++) {
        bool stopped;
        int64_t finished;
#pragma omp atomic read
        stopped = r->stop;
        if (stopped) continue;
        one(r, n);
#pragma omp atomic capture
        finished = ++r->done;
        if (omp_get_thread_num() != 0) continue; /* callbacks are for the caller's thread */
        fs_progress(cb, "forging", finished, r->total);
        if (!fs_cancelled(cb)) continue;
#pragma omp critical(fs_forge_failure)
        if (!r->status) r->status = fs_fail(&r->error, FS_E_CANCELLED, "stopped; the same command goes on from here");
#pragma omp atomic write
        r->stop = true;
    }
}

fs_status fs_forge(const char *const *sources, size_t n_sources, const char *out_dir, const fs_forge_options *options, fs_error *err) {
    run r = {.out_dir = out_dir};
    char *records = fs_path_join(out_dir, "records");
    fs_status status = records ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: no memory", out_dir);
    if (!status && options->count < 1)
        status = fs_fail(err, FS_E_USAGE, "--count: %lld pictures; at least 1 is needed", (long long)options->count);
    if (!status) status = fs_forge_open(sources, n_sources, options, &r.f, err);
    if (!status) status = fs_forge_settings(r.f, out_dir, err);
    if (!status) status = fs_make_dirs(records, err);
    if (status) goto done;
    r.counts = fs_forge_count(r.f, options->count);
    r.total = r.first_failed = r.counts.n[0] + r.counts.n[1] + r.counts.n[2];
    run_all(&r);
    if (r.status) {
        *err = r.error;
        status = r.status;
        goto done;
    }
    status = fs_forge_index(out_dir, &r.counts, err);
    if (!status && r.failed)
        status = fs_fail(err, FS_E_FAILED, "%lld of %lld pictures could not be made; the first: %s", (long long)r.failed,
                         (long long)r.total, r.failure.message);
done:
    fs_forge_close(r.f);
    free(records);
    return status;
}
