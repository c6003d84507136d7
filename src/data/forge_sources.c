/* The set of source photos: every file is decoded once at the beginning, so that what cannot be used is known then and named; after that
 * pixels come from memory while the limit allows, or are decoded again. Photos are in the order of their contents' SHA-256 and belong to a
 * split by it, so that neither folders' names nor their order change a record, and a photo stays in its split when others are added. */
#include "data/forge_sources.h"

#include <omp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_SIDE = 64, MAX_PIXELS = 1 << 28 };

struct fs_sources {
    fs_source *items; /* by split, then by SHA-256 */
    size_t count;
    size_t first[4]; /* of split s: items[first[s]] .. items[first[s + 1] - 1] */
    int64_t limit, bytes;
    uint64_t clock;
    pthread_mutex_t lock;
    pthread_cond_t loaded;
};

static void pixels_free(fs_source_pixels *p) {
    if (!p) return;
    fs_image_free(p->im);
    free(p->labels);
    free(p);
}

static int64_t pixels_bytes(const fs_source_pixels *p) {
    return p->im->width * p->im->height * (p->labels ? 5 : 3);
}

static int by_id(const void *a, const void *b) {
    const fs_segment *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* A picture of ids becomes labels, and segments get their size and box (measure; only while one thread has the source). */
static void label_pixels(fs_source *s, const fs_image *ids, uint16_t *labels, bool measure) {
    uint32_t last = 0;
    uint16_t label = 0;
    for (int64_t i = 0; i < ids->width * ids->height; i++) {
        const uint8_t *p = ids->data + i * 3;
        uint32_t id = s->panoptic ? (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 : p[0] >= 128;
        if (i == 0 || id != last) {
            const fs_segment *found =
                !s->n_segments ? NULL : bsearch(&(fs_segment){.id = id}, s->segments, s->n_segments, sizeof *found, by_id);
            label = found ? (uint16_t)(found - s->segments + 1) : 0;
            last = id;
        }
        labels[i] = label;
        if (!label || !measure) continue;
        fs_segment *g = &s->segments[label - 1];
        int64_t x = i % ids->width, y = i / ids->width;
        if (!g->pixels++) g->box = (fs_rect){x, y, x + 1, y + 1};
        g->box.x0 = fs_min_i64(g->box.x0, x);
        g->box.x1 = fs_max_i64(g->box.x1, x + 1);
        g->box.y1 = y + 1;
    }
}

static fs_status load_labels(fs_source *s, const fs_image *im, bool measure, uint16_t **out, fs_error *err) {
    fs_image *ids = NULL;
    fs_status status = fs_image_load(s->objects, NULL, &ids, NULL, err);
    if (!status && (ids->width != im->width || ids->height != im->height))
        status = fs_fail(err, FS_E_MISMATCH, "%s: %lldx%lld, but its photo is %lldx%lld", s->objects, (long long)ids->width,
                         (long long)ids->height, (long long)im->width, (long long)im->height);
    if (!status && !(*out = fs_alloc((size_t)(im->width * im->height), sizeof **out)))
        status = fs_fail(err, FS_E_NO_MEMORY, "%s: no memory", s->objects);
    if (!status) label_pixels(s, ids, *out, measure);
    fs_image_free(ids);
    return status;
}

static fs_status load_pixels(fs_source *s, bool first_time, fs_source_pixels **out, fs_error *err) {
    fs_decode_options decode = fs_decode_options_defaults(FS_DECODE_CV2); /* upright, as people see it */
    decode.max_pixels = MAX_PIXELS;
    decode.max_file_bytes = (size_t)1 << 28;
    uint8_t *bytes = NULL;
    size_t size = 0;
    fs_source_pixels *p = calloc(1, sizeof *p);
    fs_status status =
        p ? fs_read_file(s->path, decode.max_file_bytes, &bytes, &size, err) : fs_fail(err, FS_E_NO_MEMORY, "%s: no memory", s->path);
    if (!status) status = fs_image_decode(s->path, bytes, size, &decode, &p->im, NULL, err);
    if (!status && first_time) {
        fs_sha256_hex(bytes, size, s->sha256);
        s->width = p->im->width;
        s->height = p->im->height;
        if (fs_min_i64(s->width, s->height) < MIN_SIDE)
            status = fs_fail(err, FS_E_UNSUPPORTED, "%s: %lldx%lld pixels; at least %d a side are needed", s->path, (long long)s->width,
                             (long long)s->height, MIN_SIDE);
    }
    if (!status && s->objects) status = load_labels(s, p->im, first_time, &p->labels, err);
    free(bytes);
    if (status)
        pixels_free(p);
    else
        *out = p;
    return status;
}

/* One object, white on black, is a list of one. */
static void prepare_segments(fs_source *s) {
    if (s->objects && !s->panoptic && (s->segments = calloc(1, sizeof *s->segments))) {
        s->segments[0] = (fs_segment){.id = 1, .thing = true};
        s->n_segments = 1;
    }
    if (s->n_segments) qsort(s->segments, s->n_segments, sizeof *s->segments, by_id);
}

typedef struct opening {
    const fs_forge_options *opt;
    fs_source_list *list;
    fs_status *status;
    fs_error *errors;
} opening;

/* Decodes everything, on all threads; keeps what fits. */
static bool decode_all(const opening *o) {
    int64_t n = (int64_t)o->list->count, done = 0, bytes = 0;
    bool stop = false;
    int threads = o->opt->threads > 0 ? o->opt->threads : omp_get_max_threads();
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t i = 0; i < n; i++) {
        bool stopped;
        int64_t finished, held;
#pragma omp atomic read
        stopped = stop;
        if (stopped) continue;
        fs_source *s = &o->list->items[i];
        prepare_segments(s);
        o->status[i] = load_pixels(s, true, &s->pixels, &o->errors[i]);
        if (!o->status[i]) {
#pragma omp atomic capture
            held = bytes += pixels_bytes(s->pixels);
            if (held > o->opt->cache_bytes) {
#pragma omp atomic
                bytes -= pixels_bytes(s->pixels);
                pixels_free(s->pixels);
                s->pixels = NULL;
            }
        }
#pragma omp atomic capture
        finished = ++done;
        if (omp_get_thread_num() != 0) continue; /* callbacks are for the caller's thread */
        fs_progress(&o->opt->callbacks, "reading photos", finished, n);
        if (fs_cancelled(&o->opt->callbacks)) {
#pragma omp atomic write
            stop = true;
        }
    }
    return !stop;
}

static int by_sha(const void *a, const void *b) {
    const fs_source *x = a, *y = b;
    int order = strcmp(x->sha256, y->sha256);
    return order ? order : strcmp(x->path, y->path);
}

static int by_split(const void *a, const void *b) {
    const fs_source *x = a, *y = b;
    return x->split != y->split ? (x->split < y->split ? -1 : 1) : by_sha(a, b);
}

/* A number in [0, 1) from the first 8 hex digits. */
static double place_of(const fs_source *s) {
    char head[9];
    memcpy(head, s->sha256, 8);
    head[8] = '\0';
    return (double)strtoul(head, NULL, 16) / 4294967296.0;
}

/* By thresholds, so that a photo's split does not depend on the others; where a wanted split would stay empty, the nearest photo goes to
 * it. */
static void divide(fs_sources *s, const fs_forge_options *opt) {
    size_t n[3] = {0};
    double test = opt->test, val = opt->val;
    for (size_t i = 0; i < s->count; i++) {
        double at = place_of(&s->items[i]);
        s->items[i].split = at < test ? FS_FORGE_TEST : at < test + val ? FS_FORGE_VAL : FS_FORGE_TRAIN;
        n[s->items[i].split]++;
    }
    const bool wanted[3] = {test + val<1, val> 0, test > 0};
    const fs_forge_split order[3] = {FS_FORGE_TEST, FS_FORGE_VAL, FS_FORGE_TRAIN}; /* items are by SHA-256, that is by place */
    for (int k = 0; k < 3; k++) {
        fs_forge_split split = order[k];
        if (!wanted[split] || n[split]) continue;
        for (size_t j = 0; j < s->count; j++) {
            size_t i = split == FS_FORGE_TRAIN ? s->count - 1 - j : j;
            fs_forge_split from = s->items[i].split;
            if (n[from] < 2) continue;
            n[from]--;
            n[split]++;
            s->items[i].split = split;
            break;
        }
    }
}

fs_status fs_sources_open(const char *const *paths, size_t n, const fs_forge_options *opt, fs_sources **out, fs_error *err) {
    fs_source_list list = {0};
    opening o = {.opt = opt, .list = &list};
    fs_sources *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s) return fs_fail(err, FS_E_NO_MEMORY, "no memory for the list of photos");
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->loaded, NULL);
    s->limit = opt->cache_bytes;
    fs_status status = fs_sources_find(paths, n, &list, err);
    if (status) goto done;
    if (!list.count) {
        status =
            fs_fail(err, FS_E_NOT_FOUND, "%s: no photo found there; give photos or folders that hold some", n ? paths[0] : "(nothing)");
        goto done;
    }
    o.status = fs_alloc_zero(list.count, sizeof *o.status);
    o.errors = fs_alloc_zero(list.count, sizeof *o.errors);
    if (!o.status || !o.errors) {
        status = fs_fail(err, FS_E_NO_MEMORY, "no memory for the list of photos");
        goto done;
    }
    if (!decode_all(&o)) {
        status = fs_fail(err, FS_E_CANCELLED, "stopped while reading the photos");
        goto done;
    }
    for (size_t i = 0; i < list.count; i++) {
        if (o.status[i] == FS_OK) {
            if (s->count != i) list.items[s->count] = list.items[i], list.items[i] = (fs_source){0};
            s->count++;
            continue;
        }
        fs_log(&opt->callbacks, FS_LOG_WARNING, "left out: %s", o.errors[i].message);
        fs_source_clear(&list.items[i]);
    }
    s->items = list.items;
    list.items = NULL;
    if (!s->count) {
        status = fs_fail(err, FS_E_FORMAT, "none of the %zu photos can be read; the first: %s", list.count, o.errors[0].message);
        goto done;
    }
    qsort(s->items, s->count, sizeof *s->items, by_sha);
    size_t kept = 1; /* the same photo twice is once */
    for (size_t i = 1; i < s->count; i++) {
        if (strcmp(s->items[i].sha256, s->items[kept - 1].sha256) != 0) {
            if (kept != i) s->items[kept] = s->items[i], s->items[i] = (fs_source){0};
            kept++;
            continue;
        }
        bool better = s->items[i].objects && !s->items[kept - 1].objects;
        fs_source *drop = better ? &s->items[kept - 1] : &s->items[i];
        pixels_free(drop->pixels);
        fs_source_clear(drop);
        if (better) s->items[kept - 1] = s->items[i], s->items[i] = (fs_source){0};
    }
    s->count = kept;
    divide(s, opt);
    qsort(s->items, s->count, sizeof *s->items, by_split);
    for (size_t i = 0; i < s->count; i++) {
        for (int k = (int)s->items[i].split + 1; k < 4; k++) s->first[k]++;
        if (s->items[i].pixels) s->bytes += pixels_bytes(s->items[i].pixels);
    }
    *out = s;
    s = NULL;
done:
    free(o.status);
    free(o.errors);
    for (size_t i = 0; list.items && i < list.count; i++) {
        pixels_free(list.items[i].pixels);
        fs_source_clear(&list.items[i]);
    }
    free(list.items);
    fs_sources_close(s);
    return status;
}

void fs_sources_close(fs_sources *s) {
    if (!s) return;
    for (size_t i = 0; s->items && i < s->count; i++) {
        pixels_free(s->items[i].pixels);
        fs_source_clear(&s->items[i]);
    }
    free(s->items);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->loaded);
    free(s);
}

size_t fs_sources_count(const fs_sources *s, fs_forge_split split) {
    return s->first[split + 1] - s->first[split];
}

const fs_source *fs_sources_get(const fs_sources *s, fs_forge_split split, size_t i) {
    return &s->items[s->first[split] + i];
}

/* Frees what nobody uses, longest unused first, until the limit is kept. The lock is held. */
static void evict(fs_sources *s) {
    while (s->bytes > s->limit) {
        fs_source *oldest = NULL;
        for (size_t i = 0; i < s->count; i++) {
            fs_source *c = &s->items[i];
            if (c->pixels && !c->users && (!oldest || c->used < oldest->used)) oldest = c;
        }
        if (!oldest) return;
        s->bytes -= pixels_bytes(oldest->pixels);
        pixels_free(oldest->pixels);
        oldest->pixels = NULL;
    }
}

fs_status fs_sources_hold(fs_sources *s, const fs_source *source, const fs_source_pixels **out, fs_error *err) {
    fs_source *mine = &s->items[source - s->items];
    fs_status status = FS_OK;
    pthread_mutex_lock(&s->lock);
    while (mine->loading) pthread_cond_wait(&s->loaded, &s->lock);
    if (!mine->pixels) {
        fs_source_pixels *loaded = NULL;
        mine->loading = true;
        pthread_mutex_unlock(&s->lock);
        status = load_pixels(mine, false, &loaded, err);
        pthread_mutex_lock(&s->lock);
        mine->loading = false;
        mine->pixels = loaded;
        if (loaded && (loaded->im->width != mine->width || loaded->im->height != mine->height)) {
            status = fs_fail(err, FS_E_IO, "%s: the photo changed while it was in use; begin again", mine->path);
            pixels_free(loaded);
            mine->pixels = NULL;
        }
        if (mine->pixels) s->bytes += pixels_bytes(mine->pixels);
        pthread_cond_broadcast(&s->loaded);
    }
    if (!status) {
        mine->users++;
        mine->used = ++s->clock;
        evict(s);
        *out = mine->pixels;
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

void fs_sources_release(fs_sources *s, const fs_source *source) {
    pthread_mutex_lock(&s->lock);
    s->items[source - s->items].users--;
    evict(s);
    pthread_mutex_unlock(&s->lock);
}
