/* Quantization error on a checkpoint and pictures: every network with its weights as they are, then with each type, on the same inputs. The
 * language models read the prompts of the pipeline and the answers that the unquantized model itself gives (greedily), all positions at
 * once, so that one differing token does not move the rest. */
#include "quant_error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/pipeline.h"

enum { STAGES = 2 };

typedef struct picture {
    fs_image *pil, *cv;
    float *dtg, *clip[STAGES], *sam;
    int64_t in_h, in_w;
    fs_ids ids[STAGES];       /* prompt and answer */
    size_t prompt[STAGES];    /* ids of the prompt */
    int64_t seg;              /* row of stage 2 that predicts [SEG] */
    numbers tag, features[STAGES], rows[STAGES], logits[STAGES], state, text, image, mask; /* the reference's */
} picture;

typedef struct lab {
    const settings *s;
    fs_layout layout;
    fs_archive *dtg, *clip, *sam, *lm_file[STAGES];
    fs_lm_config lm[STAGES];
    fs_clip_config clip_config;
    fs_tokenizer *tokenizer[STAGES];
    fs_tensor_source dtg_source, clip_source, lm_source[STAGES], sam_source;
    fs_archive_layer layers[2];
    fs_archive_stack stack;
    picture *pictures;
    size_t n;
    int64_t sam_size;
} lab;

static const variant reference = {.name = "reference"};

/* ---- opening ---- */

static void open_lab(lab *l, const char *dir, const settings *s) {
    fs_error err = {0};
    fs_options opt = fs_options_defaults();
    opt.clip_dir = s->clip_dir;
    opt.sam_file = s->sam_file;
    l->s = s;
    check(fs_layout_find(dir, &opt, &l->layout, &err), &err);
    const char *const dirs[STAGES] = {l->layout.dte_fdm, l->layout.mflm};
    if (l->layout.bundle || !dirs[0] || !dirs[1] || !l->layout.dtg) stop("%s: expected a checkpoint as it is downloaded, with DTE-FDM, MFLM and DTG.pth", dir);
    for (int k = 0; k < STAGES; k++) {
        check(fs_lm_config_read(dirs[k], &l->lm[k], &err), &err);
        check(fs_tokenizer_open(dirs[k], k ? FS_RULES_428 : FS_RULES_437, &l->tokenizer[k], &err), &err);
        check(fs_archive_open(dirs[k], &l->lm_file[k], &err), &err);
        l->lm_source[k] = fs_archive_source(l->lm_file[k]);
    }
    check(fs_archive_open(l->layout.dtg, &l->dtg, &err), &err);
    l->dtg_source = fs_archive_source(l->dtg);
    check(fs_layout_find_clip(&l->layout, s->clip_dir, l->lm[0].vision_tower, &err), &err);
    if (!l->layout.clip) stop("%s: no CLIP folder beside it; give --clip DIR", dir);
    check(fs_clip_config_read(l->layout.clip, &l->clip_config, &err), &err);
    check(fs_archive_open(l->layout.clip, &l->clip, &err), &err);
    l->clip_source = fs_archive_source(l->clip);
    l->layers[0] = (fs_archive_layer){.archive = l->lm_file[1], .from = "", .to = ""};
    l->stack = (fs_archive_stack){.layers = l->layers, .count = 1};
    if (l->layout.sam && !l->lm_source[1].find(l->lm_source[1].user, "model.grounding_encoder.image_encoder.pos_embed")) {
        check(fs_archive_open(l->layout.sam, &l->sam, &err), &err);
        l->layers[l->stack.count++] = (fs_archive_layer){.archive = l->sam, .from = "model.grounding_encoder.", .to = ""};
    }
    l->sam_source = fs_archive_stack_source(&l->stack);
}

static void load_picture(lab *l, picture *p, const char *path) {
    fs_error err = {0};
    fs_decode_options pil = fs_decode_options_defaults(FS_DECODE_PIL), cv = fs_decode_options_defaults(FS_DECODE_CV2);
    check(fs_image_load(path, &pil, &p->pil, NULL, &err), &err);
    check(fs_image_load(path, &cv, &p->cv, NULL, &err), &err);
    check(fs_preprocess_dtg(p->pil, &p->dtg, &err), &err);
    const int64_t size = l->clip_config.image_size;
    check(l->lm[0].pad_image ? fs_preprocess_clip_padded(p->pil, size, &p->clip[0], &err) : fs_preprocess_clip_cropped(p->pil, size, &p->clip[0], &err), &err);
    check(fs_preprocess_clip_cropped(p->cv, size, &p->clip[1], &err), &err);
    check(fs_preprocess_sam(p->cv, l->sam_size, &p->sam, &p->in_h, &p->in_w, &err), &err);
}

/* ---- networks: each gives one result a picture, which the caller frees ---- */

static fs_tensor *square(fs_exec *c, float *pixels, int64_t size) { return fs_wrap(c, FS_DTYPE_F32, 3, (const int64_t[]){3, size, size}, pixels); }
static fs_tensor *wrap(fs_exec *c, const numbers *x) { return fs_wrap(c, FS_DTYPE_F32, 2, (const int64_t[]){x->rows, x->cols}, x->data); }

static void run_dtg(lab *l, const variant *v, numbers *out) {
    fs_error err = {0};
    fs_resnet m;
    stored *s = stored_create(&l->dtg_source, "dtg", v, l->s->threads);
    fs_tensor_source source = stored_source(s);
    check(fs_resnet_bind(&m, &source, "", &err), &err);
    for (size_t i = 0; i < l->n; i++) {
        fs_exec c = begin_context(l->s->threads);
        fs_tensor *y = fs_resnet_forward(&c, &m, square(&c, l->pictures[i].dtg, 224), NULL);
        check_context(&c);
        out[i] = numbers_keep(y);
        fs_exec_end(&c);
    }
    fs_resnet_unbind(&m);
    stored_free(s);
}

static void run_clip(lab *l, const variant *v, int stage, numbers *out) {
    fs_error err = {0};
    fs_clip m;
    stored *s = stored_create(&l->clip_source, "clip", v, l->s->threads);
    fs_tensor_source source = stored_source(s);
    check(fs_clip_bind(&m, &l->clip_config, &source, "vision_model.", &err), &err);
    for (size_t i = 0; i < l->n; i++) {
        fs_exec c = begin_context(l->s->threads);
        fs_tensor *y = fs_clip_forward(&c, &m, square(&c, l->pictures[i].clip[stage], m.config.image_size), l->lm[stage].select_layer, NULL);
        check_context(&c);
        out[i] = numbers_keep(y);
        fs_exec_end(&c);
    }
    fs_clip_unbind(&m);
    stored_free(s);
}

static void run_projector(lab *l, const variant *v, int stage, const numbers *in, numbers *out) {
    fs_error err = {0};
    fs_projector m;
    stored *s = stored_create(&l->lm_source[stage], stage ? "mflm" : "dte", v, l->s->threads);
    fs_tensor_source source = stored_source(s);
    check(fs_projector_bind(&m, l->clip_config.hidden, l->lm[stage].llama.hidden, &source, "model.mm_projector.", &err), &err);
    for (size_t i = 0; i < l->n; i++) {
        fs_exec c = begin_context(l->s->threads);
        fs_tensor *y = fs_projector_forward(&c, &m, wrap(&c, &in[i]));
        check_context(&c);
        out[i] = numbers_keep(y);
        fs_exec_end(&c);
    }
    stored_free(s);
}

static stored *bind_lm(lab *l, const variant *v, int stage, fs_llama *m) {
    fs_error err = {0};
    variant with = *v;
    with.layers = l->lm[stage].llama.layers;
    stored *s = stored_create(&l->lm_source[stage], "lm", &with, l->s->threads);
    fs_tensor_source source = stored_source(s);
    check(fs_llama_bind(m, &l->lm[stage].llama, &source, "", &err), &err);
    return s;
}

/* Logits of every position, and in stage 2 the state that predicts [SEG]; states may be NULL. */
static void run_lm(lab *l, const variant *v, int stage, const numbers *rows, numbers *logits, numbers *states) {
    fs_llama m;
    stored *s = bind_lm(l, v, stage, &m);
    for (size_t i = 0; i < l->n; i++) {
        const picture *p = &l->pictures[i];
        fs_exec c = begin_context(l->s->threads);
        fs_tensor *x = fs_prompt_embed(&c, &m, p->ids[stage].data, p->ids[stage].count, wrap(&c, &rows[i]), -1, NULL);
        fs_tensor *h = fs_llama_forward(&c, &m, NULL, x, NULL), *y = fs_llama_logits(&c, &m, h);
        check_context(&c);
        logits[i] = numbers_keep(y);
        if (states) states[i] = numbers_keep(fs_rows(&c, h, p->seg, p->seg + 1));
        fs_exec_end(&c);
    }
    fs_llama_unbind(&m);
    stored_free(s);
}

static void run_seg(lab *l, const variant *v, const numbers *states, numbers *out) {
    fs_error err = {0};
    fs_seg_head m;
    stored *s = stored_create(&l->lm_source[1], "mflm", v, l->s->threads);
    fs_tensor_source source = stored_source(s);
    check(fs_seg_head_bind(&m, l->lm[1].llama.hidden, &source, "model.text_hidden_fcs.0.", &err), &err);
    for (size_t i = 0; i < l->n; i++) {
        fs_exec c = begin_context(l->s->threads);
        fs_tensor *y = fs_seg_head_forward(&c, &m, wrap(&c, &states[i]));
        check_context(&c);
        out[i] = numbers_keep(y);
        fs_exec_end(&c);
    }
    stored_free(s);
}

static void run_sam(lab *l, const variant *v, numbers *out) {
    fs_error err = {0};
    fs_sam_encoder m;
    stored *s = stored_create(&l->sam_source, "mflm", v, l->s->threads);
    fs_tensor_source source = stored_source(s);
    check(fs_sam_encoder_bind(&m, &source, "model.grounding_encoder.image_encoder.", &err), &err);
    for (size_t i = 0; i < l->n; i++) {
        fs_exec c = begin_context(l->s->threads);
        fs_tensor *y = fs_sam_encoder_forward(&c, &m, square(&c, l->pictures[i].sam, m.image_size), NULL);
        check_context(&c);
        out[i] = numbers_keep(y);
        fs_exec_end(&c);
    }
    fs_sam_encoder_unbind(&m);
    stored_free(s);
}

/* Masks at the pictures' sizes. low: also the logits as the decoder gives them; may be NULL. */
static void run_decoder(lab *l, const variant *v, const numbers *images, const numbers *texts, numbers *out, numbers *low) {
    fs_error err = {0};
    fs_sam_decoder m;
    fs_sam_prompt prompt;
    stored *s = stored_create(&l->sam_source, "mflm", v, l->s->threads);
    fs_tensor_source source = stored_source(s);
    check(fs_sam_decoder_bind(&m, &source, "model.grounding_encoder.mask_decoder.", &err), &err);
    check(fs_sam_prompt_bind(&prompt, &source, "model.grounding_encoder.prompt_encoder.", &err), &err);
    for (size_t i = 0; i < l->n; i++) {
        const picture *p = &l->pictures[i];
        fs_exec c = begin_context(l->s->threads);
        const int64_t grid = images[i].cols, channels = images[i].rows / grid;
        fs_tensor *image = fs_wrap(&c, FS_DTYPE_F32, 3, (const int64_t[]){channels, grid, grid}, images[i].data);
        fs_tensor *pe = fs_sam_dense_pe(&c, &prompt, grid, l->lm[1].stored == FS_DTYPE_BF16);
        fs_tensor *y = fs_sam_decoder_forward(&c, &m, image, pe, prompt.no_mask, wrap(&c, &texts[i]));
        fs_tensor *full = fs_sam_postprocess(&c, y, l->sam_size, p->in_h, p->in_w, p->cv->height, p->cv->width);
        check_context(&c);
        if (low) low[i] = numbers_keep(y);
        out[i] = numbers_keep(full);
        fs_exec_end(&c);
    }
    fs_sam_decoder_unbind(&m);
    stored_free(s);
}

/* ---- the reference ---- */

static void encode(lab *l, int stage, const char *text, fs_ids *out) {
    fs_error err = {0};
    check(text ? fs_tokenizer_encode_image(l->tokenizer[stage], text, out, &err) : fs_fail(&err, FS_E_NO_MEMORY, "out of memory"), &err);
}

/* Appends the beginning of a text file. */
static void read_text(lab *l, const char *path, picture *p) {
    fs_error err = {0};
    uint8_t *data = NULL;
    size_t size;
    fs_ids ids = {0};
    check(fs_read_file(path, 1 << 20, &data, &size, &err), &err);
    check(fs_tokenizer_encode(l->tokenizer[0], (const char *)data, &ids, &err), &err);
    for (size_t i = 1; i < ids.count && i <= (size_t)l->s->tokens; i++) check(fs_ids_push(&p->ids[0], ids.data[i], &err), &err); /* not its <s> */
    fs_ids_free(&ids);
    free(data);
}

/* Appends the model's own greedy answer to the ids. Stage 2 must come to [SEG]; a model that does not is made to say it. */
static void answer(lab *l, const fs_llama *m, int stage, picture *p) {
    fs_error err = {0};
    fs_exec c = begin_context(l->s->threads);
    fs_llama_state state = {0};
    fs_ids out = {0};
    const int32_t seg = stage ? fs_tokenizer_id(l->tokenizer[1], "[SEG]") : -1;
    p->prompt[stage] = p->ids[stage].count;
    if (stage == 0 && l->s->text) {
        read_text(l, l->s->text, p);
        fs_exec_end(&c);
        return;
    }
    fs_tensor *x = fs_prompt_embed(&c, m, p->ids[stage].data, p->ids[stage].count, wrap(&c, &p->rows[stage]), -1, NULL);
    check_context(&c);
    const int64_t before = x->shape[0];
    check(fs_llama_state_create(m, FS_DTYPE_F32, before + l->s->tokens + 8, &state, &err), &err);
    fs_tensor *h = fs_llama_forward(&c, m, &state, x, NULL);
    check_context(&c);
    const fs_generation g = {.max_new_tokens = stage ? 16 : l->s->tokens, .eos = fs_tokenizer_eos(l->tokenizer[stage]), .sampling = {.top_p = 1}, .step = ""};
    check(fs_generate(&c, m, &state, fs_f32(h) + (before - 1) * h->shape[1], &g, &out, &err), &err);
    for (size_t i = 0; i < out.count; i++) {
        if (out.data[i] == seg && p->seg < 0) p->seg = before - 1 + (int64_t)i;
        check(fs_ids_push(&p->ids[stage], out.data[i], &err), &err);
    }
    if (stage && p->seg < 0) {
        fprintf(stderr, "note: the model did not answer with [SEG]; it is appended\n");
        p->seg = before - 1 + (int64_t)out.count;
        check(fs_ids_push(&p->ids[1], seg, &err), &err);
    }
    fs_ids_free(&out);
    fs_llama_state_free(&state);
    fs_exec_end(&c);
}

static void run_reference(lab *l) {
    fs_error err = {0};
    numbers *tag = fs_alloc_zero(l->n, sizeof *tag), *other = fs_alloc_zero(l->n, sizeof *other), *more = fs_alloc_zero(l->n, sizeof *more);
    if (!tag || !other || !more) stop("out of memory");
#define KEEP(field, from) for (size_t i = 0; i < l->n; i++) l->pictures[i].field = (from)[i]
    run_dtg(l, &reference, tag);
    KEEP(tag, tag);
    for (int k = 0; k < STAGES; k++) {
        fs_llama m;
        run_clip(l, &reference, k, other);
        KEEP(features[k], other);
        run_projector(l, &reference, k, other, more);
        KEEP(rows[k], more);
        stored *s = bind_lm(l, &reference, k, &m);
        for (size_t i = 0; i < l->n; i++) {
            picture *p = &l->pictures[i];
            char *prompt, *text = NULL;
            p->seg = -1;
            if (k == 0) {
                int best = 0;
                for (int j = 1; j < 3; j++) best = tag[i].data[j] > tag[i].data[best] ? j : best;
                prompt = fs_prompt_stage1((fs_domain)best, fs_prompt_detection_question, l->lm[0].im_start_end);
            } else {
                check(fs_tokenizer_decode(l->tokenizer[0], p->ids[0].data + p->prompt[0], p->ids[0].count - p->prompt[0], true, &text, &err), &err);
                prompt = fs_prompt_stage2(text, FS_PROMPT_TEST, 0, false, NULL);
            }
            encode(l, k, prompt, &p->ids[k]);
            answer(l, &m, k, p);
            free(prompt);
            free(text);
        }
        fs_llama_unbind(&m);
        stored_free(s);
        run_lm(l, &reference, k, more, other, k ? tag : NULL);
        KEEP(logits[k], other);
        if (k) KEEP(state, tag);
    }
    run_seg(l, &reference, tag, other);
    KEEP(text, other);
    run_sam(l, &reference, more);
    KEEP(image, more);
    run_decoder(l, &reference, more, other, tag, NULL);
    KEEP(mask, tag);
    free(tag);
    free(other);
    free(more);
}

/* ---- comparing ---- */

static void heading(const char *what) {
    printf("\n%s\n%-22s %-16s %9s  %9s %9s %9s %7s  %7s %8s\n", what, "network", "weights", "rel.err %", "KL mean", "KL 99%", "KL max", "agree %", "IoU", "pixels %");
}

/* Says nothing of a network in which nothing changed: no row that the type's blocks fit. */
static void line(const char *network, const variant *v, const distance *d, divergence *kl, const overlap *o) {
    if (d && d->error == 0) return;
    printf("%-22s %-16s ", network, v->name);
    if (d) printf("%9.4f", 100 * distance_relative(d));
    else printf("%9s", "");
    if (kl) {
        const divergence_summary s = divergence_end(kl);
        printf("  %9.2e %9.2e %9.2e %7.2f", s.mean, s.p99, s.most, 100 * s.agree);
    } else if (o) printf("  %9s %9s %9s %7s", "", "", "", "");
    if (o) printf("  %7.4f %8.3f", o->either ? (double)o->both / (double)o->either : 1, 100 * (double)o->changed / (double)o->pixels);
    putchar('\n');
    fflush(stdout);
}

typedef struct results { numbers *a, *b, *c; } results; /* room for one result a picture, three times */

static void clear(lab *l, numbers *x) {
    for (size_t i = 0; i < l->n; i++) numbers_free(&x[i]);
}

#define ADD(d, x, field) for (size_t i = 0; i < l->n; i++) distance_add(&(d), &(x)[i], &l->pictures[i].field)
#define GATHER(to, field) for (size_t i = 0; i < l->n; i++) (to)[i] = l->pictures[i].field

static void compare_logits(lab *l, const char *network, int stage, const variant *v, const numbers *logits) {
    distance d = {0};
    divergence all = {0}, own = {0};
    for (size_t i = 0; i < l->n; i++) {
        const picture *p = &l->pictures[i];
        const int64_t rows = logits[i].rows, answers = (int64_t)(p->ids[stage].count - p->prompt[stage]);
        distance_add(&d, &logits[i], &p->logits[stage]);
        divergence_add(&all, &logits[i], &p->logits[stage], 0, rows);
        divergence_add(&own, &logits[i], &p->logits[stage], rows - answers - 1, rows - 1); /* what predicts the answer's tokens */
    }
    line(network, v, &d, &all, NULL);
    if (d.error > 0) line("  its answers", v, NULL, &own, NULL);
    free(all.values); /* NULL where a line was printed */
    free(own.values);
}

static void compare_lm(lab *l, int stage, const variant *v, results *r) {
    GATHER(r->a, rows[stage]);
    run_lm(l, v, stage, r->a, r->b, NULL);
    compare_logits(l, stage ? "LLaMA, stage 2" : "LLaMA, stage 1", stage, v, r->b);
    clear(l, r->b);
}

static void compare_clip(lab *l, const variant *v, results *r) {
    distance d = {0};
    for (int k = 0; k < STAGES; k++) {
        run_clip(l, v, k, r->b);
        ADD(d, r->b, features[k]);
        clear(l, r->b);
    }
    line("CLIP", v, &d, NULL, NULL);
}

static void compare_projectors(lab *l, const variant *v, results *r) {
    distance d = {0};
    for (int k = 0; k < STAGES; k++) {
        GATHER(r->a, features[k]);
        run_projector(l, v, k, r->a, r->b);
        ADD(d, r->b, rows[k]);
        clear(l, r->b);
    }
    line("projectors", v, &d, NULL, NULL);
}

static void compare_seg(lab *l, const variant *v, results *r) {
    distance d = {0};
    overlap o = {0};
    GATHER(r->a, state);
    run_seg(l, v, r->a, r->b);
    ADD(d, r->b, text);
    GATHER(r->a, image);
    run_decoder(l, &reference, r->a, r->b, r->c, NULL);
    for (size_t i = 0; i < l->n; i++) overlap_add(&o, &r->c[i], &l->pictures[i].mask);
    clear(l, r->b);
    clear(l, r->c);
    line("[SEG] head, mask", v, &d, NULL, &o);
}

static void compare_sam(lab *l, const variant *v, results *r) {
    distance d = {0}, m = {0};
    overlap o = {0};
    run_sam(l, v, r->b);
    ADD(d, r->b, image);
    line("SAM encoder", v, &d, NULL, NULL);
    GATHER(r->a, text);
    run_decoder(l, &reference, r->b, r->a, r->c, NULL);
    ADD(m, r->c, mask);
    for (size_t i = 0; i < l->n; i++) overlap_add(&o, &r->c[i], &l->pictures[i].mask);
    line("  its mask", v, &m, NULL, &o);
    clear(l, r->b);
    clear(l, r->c);
}

static void compare_decoder(lab *l, const variant *v, results *r) {
    distance d = {0};
    overlap o = {0};
    GATHER(r->a, image);
    GATHER(r->b, text);
    run_decoder(l, v, r->a, r->b, r->c, NULL);
    ADD(d, r->c, mask);
    for (size_t i = 0; i < l->n; i++) overlap_add(&o, &r->c[i], &l->pictures[i].mask);
    clear(l, r->c);
    line("mask decoder", v, &d, NULL, &o);
}

/* Everything at once: what a bundle of that type gives, texts held fixed. */
static void compare_whole(lab *l, const variant *v, results *r) {
    distance m = {0};
    overlap o = {0};
    for (int k = 0; k < STAGES; k++) {
        run_clip(l, v, k, r->a);
        run_projector(l, v, k, r->a, r->b);
        clear(l, r->a);
        run_lm(l, v, k, r->b, r->a, k ? r->c : NULL);
        clear(l, r->b);
        compare_logits(l, k ? "all of stage 2" : "all of stage 1", k, v, r->a);
        clear(l, r->a);
    }
    run_seg(l, v, r->c, r->b);
    clear(l, r->c);
    run_sam(l, v, r->a);
    run_decoder(l, v, r->a, r->b, r->c, NULL);
    clear(l, r->a);
    clear(l, r->b);
    ADD(m, r->c, mask);
    for (size_t i = 0; i < l->n; i++) overlap_add(&o, &r->c[i], &l->pictures[i].mask);
    clear(l, r->c);
    line("  mask, from all", v, &m, NULL, &o);
}

static const char *const clip_words[] = {"encoder.layers", NULL}, *const sam_words[] = {"mlp.", "attn.qkv", "attn.proj", NULL},
                  *const all_words[] = {"", NULL}, *const decoder_words[] = {"_proj.weight", "mlp.", "hypernetworks", NULL};

/* Each network's linear layers in each type, whatever the table says: what the table is chosen by. */
static void by_network(lab *l, results *r) {
    static const fs_dtype types[] = {FS_DTYPE_F16, FS_DTYPE_BF16, FS_DTYPE_Q8_0, FS_DTYPE_Q6_K, FS_DTYPE_Q4_K, FS_DTYPE_Q4_0};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        variant v = {.choose = choose_role, .in = all_words, .as = types[t]};
        snprintf(v.name, sizeof v.name, "%s", fs_dtype_name(types[t]));
        distance d = {0};
        v.exact = true; /* its convolutions are no linear layers: nothing to pack */
        if (fs_dtype_block(types[t]) == 1) {
            run_dtg(l, &v, r->b);
            ADD(d, r->b, tag);
            clear(l, r->b);
            line("tag generator", &v, &d, NULL, NULL);
        }
        v.exact = false;
        v.in = clip_words;
        compare_clip(l, &v, r);
        v.in = all_words;
        compare_projectors(l, &v, r);
        for (int k = 0; k < STAGES; k++) compare_lm(l, k, &v, r);
        compare_seg(l, &v, r);
        v.in = sam_words;
        compare_sam(l, &v, r);
        v.in = decoder_words;
        compare_decoder(l, &v, r);
    }
}

/* 8 bits of the activations alone: weights in Q8_0 with activations as they are, against the same weights packed. */
static void activations_alone(lab *l, results *r) {
    variant exact = {.choose = choose_role, .as = FS_DTYPE_Q8_0, .exact = true}, packed = exact;
    packed.exact = false;
    snprintf(packed.name, sizeof packed.name, "activations");
    distance d[3] = {{0}};
    exact.in = packed.in = clip_words;
    run_clip(l, &exact, 0, r->a);
    run_clip(l, &packed, 0, r->b);
    for (size_t i = 0; i < l->n; i++) distance_add(&d[0], &r->b[i], &r->a[i]);
    clear(l, r->a), clear(l, r->b);
    line("CLIP", &packed, &d[0], NULL, NULL);
    exact.in = packed.in = all_words;
    for (int k = 0; k < STAGES; k++) {
        divergence kl = {0};
        distance e = {0};
        GATHER(r->c, rows[k]);
        run_lm(l, &exact, k, r->c, r->a, NULL);
        run_lm(l, &packed, k, r->c, r->b, NULL);
        for (size_t i = 0; i < l->n; i++) distance_add(&e, &r->b[i], &r->a[i]), divergence_add(&kl, &r->b[i], &r->a[i], 0, r->a[i].rows);
        clear(l, r->a), clear(l, r->b);
        line(k ? "LLaMA, stage 2" : "LLaMA, stage 1", &packed, &e, &kl, NULL);
    }
    exact.in = packed.in = sam_words;
    run_sam(l, &exact, r->a);
    run_sam(l, &packed, r->b);
    for (size_t i = 0; i < l->n; i++) distance_add(&d[1], &r->b[i], &r->a[i]);
    clear(l, r->a), clear(l, r->b);
    line("SAM encoder", &packed, &d[1], NULL, NULL);
}

/* v and down of one layer at a time: the two that mixtures treat with care. */
static void by_layer(lab *l, fs_dtype type, results *r) {
    for (int k = 0; k < STAGES; k++)
        for (int64_t i = 0; i < l->lm[k].llama.layers; i++) {
            char v_name[48], down_name[48];
            snprintf(v_name, sizeof v_name, "layers.%lld.self_attn.v_proj", (long long)i);
            snprintf(down_name, sizeof down_name, "layers.%lld.mlp.down_proj", (long long)i);
            const char *words[] = {v_name, down_name, NULL};
            variant v = {.choose = choose_role, .as = type, .in = words, .exact = true};
            snprintf(v.name, sizeof v.name, "v, down of %lld", (long long)i);
            compare_lm(l, k, &v, r);
        }
}

static void by_role(lab *l, results *r) {
    static const struct { const char *label, *words[2]; } lm_roles[] = {
        {"attn_q", {"q_proj"}}, {"attn_k", {"k_proj"}},  {"attn_v", {"v_proj"}},       {"attn_output", {"o_proj"}},      {"ffn_gate", {"gate_proj"}},
        {"ffn_up", {"up_proj"}}, {"ffn_down", {"down_proj"}}, {"output", {"lm_head"}}, {"token_embd", {"embed_tokens"}},
    }, clip_roles[] = {{"q", {"q_proj"}}, {"k", {"k_proj"}}, {"v", {"v_proj"}}, {"out", {"out_proj"}}, {"fc1", {"fc1"}}, {"fc2", {"fc2"}}},
      sam_roles[] = {{"qkv", {"attn.qkv"}}, {"proj", {"attn.proj"}}, {"lin1", {"mlp.lin1"}}, {"lin2", {"mlp.lin2"}}};
    static const fs_dtype types[] = {FS_DTYPE_Q8_0, FS_DTYPE_Q6_K, FS_DTYPE_Q4_K, FS_DTYPE_Q4_0};
    for (size_t t = 0; t < 4; t++) {
        variant v = {.choose = choose_role, .as = types[t], .exact = true};
        for (size_t i = 0; i < sizeof lm_roles / sizeof lm_roles[0]; i++) {
            v.in = lm_roles[i].words;
            snprintf(v.name, sizeof v.name, "%s %s", lm_roles[i].label, fs_dtype_name(types[t]));
            for (int k = 0; k < STAGES; k++) compare_lm(l, k, &v, r);
        }
        if (types[t] == FS_DTYPE_Q4_K) by_layer(l, types[t], r);
        if (types[t] == FS_DTYPE_Q6_K || types[t] == FS_DTYPE_Q4_K) continue;
        v.exact = false; /* as they would run */
        for (size_t i = 0; i < sizeof clip_roles / sizeof clip_roles[0]; i++) {
            v.in = clip_roles[i].words;
            snprintf(v.name, sizeof v.name, "%s %s", clip_roles[i].label, fs_dtype_name(types[t]));
            compare_clip(l, &v, r);
        }
        for (size_t i = 0; i < sizeof sam_roles / sizeof sam_roles[0]; i++) {
            v.in = sam_roles[i].words;
            snprintf(v.name, sizeof v.name, "%s %s", sam_roles[i].label, fs_dtype_name(types[t]));
            compare_sam(l, &v, r);
        }
    }
}

static void close_lab(lab *l) {
    for (size_t i = 0; i < l->n; i++) {
        picture *p = &l->pictures[i];
        numbers *kept[] = {&p->tag, &p->features[0], &p->features[1], &p->rows[0], &p->rows[1], &p->logits[0], &p->logits[1], &p->state, &p->text, &p->image, &p->mask};
        for (size_t k = 0; k < sizeof kept / sizeof kept[0]; k++) numbers_free(kept[k]);
        for (int k = 0; k < STAGES; k++) fs_ids_free(&p->ids[k]), free(p->clip[k]);
        fs_image_free(p->pil);
        fs_image_free(p->cv);
        free(p->dtg);
        free(p->sam);
    }
    free(l->pictures);
    for (int k = 0; k < STAGES; k++) {
        fs_tokenizer_free(l->tokenizer[k]);
        fs_archive_free(l->lm_file[k]);
        fs_lm_config_free(&l->lm[k]);
    }
    fs_archive_free(l->dtg);
    fs_archive_free(l->clip);
    fs_archive_free(l->sam);
    fs_layout_free(&l->layout);
}

void measure_checkpoint(const char *dir, const char *const *pictures, size_t n, const settings *s) {
    lab l = {.n = n};
    fs_error err = {0};
    open_lab(&l, dir, s);
    fs_sam_encoder m;
    check(fs_sam_encoder_bind(&m, &l.sam_source, "model.grounding_encoder.image_encoder.", &err), &err);
    l.sam_size = m.image_size;
    fs_sam_encoder_unbind(&m);
    l.pictures = fs_alloc_zero(n, sizeof *l.pictures);
    results r = {fs_alloc_zero(n, sizeof(numbers)), fs_alloc_zero(n, sizeof(numbers)), fs_alloc_zero(n, sizeof(numbers))};
    if (!l.pictures || !r.a || !r.b || !r.c) stop("out of memory");
    for (size_t i = 0; i < n; i++) load_picture(&l, &l.pictures[i], pictures[i]);
    run_reference(&l);
    size_t tokens[STAGES] = {0}, own[STAGES] = {0};
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < STAGES; k++) tokens[k] += l.pictures[i].ids[k].count, own[k] += l.pictures[i].ids[k].count - l.pictures[i].prompt[k];
    printf("%zu pictures; stage 1: %zu tokens of text, %zu of them answers; stage 2: %zu, %zu\n", n, tokens[0], own[0], tokens[1], own[1]);
    heading("whole bundles (activations of the packed products in 8 bits)");
    for (size_t t = 0; t < s->n_types; t++) {
        variant v;
        if (!variant_of_type(s->types[t], &v)) stop("no type \"%s\"", s->types[t]);
        compare_whole(&l, &v, &r);
    }
    heading("network by network, every linear layer in that type (rows it does not divide stay as they are)");
    by_network(&l, &r);
    heading("8 bits of the activations alone (against Q8_0 weights and activations as they are)");
    activations_alone(&l, &r);
    if (s->roles) {
        heading("one kind of matrix at a time, activations as they are");
        by_role(&l, &r);
    }
    free(r.a);
    free(r.b);
    free(r.c);
    close_lab(&l);
}
