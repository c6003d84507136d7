/* Samples forged as they are asked for (src/data/forge_*.c): no picture comes twice, and none is written. Record `index` of pass `draw` is
 * forgery number draw * count + index of its split, so a step sees the same whatever the threads and after a resume; a validation, whose
 * draw is always 0, sees the same pictures every time. Photos belong to one split each, by content.
 *
 * In pairs, records 2 k and 2 k + 1 are one picture tampered and untouched.
 *
 * A forgery that cannot be made of the photos it drew is replaced by one far behind all others. */
#include "train/data.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/mask_words.h"
#include "train/data_internal.h"

enum { STREAM_AUGMENT_FORGED = 0x667267, TRIES = 8, NAME = 32 };

typedef enum forged_kind { CONVERSATIONS, SEGM, DOMAINS } forged_kind;

typedef struct forged {
    fs_samples base;
    forged_kind kind;
    fs_forger *forger;
    fs_forge_split split;
    fs_conversation_options conversation;
    fs_segm_options segm;
    fs_domain_options domain;
    char (*names)[NAME];
} forged;

fs_forged_options fs_forged_options_defaults(void) {
    return (fs_forged_options){.forge = fs_forge_options_defaults(), .split = FS_FORGE_TRAIN, .count = 10000};
}

static const char *name(fs_samples *s, int64_t index) {
    return ((forged *)s)->names[index];
}

static fs_status make(const forged *f, int64_t index, uint64_t draw, fs_forge_record *r, fs_error *err) {
    const uint64_t first = draw * (uint64_t)f->base.count + (uint64_t)index;
    fs_status status = FS_OK;
    for (uint64_t i = 0; i < TRIES; i++) {
        fs_error why = {0};
        status = fs_forge_make(f->forger, f->split, first + (i << 40), r, &why);
        if (status && err) *err = why;
        if (status != FS_E_FAILED) break; /* FAILED: not of these photos */
    }
    return status;
}

/* The mask through CLIP's own preprocessing, as a grey picture, so that it is cut and scaled as the picture is. */
static fs_status see_mask(const fs_forge_record *r, bool pad, int64_t size, uint8_t **out, fs_error *err) {
    static const float MIDDLE = 0.5F, MEAN = 0.48145466F, DEVIATION = 0.26862954F; /* CLIP's, of its first channel; what pads is darker than the middle */
    const size_t pixels = (size_t)(r->width * r->height), seen = (size_t)(size * size);
    uint8_t *grey = fs_alloc(pixels, 3);
    float *values = NULL;
    *out = fs_alloc(seen, 1);
    fs_status status = grey && *out ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory for a mask");
    for (size_t i = 0; i < pixels && !status; i++) grey[3 * i] = grey[3 * i + 1] = grey[3 * i + 2] = r->mask[i];
    const fs_image im = {r->width, r->height, grey};
    if (!status) status = fs_data_clip(&im, pad, size, &values, err);
    for (size_t i = 0; i < seen && !status; i++) (*out)[i] = values[i] * DEVIATION + MEAN > MIDDLE;
    free(values);
    free(grey);
    return status;
}

/* What of an answer says something about this picture, and cannot be known from the grammar alone: "has been" or "has not", where, how large.
 * Marks its characters. */
static void mark_words(const char *answer, const fs_forge_record *r, uint8_t *marks) {
    static const char before_verdict[] = "The picture has ";
    const fs_mask_words words = fs_mask_words_of(r->mask, r->width, r->height);
    const char *verdict = strstr(answer, before_verdict);
    const struct { const char *at; size_t n; } spans[] = {
        {verdict ? verdict + strlen(before_verdict) : NULL, strcspn(verdict ? verdict + strlen(before_verdict) : "", " ")},
        {*words.position_word ? strstr(answer, words.position_word) : NULL, strlen(words.position_word)},
        {*words.size_word ? strstr(answer, words.size_word) : NULL, strlen(words.size_word)}};
    for (size_t i = 0; i < sizeof spans / sizeof *spans; i++)
        if (spans[i].at) memset(marks + (spans[i].at - answer), 1, spans[i].n);
}

/* How often each label counts: `focus` times where its token holds a marked character. */
static fs_status weigh_words(const forged *f, const fs_forge_record *r, fs_sample *s, fs_error *err) {
    const fs_tokenizer *t = f->conversation.tokenizer;
    int32_t *answer = fs_alloc(s->ids.count, sizeof *answer);
    size_t *place = fs_alloc(s->ids.count, sizeof *place), n = 0, from = 0;
    uint8_t *marks = NULL;
    char *text = NULL;
    fs_status status = FS_OK;
    s->times = fs_alloc(s->ids.count, 1);
    if (!answer || !place || !s->times) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for the words of %zu tokens", s->ids.count);
    for (size_t i = 0; i < s->ids.count && !status; i++) {
        s->times[i] = 1;
        if (s->labels[i] < 0) continue;
        place[n] = i;
        answer[n++] = s->ids.data[i];
    }
    if (!status) status = fs_tokenizer_decode(t, answer, n, false, &text, err);
    if (!status && !(marks = fs_alloc_zero(strlen(text) + 1, 1))) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status) mark_words(text, r, marks);
    for (size_t i = 0; i < n && !status; i++) { /* token i ends where the text of the first i + 1 does */
        char *part = NULL;
        if ((status = fs_tokenizer_decode(t, answer, i + 1, false, &part, err))) break;
        const size_t to = strlen(part);
        if (to > from && to <= strlen(text) && memchr(marks + from, 1, to - from)) s->times[place[i]] = (uint8_t)f->conversation.focus;
        from = to;
        free(part);
    }
    free(text);
    free(marks);
    free(place);
    free(answer);
    return status;
}

static fs_status load_conversation(const forged *f, const fs_forge_record *r, const fs_image *im, fs_sample *out, fs_error *err) {
    const fs_label_rule rule = {true, f->conversation.max_length, f->conversation.max_length};
    fs_data_turn turns[2] = {{.value = r->question}, {.value = r->answer}};
    const fs_data_record record = {.image = (char *)(uintptr_t) "forged", .turns = turns, .n_turns = 2};
    bool mismatch = false;
    char *text = NULL;
    fs_status status = fs_data_render_conversation(&record, &f->conversation, &text, err);
    if (!status) status = fs_tokens_and_labels(f->conversation.tokenizer, text, &rule, &out->ids, &out->labels, &mismatch, err);
    free(text);
    if (!status && !mismatch && f->conversation.focus > 1) status = weigh_words(f, r, out, err);
    if (!status && (mismatch || fs_data_no_labels(out->labels, out->ids.count)))
        status =
            fs_fail(err, FS_E_MISMATCH, "question and answer do not fit into %" PRId64 " tokens, or the grammar's texts hold an odd token",
                    f->conversation.max_length);
    if (!status) status = fs_data_clip(im, f->conversation.clip_pad, f->conversation.clip_size, &out->clip, err);
    if (!status && f->conversation.clip_mask) status = see_mask(r, f->conversation.clip_pad, f->conversation.clip_size, &out->clip_mask, err);
    return status;
}

static fs_status load_segm(const forged *f, int64_t index, uint64_t draw, fs_forge_record *r, const fs_image *im, fs_sample *out,
                           fs_error *err) {
    fs_buffer warning = {0};
    fs_status status = fs_data_segm_ids(&f->segm, r->answer, fs_data_segm_draw(&f->segm, true, index, draw), out, &warning, err);
    if (!status && warning.size) out->warning = fs_data_take_warning(&warning, f->names[index]);
    fs_buffer_free(&warning);
    if (!status) status = fs_data_clip(im, false, f->segm.clip_size, &out->clip, err);
    if (!status) status = fs_preprocess_sam(im, f->segm.sam_size, &out->sam, &out->sam_h, &out->sam_w, err);
    if (status) return status;
    for (int64_t i = 0; i < r->width * r->height; i++) r->mask[i] = r->mask[i] == 255;
    out->mask = r->mask;
    r->mask = NULL;
    return FS_OK;
}

static fs_status load(fs_samples *s, int64_t index, uint64_t draw, fs_sample *out, fs_error *err) {
    const forged *f = (const forged *)s;
    fs_forge_record r = {0};
    fs_error why = {0};
    *out = (fs_sample){.index = index, .record = index, .domain = -1};
    fs_status status = make(f, index, draw, &r, &why);
    if (!status) {
        fs_image im = {r.width, r.height, r.rgb};
        out->width = r.width, out->height = r.height;
        if (f->kind == CONVERSATIONS)
            status = load_conversation(f, &r, &im, out, &why);
        else if (f->kind == SEGM)
            status = load_segm(f, index, draw, &r, &im, out, &why);
        else {
            fs_rng rng = fs_sample_rng(f->domain.seed, STREAM_AUGMENT_FORGED, index, draw);
            out->domain = (int32_t)r.domain;
            status = f->domain.train ? fs_augment_picture(&im, &f->domain.augment, &rng, &out->dtg, &why)
                                     : fs_preprocess_dtg(&im, &out->dtg, &why);
        }
    }
    fs_forge_record_clear(&r);
    if (!status) return FS_OK;
    fs_sample_free(out);
    if (err) *err = why;
    return err ? fs_error_prefix(err, "forged picture %s, pass %" PRIu64, f->names[index], draw) : status;
}

/* There is nothing to look at before a picture is made. */
static fs_status check(fs_samples *s, int64_t index, fs_buffer *warning, fs_error *err) {
    (void)s, (void)index, (void)warning, (void)err;
    return FS_OK;
}

static void drop(fs_samples *s, const uint8_t *bad) {
    (void)s, (void)bad;
}

static void close_forged(fs_samples *s) {
    forged *f = (forged *)s;
    fs_forge_close(f->forger);
    free(f->names);
    free(f);
}

/* authentic: the share of untouched pictures. */
static fs_status open_forged(const fs_forged_options *o, forged_kind kind, float authentic, forged **out, fs_error *err) {
    fs_forge_options forge = o->forge;
    *out = NULL;
    if (o->count < 1 || o->count > 1000000000)
        return fs_fail(err, FS_E_USAGE, "forging: %" PRId64 " pictures in a pass, expected 1 to 1000000000", o->count);
    forge.authentic = authentic;
    const int64_t count = o->count + (forge.pairs && o->count % 2);
    forged *f = calloc(1, sizeof *f);
    if (f) f->names = fs_alloc_zero((size_t)count, sizeof *f->names);
    if (!f || !f->names) {
        free(f);
        return fs_fail(err, FS_E_NO_MEMORY, "out of memory for the names of %" PRId64 " pictures", count);
    }
    f->base = (fs_samples){.count = count, .pairs = forge.pairs, .load = load, .name = name, .check = check, .drop = drop, .close = close_forged};
    f->kind = kind;
    f->split = o->split;
    for (int64_t i = 0; i < count; i++) snprintf(f->names[i], NAME, "%s_%06" PRId64, fs_forge_split_name(o->split), i);
    fs_status status = fs_forge_open(&o->photos, 1, &forge, &f->forger, err);
    if (!status && !fs_forge_sources(f->forger, o->split))
        status = fs_fail(err, FS_E_NOT_FOUND, "%s: no photo of it belongs to the split %s; give more photos", o->photos,
                         fs_forge_split_name(o->split));
    if (status)
        close_forged(&f->base);
    else
        *out = f;
    return status;
}

fs_status fs_samples_forge_conversations(const fs_forged_options *o, const fs_conversation_options *opt, fs_samples **out, fs_error *err) {
    forged *f;
    *out = NULL;
    if (!opt->tokenizer || opt->max_length < 2 || opt->clip_size < 1)
        return fs_fail(err, FS_E_USAGE,
                       "%s: training data needs a tokenizer, a length of at least 2 tokens and a picture size of at least 1", o->photos);
    const fs_status status = open_forged(o, CONVERSATIONS, 0.5F, &f, err);
    if (!f) return status;
    f->conversation = *opt;
    *out = &f->base;
    return FS_OK;
}

fs_status fs_samples_forge_segm(const fs_forged_options *o, const fs_segm_options *opt, fs_samples **out, fs_error *err) {
    forged *f;
    *out = NULL;
    if (!opt->tokenizer || fs_tokenizer_id(opt->tokenizer, "[SEG]") < 0)
        return fs_fail(err, FS_E_MISMATCH, "the tokenizer knows no [SEG]; give that of MFLM");
    const fs_status status = open_forged(o, SEGM, 0, &f, err);
    if (!f) return status;
    f->segm = *opt;
    *out = &f->base;
    return FS_OK;
}

fs_status fs_samples_forge_domains(const fs_forged_options *o, const fs_domain_options *opt, fs_samples **out, fs_error *err) {
    forged *f;
    *out = NULL;
    const fs_status status = open_forged(o, DOMAINS, 0.5F, &f, err);
    if (!f) return status;
    f->domain = *opt;
    *out = &f->base;
    return FS_OK;
}
