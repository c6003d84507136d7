/* fakeshield requantize: another type of a bundle that is there already. */
#include "cli.h"

static const char help[] = "Usage: fakeshield requantize [options] BUNDLE --type T -o OUT\n"
                           "Makes a bundle of another, coarser type of one that is there: from f32, f16 or bf16, or from q8_0\n"
                           "with a little more loss. From an f32 bundle the files are those that convert makes of the\n"
                           "checkpoint. The source's checksums are compared on the way. Killed or interrupted, it goes on with\n"
                           "the next file when run again.\n"
                           "\n"
                           "  -o, --out DIR       folder for the new files\n"
                           "      --type T        f16, bf16, q8_0, q4_0, q4_k, or mixed (default: 4 to 6 bits)\n"
                           "      --overwrite     write files anew that are finished already\n"
                           "  -t, --threads N     0 = one per core (default)\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield requantize weight/fakeshield-f16 --type q4_k -o weight/fakeshield-q4\n";

static int requantize_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    const char *out = NULL, *type = "mixed";
    fs_error err = {0};
    fs_status status = FS_OK;
    int code = 0;
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_option_add(&o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &out});
    cli_option_add(&o, (cli_option){.name = "type", .kind = CLI_TEXT, .target = &type});
    cli_option_add(&o, (cli_option){.name = "overwrite", .kind = CLI_FLAG, .target = &s.opt.overwrite});
    cli_option_add(&o, (cli_option){.letter = 't', .name = "threads", .kind = CLI_INT, .target = &s.opt.threads, .low = 0, .high = 1024});
    if (!cli_begin("requantize", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (operands.count != 1 || !out) {
        cli_error(&t, "give one bundle and -o OUT (see: fakeshield requantize --help)");
        status = FS_E_USAGE;
        goto done;
    }
    s.opt.callbacks = cli_callbacks(&t, false);
    status = fs_requantize(operands.items[0], out, type, &s.opt, &err);
    cli_term_clear(&t);
    if (status) cli_error(&t, "%s", err.message);
    else if (!s.quiet) cli_print(&t, "%s: written as %s. Use it: fakeshield detect -m %s IMAGE\n", out, type, out);
    if (!status) status = cli_flush(&t);
done:
    cli_list_free(&operands);
    return cli_signal() ? 128 + cli_signal() : (int)status;
}

const cli_command cli_requantize = {"requantize", "another, coarser type of a bundle", help, requantize_main};
