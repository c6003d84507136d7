/* adapter_config.json as peft writes it (peft/tuners/lora/config.py, 0.5 to 0.13): what is honoured is read, what would change the
 * computation in a way that is not done here is refused by name, and everything else says how the adapter was trained and does not matter
 * any more. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"
#include "pipeline/adapter_read.h"

enum { MAX_RANK = 65536, MAX_PATTERNS = 65536 };

static bool is_set(const fs_json *j, const char *key) {
    const json_t *v = json_object_get(j->root, key);
    return v && !json_is_null(v) && !json_is_false(v) &&
           !((json_is_object(v) || json_is_array(v)) && json_object_size(v) + json_array_size(v) == 0);
}

static fs_status refuse(const fs_json *j, fs_error *err) {
    static const struct {
        const char *key, *why;
    } keys[] = {{"use_dora", "DoRA's magnitudes are not applied here; merge it with peft"},
                {"lora_bias", "biases of adapters are not applied here; merge it with peft"},
                {"layer_replication", "repeated layers are not made here"},
                {"trainable_token_indices", "trained single rows of the embedding are not applied here; merge it with peft"},
                {"target_parameters", "adapters of bare parameters are not applied here; merge it with peft"},
                {"alora_invocation_tokens", "activated adapters are not applied here"}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (is_set(j, keys[i].key)) return fs_fail(err, FS_E_UNSUPPORTED, "%s: %s is set: %s", j->path, keys[i].key, keys[i].why);
    const char *init = json_string_value(json_object_get(j->root, "init_lora_weights")), *kinds[] = {"pissa", "olora", "corda", "loftq"};
    for (size_t i = 0; init && i < sizeof kinds / sizeof kinds[0]; i++)
        if (strncmp(init, kinds[i], strlen(kinds[i])) == 0)
            return fs_fail(err, FS_E_UNSUPPORTED,
                           "%s: init_lora_weights is \"%s\", which changes the base's weights too; save it as plain LoRA with peft",
                           j->path, init);
    return FS_OK;
}

static bool is_plain(const char *key) {
    return *key && strlen(key) < 256 && strpbrk(key, "\\^$*+?()[]{}|") == NULL;
}

/* {"layers.3.self_attn.q_proj": 16, ...}: peft takes a key for the end of a module's name (as a regular expression, which plain names are).
 */
static fs_status read_patterns(const fs_json *j, const char *key, double low, double high, fs_adapter_pattern **list, size_t *count,
                               fs_error *err) {
    json_t *o = json_object_get(j->root, key), *value;
    const char *name;
    if (!o || json_is_null(o)) return FS_OK;
    if (!json_is_object(o)) return fs_fail(err, FS_E_FORMAT, "%s: %s: expected an object, found something else", j->path, key);
    const size_t n = json_object_size(o);
    if (n > MAX_PATTERNS) return fs_fail(err, FS_E_LIMIT, "%s: %s has %zu entries, at most %d are read", j->path, key, n, MAX_PATTERNS);
    if (n && !(*list = fs_alloc_zero(n, sizeof **list))) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    json_object_foreach(o, name, value) {
        const double v = json_number_value(value);
        if (!json_is_number(value) || !(v >= low && v <= high))
            return fs_fail(err, FS_E_FORMAT, "%s: %s.%.100s: expected a number from %g to %g", j->path, key, name, low, high);
        if (!is_plain(name))
            return fs_fail(err, FS_E_UNSUPPORTED, "%s: %s: \"%.100s\" is a regular expression; only ends of modules' names are understood",
                           j->path, key, name);
        (*list)[*count] = (fs_adapter_pattern){.suffix = fs_strdup(name), .value = v};
        if (!(*list)[(*count)++].suffix) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    }
    return FS_OK;
}

static fs_status read_targets(const fs_json *j, fs_adapter_config *c, fs_error *err) {
    const json_t *list = json_object_get(j->root, "target_modules");
    if (!list || json_is_null(list) || json_is_string(list)) return FS_OK; /* a regular expression: the tensors tell what it found */
    if (!json_is_array(list))
        return fs_fail(err, FS_E_FORMAT, "%s: target_modules: expected a list or a text, found something else", j->path);
    const size_t n = json_array_size(list);
    if (n > MAX_PATTERNS)
        return fs_fail(err, FS_E_LIMIT, "%s: target_modules has %zu entries, at most %d are read", j->path, n, MAX_PATTERNS);
    if (n && !(c->targets = fs_alloc_zero(n, sizeof *c->targets))) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (size_t i = 0; i < n; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        if (!name || !*name) return fs_fail(err, FS_E_FORMAT, "%s: target_modules[%zu]: expected a name, found something else", j->path, i);
        if (!(c->targets[c->n_targets++] = fs_strdup(name))) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    }
    return FS_OK;
}

static fs_status read_fields(const fs_json *j, fs_adapter_config *c, fs_callbacks *log, fs_error *err) {
    fs_status s;
    const char *type = "", *bias = "none";
    bool fan = false;
    if ((s = fs_json_string(j, "peft_type", FS_JSON_REQUIRED, &type, err))) return s;
    if (strcmp(type, "LORA") != 0)
        return fs_fail(err, FS_E_UNSUPPORTED,
                       "%s: peft_type is \"%.64s\"; only LORA adapters can be applied (others can be merged with peft)", j->path, type);
    if ((s = refuse(j, err))) return s;
    if ((s = fs_json_int(j, "r", FS_JSON_REQUIRED, 1, MAX_RANK, &c->rank, err))) return s;
    c->alpha = 8; /* LoraConfig's default */
    if ((s = fs_json_float(j, "lora_alpha", FS_JSON_OPTIONAL, 1e-9, 1e9, &c->alpha, err))) return s;
    if ((s = fs_json_bool(j, "use_rslora", FS_JSON_OPTIONAL, &c->rslora, err))) return s;
    if ((s = fs_json_bool(j, "fan_in_fan_out", FS_JSON_OPTIONAL, &fan, err))) return s;
    if (fan)
        fs_log(log, FS_LOG_WARNING,
               "%s: fan_in_fan_out is true; it means nothing for LLaMA's layers, and peft takes it for false there too", j->path);
    if ((s = fs_json_string(j, "bias", FS_JSON_OPTIONAL, &bias, err))) return s;
    if (strcmp(bias, "none") != 0 && strcmp(bias, "all") != 0 && strcmp(bias, "lora_only") != 0)
        return fs_fail(err, FS_E_FORMAT, "%s: bias is \"%.64s\", expected none, all or lora_only", j->path, bias);
    if ((s = read_patterns(j, "rank_pattern", 1, MAX_RANK, &c->ranks, &c->n_ranks, err))) return s;
    if ((s = read_patterns(j, "alpha_pattern", 1e-9, 1e9, &c->alphas, &c->n_alphas, err))) return s;
    return read_targets(j, c, err);
}

fs_status fs_adapter_config_parse(const char *name, const void *data, size_t size, fs_adapter_config *out, fs_callbacks *log,
                                  fs_error *err) {
    fs_json j = {0};
    *out = (fs_adapter_config){0};
    fs_status s = fs_json_parse(name, data, size, &j, err);
    if (!s) s = read_fields(&j, out, log, err);
    fs_json_close(&j);
    if (s) fs_adapter_config_free(out);
    return s;
}

static void free_patterns(fs_adapter_pattern *list, size_t n) {
    for (size_t i = 0; i < n; i++) free(list[i].suffix);
    free(list);
}

void fs_adapter_config_free(fs_adapter_config *c) {
    free_patterns(c->ranks, c->n_ranks);
    free_patterns(c->alphas, c->n_alphas);
    for (size_t i = 0; i < c->n_targets; i++) free(c->targets[i]);
    free(c->targets);
    *c = (fs_adapter_config){0};
}
