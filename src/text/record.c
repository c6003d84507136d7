/* Stage 1's record as the original writes it: json.dumps({"image": ..., "outputs": ...}) of Python's json module with its defaults. */
#include "text/text.h"
#include "text/utf8.h"

#include <string.h>

/* A JSON string in ASCII: everything but printable ASCII escaped, characters beyond 16 bits as surrogate pairs. */
static void put_string(fs_buffer *b, const char *p) {
    size_t n = strlen(p);
    fs_buffer_puts(b, "\"");
    for (size_t i = 0; i < n;) {
        uint32_t c = 0;
        size_t step = fs_utf8_char(p + i, n - i, &c);
        if (step == 0) c = 0xFFFD, step = fs_utf8_broken(p + i, n - i, NULL);
        i += step;
        const char *at = c < 0x80 && c ? strchr("\"\"\\\\\nn\rr\tt\ff\bb", (int)c) : NULL;
        if (c == '"' || c == '\\' || (c < 0x20 && at)) {
            char escape[2] = {'\\', at[1]};
            fs_buffer_add(b, escape, 2);
        } else if (c >= 0x20 && c < 0x7F) {
            char plain = (char)c;
            fs_buffer_add(b, &plain, 1);
        } else if (c < 0x10000) {
            fs_buffer_printf(b, "\\u%04x", (unsigned)c);
        } else {
            c -= 0x10000;
            fs_buffer_printf(b, "\\u%04x\\u%04x", (unsigned)(0xD800 + (c >> 10)), (unsigned)(0xDC00 + (c & 0x3FF)));
        }
    }
    fs_buffer_puts(b, "\"");
}

static char *two_fields(const char *key, const char *image, const char *value) {
    fs_buffer b = {0};
    fs_buffer_puts(&b, "{\"image\": ");
    put_string(&b, image);
    fs_buffer_printf(&b, ", \"%s\": ", key);
    put_string(&b, value);
    fs_buffer_puts(&b, "}");
    if (b.failed) fs_buffer_free(&b);
    return b.data;
}

char *fs_record_json(const char *image, const char *outputs) { return two_fields("outputs", image, outputs); }

char *fs_question_json(const char *image, const char *text) { return two_fields("text", image, text); }
