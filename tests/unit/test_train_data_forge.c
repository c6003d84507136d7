/* Samples forged while training: the same for the same use, another for each use, photos of training and validation apart, and what each
 * recipe is given. The texts' words are read from the ids back. */
#include "forge_support.h"

#include <math.h>

#include <jansson.h>

#include "data/mask_words.h"
#include "train/data.h"

enum { POSITIONS = 9, SIDE = 96 };
static const char *const positions[POSITIONS] = {"upper left",   "upper middle", "upper right",  "middle left", "center",
                                                 "middle right", "lower left",   "lower middle", "lower right"};

typedef struct world {
    char *dir;
    fs_tokenizer *one, *two; /* of stage 1 and 2 */
} world;

static int setup(void **state) {
    static world w;
    w.dir = work_folder();
    make_sources(w.dir);
    ok(fs_tokenizer_open(FS_TINY_DIR "/DTE-FDM", FS_RULES_437, &w.one, &err));
    ok(fs_tokenizer_open(FS_TINY_DIR "/MFLM", FS_RULES_428, &w.two, &err));
    *state = &w;
    return 0;
}

static int teardown(void **state) {
    world *w = *state;
    fs_tokenizer_free(w->one), fs_tokenizer_free(w->two);
    remove_folder(w->dir);
    return 0;
}

static fs_forged_options options(const world *w) {
    fs_forged_options o = fs_forged_options_defaults();
    o.photos = w->dir;
    o.count = 12;
    o.forge.seed = 5;
    o.forge.size_min = o.forge.size_max = SIDE;
    o.forge.val = 0.4F, o.forge.test = 0;
    return o;
}

static fs_segm_options segm_options(const world *w, double dropout) {
    fs_segm_options o = fs_segm_options_defaults();
    o.tokenizer = w->two;
    o.clip_size = 28, o.sam_size = 64;
    o.text_dropout = dropout;
    return o;
}

/* The ids' text, the picture left out. */
static char *text_of(const fs_tokenizer *t, const fs_sample *s, bool labelled) {
    int32_t *ids = fs_alloc(s->ids.count, sizeof *ids);
    char *text;
    size_t n = 0;
    for (size_t i = 0; i < s->ids.count; i++)
        if (s->ids.data[i] != FS_IMAGE_TOKEN && (!labelled || s->labels[i] >= 0)) ids[n++] = s->ids.data[i];
    ok(fs_tokenizer_decode(t, ids, n, false, &text, &err));
    free(ids);
    return text;
}

static bool says_where(const char *text) {
    for (int i = 0; i < POSITIONS; i++)
        if (strstr(text, positions[i])) return true;
    return false;
}

static void test_conversations(void **state) {
    const world *w = *state;
    const fs_forged_options f = options(w);
    fs_conversation_options o = fs_conversation_options_defaults();
    fs_samples *s;
    int tampered = 0, authentic = 0;
    o.tokenizer = w->one;
    o.system = FS_SYSTEM_HUMAN;
    o.clip_size = 28;
    ok(fs_samples_forge_conversations(&f, &o, &s, &err));
    assert_int_equal(s->count, 12);
    ok(fs_samples_check(s, FS_BAD_FATAL, NULL, NULL, &err));
    for (int64_t i = 0; i < s->count; i++) {
        fs_sample x;
        ok(s->load(s, i, 0, &x, &err));
        char *answer = text_of(w->one, &x, true), *all = text_of(w->one, &x, false);
        assert_non_null(x.clip);
        assert_null(x.mask);
        /* the question is the one of inference, the answer alone is learnt */
        assert_non_null(strstr(all, fs_prompt_detection_question));
        assert_non_null(strstr(all, "suspected to have been tampered with by"));
        assert_null(strstr(answer, "suspected"));
        if (fs_answer_verdict(answer) == FS_VERDICT_TAMPERED) {
            tampered++;
            assert_true(says_where(answer));
        } else {
            assert_int_equal(fs_answer_verdict(answer), FS_VERDICT_AUTHENTIC);
            authentic++;
        }
        free(answer), free(all);
        fs_sample_free(&x);
    }
    assert_int_equal(tampered, 6); /* the share is exact */
    assert_int_equal(authentic, 6);
    fs_samples_close(s);
}

/* In pairs: even records tampered, odd ones not, in every pass, and both of one photo: their pictures differ in part only. */
static void test_pairs(void **state) {
    const world *w = *state;
    fs_forged_options f = options(w);
    fs_conversation_options o = fs_conversation_options_defaults();
    fs_samples *s;
    f.count = 11;
    f.forge.pairs = true;
    o.tokenizer = w->one;
    o.clip_size = SIDE;
    o.clip_mask = true;
    ok(fs_samples_forge_conversations(&f, &o, &s, &err));
    assert_true(s->pairs);
    assert_int_equal(s->count, 12);
    for (uint64_t pass = 0; pass < 2; pass++)
        for (int64_t i = 0; i < s->count; i += 2) {
            fs_sample x[2], other;
            double apart[2] = {0};
            for (int k = 0; k < 2; k++) {
                ok(s->load(s, i + k, pass, &x[k], &err));
                char *answer = text_of(w->one, &x[k], true);
                assert_int_equal(fs_answer_verdict(answer), k == 0 ? FS_VERDICT_TAMPERED : FS_VERDICT_AUTHENTIC);
                free(answer);
            }
            ok(s->load(s, (i + 3) % s->count, pass, &other, &err));
            for (int64_t k = 0; k < (int64_t)3 * SIDE * SIDE; k++) {
                apart[0] += fabsf(x[0].clip[k] - x[1].clip[k]);
                apart[1] += fabsf(x[0].clip[k] - other.clip[k]);
            }
            assert_true(apart[0] < apart[1] / 2);
            fs_sample_free(&x[0]), fs_sample_free(&x[1]), fs_sample_free(&other);
        }
    fs_samples_close(s);
}

/* With `focus` the tokens of verdict, place and size count more often, and no others; the mask comes as CLIP sees it. */
static void test_what_counts(void **state) {
    const world *w = *state;
    const fs_forged_options f = options(w);
    fs_conversation_options o = fs_conversation_options_defaults();
    fs_samples *s;
    o.tokenizer = w->one;
    o.clip_size = SIDE;
    o.focus = 7;
    o.clip_mask = true;
    ok(fs_samples_forge_conversations(&f, &o, &s, &err));
    for (int64_t i = 0; i < s->count; i++) {
        fs_sample x;
        ok(s->load(s, i, 0, &x, &err));
        int32_t *ids = fs_alloc(x.ids.count, sizeof *ids);
        size_t n = 0;
        for (size_t k = 0; k < x.ids.count; k++) {
            assert_true(x.times[k] == 1 || x.times[k] == 7);
            if (x.times[k] == 7) ids[n++] = x.ids.data[k];
        }
        char *counted, *answer = text_of(w->one, &x, true);
        ok(fs_tokenizer_decode(w->one, ids, n, false, &counted, &err));
        const bool tampered = fs_answer_verdict(answer) == FS_VERDICT_TAMPERED;
        int place, size, marked = 0;
        fs_mask_words_read(answer, &place, &size);
        if (tampered) assert_non_null(strstr(counted, "been"));
        else assert_non_null(strstr(counted, "not"));
        assert_true(strlen(counted) < (tampered ? 60 : 12));
        if (tampered) assert_true(strstr(counted, fs_mask_position_word(place)) && strstr(counted, fs_mask_size_word(size)));
        for (int64_t k = 0; k < SIDE * SIDE; k++) marked += x.clip_mask[k];
        assert_int_equal(marked > 0, tampered);
        free(ids), free(counted), free(answer);
        fs_sample_free(&x);
    }
    fs_samples_close(s);
}

static void test_masks(void **state) {
    const world *w = *state;
    const fs_forged_options f = options(w);
    const fs_segm_options o = segm_options(w, 0);
    fs_samples *s;
    ok(fs_samples_forge_segm(&f, &o, &s, &err));
    for (int64_t i = 0; i < 4; i++) {
        fs_sample x, again, next;
        int64_t marked = 0;
        ok(s->load(s, i, 0, &x, &err));
        ok(s->load(s, i, 0, &again, &err));
        ok(s->load(s, i, 1, &next, &err));
        assert_true(x.width <= SIDE && x.height <= SIDE && (x.width == SIDE || x.height == SIDE));
        for (int64_t k = 0; k < x.width * x.height; k++) {
            assert_true(x.mask[k] <= 1);
            marked += x.mask[k];
        }
        assert_true(marked > 0 && marked < x.width * x.height);
        char *text = text_of(w->two, &x, false);
        assert_true(says_where(text));
        assert_non_null(strstr(text, "[SEG]"));
        free(text);
        /* the same use gives the same, the next pass another picture */
        assert_memory_equal(x.sam, again.sam, 3 * 64 * 64 * sizeof *x.sam);
        assert_memory_equal(x.ids.data, again.ids.data, x.ids.count * sizeof *x.ids.data);
        assert_memory_equal(x.mask, again.mask, (size_t)(x.width * x.height));
        assert_int_not_equal(memcmp(x.sam, next.sam, 3 * 64 * 64 * sizeof *x.sam), 0);
        fs_sample_free(&x), fs_sample_free(&again), fs_sample_free(&next);
    }
    fs_samples_close(s);
}

static void test_dropout(void **state) {
    const world *w = *state;
    const fs_forged_options f = options(w);
    const double shares[3] = {0, 0.5, 1};
    for (int k = 0; k < 3; k++) {
        const fs_segm_options o = segm_options(w, shares[k]);
        fs_samples *s;
        int told = 0;
        ok(fs_samples_forge_segm(&f, &o, &s, &err));
        for (int64_t i = 0; i < 12; i++) {
            fs_sample x;
            ok(s->load(s, i, 0, &x, &err));
            char *text = text_of(w->two, &x, false);
            assert_non_null(strstr(text, "The picture has been tampered with"));
            told += says_where(text);
            free(text);
            fs_sample_free(&x);
        }
        if (k == 1)
            assert_true(told > 0 && told < 12);
        else
            assert_int_equal(told, k == 0 ? 12 : 0);
        fs_samples_close(s);
    }
}

static void test_domains(void **state) {
    const world *w = *state;
    fs_forged_options f = options(w);
    fs_domain_options o = fs_domain_options_defaults();
    fs_samples *s;
    int seen[3] = {0};
    f.count = 40;
    ok(fs_samples_forge_domains(&f, &o, &s, &err));
    for (int64_t i = 0; i < s->count; i++) {
        fs_sample x;
        ok(s->load(s, i, 0, &x, &err));
        assert_non_null(x.dtg);
        assert_in_range(x.domain, 0, 2);
        seen[x.domain]++;
        fs_sample_free(&x);
    }
    assert_true(seen[FS_DOMAIN_AIGC] > 0 && seen[FS_DOMAIN_PHOTOSHOP] > seen[FS_DOMAIN_AIGC] && seen[FS_DOMAIN_DEEPFAKE] == 0);
    fs_samples_close(s);
}

static void test_validation(void **state) {
    const world *w = *state;
    const fs_segm_options o = segm_options(w, 1);
    fs_forged_options f = options(w);
    fs_samples *train, *val;
    fs_sample a, b;
    ok(fs_samples_forge_segm(&f, &o, &train, &err));
    f.split = FS_FORGE_VAL;
    ok(fs_samples_forge_segm(&f, &o, &val, &err));
    ok(train->load(train, 0, 0, &a, &err));
    ok(val->load(val, 0, 0, &b, &err));
    assert_int_not_equal(memcmp(a.sam, b.sam, 3 * 64 * 64 * sizeof *a.sam), 0);
    assert_string_equal(val->name(val, 3), "val_000003");
    fs_sample_free(&a), fs_sample_free(&b);
    fs_samples_close(train), fs_samples_close(val);
}

static void test_wrong(void **state) {
    const world *w = *state;
    const fs_segm_options o = segm_options(w, 0);
    fs_segm_options without = o;
    fs_forged_options f = options(w);
    fs_samples *s;
    f.forge.val = 0;
    f.split = FS_FORGE_VAL;
    assert_int_equal(fs_samples_forge_segm(&f, &o, &s, &err), FS_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "split val"));
    assert_null(s);
    f = options(w);
    f.photos = "/nowhere/at/all";
    assert_int_equal(fs_samples_forge_segm(&f, &o, &s, &err), FS_E_NOT_FOUND);
    f = options(w);
    f.count = 0;
    assert_int_equal(fs_samples_forge_segm(&f, &o, &s, &err), FS_E_USAGE);
    f = options(w);
    without.tokenizer = w->one;
    assert_int_equal(fs_samples_forge_segm(&f, &without, &s, &err), FS_E_MISMATCH);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_conversations), cmocka_unit_test(test_pairs), cmocka_unit_test(test_masks), cmocka_unit_test(test_what_counts),
                                       cmocka_unit_test(test_dropout),       cmocka_unit_test(test_domains),
                                       cmocka_unit_test(test_validation),    cmocka_unit_test(test_wrong)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
