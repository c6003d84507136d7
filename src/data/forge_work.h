/* The workshop: the picture a record is made of, regions in it, and the edits. One file per edit; what they share stands here. Private to
 * src/data. Everything random comes from the fs_rng that is passed in, so that a record is a function of its seed. */
#ifndef FS_DATA_FORGE_WORK_H
#define FS_DATA_FORGE_WORK_H

#include <math.h>

#include "data/forge_sources.h"

/* ---- dice ---- */

static inline double fs_dice(fs_rng *r, double low, double high) {
    return low + (high - low) * fs_rng_uniform(r);
}
static inline double fs_dice_log(fs_rng *r, double low, double high) {
    return low * exp(fs_rng_uniform(r) * log(high / low));
}
static inline bool fs_dice_chance(fs_rng *r, double p) {
    return fs_rng_uniform(r) < p;
}
/* 0..n-1; 0 for n < 1 */
static inline int64_t fs_dice_below(fs_rng *r, int64_t n) {
    int64_t v = (int64_t)(fs_rng_uniform(r) * (double)n);
    return v < n ? v : n - 1 < 0 ? 0 : n - 1;
}
/* Nearly normal with mean 0 and deviation 1: four uniform numbers out of one draw. */
static inline double fs_dice_normal(fs_rng *r) {
    uint64_t v = fs_rng_next(r);
    double sum = (double)(v & 0xFFFF) + (double)(v >> 16 & 0xFFFF) + (double)(v >> 32 & 0xFFFF) + (double)(v >> 48) - 2 * 65535.0;
    return sum / 37837.0; /* 65536 * sqrt(4 / 12) */
}
static inline uint8_t fs_clip8(double v) {
    return (uint8_t)(v <= 0 ? 0 : v >= 255 ? 255 : v + 0.5);
}

/* ---- the picture that is worked on (forge_scene.c) ---- */

typedef struct fs_scene {
    const fs_source *source;
    fs_rect rect; /* of the source */
    fs_image *im;
    uint16_t *labels;  /* [height][width], or NULL */
    int first_quality; /* JPEG before the edit; 0 = none */
    bool first_full_chroma;
    bool mirrored;     /* left to right; the rect is that of the source as it is */
} fs_scene;
/* A part of the source, width x height pixels: as it lies there, or made smaller (or larger, where the source is too small). */
fs_status fs_scene_make(const fs_source *source, const fs_source_pixels *pixels, int64_t width, int64_t height, bool mirror, fs_rng *rng, fs_scene *out,
                        fs_error *err);
void fs_scene_free(fs_scene *s);
/* Compresses and decodes in place. */
fs_status fs_through_jpeg(fs_image *im, int quality, bool full_chroma, fs_error *err);

/* ---- regions (forge_region.c, forge_superpixels.c) ---- */

typedef enum fs_region_kind { FS_REGION_OBJECT = 0, FS_REGION_SUPERPIXELS = 1, FS_REGION_SHAPE = 2 } fs_region_kind;
const char *fs_region_kind_name(fs_region_kind k); /* "object", "superpixels", "shape" */

typedef struct fs_pick {
    fs_plane mask; /* 255/0, of the picture's size; data NULL: there is none */
    fs_region_kind kind;
    const char *what; /* the source's, or NULL */
} fs_pick;
/* An object that covers `low` to `high` of the picture. whole: it is not cut by the picture's edges (the lower one excepted). */
fs_status fs_pick_object(const fs_scene *scene, double low, double high, bool things, bool whole, fs_rng *rng, fs_pick *out, fs_error *err);
/* Neighbouring superpixels (SLIC, Achanta et al. 2012) of like colours, about `share` of the picture. */
fs_status fs_pick_superpixels(const fs_image *im, double share, fs_rng *rng, fs_pick *out, fs_error *err);
/* A drawn shape: a smooth blob, an ellipse, or a box with round corners. */
fs_status fs_pick_shape(int64_t width, int64_t height, double share, fs_rng *rng, fs_pick *out, fs_error *err);
/* An object with probability p_object if there is one, else superpixels or a shape. */
fs_status fs_pick_any(const fs_scene *scene, double low, double high, double p_object, bool things, fs_rng *rng, fs_pick *out,
                      fs_error *err);
/* Rough outlines of annotations: smooths them, keeps the largest piece without small holes. */
fs_status fs_tidy_outline(fs_plane *mask, fs_error *err);

/* ---- putting a piece in (forge_blend.c, forge_place.c) ---- */

typedef enum fs_blend { FS_BLEND_NONE = 0, FS_BLEND_HARD = 1, FS_BLEND_FEATHER = 2, FS_BLEND_POISSON = 3, FS_BLEND_MATTE = 4 } fs_blend;
const char *fs_blend_name(fs_blend b); /* "none", "hard", "feather", "poisson", "matte" */
/* The outline follows the picture's edges, with an alpha of its own (forge_matte.c). */
fs_status fs_piece_refine(fs_piece *p, int radius, fs_error *err);

/* Puts the piece's upper left corner at (x, y) of im; what falls outside is cut. mask: of im's size; pixels that were painted become 255.
 */
fs_status fs_blend_paste(fs_image *im, const fs_piece *piece, int64_t x, int64_t y, fs_blend blend, fs_plane *mask, fs_error *err);
/* Shifts and stretches the piece's colours toward those of im around where it goes. strength 0..1; light_only: brightness alone. */
void fs_blend_match(fs_piece *piece, const fs_image *im, int64_t x, int64_t y, double strength, bool light_only);

typedef struct fs_place_rule {
    int64_t y_low, y_high, x_low, x_high; /* of the piece's upper left corner, both ends included */
    const fs_plane *avoid;                /* of the picture's size: at most a tenth of the piece may fall on it; NULL = none */
    int tries;
} fs_place_rule;
/* The place where the piece's border differs least from what lies around it. False: no place. */
bool fs_place_find(const fs_image *im, const fs_piece *piece, const fs_place_rule *rule, fs_rng *rng, int64_t *x, int64_t *y,
                   double *misfit);

/* The piece of `im` under mask: cut to the mask's box and `margin` pixels around, as far as the picture goes. *at: its upper left corner.
 */
fs_status fs_piece_cut(const fs_image *im, const fs_plane *mask, int64_t margin, fs_piece *out, fs_rect *at, fs_error *err);

/* ---- edits ---- */

typedef struct fs_edit {
    fs_plane mask; /* 255 = changed */
    fs_region_kind kind;
    const char *what;
    fs_turn turn; /* of the pasted piece; scale 1 = none */
    fs_blend blend;
    double feather;         /* pixels */
    const fs_source *donor; /* splice */
    int donor_quality;      /* JPEG of the donor before; 0 = none */
    fs_rect from;           /* copy-move: where the piece lay; splice: in the donor */
    int copies;             /* copy-move */
    const char *detail;     /* retouching: "hue", "gaussian blur", ... */
    double strength;
} fs_edit;
void fs_edit_clear(fs_edit *e);

/* What an edit works with. `after` is changed in place. A picture in which nothing could be done is no error: the mask then stays empty. */
typedef struct fs_workshop {
    fs_sources *sources;
    fs_forge_split split;
    const fs_scene *scene;
    fs_image *after; /* a copy of scene->im */
    fs_rng *rng;
} fs_workshop;
fs_status fs_edit_splice(fs_workshop *w, fs_edit *e, fs_error *err);
fs_status fs_edit_copy_move(fs_workshop *w, fs_edit *e, fs_error *err);
fs_status fs_edit_removal(fs_workshop *w, fs_edit *e, fs_error *err);
fs_status fs_edit_color(fs_workshop *w, fs_edit *e, fs_error *err);
fs_status fs_edit_blur(fs_workshop *w, fs_edit *e, fs_error *err);
fs_status fs_edit_resample(fs_workshop *w, fs_edit *e, fs_error *err);

/* Fills the masked pixels (255) of im from elsewhere in the picture: exemplar-based, multi-scale (forge_inpaint.c). */
fs_status fs_inpaint(fs_image *im, const fs_plane *hole, fs_rng *rng, fs_error *err);

/* ---- post-processing (forge_chain.c): the same for both classes ---- */

enum { FS_CHAIN_STEPS = 12 };
typedef enum fs_chain_kind {
    FS_CHAIN_RESIZE = 0,  /* a: scale */
    FS_CHAIN_CROP = 1,    /* a, b: pixels cut off left and above, which shifts the 8x8 grid */
    FS_CHAIN_NOISE = 2,   /* a: deviation, b: 1 = the same in all channels */
    FS_CHAIN_SHARPEN = 3, /* a: amount, b: radius */
    FS_CHAIN_SOFTEN = 4,  /* a: radius */
    FS_CHAIN_TONE = 5,    /* a: gamma, b: contrast */
    FS_CHAIN_JPEG = 6,    /* a: quality, b: 1 = full chroma */
    FS_CHAIN_TURN = 7,    /* a: EXIF orientation, 1 to 8 */
    FS_CHAIN_TINT = 8     /* a: hue in radians, b: factor of the saturation */
} fs_chain_kind;
const char *fs_chain_kind_name(fs_chain_kind k);
typedef struct fs_chain {
    const char *name; /* "export", "double", "social", ... */
    int n;
    struct {
        fs_chain_kind kind;
        double a, b;
    } step[FS_CHAIN_STEPS];
} fs_chain;
/* format: JPEG pictures end with a JPEG step; PNG pictures may. */
void fs_chain_draw(fs_rng *rng, fs_forge_format format, fs_chain *out);
/* For training on few photos: puts in front of the steps one of the eight ways to turn and mirror a picture, another hue and saturation, another curve. */
void fs_chain_vary(fs_rng *rng, fs_chain *c);
/* How large a picture must be before the chain to be width x height after it. */
void fs_chain_base_size(const fs_chain *c, int64_t width, int64_t height, int64_t *base_width, int64_t *base_height);
/* All steps but a last JPEG step. The result is width x height; the mask follows every geometric step. */
fs_status fs_chain_run(const fs_chain *c, int64_t width, int64_t height, fs_rng *rng, fs_image **im, fs_plane *mask, fs_error *err);

#endif
