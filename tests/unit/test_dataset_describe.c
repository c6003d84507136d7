/* dataset describe, against a service of our own that refuses, stalls, cuts and talks nonsense (chat_server.h). What must hold whatever it
 * does: an answer that came is kept and not asked for again, one that cannot be used does not get into the triplets, the key goes nowhere
 * else. */
#include "unit/chat_server.h"

#include "data/describe.h"

static const char key[] = "verysecretkey";

typedef struct fixture {
    char *dir;
    chat_server *server;
    fs_dataset_describe_options opt;
    size_t asked, kept, failed;
    char log[4096];
    bool cancel;
    size_t cancel_after;
    fs_error err;
} fixture;

static void on_log(void *user, fs_log_level level, const char *line) {
    fixture *x = user;
    (void)level;
    strncat(x->log, line, sizeof x->log - strlen(x->log) - 2);
    strcat(x->log, "\n");
}

static bool on_cancel(void *user) {
    fixture *x = user;
    if (!x->cancel_after) return false;
    pthread_mutex_lock(&x->server->lock);
    const bool stop = x->server->count >= x->cancel_after;
    pthread_mutex_unlock(&x->server->lock);
    return stop;
}

static int setup(void **state) {
    fixture *x = calloc(1, sizeof *x);
    void *dir = NULL;
    if (!x || setup_folder(&dir)) return -1;
    x->dir = dir;
    unsetenv("http_proxy");
    x->server = chat_start();
    x->opt = fs_dataset_describe_options_defaults();
    x->opt.url = x->server->url, x->opt.key = key, x->opt.model = "seer-1";
    x->opt.rpm = 0, x->opt.retry_delay = 0.001, x->opt.retries = 3, x->opt.jobs = 2;
    x->opt.asked = &x->asked, x->opt.kept = &x->kept, x->opt.failed = &x->failed;
    x->opt.callbacks = (fs_callbacks){.user_data = x, .log = on_log, .cancel = on_cancel};
    put_picture(dir, "ps/A_Tp/image/one.png", 64, 48, 1);
    put_picture(dir, "ps/A_Tp/image/two.png", 64, 48, 2);
    put_mask(dir, "ps/A_Tp/mask/one.png", 64, 48, 255, 0);
    put_mask(dir, "ps/A_Tp/mask/two.png", 64, 48, 255, 0);
    put_picture(dir, "deepfake/B_Au/image/three.png", 40, 40, 3);
    *state = x;
    return 0;
}

static int teardown(void **state) {
    fixture *x = *state;
    chat_free(x->server);
    remove_all(x->dir);
    free(x->dir), free(x);
    return 0;
}

static fs_status run(fixture *x) {
    char *text = NULL;
    *x->log = 0;
    x->err = (fs_error){0};
    const fs_status status = fs_dataset_describe(x->dir, &x->opt, &text, &x->err);
    free(text);
    assert_null(strstr(x->err.message, key));
    assert_null(strstr(x->log, key));
    return status;
}

static void expect(fixture *x, fs_status status, size_t asked, size_t kept, size_t failed) {
    const fs_status found = run(x);
    if (found != status || x->asked != asked || x->kept != kept || x->failed != failed)
        fail_msg("status %d, %zu asked, %zu kept, %zu failed in place of %d, %zu, %zu, %zu: %s\n%s", (int)found, x->asked, x->kept,
                 x->failed, (int)status, asked, kept, failed, x->err.message, x->log);
}

/* Tampered pictures alone, one after another, so that the rules hit the first. */
static void only_one(fixture *x) {
    x->opt.jobs = 1;
    char *other = fs_path_join(x->dir, "deepfake");
    remove_all(other);
    free(other);
}

static json_t *load(fixture *x, const char *name) {
    char *path = fs_path_join(x->dir, name);
    json_t *v = json_load_file(path, 0, NULL);
    if (!v) fail_msg("%s is not there, or no JSON", path);
    free(path);
    return v;
}

static const char *at(const json_t *list, size_t i, const char *name) {
    return json_string_value(json_object_get(json_array_get(list, i), name));
}

static void test_triplets(void **state) {
    fixture *x = *state;
    expect(x, FS_OK, 3, 0, 0);
    json_t *lisa = load(x, "ps/A_Tp/lisa_train_output.json"), *gt = load(x, "ps/A_Tp/lisa_train_gt.json"),
           *other = load(x, "deepfake/B_Au/lisa_train_output.json");
    json_t *talk = load(x, "conversations_train.json");
    assert_true(json_equal(lisa, gt));
    assert_int_equal(json_array_size(lisa), 2);
    assert_string_equal(at(lisa, 0, "image"), "one.png");
    assert_string_equal(at(lisa, 0, "outputs"), chat_tampered);
    assert_non_null(strstr(at(lisa, 0, "query"), "Was this photo taken directly"));
    assert_non_null(strstr(at(other, 0, "outputs"),
                           "1. Whether the picture has been tampered with / Description of the tampered area: The picture has not been"));
    assert_null(strstr(at(other, 0, "outputs"), "**"));
    assert_int_equal(json_array_size(talk), 3);
    assert_string_equal(at(talk, 0, "image"), "deepfake/B_Au/image/three.png");
    const json_t *turns = json_object_get(json_array_get(talk, 0), "conversations");
    assert_non_null(strstr(at(turns, 0, "value"),
                           "<image>\nThis is a picture that is suspected to have been tampered with by DeepFake. Was this photo"));
    assert_string_equal(at(turns, 1, "from"), "gpt");
    json_decref(lisa), json_decref(gt), json_decref(other), json_decref(talk);
    /* Our own reader takes both back. */
    fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    assert_ok(fs_dataset_open(x->dir, &opt, &d, err));
    for (size_t i = 0; i < 3; i++) assert_non_null(d.records[i].text);
    fs_dataset_free(&d);
    char *path = fs_path_join(x->dir, "conversations_train.json");
    assert_ok(fs_dataset_open_conversations(path, x->dir, &opt, &d, err));
    assert_int_equal(d.records[0].label, FS_VERDICT_AUTHENTIC);
    assert_int_equal(d.records[1].label, FS_VERDICT_TAMPERED);
    assert_non_null(d.records[1].mask);
    fs_dataset_free(&d);
    free(path);
}

/* Form, key, pictures and measures of what is sent. */
static void test_request(void **state) {
    fixture *x = *state;
    x->opt.jobs = 1;
    x->opt.max_side = 64;
    expect(x, FS_OK, 3, 0, 0);
    assert_int_equal(x->server->count, 3);
    const chat_record *first = &x->server->records[0], *second = &x->server->records[1];
    assert_int_equal(first->pictures, 1);
    assert_int_equal(second->pictures, 2);
    assert_non_null(strstr(second->head, "POST /v1/chat/completions HTTP/1.1"));
    assert_non_null(strstr(second->head, "Authorization: Bearer verysecretkey"));
    assert_non_null(strstr(second->head, "Content-Type: application/json"));
    assert_null(strstr(second->body, key));
    json_t *root = json_loads(second->body, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(root, "model")), "seer-1");
    const json_t *user = json_array_get(json_object_get(root, "messages"), 1), *parts = json_object_get(user, "content");
    const char *words = at(parts, 0, "text");
    assert_non_null(strstr(words, "takes up 25 % of the picture; it lies between 0 % and 50 % of the width"));
    assert_non_null(strstr(words, "in an image editor"));
    assert_null(strchr(words, '{'));
    /* The picture's own bytes. */
    const char *url = json_string_value(json_object_get(json_object_get(json_array_get(parts, 1), "image_url"), "url"));
    assert_true(strncmp(url, "data:image/png;base64,iVBORw0KGgo", 33) == 0);
    char *path = fs_path_join(x->dir, "ps/A_Tp/image/one.png");
    const int64_t bytes = fs_path_bytes(path);
    assert_int_equal(strlen(url) - 22, (size_t)((bytes + 2) / 3 * 4));
    free(path);
    json_decref(root);
}

static void test_base64(void **state) {
    fixture *x = *state;
    const fs_dataset_describe_options *opt = &x->opt;
    describe_instructions d;
    fs_data_record r = {.label = FS_VERDICT_AUTHENTIC};
    describe_question q = {.record = &r};
    char *body = NULL;
    uint8_t grey[3] = {7, 8, 9};
    assert_ok(describe_instructions_open(NULL, &d, err));
    for (int size = 1; size <= 3; size++) { /* files of different length modulo 3 */
        char name[32];
        uint8_t *png = NULL, *back = NULL;
        size_t n = 0, k = 0;
        snprintf(name, sizeof name, "p%d.png", size);
        put_png(x->dir, name, grey, size, 1, 1);
        r.image = fs_path_join(x->dir, name);
        assert_ok(fs_read_file(r.image, 1 << 20, &png, &n, err));
        assert_ok(describe_request(opt, &d, &q, NULL, NULL, false, &body, err));
        const char *p = strstr(body, "base64,");
        assert_non_null(p);
        p += 7;
        back = calloc(n + 4, 1);
        for (uint32_t v = 0, bits = 0; *p != '"' && *p != '='; p++) { /* decoded here, the plain way */
            const char *digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", *found = strchr(digits, *p);
            if (*p == '\\') continue;
            assert_non_null(found);
            v = v << 6 | (uint32_t)(found - digits), bits += 6;
            if (bits >= 8) bits -= 8, back[k++] = (uint8_t)(v >> bits);
        }
        assert_int_equal(k, n);
        assert_memory_equal(back, png, n);
        free(body), free(back), free(png), free(r.image);
    }
    describe_instructions_close(&d);
}

static void test_resume(void **state) {
    fixture *x = *state;
    x->opt.limit = 1;
    expect(x, FS_OK, 1, 0, 0);
    x->opt.limit = 0;
    expect(x, FS_OK, 2, 1, 0);
    expect(x, FS_OK, 0, 3, 0);
    assert_int_equal(x->server->count, 3);
    /* A killed run's half line does no harm, and neither does what stands behind it. */
    char *kept = read_text(x->dir, "answers.jsonl"), *cut = fs_format("%.*s", (int)(strlen(kept) - 40), kept);
    put_text(x->dir, "answers.jsonl", cut);
    expect(x, FS_OK, 1, 2, 0);
    expect(x, FS_OK, 0, 3, 0);
    free(kept), free(cut);
    /* Another picture or mask under the name is asked for anew. */
    put_picture(x->dir, "ps/A_Tp/image/one.png", 64, 48, 77);
    expect(x, FS_OK, 1, 2, 0);
    put_mask(x->dir, "ps/A_Tp/mask/two.png", 64, 48, 255, 3);
    expect(x, FS_OK, 1, 2, 0);
    put_text(x->dir, "answers.jsonl", "{\"id\": 7}\n[]\nnonsense\n{\"id\": \"ps/A_Tp/one.png\"}\n\n");
    expect(x, FS_OK, 3, 0, 0);
}

static void test_passing_trouble(void **state) {
    fixture *x = *state;
    chat_rule_set(x->server, 0, CHAT_STATUS, 429, "{\"error\": {\"message\": \"slow down\"}}", 2);
    chat_rule_set(x->server, 1, CHAT_STATUS, 500, "oops", 1);
    chat_rule_set(x->server, 2, CHAT_STATUS, 503, "", 1);
    chat_rule_set(x->server, 3, CHAT_DROP, 0, NULL, 1);
    expect(x, FS_OK, 3, 0, 0);
    assert_int_equal(x->server->count, 8);
}

static void test_time_limit(void **state) {
    fixture *x = *state;
    only_one(x);
    x->opt.timeout_seconds = 1;
    x->opt.limit = 1;
    chat_rule_set(x->server, 0, CHAT_STALL, 0, NULL, 1);
    expect(x, FS_OK, 1, 0, 0);
    assert_int_equal(x->server->count, 2);
}

static void test_retries_end(void **state) {
    fixture *x = *state;
    only_one(x);
    chat_rule_set(x->server, 0, CHAT_STATUS, 500, "{\"error\": \"broken\"}", 4); /* one attempt and three new ones */
    expect(x, FS_E_FAILED, 1, 0, 1);
    assert_message(&x->err, "1 of 2 pictures have no answer");
    assert_non_null(strstr(x->log, "one.png: no answer"));
    assert_non_null(strstr(x->log, "HTTP 500: broken"));
    json_t *lisa = load(x, "ps/A_Tp/lisa_train_output.json"); /* the other one is written all the same */
    assert_int_equal(json_array_size(lisa), 1);
    json_decref(lisa);
    expect(x, FS_OK, 1, 1, 0);
}

static void test_refused(void **state) {
    fixture *x = *state;
    static const struct {
        long code;
        fs_status status;
        const char *part;
    } cases[] = {
        {401, FS_E_USAGE, "the key is refused: bad key"}, {403, FS_E_USAGE, "the key is refused"}, {404, FS_E_NOT_FOUND, "check --url"}};
    x->opt.jobs = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t before = x->server->count;
        chat_rule_set(x->server, 0, CHAT_STATUS, cases[i].code, "{\"error\": {\"message\": \"bad key\\u001b[2J\"}}", -1);
        assert_int_equal(run(x), cases[i].status);
        assert_message(&x->err, cases[i].part);
        assert_null(strchr(x->err.message, '\033'));
        assert_int_equal(x->server->count - before, 1); /* not tried again, not with the others */
        assert_false(is_there(x->dir, "conversations_train.json"));
    }
    chat_rule_set(x->server, 0, CHAT_STATUS, 400, "{\"error\": {\"message\": \"not this picture\"}}", 1);
    expect(x, FS_E_FAILED, 2, 0, 1); /* the others are asked about */
    assert_non_null(strstr(x->log, "not this picture"));
}

static void test_garbage(void **state) {
    fixture *x = *state;
    static const struct {
        chat_mischief kind;
        const char *text, *part;
    } cases[] = {
        {CHAT_BODY, "not JSON", "the reply is no JSON"},
        {CHAT_BODY, "", "the reply is no JSON"},
        {CHAT_BODY, "[]", "no choices[0].message.content"},
        {CHAT_BODY, "{\"choices\": [{\"message\": {\"content\": 7}}]}", "no choices[0].message.content"},
        {CHAT_BODY, "{\"choices\": {\"message\": 1}}", "no choices[0].message.content"},
        {CHAT_BODY, "{\"choices\": [{\"message\": {\"content\": null, \"refusal\": \"I will not\"}}]}", "the model refuses: I will not"},
        {CHAT_CONTENT, "It is fake.", "does not begin with"},
        {CHAT_CONTENT,
         "1. Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with, left.",
         "is missing"},
        {CHAT_CONTENT, chat_authentic, "does not say \"The picture has been tampered with\""},
        {CHAT_CUT, NULL, "cut off"},
    };
    only_one(x);
    x->opt.limit = 1;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const size_t before = x->server->count;
        chat_rule_set(x->server, 0, cases[i].kind, 0, cases[i].text, -1);
        expect(x, FS_E_FAILED, 0, 0, 1);
        if (!strstr(x->log, cases[i].part)) fail_msg("\"%s\" lacks \"%s\"", x->log, cases[i].part);
        assert_int_equal(x->server->count - before, 2); /* once more, then reported */
        assert_false(is_there(x->dir, "conversations_train.json"));
    }
    /* The second question tells what was wrong with the first answer. */
    const size_t before = x->server->count;
    chat_rule_set(x->server, 0, CHAT_CONTENT, 0, "It is fake.", 1);
    expect(x, FS_OK, 1, 0, 0);
    const char *again = x->server->records[before + 1].body;
    assert_non_null(strstr(again, "\"assistant\",\"content\":\"It is fake.\""));
    assert_non_null(strstr(again, "That report cannot be used: it does not begin with"));
}

static void test_oversize(void **state) {
    fixture *x = *state;
    only_one(x);
    x->opt.limit = 1;
    chat_rule_set(x->server, 0, CHAT_HUGE, FS_CHAT_MAX_REPLY + (4 << 20), NULL, -1);
    expect(x, FS_E_FAILED, 0, 0, 1);
    assert_non_null(strstr(x->log, "a reply of more than 8388608 bytes"));
}

/* The key and the pictures do not follow a redirect. */
static void test_redirect(void **state) {
    fixture *x = *state;
    chat_server *thief = chat_start();
    char where[128];
    snprintf(where, sizeof where, "%s/chat/completions", thief->url);
    x->opt.jobs = 1;
    chat_rule_set(x->server, 0, CHAT_REDIRECT, 0, where, -1);
    assert_int_equal(run(x), FS_E_USAGE);
    assert_message(&x->err, "which is not followed; give that address with --url");
    assert_int_equal(thief->count, 0);
    chat_free(thief);
}

static void test_gives_up(void **state) {
    fixture *x = *state;
    for (int i = 0; i < 20; i++) {
        char name[64];
        snprintf(name, sizeof name, "ps/C_Au/image/%02d.png", i);
        put_picture(x->dir, name, 16, 16, (uint64_t)(100 + i));
    }
    x->opt.jobs = 1, x->opt.retries = 0;
    chat_rule_set(x->server, 0, CHAT_STATUS, 500, "", -1);
    assert_int_equal(run(x), FS_E_IO);
    assert_message(&x->err, "10 pictures one after another without an answer");
    assert_int_equal(x->server->count, 10);
}

static void test_cancel(void **state) {
    fixture *x = *state;
    x->opt.jobs = 2;
    x->cancel_after = 1;
    chat_rule_set(x->server, 0, CHAT_WAIT, 100, NULL, -1); /* a long pause, out of which it must come */
    assert_int_equal(run(x), FS_E_CANCELLED);
    x->cancel_after = 0;
    chat_rule_set(x->server, 0, CHAT_NOTHING, 0, NULL, 0);
    expect(x, FS_OK, 3, 0, 0);
}

static void test_jobs(void **state) {
    fixture *x = *state;
    for (int i = 0; i < 12; i++) {
        char name[64];
        snprintf(name, sizeof name, "ps/C_Au/image/%02d.png", i);
        put_picture(x->dir, name, 16, 16, (uint64_t)(100 + i));
    }
    x->opt.jobs = 3;
    expect(x, FS_OK, 15, 0, 0);
    assert_in_range(x->server->most_under_way, 1, 3);
    json_t *lisa = load(x, "ps/C_Au/lisa_train_output.json"); /* in the order of the names, whoever came first */
    for (size_t i = 0; i < 12; i++) assert_int_equal(atoi(at(lisa, i, "image")), (int)i);
    json_decref(lisa);
}

static void test_guard(void **state) {
    fixture *x = *state;
    put_text(x->dir, "ps/A_Tp/lisa_train_output.json", "[]");
    assert_int_equal(run(x), FS_E_USAGE);
    assert_message(&x->err, "ps/A_Tp/lisa_train_output.json: is there already, and not from describe");
    assert_int_equal(x->server->count, 0);
    char *out = fs_path_join(x->dir, "texts");
    x->opt.out_dir = out;
    x->opt.val = true;
    expect(x, FS_OK, 3, 0, 0);
    assert_true(is_there(x->dir, "texts/ps/A_Tp/lisa_val_gt.json"));
    assert_true(is_there(x->dir, "texts/conversations_val.json"));
    char *kept = read_text(x->dir, "ps/A_Tp/lisa_train_output.json");
    assert_string_equal(kept, "[]");
    free(kept), free(out);
}

static void test_dry_run(void **state) {
    fixture *x = *state;
    char *text = NULL;
    x->opt.dry_run = true;
    x->opt.price_in = 10, x->opt.price_out = 100;
    assert_ok(fs_dataset_describe(x->dir, &x->opt, &text, err));
    assert_non_null(strstr(text, "3 pictures to ask about, 0 answers there already"));
    assert_non_null(strstr(text, "POST http://127.0.0.1:"));
    assert_non_null(strstr(text, "/v1/chat/completions"));
    assert_non_null(strstr(text, "Authorization: Bearer (the key, not shown)"));
    assert_non_null(strstr(text, "base64,... ("));
    assert_null(strstr(text, key));
    assert_int_equal(x->server->count, 0);
    assert_false(is_there(x->dir, "answers.jsonl"));
    free(text);
    x->opt.dry_run = false;
    x->opt.price_limit = 0.01;
    assert_int_equal(run(x), FS_E_LIMIT);
    assert_message(&x->err, "the limit is 0.01");
    assert_int_equal(x->server->count, 0);
}

static void test_estimate(void **state) {
    (void)state;
    /* Worked by hand: 85 + 170 * tiles. 1024 x 1024 -> 768 x 768 -> 4 tiles; 2048 x 4096 at max_side 4096 -> 1024 x 2048 -> 768 x 1536
     * -> 6. */
    assert_int_equal(describe_picture_tokens(1024, 1024, 1024), 765);
    assert_int_equal(describe_picture_tokens(512, 512, 1024), 255);
    assert_int_equal(describe_picture_tokens(100, 50, 1024), 255);
    assert_int_equal(describe_picture_tokens(2048, 4096, 4096), 1105);
    assert_int_equal(describe_picture_tokens(4000, 2000, 512), 255);
}

static void test_addresses(void **state) {
    fixture *x = *state;
    static const char *const wrong[] = {"", "host/v1", "ftp://host", "https://", "https://user:pass@host/v1", "https://host/v1?x=1"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        x->opt.url = wrong[i];
        assert_int_equal(run(x), FS_E_USAGE);
        assert_message(&x->err, "this address of a service");
    }
    x->opt.url = "http://example.invalid/v1";
    assert_int_equal(run(x), FS_E_USAGE);
    assert_message(&x->err, "the key would travel readable for all");
    x->opt.url = x->server->url;
    x->opt.key = "two\r\nwords";
    assert_int_equal(run(x), FS_E_USAGE);
    assert_message(&x->err, "characters that no key has");
    x->opt.key = NULL;
    expect(x, FS_OK, 3, 0, 0);
    assert_null(strstr(x->server->records[0].head, "Authorization"));
}

static void test_answers(void **state) {
    (void)state;
    describe_instructions d;
    char problem[200], *text = NULL;
    assert_ok(describe_instructions_open(NULL, &d, err));
    static const struct {
        const char *answer;
        fs_verdict label;
        const char *problem;
    } cases[] = {
        {chat_tampered, FS_VERDICT_TAMPERED, ""},
        {chat_authentic, FS_VERDICT_AUTHENTIC, ""},
        {chat_tampered, FS_VERDICT_AUTHENTIC, "not been tampered with"},
        {"```\n1. Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with, at "
         "the left, in the sky.\n2. Judgment "
         "basis: Edges are blurred there, and nowhere else.\n```",
         FS_VERDICT_TAMPERED, ""},
        {"1. Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with, where the "
         "mask is white, on the left."
         "\n\n2. Judgment basis: The second image shows it, as everybody can see.",
         FS_VERDICT_TAMPERED, "it has the words \"second image\""},
        {"1. Whether the picture has been tampered with / Description of the tampered area:\n\n2. Judgment basis: x", FS_VERDICT_TAMPERED,
         "first part is empty"},
        {"1. Whether the picture has been tampered with / Description of the tampered area: The picture has been tampered with.\n\n2. "
         "Judgment basis:  \n",
         FS_VERDICT_TAMPERED, "second part is empty"},
        {"1. Description of the tampered area: The picture has been tampered with.\n\n2. Judgment basis: x", FS_VERDICT_TAMPERED,
         "too short"},
        {"2. Judgment basis: before\n1. Description of the tampered area: The picture has been tampered with.", FS_VERDICT_TAMPERED,
         "is missing"},
        {"", FS_VERDICT_TAMPERED, "does not begin"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_ok(describe_answer_check(&d, cases[i].answer, cases[i].label, &text, problem, err));
        if (*cases[i].problem ? text != NULL || !strstr(problem, cases[i].problem) : !text)
            fail_msg("case %zu: \"%s\", \"%s\"", i, text ? text : "(none)", problem);
        if (text) {
            assert_true(strncmp(text, "1. Whether the picture has been tampered with / Description of the tampered area: The picture has",
                                97) == 0);
            assert_non_null(strstr(text, "\n\n2. Judgment basis: "));
            assert_null(strstr(text, "**"));
            assert_null(strstr(text, "```"));
        }
        free(text);
    }
    describe_instructions_close(&d);
}

static void test_instructions(void **state) {
    fixture *x = *state;
    fs_error e = {0};
    describe_instructions d;
    char *path = fs_path_join(x->dir, "i.json");
    static const struct {
        const char *json, *part;
    } wrong[] = {
        {"{}", "field system: expected a string"},
        {"{\"system\": \"\", \"tampered\": \"\", \"authentic\": \"\", \"again\": \"\", \"view_mask\": \"\", \"view_overlay\": \"\"}",
         "field domains"},
        {"[]", "expected a JSON object"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        put_text(x->dir, "i.json", wrong[i].json);
        assert_int_not_equal(describe_instructions_open(path, &d, &e), FS_OK);
        assert_message(&e, wrong[i].part);
    }
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_triplets, setup, teardown),
        cmocka_unit_test_setup_teardown(test_request, setup, teardown),
        cmocka_unit_test_setup_teardown(test_base64, setup, teardown),
        cmocka_unit_test_setup_teardown(test_resume, setup, teardown),
        cmocka_unit_test_setup_teardown(test_passing_trouble, setup, teardown),
        cmocka_unit_test_setup_teardown(test_time_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_retries_end, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
        cmocka_unit_test_setup_teardown(test_oversize, setup, teardown),
        cmocka_unit_test_setup_teardown(test_redirect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_gives_up, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
        cmocka_unit_test_setup_teardown(test_jobs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_guard, setup, teardown),
        cmocka_unit_test_setup_teardown(test_dry_run, setup, teardown),
        cmocka_unit_test(test_estimate),
        cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
        cmocka_unit_test(test_answers),
        cmocka_unit_test_setup_teardown(test_instructions, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
