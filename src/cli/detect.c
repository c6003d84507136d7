/* fakeshield detect: both stages on every picture. Stage 1 runs over all pictures first, then stage 2 over those that want a mask, so that
 * each stage is loaded once and never both. After stage 1 a picture's JSON is saved with its mask pending: nothing that took long is lost,
 * and --resume goes on from there. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char help[] = "Usage: fakeshield detect -m DIR [options] IMAGE...\n"
                           "Says of each picture whether it was tampered with, why, and where. IMAGE: files, folders, quoted\n"
                           "globs, or - for a list on standard input. Writes <name>.json, <name>_mask.png, <name>_overlay.png.\n"
                           "\n"
                           "  -m, --model DIR       checkpoint as downloaded, or a bundle (see convert); or FAKESHIELD_MODEL;\n"
                           "                        without, the small demonstration model, where it came with the program\n"
                           "  -o, --out DIR         where results go (default: fakeshield-out)   --no-files   print only\n"
                           "  -r, --recursive       folders with their subfolders       --list FILE  paths, one a line\n"
                           "      --resume          keep results that are complete, finish partial ones\n"
                           "      --json            one JSON object per picture on standard output instead of the report\n"
                           "      --no-times        leave stage times out of the JSON, so that it repeats byte for byte\n"
                           "      --soft-mask       also write <name>_soft.png, the mask's probability\n"
                           "      --verdict-only    verdict and score; no explanation, no mask\n"
                           "Model\n"
                           "      --adapter DIR     what training or peft wrote, over the model; at most one for each stage\n"
                           "      --clip DIR  --sam FILE  --dtg FILE     parts that are not where they are looked for\n"
                           "      --precision P     f32 (default), bf16, f16, or upstream (f16 in stage 1, bf16 in stage 2)\n"
                           "  -t, --threads N       0 = one per core, one in all for a small bundle (default)\n"
                           "      --mlock           keep weights in memory     --prefetch   read them ahead in the background\n"
                           "      --keep-stages     keep both stages in memory\n"
                           "      --batch N         explanations written at a time, 1 to 12 (default: up to 8, as memory allows)\n"
                           "      --kv-cache T      earlier tokens as f32, f16, q8_0 (default: f16 with 4- and 8-bit weights)\n"
                           "      --exif-both       apply EXIF orientation in stage 1 too\n"
                           "Text (default: the most likely word, always; results repeat)\n"
                           "      --sample [--temperature T] [--top-k K] [--top-p P]    draw words: 0.2, 50, the checkpoint's\n"
                           "      --seed N          for --sample and --question-index -1 (default 0)\n"
                           "      --max-new-tokens N    length limit of the explanation (default 1024)\n"
                           "      --question TEXT   instead of the original's detection question\n"
                           "      --prompt STYLE    how stage 2 is asked: test (default, as trained) or demo (bare, as the demo)\n"
                           "      --question-index N    which of stage 2's three questions: 0 (default), 1, 2, or -1 = by seed\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield detect -m weight/fakeshield-v1-22b -o results photos/ 'more/*.jpg'\n";

typedef struct job {
    fs_result *result; /* NULL: not yet, or failed */
    cli_paths paths;   /* all NULL with --no-files */
    bool complete;     /* the result needs no stage 2 any more */
    bool old;          /* taken over from an earlier run as it was */
} job;

typedef struct detect_run {
    cli_settings s;
    cli_term term;
    const char *out;
    bool made; /* the folder */
    bool recursive, resume, json, no_files, no_times, soft, report; /* report: the readable one, not --json, not --quiet */
    cli_list lists;
    cli_inputs inputs;
    job *jobs;
    fs_detector *detector;
    char *demo; /* path of the demonstration model, if it is the one used */
    size_t failed, old;
    fs_status first; /* status of the first failure */
    size_t verdicts[3];
} detect_run;

static void failed(detect_run *run, fs_status status) {
    if (!run->failed++) run->first = status;
}

/* Statuses after which going on makes no sense: the disk is full, or the user said stop. */
static bool ends_run(fs_status status) {
    return status == FS_E_CANCELLED || cli_signal() != 0;
}

static bool wants_stage2(const detect_run *run, const fs_result *r) {
    return !run->s.opt.verdict_only && fs_result_mask_status(r) == FS_MASK_NONE;
}

/* An earlier result of this picture, if it fits; its picture files must be there. */
static fs_result *take_up(detect_run *run, const char *path, const job *j) {
    fs_result *r = NULL;
    fs_error err = {0};
    char *json = cli_read_text(j->paths.json);
    if (!json) return NULL;
    if (fs_detector_resume(run->detector, json, path, &r, &err)) r = NULL; /* unreadable: done anew */
    free(json);
    if (!r) return NULL;
    if (isnan(fs_result_score(r))) { /* localize has written it, to somebody's description */
        fs_result_free(r);
        return NULL;
    }
    fs_mask_status mask = fs_result_mask_status(r);
    bool there = cli_exists(j->paths.mask) && cli_exists(j->paths.overlay) && (!j->paths.soft || cli_exists(j->paths.soft));
    if ((mask == FS_MASK_PRESENT || mask == FS_MASK_NO_SEG) && !there) fs_result_free(r), r = NULL;
    return r;
}

/* Is an earlier result of this picture good enough? */
static bool kept(void *user, size_t i) {
    detect_run *run = user;
    job *j = &run->jobs[i];
    if (!run->resume || !(j->result = take_up(run, run->inputs.items[i].path, j))) return false;
    cli_term_skip(&run->term);
    j->complete = !wants_stage2(run, j->result);
    j->old = j->complete;
    if (j->old) run->old++;
    return true;
}

static fs_status explained(void *user, size_t i, fs_result *r) {
    detect_run *run = user;
    job *j = &run->jobs[i];
    fs_status status = FS_OK;
    j->result = r;
    j->complete = !wants_stage2(run, r);
    if (!run->no_files && (status = cli_write_json(&run->term, r, &j->paths, !run->no_times))) failed(run, status);
    return status;
}

static fs_status explanation_shown(void *user, size_t i, fs_result *r) {
    detect_run *run = user;
    (void)i;
    if (!run->report) return FS_OK;
    cli_report_verdict(&run->term, r);
    if (run->inputs.count > 1) printf("\n");
    return cli_flush(&run->term);
}

static void explanation_failed(void *user, size_t i, fs_status status) {
    (void)i;
    failed(user, status);
}

/* Stage 2 on one picture, and its result files. */
static fs_status localize_one(detect_run *run, size_t i) {
    cli_term *t = &run->term;
    job *j = &run->jobs[i];
    const char *path = run->inputs.items[i].path;
    fs_error err = {0};
    cli_term_picture(t, path);
    fs_status status = fs_detector_load(run->detector, 2, &err);
    if (status) {
        cli_report_failure(t, NULL, &err);
        return failed(run, status), status;
    }
    status = fs_localize(run->detector, j->result, &err);
    cli_term_clear(t);
    if (status) {
        if (ends_run(status)) return FS_E_CANCELLED;
        cli_report_failure(t, path, &err);
        failed(run, status);
        fs_result_free(j->result), j->result = NULL;
        return FS_OK;
    }
    if (run->no_files) return FS_OK;
    /* the JSON last: when it says that there is a mask, the mask is there */
    if (!(status = cli_write_pictures(t, j->result, &j->paths))) status = cli_write_json(t, j->result, &j->paths, !run->no_times);
    if (status) failed(run, status);
    return status;
}

/* What is said when a picture is finished. */
static fs_status finish_one(detect_run *run, size_t i) {
    cli_term *t = &run->term;
    job *j = &run->jobs[i];
    run->verdicts[fs_result_verdict(j->result)]++;
    if (run->json) return cli_print_json(t, j->result, &j->paths, !run->no_times);
    if (run->s.quiet) return cli_report_line(t, j->result), cli_flush(t);
    bool several = run->inputs.count > 1;
    if (several || j->old) {
        cli_report_head(t, run->inputs.items[i].path, i + 1, run->inputs.count);
        if (j->old) printf("  kept from an earlier run\n");
        cli_report_verdict(t, j->result);
    }
    if (!run->s.opt.verdict_only) cli_report_mask(t, j->result);
    cli_report_files(t, j->result, &j->paths);
    cli_report_warnings(t, j->result);
    printf("\n");
    return cli_flush(t);
}

static fs_status run_all(detect_run *run) {
    fs_status status = FS_OK;
    size_t wanted = 0;
    cli_term_phase(&run->term, run->inputs.count);
    const cli_stage1 stage1 = {.term = &run->term, .detector = run->detector, .inputs = &run->inputs, .batch = run->s.opt.batch, .report = run->report,
                               .skip = kept, .arrived = explained, .shown = explanation_shown, .failed = explanation_failed, .user = run};
    status = cli_stage1_run(&stage1);
    for (size_t i = 0; i < run->inputs.count; i++) wanted += run->jobs[i].result && !run->jobs[i].complete;
    cli_term_phase(&run->term, wanted);
    for (size_t i = 0; i < run->inputs.count && !status; i++) {
        job *j = &run->jobs[i];
        if (!j->result) continue;
        if (cli_signal())
            status = FS_E_CANCELLED;
        else if (!j->complete)
            status = localize_one(run, i);
        if (!status && j->result) status = finish_one(run, i);
        fs_result_free(j->result), j->result = NULL; /* masks are large */
    }
    return status;
}

static void close_report(detect_run *run, fs_status status) {
    cli_term *t = &run->term;
    size_t n = run->inputs.count, lost = run->failed + run->inputs.missing;
    if (cli_signal()) {
        cli_error(t, "interrupted; nothing is half-written%s", run->no_files ? "" : ", and --resume goes on from here");
        return;
    }
    if (!run->report || status) return;
    if (n + run->inputs.missing > 1) {
        printf("%zu pictures: %zu tampered, %zu authentic, %zu undetermined", n + run->inputs.missing, run->verdicts[FS_VERDICT_TAMPERED],
               run->verdicts[FS_VERDICT_AUTHENTIC], run->verdicts[FS_VERDICT_UNDETERMINED]);
        if (lost) printf(", %zu failed", lost);
        if (run->old) printf(" (%zu kept from an earlier run)", run->old);
        if (run->no_files)
            printf(".\n");
        else
            cli_print(t, ". Results are in %s\n", run->out);
    }
    if (run->verdicts[0] + run->verdicts[1] + run->verdicts[2]) printf("%s\n", cli_caution);
}

static void add_options(cli_options *o, detect_run *run) {
    cli_add_terminal_options(o, &run->s);
    cli_add_model_options(o, &run->s);
    cli_add_adapter_option(o, &run->s);
    cli_add_stage1_options(o, &run->s);
    cli_add_stage2_options(o, &run->s);
    cli_option_add(o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &run->out});
    cli_option_add(o, (cli_option){.letter = 'r', .name = "recursive", .kind = CLI_FLAG, .target = &run->recursive});
    cli_option_add(o, (cli_option){.name = "list", .kind = CLI_TEXTS, .target = &run->lists});
    cli_option_add(o, (cli_option){.name = "resume", .kind = CLI_FLAG, .target = &run->resume});
    cli_option_add(o, (cli_option){.name = "json", .kind = CLI_FLAG, .target = &run->json});
    cli_option_add(o, (cli_option){.name = "no-files", .kind = CLI_FLAG, .target = &run->no_files});
    cli_option_add(o, (cli_option){.name = "no-times", .kind = CLI_FLAG, .target = &run->no_times});
    cli_option_add(o, (cli_option){.name = "soft-mask", .kind = CLI_FLAG, .target = &run->soft});
    cli_option_add(o, (cli_option){.name = "verdict-only", .kind = CLI_FLAG, .target = &run->s.opt.verdict_only});
    cli_option_add(o, (cli_option){.name = "keep-stages", .kind = CLI_FLAG, .target = &run->s.opt.keep_stages});
}

static fs_status check_options(detect_run *run) {
    fs_status status = cli_settings_finish("detect", &run->s);
    const char *clash = !run->no_files ? NULL : run->out ? "--out" : run->resume ? "--resume" : run->soft ? "--soft-mask" : NULL;
    if (!status && clash)
        cli_error(NULL, "--no-files and %s contradict each other (see: fakeshield detect --help)", clash), status = FS_E_USAGE;
    if (!run->out) run->out = "fakeshield-out";
    run->report = !run->json && !run->s.quiet;
    return status;
}

/* Inputs, their names, the folder for results: what can go wrong before anything is loaded. */
static fs_status prepare_inputs(detect_run *run, const cli_list *operands) {
    static const char *const suffixes[] = {".json", "_mask.png", "_overlay.png", "_soft.png", NULL};
    cli_term *t = &run->term;
    if (!operands->count && !run->lists.count) {
        cli_error(t, "no picture given (see: fakeshield detect --help)");
        return FS_E_USAGE;
    }
    fs_status status = cli_inputs_find(t, operands, &run->lists, run->recursive, &run->inputs);
    if (status) return status;
    if (!run->inputs.count) return run->inputs.missing ? run->inputs.first_error : FS_E_NOT_FOUND;
    cli_inputs_name(t, &run->inputs);
    if (run->no_files) return FS_OK;
    if ((status = cli_inputs_guard(t, &run->inputs, run->out, suffixes))) return status;
    return cli_folder_ready(t, run->out, &run->made);
}

/* Whoever did not name the model here and now should know when it is the small one. */
static void say_if_demo(detect_run *run, const char *dir) {
    const char *const variable = getenv("FAKESHIELD_MODEL");
    if (run->demo) {
        cli_note(&run->term, "no model given: this is the small demonstration model, %s. What it says is no evidence; for another: -m DIR or FAKESHIELD_MODEL",
                 run->demo);
    } else if (variable && run->s.model == variable) {
        char *title = fs_model_title(dir);
        if (title && strstr(title, "demonstration"))
            cli_note(&run->term, "FAKESHIELD_MODEL is the small demonstration model, %s. What it says is no evidence; for another: -m DIR", dir);
        fs_string_free(title);
    }
}

static fs_status open_model(detect_run *run) {
    if (!run->s.model && !run->s.opt.lm_file) run->demo = cli_demo_model();
    const char *dir = run->demo ? run->demo : cli_model_dir("detect", &run->s);
    if (!dir) return FS_E_USAGE;
    say_if_demo(run, dir);
    fs_error err = {0};
    run->s.opt.callbacks = cli_callbacks(&run->term, run->report);
    fs_status status = fs_detector_create(dir, &run->s.opt, &run->detector, &err);
    /* what stage 2 lacks is said now and not after hours of stage 1 */
    if (!status) status = fs_detector_check(run->detector, 1, &err);
    if (!status && !run->s.opt.verdict_only) status = fs_detector_check(run->detector, 2, &err);
    if (status) cli_report_failure(&run->term, NULL, &err);
    return status;
}

static int detect_main(int argc, char **argv) {
    detect_run run = {0};
    cli_options o = {0};
    cli_list operands = {0};
    int code;
    cli_settings_init(&run.s);
    cli_term_init(&run.term, false, false, 0);
    add_options(&o, &run);
    fs_status status = cli_parse("detect", &o, argc, argv, &operands);
    if (status || run.s.help) {
        if (!status) fputs(help, stdout), status = cli_flush(&run.term);
        code = (int)status;
        goto done;
    }
    if ((status = check_options(&run))) {
        code = (int)status;
        goto done;
    }
    cli_term_init(&run.term, run.s.no_color, run.s.quiet, run.s.verbose);
    cli_catch_signals();
    if (!(status = prepare_inputs(&run, &operands))) status = open_model(&run);
    if (status) {
        code = cli_signal() ? 128 + cli_signal() : (int)status;
        goto done;
    }
    run.jobs = cli_alloc(run.inputs.count, sizeof *run.jobs);
    if (!run.no_files)
        for (size_t i = 0; i < run.inputs.count; i++) run.jobs[i].paths = cli_paths_make(run.out, run.inputs.items[i].name, run.soft);
    status = run_all(&run);
    close_report(&run, status);
    fs_status flushed = cli_flush(&run.term);
    if (!status) status = flushed;
    if (status && !cli_signal())
        code = (int)status; /* what ended the run */
    else
        code = cli_exit_code(run.inputs.count + run.inputs.missing, run.failed + run.inputs.missing,
                             run.failed ? run.first : run.inputs.first_error);
done:
    cli_folder_leave(run.out, run.made);
    for (size_t i = 0; run.jobs && i < run.inputs.count; i++) fs_result_free(run.jobs[i].result), cli_paths_free(&run.jobs[i].paths);
    free(run.jobs);
    fs_detector_free(run.detector);
    free(run.demo);
    cli_inputs_free(&run.inputs);
    cli_list_free(&run.lists), cli_list_free(&operands);
    return code;
}

const cli_command cli_detect = {"detect", "verdict, explanation and mask of pictures", help, detect_main};
