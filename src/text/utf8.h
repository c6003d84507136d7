/* UTF-8 as the rest of the room needs it: one character at a time, repair of broken bytes, Python's idea of white space. */
#ifndef FS_UTF8_H
#define FS_UTF8_H

#include "base/base.h"

#define FS_UTF8_REPLACEMENT "\xEF\xBF\xBD" /* U+FFFD */

/* Length 1..4 of the well-formed character at p (n > 0 bytes are there) and its code point; 0 if there is none. Surrogates, overlong
 * forms and code points past U+10FFFF are not well formed. */
size_t fs_utf8_char(const char *p, size_t n, uint32_t *code);
/* How many bytes at p belong to a character that is cut short or broken (n > 0, fs_utf8_char gave 0): what Python's errors="replace"
 * turns into one U+FFFD. *incomplete: the bytes up to n could still become a character. */
size_t fs_utf8_broken(const char *p, size_t n, bool *incomplete);
bool fs_utf8_valid(const char *p, size_t n);
/* Appends text with every broken part replaced by U+FFFD. */
void fs_utf8_clean(fs_buffer *out, const char *p, size_t n);
/* str.isspace() of one character: what str.strip() takes away. */
bool fs_utf8_is_space(uint32_t code);
/* Shrinks [*begin, *end) like str.lstrip() and str.rstrip(). The bytes must be valid. */
void fs_utf8_strip(const char **begin, const char **end, bool left, bool right);

#endif
