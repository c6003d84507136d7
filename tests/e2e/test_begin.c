/* New models that begin with what others know (src/train/warm.c): which tensors are taken, a stem for twice the pixels, SAM's encoder and CLIP's tower
 * from each other, more blocks than the other has. What may be taken is looked at number by number; that it still means something, by what CLIP says of a picture. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/scratch.h"
#include "train/trainee.h"

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

static int make_folder(void **state) {
    char *dir = strdup("/tmp/fs-begin-XXXXXX");
    *state = dir;
    return !dir || !mkdtemp(dir);
}

static int remove_folder(void **state) {
    nftw(*state, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return 0;
}

/* A new model in dir/NAME: pictures of 32 x 32 or 64 x 64, in both 2 x 2 patches; SAM of so many blocks, CLIP of one more, of which the last is not run, and
 * so many residual blocks in the stem. -> its folder, the caller's */
static char *deep_model(const char *dir, const char *name, int step, int depth, int blocks, uint64_t seed) {
    char *out = fs_format("%s/%s", dir, name), *config = fs_format("%s/%s.json", dir, name);
    char *text = fs_format("{\"name\": \"begin\", \"tokenizer\": \"" FS_TINY_DIR "/DTE-FDM/tokenizer.model\", \"region_encoder\": false,"
                           "\"dte_fdm\": {\"hidden_size\": 16, \"intermediate_size\": 32, \"num_hidden_layers\": 1, \"num_attention_heads\": 2},"
                           "\"mflm\": {\"hidden_size\": 16, \"intermediate_size\": 32, \"num_hidden_layers\": 1, \"num_attention_heads\": 2},"
                           "\"clip\": {\"hidden_size\": 32, \"intermediate_size\": 128, \"num_hidden_layers\": %d, \"num_attention_heads\": 2, \"image_size\": %d,"
                           "\"patch_size\": %d, \"hidden_act\": \"gelu\", \"stem\": 4, \"stem_step\": %d, \"stem_blocks\": %d, \"residual\": true},"
                           "\"sam\": {\"embed_dim\": 32, \"depth\": %d, \"num_heads\": 2, \"image_size\": %d, \"patch_size\": %d, \"window_size\": 2, \"global_every\": 1,"
                           "\"out_chans\": 32, \"decoder_mlp\": 64, \"stem\": 4, \"stem_step\": %d, \"stem_blocks\": %d, \"residual\": true}, \"dtg\": {\"width\": 8}}",
                           depth + 1, 4 * step, 2 * step, step, blocks, depth, 4 * step, 2 * step, step, blocks);
    const fs_options opt = fs_options_defaults();
    fs_error err = {0};
    assert_true(out && config && text);
    if (fs_write_file(config, text, strlen(text), &err) || fs_scratch_create(config, out, seed, &opt, &err)) fail_msg("%s", err.message);
    free(config);
    free(text);
    return out;
}

static char *new_model(const char *dir, const char *name, int step, uint64_t seed) { return deep_model(dir, name, step, 2, 0, seed); }

static fs_train_options options_of(fs_recipe recipe, const char *model) {
    fs_train_options o = fs_train_options_defaults(recipe);
    o.model_dir = model;
    o.all_weights = true;
    o.base.threads = 1;
    return o;
}

static void open_or_fail(fs_trainee *t, const fs_train_options *o) {
    fs_error err = {0};
    if (fs_trainee_open(t, o, &err)) fail_msg("%s", err.message);
}

static void widened(void **state) {
    char *small = new_model(*state, "small", 8, 1), *large = new_model(*state, "large", 16, 2);
    const fs_train_options from = options_of(FS_RECIPE_MFLM, small);
    fs_train_options to = options_of(FS_RECIPE_MFLM, large);
    fs_trainee a, b;
    size_t stems = 0;
    to.begin_with = small;
    open_or_fail(&a, &from);
    open_or_fail(&b, &to);
    assert_int_equal(a.params.count, b.params.count);
    assert_true(a.params.count > 100);
    for (size_t i = 0; i < b.params.count; i++) {
        const fs_param *p = b.params.list[i], *q = fs_params_find(&a.params, p->name);
        assert_non_null(q);
        if (p->count == q->count) {
            assert_memory_equal(p->data, q->data, (size_t)p->count * sizeof *p->data);
            continue;
        }
        stems++;
        assert_non_null(strstr(p->name, "stem.1.conv.weight"));
        assert_int_equal(p->count * 9, q->count * 16);
        for (int64_t k = 0; k < p->count; k++) {
            const int64_t y = k / 4 % 4, x = k % 4;
            assert_true(p->data[k] == (y < 3 && x < 3 ? q->data[k / 16 * 9 + y * 3 + x] : 0));
        }
    }
    assert_int_equal(stems, 2); /* CLIP's and SAM's */
    fs_trainee_close(&a);
    fs_trainee_close(&b);
    free(small);
    free(large);
}

/* What the patches of CLIP's tower are, [4, 32], for a picture by formula. */
static void look(const fs_trainee *t, float *out) {
    fs_exec c;
    assert_int_equal(fs_exec_init(&c, FS_DTYPE_F32, 1, NULL, NULL), FS_OK);
    const int64_t side = t->parts.clip->config.image_size;
    fs_tensor *x = fs_new_3d(&c, 3, side, side);
    fs_rng r = fs_rng_seed(5);
    for (int64_t i = 0; i < fs_tensor_count(x); i++) fs_f32(x)[i] = (float)(2 * fs_rng_uniform(&r) - 1);
    const fs_tensor *y = fs_clip_forward(&c, t->parts.clip, x, t->parts.config->select_layer, NULL);
    assert_true(y && fs_tensor_count(y) == 4 * 32);
    memcpy(out, fs_f32(y), 4 * 32 * sizeof *out);
    fs_exec_end(&c);
}

static double distance(const float *a, const float *b) {
    double sum = 0, all = 0;
    for (int i = 0; i < 4 * 32; i++) sum += pow((double)a[i] - (double)b[i], 2), all += pow((double)b[i], 2);
    return sqrt(sum / all);
}

/* The model in `dir`, in which CLIP's first norm and the residual blocks of its stem are still those of a new one, with some that have learnt, in dir-taught.
 * -> its folder; frees dir */
static char *as_if_taught(char *dir) {
    const fs_train_options o = options_of(FS_RECIPE_MFLM, dir);
    char *made = fs_format("%s-taught", dir);
    fs_error err = {0};
    fs_trainee t;
    open_or_fail(&t, &o);
    fs_param *w = fs_params_find(&t.params, "vision_model.pre_layrnorm.weight"), *b = fs_params_find(&t.params, "vision_model.pre_layrnorm.bias");
    assert_true(w && b);
    for (int64_t i = 0; i < w->count; i++) {
        w->data[i] = (i % 5 ? 0.3f : -0.3f) * (float)(i % 7 + 1);
        b->data[i] = 0.05f * (float)(i % 11) - 0.2f;
    }
    for (size_t i = 0; i < t.params.count; i++) {
        const fs_param *p = t.params.list[i];
        for (int64_t k = 0; k < p->count && strncmp(p->name, "vision_model.", 13) == 0 && strstr(p->name, ".conv2."); k++) p->data[k] = 0.02f * (float)(k % 13) - 0.1f;
    }
    if (fs_trainee_write_bundle(&t, made, &err)) fail_msg("%s", err.message);
    fs_trainee_close(&t);
    free(dir);
    return made;
}

/* CLIP -> SAM -> another CLIP. The norm's division is lost on the way, the mean of each embedding is what the norm takes away anyhow. */
static void there_and_back(void **state) {
    char *one = as_if_taught(deep_model(*state, "one", 8, 2, 1, 3)), *two = deep_model(*state, "two", 8, 2, 1, 4);
    fs_train_options sam = options_of(FS_RECIPE_MFLM, one), clip = options_of(FS_RECIPE_DTE_FDM, two);
    fs_trainee a, b, c;
    float first[4 * 32], fresh[4 * 32], last[4 * 32];
    fs_error err = {0};
    open_or_fail(&b, &clip);
    look(&b, fresh);
    sam.sam_from_clip = true;
    open_or_fail(&a, &sam);
    look(&a, first);
    /* written as a bundle, since that is what a model begins with; without what SAM knows of CLIP, lest it be taken from there */
    char *made = fs_format("%s/made", (const char *)*state);
    float **kept = calloc(a.params.count, sizeof *kept);
    assert_non_null(kept);
    for (size_t i = 0; i < a.params.count; i++) {
        fs_param *p = a.params.list[i];
        if (strncmp(p->name, "vision_model.", 13) != 0 || strstr(p->name, "pre_layrnorm") || strstr(p->name, "class_embedding")) continue;
        assert_non_null(kept[i] = malloc((size_t)p->count * sizeof *p->data));
        memcpy(kept[i], p->data, (size_t)p->count * sizeof *p->data);
        const int64_t own = strstr(p->name, "position_embedding") ? 32 : 0; /* the class token's */
        memset(p->data + own, 0, (size_t)(p->count - own) * sizeof *p->data);
    }
    if (fs_trainee_write_bundle(&a, made, &err)) fail_msg("%s", err.message);
    for (size_t i = 0; i < a.params.count; i++) {
        if (kept[i]) memcpy(a.params.list[i]->data, kept[i], (size_t)a.params.list[i]->count * sizeof(float));
        free(kept[i]);
    }
    free(kept);
    clip.begin_with = made;
    clip.clip_from_sam = true;
    open_or_fail(&c, &clip);
    look(&c, last);
    for (size_t i = 0; i < c.params.count; i++) { /* all of CLIP is the first one's again; nothing else of this stage is */
        const fs_param *p = c.params.list[i], *q = fs_params_find(&a.params, p->name);
        if (strncmp(p->name, "vision_model.", 13) != 0) continue;
        assert_non_null(q);
        const bool folded = strstr(p->name, "patch_embedding") || strstr(p->name, "position_embedding");
        for (int64_t k = 0; k < p->count && !folded; k++) assert_true(p->data[k] == q->data[k]);
    }
    if (!(distance(last, first) < 1e-4)) fail_msg("CLIP came back %g away from itself", distance(last, first));
    assert_true(distance(fresh, first) > 0.1);
    size_t own = 0; /* of stage 1, whose language model has layers of the same names as stage 2's */
    for (size_t i = 0; i < c.params.count; i++) {
        const fs_param *p = c.params.list[i], *q = fs_params_find(&b.params, p->name);
        if (strncmp(p->name, "vision_model.", 13) == 0) continue;
        assert_non_null(q);
        assert_memory_equal(p->data, q->data, (size_t)p->count * sizeof *p->data);
        own++;
    }
    assert_true(own > 10);
    fs_trainee_close(&a);
    fs_trainee_close(&b);
    fs_trainee_close(&c);
    free(one);
    free(two);
    free(made);
}

/* What SAM's encoder makes of a picture by formula, [32, 2, 2]. */
static void look_with_sam(const fs_trainee *t, float *out) {
    fs_exec c;
    assert_int_equal(fs_exec_init(&c, FS_DTYPE_F32, 1, NULL, NULL), FS_OK);
    const int64_t side = t->parts.sam->image_size;
    fs_tensor *x = fs_new_3d(&c, 3, side, side);
    fs_rng r = fs_rng_seed(6);
    for (int64_t i = 0; i < fs_tensor_count(x); i++) fs_f32(x)[i] = (float)(2 * fs_rng_uniform(&r) - 1);
    const fs_tensor *y = fs_sam_encoder_forward(&c, t->parts.sam, x, NULL);
    if (!y) fail_msg("%s", c.error.message);
    assert_int_equal(fs_tensor_count(y), 4 * 32);
    memcpy(out, fs_f32(y), 4 * 32 * sizeof *out);
    fs_exec_end(&c);
}

/* Two layers more and a residual block behind each of the stem's last convolutions: the same answers to begin with, and no weights that cannot learn. */
static void deeper(void **state) {
    char *few = deep_model(*state, "few", 8, 2, 0, 5), *many = deep_model(*state, "many", 8, 4, 2, 6);
    const fs_train_options from = options_of(FS_RECIPE_MFLM, few);
    fs_train_options to = options_of(FS_RECIPE_MFLM, many);
    fs_trainee a, b, c;
    float wanted[4 * 32], found[4 * 32], fresh[4 * 32];
    open_or_fail(&c, &to);
    look(&c, fresh);
    fs_trainee_close(&c);
    to.begin_with = few;
    open_or_fail(&a, &from);
    open_or_fail(&b, &to);
    assert_int_equal(b.parts.sam->depth, 4);
    assert_int_equal(b.parts.sam->stem.n_blocks[1], 0);
    assert_int_equal(b.parts.sam->stem.n_blocks[3], 2);
    look(&a, wanted), look(&b, found);
    assert_true(distance(found, wanted) < 1e-6);
    assert_true(distance(fresh, wanted) > 0.1);
    look_with_sam(&a, wanted), look_with_sam(&b, found);
    assert_true(distance(found, wanted) < 1e-6);
    /* only what ends a new branch is zero: were what leads there zero as well, no gradient would ever reach either */
    size_t zeros = 0, others = 0;
    for (size_t i = 0; i < b.params.count; i++) {
        const fs_param *p = b.params.list[i];
        const bool last = strstr(p->name, ".conv2.") || strstr(p->name, ".proj.") || strstr(p->name, ".lin2.") || strstr(p->name, ".out_proj.") || strstr(p->name, ".fc2.");
        bool zero = true;
        if (fs_params_find(&a.params, p->name) || !strstr(p->name, ".weight")) continue;
        for (int64_t k = 0; k < p->count; k++) zero = zero && p->data[k] == 0;
        assert_int_equal(zero, last);
        zeros += zero, others += !zero;
    }
    assert_int_equal(zeros, 8 + 8); /* two of SAM's blocks and two of CLIP's layers, each with two branches; four blocks in each stem */
    assert_true(others > zeros);
    fs_trainee_close(&a);
    fs_trainee_close(&b);
    free(few);
    free(many);
}

static void refused(void **state) {
    char *small = new_model(*state, "s", 8, 1), *large = new_model(*state, "l", 16, 1);
    fs_train_options o = options_of(FS_RECIPE_DTE_FDM, large);
    fs_trainee t;
    fs_error err = {0};
    o.begin_with = small;
    o.clip_from_sam = true; /* SAM of another size of patches */
    assert_int_equal(fs_trainee_open(&t, &o, &err), FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "sizes differ"));
    char *blocks = deep_model(*state, "b", 8, 2, 1, 1);
    o.model_dir = blocks; /* SAM without the residual blocks that CLIP's stem has */
    assert_int_equal(fs_trainee_open(&t, &o, &err), FS_E_MISMATCH);
    assert_non_null(strstr(err.message, "the stems differ"));
    o.model_dir = small;
    o.freeze = "clip";
    assert_int_equal(fs_trainee_open(&t, &o, &err), FS_E_USAGE);
    assert_non_null(strstr(err.message, "not trained"));
    o.freeze = "clip,lm";
    o.clip_from_sam = false;
    o.begin_with = "/nonexistent";
    assert_true(fs_trainee_open(&t, &o, &err) != FS_OK);
    free(small);
    free(large);
    free(blocks);
}

int main(void) {
#define BEGIN_TEST(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
    const struct CMUnitTest tests[] = {BEGIN_TEST(widened), BEGIN_TEST(there_and_back), BEGIN_TEST(deeper), BEGIN_TEST(refused)};
    return cmocka_run_group_tests_name("begin", tests, NULL, NULL);
}
