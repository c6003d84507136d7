/* Metadata of a bundle's files: the keys that GGUF programs ask for of any file, of a LLaMA and of its tokenizer, and those of ours. */
#include "pipeline/bundle_meta.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "text/spm_model.h"

void fs_bundle_put_general(fs_gguf_writer *w, const fs_bundle_type *type, const char *architecture, const char *title, const char *fingerprint) {
    fs_gguf_put_text(w, "general.architecture", architecture);
    fs_gguf_put_text(w, "general.name", title);
    fs_gguf_put_u32(w, "general.quantization_version", 2);
    fs_gguf_put_u32(w, "general.file_type", type->file_type);
    fs_gguf_put_u32(w, "fakeshield.bundle_version", 1);
    fs_gguf_put_text(w, "fakeshield.type", type->name);
    fs_gguf_put_text(w, "fakeshield.made_with", fs_version()); /* another version may round in another way */
    fs_gguf_put_text(w, "fakeshield.source_sha256", fingerprint);
}

void fs_bundle_put_llama(fs_gguf_writer *w, const fs_llama_config *g) {
    fs_gguf_put_u32(w, "llama.vocab_size", (uint32_t)g->vocab);
    fs_gguf_put_u32(w, "llama.context_length", (uint32_t)(g->max_positions > 0 ? g->max_positions : 4096));
    fs_gguf_put_u32(w, "llama.embedding_length", (uint32_t)g->hidden);
    fs_gguf_put_u32(w, "llama.block_count", (uint32_t)g->layers);
    fs_gguf_put_u32(w, "llama.feed_forward_length", (uint32_t)g->intermediate);
    fs_gguf_put_u32(w, "llama.attention.head_count", (uint32_t)g->heads);
    fs_gguf_put_u32(w, "llama.attention.head_count_kv", (uint32_t)g->kv_heads);
    fs_gguf_put_f32(w, "llama.attention.layer_norm_rms_epsilon", g->eps);
    fs_gguf_put_u32(w, "llama.rope.dimension_count", (uint32_t)(g->hidden / g->heads));
    fs_gguf_put_f32(w, "llama.rope.freq_base", g->rope_theta);
    fs_gguf_put_text(w, "fakeshield.rope", "interleaved");
}

/* Tokens behind the model's pieces: added ones, and, up to the embedding's last row, ones that stand for nothing. */
static fs_status added_piece(const fs_tokenizer *t, int32_t id, char **text, int32_t *kind, fs_error *err) {
    const bool known = id < fs_tokenizer_size(t);
    *kind = known ? FS_PIECE_USER : FS_PIECE_UNUSED;
    if (known) return fs_tokenizer_decode(t, &id, 1, false, text, err);
    *text = fs_format("[PAD%" PRId32 "]", id);
    return *text ? FS_OK : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
}

fs_status fs_bundle_put_vocabulary(fs_gguf_writer *w, const char *where, fs_bytes model, const fs_tokenizer *t, int64_t vocab, fs_error *err) {
    fs_spm_model m = {0};
    fs_gguf_text *text = fs_alloc_zero((size_t)vocab, sizeof *text);
    float *score = fs_alloc_zero((size_t)vocab, sizeof *score);
    int32_t *kind = fs_alloc_zero((size_t)vocab, sizeof *kind);
    char **made = fs_alloc_zero((size_t)vocab, sizeof *made);
    fs_status status = text && score && kind && made ? fs_spm_read(model.data, model.size, where, &m, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory");
    for (int64_t i = 0; i < vocab && !status; i++) {
        const int32_t id = (int32_t)i;
        if (id < m.count) {
            text[i] = (fs_gguf_text){fs_spm_text(&m, id), m.pieces[id].length};
            score[i] = m.pieces[id].score;
            kind[i] = m.pieces[id].kind;
            continue;
        }
        status = added_piece(t, id, &made[i], &kind[i], err);
        if (!status) text[i] = (fs_gguf_text){made[i], strlen(made[i])};
        score[i] = -1000;
    }
    if (status) goto done;
    fs_gguf_put_text(w, "tokenizer.ggml.model", "llama");
    fs_gguf_put_strings(w, "tokenizer.ggml.tokens", (size_t)vocab, text);
    fs_gguf_put_array(w, "tokenizer.ggml.scores", FS_GGUF_F32, (size_t)vocab, score);
    fs_gguf_put_array(w, "tokenizer.ggml.token_type", FS_GGUF_I32, (size_t)vocab, kind);
    if (fs_tokenizer_bos(t) >= 0) fs_gguf_put_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)fs_tokenizer_bos(t));
    if (fs_tokenizer_eos(t) >= 0) fs_gguf_put_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)fs_tokenizer_eos(t));
    fs_gguf_put_u32(w, "tokenizer.ggml.unknown_token_id", (uint32_t)m.unknown);
    fs_gguf_put_bool(w, "tokenizer.ggml.add_bos_token", true);
    fs_gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
done:
    for (int64_t i = 0; made && i < vocab; i++) free(made[i]);
    free(made);
    free(kind);
    free(score);
    free(text);
    fs_spm_free(&m);
    return status;
}
