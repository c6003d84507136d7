/* One record: what will be done is drawn from the seed, the split and the index; then photo, edit, post-processing, text. Every part has a
 * stream of random numbers of its own, so that the picture before the edit and the chain after it are the same whatever the edit. */
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "data/forge_private.h"
#include "text/text.h"

enum { PHOTOS_TRIED = 6, EDITS_TRIED = 6 };

typedef enum stream { STREAM_PLAN = 1, STREAM_SCENE = 2, STREAM_EDIT = 100, STREAM_CHAIN = 3, STREAM_TEXT = 4, STREAM_MIRROR = 5, STREAM_CLEAN = 6, STREAM_VARY = 7 } stream;

/* The finalizer of splitmix64: every bit of the input counts. */
static uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

/* Two records of a pair draw the same. */
static fs_rng rng_of(const fs_forger *f, fs_forge_split split, uint64_t index, uint64_t part) {
    if (f->opt.pairs) index /= 2;
    return fs_rng_seed(mix(mix(mix(f->opt.seed) ^ (uint64_t)split) ^ index) ^ mix(part));
}

fs_status fs_forge_open(const char *const *sources, size_t n_sources, const fs_forge_options *options, fs_forger **out, fs_error *err) {
    fs_forger *f = calloc(1, sizeof *f);
    float sum = 0;
    *out = NULL;
    if (!f) return fs_fail(err, FS_E_NO_MEMORY, "no memory to begin");
    f->opt = *options;
    f->opt.texts_file = NULL;
    fs_status status = FS_OK;
    for (int i = 1; i < FS_FORGE_TYPES; i++) sum += options->weight[i];
    if (options->size_min < 64 || options->size_max > 4096 || options->size_min > options->size_max)
        status = fs_fail(err, FS_E_USAGE, "sizes of %d to %d pixels; both from 64 to 4096, the smaller first", options->size_min,
                         options->size_max);
    else if (!(options->authentic >= 0 && options->authentic <= 1) || !(options->clean >= 0 && options->clean <= 1) ||
             !(options->val >= 0 && options->test >= 0 && options->val + options->test <= 1))
        status = fs_fail(err, FS_E_USAGE, "shares are from 0 to 1, and those of val and test together at most 1");
    else if (!(sum > 0))
        status = fs_fail(err, FS_E_USAGE, "no type of edit has a weight");
    if (!status) status = fs_texts_open(options->texts_file, &f->texts, err);
    if (!status) status = fs_sources_open(sources, n_sources, options, &f->sources, err);
    if (status)
        fs_forge_close(f);
    else
        *out = f;
    return status;
}

void fs_forge_close(fs_forger *f) {
    if (!f) return;
    fs_sources_close(f->sources);
    fs_texts_close(f->texts);
    free(f);
}

size_t fs_forge_sources(const fs_forger *f, fs_forge_split split) {
    return fs_sources_count(f->sources, split);
}

void fs_forge_record_clear(fs_forge_record *r) {
    free(r->rgb), free(r->mask), free(r->file), free(r->question), free(r->answer), free(r->parameters);
    free(r->before), free(r->after), free(r->edit_mask);
    *r = (fs_forge_record){0};
}

/* ---- the plan ---- */

typedef struct plan {
    bool tampered;
    fs_forge_type type; /* for an authentic picture: of its tampered counterpart, whose domain it shares */
    fs_chain chain;
    double size_at, aspect;
    bool own_aspect;
} plan;

static fs_forge_type draw_type(const float weight[FS_FORGE_TYPES], fs_rng *rng) {
    double sum = 0, at;
    int last = 1;
    for (int i = 1; i < FS_FORGE_TYPES; i++) sum += weight[i];
    at = fs_rng_uniform(rng) * sum;
    for (int i = 1; i < FS_FORGE_TYPES; i++) {
        if (!(weight[i] > 0)) continue;
        last = i;
        if (at < weight[i]) break;
        at -= weight[i];
    }
    return (fs_forge_type)last;
}

static plan draw_plan(const fs_forger *f, fs_forge_split split, uint64_t index) {
    static const double aspects[] = {1, 4.0 / 3, 1.5, 16.0 / 9, 3.0 / 4, 2.0 / 3};
    plan p = {0};
    fs_rng rng = rng_of(f, split, index, STREAM_PLAN);
    double share = f->opt.authentic;
    p.tampered = f->opt.pairs ? index % 2 == 0
                              : floor((double)(index + 1) * share) <= floor((double)index * share); /* the share is kept exactly, spread evenly */
    p.type = draw_type(f->opt.weight, &rng);
    fs_chain_draw(&rng, f->opt.format, &p.chain);
    fs_rng clean = rng_of(f, split, index, STREAM_CLEAN), vary = rng_of(f, split, index, STREAM_VARY); /* of their own, as is the mirror's */
    if (f->opt.no_chain || fs_dice_chance(&clean, f->opt.clean)) p.chain = (fs_chain){.name = "none"};
    if (f->opt.vary) fs_chain_vary(&vary, &p.chain);
    p.size_at = fs_rng_uniform(&rng);
    p.own_aspect = fs_dice_chance(&rng, 0.7);
    p.aspect = aspects[fs_dice_below(&rng, 6)];
    return p;
}

/* The finished picture's size: the wanted longer side, but no larger than the photo gives unless the option asks for it. */
static void size_of(const fs_forger *f, const plan *p, const fs_source *s, int64_t *width, int64_t *height) {
    double low = f->opt.size_min, high = f->opt.size_max, aspect = (double)s->width / (double)s->height, w = 1, h = 1;
    if (f->opt.square)
        aspect = 1;
    else if (!p->own_aspect)
        aspect = p->aspect;
    aspect = fmin(fmax(aspect, 0.4), 2.5);
    if (aspect > 1)
        h = 1 / aspect;
    else
        w = aspect;
    int64_t bw, bh;
    fs_chain_base_size(&p->chain, 1000, 1000, &bw, &bh);
    double room = fmin((double)s->width / w, (double)s->height / h) * 1000 / (double)bw;
    double side = fmin(low * exp(p->size_at * log(high / low)), fmax(room, low));
    *width = fs_max_i64(lrint(side * w), 16);
    *height = fs_max_i64(lrint(side * h), 16);
}

/* ---- the edit ---- */

typedef struct work {
    fs_forger *f;
    fs_forge_split split;
    uint64_t index;
    plan plan;
    fs_scene scene;
    fs_image *im; /* after the edit, then after the chain */
    fs_edit edit;
    fs_plane mask;
    int64_t width, height;
} work;

static fs_status run_edit(fs_forge_type type, fs_workshop *w, fs_edit *e, fs_error *err) {
    switch (type) {
    case FS_FORGE_SPLICE:
        return fs_edit_splice(w, e, err);
    case FS_FORGE_COPY_MOVE:
        return fs_edit_copy_move(w, e, err);
    case FS_FORGE_REMOVAL:
        return fs_edit_removal(w, e, err);
    case FS_FORGE_COLOR:
        return fs_edit_color(w, e, err);
    case FS_FORGE_BLUR:
        return fs_edit_blur(w, e, err);
    case FS_FORGE_RESAMPLE:
        return fs_edit_resample(w, e, err);
    default:
        return fs_fail(err, FS_E_INTERNAL, "an edit of type %d", (int)type);
    }
}

/* Is it worth the name? The mask has a sensible size, most of its pixels changed, and the change can be seen. */
static bool edit_counts(const fs_image *before, const fs_image *after, const fs_plane *mask) {
    int64_t total = mask->width * mask->height, masked = 0, changed = 0, sum = 0;
    for (int64_t i = 0; i < total; i++) {
        if (!mask->data[i]) continue;
        int d = 0;
        for (int c = 0; c < 3; c++) d += abs(before->data[i * 3 + c] - after->data[i * 3 + c]);
        masked++;
        changed += d > 0;
        sum += d;
    }
    double share = (double)masked / (double)total;
    return masked >= 120 && share > 0.004 && share < 0.6 && (double)changed > 0.7 * (double)masked && (double)sum > 6.0 * (double)masked;
}

static fs_status try_edits(work *w, uint64_t photo, bool *done, fs_error *err) {
    fs_status status = FS_OK;
    *done = false;
    for (uint64_t i = 0; i < EDITS_TRIED && !status && !*done; i++) {
        fs_rng rng = rng_of(w->f, w->split, w->index, STREAM_EDIT + photo * EDITS_TRIED + i);
        fs_edit_clear(&w->edit);
        fs_image_free(w->im);
        status = fs_image_crop(w->scene.im, 0, 0, w->scene.im->width, w->scene.im->height, &w->im, err);
        if (!status) status = fs_plane_create(w->im->width, w->im->height, &w->edit.mask, err);
        if (status) break;
        fs_workshop shop = {w->f->sources, w->split, &w->scene, w->im, &rng};
        status = run_edit(w->plan.type, &shop, &w->edit, err);
        *done = !status && edit_counts(w->scene.im, w->im, &w->edit.mask);
    }
    return status;
}

static fs_status make_scene(work *w, uint64_t photo, fs_error *err) {
    fs_rng rng = rng_of(w->f, w->split, w->index, STREAM_SCENE + 1000 * photo);
    const fs_source *s =
        fs_sources_get(w->f->sources, w->split, (size_t)fs_dice_below(&rng, (int64_t)fs_sources_count(w->f->sources, w->split)));
    const fs_source_pixels *pixels;
    int64_t bw, bh;
    size_of(w->f, &w->plan, s, &w->width, &w->height);
    fs_chain_base_size(&w->plan.chain, w->width, w->height, &bw, &bh);
    fs_scene_free(&w->scene);
    fs_status status = fs_sources_hold(w->f->sources, s, &pixels, err);
    if (status) return status;
    fs_rng mirror = rng_of(w->f, w->split, w->index, STREAM_MIRROR); /* of its own: the other draws are the same without */
    status = fs_scene_make(s, pixels, bw, bh, w->f->opt.mirror && fs_dice_chance(&mirror, 0.5), &rng, &w->scene, err);
    fs_sources_release(w->f->sources, s);
    return status;
}

/* ---- what comes out ---- */

static fs_domain domain_of(fs_forge_type type) {
    return type == FS_FORGE_REMOVAL ? FS_DOMAIN_AIGC : FS_DOMAIN_PHOTOSHOP;
}

static fs_status encode(work *w, fs_forge_record *r, fs_error *err) {
    const fs_chain *c = &w->plan.chain;
    fs_status status = FS_OK;
    if (c->n && c->step[c->n - 1].kind == FS_CHAIN_JPEG) {
        fs_image *seen = NULL;
        int quality = (int)c->step[c->n - 1].a;
        bool full = c->step[c->n - 1].b > 0, jpeg = w->f->opt.format == FS_FORGE_JPEG;
        if (!jpeg) return fs_through_jpeg(w->im, quality, full, err);
        status = fs_jpeg_encode_quality(w->im->data, w->im->width, w->im->height, 3, quality, full, &r->file, &r->file_size, err);
        if (!status) status = fs_image_decode("a picture just encoded", r->file, r->file_size, NULL, &seen, NULL, err);
        if (status) return status;
        fs_image_free(w->im);
        w->im = seen;
    }
    return status;
}

static json_t *rect_json(fs_rect r) {
    return json_pack("[I,I,I,I]", (json_int_t)r.x0, (json_int_t)r.y0, (json_int_t)r.x1, (json_int_t)r.y1);
}

static json_t *chain_json(const fs_chain *c) {
    json_t *list = json_array();
    for (int i = 0; i < c->n; i++) {
        double a = c->step[i].a, b = c->step[i].b;
        json_t *step = json_pack("{s:s}", "do", fs_chain_kind_name(c->step[i].kind));
        switch (c->step[i].kind) {
        case FS_CHAIN_RESIZE:
            json_object_set_new(step, "scale", json_real(a));
            break;
        case FS_CHAIN_CROP:
            json_object_set_new(step, "left", json_integer((json_int_t)a)), json_object_set_new(step, "top", json_integer((json_int_t)b));
            break;
        case FS_CHAIN_NOISE:
            json_object_set_new(step, "deviation", json_real(a)), json_object_set_new(step, "grey", json_boolean(b > 0));
            break;
        case FS_CHAIN_SHARPEN:
            json_object_set_new(step, "amount", json_real(a)), json_object_set_new(step, "radius", json_real(b));
            break;
        case FS_CHAIN_SOFTEN:
            json_object_set_new(step, "radius", json_real(a));
            break;
        case FS_CHAIN_TONE:
            json_object_set_new(step, "gamma", json_real(a)), json_object_set_new(step, "contrast", json_real(b));
            break;
        case FS_CHAIN_JPEG:
            json_object_set_new(step, "quality", json_integer((json_int_t)a)),
                json_object_set_new(step, "chroma", json_string(b > 0 ? "4:4:4" : "4:2:0"));
            break;
        case FS_CHAIN_TURN:
            json_object_set_new(step, "orientation", json_integer((json_int_t)a));
            break;
        case FS_CHAIN_TINT:
            json_object_set_new(step, "hue", json_real(a * 180 / M_PI)), json_object_set_new(step, "saturation", json_real(b));
            break;
        }
        json_array_append_new(list, step);
    }
    return list;
}

static json_t *edit_json(const fs_edit *e) {
    json_t *o = json_pack("{s:s}", "region", fs_region_kind_name(e->kind));
    if (e->what) json_object_set_new(o, "what", json_string(e->what));
    if (e->donor) {
        json_object_set_new(o, "donor", json_string(e->donor->name));
        json_object_set_new(o, "donor_sha256", json_string(e->donor->sha256));
        json_object_set_new(o, "donor_jpeg", json_integer(e->donor_quality));
    }
    if (e->from.x1 > e->from.x0) json_object_set_new(o, "from", rect_json(e->from));
    if (e->blend) {
        json_object_set_new(o, "blend", json_string(fs_blend_name(e->blend)));
        json_object_set_new(o, "feather", json_real(e->feather));
        json_object_set_new(o, "scale", json_real(e->turn.scale));
        json_object_set_new(o, "angle", json_real(e->turn.angle * 180 / M_PI));
        json_object_set_new(o, "mirror", json_boolean(e->turn.mirror));
    }
    if (e->copies) json_object_set_new(o, "copies", json_integer(e->copies));
    if (e->detail) {
        json_object_set_new(o, "detail", json_string(e->detail));
        json_object_set_new(o, "strength", json_real(e->strength));
    }
    return o;
}

static fs_status parameters_of(const work *w, const fs_facts *facts, char **out, fs_error *err) {
    const fs_scene *s = &w->scene;
    json_t *cues = json_array();
    for (int i = 0; i < facts->n_cues; i++) json_array_append_new(cues, json_string(facts->cues[i]));
    json_t *o = json_pack("{s:I,s:s,s:s,s:o,s:i,s:s,s:o}", "seed", (json_int_t)w->f->opt.seed, "source", s->source->name, "source_sha256",
                          s->source->sha256, "source_part", rect_json(s->rect), "first_jpeg", s->first_quality, "chain", w->plan.chain.name,
                          "steps", chain_json(&w->plan.chain));
    if (o && s->mirrored) json_object_set_new(o, "mirrored", json_true());
    if (o && w->plan.tampered) {
        json_object_set_new(o, "edit", edit_json(&w->edit));
        json_object_set_new(o, "position", json_string(facts->words.position_word));
        json_object_set_new(o, "size", json_string(facts->words.size_word));
        json_object_set_new(o, "area", json_real(facts->words.area));
        json_object_set_new(o, "cues", cues);
    } else {
        json_decref(cues);
    }
    *out = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(o);
    return *out ? FS_OK : fs_fail(err, FS_E_FAILED, "%s: the file name cannot be written as JSON; rename it (UTF-8)", s->source->path);
}

static fs_status write_texts(const work *w, fs_forge_record *r, fs_error *err) {
    fs_rng rng = rng_of(w->f, w->split, w->index, STREAM_TEXT);
    fs_facts facts = {.type = fs_forge_type_name(w->plan.type),
                      .what = w->edit.what,
                      .region = w->edit.kind == FS_REGION_OBJECT ? "object" : "region",
                      .words = fs_mask_words_of(r->mask, r->width, r->height)};
    if (w->plan.tampered) fs_facts_cues(&facts, w->plan.type, &w->edit, w->im, &w->mask, &rng);
    fs_status status = fs_texts_answer(w->f->texts, &facts, w->plan.tampered, &rng, &r->answer, err);
    if (!status) status = parameters_of(w, &facts, &r->parameters, err);
    if (!status && !(r->question = fs_format("<image>\n%s%s", fs_prompt_domain[r->domain], fs_prompt_detection_question)))
        status = fs_fail(err, FS_E_NO_MEMORY, "no memory for a text");
    return status;
}

static fs_status keep_trace(const work *w, fs_forge_record *r, fs_error *err) {
    int64_t n = w->im->width * w->im->height;
    r->before_width = w->im->width;
    r->before_height = w->im->height;
    r->before = fs_alloc((size_t)n, 3);
    r->after = fs_alloc((size_t)n, 3);
    r->edit_mask = fs_alloc((size_t)n, 1);
    if (!r->before || !r->after || !r->edit_mask) return fs_fail(err, FS_E_NO_MEMORY, "no memory for a trace");
    memcpy(r->before, w->scene.im->data, (size_t)n * 3);
    memcpy(r->after, w->im->data, (size_t)n * 3);
    memcpy(r->edit_mask, w->mask.data, (size_t)n);
    return FS_OK;
}

static fs_status make(work *w, bool traced, fs_forge_record *r, fs_error *err) {
    fs_status status = FS_OK;
    bool done = false;
    for (uint64_t photo = 0; photo < PHOTOS_TRIED && !status && !done; photo++) {
        status = make_scene(w, photo, err);
        if (status || !w->plan.tampered) break;
        status = try_edits(w, photo, &done, err);
    }
    if (!status && w->plan.tampered && !done)
        status =
            fs_fail(err, FS_E_FAILED, "%s: no %s could be made of this photo nor of %d others; give more varied photos or other --types",
                    w->scene.source->path, fs_forge_type_name(w->plan.type), PHOTOS_TRIED - 1);
    if (!status && !w->plan.tampered) {
        status = fs_image_crop(w->scene.im, 0, 0, w->scene.im->width, w->scene.im->height, &w->im, err);
        if (!status) status = fs_plane_create(w->im->width, w->im->height, &w->mask, err);
    } else if (!status) {
        w->mask = w->edit.mask;
        w->edit.mask = (fs_plane){0};
    }
    if (!status && traced) status = keep_trace(w, r, err);
    if (status) return status;
    fs_rng rng = rng_of(w->f, w->split, w->index, STREAM_CHAIN);
    status = fs_chain_run(&w->plan.chain, w->width, w->height, &rng, &w->im, &w->mask, err);
    if (!status) status = encode(w, r, err);
    if (status) return status;
    r->type = w->plan.tampered ? w->plan.type : FS_FORGE_AUTHENTIC;
    r->domain = domain_of(w->plan.type);
    r->width = w->im->width;
    r->height = w->im->height;
    r->mask = w->mask.data;
    w->mask.data = NULL;
    fs_plane view = {r->width, r->height, r->mask};
    w->mask = view;
    status = write_texts(w, r, err);
    w->mask = (fs_plane){0};
    r->rgb = w->im->data;
    w->im->data = NULL;
    return status;
}

static fs_status make_record(fs_forger *f, fs_forge_split split, uint64_t index, bool traced, fs_forge_record *out, fs_error *err) {
    *out = (fs_forge_record){.split = split, .index = index};
    if ((int)split < 0 || (int)split > 2 || !fs_sources_count(f->sources, split))
        return fs_fail(err, FS_E_NOT_FOUND, "no photo belongs to the split %s; give more photos, or a share of 0 for it",
                       fs_forge_split_name(split));
    /* A record is one thread's work: the resampler's loops must not start threads of their own inside of workers. */
    int threads = omp_get_max_threads();
    omp_set_num_threads(1);
    work w = {.f = f, .split = split, .index = index, .plan = draw_plan(f, split, index), .edit = {.turn = {.scale = 1}}};
    fs_status status = make(&w, traced, out, err);
    omp_set_num_threads(threads);
    fs_scene_free(&w.scene);
    fs_image_free(w.im);
    fs_edit_clear(&w.edit);
    fs_plane_free(&w.mask);
    if (status) fs_forge_record_clear(out);
    return status;
}

fs_status fs_forge_make(fs_forger *f, fs_forge_split split, uint64_t index, fs_forge_record *out, fs_error *err) {
    return make_record(f, split, index, false, out, err);
}

fs_status fs_forge_make_traced(fs_forger *f, fs_forge_split split, uint64_t index, fs_forge_record *out, fs_error *err) {
    return make_record(f, split, index, true, out, err);
}
