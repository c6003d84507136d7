/* fakeshield dataset convert: public sets as they are unpacked, into the original's tree. */
#include "cli.h"

#include <stdlib.h>

static const char help[] = "Usage: fakeshield dataset convert --from FORM [options] -o DIR SRC\n"
                           "Brings a public set, as it is unpacked, into the original's tree: DIR/photoshop/NAME_Tp/ with image/\n"
                           "and mask/, and NAME_Au/ with image/. Pictures stay as they are, byte for byte; masks become PNG of 0\n"
                           "and 255, white for tampered, also where the set has them inverted or in colours. What has no\n"
                           "partner, cannot be read or does not fit is left out and told. What is there already stays.\n"
                           "\n"
                           "      --from FORM       casia, columbia, coverage, nist16, imd2020, dso1, korus; how their folders\n"
                           "                        should look is in docs/datasets.md\n"
                           "  -o, --out DIR         where the tree goes\n"
                           "      --name NAME       of the set, in place of the form's (CASIAv2, Columbia, ...)\n"
                           "      --copy            copies, not hard links\n"
                           "      --resize-masks    a mask of another size than its picture is resampled, not left out\n"
                           "      --no-invert       this copy of DSO-1 or NIST16 has white masks already\n"
                           "      --dry-run         only tell what would be done; everything is read, nothing is written\n"
                           "      --all             tell of everything left out, not of the first five of a kind\n"
                           "  -t, --threads N       0 = one per core (default)\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield dataset convert --from casia -o data CASIA2\n";

static bool parse_form(const char *value, void *target) {
    return fs_dataset_form_from_name(value, target);
}

static int convert_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    fs_dataset_convert_options opt = fs_dataset_convert_options_defaults();
    fs_dataset_form form = FS_FORM_CASIA;
    const char *out = NULL;
    bool has_form = false;
    char *text = NULL;
    int code = 0;
    fs_error err = {0};
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_option_add(&o, (cli_option){.name = "from",
                                    .kind = CLI_CHOICE,
                                    .target = &form,
                                    .parse = parse_form,
                                    .choices = "casia, columbia, coverage, nist16, imd2020, dso1, korus",
                                    .given = &has_form});
    cli_option_add(&o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &out});
    cli_option_add(&o, (cli_option){.name = "name", .kind = CLI_TEXT, .target = &opt.name});
    cli_option_add(&o, (cli_option){.name = "copy", .kind = CLI_FLAG, .target = &opt.copy});
    cli_option_add(&o, (cli_option){.name = "resize-masks", .kind = CLI_FLAG, .target = &opt.resize_masks});
    cli_option_add(&o, (cli_option){.name = "no-invert", .kind = CLI_FLAG, .target = &opt.no_invert});
    cli_option_add(&o, (cli_option){.name = "dry-run", .kind = CLI_FLAG, .target = &opt.dry_run});
    cli_option_add(&o, (cli_option){.name = "all", .kind = CLI_FLAG, .target = &opt.all});
    cli_option_add(&o, (cli_option){.letter = 't', .name = "threads", .kind = CLI_INT, .target = &opt.threads, .low = 0, .high = 1024});
    fs_status status = FS_OK;
    if (!cli_begin("dataset convert", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (operands.count != 1 || !out || !has_form) {
        cli_error(&t, "give --from FORM, -o DIR and the folder of one set (see: fakeshield dataset convert --help)");
        status = FS_E_USAGE;
        goto done;
    }
    opt.callbacks = cli_callbacks(&t, false);
    status = fs_dataset_convert(form, operands.items[0], out, &opt, &text, &err);
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

const cli_command cli_dataset_convert = {"convert", "public sets (CASIA, Columbia, ...) into the original's tree", help, convert_main};
