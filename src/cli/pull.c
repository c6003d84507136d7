/* fakeshield pull: downloads the released weights, or tells what the hub has, or compares a folder with it. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char help[] = "Usage: fakeshield pull [options] [WHAT]\n"
                           "Downloads weights from the model hub. WHAT is fakeshield (the released 22B weights, about 44 GB; the\n"
                           "default), clip (the vision tower both stages need) or a repository OWNER/NAME. A file's checksum is\n"
                           "compared with the hub's before it gets its name. Stop it at any time: the next run goes on where\n"
                           "this one ended, and leaves alone what is there and right.\n"
                           "\n"
                           "  -o, --out DIR         folder for the files (default: weight/NAME, where detect looks for clip too)\n"
                           "      --list            only show what the hub has: size, checksum, name\n"
                           "      --check           only compare the folder with the hub, byte for byte; without a network, with\n"
                           "                        the listing of the last pull\n"
                           "      --all             also other frameworks' copies of the weights and git's own files\n"
                           "      --revision R      branch, tag or commit (default main)\n"
                           "      --mirror URL      a hub that speaks as huggingface.co does (default: HF_ENDPOINT, if set)\n"
                           "      --token-env NAME  environment variable that holds a token, for private repositories\n"
                           "  -j, --jobs N          connections at a time, 1 to 32 (default 4)\n"
                           "  -q, --quiet  -v, --verbose  --no-color  -h, --help\n"
                           "\n"
                           "Example: fakeshield pull && fakeshield pull clip\n";

typedef struct pulling {
    cli_term *term;
    fs_pull_mode mode;
    size_t files, fetched, there;
    double bytes, fetched_bytes;
    double since; /* the rate is taken from here: the first bytes of the run are those of an earlier one */
    int64_t since_bytes;
} pulling;

static const char *human(double bytes, char out[32]) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    size_t u = 0;
    while (bytes >= 999.5 && u < 4) bytes /= 1000, u++;
    snprintf(out, 32, u == 0 || bytes >= 99.95 ? "%.0f %s" : "%.1f %s", bytes, units[u]);
    return out;
}

static void on_log(void *user, fs_log_level level, const char *line) {
    const pulling *p = user;
    cli_callbacks(p->term, false).log(p->term, level, line);
}

static bool on_cancel(void *user) {
    (void)user;
    return cli_signal() != 0;
}

/* 3.1 GB of 44.2 GB, 52 MB/s, about 13 min left: NAME, which is last because a narrow screen cuts the end */
static void on_progress(void *user, const char *step, int64_t done, int64_t total) {
    pulling *p = user;
    char a[32], b[32], c[32], rate[96] = "";
    const double now = cli_now(), seconds = now - p->since;
    if (total <= 0) {
        cli_term_progress(p->term, step, 0, 0);
        return;
    }
    if (p->since == 0 || done < p->since_bytes) p->since = now, p->since_bytes = done;
    if (seconds > 1 && p->since > 0 && done > p->since_bytes) {
        const double speed = (double)(done - p->since_bytes) / seconds, left = (double)(total - done) / speed;
        if (left >= 90)
            snprintf(rate, sizeof rate, ", %s/s, about %.0f min left", human(speed, c), left / 60);
        else
            snprintf(rate, sizeof rate, ", %s/s, %.0f s left", human(speed, c), left);
    }
    char *line = cli_format("%s of %s%s: %s", human((double)done, a), human((double)total, b), rate, step);
    cli_term_progress(p->term, line, done, total);
    free(line);
}

static void on_file(void *user, const fs_pull_file *f) {
    pulling *p = user;
    char size[32];
    p->files++;
    p->bytes += (double)f->size;
    if (f->state == FS_PULL_FETCHED) p->fetched++, p->fetched_bytes += (double)f->size;
    if (f->state == FS_PULL_GOOD) p->there++;
    if (p->mode == FS_PULL_LIST)
        cli_print(p->term, "%12lld  %s:%s  %s\n", (long long)f->size, f->algorithm, f->checksum, f->path);
    else if (!p->term->quiet)
        cli_print(p->term, "%-8s %9s  %s\n", fs_pull_state_name(f->state), human((double)f->size, size), f->path);
    fflush(stdout);
}

static fs_status run_pull(cli_term *t, const char *what, const char *dir, fs_pull_options *opt) {
    pulling p = {.term = t, .mode = opt->mode};
    fs_error err = {0};
    char *usual = NULL, all[32], some[32];
    fs_status status = fs_pull_resolve(what, NULL, &usual, &err);
    if (status) {
        cli_error(t, "%s (see: fakeshield pull --help)", err.message);
        return status;
    }
    opt->file = on_file;
    opt->callbacks = (fs_callbacks){.user_data = &p, .log = on_log, .progress = on_progress, .cancel = on_cancel};
    cli_catch_signals();
    status = fs_pull(what, dir, opt, &err);
    cli_term_clear(t);
    if (status)
        cli_error(t, "%s", err.message);
    else if (p.mode == FS_PULL_LIST)
        cli_note(t, "%zu files, %s", p.files, human(p.bytes, all));
    else if (p.mode == FS_PULL_CHECK)
        cli_print(t, "%s: %zu files, %s, all as on the hub\n", dir ? dir : usual, p.files, human(p.bytes, all));
    else
        cli_print(t, "%s: %zu files, %s: %zu downloaded (%s), %zu were there\n", dir ? dir : usual, p.files, human(p.bytes, all), p.fetched,
                  human(p.fetched_bytes, some), p.there);
    fs_string_free(usual);
    return status;
}

static int pull_main(int argc, char **argv) {
    cli_settings s;
    cli_options o = {0};
    cli_list operands = {0};
    cli_term t;
    bool list = false, check = false;
    const char *dir = NULL, *token_env = NULL, *mirror = getenv("HF_ENDPOINT");
    fs_pull_options opt = fs_pull_options_defaults();
    if (mirror && *mirror) opt.base_url = mirror;
    cli_settings_init(&s);
    cli_term_init(&t, false, false, 0);
    cli_add_terminal_options(&o, &s);
    cli_option_add(&o, (cli_option){.letter = 'o', .name = "out", .kind = CLI_TEXT, .target = &dir});
    cli_option_add(&o, (cli_option){.name = "list", .kind = CLI_FLAG, .target = &list});
    cli_option_add(&o, (cli_option){.name = "check", .kind = CLI_FLAG, .target = &check});
    cli_option_add(&o, (cli_option){.name = "all", .kind = CLI_FLAG, .target = &opt.everything});
    cli_option_add(&o, (cli_option){.name = "revision", .kind = CLI_TEXT, .target = &opt.revision});
    cli_option_add(&o, (cli_option){.name = "mirror", .kind = CLI_TEXT, .target = &opt.base_url});
    cli_option_add(&o, (cli_option){.name = "token-env", .kind = CLI_TEXT, .target = &token_env});
    cli_option_add(&o, (cli_option){.letter = 'j', .name = "jobs", .kind = CLI_INT, .target = &opt.jobs, .low = 1, .high = 32});
    int code = 0;
    fs_status status = FS_OK;
    if (!cli_begin("pull", help, &o, argc, argv, &s, &t, &operands, &code)) {
        status = (fs_status)code;
        goto done;
    }
    if (operands.count > 1 || (list && check)) {
        cli_error(&t, "%s (see: fakeshield pull --help)",
                  list && check ? "--list and --check are two things; give one" : "one thing at a time");
        status = FS_E_USAGE;
        goto done;
    }
    if (token_env && (!(opt.token = getenv(token_env)) || !*opt.token)) {
        cli_error(&t, "--token-env: the environment has no variable %s, or it is empty", token_env);
        status = FS_E_USAGE;
        goto done;
    }
    opt.mode = list ? FS_PULL_LIST : check ? FS_PULL_CHECK : FS_PULL_FETCH;
    status = run_pull(&t, operands.count ? operands.items[0] : NULL, dir, &opt);
    fs_status printed = cli_flush(&t);
    status = (fs_status)cli_exit_code(1, status != FS_OK, status);
    if (!status) status = printed;
done:
    cli_list_free(&operands);
    return (int)status;
}

const cli_command cli_pull = {"pull", "download the released weights", help, pull_main};
