/* How much arithmetic the networks are, and how many bytes of weights they read. Products of matrices, convolutions and attention are counted, norms
 * and activations are not; causal attention counts the half that is needed, SAM's windows what their padding adds. */
#include "pipeline/bench.h"
#include "tensor/packed.h"

bool fs_bench_is_block(const fs_tensor *t) { return fs_dtype_is_block(t->dtype) || fs_dtype_is_packed(t->dtype); }

double fs_bench_bytes(const fs_tensor *t) {
    size_t tile, bytes = 0;
    if (!t) return 0;
    if (fs_dtype_is_packed(t->dtype) ? !fs_packed_bytes(t->dtype, t->shape[0], t->shape[1], &tile, &bytes)
                                     : !fs_dtype_bytes(t->dtype, t->ndim, t->shape, &bytes))
        return 0;
    return (double)bytes;
}

static double elements(const fs_tensor *t) { return t ? (double)fs_tensor_count(t) : 0; }

enum { MATRICES = 7 };
static void matrices_of(const fs_llama_layer *l, const fs_tensor *out[MATRICES]) {
    const fs_tensor *const all[MATRICES] = {l->q, l->k, l->v, l->o, l->gate, l->up, l->down};
    for (int i = 0; i < MATRICES; i++) out[i] = all[i];
}

double fs_bench_llama_bytes(const fs_llama *m) {
    double sum = fs_bench_bytes(m->lm_head) + fs_bench_bytes(m->norm);
    for (int64_t i = 0; i < m->config.layers; i++) {
        const fs_tensor *w[MATRICES];
        matrices_of(&m->layers[i], w);
        for (int k = 0; k < MATRICES; k++) sum += fs_bench_bytes(w[k]);
        sum += fs_bench_bytes(m->layers[i].norm1) + fs_bench_bytes(m->layers[i].norm2);
    }
    return sum;
}

double fs_bench_llama_ops(const fs_llama *m, int64_t rows, int64_t before, int64_t heads) {
    const double n = (double)rows, pairs = n * (double)before + n * (n + 1) / 2; /* of a query with a key */
    double sum = 2 * elements(m->lm_head) * (double)heads;
    for (int64_t i = 0; i < m->config.layers; i++) {
        const fs_tensor *w[MATRICES];
        matrices_of(&m->layers[i], w);
        for (int k = 0; k < MATRICES; k++) sum += 2 * n * elements(w[k]);
        sum += 4 * pairs * (double)m->config.hidden;
    }
    return sum;
}

double fs_bench_resnet_ops(const fs_resnet *m, int64_t side) {
    const fs_resnet_block *b = m->blocks;
    double s = (double)((side + 1) / 2), sum = 2 * elements(m->stem) * s * s + 2 * elements(m->fc.w);
    s = s / 2; /* pooling */
    for (int stage = 0; stage < 4; stage++)
        for (int i = 0; i < m->n_blocks[stage]; i++, b++) {
            const double in = s * s;
            if (stage > 0 && i == 0) s /= 2;
            sum += 2 * (elements(b->conv[0]) * in + (elements(b->conv[1]) + elements(b->conv[2]) + elements(b->down)) * s * s);
        }
    return sum;
}

double fs_bench_clip_ops(const fs_clip *m, int select_layer) {
    const double side = (double)(m->config.image_size / m->config.patch_size), n = side * side + 1;
    const int64_t wanted = select_layer < 0 ? m->config.layers + 1 + select_layer : select_layer; /* -2: all but the last */
    double sum = 2 * elements(m->patch_embedding) * side * side;
    for (int64_t i = 0; i < wanted && i < m->n_layers; i++) {
        const fs_clip_layer *l = &m->layers[i];
        sum += 2 * n * (elements(l->q.w) + elements(l->k.w) + elements(l->v.w) + elements(l->out.w) + elements(l->fc1.w) + elements(l->fc2.w));
        sum += 4 * n * n * (double)m->config.hidden;
    }
    return sum;
}

double fs_bench_sam_ops(const fs_sam_encoder *m) {
    const double n = (double)(m->grid * m->grid), C = (double)m->embed;
    const int64_t across = (m->grid + m->window - 1) / fs_max_i64(1, m->window);
    const double windows = (double)(across * across), inside = (double)(m->window * m->window);
    double sum = 2 * n * (elements(m->patch_embed.w) + elements(m->neck_conv1) + elements(m->neck_conv2));
    for (int64_t i = 0; i < m->depth; i++) {
        const fs_sam_block *b = &m->blocks[i];
        sum += 2 * n * (elements(b->qkv.w) + elements(b->proj.w) + elements(b->lin1.w) + elements(b->lin2.w));
        sum += 4 * C * (b->global ? n * n : windows * inside * inside);
    }
    return sum;
}
