/* MMTD-Set's file: pictures with conversations, in the form that LLaVA trains on (DTE-FDM/llava/train/train.py, LazySupervisedDataset). */
#include "data/tree.h"
#include "data/tree_build.h"
#include "format/json.h"
#include "text/text.h"

#include <stdlib.h>
#include <string.h>

/* Does the path climb out of the folder it is below? */
static bool has_dotdot(const char *path) {
    for (const char *p = path; p; p = strchr(p, '/')) {
        p += *p == '/';
        if (p[0] == '.' && p[1] == '.' && (p[2] == '/' || p[2] == 0)) return true;
    }
    return false;
}

static fs_status read_turn(const fs_json *turn, bool expect_human, fs_data_turn *out, bool *human, fs_error *err) {
    const char *from = NULL, *value = NULL;
    fs_status status = fs_json_string(turn, "from", FS_JSON_REQUIRED, &from, err);
    if (!status) status = fs_json_string(turn, "value", FS_JSON_REQUIRED, &value, err);
    if (status) return status;
    *human = strcmp(from, "human") == 0;
    if (!*human && strcmp(from, "gpt") != 0)
        return fs_fail(err, FS_E_FORMAT, "%s: field %sfrom: expected \"human\" or \"gpt\", found \"%s\"", turn->path, turn->within, from);
    if (*human != expect_human)
        return fs_fail(err, FS_E_FORMAT, "%s: field %sfrom: turns must alternate, expected \"%s\", found \"%s\"", turn->path, turn->within,
                       expect_human ? "human" : "gpt", from);
    *out = (fs_data_turn){*human, fs_strdup(value)};
    return out->value ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", turn->path);
}

static fs_status read_turns(const fs_json *item, fs_data_record *r, fs_error *err) {
    fs_json list, turn;
    fs_status status = fs_json_list(item, "conversations", FS_JSON_REQUIRED, &list, err);
    if (status) return status;
    const size_t n = fs_json_length(&list);
    size_t first = 0;
    r->turns = fs_alloc_zero(n + 1, sizeof *r->turns);
    if (!r->turns) {
        fs_json_close(&list);
        return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", item->path);
    }
    if (n && fs_json_item(&list, 0, &turn, NULL) == FS_OK) { /* what is wrong with it, the loop tells */
        const char *from = NULL;
        if (fs_json_string(&turn, "from", FS_JSON_REQUIRED, &from, NULL) == FS_OK && strcmp(from, "gpt") == 0) first = 1;
        fs_json_close(&turn);
    }
    for (size_t i = first; i < n && !status; i++) {
        bool human;
        status = fs_json_item(&list, i, &turn, err);
        if (!status) status = read_turn(&turn, (i - first) % 2 == 0, &r->turns[r->n_turns], &human, err);
        if (!status) r->n_turns++;
        fs_json_close(&turn);
    }
    if (!status && r->n_turns == 0)
        status = fs_fail(err, FS_E_FORMAT, "%s: field %sconversations: no turn from \"human\"", item->path, item->within);
    fs_json_close(&list);
    return status;
}

/* What the conversation says: the last answer and its verdict, the question's domain sentence. */
static fs_status read_meaning(const fs_json *item, const char *image, const fs_data_options *opt, fs_data_record *r, fs_error *err) {
    const char *answer = NULL;
    bool found = false;
    r->domain = opt->domain;
    for (size_t i = 0; i < r->n_turns; i++) {
        if (!r->turns[i].human) answer = r->turns[i].value;
        for (int k = 0; k < 3 && r->turns[i].human && !found; k++)
            if (strstr(r->turns[i].value, fs_prompt_domain[k])) r->domain = (fs_domain)k, found = true;
    }
    for (const char *p = image; p && *p && !found; p += *p == '/') { /* a folder of the path */
        const size_t n = strcspn(p, "/");
        char *folder = p[n] ? fs_format("%.*s", (int)n, p) : NULL;
        if (folder) found = fs_data_domain_of_folder(folder, &r->domain);
        free(folder);
        p += n;
    }
    if (!answer) return FS_OK;
    r->label = fs_answer_says_authentic(answer) ? FS_VERDICT_AUTHENTIC : fs_answer_verdict(answer);
    r->text = fs_strdup(answer);
    return r->text ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", item->path);
}

/* .../image/NAME.jpg -> .../mask/NAME.png, as far as there is one. */
static fs_status find_mask(fs_data_record *r, fs_error *err) {
    static const char *const endings[] = {".png", ".PNG", "_gt.png", "_mask.png", "-gt.png", "-mask.png",
                                          ".jpg", ".JPG", ".bmp",    ".tif",      ".tiff",   ".webp"};
    const char *name = fs_path_base(r->image);
    const size_t dir = (size_t)(name - r->image);
    if (dir < 6 || strncmp(name - 6, "image/", 6) != 0 || (dir > 6 && r->image[dir - 7] != '/')) return FS_OK;
    for (size_t i = 0; i < sizeof endings / sizeof *endings && !r->mask; i++) {
        char *path = fs_format("%.*smask/%.*s%s", (int)(dir - 6), r->image, (int)fs_data_stem(name, false), name, endings[i]);
        if (!path) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", r->image);
        if (fs_path_exists(path))
            r->mask = path;
        else
            free(path);
    }
    return FS_OK;
}

static fs_status read_record(const fs_json *item, size_t index, const char *image_folder, const fs_data_options *opt, fs_dataset *out,
                             fs_error *err) {
    fs_data_record r = {.index = index};
    const char *image = NULL;
    bool missing = false;
    fs_status status = fs_json_string(item, "image", FS_JSON_OPTIONAL, &image, err);
    if (!status && image && (!*image || has_dotdot(image)))
        status = fs_fail(err, FS_E_FORMAT, "%s: field %simage: expected a path below the folder of pictures, found \"%s\"", item->path,
                         item->within, image);
    if (!status) status = read_turns(item, &r, err);
    if (!status) status = read_meaning(item, image, opt, &r, err);
    if (!status && image) {
        r.image = image_folder ? fs_path_join(image_folder, image) : fs_strdup(image);
        if (!r.image) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", item->path);
    }
    if (!status && image && image_folder) {
        missing = !fs_path_exists(r.image);
        if (missing)
            status = fs_dataset_add_problem(out, FS_DATA_IMAGE_MISSING, r.image,
                                            fs_format("no such file, which record %s of %s names", item->within, item->path), err);
        else
            status = find_mask(&r, err);
    }
    if (status || missing) {
        fs_data_record_clear(&r);
        return status;
    }
    return fs_dataset_add_record(out, r, err);
}

/* The line without the "path: " in front, which a problem has apart. malloc'ed. */
static char *without_path(const char *line, const char *path) {
    const size_t n = strlen(path);
    return fs_strdup(strncmp(line, path, n) == 0 && strncmp(line + n, ": ", 2) == 0 ? line + n + 2 : line);
}

static fs_status read_list(const fs_json *list, const char *image_folder, const fs_data_options *opt, fs_dataset *out, fs_error *err) {
    const char *base = fs_path_base(list->path);
    fs_data_set set = {.type = fs_strdup(""),
                       .name = fs_format("%.*s", (int)fs_data_stem(base, false), base),
                       .dir = fs_strdup(image_folder ? image_folder : ""),
                       .domain = opt->domain};
    fs_status status = fs_dataset_add_set(out, set, err);
    for (size_t i = 0; i < fs_json_length(list) && !status; i++) {
        fs_json item;
        fs_error why = {0};
        status = fs_json_item(list, i, &item, &why);
        if (!status) status = read_record(&item, i, image_folder, opt, out, &why);
        fs_json_close(&item);
        const bool broken = status == FS_E_FORMAT || status == FS_E_MISMATCH || status == FS_E_NOT_FOUND;
        if (broken && opt->keep_problems)
            status = fs_dataset_add_problem(out, FS_DATA_RECORD_BROKEN, list->path, without_path(why.message, list->path), err);
        else if (status && err)
            *err = why;
    }
    if (!status && !opt->keep_problems) status = fs_dataset_first_error(out, 0, err);
    if (!status && out->count == 0 && out->n_problems == 0) status = fs_fail(err, FS_E_FORMAT, "%s: a list without any record", list->path);
    for (size_t i = 0; i < out->count && !status; i++) out->sets[0].has_masks |= out->records[i].mask != NULL;
    if (status) fs_dataset_free(out);
    return status;
}

fs_status fs_dataset_parse_conversations(const char *name, const void *data, size_t size, const char *image_folder,
                                         const fs_data_options *opt, fs_dataset *out, fs_error *err) {
    fs_json list;
    *out = (fs_dataset){0};
    fs_status status = fs_json_parse_list(name, data, size, &list, err);
    if (!status) status = read_list(&list, image_folder, opt, out, err);
    fs_json_close(&list);
    return status;
}

fs_status fs_dataset_open_conversations(const char *path, const char *image_folder, const fs_data_options *opt, fs_dataset *out,
                                        fs_error *err) {
    fs_json list;
    *out = (fs_dataset){0};
    fs_status status = fs_json_open_list(path, FS_DATA_MAX_JSON, &list, err);
    if (!status) status = read_list(&list, image_folder, opt, out, err);
    fs_json_close(&list);
    return status;
}
