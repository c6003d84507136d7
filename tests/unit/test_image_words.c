/* Words drawn on pictures: ink where the letters are and nowhere else, one place for each character, nothing outside of the picture. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image/image.h"

static const fs_pen pen = {12, 1.5, {0, 0, 0}};

static fs_image *white(int64_t w, int64_t h) {
    fs_image *im = NULL;
    assert_int_equal(fs_image_create(w, h, &im, NULL), FS_OK);
    memset(im->data, 255, (size_t)(w * h * 3));
    return im;
}

/* How many pixels of a rectangle are not white. */
static int inked(const fs_image *im, int64_t x0, int64_t y0, int64_t x1, int64_t y1) {
    int n = 0;
    for (int64_t y = y0; y < y1; y++)
        for (int64_t x = x0; x < x1; x++) n += im->data[3 * (y * im->width + x)] < 255;
    return n;
}

static void letters_stand_on_their_line(void **state) {
    (void)state;
    fs_image *im = white(60, 40);
    fs_draw_words(im, 10, 24, "I", &pen); /* one stroke from (10, 12) to (10, 24), 1.5 wide */
    assert_int_equal(inked(im, 0, 0, 60, 40), inked(im, 8, 10, 12, 26));
    for (int64_t y = 13; y < 23; y++) {
        assert_true(im->data[3 * (y * 60 + 9)] < 80 && im->data[3 * (y * 60 + 10)] < 80);
        assert_int_equal(im->data[3 * (y * 60 + 12)], 255);
    }
    fs_image_free(im);
    im = white(60, 40);
    fs_draw_words(im, 10, 24, "g", &pen); /* a descender: 4 units below the line */
    assert_true(inked(im, 0, 26, 60, 40) > 0);
    assert_int_equal(inked(im, 0, 0, 60, 15), 0);
    fs_image_free(im);
}

/* Every printing character has a shape of its own (but for those that only differ in where they stand), inside of its place. */
static void every_character_is_drawn(void **state) {
    (void)state;
    enum { W = 40, H = 40 };
    fs_image *all['~' + 1] = {NULL};
    for (int c = '!'; c <= '~'; c++) {
        const char text[2] = {(char)c, 0};
        all[c] = white(W, H);
        const double end = fs_draw_words(all[c], 10, 24, text, &pen);
        assert_true(end == 10 + fs_words_width(text, pen.height) && end > 10);
        assert_true(inked(all[c], 0, 0, W, H) > 4);
        assert_int_equal(inked(all[c], 0, 0, W, H), inked(all[c], 8, 10, (int64_t)end, 31));
        for (int d = '!'; d < c; d++)
            if (memcmp(all[c]->data, all[d]->data, (size_t)W * H * 3) == 0) fail_msg("%c looks like %c", c, d);
    }
    for (int c = '!'; c <= '~'; c++) fs_image_free(all[c]);
}

static void one_place_for_each_character(void **state) {
    (void)state;
    const double box = fs_words_width("\x01", 12);
    assert_true(fs_words_width("", 12) == 0);
    assert_true(fs_words_width("ab", 12) == fs_words_width("a", 12) + fs_words_width("b", 12));
    assert_true(fs_words_width("ab", 24) == 2 * fs_words_width("ab", 12));
    assert_true(fs_words_width("\xc3\xa9", 12) == box);         /* é */
    assert_true(fs_words_width("\xf0\x9f\x98\x80", 12) == box); /* a face */
    assert_true(fs_words_width("\xff\xfe", 12) == 2 * box);     /* no UTF-8 */
    assert_true(fs_words_width("\x80\x80", 12) == box);
}

/* Under ASan: nothing is written outside, wherever the words begin and however large they are. */
static void outside_is_left_out(void **state) {
    (void)state;
    static const double places[] = {-1e300, -1e9, -20, -3, 0, 17, 24, 30, 1e9, 1e300};
    fs_image *im = white(24, 24);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++)
        for (size_t k = 0; k < sizeof places / sizeof *places; k++) fs_draw_words(im, places[i], places[k], "Wg@", &pen);
    const fs_pen large = {4000, 900, {10, 20, 30}};
    fs_draw_words(im, 0, 24, "I", &large); /* the stroke covers all of it */
    for (int i = 0; i < 24 * 24; i++) assert_memory_equal(im->data + 3 * i, large.color, 3);
    fs_image_free(im);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(letters_stand_on_their_line), cmocka_unit_test(every_character_is_drawn),
                                       cmocka_unit_test(one_place_for_each_character), cmocka_unit_test(outside_is_left_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
