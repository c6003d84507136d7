/* Copy-move: a part of the photo itself, once or several times more, perhaps scaled, turned or mirrored, where it fits best and not on
 * itself. The mask is what was pasted, as in CoMoFoD and most sets; where it came from stands in the parameters. */
#include <stdlib.h>
#include <string.h>

#include "data/forge_work.h"

static void draw_turn(fs_rng *rng, bool object, fs_turn *turn) {
    bool scaled = fs_dice_chance(rng, 0.4), turned = fs_dice_chance(rng, object ? 0.2 : 0.35), far = !object && fs_dice_chance(rng, 0.3);
    double scale = fs_dice_log(rng, 0.7, 1.4), angle = fs_dice(rng, -0.3, 0.3), any = fs_dice(rng, -M_PI, M_PI);
    turn->mirror = fs_dice_chance(rng, 0.3);
    turn->scale = scaled ? scale : 1;
    turn->angle = turned ? (far ? any : angle) : 0;
}

static fs_status paste_copy(fs_workshop *w, fs_edit *e, const fs_piece *cut, const fs_plane *taken, bool object, fs_error *err) {
    const fs_image *host = w->after;
    fs_piece piece = {0};
    fs_status status = fs_piece_turn(cut, e->turn, &piece, err);
    if (status) return status;
    /* a third of the piece may leave the picture at a side */
    int64_t pw = piece.im->width, ph = piece.im->height, out = object ? 0 : pw / 6;
    fs_place_rule rule = {
        .x_low = -out, .x_high = host->width - pw + out, .y_low = 0, .y_high = host->height - ph, .avoid = taken, .tries = 160};
    if (object) { /* things stay on about their height in the picture */
        int64_t reach = host->height / 6;
        rule.y_low = fs_max_i64(e->from.y1 - ph - reach, 0);
        rule.y_high = fs_min_i64(e->from.y1 - ph + reach, host->height - ph);
        if (e->from.y1 >= host->height - 1) rule.y_low = rule.y_high = host->height - ph;
    }
    int64_t x = 0, y = 0;
    double misfit, limit = object ? 80 : 48;
    if (rule.x_high >= rule.x_low && rule.y_high >= rule.y_low && fs_place_find(host, &piece, &rule, w->rng, &x, &y, &misfit) &&
        misfit < limit) {
        if (e->feather > 0) {
            fs_plane_threshold(&piece.alpha, 128);
            status = fs_plane_feather(&piece.alpha, e->feather, err);
        }
        if (!status) status = fs_blend_paste(w->after, &piece, x, y, e->blend, &e->mask, err);
        e->copies += !status;
    }
    fs_piece_free(&piece);
    return status;
}

fs_status fs_edit_copy_move(fs_workshop *w, fs_edit *e, fs_error *err) {
    fs_pick pick = {0};
    fs_piece cut = {0};
    fs_plane taken = {0};
    fs_status status = fs_pick_any(w->scene, 0.012, 0.14, 0.75, true, w->rng, &pick, err);
    if (status) goto done;
    bool object = pick.kind == FS_REGION_OBJECT;
    e->kind = pick.kind;
    e->what = pick.what;
    if (!fs_plane_count(&pick.mask)) goto done;
    status = fs_piece_cut(w->scene->im, &pick.mask, 3, &cut, &e->from, err);
    if (!status) status = fs_plane_copy(&pick.mask, &taken, err);
    if (status) goto done;
    draw_turn(w->rng, object, &e->turn);
    double kind = fs_rng_uniform(w->rng), width = fs_dice_log(w->rng, 0.7, object ? 2.5 : 5);
    e->blend = kind < 0.25 ? FS_BLEND_HARD : kind < (object ? 0.85 : 0.65) ? FS_BLEND_FEATHER : FS_BLEND_POISSON;
    e->feather = e->blend == FS_BLEND_FEATHER ? width : 0;
    int copies = fs_dice_chance(w->rng, 0.15) ? 2 : 1;
    for (int i = 0; i < copies && !status; i++) {
        status = paste_copy(w, e, &cut, &taken, object, err);
        for (int64_t k = 0; k < taken.width * taken.height; k++) taken.data[k] |= e->mask.data[k];
    }
done:
    fs_plane_free(&pick.mask);
    fs_plane_free(&taken);
    fs_piece_free(&cut);
    return status;
}
