/* fakeshield synth: a bundle of random weights at the true size, for measuring. */
#include "cli.h"

static const char help[] = "Usage: fakeshield synth [options] -o DIR\n"
                           "Writes a bundle of random weights as large as the real one, so that speed and memory can be\n"
                           "measured without it (fakeshield bench -m DIR). It has learnt nothing: detect runs on it and says so,\n"
                           "but what it writes means nothing. Disk space is checked first, and on failure nothing stays.\n"
                           "\n"
                           "  -o, --out DIR       folder for the files\n"
                           "      --arch A        22b (both stages, default), 13b (stage 1), 7b (stage 2), or tiny\n"
                           "      --type T        f32, f16, bf16, q8_0, q4_0, q4_k, or mixed (default)\n"
                           "      --seed N        other numbers (default 0); the same seed gives the same bytes\n"
                           "      --layers N      of the language models, in place of the true number\n"
                           "  -t, --threads N     0 = one per core (default)\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield synth --arch 22b --type mixed -o weight/synthetic\n";

static int synth_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    const char *out = NULL;
    fs_synth_options opt = fs_synth_options_defaults();
    fs_error err = {0};
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_option_add(&o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &out});
    cli_option_add(&o, (cli_option){.name = "arch", .kind = CLI_TEXT, .target = &opt.arch});
    cli_option_add(&o, (cli_option){.name = "type", .kind = CLI_TEXT, .target = &opt.type});
    cli_option_add(&o, (cli_option){.name = "seed", .kind = CLI_U64, .target = &opt.seed});
    cli_option_add(&o, (cli_option){.name = "layers", .kind = CLI_INT, .target = &opt.layers, .low = 1, .high = 1000});
    cli_option_add(&o, (cli_option){.letter = 't', .name = "threads", .kind = CLI_INT, .target = &opt.threads, .low = 0, .high = 1024});
    int code = 0;
    fs_status status = FS_OK;
    if (!cli_begin("synth", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (operands.count || !out) {
        cli_error(&t, "give -o DIR and nothing else (see: fakeshield synth --help)");
        status = FS_E_USAGE;
        goto done;
    }
    opt.callbacks = cli_callbacks(&t, false);
    status = fs_synth(out, &opt, &err);
    cli_term_clear(&t);
    if (status) cli_error(&t, "%s", err.message);
    else if (!s.quiet) cli_print(&t, "%s: random weights, %s, %s. Measure with them: fakeshield bench -m %s\n", out, opt.arch, opt.type, out);
    if (!status) status = cli_flush(&t);
done:
    cli_list_free(&operands);
    return cli_signal() ? 130 : (int)status;
}

const cli_command cli_synth = {"synth", "a bundle of random weights at the true size, for measuring", help, synth_main};
