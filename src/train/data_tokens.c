/* Token ids and labels of a rendered conversation, by the rule of LLaVA's preprocess_v1 (DTE-FDM/llava/train/train.py) and GLaMM's
 * _process_conversation (MFLM/dataset/dataset.py), which is the same one.
 *
 * Text between "</s>" is a round. A round's ids are counted by tokenizing it alone: its BOS stands in for the "</s>" it lost. What is in front
 * of the answer, counted the same way less BOS and the lone mark of the trailing space, gets no label. Counting can go wrong (a text that
 * holds "</s>", an id that looks like padding); then the sum is off, and the original gives up the whole sample. */
#include "train/data.h"

#include <stdlib.h>
#include <string.h>

#include "tensor/ops.h"

static const char ROUND_END[] = "</s>", ANSWER_BEGIN[] = " ASSISTANT: ";

static fs_status encode(const fs_tokenizer *t, bool image, const char *text, fs_ids *out, fs_error *err) {
    out->count = 0;
    return image ? fs_tokenizer_encode_image(t, text, out, err) : fs_tokenizer_encode(t, text, out, err);
}

/* How many ids a round and the part of it without labels have. *usable: it has exactly one answer. round: may be written to. */
static fs_status count_round(const fs_tokenizer *t, bool image, char *round, fs_ids *scratch, int64_t *round_ids, int64_t *silent, bool *usable,
                             fs_error *err) {
    char *cut = strstr(round, ANSWER_BEGIN);
    char *answer = cut ? cut + strlen(ANSWER_BEGIN) : NULL;
    *usable = answer && !strstr(answer, ANSWER_BEGIN);
    if (!*usable) return FS_OK;
    fs_status status = encode(t, image, round, scratch, err);
    if (status) return status;
    *round_ids = (int64_t)scratch->count;
    const char kept = *answer;
    *answer = '\0';
    status = encode(t, image, round, scratch, err);
    *answer = kept;
    *silent = (int64_t)scratch->count - 2;
    return status;
}

static void ignore(int32_t *labels, int64_t n, int64_t from, int64_t to) {
    for (int64_t i = fs_max_i64(from, 0); i < to && i < n; i++) labels[i] = FS_IGNORE;
}

fs_status fs_tokens_and_labels(const fs_tokenizer *t, const char *rendered, const fs_label_rule *rule, fs_ids *ids, int32_t **labels,
                               bool *mismatch, fs_error *err) {
    fs_ids scratch = {0};
    char *copy = fs_strdup(rendered);
    *labels = NULL;
    *mismatch = false;
    fs_status status = copy ? encode(t, rule->image, rendered, ids, err) : fs_fail(err, FS_E_NO_MEMORY, "out of memory for a conversation");
    if (status) goto done;
    /* a text without picture is cut by the tokenizer, before labels are made; else by the collator, after it */
    if (!rule->image && (int64_t)ids->count > rule->max_length) ids->count = (size_t)rule->max_length;
    const int64_t n = (int64_t)ids->count;
    int32_t *made = fs_alloc(ids->count + 1, sizeof *made);
    if (!made) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for %zu labels", ids->count);
        goto done;
    }
    *labels = made;
    const int32_t pad = fs_tokenizer_id(t, "<unk>");
    int64_t total = 0, at = 1, number = 0;
    for (int64_t i = 0; i < n; i++) total += ids->data[i] != pad;
    if (n) memcpy(made, ids->data, (size_t)n * sizeof *made);
    ignore(made, n, 0, at);
    for (char *round = copy; round && *round; number++) {
        char *end = strstr(round, ROUND_END);
        if (end) *end = '\0';
        int64_t round_ids = 0, silent = 0;
        bool usable;
        if ((status = count_round(t, rule->image, round, &scratch, &round_ids, &silent, &usable, err))) goto done;
        if (!usable) break;
        if (number > 0 && !fs_tokenizer_legacy(t)) round_ids--, silent--; /* behind "</s>" such a tokenizer sets no mark, alone it does */
        ignore(made, n, at, at + silent);
        at += round_ids;
        round = end ? end + strlen(ROUND_END) : NULL;
    }
    ignore(made, n, at, n);
    *mismatch = at < rule->max_length && at != total;
    if (*mismatch) ignore(made, n, 0, n);
    if (n > rule->cut) ids->count = (size_t)rule->cut;
done:
    if (status) {
        free(*labels);
        *labels = NULL;
    }
    fs_ids_free(&scratch);
    free(copy);
    return status;
}
