/* Any bytes as a GGUF file: an error that says why, or an archive all of whose fields can be asked for in every way, whose tensors can be read
 * and turned into numbers, and whose checksums can be compared. Whatever the file says of a LLaVA's configs and tokenizer
 * is taken or refused, and a tokenizer that is taken encodes and decodes. */
#include <stdlib.h>
#include <string.h>

#include "pipeline/llava_gguf.h"
#include "tensor/block.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void ask(const fs_gguf *g, fs_gguf_text key) {
    char *name = malloc(key.size + 1);
    int64_t i = 0;
    double d = 0;
    bool b = false;
    fs_gguf_text s = {0};
    volatile unsigned sum = 0;
    if (!name) return;
    memcpy(name, key.data, key.size);
    name[key.size] = '\0';
    if (!fs_gguf_has(g, name)) abort();
    if (fs_gguf_int(g, name, true, -5, 1000, &i, NULL) == FS_OK && (i < -5 || i > 1000)) abort();
    if (fs_gguf_float(g, name, true, -1, 1, &d, NULL) == FS_OK && !(d >= -1 && d <= 1)) abort();
    fs_gguf_bool(g, name, true, &b, NULL);
    if (fs_gguf_string(g, name, true, &s, NULL) == FS_OK)
        for (size_t k = 0; k < s.size; k++) sum += (unsigned char)s.data[k];
    for (int t = 0; t <= (int)FS_GGUF_F64; t++) {
        fs_gguf_array a;
        if (fs_gguf_array_of(g, name, true, (fs_gguf_type)t, &a, NULL) != FS_OK) continue;
        for (size_t k = 0; k < a.size; k++) sum += a.data[k];
        while (fs_gguf_next(&a, &s))
            for (size_t k = 0; k < s.size; k++) sum += (unsigned char)s.data[k];
    }
    (void)sum;
    free(name);
}

static void read_tensor(fs_archive *a, fs_archive_entry e, size_t size) {
    const fs_tensor *t = e.tensor;
    const int64_t row = t->ndim > 0 ? t->shape[t->ndim - 1] : 1, n = fs_tensor_count(t);
    size_t bytes;
    if (!fs_dtype_bytes(t->dtype, t->ndim, t->shape, &bytes) || bytes > size || fs_archive_find(a, e.name) != t) abort();
    volatile unsigned sum = 0;
    for (size_t k = 0; k < bytes; k++) sum += ((const uint8_t *)t->data)[k];
    (void)sum;
    if (n == 0 || row > 1 << 20) return;
    float *y = malloc((size_t)row * sizeof *y);
    if (y) fs_row_to_f32(t->dtype, t->data, row, y);
    free(y);
}

static void use(const fs_tokenizer *t) {
    static const char *const texts[] = {"", " a  b\n</s><s>", "caf\xC3\xA9 \xFF <image> \xE2\x96\x81x"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        fs_ids ids = {0};
        fs_error err;
        char *text = NULL;
        if (fs_tokenizer_encode(t, texts[i], &ids, &err) == FS_OK && fs_tokenizer_decode(t, ids.data, ids.count, i & 1, &text, &err)) abort();
        free(text);
        fs_ids_free(&ids);
    }
}

static void as_llava(fs_archive *a) {
    fs_lm_config lm;
    fs_clip_config clip;
    fs_tokenizer *t = NULL;
    fs_error err = {0};
    bool swapped;
    (void)fs_llava_kind_of(a);
    if (fs_llava_lm_config(a, &lm, &err) == FS_OK && (lm.llama.heads < 1 || lm.llama.vocab < 1)) abort();
    if (fs_llava_clip_config(a, &clip, &swapped, &err) == FS_OK && clip.layers < 1) abort();
    if (fs_llava_tokenizer(a, &t, &err) == FS_OK) use(t);
    else if (t || strchr(err.message, '\n')) abort();
    fs_tokenizer_free(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fs_archive *a = NULL;
    fs_error err = {0};
    if (fs_gguf_read("fuzz.gguf", data, size, &a, &err) != FS_OK) {
        if (a || err.status == FS_OK || err.message[0] == '\0') abort(); /* a failure says why */
        return 0;
    }
    const fs_gguf *g = fs_archive_gguf(a);
    for (size_t i = 0; i < fs_gguf_count(g); i++) ask(g, fs_gguf_at(g, i).key);
    for (size_t i = 0; i < fs_archive_count(a); i++) read_tensor(a, fs_archive_get(a, i), size);
    fs_gguf_verify(g, NULL, &err);
    as_llava(a);
    fs_archive_free(a);
    return 0;
}
