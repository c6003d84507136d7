/* MFLM's samples: a tampered picture, its mask, what stage 1 said of it, and a question and answer with [SEG] (FakeShield section 3.3;
 * MFLM/dataset/Tamper_PS_Segm_ds.py, custom_collate_fn of MFLM/dataset/dataset.py). Pictures and masks are paired by name (src/data), not by
 * their places in two lists as upstream does. Only mask pixels of value 255 count, as upstream; what that loses is said. */
#include "train/data.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/mask.h"
#include "train/data_internal.h"

enum { STREAM_QUESTION = 0x736567 };

typedef struct segm {
    fs_samples base;
    fs_dataset data;
    fs_segm_options opt;
} segm;

fs_segm_options fs_segm_options_defaults(void) {
    return (fs_segm_options){.texts = FS_TEXTS_TRAIN_OUTPUT, .train = true, .max_length = 1536, .image_tokens = 576, .clip_size = 336, .sam_size = 1024, .question = -1, .answer = -1};
}

static const char *name(fs_samples *s, int64_t index) {
    return ((segm *)s)->data.records[index].image;
}

static fs_status fail_at(segm *s, int64_t index, const fs_error *why, fs_error *err) {
    const fs_data_record *r = &s->data.records[index];
    if (err) *err = *why;
    return err ? fs_error_prefix(err, "record %zu (%s)", r->index, r->image) : why->status;
}

static int64_t kept_ids(const fs_segm_options *opt) {
    return opt->train ? fs_max_i64(opt->max_length - (opt->image_tokens - 1), 1) : INT64_MAX;
}

static bool has_seg(const fs_segm_options *opt, const fs_ids *ids) {
    const int32_t seg = fs_tokenizer_id(opt->tokenizer, "[SEG]");
    for (size_t i = 0; i < ids->count; i++)
        if (ids->data[i] == seg) return true;
    return false;
}

fs_status fs_data_segm_ids(const fs_segm_options *opt, const char *description, fs_segm_draw draw, fs_sample *out, fs_buffer *warning, fs_error *err) {
    const fs_label_rule rule = {true, opt->max_length, kept_ids(opt)};
    int defused = 0;
    bool mismatch = false;
    char *text = fs_prompt_stage2_training(draw.placeless ? FS_DATA_PLACELESS : description, draw.question, draw.answer, &defused);
    if (!text) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for a conversation");
    const fs_status status = fs_tokens_and_labels(opt->tokenizer, text, &rule, &out->ids, &out->labels, &mismatch, err);
    free(text);
    if (status) return status;
    if (mismatch) return fs_fail(err, FS_E_MISMATCH, "its question and answer do not add up to its tokens; does its text hold an odd token?");
    if (defused) fs_data_warn(warning, "%d place%s of its text would be read as a token, as [SEG] or <image>, and got round brackets", defused, defused == 1 ? "" : "s");
    if (!has_seg(opt, &out->ids))
        fs_data_warn(warning, "its text is too long: within its first %zu tokens there is no [SEG] left, so that its mask teaches nothing", out->ids.count);
    return FS_OK;
}

static fs_status load_text(segm *s, int64_t index, fs_segm_draw draw, fs_sample *out, fs_buffer *warning, fs_error *err) {
    return fs_data_segm_ids(&s->opt, s->data.records[index].text, draw, out, warning, err);
}

/* 1 where the mask is 255. */
static fs_status load_mask(segm *s, int64_t index, const fs_image *im, fs_sample *out, fs_buffer *warning, fs_error *err) {
    const char *path = s->data.records[index].mask;
    fs_mask mask = {0};
    fs_status status = fs_mask_load(path, &mask, err);
    if (status) return status;
    const int64_t n = mask.width * mask.height;
    const fs_mask_values v = fs_mask_count(&mask);
    if (mask.width != im->width || mask.height != im->height) {
        status = fs_fail(err, FS_E_MISMATCH, "%s: the mask is %" PRId64 " x %" PRId64 " pixels, its picture %" PRId64 " x %" PRId64, path, mask.width, mask.height,
                         im->width, im->height);
        goto done;
    }
    for (int64_t i = 0; i < n; i++) mask.data[i] = mask.data[i] == 255;
    if (v.white == 0)
        fs_data_warn(warning, "its mask has no pixel of value 255, the only one that counts (its largest is %d)", v.max);
    else if (v.nonzero != v.white)
        fs_data_warn(warning, "%.2f %% of its mask's marked pixels are not 255 and count as background", 100 * fs_mask_lost(&v));
    out->mask = mask.data;
    out->width = mask.width, out->height = mask.height;
    mask.data = NULL;
done:
    fs_mask_clear(&mask);
    return status;
}

fs_segm_draw fs_data_segm_draw(const fs_segm_options *opt, bool described, int64_t record, uint64_t draw) {
    const int questions = described ? FS_LOCALIZE_QUESTIONS : FS_LOCALIZE_BARE_QUESTIONS;
    fs_rng rng = fs_sample_rng(opt->seed, STREAM_QUESTION, record, draw);
    const int question = (int)(fs_rng_uniform(&rng) * questions), answer = (int)(fs_rng_uniform(&rng) * FS_LOCALIZE_ANSWERS);
    return (fs_segm_draw){.question = opt->question < 0 ? question : opt->question % questions, .answer = opt->answer < 0 ? answer : opt->answer,
                          .placeless = described && fs_rng_uniform(&rng) < opt->text_dropout};
}

static fs_status load(fs_samples *samples, int64_t index, uint64_t draw, fs_sample *out, fs_error *err) {
    segm *s = (segm *)samples;
    const fs_data_record *r = &s->data.records[index];
    const fs_decode_options style = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_error why = {0};
    fs_buffer warning = {0};
    fs_image *im = NULL;
    *out = (fs_sample){.index = index, .record = (int64_t)r->index, .domain = -1};
    fs_status status = load_text(s, index, fs_data_segm_draw(&s->opt, r->text != NULL, (int64_t)r->index, draw), out, &warning, &why);
    if (!status) status = fs_image_load(r->image, &style, &im, NULL, &why);
    if (!status) status = load_mask(s, index, im, out, &warning, &why);
    if (!status) status = fs_data_clip(im, false, s->opt.clip_size, &out->clip, &why);
    if (!status) status = fs_preprocess_sam(im, s->opt.sam_size, &out->sam, &out->sam_h, &out->sam_w, &why);
    fs_image_free(im);
    if (!status && warning.size) {
        char *place = fs_format("record %zu (%s)", r->index, r->image);
        out->warning = place ? fs_data_take_warning(&warning, place) : NULL;
        free(place);
    }
    fs_buffer_free(&warning);
    if (!status) return FS_OK;
    fs_sample_free(out);
    return fail_at(s, index, &why, err);
}

/* Would the longest question and answer cut off [SEG]? */
static fs_status check_length(segm *s, int64_t index, fs_buffer *warning, fs_error *err) {
    const fs_data_record *r = &s->data.records[index];
    enum { LONGEST_ANSWER = 3, REST = 1000 };
    fs_sample one = {0};
    /* an id stands for at least a byte: short texts need not be tokenized to know that they fit */
    if (!s->opt.train || (r->text ? (int64_t)strlen(r->text) : 0) + REST < kept_ids(&s->opt)) return FS_OK;
    const fs_status status = load_text(s, index, (fs_segm_draw){r->text ? 1 : 0, LONGEST_ANSWER, false}, &one, warning, err);
    fs_sample_free(&one);
    return status;
}

static fs_status check(fs_samples *samples, int64_t index, fs_buffer *warning, fs_error *err) {
    segm *s = (segm *)samples;
    const fs_data_record *r = &s->data.records[index];
    const fs_decode_options style = fs_decode_options_defaults(FS_DECODE_CV2);
    fs_error why = {0};
    fs_image_info picture, mask;
    fs_buffer doubts = {0};
    fs_status status = fs_image_probe(r->image, &style, &picture, &why);
    if (!status) status = fs_image_probe(r->mask, &style, &mask, &why);
    if (!status && (picture.width != mask.width || picture.height != mask.height))
        status = fs_fail(&why, FS_E_MISMATCH, "%s: the mask is %" PRId64 " x %" PRId64 " pixels, its picture %" PRId64 " x %" PRId64, r->mask, mask.width, mask.height,
                         picture.width, picture.height);
    if (!status) status = check_length(s, index, &doubts, &why);
    if (doubts.size) fs_data_warn(warning, "record %zu (%s): %s", r->index, r->image, doubts.data);
    fs_buffer_free(&doubts);
    return status ? fail_at(s, index, &why, err) : FS_OK;
}

static void drop(fs_samples *s, const uint8_t *bad) {
    fs_data_drop_records(&((segm *)s)->data, bad);
    s->count = (int64_t)((segm *)s)->data.count;
}

static void close_segm(fs_samples *s) {
    fs_dataset_free(&((segm *)s)->data);
    free(s);
}

/* Every record needs a mask, every set the file of texts that was asked for; records without text are counted. */
static fs_status judge(segm *s, fs_error *err) {
    const char *file = fs_data_texts_file(s->opt.texts);
    const fs_data_record *first = NULL;
    size_t bare = 0, authentic = 0;
    for (size_t i = 0; i < s->data.n_sets; i++) {
        const fs_data_set *set = &s->data.sets[i];
        if (file && !set->texts[s->opt.texts])
            return fs_fail(err, FS_E_NOT_FOUND, "%s: no %s in this set, or none that can be read; run stage 1 over its pictures, or choose other texts", set->dir, file);
        if (!set->has_masks && s->opt.bad == FS_BAD_FATAL)
            return fs_fail(err, FS_E_NOT_FOUND, "%s: has no folder mask; only tampered pictures with masks teach where to look", set->dir);
        if (!set->has_masks) fs_log(s->opt.callbacks, FS_LOG_WARNING, "%s: has no folder mask; its pictures are left out", set->dir);
    }
    uint8_t *bad = fs_alloc_zero(s->data.count + 1, 1);
    if (!bad) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for %zu records", s->data.count);
    for (size_t i = 0; i < s->data.count; i++) {
        fs_data_record *r = &s->data.records[i];
        r->index = i;
        bad[i] = !r->mask;
        authentic += bad[i];
        if (bad[i] || r->text || s->opt.texts == FS_TEXTS_NONE) continue;
        if (bare++ == 0) first = r;
    }
    if (bare)
        fs_log(s->opt.callbacks, FS_LOG_WARNING, "%s: no text for this picture%s; a question without description is asked instead", first->image,
               bare > 1 ? " and others" : "");
    if (authentic) fs_data_drop_records(&s->data, bad);
    free(bad);
    return FS_OK;
}

fs_status fs_samples_open_segm(const char *root, const char *sets, const fs_segm_options *opt, fs_samples **out, fs_error *err) {
    fs_data_options reading = fs_data_options_defaults();
    reading.keep_problems = opt->bad == FS_BAD_SKIP;
    reading.texts = opt->texts;
    *out = NULL;
    if (!opt->tokenizer || opt->max_length < 2 || opt->image_tokens < 1 || opt->clip_size < 1 || opt->sam_size < 1 || opt->answer >= FS_LOCALIZE_ANSWERS ||
        opt->question >= FS_LOCALIZE_QUESTIONS)
        return fs_fail(err, FS_E_USAGE, "%s: training data needs a tokenizer, sizes of at least 1, a question below %d and an answer below %d", root,
                       (int)FS_LOCALIZE_QUESTIONS, (int)FS_LOCALIZE_ANSWERS);
    segm *s = calloc(1, sizeof *s);
    if (!s) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    s->base = (fs_samples){.load = load, .name = name, .check = check, .drop = drop, .close = close_segm};
    s->opt = *opt;
    fs_status status = fs_tokenizer_id(opt->tokenizer, "[SEG]") < 0 ? fs_fail(err, FS_E_MISMATCH, "the tokenizer knows no [SEG]; give that of MFLM") : FS_OK;
    if (!status) status = fs_dataset_open_spec(root, sets, &reading, &s->data, err);
    if (!status) fs_data_log_problems(&s->data, opt->callbacks);
    if (!status) status = judge(s, err);
    if (!status && s->data.count == 0) status = fs_fail(err, FS_E_NOT_FOUND, "%s: no picture with a mask in %s", root, sets);
    s->base.count = (int64_t)s->data.count;
    if (status)
        close_segm(&s->base);
    else
        *out = &s->base;
    return status;
}
