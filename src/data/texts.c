/* The four files of texts in upstream's tree: [{"image": base name, "query": ignored, "outputs": text}, ...]. */
#include "data/tree.h"
#include "data/tree_build.h"
#include "format/json.h"

#include <stdlib.h>
#include <string.h>

void fs_data_text_list_free(fs_data_text_list *l) {
    for (size_t i = 0; i < l->count; i++) free(l->items[i].image), free(l->items[i].text);
    free(l->items);
    *l = (fs_data_text_list){0};
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const fs_data_text *)a)->image, ((const fs_data_text *)b)->image);
}

static int by_name_and_place(const void *a, const void *b) {
    const size_t x = ((const fs_data_text *)a)->index, y = ((const fs_data_text *)b)->index;
    const int c = by_name(a, b);
    return c ? c : (x > y) - (x < y);
}

const char *fs_data_texts_find(const fs_data_text_list *l, const char *image) {
    const fs_data_text key = {.image = (char *)(uintptr_t)image};
    const fs_data_text *found = l->count ? bsearch(&key, l->items, l->count, sizeof key, by_name) : NULL;
    return found ? found->text : NULL;
}

/* Of several texts of one name the last stays, as a Python dictionary has it. */
static size_t drop_earlier(fs_data_text_list *l) {
    size_t kept = 0, dropped = 0;
    for (size_t i = 0; i < l->count; i++) {
        if (i + 1 < l->count && by_name(&l->items[i], &l->items[i + 1]) == 0) {
            free(l->items[i].image), free(l->items[i].text);
            dropped++;
        } else {
            l->items[kept++] = l->items[i];
        }
    }
    l->count = kept;
    return dropped;
}

static fs_status read_list(const fs_json *list, fs_data_text_list *out, size_t *twice, fs_error *err) {
    const size_t n = fs_json_length(list);
    fs_status status = FS_OK;
    out->items = fs_alloc_zero(n + 1, sizeof *out->items);
    if (!out->items) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", list->path);
    for (size_t i = 0; i < n && !status; i++) {
        fs_json item;
        const char *image = NULL, *text = NULL;
        status = fs_json_item(list, i, &item, err);
        if (!status) status = fs_json_string(&item, "image", FS_JSON_REQUIRED, &image, err);
        if (!status) status = fs_json_string(&item, "outputs", FS_JSON_REQUIRED, &text, err);
        if (!status) {
            fs_data_text *t = &out->items[out->count++];
            *t = (fs_data_text){fs_strdup(fs_path_base(image)), fs_strdup(text), i};
            if (!t->image || !t->text) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", list->path);
        }
        fs_json_close(&item);
    }
    if (status) {
        fs_data_text_list_free(out);
        return status;
    }
    qsort(out->items, out->count, sizeof *out->items, by_name_and_place);
    const size_t dropped = drop_earlier(out);
    if (twice) *twice = dropped;
    return FS_OK;
}

fs_status fs_data_texts_parse(const char *name, const void *data, size_t size, fs_data_text_list *out, size_t *twice, fs_error *err) {
    fs_json list;
    *out = (fs_data_text_list){0};
    fs_status status = fs_json_parse_list(name, data, size, &list, err);
    if (!status) status = read_list(&list, out, twice, err);
    fs_json_close(&list);
    return status;
}

fs_status fs_data_texts_open(const char *path, fs_data_text_list *out, size_t *twice, fs_error *err) {
    fs_json list;
    *out = (fs_data_text_list){0};
    fs_status status = fs_json_open_list(path, FS_DATA_MAX_JSON, &list, err);
    if (!status) status = read_list(&list, out, twice, err);
    fs_json_close(&list);
    return status;
}
