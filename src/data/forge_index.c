/* The lists that are made from forge's finished records, and the settings that a folder was made with. */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/forge_files.h"
#include "text/text.h"

/* Raised when the same settings make other pictures than before, so that a folder is not half of one kind and half of another. */
enum { RECIPE = 3 };

/* ---- settings ---- */

static json_t *settings_json(const fs_forger *f) {
    const fs_forge_options *o = &f->opt;
    json_t *weights = json_object(), *sources = json_array();
    for (int i = 1; i < FS_FORGE_TYPES; i++) json_object_set_new(weights, fs_forge_type_name((fs_forge_type)i), json_real(o->weight[i]));
    for (int s = 0; s < 3; s++)
        for (size_t i = 0; i < fs_sources_count(f->sources, (fs_forge_split)s); i++) {
            const fs_source *p = fs_sources_get(f->sources, (fs_forge_split)s, i);
            json_array_append_new(sources, json_pack("{s:s,s:s,s:s,s:I,s:I}", "name", p->name, "sha256", p->sha256, "split",
                                                     fs_forge_split_name((fs_forge_split)s), "width", (json_int_t)p->width, "height",
                                                     (json_int_t)p->height));
        }
    json_t *j = json_pack("{s:s,s:I,s:i,s:I,s:[i,i],s:b,s:f,s:o,s:f,s:f,s:s,s:b,s:s,s:o}", "version", fs_version(), "count",
                     (json_int_t)o->count, "recipe", (int)RECIPE, "seed", (json_int_t)o->seed, "size", o->size_min, o->size_max, "square",
                     (int)o->square, "authentic", (double)o->authentic, "types", weights, "val", (double)o->val, "test", (double)o->test,
                     "format", fs_forge_format_name(o->format), "no_chain", (int)o->no_chain, "texts_sha256", fs_texts_sha256(f->texts),
                     "sources", sources);
    if (j && o->pairs) json_object_set_new(j, "pairs", json_true()); /* not noted otherwise, so that folders from before it was there can grow */
    if (j && o->mirror) json_object_set_new(j, "mirror", json_true());
    if (j && o->vary) json_object_set_new(j, "vary", json_true());
    if (j && o->clean > 0) json_object_set_new(j, "clean", json_real((double)o->clean));
    return j;
}

/* What of `then` (the folder's) is not as in `now`; NULL: nothing. Names of sources are no matter, their contents are; and a folder may
 * grow. */
static const char *difference(const json_t *then, json_t *now) {
    const char *key;
    json_t *value;
    static const char *const flags[] = {"pairs", "mirror", "vary", "clean"}; /* noted where they are set, and compared below if they are now */
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (json_object_get(then, flags[i]) && !json_object_get(now, flags[i])) return flags[i];
    json_object_foreach(now, key, value) {
        const json_t *other = json_object_get(then, key);
        if (strcmp(key, "count") == 0) continue;
        if (strcmp(key, "sources") != 0) {
            char *a = json_dumps(value, JSON_ENCODE_ANY | JSON_SORT_KEYS | JSON_REAL_PRECISION(6)),
                 *b = other ? json_dumps(other, JSON_ENCODE_ANY | JSON_SORT_KEYS | JSON_REAL_PRECISION(6)) : NULL;
            bool same = a && b && strcmp(a, b) == 0;
            free(a);
            free(b);
            if (!same) return key;
            continue;
        }
        if (json_array_size(other) != json_array_size(value)) return key;
        for (size_t i = 0; i < json_array_size(value); i++) {
            const char *a = json_string_value(json_object_get(json_array_get(other, i), "sha256")),
                       *b = json_string_value(json_object_get(json_array_get(value, i), "sha256"));
            if (!a || !b || strcmp(a, b) != 0) return key;
        }
    }
    return NULL;
}

static void remove_below(const char *out_dir, const char *relative) {
    if (!relative || relative[0] == '/' || strstr(relative, "..")) return;
    char *path = fs_path_join(out_dir, relative);
    if (path) unlink(path);
    free(path);
}

/* Takes away what an earlier run wrote, and nothing else: what its records name, the records, the lists. */
static void remove_earlier(const char *out_dir) {
    static const char *const lists[] = {"manifest.csv", "manifest.jsonl", "conversations_train.json", "conversations_val.json",
                                        "conversations_test.json"};
    static const char *const texts[] = {"lisa_train_output.json", "lisa_train_gt.json", "lisa_val_output.json", "lisa_val_gt.json"};
    char *dir = fs_path_join(out_dir, "records");
    DIR *d = dir ? opendir(dir) : NULL;
    for (struct dirent *entry; d && (entry = readdir(d));) {
        const char *dot = strrchr(entry->d_name, '.');
        char *path = dot && strcmp(dot, ".json") == 0 ? fs_path_join(dir, entry->d_name) : NULL;
        uint8_t *bytes = NULL;
        size_t size = 0;
        if (path && fs_read_file(path, (size_t)1 << 20, &bytes, &size, NULL) == FS_OK) {
            json_t *record = json_loadb((const char *)bytes, size, 0, NULL);
            remove_below(out_dir, json_string_value(json_object_get(record, "image")));
            remove_below(out_dir, json_string_value(json_object_get(record, "mask")));
            json_decref(record);
            unlink(path);
        }
        free(bytes);
        free(path);
    }
    if (d) closedir(d);
    free(dir);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) remove_below(out_dir, lists[i]);
    for (int domain = 0; domain < 3; domain++)
        for (int split = 0; split < 3; split++)
            for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
                char *set = fs_forge_set_path((fs_domain)domain, (fs_forge_split)split, true),
                     *path = set ? fs_format("%s/%s", set, texts[i]) : NULL;
                remove_below(out_dir, path);
                free(path);
                free(set);
            }
}

static bool folder_is_empty(const char *dir) {
    DIR *d = opendir(dir);
    bool empty = true;
    for (struct dirent *e; d && (e = readdir(d));) empty = empty && e->d_name[0] == '.';
    if (d) closedir(d);
    return empty;
}

fs_status fs_forge_settings(const fs_forger *f, const char *out_dir, fs_error *err) {
    char *path = fs_path_join(out_dir, "forge.json"), *text = NULL;
    uint8_t *bytes = NULL;
    size_t size = 0;
    json_t *now = settings_json(f), *then = NULL;
    fs_status status =
        path && now ? FS_OK : fs_fail(err, FS_E_FAILED, "%s: the settings cannot be written as JSON (file names must be UTF-8)", out_dir);
    if (status) goto done;
    if (!fs_path_exists(path)) {
        if (fs_path_is_dir(out_dir) && !folder_is_empty(out_dir))
            status = fs_fail(err, FS_E_USAGE, "%s: is not empty and was not made by forge; name a new folder", out_dir);
        if (!status) status = fs_make_dirs(out_dir, err);
    } else {
        status = fs_read_file(path, (size_t)1 << 28, &bytes, &size, err);
        if (status) goto done;
        then = json_loadb((const char *)bytes, size, 0, NULL);
        const char *what = difference(then, now);
        int64_t count = json_integer_value(json_object_get(then, "count"));
        if (!what && count == f->opt.count) goto done;
        if (!what && count > f->opt.count && !f->opt.overwrite)
            status = fs_fail(err, FS_E_USAGE,
                             "%s: was made with --count %lld; give as many or more, name a new folder, or --overwrite to make it anew",
                             out_dir, (long long)count);
        else if (what && !f->opt.overwrite)
            status = fs_fail(err, FS_E_USAGE, "%s: was made with other settings (%s); name a new folder, or --overwrite to make it anew",
                             out_dir, what);
        else if (what || count > f->opt.count)
            remove_earlier(out_dir);
    }
    if (!status && !(text = json_dumps(now, JSON_INDENT(2) | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(6))))
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory", path);
    if (!status) status = fs_write_file(path, text, strlen(text), err);
done:
    json_decref(now);
    json_decref(then);
    free(text);
    free(bytes);
    free(path);
    return status;
}

/* ---- lists ---- */

typedef struct lists {
    fs_buffer manifest, csv;
    fs_buffer conversations[3];
    fs_buffer lisa[3][3]; /* domain, split */
} lists;

static void add_json(fs_buffer *b, json_t *item, const char *before) {
    char *text = item ? json_dumps(item, JSON_ENSURE_ASCII | JSON_REAL_PRECISION(6)) : NULL;
    if (!text)
        b->failed = true;
    else
        fs_buffer_puts(b, before), fs_buffer_puts(b, text);
    free(text);
    json_decref(item);
}

static void add_cell(fs_buffer *b, const char *text, bool last) {
    fs_buffer_puts(b, "\"");
    for (const char *p = text ? text : ""; *p; p++) {
        if (*p == '"')
            fs_buffer_puts(b, "\"\"");
        else if (*p == '\n' || *p == '\r')
            fs_buffer_puts(b, " ");
        else
            fs_buffer_add(b, p, 1);
    }
    fs_buffer_puts(b, last ? "\"\n" : "\",");
}

static const char *text_of(const json_t *o, const char *key) {
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void add_csv(fs_buffer *b, const json_t *r) {
    const json_t *p = json_object_get(r, "parameters"), *edit = json_object_get(p, "edit");
    add_cell(b, text_of(r, "image"), false);
    add_cell(b, text_of(r, "mask"), false);
    add_cell(b, text_of(r, "split"), false);
    add_cell(b, text_of(r, "type"), false);
    add_cell(b, text_of(r, "domain"), false);
    fs_buffer_printf(b, "%lld,%lld,%lld,", (long long)json_integer_value(json_object_get(r, "index")),
                     (long long)json_integer_value(json_object_get(r, "width")),
                     (long long)json_integer_value(json_object_get(r, "height")));
    add_cell(b, text_of(p, "position"), false);
    add_cell(b, text_of(p, "size"), false);
    fs_buffer_printf(b, "%.6f,", json_number_value(json_object_get(p, "area")));
    add_cell(b, text_of(edit, "what"), false);
    add_cell(b, text_of(p, "source"), false);
    add_cell(b, text_of(edit, "donor"), false);
    add_cell(b, text_of(p, "chain"), false);
    add_cell(b, text_of(r, "image_sha256"), false);
    add_cell(b, text_of(r, "answer"), true);
}

static void add_record(lists *l, json_t *r, fs_forge_split split) {
    const char *image = text_of(r, "image"), *answer = text_of(r, "answer");
    bool tampered = json_is_string(json_object_get(r, "mask"));
    fs_domain domain = FS_DOMAIN_PHOTOSHOP;
    (void)fs_domain_from_name(text_of(r, "domain"), &domain);
    add_json(&l->manifest, json_incref(r), l->manifest.size ? "\n" : "");
    add_csv(&l->csv, r);
    fs_buffer *c = &l->conversations[split], *lisa = &l->lisa[domain][split];
    char *id = fs_format("%s_%06lld", fs_forge_split_name(split), (long long)json_integer_value(json_object_get(r, "index")));
    add_json(c,
             json_pack("{s:s,s:s,s:[{s:s,s:s},{s:s,s:s}]}", "id", id ? id : "", "image", image, "conversations", "from", "human", "value",
                       text_of(r, "question"), "from", "gpt", "value", answer),
             c->size ? ",\n" : "[\n");
    free(id);
    if (tampered)
        add_json(lisa, json_pack("{s:s,s:s,s:s}", "image", fs_path_base(image), "query", fs_prompt_detection_question, "outputs", answer),
                 lisa->size ? ",\n" : "[\n");
}

static fs_status write_list(const char *out_dir, const char *name, fs_buffer *b, const char *end, fs_error *err) {
    if (!b->size && !b->failed) return FS_OK;
    char *path = fs_path_join(out_dir, name);
    fs_buffer_puts(b, end);
    fs_status status = path && !b->failed ? fs_write_file(path, b->data, b->size, err)
                                          : fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for %s", out_dir, name);
    free(path);
    return status;
}

static fs_status write_lisa(const char *out_dir, fs_domain domain, fs_forge_split split, fs_buffer *b, fs_error *err) {
    static const char *const kinds[] = {"output", "gt"};
    char *set = fs_forge_set_path(domain, split, true);
    fs_status status = set ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: no memory", out_dir);
    for (int k = 0; k < 2 && !status && b->size; k++) { /* the same texts: they are both the truth and what stage 1 is to write */
        char *name = fs_format("%s/lisa_%s_%s.json", set, split == FS_FORGE_TRAIN ? "train" : "val", kinds[k]);
        status = name ? write_list(out_dir, name, b, k ? "" : "\n]\n", err) : fs_fail(err, FS_E_NO_MEMORY, "%s: no memory", out_dir);
        free(name);
    }
    free(set);
    return status;
}

fs_status fs_forge_index(const char *out_dir, const fs_forge_counts *counts, fs_error *err) {
    lists *l = calloc(1, sizeof *l);
    if (!l) return fs_fail(err, FS_E_NO_MEMORY, "%s: no memory for the lists", out_dir);
    fs_status status = FS_OK;
    fs_buffer_puts(&l->csv, "image,mask,split,type,domain,index,width,height,position,size,area,what,source,donor,chain,sha256,text\n");
    for (int s = 0; s < 3; s++)
        for (int64_t i = 0; i < counts->n[s]; i++) {
            json_t *r = fs_forge_record_read(out_dir, (fs_forge_split)s, (uint64_t)i);
            if (r) add_record(l, r, (fs_forge_split)s);
            json_decref(r);
        }
    for (int s = 0; s < 3 && !status; s++) {
        char *name = fs_format("conversations_%s.json", fs_forge_split_name((fs_forge_split)s));
        status =
            name ? write_list(out_dir, name, &l->conversations[s], "\n]\n", err) : fs_fail(err, FS_E_NO_MEMORY, "%s: no memory", out_dir);
        free(name);
        for (int d = 0; d < 3 && !status; d++) status = write_lisa(out_dir, (fs_domain)d, (fs_forge_split)s, &l->lisa[d][s], err);
    }
    if (!status) status = write_list(out_dir, "manifest.csv", &l->csv, "", err);
    if (!status) status = write_list(out_dir, "manifest.jsonl", &l->manifest, "\n", err);
    for (int s = 0; s < 3; s++) {
        fs_buffer_free(&l->conversations[s]);
        for (int d = 0; d < 3; d++) fs_buffer_free(&l->lisa[d][s]);
    }
    fs_buffer_free(&l->manifest);
    fs_buffer_free(&l->csv);
    free(l);
    return status;
}
