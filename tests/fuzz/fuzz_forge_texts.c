/* A grammar of texts: what is taken expands to a text or to an error, and ends. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/forge_texts.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fs_texts *t = NULL;
    fs_error err;
    if (fs_texts_parse("grammar", data, size, &t, &err)) return 0;
    fs_facts f = {.type = "splice",
                  .what = size % 2 ? "owl" : NULL,
                  .region = "object",
                  .words = {.position_word = "center", .size_word = "small"},
                  .cues = {"hue", "fill"},
                  .n_cues = 2};
    for (uint64_t seed = 0; seed < 4; seed++) {
        fs_rng rng = fs_rng_seed(seed);
        char *text = NULL;
        fs_status status = fs_texts_answer(t, &f, seed % 2, &rng, &text, &err);
        if (status && status != FS_E_FORMAT && status != FS_E_LIMIT) abort();
        if (!status && !text) abort();
        free(text);
    }
    fs_texts_close(t);
    return 0;
}
