/* Forged pictures in memory: the same bytes on any number of threads, masks that are what changed, texts that say what the mask says, both
 * classes treated alike, splits that share no photo, and what is said about bad input. */
#include "forge_support.h"

#include <pthread.h>

#include <jansson.h>

#include "data/mask_words.h"
#include "text/text.h"

static char *folder, *sources;

static int set_up(void **state) {
    (void)state;
    folder = work_folder();
    sources = join(folder, "photos");
    make_sources(sources);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    free(sources);
    remove_folder(folder);
    return 0;
}

static fs_forge_options options_of(fs_forge_type type) {
    fs_forge_options o = fs_forge_options_defaults();
    o.size_min = 128;
    o.size_max = 224;
    o.authentic = 0;
    o.threads = 1;
    if (type) {
        memset(o.weight, 0, sizeof o.weight);
        o.weight[type] = 1;
    }
    return o;
}

static fs_forger *open_with(const fs_forge_options *o) {
    fs_forger *f = NULL;
    const char *list[] = {sources};
    ok(fs_forge_open(list, 1, o, &f, &err));
    return f;
}

static void digest_of(const fs_forge_record *r, char hex[65]) {
    fs_sha256 s;
    fs_sha256_begin(&s);
    fs_sha256_add(&s, r->rgb, (size_t)(r->width * r->height) * 3);
    fs_sha256_add(&s, r->mask, (size_t)(r->width * r->height));
    fs_sha256_add(&s, r->file, r->file_size);
    fs_sha256_add(&s, r->answer, strlen(r->answer));
    fs_sha256_add(&s, r->parameters, strlen(r->parameters));
    fs_sha256_end(&s, hex);
}

enum { RECORDS = 24 };
typedef struct worker {
    fs_forger *f;
    int first, step;
    char (*digests)[65];
    bool failed;
} worker;

static void *make_some(void *user) {
    worker *w = user;
    for (int i = w->first; i < RECORDS; i += w->step) {
        fs_forge_record r;
        fs_error e;
        if (fs_forge_make(w->f, FS_FORGE_TRAIN, (uint64_t)i, &r, &e)) {
            w->failed = true;
            continue;
        }
        digest_of(&r, w->digests[i]);
        fs_forge_record_clear(&r);
    }
    return NULL;
}

/* One to four threads on one handle; and with next to no memory for the photos, so that they are decoded again and again. */
static void same_on_any_number_of_threads(void **state) {
    (void)state;
    static char first[RECORDS][65], digests[RECORDS][65];
    for (int threads = 1; threads <= 5; threads++) {
        fs_forge_options o = options_of(FS_FORGE_AUTHENTIC);
        o.authentic = 0.4f;
        if (threads == 5) o.cache_bytes = 1;
        fs_forger *f = open_with(&o);
        int n = threads == 5 ? 3 : threads;
        pthread_t id[4];
        worker w[4];
        for (int i = 0; i < n; i++) {
            w[i] = (worker){f, i, n, threads == 1 ? first : digests, false};
            assert_int_equal(pthread_create(&id[i], NULL, make_some, &w[i]), 0);
        }
        for (int i = 0; i < n; i++) {
            pthread_join(id[i], NULL);
            assert_false(w[i].failed);
        }
        for (int i = 0; threads > 1 && i < RECORDS; i++) assert_string_equal(first[i], digests[i]);
        fs_forge_close(f);
    }
    for (int i = 1; i < RECORDS; i++) assert_string_not_equal(first[i], first[i - 1]);
}

static void another_seed_is_another_set(void **state) {
    (void)state;
    fs_forge_options o = options_of(FS_FORGE_AUTHENTIC);
    char a[65], b[65];
    for (int seed = 0; seed < 2; seed++) {
        o.seed = (uint64_t)seed;
        fs_forger *f = open_with(&o);
        fs_forge_record r;
        ok(fs_forge_make(f, FS_FORGE_TRAIN, 0, &r, &err));
        digest_of(&r, seed ? b : a);
        fs_forge_record_clear(&r);
        fs_forge_close(f);
    }
    assert_string_not_equal(a, b);
}

/* Before post-processing no pixel outside of the mask changed, and at least 70 % of those inside did (a fill or a copy may meet the old
 * value by chance). */
static void masks_are_what_changed(void **state) {
    (void)state;
    for (int type = 1; type < FS_FORGE_TYPES; type++) {
        fs_forge_options o = options_of((fs_forge_type)type);
        fs_forger *f = open_with(&o);
        for (uint64_t i = 0; i < 16; i++) {
            fs_forge_record r;
            ok(fs_forge_make_traced(f, FS_FORGE_TRAIN, i, &r, &err));
            assert_int_equal(r.type, type);
            int64_t inside = 0, changed = 0, outside = 0;
            for (int64_t k = 0; k < r.before_width * r.before_height; k++) {
                bool differs = memcmp(r.before + k * 3, r.after + k * 3, 3) != 0;
                assert_true(r.edit_mask[k] == 0 || r.edit_mask[k] == 255);
                inside += r.edit_mask[k] == 255;
                changed += differs && r.edit_mask[k];
                outside += differs && !r.edit_mask[k];
            }
            assert_int_equal(outside, 0);
            assert_true(inside > 100);
            assert_true((double)changed >= 0.7 * (double)inside);
            fs_forge_record_clear(&r);
        }
        fs_forge_close(f);
    }
}

/* The finished mask lies on the finished picture: with the geometric steps, its place and share of the picture are those before, crops of
 * at most 7 pixels aside. Without the chain both are exactly those of the edit. */
static void masks_follow_the_chain(void **state) {
    (void)state;
    for (int chain = 0; chain < 2; chain++) {
        fs_forge_options o = options_of(FS_FORGE_AUTHENTIC);
        o.no_chain = !chain;
        if (!chain) o.format = FS_FORGE_PNG;
        fs_forger *f = open_with(&o);
        for (uint64_t i = 0; i < 40; i++) {
            fs_forge_record r;
            ok(fs_forge_make_traced(f, FS_FORGE_TRAIN, i, &r, &err));
            assert_in_range(fs_max_i64(r.width, r.height), 128, 224);
            for (int64_t k = 0; k < r.width * r.height; k++) assert_true(r.mask[k] == 0 || r.mask[k] == 255);
            fs_mask_words a = fs_mask_words_of(r.edit_mask, r.before_width, r.before_height),
                          b = fs_mask_words_of(r.mask, r.width, r.height);
            if (chain) { /* 7 of at least 128 pixels a side may be cut, so places move by at most 0.06, shares by a tenth and a border's
                            rounding */
                assert_true(fabs(a.x - b.x) < 0.06 && fabs(a.y - b.y) < 0.06);
                assert_true(fabs(a.area - b.area) < 0.15 * a.area + 0.004);
                assert_non_null(r.file);
            } else {
                assert_int_equal(r.width, r.before_width);
                assert_memory_equal(r.mask, r.edit_mask, (size_t)(r.width * r.height));
                assert_memory_equal(r.rgb, r.after, (size_t)(r.width * r.height) * 3);
                assert_null(r.file);
            }
            fs_forge_record_clear(&r);
        }
        fs_forge_close(f);
    }
}

/* rgb is what a reader of the file sees. */
static void file_holds_the_picture(void **state) {
    (void)state;
    fs_forge_options o = options_of(FS_FORGE_AUTHENTIC);
    o.square = true;
    o.size_min = o.size_max = 160;
    fs_forger *f = open_with(&o);
    for (uint64_t i = 0; i < 12; i++) {
        fs_forge_record r;
        fs_image *im = NULL;
        ok(fs_forge_make(f, FS_FORGE_TRAIN, i, &r, &err));
        ok(fs_image_decode("record", r.file, r.file_size, NULL, &im, NULL, &err));
        assert_int_equal(im->width, 160);
        assert_int_equal(im->height, 160);
        assert_int_equal(r.width, 160);
        assert_memory_equal(im->data, r.rgb, 160 * 160 * 3);
        assert_null(r.before);
        fs_image_free(im);
        fs_forge_record_clear(&r);
    }
    fs_forge_close(f);
}

static json_t *parameters(const fs_forge_record *r) {
    json_t *p = json_loads(r->parameters, 0, NULL);
    assert_non_null(p);
    return p;
}

/* An authentic picture and the tampered one of the same number come from the same part of the same photo and go through the same chain:
 * nothing but the edit tells the classes apart. */
static void classes_are_treated_alike(void **state) {
    (void)state;
    static const char *const same[] = {"source_sha256", "source_part", "first_jpeg", "chain", "steps"};
    fs_forge_options o = options_of(FS_FORGE_AUTHENTIC);
    fs_forger *tampered = open_with(&o);
    o.authentic = 1;
    fs_forger *authentic = open_with(&o);
    int alike = 0;
    for (uint64_t i = 0; i < 60; i++) {
        fs_forge_record a, b;
        ok(fs_forge_make(tampered, FS_FORGE_TRAIN, i, &a, &err));
        ok(fs_forge_make_traced(authentic, FS_FORGE_TRAIN, i, &b, &err));
        assert_int_equal(b.type, FS_FORGE_AUTHENTIC);
        assert_int_equal(a.domain, b.domain);
        assert_string_equal(a.question, b.question);
        json_t *p = parameters(&a), *q = parameters(&b);
        bool equal = true;
        for (size_t k = 0; k < sizeof same / sizeof *same; k++)
            equal = equal && json_equal(json_object_get(p, same[k]), json_object_get(q, same[k]));
        alike += equal; /* a photo in which nothing can be done is left for another one */
        for (int64_t k = 0; k < b.width * b.height; k++) assert_int_equal(b.mask[k], 0);
        assert_memory_equal(b.before, b.after, (size_t)(b.before_width * b.before_height) * 3);
        json_decref(p);
        json_decref(q);
        fs_forge_record_clear(&a);
        fs_forge_record_clear(&b);
    }
    assert_true(alike >= 54); /* nine in ten at least */
    fs_forge_close(tampered);
    fs_forge_close(authentic);
}

/* Mirrored or not, the scene is the same part of the photo, and about half are. */
static void half_are_mirrored(void **state) {
    (void)state;
    fs_forge_options o = options_of(FS_FORGE_AUTHENTIC);
    o.authentic = 1;
    o.no_chain = true;
    o.format = FS_FORGE_PNG;
    fs_forger *straight = open_with(&o);
    o.mirror = true;
    fs_forger *mirrored = open_with(&o);
    int turned = 0;
    for (uint64_t k = 0; k < 24; k++) {
        fs_forge_record a, b;
        ok(fs_forge_make(straight, FS_FORGE_TRAIN, k, &a, &err));
        ok(fs_forge_make(mirrored, FS_FORGE_TRAIN, k, &b, &err));
        json_t *p = parameters(&b);
        const bool is = json_is_true(json_object_get(p, "mirrored")), compressed = json_integer_value(json_object_get(p, "first_jpeg")) > 0;
        json_decref(p);
        assert_true(a.width == b.width && a.height == b.height);
        double apart = 0; /* JPEG and resizing of a mirrored picture are not the mirrored ones */
        for (int64_t y = 0; y < a.height; y++)
            for (int64_t x = 0; x < a.width; x++)
                for (int c = 0; c < 3; c++)
                    apart += abs(a.rgb[(y * a.width + x) * 3 + c] - b.rgb[(y * a.width + (is ? a.width - 1 - x : x)) * 3 + c]);
        assert_true(apart / (double)(3 * a.width * a.height) < (is ? compressed ? 8 : 1 : 1e-9));
        turned += is;
        fs_forge_record_clear(&a);
        fs_forge_record_clear(&b);
    }
    assert_in_range(turned, 6, 18); /* 12 are expected; the seed is fixed */
    fs_forge_close(straight);
    fs_forge_close(mirrored);
}

/* Some pictures come without their chain, the others as they would without it; varied ones are others, of the same size. */
static void some_are_clean_or_varied(void **state) {
    (void)state;
    fs_forge_options o = options_of(FS_FORGE_BLUR);
    fs_forger *plain = open_with(&o);
    o.clean = 0.5f;
    fs_forger *half = open_with(&o);
    o.clean = 0;
    o.vary = true;
    fs_forger *varied = open_with(&o);
    int clean = 0, other = 0;
    for (uint64_t k = 0; k < 24; k++) {
        fs_forge_record a, b, c;
        ok(fs_forge_make(plain, FS_FORGE_TRAIN, k, &a, &err));
        ok(fs_forge_make(half, FS_FORGE_TRAIN, k, &b, &err));
        ok(fs_forge_make(varied, FS_FORGE_TRAIN, k, &c, &err));
        json_t *p = parameters(&b);
        const bool none = strcmp(json_string_value(json_object_get(p, "chain")), "none") == 0;
        json_decref(p);
        const size_t n = (size_t)(3 * a.width * a.height);
        assert_true(a.width == b.width && a.height == b.height && a.width == c.width && a.height == c.height);
        if (none)
            assert_null(b.file);
        else
            assert_memory_equal(a.rgb, b.rgb, n);
        clean += none;
        other += memcmp(a.rgb, c.rgb, n) != 0;
        fs_forge_record_clear(&a), fs_forge_record_clear(&b), fs_forge_record_clear(&c);
    }
    assert_in_range(clean, 6, 18); /* 12 are expected; the seed is fixed */
    assert_int_equal(other, 24);
    fs_forge_close(plain), fs_forge_close(half), fs_forge_close(varied);
}

/* A mirrored scene's objects lie where its pixels went. */
static void objects_are_mirrored_too(void **state) {
    (void)state;
    enum { W = 96, H = 64 };
    uint8_t ids[3 * W * H];
    fs_source_pixels p = {0};
    ok(fs_image_create(W, H, &p.im, &err));
    draw_scene(3, W, H, p.im->data, ids);
    p.labels = calloc((size_t)W * H, sizeof *p.labels);
    assert_non_null(p.labels);
    for (int i = 0; i < W * H; i++) p.labels[i] = (uint16_t)(ids[3 * i] + 256 * ids[3 * i + 1]);
    const fs_source source = {0};
    for (uint64_t seed = 0; seed < 8; seed++) { /* parts of it, and the whole made smaller */
        enum { PW = 40, PH = 24 };
        fs_rng one = fs_rng_seed(seed), two = fs_rng_seed(seed);
        fs_scene straight, mirrored;
        int objects = 0;
        ok(fs_scene_make(&source, &p, PW, PH, false, &one, &straight, &err));
        ok(fs_scene_make(&source, &p, PW, PH, true, &two, &mirrored, &err));
        for (int y = 0; y < PH; y++)
            for (int x = 0; x < PW; x++) {
                assert_int_equal(mirrored.labels[y * PW + PW - 1 - x], straight.labels[y * PW + x]);
                objects += straight.labels[y * PW + x] != straight.labels[y * PW + PW - 1 - x];
            }
        assert_true(objects > 20); /* it is not the same from both sides */
        fs_scene_free(&straight);
        fs_scene_free(&mirrored);
    }
    fs_image_free(p.im);
    free(p.labels);
}

/* Picture 2 k + 1 is what 2 k was before its edit; without a chain, pixel for pixel. */
static void pairs_are_twins(void **state) {
    (void)state;
    fs_forge_options o = options_of(FS_FORGE_AUTHENTIC);
    o.pairs = true;
    o.no_chain = true;
    o.format = FS_FORGE_PNG;
    fs_forger *f = open_with(&o);
    int twins = 0;
    for (uint64_t k = 0; k < 30; k++) {
        fs_forge_record a, b;
        ok(fs_forge_make_traced(f, FS_FORGE_TRAIN, 2 * k, &a, &err));
        ok(fs_forge_make(f, FS_FORGE_TRAIN, 2 * k + 1, &b, &err));
        assert_int_not_equal(a.type, FS_FORGE_AUTHENTIC);
        assert_int_equal(b.type, FS_FORGE_AUTHENTIC);
        assert_int_equal(a.domain, b.domain);
        const bool size = a.width == b.width && a.height == b.height;
        twins += size && memcmp(a.before, b.rgb, (size_t)(b.width * b.height) * 3) == 0; /* a photo in which nothing can be done is left for another one */
        for (int64_t i = 0; i < b.width * b.height; i++) assert_int_equal(b.mask[i], 0);
        fs_forge_record_clear(&a);
        fs_forge_record_clear(&b);
    }
    assert_true(twins >= 27); /* nine in ten at least */
    fs_forge_close(f);
}

/* The share of authentic pictures is kept to one picture over any run of numbers. */
static void shares_are_kept(void **state) {
    (void)state;
    fs_forge_options o = options_of(FS_FORGE_COLOR);
    o.authentic = 0.3f;
    fs_forger *f = open_with(&o);
    int authentic = 0;
    for (uint64_t i = 0; i < 30; i++) {
        fs_forge_record r;
        ok(fs_forge_make(f, FS_FORGE_TRAIN, i, &r, &err));
        authentic += r.type == FS_FORGE_AUTHENTIC;
        fs_forge_record_clear(&r);
    }
    assert_in_range(authentic, 8, 10);
    fs_forge_close(f);
}

/* The answer has the original's form, its verdict is the truth, and its words are those of the finished mask. */
static void texts_say_what_the_mask_says(void **state) {
    (void)state;
    fs_forge_options o = options_of(FS_FORGE_AUTHENTIC);
    o.authentic = 0.25f;
    fs_forger *f = open_with(&o);
    int texts = 0;
    char seen[96][65];
    for (uint64_t i = 0; i < 96; i++) {
        fs_forge_record r;
        ok(fs_forge_make(f, FS_FORGE_TRAIN, i, &r, &err));
        bool tampered = r.type != FS_FORGE_AUTHENTIC;
        assert_int_equal(fs_answer_says_authentic(r.answer), !tampered);
        assert_int_equal(fs_answer_verdict(r.answer), tampered ? FS_VERDICT_TAMPERED : FS_VERDICT_AUTHENTIC);
        assert_int_equal(
            strncmp(r.answer, "1. Whether the picture has been tampered with / Description of the tampered area: The picture has ", 98), 0);
        fs_answer answer;
        ok(fs_answer_parse(r.answer, &answer, &err));
        assert_true(answer.n_basis >= 2 && answer.n_basis <= 5);
        int position, size;
        fs_mask_words_read(answer.area, &position, &size);
        fs_mask_words w = fs_mask_words_of(r.mask, r.width, r.height);
        assert_int_equal(position, w.position);
        assert_int_equal(size, w.size);
        assert_null(strpbrk(r.answer, "[]{}"));
        assert_int_equal(strncmp(r.question, "<image>\nThis is a picture that is suspected to have been tampered with by ", 74), 0);
        assert_non_null(strstr(r.question, r.domain == FS_DOMAIN_AIGC ? "AIGC inpainting. Was this photo" : "Photoshop. Was this photo"));
        if (r.type == FS_FORGE_REMOVAL) assert_int_equal(r.domain, FS_DOMAIN_AIGC);
        char digest[65];
        fs_sha256_hex(r.answer, strlen(r.answer), digest);
        bool again = false;
        for (int k = 0; k < texts; k++) again = again || strcmp(seen[k], digest) == 0;
        if (!again) memcpy(seen[texts++], digest, 65);
        fs_answer_free(&answer);
        fs_forge_record_clear(&r);
    }
    assert_true(texts > 80); /* wording varies */
    fs_forge_close(f);
}

/* Photos and donors of a split belong to it, and no photo to two. */
static void splits_share_no_photo(void **state) {
    (void)state;
    fs_forge_options o = options_of(FS_FORGE_SPLICE);
    o.val = o.test = 0.3f;
    fs_forger *f = open_with(&o);
    char used[3][400][65];
    int n[3] = {0};
    size_t photos = 0;
    for (int s = 0; s < 3; s++) {
        photos += fs_forge_sources(f, (fs_forge_split)s);
        assert_true(fs_forge_sources(f, (fs_forge_split)s) > 0);
        for (uint64_t i = 0; i < 20; i++) {
            fs_forge_record r;
            ok(fs_forge_make(f, (fs_forge_split)s, i, &r, &err));
            json_t *p = parameters(&r);
            const char *source = json_string_value(json_object_get(p, "source_sha256")),
                       *donor = json_string_value(json_object_get(json_object_get(p, "edit"), "donor_sha256"));
            assert_non_null(donor);
            memcpy(used[s][n[s]++], source, 65);
            memcpy(used[s][n[s]++], donor, 65);
            json_decref(p);
            fs_forge_record_clear(&r);
        }
    }
    assert_int_equal(photos, PHOTOS);
    for (int s = 0; s < 3; s++)
        for (int t = 0; t < s; t++)
            for (int i = 0; i < n[s]; i++)
                for (int k = 0; k < n[t]; k++) assert_string_not_equal(used[s][i], used[t][k]);
    fs_forge_close(f);
}

/* Objects are found in all three forms, with the names of segments.csv. */
static void objects_are_used(void **state) {
    (void)state;
    fs_forge_options o = options_of(FS_FORGE_REMOVAL);
    o.val = o.test = 0;
    fs_forger *f = open_with(&o);
    int objects = 0, named = 0;
    for (uint64_t i = 0; i < 60; i++) {
        fs_forge_record r;
        ok(fs_forge_make(f, FS_FORGE_TRAIN, i, &r, &err));
        json_t *p = parameters(&r), *edit = json_object_get(p, "edit");
        objects += strcmp(json_string_value(json_object_get(edit, "region")), "object") == 0;
        const char *what = json_string_value(json_object_get(edit, "what"));
        if (what) {
            assert_true(strcmp(what, "ball") == 0 || strcmp(what, "wall") == 0);
            named++;
        }
        json_decref(p);
        fs_forge_record_clear(&r);
    }
    assert_true(objects >= 12); /* seven of nine photos have some */
    assert_true(named >= 4 && named < objects);
    fs_forge_close(f);
}

static void sets_weights(void **state) {
    (void)state;
    float w[FS_FORGE_TYPES];
    ok(fs_forge_types_parse("splice=3,removal", w, &err));
    assert_true(w[FS_FORGE_SPLICE] == 3 && w[FS_FORGE_REMOVAL] == 1 && w[FS_FORGE_COPY_MOVE] == 0 && w[FS_FORGE_COLOR] == 0);
    static const char *const bad[] = {"", "spliced", "splice=", "splice=x", "authentic", "splice=0", "splice=-1", "splice=1e9,", "copy"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err.message[0] = '\0';
        assert_int_equal(fs_forge_types_parse(bad[i], w, &err), FS_E_USAGE);
        assert_non_null(strstr(err.message, "--types"));
        assert_true(w[FS_FORGE_SPLICE] == 3); /* untouched */
    }
    fs_forge_type t;
    for (int i = 0; i < FS_FORGE_TYPES; i++) {
        assert_true(fs_forge_type_from_name(fs_forge_type_name((fs_forge_type)i), &t));
        assert_int_equal(t, i);
    }
    assert_false(fs_forge_type_from_name("move", &t));
}

static void expect_open(const char *const *list, size_t n, const fs_forge_options *o, fs_status status, const char *words) {
    fs_forger *f = NULL;
    err.message[0] = '\0';
    assert_int_equal(fs_forge_open(list, n, o, &f, &err), status);
    assert_null(f);
    if (!strstr(err.message, words)) fail_msg("\"%s\" lacks \"%s\"", err.message, words);
}

static void bad_sources(void **state) {
    (void)state;
    fs_forge_options o = options_of(FS_FORGE_AUTHENTIC);
    log_lines log = {""};
    o.callbacks = (fs_callbacks){.user_data = &log, .log = keep_log};
    char *dir = join(folder, "odd"), *nothing = join(folder, "nothing"), *broken = join(dir, "broken.jpg"), *tiny = join(dir, "tiny.png"),
         *photo = join(sources, "d/nine.png");
    ok(fs_make_dirs(dir, &err));
    const char *list[3] = {nothing};
    expect_open(list, 1, &o, FS_E_NOT_FOUND, "nothing");
    list[0] = dir;
    expect_open(list, 1, &o, FS_E_NOT_FOUND, "no photo");
    put_text(dir, "broken.jpg", "\xff\xd8\xff\xe0 no picture");
    expect_open(list, 1, &o, FS_E_FORMAT, "broken.jpg");
    /* beside a good photo, bad ones are left out and named; the same photo twice is one */
    uint8_t pixels[40 * 40 * 3] = {0};
    ok(fs_png_write(tiny, pixels, 40, 40, 3, &err));
    log.text[0] = '\0';
    fs_forger *f = NULL;
    list[1] = photo;
    list[2] = photo;
    o.val = o.test = 0;
    ok(fs_forge_open(list, 3, &o, &f, &err));
    assert_int_equal(fs_forge_sources(f, FS_FORGE_TRAIN), 1);
    assert_non_null(strstr(log.text, "left out: "));
    assert_non_null(strstr(log.text, "broken.jpg"));
    assert_non_null(strstr(log.text, "tiny.png: 40x40"));
    fs_forge_record r;
    assert_int_equal(fs_forge_make(f, FS_FORGE_TEST, 0, &r, &err), FS_E_NOT_FOUND);
    ok(fs_forge_make(f, FS_FORGE_TRAIN, 0, &r, &err)); /* one photo alone will do */
    fs_forge_record_clear(&r);
    fs_forge_close(f);
    /* a mask of another size */
    char *mask = join(dir, "nine_mask.png"), *copy = join(dir, "nine.png");
    uint8_t *bytes;
    size_t size;
    ok(fs_read_file(photo, 1 << 24, &bytes, &size, &err));
    ok(fs_write_file(copy, bytes, size, &err));
    ok(fs_png_write(mask, pixels, 40, 40, 1, &err));
    list[0] = copy;
    expect_open(list, 1, &o, FS_E_FORMAT, "40x40, but its photo is 460x276");
    free(bytes), free(mask), free(copy);
    free(dir), free(nothing), free(broken), free(tiny), free(photo);
}

static void bad_options(void **state) {
    (void)state;
    const char *list[] = {sources};
    fs_forge_options o = options_of(FS_FORGE_AUTHENTIC);
    o.size_min = 63;
    expect_open(list, 1, &o, FS_E_USAGE, "64");
    o = options_of(FS_FORGE_AUTHENTIC);
    o.size_max = o.size_min - 1;
    expect_open(list, 1, &o, FS_E_USAGE, "smaller first");
    o = options_of(FS_FORGE_AUTHENTIC);
    o.authentic = NAN;
    expect_open(list, 1, &o, FS_E_USAGE, "shares");
    o.authentic = 0;
    o.val = 0.7f;
    o.test = 0.7f;
    expect_open(list, 1, &o, FS_E_USAGE, "shares");
    o = options_of(FS_FORGE_AUTHENTIC);
    memset(o.weight, 0, sizeof o.weight);
    expect_open(list, 1, &o, FS_E_USAGE, "weight");
}

/* A photo of one colour: no copy-move can be seen in it, and that is said. */
static void nothing_to_do(void **state) {
    (void)state;
    char *path = join(folder, "flat.png");
    uint8_t *pixels = malloc(200 * 200 * 3);
    memset(pixels, 90, 200 * 200 * 3);
    ok(fs_png_write(path, pixels, 200, 200, 3, &err));
    fs_forge_options o = options_of(FS_FORGE_COPY_MOVE);
    o.val = o.test = 0;
    const char *list[] = {path};
    fs_forger *f = NULL;
    ok(fs_forge_open(list, 1, &o, &f, &err));
    fs_forge_record r;
    assert_int_equal(fs_forge_make(f, FS_FORGE_TRAIN, 0, &r, &err), FS_E_FAILED);
    assert_non_null(strstr(err.message, "flat.png"));
    assert_non_null(strstr(err.message, "copy-move"));
    assert_null(r.rgb);
    fs_forge_close(f);
    free(pixels);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_on_any_number_of_threads),
        cmocka_unit_test(another_seed_is_another_set),
        cmocka_unit_test(masks_are_what_changed),
        cmocka_unit_test(masks_follow_the_chain),
        cmocka_unit_test(file_holds_the_picture),
        cmocka_unit_test(classes_are_treated_alike),
        cmocka_unit_test(half_are_mirrored),
        cmocka_unit_test(objects_are_mirrored_too),
        cmocka_unit_test(some_are_clean_or_varied),
        cmocka_unit_test(pairs_are_twins),
        cmocka_unit_test(shares_are_kept),
        cmocka_unit_test(texts_say_what_the_mask_says),
        cmocka_unit_test(splits_share_no_photo),
        cmocka_unit_test(objects_are_used),
        cmocka_unit_test(sets_weights),
        cmocka_unit_test(bad_sources),
        cmocka_unit_test(bad_options),
        cmocka_unit_test(nothing_to_do),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
