/* fakeshield merge: adapters are multiplied into the checkpoint they were trained on; a new checkpoint, or a bundle, comes of it. */
#include "cli.h"

static const char help[] = "Usage: fakeshield merge -m DIR --adapter DIR [--adapter DIR] -o OUT [options]\n"
                           "Multiplies adapters into the checkpoint they were trained on: W + alpha / r * B A, rounded to the\n"
                           "checkpoint's type, and all other trained tensors in place of its own. OUT is a checkpoint as the\n"
                           "original lays it out, or with --type a bundle. The base stays as it is; parts without an adapter\n"
                           "are linked into OUT where the disk allows that, else copied. Disk space is checked first, and no\n"
                           "half-written folder is left under its name. To use an adapter, merging is not needed: detect\n"
                           "--adapter DIR does without.\n"
                           "\n"
                           "  -m, --model DIR     checkpoint as downloaded (or FAKESHIELD_MODEL)\n"
                           "      --adapter DIR   what training or peft wrote; at most one for each stage\n"
                           "  -o, --out DIR       where the merged checkpoint or bundle goes\n"
                           "      --type T        a bundle of f32, f16, bf16, q8_0, q4_0, q4_k, or mixed (see: convert)\n"
                           "      --overwrite     write a bundle's files anew that are finished already\n"
                           "      --clip DIR  --sam FILE  --dtg FILE   parts that are not where they are looked for\n"
                           "  -t, --threads N     0 = one per core (default)\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield merge -m weight/fakeshield-v1-22b --adapter trained/adapter -o weight/mine\n";

static void add_options(cli_options *o, cli_settings *s, const char **out, const char **type) {
    cli_add_terminal_options(o, s);
    cli_add_adapter_option(o, s);
    cli_option_add(o, (cli_option){.letter = 'm', .name = "model", .kind = CLI_TEXT, .target = &s->model});
    cli_option_add(o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = out});
    cli_option_add(o, (cli_option){.name = "type", .kind = CLI_TEXT, .target = type});
    cli_option_add(o, (cli_option){.name = "overwrite", .kind = CLI_FLAG, .target = &s->opt.overwrite});
    cli_option_add(o, (cli_option){.name = "clip", .kind = CLI_TEXT, .target = &s->opt.clip_dir});
    cli_option_add(o, (cli_option){.name = "sam", .kind = CLI_TEXT, .target = &s->opt.sam_file});
    cli_option_add(o, (cli_option){.name = "dtg", .kind = CLI_TEXT, .target = &s->opt.dtg_file});
    cli_option_add(o, (cli_option){.letter = 't', .name = "threads", .kind = CLI_INT, .target = &s->opt.threads, .low = 0, .high = 1024});
}

static int merge_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    fs_error err = {0};
    const char *out = NULL, *type = NULL;
    int code = 0;
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    add_options(&o, &s, &out, &type);
    fs_status status = FS_OK;
    if (!cli_begin("merge", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    const char *missing = operands.count ? NULL : !s.opt.n_adapters ? "--adapter DIR" : !out ? "-o OUT" : NULL;
    if (operands.count || missing) {
        if (missing)
            cli_error(&t, "give %s (see: fakeshield merge --help)", missing);
        else
            cli_error(&t, "\"%s\": unexpected; the checkpoint is given with -m, the adapter with --adapter (see: fakeshield merge --help)",
                      operands.items[0]);
        status = FS_E_USAGE;
        goto done;
    }
    const char *model = cli_model_dir("merge", &s);
    if (!model) {
        status = FS_E_USAGE;
        goto done;
    }
    s.opt.callbacks = cli_callbacks(&t, false);
    status = fs_merge(model, out, type, &s.opt, &err);
    cli_term_clear(&t);
    if (status)
        cli_error(&t, "%s", err.message);
    else if (!s.quiet)
        cli_print(&t, "%s: merged. Use it: fakeshield detect -m %s IMAGE\n", out, out);
    if (!status) status = cli_flush(&t);
done:
    cli_list_free(&operands);
    return cli_signal() ? 128 + cli_signal() : (int)status;
}

const cli_command cli_merge = {"merge", "adapters multiplied into their checkpoint", help, merge_main};
