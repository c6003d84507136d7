/* What a training step is fed: samples made of records (picture, texts, mask), in an order, by worker threads ahead of the step.
 *
 *     fs_samples_open_conversations / _segm / _domains   the records of one recipe
 *     fs_samples_check                                   what can be known of them before the first step
 *     fs_order_...                                       in which order this process takes them in one pass
 *     fs_loader_open, _next, _position, _close           the samples of that order, decoded and preprocessed ahead */
#ifndef FS_TRAIN_DATA_H
#define FS_TRAIN_DATA_H

#include "data/tree.h"
#include "image/image.h"
#include "text/text.h"

/* What happens to a record that cannot be used. SKIP: it is left out (or, in a pass that has begun, replaced by the next one in the order), with a
 * warning. */
typedef enum fs_bad_record { FS_BAD_FATAL = 0, FS_BAD_SKIP = 1 } fs_bad_record;
const char *fs_bad_record_name(fs_bad_record b); /* "fatal", "skip" */
bool fs_bad_record_from_name(const char *name, fs_bad_record *out);

/* One record, decoded and preprocessed. Everything is owned; what a recipe has no use for is NULL or 0. */
typedef struct fs_sample {
    int64_t index;        /* what it was asked for by: its place in fs_samples, as `name` and `length` take it */
    int64_t record;       /* its number, from 0, in the JSON file or the list of pictures, as messages have it */
    fs_ids ids;           /* rendered conversation; FS_IMAGE_TOKEN where the picture goes */
    int32_t *labels;      /* [ids.count], FS_IGNORE (-100) where there is no loss: what position i itself should be, not yet shifted */
    uint8_t *times;       /* [ids.count], how often a label counts; NULL: each once */
    float *clip;          /* [3, clip_size, clip_size]; NULL: a text without picture */
    float *sam;           /* [3, sam_size, sam_size] (MFLM) */
    int64_t sam_h, sam_w; /* the resized picture's size within it */
    uint8_t *mask;        /* [height, width], 0 or 1 (MFLM) */
    int64_t height, width;
    uint8_t *clip_mask;   /* [clip_size, clip_size], 0 or 1: the mask as `clip` shows the picture; only if asked for */
    float *dtg;           /* [3, 224, 224] (DTG) */
    int32_t domain;       /* 0..2 (DTG), -1: none */
    char *warning;        /* what is doubtful about it, one line with the record's name; NULL: nothing. The loader logs it once a record */
} fs_sample;
void fs_sample_free(fs_sample *s); /* what is in it; leaves it zeroed */

/* Where samples come from. load is called by several threads at once and must give the same sample for the same (index, draw); draw numbers
 * the times a record is used (epoch), for augmentation and for questions drawn at random. index: 0 .. count-1. */
typedef struct fs_samples fs_samples;
struct fs_samples {
    int64_t count;
    bool pairs;      /* records 2 k and 2 k + 1 belong beside each other in an order; count is even */
    uint8_t *told;   /* the loader's: what was said of a record is not said again in the next pass */
    int64_t skipped; /* records that loaders could not load and passed over so far, each counted once */
    fs_status (*load)(fs_samples *s, int64_t index, uint64_t draw, fs_sample *out, fs_error *err);
    int64_t (*length)(fs_samples *s, int64_t index); /* for batching by length (spec 6.5): words, at least 1, negative without a picture; NULL: all alike */
    const char *(*name)(fs_samples *s, int64_t index); /* of the record's picture, for messages and validation files; "" without one */
    /* What can be known without decoding. Doubts that are no error are added to *warning (NULL-terminated text, may stay empty). */
    fs_status (*check)(fs_samples *s, int64_t index, fs_buffer *warning, fs_error *err);
    void (*drop)(fs_samples *s, const uint8_t *bad); /* leaves out the records with bad[index] != 0; count and indices change */
    void (*close)(fs_samples *s);
};
void fs_samples_close(fs_samples *s); /* takes NULL */
/* A quick look at every record: do the files exist, are their headers readable, do picture and mask have one size, is [SEG] not cut off? FATAL:
 * the first bad record is the error. SKIP: bad records are reported through the log and dropped, *dropped (may be NULL) says how many; an error
 * if none is left. Shows progress and heeds cancel. */
fs_status fs_samples_check(fs_samples *s, fs_bad_record bad, const fs_callbacks *cb, int64_t *dropped, fs_error *err);
/* The random numbers of one use of one record. stream keeps purposes apart. */
fs_rng fs_sample_rng(uint64_t seed, uint32_t stream, int64_t index, uint64_t draw);

/* ---- DTE-FDM: conversations (spec 6.3, 6.4) ------------------------------------------------------------------------- */

typedef struct fs_conversation_options {
    const fs_tokenizer *tokenizer;  /* of rules 4.37; used, not owned: must live as long as the samples */
    fs_prompt_system system;        /* default USER: what upstream trains with */
    bool im_start_end;              /* mm_use_im_start_end: <im_start><image><im_end> for the picture; default false */
    bool clip_pad;                  /* image_aspect_ratio "pad" (spec 3.4), else the picture's middle (3.5); default true */
    int64_t clip_size;              /* default 336 */
    int focus;                      /* forged texts: the words of verdict, place and size count so often, all others once, 1..255; default 1 */
    bool clip_mask;                 /* forged pictures: with their masks as CLIP sees them; default false */
    int64_t max_length;             /* ids, the picture counted once; longer ones are cut; default 4096. The model cuts again after inserting it */
    fs_bad_record bad;              /* records of the file that are malformed */
    const fs_callbacks *callbacks;  /* for what is skipped while opening; may be NULL */
} fs_conversation_options;
fs_conversation_options fs_conversation_options_defaults(void);
/* json: LLaVA's form, as MMTD-Set-34k.json. image_folder is put in front of its paths ("/" or NULL: they are absolute or below the root). */
fs_status fs_samples_open_conversations(const char *json, const char *image_folder, const fs_conversation_options *opt, fs_samples **out, fs_error *err);

/* ---- MFLM: pictures with masks (spec 7.2, 7.3) ----------------------------------------------------------------------- */

typedef struct fs_segm_options {
    const fs_tokenizer *tokenizer;  /* of rules 4.28, with [SEG]; used, not owned: must live as long as the samples */
    fs_data_texts texts;            /* which of the four files; NONE: questions that do without. Default TRAIN_OUTPUT, upstream's */
    bool train;                     /* long ones are cut, as in upstream's training; default true */
    int64_t max_length;             /* default 1536; ids are cut to max_length - (image_tokens - 1) */
    int64_t image_tokens;           /* rows the picture becomes; default 576 */
    int64_t clip_size, sam_size;    /* default 336, 1024 */
    int question, answer;           /* which of upstream's; default -1: drawn from (seed, record, draw) */
    double text_dropout;            /* how often a text is replaced by one that says "tampered" and no more, 0..1 (docs/training.md); default 0 */
    uint64_t seed;
    fs_bad_record bad;              /* pictures without mask, masks without picture, sets without masks */
    const fs_callbacks *callbacks;  /* for what is doubtful while opening; may be NULL */
} fs_segm_options;
fs_segm_options fs_segm_options_defaults(void);
/* sets: "ps|CASIA2,FR" below root, as upstream names them, several types joined by ';'. */
fs_status fs_samples_open_segm(const char *root, const char *sets, const fs_segm_options *opt, fs_samples **out, fs_error *err);

/* ---- DTG: pictures by folder (spec 8) ---------------------------------------------------------------------------------- */

/* What is done to a picture before it is trained on; probabilities 0..1. */
typedef struct fs_augment {
    double crop_min, crop_max;     /* share of the picture's area that is kept; default 0.25 to 1, sides 3:4 to 4:3 */
    double flip;                   /* default 0.5 */
    double resize, resize_min;     /* default 0.3: made smaller, by a factor of resize_min (0.5) to 1 */
    double jpeg;                   /* default 0.5: written as JPEG and read again */
    int jpeg_min, jpeg_max;        /* quality; default 50 to 95 */
} fs_augment;
fs_augment fs_augment_defaults(void);
typedef struct fs_domain_options {
    bool train;                    /* augmented; else prepared as in inference (spec 3.3). Default true */
    fs_augment augment;
    uint64_t seed;
    fs_bad_record bad;             /* pictures whose folders name no domain */
    const fs_callbacks *callbacks;
} fs_domain_options;
fs_domain_options fs_domain_options_defaults(void);
/* Every picture below root, however deep; its domain is that of the nearest folder whose name says one (aigc, deepfake, photoshop, ps...). Folders
 * of masks (mask, masks, gt) are passed over. */
fs_status fs_samples_open_domains(const char *root, const fs_domain_options *opt, fs_samples **out, fs_error *err);
/* One augmented picture, [3, 224, 224]: random part, made smaller, JPEG, resized, mirrored; a function of the rng alone. */
fs_status fs_augment_picture(const fs_image *im, const fs_augment *a, fs_rng *rng, float **out, fs_error *err);

/* ---- forged while training (docs/forge.md) ----------------------------------------------------------------------------- */

/* Pictures made as they are asked for: another one for every (index, draw), the same for the same. Photos are divided by content into those of
 * training, validation and test (a tenth each of the latter), as `dataset forge` divides them, so that a photo is never in two. */
typedef struct fs_forged_options {
    const char *photos;            /* a folder or a picture, as fs_forge_open's */
    fs_forge_options forge;        /* seed, sizes, types, shares; count, format and the authentic share are not used */
    fs_forge_split split;          /* default TRAIN */
    int64_t count;                 /* pictures in a pass; default 10000 */
} fs_forged_options;
fs_forged_options fs_forged_options_defaults(void);
/* The three recipes' samples: both classes with the question of inference and the answer; tampered pictures with masks; both classes by domain. */
fs_status fs_samples_forge_conversations(const fs_forged_options *f, const fs_conversation_options *opt, fs_samples **out, fs_error *err);
fs_status fs_samples_forge_segm(const fs_forged_options *f, const fs_segm_options *opt, fs_samples **out, fs_error *err);
fs_status fs_samples_forge_domains(const fs_forged_options *f, const fs_domain_options *opt, fs_samples **out, fs_error *err);

/* ---- tokens and labels, by themselves (spec 6.4, 7.3) --------------------------------------------------------------- */

typedef struct fs_label_rule {
    bool image;          /* text is cut at <image> (4.3) */
    int64_t max_length;  /* the tokenizer's model_max_length */
    int64_t cut;         /* ids kept at most */
} fs_label_rule;
/* rendered: as fs_prompt_conversation gives it. *mismatch: the rounds do not add up to the ids, so that every label is FS_IGNORE, as upstream. */
fs_status fs_tokens_and_labels(const fs_tokenizer *t, const char *rendered, const fs_label_rule *rule, fs_ids *ids, int32_t **labels,
                               bool *mismatch, fs_error *err);

/* ---- order ---------------------------------------------------------------------------------------------------------- */

/* All functions write indices 0 .. n-1. Permutations are our own (Fisher-Yates on xoshiro256**): torch.randperm's numbers are not repeated
 * here, what is made of them is. */
typedef struct fs_permuter {
    void (*permute)(void *user, int64_t n, int64_t *out); /* writes a permutation of 0..n-1 */
    void *user;
} fs_permuter;
/* A permuter whose every call is a function of (seed, pass, how often it was called). state is the caller's. */
typedef struct fs_permuter_state { uint64_t seed, pass, calls; } fs_permuter_state;
fs_permuter fs_permuter_seeded(fs_permuter_state *state, uint64_t seed, uint64_t pass);
void fs_order_shuffled(uint64_t seed, uint64_t pass, int64_t n, int64_t *out);
/* Records 2 k and 2 k + 1 beside each other, the pairs permuted. n is even. */
void fs_order_pairs(int64_t n, const fs_permuter *p, int64_t *out);
/* PyTorch's DistributedSampler (upstream MFLM): a permutation, or 0..n-1 for permuter NULL (validation), completed by its own beginning to a
 * multiple of world; process `rank` takes every world-th. With the same permuter state in each pass the order is the same in each (upstream);
 * with the pass's number in it, it is fresh. *out: malloc'ed [*n_out]. */
fs_status fs_order_distributed(int64_t n, int64_t world, int64_t rank, const fs_permuter *p, int64_t **out, int64_t *n_out, fs_error *err);
/* LLaVA's batching by length (spec 6.5): lengths as fs_samples.length gives them, out[n]: for all processes together, to be divided by
 * fs_order_divide. */
fs_status fs_order_by_length(const int64_t *lengths, int64_t n, int64_t batch, int64_t world, const fs_permuter *p, int64_t *out, fs_error *err);
/* Runs of `batch` indices are batches; process `rank` takes batches rank, rank + world, ... The last ones are completed by repeating from the
 * start, so that all have as many; with one process the last batch stays as short as it is. *out: malloc'ed [*n_out]. */
fs_status fs_order_divide(const int64_t *order, int64_t n, int64_t batch, int64_t world, int64_t rank, int64_t **out, int64_t *n_out, fs_error *err);

/* ---- loader --------------------------------------------------------------------------------------------------------- */

typedef struct fs_loader_options {
    int workers;            /* threads; 0: samples are made when asked for. Default 4 */
    int64_t ahead;          /* samples in memory at most, those being made included; at least 1. Default 16 */
    int64_t first;          /* position in the order to begin with (after a resume). Default 0 */
    uint64_t draw;          /* the number of this pass. Default 0 */
    fs_bad_record bad;      /* SKIP: a record that cannot be loaded is replaced by the next of the order that can, so that batches and processes stay
                             * in step and a resumed run sees the same samples. Default FATAL */
    bool leave_out;         /* with SKIP: it is not replaced, the next sample is simply the next (validation). Default false */
    const fs_callbacks *callbacks; /* log (from the thread that calls _next) and cancel; may be NULL, else must outlive the loader */
} fs_loader_options;
fs_loader_options fs_loader_options_defaults(void);
typedef struct fs_loader fs_loader;
/* order[n] is copied, n may be 0; samples must outlive the loader. */
fs_status fs_loader_open(fs_samples *samples, const int64_t *order, int64_t n, const fs_loader_options *opt, fs_loader **out, fs_error *err);
/* The next sample; the caller frees what is in it. *have: false at the end of the order. FS_E_CANCELLED when cancel says stop. After an error
 * only close. */
fs_status fs_loader_next(fs_loader *l, fs_sample *out, bool *have, fs_error *err);
int64_t fs_loader_position(const fs_loader *l); /* samples handed out, `first` included: where to go on after a resume */
void fs_loader_close(fs_loader *l);             /* at any moment: waits for the samples in the making and frees them; takes NULL */

#endif
