/* Where in the picture edits are: the mean of a data set's masks. It is a picture worth a look (a set whose edits are all in the middle teaches and
 * measures that), and, given as the answer for every picture of another set, the figure that a localizer has to beat: masks lie near the middle more
 * often than not, and 0.5 is only what an answer without any knowledge gets. */
#include "data/mask.h"
#include "data/tree.h"

#include <stdlib.h>

enum { MOST_SIDE = 4096 };

fs_dataset_places_options fs_dataset_places_options_defaults(void) {
    return (fs_dataset_places_options){.side = 128};
}

/* Adds the mask, whatever its size, to the sum: each cell takes the share of the pixels in it that are marked (that of the nearest one, where a cell is
 * smaller than a pixel). */
static void add_mask(const fs_mask *m, bool inverted, int side, double *sum) {
    for (int y = 0; y < side; y++) {
        const int64_t y0 = y * m->height / side, y1 = fs_max_i64((y + 1) * m->height / side, y0 + 1);
        for (int x = 0; x < side; x++) {
            const int64_t x0 = x * m->width / side, x1 = fs_max_i64((x + 1) * m->width / side, x0 + 1);
            int64_t marked = 0;
            for (int64_t j = y0; j < y1; j++)
                for (int64_t i = x0; i < x1; i++) marked += (m->data[j * m->width + i] > 127) != inverted;
            sum[y * side + x] += (double)marked / (double)((y1 - y0) * (x1 - x0));
        }
    }
}

/* The sum of all masks; their number in *count. */
static fs_status add_all(const fs_dataset *d, const fs_dataset_places_options *opt, double *sum, size_t *count, fs_error *err) {
    *count = 0;
    for (size_t i = 0; i < d->count; i++) {
        fs_progress(&opt->callbacks, "reading masks", (int64_t)i, (int64_t)d->count);
        if (fs_cancelled(&opt->callbacks)) return fs_fail(err, FS_E_CANCELLED, "stopped");
        if (!d->records[i].mask) continue;
        fs_mask m = {0};
        const fs_status status = fs_mask_load(d->records[i].mask, &m, err);
        if (!status) add_mask(&m, opt->invert_masks, opt->side, sum);
        fs_mask_clear(&m);
        if (status) return status;
        ++*count;
    }
    fs_progress(&opt->callbacks, "reading masks", (int64_t)d->count, (int64_t)d->count);
    return FS_OK;
}

fs_status fs_dataset_places(const char *dir, const char *out_path, const fs_dataset_places_options *options, fs_error *err) {
    const fs_dataset_places_options opt = options ? *options : fs_dataset_places_options_defaults();
    fs_data_options how = fs_data_options_defaults();
    fs_dataset d = {0};
    size_t count = 0, cells;
    double *sum = NULL, most = 0;
    uint8_t *grey = NULL;
    if (!dir || !*dir || !out_path || !*out_path) return fs_fail(err, FS_E_USAGE, "a data set and a name for the picture are needed");
    if (opt.side < 1 || opt.side > MOST_SIDE) return fs_fail(err, FS_E_USAGE, "a side of %d cells; expected 1 to %d", opt.side, MOST_SIDE);
    how.texts = FS_TEXTS_NONE;
    fs_status status = opt.sets ? fs_dataset_open_spec(dir, opt.sets, &how, &d, err) : fs_dataset_open(dir, &how, &d, err);
    if (status) return status;
    cells = (size_t)opt.side * (size_t)opt.side;
    sum = fs_alloc_zero(cells, sizeof *sum);
    grey = fs_alloc(cells, 1);
    if (!sum || !grey) status = fs_fail(err, FS_E_NO_MEMORY, "no memory for a map of %d x %d", opt.side, opt.side);
    if (!status) status = add_all(&d, &opt, sum, &count, err);
    for (size_t i = 0; i < cells && !status; i++) most = sum[i] > most ? sum[i] : most;
    if (!status && most <= 0)
        status = fs_fail(err, FS_E_FORMAT, "%s: %zu masks, and nothing is marked in any of them; expected sets of tampered pictures with mask/", dir, count);
    /* a ranking of places is all that such an answer is, so the most frequent one is white */
    for (size_t i = 0; i < cells && !status; i++) grey[i] = (uint8_t)(255 * sum[i] / most + 0.5);
    if (!status) status = fs_png_write(out_path, grey, opt.side, opt.side, 1, err);
    if (!status && opt.count) *opt.count = count;
    if (!status && opt.most) *opt.most = most / (double)count;
    free(sum);
    free(grey);
    fs_dataset_free(&d);
    return status;
}
