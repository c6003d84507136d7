/* The original's question file (playground/eval_jsonl.py): one line {"image": path, "text": question} a picture, as Python's json.dump
 * writes it. The original lists a folder in the file system's order and takes every name in it; here the order is that of the names' bytes,
 * and what is no picture is left out. */
#include "data/tree.h"
#include "text/text.h"
#include "text/utf8.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

fs_dataset_questions_options fs_dataset_questions_options_defaults(void) {
    return (fs_dataset_questions_options){0};
}

typedef struct asking {
    const fs_dataset_questions_options *opt;
    const char *question;
    fs_buffer out;
    size_t count;
} asking;

/* os.path.join(folder, name) */
static char *join(const char *folder, const char *name) {
    const size_t n = strlen(folder);
    return n && folder[n - 1] == '/' ? fs_format("%s%s", folder, name) : fs_path_join(folder, name);
}

static fs_status ask_picture(asking *a, const char *folder, const char *name, fs_error *err) {
    char *path = join(folder, name), *line = NULL;
    fs_status status = FS_OK;
    if (path && !fs_utf8_valid(path, strlen(path)))
        status = fs_fail(err, FS_E_UNSUPPORTED, "%s: this name is not UTF-8, and JSON cannot hold it; rename the file", path);
    else if (!path || !(line = fs_question_json(path, a->question)))
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", folder);
    if (!status) {
        fs_buffer_puts(&a->out, line);
        fs_buffer_puts(&a->out, "\n");
        a->count++;
    }
    free(path), free(line);
    return status;
}

static fs_status ask_folder(asking *a, const char *given, fs_error *err) {
    fs_names names = {0};
    size_t others = 0;
    char *real = a->opt->absolute ? realpath(given, NULL) : NULL;
    if (a->opt->absolute && !real) return fs_fail(err, errno == ENOENT ? FS_E_NOT_FOUND : FS_E_IO, "%s: %s", given, strerror(errno));
    const char *folder = real ? real : given;
    fs_status status = fs_names_read(folder, 'p', &names, &others, err);
    size_t n = names.count;
    if (a->opt->limit > 0 && n > (size_t)a->opt->limit) n = (size_t)a->opt->limit;
    for (size_t i = 0; i < n && !status; i++) status = ask_picture(a, folder, names.items[i], err);
    if (!status && others) fs_log(&a->opt->callbacks, FS_LOG_WARNING, "%s: %zu files that are no pictures are left out", folder, others);
    fs_names_free(&names);
    free(real);
    return status;
}

/* A folder of pictures by itself, or a tree's image/ folders. */
static fs_status ask_place(asking *a, const char *place, fs_error *err) {
    fs_names pictures = {0};
    fs_dataset tree = {0};
    fs_data_options opt = fs_data_options_defaults();
    opt.texts = FS_TEXTS_NONE;
    opt.keep_problems = true;
    fs_status status = fs_names_read(place, 'p', &pictures, NULL, err);
    const bool loose = pictures.count > 0;
    fs_names_free(&pictures);
    if (status) return status;
    if (loose) return ask_folder(a, place, err);
    status = fs_dataset_open(place, &opt, &tree, err);
    for (size_t i = 0; i < tree.n_sets && !status; i++) {
        char *folder = join(tree.sets[i].dir, "image");
        status = folder ? ask_folder(a, folder, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", place);
        free(folder);
    }
    fs_dataset_free(&tree);
    return status;
}

fs_status fs_dataset_questions(const char *const *folders, size_t n_folders, const char *out_path,
                               const fs_dataset_questions_options *options, fs_error *err) {
    const fs_dataset_questions_options defaults = fs_dataset_questions_options_defaults();
    asking a = {.opt = options ? options : &defaults};
    a.question = a.opt->question ? a.opt->question : fs_prompt_detection_question;
    fs_status status = FS_OK;
    if (a.opt->count) *a.opt->count = 0;
    fs_buffer_puts(&a.out, "");
    if (!fs_utf8_valid(a.question, strlen(a.question))) status = fs_fail(err, FS_E_USAGE, "the question is not UTF-8");
    for (size_t i = 0; i < n_folders && !status; i++) status = ask_place(&a, folders[i], err);
    if (!status && a.out.failed) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for %zu questions", a.count);
    if (!status) status = fs_write_file(out_path, a.out.data, a.out.size, err);
    if (!status && a.opt->count) *a.opt->count = a.count;
    fs_buffer_free(&a.out);
    return status;
}
