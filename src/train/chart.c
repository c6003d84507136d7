/* Line charts (chart.h). A series of more points than there are pixels is thinned: each run of points gives its lowest and its highest, so
 * that spikes stay. The y axis spans all but the outermost percent of the values, and the whole of what is smoothed. */
#include "train/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    WIDTH = 560,
    HEIGHT = 280,
    LEFT = 56,
    RIGHT = 548,
    TOP = 22,
    BOTTOM = 246,
    BUCKETS = 400, /* thinned to twice as many points */
    DOTS = 60      /* points up to which each is marked */
};

/* One series without its gaps, scaled. */
typedef struct line {
    double *x, *y, *smooth;
    size_t n;
    bool noisy;
} line;
typedef struct axes {
    double x0, x1, y0, y1;
    int exponent;
} axes; /* y is shown divided by 10^exponent */

size_t fs_series_points(const double *values, size_t count) {
    size_t n = 0;
    for (size_t i = 0; i < count; i++) n += isfinite(values[i]) != 0;
    return n;
}

/* out[i]: mean of the values not further than `half` from i. */
static void box(const double *values, size_t count, size_t half, double *out) {
    double sum = 0;
    size_t from = 0, to = 0; /* of the values in the sum */
    for (size_t i = 0; i < count; i++) {
        for (; to < count && to <= i + half; to++) sum += values[to];
        for (; from + half < i; from++) sum -= values[from];
        out[i] = sum / (double)(to - from);
    }
}

bool fs_smooth(const double *values, size_t count, double *out) {
    const size_t part = count / 100, half = part < 1 ? 1 : part > 250 ? 250 : part;
    double *once = fs_alloc(count, sizeof *once);
    if (!once) return false;
    box(values, count, half, once);
    box(once, count, half, out);
    free(once);
    return true;
}

void fs_html_escape(fs_buffer *out, const char *text) {
    for (; *text; text++) {
        if (*text == '&')
            fs_buffer_puts(out, "&amp;");
        else if (*text == '<')
            fs_buffer_puts(out, "&lt;");
        else if (*text == '>')
            fs_buffer_puts(out, "&gt;");
        else if (*text == '"')
            fs_buffer_puts(out, "&quot;");
        else if (*text == '\'')
            fs_buffer_puts(out, "&#39;");
        else
            fs_buffer_add(out, text, 1);
    }
}

/* ---- lines and axes ----------------------------------------------------------------------------------------------------- */

static bool make_line(const fs_chart_series *s, const fs_chart *c, line *out) {
    const size_t n = fs_series_points(s->values, s->count);
    *out = (line){.x = fs_alloc(n, sizeof(double)),
                  .y = fs_alloc(n, sizeof(double)),
                  .smooth = fs_alloc(n, sizeof(double)),
                  .n = n,
                  .noisy = !c->exact && n >= FS_CHART_NOISY};
    if (!out->x || !out->y || !out->smooth) return false;
    size_t at = 0;
    for (size_t i = 0; i < s->count; i++) {
        if (!isfinite(s->values[i])) continue;
        out->x[at] = (double)s->steps[i];
        out->y[at++] = fmin(fmax(s->values[i] * c->scale, -1e100), 1e100); /* so that no range overflows */
    }
    return fs_smooth(out->y, n, out->smooth);
}

static void free_line(line *l) {
    free(l->x);
    free(l->y);
    free(l->smooth);
}

static int by_value(const void *a, const void *b) {
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* 1, 2 or 5 times a power of ten, for about `ticks` of them. */
static double tick_step(double range, int ticks) {
    const double raw = range / ticks, power = pow(10, floor(log10(raw))), digit = raw / power;
    return power * (digit <= 1 ? 1 : digit <= 2 ? 2 : digit <= 5 ? 5 : 10);
}

static bool span(const line *lines, const fs_chart *c, axes *a) {
    *a = (axes){.x0 = (double)c->first, .x1 = (double)c->last, .y0 = INFINITY, .y1 = -INFINITY};
    for (int k = 0; k < c->count; k++) {
        const line *l = &lines[k];
        if (l->n == 0) continue;
        double *sorted = fs_alloc(l->n, sizeof(double));
        if (!sorted) return false;
        memcpy(sorted, l->y, l->n * sizeof(double));
        qsort(sorted, l->n, sizeof(double), by_value);
        const size_t cut = l->noisy ? l->n / 200 : 0;
        a->y0 = fmin(a->y0, sorted[cut]);
        a->y1 = fmax(a->y1, sorted[l->n - 1 - cut]);
        for (size_t i = 0; i < l->n && l->noisy; i++) {
            a->y0 = fmin(a->y0, l->smooth[i]);
            a->y1 = fmax(a->y1, l->smooth[i]);
        }
        free(sorted);
    }
    if (a->x1 <= a->x0) a->x0 -= 1, a->x1 += 1; /* a single step */
    if (a->y1 < a->y0) a->y0 = 0, a->y1 = 1;    /* no number at all */
    if (c->from_zero && a->y0 > 0) a->y0 = 0;
    const double least = fmax(fabs(a->y1), fabs(a->y0)) * 1e-3 + 1e-12;
    if (a->y1 - a->y0 < least) a->y0 -= c->from_zero && a->y0 == 0 ? 0 : least, a->y1 += least;
    const double step = tick_step(a->y1 - a->y0, 5);
    a->y0 = floor(a->y0 / step + 1e-9) * step;
    a->y1 = ceil(a->y1 / step - 1e-9) * step;
    const double largest = fmax(fabs(a->y0), fabs(a->y1));
    const int exponent = (int)floor(log10(largest) + 1e-9);
    a->exponent = exponent < -2 || exponent > 4 ? exponent : 0;
    return true;
}

static double place_x(const axes *a, double x) {
    return LEFT + (x - a->x0) / (a->x1 - a->x0) * (RIGHT - LEFT);
}
static double place_y(const axes *a, double y) {
    return BOTTOM - (y - a->y0) / (a->y1 - a->y0) * (BOTTOM - TOP);
}

static int decimals(double step) {
    return (int)fmax(0, -floor(log10(step) + 1e-9));
}

static void draw_axes(fs_buffer *out, const axes *a) {
    const double step_y = tick_step(a->y1 - a->y0, 5), unit = pow(10, a->exponent), step_x = fmax(1, tick_step(a->x1 - a->x0, 7));
    fs_buffer_puts(out, "<g class=\"axes\">\n");
    for (int i = 0; i <= 12; i++) {
        const double y = a->y0 + i * step_y;
        if (y > a->y1 + step_y * 0.01) break;
        fs_buffer_printf(out, "<path d=\"M%d %.1fH%d\"/><text x=\"%d\" y=\"%.1f\" class=\"y\">%.*f</text>\n", LEFT, place_y(a, y), RIGHT,
                         LEFT - 7, place_y(a, y) + 4, decimals(step_y / unit), fabs(y) < step_y * 1e-6 ? 0.0 : y / unit);
    }
    const double first = ceil(a->x0 / step_x) * step_x;
    for (int i = 0; i <= 12; i++) {
        const double x = first + i * step_x;
        if (x > a->x1) break;
        fs_buffer_printf(out, "<path d=\"M%.1f %dv5\"/><text x=\"%.1f\" y=\"%d\" class=\"x\">%.0f</text>\n", place_x(a, x), BOTTOM,
                         place_x(a, x), BOTTOM + 18, fabs(x) < 0.5 ? 0.0 : x);
    }
    if (a->exponent)
        fs_buffer_printf(out, "<text x=\"%d\" y=\"%d\">&#215;10<tspan dy=\"-5\" class=\"small\">%d</tspan></text>\n", LEFT, TOP - 9,
                         a->exponent);
    fs_buffer_printf(out, "<text x=\"%d\" y=\"%d\" class=\"y\">step</text></g>\n", RIGHT, BOTTOM + 31);
}

/* ---- courses -------------------------------------------------------------------------------------------------------------- */

/* The index ranges that each become one or two points. */
static size_t stride_of(size_t n) {
    return n <= 2 * BUCKETS ? 1 : (n + BUCKETS - 1) / BUCKETS;
}

static void point(fs_buffer *out, const axes *a, double x, double y, bool first) {
    /* far outside is as good as outside: the drawing is clipped */
    const double py = fmin(fmax(place_y(a, y), -HEIGHT), 2 * HEIGHT);
    fs_buffer_printf(out, "%s%.1f %.1f", first ? "M" : "L", place_x(a, x), py);
}

static void draw_course(fs_buffer *out, const axes *a, const line *l, const double *y, bool extremes, int color, const char *class) {
    const size_t stride = stride_of(l->n);
    fs_buffer_printf(out, "<path class=\"%s c%d\" d=\"", class, color);
    for (size_t at = 0; at < l->n; at += stride) {
        const size_t end = at + stride < l->n ? at + stride : l->n;
        size_t low = at, high = at;
        for (size_t i = at; i < end && extremes; i++) {
            if (y[i] < y[low]) low = i;
            if (y[i] > y[high]) high = i;
        }
        const size_t one = low < high ? low : high, other = low < high ? high : low;
        point(out, a, l->x[one], y[one], at == 0);
        if (other != one) point(out, a, l->x[other], y[other], false);
    }
    if (l->n && (l->n - 1) % stride && !extremes) point(out, a, l->x[l->n - 1], y[l->n - 1], false);
    fs_buffer_puts(out, "\"/>\n");
    for (size_t i = 0; i < l->n && l->n <= DOTS; i++)
        fs_buffer_printf(out, "<circle class=\"c%d\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>\n", color, place_x(a, l->x[i]), place_y(a, y[i]));
}

/* What the page's script shows under the pointer. JSON within <script> ends at "</", which no label may have: it is escaped. */
static void write_data(fs_buffer *out, const fs_chart *c, const line *lines, const axes *a) {
    fs_buffer_printf(out, "<script type=\"application/json\">{\"x0\":%.10g,\"x1\":%.10g,\"left\":%d,\"right\":%d,\"width\":%d,\"series\":[",
                     a->x0, a->x1, LEFT, RIGHT, WIDTH);
    for (int k = 0; k < c->count; k++) {
        const line *l = &lines[k];
        const size_t stride = stride_of(l->n);
        fs_buffer_printf(out, "%s{\"label\":\"", k ? "," : "");
        for (const char *p = c->series[k].label; *p; p++) {
            if (strchr("\"\\<>&", *p) || (unsigned char)*p < 0x20)
                fs_buffer_printf(out, "\\u%04x", (unsigned)(unsigned char)*p);
            else
                fs_buffer_add(out, p, 1);
        }
        fs_buffer_printf(out, "\",\"color\":%d,\"points\":[", c->series[k].color);
        for (size_t i = 0; i < l->n; i += stride) {
            fs_buffer_printf(out, "%s[%.0f,%.5g", i ? "," : "", l->x[i], l->y[i]);
            if (l->noisy) fs_buffer_printf(out, ",%.5g", l->smooth[i]);
            fs_buffer_puts(out, "]");
        }
        fs_buffer_puts(out, "]}");
    }
    fs_buffer_puts(out, "]}</script>\n");
}

static void write_legend(fs_buffer *out, const fs_chart *c) {
    fs_buffer_puts(out, "<p class=\"legend\">");
    for (int k = 0; k < c->count; k++) {
        fs_buffer_printf(out, "<span><i class=\"b%d\"></i>", c->series[k].color);
        fs_html_escape(out, c->series[k].label);
        fs_buffer_puts(out, "</span>");
    }
    fs_buffer_puts(out, "</p>\n");
}

void fs_chart_html(fs_buffer *out, const fs_chart *c) {
    line lines[FS_CHART_SERIES] = {{0}};
    axes a;
    bool ok = true;
    for (int k = 0; k < c->count; k++) ok = make_line(&c->series[k], c, &lines[k]) && ok;
    if (!ok || !span(lines, c, &a)) {
        out->failed = true;
        goto done;
    }
    fs_buffer_puts(out, "<figure>\n<figcaption>");
    fs_html_escape(out, c->title);
    fs_buffer_printf(out, "</figcaption>\n<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    fs_html_escape(out, c->title);
    fs_buffer_printf(out, "\">\n<clipPath id=\"clip%d\"><rect x=\"%d\" y=\"%d\" width=\"%d\" height=\"%d\"/></clipPath>\n", c->id, LEFT,
                     TOP - 4, RIGHT - LEFT + 4, BOTTOM - TOP + 8);
    draw_axes(out, &a);
    fs_buffer_printf(out, "<g clip-path=\"url(#clip%d)\">\n", c->id);
    for (int k = 0; k < c->count; k++)
        if (lines[k].noisy) draw_course(out, &a, &lines[k], lines[k].y, true, c->series[k].color, "raw");
    for (int k = 0; k < c->count; k++)
        draw_course(out, &a, &lines[k], lines[k].noisy ? lines[k].smooth : lines[k].y, false, c->series[k].color, "line");
    fs_buffer_printf(out, "</g>\n<path class=\"cursor\" d=\"M0 %dV%d\"/>\n</svg>\n", TOP, BOTTOM);
    if (c->count > 1) write_legend(out, c);
    write_data(out, c, lines, &a);
    fs_buffer_puts(out, "</figure>\n");
done:
    for (int k = 0; k < c->count; k++) free_line(&lines[k]);
}
