/* Sentence embeddings as sentence-transformers computes them for its MiniLM and BERT models: WordPiece, cut to max_seq_length with [CLS]
 * and [SEP], the encoder's last states, and their mean over all tokens (Reimers and Gurevych 2019). A normalisation behind it changes no
 * cosine and is left out. */
#include "eval/encoder.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/archive.h"
#include "format/json.h"
#include "model/bert.h"
#include "text/wordpiece.h"

struct fs_encoder {
    fs_archive *archive;
    fs_bert bert;
    fs_wordpiece *words;
    fs_exec exec;
    bool exec_open, first_token; /* pooling: the first token's state instead of the mean */
    int64_t max_tokens;
    char description[256];
};

/* Opens dir/name if it is there; *there tells. */
static fs_status open_optional(const char *dir, const char *name, fs_json *j, bool *there, fs_error *err) {
    char *path = fs_path_join(dir, name);
    *j = (fs_json){0};
    if (!path) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    *there = fs_path_exists(path);
    fs_status status = *there ? fs_json_open(path, j, err) : FS_OK;
    free(path);
    return status;
}

static fs_status read_config(const char *dir, fs_bert_config *g, fs_error *err) {
    fs_json j = {0};
    const char *kind = NULL, *activation = "gelu", *position = "absolute";
    double eps = 1e-12;
    char *path = fs_path_join(dir, "config.json");
    fs_status s = path ? fs_json_open(path, &j, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    *g = (fs_bert_config){.types = 2};
    if (!s) s = fs_json_string(&j, "model_type", FS_JSON_OPTIONAL, &kind, err);
    if (!s && kind && strcmp(kind, "bert") != 0)
        s = fs_fail(err, FS_E_UNSUPPORTED, "%s: a model of type \"%.40s\"; BERT's kind is needed, e.g. all-MiniLM-L6-v2", path, kind);
    if (!s) s = fs_json_int(&j, "hidden_size", FS_JSON_REQUIRED, 1, 1 << 16, &g->hidden, err);
    if (!s) s = fs_json_int(&j, "intermediate_size", FS_JSON_REQUIRED, 1, 1 << 20, &g->intermediate, err);
    if (!s) s = fs_json_int(&j, "num_hidden_layers", FS_JSON_REQUIRED, 1, 4096, &g->layers, err);
    if (!s) s = fs_json_int(&j, "num_attention_heads", FS_JSON_REQUIRED, 1, 1 << 16, &g->heads, err);
    if (!s) s = fs_json_int(&j, "vocab_size", FS_JSON_REQUIRED, 1, 1 << 26, &g->vocab, err);
    if (!s) s = fs_json_int(&j, "max_position_embeddings", FS_JSON_REQUIRED, 2, 1 << 20, &g->positions, err);
    if (!s) s = fs_json_int(&j, "type_vocab_size", FS_JSON_OPTIONAL, 1, 1 << 16, &g->types, err);
    if (!s) s = fs_json_float(&j, "layer_norm_eps", FS_JSON_OPTIONAL, 0, 1, &eps, err);
    if (!s) s = fs_json_string(&j, "hidden_act", FS_JSON_OPTIONAL, &activation, err);
    if (!s) s = fs_json_string(&j, "position_embedding_type", FS_JSON_OPTIONAL, &position, err);
    if (!s && (strcmp(activation, "gelu") != 0 || strcmp(position, "absolute") != 0))
        s = fs_fail(err, FS_E_UNSUPPORTED, "%s: activation \"%.40s\", positions \"%.40s\"; expected \"gelu\" and \"absolute\"", path,
                    activation, position);
    g->eps = (float)eps;
    fs_json_close(&j);
    free(path);
    return s;
}

static fs_status read_tokenizer(fs_encoder *e, const char *dir, fs_error *err) {
    fs_wordpiece_options opt = fs_wordpiece_options_defaults();
    fs_json j;
    bool there = false, strip = false;
    fs_status s = open_optional(dir, "tokenizer_config.json", &j, &there, err);
    if (!s && there) {
        s = fs_json_bool(&j, "do_lower_case", FS_JSON_OPTIONAL, &opt.lower_case, err);
        if (!s && fs_json_has(&j, "strip_accents") && !(s = fs_json_bool(&j, "strip_accents", FS_JSON_OPTIONAL, &strip, err)))
            opt.strip_accents = strip;
        if (!s) s = fs_json_bool(&j, "tokenize_chinese_chars", FS_JSON_OPTIONAL, &opt.chinese_chars, err);
    }
    fs_json_close(&j);
    char *vocab = fs_path_join(dir, "vocab.txt");
    if (!s) s = vocab ? fs_wordpiece_open(vocab, &opt, &e->words, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    free(vocab);
    return s;
}

static fs_status read_pooling(fs_encoder *e, const char *dir, int max_tokens, fs_error *err) {
    fs_json j;
    bool there = false, mean = true, first = false;
    int64_t limit = e->bert.config.positions;
    fs_status s = open_optional(dir, "sentence_bert_config.json", &j, &there, err);
    if (!s && there) s = fs_json_int(&j, "max_seq_length", FS_JSON_OPTIONAL, 2, 1 << 20, &limit, err);
    fs_json_close(&j);
    if (!s) s = open_optional(dir, "1_Pooling/config.json", &j, &there, err);
    if (!s && there) {
        mean = false;
        s = fs_json_bool(&j, "pooling_mode_mean_tokens", FS_JSON_OPTIONAL, &mean, err);
        if (!s) s = fs_json_bool(&j, "pooling_mode_cls_token", FS_JSON_OPTIONAL, &first, err);
        if (!s && mean == first)
            s = fs_fail(err, FS_E_UNSUPPORTED, "%s: expected pooling by the mean of tokens or by the first token, one of the two", j.path);
    }
    fs_json_close(&j);
    e->first_token = first;
    e->max_tokens = fs_min_i64(max_tokens > 0 ? max_tokens : limit, e->bert.config.positions);
    if (!s && e->max_tokens < 3)
        s = fs_fail(err, FS_E_USAGE, "%s: a limit of %lld tokens leaves no room for text", dir, (long long)e->max_tokens);
    return s;
}

fs_status fs_encoder_open(const char *dir, int max_tokens, int threads, const fs_callbacks *callbacks, fs_encoder **out, fs_error *err) {
    fs_bert_config g;
    *out = NULL;
    fs_encoder *e = calloc(1, sizeof *e);
    if (!e) return fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    fs_status s = read_config(dir, &g, err);
    if (!s) s = read_tokenizer(e, dir, err);
    if (!s) s = fs_archive_open(dir, &e->archive, err);
    if (!s) {
        const fs_tensor_source source = fs_archive_source(e->archive);
        const bool wrapped = fs_archive_find(e->archive, "bert.embeddings.word_embeddings.weight") != NULL;
        s = fs_bert_bind(&e->bert, &g, &source, wrapped ? "bert." : "", err);
    }
    if (!s && fs_wordpiece_size(e->words) > g.vocab)
        s = fs_fail(err, FS_E_MISMATCH, "%s: vocab.txt has %d tokens, the weights %lld; they are of different models", dir,
                    fs_wordpiece_size(e->words), (long long)g.vocab);
    if (!s) s = read_pooling(e, dir, max_tokens, err);
    if (!s && !(s = fs_exec_init(&e->exec, FS_DTYPE_F32, threads, callbacks, err))) e->exec_open = true;
    if (!s) {
        const size_t n = strlen(dir);
        char *trimmed = fs_format("%.*s", (int)(n > 1 && dir[n - 1] == '/' ? n - 1 : n), dir);
        snprintf(e->description, sizeof e->description, "%.100s, %lld layers, %lld wide, %s of at most %lld tokens",
                 trimmed ? fs_path_base(trimmed) : "", (long long)g.layers, (long long)g.hidden, e->first_token ? "first token" : "mean",
                 (long long)e->max_tokens);
        free(trimmed);
        *out = e;
    } else {
        fs_encoder_free(e);
    }
    return s;
}

void fs_encoder_free(fs_encoder *e) {
    if (!e) return;
    if (e->exec_open) fs_exec_end(&e->exec);
    fs_bert_unbind(&e->bert);
    fs_archive_free(e->archive);
    fs_wordpiece_free(e->words);
    free(e);
}

int64_t fs_encoder_width(const fs_encoder *e) {
    return e->bert.config.hidden;
}
const char *fs_encoder_describe(const fs_encoder *e) {
    return e->description;
}

fs_status fs_encoder_run(fs_encoder *e, const char *text, float **embedding, bool *truncated, fs_error *err) {
    const int64_t C = e->bert.config.hidden;
    fs_ids ids = {0};
    float *v = NULL;
    *embedding = NULL;
    fs_arena_mark mark = fs_arena_get_mark(e->exec.arena);
    fs_status status = fs_wordpiece_encode(e->words, text, (size_t)e->max_tokens, &ids, err);
    if (!status) {
        const fs_tensor *x = fs_bert_forward(&e->exec, &e->bert, ids.data, (int64_t)ids.count); /* [n, C] */
        status = fs_exec_status(&e->exec, err);
        if (!status && !(v = fs_alloc((size_t)C, sizeof *v))) {
            fs_fail(err, FS_E_NO_MEMORY, "out of memory");
            status = FS_E_NO_MEMORY;
        }
        const int64_t rows = e->first_token ? 1 : (int64_t)ids.count;
        for (int64_t c = 0; c < C && !status; c++) {
            double sum = 0;
            for (int64_t i = 0; i < rows; i++) sum += (double)fs_f32(x)[i * C + c];
            v[c] = (float)(sum / (double)rows);
        }
    }
    if (truncated) *truncated = (int64_t)ids.count == e->max_tokens;
    fs_arena_release(e->exec.arena, mark);
    fs_ids_free(&ids);
    if (!status)
        *embedding = v;
    else
        free(v);
    return status;
}

double fs_cosine(const float *a, const float *b, int64_t n) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) ab += (double)a[i] * (double)b[i], aa += (double)a[i] * (double)a[i], bb += (double)b[i] * (double)b[i];
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : NAN;
}
