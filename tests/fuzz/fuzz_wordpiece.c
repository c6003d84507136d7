/* Any bytes as a vocabulary, up to a zero byte, and behind it as text: ids of that vocabulary, [CLS] first and [SEP] last, within the
 * limit. */
#include <stdlib.h>
#include <string.h>

#include "text/wordpiece.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char specials[] = "[UNK]\n[CLS]\n[SEP]\n[MASK]\n";
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    const size_t n = zero ? (size_t)(zero - data) : 0, m = sizeof specials - 1;
    char *vocab = malloc(m + n), *text = malloc(size - n + 1);
    fs_wordpiece *w = NULL;
    fs_ids ids = {0};
    fs_error err = {0};
    if (!vocab || !text) abort();
    memcpy(vocab, specials, m);
    memcpy(vocab + m, data, n);
    memcpy(text, data + n + (zero ? 1 : 0), size - n - (zero ? 1 : 0));
    text[size - n - (zero ? 1 : 0)] = 0;
    if (fs_wordpiece_create("fuzz", vocab, m + n, NULL, &w, &err)) abort(); /* the special tokens are there */
    if (fs_wordpiece_encode(w, text, 64, &ids, &err)) abort();
    if (ids.count < 2 || ids.count > 64) abort();
    for (size_t i = 0; i < ids.count; i++)
        if (ids.data[i] < 0 || ids.data[i] >= fs_wordpiece_size(w)) abort();
    fs_ids_free(&ids);
    fs_wordpiece_free(w);
    free(vocab);
    free(text);
    return 0;
}
