/* fakeshield dataset: a family of commands that make, check and describe data. This file only finds the right one; each stands in its own
 * dataset_*.c. To add one: declare it in cli.h, and name it in the table. */
#include "cli.h"

#include <string.h>

static const cli_command *const commands[] = {&cli_dataset_forge, &cli_dataset_check, &cli_dataset_questions, &cli_dataset_convert,
                                              &cli_dataset_describe, &cli_dataset_places};
enum { COMMANDS = sizeof commands / sizeof *commands };

static const char head[] = "Usage: fakeshield dataset COMMAND [options] ...\n"
                           "Makes, checks and describes data for training and evaluation.\n"
                           "\n";
static const char tail[] = "\n"
                           "Help on a command: fakeshield dataset forge --help\n"
                           "\n"
                           "Example: fakeshield dataset forge --count 1000 -o data photos/\n";

static int dataset_help(void) {
    fputs(head, stdout);
    for (int i = 0; i < COMMANDS; i++) printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fputs(tail, stdout);
    cli_term t;
    cli_term_init(&t, false, false, 0);
    return (int)cli_flush(&t);
}

static int dataset_main(int argc, char **argv) {
    const char *word = argc > 1 ? argv[1] : NULL;
    if (!word) {
        cli_error(NULL, "no command given (see: fakeshield dataset --help)");
        return FS_E_USAGE;
    }
    if (strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) return dataset_help();
    const char *names[COMMANDS];
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(commands[i]->name, word) == 0) return commands[i]->run(argc - 1, argv + 1);
        names[i] = commands[i]->name;
    }
    const char *near = cli_nearest(word, names, COMMANDS);
    if (near)
        cli_error(NULL, "unknown command \"dataset %s\"; did you mean dataset %s?", word, near);
    else
        cli_error(NULL, "unknown command \"dataset %s\" (see: fakeshield dataset --help)", word);
    return FS_E_USAGE;
}

const cli_command cli_dataset = {"dataset", "makes, checks and describes data (dataset --help)", head, dataset_main};
