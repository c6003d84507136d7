/* The words for where and how large a mask is: one function that writes texts with, and one that reads the words back out of a text, so
 * that what a model says can be checked against the truth by the very rule its training texts were made with.
 *
 * Position: the mean of the masked pixels, in thirds of the picture each way: "upper left" "upper middle" "upper right" / "middle left"
 * "center" "middle right" / "lower left" "lower middle" "lower right". A mean on a border belongs to the lower or right third. Size: the
 * masked share of the picture: below 1 % "tiny", below 4 % "small", below 12 % "medium-sized", below 30 % "large", else "very large". */
#ifndef FS_DATA_MASK_WORDS_H
#define FS_DATA_MASK_WORDS_H

#include "base/base.h"

typedef struct fs_mask_words {
    int position;                          /* 0..8 by rows; -1: nothing is masked */
    int size;                              /* 0..4; -1: nothing is masked */
    const char *position_word, *size_word; /* "" if nothing is masked */
    double x, y, area;                     /* mean and share, 0..1 */
} fs_mask_words;
enum { FS_MASK_POSITIONS = 9, FS_MASK_SIZES = 5 };

/* mask: [height][width], >= 128 counts. */
fs_mask_words fs_mask_words_of(const uint8_t *mask, int64_t width, int64_t height);
const char *fs_mask_position_word(int position); /* "" if out of range */
const char *fs_mask_size_word(int size);
/* The first position and the first size word in a text (letter case aside, whole words); -1 where there is none. */
void fs_mask_words_read(const char *text, int *position, int *size);

#endif
