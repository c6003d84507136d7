/* dataset describe: what its files share. describe_answer.c knows the instructions and what a usable answer is, describe_request.c makes a
 * question of picture, mask and instructions, describe_kept.c keeps answers and writes the triplets, describe.c asks. */
#ifndef FS_DATA_DESCRIBE_H
#define FS_DATA_DESCRIBE_H

#include "data/tree.h"
#include "format/json.h"
#include "net/chat.h"

/* ---- describe_answer.c --------------------------------------------------------------------------------------------- */

typedef struct describe_instructions {
    fs_json json;
    const char *system, *tampered, *authentic, *again, *views[2], *domains[3]; /* in json */
    const char **forbidden;                                                    /* NULL-terminated, malloc'ed */
    int64_t least, most;                                                       /* bytes of an answer */
} describe_instructions;
fs_status describe_instructions_open(const char *path, describe_instructions *out, fs_error *err); /* NULL: the built-in ones */
void describe_instructions_close(describe_instructions *d);

/* The text and the tokens used in a reply of the service. FS_E_FORMAT: it is none, or has no text. *cut: the text ended at max_tokens. */
typedef struct describe_reply {
    char *text;
    int64_t tokens_in, tokens_out;
    bool cut;
} describe_reply;
fs_status describe_reply_parse(const char *data, size_t size, describe_reply *out, fs_error *err);

/* *text: the answer in its trained form, "1. Whether ...: <area>\n\n2. Judgment basis: <basis>", malloc'ed; or NULL, and what is wrong with
 * it in `problem`. FS_E_NO_MEMORY is the only failure. */
fs_status describe_answer_check(const describe_instructions *d, const char *answer, fs_verdict label, char **text, char problem[200],
                                fs_error *err);

/* ---- describe_request.c -------------------------------------------------------------------------------------------- */

typedef struct describe_question {
    const fs_data_record *record;
    char *id, *rel;                   /* "ps/CASIA2/a.jpg"; path below the data set's folder */
    char sha256[65], mask_sha256[65]; /* of the files; mask "" if none */
    char *text;                       /* the answer, kept or new; NULL = to be asked */
    char *problem;                    /* why there is none */
} describe_question;

/* The JSON body. previous, problem: an answer that could not be used and why, or NULL. hide: pictures are named, not contained. The string
 * is the caller's (free). */
fs_status describe_request(const fs_dataset_describe_options *opt, const describe_instructions *d, const describe_question *q,
                           const char *previous, const char *problem, bool hide, char **out, fs_error *err);
/* Tokens of a picture of this size by the rule of OpenAI's models: fitted into 2048 x 2048, its shorter side brought down to 768, 85 tokens
 * and 170 for each tile of 512 x 512. Other models count otherwise, by the same order of magnitude. */
int64_t describe_picture_tokens(int64_t width, int64_t height, int max_side);
typedef struct describe_estimate {
    size_t questions, measured;
    double tokens_in, tokens_out, price;
    bool priced;
} describe_estimate;
fs_status describe_estimate_cost(const fs_dataset_describe_options *opt, const describe_instructions *d, const describe_question *q,
                                 size_t n, size_t to_ask, describe_estimate *out, fs_error *err);
char *describe_estimate_text(const describe_estimate *e, size_t kept);

/* ---- describe_kept.c ----------------------------------------------------------------------------------------------- */

/* Takes the answers that are in `path` for questions of the same id, picture and mask. A line that is cut short is passed over. */
fs_status describe_kept_read(const char *path, describe_question *q, size_t n, size_t *kept, fs_error *err);
/* Appends a line, whole, and sees that it is on the disk. */
fs_status describe_kept_open(const char *path, int *fd, fs_error *err);
fs_status describe_kept_add(int fd, const char *path, const describe_question *q, const char *model, const describe_reply *r,
                            fs_error *err);
/* FS_E_USAGE if a file that would be written is there and not from describe. root: the data set's folder. */
fs_status describe_guard(const fs_dataset_describe_options *opt, const fs_dataset *data, const char *root, const char *kept_path,
                         fs_error *err);
/* lisa files of every set and one file of conversations, of all questions that have an answer. */
fs_status describe_write(const fs_dataset_describe_options *opt, const fs_dataset *data, const char *root, const describe_question *q,
                         size_t n, fs_error *err);

#endif
