/* Any bytes as a data set's JSON: a list of texts, conversations, and a service's reply. Each gives a sound result or an error with a line.
 */
#include <stdlib.h>
#include <string.h>

#include "data/describe.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool fact) {
    if (!fact) abort();
}

static void demand_error(fs_status status, const fs_error *err) {
    demand(status != FS_OK && err->status == status && err->message[0]);
}

static void read_texts(const uint8_t *data, size_t size) {
    fs_data_text_list list;
    fs_error err = {0};
    size_t twice = 0;
    const fs_status status = fs_data_texts_parse("lisa_train_gt.json", data, size, &list, &twice, &err);
    if (status) demand_error(status, &err);
    for (size_t i = 0; i < list.count; i++) {
        demand(!strchr(list.items[i].image, '/'));
        demand(i == 0 || strcmp(list.items[i - 1].image, list.items[i].image) < 0);
        demand(fs_data_texts_find(&list, list.items[i].image) == list.items[i].text);
    }
    fs_data_text_list_free(&list);
}

static void read_conversations(const uint8_t *data, size_t size, bool keep) {
    fs_data_options opt = fs_data_options_defaults();
    fs_dataset d;
    fs_error err = {0};
    opt.keep_problems = keep;
    const fs_status status = fs_dataset_parse_conversations("mmtd.json", data, size, NULL, &opt, &d, &err);
    if (status) demand_error(status, &err);
    for (size_t i = 0; i < d.count; i++) {
        const fs_data_record *r = &d.records[i];
        demand(r->n_turns > 0 && r->turns[0].human);
        demand(!r->image || (strcmp(r->image, "..") != 0 && strncmp(r->image, "../", 3) != 0 && !strstr(r->image, "/../")));
        for (size_t k = 1; k < r->n_turns; k++) demand(r->turns[k].human != r->turns[k - 1].human);
    }
    fs_dataset_free(&d);
}

static void read_reply(const uint8_t *data, size_t size) {
    describe_instructions words;
    describe_reply reply;
    fs_error err = {0};
    demand(describe_instructions_open(NULL, &words, &err) == FS_OK);
    const fs_status status = describe_reply_parse((const char *)data, size, &reply, &err);
    if (status) demand_error(status, &err);
    for (int label = FS_VERDICT_AUTHENTIC; !status && label <= FS_VERDICT_TAMPERED; label++) {
        char *text = NULL, problem[200];
        demand(describe_answer_check(&words, reply.text, (fs_verdict)label, &text, problem, &err) == FS_OK);
        demand(text ? !*problem && fs_utf8_valid(text, strlen(text)) && strstr(text, "\n\n2. Judgment basis: ") : *problem != 0);
        free(text);
    }
    free(reply.text);
    describe_instructions_close(&words);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    read_texts(data, size);
    read_conversations(data, size, false);
    read_conversations(data, size, true);
    read_reply(data, size);
    return 0;
}
