/* Single pictures in the report: the picture, the mask of truth, the program's map, the overlay, and what was said. Thumbnails are embedded
 * as JPEG, so that the report is one file which can be sent on. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "eval/report.h"
#include "image/image.h"

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

/* The largest size of these proportions that fits a thumbnail. */
static void fit(int64_t w, int64_t h, int64_t *tw, int64_t *th) {
    const double scale = fmin(1, fmin((double)THUMB_W / (double)w, (double)THUMB_H / (double)h));
    *tw = fs_max_i64(1, (int64_t)((double)w * scale + 0.5));
    *th = fs_max_i64(1, (int64_t)((double)h * scale + 0.5));
}

/* Dark blue over orange to pale yellow: what a program is sure of is light. */
static void ramp(double v, uint8_t rgb[3]) {
    static const double stops[5][3] = {{13, 16, 48}, {80, 25, 105}, {190, 55, 75}, {247, 140, 40}, {252, 246, 180}};
    const double at = fmax(0, fmin(1, v)) * 4;
    const int i = at >= 4 ? 3 : (int)at;
    for (int c = 0; c < 3; c++) rgb[c] = (uint8_t)(stops[i][c] + (stops[i + 1][c] - stops[i][c]) * (at - i) + 0.5);
}

/* A picture of a map, or of a mask (plain: black and white). */
static fs_status paint(const fs_map *m, bool plain, fs_image **out, fs_error *err) {
    fs_image *im = NULL, *small = NULL;
    int64_t w, h;
    fit(m->width, m->height, &w, &h);
    fs_status status = fs_image_create(m->width, m->height, &im, err);
    for (int64_t i = 0; !status && i < m->width * m->height; i++) {
        if (plain)
            memset(im->data + 3 * i, m->score[i] > 0.5f ? 255 : 0, 3);
        else
            ramp((double)m->score[i], im->data + 3 * i);
    }
    if (!status) status = fs_image_resize(im, w, h, FS_FILTER_BILINEAR, &small, err);
    fs_image_free(im);
    *out = small;
    return status;
}

/* The thumbnail with what the map marks tinted. */
static fs_status overlay(const fs_image *thumb, const fs_map *map, fs_image **out, fs_error *err) {
    const int64_t n = thumb->width * thumb->height;
    uint8_t *mask = fs_alloc((size_t)n, 1);
    fs_map small = {map->width, map->height, fs_alloc((size_t)map->width * (size_t)map->height, sizeof(float))};
    fs_status status = mask && small.score ? FS_OK : fs_eval_no_memory(err, "the report");
    if (!status) {
        memcpy(small.score, map->score, (size_t)map->width * (size_t)map->height * sizeof(float));
        status = fs_map_resize(&small, thumb->width, thumb->height, err);
    }
    for (int64_t i = 0; !status && i < n; i++) mask[i] = small.score[i] > 0.5f ? 255 : 0;
    if (!status) status = fs_draw_overlay(thumb, mask, out, err);
    free(mask);
    fs_map_free(&small);
    return status;
}

static fs_status put_thumbs(fs_buffer *b, const fs_eval_row *r, const fs_eval_options *opt, bool inverted, fs_error *err) {
    const fs_decode_options how = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_map_options maps = fs_map_options_defaults();
    maps.logits = opt->logits;
    fs_image *im = NULL, *thumb = NULL, *drawn = NULL, *truth_picture = NULL, *map_picture = NULL;
    fs_map map = {0}, truth = {0};
    uint8_t *mask = NULL;
    fs_error ignored;
    int64_t w, h;
    fs_status status = FS_OK;
    if (fs_image_load(r->image, &how, &im, NULL, &ignored)) {
        fs_buffer_puts(b, "<p class=\"gone\">The picture could not be read when this report was made.</p>");
        goto done;
    }
    fit(im->width, im->height, &w, &h);
    if ((status = fs_image_resize(im, w, h, FS_FILTER_BICUBIC, &thumb, err))) goto done;
    put_picture(b, thumb, "picture");
    if (r->mask && !fs_truth_read(r->mask, inverted, &mask, &truth.width, &truth.height, NULL, &ignored)) {
        truth.score = fs_alloc((size_t)truth.width * (size_t)truth.height, sizeof(float));
        for (int64_t i = 0; truth.score && i < truth.width * truth.height; i++) truth.score[i] = mask[i] ? 1 : 0;
        if (truth.score && !(status = paint(&truth, true, &truth_picture, err))) put_picture(b, truth_picture, "truth");
    }
    if (!status && r->map && !fs_map_read(r->map, &maps, &map, &ignored)) {
        if (!(status = paint(&map, r->pixels.binary, &map_picture, err)))
            put_picture(b, map_picture, r->pixels.binary ? "marked" : "score map");
        if (!status && !(status = overlay(thumb, &map, &drawn, err))) put_picture(b, drawn, "marked at 0.5");
    }
done:
    free(mask);
    fs_map_free(&map);
    fs_map_free(&truth);
    fs_image_free(im);
    fs_image_free(thumb);
    fs_image_free(drawn);
    fs_image_free(truth_picture);
    fs_image_free(map_picture);
    return status;
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

static void put_fact(fs_buffer *b, const char *name, double v) {
    if (isnan(v)) return;
    fs_buffer_printf(b, "<span>%s <b>%.3f</b></span>", name, v);
}

static fs_status put_card(fs_buffer *b, const fs_eval_row *r, const fs_eval_options *opt, bool inverted, fs_error *err) {
    fs_buffer_puts(b, "<article><h4>");
    fs_html_text(b, r->name);
    fs_buffer_puts(b, " <small>");
    fs_html_text(b, r->set);
    fs_buffer_printf(b, "</small></h4><p class=\"facts\"><span class=\"%s\">%s</span>", r->tampered ? "bad" : "good",
                     r->tampered ? "forged" : "authentic");
    if (r->answered) {
        const bool right = (r->literal == FS_VERDICT_TAMPERED) == r->tampered;
        fs_buffer_printf(b, "<span>called <b>%s</b> %s</span>", fs_verdict_name(r->literal), right ? "&#10003;" : "&#10007;");
    }
    if (r->has_score) put_fact(b, "score", r->score);
    if (r->located && r->tampered)
        put_fact(b, "IoU", r->pixels.iou), put_fact(b, "F1", r->pixels.f1), put_fact(b, "pixel AUC", r->pixels.auc);
    if (r->located && !r->tampered && !r->silent)
        put_fact(b, "share marked", r->pixels.fixed.fp / (r->pixels.fixed.fp + r->pixels.fixed.tn));
    put_fact(b, "CSS", r->css);
    fs_buffer_puts(b, "</p><div class=\"thumbs\">");
    fs_status status = put_thumbs(b, r, opt, inverted, err);
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

typedef enum album { BEST, WORST, MISSED, FALSE_ALARM } album;

/* How much a row belongs into an album; NaN: not at all. */
static double key_of(const fs_eval_row *r, album a) {
    const bool said = r->answered ? r->literal == FS_VERDICT_TAMPERED : r->has_score && r->score > 0.5, spoke = r->answered || r->has_score;
    const double score = r->has_score && !isnan(r->score) ? r->score : 0.5;
    if (r->step) return NAN;
    switch (a) {
    case BEST:
        return r->tampered && r->located && r->pixels.iou > 0 ? r->pixels.iou : NAN;
    case WORST:
        return r->tampered && r->located && !r->silent ? -r->pixels.iou : NAN;
    case MISSED:
        return r->tampered && spoke && !said ? 1 - score : NAN;
    case FALSE_ALARM:
        return !r->tampered && spoke && said ? score : NAN;
    }
    return NAN;
}

fs_status fs_html_gallery(fs_buffer *b, const fs_eval_book *book, const fs_eval_options *opt, fs_error *err) {
    static const struct {
        album album;
        const char *head, *text;
    } albums[] = {{BEST, "Best localized", "Forged pictures whose marked region agrees best with the truth."},
                  {WORST, "Worst localized", "Forged pictures with a map that agrees least with the truth."},
                  {MISSED, "Forgeries missed", "Forged pictures that were called authentic."},
                  {FALSE_ALARM, "False alarms", "Authentic pictures that were called tampered: for a newsroom, the costly mistake."}};
    const bool inverted = json_is_true(json_object_get(book->info.settings, "invert_truth"));
    ranked *list = fs_alloc(book->rows.count, sizeof *list);
    fs_status status = list ? FS_OK : fs_eval_no_memory(err, "the report");
    for (size_t a = 0; a < sizeof albums / sizeof *albums && !status; a++) {
        size_t n = 0;
        for (size_t i = 0; i < book->rows.count; i++) {
            const double key = key_of(&book->rows.items[i], albums[a].album);
            if (!isnan(key)) list[n++] = (ranked){key, &book->rows.items[i]};
        }
        if (!n) continue;
        qsort(list, n, sizeof *list, by_key);
        const size_t shown = n < (size_t)opt->gallery ? n : (size_t)opt->gallery;
        fs_buffer_printf(b, "<h3>%s <small>%zu of %zu</small></h3><p>%s</p><div class=\"cards\">\n", albums[a].head, shown, n,
                         albums[a].text);
        for (size_t i = 0; i < shown && !status; i++) status = put_card(b, list[i].row, opt, inverted, err);
        fs_buffer_puts(b, "</div>\n");
    }
    free(list);
    return status;
}
