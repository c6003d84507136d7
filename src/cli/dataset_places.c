/* fakeshield dataset places: where the masks of a data set lie, as a picture. */
#include "cli.h"

static const char help[] = "Usage: fakeshield dataset places [options] -o FILE.png DATA\n"
                           "Draws where in the picture the edits of a data set are: the mean of its masks, white where most\n"
                           "are. DATA: <type>/<set>/{image,mask}/, or a type or set of it. Given as the answer for every\n"
                           "picture of another set (eval --maps FILE.png) it is what a localizer has to beat.\n"
                           "\n"
                           "  -o, --out FILE        where it goes\n"
                           "      --sets SPEC       \"photoshop|train;aigc|train\" instead of all there are\n"
                           "      --side N          cells across and down (default 128)\n"
                           "      --invert-masks    black is tampered in the masks (DSO-1 as published)\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield dataset places --sets 'photoshop|train' -o places.png data\n"
                           "         fakeshield eval data --sets 'photoshop|test' --maps places.png -o baseline\n";

static int places_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    fs_dataset_places_options opt = fs_dataset_places_options_defaults();
    const char *out = NULL;
    int code = 0;
    size_t count = 0;
    double most = 0;
    fs_error err = {0};
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_option_add(&o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &out});
    cli_option_add(&o, (cli_option){.name = "sets", .kind = CLI_TEXT, .target = &opt.sets});
    cli_option_add(&o, (cli_option){.name = "side", .kind = CLI_INT, .target = &opt.side, .low = 1, .high = 4096});
    cli_option_add(&o, (cli_option){.name = "invert-masks", .kind = CLI_FLAG, .target = &opt.invert_masks});
    fs_status status = FS_OK;
    if (!cli_begin("dataset places", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (operands.count != 1 || !out) {
        cli_error(&t, "give one data set and -o FILE.png (see: fakeshield dataset places --help)");
        status = FS_E_USAGE;
        goto done;
    }
    opt.count = &count;
    opt.most = &most;
    opt.callbacks = cli_callbacks(&t, false);
    status = fs_dataset_places(operands.items[0], out, &opt, &err);
    cli_term_clear(&t);
    if (status)
        cli_error(&t, "%s", err.message);
    else if (!s.quiet)
        cli_print(&t, "%s: the mean of %zu masks; white is %.1f %% of them\n", out, count, 100 * most);
    if (!status) status = cli_flush(&t);
done:
    cli_list_free(&operands);
    return (int)status;
}

const cli_command cli_dataset_places = {"places", "where the masks of a data set lie, as a picture", help, places_main};
