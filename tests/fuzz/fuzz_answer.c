/* Stage 1's text from a stranger, through everything that reads it: the answer, the verdict, stage 2's prompt, the record. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/text.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1);
    if (!text) return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    fs_answer a;
    fs_error err;
    if (fs_answer_parse(text, &a, &err)) abort();
    if (!fs_utf8_valid(a.area, strlen(a.area))) abort();
    for (size_t i = 0; i < a.n_basis; i++)
        if (!*a.basis[i] || !fs_utf8_valid(a.basis[i], strlen(a.basis[i]))) abort();
    fs_answer_free(&a);
    fs_answer_verdict(text);
    fs_answer_says_authentic(text);
    int count = 0, again = 0;
    char *safe = fs_prompt_defuse(text, false, &count), *twice = safe ? fs_prompt_defuse(safe, false, &again) : NULL;
    if (!twice || again || strcmp(safe, twice) != 0) abort(); /* nothing may be left to defuse */
    char *prompt = fs_prompt_stage2(text, FS_PROMPT_TEST, (int)(size % 3), false, &count),
         *image = prompt ? strstr(prompt, "<image>") : NULL;
    if (!image || strstr(image + 1, "<image>") || strstr(prompt, "[SEG]")) abort();
    char *json = fs_record_json(text, text);
    for (const char *p = json; !p || *p; p++)
        if (!p || *p < 0x20 || *p > 0x7E) abort();
    free(json);
    free(prompt);
    free(twice);
    free(safe);
    free(text);
    return 0;
}
