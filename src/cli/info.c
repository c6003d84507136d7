/* fakeshield info: what a checkpoint, one of its parts, or one weight file holds. */
#include "cli.h"

static const char help[] = "Usage: fakeshield info [options] PATH...\n"
                           "What a checkpoint directory, one of its parts or one weight file holds: parts, shapes, number\n"
                           "formats, parameters, memory needed, licence. Reads headers, not weights, so it is quick.\n"
                           "\n"
                           "      --json       as JSON, one object per line\n"
                           "      --tensors    list every tensor\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield info weight/fakeshield-v1-22b\n";

static int info_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    bool json = false, tensors = false;
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_option_add(&o, (cli_option){.name = "json", .kind = CLI_FLAG, .target = &json});
    cli_option_add(&o, (cli_option){.name = "tensors", .kind = CLI_FLAG, .target = &tensors});
    fs_status status = FS_OK, first = FS_OK;
    size_t failed = 0;
    int code = 0;
    if (!cli_begin("info", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (!operands.count) {
        cli_error(&t, "no path given (see: fakeshield info --help)");
        status = FS_E_USAGE;
        goto done;
    }
    for (size_t i = 0; i < operands.count && !cli_signal(); i++) {
        char *text = NULL;
        fs_error err = {0};
        status = fs_describe(operands.items[i], json, tensors, &text, &err);
        if (status) {
            cli_report_failure(&t, operands.items[i], &err);
            if (!failed++) first = status;
            continue;
        }
        if (!json && operands.count > 1) cli_print(&t, "%s%s\n", i ? "\n" : "", operands.items[i]);
        cli_print(&t, "%s", text);
        size_t n = 0;
        while (text[n]) n++;
        if (!n || text[n - 1] != '\n') printf("\n");
        fs_string_free(text);
        if ((status = cli_flush(&t))) goto done;
    }
    status = (fs_status)cli_exit_code(operands.count, failed, first);
done:
    cli_list_free(&operands);
    return (int)status;
}

const cli_command cli_info = {"info", "what a checkpoint or weight file holds", help, info_main};
