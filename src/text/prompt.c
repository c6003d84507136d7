/* The words the two language models are asked with. They are data: the models were trained on exactly these (FakeShield's stage-1 CLI,
 * MFLM test script and the llava_v1 conversation template), odd spaces and line breaks included. */
#include <stdlib.h>
#include <string.h>

#include "text/text.h"

#define SYSTEM(who)                                                                                                    \
    "A chat between a curious " who " and an artificial intelligence assistant. The assistant gives helpful, detailed, " \
    "and polite answers to the " who "'s questions."
static const char *const systems[2] = {SYSTEM("human"), SYSTEM("user")};
static const char *const system_names[2] = {"llava_v1", "v1"};

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

static const char PICTURE[] = "The <im_start><image><im_end> provides an overview of the picture.\n";

/* Training only: questions where there is no description, and answers. */
static const char *const bare_questions[FS_LOCALIZE_BARE_QUESTIONS] = {
    "\nThis is a tampered image, point out the areas you believe have been tampered with. Please respond with segmentation mask.",
    "\nThis is a tampered image, point out the areas you believe have been tampered with. Please output segmentation mask.",
};
static const char *const answers[FS_LOCALIZE_ANSWERS] = {
    "It is [SEG].", "Sure, [SEG].", "Sure, it is [SEG].", "Sure, the segmentation result is [SEG].", "[SEG].",
};

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
    return fs_format("%s USER: %s ASSISTANT:", systems[FS_SYSTEM_HUMAN], user_message);
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
    int count = 0;
    if (question_index < 0 || question_index > 2) return NULL;
    char *plain = unescape(text), *message = NULL, *prompt = NULL;
    char *safe = plain ? fs_prompt_defuse(plain, allow_bbox, &count) : NULL;
    if (safe && style == FS_PROMPT_TEST)
        message = fs_format("%s%s\n%s\n %s", PICTURE, LOCALIZE_INTRO, safe, fs_prompt_localize_question[question_index]);
    else if (safe)
        message = fs_format("%s%s", PICTURE, safe);
    if (message) prompt = fs_prompt_render(message);
    if (defused) *defused = count;
    free(message);
    free(safe);
    free(plain);
    return prompt;
}

const char *fs_prompt_system_name(fs_prompt_system s) {
    return (unsigned)s < 2 ? system_names[s] : "unknown";
}

bool fs_prompt_system_from_name(const char *name, fs_prompt_system *out) {
    for (int i = 0; i < 2; i++)
        if (strcmp(name, system_names[i]) == 0) return *out = (fs_prompt_system)i, true;
    return false;
}

char *fs_prompt_conversation(fs_prompt_system system, const char *const *turns, size_t n) {
    fs_buffer b = {0};
    if ((unsigned)system > FS_SYSTEM_USER) return NULL;
    fs_buffer_puts(&b, systems[system]);
    fs_buffer_puts(&b, " ");
    for (size_t i = 0; i < n; i++) {
        fs_buffer_puts(&b, i % 2 ? "ASSISTANT:" : "USER:");
        if (!*turns[i]) continue;
        fs_buffer_puts(&b, " ");
        fs_buffer_puts(&b, turns[i]);
        fs_buffer_puts(&b, i % 2 ? "</s>" : " ");
    }
    return take(&b);
}

char *fs_prompt_stage2_training(const char *text, int question, int answer, int *defused) {
    int count = 0;
    if (question < 0 || question >= (text ? FS_LOCALIZE_QUESTIONS : FS_LOCALIZE_BARE_QUESTIONS) || answer < 0 || answer >= FS_LOCALIZE_ANSWERS)
        return NULL;
    char *safe = text ? fs_prompt_defuse(text, false, &count) : NULL, *prompt = NULL;
    char *message = safe    ? fs_format("%s%s\n%s\n %s", PICTURE, LOCALIZE_INTRO, safe, fs_prompt_localize_question[question])
                    : !text ? fs_format("%s%s", PICTURE, bare_questions[question])
                            : NULL;
    if (message) prompt = fs_prompt_conversation(FS_SYSTEM_HUMAN, (const char *const[]){message, answers[answer]}, 2);
    if (defused) *defused = count;
    free(message);
    free(safe);
    return prompt;
}
