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
    fs_tower tower;
    fs_projector projector;
    fs_llama llama;
    fs_tokenizer *tokenizer;
    fs_exec exec, vision; /* language model and domain/vision networks may round differently */
    fs_callbacks callbacks;
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
    return status;
}

static fs_status bind_lm(fs_dte_fdm *s, const fs_tensor_source *source, fs_error *err) {
    fs_status status = fs_llama_bind(&s->llama, &s->config.llama, source, "", err);
    return status ? status : fs_projector_bind(&s->projector, s->tower.clip.config.hidden, s->config.llama.hidden, source, "model.mm_projector.", err);
}

static fs_status open_bundle(fs_dte_fdm *s, const fs_layout *layout, const fs_options *opt, fs_error *err) {
    fs_status status;
    if ((status = fs_bundle_open(layout->dte_fdm, layout->vision, "dte", opt->threads, &s->bundle, err))) return status;
    if ((status = fs_bundle_lm_config(s->bundle, &s->config, err))) return status;
    if ((status = fs_bundle_tokenizer(s->bundle, FS_RULES_437, &s->tokenizer, err))) return status;
    if ((status = check_tokenizer(s, layout->dte_fdm, err))) return status;
    const fs_tensor_source dtg = fs_bundle_dtg(s->bundle);
    if ((status = bind_dtg(s, &dtg, layout->vision, err))) return status;
    if ((status = fs_bundle_clip(s->bundle, &s->tower.clip, err))) return status;
    return bind_lm(s, fs_bundle_tensors(s->bundle), err);
}

static fs_status open_checkpoint(fs_dte_fdm *s, fs_layout *layout, const fs_options *opt, fs_error *err) {
    fs_status status;
    const char *extra;
    if (!layout->dtg)
        return fs_fail(err, FS_E_NOT_FOUND,
                       "%s: no DTG.pth (the domain tag generator); download it from huggingface.co/zhipeixu/fakeshield-v1-22b or give --dtg FILE",
                       layout->root);
    if ((status = fs_lm_config_read(layout->dte_fdm, &s->config, err))) return status;
    if ((status = fs_tokenizer_open(layout->dte_fdm, FS_RULES_437, &s->tokenizer, err))) return status;
    if ((status = check_tokenizer(s, layout->dte_fdm, err))) return status;
    if ((status = fs_archive_open(layout->dtg, &s->dtg_file, err))) return status;
    fs_tensor_source source = fs_archive_source(s->dtg_file);
    if ((status = bind_dtg(s, &source, layout->dtg, err))) return status;
    /* upstream loads this file strictly */
    if (fs_report_extra(s->dtg_file, (const char *const[]){"num_batches_tracked", NULL}, NULL, &extra))
        return fs_fail(err, FS_E_MISMATCH, "%s: unexpected tensor %s; this is no ResNet-50 state dict as torchvision names it", layout->dtg, extra);
    if ((status = fs_archive_open(layout->dte_fdm, &s->lm_file, err))) return status;
    source = fs_archive_source(s->lm_file);
    if ((status = fs_layout_find_clip(layout, opt->clip_dir, s->config.vision_tower, err))) return status;
    if ((status = fs_tower_open(&s->tower, layout->clip, s->lm_file, s->config.vision_tower, err))) return status;
    if ((status = bind_lm(s, &source, err))) return status;
    fs_report_extra(s->lm_file, (const char *const[]){"vision_tower", "inv_freq", "position_ids", NULL}, &s->callbacks, NULL);
    return FS_OK;
}

fs_status fs_dte_fdm_open(fs_layout *layout, const fs_options *opt, fs_dte_fdm **out, fs_error *err) {
    *out = NULL;
    if (!layout->dte_fdm)
        return fs_fail(err, FS_E_NOT_FOUND, "%s: no %s (stage 1); download it from huggingface.co/zhipeixu/fakeshield-v1-22b%s", layout->root,
                       layout->bundle ? FS_BUNDLE_DTE : "DTE-FDM directory", layout->bundle ? " and convert it" : "");
    fs_dte_fdm *s = calloc(1, sizeof *s);
    if (!s) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    s->callbacks = opt->callbacks;
    fs_status status = layout->bundle ? open_bundle(s, layout, opt, err) : open_checkpoint(s, layout, opt, err);
    if (!status) status = fs_exec_init(&s->vision, vision_precision(opt->precision), opt->threads, &s->callbacks, err);
    if (!status) status = fs_exec_init(&s->exec, lm_precision(opt->precision), opt->threads, &s->callbacks, err);
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

static fs_status read_score(fs_dte_fdm *s, fs_llama_state *state, const float *last, const char *prompt, const fs_ids *ids, fs_result *r,
                            fs_error *err) {
    fs_ids sentence[2] = {{0}, {0}};
    double *logp = NULL, sum[2] = {0, 0};
    fs_status status = FS_OK;
    for (int i = 0; i < 2 && !status; i++) status = continuation(s, prompt, ids, verdict_sentence[i], &sentence[i], err);
    if (status) goto done;
    size_t same = 0; /* where the sentences part */
    while (same < sentence[0].count && same < sentence[1].count && sentence[0].data[same] == sentence[1].data[same]) same++;
    logp = fs_alloc(sentence[0].count + sentence[1].count, sizeof *logp);
    if (!logp) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    for (int i = 0; i < 2; i++) {
        if ((status = fs_log_likelihood(&s->exec, &s->llama, state, last, sentence[i].data, sentence[i].count, logp, err))) goto done;
        for (size_t k = same; k < sentence[i].count; k++) sum[i] += logp[k];
    }
    r->score = 1 / (1 + exp(sum[1] - sum[0]));
    r->has_score = !isnan(r->score);
done:
    free(logp);
    fs_ids_free(&sentence[0]);
    fs_ids_free(&sentence[1]);
    return status;
}

struct stream { fs_text_stream *text; const fs_callbacks *callbacks; int32_t eos; bool begun; };

static fs_status stream_token(void *user, int32_t id, const float *state, fs_error *err) {
    struct stream *st = user;
    (void)state;
    if (!st->callbacks->text || id == st->eos) return FS_OK;
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

static fs_status write_answer(fs_dte_fdm *s, fs_llama_state *state, const float *last, const char *prompt, const fs_ids *prompt_ids,
                              const fs_options *opt, fs_result *r, fs_error *err) {
    fs_ids ids = {0}, context = {0}, script = {0};
    char *raw = NULL;
    struct stream stream = {.callbacks = &s->callbacks, .eos = fs_tokenizer_eos(s->tokenizer)};
    fs_generation g = {.max_new_tokens = opt->max_new_tokens, .eos = stream.eos, .sampling = opt->sampling, .step = "writing",
                       .on_token = stream_token, .user = &stream};
    if (g.sampling.top_k < 0) g.sampling.top_k = s->config.generation_top_k;
    if (g.sampling.top_p < 0) g.sampling.top_p = s->config.generation_top_p;
    fs_status status = fs_text_stream_create(s->tokenizer, &stream.text, err);
    if (!status) status = repeatable(s, prompt, prompt_ids, &context, err);
    g.context = context.data;
    g.n_context = context.count;
    g.accepted = &r->guessed_tokens;
    if (!status && r->force) {
        if ((status = spell(s, prompt, prompt_ids, r->force->explanation, &script, err))) goto done;
        g.script = script.data;
        g.n_script = script.count;
        g.max_new_tokens = r->force->tokens;
        g.eos = -1;
    }
    if (status || (status = fs_generate(&s->exec, &s->llama, state, last, &g, &ids, err))) goto done;
    if ((status = stream_token(&stream, FS_TEXT_STREAM_END, NULL, err))) goto done; /* half a character may still be held back */
    if ((status = fs_tokenizer_decode(s->tokenizer, ids.data, ids.count, true, &raw, err))) goto done;
    r->new_tokens = (int64_t)ids.count;
    r->truncated = ids.count == 0 || ids.data[ids.count - 1] != g.eos;
    if (r->truncated) fs_result_warn(r, "the explanation was cut at %d tokens; raise --max-new-tokens to see the rest", opt->max_new_tokens);
    char *text = strip(raw);
    if (text && !opt->trim_text) { /* the original's command line leaves one space in front (spec 4.7) */
        char *spaced = fs_format(" %s", text);
        free(text);
        text = spaced;
    }
    r->text = text;
    status = text ? fs_answer_parse(text, &r->answer, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (status) goto done;
    r->verdict = fs_answer_says_authentic(text) ? FS_VERDICT_AUTHENTIC : fs_answer_verdict(text);
done:
    fs_text_stream_free(stream.text);
    fs_ids_free(&ids);
    fs_ids_free(&context);
    fs_ids_free(&script);
    free(raw);
    return status;
}

fs_status fs_dte_fdm_run(fs_dte_fdm *s, const fs_image *pil, const char *question, const fs_options *opt, fs_result *r, fs_error *err) {
    fs_exec *c = &s->exec;
    fs_llama_state state = {0};
    fs_ids ids = {0};
    char *prompt = NULL;
    float *last = NULL;
    fs_tensor *image = NULL;
    double t = fs_now(), now;
    s->exec.error = s->vision.error = (fs_error){0}; /* what stopped an earlier picture does not stop this one */
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_status status = name_domain(s, pil, r, err);
    if (status) goto done;
    now = fs_now(), r->times1.domain = now - t, t = now;

    fs_progress(&s->callbacks, "looking", 0, 0);
    if ((status = see(s, pil, opt, &image, err))) goto done;
    now = fs_now(), r->times1.vision = now - t, t = now;

    prompt = fs_prompt_stage1(r->domain, question ? question : fs_prompt_detection_question, s->config.im_start_end);
    if (!prompt) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    if ((status = fs_tokenizer_encode_image(s->tokenizer, prompt, &ids, err))) goto done;
    fs_tensor *x = fs_prompt_embed(c, &s->llama, ids.data, ids.count, image, -1, NULL);
    if ((status = fs_exec_status(c, err))) goto done;
    if (s->config.max_length > 0 && x->shape[0] > s->config.max_length) {
        fs_result_warn(r, "the prompt of %lld tokens was cut to tokenizer_model_max_length %lld", (long long)x->shape[0], (long long)s->config.max_length);
        x = fs_rows(c, x, 0, s->config.max_length);
    }
    r->prompt_tokens = x->shape[0];
    if (x->shape[0] + opt->max_new_tokens > s->config.llama.max_positions && s->config.llama.max_positions > 0 && !opt->verdict_only)
        fs_log(&s->callbacks, FS_LOG_INFO, "answers longer than %lld tokens would leave the positions the model was trained on (%lld)",
               (long long)fs_max_i64(0, s->config.llama.max_positions - x->shape[0]), (long long)s->config.llama.max_positions);
    if ((status = fs_llama_state_create(&s->llama, x->shape[0] + 64, &state, err))) goto done;
    fs_tensor *h = fs_llama_forward(c, &s->llama, &state, x, NULL);
    if ((status = fs_exec_status(c, err))) goto done;
    fs_check_finite(c, h, "stage 1's language model");
    if ((status = fs_exec_status(c, err))) goto done;
    last = fs_alloc((size_t)s->config.llama.hidden, sizeof *last);
    if (!last) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    memcpy(last, fs_f32(h) + (h->shape[0] - 1) * h->shape[1], (size_t)h->shape[1] * sizeof *last);
    fs_arena_release(c->arena, mark);
    now = fs_now(), r->times1.prefill = now - t, t = now;

    if ((status = read_score(s, &state, last, prompt, &ids, r, err))) goto done;
    now = fs_now(), r->times1.score = now - t, t = now;

    if (opt->verdict_only) {
        r->verdict = !r->has_score ? FS_VERDICT_UNDETERMINED : r->score > 0.5 ? FS_VERDICT_TAMPERED : r->score < 0.5 ? FS_VERDICT_AUTHENTIC : FS_VERDICT_UNDETERMINED;
    } else {
        if ((status = write_answer(s, &state, last, prompt, &ids, opt, r, err))) goto done;
        r->times1.generate = fs_now() - t;
        if (r->has_score && r->verdict != FS_VERDICT_UNDETERMINED && (r->score > 0.5) != (r->verdict == FS_VERDICT_TAMPERED))
            fs_result_warn(r, "the explanation says %s but the score is %.3f: treat the verdict with care", fs_verdict_name(r->verdict), r->score);
        if (r->verdict == FS_VERDICT_UNDETERMINED)
            fs_result_warn(r, "the explanation gives no verdict in the expected form");
    }
    r->explained = true;
done:
    fs_arena_release(c->arena, mark);
    fs_llama_state_free(&state);
    fs_ids_free(&ids);
    free(prompt);
    free(last);
    return status;
}
