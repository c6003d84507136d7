/* Words on a picture, for sheets that are to be read without a program beside them. The letters are strokes of a round pen, so they can
 * have any size, and no font file is needed: a line goes through the points of its glyph, a curve is the quadratic B-spline that has the
 * points as its control polygon (it begins at the first and ends at the last). Each pixel is inked by its distance to the nearest piece of
 * stroke, softened over one pixel. ASCII only; any other character is drawn as an empty box, one for each code point. */
#include "image/image.h"

#include <math.h>
#include <string.h>

/* Units: capitals are 12 high, small letters 8, descenders 4. A stroke is a list of points, a digit for x and a letter for y (a: 0, the
 * top; m: 12, the base line; q: 16); strokes are parted by spaces, and one that opens with ~ is a curve. In the order of ASCII, from '!'.
 */
static const char *const glyphs[] = {
    /* ! to / */
    "0a0i 0l0m",
    "0a0d 3a3d",
    "3b1l 7b5l 0e8e 0i8i",
    "~7d7b0b0g7g7l0l0j 3a3n",
    "8a1m ~2a4a4e0e0a2a ~7i9i9m5m5i7i",
    "8m2e ~2e1a5a5d ~5d5f0g0k ~0k0m7m8h",
    "0a0d",
    "~3a0e0k3o",
    "~0a3e3k0o",
    "3b3h 0c6g 6c0g",
    "3f3l 0i6i",
    "1l0o",
    "0i5i",
    "0l0m",
    "5a0n",
    /* digits */
    "~3a6a6m0m0a3a",
    "0c3a3m",
    "~0d0a6a6g0m 0m6m",
    "~0c0a6a6f2f ~2f6f6m0m0j",
    "5m5a0i7i",
    "6a1a0f ~0f2e6e6m0m0k",
    "~5b4a0a0h0i ~3f6f6m0m0f3f",
    "0a6a2m",
    "~3a6a6f0f0a3a ~3f6f6m0m0f3f",
    "~3a6a6g0g0a3a ~6d6e6m2m1l",
    /* : to @ */
    "0e0f 0l0m",
    "1e1f 1l0o",
    "6e0i6m",
    "0g6g 0k6k",
    "0e6i0m",
    "~0c0a6a6f3f3i 3l3m",
    "~6h6e3e3k6k6h ~6h6k9k9a0a0o6o7n",
    /* capitals */
    "0m4a8m 1j7j",
    "0f3f 0m0a3a ~3a7a7f3f ~3f8f8m3m 3m0m",
    "~8d8a0a0m8m8j",
    "0m0a3a ~3a8a8m3m 3m0m",
    "7a0a0m7m 0f6f",
    "7a0a0m 0f6f",
    "~8d8a0a0m8m8h 8h5h",
    "0a0m 8a8m 0f8f",
    "0a0m",
    "~5a5i5m0m0j",
    "0a0m 7a0i 3e7m",
    "0a0m6m",
    "0m0a4i8a8m",
    "0m0a8m8a",
    "~4a8a8m0m0a4a",
    "0m0a3a ~3a7a7g3g 3g0g",
    "~4a8a8m0m0a4a 5j8n",
    "0m0a3a ~3a7a7g3g 3g0g 4g8m",
    "~7d7a0a0g7g7m0m0j",
    "0a8a 4a4m",
    "~0a0h0m8m8h8a",
    "0a4m8a",
    "0a2m4c6m8a",
    "0a8m 8a0m",
    "0a4g8a 4g4m",
    "0a8a0m8m",
    /* [ to ` */
    "3a0a0o3o",
    "0a5n",
    "0a3a3o0o",
    "0e3a6e",
    "0n7n",
    "0a2c",
    /* small letters */
    "~3e6e6m0m0e3e 6e6m",
    "0a0m ~3e6e6m0m0e3e",
    "~6g6e0e0m6m6k",
    "6a6m ~3e6e6m0m0e3e",
    "0i6i ~6i6e0e0m5m6k",
    "~4a1a1d1m 0e4e",
    "~3e6e6m0m0e3e ~6e6k6q1q0o",
    "0a0m ~0i0e5e5i5m",
    "0e0m 0a0b",
    "~2e2m2q0q 2a2b",
    "0a0m 5e0j 2h5m",
    "0a0j ~0j0m2m",
    "0e0m ~0i0e4e4i4m ~4i4e8e8i8m",
    "0e0m ~0i0e5e5i5m",
    "~3e6e6m0m0e3e",
    "0e0q ~3e6e6m0m0e3e",
    "6e6q ~3e6e6m0m0e3e",
    "0e0m ~0i0e4e",
    "~5f5e0e0i5i5m0m0l",
    "~1b1i1m4m 0e4e",
    "~0e0i0m5m5i5e 5e5m",
    "0e3m6e",
    "0e2m4f6m8e",
    "0e6m 6e0m",
    "0e3m 6e1q0q",
    "0e6e0m6m",
    /* { to ~ */
    "~4a2a2g0h ~0h2i2o4o",
    "0a0q",
    "~0a2a2g4h ~4h2i2o0o",
    "~0j1f5l6h",
};
_Static_assert(sizeof glyphs / sizeof *glyphs == '~' - '!' + 1, "a glyph for every printing character");
static const char unknown[] = "0a6a6m0m0a";
enum { CAPITAL = 12, BLANK = 4, BETWEEN = 3, CURVE = 8, MOST = 256 }; /* CURVE: pieces of one bend; MOST: of one glyph */

typedef struct piece {
    double x0, y0, x1, y1;
} piece;

static const char *glyph_of(const char **s) {
    const unsigned char c = (unsigned char)*(*s)++;
    while (((unsigned char)**s & 0xC0) == 0x80) (*s)++; /* what belongs to a code point of several bytes */
    return c == ' ' ? NULL : c > ' ' && c <= '~' ? glyphs[c - '!'] : unknown;
}

/* How far the pen moves on, in units. */
static int advance(const char *glyph) {
    int w = 0;
    if (!glyph) return BLANK + BETWEEN - 1;
    for (; *glyph; glyph++)
        if (*glyph >= '0' && *glyph <= '9' && *glyph - '0' > w) w = *glyph - '0';
    return w + BETWEEN;
}

static size_t add(piece *p, size_t n, double x0, double y0, double x1, double y1) {
    if (n < MOST) p[n++] = (piece){x0, y0, x1, y1};
    return n;
}

/* One stroke's pieces; s behind it. */
static size_t stroke(const char **s, piece *p, size_t n) {
    double x[16], y[16];
    size_t points = 0;
    const bool curve = **s == '~';
    if (curve) (*s)++;
    for (; **s && **s != ' ' && points < 16; *s += 2, points++) x[points] = (*s)[0] - '0', y[points] = (*s)[1] - 'a';
    if (**s == ' ') (*s)++;
    if (!curve) {
        for (size_t i = 1; i < points; i++) n = add(p, n, x[i - 1], y[i - 1], x[i], y[i]);
        return n;
    }
    double fx = x[0], fy = y[0];
    for (size_t i = 1; i + 1 < points; i++) { /* from the middle of one side, bent towards its end, to the middle of the next */
        const bool last = i + 2 == points;
        const double tx = last ? x[i + 1] : (x[i] + x[i + 1]) / 2, ty = last ? y[i + 1] : (y[i] + y[i + 1]) / 2;
        double px = fx, py = fy;
        for (int k = 1; k <= CURVE; k++) {
            const double t = k / (double)CURVE, a = (1 - t) * (1 - t), b = 2 * t * (1 - t), c = t * t;
            const double qx = a * fx + b * x[i] + c * tx, qy = a * fy + b * y[i] + c * ty;
            n = add(p, n, px, py, qx, qy);
            px = qx, py = qy;
        }
        fx = tx, fy = ty;
    }
    return n;
}

/* The square of the distance from a point to a piece. */
static double distance2(const piece *p, double x, double y) {
    const double dx = p->x1 - p->x0, dy = p->y1 - p->y0, length2 = dx * dx + dy * dy;
    const double t = length2 > 0 ? fmax(0, fmin(1, ((x - p->x0) * dx + (y - p->y0) * dy) / length2)) : 0;
    const double ex = x - p->x0 - t * dx, ey = y - p->y0 - t * dy;
    return ex * ex + ey * ey;
}

static void ink(fs_image *im, const piece *p, size_t n, const fs_pen *pen) {
    double x0 = INFINITY, y0 = INFINITY, x1 = -INFINITY, y1 = -INFINITY;
    const double reach = pen->width / 2 + 1;
    for (size_t i = 0; i < n; i++) {
        x0 = fmin(x0, fmin(p[i].x0, p[i].x1)), x1 = fmax(x1, fmax(p[i].x0, p[i].x1));
        y0 = fmin(y0, fmin(p[i].y0, p[i].y1)), y1 = fmax(y1, fmax(p[i].y0, p[i].y1));
    }
    const double w = (double)im->width, h = (double)im->height; /* what lies outside is left out before it becomes a whole number */
    const int64_t left = (int64_t)fmax(0, fmin(w, floor(x0 - reach))), right = (int64_t)fmax(-1, fmin(w - 1, ceil(x1 + reach)));
    const int64_t top = (int64_t)fmax(0, fmin(h, floor(y0 - reach))), bottom = (int64_t)fmax(-1, fmin(h - 1, ceil(y1 + reach)));
    for (int64_t y = top; y <= bottom; y++) {
        for (int64_t x = left; x <= right; x++) {
            double near2 = INFINITY;
            for (size_t i = 0; i < n; i++) near2 = fmin(near2, distance2(&p[i], (double)x + 0.5, (double)y + 0.5));
            const double cover = fmax(0, fmin(1, pen->width / 2 + 0.5 - sqrt(near2)));
            uint8_t *pixel = im->data + 3 * (y * im->width + x);
            for (int c = 0; c < 3; c++) pixel[c] = (uint8_t)(pixel[c] + (pen->color[c] - pixel[c]) * cover + 0.5);
        }
    }
}

double fs_words_width(const char *text, double height) {
    int units = 0;
    while (*text) units += advance(glyph_of(&text));
    return units * height / CAPITAL;
}

double fs_draw_words(fs_image *im, double x, double base, const char *text, const fs_pen *pen) {
    piece p[MOST];
    const double unit = pen->height / CAPITAL;
    while (*text) {
        const char *glyph = glyph_of(&text);
        const double step = advance(glyph) * unit;
        size_t n = 0;
        while (glyph && *glyph) n = stroke(&glyph, p, n);
        for (size_t i = 0; i < n; i++) {
            p[i].x0 = x + p[i].x0 * unit, p[i].x1 = x + p[i].x1 * unit;
            p[i].y0 = base + (p[i].y0 - CAPITAL) * unit, p[i].y1 = base + (p[i].y1 - CAPITAL) * unit;
        }
        if (n) ink(im, p, n, pen);
        x += step;
    }
    return x;
}
