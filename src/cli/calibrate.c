/* fakeshield calibrate: scores of a bundle as probabilities, by validation data. */
#include "cli.h"

static const char help[] = "Usage: fakeshield calibrate -m BUNDLE --eval DIR -o OUT [options]\n"
                           "Fits the scores of a bundle to validation data and keeps the result in a new bundle OUT: detect then\n"
                           "gives calibrated scores and leaves verdicts open where they are near one half. DIR is what\n"
                           "fakeshield eval wrote of this bundle on pictures that it was not trained on, of both classes.\n"
                           "\n"
                           "  -m, --model BUNDLE   (or FAKESHIELD_MODEL)\n"
                           "      --eval DIR       the evaluation\n"
                           "  -o, --out OUT        folder for the new bundle\n"
                           "      --band X         verdicts are undetermined from 0.5 - X to 0.5 + X (default 0.1; 0: never)\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield eval val -m mine --verdict-only -o mine-val\n"
                           "         fakeshield calibrate -m mine --eval mine-val -o mine-calibrated\n";

static int calibrate_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    const char *eval = NULL, *out = NULL, *model = NULL;
    double band = 0.1;
    char *text = NULL;
    fs_error err = {0};
    int code = 0;
    fs_status status = FS_OK;
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_option_add(&o, (cli_option){.letter = 'm', .name = "model", .kind = CLI_TEXT, .target = &s.model});
    cli_option_add(&o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &out});
    cli_option_add(&o, (cli_option){.name = "eval", .kind = CLI_TEXT, .target = &eval});
    cli_option_add(&o, (cli_option){.name = "band", .kind = CLI_DOUBLE, .target = &band, .low = 0, .high = 0.5});
    if (!cli_begin("calibrate", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (operands.count || !eval || !out) {
        cli_error(&t,
                  operands.count ? "\"%s\" is no option (see: fakeshield calibrate --help)"
                                 : "give --eval DIR and -o OUT (see: fakeshield calibrate --help)",
                  operands.count ? operands.items[0] : "");
        status = FS_E_USAGE;
        goto done;
    }
    if (!(model = cli_model_dir("calibrate", &s))) {
        status = FS_E_USAGE;
        goto done;
    }
    s.opt.callbacks = cli_callbacks(&t, false);
    status = fs_calibrate(model, eval, out, band, &s.opt, &text, &err);
    cli_term_clear(&t);
    if (status)
        cli_error(&t, "%s", err.message);
    else if (!s.quiet)
        cli_print(&t, "%s", text);
    if (!status) status = cli_flush(&t);
done:
    fs_string_free(text);
    cli_list_free(&operands);
    return cli_signal() ? 128 + cli_signal() : (int)status;
}

const cli_command cli_calibrate = {"calibrate", "scores of a bundle made into probabilities, by validation data", help, calibrate_main};
