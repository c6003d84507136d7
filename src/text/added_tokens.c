/* Special and added tokens of a tokenizer directory, as the two transformers generations build them from tokenizer_config.json,
 * special_tokens_map.json and added_tokens.json (tokenization_utils_base.py and tokenization_utils.py of 4.28.0 and 4.37.2).
 *
 * 4.28: config, then special_tokens_map.json on top (a plain string there replaces the option object, and white space around such a token
 * is then stripped); added_tokens.json must continue the vocabulary without a gap; special tokens without an id come last.
 * 4.37: `added_tokens_decoder` in the config is the whole truth when it is there; else special_tokens_map.json and added_tokens.json are
 * read as in the old days, but nothing is stripped that is not flagged. */
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_internal.h"

enum { MAX_ADDED = 10000, N_ATTRIBUTES = 7 };

/* The special attributes in transformers' order; additional_special_tokens comes after them. */
static const char *const ATTRIBUTES[N_ATTRIBUTES] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                                     "pad_token", "cls_token", "mask_token"};
enum { BOS = 0, EOS = 1, UNK = 2, PAD = 4 };

/* A special token as the files give it: text plus, if it was an object, options. Text points into the JSON values. */
typedef struct given {
    const char *text;
    bool object, lstrip, rstrip;
} given;

typedef struct settings {
    fs_tokenizer *t;
    const fs_tokenizer_files *files;
    json_t *config, *map, *added;
    bool by_decoder; /* 4.37 with added_tokens_decoder */
    given *special;  /* [n_special]: attributes that are set, then additional ones */
    size_t n_special;
    int32_t attribute[N_ATTRIBUTES]; /* index into special, -1 = not set */
} settings;

static fs_status out_of_memory(fs_error *err) {
    return fs_fail(err, FS_E_NO_MEMORY, "out of memory for the tokenizer");
}

static fs_status parse_json(const settings *s, const char *name, fs_bytes part, json_t **out, fs_error *err) {
    json_error_t e;
    *out = NULL;
    if (!part.data) return FS_OK;
    /* numbers as reals: model_max_length is often 1e30 written out, which no integer holds */
    *out = json_loadb(part.data, part.size, JSON_DECODE_INT_AS_REAL, &e);
    if (!*out) return fs_fail(err, FS_E_FORMAT, "%s/%s: line %d: %s", s->files->where, name, e.line, e.text);
    if (!json_is_object(*out)) return fs_fail(err, FS_E_FORMAT, "%s/%s: expected a JSON object", s->files->where, name);
    return FS_OK;
}

/* An id written as a number or, in added_tokens_decoder, as a key; -1 if it is neither. */
static int32_t id_of_number(const json_t *v) {
    double d = json_is_number(v) ? json_number_value(v) : -1;
    return d >= 0 && d <= INT32_MAX && d == (double)(int32_t)d ? (int32_t)d : -1;
}

static int32_t id_of_key(const char *key) {
    char *end;
    long v = strtol(key, &end, 10);
    return *key >= '0' && *key <= '9' && *end == '\0' && v <= INT32_MAX ? (int32_t)v : -1;
}

static bool flag(const json_t *object, const char *name) {
    return json_is_true(json_object_get(object, name));
}

/* A token as a string or {"content": ...}; false if it is neither or asks for what is not supported. */
static fs_status read_given(const settings *s, const char *file, const char *key, const json_t *v, given *out, fs_error *err) {
    memset(out, 0, sizeof *out);
    if (json_is_string(v)) out->text = json_string_value(v);
    if (json_is_object(v)) {
        *out = (given){json_string_value(json_object_get(v, "content")), true, flag(v, "lstrip"), flag(v, "rstrip")};
        if (flag(v, "single_word"))
            return fs_fail(err, FS_E_UNSUPPORTED, "%s/%s: %s asks for single_word, which is not supported", s->files->where, file, key);
    }
    if (!out->text || !*out->text)
        return fs_fail(err, FS_E_FORMAT, "%s/%s: %s: expected a token's text or an object with \"content\"", s->files->where, file, key);
    return FS_OK;
}

static fs_added_token *add_entry(fs_tokenizer *t, const char *text, int32_t id, fs_error *err) {
    if (t->n_added >= MAX_ADDED) return fs_fail(err, FS_E_LIMIT, "more than %d added tokens", MAX_ADDED), NULL;
    if (t->n_added == t->added_capacity) {
        size_t capacity = t->added_capacity ? 2 * t->added_capacity : 16;
        fs_added_token *more = realloc(t->added, capacity * sizeof *more);
        if (!more) return out_of_memory(err), NULL;
        t->added = more, t->added_capacity = capacity;
    }
    char *copy = fs_strdup(text);
    if (!copy) return out_of_memory(err), NULL;
    t->added[t->n_added] = (fs_added_token){.text = copy, .length = strlen(copy), .id = id};
    return &t->added[t->n_added++];
}

static fs_added_token *find_or_add(fs_tokenizer *t, const char *text, int32_t id, fs_error *err) {
    fs_added_token *a = fs_tokenizer_added(t, text, strlen(text));
    return a ? a : add_entry(t, text, id, err);
}

/* ---- the special attributes ---- */

/* Takes `attribute` from the file if it is there; null takes it away. */
static fs_status take_attribute(settings *s, const json_t *file, const char *name, int attribute, given found[], fs_error *err) {
    const json_t *v = json_object_get(file, ATTRIBUTES[attribute]);
    if (!v) return FS_OK;
    if (json_is_null(v)) return memset(&found[attribute], 0, sizeof found[attribute]), FS_OK;
    return read_given(s, name, ATTRIBUTES[attribute], v, &found[attribute], err);
}

static fs_status append_additional(settings *s, const json_t *file, const char *name, size_t *room, fs_error *err) {
    const char *key = "additional_special_tokens";
    const json_t *list = json_object_get(file, key);
    if (!list || json_is_null(list)) return FS_OK;
    if (!json_is_array(list)) return fs_fail(err, FS_E_FORMAT, "%s/%s: %s: expected a list", s->files->where, name, key);
    size_t n = json_array_size(list);
    if (n > MAX_ADDED) return fs_fail(err, FS_E_LIMIT, "%s/%s: more than %d %s", s->files->where, name, MAX_ADDED, key);
    given *more = realloc(s->special, (*room + n + 1) * sizeof *more);
    if (!more) return out_of_memory(err);
    s->special = more, *room += n;
    for (size_t i = 0; i < n; i++) {
        given g;
        fs_status st = read_given(s, name, key, json_array_get(list, i), &g, err);
        if (st) return st;
        s->special[s->n_special++] = g;
    }
    return FS_OK;
}

/* Config, defaults, special_tokens_map.json -> s->special. */
static fs_status collect_special(settings *s, fs_error *err) {
    bool new_rules = s->t->rules == FS_RULES_437, use_map = s->map && !s->by_decoder;
    given found[N_ATTRIBUTES] = {{.text = "<s>", .object = true}, {.text = "</s>", .object = true}, {.text = "<unk>", .object = true}};
    for (int a = 0; a < N_ATTRIBUTES; a++) {
        bool object_anyway = a <= UNK || a == PAD; /* LlamaTokenizer makes objects of these four */
        fs_status st = take_attribute(s, s->config, "tokenizer_config.json", a, found, err);
        if (object_anyway) found[a].object = true;
        if (st == FS_OK && use_map) st = take_attribute(s, s->map, "special_tokens_map.json", a, found, err);
        if (st) return st;
    }
    size_t room = N_ATTRIBUTES;
    s->special = calloc(room + 1, sizeof *s->special);
    if (!s->special) return out_of_memory(err);
    for (int a = 0; a < N_ATTRIBUTES; a++) {
        s->attribute[a] = found[a].text ? (int32_t)s->n_special : -1;
        if (found[a].text) s->special[s->n_special++] = found[a];
    }
    if (s->attribute[UNK] < 0) return fs_fail(err, FS_E_FORMAT, "%s: unk_token is null; LLaMA's tokenizers have one", s->files->where);
    /* 4.28 replaces the config's list by the map's, 4.37 joins them */
    bool map_has = use_map && json_object_get(s->map, "additional_special_tokens");
    if (new_rules || !map_has) {
        fs_status st = append_additional(s, s->config, "tokenizer_config.json", &room, err);
        if (st) return st;
    }
    return use_map ? append_additional(s, s->map, "special_tokens_map.json", &room, err) : FS_OK;
}

static bool is_special_text(const settings *s, const char *text) {
    for (size_t i = 0; i < s->n_special; i++)
        if (strcmp(s->special[i].text, text) == 0) return true;
    return false;
}

/* ---- added tokens of the files, in the order of their ids ---- */

typedef struct numbered {
    const char *text;
    const json_t *options;
    int32_t id;
    size_t order;
} numbered;

static int by_id(const void *a, const void *b) {
    const numbered *x = a, *y = b;
    if (x->id != y->id) return x->id < y->id ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

/* added_tokens.json {"text": id}, or added_tokens_decoder {"id": {"content": text, ...}}. *out is malloc'ed. */
static fs_status list_added(const settings *s, bool decoder, numbered **out, size_t *count, fs_error *err) {
    const char *where = s->files->where, *file = decoder ? "tokenizer_config.json" : "added_tokens.json";
    json_t *object = decoder ? json_object_get(s->config, "added_tokens_decoder") : s->added;
    const char *key;
    json_t *v;
    *out = NULL, *count = 0;
    if (!object) return FS_OK;
    size_t n = json_object_size(object);
    if (!json_is_object(object)) return fs_fail(err, FS_E_FORMAT, "%s/%s: added tokens: expected an object", where, file);
    if (n > MAX_ADDED) return fs_fail(err, FS_E_LIMIT, "%s/%s: more than %d added tokens", where, file, MAX_ADDED);
    numbered *list = calloc(n + 1, sizeof *list);
    if (!list) return out_of_memory(err);
    size_t i = 0;
    json_object_foreach(object, key, v) {
        given g = {.text = key};
        fs_status st = decoder ? read_given(s, file, key, v, &g, err) : FS_OK;
        list[i] = (numbered){g.text, decoder ? v : NULL, decoder ? id_of_key(key) : id_of_number(v), i};
        if (st == FS_OK && (list[i].id < 0 || list[i].id > INT32_MAX / 2 || !*g.text))
            st = fs_fail(err, FS_E_FORMAT, "%s/%s: added token \"%s\" has no proper id", where, file, key);
        if (st) return free(list), st;
        i++;
    }
    qsort(list, n, sizeof *list, by_id);
    for (i = 1; i < n; i++) {
        if (list[i].id != list[i - 1].id) continue;
        fs_fail(err, FS_E_FORMAT, "%s/%s: id %d is given to \"%s\" and to \"%s\"", where, file, list[i].id, list[i - 1].text, list[i].text);
        return free(list), FS_E_FORMAT;
    }
    *out = list, *count = n;
    return FS_OK;
}

/* ---- 4.28 ---- */

static bool has_id_428(const fs_tokenizer *t, const char *text) {
    return strcmp(text, t->unknown_text) == 0 || fs_tokenizer_token_id(t, text, strlen(text)) != t->model.unknown;
}

static fs_status add_428(settings *s, const char *text, bool special, fs_error *err) {
    fs_tokenizer *t = s->t;
    bool fresh = !has_id_428(t, text);
    if (!fresh && !special) return FS_OK; /* already a piece: 4.28 leaves it one */
    fs_added_token *a = find_or_add(t, text, fresh ? t->size : fs_tokenizer_token_id(t, text, strlen(text)), err);
    if (!a) return err ? err->status : FS_E_NO_MEMORY;
    if (fresh) a->listed = a->apart = true, t->size++;
    a->split = true;
    return FS_OK;
}

static fs_status build_428(settings *s, fs_error *err) {
    fs_tokenizer *t = s->t;
    numbered *list = NULL;
    size_t n = 0;
    bool decoder = !s->added; /* a directory that a newer generation saved */
    fs_status st = list_added(s, decoder, &list, &n, err);
    for (size_t i = 0; st == FS_OK && i < n; i++) {
        if (decoder && list[i].id < t->model.count) continue;
        if (list[i].id != t->size || has_id_428(t, list[i].text))
            st = fs_fail(err, FS_E_MISMATCH,
                         "%s: added token \"%s\" has id %d, expected a new token with id %d: added tokens continue the %d pieces of "
                         "tokenizer.model; "
                         "do all tokenizer files come from the same download?",
                         s->files->where, list[i].text, list[i].id, t->size, t->model.count);
        else
            st = add_428(s, list[i].text, is_special_text(s, list[i].text), err);
    }
    for (size_t i = 0; st == FS_OK && i < s->n_special; i++) st = add_428(s, s->special[i].text, true, err);
    free(list);
    for (size_t i = 0; st == FS_OK && i < t->n_added; i++) {
        fs_added_token *a = &t->added[i];
        a->lstrip = a->rstrip = true; /* unless an object says otherwise */
        for (size_t k = 0; k < s->n_special; k++) {
            if (strcmp(s->special[k].text, a->text) != 0) continue;
            a->special = true;
            if (s->special[k].object) a->lstrip = s->special[k].lstrip, a->rstrip = s->special[k].rstrip;
        }
    }
    return st;
}

/* ---- 4.37 ---- */

static fs_status build_437(settings *s, fs_error *err) {
    fs_tokenizer *t = s->t;
    numbered *list = NULL;
    size_t n = 0;
    fs_status st = list_added(s, s->by_decoder, &list, &n, err);
    int32_t next = t->model.count; /* how many different texts have an id */
    for (size_t i = 0; st == FS_OK && i < n; i++) {
        if (fs_tokenizer_added(t, list[i].text, strlen(list[i].text))) {
            st = fs_fail(err, FS_E_FORMAT, "%s: added token \"%s\" has two ids", s->files->where, list[i].text);
            break;
        }
        bool piece = fs_tokenizer_token_id(t, list[i].text, strlen(list[i].text)) != t->model.unknown || list[i].id == t->model.unknown;
        fs_added_token *a = add_entry(t, list[i].text, list[i].id, err);
        if (!a)
            st = err ? err->status : FS_E_NO_MEMORY;
        else
            a->lstrip = flag(list[i].options, "lstrip"), a->rstrip = flag(list[i].options, "rstrip");
        next += !piece;
    }
    free(list);
    for (size_t i = 0; st == FS_OK && i < s->n_special; i++) {
        const given *g = &s->special[i];
        fs_added_token *a = fs_tokenizer_added(t, g->text, strlen(g->text));
        bool new_entry = !a, additional = true;
        for (int k = 0; k < N_ATTRIBUTES; k++) additional &= s->attribute[k] != (int32_t)i;
        if (!a) {
            int32_t id = fs_tokenizer_token_id(t, g->text, strlen(g->text));
            if (id == t->model.unknown && strcmp(g->text, fs_spm_text(&t->model, id)) != 0) id = next++;
            a = add_entry(t, g->text, id, err);
        }
        if (!a) {
            st = err ? err->status : FS_E_NO_MEMORY;
            break;
        }
        /* an object overrides what the token list said, except that the list's entry stands in for it when added_tokens_decoder rules */
        if (new_entry || (g->object && (additional || !s->by_decoder))) a->lstrip = g->lstrip, a->rstrip = g->rstrip;
        a->special = true;
        if (additional && a->id >= t->model.count) a->apart = true;
    }
    for (size_t i = 0; st == FS_OK && i < t->n_added; i++) {
        fs_added_token *a = &t->added[i];
        a->listed = a->split = true;
        if (!a->special) a->apart = true;
        if (a->id >= t->size) t->size = a->id + 1;
    }
    return st;
}

/* ---- all of it ---- */

static fs_status read_switch(const settings *s, const char *name, bool fallback, bool *out, fs_error *err) {
    const json_t *v = json_object_get(s->config, name);
    *out = fallback;
    if (!v) return FS_OK;
    if (!json_is_boolean(v) && !json_is_null(v))
        return fs_fail(err, FS_E_FORMAT, "%s/tokenizer_config.json: %s: expected true or false", s->files->where, name);
    *out = json_is_true(v);
    return FS_OK;
}

fs_status fs_tokenizer_read_settings(fs_tokenizer *t, const fs_tokenizer_files *files, fs_error *err) {
    settings s = {.t = t, .files = files};
    fs_status st = parse_json(&s, "tokenizer_config.json", files->config, &s.config, err);
    if (st == FS_OK) st = parse_json(&s, "special_tokens_map.json", files->special_map, &s.map, err);
    if (st == FS_OK) st = parse_json(&s, "added_tokens.json", files->added, &s.added, err);
    if (st == FS_OK) st = read_switch(&s, "add_bos_token", true, &t->add_bos, err);
    if (st == FS_OK) st = read_switch(&s, "add_eos_token", false, &t->add_eos, err);
    if (st == FS_OK) st = read_switch(&s, "clean_up_tokenization_spaces", false, &t->clean_up, err);
    if (st == FS_OK) st = read_switch(&s, "legacy", true, &t->legacy, err);
    if (st) goto done;
    if (t->rules == FS_RULES_428 || json_is_null(json_object_get(s.config, "legacy"))) t->legacy = true;
    s.by_decoder = t->rules == FS_RULES_437 && json_object_get(s.config, "added_tokens_decoder");
    t->size = t->model.count;
    if ((st = collect_special(&s, err))) goto done;
    t->unknown_text = fs_strdup(s.special[s.attribute[UNK]].text);
    if (!t->unknown_text) {
        st = out_of_memory(err);
        goto done;
    }
    st = t->rules == FS_RULES_428 ? build_428(&s, err) : build_437(&s, err);
    if (st) goto done;
    for (size_t i = 0; i < t->n_added; i++)
        if (t->added[i].split) t->first_byte[(unsigned char)t->added[i].text[0]] = true;
    t->bos = t->eos = -1;
    for (int a = BOS; a <= EOS; a++) {
        if (s.attribute[a] < 0) continue;
        const char *text = s.special[s.attribute[a]].text;
        *(a == BOS ? &t->bos : &t->eos) = fs_tokenizer_token_id(t, text, strlen(text));
    }
    if ((t->add_bos && t->bos < 0) || (t->add_eos && t->eos < 0))
        st = fs_fail(err, FS_E_FORMAT, "%s/tokenizer_config.json: add_%s_token is true, but %s_token is null", files->where,
                     t->bos < 0 ? "bos" : "eos", t->bos < 0 ? "bos" : "eos");
done:
    free(s.special);
    json_decref(s.config);
    json_decref(s.map);
    json_decref(s.added);
    return st;
}
