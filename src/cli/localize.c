/* fakeshield localize: stage 2 alone, from stage 1's records or from a description given by hand. A record that is no JSON, or whose
 * picture fails, is reported and the next one goes on; a text with the short-cut sentence gets no mask, and the two lines that the
 * original prints then. Follows MFLM/cli_demo.py (--prompt demo) and MFLM/test.py (--prompt test). */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const char help[] = "Usage: fakeshield localize -m DIR [options] --from FILE\n"
                           "       fakeshield localize -m DIR [options] --text TEXT [--box x0,y0,x1,y1] IMAGE\n"
                           "Stage 2 only: masks from stage 1's records (see: fakeshield explain) or from a description.\n"
                           "\n"
                           "  -m, --model DIR       checkpoint as downloaded (or FAKESHIELD_MODEL); needs MFLM/\n"
                           "  -o, --out DIR         where results go (default: fakeshield-out)\n"
                           "      --from FILE       JSON Lines {\"image\": ..., \"outputs\": ...}, - for standard input\n"
                           "      --first           only FILE's first record, as the original's demo\n"
                           "      --text TEXT       the description\n"
                           "      --box B           region x0,y0,x1,y1 in pixels; once for every <bbox> in TEXT\n"
                           "      --upstream-names  masks only, as the original saves them: DIR/<name of the picture>, in the\n"
                           "                        picture's format (JPEG masks are lossy), three channels with --prompt demo\n"
                           "      --json            one JSON object per picture on standard output instead of the report\n"
                           "      --no-times        leave stage times out of the JSON       --soft-mask  also <name>_soft.png\n"
                           "Model\n"
                           "      --adapter DIR     what training or peft wrote for stage 2, over the model\n"
                           "      --clip DIR  --sam FILE    parts that are not where they are looked for\n"
                           "      --precision P     f32 (default), bf16, f16, or upstream (bf16)\n"
                           "  -t, --threads N       0 = one per core, one in all for a small bundle (default)\n"
                           "      --mlock           keep weights in memory     --prefetch   read them ahead in the background\n"
                           "      --prompt STYLE    test (default, the text wrapped as trained) or demo (bare)\n"
                           "      --question-index N    which of the three questions: 0 (default), 1, 2, or -1 = by --seed N\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield localize -m weight/fakeshield-v1-22b --from explained.jsonl -o masks\n";

typedef struct localize_run {
    cli_settings s;
    cli_term term;
    const char *out, *from, *text;
    bool made; /* the folder */
    bool first_only, upstream_names, json, no_times, soft;
    cli_list box_words, texts; /* texts: one per input */
    float *boxes;              /* [box_words.count][4] */
    cli_inputs inputs;
    fs_detector *detector;
    size_t failed;
    fs_status first;
} localize_run;

static void failed(localize_run *run, fs_status status) {
    if (!run->failed++) run->first = status;
}

static fs_status parse_boxes(localize_run *run) {
    size_t n = run->box_words.count;
    run->boxes = n ? cli_alloc(n, 4 * sizeof *run->boxes) : NULL;
    for (size_t i = 0; i < n; i++) {
        const char *word = run->box_words.items[i];
        char *copy = cli_format("%s", word), *at = copy;
        double v[4];
        int k = 0;
        for (char *part; k < 4 && (part = strsep(&at, ",")); k++)
            if (!cli_parse_real(part, &v[k])) break;
        bool ok = k == 4 && !at && v[0] >= 0 && v[1] >= 0 && v[2] > v[0] && v[3] > v[1] && v[2] <= 1e6 && v[3] <= 1e6;
        free(copy);
        if (!ok) {
            cli_error(&run->term, "--box: \"%s\" is not x0,y0,x1,y1 in pixels with x0 < x1 and y0 < y1", word);
            return FS_E_USAGE;
        }
        for (k = 0; k < 4; k++) run->boxes[4 * i + (size_t)k] = (float)v[k];
    }
    return FS_OK;
}

static fs_status read_records(localize_run *run) {
    cli_term *t = &run->term;
    FILE *f = strcmp(run->from, "-") == 0 ? stdin : fopen(run->from, "r");
    if (!f) {
        fs_status status = errno == ENOENT ? FS_E_NOT_FOUND : FS_E_IO;
        cli_error(t, "%s: cannot read these records: %s", run->from, strerror(errno));
        return status;
    }
    char *line;
    fs_status status = FS_OK;
    for (size_t number = 1; cli_read_line(t, f, run->from, &line, &status); number++) {
        fs_error err = {0};
        char *image = NULL, *text = NULL;
        fs_status bad = FS_OK;
        bool empty = strspn(line, " \t") == strlen(line);
        if (!empty && (bad = fs_record_parse(line, "outputs", &image, &text, &err)))
            cli_error(t, "%s:%zu: %s", run->from, number, err.message);
        else if (!empty && !*image)
            cli_error(t, "%s:%zu: the record names no image", run->from, number), bad = FS_E_FORMAT;
        if (bad)
            failed(run, bad), run->inputs.missing++;
        else if (!empty)
            cli_inputs_add(&run->inputs, image), cli_list_add(&run->texts, text);
        fs_string_free(image), fs_string_free(text);
        free(line);
        if (run->first_only && !empty) break;
    }
    if (f != stdin) fclose(f);
    return status;
}

/* The paths of picture i: upstream's single mask file, or ours. */
static cli_paths paths_of(localize_run *run, size_t i) {
    if (!run->upstream_names) return cli_paths_make(run->out, run->inputs.items[i].name, run->soft);
    const char *path = run->inputs.items[i].path, *slash = strrchr(path, '/');
    return (cli_paths){.mask = cli_path(run->out, slash ? slash + 1 : path, "")};
}

static fs_status write_files(localize_run *run, const fs_result *r, const cli_paths *p) {
    fs_status status;
    if (!run->upstream_names) {
        status = cli_write_pictures(&run->term, r, p);
        return status ? status : cli_write_json(&run->term, r, p, !run->no_times);
    }
    fs_error err = {0};
    if (!fs_result_mask(r)) return FS_OK;
    if (cli_exists(p->mask)) cli_note(&run->term, "note: %s is overwritten", p->mask);
    status = fs_result_write_upstream_mask(r, p->mask, run->s.opt.prompt_style == FS_PROMPT_DEMO, &err);
    if (status) cli_report_failure(&run->term, fs_result_image(r), &err);
    return status;
}

static fs_status report(localize_run *run, const fs_result *r, const cli_paths *p, size_t i) {
    cli_term *t = &run->term;
    if (run->json) return cli_print_json(t, r, p, !run->no_times);
    if (run->s.quiet) return cli_report_line(t, r), cli_flush(t);
    if (fs_result_mask_status(r) == FS_MASK_AUTHENTIC) {
        if (run->inputs.count > 1) cli_report_head(t, run->inputs.items[i].path, i + 1, run->inputs.count);
        printf("The image has not been tampered with.\nNo mask generated.\n");
    } else {
        cli_report_head(t, run->inputs.items[i].path, i + 1, run->inputs.count);
        cli_report_mask(t, r);
        if (run->upstream_names)
            cli_print(t, "  files      %s\n", p->mask);
        else
            cli_report_files(t, r, p);
    }
    cli_report_warnings(t, r);
    printf("\n");
    return cli_flush(t);
}

static fs_status localize_one(localize_run *run, size_t i) {
    cli_term *t = &run->term;
    const char *path = run->inputs.items[i].path;
    fs_result *r = NULL;
    fs_error err = {0};
    cli_term_picture(t, path);
    /* an "authentic" text needs no weights, so loading is left to the library; what it says of the weights ends the run */
    fs_status status = fs_localize_text(run->detector, path, run->texts.items[i], run->boxes, run->box_words.count, &r, &err);
    cli_term_clear(t);
    if (status) {
        if (status == FS_E_CANCELLED || cli_signal()) return FS_E_CANCELLED;
        cli_report_failure(t, path, &err);
        failed(run, status);
        bool more = i + 1 < run->inputs.count;
        return more && fs_detector_load(run->detector, 2, NULL) ? status : FS_OK;
    }
    cli_paths p = paths_of(run, i);
    if (!(status = write_files(run, r, &p))) status = report(run, r, &p, i);
    /* a format that cannot be written (--upstream-names on x.webp) is this picture's trouble; a full disk is everybody's */
    if (status) failed(run, status);
    if (status == FS_E_UNSUPPORTED) status = FS_OK;
    cli_paths_free(&p);
    fs_result_free(r);
    return status;
}

static fs_status prepare(localize_run *run, const cli_list *operands) {
    static const char *const ours[] = {".json", "_mask.png", "_overlay.png", "_soft.png", NULL};
    cli_term *t = &run->term;
    fs_status status;
    const char *wrong = NULL;
    if (!run->from == !run->text)
        wrong = "give either --from FILE or --text TEXT with one IMAGE";
    else if (run->from && operands->count)
        wrong = "--from names the pictures itself; give no others beside it";
    else if (run->text && operands->count != 1)
        wrong = "--text describes one picture; give exactly one IMAGE";
    else if (run->from && run->box_words.count)
        wrong = "--box goes with --text";
    else if (run->first_only && !run->from)
        wrong = "--first goes with --from";
    else if (run->upstream_names && run->soft)
        wrong = "--upstream-names and --soft-mask contradict each other";
    if (wrong) {
        cli_error(t, "%s (see: fakeshield localize --help)", wrong);
        return FS_E_USAGE;
    }
    if ((status = parse_boxes(run))) return status;
    if (run->from)
        status = read_records(run);
    else
        cli_inputs_add(&run->inputs, operands->items[0]), cli_list_add(&run->texts, run->text);
    if (status) return status;
    if (!run->inputs.count) {
        if (!run->failed) cli_error(t, "%s: no record in this file", run->from);
        return run->failed ? run->first : FS_E_FORMAT;
    }
    cli_inputs_name(t, &run->inputs);
    if (!run->upstream_names && (status = cli_inputs_guard(t, &run->inputs, run->out, ours))) return status;
    for (size_t i = 0; run->upstream_names && i < run->inputs.count; i++) { /* DIR/<basename> must not be the picture itself */
        cli_inputs one = {.items = &run->inputs.items[i], .count = 1};
        cli_input named = {.path = one.items->path,
                           .name = strrchr(one.items->path, '/') ? strrchr(one.items->path, '/') + 1 : one.items->path};
        one.items = &named;
        if ((status = cli_inputs_guard(t, &one, run->out, (const char *const[]){"", NULL}))) return status;
    }
    if ((status = cli_folder_ready(t, run->out, &run->made))) return status;
    const char *dir = cli_model_dir("localize", &run->s);
    if (!dir) return FS_E_USAGE;
    fs_error err = {0};
    run->s.opt.callbacks = cli_callbacks(t, false);
    if (!(status = fs_detector_create(dir, &run->s.opt, &run->detector, &err))) status = fs_detector_check(run->detector, 2, &err);
    if (status) cli_report_failure(t, NULL, &err);
    return status;
}

static void add_options(cli_options *o, localize_run *run) {
    cli_add_terminal_options(o, &run->s);
    cli_add_model_options(o, &run->s);
    cli_add_adapter_option(o, &run->s);
    cli_add_stage2_options(o, &run->s);
    cli_option_add(o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &run->out});
    cli_option_add(o, (cli_option){.name = "from", .kind = CLI_TEXT, .target = &run->from});
    cli_option_add(o, (cli_option){.name = "first", .kind = CLI_FLAG, .target = &run->first_only});
    cli_option_add(o, (cli_option){.name = "text", .kind = CLI_TEXT, .target = &run->text});
    cli_option_add(o, (cli_option){.name = "box", .kind = CLI_TEXTS, .target = &run->box_words});
    cli_option_add(o, (cli_option){.name = "upstream-names", .kind = CLI_FLAG, .target = &run->upstream_names});
    cli_option_add(o, (cli_option){.name = "json", .kind = CLI_FLAG, .target = &run->json});
    cli_option_add(o, (cli_option){.name = "no-times", .kind = CLI_FLAG, .target = &run->no_times});
    cli_option_add(o, (cli_option){.name = "soft-mask", .kind = CLI_FLAG, .target = &run->soft});
}

static int localize_main(int argc, char **argv) {
    localize_run run = {.out = "fakeshield-out"};
    cli_options o = {0};
    cli_list operands = {0};
    cli_settings_init(&run.s);
    cli_term_init(&run.term, false, false, 0);
    add_options(&o, &run);
    int code = 0;
    if (!cli_begin("localize", help, &o, argc, argv, &run.s, &run.term, &operands, &code)) goto done;
    fs_status status = prepare(&run, &operands);
    if (status) {
        code = cli_signal() ? 128 + cli_signal() : (int)status;
        goto done;
    }
    cli_term_phase(&run.term, run.inputs.count);
    for (size_t i = 0; i < run.inputs.count && !status; i++) status = cli_signal() ? FS_E_CANCELLED : localize_one(&run, i);
    if (cli_signal()) cli_error(&run.term, "interrupted; nothing is half-written");
    fs_status flushed = cli_flush(&run.term);
    if (!status) status = flushed;
    if (status && !cli_signal())
        code = (int)status;
    else
        code = cli_exit_code(run.inputs.count + run.inputs.missing, run.failed, run.first);
done:
    cli_folder_leave(run.out, run.made);
    fs_detector_free(run.detector);
    free(run.boxes);
    cli_inputs_free(&run.inputs);
    cli_list_free(&run.box_words), cli_list_free(&run.texts), cli_list_free(&operands);
    return code;
}

const cli_command cli_localize = {"localize", "stage 2 only: masks from such records or from a description", help, localize_main};
