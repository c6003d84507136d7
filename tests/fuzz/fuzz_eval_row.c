/* Any bytes as a line of images.jsonl: an error that says why, or a row that is written and read again as the same line. */
#include <stdlib.h>
#include <string.h>

#include "eval/eval.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *line_of(const fs_eval_row *r) {
    json_t *j = fs_eval_row_to_json(r);
    char *line = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(j);
    return line;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fs_eval_row r, again;
    fs_error err = {0};
    json_t *j = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES, NULL), *k;
    if (!j) return 0;
    if (fs_eval_row_from_json("fuzz:1", j, &r, &err)) {
        if (err.status == FS_OK || err.message[0] == '\0' || r.name) abort();
        json_decref(j);
        return 0;
    }
    char *line = line_of(&r), *second;
    if (!line || !(k = json_loads(line, 0, NULL))) abort();
    if (fs_eval_row_from_json("fuzz:2", k, &again, &err)) abort();
    second = line_of(&again);
    if (!second || strcmp(line, second) != 0) abort();
    free(line);
    free(second);
    fs_eval_row_free(&r);
    fs_eval_row_free(&again);
    json_decref(j);
    json_decref(k);
    return 0;
}
