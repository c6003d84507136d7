/* A recipe's settings: the original's values as defaults (spec 6.1, 7.1), the checks that need no file, and the settings as JSON, by which a checkpoint
 * knows whether it is continued with other ones. */
#include "train/run.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static const char *const recipe_names[] = {"dte-fdm", "mflm", "dtg"};

const char *fs_recipe_name(fs_recipe r) { return (int)r >= 0 && (int)r < 3 ? recipe_names[r] : "unknown"; }

bool fs_recipe_from_name(const char *name, fs_recipe *out) {
    for (int i = 0; name && i < 3; i++)
        if (strcmp(name, recipe_names[i]) == 0) {
            *out = (fs_recipe)i;
            return true;
        }
    return false;
}

fs_train_options fs_train_options_defaults(fs_recipe recipe) {
    fs_train_options o = {.recipe = recipe, .image_folder = "/", .epochs = 1, .batch = 6, .accumulation = 4, .rate = 2e-4, .beta1 = 0.9, .beta2 = 0.999,
                          .eps = 1e-8, .schedule = "cosine", .warmup_ratio = 0.03, .focus = 1, .ce_weight = 1, .bce_weight = 2, .dice_weight = 0.5,
                          .recompute = true, .seed = 42, .keep = 2, .forge_size_min = 256, .forge_size_max = 256, .forge_count = 10000, .forge_val = 200,
                          .base = fs_options_defaults()};
    if (recipe == FS_RECIPE_DTE_FDM) {
        o.lora_rank = 128, o.lora_alpha = 256, o.lora_dropout = 0.05;
        o.projector_rate = 2e-5;
        o.max_length = 4096;
        o.group_by_length = true;
    } else if (recipe == FS_RECIPE_MFLM) {
        o.lora_rank = 8, o.lora_alpha = 16, o.lora_dropout = 0.05;
        o.accumulation = 40, o.epochs = 200;
        o.rate = 3e-4, o.beta2 = 0.95, o.clip = 1;
        o.schedule = "warmup-decay", o.warmup_steps = 100;
        o.max_length = 1536;
    } else {
        o.batch = 32, o.accumulation = 1, o.epochs = 10, o.rate = 1e-4, o.weight_decay = 0.01;
    }
    return o;
}

static fs_status check_number(const char *what, double value, double min, double max, fs_error *err) {
    if (value >= min && value <= max) return FS_OK;
    return fs_fail(err, FS_E_USAGE, "training: %s is %g, expected %g to %g", what, value, min, max);
}

fs_status fs_train_options_check(const fs_train_options *o, fs_schedule_kind *schedule, fs_error *err) {
    const struct { const char *what; double value, min, max; } numbers[] = {
        {"the number of epochs", o->epochs, 0, 1e6}, {"the batch", o->batch, 1, 65536}, {"the accumulation", o->accumulation, 1, 65536},
        {"the adapters' rank", o->lora_rank, 0, 4096}, {"the adapters' alpha", o->lora_alpha, 0, 1e6}, {"the dropout", o->lora_dropout, 0, 0.99},
        {"the learning rate", o->rate, 0, 1e3}, {"the projector's learning rate", o->projector_rate, 0, 1e3},
        {"the weight decay", o->weight_decay, 0, 1e3}, {"beta1", o->beta1, 0, 0.999999999}, {"beta2", o->beta2, 0, 0.999999999}, {"eps", o->eps, 0, 1},
        {"the gradient's limit", o->clip, 0, 1e9}, {"the warm-up's share", o->warmup_ratio, 0, 1}, {"the warm-up", (double)o->warmup_steps, 0, 1e12},
        {"the weight of cross entropy", o->ce_weight, 0, 1e6}, {"the weight of BCE", o->bce_weight, 0, 1e6}, {"the weight of dice", o->dice_weight, 0, 1e6}, {"the weight of the words that matter", o->focus, 1, 255}, {"the weight of dense supervision", o->dense_weight, 0, 1e6},
        {"the steps of an epoch", (double)o->steps_per_epoch, 0, 1e9}, {"the number of steps", (double)o->max_steps, 0, 1e12},
        {"the number of tokens", (double)o->max_length, 0, 1e9}, {"the steps between checkpoints", (double)o->save_every, 0, 1e15},
        {"the steps between validations", (double)o->val_every, 0, 1e15}, {"the number of checkpoints to keep", o->keep, 1, 1e6}, {"the number of workers", o->workers, 0, 1024},
        {"the texts' dropout", o->text_dropout, 0, 1}, {"the number of forged pictures", (double)o->forge_count, 1, 1e9},
        {"the number of forged pictures of a validation", (double)o->forge_val, 0, 1e9}};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        const fs_status status = check_number(numbers[i].what, numbers[i].value, numbers[i].min, numbers[i].max, err);
        if (status) return status;
    }
    if (o->recipe != FS_RECIPE_DTG && !o->all_weights && o->lora_rank > 0 && o->lora_alpha <= 0)
        return fs_fail(err, FS_E_USAGE, "training: adapters of rank %d with alpha 0 would have no effect; give --lora-alpha above 0, or --lora-rank 0", o->lora_rank);
    if (o->dense_weight > 0 && (o->recipe != FS_RECIPE_DTE_FDM || !o->forge || !(o->all_weights || o->from_scratch)))
        return fs_fail(err, FS_E_USAGE, "training: dense supervision is for stage 1's CLIP, which needs masks and has to be trained; give --forge, and --all-weights or "
                                        "--from-scratch");
    if (!o->forge && (o->forge_pairs || o->forge_mirror || o->forge_vary || o->forge_square || o->forge_clean > 0 || o->forge_types))
        return fs_fail(err, FS_E_USAGE, "training: how pictures are forged was given, but nothing is forged; give --forge PHOTOS too, or leave the other --forge options");
    if (o->forge_pairs && o->recipe == FS_RECIPE_MFLM)
        return fs_fail(err, FS_E_USAGE, "training: stage 2 is taught forged pictures only, of which an untouched one has no mask; leave --forge-pairs to dte-fdm and dtg");
    if (o->focus > 1 && (o->recipe != FS_RECIPE_DTE_FDM || !o->forge))
        return fs_fail(err, FS_E_USAGE, "training: which words matter is known of stage 1's forged texts only; give --focus to dte-fdm with --forge");
    if (o->recipe == FS_RECIPE_DTE_FDM && o->ce_weight <= 0 && o->dense_weight <= 0)
        return fs_fail(err, FS_E_USAGE, "training: with a weight of 0 for the cross entropy nothing is learnt; give --ce-weight above 0, or --dense");
    if (o->sam_from_clip && (o->recipe != FS_RECIPE_MFLM || !(o->all_weights || o->from_scratch)))
        return fs_fail(err, FS_E_USAGE, "training: SAM's encoder can begin with CLIP's weights in stage 2 when all weights are trained; give --all-weights");
    if (o->begin_with && (o->recipe == FS_RECIPE_DTG || !(o->all_weights || o->from_scratch)))
        return fs_fail(err, FS_E_USAGE, "training: stages 1 and 2 can begin with another model's weights when all of theirs are trained; give --all-weights or --from-scratch");
    if (o->clip_from_sam && (o->recipe != FS_RECIPE_DTE_FDM || !o->begin_with))
        return fs_fail(err, FS_E_USAGE, "training: CLIP can begin as the SAM of another model in stage 1; give --begin-with MODEL");
    if (!fs_schedule_kind_from_name(o->schedule, schedule))
        return fs_fail(err, FS_E_USAGE, "training: there is no schedule \"%s\"; expected cosine, warmup-decay, warmup-decay-upstream or constant", o->schedule ? o->schedule : "");
    if (!o->model_dir && !o->from_scratch) return fs_fail(err, FS_E_USAGE, "training: no checkpoint to start from");
    if (!o->output_dir || !*o->output_dir) return fs_fail(err, FS_E_USAGE, "training: no folder for the results");
    if (!o->data && !o->forge) return fs_fail(err, FS_E_USAGE, "training: no data");
    if (o->data && o->forge) return fs_fail(err, FS_E_USAGE, "training: data from files and forged data at a time; give one of the two");
    if (o->recipe == FS_RECIPE_MFLM && !o->train_sets && !o->forge)
        return fs_fail(err, FS_E_USAGE, "training MFLM: which data sets? expected \"type|split1,split2\", e.g. \"ps|CASIA2\"");
    return FS_OK;
}

/* What a new model is made after, so that a run is not gone on with after another config. */
static bool put_config(json_t *j, const char *path) {
    enum { MOST = 1 << 20 };
    char sum[65];
    uint8_t *data = NULL;
    size_t size = 0;
    if (fs_read_file(path, MOST, &data, &size, NULL)) return false;
    fs_sha256_hex(data, size, sum);
    free(data);
    return json_object_set_new(j, "config_sha256", json_string(sum)) == 0;
}

char *fs_train_settings(const fs_train_options *o, int64_t records, int64_t steps) {
    json_t *j = json_object();
    const struct { const char *name; json_t *value; } all[] = {
        {"recipe", json_string(fs_recipe_name(o->recipe))},
        {"model", json_string(o->from_scratch ? o->from_scratch : o->model_dir)},
        {"data", json_string(o->forge ? o->forge : o->data)},
        {"train_sets", o->train_sets ? json_string(o->train_sets) : json_null()},
        {"gt_train", json_boolean(o->gt_train)},
        {"records", json_integer(records)},
        {"steps", json_integer(steps)},
        {"epochs", json_real(o->epochs)},
        {"batch", json_integer(o->batch)},
        {"accumulation", json_integer(o->accumulation)},
        {"lora_rank", json_integer(o->lora_rank)},
        {"lora_alpha", json_real(o->lora_alpha)},
        {"lora_dropout", json_real(o->lora_dropout)},
        {"lora_targets", o->lora_targets ? json_string(o->lora_targets) : json_null()},
        {"all_weights", json_boolean(o->all_weights)},
        {"freeze", o->freeze ? json_string(o->freeze) : json_null()},
        {"rate", json_real(o->rate)},
        {"projector_rate", json_real(o->projector_rate)},
        {"weight_decay", json_real(o->weight_decay)},
        {"beta1", json_real(o->beta1)},
        {"beta2", json_real(o->beta2)},
        {"eps", json_real(o->eps)},
        {"clip", json_real(o->clip)},
        {"schedule", json_string(o->schedule)},
        {"warmup_ratio", json_real(o->warmup_ratio)},
        {"warmup_steps", json_integer(o->warmup_steps)},
        {"ce_weight", json_real(o->ce_weight)},
        {"bce_weight", json_real(o->bce_weight)},
        {"dice_weight", json_real(o->dice_weight)},
        {"max_length", json_integer(o->max_length)},
        {"group_by_length", json_boolean(o->group_by_length)},
        {"upstream_order", json_boolean(o->upstream_order)},
        {"inference_prompt", json_boolean(o->inference_prompt)},
        {"seed", json_integer((json_int_t)o->seed)}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!all[i].value || json_object_set_new(j, all[i].name, all[i].value)) {
            for (size_t k = i + 1; k < sizeof all / sizeof *all; k++) json_decref(all[k].value);
            json_decref(j);
            return NULL;
        }
    if (o->from_scratch && !put_config(j, o->from_scratch)) {
        json_decref(j);
        return NULL;
    }
    /* what is not used is not noted, so that runs from before it was there go on */
    if (o->text_dropout > 0) json_object_set_new(j, "text_dropout", json_real(o->text_dropout));
    if (o->sam_from_clip) json_object_set_new(j, "sam_from_clip", json_true());
    if (o->begin_with) json_object_set_new(j, "begin_with", json_string(o->begin_with));
    if (o->clip_from_sam) json_object_set_new(j, "clip_from_sam", json_true());
    if (o->focus > 1) json_object_set_new(j, "focus", json_integer(o->focus));
    if (o->dense_weight > 0) json_object_set_new(j, "dense_weight", json_real(o->dense_weight));
    if (o->forge)
        json_object_set_new(j, "forge", json_pack("{s:i, s:i, s:b, s:s}", "size_min", o->forge_size_min, "size_max", o->forge_size_max, "square",
                                                  (int)o->forge_square, "types", o->forge_types ? o->forge_types : "default"));
    if (o->forge && o->forge_mirror) json_object_set_new(json_object_get(j, "forge"), "mirror", json_true());
    if (o->forge && o->forge_vary) json_object_set_new(json_object_get(j, "forge"), "vary", json_true());
    if (o->forge && o->forge_clean > 0) json_object_set_new(json_object_get(j, "forge"), "clean", json_real(o->forge_clean));
    if (o->forge && o->forge_pairs) json_object_set_new(json_object_get(j, "forge"), "pairs", json_true());
    char *text = json_dumps(j, JSON_INDENT(2));
    json_decref(j);
    return text;
}
