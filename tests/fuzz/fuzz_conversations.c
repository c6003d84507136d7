/* A stranger's conversation file, as training reads it: a byte of switches, then JSON. Held to: an error says why; every record that is read can be
 * rendered (or asks for too many pictures) and tokenized, and a label is its id or nothing, also where the ids were cut. */
#include <stdlib.h>
#include <string.h>

#include "tensor/ops.h"
#include "train/data_internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_record(const fs_tokenizer *t, const fs_data_record *r, const fs_conversation_options *o) {
    const fs_label_rule rule = {r->image != NULL, o->max_length, o->max_length};
    fs_error err = {0};
    fs_ids ids = {0};
    int32_t *labels = NULL;
    bool mismatch;
    char *text = NULL;
    fs_status status = fs_data_render_conversation(r, o, &text, &err);
    if (status == FS_OK) status = fs_tokens_and_labels(t, text, &rule, &ids, &labels, &mismatch, &err);
    if (status != FS_OK && err.message[0] == '\0') abort();
    if (status == FS_OK) {
        int pictures = 0;
        if ((int64_t)ids.count > o->max_length) abort();
        for (size_t i = 0; i < ids.count; i++) {
            if (labels[i] != FS_IGNORE && (labels[i] != ids.data[i] || mismatch)) abort();
            pictures += ids.data[i] == FS_IMAGE_TOKEN;
        }
        if (pictures > (r->image ? 1 : 0)) abort();
    }
    free(text);
    free(labels);
    fs_ids_free(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static fs_tokenizer *tokenizer; /* the same one for all inputs */
    fs_error err = {0};
    fs_dataset d;
    if (!tokenizer && fs_tokenizer_open(FS_TINY_DIR "/DTE-FDM", FS_RULES_437, &tokenizer, &err) != FS_OK) abort();
    if (size == 0) return 0;
    fs_conversation_options o = fs_conversation_options_defaults();
    o.im_start_end = data[0] & 1;
    o.system = data[0] & 2 ? FS_SYSTEM_HUMAN : FS_SYSTEM_USER;
    if (data[0] & 8) o.max_length = 90;
    fs_data_options reading = fs_data_options_defaults();
    reading.keep_problems = data[0] & 4;
    if (fs_dataset_parse_conversations("x.json", data + 1, size - 1, NULL, &reading, &d, &err) != FS_OK) {
        if (err.message[0] == '\0' || d.records) abort();
        return 0;
    }
    for (size_t i = 0; i < d.count; i++) try_record(tokenizer, &d.records[i], &o);
    fs_dataset_free(&d);
    return 0;
}
