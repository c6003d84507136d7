/* fakeshield eval: figures of a checkpoint, of results, or of any program's maps over a data set; eval merge joins the parts of a split
 * run; eval compare tests two runs over the same pictures against each other. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char help[] = "Usage: fakeshield eval DATA -m DIR -o OUT [options]               run a checkpoint\n"
                           "       fakeshield eval DATA --results PATH -o OUT                 what detect wrote\n"
                           "       fakeshield eval DATA --upstream FILE --masks DIR -o OUT    what the original wrote\n"
                           "       fakeshield eval DATA --maps DIR|FILE -o OUT                any program's masks or score maps\n"
                           "       fakeshield eval merge PART... -o OUT      fakeshield eval compare RUN_A RUN_B [-o OUT]\n"
                           "Detection, localization and explanation figures under named protocols (docs/evaluation.md), as\n"
                           "report.html, summary.json, images.csv. DATA: <type>/<set>/{image,mask}/, or a type or set of it.\n"
                           "\n"
                           "  -o, --out DIR         where all of it goes           --name TEXT   the run's name in tables\n"
                           "      --sets SPEC       \"photoshop|CASIA1_Tp,CASIA1_Au;aigc|X\" instead of all there are\n"
                           "      --join SPEC       \"CASIA1+=CASIA1_Tp,CASIA1_Au\": one set in tables (default: X_Tp and X_Au)\n"
                           "      --results PATH    folder of detect's results, or JSON Lines (masks elsewhere: --masks DIR)\n"
                           "      --upstream FILE   the original's JSON Lines {\"image\", \"outputs\"}; --masks DIR: its masks\n"
                           "      --maps DIR        PNG of 8 or 16 bits or .npy by the pictures' names   --logits  in .npy\n"
                           "      --maps FILE       one answer for all (dataset places), brought to each picture's size\n"
                           "      --scores FILE     for --maps: NAME,SCORE lines; or --image-score max|mean of the map\n"
                           "      --resize-mask     fit maps of another size to the masks (default: an error)\n"
                           "      --invert-truth    black is tampered in the data's masks (DSO-1 as published)\n"
                           "      --missing P       pictures without an answer: error (default) or exclude\n"
                           "      --nan P           scores that are no number: error (default) or exclude\n"
                           "Explanations\n"
                           "      --references FILE JSON Lines {\"image\", \"outputs\"} (default: lisa_*_gt.json in the data)\n"
                           "      --encoder DIR     sentence encoder of the BERT kind for CSS    --encoder-tokens N  cut there\n"
                           "      --embeddings FILE --reference-embeddings FILE   .npy or JSON Lines instead of --encoder\n"
                           "Intervals and report\n"
                           "      --resamples N     of the bootstrap (default 1000; 0: none)   --level P  0.95   --seed N  0\n"
                           "      --plain           resample without regard to the class\n"
                           "      --gallery N       best and worst cases in the report, each (default 6)     --no-html\n"
                           "      --sheet N         N pictures with truth and answer side by side, in sheet.png (not: compare)\n"
                           "Running a checkpoint (also: most options of detect)\n"
                           "  -m, --model DIR       checkpoint or bundle          --verdict-only  no explanation, no mask\n"
                           "      --text TEXT       stage 2 alone, told TEXT about every picture: localization for itself\n"
                           "      --resume          keep what an earlier run into OUT has finished\n"
                           "      --sweep SPEC      \"jpeg=90,70,50 resize=0.5 blur=1 noise=5\": the same after these\n"
                           "      --shard I/N       every N-th picture, from the I-th; eval merge joins the parts\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield eval dataset -m weight/fakeshield-v1-22b -o casia --sets 'photoshop|CASIA1+'\n";

typedef struct eval_run {
    cli_settings s;
    cli_term term;
    cli_options o;
    cli_list operands;
    fs_eval_options opt;
    const char *results, *upstream, *maps, *shard;
    float level;
    bool plain, no_html;
} eval_run;

static bool parse_policy(const char *value, void *target) {
    return fs_eval_policy_from_name(value, target);
}
static bool parse_image_score(const char *value, void *target) {
    return fs_eval_image_score_from_name(value, target);
}

static void add_text(cli_options *o, const char *name, const char **target) {
    cli_option_add(o, (cli_option){.name = name, .kind = CLI_TEXT, .target = target});
}
static void add_flag(cli_options *o, const char *name, bool *target) {
    cli_option_add(o, (cli_option){.name = name, .kind = CLI_FLAG, .target = target});
}

/* What all three commands take. */
static void add_table_options(eval_run *r) {
    cli_options *o = &r->o;
    cli_option_add(o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &r->opt.out});
    add_text(o, "name", &r->opt.name);
    cli_option_add(o, (cli_option){.name = "resamples", .kind = CLI_INT, .target = &r->opt.resamples, .low = 0, .high = 1000000});
    cli_option_add(o, (cli_option){.name = "level", .kind = CLI_REAL, .target = &r->level, .low = 0.01, .high = 0.9999});
    cli_option_add(o, (cli_option){.name = "gallery", .kind = CLI_INT, .target = &r->opt.gallery, .low = 0, .high = 100});
    add_flag(o, "plain", &r->plain);
    add_flag(o, "no-html", &r->no_html);
}

static void add_run_options(eval_run *r) {
    cli_options *o = &r->o;
    cli_add_model_options(o, &r->s);
    cli_add_stage1_options(o, &r->s);
    cli_add_stage2_options(o, &r->s);
    add_text(o, "sets", &r->opt.sets);
    add_text(o, "join", &r->opt.join);
    add_text(o, "results", &r->results);
    add_text(o, "upstream", &r->upstream);
    add_text(o, "maps", &r->maps);
    add_text(o, "masks", &r->opt.masks);
    add_text(o, "scores", &r->opt.scores);
    add_text(o, "references", &r->opt.references);
    add_text(o, "encoder", &r->opt.encoder);
    add_text(o, "embeddings", &r->opt.embeddings);
    add_text(o, "reference-embeddings", &r->opt.reference_embeddings);
    add_text(o, "sweep", &r->opt.sweep);
    add_text(o, "text", &r->opt.text);
    add_text(o, "shard", &r->shard);
    add_flag(o, "logits", &r->opt.logits);
    add_flag(o, "resize-mask", &r->opt.resize_mask);
    add_flag(o, "invert-truth", &r->opt.invert_truth);
    add_flag(o, "verdict-only", &r->s.opt.verdict_only);
    add_flag(o, "resume", &r->opt.resume);
    cli_option_add(o, (cli_option){.name = "encoder-tokens", .kind = CLI_INT, .target = &r->opt.encoder_tokens, .low = 8, .high = 4096});
    cli_option_add(
        o,
        (cli_option){.name = "missing", .kind = CLI_CHOICE, .target = &r->opt.missing, .parse = parse_policy, .choices = "error, exclude"});
    cli_option_add(
        o, (cli_option){.name = "nan", .kind = CLI_CHOICE, .target = &r->opt.nan, .parse = parse_policy, .choices = "error, exclude"});
    cli_option_add(o, (cli_option){.name = "image-score",
                                   .kind = CLI_CHOICE,
                                   .target = &r->opt.image_score,
                                   .parse = parse_image_score,
                                   .choices = "none, max, mean"});
}

static fs_status usage(eval_run *r, const char *what) {
    cli_error(&r->term, "%s (see: fakeshield eval --help)", what);
    return FS_E_USAGE;
}

static bool parse_shard(const char *text, int *shard, int *shards) {
    char *end;
    const long i = strtol(text, &end, 10);
    if (end == text || *end != '/') return false;
    const char *second = end + 1;
    const long n = strtol(second, &end, 10);
    if (end == second || *end || n < 1 || n > 100000 || i < 1 || i > n) return false;
    return *shard = (int)i, *shards = (int)n, true;
}

/* Which of the four sources is meant. */
static fs_status choose_source(eval_run *r) {
    const int given =
        (r->results != NULL) + (r->upstream != NULL) + (r->maps != NULL || (r->opt.scores != NULL && !r->results && !r->upstream));
    if (given > 1) return usage(r, "--results, --upstream and --maps exclude one another");
    if (r->results)
        r->opt.source = FS_EVAL_RESULTS, r->opt.results = r->results;
    else if (r->upstream)
        r->opt.source = FS_EVAL_UPSTREAM, r->opt.results = r->upstream;
    else if (given)
        r->opt.source = FS_EVAL_MAPS, r->opt.masks = r->maps;
    if (given) return r->opt.resume ? usage(r, "--resume is for running a checkpoint") : FS_OK;
    if (!(r->opt.model_dir = cli_model_dir("eval", &r->s))) return FS_E_USAGE;
    return FS_OK;
}

static fs_status finish_options(eval_run *r) {
    r->opt.level = (double)r->level;
    if (r->level == 0.95f) r->opt.level = 0.95; /* and not the float next to it */
    r->opt.stratified = !r->plain;
    r->opt.html = !r->no_html;
    r->opt.seed = r->s.opt.sampling.seed;
    r->opt.callbacks = cli_callbacks(&r->term, false);
    r->opt.detector = r->s.opt;
    r->opt.detector.callbacks = r->opt.callbacks;
    if (r->shard && !parse_shard(r->shard, &r->opt.shard, &r->opt.shards)) return usage(r, "--shard: expected I/N, e.g. 2/4");
    return FS_OK;
}

/* The tables and where the files are. */
static fs_status show(eval_run *r, const char *text, const char *what) {
    if (r->s.quiet || !text) return cli_flush(&r->term);
    cli_print(&r->term, "%s", text);
    if (r->opt.out && r->opt.html) cli_print(&r->term, "The report is %s/%s.html\n", r->opt.out, what);
    if (r->opt.sheet) cli_print(&r->term, "The contact sheet is %s/sheet.png\n", r->opt.out);
    return cli_flush(&r->term);
}

static int run_main(int argc, char **argv, const char *command) {
    eval_run r = {.opt = fs_eval_options_defaults(), .level = 0.95f};
    const bool merge = strcmp(command, "eval merge") == 0, compare = strcmp(command, "eval compare") == 0;
    fs_error err = {0};
    fs_status status;
    char *text = NULL;
    int code = 0;
    cli_settings_init(&r.s);
    cli_term_init(&r.term, false, false, 0);
    cli_add_terminal_options(&r.o, &r.s);
    add_table_options(&r);
    if (!merge && !compare) add_run_options(&r);
    if (!compare) cli_option_add(&r.o, (cli_option){.name = "sheet", .kind = CLI_INT, .target = &r.opt.sheet, .low = 1, .high = 100});
    if (merge || compare) cli_option_add(&r.o, (cli_option){.name = "seed", .kind = CLI_U64, .target = &r.s.opt.sampling.seed});
    if (!cli_begin(command, help, &r.o, argc, argv, &r.s, &r.term, &r.operands, &code)) {
        cli_list_free(&r.operands);
        return code;
    }
    status = finish_options(&r);
    const size_t n = r.operands.count;
    if (!status && compare && n != 2) status = usage(&r, "give the output folders of two runs");
    if (!status && merge && (!n || !r.opt.out)) status = usage(&r, "give the output folders of the parts, and -o OUT");
    if (!status && !merge && !compare && (n != 1 || !r.opt.out)) status = usage(&r, "give one folder of data, and -o OUT");
    if (!status && !merge && !compare) status = choose_source(&r);
    if (status) goto done;
    if (compare)
        status = fs_eval_compare(r.operands.items[0], r.operands.items[1], &r.opt, &text, &err);
    else if (merge)
        status = fs_eval_merge((const char *const *)r.operands.items, n, &r.opt, &text, &err);
    else
        r.opt.data = r.operands.items[0], status = fs_eval_run(&r.opt, &text, &err);
    cli_term_clear(&r.term);
    if (status && !cli_signal()) cli_error(&r.term, "%s", err.message);
    if (status && cli_signal())
        cli_error(&r.term, "interrupted%s", r.opt.source == FS_EVAL_MODEL && !merge && !compare ? "; --resume goes on from here" : "");
    if (!status) status = show(&r, text, compare ? "compare" : "report");
done:
    fs_string_free(text);
    cli_list_free(&r.operands);
    return cli_signal() ? 128 + cli_signal() : (int)status;
}

static int eval_main(int argc, char **argv) {
    if (argc > 1 && strcmp(argv[1], "merge") == 0) return run_main(argc - 1, argv + 1, "eval merge");
    if (argc > 1 && strcmp(argv[1], "compare") == 0) return run_main(argc - 1, argv + 1, "eval compare");
    return run_main(argc, argv, "eval");
}

const cli_command cli_eval = {"eval", "figures over a data set, with intervals and a report", help, eval_main};
