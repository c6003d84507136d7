/* Stage 1, DTE-FDM (FakeShield section 3.2): the domain tag generator names the likely kind of forgery, its sentence and the detection
 * question go with the picture to LLaVA-v1.5, which writes verdict and explanation. Follows llava/serve/cli.py and eval/model_vqa.py of
 * the original, library versions of spec section 5.
 *
 * The score is no part of the original, whose verdict exists only in the text. It is read where the text decides: the model is given the
 * opening that every answer has, up to "The picture has", and asked how likely it finds " been tampered with" and " not been tampered
 * with" as the continuation; score = p(tampered) / (p(tampered) + p(authentic)). It involves no sampling. */
#include "pipeline/pipeline.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/bundle.h"
#include "text/utf8.h"

struct fs_dte_fdm {
    fs_lm_config config;
    fs_archive *dtg_file, *lm_file;
    fs_bundle *bundle; /* instead of the two */
    fs_resnet dtg;
    bool domain_given; /* the tag is `domain`, and dtg may not be there */
    fs_domain domain;
    fs_tower tower;
    fs_projector projector;
    fs_llama llama;
    fs_tokenizer *tokenizer;
    fs_llama_state prefix; /* of the tokens in front of every picture, prefix_ids; length 0: not computed yet */
    fs_ids prefix_ids;
    fs_exec exec, vision; /* language model and domain/vision networks may round differently */
    fs_callbacks callbacks;
    fs_calibration calibration;
};

static const char answer_opening[] = "1. Whether the picture has been tampered with / Description of the tampered area: ";
static const char *const verdict_sentence[2] = {"The picture has been tampered with", "The picture has not been tampered with"};

/* Types upstream computes in (spec 5.0): CLIP in f32 on pixels rounded to f16, everything after it in f16. */
static fs_dtype lm_precision(fs_precision p) {
    return p == FS_PRECISION_F32 ? FS_DTYPE_F32 : p == FS_PRECISION_BF16 ? FS_DTYPE_BF16 : FS_DTYPE_F16;
}
static fs_dtype vision_precision(fs_precision p) {
    return p == FS_PRECISION_BF16 ? FS_DTYPE_BF16 : p == FS_PRECISION_F16 ? FS_DTYPE_F16 : FS_DTYPE_F32;
}

/* A tokenizer with more pieces than the embedding has rows would make ids that cannot be looked up. */
static fs_status check_tokenizer(const fs_dte_fdm *s, const char *path, fs_error *err) {
    if (fs_tokenizer_size(s->tokenizer) <= s->config.llama.vocab) return FS_OK;
    return fs_fail(err, FS_E_MISMATCH, "%s: the tokenizer has %d pieces, config.json says vocab_size %lld", path, fs_tokenizer_size(s->tokenizer),
                   (long long)s->config.llama.vocab);
}

static fs_status bind_dtg(fs_dte_fdm *s, const fs_tensor_source *source, const char *path, fs_error *err) {
    fs_status status = fs_resnet_bind(&s->dtg, source, "", err);
    if (!status && s->dtg.classes != 3)
        status = fs_fail(err, FS_E_MISMATCH, "%s: tensor fc.weight has %d classes, expected 3 (AIGC, DeepFake, Photoshop)", path, s->dtg.classes);
    if (!status) fs_resnet_keep(&s->dtg);
    return status;
}

static fs_status bind_lm(fs_dte_fdm *s, fs_tensor_source source, const fs_overlay *overlay, fs_error *err) {
    fs_status status = fs_overlay_llama(overlay, &s->config, &source, &s->llama, err);
    return status ? status : fs_projector_bind(&s->projector, s->tower.clip.config.hidden, s->config.llama.hidden, &source, "model.mm_projector.", err);
}

static fs_status open_bundle(fs_dte_fdm *s, const fs_layout *layout, const fs_options *opt, const fs_overlay *overlay, fs_error *err) {
    fs_status status;
    if ((status = fs_bundle_open(layout->dte_fdm, layout->vision, "dte", opt->threads, &s->bundle, err))) return status;
    if (opt->lock_memory) fs_bundle_lock(s->bundle);
    if ((status = fs_bundle_lm_config(s->bundle, &s->config, err))) return status;
    if ((status = fs_bundle_tokenizer(s->bundle, FS_RULES_437, &s->tokenizer, err))) return status;
    if ((status = check_tokenizer(s, layout->dte_fdm, err))) return status;
    const fs_tensor_source dtg = fs_bundle_dtg(s->bundle);
    if ((status = bind_dtg(s, &dtg, layout->vision, err))) return status;
    if ((status = fs_bundle_clip(s->bundle, overlay, &s->tower.clip, err))) return status;
    if (!overlay && (status = fs_bundle_read_calibration(s->bundle, &s->calibration, err))) return status; /* an adapter's scores are others */
    return bind_lm(s, *fs_bundle_tensors(s->bundle), overlay, err);
}

static fs_status open_dtg(fs_dte_fdm *s, const fs_layout *layout, fs_error *err) {
    const char *extra;
    fs_status status = fs_archive_open(layout->dtg, &s->dtg_file, err);
    if (status) return status;
    fs_tensor_source source = fs_archive_source(s->dtg_file);
    if ((status = bind_dtg(s, &source, layout->dtg, err))) return status;
    /* upstream loads this file strictly */
    if (fs_report_extra(s->dtg_file, (const char *const[]){"num_batches_tracked", NULL}, NULL, &extra))
        return fs_fail(err, FS_E_MISMATCH, "%s: unexpected tensor %s; this is no ResNet-50 state dict as torchvision names it", layout->dtg, extra);
    return FS_OK;
}

static fs_status open_pair(fs_dte_fdm *s, const fs_layout *layout, const fs_options *opt, const fs_overlay *overlay, fs_error *err) {
    fs_status status;
    if (!layout->dtg && !opt->domain_given)
        return fs_fail(err, FS_E_NOT_FOUND,
                       "%s: a LLaVA has no domain tag generator; give FakeShield's with --dtg DTG.pth, or name the tag: --domain aigc, deepfake or photoshop",
                       layout->dte_fdm);
    if ((status = fs_bundle_open_pair(layout->dte_fdm, layout->vision, opt->threads, &s->bundle, err))) return status;
    if (opt->lock_memory) fs_bundle_lock(s->bundle);
    if ((status = fs_bundle_lm_config(s->bundle, &s->config, err))) return status;
    if ((status = fs_bundle_tokenizer(s->bundle, FS_RULES_437, &s->tokenizer, err))) return status;
    if ((status = check_tokenizer(s, layout->dte_fdm, err))) return status;
    if (!opt->domain_given && (status = open_dtg(s, layout, err))) return status;
    if ((status = fs_bundle_clip(s->bundle, overlay, &s->tower.clip, err))) return status;
    return bind_lm(s, *fs_bundle_tensors(s->bundle), overlay, err);
}

static fs_status open_checkpoint(fs_dte_fdm *s, fs_layout *layout, const fs_options *opt, const fs_overlay *overlay, fs_error *err) {
    fs_status status;
    if (!layout->dtg && !opt->domain_given)
        return fs_fail(err, FS_E_NOT_FOUND,
                       "%s: no DTG.pth (the domain tag generator); download it from huggingface.co/zhipeixu/fakeshield-v1-22b or give --dtg FILE",
                       layout->root);
    if ((status = fs_lm_config_read(layout->dte_fdm, &s->config, err))) return status;
    if ((status = fs_tokenizer_open(layout->dte_fdm, FS_RULES_437, &s->tokenizer, err))) return status;
    if ((status = check_tokenizer(s, layout->dte_fdm, err))) return status;
    if (!opt->domain_given && (status = open_dtg(s, layout, err))) return status;
    if ((status = fs_archive_open(layout->dte_fdm, &s->lm_file, err))) return status;
    const fs_tensor_source source = fs_archive_source(s->lm_file);
    if ((status = fs_layout_find_clip(layout, opt->clip_dir, s->config.vision_tower, err))) return status;
    if ((status = fs_tower_open(&s->tower, layout->clip, s->lm_file, s->config.vision_tower, overlay, err))) return status;
    if ((status = bind_lm(s, source, overlay, err))) return status;
    fs_report_extra(s->lm_file, (const char *const[]){"vision_tower", "inv_freq", "position_ids", NULL}, &s->callbacks, NULL);
    return FS_OK;
}

fs_status fs_dte_fdm_open(fs_layout *layout, const fs_options *opt, const fs_overlay *overlay, fs_dte_fdm **out, fs_error *err) {
    *out = NULL;
    if (!layout->dte_fdm)
        return fs_fail(err, FS_E_NOT_FOUND, "%s: no %s (stage 1); download it from huggingface.co/zhipeixu/fakeshield-v1-22b%s", layout->root,
                       layout->bundle ? FS_BUNDLE_DTE : "DTE-FDM directory", layout->bundle ? " and convert it" : "");
    fs_dte_fdm *s = calloc(1, sizeof *s);
    if (!s) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    s->callbacks = opt->callbacks;
    s->domain_given = opt->domain_given;
    s->domain = opt->domain;
    fs_status status = layout->pair ? open_pair(s, layout, opt, overlay, err)
                       : layout->bundle ? open_bundle(s, layout, opt, overlay, err)
                                        : open_checkpoint(s, layout, opt, overlay, err);
    if (!status) status = fs_exec_init(&s->vision, vision_precision(opt->precision), opt->threads, &s->callbacks, err);
    if (!status) status = fs_exec_init(&s->exec, lm_precision(opt->precision), opt->threads, &s->callbacks, err);
    if (!status) status = fs_llama_state_create(&s->llama, fs_kv_type(&s->exec, &s->llama, opt), 0, &s->prefix, err);
    if (!status && opt->lock_memory) fs_archive_lock(s->lm_file);
    if (status) fs_dte_fdm_close(s);
    else *out = s;
    return status;
}

void fs_dte_fdm_close(fs_dte_fdm *s) {
    if (!s) return;
    fs_exec_end(&s->exec);
    fs_exec_end(&s->vision);
    fs_resnet_unbind(&s->dtg);
    fs_tower_close(&s->tower);
    fs_llama_state_free(&s->prefix);
    fs_ids_free(&s->prefix_ids);
    fs_llama_unbind(&s->llama);
    fs_tokenizer_free(s->tokenizer);
    fs_archive_free(s->dtg_file);
    fs_archive_free(s->lm_file);
    fs_bundle_close(s->bundle);
    fs_lm_config_free(&s->config);
    free(s);
}

fs_stage_parts fs_dte_fdm_parts(fs_dte_fdm *s) {
    return (fs_stage_parts){.vision = &s->vision, .exec = &s->exec, .config = &s->config, .dtg = &s->dtg, .clip = &s->tower.clip,
                            .projector = &s->projector, .llama = &s->llama, .tokenizer = s->tokenizer};
}

/* ---- the steps of one picture ---- */

static fs_status name_domain(fs_dte_fdm *s, const fs_image *im, fs_result *r, fs_error *err) {
    float *pixels = NULL;
    if (s->domain_given) {
        r->domain = s->domain;
        for (int i = 0; i < 3; i++) r->domain_probability[i] = i == (int)s->domain;
        fs_result_warn(r, "the domain tag (%s) was given, not found in the picture", fs_domain_name(s->domain));
        return FS_OK;
    }
    fs_exec *c = &s->vision;
    const fs_dtype precision = c->precision;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_status status = fs_preprocess_dtg(im, &pixels, err);
    if (status) return status;
    c->precision = FS_DTYPE_F32; /* the tag generator runs in f32 whatever the rest does */
    fs_tensor *x = fs_wrap(c, FS_DTYPE_F32, 3, (const int64_t[]){3, 224, 224}, pixels);
    fs_tensor *logits = fs_resnet_forward(c, &s->dtg, x, NULL);
    fs_tensor *p = fs_softmax(c, logits);
    c->precision = precision;
    status = fs_exec_status(c, err);
    if (!status) {
        int best = 0;
        for (int i = 1; i < 3; i++)
            if (fs_f32(logits)[i] > fs_f32(logits)[best]) best = i;
        r->domain = (fs_domain)best;
        memcpy(r->domain_probability, p->data, sizeof r->domain_probability);
    }
    fs_arena_release(c->arena, mark);
    free(pixels);
    return status;
}

/* CLIP features through the projector, [patches, hidden], in the language model's arena. */
static fs_status see(fs_dte_fdm *s, const fs_image *im, const fs_options *opt, fs_tensor **out, fs_error *err) {
    const int64_t size = s->tower.clip.config.image_size;
    float *pixels = NULL;
    fs_exec *v = &s->vision, *c = &s->exec;
    const fs_arena_mark mark = fs_arena_get_mark(v->arena);
    fs_status status = s->config.pad_image ? fs_preprocess_clip_padded(im, size, &pixels, err) : fs_preprocess_clip_cropped(im, size, &pixels, err);
    if (status) return status;
    if (opt->precision == FS_PRECISION_UPSTREAM)
        for (int64_t i = 0; i < 3 * size * size; i++) pixels[i] = fs_f16_to_f32(fs_f32_to_f16(pixels[i]));
    fs_tensor *x = fs_wrap(v, FS_DTYPE_F32, 3, (const int64_t[]){3, size, size}, pixels);
    fs_tensor *features = fs_clip_forward(v, &s->tower.clip, x, s->config.select_layer, NULL);
    status = fs_exec_status(v, err);
    if (!status) {
        *out = fs_projector_forward(c, &s->projector, fs_to_f32(c, features)); /* the copy rounds the features to the model's type */
        status = fs_exec_status(c, err);
    }
    fs_arena_release(v->arena, mark);
    free(pixels);
    return status;
}

/* The ids that follow `prompt_ids` when `answer` is the answer. They must continue the prompt, not change it. */
static fs_status spell(const fs_dte_fdm *s, const char *prompt, const fs_ids *prompt_ids, const char *answer, fs_ids *out, fs_error *err) {
    fs_ids all = {0};
    char *text = fs_format("%s %s", prompt, answer);
    fs_status status = text ? fs_tokenizer_encode_image(s->tokenizer, text, &all, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status && (all.count <= prompt_ids->count || memcmp(all.data, prompt_ids->data, prompt_ids->count * sizeof *all.data) != 0))
        status = fs_fail(err, FS_E_MISMATCH, "the tokenizer joins the prompt's end with the answer; no score can be read");
    for (size_t i = prompt_ids->count; !status && i < all.count; i++) status = fs_ids_push(out, all.data[i], err);
    fs_ids_free(&all);
    free(text);
    return status;
}

/* The same when `sentence` is what the answer says behind its opening. */
static fs_status continuation(const fs_dte_fdm *s, const char *prompt, const fs_ids *prompt_ids, const char *sentence, fs_ids *out,
                              fs_error *err) {
    char *answer = fs_format("%s%s", answer_opening, sentence);
    fs_status status = answer ? spell(s, prompt, prompt_ids, answer, out, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(answer);
    return status;
}

/* Both sentences begin alike: the common part is run once, and what follows from where they part. */
static fs_status read_score(fs_dte_fdm *s, fs_llama_state *state, const float *last, const char *prompt, const fs_ids *ids, fs_result *r,
                            fs_error *err) {
    fs_exec *c = &s->exec;
    fs_ids sentence[2] = {{0}, {0}};
    double *logp = NULL, sum[2] = {0, 0};
    fs_status status = FS_OK;
    const int64_t length = state->length;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    for (int i = 0; i < 2 && !status; i++) status = continuation(s, prompt, ids, verdict_sentence[i], &sentence[i], err);
    if (status) goto done;
    size_t same = 0; /* where the sentences part */
    while (same < sentence[0].count && same < sentence[1].count && sentence[0].data[same] == sentence[1].data[same]) same++;
    logp = fs_alloc(sentence[0].count + sentence[1].count, sizeof *logp);
    if (!logp) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    if (same > 0) {
        const fs_tensor *h = fs_llama_forward(c, &s->llama, state, fs_llama_embed(c, &s->llama, sentence[0].data, (int64_t)same), NULL);
        if ((status = fs_exec_status(c, err))) goto done;
        last = fs_f32(h) + ((int64_t)same - 1) * s->config.llama.hidden;
    }
    for (int i = 0; i < 2; i++) {
        const size_t n = sentence[i].count - same;
        if ((status = fs_log_likelihood(c, &s->llama, state, last, sentence[i].data + same, n, logp, err))) goto done;
        for (size_t k = 0; k < n; k++) sum[i] += logp[k];
    }
    r->raw_score = 1 / (1 + exp(sum[1] - sum[0]));
    r->score = fs_calibration_apply(&s->calibration, sum[0] - sum[1]);
    r->calibration = s->calibration;
    r->has_score = !isnan(r->score);
done:
    state->length = length;
    fs_arena_release(c->arena, mark);
    free(logp);
    fs_ids_free(&sentence[0]);
    fs_ids_free(&sentence[1]);
    return status;
}

struct stream { fs_text_stream *text; const fs_callbacks *callbacks; int32_t eos; bool begun, silent; };

static fs_status stream_token(void *user, int32_t id, const float *state, fs_error *err) {
    struct stream *st = user;
    (void)state;
    if (!st->callbacks->text || st->silent || id == st->eos) return FS_OK;
    const char *piece;
    fs_status status = fs_text_stream_push(st->text, id, &piece, err);
    if (status) return status;
    while (!st->begun && (*piece == ' ' || *piece == '\n')) piece++;
    if (*piece) {
        st->begun = true;
        st->callbacks->text(st->callbacks->user_data, piece);
    }
    return FS_OK;
}

static char *strip(const char *s) {
    const char *begin = s, *end = s + strlen(s);
    fs_utf8_strip(&begin, &end, true, true);
    return fs_format("%.*s", (int)(end - begin), begin);
}

/* What the answer may repeat, for guessing ahead: the two forms in which every answer begins, each behind the prompt's end, and the prompt. */
static fs_status repeatable(const fs_dte_fdm *s, const char *prompt, const fs_ids *prompt_ids, fs_ids *out, fs_error *err) {
    static const char *const forms[] = {"The picture has not been tampered with. It appears to be a genuine photograph\n\n2. Judgment basis: The",
                                        "The picture has been tampered with, and the tampered area is\n\n2. Judgment basis: The"};
    const size_t tail = prompt_ids->count < 8 ? prompt_ids->count : 8;
    fs_status status = FS_OK;
    for (int i = 0; i < 2 && !status; i++) {
        for (size_t k = prompt_ids->count - tail; k < prompt_ids->count && !status; k++) status = fs_ids_push(out, prompt_ids->data[k], err);
        if (!status) status = continuation(s, prompt, prompt_ids, forms[i], out, err);
    }
    for (size_t k = 0; k < prompt_ids->count && !status; k++) status = fs_ids_push(out, prompt_ids->data[k], err);
    return status;
}

/* One picture on its way through stage 1, from its prompt on. */
struct fs_dte_answer {
    fs_dte_fdm *stage;
    const fs_options *options;
    fs_result *result;
    fs_llama_state state;
    char *prompt;
    fs_ids prompt_ids, context, ids, script;
    float *last; /* the state behind the prompt's last token */
    struct stream stream;
    fs_writer writer;
    double begun;
};

void fs_dte_answer_free(fs_dte_answer *a) {
    if (!a) return;
    fs_llama_state_free(&a->state);
    fs_ids_free(&a->prompt_ids);
    fs_ids_free(&a->context);
    fs_ids_free(&a->ids);
    fs_ids_free(&a->script);
    fs_text_stream_free(a->stream.text);
    free(a->prompt);
    free(a->last);
    free(a);
}

int64_t fs_dte_fdm_token_bytes(const fs_dte_fdm *s, const fs_options *opt) {
    const fs_llama_config *g = &s->config.llama;
    return fs_kv_token_bytes(fs_kv_type(&s->exec, &s->llama, opt), g->layers, g->kv_heads, g->hidden / g->heads);
}

bool fs_dte_answer_done(const fs_dte_answer *a) { return a->writer.done; }

/* The tokens in front of the picture are the same in every prompt: their keys and values are computed once and kept. Sets how many. */
static fs_status begin_with_prefix(fs_dte_answer *a, size_t *count, fs_error *err) {
    fs_dte_fdm *s = a->stage;
    fs_exec *c = &s->exec;
    const fs_ids *ids = &a->prompt_ids;
    size_t n = 0;
    fs_status status = FS_OK;
    *count = 0;
    while (n < ids->count && ids->data[n] != FS_IMAGE_TOKEN) n++;
    if (n == 0 || n == ids->count || (s->config.max_length > 0 && (int64_t)n >= s->config.max_length)) return FS_OK;
    if (s->prefix.length != (int64_t)n || memcmp(s->prefix_ids.data, ids->data, n * sizeof *ids->data) != 0) {
        s->prefix.length = 0;
        s->prefix_ids.count = 0;
        const fs_arena_mark mark = fs_arena_get_mark(c->arena);
        for (size_t i = 0; i < n && !status; i++) status = fs_ids_push(&s->prefix_ids, ids->data[i], err);
        if (!status) {
            fs_llama_forward(c, &s->llama, &s->prefix, fs_llama_embed(c, &s->llama, ids->data, (int64_t)n), NULL);
            status = fs_exec_status(c, err);
        }
        fs_arena_release(c->arena, mark);
        if (status) s->prefix.length = 0;
    }
    *count = n;
    return status ? status : fs_kv_copy(&a->state, &s->prefix, (int64_t)n, err);
}

/* Runs the prompt; a->last and a->state are what the answer continues from. */
static fs_status read_prompt(fs_dte_answer *a, const fs_image *pil, const char *question, fs_error *err) {
    fs_dte_fdm *s = a->stage;
    fs_exec *c = &s->exec;
    fs_result *r = a->result;
    const int64_t hidden = s->config.llama.hidden, positions = s->config.llama.max_positions, limit = s->config.max_length;
    fs_tensor *image = NULL;
    size_t known = 0;
    const double begun = fs_now();
    fs_progress(&s->callbacks, "looking", 0, 0);
    fs_status status = see(s, pil, a->options, &image, err);
    if (status) return status;
    const double seen = fs_now();
    r->times1.vision = seen - begun;
    a->prompt = fs_prompt_stage1(r->domain, question ? question : fs_prompt_detection_question, s->config.im_start_end);
    a->last = fs_alloc((size_t)hidden, sizeof *a->last);
    if (!a->prompt || !a->last) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if ((status = fs_tokenizer_encode_image(s->tokenizer, a->prompt, &a->prompt_ids, err))) return status;
    if ((status = begin_with_prefix(a, &known, err))) return status;
    fs_tensor *x = fs_prompt_embed(c, &s->llama, a->prompt_ids.data + known, a->prompt_ids.count - known, image, -1, NULL);
    if ((status = fs_exec_status(c, err))) return status;
    r->prompt_tokens = (int64_t)known + x->shape[0];
    if (limit > 0 && r->prompt_tokens > limit) {
        fs_result_warn(r, "the prompt of %lld tokens was cut to tokenizer_model_max_length %lld", (long long)r->prompt_tokens, (long long)limit);
        x = fs_rows(c, x, 0, limit - (int64_t)known);
        r->prompt_tokens = limit;
    }
    if (positions > 0 && r->prompt_tokens + a->options->max_new_tokens > positions && !a->options->verdict_only)
        fs_log(&s->callbacks, FS_LOG_INFO, "answers longer than %lld tokens would leave the positions the model was trained on (%lld)",
               (long long)fs_max_i64(0, positions - r->prompt_tokens), (long long)positions);
    fs_tensor *h = fs_llama_forward(c, &s->llama, &a->state, x, NULL);
    fs_check_finite(c, h, "stage 1's language model");
    if ((status = fs_exec_status(c, err))) return status;
    memcpy(a->last, fs_f32(h) + (h->shape[0] - 1) * hidden, (size_t)hidden * sizeof *a->last);
    r->times1.prefill = fs_now() - seen;
    return FS_OK;
}

static fs_status begin_writing(fs_dte_answer *a, fs_error *err) {
    fs_dte_fdm *s = a->stage;
    fs_status status = fs_text_stream_create(s->tokenizer, &a->stream.text, err);
    if (!status) status = repeatable(s, a->prompt, &a->prompt_ids, &a->context, err);
    a->stream.callbacks = &s->callbacks;
    a->stream.eos = fs_tokenizer_eos(s->tokenizer);
    fs_generation g = {.max_new_tokens = a->options->max_new_tokens, .eos = a->stream.eos, .sampling = a->options->sampling,
                       .step = a->stream.silent ? NULL : "writing", .on_token = stream_token, .user = &a->stream, .context = a->context.data,
                       .n_context = a->context.count, .accepted = &a->result->guessed_tokens};
    if (g.sampling.top_k < 0) g.sampling.top_k = s->config.generation_top_k;
    if (g.sampling.top_p < 0) g.sampling.top_p = s->config.generation_top_p;
    if (!status && a->result->force) {
        status = spell(s, a->prompt, &a->prompt_ids, a->result->force->explanation, &a->script, err);
        g.script = a->script.data;
        g.n_script = a->script.count;
        g.max_new_tokens = a->result->force->tokens;
        g.eos = -1;
    }
    return status ? status : fs_writer_begin(&s->exec, &s->llama, &g, &a->state, a->last, &a->ids, &a->writer, err);
}

fs_status fs_dte_fdm_begin(fs_dte_fdm *s, const fs_image *pil, const char *question, const fs_options *opt, bool silent, fs_result *r,
                           fs_dte_answer **out, fs_error *err) {
    fs_exec *c = &s->exec;
    *out = NULL;
    s->exec.error = s->vision.error = (fs_error){0}; /* what stopped an earlier picture does not stop this one */
    fs_dte_answer *a = calloc(1, sizeof *a);
    if (!a) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    a->stage = s;
    a->options = opt;
    a->result = r;
    a->stream.silent = silent;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    double t = fs_now();
    fs_status status = name_domain(s, pil, r, err);
    r->times1.domain = fs_now() - t;
    if (!status) status = fs_llama_state_create(&s->llama, fs_kv_type(c, &s->llama, opt), 1, &a->state, err);
    if (!status) status = read_prompt(a, pil, question, err);
    fs_arena_release(c->arena, mark);
    t = fs_now();
    if (!status) status = read_score(s, &a->state, a->last, a->prompt, &a->prompt_ids, r, err);
    a->begun = fs_now();
    r->times1.score = a->begun - t;
    if (!status && opt->verdict_only) {
        r->verdict = !r->has_score || fs_calibration_open_verdict(&r->calibration, r->score) ? FS_VERDICT_UNDETERMINED : r->score > 0.5 ? FS_VERDICT_TAMPERED : r->score < 0.5 ? FS_VERDICT_AUTHENTIC : FS_VERDICT_UNDETERMINED;
        a->writer.done = true;
    } else if (!status) {
        status = begin_writing(a, err);
    }
    if (status) fs_dte_answer_free(a);
    else *out = a;
    return status;
}

fs_status fs_dte_fdm_step(fs_dte_fdm *s, fs_dte_answer *const *answers, size_t n, fs_error *err) {
    fs_writer *writers[FS_MAX_WRITERS];
    if (n > FS_MAX_WRITERS) return fs_fail(err, FS_E_INTERNAL, "%zu answers at a time, at most %d", n, FS_MAX_WRITERS);
    for (size_t i = 0; i < n; i++) writers[i] = &answers[i]->writer;
    return fs_writers_step(&s->exec, &s->llama, writers, n, err);
}

/* The finished answer into the result. */
static fs_status read_answer(fs_dte_answer *a, fs_error *err) {
    fs_result *r = a->result;
    const fs_options *opt = a->options;
    const fs_ids *ids = &a->ids;
    char *raw = NULL;
    fs_status status = stream_token(&a->stream, FS_TEXT_STREAM_END, NULL, err); /* half a character may still be held back */
    if (!status) status = fs_tokenizer_decode(a->stage->tokenizer, ids->data, ids->count, true, &raw, err);
    if (status) return status;
    r->new_tokens = (int64_t)ids->count;
    r->truncated = ids->count == 0 || ids->data[ids->count - 1] != a->stream.eos;
    if (r->truncated) fs_result_warn(r, "the explanation was cut at %d tokens; raise --max-new-tokens to see the rest", opt->max_new_tokens);
    char *text = strip(raw);
    free(raw);
    if (text && !opt->trim_text) { /* the original's command line leaves one space in front (spec 4.7) */
        char *spaced = fs_format(" %s", text);
        free(text);
        text = spaced;
    }
    r->text = text;
    if (!text) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if ((status = fs_answer_parse(text, &r->answer, err))) return status;
    r->verdict = fs_answer_says_authentic(text) ? FS_VERDICT_AUTHENTIC : fs_answer_verdict(text);
    r->times1.generate = fs_now() - a->begun;
    if (r->has_score && r->verdict != FS_VERDICT_UNDETERMINED && (r->score > 0.5) != (r->verdict == FS_VERDICT_TAMPERED))
        fs_result_warn(r, "the explanation says %s but the score is %.3f: treat the verdict with care", fs_verdict_name(r->verdict), r->score);
    if (r->verdict == FS_VERDICT_UNDETERMINED) fs_result_warn(r, "the explanation gives no verdict in the expected form");
    if (r->has_score && fs_calibration_open_verdict(&r->calibration, r->score)) r->verdict = FS_VERDICT_UNDETERMINED;
    return FS_OK;
}

fs_status fs_dte_fdm_end(fs_dte_answer *a, fs_error *err) {
    fs_status status = a->writer.status;
    if (status && err) *err = a->writer.error;
    if (!status && !a->options->verdict_only) status = read_answer(a, err);
    if (!status) a->result->explained = true;
    fs_dte_answer_free(a);
    return status;
}

fs_status fs_dte_fdm_run(fs_dte_fdm *s, const fs_image *pil, const char *question, const fs_options *opt, fs_result *r, fs_error *err) {
    fs_dte_answer *a = NULL;
    fs_status status = fs_dte_fdm_begin(s, pil, question, opt, false, r, &a, err);
    while (!status && !fs_dte_answer_done(a)) status = fs_dte_fdm_step(s, &a, 1, err);
    if (!status) return fs_dte_fdm_end(a, err);
    fs_dte_answer_free(a);
    return status;
}
