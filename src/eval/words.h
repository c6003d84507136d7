/* Place and size in words: what a text says of the tampered area against what its true mask is called by data/mask_words.h. Private to
 * src/eval. */
#ifndef FS_EVAL_WORDS_H
#define FS_EVAL_WORDS_H

#include "eval/eval.h"

/* The words of a text: those of its description of the area, or of the whole where no such part is found. */
fs_status fs_eval_words_read(const char *text, fs_eval_words *out, fs_error *err);
/* Of a mask, not 0 = tampered: 255. */
fs_eval_words fs_eval_words_of(const uint8_t *truth, int64_t width, int64_t height);

/* Agreement of a picture, 0 or 1, at FS_FIG_WORDS + k. False: the picture does not count (docs/evaluation.md, "Place and size in words").
 */
bool fs_eval_words_judge(const fs_eval_row *row, double out[FS_WORD_FIGURES]);
/* n, texts without a word, and what the best constant answer gets, of the rows of a table. */
void fs_eval_words_count(const fs_eval_row *const *row, size_t n, fs_eval_word_counts *out);

#endif
