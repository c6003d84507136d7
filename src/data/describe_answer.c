/* dataset describe: the instructions (share/describe_instructions.json), the service's replies, and which answers can be used: both items
 * of the trained form there (spec 4.6), the verdict's sentence in the first, nothing that speaks of the mask or of the instructions. */
#include "data/describe.h"
#include "data/describe_instructions.h"
#include "text/text.h"
#include "text/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FILE_LIMIT = 1 << 20 };

/* ---- instructions -------------------------------------------------------------------------------------------------- */

static fs_status read_forbidden(describe_instructions *d, fs_error *err) {
    const json_t *list = json_object_get(d->json.root, "forbidden");
    const size_t n = json_array_size(list);
    d->forbidden = fs_alloc_zero(n + 1, sizeof *d->forbidden);
    if (!d->forbidden) return fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", d->json.path);
    for (size_t i = 0; i < n; i++) {
        d->forbidden[i] = json_string_value(json_array_get(list, i));
        if (!d->forbidden[i] || !*d->forbidden[i])
            return fs_fail(err, FS_E_MISMATCH, "%s: field forbidden[%zu]: expected a string", d->json.path, i);
    }
    return FS_OK;
}

fs_status describe_instructions_open(const char *path, describe_instructions *out, fs_error *err) {
    fs_json domains = {0};
    uint8_t *data = NULL;
    size_t size = 0;
    *out = (describe_instructions){.least = 1, .most = 100000};
    fs_status status = path ? fs_read_file(path, FILE_LIMIT, &data, &size, err) : FS_OK;
    if (!status) {
        status = fs_json_parse(path ? path : "describe_instructions.json", path ? (const void *)data : fs_describe_instructions_builtin,
                               path ? size : fs_describe_instructions_builtin_size, &out->json, err);
    }
    const struct {
        const char *name;
        const char **target;
    } fields[] = {
        {"system", &out->system},
        {"tampered", &out->tampered},
        {"authentic", &out->authentic},
        {"again", &out->again},
        {"view_mask", &out->views[FS_VIEW_MASK]},
        {"view_overlay", &out->views[FS_VIEW_OVERLAY]},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields && !status; i++)
        status = fs_json_string(&out->json, fields[i].name, FS_JSON_REQUIRED, fields[i].target, err);
    if (!status) status = fs_json_object(&out->json, "domains", FS_JSON_REQUIRED, &domains, err);
    for (int i = 0; i < 3 && !status; i++)
        status = fs_json_string(&domains, fs_domain_name((fs_domain)i), FS_JSON_REQUIRED, &out->domains[i], err);
    if (!status) status = fs_json_int(&out->json, "least_characters", FS_JSON_OPTIONAL, 1, 100000, &out->least, err);
    if (!status) status = fs_json_int(&out->json, "most_characters", FS_JSON_OPTIONAL, 1, 100000, &out->most, err);
    if (!status) status = read_forbidden(out, err);
    fs_json_close(&domains); /* its strings belong to the document, which stays */
    free(data);
    if (status) describe_instructions_close(out);
    return status;
}

void describe_instructions_close(describe_instructions *d) {
    fs_json_close(&d->json);
    free(d->forbidden);
    *d = (describe_instructions){0};
}

/* ---- replies ------------------------------------------------------------------------------------------------------- */

static int64_t count_of(const json_t *usage, const char *name) {
    const json_int_t n = json_integer_value(json_object_get(usage, name));
    return n < 0 || n > 1000000000 ? 0 : n;
}

fs_status describe_reply_parse(const char *data, size_t size, describe_reply *out, fs_error *err) {
    json_error_t why;
    *out = (describe_reply){0};
    json_t *root = json_loadb(data, size, 0, &why);
    const json_t *choice = json_array_get(json_object_get(root, "choices"), 0), *message = json_object_get(choice, "message");
    const json_t *content = json_object_get(message, "content"), *usage = json_object_get(root, "usage");
    const char *text = json_string_value(content), *finish = json_string_value(json_object_get(choice, "finish_reason"));
    const char *refusal = json_string_value(json_object_get(message, "refusal"));
    if (!text && json_is_array(content))
        text = json_string_value(json_object_get(json_array_get(content, 0), "text")); /* parts; the first has it */
    fs_status status = FS_OK;
    if (!root) {
        status = fs_fail(err, FS_E_FORMAT, "the reply is no JSON (line %d: %s)", why.line, why.text);
    } else if (!text || !*text) {
        status = refusal ? fs_fail(err, FS_E_FORMAT, "the model refuses: %s", refusal)
                         : fs_fail(err, FS_E_FORMAT, "the reply has no choices[0].message.content with a text");
    } else {
        out->text = fs_strdup(text);
        out->cut = finish && strcmp(finish, "length") == 0;
        out->tokens_in = count_of(usage, "prompt_tokens"), out->tokens_out = count_of(usage, "completion_tokens");
        if (!out->text) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for an answer");
    }
    json_decref(root);
    return status;
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */

/* The first place of `word` at or behind p, letter case aside. */
static const char *find(const char *p, const char *word) {
    return p ? strcasestr(p, word) : NULL;
}

/* Without Markdown's stars, hashes and fences, and without white space at both ends. malloc'ed. */
static char *plain(const char *s) {
    fs_buffer b = {0}, clean = {0};
    fs_buffer_puts(&clean, "");
    fs_utf8_clean(&clean, s, strlen(s));
    fs_buffer_puts(&b, "");
    bool line = true;
    for (const char *p = clean.data; p && *p; p++) {
        if (p[0] == '*' && p[1] == '*')
            p++;
        else if (line && *p == '#')
            continue;
        else if (strncmp(p, "```", 3) == 0)
            p += 2 + strcspn(p + 3, "\n");
        else if (*p != '\r')
            fs_buffer_add(&b, p, 1), line = *p == '\n' || (line && *p == ' ');
    }
    fs_buffer_free(&clean);
    if (b.failed) {
        fs_buffer_free(&b);
        return NULL;
    }
    char *begin = b.data, *end = b.data + b.size;
    while (begin < end && strchr(" \t\n", *begin)) begin++;
    while (end > begin && strchr(" \t\n", end[-1])) end--;
    *end = 0;
    char *out = fs_strdup(begin);
    fs_buffer_free(&b);
    return out;
}

static bool trim_between(const char *begin, const char *end, const char **out, int *size) {
    while (begin < end && strchr(" \t\n:", *begin)) begin++;
    while (end > begin && strchr(" \t\n", end[-1])) end--;
    *out = begin, *size = (int)(end - begin);
    return end > begin;
}

/* The end of what is in front of a heading, without the heading's number "2.", "2)" or "(2)". */
static const char *without_number(const char *begin, const char *end) {
    const char *p = end;
    while (p > begin && (p[-1] == ' ' || p[-1] == '\t')) p--;
    if (p > begin && (p[-1] == '.' || p[-1] == ')')) p--;
    if (p == begin || p[-1] != '2') return end;
    p--;
    return p > begin && p[-1] == '(' ? p - 1 : p;
}

/* What keeps this text from being used, or NULL. area and basis point into it. */
static const char *fault(const describe_instructions *d, const char *text, fs_verdict label, const char **area, int *area_size,
                         const char **basis, int *basis_size, char room[200]) {
    static const char first[] = "Description of the tampered area:", second[] = "Judgment basis:";
    const char *one = find(text, first), *two = find(one, second);
    if (!one || one - text > 100)
        return "it does not begin with \"1. Whether the picture has been tampered with / Description of the tampered area:\"";
    if (!two) return "the part \"2. Judgment basis:\" is missing";
    const char *end = without_number(one, two);
    if (!trim_between(one + sizeof first - 1, end, area, area_size)) return "its first part is empty";
    if (!trim_between(two + sizeof second - 1, text + strlen(text), basis, basis_size)) return "its second part is empty";
    char *verdict = fs_format("%.*s", *area_size, *area);
    if (!verdict) return "out of memory";
    const bool says_authentic = fs_answer_says_authentic(verdict), says_tampered = find(verdict, "has been tampered with") != NULL;
    free(verdict);
    if (label == FS_VERDICT_AUTHENTIC && !says_authentic) return "its first part does not say \"The picture has not been tampered with\"";
    if (label == FS_VERDICT_TAMPERED && (says_authentic || !says_tampered))
        return "its first part does not say \"The picture has been tampered with\"";
    if (label == FS_VERDICT_TAMPERED && fs_answer_says_authentic(text)) return "it says too that the picture has not been tampered with";
    const size_t n = strlen(text);
    if (n < (size_t)d->least) return "it is too short";
    if (n > (size_t)d->most) return "it is too long";
    for (size_t i = 0; d->forbidden[i]; i++)
        if (find(text, d->forbidden[i])) {
            snprintf(room, 200, "it has the words \"%.100s\"", d->forbidden[i]);
            return room;
        }
    return NULL;
}

fs_status describe_answer_check(const describe_instructions *d, const char *answer, fs_verdict label, char **text, char problem[200],
                                fs_error *err) {
    const char *area = "", *basis = "";
    int area_size = 0, basis_size = 0;
    char room[200];
    char *bare = plain(answer);
    *text = NULL;
    if (!bare) return fs_fail(err, FS_E_NO_MEMORY, "out of memory for an answer");
    const char *wrong = fault(d, bare, label, &area, &area_size, &basis, &basis_size, room);
    if (wrong) {
        snprintf(problem, 200, "%s", wrong);
    } else {
        *problem = 0;
        *text =
            fs_format("1. Whether the picture has been tampered with / Description of the tampered area: %.*s\n\n2. Judgment basis: %.*s",
                      area_size, area, basis_size, basis);
    }
    free(bare);
    return wrong || *text ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory for an answer");
}
