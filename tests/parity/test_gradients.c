/* Gradients of whole networks against PyTorch (tools/reference/make_net_grad_goldens.py): CLIP, SAM's image encoder and mask decoder, the region encoder,
 * and a small ResNet in training mode, with all weights trained. Each forward pass is the one of inference, run with a tape. */
#include "full.h"

#include "train/params.h"

/* What the issue asks for, of a tensor's norm; f32 through the depth of these networks stays well below. */
static const double TOLERANCE = 1e-4;

typedef struct net {
    const char *name;
    fs_archive *weights, *goldens;
    formula_weights formulas;
    fs_params params;
    fs_params_view view;
    fs_tensor_source source;
    fs_exec c;
    fs_tape tape;
} net;

static bool all(void *user, const char *name, int *group) {
    (void)user, (void)name;
    *group = 0;
    return true;
}

/* file: of the tiny checkpoint; NULL: weights by formula, to be added. */
static void open_net(net *n, const char *name, const char *file) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", FS_TINY_DIR, file ? file : "");
    *n = (net){.name = name, .weights = file ? open_archive(path) : NULL, .goldens = open_golden("grads_net.safetensors")};
    n->view = (fs_params_view){.params = &n->params, .base = file ? fs_archive_source(n->weights) : formula_source(&n->formulas), .select = all};
    n->source = fs_params_source(&n->view);
    n->c = start(FS_DTYPE_F32, 3);
    n->c.tape = &n->tape;
}

static void close_net(net *n) {
    fs_tape_reset(&n->tape);
    fs_params_free(&n->params);
    fs_exec_end(&n->c);
    free_weights(&n->formulas);
    fs_archive_free(n->weights), fs_archive_free(n->goldens);
}

/* Values against the golden NET/name: norm, product with a formula, samples. False if there is no such golden. */
static bool compare(const net *n, const char *name, int ndim, const int64_t *shape, const float *values) {
    char full[256], formula_name[256];
    snprintf(full, sizeof full, "%s/%s", n->name, name);
    snprintf(formula_name, sizeof formula_name, "input.%s", name);
    const fs_tensor *want = fs_archive_find(n->goldens, full);
    if (!want) return false;
    int64_t count = 1;
    for (int d = 0; d < ndim; d++) count *= shape[d];
    const int64_t step = (count + 63) / 64;
    assert_int_equal(fs_tensor_count(want), 2 + (count + step - 1) / step);
    float *by = fs_alloc((size_t)count, sizeof *by);
    double norm = 0, dot = 0, by_norm = 0, worst = 0;
    fs_test_weight(formula_name, (size_t)ndim, shape, by);
    for (int64_t i = 0; i < count; i++) {
        norm += (double)values[i] * (double)values[i], dot += (double)values[i] * (double)by[i], by_norm += (double)by[i] * (double)by[i];
        if (i % step == 0) worst = fmax(worst, fabs((double)values[i] - (double)fs_f32(want)[2 + i / step]));
    }
    const double size = (double)fs_f32(want)[0];
    worst = fmax(worst, fmax(fabs(sqrt(norm) - size), fabs(dot - (double)fs_f32(want)[1]) / sqrt(by_norm)));
    if (getenv("FS_TEST_VERBOSE")) print_message("%-100s %.1e of %.1e\n", full, worst / size, size);
    if (!(worst <= TOLERANCE * size)) fail_msg("%s: off by %.3g of %.3g", full, worst, size);
    free(by);
    return true;
}

/* Back from <seed, y>, and every trained tensor's gradient. expected: how many have one; the others' must be rounding noise. */
static void check_gradients(net *n, const fs_tensor *y, size_t expected) {
    char name[64];
    assert_ok(&n->c);
    assert_int_equal(n->view.status, FS_OK);
    assert_true(compare(n, "result", y->ndim, y->shape, fs_f32(y)));
    snprintf(name, sizeof name, "input.%s.seed", n->name);
    const fs_tensor *seed = formula(&n->c, name, y->ndim, y->shape);
    fs_tape_backward(&n->c, y, fs_f32(seed));
    assert_ok(&n->c);
    size_t compared = 0;
    double largest = 0;
    for (size_t i = 0; i < n->params.count; i++)
        for (int64_t k = 0; k < n->params.list[i]->count; k++) largest = fmax(largest, fabs((double)n->params.list[i]->grad[k]));
    for (size_t i = 0; i < n->params.count; i++) {
        const fs_param *p = n->params.list[i];
        if (p->count == 0) continue;
        if (compare(n, p->name, p->tensor.ndim, p->tensor.shape, p->grad)) {
            compared++;
            continue;
        }
        for (int64_t k = 0; k < p->count; k++)
            if (!(fabs((double)p->grad[k]) <= 1e-5 * largest)) fail_msg("%s: a gradient of %g where PyTorch has none", p->name, (double)p->grad[k]);
    }
    assert_int_equal(compared, expected);
}

static void clip(void **state) {
    (void)state;
    net n;
    fs_error err = {0};
    fs_clip m;
    open_net(&n, "clip", "clip-vit-tiny");
    const fs_clip_config config = {.hidden = 64, .intermediate = 64, .layers = 11, .heads = 4, .image_size = 112, .patch_size = 14, .eps = 1e-5f};
    if (fs_clip_bind(&m, &config, &n.source, "vision_model.", &err)) fail_msg("%s", err.message);
    check_gradients(&n, fs_clip_forward(&n.c, &m, formula_3d(&n.c, "input", 3, 112, 112), -2, NULL), 5 + 10 * 15);
    fs_clip_unbind(&m);
    close_net(&n);
}

#define PREFIX "model.grounding_encoder."

static void sam_encoder(void **state) {
    (void)state;
    net n;
    fs_error err = {0};
    fs_sam_encoder m;
    open_net(&n, "sam_encoder", "MFLM");
    if (fs_sam_encoder_bind(&m, &n.source, PREFIX "image_encoder.", &err)) fail_msg("%s", err.message);
    check_gradients(&n, fs_sam_encoder_forward(&n.c, &m, formula_3d(&n.c, "input", 3, 128, 128), NULL), 9 + 4 * 14);
    fs_sam_encoder_unbind(&m);
    close_net(&n);
}

/* The image embedding and the text vectors get gradients too: the text's are how the language model learns to point. */
static void sam_decoder(void **state) {
    (void)state;
    net n;
    fs_error err = {0};
    fs_sam_decoder m;
    fs_sam_prompt prompt;
    open_net(&n, "sam_decoder", "MFLM");
    if (fs_sam_prompt_bind(&prompt, &n.source, PREFIX "prompt_encoder.", &err) || fs_sam_decoder_bind(&m, &n.source, PREFIX "mask_decoder.", &err))
        fail_msg("%s", err.message);
    fs_tape_node node[2];
    float *grad[2] = {fs_alloc_zero(32 * 64, sizeof(float)), fs_alloc_zero(2 * 32, sizeof(float))};
    const fs_tensor image = fs_tape_leaf(&node[0], formula_3d(&n.c, "input.image", 32, 8, 8), grad[0]);
    const fs_tensor text = fs_tape_leaf(&node[1], formula_2d(&n.c, "input.text2", 2, 32), grad[1]);
    n.c.tape = NULL;
    const fs_tensor *pe = fs_sam_dense_pe(&n.c, &prompt, 8, false);
    n.c.tape = &n.tape;
    check_gradients(&n, fs_sam_decoder_forward(&n.c, &m, &image, pe, prompt.no_mask, &text), 90);
    assert_true(compare(&n, "image", 3, image.shape, grad[0]));
    assert_true(compare(&n, "text", 3, (const int64_t[]){2, 1, 32}, grad[1]));
    free(grad[0]), free(grad[1]);
    fs_sam_decoder_unbind(&m);
    close_net(&n);
}

/* Its levels get gradients too, as a CLIP that is trained would want. */
static void region_encoder(void **state) {
    (void)state;
    static const float boxes[8] = {0.1f, 0.2f, 0.55f, 0.7f, 0.3f, 0.05f, 0.95f, 0.4f};
    net n;
    fs_error err = {0};
    fs_region_encoder m;
    open_net(&n, "region", "MFLM");
    if (fs_region_encoder_bind(&m, 8, &n.source, "model.region_encoder.", &err)) fail_msg("%s", err.message);
    fs_tensor leaf[4], *levels[4];
    fs_tape_node node[4];
    float *grad[4];
    char name[32];
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "input.other%d", i);
        grad[i] = fs_alloc_zero(64 * 64, sizeof(float));
        leaf[i] = fs_tape_leaf(&node[i], formula_2d(&n.c, name, 64, 64), grad[i]);
        levels[i] = &leaf[i];
    }
    check_gradients(&n, fs_region_encoder_forward(&n.c, &m, levels, boxes, 2), 2 * 4 + 5 * 3 + 2 * 4 + 12);
    for (int i = 0; i < 4; i++) {
        snprintf(name, sizeof name, "level%d", i);
        assert_true(compare(&n, name, 2, leaf[i].shape, grad[i]));
        free(grad[i]);
    }
    close_net(&n);
}

static void add_batch_norm(formula_weights *w, int64_t n, const char *name) {
    add_norm(w, n, name);
    add_1d(w, n, "%s.running_mean", name);
    add_1d(w, n, "%s.running_var", name);
}

/* Stem of 8, stages of 1, 2, 1 and 1 bottlenecks, three classes. */
static void add_small_resnet(formula_weights *w) {
    static const int64_t blocks[4] = {1, 2, 1, 1};
    char name[64];
    add_4d(w, 8, 3, 7, 7, "conv1.weight");
    add_batch_norm(w, 8, "bn1");
    for (int64_t s = 0, in = 8; s < 4; s++)
        for (int64_t i = 0; i < blocks[s]; i++, in = 32 << s) {
            const int64_t width = 8 << s, to[3] = {width, width, 4 * width}, from[3] = {in, width, width};
            for (int k = 0; k < 3; k++) {
                add_4d(w, to[k], from[k], k == 1 ? 3 : 1, k == 1 ? 3 : 1, "layer%d.%d.conv%d.weight", (int)s + 1, (int)i, k + 1);
                snprintf(name, sizeof name, "layer%d.%d.bn%d", (int)s + 1, (int)i, k + 1);
                add_batch_norm(w, to[k], name);
            }
            if (i > 0) continue;
            add_4d(w, 4 * width, in, 1, 1, "layer%d.0.downsample.0.weight", (int)s + 1);
            snprintf(name, sizeof name, "layer%d.0.downsample.1", (int)s + 1);
            add_batch_norm(w, 4 * width, name);
        }
    add_linear(w, 3, 256, "fc");
}

/* The running statistics are tensors of the list, too: their memory is what the batch norms write. */
static void resnet_in_training(void **state) {
    (void)state;
    net n;
    fs_error err = {0};
    fs_resnet m;
    open_net(&n, "resnet", NULL);
    add_small_resnet(&n.formulas);
    if (fs_resnet_bind(&m, &n.source, "", &err)) fail_msg("%s", err.message);
    const fs_tensor *logits = fs_resnet_forward_train(&n.c, &m, formula(&n.c, "input", 4, (const int64_t[]){5, 3, 61, 75}));
    assert_ok(&n.c);
    size_t statistics = 0;
    for (size_t i = 0; i < n.params.count; i++) {
        if (!strstr(n.params.list[i]->name, "running_")) continue;
        char name[128];
        snprintf(name, sizeof name, "resnet/%s", n.params.list[i]->name);
        assert_close(&n.params.list[i]->tensor, golden(n.goldens, name), 1e-5, name);
        n.params.list[i]->count = 0; /* compared, and without gradient */
        statistics++;
    }
    assert_int_equal(statistics, 2 * 20);
    check_gradients(&n, logits, 62);
    fs_resnet_unbind(&m);
    close_net(&n);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(clip), cmocka_unit_test(sam_encoder), cmocka_unit_test(sam_decoder), cmocka_unit_test(region_encoder),
                                       cmocka_unit_test(resnet_in_training)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
