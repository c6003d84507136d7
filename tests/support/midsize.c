/* The checkpoint of a middle size (midsize.h). Weights of a linear layer have variance 1/fan_in; trained ones have longer tails than normal
 * numbers, drawn here from Student's t with four degrees of freedom, and some channels that are much larger than the rest: one in 128 of the
 * embedding ten times as large, as the residual stream of a trained LLaMA has them, with norms that let a third of that through.
 *
 * Stage 2's answer: channel 0 of every embedding is large, and [SEG]'s output row reads it; [SEG]'s own embedding is large in channel 1,
 * which the output row of the end token reads still more strongly. So it answers [SEG] and stops. */
#include "support/midsize.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/archive.h"
#include "support/weightgen.h"

enum { MOST_BYTES = 1 << 26, MOST_TENSORS = 2048, END_TOKEN = 2, SEG_TOKEN = 644 };

typedef struct shelf { fs_tensor tensors[MOST_TENSORS]; const fs_tensor *list[MOST_TENSORS]; const char *names[MOST_TENSORS]; size_t n, own; } shelf;

fs_midsize fs_midsize_defaults(void) {
    return (fs_midsize){.hidden = 512, .intermediate = 1280, .heads = 8, .kv_heads = 8, .layers = {4, 3}, .tails = true, .sharp = 3};
}

/* Quantile of Student's t with four degrees of freedom at (1 + u) / 2 (Shaw, 2006), over its standard deviation, the root of two. */
static double student4(double u) {
    const double alpha = 1 - u * u;
    if (alpha <= 0) return 0;
    const double q = cos(acos(sqrt(alpha)) / 3) / sqrt(alpha);
    return (u < 0 ? -2 : 2) * sqrt(fmax(q - 1, 0)) / sqrt(2);
}

void fs_heavy_tails(float *x, int64_t n, int64_t fan_in) {
    const double scale = sqrt(3.0 / (double)fan_in), deviation = 1 / sqrt((double)fan_in);
#pragma omp parallel for schedule(static) if (n > 65536)
    for (int64_t i = 0; i < n; i++) x[i] = (float)(deviation * student4((double)x[i] / scale));
}

static bool outlier(int64_t channel) { return channel % 128 == 77; }

/* A new tensor by formula. */
static float *add(shelf *s, const fs_midsize *g, const char *name, int64_t rows, int64_t cols, fs_error *err) {
    fs_tensor *t = &s->tensors[s->n];
    const int64_t n = rows * (cols ? cols : 1);
    *t = (fs_tensor){.dtype = FS_DTYPE_F32, .ndim = cols ? 2 : 1, .shape = {rows, cols ? cols : 1, 1, 1, 1, 1}};
    t->data = s->n < MOST_TENSORS ? fs_alloc((size_t)n, sizeof(float)) : NULL;
    char *copy = fs_strdup(name);
    if (!t->data || !copy) {
        fs_fail(err, FS_E_NO_MEMORY, "out of memory");
        free(t->data);
        free(copy);
        return NULL;
    }
    fs_test_weight(name, (size_t)t->ndim, t->shape, fs_f32(t));
    const bool embedding = strstr(name, "embed_tokens") != NULL;
    if (cols && g->tails && !embedding) fs_heavy_tails(fs_f32(t), n, cols);
    for (int64_t i = 0; g->tails && i < n; i++) {
        const int64_t channel = cols ? i % cols : i;
        if (embedding && outlier(channel)) fs_f32(t)[i] *= 10;
        if (!cols && strstr(name, "norm") && outlier(channel)) fs_f32(t)[i] /= 3;
    }
    t->name = copy;
    s->list[s->n] = t;
    s->names[s->n] = copy;
    s->own = ++s->n;
    return fs_f32(t);
}

static fs_status language_model(shelf *s, const fs_midsize *g, int stage, int64_t vocab, int64_t vision, fs_error *err) {
    const int64_t H = g->hidden, I = g->intermediate, kv = H / g->heads * g->kv_heads;
    float *embed = add(s, g, "model.embed_tokens.weight", vocab, H, err), *head = embed ? add(s, g, "lm_head.weight", vocab, H, err) : NULL;
    bool ok = head && add(s, g, "model.norm.weight", H, 0, err);
    const struct { const char *name; int64_t rows, cols; } parts[] = {
        {"input_layernorm", H, 0},     {"self_attn.q_proj", H, H},    {"self_attn.k_proj", kv, H}, {"self_attn.v_proj", kv, H}, {"self_attn.o_proj", H, H},
        {"post_attention_layernorm", H, 0}, {"mlp.gate_proj", I, H}, {"mlp.up_proj", I, H},       {"mlp.down_proj", H, I},
    };
    for (int64_t i = 0; ok && i < g->layers[stage]; i++)
        for (size_t k = 0; ok && k < sizeof parts / sizeof parts[0]; k++) {
            char name[96];
            snprintf(name, sizeof name, "model.layers.%lld.%s.weight", (long long)i, parts[k].name);
            ok = add(s, g, name, parts[k].rows, parts[k].cols, err) != NULL;
        }
    ok = ok && add(s, g, "model.mm_projector.0.weight", H, vision, err) && add(s, g, "model.mm_projector.0.bias", H, 0, err);
    ok = ok && add(s, g, "model.mm_projector.2.weight", H, H, err) && add(s, g, "model.mm_projector.2.bias", H, 0, err);
    if (!ok) return err->status;
    for (int64_t i = 0; i < vocab * H; i++) head[i] *= g->sharp;
    for (int64_t t = 0; g->memory > 0 && t < vocab; t++) {
        double size = 0;
        for (int64_t i = 0; i < H; i++) size += (double)embed[t * H + i] * (double)embed[t * H + i];
        for (int64_t i = 0; i < H; i++) head[(7 * t + 3) % vocab * H + i] += (float)((double)g->memory * (double)embed[t * H + i] / sqrt(size));
    }
    if (stage == 0) return FS_OK;
    for (int64_t i = 0; i < vocab; i++) embed[i * H] = 8, embed[i * H + 1] = 0; /* H numbers of about 0.5 (and some of 5) beside it */
    embed[SEG_TOKEN * H + 1] = 16;
    head[SEG_TOKEN * H] = 6 * g->sharp;
    head[END_TOKEN * H + 1] = 12 * g->sharp;
    return FS_OK;
}

/* The tiny checkpoint's file `name` as JSON with these numbers changed. */
static fs_status write_config(const char *from, const char *to, const fs_midsize *g, int stage, fs_error *err) {
    json_error_t e;
    json_t *j = json_load_file(from, 0, &e);
    if (!j) return fs_fail(err, FS_E_FORMAT, "%s: %s", from, e.text);
    json_object_set_new(j, "hidden_size", json_integer(g->hidden));
    json_object_set_new(j, "intermediate_size", json_integer(g->intermediate));
    json_object_set_new(j, "num_hidden_layers", json_integer(g->layers[stage]));
    json_object_set_new(j, "num_attention_heads", json_integer(g->heads));
    json_object_set_new(j, "num_key_value_heads", json_integer(g->kv_heads));
    const int failed = json_dump_file(j, to, JSON_INDENT(2));
    json_decref(j);
    return failed ? fs_fail(err, FS_E_IO, "%s: cannot be written", to) : FS_OK;
}

static fs_status copy_file(const char *from, const char *to, fs_error *err) {
    uint8_t *data = NULL;
    size_t size = 0;
    if (!fs_path_exists(from)) return FS_OK;
    fs_status status = fs_read_file(from, MOST_BYTES, &data, &size, err);
    if (!status) status = fs_write_file(to, data, size, err);
    free(data);
    return status;
}

static fs_status write_stage(const char *tiny, const char *dir, const fs_midsize *g, int stage, fs_error *err) {
    static const char *const files[] = {"generation_config.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"};
    const char *stage_name = stage ? "MFLM" : "DTE-FDM";
    char *from = fs_path_join(tiny, stage_name), *to = fs_path_join(dir, stage_name), *weights = NULL, *a, *b;
    fs_archive *old = NULL;
    shelf *s = fs_alloc_zero(1, sizeof *s);
    fs_status status = from && to && s ? fs_make_dirs(to, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (size_t i = 0; !status && i <= sizeof files / sizeof files[0]; i++) {
        const char *name = i ? files[i - 1] : "config.json";
        a = fs_path_join(from, name), b = fs_path_join(to, name);
        status = !a || !b ? fs_fail(err, FS_E_NO_MEMORY, "out of memory") : i ? copy_file(a, b, err) : write_config(a, b, g, stage, err);
        free(a), free(b);
    }
    if (status || (status = fs_archive_open(from, &old, err))) goto done;
    const int64_t vocab = fs_archive_find(old, "lm_head.weight")->shape[0], vision = fs_archive_find(old, "model.mm_projector.0.weight")->shape[1];
    if ((status = language_model(s, g, stage, vocab, vision, err))) goto done;
    if (stage) {
        const int64_t channels = fs_archive_find(old, "model.text_hidden_fcs.0.2.weight")->shape[0];
        if (!add(s, g, "model.text_hidden_fcs.0.0.weight", g->hidden, g->hidden, err) || !add(s, g, "model.text_hidden_fcs.0.0.bias", g->hidden, 0, err) ||
            !add(s, g, "model.text_hidden_fcs.0.2.weight", channels, g->hidden, err) || !add(s, g, "model.text_hidden_fcs.0.2.bias", channels, 0, err)) {
            status = err->status;
            goto done;
        }
        for (size_t i = 0; i < fs_archive_count(old); i++) {
            const fs_archive_entry e = fs_archive_get(old, i);
            if (!strstr(e.name, "grounding_encoder") || s->n == MOST_TENSORS) continue;
            s->list[s->n] = e.tensor;
            s->names[s->n++] = e.name;
        }
    }
    weights = fs_path_join(to, "model.safetensors");
    status = weights ? fs_safetensors_write(weights, s->list, s->names, s->n, NULL, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
done:
    for (size_t i = 0; s && i < s->own; i++) {
        free(s->tensors[i].data);
        free((void *)(uintptr_t)s->tensors[i].name);
    }
    free(s);
    fs_archive_free(old);
    free(weights), free(from), free(to);
    return status;
}

fs_status fs_midsize_write(const char *tiny, const char *dir, const fs_midsize *size, fs_error *err) {
    static const char *const links[] = {"DTG.pth", "clip-vit-tiny"};
    fs_status status = FS_OK;
    char *root = realpath(tiny, NULL);
    if (!root) return fs_fail(err, FS_E_NOT_FOUND, "%s: no such folder", tiny);
    for (int i = 0; i < 2 && !status; i++) {
        char *from = fs_path_join(root, links[i]), *to = fs_path_join(dir, links[i]);
        if (!from || !to || symlink(from, to) != 0) status = fs_fail(err, FS_E_IO, "%s: cannot be linked", links[i]);
        free(from), free(to);
    }
    for (int i = 0; i < 2 && !status; i++) status = write_stage(root, dir, size, i, err);
    free(root);
    return status;
}

void fs_midsize_remove(const char *dir) {
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char *path = strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 ? fs_path_join(dir, e->d_name) : NULL;
        if (path && unlink(path) != 0) fs_midsize_remove(path); /* a link to a folder is unlinked, never entered */
        free(path);
    }
    if (d) closedir(d);
    rmdir(dir);
}
