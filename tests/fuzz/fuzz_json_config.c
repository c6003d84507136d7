/* Any bytes as a config file: typed reading of every field, at every depth, gives a value in its range or an error. */
#include <stdlib.h>
#include <string.h>

#include "format/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const fs_json *j, const char *key) {
    fs_error err = {0};
    int64_t n = 5;
    double x = 0.5;
    bool b = false;
    const char *s = "";
    if (fs_json_int(j, key, FS_JSON_OPTIONAL, 1, 10, &n, &err) == FS_OK && (n < 1 || n > 10)) abort();
    if (fs_json_float(j, key, FS_JSON_REQUIRED, 0, 1, &x, &err) == FS_OK && !(x >= 0 && x <= 1)) abort();
    fs_json_bool(j, key, FS_JSON_OPTIONAL, &b, &err);
    if (fs_json_string(j, key, FS_JSON_OPTIONAL, &s, &err) == FS_OK && strlen(s) > ((size_t)1 << 26)) abort();
}

static void ask_all(const fs_json *j, int depth) {
    const char *key;
    json_t *value;
    json_object_foreach(j->root, key, value) {
        fs_json inner;
        ask(j, key);
        if (depth < 8 && fs_json_object(j, key, FS_JSON_REQUIRED, &inner, NULL) == FS_OK) {
            ask_all(&inner, depth + 1);
            fs_json_close(&inner);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fs_error err = {0};
    fs_json j;
    if (fs_json_parse("config.json", data, size, &j, &err) != FS_OK) {
        if (j.root || err.status == FS_OK || err.message[0] == '\0') abort();
        return 0;
    }
    ask(&j, "hidden_size");
    ask_all(&j, 0);
    fs_json_close(&j);
    return 0;
}
