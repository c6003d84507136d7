/* A vocabulary for random weights, so that prompts have about as many tokens as with LLaMA's own (which is not ours to hand out): byte
 * pieces, characters, common English words, endings. BPE joins two neighbours when both together are a piece; every beginning of a word is
 * one here, so whichever way a word is joined from its left end, the whole of it is reached. The remaining ids are made-up words that text
 * does not come to. */
#include <string.h>

#include "format/strmap.h"
#include "pipeline/synth.h"
#include "text/spm_model.h"
#include "text/tokenizer_internal.h"

/* Words of one token, most of them in LLaMA's vocabulary too. */
static const char words[] =
    "the of and to in a is that it for on with as was be this by at are from or an not have has had its but one all been which were their there "
    "they we you your he she his her him our my me us if no so can will would could should may might must do does did done than then them these "
    "those what when where who why how some any each every other another same such only own very too also more most much many few less least "
    "first second third two three four five next last new old good better best great little long short high low large small big full empty "
    "open close left right upper lower up down out off over under above below between within without into onto through across along around "
    "about after before again against because while during since until both either still even just like well back here now ever never always "
    "often part parts area areas region regions object objects image images picture pictures photo photos camera scene view views light lights "
    "lighting dark darkness shadow shadows bright color colors black white red green blue gray edge edges line lines shape shapes size sizes "
    "form forms texture surface surfaces background foreground front side sides top bottom center middle corner point points pixel pixels "
    "resolution quality noise sharp soft smooth rough natural unnatural normal strange clear blur details detail pattern patterns level "
    "levels number numbers person people human face hand hands head body man woman child hair eye eyes skin clothes arm arms leg legs animal "
    "dog cat bird horse tree trees grass sky water sea road street car cars building buildings house wall window windows door room table chair "
    "floor ground field sign text letter letters word words make makes made take takes taken give gives given use used using show shows shown "
    "see seen look looks appear appears seem seems find found know known think say says said come came go goes going get put set run call "
    "called work works keep kept place placed added removed changed change changes match matches follow follows following contain contains cover "
    "covers lie lies stand stands meet meets differ different difference direction directly process processing judgment basis description "
    "described whether based provide provides please answer answers question questions assistant artificial intelligence chat curious "
    "polite helpful detailed human user model system source physical law laws perspective relationship relationships position positions "
    "effect effects cause caused reason reasons real true false visible result results certain possible likely type types kind case "
    "example however therefore thus further moreover overall consistent inconsistent typical original digital special attention paying "
    "capturing incorrect techniques modification etc zoom tampered suspected semantics mask masks output segmentation sure respond believe areas overview";

/* Pieces inside words. The letters of an ending join from either side, so each comes with its own beginnings. */
static const char endings[] = "ed ing er ers es ly al ion tion ation ment ness able ible ous ive ic ity ant ent ence ance est en age ure ful less "
                              "amper asp fake shop ch sh th ph st nd ck ll ss ee oo ea ou ai in on an at is it or ar le re te ve de ne se ce ge";

/* SentencePiece pieces being gathered; texts stay in the arena. */
typedef struct gathering { fs_arena *arena; fs_strmap seen; fs_spm_model m; size_t room, used; int32_t most; bool failed; } gathering;

static void add(gathering *g, const char *text, size_t n, uint8_t kind) {
    bool added = false;
    if (g->failed || g->m.count >= g->most) return;
    char *copy = fs_arena_alloc(g->arena, n + 1);
    if (!copy || g->used + n + 1 > g->room) {
        g->failed = true;
        return;
    }
    memcpy(copy, text, n);
    copy[n] = 0;
    if (!fs_strmap_put(&g->seen, copy, n, 0, &added)) g->failed = true;
    if (!added) return;
    const int32_t id = g->m.count++;
    const bool special = kind != FS_PIECE_NORMAL;
    g->m.pieces[id] = (fs_piece){.offset = (uint32_t)g->used, .length = (uint16_t)n, .kind = kind, .score = special ? 0.0f : (float)(259 - id)};
    memcpy(g->m.text + g->used, copy, n + 1);
    g->used += n + 1;
}

/* The beginnings of a word from two characters on, then the word. mark: with the space mark in front. */
static void add_word(gathering *g, const char *word, size_t n, bool mark) {
    char text[64] = FS_SPACE_MARK;
    const size_t front = mark ? FS_SPACE_MARK_SIZE : 0;
    if (n > sizeof text - 1 - front) return;
    memcpy(text + front, word, n);
    for (size_t k = mark ? 1 : 2; k <= n; k++) add(g, text, front + k, FS_PIECE_NORMAL);
}

static void add_list(gathering *g, const char *list, bool mark) {
    for (const char *p = list; *p;) {
        const size_t n = strcspn(p, " ");
        add_word(g, p, n, mark);
        if (mark && n > 2 && n < 32) { /* at the beginning of a sentence */
            char capital[32];
            memcpy(capital, p, n);
            if (capital[0] >= 'a' && capital[0] <= 'z') capital[0] = (char)(capital[0] - 'a' + 'A');
            add_word(g, capital, n, true);
        }
        p += n + (p[n] == ' ');
    }
}

static void add_made_up(gathering *g) {
    static const char consonants[] = "bdfgklmnprstvz", vowels[] = "aeiou";
    enum { SYLLABLES = 14 * 5 };
    for (int i = 0; i < SYLLABLES * SYLLABLES * SYLLABLES && g->m.count < g->most && !g->failed; i++) {
        char text[16] = FS_SPACE_MARK "z";
        size_t n = FS_SPACE_MARK_SIZE + 1;
        for (int k = i, s = 0; s < 3; s++, k /= SYLLABLES) {
            text[n++] = consonants[k % SYLLABLES / 5];
            text[n++] = vowels[k % 5];
        }
        add(g, text, n, FS_PIECE_NORMAL);
    }
}

fs_status fs_synth_tokenizer(int32_t pieces, fs_buffer *out, fs_error *err) {
    enum { MOST_BYTES = 24 }; /* of a piece, its NUL included, on average more than enough */
    gathering g = {.most = pieces, .room = (size_t)pieces * MOST_BYTES, .arena = fs_arena_create(0),
                   .m = {.dummy_prefix = true, .byte_fallback = true, .unknown_surface = " \xE2\x81\x87 "}};
    char text[8];
    fs_status status = FS_OK;
    g.m.pieces = fs_alloc((size_t)pieces, sizeof *g.m.pieces);
    g.m.text = fs_alloc(g.room, 1);
    if (!g.arena || !g.m.pieces || !g.m.text) {
        status = fs_fail(err, FS_E_NO_MEMORY, "out of memory for a tokenizer of %d pieces", (int)pieces);
        goto done;
    }
    add(&g, "<unk>", 5, FS_PIECE_UNKNOWN);
    add(&g, "<s>", 3, FS_PIECE_CONTROL);
    add(&g, "</s>", 4, FS_PIECE_CONTROL);
    for (int i = 0; i < 256; i++) add(&g, text, (size_t)snprintf(text, sizeof text, "<0x%02X>", i), FS_PIECE_BYTE);
    add(&g, FS_SPACE_MARK, FS_SPACE_MARK_SIZE, FS_PIECE_NORMAL);
    for (char c = 33; c < 127; c++) add(&g, &c, 1, FS_PIECE_NORMAL);
    add_list(&g, words, true);
    add_list(&g, endings, false);
    add_made_up(&g);
    if (g.failed || g.m.count < pieces) status = fs_fail(err, FS_E_INTERNAL, "a tokenizer of %d pieces cannot be made up", (int)pieces);
    else status = fs_spm_write(&g.m, true, out, err);
done:
    fs_spm_free(&g.m);
    fs_strmap_free(&g.seen);
    fs_arena_free(g.arena);
    return status;
}
