/* The texts of forged pictures: a grammar (a JSON file of rules) and the facts of a picture make the two-part answer that the original's
 * data has. Private to src/data. */
#ifndef FS_DATA_FORGE_TEXTS_H
#define FS_DATA_FORGE_TEXTS_H

#include "data/forge_work.h"
#include "data/mask_words.h"

typedef struct fs_texts fs_texts;
/* path NULL: the built-in grammar. Every rule that is named must be there. */
fs_status fs_texts_open(const char *path, fs_texts **out, fs_error *err);
fs_status fs_texts_parse(const char *name, const void *data, size_t size, fs_texts **out,
                         fs_error *err); /* from memory; `name` for error lines */
void fs_texts_close(fs_texts *t);
const char *fs_texts_sha256(const fs_texts *t);

enum { FS_FACT_CUES = 6 };
typedef struct fs_facts {
    const char *type;   /* of the edit */
    const char *what;   /* "dog", or NULL */
    const char *region; /* "object" or "region": how it may be called when there is no name */
    fs_mask_words words;
    const char *cues[FS_FACT_CUES]; /* rules cue/... */
    int n_cues;
} fs_facts;
/* What the edit left that can be seen, the clearest first: measured on the finished picture around the mask's border (forge_cues.c). */
void fs_facts_cues(fs_facts *facts, fs_forge_type type, const fs_edit *edit, const fs_image *im, const fs_plane *mask, fs_rng *rng);

/* Expands rule "tampered" or "authentic". *out is malloc'ed. */
fs_status fs_texts_answer(const fs_texts *t, const fs_facts *facts, bool tampered, fs_rng *rng, char **out, fs_error *err);

#endif
