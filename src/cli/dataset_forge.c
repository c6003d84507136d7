/* fakeshield dataset forge: forgeries with exact masks and texts, from authentic photos. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char help[] = "Usage: fakeshield dataset forge [options] -o DIR PHOTO|FOLDER...\n"
                           "Makes tampered pictures with exact masks and descriptions, and authentic ones, from photos. Object\n"
                           "masks beside the photos are used (docs/forge.md). The same seed gives the same bytes. Stopped, it\n"
                           "goes on when run again. Both kinds of pictures get the same post-processing.\n"
                           "\n"
                           "  -o, --out DIR        folder for images, masks, JSON files and the manifest\n"
                           "  -n, --count N        pictures in all (default 100)\n"
                           "      --seed N         another set (default 0)\n"
                           "      --size N[-M]     longer side of the pictures in pixels (default 256-1024)\n"
                           "      --square         square pictures\n"
                           "      --types LIST     splice, copy-move, removal, color, blur, resample, with weights if wanted:\n"
                           "                       splice=3,removal=1\n"
                           "      --authentic P    share of authentic pictures, 0 to 1 (default 0.5)\n"
                           "      --pairs          beside every forgery the same picture untouched, through the same chain\n"
                           "      --mirror         half of the photos mirrored, left to right, before anything is done\n"
                           "      --vary           once edited, turned or mirrored in one of eight ways, in other colours\n"
                           "      --val P  --test P   share of photos and pictures for validation and test (default 0.1 each)\n"
                           "      --format F       jpg (default) or png\n"
                           "      --no-chain       no post-processing (PNG): the edits alone; --clean P: for this share of them\n"
                           "      --texts FILE     another grammar for the texts\n"
                           "      --cache MB       memory for decoded photos (default 1024)\n"
                           "      --overwrite      a folder made with other settings is made anew\n"
                           "  -t, --threads N      0 = one per core (default)\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield dataset forge --count 1000 --size 512 -o data photos/\n";

static bool parse_format(const char *value, void *target) {
    return fs_forge_format_from_name(value, target);
}

static void add_options(cli_options *o, fs_forge_options *opt, cli_size_range *size, const char **out, const char **types, int *count, int *cache) {
    cli_option_add(o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = out});
    cli_option_add(o, (cli_option){.letter = 'n', .name = "count", .kind = CLI_INT, .target = count, .low = 0, .high = 100000000});
    cli_option_add(o, (cli_option){.name = "seed", .kind = CLI_U64, .target = &opt->seed});
    cli_option_add(o, (cli_option){.name = "size",
                                   .kind = CLI_CHOICE,
                                   .target = size,
                                   .parse = cli_parse_size,
                                   .choices = "the forms N and N-M, from 64 to 4096"});
    cli_option_add(o, (cli_option){.name = "square", .kind = CLI_FLAG, .target = &opt->square});
    cli_option_add(o, (cli_option){.name = "types", .kind = CLI_TEXT, .target = types});
    cli_option_add(o, (cli_option){.name = "authentic", .kind = CLI_REAL, .target = &opt->authentic, .low = 0, .high = 1});
    cli_option_add(o, (cli_option){.name = "pairs", .kind = CLI_FLAG, .target = &opt->pairs});
    cli_option_add(o, (cli_option){.name = "mirror", .kind = CLI_FLAG, .target = &opt->mirror});
    cli_option_add(o, (cli_option){.name = "val", .kind = CLI_REAL, .target = &opt->val, .low = 0, .high = 1});
    cli_option_add(o, (cli_option){.name = "test", .kind = CLI_REAL, .target = &opt->test, .low = 0, .high = 1});
    cli_option_add(
        o, (cli_option){.name = "format", .kind = CLI_CHOICE, .target = &opt->format, .parse = parse_format, .choices = "jpg, png"});
    cli_option_add(o, (cli_option){.name = "vary", .kind = CLI_FLAG, .target = &opt->vary});
    cli_option_add(o, (cli_option){.name = "no-chain", .kind = CLI_FLAG, .target = &opt->no_chain});
    cli_option_add(o, (cli_option){.name = "clean", .kind = CLI_REAL, .target = &opt->clean, .low = 0, .high = 1});
    cli_option_add(o, (cli_option){.name = "texts", .kind = CLI_TEXT, .target = &opt->texts_file});
    cli_option_add(o, (cli_option){.name = "cache", .kind = CLI_INT, .target = cache, .low = 1, .high = 1 << 20});
    cli_option_add(o, (cli_option){.name = "overwrite", .kind = CLI_FLAG, .target = &opt->overwrite});
    cli_option_add(o, (cli_option){.letter = 't', .name = "threads", .kind = CLI_INT, .target = &opt->threads, .low = 0, .high = 1024});
}

static int forge_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    fs_forge_options opt = fs_forge_options_defaults();
    cli_size_range size = {&opt.size_min, &opt.size_max};
    const char *out = NULL, *types = NULL;
    int count = (int)opt.count, cache = (int)(opt.cache_bytes >> 20), code = 0;
    fs_error err = {0};
    fs_status status = FS_OK;
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    add_options(&o, &opt, &size, &out, &types, &count, &cache);
    if (!cli_begin("dataset forge", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (!operands.count || !out) {
        cli_error(&t, "give -o DIR and the photos or their folders (see: fakeshield dataset forge --help)");
        status = FS_E_USAGE;
        goto done;
    }
    opt.count = count;
    opt.cache_bytes = (int64_t)cache << 20;
    opt.callbacks = cli_callbacks(&t, false);
    if (types) status = fs_forge_types_parse(types, opt.weight, &err);
    if (!status) status = fs_forge((const char *const *)operands.items, operands.count, out, &opt, &err);
    cli_term_clear(&t);
    if (status)
        cli_error(&t, "%s", err.message);
    else if (!s.quiet)
        cli_print(&t, "%s: %d pictures, with manifest.csv and manifest.jsonl\n", out, count);
    if (!status) status = cli_flush(&t);
done:
    cli_list_free(&operands);
    return cli_signal() ? 128 + cli_signal() : (int)status;
}

const cli_command cli_dataset_forge = {"forge", "tampered pictures with exact masks and texts, from photos", help, forge_main};
