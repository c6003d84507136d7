/* The table of object segments that lies beside photos. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "data/forge_sources.h"
#include "text/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = malloc(size + 1);
    fs_source items[2] = {{.path = (char[]){"photos/a.jpg"}, .panoptic = true}, {.path = (char[]){"photos/b.jpg"}}};
    fs_source_list list = {items, 2, 2};
    fs_error err;
    if (!text) return 0;
    memcpy(text, data, size);
    text[size] = '\0';
    fs_status status = fs_source_parse_segments("segments.csv", text, &list, 0, &err);
    if (status && status != FS_E_FORMAT && status != FS_E_NO_MEMORY) abort();
    if (items[1].n_segments) abort(); /* has no picture of ids */
    for (size_t i = 0; i < items[0].n_segments; i++) {
        const char *what = items[0].segments[i].what;
        if (what && (!*what || strlen(what) > 40 || strpbrk(what, "<>[]{}\n") || !fs_utf8_valid(what, strlen(what)))) abort();
    }
    for (int i = 0; i < 2; i++) {
        items[i].path = NULL;
        fs_source_clear(&items[i]);
    }
    free(text);
    return 0;
}
