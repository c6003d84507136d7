/* Putting a piece into a picture: as it is, with a soft edge, or by gradients (Perez, Gangnet, Blake, "Poisson image editing", 2003). The
 * Poisson equation is solved as a membrane: what is added to the piece is harmonic inside and makes it meet the picture on its outermost
 * pixels. The membrane is smooth, so it is found on coarse grids first and relaxed a few times on each finer one. */
#include <stdlib.h>
#include <string.h>

#include "data/forge_work.h"

const char *fs_blend_name(fs_blend b) {
    static const char *const names[] = {"none", "hard", "feather", "poisson", "matte"};
    return (int)b >= 0 && (int)b < 5 ? names[b] : "unknown";
}

fs_status fs_piece_cut(const fs_image *im, const fs_plane *mask, int64_t margin, fs_piece *out, fs_rect *at, fs_error *err) {
    fs_rect r = fs_plane_box(mask);
    *out = (fs_piece){0};
    r = (fs_rect){fs_max_i64(r.x0 - margin, 0), fs_max_i64(r.y0 - margin, 0), fs_min_i64(r.x1 + margin, im->width),
                  fs_min_i64(r.y1 + margin, im->height)};
    *at = r;
    fs_status status = fs_image_crop(im, r.x0, r.y0, r.x1 - r.x0, r.y1 - r.y0, &out->im, err);
    if (!status) status = fs_plane_crop(mask, r, &out->alpha, err);
    if (status) fs_piece_free(out);
    return status;
}

/* ---- the membrane ---- */

typedef struct grid {
    int64_t w, h;
    float (*v)[3];
    uint8_t *state; /* 0 outside, 1 to be found, 2 known */
} grid;

static void grid_free(grid *g) {
    free(g->v);
    free(g->state);
    *g = (grid){0};
}

static bool grid_create(grid *g, int64_t w, int64_t h) {
    *g = (grid){w, h, fs_alloc_zero((size_t)(w * h), sizeof *g->v), fs_alloc_zero((size_t)(w * h), 1)};
    return g->v && g->state;
}

/* Known pixels are averaged; a coarse pixel is known if any child is. */
static bool coarser(const grid *g, grid *out) {
    if (!grid_create(out, (g->w + 1) / 2, (g->h + 1) / 2)) return false;
    for (int64_t y = 0; y < out->h; y++)
        for (int64_t x = 0; x < out->w; x++) {
            float sum[3] = {0};
            int known = 0, inside = 0;
            for (int64_t j = 2 * y; j < fs_min_i64(2 * y + 2, g->h); j++)
                for (int64_t i = 2 * x; i < fs_min_i64(2 * x + 2, g->w); i++) {
                    int64_t at = j * g->w + i;
                    inside += g->state[at] == 1;
                    if (g->state[at] != 2) continue;
                    known++;
                    for (int c = 0; c < 3; c++) sum[c] += g->v[at][c];
                }
            int64_t to = y * out->w + x;
            out->state[to] = known ? 2 : inside ? 1 : 0;
            for (int c = 0; known && c < 3; c++) out->v[to][c] = sum[c] / (float)known;
        }
    return true;
}

/* Gauss-Seidel with over-relaxation over the unknown pixels. */
static void relax(grid *g, int rounds, float omega) {
    for (int n = 0; n < rounds; n++)
        for (int64_t y = 0; y < g->h; y++)
            for (int64_t x = 0; x < g->w; x++) {
                int64_t at = y * g->w + x;
                if (g->state[at] != 1) continue;
                const int64_t dx[4] = {-1, 1, 0, 0}, dy[4] = {0, 0, -1, 1};
                float sum[3] = {0};
                int count = 0;
                for (int k = 0; k < 4; k++) {
                    int64_t i = x + dx[k], j = y + dy[k];
                    if (i < 0 || j < 0 || i >= g->w || j >= g->h || !g->state[j * g->w + i]) continue;
                    count++;
                    for (int c = 0; c < 3; c++) sum[c] += g->v[j * g->w + i][c];
                }
                for (int c = 0; count && c < 3; c++) g->v[at][c] += omega * (sum[c] / (float)count - g->v[at][c]);
            }
}

static bool solve(grid *g) {
    if (g->w <= 4 || g->h <= 4) {
        relax(g, 200, 1);
        return true;
    }
    grid small;
    bool ok = coarser(g, &small) && solve(&small);
    for (int64_t y = 0; ok && y < g->h; y++)
        for (int64_t x = 0; x < g->w; x++)
            if (g->state[y * g->w + x] == 1) memcpy(g->v[y * g->w + x], small.v[y / 2 * small.w + x / 2], sizeof *g->v);
    grid_free(&small);
    if (ok) relax(g, 24, 1.5f);
    return ok;
}

static bool solid(const fs_plane *a, int64_t x, int64_t y) {
    return x >= 0 && y >= 0 && x < a->width && y < a->height && a->data[y * a->width + x] >= 128;
}

static fs_status paste_poisson(fs_image *im, const fs_piece *piece, int64_t x0, int64_t y0, fs_plane *mask, fs_error *err) {
    grid g;
    int64_t w = piece->im->width, h = piece->im->height;
    bool ok = grid_create(&g, w, h);
    for (int64_t y = 0; ok && y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            int64_t at = y * w + x, tx = x + x0, ty = y + y0;
            if (!solid(&piece->alpha, x, y) || tx < 0 || ty < 0 || tx >= im->width || ty >= im->height) continue;
            bool inner = true; /* the picture's own border leaves the piece free */
            const int64_t dx[4] = {-1, 1, 0, 0}, dy[4] = {0, 0, -1, 1};
            for (int k = 0; k < 4 && inner; k++) {
                int64_t i = tx + dx[k], j = ty + dy[k];
                if (i >= 0 && j >= 0 && i < im->width && j < im->height) inner = solid(&piece->alpha, x + dx[k], y + dy[k]);
            }
            g.state[at] = inner ? 1 : 2;
            for (int c = 0; !inner && c < 3; c++)
                g.v[at][c] = (float)im->data[(ty * im->width + tx) * 3 + c] - (float)piece->im->data[at * 3 + c];
        }
    if (ok) ok = solve(&g);
    for (int64_t y = 0; ok && y < h; y++)
        for (int64_t x = 0; x < w; x++) {
            int64_t at = y * w + x, to = (y + y0) * im->width + x + x0;
            if (g.state[at] != 1) continue;
            for (int c = 0; c < 3; c++) im->data[to * 3 + c] = fs_clip8((double)piece->im->data[at * 3 + c] + (double)g.v[at][c]);
            mask->data[to] = 255;
        }
    grid_free(&g);
    return ok ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "no memory to blend a piece of %lld x %lld pixels", (long long)w, (long long)h);
}

fs_status fs_blend_paste(fs_image *im, const fs_piece *piece, int64_t x0, int64_t y0, fs_blend blend, fs_plane *mask, fs_error *err) {
    enum { FAINT = 16 }; /* an alpha below is left out, so that the mask says no more than can be seen */
    if (blend == FS_BLEND_POISSON) return paste_poisson(im, piece, x0, y0, mask, err);
    for (int64_t y = fs_max_i64(0, -y0); y < fs_min_i64(piece->im->height, im->height - y0); y++)
        for (int64_t x = fs_max_i64(0, -x0); x < fs_min_i64(piece->im->width, im->width - x0); x++) {
            int64_t at = y * piece->im->width + x, to = (y + y0) * im->width + x + x0;
            int a = piece->alpha.data[at];
            if (blend == FS_BLEND_HARD) a = a >= 128 ? 255 : 0;
            if (a < FAINT) continue;
            for (int c = 0; c < 3; c++)
                im->data[to * 3 + c] = (uint8_t)((a * piece->im->data[at * 3 + c] + (255 - a) * im->data[to * 3 + c] + 127) / 255);
            mask->data[to] = 255;
        }
    return FS_OK;
}

/* ---- colours ---- */

typedef struct moments {
    double n, mean[3], sd[3];
} moments;

static void add_moment(moments *m, const uint8_t *p) {
    m->n++;
    for (int c = 0; c < 3; c++) m->mean[c] += p[c], m->sd[c] += (double)p[c] * p[c];
}

static void end_moments(moments *m) {
    for (int c = 0; m->n > 0 && c < 3; c++) {
        m->mean[c] /= m->n;
        m->sd[c] = sqrt(fmax(m->sd[c] / m->n - m->mean[c] * m->mean[c], 1));
    }
}

void fs_blend_match(fs_piece *piece, const fs_image *im, int64_t x0, int64_t y0, double strength, bool light_only) {
    moments own = {0}, around = {0};
    int64_t w = piece->im->width, h = piece->im->height, out = fs_max_i64(w, h) / 4;
    for (int64_t i = 0; i < w * h; i++)
        if (piece->alpha.data[i] >= 128) add_moment(&own, piece->im->data + i * 3);
    for (int64_t y = fs_max_i64(y0 - out, 0); y < fs_min_i64(y0 + h + out, im->height); y++)
        for (int64_t x = fs_max_i64(x0 - out, 0); x < fs_min_i64(x0 + w + out, im->width); x++)
            add_moment(&around, im->data + (y * im->width + x) * 3);
    if (own.n < 1 || around.n < 1) return;
    end_moments(&own);
    end_moments(&around);
    double shift[3], gain[3], light = 0;
    for (int c = 0; c < 3; c++) light += (around.mean[c] - own.mean[c]) / 3;
    for (int c = 0; c < 3; c++) {
        shift[c] = strength * (light_only ? light : around.mean[c] - own.mean[c]);
        gain[c] = light_only ? 1 : 1 + 0.5 * strength * (fmin(fmax(around.sd[c] / own.sd[c], 0.7), 1.3) - 1);
    }
    for (int64_t i = 0; i < w * h; i++)
        for (int c = 0; c < 3; c++) {
            uint8_t *p = piece->im->data + i * 3 + c;
            *p = fs_clip8((*p - own.mean[c]) * gain[c] + own.mean[c] + shift[c]);
        }
}
