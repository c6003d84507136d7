/* fakeshield explain: stage 1 alone. Writes upstream's records, {"image", "outputs"} in JSON Lines as Python writes them, which upstream's
 * stage 2 and `fakeshield localize --from` read. Records go to FILE.part as they are made, whole lines each, and FILE is put in place at
 * the end: an earlier FILE stays until then. Follows llava/serve/cli.py (--upstream-cli) and llava/eval/model_vqa.py. */
#include "cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char help[] = "Usage: fakeshield explain -m DIR [options] IMAGE...\n"
                           "       fakeshield explain -m DIR [options] --questions FILE\n"
                           "Stage 1 only: the explanation, as the original's JSON Lines {\"image\": ..., \"outputs\": ...}.\n"
                           "\n"
                           "  -m, --model DIR       checkpoint as downloaded (or FAKESHIELD_MODEL); needs DTE-FDM/ and DTG.pth\n"
                           "      --lm FILE --mmproj FILE   a LLaVA 1.5 in llama.cpp's GGUF files instead (or -m their folder)\n"
                           "  -o, --out FILE        where the records go (default: standard output)\n"
                           "      --questions FILE  the original's question file: JSON Lines {\"image\": ..., \"text\": ...}\n"
                           "      --upstream-cli    as the original's one-picture program: the text keeps its leading space,\n"
                           "                        the record has no newline\n"
                           "  -r, --recursive       folders with their subfolders       --list FILE  paths, one a line\n"
                           "Model\n"
                           "      --adapter DIR     what training or peft wrote for stage 1, over the model\n"
                           "      --clip DIR  --dtg FILE    parts that are not where they are looked for\n"
                           "      --domain TAG      aigc, deepfake or photoshop: takes the place of DTG\n"
                           "      --precision P     f32 (default), bf16, f16, or upstream (f16)\n"
                           "  -t, --threads N       0 = one per core, one in all for a small bundle (default)\n"
                           "      --mlock           keep weights in memory     --prefetch   read them ahead in the background\n"
                           "      --exif-both       apply EXIF orientation (the original's stage 1 does not)\n"
                           "      --batch N         explanations written at a time, 1 to 12 (default: up to 8, as memory allows)\n"
                           "      --kv-cache T      earlier tokens as f32, f16, q8_0 (default: f16 with 4- and 8-bit weights)\n"
                           "Text (default: the most likely word, always; results repeat)\n"
                           "      --sample [--temperature T] [--top-k K] [--top-p P]    draw words: 0.2, 50, the checkpoint's\n"
                           "      --seed N          for --sample (default 0)\n"
                           "      --max-new-tokens N    length limit of the explanation (default 1024)\n"
                           "      --question TEXT   instead of the original's detection question\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield explain -m weight/fakeshield-v1-22b -o explained.jsonl photos/\n";

typedef struct explain_run {
    cli_settings s;
    cli_term term;
    const char *out, *questions;
    char *part; /* FILE.part */
    FILE *file; /* FILE.part or stdout */
    bool recursive, upstream_cli;
    cli_list lists;
    cli_inputs inputs;
    cli_list asked; /* with --questions: one per input */
    fs_detector *detector;
    size_t records, failed;
    fs_status first;
} explain_run;

static void failed(explain_run *run, fs_status status) {
    if (!run->failed++) run->first = status;
}

/* A record that is unusable is reported and left out; the others go on. */
static fs_status read_questions(explain_run *run) {
    cli_term *t = &run->term;
    FILE *f = strcmp(run->questions, "-") == 0 ? stdin : fopen(run->questions, "r");
    if (!f) {
        fs_status status = errno == ENOENT ? FS_E_NOT_FOUND : FS_E_IO;
        cli_error(t, "%s: cannot read this question file: %s", run->questions, strerror(errno));
        return status;
    }
    char *line;
    fs_status status = FS_OK;
    for (size_t number = 1; cli_read_line(t, f, run->questions, &line, &status); number++) {
        fs_error err = {0};
        char *image = NULL, *text = NULL;
        if (strspn(line, " \t") == strlen(line)) {
            free(line);
            continue;
        }
        fs_status bad = fs_record_parse(line, "text", &image, &text, &err);
        if (bad)
            cli_error(t, "%s:%zu: %s", run->questions, number, err.message);
        else if (!*image || !*text)
            cli_error(t, "%s:%zu: a question record needs \"image\" and \"text\"", run->questions, number), bad = FS_E_FORMAT;
        if (bad)
            failed(run, bad), run->inputs.missing++;
        else
            cli_inputs_add(&run->inputs, image), cli_list_add(&run->asked, text);
        fs_string_free(image), fs_string_free(text);
        free(line);
    }
    if (f != stdin) fclose(f);
    return status;
}

static fs_status write_error(explain_run *run) {
    cli_error(&run->term, "%s: writing failed: %s", run->part ? run->part : "standard output", strerror(errno));
    return FS_E_IO;
}

static fs_status put_record(explain_run *run, const fs_result *r) {
    fs_error err = {0};
    char *line = NULL;
    fs_status status = fs_result_to_record(r, &line, &err);
    if (status) {
        cli_report_failure(&run->term, fs_result_image(r), &err);
        return status;
    }
    cli_term_clear(&run->term);
    if (fprintf(run->file, "%s%s", line, run->upstream_cli ? "" : "\n") < 0 || fflush(run->file) != 0)
        status = write_error(run);
    else
        run->records++;
    fs_string_free(line);
    return status;
}

static fs_status explanation_shown(void *user, size_t i, fs_result *r) {
    explain_run *run = user;
    cli_term *t = &run->term;
    const bool report = run->part && !run->s.quiet;
    if (report) cli_report_verdict(t, r), cli_report_warnings(t, r), printf("\n");
    if (!report) /* stdout belongs to the records */
        for (size_t k = 0; k < fs_result_warning_count(r); k++)
            cli_note(t, "%s: warning: %s", run->inputs.items[i].path, fs_result_warning(r, k));
    fs_status status = put_record(run, r);
    if (status)
        failed(run, status);
    else if (report)
        status = cli_flush(t);
    return status;
}

static void explanation_failed(void *user, size_t i, fs_status status) {
    (void)i;
    failed(user, status);
}

/* FILE.part becomes FILE. Called after an interruption too: the records that are there are whole. */
static fs_status put_in_place(explain_run *run) {
    fs_status status = FS_OK;
    if (!run->part || !run->file) return FS_OK;
    if (fflush(run->file) != 0 || (fsync(fileno(run->file)) != 0 && errno != EINVAL && errno != EROFS)) status = write_error(run);
    if (fclose(run->file) != 0 && !status) status = write_error(run);
    run->file = NULL;
    if (status || !run->records)
        unlink(run->part);
    else if (rename(run->part, run->out) != 0)
        status = write_error(run);
    if (!status && run->records && !run->s.quiet)
        cli_print(&run->term, "%zu record%s in %s\n", run->records, run->records == 1 ? "" : "s", run->out);
    return status;
}

static fs_status prepare(explain_run *run, const cli_list *operands) {
    cli_term *t = &run->term;
    fs_status status;
    if (run->questions && (operands->count || run->lists.count)) {
        cli_error(t, "--questions names the pictures itself; give no others beside it");
        return FS_E_USAGE;
    }
    if (!run->questions && !operands->count && !run->lists.count) {
        cli_error(t, "no picture given (see: fakeshield explain --help)");
        return FS_E_USAGE;
    }
    status = run->questions ? read_questions(run) : cli_inputs_find(t, operands, &run->lists, run->recursive, &run->inputs);
    if (status) return status;
    if (!run->inputs.count) {
        if (run->questions && !run->failed) cli_error(t, "%s: no question in this file", run->questions);
        return run->failed ? run->first : run->inputs.missing ? run->inputs.first_error : FS_E_FORMAT;
    }
    if (run->upstream_cli && run->inputs.count > 1) {
        cli_error(t, "--upstream-cli writes one record, but there are %zu pictures", run->inputs.count);
        return FS_E_USAGE;
    }
    const char *dir = cli_model_dir("explain", &run->s);
    if (!dir) return FS_E_USAGE;
    fs_error err = {0};
    run->s.opt.trim_text = !run->upstream_cli;
    run->s.opt.callbacks = cli_callbacks(t, run->out && !run->s.quiet);
    if (!(status = fs_detector_create(dir, &run->s.opt, &run->detector, &err)) && !(status = fs_detector_check(run->detector, 1, &err)))
        status = fs_detector_load(run->detector, 1, &err);
    if (status) {
        cli_report_failure(t, NULL, &err);
        return status;
    }
    run->file = stdout;
    if (!run->out) return FS_OK;
    run->part = cli_format("%s.part", run->out);
    run->file = fopen(run->part, "w");
    return run->file ? FS_OK : write_error(run);
}

static int explain_main(int argc, char **argv) {
    explain_run run = {0};
    cli_options o = {0};
    cli_list operands = {0};
    cli_settings_init(&run.s);
    cli_term_init(&run.term, false, false, 0);
    cli_add_terminal_options(&o, &run.s);
    cli_add_model_options(&o, &run.s);
    cli_add_adapter_option(&o, &run.s);
    cli_add_stage1_options(&o, &run.s);
    cli_option_add(&o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &run.out});
    cli_option_add(&o, (cli_option){.name = "questions", .kind = CLI_TEXT, .target = &run.questions});
    cli_option_add(&o, (cli_option){.name = "upstream-cli", .kind = CLI_FLAG, .target = &run.upstream_cli});
    cli_option_add(&o, (cli_option){.letter = 'r', .name = "recursive", .kind = CLI_FLAG, .target = &run.recursive});
    cli_option_add(&o, (cli_option){.name = "list", .kind = CLI_TEXTS, .target = &run.lists});
    int code = 0;
    if (!cli_begin("explain", help, &o, argc, argv, &run.s, &run.term, &operands, &code)) goto done;
    fs_status status = prepare(&run, &operands);
    if (status) {
        code = cli_signal() ? 128 + cli_signal() : (int)status;
        goto done;
    }
    cli_term_phase(&run.term, run.inputs.count);
    const cli_stage1 stage1 = {.term = &run.term, .detector = run.detector, .inputs = &run.inputs, .questions = run.questions ? &run.asked : NULL,
                               .batch = run.s.opt.batch, .report = run.part && !run.s.quiet, .shown = explanation_shown, .failed = explanation_failed, .user = &run};
    status = cli_stage1_run(&stage1);
    fs_status placed = put_in_place(&run);
    if (!status) status = placed;
    if (cli_signal()) cli_error(&run.term, "interrupted after %zu of %zu records", run.records, run.inputs.count);
    fs_status flushed = cli_flush(&run.term);
    if (!status) status = flushed;
    size_t lost = run.questions ? run.failed : run.failed + run.inputs.missing;
    if (status && !cli_signal())
        code = (int)status;
    else
        code = cli_exit_code(run.inputs.count + run.inputs.missing, lost, run.failed ? run.first : run.inputs.first_error);
done:
    if (run.part && run.file) fclose(run.file), unlink(run.part);
    free(run.part);
    fs_detector_free(run.detector);
    cli_inputs_free(&run.inputs);
    cli_list_free(&run.lists), cli_list_free(&run.asked), cli_list_free(&operands);
    return code;
}

const cli_command cli_explain = {"explain", "stage 1 only: the original's records of verdict and explanation", help, explain_main};
