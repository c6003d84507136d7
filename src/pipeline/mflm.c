/* Stage 2, MFLM (FakeShield section 3.3): a GLaMM-style 7B LLaMA reads the picture and the explanation and answers with [SEG]; the state
 * that predicts [SEG] becomes the text prompt of SAM's mask decoder. Follows MFLM/cli_demo.py and MFLM/test.py of the original.
 *
 * Upstream re-runs the whole sequence for every token and takes the state at k + 574 of the last run; with a causal model this is the
 * state from which [SEG] was predicted, which a cached decoder has in hand at that very step (spec 5.5). */
#include "pipeline/pipeline.h"

#include <stdlib.h>
#include <string.h>

#include "pipeline/bundle.h"

enum { MAX_NEW_TOKENS = 512 };

struct fs_mflm {
    fs_lm_config config;
    fs_archive *lm_file, *sam_file;
    fs_archive_layer layers[2]; /* the two, for the stack */
    fs_archive_stack stack;
    fs_bundle *bundle;       /* instead of them */
    fs_archive *fallback_lm; /* stage 1's archive, opened only for a vision tower embedded there */
    fs_tower tower;
    fs_projector projector;
    fs_llama llama;
    fs_seg_head seg_head;
    fs_sam_encoder sam;
    fs_sam_prompt sam_prompt;
    fs_sam_decoder sam_decoder;
    fs_region_encoder region;
    bool has_region, pe_bf16;
    fs_tokenizer *tokenizer;
    int32_t seg_id, bbox_id;
    fs_exec exec;
    fs_callbacks callbacks;
};

static fs_dtype stage2_precision(fs_precision p) {
    return p == FS_PRECISION_F32 ? FS_DTYPE_F32 : p == FS_PRECISION_F16 ? FS_DTYPE_F16 : FS_DTYPE_BF16;
}

/* Everything but SAM's two encoders, which may come from elsewhere. */
static fs_status bind_rest(fs_mflm *s, const fs_tensor_source *source, const char *path, fs_error *err) {
    fs_status status;
    if ((status = fs_projector_bind(&s->projector, s->tower.clip.config.hidden, s->config.llama.hidden, source, "model.mm_projector.", err)))
        return status;
    if ((status = fs_seg_head_bind(&s->seg_head, s->config.llama.hidden, source, "model.text_hidden_fcs.0.", err))) return status;
    if (s->seg_head.fc2.w->shape[0] != s->sam_decoder.channels)
        return fs_fail(err, FS_E_MISMATCH, "%s: tensor model.text_hidden_fcs.0.2.weight makes %lld values, SAM's mask decoder expects %lld", path,
                       (long long)s->seg_head.fc2.w->shape[0], (long long)s->sam_decoder.channels);
    s->has_region = source->find(source->user, "model.region_encoder.roi_align.updims.weight") != NULL;
    const int64_t grid = s->tower.clip.config.image_size / s->tower.clip.config.patch_size;
    return s->has_region ? fs_region_encoder_bind(&s->region, grid, source, "model.region_encoder.", err) : FS_OK;
}

static fs_status check_tokens(fs_mflm *s, const char *path, fs_error *err) {
    s->seg_id = fs_tokenizer_id(s->tokenizer, "[SEG]");
    s->bbox_id = fs_tokenizer_id(s->tokenizer, "<bbox>");
    if (s->seg_id >= 0 && s->seg_id < s->config.llama.vocab) return FS_OK;
    return fs_fail(err, FS_E_MISMATCH, "%s: the tokenizer knows no [SEG] within vocab_size %lld; added_tokens.json is missing or of another model", path,
                   (long long)s->config.llama.vocab);
}

/* Everything but CLIP. SAM first: the [SEG] head must make what its decoder takes. */
static fs_status bind(fs_mflm *s, fs_tensor_source source, const fs_overlay *overlay, const char *path, fs_error *err) {
    fs_status status;
    if ((status = fs_overlay_llama(overlay, &s->config, &source, &s->llama, err))) return status;
    if ((status = fs_sam_encoder_bind(&s->sam, &source, "model.grounding_encoder.image_encoder.", err))) return status;
    if ((status = fs_sam_prompt_bind(&s->sam_prompt, &source, "model.grounding_encoder.prompt_encoder.", err))) return status;
    if ((status = fs_sam_decoder_bind(&s->sam_decoder, &source, "model.grounding_encoder.mask_decoder.", err))) return status;
    return bind_rest(s, &source, path, err);
}

/* The checkpoint's tensors, and behind them, if it lacks SAM's image or prompt encoder, those of sam_vit_h (spec 2.7). */
static fs_status stack_sam(fs_mflm *s, const fs_layout *layout, fs_error *err) {
    fs_tensor_source source = fs_archive_source(s->lm_file);
    s->layers[0] = (fs_archive_layer){.archive = s->lm_file, .from = "", .to = ""};
    s->stack = (fs_archive_stack){.layers = s->layers, .count = 1};
    const bool complete = source.find(source.user, "model.grounding_encoder.image_encoder.pos_embed") &&
                          source.find(source.user, "model.grounding_encoder.prompt_encoder.no_mask_embed.weight");
    if (complete) return FS_OK;
    if (!layout->sam)
        return fs_fail(err, FS_E_NOT_FOUND,
                       "%s: holds no SAM image encoder, and no sam_vit_h_4b8939.pth was found; download it (segment-anything's ViT-H) into "
                       "%s or give --sam FILE", layout->mflm, layout->root);
    fs_status status = fs_archive_open(layout->sam, &s->sam_file, err);
    if (status) return status;
    s->layers[1] = (fs_archive_layer){.archive = s->sam_file, .from = "model.grounding_encoder.", .to = ""};
    s->stack.count = 2;
    return FS_OK;
}

static fs_status open_bundle(fs_mflm *s, const fs_layout *layout, const fs_options *opt, const fs_overlay *overlay, fs_error *err) {
    fs_status status;
    if ((status = fs_bundle_open(layout->mflm, layout->vision, "mflm", opt->threads, &s->bundle, err))) return status;
    if (opt->lock_memory) fs_bundle_lock(s->bundle);
    if ((status = fs_bundle_lm_config(s->bundle, &s->config, err))) return status;
    if ((status = fs_bundle_tokenizer(s->bundle, FS_RULES_428, &s->tokenizer, err))) return status;
    if ((status = check_tokens(s, layout->mflm, err))) return status;
    if ((status = fs_bundle_clip(s->bundle, overlay, &s->tower.clip, err))) return status;
    return bind(s, *fs_bundle_tensors(s->bundle), overlay, layout->mflm, err);
}

static fs_status open_checkpoint(fs_mflm *s, fs_layout *layout, const fs_options *opt, const fs_overlay *overlay, fs_error *err) {
    fs_status status;
    if ((status = fs_lm_config_read(layout->mflm, &s->config, err))) return status;
    if ((status = fs_tokenizer_open(layout->mflm, FS_RULES_428, &s->tokenizer, err))) return status;
    if ((status = check_tokens(s, layout->mflm, err))) return status;
    if ((status = fs_archive_open(layout->mflm, &s->lm_file, err))) return status;
    if ((status = fs_layout_find_clip(layout, opt->clip_dir, s->config.vision_tower, err))) return status;
    if (!layout->clip && layout->dte_fdm && (status = fs_archive_open(layout->dte_fdm, &s->fallback_lm, err))) return status;
    if ((status = fs_tower_open(&s->tower, layout->clip, s->fallback_lm, s->config.vision_tower, overlay, err))) return status;
    if ((status = stack_sam(s, layout, err))) return status;
    if ((status = bind(s, fs_archive_stack_source(&s->stack), overlay, layout->mflm, err))) return status;
    fs_report_extra(s->lm_file,
                    (const char *const[]){"vision_tower", "inv_freq", "position_ids", "point_embeddings", "not_a_point_embed", "mask_downscaling",
                                          "output_hypernetworks_mlps", "iou_prediction_head", "pixel_mean", "pixel_std", NULL},
                    &s->callbacks, NULL);
    return FS_OK;
}

fs_status fs_mflm_open(fs_layout *layout, const fs_options *opt, const fs_overlay *overlay, fs_mflm **out, fs_error *err) {
    *out = NULL;
    if (!layout->mflm)
        return fs_fail(err, FS_E_NOT_FOUND, "%s: no %s (stage 2); download it from huggingface.co/zhipeixu/fakeshield-v1-22b%s", layout->root,
                       layout->bundle ? FS_BUNDLE_MFLM : "MFLM directory", layout->bundle ? " and convert it" : "");
    fs_mflm *s = calloc(1, sizeof *s);
    if (!s) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    s->callbacks = opt->callbacks;
    fs_status status = layout->bundle ? open_bundle(s, layout, opt, overlay, err) : open_checkpoint(s, layout, opt, overlay, err);
    /* The dense positional encoding of a bf16 network has its phases rounded before sin and cos, which is visible in the mask (spec 5.9); it
     * follows the checkpoint's type, not ours. */
    s->pe_bf16 = s->config.stored == FS_DTYPE_BF16 || opt->precision == FS_PRECISION_BF16 || opt->precision == FS_PRECISION_UPSTREAM;
    if (!status) status = fs_exec_init(&s->exec, stage2_precision(opt->precision), opt->threads, &s->callbacks, err);
    if (!status && opt->lock_memory) fs_archive_lock(s->lm_file);
    if (status) fs_mflm_close(s);
    else *out = s;
    return status;
}

void fs_mflm_close(fs_mflm *s) {
    if (!s) return;
    fs_exec_end(&s->exec);
    fs_tower_close(&s->tower);
    fs_llama_unbind(&s->llama);
    fs_sam_encoder_unbind(&s->sam);
    fs_sam_decoder_unbind(&s->sam_decoder);
    fs_tokenizer_free(s->tokenizer);
    fs_archive_free(s->lm_file);
    fs_archive_free(s->sam_file);
    fs_archive_free(s->fallback_lm);
    fs_bundle_close(s->bundle);
    fs_lm_config_free(&s->config);
    free(s);
}

fs_stage_parts fs_mflm_parts(fs_mflm *s) {
    return (fs_stage_parts){.vision = &s->exec, .exec = &s->exec, .config = &s->config, .clip = &s->tower.clip, .projector = &s->projector,
                            .llama = &s->llama, .tokenizer = s->tokenizer, .seg_head = &s->seg_head, .sam = &s->sam,
                            .sam_prompt = &s->sam_prompt, .sam_decoder = &s->sam_decoder};
}

/* ---- the steps of one picture ---- */

/* Projected CLIP features [patches, hidden] and, with boxes, the region rows [n_boxes, hidden]. */
static fs_status see(fs_mflm *s, const fs_image *im, const float *boxes, size_t n_boxes, fs_tensor **image, fs_tensor **regions, fs_error *err) {
    const int64_t size = s->tower.clip.config.image_size;
    fs_exec *c = &s->exec;
    float *pixels = NULL, *relative = NULL;
    fs_tensor *levels[4] = {0};
    fs_status status = fs_preprocess_clip_cropped(im, size, &pixels, err);
    if (status) return status;
    fs_tensor *x = fs_to_f32(c, fs_wrap(c, FS_DTYPE_F32, 3, (const int64_t[]){3, size, size}, pixels));
    fs_tensor *features = fs_clip_forward(c, &s->tower.clip, x, s->config.select_layer, n_boxes ? levels : NULL);
    *image = fs_projector_forward(c, &s->projector, fs_to_f32(c, features));
    if (n_boxes) {
        relative = fs_alloc(4 * n_boxes, sizeof *relative);
        if (!relative) {
            status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
            goto done;
        }
        for (size_t i = 0; i < 4 * n_boxes; i++) relative[i] = boxes[i] / (float)(i % 2 ? im->height : im->width);
        *regions = fs_region_encoder_forward(c, &s->region, levels, relative, (int64_t)n_boxes);
    }
    status = fs_exec_status(c, err);
done:
    free(pixels);
    free(relative);
    return status;
}

/* The states from which [SEG] was predicted, one after the other. */
struct seg_states { int32_t seg_id; int64_t hidden; float *rows; size_t count; };

static fs_status keep_seg_state(void *user, int32_t id, const float *state, fs_error *err) {
    struct seg_states *k = user;
    if (id != k->seg_id) return FS_OK;
    float *rows = realloc(k->rows, (k->count + 1) * (size_t)k->hidden * sizeof *rows);
    if (!rows) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    k->rows = rows;
    memcpy(rows + k->count * (size_t)k->hidden, state, (size_t)k->hidden * sizeof *rows);
    k->count++;
    return FS_OK;
}

/* An answer's ids, EOS behind them, without the tokenizer's BOS. */
static fs_status forced_answer(const fs_mflm *s, const char *text, fs_ids *out, fs_error *err) {
    const int32_t bos = fs_tokenizer_bos(s->tokenizer);
    fs_status status = fs_tokenizer_encode(s->tokenizer, text, out, err);
    if (!status && out->count && out->data[0] == bos) memmove(out->data, out->data + 1, --out->count * sizeof *out->data);
    return status ? status : fs_ids_push(out, fs_tokenizer_eos(s->tokenizer), err);
}

static fs_status answer(fs_mflm *s, const fs_image *im, const char *text, const float *boxes, size_t n_boxes, const fs_options *opt,
                        fs_result *r, struct seg_states *seg, fs_error *err) {
    fs_exec *c = &s->exec;
    fs_llama_state state = {0};
    fs_ids ids = {0}, out = {0}, script = {0};
    float *last = NULL;
    fs_tensor *image = NULL, *regions = NULL;
    double t = fs_now(), now;
    int defused = 0, question = opt->question_index;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    if (question < 0) {
        fs_rng rng = fs_rng_seed(opt->sampling.seed);
        question = (int)(fs_rng_next(&rng) % 3);
    }
    r->question_index = question;
    char *prompt = fs_prompt_stage2(text, opt->prompt_style, question, n_boxes > 0, &defused);
    fs_status status = prompt ? see(s, im, boxes, n_boxes, &image, &regions, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (status) goto done;
    now = fs_now(), r->times2.vision = now - t, t = now;
    if (defused) fs_result_warn(r, "the explanation holds %d special token%s as text; stage 2 read %s as plain words", defused, defused == 1 ? "" : "s", defused == 1 ? "it" : "them");
    if ((status = fs_tokenizer_encode_image(s->tokenizer, prompt, &ids, err))) goto done;
    if (n_boxes) {
        size_t found = 0;
        for (size_t i = 0; i < ids.count; i++) found += ids.data[i] == s->bbox_id;
        if (found != n_boxes) {
            status = fs_fail(err, FS_E_USAGE, "the text holds %zu <bbox>, but %zu boxes are given; write one <bbox> in the text for each box", found, n_boxes);
            goto done;
        }
    }
    fs_tensor *x = fs_prompt_embed(c, &s->llama, ids.data, ids.count, image, s->bbox_id, regions);
    if ((status = fs_exec_status(c, err))) goto done;
    if (s->config.llama.max_positions > 0 && x->shape[0] > s->config.llama.max_positions)
        fs_result_warn(r, "stage 2's prompt of %lld tokens is longer than the %lld positions the model was trained on", (long long)x->shape[0], (long long)s->config.llama.max_positions);
    if ((status = fs_llama_state_create(&s->llama, fs_kv_type(c, &s->llama, opt), x->shape[0] + 32, &state, err))) goto done;
    fs_tensor *h = fs_llama_forward(c, &s->llama, &state, x, NULL);
    if ((status = fs_exec_status(c, err))) goto done;
    fs_check_finite(c, h, "stage 2's language model");
    if ((status = fs_exec_status(c, err))) goto done;
    last = fs_alloc((size_t)seg->hidden, sizeof *last);
    if (!last) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    memcpy(last, fs_f32(h) + (h->shape[0] - 1) * seg->hidden, (size_t)seg->hidden * sizeof *last);
    fs_arena_release(c->arena, mark);
    now = fs_now(), r->times2.prefill = now - t, t = now;
    fs_generation g = {.max_new_tokens = MAX_NEW_TOKENS, .eos = fs_tokenizer_eos(s->tokenizer), .sampling = {.top_p = 1},
                       .step = "pointing", .on_token = keep_seg_state, .user = seg};
    if (r->force && (status = forced_answer(s, r->force->segmentation, &script, err))) goto done;
    if (script.count) g.script = script.data, g.n_script = script.count;
    if ((status = fs_generate(c, &s->llama, &state, last, &g, &out, err))) goto done;
    if (out.count && out.data[out.count - 1] == g.eos) out.count--;
    free(r->segmentation_text);
    r->segmentation_text = NULL;
    status = fs_tokenizer_decode(s->tokenizer, out.data, out.count, false, &r->segmentation_text, err);
    r->times2.generate = fs_now() - t;
done:
    fs_arena_release(c->arena, mark);
    fs_llama_state_free(&state);
    fs_ids_free(&ids);
    fs_ids_free(&out);
    fs_ids_free(&script);
    free(prompt);
    free(last);
    return status;
}

/* One mask out of several [SEG]: their union, or, as the original's demo does, the last. */
static void join_masks(const fs_tensor *masks, bool last_only, float *out) {
    const int64_t n = masks->shape[0], pixels = masks->shape[1] * masks->shape[2];
    memcpy(out, fs_f32(masks) + (last_only ? (n - 1) * pixels : 0), (size_t)pixels * sizeof *out);
    for (int64_t k = 1; k < n && !last_only; k++)
        for (int64_t i = 0; i < pixels; i++)
            if (fs_f32(masks)[k * pixels + i] > out[i]) out[i] = fs_f32(masks)[k * pixels + i];
}

static fs_status draw_mask(fs_mflm *s, const fs_image *im, const struct seg_states *seg, const fs_options *opt, fs_result *r, fs_error *err) {
    fs_exec *c = &s->exec;
    float *pixels = NULL;
    int64_t in_h, in_w;
    const fs_arena_mark mark = fs_arena_get_mark(c->arena);
    fs_status status = fs_preprocess_sam(im, s->sam.image_size, &pixels, &in_h, &in_w, err);
    if (status) return status;
    const double t = fs_now();
    const int64_t size = s->sam.image_size;
    fs_tensor *x = fs_to_f32(c, fs_wrap(c, FS_DTYPE_F32, 3, (const int64_t[]){3, size, size}, pixels));
    fs_tensor *image = fs_sam_encoder_forward(c, &s->sam, x, NULL);
    fs_tensor *states = fs_wrap(c, FS_DTYPE_F32, 2, (const int64_t[]){(int64_t)seg->count, seg->hidden}, seg->rows);
    fs_tensor *text = fs_seg_head_forward(c, &s->seg_head, states);
    fs_tensor *pe = fs_sam_dense_pe(c, &s->sam_prompt, s->sam.grid, s->pe_bf16);
    fs_tensor *low = fs_sam_decoder_forward(c, &s->sam_decoder, image, pe, s->sam_prompt.no_mask, text);
    fs_tensor *full = fs_sam_postprocess(c, low, size, in_h, in_w, im->height, im->width);
    fs_check_finite(c, full, "SAM's mask");
    if ((status = fs_exec_status(c, err))) goto done;
    join_masks(full, opt->prompt_style == FS_PROMPT_DEMO, r->logits);
    if (seg->count > 1)
        fs_result_warn(r, "stage 2 answered with %zu [SEG]; the mask is %s", seg->count, opt->prompt_style == FS_PROMPT_DEMO ? "the last one's, as the original's demo has it" : "their union");
    r->times2.sam = fs_now() - t;
done:
    fs_arena_release(c->arena, mark);
    free(pixels);
    return status;
}

static fs_status measure_mask(fs_result *r, fs_error *err) {
    const int64_t pixels = r->mask_width * r->mask_height;
    int64_t inside = 0;
    for (int64_t i = 0; i < pixels; i++) {
        r->mask[i] = r->logits && r->logits[i] > 0 ? 255 : 0;
        inside += r->mask[i] != 0;
    }
    r->mask_area = (double)inside / (double)pixels;
    free(r->regions);
    r->regions = fs_alloc(FS_MAX_REGIONS, sizeof *r->regions);
    if (!r->regions) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    return fs_mask_regions(r->mask, r->mask_width, r->mask_height, r->regions, FS_MAX_REGIONS, &r->n_regions, &r->n_regions_total, err);
}

fs_status fs_mflm_run(fs_mflm *s, const fs_image *im, const char *text, const float *boxes, size_t n_boxes, const fs_options *opt,
                      fs_result *r, fs_error *err) {
    if (n_boxes && (!s->has_region || s->bbox_id < 0))
        return fs_fail(err, FS_E_UNSUPPORTED, "this checkpoint has no %s: boxes cannot be used with it", s->has_region ? "<bbox> token" : "region encoder");
    s->exec.error = (fs_error){0}; /* what stopped an earlier picture does not stop this one */
    struct seg_states seg = {.seg_id = s->seg_id, .hidden = s->config.llama.hidden};
    const size_t pixels = (size_t)im->width * (size_t)im->height;
    free(r->mask);
    free(r->logits);
    r->mask_width = im->width;
    r->mask_height = im->height;
    r->mask = fs_alloc(pixels, 1);
    r->logits = fs_alloc(pixels, sizeof *r->logits);
    fs_status status = r->mask && r->logits ? answer(s, im, text, boxes, n_boxes, opt, r, &seg, err) : fs_fail(err, FS_E_NO_MEMORY, "no memory for a mask of %zu pixels", pixels);
    if (status) goto done;
    if (seg.count > 0) {
        if ((status = draw_mask(s, im, &seg, opt, r, err))) goto done;
        r->mask_status = FS_MASK_PRESENT;
    } else {
        free(r->logits);
        r->logits = NULL;
        r->mask_status = FS_MASK_NO_SEG;
        fs_result_warn(r, "stage 2 answered without [SEG]; the mask is empty, which is no statement about the picture");
    }
    status = measure_mask(r, err);
done:
    free(seg.rows);
    return status;
}
