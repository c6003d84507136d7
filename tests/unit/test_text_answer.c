/* Reading stage 1's answers: the trained shape, the variations seen in released outputs, and text that is nothing of the kind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "text/text.h"

#define HEAD "Whether the picture has been tampered with / Description of the tampered area: "

typedef struct example {
    const char *text, *area;
    fs_verdict verdict;
    const char *basis[8];
} example;

#define U FS_VERDICT_UNDETERMINED
#define A FS_VERDICT_AUTHENTIC
#define T FS_VERDICT_TAMPERED

static const example examples[] = {
    /* as trained */
    {"1. " HEAD
     "The picture has been tampered with, the lamp on the left.\n\n2. Judgment basis: The lamp has no shadow. Its edges are too sharp.",
     "The picture has been tampered with, the lamp on the left.",
     T,
     {"The lamp has no shadow.", "Its edges are too sharp."}},
    {" 1. " HEAD "The picture has not been tampered with. It appears to be a genuine photograph of a street.\n\n2. Judgment basis: Light "
     "and shadow agree.",
     "The picture has not been tampered with. It appears to be a genuine photograph of a street.",
     A,
     {"Light and shadow agree."}},
    /* on one line, without numbers, other spellings, Markdown */
    {"1. " HEAD "The picture has been tampered with. 2. Judgment basis: Noise differs.",
     "The picture has been tampered with.",
     T,
     {"Noise differs."}},
    {HEAD "The sky has been tampered with.\nJudgement basis: Noise differs.", "The sky has been tampered with.", T, {"Noise differs."}},
    {"1) " HEAD "The sky has been tampered with.\n2) Judgement basis - Noise differs",
     "The sky has been tampered with.",
     T,
     {"Noise differs"}},
    {"(1) " HEAD "The sky has been tampered with.\n(2) Basis for judgment: Noise differs.",
     "The sky has been tampered with.",
     T,
     {"Noise differs."}},
    {"**1. Whether the picture has been tampered with / Description of the tampered area:** The sky has been tampered with.\n\n**2. "
     "Judgment basis:** Noise differs.",
     "The sky has been tampered with.",
     T,
     {"Noise differs."}},
    {"Description of the tampered area: the boat.\nJudgment basis:\nNoise differs.\nNo reflection.",
     "the boat.",
     U,
     {"Noise differs.", "No reflection."}},
    {"1. The sky has been tampered with.\n2. The clouds repeat.", "The sky has been tampered with.", T, {"The clouds repeat."}},
    {"1. " HEAD "The sky has been tampered with. The judgment basis is weak here.\n2. Judgment basis: Noise.",
     "The sky has been tampered with. The judgment basis is weak here.",
     T,
     {"Noise."}},
    /* points */
    {"1. " HEAD "The picture has been tampered with.\n2. Judgment basis:\n- Edges: too sharp.\n- Light: from two sides - left and "
     "right.\n- Noise: differs",
     "The picture has been tampered with.",
     T,
     {"Edges: too sharp.", "Light: from two sides - left and right.", "Noise: differs"}},
    {"1. x\n2. Judgment basis: - Edges are sharp. - Light is odd. - Noise differs.",
     "x",
     U,
     {"Edges are sharp.", "Light is odd.", "Noise differs."}},
    {"1. x\n2. Judgment basis: (1) Edges are sharp; (2) the ratio is 1.5 to 2 (3 in the original); (3) noise differs.",
     "x",
     U,
     {"Edges are sharp", "the ratio is 1.5 to 2 (3 in the original)", "noise differs."}},
    {"1. x\n2. Judgment basis: As follows: 1) Edges in row 2. They are sharp. 2) Light. 3) Noise.",
     "x",
     U,
     {"As follows:", "Edges in row 2. They are sharp.", "Light.", "Noise."}},
    {"1. x\n2. Judgment basis:\n1. Edges.\n   Very sharp.\n2. Light.\n\n3. Noise.", "x", U, {"Edges.\n   Very sharp.", "Light.", "Noise."}},
    {"1. x\n2. Judgment basis:\n\xE2\x80\xA2 Edges.\n\xE2\x80\xA2 Light.\n\xE2\x80\x93 Noise.", "x", U, {"Edges.", "Light.", "Noise."}},
    {"1. x\n2. Judgment basis:\n**(a)** Edges.\n**(b)** Light.", "x", U, {"Edges.", "Light."}},
    {"1. x\n2. Judgment basis: Areas (1) and (2) have halos. Noise.", "x", U, {"Areas (1) and (2) have halos.", "Noise."}},
    /* sentences */
    {"1. x\n2. Judgment basis: There are halos, e.g. At the roof. Dr. Who! It is 2.5 px wide (\"sharp.\") Really? yes. And so on",
     "x",
     U,
     {"There are halos, e.g. At the roof.", "Dr. Who!", "It is 2.5 px wide (\"sharp.\")", "Really?", "yes.", "And so on"}},
    /* nothing of the kind */
    {"", "", U, {NULL}},
    {" \n\t ", "", U, {NULL}},
    {"I see a cat.", "I see a cat.", U, {NULL}},
    {"Judgment basis:", "", U, {NULL}},
    {"2. Judgment basis: Noise.", "", U, {"Noise."}},
    {"1. " HEAD, "", U, {NULL}},
    {"1.", "", U, {NULL}},
    {"a\xFF"
     "b",
     "a\uFFFDb",
     U,
     {NULL}},
};

static void examples_parse(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof examples / sizeof examples[0]; i++) {
        const example *e = &examples[i];
        fs_answer a;
        fs_error err;
        assert_int_equal(fs_answer_parse(e->text, &a, &err), FS_OK);
        if (strcmp(a.area, e->area) != 0) fail_msg("example %zu: area is \"%s\", expected \"%s\"", i, a.area, e->area);
        size_t n = 0;
        while (n < 8 && e->basis[n]) n++;
        for (size_t k = 0; k < n || k < a.n_basis; k++) {
            const char *got = k < a.n_basis ? a.basis[k] : "(none)", *want = k < n ? e->basis[k] : "(none)";
            if (strcmp(got, want) != 0) fail_msg("example %zu: basis %zu is \"%s\", expected \"%s\"", i, k, got, want);
        }
        fs_answer_free(&a);
        fs_verdict v = fs_answer_verdict(e->text);
        if (v != e->verdict) fail_msg("example %zu: verdict is %d, expected %d", i, v, e->verdict);
    }
    fs_answer_free(NULL);
}

static void verdicts(void **state) {
    (void)state;
    static const struct {
        const char *area;
        fs_verdict verdict;
    } cases[] = {
        {"The picture has been tampered with.", T},
        {"The picture has not been tampered with.", A},
        {"THE PICTURE HAS NOT BEEN TAMPERED WITH.", A},
        {"This picture hasn't been tampered with.", A},
        {"It does not appear to have been tampered with.", A},
        {"Although it has been compressed, the photo has not been tampered with.", A},
        {"The picture has been tampered with. The rest of it has not been tampered with.", T},
        {"The photo is not compressed, it has been tampered with.", T},
        {"It appears to be a genuine photograph.", A},
        {"It is not a genuine photograph.", T},
        {"The image appears authentic.", A},
        {"The image appears to be authentic.", A},
        {"There are no signs of tampering.", A},
        {"There are clear signs of tampering at the roof.", T},
        {"The left face was tampered with by DeepFake.", T},
        {"It is hard to say whether the picture has been tampered with.", U},
        {"One cannot tell if it has been tampered with.", U},
        {"A cat on a roof.", U},
        {"", U},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[400];
        /* the second item must not matter */
        snprintf(text, sizeof text,
                 "1. " HEAD "%s\n\n2. Judgment basis: The boat has been tampered with; the pier has not been tampered with.",
                 cases[i].area);
        fs_verdict v = fs_answer_verdict(text);
        if (v != cases[i].verdict)
            fail_msg("\"%s\": verdict is %s, expected %s", cases[i].area, fs_verdict_name(v), fs_verdict_name(cases[i].verdict));
    }
    assert_int_equal(fs_answer_verdict("1. Whether the picture has been tampered with"), U);
}

/* The original's own rule looks at every letter of the text and nothing else. */
static void the_originals_rule(void **state) {
    (void)state;
    assert_true(fs_answer_says_authentic("1. " HEAD "x 2. Judgment basis: the pier has not been tampered with"));
    assert_true(fs_answer_says_authentic("has not been tampered with"));
    assert_false(fs_answer_says_authentic("1. " HEAD "The picture has been tampered with"));
    assert_false(fs_answer_says_authentic("Has Not been tampered with"));
    assert_false(fs_answer_says_authentic("has not been tampered"));
    assert_false(fs_answer_says_authentic(""));
}

/* Long texts of one character each that could cost quadratic time: 300,000 of them must not (a hang is a failed test). */
static void long_texts(void **state) {
    (void)state;
    static const char *const units[] = {" ",        "*",  "-",  "\n", "(", ".", "1", "1. ", "- ", "\n- ", "a.", "Judgment basis ",
                                        "whether ", "* ", ") ", "\""};
    enum { SIZE = 300000 };
    char *text = malloc(SIZE + 40);
    for (size_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        fs_answer a;
        fs_error err;
        size_t n = strlen(units[i]), at = (size_t)sprintf(text, "1. x\n2. Judgment basis: ");
        while (at + n < SIZE) memcpy(text + at, units[i], n), at += n;
        text[at] = '\0';
        assert_int_equal(fs_answer_parse(text, &a, &err), FS_OK);
        fs_answer_free(&a);
        fs_answer_verdict(text + 24);
    }
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(examples_parse),
        cmocka_unit_test(verdicts),
        cmocka_unit_test(the_originals_rule),
        cmocka_unit_test(long_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
