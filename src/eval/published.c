/* Tables of Xu et al., "FakeShield: Explainable Image Forgery Detection and Localization via Multi-modal Large Language Models", ICLR 2025
 * (arXiv 2410.02761): image-level detection, pixel-level localization, and the cosine similarity of explanations, transcribed. How the
 * paper averaged and read its figures off is not said there: docs/evaluation.md. */
#include "eval/published.h"

#include <ctype.h>
#include <string.h>

const char fs_paper_source[] = "Xu et al., FakeShield, ICLR 2025 (arXiv 2410.02761)";

enum { CASIA, IMD, COLUMBIA, COVERAGE, NIST, DSO, KORUS, DEEPFAKE, AIGC };
static const char *const names[FS_PAPER_SETS] = {"CASIA1+", "IMD2020", "Columbia", "Coverage",    "NIST16",
                                                 "DSO",     "Korus",   "DeepFake", "AIGC-Editing"};

#define NONE (-1.0)
/* CASIA1+, IMD2020, Columbia, Coverage, DSO, DeepFake, AIGC: accuracy, then F1 of each */
#define DETECTION(m, a, b, c, d, e, f, g, h, i, j, k, l, n, o)                                                                             \
    {                                                                                                                                      \
        m, {a, c, e, g, NONE, i, NONE, k, n}, {                                                                                            \
            b, d, f, h, NONE, j, NONE, l, o                                                                                                \
        }                                                                                                                                  \
    }
/* CASIA1+, IMD2020, Columbia, NIST, DSO, Korus, AIGC: IoU, then F1 of each */
#define LOCALIZATION(m, a, b, c, d, e, f, g, h, i, j, k, l, n, o)                                                                          \
    {                                                                                                                                      \
        m, {a, c, e, NONE, g, i, k, NONE, n}, {                                                                                            \
            b, d, f, NONE, h, j, l, NONE, o                                                                                                \
        }                                                                                                                                  \
    }

static const fs_paper_row detection[] = {
    DETECTION("SPAN", 0.60, 0.44, 0.70, 0.81, 0.87, 0.93, 0.24, 0.39, 0.35, 0.52, 0.78, 0.78, 0.47, 0.05),
    DETECTION("ManTraNet", 0.52, 0.68, 0.75, 0.85, 0.95, 0.97, 0.95, 0.97, 0.90, 0.95, 0.50, 0.67, 0.50, 0.67),
    DETECTION("HiFi-Net", 0.46, 0.44, 0.62, 0.75, 0.68, 0.81, 0.34, 0.51, 0.96, 0.98, 0.56, 0.61, 0.49, 0.42),
    DETECTION("PSCC-Net", 0.90, 0.89, 0.67, 0.78, 0.78, 0.87, 0.84, 0.91, 0.66, 0.80, 0.48, 0.58, 0.49, 0.65),
    DETECTION("CAT-Net", 0.88, 0.87, 0.68, 0.79, 0.89, 0.94, 0.23, 0.37, 0.86, 0.92, 0.85, 0.84, 0.82, 0.81),
    DETECTION("MVSS-Net", 0.62, 0.76, 0.75, 0.85, 0.94, 0.97, 0.65, 0.79, 0.96, 0.98, 0.84, 0.91, 0.44, 0.24),
    DETECTION("FakeShield (paper)", 0.95, 0.95, 0.83, 0.90, 0.98, 0.99, 0.97, 0.98, 0.97, 0.98, 0.93, 0.93, 0.98, 0.99)};

static const fs_paper_row localization[] = {
    LOCALIZATION("SPAN", 0.11, 0.14, 0.09, 0.14, 0.14, 0.20, 0.16, 0.21, 0.14, 0.24, 0.06, 0.10, 0.09, 0.12),
    LOCALIZATION("ManTraNet", 0.09, 0.13, 0.10, 0.16, 0.04, 0.07, 0.14, 0.20, 0.08, 0.13, 0.02, 0.05, 0.07, 0.12),
    LOCALIZATION("OSN", 0.47, 0.51, 0.38, 0.47, 0.58, 0.69, 0.25, 0.33, 0.32, 0.45, 0.14, 0.19, 0.07, 0.09),
    LOCALIZATION("HiFi-Net", 0.13, 0.18, 0.09, 0.14, 0.06, 0.11, 0.09, 0.13, 0.18, 0.29, 0.01, 0.02, 0.13, 0.22),
    LOCALIZATION("PSCC-Net", 0.36, 0.46, 0.22, 0.32, 0.64, 0.74, 0.18, 0.26, 0.22, 0.33, 0.15, 0.22, 0.10, 0.15),
    LOCALIZATION("CAT-Net", 0.44, 0.51, 0.14, 0.19, 0.08, 0.13, 0.14, 0.19, 0.06, 0.10, 0.04, 0.06, 0.03, 0.05),
    LOCALIZATION("MVSS-Net", 0.40, 0.48, 0.23, 0.31, 0.48, 0.61, 0.24, 0.29, 0.23, 0.34, 0.12, 0.17, 0.18, 0.24),
    LOCALIZATION("FakeShield (paper)", 0.54, 0.60, 0.50, 0.57, 0.67, 0.75, 0.32, 0.37, 0.48, 0.52, 0.17, 0.20, 0.18, 0.24)};

/* The paper gives the other models' figures set by set; here are those of its own system. */
static const fs_paper_row explanation[] = {{"FakeShield (paper)",
                                            {0.8758, 0.7537, 0.8791, 0.8684, 0.8087, 0.8873, 0.7941, 0.8446, 0.8860},
                                            {NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE}}};

const char *fs_paper_set_name(int set) {
    return set >= 0 && set < FS_PAPER_SETS ? names[set] : "unknown";
}

int fs_paper_set_of(const char *name) {
    static const struct {
        const char *plain;
        int set;
    } known[] = {{"casia1", CASIA},      {"casia1plus", CASIA},  {"casiav1", CASIA},
                 {"casiav1plus", CASIA}, {"imd2020", IMD},       {"imd", IMD},
                 {"columbia", COLUMBIA}, {"coverage", COVERAGE}, {"nist", NIST},
                 {"nist16", NIST},       {"nc16", NIST},         {"dso", DSO},
                 {"dso1", DSO},          {"korus", KORUS},       {"realistictampering", KORUS},
                 {"deepfake", DEEPFAKE}, {"faceapp", DEEPFAKE},  {"ffhqfaceapp", DEEPFAKE},
                 {"aigcediting", AIGC},  {"aigc", AIGC},         {"sdinpaint", AIGC}};
    char plain[64];
    size_t n = 0;
    for (const char *p = name; *p && n + 1 < sizeof plain; p++)
        if (isalnum((unsigned char)*p)) plain[n++] = (char)tolower((unsigned char)*p);
    plain[n] = 0;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].plain, plain) == 0) return known[i].set;
    return -1;
}

const fs_paper_row *fs_paper_rows(fs_paper_table table, size_t *n) {
    switch (table) {
    case FS_PAPER_DETECTION:
        return *n = sizeof detection / sizeof *detection, detection;
    case FS_PAPER_LOCALIZATION:
        return *n = sizeof localization / sizeof *localization, localization;
    case FS_PAPER_EXPLANATION:
        return *n = sizeof explanation / sizeof *explanation, explanation;
    }
    return *n = 0, NULL;
}

int fs_paper_has(fs_paper_table table, int set) {
    size_t n;
    const fs_paper_row *rows = fs_paper_rows(table, &n);
    return n && set >= 0 && set < FS_PAPER_SETS && rows[n - 1].first[set] >= 0;
}

int fs_paper_forged_only(int set) {
    return set == COLUMBIA || set == COVERAGE || set == DSO;
}
