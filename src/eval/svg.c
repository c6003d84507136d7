/* Charts as SVG inside the report: no script, no fonts or files from elsewhere. */
#include <inttypes.h>
#include <math.h>

#include "eval/report.h"

enum {
    WIDTH = 460,
    HEIGHT = 340,
    LEFT = 52,
    RIGHT = 14,
    TOP = 34,
    BOTTOM = 48,
    PLOT_W = WIDTH - LEFT - RIGHT,
    PLOT_H = HEIGHT - TOP - BOTTOM
};

#define GREY "#8a94a3"

/* Okabe and Ito's colours, which the colour-blind tell apart. */
const char *fs_svg_color(size_t i) {
    static const char *const colors[] = {"#0b5394", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9", "#5b3a9d", "#444444"};
    return colors[i % (sizeof colors / sizeof *colors)];
}

static void text_at(fs_buffer *b, double x, double y, const char *anchor, const char *class, const char *s) {
    fs_buffer_printf(b, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" class=\"%s\">", x, y, anchor, class);
    fs_html_text(b, s);
    fs_buffer_puts(b, "</text>");
}

static void begin(fs_buffer *b, const char *title, const char *x_label, const char *y_label) {
    fs_buffer_printf(b, "<svg class=\"chart\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    fs_html_text(b, title);
    fs_buffer_puts(b, "\">");
    text_at(b, LEFT, 18, "start", "title", title);
    text_at(b, LEFT + PLOT_W / 2.0, HEIGHT - 8, "middle", "axis", x_label);
    fs_buffer_printf(b, "<text transform=\"translate(13 %.1f) rotate(-90)\" text-anchor=\"middle\" class=\"axis\">", TOP + PLOT_H / 2.0);
    fs_html_text(b, y_label);
    fs_buffer_puts(b, "</text>");
}

static double x_at(double v) {
    return LEFT + v * PLOT_W;
}
static double y_at(double v) {
    return TOP + (1 - v) * PLOT_H;
}

static void y_grid(fs_buffer *b, double top, const char *format) {
    char label[32];
    for (int i = 0; i <= 5; i++) {
        const double y = y_at(i / 5.0);
        fs_buffer_printf(b, "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>", LEFT, LEFT + PLOT_W, y, y,
                         i ? "grid" : "base");
        snprintf(label, sizeof label, format, top * i / 5);
        text_at(b, LEFT - 6, y + 4, "end", "tick", label);
    }
}

static void x_numbers(fs_buffer *b) {
    char label[32];
    for (int i = 0; i <= 5; i++) {
        snprintf(label, sizeof label, "%.1f", i / 5.0);
        text_at(b, x_at(i / 5.0), TOP + PLOT_H + 16, "middle", "tick", label);
    }
}

static void draw_line(fs_buffer *b, const fs_chart *c, const fs_chart_line *l) {
    const double span = c->n_names > 1 ? (double)(c->n_names - 1) : 1;
    bool open = false;
    if (l->dots) {
        for (size_t i = 0; i < l->n; i++)
            fs_buffer_printf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.2\" fill=\"%s\" fill-opacity=\"0.55\"/>", x_at(l->x[i]),
                             y_at(l->y[i]), fs_svg_color(l->color));
        return;
    }
    fs_buffer_printf(b, "<path fill=\"none\" stroke=\"%s\" stroke-width=\"%s\"%s d=\"", l->dashed ? GREY : fs_svg_color(l->color),
                     l->dashed ? "1.3" : "2", l->dashed ? " stroke-dasharray=\"5 4\"" : "");
    for (size_t i = 0; i < l->n; i++) {
        if (isnan(l->y[i]) || isnan(l->x[i])) {
            open = false;
            continue;
        }
        const double x = x_at(c->x_names ? l->x[i] / span : l->x[i]), y = y_at(l->y[i]);
        fs_buffer_printf(b, "%c%.1f %.1f", open ? 'L' : 'M', x, y);
        open = true;
    }
    fs_buffer_puts(b, "\"/>");
    for (size_t i = 0; c->x_names && i < l->n; i++)
        if (!isnan(l->y[i]))
            fs_buffer_printf(b, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"/>", x_at(l->x[i] / span), y_at(l->y[i]),
                             fs_svg_color(l->color));
}

void fs_svg_chart(fs_buffer *b, const fs_chart *c) {
    fs_buffer_puts(b, "<figure>");
    begin(b, c->title, c->x_label, c->y_label);
    y_grid(b, 1, "%.1f");
    if (!c->x_names) x_numbers(b);
    for (size_t i = 0; c->x_names && i < c->n_names; i++)
        text_at(b, x_at(c->n_names > 1 ? (double)i / (double)(c->n_names - 1) : 0.5), TOP + PLOT_H + 16,
                i ? i + 1 == c->n_names ? "end" : "middle" : "start", "tick", c->x_names[i]);
    for (size_t i = 0; i < c->n_lines; i++) draw_line(b, c, &c->lines[i]);
    fs_buffer_puts(b, "</svg><figcaption>");
    for (size_t i = 0; i < c->n_lines; i++) {
        fs_buffer_printf(b, "<span><i style=\"background:%s\"></i>", c->lines[i].dashed ? GREY : fs_svg_color(c->lines[i].color));
        fs_html_text(b, c->lines[i].name);
        fs_buffer_puts(b, "</span>");
    }
    fs_buffer_puts(b, "</figcaption></figure>");
}

void fs_svg_histogram(fs_buffer *b, const char *title, const char *x_label, const size_t *bars, size_t n) {
    size_t most = 5, sum = 0;
    for (size_t i = 0; i < n; i++) most = bars[i] > most ? bars[i] : most, sum += bars[i];
    most = (most + 4) / 5 * 5;
    fs_buffer_puts(b, "<figure>");
    begin(b, title, x_label, "pictures");
    y_grid(b, (double)most, "%.0f");
    x_numbers(b);
    for (size_t i = 0; i < n; i++) {
        if (!bars[i]) continue;
        const double x = x_at((double)i / (double)n), y = y_at((double)bars[i] / (double)most);
        fs_buffer_printf(b, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#0b5394\" fill-opacity=\"0.8\"/>", x + 1, y,
                         PLOT_W / (double)n - 2, TOP + PLOT_H - y);
    }
    fs_buffer_printf(b, "</svg><figcaption><span>%zu tampered pictures</span></figcaption></figure>", sum);
}
