/* DTE-FDM's samples: LLaVA's conversations (FakeShield section 3.2; DTE-FDM/llava/train/train.py, LazySupervisedDataset and
 * preprocess_multimodal). The picture's place is moved to the front of the turn that has it, the turns are rendered with template v1, and ids
 * and labels follow data_tokens.c. The file itself is read by src/data. */
#include "train/data.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "text/utf8.h"
#include "train/data_internal.h"

typedef struct conversations {
    fs_samples base;
    fs_dataset data;
    fs_conversation_options opt;
    char *path;
} conversations;

static const char PLACE[] = "<image>";

fs_conversation_options fs_conversation_options_defaults(void) {
    return (fs_conversation_options){.system = FS_SYSTEM_USER, .clip_pad = true, .clip_size = 336, .focus = 1, .max_length = 4096};
}

static const char *name(fs_samples *s, int64_t index) {
    const char *image = ((conversations *)s)->data.records[index].image;
    return image ? image : "";
}

/* "FILE: record 12 (PICTURE)" */
static char *where(conversations *c, int64_t index) {
    const fs_data_record *r = &c->data.records[index];
    return fs_format("%s: record %zu%s%s%s", c->path, r->index, r->image ? " (" : "", r->image ? r->image : "", r->image ? ")" : "");
}

static fs_status fail_at(conversations *c, int64_t index, fs_error *err) {
    char *place = where(c, index);
    const fs_status status = place && err ? fs_error_prefix(err, "%s", place) : err ? err->status : FS_E_FAILED;
    free(place);
    return status;
}

/* str.split(): how many words. */
static int64_t words(const char *text) {
    const size_t n = strlen(text);
    int64_t count = 0;
    bool inside = false;
    for (size_t i = 0; i < n;) {
        uint32_t code = 0;
        const size_t length = fs_utf8_char(text + i, n - i, &code);
        const bool space = length && fs_utf8_is_space(code);
        count += !space && !inside;
        inside = !space;
        i += length ? length : 1;
    }
    return count;
}

static int64_t length(fs_samples *s, int64_t index) {
    const fs_data_record *r = &((conversations *)s)->data.records[index];
    int64_t count = 0;
    for (size_t i = 0; i < r->n_turns; i++) count += words(r->turns[i].value);
    count = fs_max_i64(count, 1); /* the original stops at a conversation without a word */
    return r->image ? count : -count;
}

/* Appends text without its outer white space, as str.strip() finds it. */
static void add_stripped(fs_buffer *out, const char *text, size_t n) {
    const char *begin = text, *end = text + n;
    fs_utf8_strip(&begin, &end, true, true);
    fs_buffer_add(out, begin, (size_t)(end - begin));
}

/* The turn with the picture in front, malloc'ed; *places is raised by how many pictures it then asks for. */
static char *prepare_turn(const char *text, bool start_end, int *places) {
    fs_buffer bare = {0}, moved = {0}, out = {0};
    const char *found = strstr(text, PLACE), *from = text;
    if (!found) return fs_strdup(text);
    for (const char *p = found; p; p = strstr(from, PLACE)) {
        fs_buffer_add(&bare, from, (size_t)(p - from));
        from = p + strlen(PLACE);
    }
    fs_buffer_puts(&bare, from);
    fs_buffer_puts(&moved, "<image>\n");
    if (!bare.failed) add_stripped(&moved, bare.data, bare.size);
    fs_buffer_add(&out, "", 0);
    if (!moved.failed) { /* all white space behind a lone <image> goes too; what was cut apart by <image> may have become another one */
        const char *begin = moved.data, *end = moved.data + moved.size;
        fs_utf8_strip(&begin, &end, true, true);
        while (begin < end) {
            const bool place = (size_t)(end - begin) >= strlen(PLACE) && strncmp(begin, PLACE, strlen(PLACE)) == 0;
            if (place && start_end)
                fs_buffer_puts(&out, "<im_start><image><im_end>");
            else
                fs_buffer_add(&out, begin, place ? strlen(PLACE) : 1);
            begin += place ? strlen(PLACE) : 1;
            *places += place;
        }
    }
    if (bare.failed || moved.failed || out.failed) fs_buffer_free(&out);
    fs_buffer_free(&bare);
    fs_buffer_free(&moved);
    return out.data;
}

fs_status fs_data_render_conversation(const fs_data_record *r, const fs_conversation_options *opt, char **out, fs_error *err) {
    int places = 0;
    bool whole = true;
    char **turns = fs_alloc_zero(r->n_turns + 1, sizeof *turns);
    *out = NULL;
    fs_status status = FS_OK;
    for (size_t i = 0; i < r->n_turns && turns; i++) {
        turns[i] = r->image ? prepare_turn(r->turns[i].value, opt->im_start_end, &places) : fs_strdup(r->turns[i].value);
        whole = whole && turns[i];
    }
    if (places > 1)
        status = fs_fail(err, FS_E_FORMAT, "the conversation asks for %d pictures (<image>), a record has one; take <image> out of all turns but one", places);
    else if (turns && whole)
        *out = fs_prompt_conversation(opt->system, (const char *const *)turns, r->n_turns);
    if (!status && !*out) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for a conversation");
    for (size_t i = 0; i < r->n_turns && turns; i++) free(turns[i]);
    free(turns);
    return status;
}

static fs_status load_text(conversations *c, int64_t index, fs_sample *out, fs_error *err) {
    const fs_data_record *r = &c->data.records[index];
    const fs_label_rule rule = {r->image != NULL, c->opt.max_length, c->opt.max_length};
    bool mismatch = false;
    char *text = NULL;
    fs_buffer warning = {0};
    fs_status status = fs_data_render_conversation(r, &c->opt, &text, err);
    if (!status) status = fs_tokens_and_labels(c->opt.tokenizer, text, &rule, &out->ids, &out->labels, &mismatch, err);
    free(text);
    if (status) return status;
    const size_t n = out->ids.count;
    if (mismatch)
        fs_data_warn(&warning, "its rounds do not add up to its tokens, as in a conversation without an answer or with \"</s>\" in a text: no loss is taken from it");
    else if (fs_data_no_labels(out->labels, n))
        fs_data_warn(&warning, "no answer is left within its first %zu tokens: no loss is taken from it", n);
    if (warning.size) {
        char *place = where(c, index);
        out->warning = place ? fs_data_take_warning(&warning, place) : NULL;
        free(place);
    }
    fs_buffer_free(&warning);
    return FS_OK;
}

static fs_status load(fs_samples *s, int64_t index, uint64_t draw, fs_sample *out, fs_error *err) {
    conversations *c = (conversations *)s;
    const fs_data_record *r = &c->data.records[index];
    fs_error why = {0};
    fs_image *im = NULL;
    (void)draw; /* nothing is drawn at random */
    *out = (fs_sample){.index = index, .record = (int64_t)r->index, .domain = -1};
    fs_status status = load_text(c, index, out, &why);
    if (!status && r->image) {
        const fs_decode_options style = fs_decode_options_defaults(FS_DECODE_PIL);
        status = fs_image_load(r->image, &style, &im, NULL, &why);
        if (!status) status = fs_data_clip(im, c->opt.clip_pad, c->opt.clip_size, &out->clip, &why);
        fs_image_free(im);
    }
    if (status) {
        fs_sample_free(out);
        if (err) *err = why;
        return fail_at(c, index, err);
    }
    return FS_OK;
}

static fs_status check(fs_samples *s, int64_t index, fs_buffer *warning, fs_error *err) {
    conversations *c = (conversations *)s;
    const fs_data_record *r = &c->data.records[index];
    fs_error why = {0};
    fs_image_info info;
    char *text = NULL;
    fs_status status = fs_data_render_conversation(r, &c->opt, &text, &why);
    if (!status && r->image) status = fs_image_probe(r->image, NULL, &info, &why);
    if (!status && r->n_turns < 2) {
        char *place = where(c, index);
        if (place) fs_data_warn(warning, "%s: has no answer (a turn from \"gpt\"): no loss is taken from it", place);
        free(place);
    }
    free(text);
    if (!status) return FS_OK;
    if (err) *err = why;
    return fail_at(c, index, err);
}

static void drop(fs_samples *s, const uint8_t *bad) {
    fs_data_drop_records(&((conversations *)s)->data, bad);
    s->count = (int64_t)((conversations *)s)->data.count;
}

static void close_conversations(fs_samples *s) {
    conversations *c = (conversations *)s;
    fs_dataset_free(&c->data);
    free(c->path);
    free(c);
}

fs_status fs_samples_open_conversations(const char *json, const char *image_folder, const fs_conversation_options *opt, fs_samples **out, fs_error *err) {
    fs_data_options reading = fs_data_options_defaults();
    reading.keep_problems = opt->bad == FS_BAD_SKIP;
    *out = NULL;
    if (!opt->tokenizer || opt->max_length < 2 || opt->clip_size < 1)
        return fs_fail(err, FS_E_USAGE, "%s: training data needs a tokenizer, a length of at least 2 tokens and a picture size of at least 1", json);
    conversations *c = calloc(1, sizeof *c);
    if (!c) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    c->base = (fs_samples){.load = load, .length = length, .name = name, .check = check, .drop = drop, .close = close_conversations};
    c->opt = *opt;
    c->path = fs_strdup(json);
    fs_status status = c->path ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status) status = fs_dataset_open_conversations(json, image_folder ? image_folder : "/", &reading, &c->data, err);
    if (!status) fs_data_log_problems(&c->data, opt->callbacks);
    if (!status && c->data.count == 0) status = fs_fail(err, FS_E_FORMAT, "%s: none of its records can be trained on; the warnings say why", json);
    c->base.count = (int64_t)c->data.count;
    if (status)
        close_conversations(&c->base);
    else
        *out = &c->base;
    return status;
}
