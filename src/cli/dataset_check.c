/* fakeshield dataset check: is a data set fit for training and evaluation? */
#include "cli.h"

#include <stdlib.h>

static const char help[] = "Usage: fakeshield dataset check [options] DIR\n"
                           "Reads every picture, mask and text of a data set (<type>/<set>/image/ and mask/, or one set) and\n"
                           "tells what would make training or an evaluation wrong: pictures and masks without each other,\n"
                           "unreadable files, sizes and values of masks, inverted and empty masks, missing texts, pictures that\n"
                           "are there twice or in training and in testing. Exit code 1 for any error (docs/datasets.md).\n"
                           "\n"
                           "      --test SETS       sets for testing, with commas between; all others are for training\n"
                           "                        (default: told by train, val, test in names, and by the lisa_*.json files)\n"
                           "      --against DIR     a second data set, for testing: what is in both is an error\n"
                           "      --near N          pictures are alike if their difference hashes differ in N bits or less,\n"
                           "                        0 to 16 (default 3); -1: not looked for\n"
                           "      --names-only      only names and JSON files; no picture is read\n"
                           "      --json            the report as JSON, with every finding\n"
                           "      --all             every finding, not the first five of a kind\n"
                           "  -t, --threads N       0 = one per core (default)\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield dataset check --test CASIA1+,Columbia data\n";

static int check_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    fs_dataset_check_options opt = fs_dataset_check_options_defaults();
    bool as_json = false;
    char *json = NULL, *text = NULL;
    size_t errors = 0;
    int code = 0;
    fs_error err = {0};
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_option_add(&o, (cli_option){.name = "test", .kind = CLI_TEXT, .target = &opt.test_sets});
    cli_option_add(&o, (cli_option){.name = "against", .kind = CLI_TEXT, .target = &opt.against});
    cli_option_add(&o, (cli_option){.name = "near", .kind = CLI_INT, .target = &opt.near_bits, .low = -1, .high = 16});
    cli_option_add(&o, (cli_option){.name = "names-only", .kind = CLI_FLAG, .target = &opt.names_only});
    cli_option_add(&o, (cli_option){.name = "json", .kind = CLI_FLAG, .target = &as_json});
    cli_option_add(&o, (cli_option){.name = "all", .kind = CLI_FLAG, .target = &opt.all});
    cli_option_add(&o, (cli_option){.letter = 't', .name = "threads", .kind = CLI_INT, .target = &opt.threads, .low = 0, .high = 1024});
    fs_status status = FS_OK;
    if (!cli_begin("dataset check", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (operands.count != 1) {
        cli_error(&t, "give the folder of one data set (see: fakeshield dataset check --help)");
        status = FS_E_USAGE;
        goto done;
    }
    opt.callbacks = cli_callbacks(&t, false);
    status = fs_dataset_check(operands.items[0], &opt, &json, &text, &errors, &err);
    cli_term_clear(&t);
    if (status)
        cli_error(&t, "%s", err.message);
    else if (as_json)
        cli_print(&t, "%s\n", json);
    else if (!s.quiet)
        cli_print(&t, "%s", text);
    if (!status) status = cli_flush(&t);
    if (!status && errors) status = FS_E_FAILED;
done:
    fs_string_free(json), fs_string_free(text);
    cli_list_free(&operands);
    return cli_signal() ? 128 + cli_signal() : (int)status;
}

const cli_command cli_dataset_check = {"check", "is a data set whole, readable, free of doubles and leaks?", help, check_main};
