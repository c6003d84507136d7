/* The start of low-rank adapters (Hu et al. 2021) as peft's reset_lora_parameters has it: A by kaiming_uniform with a = sqrt(5), which
 * comes to
 * +-1/sqrt(in), and B zero. The numbers are not PyTorch's, the distribution is. */
#include "train/lora.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_RANK = 65536 };

static void draw(fs_param *a, int64_t in, uint64_t seed, int64_t layer, int place) {
    const uint32_t counter[4] = {(uint32_t)layer, (uint32_t)place, 0x4c6f5241,
                                 0}; /* "LoRA": apart from what else is drawn from this seed */
    const uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    uint32_t mixed[4];
    fs_philox(counter, key, mixed);
    fs_rng r = fs_rng_seed((uint64_t)mixed[0] << 32 | mixed[1]);
    const double bound = 1 / sqrt((double)in);
    for (int64_t i = 0; i < a->count; i++) a->data[i] = (float)(bound * (2 * fs_rng_uniform(&r) - 1));
}

static fs_status add_one(fs_params *p, const char *name, int64_t rows, int64_t columns, int group, fs_param **out, fs_error *err) {
    if (!name) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    return fs_params_add(p, name, 2, (const int64_t[]){rows, columns}, NULL, group, out, err);
}

static fs_status add_pair(fs_params *p, const fs_llama_config *config, int64_t layer, int place, int64_t rank, uint64_t seed, int group,
                          fs_error *err) {
    int64_t in, out;
    fs_param *a = NULL;
    fs_lora_shape(config, (fs_lora_place)place, &in, &out);
    char *name_a = fs_format("base_model.model.model.layers.%lld.%s.lora_A.weight", (long long)layer, fs_lora_place_names[place]);
    char *name_b = fs_format("base_model.model.model.layers.%lld.%s.lora_B.weight", (long long)layer, fs_lora_place_names[place]);
    fs_status status = add_one(p, name_a, rank, in, group, &a, err);
    if (!status && a) draw(a, in, seed, layer, place);
    if (!status) status = add_one(p, name_b, out, rank, group, NULL, err);
    free(name_a);
    free(name_b);
    return status;
}

fs_status fs_lora_add_params(fs_params *p, const fs_llama_config *config, unsigned places, int64_t rank, uint64_t seed, int group,
                             fs_error *err) {
    if (rank < 1 || rank > MAX_RANK) return fs_fail(err, FS_E_USAGE, "LoRA rank %lld, expected 1 to %d", (long long)rank, MAX_RANK);
    if (!places || places > FS_LORA_ALL_PLACES) return fs_fail(err, FS_E_USAGE, "LoRA at no known layer of the model (mask %#x)", places);
    for (int64_t layer = 0; layer < config->layers; layer++) {
        for (int place = 0; place < FS_LORA_PLACES; place++) {
            if (!(places & 1U << place)) continue;
            fs_status status = add_pair(p, config, layer, place, rank, seed, group, err);
            if (status) return status;
        }
    }
    return FS_OK;
}
