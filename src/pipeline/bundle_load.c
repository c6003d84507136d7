/* Running from a bundle (docs/bundle.md): the tensors of its files under upstream's names, block types packed for the kernels at
 * their first use, and the configs and tokenizer that lie in the language model's metadata. */
#include "pipeline/bundle.h"

#include <stdlib.h>
#include <string.h>

#include "format/gguf.h"
#include "pipeline/llava_gguf.h"
#include "tensor/packed.h"

enum { MAX_RULES = 16 };

struct fs_bundle {
    char *lm_path;
    fs_archive *lm, *vision;
    int64_t layers;
    bool pair, swapped; /* files of llama.cpp's (llava_gguf.h): vision is the mmproj file */
    fs_archive_layer rules[MAX_RULES];
    fs_archive_stack vision_stack;
    fs_tensor_source vision_source, joined, bound; /* bound: what a model sees */
    fs_packed_source *packed;
    fs_archive_layer clip_rule, dtg_rule;
    fs_archive_stack clip_stack, dtg_stack;
    fs_packed_source *clip_packed;
    fs_tensor_source clip_source;
};

/* A tensor of the language model by upstream's name; the vision file has the others. */
static const fs_tensor *find(void *user, const char *name) {
    fs_bundle *b = user;
    fs_bundle_llm t;
    if (fs_bundle_llm_find(b->layers, name, &t)) {
        const fs_tensor *found = fs_archive_find(b->lm, t.name);
        return found || !b->pair || strcmp(t.name, "output.weight") != 0 ? found : fs_archive_find(b->lm, "token_embd.weight"); /* tied */
    }
    return b->vision_source.find(b->vision_source.user, name);
}

static const char *origin(void *user, const char *name) {
    fs_bundle *b = user;
    fs_bundle_llm t;
    if (fs_bundle_llm_find(b->layers, name, &t)) return b->lm_path;
    return b->vision_source.origin(b->vision_source.user, name);
}

static const fs_tensor *find_mmproj(void *user, const char *name) {
    fs_bundle *b = user;
    char stored[FS_LLAVA_NAME];
    return fs_llava_mmproj_name(name, b->swapped, stored) ? fs_archive_find(b->vision, stored) : NULL;
}

static const char *origin_mmproj(void *user, const char *name) {
    (void)name;
    return fs_archive_path(((fs_bundle *)user)->vision);
}

/* Packed, but for the table of embeddings: single rows are read from it, which the file's blocks give as well. */
static const fs_tensor *find_packed(void *user, const char *name) {
    fs_bundle *b = user;
    if (strcmp(name, "model.embed_tokens.weight") == 0) return find(b, name);
    const fs_tensor_source *packed = fs_packed_source_tensors(b->packed);
    return packed->find(packed->user, name);
}

/* A file of the checkpoint kept in the metadata; data NULL = not there. It lives as long as the archive. */
static fs_status kept_file(const fs_archive *a, const char *name, fs_bytes *out, fs_error *err) {
    char *key = fs_format("fakeshield.file.%s", name);
    fs_gguf_array bytes = {0};
    fs_gguf_text text = {0};
    const fs_gguf *g = fs_archive_gguf(a);
    *out = (fs_bytes){0};
    fs_status status = key ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if (!status && g && fs_gguf_has(g, key)) {
        status = fs_gguf_array_of(g, key, false, FS_GGUF_U8, &bytes, NULL); /* bytes, or, for text files, a string */
        if (status) status = fs_gguf_string(g, key, true, &text, err);
        *out = bytes.data ? (fs_bytes){bytes.data, bytes.size} : (fs_bytes){text.data, text.size};
    }
    free(key);
    return status;
}

static fs_status read_config(const fs_archive *a, fs_lm_config *out, fs_error *err) {
    fs_bytes config, generation;
    if (fs_llava_kind_of(a) == FS_LLAVA_LM) return fs_llava_lm_config(a, out, err);
    fs_status status = kept_file(a, "config.json", &config, err);
    if (!status) status = kept_file(a, "generation_config.json", &generation, err);
    if (status) return status;
    if (!config.data)
        return fs_fail(err, FS_E_FORMAT, "%s: holds no config.json (fakeshield.file.config.json); make the bundle anew with convert", fs_archive_path(a));
    status = fs_lm_config_parse(fs_archive_path(a), config, generation, out, err);
    if (!status) out->llama.rope_pairs = true;
    return status;
}

fs_status fs_bundle_lm_config(const fs_bundle *b, fs_lm_config *out, fs_error *err) { return read_config(b->lm, out, err); }

fs_status fs_bundle_read_calibration(const fs_bundle *b, fs_calibration *out, fs_error *err) { return fs_calibration_read(b->lm, out, err); }

char *fs_model_title(const char *model_dir) {
    fs_archive *a = NULL;
    fs_gguf_text title = {0};
    fs_error ignored;
    char *path = model_dir ? fs_path_join(model_dir, FS_BUNDLE_DTE) : NULL, *out = NULL;
    if (path && fs_path_exists(path) && !fs_archive_open(path, &a, &ignored) && fs_archive_gguf(a) &&
        !fs_gguf_string(fs_archive_gguf(a), "general.name", false, &title, &ignored) && title.size && title.size < 1024)
        out = fs_format("%.*s", (int)title.size, title.data);
    fs_archive_free(a);
    free(path);
    return out;
}

fs_status fs_bundle_read_config(const char *lm_path, fs_lm_config *out, fs_error *err) {
    fs_archive *a = NULL;
    fs_status status = fs_archive_open(lm_path, &a, err);
    if (!status) status = read_config(a, out, err);
    fs_archive_free(a);
    return status;
}

fs_status fs_bundle_config_text(const char *lm_path, fs_buffer *out, fs_error *err) {
    fs_archive *a = NULL;
    fs_bytes config = {0};
    fs_status status = fs_archive_open(lm_path, &a, err);
    if (!status) status = kept_file(a, "config.json", &config, err);
    if (!status && config.data) fs_buffer_add(out, config.data, config.size);
    if (!status && out->failed) status = fs_fail(err, FS_E_NO_MEMORY, "%s: out of memory", lm_path);
    fs_archive_free(a);
    return status;
}

fs_status fs_bundle_is_synthetic(const fs_layout *l, bool *out, fs_error *err) {
    fs_archive *a = NULL;
    *out = false;
    if (!l->bundle) return FS_OK;
    fs_status status = fs_archive_open(l->vision, &a, err); /* of the three files the one with the shortest header */
    if (!status && fs_archive_gguf(a)) status = fs_gguf_bool(fs_archive_gguf(a), FS_BUNDLE_SYNTHETIC, false, out, err);
    fs_archive_free(a);
    return status;
}

fs_status fs_bundle_tokenizer(const fs_bundle *b, fs_tokenizer_rules rules, fs_tokenizer **out, fs_error *err) {
    fs_tokenizer_files files = {.where = b->lm_path};
    if (b->pair) return fs_llava_tokenizer(b->lm, out, err);
    fs_status status = kept_file(b->lm, "tokenizer.model", &files.model, err);
    if (!status) status = kept_file(b->lm, "tokenizer_config.json", &files.config, err);
    if (!status) status = kept_file(b->lm, "special_tokens_map.json", &files.special_map, err);
    if (!status) status = kept_file(b->lm, "added_tokens.json", &files.added, err);
    return status ? status : fs_tokenizer_create(&files, rules, out, err);
}

fs_status fs_bundle_clip(const fs_bundle *b, const fs_overlay *overlay, fs_clip *clip, fs_error *err) {
    fs_bytes bytes = {0};
    fs_clip_config config;
    bool swapped;
    fs_status status = b->pair ? fs_llava_clip_config(b->vision, &config, &swapped, err) : kept_file(b->vision, "clip_config.json", &bytes, err);
    if (!status && !b->pair && !bytes.data)
        status = fs_fail(err, FS_E_FORMAT, "%s: holds no CLIP config; make the bundle anew with convert", fs_archive_path(b->vision));
    if (!status && !b->pair) status = fs_clip_config_parse(fs_archive_path(b->vision), bytes, &config, err);
    fs_tensor_source source = *fs_packed_source_tensors(b->clip_packed);
    double none = 0;
    if (!status && overlay) status = overlay->wrap(overlay->user, FS_OVERLAY_CLIP, NULL, &source, &none, err);
    return status ? status : fs_clip_bind(clip, &config, &source, "vision_model.", err);
}

const fs_tensor_source *fs_bundle_tensors(const fs_bundle *b) { return &b->bound; }
fs_tensor_source fs_bundle_dtg(fs_bundle *b) { return fs_archive_stack_source(&b->dtg_stack); }

/* Both files, mapped. */
static fs_status open_files(const char *lm_path, const char *vision_path, fs_bundle **out, fs_error *err) {
    fs_bundle *b = *out = calloc(1, sizeof *b);
    fs_status status;
    if (!b || !(b->lm_path = fs_strdup(lm_path))) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    if ((status = fs_archive_open(lm_path, &b->lm, err)) || (status = fs_archive_open(vision_path, &b->vision, err))) return status;
    if (!fs_archive_gguf(b->lm) || !fs_archive_gguf(b->vision))
        return fs_fail(err, FS_E_FORMAT, "%s: is no GGUF file", fs_archive_gguf(b->lm) ? vision_path : lm_path);
    return FS_OK;
}

/* Do the files belong together? */
static fs_status check_bundle(const fs_bundle *b, fs_error *err) {
    const fs_gguf *g = fs_archive_gguf(b->lm), *v = fs_archive_gguf(b->vision);
    fs_gguf_text rope = {0}, one = {0}, two = {0};
    fs_status status;
    if ((status = fs_gguf_string(g, "fakeshield.rope", true, &rope, err)) || (status = fs_gguf_string(g, "fakeshield.source_sha256", true, &one, err)) ||
        (status = fs_gguf_string(v, "fakeshield.source_sha256", true, &two, err)))
        return status;
    if (!fs_gguf_text_is(rope, "interleaved"))
        return fs_fail(err, FS_E_UNSUPPORTED, "%s: fakeshield.rope is \"%.*s\", expected \"interleaved\"", b->lm_path, (int)rope.size, rope.data);
    if (one.size != two.size || memcmp(one.data, two.data, one.size) != 0)
        return fs_fail(err, FS_E_MISMATCH, "%s: comes from another checkpoint than %s; convert them together", b->lm_path, fs_archive_path(b->vision));
    return FS_OK;
}

/* The sources over the files, vision_source and clip_source being there. */
static fs_status join(fs_bundle *b, int threads, fs_error *err) {
    fs_status status = fs_gguf_int(fs_archive_gguf(b->lm), "llama.block_count", true, 1, 4096, &b->layers, err);
    if (status) return status;
    b->joined = (fs_tensor_source){b, find, origin};
    b->bound = (fs_tensor_source){b, find_packed, origin};
    status = fs_packed_source_create(&b->joined, true, threads, &b->packed, err);
    return status ? status : fs_packed_source_create(&b->clip_source, true, threads, &b->clip_packed, err);
}

fs_status fs_bundle_open(const char *lm_path, const char *vision_path, const char *part, int threads, fs_bundle **out, fs_error *err) {
    fs_bundle *b = NULL;
    *out = NULL;
    if (!vision_path) return fs_fail(err, FS_E_NOT_FOUND, "%s: no " FS_BUNDLE_VISION " beside it; a bundle needs both, make it anew with convert", lm_path);
    fs_status status = open_files(lm_path, vision_path, &b, err);
    if (status || (status = check_bundle(b, err))) goto done;
    for (const fs_bundle_prefix *p = fs_bundle_prefixes; p->part; p++)
        if (strcmp(p->part, part) == 0 && b->vision_stack.count < MAX_RULES)
            b->rules[b->vision_stack.count++] = (fs_archive_layer){.archive = b->vision, .from = p->from, .to = p->to};
    b->vision_stack.layers = b->rules;
    b->vision_source = fs_archive_stack_source(&b->vision_stack);
    b->clip_rule = (fs_archive_layer){.archive = b->vision, .from = "vision_model.", .to = "clip."};
    b->clip_stack = (fs_archive_stack){.layers = &b->clip_rule, .count = 1};
    b->clip_source = fs_archive_stack_source(&b->clip_stack);
    b->dtg_rule = (fs_archive_layer){.archive = b->vision, .from = "", .to = "dtg."};
    b->dtg_stack = (fs_archive_stack){.layers = &b->dtg_rule, .count = 1};
    status = join(b, threads, err);
done:
    if (status) fs_bundle_close(b);
    else *out = b;
    return status;
}

fs_status fs_bundle_open_pair(const char *lm_path, const char *mmproj_path, int threads, fs_bundle **out, fs_error *err) {
    fs_bundle *b = NULL;
    fs_clip_config config;
    *out = NULL;
    fs_status status = open_files(lm_path, mmproj_path, &b, err);
    if (status) goto done;
    b->pair = true;
    if (fs_llava_kind_of(b->lm) != FS_LLAVA_LM || fs_llava_kind_of(b->vision) != FS_LLAVA_MMPROJ) {
        const bool lm = fs_llava_kind_of(b->lm) == FS_LLAVA_LM;
        status = fs_fail(err, FS_E_MISMATCH, "%s: expected general.architecture \"%s\" (%s), found another, or a file of a bundle", lm ? mmproj_path : lm_path,
                         lm ? "clip" : "llama", lm ? "the mmproj file: CLIP and projector" : "the language model");
        goto done;
    }
    if ((status = fs_llava_clip_config(b->vision, &config, &b->swapped, err))) goto done;
    b->vision_source = b->clip_source = (fs_tensor_source){b, find_mmproj, origin_mmproj};
    if ((status = join(b, threads, err))) goto done;
    fs_packed_source_widen(b->packed);
    fs_packed_source_widen(b->clip_packed);
done:
    if (status) fs_bundle_close(b);
    else *out = b;
    return status;
}

void fs_bundle_lock(fs_bundle *b) {
    fs_packed_source_lock(b->packed);
    fs_packed_source_lock(b->clip_packed);
}

void fs_bundle_close(fs_bundle *b) {
    if (!b) return;
    fs_packed_source_free(b->packed);
    fs_packed_source_free(b->clip_packed);
    fs_archive_free(b->lm);
    fs_archive_free(b->vision);
    free(b->lm_path);
    free(b);
}
