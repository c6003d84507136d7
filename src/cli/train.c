/* fakeshield train: the three recipes, and the report on a run. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: fakeshield train dte-fdm -m BASE --data FILE.json -o DIR [options]\n"
    "       fakeshield train mflm -m BASE --data ROOT --train-sets \"ps|CASIA2\" -o DIR [options]\n"
    "       fakeshield train dtg -m BASE --data ROOT -o DIR [options]\n"
    "       fakeshield train dte-fdm|mflm|dtg -m BASE --forge PHOTOS -o DIR [options]\n"
    "       fakeshield train report DIR [DIR2 ...] [-o PAGE.html]\n"
    "Trains stage 1 (dte-fdm), stage 2 (mflm) by low-rank adapters, or the domain tag generator (dtg),\n"
    "with the original's settings. The same command goes on with a run that was stopped. The result is\n"
    "for detect --adapter DIR/adapter. Several machines: mpirun -n N fakeshield train ...\n"
    "\n"
    "  -m, --model DIR          checkpoint or bundle to start from (or FAKESHIELD_MODEL)\n"
    "      --from-scratch FILE  instead: a new model after this config, all weights trained\n"
    "      --data PATH          dte-fdm: conversations (JSON); mflm: root of the data sets;\n"
    "                           dtg: root with aigc/, deepfake/ and photoshop/\n"
    "      --image-folder DIR   dte-fdm: put in front of the JSON's paths (default /)\n"
    "      --train-sets SPEC    mflm: \"type|set1,set2\" below the root; more types: \"ps|A;aigc|B\"\n"
    "      --val-sets SPEC      mflm, for validation; dte-fdm and dtg: --val-data PATH\n"
    "      --gt-train --gt-val  mflm: texts of lisa_*_gt.json in place of lisa_*_output.json\n"
    "      --forge PHOTOS       in place of --data: photos, forged as training goes, no picture twice;\n"
    "                           validation is on its own photos. --forge-pairs: each with its untouched\n"
    "                           twin; --forge-types LIST, --forge-{square,mirror,vary}, --forge-clean P\n"
    "      --forge-size N[-M]   longer side (256); --forge-count N: an epoch (10000); --forge-val N (200)\n"
    "      --text-dropout P     mflm: how often the text says \"tampered\" and not where (default 0)\n"
    "      --focus N            dte-fdm: how much verdict, place and size count beside other words (1)\n"
    "      --skip-bad           leave out records that cannot be used (default: an error);\n"
    "                           --workers N: threads that prepare pictures (one per core, at most 4)\n"
    "  --clip DIR --sam FILE --dtg FILE: parts from elsewhere dte-fdm  mflm          dtg\n"
    "      --epochs X           passes over the data          1        200           10\n"
    "      --max-steps N        end earlier; mflm: --steps-per-epoch N\n"
    "      --batch N            records in memory at a time   6        6             32\n"
    "      --accumulate N       of those in one step          4        40            1\n"
    "      --max-length N       tokens of a record            4096     1536          -\n"
    "      --no-recompute       keep all layers' values: faster, more memory\n"
    "      --lora-rank N        0 = no adapters               128      8             -\n"
    "      --lora-alpha X                                     256      16            -\n"
    "      --lora-dropout X                                   0.05     0.05          -\n"
    "      --lora-targets LIST  out of q_proj,k_proj,v_proj,  all      q_proj,v_proj -\n"
    "                           o_proj,gate_proj,up_proj,down_proj\n"
    "      --all-weights        train every weight; from a bundle to a bundle, DIR/model\n"
    "      --freeze LIST        with it: keep some of clip,sam,lm; --sam-from-clip: SAM begins as CLIP\n"
    "      --begin-with MODEL   with what fits of a trained one; --clip-from-sam: CLIP as its SAM\n"
    "      --dense X            with it, dte-fdm --forge: weight of a loss that shows CLIP the masks;\n"
    "                           --ce-weight 0: that loss, or mflm's, without the language model\n"
    "      --rate X             learning rate                 2e-4     3e-4          1e-4\n"
    "      --projector-rate X   of the projector              2e-5     -             -\n"
    "      --weight-decay X                                   0        0             0.01\n"
    "      --beta1 X  --beta2 X  --eps X                      .9 .999  .9 .95        .9 .999\n"
    "      --clip-norm X        largest gradient, 0 = any     0        1             0\n"
    "      --schedule NAME      or constant, or warmup-       cosine   warmup-decay  cosine\n"
    "                           decay-upstream: first step at the full rate, second at 0\n"
    "      --warmup-ratio X     of all; --warmup-steps N      0.03     100 steps     0.03\n"
    "      --ce-weight X  --bce-weight X  --dice-weight X     1        1, 2, 0.5     1\n"
    "      --no-group-by-length dte-fdm: mix long and short records in a batch\n"
    "      --upstream-order     mflm: the same order in every epoch, as the original\n"
    "      --inference-prompt   dte-fdm: \"human\" in the system prompt; the original trains with \"user\"\n"
    "      --seed N             default 42\n"
    "\n"
    "  -o, --out DIR            adapter/, checkpoint-N/, log.csv, TensorBoard events, results/\n"
    "      --save-every N       steps between checkpoints, --val-every N: validations (default: epoch)\n"
    "      --keep N             latest checkpoints to keep beside the best (default 2)\n"
    "      --fresh              begin anew although DIR holds a run\n"
    "      --json               the summary as JSON\n"
    "  -t, --threads N  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
    "\n"
    "Example: fakeshield train dte-fdm -m weight/fakeshield-v1-22b --data MMTD-Set-34k.json -o runs/dte\n";

typedef struct watch {
    cli_term *term;
    double shown; /* when the last line was written where there is no terminal */
    double first;
    int64_t begun;
} watch;

static void on_log(void *user, fs_log_level level, const char *line) {
    watch *w = user;
    if (level == FS_LOG_WARNING) cli_error(w->term, "warning: %s", line);
    else if (level == FS_LOG_INFO || w->term->verbose) cli_note(w->term, "%s", line);
}

static void on_progress(void *user, const char *step, int64_t done, int64_t total) {
    cli_term_progress(((watch *)user)->term, step, done, total);
}

static bool on_cancel(void *user) {
    (void)user;
    return cli_signal() != 0;
}

static void duration(double seconds, char *out, size_t size) {
    const long minutes = lround(seconds / 60);
    if (minutes >= 60) snprintf(out, size, "%ld h %02ld min", minutes / 60, minutes % 60);
    else if (seconds >= 60) snprintf(out, size, "%ld min", minutes);
    else snprintf(out, size, "%.0f s", seconds);
}

/* On a terminal one line that is drawn over; elsewhere a line now and then. */
static void on_step(void *user, const fs_train_progress *p) {
    watch *w = user;
    char left[64], line[512], metric[64] = "";
    duration(p->seconds_left, left, sizeof left);
    if (!isnan(p->metric)) snprintf(metric, sizeof metric, ", validation %.4f", p->metric);
    snprintf(line, sizeof line, "step %lld/%lld, epoch %.2f, loss %.4f, rate %.2e, %.0f tokens/s, %.1f GB%s, %s left", (long long)p->step,
             (long long)p->steps, p->epoch, p->loss, p->rate, p->tokens_per_second, (double)p->memory_bytes / 1e9, metric, left);
    cli_term_progress(w->term, line, p->step, p->steps);
    if (w->term->err_tty) return;
    const double now = cli_now();
    if (w->shown > 0 && now - w->shown < 10 && p->step != p->steps) return;
    w->shown = now;
    cli_note(w->term, "%s", line);
}

static void add_forge_options(cli_options *o, fs_train_options *t, cli_size_range *size) {
    *size = (cli_size_range){&t->forge_size_min, &t->forge_size_max};
    cli_option_add(o, (cli_option){.name = "forge", .kind = CLI_TEXT, .target = &t->forge});
    cli_option_add(o, (cli_option){.name = "forge-size", .kind = CLI_CHOICE, .target = size, .parse = cli_parse_size, .choices = "the forms N and N-M, from 64 to 4096"});
    cli_option_add(o, (cli_option){.name = "forge-square", .kind = CLI_FLAG, .target = &t->forge_square});
    cli_option_add(o, (cli_option){.name = "forge-pairs", .kind = CLI_FLAG, .target = &t->forge_pairs});
    cli_option_add(o, (cli_option){.name = "forge-mirror", .kind = CLI_FLAG, .target = &t->forge_mirror});
    cli_option_add(o, (cli_option){.name = "forge-vary", .kind = CLI_FLAG, .target = &t->forge_vary});
    cli_option_add(o, (cli_option){.name = "forge-clean", .kind = CLI_DOUBLE, .target = &t->forge_clean, .low = 0, .high = 1});
    cli_option_add(o, (cli_option){.name = "forge-types", .kind = CLI_TEXT, .target = &t->forge_types});
    cli_option_add(o, (cli_option){.name = "forge-count", .kind = CLI_I64, .target = &t->forge_count, .low = 1, .high = 1e9});
    cli_option_add(o, (cli_option){.name = "forge-val", .kind = CLI_I64, .target = &t->forge_val, .low = 0, .high = 1e9});
    cli_option_add(o, (cli_option){.name = "text-dropout", .kind = CLI_DOUBLE, .target = &t->text_dropout, .low = 0, .high = 1});
}

static void add_options(cli_options *o, cli_settings *s, fs_train_options *t, const char **out, bool flags[6]) {
    cli_add_terminal_options(o, s);
    cli_option_add(o, (cli_option){.letter = 'm', .name = "model", .kind = CLI_TEXT, .target = &s->model});
    cli_option_add(o, (cli_option){.letter = 't', .name = "threads", .kind = CLI_INT, .target = &s->opt.threads, .low = 0, .high = 1024});
    cli_option_add(o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = out});
    const struct { const char *name; const char **target; } texts[] = {
        {"from-scratch", &t->from_scratch}, {"begin-with", &t->begin_with}, {"data", &t->data}, {"image-folder", &t->image_folder}, {"val-data", &t->val_data},
        {"train-sets", &t->train_sets}, {"val-sets", &t->val_sets}, {"lora-targets", &t->lora_targets}, {"freeze", &t->freeze}, {"schedule", &t->schedule},
        {"clip", &s->opt.clip_dir}, {"sam", &s->opt.sam_file}, {"dtg", &s->opt.dtg_file}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        cli_option_add(o, (cli_option){.name = texts[i].name, .kind = CLI_TEXT, .target = texts[i].target});
    const struct { const char *name; bool *target; } switches[] = {
        {"gt-train", &t->gt_train}, {"gt-val", &t->gt_val}, {"all-weights", &t->all_weights}, {"sam-from-clip", &t->sam_from_clip}, {"clip-from-sam", &t->clip_from_sam}, {"upstream-order", &t->upstream_order},
        {"inference-prompt", &t->inference_prompt}, {"skip-bad", &t->skip_bad}, {"fresh", &t->fresh}, {"no-recompute", &flags[0]},
        {"no-group-by-length", &flags[1]}, {"json", &flags[2]}};
    for (size_t i = 0; i < sizeof switches / sizeof *switches; i++)
        cli_option_add(o, (cli_option){.name = switches[i].name, .kind = CLI_FLAG, .target = switches[i].target});
    const struct { const char *name; double *target; double low, high; } reals[] = {
        {"epochs", &t->epochs, 0, 1e6}, {"lora-alpha", &t->lora_alpha, 0, 1e6}, {"lora-dropout", &t->lora_dropout, 0, 0.99}, {"rate", &t->rate, 0, 1e3},
        {"projector-rate", &t->projector_rate, 0, 1e3}, {"weight-decay", &t->weight_decay, 0, 1e3}, {"beta1", &t->beta1, 0, 0.999999999},
        {"beta2", &t->beta2, 0, 0.999999999}, {"eps", &t->eps, 0, 1}, {"clip-norm", &t->clip, 0, 1e9}, {"warmup-ratio", &t->warmup_ratio, 0, 1},
        {"ce-weight", &t->ce_weight, 0, 1e6}, {"bce-weight", &t->bce_weight, 0, 1e6}, {"dice-weight", &t->dice_weight, 0, 1e6},
        {"dense", &t->dense_weight, 0, 1e6}};
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        cli_option_add(o, (cli_option){.name = reals[i].name, .kind = CLI_DOUBLE, .target = reals[i].target, .low = reals[i].low, .high = reals[i].high});
    const struct { const char *name; int *target; double low, high; } counts[] = {
        {"batch", &t->batch, 1, 65536}, {"accumulate", &t->accumulation, 1, 65536}, {"lora-rank", &t->lora_rank, 0, 4096}, {"workers", &t->workers, 0, 1024},
        {"keep", &t->keep, 1, 1000000}, {"focus", &t->focus, 1, 255}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        cli_option_add(o, (cli_option){.name = counts[i].name, .kind = CLI_INT, .target = counts[i].target, .low = counts[i].low, .high = counts[i].high});
    const struct { const char *name; int64_t *target; } longs[] = {
        {"max-steps", &t->max_steps}, {"steps-per-epoch", &t->steps_per_epoch}, {"max-length", &t->max_length}, {"warmup-steps", &t->warmup_steps},
        {"save-every", &t->save_every}, {"val-every", &t->val_every}};
    for (size_t i = 0; i < sizeof longs / sizeof *longs; i++)
        cli_option_add(o, (cli_option){.name = longs[i].name, .kind = CLI_I64, .target = longs[i].target, .low = 0, .high = 1e15});
    cli_option_add(o, (cli_option){.name = "seed", .kind = CLI_U64, .target = &t->seed});
}

static int train_recipe(fs_recipe recipe, int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    bool flags[6] = {0};
    cli_size_range size;
    fs_train_options train = fs_train_options_defaults(recipe);
    fs_error err = {0};
    char *summary = NULL;
    int code = 0;
    fs_status status = FS_OK;
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    add_options(&o, &s, &train, &train.output_dir, flags);
    add_forge_options(&o, &train, &size);
    if (!cli_begin("train", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (operands.count || !train.output_dir || (!train.data && !train.forge)) {
        cli_error(&t, operands.count ? "\"%s\" is no option (see: fakeshield train --help)" : "give --data (or --forge) and -o DIR (see: fakeshield train --help)",
                  operands.count ? operands.items[0] : "");
        status = FS_E_USAGE;
        goto done;
    }
    if (!train.from_scratch && !(train.model_dir = cli_model_dir("train", &s))) {
        status = FS_E_USAGE;
        goto done;
    }
    watch w = {.term = &t};
    if (flags[0]) train.recompute = false;
    if (flags[1]) train.group_by_length = false;
    train.base = s.opt;
    train.base.callbacks = (fs_callbacks){.user_data = &w, .log = on_log, .progress = on_progress, .cancel = on_cancel};
    train.step = on_step;
    status = fs_train(&train, &summary, &err);
    cli_term_clear(&t);
    if (status) cli_error(&t, "%s", err.message);
    else if (flags[2]) cli_print(&t, "%s\n", summary);
    else if (!s.quiet) cli_print(&t, "%s: trained. Curves: fakeshield train report %s\n", train.output_dir, train.output_dir);
    if (!status) status = cli_flush(&t);
done:
    fs_string_free(summary);
    cli_list_free(&operands);
    return cli_signal() ? 130 : (int)status;
}

static int train_report(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    const char *out = NULL;
    char *page = NULL;
    fs_error err = {0};
    int code = 0;
    fs_status status = FS_OK;
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_option_add(&o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &out});
    if (!cli_begin("train report", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (!operands.count) {
        cli_error(&t, "which run? give the folder that train wrote (see: fakeshield train --help)");
        status = FS_E_USAGE;
        goto done;
    }
    page = out ? cli_format("%s", out) : cli_format("%s/report.html", operands.items[0]);
    status = fs_train_report((const char *const *)operands.items, operands.count, page, &err);
    if (status) cli_error(&t, "%s", err.message);
    else if (!s.quiet) cli_print(&t, "%s\n", page);
    if (!status) status = cli_flush(&t);
done:
    free(page);
    cli_list_free(&operands);
    return (int)status;
}

static int train_main(int argc, char **argv) {
    const char *word = argc > 1 ? argv[1] : NULL;
    fs_recipe recipe;
    if (word && (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0)) {
        fputs(help, stdout);
        cli_term t;
        cli_term_init(&t, false, false, 0);
        return (int)cli_flush(&t);
    }
    if (word && strcmp(word, "report") == 0) return train_report(argc - 1, argv + 1);
    if (fs_recipe_from_name(word, &recipe)) return train_recipe(recipe, argc - 1, argv + 1);
    const char *const words[] = {"dte-fdm", "mflm", "dtg", "report"};
    const char *near = word ? cli_nearest(word, words, 4) : NULL;
    if (near) cli_error(NULL, "train: \"%s\"; did you mean %s?", word, near);
    else cli_error(NULL, "train what? expected dte-fdm, mflm, dtg or report (see: fakeshield train --help)");
    return FS_E_USAGE;
}

const cli_command cli_train = {"train", "trains either stage or the domain tag generator (train --help)", help, train_main};
