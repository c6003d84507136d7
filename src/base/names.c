/* Names of the public enumerations, both ways, and the default options. */
#include "base/base.h"

#include <string.h>

static bool find_name(const char *const *names, int n, const char *name, int *out) {
    for (int i = 0; name && i < n; i++)
        if (strcmp(names[i], name) == 0) return *out = i, true;
    return false;
}

#define FS_NAMES(type, prefix, ...)                                                                                                        \
    static const char *const prefix##_names[] = {__VA_ARGS__};                                                                             \
    enum { prefix##_count = sizeof prefix##_names / sizeof *prefix##_names };                                                              \
    const char *prefix##_name(type v) { return (int)v >= 0 && (int)v < (int)prefix##_count ? prefix##_names[(int)v] : "unknown"; }         \
    bool prefix##_from_name(const char *name, type *out) {                                                                                 \
        int i;                                                                                                                             \
        if (!find_name(prefix##_names, prefix##_count, name, &i)) return false;                                                            \
        *out = (type)i;                                                                                                                    \
        return true;                                                                                                                       \
    }

FS_NAMES(fs_verdict, fs_verdict, "undetermined", "authentic", "tampered")
FS_NAMES(fs_domain, fs_domain, "AIGC inpainting", "DeepFake", "Photoshop")
FS_NAMES(fs_precision, fs_precision, "f32", "bf16", "f16", "upstream")
FS_NAMES(fs_kv_cache_type, fs_kv_cache_type, "auto", "f32", "f16", "q8_0")
FS_NAMES(fs_prompt_style, fs_prompt_style, "test", "demo")
FS_NAMES(fs_mask_status, fs_mask_status, "none", "present", "authentic", "no-seg")
FS_NAMES(fs_calibration_method, fs_calibration_method, "unrecorded", "platt")

fs_options fs_options_defaults(void) {
    return (fs_options){
        .sampling = {.temperature = 0, .top_k = 0, .top_p = 1, .seed = 0},
        .max_new_tokens = 1024,
        .prompt_style = FS_PROMPT_TEST,
        .trim_text = true,
        .max_pixels = 178956970,
        .max_file_bytes = (int64_t)1 << 30,
    };
}

fs_sampling fs_sampling_upstream(void) { return (fs_sampling){.temperature = 0.2f, .top_k = -1, .top_p = -1, .seed = 0}; }
