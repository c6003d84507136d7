/* What a checkpoint directory, one of its parts or one weight file holds: gathered here as a JSON tree (describe.h), from headers only, so
 * that a 45 GB checkpoint is described in a moment. A part that is missing or broken is reported, with where to get it, and does
 * not stop the rest. Names of tensors and parts: spec section 2. */
#include "pipeline/describe.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "format/json.h"
#include "pipeline/bundle.h"
#include "pipeline/llava_gguf.h"
#include "tensor/packed.h"

enum { PROMPT_TOKENS = 1024 }; /* of them at most in front of the answer */
enum { TEXT_TOKENS = 2048 }; /* the length of text for which memory is stated: 576 + about 140 of prompt, the rest of answer */

/* ---- which network a tensor belongs to ---- */

typedef struct rule { const char *prefix, *component; bool used; } rule;
static const rule rules[] = { /* the first prefix that fits decides */
    {"model.vision_tower.", "CLIP vision tower", true},
    {"model.mm_projector.", "projector", true},
    {"model.text_hidden_fcs.", "[SEG] projection", true},
    {"model.grounding_encoder.image_encoder.", "SAM image encoder", true},
    {"model.grounding_encoder.prompt_encoder.", "SAM prompt encoder", true},
    {"model.grounding_encoder.mask_decoder.", "SAM mask decoder", true},
    {"model.region_encoder.", "region encoder", true},
    {"model.layers.", "language model", true},
    {"model.embed_tokens.", "language model", true},
    {"model.norm.", "language model", true},
    {"lm_head.", "language model", true},
    {"vision_model.", "CLIP vision tower", true},
    /* a bundle's names (docs/bundle.md) */
    {"token_embd.", "language model", true},
    {"blk.", "language model", true},
    {"output", "language model", true},
    {"clip.", "CLIP vision tower", true},
    {"dte.mm_projector.", "projector", true},
    {"mflm.mm_projector.", "projector", true},
    {"mflm.text_hidden_fcs.", "[SEG] projection", true},
    {"sam.enc.", "SAM image encoder", true},
    {"sam.prompt.", "SAM prompt encoder", true},
    {"sam.dec.", "SAM mask decoder", true},
    {"region.", "region encoder", true},
    {"dtg.", "ResNet-50", true},
    /* an mmproj file's (llava_gguf.h) */
    {"v.", "CLIP vision tower", true},
    {"mm.", "projector", true},
    {"text_model.", "CLIP text model (unused)", false},
    {"visual_projection.", "CLIP text model (unused)", false},
    {"text_projection.", "CLIP text model (unused)", false},
    {"logit_scale", "CLIP text model (unused)", false},
    {"image_encoder.", "SAM image encoder", true},
    {"prompt_encoder.", "SAM prompt encoder", true},
    {"mask_decoder.", "SAM mask decoder", true},
    {"conv1.", "ResNet-50", true},
    {"bn1.", "ResNet-50", true},
    {"layer", "ResNet-50", true},
    {"fc.", "ResNet-50", true},
    {"", "other", false},
};

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

static const rule *rule_of(const char *name) {
    static const rule buffers = {"", "buffers (unused)", false};
    if (ends_with(name, "rotary_emb.inv_freq") || ends_with(name, "position_ids") || ends_with(name, "num_batches_tracked"))
        return &buffers;
    const rule *r = rules;
    while (strncmp(name, r->prefix, strlen(r->prefix)) != 0) r++;
    return r;
}

/* ---- counting ---- */

/* The object in `list` whose `key` is `value`; appended if new. Lists here are short. */
static json_t *entry_of(json_t *list, const char *key, const char *value) {
    size_t i;
    json_t *e;
    json_array_foreach(list, i, e)
        if (strcmp(json_string_value(json_object_get(e, key)), value) == 0) return e;
    e = json_pack("{s:s, s:i, s:i, s:i}", key, value, "tensors", 0, "parameters", 0, "bytes", 0);
    json_array_append_new(list, e);
    return e;
}

static void add(json_t *object, const char *key, int64_t n) {
    json_object_set_new(object, key, json_integer(json_integer_value(json_object_get(object, key)) + n));
}

static void count_into(json_t *object, int64_t parameters, size_t bytes) {
    add(object, "tensors", 1);
    add(object, "parameters", parameters);
    add(object, "bytes", (int64_t)bytes);
}

static void note_dtype(json_t *component, const char *dtype) {
    json_t *list = json_object_get(component, "dtypes"), *e;
    size_t i;
    if (!list) {
        list = json_array();
        json_object_set_new(component, "dtypes", list);
    }
    json_array_foreach(list, i, e)
        if (strcmp(json_string_value(e), dtype) == 0) return;
    json_array_append_new(list, json_string(dtype));
}

static int64_t file_bytes(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 ? (int64_t)st.st_size : 0;
}

static void note_file(json_t *files, const char *path, const char **last) {
    size_t i;
    json_t *e;
    if (*last == path) return; /* names of one file are one string */
    *last = path;
    json_array_foreach(files, i, e)
        if (strcmp(json_string_value(json_object_get(e, "name")), fs_path_base(path)) == 0) return;
    /* a name that is no UTF-8 is left out */
    json_array_append_new(files, json_pack("{s:s, s:I}", "name", fs_path_base(path), "bytes", (json_int_t)file_bytes(path)));
}

static int by_name(const void *x, const void *y) {
    const char *a = json_string_value(json_object_get(*(json_t *const *)x, "name")),
               *b = json_string_value(json_object_get(*(json_t *const *)y, "name"));
    return strcmp(a ? a : "", b ? b : "");
}

/* Takes the list and gives back one in order of names (tensors are sorted by theirs, so shards come in any order). */
static json_t *sorted_files(json_t *files) {
    size_t n = json_array_size(files), i;
    json_t **order = fs_alloc(n + 1, sizeof *order), *e, *out = json_array();
    if (!order) return json_decref(out), files;
    json_array_foreach(files, i, e) order[i] = e;
    qsort(order, n, sizeof *order, by_name);
    for (i = 0; i < n; i++) json_array_append(out, order[i]);
    free(order);
    json_decref(files);
    return out;
}

static json_t *shape_list(const fs_tensor *t) {
    json_t *list = json_array();
    for (int d = 0; d < t->ndim; d++) json_array_append_new(list, json_integer(t->shape[d]));
    return list;
}

/* What is learnt of a part that the memory plan needs. */
typedef struct facts {
    bool found, has_clip, has_sam, blocks; /* blocks: the language model is of block types */
    size_t used[2], packed[2];             /* bytes of what each stage's networks use, and of those the part that is packed */
    size_t text_bytes, prompt_bytes;       /* keys and values of TEXT_TOKENS; activations of a prompt's layer */
    size_t sam_bytes;                      /* activations of a layer of SAM's image encoder */
    int64_t lm_parameters;
    size_t lm_bytes;
    char *tower;
} facts;

/* Does the tensor take memory of its own, in the kernels' order, once it has been used? The table of embeddings is only looked up in. */
static bool is_packed(const char *name, const fs_tensor *t) {
    return t->ndim == 2 && fs_dtype_is_block(t->dtype) && strcmp(name, "token_embd.weight") != 0;
}

/* Does the stage (0 or 1) run this network? Language models and what is named after one are in their own stage's file or prefix. */
static bool belongs(const char *component, const char *name, int stage) {
    static const char *const only[2][4] = {{"ResNet-50", "", "", "dte."}, {"SAM", "[SEG]", "region", "mflm."}};
    for (int i = 0; i < 4; i++) {
        const char *other = only[1 - stage][i], *looked_at = i == 3 ? name : component;
        if (*other && strncmp(looked_at, other, strlen(other)) == 0) return false;
    }
    return true;
}

/* Working space of a layer of SAM's image encoder, from the table of positions [1,g,g,C]: twelve matrices [g*g, C] of f32 at a time. */
static void note_sam(facts *f, const char *name, const fs_tensor *t) {
    if (t->ndim == 4 && (strcmp(name, "sam.enc.pos_embed") == 0 || ends_with(name, "image_encoder.pos_embed")))
        f->sam_bytes = (size_t)fs_tensor_count(t) * 12 * sizeof(float);
}

/* Fills a part from its archive, and what is learnt of it into *f. */
static void describe_tensors(json_t *part, const fs_archive *a, bool list_tensors, facts *f) {
    json_t *files = json_array(), *dtypes = json_array(), *components = json_array(), *list = list_tensors ? json_array() : NULL;
    const char *last = NULL;
    for (size_t i = 0; i < fs_archive_count(a); i++) {
        fs_archive_entry e = fs_archive_get(a, i);
        const rule *r = rule_of(e.name);
        const char *dtype = fs_dtype_name(e.tensor->dtype);
        int64_t n = fs_tensor_count(e.tensor);
        size_t bytes = 0;
        if (!fs_dtype_bytes(e.tensor->dtype, e.tensor->ndim, e.tensor->shape, &bytes)) continue;
        note_file(files, e.file, &last);
        count_into(part, n, bytes);
        count_into(entry_of(dtypes, "dtype", dtype), n, bytes);
        json_t *component = entry_of(components, "name", r->component);
        count_into(component, n, bytes);
        note_dtype(component, dtype);
        for (int stage = 0; stage < 2 && r->used; stage++) {
            if (!belongs(r->component, e.name, stage)) continue;
            f->used[stage] += bytes;
            f->packed[stage] += is_packed(e.name, e.tensor) ? bytes : 0;
        }
        if (strcmp(r->component, "language model") == 0) {
            f->lm_parameters += n;
            f->lm_bytes += bytes;
            f->blocks |= fs_dtype_is_block(e.tensor->dtype);
        }
        note_sam(f, e.name, e.tensor);
        if (list)
            json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:s}", "name", e.name, "dtype", dtype, "shape", shape_list(e.tensor),
                                                  "file", fs_path_base(e.file)));
    }
    json_object_set_new(part, "files", sorted_files(files));
    json_object_set_new(part, "dtypes", dtypes);
    json_object_set_new(part, "components", components);
    if (list) json_object_set_new(part, "tensor_list", list);
}

/* ---- the report ---- */

typedef struct report {
    json_t *root, *parts, *problems, *memory;
    bool list_tensors;
} report;

static void problem(report *r, const fs_error *err) { json_array_append_new(r->problems, json_string(err->message)); }

static void set_string(json_t *o, const char *key, const char *value) {
    if (value) json_object_set_new(o, key, json_string(value));
}

static const char *stored_name(fs_dtype t) { return t == FS_DTYPE_BF16 ? "bfloat16" : t == FS_DTYPE_F16 ? "float16" : "float32"; }

static fs_status describe_lm(json_t *part, const char *dir, facts *f, fs_error *err) {
    fs_lm_config c;
    fs_status status = fs_lm_config_read(dir, &c, err);
    if (status) return status;
    const fs_llama_config *g = &c.llama;
    json_t *config =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:s, s:b}", "layers", (json_int_t)g->layers, "hidden_size",
                  (json_int_t)g->hidden, "heads", (json_int_t)g->heads, "kv_heads", (json_int_t)g->kv_heads, "intermediate_size",
                  (json_int_t)g->intermediate, "vocab_size", (json_int_t)g->vocab, "max_positions", (json_int_t)g->max_positions,
                  "rms_norm_eps", (double)g->eps, "torch_dtype", stored_name(c.stored), "pad_image", (int)c.pad_image);
    set_string(config, "vision_tower", c.vision_tower);
    json_object_set_new(part, "config", config);
    /* keys and values of every layer, in F32; halved below where they are kept in 16 bits */
    f->text_bytes = (size_t)(2 * g->layers * g->kv_heads * (g->hidden / g->heads)) * sizeof(float) * TEXT_TOKENS;
    /* a layer at work on a prompt: states, their norm, q, k, v, attention; gate, up and their product */
    f->prompt_bytes = (size_t)(6 * g->hidden + 3 * g->intermediate) * sizeof(float) * PROMPT_TOKENS;
    f->tower = fs_strdup(c.vision_tower);
    fs_lm_config_free(&c);
    return FS_OK;
}

static fs_status describe_clip(json_t *part, const char *dir, fs_error *err) {
    fs_clip_config c;
    fs_status status = fs_clip_config_read(dir, &c, err);
    if (status) return status;
    json_object_set_new(part, "config",
                        json_pack("{s:I, s:I, s:I, s:I, s:I, s:I}", "layers", (json_int_t)c.layers, "hidden_size", (json_int_t)c.hidden,
                                  "heads", (json_int_t)c.heads, "intermediate_size", (json_int_t)c.intermediate, "image_size",
                                  (json_int_t)c.image_size, "patch_size", (json_int_t)c.patch_size));
    return FS_OK;
}

static bool has_component(const json_t *part, const char *name) {
    size_t i;
    json_t *e;
    json_array_foreach(json_object_get(part, "components"), i, e)
        if (strcmp(json_string_value(json_object_get(e, "name")), name) == 0) return true;
    return false;
}

typedef enum config_kind { CONFIG_NONE, CONFIG_LM, CONFIG_CLIP } config_kind;

/* Adds a part that is there. A failure is put among the problems and given back too, for callers who have only this part. */
static fs_status add_part(report *r, const char *name, const char *role, const char *path, config_kind kind, facts *f, fs_error *err) {
    fs_archive *a = NULL;
    json_t *part = json_pack("{s:s, s:s, s:b, s:s}", "name", name, "role", role, "found", 1, "path", path);
    json_array_append_new(r->parts, part);
    f->found = true;
    fs_status status = kind == CONFIG_LM ? describe_lm(part, path, f, err) : kind == CONFIG_CLIP ? describe_clip(part, path, err) : FS_OK;
    if (status) problem(r, err);
    fs_error why;
    fs_status opened = fs_archive_open(path, &a, &why);
    if (opened) {
        problem(r, &why);
        *err = why;
        return opened;
    }
    set_string(part, "format", fs_archive_kind(a));
    describe_tensors(part, a, r->list_tensors, f);
    if (f->blocks) f->text_bytes /= 2; /* as FS_KV_AUTO has it */
    f->has_clip = has_component(part, "CLIP vision tower");
    f->has_sam =
        has_component(part, "SAM image encoder") && has_component(part, "SAM mask decoder") && has_component(part, "SAM prompt encoder");
    fs_archive_free(a);
    return status;
}

static const char from_fakeshield[] = "huggingface.co/zhipeixu/fakeshield-v1-22b";
static const char from_clip[] = "huggingface.co/openai/clip-vit-large-patch14-336";
static const char from_sam[] = "sam_vit_h_4b8939.pth, linked from github.com/facebookresearch/segment-anything";

static void add_missing(report *r, const char *name, const char *role, bool needed, const char *get) {
    json_array_append_new(
        r->parts, json_pack("{s:s, s:s, s:b, s:b, s:s}", "name", name, "role", role, "found", 0, "needed", (int)needed, "get", get));
    if (!needed) return;
    fs_error err;
    fs_fail(&err, FS_E_NOT_FOUND, "%s is missing: get it from %s", name, get);
    problem(r, &err);
}

/* What a stage needs: its language model, and what of the vision parts goes with it (which may be several files). */
typedef struct needs { size_t mapped, packed, text, activations; int64_t lm_parameters; size_t lm_bytes; } needs;

static needs needs_of(int stage, const facts *lm, const facts *const vision[3]) {
    needs n = {.mapped = lm->used[stage] - lm->packed[stage], .packed = lm->packed[stage], .text = lm->text_bytes, .activations = lm->prompt_bytes,
               .lm_parameters = lm->lm_parameters, .lm_bytes = lm->lm_bytes};
    for (int i = 0; i < 3 && vision[i]; i++) {
        n.mapped += vision[i]->used[stage] - vision[i]->packed[stage];
        n.packed += vision[i]->packed[stage];
    }
    return n;
}

static size_t peak_of(const needs *n) { return n->mapped + n->packed + n->text + n->activations; }

static void add_memory(report *r, const char *stage, const needs *n) {
    const size_t weights = n->mapped + n->packed;
    json_array_append_new(r->memory, json_pack("{s:s, s:I, s:I, s:I, s:i, s:I, s:I, s:I, s:I}", "stage", stage, "weights", (json_int_t)weights, "mapped",
                                               (json_int_t)n->mapped, "packed", (json_int_t)n->packed, "text_tokens", (int)TEXT_TOKENS, "text_bytes",
                                               (json_int_t)n->text, "activations", (json_int_t)n->activations, "total", (json_int_t)(weights + n->text),
                                               "peak", (json_int_t)peak_of(n)));
}

/* The finest type of a bundle in which both stages fit into `free` bytes, among those smaller than what is there; NULL: none does. */
static const char *type_that_fits(const needs n[2], size_t free) {
    static const struct { const char *name; double bytes; } types[] = {{"f16", 2}, {"q8_0", 34.0 / 32}, {"q4_k", 144.0 / 256}};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        bool fits = true, smaller = false;
        for (int i = 0; i < 2; i++) {
            const double lm = (double)n[i].lm_parameters * types[t].bytes;
            fits &= (double)(peak_of(&n[i]) - n[i].lm_bytes) + lm <= (double)free;
            smaller |= lm < (double)n[i].lm_bytes * 0.99;
        }
        if (fits && smaller) return types[t].name;
    }
    return NULL;
}

/* Does the larger of the two stages fit into this machine, one at a time as they run? */
static void add_machine(report *r, const needs n[2]) {
    const int64_t free = fs_memory_available();
    const size_t one = peak_of(&n[0]), two = peak_of(&n[1]), most = one > two ? one : two;
    if (free <= 0 || most == 0) return;
    const bool fits = most <= (size_t)free;
    const char *type = fits ? NULL : type_that_fits(n, (size_t)free);
    json_object_set_new(r->root, "machine", json_pack("{s:I, s:b, s:b, s:s?}", "available", (json_int_t)free, "fits", (int)fits, "fits_both",
                                                      (int)(one + two <= (size_t)free), "type_that_fits", type));
}

static void add_plan(report *r, needs n[2], bool one, bool two) {
    if (one) add_memory(r, "stage 1", &n[0]);
    else n[0] = (needs){0};
    if (two) add_memory(r, "stage 2", &n[1]);
    else n[1] = (needs){0};
    add_machine(r, n);
}

/* ---- licence ---- */

static const char *licence_of(const char *text) {
    if (strstr(text, "Apache License")) return "Apache-2.0";
    if (strstr(text, "LLAMA 2 COMMUNITY LICENSE")) return "LLaMA 2 Community License";
    if (strstr(text, "MIT License")) return "MIT";
    if (strstr(text, "GNU GENERAL PUBLIC LICENSE")) return "GPL";
    if (strstr(text, "NonCommercial")) return "Creative Commons NonCommercial";
    return NULL;
}

/* The first line, or sentence of it, that says something; trimmed. */
static json_t *first_line(const char *text) {
    text += strspn(text, " \t\r\n#*-");
    size_t n = strcspn(text, "\r\n;");
    for (size_t i = 0; i + 1 < n; i++)
        if (text[i] == '.' && text[i + 1] == ' ') n = i;
    json_t *line = json_stringn(text, n < 200 ? n : 200);
    return line ? line : json_string("(not UTF-8 text)");
}

/* Where a README states its licence: behind "license:" if it has that, else the first line with the word. */
static const char *find_word(const char *text) {
    static const char *const words[] = {"license:", "licence:", "license", "licence"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        const char *at = strcasestr(text, words[i]);
        if (!at) continue;
        if (i < 2) return at + strlen(words[i]);
        while (at > text && at[-1] != '\n') at--;
        return at;
    }
    return NULL;
}

/* {name, file} from a LICENSE file, or from the line of a README that speaks of one; NULL if neither is there. */
static json_t *find_licence(const char *dir) {
    json_t *found = NULL;
    for (int readme = 0; readme < 2 && !found; readme++) {
        DIR *d = opendir(dir);
        for (struct dirent *e; d && !found && (e = readdir(d));) {
            bool fits = readme ? strncasecmp(e->d_name, "readme", 6) == 0
                               : strncasecmp(e->d_name, "license", 7) == 0 || strncasecmp(e->d_name, "licence", 7) == 0 ||
                                     strncasecmp(e->d_name, "copying", 7) == 0;
            uint8_t *text = NULL;
            size_t size;
            char *path = fits ? fs_path_join(dir, e->d_name) : NULL;
            if (path && fs_read_file(path, (size_t)1 << 20, &text, &size, NULL) == FS_OK) {
                const char *line = readme ? find_word((const char *)text) : (const char *)text;
                const char *known = readme || !line ? NULL : licence_of(line);
                if (line) found = json_pack("{s:o, s:s}", "name", known ? json_string(known) : first_line(line), "file", e->d_name);
            }
            free(text);
            free(path);
        }
        if (d) closedir(d);
    }
    return found;
}

/* ---- the three kinds of paths ---- */

static fs_status describe_checkpoint(report *r, const char *path, fs_error *err) {
    fs_options opt = fs_options_defaults();
    fs_layout l;
    facts dtg = {0}, dte = {0}, mflm = {0}, clip = {0}, sam = {0};
    fs_error ignored;
    static const char dtg_role[] = "domain tag (stage 1)", dte_role[] = "detection and explanation (stage 1)",
                      mflm_role[] = "localization (stage 2)", clip_role[] = "vision tower (both stages)",
                      sam_role[] = "segmentation (stage 2)";
    fs_status status = fs_layout_find(path, &opt, &l, err);
    if (status) return status;
    if (l.dtg) add_part(r, "DTG", dtg_role, l.dtg, CONFIG_NONE, &dtg, &ignored);
    else add_missing(r, "DTG.pth", dtg_role, true, from_fakeshield);
    if (l.dte_fdm) add_part(r, "DTE-FDM", dte_role, l.dte_fdm, CONFIG_LM, &dte, &ignored);
    else add_missing(r, "DTE-FDM", dte_role, true, from_fakeshield);
    if (l.mflm) add_part(r, "MFLM", mflm_role, l.mflm, CONFIG_LM, &mflm, &ignored);
    else add_missing(r, "MFLM", mflm_role, true, from_fakeshield);
    status = fs_layout_find_clip(&l, NULL, dte.tower ? dte.tower : mflm.tower, err);
    if (status) goto done;
    if (l.clip) add_part(r, "CLIP", clip_role, l.clip, CONFIG_CLIP, &clip, &ignored);
    else add_missing(r, "CLIP", clip_role, !dte.has_clip, from_clip);
    if (l.sam && !mflm.has_sam) add_part(r, "SAM", sam_role, l.sam, CONFIG_NONE, &sam, &ignored);
    else if (l.mflm && !mflm.has_sam) add_missing(r, "SAM", sam_role, true, from_sam);
    needs n[2] = {needs_of(0, &dte, (const facts *const[3]){&dtg, dte.has_clip && clip.found ? NULL : &clip}),
                  needs_of(1, &mflm, (const facts *const[3]){&clip, &sam})};
    const size_t sam_bytes = mflm.sam_bytes > sam.sam_bytes ? mflm.sam_bytes : sam.sam_bytes;
    if (sam_bytes > n[1].activations) n[1].activations = sam_bytes;
    add_plan(r, n, l.dte_fdm != NULL, l.mflm != NULL);
done:
    free(dte.tower);
    free(mflm.tower);
    fs_layout_free(&l);
    return status;
}

static fs_status describe_bundle(report *r, const char *path, fs_error *err) {
    fs_options opt = fs_options_defaults();
    fs_layout l;
    facts dte = {0}, mflm = {0}, vision = {0};
    fs_error ignored;
    static const char from_convert[] = "fakeshield convert, which writes all three files";
    fs_status status = fs_layout_find(path, &opt, &l, err);
    if (status) return status;
    if (l.dte_fdm) add_part(r, FS_BUNDLE_DTE, "detection and explanation (stage 1)", l.dte_fdm, CONFIG_LM, &dte, &ignored);
    else add_missing(r, FS_BUNDLE_DTE, "detection and explanation (stage 1)", true, from_convert);
    if (l.mflm) add_part(r, FS_BUNDLE_MFLM, "localization (stage 2)", l.mflm, CONFIG_LM, &mflm, &ignored);
    else add_missing(r, FS_BUNDLE_MFLM, "localization (stage 2)", true, from_convert);
    add_part(r, FS_BUNDLE_VISION, "domain tag, vision tower, segmentation (both stages)", l.vision, CONFIG_NONE, &vision, &ignored);
    needs n[2] = {needs_of(0, &dte, (const facts *const[3]){&vision}), needs_of(1, &mflm, (const facts *const[3]){&vision})};
    if (vision.sam_bytes > n[1].activations) n[1].activations = vision.sam_bytes;
    add_plan(r, n, l.dte_fdm != NULL, l.mflm != NULL);
    bool synthetic = false;
    if (fs_bundle_is_synthetic(&l, &synthetic, &ignored) == FS_OK && synthetic) json_object_set_new(r->root, "synthetic", json_true());
    free(dte.tower);
    free(mflm.tower);
    fs_layout_free(&l);
    return FS_OK;
}

/* The two files of a LLaVA in llama.cpp's world; both NULL: the folder is something else. */
static fs_status describe_llava(report *r, const char *lm, const char *mmproj) {
    facts language = {0}, vision = {0};
    fs_error ignored;
    static const char role[] = "detection and explanation (stage 1)", seen[] = "vision tower and projector (stage 1)", from[] = "where the other file came from";
    if (lm) add_part(r, fs_path_base(lm), role, lm, CONFIG_LM, &language, &ignored);
    else add_missing(r, "language model", role, true, from);
    if (mmproj) add_part(r, fs_path_base(mmproj), seen, mmproj, CONFIG_NONE, &vision, &ignored);
    else add_missing(r, "mmproj", seen, true, from);
    needs n[2] = {needs_of(0, &language, (const facts *const[3]){&vision})};
    add_plan(r, n, lm != NULL, false);
    free(language.tower);
    return FS_OK;
}

/* What config.json says the directory is. */
static config_kind kind_of(const char *dir, const char **name, const char **role) {
    fs_json j = {0};
    config_kind kind = CONFIG_NONE;
    const char *type = "";
    char *path = fs_path_join(dir, "config.json");
    *name = fs_path_base(dir);
    *role = "weights";
    if (path && fs_path_exists(path) && fs_json_open(path, &j, NULL) == FS_OK) {
        fs_json_string(&j, "model_type", FS_JSON_OPTIONAL, &type, NULL);
        if (strncmp(type, "clip", 4) == 0) kind = CONFIG_CLIP, *role = "vision tower";
        else if (strcmp(type, "glamm") == 0) kind = CONFIG_LM, *role = "localization (stage 2)";
        else if (strncmp(type, "llava", 5) == 0) kind = CONFIG_LM, *role = "detection and explanation (stage 1)";
    }
    fs_json_close(&j);
    free(path);
    return kind;
}

static bool holds(const char *dir, const char *name) {
    char *path = fs_path_join(dir, name);
    bool there = path && fs_path_exists(path);
    free(path);
    return there;
}

static fs_status describe_adapter(report *r, const char *path, fs_error *err) {
    static const struct { const char *name, *role; } files[] = {{"adapter_model.safetensors", "low-rank adapters"},
                                                                {"adapter_model.bin", "low-rank adapters"},
                                                                {"non_lora_trainables.safetensors", "other trained tensors"},
                                                                {"non_lora_trainables.bin", "other trained tensors"}};
    json_t *adapter = NULL;
    fs_error ignored;
    fs_status status = fs_describe_adapter(path, &adapter, err);
    if (status) return status;
    json_object_set_new(r->root, "adapter", adapter);
    for (size_t i = 0; i < 4; i++) {
        facts f = {0};
        char *file = holds(path, files[i].name) ? fs_path_join(path, files[i].name) : NULL;
        if (file) add_part(r, files[i].name, files[i].role, file, CONFIG_NONE, &f, &ignored);
        if (file) i |= 1; /* of two forms the first is used */
        free(f.tower);
        free(file);
    }
    return FS_OK;
}

static fs_status build(report *r, const char *path, fs_error *err) {
    facts f = {0};
    const char *kind = "file";
    char *lm = NULL, *mmproj = NULL;
    json_t *licence = NULL;
    fs_status status;
    if (!fs_path_exists(path))
        return fs_fail(err, FS_E_NOT_FOUND, "%s: no such file or directory; get a checkpoint from %s", path, from_fakeshield);
    if (!fs_path_is_dir(path)) {
        status = add_part(r, fs_path_base(path), "weights", path, CONFIG_NONE, &f, err);
    } else if (holds(path, "adapter_config.json")) {
        kind = "adapter";
        status = describe_adapter(r, path, err);
    } else if (holds(path, FS_BUNDLE_VISION)) {
        kind = "bundle";
        status = describe_bundle(r, path, err);
    } else if (!holds(path, "DTE-FDM") && !holds(path, "MFLM") && fs_llava_search(path, &lm, &mmproj, NULL) == FS_OK && (lm || mmproj)) {
        kind = "llava";
        status = describe_llava(r, lm, mmproj);
    } else if (holds(path, "DTE-FDM") || holds(path, "MFLM") || holds(path, "DTG.pth")) {
        kind = "checkpoint";
        status = describe_checkpoint(r, path, err);
    } else {
        const char *name, *role;
        config_kind config = kind_of(path, &name, &role);
        kind = "part";
        status = add_part(r, name, role, path, config, &f, err);
    }
    free(f.tower);
    free(lm);
    free(mmproj);
    if (status) return status;
    if (fs_path_is_dir(path)) licence = find_licence(path);
    json_t *name = json_string(path);
    json_object_set_new(r->root, "path", name ? name : json_string("(not UTF-8)"));
    json_object_set_new(r->root, "kind", json_string(kind));
    json_object_set_new(r->root, "complete", json_boolean(json_array_size(r->problems) == 0));
    json_object_set(r->root, "parts", r->parts);
    json_object_set(r->root, "memory", r->memory);
    json_object_set_new(r->root, "licence", licence ? licence : json_null());
    json_object_set(r->root, "problems", r->problems);
    return FS_OK;
}

fs_status fs_describe(const char *path, bool json, bool tensors, char **out, fs_error *err) {
    report r = {json_object(), json_array(), json_array(), json_array(), tensors};
    fs_error own;
    *out = NULL;
    fs_status status = r.root && r.parts && r.problems && r.memory ? build(&r, path, err ? err : &own) : FS_E_NO_MEMORY;
    if (!status) *out = json ? json_dumps(r.root, JSON_COMPACT) : fs_describe_text(r.root);
    if (status == FS_E_NO_MEMORY || (!status && !*out)) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", path);
    json_decref(r.root);
    json_decref(r.parts);
    json_decref(r.problems);
    json_decref(r.memory);
    return status;
}
