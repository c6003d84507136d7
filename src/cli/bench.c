/* fakeshield bench: time, speed and memory of every stage, beside what the machine can give. */
#include "cli.h"

static const char help[] = "Usage: fakeshield bench [options] -m MODEL\n"
                           "Times the stages of a bundle or checkpoint and puts them beside what this machine gives in the same\n"
                           "run: reading memory, integer and floating-point arithmetic. Random weights do as well as real ones\n"
                           "(fakeshield synth makes them).\n"
                           "\n"
                           "  -m, --model DIR         bundle or checkpoint; $FAKESHIELD_MODEL stands in for it\n"
                           "      --stage LIST        of dtg, clip, prefill, decode, decode8, score, sam, mask, picture;\n"
                           "                          default: all but picture. decode8: eight answers written together.\n"
                           "                          picture: all from opening the model to the mask, the answer given\n"
                           "      --runs N            default 5\n"
                           "      --prompt-tokens N   default 704\n"
                           "      --tokens N          of the answer (default 300); decode writes at most 32 of them\n"
                           "      --image FILE        for picture; default: one made up\n"
                           "      --json              as JSON\n"
                           "      --clip DIR  --sam FILE  --dtg FILE   parts that are not where they are looked for\n"
                           "      --precision P       f32 (default), bf16, f16, upstream\n"
                           "  -t, --threads N         0 = one per core (default)\n"
                           "      --mlock           keep weights in memory     --prefetch   read them ahead in the background\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield bench -m weight/synthetic --stage decode,prefill --json\n";

static int bench_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    bool json = false;
    char *report = NULL;
    fs_bench_options bench = fs_bench_options_defaults();
    fs_error err = {0};
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_add_model_options(&o, &s);
    cli_option_add(&o, (cli_option){.name = "sam", .kind = CLI_TEXT, .target = &s.opt.sam_file});
    cli_option_add(&o, (cli_option){.name = "dtg", .kind = CLI_TEXT, .target = &s.opt.dtg_file});
    cli_option_add(&o, (cli_option){.name = "stage", .kind = CLI_TEXT, .target = &bench.stages});
    cli_option_add(&o, (cli_option){.name = "runs", .kind = CLI_INT, .target = &bench.runs, .low = 1, .high = 1000});
    cli_option_add(&o, (cli_option){.name = "prompt-tokens", .kind = CLI_INT, .target = &bench.prompt_tokens, .low = 1, .high = 65536});
    cli_option_add(&o, (cli_option){.name = "tokens", .kind = CLI_INT, .target = &bench.tokens, .low = 1, .high = 65536});
    cli_option_add(&o, (cli_option){.name = "image", .kind = CLI_TEXT, .target = &bench.image});
    cli_option_add(&o, (cli_option){.name = "json", .kind = CLI_FLAG, .target = &json});
    int code = 0;
    fs_status status = FS_OK;
    if (!cli_begin("bench", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (operands.count) {
        cli_error(&t, "\"%s\" is no option; the model is given by -m (see: fakeshield bench --help)", operands.items[0]);
        status = FS_E_USAGE;
        goto done;
    }
    const char *model = cli_model_dir("bench", &s);
    if (!model) {
        status = FS_E_USAGE;
        goto done;
    }
    s.opt.callbacks = cli_callbacks(&t, false);
    status = fs_bench(model, &bench, &s.opt, json ? &report : NULL, json ? NULL : &report, &err);
    cli_term_clear(&t);
    if (status) cli_error(&t, "%s", err.message);
    else cli_print(&t, json ? "%s\n" : "%s", report);
    if (!status) status = cli_flush(&t);
done:
    fs_string_free(report);
    cli_list_free(&operands);
    return cli_signal() ? 130 : (int)status;
}

const cli_command cli_bench = {"bench", "time, speed and memory of every stage", help, bench_main};
