/* How often a text names the place and the size of the tampered area rightly. The truth is the mask's word by the rule the forge writes its
 * texts with (data/mask_words.h), so a model of our own can be right always; a text in other words ("bottom left") names nothing here.
 * Near: the cell that shares an edge with the true one, and the size class beside the true one. */
#include "eval/words.h"

#include <stdlib.h>

#include "data/mask_words.h"
#include "text/text.h"

fs_status fs_eval_words_read(const char *text, fs_eval_words *out, fs_error *err) {
    fs_answer answer = {0};
    *out = (fs_eval_words){-1, -1};
    fs_status status = fs_answer_parse(text, &answer, err);
    if (!status && answer.area) fs_mask_words_read(answer.area, &out->position, &out->size);
    fs_answer_free(&answer);
    return status;
}

fs_eval_words fs_eval_words_of(const uint8_t *truth, int64_t width, int64_t height) {
    const fs_mask_words w = fs_mask_words_of(truth, width, height);
    return (fs_eval_words){w.position, w.size};
}

static bool near_position(int a, int b) {
    return abs(a / 3 - b / 3) + abs(a % 3 - b % 3) <= 1;
}

static bool near_size(int a, int b) {
    return abs(a - b) <= 1;
}

/* said: -1 agrees with nothing. */
static void agreement(fs_eval_words truth, fs_eval_words said, double out[FS_WORD_FIGURES]) {
    const bool place[2] = {said.position == truth.position, said.position >= 0 && near_position(said.position, truth.position)};
    const bool size[2] = {said.size == truth.size, said.size >= 0 && near_size(said.size, truth.size)};
    for (int near = 0; near < 2; near++) {
        out[FS_WORDS_BOTH + near] = place[near] && size[near];
        out[FS_WORDS_POSITION + near] = place[near];
        out[FS_WORDS_SIZE + near] = size[near];
    }
}

/* Forgeries that the text calls forged, and that have a place. */
static bool counts(const fs_eval_row *r) {
    return r->tampered && r->text && r->answered && r->literal == FS_VERDICT_TAMPERED && r->truth_words.position >= 0;
}

bool fs_eval_words_judge(const fs_eval_row *r, double out[FS_WORD_FIGURES]) {
    if (!counts(r)) return false;
    agreement(r->truth_words, r->said_words, out);
    return true;
}

/* ---- counts, and what an answer gets that is always the same ---- */

void fs_eval_words_count(const fs_eval_row *const *row, size_t n, fs_eval_word_counts *out) {
    size_t pictures[FS_MASK_POSITIONS][FS_MASK_SIZES] = {{0}}, most = 0;
    *out = (fs_eval_word_counts){.frequent = {-1, -1}};
    for (size_t i = 0; i < n; i++) {
        const fs_eval_row *r = row[i];
        if (!counts(r)) continue;
        out->n++;
        out->no_position += r->said_words.position < 0;
        out->no_size += r->said_words.size < 0;
        const size_t times = ++pictures[r->truth_words.position][r->truth_words.size];
        if (times > most) most = times;
    }
    if (!out->n) return;
    for (int k = 0; k < FS_MASK_POSITIONS * FS_MASK_SIZES; k++) {
        const fs_eval_words always = {k / FS_MASK_SIZES, k % FS_MASK_SIZES};
        double sum[FS_WORD_FIGURES] = {0}, one[FS_WORD_FIGURES];
        for (int t = 0; t < FS_MASK_POSITIONS * FS_MASK_SIZES; t++) {
            const fs_eval_words truth = {t / FS_MASK_SIZES, t % FS_MASK_SIZES};
            agreement(truth, always, one);
            for (int f = 0; f < FS_WORD_FIGURES; f++) sum[f] += one[f] * (double)pictures[truth.position][truth.size];
        }
        if (out->frequent.position < 0 && pictures[always.position][always.size] == most) out->frequent = always;
        for (int f = 0; f < FS_WORD_FIGURES; f++)
            if (sum[f] / (double)out->n > out->constant[f]) out->constant[f] = sum[f] / (double)out->n;
    }
}
