/* fakeshield convert: a checkpoint as downloaded becomes a bundle of GGUF files. fakeshield requantize: another type of a bundle that is there
 * already. fakeshield verify: are a bundle's bytes what was written? */
#include "cli.h"

#include <string.h>

static const char convert_help[] = "Usage: fakeshield convert [options] CHECKPOINT -o BUNDLE\n"
                                   "Writes the checkpoint as a bundle: dte-fdm.gguf, mflm.gguf and vision.gguf, with smaller weights,\n"
                                   "checksums, and all that is needed to run (detect -m BUNDLE). Reads and writes piece by piece; needs\n"
                                   "little memory. Disk space is checked first, and no half-written file is left under its name.\n"
                                   "Killed or interrupted, it goes on with the next file when run again.\n"
                                   "\n"
                                   "  -o, --out DIR       folder for the three files\n"
                                   "      --type T        f32, f16, bf16, q8_0, q4_0, q4_k, or mixed (default: 4 to 6 bits)\n"
                                   "      --overwrite     write files anew that are finished already\n"
                                   "      --clip DIR  --sam FILE  --dtg FILE   parts that are not where they are looked for\n"
                                   "  -t, --threads N     0 = one per core (default)\n"
                                   "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                                   "\n"
                                   "Example: fakeshield convert weight/fakeshield-v1-22b --type q8_0 -o weight/fakeshield-q8\n";

static const char requantize_help[] = "Usage: fakeshield requantize [options] BUNDLE --type T -o OUT\n"
                                      "Makes a bundle of another, coarser type of one that is there: from f32, f16 or bf16, or from q8_0\n"
                                      "with a little more loss. From an f32 bundle the files are those that convert makes of the\n"
                                      "checkpoint. The source's checksums are compared on the way. Killed or interrupted, it goes on with\n"
                                      "the next file when run again.\n"
                                      "Parts can come from other bundles, as trainings leave them that ran side by side from one start.\n"
                                      "CLIP is BUNDLE's; stages of a bundle with another one are refused.\n"
                                      "\n"
                                      "  -o, --out DIR       folder for the new files\n"
                                      "      --type T        f16, bf16, q8_0, q4_0, q4_k, or mixed (default: 4 to 6 bits)\n"
                                      "      --stage1 DIR    take stage 1 from this bundle: language model and projector\n"
                                      "      --stage2 DIR    take stage 2 from this one: language model, projector, [SEG], SAM\n"
                                      "      --tag DIR       take the domain tag generator from this one\n"
                                      "      --overwrite     write files anew that are finished already\n"
                                      "  -t, --threads N     0 = one per core (default)\n"
                                      "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                                      "\n"
                                      "Example: fakeshield requantize weight/fakeshield-f16 --type q4_k -o weight/fakeshield-q4\n"
                                      "         fakeshield requantize runs/stage1/model --stage2 runs/stage2/model --tag runs/tag/model \\\n"
                                      "             --type q8_0 -o weight/nano\n";

static const char verify_help[] = "Usage: fakeshield verify [options] BUNDLE...\n"
                                  "Compares every tensor of a bundle (its folder, or one of its files) with the checksum that convert\n"
                                  "wrote, and the files with one another. Exit code 0: all is as it was written.\n"
                                  "\n"
                                  "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                                  "\n"
                                  "Example: fakeshield verify weight/fakeshield-q8\n";

/* convert and requantize: one source, one folder for the new files. usage: what to say when either is missing; again: requantize */
static int write_bundle(const char *command, const char *help, const char *usage, bool again, int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    const char *out = NULL, *type = "mixed";
    fs_bundle_parts parts = {0};
    fs_error err = {0};
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_option_add(&o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &out});
    cli_option_add(&o, (cli_option){.name = "type", .kind = CLI_TEXT, .target = &type});
    cli_option_add(&o, (cli_option){.name = "overwrite", .kind = CLI_FLAG, .target = &s.opt.overwrite});
    const struct { const char *name; bool again; const char **target; } places[] = {
        {"clip", false, &s.opt.clip_dir}, {"sam", false, &s.opt.sam_file}, {"dtg", false, &s.opt.dtg_file},
        {"stage1", true, &parts.stage1},  {"stage2", true, &parts.stage2}, {"tag", true, &parts.tag},
    };
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        if (places[i].again == again) cli_option_add(&o, (cli_option){.name = places[i].name, .kind = CLI_TEXT, .target = places[i].target});
    cli_option_add(&o, (cli_option){.letter = 't', .name = "threads", .kind = CLI_INT, .target = &s.opt.threads, .low = 0, .high = 1024});
    int code = 0;
    fs_status status = FS_OK;
    if (!cli_begin(command, help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (operands.count != 1 || !out) {
        cli_error(&t, "give %s (see: fakeshield %s --help)", usage, command);
        status = FS_E_USAGE;
        goto done;
    }
    s.opt.callbacks = cli_callbacks(&t, false);
    if (!again) status = fs_convert(operands.items[0], out, type, &s.opt, &err);
    else if (parts.stage1 || parts.stage2 || parts.tag) status = fs_assemble(operands.items[0], &parts, out, type, &s.opt, &err);
    else status = fs_requantize(operands.items[0], out, type, &s.opt, &err);
    cli_term_clear(&t);
    if (status) cli_error(&t, "%s", err.message);
    else if (!s.quiet) cli_print(&t, "%s: written as %s. Use it: fakeshield detect -m %s IMAGE\n", out, type, out);
    if (!status) status = cli_flush(&t);
done:
    cli_list_free(&operands);
    return cli_signal() ? 128 + cli_signal() : (int)status;
}

static int convert_main(int argc, char **argv) {
    return write_bundle("convert", convert_help, "one checkpoint and -o BUNDLE", false, argc, argv);
}
static int requantize_main(int argc, char **argv) {
    return write_bundle("requantize", requantize_help, "one bundle and -o OUT", true, argc, argv);
}

static int verify_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    fs_status status = FS_OK, first = FS_OK;
    size_t failed = 0;
    int code = 0;
    if (!cli_begin("verify", verify_help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (!operands.count) {
        cli_error(&t, "no bundle given (see: fakeshield verify --help)");
        status = FS_E_USAGE;
        goto done;
    }
    for (size_t i = 0; i < operands.count && !cli_signal(); i++) {
        const fs_callbacks callbacks = cli_callbacks(&t, false);
        fs_error err = {0};
        status = fs_verify(operands.items[i], &callbacks, &err);
        cli_term_clear(&t);
        if (status) {
            cli_report_failure(&t, operands.items[i], &err);
            if (!failed++) first = status;
        } else if (!s.quiet) {
            cli_print(&t, "%s: all tensors are as they were written\n", operands.items[i]);
        }
    }
    status = (fs_status)cli_exit_code(operands.count, failed, first);
    if (!status) status = cli_flush(&t);
done:
    cli_list_free(&operands);
    return cli_signal() ? 128 + cli_signal() : (int)status;
}

const cli_command cli_convert = {"convert", "smaller weights: a checkpoint becomes a bundle of GGUF files", convert_help, convert_main};
const cli_command cli_requantize = {"requantize", "another, coarser type of a bundle", requantize_help, requantize_main};
const cli_command cli_verify = {"verify", "compares a bundle with its checksums", verify_help, verify_main};
