/* fakeshield dataset describe: texts for real forgeries, asked of a vision model's service. */
#include "cli.h"

#include <stdlib.h>

static const char help[] = "Usage: fakeshield dataset describe --url URL --model NAME [options] DIR\n"
                           "Sends every picture of a data set, its mask and instructions to an OpenAI-compatible service with a\n"
                           "vision model, and writes the texts as MMTD-Set has them: conversations_train.json, and in each set\n"
                           "lisa_train_output.json and lisa_train_gt.json. Answers are kept in answers.jsonl as they come, and\n"
                           "not asked for again. The pictures leave this machine. The cost is estimated first.\n"
                           "\n"
                           "      --url URL         of the service, as https://host/v1      --model NAME  its name for the model\n"
                           "      --key-env NAME    variable with the key (default: FAKESHIELD_API_KEY, then OPENAI_API_KEY)\n"
                           "  -o, --out DIR         where the files go (default: into the data set)\n"
                           "      --val             ..._val... in place of ..._train...\n"
                           "      --view V          how the model is shown the place: mask (default) or overlay\n"
                           "      --instructions FILE   in place of the built-in ones (share/describe_instructions.json)\n"
                           "      --max-side N      longer side of the pictures sent, 64 to 4096 (default 1024)\n"
                           "      --max-tokens N    of an answer (default 600)       --temperature T  (default 0.2)\n"
                           "      --limit N         ask about at most N pictures now\n"
                           "      --rpm N           requests a minute at most (default 60; 0: no limit)\n"
                           "  -j, --jobs N          requests at a time, 1 to 32 (default 4)\n"
                           "      --retries N       new attempts where one may help (default 5)       --timeout SECONDS (120)\n"
                           "      --price-in P --price-out P   per million tokens, for the estimate\n"
                           "      --max-cost C      do not begin if the estimate is higher (needs the prices)\n"
                           "      --dry-run         only the estimate and the first request; nothing is sent\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield dataset describe --url https://host/v1 --model gpt-4o --dry-run data\n";

typedef struct describe_words {
    const char *key_env;
    int limit;
    float temperature, rpm, price_in, price_out, max_cost;
    bool has_price_in, has_price_out;
} describe_words;

static bool parse_view(const char *value, void *target) {
    return fs_describe_view_from_name(value, target);
}

static void add_options(cli_options *o, fs_dataset_describe_options *opt, describe_words *w) {
    cli_option_add(o, (cli_option){.name = "url", .kind = CLI_TEXT, .target = &opt->url});
    cli_option_add(o, (cli_option){.name = "model", .kind = CLI_TEXT, .target = &opt->model});
    cli_option_add(o, (cli_option){.name = "key-env", .kind = CLI_TEXT, .target = &w->key_env});
    cli_option_add(o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &opt->out_dir});
    cli_option_add(o, (cli_option){.name = "val", .kind = CLI_FLAG, .target = &opt->val});
    cli_option_add(o,
                   (cli_option){.name = "view", .kind = CLI_CHOICE, .target = &opt->view, .parse = parse_view, .choices = "mask, overlay"});
    cli_option_add(o, (cli_option){.name = "instructions", .kind = CLI_TEXT, .target = &opt->instructions_file});
    cli_option_add(o, (cli_option){.name = "max-side", .kind = CLI_INT, .target = &opt->max_side, .low = 64, .high = 4096});
    cli_option_add(o, (cli_option){.name = "max-tokens", .kind = CLI_INT, .target = &opt->max_tokens, .low = 16, .high = 100000});
    cli_option_add(o, (cli_option){.name = "temperature", .kind = CLI_REAL, .target = &w->temperature, .low = 0, .high = 2});
    cli_option_add(o, (cli_option){.name = "limit", .kind = CLI_INT, .target = &w->limit, .low = 0, .high = 1000000000});
    cli_option_add(o, (cli_option){.name = "rpm", .kind = CLI_REAL, .target = &w->rpm, .low = 0, .high = 1000000});
    cli_option_add(o, (cli_option){.letter = 'j', .name = "jobs", .kind = CLI_INT, .target = &opt->jobs, .low = 1, .high = 32});
    cli_option_add(o, (cli_option){.name = "retries", .kind = CLI_INT, .target = &opt->retries, .low = 0, .high = 100});
    cli_option_add(o, (cli_option){.name = "timeout", .kind = CLI_INT, .target = &opt->timeout_seconds, .low = 1, .high = 3600});
    cli_option_add(
        o, (cli_option){.name = "price-in", .kind = CLI_REAL, .target = &w->price_in, .low = 0, .high = 1e6, .given = &w->has_price_in});
    cli_option_add(
        o, (cli_option){.name = "price-out", .kind = CLI_REAL, .target = &w->price_out, .low = 0, .high = 1e6, .given = &w->has_price_out});
    cli_option_add(o, (cli_option){.name = "max-cost", .kind = CLI_REAL, .target = &w->max_cost, .low = 0, .high = 1e9});
    cli_option_add(o, (cli_option){.name = "dry-run", .kind = CLI_FLAG, .target = &opt->dry_run});
}

static fs_status take_words(cli_term *t, const cli_list *operands, const describe_words *w, fs_dataset_describe_options *opt) {
    if (operands->count != 1 || !opt->url || !opt->model) {
        cli_error(t, "give --url, --model and the folder of one data set (see: fakeshield dataset describe --help)");
        return FS_E_USAGE;
    }
    const char *first = w->key_env ? getenv(w->key_env) : getenv("FAKESHIELD_API_KEY"),
               *second = w->key_env ? NULL : getenv("OPENAI_API_KEY");
    opt->key = first && *first ? first : second && *second ? second : NULL;
    if (w->key_env && !opt->key) {
        cli_error(t, "--key-env %s: there is no variable %s in the environment, or it is empty", w->key_env, w->key_env);
        return FS_E_USAGE;
    }
    if (w->has_price_in != w->has_price_out) {
        cli_error(t, "--price-in and --price-out belong together");
        return FS_E_USAGE;
    }
    opt->limit = w->limit;
    opt->temperature = (double)w->temperature;
    opt->rpm = (double)w->rpm;
    opt->price_limit = (double)w->max_cost;
    if (w->has_price_in) opt->price_in = (double)w->price_in, opt->price_out = (double)w->price_out;
    return FS_OK;
}

/* What it will cost, before anything is sent. */
static fs_status tell_estimate(cli_term *t, const char *dir, fs_dataset_describe_options opt, fs_error *err) {
    char *text = NULL;
    opt.estimate_only = true;
    fs_status status = fs_dataset_describe(dir, &opt, &text, err);
    cli_term_clear(t);
    if (!status) cli_note(t, "%s", text);
    fs_string_free(text);
    return status;
}

static int describe_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    fs_dataset_describe_options opt = fs_dataset_describe_options_defaults();
    describe_words w = {.temperature = (float)opt.temperature, .rpm = (float)opt.rpm};
    char *text = NULL;
    int code = 0;
    fs_error err = {0};
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    add_options(&o, &opt, &w);
    fs_status status = FS_OK;
    if (!cli_begin("dataset describe", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    status = take_words(&t, &operands, &w, &opt);
    if (status) goto done;
    opt.callbacks = cli_callbacks(&t, false);
    if (!opt.dry_run && !s.quiet) status = tell_estimate(&t, operands.items[0], opt, &err);
    if (!status) status = fs_dataset_describe(operands.items[0], &opt, &text, &err);
    cli_term_clear(&t);
    if (text && (opt.dry_run || !s.quiet)) cli_print(&t, opt.dry_run ? "%s" : "%s\n", text);
    if (status)
        cli_error(&t, "%s", err.message);
    else
        status = cli_flush(&t);
done:
    fs_string_free(text);
    cli_list_free(&operands);
    return cli_signal() ? 128 + cli_signal() : (int)status;
}

const cli_command cli_dataset_describe = {"describe", "texts for real forgeries, asked of a vision model", help, describe_main};
