/* An adapter as it was read. Private to adapter*.c. */
#ifndef FS_ADAPTER_READ_H
#define FS_ADAPTER_READ_H

#include "pipeline/adapter.h"

typedef struct fs_adapter_entry {
    char *name;    /* as adapter.h says */
    char *written; /* as the file has it, for error lines */
    const char *file;
    int archive;      /* which of the adapter's */
    fs_tensor tensor; /* its name is `name` */
    bool lora, is_b;
    int64_t layer; /* of an adapter */
    fs_lora_place place;
    double scale;  /* of an adapter: lora_alpha / rank, or what the config says in its place */
    float *scaled; /* B with another scale than the first one's, so that one lora_alpha does for all; NULL: not needed */
} fs_adapter_entry;

/* A pattern of rank_pattern or alpha_pattern: modules whose name ends so. */
typedef struct fs_adapter_pattern {
    char *suffix;
    double value;
} fs_adapter_pattern;
typedef struct fs_adapter_config {
    double alpha;
    int64_t rank; /* 0: not told */
    bool rslora;
    fs_adapter_pattern *ranks, *alphas;
    size_t n_ranks, n_alphas;
    char **targets; /* list of target_modules; NULL: a regular expression, or not told */
    size_t n_targets;
} fs_adapter_config;

enum { FS_ADAPTER_FILES = 2 };
struct fs_adapter {
    char *path;
    fs_callbacks log;
    bool state_dict;
    int told;
    char fingerprint[65];
    fs_adapter_config config;
    fs_archive *archives[FS_ADAPTER_FILES];
    fs_adapter_entry *entries; /* sorted by name */
    size_t count, capacity;
    int64_t layers;
    double alpha;                     /* for fs_llama_bind_lora: of all adapters */
    fs_tensor_source base, clip_base; /* what it stands in front of, while a stage is open */
};

/* adapter_config.json. Refuses, by name, what would have to be computed in another way than B (A x) lora_alpha / rank. */
fs_status fs_adapter_config_parse(const char *name, const void *data, size_t size, fs_adapter_config *out, fs_callbacks *log,
                                  fs_error *err);
void fs_adapter_config_free(fs_adapter_config *c);

#endif
