/* A full-size bundle of random weights, to measure speed and memory at the true size without the weights themselves. Names, types and metadata
 * come from the tables that convert uses; numbers are written straight as blocks (synth_fill.c), by all threads, a few megabytes at a time.
 * The bytes depend on architecture, type, layers and seed alone. "fakeshield.synthetic" in every file says what it is. */
#include "pipeline/synth.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "pipeline/bundle_meta.h"

/* Sizes of the released weights (spec 2.2 to 2.8), and of a model small enough for tests. */
#define LLAMA_13B {.hidden = 5120, .intermediate = 13824, .layers = 40, .heads = 40, .kv_heads = 40, .vocab = 32000, .max_positions = 4096, .eps = 1e-5f, .rope_theta = 10000}
#define LLAMA_7B {.hidden = 4096, .intermediate = 11008, .layers = 32, .heads = 32, .kv_heads = 32, .vocab = 32007, .max_positions = 4096, .eps = 1e-5f, .rope_theta = 10000}
#define CLIP_L {.hidden = 1024, .intermediate = 4096, .layers = 24, .heads = 16, .image_size = 336, .patch_size = 14, .eps = 1e-5f}
#define SAM_H {.embed = 1280, .depth = 32, .heads = 16, .grid = 64, .patch = 16, .window = 14, .global_every = 8, .out = 256}
#define RELEASED .dte = LLAMA_13B, .mflm = LLAMA_7B, .clip = CLIP_L, .sam = SAM_H, .decoder_mlp = 2048, .dtg_width = 64
static const fs_synth_arch archs[] = {
    {.name = "22b", .stage1 = true, .stage2 = true, RELEASED},
    {.name = "13b", .stage1 = true, RELEASED},
    {.name = "7b", .stage2 = true, RELEASED},
    {.name = "tiny", .stage1 = true, .stage2 = true,
     .dte = {.hidden = 256, .intermediate = 768, .layers = 3, .heads = 8, .kv_heads = 8, .vocab = 4000, .max_positions = 4096, .eps = 1e-5f, .rope_theta = 10000},
     .mflm = {.hidden = 256, .intermediate = 768, .layers = 2, .heads = 8, .kv_heads = 8, .vocab = 4007, .max_positions = 4096, .eps = 1e-5f, .rope_theta = 10000},
     .clip = {.hidden = 64, .intermediate = 128, .layers = 11, .heads = 4, .image_size = 112, .patch_size = 14, .eps = 1e-5f},
     .sam = {.embed = 64, .depth = 4, .heads = 4, .grid = 8, .patch = 16, .window = 3, .global_every = 2, .out = 32}, .decoder_mlp = 128, .dtg_width = 8},
};
enum { ARCHS = sizeof archs / sizeof archs[0], FILES = 3, ADDED = 7 }; /* ADDED: as many as the original has */
static const size_t BUFFER = (size_t)32 << 20; /* bytes made at a time, by all threads; then they are hashed and written by one */
static const char *const file_names[FILES] = {FS_BUNDLE_DTE, FS_BUNDLE_MFLM, FS_BUNDLE_VISION};
static const char *const added_tokens[ADDED] = {"<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]", "<p>", "</p>"};

typedef struct item { fs_dtype type; double deviation; int64_t count; uint64_t seed; } item;
typedef struct output { fs_gguf_writer *w; item *items; size_t count, capacity; bool finished; } output;
typedef struct job {
    fs_synth_arch arch;
    fs_bundle_type type;
    const fs_synth_options *opt;
    const fs_scratch *scratch; /* NULL: random weights for measuring */
    const char *dir;
    char fingerprint[65];
    output outputs[FILES];
    output *vision;
    size_t total, done;
    int threads;
} job;

fs_synth_options fs_synth_options_defaults(void) { return (fs_synth_options){.arch = "22b", .type = "mixed"}; }

/* ---- planning ---- */

/* One more tensor behind the others of `o`. Its numbers come from the seed and its name. */
static fs_status add_item(const job *j, output *o, const char *name, fs_synth_kind kind, int64_t layers, int ndim, const int64_t *shape, fs_error *err) {
    static const double deviations[] = {[FS_SYNTH_SMALL] = 0.02, [FS_SYNTH_UNIT] = 1};
    item t = {.type = fs_bundle_store_as(&j->type, name, layers, ndim, shape), .seed = j->opt->seed, .deviation = -1};
    if (!fs_shape_count(ndim, shape, &t.count)) return fs_fail(err, FS_E_INTERNAL, "tensor %s: impossible shape", name);
    if (kind == FS_SYNTH_SMALL || kind == FS_SYNTH_UNIT) t.deviation = deviations[kind];
    if (kind == FS_SYNTH_PRODUCT) t.deviation = 1 / sqrt((double)(t.count / shape[0])); /* of every output: as large as the inputs */
    if (kind == FS_SYNTH_ZERO) t.deviation = 0;
    for (const char *p = name; *p; p++) t.seed = (t.seed ^ (uint8_t)*p) * 0x100000001B3u + 0x9E3779B97F4A7C15u;
    if (o->count == o->capacity) {
        const size_t capacity = o->capacity ? 2 * o->capacity : 256;
        item *items = realloc(o->items, capacity * sizeof *items);
        if (!items) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        o->items = items;
        o->capacity = capacity;
    }
    o->items[o->count++] = t;
    fs_gguf_put_tensor(o->w, name, t.type, ndim, shape);
    return FS_OK;
}

static fs_status begin_output(job *j, int file, const char *architecture, const char *title, fs_error *err) {
    char *path = fs_path_join(j->dir, file_names[file]);
    fs_status status = path ? fs_gguf_writer_create(path, &j->outputs[file].w, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(path);
    if (status) return status;
    fs_gguf_writer *w = j->outputs[file].w;
    fs_bundle_put_general(w, &j->type, architecture, j->scratch ? j->scratch->title : title, j->fingerprint);
    if (j->scratch) return FS_OK;
    fs_gguf_put_text(w, "general.description", "Random weights for measuring speed and memory. Not a trained model; its output means nothing.");
    fs_gguf_put_bool(w, FS_BUNDLE_SYNTHETIC, true);
    fs_gguf_put_text(w, "fakeshield.synthetic.arch", j->arch.name);
    fs_gguf_put_u64(w, "fakeshield.synthetic.seed", j->opt->seed);
    return FS_OK;
}

static void put_file(fs_gguf_writer *w, const char *name, fs_buffer *text) {
    char key[64];
    snprintf(key, sizeof key, "fakeshield.file.%s", name);
    fs_gguf_put_array(w, key, FS_GGUF_U8, text->size, text->data);
}

/* The part of config.json that says how the pipeline is to run this model (spec 2.2). */
static void write_config(const fs_llama_config *g, bool first, fs_buffer *b) {
    fs_buffer_printf(b,
                     "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"hidden_size\": %" PRId64 ", \"intermediate_size\": %" PRId64
                     ", \"num_hidden_layers\": %" PRId64 ", \"num_attention_heads\": %" PRId64 ", \"num_key_value_heads\": %" PRId64 ", \"vocab_size\": %" PRId64
                     ", \"max_position_embeddings\": %" PRId64 ", \"rms_norm_eps\": 1e-05, \"rope_theta\": 10000.0, \"hidden_act\": \"silu\", "
                     "\"bos_token_id\": 1, \"eos_token_id\": 2, \"pad_token_id\": 0, \"tie_word_embeddings\": false, ",
                     first ? "LlavaLlamaForCausalLM" : "GLaMMForCausalLM", first ? "llava_llama" : "glamm", g->hidden, g->intermediate, g->layers, g->heads,
                     g->kv_heads, g->vocab, g->max_positions);
    fs_buffer_printf(b, "\"mm_projector_type\": \"mlp2x_gelu\", \"mm_vision_select_layer\": -2, \"mm_vision_select_feature\": \"patch\", \"vision_tower\": "
                        "\"synthetic\", \"mm_use_im_start_end\": %s, \"image_aspect_ratio\": \"%s\", \"torch_dtype\": \"%s\"}",
                     first ? "false" : "true", first ? "pad" : "square", first ? "float16" : "bfloat16");
}

/* The tokenizer's files and, from them, the vocabulary for other programs. */
static fs_status put_tokenizer(const job *j, fs_gguf_writer *w, const fs_llama_config *g, bool first, fs_error *err) {
    static const char special[] = "\"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"unk_token\": \"<unk>\"";
    fs_buffer model = {0}, config = {0}, added = {0};
    fs_tokenizer *t = NULL;
    const int32_t pieces = (int32_t)(first ? g->vocab : g->vocab - ADDED);
    fs_status status = FS_OK;
    if (j->scratch) fs_buffer_add(&model, j->scratch->tokenizer.data, j->scratch->tokenizer.size);
    else status = fs_synth_tokenizer(pieces, &model, err);
    if (status) goto done;
    fs_buffer_printf(&config, "{\"tokenizer_class\": \"LlamaTokenizer\", \"add_bos_token\": true, \"add_eos_token\": false, %s}", special);
    for (int i = 0; i < ADDED && !first; i++) fs_buffer_printf(&added, "%s\"%s\": %d", i ? ", " : "{", added_tokens[i], (int)pieces + i);
    if (!first) fs_buffer_puts(&added, "}");
    if (model.failed || config.failed || added.failed) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    const fs_tokenizer_files files = {.where = "synthetic", .model = {model.data, model.size}, .config = {config.data, config.size},
                                      .added = {added.data, added.size}};
    if ((status = fs_tokenizer_create(&files, first ? FS_RULES_437 : FS_RULES_428, &t, err))) goto done;
    if ((status = fs_bundle_put_vocabulary(w, "synthetic", files.model, t, g->vocab, err))) goto done;
    put_file(w, "tokenizer.model", &model);
    put_file(w, "tokenizer_config.json", &config);
    if (!first) put_file(w, "added_tokens.json", &added);
done:
    fs_tokenizer_free(t);
    fs_buffer_free(&model);
    fs_buffer_free(&config);
    fs_buffer_free(&added);
    return status;
}

static fs_status plan_language_model(job *j, bool first, fs_error *err) {
    const fs_llama_config *g = first ? &j->arch.dte : &j->arch.mflm;
    output *o = &j->outputs[first ? 0 : 1];
    fs_bundle_llm t;
    fs_buffer config = {0};
    fs_status status = begin_output(j, first ? 0 : 1, "llama", first ? "FakeShield DTE-FDM, random weights" : "FakeShield MFLM, random weights", err);
    if (status) return status;
    fs_bundle_put_llama(o->w, g);
    if ((status = put_tokenizer(j, o->w, g, first, err))) return status;
    write_config(g, first, &config);
    if (config.failed) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    else put_file(o->w, "config.json", &config);
    fs_buffer_free(&config);
    for (int64_t i = 0; !status && fs_bundle_llm_tensor(g->layers, i, &t); i++) {
        const bool norm = strstr(t.name, "norm.") != NULL, table = strstr(t.name, "token_embd") || strncmp(t.name, "output.", 7) == 0;
        const int64_t kv = g->hidden / g->heads * g->kv_heads, out = table                            ? g->vocab
                                                                      : strstr(t.name, "ffn_gate") || strstr(t.name, "ffn_up") ? g->intermediate
                                                                      : t.heads == FS_HEADS_KEY || strstr(t.name, "attn_v")    ? kv
                                                                                                                               : g->hidden;
        const int64_t shape[2] = {norm ? g->hidden : out, strstr(t.name, "ffn_down") ? g->intermediate : g->hidden};
        status = add_item(j, o, t.name, norm ? FS_SYNTH_ONE : FS_SYNTH_PRODUCT, g->layers, norm ? 1 : 2, shape, err);
    }
    return status;
}

static fs_status vision_tensor(void *user, const char *part, const char *name, fs_synth_kind kind, int ndim, const int64_t *shape, fs_error *err) {
    job *j = user;
    char stored[FS_BUNDLE_NAME];
    if (!fs_bundle_vision_name(part, name, stored)) return fs_fail(err, FS_E_INTERNAL, "tensor %s of %s has no name in a bundle", name, part);
    return add_item(j, j->vision, stored, kind, 0, ndim, shape, err);
}

static fs_status plan_vision(job *j, fs_error *err) {
    const fs_clip_config *g = &j->arch.clip;
    fs_buffer config = {0};
    fs_status status = begin_output(j, 2, "fakeshield", "FakeShield vision parts, random weights", err);
    if (status) return status;
    j->vision = &j->outputs[2];
    fs_buffer_printf(&config,
                     "{\"model_type\": \"clip_vision_model\", \"hidden_size\": %" PRId64 ", \"intermediate_size\": %" PRId64 ", \"num_hidden_layers\": %" PRId64
                     ", \"num_attention_heads\": %" PRId64 ", \"image_size\": %" PRId64 ", \"patch_size\": %" PRId64
                     ", \"layer_norm_eps\": 1e-05, \"hidden_act\": \"%s\"}",
                     g->hidden, g->intermediate, g->layers, g->heads, g->image_size, g->patch_size, g->activation == FS_ACT_GELU ? "gelu" : "quick_gelu");
    if (config.failed) status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    else put_file(j->vision->w, "clip_config.json", &config);
    fs_buffer_free(&config);
    const fs_synth_sink sink = {j, vision_tensor};
    return status ? status : fs_synth_vision(&j->arch, &sink, err);
}

/* ---- writing ---- */

/* Values first .. first+n of a tensor, chunk by chunk. */
static bool make_values(const job *j, const item *t, int64_t first, int64_t n, size_t chunk_bytes, uint8_t *out) {
    const int64_t chunks = (n + FS_SYNTH_CHUNK - 1) / FS_SYNTH_CHUNK;
    bool made = true;
#pragma omp parallel for schedule(dynamic, 1) num_threads(chunks > 1 ? j->threads : 1) reduction(&& : made)
    for (int64_t c = 0; c < chunks; c++) {
        const int64_t some = fs_min_i64(FS_SYNTH_CHUNK, n - c * FS_SYNTH_CHUNK);
        uint8_t *at = out + (size_t)c * chunk_bytes;
        if (t->deviation >= 0) {
            made = fs_synth_fill(t->type, t->deviation, t->seed, first / FS_SYNTH_CHUNK + c, some, at) && made;
        } else {
            const float one = 1; /* vectors, which are always F32 */
            for (int64_t i = 0; i < some; i++) memcpy(at + 4 * i, &one, 4);
        }
    }
    return made;
}

static fs_status write_tensor(job *j, output *o, const char *file, const item *t, uint8_t *buffer, fs_error *err) {
    size_t chunk_bytes, bytes;
    if (!fs_dtype_row_bytes(t->type, FS_SYNTH_CHUNK, &chunk_bytes) || (t->deviation < 0 && t->type != FS_DTYPE_F32))
        return fs_fail(err, FS_E_INTERNAL, "%s: a chunk of type %s", file, fs_dtype_name(t->type));
    const int64_t batch = (int64_t)(BUFFER / chunk_bytes) * FS_SYNTH_CHUNK;
    for (int64_t at = 0; at < t->count; at += batch) {
        const int64_t n = fs_min_i64(batch, t->count - at);
        if (!fs_dtype_row_bytes(t->type, n, &bytes) || !make_values(j, t, at, n, chunk_bytes, buffer))
            return fs_fail(err, FS_E_UNSUPPORTED, "random weights of type %s cannot be made", fs_dtype_name(t->type));
        fs_status status = fs_gguf_writer_add(o->w, buffer, bytes, err);
        if (status) return status;
        j->done += bytes;
        fs_progress(&j->opt->callbacks, file, (int64_t)j->done, (int64_t)j->total);
        if (fs_cancelled(&j->opt->callbacks)) return fs_fail(err, FS_E_CANCELLED, "%s: stopped", file);
    }
    return FS_OK;
}

static fs_status write_output(job *j, int file, uint8_t *buffer, fs_error *err) {
    output *o = &j->outputs[file];
    fs_status status = fs_gguf_writer_begin(o->w, err);
    for (size_t i = 0; i < o->count && !status; i++) status = write_tensor(j, o, file_names[file], &o->items[i], buffer, err);
    if (!status) status = fs_gguf_writer_finish(o->w, err);
    o->finished = status == FS_OK;
    fs_gguf_writer_free(o->w);
    o->w = NULL;
    return status;
}

/* Real weights are never written over, and older random ones make way. remove: take them away now. */
static fs_status clear_folder(const char *dir, bool remove, fs_error *err) {
    fs_status status = FS_OK;
    for (int i = 0; i < FILES && !status; i++) {
        fs_archive *a = NULL;
        bool synthetic = false;
        char *path = fs_path_join(dir, file_names[i]);
        if (!path) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        if (fs_path_exists(path)) {
            if (fs_archive_open(path, &a, NULL) == FS_OK && fs_archive_gguf(a))
                (void)fs_gguf_bool(fs_archive_gguf(a), FS_BUNDLE_SYNTHETIC, false, &synthetic, NULL);
            fs_archive_free(a);
            if (!synthetic) status = fs_fail(err, FS_E_USAGE, "%s: is there already and was not made by synth; name another folder", path);
            else if (remove && unlink(path) != 0) status = fs_fail(err, FS_E_IO, "%s: cannot be removed", path);
        }
        free(path);
    }
    return status;
}

static fs_status check_room(job *j, fs_error *err) {
    struct statvfs v;
    size_t room;
    for (int i = 0; i < FILES; i++) j->total += j->outputs[i].w ? fs_gguf_writer_size(j->outputs[i].w) : 0;
    if (statvfs(j->dir, &v) != 0 || !fs_mul_size((size_t)v.f_bavail, (size_t)v.f_frsize, &room) || room >= j->total) return FS_OK;
    return fs_fail(err, FS_E_IO, "%s: expected %.1f GB of free disk space, found %.1f GB; free some or name another disk", j->dir, (double)j->total / 1e9,
                   (double)room / 1e9);
}

/* Reads the options into j. */
static fs_status set_up(job *j, fs_error *err) {
    const fs_synth_options *o = j->opt;
    fs_exec x = {0};
    int i = 0;
    while (i < ARCHS && (!o->arch || strcmp(archs[i].name, o->arch) != 0)) i++;
    if (i == ARCHS) return fs_fail(err, FS_E_USAGE, "arch \"%s\" is none of 22b, 13b, 7b, tiny", o->arch ? o->arch : "");
    j->arch = archs[i];
    if (!fs_bundle_type_from_name(o->type, &j->type))
        return fs_fail(err, FS_E_USAGE, "type \"%s\" is none of f32, f16, bf16, q8_0, q4_0, q4_k, mixed", o->type ? o->type : "");
    if (o->layers < 0 || o->layers > 1000) return fs_fail(err, FS_E_USAGE, "layers is %d, expected 1 to 1000, or 0 for as many as the model has", o->layers);
    if (o->layers) j->arch.dte.layers = j->arch.mflm.layers = o->layers;
    char *text = fs_format("synthetic %s %s %d %" PRIu64, o->arch, o->type, o->layers, o->seed);
    if (!text) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    fs_sha256_hex(text, strlen(text), j->fingerprint);
    free(text);
    fs_status status = fs_exec_init(&x, FS_DTYPE_F32, o->threads, NULL, err); /* how many threads 0 means is known there */
    j->threads = x.threads;
    fs_exec_end(&x);
    return status;
}

/* Plans and writes what j is to be. */
static fs_status make(job *j, fs_error *err) {
    uint8_t *buffer = NULL;
    fs_status status;
    if ((status = fs_make_dirs(j->dir, err)) || (status = clear_folder(j->dir, false, err))) goto done;
    if (j->arch.stage1 && (status = plan_language_model(j, true, err))) goto done;
    if (j->arch.stage2 && (status = plan_language_model(j, false, err))) goto done;
    if ((status = plan_vision(j, err)) || (status = check_room(j, err))) goto done;
    if (!(buffer = fs_alloc(BUFFER, 1))) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        goto done;
    }
    if ((status = clear_folder(j->dir, true, err))) goto done;
    for (int i = 0; i < FILES && !status; i++)
        if (j->outputs[i].w) status = write_output(j, i, buffer, err);
done:
    for (int i = 0; i < FILES; i++) {
        char *path = status && j->outputs[i].finished ? fs_path_join(j->dir, file_names[i]) : NULL; /* no part of a bundle stays */
        if (path) unlink(path);
        free(path);
        fs_gguf_writer_free(j->outputs[i].w);
        free(j->outputs[i].items);
    }
    free(buffer);
    return status;
}

fs_status fs_synth(const char *out_dir, const fs_synth_options *options, fs_error *err) {
    const fs_synth_options defaults = fs_synth_options_defaults();
    job j = {.opt = options ? options : &defaults, .dir = out_dir};
    const fs_status status = set_up(&j, err);
    return status ? status : make(&j, err);
}

fs_status fs_synth_scratch(const char *out_dir, const fs_scratch *scratch, uint64_t seed, const fs_options *opt, fs_error *err) {
    const fs_synth_options o = {.arch = "scratch", .type = "f32", .seed = seed, .threads = opt->threads, .callbacks = opt->callbacks};
    job j = {.opt = &o, .scratch = scratch, .dir = out_dir, .arch = scratch->arch, .threads = opt->threads > 0 ? opt->threads : 1};
    char *text = fs_format("scratch %s %" PRIu64, scratch->title, seed);
    if (!text) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    fs_sha256_hex(text, strlen(text), j.fingerprint);
    free(text);
    if (!fs_bundle_type_from_name(o.type, &j.type)) return fs_fail(err, FS_E_INTERNAL, "scratch: no type %s", o.type);
    return make(&j, err);
}
