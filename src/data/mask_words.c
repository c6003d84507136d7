/* Position and size words of a mask; see mask_words.h for the rule. */
#include "data/mask_words.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

static const char *const positions[FS_MASK_POSITIONS] = {"upper left",   "upper middle", "upper right",  "middle left", "center",
                                                         "middle right", "lower left",   "lower middle", "lower right"};
static const char *const sizes[FS_MASK_SIZES] = {"tiny", "small", "medium-sized", "large", "very large"};
static const double size_limit[FS_MASK_SIZES - 1] = {0.01, 0.04, 0.12, 0.30};

const char *fs_mask_position_word(int position) {
    return position >= 0 && position < FS_MASK_POSITIONS ? positions[position] : "";
}

const char *fs_mask_size_word(int size) {
    return size >= 0 && size < FS_MASK_SIZES ? sizes[size] : "";
}

fs_mask_words fs_mask_words_of(const uint8_t *mask, int64_t width, int64_t height) {
    fs_mask_words out = {.position = -1, .size = -1, .position_word = "", .size_word = ""};
    int64_t n = 0, sx = 0, sy = 0;
    for (int64_t y = 0; y < height; y++)
        for (int64_t x = 0; x < width; x++)
            if (mask[y * width + x] >= 128) n++, sx += x, sy += y;
    if (!n) return out;
    out.x = ((double)sx / (double)n + 0.5) / (double)width;
    out.y = ((double)sy / (double)n + 0.5) / (double)height;
    out.area = (double)n / ((double)width * (double)height);
    int column = (int)fs_min_i64((int64_t)(out.x * 3), 2), row = (int)fs_min_i64((int64_t)(out.y * 3), 2);
    out.position = row * 3 + column;
    out.size = 0;
    while (out.size < FS_MASK_SIZES - 1 && out.area >= size_limit[out.size]) out.size++;
    out.position_word = positions[out.position];
    out.size_word = sizes[out.size];
    return out;
}

static bool letter(char c) {
    return isalnum((unsigned char)c) || c == '-';
}

/* Does the whole word (or words) stand here? */
static bool stands(const char *text, const char *at, const char *word) {
    size_t n = strlen(word);
    return strncasecmp(at, word, n) == 0 && !letter(at[n]) && (at == text || !letter(at[-1]));
}

void fs_mask_words_read(const char *text, int *position, int *size) {
    *position = *size = -1;
    for (const char *at = text; *at && (*position < 0 || *size < 0); at++) {
        for (int i = 0; *position < 0 && i < FS_MASK_POSITIONS; i++)
            if (stands(text, at, positions[i])) *position = i;
        for (int i = FS_MASK_SIZES - 1; *size < 0 && i >= 0; i--) /* "very large" before "large" */
            if (stands(text, at, sizes[i])) *size = i;
    }
}
