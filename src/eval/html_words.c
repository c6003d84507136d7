/* The report's table of place and size in words (words.c). */
#include "data/mask_words.h"
#include "eval/report.h"

static void words_rows(fs_buffer *b, const fs_eval_table *t) {
    static const char *const heads[] = {"the same word", "the same or the one beside it"};
    const fs_eval_word_counts *w = &t->words;
    for (int near = 0; near < 2; near++) {
        fs_buffer_printf(b, "<tr class=\"%s\"><td>", near ? "ours" : "ours first");
        if (!near) fs_html_text(b, t->group);
        fs_buffer_printf(b, "</td><td style=\"text-align:left\">%s</td>", heads[near]);
        for (int k = 0; k < 3; k++) fs_html_cell(b, t->value[FS_FIG_WORDS + 2 * k + near], &t->range[FS_FIG_WORDS + 2 * k + near]);
        if (near)
            fs_buffer_puts(b, "<td></td><td></td><td></td></tr>");
        else
            fs_buffer_printf(b, "<td>%zu</td><td>%zu</td><td>%zu</td></tr>", w->n, w->no_position, w->no_size);
    }
    for (int near = 0; near < 2; near++) {
        fs_buffer_puts(b, "<tr class=\"trivial\"><td></td><td style=\"text-align:left\">");
        if (near)
            fs_buffer_puts(b, "always the same words, those or beside");
        else
            fs_buffer_printf(b, "always the same words: %s, %s", fs_mask_position_word(w->frequent.position),
                             fs_mask_size_word(w->frequent.size));
        fs_buffer_puts(b, "</td>");
        for (int k = 0; k < 3; k++) fs_html_cell(b, w->constant[2 * k + near], NULL);
        fs_buffer_puts(b, "<td></td><td></td><td></td></tr>");
    }
}

void fs_html_words(fs_buffer *b, const fs_eval_summary *s) {
    bool any = false;
    for (size_t i = 0; i < s->count; i++) any |= s->tables[i].words.n > 0;
    if (!any) return;
    fs_buffer_puts(
        b, "<h2>Explanations: place and size in words</h2><p>Of forged pictures that the text calls forged: does it name the place and "
           "the size that the true mask has? Places are thirds of the picture each way (its mean pixel), sizes five classes of its "
           "share, and the words those of this program&rsquo;s training texts: a text that names none, or says it in others, is wrong. In "
           "italics: the best that an answer gets which is the same for every picture.</p>"
           "<div class=\"scroll\"><table><thead><tr><th>Set</th><th style=\"text-align:left\">Right is</th><th>Position and "
           "size</th><th>Position</th><th>Size</th><th>Pictures</th><th>No position named</th><th>No size named</th></tr></thead><tbody>");
    for (size_t i = 0; i < s->count; i++)
        if (!*s->tables[i].condition && s->tables[i].words.n) words_rows(b, &s->tables[i]);
    fs_buffer_puts(b, "</tbody></table></div>");
}
