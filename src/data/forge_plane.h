/* Planes of one byte a pixel (masks 255/0, alpha 0..255) and what forging does with them: grow, shrink, soften, resize, turn. Private to
 * src/data. */
#ifndef FS_DATA_FORGE_PLANE_H
#define FS_DATA_FORGE_PLANE_H

#include "image/image.h"

typedef struct fs_plane {
    int64_t width, height;
    uint8_t *data; /* [height][width], owned; NULL = empty */
} fs_plane;

typedef struct fs_rect {
    int64_t x0, y0, x1, y1; /* x1, y1 exclusive */
} fs_rect;

fs_status fs_plane_create(int64_t width, int64_t height, fs_plane *out, fs_error *err); /* zeroed */
fs_status fs_plane_copy(const fs_plane *in, fs_plane *out, fs_error *err);
void fs_plane_free(fs_plane *p); /* takes an empty one, leaves one */
/* The part inside `r`, which lies within the plane. */
fs_status fs_plane_crop(const fs_plane *in, fs_rect r, fs_plane *out, fs_error *err);
int64_t fs_plane_count(const fs_plane *p);       /* pixels >= 128 */
fs_rect fs_plane_box(const fs_plane *p);         /* of the pixels > 0; empty (x1 == x0) if there is none */
void fs_plane_threshold(fs_plane *p, int level); /* >= level becomes 255, the rest 0 */

/* Distance in pixels, times 5, of each set pixel (inside) or each unset one (!inside) to the other side, 0 on the other side; 60000 where
 * there is none. Chamfer weights 5 and 7 (Borgefors 1986). outside_counts: beyond the plane's edge lies the other side. d: [height][width]
 */
void fs_plane_distance(const fs_plane *p, bool inside, bool outside_counts, uint16_t *d);
/* Moves the border of a 255/0 mask outward by `pixels`, inward if negative. */
fs_status fs_plane_grow(fs_plane *p, double pixels, fs_error *err);
/* A 255/0 mask becomes an alpha that rises from the border inward over `pixels`; nothing outside becomes set. */
fs_status fs_plane_feather(fs_plane *p, double pixels, fs_error *err);
/* Box blur, twice: smooths outlines when a threshold follows. */
fs_status fs_plane_blur(fs_plane *p, int radius, fs_error *err);
/* Fills holes that do not touch the edge, if smaller than `pixels`. Mask 255/0. */
fs_status fs_plane_fill_holes(fs_plane *p, int64_t pixels, fs_error *err);
/* Keeps the largest 8-connected region. */
fs_status fs_plane_keep_largest(fs_plane *p, fs_error *err);
/* Area average when shrinking, bilinear when growing. */
fs_status fs_plane_resize(const fs_plane *in, int64_t width, int64_t height, fs_plane *out, fs_error *err);

/* Picture and alpha, scaled by `scale`, mirrored, turned by `angle` (radians), on the smallest canvas that holds them. */
typedef struct fs_piece {
    fs_image *im;
    fs_plane alpha; /* same size */
} fs_piece;
void fs_piece_free(fs_piece *p);
typedef struct fs_turn {
    double scale, angle;
    bool mirror;
} fs_turn;
fs_status fs_piece_turn(const fs_piece *in, fs_turn turn, fs_piece *out, fs_error *err);

#endif
