/* Connected regions of a mask (8-connected), by runs: each row is cut into runs of set pixels, a run is joined with those of the row above
 * that it touches, and a union-find over run numbers says in the end which belong together. One pass over the pixels, memory for the
 * runs only, no recursion. */
#include "image/image.h"

#include <stdlib.h>

typedef struct run {
    int64_t x0, x1, y; /* x1 exclusive */
    size_t parent;     /* a smaller or equal number: the oldest run of a region is its root */
} run;

typedef struct run_list {
    run *runs;
    size_t count, room;
} run_list;

typedef struct found {
    fs_region region;
    size_t root;
} found;

static bool add_run(run_list *l, int64_t x0, int64_t x1, int64_t y) {
    if (l->count == l->room) {
        size_t room = l->room ? l->room * 2 : 1024, bytes;
        run *grown = fs_mul_size(room, sizeof *grown, &bytes) ? realloc(l->runs, bytes) : NULL;
        if (!grown) return false;
        l->runs = grown;
        l->room = room;
    }
    l->runs[l->count] = (run){x0, x1, y, l->count};
    l->count++;
    return true;
}

static size_t root_of(run *runs, size_t i) {
    while (runs[i].parent != i) {
        runs[i].parent = runs[runs[i].parent].parent;
        i = runs[i].parent;
    }
    return i;
}

static void join(run *runs, size_t a, size_t b) {
    a = root_of(runs, a);
    b = root_of(runs, b);
    if (a < b)
        runs[b].parent = a;
    else
        runs[a].parent = b;
}

static bool find_runs(const uint8_t *mask, int64_t w, int64_t h, run_list *l) {
    size_t above = 0, above_end = 0; /* the previous row's runs */
    for (int64_t y = 0; y < h; y++) {
        const uint8_t *row = mask + y * w;
        size_t first = l->count, a = above;
        for (int64_t x = 0; x < w;) {
            if (!row[x]) {
                x++;
                continue;
            }
            int64_t x0 = x;
            while (x < w && row[x]) x++;
            if (!add_run(l, x0, x, y)) return false;
            /* touching, also by a corner: [x0 - 1, x] and the run above share a column */
            while (a < above_end && l->runs[a].x1 < x0) a++;
            for (size_t b = a; b < above_end && l->runs[b].x0 <= x; b++) join(l->runs, b, l->count - 1);
        }
        above = first;
        above_end = l->count;
    }
    return true;
}

static int larger_first(const void *pa, const void *pb) {
    const found *a = pa, *b = pb;
    if (a->region.pixels != b->region.pixels) return a->region.pixels > b->region.pixels ? -1 : 1;
    return a->root < b->root ? -1 : a->root > b->root; /* the one met first, reading row by row */
}

fs_status fs_mask_regions(const uint8_t *mask, int64_t w, int64_t h, fs_region *out, size_t max_regions, size_t *n_out, size_t *total,
                          fs_error *err) {
    *n_out = *total = 0;
    if (w < 1 || h < 1) return fs_fail(err, FS_E_USAGE, "a mask of %lld x %lld pixels has no regions", (long long)w, (long long)h);
    run_list l = {0};
    found *list = NULL;
    size_t count = 0;
    fs_status status = FS_OK;
    if (!find_runs(mask, w, h, &l)) goto no_memory;
    for (size_t i = 0; i < l.count; i++) count += l.runs[i].parent == i;
    if (count == 0) goto done;
    list = fs_alloc(count, sizeof *list);
    if (!list) goto no_memory;
    /* roots come before their members, so a root's place in `list` can be kept in its x-fields once they are copied */
    for (size_t i = 0, next = 0; i < l.count; i++) {
        run *r = &l.runs[i];
        size_t root = root_of(l.runs, i);
        int64_t n = r->x1 - r->x0;
        if (root == i) {
            list[next] = (found){{r->x0, r->y, r->x1, r->y + 1, n}, i};
            r->x0 = (int64_t)next++;
            continue;
        }
        fs_region *g = &list[l.runs[root].x0].region;
        g->x0 = fs_min_i64(g->x0, r->x0);
        g->x1 = fs_max_i64(g->x1, r->x1);
        g->y1 = r->y + 1;
        g->pixels += n;
    }
    qsort(list, count, sizeof *list, larger_first);
    *total = count;
    *n_out = count < max_regions ? count : max_regions;
    for (size_t i = 0; i < *n_out; i++) out[i] = list[i].region;
    goto done;
no_memory:
    status = fs_fail(err, FS_E_NO_MEMORY, "no memory to find the regions of a mask of %lld x %lld pixels", (long long)w, (long long)h);
done:
    free(l.runs);
    free(list);
    return status;
}
