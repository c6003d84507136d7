/* Explanations against reference texts: cosine similarity of their sentence embeddings ("CSS" in the paper, which does not name its
 * encoder: so the encoder stands beside every value). The embeddings come from an encoder run here, or from files. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/encoder.h"
#include "eval/eval.h"
#include "eval/lookup.h"
#include "format/json.h"
#include "format/npy.h"

/* ---- reference texts ---- */

/* The next text that is another one, from the i-th of n on and round; NULL if there is none. All references there are take part, whatever
 * pictures a run or a part of it looks at, so that the outcome does not depend on that. texts: the first of n pointers that lie `stride`
 * bytes apart. */
static char *other_text(char *const *texts, size_t stride, size_t n, size_t i) {
    const char *own = *(char *const *)((const char *)texts + i * stride);
    for (size_t k = 1; k < n; k++) {
        const char *text = *(char *const *)((const char *)texts + (i + k) % n * stride);
        if (*text && strcmp(text, own) != 0) return fs_eval_copy_text(text);
    }
    return NULL;
}

/* Texts of the data's tree: what was written for training, beside the pictures. */
static fs_status from_tree(const fs_eval_options *opt, fs_eval_book *book, fs_error *err) {
    static const char *const files[] = {"lisa_val_gt.json", "lisa_train_gt.json"};
    fs_data_text_list list[2] = {{0}, {0}};
    char *dir = NULL;
    fs_status status = FS_OK;
    (void)opt;
    for (size_t i = 0; i < book->rows.count && !status; i++) {
        fs_eval_row *r = &book->rows.items[i];
        const char *slash = strstr(r->image, "/image/");
        for (const char *next = slash; next; next = strstr(next + 1, "/image/")) slash = next;
        if (!slash) continue;
        const size_t n = (size_t)(slash - r->image);
        if (!dir || strlen(dir) != n || strncmp(dir, r->image, n) != 0) { /* another set */
            free(dir);
            dir = fs_format("%.*s", (int)n, r->image);
            for (int k = 0; k < 2 && dir && !status; k++) {
                fs_data_text_list_free(&list[k]);
                char *path = fs_path_join(dir, files[k]);
                if (path && fs_path_exists(path)) status = fs_data_texts_open(path, &list[k], NULL, err);
                free(path);
            }
        }
        for (int k = 0; k < 2 && !status && !r->reference; k++) {
            r->reference = fs_eval_copy_text(fs_data_texts_find(&list[k], fs_path_base(r->image)));
            for (size_t i_text = 0; r->reference && i_text < list[k].count; i_text++)
                if (strcmp(list[k].items[i_text].image, fs_path_base(r->image)) == 0)
                    r->other = other_text(&list[k].items[0].text, sizeof *list[k].items, list[k].count, i_text);
        }
    }
    for (int k = 0; k < 2; k++) fs_data_text_list_free(&list[k]);
    free(dir);
    return status;
}

static fs_status from_lines(const fs_eval_options *opt, fs_eval_book *book, fs_error *err) {
    static const char *const keys[] = {"outputs", "text", "reference", NULL};
    fs_lines lines;
    fs_status status = fs_lines_read(opt->references, keys, &lines, err);
    if (status) return status;
    for (size_t i = 0; i < book->rows.count && !status; i++) {
        const fs_lines_entry *line;
        status = fs_lines_find(&lines, book->rows.items[i].image, &line, err);
        if (status || !line) continue;
        book->rows.items[i].reference = fs_eval_copy_text(line->text);
        book->rows.items[i].other = other_text(&lines.items[0].text, sizeof *lines.items, lines.count, (size_t)(line - lines.items));
    }
    fs_lines_free(&lines);
    return status;
}

/* ---- embeddings from files ---- */

typedef struct vectors {
    fs_lines names; /* JSON Lines: whose vector; text is unused */
    float **v;      /* [count] by line, each [width] */
    size_t count, room;
    int64_t width;
    fs_npy matrix; /* .npy: rows in the order of images.csv */
    const char *path;
} vectors;

static void vectors_free(vectors *v) {
    for (size_t i = 0; i < v->count; i++) free(v->v[i]);
    free(v->v);
    fs_lines_free(&v->names);
    fs_npy_free(&v->matrix);
}

static fs_status take_vector(void *user, size_t number, const char *line, size_t n, fs_error *err) {
    vectors *v = user;
    fs_json j = {0};
    char *where = fs_format("%s:%zu", v->path, number);
    fs_status status = where ? fs_json_parse(where, line, n, &j, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (status) goto done;
    const json_t *list = json_object_get(j.root, "embedding");
    const size_t width = json_array_size(list);
    if (!width || (v->width && (int64_t)width != v->width)) {
        status = fs_fail(err, FS_E_FORMAT, "%s: field embedding: %zu numbers; expected %s%lld", where, width, v->width ? "" : "at least ",
                         v->width ? (long long)v->width : 1);
        goto done;
    }
    if (v->count == v->room) {
        size_t room = v->room ? v->room * 2 : 64, bytes;
        float **more = fs_mul_size(room, sizeof *more, &bytes) ? realloc(v->v, bytes) : NULL;
        if (more) v->v = more, v->room = room;
    }
    float *row = v->count < v->room ? fs_alloc(width, sizeof *row) : NULL;
    if (!row) {
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", where);
        goto done;
    }
    v->v[v->count++] = row;
    v->width = (int64_t)width;
    for (size_t i = 0; i < width && !status; i++) {
        const json_t *x = json_array_get(list, i);
        row[i] = (float)json_number_value(x);
        if (!json_is_number(x)) status = fs_fail(err, FS_E_FORMAT, "%s: field embedding: entry %zu is no number", where, i);
    }
done:
    fs_json_close(&j);
    free(where);
    return status;
}

static fs_status vectors_open(const char *path, size_t rows, vectors *v, fs_error *err) {
    static const char *const none[] = {NULL};
    const size_t n = strlen(path);
    *v = (vectors){.path = path};
    fs_status status;
    if (n > 4 && strcmp(path + n - 4, ".npy") == 0) {
        status = fs_npy_read(path, &v->matrix, err);
        if (!status && (size_t)v->matrix.rows != rows)
            status =
                fs_fail(err, FS_E_MISMATCH, "%s: %lld embeddings for %zu pictures; expected one for each row of images.csv, in its order",
                        path, (long long)v->matrix.rows, rows);
        v->width = v->matrix.columns;
        return status;
    }
    status = fs_lines_read(path, none, &v->names, err);
    return status ? status : fs_each_line(path, take_vector, v, err);
}

/* Of row i; NULL if the file has none. */
static fs_status vector_of(const vectors *v, size_t i, const char *image, const float **out, fs_error *err) {
    const fs_lines_entry *line = NULL;
    *out = NULL;
    if (v->matrix.data) return *out = v->matrix.data + (size_t)v->width * i, FS_OK;
    fs_status status = fs_lines_find(&v->names, image, &line, err);
    if (status || !line) return status;
    size_t before = 0; /* entries are sorted by name, vectors by line: how many lines come before it */
    for (size_t k = 0; k < v->names.count; k++) before += v->names.items[k].number < line->number;
    *out = v->v[before];
    return FS_OK;
}

static fs_status css_from_files(const fs_eval_options *opt, fs_eval_book *book, fs_error *err) {
    vectors a = {0}, b = {0};
    fs_status status = vectors_open(opt->embeddings, book->rows.count, &a, err);
    if (!status) status = vectors_open(opt->reference_embeddings, book->rows.count, &b, err);
    if (!status && a.width != b.width)
        status = fs_fail(err, FS_E_MISMATCH, "%s: embeddings of %lld numbers, %s: of %lld; they must come from one encoder", a.path,
                         (long long)a.width, b.path, (long long)b.width);
    for (size_t i = 0; i < book->rows.count && !status; i++) {
        const float *x = NULL, *y = NULL;
        fs_eval_row *r = &book->rows.items[i];
        status = vector_of(&a, i, r->image, &x, err);
        if (!status) status = vector_of(&b, i, r->image, &y, err);
        if (!status && x && y) r->css = fs_cosine(x, y, a.width);
    }
    if (!status && !(book->info.encoder = fs_strdup("embeddings from files"))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    vectors_free(&a);
    vectors_free(&b);
    return status;
}

/* ---- our own encoder ---- */

static fs_status css_from_encoder(const fs_eval_options *opt, fs_eval_book *book, fs_error *err) {
    fs_encoder *e = NULL;
    size_t cut = 0, n = 0;
    fs_status status = fs_encoder_open(opt->encoder, opt->encoder_tokens, opt->detector.threads, &opt->callbacks, &e, err);
    if (status) return status;
    for (size_t i = 0; i < book->rows.count && !status; i++) {
        fs_eval_row *r = &book->rows.items[i];
        float *x = NULL, *y = NULL, *z = NULL;
        bool long_x = false, long_y = false;
        fs_progress(&opt->callbacks, "explanations", (int64_t)i, (int64_t)book->rows.count);
        if (!r->text || !*r->text) continue;
        if (!r->reference) {
            book->info.texts_without_reference++;
            continue;
        }
        status = fs_encoder_run(e, r->text, &x, &long_x, err);
        if (!status) status = fs_encoder_run(e, r->reference, &y, &long_y, err);
        if (!status && r->other) status = fs_encoder_run(e, r->other, &z, NULL, err);
        if (!status) r->css = fs_cosine(x, y, fs_encoder_width(e)), cut += long_x || long_y ? 1 : 0, n++;
        if (!status && z) r->css_other = fs_cosine(x, z, fs_encoder_width(e));
        free(x);
        free(y);
        free(z);
    }
    if (!status && cut)
        fs_eval_warn(
            &book->info,
            "explanations: in %zu of %zu pairs a text reaches the encoder's limit and is cut there; the similarity is of the beginnings",
            cut, n);
    if (!status && !(book->info.encoder = fs_strdup(fs_encoder_describe(e)))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    fs_encoder_free(e);
    return status;
}

fs_status fs_eval_css(const fs_eval_options *opt, fs_eval_book *book, fs_error *err) {
    if (opt->embeddings) return css_from_files(opt, book, err);
    if (!opt->encoder && !opt->references) return FS_OK;
    fs_status status = opt->references ? from_lines(opt, book, err) : from_tree(opt, book, err);
    if (!status && opt->encoder) status = css_from_encoder(opt, book, err);
    return status;
}
