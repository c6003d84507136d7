/* Merging adapters (spec 6.7, 7.6; merge_lora_weights.py of both parts of the original): each changed tensor is computed when its turn to
 * be written comes, so that memory holds one tensor. A merged stage is a folder in the original's layout, safetensors in shards of at most
 * 5e9 bytes with an index, beside what belongs to the model but has no weights; a stage without an adapter, and the other parts, are linked
 * or copied. With a type the result is a bundle instead, by way of convert.c. */
#include "pipeline/merge.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tensor/block.h"

/* ---- one tensor ---- */

bool fs_merge_changes(const fs_adapter *a, const char *name) {
    const fs_tensor *x, *y;
    double scale;
    return a && (fs_adapter_find(a, name) || fs_adapter_pair(a, name, &x, &y, &scale));
}

static fs_status fail_range(const fs_adapter *a, const char *name, fs_dtype type, fs_error *err) {
    return fs_fail(err, FS_E_NUMERIC, "%s: tensor %s: with the adapter a value is too large for %s, the base's type", fs_adapter_path(a),
                   name, fs_dtype_name(type));
}

/* As f32: [n] */
static bool widen(const fs_tensor *t, int64_t first, int64_t n, float *out) {
    return fs_row_to_f32(t->dtype, (const char *)t->data + (size_t)first * fs_dtype_size(t->dtype), n, out);
}

static fs_status replace(const fs_adapter *a, const char *name, const fs_tensor *mine, const fs_tensor *t, void *out, fs_error *err) {
    enum { SOME = 1 << 16 };
    const int64_t count = fs_tensor_count(t);
    const size_t size = fs_dtype_size(t->dtype);
    bool ok = mine->ndim == t->ndim && memcmp(mine->shape, t->shape, (size_t)t->ndim * sizeof *t->shape) == 0;
    if (!ok) {
        char expected[96], found[96];
        fs_shape_text(t, expected, sizeof expected);
        fs_shape_text(mine, found, sizeof found);
        return fs_fail(err, FS_E_MISMATCH, "%s: tensor %s: expected shape %s as in the base, found %s", fs_adapter_path(a), name, expected,
                       found);
    }
    float *values = fs_alloc(SOME, sizeof *values);
    if (!values) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (int64_t k = 0; k < count && ok; k += SOME) {
        const int64_t n = fs_min_i64(SOME, count - k);
        ok = widen(mine, k, n, values) && fs_row_from_f32(t->dtype, values, n, (char *)out + (size_t)k * size);
    }
    free(values);
    return ok ? FS_OK : fail_range(a, name, t->dtype, err);
}

/* a: [rank, in] -> [in, rank] in f32 */
static float *transposed(const fs_tensor *a) {
    const int64_t rank = a->shape[0], in = a->shape[1];
    float *row = fs_alloc((size_t)in, sizeof *row), *out = fs_alloc((size_t)(rank * in), sizeof *out);
    bool ok = row && out;
    for (int64_t i = 0; i < rank && ok; i++) {
        ok = widen(a, i * in, in, row);
        for (int64_t k = 0; k < in && ok; k++) out[k * rank + i] = row[k];
    }
    free(row);
    if (ok) return out;
    free(out);
    return NULL;
}

/* Rows first .. first + n of W + scale * (B A). at: [in, rank]. */
static fs_status add_rows(fs_exec *x, const fs_tensor *w, const fs_tensor *b, fs_tensor *at, float scale, int64_t first, int64_t n,
                          float *row, void *out, fs_error *err) {
    const int64_t in = w->shape[1], rank = b->shape[1];
    const fs_arena_mark mark = fs_arena_get_mark(x->arena);
    fs_tensor *some = fs_new_2d(x, n, rank);
    if (some && !widen(b, first * rank, n * rank, fs_f32(some))) return fs_fail(err, FS_E_INTERNAL, "impossible type");
    const fs_tensor *delta = fs_linear(x, some, at, NULL); /* [n, in] */
    fs_status status = fs_exec_status(x, err);
    size_t step = 0;
    fs_dtype_row_bytes(w->dtype, in, &step);
    for (int64_t i = 0; i < n && !status; i++) {
        const float *d = fs_f32(delta) + i * in;
        bool ok = widen(w, (first + i) * in, in, row);
        for (int64_t k = 0; k < in; k++) row[k] += d[k] * scale;
        ok = ok && fs_row_from_f32(w->dtype, row, in, (char *)out + (size_t)(first + i) * step);
        if (!ok) status = FS_E_NUMERIC;
    }
    fs_arena_release(x->arena, mark);
    return status;
}

static fs_status add_product(const fs_adapter *a, const char *name, const fs_tensor *w, const fs_tensor *lora_a, const fs_tensor *lora_b,
                             double scale, int threads, void *out, fs_error *err) {
    enum { VALUES = 1 << 22 }; /* of the product at a time */
    fs_exec x = {0};
    float *t = NULL, *row = NULL;
    if (w->ndim != 2 || lora_b->shape[0] != w->shape[0] || lora_a->shape[1] != w->shape[1])
        return fs_fail(err, FS_E_MISMATCH, "%s: the adapter of %s does not fit the base's tensor", fs_adapter_path(a), name);
    fs_status status = fs_exec_init(&x, FS_DTYPE_F32, threads, NULL, err);
    if (status) return status;
    t = transposed(lora_a);
    row = fs_alloc((size_t)w->shape[1], sizeof *row);
    if (!t || !row) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    fs_tensor at = {.dtype = FS_DTYPE_F32, .ndim = 2, .shape = {lora_a->shape[1], lora_a->shape[0], 1, 1, 1, 1}, .data = t};
    const int64_t rows = w->shape[0], some = fs_max_i64(1, fs_min_i64(rows, VALUES / w->shape[1]));
    for (int64_t r = 0; r < rows && !status; r += some)
        status = add_rows(&x, w, lora_b, &at, (float)scale, r, fs_min_i64(some, rows - r), row, out, err);
    if (status == FS_E_NUMERIC) status = fail_range(a, name, w->dtype, err);
    free(t);
    free(row);
    fs_exec_end(&x);
    return status;
}

fs_status fs_merge_tensor(const fs_adapter *a, const char *name, const fs_tensor *t, int threads, void **data, fs_error *err) {
    const fs_tensor *mine = fs_adapter_find(a, name), *lora_a, *lora_b;
    double scale;
    size_t bytes;
    *data = NULL;
    if (t->dtype != FS_DTYPE_F32 && t->dtype != FS_DTYPE_F16 && t->dtype != FS_DTYPE_BF16)
        return fs_fail(err, FS_E_UNSUPPORTED, "tensor %s: an adapter can be merged into F32, F16 and BF16, not into %s", name,
                       fs_dtype_name(t->dtype));
    if (!fs_dtype_bytes(t->dtype, t->ndim, t->shape, &bytes) || !(*data = fs_alloc(bytes + 1, 1)))
        return fs_fail(err, FS_E_NO_MEMORY, "tensor %s: out of memory", name);
    fs_status status = FS_OK;
    if (mine)
        status = replace(a, name, mine, t, *data, err);
    else if (fs_adapter_pair(a, name, &lora_a, &lora_b, &scale))
        status = add_product(a, name, t, lora_a, lora_b, scale, threads, *data, err);
    else
        status = fs_fail(err, FS_E_INTERNAL, "tensor %s is not changed by the adapter", name);
    if (status) {
        free(*data);
        *data = NULL;
    }
    return status;
}

/* ---- a merged folder ---- */

static const char *const stage_files[] = {"*.safetensors", "*.bin", "*.json", "*.model", "*.txt", "*.md", "*.jinja", "LICENSE*", NULL};
static const char *const kept_files[] = {"config.json",           "generation_config.json",  "tokenizer.model",  "tokenizer.json",
                                         "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
static const size_t shard_bytes = 5000000000U;

typedef struct merge {
    const fs_adapter *adapter;
    fs_archive *base;
    const char *title; /* "DTE-FDM" */
    fs_tensor *extra;  /* tensors the base has not */
    const fs_tensor **tensors;
    const char **names;
    size_t count, first; /* first: of the shard that is being written */
    size_t done, total;  /* bytes */
    int threads;
    const fs_callbacks *callbacks;
    void *made; /* the last one that was computed */
} merge;

static size_t bytes_of(const fs_tensor *t) {
    size_t bytes = 0;
    fs_dtype_bytes(t->dtype, t->ndim, t->shape, &bytes);
    return bytes;
}

static fs_status next_tensor(void *user, size_t index, const void **data, fs_error *err) {
    merge *m = user;
    const size_t i = m->first + index;
    const fs_tensor *t = m->tensors[i];
    free(m->made);
    m->made = NULL;
    if (fs_cancelled(m->callbacks)) return fs_fail(err, FS_E_CANCELLED, "%s: stopped; nothing was written", m->title);
    *data = t->data;
    fs_status status = FS_OK;
    if (fs_merge_changes(m->adapter, m->names[i])) {
        status = fs_merge_tensor(m->adapter, m->names[i], t, m->threads, &m->made, err);
        *data = m->made;
    }
    if (i > 0) fs_archive_release(m->base, m->tensors[i - 1]);
    m->done += bytes_of(t);
    fs_progress(m->callbacks, m->title, (int64_t)m->done, (int64_t)m->total);
    return status;
}

/* Which tensors: the base's, without MFLM's vision tower (spec 7.6), and those parts of SAM that were trained but are in SAM's own file so
 * far. */
static fs_status plan(merge *m, int stage, fs_dtype stored, fs_error *err) {
    const char *name;
    const fs_tensor *t;
    size_t others = 0, extra = 0;
    while (fs_adapter_other(m->adapter, others, &name, &t)) others++;
    const size_t n = fs_archive_count(m->base);
    m->tensors = fs_alloc_zero(n + others + 1, sizeof *m->tensors);
    m->names = fs_alloc_zero(n + others + 1, sizeof *m->names);
    m->extra = fs_alloc_zero(others + 1, sizeof *m->extra);
    if (!m->tensors || !m->names || !m->extra) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const fs_archive_entry e = fs_archive_get(m->base, i);
        if (stage == 2 && strstr(e.name, "vision_tower")) continue;
        m->tensors[m->count] = e.tensor;
        m->names[m->count++] = e.name;
    }
    for (size_t i = 0; i < others; i++) {
        fs_adapter_other(m->adapter, i, &name, &t);
        if (fs_archive_find(m->base, name) || (stage == 2 && strstr(name, "vision_tower"))) continue;
        if (stage != 2 || strncmp(name, "model.grounding_encoder.", 24) != 0) {
            fs_log(m->callbacks, FS_LOG_WARNING, "%s: tensor %s: the base has no such part; it was left out", fs_adapter_path(m->adapter),
                   name);
            continue;
        }
        m->extra[extra] = *t;
        m->extra[extra].dtype = stored;
        m->tensors[m->count] = &m->extra[extra++];
        m->names[m->count++] = name;
    }
    for (size_t i = 0; i < m->count; i++) m->total += bytes_of(m->tensors[i]);
    return m->count ? FS_OK : fs_fail(err, FS_E_FORMAT, "%s: holds no tensors", m->title);
}

/* Tensors first .. of the next shard; 0 at the end. */
static size_t shard_length(const merge *m, size_t first) {
    size_t n = 0, bytes = 0;
    while (first + n < m->count && (n == 0 || bytes + bytes_of(m->tensors[first + n]) <= shard_bytes))
        bytes += bytes_of(m->tensors[first + n++]);
    return n;
}

static fs_status write_index(const merge *m, const char *dir, json_t *map, fs_error *err) {
    json_t *index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)m->total, "weight_map", map);
    char *text = index ? json_dumps(index, JSON_INDENT(2) | JSON_SORT_KEYS) : NULL,
         *path = fs_path_join(dir, "model.safetensors.index.json");
    fs_status status = text && path ? fs_write_file(path, text, strlen(text), err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(path);
    free(text);
    json_decref(index);
    return status;
}

static fs_status write_shards(merge *m, const char *dir, fs_error *err) {
    size_t shards = 0, n;
    json_t *map = json_object();
    fs_status status = map ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (size_t i = 0; (n = shard_length(m, i)); i += n) shards++;
    for (size_t s = 0; s < shards && !status; s++) {
        char file[64];
        if (shards == 1)
            snprintf(file, sizeof file, "model.safetensors");
        else
            snprintf(file, sizeof file, "model-%05zu-of-%05zu.safetensors", s + 1, shards);
        char *path = fs_path_join(dir, file);
        n = shard_length(m, m->first);
        status = path ? fs_safetensors_write_from(path, m->tensors + m->first, m->names + m->first, n, "{\"format\":\"pt\"}", next_tensor,
                                                  m, err)
                      : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        for (size_t i = m->first; i < m->first + n && !status; i++) json_object_set_new(map, m->names[i], json_string(file));
        m->first += n;
        free(path);
    }
    if (!status && shards > 1) status = write_index(m, dir, map, err);
    json_decref(map);
    return status;
}

static fs_status copy_file(const char *from, const char *to, fs_error *err) {
    fs_mapping m = {0};
    fs_output o = {.fd = -1};
    fs_status status = fs_map_file(from, &m, err);
    if (!status) status = fs_output_open(to, &o, err);
    if (!status) status = fs_output_put(&o, m.data, m.size, err);
    if (!status) status = fs_output_commit(&o, err);
    fs_output_drop(&o);
    fs_unmap(&m);
    return status;
}

static fs_status copy_into(const char *from_dir, const char *name, const char *to_dir, fs_error *err) {
    char *from = fs_path_join(from_dir, name), *to = fs_path_join(to_dir, name);
    fs_status status = from && to ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status && fs_path_exists(from)) status = copy_file(from, to, err);
    free(from);
    free(to);
    return status;
}

static fs_status merge_stage(const char *dir, int stage, const fs_adapter *a, const char *out, const fs_options *opt, fs_error *err) {
    enum { SLACK = 1 << 20 };
    merge m = {.adapter = a, .title = fs_path_base(out), .threads = opt->threads, .callbacks = &opt->callbacks};
    fs_lm_config config = {0};
    fs_folder folder = {0};
    fs_status status = fs_adapter_check_values(a, err);
    if (status || (status = fs_lm_config_read(dir, &config, err)) || (status = fs_archive_open(dir, &m.base, err))) goto done;
    if ((status = plan(&m, stage, config.stored, err)) || (status = fs_check_room(out, m.total + SLACK, err))) goto done;
    if ((status = fs_folder_begin(out, stage_files, &folder, err)) || (status = write_shards(&m, folder.temp, err))) goto done;
    for (size_t i = 0; i < sizeof kept_files / sizeof kept_files[0] && !status; i++)
        status = copy_into(dir, kept_files[i], folder.temp, err);
    if (!status) status = fs_folder_commit(&folder, err);
done:
    fs_folder_drop(&folder);
    fs_archive_free(m.base);
    fs_lm_config_free(&config);
    free(m.made);
    free(m.extra);
    free(m.tensors);
    free(m.names);
    return status;
}

/* ---- the other parts ---- */

/* A second name for the same file where the disk has that, else a copy. */
static fs_status link_or_copy(const char *from, const char *to, fs_error *err) {
    struct stat a, b;
    if (stat(from, &a) == 0 && stat(to, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino) return FS_OK;
    if (!fs_path_exists(to) && link(from, to) == 0) return FS_OK;
    return copy_file(from, to, err);
}

static fs_status take_folder(const char *from, const char *to, fs_error *err) {
    fs_archive *a = NULL;
    fs_folder folder = {0};
    fs_status status = fs_folder_begin(to, stage_files, &folder, err);
    if (!status) status = fs_archive_open(from, &a, err);
    for (size_t i = 0; !status && i < fs_archive_count(a); i++) { /* the files with tensors */
        const char *file = fs_archive_get(a, i).file;
        if (i && file == fs_archive_get(a, i - 1).file) continue;
        char *target = fs_path_join(folder.temp, fs_path_base(file));
        status = target ? link_or_copy(file, target, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        free(target);
    }
    static const char *const more[] = {"model.safetensors.index.json", "pytorch_model.bin.index.json", "preprocessor_config.json"};
    for (size_t i = 0; i < sizeof more / sizeof more[0] && !status; i++) status = copy_into(from, more[i], folder.temp, err);
    for (size_t i = 0; i < sizeof kept_files / sizeof kept_files[0] && !status; i++)
        status = copy_into(from, kept_files[i], folder.temp, err);
    if (!status) status = fs_folder_commit(&folder, err);
    fs_folder_drop(&folder);
    fs_archive_free(a);
    return status;
}

/* Parts that lie in the base's folder; what lies elsewhere is found there again. */
static fs_status take_rest(const fs_layout *l, const char *out_dir, fs_error *err) {
    const size_t n = strlen(l->root);
    const char *const parts[] = {l->dtg, l->sam, l->clip};
    fs_status status = FS_OK;
    for (int i = 0; i < 3 && !status; i++) {
        if (!parts[i] || strncmp(parts[i], l->root, n) != 0 || strstr(parts[i] + n, "..")) continue;
        char *target = fs_path_join(out_dir, fs_path_base(parts[i]));
        if (!target) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        status = fs_path_is_dir(parts[i]) ? take_folder(parts[i], target, err) : link_or_copy(parts[i], target, err);
        free(target);
    }
    return status;
}

static fs_status merge_parts(fs_layout *l, fs_adapter *const adapters[2], const char *out_dir, const fs_options *opt, fs_error *err) {
    const char *const dirs[2] = {l->dte_fdm, l->mflm}, *const names[2] = {"DTE-FDM", "MFLM"};
    fs_status status = FS_OK;
    for (int i = 0; i < 2 && !status; i++) {
        if (!dirs[i]) continue;
        char *out = fs_path_join(out_dir, names[i]);
        if (!out) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        status = adapters[i] ? merge_stage(dirs[i], i + 1, adapters[i], out, opt, err) : take_folder(dirs[i], out, err);
        free(out);
    }
    fs_lm_config config = {0};
    if (!status) status = fs_lm_config_read(dirs[0] ? dirs[0] : dirs[1], &config, err);
    if (!status) status = fs_layout_find_clip(l, opt->clip_dir, config.vision_tower, err);
    fs_lm_config_free(&config);
    return status ? status : take_rest(l, out_dir, err);
}

static bool same_folder(const char *x, const char *y) {
    struct stat a, b;
    return stat(x, &a) == 0 && stat(y, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

fs_status fs_merge(const char *model_dir, const char *out_dir, const char *type, const fs_options *options, fs_error *err) {
    fs_layout l = {0};
    fs_adapter *adapters[2] = {NULL, NULL};
    if (!options->n_adapters) return fs_fail(err, FS_E_USAGE, "no adapter to merge");
    if (type) return fs_convert(model_dir, out_dir, type, options, err);
    fs_status status = fs_layout_find(model_dir, options, &l, err);
    if (!status && (l.bundle || l.pair))
        status = fs_fail(err, FS_E_USAGE,
                         "%s: is no checkpoint; merge into the checkpoint it was made of, or use the adapter as it is (detect --adapter)",
                         model_dir);
    if (!status && !l.dte_fdm && !l.mflm)
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: holds neither DTE-FDM nor MFLM; give the folder that holds them", model_dir);
    if (!status && same_folder(model_dir, out_dir))
        status = fs_fail(err, FS_E_USAGE, "%s: is the base itself, which stays as it is; name another folder", out_dir);
    if (!status) status = fs_adapters_open(&l, options, adapters, err);
    if (!status) status = fs_make_dirs(out_dir, err);
    if (!status) status = merge_parts(&l, adapters, out_dir, options, err);
    for (int i = 0; i < 2; i++) fs_adapter_free(adapters[i]);
    fs_layout_free(&l);
    return status;
}
