/* Scaling, mirroring and turning a cut-out piece. Shrinking goes through the anti-aliased resampler first; the rest is one warp with
 * bicubic weights (Keys 1981, a = -0.5) for the colours and bilinear ones for the alpha, as picture editors do. */
#include <math.h>
#include <string.h>

#include "data/forge_plane.h"

void fs_piece_free(fs_piece *p) {
    fs_image_free(p->im);
    p->im = NULL;
    fs_plane_free(&p->alpha);
}

static void cubic_weights(double f, double w[4]) {
    const double a = -0.5;
    double d[4] = {1 + f, f, 1 - f, 2 - f};
    for (int i = 0; i < 4; i++) {
        double x = d[i];
        w[i] = x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : ((a * x - 5 * a) * x + 8 * a) * x - 4 * a;
    }
}

static uint8_t clip(double v) {
    return (uint8_t)(v < 0 ? 0 : v > 255 ? 255 : lrint(v));
}

static void sample_cubic(const fs_image *im, double x, double y, uint8_t out[3]) {
    double wx[4], wy[4], sum[3] = {0};
    int64_t x0 = (int64_t)floor(x), y0 = (int64_t)floor(y);
    cubic_weights(x - floor(x), wx);
    cubic_weights(y - floor(y), wy);
    for (int j = 0; j < 4; j++) {
        int64_t yy = fs_min_i64(fs_max_i64(y0 - 1 + j, 0), im->height - 1);
        for (int i = 0; i < 4; i++) {
            int64_t xx = fs_min_i64(fs_max_i64(x0 - 1 + i, 0), im->width - 1);
            const uint8_t *p = im->data + (yy * im->width + xx) * 3;
            double w = wx[i] * wy[j];
            for (int c = 0; c < 3; c++) sum[c] += w * p[c];
        }
    }
    for (int c = 0; c < 3; c++) out[c] = clip(sum[c]);
}

static double sample_alpha(const fs_plane *p, double x, double y) {
    int64_t x0 = (int64_t)floor(x), y0 = (int64_t)floor(y);
    double fx = x - floor(x), fy = y - floor(y), sum = 0;
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 2; i++) {
            int64_t xx = x0 + i, yy = y0 + j;
            if (xx < 0 || yy < 0 || xx >= p->width || yy >= p->height) continue;
            sum += (i ? fx : 1 - fx) * (j ? fy : 1 - fy) * p->data[yy * p->width + xx];
        }
    return sum;
}

static fs_status shrink(const fs_piece *in, double scale, fs_piece *out, fs_error *err) {
    int64_t w = fs_max_i64(lrint((double)in->im->width * scale), 1), h = fs_max_i64(lrint((double)in->im->height * scale), 1);
    fs_status status = fs_image_resize(in->im, w, h, FS_FILTER_BICUBIC, &out->im, err);
    if (!status) status = fs_plane_resize(&in->alpha, w, h, &out->alpha, err);
    return status;
}

fs_status fs_piece_turn(const fs_piece *in, fs_turn turn, fs_piece *out, fs_error *err) {
    fs_piece small = {0};
    fs_status status = FS_OK;
    *out = (fs_piece){0};
    double scale = turn.scale;
    if (scale < 0.8 || (turn.angle == 0 && scale != 1)) {
        status = shrink(in, scale, &small, err);
        in = &small;
        scale = 1;
    }
    if (status) goto done;
    double c = cos(turn.angle), s = sin(turn.angle), w = (double)in->im->width, h = (double)in->im->height;
    int64_t ow = (int64_t)ceil(scale * (fabs(c) * w + fabs(s) * h) - 1e-9), oh = (int64_t)ceil(scale * (fabs(s) * w + fabs(c) * h) - 1e-9);
    status = fs_image_create(fs_max_i64(ow, 1), fs_max_i64(oh, 1), &out->im, err);
    if (!status) status = fs_plane_create(out->im->width, out->im->height, &out->alpha, err);
    if (status) goto done;
    bool plain = turn.angle == 0 && scale == 1;
    for (int64_t y = 0; y < out->im->height; y++)
        for (int64_t x = 0; x < out->im->width; x++) {
            uint8_t *to = out->im->data + (y * out->im->width + x) * 3, *alpha = out->alpha.data + y * out->im->width + x;
            if (plain) {
                int64_t from = y * in->im->width + (turn.mirror ? in->im->width - 1 - x : x);
                memcpy(to, in->im->data + from * 3, 3);
                *alpha = in->alpha.data[from];
                continue;
            }
            double dx = (double)x + 0.5 - (double)out->im->width / 2, dy = (double)y + 0.5 - (double)out->im->height / 2;
            double u = (c * dx + s * dy) / scale, v = (-s * dx + c * dy) / scale;
            if (turn.mirror) u = -u;
            u += w / 2 - 0.5;
            v += h / 2 - 0.5;
            *alpha = clip(sample_alpha(&in->alpha, u, v));
            sample_cubic(in->im, u, v, to); /* where alpha is 0 too: what lies beside an outline is looked at when it is refined */
        }
done:
    fs_piece_free(&small);
    if (status) fs_piece_free(out);
    return status;
}
