/* fakeshield dataset questions: the original's question file, which `explain --questions` and its own test script read. */
#include "cli.h"

#include <stdlib.h>

static const char help[] = "Usage: fakeshield dataset questions [options] -o FILE.jsonl DIR...\n"
                           "Writes the original's question file, JSON Lines of {\"image\": path, \"text\": question}, for the\n"
                           "pictures of folders: each DIR has pictures, or is a data set with image/ or <type>/<set>/image/.\n"
                           "\n"
                           "  -o, --out FILE        where it goes\n"
                           "      --absolute        full paths, which the original's test script needs\n"
                           "      --limit N         at most N pictures a folder (default: all)\n"
                           "      --question TEXT   instead of the original's detection question\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield dataset questions --absolute -o questions.jsonl data/photoshop\n"
                           "         fakeshield explain -m DIR --questions questions.jsonl -o explained.jsonl\n";

static int questions_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    fs_dataset_questions_options opt = fs_dataset_questions_options_defaults();
    const char *out = NULL;
    int limit = 0, code = 0;
    size_t count = 0;
    fs_error err = {0};
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_option_add(&o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &out});
    cli_option_add(&o, (cli_option){.name = "absolute", .kind = CLI_FLAG, .target = &opt.absolute});
    cli_option_add(&o, (cli_option){.name = "limit", .kind = CLI_INT, .target = &limit, .low = 0, .high = 1000000000});
    cli_option_add(&o, (cli_option){.name = "question", .kind = CLI_TEXT, .target = &opt.question});
    fs_status status = FS_OK;
    if (!cli_begin("dataset questions", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (!operands.count || !out) {
        cli_error(&t, "give -o FILE and the folders of pictures (see: fakeshield dataset questions --help)");
        status = FS_E_USAGE;
        goto done;
    }
    opt.limit = limit;
    opt.count = &count;
    opt.callbacks = cli_callbacks(&t, false);
    status = fs_dataset_questions((const char *const *)operands.items, operands.count, out, &opt, &err);
    if (status)
        cli_error(&t, "%s", err.message);
    else if (!s.quiet)
        cli_print(&t, "%s: %zu questions\n", out, count);
    if (!status) status = cli_flush(&t);
done:
    cli_list_free(&operands);
    return (int)status;
}

const cli_command cli_dataset_questions = {"questions", "the original's question file for folders of pictures", help, questions_main};
