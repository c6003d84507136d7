/* Removal: an object (with a little ground around it, for its shadow and a generous selection) or another region is taken out and filled
 * from its surroundings. */
#include "data/forge_work.h"

fs_status fs_edit_removal(fs_workshop *w, fs_edit *e, fs_error *err) {
    fs_pick pick = {0};
    fs_status status = fs_pick_any(w->scene, 0.008, 0.16, 0.8, true, w->rng, &pick, err);
    double grow = fs_dice(w->rng, 0.03, 0.09);
    if (!status) {
        double size = sqrt((double)fs_plane_count(&pick.mask));
        e->kind = pick.kind;
        e->what = pick.what;
        status = fs_plane_grow(&pick.mask, fmin(fmax(grow * size, 2), 12), err);
    }
    if (!status) status = fs_plane_fill_holes(&pick.mask, pick.mask.width * pick.mask.height / 100, err);
    if (!status) status = fs_inpaint(w->after, &pick.mask, w->rng, err);
    if (!status) {
        fs_plane_free(&e->mask);
        e->mask = pick.mask;
        pick.mask = (fs_plane){0};
    }
    fs_plane_free(&pick.mask);
    return status;
}
