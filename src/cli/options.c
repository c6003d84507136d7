/* Options: a table per command, read strictly. Names are matched whole (no abbreviations that a later option would break), numbers must
 * be numbers from end to end, and a misspelt name is answered with the nearest one. */
#include "cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static fs_status usage_error(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
static fs_status usage_error(const char *command, const char *format, ...) {
    char line[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    cli_error(NULL, "%s (see: fakeshield %s --help)", line, command);
    return FS_E_USAGE;
}

/* Edit distance with neighbours swapped counting as one, for short words. */
static size_t distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b);
    if (n > 31 || m > 31) return 99;
    size_t d[33][33];
    for (size_t i = 0; i <= n; i++) d[i][0] = i;
    for (size_t j = 0; j <= m; j++) d[0][j] = j;
    for (size_t i = 1; i <= n; i++)
        for (size_t j = 1; j <= m; j++) {
            size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best) best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    return d[n][m];
}

const char *cli_nearest(const char *word, const char *const *words, size_t n) {
    const char *best = NULL;
    size_t best_distance = strlen(word) <= 4 ? 2 : 3; /* accepted: below this */
    for (size_t i = 0; i < n; i++) {
        size_t dist = distance(word, words[i]);
        if (strncmp(word, words[i], strlen(word)) == 0 && strlen(word) >= 3) dist = 1; /* cut short */
        if (dist < best_distance) best_distance = dist, best = words[i];
    }
    return best;
}

void cli_settings_init(cli_settings *s) {
    *s = (cli_settings){.opt = fs_options_defaults(), .model = getenv("FAKESHIELD_MODEL")};
    if (s->model && !*s->model) s->model = NULL;
}

bool cli_parse_size(const char *value, void *target) {
    const cli_size_range *range = target;
    char *end;
    if (*value < '0' || *value > '9') return false;
    long low = strtol(value, &end, 10), high = low;
    if (*end == '-' && end[1] >= '0' && end[1] <= '9') high = strtol(end + 1, &end, 10);
    if (*end || low < 64 || high < low || high > 4096) return false;
    *range->low = (int)low;
    *range->high = (int)high;
    return true;
}

void cli_option_add(cli_options *o, cli_option option) {
    if (o->count < CLI_MAX_OPTIONS) o->list[o->count++] = option;
}

static bool parse_precision(const char *value, void *target) {
    return fs_precision_from_name(value, target);
}
static bool parse_kv_cache(const char *value, void *target) {
    return fs_kv_cache_type_from_name(value, target);
}
static bool parse_prompt(const char *value, void *target) {
    return fs_prompt_style_from_name(value, target);
}

static bool parse_adapter(const char *value, void *target) {
    cli_settings *s = target;
    if (!*value || s->opt.n_adapters == sizeof s->adapters / sizeof s->adapters[0]) return false;
    s->adapters[s->opt.n_adapters++] = value;
    s->opt.adapters = s->adapters;
    return true;
}

void cli_add_terminal_options(cli_options *o, cli_settings *s) {
    cli_option_add(o, (cli_option){.letter = 'h', .name = "help", .kind = CLI_FLAG, .target = &s->help});
    cli_option_add(o, (cli_option){.letter = 'q', .name = "quiet", .kind = CLI_FLAG, .target = &s->quiet});
    cli_option_add(o, (cli_option){.letter = 'v', .name = "verbose", .kind = CLI_COUNT, .target = &s->verbose});
    cli_option_add(o, (cli_option){.name = "no-color", .kind = CLI_FLAG, .target = &s->no_color});
}

void cli_add_model_options(cli_options *o, cli_settings *s) {
    cli_option_add(o, (cli_option){.letter = 'm', .name = "model", .kind = CLI_TEXT, .target = &s->model});
    cli_option_add(o, (cli_option){.name = "clip", .kind = CLI_TEXT, .target = &s->opt.clip_dir});
    cli_option_add(o, (cli_option){.name = "precision",
                                   .kind = CLI_CHOICE,
                                   .target = &s->opt.precision,
                                   .parse = parse_precision,
                                   .choices = "f32, bf16, f16, upstream"});
    cli_option_add(
        o, (cli_option){.name = "kv-cache", .kind = CLI_CHOICE, .target = &s->opt.kv_cache, .parse = parse_kv_cache, .choices = "auto, f32, f16, q8_0"});
    cli_option_add(o, (cli_option){.letter = 't', .name = "threads", .kind = CLI_INT, .target = &s->opt.threads, .low = 0, .high = 1024});
    cli_option_add(o, (cli_option){.name = "mlock", .kind = CLI_FLAG, .target = &s->opt.lock_memory});
    cli_option_add(o, (cli_option){.name = "prefetch", .kind = CLI_FLAG, .target = &s->opt.prefetch});
    cli_option_add(o, (cli_option){.name = "seed", .kind = CLI_U64, .target = &s->opt.sampling.seed});
}

void cli_add_adapter_option(cli_options *o, cli_settings *s) {
    cli_option_add(o, (cli_option){.name = "adapter", .kind = CLI_CHOICE, .target = s, .parse = parse_adapter, .choices = "the folders of at most two adapters"});
}

static bool parse_domain(const char *value, void *target) {
    static const struct { const char *name; fs_domain domain; } names[] = {{"aigc", FS_DOMAIN_AIGC}, {"deepfake", FS_DOMAIN_DEEPFAKE}, {"photoshop", FS_DOMAIN_PHOTOSHOP}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(value, names[i].name) == 0) return *(fs_domain *)target = names[i].domain, true;
    return false;
}

void cli_add_stage1_options(cli_options *o, cli_settings *s) {
    cli_option_add(o, (cli_option){.name = "lm", .kind = CLI_TEXT, .target = &s->opt.lm_file});
    cli_option_add(o, (cli_option){.name = "mmproj", .kind = CLI_TEXT, .target = &s->opt.mmproj_file});
    cli_option_add(o, (cli_option){.name = "domain",
                                   .kind = CLI_CHOICE,
                                   .target = &s->opt.domain,
                                   .parse = parse_domain,
                                   .choices = "aigc, deepfake, photoshop",
                                   .given = &s->opt.domain_given});
    cli_option_add(o, (cli_option){.name = "sample", .kind = CLI_FLAG, .target = &s->sample});
    cli_option_add(
        o, (cli_option){
               .name = "temperature", .kind = CLI_REAL, .target = &s->temperature, .low = 0.01, .high = 10, .given = &s->has_temperature});
    cli_option_add(o,
                   (cli_option){.name = "top-k", .kind = CLI_INT, .target = &s->top_k, .low = 0, .high = 1000000, .given = &s->has_top_k});
    cli_option_add(o, (cli_option){.name = "top-p", .kind = CLI_REAL, .target = &s->top_p, .low = 0, .high = 1, .given = &s->has_top_p});
    cli_option_add(o, (cli_option){.name = "max-new-tokens", .kind = CLI_INT, .target = &s->opt.max_new_tokens, .low = 1, .high = 1000000});
    cli_option_add(o, (cli_option){.name = "batch", .kind = CLI_INT, .target = &s->opt.batch, .low = 0, .high = 12});
    cli_option_add(o, (cli_option){.name = "question", .kind = CLI_TEXT, .target = &s->opt.question});
    cli_option_add(o, (cli_option){.name = "dtg", .kind = CLI_TEXT, .target = &s->opt.dtg_file});
    cli_option_add(o, (cli_option){.name = "exif-both", .kind = CLI_FLAG, .target = &s->opt.exif_both});
}

void cli_add_stage2_options(cli_options *o, cli_settings *s) {
    cli_option_add(o, (cli_option){.name = "sam", .kind = CLI_TEXT, .target = &s->opt.sam_file});
    cli_option_add(
        o,
        (cli_option){.name = "prompt", .kind = CLI_CHOICE, .target = &s->opt.prompt_style, .parse = parse_prompt, .choices = "test, demo"});
    cli_option_add(o, (cli_option){.name = "question-index", .kind = CLI_INT, .target = &s->opt.question_index, .low = -1, .high = 2});
}

bool cli_parse_real(const char *text, double *out) {
    /* strtod alone would take " 1", "0x1p3", "nan" and "inf" */
    if (!*text || strspn(text, "+-.0123456789eE") != strlen(text)) return false;
    char *end;
    errno = 0;
    double v = strtod(text, &end);
    if (*end || !isfinite(v)) return false;
    *out = v;
    return true;
}

static bool parse_whole(const char *text, long long *out) {
    const char *digits = text + (*text == '-' || *text == '+');
    if (!*digits || strspn(digits, "0123456789") != strlen(digits)) return false;
    errno = 0;
    *out = strtoll(text, NULL, 10);
    return errno == 0;
}

static bool parse_u64(const char *text, uint64_t *out) {
    if (!*text || strspn(text, "0123456789") != strlen(text)) return false;
    errno = 0;
    *out = strtoull(text, NULL, 10);
    return errno == 0 && *out <= INT64_MAX; /* what a JSON integer holds everywhere */
}

static bool takes_value(const cli_option *p) {
    return p->kind != CLI_FLAG && p->kind != CLI_COUNT;
}

static fs_status set_value(const char *command, const cli_option *p, const char *value) {
    long long whole;
    double real;
    if (p->given) *p->given = true;
    switch (p->kind) {
    case CLI_FLAG:
        *(bool *)p->target = true;
        break;
    case CLI_COUNT:
        ++*(int *)p->target;
        break;
    case CLI_TEXT:
        if (!*value) return usage_error(command, "--%s: an empty value", p->name);
        *(const char **)p->target = value;
        break;
    case CLI_TEXTS:
        cli_list_add(p->target, value);
        break;
    case CLI_INT:
        if (!parse_whole(value, &whole) || (double)whole < p->low || (double)whole > p->high)
            return usage_error(command, "--%s: \"%s\" is not a whole number from %.0f to %.0f", p->name, value, p->low, p->high);
        *(int *)p->target = (int)whole;
        break;
    case CLI_U64:
        if (!parse_u64(value, p->target))
            return usage_error(command, "--%s: \"%s\" is not a whole number from 0 to 2^63-1", p->name, value);
        break;
    case CLI_REAL:
        if (!cli_parse_real(value, &real) || real < p->low || real > p->high)
            return usage_error(command, "--%s: \"%s\" is not a number from %g to %g", p->name, value, p->low, p->high);
        *(float *)p->target = (float)real;
        break;
    case CLI_I64:
        if (!parse_whole(value, &whole) || (double)whole < p->low || (double)whole > p->high)
            return usage_error(command, "--%s: \"%s\" is not a whole number from %.0f to %.0f", p->name, value, p->low, p->high);
        *(int64_t *)p->target = (int64_t)whole;
        break;
    case CLI_DOUBLE:
        if (!cli_parse_real(value, &real) || real < p->low || real > p->high)
            return usage_error(command, "--%s: \"%s\" is not a number from %g to %g", p->name, value, p->low, p->high);
        *(double *)p->target = real;
        break;
    case CLI_CHOICE:
        if (!p->parse(value, p->target)) return usage_error(command, "--%s: \"%s\" is none of %s", p->name, value, p->choices);
        break;
    }
    return FS_OK;
}

/* --name, --name=value, --name value; *i moves on when the value is the next word. */
static fs_status parse_long(const char *command, const cli_options *o, int argc, char **argv, int *i) {
    const char *word = argv[*i] + 2, *equals = strchr(word, '=');
    size_t length = equals ? (size_t)(equals - word) : strlen(word);
    for (size_t k = 0; k < o->count; k++) {
        const cli_option *p = &o->list[k];
        if (strlen(p->name) != length || memcmp(p->name, word, length) != 0) continue;
        if (!takes_value(p)) return equals ? usage_error(command, "--%s takes no value", p->name) : set_value(command, p, NULL);
        if (equals) return set_value(command, p, equals + 1);
        if (*i + 1 >= argc) return usage_error(command, "--%s needs a value", p->name);
        return set_value(command, p, argv[++*i]);
    }
    const char *names[CLI_MAX_OPTIONS];
    for (size_t k = 0; k < o->count; k++) names[k] = o->list[k].name;
    char *typed = cli_format("%.*s", (int)(length < 64 ? length : 64), word);
    const char *near = cli_nearest(typed, names, o->count);
    fs_status status = near ? usage_error(command, "unknown option --%s; did you mean --%s?", typed, near)
                            : usage_error(command, "unknown option --%s", typed);
    free(typed);
    return status;
}

/* -x, -x value, -xvalue, -xyz for letters without a value. */
static fs_status parse_letters(const char *command, const cli_options *o, int argc, char **argv, int *i) {
    for (const char *c = argv[*i] + 1; *c; c++) {
        const cli_option *p = NULL;
        for (size_t k = 0; k < o->count && !p; k++)
            if (o->list[k].letter == *c) p = &o->list[k];
        if (!p) return usage_error(command, "unknown option -%c in \"%s\"", *c, argv[*i]);
        if (!takes_value(p)) {
            fs_status status = set_value(command, p, NULL);
            if (status) return status;
            continue;
        }
        if (c[1]) return set_value(command, p, c + 1);
        if (*i + 1 >= argc) return usage_error(command, "-%c needs a value", *c);
        return set_value(command, p, argv[++*i]);
    }
    return FS_OK;
}

fs_status cli_parse(const char *command, const cli_options *o, int argc, char **argv, cli_list *operands) {
    bool options_over = false;
    for (int i = 1; i < argc; i++) {
        fs_status status = FS_OK;
        if (options_over || argv[i][0] != '-' || !argv[i][1])
            cli_list_add(operands, argv[i]);
        else if (strcmp(argv[i], "--") == 0)
            options_over = true;
        else if (argv[i][1] == '-')
            status = parse_long(command, o, argc, argv, &i);
        else
            status = parse_letters(command, o, argc, argv, &i);
        if (status) return status;
    }
    return FS_OK;
}

fs_status cli_settings_finish(const char *command, cli_settings *s) {
    if (s->quiet && s->verbose) return usage_error(command, "--quiet and --verbose contradict each other");
    if (!s->sample) {
        const char *alone = s->has_temperature ? "temperature" : s->has_top_k ? "top-k" : s->has_top_p ? "top-p" : NULL;
        if (alone) return usage_error(command, "--%s needs --sample: without it the most likely word is always taken", alone);
        return FS_OK;
    }
    uint64_t seed = s->opt.sampling.seed;
    s->opt.sampling = fs_sampling_upstream();
    s->opt.sampling.seed = seed;
    if (s->has_temperature) s->opt.sampling.temperature = s->temperature;
    if (s->has_top_k) s->opt.sampling.top_k = s->top_k;
    if (s->has_top_p) s->opt.sampling.top_p = s->top_p;
    return FS_OK;
}

const char *cli_model_dir(const char *command, const cli_settings *s) {
    if (s->opt.lm_file) return s->opt.lm_file;
    if (!s->model) usage_error(command, "no model: give the checkpoint directory with -m DIR or in FAKESHIELD_MODEL");
    return s->model;
}

/* All files of a bundle: the folder of a source tree may hold the recipe alone, or a copy that broke off. */
static bool is_bundle(const char *dir) {
    static const char *const files[] = {"dte-fdm.gguf", "mflm.gguf", "vision.gguf"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        char *file = cli_path(dir, files[i], "");
        const bool there = cli_exists(file);
        free(file);
        if (!there) return false;
    }
    return true;
}

char *cli_demo_model(void) {
    static const char *const places[] = {"models/nano", "../models/nano", "../share/fakeshield/nano"};
    char self[4096];
    if (getenv("FAKESHIELD_MODEL")) return NULL; /* set but empty: none at all */
    const ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    if (n <= 0 || (size_t)n >= sizeof self - 1) return NULL;
    self[n] = 0;
    char *slash = strrchr(self, '/');
    if (!slash) return NULL;
    *slash = 0;
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        char *dir = cli_path(self, places[i], "");
        char *whole = is_bundle(dir) ? realpath(dir, NULL) : NULL;
        free(dir);
        if (whole) return whole;
    }
    return NULL;
}

bool cli_begin(const char *command, const char *help, const cli_options *o, int argc, char **argv, cli_settings *s, cli_term *t,
               cli_list *operands, int *code) {
    fs_status status = cli_parse(command, o, argc, argv, operands);
    if (!status && s->help) {
        fputs(help, stdout);
        *code = (int)cli_flush(t);
        return false;
    }
    if (!status) status = cli_settings_finish(command, s);
    *code = (int)status;
    if (status) return false;
    cli_term_init(t, s->no_color, s->quiet, s->verbose);
    cli_catch_signals();
    return true;
}
