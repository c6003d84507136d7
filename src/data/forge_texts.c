/* Expanding the grammar. A rule is a list of alternatives, one of which is drawn. In an alternative, {name} is a fact and [rule] another
 * rule; a rule's name may hold facts: [what/{region}]. [cues] is what stands for the picture's cues, rule cue/NAME for each. A sentence
 * begins with a capital. */
#include "data/forge_texts.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "data/forge_texts_builtin.h"
#include "format/json.h"

enum { MAX_DEPTH = 16, MAX_TEXT = 8192, MAX_NAME = 96, MAX_RULES = 10000 };

struct fs_texts {
    json_t *root;
    json_t *rules;
    char sha256[65];
    char *name; /* for error lines */
};

typedef struct expansion {
    const fs_texts *texts;
    const fs_facts *facts;
    fs_rng *rng;
    fs_buffer out;
    int rules; /* expanded so far: rules may grow without writing anything */
    fs_error *err;
} expansion;

static const char *const slots[] = {"position", "size", "what", "a_what", "percent", "type", "region", NULL};

static bool is_slot(const char *name, size_t n) {
    for (int i = 0; slots[i]; i++)
        if (strlen(slots[i]) == n && memcmp(slots[i], name, n) == 0) return true;
    return false;
}

/* Every alternative must be text whose brackets pair, name known facts, and known rules where no fact is part of the name. */
static fs_status check_alternative(const fs_texts *t, const char *rule, const char *text, fs_error *err) {
    if (strlen(text) > MAX_TEXT / 4)
        return fs_fail(err, FS_E_LIMIT, "%s: rule \"%s\": an alternative of %zu bytes; at most %d", t->name, rule, strlen(text),
                       MAX_TEXT / 4);
    for (const char *p = text; *p; p++) {
        if (*p == ']' || *p == '}')
            return fs_fail(err, FS_E_FORMAT, "%s: rule \"%s\": a closing \"%c\" without its opening one in \"%.60s\"", t->name, rule, *p,
                           text);
        if (*p != '[' && *p != '{') continue;
        char close = *p == '[' ? ']' : '}';
        const char *end = strchr(p, close);
        if (!end) return fs_fail(err, FS_E_FORMAT, "%s: rule \"%s\": \"%c\" is not closed in \"%.60s\"", t->name, rule, *p, text);
        size_t n = (size_t)(end - p - 1);
        char name[MAX_NAME];
        if (n >= sizeof name)
            return fs_fail(err, FS_E_LIMIT, "%s: rule \"%s\": a name of %zu bytes; at most %d", t->name, rule, n, MAX_NAME - 1);
        memcpy(name, p + 1, n);
        name[n] = '\0';
        if (close == '}' && !is_slot(name, n))
            return fs_fail(err, FS_E_FORMAT, "%s: rule \"%s\": {%s} is no fact (docs/forge.md lists them)", t->name, rule, name);
        if (close == ']' && !strchr(name, '{') && strcmp(name, "cues") != 0 && !json_object_get(t->rules, name))
            return fs_fail(err, FS_E_FORMAT, "%s: rule \"%s\" names [%s], which is not there", t->name, rule, name);
        p = end;
    }
    return FS_OK;
}

static fs_status check_rules(const fs_texts *t, fs_error *err) {
    const char *rule;
    json_t *list, *item;
    size_t i;
    static const char *const needed[] = {"tampered", "authentic"};
    for (i = 0; i < 2; i++)
        if (!json_object_get(t->rules, needed[i])) return fs_fail(err, FS_E_FORMAT, "%s: the rule \"%s\" is missing", t->name, needed[i]);
    json_object_foreach(t->rules, rule, list) {
        if (!json_is_array(list) || !json_array_size(list))
            return fs_fail(err, FS_E_FORMAT, "%s: rule \"%s\" is not a list of alternatives", t->name, rule);
        json_array_foreach(list, i, item) {
            if (!json_is_string(item))
                return fs_fail(err, FS_E_FORMAT, "%s: rule \"%s\": alternative %zu is not text", t->name, rule, i + 1);
            fs_status status = check_alternative(t, rule, json_string_value(item), err);
            if (status) return status;
        }
    }
    return FS_OK;
}

fs_status fs_texts_parse(const char *name, const void *data, size_t size, fs_texts **out, fs_error *err) {
    fs_json json = {0};
    fs_texts *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t || !(t->name = fs_strdup(name))) {
        free(t);
        return fs_fail(err, FS_E_NO_MEMORY, "no memory for the texts' grammar");
    }
    fs_status status = fs_json_parse(t->name, data, size, &json, err);
    if (!status) {
        fs_sha256_hex(data, size, t->sha256);
        t->root = json_incref(json.root);
        t->rules = json_object_get(t->root, "rules");
        status = json_is_object(t->rules)
                     ? check_rules(t, err)
                     : fs_fail(err, FS_E_FORMAT, "%s: \"rules\" is missing; expected an object of lists of texts", t->name);
    }
    fs_json_close(&json);
    if (status)
        fs_texts_close(t);
    else
        *out = t;
    return status;
}

fs_status fs_texts_open(const char *path, fs_texts **out, fs_error *err) {
    uint8_t *bytes = NULL;
    size_t size = 0;
    *out = NULL;
    if (!path) return fs_texts_parse("the built-in texts", fs_forge_texts_builtin, fs_forge_texts_builtin_size, out, err);
    fs_status status = fs_read_file(path, (size_t)1 << 24, &bytes, &size, err);
    if (!status) status = fs_texts_parse(path, bytes, size, out, err);
    free(bytes);
    return status;
}

void fs_texts_close(fs_texts *t) {
    if (!t) return;
    json_decref(t->root);
    free(t->name);
    free(t);
}

const char *fs_texts_sha256(const fs_texts *t) {
    return t->sha256;
}

static void put_slot(const fs_facts *f, const char *name, size_t n, fs_buffer *out) {
    const char *what = f->what ? f->what : f->region;
    if (n == 8 && memcmp(name, "position", n) == 0)
        fs_buffer_puts(out, f->words.position_word);
    else if (n == 4 && memcmp(name, "size", n) == 0)
        fs_buffer_puts(out, f->words.size_word);
    else if (n == 4 && memcmp(name, "what", n) == 0)
        fs_buffer_puts(out, what);
    else if (n == 6 && memcmp(name, "a_what", n) == 0)
        fs_buffer_printf(out, "%s %s", strchr("aeiou", tolower((unsigned char)*what)) ? "an" : "a", what);
    else if (n == 7)
        fs_buffer_printf(out, "%d", (int)fmax(1, 100 * f->words.area + 0.5));
    else if (n == 4)
        fs_buffer_puts(out, f->type);
    else
        fs_buffer_puts(out, f->region);
}

static fs_status expand_text(expansion *e, const char *text, size_t n, int depth);

static fs_status expand_rule(expansion *e, const char *rule, int depth) {
    const json_t *list = json_object_get(e->texts->rules, rule);
    if (depth > MAX_DEPTH)
        return fs_fail(e->err, FS_E_LIMIT, "%s: rule \"%s\" goes more than %d rules deep", e->texts->name, rule, MAX_DEPTH);
    if (++e->rules > MAX_RULES) return fs_fail(e->err, FS_E_LIMIT, "%s: a text of more than %d rules", e->texts->name, MAX_RULES);
    if (!list) return fs_fail(e->err, FS_E_FORMAT, "%s: the rule \"%s\" is missing", e->texts->name, rule);
    const json_t *item = json_array_get(list, (size_t)fs_dice_below(e->rng, (int64_t)json_array_size(list)));
    return expand_text(e, json_string_value(item), json_string_length(item), depth + 1);
}

static fs_status expand_cues(expansion *e, int depth) {
    fs_status status = FS_OK;
    for (int i = 0; i < e->facts->n_cues && !status; i++) {
        char rule[MAX_NAME];
        snprintf(rule, sizeof rule, "cue/%s", e->facts->cues[i]);
        if (i) fs_buffer_puts(&e->out, " ");
        status = expand_rule(e, rule, depth);
    }
    return status;
}

static fs_status expand_text(expansion *e, const char *text, size_t n, int depth) {
    fs_status status = FS_OK;
    const char *end = text + n;
    for (const char *p = text; p < end && !status; p++) {
        if (e->out.size > MAX_TEXT) return fs_fail(e->err, FS_E_LIMIT, "%s: the text grows over %d bytes", e->texts->name, MAX_TEXT);
        if (*p == '{') {
            const char *close = memchr(p, '}', (size_t)(end - p));
            put_slot(e->facts, p + 1, (size_t)(close - p - 1), &e->out);
            p = close;
        } else if (*p == '[') {
            const char *close = memchr(p, ']', (size_t)(end - p));
            fs_buffer name = {0};
            for (const char *q = p + 1; q < close; q++) {
                const char *inner = *q == '{' ? memchr(q, '}', (size_t)(close - q)) : NULL;
                if (inner) {
                    put_slot(e->facts, q + 1, (size_t)(inner - q - 1), &name);
                    q = inner;
                } else {
                    fs_buffer_add(&name, q, 1);
                }
            }
            if (name.failed)
                status = fs_fail(e->err, FS_E_NO_MEMORY, "no memory for a text");
            else if (!name.size)
                status = fs_fail(e->err, FS_E_FORMAT, "%s: a rule without a name: []", e->texts->name);
            else if (strcmp(name.data, "cues") == 0)
                status = expand_cues(e, depth);
            else
                status = expand_rule(e, name.data, depth);
            fs_buffer_free(&name);
            p = close;
        } else {
            fs_buffer_add(&e->out, p, 1);
        }
    }
    return status;
}

static void capitalize(char *text) {
    bool begin = true;
    for (char *p = text; *p; p++) {
        if (begin && isalpha((unsigned char)*p))
            *p = (char)toupper((unsigned char)*p), begin = false;
        else if (*p == '.' && (p[1] == ' ' || p[1] == '\n'))
            begin = true;
        else if (*p != ' ' && *p != '\n')
            begin = false;
    }
}

fs_status fs_texts_answer(const fs_texts *t, const fs_facts *facts, bool tampered, fs_rng *rng, char **out, fs_error *err) {
    expansion e = {.texts = t, .facts = facts, .rng = rng, .err = err};
    fs_status status = expand_rule(&e, tampered ? "tampered" : "authentic", 0);
    if (!status && e.out.failed) status = fs_fail(err, FS_E_NO_MEMORY, "no memory for a text");
    if (!status && !e.out.size)
        status = fs_fail(err, FS_E_FORMAT, "%s: the rule \"%s\" makes an empty text", t->name, tampered ? "tampered" : "authentic");
    if (status) {
        fs_buffer_free(&e.out);
        return status;
    }
    capitalize(e.out.data);
    *out = e.out.data;
    return FS_OK;
}
