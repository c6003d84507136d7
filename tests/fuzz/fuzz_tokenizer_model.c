/* tokenizer.model from a stranger: whatever is accepted must encode and decode. The library behind it is not instrumented, but a crash in
 * it is found all the same: this harness is why spm_model.c checks what it checks. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const fs_tokenizer *t) {
    static const char *const texts[] = {"", " ", "The lamp <p>in</p> the [SEG] corner.\n\n2. x",
                                        "\xE2\x96\x81\xE2\x96\x81 a\xFF\xF0\x9F\x91\x8D\x01", "</s><s><unk> 0123"};
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        fs_ids ids = {0};
        fs_error err;
        char *text = NULL;
        if (fs_tokenizer_encode(t, texts[i], &ids, &err) == FS_OK) {
            if (fs_tokenizer_decode(t, ids.data, ids.count, i & 1, &text, &err)) abort(); /* its own ids must decode */
        }
        free(text);
        fs_ids_free(&ids);
    }
    for (int32_t id = 0; id < fs_tokenizer_size(t); id += 1 + fs_tokenizer_size(t) / 100) {
        char *text = NULL;
        fs_error err;
        if (fs_tokenizer_decode(t, &id, 1, false, &text, &err) == FS_OK) fs_tokenizer_id(t, text);
        free(text);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char config[] = "{\"legacy\": false, \"additional_special_tokens\": [\"[SEG]\", \"<p>\"]}";
    for (int i = 0; i < 3; i++) {
        fs_error err;
        fs_tokenizer *t;
        fs_tokenizer_files files = {.where = "fuzz", .model = {data, size}};
        if (i == 2) files.config = (fs_bytes){config, sizeof config - 1};
        if (fs_tokenizer_create(&files, i == 0 ? FS_RULES_428 : FS_RULES_437, &t, &err) == FS_OK)
            use(t);
        else if (strchr(err.message, '\n'))
            abort();
        else
            break; /* what one set of rules refuses about the model, the others do too */
        fs_tokenizer_free(t);
    }
    return 0;
}
