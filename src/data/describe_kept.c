/* dataset describe: answers are kept line by line as they come (answers.jsonl), so that nothing is asked and paid for twice; from them the
 * triplets are written anew at the end of every run: the lisa files of upstream's tree and conversations as in MMTD-Set. */
#include "data/describe.h"
#include "text/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEPT_LIMIT ((size_t)4 << 30)

/* ---- answers.jsonl ------------------------------------------------------------------------------------------------- */

static int by_id(const void *a, const void *b) {
    return strcmp((*(describe_question *const *)a)->id, (*(describe_question *const *)b)->id);
}

static fs_status hash_file(const char *path, char out[65], fs_error *err) {
    fs_mapping m;
    if (*out) return FS_OK;
    fs_status status = fs_map_file(path, &m, err);
    if (!status) fs_sha256_hex(m.data, m.size, out);
    fs_unmap(&m);
    return status;
}

static fs_status hash_question(describe_question *q, fs_error *err) {
    fs_status status = hash_file(q->record->image, q->sha256, err);
    if (!status && q->record->mask) status = hash_file(q->record->mask, q->mask_sha256, err);
    return status;
}

static bool is_equal(const json_t *line, const char *key, const char *value) {
    const char *s = json_string_value(json_object_get(line, key));
    return s && strcmp(s, value) == 0;
}

static fs_status take_line(const json_t *line, describe_question **sorted, size_t n, size_t *kept, fs_error *err) {
    const char *id = json_string_value(json_object_get(line, "id")), *text = json_string_value(json_object_get(line, "text"));
    if (!id || !text) return FS_OK;
    describe_question key = {.id = (char *)(uintptr_t)id}, *key_at = &key;
    describe_question **found = bsearch(&key_at, sorted, n, sizeof *sorted, by_id);
    if (!found) return FS_OK;
    describe_question *q = *found;
    fs_error ignored = {0};
    if (hash_question(q, &ignored)) return FS_OK; /* asking will tell */
    if (!is_equal(line, "sha256", q->sha256) || !is_equal(line, "mask_sha256", q->mask_sha256))
        return FS_OK; /* the files have changed since */
    if (!q->text) ++*kept;
    free(q->text);
    q->text = fs_strdup(text); /* the last line counts */
    return q->text ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory for the kept answers");
}

fs_status describe_kept_read(const char *path, describe_question *q, size_t n, size_t *kept, fs_error *err) {
    uint8_t *data = NULL;
    size_t size = 0;
    *kept = 0;
    if (!fs_path_exists(path)) return FS_OK;
    describe_question **sorted = fs_alloc_zero(n + 1, sizeof *sorted);
    if (!sorted) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    for (size_t i = 0; i < n; i++) sorted[i] = &q[i];
    qsort(sorted, n, sizeof *sorted, by_id);
    fs_status status = fs_read_file(path, KEPT_LIMIT, &data, &size, err);
    for (char *line = (char *)data, *end; !status && line && *line; line = end) {
        end = line + strcspn(line, "\n");
        json_t *value = json_loadb(line, (size_t)(end - line), 0, NULL); /* what a killed run has cut short is passed over */
        status = take_line(value, sorted, n, kept, err);
        json_decref(value);
        end += *end == '\n';
    }
    free(data), free(sorted);
    return status;
}

static fs_status put(int fd, const char *path, const char *data, size_t size, fs_error *err) {
    while (size) {
        const ssize_t w = write(fd, data, size);
        if (w < 0 && errno == EINTR) continue;
        if (w < 0) return fs_fail(err, FS_E_IO, "%s: cannot write it: %s; the answers before are safe", path, strerror(errno));
        data += w, size -= (size_t)w;
    }
    return FS_OK;
}

fs_status describe_kept_open(const char *path, int *fd, fs_error *err) {
    struct stat st;
    char last = '\n';
    *fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (*fd < 0) return fs_fail(err, FS_E_IO, "%s: cannot write it: %s", path, strerror(errno));
    if (fstat(*fd, &st) == 0 && st.st_size > 0 && pread(*fd, &last, 1, st.st_size - 1) == 1 && last != '\n')
        return put(*fd, path, "\n", 1, err);
    return FS_OK;
}

fs_status describe_kept_add(int fd, const char *path, const describe_question *q, const char *model, const describe_reply *r,
                            fs_error *err) {
    describe_question hashed = *q;
    fs_status status = hash_question(&hashed, err);
    if (status) return status;
    json_t *line =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:I, s:I}", "id", q->id, "sha256", hashed.sha256, "mask_sha256", hashed.mask_sha256, "model",
                  model, "text", q->text, "tokens_in", (json_int_t)r->tokens_in, "tokens_out", (json_int_t)r->tokens_out);
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_PRESERVE_ORDER) : NULL, *whole = text ? fs_format("%s\n", text) : NULL;
    status = whole ? put(fd, path, whole, strlen(whole), err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    if (!status && fdatasync(fd) != 0 && errno != EINVAL) status = fs_fail(err, FS_E_IO, "%s: cannot write it: %s", path, strerror(errno));
    json_decref(line);
    free(text), free(whole);
    return status;
}

/* ---- triplets ------------------------------------------------------------------------------------------------------ */

/* What of a set's folder is below the data set's: "" for that itself. */
static const char *below(const char *dir, const char *root) {
    const size_t n = strlen(root);
    const char *p = strncmp(dir, root, n) == 0 ? dir + n : dir;
    while (*p == '/') p++;
    return p;
}

/* Out/ps/CASIA2/lisa_train_gt.json; which: 0 output, 1 gt. Both files have the same texts: training reads the one, an evaluation the other.
 */
static char *lisa_path(const fs_dataset_describe_options *opt, const char *out, const char *root, const fs_data_set *set, int which) {
    const fs_data_texts kind = opt->val ? (which ? FS_TEXTS_VAL_GT : FS_TEXTS_VAL_OUTPUT)
                               : which  ? FS_TEXTS_TRAIN_GT
                                        : FS_TEXTS_TRAIN_OUTPUT;
    const char *rel = below(set->dir, root);
    return fs_format("%s/%s%s%s", out, rel, *rel ? "/" : "", fs_data_texts_file(kind));
}

static char *conversations_path(const fs_dataset_describe_options *opt, const char *out) {
    return fs_format("%s/conversations_%s.json", out, opt->val ? "val" : "train");
}

static fs_status refuse(char *path, const char *kept_path, fs_error *err) {
    fs_status status = FS_OK;
    if (!path)
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    else if (fs_path_exists(path))
        status = fs_fail(err, FS_E_USAGE,
                         "%s: is there already, and not from describe (there is no %s); give another folder with -o, or move it away", path,
                         kept_path);
    free(path);
    return status;
}

fs_status describe_guard(const fs_dataset_describe_options *opt, const fs_dataset *data, const char *root, const char *kept_path,
                         fs_error *err) {
    const char *out = opt->out_dir ? opt->out_dir : root;
    fs_status status = FS_OK;
    if (fs_path_exists(kept_path)) return FS_OK;
    for (size_t i = 0; i < data->n_sets && !status; i++)
        for (int which = 0; which < 2 && !status; which++)
            status = refuse(lisa_path(opt, out, root, &data->sets[i], which), kept_path, err);
    if (!status) status = refuse(conversations_path(opt, out), kept_path, err);
    return status;
}

/* Takes over `list`. */
static fs_status write_list(char *path, json_t *list, fs_error *err) {
    char *slash = path ? strrchr(path, '/') : NULL, *text = list ? json_dumps(list, JSON_INDENT(1) | JSON_PRESERVE_ORDER) : NULL;
    fs_status status = FS_OK;
    if (!slash || !text) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for a list of texts");
    } else {
        *slash = 0;
        status = fs_make_dirs(path, err);
        *slash = '/';
        if (!status) status = fs_write_file(path, text, strlen(text), err);
    }
    json_decref(list);
    free(text), free(path);
    return status;
}

static json_t *lisa_list(const describe_question *q, size_t n, size_t set) {
    json_t *list = json_array();
    for (size_t i = 0; i < n && list; i++) {
        if (!q[i].text || q[i].record->set != set) continue;
        if (json_array_append_new(list, json_pack("{s:s, s:s, s:s}", "image", fs_path_base(q[i].record->image), "query",
                                                  fs_prompt_detection_question, "outputs", q[i].text))) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static json_t *conversation(const describe_question *q) {
    char *ask = fs_format("<image>\n%s%s", fs_prompt_domain[q->record->domain], fs_prompt_detection_question);
    json_t *v = ask ? json_pack("{s:s, s:s, s:[{s:s, s:s}, {s:s, s:s}]}", "id", q->id, "image", q->rel, "conversations", "from", "human",
                                "value", ask, "from", "gpt", "value", q->text)
                    : NULL;
    free(ask);
    return v;
}

fs_status describe_write(const fs_dataset_describe_options *opt, const fs_dataset *data, const char *root, const describe_question *q,
                         size_t n, fs_error *err) {
    const char *out = opt->out_dir ? opt->out_dir : root;
    fs_status status = FS_OK;
    for (size_t set = 0; set < data->n_sets && !status; set++) {
        json_t *list = lisa_list(q, n, set);
        if (!list) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for a list of texts");
        for (int which = 0; which < 2 && !status && json_array_size(list); which++)
            status = write_list(lisa_path(opt, out, root, &data->sets[set], which), json_incref(list), err);
        json_decref(list);
    }
    json_t *all = json_array();
    for (size_t i = 0; i < n && all && !status; i++)
        if (q[i].text && json_array_append_new(all, conversation(&q[i])))
            status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for the conversations");
    if (!status) return write_list(conversations_path(opt, out), all, err);
    json_decref(all);
    return status;
}
