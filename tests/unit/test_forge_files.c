/* What fs_forge writes: the same files on any number of threads, a tree that the readers and the checker of this project accept, lists that
 * agree with one another, resuming after a stop and after damage, and refusals. */
#include "forge_support.h"

#include <ftw.h>

#include <jansson.h>

#include "data/mask_words.h"
#include "data/tree.h"
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

static fs_forge_options options(int64_t count) {
    fs_forge_options o = fs_forge_options_defaults();
    o.count = count;
    o.size_min = 96;
    o.size_max = 160;
    o.val = o.test = 0.2f;
    o.threads = 1;
    return o;
}

static fs_status forge(const char *name, const fs_forge_options *o) {
    char *out = join(folder, name);
    const char *list[] = {sources};
    err.message[0] = '\0';
    fs_status status = fs_forge(list, 1, out, o, &err);
    free(out);
    return status;
}

static void expect(const char *name, const fs_forge_options *o, fs_status status, const char *words) {
    assert_int_equal(forge(name, o), status);
    if (!strstr(err.message, words)) fail_msg("\"%s\" lacks \"%s\"", err.message, words);
}

/* A digest of every file's path and bytes below a folder, in order. Returns how many there are. */
typedef struct path_list {
    char *items[4096];
    size_t n;
} path_list;
static path_list paths;
static int add_path(const char *path, const struct stat *st, int kind, struct FTW *ftw) {
    (void)st, (void)ftw;
    if (kind == FTW_F && paths.n < 4096) paths.items[paths.n++] = fs_strdup(path);
    return 0;
}
static int by_text(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}
static size_t digest_tree(const char *name, char hex[65]) {
    char *dir = join(folder, name);
    fs_sha256 s;
    fs_sha256_begin(&s);
    paths.n = 0;
    nftw(dir, add_path, 16, FTW_PHYS);
    qsort(paths.items, paths.n, sizeof *paths.items, by_text);
    for (size_t i = 0; i < paths.n; i++) {
        uint8_t *bytes;
        size_t size;
        ok(fs_read_file(paths.items[i], 1 << 26, &bytes, &size, &err));
        fs_sha256_add(&s, paths.items[i] + strlen(dir), strlen(paths.items[i]) - strlen(dir));
        fs_sha256_add(&s, bytes, size);
        assert_null(strstr(paths.items[i], ".tmp"));
        free(bytes);
        free(paths.items[i]);
    }
    fs_sha256_end(&s, hex);
    free(dir);
    return paths.n;
}

static void same_files_on_any_number_of_threads(void **state) {
    (void)state;
    char first[65], other[65];
    for (int threads = 1; threads <= 4; threads++) {
        fs_forge_options o = options(20);
        o.threads = threads;
        char name[16];
        snprintf(name, sizeof name, "threads%d", threads);
        ok(forge(name, &o));
        assert_true(digest_tree(name, threads == 1 ? first : other) > 60);
        if (threads > 1) assert_string_equal(first, other);
    }
}

static json_t *read_json(const char *name, const char *file) {
    char *dir = join(folder, name), *path = join(dir, file);
    json_t *j = json_load_file(path, 0, NULL);
    if (!j) fail_msg("%s: cannot be read", path);
    free(dir), free(path);
    return j;
}

/* Upstream's tree, read by this project's reader and judged by its checker; every mask has its picture's size and only 0 and 255. */
static void tree_is_readable(void **state) {
    (void)state;
    fs_forge_options o = options(30);
    ok(forge("tree", &o));
    char *out = join(folder, "tree"), *json = NULL;
    fs_data_options data = fs_data_options_defaults();
    fs_dataset d;
    ok(fs_dataset_open(out, &data, &d, &err));
    assert_int_equal(d.count, 30);
    assert_int_equal(d.n_problems, 0);
    size_t tampered = 0;
    for (size_t i = 0; i < d.count; i++) {
        const fs_data_record *r = &d.records[i];
        bool authentic = strstr(d.sets[r->set].name, "_authentic") != NULL;
        assert_int_equal(r->label, authentic ? FS_VERDICT_AUTHENTIC : FS_VERDICT_TAMPERED);
        assert_int_equal(r->mask != NULL, !authentic);
        if (authentic) continue;
        tampered++;
        assert_int_equal(fs_answer_verdict(r->text), FS_VERDICT_TAMPERED);
        fs_image *im, *mask;
        ok(fs_image_load(r->image, NULL, &im, NULL, &err));
        ok(fs_image_load(r->mask, NULL, &mask, NULL, &err));
        assert_true(im->width == mask->width && im->height == mask->height);
        for (int64_t k = 0; k < mask->width * mask->height * 3; k++) assert_true(mask->data[k] == 0 || mask->data[k] == 255);
        fs_image_free(im), fs_image_free(mask);
    }
    assert_int_equal(tampered, 15);
    fs_dataset_free(&d);
    fs_dataset_check_options check = fs_dataset_check_options_defaults();
    size_t errors = 99;
    check.threads = 1;
    ok(fs_dataset_check(out, &check, &json, NULL, &errors, &err));
    assert_int_equal(errors, 0);
    fs_string_free(json);
    /* texts for training and for validation, as named in the recipes */
    data.texts = FS_TEXTS_TRAIN_OUTPUT;
    ok(fs_dataset_open_spec(out, "photoshop|train", &data, &d, &err));
    for (size_t i = 0; i < d.count; i++) assert_non_null(d.records[i].text);
    fs_dataset_free(&d);
    data.texts = FS_TEXTS_VAL_GT;
    ok(fs_dataset_open_spec(out, "photoshop|test", &data, &d, &err));
    fs_dataset_free(&d);
    free(out);
}

/* The conversations: both classes, the question of inference with the domain's sentence, the answer's verdict as the picture's. */
static void conversations_are_readable(void **state) {
    (void)state;
    fs_forge_options o = options(30);
    ok(forge("tree", &o)); /* made already: nothing is done */
    char *out = join(folder, "tree"), *path = join(out, "conversations_train.json");
    fs_data_options data = fs_data_options_defaults();
    fs_dataset d;
    ok(fs_dataset_open_conversations(path, out, &data, &d, &err));
    assert_int_equal(d.count, 18);
    size_t n[3] = {0};
    for (size_t i = 0; i < d.count; i++) {
        const fs_data_record *r = &d.records[i];
        n[r->label]++;
        assert_int_equal(r->n_turns, 2);
        assert_true(r->turns[0].human && !r->turns[1].human);
        char *prompt = fs_format("<image>\n%s%s", fs_prompt_domain[r->domain], fs_prompt_detection_question);
        assert_string_equal(r->turns[0].value, prompt);
        free(prompt);
        assert_int_equal(r->mask != NULL, r->label == FS_VERDICT_TAMPERED);
    }
    assert_true(n[FS_VERDICT_AUTHENTIC] == 9 && n[FS_VERDICT_TAMPERED] == 9);
    fs_dataset_free(&d);
    free(out), free(path);
}

/* manifest.jsonl has a line a picture, with checksums that are the files', and words that are the mask's. */
static void manifest_is_true(void **state) {
    (void)state;
    fs_forge_options o = options(30);
    ok(forge("tree", &o));
    char *out = join(folder, "tree"), *path = join(out, "manifest.jsonl");
    uint8_t *bytes;
    size_t size, lines = 0;
    ok(fs_read_file(path, 1 << 24, &bytes, &size, &err));
    for (char *line = strtok((char *)bytes, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        json_t *r = json_loads(line, 0, NULL), *p = json_object_get(r, "parameters");
        assert_non_null(r);
        char *file = join(out, json_string_value(json_object_get(r, "image"))), hex[65];
        uint8_t *data;
        size_t n;
        ok(fs_read_file(file, 1 << 24, &data, &n, &err));
        fs_sha256_hex(data, n, hex);
        assert_string_equal(hex, json_string_value(json_object_get(r, "image_sha256")));
        free(data), free(file);
        const char *mask = json_string_value(json_object_get(r, "mask"));
        if (mask) {
            fs_image *im;
            file = join(out, mask);
            ok(fs_image_load(file, NULL, &im, NULL, &err));
            uint8_t *grey = malloc((size_t)(im->width * im->height));
            for (int64_t i = 0; i < im->width * im->height; i++) grey[i] = im->data[i * 3];
            fs_mask_words w = fs_mask_words_of(grey, im->width, im->height);
            assert_string_equal(w.position_word, json_string_value(json_object_get(p, "position")));
            assert_string_equal(w.size_word, json_string_value(json_object_get(p, "size")));
            free(grey), fs_image_free(im), free(file);
        }
        json_decref(r);
    }
    assert_int_equal(lines, 30);
    free(bytes), free(path);
    path = join(out, "manifest.csv");
    ok(fs_read_file(path, 1 << 24, &bytes, &size, &err));
    lines = 0;
    for (size_t i = 0; i < size; i++) lines += bytes[i] == '\n';
    assert_int_equal(lines, 31);
    free(bytes), free(path), free(out);
    /* a photo's split follows from its checksum alone, but for one that fills each split that would be empty */
    json_t *settings = read_json("tree", "forge.json"), *list = json_object_get(settings, "sources"), *source;
    size_t i, moved = 0;
    assert_int_equal(json_array_size(list), PHOTOS);
    json_array_foreach(list, i, source) {
        char head[9] = "";
        memcpy(head, json_string_value(json_object_get(source, "sha256")), 8);
        double place = (double)strtoul(head, NULL, 16) / 4294967296.0;
        moved += strcmp(json_string_value(json_object_get(source, "split")), place < 0.2 ? "test" : place < 0.4 ? "val" : "train") != 0;
    }
    assert_true(moved <= 1);
    json_decref(settings);
}

typedef struct stopper {
    int left;
} stopper;
static bool stop_soon(void *user) {
    return --((stopper *)user)->left < 0;
}

/* Stopped in the middle, then damaged: the same call makes what is missing, and the folder is what an undisturbed run makes. */
static void goes_on(void **state) {
    (void)state;
    char want[65], got[65];
    fs_forge_options o = options(24);
    ok(forge("whole", &o));
    digest_tree("whole", want);
    stopper s = {PHOTOS + 7};
    o.callbacks = (fs_callbacks){.user_data = &s, .cancel = stop_soon};
    expect("stopped", &o, FS_E_CANCELLED, "goes on");
    char *out = join(folder, "stopped"), *list = join(out, "manifest.csv");
    assert_false(fs_path_exists(list)); /* no list of half a set */
    size_t some = digest_tree("stopped", got);
    assert_true(some > 8 && some < 40);
    o.callbacks = (fs_callbacks){0};
    ok(forge("stopped", &o));
    digest_tree("stopped", got);
    assert_string_equal(want, got);
    /* a picture that is gone, a record that is cut, a mask that is cut */
    json_t *r = read_json("stopped", "records/train_000001.json");
    char *image = join(out, json_string_value(json_object_get(r, "image"))), *record = join(out, "records/train_000002.json");
    assert_int_equal(unlink(image), 0);
    assert_int_equal(truncate(record, 40), 0);
    json_decref(r);
    r = read_json("stopped", "records/val_000000.json");
    for (int i = 0; i < 4 && json_is_null(json_object_get(r, "mask")); i++) {
        char name[40];
        json_decref(r);
        snprintf(name, sizeof name, "records/val_%06d.json", i + 1);
        r = read_json("stopped", name);
    }
    char *mask = join(out, json_string_value(json_object_get(r, "mask")));
    assert_int_equal(truncate(mask, 30), 0);
    json_decref(r);
    ok(forge("stopped", &o));
    digest_tree("stopped", got);
    assert_string_equal(want, got);
    free(image), free(record), free(mask), free(list), free(out);
}

/* More pictures with the same settings: the first ones stay as they are. */
static void grows(void **state) {
    (void)state;
    char a[65], b[65];
    fs_forge_options o = options(10);
    ok(forge("grown", &o));
    o.count = 26;
    ok(forge("grown", &o));
    ok(forge("at_once", &o));
    digest_tree("grown", a);
    digest_tree("at_once", b);
    assert_string_equal(a, b);
    o.count = 9;
    expect("grown", &o, FS_E_USAGE, "--count 26");
    o.overwrite = true;
    ok(forge("grown", &o));
    o.overwrite = false;
    ok(forge("few", &o));
    digest_tree("grown", a);
    digest_tree("few", b);
    assert_string_equal(a, b);
}

static void refuses(void **state) {
    (void)state;
    fs_forge_options o = options(0);
    expect("new", &o, FS_E_USAGE, "--count: 0");
    o = options(4);
    ok(forge("mine", &o));
    char before[65], after[65];
    digest_tree("mine", before);
    o.seed = 1;
    expect("mine", &o, FS_E_USAGE, "other settings (seed)");
    o = options(4);
    o.size_max = 170;
    expect("mine", &o, FS_E_USAGE, "other settings (size)");
    o = options(4);
    o.weight[FS_FORGE_BLUR] = 9;
    expect("mine", &o, FS_E_USAGE, "other settings (types)");
    digest_tree("mine", after);
    assert_string_equal(before, after); /* and nothing was touched */
    o.overwrite = true;
    char *dir = join(folder, "mine"), *own = join(dir, "photoshop/notes.txt");
    ok(fs_write_file(own, "mine", 4, &err));
    ok(forge("mine", &o));
    assert_true(fs_path_exists(own)); /* what forge did not write stays */
    digest_tree("mine", after);
    assert_string_not_equal(before, after);
    free(own), free(dir);
    dir = join(folder, "full");
    ok(fs_make_dirs(dir, &err));
    put_text(dir, "a.txt", "something");
    o = options(4);
    expect("full", &o, FS_E_USAGE, "not made by forge");
    own = join(dir, "a.txt");
    expect("full/a.txt", &o, FS_E_USAGE, "a.txt");
    free(own), free(dir);
    o.texts_file = "/nowhere/texts.json";
    expect("other", &o, FS_E_NOT_FOUND, "texts.json");
    dir = join(folder, "other");
    assert_false(fs_path_exists(dir));
    free(dir);
}

/* A folder's records are untrusted: a path that leads out of it is not followed. */
static void hostile_records(void **state) {
    (void)state;
    fs_forge_options o = options(4);
    char *outside = join(folder, "outside.txt"), *dir = join(folder, "hostile"), *records = join(dir, "records");
    ok(fs_write_file(outside, "keep", 4, &err));
    ok(forge("hostile", &o));
    put_text(records, "train_000000.json",
             "{\"split\": \"train\", \"index\": 0, \"image\": \"../outside.txt\", \"image_bytes\": 4, \"mask\": null, \"question\": \"\", "
             "\"answer\": \"\", \"type\": \"splice\", \"parameters\": {}}");
    o.seed = 5;
    o.overwrite = true;
    ok(forge("hostile", &o));
    assert_true(fs_path_exists(outside));
    put_text(records, "train_000000.json", "[[[[");
    ok(forge("hostile", &o));
    json_t *r = read_json("hostile", "records/train_000000.json");
    assert_true(json_is_object(r));
    json_decref(r);
    free(outside), free(records), free(dir);
}

static void png_format(void **state) {
    (void)state;
    fs_forge_options o = options(8);
    o.format = FS_FORGE_PNG;
    o.authentic = 0;
    ok(forge("png", &o));
    json_t *r = read_json("png", "records/train_000000.json");
    const char *image = json_string_value(json_object_get(r, "image"));
    assert_non_null(strstr(image, ".png"));
    json_decref(r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_files_on_any_number_of_threads),
        cmocka_unit_test(tree_is_readable),
        cmocka_unit_test(conversations_are_readable),
        cmocka_unit_test(manifest_is_true),
        cmocka_unit_test(goes_on),
        cmocka_unit_test(grows),
        cmocka_unit_test(refuses),
        cmocka_unit_test(hostile_records),
        cmocka_unit_test(png_format),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
