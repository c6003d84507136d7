/* The contact sheet: pictures of a run in one PNG, each a row of picture, truth, score map and what is marked, under a line that says what
 * it is, what it was called and how well the marks agree with the truth. Unlike the report's gallery it does not choose: nothing is left
 * out because it went well or badly. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report.h"

enum { PANEL = 360, MARGIN = 24, GAP = 12, COLUMNS = 4, HEAD = 84, LABEL = 38, BELOW = 14, GONE = 48, NAME_SHOWN = 56 };
enum { WIDTH = 2 * MARGIN + COLUMNS * PANEL + (COLUMNS - 1) * GAP };

static const fs_panel_box box = {PANEL, PANEL, true};
static const uint8_t paper[3] = {255, 255, 255}, blank[3] = {238, 238, 242}, frame[3] = {208, 208, 216};
static const fs_pen title_pen = {15, 2.1, {20, 20, 32}}, name_pen = {11, 1.9, {20, 20, 32}}, soft_pen = {11, 1.3, {105, 105, 120}},
                    fact_pen = {11, 1.5, {20, 20, 32}}, good_pen = {11, 1.9, {0, 112, 79}}, bad_pen = {11, 1.9, {178, 44, 0}};

static void fill(fs_image *im, int64_t x, int64_t y, int64_t w, int64_t h, const uint8_t color[3]) {
    for (int64_t k = 0; k < h; k++)
        for (int64_t i = 0; i < w; i++) memcpy(im->data + 3 * ((y + k) * im->width + x + i), color, 3);
}

/* ---- which, and how high ---- */

typedef struct line {
    const fs_eval_row *row;
    int64_t height; /* of its panels; 0: the picture is gone */
} line;

/* `wanted` of the unchanged pictures at even distances: data are sorted by sets, so the first ones would often be of one class. */
static size_t choose(const fs_eval_rows *rows, size_t wanted, line *out) {
    size_t there = 0, seen = 0, n = 0;
    for (size_t i = 0; i < rows->count; i++) there += !rows->items[i].step;
    if (wanted > there) wanted = there;
    for (size_t i = 0; i < rows->count && n < wanted; i++)
        if (!rows->items[i].step && seen++ == n * there / wanted) out[n++] = (line){.row = &rows->items[i]};
    return n;
}

static int64_t panel_height(const fs_eval_row *r) {
    const fs_decode_options how = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_image_info info;
    fs_error ignored;
    int64_t w, h;
    if (fs_image_probe(r->image, &how, &info, &ignored)) return 0;
    fs_panel_fit(&box, info.width, info.height, &w, &h);
    return h;
}

/* ---- one picture ---- */

static void put_label(fs_image *im, int64_t top, const fs_eval_row *r) {
    fs_row_fact facts[FS_ROW_FACTS];
    const size_t n = fs_row_facts(r, facts);
    const double base = (double)top + 24;
    fs_row_judgement how;
    const char *called = fs_row_called(r, &how);
    char words[160];
    const bool whole = strlen(r->name) <= NAME_SHOWN;
    snprintf(words, sizeof words, "%.*s%s", NAME_SHOWN, r->name, whole ? "" : "...");
    double x = fs_draw_words(im, MARGIN, base, words, &name_pen) + 10;
    snprintf(words, sizeof words, "%.*s", NAME_SHOWN, r->set);
    x = fs_draw_words(im, x, base, words, &soft_pen) + 18;
    x = fs_draw_words(im, x, base, r->tampered ? "forged" : "authentic", &fact_pen);
    if (called) {
        static const char *const ends[] = {[FS_ROW_OPEN] = "", [FS_ROW_RIGHT] = ": right", [FS_ROW_WRONG] = ": wrong"};
        snprintf(words, sizeof words, ", called %s%s", called, ends[how]);
        x = fs_draw_words(im, x, base, words, how == FS_ROW_RIGHT ? &good_pen : how == FS_ROW_WRONG ? &bad_pen : &fact_pen);
    }
    for (size_t i = 0; i < n; i++) {
        snprintf(words, sizeof words, "%s ", facts[i].name);
        x = fs_draw_words(im, x + 18, base, words, &soft_pen);
        snprintf(words, sizeof words, "%.3f", facts[i].value);
        x = fs_draw_words(im, x, base, words, &fact_pen);
    }
}

/* A panel in the middle of its place, or what is to be known where there is none. */
static void put_panel(fs_image *im, int column, int64_t top, int64_t height, const fs_image *panel, const char *instead) {
    const int64_t left = MARGIN + column * (PANEL + GAP);
    if (!panel) {
        const double wide = fs_words_width(instead, soft_pen.height);
        fill(im, left, top, PANEL, height, blank);
        fs_draw_words(im, (double)left + (PANEL - wide) / 2, (double)top + ((double)height + soft_pen.height) / 2, instead, &soft_pen);
        return;
    }
    const int64_t w = fs_min_i64(panel->width, PANEL), h = fs_min_i64(panel->height, height);
    const int64_t x = left + (PANEL - w) / 2, y = top + (height - h) / 2;
    fill(im, x - 1, y - 1, w + 2, h + 2, frame); /* truth and map are often black to the edge, pictures white */
    for (int64_t k = 0; k < h; k++) memcpy(im->data + 3 * ((y + k) * im->width + x), panel->data + 3 * k * panel->width, (size_t)w * 3);
}

static fs_status put_row(fs_image *im, int64_t top, const line *l, const fs_eval_info *info, fs_error *err) {
    const fs_eval_row *r = l->row;
    const char *no_map = r->silent ? "nothing marked" : "no map";
    fs_panels p = {0};
    fill(im, MARGIN, top, WIDTH - 2 * MARGIN, 1, frame);
    put_label(im, top, r);
    fs_status status = l->height ? fs_panels_make(info, r, &box, &p, err) : FS_OK;
    if (status) return status;
    top += LABEL;
    if (p.picture) {
        put_panel(im, 0, top, l->height, p.picture, "");
        put_panel(im, 1, top, l->height, p.truth, r->tampered ? "no mask of the truth" : "authentic: nothing to mark");
        put_panel(im, 2, top, l->height, p.map, no_map);
        put_panel(im, 3, top, l->height, p.marked, no_map);
    } else {
        fs_draw_words(im, MARGIN, (double)top + 24, "The picture could not be read when this sheet was made.", &soft_pen);
    }
    fs_panels_free(&p);
    return FS_OK;
}

/* ---- the whole ---- */

static void put_head(fs_image *im, const fs_eval_book *book, size_t shown, size_t there) {
    static const char *const heads[COLUMNS] = {"picture", "truth", "score map", "marked at 0.5"};
    char words[200];
    snprintf(words, sizeof words, "%.60s", book->info.name);
    double x = fs_draw_words(im, MARGIN, 38, words, &title_pen) + 16;
    snprintf(words, sizeof words, "%zu of %zu pictures%s%.60s", shown, there, *book->info.model ? ", answers from " : "", book->info.model);
    fs_draw_words(im, x, 38, words, &soft_pen);
    for (int c = 0; c < COLUMNS; c++) fs_draw_words(im, MARGIN + c * (PANEL + GAP), HEAD - 12, heads[c], &soft_pen);
    /* the scale of the map's colors */
    const int64_t right = MARGIN + 3 * PANEL + 2 * GAP, left = right - 160;
    fs_draw_words(im, (double)left - 14, HEAD - 12, "0", &soft_pen);
    for (int64_t i = 0; i < 140; i++) {
        uint8_t color[3];
        fs_panel_ramp((double)i / 139, color);
        fill(im, left + i, HEAD - 23, 1, 11, color);
    }
    fs_draw_words(im, (double)left + 148, HEAD - 12, "1", &soft_pen);
}

fs_status fs_eval_write_sheet(const fs_eval_book *book, const fs_eval_options *opt, const char *path, fs_error *err) {
    fs_image *im = NULL;
    line *lines = fs_alloc((size_t)opt->sheet, sizeof *lines);
    if (!lines) return fs_eval_no_memory(err, "the contact sheet");
    const size_t n = choose(&book->rows, (size_t)opt->sheet, lines);
    size_t there = 0;
    int64_t height = HEAD, top = HEAD;
    for (size_t i = 0; i < book->rows.count; i++) there += !book->rows.items[i].step;
    for (size_t i = 0; i < n; i++) {
        lines[i].height = panel_height(lines[i].row);
        height += LABEL + (lines[i].height ? lines[i].height : GONE) + BELOW;
    }
    fs_status status = fs_image_create(WIDTH, height, &im, err);
    if (status) goto done;
    fill(im, 0, 0, WIDTH, height, paper);
    put_head(im, book, n, there);
    for (size_t i = 0; i < n && !status; i++) {
        status = fs_cancelled(&opt->callbacks) ? fs_fail(err, FS_E_CANCELLED, "cancelled") : put_row(im, top, &lines[i], &book->info, err);
        top += LABEL + (lines[i].height ? lines[i].height : GONE) + BELOW;
    }
    if (!status) status = fs_png_write(path, im->data, WIDTH, height, 3, err);
done:
    fs_image_free(im);
    free(lines);
    return status;
}
