/* The words the two language models are asked with. They are data: the models were trained on exactly these (FakeShield's stage-1 CLI,
 * MFLM test script and the llava_v1 conversation template), odd spaces and line breaks included. */
#include <stdlib.h>
#include <string.h>

#include "text/text.h"

static const char SYSTEM[] =
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, and "
    "polite answers to the human's questions.";

const char fs_prompt_detection_question[] =
    "Was this photo taken directly from the camera without any processing? Has it been tampered with by any artificial photo modification "
    "techniques such as ps? Please zoom in on any details in the image, paying special attention to the edges of the objects, capturing "
    "some unnatural edges and perspective relationships, some incorrect semantics, unnatural lighting and darkness etc.";

const char *const fs_prompt_domain[3] = {
    "This is a picture that is suspected to have been tampered with by AIGC inpainting. ",
    "This is a picture that is suspected to have been tampered with by DeepFake. ",
    "This is a picture that is suspected to have been tampered with by Photoshop. ",
};

const char *const fs_prompt_localize_question[3] = {
    "Based on the description of the tampered area, please give the mask of the tampered area.",
    "Please provide a mask of the tampered region based on the description of the tampered region given above.",
    "Please give the mask of the tampered area based on the description of the tampered area given above.",
};

static const char LOCALIZE_INTRO[] =
    "This photo has been tampered. The following is a description of the tampering area and the basis for judgment: ";

/* What a tokenizer of either stage, or the search for the picture's place, would take for more than text. */
static const char *const TOKENS[] = {"<image>", "<im_start>", "<im_end>", "<bbox>", "<point>", "[SEG]",
                                     "<p>",     "</p>",       "<s>",      "</s>",   "<unk>"};

static char *take(fs_buffer *b) {
    fs_buffer_add(b, "", 0);
    if (b->failed) fs_buffer_free(b);
    return b->data;
}

static size_t token_at(const char *p, bool allow_bbox) {
    for (size_t i = 0; i < sizeof TOKENS / sizeof TOKENS[0]; i++) {
        size_t n = strlen(TOKENS[i]);
        if (strncmp(p, TOKENS[i], n) == 0) return allow_bbox && strcmp(TOKENS[i], "<bbox>") == 0 ? 0 : n;
    }
    return 0;
}

char *fs_prompt_defuse(const char *text, bool allow_bbox, int *count) {
    fs_buffer b = {0};
    for (const char *p = text; *p;) {
        size_t plain = strcspn(p, "<[");
        fs_buffer_add(&b, p, plain);
        p += plain;
        if (!*p) break;
        size_t n = token_at(p, allow_bbox);
        if (n == 0) {
            fs_buffer_add(&b, p++, 1);
            continue;
        }
        fs_buffer_puts(&b, "(");
        fs_buffer_add(&b, p + 1, n - 2);
        fs_buffer_puts(&b, ")");
        if (count) ++*count;
        p += n;
    }
    return take(&b);
}

char *fs_prompt_render(const char *user_message) {
    return fs_format("%s USER: %s ASSISTANT:", SYSTEM, user_message);
}

char *fs_prompt_stage1(fs_domain domain, const char *question, bool im_start_end) {
    if ((unsigned)domain > FS_DOMAIN_PHOTOSHOP) return NULL;
    char *safe = fs_prompt_defuse(question, false, NULL), *prompt = NULL;
    char *message =
        safe ? fs_format("%s\n%s%s", im_start_end ? "<im_start><image><im_end>" : "<image>", fs_prompt_domain[domain], safe) : NULL;
    if (message) prompt = fs_prompt_render(message);
    free(message);
    free(safe);
    return prompt;
}

/* Upstream undoes two HTML escapes in the question, whatever wrote them. */
static char *unescape(const char *text) {
    fs_buffer b = {0};
    for (const char *p = text; *p;) {
        size_t plain = strcspn(p, "&");
        fs_buffer_add(&b, p, plain);
        p += plain;
        if (!*p) break;
        bool lt = strncmp(p, "&lt;", 4) == 0, gt = strncmp(p, "&gt;", 4) == 0;
        fs_buffer_puts(&b, lt ? "<" : gt ? ">" : "&");
        p += lt || gt ? 4 : 1;
    }
    return take(&b);
}

char *fs_prompt_stage2(const char *text, fs_prompt_style style, int question_index, bool allow_bbox, int *defused) {
    static const char picture[] = "The <im_start><image><im_end> provides an overview of the picture.\n";
    int count = 0;
    if (question_index < 0 || question_index > 2) return NULL;
    char *plain = unescape(text), *message = NULL, *prompt = NULL;
    char *safe = plain ? fs_prompt_defuse(plain, allow_bbox, &count) : NULL;
    if (safe && style == FS_PROMPT_TEST)
        message = fs_format("%s%s\n%s\n %s", picture, LOCALIZE_INTRO, safe, fs_prompt_localize_question[question_index]);
    else if (safe)
        message = fs_format("%s%s", picture, safe);
    if (message) prompt = fs_prompt_render(message);
    if (defused) *defused = count;
    free(message);
    free(safe);
    free(plain);
    return prompt;
}
