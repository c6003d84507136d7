/* Results, for people and for programs: the readable report, the JSON, and the picture files beside it. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char cli_caution[] = "No finding is not proof of authenticity, and a finding is a lead to be checked, not proof of forgery.";

/* ---- callbacks ----------------------------------------------------------------------------------------------------- */

static void on_log(void *user, fs_log_level level, const char *line) {
    cli_term *t = user;
    if (level == FS_LOG_WARNING)
        cli_error(t, "warning: %s", line);
    else if ((level == FS_LOG_INFO && t->verbose >= 1) || t->verbose >= 2)
        cli_error(t, "%s", line);
}

static void on_text(void *user, const char *piece) {
    cli_term *t = user;
    if (t->head) cli_report_head_now(t), printf("\n");
    cli_stream(t, piece);
}

static void on_progress(void *user, const char *step, int64_t done, int64_t total) {
    cli_term_progress(user, step, done, total);
}

static bool on_cancel(void *user) {
    const cli_term *t = user;
    return t->stop || cli_signal() != 0;
}

fs_callbacks cli_callbacks(cli_term *t, bool stream_text) {
    return (fs_callbacks){
        .user_data = t, .log = on_log, .text = stream_text ? on_text : NULL, .progress = on_progress, .cancel = on_cancel};
}

int cli_exit_code(size_t pictures, size_t failed, fs_status first) {
    if (cli_signal()) return 128 + cli_signal();
    if (!failed) return FS_OK;
    return pictures == 1 ? (int)first : (int)FS_E_FAILED;
}

/* ---- files --------------------------------------------------------------------------------------------------------- */

cli_paths cli_paths_make(const char *dir, const char *name, bool soft) {
    return (cli_paths){.json = cli_path(dir, name, ".json"),
                       .mask = cli_path(dir, name, "_mask.png"),
                       .overlay = cli_path(dir, name, "_overlay.png"),
                       .soft = soft ? cli_path(dir, name, "_soft.png") : NULL};
}

void cli_paths_free(cli_paths *p) {
    free(p->json), free(p->mask), free(p->overlay), free(p->soft);
    *p = (cli_paths){0};
}

static bool has_mask(const fs_result *r) {
    fs_mask_status s = fs_result_mask_status(r);
    return s == FS_MASK_PRESENT || s == FS_MASK_NO_SEG;
}

fs_status cli_write_pictures(cli_term *t, const fs_result *r, const cli_paths *p) {
    fs_error err = {0};
    if (!has_mask(r) || !p->mask) return FS_OK;
    fs_status status = fs_result_write_mask(r, p->mask, &err);
    if (!status) status = fs_result_write_overlay(r, p->overlay, &err);
    if (!status && p->soft) status = fs_result_write_soft_mask(r, p->soft, &err);
    if (status) cli_report_failure(t, fs_result_image(r), &err);
    return status;
}

static const char *base(const char *path) {
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path;
}

fs_status cli_write_json(cli_term *t, const fs_result *r, const cli_paths *p, bool with_times) {
    fs_error err = {0};
    char *json = NULL;
    bool mask = has_mask(r);
    fs_status status = fs_result_to_json(r, mask ? base(p->mask) : NULL, mask ? base(p->overlay) : NULL, with_times, true, &json, &err);
    if (status) {
        cli_report_failure(t, fs_result_image(r), &err);
        return status;
    }
    size_t n = strlen(json);
    char *text = cli_format("%s%s", json, n && json[n - 1] == '\n' ? "" : "\n");
    status = cli_write_text(t, p->json, text);
    free(text);
    fs_string_free(json);
    return status;
}

fs_status cli_print_json(cli_term *t, const fs_result *r, const cli_paths *p, bool with_times) {
    fs_error err = {0};
    char *json = NULL;
    bool mask = has_mask(r);
    fs_status status = fs_result_to_json(r, mask ? p->mask : NULL, mask ? p->overlay : NULL, with_times, false, &json, &err);
    if (status) {
        cli_report_failure(t, fs_result_image(r), &err);
        return status;
    }
    cli_term_clear(t);
    printf("%s\n", json); /* JSON escapes control characters itself */
    fs_string_free(json);
    return cli_flush(t);
}

/* ---- the report ---------------------------------------------------------------------------------------------------- */

static cli_color verdict_color(fs_verdict v) {
    return v == FS_VERDICT_TAMPERED ? CLI_RED : v == FS_VERDICT_AUTHENTIC ? CLI_GREEN : CLI_YELLOW;
}

void cli_report_head(cli_term *t, const char *path, size_t number, size_t of) {
    char *count = of > 1 ? cli_format("  (%zu of %zu)", number, of) : cli_format("%s", "");
    fputs(cli_color_on(t, CLI_BOLD), stdout);
    cli_print(t, "%s", path);
    fputs(cli_color_off(t), stdout);
    cli_print(t, "%s\n", count);
    free(count);
}

void cli_report_head_later(cli_term *t, const char *path, size_t number, size_t of) {
    t->head = path, t->head_number = number, t->head_of = of;
}

void cli_report_head_now(cli_term *t) {
    if (t->head) cli_report_head(t, t->head, t->head_number, t->head_of);
    t->head = NULL;
}

static void report_calibration(const fs_result *r) {
    fs_calibration_info c;
    if (!fs_result_calibration(r, &c)) return;
    printf("  calibrated from %.3f (%s", c.raw_score, c.method ? fs_calibration_method_name(c.method) : "method not recorded");
    if (c.pictures) printf(" on %lld pictures", (long long)c.pictures);
    if (!isnan(c.ece_before) && !isnan(c.ece_after)) printf(", calibration error %.3f before, %.3f after", c.ece_before, c.ece_after);
    printf("); undetermined between %.2f and %.2f\n", c.low, c.high);
}

void cli_report_verdict(cli_term *t, const fs_result *r) {
    double score = fs_result_score(r);
    fs_verdict v = fs_result_verdict(r);
    printf("  verdict    %s%s%s", cli_color_on(t, verdict_color(v)), fs_verdict_name(v), cli_color_off(t));
    if (isnan(score))
        printf("\n");
    else
        printf("   score %.3f (0 authentic, 1 tampered)\n", score);
    report_calibration(r);
    const float *p = fs_result_domain_probabilities(r);
    if (!p || isnan(score)) return;
    int order[3] = {0, 1, 2};
    for (int i = 0; i < 3; i++)
        for (int j = i + 1; j < 3; j++)
            if (p[order[j]] > p[order[i]]) {
                int swap = order[i];
                order[i] = order[j], order[j] = swap;
            }
    printf("  kind       ");
    for (int i = 0; i < 3; i++) printf("%s%s %.3f", i ? ", " : "", fs_domain_name((fs_domain)order[i]), (double)p[order[i]]);
    printf("\n");
}

void cli_report_mask(cli_term *t, const fs_result *r) {
    (void)t;
    switch (fs_result_mask_status(r)) {
    case FS_MASK_NONE:
        printf("  mask       none: stage 2 has not run\n");
        return;
    case FS_MASK_AUTHENTIC:
        printf("  mask       none: the answer says that the picture has not been tampered with\n");
        return;
    case FS_MASK_NO_SEG:
        printf("  mask       all black: stage 2 answered without a segmentation token\n");
        return;
    case FS_MASK_PRESENT:
        break;
    }
    size_t n = fs_result_region_count(r), total = fs_result_region_total(r), shown = n < 5 ? n : 5;
    printf("  mask       %.2f %% of %lld x %lld pixels, %zu region%s\n", 100 * fs_result_mask_area(r), (long long)fs_result_width(r),
           (long long)fs_result_height(r), total, total == 1 ? "" : "s");
    for (size_t i = 0; i < shown; i++) {
        int64_t b[4];
        double area;
        fs_result_region(r, i, b, &area);
        printf("             %lld,%lld to %lld,%lld  %.2f %%\n", (long long)b[0], (long long)b[1], (long long)b[2], (long long)b[3],
               100 * area);
    }
    if (total > shown) printf("             and %zu smaller\n", total - shown);
}

void cli_report_files(cli_term *t, const fs_result *r, const cli_paths *p) {
    for (int stage = 1; stage <= 2; stage++)
        if (fs_result_adapter(r, stage)) cli_print(t, "  adapter    stage %d: %s\n", stage, fs_result_adapter(r, stage));
    if (!p->json) return;
    cli_print(t, "  files      %s\n", p->json);
    if (!has_mask(r)) return;
    cli_print(t, "             %s\n             %s\n", p->mask, p->overlay);
    if (p->soft) cli_print(t, "             %s\n", p->soft);
}

void cli_report_warnings(cli_term *t, const fs_result *r) {
    for (size_t i = 0; i < fs_result_warning_count(r); i++)
        cli_print(t, "  %swarning%s    %s\n", cli_color_on(t, CLI_YELLOW), cli_color_off(t), fs_result_warning(r, i));
}

void cli_report_line(cli_term *t, const fs_result *r) {
    double score = fs_result_score(r);
    char *scored = isnan(score) ? cli_format("%s", "-") : cli_format("%.3f", score);
    char *mask = fs_result_mask_status(r) == FS_MASK_PRESENT ? cli_format("%.2f%%", 100 * fs_result_mask_area(r))
                                                             : cli_format("%s", fs_mask_status_name(fs_result_mask_status(r)));
    cli_print(t, "%s\t%s\t%s\t%s\n", fs_verdict_name(fs_result_verdict(r)), scored, mask, fs_result_image(r));
    free(scored), free(mask);
}

void cli_report_failure(cli_term *t, const char *path, const fs_error *err) {
    const char *text = *err->message ? err->message : fs_status_name(err->status);
    if (!path || strstr(text, path))
        cli_error(t, "%s", text);
    else
        cli_error(t, "%s: %s", path, text);
}
