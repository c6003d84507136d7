/* Training steps, timed: the C side of bench/train, which compares them with PyTorch's (bench/train_torch.py says what the cases are), and one case
 * without a counterpart.
 *
 *     bench_train lora [--checkpointing] [--base f32|f16|q8_0|q4_0|q4_k] [--layers N] [--threads N] [--steps K]
 *     bench_train mask [--threads N] [--steps K]
 *     bench_train nano --config CONFIG.json [--work DIR] [--batch N] [--threads N] [--steps K]      a new model, all of whose weights are trained
 *
 * Weights and inputs of the first two are by formula (tests/support/weightgen.h). One step is not timed, then K are. Prints one JSON object: seconds
 * [K], losses [K + 1], peak_bytes of the whole process, ready_bytes before the first step. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "pipeline/scratch.h"
#include "support/weightgen.h"
#include "tensor/block.h"
#include "tensor/packed.h"
#include "train/lora.h"
#include "train/optim.h"
#include "train/trainee.h"

enum { MAX_STEPS = 100, LENGTH = 700, LEARNED = 300, SEQUENCES = 2, VOCAB = 32000, RANK = 128, SIDE = 1024, STATE = 4096 };

typedef struct settings {
    const char *name, *config, *work;
    bool recompute;
    fs_dtype base;
    int threads, steps;
    int64_t layers, batch;
} settings;

static void die(const char *message) {
    fprintf(stderr, "bench_train: %s\n", message);
    exit(1);
}

static void check(fs_status status, const fs_error *err) {
    if (status) die(err->message);
}

/* ---- weights by formula, made when a network asks for them, stored in the type that was asked for ---- */

typedef struct weight { char name[192]; fs_tensor tensor; bool matrix; } weight;
typedef struct weights { weight list[160]; size_t count; fs_dtype type; } weights;

__attribute__((format(printf, 5, 6))) static void add(weights *w, bool matrix, int ndim, const int64_t *shape, const char *format, ...) {
    if (w->count == sizeof w->list / sizeof w->list[0]) die("too many tensors");
    weight *e = &w->list[w->count++];
    *e = (weight){.matrix = matrix, .tensor = {.dtype = FS_DTYPE_F32, .ndim = ndim, .shape = {1, 1, 1, 1, 1, 1}}};
    memcpy(e->tensor.shape, shape, (size_t)ndim * sizeof *shape);
    va_list args;
    va_start(args, format);
    vsnprintf(e->name, sizeof e->name, format, args);
    va_end(args);
    e->tensor.name = e->name;
}
#define ADD_1D(w, a, ...) add((w), false, 1, (const int64_t[]){(a)}, __VA_ARGS__)
#define ADD_2D(w, matrix, a, b, ...) add((w), (matrix), 2, (const int64_t[]){(a), (b)}, __VA_ARGS__)
#define ADD_4D(w, a, b, c, d, ...) add((w), false, 4, (const int64_t[]){(a), (b), (c), (d)}, __VA_ARGS__)

static void add_pair(weights *w, const char *name, int64_t out, int64_t in) { /* in 0: of a norm */
    if (in) ADD_2D(w, false, out, in, "%s.weight", name);
    else ADD_1D(w, out, "%s.weight", name);
    ADD_1D(w, out, "%s.bias", name);
}

static void make(weights *w, weight *e) {
    const int64_t count = fs_tensor_count(&e->tensor), width = e->tensor.shape[e->tensor.ndim - 1];
    float *values = fs_alloc((size_t)count, sizeof *values);
    if (!values) die("out of memory");
    fs_test_weight(e->name, (size_t)e->tensor.ndim, e->tensor.shape, values);
    e->tensor.data = values;
    size_t row;
    if (!e->matrix || w->type == FS_DTYPE_F32 || !fs_dtype_row_bytes(w->type, width, &row)) return;
    e->tensor.dtype = w->type;
    e->tensor.data = fs_alloc((size_t)(count / width), row);
    if (!e->tensor.data) die("out of memory");
    for (int64_t i = 0; i < count / width; i++)
        if (!fs_row_from_f32(w->type, values + i * width, width, (char *)e->tensor.data + (size_t)i * row)) die("no such type of weights");
    free(values);
}

static const fs_tensor *find(void *user, const char *name) {
    weights *w = user;
    for (size_t i = 0; i < w->count; i++) {
        if (strcmp(w->list[i].name, name) != 0) continue;
        if (!w->list[i].tensor.data) make(w, &w->list[i]);
        return &w->list[i].tensor;
    }
    return NULL;
}

static const char *origin(void *user, const char *name) {
    (void)user, (void)name;
    return "(formula)";
}

/* ---- a case: its forward pass with loss, its trained tensors, how they move ---- */

typedef struct lesson lesson;
struct lesson {
    const settings *s;
    weights made;
    fs_tensor_source source;
    fs_packed_source *packed;
    fs_params params;
    fs_params_view view;
    fs_exec c;
    fs_tape tape;
    fs_tensor *(*loss)(lesson *l); /* NULL: nano's own step */
    fs_adamw adamw;
    double clip;
    fs_llama llama;
    fs_sam_prompt prompt;
    fs_sam_decoder decoder;
    fs_seg_head head;
    const fs_tensor *pe, *images;
    fs_tensor *targets[2];
    fs_tensor states;
    fs_tape_node states_node;
    float *states_grad;
    fs_trainee trainee;
    fs_train_options options;
    fs_sample *samples;
};

static void open_source(lesson *l, bool (*select)(void *, const char *, int *)) {
    fs_error err = {0};
    l->made.type = l->s->base;
    l->source = (fs_tensor_source){&l->made, find, origin};
    check(fs_packed_source_create(&l->source, false, l->s->threads, &l->packed, &err), &err);
    l->view = (fs_params_view){.params = &l->params, .base = *fs_packed_source_tensors(l->packed), .select = select};
}

/* ---- lora ---- */

static void list_llama(weights *w, const fs_llama_config *g) {
    ADD_2D(w, true, g->vocab, g->hidden, "model.embed_tokens.weight");
    ADD_1D(w, g->hidden, "model.norm.weight");
    ADD_2D(w, true, g->vocab, g->hidden, "lm_head.weight");
    for (int64_t i = 0; i < g->layers; i++) {
        ADD_1D(w, g->hidden, "model.layers.%lld.input_layernorm.weight", (long long)i);
        ADD_1D(w, g->hidden, "model.layers.%lld.post_attention_layernorm.weight", (long long)i);
        for (int k = 0; k < FS_LORA_PLACES; k++) {
            int64_t in, out;
            fs_lora_shape(g, (fs_lora_place)k, &in, &out);
            ADD_2D(w, true, out, in, "model.layers.%lld.%s.weight", (long long)i, fs_lora_place_names[k]);
        }
    }
}

static fs_tensor *lora_loss(lesson *l) {
    static const int64_t lengths[SEQUENCES] = {LENGTH, LENGTH};
    int32_t ids[SEQUENCES * LENGTH], targets[SEQUENCES * LEARNED];
    int64_t rows[SEQUENCES * LEARNED], n = 0;
    for (int64_t b = 0; b < SEQUENCES; b++)
        for (int64_t t = 0; t < LENGTH; t++) {
            ids[b * LENGTH + t] = t ? (int32_t)(3 + (7 * t * t + 13 * t + 1031 * b) % (VOCAB - 3)) : 1;
            if (t < LENGTH - LEARNED) continue;
            rows[n] = b * LENGTH + t - 1;
            targets[n++] = ids[b * LENGTH + t];
        }
    const fs_llama_batch batch = {.lengths = lengths, .n = SEQUENCES, .recompute = l->s->recompute};
    const fs_tensor *x = fs_llama_embed(&l->c, &l->llama, ids, SEQUENCES * LENGTH);
    const fs_tensor *h = fs_llama_forward_batch(&l->c, &l->llama, &batch, x);
    return h ? fs_llama_loss(&l->c, &l->llama, h, rows, targets, n, 1) : NULL;
}

static void open_lora(lesson *l) {
    fs_error err = {0};
    const fs_llama_config g = {.hidden = 1024, .intermediate = 2816, .layers = l->s->layers, .heads = 8, .kv_heads = 8, .vocab = VOCAB,
                               .max_positions = 4096, .eps = 1e-5f, .rope_theta = 10000};
    list_llama(&l->made, &g);
    open_source(l, NULL);
    l->params.groups[0].rate = 2e-4;
    check(fs_lora_add_params(&l->params, &g, FS_LORA_ALL_PLACES, RANK, 1, 0, &err), &err);
    for (size_t i = 0; i < l->params.count; i++) {
        fs_param *p = l->params.list[i];
        if (strstr(p->name, ".lora_A.")) fs_test_weight(p->name, 2, p->tensor.shape, p->data);
    }
    const fs_tensor_source source = fs_params_source(&l->view);
    check(fs_llama_bind(&l->llama, &g, &source, "", &err), &err);
    check(fs_llama_bind_lora(&l->llama, &source, "base_model.model.", 2 * RANK, &err), &err);
    l->loss = lora_loss;
    l->adamw = fs_adamw_defaults();
}

/* ---- mask ---- */

static void list_attention(weights *w, int64_t inner, const char *place) {
    static const char *const parts[4] = {"q_proj", "k_proj", "v_proj", "out_proj"};
    for (int i = 0; i < 4; i++) {
        char name[160];
        snprintf(name, sizeof name, "mask_decoder.transformer.%s.%s", place, parts[i]);
        add_pair(w, name, i < 3 ? inner : 256, i < 3 ? 256 : inner);
    }
}

static void list_decoder(weights *w) {
    char name[96];
    ADD_2D(w, false, 2, 128, "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix");
    ADD_2D(w, false, 1, 256, "prompt_encoder.no_mask_embed.weight");
    ADD_2D(w, false, 1, 256, "mask_decoder.iou_token.weight");
    ADD_2D(w, false, 4, 256, "mask_decoder.mask_tokens.weight");
    for (int i = 0; i < 2; i++) {
        static const char *const places[3] = {"self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"};
        for (int k = 0; k < 3; k++) {
            snprintf(name, sizeof name, "layers.%d.%s", i, places[k]);
            list_attention(w, k ? 128 : 256, name);
        }
        for (int k = 1; k <= 4; k++) {
            snprintf(name, sizeof name, "mask_decoder.transformer.layers.%d.norm%d", i, k);
            add_pair(w, name, 256, 0);
        }
        snprintf(name, sizeof name, "mask_decoder.transformer.layers.%d.mlp.lin1", i);
        add_pair(w, name, 2048, 256);
        snprintf(name, sizeof name, "mask_decoder.transformer.layers.%d.mlp.lin2", i);
        add_pair(w, name, 256, 2048);
    }
    list_attention(w, 128, "final_attn_token_to_image");
    add_pair(w, "mask_decoder.transformer.norm_final_attn", 256, 0);
    ADD_4D(w, 256, 64, 2, 2, "mask_decoder.output_upscaling.0.weight");
    ADD_1D(w, 64, "mask_decoder.output_upscaling.0.bias");
    add_pair(w, "mask_decoder.output_upscaling.1", 64, 0);
    ADD_4D(w, 64, 32, 2, 2, "mask_decoder.output_upscaling.3.weight");
    ADD_1D(w, 32, "mask_decoder.output_upscaling.3.bias");
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "mask_decoder.output_hypernetworks_mlps.0.layers.%d", i);
        add_pair(w, name, i < 2 ? 256 : 32, 256);
    }
    add_pair(w, "model.text_hidden_fcs.0.0", STATE, STATE);
    add_pair(w, "model.text_hidden_fcs.0.2", 256, STATE);
}

static bool decoder_or_head(void *user, const char *name, int *group) {
    (void)user;
    *group = 0;
    return strstr(name, "mask_decoder.") || strstr(name, "text_hidden_fcs");
}

typedef struct one_mask { lesson *l; int64_t number; } one_mask;

static fs_tensor *one_mask_loss(fs_exec *c, const void *user, const fs_tensor *text) {
    const one_mask *w = user;
    lesson *l = w->l;
    const fs_tensor *image = fs_reshape_3d(c, fs_rows(c, l->images, w->number, w->number + 1), 256, 64, 64);
    const fs_tensor *low = fs_sam_decoder_forward(c, &l->decoder, image, l->pe, l->prompt.no_mask, text);
    const fs_tensor *x = fs_sam_postprocess(c, low, SIDE, SIDE, SIDE, SIDE, SIDE), *target = l->targets[w->number];
    return fs_add(c, fs_scale(c, fs_bce_with_logits(c, x, target), 2.0f / 2), fs_scale(c, fs_dice_loss(c, x, target), 0.5f / 2));
}

/* As fs_trainee_step has it: one mask after the other, forth and back. */
static fs_tensor *mask_loss(lesson *l) {
    fs_exec *c = &l->c;
    fs_tensor *text = fs_seg_head_forward(c, &l->head, &l->states), *parts[2];
    memset(l->states_grad, 0, 2 * STATE * sizeof(float));
    for (int64_t i = 0; i < 2; i++) {
        const one_mask w = {l, i};
        parts[i] = fs_loss_now(c, one_mask_loss, &w, fs_rows(c, text, i, i + 1), 1);
    }
    return fs_add(c, parts[0], parts[1]);
}

static void open_mask(lesson *l) {
    fs_error err = {0};
    list_decoder(&l->made);
    open_source(l, decoder_or_head);
    l->params.groups[0].rate = 3e-4;
    const fs_tensor_source source = fs_params_source(&l->view);
    check(fs_sam_prompt_bind(&l->prompt, &source, "prompt_encoder.", &err), &err);
    check(fs_sam_decoder_bind(&l->decoder, &source, "mask_decoder.", &err), &err);
    check(fs_seg_head_bind(&l->head, STATE, &source, "model.text_hidden_fcs.0.", &err), &err);
    check(l->view.status, &l->view.error);
    for (size_t i = 0; i < l->made.count; i++) { /* what is trained was copied */
        int group;
        if (!decoder_or_head(NULL, l->made.list[i].name, &group)) continue;
        free(l->made.list[i].tensor.data);
        l->made.list[i].tensor.data = NULL;
    }
    fs_tensor *images = fs_new(&l->c, 4, (const int64_t[]){2, 256, 64, 64}), *states = fs_new_2d(&l->c, 2, STATE);
    l->states_grad = fs_alloc_zero(2 * STATE, sizeof(float));
    l->pe = fs_sam_dense_pe(&l->c, &l->prompt, 64, false);
    if (!images || !states || !l->pe || !l->states_grad) die("out of memory");
    fs_test_weight("input.image", 4, images->shape, fs_f32(images));
    fs_test_weight("input.state", 2, states->shape, fs_f32(states));
    l->images = images;
    l->states = fs_tape_leaf(&l->states_node, states, l->states_grad);
    for (int64_t i = 0; i < 2; i++) {
        l->targets[i] = fs_new_3d(&l->c, 1, SIDE, SIDE);
        if (!l->targets[i]) die("out of memory");
        for (int64_t y = 0; y < SIDE; y++)
            for (int64_t x = 0; x < SIDE; x++)
                fs_f32(l->targets[i])[y * SIDE + x] = 4 * (x - 512) * (x - 512) + 9 * (y - 400 - 100 * i) * (y - 400 - 100 * i) <= 360000;
    }
    l->loss = mask_loss;
    l->adamw = (fs_adamw){.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
    l->clip = 1;
}

/* ---- nano: MFLM's recipe on a new model, samples made of noise ---- */

enum { NANO_IDS = 96, NANO_MASK = 256 };

static void noise(float *x, int64_t n, uint64_t seed) {
    fs_rng r = fs_rng_seed(seed);
    for (int64_t i = 0; i < n; i++) x[i] = (float)(2 * fs_rng_uniform(&r) - 1);
}

static void make_sample(lesson *l, fs_sample *s, uint64_t seed) {
    const int64_t clip = l->trainee.parts.clip->config.image_size, sam = l->trainee.parts.sam->image_size, words = l->trainee.parts.llama->embed->shape[0];
    fs_error err = {0};
    *s = (fs_sample){.index = (int64_t)seed, .sam_h = sam, .sam_w = sam, .height = NANO_MASK, .width = NANO_MASK, .domain = -1};
    s->labels = fs_alloc(NANO_IDS, sizeof *s->labels);
    s->clip = fs_alloc((size_t)(3 * clip * clip), sizeof(float));
    s->sam = fs_alloc((size_t)(3 * sam * sam), sizeof(float));
    s->mask = fs_alloc(NANO_MASK * NANO_MASK, 1);
    if (!s->labels || !s->clip || !s->sam || !s->mask) die("out of memory");
    noise(s->clip, 3 * clip * clip, seed);
    noise(s->sam, 3 * sam * sam, seed + 1000);
    for (int64_t y = 0; y < NANO_MASK; y++)
        for (int64_t x = 0; x < NANO_MASK; x++) s->mask[y * NANO_MASK + x] = (x - 100) * (x - 100) + (y - 120) * (y - 120) < 2500;
    for (int32_t k = 0; k < NANO_IDS; k++) {
        const int32_t id = k == 1 ? FS_IMAGE_TOKEN : k == NANO_IDS - 2 ? l->trainee.seg_id : 3 + (k * 31 + (int32_t)seed * 17) % (int32_t)(words / 2);
        check(fs_ids_push(&s->ids, id, &err), &err);
        s->labels[k] = k < NANO_IDS / 2 ? FS_IGNORE : id;
    }
}

static void open_nano(lesson *l) {
    fs_error err = {0};
    if (!l->s->config) die("nano wants --config CONFIG.json");
    l->options = fs_train_options_defaults(FS_RECIPE_MFLM);
    l->options.model_dir = l->s->work;
    l->options.all_weights = true;
    l->options.recompute = l->s->recompute;
    l->options.base.threads = l->s->threads;
    char *vision = fs_path_join(l->s->work, "mflm.gguf");
    if (vision && !fs_path_exists(vision)) check(fs_scratch_create(l->s->config, l->s->work, 1, &l->options.base, &err), &err);
    free(vision);
    check(fs_trainee_open(&l->trainee, &l->options, &err), &err);
    l->samples = fs_alloc_zero((size_t)l->s->batch, sizeof *l->samples);
    if (!l->samples) die("out of memory");
    for (int64_t i = 0; i < l->s->batch; i++) make_sample(l, &l->samples[i], (uint64_t)i);
    l->adamw = (fs_adamw){.beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8};
    l->clip = 1;
}

/* ---- steps ---- */

static double tape_step(lesson *l) {
    fs_error err = {0};
    const fs_arena_mark mark = fs_arena_get_mark(l->c.arena);
    l->c.tape = &l->tape;
    const fs_tensor *y = l->loss(l);
    const double loss = y ? (double)fs_f32(y)[0] : 0;
    fs_tape_backward(&l->c, y, NULL);
    check(fs_exec_status(&l->c, &err), &err);
    l->c.tape = NULL;
    fs_tape_reset(&l->tape);
    fs_arena_release(l->c.arena, mark);
    return loss;
}

static double step(lesson *l, int64_t number) {
    fs_error err = {0};
    fs_losses losses = {0};
    fs_params *p = l->loss ? &l->params : &l->trainee.params;
    double norm;
    fs_params_zero_grad(p);
    if (!l->loss) check(fs_trainee_step(&l->trainee, l->samples, (size_t)l->s->batch, 1, (uint64_t)number, &losses, &err), &err);
    const double loss = l->loss ? tape_step(l) : losses.total;
    if (l->clip > 0) fs_params_clip(p, l->clip, l->s->threads, &norm);
    fs_adamw_step(p, &l->adamw, number, 1, l->s->threads);
    return loss;
}

static long long resident(void) {
    char line[128] = "";
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && !fgets(line, sizeof line, f)) line[0] = '\0';
    if (f) fclose(f);
    const char *second = strchr(line, ' ');
    return second ? strtoll(second, NULL, 10) * sysconf(_SC_PAGESIZE) : 0;
}

static void print_list(const char *name, const double *x, int n, const char *format) {
    printf("\"%s\": [", name);
    for (int i = 0; i < n; i++) {
        if (i) printf(", ");
        printf(format, x[i]);
    }
    printf("], ");
}

static void close_lesson(lesson *l) {
    fs_exec_end(&l->c);
    fs_llama_unbind(&l->llama);
    fs_sam_decoder_unbind(&l->decoder);
    fs_params_free(&l->params);
    fs_packed_source_free(l->packed);
    for (size_t i = 0; i < l->made.count; i++) free(l->made.list[i].tensor.data);
    for (int64_t i = 0; l->samples && i < l->s->batch; i++) fs_sample_free(&l->samples[i]);
    free(l->samples);
    free(l->states_grad);
    if (l->trainee.options) fs_trainee_close(&l->trainee);
}

static int number(const char *text) {
    char *end;
    const long n = strtol(text, &end, 10);
    return *text && !*end && n > 0 && n < 1 << 20 ? (int)n : 0;
}

static fs_dtype base_type(const char *name) {
    static const char *const names[] = {"f32", "f16", "q8_0", "q4_0", "q4_k"};
    static const fs_dtype types[] = {FS_DTYPE_F32, FS_DTYPE_F16, FS_DTYPE_Q8_0, FS_DTYPE_Q4_0, FS_DTYPE_Q4_K};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(names[i], name) == 0) return types[i];
    die("--base is f32, f16, q8_0, q4_0 or q4_k");
    return FS_DTYPE_F32;
}

static settings read_settings(int argc, char **argv) {
    settings s = {.name = argc > 1 ? argv[1] : "", .base = FS_DTYPE_F32, .threads = 2, .steps = 5, .layers = 4, .batch = 8, .work = "/tmp/bench_train_nano"};
    for (int i = 2; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        i++;
        if (0 == strcmp(argv[i - 1], "--checkpointing")) s.recompute = true, i--;
        else if (0 == strcmp(argv[i - 1], "--threads")) s.threads = number(value);
        else if (0 == strcmp(argv[i - 1], "--steps")) s.steps = number(value);
        else if (0 == strcmp(argv[i - 1], "--layers")) s.layers = number(value);
        else if (0 == strcmp(argv[i - 1], "--batch")) s.batch = number(value);
        else if (0 == strcmp(argv[i - 1], "--config")) s.config = value;
        else if (0 == strcmp(argv[i - 1], "--work")) s.work = value;
        else if (0 == strcmp(argv[i - 1], "--base")) s.base = base_type(value);
        else die("unknown option; see the head of bench/bench_train.c");
    }
    if (s.threads < 1 || s.steps < 1 || s.steps > MAX_STEPS || s.layers < 1 || s.layers > 16 || s.batch < 1) die("a number is out of range");
    return s;
}

int main(int argc, char **argv) {
    static lesson l;
    const settings s = read_settings(argc, argv);
    double seconds[MAX_STEPS], losses[MAX_STEPS + 1];
    fs_error err = {0};
    l.s = &s;
    check(fs_exec_init(&l.c, FS_DTYPE_F32, s.threads, NULL, &err), &err);
    if (0 == strcmp(s.name, "lora")) open_lora(&l);
    else if (0 == strcmp(s.name, "mask")) open_mask(&l);
    else if (0 == strcmp(s.name, "nano")) open_nano(&l);
    else die("the first argument is lora, mask or nano");
    const long long ready = resident();
    for (int i = 0; i <= s.steps; i++) {
        const double start = fs_now();
        losses[i] = step(&l, i + 1);
        if (i) seconds[i - 1] = fs_now() - start;
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"program\": \"FakeShield in C\", \"case\": \"%s\", \"checkpointing\": %s, \"base\": \"%s\", \"threads\": %d, \"trained\": %lld, ", s.name,
           s.recompute ? "true" : "false", fs_dtype_name(s.base), s.threads, (long long)fs_params_total(l.loss ? &l.params : &l.trainee.params));
    print_list("seconds", seconds, s.steps, "%.4f");
    print_list("losses", losses, s.steps + 1, "%.9g");
    printf("\"peak_bytes\": %lld, \"ready_bytes\": %lld}\n", (long long)usage.ru_maxrss * 1024, ready);
    close_lesson(&l);
    return 0;
}
