/* fakeshield: finds the command and hands over. One file per command; what they share is in cli.h. */
#include "cli.h"

#include <string.h>

static const cli_command *const commands[] = {&cli_detect, &cli_explain,  &cli_localize, &cli_info,  &cli_convert, &cli_requantize, &cli_verify,
                                            &cli_merge,  &cli_pull,     &cli_dataset,  &cli_train, &cli_eval, &cli_calibrate, &cli_synth,   &cli_bench};
enum { COMMANDS = sizeof commands / sizeof *commands };

static int main_help(void) {
    printf("Usage: fakeshield COMMAND [options] ...\n"
           "Says of pictures whether they were tampered with, why, and where. Everything runs on this machine.\n"
           "\n");
    for (int i = 0; i < COMMANDS; i++) printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
    printf("  %-10s %s\n  %-10s %s\n", "version", "version of the program", "help", "this text, or with a command's name that command's");
    printf("\n"
           "Exit codes: 0 done, 1 some pictures failed, 2 wrong usage, 3 not found, 4 reading or writing failed,\n"
           "5 broken file, 6 unsupported, 7 over a limit, 8 weights do not fit, 9 out of memory,\n"
           "10 not a number, 12 internal error, 130 interrupted.\n"
           "\n"
           "Example: fakeshield detect -m weight/fakeshield-v1-22b photo.jpg\n"
           "Help on a command: fakeshield detect --help\n");
    cli_term t;
    cli_term_init(&t, false, false, 0);
    return (int)cli_flush(&t);
}

static int main_version(void) {
    printf("fakeshield %s\n", fs_version());
    cli_term t;
    cli_term_init(&t, false, false, 0);
    return (int)cli_flush(&t);
}

static const cli_command *find_command(const char *name) {
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0) return commands[i];
    return NULL;
}

static int unknown_command(const char *word) {
    const char *names[COMMANDS + 2] = {"version", "help"};
    for (int i = 0; i < COMMANDS; i++) names[i + 2] = commands[i]->name;
    const char *near = cli_nearest(word, names, COMMANDS + 2);
    if (near)
        cli_error(NULL, "unknown command \"%s\"; did you mean %s?", word, near);
    else if (fs_is_picture_name(word))
        cli_error(NULL, "\"%s\" is no command; to examine a picture: fakeshield detect -m DIR %s", word, word);
    else
        cli_error(NULL, "unknown command \"%s\" (see: fakeshield --help)", word);
    return FS_E_USAGE;
}

int main(int argc, char **argv) {
    const char *word = argc > 1 ? argv[1] : NULL;
    if (!word) {
        cli_error(NULL, "no command given (see: fakeshield --help)");
        return FS_E_USAGE;
    }
    if (strcmp(word, "version") == 0 || strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0) return main_version();
    if (strcmp(word, "help") == 0 || strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) {
        if (argc < 3) return main_help();
        const cli_command *c = find_command(argv[2]);
        if (!c) return unknown_command(argv[2]);
        char *args[] = {argv[2], (char[]){"--help"}, NULL};
        return c->run(2, args);
    }
    const cli_command *c = find_command(word);
    return c ? c->run(argc - 1, argv + 1) : unknown_command(word);
}
