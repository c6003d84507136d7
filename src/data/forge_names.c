/* Names of forge's enumerations, the default options, and the list of types as a user writes it ("splice=3,removal"). */
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

static const char *const type_names[FS_FORGE_TYPES] = {"authentic", "splice", "copy-move", "removal", "color", "blur", "resample"};
static const char *const split_names[] = {"train", "val", "test"};
static const char *const format_names[] = {"jpg", "png"};

static const char *name_of(const char *const *names, int n, int i) {
    return i >= 0 && i < n ? names[i] : "unknown";
}

static int find_name(const char *const *names, int n, const char *name) {
    for (int i = 0; name && i < n; i++)
        if (strcmp(names[i], name) == 0) return i;
    return -1;
}

const char *fs_forge_type_name(fs_forge_type t) {
    return name_of(type_names, FS_FORGE_TYPES, (int)t);
}
const char *fs_forge_split_name(fs_forge_split s) {
    return name_of(split_names, 3, (int)s);
}
const char *fs_forge_format_name(fs_forge_format f) {
    return name_of(format_names, 2, (int)f);
}

bool fs_forge_type_from_name(const char *name, fs_forge_type *out) {
    int i = find_name(type_names, FS_FORGE_TYPES, name);
    if (i >= 0) *out = (fs_forge_type)i;
    return i >= 0;
}
bool fs_forge_split_from_name(const char *name, fs_forge_split *out) {
    int i = find_name(split_names, 3, name);
    if (i >= 0) *out = (fs_forge_split)i;
    return i >= 0;
}
bool fs_forge_format_from_name(const char *name, fs_forge_format *out) {
    int i = find_name(format_names, 2, name);
    if (i >= 0) *out = (fs_forge_format)i;
    return i >= 0;
}

fs_forge_options fs_forge_options_defaults(void) {
    return (fs_forge_options){
        .count = 100,
        .size_min = 256,
        .size_max = 1024,
        .authentic = 0.5f,
        /* what is met most in the wild most often; the mild edits less */
        .weight = {[FS_FORGE_SPLICE] = 3,
                   [FS_FORGE_COPY_MOVE] = 2.5f,
                   [FS_FORGE_REMOVAL] = 2,
                   [FS_FORGE_COLOR] = 0.8f,
                   [FS_FORGE_BLUR] = 0.6f,
                   [FS_FORGE_RESAMPLE] = 0.6f},
        .val = 0.1f,
        .test = 0.1f,
        .cache_bytes = (int64_t)1 << 30,
    };
}

fs_status fs_forge_types_parse(const char *text, float weight[FS_FORGE_TYPES], fs_error *err) {
    float parsed[FS_FORGE_TYPES] = {0};
    float sum = 0;
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, ","), name = 0;
        while (name < n && p[name] != '=') name++;
        int type = FS_FORGE_TYPES - 1;
        while (type > 0 && (strlen(type_names[type]) != name || memcmp(type_names[type], p, name) != 0)) type--;
        if (type == 0)
            return fs_fail(err, FS_E_USAGE, "--types: \"%.*s\" is none of splice, copy-move, removal, color, blur, resample",
                           (int)fs_min_i64((int64_t)name, 64), p);
        float value = 1;
        if (name < n) {
            char number[32] = "", *end = number;
            if (n - name - 1 < sizeof number) memcpy(number, p + name + 1, n - name - 1);
            value = strtof(number, &end);
            if (!*number || *end || strspn(number, "0123456789.") != strlen(number) || !(value <= 1e6f))
                return fs_fail(err, FS_E_USAGE, "--types: the weight in \"%.*s\" is not a number from 0 to 1000000",
                               (int)fs_min_i64((int64_t)n, 64), p);
        }
        parsed[type] = value;
        sum += value;
        p += n + (p[n] == ',');
    }
    if (!(sum > 0)) return fs_fail(err, FS_E_USAGE, "--types: no type has a weight; name at least one, e.g. splice=3,removal=1");
    memcpy(weight, parsed, sizeof parsed);
    return FS_OK;
}
