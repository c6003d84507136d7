/* Single pictures in the report: the picture, the mask of truth, the program's map, the overlay, and what was said. Thumbnails are embedded
 * as JPEG, so that the report is one file which can be sent on. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report.h"

enum { THUMB_W = 300, THUMB_H = 240, QUALITY = 82, TEXT_SHOWN = 700 };

/* ---- pictures ---- */

static void base64(fs_buffer *b, const uint8_t *p, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        const uint32_t v = (uint32_t)p[i] << 16 | (uint32_t)(i + 1 < n ? p[i + 1] : 0) << 8 | (i + 2 < n ? p[i + 2] : 0);
        const char four[4] = {digits[v >> 18], digits[v >> 12 & 63], i + 1 < n ? digits[v >> 6 & 63] : '=',
                              i + 2 < n ? digits[v & 63] : '='};
        fs_buffer_add(b, four, 4);
    }
}

static void put_picture(fs_buffer *b, const fs_image *im, const char *caption) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    fs_error ignored;
    if (fs_jpeg_encode_quality(im->data, im->width, im->height, 3, QUALITY, false, &bytes, &size, &ignored)) {
        b->failed = true;
        return;
    }
    fs_buffer_printf(b, "<figure><img alt=\"%s\" width=\"%lld\" height=\"%lld\" src=\"data:image/jpeg;base64,", caption,
                     (long long)im->width, (long long)im->height);
    base64(b, bytes, size);
    fs_buffer_printf(b, "\"><figcaption>%s</figcaption></figure>", caption);
    free(bytes);
}

static fs_status put_thumbs(fs_buffer *b, const fs_eval_row *r, const fs_eval_info *info, fs_error *err) {
    static const fs_panel_box box = {THUMB_W, THUMB_H, false};
    fs_panels p;
    fs_status status = fs_panels_make(info, r, &box, &p, err);
    if (status) return status;
    if (p.picture)
        put_picture(b, p.picture, "picture");
    else
        fs_buffer_puts(b, "<p class=\"gone\">The picture could not be read when this report was made.</p>");
    if (p.truth) put_picture(b, p.truth, "truth");
    if (p.map) put_picture(b, p.map, r->pixels.binary ? "marked" : "score map");
    if (p.marked) put_picture(b, p.marked, "marked at 0.5");
    fs_panels_free(&p);
    return FS_OK;
}

/* ---- cards ---- */

static void put_text(fs_buffer *b, const char *text) {
    size_t n = strlen(text);
    if (n > TEXT_SHOWN) {
        n = TEXT_SHOWN;
        while (n && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
    }
    char *head = fs_format("%.*s", (int)n, text);
    fs_buffer_puts(b, "<blockquote>");
    if (head)
        fs_html_text(b, head);
    else
        b->failed = true;
    fs_buffer_puts(b, text[n] ? " &hellip;</blockquote>" : "</blockquote>");
    free(head);
}

static fs_status put_card(fs_buffer *b, const fs_eval_row *r, const fs_eval_info *info, fs_error *err) {
    fs_row_fact facts[FS_ROW_FACTS];
    fs_row_judgement how;
    const char *called = fs_row_called(r, &how);
    fs_buffer_puts(b, "<article><h4>");
    fs_html_text(b, r->name);
    fs_buffer_puts(b, " <small>");
    fs_html_text(b, r->set);
    fs_buffer_printf(b, "</small></h4><p class=\"facts\"><span class=\"%s\">%s</span>", r->tampered ? "bad" : "good",
                     r->tampered ? "forged" : "authentic");
    if (called) {
        static const char *const marks[] = {[FS_ROW_OPEN] = "", [FS_ROW_RIGHT] = " &#10003;", [FS_ROW_WRONG] = " &#10007;"};
        fs_buffer_printf(b, "<span>called <b>%s</b>%s</span>", called, marks[how]);
    }
    const size_t n = fs_row_facts(r, facts);
    for (size_t i = 0; i < n; i++) fs_buffer_printf(b, "<span>%s <b>%.3f</b></span>", facts[i].name, facts[i].value);
    fs_buffer_puts(b, "</p><div class=\"thumbs\">");
    fs_status status = put_thumbs(b, r, info, err);
    fs_buffer_puts(b, "</div>");
    if (r->text && *r->text) put_text(b, r->text);
    fs_buffer_puts(b, "</article>\n");
    return status;
}

/* ---- which ---- */

typedef struct ranked {
    double key;
    const fs_eval_row *row;
} ranked;

static int by_key(const void *a, const void *b) {
    const ranked *x = a, *y = b;
    if (x->key != y->key) return x->key > y->key ? -1 : 1;
    return (x->row->index > y->row->index) - (x->row->index < y->row->index);
}

typedef enum album { ALL, BEST, WORST, MISSED, FALSE_ALARM, LEFT_ALONE } album;

/* How much a row belongs into an album; NaN: not at all. */
static double key_of(const fs_eval_row *r, album a) {
    const bool said = r->answered ? r->literal == FS_VERDICT_TAMPERED : r->has_score && r->score > 0.5, spoke = r->answered || r->has_score;
    const double score = r->has_score && !isnan(r->score) ? r->score : 0.5;
    if (r->step) return NAN;
    switch (a) {
    case ALL:
        return 0; /* in their order */
    case BEST:
        return r->tampered && r->located && r->pixels.iou > 0 ? r->pixels.iou : NAN;
    case WORST:
        return r->tampered && r->located && !r->silent ? -r->pixels.iou : NAN;
    case MISSED:
        return r->tampered && spoke && !said ? 1 - score : NAN;
    case FALSE_ALARM:
        return !r->tampered && spoke && said ? score : NAN;
    case LEFT_ALONE:
        return !r->tampered && spoke && !said ? score : NAN;
    }
    return NAN;
}

bool fs_html_gallery_first(const fs_eval_book *book, const fs_eval_options *opt) {
    size_t n = 0;
    for (size_t i = 0; i < book->rows.count; i++) n += !book->rows.items[i].step;
    return n <= (size_t)opt->gallery;
}

fs_status fs_html_gallery(fs_buffer *b, const fs_eval_book *book, const fs_eval_options *opt, fs_error *err) {
    static const struct {
        album album;
        const char *head, *text;
    } albums[] = {{ALL, "All of them", "So few that none had to be chosen."},
                  {BEST, "Best localized", "Forged pictures whose marked region agrees best with the truth."},
                  {WORST, "Worst localized", "Forged pictures with a map that agrees least with the truth."},
                  {MISSED, "Forgeries missed", "Forged pictures that were called authentic."},
                  {FALSE_ALARM, "False alarms", "Authentic pictures that were called tampered: for a newsroom, the costly mistake."},
                  {LEFT_ALONE, "Left alone", "Authentic pictures that were called authentic, those with the highest scores first."}};
    ranked *list = fs_alloc(book->rows.count, sizeof *list);
    bool *best = fs_alloc_zero(book->rows.count, sizeof *best); /* which are shown as that */
    fs_status status = list && best ? FS_OK : fs_eval_no_memory(err, "the report");
    const bool few = fs_html_gallery_first(book, opt);
    for (size_t a = 0; a < sizeof albums / sizeof *albums && !status; a++) {
        size_t n = 0;
        if ((albums[a].album == ALL) != few) continue;
        for (size_t i = 0; i < book->rows.count; i++) {
            const double key = key_of(&book->rows.items[i], albums[a].album);
            const bool again = albums[a].album == WORST && best[i]; /* a small run would show the same pictures twice */
            if (!isnan(key) && !again) list[n++] = (ranked){key, &book->rows.items[i]};
        }
        if (!n) continue;
        qsort(list, n, sizeof *list, by_key);
        const size_t shown = n < (size_t)opt->gallery ? n : (size_t)opt->gallery;
        fs_buffer_printf(b, "<h3>%s <small>%zu of %zu</small></h3><p>%s</p><div class=\"cards\">\n", albums[a].head, shown, n,
                         albums[a].text);
        for (size_t i = 0; i < shown && !status; i++) {
            status = put_card(b, list[i].row, &book->info, err);
            if (albums[a].album == BEST) best[list[i].row - book->rows.items] = true;
        }
        fs_buffer_puts(b, "</div>\n");
    }
    free(list);
    free(best);
    return status;
}
