/* The tokenizer against transformers 4.28.0 and 4.37.2: tests/golden/text/tokenizer.json (tools/reference/make_text_goldens.py) holds, for
 * a dozen kinds of tokenizer directory, the ids of about 220 texts and the texts of those ids and of odd id lists, byte for byte.
 * With FS_LLAMA_TOKENIZER=DIR (a directory with LLaMA's tokenizer.model) the token vectors of the real prompts are checked as well. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "text/text.h"

static json_t *load(const char *name) {
    char path[1024];
    json_error_t e;
    snprintf(path, sizeof path, "%s/text/%s", FS_GOLDEN_DIR, name);
    json_t *v = json_load_file(path, 0, &e);
    if (!v) fail_msg("%s: %s", path, e.text);
    return v;
}

static fs_bytes read_model(void) {
    fs_error err;
    fs_bytes b;
    uint8_t *data;
    assert_int_equal(fs_read_file(FS_GOLDEN_DIR "/text/mflm/tokenizer.model", 1 << 20, &data, &b.size, &err), FS_OK);
    b.data = data;
    return b;
}

static fs_bytes part(json_t *files, const char *name) {
    json_t *v = json_object_get(files, name);
    return v ? (fs_bytes){json_string_value(v), json_string_length(v)} : (fs_bytes){0};
}

static void check_ids(const char *what, const char *text, const fs_ids *got, json_t *want) {
    bool same = got->count == json_array_size(want);
    for (size_t i = 0; same && i < got->count; i++) same = got->data[i] == json_integer_value(json_array_get(want, i));
    if (same) return;
    char *w = json_dumps(want, JSON_COMPACT);
    fs_buffer b = {0};
    for (size_t i = 0; i < got->count; i++) fs_buffer_printf(&b, "%d,", got->data[i]);
    print_error("%s: \"%s\"\n  want %s\n  got   %s\n", what, text, w, b.data ? b.data : "");
    fail();
}

/* Streamed pieces, put together, are the text without special tokens; each is whole characters. */
static void check_stream(const fs_tokenizer *t, const int32_t *ids, size_t n, const char *want) {
    fs_text_stream *s;
    fs_error err;
    fs_buffer all = {0};
    assert_int_equal(fs_text_stream_create(t, &s, &err), FS_OK);
    for (size_t i = 0; i <= n; i++) {
        const char *piece;
        assert_int_equal(fs_text_stream_push(s, i < n ? ids[i] : FS_TEXT_STREAM_END, &piece, &err), FS_OK);
        assert_true((piece[0] & 0xC0) != 0x80);
        json_t *valid = json_string(piece);
        assert_non_null(valid);
        json_decref(valid);
        fs_buffer_puts(&all, piece);
    }
    assert_string_equal(all.data, want);
    fs_buffer_free(&all);
    fs_text_stream_free(s);
}

static void check_variant(fs_tokenizer *t, const char *what, json_t *variant, json_t *texts) {
    fs_error err;
    fs_ids ids = {0};
    json_t *indices = json_object_get(variant, "texts"), *lists = json_object_get(variant, "lists");
    size_t n = json_array_size(indices);
    bool cleans = strncmp(what, "no_bos", 6) == 0;
    assert_int_equal(fs_tokenizer_size(t), json_integer_value(json_object_get(variant, "size")));
    assert_int_equal(fs_tokenizer_bos(t), json_integer_value(json_object_get(variant, "bos")));
    assert_int_equal(fs_tokenizer_eos(t), json_integer_value(json_object_get(variant, "eos")));
    for (size_t i = 0; i < n + json_array_size(lists); i++) {
        const char *text = "(ids)";
        ids.count = 0;
        if (i < n) {
            text = json_string_value(json_array_get(texts, (size_t)json_integer_value(json_array_get(indices, i))));
            assert_int_equal(fs_tokenizer_encode(t, text, &ids, &err), FS_OK);
            check_ids(what, text, &ids, json_array_get(json_object_get(variant, "ids"), i));
            json_t *image = json_array_get(json_object_get(variant, "image"), i);
            if (!json_is_null(image)) {
                fs_ids with = {0};
                assert_int_equal(fs_tokenizer_encode_image(t, text, &with, &err), FS_OK);
                check_ids(what, text, &with, image);
                fs_ids_free(&with);
            }
        } else {
            json_t *list = json_array_get(lists, i - n);
            for (size_t k = 0; k < json_array_size(list); k++)
                fs_ids_push(&ids, (int32_t)json_integer_value(json_array_get(list, k)), NULL);
        }
        for (int skip = 0; skip < 2; skip++) {
            char *got;
            const char *want = json_string_value(json_array_get(json_object_get(variant, skip ? "decoded_skip" : "decoded"), i));
            assert_int_equal(fs_tokenizer_decode(t, ids.data, ids.count, skip, &got, &err), FS_OK);
            if (strcmp(got, want) != 0) {
                print_error("%s: case %zu \"%s\", skip %d\n  want \"%s\"\n  got  \"%s\"\n", what, i, text, skip, want, got);
                fail();
            }
            if (skip && !cleans) check_stream(t, ids.data, ids.count, want);
            free(got);
        }
    }
    fs_ids_free(&ids);
}

static void agrees_with_transformers(void **state) {
    (void)state;
    json_t *golden = load("tokenizer.json"), *variant;
    fs_bytes model = read_model();
    size_t i, checked = 0;
    json_array_foreach(json_object_get(golden, "variants"), i, variant) {
        char what[100];
        fs_error err = {0};
        fs_tokenizer *t;
        json_t *f = json_object_get(variant, "files");
        int generation = (int)json_integer_value(json_object_get(variant, "generation"));
        snprintf(what, sizeof what, "%s under 4.%d", json_string_value(json_object_get(variant, "name")), generation % 100);
        fs_tokenizer_files files = {what, model, part(f, "tokenizer_config.json"), part(f, "special_tokens_map.json"),
                                    part(f, "added_tokens.json")};
        fs_status st = fs_tokenizer_create(&files, generation == 428 ? FS_RULES_428 : FS_RULES_437, &t, &err);
        if (st) fail_msg("%s", err.message);
        check_variant(t, what, variant, json_object_get(golden, "texts"));
        fs_tokenizer_free(t);
        checked++;
    }
    assert_true(checked >= 15);
    free((void *)model.data);
    json_decref(golden);
}

/* The committed directories through the file system. */
static void opens_directories(void **state) {
    (void)state;
    fs_error err;
    fs_tokenizer *t;
    fs_ids ids = {0};
    assert_int_equal(fs_tokenizer_open(FS_GOLDEN_DIR "/text/mflm", FS_RULES_428, &t, &err), FS_OK);
    assert_int_equal(fs_tokenizer_size(t), 507);
    assert_int_equal(fs_tokenizer_id(t, "<im_start>"), 500);
    assert_int_equal(fs_tokenizer_id(t, "[SEG]"), 504);
    assert_int_equal(fs_tokenizer_id(t, "</s>"), 2);
    assert_int_equal(fs_tokenizer_id(t, "<unk>"), 0);
    assert_int_equal(fs_tokenizer_id(t, "<0x0A>"), 13);
    assert_int_equal(fs_tokenizer_id(t, "no such piece"), -1);
    fs_tokenizer_free(t);
    assert_int_equal(fs_tokenizer_open(FS_GOLDEN_DIR "/text/dte_new", FS_RULES_437, &t, &err), FS_OK);
    assert_int_equal(fs_tokenizer_size(t), 500);
    assert_int_equal(fs_tokenizer_id(t, "[SEG]"), -1);
    assert_int_equal(fs_tokenizer_encode(t, "</s>", &ids, &err), FS_OK);
    assert_int_equal(ids.count, 2);
    fs_ids_free(&ids);
    fs_tokenizer_free(t);
}

/* Broken UTF-8 is encoded as the text Python's errors="replace" makes of it; the NUL byte's token decodes to U+FFFD. */
static void repairs_text(void **state) {
    (void)state;
    static const char *const pairs[][2] = {{"a\xFFz", "a\uFFFDz"},
                                           {"\xE2\x82", "\uFFFD"},
                                           {"\xE2\x82z", "\uFFFDz"},
                                           {"\xC0\x80", "\uFFFD\uFFFD"},
                                           {"\xED\xA0\x80", "\uFFFD\uFFFD\uFFFD"},
                                           {"\xF0\x9F\x91", "\uFFFD"},
                                           {"[SEG]\x80 [SEG]", "[SEG]\uFFFD [SEG]"}};
    fs_error err;
    fs_tokenizer *t;
    assert_int_equal(fs_tokenizer_open(FS_GOLDEN_DIR "/text/mflm", FS_RULES_428, &t, &err), FS_OK);
    for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++) {
        fs_ids a = {0}, b = {0};
        assert_int_equal(fs_tokenizer_encode(t, pairs[i][0], &a, &err), FS_OK);
        assert_int_equal(fs_tokenizer_encode(t, pairs[i][1], &b, &err), FS_OK);
        assert_int_equal(a.count, b.count);
        assert_memory_equal(a.data, b.data, a.count * sizeof *a.data);
        fs_ids_free(&a);
        fs_ids_free(&b);
    }
    char *text;
    assert_int_equal(fs_tokenizer_decode(t, (const int32_t[]){3 + 'a', 3, 3 + 'b'}, 3, false, &text, &err), FS_OK);
    assert_string_equal(text, "a\uFFFDb");
    free(text);
    assert_int_equal(fs_tokenizer_decode(t, NULL, 0, false, &text, &err), FS_OK);
    assert_string_equal(text, "");
    free(text);
    static const int32_t strange[] = {-1, -200, 507, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof strange / sizeof strange[0]; i++) {
        assert_int_equal(fs_tokenizer_decode(t, &strange[i], 1, true, &text, &err), FS_E_MISMATCH);
        assert_null(text);
    }
    fs_tokenizer_free(t);
}

static void holds_back_half_characters(void **state) {
    (void)state;
    fs_error err;
    fs_tokenizer *t;
    fs_text_stream *s;
    const char *piece;
    assert_int_equal(fs_tokenizer_open(FS_GOLDEN_DIR "/text/dte_legacy", FS_RULES_437, &t, &err), FS_OK);
    assert_int_equal(fs_text_stream_create(t, &s, &err), FS_OK);
    static const unsigned char thumb[4] = {0xF0, 0x9F, 0x91, 0x8D};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(fs_text_stream_push(s, 3 + thumb[i], &piece, &err), FS_OK);
        assert_string_equal(piece, i < 3 ? "" : "\U0001F44D");
    }
    assert_int_equal(fs_text_stream_push(s, 3 + 0xFF, &piece, &err), FS_OK); /* cannot become a character: no waiting */
    assert_string_equal(piece, "\uFFFD");
    assert_int_equal(fs_text_stream_push(s, 3 + 0xE2, &piece, &err), FS_OK);
    assert_string_equal(piece, "");
    assert_int_equal(fs_text_stream_push(s, 2, &piece, &err), FS_OK); /* </s> ends nothing: it may be sampled over */
    assert_string_equal(piece, "");
    assert_int_equal(fs_text_stream_push(s, FS_TEXT_STREAM_END, &piece, &err), FS_OK);
    assert_string_equal(piece, "\uFFFD");
    assert_int_equal(fs_text_stream_push(s, 100000, &piece, &err), FS_E_MISMATCH);
    fs_text_stream_free(s);
    fs_text_stream_free(NULL);
    fs_tokenizer_free(t);
    fs_tokenizer_free(NULL);
}

/* ---- files that are wrong ---- */

static fs_status create(fs_bytes model, fs_tokenizer_rules rules, const char *config, const char *map, const char *added, fs_error *err) {
    fs_tokenizer *t;
    fs_tokenizer_files files = {
        "dir", model, {config, config ? strlen(config) : 0}, {map, map ? strlen(map) : 0}, {added, added ? strlen(added) : 0}};
    fs_status st = fs_tokenizer_create(&files, rules, &t, err);
    assert_true((st == FS_OK) == (t != NULL));
    fs_tokenizer_free(t);
    return st;
}

static void refuses_broken_files(void **state) {
    (void)state;
    fs_error err;
    fs_tokenizer *t;
    fs_bytes model = read_model();
    assert_int_equal(fs_tokenizer_open("/no/such/dir", FS_RULES_437, &t, &err), FS_E_NOT_FOUND);
    assert_non_null(strstr(err.message, "tokenizer.model"));

    assert_int_equal(create((fs_bytes){"", 0}, FS_RULES_437, NULL, NULL, NULL, &err), FS_E_FORMAT);
    assert_non_null(strstr(err.message, "empty"));
    static const char lfs[] = "version https://git-lfs.github.com/spec/v1\noid sha256:9e55\nsize 499723\n";
    assert_int_equal(create((fs_bytes){lfs, strlen(lfs)}, FS_RULES_437, NULL, NULL, NULL, &err), FS_E_FORMAT);
    assert_non_null(strstr(err.message, "git lfs pull"));
    for (size_t cut = 1; cut < model.size; cut += 97) /* every truncation is refused: pieces or settings are missing */
        assert_int_equal(create((fs_bytes){model.data, cut}, FS_RULES_437, NULL, NULL, NULL, &err), FS_E_FORMAT);

    static const struct {
        fs_tokenizer_rules rules;
        const char *config, *map, *added;
        fs_status status;
        const char *says;
    } cases[] = {
        {FS_RULES_437, "{", NULL, NULL, FS_E_FORMAT, "tokenizer_config.json"},
        {FS_RULES_437, "[]", NULL, NULL, FS_E_FORMAT, "object"},
        {FS_RULES_437, NULL, "null", NULL, FS_E_FORMAT, "special_tokens_map.json"},
        {FS_RULES_428, NULL, NULL, "{\"a\":", FS_E_FORMAT, "added_tokens.json"},
        {FS_RULES_437, "{\"bos_token\": 3}", NULL, NULL, FS_E_FORMAT, "bos_token"},
        {FS_RULES_437, "{\"bos_token\": {\"text\": 3}}", NULL, NULL, FS_E_FORMAT, "bos_token"},
        {FS_RULES_437, "{\"bos_token\": null}", NULL, NULL, FS_E_FORMAT, "add_bos_token"},
        {FS_RULES_428, "{\"unk_token\": null}", NULL, NULL, FS_E_FORMAT, "unk_token"},
        {FS_RULES_437, "{\"legacy\": \"yes\"}", NULL, NULL, FS_E_FORMAT, "legacy"},
        {FS_RULES_437, "{\"pad_token\": {\"content\": \"x\", \"single_word\": true}}", NULL, NULL, FS_E_UNSUPPORTED, "single_word"},
        {FS_RULES_437, "{\"added_tokens_decoder\": []}", NULL, NULL, FS_E_FORMAT, "added tokens"},
        {FS_RULES_437, "{\"added_tokens_decoder\": {\"x\": {\"content\": \"a\"}}}", NULL, NULL, FS_E_FORMAT, "proper id"},
        {FS_RULES_437, "{\"added_tokens_decoder\": {\"7\": \"a\", \"8\": \"a\"}}", NULL, NULL, FS_E_FORMAT, "two ids"},
        {FS_RULES_437, "{\"additional_special_tokens\": \"a\"}", NULL, NULL, FS_E_FORMAT, "list"},
        {FS_RULES_428, NULL, NULL, "{\"[SEG]\": 501}", FS_E_MISMATCH, "expected a new token with id 500"},
        {FS_RULES_428, NULL, NULL, "{\"[SEG]\": 500, \"x\": 500}", FS_E_FORMAT, "id 500"},
        {FS_RULES_428, NULL, NULL, "{\"[SEG]\": -1}", FS_E_FORMAT, "[SEG]"},
        {FS_RULES_428, NULL, NULL, "{\"[SEG]\": 1e99}", FS_E_FORMAT, "[SEG]"},
        {FS_RULES_428, NULL, NULL, "{\"\": 500}", FS_E_FORMAT, "proper id"},
        {FS_RULES_437, NULL, NULL, "{\"[SEG]\": \"5\"}", FS_E_FORMAT, "[SEG]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        memset(&err, 0, sizeof err);
        fs_status st = create(model, cases[i].rules, cases[i].config, cases[i].map, cases[i].added, &err);
        if (st != cases[i].status || !strstr(err.message, cases[i].says)) fail_msg("case %zu: %s: %s", i, fs_status_name(st), err.message);
    }
    /* what real files hold and JSON readers stumble over */
    assert_int_equal(create(model, FS_RULES_437, "{\"model_max_length\": 1000000000000000019884624838656}", NULL, NULL, &err), FS_OK);
    free((void *)model.data);
}

/* Changes the model's bytes field by field: what LLaMA's tokenizers are not is refused by name. */
static void refuses_other_models(void **state) {
    (void)state;
    static const struct {
        const char *extra;
        size_t size;
        fs_status status;
        const char *says;
    } cases[] = {
        {"\x12\x02\x18\x01", 4, FS_E_UNSUPPORTED, "BPE"},                    /* trainer_spec.model_type = unigram */
        {"\x12\x03\xC0\x01\x01", 5, FS_E_UNSUPPORTED, "spaces behind"},      /* treat_whitespace_as_suffix */
        {"\x12\x03\x98\x02\x00", 5, FS_E_FORMAT, "byte pieces"},             /* byte_fallback off, bytes present */
        {"\x1A\x03\x12\x01x", 5, FS_E_UNSUPPORTED, "table"},                 /* normalizer_spec.precompiled_charsmap */
        {"\x2A\x03\x12\x01x", 5, FS_E_UNSUPPORTED, "table"},                 /* denormalizer_spec */
        {"\x1A\x02\x28\x00", 4, FS_E_UNSUPPORTED, "unmarked"},               /* escape_whitespaces */
        {"\x0A\x05\x0A\x01~\x18\x04", 7, FS_E_UNSUPPORTED, "piece 500"},     /* a user-defined piece */
        {"\x0A\x05\x0A\x01~\x18\x02", 7, FS_E_FORMAT, "unknown piece"},      /* a second unknown piece */
        {"\x0A\x05\x0A\x01~\x18\x06", 7, FS_E_FORMAT, "<0xNN>"},             /* a byte piece that is none */
        {"\x0A\x04\x0A\x02\xC0\x80", 6, FS_E_FORMAT, "piece 500"},           /* no UTF-8 */
        {"\x0A\x02\x0A\x00", 4, FS_E_FORMAT, "piece 500"},                   /* empty */
        {"\x0A\x08\x0A\x01~\x15\x00\x00\xC0\x7F", 10, FS_E_FORMAT, "score"}, /* NaN */
        {"\x0A\x03\x0A\x01"
         "a",
         5, FS_E_FORMAT, "SentencePiece does not"}, /* a piece for the second time */
        {"\x0A\x7F", 2, FS_E_FORMAT, "cut short"},
        {"\x0B", 1, FS_E_FORMAT, "cut short"},
        {"\x22\x03\x0A\x01x", 5, FS_OK, ""}, /* self_test_data: not looked at */
        {"\x1A\x02\x18\x00", 4, FS_OK, ""},  /* add_dummy_prefix off */
    };
    fs_bytes model = read_model();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_error err = {0};
        char *bytes = malloc(model.size + cases[i].size);
        memcpy(bytes, model.data, model.size);
        memcpy(bytes + model.size, cases[i].extra, cases[i].size);
        fs_status st = create((fs_bytes){bytes, model.size + cases[i].size}, FS_RULES_437, NULL, NULL, NULL, &err);
        if (st != cases[i].status || !strstr(err.message, cases[i].says)) fail_msg("case %zu: %s: %s", i, fs_status_name(st), err.message);
        free(bytes);
    }
    free((void *)model.data);
}

/* ---- the real LLaMA vocabulary, where there is one ---- */

static fs_tokenizer *llama(bool mflm) {
    static const char added[] =
        "{\"<im_start>\": 32000, \"<im_end>\": 32001, \"<bbox>\": 32002, \"<point>\": 32003, \"[SEG]\": 32004, \"<p>\": 32005, "
        "\"</p>\": 32006}";
    const char *dir = getenv("FS_LLAMA_TOKENIZER");
    if (!dir) skip();
    fs_error err;
    fs_tokenizer *t;
    char *path = fs_path_join(dir, "tokenizer.model");
    uint8_t *data;
    size_t size;
    if (fs_read_file(path, 1 << 20, &data, &size, &err)) fail_msg("%s", err.message);
    free(path);
    fs_tokenizer_files files = {.where = dir, .model = {data, size}};
    if (mflm) files.added = (fs_bytes){added, strlen(added)};
    if (fs_tokenizer_create(&files, mflm ? FS_RULES_428 : FS_RULES_437, &t, &err)) fail_msg("%s", err.message);
    free(data);
    return t;
}

static void check_list(const fs_ids *got, size_t *at, const int32_t *want, size_t n) {
    for (size_t i = 0; i < n; i++, ++*at) {
        if (*at >= got->count || got->data[*at] != want[i])
            fail_msg("id %zu is %d, expected %d", *at, *at < got->count ? got->data[*at] : -1, want[i]);
    }
}
#define CHECK_LIST(got, at, ...) check_list(got, at, (const int32_t[]){__VA_ARGS__}, sizeof((const int32_t[]){__VA_ARGS__}) / 4)
#define SYSTEM_IDS                                                                                                                         \
    1, 319, 13563, 1546, 263, 12758, 5199, 322, 385, 23116, 21082, 20255, 29889, 450, 20255, 4076, 8444, 29892, 13173, 29892, 322, 1248,   \
        568, 6089, 304, 278, 5199, 29915, 29879, 5155, 29889, 3148, 1001, 29901

static void real_stage1_prompt(void **state) {
    (void)state;
    fs_tokenizer *t = llama(false);
    fs_error err;
    static const size_t totals[3] = {139, 135, 135};
    for (int domain = 0; domain < 3; domain++) {
        fs_ids ids = {0};
        size_t at = 0;
        char *prompt = fs_prompt_stage1((fs_domain)domain, fs_prompt_detection_question, false);
        assert_int_equal(fs_tokenizer_encode_image(t, prompt, &ids, &err), FS_OK);
        CHECK_LIST(&ids, &at, SYSTEM_IDS, 29871, -200, 29871, 13, 4013, 338, 263, 7623, 393, 338, 2858, 6021, 304, 505, 1063, 21308, 546,
                   287, 411, 491);
        if (domain == 0) CHECK_LIST(&ids, &at, 319, 6259, 29907, 297, 29886, 475, 1259);
        if (domain == 1) CHECK_LIST(&ids, &at, 21784, 29943, 1296);
        if (domain == 2) CHECK_LIST(&ids, &at, 19040, 10578, 459);
        CHECK_LIST(&ids, &at, 29889, 12547, 445, 15373, 4586, 4153, 515, 278, 10656, 1728, 738, 9068, 29973, 11699, 372, 1063, 21308, 546,
                   287, 411, 491, 738, 23116, 15373, 21733, 13698, 1316, 408, 6529, 29973, 3529, 19342, 297, 373, 738, 4902, 297, 278, 1967,
                   29892, 5146, 292, 4266, 8570, 304, 278, 12770, 310, 278, 3618, 29892, 4332, 3864, 777, 443, 25047, 12770, 322, 18520,
                   21702, 29892, 777, 10240, 29505, 29892, 443, 25047, 3578, 292, 322, 23490, 2992, 29889, 319, 1799, 9047, 13566, 29901);
        assert_int_equal(at, ids.count);
        assert_int_equal(ids.count, totals[domain]);
        fs_ids_free(&ids);
        free(prompt);
    }
    fs_tokenizer_free(t);
}

static void real_stage2_prompt(void **state) {
    (void)state;
    fs_tokenizer *t = llama(true);
    fs_error err;
    fs_ids ids = {0};
    size_t at = 0;
    char *prompt = fs_prompt_stage2(" 1. Whether", FS_PROMPT_DEMO, 0, false, NULL);
    assert_int_equal(fs_tokenizer_encode_image(t, prompt, &ids, &err), FS_OK);
    CHECK_LIST(&ids, &at, SYSTEM_IDS, 450, 32000, -200, 32001, 8128, 385, 975, 1493, 310, 278, 7623, 29889, 13, 29871, 29896, 29889, 26460,
               319, 1799, 9047, 13566, 29901);
    assert_int_equal(at, ids.count);
    free(prompt);
    ids.count = at = 0;
    prompt = fs_prompt_stage2("1. Whether", FS_PROMPT_TEST, 2, false, NULL);
    assert_int_equal(fs_tokenizer_encode_image(t, prompt, &ids, &err), FS_OK);
    CHECK_LIST(&ids, &at, SYSTEM_IDS, 450, 32000, -200, 32001, 8128, 385, 975, 1493, 310, 278, 7623, 29889, 13, 4013, 15373, 756, 1063,
               21308, 546, 287, 29889, 450, 1494, 338, 263, 6139, 310, 278, 21308, 546, 292, 4038, 322, 278, 8405, 363, 24284, 29901, 29871,
               13, 29896, 29889, 26460, 13, 3529, 2367, 278, 11105);
    free(prompt);
    static const char before[] = "ASSISTANT:";
    static const struct {
        const char *answer;
        int32_t ids[12];
    } answers[] = {
        {"It is [SEG].", {739, 338, 32004, 869, 2}},
        {"Sure, [SEG].", {18585, 29892, 32004, 869, 2}},
        {"Sure, it is [SEG].", {18585, 29892, 372, 338, 32004, 869, 2}},
        {"Sure, the segmentation result is [SEG].", {18585, 29892, 278, 10768, 362, 1121, 338, 32004, 869, 2}},
        {"[SEG].", {32004, 869, 2}},
    };
    for (size_t i = 0; i < sizeof answers / sizeof answers[0]; i++) {
        char text[100];
        size_t n = 0;
        while (answers[i].ids[n]) n++;
        snprintf(text, sizeof text, "%s %s</s>", before, answers[i].answer);
        ids.count = 0;
        assert_int_equal(fs_tokenizer_encode(t, text, &ids, &err), FS_OK);
        at = 6; /* <s> and the five pieces of "ASSISTANT:" */
        check_list(&ids, &at, answers[i].ids, n);
        assert_int_equal(at, ids.count);
    }
    fs_ids_free(&ids);
    fs_tokenizer_free(t);
}

static void real_small_texts(void **state) {
    (void)state;
    fs_tokenizer *t = llama(false);
    fs_error err;
    static const struct {
        const char *text;
        int32_t ids[4];
        size_t n;
    } cases[] = {{".", {1, 869}, 2}, {" 1.", {1, 259, 29896, 29889}, 4}, {"\nThis", {1, 29871, 13, 4013}, 4}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fs_ids ids = {0};
        size_t at = 0;
        assert_int_equal(fs_tokenizer_encode(t, cases[i].text, &ids, &err), FS_OK);
        check_list(&ids, &at, cases[i].ids, cases[i].n);
        assert_int_equal(at, ids.count);
        fs_ids_free(&ids);
    }
    fs_tokenizer_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_transformers),   cmocka_unit_test(opens_directories),    cmocka_unit_test(repairs_text),
        cmocka_unit_test(holds_back_half_characters), cmocka_unit_test(refuses_broken_files), cmocka_unit_test(refuses_other_models),
        cmocka_unit_test(real_stage1_prompt),         cmocka_unit_test(real_stage2_prompt),   cmocka_unit_test(real_small_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
